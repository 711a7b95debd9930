package envtest

import (
	"context"
	"encoding/json"
	"slices"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/controllers/desired"
	"github.com/transformersquared/operator/runtime/contract"
)

// gate evaluates by ConfigMap questions, with one guard.
func gate() *v1alpha1.RolloutGate {
	set := func(key string) v1alpha1.Dataset {
		return v1alpha1.Dataset{ConfigMap: &v1alpha1.ConfigMapKeyRef{Name: "questions", Key: key}, Format: v1alpha1.FormatGSM8K}
	}
	questions := set("test.jsonl")
	return &v1alpha1.RolloutGate{
		Dataset: &questions, Reward: v1alpha1.RewardNumeric, MinGain: "0.05",
		Guards: []v1alpha1.RolloutGuard{{Name: "general", Dataset: set("general.jsonl"), Reward: v1alpha1.RewardNumeric, MaxLoss: "0.02"}},
	}
}

func inGate(change func(*v1alpha1.RolloutGate)) func(*v1alpha1.AdaptivePolicy) {
	return func(p *v1alpha1.AdaptivePolicy) { change(p.Spec.Rollout.Gate) }
}

// gateRows are made one after the other of one policy whose gate evaluates sets: a new run is
// another evaluation.
var gateRows = slices.Concat([]policyRow{
	{"rollout.gate.minGain", nothing, inGate(func(g *v1alpha1.RolloutGate) { g.MinGain = "0.1" })},
	{"rollout.gate.samples", newRun, inGate(func(g *v1alpha1.RolloutGate) { g.Samples = 65 })},
	{"rollout.gate.maxNewTokens", newRun, inGate(func(g *v1alpha1.RolloutGate) { g.MaxNewTokens = 65 })},
	{"rollout.gate.reward", newRun, inGate(func(g *v1alpha1.RolloutGate) { g.Reward = v1alpha1.RewardMath })},
	{"rollout.gate.guards[].name", nothing, inGate(func(g *v1alpha1.RolloutGate) { g.Guards[0].Name = "other" })},
	{"rollout.gate.guards[].maxLoss", nothing, inGate(func(g *v1alpha1.RolloutGate) { g.Guards[0].MaxLoss = "0.5" })},
	{"rollout.gate.guards[].reward", newRun, inGate(func(g *v1alpha1.RolloutGate) { g.Guards[0].Reward = v1alpha1.RewardMath })},
	{"serving.dtype", newRun, func(p *v1alpha1.AdaptivePolicy) { p.Spec.Serving.DType = v1alpha1.ServingInt8 }},
	{"serving.resources", nothing, func(p *v1alpha1.AdaptivePolicy) { p.Spec.Serving.Resources = limits("1Gi") }},
}, datasetRows("rollout.gate.dataset", func(p *v1alpha1.AdaptivePolicy) *v1alpha1.Dataset { return p.Spec.Rollout.Gate.Dataset }),
	datasetRows("rollout.gate.guards[].dataset", func(p *v1alpha1.AdaptivePolicy) *v1alpha1.Dataset { return &p.Spec.Rollout.Gate.Guards[0].Dataset }),
	[]policyRow{{"rollout.gate.fewShot", newRun, func(p *v1alpha1.AdaptivePolicy) {
		p.Spec.Strategy = fewShot()
		g := p.Spec.Rollout.Gate
		g.Dataset, g.Reward, g.FewShot = nil, "", v1alpha1.ExamplesOfStrategy
	}}})

// evaluationOf is the run that evaluates a set of a policy, whose data sets are told by where
// they lie.
func evaluationOf(p *v1alpha1.AdaptivePolicy, base *v1alpha1.BaseModel) (desired.Run, error) {
	set := func(digits string) contract.ExpertSet {
		return contract.ExpertSet{Strategy: contract.StrategyPrompt, Experts: []contract.ExpertRef{{Name: "math", Skill: "math", Digest: digest(digits)}}}
	}
	digests := map[string]string{}
	for _, judged := range desired.EvaluationSets(p) {
		if ref := judged.Dataset.ConfigMap; ref != nil {
			digests[judged.Role] = ref.Name + "/" + ref.Key
		}
	}
	stable := set("1")
	return desired.Evaluation(p, base, nil, &stable, set("2"), digests, settings)
}

// scored is the result of an evaluation: how many of 50 questions who answered right.
func scored(experts, base, stable, candidate, guardStable, guardCandidate int) *contract.Termination {
	set := func(base, stable, candidate int) contract.SetScores {
		reference := stable
		if stable < 0 {
			stable, reference = 0, base
		}
		return contract.SetScores{
			Questions: 50, Base: base, Stable: stable, Candidate: candidate, DatasetDigest: digest("d"),
			Won: max(candidate-reference, 0), Lost: max(reference-candidate, 0),
		}
	}
	return &contract.Termination{Device: "cpu (avx512, 2 threads)", Evaluation: &contract.EvaluationResult{
		Digest: digest("e"), CandidateDigest: digest("c"), Experts: make([]int, experts), Seconds: 12,
		Sets: []contract.SetScores{set(base, stable, candidate), set(guardCandidate, guardStable, guardCandidate)},
	}}
}

var _ = Describe("A policy whose gate evaluates expert sets", func() {
	var w world
	var policy *v1alpha1.AdaptivePolicy
	var questions *corev1.ConfigMap
	BeforeEach(func(ctx SpecContext) {
		w = newWorld(ctx)
		policy = w.policy("assistant", "math")
		policy.Spec.Rollout = &v1alpha1.RolloutSpec{Gate: gate()}
		questions = &corev1.ConfigMap{ObjectMeta: w.meta("questions"), Data: map[string]string{"test.jsonl": "{}", "general.jsonl": "{}"}}
		w.dataset(ctx, "{}")
		w.decompose(ctx, "tiny")
		w.train(ctx, w.expert("math"), "1")
	})
	// offered are the experts of the set that pods are offered, and start with.
	offered := func(ctx context.Context) []string {
		names := []string{}
		for _, e := range w.expertSet(ctx, "assistant").Experts {
			names = append(names, e.Name+" "+e.Digest[len(e.Digest)-1:])
		}
		return names
	}
	finish := func(ctx SpecContext, result *contract.Termination) {
		GinkgoHelper()
		w.finish(ctx, v1alpha1.LabelEvaluation, "assistant", "evaluate", result)
	}
	jobs := func(ctx context.Context) int { return w.jobs(ctx, v1alpha1.LabelEvaluation, "assistant") }
	condition := func(conditionType string) *metav1.Condition {
		i := slices.IndexFunc(policy.Status.Conditions, func(c metav1.Condition) bool { return c.Type == conditionType })
		if i < 0 {
			return nil
		}
		return &policy.Status.Conditions[i]
	}
	restart := func() {
		operator.stop()
		operator = start()
	}
	// first brings the first set into use: math, by 10 of 50 questions more than the base.
	first := func(ctx SpecContext) []*server {
		GinkgoHelper()
		Expect(k8s.Create(ctx, questions)).To(Succeed())
		Expect(k8s.Create(ctx, policy)).To(Succeed())
		w.openJob(ctx, v1alpha1.LabelEvaluation, "assistant")
		servers := w.roll(ctx, "assistant")
		finish(ctx, scored(1, 10, -1, 20, -1, 30))
		w.becomes(ctx, policy, metav1.ConditionTrue, v1alpha1.ReasonServing)
		return servers
	}
	// second adds the expert code, and waits until that set is being evaluated.
	second := func(ctx SpecContext) {
		GinkgoHelper()
		w.train(ctx, w.expert("code"), "2")
		w.get(ctx, "assistant", policy)
		policy.Spec.Experts = append(policy.Spec.Experts, v1alpha1.PolicyExpert{Name: "code"})
		Expect(k8s.Update(ctx, policy)).To(Succeed())
		Eventually(func(g Gomega) {
			w.collect(ctx)
			w.get(ctx, "assistant", policy)
			g.Expect(policy.Status.Rollout.Runs).To(HaveLen(2))
		}).Should(Succeed())
		w.openJob(ctx, v1alpha1.LabelEvaluation, "assistant")
	}

	It("lets the base answer until the first set has passed", func(ctx SpecContext) {
		Expect(k8s.Create(ctx, policy)).To(Succeed())
		Expect(w.becomes(ctx, policy, metav1.ConditionFalse, v1alpha1.ReasonDatasetNotFound).Message).To(ContainSubstring("spec.rollout.gate.dataset"))
		Expect(k8s.Create(ctx, questions)).To(Succeed())
		job := w.openJob(ctx, v1alpha1.LabelEvaluation, "assistant")
		container := job.Spec.Template.Spec.Containers[0]
		Expect(container.Args).To(Equal([]string{"evaluate"}))
		var spec contract.EvaluateSpec
		Expect(json.Unmarshal([]byte(container.Env[0].Value), &spec)).To(Succeed())
		Expect(spec.Stable).To(BeNil())
		Expect(spec.Candidate.Experts).To(HaveExactElements(HaveField("Digest", digest("1"))))
		Expect([]any{spec.Name, spec.Samples, spec.MaxNewTokens, len(spec.Sets), spec.Sets[1].Field}).To(
			Equal([]any{"assistant", 64, 512, 2, "spec.rollout.gate.guards[0].dataset"}))

		By("the status says how far the evaluation is")
		servers := w.roll(ctx, "assistant")
		Expect(offered(ctx)).To(BeEmpty())
		pod := w.pod(ctx, job, "runs")
		pods.listen(pod, progressing(contract.Progress{Phase: "Evaluating", Done: 12, Total: 64, EstimatedRemainingSeconds: 42}))
		w.setPod(ctx, pod, corev1.PodRunning, works("evaluate"))
		Eventually(func(g Gomega) {
			w.get(ctx, "assistant", policy)
			g.Expect(policy.Status.Rollout).NotTo(BeNil())
			g.Expect(policy.Status.Rollout.Summary).To(Equal("Evaluating 12/64"))
		}).Should(Succeed())
		Expect(w.becomes(ctx, policy, metav1.ConditionFalse, v1alpha1.ReasonEvaluating).Message).To(
			And(ContainSubstring("12/64, about 42 s left"), ContainSubstring("the base model answers")))
		Expect(policy.Status.Experts).To(HaveExactElements(And(HaveField("State", v1alpha1.ExpertHeld), HaveField("Digest", BeEmpty()))))
		Expect(condition(v1alpha1.ConditionRolledOut)).To(HaveField("Status", metav1.ConditionFalse))
		Expect(condition(v1alpha1.ConditionAvailable)).To(HaveField("Status", metav1.ConditionTrue))

		By("it passes, and is served without a pod being replaced")
		w.setPod(ctx, pod, corev1.PodSucceeded, ended("evaluate", 0, "Completed", scored(1, 10, -1, 20, -1, 30)))
		w.setJob(ctx, job, batchv1.JobComplete, "", 0)
		w.becomes(ctx, policy, metav1.ConditionTrue, v1alpha1.ReasonServing)
		Expect(offered(ctx)).To(Equal([]string{"math 1"}))
		Expect(servers[0].sets()[len(servers[0].sets())-1]).To(Equal(w.expertSet(ctx, "assistant")))
		r := policy.Status.Rollout
		Expect(r.Summary).To(Equal("Passed +0.20"))
		Expect(r.Candidate).To(BeNil())
		Expect(r.Stable.Digest).To(Equal(policy.Status.ExpertSetDigest))
		Expect(r.Stable.Experts).To(Equal([]v1alpha1.RolloutExpert{{Name: "math", Digest: v1alpha1.Digest(digest("1"))}}))
		Expect(r.Evaluation.Gate).To(And(HaveField("BaselineScore", v1alpha1.Score("0.2000")), HaveField("StableScore", BeEmpty()),
			HaveField("Score", v1alpha1.Score("0.4000")), HaveField("Gain", v1alpha1.Gain("0.2000"))))
		Expect(condition(v1alpha1.ConditionRolledOut)).To(And(HaveField("Status", metav1.ConditionTrue), HaveField("Reason", v1alpha1.ReasonPromoted)))

		By("an operator that starts anew changes nothing")
		restart()
		Consistently(func(g Gomega) {
			g.Expect(jobs(ctx)).To(Equal(1))
			w.get(ctx, "assistant", policy)
			g.Expect(policy.Status.Rollout).To(Equal(r))
		}).Should(Succeed())
	})

	It("serves the set before on where the next one fails, and judges the same numbers anew", func(ctx SpecContext) {
		first(ctx)
		second(ctx)
		Expect(offered(ctx)).To(Equal([]string{"math 1"}))
		finish(ctx, scored(2, 10, 20, 19, 30, 30))
		message := w.becomes(ctx, policy, metav1.ConditionFalse, v1alpha1.ReasonEvaluationFailed).Message
		Expect(message).To(And(ContainSubstring("0.3800 and that of the set before 0.4000, a gain of -0.0200"), ContainSubstring("the set before is served on")))
		Expect(offered(ctx)).To(Equal([]string{"math 1"}))
		Expect(policy.Status.Rollout.Summary).To(Equal("Failed -0.02"))
		Expect(condition(v1alpha1.ConditionEvaluationFailed)).To(HaveField("Status", metav1.ConditionTrue))
		Expect(condition(v1alpha1.ConditionStalled)).To(HaveField("Status", metav1.ConditionTrue))
		Expect(condition(v1alpha1.ConditionAvailable)).To(HaveField("Status", metav1.ConditionTrue))
		Expect(policy.Status.Experts).To(HaveExactElements(
			And(HaveField("Name", "math"), HaveField("State", v1alpha1.ExpertServed)), And(HaveField("Name", "code"), HaveField("State", v1alpha1.ExpertHeld))))

		By("an operator that starts anew finds what failed and what serves")
		was := policy.Status.Rollout.DeepCopy()
		restart()
		Consistently(func(g Gomega) {
			w.get(ctx, "assistant", policy)
			g.Expect(policy.Status.Rollout).To(Equal(was))
			g.Expect(offered(ctx)).To(Equal([]string{"math 1"}))
		}).Should(Succeed())

		By("less is asked of the same numbers")
		before := jobs(ctx)
		policy.Spec.Rollout.Gate.MinGain = "-0.02"
		Expect(k8s.Update(ctx, policy)).To(Succeed())
		w.becomes(ctx, policy, metav1.ConditionTrue, v1alpha1.ReasonServing)
		Expect(offered(ctx)).To(Equal([]string{"math 1", "code 2"}))
		Expect(policy.Status.Rollout.Summary).To(Equal("Passed -0.02"))
		Expect(condition(v1alpha1.ConditionEvaluationFailed)).To(BeNil())
		Expect(jobs(ctx)).To(Equal(before))
	})

	It("does not let a set serve that loses by a guard", func(ctx SpecContext) {
		first(ctx)
		second(ctx)
		finish(ctx, scored(2, 10, 20, 40, 30, 28))
		Expect(w.becomes(ctx, policy, metav1.ConditionFalse, v1alpha1.ReasonEvaluationFailed).Message).To(ContainSubstring("by guard general"))
		Expect(offered(ctx)).To(Equal([]string{"math 1"}))
	})

	It("goes back to the set that serves when that is asked for again, and on when another is", func(ctx SpecContext) {
		first(ctx)
		second(ctx)
		By("the change is taken back while it is evaluated")
		policy.Spec.Experts = policy.Spec.Experts[:1]
		Expect(k8s.Update(ctx, policy)).To(Succeed())
		w.becomes(ctx, policy, metav1.ConditionTrue, v1alpha1.ReasonServing)
		Expect(policy.Status.Rollout.Candidate).To(BeNil())
		Expect(policy.Status.Rollout.Summary).To(Equal("Passed +0.20"))
		Eventually(func() int { w.collect(ctx); return jobs(ctx) }).Should(BeZero())

		By("the expert is trained anew while the operator is away")
		operator.stop()
		math := w.expert("math")
		w.get(ctx, "math", math)
		math.Spec.Training.Seed = new(int64(9))
		Expect(k8s.Update(ctx, math)).To(Succeed())
		operator = start()
		Eventually(func(g Gomega) {
			w.collect(ctx)
			g.Expect(w.openJob(ctx, v1alpha1.LabelExpert, "math")).NotTo(BeNil())
		}).Should(Succeed())
		w.becomes(ctx, policy, metav1.ConditionFalse, v1alpha1.ReasonExpertsNotReady)
		Expect(jobs(ctx)).To(BeZero()) // What is to be evaluated is not there.
		w.finishTraining(ctx, "math", trained("7", "a", "b"))
		w.openJob(ctx, v1alpha1.LabelEvaluation, "assistant")
		Expect(offered(ctx)).To(Equal([]string{"math 1"}))

		By("the evaluation ends while the operator is away")
		operator.stop()
		finish(ctx, scored(1, 10, 20, 25, 30, 30))
		operator = start()
		w.becomes(ctx, policy, metav1.ConditionTrue, v1alpha1.ReasonServing)
		Expect(offered(ctx)).To(Equal([]string{"math 7"}))
		Expect(policy.Status.Rollout.Summary).To(Equal("Passed +0.10"))
	})

	It("goes on with what served before it had a gate", func(ctx SpecContext) {
		gated := policy.Spec.Rollout
		policy.Spec.Rollout = nil
		Expect(k8s.Create(ctx, questions)).To(Succeed())
		Expect(k8s.Create(ctx, policy)).To(Succeed())
		w.roll(ctx, "assistant")
		w.becomes(ctx, policy, metav1.ConditionTrue, v1alpha1.ReasonServing)
		Expect(policy.Status.Rollout).To(BeNil())
		policy.Spec.Rollout = gated
		Expect(k8s.Update(ctx, policy)).To(Succeed())
		Eventually(func(g Gomega) {
			w.get(ctx, "assistant", policy)
			g.Expect(policy.Status.Rollout).NotTo(BeNil())
			g.Expect(policy.Status.Rollout.Summary).To(Equal("Stable"))
		}).Should(Succeed())
		w.becomes(ctx, policy, metav1.ConditionTrue, v1alpha1.ReasonServing)
		Expect(jobs(ctx)).To(BeZero())

		By("and serves all at once when it has none any more")
		code := w.expert("code")
		w.train(ctx, code, "2")
		policy.Spec.Experts = append(policy.Spec.Experts, v1alpha1.PolicyExpert{Name: "code"})
		Expect(k8s.Update(ctx, policy)).To(Succeed())
		w.openJob(ctx, v1alpha1.LabelEvaluation, "assistant")
		w.get(ctx, "assistant", policy)
		policy.Spec.Rollout = nil
		Expect(k8s.Update(ctx, policy)).To(Succeed())
		w.becomes(ctx, policy, metav1.ConditionTrue, v1alpha1.ReasonServing)
		Expect(offered(ctx)).To(Equal([]string{"math 1", "code 2"}))
		Eventually(func() int { w.collect(ctx); return jobs(ctx) }).Should(BeZero())
		Expect(policy.Status.Rollout).To(BeNil())
		Expect(condition(v1alpha1.ConditionRolledOut)).To(BeNil())
	})

	It("says why a set could not be evaluated", func(ctx SpecContext) {
		Expect(k8s.Create(ctx, questions)).To(Succeed())
		Expect(k8s.Create(ctx, policy)).To(Succeed())
		job := w.openJob(ctx, v1alpha1.LabelEvaluation, "assistant")
		pod := w.pod(ctx, job, "failed")
		w.setPod(ctx, pod, corev1.PodFailed, ended("evaluate", contract.ExitPermanent, "Error", &contract.Termination{
			Reason: contract.ReasonInvalidDataset, Permanent: true, Message: "spec.rollout.gate.guards[0].dataset: ConfigMap questions, key general.jsonl: the file has no records",
		}))
		w.setJob(ctx, job, batchv1.JobFailed, "PodFailurePolicy", 1)
		message := w.becomes(ctx, policy, metav1.ConditionFalse, contract.ReasonInvalidDataset).Message
		Expect(message).To(And(ContainSubstring("spec.rollout.gate.guards[0].dataset"), ContainSubstring("the base model answers")))
		Expect(policy.Status.Rollout.Summary).To(Equal("Not evaluated"))
		Expect(condition(v1alpha1.ConditionEvaluationFailed)).To(BeNil())
	})
})
