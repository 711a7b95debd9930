package e2e

import (
	"context"
	"encoding/json"
	"strconv"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	batchv1 "k8s.io/api/batch/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/runtime/contract"
)

// probed is strategy Probe with experts that act on answers, from the sample with short
// trainings.
func probed(get func(SpecContext, string) *v1alpha1.AdaptivePolicy, ask func(SpecContext, string, string) (string, contract.Adaptation), wait func(SpecContext, string)) {
	fits := func(ctx context.Context) int {
		GinkgoHelper()
		var jobs batchv1.JobList
		Expect(cluster.List(ctx, &jobs, client.InNamespace(namespace), client.MatchingLabels{v1alpha1.LabelProbe: "demo-probe"})).To(Succeed())
		return len(jobs.Items)
	}
	choosesBy := func(ctx SpecContext, expert string) {
		GinkgoHelper()
		text, adaptation := ask(ctx, "demo-probe", "demo-probe")
		GinkgoWriter.Printf("%q by %+v\n", text, adaptation)
		Expect(adaptation.Strategy).To(Equal(contract.StrategyProbe))
		Expect(adaptation.Expert).To(Equal(expert))
		Expect(adaptation.Probabilities).To(HaveKey(contract.OthersLabel))
	}

	It("goes from its YAML to Ready, and chooses", func(ctx SpecContext) {
		sample := strings.ReplaceAll(kubectl(ctx, "", "kustomize", root+"/config/samples/probe"), "t2-demo", namespace)
		sample = strings.ReplaceAll(sample, "iterations: 40", "iterations: 10")
		kubectl(ctx, sample, "apply", "--server-side", "-f", "-")
		// What ten iterations bring is nothing to what is tested here.
		kubectl(ctx, "", "-n", namespace, "patch", "adaptivepolicy", "demo-probe", "--type=merge", `-p={"spec":{"rollout":{"gate":{"minGain":"-1"}}}}`)
		for _, name := range []string{"math-answer", "code-answer", "reasoning-answer"} {
			wait(ctx, "expertvector/"+name)
		}
		wait(ctx, "adaptivepolicy/demo-probe")
		GinkgoWriter.Println(kubectl(ctx, "", "-n", namespace, "describe", "adaptivepolicy", "demo-probe"))
		policy := get(ctx, "demo-probe")
		Expect(condition(ctx, policy, v1alpha1.ConditionProbeCurrent)).To(haveCondition(metav1.ConditionTrue, v1alpha1.ReasonCurrent))
		probe := policy.Status.Probe
		Expect(probe).To(HaveValue(And(
			HaveField("State", v1alpha1.ExpertServed), HaveField("BaseDigest", policy.Status.BaseDigest),
			HaveField("Labels", ConsistOf("math", "code", "reasoning")), HaveField("Untaught", BeEmpty()),
		)))
		accuracy, err := strconv.ParseFloat(string(probe.Accuracy), 64)
		Expect(err).NotTo(HaveOccurred())
		Expect(accuracy).To(BeNumerically(">", 0.9))
		choosesBy(ctx, "math-answer")
	}, SpecTimeout(8*time.Minute))

	It("is not fitted again for nothing", func(ctx SpecContext) {
		was, jobs := get(ctx, "demo-probe").Status.Probe, fits(ctx)
		disturb(ctx, "adaptivepolicy/demo-probe", "configmap/demo-math")
		Consistently(func(g Gomega) {
			g.Expect(fits(ctx)).To(Equal(jobs))
			g.Expect(get(ctx, "demo-probe").Status.Probe).To(Equal(was))
		}).WithTimeout(8 * time.Second).Should(Succeed())
		wait(ctx, "adaptivepolicy/demo-probe")
	}, SpecTimeout(6*time.Minute))

	It("is fitted again to other experts, without a restart of the pods", func(ctx SpecContext) {
		was := get(ctx, "demo-probe")
		pods := func() string {
			return kubectl(ctx, "", "-n", namespace, "get", "pods", "-l", v1alpha1.LabelPolicy+"=demo-probe", "-o", "name")
		}
		before := pods()
		experts, err := json.Marshal(was.Spec.Experts[:2])
		Expect(err).NotTo(HaveOccurred())
		kubectl(ctx, "", "-n", namespace, "patch", "adaptivepolicy", "demo-probe", "--type=merge", `-p={"spec":{"experts":`+string(experts)+`}}`)
		Eventually(func(g Gomega) {
			now := get(ctx, "demo-probe").Status.Probe
			g.Expect(now.Labels).To(ConsistOf("math", "code"))
			g.Expect(now.Runs).To(HaveLen(2))
		}).WithTimeout(2 * time.Minute).Should(Succeed())
		wait(ctx, "adaptivepolicy/demo-probe")
		Expect(get(ctx, "demo-probe").Status.Probe.RunID).NotTo(Equal(was.Status.Probe.RunID))
		Expect(pods()).To(Equal(before))
		choosesBy(ctx, "math-answer")
		kubectl(ctx, "", "-n", namespace, "delete", "adaptivepolicy", "demo-probe")
	}, SpecTimeout(9*time.Minute))
}
