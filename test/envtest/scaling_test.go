package envtest

import (
	"encoding/json"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/controllers/apply"
	"github.com/transformersquared/operator/controllers/desired"
)

var _ = Describe("A policy's number of pods", func() {
	var w world
	var policy *v1alpha1.AdaptivePolicy
	BeforeEach(func(ctx SpecContext) {
		w = newWorld(ctx)
		w.dataset(ctx, "{}")
		w.decompose(ctx, "tiny")
		w.train(ctx, w.expert("math"), "1")
		policy = w.policy("assistant", "math")
		Expect(k8s.Create(ctx, policy)).To(Succeed())
		w.roll(ctx, "assistant")
		w.becomes(ctx, policy, metav1.ConditionTrue, v1alpha1.ReasonServing)
	})
	// scale writes the subresource, as autoscalers do.
	scale := func(ctx SpecContext, replicas int32) {
		GinkgoHelper()
		Expect(k8s.SubResource("scale").Update(ctx, policy, client.WithSubResourceBody(
			&autoscalingv1.Scale{Spec: autoscalingv1.ScaleSpec{Replicas: replicas}}))).To(Succeed())
	}
	deployedReplicas := func(ctx SpecContext) int32 { return *w.deployed(ctx, "assistant").Spec.Replicas }

	It("is an autoscaler's, by the scale subresource, to none and back", func(ctx SpecContext) {
		before := w.deployed(ctx, "assistant").Spec.Template
		for _, replicas := range []int32{0, 3, 1} {
			scale(ctx, replicas)
			Eventually(deployedReplicas).WithContext(ctx).Should(Equal(replicas))
			Expect(w.deployed(ctx, "assistant").Spec.Template).To(Equal(before), "the pods that run are replaced")
			if replicas == 0 {
				for _, pod := range w.podsOf(ctx, "assistant") {
					w.removePod(ctx, &pod)
				}
				w.setDeployment(ctx, "assistant")
				w.becomes(ctx, policy, metav1.ConditionTrue, v1alpha1.ReasonScaledToZero)
			}
			// Nobody takes it back.
			Consistently(func() int32 {
				w.get(ctx, policy.Name, policy)
				return *policy.Spec.Serving.Replicas
			}).Should(Equal(replicas))
			Expect(deployedReplicas(ctx)).To(Equal(replicas))
		}
		By("asking the subresource how many pods there are, and which")
		got := &autoscalingv1.Scale{}
		w.roll(ctx, "assistant")
		Eventually(func(g Gomega) {
			g.Expect(k8s.SubResource("scale").Get(ctx, policy, got)).To(Succeed())
			g.Expect(got.Status.Replicas).To(Equal(int32(1)))
		}).Should(Succeed())
		Expect(w.podsOf(ctx, "assistant")).To(HaveLen(1))
		for _, pod := range w.podsOf(ctx, "assistant") {
			for requirement := range strings.SplitSeq(got.Status.Selector, ",") {
				name, value, _ := strings.Cut(requirement, "=")
				Expect(pod.Labels).To(HaveKeyWithValue(name, value))
			}
		}
	})

	It("stays an autoscaler's when a pipeline applies the policy without it", func(ctx SpecContext) {
		apply := func(description string) {
			GinkgoHelper()
			config := map[string]any{
				"apiVersion": v1alpha1.SchemeGroupVersion.String(), "kind": "AdaptivePolicy",
				"metadata": map[string]any{"name": "assistant", "namespace": w.namespace, "annotations": map[string]any{"note": description}},
				"spec": map[string]any{
					"baseModelRef": map[string]any{"name": "tiny"}, "experts": []any{map[string]any{"name": "math"}},
				},
			}
			text, err := json.Marshal(config)
			Expect(err).NotTo(HaveOccurred())
			Expect(k8s.Patch(ctx, &v1alpha1.AdaptivePolicy{ObjectMeta: w.meta("assistant")},
				client.RawPatch("application/apply-patch+yaml", text), client.FieldOwner("pipeline"), client.ForceOwnership)).To(Succeed())
		}
		scale(ctx, 3)
		apply("one")
		apply("two")
		w.get(ctx, policy.Name, policy)
		Expect(*policy.Spec.Serving.Replicas).To(Equal(int32(3)))
		Eventually(deployedReplicas).WithContext(ctx).Should(Equal(int32(3)))
		By("finding nothing of a specification that is the operator's")
		for _, entry := range policy.ManagedFields {
			if entry.Manager == v1alpha1.FieldOwner || entry.Subresource == "status" {
				Expect(entry.FieldsV1.GetRawString()).NotTo(ContainSubstring(`"f:spec"`), "by %s", entry.Manager)
			}
		}
	})

	It("is bounded from below by a PodDisruptionBudget, unless somebody has one", func(ctx SpecContext) {
		budget := &policyv1.PodDisruptionBudget{}
		w.get(ctx, "assistant", budget)
		Expect(budget.Spec.MaxUnavailable.IntValue()).To(Equal(1))
		selector, err := metav1.LabelSelectorAsSelector(budget.Spec.Selector)
		Expect(err).NotTo(HaveOccurred())
		var selected corev1.PodList
		Expect(k8s.List(ctx, &selected, client.InNamespace(w.namespace), client.MatchingLabelsSelector{Selector: selector})).To(Succeed())
		Expect(selected.Items).To(HaveLen(len(w.podsOf(ctx, "assistant"))), "pods of Jobs are no business of it")

		By("bringing back one that somebody changed")
		budget.Spec.MaxUnavailable.IntVal = 5
		Expect(k8s.Update(ctx, budget)).To(Succeed())
		Eventually(func(g Gomega) {
			w.get(ctx, "assistant", budget)
			g.Expect(budget.Spec.MaxUnavailable.IntValue()).To(Equal(1))
		}).Should(Succeed())

		change := func(d *v1alpha1.Disruption) {
			w.get(ctx, policy.Name, policy)
			policy.Spec.Serving.Disruption = d
			Expect(k8s.Update(ctx, policy)).To(Succeed())
		}
		change(&v1alpha1.Disruption{Budget: v1alpha1.BudgetNone})
		Eventually(func() bool {
			return apierrors.IsNotFound(k8s.Get(ctx, client.ObjectKeyFromObject(policy), budget))
		}).Should(BeTrue())

		By("leaving one alone that has its name")
		theirs := &policyv1.PodDisruptionBudget{ObjectMeta: w.meta("assistant"), Spec: policyv1.PodDisruptionBudgetSpec{
			Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "theirs"}},
		}}
		theirs.Labels = map[string]string{v1alpha1.LabelManagedBy: v1alpha1.ManagedBy}
		Expect(k8s.Create(ctx, theirs)).To(Succeed())
		change(&v1alpha1.Disruption{MaxUnavailable: ptr.To[int32](2)})
		w.becomes(ctx, policy, metav1.ConditionFalse, "NameTaken")
		w.has(ctx, policy, v1alpha1.ConditionAvailable, metav1.ConditionTrue, v1alpha1.ReasonAnswering)
		Expect(k8s.Delete(ctx, theirs)).To(Succeed())
		change(&v1alpha1.Disruption{MaxUnavailable: ptr.To[int32](3)})
		Eventually(func(g Gomega) {
			g.Expect(k8s.Get(ctx, client.ObjectKeyFromObject(policy), budget)).To(Succeed())
			g.Expect(budget.Spec.MaxUnavailable.IntValue()).To(Equal(3))
		}).Should(Succeed())
	})
})

var _ = It("A policy that is made anew waits for what the one before left, and says so", func(ctx SpecContext) {
	w := newWorld(ctx)
	w.dataset(ctx, "{}")
	w.decompose(ctx, "tiny")
	w.train(ctx, w.expert("math"), "1")
	Expect(k8s.Create(ctx, w.policy("assistant", "math"))).To(Succeed())
	w.roll(ctx, "assistant")
	w.becomes(ctx, w.policy("assistant", "math"), metav1.ConditionTrue, v1alpha1.ReasonServing)
	var left corev1.Secret
	w.get(ctx, "assistant-admin", &left)
	Expect(k8s.Delete(ctx, w.policy("assistant", "math"))).To(Succeed()) // There is no garbage collector here.
	Eventually(func() bool {
		return apierrors.IsNotFound(k8s.Get(ctx, client.ObjectKey{Namespace: w.namespace, Name: "assistant"}, &v1alpha1.AdaptivePolicy{}))
	}).Should(BeTrue())

	policy := w.policy("assistant", "math")
	Expect(k8s.Create(ctx, policy)).To(Succeed())
	ready := w.becomes(ctx, policy, metav1.ConditionFalse, apply.ReasonPreviousOwner)
	Expect(ready.Message).To(ContainSubstring("that was deleted (uid %s)", left.OwnerReferences[0].UID))
	Expect(meta.IsStatusConditionTrue(policy.Status.Conditions, v1alpha1.ConditionStalled)).To(BeFalse())

	By("going on once it is deleted, though nobody tells of it")
	for _, object := range []client.Object{&corev1.Secret{ObjectMeta: w.meta("assistant-admin")}, w.deployed(ctx, "assistant"),
		&corev1.Service{ObjectMeta: w.meta("assistant")}, &corev1.ConfigMap{ObjectMeta: w.meta(desired.ExpertSetName(policy))},
		&policyv1.PodDisruptionBudget{ObjectMeta: w.meta("assistant")}} {
		Expect(k8s.Delete(ctx, object)).To(Succeed())
	}
	for _, pod := range w.podsOf(ctx, "assistant") {
		w.removePod(ctx, &pod)
	}
	Eventually(func(g Gomega) {
		var secret corev1.Secret
		g.Expect(k8s.Get(ctx, client.ObjectKeyFromObject(&left), &secret)).To(Succeed())
		g.Expect(secret.OwnerReferences).To(ConsistOf(HaveField("UID", policy.UID)))
	}).WithTimeout(20 * time.Second).Should(Succeed())
	w.roll(ctx, "assistant")
	w.becomes(ctx, policy, metav1.ConditionTrue, v1alpha1.ReasonServing)
})

var _ = DescribeTable("A policy's schema of running", func(change func(*v1alpha1.AdaptivePolicy), want string) {
	checked(func(w world) *v1alpha1.AdaptivePolicy { return w.policy("assistant", "math") }, change, want)
},
	Entry("takes an hour to drain", func(p *v1alpha1.AdaptivePolicy) { p.Spec.Serving.DrainSeconds = ptr.To[int32](3600) }, accepted),
	Entry("drains for some time", func(p *v1alpha1.AdaptivePolicy) { p.Spec.Serving.DrainSeconds = ptr.To[int32](0) }, "spec.serving.drainSeconds"),
	Entry("drains no longer than a day", func(p *v1alpha1.AdaptivePolicy) { p.Spec.Serving.DrainSeconds = ptr.To[int32](86401) }, "spec.serving.drainSeconds"),
	Entry("takes a bound of evictions", func(p *v1alpha1.AdaptivePolicy) {
		p.Spec.Serving.Disruption = &v1alpha1.Disruption{Budget: v1alpha1.BudgetManaged, MaxUnavailable: ptr.To[int32](2)}
	}, accepted),
	Entry("takes none", func(p *v1alpha1.AdaptivePolicy) {
		p.Spec.Serving.Disruption = &v1alpha1.Disruption{Budget: v1alpha1.BudgetNone}
	}, accepted),
	Entry("wants something of disruption", func(p *v1alpha1.AdaptivePolicy) { p.Spec.Serving.Disruption = &v1alpha1.Disruption{} }, "at least 1 properties"),
	Entry("lets some pod go", func(p *v1alpha1.AdaptivePolicy) {
		p.Spec.Serving.Disruption = &v1alpha1.Disruption{MaxUnavailable: ptr.To[int32](0)}
	}, "spec.serving.disruption.maxUnavailable"),
	Entry("bounds nothing without a budget", func(p *v1alpha1.AdaptivePolicy) {
		p.Spec.Serving.Disruption = &v1alpha1.Disruption{Budget: v1alpha1.BudgetNone, MaxUnavailable: ptr.To[int32](2)}
	}, "of which budget None makes none"),
	Entry("knows its budgets", func(p *v1alpha1.AdaptivePolicy) {
		p.Spec.Serving.Disruption = &v1alpha1.Disruption{Budget: "Some"}
	}, `Unsupported value: "Some"`),
)
