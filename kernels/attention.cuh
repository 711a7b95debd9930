// Attention of rows whose keys are tiles in shared memory: prefill and training.
#pragma once
#include "keys.cuh"

// Block is the shape of a block: each of its warps has Each pairs of a row and a head,
// all of one key-value head; heads have at most 64·Pairs columns.
template <int PairsOf, int EachOf, int Warps> struct Block {
  static constexpr int kPairs = PairsOf, kEach = EachOf, kThreads = Warps * kWarp;
  static constexpr int kWidth = 2 * kWarp * kPairs;
  static constexpr int kAll = Warps * kEach;
  static constexpr int kHeld = kTileKeys * kWidth / kVector / kThreads;  // Vectors of a tile, a thread.
};

// T is the storage of activations, and C that of keys and values.
template <class B, class T, class C, class Keys>
__device__ __forceinline__ void attend(T *out, float *lse, const T *q, const C *k, const C *v, const Keys &keys, i64 n, const Heads &h) {
  __shared__ __align__(16) float tile[kTileKeys * (B::kWidth + 4)];
  __shared__ __align__(16) float queries[B::kAll][B::kWidth];
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const int group = h.group(), headsHere = min(group, B::kAll), rowsHere = B::kAll / headsHere;
  const int vectors = (int)((h.d + kVector - 1) / kVector), width = vectors * kVector, pitch = width + 4;
  const i64 r0 = (i64)blockIdx.x * rowsHere, r1 = min(r0 + rowsHere, n), kvhead = blockIdx.y;

  // The warp's pairs; one that is not there attends to nothing and is not written.
  int rowOf[B::kEach], headOf[B::kEach], countOf[B::kEach];
  bool there[B::kEach];
#pragma unroll
  for (int i = 0; i < B::kEach; i++) {
    const int p = warp * B::kEach + i, head = blockIdx.z * headsHere + p % headsHere;
    rowOf[i] = (int)r0 + p / headsHere;
    headOf[i] = (int)kvhead * group + head;
    there[i] = rowOf[i] < r1 && p < headsHere * rowsHere && head < group;
    countOf[i] = there[i] ? (int)keys.count(rowOf[i]) : 0;
    for (int c = lane; c < width; c += kWarp)
      queries[p][c] = there[i] && c < h.d ? widen(q[((i64)rowOf[i] * h.heads + headOf[i]) * h.d + c]) : 0;
  }

  // fetch reads a tile of keys or values, while the one before is computed with; rows
  // behind the last are zero. fill puts it into its place.
  float held[B::kHeld][kVector];
  auto fetch = [&](const C *from, const typename Keys::Place &place, i64 key, i64 end) {
#pragma unroll
    for (int s = 0; s < B::kHeld; s++) {
      const int i = threadIdx.x + s * B::kThreads, line = i / vectors, at = (i - line * vectors) * kVector;
      const bool there = line < kTileKeys && key + line < end;
      load(held[s], there ? from + place.row(key + line) * h.stride() + kvhead * h.d + at : from, there ? h.d - at : 0);
    }
  };
  auto fill = [&]() {
    __syncthreads();
#pragma unroll
    for (int s = 0; s < B::kHeld; s++) {
      const int i = threadIdx.x + s * B::kThreads, line = i / vectors, at = (i - line * vectors) * kVector;
      if (line < kTileKeys) write8(&tile[line * pitch + at], held[s]);
    }
    __syncthreads();
  };

  State state[B::kEach] = {};
  float2 sum[B::kEach][B::kPairs] = {};
  for (i64 from = r0, to; from < r1; from = to) {  // Runs of rows with the same keys.
    const typename Keys::Place place = keys.of(from);
    i64 end = keys.count(from);
    for (to = from + 1; to < r1 && keys.together(from, to); to++) end = max(end, keys.count(to));
    if (end > 0) fetch(k, place, 0, end);
    for (i64 base = 0; base < end; base += kChunk) {
      // How many keys of the chunk each pair attends to: lanes are keys.
      int limit[B::kEach];
#pragma unroll
      for (int i = 0; i < B::kEach; i++)
        limit[i] = rowOf[i] >= from && rowOf[i] < to ? min(max(countOf[i] - (int)base, 0), kChunk) : 0;
      // A tile's place in p is known when it runs only: it is chosen, so that p stays in
      // registers and the loop a loop.
      float p[kChunkTiles][B::kEach] = {};
      const int tiles = (int)min((end - base + kTileKeys - 1) / kTileKeys, (i64)kChunkTiles);
#pragma unroll 1
      for (int t = 0; t < tiles; t++) {
        fill();
        const bool last = t == tiles - 1;  // Values follow.
        fetch(last ? v : k, place, base + (last ? 0 : t + 1) * kTileKeys, end);
        float part[B::kEach][4] = {};
        const float *mine = &tile[lane * pitch];
#pragma unroll 1
        for (int c = 0; c < vectors; c += 4) {
#pragma unroll
          for (int u = 0; u < 4; u++) {
            if (c + u < vectors) {
              float x[kVector], y[kVector];
              read8(x, mine + (c + u) * kVector);
#pragma unroll
              for (int i = 0; i < B::kEach; i++) {
                read8(y, &queries[warp * B::kEach + i][(c + u) * kVector]);
#pragma unroll
                for (int j = 0; j < kVector; j++) part[i][u] = fmaf(y[j], x[j], part[i][u]);
              }
            }
          }
        }
#pragma unroll
        for (int i = 0; i < B::kEach; i++) {
          const float score = __fmul_rn((part[i][0] + part[i][1]) + (part[i][2] + part[i][3]), h.scale);
#pragma unroll
          for (int u = 0; u < kChunkTiles; u++) p[u][i] = u == t ? score : p[u][i];
        }
      }
      State next[B::kEach];
#pragma unroll
      for (int i = 0; i < B::kEach; i++) {
        float m = -kInfinity;
#pragma unroll
        for (int t = 0; t < kChunkTiles; t++)
          if (t * kTileKeys + lane < limit[i]) m = fmaxf(m, p[t][i]);
        next[i] = {warpMax(m), 0};
#pragma unroll
        for (int t = 0; t < kChunkTiles; t++) {
          p[t][i] = t * kTileKeys + lane < limit[i] ? expf(p[t][i] - next[i].m) : 0;
          if (t * kTileKeys < limit[i]) next[i].l += warpSum(p[t][i]);
        }
      }
      float2 chunk[B::kEach][B::kPairs] = {};
#pragma unroll 1
      for (int t = 0; t < tiles; t++) {
        fill();
        const bool last = t == tiles - 1;  // The next chunk's keys follow.
        fetch(last ? k : v, place, base + (t + 1) * kTileKeys, end);
        float weight[B::kEach] = {};
#pragma unroll
        for (int i = 0; i < B::kEach; i++)
#pragma unroll
          for (int u = 0; u < kChunkTiles; u++) weight[i] = u == t ? p[u][i] : weight[i];
        float2 part[B::kEach][B::kPairs] = {};
        int most = 0;
#pragma unroll
        for (int i = 0; i < B::kEach; i++) most = max(most, limit[i] - t * kTileKeys);
        most = min(most, kTileKeys);
#pragma unroll 4
        for (int j = 0; j < most; j++) {
          float2 x[B::kPairs];
#pragma unroll
          for (int c = 0; c < B::kPairs; c++)
            x[c] = columnOf(c) < width ? *reinterpret_cast<const float2 *>(&tile[j * pitch + columnOf(c)]) : make_float2(0, 0);
#pragma unroll
          for (int i = 0; i < B::kEach; i++) {
            const float w = __shfl_sync(kAll, weight[i], j);
            if (t * kTileKeys + j < limit[i]) {  // Never a key that is not the row's: it may be infinite.
#pragma unroll
              for (int c = 0; c < B::kPairs; c++) {
                part[i][c].x = fmaf(w, x[c].x, part[i][c].x);
                part[i][c].y = fmaf(w, x[c].y, part[i][c].y);
              }
            }
          }
        }
#pragma unroll
        for (int i = 0; i < B::kEach; i++) {
          if (t * kTileKeys < limit[i]) {
#pragma unroll
            for (int c = 0; c < B::kPairs; c++) chunk[i][c].x += part[i][c].x, chunk[i][c].y += part[i][c].y;
          }
        }
      }
#pragma unroll
      for (int i = 0; i < B::kEach; i++) {
        if (limit[i] == 0) continue;
        if (base == 0) {
          state[i] = next[i];
#pragma unroll
          for (int c = 0; c < B::kPairs; c++) sum[i][c] = chunk[i][c];
        } else {
          const Factors f = merge(state[i], next[i]);
#pragma unroll
          for (int c = 0; c < B::kPairs; c++) {
            sum[i][c].x = merged(sum[i][c].x, chunk[i][c].x, f);
            sum[i][c].y = merged(sum[i][c].y, chunk[i][c].y, f);
          }
        }
      }
    }
  }
#pragma unroll
  for (int i = 0; i < B::kEach; i++) {
    if (!there[i]) continue;
    const i64 at = (i64)rowOf[i] * h.heads + headOf[i];
    const float inverse = countOf[i] > 0 ? 1 / state[i].l : 0;
#pragma unroll
    for (int c = 0; c < B::kPairs; c++)
      store2(out + at * h.d, columnOf(c), h.d, make_float2(__fmul_rn(sum[i][c].x, inverse), __fmul_rn(sum[i][c].y, inverse)));
    if (lse && lane == 0) lse[at] = countOf[i] > 0 ? state[i].m + logf(state[i].l) : 0;
  }
}
