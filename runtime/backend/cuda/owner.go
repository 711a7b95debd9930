//go:build cuda

package cuda

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"unsafe"

	"gorgonia.org/cu"

	"github.com/transformersquared/operator/kernels"
	"github.com/transformersquared/operator/runtime/backend"
)

var errClosed = errors.New("the cuda backend is closed")

// queued is how many operations may wait for the owner.
const queued = 1024

// owner is the goroutine that calls the driver.
type owner struct {
	commands chan command
	ended    chan struct{}

	mu     sync.RWMutex // Held for reading while something is sent.
	closed bool

	// The rest belongs to the goroutine.
	device  cu.Device
	context cu.CUContext
	stream  cu.Stream
	modules []cu.Module
	queue   unsafe.Pointer // The stream's handle.
	failed  error          // Of an operation that nobody waited for.
	memory  *memory        // Given back before the context is.
	staging staging
	endings []func() error // What has to end before memory is given back.
}

// command is one operation: a kernel, a graph, or any calls of the driver.
type command struct {
	call  *kernelCall
	graph unsafe.Pointer
	run   func() error
	done  chan<- error // nil: nobody waits.
}

// kernelCall is a kernel with what it is launched with.
type kernelCall struct {
	kernel    *kernel
	grid      [3]int
	shared    int
	arguments [maxArguments]argument
	count     int
}

// calls are kernelCalls that are not under way.
var calls = sync.Pool{New: func() any { return new(kernelCall) }}

// start makes a context on a device and the goroutine that owns it. It returns what the
// device is.
func start(ordinal int) (*owner, deviceInfo, error) {
	o := &owner{commands: make(chan command, queued), ended: make(chan struct{}), staging: newStaging()}
	opened := make(chan error, 1)
	var info deviceInfo
	go func() {
		defer close(o.ended)
		// The context is current on this thread alone. The thread ends with the goroutine.
		runtime.LockOSThread()
		var err error
		if info, err = o.open(ordinal); err != nil {
			opened <- errors.Join(err, o.release())
			return
		}
		opened <- nil
		o.serve()
	}()
	err := <-opened
	return o, info, err
}

func (o *owner) open(ordinal int) (info deviceInfo, err error) {
	if o.device, err = cu.GetDevice(ordinal); err != nil {
		return info, of("cuDeviceGet", err)
	}
	if info, err = describe(o.device); err != nil {
		return info, err
	}
	if len(info.capability.Targets()) == 0 {
		return info, fmt.Errorf("%w: %s has the compute capability %s, and the kernels need 8.0 (Ampere) or newer",
			backend.ErrDeviceUnsupported, info.name, info.capability)
	}
	if o.context, err = o.device.MakeContext(cu.SchedBlockingSync); err != nil {
		return info, deviceError(of("cuCtxCreate", err))
	}
	if o.stream, err = cu.MakeStream(cu.NonBlocking); err != nil {
		return info, of("cuStreamCreate", err)
	}
	o.queue = handle(o.stream)
	return info, nil
}

// serve runs commands until there are no more.
func (o *owner) serve() {
	for c := range o.commands {
		err := o.do(c)
		if c.done == nil {
			if o.failed == nil {
				o.failed = err
			}
			continue
		}
		c.done <- err
	}
	o.failed = errors.Join(o.failed, o.release())
}

// do runs one command. After one that failed nothing is computed until somebody who
// waits has been told.
func (o *owner) do(c command) error {
	if o.failed != nil {
		if c.done == nil {
			return nil
		}
		err := o.failed
		o.failed = nil
		return err
	}
	return o.run(c)
}

func (o *owner) run(c command) error {
	switch {
	case c.call != nil:
		defer calls.Put(c.call)
		return launch(c.call.kernel.function, o.queue, c.call)
	case c.graph != nil:
		return replay(c.graph, o.queue)
	default:
		return c.run()
	}
}

// release gives the device back, and returns the first of what went wrong: of a device
// that is lost all calls fail alike.
func (o *owner) release() error {
	var errs []error
	if o.queue != nil {
		errs = append(errs, of("cuStreamSynchronize", o.stream.Synchronize()))
	}
	for _, end := range o.endings {
		errs = append(errs, end())
	}
	if o.memory != nil {
		errs = append(errs, o.memory.releaseAll())
	}
	errs = append(errs, o.staging.release())
	for _, m := range o.modules {
		errs = append(errs, of("cuModuleUnload", m.Unload()))
	}
	if o.queue != nil {
		errs = append(errs, of("cuStreamDestroy", o.stream.Destroy()))
	}
	if o.context != (cu.CUContext{}) {
		errs = append(errs, of("cuCtxDestroy", o.context.Destroy()))
	}
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// send queues a command.
func (o *owner) send(c command) error {
	o.mu.RLock()
	defer o.mu.RUnlock()
	if o.closed {
		return errClosed
	}
	o.commands <- c
	return nil
}

// later queues calls of the driver that nobody waits for.
func (o *owner) later(run func() error) error { return o.send(command{run: run}) }

// now runs calls of the driver behind all that was queued, and waits for them.
func (o *owner) now(run func() error) error {
	done := make(chan error, 1)
	if err := o.send(command{run: run, done: done}); err != nil {
		return err
	}
	return deviceError(<-done)
}

// close ends the goroutine and returns what went wrong that nobody was told.
func (o *owner) close() error {
	o.mu.Lock()
	already := o.closed
	o.closed = true
	o.mu.Unlock()
	if already {
		return nil
	}
	close(o.commands)
	<-o.ended
	return o.failed
}

// deviceError says of a result what kind it is, where somebody can do something.
func deviceError(err error) error {
	var r *resultError
	if !errors.As(err, &r) {
		return libraryError(err)
	}
	switch r.result {
	case resultMemory:
		if r.call == pinningCall {
			return fmt.Errorf("too little memory of the host that may be pinned: %w", err)
		}
		return fmt.Errorf("%w: %w", backend.ErrDeviceMemory, err)
	case resultNoDevice, resultDeviceNotAllowed:
		return fmt.Errorf("%w: %w", backend.ErrNoDevice, err)
	case resultUnsupportedPTX, resultNoBinary, resultDriverTooOld:
		return fmt.Errorf("%w: %w", backend.ErrDeviceUnsupported, err)
	case resultUnavailable, resultECC:
		return fmt.Errorf("%w: %w", backend.ErrDeviceLost, err)
	}
	if poisons(r.result) {
		return fmt.Errorf("%w: %w", backend.ErrDeviceLost, err)
	}
	return err
}

// poisons reports whether after a result every call on the context fails: those of
// kernels that went wrong, but for launches that were refused (CUDA driver API,
// CUresult).
func poisons(result int) bool {
	if result < resultFirstFault || result > resultLastFault {
		return false
	}
	switch result {
	case resultOutOfResources, resultPeerEnabled, resultPeerDisabled, resultContextActive, resultHostRegistered, resultHostUnregistered:
		return false
	}
	return true
}

// deviceInfo is what a device is.
type deviceInfo struct {
	name       string
	capability kernels.Capability
	processors int
	memory     int64
}

func describe(d cu.Device) (info deviceInfo, err error) {
	if info.name, err = d.Name(); err != nil {
		return info, of("cuDeviceGetName", err)
	}
	if info.memory, err = d.TotalMem(); err != nil {
		return info, of("cuDeviceTotalMem", err)
	}
	for _, a := range []struct {
		of    cu.DeviceAttribute
		value *int
	}{
		{cu.ComputeCapabilityMajor, &info.capability.Major}, {cu.ComputeCapabilityMinor, &info.capability.Minor},
		{cu.MultiprocessorCount, &info.processors},
	} {
		if *a.value, err = d.Attribute(a.of); err != nil {
			return info, of("cuDeviceGetAttribute", err)
		}
	}
	return info, nil
}
