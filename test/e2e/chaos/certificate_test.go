package chaos

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/controllers/desired"
	"github.com/transformersquared/operator/runtime/contract"
)

// shows is a role: it prints the certificate that somebody shows.
func shows(ctx context.Context, address string) error {
	dialer := tls.Dialer{NetDialer: &net.Dialer{Timeout: impatience}, Config: &tls.Config{
		InsecureSkipVerify: true, // What is shown is looked at, and nothing is told.
	}}
	connection, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return fmt.Errorf("asking %s for its certificate: %w", address, err)
	}
	defer func() { _ = connection.Close() }()
	secured, ok := connection.(*tls.Conn)
	if !ok {
		return errors.New("it is no connection by TLS")
	}
	return pem.Encode(os.Stdout, &pem.Block{Type: "CERTIFICATE", Bytes: secured.ConnectionState().PeerCertificates[0].Raw})
}

// secured lets the operator ask pods by HTTPS until the spec ends.
func secured(ctx context.Context) {
	GinkgoHelper()
	var d appsv1.Deployment
	Expect(cluster.Get(ctx, client.ObjectKey{Namespace: systemNamespace, Name: manager}, &d)).To(Succeed())
	was := d.Spec.Template.Spec.Containers[0].Args
	set := func(ctx context.Context, args []string) {
		GinkgoHelper()
		patch, err := json.Marshal([]map[string]any{{"op": "replace", "path": "/spec/template/spec/containers/0/args", "value": args}})
		Expect(err).NotTo(HaveOccurred())
		kubectl(ctx, "", "-n", systemNamespace, "patch", "deployment", manager, "--type=json", "-p="+string(patch))
		kubectl(ctx, "", "-n", systemNamespace, "rollout", "status", "deployment", manager, "--timeout=180s")
	}
	DeferCleanup(func(ctx SpecContext) { set(ctx, was) }, NodeTimeout(4*time.Minute))
	set(ctx, append(append([]string{}, was...), "--admin-tls"))
}

// setSecret changes keys of a policy's Secret; nil takes one away.
func setSecret(ctx context.Context, policy *v1alpha1.AdaptivePolicy, data map[string][]byte) {
	GinkgoHelper()
	patch, err := json.Marshal(map[string]any{"data": data})
	Expect(err).NotTo(HaveOccurred())
	kubectl(ctx, "", "-n", namespace, "patch", "secret", desired.AdminSecretName(policy), "--type=merge", "-p="+string(patch))
}

// certificateOf is that of a policy's Secret, and the lines in which it is trusted.
func certificateOf(ctx context.Context, g Gomega, policy *v1alpha1.AdaptivePolicy) (current, trusted string) {
	var secret corev1.Secret
	g.Expect(cluster.Get(ctx, client.ObjectKey{Namespace: namespace, Name: desired.AdminSecretName(policy)}, &secret)).To(Succeed())
	return string(secret.Data[contract.AdminCertKey]), string(secret.Data[contract.AdminTrustKey])
}

// showing waits until all pods of a policy show a certificate.
func showing(ctx context.Context, policy *v1alpha1.AdaptivePolicy, certificate string) {
	GinkgoHelper()
	self, err := os.Executable()
	Expect(err).NotTo(HaveOccurred())
	Eventually(func(g Gomega) {
		for _, pod := range servingPods(ctx, g, policy.Name) {
			shown := tool(ctx, "exec", "env", roleVariable+"="+roleShows, self, "--address="+net.JoinHostPort(pod.Status.PodIP, strconv.Itoa(contract.PortAdmin)))
			g.Expect(strings.TrimSpace(shown)).To(Equal(strings.TrimSpace(certificate)), pod.Name)
		}
	}).WithContext(ctx).WithPolling(time.Second).Should(Succeed())
}

// ended is a certificate for a policy which was good until an hour ago, and its key.
func ended(policy string) (certificate, key []byte) {
	GinkgoHelper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	Expect(err).NotTo(HaveOccurred())
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{policy}, NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: time.Now().Add(-time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	Expect(err).NotTo(HaveOccurred())
	encoded, err := x509.MarshalPKCS8PrivateKey(private)
	Expect(err).NotTo(HaveOccurred())
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: encoded})
}

func certificates() {
	It("trusts its pods again by itself, and none of them starts anew", func(ctx SpecContext) {
		secured(ctx)
		policy := policyOf(ctx, "serves")
		was := servingPods(ctx, Default, policy.Name)
		first, _ := certificateOf(ctx, Default, policy)
		showing(ctx, policy, first)
		clients := startTraffic(ctx, policy.Name)

		By("taking the key away: another certificate is made, and the one before stays trusted")
		setSecret(ctx, policy, map[string][]byte{contract.AdminPrivateKey: nil})
		second := renewed(ctx, policy, first)
		_, trusted := certificateOf(ctx, Default, policy)
		Expect(trusted).To(And(ContainSubstring(strings.TrimSpace(first)), ContainSubstring(strings.TrimSpace(second))))
		rotated := time.Now()
		showing(ctx, policy, second)
		GinkgoWriter.Printf("all pods show the next certificate %s after it was made\n", time.Since(rotated).Round(time.Second))

		By("taking all of it away: pods are not trusted until they have the next one, and it is said")
		setSecret(ctx, policy, map[string][]byte{contract.AdminCertKey: nil, contract.AdminPrivateKey: nil, contract.AdminTrustKey: nil})
		third := renewed(ctx, policy, second)
		gone := time.Now()
		becomes(ctx, policy, v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonLoadingExperts, "certificate")
		showing(ctx, policy, third)
		waitReady(ctx, policy)
		GinkgoWriter.Printf("Ready again %s after everything was lost\n", time.Since(gone).Round(time.Second))

		By("letting the certificate end while no operator runs")
		patchOperator(ctx, `{"spec":{"replicas":0}}`)
		DeferCleanup(func(ctx SpecContext) { patchOperator(ctx, `{"spec":{"replicas":1}}`) }, NodeTimeout(4*time.Minute))
		old, key := ended(policy.Name)
		setSecret(ctx, policy, map[string][]byte{contract.AdminCertKey: old, contract.AdminPrivateKey: key, contract.AdminTrustKey: old})
		showing(ctx, policy, string(old))
		patchOperator(ctx, `{"spec":{"replicas":1}}`)
		begun := time.Now()
		becomes(ctx, policy, v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonLoadingExperts, "certificate has expired", "the kubelet brings it to the pod within minutes")
		fourth := renewed(ctx, policy, string(old))
		showing(ctx, policy, fourth)
		waitReady(ctx, policy)
		GinkgoWriter.Printf("Ready again %s after an operator began\n", time.Since(begun).Round(time.Second))

		Expect(conditionOf(ctx, Default, policy, v1alpha1.ConditionAvailable).Status).To(Equal(metav1.ConditionTrue))
		now := servingPods(ctx, Default, policy.Name)
		Expect(now).To(HaveLen(len(was)))
		for i, pod := range now {
			Expect(pod.UID).To(Equal(was[i].UID), "%s takes the place of %s", pod.Name, was[i].Name)
			Expect(pod.Status.ContainerStatuses).To(HaveEach(HaveField("RestartCount", BeZero())))
		}
		clients.answered(ctx, time.Now(), 20)
		Expect(lost(clients.end(ctx), policy.Status.ExpertSetDigest)).To(BeEmpty())
	}, SpecTimeout(15*time.Minute))
}

func renewed(ctx context.Context, policy *v1alpha1.AdaptivePolicy, before string) (certificate string) {
	GinkgoHelper()
	Eventually(func(g Gomega) {
		certificate, _ = certificateOf(ctx, g, policy)
		g.Expect(certificate).NotTo(Or(BeEmpty(), Equal(before)))
	}).WithContext(ctx).Should(Succeed())
	return certificate
}
