package desired

import (
	"encoding/json"
	"fmt"

	"github.com/transformersquared/operator/api/v1alpha1"
	expertac "github.com/transformersquared/operator/api/v1alpha1/applyconfiguration/api/v1alpha1"
	"github.com/transformersquared/operator/runtime/contract"
)

// classifierSkill is the skill of the ExpertVectors that policies make.
const classifierSkill = "dispatching"

// TaughtSkills counts the answers that a policy's classifier can learn: the skills
// of which there are training prompts, and others if the policy has some.
func TaughtSkills(policy *v1alpha1.AdaptivePolicy, experts []*v1alpha1.ExpertVector) int {
	n := 0
	for _, e := range experts {
		if trainingPrompts(e) != nil {
			n++
		}
	}
	if c := policy.Spec.Strategy.Classifier; c != nil && c.Train != nil && c.Train.Others != nil {
		n++
	}
	return n
}

// trainingPrompts are what an expert was trained with; nil for one that was
// imported. What it was validated with, and so chosen by, stays out of it.
func trainingPrompts(e *v1alpha1.ExpertVector) *v1alpha1.Dataset {
	if e.Spec.Training == nil || e.Spec.Training.Dataset.Skills != nil {
		return nil
	}
	return &e.Spec.Training.Dataset.Train
}

// Classifier is the ExpertVector that tells the skills of a policy's experts apart,
// for spec.strategy.classifier.train. The experts are in the order in which pass 1
// shows them; untaught are the skills of those that have no training prompts.
func Classifier(policy *v1alpha1.AdaptivePolicy, experts []*v1alpha1.ExpertVector,
) (config *expertac.ExpertVectorApplyConfiguration, untaught []string, err error) {
	asked := policy.Spec.Strategy.Classifier.Train
	spec := v1alpha1.ExpertVectorSpec{
		BaseModelRef: policy.Spec.BaseModelRef, Skill: classifierSkill, Role: v1alpha1.RoleDispatcher,
		Description: fmt.Sprintf("chooses the expert for each request to AdaptivePolicy %s", policy.Name),
		Training: &v1alpha1.TrainingSpec{
			Objective: classifierObjective(asked.Objective),
			Optimizer: asked.Optimizer, Schedule: asked.Schedule, Seed: asked.Seed,
			Dataset: v1alpha1.TrainingDataset{Skills: &v1alpha1.SkillsDataset{}},
		},
	}
	if asked.Method != nil {
		spec.Training.Method = *asked.Method
	}
	skills := spec.Training.Dataset.Skills
	if prompt := policy.Spec.Strategy.Prompt; prompt != nil {
		skills.Template, skills.RequestTokens = prompt.Template, prompt.RequestTokens
	}
	for _, e := range experts {
		prompts := trainingPrompts(e)
		if prompts == nil {
			untaught = append(untaught, e.Spec.Skill)
		}
		skills.Sets = append(skills.Sets, v1alpha1.SkillDataset{
			Skill: e.Spec.Skill, Description: e.Spec.Description, Dataset: prompts,
		})
	}
	if asked.Others != nil {
		skills.Sets = append(skills.Sets, v1alpha1.SkillDataset{Skill: contract.OthersLabel, Dataset: asked.Others})
	}
	config = expertac.ExpertVector(policy.OwnClassifierName(), policy.Namespace).
		WithLabels(labels(v1alpha1.ComponentTrain, policy.Spec.BaseModelRef.Name, map[string]string{v1alpha1.LabelPolicy: policy.Name})).
		WithOwnerReferences(controlledBy("AdaptivePolicy", policy))
	// The members are those of users' objects, whose fields that are not set do not
	// appear in JSON, and so are not applied.
	text, err := json.Marshal(spec)
	if err == nil {
		config.Spec = &expertac.ExpertVectorSpecApplyConfiguration{}
		err = json.Unmarshal(text, config.Spec)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("configuring ExpertVector %s: %w", policy.OwnClassifierName(), err)
	}
	return config, untaught, nil
}

// classifierObjective is an objective whose reward is the right label. Labels that are
// drawn explore what the likeliest one alone does not, and a batch of nearly all wrong
// ones says nothing without their mean.
func classifierObjective(asked v1alpha1.ClassifierObjective) v1alpha1.Objective {
	if asked == v1alpha1.ClassifierReinforce {
		return v1alpha1.Objective{Type: v1alpha1.ObjectiveReinforce, Reinforce: &v1alpha1.ReinforceObjective{
			Reward: v1alpha1.RewardExactMatch, Baseline: v1alpha1.BaselineMean,
			Rollout: &v1alpha1.Rollout{Type: v1alpha1.RolloutSample},
		}}
	}
	return v1alpha1.Objective{Type: v1alpha1.ObjectiveNextToken, NextToken: &v1alpha1.NextTokenObjective{
		Reward: v1alpha1.RewardExactMatch,
	}}
}
