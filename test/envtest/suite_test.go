// Package envtest tests the operator against a real API server and etcd. The
// kubelet and Kubernetes' own controllers are not there: what they would write
// (the status of Jobs, pods, Deployments) the tests write themselves, and the
// runtime's pods are real HTTP servers.
//
// It needs KUBEBUILDER_ASSETS, a folder with etcd, kube-apiserver and kubectl:
// `make envtest` sees to it.
package envtest

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/transformersquared/operator/controllers"
	"github.com/transformersquared/operator/controllers/desired"
)

const root = "../.."

// patience is how long the operator lets pods miss an artifact.
const patience = 4 * time.Second

var (
	config *rest.Config
	// k8s reads and writes without a cache.
	k8s client.Client
	// operator is the one that runs now.
	operator *running
	settings = desired.Settings{
		RuntimeImage: "transformersquared.dev/t2:dev", CUDARuntimeImage: "transformersquared.dev/t2-cuda:dev", JudgeImage: "transformersquared.dev/judge:dev",
		GPUTolerations: []corev1.Toleration{{Key: desired.DefaultGPUResource, Operator: corev1.TolerationOpExists}},
	}
)

// user writes objects as people do: what they wrote counts, also when the operator
// has written the object's status since they read it.
type user struct{ client.Client }

func (u user) Update(ctx context.Context, obj client.Object, opts ...client.UpdateOption) error {
	err := u.Client.Update(ctx, obj, opts...)
	o, ours := obj.(object)
	for ours && apierrors.IsConflict(err) {
		now := o.DeepCopyObject().(object)
		if err := u.Get(ctx, client.ObjectKeyFromObject(obj), now); err != nil {
			return err
		}
		obj.SetResourceVersion(now.GetResourceVersion())
		err = u.Client.Update(ctx, obj, opts...)
	}
	return err
}

func TestEnvtest(t *testing.T) {
	if os.Getenv("KUBEBUILDER_ASSETS") == "" {
		t.Skip("KUBEBUILDER_ASSETS is not set: make envtest runs these tests")
	}
	RegisterFailHandler(Fail)
	SetDefaultEventuallyTimeout(30 * time.Second)
	SetDefaultEventuallyPollingInterval(50 * time.Millisecond)
	SetDefaultConsistentlyDuration(time.Second)
	RunSpecs(t, "The operator against a real API server")
}

var _ = BeforeSuite(func() {
	ctrl.SetLogger(zap.New(zap.WriteTo(GinkgoWriter), zap.UseDevMode(true)))
	environment := &envtest.Environment{
		CRDDirectoryPaths:        []string{filepath.Join(root, "config", "crd", "bases")},
		ErrorIfCRDPathMissing:    true,
		ControlPlaneStartTimeout: 2 * time.Minute,
		ControlPlaneStopTimeout:  time.Minute,
	}
	var err error
	config, err = environment.Start()
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(environment.Stop)
	config.QPS, config.Burst = 200, 400

	scheme, err := controllers.Scheme()
	Expect(err).NotTo(HaveOccurred())
	direct, err := client.New(config, client.Options{Scheme: scheme})
	Expect(err).NotTo(HaveOccurred())
	k8s = user{direct}

	operator = start()
	DeferCleanup(func() { operator.stop() })
})

// running is an operator that was started.
type running struct {
	mgr    manager.Manager
	cancel context.CancelFunc
	done   chan error
}

// start starts an operator whose pods are those of the registry.
func start(change ...func(*controllers.Options)) *running {
	GinkgoHelper()
	return startWith(config, ctrl.Options{Cache: controllers.CacheOptions()}, change...)
}

// startWith is start with other credentials and options.
func startWith(config *rest.Config, options ctrl.Options, change ...func(*controllers.Options)) *running {
	GinkgoHelper()
	ctx, cancel := context.WithCancel(context.Background()) // It outlives the node that starts it.
	scheme, err := controllers.Scheme()
	Expect(err).NotTo(HaveOccurred())
	options.Scheme, options.Metrics = scheme, metricsserver.Options{BindAddress: "0"}
	mgr, err := ctrl.NewManager(config, options)
	Expect(err).NotTo(HaveOccurred())
	own := controllers.Options{
		Settings: settings, Pods: pods.client(), Patience: patience, SkipNameValidation: true, Now: ahead.now,
	}
	for _, c := range change {
		c(&own)
	}
	Expect(controllers.Add(ctx, mgr, own)).To(Succeed())
	r := &running{mgr: mgr, cancel: cancel, done: make(chan error, 1)}
	go func() { r.done <- mgr.Start(ctx) }()
	Expect(mgr.GetCache().WaitForCacheSync(ctx)).To(BeTrue())
	return r
}

func (r *running) stop() {
	GinkgoHelper()
	r.cancel()
	Eventually(r.done).Should(Receive(BeNil()))
}
