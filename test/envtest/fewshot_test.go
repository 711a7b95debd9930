package envtest

import (
	"context"
	"encoding/json"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/runtime/contract"
)

// fewShot is a strategy whose examples are in ConfigMap examples.
func fewShot() v1alpha1.Strategy {
	return v1alpha1.Strategy{Type: v1alpha1.StrategyFewShot, FewShot: &v1alpha1.FewShotStrategy{
		Dataset: v1alpha1.Dataset{ConfigMap: &v1alpha1.ConfigMapKeyRef{Name: "examples", Key: "ten.jsonl"}, Format: v1alpha1.FormatGSM8K},
		Reward:  v1alpha1.RewardNumeric,
	}}
}

// weighed is the result of a search of two experts, by name.
func weighed(first, second float64) *contract.Termination {
	return &contract.Termination{Device: "cpu (avx512, 2 threads)", FewShot: &contract.FewShotResult{
		Weights: []contract.FoundWeight{{Weight: first, Score: 0.4}, {Weight: second, Score: 0.9}},
		Score:   1, BaselineScore: 0.2, UniformScore: 0.7, Generations: 6, Evaluations: 120, Seconds: 34.5,
		Examples: 10, ExamplesDigest: digest("e"),
	}}
}

var _ = Describe("A policy of strategy FewShot", func() {
	var w world
	var policy *v1alpha1.AdaptivePolicy
	var examples *corev1.ConfigMap
	BeforeEach(func(ctx SpecContext) {
		w = newWorld(ctx)
		policy = w.policy("assistant", "math", "code")
		policy.Spec.Strategy = fewShot()
		examples = &corev1.ConfigMap{ObjectMeta: w.meta("examples"), Data: map[string]string{"ten.jsonl": "{}"}}
		w.dataset(ctx, "{}")
		w.decompose(ctx, "tiny")
		w.train(ctx, w.expert("math"), "1")
		w.train(ctx, w.expert("code"), "2")
	})
	set := func(ctx context.Context) contract.ExpertSet { return w.expertSet(ctx, "assistant") }
	weights := func(ctx SpecContext) map[string]float64 {
		GinkgoHelper()
		all := map[string]float64{}
		for _, e := range set(ctx).Experts {
			all[e.Name+" "+e.Digest[len(e.Digest)-1:]] = e.Weight
		}
		return all
	}
	finish := func(ctx SpecContext, result *contract.Termination) {
		GinkgoHelper()
		w.finish(ctx, v1alpha1.LabelSearch, "assistant", "adapt", result)
	}
	searched := func(ctx SpecContext) []*server {
		GinkgoHelper()
		Expect(k8s.Create(ctx, examples)).To(Succeed())
		Expect(k8s.Create(ctx, policy)).To(Succeed())
		servers := w.roll(ctx, "assistant")
		finish(ctx, weighed(0.125, 0.875))
		w.becomes(ctx, policy, metav1.ConditionTrue, v1alpha1.ReasonServing)
		return servers
	}
	jobs := func(ctx context.Context) int { return w.jobs(ctx, v1alpha1.LabelSearch, "assistant") }

	It("goes from its YAML to what a search found", func(ctx SpecContext) {
		Expect(k8s.Create(ctx, policy)).To(Succeed())
		w.becomes(ctx, policy, metav1.ConditionFalse, v1alpha1.ReasonDatasetNotFound)
		Expect(k8s.Create(ctx, examples)).To(Succeed())
		job := w.openJob(ctx, v1alpha1.LabelSearch, "assistant")
		var spec contract.AdaptSpec
		container := job.Spec.Template.Spec.Containers[0]
		Expect(container.Args).To(Equal([]string{"adapt"}))
		Expect(json.Unmarshal([]byte(container.Env[0].Value), &spec)).To(Succeed())
		Expect(spec.Experts).To(Equal([]contract.AdaptExpert{{Name: "code", Digest: digest("2")}, {Name: "math", Digest: digest("1")}}))
		Expect(spec.Search).To(Equal(contract.DefaultFewShot()))

		By("the base answers meanwhile, and the status says how far the search is")
		servers := w.roll(ctx, "assistant")
		Eventually(func() map[string]float64 { return weights(ctx) }).Should(Equal(map[string]float64{"math 1": 0, "code 2": 0}))
		pod := w.pod(ctx, job, "runs")
		pods.listen(pod, progressing(contract.Progress{
			Phase: "Searching", Done: 3, Total: 10, EstimatedRemainingSeconds: 42,
			Search: &contract.SearchProgress{Generation: 3, Generations: 10, BestScore: 0.8, BaselineScore: 0.2, UniformScore: 0.7},
		}))
		w.setPod(ctx, pod, corev1.PodRunning, works("adapt"))
		Eventually(func(g Gomega) {
			w.get(ctx, "assistant", policy)
			g.Expect(policy.Status.FewShot).NotTo(BeNil())
			g.Expect(policy.Status.FewShot.Progress).To(HaveValue(And(HaveField("Summary", "3/10"), HaveField("BestScore", v1alpha1.Score("0.8000")))))
		}).Should(Succeed())
		Expect(w.becomes(ctx, policy, metav1.ConditionFalse, v1alpha1.ReasonSearching).Message).To(
			And(ContainSubstring("generation 3/10, best score 0.8000"), ContainSubstring("the base model answers")))

		By("what it found is served, and stays when the operator starts anew")
		w.setPod(ctx, pod, corev1.PodSucceeded, ended("adapt", 0, "Completed", weighed(0.125, 0.875)))
		w.setJob(ctx, job, batchv1.JobComplete, "", 0)
		w.becomes(ctx, policy, metav1.ConditionTrue, v1alpha1.ReasonServing)
		Expect(weights(ctx)).To(Equal(map[string]float64{"math 1": 0.875, "code 2": 0.125}))
		Expect(set(ctx).Strategy).To(Equal(contract.StrategyFewShot))
		Expect(servers[0].sets()[len(servers[0].sets())-1]).To(Equal(set(ctx)))
		found := policy.Status.FewShot
		Expect(found.Weights).To(Equal([]v1alpha1.FewShotWeight{
			{Name: "code", Digest: v1alpha1.Digest(digest("2")), Weight: "0.1250", Score: "0.4000"},
			{Name: "math", Digest: v1alpha1.Digest(digest("1")), Weight: "0.8750", Score: "0.9000"},
		}))
		Expect([]v1alpha1.Score{found.Score, found.BaselineScore, found.UniformScore}).To(Equal([]v1alpha1.Score{"1.0000", "0.2000", "0.7000"}))
		Expect(found.Runs).To(ConsistOf(And(HaveField("ID", found.RunID), HaveField("Result", "Succeeded"))))
		Expect(policy.Status.Experts).To(ConsistOf(HaveField("Weight", v1alpha1.Decimal("0.8750")), HaveField("Weight", v1alpha1.Decimal("0.1250"))))

		operator.stop()
		operator = start()
		Consistently(func(g Gomega) {
			g.Expect(jobs(ctx)).To(Equal(1))
			w.get(ctx, "assistant", policy)
			g.Expect(policy.Status.FewShot).To(Equal(found))
		}).Should(Succeed())
		w.becomes(ctx, policy, metav1.ConditionTrue, v1alpha1.ReasonServing)
	})

	It("searches again when an example changes, and serves what was found before meanwhile", func(ctx SpecContext) {
		searched(ctx)
		was := policy.Status.FewShot.RunID
		examples.Labels = map[string]string{"note": "unchanged"}
		Expect(k8s.Update(ctx, examples)).To(Succeed())
		Consistently(func() int { return jobs(ctx) }).Should(Equal(1))

		examples.Data["ten.jsonl"] = `{"question": "another"}`
		Expect(k8s.Update(ctx, examples)).To(Succeed())
		Eventually(func() int { w.collect(ctx); return jobs(ctx) }).Should(Equal(1))
		message := w.becomes(ctx, policy, metav1.ConditionFalse, v1alpha1.ReasonPending).Message
		Expect(message).To(ContainSubstring("the weights of before are served"))
		Expect(weights(ctx)).To(Equal(map[string]float64{"math 1": 0.875, "code 2": 0.125}))
		finish(ctx, weighed(0.5, 0.5))
		w.becomes(ctx, policy, metav1.ConditionTrue, v1alpha1.ReasonServing)
		Expect(weights(ctx)).To(Equal(map[string]float64{"math 1": 0.5, "code 2": 0.5}))
		Expect(policy.Status.FewShot.RunID).NotTo(Equal(was))
		Expect(policy.Status.FewShot.Runs).To(HaveLen(2))
	})

	It("ends the search that nobody waits for any more", func(ctx SpecContext) {
		searched(ctx)
		was, before := policy.Status.FewShot.RunID, examples.Data["ten.jsonl"]
		examples.Data["ten.jsonl"] = `{"question": "another"}`
		Expect(k8s.Update(ctx, examples)).To(Succeed())
		Eventually(func(g Gomega) {
			w.collect(ctx)
			w.get(ctx, "assistant", policy)
			g.Expect(policy.Status.FewShot.Runs).To(HaveLen(2))
		}).Should(Succeed())
		examples.Data["ten.jsonl"] = before
		Expect(k8s.Update(ctx, examples)).To(Succeed())
		Eventually(func() int { w.collect(ctx); return jobs(ctx) }).Should(BeZero())
		w.becomes(ctx, policy, metav1.ConditionTrue, v1alpha1.ReasonServing)
		Expect(policy.Status.FewShot).To(And(HaveField("RunID", was),
			HaveField("Runs", HaveExactElements(HaveField("Result", "Superseded"), HaveField("Result", "Succeeded")))))
		Expect(weights(ctx)).To(Equal(map[string]float64{"math 1": 0.875, "code 2": 0.125}))
	})

	It("searches again when an expert is another, and serves the one that was weighed meanwhile", func(ctx SpecContext) {
		searched(ctx)
		math := w.expert("math")
		w.get(ctx, "math", math)
		math.Spec.Training.Seed = new(int64(9))
		Expect(k8s.Update(ctx, math)).To(Succeed())
		Eventually(func(g Gomega) {
			w.collect(ctx)
			g.Expect(w.openJob(ctx, v1alpha1.LabelExpert, "math")).NotTo(BeNil())
		}).Should(Succeed())
		w.finishTraining(ctx, "math", trained("7", "a", "b"))
		Eventually(func() int { w.collect(ctx); return jobs(ctx) }).Should(Equal(1))
		w.openJob(ctx, v1alpha1.LabelSearch, "assistant")
		Expect(weights(ctx)).To(Equal(map[string]float64{"math 1": 0.875, "code 2": 0.125}))
		finish(ctx, weighed(0.25, 0.75))
		w.becomes(ctx, policy, metav1.ConditionTrue, v1alpha1.ReasonServing)
		Expect(weights(ctx)).To(Equal(map[string]float64{"math 7": 0.75, "code 2": 0.25}))
	})

	It("stands without its examples, and is forgotten with its strategy", func(ctx SpecContext) {
		searched(ctx)
		Expect(k8s.Delete(ctx, examples)).To(Succeed())
		Consistently(func(g Gomega) {
			w.get(ctx, "assistant", policy)
			g.Expect(policy.Status.Conditions).To(ContainElement(And(HaveField("Type", "Ready"), HaveField("Status", metav1.ConditionTrue))))
		}).Should(Succeed())
		policy.Spec.Strategy = v1alpha1.Strategy{Type: v1alpha1.StrategyFixed}
		Expect(k8s.Update(ctx, policy)).To(Succeed())
		Eventually(func(g Gomega) {
			w.collect(ctx)
			g.Expect(jobs(ctx)).To(BeZero())
			w.get(ctx, "assistant", policy)
			g.Expect(policy.Status.FewShot).To(BeNil())
		}).Should(Succeed())
	})

	It("says why a search failed", func(ctx SpecContext) {
		Expect(k8s.Create(ctx, examples)).To(Succeed())
		Expect(k8s.Create(ctx, policy)).To(Succeed())
		job := w.openJob(ctx, v1alpha1.LabelSearch, "assistant")
		pod := w.pod(ctx, job, "failed")
		w.setPod(ctx, pod, corev1.PodFailed, ended("adapt", contract.ExitPermanent, "Error", &contract.Termination{
			Reason: contract.ReasonInvalidDataset, Permanent: true, Message: "examples: ConfigMap examples, key ten.jsonl has 2 that can be used: a search takes 3 to 20",
		}))
		w.setJob(ctx, job, batchv1.JobFailed, "PodFailurePolicy", 1)
		message := w.becomes(ctx, policy, metav1.ConditionFalse, contract.ReasonInvalidDataset).Message
		Expect(message).To(And(ContainSubstring("a search takes 3 to 20"), ContainSubstring("the base model answers")))
	})
})
