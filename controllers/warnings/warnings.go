// Package warnings reads from events what keeps an object from going on where
// the object itself does not say it: a Job whose pod a quota forbids, a pod
// whose volume cannot be mounted. Kubernetes tells that by events only.
//
// Events are read from the API server when something has been waiting for a
// while, never watched: a cluster has many, and an operator needs few.
package warnings

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/transformersquared/operator/api/v1alpha1"
)

// Patience is how long an object may wait before its events are read: what
// starts, starts within seconds.
const Patience = 5 * time.Second

// maxEvents bounds how many events of one object are looked at.
const maxEvents = 100

// Warning is what an event says of an object.
type Warning struct {
	// Reason is one of the API's condition reasons.
	Reason string
	// Message is the event's.
	Message string
}

// Latest returns the newest event about an object if it is a warning, and nil
// if it is none: what was warned of before something went on is over.
func Latest(ctx context.Context, live client.Reader, object client.Object) (*Warning, error) {
	var list corev1.EventList
	err := live.List(ctx, &list, client.InNamespace(object.GetNamespace()), client.Limit(maxEvents),
		client.MatchingFieldsSelector{Selector: fields.OneTermEqualSelector("involvedObject.uid", string(object.GetUID()))})
	if err != nil {
		return nil, fmt.Errorf("listing the events of %s: %w", object.GetName(), err)
	}
	return newest(list.Items), nil
}

// newest is Latest's decision. Of two events of the same second the warning
// counts: "scheduled" and "cannot be mounted" come together.
func newest(events []corev1.Event) *Warning {
	var last *corev1.Event
	for i := range events {
		e := &events[i]
		if last == nil || happened(e).After(happened(last)) ||
			(happened(e).Equal(happened(last)) && e.Type == corev1.EventTypeWarning) {
			last = e
		}
	}
	if last == nil || last.Type != corev1.EventTypeWarning {
		return nil
	}
	return &Warning{Reason: reason(last), Message: last.Message}
}

// happened is when an event was seen last, to the second, as most are written.
func happened(e *corev1.Event) time.Time {
	at := e.CreationTimestamp.Time
	for _, t := range []time.Time{e.FirstTimestamp.Time, e.LastTimestamp.Time, e.EventTime.Time} {
		if t.After(at) {
			at = t
		}
	}
	if e.Series != nil && e.Series.LastObservedTime.After(at) {
		at = e.Series.LastObservedTime.Time
	}
	return at.Truncate(time.Second)
}

// reason is the API's word for an event's.
func reason(e *corev1.Event) string {
	switch e.Reason {
	case "FailedCreate":
		return v1alpha1.ReasonRejected
	case "FailedMount", "FailedAttachVolume", "FailedMapVolume":
		return v1alpha1.ReasonVolume
	case "FailedScheduling":
		return v1alpha1.ReasonUnschedulable
	default:
		return v1alpha1.ReasonPending
	}
}
