package envtest

import (
	"context"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/runtime/contract"
)

var _ = Describe("An AdaptivePolicy", func() {
	var w world
	var policy *v1alpha1.AdaptivePolicy
	BeforeEach(func(ctx SpecContext) {
		w = newWorld(ctx)
		policy = w.policy("assistant", "math", "code")
	})
	// ready makes a base with the experts math and code, and a policy of both with
	// this many replicas that is Ready.
	ready := func(ctx SpecContext, replicas int32) []*server {
		GinkgoHelper()
		w.dataset(ctx, "{}")
		w.decompose(ctx, "tiny")
		w.train(ctx, w.expert("math"), "1")
		w.train(ctx, w.expert("code"), "2")
		policy.Spec.Serving.Replicas = new(replicas)
		Expect(k8s.Create(ctx, policy)).To(Succeed())
		servers := w.roll(ctx, "assistant")
		w.becomes(ctx, policy, metav1.ConditionTrue, v1alpha1.ReasonServing)
		return servers
	}
	set := func(ctx context.Context) contract.ExpertSet { return w.expertSet(ctx, "assistant") }

	It("serves what there is, and is ready when there is all of it", func(ctx SpecContext) {
		Expect(k8s.Create(ctx, policy)).To(Succeed())
		w.becomes(ctx, policy, metav1.ConditionFalse, v1alpha1.ReasonBaseNotFound)
		w.dataset(ctx, "{}")
		w.decompose(ctx, "tiny")
		w.becomes(ctx, policy, metav1.ConditionFalse, v1alpha1.ReasonExpertNotFound)
		Expect(policy.Status.Experts).To(HaveExactElements(
			And(HaveField("Name", "math"), HaveField("State", v1alpha1.ExpertMissing)),
			And(HaveField("Name", "code"), HaveField("State", v1alpha1.ExpertMissing))))

		servers := w.roll(ctx, "assistant")
		w.train(ctx, w.expert("code"), "2")
		Eventually(func() int { return len(set(ctx).Experts) }).Should(Equal(1))
		math := w.expert("math")
		Expect(k8s.Create(ctx, math)).To(Succeed())
		message := w.becomes(ctx, policy, metav1.ConditionFalse, v1alpha1.ReasonExpertsNotReady).Message
		Expect(message).To(ContainSubstring("ExpertVector math"))
		Eventually(func(g Gomega) {
			g.Expect(servers[0].sets()).NotTo(BeEmpty())
			last := servers[0].sets()[len(servers[0].sets())-1]
			g.Expect(last.Experts).To(ConsistOf(HaveField("Name", "code")))
		}).Should(Succeed())

		w.finishTraining(ctx, "math", trained("1", "a", "b"))
		w.becomes(ctx, policy, metav1.ConditionTrue, v1alpha1.ReasonServing)
		Expect(set(ctx)).To(Equal(contract.ExpertSet{Strategy: contract.StrategyPrompt, Experts: []contract.ExpertRef{
			{Name: "math", Skill: "math", Description: "all of math", Digest: digest("1")},
			{Name: "code", Skill: "code", Description: "all of code", Digest: digest("2")},
		}}))
		Expect(policy.Status.Experts).To(HaveEach(HaveField("State", v1alpha1.ExpertServed)))
		Expect(policy.Status.URL).To(Equal("http://assistant." + w.namespace + ".svc/v1"))
		Expect(policy.Status.Pods).To(BeEmpty())
		Expect(policy.Status.PodCounts).To(HaveValue(Equal(counts(1, 0, 0))))
		Expect(policy.Status.ReplicaSummary).To(Equal("1/1"))
		Expect(policy.Status.ExpertSummary).To(Equal("2/2"))
		Expect(policy.Status.ReadyReplicas).To(HaveValue(Equal(int32(1))))
		w.told(ctx, policy, corev1.EventTypeNormal, v1alpha1.ReasonServing)

		var service corev1.Service
		w.get(ctx, "assistant", &service)
		Expect(service.Spec.Ports).To(HaveExactElements(And(HaveField("Port", int32(80)), HaveField("TargetPort.StrVal", "api"))))
		deployment := w.deployed(ctx, "assistant")
		for _, owned := range []client.Object{&service, deployment} {
			Expect(metav1.IsControlledBy(owned, policy)).To(BeTrue())
		}
	})

	It("is ready only when every pod has the new set, and starts no pod anew for it", func(ctx SpecContext) {
		servers := ready(ctx, 2)
		before := w.deployed(ctx, "assistant")
		servers[1].change(func(s *server) { s.refuse = "expert law: file is truncated" })

		w.train(ctx, w.expert("law"), "3")
		w.get(ctx, "assistant", policy)
		policy.Spec.Experts = append(policy.Spec.Experts, v1alpha1.PolicyExpert{Name: "law"})
		Expect(k8s.Update(ctx, policy)).To(Succeed())
		message := w.becomes(ctx, policy, metav1.ConditionFalse, v1alpha1.ReasonExpertSetRefused).Message
		Expect(message).To(ContainSubstring("file is truncated"))
		Eventually(func(g Gomega) {
			w.get(ctx, "assistant", policy)
			g.Expect(policy.Status.Pods).To(HaveExactElements(HaveField("Error", ContainSubstring("file is truncated"))))
			g.Expect(policy.Status.PodCounts).To(HaveValue(Equal(counts(1, 0, 1))))
		}).Should(Succeed())
		w.told(ctx, policy, corev1.EventTypeWarning, v1alpha1.ReasonExpertSetRefused)

		servers[1].change(func(s *server) { s.refuse = "" })
		w.becomes(ctx, policy, metav1.ConditionTrue, v1alpha1.ReasonServing)
		Expect(w.deployed(ctx, "assistant").Generation).To(Equal(before.Generation))
		for _, s := range servers {
			sets := s.sets()
			Expect(sets[len(sets)-1].Experts).To(HaveLen(3))
		}
	})

	It("notices a pod that forgot its experts, and one that is wrong about the token", func(ctx SpecContext) {
		servers := ready(ctx, 1)
		servers[0].change(func(s *server) { s.status.ExpertSetDigest = ""; s.token = "another" })
		touch(ctx, w, policy)
		Expect(w.becomes(ctx, policy, metav1.ConditionFalse, v1alpha1.ReasonExpertSetRefused).Message).To(ContainSubstring("wrong token"))
		var secret corev1.Secret
		w.get(ctx, "assistant-admin", &secret)
		servers[0].change(func(s *server) { s.token = string(secret.Data["token"]) })
		w.becomes(ctx, policy, metav1.ConditionTrue, v1alpha1.ReasonServing)
	})

	It("says what was chosen last, at most about once a minute", func(ctx SpecContext) {
		servers := ready(ctx, 2)
		choose := func(i int, at time.Time, expert string) {
			servers[i].change(func(s *server) {
				s.status.Requests++
				s.status.LastAdaptationTime = at
				s.status.LastAdaptation = &contract.Adaptation{
					Strategy: contract.StrategyPrompt, Expert: expert, Weights: map[string]float64{expert: 1},
				}
			})
			touch(ctx, w, policy)
		}
		begun := time.Now()
		choose(0, begun.Add(-2*time.Minute), "code")
		chosen := func(g Gomega) *v1alpha1.AdaptationStatus {
			w.get(ctx, "assistant", policy)
			g.Expect(policy.Status.Adaptation).NotTo(BeNil())
			return policy.Status.Adaptation
		}
		Eventually(func(g Gomega) {
			a := chosen(g)
			g.Expect(a.Strategy).To(Equal(v1alpha1.StrategyPrompt))
			g.Expect(a.Expert).To(Equal("code"))
			g.Expect(a.Time.Unix()).To(Equal(begun.Add(-2 * time.Minute).Unix()))
		}).Should(Succeed())
		choose(1, begun, "math")
		Eventually(func(g Gomega) {
			a := chosen(g)
			g.Expect(a.Expert).To(Equal("math"))
			g.Expect(a.Weights).To(Equal([]v1alpha1.ExpertWeight{{Name: "math", Weight: "1.0000"}}))
		}).Should(Succeed())

		By("not writing each choice that follows")
		version := policy.ResourceVersion
		choose(0, begun.Add(time.Second), "code")
		touched := policy.ResourceVersion
		Expect(touched).NotTo(Equal(version))
		Consistently(func(g Gomega) {
			g.Expect(chosen(g).Expert).To(Equal("math"))
			g.Expect(policy.ResourceVersion).To(Equal(touched))
		}).Should(Succeed())
	})

	It("follows a selector", func(ctx SpecContext) {
		policy.Spec.Experts = nil
		policy.Spec.ExpertSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"team": "demo"}}
		w.dataset(ctx, "{}")
		w.decompose(ctx, "tiny")
		Expect(k8s.Create(ctx, policy)).To(Succeed())
		w.roll(ctx, "assistant")
		w.becomes(ctx, policy, metav1.ConditionTrue, v1alpha1.ReasonServing)
		Expect(set(ctx).Experts).To(BeEmpty())

		math, other := w.expert("math"), w.expert("other")
		math.Labels = map[string]string{"team": "demo"}
		w.train(ctx, math, "1")
		w.train(ctx, other, "2")
		Eventually(func() []contract.ExpertRef { return set(ctx).Experts }).Should(ConsistOf(HaveField("Name", "math")))
		w.becomes(ctx, policy, metav1.ConditionTrue, v1alpha1.ReasonServing)

		w.get(ctx, "math", math)
		math.Labels = nil
		Expect(k8s.Update(ctx, math)).To(Succeed())
		Eventually(func() []contract.ExpertRef { return set(ctx).Experts }).Should(BeEmpty())
	})

	It("mixes by fixed weights", func(ctx SpecContext) {
		w.dataset(ctx, "{}")
		w.decompose(ctx, "tiny")
		w.train(ctx, w.expert("math"), "1")
		w.train(ctx, w.expert("code"), "2")
		policy.Spec.Strategy.Type = v1alpha1.StrategyFixed
		policy.Spec.Experts[0].Weight, policy.Spec.Experts[1].Weight = "0.75", "0.25"
		Expect(k8s.Create(ctx, policy)).To(Succeed())
		w.roll(ctx, "assistant")
		w.becomes(ctx, policy, metav1.ConditionTrue, v1alpha1.ReasonServing)
		Expect(set(ctx)).To(And(HaveField("Strategy", contract.StrategyFixed),
			HaveField("Experts", HaveExactElements(HaveField("Weight", 0.75), HaveField("Weight", 0.25)))))
	})

	It("falls back on an expert, once it is there", func(ctx SpecContext) {
		policy.Spec.Strategy.Fallback = &v1alpha1.Fallback{Type: v1alpha1.FallbackExpert, Name: "code"}
		w.dataset(ctx, "{}")
		w.decompose(ctx, "tiny")
		w.train(ctx, w.expert("math"), "1")
		Expect(k8s.Create(ctx, policy)).To(Succeed())
		w.roll(ctx, "assistant")
		Eventually(func() contract.ExpertSet { return set(ctx) }).Should(And(HaveField("Experts", HaveLen(1)), HaveField("Fallback", "")))
		w.train(ctx, w.expert("code"), "2")
		w.becomes(ctx, policy, metav1.ConditionTrue, v1alpha1.ReasonServing)
		Expect(set(ctx)).To(HaveField("Fallback", "code"))
	})

	It("stalls on experts that cannot be served together", func(ctx SpecContext) {
		ready(ctx, 1)
		twin := w.expert("twin")
		twin.Spec.Skill = "math"
		w.train(ctx, twin, "3")
		w.get(ctx, "assistant", policy)
		policy.Spec.Experts = append(policy.Spec.Experts, v1alpha1.PolicyExpert{Name: "twin"})
		Expect(k8s.Update(ctx, policy)).To(Succeed())
		Expect(w.becomes(ctx, policy, metav1.ConditionFalse, v1alpha1.ReasonDuplicateSkill).Message).To(ContainSubstring("math and twin"))
		Expect(set(ctx).Experts).To(HaveLen(2))

		stranger := w.expert("stranger")
		stranger.Spec.BaseModelRef.Name = "elsewhere"
		Expect(k8s.Create(ctx, stranger)).To(Succeed())
		policy.Spec.Experts[2].Name = "stranger"
		Expect(k8s.Update(ctx, policy)).To(Succeed())
		w.becomes(ctx, policy, metav1.ConditionFalse, v1alpha1.ReasonExpertOfAnotherBase)

		policy.Spec.Experts = policy.Spec.Experts[:2]
		policy.Spec.ExpertSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"no": "body"}}
		policy.Spec.Strategy.Fallback = &v1alpha1.Fallback{Type: v1alpha1.FallbackExpert, Name: "law"}
		Expect(k8s.Update(ctx, policy)).To(Succeed())
		w.becomes(ctx, policy, metav1.ConditionFalse, v1alpha1.ReasonFallbackNotFound)
	})

	It("serves an expert's old artifact while a new run goes on", func(ctx SpecContext) {
		ready(ctx, 1)
		math := &v1alpha1.ExpertVector{}
		w.get(ctx, "math", math)
		math.Spec.Training.Seed = ptr.To[int64](9)
		Expect(k8s.Update(ctx, math)).To(Succeed())
		w.becomes(ctx, policy, metav1.ConditionFalse, v1alpha1.ReasonExpertsNotReady)
		Expect(set(ctx).Experts[0].Digest).To(Equal(digest("1")))
		Eventually(func(g Gomega) {
			w.get(ctx, "assistant", policy)
			g.Expect(policy.Status.Experts[0].State).To(Equal(v1alpha1.ExpertUpdating))
		}).Should(Succeed())
		w.finishTraining(ctx, "math", trained("8", "a", "b"))
		w.becomes(ctx, math, metav1.ConditionTrue, v1alpha1.ReasonSucceeded)
		Eventually(func() string { return set(ctx).Experts[0].Digest }).Should(Equal(digest("8")))
		w.becomes(ctx, policy, metav1.ConditionTrue, v1alpha1.ReasonServing)
	})

	It("moves to a new base at once, with all its experts", func(ctx SpecContext) {
		ready(ctx, 1)
		before := w.deployed(ctx, "assistant")
		base := &v1alpha1.BaseModel{}
		w.get(ctx, "tiny", base)
		base.Spec.Decomposition.DType = v1alpha1.DTypeBF16
		Expect(k8s.Update(ctx, base)).To(Succeed())
		w.becomes(ctx, policy, metav1.ConditionFalse, v1alpha1.ReasonBaseNotReady)
		w.finishDecompose(ctx, "tiny", decomposed("a", "c"))
		w.becomes(ctx, base, metav1.ConditionTrue, v1alpha1.ReasonSucceeded)

		for i, name := range []string{"math", "code"} {
			w.becomes(ctx, policy, metav1.ConditionFalse, v1alpha1.ReasonDecompositionMismatch)
			Expect(w.deployed(ctx, "assistant").Generation).To(Equal(before.Generation), "the old base is served on")
			Expect(set(ctx).Experts).To(HaveLen(2))
			expert := &v1alpha1.ExpertVector{ObjectMeta: w.meta(name)}
			w.becomes(ctx, expert, metav1.ConditionFalse, v1alpha1.ReasonPending)
			w.finishTraining(ctx, name, trained([]string{"7", "8"}[i], "a", "c"))
			w.becomes(ctx, expert, metav1.ConditionTrue, v1alpha1.ReasonSucceeded)
		}
		Eventually(func() int64 { return w.deployed(ctx, "assistant").Generation }).Should(BeNumerically(">", before.Generation))
		w.becomes(ctx, policy, metav1.ConditionFalse, v1alpha1.ReasonRollingOut)
		var old corev1.PodList
		Expect(k8s.List(ctx, &old, client.InNamespace(w.namespace), client.MatchingLabels{v1alpha1.LabelPolicy: "assistant"})).To(Succeed())
		w.roll(ctx, "assistant")
		for i := range old.Items {
			w.removePod(ctx, &old.Items[i])
		}
		w.becomes(ctx, policy, metav1.ConditionTrue, v1alpha1.ReasonServing)
		Expect(policy.Status.DecompositionDigest).To(Equal(v1alpha1.Digest(digest("c"))))
	})

	It("scales by the scale subresource", func(ctx SpecContext) {
		ready(ctx, 1)
		scale := &autoscalingv1.Scale{}
		Expect(k8s.SubResource("scale").Get(ctx, policy, scale)).To(Succeed())
		Expect(scale.Status.Selector).To(ContainSubstring(v1alpha1.LabelPolicy + "=assistant"))
		scale.Spec.Replicas = 0
		Expect(k8s.SubResource("scale").Update(ctx, policy, client.WithSubResourceBody(scale))).To(Succeed())
		Eventually(func() int32 { return *w.deployed(ctx, "assistant").Spec.Replicas }).Should(BeZero())
		var list corev1.PodList
		Expect(k8s.List(ctx, &list, client.InNamespace(w.namespace), client.MatchingLabels{v1alpha1.LabelPolicy: "assistant"})).To(Succeed())
		for i := range list.Items {
			w.removePod(ctx, &list.Items[i])
		}
		w.setDeployment(ctx, "assistant")
		w.becomes(ctx, policy, metav1.ConditionTrue, v1alpha1.ReasonScaledToZero)
	})

	It("says what keeps its pods from serving", func(ctx SpecContext) {
		ready(ctx, 1)
		var list corev1.PodList
		Expect(k8s.List(ctx, &list, client.InNamespace(w.namespace), client.MatchingLabels{v1alpha1.LabelPolicy: "assistant"})).To(Succeed())
		crash := waits("serve", "CrashLoopBackOff", "back-off")
		crash.LastTerminationState.Terminated = &corev1.ContainerStateTerminated{Reason: "OOMKilled", ExitCode: 137}
		w.setPod(ctx, &list.Items[0], corev1.PodRunning, crash)
		message := w.becomes(ctx, policy, metav1.ConditionFalse, v1alpha1.ReasonOOMKilled).Message
		Expect(message).To(ContainSubstring("raise spec.serving.resources.limits.memory"))
	})

	It("mends what somebody changed", func(ctx SpecContext) {
		ready(ctx, 1)
		d := w.deployed(ctx, "assistant")
		d.Spec.Template.Spec.Containers[0].Image = "example.org/miner"
		d.Spec.Template.Spec.AutomountServiceAccountToken = new(true)
		Expect(k8s.Update(ctx, d)).To(Succeed())
		Eventually(func(g Gomega) {
			var d appsv1.Deployment
			w.get(ctx, "assistant", &d)
			g.Expect(d.Spec.Template.Spec.Containers[0].Image).To(Equal(settings.RuntimeImage))
			g.Expect(d.Spec.Template.Spec.AutomountServiceAccountToken).To(HaveValue(BeFalse()))
		}).Should(Succeed())
		var configMap corev1.ConfigMap
		w.get(ctx, "assistant-experts", &configMap)
		was := configMap.Data[contract.ExpertSetKey]
		configMap.Data[contract.ExpertSetKey] = "{}"
		Expect(k8s.Update(ctx, &configMap)).To(Succeed())
		Eventually(func() string {
			w.get(ctx, "assistant-experts", &configMap)
			return configMap.Data[contract.ExpertSetKey]
		}).Should(Equal(was))
	})
})

// counts are those of pods that serve what is expected, are about to, and failed.
func counts(current, updating, failed int32) v1alpha1.PodCounts {
	return v1alpha1.PodCounts{
		Total: new(current + updating + failed), Current: new(current), Updating: new(updating), Failed: new(failed),
	}
}

// touch makes the operator look at an object now.
func touch(ctx context.Context, w world, obj client.Object) {
	GinkgoHelper()
	w.get(ctx, obj.GetName(), obj)
	patch := client.MergeFrom(obj.DeepCopyObject().(client.Object))
	annotations := map[string]string{"touched": metav1.Now().String()}
	obj.SetAnnotations(annotations)
	Expect(k8s.Patch(ctx, obj, patch)).To(Succeed())
}
