// What all kernels of attention share: where the keys of a row are, and the
// definition of a row's sums; see attention.cu.
#pragma once
#include "common.cuh"

constexpr int kVector = 8;  // Elements that a thread has behind each other.

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

// Paged are keys in blocks of so many rows, which lie anywhere: row n has those that
// the list names from first[n] on.
struct Paged {
  const int *blocks, *first, *counts;
  i64 size;
  __device__ __forceinline__ i64 count(i64 n) const { return counts[n]; }
  __device__ __forceinline__ bool together(i64 n, i64 m) const { return first[n] == first[m]; }
  __device__ __forceinline__ i64 row(i64 n, i64 key) const {
    const u32 block = (u32)key / (u32)size;
    return blocks[first[n] + block] * size + ((u32)key - block * (u32)size);
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

// load2 and store2 access the columns `at` and at + 1 of a head, as far as it has them:
// together where d is even, because a head then begins at a multiple of both.
__device__ __forceinline__ float2 load2(const float *head, int at, i64 d) {
  if (at + 1 < d && d % 2 == 0) return *reinterpret_cast<const float2 *>(head + at);
  return make_float2(at < d ? head[at] : 0, at + 1 < d ? head[at + 1] : 0);
}
__device__ __forceinline__ float2 load2(const bf16 *head, int at, i64 d) {
  if (at + 1 < d && d % 2 == 0) {
    const u32 v = *reinterpret_cast<const u32 *>(head + at);
    return make_float2(lowHalf(v), highHalf(v));
  }
  return make_float2(at < d ? widen(head[at]) : 0, at + 1 < d ? widen(head[at + 1]) : 0);
}
__device__ __forceinline__ void store2(float *head, int at, i64 d, float2 v) {
  if (at + 1 < d && d % 2 == 0) {
    *reinterpret_cast<float2 *>(head + at) = v;
    return;
  }
  if (at < d) head[at] = v.x;
  if (at + 1 < d) head[at + 1] = v.y;
}
__device__ __forceinline__ void store2(bf16 *head, int at, i64 d, float2 v) {
  if (at + 1 < d && d % 2 == 0) {
    *reinterpret_cast<u32 *>(head + at) = pair(v.x, v.y);
    return;
  }
  if (at < d) head[at] = narrow<bf16>(v.x);
  if (at + 1 < d) head[at + 1] = narrow<bf16>(v.y);
}

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
