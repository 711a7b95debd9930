//go:build cuda

package registry

import (
	"os"

	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/backend/cuda"
)

// devices are the backends beside the processor's.
var devices = []entry{{"cuda", func(o Options) (backend.Backend, error) {
	hopper, err := cuda.ChoiceOf(os.Getenv(cuda.EnvHopper))
	if err != nil {
		return nil, err
	}
	b, err := cuda.Open(cuda.Options{Hopper: hopper, CuBLAS: o.CuBLAS, CuSOLVER: o.CuSOLVER})
	if err != nil {
		return nil, err
	}
	return b, nil
}}}
