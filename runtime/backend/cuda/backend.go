//go:build cuda

package cuda

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"gorgonia.org/cu"

	"github.com/transformersquared/operator/kernels"
	"github.com/transformersquared/operator/runtime/backend"
)

// Options say which device, and how much of it.
type Options struct {
	// Device counts from 0 among those that the driver shows.
	Device int
	// Memory bounds what is taken of the device's, in bytes; 0 means all that is free.
	Memory int64
	// Hopper says when kernels are used that only compute capability 9.0 has.
	Hopper Choice
	// CuBLAS and CuSOLVER say what those libraries compute; without them T2_CUBLAS and
	// T2_CUSOLVER do, and else they compute nothing.
	CuBLAS, CuSOLVER backend.LibraryUse
	// Log is told once if cuSOLVER is not precise enough; nil means slog.Default.
	Log *slog.Logger
}

// Backend is a backend.Backend on one GPU.
type Backend struct {
	*device
	recording *recording // nil: what is asked for is computed.
}

// device is what a backend and those that record for it have in common.
type device struct {
	owner   *owner
	info    deviceInfo
	memory  *memory
	kernels *kernelTable
	targets []string // The PTX files that were chosen.
	twins   twins
	libraries
	logger  *slog.Logger
	doubted sync.Once // Told the log.

	reserved workspaces

	launches, replays atomic.Int64 // Kernels, and graphs, that were ever queued.
}

var _ backend.Backend = (*Backend)(nil)

// Open takes a device. The error wraps backend.ErrNoDevice where there is none, or no
// driver, and backend.ErrDeviceUnsupported where it, or its driver, is too old,
// and backend.ErrLibrary where a library that is asked for cannot be used.
func Open(o Options) (*Backend, error) { return open(o, kernels.Load) }

// open is Open with the PTX of hopperUnit from elsewhere. A device that these kernels have
// spoilt is opened anew without them.
func open(o Options, load loader) (*Backend, error) {
	b, err := openOnce(o, load)
	spoilt, found := errors.AsType[*twinsError](err)
	if !found || !errors.Is(err, backend.ErrDeviceLost) {
		return b, err
	}
	o.Hopper = Never
	if !spoilt.stuck {
		if b, again := openOnce(o, load); again == nil {
			b.twins.facts = notUsed(spoilt)
			return b, nil
		}
	}
	return nil, fmt.Errorf("%w; with %s=never in the environment these kernels are not tried", err, EnvHopper)
}

func openOnce(o Options, load loader) (*Backend, error) {
	uses, err := o.readUses()
	if err != nil {
		return nil, err
	}
	if err := driver(); err != nil {
		return nil, err
	}
	n, err := cu.NumDevices()
	if err != nil {
		return nil, fmt.Errorf("open the GPU: %w", deviceError(of("cuDeviceGetCount", err)))
	}
	if o.Device < 0 || o.Device >= n {
		return nil, fmt.Errorf("open the GPU: %w %d: the driver shows %d", backend.ErrNoDevice, o.Device, n)
	}
	owner, info, err := start(o.Device)
	if err != nil {
		return nil, fmt.Errorf("open the GPU: %w", err)
	}
	b := &Backend{device: &device{owner: owner, info: info, memory: newMemory(owner, o.Memory, info.memory), libraries: uses, logger: o.Log}}
	err = owner.now(func() error {
		owner.memory = b.memory
		return b.loadKernels()
	})
	if err == nil {
		err = b.openLibraries()
	}
	if err == nil {
		err = b.chooseTwins(o.Hopper, load)
	}
	if err != nil {
		if own, found := errors.AsType[*twinsError](err); found && own.stuck {
			// Closing would wait for the kernel. The process is to end.
			return nil, fmt.Errorf("open the GPU: %w", err)
		}
		if closing := b.Close(); closing != nil {
			err = fmt.Errorf("%w (and closing it: %w)", err, closing)
		}
		return nil, fmt.Errorf("open the GPU: %w", err)
	}
	return b, nil
}

// driver says in one sentence why there is no driver to work with.
func driver() error {
	switch result, why := driverState(); result {
	case 0:
		return nil
	case resultNoLibrary:
		return fmt.Errorf("%w: no NVIDIA driver was found (%s): install it, or give the container the GPU", backend.ErrNoDevice, why)
	case resultNoDevice:
		return fmt.Errorf("%w: the NVIDIA driver shows no GPU: give the container one", backend.ErrNoDevice)
	default:
		return fmt.Errorf("start the NVIDIA driver: %w", deviceError(&resultError{call: "cuInit", result: result}))
	}
}

// Name implements backend.Device.
func (b *Backend) Name() string {
	return fmt.Sprintf("cuda (%s, compute capability %s)", b.info.name, b.info.capability)
}

// Capabilities implements backend.Device.
func (b *Backend) Capabilities() backend.Capabilities {
	return backend.Capabilities{
		Backward: true, Storage: storage, Cache: storage,
		// cuBLAS chooses how it adds by the shape of all.
		RowInvariant: b.blas == nil || b.blasUse != backend.LibraryAlways, RowInvariantBackward: b.blas == nil,
	}
}

// Memory implements backend.Device.
func (b *Backend) Memory() backend.MemoryInfo {
	b.memory.mu.Lock()
	info := backend.MemoryInfo{Used: b.memory.used, Total: b.info.memory}
	held, limit := b.memory.held, b.memory.limit
	b.memory.mu.Unlock()
	if limit > 0 {
		info.Free = limit - info.Used
		return info
	}
	err := b.owner.now(func() error {
		free, _, err := cu.MemInfo()
		info.Free = free + held
		return of("cuMemGetInfo", err)
	})
	if err != nil {
		info.Free = 0 // Unknown: whatever is wrong is told by what is computed next.
	}
	return info
}

// Describe implements backend.Describer.
func (b *Backend) Describe() []backend.Fact {
	const gigabyte = 1 << 30
	info := b.Memory()
	version := cu.Version()
	facts := []backend.Fact{
		{Name: "Device", Value: b.info.name},
		{Name: "Capability", Value: fmt.Sprintf("%s, %d multiprocessors", b.info.capability, b.info.processors)},
		{Name: "Driver", Value: fmt.Sprintf("CUDA %d.%d", version/1000, version%1000/10)},
		{Name: "Memory", Value: fmt.Sprintf("%.1f of %.1f GiB free", float64(info.Free)/gigabyte, float64(info.Total)/gigabyte)},
		{Name: "Kernels", Value: strings.Join(b.targets, ", ")},
	}
	return slices.Concat(facts, b.libraryFacts(), b.twins.facts)
}

// Sync implements backend.Device.
func (b *Backend) Sync() error {
	return b.now(func() error { return of("cuStreamSynchronize", b.owner.stream.Synchronize()) })
}

// Close implements backend.Device.
func (b *Backend) Close() error { return b.owner.close() }
