//go:build cuda

package cuda

import (
	"testing"

	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/backend/backendtest"
)

// newTest opens the device, and closes it with the test. Anything that nobody was told
// of fails the test then.
func newTest(tb testing.TB) *Backend {
	tb.Helper()
	b, err := Open(Options{})
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
