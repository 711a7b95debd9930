//go:build cuda

package cuda

/*
#cgo CFLAGS: -I${SRCDIR}/libcuda
#cgo LDFLAGS: -lcuda -ldl
#include <stdint.h>
#include <cuda.h>
#include "loader.h"

enum { maxArguments = 40 };

// Every parameter of our kernels takes 8 bytes.
static CUresult launch(void *function, unsigned gx, unsigned gy, unsigned gz, unsigned threads, unsigned shared, void *stream, uint64_t *arguments, int n) {
	void *parameters[maxArguments];
	for (int i = 0; i < n; i++) parameters[i] = &arguments[i];
	return cuLaunchKernel((CUfunction)function, gx, gy, gz, threads, 1, 1, shared, (CUstream)stream, parameters, NULL);
}

static CUresult allowShared(void *function, int bytes) {
	return cuFuncSetAttribute((CUfunction)function, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, bytes);
}

static CUresult beginCapture(void *stream) {
	return cuStreamBeginCapture((CUstream)stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL);
}

// endCapture makes an executable graph of what was captured. The graph itself is
// destroyed: its launches are in the executable.
static CUresult endCapture(void *stream, void **executable) {
	CUgraph graph = NULL;
	CUgraphExec exec = NULL;
	CUresult r = cuStreamEndCapture((CUstream)stream, &graph);
	if (r == CUDA_SUCCESS) r = cuGraphInstantiate(&exec, graph, 0);
	if (graph != NULL) {
		CUresult destroyed = cuGraphDestroy(graph);
		if (r == CUDA_SUCCESS) r = destroyed;
	}
	*executable = exec;
	return r;
}

// Pinned memory is the device's to read and write by itself.
static CUresult pin(void **p, size_t bytes) { return cuMemHostAlloc(p, bytes, 0); }
static CUresult unpin(void *p) { return cuMemFreeHost(p); }

static CUresult replay(void *executable, void *stream) { return cuGraphLaunch((CUgraphExec)executable, (CUstream)stream); }
static CUresult freeGraph(void *executable) { return cuGraphExecDestroy((CUgraphExec)executable); }
*/
import "C"

import (
	"fmt"
	"reflect"
	"unsafe"

	"gorgonia.org/cu"
)

// Results of the driver that somebody can do something about.
const (
	resultMemory           = int(C.CUDA_ERROR_OUT_OF_MEMORY)
	resultNoDevice         = int(C.CUDA_ERROR_NO_DEVICE)
	resultUnsupportedPTX   = int(C.CUDA_ERROR_UNSUPPORTED_PTX_VERSION)
	resultNoBinary         = int(C.CUDA_ERROR_NO_BINARY_FOR_GPU)
	resultNoLibrary        = int(C.T2_NO_LIBRARY)
	resultUnavailable      = int(C.CUDA_ERROR_DEVICE_UNAVAILABLE)
	resultECC              = int(C.CUDA_ERROR_ECC_UNCORRECTABLE)
	resultOutOfResources   = int(C.CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES)
	resultPeerEnabled      = int(C.CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED)
	resultPeerDisabled     = int(C.CUDA_ERROR_PEER_ACCESS_NOT_ENABLED)
	resultContextActive    = int(C.CUDA_ERROR_PRIMARY_CONTEXT_ACTIVE)
	resultHostRegistered   = int(C.CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED)
	resultHostUnregistered = int(C.CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED)
	resultNotReady         = int(C.CUDA_ERROR_NOT_READY)
	resultInvalidPTX       = int(C.CUDA_ERROR_INVALID_PTX)
	resultNotFound         = int(C.CUDA_ERROR_NOT_FOUND)
	resultInvalidValue     = int(C.CUDA_ERROR_INVALID_VALUE)
	resultFirstFault       = int(C.CUDA_ERROR_ILLEGAL_ADDRESS)
	resultLastFault        = int(C.CUDA_ERROR_LAUNCH_FAILED)
	resultDriverTooOld     = int(C.CUDA_ERROR_SYSTEM_DRIVER_MISMATCH)
	resultDeviceNotAllowed = int(C.CUDA_ERROR_INVALID_DEVICE)
)

// maxArguments bounds the parameters of a kernel.
const maxArguments = int(C.maxArguments)

// driverState is what the driver's initialisation came to when the program started,
// and why there is no driver.
func driverState() (result int, why string) {
	var text *C.char
	result = int(C.t2_driver_init(&text)) //nolint:gocritic // The C compiler's own check.
	return result, C.GoString(text)
}

// resultError is a result of the driver.
type resultError struct {
	call   string
	result int
}

// Error names the call and the result as the driver does.
func (e *resultError) Error() string {
	var name, text *C.char
	if C.cuGetErrorName(C.CUresult(e.result), &name) != C.CUDA_SUCCESS || C.cuGetErrorString(C.CUresult(e.result), &text) != C.CUDA_SUCCESS {
		return fmt.Sprintf("%s: error %d of the driver", e.call, e.result)
	}
	return fmt.Sprintf("%s: %s (%s)", e.call, C.GoString(text), C.GoString(name))
}

func outcome(call string, r C.CUresult) error {
	if r == C.CUDA_SUCCESS {
		return nil
	}
	return &resultError{call: call, result: int(r)}
}

// of makes an error of gorgonia.org/cu one of ours: its type, a number, is not
// exported.
func of(call string, err error) error {
	if err == nil {
		return nil
	}
	if v := reflect.ValueOf(err); v.CanInt() {
		return &resultError{call: call, result: int(v.Int())}
	}
	return fmt.Errorf("%s: %w", call, err)
}

// handle is what a struct of gorgonia.org/cu has as its only field, which it does not
// export.
func handle[T cu.Function | cu.Stream](v T) unsafe.Pointer {
	return *(*unsafe.Pointer)(unsafe.Pointer(&v))
}

// elements is where those of a slice are, for the driver to copy. Callers keep the slice.
func elements[T any](s []T) unsafe.Pointer {
	return unsafe.Pointer(unsafe.SliceData(s))
}

// launch begins a kernel. cu.Function.Launch would do the same and allocate twice.
func launch(fn, stream unsafe.Pointer, c *kernelCall) error {
	return outcome(c.kernel.name, C.launch(fn, C.uint(c.grid[0]), C.uint(c.grid[1]), C.uint(c.grid[2]), C.uint(c.kernel.threads), C.uint(c.shared), stream,
		(*C.uint64_t)(unsafe.Pointer(&c.arguments)), C.int(c.count)))
}

func allowShared(fn unsafe.Pointer, bytes int) error {
	return outcome("cuFuncSetAttribute", C.allowShared(fn, C.int(bytes)))
}

// pin allocates memory of the host.
func pin(bytes int64) (at unsafe.Pointer, err error) {
	err = outcome(pinningCall, C.pin(&at, C.size_t(bytes)))
	return at, err
}

// pinningCall is short of another memory than other calls.
const pinningCall = "cuMemHostAlloc"

func unpin(at unsafe.Pointer) error { return outcome("cuMemFreeHost", C.unpin(at)) }

func beginCapture(stream unsafe.Pointer) error {
	return outcome("cuStreamBeginCapture", C.beginCapture(stream))
}

func endCapture(stream unsafe.Pointer) (executable unsafe.Pointer, err error) {
	err = outcome("cuStreamEndCapture", C.endCapture(stream, &executable))
	return executable, err
}

func replay(executable, stream unsafe.Pointer) error {
	return outcome("cuGraphLaunch", C.replay(executable, stream))
}

func freeGraph(executable unsafe.Pointer) error {
	return outcome("cuGraphExecDestroy", C.freeGraph(executable))
}
