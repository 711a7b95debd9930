// What all kernels of attention share: where the keys of a row are, and the
// definition of a row's sums; see attention.cu.
#pragma once
#include "common.cuh"

constexpr int kTileKeys = 32;  // Keys of a tile,
constexpr int kChunk = 256;    // and of a chunk.
constexpr int kChunkTiles = kChunk / kTileKeys;

// Spans are keys that lie behind each other: row n has those from first[n] on.
struct Spans {
  const int *first, *counts;
  __device__ __forceinline__ i64 count(i64 n) const { return counts[n]; }
  __device__ __forceinline__ bool together(i64 n, i64 m) const { return first[n] == first[m]; }
  __device__ __forceinline__ i64 row(i64 n, i64 key) const { return first[n] + key; }
};

// Pages are keys in pages, which lie anywhere.
struct Pages {
  const int *tables, *tableOf, *counts;
  i64 stride, pageSize;
  __device__ __forceinline__ i64 count(i64 n) const { return counts[n]; }
  __device__ __forceinline__ bool together(i64 n, i64 m) const { return tableOf[n] == tableOf[m]; }
  __device__ __forceinline__ i64 row(i64 n, i64 key) const {
    const u32 page = (u32)key / (u32)pageSize;
    return tables[tableOf[n] * stride + page] * pageSize + ((u32)key - page * (u32)pageSize);
  }
};

struct Heads {
  i64 heads, kvheads, d;
  float scale;
  __device__ __forceinline__ int group() const { return (int)(heads / kvheads); }
  __device__ __forceinline__ i64 stride() const { return kvheads * d; }
};

// A lane's columns of a head are 2·(lane + 32·i) and the one behind, for i below
// Pairs, as far as there are so many.
__device__ __forceinline__ int columnOf(int i) { return 2 * (int)(threadIdx.x % kWarp + kWarp * i); }

__device__ __forceinline__ float2 load2(const float *p) { return *reinterpret_cast<const float2 *>(p); }
__device__ __forceinline__ float2 load2(const bf16 *p) {
  const u32 v = *reinterpret_cast<const u32 *>(p);
  return make_float2(lowHalf(v), highHalf(v));
}
__device__ __forceinline__ void store2(float *p, float2 v) { *reinterpret_cast<float2 *>(p) = v; }
__device__ __forceinline__ void store2(bf16 *p, float2 v) { *reinterpret_cast<u32 *>(p) = pair(v.x, v.y); }

// State is what softmax(s)·v is built from: the largest score, and Σ eˢ⁻ᵐ.
struct State {
  float m, l;
};

// Merging is by what the sums of both are to be multiplied.
struct Factors {
  float old, next;
};
__device__ __forceinline__ Factors merge(State &s, State next) {
  const float m = fmaxf(s.m, next.m);
  const Factors f = {expf(s.m - m), expf(next.m - m)};
  s = {m, fmaf(s.l, f.old, __fmul_rn(next.l, f.next))};
  return f;
}
__device__ __forceinline__ float merged(float old, float next, Factors f) { return fmaf(old, f.old, __fmul_rn(next, f.next)); }
