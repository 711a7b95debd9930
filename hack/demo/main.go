// Command demo runs the main job on a cluster: it installs the operator,
// applies config/samples, shows live what happens until every object is Ready,
// asks held-out questions through the policy's Service, and prints how the base,
// each expert and the adaptive policy score on held-out sets.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/transformersquared/operator/api/v1alpha1"
)

const (
	namespace       = "t2-demo"
	systemNamespace = "t2-system"
	policyName      = "demo"
	// probePolicy has the same skills, by strategy Probe with experts that act on answers.
	probePolicy = "demo-probe"
)

// options are the command's flags.
type options struct {
	kubeconfig, kubectl, t2 string
	images                  imageNames
	samples, data           string
	external                bool
	limit                   int
	timeout                 time.Duration
}

func main() {
	var o options
	flag.StringVar(&o.kubeconfig, "kubeconfig", os.Getenv("KUBECONFIG"), "cluster to use")
	flag.StringVar(&o.kubectl, "kubectl", "kubectl", "kubectl binary")
	flag.StringVar(&o.t2, "t2", "bin/t2", "t2 binary; grades generated programs")
	flag.StringVar(&o.images.base, "images", "transformersquared.dev", "registry and folder of the images")
	flag.StringVar(&o.images.tag, "tag", "dev", "tag of the images")
	flag.StringVar(&o.samples, "samples", "config/samples", "kustomization to apply")
	flag.StringVar(&o.data, "data", "config/samples/demo/data", "folder with the held-out sets")
	flag.BoolVar(&o.external, "external", false, "the cluster is not the local one of make demo")
	flag.IntVar(&o.limit, "limit", 100, "questions of each held-out set in the table")
	flag.DurationVar(&o.timeout, "timeout", 20*time.Minute, "how long objects may take to become Ready")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, o)
	stop()
	if errors.Is(err, context.Canceled) {
		err = errors.New("interrupted; the cluster is still up: `make demo` goes on, `make demo-down` removes it")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

// run is the demo's table of contents.
func run(ctx context.Context, o options) (err error) {
	k := kubectl{binary: o.kubectl, kubeconfig: o.kubeconfig}
	clients, objects, err := connect(o.kubeconfig)
	if err != nil {
		return err
	}
	began := time.Now()
	out := newScreen(os.Stdout)

	out.headline("Installing the operator from config/default")
	if err := out.during(ctx, "Waiting for the operator to run", "5 to 30 s", nil, func(ctx context.Context) error {
		return install(ctx, k, o.images)
	}); err != nil {
		return err
	}
	out.headline("Applying %s: one BaseModel, twice three ExpertVectors, two AdaptivePolicies, in an unhelpful order", o.samples)
	if err := out.during(ctx, "Applying", "a few seconds", nil, func(ctx context.Context) error {
		for _, dir := range []string{o.samples, filepath.Join(o.samples, "probe")} { // The namespace is in the first.
			if err := k.applyKustomization(ctx, dir, o.images); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		return err
	}
	out.headline("Waiting for all of them to be Ready")
	w := watcher{objects: objects, namespace: namespace, screen: out}
	if err := w.untilReady(ctx, o.timeout); err != nil {
		return err
	}
	if err := explainTrainings(ctx, objects, out); err != nil {
		return err
	}

	if o.t2, err = filepath.Abs(o.t2); err != nil { // It runs in folders of its own.
		return fmt.Errorf("finding %s: %w", o.t2, err)
	}
	a := asker{clients: clients, namespace: namespace, policy: policyName}
	probe := asker{clients: clients, namespace: namespace, policy: probePolicy}
	skills, err := loadSkills(ctx, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, skills.close()) }()
	out.headline("Asking held-out questions through the Service of policy %q", policyName)
	if err := askAloud(ctx, a, skills, out); err != nil {
		return err
	}
	out.headline("Timing how long choosing takes: %q, and %q, whose experts act on answers alone", policyName, probePolicy)
	if err := printTimes(ctx, []asker{a, probe}, skills, out); err != nil {
		return err
	}
	out.headline("Scoring held-out sets through both Services (%d questions each)", o.limit)
	if err := printTable(ctx, a, probe, skills, out); err != nil {
		return err
	}
	closing(o, time.Since(began))
	return nil
}

// connect returns a client for built-in kinds and one for ours.
func connect(kubeconfig string) (kubernetes.Interface, client.Client, error) {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, nil, fmt.Errorf("reading kubeconfig %q: %w", kubeconfig, err)
	}
	config.QPS, config.Burst = -1, -1 // The table asks thousands of questions; the server sets the pace.
	clients, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, nil, fmt.Errorf("making a client: %w", err)
	}
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		return nil, nil, fmt.Errorf("registering %s: %w", v1alpha1.SchemeGroupVersion, err)
	}
	objects, err := client.New(config, client.Options{Scheme: scheme})
	if err != nil {
		return nil, nil, fmt.Errorf("making a client: %w", err)
	}
	return clients, objects, nil
}

func install(ctx context.Context, k kubectl, images imageNames) error {
	if err := k.applyKustomization(ctx, "config/default", images); err != nil {
		return err
	}
	if _, err := k.run(ctx, "", "-n", systemNamespace, "rollout", "restart", "deployment"); err != nil {
		return err
	}
	if _, err := k.run(ctx, "", "wait", "--for=condition=Established", "crd", "-l", "app.kubernetes.io/part-of=transformersquared", "--timeout=60s"); err != nil {
		return err
	}
	_, err := k.run(ctx, "", "-n", systemNamespace, "rollout", "status", "deployment", "--timeout=180s")
	return err
}

func closing(o options, took time.Duration) {
	fmt.Printf("\nDone in %s. The cluster is still up; worth trying:\n\n", took.Round(time.Second))
	if o.external {
		fmt.Printf("  export KUBECONFIG=%s\n", o.kubeconfig)
	} else {
		fmt.Printf("  export KUBECONFIG=%s PATH=$PWD/bin/cluster:$PATH\n", o.kubeconfig)
	}
	fmt.Printf("\n  kubectl -n %s get t2\n  kubectl -n %s describe expertvector math\n  kubectl -n %s get adaptivepolicy %s -o yaml\n", namespace, namespace, namespace, policyName)
	if o.external {
		fmt.Printf("\nTo remove it, first the objects, then the operator:\n\n  kubectl delete namespace %s\n  kubectl delete -k config/default\n", namespace)
	} else {
		fmt.Println("\nmake demo-down removes all of it.")
	}
}
