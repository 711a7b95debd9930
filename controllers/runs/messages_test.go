package runs

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	batchac "k8s.io/client-go/applyconfigurations/batch/v1"
	metaac "k8s.io/client-go/applyconfigurations/meta/v1"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/controllers/apply"
	"github.com/transformersquared/operator/controllers/desired"
	"github.com/transformersquared/operator/controllers/outcome"
	"github.com/transformersquared/operator/controllers/status"
	"github.com/transformersquared/operator/controllers/status/statustest"
	"github.com/transformersquared/operator/runtime/contract"
)

var (
	owner    = &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "math", Namespace: "demo", UID: "owner"}}
	selector = client.MatchingLabels{"expert": "math"}
)

func job(name string, change ...func(*batchv1.Job)) *batchv1.Job {
	j := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{
		Name: name, Namespace: "demo", UID: "job-" + "uid", Labels: selector,
		OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "ConfigMap", Name: "math", UID: "owner", Controller: new(true)}},
	}}
	for _, c := range change {
		c(j)
	}
	return j
}

func pod(name, ofJob string, phase corev1.PodPhase) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: name, Namespace: "demo", Labels: selector,
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "batch/v1", Kind: "Job", Name: ofJob, UID: "job-uid", Controller: new(true)}},
		},
		Status: corev1.PodStatus{Phase: phase},
	}
}

func over(j *batchv1.Job) {
	j.Status.Conditions = []batchv1.JobCondition{{Type: batchv1.JobFailed, Status: corev1.ConditionTrue}}
}

func wanted(name string) desired.Run {
	return desired.Run{ID: "run-" + name, JobName: name, Job: batchac.Job(name, "demo").WithLabels(selector).WithOwnerReferences(
		metaac.OwnerReference().WithAPIVersion("v1").WithKind("ConfigMap").WithName("math").WithUID("owner").WithController(true))}
}

// runner has a cache of its own beside the cluster, so that the one may be behind
// the other.
func runner(t *testing.T, cached, live []client.Object) (Runner, client.Client) {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := clientgoscheme.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	server := fake.NewClientBuilder().WithScheme(scheme).WithObjects(live...).Build()
	stale := behind{Client: server, cache: fake.NewClientBuilder().WithScheme(scheme).WithObjects(cached...).Build()}
	return Runner{Client: stale, Live: server, Applier: apply.New(stale, server)}, server
}

// behind reads from a cache and writes to the cluster.
type behind struct {
	client.Client
	cache client.Reader
}

func (b behind) Get(ctx context.Context, key client.ObjectKey, o client.Object, opts ...client.GetOption) error {
	return b.cache.Get(ctx, key, o, opts...)
}

func (b behind) List(ctx context.Context, list client.ObjectList, opts ...client.ListOption) error {
	return b.cache.List(ctx, list, opts...)
}

// nodeLost makes a pod what the control plane makes of one whose node does not report.
func nodeLost(pod *corev1.Pod) *corev1.Pod {
	pod.Spec.NodeName = "worker-2"
	pod.Status.Conditions = []corev1.PodCondition{
		{Type: corev1.PodReady, Status: corev1.ConditionFalse}, {Type: corev1.ContainersReady, Status: corev1.ConditionTrue},
	}
	return pod
}

// One run at a time: what ran before has ended, by the API server's word, before a
// Job is made.
func TestEnsure(t *testing.T) {
	for _, tc := range []struct {
		name         string
		cached, live []client.Object
		want         string
		made         bool
	}{
		{name: "nothing ran before", made: true},
		{
			name: "a Job of another run goes on", want: "WaitingForPreviousRun",
			cached: []client.Object{job("old")}, live: []client.Object{job("old")},
		},
		{
			name: "a Job of another run goes on, which the cache has not seen", want: "WaitingForPreviousRun",
			live: []client.Object{job("old")},
		},
		{
			name: "a Job of another run is over", made: true,
			cached: []client.Object{job("old", over)}, live: []client.Object{job("old", over)},
		},
		{
			name: "a pod of another run goes on, which the cache has not seen", want: "WaitingForPreviousRun",
			live: []client.Object{pod("p", "old", corev1.PodRunning)},
		},
		{
			name: "a pod goes on whose Job had the name and is gone", want: "WaitingForPreviousRun",
			live: []client.Object{pod("p", "new", corev1.PodRunning)},
		},
		{
			name: "a pod of another run is on a node that does not report", want: "NodeLost",
			live: []client.Object{pod("q", "old", corev1.PodFailed), nodeLost(pod("p", "old", corev1.PodRunning))},
		},
		{name: "a pod of another run is over", made: true, live: []client.Object{pod("p", "old", corev1.PodFailed)}},
		{name: "the Job is there", made: true, cached: []client.Object{job("new")}, live: []client.Object{job("new")}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r, server := runner(t, tc.cached, tc.live)
			_, _, err := r.Ensure(t.Context(), owner, selector, wanted("new"))
			got := ""
			if waiting, ok := errors.AsType[*status.Waiting](err); ok {
				got = waiting.Reason
			} else if err != nil {
				t.Fatal(err)
			}
			if got != tc.want {
				t.Errorf("%q, want %q", got, tc.want)
			}
			made := server.Get(t.Context(), client.ObjectKey{Namespace: "demo", Name: "new"}, &batchv1.Job{}) == nil
			if made != tc.made {
				t.Errorf("the Job was made: %v, want %v", made, tc.made)
			}
		})
	}
}

func TestRecordGoesOnWithTheSameRun(t *testing.T) {
	start, end := metav1.Now(), metav1.Now()
	was := &v1alpha1.RunStatus{
		ID: "run-a", JobName: "a", StartTime: start, Failures: new(int32(2)), Result: "OOMKilled", CompletionTime: &end, Device: "cpu (plain, 1 threads)",
	}
	for _, tc := range []struct {
		name string
		was  *v1alpha1.RunStatus
		run  desired.Run
		out  outcome.Outcome
		want v1alpha1.RunStatus
	}{
		{
			name: "the first", run: desired.Run{ID: "run-a"}, out: outcome.Outcome{State: outcome.Running},
			want: v1alpha1.RunStatus{ID: "run-a", JobName: "b"},
		},
		{
			name: "the same run in another Job", was: was, run: desired.Run{ID: "run-a"}, out: outcome.Outcome{State: outcome.Running},
			want: v1alpha1.RunStatus{ID: "run-a", JobName: "b", StartTime: start, Device: "cpu (plain, 1 threads)"},
		},
		{
			name: "the same run on another device", was: was, run: desired.Run{ID: "run-a"}, out: outcome.Outcome{State: outcome.Running, Device: "cuda (A100)"},
			want: v1alpha1.RunStatus{ID: "run-a", JobName: "b", StartTime: start, Device: "cuda (A100)"},
		},
		{
			name: "a device with a long name", run: desired.Run{ID: "run-a"}, out: outcome.Outcome{State: outcome.Running, Device: strings.Repeat("x", 200)},
			want: v1alpha1.RunStatus{ID: "run-a", JobName: "b", Device: strings.Repeat("x", 125) + "…"},
		},
		{
			name: "another run", was: was, run: desired.Run{ID: "run-b"}, out: outcome.Outcome{State: outcome.Retrying, Failures: 1},
			want: v1alpha1.RunStatus{ID: "run-b", JobName: "b", Failures: new(int32(1))},
		},
		{
			name: "it succeeded", was: was, run: desired.Run{ID: "run-a"}, out: outcome.Outcome{State: outcome.Succeeded, CompletionTime: &end},
			want: v1alpha1.RunStatus{ID: "run-a", JobName: "b", StartTime: start, Result: "Succeeded", CompletionTime: &end, Device: "cpu (plain, 1 threads)"},
		},
		{
			name: "it failed", run: desired.Run{ID: "run-a"}, out: outcome.Outcome{State: outcome.Failed, Reason: "TrainingDiverged", CompletionTime: &end},
			want: v1alpha1.RunStatus{ID: "run-a", JobName: "b", Result: "TrainingDiverged", CompletionTime: &end},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, Record(tc.was, tc.run, job("b"), tc.out)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// Every message about a run that has not succeeded.
func TestMessages(t *testing.T) {
	var all []statustest.Message
	add := func(name string, err error) { all = append(all, statustest.Of(name, status.Ready{}, err)) }
	killed := outcome.Outcome{
		State: outcome.Retrying, Reason: v1alpha1.ReasonOOMKilled, Failures: 1, Allowed: 4,
		Message: "Container train of pod math-1-x was killed at its memory limit of 512Mi; raise spec.training.resources.limits.memory",
	}
	with := func(change func(*outcome.Outcome)) outcome.Outcome {
		out := killed
		change(&out)
		return out
	}
	say := func(name string, out outcome.Outcome) {
		add(name, Explain(job("math-1"), out, v1alpha1.ReasonTraining, "Iteration 3/40"))
	}
	say("a pod failed", killed)
	say("two pods failed", with(func(o *outcome.Outcome) { o.Failures = 2 }))
	say("a pod was interrupted", outcome.Outcome{
		State: outcome.Retrying, Reason: contract.ReasonInterrupted, Allowed: 4, Message: "interrupted by SIGTERM after a checkpoint at iteration 12.",
	})
	say("all pods failed", with(func(o *outcome.Outcome) { o.State, o.Failures, o.GivenUp = outcome.Failed, 4, true }))
	say("a pod failed for good", outcome.Outcome{
		State: outcome.Failed, Reason: contract.ReasonDiverged, Failures: 1, Allowed: 4, Message: "the loss became NaN; lower the learning rate.",
	})
	say("a pod runs after another failed", outcome.Outcome{State: outcome.Running, Failures: 1, Allowed: 4})
	say("a pod runs", outcome.Outcome{State: outcome.Running, Allowed: 4})
	say("a pod cannot start", outcome.Outcome{State: outcome.Blocked, Reason: v1alpha1.ReasonUnschedulable, Message: "No node takes pod p: Insufficient memory."})
	for _, held := range []struct {
		name string
		by   func(*batchv1.Job)
	}{
		{"suspended by its user", func(j *batchv1.Job) { j.Annotations = map[string]string{v1alpha1.AnnotationSuspended: "true"} }},
		{"suspended by a queue", func(j *batchv1.Job) { j.Labels = map[string]string{v1alpha1.LabelQueue: "gpus"} }},
		{"suspended by somebody else", func(*batchv1.Job) {}},
	} {
		add(held.name, Explain(job("math-1", held.by), outcome.Outcome{State: outcome.Suspended}, v1alpha1.ReasonTraining, ""))
	}
	say("no pod yet", outcome.Outcome{State: outcome.Pending, Reason: v1alpha1.ReasonPending, Message: "Waiting for the Job's pod"})

	ensure := func(name string, objects ...client.Object) {
		r, _ := runner(t, objects, objects)
		_, _, err := r.Ensure(t.Context(), owner, selector, wanted("new"))
		add(name, err)
	}
	ensure("the run before has a Job", job("old"))
	ensure("the run before has a pod", pod("p", "old", corev1.PodRunning))
	ensure("the run before has a pod on a node that does not report", nodeLost(pod("p", "old", corev1.PodRunning)))
	ensure("its Job is being deleted", job("new", func(j *batchv1.Job) {
		j.DeletionTimestamp, j.Finalizers = new(metav1.Now()), []string{"foregroundDeletion"}
	}))
	ensure("its Job is somebody else's", job("new", func(j *batchv1.Job) { j.OwnerReferences = nil }))
	for _, failed := range []struct {
		name, reason string
		after        time.Duration
		retries      int32
	}{
		{"a source is away", contract.ReasonSourceUnreachable, 0, 0},
		{"a source is tried again", contract.ReasonSourceUnreachable, time.Minute, 0},
		{"a source was away for a day", contract.ReasonSourceUnreachable, time.Minute, passing.times},
		{"a source refuses the token", contract.ReasonUnauthorized, 0, 0},
	} {
		out := outcome.Outcome{State: outcome.Failed, Reason: failed.reason, Message: "models.example.com: no.", CompletionTime: &noon}
		r := timed(t, noon.Add(failed.after), job("math-1"))
		add(failed.name, r.Explain(t.Context(), job("math-1"), out, &v1alpha1.RunStatus{Retries: &failed.retries}, "", ""))
	}
	r, _ := runner(t, nil, []client.Object{job("math-1")})
	add("its result was lost", r.Again(t.Context(), job("math-1")))
	add("it says nothing of what it made", Silent(job("math-1"), "made"))
	statustest.Check(t, all)
}
