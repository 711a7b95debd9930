// Attention on the tensor cores: the definition of a row's sums, which prefill and
// decode share; see tensorattention.cu.
#pragma once
#include "async.cuh"
#include "keys.cuh"

constexpr int kTensorThreads = 128, kTensorWarps = kTensorThreads / kWarp;
constexpr int kRows = 16;                                // Of a warp: pairs of a row and a head.
constexpr int kTensorKeys = 64;                          // Of a tile,
constexpr int kTensorTiles = kChunk / kTensorKeys;       // and tiles of a chunk.
constexpr int kKeySteps = kTensorKeys / 16;              // Of 16 keys.
constexpr float kLn2 = 0.693147180559945309f, kLog2e = 1.44269504088896341f;

__device__ __forceinline__ float exp2Of(float x) {
  float r;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x));
  return r;
}

// finitePairs reports whether neither half, a bf16, is infinite or no number.
__device__ __forceinline__ bool finitePairs(u32 pair) { return (pair & 0x7f80u) != 0x7f80u && (pair & 0x7f800000u) != 0x7f800000u; }

// Lines are rows of D elements in shared memory, of which those behind the width of a
// head are zero. The 16 bytes of columns 8·i … 8·i+7 are swapped among themselves, so
// that eight rows have them in different banks. They begin at a multiple of their size:
// so at(row, piece ^ 2·i) is at(row, piece) ^ 32·i.
template <int D> struct Lines {
  static constexpr int kPieces = D / 8, kLine = 2 * D;
  u32 base;
  __device__ __forceinline__ Lines from(int row) const { return {base + row * kLine}; }
  __device__ __forceinline__ u32 at(int row, int piece) const { return base + row * kLine + ((piece ^ (row & 7)) << 4); }
};

// addScores adds to s the products of 16 rows with 8·Blocks keys, over the columns,
// rising. Lane 4g+t has of block j the rows g (0, 1) and g+8 (2, 3), and the keys
// 8j+2t and 8j+2t+1.
template <int Blocks, int D> __device__ __forceinline__ void addScores(float (*s)[4], Lines<D> queries, Lines<D> keys) {
  const int lane = threadIdx.x % kWarp;
  const u32 query = queries.at(lane % 16, lane / 16), key = keys.at(lane / 16 * 8 + lane % 8, lane / 8 % 2);
#pragma unroll
  for (int c = 0; c < D / 16; c++) {
    u32 a[4];
    loadMatrices(a, query ^ 32 * c);
#pragma unroll
    for (int j = 0; j < Blocks / 2; j++) {
      u32 b[4];
      loadMatrices(b, (key ^ 32 * c) + 16 * j * Lines<D>::kLine);
      multiply(s[2 * j], a[0], a[1], a[2], a[3], b[0], b[1]);
      multiply(s[2 * j + 1], a[0], a[1], a[2], a[3], b[2], b[3]);
    }
  }
}

// addValues adds to the columns 8·j … 8·j+15 of 16 rows the values of 16 keys, times the
// rows' weights: a is the operand that weigh made of them. j is even.
template <int D> __device__ __forceinline__ void addValues(float (&left)[4], float (&right)[4], const u32 (&a)[4], Lines<D> values, int j) {
  const int lane = threadIdx.x % kWarp;
  u32 b[4];
  loadTransposed(b, values.at(lane % 16, lane / 16) ^ 16 * j);
  multiply(left, a[0], a[1], a[2], a[3], b[0], b[1]);
  multiply(right, a[0], a[1], a[2], a[3], b[2], b[3]);
}

// Of states here, m is a power of two's exponent.

// weigh makes of a tile's scores the weights 2^(s·scale − m), rounded to bf16, as
// operands of products with the values, and the state of the lane's two rows. limit is
// how many keys of the tile they attend to; what a row gets that attends to none is
// not to be used.
__device__ __forceinline__ void weigh(u32 (&p)[kKeySteps][4], State (&state)[2], float (&s)[2 * kKeySteps][4], const int (&limit)[2], float scale) {
  const int t = threadIdx.x % 4;
#pragma unroll
  for (int r = 0; r < 2; r++) {
    float m = -kInfinity, l = 0;
#pragma unroll
    for (int j = 0; j < 2 * kKeySteps; j++)
#pragma unroll
      for (int e = 0; e < 2; e++) {
        s[j][2 * r + e] = 8 * j + e < limit[r] - 2 * t ? __fmul_rn(s[j][2 * r + e], scale) : -kInfinity;
        m = fmaxf(m, s[j][2 * r + e]);
      }
    m = fmaxf(m, __shfl_xor_sync(kAll, m, 1));
    m = fmaxf(m, __shfl_xor_sync(kAll, m, 2));
#pragma unroll
    for (int j = 0; j < 2 * kKeySteps; j++) {
      float e[2];
#pragma unroll
      for (int i = 0; i < 2; i++) {
        e[i] = exp2Of(s[j][2 * r + i] - m);
        l += e[i];
      }
      p[j / 2][j % 2 * 2 + r] = pair(e[0], e[1]);
    }
    l += __shfl_xor_sync(kAll, l, 1);
    l += __shfl_xor_sync(kAll, l, 2);
    state[r] = {m, l};
  }
}

// mergeTile merges the state of a chunk with that of the next tile. A chunk without
// keys is {−∞, 0}.
__device__ __forceinline__ Factors mergeTile(State &s, State next) {
  const float m = fmaxf(s.m, next.m);
  const Factors f = {exp2Of(s.m - m), exp2Of(next.m - m)};
  s = {m, fmaf(s.l, f.old, __fmul_rn(next.l, f.next))};
  return f;
}

// chunkState is the state of a whole chunk as chunks are merged: of powers of e.
__device__ __forceinline__ State chunkState(State s) { return {__fmul_rn(s.m, kLn2), s.l}; }

// writeRows writes 16 rows of sums, each times its factor, by way of lines in shared
// memory that are the warp's own, so that whole lines are written. place gives where in
// `to` a row begins, or −1 for one that is not wanted.
template <int W, class Place>
__device__ __forceinline__ void writeRows(bf16 *to, const float (&sum)[W / 8][4], const float (&factor)[2], unsigned char *lines, i64 d, Place place) {
  constexpr int kPieces = Lines<W>::kPieces;
  const int lane = threadIdx.x % kWarp, piece = lane % kPieces;
  const Lines<W> in{0};
#pragma unroll
  for (int i = 0; i < 2; i++)
#pragma unroll
    for (int j = 0; j < W / 8; j++)
      *reinterpret_cast<u32 *>(lines + in.at(lane / 4 + 8 * i, j) + lane % 4 * 4) =
          pair(__fmul_rn(sum[j][2 * i], factor[i]), __fmul_rn(sum[j][2 * i + 1], factor[i]));
  __syncwarp();
#pragma unroll
  for (int i = lane / kPieces; i < kRows; i += kWarp / kPieces) {
    const i64 at = place(i);
    if (at >= 0 && piece * 8 < d) *reinterpret_cast<uint4 *>(to + at + piece * 8) = *reinterpret_cast<const uint4 *>(lines + in.at(i, piece));
  }
}
