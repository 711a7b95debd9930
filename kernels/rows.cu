// Copies of rows, elementwise sums, and changes of a weight's layout.
//
// Targets: sm80.
//
// T is f32 or bf16, the storage of activations; W is f32, bf16 or i8, the type of a
// weight [m, ldw] with bf16 scales [m, ldw/32] for i8 (see product.cu).
//
//   gather_wW_T(y, w, wscales, ids, n, k, ldw)    y[i] = w[ids[i]], zeros where ids[i] < 0
//   select_T(y, x, rows, n, c)                    y[i] = x[rows[i]], zeros where rows[i] < 0
//   scatter_T(y, x, rows, n, c)                   y[rows[i]] = x[i], unless rows[i] < 0
//   add_T(y, x, count)                            y += x
//   addrows_T(y, bank f32, index, n, c)           y[i] += bank[index[i]] [c], or bank[0]
//                                                 without an index
//   scalecols_T(y, x, bank f32, index, n, c)      y[i] = x[i] ⊙ bank[index[i]] [c], or bank[0]
//                                                 without an index; y may be x
//   columndots_T(d f32, a, b, n, c)               d[j] = Σᵢ a[i, j]·b[i, j]
//   convert_T_U(y, x, count)                      from T to the other, to nearest even
//   fill_T(y, value, count)
//   pack_f32_W(w, wscales, src, m, k, ldw)        a weight of rows [m, k] in f32
//   transpose_W_U(w', w, wscales, m, k, ldw, ldt) w' [k, ldt] of U is wᵀ, zero from m to ldt;
//                                                 f32 → f32, bf16 → bf16, i8 → f32
//
// ids, rows and index are int32 [n]. Distinct rows are scattered to. pack rounds as
// runtime/backend's WeightType says; a block with an element that is not finite gets
// the scale NaN, so that no product hides it.
//
// Launch: 256 threads. Any grid, where a thread takes 4 elements at a time, but
//   columndots  gridDim.x = ⌈c/32⌉
//   transpose   grid ⌈ldt/32⌉ × ⌈k/32⌉
//
// Cost: each operand is read and written once.
//
// Order: columndots adds the rows 8i + r, rising, for each r, and then the eight sums.
#include "common.cuh"

constexpr int kThreads = 256;
constexpr int kVector = 4;  // Elements that a thread has behind each other.

// quotient divides in 32 bits where that is enough, which is nearly always.
__device__ __forceinline__ i64 quotient(i64 a, i64 b) { return ((a | b) >> 32) == 0 ? (i64)((u32)a / (u32)b) : a / b; }

// each calls f(at, left) for each vector of elements that is this thread's.
template <class F> __device__ __forceinline__ void each(i64 count, F f) {
  const i64 stride = (i64)gridDim.x * kThreads * kVector;
  for (i64 at = ((i64)blockIdx.x * kThreads + threadIdx.x) * kVector; at < count; at += stride) f(at, count - at);
}

// eachOfRows calls f(row, at, left) for each vector of n rows of c elements.
template <class F> __device__ __forceinline__ void eachOfRows(i64 n, i64 c, F f) {
  const i64 vectors = (c + kVector - 1) / kVector, count = n * vectors, stride = (i64)gridDim.x * kThreads;
  for (i64 i = (i64)blockIdx.x * kThreads + threadIdx.x; i < count; i += stride) {
    const i64 row = quotient(i, vectors), at = (i - row * vectors) * kVector;
    f(row, at, c - at);
  }
}

__device__ __forceinline__ void zero(float (&v)[kVector]) {
#pragma unroll
  for (int j = 0; j < kVector; j++) v[j] = 0;
}

// loadWeight reads 4 elements of a row of a weight from a multiple of 4 on; they are
// there, or zeros of the pitch are.
__device__ __forceinline__ void loadWeight(float (&v)[kVector], const float *w, const bf16 *, i64 row, i64 at, i64 ldw) {
  load(v, w + row * ldw + at, kVector);
}
__device__ __forceinline__ void loadWeight(float (&v)[kVector], const bf16 *w, const bf16 *, i64 row, i64 at, i64 ldw) {
  load(v, w + row * ldw + at, kVector);
}
__device__ __forceinline__ void loadWeight(float (&v)[kVector], const signed char *w, const bf16 *wscales, i64 row, i64 at, i64 ldw) {
  const u32 q = *reinterpret_cast<const u32 *>(w + row * ldw + at);
  const float s = widen(wscales[(row * ldw + at) / 32]);
#pragma unroll
  for (int j = 0; j < kVector; j++) v[j] = (float)(signed char)(q >> (8 * j)) * s;
}

template <class W, class T>
__device__ __forceinline__ void gather(T *y, const W *w, const bf16 *wscales, const int *ids, i64 n, i64 k, i64 ldw) {
  eachOfRows(n, k, [&](i64 row, i64 at, i64 left) {
    float v[kVector];
    const i64 id = ids[row];
    if (id >= 0)
      loadWeight(v, w, wscales, id, at, ldw);
    else
      zero(v);
    store(y + row * k + at, v, left);
  });
}

#define GATHER(name, W, T) \
  KERNEL(kThreads) name(T *y, const W *w, const bf16 *wscales, const int *ids, i64 n, i64 k, i64 ldw) { gather(y, w, wscales, ids, n, k, ldw); }
GATHER(gather_wf32_f32, float, float)
GATHER(gather_wf32_bf16, float, bf16)
GATHER(gather_wbf16_f32, bf16, float)
GATHER(gather_wbf16_bf16, bf16, bf16)
GATHER(gather_wi8_f32, signed char, float)
GATHER(gather_wi8_bf16, signed char, bf16)

template <class T> __device__ __forceinline__ void select(T *y, const T *x, const int *rows, i64 n, i64 c) {
  eachOfRows(n, c, [&](i64 row, i64 at, i64 left) {
    float v[kVector];
    const i64 from = rows[row];
    if (from >= 0)
      load(v, x + from * c + at, left);
    else
      zero(v);
    store(y + row * c + at, v, left);
  });
}
KERNEL(kThreads) select_f32(float *y, const float *x, const int *rows, i64 n, i64 c) { select(y, x, rows, n, c); }
KERNEL(kThreads) select_bf16(bf16 *y, const bf16 *x, const int *rows, i64 n, i64 c) { select(y, x, rows, n, c); }

template <class T> __device__ __forceinline__ void scatter(T *y, const T *x, const int *rows, i64 n, i64 c) {
  eachOfRows(n, c, [&](i64 row, i64 at, i64 left) {
    float v[kVector];
    const i64 to = rows[row];
    if (to < 0) return;
    load(v, x + row * c + at, left);
    store(y + to * c + at, v, left);
  });
}
KERNEL(kThreads) scatter_f32(float *y, const float *x, const int *rows, i64 n, i64 c) { scatter(y, x, rows, n, c); }
KERNEL(kThreads) scatter_bf16(bf16 *y, const bf16 *x, const int *rows, i64 n, i64 c) { scatter(y, x, rows, n, c); }

template <class T> __device__ __forceinline__ void add(T *y, const T *x, i64 count) {
  each(count, [&](i64 at, i64 left) {
    float v[kVector], w[kVector];
    load(v, y + at, left);
    load(w, x + at, left);
#pragma unroll
    for (int j = 0; j < kVector; j++) v[j] += w[j];
    store(y + at, v, left);
  });
}
KERNEL(kThreads) add_f32(float *y, const float *x, i64 count) { add(y, x, count); }
KERNEL(kThreads) add_bf16(bf16 *y, const bf16 *x, i64 count) { add(y, x, count); }

template <class T> __device__ __forceinline__ void addrows(T *y, const float *bank, const int *index, i64 n, i64 c) {
  eachOfRows(n, c, [&](i64 row, i64 at, i64 left) {
    float v[kVector], w[kVector];
    load(v, y + row * c + at, left);
    load(w, bank + (index != nullptr ? index[row] * c : 0) + at, left);
#pragma unroll
    for (int j = 0; j < kVector; j++) v[j] += w[j];
    store(y + row * c + at, v, left);
  });
}
KERNEL(kThreads) addrows_f32(float *y, const float *bank, const int *index, i64 n, i64 c) {
  addrows(y, bank, index, n, c);
}
KERNEL(kThreads) addrows_bf16(bf16 *y, const float *bank, const int *index, i64 n, i64 c) {
  addrows(y, bank, index, n, c);
}

template <class T>
__device__ __forceinline__ void scalecols(T *y, const T *x, const float *bank, const int *index, i64 n, i64 c) {
  eachOfRows(n, c, [&](i64 row, i64 at, i64 left) {
    float v[kVector], w[kVector];
    load(v, x + row * c + at, left);
    load(w, bank + (index != nullptr ? index[row] * c : 0) + at, left);
#pragma unroll
    for (int j = 0; j < kVector; j++) v[j] *= w[j];
    store(y + row * c + at, v, left);
  });
}
KERNEL(kThreads) scalecols_f32(float *y, const float *x, const float *bank, const int *index, i64 n, i64 c) {
  scalecols(y, x, bank, index, n, c);
}
KERNEL(kThreads) scalecols_bf16(bf16 *y, const bf16 *x, const float *bank, const int *index, i64 n, i64 c) {
  scalecols(y, x, bank, index, n, c);
}

template <class T> __device__ __forceinline__ void columndots(float *d, const T *a, const T *b, i64 n, i64 c) {
  constexpr int kSums = kThreads / kWarp, kAhead = 8;
  __shared__ float sums[kSums][kWarp];
  const int lane = threadIdx.x % kWarp, first = threadIdx.x / kWarp;
  const i64 column = (i64)blockIdx.x * kWarp + lane;
  float sum = 0;
  if (column < c) {
    for (i64 row = first; row < n; row += kSums * kAhead) {
      float v[kAhead], w[kAhead];
#pragma unroll
      for (int i = 0; i < kAhead; i++) {
        const i64 at = row + i * kSums;
        v[i] = at < n ? widen(a[at * c + column]) : 0;
        w[i] = at < n ? widen(b[at * c + column]) : 0;
      }
#pragma unroll
      for (int i = 0; i < kAhead; i++) sum = fmaf(v[i], w[i], sum);
    }
  }
  sums[first][lane] = sum;
  __syncthreads();
  if (first > 0 || column >= c) return;
#pragma unroll
  for (int i = 1; i < kSums; i++) sum += sums[i][lane];
  d[column] = sum;
}
KERNEL(kThreads) columndots_f32(float *d, const float *a, const float *b, i64 n, i64 c) { columndots(d, a, b, n, c); }
KERNEL(kThreads) columndots_bf16(float *d, const bf16 *a, const bf16 *b, i64 n, i64 c) { columndots(d, a, b, n, c); }

template <class T, class U> __device__ __forceinline__ void convert(U *y, const T *x, i64 count) {
  each(count, [&](i64 at, i64 left) {
    float v[kVector];
    load(v, x + at, left);
    store(y + at, v, left);
  });
}
KERNEL(kThreads) convert_f32_bf16(bf16 *y, const float *x, i64 count) { convert(y, x, count); }
KERNEL(kThreads) convert_bf16_f32(float *y, const bf16 *x, i64 count) { convert(y, x, count); }

template <class T> __device__ __forceinline__ void fill(T *y, double value, i64 count) {
  float v[kVector];
#pragma unroll
  for (int j = 0; j < kVector; j++) v[j] = (float)value;
  each(count, [&](i64 at, i64 left) { store(y + at, v, left); });
}
KERNEL(kThreads) fill_f32(float *y, double value, i64 count) { fill(y, value, count); }
KERNEL(kThreads) fill_bf16(bf16 *y, double value, i64 count) { fill(y, value, count); }

template <class W> __device__ __forceinline__ void pack(W *w, const float *src, i64 m, i64 k, i64 ldw) {
  eachOfRows(m, ldw, [&](i64 row, i64 at, i64) {
    float v[kVector];
    load(v, src + row * k + (at < k ? at : 0), k - at);
    store(w + row * ldw + at, v, kVector);
  });
}
KERNEL(kThreads) pack_f32_f32(float *w, bf16 *wscales, const float *src, i64 m, i64 k, i64 ldw) { pack(w, src, m, k, ldw); }
KERNEL(kThreads) pack_f32_bf16(bf16 *w, bf16 *wscales, const float *src, i64 m, i64 k, i64 ldw) { pack(w, src, m, k, ldw); }

// Eight lanes have a block of 32. With its largest magnitude m, s = m/127, rounded to
// float32 and then to bfloat16, and q = x·(1/s), to the nearest, ties to even; all are
// zero where m is below 2⁻¹¹⁹.
KERNEL(kThreads) pack_f32_i8(signed char *w, bf16 *wscales, const float *src, i64 m, i64 k, i64 ldw) {
  const i64 vectors = ldw / kVector, count = m * vectors, stride = (i64)gridDim.x * kThreads;
  for (i64 first = (i64)blockIdx.x * kThreads + threadIdx.x / kWarp * kWarp; first < count; first += stride) {
    const i64 i = first + threadIdx.x % kWarp, row = quotient(i, vectors), at = (i - row * vectors) * kVector;
    float v[kVector], top = 0;
    zero(v);
    if (i < count) load(v, src + row * k + (at < k ? at : 0), k - at);
    int finite = 1;
#pragma unroll
    for (int j = 0; j < kVector; j++) {
      if (v[j] - v[j] != 0) finite = 0;
      top = fmaxf(top, fabsf(v[j]));
    }
#pragma unroll
    for (int d = 1; d < 32 / kVector; d *= 2) {
      top = fmaxf(top, __shfl_xor_sync(kAll, top, d));
      finite &= __shfl_xor_sync(kAll, finite, d);
    }
    const bool none = !finite || top < 0x1p-119f;
    bf16 scale = narrow<bf16>(none ? 0 : top / 127);
    const float factor = none ? 0 : 1 / widen(scale);
    if (!finite) scale.bits = 0x7fc0;
    u32 word = 0;
#pragma unroll
    for (int j = 0; j < kVector; j++)
      if (!none) word |= (u32)(__float2int_rn(v[j] * factor) & 0xff) << (8 * j);
    if (i < count) {
      *reinterpret_cast<u32 *>(w + row * ldw + at) = word;
      if (at % 32 == 0) wscales[(row * ldw + at) / 32] = scale;
    }
  }
}

__device__ __forceinline__ float element(const float *w, const bf16 *, i64 at) { return w[at]; }
__device__ __forceinline__ float element(const bf16 *w, const bf16 *, i64 at) { return widen(w[at]); }
__device__ __forceinline__ float element(const signed char *w, const bf16 *wscales, i64 at) { return (float)w[at] * widen(wscales[at / 32]); }

template <class W, class U>
__device__ __forceinline__ void transpose(U *to, const W *w, const bf16 *wscales, i64 m, i64 k, i64 ldw, i64 ldt) {
  __shared__ float tile[kWarp][kWarp + 1];
  const int lane = threadIdx.x % kWarp, line = threadIdx.x / kWarp;
  const i64 m0 = (i64)blockIdx.x * kWarp, k0 = (i64)blockIdx.y * kWarp;
#pragma unroll
  for (int i = line; i < kWarp; i += kThreads / kWarp) {
    const i64 row = m0 + i, column = k0 + lane;
    tile[i][lane] = row < m && column < k ? element(w, wscales, row * ldw + column) : 0;
  }
  __syncthreads();
#pragma unroll
  for (int i = line; i < kWarp; i += kThreads / kWarp) {
    const i64 row = k0 + i, column = m0 + lane;
    if (row < k && column < ldt) to[row * ldt + column] = narrow<U>(tile[lane][i]);
  }
}

#define TRANSPOSE(name, W, U) \
  KERNEL(kThreads) name(U *to, const W *w, const bf16 *wscales, i64 m, i64 k, i64 ldw, i64 ldt) { transpose(to, w, wscales, m, k, ldw, ldt); }
TRANSPOSE(transpose_f32_f32, float, float)
TRANSPOSE(transpose_bf16_bf16, bf16, bf16)
TRANSPOSE(transpose_i8_f32, signed char, float)
