package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/judge"
	"github.com/transformersquared/operator/runtime/train/dataset"
	"github.com/transformersquared/operator/runtime/train/reward"
	"github.com/transformersquared/operator/test/e2e/kube"
)

// named returns object metadata in the suite's namespace.
func named(name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: namespace, Name: name}
}

// ask is askIn for the suite's namespace.
func ask(ctx context.Context, model, question string) (string, contract.Adaptation, error) {
	return askIn(ctx, namespace, model, question)
}

// askIn asks a namespace's policy "demo".
func askIn(ctx context.Context, namespace, model, question string) (string, contract.Adaptation, error) {
	return askPolicy(ctx, namespace, "demo", model, question)
}

// askPolicy asks a policy and returns the answer and how it was adapted to.
func askPolicy(ctx context.Context, namespace, policy, model, question string) (string, contract.Adaptation, error) {
	r, err := complete(ctx, namespace, policy, model, question)
	if err != nil {
		return "", contract.Adaptation{}, err
	}
	return r.Choices[0].Message.Content, r.T2, nil
}

// reply is an answer to a chat completion.
type reply struct {
	ID      string
	Choices []struct {
		Message struct{ Content string }
	}
	T2 contract.Adaptation
}

// complete sends a chat completion to a policy through the API server's proxy. The reply has
// one choice.
func complete(ctx context.Context, namespace, policy, model, question string) (reply, error) {
	body, err := json.Marshal(map[string]any{
		"model": model, "temperature": 0, "max_tokens": 24,
		"messages": []map[string]string{{"role": "user", "content": question}},
	})
	if err != nil {
		return reply{}, err
	}
	out, err := try(ctx, string(body), "create", "--raw", completionsPath(namespace, policy), "-f", "-")
	if err != nil {
		return reply{}, fmt.Errorf("%w: %s", err, out)
	}
	var r reply
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		return reply{}, fmt.Errorf("%w in %s", err, out)
	}
	if len(r.Choices) != 1 {
		return reply{}, fmt.Errorf("%d choices in %s", len(r.Choices), out)
	}
	return r, nil
}

// completionsPath is where the API server takes chat completions for a policy.
func completionsPath(namespace, policy string) string {
	return fmt.Sprintf("/api/v1/namespaces/%s/services/http:%s:80/proxy%s", namespace, policy, contract.PathChatCompletions)
}

// shortTraining is a run of the demo's math skill that takes seconds.
func shortTraining(name, skill string, iterations int32) *v1alpha1.ExpertVector {
	file := func(key string) v1alpha1.Dataset {
		return v1alpha1.Dataset{
			ConfigMap: &v1alpha1.ConfigMapKeyRef{Name: "demo-math", Key: key},
			Format:    v1alpha1.FormatGSM8K,
		}
	}
	seed := int64(7)
	return &v1alpha1.ExpertVector{
		ObjectMeta: named(name),
		Spec: v1alpha1.ExpertVectorSpec{
			BaseModelRef: v1alpha1.LocalRef{Name: "tiny"},
			Skill:        skill,
			Description:  "a short run of the suite",
			Training: &v1alpha1.TrainingSpec{
				Dataset: v1alpha1.TrainingDataset{Train: file("train.jsonl"), Validation: file("validation.jsonl")},
				Objective: v1alpha1.Objective{Reinforce: &v1alpha1.ReinforceObjective{
					Reward: v1alpha1.RewardNumeric, KLWeight: "0.1", Baseline: v1alpha1.BaselineMean,
					Rollout: &v1alpha1.Rollout{Type: v1alpha1.RolloutSample, MaxNewTokens: 24},
				}},
				Optimizer: &v1alpha1.Optimizer{LearningRate: "0.01"},
				Schedule: &v1alpha1.Schedule{
					Iterations: iterations, BatchSize: 32, ValidationInterval: 4, CheckpointInterval: 1,
				},
				Seed: &seed,
			},
		},
	}
}

// The specs build on each other: what the chain made is what bad input must not
// harm.
var _ = Describe("Transformer²", Ordered, func() {
	Describe("The operator", operator)
	Describe("The chain", chain)
	Describe("What others do", others)
	Describe("kubectl t2", kubectlT2)
	Describe("Sources", sources)
	Describe("Every way to adapt", strategies)
	Describe("An autoscaled policy", autoscaling)
	Describe("GPUs", gpus)
	Describe("Bad input", badInput)
	Describe("Uninstalling", uninstalling)
})

func chain() {
	var experts = []string{"math", "code", "reasoning"}

	It("reaches Ready from samples applied all at once, in an unhelpful order", func(ctx SpecContext) {
		manifests := kubectl(ctx, "", "kustomize", root+"/config/samples")
		kubectl(ctx, strings.ReplaceAll(manifests, "t2-demo", namespace), "apply", "--server-side", "-f", "-")

		By("saying so in conditions from the first pass on")
		Eventually(func(g Gomega) {
			var list v1alpha1.ExpertVectorList
			g.Expect(cluster.List(ctx, &list, client.InNamespace(namespace))).To(Succeed())
			g.Expect(list.Items).To(HaveLen(3))
			for _, e := range list.Items {
				g.Expect(e.Status.Conditions).NotTo(BeEmpty(), e.Name)
			}
		}).WithTimeout(30 * time.Second).Should(Succeed())

		By("training for real")
		kubectl(ctx, "", "-n", namespace, "wait", "--for=condition=Ready", "basemodel/tiny", "--timeout=480s")
		kubectl(ctx, "", "-n", namespace, "wait", "--for=condition=Ready", "expertvector", "--all", "--timeout=900s")
		kubectl(ctx, "", "-n", namespace, "wait", "--for=condition=Ready", "adaptivepolicy/demo", "--timeout=120s")

		table := kubectl(ctx, "", "-n", namespace, "get", "t2")
		GinkgoWriter.Println(table)
		rows := 0
		for row := range strings.SplitSeq(table, "\n") {
			if strings.Contains(row, "/") {
				rows++
				Expect(row).To(ContainSubstring("True"))
			}
		}
		Expect(rows).To(Equal(5), table)
	}, SpecTimeout(20*time.Minute))

	It("has experts that beat the base on their validation sets", func(ctx SpecContext) {
		for _, name := range experts {
			var e v1alpha1.ExpertVector
			Expect(cluster.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, &e)).To(Succeed())
			score, err := strconv.ParseFloat(string(e.Status.Score), 64)
			Expect(err).NotTo(HaveOccurred())
			base, err := strconv.ParseFloat(string(e.Status.BaselineScore), 64)
			Expect(err).NotTo(HaveOccurred())
			Expect(score).To(BeNumerically(">", base), name)
		}
	})

	It("adapts to each question and says what it chose", func(ctx SpecContext) {
		_, pinned, err := ask(ctx, "demo:base", "Hello!")
		Expect(err).NotTo(HaveOccurred())
		Expect(pinned.Expert).To(Equal(contract.BaseName))

		text, adaptation, err := ask(ctx, "demo", "What is 3 plus 4?") // README's question
		Expect(err).NotTo(HaveOccurred())
		Expect(adaptation.Expert).To(Equal("math"))
		Expect(text).To(HaveSuffix("#### 7"))

		right := map[string]int{}
		for _, name := range experts {
			chosen, asked := 0, 10
			set, judge := heldOut(ctx, name, asked)
			for _, record := range set {
				question := record.Messages[len(record.Messages)-1].Content
				for _, model := range []string{"demo", "demo:base"} {
					text, adaptation, err := ask(ctx, model, question)
					Expect(err).NotTo(HaveOccurred())
					Expect(adaptation.Pass2Seconds).To(BeNumerically(">", 0))
					verdict, err := judge.Judge(ctx, text, record.Reference)
					Expect(err).NotTo(HaveOccurred())
					if verdict.Right {
						right[model]++
					}
					if model == "demo" {
						Expect(adaptation.Pass1Seconds).To(BeNumerically(">", 0))
						if adaptation.Expert == name {
							chosen++
						}
					}
				}
			}
			Expect(chosen).To(BeNumerically(">", asked/2), "pass 1 chose %s for %d of %d of its own questions", name, chosen, asked)
		}
		Expect(right["demo"]).To(BeNumerically(">", right["demo:base"]), "right answers on the mixture: %v", right)
		Eventually(func(g Gomega) {
			var p v1alpha1.AdaptivePolicy
			g.Expect(cluster.Get(ctx, client.ObjectKey{Namespace: namespace, Name: "demo"}, &p)).To(Succeed())
			g.Expect(p.Status.Adaptation).NotTo(BeNil())
			g.Expect(p.Status.Adaptation.Expert).NotTo(BeEmpty())
		}).Should(Succeed())
	})

	It("takes a new expert into running pods without a restart or a lost request", func(ctx SpecContext) {
		var before corev1.PodList
		serving := client.MatchingLabels{v1alpha1.LabelPolicy: "demo"}
		Expect(cluster.List(ctx, &before, client.InNamespace(namespace), serving)).To(Succeed())
		Expect(before.Items).NotTo(BeEmpty())

		Expect(cluster.Create(ctx, shortTraining("sums", "sums", 2))).To(Succeed())
		kubectl(ctx, "", "-n", namespace, "wait", "--for=condition=Ready", "expertvector/sums", "--timeout=480s")

		var asked, failed atomic.Int64
		var firstError atomic.Value
		asking, stop := context.WithCancel(ctx)
		done := make(chan struct{})
		go func() {
			defer close(done)
			for asking.Err() == nil {
				_, _, err := ask(ctx, "demo", "What is 3 plus 4?")
				asked.Add(1)
				if err != nil {
					failed.Add(1)
					firstError.CompareAndSwap(nil, err.Error())
				}
			}
		}()
		kubectl(ctx, "", "-n", namespace, "patch", "adaptivepolicy", "demo", "--type=json",
			`-p=[{"op":"add","path":"/spec/experts/-","value":{"name":"sums"}}]`)
		Eventually(func(g Gomega) {
			_, adaptation, err := ask(ctx, "demo:sums", "What is 3 plus 4?")
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(adaptation.Expert).To(Equal("sums"))
		}).Should(Succeed())
		kubectl(ctx, "", "-n", namespace, "wait", "--for=condition=Ready", "adaptivepolicy/demo", "--timeout=60s")
		stop()
		Eventually(done).Should(BeClosed())

		Expect(asked.Load()).To(BeNumerically(">", 0))
		Expect(failed.Load()).To(BeZero(), "%v", firstError.Load())
		var after corev1.PodList
		Expect(cluster.List(ctx, &after, client.InNamespace(namespace), serving)).To(Succeed())
		Expect(after.Items).To(HaveLen(len(before.Items)))
		Expect(after.Items[0].UID).To(Equal(before.Items[0].UID))
		Expect(after.Items[0].Status.ContainerStatuses[0].RestartCount).To(BeZero())
	}, SpecTimeout(6*time.Minute))

	It("resumes a killed training run to the same expert, bit for bit, also while the operator restarts", func(ctx SpecContext) {
		undisturbed, disturbed := shortTraining("undisturbed", "steady", 150), shortTraining("disturbed", "steady", 150)
		for _, e := range []*v1alpha1.ExpertVector{undisturbed, disturbed} {
			e.Spec.Training.Optimizer.LearningRate = "0.0005" // A perfect expert would end the run before it is killed.
		}
		Expect(cluster.Create(ctx, disturbed)).To(Succeed())
		Eventually(func(g Gomega) {
			g.Expect(cluster.Get(ctx, client.ObjectKeyFromObject(disturbed), disturbed)).To(Succeed())
			g.Expect(disturbed.Status.Progress).NotTo(BeNil())
			g.Expect(disturbed.Status.Progress.Iteration).To(HaveValue(BeNumerically(">=", 2)))
		}).WithPolling(200 * time.Millisecond).Should(Succeed())
		kubectl(ctx, "", "-n", namespace, "delete", "pod", "-l", v1alpha1.LabelExpert+"=disturbed", "--wait=false")
		kubectl(ctx, "", "-n", systemNamespace, "delete", "pod", "--all", "--wait=false")
		Expect(condition(ctx, disturbed, v1alpha1.ConditionReady).Status).NotTo(Equal(metav1.ConditionTrue), "the run ended before it could be disturbed")

		Expect(cluster.Create(ctx, undisturbed)).To(Succeed())
		kubectl(ctx, "", "-n", namespace, "wait", "--for=condition=Ready", "expertvector/undisturbed", "expertvector/disturbed", "--timeout=300s")
		Expect(cluster.Get(ctx, client.ObjectKeyFromObject(undisturbed), undisturbed)).To(Succeed())
		Expect(cluster.Get(ctx, client.ObjectKeyFromObject(disturbed), disturbed)).To(Succeed())
		Expect(disturbed.Status.Artifact.Digest).To(Equal(undisturbed.Status.Artifact.Digest))
	}, SpecTimeout(8*time.Minute))

	It("trains a changed spec under a new digest while the old expert keeps serving", func(ctx SpecContext) {
		var e v1alpha1.ExpertVector
		Expect(cluster.Get(ctx, client.ObjectKey{Namespace: namespace, Name: "sums"}, &e)).To(Succeed())
		old := e.Status.Artifact.Digest
		kubectl(ctx, "", "-n", namespace, "patch", "expertvector", "sums", "--type=merge",
			`-p={"spec":{"training":{"seed":8}}}`)
		Eventually(func(g Gomega) {
			g.Expect(condition(ctx, &e, v1alpha1.ConditionReconciling).Status).To(Equal(metav1.ConditionTrue))
		}).WithPolling(100 * time.Millisecond).Should(Succeed())
		Expect(e.Status.Artifact.Digest).To(Equal(old))
		_, adaptation, err := ask(ctx, "demo:sums", "What is 3 plus 4?")
		Expect(err).NotTo(HaveOccurred())
		Expect(adaptation.Expert).To(Equal("sums"))

		kubectl(ctx, "", "-n", namespace, "wait", "--for=condition=Ready", "expertvector/sums", "--timeout=480s")
		kubectl(ctx, "", "-n", namespace, "wait", "--for=condition=Ready", "adaptivepolicy/demo", "--timeout=60s")
		Expect(cluster.Get(ctx, client.ObjectKeyFromObject(&e), &e)).To(Succeed())
		Expect(e.Status.Artifact.Digest).NotTo(Equal(old))
	}, SpecTimeout(9*time.Minute))

	It("is never Ready before the pods that are asked for are there", func(ctx SpecContext) {
		policy := &v1alpha1.AdaptivePolicy{ObjectMeta: named("demo")}
		lies, ready := truth(ctx, policy)
		for i, patch := range []string{
			`{"spec":{"serving":{"maxBatch":8}}}`, `{"spec":{"serving":{"replicas":2}}}`, `{"spec":{"serving":{"replicas":0}}}`,
			`{"spec":{"serving":{"replicas":1}}}`, `{"spec":{"serving":{"contextLength":320}}}`, `{"spec":{"serving":{"contextLength":384}}}`,
		} {
			kubectl(ctx, "", "-n", namespace, "patch", "adaptivepolicy", "demo", "--type=merge", "-p="+patch)
			kubectl(ctx, "", "-n", namespace, "wait", "--for=condition=Ready", "adaptivepolicy/demo", "--timeout=120s")
			Eventually(ready).Should(BeNumerically(">", i), "the watch has seen it")
			Expect(lies()).To(BeEmpty(), "after %s", patch)
		}
	}, SpecTimeout(6*time.Minute))

	It("tells a story in kubectl describe", func(ctx SpecContext) {
		story := kubectl(ctx, "", "-n", namespace, "describe", "expertvector", "math")
		GinkgoWriter.Println(story)
		Expect(story).To(And(ContainSubstring("Succeeded"), ContainSubstring("Events:"), ContainSubstring("Baseline Score")))
	})
}

func badInput() {
	stalls := func(ctx context.Context, obj kube.Conditioned, reason, inMessage string) {
		GinkgoHelper()
		Eventually(func(g Gomega) {
			c := condition(ctx, obj, v1alpha1.ConditionStalled)
			g.Expect(c).To(haveCondition(metav1.ConditionTrue, reason))
			g.Expect(c.Message).To(ContainSubstring(inMessage))
		}).Should(Succeed())
		Expect(condition(ctx, obj, v1alpha1.ConditionReady).Status).To(Equal(metav1.ConditionFalse))
		Eventually(func() string {
			return kubectl(ctx, "", "-n", namespace, "get", "events", "--field-selector", "reason="+reason+",involvedObject.name="+obj.GetName(), "-o", "name")
		}).ShouldNot(BeEmpty(), "an event tells of it")
	}

	It("refuses a model whose digest is another", func(ctx SpecContext) {
		base := &v1alpha1.BaseModel{ObjectMeta: named("wrong-digest"), Spec: v1alpha1.BaseModelSpec{
			Source: v1alpha1.ModelSource{
				PersistentVolumeClaim: &v1alpha1.ClaimSource{ClaimName: "demo-assets", Path: "model"},
				Digest:                v1alpha1.Digest("sha256:" + strings.Repeat("0", 64)),
			},
			Storage: v1alpha1.StorageSpec{},
		}}
		Expect(cluster.Create(ctx, base)).To(Succeed())
		stalls(ctx, base, contract.ReasonDigestMismatch, "sha256:")
		Expect(cluster.Delete(ctx, base)).To(Succeed())
	})

	It("refuses a data set with a line that is no JSON, naming the line", func(ctx SpecContext) {
		Expect(cluster.Create(ctx, &corev1.ConfigMap{ObjectMeta: named("garbage"), Data: map[string]string{
			"train.jsonl": `{"question":"1+1?","answer":"#### 2"}` + "\nnot json\n",
		}})).To(Succeed())
		e := shortTraining("garbage", "garbage", 2)
		e.Spec.Training.Dataset.Train.ConfigMap = &v1alpha1.ConfigMapKeyRef{Name: "garbage", Key: "train.jsonl"}
		Expect(cluster.Create(ctx, e)).To(Succeed())
		stalls(ctx, e, contract.ReasonInvalidDataset, "ConfigMap garbage, key train.jsonl, line 2")
	})

	It("names the memory limit when training is killed for it", func(ctx SpecContext) {
		e := shortTraining("greedy", "greedy", 2)
		e.Spec.Training.Resources = memoryLimit("16Mi")
		backoff := int32(0)
		e.Spec.Training.BackoffLimit = &backoff
		Expect(cluster.Create(ctx, e)).To(Succeed())
		stalls(ctx, e, v1alpha1.ReasonOOMKilled, "memory")
	})

	It("waits for an address that does not answer, and says so", func(ctx SpecContext) {
		base := &v1alpha1.BaseModel{ObjectMeta: named("unreachable"), Spec: v1alpha1.BaseModelSpec{
			Source: v1alpha1.ModelSource{HTTP: &v1alpha1.HTTPSource{URL: "http://127.0.0.1:9/model"}},
		}}
		Expect(cluster.Create(ctx, base)).To(Succeed())
		Eventually(func(g Gomega) {
			g.Expect(condition(ctx, base, v1alpha1.ConditionReady)).To(haveCondition(metav1.ConditionFalse, contract.ReasonSourceUnreachable))
		}).Should(Succeed())
		Expect(cluster.Delete(ctx, base)).To(Succeed())
	})

	// In the foreground, as tools delete that prune: then Kubernetes deletes what
	// belongs to an object before the object.
	It("keeps a base model that is in use, and its volume, until nothing uses it", func(ctx SpecContext) {
		base, claim := &v1alpha1.BaseModel{ObjectMeta: named("tiny")}, &corev1.PersistentVolumeClaim{ObjectMeta: named("tiny")}
		kubectl(ctx, "", "-n", namespace, "delete", "bmodel", "tiny", "--cascade=foreground", "--wait=false")
		Eventually(func(g Gomega) {
			g.Expect(condition(ctx, base, v1alpha1.ConditionReady)).To(haveCondition(metav1.ConditionFalse, v1alpha1.ReasonInUse))
			var jobs batchv1.JobList // The garbage collector has been here once its Jobs are gone.
			g.Expect(cluster.List(ctx, &jobs, client.InNamespace(namespace), client.MatchingLabels{
				v1alpha1.LabelBaseModel: "tiny", v1alpha1.LabelComponent: v1alpha1.ComponentDecompose,
			})).To(Succeed())
			g.Expect(jobs.Items).To(BeEmpty())
		}).Should(Succeed())
		Consistently(func(g Gomega) {
			g.Expect(cluster.Get(ctx, client.ObjectKeyFromObject(claim), claim)).To(Succeed())
			g.Expect(claim.DeletionTimestamp).To(BeNil())
		}).WithTimeout(3 * time.Second).Should(Succeed())
		_, _, err := ask(ctx, "demo", "What is 3 plus 4?")
		Expect(err).NotTo(HaveOccurred(), "it goes on serving")
		kubectl(ctx, "", "-n", namespace, "delete", "pod", "-l", v1alpha1.LabelPolicy+"=demo", "--timeout=60s")
		Eventually(func(g Gomega) {
			text, adaptation, err := ask(ctx, "demo", "What is 3 plus 4?")
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(adaptation.Expert).To(Equal("math"))
			g.Expect(text).To(HaveSuffix("#### 7"))
		}).Should(Succeed(), "a pod that starts now finds the model and the experts")

		kubectl(ctx, "", "-n", namespace, "delete", "adaptivepolicy,expertvector", "--all", "--timeout=60s")
		Eventually(func(g Gomega) {
			for _, o := range []client.Object{base, claim} {
				err := cluster.Get(ctx, client.ObjectKeyFromObject(o), o)
				g.Expect(apierrors.IsNotFound(err)).To(BeTrue(), "%T: %v", o, err)
			}
		}).Should(Succeed())
	}, SpecTimeout(6*time.Minute))
}

// heldOut returns records of a skill's test set and what judges their answers.
func heldOut(ctx context.Context, skill string, n int) ([]dataset.Record, reward.Judge) {
	GinkgoHelper()
	kind := map[string]struct{ format, reward, template string }{
		"math":      {contract.FormatGSM8K, contract.RewardNumeric, ""},
		"code":      {contract.FormatMBPP, contract.RewardUnitTests, "{question}"},
		"reasoning": {contract.FormatARC, contract.RewardMultipleChoice, ""},
	}[skill]
	programs, err := judge.New(judge.Options{Command: []string{os.Getenv("T2"), "judge-worker"}})
	Expect(err).NotTo(HaveOccurred())
	judge, err := reward.New(kind.reward, programs)
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(judge.Close)
	set, err := dataset.Load(ctx, contract.DatasetSpec{
		Path:           fmt.Sprintf("%s/config/samples/demo/data/%s/test.jsonl", root, skill),
		Format:         kind.format,
		PromptTemplate: kind.template,
		Limit:          n,
	}, judge)
	Expect(err).NotTo(HaveOccurred())
	Expect(set.Records).To(HaveLen(n))
	return set.Records, judge
}

func memoryLimit(limit string) *corev1.ResourceRequirements {
	return &corev1.ResourceRequirements{Limits: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse(limit)}}
}
