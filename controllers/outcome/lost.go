package outcome

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
)

// byTaintManager is the reason of the condition DisruptionTarget of a pod that is deleted
// since its node has a taint that it does not tolerate, as one that does not report has.
const byTaintManager = "DeletionByTaintManager"

// NodeLost says what is known of a pod whose node does not report; nothing of others. The
// pod's own status does not say it: what a kubelet said last stays as it was, so that a pod
// of a node that burnt down is running for ever. But the control plane takes the pod's
// readiness away, or deletes it, and only the kubelet could confirm either.
func NodeLost(pod *corev1.Pod) string {
	if pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed || pod.Spec.NodeName == "" {
		return ""
	}
	is := map[corev1.PodConditionType]corev1.PodCondition{}
	for _, c := range pod.Status.Conditions {
		is[c.Type] = c
	}
	// A kubelet that takes readiness away takes it from the containers, or from a gate.
	unready := is[corev1.PodReady].Status == corev1.ConditionFalse && is[corev1.ContainersReady].Status == corev1.ConditionTrue &&
		len(pod.Spec.ReadinessGates) == 0
	disrupted := is[corev1.DisruptionTarget]
	left := !pod.DeletionTimestamp.IsZero() && disrupted.Status == corev1.ConditionTrue && disrupted.Reason == byTaintManager
	if !unready && !left {
		return ""
	}
	return fmt.Sprintf("Node %s of pod %s does not report, so that nobody knows whether the pod still runs. See to the node; if it is gone for good, delete Node %s",
		pod.Spec.NodeName, pod.Name, pod.Spec.NodeName)
}
