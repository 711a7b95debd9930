package outcome

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/runtime/contract"
)

const memoryField = "spec.training.resources.limits.memory"

var inTraining = Fields{At: "spec.training", Need: "set spec.training.dtype to BF16"}

var t0 = metav1.NewTime(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))

func job(change ...func(*batchv1.Job)) *batchv1.Job {
	j := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: "math-1", UID: "job"}}
	j.Spec.BackoffLimit = new(int32(3))
	for _, c := range change {
		c(j)
	}
	return j
}

func failedJob(reason, message string, failures int32) *batchv1.Job {
	return job(func(j *batchv1.Job) {
		j.Status.Failed = failures
		j.Status.Conditions = []batchv1.JobCondition{{
			Type: batchv1.JobFailed, Status: corev1.ConditionTrue, Reason: reason, Message: message, LastTransitionTime: t0,
		}}
	})
}

// pod makes a pod of the Job that was created the given number of seconds after t0.
func pod(name string, second int, phase corev1.PodPhase, change ...func(*corev1.Pod)) corev1.Pod {
	p := corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: name, CreationTimestamp: metav1.NewTime(t0.Add(time.Duration(second) * time.Second)),
			OwnerReferences: []metav1.OwnerReference{{Kind: "Job", Name: "math-1", UID: "job", Controller: new(true)}},
		},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "train", Resources: corev1.ResourceRequirements{
			Limits: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("512Mi")},
		}}}},
		Status: corev1.PodStatus{Phase: phase},
	}
	for _, c := range change {
		c(&p)
	}
	return p
}

func terminated(container string, code int32, reason, message string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Status.ContainerStatuses = append(p.Status.ContainerStatuses, corev1.ContainerStatus{
			Name: container, State: corev1.ContainerState{
				Terminated: &corev1.ContainerStateTerminated{ExitCode: code, Reason: reason, Message: message},
			},
		})
	}
}

// endedAt is when the containers ended that have.
func endedAt(at metav1.Time) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		for _, s := range p.Status.ContainerStatuses {
			if s.State.Terminated != nil {
				s.State.Terminated.FinishedAt = at
			}
		}
	}
}

func waiting(container, reason, message string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Status.ContainerStatuses = append(p.Status.ContainerStatuses, corev1.ContainerStatus{
			Name: container, Image: "example.org/t2:1",
			State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}},
		})
	}
}

// mounts makes a pod one that mounts a model's artifact.
func mounts(p *corev1.Pod) {
	p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: "t2-model", VolumeSource: corev1.VolumeSource{
		Image: &corev1.ImageVolumeSource{Reference: "models/tiny@sha256:77"},
	}})
}

func running(container string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Status.ContainerStatuses = append(p.Status.ContainerStatuses, corev1.ContainerStatus{
			Name: container, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}},
		})
	}
}

// lost is what the control plane makes of a pod whose node does not report: it takes its
// readiness, and leaves what the kubelet said last of the containers.
func lost(p *corev1.Pod) {
	p.Spec.NodeName = "worker-2"
	p.Status.Conditions = []corev1.PodCondition{
		{Type: corev1.PodReady, Status: corev1.ConditionFalse}, {Type: corev1.ContainersReady, Status: corev1.ConditionTrue},
	}
}

// leaving is a pod that is deleted since its node has a taint that it does not tolerate.
func leaving(p *corev1.Pod) {
	p.Spec.NodeName, p.DeletionTimestamp = "worker-2", &t0
	p.Status.Conditions = []corev1.PodCondition{{
		Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: "DeletionByTaintManager", Message: "Taint manager: deleting due to NoExecute taint",
	}}
}

// beside adds a container that accompanies the others, in this state.
func beside(name string, state corev1.ContainerState) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.InitContainers = append(p.Spec.InitContainers, corev1.Container{Name: name, RestartPolicy: new(corev1.ContainerRestartPolicyAlways)})
		p.Status.InitContainerStatuses = append(p.Status.InitContainerStatuses, corev1.ContainerStatus{Name: name, Image: "example.org/" + name + ":1", State: state})
	}
}

func termination(t *testing.T, result contract.Termination) string {
	t.Helper()
	text, err := json.Marshal(result)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestObserve(t *testing.T) {
	mismatch := contract.Termination{Reason: contract.ReasonDigestMismatch, Message: "model.safetensors has another digest; correct spec.source.digest", Permanent: true}
	success := contract.Termination{Expert: &contract.ExpertResult{Digest: "sha256:e"}}
	fetched := contract.Termination{Model: &contract.ModelResult{Digest: "sha256:a"}}
	complete := job(func(j *batchv1.Job) {
		j.Status.CompletionTime = &t0
		j.Status.Conditions = []batchv1.JobCondition{{Type: batchv1.JobComplete, Status: corev1.ConditionTrue}}
	})

	for _, tc := range []struct {
		name        string
		job         *batchv1.Job
		pods        []corev1.Pod
		want        Outcome
		wantMessage []string
	}{
		{
			name: "a Job that was just made has no pod", job: job(),
			want: Outcome{State: Pending, Reason: v1alpha1.ReasonPending}, wantMessage: []string{"Waiting"},
		},
		{
			name: "pods of other Jobs do not count", job: job(),
			pods: []corev1.Pod{pod("other", 0, corev1.PodRunning, running("train"), func(p *corev1.Pod) { p.OwnerReferences[0].UID = "another" })},
			want: Outcome{State: Pending, Reason: v1alpha1.ReasonPending},
		},
		{
			name: "no node takes the pod", job: job(),
			pods: []corev1.Pod{pod("p", 0, corev1.PodPending, func(p *corev1.Pod) {
				p.Status.Conditions = []corev1.PodCondition{{
					Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: corev1.PodReasonUnschedulable, Message: "Insufficient memory",
				}}
			})},
			want: Outcome{State: Blocked, Reason: v1alpha1.ReasonUnschedulable}, wantMessage: []string{"pod p", "Insufficient memory"},
		},
		{
			name: "the image cannot be pulled", job: job(),
			pods: []corev1.Pod{pod("p", 0, corev1.PodPending, waiting("train", "ImagePullBackOff", "not found"))},
			want: Outcome{State: Blocked, Reason: v1alpha1.ReasonImagePull}, wantMessage: []string{"example.org/t2:1", "not found"},
		},
		{
			name: "the model's artifact cannot be pulled", job: job(),
			pods: []corev1.Pod{pod("p", 0, corev1.PodPending, mounts, waiting("train", "ErrImagePull", "failed to resolve docker.io/models/tiny@sha256:77: not found"))},
			want: Outcome{State: Blocked, Reason: v1alpha1.ReasonImagePull}, wantMessage: []string{"models/tiny@sha256:77", "pullSecretRef", "delivery of the BaseModel to Copy"},
		},
		{
			name: "the runtime's image cannot be pulled, and the model's artifact can", job: job(),
			pods: []corev1.Pod{pod("p", 0, corev1.PodPending, mounts, waiting("train", "ErrImagePull", "not found"))},
			want: Outcome{State: Blocked, Reason: v1alpha1.ReasonImagePull}, wantMessage: []string{"cannot have image example.org/t2:1", "not found"},
		},
		{
			name: "the node mounts no images", job: job(),
			pods:        []corev1.Pod{pod("p", 0, corev1.PodPending, mounts, waiting("train", "CreateContainerError", "failed to generate spec: mkdir"))},
			want:        Outcome{State: Blocked, Reason: v1alpha1.ReasonContainerConfig},
			wantMessage: []string{"mkdir", "containerd 2.1", "spec.source.delivery"},
		},
		{
			name: "a Secret is missing", job: job(),
			pods: []corev1.Pod{pod("p", 0, corev1.PodPending, waiting("fetch", "CreateContainerConfigError", `secret "hub" not found`))},
			want: Outcome{State: Blocked, Reason: v1alpha1.ReasonContainerConfig}, wantMessage: []string{"hub", "fetch"},
		},
		{
			name: "the pod is starting", job: job(),
			pods: []corev1.Pod{pod("p", 0, corev1.PodPending, waiting("train", "ContainerCreating", ""))},
			want: Outcome{State: Pending, Reason: v1alpha1.ReasonPending}, wantMessage: []string{"p is starting"},
		},
		{
			name: "the pod runs, and its init container left a result", job: job(),
			pods: []corev1.Pod{pod("p", 0, corev1.PodRunning, func(p *corev1.Pod) {
				p.Status.InitContainerStatuses = []corev1.ContainerStatus{{Name: "fetch", State: corev1.ContainerState{
					Terminated: &corev1.ContainerStateTerminated{Message: termination(t, fetched)},
				}}}
			}, running("decompose"))},
			want: Outcome{State: Running, Container: "decompose", Results: map[string]contract.Termination{"fetch": fetched}},
		},
		{
			name: "a judge beside the trainer is not what runs", job: job(),
			pods: []corev1.Pod{pod("p", 0, corev1.PodRunning,
				beside("judge", corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}), running("train"))},
			want: Outcome{State: Running, Container: "train"},
		},
		{
			name: "a judge that goes on is nothing that runs when the trainer is done", job: job(),
			pods: []corev1.Pod{pod("p", 0, corev1.PodRunning,
				beside("judge", corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}), terminated("train", 0, "Completed", ""))},
			want: Outcome{State: Pending, Reason: v1alpha1.ReasonFinishing}, wantMessage: []string{"is done"},
		},
		{
			name: "a judge that goes on keeps nobody waiting when the trainer has said what it made", job: job(),
			pods: []corev1.Pod{pod("p", 0, corev1.PodRunning,
				beside("judge", corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}), terminated("train", 0, "Completed", termination(t, success)), endedAt(t0))},
			want: Outcome{State: Succeeded, CompletionTime: &t0, Seen: true, Results: map[string]contract.Termination{"train": success}},
		},
		{
			name: "what is done is done, also where its Job is suspended before it knows", job: job(func(j *batchv1.Job) { j.Spec.Suspend = new(true) }),
			pods: []corev1.Pod{pod("p", 0, corev1.PodRunning, terminated("train", 0, "Completed", termination(t, success)), endedAt(t0))},
			want: Outcome{State: Succeeded, CompletionTime: &t0, Seen: true, Results: map[string]contract.Termination{"train": success}},
		},
		{
			name: "what is done and has another container that goes on is not done", job: job(),
			pods: []corev1.Pod{pod("p", 0, corev1.PodRunning, terminated("fetch", 0, "Completed", termination(t, fetched)), endedAt(t0), running("train"))},
			want: Outcome{State: Running, Container: "train", Results: map[string]contract.Termination{"fetch": fetched}},
		},
		{
			name: "what is done is not done before the kubelet has told of every container", job: job(),
			pods: []corev1.Pod{pod("p", 0, corev1.PodRunning, terminated("fetch", 0, "Completed", termination(t, fetched)), endedAt(t0), func(p *corev1.Pod) {
				p.Spec.Containers = []corev1.Container{{Name: "fetch"}, {Name: "train"}}
			})},
			want: Outcome{State: Pending, Reason: v1alpha1.ReasonFinishing, Results: map[string]contract.Termination{"fetch": fetched}},
		},
		{
			name: "a judge that was killed in the end is not why the trainer failed", job: job(),
			pods: []corev1.Pod{pod("p", 0, corev1.PodFailed,
				beside("judge", corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 137, Reason: "Error"}}),
				terminated("train", 42, "Error", termination(t, mismatch)))},
			want:        Outcome{State: Pending, Reason: v1alpha1.ReasonFinishing, Container: "train", Failures: 1, Results: map[string]contract.Termination{"train": mismatch}},
			wantMessage: []string{"no other is tried"},
		},
		{
			name: "the node does not report, and the pod seems to run", job: job(), pods: []corev1.Pod{pod("p", 0, corev1.PodRunning, running("train"), lost)},
			want:        Outcome{State: Blocked, Reason: v1alpha1.ReasonNodeLost},
			wantMessage: []string{"Node worker-2 of pod p does not report", "delete Node worker-2", "no other pod begins"},
		},
		{
			name: "the node does not report, and the pod is to end, which it never says", job: job(),
			pods:        []corev1.Pod{pod("p", 0, corev1.PodPending, leaving, waiting("train", "PodInitializing", ""))},
			want:        Outcome{State: Blocked, Reason: v1alpha1.ReasonNodeLost},
			wantMessage: []string{"Node worker-2 of pod p does not report"},
		},
		{
			name: "the pod is not ready since its container is not", job: job(),
			pods: []corev1.Pod{pod("p", 0, corev1.PodRunning, running("train"), lost, func(p *corev1.Pod) { p.Status.Conditions[1].Status = corev1.ConditionFalse })},
			want: Outcome{State: Running, Container: "train"},
		},
		{
			name: "the pod is not ready since a gate of somebody's is not", job: job(),
			pods: []corev1.Pod{pod("p", 0, corev1.PodRunning, running("train"), lost, func(p *corev1.Pod) {
				p.Spec.ReadinessGates = []corev1.PodReadinessGate{{ConditionType: "example.com/gate"}}
			})},
			want: Outcome{State: Running, Container: "train"},
		},
		{
			name: "the node came back, and the pod that left it has ended", job: job(),
			pods: []corev1.Pod{pod("p", 0, corev1.PodFailed, leaving, terminated("train", 137, "Error", ""))},
			want: Outcome{State: Retrying, Reason: v1alpha1.ReasonCrashed, Container: "train"},
		},
		{
			name: "the image of the judge cannot be pulled", job: job(),
			pods: []corev1.Pod{pod("p", 0, corev1.PodPending,
				beside("judge", corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ErrImagePull", Message: "not found"}}))},
			want: Outcome{State: Blocked, Reason: v1alpha1.ReasonImagePull}, wantMessage: []string{"example.org/judge:1", "not found"},
		},
		{
			name: "the newest pod counts: a second try runs", job: job(func(j *batchv1.Job) { j.Status.Failed = 1 }),
			pods: []corev1.Pod{pod("second", 9, corev1.PodRunning, running("train")), pod("first", 0, corev1.PodFailed, terminated("train", 1, "Error", "x"))},
			want: Outcome{State: Running, Container: "train", Failures: 1},
		},
		{
			name: "killed for its memory, to be tried again", job: job(func(j *batchv1.Job) { j.Status.Failed = 1 }),
			pods:        []corev1.Pod{pod("p", 0, corev1.PodFailed, terminated("train", 137, "OOMKilled", ""))},
			want:        Outcome{State: Retrying, Reason: v1alpha1.ReasonOOMKilled, Container: "train", Failures: 1},
			wantMessage: []string{"512Mi", memoryField},
		},
		{
			name: "a permanent failure in the runtime's words", job: failedJob(batchv1.JobReasonPodFailurePolicy, "exit code 42", 1),
			pods: []corev1.Pod{pod("p", 0, corev1.PodFailed, terminated("train", 42, "Error", termination(t, mismatch)))},
			want: Outcome{State: Failed, Reason: contract.ReasonDigestMismatch, Container: "train", Failures: 1, CompletionTime: &t0, Seen: true,
				Results: map[string]contract.Termination{"train": mismatch}},
			wantMessage: []string{mismatch.Message},
		},
		{
			name: "the pod failed for good, which the Job does not say yet", job: job(),
			pods: []corev1.Pod{pod("p", 0, corev1.PodFailed, terminated("train", 42, "Error", termination(t, mismatch)))},
			want: Outcome{State: Pending, Reason: v1alpha1.ReasonFinishing, Container: "train", Failures: 1,
				Results: map[string]contract.Termination{"train": mismatch}},
			wantMessage: []string{"no other is tried"},
		},
		{
			name: "the last pod that may fail failed, which the Job does not say yet", job: job(func(j *batchv1.Job) { j.Status.Failed = 3 }),
			pods: []corev1.Pod{
				pod("one", 0, corev1.PodFailed, terminated("train", 1, "Error", "x")), pod("two", 1, corev1.PodFailed, terminated("train", 1, "Error", "x")),
				pod("three", 2, corev1.PodFailed, terminated("train", 1, "Error", "x")), pod("four", 3, corev1.PodFailed, terminated("train", 1, "Error", "x")),
			},
			want:        Outcome{State: Pending, Reason: v1alpha1.ReasonFinishing, Container: "train", Failures: 4},
			wantMessage: []string{"Pod four failed", "no other is tried"},
		},
		{
			name: "a pod failed, which the Job does not count yet", job: job(),
			pods: []corev1.Pod{pod("p", 0, corev1.PodFailed, terminated("train", 137, "OOMKilled", ""))},
			want: Outcome{State: Retrying, Reason: v1alpha1.ReasonOOMKilled, Container: "train", Failures: 1},
		},
		{
			name: "interrupted after a checkpoint, which is no failure", job: job(),
			pods: []corev1.Pod{pod("p", 0, corev1.PodFailed, terminated("train", contract.ExitInterrupted, "Error", ""))},
			want: Outcome{State: Retrying, Reason: v1alpha1.ReasonCrashed, Container: "train"},
		},
		{
			name: "given up", job: failedJob(batchv1.JobReasonBackoffLimitExceeded, "too many", 4),
			pods: []corev1.Pod{
				pod("old", 0, corev1.PodFailed, terminated("train", 1, "Error", "x")),
				pod("new", 5, corev1.PodFailed, terminated("train", 137, "OOMKilled", "")),
			},
			want:        Outcome{State: Failed, Reason: v1alpha1.ReasonOOMKilled, Container: "train", Failures: 4, GivenUp: true, CompletionTime: &t0, Seen: true},
			wantMessage: []string{"512Mi", memoryField},
		},
		{
			name: "failed, and its pods are gone", job: failedJob(batchv1.JobReasonDeadlineExceeded, "was active longer than specified deadline", 0),
			want:        Outcome{State: Failed, Reason: v1alpha1.ReasonCrashed, CompletionTime: &t0},
			wantMessage: []string{"longer than"},
		},
		{
			name: "a crash tells the end of the log", job: job(),
			pods:        []corev1.Pod{pod("p", 0, corev1.PodFailed, terminated("train", 2, "Error", "goroutine 1\nfatal error: all is lost\n"))},
			want:        Outcome{State: Retrying, Reason: v1alpha1.ReasonCrashed, Container: "train", Failures: 1},
			wantMessage: []string{"status 2", "all is lost", "kubectl logs p -c train"},
		},
		{
			name: "evicted", job: job(),
			pods: []corev1.Pod{pod("p", 0, corev1.PodFailed, func(p *corev1.Pod) {
				p.Status.Reason, p.Status.Message = "Evicted", "The node was low on resource: memory"
			})},
			want: Outcome{State: Retrying, Reason: v1alpha1.ReasonEvicted, Failures: 1}, wantMessage: []string{"low on resource"},
		},
		{
			name: "disrupted before a container said anything", job: job(),
			pods: []corev1.Pod{pod("p", 0, corev1.PodFailed, func(p *corev1.Pod) {
				p.Status.Conditions = []corev1.PodCondition{{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: "PreemptionByScheduler"}}
			})},
			want: Outcome{State: Retrying, Reason: contract.ReasonInterrupted}, wantMessage: []string{"PreemptionByScheduler"},
		},
		{
			name: "suspended", job: job(func(j *batchv1.Job) { j.Spec.Suspend = new(true) }),
			pods: []corev1.Pod{pod("p", 0, corev1.PodRunning, running("train"))},
			want: Outcome{State: Suspended, Reason: v1alpha1.ReasonSuspended},
		},
		{
			name: "done, with a result", job: complete,
			pods: []corev1.Pod{
				pod("late", 9, corev1.PodFailed, terminated("train", 1, "Error", "x")),
				pod("p", 0, corev1.PodSucceeded, terminated("train", 0, "Completed", termination(t, success))),
			},
			want: Outcome{State: Succeeded, CompletionTime: &t0, Seen: true, Failures: 1, Results: map[string]contract.Termination{"train": success}},
		},
		{
			name: "done, but the pod is gone", job: complete,
			want: Outcome{State: Succeeded, CompletionTime: &t0},
		},
		{
			name: "done, but what it said is no JSON", job: complete,
			pods: []corev1.Pod{pod("p", 0, corev1.PodSucceeded, terminated("train", 0, "Completed", `{"expert":`))},
			want: Outcome{State: Succeeded, CompletionTime: &t0, Seen: true},
		},
		{
			name: "the pod is done, nobody knows since when, and the Job does not know", job: job(),
			pods: []corev1.Pod{pod("p", 0, corev1.PodSucceeded, terminated("train", 0, "Completed", ""))},
			want: Outcome{State: Pending, Reason: v1alpha1.ReasonFinishing},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := Observe(tc.job, tc.pods, inTraining)
			if tc.want.Allowed == 0 {
				tc.want.Allowed = 4
			}
			if (got.Pod != nil) != (tc.want.State == Running) {
				t.Errorf("a pod is there: %v, in state %v", got.Pod != nil, tc.want.State)
			}
			if (got.Waits != nil) != (tc.want.Reason == v1alpha1.ReasonPending && !got.Results["train"].Permanent) {
				t.Errorf("something is waited for: %v, with reason %s", got.Waits != nil, got.Reason)
			}
			if diff := cmp.Diff(tc.want, got, cmpopts.IgnoreFields(Outcome{}, "Message", "Pod", "Waits"), cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			for _, part := range tc.wantMessage {
				if !strings.Contains(got.Message, part) {
					t.Errorf("message %q does not say %q", got.Message, part)
				}
			}
		})
	}
}

func TestHindranceOfAServingPodThatCrashes(t *testing.T) {
	p := pod("serve", 0, corev1.PodRunning, waiting("train", "CrashLoopBackOff", "back-off"), func(p *corev1.Pod) {
		p.Status.ContainerStatuses[0].LastTerminationState.Terminated = &corev1.ContainerStateTerminated{Reason: "OOMKilled", ExitCode: 137}
	})
	reason, message := Hindrance(&p, Fields{At: "spec.serving"})
	if reason != v1alpha1.ReasonOOMKilled || !strings.Contains(message, "spec.serving.resources.limits.memory") {
		t.Errorf("got %s: %s", reason, message)
	}
	healthy := pod("serve", 0, corev1.PodRunning, running("train"))
	if reason, message := Hindrance(&healthy, Fields{}); reason != "" {
		t.Errorf("a healthy pod is hindered by %s: %s", reason, message)
	}
}

// A device that cannot do what is asked for is the pod's own word, with what to do
// about it in the object's.
func TestWhatADeviceLacksIsToldWithItsRemedy(t *testing.T) {
	serving := Fields{At: "spec.serving", Need: "need less by spec.serving.contextLength"}
	for _, tc := range []struct {
		reason string
		fields Fields
		want   string
	}{
		{contract.ReasonNoDevice, serving, "or set spec.serving.backend to CPU"},
		{contract.ReasonNoDevice, serving, "spec.serving.podTemplate.spec.runtimeClassName"},
		{contract.ReasonDeviceMemory, serving, "by spec.serving.gpu or spec.serving.podTemplate.spec.nodeSelector, or need less by spec.serving.contextLength"},
		{contract.ReasonDeviceMemory, Fields{At: "spec.runtime"}, "by spec.runtime.gpu or spec.runtime.podTemplate.spec.nodeSelector"},
		{contract.ReasonHostMemory, serving, "Raise spec.serving.resources.limits.memory, or need less by spec.serving.contextLength"},
		{contract.ReasonDeviceUnsupported, inTraining, "spec.training.podTemplate.spec.nodeSelector"},
	} {
		said := termination(t, contract.Termination{Reason: tc.reason, Message: "the device says why.", Device: "cuda (A100)"})
		crashing := pod("serve", 0, corev1.PodRunning, waiting("train", "CrashLoopBackOff", "back-off"), func(p *corev1.Pod) {
			p.Status.ContainerStatuses[0].LastTerminationState.Terminated = &corev1.ContainerStateTerminated{ExitCode: 1, Message: said}
		})
		reason, message := Hindrance(&crashing, tc.fields)
		if reason != tc.reason || !strings.HasPrefix(message, "the device says why. ") || !strings.Contains(message, tc.want) {
			t.Errorf("a pod that serves: %s: %s", reason, message)
		}
		failed := Observe(job(), []corev1.Pod{pod("p", 0, corev1.PodFailed, terminated("train", 1, "Error", said))}, tc.fields)
		if failed.State != Retrying || failed.Reason != tc.reason || failed.Message != message || failed.Device != "cuda (A100)" {
			t.Errorf("a Job's pod: %+v", failed)
		}
	}
}

// The device is what the pod says that the run goes by: the newest, or the one
// that ended it.
func TestTheDeviceIsThatOfThePodThatCounts(t *testing.T) {
	on := func(device string) func(*corev1.Pod) {
		return terminated("train", 1, "Error", termination(t, contract.Termination{Reason: "RuntimeError", Message: "x", Device: device}))
	}
	completed := job(func(j *batchv1.Job) {
		j.Status.Conditions = []batchv1.JobCondition{{Type: batchv1.JobComplete, Status: corev1.ConditionTrue}}
	})
	finished := terminated("train", 0, "Completed", termination(t, contract.Termination{Device: "new"}))
	for _, tc := range []struct {
		name string
		job  *batchv1.Job
		pods []corev1.Pod
		want string
	}{
		{"the newest has not said", job(), []corev1.Pod{pod("b", 1, corev1.PodRunning, running("train")), pod("a", 0, corev1.PodFailed, on("old"))}, ""},
		{"the newest failed", job(), []corev1.Pod{pod("b", 1, corev1.PodFailed, on("new")), pod("a", 0, corev1.PodFailed, on("old"))}, "new"},
		{"one succeeded", completed, []corev1.Pod{pod("b", 1, corev1.PodSucceeded, finished), pod("a", 0, corev1.PodFailed, on("old"))}, "new"},
		{"the one that succeeded is gone", completed, []corev1.Pod{pod("a", 0, corev1.PodFailed, on("old"))}, ""},
	} {
		if got := Observe(tc.job, tc.pods, inTraining).Device; got != tc.want {
			t.Errorf("%s: %q, want %q", tc.name, got, tc.want)
		}
	}
}

func FuzzTerminationMessage(f *testing.F) {
	for _, seed := range []string{"", "{", `{"reason":"DiskFull"}`, "panic: x\n", "{}\x00", `{"expert":{"digest":1}}`, `{"reason":"no reason!","message":"x"}`, strings.Repeat("{", 5000)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, message string) {
		p := pod("p", 0, corev1.PodFailed, terminated("train", 1, "Error", message))
		out := Observe(job(), []corev1.Pod{p}, inTraining)
		if (out.State != Retrying && out.State != Pending) || !reasonPattern.MatchString(out.Reason) || out.Message == "" {
			t.Errorf("%q became %+v", message, out)
		}
	})
}
