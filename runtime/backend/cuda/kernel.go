//go:build cuda

package cuda

import (
	"fmt"
	"math"
	"strings"
	"unsafe"

	"gorgonia.org/cu"

	"github.com/transformersquared/operator/kernels"
	"github.com/transformersquared/operator/runtime/backend"
)

// operation is what kernels compute, and variant is which of those that compute the
// same.
type (
	operation uint8
	variant   uint8
)

// The operations.
const (
	opProduct operation = iota
	opQuantise
	opGather
	opSelect
	opScatter
	opAdd
	opAddRows
	opScaleColumns
	opColumnDots
	opConvert
	opPack
	opTranspose
	opNorm
	opNormBack
	opSwiGLU
	opSwiGLUBack
	opLogSoftmax
	opRotate
	opRotateStore
	opRotateStoreNarrow
	opAttention
	opPagedAttention
	opPagedAttentionNarrow
	opAttentionBack
	opCompose
	opDecide
	opPolicyGradient
	opSVDLoad
	opSVDGram
	opSVDSolve
	opSVDRotate
	opSVDLengths
	opSVDRefill
	opSVDFactors
	opSVDError
	opArrange // From here on, those that only Hopper has: see chooseTwins.
	opTurn
	opComposeGroup
	operations
)

// The variants.
const (
	plain variant = iota
	skinny
	skinny3
	medium
	tiled
	large
	group
	wide
	split
	splitWide
	combine
	ofQueries
	ofQueriesWide
	ofKeys
	ofKeysWide
	tensor64
	tensor128
	splitTensor64
	splitTensor128
	ofQueriesTensor64
	ofQueriesTensor128
	ofKeysTensor64
	ofKeysTensor128
	variants
)

var variantNames = [variants]string{
	plain: "", skinny: "skinny", skinny3: "skinny3", medium: "medium", tiled: "tiled", large: "large", group: "group",
	wide: "wide", split: "split", splitWide: "splitwide", combine: "combine",
	ofQueries: "queries", ofQueriesWide: "querieswide", ofKeys: "keys", ofKeysWide: "keyswide",
	tensor64: "tensor64", tensor128: "tensor128", splitTensor64: "splittensor64", splitTensor128: "splittensor128",
	ofQueriesTensor64: "queriestensor64", ofQueriesTensor128: "queriestensor128", ofKeysTensor64: "keystensor64", ofKeysTensor128: "keystensor128",
}

// entryNames are the names of operations' entry points without their variant, where T
// stands for the storage of activations and W for a weight's type.
var entryNames = [operations]string{
	opProduct: "product_W_T", opQuantise: "quantise_T",
	opGather: "gather_wW_T", opSelect: "select_T", opScatter: "scatter_T", opAdd: "add_T", opAddRows: "addrows_T",
	opScaleColumns: "scalecols_T", opColumnDots: "columndots_T", opConvert: "convert_T_W" /* From T to W. */, opPack: "pack_T_W", opTranspose: "transpose_W_T",
	opNorm: "rmsnorm_T", opNormBack: "rmsnormback_T", opSwiGLU: "swiglu_T", opSwiGLUBack: "swigluback_T", opLogSoftmax: "logsoftmax_T",
	opRotate: "rope_T", opRotateStore: "ropestore_T",
	opAttention: "attention_T", opPagedAttention: "pagedattention_T", opAttentionBack: "attentionback_T",
	opRotateStoreNarrow: "ropestore_T_W", opPagedAttentionNarrow: "pagedattention_T_W", // With a cache of W.
	opCompose: "compose_W_T", // From factors of W.
	opDecide:  "decide_T", opPolicyGradient: "policygradient_T",
	opSVDLoad: "svdload", opSVDGram: "svdgram", opSVDSolve: "svdsolve", opSVDRotate: "svdrotate",
	opSVDLengths: "svdlengths", opSVDRefill: "svdrefill", opSVDFactors: "svdfactors", opSVDError: "svderror",
	opArrange: "arrange_T", opTurn: "turn_W", opComposeGroup: "composegroup_W_T",
}

// kernelName is how kernels call a type.
func kernelName(t backend.DType) string {
	switch t {
	case backend.Int8:
		return "i8"
	case backend.BF16:
		return "bf16"
	default:
		return "f32"
	}
}

// types is how many types there are.
const types = int(backend.Int8) + 1

// kernelTable has all kernels: nothing is looked up by name when one is launched.
type kernelTable [operations][variants][types][types]kernel

// newKernelTable files the entry points that were loaded, by their names. An operation of
// every device without any is an error: its name is wrong.
func newKernelTable(loaded map[string]kernel) (*kernelTable, error) {
	t := &kernelTable{}
	found := t.file(loaded)
	for o := range opArrange {
		if !found[o] {
			return nil, fmt.Errorf("there is no kernel %s", entryNames[o])
		}
	}
	return t, nil
}

// file adds entry points, and says which operations have some of them.
func (t *kernelTable) file(loaded map[string]kernel) (found [operations]bool) {
	for o := range operations {
		for v := range variants {
			for _, storage := range backend.DTypes() {
				for _, weight := range backend.DTypes() {
					name := strings.ReplaceAll(strings.ReplaceAll(entryNames[o], "T", kernelName(storage)), "W", kernelName(weight))
					if v != plain {
						name += "_" + variantNames[v]
					}
					place := &t[o][v][storage][weight]
					place.name = name
					if k, ok := loaded[name]; ok {
						k.name = name
						*place, found[o] = k, true
					}
				}
			}
		}
	}
	return found
}

// kernelFor returns the kernel of an operation, for activations stored as one type and
// weights as another. Of one without weights, or without activations, that type does not
// matter.
func (b *Backend) kernelFor(o operation, storage, weight backend.DType, v variant) *kernel {
	return &b.kernels[o][v][storage][weight]
}

// kernelOf is kernelFor one without weights that has no variants.
func (b *Backend) kernelOf(o operation, storage backend.DType) *kernel {
	return b.kernelFor(o, storage, backend.F32, plain)
}

// kernel is an entry point that is loaded; one without a function is not there.
type kernel struct {
	name     string
	threads  int
	params   int
	shared   int // The largest dynamic shared memory of a block, in bytes.
	function unsafe.Pointer
}

// loader returns the PTX of a unit for a device, as kernels.Load does.
type loader func(unit string, c kernels.Capability) (kernels.Module, error)

// loadKernels loads the PTX of all units that every device runs. It runs on the owner.
func (b *Backend) loadKernels() (err error) {
	all := map[string]kernel{}
	for _, unit := range b.info.capability.Units() {
		if unit == hopperUnit {
			continue // chooseTwins loads it.
		}
		if err := b.loadUnit(unit, kernels.Load, all); err != nil {
			return err
		}
	}
	b.kernels, err = newKernelTable(all)
	return err
}

// loadUnit loads the PTX of a unit that suits the device, and adds its entry points. It
// runs on the owner.
func (b *Backend) loadUnit(unit string, load loader, all map[string]kernel) error {
	module, err := load(unit, b.info.capability)
	if err != nil {
		return err
	}
	loaded, err := cu.LoadData(module.Text)
	if err != nil {
		return fmt.Errorf("kernels %s: %w", unit, deviceError(of("cuModuleLoadData", err)))
	}
	b.owner.modules = append(b.owner.modules, loaded)
	b.targets = append(b.targets, unit+"."+string(module.Target))
	for _, k := range kernels.All() {
		if k.Unit != unit || !k.In(module.Target) {
			continue
		}
		if len(k.Params) > maxArguments {
			return fmt.Errorf("kernels %s: %s has %d parameters, of at most %d", unit, k.Name, len(k.Params), maxArguments)
		}
		for _, entry := range k.Entries() {
			function, err := loaded.Function(entry)
			if err != nil {
				return fmt.Errorf("kernels %s: %s: %w", unit, entry, of("cuModuleGetFunction", err))
			}
			own := kernel{threads: k.Threads, params: len(k.Params), shared: k.Shared, function: handle(function)}
			if k.Shared > 48<<10 {
				if err := allowShared(own.function, k.Shared); err != nil {
					return fmt.Errorf("kernels %s: %s: %w", unit, entry, err)
				}
			}
			all[entry] = own
		}
	}
	return nil
}

// argument is what one parameter of a kernel gets: 8 bytes. Addresses are arguments as
// they are.
type argument uint64

// address is where something lies on the device; 0 is nowhere.
type address = argument

func whole(n int) argument { return argument(int64(n)) }

func double(v float64) argument { return argument(math.Float64bits(v)) }

// launch queues a kernel. It allocates nothing, but for calls that are under way at a
// time for the first time.
func (b *Backend) launch(k *kernel, grid [3]int, shared int, arguments ...argument) error {
	if k.function == nil {
		return fmt.Errorf("there is no kernel %s", k.name)
	}
	if len(arguments) != k.params {
		return fmt.Errorf("kernel %s takes %d arguments, not %d", k.name, k.params, len(arguments))
	}
	if grid[0] == 0 || grid[1] == 0 || grid[2] == 0 {
		return nil
	}
	c := calls.Get().(*kernelCall)
	c.kernel, c.grid, c.shared, c.count = k, grid, shared, copy(c.arguments[:], arguments)
	b.launches.Add(1)
	return b.send(command{call: c})
}

// blocksOf returns a grid for so many tasks, of which a block does some: no larger than
// fills the device several times over, since blocks go on with the next tasks.
func (b *Backend) blocksOf(tasks, each int) [3]int {
	const waves = 16
	blocks := (tasks + each - 1) / each
	return [3]int{min(blocks, waves*b.info.processors), 1, 1}
}

// rowGrid has a block a row, within what a grid may have.
func rowGrid(n int) [3]int { return [3]int{min(n, math.MaxInt32), 1, 1} }
