// Package chart installs the operator and the samples with Helm on a real cluster,
// upgrades both, and takes both away. `make e2e` runs it after the chain, whose
// suite has removed its operator by then; `make e2e-chart` runs it alone, on a
// fresh cluster.
package chart

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/test/e2e/kube"
)

const (
	root   = "../../.."
	system = "t2-chart-system"
	demo   = "t2-chart"
)

var cluster client.Client

func TestChart(t *testing.T) {
	if os.Getenv("KUBECONFIG") == "" || os.Getenv("HELM") == "" {
		t.Skip("KUBECONFIG or HELM is not set: `make e2e-chart` brings a cluster up and runs this suite")
	}
	RegisterFailHandler(Fail)
	SetDefaultEventuallyTimeout(2 * time.Minute)
	SetDefaultEventuallyPollingInterval(250 * time.Millisecond)
	RunSpecs(t, "The chart on a real cluster")
}

var _ = BeforeSuite(func() {
	cluster = kube.Connect(0)
})

// run runs a program that must succeed, and returns what it printed.
func run(ctx context.Context, program string, args ...string) string {
	GinkgoHelper()
	return kube.Program(ctx, program, "", args...)
}

func helm(ctx context.Context, args ...string) string {
	GinkgoHelper()
	return run(ctx, os.Getenv("HELM"), args...)
}

var _ = ReportAfterEach(func(ctx SpecContext, report SpecReport) {
	kube.Print(ctx, report, system, demo)
})

// samples makes a chart of config/samples, whose expert math is trained with a
// seed, and returns its folder.
func samples(ctx context.Context, seed string) string {
	GinkgoHelper()
	text := run(ctx, os.Getenv("KUBECTL"), "kustomize", filepath.Join(root, "config", "samples"))
	text = strings.ReplaceAll(text, "t2-demo", demo)
	var kept []string
	for document := range strings.SplitSeq(strings.TrimSuffix(text, "\n"), "\n---\n") {
		document += "\n"                                     // Which the split took.
		if strings.Contains(document, "kind: Namespace\n") { // It is there already.
			continue
		}
		if strings.Contains(document, "kind: ExpertVector\n") && strings.Contains(document, "\n  name: math\n") {
			Expect(document).To(ContainSubstring("    seed: 1\n"))
			document = strings.Replace(document, "    seed: 1\n", "    seed: "+seed+"\n", 1)
		}
		kept = append(kept, document)
	}
	folder := filepath.Join(GinkgoT().TempDir(), "demo")
	for name, content := range map[string]string{
		"Chart.yaml":             "apiVersion: v2\nname: demo\nversion: 0.1.0\n",
		"files/samples.yaml":     strings.Join(kept, "\n---\n"),
		"templates/samples.yaml": `{{ .Files.Get "files/samples.yaml" }}`,
	} {
		file := filepath.Join(folder, name)
		Expect(os.MkdirAll(filepath.Dir(file), 0o755)).To(Succeed())
		Expect(os.WriteFile(file, []byte(content), 0o600)).To(Succeed())
	}
	return folder
}

// everythingIsReady checks, without waiting, that every object of the samples is
// Ready as it is written now.
func everythingIsReady(ctx context.Context) {
	GinkgoHelper()
	for _, object := range []kube.Conditioned{
		&v1alpha1.BaseModel{ObjectMeta: metav1.ObjectMeta{Name: "tiny"}},
		&v1alpha1.ExpertVector{ObjectMeta: metav1.ObjectMeta{Name: "math"}},
		&v1alpha1.ExpertVector{ObjectMeta: metav1.ObjectMeta{Name: "code"}},
		&v1alpha1.ExpertVector{ObjectMeta: metav1.ObjectMeta{Name: "reasoning"}},
		&v1alpha1.AdaptivePolicy{ObjectMeta: metav1.ObjectMeta{Name: "demo"}},
	} {
		Expect(cluster.Get(ctx, client.ObjectKey{Namespace: demo, Name: object.GetName()}, object)).To(Succeed())
		ready := kube.Condition(object, v1alpha1.ConditionReady)
		Expect(ready.Status).To(Equal(metav1.ConditionTrue), "%s: %s: %s", object.GetName(), ready.Reason, ready.Message)
		Expect(ready.ObservedGeneration).To(Equal(object.GetGeneration()), object.GetName())
	}
}

var _ = Describe("Helm", Ordered, func() {
	math := func(ctx context.Context) *v1alpha1.ExpertVector {
		GinkgoHelper()
		expert := &v1alpha1.ExpertVector{}
		Expect(cluster.Get(ctx, client.ObjectKey{Namespace: demo, Name: "math"}, expert)).To(Succeed())
		return expert
	}

	It("installs the operator and waits for it", func(ctx SpecContext) {
		helm(ctx, "install", "t2", filepath.Join(root, "config", "chart"), "--namespace", system, "--create-namespace", "--wait", "--timeout", "5m")
		run(ctx, os.Getenv("KUBECTL"), "label", "namespace", system, "pod-security.kubernetes.io/enforce=restricted")
		var deployment appsv1.Deployment
		Expect(cluster.Get(ctx, client.ObjectKey{Namespace: system, Name: "t2-controller-manager"}, &deployment)).To(Succeed())
		Expect(deployment.Status.ReadyReplicas).To(Equal(int32(1)))
	}, SpecTimeout(6*time.Minute))

	It("waits until every expert of the samples is trained and served", func(ctx SpecContext) {
		Expect(cluster.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
			Name: demo, Labels: map[string]string{"pod-security.kubernetes.io/enforce": "restricted"},
		}})).To(Succeed())
		helm(ctx, "install", "demo", samples(ctx, "1"), "--namespace", demo, "--wait", "--timeout", "20m")
		everythingIsReady(ctx)
	}, SpecTimeout(21*time.Minute))

	It("upgrades the operator, and no training begins anew", func(ctx SpecContext) {
		before := math(ctx)
		helm(ctx, "upgrade", "t2", filepath.Join(root, "config", "chart"), "--namespace", system, "--wait", "--timeout", "5m",
			"--set", "replicas=2", "--set", "podDisruptionBudget.enabled=true")
		var deployment appsv1.Deployment
		Expect(cluster.Get(ctx, client.ObjectKey{Namespace: system, Name: "t2-controller-manager"}, &deployment)).To(Succeed())
		Expect(deployment.Status.ReadyReplicas).To(Equal(int32(2)))
		everythingIsReady(ctx)
		after := math(ctx)
		Expect(after.Status.Artifact.Digest).To(Equal(before.Status.Artifact.Digest))
		Expect(after.Status.Runs).To(HaveLen(len(before.Status.Runs)))
	}, SpecTimeout(6*time.Minute))

	It("upgrades the samples, and waits for the expert that is trained anew", func(ctx SpecContext) {
		before := math(ctx)
		helm(ctx, "upgrade", "demo", samples(ctx, "2"), "--namespace", demo, "--wait", "--timeout", "20m")
		everythingIsReady(ctx)
		Expect(math(ctx).Status.Runs[0].ID).NotTo(Equal(before.Status.Runs[0].ID))
	}, SpecTimeout(21*time.Minute))

	It("uninstalls, and leaves the kinds", func(ctx SpecContext) {
		helm(ctx, "uninstall", "demo", "--namespace", demo, "--wait", "--timeout", "5m")
		Eventually(func(g Gomega) {
			var bases v1alpha1.BaseModelList
			g.Expect(cluster.List(ctx, &bases, client.InNamespace(demo))).To(Succeed())
			g.Expect(bases.Items).To(BeEmpty())
		}).Should(Succeed())
		helm(ctx, "uninstall", "t2", "--namespace", system, "--wait", "--timeout", "5m")
		var deployment appsv1.Deployment
		Expect(apierrors.IsNotFound(cluster.Get(ctx, client.ObjectKey{Namespace: system, Name: "t2-controller-manager"}, &deployment))).To(BeTrue())
		kinds := run(ctx, os.Getenv("KUBECTL"), "get", "crd", "-o", "name")
		Expect(strings.Count(kinds, "transformersquared.dev")).To(Equal(3), kinds)
		run(ctx, os.Getenv("KUBECTL"), "delete", "crd", "basemodels.transformersquared.dev", "expertvectors.transformersquared.dev", "adaptivepolicies.transformersquared.dev")
		run(ctx, os.Getenv("KUBECTL"), "delete", "namespace", demo, system, "--timeout=120s")
	}, SpecTimeout(12*time.Minute))
})
