package controllers

import (
	"context"
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/meta"

	apilabels "k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/controllers/adaptivepolicy"
	"github.com/transformersquared/operator/controllers/apply"
	"github.com/transformersquared/operator/controllers/basemodel"
	"github.com/transformersquared/operator/controllers/desired"
	"github.com/transformersquared/operator/controllers/expertvector"
	"github.com/transformersquared/operator/controllers/index"
	"github.com/transformersquared/operator/controllers/podclient"
	"github.com/transformersquared/operator/controllers/runs"
	"github.com/transformersquared/operator/controllers/status"
)

// recorderName is the reporting controller of the operator's events.
const recorderName = v1alpha1.GroupName + "/operator"

// concurrency of each controller: a reconciliation may wait for pods' answers.
const concurrency = 8

// Scheme knows every kind that the operator reads or writes.
func Scheme() (*runtime.Scheme, error) {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(scheme); err != nil {
			return nil, fmt.Errorf("registering kinds: %w", err)
		}
	}
	return scheme, nil
}

// CacheOptions bound what the operator keeps in memory: of Jobs, pods, Deployments,
// Services and PodDisruptionBudgets only its own, of ConfigMaps (which users make, with
// data sets) no more than name and version. Where namespaces are named, it reads
// and watches in these alone.
func CacheOptions(namespaces ...string) cache.Options {
	var within map[string]cache.Config
	for _, name := range namespaces {
		if within == nil {
			within = map[string]cache.Config{}
		}
		within[name] = cache.Config{}
	}
	own := cache.ByObject{Label: apilabels.SelectorFromSet(apilabels.Set{v1alpha1.LabelManagedBy: v1alpha1.ManagedBy})}
	return cache.Options{
		DefaultTransform:  cache.TransformStripManagedFields(),
		DefaultNamespaces: within,
		ByObject: map[client.Object]cache.ByObject{
			&batchv1.Job{}:                  own,
			&corev1.Pod{}:                   own,
			&appsv1.Deployment{}:            own,
			&corev1.Service{}:               own,
			&policyv1.PodDisruptionBudget{}: own,
			&corev1.ConfigMap{}:             {Transform: bare},
		},
	}
}

// bare drops what an object's metadata may carry in bulk: kubectl keeps a copy
// of a whole ConfigMap in an annotation.
func bare(object any) (any, error) {
	accessor, err := meta.Accessor(object)
	if err != nil {
		return object, nil //nolint:nilerr // Tombstones have no metadata and pass as they are.
	}
	accessor.SetManagedFields(nil)
	accessor.SetAnnotations(nil)
	return object, nil
}

// Options are what Add needs beside a manager.
type Options struct {
	Settings desired.Settings
	// Pods asks runtime pods; podclient.New() where it is nil.
	Pods *podclient.Client
	// Patience is how long pods may miss an artifact before it is made again; zero
	// means expertvector.DefaultPatience, and of a probe adaptivepolicy's.
	Patience time.Duration
	// Now is the time that steps of a rollout and certificates go by; nil means the clock's.
	Now func() time.Time
	// CollectPause is how long after a run, and after another collection, volumes are
	// collected; zero means basemodel.DefaultCollectPause.
	CollectPause time.Duration
	// SkipNameValidation lets several managers live in one process, as tests have
	// them.
	SkipNameValidation bool
}

// Add adds every controller of the operator to a manager.
func Add(ctx context.Context, mgr ctrl.Manager, options Options) error {
	if err := index.Register(ctx, mgr.GetFieldIndexer()); err != nil {
		return err
	}
	if options.Pods == nil {
		options.Pods = podclient.New()
	}
	if options.Pods.Now == nil {
		options.Pods.Now = options.Now
	}
	c := mgr.GetClient()
	reporter := status.Reporter{Client: c, Events: mgr.GetEventRecorder(recorderName)}
	if err := mgr.Add(&status.Objects{Client: c, Registry: metrics.Registry}); err != nil {
		return fmt.Errorf("adding the metrics of objects: %w", err)
	}
	applier := apply.New(c, mgr.GetAPIReader())
	datasets := &expertvector.Datasets{Cache: c, Live: mgr.GetAPIReader()}
	runner := runs.Runner{Client: c, Live: mgr.GetAPIReader(), Applier: applier}

	all := []interface {
		SetupWithManager(ctrl.Manager, controller.Options) error
	}{
		&basemodel.Reconciler{
			Client: c, Status: reporter, Runner: runner, Applier: applier, Pods: options.Pods, Settings: options.Settings,
			CollectPause: options.CollectPause,
		},
		&expertvector.Reconciler{
			Client: c, Status: reporter, Runner: runner, Pods: options.Pods, Settings: options.Settings,
			Datasets: datasets, Patience: options.Patience,
		},
		&adaptivepolicy.Reconciler{
			Client: c, Live: mgr.GetAPIReader(), Status: reporter, Applier: applier, Runner: runner, Datasets: datasets,
			Pods: options.Pods, Settings: options.Settings, Patience: options.Patience, Now: options.Now,
		},
	}
	for _, one := range all {
		controllerOptions := controller.Options{MaxConcurrentReconciles: concurrency}
		if options.SkipNameValidation {
			controllerOptions.SkipNameValidation = &options.SkipNameValidation
		}
		if err := one.SetupWithManager(mgr, controllerOptions); err != nil {
			return fmt.Errorf("setting up %T: %w", one, err)
		}
	}
	return nil
}
