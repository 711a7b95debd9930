// Compiled to ptx/both.ptx by regenerate.sh; run by interp_compiled.cpp.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "both.h"

extern "C" __global__ void integers_kernel(const uint32_t* in, uint64_t* out, long long n) {
  long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
  if (i < n) out[i] = integers(in[3 * i], in[3 * i + 1], in[3 * i + 2]);
}

extern "C" __global__ void arrays_kernel(const uint32_t* in, uint64_t* out, long long n) {
  long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
  if (i < n) out[i] = arrays(in[3 * i], in[3 * i + 1], in[3 * i + 2]);
}

extern "C" __global__ void floats_kernel(const float* in, uint64_t* out, long long n) {
  long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
  if (i < n) out[i] = floats(in[3 * i], in[3 * i + 1], in[3 * i + 2]);
}

extern "C" __global__ void library_kernel(const float* in, float* out, long long n) {
  long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
  if (i >= n) return;
  float v[kMath];
  library(in[2 * i], in[2 * i + 1], v);
  for (int k = 0; k < kMath; k++) out[i * kMath + k] = v[k];
}

// A block's sum by warps: shuffles, shared memory of both kinds, early leave.
struct Shape {
  long long rows, columns;
  float scale;
};

template <class T>
__device__ float value(T v);
template <>
__device__ float value(float v) { return v; }
template <>
__device__ float value(__nv_bfloat16 v) { return __bfloat162float(v); }
template <>
__device__ float value(__half v) { return __half2float(v); }

template <class T>
__device__ void row_sums(const T* in, float* out, Shape shape) {
  extern __shared__ float dynamic[];
  __shared__ float part[32];
  long long row = blockIdx.x;
  if (row >= shape.rows) return;
  float sum = 0;
  for (long long c = threadIdx.x; c < shape.columns; c += blockDim.x) sum += value(in[row * shape.columns + c]) * shape.scale;
  dynamic[threadIdx.x] = sum;
  __syncthreads();
  sum = dynamic[threadIdx.x ^ 1] + dynamic[threadIdx.x];
  for (int o = 16; o > 1; o >>= 1) sum += __shfl_xor_sync(~0u, sum, o);
  if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = sum;
  __syncthreads();
  if (threadIdx.x == 0) {
    float all = 0;
    for (int w = 0; w < blockDim.x / 32; w++) all += part[w];
    out[row] = all;
  }
}

extern "C" __global__ void row_sums_f32(const float* in, float* out, Shape shape) { row_sums(in, out, shape); }
extern "C" __global__ void row_sums_bf16(const __nv_bfloat16* in, float* out, Shape shape) { row_sums(in, out, shape); }
extern "C" __global__ void row_sums_f16(const __half* in, float* out, Shape shape) { row_sums(in, out, shape); }

// Pairs of halves and intrinsics.
extern "C" __global__ void halves_kernel(const uint32_t* in, uint32_t* out, long long n) {
  long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
  if (i >= n) return;
  __nv_bfloat162 a = *(const __nv_bfloat162*)&in[3 * i], b = *(const __nv_bfloat162*)&in[3 * i + 1], c = *(const __nv_bfloat162*)&in[3 * i + 2];
  __nv_bfloat162 r = __hfma2(a, b, c);
  r = __hadd2(r, __hmul2(a, c));
  r = __hmax2(r, __hneg2(b));
  out[3 * i] = *(uint32_t*)&r;
  __half2 x = *(const __half2*)&in[3 * i], y = *(const __half2*)&in[3 * i + 1], z = *(const __half2*)&in[3 * i + 2];
  __half2 s = __hfma2(x, y, z);
  s = __hsub2(s, __hmul2(x, z));
  s = __hmin2(s, __habs2(y));
  out[3 * i + 1] = *(uint32_t*)&s;
  out[3 * i + 2] = __popc(in[3 * i]) + __clz(in[3 * i + 1]) * 100 + __ffs(in[3 * i + 2]) * 10000 + (__brev(in[3 * i]) & 0xff) + __byte_perm(in[3 * i], in[3 * i + 1], 0x5216) + __dp4a((int)in[3 * i], (int)in[3 * i + 1], (int)in[3 * i + 2]) +
                   __funnelshift_l(in[3 * i], in[3 * i + 1], in[3 * i + 2] & 31) + __mulhi((int)in[3 * i], (int)in[3 * i + 1]) + __sad((int)in[3 * i], (int)in[3 * i + 1], in[3 * i + 2]);
}

// A histogram in shared memory, added to the global one.
extern "C" __global__ void histogram_kernel(const uint32_t* in, uint32_t* bins, long long n) {
  __shared__ uint32_t own[64];
  for (int b = threadIdx.x; b < 64; b += blockDim.x) own[b] = 0;
  __syncthreads();
  for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < n; i += (long long)gridDim.x * blockDim.x) atomicAdd(&own[in[i] & 63], 1u);
  __syncthreads();
  for (int b = threadIdx.x; b < 64; b += blockDim.x)
    if (own[b]) atomicAdd(&bins[b], own[b]);
}
