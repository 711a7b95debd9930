package envtest

import (
	"context"
	"encoding/json"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/runtime/contract"
)

// foreign makes BaseModel other, and has an ExpertVector of it trained to the artifact z.
func (w world) foreign(ctx context.Context, expert *v1alpha1.ExpertVector, z string) {
	GinkgoHelper()
	base := w.base("other")
	if err := k8s.Create(ctx, base); err == nil {
		w.finishDecompose(ctx, "other", decomposed("c", "d"))
		w.becomes(ctx, base, metav1.ConditionTrue, v1alpha1.ReasonSucceeded)
	}
	expert.Spec.BaseModelRef.Name = "other"
	Expect(k8s.Create(ctx, expert)).To(Succeed())
	w.finishTraining(ctx, expert.Name, trained(z, "c", "d"))
	w.becomes(ctx, expert, metav1.ConditionTrue, v1alpha1.ReasonSucceeded)
}

var _ = Describe("An expert of another base", func() {
	var w world
	var policy *v1alpha1.AdaptivePolicy
	BeforeEach(func(ctx SpecContext) {
		w = newWorld(ctx)
		w.dataset(ctx, "{}")
		w.decompose(ctx, "tiny")
		w.train(ctx, w.expert("math"), "1")
		w.foreign(ctx, w.expert("law"), "3")
		policy = w.policy("assistant", "math", "law")
		Expect(k8s.Create(ctx, policy)).To(Succeed())
	})
	allow := func(ctx SpecContext, transfer v1alpha1.Transfer) {
		GinkgoHelper()
		change(ctx, w, policy, func() { policy.Spec.Transfer = transfer })
	}
	transferred := func(ctx SpecContext) *metav1.Condition {
		GinkgoHelper()
		w.get(ctx, "assistant", policy)
		return meta.FindStatusCondition(policy.Status.Conditions, v1alpha1.ConditionExpertsTransferred)
	}
	told := func(ctx SpecContext) int {
		GinkgoHelper()
		var list eventsv1.EventList
		Expect(k8s.List(ctx, &list, client.InNamespace(w.namespace))).To(Succeed())
		n := 0
		for _, e := range list.Items {
			if e.Regarding.Name == "assistant" && e.Reason == v1alpha1.ReasonEqualShape {
				n++
				if e.Series != nil {
					n += int(e.Series.Count) - 1
				}
			}
		}
		return n
	}

	It("is refused, served if the policy allows it, and refused again", func(ctx SpecContext) {
		refused := w.becomes(ctx, policy, metav1.ConditionFalse, v1alpha1.ReasonExpertOfAnotherBase)
		Expect(refused.Message).To(And(ContainSubstring("BaseModel other"), ContainSubstring("spec.transfer to EqualShape")))
		Expect(transferred(ctx)).To(BeNil())
		before := w.roll(ctx, "assistant")[0]

		By("being allowed, it is in the set, and pods have its base's volume")
		allow(ctx, v1alpha1.TransferEqualShape)
		Eventually(func(g Gomega) {
			container := w.deployed(ctx, "assistant").Spec.Template.Spec.Containers[0]
			g.Expect(container.VolumeMounts).To(ContainElement(And(
				HaveField("MountPath", contract.MountTransfer+"/other"), HaveField("ReadOnly", true))))
			g.Expect(container.Env[0].Value).To(ContainSubstring(`"transferDir":"` + contract.MountTransfer + `"`))
		}).Should(Succeed())
		var configMap corev1.ConfigMap
		w.get(ctx, "assistant-experts", &configMap)
		var set contract.ExpertSet
		Expect(json.Unmarshal([]byte(configMap.Data[contract.ExpertSetKey]), &set)).To(Succeed())
		Expect(set.Experts).To(ConsistOf(
			And(HaveField("Name", "math"), HaveField("TransferFrom", "")),
			And(HaveField("Name", "law"), HaveField("TransferFrom", "other"), HaveField("Digest", digest("3")))))
		// The status is written after the Deployment, whose change was waited for above.
		Eventually(transferred).WithArguments(ctx).Should(
			HaveValue(And(HaveField("Status", metav1.ConditionFalse), HaveField("Reason", v1alpha1.ReasonLoadingExperts))))

		By("a pod without that volume is not asked to serve it")
		for _, offered := range before.sets() {
			Expect(offered.Experts).NotTo(ContainElement(HaveField("Name", "law")))
		}
		for _, old := range w.podsOf(ctx, "assistant") {
			Expect(k8s.Delete(ctx, &old, client.GracePeriodSeconds(0))).To(Succeed())
		}
		pod := w.roll(ctx, "assistant")[0]
		w.becomes(ctx, policy, metav1.ConditionTrue, v1alpha1.ReasonServing)
		Expect(transferred(ctx)).To(HaveValue(And(HaveField("Status", metav1.ConditionTrue), HaveField("Reason", v1alpha1.ReasonEqualShape),
			HaveField("Message", ContainSubstring("law (made for BaseModel other)")))))
		Expect(policy.Status.Experts).To(ConsistOf(
			And(HaveField("Name", "math"), HaveField("TransferredFrom", ""), HaveField("Score", v1alpha1.Score("0.7031"))),
			And(HaveField("Name", "law"), HaveField("TransferredFrom", "other"), HaveField("Score", v1alpha1.Score("")), HaveField("State", v1alpha1.ExpertServed))))
		Eventually(func() int { return told(ctx) }).Should(Equal(1))

		By("a pod that finds other shapes is heard, and the event stays one")
		pod.change(func(s *server) { s.misses("law", contract.ReasonDecompositionMismatch) })
		touch(ctx, w, policy)
		w.becomes(ctx, policy, metav1.ConditionFalse, v1alpha1.ReasonExpertSetRefused)
		Expect(transferred(ctx)).To(HaveValue(And(HaveField("Status", metav1.ConditionFalse), HaveField("Reason", v1alpha1.ReasonExpertSetRefused))))
		Consistently(func() int { return told(ctx) }).Should(Equal(1))
		pod.change(func(s *server) { s.finds() })
		touch(ctx, w, policy)
		w.becomes(ctx, policy, metav1.ConditionTrue, v1alpha1.ReasonServing)

		By("being switched off, it is out of the set at once")
		allow(ctx, v1alpha1.TransferRefuse)
		w.becomes(ctx, policy, metav1.ConditionFalse, v1alpha1.ReasonExpertOfAnotherBase)
		Expect(transferred(ctx)).To(BeNil())
		Eventually(func() []contract.ExpertRef { return pod.sets()[len(pod.sets())-1].Experts }).Should(ConsistOf(HaveField("Name", "math")))
		Expect(w.deployed(ctx, "assistant").Spec.Template.Spec.Containers[0].VolumeMounts).NotTo(
			ContainElement(HaveField("MountPath", contract.MountTransfer+"/other")))
	})

	It("dispatches, being a classifier", func(ctx SpecContext) {
		w.foreign(ctx, w.dispatcher("dispatch"), "4")
		change(ctx, w, policy, func() {
			policy.Spec.Experts = policy.Spec.Experts[:1]
			policy.Spec.Strategy = classifiedBy("dispatch")
		})
		Expect(w.becomes(ctx, policy, metav1.ConditionFalse, v1alpha1.ReasonExpertOfAnotherBase).Message).To(ContainSubstring("spec.transfer"))
		allow(ctx, v1alpha1.TransferEqualShape)
		Eventually(func() []corev1.VolumeMount {
			return w.deployed(ctx, "assistant").Spec.Template.Spec.Containers[0].VolumeMounts
		}).Should(ContainElement(HaveField("MountPath", contract.MountTransfer+"/other")))
		w.roll(ctx, "assistant")
		w.becomes(ctx, policy, metav1.ConditionTrue, v1alpha1.ReasonServing)
		Expect(transferred(ctx)).To(HaveValue(HaveField("Message", ContainSubstring("dispatch (made for BaseModel other)"))))
	})
})
