package plugin

import (
	"context"
	"fmt"
	"net"
	"time"

	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/version"
	"k8s.io/client-go/discovery"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/controllers/kubectl-t2/internal/tunnel"
)

// Flags name a cluster, as kubectl's do.
type Flags struct {
	kubeconfig string
	overrides  clientcmd.ConfigOverrides
}

func (f *Flags) register(flags *pflag.FlagSet) {
	flags.StringVar(&f.kubeconfig, "kubeconfig", "", "Path to the kubeconfig file to use for CLI requests.")
	clientcmd.BindOverrideFlags(&f.overrides, flags, clientcmd.RecommendedConfigOverrideFlags(""))
}

// requestTimeout bounds a request to the API server where --request-timeout does not.
const requestTimeout = 30 * time.Second

// Cluster is what the commands read and ask.
type Cluster struct {
	// Client reads without a cache.
	client.Client
	// Namespace is the one that the flags or the kubeconfig name.
	Namespace string
	// Server is the address of the API server.
	Server string
	// Version asks for the API server's.
	Version func(context.Context) (*version.Info, error)
	// Dial connects to a port of a pod.
	Dial func(ctx context.Context, pod types.NamespacedName, port int) (net.Conn, error)
}

// Connect finds the cluster that flags name. Nothing is asked yet.
func Connect(_ context.Context, flags *Flags) (*Cluster, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = flags.kubeconfig
	kubeconfig := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &flags.overrides)
	config, err := kubeconfig.ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("finding the cluster: %w", err)
	}
	namespace, _, err := kubeconfig.Namespace()
	if err != nil {
		return nil, fmt.Errorf("finding the namespace: %w", err)
	}
	return ConnectTo(config, namespace)
}

// ConnectTo returns the cluster of a configuration.
func ConnectTo(config *rest.Config, namespace string) (*Cluster, error) {
	config = rest.CopyConfig(config)
	if config.Timeout == 0 {
		config.Timeout = requestTimeout
	}
	config.UserAgent = "kubectl-t2"
	if config.QPS == 0 {
		config.QPS, config.Burst = 50, 100 // doctor asks some sixty questions.
	}
	scheme, err := Scheme()
	if err != nil {
		return nil, err
	}
	c, err := client.New(config, client.Options{Scheme: scheme})
	if err != nil {
		return nil, fmt.Errorf("connecting to %s: %w", config.Host, err)
	}
	versions, err := discovery.NewDiscoveryClientForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("connecting to %s: %w", config.Host, err)
	}
	// A tunnel lasts as long as what goes through it.
	lasting := rest.CopyConfig(config)
	lasting.Timeout = 0
	dialer, err := tunnel.New(lasting)
	if err != nil {
		return nil, err
	}
	return &Cluster{Client: c, Namespace: namespace, Server: config.Host, Version: versions.ServerVersionWithContext, Dial: dialer.Dial}, nil
}

// Scheme knows the kinds that the plugin reads.
func Scheme() (*runtime.Scheme, error) {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(scheme); err != nil {
			return nil, fmt.Errorf("registering kinds: %w", err)
		}
	}
	return scheme, nil
}
