// Command manager is the Transformer² operator: it realises BaseModels,
// ExpertVectors and AdaptivePolicies in a Kubernetes cluster.
package main

import (
	"errors"
	"fmt"
	"os"

	ctrl "sigs.k8s.io/controller-runtime"

	"github.com/transformersquared/operator/controllers"
)

// Exit statuses.
const (
	exitFailed = 1
	exitUsage  = 2
)

func main() {
	err := controllers.Run(ctrl.SetupSignalHandler(), os.Args[1:], os.Stderr)
	switch {
	case err == nil:
	case errors.Is(err, controllers.ErrUsage):
		fmt.Fprintln(os.Stderr, "manager:", err)
		os.Exit(exitUsage)
	default:
		fmt.Fprintln(os.Stderr, "manager:", err)
		os.Exit(exitFailed)
	}
}
