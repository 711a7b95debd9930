// Package expertvector realises ExpertVectors: a Job that trains or imports
// the expert, its progress while it runs, and the artifact that came of it.
//
// An artifact stays in the status, and is served, until that of a later run
// replaces it; meanwhile the object is not Ready.
package expertvector

import (
	"context"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/controllers/desired"
	"github.com/transformersquared/operator/controllers/index"
	"github.com/transformersquared/operator/controllers/podclient"
	"github.com/transformersquared/operator/controllers/runs"
	"github.com/transformersquared/operator/controllers/status"
)

// +kubebuilder:rbac:groups=transformersquared.dev,resources=expertvectors,verbs=get;list;watch
// +kubebuilder:rbac:groups=transformersquared.dev,resources=expertvectors/status,verbs=update;patch
// +kubebuilder:rbac:groups=transformersquared.dev,resources=expertvectors/finalizers,verbs=update
// +kubebuilder:rbac:groups=transformersquared.dev,resources=basemodels;adaptivepolicies,verbs=get;list;watch
// +kubebuilder:rbac:groups="",resources=configmaps,verbs=get;list;watch
// +kubebuilder:rbac:groups=batch,resources=jobs,verbs=get;list;watch;create;patch;delete
// +kubebuilder:rbac:groups="",resources=pods,verbs=get;list;watch
// +kubebuilder:rbac:groups="",resources=secrets,verbs=get
// +kubebuilder:rbac:groups="",resources=events,verbs=list
// +kubebuilder:rbac:groups=events.k8s.io,resources=events,verbs=create;patch

// Reconciler realises one ExpertVector at a time.
type Reconciler struct {
	Client   client.Client
	Status   status.Reporter
	Runner   runs.Runner
	Datasets *Datasets
	Pods     *podclient.Client
	Settings desired.Settings
	// Patience is how long pods may miss an artifact before it is made again; zero
	// means DefaultPatience.
	Patience time.Duration
}

// SetupWithManager starts the controller when the manager starts.
func (r *Reconciler) SetupWithManager(mgr ctrl.Manager, options controller.Options) error {
	c := mgr.GetClient()
	return ctrl.NewControllerManagedBy(mgr).
		Named("expertvector").
		For(&v1alpha1.ExpertVector{}, builder.WithPredicates(index.MoreThanProgress())).
		Owns(&batchv1.Job{}).
		Watches(&corev1.Pod{}, index.Labelled(v1alpha1.LabelExpert, v1alpha1.ComponentTrain)).
		Watches(&corev1.Pod{}, index.Labelled(v1alpha1.LabelExpert, v1alpha1.ComponentPublish)).
		Watches(&v1alpha1.BaseModel{}, index.Referrers(c, index.NewExpertVectors, index.ByBaseModel), builder.WithPredicates(index.Settled())).
		Watches(&corev1.ConfigMap{}, index.Referrers(c, index.NewExpertVectors, index.ByDataset), builder.OnlyMetadata).
		Watches(&v1alpha1.AdaptivePolicy{}, index.ExpertsOf(), builder.WithPredicates(index.Serves())).
		WithOptions(options).
		Complete(reconcile.AsReconciler(c, r))
}

// Reconcile brings an ExpertVector a step further and reports how it stands.
func (r *Reconciler) Reconcile(ctx context.Context, expert *v1alpha1.ExpertVector) (reconcile.Result, error) {
	if !expert.DeletionTimestamp.IsZero() {
		return reconcile.Result{}, nil
	}
	before := expert.DeepCopy()
	ready, err := r.realise(ctx, expert)
	err = meanwhile(expert, err)
	after, failed := r.publish(ctx, expert)
	ready, err = sooner(ready, status.First(err, failed), after)
	return r.Status.Report(ctx, before, expert, ready, err)
}

func (r *Reconciler) realise(ctx context.Context, expert *v1alpha1.ExpertVector) (status.Ready, error) {
	base, err := r.base(ctx, expert)
	if err != nil {
		return status.Ready{}, err
	}
	digests, problem := r.Datasets.Digests(ctx, expert)
	run, err := desired.Expert(expert, base, digests, r.Settings)
	if err != nil {
		return status.Ready{}, err
	}
	there := done(expert, run)
	if problem != nil {
		there = status.Conclusive(problem) && stands(expert, run)
	}
	if there {
		renewing, after, err := r.stored(ctx, expert)
		switch {
		case err != nil:
			return status.Ready{}, err
		case !renewing:
			if problem == nil {
				expert.Status.Artifact.Recipe = run.Recipe
				if _, err := r.Runner.Supersede(ctx, expert, selector(expert), expert.Status.Runs, run.ID); err != nil {
					return status.Ready{}, err
				}
			}
			ready := ready(expert, problem)
			ready.After = after
			return ready, nil
		}
		if run, err = renewed(expert, run); err != nil {
			return status.Ready{}, err
		}
	}
	if problem != nil {
		return status.Ready{}, problem
	}
	if err := startable(expert, base); err != nil {
		return status.Ready{}, err
	}
	return r.run(ctx, expert, base, run)
}
