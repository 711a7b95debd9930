package envtest

import (
	"context"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/cli-utils/pkg/kstatus/status"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/transformersquared/operator/api/v1alpha1"
)

type object interface {
	client.Object
	StatusConditions() *[]metav1.Condition
}

// becomes waits until an object's Ready condition is as wanted for its present
// generation, checks what must always hold, and returns the condition. The
// object is read into obj.
func (w world) becomes(ctx context.Context, obj object, want metav1.ConditionStatus, reason string) metav1.Condition {
	GinkgoHelper()
	var ready metav1.Condition
	Eventually(func(g Gomega) {
		g.Expect(k8s.Get(ctx, client.ObjectKeyFromObject(obj), obj)).To(Succeed())
		c := meta.FindStatusCondition(*obj.StatusConditions(), v1alpha1.ConditionReady)
		g.Expect(c).NotTo(BeNil())
		g.Expect([]string{string(c.Status), c.Reason}).To(Equal([]string{string(want), reason}), c.Message)
		g.Expect(c.ObservedGeneration).To(Equal(obj.GetGeneration()))
		ready = *c
	}).Should(Succeed())
	exclusive(obj)
	return ready
}

// exclusive checks that Ready, Reconciling and Stalled say one thing, and that
// kstatus reads the same from them.
func exclusive(obj object) {
	GinkgoHelper()
	holds := func(conditionType string) bool {
		return meta.IsStatusConditionTrue(*obj.StatusConditions(), conditionType)
	}
	want := status.InProgressStatus
	switch {
	case !obj.GetDeletionTimestamp().IsZero():
		want = status.TerminatingStatus
	case holds(v1alpha1.ConditionReady):
		want = status.CurrentStatus
		Expect(holds(v1alpha1.ConditionReconciling) || holds(v1alpha1.ConditionStalled)).To(BeFalse())
	case holds(v1alpha1.ConditionStalled):
		want = status.FailedStatus
		Expect(holds(v1alpha1.ConditionReconciling)).To(BeFalse())
	default:
		Expect(holds(v1alpha1.ConditionReconciling)).To(BeTrue())
	}
	Expect(kstatusOf(obj)).To(Equal(want))
}

// kstatusOf is what kstatus, and with it Helm and Flux, makes of an object.
func kstatusOf(obj client.Object) status.Status {
	GinkgoHelper()
	fields, err := runtime.DefaultUnstructuredConverter.ToUnstructured(obj)
	Expect(err).NotTo(HaveOccurred())
	result, err := status.Compute(&unstructured.Unstructured{Object: fields})
	Expect(err).NotTo(HaveOccurred())
	return result.Status
}

// told waits for an event about an object.
func (w world) told(ctx context.Context, obj client.Object, kind, reason string) {
	GinkgoHelper()
	Eventually(func(g Gomega) {
		var list eventsv1.EventList
		g.Expect(k8s.List(ctx, &list, client.InNamespace(w.namespace))).To(Succeed())
		g.Expect(list.Items).To(ContainElement(And(
			HaveField("Regarding.Name", obj.GetName()), HaveField("Reason", reason), HaveField("Type", kind),
		)))
	}).Should(Succeed())
}
