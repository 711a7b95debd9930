// Package adaptivepolicy realises AdaptivePolicies: a Deployment and a Service
// of serving pods, and the expert set that every one of them is to serve.
//
// With strategy FewShot, a Job searches the weights of the experts first; with strategy Probe,
// one fits what chooses among them. Where spec.rollout.gate evaluates sets, a Job does so before
// pods are offered another one; where spec.rollout tries them, pods have both for a while.
//
// The expert set travels twice: in a ConfigMap, for pods that start, and by a
// request to each running pod, which verifies, loads and swaps it without a
// restart. A policy is Ready when every pod reports the set that is expected;
// that is asked again and again, because a pod may be replaced at any time.
package adaptivepolicy

import (
	"context"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/controllers/apply"
	"github.com/transformersquared/operator/controllers/desired"
	"github.com/transformersquared/operator/controllers/index"
	"github.com/transformersquared/operator/controllers/podclient"
	"github.com/transformersquared/operator/controllers/runs"
	"github.com/transformersquared/operator/controllers/status"
)

// +kubebuilder:rbac:groups=transformersquared.dev,resources=adaptivepolicies,verbs=get;list;watch
// +kubebuilder:rbac:groups=transformersquared.dev,resources=adaptivepolicies/status,verbs=update;patch
// +kubebuilder:rbac:groups=transformersquared.dev,resources=adaptivepolicies/finalizers,verbs=update
// +kubebuilder:rbac:groups=transformersquared.dev,resources=basemodels;expertvectors,verbs=get;list;watch
// +kubebuilder:rbac:groups=transformersquared.dev,resources=expertvectors,verbs=create;patch;delete
// +kubebuilder:rbac:groups=apps,resources=deployments,verbs=get;list;watch;create;patch
// +kubebuilder:rbac:groups="",resources=services,verbs=get;list;watch;create;patch
// +kubebuilder:rbac:groups="",resources=configmaps,verbs=get;list;watch;create;patch
// +kubebuilder:rbac:groups="",resources=secrets,verbs=get;create;patch
// +kubebuilder:rbac:groups="",resources=pods,verbs=get;list;watch
// +kubebuilder:rbac:groups=batch,resources=jobs,verbs=get;list;watch;create;patch;delete
// +kubebuilder:rbac:groups="",resources=events,verbs=list
// +kubebuilder:rbac:groups=events.k8s.io,resources=events,verbs=create;patch

// How often pods are asked what they serve.
const (
	idleInterval       = 30 * time.Second
	convergingInterval = 3 * time.Second
)

// Reconciler realises one AdaptivePolicy at a time.
type Reconciler struct {
	Client   client.Client
	Live     client.Reader
	Status   status.Reporter
	Applier  apply.Applier
	Runner   runs.Runner
	Datasets Datasets
	Pods     *podclient.Client
	Settings desired.Settings
	// Patience is how long pods may miss a probe before it is fitted again; zero means
	// DefaultPatience.
	Patience time.Duration
	// Now is the time; nil means the clock's.
	Now func() time.Time
}

// SetupWithManager starts the controller when the manager starts.
func (r *Reconciler) SetupWithManager(mgr ctrl.Manager, options controller.Options) error {
	c := mgr.GetClient()
	return ctrl.NewControllerManagedBy(mgr).
		Named("adaptivepolicy").
		For(&v1alpha1.AdaptivePolicy{}, builder.WithPredicates(index.MoreThanProgress())).
		Owns(&appsv1.Deployment{}).
		Owns(&corev1.Service{}).
		Owns(&policyv1.PodDisruptionBudget{}, builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		Owns(&corev1.ConfigMap{}, builder.OnlyMetadata).
		Owns(&batchv1.Job{}).
		Watches(&corev1.Pod{}, index.Labelled(v1alpha1.LabelPolicy, v1alpha1.ComponentServe)).
		Watches(&corev1.Pod{}, index.Labelled(v1alpha1.LabelSearch, v1alpha1.ComponentAdapt)).
		Watches(&corev1.Pod{}, index.Labelled(v1alpha1.LabelProbe, v1alpha1.ComponentProbe)).
		Watches(&corev1.Pod{}, index.Labelled(v1alpha1.LabelEvaluation, v1alpha1.ComponentEvaluate)).
		Watches(&corev1.ConfigMap{}, index.Referrers(c, index.NewAdaptivePolicies, index.ByExamples), builder.OnlyMetadata).
		Watches(&v1alpha1.BaseModel{}, index.Referrers(c, index.NewAdaptivePolicies, index.ByBaseModel), builder.WithPredicates(index.Settled())).
		Watches(&v1alpha1.ExpertVector{}, index.PoliciesOf(c), builder.WithPredicates(index.Settled())).
		WithOptions(options).
		Complete(reconcile.AsReconciler(c, r))
}

// Reconcile brings an AdaptivePolicy a step further and reports how it stands.
func (r *Reconciler) Reconcile(ctx context.Context, policy *v1alpha1.AdaptivePolicy) (reconcile.Result, error) {
	if !policy.DeletionTimestamp.IsZero() {
		return reconcile.Result{}, nil
	}
	before := policy.DeepCopy()
	ready, serving, err := r.realise(ctx, policy)
	if serving == nil {
		if observeErr := r.observe(ctx, policy); err == nil {
			err = observeErr
		}
	} else {
		setAvailable(policy, *serving)
	}
	result, err := r.Status.Report(ctx, before, policy, ready, err)
	if policy.ResourceVersion != before.ResourceVersion { // What has begun is written.
		r.tellStep(before, policy)
	}
	return result, err
}

// realise brings the policy a step further. What its pods serve is returned
// where it got as far as asking them.
func (r *Reconciler) realise(ctx context.Context, policy *v1alpha1.AdaptivePolicy) (status.Ready, *answer, error) {
	base, err := r.base(ctx, policy)
	if err != nil {
		return status.Ready{}, nil, err
	}
	found, err := r.experts(ctx, policy)
	if err != nil {
		return status.Ready{}, nil, err
	}
	if err := r.trainClassifier(ctx, policy, choose(policy, base, found), found); err != nil {
		return status.Ready{}, nil, err
	}
	chosen := choose(policy, base, found)
	if err := contextFits(policy, base); err != nil {
		return status.Ready{}, nil, err
	}

	donors, err := r.donors(ctx, policy, chosen.set.Refs())
	if err != nil {
		return status.Ready{}, nil, err
	}
	searching := r.search(ctx, policy, base, donors, chosen)
	if searching != nil && !status.Conclusive(searching) {
		return status.Ready{}, nil, searching
	}
	probed, fitting := r.fit(ctx, policy, base, chosen)
	if fitting != nil && !status.Conclusive(fitting) {
		return status.Ready{}, nil, fitting
	}
	chosen = choose(policy, base, found) // With what the Jobs may have found by now.
	chosen.probed, chosen.problem = probed.current, status.First(chosen.problem, searching)
	if probed.learning {
		chosen.learning = fitting
	} else {
		chosen.problem = status.First(chosen.problem, fitting)
	}
	if chosen, err = r.roll(ctx, policy, base, chosen); err != nil {
		return status.Ready{}, nil, err
	}
	if donors, err = r.donors(ctx, policy, chosen.offers()); err != nil {
		return status.Ready{}, nil, err
	}

	deployment, err := r.serve(ctx, policy, base, donors, chosen)
	if err != nil {
		return status.Ready{}, nil, err
	}
	if deployment.held {
		return status.Ready{}, nil, status.First(chosen.problem, baseChanged(policy, base))
	}
	unbounded := r.budget(ctx, policy)
	if unbounded != nil && !status.Conclusive(unbounded) {
		return status.Ready{}, nil, unbounded
	}
	chosen.problem = status.First(chosen.problem, unbounded)
	seen, err := r.converge(ctx, policy, deployment, chosen)
	if err != nil {
		return status.Ready{}, nil, err
	}
	chosen.problem = status.First(chosen.problem, r.advance(policy, chosen, seen))
	summarise(policy, base, deployment, chosen, seen, time.Now())
	ready, err := conclude(policy, base, deployment, chosen, seen)
	return ready, &answer{seen: seen, off: deployment.want() == 0, expected: chosen.digest}, err
}
