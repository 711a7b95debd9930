package envtest

import (
	"context"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/runtime/contract"
)

// updateStatuses, when set, writes testdata/statuses anew:
// T2_UPDATE_STATUSES=yes KUBEBUILDER_ASSETS=$PWD/bin/cluster go test ./test/envtest -ginkgo.focus=Git
const updateStatuses = "T2_UPDATE_STATUSES"

var (
	// runName is a Job's name, whose end is a digest of what it does.
	runName = regexp.MustCompile(`\b(tiny|other|math|code)-[0-9a-f]{8}\b`)
	instant = regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ`)
)

// keeps compares what is told of an object with testdata/statuses/NAME.yaml: its
// kind, generation, observedGeneration and conditions, which are what Argo CD,
// Flux and Helm go by. hack/gitops shows these files to the tools.
func (w world) keeps(ctx context.Context, name string, obj object) {
	GinkgoHelper()
	Expect(k8s.Get(ctx, client.ObjectKeyFromObject(obj), obj)).To(Succeed())
	gvk, err := k8s.GroupVersionKindFor(obj)
	Expect(err).NotTo(HaveOccurred())
	fields, err := runtime.DefaultUnstructuredConverter.ToUnstructured(obj)
	Expect(err).NotTo(HaveOccurred())
	status, _ := fields["status"].(map[string]any)
	told := map[string]any{}
	for _, field := range []string{"observedGeneration", "conditions"} {
		if value, ok := status[field]; ok {
			told[field] = value
		}
	}
	text, err := yaml.Marshal(map[string]any{
		"apiVersion": gvk.GroupVersion().String(), "kind": gvk.Kind,
		"metadata": map[string]any{"name": obj.GetName(), "namespace": "demo", "generation": obj.GetGeneration()},
		"status":   told,
	})
	Expect(err).NotTo(HaveOccurred())
	got := strings.ReplaceAll(string(text), w.namespace, "demo")
	got = instant.ReplaceAllString(runName.ReplaceAllString(got, "$1-00000000"), "2026-01-01T00:00:00Z")
	file := filepath.Join("testdata", "statuses", name+".yaml")
	if os.Getenv(updateStatuses) != "" {
		Expect(os.MkdirAll(filepath.Dir(file), 0o755)).To(Succeed())
		Expect(os.WriteFile(file, []byte(got), 0o644)).To(Succeed())
	}
	want, err := os.ReadFile(file)
	Expect(err).NotTo(HaveOccurred())
	Expect(got).To(Equal(string(want)), "%s is no longer what hack/gitops tests; %s=yes writes it anew", file, updateStatuses)
}

var _ = Describe("What tools that roll out from Git see", Serial, func() {
	It("is what they are tested with", func(ctx SpecContext) {
		w := newWorld(ctx)
		w.dataset(ctx, "{}")

		By("the operator being away")
		operator.stop()
		base, math, policy := w.base("tiny"), w.expert("math"), w.policy("assistant", "math")
		for _, o := range []object{base, math, policy} {
			Expect(k8s.Create(ctx, o)).To(Succeed())
		}
		w.keeps(ctx, "basemodel-unseen", base)
		w.keeps(ctx, "expertvector-unseen", math)
		w.keeps(ctx, "adaptivepolicy-unseen", policy)
		operator = start()

		By("waiting for a base that is not there")
		orphan := w.expert("orphan")
		orphan.Spec.BaseModelRef.Name = "missing"
		Expect(k8s.Create(ctx, orphan)).To(Succeed())
		w.becomes(ctx, orphan, metav1.ConditionFalse, v1alpha1.ReasonBaseNotFound)
		w.keeps(ctx, "expertvector-waiting", orphan)

		By("work going on, and well")
		pod := w.pod(ctx, w.openJob(ctx, v1alpha1.LabelBaseModel, "tiny"), "one")
		w.setPod(ctx, pod, corev1.PodRunning, works("fetch"))
		w.becomes(ctx, base, metav1.ConditionFalse, v1alpha1.ReasonFetching)
		w.keeps(ctx, "basemodel-fetching", base)
		w.removePod(ctx, pod)
		w.finishDecompose(ctx, "tiny", decomposed("a", "b"))
		w.becomes(ctx, base, metav1.ConditionTrue, v1alpha1.ReasonSucceeded)
		w.keeps(ctx, "basemodel-ready", base)
		pod = w.pod(ctx, w.openJob(ctx, v1alpha1.LabelExpert, "math"), "one")
		w.setPod(ctx, pod, corev1.PodRunning, works("train"))
		w.becomes(ctx, math, metav1.ConditionFalse, v1alpha1.ReasonTraining)
		w.keeps(ctx, "expertvector-training", math)
		w.removePod(ctx, pod)
		w.finishTraining(ctx, "math", trained("1", "a", "b"))
		w.becomes(ctx, math, metav1.ConditionTrue, v1alpha1.ReasonSucceeded)
		w.keeps(ctx, "expertvector-ready", math)
		w.deployed(ctx, "assistant")
		w.becomes(ctx, policy, metav1.ConditionFalse, v1alpha1.ReasonRollingOut)
		w.keeps(ctx, "adaptivepolicy-rolling", policy)
		w.roll(ctx, "assistant")
		w.becomes(ctx, policy, metav1.ConditionTrue, v1alpha1.ReasonServing)
		w.keeps(ctx, "adaptivepolicy-ready", policy)

		By("a training being held, for which a policy waits that serves the expert before")
		held := w.expert("code")
		held.Spec.Training.Suspend = new(true)
		Expect(k8s.Create(ctx, held)).To(Succeed())
		w.becomes(ctx, held, metav1.ConditionFalse, v1alpha1.ReasonSuspended)
		w.keeps(ctx, "expertvector-suspended", held)
		policy.Spec.Experts = append(policy.Spec.Experts, v1alpha1.PolicyExpert{Name: "code"})
		Expect(k8s.Update(ctx, policy)).To(Succeed())
		w.becomes(ctx, policy, metav1.ConditionFalse, v1alpha1.ReasonExpertsNotReady)
		w.keeps(ctx, "adaptivepolicy-changing", policy)

		By("a failure that somebody must mend, and a change that the operator has not seen")
		other := w.base("other")
		other.Spec.Source.Digest = v1alpha1.Digest(digest("c"))
		Expect(k8s.Create(ctx, other)).To(Succeed())
		job := w.openJob(ctx, v1alpha1.LabelBaseModel, "other")
		w.setPod(ctx, w.pod(ctx, job, "one"), corev1.PodFailed, ended("fetch", contract.ExitPermanent, "Error", &contract.Termination{
			Reason: contract.ReasonDigestMismatch, Message: "the model has another digest; correct spec.source.digest", Permanent: true,
		}))
		w.setJob(ctx, job, batchv1.JobFailed, batchv1.JobReasonPodFailurePolicy, 1)
		w.becomes(ctx, other, metav1.ConditionFalse, contract.ReasonDigestMismatch)
		w.keeps(ctx, "basemodel-stalled", other)
		operator.stop()
		other.Spec.Source.Digest = ""
		Expect(k8s.Update(ctx, other)).To(Succeed())
		w.keeps(ctx, "basemodel-changed", other)
		operator = start()
	})
})
