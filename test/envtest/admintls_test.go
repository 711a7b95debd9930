package envtest

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"maps"
	"net/http"
	"net/http/httptest"
	"sync/atomic"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/controllers/certs"
	"github.com/transformersquared/operator/runtime/contract"
)

// listenSecurely makes a pod answer by HTTPS with the certificate that a Secret had when it
// was last told.
func (r *registry) listenSecurely(pod *corev1.Pod, handler http.Handler, secret *atomic.Pointer[corev1.Secret]) {
	server := httptest.NewUnstartedServer(handler)
	server.Config.SetKeepAlivesEnabled(false)
	server.TLS = &tls.Config{MinVersion: tls.VersionTLS13, GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		s := secret.Load()
		pair, err := tls.X509KeyPair(s.Data[contract.AdminCertKey], s.Data[contract.AdminPrivateKey])
		return &pair, err
	}}
	server.StartTLS()
	DeferCleanup(server.Close)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.urls[pod.Namespace+"/"+pod.Name] = server.URL
}

var _ = Describe("The pods' admin port by HTTPS", Serial, func() {
	It("begins with the next pods, and goes on through a renewal", func(ctx SpecContext) {
		w := newWorld(ctx)
		w.dataset(ctx, "{}")
		w.decompose(ctx, "tiny")
		w.train(ctx, w.expert("math"), "1")
		policy := w.policy("assistant", "math")
		Expect(k8s.Create(ctx, policy)).To(Succeed())
		plain := w.roll(ctx, "assistant")
		w.becomes(ctx, policy, metav1.ConditionTrue, v1alpha1.ReasonServing)

		By("starting an operator that asks by HTTPS")
		operator.stop()
		settings.AdminTLS = true
		operator = start()
		DeferCleanup(func() {
			operator.stop()
			settings.AdminTLS = false
			operator = start()
		})
		var secret atomic.Pointer[corev1.Secret]
		mounted := func() *corev1.Secret {
			s := &corev1.Secret{}
			w.get(ctx, "assistant-admin", s)
			return s
		}
		before := mounted().Data[contract.AdminTokenKey]
		Eventually(func() map[string][]byte { return mounted().Data }).Should(HaveKey(contract.AdminCertKey))
		secret.Store(mounted())
		Expect(secret.Load().Data).To(HaveKeyWithValue(contract.AdminTokenKey, before), "pods that run have that token")
		Eventually(func() string {
			return w.deployed(ctx, "assistant").Spec.Template.Annotations[v1alpha1.AnnotationAdminScheme]
		}).Should(Equal(v1alpha1.AdminSchemeHTTPS))

		By("telling the pod that is there in its own way")
		expert := &v1alpha1.ExpertVector{}
		w.get(ctx, "math", expert)
		expert.Spec.Description = "sums and more"
		Expect(k8s.Update(ctx, expert)).To(Succeed())
		Eventually(func() int { return len(plain[0].sets()) }).Should(BeNumerically(">", 1))

		By("replacing it by one that speaks HTTPS")
		for _, pod := range w.podsOf(ctx, "assistant") {
			w.removePod(ctx, &pod)
		}
		d := w.deployed(ctx, "assistant")
		pod := &corev1.Pod{ObjectMeta: w.meta("secure"), Spec: *d.Spec.Template.Spec.DeepCopy()}
		pod.Labels, pod.Annotations = d.Spec.Template.Labels, d.Spec.Template.Annotations
		Expect(k8s.Create(ctx, pod)).To(Succeed())
		s := &server{token: string(before)}
		pods.listenSecurely(pod, s, &secret)
		w.setPod(ctx, pod, corev1.PodRunning, works("serve"))
		w.setDeployment(ctx, "assistant")
		w.becomes(ctx, policy, metav1.ConditionTrue, v1alpha1.ReasonServing)

		By("renewing a certificate that is about to end")
		name, _ := pem.Decode(secret.Load().Data[contract.AdminCertKey])
		first, err := x509.ParseCertificate(name.Bytes)
		Expect(err).NotTo(HaveOccurred())
		Expect(first.VerifyHostname("assistant")).To(Succeed())
		aged, _, err := certs.Renew(first.NotBefore.Add(-certs.Lifetime+certs.RenewBefore), "assistant", nil)
		Expect(err).NotTo(HaveOccurred())
		old := mounted()
		maps.Copy(old.Data, aged)
		Expect(k8s.Update(ctx, old)).To(Succeed())
		secret.Store(old)
		nudge := func(note string) {
			w.get(ctx, policy.Name, policy)
			policy.Annotations = map[string]string{"note": note}
			policy.Spec.Strategy.Prompt = &v1alpha1.PromptStrategy{Template: "{skills} {prompt} " + note}
			Expect(k8s.Update(ctx, policy)).To(Succeed())
		}
		nudge("one")
		Eventually(func() []byte { return mounted().Data[contract.AdminCertKey] }).ShouldNot(Equal(aged[contract.AdminCertKey]))
		// The pod still shows the old one, which is trusted.
		w.becomes(ctx, policy, metav1.ConditionTrue, v1alpha1.ReasonServing)
		secret.Store(mounted())
		nudge("two")
		w.becomes(ctx, policy, metav1.ConditionTrue, v1alpha1.ReasonServing)

		By("refusing a pod with a certificate of somebody else")
		others, _, err := certs.Renew(first.NotBefore, "assistant", nil)
		Expect(err).NotTo(HaveOccurred())
		secret.Store(&corev1.Secret{Data: others})
		offered := len(s.sets())
		nudge("three")
		Eventually(func(g Gomega) {
			w.get(ctx, policy.Name, policy)
			g.Expect(policy.Status.Pods).To(HaveLen(1))
			g.Expect(policy.Status.Pods[0].Error).To(ContainSubstring("unknown authority"))
		}).Should(Succeed())
		Expect(s.sets()).To(HaveLen(offered))
	})
})
