package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/runtime/artifact"
	"github.com/transformersquared/operator/runtime/checkpoint"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/peft"
	"github.com/transformersquared/operator/runtime/tensor"
)

const question = "What is 3 plus 4?"

// strategies is every way to adapt but Prompt, which the chain has: policies from YAML to
// Ready and an answer, on the chain's experts and on some of other methods.
func strategies() {
	fromYAML := func(ctx SpecContext, file string, replace ...string) {
		GinkgoHelper()
		text, err := os.ReadFile(file)
		Expect(err).NotTo(HaveOccurred())
		kubectl(ctx, strings.NewReplacer(replace...).Replace(string(text)), "-n", namespace, "apply", "--server-side", "-f", "-")
	}
	wait := func(ctx SpecContext, object string) {
		GinkgoHelper()
		kubectl(ctx, "", "-n", namespace, "wait", "--for=condition=Ready", object, "--timeout=480s")
	}
	get := func(ctx SpecContext, name string) *v1alpha1.AdaptivePolicy {
		GinkgoHelper()
		p := &v1alpha1.AdaptivePolicy{ObjectMeta: named(name)}
		Expect(cluster.Get(ctx, client.ObjectKeyFromObject(p), p)).To(Succeed())
		return p
	}
	ask := func(ctx SpecContext, policy, model string) (string, contract.Adaptation) {
		GinkgoHelper()
		text, adaptation, err := askPolicy(ctx, namespace, policy, model, question)
		Expect(err).NotTo(HaveOccurred())
		return text, adaptation
	}
	gone := func(ctx SpecContext, objects ...string) {
		GinkgoHelper()
		kubectl(ctx, "", append([]string{"-n", namespace, "delete", "--ignore-not-found", "--timeout=120s"}, objects...)...)
	}

	var digest string
	BeforeAll(func(ctx SpecContext) {
		var adapter *corev1.ConfigMap
		adapter, digest = smallAdapter(GinkgoT().TempDir())
		Expect(cluster.Create(ctx, adapter)).To(Succeed())
		fromYAML(ctx, "testdata/strategies/seed.yaml")
		kubectl(ctx, "", "-n", namespace, "wait", "--for=condition=Complete", "job/strategies-seed", "--timeout=120s")
	})
	AfterAll(func(ctx SpecContext) {
		gone(ctx, "adaptivepolicy/fixed", "adaptivepolicy/demo-classified", "adaptivepolicy/fewshot", "adaptivepolicy/transferred", "adaptivepolicy/demo-probe",
			"expertvector/math-answer", "expertvector/code-answer", "expertvector/reasoning-answer",
			"expertvector/lora", "expertvector/brought", "job/strategies-seed", "configmap/adapter", "configmap/fewshot-examples")
		gone(ctx, "basemodel/sibling")
	})

	It("trains LoRA, imports an adapter of PEFT's, and mixes both with SVF by given weights", func(ctx SpecContext) {
		fromYAML(ctx, "testdata/strategies/experts.yaml", "DIGEST", digest)
		fromYAML(ctx, "testdata/strategies/policies.yaml")
		wait(ctx, "expertvector/lora")
		wait(ctx, "expertvector/brought")
		wait(ctx, "adaptivepolicy/fixed")
		GinkgoWriter.Println(kubectl(ctx, "", "-n", namespace, "get", "t2"))
		Expect(kubectl(ctx, "", "-n", namespace, "logs", "-l", v1alpha1.LabelExpert+"=brought", "--tail=-1")).
			To(ContainSubstring("brought-along"), "the expert is told its skill")
		_, all := ask(ctx, "fixed", "fixed")
		Expect(all.Strategy).To(Equal(contract.StrategyFixed))
		Expect(all.Weights).To(Equal(map[string]float64{"math": 0.5, "lora": 0.375, "brought": 0.125}))
		text, one := ask(ctx, "fixed", "fixed:lora")
		Expect(one.Expert).To(Equal("lora"))
		Expect(text).To(HaveSuffix("#### 7"), "it was trained to add")
		_, one = ask(ctx, "fixed", "fixed:brought")
		Expect(one.Expert).To(Equal("brought"))
		gone(ctx, "adaptivepolicy/fixed")
	}, SpecTimeout(9*time.Minute))

	It("trains a classifier for its experts, and dispatches by it", func(ctx SpecContext) {
		sample, err := os.ReadFile(root + "/config/samples/strategies/classifier.yaml")
		Expect(err).NotTo(HaveOccurred())
		own, _, _ := strings.Cut(string(sample), "---\n") // The others are of a classifier that is shared.
		kubectl(ctx, own, "-n", namespace, "apply", "--server-side", "-f", "-")
		wait(ctx, "adaptivepolicy/demo-classified")
		policy := get(ctx, "demo-classified")
		GinkgoWriter.Println(kubectl(ctx, "", "-n", namespace, "describe", "adaptivepolicy", "demo-classified"))
		c := policy.Status.Classifier
		Expect(c).To(HaveValue(And(HaveField("Expert", "demo-classified-classifier"), HaveField("State", v1alpha1.ExpertServed), HaveField("Stale", HaveValue(BeFalse())))))
		Expect(string(c.Score) >= string(c.BaselineScore)).To(BeTrue(), "%s of the prompts, the base %s", c.Score, c.BaselineScore)
		Expect(condition(ctx, policy, v1alpha1.ConditionClassifierCurrent)).To(haveCondition(metav1.ConditionTrue, v1alpha1.ReasonCurrent))
		text, adaptation := ask(ctx, "demo-classified", "demo-classified")
		Expect(adaptation.Strategy).To(Equal(contract.StrategyClassifier))
		Expect(adaptation.Expert).To(Equal("math"))
		Expect(text).To(HaveSuffix("#### 7"))
		gone(ctx, "adaptivepolicy/demo-classified")
	}, SpecTimeout(9*time.Minute))

	Describe("A probe of experts that act on answers", Ordered, func() { probed(get, ask, wait) })

	Describe("Evidence before serving", Ordered, func() { rollouts(get, ask, wait) })

	Describe("The weights that a few examples find", Ordered, func() { fewShot(get, ask, wait) })

	It("serves an expert of another base if, and only if, the policy allows it", func(ctx SpecContext) {
		policy := get(ctx, "transferred")
		wait(ctx, "basemodel/sibling")
		Eventually(func(g Gomega) {
			c := condition(ctx, policy, v1alpha1.ConditionStalled)
			g.Expect(c).To(haveCondition(metav1.ConditionTrue, v1alpha1.ReasonExpertOfAnotherBase))
			g.Expect(c.Message).To(And(ContainSubstring("BaseModel tiny"), ContainSubstring("spec.transfer")))
		}).Should(Succeed())
		transfer := func(how v1alpha1.Transfer) {
			GinkgoHelper()
			kubectl(ctx, "", "-n", namespace, "patch", "adaptivepolicy", "transferred", "--type=merge", fmt.Sprintf(`-p={"spec":{"transfer":%q}}`, how))
		}
		transfer(v1alpha1.TransferEqualShape)
		wait(ctx, "adaptivepolicy/transferred")
		c := condition(ctx, policy, v1alpha1.ConditionExpertsTransferred)
		Expect(c).To(haveCondition(metav1.ConditionTrue, v1alpha1.ReasonEqualShape))
		Expect(c.Message).To(And(ContainSubstring("math (made for BaseModel tiny)"), ContainSubstring("code (made for BaseModel tiny)")))
		GinkgoWriter.Println(kubectl(ctx, "", "-n", namespace, "describe", "adaptivepolicy", "transferred"))
		text, adaptation := ask(ctx, "transferred", "transferred")
		Expect(adaptation.Expert).To(Equal("math"))
		Expect(text).To(HaveSuffix("#### 7"))
		Eventually(func() string {
			return kubectl(ctx, "", "-n", namespace, "get", "events", "--field-selector", "reason="+v1alpha1.ReasonEqualShape, "-o", "name")
		}).Should(HaveSuffix("\n"))

		transfer(v1alpha1.TransferRefuse)
		Eventually(func(g Gomega) {
			g.Expect(condition(ctx, policy, v1alpha1.ConditionStalled)).To(haveCondition(metav1.ConditionTrue, v1alpha1.ReasonExpertOfAnotherBase))
			g.Expect(condition(ctx, policy, v1alpha1.ConditionExpertsTransferred).Type).To(BeEmpty())
			_, _, err := askPolicy(ctx, namespace, "transferred", "transferred:math", question)
			g.Expect(err).To(HaveOccurred(), "it is not served any more")
		}).Should(Succeed())
	}, SpecTimeout(9*time.Minute))
}

// fewShot is strategy FewShot, from the sample with a short search.
func fewShot(get func(SpecContext, string) *v1alpha1.AdaptivePolicy, ask func(SpecContext, string, string) (string, contract.Adaptation), wait func(SpecContext, string)) {
	searches := func(ctx context.Context) int {
		GinkgoHelper()
		var jobs batchv1.JobList
		Expect(cluster.List(ctx, &jobs, client.InNamespace(namespace), client.MatchingLabels{v1alpha1.LabelSearch: "fewshot"})).To(Succeed())
		return len(jobs.Items)
	}

	It("are in the policy's YAML, with what they score", func(ctx SpecContext) {
		sample := strings.ReplaceAll(kubectl(ctx, "", "kustomize", root+"/config/samples/fewshot"), "t2-demo", namespace)
		sample = strings.ReplaceAll(sample, "generations: 10", "generations: 3\n      population: 12\n      eliteFraction: \"0.25\"")
		kubectl(ctx, sample, "apply", "--server-side", "-f", "-")
		wait(ctx, "adaptivepolicy/fewshot")
		text := kubectl(ctx, "", "-n", namespace, "get", "apolicy", "fewshot", "-o", "yaml")
		GinkgoWriter.Println(text)
		found := get(ctx, "fewshot").Status.FewShot
		Expect(found).NotTo(BeNil())
		for _, w := range found.Weights {
			Expect(text).To(ContainSubstring("weight: " + quoted(string(w.Weight))))
		}
		for _, score := range []v1alpha1.Score{found.Score, found.BaselineScore, found.UniformScore} {
			Expect(score).NotTo(BeEmpty())
			Expect(text).To(ContainSubstring("core: " + quoted(string(score))))
		}
		Expect(string(found.Score) >= string(found.BaselineScore)).To(BeTrue(), "score %s, the base's %s", found.Score, found.BaselineScore)
		Expect(found.Weights).To(HaveLen(3))
		_, adaptation := ask(ctx, "fewshot", "fewshot")
		Expect(adaptation.Strategy).To(Equal(contract.StrategyFewShot))
		for _, w := range found.Weights {
			if w.Weight != "0.0000" {
				Expect(adaptation.Weights).To(HaveKey(w.Name))
			}
		}
	}, SpecTimeout(9*time.Minute))

	It("are not searched again for nothing", func(ctx SpecContext) {
		was, jobs := get(ctx, "fewshot").Status.FewShot, searches(ctx)
		disturb(ctx, "adaptivepolicy/fewshot", "configmap/fewshot-examples")
		Consistently(func(g Gomega) {
			g.Expect(searches(ctx)).To(Equal(jobs))
			g.Expect(get(ctx, "fewshot").Status.FewShot).To(Equal(was))
		}).WithTimeout(8 * time.Second).Should(Succeed())
		wait(ctx, "adaptivepolicy/fewshot")
	}, SpecTimeout(6*time.Minute))

	It("are searched again when an example changes, and served until then", func(ctx SpecContext) {
		was := get(ctx, "fewshot").Status.FewShot
		examples := &corev1.ConfigMap{ObjectMeta: named("fewshot-examples")}
		Expect(cluster.Get(ctx, client.ObjectKeyFromObject(examples), examples)).To(Succeed())
		lines := strings.SplitAfter(examples.Data["examples.jsonl"], "\n")
		examples.Data["examples.jsonl"] = strings.Join(lines[1:], "")
		Expect(cluster.Update(ctx, examples)).To(Succeed())
		policy := &v1alpha1.AdaptivePolicy{ObjectMeta: named("fewshot")}
		Eventually(func(g Gomega) {
			g.Expect(condition(ctx, policy, v1alpha1.ConditionReady)).To(haveCondition(metav1.ConditionFalse, v1alpha1.ReasonSearching))
		}).WithPolling(200 * time.Millisecond).Should(Succeed())
		Expect(policy.Status.FewShot.Weights).To(Equal(was.Weights))
		_, adaptation := ask(ctx, "fewshot", "fewshot")
		Expect(adaptation.Strategy).To(Equal(contract.StrategyFewShot))
		wait(ctx, "adaptivepolicy/fewshot")
		now := get(ctx, "fewshot").Status.FewShot
		Expect(now.RunID).NotTo(Equal(was.RunID))
		Expect(now.ExamplesDigest).NotTo(Equal(was.ExamplesDigest))
		Expect(now.Examples).To(Equal(was.Examples - 1))
		Expect(now.Runs).To(HaveLen(2))
		kubectl(ctx, "", "-n", namespace, "delete", "adaptivepolicy", "fewshot")
	}, SpecTimeout(9*time.Minute))
}

// disturb starts the operator anew, and changes nothing of these objects that matters.
func disturb(ctx SpecContext, objects ...string) {
	GinkgoHelper()
	kubectl(ctx, "", "-n", systemNamespace, "delete", "pod", "--all", "--wait=false")
	for _, object := range objects {
		kubectl(ctx, "", "-n", namespace, "label", object, "touched=yes")
	}
	kubectl(ctx, "", "-n", systemNamespace, "rollout", "status", "deployment", "--timeout=120s")
}

// quoted is a number as kubectl writes a string that looks like one.
func quoted(number string) string { return `"` + number + `"` }

// smallAdapter makes an adapter in PEFT's format for the demo's model, which changes little,
// as a ConfigMap, and the digest of its weights.
func smallAdapter(dir string) (files *corev1.ConfigMap, digest string) {
	GinkgoHelper()
	content, digest := adapterOf(dir, []string{"self_attn.q_proj"}, func(i int) float32 { return float32(i%7-3) / 100 })
	return &corev1.ConfigMap{ObjectMeta: named("adapter"), BinaryData: content}, digest
}

// adapterOf makes an adapter in PEFT's format for these projections of the demo's model, in
// this folder: its files, and the digest of its weights. value is that of each matrix's i-th
// number.
func adapterOf(dir string, projections []string, value func(i int) float32) (files map[string][]byte, digest string) {
	GinkgoHelper()
	base, err := checkpoint.OpenDir(filepath.Join(root, "config", "samples", "demo", "model"))
	Expect(err).NotTo(HaveOccurred())
	defer func() { Expect(base.Close()).To(Succeed()) }()
	const rank = 2
	var modules []string
	for _, p := range projections {
		modules = append(modules, p[strings.LastIndex(p, ".")+1:])
	}
	config, err := peft.NewLoRAConfig(peft.LoRAOptions{Base: "demo", Modules: modules, Rank: rank, Alpha: 2 * rank})
	Expect(err).NotTo(HaveOccurred())
	a := &peft.Adapter{Config: config, Matrices: map[string]peft.Matrix{}}
	for layer := range base.Config().Layers {
		for _, p := range projections {
			name := fmt.Sprintf("model.layers.%d.%s", layer, p)
			info, ok := base.Info(name + ".weight")
			Expect(ok).To(BeTrue(), name)
			m := peft.Matrix{A: tensor.New(rank, info.Shape[1]), B: tensor.New(info.Shape[0], rank), Scale: 2}
			for _, t := range []*tensor.Tensor{m.A, m.B} {
				for i := range t.Data {
					t.Data[i] = value(i)
				}
			}
			a.Matrices[name] = m
		}
	}
	Expect(peft.Write(dir, a)).To(Succeed())
	files = map[string][]byte{}
	for _, name := range []string{peft.ConfigFile, peft.WeightsFile} {
		if files[name], err = os.ReadFile(filepath.Join(dir, name)); err != nil {
			Fail(err.Error())
		}
	}
	entry, err := artifact.HashFile(dir, peft.WeightsFile)
	Expect(err).NotTo(HaveOccurred())
	return files, entry.SHA256
}
