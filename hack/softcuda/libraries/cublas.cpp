// A stand-in for cuBLAS 12, for tests: the calls that the CUDA backend makes, computed by
// a kernel of its own (gemm.cu) that it launches through the driver. So the order of the
// stream, captures, and every fault of an access are the software driver's. Arguments are
// refused as the library's documentation says; a row's bits depend on how many there are,
// as they may with the library.
#include "library.h"

#include <algorithm>

#include "../../../runtime/backend/cuda/cumath/calls.h"
#include "../include/cuda.h"

// The PTX of gemm.cu, which build.sh says where to find.
__asm__(
    ".section .rodata\n"
    "softcuda_gemm_ptx:\n"
    ".incbin \"" GEMM_PTX "\"\n"
    ".byte 0\n"
    ".previous\n");
extern "C" const char softcuda_gemm_ptx[] __attribute__((visibility("hidden")));

namespace softcuda {
namespace {

struct Handle {
  CUmodule module = nullptr;
  CUfunction gemm = nullptr;
  CUstream stream = nullptr;
  CUdeviceptr workspace = 0;
  size_t bytes = 0;
};

Known<Handle> handles;

constexpr int kVersion[] = {12, 4, 5};
constexpr size_t kAlignment = 256;

int status(CUresult result) {
  switch (result) {
    case CUDA_SUCCESS: return t2_blas_success;
    case CUDA_ERROR_OUT_OF_MEMORY: return t2_blas_alloc_failed;
    default: return t2_blas_execution_failed;
  }
}

// The library's kernels write to its workspace; here the first and the last bytes are
// written, so that one that is too small or was freed is told.
CUresult use_workspace(const Handle &h) {
  const size_t some = std::min(h.bytes, kAlignment);
  if (!some) return CUDA_SUCCESS;
  CUresult result = cuMemsetD8Async(h.workspace, 0, some, h.stream);
  if (result == CUDA_SUCCESS) result = cuMemsetD8Async(h.workspace + h.bytes - some, 0, some, h.stream);
  return result;
}

bool supported(int type, int typeC) {
  return (type == t2_r_32f && typeC == t2_r_32f) || (type == t2_r_16bf && (typeC == t2_r_32f || typeC == t2_r_16bf));
}

}  // namespace
}  // namespace softcuda

using namespace softcuda;

LIBRARY_API int cublasGetProperty(int property, int *value) {
  if (int error = injected("cublasGetProperty")) return error;
  if (property < t2_major_version || property > t2_patch_level || !value) return t2_blas_invalid_value;
  *value = kVersion[property];
  return t2_blas_success;
}

LIBRARY_API int cublasCreate_v2(void **handle) {
  if (int error = injected("cublasCreate_v2")) return error;
  if (!handle) return t2_blas_invalid_value;
  auto h = std::make_unique<Handle>();
  CUcontext context = nullptr;
  if (cuCtxGetCurrent(&context) != CUDA_SUCCESS || !context) return t2_blas_not_initialized;
  CUresult result = cuModuleLoadData(&h->module, softcuda_gemm_ptx);
  if (result == CUDA_SUCCESS) result = cuModuleGetFunction(&h->gemm, h->module, "gemm");
  if (result != CUDA_SUCCESS) return status(result);
  *handle = handles.add(std::move(h));
  return t2_blas_success;
}

LIBRARY_API int cublasDestroy_v2(void *handle) {
  const int error = injected("cublasDestroy_v2");  // It frees all the same, as the driver does.
  std::unique_ptr<Handle> h = handles.remove(handle);
  if (!h) return t2_blas_not_initialized;
  const CUresult result = cuModuleUnload(h->module);
  return error ? error : status(result);
}

LIBRARY_API int cublasSetStream_v2(void *handle, void *stream) {
  if (int error = injected("cublasSetStream_v2")) return error;
  Handle *h = handles.find(handle);
  if (!h) return t2_blas_not_initialized;
  h->stream = static_cast<CUstream>(stream);
  h->workspace = 0, h->bytes = 0;  // As the library: the next stream has the default one.
  return t2_blas_success;
}

LIBRARY_API int cublasSetWorkspace_v2(void *handle, void *workspace, size_t bytes) {
  if (int error = injected("cublasSetWorkspace_v2")) return error;
  Handle *h = handles.find(handle);
  if (!h) return t2_blas_not_initialized;
  const auto at = reinterpret_cast<CUdeviceptr>(workspace);
  if (at % kAlignment) return t2_blas_invalid_value;
  h->workspace = at, h->bytes = bytes;
  return t2_blas_success;
}

LIBRARY_API int cublasSetMathMode(void *handle, int mode) {
  if (int error = injected("cublasSetMathMode")) return error;
  if (!handles.find(handle)) return t2_blas_not_initialized;
  return (mode & ~t2_no_reduced_precision) == t2_default_math ? t2_blas_success : t2_blas_not_supported;
}

LIBRARY_API int cublasGemmEx(void *handle, int opA, int opB, int m, int n, int k, const void *alpha, const void *A, int typeA, int lda, const void *B,
                             int typeB, int ldb, const void *beta, void *C, int typeC, int ldc, int compute, int algorithm) {
  if (int error = injected("cublasGemmEx")) return error;
  Handle *h = handles.find(handle);
  if (!h) return t2_blas_not_initialized;
  if (opA < t2_op_n || opA > t2_op_t || opB < t2_op_n || opB > t2_op_t || m < 0 || n < 0 || k < 0) return t2_blas_invalid_value;
  if (lda < std::max(1, opA == t2_op_n ? m : k) || ldb < std::max(1, opB == t2_op_n ? k : n) || ldc < std::max(1, m)) return t2_blas_invalid_value;
  if (typeA != typeB || !supported(typeA, typeC) || compute != t2_compute_32f || algorithm != t2_gemm_default) return t2_blas_not_supported;
  if (!alpha || !beta) return t2_blas_invalid_value;
  if (m == 0 || n == 0) return t2_blas_success;
  if (!A || !B || !C) return t2_blas_invalid_value;
  if (CUresult result = use_workspace(*h); result != CUDA_SUCCESS) return status(result);
  constexpr unsigned kThreads = 128;
  long long sizes[] = {m, n, k, lda, ldb, ldc};
  int turnA = opA == t2_op_t, turnB = opB == t2_op_t, parts = 1 + n % 3;
  float scale[] = {*static_cast<const float *>(alpha), *static_cast<const float *>(beta)};
  void *parameters[] = {&A, &B, &C, &typeA, &typeC, &sizes[0], &sizes[1], &sizes[2], &sizes[3], &sizes[4], &sizes[5], &turnA, &turnB, &scale[0], &scale[1], &parts};
  const unsigned blocks = static_cast<unsigned>((sizes[0] * sizes[1] + kThreads - 1) / kThreads);
  return status(cuLaunchKernel(h->gemm, blocks, 1, 1, kThreads, 1, 1, 0, h->stream, parameters, nullptr));
}
