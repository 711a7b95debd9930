//go:build cuda

package registry

import (
	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/backend/cuda"
)

// devices are the backends beside the processor's.
var devices = []entry{{"cuda", func(Options) (backend.Backend, error) {
	b, err := cuda.Open(cuda.Options{})
	if err != nil {
		return nil, err
	}
	return b, nil
}}}
