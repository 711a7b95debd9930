// Attention of few rows with many keys: a block has one chunk of one row's keys, and
// each of its warps a tile, whose keys and values go straight into registers.
#pragma once
#include "keys.cuh"

constexpr int kDecodeThreads = kChunkTiles * kWarp;
constexpr int kTogether = kChunkTiles;  // Heads of a key-value head at a time: a warp for each.

// With one chunk there is nothing to merge, and sums is the output itself, of T. C is the
// storage of the cache.
template <int Pairs, class T, class C>
__device__ __forceinline__ void attendChunk(float *sums, float2 *states, const T *q, const C *k, const C *v, const Paged &keys, i64 n, const Heads &h) {
  __shared__ __align__(16) float p[kChunk][kTogether];             // Scores, then their exponentials.
  __shared__ __align__(16) float queries[kTogether][2 * kWarp * Pairs];
  __shared__ float parts[kChunkTiles][kTogether][2 * kWarp], inverse[kTogether];
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp, quad = lane / 4, t = lane % 4;
  const i64 row = blockIdx.x, kvhead = blockIdx.y, chunk = blockIdx.z, chunks = gridDim.z, base = chunk * kChunk;
  if (row >= n) return;
  const int limit = (int)min(keys.count(row) - base, (i64)kChunk);
  T *out = reinterpret_cast<T *>(sums);
  if (limit <= 0) {
    if (chunks == 1)
      for (i64 i = threadIdx.x; i < h.group() * h.d; i += kDecodeThreads) out[(row * h.heads + kvhead * h.group()) * h.d + i] = narrow<T>(0);
    return;
  }
  const int mine = min(limit - warp * kTileKeys, kTileKeys);  // Keys of the warp's tile; none if not above zero.
  const int vectors = (int)((h.d + kVector - 1) / kVector), width = vectors * kVector, group = h.group();
  // Where the keys are: lane i knows it of the tile's key i.
  const i64 at = lane < mine ? keys.of(row).row(base + warp * kTileKeys + lane) * h.stride() + kvhead * h.d : 0;
  for (int first = 0; first < group; first += kTogether) {
    const int heads = min(kTogether, group - first);
    const i64 head = kvhead * group + first;
    __syncthreads();
    for (int i = threadIdx.x; i < heads * width; i += kDecodeThreads) {
      const int which = i / width, c = i - which * width;
      queries[which][c] = c < h.d ? widen(q[(row * h.heads + head + which) * h.d + c]) : 0;
    }
    __syncthreads();
    // Scores: four lanes a key, eight keys at a time.
#pragma unroll 1
    for (int pass = 0; pass < kTileKeys / 8; pass++) {
      const int key = pass * 8 + quad;
      const i64 from = __shfl_sync(kAll, at, key);
      if (pass * 8 >= mine) continue;
      float part[kTogether] = {};
#pragma unroll
      for (int u = 0; u < 2 * Pairs; u++) {
        const int c = 4 * u + t;
        if (4 * u < vectors) {
          float x[kVector], y[kVector];
          load(x, k + from + c * kVector, key < mine && c < vectors ? h.d - c * kVector : 0);
#pragma unroll
          for (int i = 0; i < kTogether; i++) {
            if (i < heads && c < vectors) {
              read8(y, &queries[i][c * kVector]);
#pragma unroll
              for (int j = 0; j < kVector; j++) part[i] = fmaf(y[j], x[j], part[i]);
            }
          }
        }
      }
#pragma unroll
      for (int i = 0; i < kTogether; i++) {
        if (i < heads) {
          part[i] += __shfl_xor_sync(kAll, part[i], 1);
          part[i] += __shfl_xor_sync(kAll, part[i], 2);
          if (t == 0 && key < mine) p[warp * kTileKeys + key][i] = __fmul_rn(part[i], h.scale);
        }
      }
    }
    __syncthreads();
    if (warp < heads) {
      float e[kChunkTiles], m = -kInfinity, l = 0;
#pragma unroll
      for (int i = 0; i < kChunkTiles; i++) {
        e[i] = -kInfinity;
        if (i * kTileKeys + lane < limit) m = fmaxf(m, e[i] = p[i * kTileKeys + lane][warp]);
      }
      m = warpMax(m);
#pragma unroll
      for (int i = 0; i < kChunkTiles; i++) {
        if (i * kTileKeys < limit) {
          const bool there = i * kTileKeys + lane < limit;
          e[i] = there ? expf(e[i] - m) : 0;
          if (there) p[i * kTileKeys + lane][warp] = e[i];
          l += warpSum(e[i]);
        }
      }
      if (lane == 0) {
        if (chunks == 1)
          inverse[warp] = 1 / l;
        else
          states[(row * h.heads + head + warp) * chunks + chunk] = make_float2(m, l);
      }
    }
    __syncthreads();
    float2 part[kTogether][Pairs] = {};
#pragma unroll 4
    for (int j = 0; j < mine; j++) {
      const C *from = v + __shfl_sync(kAll, at, j);
      float2 x[Pairs];
#pragma unroll
      for (int c = 0; c < Pairs; c++) x[c] = load2(from, columnOf(c), h.d);
#pragma unroll
      for (int i = 0; i < kTogether; i++) {
        if (i < heads) {
          const float w = p[warp * kTileKeys + j][i];
#pragma unroll
          for (int c = 0; c < Pairs; c++) {
            part[i][c].x = fmaf(w, x[c].x, part[i][c].x);
            part[i][c].y = fmaf(w, x[c].y, part[i][c].y);
          }
        }
      }
    }
    const int tiles = (limit + kTileKeys - 1) / kTileKeys;
#pragma unroll
    for (int c = 0; c < Pairs; c++) {
      if (2 * kWarp * c < h.d) {
        __syncthreads();
#pragma unroll
        for (int i = 0; i < kTogether; i++)
          if (i < heads) *reinterpret_cast<float2 *>(&parts[warp][i][2 * lane]) = part[i][c];
        __syncthreads();
        for (int i = threadIdx.x; i < heads * 2 * kWarp; i += kDecodeThreads) {
          const int which = i / (2 * kWarp), column = i % (2 * kWarp);
          float sum = 0;
          for (int tile = 0; tile < tiles; tile++) sum += parts[tile][which][column];
          const i64 at = (row * h.heads + head + which) * chunks + chunk;
          if (2 * kWarp * c + column >= h.d) continue;
          if (chunks == 1)
            out[at * h.d + 2 * kWarp * c + column] = narrow<T>(__fmul_rn(sum, inverse[which]));
          else
            sums[at * h.d + 2 * kWarp * c + column] = sum;
        }
      }
    }
  }
}

constexpr int kCombineThreads = 128;

// combine merges the chunks of one row and head per block.
template <class T>
__device__ __forceinline__ void combine(T *out, const float *sums, const float2 *states, const int *counts, i64 n, i64 heads, i64 d, i64 chunks) {
  const i64 row = blockIdx.x, head = blockIdx.y, at = row * heads + head;
  if (row >= n) return;
  const i64 here = (counts[row] + kChunk - 1) / kChunk;
  for (i64 column = threadIdx.x; column < d; column += kCombineThreads) {
    State state = {};
    float sum = 0;
    for (i64 c = 0; c < here; c++) {
      const float2 s = states[at * chunks + c];
      const float next = sums[(at * chunks + c) * d + column];
      if (c == 0) {
        state = {s.x, s.y};
        sum = next;
      } else {
        sum = merged(sum, next, merge(state, {s.x, s.y}));
      }
    }
    const float inverse = here > 0 ? 1 / state.l : 0;
    out[at * d + column] = narrow<T>(__fmul_rn(sum, inverse));
  }
}
