package desired

import (
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/transformersquared/operator/api/v1alpha1"
)

// Pods that are asked by HTTPS say so, to the operator and to the kubelet; the others are
// as they were.
func TestPodsThatAreAskedByHTTPSSaySo(t *testing.T) {
	for name, secure := range map[string]bool{"by HTTP": false, "by HTTPS": true} {
		t.Run(name, func(t *testing.T) {
			with := settings
			with.AdminTLS = secure
			d, err := Deployment(policy(), baseModel(), nil, []byte("token"), with)
			if err != nil {
				t.Fatal(err)
			}
			template := d.Spec.Template
			if got := template.Annotations[v1alpha1.AnnotationAdminScheme] == v1alpha1.AdminSchemeHTTPS; got != secure {
				t.Errorf("the annotation says %v", got)
			}
			c := template.Spec.Containers[0]
			for at, p := range map[string]corev1.URIScheme{
				"startup": *c.StartupProbe.HTTPGet.Scheme, "liveness": *c.LivenessProbe.HTTPGet.Scheme, "readiness": *c.ReadinessProbe.HTTPGet.Scheme,
			} {
				if (p == corev1.URISchemeHTTPS) != secure {
					t.Errorf("the kubelet asks for %s by %s", at, p)
				}
			}
			plain, err := Deployment(policy(), baseModel(), nil, []byte("token"), settings)
			if err != nil {
				t.Fatal(err)
			}
			if same := plain.Spec.Template.Annotations[v1alpha1.AnnotationTemplate] == template.Annotations[v1alpha1.AnnotationTemplate]; same == secure {
				t.Errorf("the template is the same: %v", same)
			}
		})
	}
}
