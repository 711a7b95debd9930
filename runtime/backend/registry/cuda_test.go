//go:build cuda

package registry_test

import (
	"strings"
	"testing"

	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/backend/cuda"
	"github.com/transformersquared/operator/runtime/backend/registry"
)

// TestAUserMayDoWithoutHoppersKernels has T2_HOPPER reach the device, and a wrong value
// said.
func TestAUserMayDoWithoutHoppersKernels(t *testing.T) {
	t.Setenv(cuda.EnvHopper, "never")
	be, err := registry.Open("cuda", registry.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range be.(backend.Describer).Describe() {
		if strings.Contains(f.Name, "Hopper") || strings.Contains(f.Value, "hopper") {
			t.Errorf("%s: %s", f.Name, f.Value)
		}
	}
	if err := be.Close(); err != nil {
		t.Error(err)
	}
	t.Setenv(cuda.EnvHopper, "perhaps")
	if _, err := registry.Open("cuda", registry.Options{}); err == nil || !strings.Contains(err.Error(), `T2_HOPPER="perhaps"`) {
		t.Errorf("%v", err)
	}
}
