// Attention of few rows with many keys, on the tensor cores: a block has one chunk of
// one row's keys, and each of its warps a tile.
#pragma once
#include "tensor.cuh"

// waitFor is waitCopies for a number that is known when loops are unrolled.
__device__ __forceinline__ void waitFor(int pending) {
  if (pending >= 3)
    waitCopies<3>();
  else if (pending == 2)
    waitCopies<2>();
  else if (pending == 1)
    waitCopies<1>();
  else
    waitCopies<0>();
}

// Shared memory has the queries, and for each warp four places of 16 keys; values follow
// the keys into these, and in the end the warp's sums.
//
// With one chunk there is nothing to merge, and sums is the output itself.
template <int W>
__device__ __forceinline__ void attendChunkTensor(float *sums, float2 *states, const bf16 *q, const bf16 *k, const bf16 *v, const Paged &keys, i64 n,
                                                  const Heads &h) {
  extern __shared__ __align__(256) unsigned char dynamic[];
  __shared__ State tileStates[kTensorWarps][kRows];
  constexpr int kPieces = Lines<W>::kPieces, kPlace = 16 * Lines<W>::kLine, kPitch = W + 8;
  static_assert(kRows * kPitch * 4 <= kKeySteps * kPlace, "a warp's sums take the place of its keys");
  const u32 shared = sharedAddress(dynamic);
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp, g = lane / 4, t = lane % 4;
  const i64 row = blockIdx.x, kvhead = blockIdx.y, chunk = blockIdx.z, chunks = gridDim.z, base = chunk * kChunk;
  if (row >= n) return;
  const int limit = (int)min(keys.count(row) - base, (i64)kChunk), group = h.group();
  bf16 *out = reinterpret_cast<bf16 *>(sums);
  if (limit <= 0) {
    if (chunks == 1)
      for (i64 i = threadIdx.x; i < group * h.d; i += kTensorThreads) out[(row * h.heads + kvhead * group) * h.d + i] = narrow<bf16>(0);
    return;
  }
  const int mine = min(limit - warp * kTensorKeys, kTensorKeys);  // Keys of the warp's tile; none if not above zero.
  // Where the keys are: lane i knows it of the tile's keys i and i + 32.
  int lies[2];
#pragma unroll
  for (int i = 0; i < 2; i++) lies[i] = lane + kWarp * i < mine ? (int)keys.of(row).row(base + warp * kTensorKeys + lane + kWarp * i) : 0;
  const u32 places = shared + kRows * Lines<W>::kLine + warp * kKeySteps * kPlace;
  const int piece = lane % kPieces, line = lane / kPieces;
  const bool column = piece * 8 < h.d;
  auto fetch = [&](const bf16 *from, int step) {
    if (mine > 0) {
#pragma unroll
      for (int i = 0; i < 16 * kPieces / kWarp; i++) {
        const int key = line + i * (kWarp / kPieces);
        const i64 source = __shfl_sync(kAll, lies[step / 2], step % 2 * 16 + key);
        const bool take = 16 * step + key < mine && column;
        copy16(Lines<W>{places + step * kPlace}.at(key, piece), from + (take ? source * h.stride() + kvhead * h.d + piece * 8 : 0), take);
      }
    }
    commitCopies();
  };
  for (int first = 0; first < group; first += kRows) {
    const int heads = min(kRows, group - first);
    const i64 head = row * h.heads + kvhead * group + first;
    __syncthreads();
    for (int i = threadIdx.x; i < kRows * kPieces; i += kTensorThreads) {
      const int which = i / kPieces, c = i % kPieces;
      const bool take = which < heads && c * 8 < h.d;
      copy16(Lines<W>{shared}.at(which, c), q + (take ? (head + which) * h.d + c * 8 : 0), take);
    }
    commitCopies();
#pragma unroll
    for (int step = 0; step < kKeySteps; step++) fetch(k, step);
    waitCopies<kKeySteps>();
    __syncthreads();
    if (mine > 0) {
      u32 p[kKeySteps][4];
      {
        float s[2 * kKeySteps][4] = {};
#pragma unroll
        for (int step = 0; step < kKeySteps; step++) {
          waitCopies<kKeySteps - 1>();
          __syncwarp();
          addScores<2>(s + 2 * step, Lines<W>{shared}, Lines<W>{places + step * kPlace});
          __syncwarp();
          fetch(v, step);
        }
        State state[2];
        const int both[2] = {mine, mine};
        weigh(p, state, s, both, h.scale * kLog2e);
        if (t == 0) tileStates[warp][g] = state[0], tileStates[warp][g + 8] = state[1];
      }
      float sum[W / 8][4] = {};
#pragma unroll
      for (int step = 0; step < kKeySteps; step++) {
        waitFor(kKeySteps - 1 - step);
        __syncwarp();
#pragma unroll
        for (int j = 0; j < W / 8; j += 2) addValues<W>(sum[j], sum[j + 1], p[step], Lines<W>{places + step * kPlace}, j);
      }
      __syncwarp();
      float *parts = reinterpret_cast<float *>(dynamic + (places - shared));
#pragma unroll
      for (int j = 0; j < W / 8; j++)
#pragma unroll
        for (int i = 0; i < 2; i++)
          if (g + 8 * i < heads) *reinterpret_cast<float2 *>(&parts[(g + 8 * i) * kPitch + 8 * j + 2 * t]) = make_float2(sum[j][2 * i], sum[j][2 * i + 1]);
    }
    __syncthreads();
    const int tiles = (limit + kTensorKeys - 1) / kTensorKeys;
    for (int i = threadIdx.x; i < heads * W; i += kTensorThreads) {
      const int which = i / W, c = i % W;
      if (c >= h.d) continue;
      const float *parts = reinterpret_cast<const float *>(dynamic + kRows * Lines<W>::kLine) + which * kPitch + c;
      State state = {-kInfinity, 0};
      float sum = 0;
      for (int tile = 0; tile < tiles; tile++) {
        const Factors f = mergeTile(state, tileStates[tile][which]);
        sum = merged(sum, parts[tile * kKeySteps * kPlace / 4], f);
      }
      if (chunks == 1) {
        out[(head + which) * h.d + c] = narrow<bf16>(__fmul_rn(sum, 1 / state.l));
        continue;
      }
      const i64 at = (head + which) * chunks + chunk;
      sums[at * h.d + c] = sum;
      if (c == 0) {
        const State whole = chunkState(state);
        states[at] = make_float2(whole.m, whole.l);
      }
    }
  }
}
