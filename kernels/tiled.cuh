// Products of many rows: a block computes a tile of outputs and rows, from tiles of
// W and x in shared memory that are copied while others are multiplied. The parts
// of K follow each other, each in accumulators that start from zero.
#pragma once
#include "product.cuh"

// Tile is a block's tile: Outputs × Rows, by Across × Down warps.
template <int OutputsOf, int RowsOf, int Across, int Down, int StagesOf> struct Tile {
  static constexpr int kOutputs = OutputsOf, kRows = RowsOf, kStages = StagesOf;
  static constexpr int kThreads = Across * Down * kWarp;
  static constexpr int kMine = kOutputs / Across / 16, kTheirs = kRows / Down / 8;  // 16 outputs and 8 rows are one product.
  static constexpr int kWarpOutputs = kOutputs / Across, kWarpRows = kRows / Down;
  static constexpr int kAcross = Across;
  static constexpr int kPitch = kOutputs + 4;  // Of the results of 64 rows, on their way out.
};

// write adds up a tile's results in shared memory, 64 rows at a time, and writes
// them with neighbouring threads at neighbouring outputs.
template <class S, class T>
__device__ __forceinline__ void writeTile(const Product<T> &p, float *out, const float (&total)[S::kMine][S::kTheirs][4], i64 m0, i64 n0) {
  constexpr int kBatch = 64;
  const int warp = threadIdx.x / kWarp, g = threadIdx.x % kWarp / 4, t = threadIdx.x % 4;
  const int outputs = warp % S::kAcross * S::kWarpOutputs, rows = warp / S::kAcross * S::kWarpRows;
#pragma unroll
  for (int first = 0; first < S::kRows; first += kBatch) {
    __syncthreads();
    if (rows / kBatch * kBatch == first) {
#pragma unroll
      for (int i = 0; i < S::kMine; i++)
#pragma unroll
        for (int j = 0; j < S::kTheirs; j++)
#pragma unroll
          for (int e = 0; e < 4; e++)
            out[(rows - first + j * 8 + 2 * t + e % 2) * S::kPitch + outputs + i * 16 + g + e / 2 * 8] = total[i][j][e];
    }
    __syncthreads();
    for (int i = threadIdx.x; i < kBatch * S::kOutputs / 4; i += S::kThreads) {
      const int row = i / (S::kOutputs / 4), at = i % (S::kOutputs / 4) * 4;
      if (n0 + first + row < p.n && m0 + at < p.m)
        put4(p, n0 + first + row, m0 + at, *reinterpret_cast<const float4 *>(&out[row * S::kPitch + at]));
    }
  }
}

// fold ends a part: total += sum, and the next starts from zero.
template <class S> __device__ __forceinline__ void fold(float (&total)[S::kMine][S::kTheirs][4], float (&sum)[S::kMine][S::kTheirs][4]) {
#pragma unroll
  for (int i = 0; i < S::kMine; i++)
#pragma unroll
    for (int j = 0; j < S::kTheirs; j++)
#pragma unroll
      for (int e = 0; e < 4; e++) total[i][j][e] += sum[i][j][e], sum[i][j][e] = 0;
}

// A stage holds 32 columns of a tile's outputs and rows, 64 bytes each. Lane 4g+t
// reads 8 consecutive columns of row g at once: eight lanes read 128 bytes in a row,
// without a conflict, and 16 bytes feed two products, as in skinny.cuh.
template <class S> struct StageBF16 {
  static constexpr int kStep = 32, kRow = kStep * 2, kBytes = (S::kOutputs + S::kRows) * kRow;
  static constexpr int kOutput = 64 * S::kPitch * 4;  // Results of 64 rows.
};

// addTile adds up the steps from first to before last of a tile, in all rounds of
// which the block's barriers count; fold is called after each part. thread is the
// thread among those of the tile, and shared has the tile's stages.
template <class S, class T, class Fold>
__device__ __forceinline__ void addTile(float (&sum)[S::kMine][S::kTheirs][4], unsigned char *shared, int thread, int first, int last, int rounds,
                                        const Product<T> &p, const Rows<T> &rows, const bf16 *w, i64 m0, i64 n0, Fold fold) {
  using Stage = StageBF16<S>;
  constexpr int kStep = Stage::kStep, kRow = Stage::kRow;
  constexpr int kChunksW = S::kOutputs * 4 / S::kThreads, kChunksX = S::kRows * 4 / S::kThreads;  // Of 16 bytes, a thread.
  const u32 base = sharedAddress(shared);
  const int warp = thread / kWarp, g = thread % kWarp / 4, t = thread % 4;
  const int outputs = warp % S::kAcross * S::kWarpOutputs, mine = warp / S::kAcross * S::kWarpRows;
  // Rows that are bfloat16 as they are need no register on their way.
  const bool direct = sizeof(T) == 2 && !rows.scales && aligned(rows.x, 16) && rows.ldx % 8 == 0 && p.k % 8 == 0;

  const int chunk = thread % 4 * 8;  // The columns of a step that are this thread's to copy.
  const bf16 *from[kChunksW];
#pragma unroll
  for (int i = 0; i < kChunksW; i++) from[i] = w + min(m0 + (thread + i * S::kThreads) / 4, p.m - 1) * p.ldw + chunk;
  i64 row[kChunksX];
  const float *scale[kChunksX];
#pragma unroll
  for (int i = 0; i < kChunksX; i++) {
    row[i] = n0 + (thread + i * S::kThreads) / 4;
    scale[i] = rows.scale(row[i]);
  }
  float held[kChunksX][kVector];
  auto fetch = [&](int step) {
    const u32 stage = base + step % S::kStages * Stage::kBytes;
    const i64 at = (i64)step * kStep + chunk;
#pragma unroll
    for (int i = 0; i < kChunksW; i++) copy16(stage + (thread + i * S::kThreads) * 16, from[i] + (i64)step * kStep, true);
#pragma unroll
    for (int i = 0; i < kChunksX; i++) {
      if (direct) {
        const bool take = row[i] < p.n && at < p.k;
        copy16(stage + S::kOutputs * kRow + (thread + i * S::kThreads) * 16, rows.x + (take ? row[i] * rows.ldx + at : 0), take);
      } else {
        rows.take(held[i], row[i], at);
      }
    }
  };
  auto store = [&](int step) {
    if (direct) return;
    unsigned char *stage = shared + step % S::kStages * Stage::kBytes + S::kOutputs * kRow;
#pragma unroll
    for (int i = 0; i < kChunksX; i++) {
      rows.apply(held[i], scale[i], (i64)step * kStep + chunk);
      *reinterpret_cast<uint4 *>(stage + (thread + i * S::kThreads) * 16) = pack8(held[i]);
    }
  };

#pragma unroll
  for (int s = 0; s < S::kStages - 1; s++) {
    if (first + s < last) {
      fetch(first + s);
      store(first + s);
    }
    commitCopies();
  }
  const bool idle = n0 + mine >= p.n;  // None of the warp's rows is there.
  for (int step = first; step < first + rounds; step++) {
    waitCopies<S::kStages - 2>();
    __syncthreads();
    const int ahead = step + S::kStages - 1;
    if (ahead < last) fetch(ahead);
    commitCopies();
    if (!idle && step < last) {
      const unsigned char *stage = shared + step % S::kStages * Stage::kBytes;
      uint4 b[S::kTheirs];
#pragma unroll
      for (int j = 0; j < S::kTheirs; j++)
        b[j] = *reinterpret_cast<const uint4 *>(stage + (S::kOutputs + mine + j * 8 + g) * kRow + t * 16);
#pragma unroll
      for (int i = 0; i < S::kMine; i++) {
        const uint4 a0 = *reinterpret_cast<const uint4 *>(stage + (outputs + i * 16 + g) * kRow + t * 16);
        const uint4 a1 = *reinterpret_cast<const uint4 *>(stage + (outputs + i * 16 + g + 8) * kRow + t * 16);
#pragma unroll
        for (int j = 0; j < S::kTheirs; j++) {
          multiply(sum[i][j], a0.x, a1.x, a0.y, a1.y, b[j].x, b[j].y);
          multiply(sum[i][j], a0.z, a1.z, a0.w, a1.w, b[j].z, b[j].w);
        }
      }
    }
    if (ahead < last) store(ahead);
    fold(step);
  }
}

template <class S, class T> __device__ __forceinline__ void tiledBF16(const Product<T> &p, const Rows<T> &rows, const bf16 *w) {
  using Stage = StageBF16<S>;
  constexpr int kStages = S::kStages * Stage::kBytes;
  __shared__ __align__(128) unsigned char shared[kStages > Stage::kOutput ? kStages : Stage::kOutput];
  const i64 n0 = (i64)blockIdx.x * S::kRows, m0 = (i64)blockIdx.y * S::kOutputs;
  const int steps = (int)((p.k + Stage::kStep - 1) / Stage::kStep), partSteps = (int)(partOf(p.k) / Stage::kStep);
  float total[S::kMine][S::kTheirs][4] = {}, sum[S::kMine][S::kTheirs][4] = {};
  int left = partSteps;
  addTile<S>(sum, shared, threadIdx.x, 0, steps, steps, p, rows, w, m0, n0, [&](int step) {
    if (--left == 0 || step == steps - 1) fold<S>(total, sum), left = partSteps;
  });
  writeTile<S>(p, reinterpret_cast<float *>(shared), total, m0, n0);
}

// The parts of a tile at once, each by threads and in stages of its own: for so few
// rows that a tile after the other would leave memory idle. Rows of a tile are 64.
template <class S> constexpr int kMediumShared = kParts * S::kStages * StageBF16<S>::kBytes;

template <class S, class T> __device__ __forceinline__ void mediumBF16(const Product<T> &p, const Rows<T> &rows, const bf16 *w) {
  using Stage = StageBF16<S>;
  static_assert(S::kRows == 64 && kParts * Stage::kOutput <= kMediumShared<S>, "the parts' results take the place of the stages");
  extern __shared__ __align__(128) unsigned char dynamic[];
  const i64 n0 = (i64)blockIdx.x * S::kRows, m0 = (i64)blockIdx.y * S::kOutputs;
  const int steps = (int)((p.k + Stage::kStep - 1) / Stage::kStep), partSteps = (int)(partOf(p.k) / Stage::kStep);
  const int part = threadIdx.x / S::kThreads, thread = threadIdx.x % S::kThreads;
  const int warp = thread / kWarp, g = thread % kWarp / 4, t = thread % 4, first = part * partSteps;
  float sum[S::kMine][S::kTheirs][4] = {};
  addTile<S>(sum, dynamic + part * S::kStages * Stage::kBytes, thread, first, min(first + partSteps, steps), min(steps, partSteps), p, rows, w, m0, n0,
             [](int) {});
  __syncthreads();
  float *parts = reinterpret_cast<float *>(dynamic);
  constexpr int kPart = Stage::kOutput / 4;
  const int outputs = warp % S::kAcross * S::kWarpOutputs, mine = warp / S::kAcross * S::kWarpRows;
#pragma unroll
  for (int i = 0; i < S::kMine; i++)
#pragma unroll
    for (int j = 0; j < S::kTheirs; j++)
#pragma unroll
      for (int e = 0; e < 4; e++)
        parts[part * kPart + (mine + j * 8 + 2 * t + e % 2) * S::kPitch + outputs + i * 16 + g + e / 2 * 8] = sum[i][j][e];
  __syncthreads();
  for (int i = threadIdx.x; i < S::kRows * S::kOutputs / 4; i += kParts * S::kThreads) {
    const int row = i / (S::kOutputs / 4), at = i % (S::kOutputs / 4) * 4;
    if (n0 + row >= p.n || m0 + at >= p.m) continue;
    float4 v[kParts];
#pragma unroll
    for (int q = 0; q < kParts; q++) v[q] = *reinterpret_cast<const float4 *>(&parts[q * kPart + row * S::kPitch + at]);
    put4(p, n0 + row, m0 + at,
         make_float4(((v[0].x + v[1].x) + v[2].x) + v[3].x, ((v[0].y + v[1].y) + v[2].y) + v[3].y, ((v[0].z + v[1].z) + v[2].z) + v[3].z,
                     ((v[0].w + v[1].w) + v[2].w) + v[3].w));
  }
}

// A stage holds 64 columns: two blocks. Scales are copied for four stages at once, in
// turn to two places behind the stages, so that no sector is read for four bytes of it.
template <class S, class T>
__device__ __forceinline__ void tiledI8(const Product<T> &p, const signed char *q, const float *qscales, const signed char *w,
                                        const bf16 *wscales) {
  constexpr int kBlock = 32, kStep = 2 * kBlock, kBytes = kStep + 32;  // The pitch makes 8-byte reads free of conflicts.
  constexpr int kStage = (S::kOutputs + S::kRows) * kBytes, kGroup = 4;
  constexpr int kLineW = kGroup * 4, kLineX = kGroup * 8 + 8;  // Bytes of scales of a row; eight more part the banks.
  constexpr int kScales = S::kStages * kStage, kScalesX = S::kOutputs * kLineW, kBoth = kScalesX + S::kRows * kLineX;
  constexpr int kOutput = 64 * S::kPitch * 4;
  __shared__ __align__(128) unsigned char shared[kScales + 2 * kBoth > kOutput ? kScales + 2 * kBoth : kOutput];
  const u32 base = sharedAddress(shared);
  const int warp = threadIdx.x / kWarp, g = threadIdx.x % kWarp / 4, t = threadIdx.x % 4;
  const int outputs = warp % S::kAcross * S::kWarpOutputs, mine = warp / S::kAcross * S::kWarpRows;
  const i64 n0 = (i64)blockIdx.x * S::kRows, m0 = (i64)blockIdx.y * S::kOutputs;
  const int steps = (int)((p.k + kStep - 1) / kStep), partSteps = (int)(partOf(p.k) / kStep);
  auto fetch = [&](int step) {
    const u32 stage = base + step % S::kStages * kStage;
    const i64 at = (i64)step * kStep;
    for (int i = threadIdx.x; i < (S::kOutputs + S::kRows) * 4; i += S::kThreads) {
      const int line = i / 4, byte = i % 4 * 16;
      const i64 row = n0 + line - S::kOutputs;
      if (line < S::kOutputs)
        copy16(stage + line * kBytes + byte, w + min(m0 + line, p.m - 1) * p.ldw + at + byte, true);
      else
        copy16(stage + line * kBytes + byte, q + (row < p.n ? row * p.ldx + at + byte : 0), row < p.n);
    }
    if (step % kGroup) return;
    const u32 scales = base + kScales + step / kGroup % 2 * kBoth;
    for (int i = threadIdx.x; i < (S::kOutputs + S::kRows) * kGroup; i += S::kThreads) {
      const int line = i / kGroup, of = i % kGroup;
      const i64 row = n0 + line - S::kOutputs, block = at / kBlock + 2 * of;
      if (step + of >= steps) continue;
      if (line < S::kOutputs)
        copy4(scales + line * kLineW + of * 4, wscales + min(m0 + line, p.m - 1) * (p.ldw / kBlock) + block, true);
      else
        copy8(scales + kScalesX + (line - S::kOutputs) * kLineX + of * 8, qscales + (row < p.n ? row * (p.ldx / kBlock) + block : 0), row < p.n);
    }
  };
#pragma unroll
  for (int s = 0; s < S::kStages - 1; s++) {
    if (s < steps) fetch(s);
    commitCopies();
  }
  float total[S::kMine][S::kTheirs][4] = {}, sum[S::kMine][S::kTheirs][4] = {};
  const bool idle = n0 + mine >= p.n;
  int left = partSteps;
  for (int step = 0; step < steps; step++) {
    waitCopies<S::kStages - 2>();
    __syncthreads();
    const int ahead = step + S::kStages - 1;
    if (ahead < steps) fetch(ahead);
    commitCopies();
    if (!idle) {
      const unsigned char *stage = shared + step % S::kStages * kStage;
      const unsigned char *scales = shared + kScales + step / kGroup % 2 * kBoth;
#pragma unroll
      for (int block = 0; block < 2; block++) {
        uint2 b[S::kTheirs];
#pragma unroll
        for (int j = 0; j < S::kTheirs; j++)
          b[j] = *reinterpret_cast<const uint2 *>(stage + (S::kOutputs + mine + j * 8 + g) * kBytes + block * kBlock + t * 8);
#pragma unroll
        for (int i = 0; i < S::kMine; i++) {
          const int line = outputs + i * 16 + g;
          const uint2 a0 = *reinterpret_cast<const uint2 *>(stage + line * kBytes + block * kBlock + t * 8);
          const uint2 a1 = *reinterpret_cast<const uint2 *>(stage + (line + 8) * kBytes + block * kBlock + t * 8);
          const unsigned char *mineW = scales + line * kLineW + step % kGroup * 4 + block * 2;
          const float y0 = widen(*reinterpret_cast<const bf16 *>(mineW)), y1 = widen(*reinterpret_cast<const bf16 *>(mineW + 8 * kLineW));
#pragma unroll
          for (int j = 0; j < S::kTheirs; j++) {
            const unsigned char *mineX = scales + kScalesX + (mine + j * 8 + 2 * t) * kLineX + step % kGroup * 8 + block * 4;
            const float z0 = *reinterpret_cast<const float *>(mineX), z1 = *reinterpret_cast<const float *>(mineX + kLineX);
            int d[4];
            multiply8(d, a0.x, a1.x, a0.y, a1.y, b[j].x, b[j].y);
            sum[i][j][0] = fmaf((float)d[0] * y0, z0, sum[i][j][0]);
            sum[i][j][1] = fmaf((float)d[1] * y0, z1, sum[i][j][1]);
            sum[i][j][2] = fmaf((float)d[2] * y1, z0, sum[i][j][2]);
            sum[i][j][3] = fmaf((float)d[3] * y1, z1, sum[i][j][3]);
          }
        }
      }
    }
    if (--left == 0 || step == steps - 1) fold<S>(total, sum), left = partSteps;
  }
  writeTile<S>(p, reinterpret_cast<float *>(shared), total, m0, n0);
}

// 64 outputs × 64 rows by 256 threads, 4 × 4 each; shared memory holds 16 columns,
// transposed, twice.
constexpr int kTileF32 = 64, kTileF32Threads = 256;

template <class T> __device__ __forceinline__ void tiledF32(const Product<T> &p, const Rows<T> &rows, const float *w) {
  constexpr int kStep = 16, kPitch = kTileF32 + 4;
  __shared__ __align__(16) float shared[2][2][kStep][kPitch];  // [turn][W, x]
  const i64 n0 = (i64)blockIdx.x * kTileF32, m0 = (i64)blockIdx.y * kTileF32;
  const int line = threadIdx.x / 4, column = threadIdx.x % 4 * 4;
  const float *from = w + min(m0 + line, p.m - 1) * p.ldw + column;
  const i64 row = n0 + line;
  const T *x = rows.x + min(row, p.n - 1) * rows.ldx;
  const float *scale = rows.scale(row);
  const int steps = (int)((p.k + kStep - 1) / kStep), partSteps = (int)(partOf(p.k) / kStep);
  const int outputs = threadIdx.x % 16 * 4, mine = threadIdx.x / 16 * 4;
  float4 nextW;
  float nextX[4];
  auto fetch = [&](int step) {
    nextW = __ldg(reinterpret_cast<const float4 *>(from + (i64)step * kStep));
    const i64 at = (i64)step * kStep + column;
    load(nextX, x + at, row < p.n ? p.k - at : 0);
    if (!scale) return;
    float f[4];
    load(f, scale + at, p.k - at);
#pragma unroll
    for (int i = 0; i < 4; i++) nextX[i] = widen(narrow<T>(__fmul_rn(nextX[i], f[i])));
  };
  float total[4][4] = {}, sum[4][4] = {};
  fetch(0);
  int left = partSteps;
  for (int step = 0; step < steps; step++) {
    auto &tile = shared[step % 2];
    tile[0][column][line] = nextW.x, tile[0][column + 1][line] = nextW.y;
    tile[0][column + 2][line] = nextW.z, tile[0][column + 3][line] = nextW.w;
#pragma unroll
    for (int i = 0; i < 4; i++) tile[1][column + i][line] = nextX[i];
    __syncthreads();
    if (step + 1 < steps) fetch(step + 1);
#pragma unroll
    for (int k = 0; k < kStep; k++) {
      const float4 a = *reinterpret_cast<const float4 *>(&tile[0][k][outputs]), b = *reinterpret_cast<const float4 *>(&tile[1][k][mine]);
      const float av[4] = {a.x, a.y, a.z, a.w}, bv[4] = {b.x, b.y, b.z, b.w};
#pragma unroll
      for (int j = 0; j < 4; j++)
#pragma unroll
        for (int i = 0; i < 4; i++) sum[j][i] = fmaf(av[i], bv[j], sum[j][i]);
    }
    if (--left == 0 || step == steps - 1) {
      left = partSteps;
#pragma unroll
      for (int j = 0; j < 4; j++)
#pragma unroll
        for (int i = 0; i < 4; i++) total[j][i] += sum[j][i], sum[j][i] = 0;
    }
  }
#pragma unroll
  for (int j = 0; j < 4; j++)
    if (n0 + mine + j < p.n && m0 + outputs < p.m)
      put4(p, n0 + mine + j, m0 + outputs, make_float4(total[j][0], total[j][1], total[j][2], total[j][3]));
}
