package envtest

import (
	"net/http"
	"net/http/httptest"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrlmetrics "sigs.k8s.io/controller-runtime/pkg/metrics"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/test/monitoring"
)

var _ = Describe("The operator's metrics", func() {
	It("are those that the rules and the dashboard name", func(ctx SpecContext) {
		w := newWorld(ctx)
		w.dataset(ctx, "{}")
		w.decompose(ctx, "tiny")
		w.train(ctx, w.expert("math"), "1")
		policy := w.policy("assistant", "math")
		Expect(k8s.Create(ctx, policy)).To(Succeed())
		w.roll(ctx, "assistant")
		w.becomes(ctx, policy, metav1.ConditionTrue, v1alpha1.ReasonServing)

		recorder := httptest.NewRecorder()
		promhttp.HandlerFor(ctrlmetrics.Registry, promhttp.HandlerOpts{}).ServeHTTP(recorder,
			httptest.NewRequestWithContext(ctx, http.MethodGet, "/metrics", nil))
		Expect(recorder.Code).To(Equal(http.StatusOK))
		for _, beginning := range []string{monitoring.OfReconciling, monitoring.OfQueues, monitoring.OfOperator} {
			names, err := monitoring.Names(root, beginning)
			Expect(err).NotTo(HaveOccurred())
			Expect(names).NotTo(BeEmpty())
			Expect(monitoring.Missing(names, recorder.Body.String())).To(BeEmpty())
		}
		// Rules select the controllers by these names.
		for _, name := range []string{"adaptivepolicy", "basemodel", "expertvector"} {
			Expect(recorder.Body.String()).To(ContainSubstring(`controller_runtime_reconcile_errors_total{controller="` + name + `"}`))
			Expect(recorder.Body.String()).To(MatchRegexp(`(?m)^workqueue_depth\{.*name="` + name + `"`))
		}
	})
})
