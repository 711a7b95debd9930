package outcome

import (
	"testing"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/transformersquared/operator/controllers/status"
	"github.com/transformersquared/operator/controllers/status/statustest"
	"github.com/transformersquared/operator/runtime/contract"
)

// Every cause that is read from Jobs and pods. What is done about it is said by
// package runs.
func TestMessages(t *testing.T) {
	var all []statustest.Message
	say := func(name string, j *batchv1.Job, pods ...corev1.Pod) {
		out := Observe(j, pods, inTraining)
		all = append(all, statustest.Message{Case: name, Reason: out.Reason, Text: status.Tidy(out.Message)})
	}
	says := func(result contract.Termination) func(*corev1.Pod) {
		return terminated("train", 42, "Error", termination(t, result))
	}
	unschedulable := func(p *corev1.Pod) {
		p.Status.Conditions = []corev1.PodCondition{{
			Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: corev1.PodReasonUnschedulable, Message: "0/3 nodes are available: 3 Insufficient memory.",
		}}
	}
	say("no pod", job())
	say("a pod starts", job(), pod("p", 0, corev1.PodPending, waiting("train", "ContainerCreating", "")))
	say("no node takes the pod", job(), pod("p", 0, corev1.PodPending, unschedulable))
	say("the image cannot be pulled", job(), pod("p", 0, corev1.PodPending, waiting("train", "ImagePullBackOff", "Back-off pulling image.")))
	say("its node may have to pull the model", job(), pod("p", 0, corev1.PodPending, mounts, waiting("train", "ContainerCreating", "")))
	say("the model's artifact cannot be pulled", job(), pod("p", 0, corev1.PodPending, mounts, waiting("train", "ImagePullBackOff", "Back-off pulling image models/tiny@sha256:77")))
	say("the node mounts no images", job(), pod("p", 0, corev1.PodPending, mounts, waiting("train", "CreateContainerError", "mkdir: no such file or directory")))
	say("a Secret is missing", job(), pod("p", 0, corev1.PodPending, waiting("fetch", "CreateContainerConfigError", `secret "hub" not found`)))
	say("the pod is done, the Job not yet", job(), pod("p", 0, corev1.PodSucceeded))
	say("its node does not report", job(), pod("p", 0, corev1.PodRunning, running("train"), lost))
	say("killed for its memory", job(), pod("p", 0, corev1.PodFailed, terminated("train", 137, "OOMKilled", "")))
	say("in the runtime's words", failedJob(batchv1.JobReasonPodFailurePolicy, "x", 1), pod("p", 0, corev1.PodFailed, says(contract.Termination{
		Reason: contract.ReasonDigestMismatch, Message: "model.safetensors has another digest; correct spec.source.digest", Permanent: true,
	})))
	say("for good, which the Job does not say yet", job(), pod("p", 0, corev1.PodFailed, says(contract.Termination{
		Reason: contract.ReasonDigestMismatch, Message: "x", Permanent: true,
	})))
	say("no device", job(), pod("p", 0, corev1.PodFailed, says(contract.Termination{
		Reason: contract.ReasonNoDevice, Message: "backend cuda finds no NVIDIA driver: libcuda.so.1 is nowhere",
	})))
	say("too little memory of the device", failedJob(batchv1.JobReasonPodFailurePolicy, "x", 1), pod("p", 0, corev1.PodFailed, says(contract.Termination{
		Reason: contract.ReasonDeviceMemory, Message: "the model takes 16.1 GiB, of which the device has 15.7 GiB.", Permanent: true,
	})))
	say("too little memory of the pod", failedJob(batchv1.JobReasonPodFailurePolicy, "x", 1), pod("p", 0, corev1.PodFailed, says(contract.Termination{
		Reason: contract.ReasonHostMemory, Message: "the model takes 16.1 GiB, and the limit is 15.7 GiB.", Permanent: true,
	})))
	say("too old a device", failedJob(batchv1.JobReasonPodFailurePolicy, "x", 1), pod("p", 0, corev1.PodFailed, says(contract.Termination{
		Reason: contract.ReasonDeviceUnsupported, Message: "device 0 has compute capability 7.0, and 8.0 is needed", Permanent: true,
	})))
	say("without a word", job(), pod("p", 0, corev1.PodFailed, terminated("train", 2, "Error", "goroutine 1\nfatal error: all is lost\n")))
	say("by a signal", job(), pod("p", 0, corev1.PodFailed, func(p *corev1.Pod) {
		terminated("train", 139, "Error", "")(p)
		p.Status.ContainerStatuses[0].State.Terminated.Signal = 11
	}))
	say("evicted", job(), pod("p", 0, corev1.PodFailed, func(p *corev1.Pod) {
		p.Status.Reason, p.Status.Message = "Evicted", "The node was low on resource: memory. "
	}))
	say("disrupted", job(), pod("p", 0, corev1.PodFailed, func(p *corev1.Pod) {
		p.Status.Conditions = []corev1.PodCondition{{
			Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: "PreemptionByScheduler", Message: "default-scheduler: preempting",
		}}
	}))
	say("of which nothing is known", job(), pod("p", 0, corev1.PodFailed))
	say("failed, and its pods are gone", failedJob(batchv1.JobReasonDeadlineExceeded, "Job was active longer than specified deadline", 0))
	statustest.Check(t, all)
}
