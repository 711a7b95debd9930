package status

import (
	"errors"
	"fmt"
	"strings"
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
	// Retry is an error for the work queue's backoff: a call of the operator
	// failed, which says nothing about the object.
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
		return Verdict{
			Reason: v1alpha1.ReasonRejected, After: rejectedRetry, Warning: true,
			Message: fmt.Sprintf("The API server refuses what this needs, and is asked again each minute: %s", Refusal(err)),
		}
	default:
		return Verdict{
			Reason: v1alpha1.ReasonError, Warning: true, Retry: err,
			Message: fmt.Sprintf("A step failed and is repeated: %v", err),
		}
	}
}

// SetConditions writes Ready, Reconciling and Stalled as the verdict has them.
// A failed call of the operator says nothing about the object: what the
// conditions said of the same generation stays, and of a generation of which
// they say nothing yet it is not known whether it is realised.
func SetConditions(obj Object, v Verdict) {
	if known := meta.FindStatusCondition(*obj.StatusConditions(), v1alpha1.ConditionReady); v.Retry != nil &&
		known != nil && known.ObservedGeneration == obj.GetGeneration() {
		if meta.IsStatusConditionTrue(*obj.StatusConditions(), v1alpha1.ConditionReconciling) {
			Set(obj, v1alpha1.ConditionReconciling, true, v.Reason, v.Message)
		}
		return
	}
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
		Type: conditionType, Status: value, Reason: reason, Message: Clip(Tidy(message), MaxMessage),
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

// Explain returns why an object is not Ready, for the message of an object that
// waits for it. Of one that is Ready it says that its change is not seen yet.
func Explain(obj Object) string {
	c := meta.FindStatusCondition(*obj.StatusConditions(), v1alpha1.ConditionReady)
	switch {
	case c == nil:
		return "it was not looked at yet"
	case c.ObservedGeneration != obj.GetGeneration():
		return "it was changed a moment ago"
	case c.Status == metav1.ConditionTrue:
		return "it has not begun"
	default:
		return c.Reason + ": " + c.Message
	}
}

// Tidy puts a message on one line and takes away how its last sentence ends:
// parts of it come from the kubelet and the runtime, and more may be added to it.
func Tidy(message string) string {
	return strings.TrimRight(strings.Join(strings.Fields(message), " "), " .,;:")
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
