// Package upgrade installs the version of before on a real cluster, trains and
// serves with it, upgrades to this one and goes back, as config/README.md says it
// is done, while clients ask all the time. `make e2e-upgrade` makes that version
// from the repository's history, brings a cluster up and runs this suite.
package upgrade

import (
	"os"
	"path/filepath"
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
	root      = "../../.."
	namespace = "t2-upgrade"
	system    = "t2-system"
)

// Variables that `make e2e-upgrade` sets.
const (
	// envBefore is the folder with the config of the version to upgrade from.
	envBefore = "T2_UPGRADE_FROM"
	// envInside runs a program in the cluster's network: words before its own.
	envInside = "T2_INSIDE"
)

var cluster client.WithWatch

// Every spec has these.
var (
	kubectl = kube.Kubectl
	try     = kube.Try
)

// TestMain is the suite, or, where it starts itself within the cluster's network,
// the clients that ask there.
func TestMain(m *testing.M) {
	if urls := os.Getenv(envAsk); urls != "" {
		os.Exit(askAll(urls, os.Stdin, os.Stdout))
	}
	os.Exit(m.Run())
}

func TestUpgrade(t *testing.T) {
	for _, name := range []string{"KUBECONFIG", "KUBECTL", envBefore, envInside} {
		if os.Getenv(name) == "" {
			t.Skipf("%s is not set: `make e2e-upgrade` brings a cluster up and runs this suite", name)
		}
	}
	RegisterFailHandler(Fail)
	SetDefaultEventuallyTimeout(3 * time.Minute)
	SetDefaultEventuallyPollingInterval(250 * time.Millisecond)
	RunSpecs(t, "Upgrades on a real cluster")
}

var _ = BeforeSuite(func(ctx SpecContext) {
	cluster = kube.Connect(0)
	Expect(cluster.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
		Name: namespace, Labels: map[string]string{"pod-security.kubernetes.io/enforce": "restricted"},
	}})).To(Succeed())
})

var _ = ReportAfterEach(func(ctx SpecContext, report SpecReport) {
	kube.Print(ctx, report, system, namespace)
})

// before is the folder with a part of the config of the version to upgrade from.
func before(part ...string) string {
	return filepath.Join(append([]string{os.Getenv(envBefore), "config"}, part...)...)
}
