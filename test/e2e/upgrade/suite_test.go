// Package upgrade installs the version of before on a real cluster, trains and
// serves with it, upgrades to this one and goes back, as config/README.md says it
// is done, while clients ask all the time. `make e2e-upgrade` makes that version
// from the repository's history, brings a cluster up and runs this suite.
package upgrade

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/transformersquared/operator/api/v1alpha1"
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
	scheme := runtime.NewScheme()
	Expect(v1alpha1.AddToScheme(scheme)).To(Succeed())
	Expect(clientgoscheme.AddToScheme(scheme)).To(Succeed())
	config, err := clientcmd.BuildConfigFromFlags("", os.Getenv("KUBECONFIG"))
	Expect(err).NotTo(HaveOccurred())
	cluster, err = client.NewWithWatch(config, client.Options{Scheme: scheme})
	Expect(err).NotTo(HaveOccurred())
	Expect(cluster.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
		Name: namespace, Labels: map[string]string{"pod-security.kubernetes.io/enforce": "restricted"},
	}})).To(Succeed())
})

var _ = ReportAfterEach(func(ctx SpecContext, report SpecReport) {
	if !report.Failed() {
		return
	}
	for _, args := range [][]string{
		{"-n", namespace, "get", "t2,jobs,pods,pvc", "-o", "wide"},
		{"-n", namespace, "describe", "t2"},
		{"-n", namespace, "get", "events", "--sort-by=.lastTimestamp"},
		{"-n", system, "get", "all", "-o", "wide"},
		{"-n", system, "logs", "deployment/t2-controller-manager", "--tail=60"},
	} {
		out, err := try(ctx, "", args...)
		GinkgoWriter.Printf("\n--- kubectl %s (%v)\n%s\n", strings.Join(args, " "), err, out)
	}
})

// before is the folder with a part of the config of the version to upgrade from.
func before(part ...string) string {
	return filepath.Join(append([]string{os.Getenv(envBefore), "config"}, part...)...)
}

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
