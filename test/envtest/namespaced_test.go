package envtest

import (
	"bytes"
	"context"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/controllers"
)

// refusals are requests that the API server forbade.
type refusals struct {
	mu  sync.Mutex
	all []string
}

func (r *refusals) wrap(next http.RoundTripper) http.RoundTripper {
	return roundTripper(func(request *http.Request) (*http.Response, error) {
		response, err := next.RoundTrip(request)
		if err == nil && response.StatusCode == http.StatusForbidden {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.all = append(r.all, request.Method+" "+request.URL.Path)
		}
		return response, err
	})
}

func (r *refusals) list() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string(nil), r.all...)
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// permit makes the roles and bindings of config/namespaced, and nothing else of
// it, for a namespace.
func permit(ctx context.Context, namespace string) {
	GinkgoHelper()
	cmd := exec.CommandContext(ctx, filepath.Join(os.Getenv("KUBEBUILDER_ASSETS"), "kubectl"), "kustomize", filepath.Join(root, "config", "namespaced"))
	manifests, err := cmd.Output()
	Expect(err).NotTo(HaveOccurred())
	text := strings.ReplaceAll(string(manifests), "team-a", namespace)
	decoder := utilyaml.NewYAMLOrJSONDecoder(bytes.NewReader([]byte(text)), 4096)
	kinds := map[string]int{}
	for {
		object := &unstructured.Unstructured{}
		if decoder.Decode(&object.Object) != nil {
			break
		}
		kinds[object.GetKind()]++
		if object.GetKind() != "Deployment" {
			Expect(k8s.Create(ctx, object)).To(Succeed())
		}
	}
	Expect(kinds).To(Equal(map[string]int{"ServiceAccount": 1, "Role": 2, "RoleBinding": 2, "Deployment": 1}))
}

var _ = Describe("An operator for one namespace", Serial, func() {
	It("needs no right outside it, and does nothing there", func(ctx SpecContext) {
		w, other := newWorld(ctx), newWorld(ctx)
		permit(ctx, w.namespace)
		account := rest.CopyConfig(config)
		account.Impersonate = rest.ImpersonationConfig{
			UserName: "system:serviceaccount:" + w.namespace + ":t2-controller-manager",
			Groups:   []string{"system:serviceaccounts", "system:serviceaccounts:" + w.namespace, "system:authenticated"},
		}

		By("being refused elsewhere")
		limited, err := client.New(account, client.Options{Scheme: k8s.Scheme()})
		Expect(err).NotTo(HaveOccurred())
		Expect(apierrors.IsForbidden(limited.List(ctx, &v1alpha1.BaseModelList{}))).To(BeTrue())
		Expect(apierrors.IsForbidden(limited.List(ctx, &v1alpha1.BaseModelList{}, client.InNamespace(other.namespace)))).To(BeTrue())

		operator.stop()
		DeferCleanup(func() { operator = start() })
		var forbidden refusals
		account.Wrap(forbidden.wrap)
		own := startWith(account, ctrl.Options{
			Cache:          controllers.CacheOptions(w.namespace),
			LeaderElection: true, LeaderElectionID: "operator.transformersquared.dev", LeaderElectionNamespace: w.namespace,
			LeaderElectionReleaseOnCancel: true,
		})
		DeferCleanup(func() { own.stop() })

		By("doing all of its work in its namespace")
		elsewhere := other.base("tiny")
		Expect(k8s.Create(ctx, elsewhere)).To(Succeed())
		w.dataset(ctx, "{}")
		w.decompose(ctx, "tiny")
		w.train(ctx, w.expert("math"), "1")
		policy := w.policy("assistant", "math")
		Expect(k8s.Create(ctx, policy)).To(Succeed())
		w.roll(ctx, "assistant")
		w.becomes(ctx, policy, metav1.ConditionTrue, v1alpha1.ReasonServing)
		w.told(ctx, policy, "Normal", v1alpha1.ReasonServing)

		By("deleting")
		Expect(k8s.Delete(ctx, policy)).To(Succeed())
		Expect(k8s.Delete(ctx, w.expert("math"))).To(Succeed())
		Expect(k8s.Delete(ctx, w.base("tiny"))).To(Succeed())
		Eventually(func() bool {
			return apierrors.IsNotFound(k8s.Get(ctx, client.ObjectKeyFromObject(w.base("tiny")), &v1alpha1.BaseModel{}))
		}).Should(BeTrue())
		Expect(forbidden.list()).To(BeEmpty())

		By("leaving the other namespace alone")
		other.get(ctx, "tiny", elsewhere)
		Expect(elsewhere.Status.ObservedGeneration).To(Equal(int64(-1)))
		Expect(elsewhere.Finalizers).To(BeEmpty())
		Expect(other.jobs(ctx, v1alpha1.LabelBaseModel, "tiny")).To(BeZero())
	})
})
