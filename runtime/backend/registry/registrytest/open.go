// Package registrytest opens the backend that tests are to run on, so that those of the
// model, the engine and training hold on every backend.
package registrytest

import (
	"os"
	"testing"

	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/backend/cpu"
	"github.com/transformersquared/operator/runtime/backend/registry"
)

// EnvBackend names the environment variable that names the backend; without it tests run
// on the processor.
const EnvBackend = "T2_BACKEND"

// OnProcessor reports whether tests run on the processor.
func OnProcessor() bool { return name() == "cpu" }

func name() string {
	if name := os.Getenv(EnvBackend); name != "" {
		return name
	}
	return "cpu"
}

// Open opens the backend, with so many threads where it has such, and closes it with the
// test.
func Open(tb testing.TB, threads int) backend.Backend {
	tb.Helper()
	be, err := registry.Open(name(), registry.Options{Threads: threads})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := be.Close(); err != nil {
			tb.Error(err)
		}
	})
	return be
}

// Paths lists the instruction paths of the processor, to set as cpu.EnvPath; another
// backend has one.
func Paths() []string {
	if OnProcessor() {
		return cpu.Paths()
	}
	return []string{""}
}
