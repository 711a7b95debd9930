//go:build cuda

package cuda

import (
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/backend/backendtest"
)

// openWith opens the device with a library, and closes it with the test. On a device
// without the library the test ends; the software driver has stand-ins for them.
func openWith(tb testing.TB, o Options) *Backend {
	tb.Helper()
	b, err := Open(o)
	if errors.Is(err, backend.ErrLibrary) && !onSoftware(tb) {
		tb.Skip(err)
	}
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

// onSoftware reports whether the driver is the one in software.
func onSoftware(tb testing.TB) bool {
	tb.Helper()
	return strings.Contains(newTest(tb).info.name, "oftware")
}

// TestConformsWithCuBLAS runs the suite's products by cuBLAS: those of training, and all
// that it can compute.
func TestConformsWithCuBLAS(t *testing.T) {
	for _, use := range []backend.LibraryUse{backend.LibraryTraining, backend.LibraryAlways} {
		t.Run(string(use), func(t *testing.T) {
			b := openWith(t, Options{CuBLAS: use})
			if c := b.Capabilities(); c.RowInvariantBackward || c.RowInvariant == (use == backend.LibraryAlways) {
				t.Errorf("with cuBLAS for %q the backend claims %+v", use, c)
			}
			backendtest.RunProducts(t, func(testing.TB) backend.Backend { return b })
		})
	}
}

// TestConformsWithCuSOLVER runs the suite's decompositions by cuSOLVER. Those that it, or
// its stand-in, leaves without a basis are our own.
func TestConformsWithCuSOLVER(t *testing.T) {
	var said strings.Builder
	b := openWith(t, Options{CuSOLVER: backend.LibraryAlways, Log: slog.New(slog.NewTextHandler(&said, nil))})
	backendtest.RunDecompose(t, func(testing.TB) backend.Backend { return b })
	if n := strings.Count(said.String(), "said once"); n > 1 || n == 0 && onSoftware(t) {
		t.Errorf("it was said %d times that cuSOLVER is not good enough: %s", n, said.String())
	}
}
