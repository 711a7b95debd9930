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
	// Variant is the end of its name where there are several that compute the same.
	Variant string
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
	name := k.Name
	if len(k.DTypes) > 0 {
		name += "_" + string(t)
	}
	if k.Variant != "" {
		name += "_" + k.Variant
	}
	return name
}

// Entries lists the entry points.
func (k Kernel) Entries() []string {
	if len(k.DTypes) == 0 {
		return []string{k.Entry("")}
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

// Find returns the kernel that has an entry point.
func Find(entry string) (Kernel, error) {
	for _, k := range table {
		if slices.Contains(k.Entries(), entry) {
			return k, nil
		}
	}
	return Kernel{}, fmt.Errorf("no kernel has the entry point %q", entry)
}

var (
	both  = []DType{F32, BF16}
	brief = []DType{BF16}
)

var (
	attentionParams = []string{"out", "lse", "q", "k", "v", "first", "count", "n", "heads", "kvheads", "d", "scale"}
	pagedParams     = []string{"out", "q", "cachek", "cachev", "blocks", "first", "count", "n", "blocksize", "heads", "kvheads", "d", "scale"}
	splitParams     = []string{"sums", "states", "q", "cachek", "cachev", "blocks", "first", "count", "n", "blocksize", "heads", "kvheads", "d", "scale"}
	ofQueriesParams = []string{"dq", "delta", "dout", "out", "lse", "q", "k", "v", "first", "count", "n", "heads", "kvheads", "d", "scale"}
	ofKeysParams    = []string{"dk", "dv", "dout", "lse", "delta", "q", "k", "v", "first", "count", "rowsof", "rows", "heads", "kvheads", "d", "scale"}
)

// hopper are the targets of kernels that only Hopper runs.
var hopper = []Target{SM90a}

// groupShared is the shared memory of a block of hopper.cu: a tile's totals, four stages,
// four times 32 scales, and barriers.
const groupShared = 128<<10 + 4*(24<<10) + 4*32*4 + 8*8

var productParams = []string{"y", "x", "w", "wscales", "scales", "index", "n", "m", "k", "ldw", "ldx", "ldy", "flags"}

// threeParams are those of three products in one launch.
var threeParams = func() []string {
	params := []string{"n"}
	for _, i := range []string{"0", "1", "2"} {
		for _, p := range productParams {
			if p != "n" {
				params = append(params, p+i)
			}
		}
	}
	return params
}()

var table = []Kernel{
	{Unit: "product", Name: "product_f32", Variant: "skinny", DTypes: both, Threads: 128, Params: productParams},
	{Unit: "product", Name: "product_f32", Variant: "tiled", DTypes: both, Threads: 256, Params: productParams},
	{Unit: "product", Name: "product_bf16", Variant: "skinny", DTypes: both, Threads: 128, Params: productParams},
	{Unit: "product", Name: "product_bf16", Variant: "medium", DTypes: both, Threads: 512, Shared: 128 << 10, Params: productParams},
	{Unit: "product", Name: "product_bf16", Variant: "tiled", DTypes: both, Threads: 128, Params: productParams},
	{Unit: "product", Name: "product_bf16", Variant: "large", DTypes: both, Threads: 256, Params: productParams},
	{Unit: "product", Name: "product_i8", Variant: "skinny", DTypes: both, Threads: 128, Params: productParams},
	{Unit: "product", Name: "product_i8", Variant: "tiled", DTypes: both, Threads: 128, Params: productParams},
	{Unit: "product", Name: "product_f32", Variant: "skinny3", DTypes: both, Threads: 128, Params: threeParams},
	{Unit: "product", Name: "product_bf16", Variant: "skinny3", DTypes: both, Threads: 128, Params: threeParams},
	{Unit: "product", Name: "product_i8", Variant: "skinny3", DTypes: both, Threads: 128, Params: threeParams},
	{Unit: "product", Name: "quantise", DTypes: both, Threads: 256, Params: []string{"q", "qscales", "x", "scales", "index", "n", "k", "ldx", "ldq"}},
	{Unit: "norm", Name: "rmsnorm", DTypes: both, Threads: 256, Params: []string{"y", "x", "gain", "n", "c", "eps"}},
	{Unit: "norm", Name: "rmsnormback", DTypes: both, Threads: 256, Params: []string{"dx", "dy", "x", "gain", "n", "c", "eps"}},
	{Unit: "norm", Name: "swiglu", DTypes: both, Threads: 256, Params: []string{"y", "gate", "up", "count"}},
	{Unit: "norm", Name: "swigluback", DTypes: both, Threads: 256, Params: []string{"dgate", "dup", "dy", "gate", "up", "count"}},
	{Unit: "norm", Name: "logsoftmax", DTypes: both, Threads: 256, Params: []string{"y", "x", "n", "c"}},
	{Unit: "rows", Name: "gather_wf32", DTypes: both, Threads: 256, Params: []string{"y", "w", "wscales", "ids", "n", "k", "ldw"}},
	{Unit: "rows", Name: "gather_wbf16", DTypes: both, Threads: 256, Params: []string{"y", "w", "wscales", "ids", "n", "k", "ldw"}},
	{Unit: "rows", Name: "gather_wi8", DTypes: both, Threads: 256, Params: []string{"y", "w", "wscales", "ids", "n", "k", "ldw"}},
	{Unit: "rows", Name: "select", DTypes: both, Threads: 256, Params: []string{"y", "x", "rows", "n", "c"}},
	{Unit: "rows", Name: "scatter", DTypes: both, Threads: 256, Params: []string{"y", "x", "rows", "n", "c"}},
	{Unit: "rows", Name: "add", DTypes: both, Threads: 256, Params: []string{"y", "x", "count"}},
	{Unit: "rows", Name: "addrows", DTypes: both, Threads: 256, Params: []string{"y", "bank", "index", "n", "c"}},
	{Unit: "rows", Name: "scalecols", DTypes: both, Threads: 256, Params: []string{"y", "x", "bank", "index", "n", "c"}},
	{Unit: "rows", Name: "columndots", DTypes: both, Threads: 256, Params: []string{"d", "a", "b", "n", "c"}},
	{Unit: "rows", Name: "convert_f32_bf16", Threads: 256, Params: []string{"y", "x", "count"}},
	{Unit: "rows", Name: "convert_bf16_f32", Threads: 256, Params: []string{"y", "x", "count"}},
	{Unit: "rows", Name: "fill", DTypes: both, Threads: 256, Params: []string{"y", "value", "count"}},
	{Unit: "rows", Name: "pack_f32_f32", Threads: 256, Cold: true, Params: []string{"w", "wscales", "src", "m", "k", "ldw"}},
	{Unit: "rows", Name: "pack_f32_bf16", Threads: 256, Cold: true, Params: []string{"w", "wscales", "src", "m", "k", "ldw"}},
	{Unit: "rows", Name: "pack_f32_i8", Threads: 256, Cold: true, Params: []string{"w", "wscales", "src", "m", "k", "ldw"}},
	{Unit: "rows", Name: "transpose_f32_f32", Threads: 256, Cold: true, Params: []string{"to", "w", "wscales", "m", "k", "ldw", "ldt"}},
	{Unit: "rows", Name: "transpose_bf16_bf16", Threads: 256, Cold: true, Params: []string{"to", "w", "wscales", "m", "k", "ldw", "ldt"}},
	{Unit: "rows", Name: "transpose_i8_f32", Threads: 256, Cold: true, Params: []string{"to", "w", "wscales", "m", "k", "ldw", "ldt"}},
	{Unit: "attention", Name: "rope", DTypes: both, Threads: 256, Params: []string{"x", "positions", "table", "n", "heads", "d", "ldx", "inverse"}},
	{Unit: "attention", Name: "ropestore", DTypes: both, Threads: 256, Params: []string{"q", "k", "v", "cachek", "cachev", "positions", "slots", "table", "n", "heads", "kvheads", "d"}},
	{Unit: "attention", Name: "ropestore_f32_bf16", Threads: 256, Params: []string{"q", "k", "v", "cachek", "cachev", "positions", "slots", "table", "n", "heads", "kvheads", "d"}},
	{Unit: "attention", Name: "attention", DTypes: both, Threads: 256, Params: attentionParams},
	{Unit: "attention", Name: "attention", Variant: "wide", DTypes: both, Threads: 128, Params: attentionParams},
	{Unit: "attention", Name: "pagedattention", DTypes: both, Threads: 256, Params: pagedParams},
	{Unit: "attention", Name: "pagedattention", Variant: "wide", DTypes: both, Threads: 128, Params: pagedParams},
	{Unit: "attention", Name: "pagedattention", Variant: "split", DTypes: both, Threads: 256, Params: splitParams},
	{Unit: "attention", Name: "pagedattention", Variant: "splitwide", DTypes: both, Threads: 256, Params: splitParams},
	{Unit: "attention", Name: "pagedattention_f32_bf16", Threads: 256, Params: pagedParams},
	{Unit: "attention", Name: "pagedattention_f32_bf16", Variant: "wide", Threads: 128, Params: pagedParams},
	{Unit: "attention", Name: "pagedattention_f32_bf16", Variant: "split", Threads: 256, Params: splitParams},
	{Unit: "attention", Name: "pagedattention_f32_bf16", Variant: "splitwide", Threads: 256, Params: splitParams},
	{Unit: "attention", Name: "attention", Variant: "combine", DTypes: both, Threads: 128, Params: []string{"out", "sums", "states", "count", "n", "heads", "d", "chunks"}},
	{Unit: "attention", Name: "attentionback", Variant: "queries", DTypes: both, Threads: 128, Params: ofQueriesParams},
	{Unit: "attention", Name: "attentionback", Variant: "querieswide", DTypes: both, Threads: 128, Params: ofQueriesParams},
	{Unit: "attention", Name: "attentionback", Variant: "keys", DTypes: both, Threads: 128, Params: ofKeysParams},
	{Unit: "attention", Name: "attentionback", Variant: "keyswide", DTypes: both, Threads: 128, Params: ofKeysParams},
	{Unit: "tensorattention", Name: "attention", Variant: "tensor64", DTypes: brief, Threads: 128, Shared: 640 * 64, Params: attentionParams},
	{Unit: "tensorattention", Name: "attention", Variant: "tensor128", DTypes: brief, Threads: 128, Shared: 640 * 128, Params: attentionParams},
	{Unit: "tensorattention", Name: "pagedattention", Variant: "tensor64", DTypes: brief, Threads: 128, Shared: 640 * 64, Params: pagedParams},
	{Unit: "tensorattention", Name: "pagedattention", Variant: "tensor128", DTypes: brief, Threads: 128, Shared: 640 * 128, Params: pagedParams},
	{Unit: "tensorattention", Name: "pagedattention", Variant: "splittensor64", DTypes: brief, Threads: 128, Shared: 544 * 64, Params: splitParams},
	{Unit: "tensorattention", Name: "pagedattention", Variant: "splittensor128", DTypes: brief, Threads: 128, Shared: 544 * 128, Params: splitParams},
	{Unit: "tensorattention", Name: "attentionback", Variant: "queriestensor64", DTypes: brief, Threads: 128, Shared: 512 * 64, Params: ofQueriesParams},
	{Unit: "tensorattention", Name: "attentionback", Variant: "queriestensor128", DTypes: brief, Threads: 128, Shared: 512 * 128, Params: ofQueriesParams},
	{Unit: "tensorattention", Name: "attentionback", Variant: "keystensor64", DTypes: brief, Threads: 128, Shared: 512 * 64, Params: ofKeysParams},
	{Unit: "tensorattention", Name: "attentionback", Variant: "keystensor128", DTypes: brief, Threads: 128, Shared: 512 * 128, Params: ofKeysParams},
	{Unit: "svf", Name: "compose_f32", DTypes: both, Threads: 256, Params: []string{"w", "u", "vt", "s", "m", "r", "k", "ldw", "ldu", "ldv"}},
	{Unit: "svf", Name: "compose_bf16", DTypes: both, Threads: 256, Params: []string{"w", "u", "vt", "s", "m", "r", "k", "ldw", "ldu", "ldv"}},
	{Unit: "svf", Name: "mixscale", Threads: 256, Params: []string{"s", "sigma", "z", "alphas", "experts", "r", "normalise"}},
	{Unit: "hopper", Name: "product_bf16", Variant: "group", DTypes: both, Threads: 384, Shared: groupShared, Params: productParams, Targets: hopper},
	{Unit: "hopper", Name: "arrange", DTypes: both, Threads: 256, Params: []string{"to", "x", "scales", "index", "n", "k", "ldx", "rows"}, Targets: hopper},
	{Unit: "hopper", Name: "composegroup_bf16", DTypes: both, Threads: 384, Shared: groupShared, Params: []string{"w", "u", "vt", "s", "m", "r", "k", "ldw", "ldu", "rows"}, Targets: hopper},
	{Unit: "hopper", Name: "turn_bf16", Threads: 256, Params: []string{"to", "vt", "r", "k", "ldv", "rows"}, Targets: hopper},
	{Unit: "svd", Name: "svdload", Threads: 256, Cold: true, Params: []string{"rows", "w", "m", "n", "padded", "ld", "turned"}},
	{Unit: "svd", Name: "svdgram", Threads: 256, Cold: true, Params: []string{"gram", "rows", "n", "ld", "blocks", "round"}},
	{Unit: "svd", Name: "svdsolve", Threads: 256, Cold: true, Params: []string{"rotations", "cosines", "gram", "chunks", "floor", "tolerance"}},
	{Unit: "svd", Name: "svdrotate", Threads: 256, Cold: true, Params: []string{"rows", "rotations", "cosines", "tolerance", "ld", "blocks", "round"}},
	{Unit: "svd", Name: "svdlengths", Threads: 256, Cold: true, Params: []string{"lengths", "rows", "n", "ld", "padded"}},
	{Unit: "svd", Name: "svdrefill", Threads: 256, Cold: true, Params: []string{"rows", "lengths", "longest", "scale", "n", "ld", "padded"}},
	{Unit: "svd", Name: "svdfactors", Threads: 256, Cold: true, Params: []string{"u", "vt", "rows", "order", "inverse", "m", "n", "ld", "turned", "bf16"}},
	{Unit: "svd", Name: "svderror", Threads: 256, Cold: true, Params: []string{"parts", "w", "u", "s", "vt", "out", "in", "r"}},
	{Unit: "heads", Name: "decide", DTypes: []DType{F32}, Threads: 512, Params: []string{"tokens", "status", "scores", "logits", "work", "asks", "count", "v"}},
	{Unit: "heads", Name: "policygradient", DTypes: []DType{F32}, Threads: 512, Params: []string{"logits", "base", "tokens", "advantages", "losses", "n", "v", "klweight", "scale"}},
}
