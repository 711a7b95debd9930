package basemodel

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/controllers/apply"
	"github.com/transformersquared/operator/controllers/desired"
	"github.com/transformersquared/operator/controllers/outcome"
	"github.com/transformersquared/operator/controllers/runs"
	"github.com/transformersquared/operator/runtime/contract"
)

// cluster is one with these objects, and a Reconciler whose clock is the test's.
func cluster(t *testing.T, clock *time.Time, objects ...client.Object) (*Reconciler, client.Client) {
	t.Helper()
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	c := fake.NewClientBuilder().WithScheme(scheme).WithStatusSubresource(&batchv1.Job{}, &v1alpha1.BaseModel{}).WithObjects(objects...).Build()
	applier := apply.New(c, c)
	return &Reconciler{
		Client: c, Applier: applier, Settings: desired.Settings{RuntimeImage: "t2"},
		Runner: runs.Runner{Client: c, Live: c, Applier: applier, Now: func() time.Time { return *clock }},
	}, c
}

// collectable is a BaseModel that was decomposed at a time.
func collectable(at time.Time, change ...func(*v1alpha1.BaseModel)) *v1alpha1.BaseModel {
	base := decomposed(change...)
	base.UID = "base-uid"
	base.Status.Runs[0].ID, base.Status.Runs[0].CompletionTime = strings.Repeat("1", 16), new(metav1.NewTime(at))
	return base
}

func collectJobs(t *testing.T, c client.Client) []batchv1.Job {
	t.Helper()
	var jobs batchv1.JobList
	if err := c.List(t.Context(), &jobs); err != nil {
		t.Fatal(err)
	}
	return jobs.Items
}

// specOf is what a Job is told to keep.
func specOf(t *testing.T, job *batchv1.Job) contract.CollectSpec {
	t.Helper()
	for _, env := range job.Spec.Template.Spec.Containers[0].Env {
		if env.Name == contract.EnvSpec {
			var spec contract.CollectSpec
			if err := json.Unmarshal([]byte(env.Value), &spec); err != nil {
				t.Fatal(err)
			}
			return spec
		}
	}
	t.Fatal("the Job has no specification")
	return contract.CollectSpec{}
}

// finish ends a Job as its pod and the Job controller would.
func finish(t *testing.T, c client.Client, job *batchv1.Job, failed string, result *contract.CollectResult) {
	t.Helper()
	text, err := json.Marshal(contract.Termination{Collect: result})
	if err != nil {
		t.Fatal(err)
	}
	kind, phase, code := batchv1.JobComplete, corev1.PodSucceeded, int32(0)
	if failed != "" {
		kind, phase, code, text = batchv1.JobFailed, corev1.PodFailed, 1, []byte(failed)
	}
	job.Status.Conditions = []batchv1.JobCondition{{Type: kind, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now()}}
	if err := c.Status().Update(t.Context(), job); err != nil {
		t.Fatal(err)
	}
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: job.Name + "-p", Namespace: job.Namespace, Labels: job.Labels,
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "batch/v1", Kind: "Job", Name: job.Name, UID: job.UID, Controller: new(true)}},
		},
		Status: corev1.PodStatus{Phase: phase, ContainerStatuses: []corev1.ContainerStatus{{
			Name: desired.ContainerCollect, State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: code, Message: string(text)}},
		}}},
	}
	if err := c.Create(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
}

// TestAVolumeIsCollectedWhenReferencesHaveChanged, and only then, and only so often.
func TestAVolumeIsCollectedWhenReferencesHaveChanged(t *testing.T) {
	clock := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	base := collectable(clock)
	expert := &v1alpha1.ExpertVector{
		ObjectMeta: metav1.ObjectMeta{Name: "math", Namespace: base.Namespace},
		Status: v1alpha1.ExpertVectorStatus{
			Artifact: &v1alpha1.ExpertArtifact{Digest: v1alpha1.Digest(digest("c")), RunID: strings.Repeat("2", 16)},
			Runs:     []v1alpha1.RunStatus{{ID: strings.Repeat("3", 16)}, {ID: strings.Repeat("4", 16)}},
		},
	}
	r, c := cluster(t, &clock, base, expert)
	step := func() (time.Duration, *news) {
		t.Helper()
		after, told, err := r.collect(t.Context(), base)
		if err != nil {
			t.Fatal(err)
		}
		return after, told
	}
	if after, _ := step(); after != DefaultCollectPause || len(collectJobs(t, c)) != 0 {
		t.Errorf("looks again after %v with %d Jobs, want a pause first", after, len(collectJobs(t, c)))
	}
	clock = clock.Add(DefaultCollectPause)
	step()
	jobs := collectJobs(t, c)
	if len(jobs) != 1 {
		t.Fatalf("%d Jobs", len(jobs))
	}
	spec := specOf(t, &jobs[0])
	want := []string{
		strings.Repeat("1", 16), strings.Repeat("2", 16), strings.Repeat("3", 16),
		strings.Repeat("a", 16), strings.Repeat("b", 16), strings.Repeat("c", 16),
	}
	if !slices.Equal(spec.Keep, want) || !spec.Time.Equal(clock) || spec.GraceSeconds != 3600 || spec.DataDir != contract.MountData {
		t.Errorf("told %+v, want to keep %q", spec, want)
	}
	if d := jobs[0].Spec.ActiveDeadlineSeconds; d == nil || *d <= 0 {
		t.Error("the Job has no end")
	}
	clock = clock.Add(time.Hour)
	if after, _ := step(); after != 0 || len(collectJobs(t, c)) != 1 {
		t.Error("another Job beside the one that goes on")
	}

	finish(t, c, &jobs[0], "", &contract.CollectResult{
		Removed: 2, FreedBytes: 3 << 20, CapacityBytes: 10 << 30,
		Usage: []contract.VolumeUsage{{Kind: "experts", Count: 1, SizeBytes: 1 << 20}, {Kind: "models", Count: 1, SizeBytes: 2 << 30}},
	})
	_, told := step()
	if told == nil || told.warning || !strings.Contains(told.message, "2 artifacts and runs, 3Mi") {
		t.Errorf("told %+v", told)
	}
	s := base.Status.Storage
	if s == nil || s.Summary != "2Gi of 10Gi" || *s.UsedBytes != 2<<30+1<<20 || len(s.Kinds) != 2 || *s.Removed != 2 || s.JobName != jobs[0].Name {
		t.Errorf("storage %+v", s)
	}
	clock = clock.Add(24 * time.Hour)
	if after, told := step(); after != 0 || told != nil {
		t.Errorf("an idle volume has news %+v, and is looked at after %v", told, after)
	}

	if err := c.Delete(t.Context(), expert); err != nil {
		t.Fatal(err)
	}
	step() // Deletes the Job of before.
	step()
	jobs = collectJobs(t, c)
	if len(jobs) != 1 || jobs[0].Name == s.JobName || slices.Contains(specOf(t, &jobs[0]).Keep, strings.Repeat("c", 16)) {
		t.Errorf("after the expert is gone: %d Jobs, %q", len(jobs), specOf(t, &jobs[0]).Keep)
	}
}

// TestACollectionThatFailsIsToldAndTriedAgain later, and takes nothing else away.
func TestACollectionThatFailsIsToldAndTriedAgain(t *testing.T) {
	clock := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	base := collectable(clock.Add(-time.Hour))
	r, c := cluster(t, &clock, base)
	if _, _, err := r.collect(t.Context(), base); err != nil {
		t.Fatal(err)
	}
	job := collectJobs(t, c)[0]
	finish(t, c, &job, `{"reason":"RuntimeError","message":"the volume is read-only"}`, nil)
	clock = time.Now()
	after, told, err := r.collect(t.Context(), base)
	if err != nil || told == nil || !told.warning || !strings.Contains(told.message, "read-only") || after <= DefaultCollectPause {
		t.Errorf("told %+v, again after %v (%v)", told, after, err)
	}
	clock = clock.Add(failedPauses*DefaultCollectPause + time.Minute)
	for range 2 {
		if _, _, err := r.collect(t.Context(), base); err != nil {
			t.Fatal(err)
		}
	}
	if jobs := collectJobs(t, c); len(jobs) != 1 || jobs[0].Name == job.Name {
		t.Error("it was not tried again")
	}
}

// TestWhoseVolumeIsCollected: one that was made for a model, or one whose user asks for it.
func TestWhoseVolumeIsCollected(t *testing.T) {
	for _, tc := range []struct {
		existing string
		collect  v1alpha1.Collect
		want     bool
	}{
		{"", "", true}, {"", v1alpha1.CollectNever, false}, {"", v1alpha1.CollectAutomatic, true},
		{"mine", "", false}, {"mine", v1alpha1.CollectNever, false}, {"mine", v1alpha1.CollectAutomatic, true},
	} {
		base := collectable(time.Now(), func(b *v1alpha1.BaseModel) {
			b.Spec.Storage = v1alpha1.StorageSpec{ExistingClaim: tc.existing, Collect: tc.collect}
			b.Status.Storage = &v1alpha1.StorageStatus{Summary: "1Gi of 2Gi"}
		})
		if got := desired.Collects(base); got != tc.want {
			t.Errorf("claim %q, %q: %v", tc.existing, tc.collect, got)
		}
		clock := time.Now()
		r, _ := cluster(t, &clock, base)
		if _, _, err := r.collect(t.Context(), base); err != nil || (base.Status.Storage != nil) != tc.want {
			t.Errorf("claim %q, %q: storage %+v (%v)", tc.existing, tc.collect, base.Status.Storage, err)
		}
	}
}

// TestEveryDigestOfAnObjectIsAReference, in random worlds and wherever it stands: also in
// fields that were not there when this was written.
func TestEveryDigestOfAnObjectIsAReference(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	n := 0
	fresh := func() (digest, name string) {
		n++
		name = fmt.Sprintf("%016x", random.Uint64())
		return contract.DigestPrefix + name + strings.Repeat("0", 48), name
	}
	for range 20 {
		clock := time.Now()
		var objects []client.Object
		var want []string
		refer := func() v1alpha1.Digest {
			d, name := fresh()
			want = append(want, name)
			return v1alpha1.Digest(d)
		}
		run := func() string {
			_, name := fresh()
			want = append(want, name)
			return name
		}
		meta := func(kind string) metav1.ObjectMeta {
			n++
			return metav1.ObjectMeta{Name: fmt.Sprintf("%s-%d", kind, n), Namespace: "demo"}
		}
		for range 1 + random.IntN(4) {
			objects = append(objects,
				&v1alpha1.ExpertVector{
					ObjectMeta: meta("e"),
					Spec:       v1alpha1.ExpertVectorSpec{Source: &v1alpha1.ExpertSource{Digest: refer()}},
					Status: v1alpha1.ExpertVectorStatus{
						Artifact: &v1alpha1.ExpertArtifact{Digest: refer(), RunID: run()}, DecompositionDigest: refer(), BaseDigest: refer(),
						Runs: []v1alpha1.RunStatus{{ID: run()}},
					},
				},
				&v1alpha1.AdaptivePolicy{ObjectMeta: meta("p"), Status: v1alpha1.AdaptivePolicyStatus{
					DecompositionDigest: refer(), Experts: []v1alpha1.PolicyExpertStatus{{Name: "x", Digest: refer()}},
					Classifier: &v1alpha1.PolicyClassifier{Expert: "c", Digest: refer()},
					FewShot:    &v1alpha1.FewShotStatus{RunID: run(), Weights: []v1alpha1.FewShotWeight{{Name: "x", Digest: refer()}}},
				}},
				&batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: meta("j").Name, Namespace: "demo", Labels: map[string]string{v1alpha1.LabelRun: run()}}},
				&appsv1.Deployment{ObjectMeta: meta("d"), Spec: appsv1.DeploymentSpec{Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{
					Containers: []corev1.Container{{Name: "serve", Env: []corev1.EnvVar{{Name: contract.EnvSpec, Value: `{"baseDigest":"` + string(refer()) + `"}`}}}},
				}}}},
				&corev1.Pod{ObjectMeta: meta("q"), Spec: corev1.PodSpec{
					Containers: []corev1.Container{{Name: "serve", Env: []corev1.EnvVar{{Name: contract.EnvSpec, Value: `{"decompositionDigest":"` + string(refer()) + `"}`}}}},
				}})
		}
		elsewhere, _ := fresh()
		objects = append(objects, &v1alpha1.ExpertVector{
			ObjectMeta: metav1.ObjectMeta{Name: "far", Namespace: "other"},
			Status:     v1alpha1.ExpertVectorStatus{BaseDigest: v1alpha1.Digest(elsewhere)},
		})
		_, c := cluster(t, &clock, objects...)
		got, err := references(t.Context(), c, "demo")
		if err != nil {
			t.Fatal(err)
		}
		if slices.Sort(want); !slices.Equal(got, slices.Compact(want)) {
			t.Fatalf("refers to %q\nwant %q", got, want)
		}
	}
}

func TestAcceptCollectionWithoutAResult(t *testing.T) {
	base := collectable(time.Now())
	told := acceptCollection(base, &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: "j"}}, outcome.Outcome{State: outcome.Succeeded}, metav1.Now())
	if told == nil || !told.warning || !strings.Contains(base.Status.Storage.Message, "Job j did not say") {
		t.Errorf("told %+v, storage %+v", told, base.Status.Storage)
	}
}

func TestSizesAreReadable(t *testing.T) {
	for bytes, want := range map[int64]string{
		0: "0", 999: "999", 1024: "1Ki", 1000: "0.977Ki", 1 << 30: "1Gi", 1288490189: "1.2Gi", 150 << 20: "150Mi", 1 << 60: "1024Pi",
	} {
		if got := readable(bytes); got != want {
			t.Errorf("%d is %s, want %s", bytes, got, want)
		}
	}
}
