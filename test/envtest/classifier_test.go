package envtest

import (
	"context"
	"encoding/json"
	"slices"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/controllers/desired"
	"github.com/transformersquared/operator/runtime/contract"
)

// sums is a data set that world.dataset holds.
func sums() *v1alpha1.Dataset {
	return &v1alpha1.Dataset{ConfigMap: &v1alpha1.ConfigMapKeyRef{Name: "sums", Key: "train.jsonl"}, Format: v1alpha1.FormatGSM8K}
}

// dispatcher is an ExpertVector that tells the experts math and code apart.
func (w world) dispatcher(name string) *v1alpha1.ExpertVector {
	e := w.expert(name)
	e.Spec.Role, e.Spec.Skill, e.Spec.Description = v1alpha1.RoleDispatcher, "dispatching", ""
	e.Spec.Training = &v1alpha1.TrainingSpec{
		Objective: v1alpha1.Objective{
			Type: v1alpha1.ObjectiveNextToken, NextToken: &v1alpha1.NextTokenObjective{Reward: v1alpha1.RewardExactMatch},
		},
		Dataset: v1alpha1.TrainingDataset{Skills: &v1alpha1.SkillsDataset{Sets: []v1alpha1.SkillDataset{
			{Skill: "math", Description: "all of math", Dataset: sums()}, {Skill: "code", Description: "all of code", Dataset: sums()},
		}}},
	}
	return e
}

// classifiedBy runs pass 1 with an ExpertVector of this name.
func classifiedBy(name string) v1alpha1.Strategy {
	return v1alpha1.Strategy{Type: v1alpha1.StrategyClassifier, Classifier: &v1alpha1.ClassifierStrategy{
		ExpertRef: &v1alpha1.LocalRef{Name: name},
	}}
}

// training runs pass 1 with a classifier that the policy trains.
func training() v1alpha1.Strategy {
	return v1alpha1.Strategy{Type: v1alpha1.StrategyClassifier, Classifier: &v1alpha1.ClassifierStrategy{
		Train: &v1alpha1.ClassifierTraining{},
	}}
}

// classifierOf is the ExpertVector that a policy of the experts math and code makes.
func (w world) classifierOf(policy *v1alpha1.AdaptivePolicy) (*v1alpha1.ExpertVector, error) {
	config, _, err := desired.Classifier(policy, []*v1alpha1.ExpertVector{w.expert("math"), w.expert("code")})
	if err != nil {
		return nil, err
	}
	e := w.expert("assistant-classifier")
	text, err := json.Marshal(config.Spec)
	if err != nil {
		return nil, err
	}
	e.Spec = v1alpha1.ExpertVectorSpec{}
	return e, json.Unmarshal(text, &e.Spec)
}

// methodRows are made one after the other of one ExpertVector, which begins as
// world.expert makes it.
var methodRows = []expertRow{
	{"training.method.lora.rank", newRun, func(e *v1alpha1.ExpertVector) {
		e.Spec.Training.Method = v1alpha1.Method{Type: v1alpha1.MethodLoRA, LoRA: &v1alpha1.LowRankMethod{Rank: 4}}
	}},
	{"training.method.lora.alpha", newRun, func(e *v1alpha1.ExpertVector) { e.Spec.Training.Method.LoRA.Alpha = "4" }},
	{"training.method.dora.rank", newRun, func(e *v1alpha1.ExpertVector) {
		e.Spec.Training.Method = v1alpha1.Method{Type: v1alpha1.MethodDoRA, DoRA: &v1alpha1.LowRankMethod{Rank: 4}}
	}},
	{"training.method.dora.alpha", newRun, func(e *v1alpha1.ExpertVector) { e.Spec.Training.Method.DoRA.Alpha = "4" }},
	{"training.objective.reinforce.groupSize", newRun, func(e *v1alpha1.ExpertVector) {
		r := e.Spec.Training.Objective.Reinforce
		r.Baseline, r.Rollout, r.GroupSize = v1alpha1.BaselineGroup, &v1alpha1.Rollout{Type: v1alpha1.RolloutSample}, 4
	}},
	{"training.objective.nextToken.reward", newRun, func(e *v1alpha1.ExpertVector) {
		e.Spec.Training.Objective = v1alpha1.Objective{
			Type: v1alpha1.ObjectiveNextToken, NextToken: &v1alpha1.NextTokenObjective{Reward: v1alpha1.RewardNumeric},
		}
	}},
	{"training.objective.nextToken.maxNewTokens", newRun, func(e *v1alpha1.ExpertVector) { e.Spec.Training.Objective.NextToken.MaxNewTokens = 16 }},
}

// dispatcherRows are made one after the other of one ExpertVector, which begins as
// world.dispatcher makes it.
var dispatcherRows = slices.Concat([]expertRow{
	{"role", nothing, func(e *v1alpha1.ExpertVector) { e.Spec.Role = v1alpha1.RoleDispatcher }},
	{"training.dataset.skills.template", newRun, inSkills(func(s *v1alpha1.SkillsDataset) { s.Template = "{skills} {prompt}" })},
	{"training.dataset.skills.requestTokens", newRun, inSkills(func(s *v1alpha1.SkillsDataset) { s.RequestTokens = new(int32(64)) })},
	{"training.dataset.skills.sets[].skill", newRun, inSkills(func(s *v1alpha1.SkillsDataset) { s.Sets[0].Skill = "arithmetic" })},
	{"training.dataset.skills.sets[].description", newRun, inSkills(func(s *v1alpha1.SkillsDataset) { s.Sets[0].Description = "sums" })},
}, datasetRows("training.dataset.skills.sets[].dataset", func(e *v1alpha1.ExpertVector) *v1alpha1.Dataset {
	return e.Spec.Training.Dataset.Skills.Sets[0].Dataset
}))

func inSkills(change func(*v1alpha1.SkillsDataset)) func(*v1alpha1.ExpertVector) {
	return func(e *v1alpha1.ExpertVector) { change(e.Spec.Training.Dataset.Skills) }
}

// classifierRows are made one after the other of one policy of the experts math and
// code that trains its classifier: a new run is another training of that.
var classifierRows = slices.Concat([]policyRow{
	{"strategy.classifier.train.objective", newRun, inTraining(func(c *v1alpha1.ClassifierTraining) { c.Objective = v1alpha1.ClassifierReinforce })},
	{"strategy.classifier.train.method.svf.parameterization", newRun, inTraining(func(c *v1alpha1.ClassifierTraining) {
		c.Method = &v1alpha1.Method{Type: v1alpha1.MethodSVF, SVF: &v1alpha1.SVFMethod{Parameterization: v1alpha1.ParameterizationDirect}}
	})},
	{"strategy.classifier.train.method.activation", newRun, inTraining(func(c *v1alpha1.ClassifierTraining) {
		c.Method.Activation = v1alpha1.ActivationAnswer
	})},
	{"strategy.classifier.train.method.type", newRun, inTraining(func(c *v1alpha1.ClassifierTraining) {
		c.Method = &v1alpha1.Method{Type: v1alpha1.MethodLoRA, LoRA: &v1alpha1.LowRankMethod{}}
	})},
	{"strategy.classifier.train.method.lora.rank", newRun, inTraining(func(c *v1alpha1.ClassifierTraining) { c.Method.LoRA.Rank = 4 })},
	{"strategy.classifier.train.method.lora.alpha", newRun, inTraining(func(c *v1alpha1.ClassifierTraining) { c.Method.LoRA.Alpha = "4" })},
	{"strategy.classifier.train.method.dora.rank", newRun, inTraining(func(c *v1alpha1.ClassifierTraining) {
		c.Method = &v1alpha1.Method{Type: v1alpha1.MethodDoRA, DoRA: &v1alpha1.LowRankMethod{Rank: 4}}
	})},
	{"strategy.classifier.train.method.dora.alpha", newRun, inTraining(func(c *v1alpha1.ClassifierTraining) { c.Method.DoRA.Alpha = "4" })},
	{"strategy.classifier.train.optimizer.learningRate", newRun, inTraining(func(c *v1alpha1.ClassifierTraining) {
		c.Optimizer = &v1alpha1.Optimizer{LearningRate: "0.1"}
	})},
	{"strategy.classifier.train.optimizer.maxGradNorm", newRun, inTraining(func(c *v1alpha1.ClassifierTraining) { c.Optimizer.MaxGradNorm = "1" })},
	{"strategy.classifier.train.schedule.iterations", newRun, inTraining(func(c *v1alpha1.ClassifierTraining) {
		c.Schedule = &v1alpha1.Schedule{Iterations: 20}
	})},
	{"strategy.classifier.train.schedule.batchSize", newRun, inTraining(func(c *v1alpha1.ClassifierTraining) { c.Schedule.BatchSize = 8 })},
	{"strategy.classifier.train.schedule.validationInterval", newRun, inTraining(func(c *v1alpha1.ClassifierTraining) { c.Schedule.ValidationInterval = 5 })},
	{"strategy.classifier.train.schedule.checkpointInterval", newRun, inTraining(func(c *v1alpha1.ClassifierTraining) { c.Schedule.CheckpointInterval = 5 })},
	{"strategy.classifier.train.schedule.patience", newRun, inTraining(func(c *v1alpha1.ClassifierTraining) { c.Schedule.Patience = new(int32(2)) })},
	{"strategy.classifier.train.seed", newRun, inTraining(func(c *v1alpha1.ClassifierTraining) { c.Seed = new(int64(7)) })},
	{"strategy.classifier.train.others.format", newRun, inTraining(func(c *v1alpha1.ClassifierTraining) { c.Others = sums() })},
}, datasetRows("strategy.classifier.train.others", func(p *v1alpha1.AdaptivePolicy) *v1alpha1.Dataset {
	return p.Spec.Strategy.Classifier.Train.Others
}))

func inTraining(change func(*v1alpha1.ClassifierTraining)) func(*v1alpha1.AdaptivePolicy) {
	return func(p *v1alpha1.AdaptivePolicy) { change(p.Spec.Strategy.Classifier.Train) }
}

var _ = DescribeTable("The schema of what dispatches", func(ctx SpecContext, object func(w world) client.Object, want string) {
	err := k8s.Create(ctx, object(newWorld(ctx)))
	if want == accepted {
		Expect(err).NotTo(HaveOccurred())
		return
	}
	Expect(err).To(MatchError(ContainSubstring(want)))
},
	Entry("takes a dispatcher", dispatching(func(*v1alpha1.ExpertVector) {}), accepted),
	Entry("takes a skill that is shown alone, and others", dispatching(inSkills(func(s *v1alpha1.SkillsDataset) {
		s.Sets = append(s.Sets, v1alpha1.SkillDataset{Skill: "law"}, v1alpha1.SkillDataset{Skill: "others", Dataset: sums()})
	})), accepted),
	Entry("takes a dispatcher that is imported", func(w world) client.Object {
		e := w.imported("dispatch")
		e.Spec.Role = v1alpha1.RoleDispatcher
		return e
	}, accepted),
	Entry("knows roles", dispatching(func(e *v1alpha1.ExpertVector) { e.Spec.Role = "Judge" }), "Unsupported value"),
	Entry("wants the role", dispatching(func(e *v1alpha1.ExpertVector) { e.Spec.Role = "" }), "has role Dispatcher"),
	Entry("wants a reward that can judge", dispatching(func(e *v1alpha1.ExpertVector) {
		e.Spec.Training.Objective.NextToken.Reward = v1alpha1.RewardNumeric
	}), "only reward ExactMatch can judge"),
	Entry("wants two skills to tell apart", dispatching(inSkills(func(s *v1alpha1.SkillsDataset) { s.Sets[1].Dataset = nil })), "at least two of sets need a dataset"),
	Entry("wants a skill once", dispatching(inSkills(func(s *v1alpha1.SkillsDataset) { s.Sets[1].Skill = "math" })), "Duplicate value"),
	Entry("keeps base for the base", dispatching(inSkills(func(s *v1alpha1.SkillsDataset) { s.Sets[1].Skill = "base" })), "cannot name a skill"),
	Entry("wants the prompt in the template", dispatching(inSkills(func(s *v1alpha1.SkillsDataset) { s.Template = "{skills}" })), "must contain {skills} and {prompt}"),
	Entry("wants no train beside skills", dispatching(func(e *v1alpha1.ExpertVector) { e.Spec.Training.Dataset.Train = *sums() }), "or skills alone"),
	Entry("wants train and validation, or skills", dispatching(func(e *v1alpha1.ExpertVector) {
		e.Spec.Training.Dataset = v1alpha1.TrainingDataset{Train: *sums()}
	}), "give train and validation"),
	Entry("takes a named classifier", classifying(func(s *v1alpha1.Strategy) { *s = classifiedBy("dispatch") }), accepted),
	Entry("takes one to train, with bounds and a fallback", classifying(func(s *v1alpha1.Strategy) {
		s.Prompt = &v1alpha1.PromptStrategy{Template: "{skills} {prompt}", MinProbability: "0.5", TopK: 2}
		s.Fallback = &v1alpha1.Fallback{Type: v1alpha1.FallbackExpert, Name: "code"}
		s.Classifier.Train.Others = sums()
	}), accepted),
	Entry("wants a classifier", classifying(func(s *v1alpha1.Strategy) { s.Classifier = nil }), "needs classifier, with expertRef or train"),
	Entry("wants the strategy of a classifier", classifying(func(s *v1alpha1.Strategy) { s.Type = v1alpha1.StrategyPrompt }), "classifier is for strategy Classifier"),
	Entry("wants either", classifying(func(s *v1alpha1.Strategy) { s.Classifier.ExpertRef = &v1alpha1.LocalRef{Name: "dispatch"} }), "exactly one of"),
	Entry("wants one of both", classifying(func(s *v1alpha1.Strategy) { s.Classifier.Train = nil }), "exactly one of"),
	Entry("knows the objectives of a classifier", classifying(func(s *v1alpha1.Strategy) { s.Classifier.Train.Objective = "Evolution" }), "Unsupported value"),
)

func dispatching(change func(*v1alpha1.ExpertVector)) func(world) client.Object {
	return func(w world) client.Object {
		e := w.dispatcher("dispatch")
		change(e)
		return e
	}
}

func classifying(change func(*v1alpha1.Strategy)) func(world) client.Object {
	return func(w world) client.Object {
		p := w.policy("assistant", "math", "code")
		p.Spec.Strategy = training()
		change(&p.Spec.Strategy)
		return p
	}
}

var _ = Describe("Strategy Classifier", func() {
	const own = "assistant-classifier"
	var w world
	var policy *v1alpha1.AdaptivePolicy
	BeforeEach(func(ctx SpecContext) {
		w = newWorld(ctx)
		policy = w.policy("assistant", "math", "code")
		w.dataset(ctx, "{}")
		w.decompose(ctx, "tiny")
		w.train(ctx, w.expert("math"), "1")
		w.train(ctx, w.expert("code"), "2")
	})
	set := func(ctx context.Context) contract.ExpertSet { return w.expertSet(ctx, "assistant") }
	// finish ends the training of a dispatcher as the runtime would.
	finish := func(ctx context.Context, name, z string) contract.TrainSpec {
		GinkgoHelper()
		job := w.openJob(ctx, v1alpha1.LabelExpert, name)
		var spec contract.TrainSpec
		for _, env := range job.Spec.Template.Spec.Containers[0].Env {
			if env.Name == contract.EnvSpec {
				Expect(json.Unmarshal([]byte(env.Value), &spec)).To(Succeed())
			}
		}
		result := trained(z, "a", "b")
		var err error
		result.Expert.Pass1Digest, err = spec.Train.Skills.Pass1.Digest()
		Expect(err).NotTo(HaveOccurred())
		w.finishTraining(ctx, name, result)
		return spec
	}
	condition := func(ctx context.Context) *metav1.Condition {
		GinkgoHelper()
		w.get(ctx, "assistant", policy)
		return meta.FindStatusCondition(policy.Status.Conditions, v1alpha1.ConditionClassifierCurrent)
	}

	It("trains a classifier for a policy's experts, and again when they change", func(ctx SpecContext) {
		policy.Spec.Strategy = training()
		Expect(k8s.Create(ctx, policy)).To(Succeed())
		w.roll(ctx, "assistant")
		w.becomes(ctx, policy, metav1.ConditionFalse, v1alpha1.ReasonClassifierNotReady)
		Expect(set(ctx)).To(And(HaveField("Strategy", contract.StrategyPrompt), HaveField("Classifier", BeNil())), "until there is one")
		var made v1alpha1.ExpertVector
		w.get(ctx, own, &made)
		Expect(metav1.IsControlledBy(&made, policy)).To(BeTrue())
		Expect(made.Spec.Role).To(Equal(v1alpha1.RoleDispatcher))

		spec := finish(ctx, own, "c")
		Expect(spec.Train.Skills.Pass1).To(Equal(set(ctx).Pass1()), "it learns what pass 1 asks")
		Expect(spec.Train.Skills.Sets).To(HaveExactElements(HaveField("Skill", "math"), HaveField("Skill", "code")))
		w.becomes(ctx, policy, metav1.ConditionTrue, v1alpha1.ReasonServing)
		Expect(set(ctx)).To(And(HaveField("Strategy", contract.StrategyClassifier),
			HaveField("Classifier", HaveValue(And(HaveField("Name", own), HaveField("Digest", digest("c"))))),
			HaveField("Experts", HaveLen(2))))
		Expect(condition(ctx).Status).To(Equal(metav1.ConditionTrue))
		Expect(policy.Status.Classifier).To(HaveValue(And(HaveField("Expert", own), HaveField("State", v1alpha1.ExpertServed),
			HaveField("Digest", v1alpha1.Digest(digest("c"))), HaveField("Stale", HaveValue(BeFalse())),
			HaveField("Score", v1alpha1.Score("0.7031")), HaveField("BaselineScore", v1alpha1.Score("0.4688")))))
		Expect(policy.Status.Classifier.TrainedFor).To(Equal(policy.Status.Classifier.Question))
		first := policy.Status.Classifier.TrainedFor

		By("training it again for another expert, and serving the one before meanwhile")
		w.train(ctx, w.expert("law"), "3")
		w.get(ctx, "assistant", policy)
		policy.Spec.Experts = append(policy.Spec.Experts, v1alpha1.PolicyExpert{Name: "law"})
		Expect(k8s.Update(ctx, policy)).To(Succeed())
		w.becomes(ctx, policy, metav1.ConditionFalse, v1alpha1.ReasonClassifierStale)
		Expect(condition(ctx)).To(HaveValue(And(HaveField("Status", metav1.ConditionFalse), HaveField("Reason", v1alpha1.ReasonClassifierStale))))
		Expect(policy.Status.Classifier).To(HaveValue(And(HaveField("State", v1alpha1.ExpertUpdating),
			HaveField("Digest", v1alpha1.Digest(digest("c"))), HaveField("TrainedFor", first), HaveField("Stale", HaveValue(BeTrue())))))
		Expect(set(ctx)).To(And(HaveField("Classifier.Digest", digest("c")), HaveField("Experts", HaveLen(3))))
		Expect(finish(ctx, own, "d").Train.Skills.Sets).To(HaveLen(3))
		w.becomes(ctx, policy, metav1.ConditionTrue, v1alpha1.ReasonServing)
		Expect(set(ctx).Classifier.Digest).To(Equal(digest("d")))
		Expect(condition(ctx).Status).To(Equal(metav1.ConditionTrue))
		Expect(policy.Status.Classifier.TrainedFor).NotTo(Equal(first))

		By("leaving alone what does not change it")
		w.get(ctx, own, &made)
		generation := made.Generation
		w.get(ctx, "assistant", policy)
		policy.Spec.Strategy.Fallback = &v1alpha1.Fallback{Type: v1alpha1.FallbackExpert, Name: "law"}
		Expect(k8s.Update(ctx, policy)).To(Succeed())
		w.becomes(ctx, policy, metav1.ConditionTrue, v1alpha1.ReasonServing)
		w.get(ctx, own, &made)
		Expect(made.Generation).To(Equal(generation))

		By("training it again with other prompts")
		var sums corev1.ConfigMap
		w.get(ctx, "sums", &sums)
		sums.Data["train.jsonl"] = "{}\n{}"
		Expect(k8s.Update(ctx, &sums)).To(Succeed())
		w.becomes(ctx, policy, metav1.ConditionFalse, v1alpha1.ReasonExpertsNotReady)
		Expect(set(ctx).Classifier.Digest).To(Equal(digest("d")))

		By("deleting it when nobody asks for it any more")
		w.get(ctx, "assistant", policy)
		policy.Spec.Strategy = v1alpha1.Strategy{Type: v1alpha1.StrategyFixed}
		Expect(k8s.Update(ctx, policy)).To(Succeed())
		Eventually(func() bool {
			err := k8s.Get(ctx, client.ObjectKeyFromObject(&made), &made)
			return apierrors.IsNotFound(err) || err == nil && !made.DeletionTimestamp.IsZero()
		}).Should(BeTrue())
		Eventually(func(g Gomega) {
			g.Expect(condition(ctx)).To(BeNil())
			g.Expect(policy.Status.Classifier).To(BeNil())
		}).Should(Succeed())
	})

	It("serves a classifier that is named, and tells when it is stale", func(ctx SpecContext) {
		policy.Spec.Strategy = classifiedBy("dispatch")
		Expect(k8s.Create(ctx, policy)).To(Succeed())
		w.roll(ctx, "assistant")
		w.becomes(ctx, policy, metav1.ConditionFalse, v1alpha1.ReasonClassifierNotReady)
		Expect(k8s.Create(ctx, w.dispatcher("dispatch"))).To(Succeed())
		finish(ctx, "dispatch", "c")
		w.becomes(ctx, policy, metav1.ConditionTrue, v1alpha1.ReasonServing)
		Expect(set(ctx).Classifier.Name).To(Equal("dispatch"))
		Expect(condition(ctx).Status).To(Equal(metav1.ConditionTrue))

		w.get(ctx, "assistant", policy)
		policy.Spec.Experts = policy.Spec.Experts[:1]
		Expect(k8s.Update(ctx, policy)).To(Succeed())
		message := w.becomes(ctx, policy, metav1.ConditionTrue, v1alpha1.ReasonServing).Message
		Expect(message).To(ContainSubstring("Its classifier dispatch was trained for other skills"))
		Expect(condition(ctx)).To(HaveValue(And(HaveField("Status", metav1.ConditionFalse), HaveField("Reason", v1alpha1.ReasonClassifierStale))))
		Expect(set(ctx).Classifier.Digest).To(Equal(digest("c")))
	})

	It("does not offer a dispatcher as a skill", func(ctx SpecContext) {
		dispatch := w.dispatcher("dispatch")
		dispatch.Labels = map[string]string{"team": "demo"}
		w.train(ctx, dispatch, "c")
		policy.Spec.ExpertSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"team": "demo"}}
		Expect(k8s.Create(ctx, policy)).To(Succeed())
		w.roll(ctx, "assistant")
		w.becomes(ctx, policy, metav1.ConditionTrue, v1alpha1.ReasonServing)
		Expect(set(ctx).Experts).To(HaveLen(2))
		Expect(policy.Status.ExpertSummary).To(Equal("2/2"))
	})
})
