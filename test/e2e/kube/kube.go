// Package kube is what the suites on real clusters share: a client of the cluster that
// KUBECONFIG names, the program that KUBECTL names, conditions, and what is printed of a
// cluster on which a spec failed. Everything here fails the running spec where it cannot do
// what it is for.
package kube

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/onsi/ginkgo/v2"
	"github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/transformersquared/operator/api/v1alpha1"
)

// Connect returns a client of the cluster. A call that takes longer than timeout fails, where
// that is not 0; a watch does, too.
func Connect(timeout time.Duration) client.WithWatch {
	ginkgo.GinkgoHelper()
	scheme := runtime.NewScheme()
	gomega.Expect(v1alpha1.AddToScheme(scheme)).To(gomega.Succeed())
	gomega.Expect(clientgoscheme.AddToScheme(scheme)).To(gomega.Succeed())
	config, err := clientcmd.BuildConfigFromFlags("", os.Getenv("KUBECONFIG"))
	gomega.Expect(err).NotTo(gomega.HaveOccurred())
	config.Timeout = timeout
	config.QPS = -1 // Specs look often, some of them side by side.
	cluster, err := client.NewWithWatch(config, client.Options{Scheme: scheme})
	gomega.Expect(err).NotTo(gomega.HaveOccurred())
	return cluster
}

// TryProgram runs a program and returns what it printed, on both streams.
func TryProgram(ctx context.Context, program, stdin string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, program, args...) //nolint:gosec // Suites name their own programs.
	cmd.Stdin = strings.NewReader(stdin)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return out.String(), err
}

// Program is TryProgram, for what must succeed.
func Program(ctx context.Context, program, stdin string, args ...string) string {
	ginkgo.GinkgoHelper()
	out, err := TryProgram(ctx, program, stdin, args...)
	gomega.Expect(err).NotTo(gomega.HaveOccurred(), "%s %s: %s", filepath.Base(program), strings.Join(args, " "), out)
	return out
}

// Try is TryProgram of kubectl.
func Try(ctx context.Context, stdin string, args ...string) (string, error) {
	return TryProgram(ctx, os.Getenv("KUBECTL"), stdin, args...)
}

// Kubectl is Program of kubectl.
func Kubectl(ctx context.Context, stdin string, args ...string) string {
	ginkgo.GinkgoHelper()
	return Program(ctx, os.Getenv("KUBECTL"), stdin, args...)
}

// Print writes what a cluster shows of our objects in some namespaces, and of the operator in
// its own, into the report of a spec that failed.
func Print(ctx context.Context, report ginkgo.SpecReport, operator string, namespaces ...string) {
	if !report.Failed() {
		return
	}
	commands := [][]string{
		{"get", "nodes"},
		{"-n", operator, "get", "deployments,pods", "-o", "wide"},
		{"-n", operator, "logs", "deployment/t2-controller-manager", "--tail=60"},
	}
	for _, namespace := range namespaces {
		commands = append(commands,
			[]string{"-n", namespace, "get", "t2,jobs,pods,pvc", "-o", "wide"},
			[]string{"-n", namespace, "describe", "t2"},
			[]string{"-n", namespace, "get", "events", "--sort-by=.lastTimestamp"},
		)
	}
	for _, args := range commands {
		out, err := Try(ctx, "", args...)
		ginkgo.GinkgoWriter.Printf("\n--- kubectl %s (%v)\n%s\n", strings.Join(args, " "), err, out)
	}
}

// Conditioned is an object of ours.
type Conditioned interface {
	client.Object
	StatusConditions() *[]metav1.Condition
}

// Condition returns the condition of an object as it was read, or an empty one.
func Condition(of Conditioned, conditionType string) metav1.Condition {
	if c := meta.FindStatusCondition(*of.StatusConditions(), conditionType); c != nil {
		return *c
	}
	return metav1.Condition{}
}
