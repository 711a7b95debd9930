// Products of at most 16 rows: W is read once, straight into the registers of the
// lane that multiplies it. A block has 4 warps, one for each part of K, and adds the
// parts up in shared memory.
#pragma once
#include "product.cuh"

constexpr int kSkinnyThreads = kParts * kWarp;
constexpr int kSkinnyRows = 16;
constexpr int kSkinnyOutputs = 16;     // Of a block, with the tensor cores,
constexpr int kSkinnyOutputsF32 = 32;  // and without.

// finish adds up the parts of Outputs outputs from m0 on and writes them.
template <int Outputs, class T>
__device__ __forceinline__ void finish(const Product<T> &p, float (&parts)[kParts][kSkinnyRows][Outputs + 4], i64 m0) {
  __syncthreads();
  for (int i = threadIdx.x; i < kSkinnyRows * Outputs; i += kSkinnyThreads) {
    const int row = i / Outputs, out = i % Outputs;
    if (row < p.n && m0 + out < p.m)
      put(p, row, m0 + out, ((parts[0][row][out] + parts[1][row][out]) + parts[2][row][out]) + parts[3][row][out]);
  }
}

// keep writes a warp's part, in the layout of multiply: outputs are rows there.
__device__ __forceinline__ void keep(float (&part)[kSkinnyRows][kSkinnyOutputs + 4], const float (&sum)[2][4]) {
  const int g = threadIdx.x % kWarp / 4, t = threadIdx.x % 4;
#pragma unroll
  for (int tile = 0; tile < 2; tile++) {
#pragma unroll
    for (int i = 0; i < 4; i++) part[tile * 8 + 2 * t + i % 2][g + i / 2 * 8] = sum[tile][i];
  }
}

template <class T> __device__ __forceinline__ void skinnyBF16(i64 block, const Product<T> &p, const Rows<T> &rows, const bf16 *w) {
  __shared__ float parts[kParts][kSkinnyRows][kSkinnyOutputs + 4];
  constexpr int kStep = 32, kAhead = 4;  // Elements of K a step; steps whose loads are under way.
  const int warp = threadIdx.x / kWarp, g = threadIdx.x % kWarp / 4, t = threadIdx.x % 4;
  const i64 m0 = block * kSkinnyOutputs, part = partOf(p.k);
  const i64 begin = warp * part, end = min(begin + part, p.k);
  // Outputs behind the last are computed as the last, and not written.
  const bf16 *w0 = w + min(m0 + g, p.m - 1) * p.ldw + 8 * t, *w1 = w + min(m0 + g + 8, p.m - 1) * p.ldw + 8 * t;
  const float *s0 = rows.scale(g), *s1 = rows.scale(g + 8);
  const bool second = p.n > 8;
  float sum[2][4] = {};
  uint4 now[kAhead][2], next[kAhead][2];
  auto load = [&](uint4(&a)[kAhead][2], i64 k0) {
#pragma unroll
    for (int u = 0; u < kAhead; u++) {
      if (k0 + u * kStep < end) {
        a[u][0] = __ldg(reinterpret_cast<const uint4 *>(w0 + k0 + u * kStep));
        a[u][1] = __ldg(reinterpret_cast<const uint4 *>(w1 + k0 + u * kStep));
      }
    }
  };
  load(now, begin);
  for (i64 k0 = begin; k0 < end; k0 += kAhead * kStep) {
    load(next, k0 + kAhead * kStep);
#pragma unroll
    for (int u = 0; u < kAhead; u++) {
      const i64 at = k0 + u * kStep + 8 * t;
      if (k0 + u * kStep < end) {
        const uint4 a0 = now[u][0], a1 = now[u][1];
        float v[kVector];
        rows.take(v, g, at);
        rows.apply(v, s0, at);
        const uint4 b = pack8(v);
        multiply(sum[0], a0.x, a1.x, a0.y, a1.y, b.x, b.y);
        multiply(sum[0], a0.z, a1.z, a0.w, a1.w, b.z, b.w);
        if (second) {
          rows.take(v, g + 8, at);
          rows.apply(v, s1, at);
          const uint4 c = pack8(v);
          multiply(sum[1], a0.x, a1.x, a0.y, a1.y, c.x, c.y);
          multiply(sum[1], a0.z, a1.z, a0.w, a1.w, c.z, c.w);
        }
      }
      now[u][0] = next[u][0], now[u][1] = next[u][1];
    }
  }
  keep(parts[warp], sum);
  finish<kSkinnyOutputs>(p, parts, m0);
}

template <class T>
__device__ __forceinline__ void skinnyI8(i64 block, const Product<T> &p, const signed char *q, const float *qscales, const signed char *w,
                                         const bf16 *wscales) {
  __shared__ float parts[kParts][kSkinnyRows][kSkinnyOutputs + 4];
  constexpr int kBlock = 32, kStep = 2 * kBlock, kAhead = 4;
  const int warp = threadIdx.x / kWarp, g = threadIdx.x % kWarp / 4, t = threadIdx.x % 4;
  const i64 m0 = block * kSkinnyOutputs, part = partOf(p.k);
  const i64 begin = warp * part, end = min(begin + part, p.k);
  const i64 r0 = min(m0 + g, p.m - 1), r1 = min(m0 + g + 8, p.m - 1);
  const signed char *w0 = w + r0 * p.ldw + 8 * t, *w1 = w + r1 * p.ldw + 8 * t;
  const bf16 *ws0 = wscales + r0 * (p.ldw / kBlock), *ws1 = wscales + r1 * (p.ldw / kBlock);
  const int tiles = p.n > 8 ? 2 : 1;
  float sum[2][4] = {};
  // The four lanes of a row have the scales of one step each, and give them to each
  // other: so they are read as they lie.
  static_assert(kAhead == 4, "a step's scales are those of one lane");
  struct Steps {
    uint2 a[kAhead][2][2];  // [step][block][row g or g+8]
    u32 scales[2];          // Of both blocks of step t, of row g or g+8.
    float2 rows[2];         // Of both blocks of step t, of row g of each tile of x.
  };
  Steps now, next;
  auto load = [&](Steps &s, i64 k0) {
#pragma unroll
    for (int u = 0; u < kAhead; u++) {
      const i64 at = k0 + u * kStep;
      if (at < end) {
#pragma unroll
        for (int b = 0; b < 2; b++) {
          s.a[u][b][0] = __ldg(reinterpret_cast<const uint2 *>(w0 + at + b * kBlock));
          s.a[u][b][1] = __ldg(reinterpret_cast<const uint2 *>(w1 + at + b * kBlock));
        }
      }
    }
    const i64 at = k0 + t * kStep;
    s.scales[0] = s.scales[1] = 0;
    s.rows[0] = s.rows[1] = make_float2(0, 0);
    if (at < end) {
      s.scales[0] = __ldg(reinterpret_cast<const u32 *>(ws0 + at / kBlock));
      s.scales[1] = __ldg(reinterpret_cast<const u32 *>(ws1 + at / kBlock));
#pragma unroll
      for (int tile = 0; tile < 2; tile++)
        if (tile * 8 + g < p.n) s.rows[tile] = __ldg(reinterpret_cast<const float2 *>(qscales + (tile * 8 + g) * (p.ldx / kBlock) + at / kBlock));
    }
  };
  load(now, begin);
  for (i64 k0 = begin; k0 < end; k0 += kAhead * kStep) {
    load(next, k0 + kAhead * kStep);
#pragma unroll
    for (int u = 0; u < kAhead; u++) {
      const i64 at = k0 + u * kStep;
      if (at < end) {
        const u32 s0 = __shfl_sync(kAll, now.scales[0], 4 * g + u), s1 = __shfl_sync(kAll, now.scales[1], 4 * g + u);
#pragma unroll
        for (int tile = 0; tile < 2; tile++) {
          if (tile < tiles) {
            const i64 row = tile * 8 + g;
            uint2 b[2] = {};
            if (row < p.n) {
              b[0] = __ldg(reinterpret_cast<const uint2 *>(q + row * p.ldx + at + 8 * t));
              b[1] = __ldg(reinterpret_cast<const uint2 *>(q + row * p.ldx + at + kBlock + 8 * t));
            }
#pragma unroll
            for (int i = 0; i < 2; i++) {
              int d[4];
              multiply8(d, now.a[u][i][0].x, now.a[u][i][1].x, now.a[u][i][0].y, now.a[u][i][1].y, b[i].x, b[i].y);
              const float mine = i ? now.rows[tile].y : now.rows[tile].x;
              const float z0 = __shfl_sync(kAll, mine, 8 * t + u), z1 = __shfl_sync(kAll, mine, 8 * t + 4 + u);  // Of rows 2t and 2t+1.
              const float y0 = i ? highHalf(s0) : lowHalf(s0), y1 = i ? highHalf(s1) : lowHalf(s1);
              sum[tile][0] = fmaf((float)d[0] * y0, z0, sum[tile][0]);
              sum[tile][1] = fmaf((float)d[1] * y0, z1, sum[tile][1]);
              sum[tile][2] = fmaf((float)d[2] * y1, z0, sum[tile][2]);
              sum[tile][3] = fmaf((float)d[3] * y1, z1, sum[tile][3]);
            }
          }
        }
      }
    }
    now = next;
  }
  keep(parts[warp], sum);
  finish<kSkinnyOutputs>(p, parts, m0);
}

// A lane has one output; W and x go through shared memory of the warp's own.
template <class T> __device__ __forceinline__ void skinnyF32(i64 block, const Product<T> &p, const Rows<T> &rows, const float *w) {
  constexpr int kStep = 32, kPitch = kStep + 4;
  __shared__ union __align__(16) {
    struct {
      float w[kSkinnyOutputsF32][kPitch], x[kSkinnyRows][kStep];
    } tile[kParts];
    float parts[kParts][kSkinnyRows][kSkinnyOutputsF32 + 4];
  } shared;
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const i64 m0 = block * kSkinnyOutputsF32, part = partOf(p.k);
  const i64 begin = warp * part, end = min(begin + part, p.k);
  auto &tile = shared.tile[warp];
  float sum[kSkinnyRows] = {};
  float4 next[8];
  auto load = [&](i64 k0) {
#pragma unroll
    for (int i = 0; i < 8; i++)
      next[i] = __ldg(reinterpret_cast<const float4 *>(w + min(m0 + i * 4 + lane / 8, p.m - 1) * p.ldw + k0 + lane % 8 * 4));
  };
  if (begin < end) load(begin);
  for (i64 k0 = begin; k0 < end; k0 += kStep) {
    __syncwarp();
#pragma unroll
    for (int i = 0; i < 8; i++) *reinterpret_cast<float4 *>(&tile.w[i * 4 + lane / 8][lane % 8 * 4]) = next[i];
    if (k0 + kStep < end) load(k0 + kStep);
#pragma unroll
    for (int i = 0; i < 2; i++) {
      const int row = i * 8 + lane / 4;
      if (i * 8 < p.n) {
        const i64 at = k0 + lane % 4 * 8;
        float v[kVector];
        rows.take(v, row, at);
        rows.apply(v, rows.scale(row), at);
        write8(&tile.x[row][lane % 4 * 8], v);
      }
    }
    __syncwarp();
    for (int k = 0; k < kStep; k += 4) {
      const float4 a = *reinterpret_cast<const float4 *>(&tile.w[lane][k]);
#pragma unroll
      for (int r = 0; r < kSkinnyRows; r += 4) {
        if (r < p.n) {
#pragma unroll
          for (int i = r; i < r + 4; i++) {
            const float4 b = *reinterpret_cast<const float4 *>(&tile.x[i][k]);
            sum[i] = fmaf(a.x, b.x, sum[i]);
            sum[i] = fmaf(a.y, b.y, sum[i]);
            sum[i] = fmaf(a.z, b.z, sum[i]);
            sum[i] = fmaf(a.w, b.w, sum[i]);
          }
        }
      }
    }
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < kSkinnyRows; i++) shared.parts[warp][i][lane] = sum[i];
  finish<kSkinnyOutputsF32>(p, shared.parts, m0);
}
