package status

import (
	"reflect"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	"github.com/transformersquared/operator/api/v1alpha1"
)

// failures counts what a condition does not tell: failed calls of the operator,
// which are repeated.
var failures = prometheus.NewCounterVec(prometheus.CounterOpts{
	Name: "transformersquared_reconcile_failures_total",
	Help: "Reconciliations that failed and are repeated, by the kind of the object and the API server's reason.",
}, []string{"kind", "reason"})

// What the operator's work came to. Labels have few values: none is the name of an object.
var (
	outcomes = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "t2_operator_reconciliations_total",
		Help: "Reconciliations by the kind of the object and what they came to: ready, waiting, stalled (somebody must act), rejected (by the API server) or failed (and repeated).",
	}, []string{"kind", "outcome"})
	readySeconds = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "t2_operator_ready_seconds",
		Help:    "How long objects took to be Ready, since they were made, or since the change or the loss for which they ceased to be.",
		Buckets: longBuckets,
	}, []string{"kind"})
	runSeconds = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "t2_operator_run_seconds",
		Help:    "How long runs took from their first Job to their end, by what they do (decompose, train, import, search or probe) and result (succeeded or failed).",
		Buckets: longBuckets,
	}, []string{"run", "result"})
)

// longBuckets are from a second to 18 hours.
var longBuckets = prometheus.ExponentialBuckets(1, 2, 17)

func init() {
	metrics.Registry.MustRegister(failures, outcomes, readySeconds, runSeconds)
}

// otherReason counts what did not come from the API server.
const otherReason = "Other"

// kindOf names the kind of an object, which one that was read from the API server does not.
func kindOf(obj Object) string { return reflect.TypeOf(obj).Elem().Name() }

func countError(obj Object, err error) {
	reason := string(apierrors.ReasonForError(err))
	if reason == "" {
		reason = otherReason
	}
	failures.WithLabelValues(kindOf(obj), reason).Inc()
}

// countVerdict counts what a reconciliation came to.
func countVerdict(obj Object, v Verdict) {
	outcome := "waiting"
	switch {
	case v.Retry != nil:
		outcome = "failed"
	case v.Ready:
		outcome = "ready"
	case v.Stalled:
		outcome = "stalled"
	case v.Reason == v1alpha1.ReasonRejected:
		outcome = "rejected"
	}
	outcomes.WithLabelValues(kindOf(obj), outcome).Inc()
}

// countChange counts what has come true with a status that was just written.
func countChange(before, after Object, now time.Time) {
	if since := unready(before, after); !since.IsZero() {
		readySeconds.WithLabelValues(kindOf(after)).Observe(now.Sub(since).Seconds())
	}
	for name, was := range runsOf(before) {
		if run := ended(was, runsOf(after)[name]); run != nil {
			result := "failed"
			if run.Result == v1alpha1.ReasonSucceeded {
				result = "succeeded"
			}
			runSeconds.WithLabelValues(name, result).Observe(run.CompletionTime.Sub(run.StartTime.Time).Seconds())
		}
	}
}

// unready is since when an object was not Ready that is now: since it was made, or since the
// operator has been at it, without the time in which it was Stalled. It is zero where the object
// has not become Ready just now, and where nothing had to be done for it. The conditions say so:
// an operator that has just started knows no less.
func unready(before, after Object) time.Time {
	if !Holds(after, v1alpha1.ConditionReady) || Holds(before, v1alpha1.ConditionReady) {
		return time.Time{}
	}
	if meta.FindStatusCondition(*before.StatusConditions(), v1alpha1.ConditionReady) == nil {
		return before.GetCreationTimestamp().Time
	}
	reconciling := meta.FindStatusCondition(*before.StatusConditions(), v1alpha1.ConditionReconciling)
	if reconciling == nil || reconciling.Status != metav1.ConditionTrue {
		return time.Time{}
	}
	// A default of the API's has no time that means anything.
	if made := before.GetCreationTimestamp().Time; reconciling.LastTransitionTime.Time.Before(made) {
		return made
	}
	return reconciling.LastTransitionTime.Time
}

// runsOf are an object's runs by what they do, the newest first of each.
func runsOf(obj Object) map[string][]v1alpha1.RunStatus {
	switch o := obj.(type) {
	case *v1alpha1.BaseModel:
		return map[string][]v1alpha1.RunStatus{"decompose": o.Status.Runs}
	case *v1alpha1.ExpertVector:
		if o.Spec.Source != nil {
			return map[string][]v1alpha1.RunStatus{"import": o.Status.Runs}
		}
		return map[string][]v1alpha1.RunStatus{"train": o.Status.Runs}
	case *v1alpha1.AdaptivePolicy:
		list := map[string][]v1alpha1.RunStatus{"search": nil, "probe": nil}
		if s := o.Status.FewShot; s != nil {
			list["search"] = s.Runs
		}
		if p := o.Status.Probe; p != nil {
			list["probe"] = p.Runs
		}
		return list
	}
	return nil
}

// ended is the newest run, if it has ended between two statuses.
func ended(before, after []v1alpha1.RunStatus) *v1alpha1.RunStatus {
	if len(after) == 0 || after[0].Result == "" || after[0].CompletionTime == nil {
		return nil
	}
	for _, was := range before {
		if was.ID == after[0].ID && was.Result == after[0].Result {
			return nil
		}
	}
	return &after[0]
}
