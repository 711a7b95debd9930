package e2e

import (
	"context"
	"fmt"
	"net/http"
	"path"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	batchv1 "k8s.io/api/batch/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/source/sourcetest"
)

// rollouts are the samples of gates and of a canary, beside the chain's experts.
func rollouts(get func(SpecContext, string) *v1alpha1.AdaptivePolicy, ask func(SpecContext, string, string) (string, contract.Adaptation), wait func(SpecContext, string)) {
	patch := func(ctx SpecContext, policy, patch string) {
		GinkgoHelper()
		kubectl(ctx, "", "-n", namespace, "patch", "adaptivepolicy", policy, "--type=merge", "-p="+patch)
	}
	evaluations := func(ctx context.Context, policy string) int {
		GinkgoHelper()
		var jobs batchv1.JobList
		Expect(cluster.List(ctx, &jobs, client.InNamespace(namespace), client.MatchingLabels{v1alpha1.LabelEvaluation: policy})).To(Succeed())
		return len(jobs.Items)
	}
	pods := func(ctx SpecContext, policy string) string {
		return kubectl(ctx, "", "-n", namespace, "get", "pods", "-l", v1alpha1.LabelPolicy+"="+policy, "-o", "name")
	}

	BeforeAll(func(ctx SpecContext) {
		sample := strings.ReplaceAll(kubectl(ctx, "", "kustomize", root+"/config/samples/rollout"), "t2-demo", namespace)
		kubectl(ctx, sample, "apply", "--server-side", "-f", "-")
	})
	AfterAll(func(ctx SpecContext) {
		kubectl(ctx, "", "-n", namespace, "delete", "--timeout=120s", "adaptivepolicy/gate-passes", "adaptivepolicy/gate-fails", "adaptivepolicy/canary",
			"expertvector/broken", "configmap/rollout-questions")
	})

	It("serves a set that passes its gate, and says by how much", func(ctx SpecContext) {
		wait(ctx, "adaptivepolicy/gate-passes")
		policy := get(ctx, "gate-passes")
		GinkgoWriter.Println(kubectl(ctx, "", "-n", namespace, "describe", "adaptivepolicy", "gate-passes"))
		Expect(condition(ctx, policy, v1alpha1.ConditionRolledOut)).To(haveCondition(metav1.ConditionTrue, v1alpha1.ReasonPromoted))
		rollout := policy.Status.Rollout
		Expect(rollout.Summary).To(HavePrefix("Passed +"))
		Expect(rollout.Stable.Digest).To(Equal(policy.Status.ExpertSetDigest))
		Expect(rollout.Evaluation.Gate.Questions).To(BeEquivalentTo(64))
		Expect(rollout.Evaluation.Guards).To(HaveLen(1))
		Expect(evaluations(ctx, "gate-passes")).To(Equal(1))
		text, adaptation := ask(ctx, "gate-passes", "gate-passes")
		Expect(adaptation.Expert).To(Equal("math"))
		Expect(text).To(HaveSuffix("#### 7"))
	}, SpecTimeout(9*time.Minute))

	It("lets the base answer where the set fails, until the same numbers are enough", func(ctx SpecContext) {
		var policy *v1alpha1.AdaptivePolicy
		Eventually(func(g Gomega) {
			policy = get(ctx, "gate-fails")
			g.Expect(condition(ctx, policy, v1alpha1.ConditionEvaluationFailed)).To(haveCondition(metav1.ConditionTrue, v1alpha1.ReasonEvaluationFailed))
			g.Expect(condition(ctx, policy, v1alpha1.ConditionStalled)).To(haveCondition(metav1.ConditionTrue, v1alpha1.ReasonEvaluationFailed))
			g.Expect(condition(ctx, policy, v1alpha1.ConditionAvailable).Status).To(Equal(metav1.ConditionTrue))
		}).WithTimeout(3 * time.Minute).Should(Succeed())
		GinkgoWriter.Println(kubectl(ctx, "", "-n", namespace, "get", "adaptivepolicy"))
		Expect(policy.Status.Rollout.Summary).To(HavePrefix("Failed "))
		_, adaptation := ask(ctx, "gate-fails", "gate-fails")
		Expect(adaptation.Expert).To(Equal(contract.BaseName))

		patch(ctx, "gate-fails", `{"spec":{"rollout":{"gate":{"minGain":"-1"}}}}`)
		wait(ctx, "adaptivepolicy/gate-fails")
		Expect(evaluations(ctx, "gate-fails")).To(Equal(1))
		Eventually(func() string {
			_, adaptation := ask(ctx, "gate-fails", "gate-fails")
			return adaptation.Expert
		}).Should(Equal("code"))
	}, SpecTimeout(6*time.Minute))

	It("tries a set beside the one that serves, and promotes it without a restart", func(ctx SpecContext) {
		wait(ctx, "adaptivepolicy/canary")
		before := pods(ctx, "canary")
		patch(ctx, "canary", `{"spec":{"rollout":{"observe":{"percent":100,"requests":4,"minutes":2},"canary":{"steps":[{"percent":50,"minutes":1}]}}}}`)
		wait(ctx, "adaptivepolicy/canary")
		stable := get(ctx, "canary").Status.ExpertSetDigest
		kubectl(ctx, "", "-n", namespace, "patch", "adaptivepolicy", "canary", "--type=json",
			`-p=[{"op":"add","path":"/spec/experts/-","value":{"name":"code"}}]`)

		summaries, answeredBy, n := map[string]bool{}, map[string]int{}, 0
		Eventually(func(g Gomega) {
			// Conversations that begin otherwise are divided otherwise.
			_, adaptation, err := askPolicy(ctx, namespace, "canary", "canary", fmt.Sprintf("What is %d plus 4?", n))
			g.Expect(err).NotTo(HaveOccurred(), "no request is lost")
			n++
			answeredBy[adaptation.ExpertSetDigest]++
			policy := get(ctx, "canary")
			summaries[policy.Status.Rollout.Summary] = true
			c := condition(ctx, policy, v1alpha1.ConditionReady)
			g.Expect(c.ObservedGeneration).To(Equal(policy.Generation))
			g.Expect(c.Status).To(Equal(metav1.ConditionTrue), c.Message)
		}).WithTimeout(5 * time.Minute).Should(Succeed())
		policy := get(ctx, "canary")
		GinkgoWriter.Println(summaries, answeredBy)
		GinkgoWriter.Println(kubectl(ctx, "", "-n", namespace, "describe", "adaptivepolicy", "canary"))
		Expect(policy.Status.ExpertSetDigest).NotTo(Equal(stable))
		Expect(policy.Status.Rollout.Stable.Digest).To(Equal(policy.Status.ExpertSetDigest))
		Expect(summaries).To(And(HaveKey("Observing"), HaveKey("Canary 50%")))
		Expect(answeredBy).To(And(HaveLen(2), HaveKey(string(stable)), HaveKey(string(policy.Status.ExpertSetDigest))), "no other set answers")
		Expect(policy.Status.Rollout.Observe.State).To(Equal(v1alpha1.TrialPassed))
		Expect(*policy.Status.Rollout.Canary.Candidate.Errors).To(BeZero())
		Expect(pods(ctx, "canary")).To(Equal(before))
	}, SpecTimeout(8*time.Minute))

	It("withdraws a set by itself whose answers fail, without a restart or a lost request", func(ctx SpecContext) {
		// An adapter of large numbers is well formed. What the model makes of it is none.
		content, digest := adapterOf(GinkgoT().TempDir(), []string{"mlp.gate_proj", "mlp.up_proj"}, func(i int) float32 { return float32(i%7-3) * 1e12 })
		files := sourcetest.Serve(GinkgoTB(), thisMachine(ctx), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			b, ok := content[path.Base(r.URL.Path)]
			if !ok {
				http.NotFound(w, r)
				return
			}
			_, _ = w.Write(b)
		}))
		Expect(cluster.Create(ctx, &v1alpha1.ExpertVector{ObjectMeta: named("broken"), Spec: v1alpha1.ExpertVectorSpec{
			BaseModelRef: v1alpha1.LocalRef{Name: "tiny"}, Skill: "broken", Description: "never right",
			Source: &v1alpha1.ExpertSource{HTTP: &v1alpha1.HTTPSource{URL: files.URL + "/broken"}, Digest: v1alpha1.Digest(digest)},
		}})).To(Succeed())
		wait(ctx, "expertvector/broken")
		wait(ctx, "adaptivepolicy/canary")
		before, stable := pods(ctx, "canary"), get(ctx, "canary").Status.ExpertSetDigest
		kubectl(ctx, "", "-n", namespace, "patch", "adaptivepolicy", "canary", "--type=json", `-p=[
			{"op":"replace","path":"/spec/experts","value":[{"name":"broken"}]},
			{"op":"replace","path":"/spec/strategy","value":{"type":"Fixed"}},
			{"op":"remove","path":"/spec/rollout/observe"},
			{"op":"add","path":"/spec/rollout/canary","value":{"steps":[{"percent":50,"minutes":10}],"abort":{"maxErrorIncrease":"0.2","minRequests":4}}}]`)

		policy, answered, failed := get(ctx, "canary"), 0, 0
		Eventually(func(g Gomega) {
			_, adaptation, err := askPolicy(ctx, namespace, "canary", "canary", fmt.Sprintf("What is %d plus 4?", answered+failed))
			if err != nil {
				g.Expect(err.Error()).To(ContainSubstring("(InternalError)"), "status 500, and nothing else goes wrong")
				failed++
			} else {
				g.Expect(adaptation.ExpertSetDigest).To(Equal(string(stable)), "no answer is the broken set's")
				answered++
			}
			c := condition(ctx, policy, v1alpha1.ConditionReady)
			g.Expect(c).To(haveCondition(metav1.ConditionFalse, v1alpha1.ReasonCanaryAborted), c.Message)
		}).WithTimeout(3 * time.Minute).Should(Succeed())
		GinkgoWriter.Println(kubectl(ctx, "", "-n", namespace, "describe", "adaptivepolicy", "canary"))
		GinkgoWriter.Println(kubectl(ctx, "", "-n", namespace, "get", "adaptivepolicy", "canary"))
		Expect(answered).To(BeNumerically(">", 0))
		Expect(failed).To(BeNumerically(">=", 4))
		c := policy.Status.Rollout.Canary
		Expect(c.State).To(Equal(v1alpha1.TrialAborted))
		Expect(c.Candidate.Errors).To(Equal(c.Candidate.Requests))
		Expect(*c.Candidate.Errors).To(BeNumerically("<=", failed))
		Expect(*c.Stable.Errors).To(BeZero())
		Expect(policy.Status.Rollout.Summary).To(Equal("Aborted"))
		Expect(condition(ctx, policy, v1alpha1.ConditionStalled)).To(haveCondition(metav1.ConditionTrue, v1alpha1.ReasonCanaryAborted))
		Expect(condition(ctx, policy, v1alpha1.ConditionStalled).Message).To(ContainSubstring("spec.rollout.canary.abort"))
		Eventually(func() string {
			return kubectl(ctx, "", "-n", namespace, "get", "events", "--field-selector",
				"type=Warning,involvedObject.name=canary,reason="+v1alpha1.ReasonCanaryAborted, "-o", "name")
		}).ShouldNot(BeEmpty())

		// Withdrawn from the pods, too: all conversations are the other set's again.
		Eventually(func(g Gomega) {
			g.Expect(condition(ctx, policy, v1alpha1.ConditionAvailable).Status).To(Equal(metav1.ConditionTrue))
			for n := range 12 {
				_, adaptation, err := askPolicy(ctx, namespace, "canary", "canary", fmt.Sprintf("What is %d plus 5?", n))
				g.Expect(err).NotTo(HaveOccurred())
				g.Expect(adaptation.ExpertSetDigest).To(Equal(string(stable)))
			}
		}).Should(Succeed())
		Expect(get(ctx, "canary").Status.ExpertSetDigest).To(Equal(stable))
		Expect(pods(ctx, "canary")).To(Equal(before))
	}, SpecTimeout(6*time.Minute))
}
