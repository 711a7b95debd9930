package status

import (
	"errors"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/transformersquared/operator/api/v1alpha1"
)

// MaxMessage bounds a condition's message, in bytes.
const MaxMessage = 2048

// rejectedRetry is when an object that the API server refused is offered
// again: a quota or a policy may have changed, of which no watch tells.
const rejectedRetry = time.Minute

// Object is one of the API's kinds.
type Object interface {
	client.Object
	StatusConditions() *[]metav1.Condition
	SetObservedGeneration(generation int64)
}

// Ready describes an object that is realised.
type Ready struct {
	Reason  string
	Message string
	// After is when to look again all the same; zero means that a watch says when.
	After time.Duration
}

// Verdict is what a reconciliation came to.
type Verdict struct {
	Ready   bool
	Stalled bool
	Reason  string
	Message string
	Warning bool
	After   time.Duration
	// Retry is an error for the work queue's backoff.
	Retry error
}

// Judge turns the error of a reconciliation (nil: the object is realised, as
// ready says) into a verdict.
func Judge(ready Ready, err error) Verdict {
	var stalled *Stalled
	var waiting *Waiting
	switch {
	case err == nil:
		return Verdict{Ready: true, Reason: ready.Reason, Message: ready.Message, After: ready.After}
	case errors.As(err, &stalled):
		return Verdict{Stalled: true, Reason: stalled.Reason, Message: stalled.Message, After: stalled.After, Warning: true}
	case errors.As(err, &waiting):
		return Verdict{Reason: waiting.Reason, Message: waiting.Message, After: waiting.After, Warning: waiting.Warning}
	case apierrors.IsForbidden(err) || apierrors.IsInvalid(err):
		return Verdict{Reason: v1alpha1.ReasonRejected, Message: Refusal(err), After: rejectedRetry, Warning: true}
	default:
		return Verdict{Reason: v1alpha1.ReasonError, Message: err.Error(), Warning: true, Retry: err}
	}
}

// SetConditions writes Ready, Reconciling and Stalled as the verdict has them.
func SetConditions(obj Object, v Verdict) {
	obj.SetObservedGeneration(obj.GetGeneration())
	Set(obj, v1alpha1.ConditionReady, v.Ready, v.Reason, v.Message)
	setOrRemove(obj, v1alpha1.ConditionReconciling, !v.Ready && !v.Stalled, v)
	setOrRemove(obj, v1alpha1.ConditionStalled, v.Stalled, v)
}

func setOrRemove(obj Object, conditionType string, holds bool, v Verdict) {
	if !holds {
		meta.RemoveStatusCondition(obj.StatusConditions(), conditionType)
		return
	}
	Set(obj, conditionType, true, v.Reason, v.Message)
}

// Set writes one condition; its transition time changes only when its status
// does.
func Set(obj Object, conditionType string, holds bool, reason, message string) {
	value := metav1.ConditionFalse
	if holds {
		value = metav1.ConditionTrue
	}
	meta.SetStatusCondition(obj.StatusConditions(), metav1.Condition{
		Type: conditionType, Status: value, Reason: reason, Message: Clip(message, MaxMessage),
		ObservedGeneration: obj.GetGeneration(),
	})
}

// IsReady reports whether the object's Ready condition is True for the
// generation that it has now.
func IsReady(obj Object) bool { return Holds(obj, v1alpha1.ConditionReady) }

// Holds reports whether a condition of the object is True for the generation
// that it has now.
func Holds(obj Object, conditionType string) bool {
	c := meta.FindStatusCondition(*obj.StatusConditions(), conditionType)
	return c != nil && c.Status == metav1.ConditionTrue && c.ObservedGeneration == obj.GetGeneration()
}

// Explain returns what an object's Ready condition says, for the message of an
// object that waits for it.
func Explain(obj Object) string {
	c := meta.FindStatusCondition(*obj.StatusConditions(), v1alpha1.ConditionReady)
	switch {
	case c == nil:
		return "not looked at yet"
	case c.ObservedGeneration != obj.GetGeneration():
		return "changed a moment ago"
	default:
		return c.Reason + ": " + c.Message
	}
}

// Clip shortens s to at most limit bytes, on a rune's boundary.
func Clip(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	const mark = "…"
	cut := limit - len(mark)
	for cut > 0 && s[cut]&0xC0 == 0x80 {
		cut--
	}
	return s[:cut] + mark
}
