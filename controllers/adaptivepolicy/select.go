package adaptivepolicy

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/controllers/desired"
	"github.com/transformersquared/operator/controllers/index"
	"github.com/transformersquared/operator/controllers/status"
	"github.com/transformersquared/operator/runtime/contract"
)

// base finds the BaseModel and makes sure that there is something to serve.
func (r *Reconciler) base(ctx context.Context, policy *v1alpha1.AdaptivePolicy) (*v1alpha1.BaseModel, error) {
	base := &v1alpha1.BaseModel{}
	key := client.ObjectKey{Namespace: policy.Namespace, Name: policy.Spec.BaseModelRef.Name}
	err := r.Client.Get(ctx, key, base)
	if apierrors.IsNotFound(err) {
		return nil, status.Wait(v1alpha1.ReasonBaseNotFound, "BaseModel %s (spec.baseModelRef) is not there; make it", key.Name)
	}
	if err != nil {
		return nil, fmt.Errorf("reading BaseModel %s: %w", key.Name, err)
	}
	if base.Status.Artifact == nil || base.Status.Decomposition == nil {
		return nil, baseNotReady(base)
	}
	return base, nil
}

func baseNotReady(base *v1alpha1.BaseModel) error {
	return status.Wait(v1alpha1.ReasonBaseNotReady, "Waiting for BaseModel %s: %s", base.Name, status.Explain(base))
}

// experts are the ExpertVectors that a policy may want, by name: those that it names, of
// whatever base, which is for choose to say, its classifier, also one of before, and those that its selector
// matches. What else the namespace has is not read.
func (r *Reconciler) experts(ctx context.Context, policy *v1alpha1.AdaptivePolicy) (map[string]*v1alpha1.ExpertVector, error) {
	found := map[string]*v1alpha1.ExpertVector{}
	if asked := policy.Spec.ExpertSelector; asked != nil {
		selector, err := metav1.LabelSelectorAsSelector(asked)
		if err != nil {
			selector = labels.Nothing() // As index.Selects has it.
		}
		var list v1alpha1.ExpertVectorList
		if err := r.Client.List(ctx, &list, client.InNamespace(policy.Namespace), client.MatchingLabelsSelector{Selector: selector}); err != nil {
			return nil, fmt.Errorf("listing ExpertVectors: %w", err)
		}
		for i := range list.Items {
			found[list.Items[i].Name] = &list.Items[i]
		}
	}
	names := []string{policy.ClassifierName(), policy.OwnClassifierName()}
	for _, e := range policy.Spec.Experts {
		names = append(names, e.Name)
	}
	for _, name := range names {
		if name == "" || found[name] != nil {
			continue
		}
		expert := &v1alpha1.ExpertVector{}
		err := r.Client.Get(ctx, client.ObjectKey{Namespace: policy.Namespace, Name: name}, expert)
		switch {
		case err == nil:
			found[name] = expert
		case !apierrors.IsNotFound(err):
			return nil, fmt.Errorf("reading ExpertVector %s: %w", name, err)
		}
	}
	return found, nil
}

// ReasonTooManyExperts says that a policy's selector finds more experts than a pod
// serves.
const ReasonTooManyExperts = "TooManyExperts"

// candidate is an expert that the policy wants.
type candidate struct {
	name   string
	weight v1alpha1.Decimal
	expert *v1alpha1.ExpertVector // nil where there is none
	// named says that the policy names it, and does not only select it.
	named bool
	state v1alpha1.ExpertState
	// from is the BaseModel that it was made for, where that is another than the
	// policy's and it is transferred.
	from string
	// pinned is the digest of the artifact that a search has weighed; empty where the
	// present one is served.
	pinned v1alpha1.Digest
	served bool
	// held says that the rollout has yet to let it serve. offered is the artifact that pods
	// are offered meanwhile, if any.
	held    bool
	offered v1alpha1.Digest
}

// choice is what a policy is to serve.
type choice struct {
	candidates []candidate
	set        contract.ExpertSet
	digest     string
	// wanted are the experts that pass 1 is to choose from once all of them are there,
	// and question is what it then asks: what a classifier has to be trained for.
	wanted   []*v1alpha1.ExpertVector
	question string
	// classifier is what pass 1 is to run with; nil for the base.
	classifier *classifier
	// untaught are the skills of those that the policy's probe does not know, and probed
	// says that the probe is the one that the policy asks for.
	untaught []string
	probed   bool
	// learning is what there is to wait for until the probe has learnt from an evaluation; nil
	// for nothing. The set without that is whole: it does not wait.
	learning error
	// fits says that every wanted expert that has an artifact fits the base.
	fits bool
	// problem is what keeps the policy from being Ready, though it serves what
	// there is; nil where nothing does.
	problem error
	// stable is the set that a policy whose gate evaluates sets keeps in its ConfigMap.
	stable *desired.StableSet
	// trial is the stage of one whose set is offered beside the stable one; nil for none.
	trial *stage
}

// choose decides which experts a policy serves: pure, in the order in which the
// user names them, then those that the selector adds, by name.
func choose(policy *v1alpha1.AdaptivePolicy, base *v1alpha1.BaseModel, found map[string]*v1alpha1.ExpertVector) choice {
	chosen := choice{candidates: candidates(policy, found), fits: true}
	var problems []error
	if more := len(chosen.candidates) - contract.MaxExperts; more > 0 {
		chosen.candidates = chosen.candidates[:contract.MaxExperts]
		problems = append(problems, status.Stall(ReasonTooManyExperts,
			"spec.experts and spec.expertSelector find %d experts, of which the first %d are served; select fewer",
			contract.MaxExperts+more, contract.MaxExperts))
	}
	chosen.set = contract.ExpertSet{Strategy: string(policy.Spec.Strategy.Type), Experts: []contract.ExpertRef{}}
	if chosen.set.Strategy == "" {
		chosen.set.Strategy = contract.StrategyPrompt
	}
	if prompt := policy.Spec.Strategy.Prompt; prompt != nil {
		chosen.set.PromptTemplate = prompt.Template
		chosen.set.RequestTokens = int(ptr.Deref(prompt.RequestTokens, 0))
		chosen.set.MinProbability, chosen.set.TopK = number(prompt.MinProbability), topK(prompt.TopK)
	}
	if probe := policy.Spec.Strategy.Probe; probe != nil {
		chosen.set.MinProbability, chosen.set.TopK = number(probe.MinProbability), topK(probe.TopK)
	}
	chosen.set.Conversation = conversation(policy.Spec.Strategy.Conversation)

	skills, awaited := map[string]string{}, map[string]bool{}
	weights := weighed(policy, base)
	for i := range chosen.candidates {
		c := &chosen.candidates[i]
		problem := judge(c, policy, base)
		if c.state == v1alpha1.ExpertMismatch {
			chosen.fits = false
		}
		if wants(c, policy) && !awaited[c.expert.Spec.Skill] {
			awaited[c.expert.Spec.Skill] = true
			chosen.wanted = append(chosen.wanted, c.expert)
		}
		if c.served {
			problem = status.First(problem, sameActivation(&chosen, c))
		}
		if c.served {
			if other, taken := skills[c.expert.Spec.Skill]; taken && contract.ChoosesBySkill(chosen.set.Strategy) {
				c.served, c.state = false, v1alpha1.ExpertMismatch
				problem = status.Stall(v1alpha1.ReasonDuplicateSkill,
					"ExpertVectors %s and %s both have skill %q, so that pass 1 cannot tell them apart; take one out of the policy or give it another skill",
					other, c.name, c.expert.Spec.Skill)
			} else {
				skills[c.expert.Spec.Skill] = c.name
				ref := reference(c)
				weigh(c, &ref, weights[c.name])
				chosen.set.Experts = append(chosen.set.Experts, ref)
			}
		}
		problems = append(problems, problem)
	}
	problems = append(problems, setFallback(&chosen, policy))
	problems = append(problems, classify(&chosen, policy, base, found))
	useProbe(&chosen, policy, base)
	chosen.problem = status.First(problems...)
	digest, err := chosen.set.Digest()
	if err != nil {
		chosen.problem = status.First(err)
	}
	chosen.digest = digest
	return chosen
}

// topK is what the runtime is told of it: nothing of 1, which is what it does without it.
func topK(k int32) int {
	if k == 1 {
		return 0
	}
	return int(k)
}

// conversation is what the runtime is told of one; nil is what it does without.
func conversation(c *v1alpha1.Conversation) *contract.Conversation {
	if c == nil || c.Type == v1alpha1.ConversationEachTurn {
		return nil
	}
	told := &contract.Conversation{Mode: string(c.Type)}
	if c.Type == v1alpha1.ConversationSwitch {
		told.Margin = defaultMargin
		if c.Switch != nil && c.Switch.Margin != "" {
			told.Margin = number(c.Switch.Margin)
		}
	}
	return told
}

// defaultMargin is that of switch.margin.
const defaultMargin = 0.2

// sameActivation takes an expert out that acts on something else than those before it.
func sameActivation(chosen *choice, c *candidate) error {
	acts := func(e *v1alpha1.ExpertVector) v1alpha1.Activation {
		return cmp.Or(e.Status.Artifact.Activation, v1alpha1.ActivationPrompt)
	}
	for _, other := range chosen.candidates {
		if other.name == c.name {
			return nil
		}
		if other.served && acts(other.expert) != acts(c.expert) {
			c.served, c.state = false, v1alpha1.ExpertMismatch
			return status.Stall(v1alpha1.ReasonMixedActivations,
				"ExpertVector %s acts on %s and %s on %s (training.method.activation): a policy's experts all act on the same; take one of the two out",
				other.name, acts(other.expert), c.name, acts(c.expert))
		}
	}
	return nil
}

// wants reports whether a policy is to serve an expert sooner or later.
func wants(c *candidate, policy *v1alpha1.AdaptivePolicy) bool {
	return c.expert != nil && c.state != v1alpha1.ExpertBelowBaseline && c.expert.Spec.Role != v1alpha1.RoleDispatcher &&
		(c.from != "" || c.expert.Spec.BaseModelRef.Name == policy.Spec.BaseModelRef.Name)
}

func candidates(policy *v1alpha1.AdaptivePolicy, found map[string]*v1alpha1.ExpertVector) []candidate {
	var list []candidate
	named := map[string]bool{}
	for _, e := range policy.Spec.Experts {
		named[e.Name] = true
		list = append(list, candidate{name: e.Name, weight: e.Weight, expert: found[e.Name], named: true})
	}
	var selected []candidate
	for name, expert := range found {
		if !named[name] && expert.DeletionTimestamp.IsZero() &&
			expert.Spec.BaseModelRef.Name == policy.Spec.BaseModelRef.Name && index.Selects(policy, expert) {
			selected = append(selected, candidate{name: name, expert: expert})
		}
	}
	slices.SortFunc(selected, func(a, b candidate) int { return cmp.Compare(a.name, b.name) })
	return append(list, selected...)
}

// judge sets whether an expert is served and returns what is wrong with it.
func judge(c *candidate, policy *v1alpha1.AdaptivePolicy, base *v1alpha1.BaseModel) error {
	expert := c.expert
	switch {
	case expert == nil || !expert.DeletionTimestamp.IsZero():
		c.state, c.expert = v1alpha1.ExpertMissing, nil
		return status.Wait(v1alpha1.ReasonExpertNotFound, "ExpertVector %s (spec.experts) is not there; make it", c.name)
	case foreign(policy, expert) && !transfers(policy):
		c.state = v1alpha1.ExpertMismatch
		return status.Stall(v1alpha1.ReasonExpertOfAnotherBase,
			"ExpertVector %s belongs to BaseModel %s, the policy to %s; take it out of spec.experts, or set spec.transfer to EqualShape to serve it all the same if its matrices have the shapes of this base's",
			c.name, expert.Spec.BaseModelRef.Name, policy.Spec.BaseModelRef.Name)
	case expert.Spec.Role == v1alpha1.RoleDispatcher:
		c.state = v1alpha1.ExpertMismatch
		return status.Stall(v1alpha1.ReasonDispatcher,
			"ExpertVector %s has role Dispatcher: it chooses experts and answers nothing; take it out of spec.experts, or name it in spec.strategy.classifier.expertRef",
			c.name)
	}
	if foreign(policy, expert) {
		c.from = expert.Spec.BaseModelRef.Name
	}
	return fitness(c, base, func() (bool, error) { return gained(policy, expert), belowGate(c, policy) })
}

// fitness is judge for an expert that is what the policy takes it for. gate says
// whether it is good enough, and what is wrong if it is not. Of one that is transferred
// no scores with this base are known, and whether it fits is for the pods to see.
func fitness(c *candidate, base *v1alpha1.BaseModel, gate func() (bool, error)) error {
	expert := c.expert
	switch {
	case expert.Status.Artifact == nil:
		c.state = v1alpha1.ExpertNotReady
		return status.Wait(v1alpha1.ReasonExpertsNotReady, "Waiting for ExpertVector %s: %s", c.name, status.Explain(expert))
	case c.from == "" && expert.Status.DecompositionDigest != base.Status.Decomposition.Digest:
		c.state = v1alpha1.ExpertMismatch
		return status.Wait(v1alpha1.ReasonDecompositionMismatch,
			"ExpertVector %s scales decomposition %s, but BaseModel %s has %s. Waiting for its next run: %s",
			c.name, expert.Status.DecompositionDigest, base.Name, base.Status.Decomposition.Digest, status.Explain(expert))
	}
	if good, problem := gate(); !good && c.from == "" {
		c.state = v1alpha1.ExpertBelowBaseline
		return problem
	}
	c.served = true
	if !status.IsReady(expert) {
		c.state = v1alpha1.ExpertUpdating
		if meta.IsStatusConditionFalse(expert.Status.Conditions, v1alpha1.ConditionStored) {
			return status.Wait(v1alpha1.ReasonExpertLost,
				"The artifact of ExpertVector %s is lost. Waiting until it is made again: %s", c.name, status.Explain(expert)).Warn()
		}
		return status.Wait(v1alpha1.ReasonExpertsNotReady,
			"ExpertVector %s is served with its previous artifact. Waiting for the next: %s", c.name, status.Explain(expert))
	}
	c.state = v1alpha1.ExpertLoading
	return nil
}

func reference(c *candidate) contract.ExpertRef {
	return contract.ExpertRef{
		Name: c.name, Skill: c.expert.Spec.Skill, Description: c.expert.Spec.Description,
		Digest: string(c.expert.Status.Artifact.Digest), TransferFrom: c.from, Weight: number(c.weight),
	}
}

// number is the value of a decimal, 0 where there is none: the schema has checked
// that it is a number.
func number(d v1alpha1.Decimal) float64 {
	value, _ := strconv.ParseFloat(string(d), 64)
	return value
}

// setFallback names the fallback in the set once it is served; until then the
// base weights answer.
func setFallback(chosen *choice, policy *v1alpha1.AdaptivePolicy) error {
	fallback := policy.Spec.Strategy.Fallback
	if fallback == nil || fallback.Type != v1alpha1.FallbackExpert {
		return nil
	}
	name := fallback.Name
	for _, c := range chosen.candidates {
		if c.name != name {
			continue
		}
		if c.served {
			chosen.set.Fallback = name
		}
		return nil
	}
	return status.Stall(v1alpha1.ReasonFallbackNotFound,
		"spec.strategy.fallback names %s, which is none of the policy's experts; name one of them, or use type Base", name)
}
