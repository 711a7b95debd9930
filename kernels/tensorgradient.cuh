// The gradient of attention on the tensor cores. Both kernels hold two matrices of 64
// lines, of which a warp has 16, and go through two of 32 lines at a time: queries and
// dout, and keys and values, or the other way around.
#pragma once
#include "tensor.cuh"

constexpr int kHeldLines = kTensorWarps * kRows, kStreamed = 32;

// Gradients are where a block's lines are in shared memory: two held matrices, then
// two of each stage.
template <int W> struct Gradients {
  static constexpr int kPieces = Lines<W>::kPieces, kEach = kTensorThreads / kPieces, kLine = Lines<W>::kLine;
  u32 shared;
  __device__ __forceinline__ Lines<W> held(int which) const { return {shared + which * kHeldLines * kLine}; }
  __device__ __forceinline__ Lines<W> streamed(int stage, int which) const {
    return {shared + (2 * kHeldLines + (stage % 2 * 2 + which) * kStreamed) * kLine};
  }
};

// weighGradient makes of a score and of ⟨dout, v⟩ the probability and the gradient of the
// score. lse is of powers of two.
__device__ __forceinline__ float2 weighGradient(float score, float along, bool there, float lse, float delta, float scale) {
  const float p = there ? exp2Of(fmaf(score, scale * kLog2e, -lse)) : 0;
  return make_float2(p, there ? __fmul_rn(__fmul_rn(p, along - delta), scale) : 0);
}

// addSteps adds to 16 rows the products of 32 lines with their weights.
template <int W> __device__ __forceinline__ void addSteps(float (&sum)[W / 8][4], const u32 (&a)[kStreamed / 16][4], Lines<W> lines) {
#pragma unroll
  for (int j = 0; j < W / 8; j += 2)
#pragma unroll
    for (int step = 0; step < kStreamed / 16; step++) addValues<W>(sum[j], sum[j + 1], a[step], lines.from(16 * step), j);
}

// dq, and delta = ⟨dout, out⟩ for what follows: a block has pairs of a row and a head as
// prefill has them.
template <int W>
__device__ __forceinline__ void gradientOfQueriesTensor(bf16 *dq, float *delta, const bf16 *dout, const bf16 *out, const float *lse, const bf16 *q,
                                                        const bf16 *k, const bf16 *v, const Spans &keys, i64 n, const Heads &h) {
  using G = Gradients<W>;
  extern __shared__ __align__(256) unsigned char dynamic[];
  __shared__ int rowOf[kHeldLines], headOf[kHeldLines];  // headOf counts over all rows.
  const G at{sharedAddress(dynamic)};
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp, g = lane / 4, t = lane % 4;
  const int piece = threadIdx.x % G::kPieces, line = threadIdx.x / G::kPieces;
  const bool column = piece * 8 < h.d;
  const int group = h.group(), headsHere = min(group, kHeldLines), rowsHere = kHeldLines / headsHere;
  const int r0 = blockIdx.x * rowsHere, r1 = (int)min((i64)r0 + rowsHere, n), kvhead = blockIdx.y;
  for (int i = threadIdx.x; i < kHeldLines; i += kTensorThreads) {
    const int row = r0 + i / headsHere, head = blockIdx.z * headsHere + i % headsHere;
    rowOf[i] = row < r1 && i < headsHere * rowsHere && head < group ? row : -1;
    headOf[i] = row * (int)h.heads + kvhead * group + head;
  }
  __syncthreads();
  for (int i = line; i < kHeldLines; i += G::kEach) {
    const bool take = rowOf[i] >= 0 && column;
    const i64 from = take ? headOf[i] * h.d + piece * 8 : 0;
    copy16(at.held(0).at(i, piece), q + from, take);
    copy16(at.held(1).at(i, piece), dout + from, take);
  }
  // The lane's two rows: the logarithms of their denominators, and delta.
  float logs[2] = {}, alongs[2] = {};
  for (int i = lane / G::kPieces; i < kRows; i += kWarp / G::kPieces) {
    const int pair = warp * kRows + i;
    const bool there = rowOf[pair] >= 0;
    const i64 from = there ? headOf[pair] * h.d + lane % G::kPieces * 8 : 0, left = there ? h.d - lane % G::kPieces * 8 : 0;
    float x[8], y[8], along = 0;
    load(x, dout + from, left);
    load(y, out + from, left);
#pragma unroll
    for (int c = 0; c < 8; c++) along = fmaf(x[c], y[c], along);
#pragma unroll
    for (int other = G::kPieces / 2; other > 0; other /= 2) along += __shfl_xor_sync(kAll, along, other);
    if (there && lane % G::kPieces == 0) delta[headOf[pair]] = along;
#pragma unroll
    for (int r = 0; r < kWarp / G::kPieces; r++) {  // Row i of these lanes, for whoever has it.
      const float sum = __shfl_sync(kAll, along, r * G::kPieces);
      const int row = i - lane / G::kPieces + r;
      if (row == g) alongs[0] = sum;
      if (row == g + 8) alongs[1] = sum;
    }
  }
#pragma unroll
  for (int i = 0; i < 2; i++) {
    const int pair = warp * kRows + g + 8 * i;
    if (rowOf[pair] >= 0) logs[i] = __fmul_rn(lse[headOf[pair]], kLog2e);
  }
  float sum[W / 8][4] = {};
  for (int from = r0, to; from < r1; from = to) {  // Runs of rows with the same keys.
    const Spans::Place lies = keys.of(from);
    int end = (int)keys.count(from);
    for (to = from + 1; to < r1 && keys.together(from, to); to++) end = max(end, (int)keys.count(to));
    auto fetch = [&](int tile) {
#pragma unroll 2
      for (int i = line; i < kStreamed; i += G::kEach) {
        const int key = tile * kStreamed + i;
        const bool take = key < end && column;
        const i64 source = take ? lies.row(key) * h.stride() + kvhead * h.d + piece * 8 : 0;
        copy16(at.streamed(tile, 0).at(i, piece), k + source, take);
        copy16(at.streamed(tile, 1).at(i, piece), v + source, take);
      }
      commitCopies();
    };
    int mine[2];  // Keys of the lane's two rows, where they are of this run.
#pragma unroll
    for (int i = 0; i < 2; i++) {
      const int row = rowOf[warp * kRows + g + 8 * i];
      mine[i] = row >= from && row < to ? (int)keys.count(row) : 0;
    }
    const int tiles = (end + kStreamed - 1) / kStreamed;
    __syncthreads();  // Nobody reads the run before any more.
    if (tiles > 0) fetch(0);
#pragma unroll 1
    for (int tile = 0; tile < tiles; tile++) {
      waitCopies<0>();
      __syncthreads();
      if (tile + 1 < tiles) fetch(tile + 1);
      const int limit[2] = {mine[0] - tile * kStreamed, mine[1] - tile * kStreamed};
      if (!__any_sync(kAll, limit[0] > 0 || limit[1] > 0)) continue;
      float s[kStreamed / 8][4] = {}, along[kStreamed / 8][4] = {};
      addScores<kStreamed / 8>(s, at.held(0).from(warp * kRows), at.streamed(tile, 0));
      addScores<kStreamed / 8>(along, at.held(1).from(warp * kRows), at.streamed(tile, 1));
      u32 ds[kStreamed / 16][4];
#pragma unroll
      for (int j = 0; j < kStreamed / 8; j++)
#pragma unroll
        for (int r = 0; r < 2; r++) {
          float w[2];
#pragma unroll
          for (int e = 0; e < 2; e++)
            w[e] = weighGradient(s[j][2 * r + e], along[j][2 * r + e], 8 * j + e < limit[r] - 2 * t, logs[r], alongs[r], h.scale).y;
          ds[j / 2][j % 2 * 2 + r] = pair(w[0], w[1]);
        }
      addSteps<W>(sum, ds, at.streamed(tile, 0));
    }
  }
  waitCopies<0>();
  __syncthreads();
  const float one[2] = {1, 1};
  writeRows<W>(dq, sum, one, dynamic + warp * kRows * G::kLine, h.d, [&](int i) {
    const int pair = warp * kRows + i;
    return rowOf[pair] < 0 ? (i64)-1 : headOf[pair] * h.d;
  });
}

// dk and dv of 64 keys of a key-value head, over the rows that attend to them, rising,
// and the heads of each, rising: 32 of these at a time.
template <int W>
__device__ __forceinline__ void gradientOfKeysTensor(bf16 *dk, bf16 *dv, const bf16 *dout, const float *lse, const float *delta, const bf16 *q,
                                                     const bf16 *k, const bf16 *v, const Spans &keys, const int *rowsOf, i64 rows, const Heads &h) {
  using G = Gradients<W>;
  extern __shared__ __align__(256) unsigned char dynamic[];
  __shared__ __align__(16) u32 numbers[2][4][kStreamed];  // Of a stage's pairs: lse and delta, and where their keys begin, and how many.
  __shared__ int2 rowsOfKey[kHeldLines];
  __shared__ int ends[2][kTensorWarps];
  const G at{sharedAddress(dynamic)};
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp, g = lane / 4, t = lane % 4;
  const int piece = threadIdx.x % G::kPieces, line = threadIdx.x / G::kPieces;
  const bool column = piece * 8 < h.d;
  const int group = h.group(), kvhead = blockIdx.y, k0 = blockIdx.x * kHeldLines, k1 = (int)min((i64)k0 + kHeldLines, rows);
  for (int i = line; i < kHeldLines; i += G::kEach) {
    const bool take = k0 + i < k1 && column;
    const i64 from = take ? (i64)(k0 + i) * h.stride() + kvhead * h.d + piece * 8 : 0;
    copy16(at.held(0).at(i, piece), k + from, take);
    copy16(at.held(1).at(i, piece), v + from, take);
  }
  if (threadIdx.x < kHeldLines && k0 + (int)threadIdx.x < k1) {
    const i64 key = k0 + threadIdx.x;
    rowsOfKey[threadIdx.x] = make_int2(rowsOf[2 * key], rowsOf[2 * key + 1]);
  }
  __syncthreads();
  float dks[W / 8][4] = {}, dvs[W / 8][4] = {};
  for (int begin = k0, end; begin < k1; begin = end) {  // Runs of keys with the same rows.
    const int from = rowsOfKey[begin - k0].x, to = rowsOfKey[begin - k0].y;
    for (end = begin + 1; end < k1 && rowsOfKey[end - k0].x == from && rowsOfKey[end - k0].y == to; end++) {}
    // Those of the rows that attend to any of the keys lie between two.
    int low = to, high = from;
    for (int row = from + threadIdx.x; row < to; row += kTensorThreads) {
      const int first = keys.first[row];
      if (first < end && first + (int)keys.count(row) > begin) low = min(low, row), high = row + 1;
    }
#pragma unroll
    for (int other = kWarp / 2; other > 0; other /= 2) {
      low = min(low, __shfl_xor_sync(kAll, low, other));
      high = max(high, __shfl_xor_sync(kAll, high, other));
    }
    __syncthreads();  // Nobody reads the run before any more.
    if (lane == 0) ends[0][warp] = low, ends[1][warp] = high;
    __syncthreads();
#pragma unroll
    for (int i = 0; i < kTensorWarps; i++) low = min(low, ends[0][i]), high = max(high, ends[1][i]);
    if (low >= high) continue;
    const int first = (low - from) * group / kStreamed, last = ((high - from) * group + kStreamed - 1) / kStreamed;
    auto fetch = [&](int tile) {
#pragma unroll 2
      for (int i = line; i < kStreamed; i += G::kEach) {
        const int pair = tile * kStreamed + i, row = from + pair / group;
        const bool take = row < to && column;
        const i64 source = take ? (row * h.heads + kvhead * group + pair % group) * h.d + piece * 8 : 0;
        copy16(at.streamed(tile, 0).at(i, piece), q + source, take);
        copy16(at.streamed(tile, 1).at(i, piece), dout + source, take);
      }
      const int pair = tile * kStreamed + lane, row = from + pair / group;
      const bool take = row < to;
      const i64 head = take ? row * h.heads + kvhead * group + pair % group : 0;
      const void *source = warp == 0 ? (const void *)(lse + head) : warp == 1 ? (const void *)(delta + head) : (const void *)((warp == 2 ? keys.first : keys.counts) + (take ? row : 0));
      copy4(sharedAddress(&numbers[tile % 2][warp][lane]), source, take);
      commitCopies();
    };
    fetch(first);
#pragma unroll 1
    for (int tile = first; tile < last; tile++) {
      waitCopies<0>();
      __syncthreads();
      if (tile + 1 < last) fetch(tile + 1);
      const u32(&of)[4][kStreamed] = numbers[tile % 2];
      // Bit 4j+2r+e: the pair 8j+2t+e attends to the lane's key r.
      u32 there = 0;
#pragma unroll
      for (int j = 0; j < kStreamed / 8; j++)
#pragma unroll
        for (int e = 0; e < 2; e++) {
          const int pair = 8 * j + 2 * t + e, starts = max((int)of[2][pair], begin), stops = min((int)(of[2][pair] + of[3][pair]), end);
#pragma unroll
          for (int r = 0; r < 2; r++) {
            const int key = k0 + warp * kRows + g + 8 * r;
            there |= (u32)(key >= starts && key < stops) << (4 * j + 2 * r + e);
          }
        }
      if (!__any_sync(kAll, there != 0)) continue;
      float s[kStreamed / 8][4] = {}, along[kStreamed / 8][4] = {};
      addScores<kStreamed / 8>(s, at.held(0).from(warp * kRows), at.streamed(tile, 0));
      addScores<kStreamed / 8>(along, at.held(1).from(warp * kRows), at.streamed(tile, 1));
      u32 p[kStreamed / 16][4], ds[kStreamed / 16][4];
#pragma unroll
      for (int j = 0; j < kStreamed / 8; j++) {
        const float2 logs = *reinterpret_cast<const float2 *>(&of[0][8 * j + 2 * t]), alongs = *reinterpret_cast<const float2 *>(&of[1][8 * j + 2 * t]);
#pragma unroll
        for (int r = 0; r < 2; r++) {
          const float2 a = weighGradient(s[j][2 * r], along[j][2 * r], there >> (4 * j + 2 * r) & 1, __fmul_rn(logs.x, kLog2e), alongs.x, h.scale);
          const float2 b = weighGradient(s[j][2 * r + 1], along[j][2 * r + 1], there >> (4 * j + 2 * r + 1) & 1, __fmul_rn(logs.y, kLog2e), alongs.y, h.scale);
          p[j / 2][j % 2 * 2 + r] = pair(a.x, b.x);
          ds[j / 2][j % 2 * 2 + r] = pair(a.y, b.y);
        }
      }
      addSteps<W>(dvs, p, at.streamed(tile, 1));
      addSteps<W>(dks, ds, at.streamed(tile, 0));
    }
  }
  waitCopies<0>();
  __syncthreads();
  const float one[2] = {1, 1};
  auto place = [&](int i) {
    const int key = k0 + warp * kRows + i;
    return key < k1 ? key * h.stride() + kvhead * h.d : (i64)-1;
  };
  writeRows<W>(dk, dks, one, dynamic + warp * kRows * G::kLine, h.d, place);
  writeRows<W>(dv, dvs, one, dynamic + (kHeldLines + warp * kRows) * G::kLine, h.d, place);
}
