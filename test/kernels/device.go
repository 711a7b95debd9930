//go:build cuda

// Package kernels tests the kernels of the module's package of that name one by one:
// the PTX that ships, on whatever driver is there, against loops in float64. In
// `make test-cuda` the driver is the one in software, which also counts the bytes
// that each of them moves.
package kernels

/*
#cgo LDFLAGS: -ldl
#include <dlfcn.h>
#include <stddef.h>
#include <stdint.h>

// The driver's entries, opened when the first test asks, so that its environment can
// be set before.
static void *library;
static int failed(const char *name) { (void)name; return 500; }
#define ENTRY(name, parameters, ...) \
  static int t_##name parameters { \
    int (*entry) parameters = (int (*) parameters)dlsym(library, #name); \
    return entry == NULL ? failed(#name) : entry(__VA_ARGS__); \
  }
ENTRY(cuInit, (unsigned flags), flags)
ENTRY(cuDeviceGet, (int *device, int i), device, i)
ENTRY(cuDeviceGetAttribute, (int *value, int attribute, int device), value, attribute, device)
ENTRY(cuDevicePrimaryCtxRetain, (void **context, int device), context, device)
ENTRY(cuCtxSetCurrent, (void *context), context)
ENTRY(cuCtxSynchronize, (void), )
ENTRY(cuMemAlloc_v2, (uint64_t *address, size_t bytes), address, bytes)
ENTRY(cuMemFree_v2, (uint64_t address), address)
ENTRY(cuMemcpyHtoD_v2, (uint64_t to, const void *from, size_t bytes), to, from, bytes)
ENTRY(cuMemcpyDtoH_v2, (void *to, uint64_t from, size_t bytes), to, from, bytes)
ENTRY(cuModuleLoadData, (void **module, const void *text), module, text)
ENTRY(cuModuleGetFunction, (void **function, void *module, const char *name), function, module, name)
ENTRY(cuFuncSetAttribute, (void *function, int attribute, int value), function, attribute, value)
ENTRY(cuGetErrorString, (int result, const char **text), result, text)
ENTRY(cuLaunchKernel, (void *f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared, void *stream, void **parameters, void **extra),
      f, gx, gy, gz, bx, by, bz, shared, stream, parameters, extra)

static const char *t_open(void) {
  library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  return library == NULL ? dlerror() : NULL;
}
static int t_launch(void *f, unsigned gx, unsigned gy, unsigned gz, unsigned threads, unsigned shared, uint64_t *arguments, int n) {
  void *parameters[64];
  for (int i = 0; i < n && i < 64; i++) parameters[i] = &arguments[i];
  return t_cuLaunchKernel(f, gx, gy, gz, threads, 1, 1, shared, NULL, parameters, NULL);
}
*/
import "C"

import (
	"fmt"
	"math"
	"runtime"
	"sync"
	"unsafe"

	"github.com/transformersquared/operator/kernels"
)

// address is where something lies on the device; 0 is nowhere.
type address uint64

// device is the first one. It is used by one goroutine at a time.
type device struct {
	mu         sync.Mutex
	context    unsafe.Pointer
	capability kernels.Capability
	modules    map[string]unsafe.Pointer
	functions  map[string]unsafe.Pointer
}

func outcome(call string, result C.int) error {
	if result == 0 {
		return nil
	}
	var text *C.char
	C.t_cuGetErrorString(result, &text)
	return fmt.Errorf("%s: error %d of the driver: %s", call, int(result), C.GoString(text))
}

// openDevice finds the driver and makes a context on its first device.
func openDevice() (*device, error) {
	if why := C.t_open(); why != nil {
		return nil, fmt.Errorf("no driver: %s; make test-cuda runs this on the one in software", C.GoString(why))
	}
	d := &device{modules: map[string]unsafe.Pointer{}, functions: map[string]unsafe.Pointer{}}
	if err := outcome("cuInit", C.t_cuInit(0)); err != nil {
		return nil, err
	}
	var id C.int
	if err := outcome("cuDeviceGet", C.t_cuDeviceGet(&id, 0)); err != nil {
		return nil, err
	}
	const majorAttribute, minorAttribute = 75, 76
	var major, minor C.int
	if err := outcome("cuDeviceGetAttribute", C.t_cuDeviceGetAttribute(&major, majorAttribute, id)); err != nil {
		return nil, err
	}
	if err := outcome("cuDeviceGetAttribute", C.t_cuDeviceGetAttribute(&minor, minorAttribute, id)); err != nil {
		return nil, err
	}
	d.capability = kernels.Capability{Major: int(major), Minor: int(minor)}
	return d, outcome("cuDevicePrimaryCtxRetain", C.t_cuDevicePrimaryCtxRetain(&d.context, id))
}

// do runs calls of the driver on a thread that has the context.
func (d *device) do(calls func() error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := outcome("cuCtxSetCurrent", C.t_cuCtxSetCurrent(d.context)); err != nil {
		return err
	}
	return calls()
}

func (d *device) alloc(bytes int) (a address, err error) {
	err = d.do(func() error {
		var at C.uint64_t
		err := outcome("cuMemAlloc", C.t_cuMemAlloc_v2(&at, C.size_t(max(bytes, 1))))
		a = address(at)
		return err
	})
	return a, err
}

func (d *device) free(a address) error {
	return d.do(func() error { return outcome("cuMemFree", C.t_cuMemFree_v2(C.uint64_t(a))) })
}

func (d *device) write(to address, from unsafe.Pointer, bytes int) error {
	return d.do(func() error {
		return outcome("cuMemcpyHtoD", C.t_cuMemcpyHtoD_v2(C.uint64_t(to), from, C.size_t(bytes)))
	})
}

func (d *device) read(to unsafe.Pointer, from address, bytes int) error {
	return d.do(func() error {
		return outcome("cuMemcpyDtoH", C.t_cuMemcpyDtoH_v2(to, C.uint64_t(from), C.size_t(bytes)))
	})
}

// launch runs a kernel to its end. Arguments are addresses, whole numbers and float64.
func (d *device) launch(entry string, grid [3]int, arguments ...any) error {
	k, err := kernels.Find(entry)
	if err != nil {
		return err
	}
	if len(arguments) != len(k.Params) {
		return fmt.Errorf("%s takes %v; %d arguments given", entry, k.Params, len(arguments))
	}
	words := make([]C.uint64_t, len(arguments))
	for i, a := range arguments {
		switch v := a.(type) {
		case address:
			words[i] = C.uint64_t(v)
		case int:
			words[i] = C.uint64_t(uint64(int64(v)))
		case float64:
			words[i] = C.uint64_t(math.Float64bits(v))
		default:
			return fmt.Errorf("%s: argument %s is a %T", entry, k.Params[i], a)
		}
	}
	return d.do(func() error {
		f, err := d.function(k, entry)
		if err != nil {
			return err
		}
		err = outcome(entry, C.t_launch(f, C.uint(grid[0]), C.uint(grid[1]), C.uint(grid[2]), C.uint(k.Threads), C.uint(k.Shared), &words[0], C.int(len(words))))
		if err != nil {
			return err
		}
		return outcome(entry, C.t_cuCtxSynchronize())
	})
}

func (d *device) function(k kernels.Kernel, entry string) (unsafe.Pointer, error) {
	if f := d.functions[entry]; f != nil {
		return f, nil
	}
	module := d.modules[k.Unit]
	if module == nil {
		m, err := kernels.Load(k.Unit, d.capability)
		if err != nil {
			return nil, err
		}
		text := append([]byte(m.Text), 0)
		if err := outcome("cuModuleLoadData of "+k.Unit, C.t_cuModuleLoadData(&module, unsafe.Pointer(&text[0]))); err != nil {
			return nil, err
		}
		d.modules[k.Unit] = module
	}
	name := append([]byte(entry), 0)
	var f unsafe.Pointer
	if err := outcome("cuModuleGetFunction of "+entry, C.t_cuModuleGetFunction(&f, module, (*C.char)(unsafe.Pointer(&name[0])))); err != nil {
		return nil, err
	}
	const plenty, sharedAttribute = 48 << 10, 8
	if k.Shared > plenty {
		if err := outcome("cuFuncSetAttribute of "+entry, C.t_cuFuncSetAttribute(f, sharedAttribute, C.int(k.Shared))); err != nil {
			return nil, err
		}
	}
	d.functions[entry] = f
	return f, nil
}
