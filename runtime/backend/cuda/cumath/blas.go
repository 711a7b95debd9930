//go:build cuda

package cumath

/*
#include "calls.h"

static int create(void *entry, void **handle) { return ((t2_cublasCreate_v2)entry)(handle); }
static int destroy(void *entry, void *handle) { return ((t2_cublasDestroy_v2)entry)(handle); }
static int set_stream(void *entry, void *handle, void *stream) { return ((t2_cublasSetStream_v2)entry)(handle, stream); }
static int set_workspace(void *entry, void *handle, size_t at, size_t bytes) {
	return ((t2_cublasSetWorkspace_v2)entry)(handle, (void *)at, bytes);
}
static int set_math_mode(void *entry, void *handle, int mode) { return ((t2_cublasSetMathMode)entry)(handle, mode); }
static int gemm(void *entry, void *handle, int opA, int m, int n, int k, size_t a, int type, int lda, size_t b, int ldb, float beta, size_t c, int typeC, int ldc) {
	const float alpha = 1;
	return ((t2_cublasGemmEx)entry)(handle, opA, t2_op_n, m, n, k, &alpha, (const void *)a, type, lda, (const void *)b, type, ldb, &beta,
	                                (void *)c, typeC, ldc, t2_compute_32f, t2_gemm_default);
}
*/
import "C"

import (
	"errors"
	"fmt"
	"math"
	"unsafe"
)

const (
	blasProperty     = "cublasGetProperty"
	blasCreate       = "cublasCreate_v2"
	blasDestroy      = "cublasDestroy_v2"
	blasSetStream    = "cublasSetStream_v2"
	blasSetWorkspace = "cublasSetWorkspace_v2"
	blasSetMathMode  = "cublasSetMathMode"
	blasGemm         = "cublasGemmEx"
)

func blasWanted() wanted {
	return wanted{
		title:    "cuBLAS",
		sonames:  []string{"libcublas.so.13", "libcublas.so.12", "libcublas.so.11"},
		entries:  BLASEntries(),
		property: blasProperty,
		statuses: map[int]string{
			C.t2_blas_not_initialized:  "CUBLAS_STATUS_NOT_INITIALIZED",
			C.t2_blas_alloc_failed:     "CUBLAS_STATUS_ALLOC_FAILED",
			C.t2_blas_invalid_value:    "CUBLAS_STATUS_INVALID_VALUE",
			C.t2_blas_arch_mismatch:    "CUBLAS_STATUS_ARCH_MISMATCH",
			C.t2_blas_mapping_error:    "CUBLAS_STATUS_MAPPING_ERROR",
			C.t2_blas_execution_failed: "CUBLAS_STATUS_EXECUTION_FAILED",
			C.t2_blas_internal_error:   "CUBLAS_STATUS_INTERNAL_ERROR",
			C.t2_blas_not_supported:    "CUBLAS_STATUS_NOT_SUPPORTED",
			C.t2_blas_license_error:    "CUBLAS_STATUS_LICENSE_ERROR",
		},
	}
}

// BLASEntries lists what is called of cuBLAS.
func BLASEntries() []string {
	return []string{blasProperty, blasCreate, blasDestroy, blasSetStream, blasSetWorkspace, blasSetMathMode, blasGemm}
}

// BLAS is cuBLAS. Start, Multiply and End are called with the device's context current,
// by one goroutine at a time.
type BLAS struct {
	*library
	handle unsafe.Pointer
}

// OpenBLAS finds the library. Its error wraps ErrNotFound where there is none.
func OpenBLAS() (*BLAS, error) {
	l, err := open(blasWanted())
	if err != nil {
		return nil, err
	}
	return &BLAS{library: l}, nil
}

// Start makes a handle that works in a stream with this much of the device's memory, at
// an address that is a multiple of 256: so captured products need none of their own, and
// the same product gives the same bits each time. After an error nothing is left.
func (b *BLAS) Start(stream unsafe.Pointer, workspace uint64, bytes int64) error {
	if err := b.outcome(blasCreate, C.create(b.entries[blasCreate], &b.handle)); err != nil {
		b.handle = nil
		return err
	}
	err := b.outcome(blasSetStream, C.set_stream(b.entries[blasSetStream], b.handle, stream))
	if err == nil {
		// Behind the stream: setting that gives the handle its default workspace.
		err = b.outcome(blasSetWorkspace, C.set_workspace(b.entries[blasSetWorkspace], b.handle, C.size_t(workspace), C.size_t(bytes)))
	}
	if err == nil {
		err = b.outcome(blasSetMathMode, C.set_math_mode(b.entries[blasSetMathMode], b.handle, C.t2_default_math|C.t2_no_reduced_precision))
	}
	if err != nil {
		return errors.Join(err, b.End())
	}
	return nil
}

// End gives the handle back, if there is one.
func (b *BLAS) End() error {
	if b.handle == nil {
		return nil
	}
	handle := b.handle
	b.handle = nil
	return b.outcome(blasDestroy, C.destroy(b.entries[blasDestroy], handle))
}

// Type is how a matrix's elements are stored.
type Type int

// Types of elements.
const (
	Float32  = Type(C.t2_r_32f)
	BFloat16 = Type(C.t2_r_16bf)
)

// Matrix is a row-major one on the device, whose rows begin Pitch elements apart.
type Matrix struct {
	At    uint64
	Pitch int
	Type  Type
}

// Product is Y [N, M] = X [N, K]·Wᵀ for W [M, K], or with Plain X·W for W [K, M]; with Add
// that added to Y. X and W are of one type, and Y is of it or float32. Sums are made in
// float32, without TF32.
type Product struct {
	N, M, K    int
	Y, X, W    Matrix
	Plain, Add bool
}

// Multiply queues a product.
func (b *BLAS) Multiply(p Product) error {
	for _, size := range []int{p.N, p.M, p.K, p.Y.Pitch, p.X.Pitch, p.W.Pitch} {
		if size < 0 || size > math.MaxInt32 {
			return fmt.Errorf("product of [%d, %d] and [%d, %d] by cuBLAS: it counts up to %d", p.N, p.K, p.M, p.K, math.MaxInt32)
		}
	}
	// By columns, as the library has it, all is transposed: Yᵀ = op(W)·Xᵀ.
	op, beta := C.int(C.t2_op_t), C.float(0)
	if p.Plain {
		op = C.t2_op_n
	}
	if p.Add {
		beta = 1
	}
	return b.outcome(blasGemm, C.gemm(b.entries[blasGemm], b.handle, op, C.int(p.M), C.int(p.N), C.int(p.K),
		C.size_t(p.W.At), C.int(p.W.Type), C.int(p.W.Pitch), C.size_t(p.X.At), C.int(p.X.Pitch), beta, C.size_t(p.Y.At), C.int(p.Y.Type), C.int(p.Y.Pitch)))
}
