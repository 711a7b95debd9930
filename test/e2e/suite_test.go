// Package e2e runs the whole chain on a real cluster: real kubelet, real pods,
// real training. `make e2e` brings the cluster up, loads the images and sets
// KUBECONFIG, KUBECTL, T2, KUBECTL_T2 (the plugin) and SOFTGPU, by which the cluster has
// GPUs.
package e2e

import (
	"context"
	"os"
	"slices"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/transformersquared/operator/test/e2e/kube"
)

const (
	root            = "../.."
	namespace       = "t2-e2e"
	systemNamespace = "t2-system"
)

var cluster client.WithWatch

// Every spec has these.
var (
	kubectl = kube.Kubectl
	try     = kube.Try
)

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
	cluster = kube.Connect(0)
	kubectl(ctx, "", "apply", "--server-side", "-k", root+"/config/default")
	kubectl(ctx, "", "-n", systemNamespace, "rollout", "status", "deployment", "--timeout=120s")
	Expect(cluster.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
		Name:   namespace,
		Labels: map[string]string{"pod-security.kubernetes.io/enforce": "restricted"},
	}})).To(Succeed())
})

var _ = ReportAfterEach(func(ctx SpecContext, report SpecReport) {
	where := []string{namespace}
	switch texts := report.ContainerHierarchyTexts; {
	case slices.Contains(texts, "GPUs"):
		where = []string{cudaNamespace}
	case slices.Contains(texts, "Sources"):
		where = []string{makersNamespace, takersNamespace}
	}
	kube.Print(ctx, report, systemNamespace, where...)
})

// condition returns the named condition of an object as it is in the cluster
// now, or an empty one.
func condition(ctx context.Context, obj kube.Conditioned, conditionType string) metav1.Condition {
	GinkgoHelper()
	Expect(cluster.Get(ctx, client.ObjectKeyFromObject(obj), obj)).To(Succeed())
	return kube.Condition(obj, conditionType)
}

// haveCondition matches a condition with this status and reason.
func haveCondition(status metav1.ConditionStatus, reason string) OmegaMatcher {
	return And(HaveField("Status", status), HaveField("Reason", reason))
}
