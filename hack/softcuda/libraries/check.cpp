// Compares what this project believes of cuBLAS and cuSOLVER with NVIDIA's headers: it
// compiles, or says which constant or which parameter is another. For
// tests/driver.sh header.
#include <cublas_v2.h>
#include <cusolverDn.h>

#include "calls.h"

// Alike: as many parameters, and each as large; pointers for pointers.
template <class Theirs, class Ours>
constexpr bool alike_type = sizeof(Theirs) == sizeof(Ours) && __is_class(Theirs) == __is_class(Ours);
template <class Theirs, class Ours>
struct Alike;
template <class R, class... Theirs, class S, class... Ours>
struct Alike<R (*)(Theirs...), S (*)(Ours...)> {
  static_assert(sizeof...(Theirs) == sizeof...(Ours), "another number of parameters");
  static constexpr bool value = alike_type<R, S> && (alike_type<Theirs, Ours> && ...);
};

#define SAME_CALL(name) static_assert(Alike<decltype(&::name), t2_##name>::value, #name)
#define SAME(theirs, ours) static_assert(int(theirs) == int(ours), #theirs)

SAME_CALL(cublasGetProperty);
SAME_CALL(cublasCreate_v2);
SAME_CALL(cublasDestroy_v2);
SAME_CALL(cublasSetStream_v2);
SAME_CALL(cublasSetWorkspace_v2);
SAME_CALL(cublasSetMathMode);
// cublasGemmEx is overloaded in C++.
using GemmEx = cublasStatus_t (*)(cublasHandle_t, cublasOperation_t, cublasOperation_t, int, int, int, const void *, const void *, cudaDataType,
                                  int, const void *, cudaDataType, int, const void *, void *, cudaDataType, int, cublasComputeType_t, cublasGemmAlgo_t);
static_assert(Alike<GemmEx, t2_cublasGemmEx>::value && static_cast<GemmEx>(&::cublasGemmEx) != nullptr);
SAME_CALL(cusolverGetProperty);
SAME_CALL(cusolverDnCreate);
SAME_CALL(cusolverDnDestroy);
SAME_CALL(cusolverDnSetStream);
SAME_CALL(cusolverDnCreateGesvdjInfo);
SAME_CALL(cusolverDnDestroyGesvdjInfo);
SAME_CALL(cusolverDnDgesvdj_bufferSize);
SAME_CALL(cusolverDnDgesvdj);

SAME(CUDA_R_32F, t2_r_32f);
SAME(CUDA_R_16BF, t2_r_16bf);
SAME(CUBLAS_OP_N, t2_op_n);
SAME(CUBLAS_OP_T, t2_op_t);
SAME(CUBLAS_COMPUTE_32F, t2_compute_32f);
SAME(CUBLAS_GEMM_DEFAULT, t2_gemm_default);
SAME(CUBLAS_DEFAULT_MATH, t2_default_math);
SAME(CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION, t2_no_reduced_precision);
SAME(CUSOLVER_EIG_MODE_VECTOR, t2_eig_mode_vector);
SAME(MAJOR_VERSION, t2_major_version);
SAME(MINOR_VERSION, t2_minor_version);
SAME(PATCH_LEVEL, t2_patch_level);
SAME(CUBLAS_STATUS_SUCCESS, t2_blas_success);
SAME(CUBLAS_STATUS_NOT_INITIALIZED, t2_blas_not_initialized);
SAME(CUBLAS_STATUS_ALLOC_FAILED, t2_blas_alloc_failed);
SAME(CUBLAS_STATUS_INVALID_VALUE, t2_blas_invalid_value);
SAME(CUBLAS_STATUS_ARCH_MISMATCH, t2_blas_arch_mismatch);
SAME(CUBLAS_STATUS_MAPPING_ERROR, t2_blas_mapping_error);
SAME(CUBLAS_STATUS_EXECUTION_FAILED, t2_blas_execution_failed);
SAME(CUBLAS_STATUS_INTERNAL_ERROR, t2_blas_internal_error);
SAME(CUBLAS_STATUS_NOT_SUPPORTED, t2_blas_not_supported);
SAME(CUBLAS_STATUS_LICENSE_ERROR, t2_blas_license_error);
SAME(CUSOLVER_STATUS_SUCCESS, t2_solver_success);
SAME(CUSOLVER_STATUS_NOT_INITIALIZED, t2_solver_not_initialized);
SAME(CUSOLVER_STATUS_ALLOC_FAILED, t2_solver_alloc_failed);
SAME(CUSOLVER_STATUS_INVALID_VALUE, t2_solver_invalid_value);
SAME(CUSOLVER_STATUS_ARCH_MISMATCH, t2_solver_arch_mismatch);
SAME(CUSOLVER_STATUS_MAPPING_ERROR, t2_solver_mapping_error);
SAME(CUSOLVER_STATUS_EXECUTION_FAILED, t2_solver_execution_failed);
SAME(CUSOLVER_STATUS_INTERNAL_ERROR, t2_solver_internal_error);
SAME(CUSOLVER_STATUS_MATRIX_TYPE_NOT_SUPPORTED, t2_solver_matrix_type_not_supported);
SAME(CUSOLVER_STATUS_NOT_SUPPORTED, t2_solver_not_supported);
SAME(CUSOLVER_STATUS_ZERO_PIVOT, t2_solver_zero_pivot);
SAME(CUSOLVER_STATUS_INVALID_LICENSE, t2_solver_invalid_license);
