// Composing weights from their factors, and mixing scales.
//
// Targets: sm80.
//
//   compose_F_W(w, u, vt, s, m, r, k, ldw, ldu, ldv)
//     w [m, ldw] = U·diag(s)·Vᵀ: u [m, ldu] has r columns, vt [r, ldv] has k, both of type F;
//     w is of type W and gets zeros from k to ldw. All three are weights (see product.cu):
//     ldw = ldv is k rounded up to a multiple of 64, ldu is r likewise. s is f32 [r].
//   mixscale(s, sigma, z, alphas, experts, r, normalise)
//     s [r] f32 = σ ⊙ z', z' = Σ α + Σ αₑ·(zₑ − 1), rounded to f32; with normalise ≠ 0 times
//     Σσ / Σ(σ⊙z'). sigma is f32 [r], z f32 [experts, r], alphas f64 [experts].
//
// F is f32 or bf16, W too. An int8 weight is composed as f32 and packed (rows.cu).
//
// As in a product, u·s is rounded to f32, and for bf16 to bfloat16; r is summed in 4 parts
// of ⌈r/256⌉·64, and w is ((p0 + p1) + p2) + p3, rounded once. f32 adds column by column, by
// fma, rising; bf16 takes 16 columns of r at a time, rising, in one m16n8k16 product.
// mixscale computes in float64. A mixture of ones is exactly ones.
//
// Launch: compose 256 threads, grid ⌈ldw/128⌉ × ⌈m/128⌉ (bf16), ⌈ldw/64⌉ × ⌈m/64⌉ (f32);
// mixscale 256 threads, one block.
//
// Cost: 2·m·r·k operations; u is read ⌈k/128⌉ times, vt ⌈m/128⌉ times (f32: 64), from L2 but
// for the first; w is written once.
#include "product.cuh"

constexpr int kComposeThreads = 256;

// u, scaled, goes through registers; vt is copied as it is, with r down and k across,
// and turned by ldmatrix.
template <class W>
__device__ __forceinline__ void composeBF16(W *w, const bf16 *u, const bf16 *vt, const float *s, i64 m, i64 r, i64 k, i64 ldw, i64 ldu, i64 ldv) {
  constexpr int kTile = 128, kStep = 32, kStages = 2;
  constexpr int kPitchU = kStep * 2 + 16, kPitchV = kTile * 2 + 16;  // Bytes: neighbouring rows begin in other banks.
  constexpr int kStageU = kTile * kPitchU, kStageV = kStep * kPitchV, kStage = kStageU + kStageV;
  __shared__ __align__(128) unsigned char shared[kStages * kStage];
  const u32 base = sharedAddress(shared);
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp, g = lane / 4, t = lane % 4;
  const int down = warp / 4 * 64, across = warp % 4 * 32;  // A warp's rows and columns of the tile.
  const i64 m0 = (i64)blockIdx.y * kTile, k0 = (i64)blockIdx.x * kTile;
  const int steps = (int)((r + kStep - 1) / kStep), partSteps = (int)(partOf(r) / kStep);
  const int chunk = threadIdx.x % 4 * kVector, line = threadIdx.x / 4;  // Of u: 64 lines of four vectors.
  float held[2][kVector];
  auto fetch = [&](int step) {
    const u32 stage = base + step % kStages * kStage + kStageU;
    const i64 r0 = (i64)step * kStep;
#pragma unroll
    for (int i = 0; i < 2; i++) {
      const int at = threadIdx.x + i * kComposeThreads, row = at / 16, column = at % 16 * kVector;
      const bool take = r0 + row < r && k0 + column < ldv;
      copy16(stage + row * kPitchV + column * 2, vt + (take ? (r0 + row) * ldv + k0 + column : 0), take);
    }
#pragma unroll
    for (int i = 0; i < 2; i++) load(held[i], u + min(m0 + line + i * 64, m - 1) * ldu + r0 + chunk, kVector);
  };
  auto store = [&](int step) {
    unsigned char *stage = shared + step % kStages * kStage;
    const i64 at = (i64)step * kStep + chunk;
    float f[kVector];
    load(f, s + at, r - at);
#pragma unroll
    for (int i = 0; i < 2; i++) {
#pragma unroll
      for (int j = 0; j < kVector; j++) held[i][j] = __fmul_rn(held[i][j], f[j]);
      *reinterpret_cast<uint4 *>(stage + (line + i * 64) * kPitchU + chunk * 2) = pack8(held[i]);
    }
  };
  fetch(0);
  store(0);
  commitCopies();
  float total[4][4][4] = {}, sum[4][4][4] = {};
  int left = partSteps;
  for (int step = 0; step < steps; step++) {
    waitCopies<0>();
    __syncthreads();
    if (step + 1 < steps) fetch(step + 1);
    commitCopies();
    const u32 stage = base + step % kStages * kStage;
#pragma unroll
    for (int half = 0; half < 2; half++) {
      u32 a[4][4], b[2][4];
      // Matrices of a: rows 0…7 and 8…15 of the columns 0…7, then of 8…15.
#pragma unroll
      for (int i = 0; i < 4; i++)
        loadMatrices(a[i], stage + (down + i * 16 + lane % 16) * kPitchU + (half * 16 + lane / 16 * 8) * 2);
      // Of b, turned: r 0…7 and 8…15 of eight columns, then of the next eight.
#pragma unroll
      for (int j = 0; j < 2; j++)
        loadTransposed(b[j], stage + kStageU + (half * 16 + lane % 16) * kPitchV + (across + j * 16 + lane / 16 * 8) * 2);
#pragma unroll
      for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) multiply(sum[i][j], a[i][0], a[i][1], a[i][2], a[i][3], b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
    }
    if (step + 1 < steps) store(step + 1);
    if (--left == 0 || step == steps - 1) {
      left = partSteps;
#pragma unroll
      for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < 4; j++)
#pragma unroll
          for (int e = 0; e < 4; e++) total[i][j][e] += sum[i][j][e], sum[i][j][e] = 0;
    }
  }
#pragma unroll
  for (int i = 0; i < 4; i++)
#pragma unroll
    for (int j = 0; j < 4; j++)
#pragma unroll
      for (int e = 0; e < 4; e += 2) {
        const i64 row = m0 + down + i * 16 + g + e / 2 * 8, column = k0 + across + j * 8 + 2 * t;
        if (row >= m || column >= ldw) continue;  // ldw is even.
        const float first = column < k ? total[i][j][e] : 0, second = column + 1 < k ? total[i][j][e + 1] : 0;
        if constexpr (sizeof(W) == 4)
          *reinterpret_cast<float2 *>(w + row * ldw + column) = make_float2(first, second);
        else
          *reinterpret_cast<u32 *>(w + row * ldw + column) = pair(first, second);
      }
}

// 64 × 64 by 256 threads, 4 × 4 each.
template <class W>
__device__ __forceinline__ void composeF32(W *w, const float *u, const float *vt, const float *s, i64 m, i64 r, i64 k, i64 ldw, i64 ldu, i64 ldv) {
  constexpr int kTile = 64, kStep = 16, kPitch = kTile + 4;
  __shared__ __align__(16) float shared[2][2][kStep][kPitch];  // [turn][u, vt]
  const i64 m0 = (i64)blockIdx.y * kTile, k0 = (i64)blockIdx.x * kTile;
  const int line = threadIdx.x / 4, rank = threadIdx.x % 4 * 4;            // Of u: 64 rows of 4 vectors.
  const int lineV = threadIdx.x / 16, column = threadIdx.x % 16 * 4;       // Of vt: 16 rows of 16.
  const int steps = (int)((r + kStep - 1) / kStep), partSteps = (int)(partOf(r) / kStep);
  const int mine = threadIdx.x / 16 * 4, theirs = threadIdx.x % 16 * 4;
  float4 nextV;
  float nextU[4];
  auto fetch = [&](int step) {
    const i64 r0 = (i64)step * kStep;
    nextV = r0 + lineV < r && k0 + column < ldv ? __ldg(reinterpret_cast<const float4 *>(vt + (r0 + lineV) * ldv + k0 + column)) : make_float4(0, 0, 0, 0);
    const float4 v = __ldg(reinterpret_cast<const float4 *>(u + min(m0 + line, m - 1) * ldu + r0 + rank));
    const float each[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int i = 0; i < 4; i++) nextU[i] = r0 + rank + i < r ? __fmul_rn(each[i], s[r0 + rank + i]) : 0;
  };
  float total[4][4] = {}, sum[4][4] = {};
  fetch(0);
  int left = partSteps;
  for (int step = 0; step < steps; step++) {
    auto &tile = shared[step % 2];
#pragma unroll
    for (int i = 0; i < 4; i++) tile[0][rank + i][line] = nextU[i];
    *reinterpret_cast<float4 *>(&tile[1][lineV][column]) = nextV;
    __syncthreads();
    if (step + 1 < steps) fetch(step + 1);
#pragma unroll
    for (int i = 0; i < kStep; i++) {
      const float4 a = *reinterpret_cast<const float4 *>(&tile[0][i][mine]), b = *reinterpret_cast<const float4 *>(&tile[1][i][theirs]);
      const float av[4] = {a.x, a.y, a.z, a.w}, bv[4] = {b.x, b.y, b.z, b.w};
#pragma unroll
      for (int x = 0; x < 4; x++)
#pragma unroll
        for (int y = 0; y < 4; y++) sum[x][y] = fmaf(av[x], bv[y], sum[x][y]);
    }
    if (--left == 0 || step == steps - 1) {
      left = partSteps;
#pragma unroll
      for (int x = 0; x < 4; x++)
#pragma unroll
        for (int y = 0; y < 4; y++) total[x][y] += sum[x][y], sum[x][y] = 0;
    }
  }
  if (k0 + theirs >= ldw) return;  // ldw is a multiple of 4.
#pragma unroll
  for (int x = 0; x < 4; x++) {
    if (m0 + mine + x >= m) continue;
    float v[4];
#pragma unroll
    for (int y = 0; y < 4; y++) v[y] = k0 + theirs + y < k ? total[x][y] : 0;
    W *to = w + (m0 + mine + x) * ldw + k0 + theirs;
    if constexpr (sizeof(W) == 4)
      put16(to, v[0], v[1], v[2], v[3]);
    else
      put8(to, pair(v[0], v[1]), pair(v[2], v[3]));
  }
}

#define COMPOSE(name, how, F, W) \
  KERNEL(kComposeThreads) name(W *w, const F *u, const F *vt, const float *s, i64 m, i64 r, i64 k, i64 ldw, i64 ldu, i64 ldv) { \
    how(w, u, vt, s, m, r, k, ldw, ldu, ldv); \
  }
COMPOSE(compose_f32_f32, composeF32, float, float)
COMPOSE(compose_f32_bf16, composeF32, float, bf16)
COMPOSE(compose_bf16_f32, composeBF16, bf16, float)
COMPOSE(compose_bf16_bf16, composeBF16, bf16, bf16)

constexpr int kMixThreads = 256;

KERNEL(kMixThreads) mixscale(float *s, const float *sigma, const float *z, const double *alphas, i64 experts, i64 r, i64 normalise) {
  __shared__ double scratch[2][kMixThreads / kWarp];
  double alpha = 0, before = 0, after = 0;
  for (i64 e = 0; e < experts; e++) alpha += alphas[e];
  for (i64 i = threadIdx.x; i < r; i += kMixThreads) {
    double mixed = 0;  // Deviations from one, so that a mixture of ones is exactly ones.
    for (i64 e = 0; e < experts; e++) mixed += alphas[e] * ((double)z[e * r + i] - 1);
    const float scaled = __fmul_rn(sigma[i], (float)(alpha + mixed));
    before += (double)sigma[i];
    after += (double)scaled;
    s[i] = scaled;
  }
  if (!normalise) return;
  before = blockSum<kMixThreads>(before, scratch[0]);
  after = blockSum<kMixThreads>(after, scratch[1]);
  const double ratio = before / after;
  for (i64 i = threadIdx.x; i < r; i += kMixThreads) s[i] = (float)((double)s[i] * ratio);
}
