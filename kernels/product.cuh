// The definition of a product that all its variants share; see product.cu.
#pragma once
#include "async.cuh"

constexpr int kVector = 8;  // Elements that a thread has behind each other.

constexpr int kParts = 4;      // K is summed in so many parts,
constexpr int kPartUnit = 64;  // of a multiple of so many elements.

// partOf returns the length of a part.
__device__ __forceinline__ i64 partOf(i64 k) { return (k + kParts * kPartUnit - 1) / (kParts * kPartUnit) * kPartUnit; }

constexpr i64 kAdd = 1;           // Flags: add to y,
constexpr i64 kScaleOutputs = 2;  // and scale what is written, not x.

// Arguments of a product, of which x and wscales differ by the type of the weight.
template <class T> struct Product {
  T *y;
  i64 n, m, k, ldw, ldx, ldy, flags;
  const float *scales;  // Of the outputs: a bank of rows [·, m], or null.
  const int *index;

  // scaled returns an output times its scale, both rounded to T, as scalecols does it.
  __device__ __forceinline__ float scaled(i64 row, i64 out, float v) const {
    if (!scales) return v;
    return widen(narrow<T>(__fmul_rn(widen(narrow<T>(v)), scales[(index ? index[row] : 0) * m + out])));
  }
};

// Rows are the rows of x, scaled by rows of their own.
template <class T> struct Rows {
  const T *x;
  const float *scales;  // A bank of rows [·, k].
  const int *index;
  i64 n, k, ldx;

  // scale returns the scales of a row, or null.
  __device__ __forceinline__ const float *scale(i64 row) const {
    return scales && row < n ? scales + (index ? index[row] : 0) * k : nullptr;
  }
  // take reads 8 elements of a row from column `at` on; zeros behind the last
  // column or row.
  __device__ __forceinline__ void take(float (&v)[kVector], i64 row, i64 at) const {
    if (row < n)
      load(v, x + row * ldx + at, k - at);
    else {
#pragma unroll
      for (int i = 0; i < kVector; i++) v[i] = 0;
    }
  }
  // apply scales them, and rounds to T, as scalecols does: a bfloat16 stays one.
  __device__ __forceinline__ void apply(float (&v)[kVector], const float *s, i64 at) const {
    if (!s) return;
    float f[kVector];
    load(f, s + at, k - at);
#pragma unroll
    for (int i = 0; i < kVector; i++) v[i] = widen(narrow<T>(__fmul_rn(v[i], f[i])));
  }
};

__device__ __forceinline__ uint4 pack8(const float (&v)[kVector]) {
  return make_uint4(pair(v[0], v[1]), pair(v[2], v[3]), pair(v[4], v[5]), pair(v[6], v[7]));
}

// put writes one element of y.
template <class T> __device__ __forceinline__ void put(const Product<T> &p, i64 row, i64 out, float v) {
  T *at = p.y + row * p.ldy + out;
  v = p.scaled(row, out, v);
  if (p.flags & kAdd) v += widen(*at);
  *at = narrow<T>(v);
}

// put4 writes four outputs of a row, from `out` on.
template <class T> __device__ __forceinline__ void put4(const Product<T> &p, i64 row, i64 out, float4 v) {
  T *at = p.y + row * p.ldy + out;
  if (out + 4 > p.m || !aligned(at, 4 * sizeof(T))) {
    const float each[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int i = 0; i < 4; i++)
      if (out + i < p.m) put(p, row, out + i, each[i]);
    return;
  }
  v.x = p.scaled(row, out, v.x), v.y = p.scaled(row, out + 1, v.y);
  v.z = p.scaled(row, out + 2, v.z), v.w = p.scaled(row, out + 3, v.w);
  if constexpr (sizeof(T) == 4) {
    if (p.flags & kAdd) {
      const float4 old = *reinterpret_cast<const float4 *>(at);
      v.x += old.x, v.y += old.y, v.z += old.z, v.w += old.w;
    }
    put16(at, v.x, v.y, v.z, v.w);
  } else {
    if (p.flags & kAdd) {
      const uint2 old = *reinterpret_cast<const uint2 *>(at);
      v.x += lowHalf(old.x), v.y += highHalf(old.x), v.z += lowHalf(old.y), v.w += highHalf(old.y);
    }
    put8(at, pair(v.x, v.y), pair(v.z, v.w));
  }
}
