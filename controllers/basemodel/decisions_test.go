package basemodel

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/controllers/desired"
	"github.com/transformersquared/operator/controllers/outcome"
	"github.com/transformersquared/operator/controllers/runs"
	"github.com/transformersquared/operator/controllers/status/statustest"
	"github.com/transformersquared/operator/runtime/contract"
)

func digest(digit string) string { return contract.DigestPrefix + strings.Repeat(digit, 64) }

var result = contract.Termination{
	Model: &contract.ModelResult{Digest: digest("a"), SizeBytes: 5, FileCount: 4, Architecture: contract.Architecture{
		Family: "llama", Layers: 6, HiddenSize: 128, Parameters: 1_300_000, VocabularySize: 512, ContextLength: 512,
	}},
	Decomposition: &contract.DecompositionManifest{Digest: digest("b"), Matrices: 42, SingularValues: 5376, MaxRelativeError: 1.2e-7},
}

// decomposed is a BaseModel that has been decomposed, as the changes make it.
func decomposed(change ...func(*v1alpha1.BaseModel)) *v1alpha1.BaseModel {
	base := &v1alpha1.BaseModel{ObjectMeta: metav1.ObjectMeta{Name: "tiny", Namespace: "demo", Generation: 1}}
	accept(base, result)
	base.Status.Runs = []v1alpha1.RunStatus{{ID: "run-1", Result: runs.ResultSucceeded}}
	for _, c := range change {
		c(base)
	}
	return base
}

// verdict is an error as "Stalled Reason", "Waiting Reason" or "".
var verdict = statustest.Verdict

func TestDone(t *testing.T) {
	for _, tc := range []struct {
		name string
		base *v1alpha1.BaseModel
		want bool
	}{
		{"it was made by this run", decomposed(), true},
		{"by another", decomposed(func(b *v1alpha1.BaseModel) { b.Status.Runs[0].ID = "run-2" }), false},
		{"the run goes on", decomposed(func(b *v1alpha1.BaseModel) { b.Status.Runs[0].Result = "" }), false},
		{"the run failed", decomposed(func(b *v1alpha1.BaseModel) { b.Status.Runs[0].Result = "DigestMismatch" }), false},
		{"there was none", decomposed(func(b *v1alpha1.BaseModel) { b.Status.Runs = nil }), false},
		{"there is no model", decomposed(func(b *v1alpha1.BaseModel) { b.Status.Artifact = nil }), false},
		{"there are no factors", decomposed(func(b *v1alpha1.BaseModel) { b.Status.Decomposition = nil }), false},
	} {
		if got := done(tc.base, desired.Run{ID: "run-1"}); got != tc.want {
			t.Errorf("%s: %v, want %v", tc.name, got, tc.want)
		}
	}
}

func TestAcceptWritesAllThatTheModelSays(t *testing.T) {
	want := v1alpha1.BaseModelStatus{
		Runs:     []v1alpha1.RunStatus{{ID: "run-1", Result: runs.ResultSucceeded}},
		Artifact: &v1alpha1.ModelArtifact{Digest: v1alpha1.Digest(digest("a")), SizeBytes: 5, Files: 4},
		Architecture: &v1alpha1.Architecture{
			Family: "llama", Layers: 6, HiddenSize: 128, Parameters: 1_300_000, VocabularySize: 512, ContextLength: 512,
		},
		Decomposition: &v1alpha1.DecompositionStatus{
			Digest: v1alpha1.Digest(digest("b")), Matrices: 42, SingularValues: 5376, MaxRelativeError: "1.2e-07", Modules: desired.AllModules(),
		},
	}
	if diff := cmp.Diff(want, decomposed().Status); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func steps(base *v1alpha1.BaseModel) map[string]string {
	got := map[string]string{}
	for _, step := range []string{v1alpha1.ConditionFetched, v1alpha1.ConditionDecomposed} {
		if c := meta.FindStatusCondition(base.Status.Conditions, step); c != nil {
			got[step] = string(c.Status) + " " + c.Reason
		}
	}
	return got
}

func TestSteps(t *testing.T) {
	fetched := map[string]contract.Termination{desired.ContainerFetch: {Model: result.Model}}
	refused := map[string]contract.Termination{desired.ContainerFetch: {Reason: "DigestMismatch", Model: result.Model}}
	for _, tc := range []struct {
		name                string
		out                 outcome.Outcome
		fetched, decomposed string
	}{
		{"nothing has begun", outcome.Outcome{}, "False Progressing", "False PodPending"},
		{"it is fetched", outcome.Outcome{State: outcome.Running}, "False Fetching", "False PodPending"},
		{"fetching failed", outcome.Outcome{State: outcome.Failed, Reason: "DigestMismatch", Results: refused}, "False DigestMismatch", "False PodPending"},
		{"it is decomposed", outcome.Outcome{State: outcome.Running, Results: fetched}, "True Succeeded", "False Decomposing"},
		{"decomposing failed", outcome.Outcome{State: outcome.Failed, Reason: "OOMKilled", Results: fetched}, "True Succeeded", "False OOMKilled"},
		{"it is done", outcome.Outcome{State: outcome.Succeeded}, "True Succeeded", "True Succeeded"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			base := decomposed()
			beginSteps(base)
			setSteps(base, tc.out)
			want := map[string]string{v1alpha1.ConditionFetched: tc.fetched, v1alpha1.ConditionDecomposed: tc.decomposed}
			if diff := cmp.Diff(want, steps(base)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			beginSteps(base) // A later pass takes nothing back.
			if diff := cmp.Diff(want, steps(base)); diff != "" {
				t.Errorf("after another pass (-want +got):\n%s", diff)
			}
		})
	}
}

func claim(change ...func(*corev1.PersistentVolumeClaim)) *corev1.PersistentVolumeClaim {
	c := &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Name: "tiny", Namespace: "demo"},
		Spec: corev1.PersistentVolumeClaimSpec{Resources: corev1.VolumeResourceRequirements{
			Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("2Gi")},
		}},
		Status: corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimBound},
	}
	for _, f := range change {
		f(c)
	}
	return c
}

func has(size string) func(*corev1.PersistentVolumeClaim) {
	return func(c *corev1.PersistentVolumeClaim) {
		c.Status.Capacity = corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)}
	}
}

func TestClaims(t *testing.T) {
	pending := func(c *corev1.PersistentVolumeClaim) {
		c.Status.Conditions = []corev1.PersistentVolumeClaimCondition{{Type: corev1.PersistentVolumeClaimFileSystemResizePending, Status: corev1.ConditionTrue}}
	}
	for _, tc := range []struct {
		name  string
		claim *corev1.PersistentVolumeClaim
		base  *v1alpha1.BaseModel
		want  string
	}{
		{"it waits for its first pod", claim(), decomposed(), ""},
		{"it has what is asked for", claim(has("2Gi")), decomposed(), ""},
		{"it has more", claim(has("3Gi")), decomposed(), ""},
		{"it is to grow", claim(has("1Gi")), decomposed(), "Waiting VolumeClaimResizing"},
		{"its file system grows with the next pod", claim(has("1Gi"), pending), decomposed(), ""},
		{"somebody else's does not grow for us", claim(has("1Gi")), decomposed(func(b *v1alpha1.BaseModel) { b.Spec.Storage.ExistingClaim = "tiny" }), ""},
		{"it lost its volume", claim(func(c *corev1.PersistentVolumeClaim) { c.Status.Phase = corev1.ClaimLost }), decomposed(), "Stalled VolumeClaimLost"},
		{"it is being deleted", claim(func(c *corev1.PersistentVolumeClaim) { c.DeletionTimestamp = new(metav1.Now()) }), decomposed(), "Waiting Terminating"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			err := usable(tc.claim)
			if err == nil {
				err = grown(tc.base, tc.claim)
			}
			if got := verdict(err); got != tc.want {
				t.Errorf("%q, want %q", got, tc.want)
			}
		})
	}
}

func TestInUseNamesSomeAndCountsAll(t *testing.T) {
	users := func(listed, count int) *v1alpha1.BaseModel {
		r := &v1alpha1.ReferencedBy{Count: int32(count)}
		for i := range listed {
			r.Objects = append(r.Objects, fmt.Sprintf("ExpertVector/e%d", i))
		}
		return decomposed(func(b *v1alpha1.BaseModel) { b.Status.ReferencedBy = r })
	}
	for _, tc := range []struct {
		name string
		base *v1alpha1.BaseModel
		want string
	}{
		{"nobody", decomposed(), "Being deleted"},
		{"two", users(2, 2), "delete first ExpertVector/e0, ExpertVector/e1"},
		{"more than are listed", users(2, 7), "ExpertVector/e1 and 5 more"},
	} {
		if got := inUse(tc.base).Error(); !strings.HasSuffix(got, tc.want) {
			t.Errorf("%s: %q, want an end of %q", tc.name, got, tc.want)
		}
	}
}

func TestDescribe(t *testing.T) {
	for _, tc := range []struct {
		name     string
		progress *v1alpha1.StepProgress
		want     string
	}{
		{"nothing is known", nil, "Fetching"},
		{"no total is known", &v1alpha1.StepProgress{Step: "Fetching", Done: new(int64(7)), Total: new(int64(0))}, "Fetching"},
		{"half way", &v1alpha1.StepProgress{Step: "Decomposing", Done: new(int64(7)), Total: new(int64(42)), EstimatedRemainingSeconds: new(int64(9))}, "Decomposing 7 of 42, about 9 s left"},
	} {
		if got := describe(tc.progress, v1alpha1.ReasonFetching); got != tc.want {
			t.Errorf("%s: %q, want %q", tc.name, got, tc.want)
		}
	}
}

func TestARunSaysWhatItMade(t *testing.T) {
	without := func(change func(*contract.Termination)) contract.Termination {
		r := contract.Termination{Model: new(*result.Model), Decomposition: new(*result.Decomposition)}
		change(&r)
		return r
	}
	for _, tc := range []struct {
		name   string
		result contract.Termination
		want   bool
	}{
		{"all of it", result, true},
		{"nothing", contract.Termination{}, false},
		{"no model", without(func(r *contract.Termination) { r.Model = nil }), false},
		{"a model without a digest", without(func(r *contract.Termination) { r.Model.Digest = "" }), false},
		{"no factors", without(func(r *contract.Termination) { r.Decomposition = nil }), false},
		{"factors with half a digest", without(func(r *contract.Termination) { r.Decomposition.Digest = digest("b")[:40] }), false},
	} {
		if got := complete(tc.result); got != tc.want {
			t.Errorf("%s: %v, want %v", tc.name, got, tc.want)
		}
	}
}
