package status

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	apitypes "k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/transformersquared/operator/api/v1alpha1"
)

// conflictRetry is when to look again after somebody else wrote the object in
// the meantime: the cache has the new one by then.
const conflictRetry = 200 * time.Millisecond

// maxNote is the size to which the API server bounds an event's note.
const maxNote = 1024

// action is the machine-readable action of every event.
const action = "Reconcile"

// Reporter writes status and events.
type Reporter struct {
	Client client.Client
	Events events.EventRecorder
}

// Report ends a reconciliation: it writes conditions by what err says, writes
// the status if anything in it changed against before, records events of what
// turned, and returns what the work queue does next. An idle object causes no
// write. A failed call of the operator's is an event and counted; it takes
// nothing away from an object that is Ready.
func (r Reporter) Report(ctx context.Context, before, obj Object, ready Ready, err error) (reconcile.Result, error) {
	if apierrors.IsConflict(err) {
		return reconcile.Result{RequeueAfter: conflictRetry}, nil
	}
	if err != nil && ctx.Err() != nil {
		// The operator ends; whoever follows looks again.
		if Conclusive(err) {
			return reconcile.Result{}, nil // It is no failure, which would be logged as one.
		}
		return reconcile.Result{}, err
	}
	verdict := Judge(ready, err)
	countVerdict(obj, verdict)
	SetConditions(obj, verdict)
	if verdict.Retry != nil {
		countError(obj, verdict.Retry)
		r.Event(obj, true, verdict.Reason, verdict.Message)
	}

	if !equality.Semantic.DeepEqual(before, obj) {
		err := r.Client.Status().Update(ctx, obj)
		if apierrors.IsConflict(err) {
			err = r.onto(ctx, before, obj)
		}
		switch {
		case apierrors.IsNotFound(err):
			return reconcile.Result{}, nil
		case apierrors.IsConflict(err):
			return reconcile.Result{RequeueAfter: conflictRetry}, nil
		case err != nil:
			countError(obj, err)
			return reconcile.Result{}, fmt.Errorf("writing the status: %w", err)
		}
		countChange(before, obj, time.Now())
	}
	if verdict.Retry == nil && turned(before, obj) {
		r.Event(obj, verdict.Warning, verdict.Reason, verdict.Message)
	}
	for _, c := range alsoTurned(before, obj) {
		r.Event(obj, c.Status == metav1.ConditionFalse && c.Reason != v1alpha1.ReasonScaledToZero, c.Reason, c.Message)
	}
	return reconcile.Result{RequeueAfter: verdict.After}, verdict.Retry
}

// onto writes the status of an object that somebody else has written in the meantime,
// where they wrote neither its specification nor its status: a label, say. What the
// reconciliation has done already, such as deleting a Job to begin it anew, would else
// be forgotten. Where they wrote more it is a conflict, as before.
func (r Reporter) onto(ctx context.Context, before, obj Object) error {
	was, err := fields(before)
	if err != nil {
		return err
	}
	is, err := fields(obj)
	if err != nil {
		return err
	}
	type operation struct {
		Op    string `json:"op"`
		Path  string `json:"path"`
		Value any    `json:"value"`
	}
	change := []operation{{"test", "/metadata/generation", before.GetGeneration()}, {"test", "/status", was}, {"add", "/status", is}}
	patch, err := json.Marshal(change)
	if err != nil {
		return fmt.Errorf("writing the change of the status: %w", err)
	}
	err = r.Client.Status().Patch(ctx, obj, client.RawPatch(apitypes.JSONPatchType, patch))
	if apierrors.IsInvalid(err) || apierrors.IsBadRequest(err) { // A test failed.
		return apierrors.NewConflict(schema.GroupResource{}, obj.GetName(), err)
	}
	return err
}

// fields is an object's status as the API server has it; nil where it has none.
func fields(obj Object) (map[string]any, error) {
	u, err := runtime.DefaultUnstructuredConverter.ToUnstructured(obj)
	if err != nil {
		return nil, fmt.Errorf("reading the status of %s: %w", obj.GetName(), err)
	}
	status, _ := u["status"].(map[string]any)
	if len(status) == 0 {
		return nil, nil
	}
	return status, nil
}

// Event records an event about obj.
func (r Reporter) Event(obj Object, warning bool, reason, message string) {
	kind := corev1.EventTypeNormal
	if warning {
		kind = corev1.EventTypeWarning
	}
	r.Events.Eventf(obj, nil, kind, reason, action, "%s", Clip(Tidy(message), maxNote))
}

// turned reports whether Ready has another status or reason than before, or
// the object stalled for the reason for which it was tried again until now.
func turned(before, after Object) bool {
	stalled := func(o Object) bool {
		return meta.IsStatusConditionTrue(*o.StatusConditions(), v1alpha1.ConditionStalled)
	}
	if stalled(after) && !stalled(before) {
		return true
	}
	is := meta.FindStatusCondition(*after.StatusConditions(), v1alpha1.ConditionReady)
	was := meta.FindStatusCondition(*before.StatusConditions(), v1alpha1.ConditionReady)
	if was == nil {
		was = &metav1.Condition{}
	}
	return is.Status != was.Status || is.Reason != was.Reason
}

// published is the condition Published, where an event tells of it: that an expert has been
// pushed, or why it has not been; not each step on the way.
func published(before, after Object) *metav1.Condition {
	is := meta.FindStatusCondition(*after.StatusConditions(), v1alpha1.ConditionPublished)
	was := meta.FindStatusCondition(*before.StatusConditions(), v1alpha1.ConditionPublished)
	switch {
	case is == nil || was != nil && was.Reason == is.Reason && (is.Status == metav1.ConditionFalse || was.Message == is.Message):
		return nil
	case is.Status == metav1.ConditionTrue:
		return is
	}
	switch is.Reason {
	case v1alpha1.ReasonPublishing, v1alpha1.ReasonNoArtifact, v1alpha1.ReasonPending, v1alpha1.ReasonFinishing,
		v1alpha1.ReasonPreviousRun, v1alpha1.ReasonProgressing:
		return nil
	}
	return is
}

// alsoTurned are the conditions beside Ready of which an event tells: an expert
// that came out worse than its base or was pushed to a registry, a policy that stopped or
// began to answer after it had been looked at, experts of another base that are served, and
// an expert set that was evaluated and serves now.
func alsoTurned(before, after Object) []metav1.Condition {
	var turned []metav1.Condition
	is := meta.FindStatusCondition(*after.StatusConditions(), v1alpha1.ConditionImproved)
	was := meta.FindStatusCondition(*before.StatusConditions(), v1alpha1.ConditionImproved)
	if is != nil && is.Reason == v1alpha1.ReasonBelowBaseline && (was == nil || was.Reason != is.Reason || was.Message != is.Message) {
		turned = append(turned, *is)
	}
	is = meta.FindStatusCondition(*after.StatusConditions(), v1alpha1.ConditionAvailable)
	was = meta.FindStatusCondition(*before.StatusConditions(), v1alpha1.ConditionAvailable)
	if is != nil && was != nil && is.Status != was.Status {
		turned = append(turned, *is)
	}
	is = meta.FindStatusCondition(*after.StatusConditions(), v1alpha1.ConditionExpertsTransferred)
	was = meta.FindStatusCondition(*before.StatusConditions(), v1alpha1.ConditionExpertsTransferred)
	if is != nil && is.Status == metav1.ConditionTrue && (was == nil || was.Status != is.Status || was.Message != is.Message) {
		turned = append(turned, *is)
	}
	is = meta.FindStatusCondition(*after.StatusConditions(), v1alpha1.ConditionRolledOut)
	was = meta.FindStatusCondition(*before.StatusConditions(), v1alpha1.ConditionRolledOut)
	if is != nil && was != nil && is.Status == metav1.ConditionTrue && was.Status != is.Status {
		turned = append(turned, *is)
	}
	if c := published(before, after); c != nil {
		turned = append(turned, *c)
	}
	return turned
}
