// What all kernels share: storage types, vectorised access, reductions in a fixed
// order, and the names of entry points. It includes nothing, so that PTX depends on
// these files and on nvcc alone.
//
// Arithmetic is in float32 unless a kernel says otherwise. Every reduction has an
// order that depends on the length of a row only: never on the number of rows, the
// grid, or where a row lies in memory. Hence access is vectorised where addresses
// permit, but which thread has which element does not change with that.
#pragma once

typedef long long i64;
typedef unsigned long long u64;
typedef unsigned int u32;

constexpr int kWarp = 32;
constexpr u32 kAll = 0xffffffffu;
constexpr float kInfinity = __builtin_huge_valf();

// bf16 is the upper half of a float32.
struct bf16 {
  unsigned short bits;
};

__device__ __forceinline__ float widen(float v) { return v; }
__device__ __forceinline__ float widen(bf16 v) { return __uint_as_float(u32(v.bits) << 16); }

// narrow rounds to nearest, ties to even.
template <class T> __device__ __forceinline__ T narrow(float v);
template <> __device__ __forceinline__ float narrow<float>(float v) { return v; }
template <> __device__ __forceinline__ bf16 narrow<bf16>(float v) {
  bf16 r;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(r.bits) : "f"(v));
  return r;
}

// pair rounds two numbers to bf16, the first in the low half.
__device__ __forceinline__ u32 pair(float low, float high) {
  u32 r;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
  return r;
}
__device__ __forceinline__ float lowHalf(u32 pair) { return __uint_as_float(pair << 16); }
__device__ __forceinline__ float highHalf(u32 pair) { return __uint_as_float(pair & 0xffff0000u); }

__device__ __forceinline__ bool aligned(const void *p, int bytes) { return ((u64)p & (bytes - 1)) == 0; }

// load reads the first `left` of N elements at p; the others are zero. N is 4, so that
// a warp's accesses lie behind each other, or 8, where a thread needs them.
template <int N> __device__ __forceinline__ void load(float (&v)[N], const float *p, i64 left) {
  if (left >= N && aligned(p, 16)) {
#pragma unroll
    for (int i = 0; i < N; i += 4) {
      const float4 a = reinterpret_cast<const float4 *>(p)[i / 4];
      v[i] = a.x, v[i + 1] = a.y, v[i + 2] = a.z, v[i + 3] = a.w;
    }
    return;
  }
#pragma unroll
  for (int i = 0; i < N; i++) v[i] = i < left ? p[i] : 0;
}
template <int N> __device__ __forceinline__ void load(float (&v)[N], const bf16 *p, i64 left) {
  if (left >= N && aligned(p, 2 * N)) {
    if constexpr (N == 8) {
      const uint4 a = *reinterpret_cast<const uint4 *>(p);
      v[0] = lowHalf(a.x), v[1] = highHalf(a.x), v[2] = lowHalf(a.y), v[3] = highHalf(a.y);
      v[4] = lowHalf(a.z), v[5] = highHalf(a.z), v[6] = lowHalf(a.w), v[7] = highHalf(a.w);
    } else {
      const uint2 a = *reinterpret_cast<const uint2 *>(p);
      v[0] = lowHalf(a.x), v[1] = highHalf(a.x), v[2] = lowHalf(a.y), v[3] = highHalf(a.y);
    }
    return;
  }
#pragma unroll
  for (int i = 0; i < N; i++) v[i] = i < left ? widen(p[i]) : 0;
}

// put16 and put8 write so many aligned bytes at once. They say so themselves: nvcc takes
// the store of a vector apart and does not always find it again.
__device__ __forceinline__ void put16(void *p, float a, float b, float c, float d) {
  asm volatile("st.global.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(p)), "f"(a), "f"(b), "f"(c), "f"(d) : "memory");
}
__device__ __forceinline__ void put8(void *p, u32 a, u32 b) {
  asm volatile("st.global.v2.u32 [%0], {%1, %2};" ::"l"(__cvta_generic_to_global(p)), "r"(a), "r"(b) : "memory");
}

// store writes the first `left` of four.
__device__ __forceinline__ void store(float *p, const float (&v)[4], i64 left) {
  if (left >= 4 && aligned(p, 16)) {
    put16(p, v[0], v[1], v[2], v[3]);
    return;
  }
#pragma unroll
  for (int i = 0; i < 4; i++)
    if (i < left) p[i] = v[i];
}
__device__ __forceinline__ void store(bf16 *p, const float (&v)[4], i64 left) {
  if (left >= 4 && aligned(p, 8)) {
    put8(p, pair(v[0], v[1]), pair(v[2], v[3]));
    return;
  }
#pragma unroll
  for (int i = 0; i < 4; i++)
    if (i < left) p[i] = narrow<bf16>(v[i]);
}

// read8 and write8 access eight in shared memory, which are all there and aligned.
__device__ __forceinline__ void read8(float (&v)[8], const float *p) {
  const float4 a = reinterpret_cast<const float4 *>(p)[0], b = reinterpret_cast<const float4 *>(p)[1];
  v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w, v[4] = b.x, v[5] = b.y, v[6] = b.z, v[7] = b.w;
}
__device__ __forceinline__ void write8(float *p, const float (&v)[8]) {
  reinterpret_cast<float4 *>(p)[0] = make_float4(v[0], v[1], v[2], v[3]);
  reinterpret_cast<float4 *>(p)[1] = make_float4(v[4], v[5], v[6], v[7]);
}

// Sums and maxima over a warp by a butterfly: all lanes get the same bits.
template <class F> __device__ __forceinline__ F warpSum(F v) {
#pragma unroll
  for (int d = kWarp / 2; d > 0; d /= 2) v += __shfl_xor_sync(kAll, v, d);
  return v;
}
__device__ __forceinline__ float warpMax(float v) {
#pragma unroll
  for (int d = kWarp / 2; d > 0; d /= 2) v = fmaxf(v, __shfl_xor_sync(kAll, v, d));
  return v;
}

// blockSum adds up a number of every thread of a block of Threads; all get the same
// bits. scratch is shared memory, one element a warp, that may be used again after
// the next barrier.
template <int Threads, class F> __device__ __forceinline__ F blockSum(F v, F *scratch) {
  v = warpSum(v);
  if (threadIdx.x % kWarp == 0) scratch[threadIdx.x / kWarp] = v;
  __syncthreads();
  F sum = scratch[0];
#pragma unroll
  for (int w = 1; w < Threads / kWarp; w++) sum += scratch[w];
  return sum;
}
template <int Threads> __device__ __forceinline__ float blockMax(float v, float *scratch) {
  v = warpMax(v);
  if (threadIdx.x % kWarp == 0) scratch[threadIdx.x / kWarp] = v;
  __syncthreads();
  float top = scratch[0];
#pragma unroll
  for (int w = 1; w < Threads / kWarp; w++) top = fmaxf(top, scratch[w]);
  return top;
}

// KERNEL begins an entry point that is launched with exactly so many threads a block.
#define KERNEL(threads) extern "C" __global__ void __launch_bounds__(threads)

// KERNEL_OF does so for kernels of which at least so many blocks share a multiprocessor:
// it gives them the registers that this leaves.
#define KERNEL_OF(threads, blocks) extern "C" __global__ void __launch_bounds__(threads, blocks)
