// Package chaos breaks a real cluster of three nodes in many ways and looks what
// becomes of what runs there: what is lost, and whether every status tells the truth
// meanwhile. `make chaos` brings the cluster up, loads the images and sets KUBECONFIG,
// KUBECTL, T2CLUSTER, CLUSTER_BIN and CHAOS_CLUSTER; test/README.md has what was found.
//
// Faults are t2cluster's. Requests are sent by this program itself, in another role
// (roles_test.go), from within the network namespace of node 1, which is never lost.
package chaos

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/test/e2e/kube"
)

const (
	root            = "../../.."
	namespace       = "t2-chaos"
	systemNamespace = "t2-system"
	// short marks what is run for a quick look.
	short = "short"
	// mortal is the label of the nodes that may be lost: all but the first, which has the
	// control plane and, here, the operator.
	mortal = "transformersquared.dev/mortal"
)

var cluster client.WithWatch

// Every spec has it.
var kubectl = kube.Kubectl

func TestMain(m *testing.M) {
	if role := os.Getenv(roleVariable); role != "" {
		if err := play(role, os.Args[1:]); err != nil {
			fmt.Fprintf(os.Stderr, "%s: %v\n", role, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func TestChaos(t *testing.T) {
	if os.Getenv("KUBECONFIG") == "" || os.Getenv("CHAOS_CLUSTER") == "" {
		t.Skip("KUBECONFIG or CHAOS_CLUSTER is not set: `make chaos` brings a cluster up and runs this suite")
	}
	RegisterFailHandler(Fail)
	SetDefaultEventuallyTimeout(3 * time.Minute)
	SetDefaultEventuallyPollingInterval(250 * time.Millisecond)
	RunSpecs(t, "Faults on a real cluster of three nodes")
}

// The specs share a base and an expert, and leave the cluster as it was.
var _ = Describe("A cluster", Ordered, func() {
	Describe("whose training pods are killed", trainings)
	Describe("whose control plane fails", controlPlane)
	Describe("whose sources fail", sources)
	Describe("whose nodes are lost", nodes)
	Describe("whose operator's node is lost", leaders)
	Describe("whose volumes fail", volumes)
	Describe("whose certificates fail", certificates)
})

var _ = BeforeSuite(func(ctx SpecContext) {
	cluster = kube.Connect(10 * time.Second) // A call to a node that is gone ends, too.
	for _, node := range []int{2, 3} {
		kubectl(ctx, "", "label", "--overwrite", "node", nodeName(node), mortal+"=yes")
	}
	kubectl(ctx, "", "apply", "--server-side", "-k", root+"/config/default")
	kubectl(ctx, "", "-n", systemNamespace, "patch", "deployment", "t2-controller-manager", "--type=merge",
		fmt.Sprintf(`-p={"spec":{"template":{"spec":{"nodeSelector":{"kubernetes.io/hostname":%q}}}}}`, nodeName(1)))
	kubectl(ctx, "", "-n", systemNamespace, "rollout", "status", "deployment", "--timeout=180s")
	samples := kubectl(ctx, "", "kustomize", root+"/config/samples")
	kubectl(ctx, strings.ReplaceAll(data(samples), "t2-demo", namespace), "apply", "--server-side", "-f", "-")
	base := &v1alpha1.BaseModel{ObjectMeta: named("tiny"), Spec: v1alpha1.BaseModelSpec{
		Source:  v1alpha1.ModelSource{PersistentVolumeClaim: &v1alpha1.ClaimSource{ClaimName: "demo-assets", Path: "model"}},
		Storage: v1alpha1.StorageSpec{AccessModes: []v1alpha1.AccessMode{"ReadWriteMany"}}, // Pods of three nodes.
	}}
	Expect(cluster.Create(ctx, base)).To(Succeed())
	waitReady(ctx, base)
	Expect(cluster.Create(ctx, training(undisturbed))).To(Succeed())
	waitReady(ctx, expert(undisturbed))
}, NodeTimeout(10*time.Minute))

// data are the samples without the objects of ours, which this suite makes itself.
func data(samples string) string {
	var kept []string
	for document := range strings.SplitSeq(samples, "\n---\n") {
		if !strings.Contains("\n"+document, "\napiVersion: transformersquared.dev/") {
			kept = append(kept, document)
		}
	}
	return strings.Join(kept, "\n---\n")
}

var _ = ReportAfterEach(func(ctx SpecContext, report SpecReport) {
	kube.Print(ctx, report, systemNamespace, namespace)
})

// tool runs a command of t2cluster on the suite's cluster, which must succeed.
func tool(ctx context.Context, command string, args ...string) string {
	GinkgoHelper()
	return kube.Program(ctx, os.Getenv("T2CLUSTER"), "", append([]string{command, "--name", os.Getenv("CHAOS_CLUSTER")}, args...)...)
}

// fault breaks a part of the cluster, or mends it.
func fault(ctx context.Context, verb, part string) {
	GinkgoHelper()
	By(fmt.Sprintf("%s %s", verb, part))
	tool(ctx, "fault", verb, part)
}

// breaks is fault for what mends when the spec ends, also one that fails half-way.
func breaks(ctx context.Context, verb, part, mended string) (mend func(ctx context.Context)) {
	GinkgoHelper()
	fault(ctx, verb, part)
	done := false
	mend = func(ctx context.Context) {
		GinkgoHelper()
		if !done {
			done = true
			fault(ctx, mended, part)
		}
	}
	DeferCleanup(func(ctx SpecContext) { mend(ctx) }, NodeTimeout(4*time.Minute))
	return mend
}

func nodeName(node int) string { return fmt.Sprintf("%s-node-%d", os.Getenv("CHAOS_CLUSTER"), node) }

// nodeNumber is the number of the node that a pod is on.
func nodeNumber(pod *corev1.Pod) int {
	GinkgoHelper()
	var n int
	_, err := fmt.Sscanf(pod.Spec.NodeName, os.Getenv("CHAOS_CLUSTER")+"-node-%d", &n)
	Expect(err).NotTo(HaveOccurred(), pod.Spec.NodeName)
	return n
}

func part(node int) string { return fmt.Sprintf("node-%d", node) }

func named(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Namespace: namespace, Name: name} }

// conditionOf returns a condition of an object as it is in the cluster now, or an empty one.
func conditionOf(ctx context.Context, g Gomega, object kube.Conditioned, conditionType string) metav1.Condition {
	g.Expect(cluster.Get(ctx, client.ObjectKeyFromObject(object), object)).To(Succeed())
	return kube.Condition(object, conditionType)
}

// becomes waits until a condition has a status and a reason, and says all of what is in its
// message.
func becomes(ctx context.Context, object kube.Conditioned, conditionType string, status metav1.ConditionStatus, reason string, says ...string) {
	GinkgoHelper()
	Eventually(func(g Gomega) {
		c := conditionOf(ctx, g, object, conditionType)
		g.Expect(c).To(And(HaveField("Status", status), HaveField("Reason", reason)), c.Message)
		for _, text := range says {
			g.Expect(c.Message).To(ContainSubstring(text))
		}
	}).WithContext(ctx).Should(Succeed())
}

// waitReady waits until an object is Ready in its present generation.
func waitReady(ctx context.Context, object kube.Conditioned) {
	GinkgoHelper()
	Eventually(func(g Gomega) {
		c := conditionOf(ctx, g, object, v1alpha1.ConditionReady)
		g.Expect(c.ObservedGeneration).To(Equal(object.GetGeneration()))
		g.Expect(c.Status).To(Equal(metav1.ConditionTrue), "%s: %s", c.Reason, c.Message)
	}).WithContext(ctx).WithTimeout(8 * time.Minute).Should(Succeed())
}
