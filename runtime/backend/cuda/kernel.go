//go:build cuda

package cuda

import (
	"fmt"
	"math"
	"unsafe"

	"gorgonia.org/cu"

	"github.com/transformersquared/operator/kernels"
)

// kernel is an entry point that is loaded.
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
func (b *Backend) loadKernels() error {
	b.kernels = map[string]*kernel{}
	for _, unit := range b.info.capability.Units() {
		if unit == hopperUnit {
			continue // chooseTwins loads it.
		}
		if err := b.loadUnit(unit, kernels.Load); err != nil {
			return err
		}
	}
	return nil
}

// loadUnit loads the PTX of a unit that suits the device. It runs on the owner.
func (b *Backend) loadUnit(unit string, load loader) error {
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
		for _, entry := range k.Entries() {
			function, err := loaded.Function(entry)
			if err != nil {
				return fmt.Errorf("kernels %s: %s: %w", unit, entry, of("cuModuleGetFunction", err))
			}
			own := &kernel{name: entry, threads: k.Threads, params: len(k.Params), shared: k.Shared, function: handle(function)}
			if k.Shared > 48<<10 {
				if err := allowShared(own.function, k.Shared); err != nil {
					return fmt.Errorf("kernels %s: %s: %w", unit, entry, err)
				}
			}
			b.kernels[entry] = own
		}
	}
	return nil
}

// launch queues a kernel. Arguments are buffers' addresses, whole numbers and float64:
// 8 bytes each, as the kernels take them.
func (b *Backend) launch(name string, grid [3]int, shared int, arguments ...any) error {
	k := b.kernels[name]
	if k == nil {
		return fmt.Errorf("there is no kernel %s", name)
	}
	if len(arguments) != k.params || k.params > maxArguments {
		return fmt.Errorf("kernel %s takes %d arguments, not %d", name, k.params, len(arguments))
	}
	if grid[0] == 0 || grid[1] == 0 || grid[2] == 0 {
		return nil
	}
	c := &kernelCall{kernel: k, grid: grid, shared: shared, count: len(arguments)}
	for i, a := range arguments {
		switch v := a.(type) {
		case address:
			c.arguments[i] = uint64(v)
		case int:
			c.arguments[i] = uint64(int64(v))
		case float64:
			c.arguments[i] = math.Float64bits(v)
		default:
			return fmt.Errorf("kernel %s: argument %d is a %T", name, i, a)
		}
	}
	b.launches.Add(1)
	return b.owner.send(command{call: c})
}

// address is where something lies on the device; 0 is nowhere.
type address uint64

// blocksOf returns a grid for so many tasks, of which a block does some: no larger than
// fills the device several times over, since blocks go on with the next tasks.
func (b *Backend) blocksOf(tasks, each int) [3]int {
	const waves = 16
	blocks := (tasks + each - 1) / each
	return [3]int{min(blocks, waves*b.info.processors), 1, 1}
}

// rowGrid has a block a row, within what a grid may have.
func rowGrid(n int) [3]int { return [3]int{min(n, math.MaxInt32), 1, 1} }
