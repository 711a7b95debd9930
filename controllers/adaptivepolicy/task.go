package adaptivepolicy

import (
	"context"

	batchv1 "k8s.io/api/batch/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/controllers/desired"
	"github.com/transformersquared/operator/controllers/outcome"
	"github.com/transformersquared/operator/controllers/runs"
	"github.com/transformersquared/operator/controllers/status"
	"github.com/transformersquared/operator/runtime/contract"
)

// task is what a Job does for a policy before its pods can serve by it.
type task struct {
	selector client.MatchingLabels
	run      desired.Run
	// container's result is the task's.
	container string
	// doing is the reason while a pod runs.
	doing string
	// runs is where the runs are remembered.
	runs *[]v1alpha1.RunStatus
	// learn takes how far the pod that runs is, and describe says it. Where none runs, halt
	// forgets how long it would take; of another run than the one before, forget forgets all.
	learn        func(contract.Progress)
	halt, forget func()
	describe     func() string
	// accept takes the result.
	accept func(contract.Termination, *batchv1.Job) error
}

// perform sees to the Job of a task. It returns what there is to wait for; nil once the
// result was accepted.
func (r *Reconciler) perform(ctx context.Context, policy *v1alpha1.AdaptivePolicy, t task) error {
	if !runs.IsLatest(*t.runs, t.run.ID) {
		t.forget()
	}
	job, pods, err := r.Runner.Ensure(ctx, policy, t.selector, t.run)
	if err != nil {
		return err
	}
	out, err := r.Runner.Observe(ctx, job, pods, t.selector, outcome.Fields{
		At: "spec.serving", Need: "set spec.serving.dtype to BF16 or Int8",
	})
	if err != nil {
		return err
	}
	if out.State != outcome.Running {
		t.halt()
	} else if progress, ok := runs.Ask(ctx, r.Pods, &out); ok { // Else what was known stays.
		t.learn(progress)
	}
	if out.State == outcome.Succeeded {
		if !out.Seen {
			return r.Runner.Again(ctx, job)
		}
		if err := t.accept(out.Results[t.container], job); err != nil {
			return err
		}
	}
	*t.runs = runs.Remember(*t.runs, runs.Record(runs.Latest(*t.runs), t.run, job, out))
	if out.State == outcome.Succeeded {
		return nil
	}
	return r.Runner.Explain(ctx, job, out, runs.Latest(*t.runs), t.doing, t.describe())
}

// remaining is how long a pod says that it takes; nil where it does not know.
func remaining(p contract.Progress) *int64 {
	if p.EstimatedRemainingSeconds < 0 {
		return nil
	}
	return new(p.EstimatedRemainingSeconds)
}

// until adds to what a task waits for what is served meanwhile.
func until(err error, note string) error {
	switch e := err.(type) { //nolint:errorlint // Steps return these as they are; wrapped errors are left alone.
	case *status.Waiting:
		e.Message = status.Tidy(e.Message) + note
	case *status.Stalled:
		e.Message = status.Tidy(e.Message) + note
	}
	return err
}
