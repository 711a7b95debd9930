// Package registry opens the backends that a binary has, by their names.
package registry

import (
	"fmt"
	"slices"
	"strings"

	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/backend/cpu"
)

// Options are what a backend is opened with.
type Options struct {
	// Threads that a backend on the processor computes with; 0 means all processors.
	Threads int
	// CuBLAS and CuSOLVER say what those libraries compute; only the backend cuda has them.
	CuBLAS, CuSOLVER backend.LibraryUse
}

// withoutLibraries refuses libraries that a backend has not.
func (o Options) withoutLibraries() error {
	if !o.CuBLAS.Asked() && !o.CuSOLVER.Asked() {
		return nil
	}
	return fmt.Errorf("%w: cuBLAS and cuSOLVER are for the backend cuda; run t2-cuda with it, or ask for neither", backend.ErrLibrary)
}

// entry is a backend that this binary has.
type entry struct {
	name string
	open func(Options) (backend.Backend, error)
}

var entries = append([]entry{
	{"cpu", func(o Options) (backend.Backend, error) {
		if err := o.withoutLibraries(); err != nil {
			return nil, err
		}
		return cpu.New(o.Threads)
	}},
}, devices...)

// Names lists the backends; the first is the default.
func Names() []string {
	var names []string
	for _, e := range slices.Backward(entries) {
		names = append(names, e.name)
	}
	return names
}

// Open opens the backend of this name, in any case; an empty one means the
// default: a device's, in a binary that has one, else the processor's. Its errors
// wrap backend.ErrUnknown where this binary has no such backend, and backend.ErrLibrary
// where it cannot use a library that the options ask for.
func Open(name string, o Options) (backend.Backend, error) {
	names := Names()
	if name == "" {
		name = names[0]
	}
	for _, e := range entries {
		if strings.EqualFold(e.name, name) {
			be, err := e.open(o)
			if err != nil {
				return nil, fmt.Errorf("opening backend %s: %w", e.name, err)
			}
			return be, nil
		}
	}
	hint := ""
	if strings.EqualFold(name, "cuda") {
		hint = "; run t2-cuda, or the image of it"
	}
	return nil, fmt.Errorf("%w %q: this binary has %s%s", backend.ErrUnknown, name, strings.Join(names, " and "), hint)
}
