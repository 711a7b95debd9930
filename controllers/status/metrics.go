package status

import (
	"reflect"

	"github.com/prometheus/client_golang/prometheus"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/metrics"
)

// failures counts what a condition does not tell: failed calls of the operator,
// which are repeated.
var failures = prometheus.NewCounterVec(prometheus.CounterOpts{
	Name: "transformersquared_reconcile_failures_total",
	Help: "Reconciliations that failed and are repeated, by the kind of the object and the API server's reason.",
}, []string{"kind", "reason"})

func init() {
	metrics.Registry.MustRegister(failures)
}

// otherReason counts what did not come from the API server.
const otherReason = "Other"

func countError(obj Object, err error) {
	reason := string(apierrors.ReasonForError(err))
	if reason == "" {
		reason = otherReason
	}
	failures.WithLabelValues(reflect.TypeOf(obj).Elem().Name(), reason).Inc()
}
