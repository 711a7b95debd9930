// Command softgpu is a device plugin that advertises GPUs which are none: a container that asks for one gets the software
// driver (hack/softcuda) where a node with GPUs would give it NVIDIA's. So pods with CUDA are scheduled, started and
// computed with on a machine without a GPU, for tests.
//
//	t2cluster exec bin/softgpu --driver bin/softcuda/libcuda.so.1 --gpus 2 --env SOFTCUDA_THREADS=1
//
// It belongs to the module of the local cluster's Kubernetes, so that it speaks the API that the kubelet there speaks.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	devices "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
)

// settings say what is advertised, and what a container gets that asks for it.
type settings struct {
	// resource is what pods ask for, such as nvidia.com/gpu.
	resource string
	// gpus is how many there are.
	gpus int
	// driver is the library on this machine, by its absolute path.
	driver string
	// variables are the driver's own, by name.
	variables map[string]string
	// kubelet is the folder of the kubelet's device plugins and their sockets.
	kubelet string
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	status := run(ctx, os.Args[1:], os.Stderr)
	stop()
	os.Exit(status)
}

// run serves until ctx ends and returns the exit status: 0 done, 1 failed, 2 wrong usage.
func run(ctx context.Context, args []string, out io.Writer) int {
	s, err := parse(args, out)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		fmt.Fprintf(out, "softgpu: %v\n", err)
		return 2
	}
	if err := serve(ctx, s, out); err != nil {
		fmt.Fprintf(out, "softgpu: %v\n", err)
		return 1
	}
	return 0
}

// variables is a flag that may be given several times.
type variables map[string]string

func (v variables) String() string { return "" }

func (v variables) Set(text string) error {
	name, value, found := strings.Cut(text, "=")
	if !found || name == "" {
		return fmt.Errorf("%q: want NAME=VALUE", text)
	}
	v[name] = value
	return nil
}

func parse(args []string, out io.Writer) (settings, error) {
	s := settings{variables: variables{}}
	flags := flag.NewFlagSet("softgpu", flag.ContinueOnError)
	flags.SetOutput(io.Discard) // the flag package would print the whole usage for every typing mistake
	flags.StringVar(&s.resource, "resource", "nvidia.com/gpu", "`name` that pods ask for them by")
	flags.IntVar(&s.gpus, "gpus", 2, "`number` of GPUs; a policy's rollout needs one more than it has pods")
	flags.StringVar(&s.driver, "driver", "", "`file` of the software driver, libcuda.so.1")
	flags.StringVar(&s.kubelet, "kubelet", devices.DevicePluginPath, "`folder` of the kubelet's device plugins")
	flags.Var(variables(s.variables), "env", "variable of containers that have one, as `NAME=VALUE`; may be repeated")
	err := flags.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprint(out, "softgpu advertises GPUs that are the software driver, until it is interrupted.\n\nFlags:\n")
		flags.SetOutput(out)
		flags.PrintDefaults()
		return settings{}, err
	case err != nil:
		return settings{}, fmt.Errorf("%w; see softgpu --help", err)
	case flags.NArg() > 0:
		return settings{}, fmt.Errorf("unexpected argument %q; see softgpu --help", flags.Arg(0))
	case s.driver == "":
		return settings{}, errors.New("--driver is needed; see softgpu --help")
	case s.gpus < 1:
		return settings{}, fmt.Errorf("--gpus %d: want a number from 1", s.gpus)
	}
	if s.driver, err = filepath.Abs(s.driver); err != nil {
		return settings{}, fmt.Errorf("--driver: %w", err)
	}
	// The kubelet mounts what is there when a container starts, and says little where nothing is.
	if info, err := os.Stat(s.driver); err != nil {
		return settings{}, fmt.Errorf("--driver: %w: make softcuda builds it", err)
	} else if !info.Mode().IsRegular() {
		return settings{}, fmt.Errorf("--driver %s: want a file", s.driver)
	}
	return s, nil
}
