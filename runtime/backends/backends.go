// Package backends opens what computes by its name. Which backends there are is
// decided when the program is built.
package backends

import (
	"fmt"
	"strings"

	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/backend/cpu"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/failure"
)

// Names lists the backends of this program, the default first.
func Names() []string { return []string{contract.BackendCPU} }

// Open opens the backend of this name, of those that Names lists; empty means
// contract.BackendCPU. threads is how many threads of the host compute; 0 means
// one a processor. Its errors are classified (see package failure). The caller
// closes the backend.
func Open(name string, threads int) (backend.Backend, error) {
	switch name {
	case "", contract.BackendCPU:
		be, err := cpu.New(threads)
		if err != nil { // It is asked for what this processor has not.
			return nil, failure.Permanent(contract.ReasonUsage, fmt.Errorf("opening backend %s: %w", contract.BackendCPU, err))
		}
		return be, nil
	case contract.BackendCUDA:
		return nil, failure.Permanentf(contract.ReasonUsage,
			"this program has no backend %s, only %s: run t2-cuda, or the image of it", name, strings.Join(Names(), ", "))
	default:
		return nil, failure.Permanentf(contract.ReasonUsage,
			"backend %q is unknown: this program has %s", name, strings.Join(Names(), ", "))
	}
}
