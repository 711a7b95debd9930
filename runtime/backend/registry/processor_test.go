//go:build !cuda

package registry_test

import (
	"strings"
	"testing"

	"github.com/transformersquared/operator/runtime/backend/registry"
)

func TestABinaryWithoutCUDANamesTheOneThatHasIt(t *testing.T) {
	if _, err := registry.Open("cuda", registry.Options{}); err == nil || !strings.Contains(err.Error(), "run t2-cuda") {
		t.Errorf("%v", err)
	}
}
