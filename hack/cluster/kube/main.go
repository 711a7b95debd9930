// Command kube is Kubernetes, its key-value store and its client in one executable: it plays the role that its name, or
// else its first argument, says. The local cluster links it as etcd, kube-apiserver, kube-controller-manager,
// kube-scheduler, kubelet, kube-proxy and kubectl; the first two and kubectl are also what envtest asks for.
//
// One executable instead of seven because the roles share nearly all of their code: it is linked once (the slowest step
// of the build) and takes a fifth of the disk space.
package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	_ "time/tzdata" // time zones of CronJobs, as in the upstream commands

	"go.etcd.io/etcd/server/v3/etcdmain"
	_ "k8s.io/client-go/plugin/pkg/client/auth" // kubectl's authentication plugins
	"k8s.io/component-base/cli"
	"k8s.io/component-base/logs"
	_ "k8s.io/component-base/logs/json/register"          // --logging-format=json
	_ "k8s.io/component-base/metrics/prometheus/clientgo" // client metrics
	_ "k8s.io/component-base/metrics/prometheus/version"  // version metric
	kubectl "k8s.io/kubectl/pkg/cmd"
	kubectlutil "k8s.io/kubectl/pkg/cmd/util"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllermanager "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	proxy "k8s.io/kubernetes/cmd/kube-proxy/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"
)

// roles runs each role with os.Args set as its upstream command would see them, and returns its exit status.
var roles = map[string]func() int{
	"etcd":                    runEtcd,
	"kube-apiserver":          func() int { return cli.Run(apiserver.NewAPIServerCommand()) },
	"kube-controller-manager": func() int { return cli.Run(controllermanager.NewControllerManagerCommand()) },
	"kube-proxy":              func() int { return cli.Run(proxy.NewProxyCommand()) },
	"kube-scheduler":          func() int { return cli.Run(scheduler.NewSchedulerCommand()) },
	"kubectl":                 runKubectl,
	"kubelet":                 func() int { return cli.Run(kubelet.NewKubeletCommand(context.Background())) },
}

func main() {
	role, args := pickRole(os.Args)
	run, known := roles[role]
	if !known {
		fmt.Fprintf(os.Stderr, "kube: no role %q; call it by one of these names, or with one as its first argument: %s\n",
			role, strings.Join(roleNames(), ", "))
		os.Exit(2)
	}
	os.Args = args
	os.Exit(run())
}

// pickRole returns the role that an argument vector asks for and the vector that the role should see.
func pickRole(argv []string) (role string, args []string) {
	name := filepath.Base(argv[0])
	if _, known := roles[name]; known || len(argv) < 2 {
		return name, argv
	}
	return argv[1], argv[1:]
}

func roleNames() []string {
	names := make([]string, 0, len(roles))
	for name := range roles {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// runEtcd never returns on failure: etcd ends the process itself.
func runEtcd() int {
	etcdmain.Main(os.Args)
	return 0
}

// runKubectl sets the log level before the command exists, because building it already logs (plugins, .kuberc).
func runKubectl() int {
	if _, err := logs.GlogSetter(kubectl.GetLogVerbosity(os.Args)); err != nil {
		fmt.Fprintf(os.Stderr, "kubectl: setting the log verbosity: %v\n", err)
		return 1
	}
	if err := cli.RunNoErrOutput(kubectl.NewDefaultKubectlCommand()); err != nil {
		kubectlutil.CheckErr(err) // prints it as kubectl does and exits
		return 1
	}
	return 0
}
