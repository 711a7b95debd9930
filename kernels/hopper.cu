// Products of many rows, and composing, on Hopper's tensor cores: twins of
// product_bf16_T_large and compose_bf16_W.
//
// Targets: sm90a.
//
//   product_bf16_T_group (y, x, w, wscales, scales, index, n, m, k, ldw, ldx, ldy, flags)
//     as product_bf16_T_large, but that x is what arrange made of the rows, and ldx their
//     number there, a multiple of 256. scales and index are those of the outputs (flag 1).
//   arrange_T (to, x, scales, index, n, k, ldx, rows)
//     rows of x [n, ldx], of type T, scaled by their rows of a bank f32 [·, k] or not, and
//     rounded to T and to bfloat16, as a product does it, for product_bf16_T_group.
//   composegroup_bf16_W (w, u, vt, s, m, r, k, ldw, ldu, rows)
//     as compose_bf16_W, but that vt is what turn made of it, and rows their number there.
//   turn_bf16 (to, vt, r, k, ldv, rows)
//     columns of vt [r, ldv] as rows for composegroup.
//
// What is arranged are blocks of 32 columns, one behind the other, zero from k on; a block
// has `rows` rows of 64 bytes, zero from n on, in which 16 bytes have the place c xor
// (row / 2) % 4 for c: so it lies in shared memory, and a tile of 256 rows is one copy.
// Rows for a product have columns in the order in which product.cu multiplies them: of a
// block, c = 0 has the columns 0, 1, 8, 9, 16, 17, 24 and 25, c = 1 those two further, and
// so on. So the sums are those of product.cu to the bit, if the device adds up 16 products
// alike in both kinds of instruction; which backend/cuda asks the device before it believes
// it. `to` has ⌈k/64⌉·2 blocks.
//
// Launch: product_bf16_T_group 384 threads, grid ⌈n/256⌉ × ⌈m/128⌉; composegroup 384, grid
// ⌈ldw/256⌉ × ⌈m/128⌉; both 224.3 KiB of dynamic shared memory. arrange 256 threads, any
// grid; turn 256 threads, grid ⌈r/64⌉ × rows/64.
//
// Cost: product: w once for 256 rows, arranged x once for 128 outputs, from L2 but for the
// first; y once. composegroup: u ⌈ldw/256⌉ times, what was turned ⌈m/128⌉ times; w once.
// arrange and turn: each operand once.
//
// One group of four warps copies, with few registers, and two multiply, 64 outputs each, in
// turn: while one waits for its sums, or for its part of w, the tensor cores have the
// other's. Sums of a tile are 128 registers of each thread, hence the sums of the parts of
// K before it lie in shared memory.
#include "hopper.cuh"
#include "product.cuh"

constexpr int kGroup = 4 * kWarp, kGroupThreads = 3 * kGroup;
constexpr int kTileOutputs = 128, kTileRows = 256, kStep = 32, kRow = kStep * 2;
constexpr int kStages = 4, kStageB = kTileRows * kRow, kStageA = kTileOutputs * kRow, kStage = kStageB + kStageA;
constexpr int kTotals = kTileOutputs * kTileRows * 4;
constexpr int kScalesAt = kTotals + kStages * kStage, kBarriersAt = kScalesAt + kStages * kStep * 4;
constexpr int kShared = kBarriersAt + kStages * 2 * 8;
static_assert(kShared <= 227 << 10, "a block's shared memory");

// place is where 16 bytes of a row lie among its 64.
__device__ __forceinline__ int place(int row, int chunk) { return row * kRow + ((chunk ^ (row / 2 % 4)) * 16); }

// The block's shared memory, at a multiple of 1024.
extern __shared__ __align__(1024) unsigned char groupShared[];

struct Pipeline {
  u32 base;
  __device__ __forceinline__ u32 stage(int step) const { return base + kTotals + step % kStages * kStage; }
  __device__ __forceinline__ u32 scales(int step) const { return base + kScalesAt + step % kStages * kStep * 4; }
  __device__ __forceinline__ u32 full(int step) const { return base + kBarriersAt + step % kStages * 8; }
  __device__ __forceinline__ u32 empty(int step) const { return full(step) + kStages * 8; }
  __device__ __forceinline__ static u32 turn(int step) { return step / kStages & 1; }
};

// begin makes the barriers; a stage is full when all copying threads' copies are there, and
// the bulk copy's bytes, and empty when all warps that multiply have read it.
__device__ __forceinline__ Pipeline begin() {
  const Pipeline p{sharedAddress(groupShared)};
  if (threadIdx.x == 0) {
#pragma unroll
    for (int s = 0; s < kStages; s++) {
      initBarrier(p.full(s), kGroup + 1);
      initBarrier(p.empty(s), 2 * kGroup / kWarp);
    }
    showBarriers();
  }
  __syncthreads();
  return p;
}

// copyTiles is what the group does that copies: of a [rows, lda] a tile from a0 on (the last
// row again behind it), of b, arranged, one from b0 on, and scales, where there are, of which
// `known` are.
__device__ __forceinline__ void copyTiles(const Pipeline &p, int steps, const bf16 *a, i64 rows, i64 lda, i64 a0, const bf16 *b, i64 rowsB, i64 b0,
                                          const float *scales, i64 known) {
  constexpr int kChunks = kStageA / 16 / kGroup;
  const int thread = threadIdx.x, chunk = thread % 4;
  const bf16 *from[kChunks];
  u32 to[kChunks];
#pragma unroll
  for (int i = 0; i < kChunks; i++) {
    const int row = thread / 4 + i * (kGroup / 4);
    from[i] = a + min(a0 + row, rows - 1) * lda + chunk * kVector;
    to[i] = kStageB + place(row, chunk);
  }
  const bf16 *tile = b + b0 * kStep;
  for (int step = 0; step < steps; step++) {
    if (step >= kStages) waitFor(p.empty(step), Pipeline::turn(step) ^ 1);
    const u32 stage = p.stage(step), full = p.full(step);
    if (thread == 0) {
      expectBytes(full, kStageB);
      copyBulk(stage, tile + (i64)step * rowsB * kStep, kStageB, full);
    }
#pragma unroll
    for (int i = 0; i < kChunks; i++) copy16(stage + to[i], from[i] + (i64)step * kStep, true);
    if (scales && thread < kStep) {
      const i64 at = (i64)step * kStep + thread;
      copy4(p.scales(step) + thread * 4, scales + (at < known ? at : 0), at < known);
    }
    arriveWithCopies(full);
  }
  asm volatile("cp.async.wait_all;" ::: "memory");  // No thread ends before what it copies is there.
}

// multiplyTiles is what the two groups do that multiply. take(a, step) reads a group's part
// of A for a step; sum gets the sums.
template <class Take> __device__ __forceinline__ void multiplyTiles(const Pipeline &p, int steps, int partSteps, float (&sum)[128], Take take) {
  const int thread = threadIdx.x - kGroup;
  float4 *totals = reinterpret_cast<float4 *>(groupShared) + thread;
  for (int from = 0; from < steps; from += partSteps) {
    const int end = min(from + partSteps, steps);
#pragma unroll
    for (int i = 0; i < 128; i++) sum[i] = 0;
#pragma unroll 1
    for (int step = from; step < end; step++) {
      waitFor(p.full(step), Pipeline::turn(step));
      u32 a[8];
      take(a, step);
      multiplyGroup(sum, a, describe64(p.stage(step)));
      __syncwarp();
      if (thread % kWarp == 0) arrive(p.empty(step));
    }
    // total + sum, of which the last stays in registers.
#pragma unroll
    for (int i = 0; i < 32; i++) {
      float4 v = from == 0 ? make_float4(0, 0, 0, 0) : totals[i * 2 * kGroup];
      v.x += sum[4 * i], v.y += sum[4 * i + 1], v.z += sum[4 * i + 2], v.w += sum[4 * i + 3];
      if (end < steps) totals[i * 2 * kGroup] = v;
      sum[4 * i] = v.x, sum[4 * i + 1] = v.y, sum[4 * i + 2] = v.z, sum[4 * i + 3] = v.w;
    }
  }
}

__device__ __forceinline__ u32 scalePair(u32 two, float2 s) { return pair(__fmul_rn(lowHalf(two), s.x), __fmul_rn(highHalf(two), s.y)); }

constexpr int kCopyRegisters = 56, kMultiplyRegisters = 224;

template <class T> __device__ __forceinline__ void productGroup(const Product<T> &q, const bf16 *x, const bf16 *w, i64 rows) {
  const i64 n0 = (i64)blockIdx.x * kTileRows, m0 = (i64)blockIdx.y * kTileOutputs;
  if (n0 >= q.n || m0 >= q.m) return;
  const Pipeline p = begin();
  const int steps = (int)((q.k + kPartUnit - 1) / kPartUnit * (kPartUnit / kStep)), partSteps = (int)(partOf(q.k) / kStep);
  if (threadIdx.x < kGroup) {
    fewerRegisters<kCopyRegisters>();
    copyTiles(p, steps, w, q.m, q.ldw, m0, x, rows, n0, nullptr, 0);
    return;
  }
  moreRegisters<kMultiplyRegisters>();
  const int thread = threadIdx.x % kGroup, group = threadIdx.x / kGroup - 1, lane = thread % kWarp, g = lane / 4, t = lane % 4;
  const int line = group * 64 + thread / kWarp * 16 + g;  // Of the tile's outputs.
  float sum[128];
  // 16 bytes of a row of w feed both products, as in tiled.cuh.
  multiplyTiles(p, steps, partSteps, sum, [&](u32(&a)[8], int step) {
    const unsigned char *stage = groupShared + (p.stage(step) - p.base) + kStageB;
    const uint4 a0 = *reinterpret_cast<const uint4 *>(stage + place(line, t)), a1 = *reinterpret_cast<const uint4 *>(stage + place(line + 8, t));
    a[0] = a0.x, a[1] = a1.x, a[2] = a0.y, a[3] = a1.y, a[4] = a0.z, a[5] = a1.z, a[6] = a0.w, a[7] = a1.w;
  });
  // On their way out, 64 rows at a time, in the place of the totals, once both groups have
  // read theirs.
  constexpr int kBatch = 64, kPitch = 64 + 4, kPlace = kTotals / 2 / 4;
  static_assert(kBatch * kPitch <= kPlace, "a batch of results");
  float *out = reinterpret_cast<float *>(groupShared) + group * kPlace;
  asm volatile("bar.sync 1, 256;" ::: "memory");
#pragma unroll
  for (int first = 0; first < kTileRows; first += kBatch) {
#pragma unroll
    for (int j = first / 8; j < (first + kBatch) / 8; j++)
#pragma unroll
      for (int e = 0; e < 4; e++) out[(j * 8 - first + 2 * t + e % 2) * kPitch + line - group * 64 + e / 2 * 8] = sum[4 * j + e];
    asm volatile("bar.sync %0, 128;" ::"r"(2 + group) : "memory");
    for (int i = thread; i < kBatch * 16; i += kGroup) {
      const int row = i / 16, at = i % 16 * 4;
      if (n0 + first + row < q.n && m0 + group * 64 + at < q.m)
        put4(q, n0 + first + row, m0 + group * 64 + at, *reinterpret_cast<const float4 *>(&out[row * kPitch + at]));
    }
    asm volatile("bar.sync %0, 128;" ::"r"(2 + group) : "memory");
  }
}

#define PRODUCT_GROUP(name, T) \
  KERNEL(kGroupThreads) \
  name(T *y, const bf16 *x, const bf16 *w, const bf16 *wscales, const float *scales, const int *index, i64 n, i64 m, i64 k, i64 ldw, i64 ldx, i64 ldy, i64 flags) { \
    productGroup<T>({y, n, m, k, ldw, ldx, ldy, flags, flags & kScaleOutputs ? scales : nullptr, index}, x, w, ldx); \
  }
PRODUCT_GROUP(product_bf16_f32_group, float)
PRODUCT_GROUP(product_bf16_bf16_group, bf16)

template <class W>
__device__ __forceinline__ void composeGroup(W *w, const bf16 *u, const bf16 *v, const float *s, i64 m, i64 r, i64 k, i64 ldw, i64 ldu, i64 rows) {
  const i64 k0 = (i64)blockIdx.x * kTileRows, m0 = (i64)blockIdx.y * kTileOutputs;
  if (k0 >= ldw || m0 >= m) return;
  const Pipeline p = begin();
  const int steps = (int)((r + kPartUnit - 1) / kPartUnit * (kPartUnit / kStep)), partSteps = (int)(partOf(r) / kStep);
  if (threadIdx.x < kGroup) {
    fewerRegisters<kCopyRegisters>();
    copyTiles(p, steps, u, m, ldu, m0, v, rows, k0, s, r);
    return;
  }
  moreRegisters<kMultiplyRegisters>();
  const int thread = threadIdx.x % kGroup, lane = thread % kWarp, g = lane / 4, t = lane % 4;
  const int line = (threadIdx.x / kGroup - 1) * 64 + thread / kWarp * 16;
  float sum[128];
  multiplyTiles(p, steps, partSteps, sum, [&](u32(&a)[8], int step) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      u32 four[4];
      loadMatrices(four, p.stage(step) + kStageB + place(line + lane % 16, half * 2 + lane / 16));
      const float2 *f = reinterpret_cast<const float2 *>(groupShared + (p.scales(step) - p.base)) + half * 8 + t;
      const float2 near = f[0], far = f[4];
      a[half * 4] = scalePair(four[0], near), a[half * 4 + 1] = scalePair(four[1], near);
      a[half * 4 + 2] = scalePair(four[2], far), a[half * 4 + 3] = scalePair(four[3], far);
    }
  });
#pragma unroll
  for (int j = 0; j < 32; j++)
#pragma unroll
    for (int e = 0; e < 4; e += 2) {
      const i64 row = m0 + line + g + e / 2 * 8, column = k0 + j * 8 + 2 * t;
      if (row >= m || column >= ldw) continue;  // ldw is even.
      const float first = column < k ? sum[4 * j + e] : 0, second = column + 1 < k ? sum[4 * j + e + 1] : 0;
      if constexpr (sizeof(W) == 4)
        *reinterpret_cast<float2 *>(w + row * ldw + column) = make_float2(first, second);
      else
        *reinterpret_cast<u32 *>(w + row * ldw + column) = pair(first, second);
    }
}

#define COMPOSE_GROUP(name, W) \
  KERNEL(kGroupThreads) name(W *w, const bf16 *u, const bf16 *vt, const float *s, i64 m, i64 r, i64 k, i64 ldw, i64 ldu, i64 rows) { \
    composeGroup<W>(w, u, vt, s, m, r, k, ldw, ldu, rows); \
  }
COMPOSE_GROUP(composegroup_bf16_f32, float)
COMPOSE_GROUP(composegroup_bf16_bf16, bf16)

constexpr int kArrangeThreads = 256;

// putRun writes 16 bytes of a row, the chunk-th of what is multiplied.
__device__ __forceinline__ void putRun(bf16 *to, i64 rows, i64 block, i64 row, int chunk, const u32 (&v)[4]) {
  unsigned char *at = reinterpret_cast<unsigned char *>(to) + (block * rows + row) * kRow + (chunk ^ (int)(row / 2 % 4)) * 16;
  asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(at)), "r"(v[0]), "r"(v[1]), "r"(v[2]), "r"(v[3]) : "memory");
}

// Four threads have a block of a row, 8 columns each, of which 4 bytes go to each of its
// four places.
template <class T> __device__ __forceinline__ void arrange(bf16 *to, const Rows<T> &x, i64 rows) {
  const i64 blocks = (x.k + kPartUnit - 1) / kPartUnit * (kPartUnit / kStep), tasks = blocks * rows * 4, stride = (i64)gridDim.x * kArrangeThreads;
  for (i64 i = (i64)blockIdx.x * kArrangeThreads + threadIdx.x; i < tasks; i += stride) {
    const i64 line = i / 4 / blocks, block = i / 4 % blocks, at = block * kStep + i % 4 * kVector;
    float v[kVector];
    x.take(v, line, at);
    x.apply(v, x.scale(line), at);
    // The four turn their 4 × 4 words, so that each has 16 bytes behind each other.
    const uint4 mine = pack8(v);
    const u32 words[4] = {mine.x, mine.y, mine.z, mine.w};
    const int t = (int)(i % 4);
    u32 turned[4];
#pragma unroll
    for (int d = 0; d < 4; d++) {  // To the thread t^d goes the word of its place.
      const u32 give = (t ^ d) == 0 ? words[0] : (t ^ d) == 1 ? words[1] : (t ^ d) == 2 ? words[2] : words[3];
      const u32 got = __shfl_xor_sync(kAll, give, d);
#pragma unroll
      for (int e = 0; e < 4; e++)
        if ((t ^ d) == e) turned[e] = got;
    }
    putRun(to, rows, block, line, t, turned);
  }
}

KERNEL(kArrangeThreads) arrange_f32(bf16 *to, const float *x, const float *scales, const int *index, i64 n, i64 k, i64 ldx, i64 rows) {
  arrange<float>(to, {x, scales, index, n, k, ldx}, rows);
}
KERNEL(kArrangeThreads) arrange_bf16(bf16 *to, const bf16 *x, const float *scales, const int *index, i64 n, i64 k, i64 ldx, i64 rows) {
  arrange<bf16>(to, {x, scales, index, n, k, ldx}, rows);
}

// 64 × 64 elements at a time, by way of shared memory.
KERNEL(kArrangeThreads) turn_bf16(bf16 *to, const bf16 *vt, i64 r, i64 k, i64 ldv, i64 rows) {
  constexpr int kTile = 64, kPitch = kTile + 2;  // In elements: columns are read without conflicts.
  __shared__ __align__(16) bf16 tile[kTile][kPitch];
  const i64 r0 = (i64)blockIdx.x * kTile, k0 = (i64)blockIdx.y * kTile;
#pragma unroll
  for (int i = 0; i < 2; i++) {
    const int row = threadIdx.x / 8 + i * 32, column = threadIdx.x % 8 * kVector;
    uint4 v = make_uint4(0, 0, 0, 0);
    if (r0 + row < r && k0 + column < ldv) v = *reinterpret_cast<const uint4 *>(vt + (r0 + row) * ldv + k0 + column);
    u32 *line = reinterpret_cast<u32 *>(&tile[row][column]);
    line[0] = v.x, line[1] = v.y, line[2] = v.z, line[3] = v.w;
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < 2; i++) {
    const int line = threadIdx.x / 4 % 64, block = i, chunk = threadIdx.x % 4;
    u32 words[4];
#pragma unroll
    for (int e = 0; e < 4; e++) {
      const int at = block * kStep + chunk * kVector + 2 * e;
      words[e] = tile[at][line].bits | (u32)tile[at + 1][line].bits << 16;
    }
    putRun(to, rows, r0 / kStep + block, k0 + line, chunk, words);
  }
}
