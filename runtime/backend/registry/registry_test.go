package registry_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/backend/cpu"
	"github.com/transformersquared/operator/runtime/backend/registry"
)

// The processor's backend is in every binary, and its name may be written in any
// case.
func TestTheProcessorComputesInEveryBinary(t *testing.T) {
	for _, name := range []string{"cpu", "CPU"} {
		be, err := registry.Open(name, registry.Options{Threads: 2})
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(be.Name(), "cpu (") || !strings.Contains(be.Name(), "2 threads") {
			t.Errorf("%s computes with %q", name, be.Name())
		}
		if err := be.Close(); err != nil {
			t.Error(err)
		}
	}
}

// Who asks for what this binary has not is told what it has.
func TestWhatThisBinaryHasNotIsSaid(t *testing.T) {
	_, err := registry.Open("abacus", registry.Options{})
	if !errors.Is(err, backend.ErrUnknown) {
		t.Fatalf("got %v", err)
	}
	for _, name := range append(registry.Names(), "abacus") {
		if !strings.Contains(err.Error(), name) {
			t.Errorf("%q does not name %s", err, name)
		}
	}
	t.Setenv(cpu.EnvPath, "abacus")
	if _, err = registry.Open("cpu", registry.Options{}); err == nil || errors.Is(err, backend.ErrUnknown) || !strings.Contains(err.Error(), "opening backend cpu: ") {
		t.Errorf("got %v", err)
	}
}

// The processor has no library of a GPU: who insists on one is told, and who takes it
// where it is there computes without.
func TestTheProcessorHasNoLibraryOfAGPU(t *testing.T) {
	for use, refused := range map[backend.LibraryUse]bool{
		backend.LibraryNever: false, backend.LibraryAuto: false, backend.LibraryTraining: true, backend.LibraryAlways: true, "": false,
	} {
		for _, o := range []registry.Options{{Threads: 1, CuBLAS: use}, {Threads: 1, CuSOLVER: use}} {
			be, err := registry.Open("cpu", o)
			if refused != errors.Is(err, backend.ErrLibrary) || !refused && err != nil {
				t.Errorf("%+v: error %v", o, err)
			}
			if err == nil {
				if err := be.Close(); err != nil {
					t.Error(err)
				}
			}
		}
	}
}
