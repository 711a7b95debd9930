// A stand-in for cuSOLVER 11 (of CUDA 12), for tests: the calls that the CUDA backend
// makes. The decomposition is computed by the host, one-sided Jacobi by columns, of what
// it copies from the device in the stream's order, as the library's own waits for the
// device too. Vectors of values that are 0 are left as they are: no basis is completed.
#include "library.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "../../../runtime/backend/cuda/cumath/calls.h"
#include "../include/cuda.h"

namespace softcuda {
namespace {

struct Handle {
  CUstream stream = nullptr;
};
struct Parameters {};

Known<Handle> handles;
Known<Parameters> known_parameters;

constexpr int kVersion[] = {11, 6, 1};

// A matrix by columns.
struct Columns {
  size_t rows, count;
  std::vector<double> values;
  Columns(size_t rows, size_t count) : rows(rows), count(count), values(rows * count) {}
  double *column(size_t i) { return values.data() + i * rows; }
};

double dot(const double *a, const double *b, size_t n) { return std::inner_product(a, a + n, b, 0.0); }

void rotate(double *a, double *b, size_t n, double c, double s) {
  for (size_t i = 0; i < n; i++) {
    const double x = a[i], y = b[i];
    a[i] = c * x - s * y;
    b[i] = s * x + c * y;
  }
}

// Turns the columns of a, and those of v alike, until they are orthogonal. It gives
// whether they became so.
bool orthogonalise(Columns &a, Columns &v, int sweeps) {
  for (int sweep = 0; sweep < sweeps; sweep++) {
    bool turned = false;
    for (size_t i = 0; i < a.count; i++) {
      for (size_t j = i + 1; j < a.count; j++) {
        double *x = a.column(i), *y = a.column(j);
        const double xx = dot(x, x, a.rows), yy = dot(y, y, a.rows), xy = dot(x, y, a.rows);
        if (std::abs(xy) <= 1e-15 * std::sqrt(xx) * std::sqrt(yy)) continue;
        turned = true;
        const double zeta = (yy - xx) / (2 * xy);
        const double t = std::copysign(1.0, zeta) / (std::abs(zeta) + std::hypot(1.0, zeta));
        const double c = 1 / std::hypot(1.0, t), s = c * t;
        rotate(x, y, a.rows, c, s);
        rotate(v.column(i), v.column(j), v.rows, c, s);
      }
    }
    if (!turned) return true;
  }
  return false;
}

CUresult copy(const Handle &h, bool up, CUdeviceptr device, size_t pitch, Columns &host) {
  CUDA_MEMCPY2D c = {};
  c.WidthInBytes = host.rows * sizeof(double);
  c.Height = host.count;
  if (up) {
    c.srcMemoryType = CU_MEMORYTYPE_HOST, c.srcHost = host.values.data(), c.srcPitch = c.WidthInBytes;
    c.dstMemoryType = CU_MEMORYTYPE_DEVICE, c.dstDevice = device, c.dstPitch = pitch * sizeof(double);
  } else {
    c.srcMemoryType = CU_MEMORYTYPE_DEVICE, c.srcDevice = device, c.srcPitch = pitch * sizeof(double);
    c.dstMemoryType = CU_MEMORYTYPE_HOST, c.dstHost = host.values.data(), c.dstPitch = c.WidthInBytes;
  }
  return cuMemcpy2DAsync(&c, h.stream);
}

int status(CUresult result) { return result == CUDA_SUCCESS ? t2_solver_success : t2_solver_execution_failed; }

// What is asked of gesvdj's arguments by both of its calls.
int refused(Handle *h, int mode, int economy, int m, int n, int lda, int ldu, int ldv, Parameters *parameters) {
  if (!h) return t2_solver_not_initialized;
  if (mode != t2_eig_mode_vector || economy != 1 || !parameters) return t2_solver_invalid_value;
  if (m < 1 || n < 1 || n > m || lda < m || ldu < m || ldv < n) return t2_solver_invalid_value;
  return t2_solver_success;
}

int work_length(int m, int n) { return m * n + n * n + 64; }

}  // namespace
}  // namespace softcuda

using namespace softcuda;

LIBRARY_API int cusolverGetProperty(int property, int *value) {
  if (int error = injected("cusolverGetProperty")) return error;
  if (property < t2_major_version || property > t2_patch_level || !value) return t2_solver_invalid_value;
  *value = kVersion[property];
  return t2_solver_success;
}

LIBRARY_API int cusolverDnCreate(void **handle) {
  if (int error = injected("cusolverDnCreate")) return error;
  CUcontext context = nullptr;
  if (!handle) return t2_solver_invalid_value;
  if (cuCtxGetCurrent(&context) != CUDA_SUCCESS || !context) return t2_solver_not_initialized;
  *handle = handles.add(std::make_unique<Handle>());
  return t2_solver_success;
}

LIBRARY_API int cusolverDnDestroy(void *handle) {
  const int error = injected("cusolverDnDestroy");
  if (!handles.remove(handle)) return t2_solver_not_initialized;
  return error;
}

LIBRARY_API int cusolverDnSetStream(void *handle, void *stream) {
  if (int error = injected("cusolverDnSetStream")) return error;
  Handle *h = handles.find(handle);
  if (!h) return t2_solver_not_initialized;
  h->stream = static_cast<CUstream>(stream);
  return t2_solver_success;
}

LIBRARY_API int cusolverDnCreateGesvdjInfo(void **parameters) {
  if (int error = injected("cusolverDnCreateGesvdjInfo")) return error;
  if (!parameters) return t2_solver_invalid_value;
  *parameters = known_parameters.add(std::make_unique<Parameters>());
  return t2_solver_success;
}

LIBRARY_API int cusolverDnDestroyGesvdjInfo(void *parameters) {
  const int error = injected("cusolverDnDestroyGesvdjInfo");
  if (!known_parameters.remove(parameters)) return t2_solver_invalid_value;
  return error;
}

LIBRARY_API int cusolverDnDgesvdj_bufferSize(void *handle, int mode, int economy, int m, int n, const double *, int lda, const double *,
                                             const double *, int ldu, const double *, int ldv, int *length, void *parameters) {
  if (int error = injected("cusolverDnDgesvdj_bufferSize")) return error;
  if (int error = refused(handles.find(handle), mode, economy, m, n, lda, ldu, ldv, known_parameters.find(parameters))) return error;
  if (!length) return t2_solver_invalid_value;
  *length = work_length(m, n);
  return t2_solver_success;
}

// SOFTCUDA_GESVDJ says what becomes of a decomposition: "wrong" turns the vectors of its
// largest value, "values" doubles that value, "unconverged" says that it did not converge.
LIBRARY_API int cusolverDnDgesvdj(void *handle, int mode, int economy, int m, int n, double *A, int lda, double *S, double *U, int ldu, double *V,
                                  int ldv, double *work, int length, int *info, void *parameters) {
  if (int error = injected("cusolverDnDgesvdj")) return error;
  Handle *h = handles.find(handle);
  if (int error = refused(h, mode, economy, m, n, lda, ldu, ldv, known_parameters.find(parameters))) return error;
  if (!A || !S || !U || !V || !work || !info || length < work_length(m, n)) return t2_solver_invalid_value;
  Columns a(m, n), u(m, n), v(n, n), right(n, n), s(n, 1);
  const auto at = [](const void *p) { return reinterpret_cast<CUdeviceptr>(p); };
  CUresult result = copy(*h, false, at(A), lda, a);
  if (result == CUDA_SUCCESS) result = cuStreamSynchronize(h->stream);
  if (result != CUDA_SUCCESS) return status(result);
  for (int i = 0; i < n; i++) v.column(i)[i] = 1;
  const char *knob = std::getenv("SOFTCUDA_GESVDJ");
  const std::string wish = knob ? knob : "";
  bool converged = orthogonalise(a, v, 60) && wish != "unconverged";
  std::vector<double> lengths(n);
  std::vector<int> order(n);
  for (int i = 0; i < n; i++) lengths[i] = std::sqrt(dot(a.column(i), a.column(i), m)), order[i] = i;
  std::stable_sort(order.begin(), order.end(), [&](int i, int j) { return lengths[i] > lengths[j]; });
  for (int i = 0; i < n; i++) {
    const double length = s.values[i] = lengths[order[i]];
    std::transform(a.column(order[i]), a.column(order[i]) + m, u.column(i), [&](double x) { return length > 0 ? x / length : x; });
    std::copy_n(v.column(order[i]), n, right.column(i));
  }
  if (wish == "wrong" && n > 1) rotate(u.column(0), u.column(1), m, 0.8, 0.6), rotate(right.column(0), right.column(1), n, 0.6, 0.8);
  if (wish == "values") s.values[0] *= 2;
  const int outcome = converged ? 0 : n + 1;
  result = cuMemsetD8Async(at(work), 0xff, size_t(length) * sizeof(double), h->stream);
  if (result == CUDA_SUCCESS) result = copy(*h, true, at(U), ldu, u);
  if (result == CUDA_SUCCESS) result = copy(*h, true, at(V), ldv, right);
  if (result == CUDA_SUCCESS) result = copy(*h, true, at(S), n, s);
  if (result == CUDA_SUCCESS) result = cuMemcpyHtoDAsync(at(info), &outcome, sizeof outcome, h->stream);
  if (result == CUDA_SUCCESS) result = cuMemsetD8Async(at(A), 0xff, size_t(lda) * (n - 1) * sizeof(double) + size_t(m) * sizeof(double), h->stream);
  if (result == CUDA_SUCCESS) result = cuStreamSynchronize(h->stream);
  return status(result);
}
