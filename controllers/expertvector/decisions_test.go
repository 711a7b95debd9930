package expertvector

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/controllers/desired"
	"github.com/transformersquared/operator/controllers/status"
	"github.com/transformersquared/operator/controllers/status/statustest"
	"github.com/transformersquared/operator/runtime/contract"
)

func digest(digit string) v1alpha1.Digest {
	return v1alpha1.Digest(contract.DigestPrefix + strings.Repeat(digit, 64))
}

// readyBase is a BaseModel that is decomposed, as the changes make it.
func readyBase(change ...func(*v1alpha1.BaseModel)) *v1alpha1.BaseModel {
	base := &v1alpha1.BaseModel{
		ObjectMeta: metav1.ObjectMeta{Name: "tiny", Namespace: "demo", Generation: 1},
		Status: v1alpha1.BaseModelStatus{
			Artifact:      &v1alpha1.ModelArtifact{Digest: digest("a")},
			Decomposition: &v1alpha1.DecompositionStatus{Digest: digest("b")},
		},
	}
	status.SetConditions(base, status.Verdict{Ready: true, Reason: v1alpha1.ReasonSucceeded})
	status.Set(base, v1alpha1.ConditionDecomposed, true, v1alpha1.ReasonSucceeded, "")
	for _, c := range change {
		c(base)
	}
	return base
}

// trained is an ExpertVector that has been trained, as the changes make it.
func trained(change ...func(*v1alpha1.ExpertVector)) *v1alpha1.ExpertVector {
	set := v1alpha1.Dataset{ConfigMap: &v1alpha1.ConfigMapKeyRef{Name: "sums", Key: "train.jsonl"}, Format: v1alpha1.FormatGSM8K}
	e := &v1alpha1.ExpertVector{
		ObjectMeta: metav1.ObjectMeta{Name: "math", Namespace: "demo", Generation: 2},
		Spec: v1alpha1.ExpertVectorSpec{
			BaseModelRef: v1alpha1.LocalRef{Name: "tiny"}, Skill: "math",
			Training: &v1alpha1.TrainingSpec{Dataset: v1alpha1.TrainingDataset{Train: set, Validation: set}},
		},
		Status: v1alpha1.ExpertVectorStatus{
			Artifact: &v1alpha1.ExpertArtifact{Digest: digest("e"), RunID: "run-1", Recipe: "recipe-1"},
			Score:    "0.7031", BaselineScore: "0.4688",
			Progress: &v1alpha1.TrainingProgress{Summary: "40/40"},
		},
	}
	for _, c := range change {
		c(e)
	}
	return e
}

func scores(score, baseline v1alpha1.Score) func(*v1alpha1.ExpertVector) {
	return func(e *v1alpha1.ExpertVector) { e.Status.Score, e.Status.BaselineScore = score, baseline }
}

// verdict is an error as "Stalled Reason", "Waiting Reason" or "".
var verdict = statustest.Verdict

func TestStartable(t *testing.T) {
	only := func(modules ...v1alpha1.Module) func(*v1alpha1.BaseModel) {
		return func(b *v1alpha1.BaseModel) { b.Spec.Decomposition.Modules = modules }
	}
	training := func(modules ...v1alpha1.Module) *v1alpha1.ExpertVector {
		return trained(func(e *v1alpha1.ExpertVector) { e.Spec.Training.Modules = modules })
	}
	for _, tc := range []struct {
		name   string
		expert *v1alpha1.ExpertVector
		base   *v1alpha1.BaseModel
		want   string
	}{
		{"all modules of a base", trained(), readyBase(), ""},
		{"some of its modules", training("up_proj"), readyBase(only("up_proj", "q_proj")), ""},
		{"a module that it does not have", training("up_proj", "k_proj"), readyBase(only("up_proj", "q_proj")), "Stalled ModulesNotDecomposed"},
		{
			"an import has no modules", trained(func(e *v1alpha1.ExpertVector) { e.Spec.Training, e.Spec.Source = nil, &v1alpha1.ExpertSource{} }),
			readyBase(only("up_proj")), "",
		},
		{"a base that is decomposed anew", trained(), readyBase(func(b *v1alpha1.BaseModel) { b.Generation = 2 }), "Waiting BaseModelNotReady"},
		{"a base that is being deleted", trained(), readyBase(func(b *v1alpha1.BaseModel) { b.DeletionTimestamp = new(metav1.Now()) }), "Waiting BaseModelTerminating"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := verdict(startable(tc.expert, tc.base)); got != tc.want {
				t.Errorf("%q, want %q", got, tc.want)
			}
		})
	}
}

// What an artifact was made of decides whether it is still what is asked for: by
// the run where that can be told, by the recipe where a data set cannot be read.
func TestDoneAndStands(t *testing.T) {
	for _, tc := range []struct {
		name   string
		expert *v1alpha1.ExpertVector
		run    desired.Run
		done   bool
		stands bool
	}{
		{"it was made by this run", trained(), desired.Run{ID: "run-1", Recipe: "recipe-1"}, true, true},
		{"the data set has other content", trained(), desired.Run{ID: "run-2", Recipe: "recipe-1"}, false, true},
		{"another seed", trained(), desired.Run{ID: "run-2", Recipe: "recipe-2"}, false, false},
		{"the data set has another name, and the same content", trained(), desired.Run{ID: "run-1", Recipe: "recipe-2"}, true, false},
		{"there is no artifact", trained(func(e *v1alpha1.ExpertVector) { e.Status.Artifact = nil }), desired.Run{}, false, false},
		{
			"the recipe is not known", trained(func(e *v1alpha1.ExpertVector) { e.Status.Artifact.Recipe = "" }),
			desired.Run{ID: "run-1"}, true, false,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := done(tc.expert, tc.run); got != tc.done {
				t.Errorf("done: %v, want %v", got, tc.done)
			}
			if got := stands(tc.expert, tc.run); got != tc.stands {
				t.Errorf("stands: %v, want %v", got, tc.stands)
			}
		})
	}
}

func TestAccept(t *testing.T) {
	result := func(change ...func(*contract.ExpertResult)) *contract.ExpertResult {
		r := &contract.ExpertResult{
			Digest: string(digest("f")), SizeBytes: 9, BaseDigest: string(digest("a")), DecompositionDigest: string(digest("b")),
			Training: &contract.TrainProgress{Iteration: 7, Iterations: 40, ValidationScore: 0.5, BestScore: 0.5625, BaselineScore: 0.25, KL: -1},
		}
		for _, c := range change {
			c(r)
		}
		return r
	}
	for _, tc := range []struct {
		name   string
		result *contract.ExpertResult
		want   string
		score  v1alpha1.Score
	}{
		{name: "a training", result: result(), score: "0.5625"},
		{name: "an import", result: result(func(r *contract.ExpertResult) { r.Training = nil })},
		{
			name: "another decomposition", want: "Stalled DecompositionMismatch",
			result: result(func(r *contract.ExpertResult) { r.DecompositionDigest = string(digest("9")) }),
		},
		{
			name: "another model", want: "Stalled DecompositionMismatch",
			result: result(func(r *contract.ExpertResult) { r.BaseDigest = string(digest("9")) }),
		},
		{name: "no digest", want: "Stalled RuntimeError", result: result(func(r *contract.ExpertResult) { r.Digest = "../../etc" })},
	} {
		t.Run(tc.name, func(t *testing.T) {
			e := trained()
			err := accept(e, readyBase(), desired.Run{ID: "run-2", Recipe: "recipe-2"}, tc.result)
			if got := verdict(err); got != tc.want {
				t.Fatalf("%q, want %q", got, tc.want)
			}
			want := v1alpha1.ExpertArtifact{
				Digest: digest("f"), SizeBytes: 9, RunID: "run-2", Recipe: "recipe-2",
				URI: "pvc://tiny/experts/sha256-" + strings.Repeat("f", 64),
			}
			if tc.want != "" {
				want = *trained().Status.Artifact // What there is stays.
				tc.score = "0.7031"
			}
			if diff := cmp.Diff(want, *e.Status.Artifact); diff != "" {
				t.Errorf("artifact (-want +got):\n%s", diff)
			}
			if e.Status.Score != tc.score {
				t.Errorf("score %q, want %q", e.Status.Score, tc.score)
			}
		})
	}
}

func TestImproved(t *testing.T) {
	for _, tc := range []struct {
		name   string
		expert *v1alpha1.ExpertVector
		want   string
	}{
		{"better", trained(), "True AboveBaseline"},
		{"equal", trained(scores("0.5000", "0.5000")), "False AtBaseline"},
		{"worse", trained(scores("0.0625", "0.5156")), "False BelowBaseline"},
		{"worse by the least", trained(scores("0.5155", "0.5156")), "False BelowBaseline"},
		{"imported", trained(scores("", "")), ""},
		{"imported, after a training", trained(scores("", ""), func(e *v1alpha1.ExpertVector) {
			status.Set(e, v1alpha1.ConditionImproved, true, v1alpha1.ReasonAboveBaseline, "x")
		}), ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := ready(tc.expert, nil); got.Reason != v1alpha1.ReasonSucceeded {
				t.Errorf("the expert is %s", got.Reason)
			}
			got := ""
			if c := meta.FindStatusCondition(tc.expert.Status.Conditions, v1alpha1.ConditionImproved); c != nil {
				got = string(c.Status) + " " + c.Reason
			}
			if got != tc.want {
				t.Errorf("%q, want %q", got, tc.want)
			}
		})
	}
}

func TestMeanwhileLeavesFailedCallsAlone(t *testing.T) {
	failed := errors.New("no connection")
	for _, tc := range []struct {
		name   string
		expert *v1alpha1.ExpertVector
		err    error
		note   bool
	}{
		{"nothing is wrong", trained(), nil, false},
		{"it waits", trained(), status.Wait("A", "x."), true},
		{"it stalls", trained(), status.Stall("A", "x"), true},
		{"a call failed", trained(), failed, false},
		{"there is nothing from before", trained(func(e *v1alpha1.ExpertVector) { e.Status.Artifact = nil }), status.Wait("A", "x"), false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := meanwhile(tc.expert, tc.err)
			if (got == nil) != (tc.err == nil) || (tc.err != nil && !errors.Is(got, tc.err)) {
				t.Fatalf("%v became %v", tc.err, got)
			}
			if got != nil && strings.Contains(got.Error(), string(digest("e"))) != tc.note {
				t.Errorf("%q", got)
			}
		})
	}
}

func TestProgressOf(t *testing.T) {
	for _, tc := range []struct {
		name string
		in   contract.Progress
		want *v1alpha1.TrainingProgress
	}{
		{name: "nothing of training", in: contract.Progress{Phase: "Importing"}},
		{name: "no number of iterations", in: contract.Progress{Training: &contract.TrainProgress{}}},
		{
			name: "before the first iteration nothing is known",
			in: contract.Progress{Phase: "Baseline", EstimatedRemainingSeconds: -1, Training: &contract.TrainProgress{
				Iterations: 40, ValidationScore: -1, BestScore: -1, KL: -1,
			}},
			want: &v1alpha1.TrainingProgress{Summary: "0/40", Step: "Baseline", Iteration: new(int32(0)), Iterations: 40},
		},
		{
			name: "half way",
			in: contract.Progress{Phase: "Training", EstimatedRemainingSeconds: 80, Training: &contract.TrainProgress{
				Iteration: 20, Iterations: 40, Reward: -0.125, KL: 0.25, ValidationScore: 0.5, BestScore: 0.5625,
			}},
			want: &v1alpha1.TrainingProgress{
				Summary: "20/40", Step: "Training", Iteration: new(int32(20)), Iterations: 40, Reward: "-0.1250", KL: "0.250000",
				ValidationScore: "0.5000", BestScore: "0.5625", EstimatedRemainingSeconds: new(int64(80)),
			},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, progressOf(tc.in)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}
