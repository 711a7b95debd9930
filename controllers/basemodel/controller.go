// Package basemodel realises BaseModels: a volume, a Job that fetches and
// decomposes the model, and the deletion that waits while objects use it.
package basemodel

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
	"github.com/transformersquared/operator/controllers/apply"
	"github.com/transformersquared/operator/controllers/desired"
	"github.com/transformersquared/operator/controllers/index"
	"github.com/transformersquared/operator/controllers/podclient"
	"github.com/transformersquared/operator/controllers/runs"
	"github.com/transformersquared/operator/controllers/status"
)

// +kubebuilder:rbac:groups=transformersquared.dev,resources=basemodels,verbs=get;list;watch;patch
// +kubebuilder:rbac:groups=transformersquared.dev,resources=basemodels/status,verbs=update;patch
// +kubebuilder:rbac:groups=transformersquared.dev,resources=basemodels/finalizers,verbs=update
// +kubebuilder:rbac:groups=transformersquared.dev,resources=expertvectors;adaptivepolicies,verbs=get;list;watch
// +kubebuilder:rbac:groups="",resources=persistentvolumeclaims,verbs=get;list;watch;create;patch;delete
// +kubebuilder:rbac:groups=batch,resources=jobs,verbs=get;list;watch;create;patch;delete
// +kubebuilder:rbac:groups="",resources=pods,verbs=get;list;watch
// +kubebuilder:rbac:groups=apps,resources=deployments,verbs=get;list;watch
// +kubebuilder:rbac:groups="",resources=secrets,verbs=get
// +kubebuilder:rbac:groups="",resources=events,verbs=list
// +kubebuilder:rbac:groups=events.k8s.io,resources=events,verbs=create;patch

// Reconciler realises one BaseModel at a time.
type Reconciler struct {
	Client   client.Client
	Status   status.Reporter
	Runner   runs.Runner
	Applier  apply.Applier
	Pods     *podclient.Client
	Settings desired.Settings
	// CollectPause is how long after a run, and after another collection, the volume is
	// collected; zero means DefaultCollectPause.
	CollectPause time.Duration
}

// SetupWithManager starts the controller when the manager starts.
func (r *Reconciler) SetupWithManager(mgr ctrl.Manager, options controller.Options) error {
	return ctrl.NewControllerManagedBy(mgr).
		Named("basemodel").
		For(&v1alpha1.BaseModel{}, builder.WithPredicates(index.MoreThanProgress())).
		Owns(&batchv1.Job{}).
		Watches(&corev1.Pod{}, index.Labelled(v1alpha1.LabelBaseModel, v1alpha1.ComponentDecompose)).
		Watches(&corev1.PersistentVolumeClaim{}, index.Labelled(v1alpha1.LabelBaseModel, v1alpha1.ComponentDecompose)).
		Watches(&corev1.PersistentVolumeClaim{}, index.Referrers(mgr.GetClient(), index.NewBaseModels, index.ByClaim)).
		Watches(&v1alpha1.ExpertVector{}, index.BaseModelOf(), builder.WithPredicates(index.Refers())).
		Watches(&v1alpha1.AdaptivePolicy{}, index.BaseModelOf(), builder.WithPredicates(index.Refers())).
		WithOptions(options).
		Complete(reconcile.AsReconciler(mgr.GetClient(), r))
}

// Reconcile brings a BaseModel a step further and reports how it stands.
func (r *Reconciler) Reconcile(ctx context.Context, base *v1alpha1.BaseModel) (reconcile.Result, error) {
	if released, err := r.release(ctx, base); released || err != nil {
		return reconcile.Result{}, err
	}
	before := base.DeepCopy()
	ready, err := r.realise(ctx, base)
	var told *news
	if err == nil {
		ready.After, told, err = r.collect(ctx, base)
	}
	result, err := r.Status.Report(ctx, before, base, ready, err)
	if err == nil && told != nil {
		r.Status.Event(base, told.warning, told.reason, told.message)
	}
	return result, err
}

func (r *Reconciler) realise(ctx context.Context, base *v1alpha1.BaseModel) (status.Ready, error) {
	if err := r.references(ctx, base); err != nil {
		return status.Ready{}, err
	}
	if !base.DeletionTimestamp.IsZero() {
		return status.Ready{}, inUse(base)
	}
	beginSteps(base)
	claim, problem, err := r.volume(ctx, base)
	if err != nil {
		return status.Ready{}, err
	}
	ready, err := r.decompose(ctx, base, claim)
	return ready, status.First(err, problem, grown(base, claim))
}
