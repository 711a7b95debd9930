// Command vectoradd adds two vectors through gorgonia.org/cu, as the product uses it:
// device, context, memory, module, stream, event, launch, and what it does with errors.
package main

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"math"
	"os"
	"runtime"
	"unsafe"

	"gorgonia.org/cu"
)

//go:embed vectoradd.ptx
var ptx string

func main() {
	// The current context is a thread's own.
	runtime.LockOSThread()
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "vectoradd:", err)
		os.Exit(1)
	}
	fmt.Println("vectoradd: gorgonia.org/cu works")
}

func run() error {
	device, err := describe()
	if err != nil {
		return err
	}
	ctx, err := device.MakeContext(cu.SchedAuto)
	if err != nil {
		return fmt.Errorf("making a context: %w", err)
	}
	if err := errors.Join(add(), memory(), refuse()); err != nil {
		return err
	}
	// In the strict mode this fails if anything leaked.
	return wrap("destroying the context", ctx.Destroy())
}

func wrap(doing string, err error) error {
	if err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	return nil
}

func describe() (cu.Device, error) {
	n, err := cu.NumDevices()
	if err != nil || n < 1 {
		return 0, fmt.Errorf("%d devices: %w", n, err)
	}
	device, err := cu.GetDevice(0)
	if err != nil {
		return 0, wrap("device 0", err)
	}
	name, err := device.Name()
	if err != nil {
		return 0, wrap("the device's name", err)
	}
	attributes, err := device.Attributes(cu.ComputeCapabilityMajor, cu.ComputeCapabilityMinor, cu.WarpSize)
	if err != nil {
		return 0, wrap("the device's attributes", err)
	}
	total, err := device.TotalMem()
	if err != nil {
		return 0, wrap("the device's memory", err)
	}
	id, err := device.UUID()
	if err != nil {
		return 0, wrap("the device's UUID", err)
	}
	fmt.Printf("vectoradd: %q, capability %d.%d, warps of %d, %d bytes, %s, driver %d\n",
		name, attributes[0], attributes[1], attributes[2], total, id, cu.Version())
	return device, nil
}

// add computes c = a + b on the device, once by LaunchAndSync and once in a stream.
func add() error {
	const n = 1000
	a, b, c := make([]float32, n), make([]float32, n), make([]float32, n)
	for i := range a {
		a[i], b[i] = float32(i), float32(math.Sqrt(float64(i)))
	}
	module, err := cu.LoadData(ptx)
	if err != nil {
		return wrap("loading the module", err)
	}
	kernel, err := module.Function("vector_add")
	if err != nil {
		return wrap("finding the kernel", err)
	}
	var pointers [3]cu.DevicePtr
	for i := range pointers {
		if pointers[i], err = cu.MemAlloc(4 * n); err != nil {
			return wrap("allocating", err)
		}
	}
	for i, host := range [][]float32{a, b} {
		if err := cu.MemcpyHtoD(pointers[i], unsafe.Pointer(&host[0]), 4*n); err != nil {
			return wrap("copying to the device", err)
		}
	}
	// Launch reads 8 bytes of every parameter, so that a scalar needs a slot of 8.
	count := uint64(n)
	parameters := []unsafe.Pointer{unsafe.Pointer(&pointers[0]), unsafe.Pointer(&pointers[1]), unsafe.Pointer(&pointers[2]), unsafe.Pointer(&count)}
	if err := kernel.LaunchAndSync(4, 1, 1, 256, 1, 1, 0, cu.NoStream, parameters); err != nil {
		return wrap("launching", err)
	}
	if err := compare(pointers[2], a, b, c); err != nil {
		return err
	}
	if err := inStream(kernel, pointers[2], parameters); err != nil {
		return err
	}
	if err := compare(pointers[2], a, b, c); err != nil {
		return err
	}
	for _, p := range pointers {
		if err := cu.MemFree(p); err != nil {
			return wrap("freeing", err)
		}
	}
	return wrap("unloading", module.Unload())
}

func compare(result cu.DevicePtr, a, b, c []float32) error {
	clear(c)
	if err := cu.MemcpyDtoH(unsafe.Pointer(&c[0]), result, int64(4*len(c))); err != nil {
		return wrap("copying from the device", err)
	}
	for i := range c {
		if c[i] != a[i]+b[i] {
			return fmt.Errorf("c[%d] is %g, not %g", i, c[i], a[i]+b[i])
		}
	}
	return nil
}

func inStream(kernel cu.Function, result cu.DevicePtr, parameters []unsafe.Pointer) error {
	stream, err := cu.MakeStream(cu.NonBlocking)
	if err != nil {
		return wrap("making a stream", err)
	}
	start, err := cu.MakeEvent(cu.DefaultEvent)
	if err != nil {
		return wrap("making an event", err)
	}
	end, err := cu.MakeEvent(cu.DefaultEvent)
	if err != nil {
		return wrap("making an event", err)
	}
	steps := []func() error{
		func() error { return cu.MemsetD32Async(result, 0, 1000, stream) },
		func() error { return start.Record(stream) },
		func() error { return kernel.Launch(4, 1, 1, 256, 1, 1, 0, stream, parameters) },
		func() error { return end.Record(stream) },
		func() error { return stream.Synchronize() },
	}
	for i, step := range steps {
		if err := step(); err != nil {
			return wrap(fmt.Sprintf("step %d in the stream", i), err)
		}
	}
	if ms, err := start.Elapsed(end); err != nil || ms < 0 {
		return fmt.Errorf("elapsed %g ms: %w", ms, err)
	}
	return errors.Join(cu.DestroyEvent(&start), cu.DestroyEvent(&end), stream.Destroy())
}

func memory() error {
	before, total, err := cu.MemInfo()
	if err != nil {
		return wrap("the memory", err)
	}
	p, err := cu.MemAlloc(1 << 20)
	if err != nil {
		return wrap("allocating", err)
	}
	if after, _, err := cu.MemInfo(); err != nil || after > before-1<<20 || total < before {
		return fmt.Errorf("free memory went from %d to %d of %d: %w", before, after, total, err)
	}
	pattern := bytes.Repeat([]byte{0xa5}, 100)
	got := make([]byte, 100)
	steps := []error{
		cu.MemsetD8(p, 0xa5, 100),
		cu.MemcpyDtoD(p+100, p, 100),
		cu.MemcpyDtoH(unsafe.Pointer(&got[0]), p+100, 100),
	}
	if err := errors.Join(steps...); err != nil {
		return wrap("setting and copying", err)
	}
	if !bytes.Equal(got, pattern) {
		return errors.New("the bytes that came back differ")
	}
	return wrap("freeing", cu.MemFree(p))
}

// refuse holds that errors come back as errors.
func refuse() error {
	if _, err := cu.MemAlloc(1 << 50); err == nil {
		return errors.New("1 PiB was allocated")
	}
	if _, err := cu.LoadData("no PTX"); err == nil {
		return errors.New("a module was loaded from no PTX")
	}
	if err := cu.MemFree(42); err == nil {
		return errors.New("memory that was never allocated was freed")
	}
	return nil
}
