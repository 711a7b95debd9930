package envtest

import (
	"os"
	"path/filepath"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/transformersquared/operator/api/v1alpha1"
)

var _ = Describe("What a cluster's own kinds are given", func() {
	It("is taken by the API server, with no field that it does not know", func(ctx SpecContext) {
		w := newWorld(ctx)
		strict := client.WithFieldValidation(k8s, "Strict")
		for _, file := range []string{
			"network/namespace/serving.yaml", "network/namespace/jobs.yaml", "network/operator/operator.yaml", "samples/autoscaling/hpa.yaml",
		} {
			text, err := os.ReadFile(filepath.Join(root, "config", filepath.FromSlash(file)))
			Expect(err).NotTo(HaveOccurred())
			object := &unstructured.Unstructured{}
			Expect(yaml.Unmarshal(text, &object.Object)).To(Succeed(), file)
			object.SetNamespace(w.namespace)
			Expect(strict.Create(ctx, object, client.DryRunAll)).To(Succeed(), file)
		}
	})

	// A target with another name or version is one that the autoscaler never finds.
	It("scales a kind that there is", func() {
		text, err := os.ReadFile(filepath.Join(root, "config", "samples", "autoscaling", "hpa.yaml"))
		Expect(err).NotTo(HaveOccurred())
		var hpa autoscalingv2.HorizontalPodAutoscaler
		Expect(yaml.UnmarshalStrict(text, &hpa)).To(Succeed())
		target := hpa.Spec.ScaleTargetRef
		Expect(target.APIVersion).To(Equal(v1alpha1.SchemeGroupVersion.String()))
		Expect(target.Kind).To(Equal("AdaptivePolicy"))

		var policy v1alpha1.AdaptivePolicy
		text, err = os.ReadFile(filepath.Join(root, "config", "samples", "adaptivepolicy.yaml"))
		Expect(err).NotTo(HaveOccurred())
		Expect(yaml.UnmarshalStrict(text, &policy)).To(Succeed())
		Expect(target.Name).To(Equal(policy.Name))
		// It asks for another pod before one is full.
		Expect(hpa.Spec.Metrics[0].Pods.Target.AverageValue.Value()).To(BeNumerically("<", policy.Spec.Serving.MaxBatch))
	})
})
