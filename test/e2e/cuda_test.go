package e2e

import (
	"encoding/json"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/runtime/contract"
)

const (
	cudaNamespace = "t2-e2e-cuda"
	gpuResource   = corev1.ResourceName("nvidia.com/gpu")
)

// gpus is the chain on GPUs: those that the cluster has, or else those that the
// command SOFTGPU advertises, which are the software driver.
func gpus() {
	named := func(name string) metav1.ObjectMeta {
		return metav1.ObjectMeta{Namespace: cudaNamespace, Name: name}
	}
	wait := func(ctx SpecContext, object string) {
		GinkgoHelper()
		kubectl(ctx, "", "-n", cudaNamespace, "wait", "--for=condition=Ready", object, "--timeout=120s")
	}

	BeforeAll(func(ctx SpecContext) {
		if free(ctx) < 2 {
			advertise()
			// A policy's new pod comes before the old one goes.
			Eventually(free).WithContext(ctx).Should(BeNumerically(">=", 2))
		}
	})

	It("decomposes, trains and serves on them, from YAML to an answer that is the CPU's", func(ctx SpecContext) {
		kubectl(ctx, "", "apply", "--server-side", "-k", "testdata/cuda")
		wait(ctx, "basemodel/tiny")
		wait(ctx, "expertvector/math")
		wait(ctx, "adaptivepolicy/demo")

		By("showing in status what computed")
		base, expert := &v1alpha1.BaseModel{ObjectMeta: named("tiny")}, &v1alpha1.ExpertVector{ObjectMeta: named("math")}
		policy := &v1alpha1.AdaptivePolicy{ObjectMeta: named("demo")}
		for _, o := range []client.Object{base, expert, policy} {
			Expect(cluster.Get(ctx, client.ObjectKeyFromObject(o), o)).To(Succeed())
		}
		Expect(base.Status.Runs).To(ConsistOf(HaveField("Device", HavePrefix("cuda ("))))
		Expect(expert.Status.Runs).To(ConsistOf(HaveField("Device", HavePrefix("cuda ("))))
		Expect(policy.Status.Devices).To(ConsistOf(And(HaveField("Name", HavePrefix("cuda (")), HaveField("Pods", BeEquivalentTo(1)))))
		pod := servingPod(ctx, policy)
		Expect(pod.Spec.Containers[0].Resources.Limits).To(HaveKeyWithValue(gpuResource, resource.MustParse("1")))

		By("adapting")
		const sum, story = "What is 3 plus 4?", "Tom has 12 pens and buys 6 more. How many pens does Tom have?"
		ask := func(model, question string) (string, contract.Adaptation) {
			GinkgoHelper()
			text, adaptation, err := askIn(ctx, cudaNamespace, model, question)
			Expect(err).NotTo(HaveOccurred())
			return text, adaptation
		}
		adapted, chosen := ask("demo", story)
		Expect(chosen.Expert).To(Equal("math"))
		pinned, _ := ask("demo:math", sum)
		own, _ := ask("demo:base", sum)
		Expect(own).To(Equal(onThisMachine(ctx, sum)))

		By("replacing its pod by one on another GPU, which then is free")
		kubectl(ctx, "", "-n", cudaNamespace, "patch", "adaptivepolicy", "demo", "--type=merge", `-p={"spec":{"serving":{"maxBatch":4}}}`)
		wait(ctx, "adaptivepolicy/demo")
		Expect(servingPod(ctx, policy).UID).NotTo(Equal(pod.UID))
		Expect(cluster.Get(ctx, client.ObjectKeyFromObject(policy), policy)).To(Succeed())
		Expect(policy.Status.Devices).To(ConsistOf(HaveField("Name", HavePrefix("cuda ("))))

		By("answering the same on CPUs, with the same expert")
		kubectl(ctx, "", "-n", cudaNamespace, "patch", "adaptivepolicy", "demo", "--type=merge", `-p={"spec":{"serving":{"backend":"CPU"}}}`)
		wait(ctx, "adaptivepolicy/demo")
		Expect(cluster.Get(ctx, client.ObjectKeyFromObject(policy), policy)).To(Succeed())
		Expect(policy.Status.Devices).To(ConsistOf(HaveField("Name", HavePrefix("cpu ("))))
		again, adaptation := ask("demo", story)
		Expect(again).To(Equal(adapted))
		Expect(adaptation.Expert).To(Equal("math"))
		Expect(adaptation.Probabilities["math"]).To(BeNumerically("~", chosen.Probabilities["math"], 1e-3))
		again, _ = ask("demo:math", sum)
		Expect(again).To(Equal(pinned))
		digest := expert.Status.Artifact.Digest
		Expect(cluster.Get(ctx, client.ObjectKeyFromObject(expert), expert)).To(Succeed())
		Expect(expert.Status.Artifact.Digest).To(Equal(digest))
	}, SpecTimeout(4*time.Minute))

	It("says what to do where a pod finds no driver, and goes on when that is done", func(ctx SpecContext) {
		base := &v1alpha1.BaseModel{ObjectMeta: named("driverless"), Spec: v1alpha1.BaseModelSpec{
			Source: v1alpha1.ModelSource{PersistentVolumeClaim: &v1alpha1.ClaimSource{ClaimName: "demo-assets", Path: "model"}},
			Runtime: v1alpha1.RuntimeSpec{
				Backend: v1alpha1.BackendCUDA,
				// It fetches first, which needs no driver.
				Image:     "transformersquared.dev/t2-cuda:dev",
				Resources: &corev1.ResourceRequirements{Limits: corev1.ResourceList{gpuResource: resource.MustParse("0")}},
			},
		}}
		Expect(cluster.Create(ctx, base)).To(Succeed())
		Eventually(func(g Gomega) {
			c := condition(ctx, base, v1alpha1.ConditionReady)
			g.Expect(c).To(haveCondition(metav1.ConditionFalse, contract.ReasonNoDevice), c.Message)
			g.Expect(c.Message).To(And(ContainSubstring("no NVIDIA driver was found"), ContainSubstring("libcuda.so.1"),
				ContainSubstring("spec.runtime.podTemplate.spec.runtimeClassName"), ContainSubstring("set spec.runtime.backend to CPU")))
			// It is tried again: a node's driver may come.
			g.Expect(condition(ctx, base, v1alpha1.ConditionStalled).Status).NotTo(Equal(metav1.ConditionTrue))
		}).Should(Succeed())

		kubectl(ctx, "", "-n", cudaNamespace, "patch", "basemodel", "driverless", "--type=merge",
			`-p={"spec":{"runtime":{"backend":"CPU","resources":null}}}`)
		wait(ctx, "basemodel/driverless")
		Expect(cluster.Get(ctx, client.ObjectKeyFromObject(base), base)).To(Succeed())
		Expect(base.Status.Runs[0].Device).To(HavePrefix("cpu ("))
	}, SpecTimeout(3*time.Minute))

	It("leaves nothing", func(ctx SpecContext) {
		for _, kind := range []string{"adaptivepolicy", "expertvector", "basemodel"} {
			kubectl(ctx, "", "-n", cudaNamespace, "delete", kind, "--all", "--timeout=60s")
		}
		kubectl(ctx, "", "delete", "namespace", cudaNamespace, "--timeout=60s")
		err := cluster.Get(ctx, client.ObjectKey{Name: cudaNamespace}, &corev1.Namespace{})
		Expect(apierrors.IsNotFound(err)).To(BeTrue(), "%v", err)
	}, SpecTimeout(3*time.Minute))
}

// free is how many GPUs the cluster's nodes advertise.
func free(ctx SpecContext) int64 {
	GinkgoHelper()
	var nodes corev1.NodeList
	Expect(cluster.List(ctx, &nodes)).To(Succeed())
	total := int64(0)
	for _, n := range nodes.Items {
		gpus := n.Status.Allocatable[gpuResource]
		total += gpus.Value()
	}
	return total
}

// advertise runs the command SOFTGPU until the specs that need it are over.
func advertise() {
	GinkgoHelper()
	words := strings.Fields(os.Getenv("SOFTGPU"))
	Expect(words).NotTo(BeEmpty(), "the cluster has less than 2 GPUs and SOFTGPU is not set: `make e2e` sets it to the command that advertises some")
	cmd := exec.Command(words[0], words[1:]...)
	cmd.Stdout, cmd.Stderr = GinkgoWriter, GinkgoWriter
	Expect(cmd.Start()).To(Succeed())
	DeferCleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	})
}

// servingPod returns the one pod of a policy.
func servingPod(ctx SpecContext, policy *v1alpha1.AdaptivePolicy) corev1.Pod {
	GinkgoHelper()
	var alive []corev1.Pod
	Eventually(func(g Gomega) {
		var pods corev1.PodList
		g.Expect(cluster.List(ctx, &pods, client.InNamespace(policy.Namespace), client.MatchingLabels{v1alpha1.LabelPolicy: policy.Name})).To(Succeed())
		alive = alive[:0]
		for _, p := range pods.Items {
			if p.DeletionTimestamp == nil {
				alive = append(alive, p)
			}
		}
		g.Expect(alive).To(HaveLen(1))
	}).Should(Succeed())
	return alive[0]
}

// onThisMachine is the demo model's answer by this machine's processors, without
// a cluster.
func onThisMachine(ctx SpecContext, question string) string {
	GinkgoHelper()
	out, err := exec.CommandContext(ctx, os.Getenv("T2"), "generate", "--json", "--chat", "--max-tokens", "24",
		"--model", root+"/config/samples/demo/model", "--prompt", question).Output()
	Expect(err).NotTo(HaveOccurred())
	var answer struct{ Text string }
	Expect(json.Unmarshal(out, &answer)).To(Succeed())
	return answer.Text
}
