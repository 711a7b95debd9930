package chaos

import (
	"context"
	"path/filepath"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/runtime/contract"
)

const (
	sourceHost = "models.chaos.test"
	sourcePort = "8088"
	namesPort  = 5353
	// lateNames is how long a name server takes: less than what resolvers wait (5 s).
	lateNames = 3 * time.Second
)

// addressOf is a node's address.
func addressOf(ctx context.Context, node int) string {
	GinkgoHelper()
	return kubectl(ctx, "", "get", "node", nodeName(node), "-o", `jsonpath={.status.addresses[?(@.type=="InternalIP")].address}`)
}

func sources() {
	It("says what fails, tries again, and succeeds when it is mended: no names, then slow ones, then errors of the server", func(ctx SpecContext) {
		at := addressOf(ctx, 1)
		model, err := filepath.Abs(root + "/config/samples/demo")
		Expect(err).NotTo(HaveOccurred())
		server := act(roleSource, "--address="+at+":"+sourcePort, "--folder="+model)
		url := "http://" + sourceHost + ":" + sourcePort + "/model"
		base := &v1alpha1.BaseModel{ObjectMeta: named("remote"), Spec: v1alpha1.BaseModelSpec{
			Source: v1alpha1.ModelSource{HTTP: &v1alpha1.HTTPSource{URL: url}},
		}}
		Expect(cluster.Create(ctx, base)).To(Succeed())
		DeferCleanup(func(ctx SpecContext) {
			kubectl(ctx, "", "-n", namespace, "delete", "basemodel", base.Name, "--timeout=120s")
		}, NodeTimeout(3*time.Minute))
		becomes(ctx, base, v1alpha1.ConditionReady, metav1.ConditionFalse, contract.ReasonSourceUnreachable, sourceHost, "lookup")

		By("serving names, slowly")
		resolver := act(roleNames, "--address="+at+":5353", "--name="+sourceHost, "--late="+lateNames.String())
		slice := &discoveryv1.EndpointSlice{
			ObjectMeta:  metav1.ObjectMeta{Namespace: "kube-system", Name: "chaos-names", Labels: map[string]string{discoveryv1.LabelServiceName: "kube-dns"}},
			AddressType: discoveryv1.AddressTypeIPv4,
			Endpoints:   []discoveryv1.Endpoint{{Addresses: []string{at}}},
			Ports:       []discoveryv1.EndpointPort{{Name: new("dns"), Port: new(int32(namesPort)), Protocol: new(corev1.ProtocolUDP)}},
		}
		Expect(cluster.Create(ctx, slice)).To(Succeed())
		DeferCleanup(func(ctx SpecContext) { Expect(cluster.Delete(ctx, slice)).To(Succeed()) })
		becomes(ctx, base, v1alpha1.ConditionReady, metav1.ConditionFalse, contract.ReasonSourceUnreachable, url, "500")
		Eventually(server.lines).WithContext(ctx).Should(Receive(HavePrefix("500 /model/")))
		Eventually(resolver.lines).WithContext(ctx).Should(Receive(Equal("answered")))

		By("serving the model")
		_, err = server.input.Write([]byte("serve\n"))
		Expect(err).NotTo(HaveOccurred())
		waitReady(ctx, base)
		Expect(base.Status.Runs).To(HaveLen(1))
		tiny := &v1alpha1.BaseModel{ObjectMeta: named("tiny")}
		conditionOf(ctx, Default, tiny, v1alpha1.ConditionReady)
		Expect(base.Status.Artifact.Digest).To(Equal(tiny.Status.Artifact.Digest), "the same model by another way")
	}, SpecTimeout(12*time.Minute))
}
