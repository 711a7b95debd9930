package envtest

import (
	"context"
	"sync/atomic"
	"time"

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

// clock is how far the operator's clock is ahead, in nanoseconds.
type clock struct{ by atomic.Int64 }

var ahead clock

func (c *clock) now() time.Time { return time.Now().Add(time.Duration(c.by.Load())) }

func (c *clock) pass(d time.Duration) { c.by.Add(int64(d)) }

// loadBeside does what a server does with a candidate. What it has counted of the same one
// stays.
func (s *server) loadBeside(c *contract.CandidateSet) {
	if c == nil {
		s.status.Candidate = nil
		return
	}
	digest, err := c.Set.Digest()
	if err != nil {
		panic(err) // As in load.
	}
	if now := s.status.Candidate; now == nil || now.Digest != digest || now.Mode != c.Mode {
		s.status.Candidate = &contract.ServingCandidate{Digest: digest, Mode: c.Mode, Served: true, Since: time.Now()}
		if c.Mode == contract.CandidateObserve {
			s.status.Candidate.Observed = &contract.Observed{}
		}
	}
	s.status.Candidate.Percent, s.status.Candidate.Salt = c.Percent, c.Salt
}

var _ = Describe("A policy that tries expert sets", func() {
	var w world
	var policy *v1alpha1.AdaptivePolicy
	var servers []*server
	// serves makes a policy of the expert math that is Ready with this many pods, and then
	// asks for code, too.
	serves := func(ctx SpecContext, replicas int32, rollout v1alpha1.RolloutSpec) {
		GinkgoHelper()
		w = newWorld(ctx)
		w.dataset(ctx, "{}")
		w.decompose(ctx, "tiny")
		w.train(ctx, w.expert("math"), "1")
		w.train(ctx, w.expert("code"), "2")
		policy = w.policy("assistant", "math")
		policy.Spec.Rollout, policy.Spec.Serving.Replicas = &rollout, new(replicas)
		Expect(k8s.Create(ctx, policy)).To(Succeed())
		servers = w.roll(ctx, "assistant")
		w.becomes(ctx, policy, metav1.ConditionTrue, v1alpha1.ReasonServing)
		Expect(policy.Status.Rollout.Summary).To(Equal("Stable"))
		policy.Spec.Experts = append(policy.Spec.Experts, v1alpha1.PolicyExpert{Name: "code"})
		Expect(k8s.Update(ctx, policy)).To(Succeed())
	}
	restart := func() {
		GinkgoHelper()
		operator.stop()
		operator = start()
	}
	// passes lets time pass, and has the operator look.
	passes := func(ctx context.Context, d time.Duration) {
		GinkgoHelper()
		ahead.pass(d)
		touch(ctx, w, policy)
	}
	// running waits until every pod has the candidate, and the status says so.
	running := func(ctx context.Context, summary string, state func(*v1alpha1.RolloutStatus) v1alpha1.TrialState) {
		GinkgoHelper()
		Eventually(func(g Gomega) {
			w.get(ctx, "assistant", policy)
			g.Expect(policy.Status.Rollout.Summary).To(Equal(summary))
			g.Expect(state(policy.Status.Rollout)).To(Equal(v1alpha1.TrialRunning))
		}).Should(Succeed())
	}
	canary := func(r *v1alpha1.RolloutStatus) v1alpha1.TrialState {
		if r.Canary == nil {
			return ""
		}
		return r.Canary.State
	}
	rolledOut := func() *metav1.Condition {
		return meta.FindStatusCondition(policy.Status.Conditions, v1alpha1.ConditionRolledOut)
	}
	steps := []v1alpha1.CanaryStep{{Percent: 10, Minutes: 5}, {Percent: 50, Minutes: 5}}

	It("observes a new set, lets it answer more and more, and then serves it, whenever the operator is started", func(ctx SpecContext) {
		serves(ctx, 2, v1alpha1.RolloutSpec{Observe: &v1alpha1.RolloutObserve{Minutes: 5}, Canary: &v1alpha1.RolloutCanary{Steps: steps}})
		w.becomes(ctx, policy, metav1.ConditionFalse, v1alpha1.ReasonObserving)
		running(ctx, "Observing", func(r *v1alpha1.RolloutStatus) v1alpha1.TrialState { return r.Observe.State })
		set := w.expertSet(ctx, "assistant")
		Expect(set.Experts).To(HaveLen(1))
		Expect(set.Candidate.Set.Experts).To(HaveLen(2))
		Expect(set.Candidate.Mode).To(Equal(contract.CandidateObserve))
		Expect(set.Candidate.Percent).To(Equal(10))
		Expect(policy.Status.Experts).To(ContainElement(And(HaveField("Name", "code"), HaveField("State", v1alpha1.ExpertHeld))))
		Expect(meta.IsStatusConditionTrue(policy.Status.Conditions, v1alpha1.ConditionAvailable)).To(BeTrue())

		servers[0].change(func(s *server) {
			*s.status.Candidate.Observed = contract.Observed{Compared: 30, Different: 6, Pairs: []contract.DecisionPair{{Stable: "math", Candidate: "code", Requests: 6}}}
		})
		restart()
		passes(ctx, 5*time.Minute)
		running(ctx, "Canary 10%", canary)
		o := policy.Status.Rollout.Observe
		Expect([]any{o.State, *o.Compared, *o.Different, o.DifferentShare}).To(Equal([]any{v1alpha1.TrialPassed, int64(30), int64(6), v1alpha1.Score("0.2000")}))
		Expect(o.Pairs).To(Equal([]v1alpha1.DecisionPair{{Stable: "math", Candidate: "code", Requests: 6}}))
		Expect(rolledOut()).To(And(HaveField("Status", metav1.ConditionFalse), HaveField("Reason", v1alpha1.ReasonCanary)))

		for _, s := range servers {
			s.change(func(s *server) {
				s.status.Candidate.Stable = contract.SideCounts{Requests: 180, Errors: 1, FirstTokenSeconds: 17.9}
				s.status.Candidate.Candidate = contract.SideCounts{
					Requests: 20, Fallbacks: 2, FirstTokenSeconds: 3, Outcomes: &contract.Outcomes{Right: 7, Wrong: 1},
				}
			})
		}
		began := func(percent string) {
			GinkgoHelper()
			Eventually(func(g Gomega) {
				var list eventsv1.EventList
				g.Expect(k8s.List(ctx, &list, client.InNamespace(w.namespace))).To(Succeed())
				g.Expect(list.Items).To(ContainElement(And(
					HaveField("Regarding.Name", "assistant"), HaveField("Type", corev1.EventTypeNormal), HaveField("Reason", v1alpha1.ReasonCanary),
					HaveField("Action", "Canary"+percent+"Percent"), HaveField("Note", ContainSubstring("answers "+percent+" percent of the conversations")),
				)))
			}).Should(Succeed())
		}
		began("10")
		restart()
		passes(ctx, 4*time.Minute)
		Consistently(func(g Gomega) {
			w.get(ctx, "assistant", policy)
			g.Expect(policy.Status.Rollout.Canary.Step).To(Equal(int32(1)))
		}).Should(Succeed())
		passes(ctx, time.Minute)
		running(ctx, "Canary 50%", canary)
		began("50")
		c := policy.Status.Rollout.Canary
		Expect([]int64{*c.Stable.Requests, *c.Stable.Errors, *c.Candidate.Requests, *c.Candidate.Fallbacks, *c.Stable.FirstTokenMilliseconds, *c.Candidate.FirstTokenMilliseconds}).
			To(Equal([]int64{360, 2, 40, 4, 100, 150}))
		Expect(c.Stable.Right).To(BeNil())
		Expect([]int64{*c.Candidate.Right, *c.Candidate.Wrong}).To(Equal([]int64{14, 2}))
		Expect(w.expertSet(ctx, "assistant").Candidate.Percent).To(Equal(50))

		restart()
		passes(ctx, 5*time.Minute)
		w.becomes(ctx, policy, metav1.ConditionTrue, v1alpha1.ReasonServing)
		Expect(rolledOut()).To(And(HaveField("Status", metav1.ConditionTrue), HaveField("Message", ContainSubstring("As a canary, 0 of its 40 requests have failed"))))
		set = w.expertSet(ctx, "assistant")
		Expect(set.Experts).To(HaveLen(2))
		Expect(set.Candidate).To(BeNil())
		for _, s := range servers {
			sets := s.sets()
			Expect(sets[len(sets)-1].Experts).To(HaveLen(2))
			Expect(sets[len(sets)-1].Candidate).To(BeNil())
		}
		Expect(policy.Status.Rollout.Candidate).To(BeNil())
		Expect(policy.Status.Rollout.Summary).To(Equal("Stable"))
		w.told(ctx, policy, corev1.EventTypeNormal, v1alpha1.ReasonPromoted)
	})

	It("withdraws a set of which too many requests fail, and says so", func(ctx SpecContext) {
		serves(ctx, 1, v1alpha1.RolloutSpec{Canary: &v1alpha1.RolloutCanary{Steps: steps}})
		running(ctx, "Canary 10%", canary)
		servers[0].change(func(s *server) {
			s.status.Candidate.Stable = contract.SideCounts{Requests: 300, Errors: 3}
			s.status.Candidate.Candidate = contract.SideCounts{Requests: 40, Errors: 12}
		})
		touch(ctx, w, policy)
		message := w.becomes(ctx, policy, metav1.ConditionFalse, v1alpha1.ReasonCanaryAborted).Message
		Expect(message).To(And(ContainSubstring("12 of its 40 requests have failed, and 3 of 300 of the set before"), ContainSubstring("maxErrorIncrease")))
		w.told(ctx, policy, corev1.EventTypeWarning, v1alpha1.ReasonCanaryAborted)
		Eventually(func(g Gomega) {
			sets := servers[0].sets()
			g.Expect(sets[len(sets)-1].Candidate).To(BeNil())
			g.Expect(sets[len(sets)-1].Experts).To(HaveLen(1))
			g.Expect(w.expertSet(ctx, "assistant").Candidate).To(BeNil())
		}).Should(Succeed())
		restart()
		touch(ctx, w, policy)
		Consistently(func(g Gomega) {
			w.get(ctx, "assistant", policy)
			g.Expect(policy.Status.Rollout.Summary).To(Equal("Aborted"))
		}).Should(Succeed())
		Expect(meta.IsStatusConditionTrue(policy.Status.Conditions, v1alpha1.ConditionStalled)).To(BeTrue())
		Expect(meta.IsStatusConditionTrue(policy.Status.Conditions, v1alpha1.ConditionAvailable)).To(BeTrue())

		// Where more may fail, it is tried anew; and who asks for no canary has it at once.
		policy.Spec.Rollout.Canary.Abort = &v1alpha1.CanaryAbort{MaxErrorIncrease: "0.5"}
		Expect(k8s.Update(ctx, policy)).To(Succeed())
		running(ctx, "Canary 10%", canary)
		Expect(*policy.Status.Rollout.Canary.Candidate.Requests).To(BeZero())
		policy.Spec.Rollout = nil
		Expect(k8s.Update(ctx, policy)).To(Succeed())
		w.becomes(ctx, policy, metav1.ConditionTrue, v1alpha1.ReasonServing)
		Expect(policy.Status.Rollout).To(BeNil())
		Expect(w.expertSet(ctx, "assistant").Experts).To(HaveLen(2))
	})

	DescribeTable("refuses what makes no sense", func(ctx SpecContext, rollout v1alpha1.RolloutSpec, want string) {
		w = newWorld(ctx)
		policy = w.policy("assistant", "math")
		policy.Spec.Rollout = &rollout
		if want == "" {
			Expect(k8s.Create(ctx, policy)).To(Succeed())
			return
		}
		Expect(k8s.Create(ctx, policy)).To(MatchError(ContainSubstring(want)))
	},
		Entry("growing steps", v1alpha1.RolloutSpec{Canary: &v1alpha1.RolloutCanary{Steps: steps}}, ""),
		Entry("steps that shrink", v1alpha1.RolloutSpec{Canary: &v1alpha1.RolloutCanary{Steps: []v1alpha1.CanaryStep{steps[1], steps[0]}}}, "larger percent"),
		Entry("a step that stays", v1alpha1.RolloutSpec{Canary: &v1alpha1.RolloutCanary{Steps: []v1alpha1.CanaryStep{steps[0], steps[0]}}}, "larger percent"),
		Entry("no steps", v1alpha1.RolloutSpec{Canary: &v1alpha1.RolloutCanary{}}, "steps"),
		Entry("more than all", v1alpha1.RolloutSpec{Canary: &v1alpha1.RolloutCanary{Steps: []v1alpha1.CanaryStep{{Percent: 101, Minutes: 1}}}}, "100"),
		Entry("a rate above 1", v1alpha1.RolloutSpec{Canary: &v1alpha1.RolloutCanary{Steps: steps, Abort: &v1alpha1.CanaryAbort{MaxErrorRate: "1.1"}}}, "at most 1"),
		Entry("an increase above 1", v1alpha1.RolloutSpec{Canary: &v1alpha1.RolloutCanary{Steps: steps, Abort: &v1alpha1.CanaryAbort{MaxErrorIncrease: "2"}}}, "at most 1"),
		Entry("an observation without an end", v1alpha1.RolloutSpec{Observe: &v1alpha1.RolloutObserve{Percent: 5}}, "say how long"),
		Entry("an observation of so many requests", v1alpha1.RolloutSpec{Observe: &v1alpha1.RolloutObserve{Requests: 5}}, ""),
	)
})
