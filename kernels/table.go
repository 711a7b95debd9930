package kernels

import (
	"fmt"
	"slices"
)

// DType is the storage of a kernel's activations, the ending of its name.
type DType string

// The storage types that kernels are instantiated for.
const (
	F32  DType = "f32"
	BF16 DType = "bf16"
)

// Kernel is one kernel of a unit, with its entry points and how they are launched.
// Each parameter takes 8 bytes: a device pointer, a 64-bit integer or a float64.
type Kernel struct {
	// Unit is the .cu file that has it.
	Unit string
	// Name is its name there, without the storage type.
	Name string
	// DTypes are the storage types that it is instantiated for. A kernel without
	// has one entry point, which is named as itself.
	DTypes []DType
	// Params are the names of its parameters in order, as in the .cu.
	Params []string
	// Threads is the number of threads of a block: exactly so many are launched.
	Threads int
	// Shared is the largest dynamic shared memory that a block may be given, in
	// bytes; above 48 KiB the function must be allowed it first.
	Shared int
	// Cold kernels run once a model or once a run, not once a step: spilled
	// registers are no failure there.
	Cold bool
	// Targets are the targets that have it; nil means all of its unit.
	Targets []Target
}

// Entry returns the entry point for a storage type.
func (k Kernel) Entry(t DType) string {
	if len(k.DTypes) == 0 {
		return k.Name
	}
	return k.Name + "_" + string(t)
}

// Entries lists the entry points.
func (k Kernel) Entries() []string {
	if len(k.DTypes) == 0 {
		return []string{k.Name}
	}
	entries := make([]string, len(k.DTypes))
	for i, t := range k.DTypes {
		entries[i] = k.Entry(t)
	}
	return entries
}

// In reports whether PTX for a target has the kernel.
func (k Kernel) In(t Target) bool { return len(k.Targets) == 0 || slices.Contains(k.Targets, t) }

// All returns the table of kernels, by unit and in the order of its .cu.
func All() []Kernel { return slices.Clone(table) }

// Find returns the kernel of this name.
func Find(name string) (Kernel, error) {
	i := slices.IndexFunc(table, func(k Kernel) bool { return k.Name == name })
	if i < 0 {
		return Kernel{}, fmt.Errorf("there is no kernel %q", name)
	}
	return table[i], nil
}

var both = []DType{F32, BF16}

var table = []Kernel{
	{Unit: "norm", Name: "rmsnorm", DTypes: both, Threads: 256, Params: []string{"y", "x", "gain", "n", "c", "eps"}},
	{Unit: "norm", Name: "rmsnormback", DTypes: both, Threads: 256, Params: []string{"dx", "dy", "x", "gain", "n", "c", "eps"}},
	{Unit: "norm", Name: "swiglu", DTypes: both, Threads: 256, Params: []string{"y", "gate", "up", "count"}},
	{Unit: "norm", Name: "swigluback", DTypes: both, Threads: 256, Params: []string{"dgate", "dup", "dy", "gate", "up", "count"}},
	{Unit: "norm", Name: "logsoftmax", DTypes: both, Threads: 256, Params: []string{"y", "x", "n", "c"}},
}
