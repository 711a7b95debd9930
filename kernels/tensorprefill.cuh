// Attention of rows whose keys are tiles in shared memory, on the tensor cores: prefill
// and training.
#pragma once
#include "tensor.cuh"

constexpr int kPairs = kTensorWarps * kRows;  // Of a row and a head, of a block.

// Shared memory has the queries, and keys and values of two tiles in turn.
template <int W, class Keys>
__device__ __forceinline__ void attendTiles(bf16 *out, float *lse, const bf16 *q, const bf16 *k, const bf16 *v, const Keys &keys, i64 n, const Heads &h) {
  __shared__ short rowOf[kPairs];  // Of the block; −1 for a pair that is not there.
  __shared__ int headOf[kPairs];   // Of all rows.
  // Registers are short: these are not needed once a tile.
  __shared__ State totals[kPairs];
  __shared__ int joint;  // Rows before it are computed together.
  extern __shared__ __align__(256) unsigned char dynamic[];
  constexpr int kPieces = Lines<W>::kPieces, kTile = kTensorKeys * Lines<W>::kLine, kEach = kTensorThreads / kPieces;
  const u32 shared = sharedAddress(dynamic);
  const u32 stages = shared + kPairs * Lines<W>::kLine;
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp, g = lane / 4, t = lane % 4;
  const int piece = threadIdx.x % kPieces, line = threadIdx.x / kPieces;  // What this thread copies.
  const bool column = piece * 8 < h.d;
  const int group = h.group(), headsHere = min(group, kPairs), rowsHere = kPairs / headsHere;
  const int r0 = blockIdx.x * rowsHere, r1 = (int)min((i64)r0 + rowsHere, n), kvhead = blockIdx.y;

  // The rows and heads of pairs; a row of −1 is none.
  for (int i = threadIdx.x; i < kPairs; i += kTensorThreads) {
    const int row = r0 + i / headsHere, head = blockIdx.z * headsHere + i % headsHere;
    const bool there = row < r1 && i < headsHere * rowsHere && head < group;
    rowOf[i] = there ? (short)(row - r0) : -1;
    headOf[i] = row * (int)h.heads + kvhead * group + head;
    totals[i] = {};
  }
  if (threadIdx.x == 0) joint = r1;
  __syncthreads();
  for (int i = line; i < kPairs; i += kEach) {
    const bool take = rowOf[i] >= 0 && column;
    copy16(Lines<W>{shared}.at(i, piece), q + (take ? headOf[i] * h.d + piece * 8 : 0), take);
  }
  const Lines<W> queries{shared + warp * kRows * Lines<W>::kLine};

  State chunk[2];
  float sum[W / 8][4] = {}, part[W / 8][4];
  for (int from = r0, to; from < r1; from = to) {  // Runs of rows with the same keys.
    const typename Keys::Place lies = keys.of(from);
    int end = (int)keys.count(from);
    for (to = from + 1; to < joint && keys.together(from, to); to++) end = max(end, (int)keys.count(to));
    auto fetch = [&](int tile) {
      const Lines<W> ks{stages + tile % 2 * 2 * kTile}, vs{ks.base + kTile};
#pragma unroll
      for (int half = 0; half < kTensorKeys; half += kWarp) {  // Each lane finds a key.
        const int key = tile * kTensorKeys + half, found = key + lane < end ? (int)lies.row(key + lane) : 0;
#pragma unroll 2
        for (int i = line; i < kWarp; i += kEach) {
          const i64 at = __shfl_sync(kAll, found, i) * h.stride() + kvhead * h.d + piece * 8;
          const bool take = key + i < end && column;
          copy16(ks.at(half + i, piece), k + (take ? at : 0), take);
          copy16(vs.at(half + i, piece), v + (take ? at : 0), take);
        }
      }
      commitCopies();
    };
    int mine[2];  // Keys of the lane's two rows, where they are of this run.
#pragma unroll
    for (int i = 0; i < 2; i++) {
      const int row = r0 + rowOf[warp * kRows + g + 8 * i];
      mine[i] = row >= from && row < to ? (int)keys.count(row) : 0;
    }
    const int tiles = (end + kTensorKeys - 1) / kTensorKeys;
    __syncthreads();  // Nobody reads the run before any more.
    if (tiles > 0) fetch(0);
#pragma unroll 1
    for (int tile = 0; tile < tiles; tile++) {
      const int limit[2] = {mine[0] - tile * kTensorKeys, mine[1] - tile * kTensorKeys}, full = min(end - tile * kTensorKeys, kTensorKeys);
      waitCopies<0>();
      // A row's weight of a key that is not its own is zero, and zero times a value that is
      // no number would spoil it. Where a tile has such values, and not all rows have all of
      // its keys, the block begins anew with runs of one row.
      if (__syncthreads_or(limit[0] > 0 && limit[0] < full || limit[1] > 0 && limit[1] < full)) {
        const u32 values = 2 * (tile % 2) * kTile + kTile + (stages - shared);
        bool finite = true;
        for (int i = threadIdx.x * 16; i < kTile; i += kTensorThreads * 16) {
          const uint4 x = *reinterpret_cast<const uint4 *>(dynamic + values + i);
          finite = finite && finitePairs(x.x) && finitePairs(x.y) && finitePairs(x.z) && finitePairs(x.w);
        }
        if (__syncthreads_or(!finite)) {
          if (threadIdx.x == 0) joint = r0;
          __syncthreads();
          to = r0;
          break;
        }
      }
      if (tile + 1 < tiles) fetch(tile + 1);
      if (tile % kTensorTiles == 0) {
#pragma unroll
        for (int i = 0; i < 2; i++) chunk[i] = {-kInfinity, 0};
#pragma unroll
        for (int j = 0; j < W / 8; j++)
#pragma unroll
          for (int e = 0; e < 4; e++) part[j][e] = 0;
      }
      if (__any_sync(kAll, limit[0] > 0 || limit[1] > 0)) {
        const Lines<W> ks{stages + tile % 2 * 2 * kTile}, vs{ks.base + kTile};
        u32 p[kKeySteps][4];
        Factors f[2];
        int never = 0;
        {
          float s[2 * kKeySteps][4] = {};
          addScores<2 * kKeySteps>(s, queries, ks);
          State next[2];
          weigh(p, next, s, limit, h.scale * kLog2e);
          // A sum of powers is not negative, which ptxas does not know: it takes up no
          // values before the last weight is done, for which there are no registers.
          never = next[0].l < 0 || next[1].l < 0;
#pragma unroll
          for (int i = 0; i < 2; i++)
            if (limit[i] > 0) f[i] = mergeTile(chunk[i], next[i]);
        }
#pragma unroll
        for (int j = 0; j < W / 8; j += 2) {
          float add[2][4] = {};
#pragma unroll
          for (int step = 0; step < kKeySteps; step++) addValues<W>(add[0], add[1], p[step], vs.from(16 * step + never), j);
#pragma unroll
          for (int e = 0; e < 8; e++)
            if (limit[e / 2 % 2] > 0) part[j + e / 4][e % 4] = merged(part[j + e / 4][e % 4], add[e / 4][e % 4], f[e / 2 % 2]);
        }
      }
      if (tile % kTensorTiles == kTensorTiles - 1 || tile == tiles - 1) {
        const int base = tile / kTensorTiles * kChunk;
#pragma unroll
        for (int i = 0; i < 2; i++) {
          const int at = warp * kRows + g + 8 * i;
          State total = totals[at];
          __syncwarp();
          if (mine[i] > base) {
            if (base == 0) {
              total = chunkState(chunk[i]);
#pragma unroll
              for (int j = 0; j < W / 8; j++) sum[j][2 * i] = part[j][2 * i], sum[j][2 * i + 1] = part[j][2 * i + 1];
            } else {
              const Factors f = merge(total, chunkState(chunk[i]));
#pragma unroll
              for (int j = 0; j < W / 8; j++) {
                sum[j][2 * i] = merged(sum[j][2 * i], part[j][2 * i], f);
                sum[j][2 * i + 1] = merged(sum[j][2 * i + 1], part[j][2 * i + 1], f);
              }
            }
            if (t == 0) totals[at] = total;
          }
        }
      }
    }
  }
  waitCopies<0>();
  __syncthreads();
  float inverse[2];
#pragma unroll
  for (int i = 0; i < 2; i++) {
    const int at = warp * kRows + g + 8 * i;
    const State total = totals[at];
    const bool none = total.l == 0;  // No keys; of others, the largest weighs one.
    inverse[i] = none ? 0 : 1 / total.l;
    if (lse && t == 0 && rowOf[at] >= 0) lse[headOf[at]] = none ? 0 : total.m + logf(total.l);
  }
  writeRows<W>(out, sum, inverse, dynamic + (queries.base - shared), h.d, [&](int i) {
    const int at = warp * kRows + i;
    return rowOf[at] < 0 ? (i64)-1 : headOf[at] * h.d;
  });
}
