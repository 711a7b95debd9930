//go:build cuda

package cumath

/*
#include "calls.h"

static int create(void *entry, void **handle) { return ((t2_cusolverDnCreate)entry)(handle); }
static int destroy(void *entry, void *handle) { return ((t2_cusolverDnDestroy)entry)(handle); }
static int set_stream(void *entry, void *handle, void *stream) { return ((t2_cusolverDnSetStream)entry)(handle, stream); }
static int create_parameters(void *entry, void **parameters) { return ((t2_cusolverDnCreateGesvdjInfo)entry)(parameters); }
static int destroy_parameters(void *entry, void *parameters) { return ((t2_cusolverDnDestroyGesvdjInfo)entry)(parameters); }
static int length_of(void *entry, void *handle, int m, int n, size_t a, int lda, size_t s, size_t u, int ldu, size_t v, int ldv, int *length, void *parameters) {
	return ((t2_cusolverDnDgesvdj_bufferSize)entry)(handle, t2_eig_mode_vector, 1, m, n, (const double *)a, lda, (const double *)s, (const double *)u, ldu,
	                                                (const double *)v, ldv, length, parameters);
}
static int decompose(void *entry, void *handle, int m, int n, size_t a, int lda, size_t s, size_t u, int ldu, size_t v, int ldv, size_t work, int length,
                     size_t info, void *parameters) {
	return ((t2_cusolverDnDgesvdj)entry)(handle, t2_eig_mode_vector, 1, m, n, (double *)a, lda, (double *)s, (double *)u, ldu, (double *)v, ldv,
	                                     (double *)work, length, (int *)info, parameters);
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
	solverProperty          = "cusolverGetProperty"
	solverCreate            = "cusolverDnCreate"
	solverDestroy           = "cusolverDnDestroy"
	solverSetStream         = "cusolverDnSetStream"
	solverCreateParameters  = "cusolverDnCreateGesvdjInfo"
	solverDestroyParameters = "cusolverDnDestroyGesvdjInfo"
	solverLength            = "cusolverDnDgesvdj_bufferSize"
	solverDecompose         = "cusolverDnDgesvdj"
)

func solverWanted() wanted {
	return wanted{
		title:    "cuSOLVER",
		sonames:  []string{"libcusolver.so.12", "libcusolver.so.11"}, // Of CUDA 13, and of 12 and 11.
		entries:  SolverEntries(),
		property: solverProperty,
		statuses: map[int]string{
			C.t2_solver_not_initialized:           "CUSOLVER_STATUS_NOT_INITIALIZED",
			C.t2_solver_alloc_failed:              "CUSOLVER_STATUS_ALLOC_FAILED",
			C.t2_solver_invalid_value:             "CUSOLVER_STATUS_INVALID_VALUE",
			C.t2_solver_arch_mismatch:             "CUSOLVER_STATUS_ARCH_MISMATCH",
			C.t2_solver_mapping_error:             "CUSOLVER_STATUS_MAPPING_ERROR",
			C.t2_solver_execution_failed:          "CUSOLVER_STATUS_EXECUTION_FAILED",
			C.t2_solver_internal_error:            "CUSOLVER_STATUS_INTERNAL_ERROR",
			C.t2_solver_matrix_type_not_supported: "CUSOLVER_STATUS_MATRIX_TYPE_NOT_SUPPORTED",
			C.t2_solver_not_supported:             "CUSOLVER_STATUS_NOT_SUPPORTED",
			C.t2_solver_zero_pivot:                "CUSOLVER_STATUS_ZERO_PIVOT",
			C.t2_solver_invalid_license:           "CUSOLVER_STATUS_INVALID_LICENSE",
		},
	}
}

// SolverEntries lists what is called of cuSOLVER.
func SolverEntries() []string {
	return []string{solverProperty, solverCreate, solverDestroy, solverSetStream, solverCreateParameters, solverDestroyParameters, solverLength, solverDecompose}
}

// Solver is cuSOLVER. Its methods are called with the device's context current, by one
// goroutine at a time.
type Solver struct {
	*library
	handle, parameters unsafe.Pointer
}

// OpenSolver finds the library. Its error wraps ErrNotFound where there is none.
func OpenSolver() (*Solver, error) {
	l, err := open(solverWanted())
	if err != nil {
		return nil, err
	}
	return &Solver{library: l}, nil
}

// Start makes a handle that works in a stream. After an error nothing is left.
func (s *Solver) Start(stream unsafe.Pointer) error {
	if err := s.outcome(solverCreate, C.create(s.entries[solverCreate], &s.handle)); err != nil {
		s.handle = nil
		return err
	}
	err := s.outcome(solverSetStream, C.set_stream(s.entries[solverSetStream], s.handle, stream))
	if err == nil {
		// The defaults are the library's: as precise as float64 goes, values in descending order.
		if err = s.outcome(solverCreateParameters, C.create_parameters(s.entries[solverCreateParameters], &s.parameters)); err != nil {
			s.parameters = nil
		}
	}
	if err != nil {
		return errors.Join(err, s.End())
	}
	return nil
}

// End gives the handle back, if there is one.
func (s *Solver) End() error {
	var errs []error
	if s.parameters != nil {
		errs = append(errs, s.outcome(solverDestroyParameters, C.destroy_parameters(s.entries[solverDestroyParameters], s.parameters)))
	}
	if s.handle != nil {
		errs = append(errs, s.outcome(solverDestroy, C.destroy(s.entries[solverDestroy], s.handle)))
	}
	s.parameters, s.handle = nil, nil
	return errors.Join(errs...)
}

// Decomposition is that of a wide float64 matrix A [M, N] = Left·diag(Values)·Right, M ≤ N,
// in descending order of Values [M]. Right [M, N] has the right vectors as rows, and Left
// [M, M] the left ones as rows, too. Rows begin so many elements apart. A is overwritten.
type Decomposition struct {
	M, N                  int
	A                     uint64
	Pitch                 int
	Right                 uint64
	RightPitch            int
	Left                  uint64
	LeftPitch             int
	Values, Work, Outcome uint64 // Outcome is an int32; see Converged.
	Length                int    // Of Work, in elements.
}

// fits refuses what the library cannot count.
func (d *Decomposition) fits() error {
	for _, size := range []int{d.M, d.N, d.Pitch, d.RightPitch, d.LeftPitch} {
		if size < 1 || size > math.MaxInt32 {
			return fmt.Errorf("decomposition of [%d, %d] by cuSOLVER: it counts from 1 to %d", d.M, d.N, math.MaxInt32)
		}
	}
	return nil
}

// WorkLength is what Length must be, for a decomposition whose Work and Outcome are not
// there yet.
func (s *Solver) WorkLength(d Decomposition) (int, error) {
	if err := d.fits(); err != nil {
		return 0, err
	}
	var length C.int
	// By columns, as the library has it, all is transposed: A is tall, and Right comes first.
	err := s.outcome(solverLength, C.length_of(s.entries[solverLength], s.handle, C.int(d.N), C.int(d.M), C.size_t(d.A), C.int(d.Pitch), C.size_t(d.Values),
		C.size_t(d.Right), C.int(d.RightPitch), C.size_t(d.Left), C.int(d.LeftPitch), &length, s.parameters))
	return int(length), err
}

// Decompose computes d. What Outcome holds then is for Converged.
func (s *Solver) Decompose(d Decomposition) error {
	if err := d.fits(); err != nil {
		return err
	}
	return s.outcome(solverDecompose, C.decompose(s.entries[solverDecompose], s.handle, C.int(d.N), C.int(d.M), C.size_t(d.A), C.int(d.Pitch),
		C.size_t(d.Values), C.size_t(d.Right), C.int(d.RightPitch), C.size_t(d.Left), C.int(d.LeftPitch), C.size_t(d.Work), C.int(d.Length),
		C.size_t(d.Outcome), s.parameters))
}

// Converged reads an Outcome: 0 says that the decomposition is there, and one more than its
// values that it needs more sweeps than the library makes.
func (s *Solver) Converged(d Decomposition, outcome int32) (bool, error) {
	switch {
	case outcome == 0:
		return true, nil
	case int(outcome) == d.M+1:
		return false, nil
	default:
		return false, fmt.Errorf("%s of %s: info is %d", solverDecompose, s, outcome)
	}
}
