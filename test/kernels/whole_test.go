//go:build cuda

package kernels

import (
	"flag"
	"slices"
	"testing"

	"github.com/transformersquared/operator/kernels"
)

// elsewhere are the units whose kernels are tested through the backend alone, in
// runtime/backend/backendtest.
var elsewhere = []string{"heads"}

// TestWhole holds that no kernel is without a test here. It runs last, and only where
// the others have run.
func TestWhole(t *testing.T) {
	if run := flag.Lookup("test.run").Value.String(); run != "" {
		t.Skipf("only the tests %s were asked for", run)
	}
	for _, k := range kernels.All() {
		for _, entry := range k.Entries() {
			if gpu.functions[entry] == nil && !slices.Contains(elsewhere, k.Unit) {
				t.Errorf("no test launches %s", entry)
			}
		}
	}
}
