// Package outcome reads from a Job and its pods what became of a run: pure
// functions from the objects' status to a state, a reason and a message that
// names the cause and the remedy.
package outcome

import (
	"cmp"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/runtime/contract"
)

// State of a run.
type State int

// States, from first to last.
const (
	// Pending has no pod that runs, and nothing went wrong.
	Pending State = iota
	// Blocked has a pod that cannot start, for a reason that somebody may mend.
	Blocked
	// Suspended is held by its owner.
	Suspended
	// Running has a pod that runs.
	Running
	// Retrying had a pod that failed and will have another.
	Retrying
	// Failed is over.
	Failed
	// Succeeded is over.
	Succeeded
)

// Outcome is what became of a run so far.
type Outcome struct {
	State   State
	Reason  string
	Message string
	// Container is the one that runs or failed.
	Container string
	// Pod runs now; nil unless State is Running.
	Pod *corev1.Pod
	// Waits is what has yet to go on where nothing says why it does not: the Job
	// where it has no pod, or the pod that is starting; nil otherwise.
	Waits client.Object
	// Failures is the number of pods that failed, of the Allowed that may before
	// the run is given up. A pod that was interrupted or disrupted is none of them.
	Failures, Allowed int32
	// GivenUp says that a run failed because as many pods did as may.
	GivenUp bool
	// Results are the terminations that the newest pod's containers left, by
	// container: one that succeeded may be there while a later one still runs.
	Results map[string]contract.Termination
	// Device is what computes or computed, as far as a pod says; empty before.
	Device string
	// Seen says that the pod by which the run ended is there to be read.
	Seen bool
	// CompletionTime is when the run ended; nil before. A run that succeeded ended with its
	// work, also where its Job does not know that yet.
	CompletionTime *metav1.Time
}

// Over reports whether the run has ended.
func (o Outcome) Over() bool { return o.State == Succeeded || o.State == Failed }

// Observe looks at a Job and the pods that carry its labels. fields are those of
// the user's object that remedies name.
func Observe(job *batchv1.Job, pods []corev1.Pod, fields Fields) Outcome {
	own := ownPods(job, pods)
	out := Outcome{Failures: max(job.Status.Failed, countFailed(own)), Allowed: ptr.Deref(job.Spec.BackoffLimit, 0) + 1}
	var newest *corev1.Pod
	if len(own) > 0 {
		newest = own[0]
		out.read(newest)
	}

	if done := condition(job, batchv1.JobComplete); done != nil {
		out.State = Succeeded
		out.CompletionTime = job.Status.CompletionTime
		out.Results, out.Device = nil, ""
		if pod := firstInPhase(own, corev1.PodSucceeded); pod != nil {
			out.Seen = true
			out.read(pod)
		}
		return out
	}
	if failed := condition(job, batchv1.JobFailed); failed != nil {
		out.State = Failed
		out.CompletionTime = &failed.LastTransitionTime
		out.Reason, out.Message = v1alpha1.ReasonCrashed, failed.Message
		if pod := firstInPhase(own, corev1.PodFailed); pod != nil {
			out.Seen = true
			out.read(pod)
			f := explain(pod, fields)
			out.Reason, out.Message, out.Container = f.reason, f.message, f.container
		}
		out.GivenUp = failed.Reason == batchv1.JobReasonBackoffLimitExceeded
		return out
	}
	// Its Job says so two seconds later, or more where a container beside it takes its time.
	if end := done(newest); end != nil {
		out.State, out.Seen, out.CompletionTime = Succeeded, true, end
		return out
	}
	if job.Spec.Suspend != nil && *job.Spec.Suspend {
		out.State, out.Reason = Suspended, v1alpha1.ReasonSuspended
		return out
	}
	if newest == nil {
		out.State, out.Reason, out.Message = Pending, v1alpha1.ReasonPending, "Waiting for the Job's pod"
		out.Waits = job
		return out
	}
	observePod(&out, newest, fields)
	return out
}

func observePod(out *Outcome, pod *corev1.Pod, fields Fields) {
	switch pod.Status.Phase {
	case corev1.PodFailed:
		f := explain(pod, fields)
		out.State, out.Reason, out.Message, out.Container = Retrying, f.reason, f.message, f.container
		if out.Results[f.container].Permanent || (counts(pod) && out.Failures >= out.Allowed) {
			out.State, out.Reason = Pending, v1alpha1.ReasonFinishing
			out.Message = fmt.Sprintf("Pod %s failed, and no other is tried; waiting for the Job to end", pod.Name)
		}
	case corev1.PodSucceeded:
		finishing(out, pod)
	default:
		if reason, message := Hindrance(pod, fields); reason != "" {
			out.State, out.Reason, out.Message = Blocked, reason, message
			if reason == v1alpha1.ReasonNodeLost {
				out.Message += ". Until then no other pod begins, since both might write to the same volume"
			}
			return
		}
		if name := runningContainer(pod); name != "" {
			out.State, out.Container, out.Pod = Running, name, pod
			return
		}
		if s := working(pod); len(s) > 0 && s[len(s)-1].State.Terminated != nil {
			finishing(out, pod)
			return
		}
		out.State, out.Reason = Pending, v1alpha1.ReasonPending
		out.Message = fmt.Sprintf("Pod %s is starting", pod.Name)
		if mountsImage(pod) {
			out.Message += "; its node pulls the model's artifact first, unless it has it"
		}
		out.Waits = pod
	}
}

func finishing(out *Outcome, pod *corev1.Pod) {
	out.State, out.Reason = Pending, v1alpha1.ReasonFinishing
	out.Message = fmt.Sprintf("Pod %s is done; waiting for the Job to end", pod.Name)
}

// Hindrance says what keeps a pod from starting, or from going on, where
// something does.
func Hindrance(pod *corev1.Pod, fields Fields) (reason, message string) {
	if lost := NodeLost(pod); lost != "" {
		return v1alpha1.ReasonNodeLost, lost
	}
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse && c.Reason == corev1.PodReasonUnschedulable {
			return v1alpha1.ReasonUnschedulable, fmt.Sprintf("No node takes pod %s: %s", pod.Name, c.Message)
		}
	}
	for _, s := range statuses(pod) {
		if s.State.Waiting == nil {
			continue
		}
		w := s.State.Waiting
		switch w.Reason {
		case "ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError", "RegistryUnavailable":
			if volume := VolumeOf(pod, w.Message); volume != nil {
				return v1alpha1.ReasonImagePull, fmt.Sprintf(
					"Pod %s cannot mount the model's artifact %s (%s). Its node must be able to pull it, with spec.source.oci.pullSecretRef where the registry "+
						"wants credentials; otherwise set spec.source.delivery of the BaseModel to Copy: %s", pod.Name, volume.Reference, w.Reason, w.Message)
			}
			return v1alpha1.ReasonImagePull, fmt.Sprintf(
				"Pod %s cannot have image %s (%s); set an image that the node has or can pull: %s", pod.Name, s.Image, w.Reason, w.Message)
		case "CreateContainerConfigError", "CreateContainerError", "RunContainerError":
			message := fmt.Sprintf("Container %s of pod %s cannot be made (%s): %s", s.Name, pod.Name, w.Reason, w.Message)
			if w.Reason == "CreateContainerError" && mountsImage(pod) {
				message = strings.TrimRight(message, " .") + ". It mounts the model's artifact as an image volume, which needs containerd 2.1 or CRI-O 1.33, or newer: " +
					"if that is why, choose other nodes, or set spec.source.delivery of the BaseModel to Copy"
			}
			return v1alpha1.ReasonContainerConfig, message
		case "CrashLoopBackOff":
			if t := s.LastTerminationState.Terminated; t != nil {
				f := ended(pod, s.Name, t, fields)
				return f.reason, f.message
			}
		}
	}
	return "", ""
}

// mountsImage reports whether a pod mounts an artifact as an image volume.
func mountsImage(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.Spec.Volumes, func(v corev1.Volume) bool { return v.Image != nil })
}

// VolumeOf is the image volume of a pod that a message of the kubelet is about; nil where it is
// about the image of a container. Container runtimes may write out the registry that a
// reference leaves to them, but its digest as it is.
func VolumeOf(pod *corev1.Pod, message string) *corev1.ImageVolumeSource {
	for _, v := range pod.Spec.Volumes {
		if v.Image == nil {
			continue
		}
		if _, digest, ok := strings.Cut(v.Image.Reference, "@"); ok && strings.Contains(message, digest) {
			return v.Image
		}
	}
	return nil
}

// failure is why a pod failed.
type failure struct {
	reason, message, container string
}

func explain(pod *corev1.Pod, fields Fields) failure {
	if pod.Status.Reason == "Evicted" {
		return failure{reason: v1alpha1.ReasonEvicted, message: fmt.Sprintf("Pod %s was evicted: %s", pod.Name, pod.Status.Message)}
	}
	for _, s := range working(pod) {
		t := s.State.Terminated
		if t == nil || t.ExitCode == contract.ExitOK {
			continue
		}
		return ended(pod, s.Name, t, fields)
	}
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.DisruptionTarget && c.Status == corev1.ConditionTrue {
			return failure{contract.ReasonInterrupted, fmt.Sprintf("Pod %s was disrupted (%s): %s", pod.Name, c.Reason, c.Message), ""}
		}
	}
	message := fmt.Sprintf("Pod %s failed", pod.Name)
	if pod.Status.Message != "" {
		message += ": " + pod.Status.Message
	}
	return failure{v1alpha1.ReasonCrashed, message, ""}
}

// reasonPattern is what a condition's reason may be; a pod's word for it is
// checked, because the API server would refuse a status with another.
var reasonPattern = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9]{0,63}$`)

// ended is why a container ended: killed for its memory, by its own account, or
// without one.
func ended(pod *corev1.Pod, container string, t *corev1.ContainerStateTerminated, fields Fields) failure {
	if t.Reason == "OOMKilled" {
		return failure{v1alpha1.ReasonOOMKilled, fmt.Sprintf(
			"Container %s of pod %s was killed at its memory limit%s; raise %s",
			container, pod.Name, limitOf(pod, container), fields.memory()), container}
	}
	if result, ok := parse(t.Message); ok && reasonPattern.MatchString(result.Reason) && result.Message != "" {
		message := result.Message
		if remedy := fields.remedy(result.Reason); remedy != "" {
			message = strings.TrimRight(message, " .") + ". " + remedy
		}
		return failure{result.Reason, message, container}
	}
	return failure{v1alpha1.ReasonCrashed, crashMessage(pod, container, t), container}
}

// crashMessage tells of a container that left no Termination; its message is
// then the end of its log.
func crashMessage(pod *corev1.Pod, container string, t *corev1.ContainerStateTerminated) string {
	message := fmt.Sprintf("Container %s of pod %s ended with status %d", container, pod.Name, t.ExitCode)
	if t.Signal != 0 {
		message = fmt.Sprintf("Container %s of pod %s was ended by signal %d", container, pod.Name, t.Signal)
	}
	if last := lastLine(t.Message); last != "" {
		message += ": " + last
	}
	return message + fmt.Sprintf("; see kubectl logs %s -c %s", pod.Name, container)
}

func lastLine(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	last := []rune(strings.TrimSpace(lines[len(lines)-1]))
	const most = 300
	if len(last) > most {
		last = last[:most]
	}
	return string(last)
}

func limitOf(pod *corev1.Pod, container string) string {
	for _, c := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
		if limit, ok := c.Resources.Limits[corev1.ResourceMemory]; ok && c.Name == container {
			return " of " + limit.String()
		}
	}
	return ""
}

// ownPods are the pods that the Job made, newest first.
func ownPods(job *batchv1.Job, pods []corev1.Pod) []*corev1.Pod {
	own := make([]*corev1.Pod, 0, len(pods))
	for i := range pods {
		if owner := metav1.GetControllerOf(&pods[i]); owner != nil && owner.UID == job.UID {
			own = append(own, &pods[i])
		}
	}
	slices.SortFunc(own, func(a, b *corev1.Pod) int {
		return cmp.Or(b.CreationTimestamp.Compare(a.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
	})
	return own
}

// countFailed counts the pods that failed: the Job's own count comes later.
func countFailed(pods []*corev1.Pod) int32 {
	var n int32
	for _, pod := range pods {
		if pod.Status.Phase == corev1.PodFailed && counts(pod) {
			n++
		}
	}
	return n
}

// counts reports whether a pod's failure brings its Job nearer to its end: one
// that was interrupted or disrupted does not, by the Job's pod failure policy.
func counts(pod *corev1.Pod) bool {
	for _, s := range statuses(pod) {
		if t := s.State.Terminated; t != nil && t.ExitCode == contract.ExitInterrupted {
			return false
		}
	}
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.DisruptionTarget && c.Status == corev1.ConditionTrue {
			return false
		}
	}
	return true
}

func firstInPhase(pods []*corev1.Pod, phase corev1.PodPhase) *corev1.Pod {
	for _, pod := range pods {
		if pod.Status.Phase == phase {
			return pod
		}
	}
	return nil
}

func condition(job *batchv1.Job, conditionType batchv1.JobConditionType) *batchv1.JobCondition {
	for i := range job.Status.Conditions {
		if c := &job.Status.Conditions[i]; c.Type == conditionType && c.Status == corev1.ConditionTrue {
			return c
		}
	}
	return nil
}

// statuses are those of all containers, in the order in which they run.
func statuses(pod *corev1.Pod) []corev1.ContainerStatus {
	return slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses)
}

// working are the statuses of the containers whose work the run is: without
// those beside them, which are restarted and end when the others have.
func working(pod *corev1.Pod) []corev1.ContainerStatus {
	return slices.DeleteFunc(statuses(pod), func(s corev1.ContainerStatus) bool {
		return slices.ContainsFunc(pod.Spec.InitContainers, func(c corev1.Container) bool {
			return c.Name == s.Name && c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
		})
	})
}

// done is when the last container whose work the run is ended, if all of them did well: what
// they made is in the volume, whatever becomes of the pod. Nil before.
func done(pod *corev1.Pod) *metav1.Time {
	if pod == nil {
		return nil
	}
	var last *metav1.Time
	for _, s := range working(pod) {
		t := s.State.Terminated
		if t == nil || t.ExitCode != contract.ExitOK || t.FinishedAt.IsZero() {
			return nil
		}
		last = &t.FinishedAt
	}
	if len(pod.Status.ContainerStatuses) < len(pod.Spec.Containers) {
		return nil // The kubelet has not told of all of them.
	}
	return last
}

func runningContainer(pod *corev1.Pod) string {
	for _, s := range working(pod) {
		if s.State.Running != nil {
			return s.Name
		}
	}
	return ""
}

// read reads what a pod's containers left: one of them at most computes.
func (o *Outcome) read(pod *corev1.Pod) {
	o.Results, o.Device = results(pod), ""
	for _, result := range o.Results {
		o.Device = cmp.Or(o.Device, result.Device)
	}
}

// results are the terminations that a pod's containers left.
func results(pod *corev1.Pod) map[string]contract.Termination {
	found := map[string]contract.Termination{}
	for _, s := range statuses(pod) {
		if s.State.Terminated == nil {
			continue
		}
		if result, ok := parse(s.State.Terminated.Message); ok {
			found[s.Name] = result
		}
	}
	return found
}

// parse reads a termination message. What is not one (the end of a log, say)
// is no error: ok is false.
func parse(message string) (result contract.Termination, ok bool) {
	if !strings.HasPrefix(strings.TrimSpace(message), "{") {
		return contract.Termination{}, false
	}
	if err := json.Unmarshal([]byte(message), &result); err != nil {
		return contract.Termination{}, false
	}
	return result, true
}
