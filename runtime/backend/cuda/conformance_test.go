//go:build cuda

package cuda

import (
	"testing"

	"github.com/transformersquared/operator/kernels"
	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/backend/backendtest"
)

// newTest opens the device, with Hopper's kernels wherever their results permit, and
// closes it with the test. Anything that nobody was told of fails the test then.
func newTest(tb testing.TB) *Backend {
	tb.Helper()
	return openTest(tb, Options{Hopper: Always}, kernels.Load)
}

// openTest is newTest with options, and Hopper's kernels from elsewhere.
func openTest(tb testing.TB, o Options, load loader) *Backend {
	tb.Helper()
	b, err := open(o, load)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := b.Close(); err != nil {
			tb.Error(err)
		}
	})
	return b
}

// TestConforms runs the suite of every backend on whatever driver is there: the software
// one in `make test-cuda`, a device's in `make test-gpu`.
func TestConforms(t *testing.T) {
	backendtest.Run(t, func(tb testing.TB) backend.Backend { return newTest(tb) })
}
