// Package status turns what a reconciliation came to into conditions, one
// status write, events, and what the work queue does next.
//
// A step of a reconciler returns nil to go on, *Stalled when somebody must act,
// *Waiting when something that happens by itself is missing, and any other error
// when the same step is to be tried again soon.
package status

import (
	"errors"
	"fmt"
	"time"
)

// Stalled is an error that trying again does not mend: somebody must change
// the object or something that it refers to. A watch on what is changed begins
// the next reconciliation.
type Stalled struct {
	Reason  string
	Message string
	// After is when to look again all the same; zero means that a watch says when.
	After time.Duration
}

// Error implements error.
func (e *Stalled) Error() string { return e.Reason + ": " + e.Message }

// Stall returns a *Stalled with a formatted message.
func Stall(reason, format string, args ...any) *Stalled {
	return &Stalled{Reason: reason, Message: fmt.Sprintf(format, args...)}
}

// Waiting says that the object is not realised yet, for a reason that passes by
// itself or by somebody else's doing.
type Waiting struct {
	Reason  string
	Message string
	// After is when to look again. Zero means that a watch says when.
	After time.Duration
	// Warning makes the event of it a warning: something went wrong on the way.
	Warning bool
}

// Error implements error.
func (e *Waiting) Error() string { return e.Reason + ": " + e.Message }

// Wait returns a *Waiting with a formatted message, which a watch ends.
func Wait(reason, format string, args ...any) *Waiting {
	return &Waiting{Reason: reason, Message: fmt.Sprintf(format, args...)}
}

// Again sets when to look again, and returns the same error.
func (e *Waiting) Again(after time.Duration) *Waiting {
	e.After = after
	return e
}

// Warn makes the event of it a warning, and returns the same error.
func (e *Waiting) Warn() *Waiting {
	e.Warning = true
	return e
}

// Conclusive reports whether an error says something about the object or what it
// refers to: whether it is a *Stalled or a *Waiting, and no failed call.
func Conclusive(err error) bool {
	w := weight(err)
	return w == 1 || w == 2
}

// First returns the error that matters most: a *Stalled before a *Waiting,
// the earlier before the later; an error that is neither comes before both,
// because it may hide what the others would be. It is looked at again as soon as
// the first of all asks for.
func First(errs ...error) error {
	var first error
	var soonest time.Duration
	best := 0
	for _, err := range errs {
		if w := weight(err); w > best {
			first, best = err, w
		}
		if after := again(err); after != nil && *after > 0 && (soonest == 0 || *after < soonest) {
			soonest = *after
		}
	}
	if after := again(first); after != nil {
		*after = soonest
	}
	return first
}

// again is where an error says when to look again; nil where it does not.
func again(err error) *time.Duration {
	var stalled *Stalled
	var waiting *Waiting
	switch {
	case errors.As(err, &stalled):
		return &stalled.After
	case errors.As(err, &waiting):
		return &waiting.After
	default:
		return nil
	}
}

func weight(err error) int {
	var stalled *Stalled
	var waiting *Waiting
	switch {
	case err == nil:
		return 0
	case errors.As(err, &stalled):
		return 2
	case errors.As(err, &waiting):
		return 1
	default:
		return 3
	}
}
