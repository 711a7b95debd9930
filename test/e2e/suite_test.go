// Package e2e runs the whole chain on a real cluster: real kubelet, real pods,
// real training. `make e2e` brings the cluster up, loads the images and sets
// KUBECONFIG, KUBECTL, T2, KUBECTL_T2 (the plugin) and SOFTGPU, by which the cluster has
// GPUs.
package e2e

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/transformersquared/operator/api/v1alpha1"
)

const (
	root            = "../.."
	namespace       = "t2-e2e"
	systemNamespace = "t2-system"
)

var cluster client.WithWatch

func TestEndToEnd(t *testing.T) {
	if os.Getenv("KUBECONFIG") == "" {
		t.Skip("KUBECONFIG is not set: `make e2e` brings a cluster up and runs this suite")
	}
	RegisterFailHandler(Fail)
	SetDefaultEventuallyTimeout(2 * time.Minute)
	SetDefaultEventuallyPollingInterval(250 * time.Millisecond)
	RunSpecs(t, "The chain on a real cluster")
}

var _ = BeforeSuite(func(ctx SpecContext) {
	scheme := runtime.NewScheme()
	Expect(v1alpha1.AddToScheme(scheme)).To(Succeed())
	Expect(clientgoscheme.AddToScheme(scheme)).To(Succeed())
	config, err := clientcmd.BuildConfigFromFlags("", os.Getenv("KUBECONFIG"))
	Expect(err).NotTo(HaveOccurred())
	cluster, err = client.NewWithWatch(config, client.Options{Scheme: scheme})
	Expect(err).NotTo(HaveOccurred())

	kubectl(ctx, "", "apply", "--server-side", "-k", root+"/config/default")
	kubectl(ctx, "", "-n", systemNamespace, "rollout", "status", "deployment", "--timeout=120s")
	Expect(cluster.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
		Name:   namespace,
		Labels: map[string]string{"pod-security.kubernetes.io/enforce": "restricted"},
	}})).To(Succeed())
})

var _ = ReportAfterEach(func(ctx SpecContext, report SpecReport) {
	if !report.Failed() {
		return
	}
	where := []string{namespace}
	switch texts := report.ContainerHierarchyTexts; {
	case slices.Contains(texts, "GPUs"):
		where = []string{cudaNamespace}
	case slices.Contains(texts, "Sources"):
		where = []string{makersNamespace, takersNamespace}
	}
	commands := [][]string{{"-n", systemNamespace, "logs", "deployment/t2-controller-manager", "--tail=60"}}
	for _, ns := range where {
		commands = append(commands,
			[]string{"-n", ns, "get", "t2,jobs,pods,pvc", "-o", "wide"},
			[]string{"-n", ns, "describe", "t2"},
			[]string{"-n", ns, "get", "events", "--sort-by=.lastTimestamp"},
		)
	}
	for _, args := range commands {
		out, err := try(ctx, "", args...)
		GinkgoWriter.Printf("\n--- kubectl %s (%v)\n%s\n", strings.Join(args, " "), err, out)
	}
})

// try runs kubectl and returns what it printed, on both streams.
func try(ctx context.Context, stdin string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, os.Getenv("KUBECTL"), args...)
	cmd.Stdin = strings.NewReader(stdin)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return out.String(), err
}

// kubectl is try, for what must succeed.
func kubectl(ctx context.Context, stdin string, args ...string) string {
	GinkgoHelper()
	out, err := try(ctx, stdin, args...)
	Expect(err).NotTo(HaveOccurred(), "kubectl %s: %s", strings.Join(args, " "), out)
	return out
}

// condition returns the named condition of an object as it is in the cluster
// now, or an empty one.
func condition(ctx context.Context, obj client.Object, conditionType string) metav1.Condition {
	GinkgoHelper()
	Expect(cluster.Get(ctx, client.ObjectKeyFromObject(obj), obj)).To(Succeed())
	var conditions []metav1.Condition
	switch o := obj.(type) {
	case *v1alpha1.BaseModel:
		conditions = o.Status.Conditions
	case *v1alpha1.ExpertVector:
		conditions = o.Status.Conditions
	case *v1alpha1.AdaptivePolicy:
		conditions = o.Status.Conditions
	default:
		Fail("no conditions on this kind")
	}
	if c := meta.FindStatusCondition(conditions, conditionType); c != nil {
		return *c
	}
	return metav1.Condition{}
}

// haveCondition matches a condition with this status and reason.
func haveCondition(status metav1.ConditionStatus, reason string) OmegaMatcher {
	return And(HaveField("Status", status), HaveField("Reason", reason))
}
