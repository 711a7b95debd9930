// Package controllers is the operator: one package a kind, and what they share.
// Run starts all of it; the README says how it hangs together.
package controllers

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"
	"sigs.k8s.io/controller-runtime/pkg/metrics/filters"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/transformersquared/operator/controllers/desired"
	"github.com/transformersquared/operator/runtime/contract"
)

// leaseName is the Lease by which one of several managers leads.
const leaseName = "operator.transformersquared.dev"

// DefaultRuntimeImage is used where neither --runtime-image nor a BaseModel
// names one.
const DefaultRuntimeImage = "transformersquared.dev/t2:dev"

// DefaultCUDARuntimeImage is used where CUDA computes and neither
// --cuda-runtime-image nor a BaseModel names one.
const DefaultCUDARuntimeImage = "transformersquared.dev/t2-cuda:dev"

// DefaultJudgeImage is used where --judge-image does not name one.
const DefaultJudgeImage = "transformersquared.dev/judge:dev"

// ErrUsage wraps what is wrong with the command line.
var ErrUsage = errors.New("wrong usage")

// flags of the manager.
type flags struct {
	metricsAddress string
	probeAddress   string
	certDir        string
	leaderElect    bool
	namespaces     namespaces
	settings       desired.Settings
	zap            zap.Options
}

func parse(args []string, output io.Writer) (flags, error) {
	var f flags
	set := flag.NewFlagSet("manager", flag.ContinueOnError)
	set.SetOutput(output)
	set.StringVar(&f.metricsAddress, "metrics-bind-address", ":8443",
		"where metrics are served by HTTPS to those whom the API server authorises; 0 serves none")
	set.StringVar(&f.probeAddress, "health-probe-bind-address", ":8081", "where /healthz and /readyz are served")
	set.StringVar(&f.certDir, "metrics-cert-dir", "",
		"folder with tls.crt and tls.key for metrics; without it the manager makes a certificate of its own")
	set.BoolVar(&f.leaderElect, "leader-elect", false, "let only one of several managers work")
	set.Var(&f.namespaces, "namespaces",
		"`names` of the namespaces whose objects the operator looks after, separated by commas; it then needs no right outside them "+
			"and its own, but that metrics ask the API server who may read them; all namespaces without it")
	s := &f.settings
	set.StringVar(&s.RuntimeImage, "runtime-image", DefaultRuntimeImage, "image of the runtime t2 where a BaseModel names none")
	set.StringVar(&s.CUDARuntimeImage, "cuda-runtime-image", DefaultCUDARuntimeImage,
		"image of the runtime t2-cuda, where a BaseModel names none and CUDA computes")
	set.StringVar(&s.JudgeImage, "judge-image", DefaultJudgeImage,
		"image of the judge, which runs the programs that the reward UnitTests judges")
	set.StringVar(&s.GPUResource, "gpu-resource", desired.DefaultGPUResource,
		"extended resource of which a pod asks for one, where CUDA computes and its object asks for no other GPU")
	set.StringVar(&s.GPURuntimeClass, "gpu-runtime-class", "",
		"RuntimeClass of pods where CUDA computes and no podTemplate names one, such as nvidia; the nodes' default without it")
	tolerations := taints{&s.GPUTolerations}
	set.Var(tolerations, "gpu-toleration",
		"`taint` that pods tolerate where CUDA computes: KEY, KEY:EFFECT or KEY=VALUE:EFFECT; may be repeated, empty means none; "+
			"the resource of --gpu-resource, with effect NoSchedule, without it")
	set.BoolVar(&s.AdminTLS, "admin-tls", false,
		"ask serving pods by HTTPS, with certificates of the operator's own, which it renews; runtime images before this flag cannot do it")
	f.zap.BindFlags(set)
	if err := set.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return f, err
		}
		return f, fmt.Errorf("%w: %w", ErrUsage, err)
	}
	if set.NArg() > 0 {
		return f, fmt.Errorf("%w: unexpected argument %q", ErrUsage, set.Arg(0))
	}
	for name, value := range map[string]string{
		"--runtime-image": s.RuntimeImage, "--cuda-runtime-image": s.CUDARuntimeImage, "--judge-image": s.JudgeImage, "--gpu-resource": s.GPUResource,
	} {
		if value == "" {
			return f, fmt.Errorf("%w: %s is empty", ErrUsage, name)
		}
	}
	if problems := validation.IsQualifiedName(s.GPUResource); len(problems) > 0 || !strings.Contains(s.GPUResource, "/") {
		return f, fmt.Errorf("%w: --gpu-resource %q is not the name of an extended resource, such as %s", ErrUsage, s.GPUResource, desired.DefaultGPUResource)
	}
	if s.GPUTolerations == nil {
		s.GPUTolerations = []corev1.Toleration{{
			Key: s.GPUResource, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule,
		}}
	}
	return f, nil
}

// Run runs the operator with the arguments of a command line until ctx ends.
// What it prints about usage goes to output.
func Run(ctx context.Context, args []string, output io.Writer) error {
	f, err := parse(args, output)
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	if err != nil {
		return err
	}
	ctrl.SetLogger(zap.New(zap.UseFlagOptions(&f.zap)))
	ctrl.Log.Info("Starting the operator", "version", contract.Version())
	scheme, err := Scheme()
	if err != nil {
		return err
	}
	config, err := ctrl.GetConfig()
	if err != nil {
		return fmt.Errorf("finding the cluster: %w", err)
	}
	if err := awaitServer(ctx, config, f.probeAddress); err != nil {
		return err
	}
	mgr, err := ctrl.NewManager(config, ctrl.Options{
		Scheme: scheme,
		Cache:  CacheOptions(f.namespaces...),
		Metrics: metricsserver.Options{
			BindAddress:    f.metricsAddress,
			SecureServing:  true,
			FilterProvider: filters.WithAuthenticationAndAuthorization,
			CertDir:        f.certDir,
			TLSOpts:        []func(*tls.Config){http1Only},
		},
		HealthProbeBindAddress:        f.probeAddress,
		LeaderElection:                f.leaderElect,
		LeaderElectionID:              leaseName,
		LeaderElectionReleaseOnCancel: true,
	})
	if err != nil {
		return fmt.Errorf("making the manager: %w", err)
	}
	if err := Add(ctx, mgr, Options{Settings: f.settings}); err != nil {
		return err
	}
	if err := mgr.AddHealthzCheck("healthz", healthz.Ping); err != nil {
		return fmt.Errorf("adding the health check: %w", err)
	}
	if err := mgr.AddReadyzCheck("readyz", healthz.Ping); err != nil {
		return fmt.Errorf("adding the readiness check: %w", err)
	}
	if err := mgr.Start(ctx); err != nil {
		return fmt.Errorf("running the manager: %w", err)
	}
	return nil
}

// http1Only leaves HTTP/2 out, whose stream resets have been used to exhaust
// servers.
func http1Only(c *tls.Config) { c.NextProtos = []string{"http/1.1"} }
