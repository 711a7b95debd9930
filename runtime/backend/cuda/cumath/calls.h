// What this project calls of cuBLAS and cuSOLVER: their functions' types and the numbers
// of their constants, as NVIDIA's documentation has them and as they have been since CUDA
// 11. So building needs none of their headers. hack/softcuda/libraries/check.cpp compares
// all of it with NVIDIA's, where those are.
#ifndef T2_CUMATH_CALLS_H
#define T2_CUMATH_CALLS_H

#include <stddef.h>

// Handles are pointers, and so are streams; statuses are ints.

enum { // cudaDataType
  t2_r_32f = 0,
  t2_r_16bf = 14,
};

enum { // cublasOperation_t
  t2_op_n = 0,
  t2_op_t = 1,
};

enum {
  t2_compute_32f = 68,            // cublasComputeType_t: float32 throughout, no TF32.
  t2_gemm_default = -1,           // cublasGemmAlgo_t
  t2_default_math = 0,            // cublasMath_t
  t2_no_reduced_precision = 16,   // cublasMath_t: no sums in less than the compute type.
  t2_eig_mode_vector = 1,         // cusolverEigMode_t
};

enum { // libraryPropertyType
  t2_major_version = 0,
  t2_minor_version = 1,
  t2_patch_level = 2,
};

enum { // cublasStatus_t
  t2_blas_success = 0,
  t2_blas_not_initialized = 1,
  t2_blas_alloc_failed = 3,
  t2_blas_invalid_value = 7,
  t2_blas_arch_mismatch = 8,
  t2_blas_mapping_error = 11,
  t2_blas_execution_failed = 13,
  t2_blas_internal_error = 14,
  t2_blas_not_supported = 15,
  t2_blas_license_error = 16,
};

enum { // cusolverStatus_t
  t2_solver_success = 0,
  t2_solver_not_initialized = 1,
  t2_solver_alloc_failed = 2,
  t2_solver_invalid_value = 3,
  t2_solver_arch_mismatch = 4,
  t2_solver_mapping_error = 5,
  t2_solver_execution_failed = 6,
  t2_solver_internal_error = 7,
  t2_solver_matrix_type_not_supported = 8,
  t2_solver_not_supported = 9,
  t2_solver_zero_pivot = 10,
  t2_solver_invalid_license = 11,
};

typedef int (*t2_cublasGetProperty)(int property, int *value);
typedef int (*t2_cublasCreate_v2)(void **handle);
typedef int (*t2_cublasDestroy_v2)(void *handle);
typedef int (*t2_cublasSetStream_v2)(void *handle, void *stream);
typedef int (*t2_cublasSetWorkspace_v2)(void *handle, void *workspace, size_t bytes);
typedef int (*t2_cublasSetMathMode)(void *handle, int mode);
typedef int (*t2_cublasGemmEx)(void *handle, int opA, int opB, int m, int n, int k, const void *alpha, const void *A, int typeA, int lda,
                               const void *B, int typeB, int ldb, const void *beta, void *C, int typeC, int ldc, int compute, int algorithm);

typedef int (*t2_cusolverGetProperty)(int property, int *value);
typedef int (*t2_cusolverDnCreate)(void **handle);
typedef int (*t2_cusolverDnDestroy)(void *handle);
typedef int (*t2_cusolverDnSetStream)(void *handle, void *stream);
typedef int (*t2_cusolverDnCreateGesvdjInfo)(void **parameters);
typedef int (*t2_cusolverDnDestroyGesvdjInfo)(void *parameters);
typedef int (*t2_cusolverDnDgesvdj_bufferSize)(void *handle, int mode, int economy, int m, int n, const double *A, int lda, const double *S,
                                               const double *U, int ldu, const double *V, int ldv, int *length, void *parameters);
typedef int (*t2_cusolverDnDgesvdj)(void *handle, int mode, int economy, int m, int n, double *A, int lda, double *S, double *U, int ldu,
                                    double *V, int ldv, double *work, int length, int *info, void *parameters);

#endif
