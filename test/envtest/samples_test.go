package envtest

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/transformersquared/operator/api/v1alpha1"
)

var _ = Describe("config/samples", func() {
	It("are taken by the API server, with no field that it does not know", func(ctx SpecContext) {
		w := newWorld(ctx)
		strict := client.WithFieldValidation(k8s, "Strict")
		kinds := map[string]int{}
		for _, pattern := range []string{"*.yaml", "paper/*.yaml", "fewshot/*.yaml", "probe/*.yaml", "rollout/*.yaml", "strategies/*.yaml"} {
			files, err := filepath.Glob(filepath.Join(root, "config", "samples", pattern))
			Expect(err).NotTo(HaveOccurred())
			for _, file := range files {
				content, err := os.ReadFile(file)
				Expect(err).NotTo(HaveOccurred())
				reader := yaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(content)))
				for {
					document, err := reader.Read()
					if errors.Is(err, io.EOF) {
						break
					}
					Expect(err).NotTo(HaveOccurred(), file)
					object := &unstructured.Unstructured{}
					Expect(yaml.Unmarshal(document, &object.Object)).To(Succeed(), file)
					if object.GroupVersionKind().Group != v1alpha1.GroupName {
						continue
					}
					kinds[object.GetKind()]++
					object.SetNamespace(w.namespace)
					Expect(strict.Create(ctx, object, client.DryRunAll)).To(Succeed(), "%s: %s", file, object.GetName())
				}
			}
		}
		Expect(kinds).To(Equal(map[string]int{"BaseModel": 3, "ExpertVector": 13, "AdaptivePolicy": 10}))
	})
})
