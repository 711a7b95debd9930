package adaptivepolicy

import (
	"testing"

	batchv1 "k8s.io/api/batch/v1"

	"github.com/google/go-cmp/cmp"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/controllers/desired"
	"github.com/transformersquared/operator/runtime/contract"
)

// fewShot makes a policy one of strategy FewShot.
func fewShot(p *v1alpha1.AdaptivePolicy) {
	p.Spec.Strategy = v1alpha1.Strategy{Type: v1alpha1.StrategyFewShot, FewShot: &v1alpha1.FewShotStrategy{
		Dataset: v1alpha1.Dataset{ConfigMap: &v1alpha1.ConfigMapKeyRef{Name: "examples", Key: "ten.jsonl"}, Format: v1alpha1.FormatGSM8K},
		Reward:  v1alpha1.RewardNumeric,
	}}
}

// weighted is a policy of which a search has weighed the experts.
func weighted(change ...func(*v1alpha1.AdaptivePolicy)) *v1alpha1.AdaptivePolicy {
	p := policy(fewShot)
	p.Status.FewShot = &v1alpha1.FewShotStatus{
		RunID: "run", DecompositionDigest: digest("b"), Weights: []v1alpha1.FewShotWeight{
			{Name: "code", Digest: digest("2"), Weight: "0.2500"}, {Name: "math", Digest: digest("1"), Weight: "0.7500"},
		},
	}
	for _, c := range change {
		c(p)
	}
	return p
}

func trainedTo(z string) func(*v1alpha1.ExpertVector) {
	return func(e *v1alpha1.ExpertVector) { e.Status.Artifact.Digest = digest(z) }
}

func TestAPolicyServesWhatItsSearchFound(t *testing.T) {
	ref := func(name, z string, weight float64, layers ...float64) contract.ExpertRef {
		return contract.ExpertRef{Name: name, Skill: name, Description: "all of " + name, Digest: string(digest(z)), Weight: weight, LayerWeights: layers}
	}
	there := found(expert("math", trainedTo("1")), expert("code", trainedTo("2")))
	for _, tc := range []struct {
		name    string
		policy  *v1alpha1.AdaptivePolicy
		experts map[string]*v1alpha1.ExpertVector
		want    []contract.ExpertRef
	}{
		{"before a search", policy(fewShot), there, []contract.ExpertRef{ref("math", "1", 0), ref("code", "2", 0)}},
		{"after it", weighted(), there, []contract.ExpertRef{ref("math", "1", 0.75), ref("code", "2", 0.25)}},
		{
			"an expert has been trained anew: what was weighed goes on",
			weighted(), found(expert("math", trainedTo("9")), expert("code", trainedTo("2"))),
			[]contract.ExpertRef{ref("math", "1", 0.75), ref("code", "2", 0.25)},
		},
		{
			"by layer", weighted(func(p *v1alpha1.AdaptivePolicy) {
				p.Status.FewShot.Weights[1].Layers = []v1alpha1.Decimal{"0.5000", "1.0000"}
				p.Status.FewShot.Weights[0].Layers = []v1alpha1.Decimal{"0.5000", "0.0000"}
			}), there,
			[]contract.ExpertRef{ref("math", "1", 0.75, 0.5, 1), ref("code", "2", 0.25, 0.5, 0)},
		},
		{
			"the base has another decomposition", weighted(func(p *v1alpha1.AdaptivePolicy) { p.Status.FewShot.DecompositionDigest = digest("8") }), there,
			[]contract.ExpertRef{ref("math", "1", 0), ref("code", "2", 0)},
		},
		{
			"another strategy", weighted(func(p *v1alpha1.AdaptivePolicy) { p.Spec.Strategy = v1alpha1.Strategy{Type: v1alpha1.StrategyFixed} }), there,
			[]contract.ExpertRef{ref("math", "1", 0), ref("code", "2", 0)},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			chosen := choose(tc.policy, readyBase(), tc.experts)
			if diff := cmp.Diff(tc.want, chosen.set.Experts); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			for i, e := range expertStatuses(chosen, nil) {
				if string(e.Digest) != tc.want[i].Digest {
					t.Errorf("the status says of %s that %s is served", e.Name, e.Digest)
				}
			}
		})
	}
}

// TestASearchIsAnotherForOtherExpertsAndExamples, and for nothing else.
func TestASearchIsAnotherForOtherExpertsAndExamples(t *testing.T) {
	id := func(p *v1alpha1.AdaptivePolicy, examples string, experts map[string]*v1alpha1.ExpertVector) string {
		t.Helper()
		run, err := desired.Search(p, readyBase(), nil, searched(choose(p, readyBase(), experts)), examples, desired.Settings{})
		if err != nil {
			t.Fatal(err)
		}
		return run.ID
	}
	there := found(expert("math", trainedTo("1")), expert("code", trainedTo("2")))
	was := id(policy(fewShot), "x", there)
	for _, tc := range []struct {
		name    string
		is      string
		another bool
	}{
		{"other examples", id(policy(fewShot), "y", there), true},
		{"another artifact", id(policy(fewShot), "x", found(expert("math", trainedTo("3")), expert("code", trainedTo("2")))), true},
		{"an expert less", id(policy(fewShot, func(p *v1alpha1.AdaptivePolicy) { p.Spec.Experts = p.Spec.Experts[:1] }), "x", there), true},
		{"more generations", id(policy(fewShot, func(p *v1alpha1.AdaptivePolicy) { p.Spec.Strategy.FewShot.Generations = 100 }), "x", there), true},
		{"weights per layer", id(policy(fewShot, func(p *v1alpha1.AdaptivePolicy) { p.Spec.Strategy.FewShot.Weights = v1alpha1.WeightsPerLayer }), "x", there), true},
		{"the default spelt out", id(policy(fewShot, func(p *v1alpha1.AdaptivePolicy) { p.Spec.Strategy.FewShot.Generations = 10 }), "x", there), false},
		{"another order", id(policy(fewShot, func(p *v1alpha1.AdaptivePolicy) {
			p.Spec.Experts[0], p.Spec.Experts[1] = p.Spec.Experts[1], p.Spec.Experts[0]
		}), "x", there), false},
		{"what was found", id(weighted(), "x", there), false},
		{"another number format", id(policy(fewShot, func(p *v1alpha1.AdaptivePolicy) { p.Spec.Serving.DType = v1alpha1.ServingInt8 }), "x", there), false},
	} {
		if another := tc.is != was; another != tc.another {
			t.Errorf("%s: another search: %v", tc.name, another)
		}
	}
}

func TestASearchesJobIsNoPodOfTheService(t *testing.T) {
	p := policy(fewShot)
	run, err := desired.Search(p, readyBase(), nil, searched(choose(p, readyBase(), found(expert("math"), expert("code")))), "x", desired.Settings{})
	if err != nil {
		t.Fatal(err)
	}
	labels := run.Job.Spec.Template.Labels
	serves := true
	for name, value := range desired.PolicySelector(p) {
		serves = serves && labels[name] == value
	}
	if serves {
		t.Errorf("the pod of a search has the labels of one that serves: %v", labels)
	}
	for name, value := range desired.SearchSelector(p) {
		if labels[name] != value {
			t.Errorf("label %s is %q, want %q", name, labels[name], value)
		}
	}
}

func TestAResultIsPinnedWithWhatItIsOf(t *testing.T) {
	now := &v1alpha1.FewShotStatus{Progress: &v1alpha1.FewShotProgress{Summary: "9/10"}}
	err := accept(now, readyBase(), desired.Run{ID: "run", Recipe: "recipe"},
		[]contract.AdaptExpert{{Name: "code", Digest: string(digest("2"))}, {Name: "math", Digest: string(digest("1"))}},
		&contract.FewShotResult{
			Weights: []contract.FoundWeight{{Weight: 0.25, Layers: []float64{0, 0.5}, Score: 0.3}, {Weight: 0.75, Layers: []float64{1, 0.5}, Score: 0.9}},
			Score:   1, BaselineScore: 0.2, UniformScore: 0.7, Generations: 4, Evaluations: 90, Seconds: 12.6, Examples: 10, ExamplesDigest: string(digest("e")),
		}, &batchv1.Job{})
	if err != nil {
		t.Fatal(err)
	}
	want := &v1alpha1.FewShotStatus{
		RunID: "run", Recipe: "recipe", Score: "1.0000", BaselineScore: "0.2000", UniformScore: "0.7000",
		Generations: new(int32(4)), Evaluations: new(int32(90)), DurationSeconds: new(int64(13)), Examples: 10,
		ExamplesDigest: digest("e"), DecompositionDigest: digest("b"),
		Weights: []v1alpha1.FewShotWeight{
			{Name: "code", Digest: digest("2"), Weight: "0.2500", Layers: []v1alpha1.Decimal{"0.0000", "0.5000"}, Score: "0.3000"},
			{Name: "math", Digest: digest("1"), Weight: "0.7500", Layers: []v1alpha1.Decimal{"1.0000", "0.5000"}, Score: "0.9000"},
		},
	}
	if diff := cmp.Diff(want, now); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
