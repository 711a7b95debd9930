// The exponential of package runtime/sample, bit for bit, and sums in its order.
#pragma once
#include "powers.cuh"

constexpr int kHeadThreads = 512;
constexpr int kHeadWarps = kHeadThreads / kWarp;
constexpr double kLowest = -__builtin_huge_val();

// Powers are kPowerBits in shared memory, where lanes may read different ones at once.
struct Powers {
  u64 bits[kPowers];

  // load is for all threads of a block; a barrier follows before the first use.
  __device__ __forceinline__ void load() {
    for (int i = threadIdx.x; i < kPowers; i += kHeadThreads) bits[i] = kPowerBits[i];
  }

  // exp returns e^x for x ≤ 0, exact to 4·10⁻¹³ of its size, and zero below e⁻⁷⁰⁰:
  // 2^(n/256)·e^r, the power from the table and e^r by Taylor's polynomial. Nothing is
  // fused, as Go does not for amd64.
  __device__ __forceinline__ double exp(double x) const {
    const double kPerUnit = __longlong_as_double(0x40771547652b82fe), kUnit = __longlong_as_double(0x3f662e42fefa39ef);
    constexpr double kRounding = 6755399441055744.0;  // 3·2⁵¹: leaves the nearest integer in the low bits.
    if (x < -700) return 0;
    if (x != x) return x;
    const double shifted = __dadd_rn(__dmul_rn(x, kPerUnit), kRounding);
    const double r = __dsub_rn(x, __dmul_rn(__dsub_rn(shifted, kRounding), kUnit));
    const u64 n = __double_as_longlong(shifted);
    const double power = __longlong_as_double(bits[n % kPowers] + (n / kPowers << 52));
    const double tail = __dadd_rn(0.5, __dmul_rn(r, 1.0 / 6));
    return __dmul_rn(power, __dadd_rn(__dadd_rn(1, r), __dmul_rn(__dmul_rn(r, r), tail)));
  }
};

// Weights are a row's logits as a draw sees them: without those that min-p leaves out,
// which are −∞, and weighed by e^((l − peak)·inverse).
struct Weights {
  const float *logits;
  int v;
  double peak, inverse, lowest;
  const Powers *powers;

  __device__ __forceinline__ float at(int i) const {
    const float l = logits[i];
    return ((double)l - peak) * inverse < lowest ? -kInfinity : l;
  }
  __device__ __forceinline__ double of(float l) const { return powers->exp(((double)l - peak) * inverse); }
};

constexpr int kSumBlock = 512;     // Tokens whose weights are added up apart.
constexpr int kMostBlocks = 2048;  // Of a vocabulary.
constexpr int kSide = 16;          // Blocks that a warp adds up side by side.

// Staged is where a warp brings 16 logits of 16 blocks, by coalesced reads; 18 columns
// keep lanes in different banks.
typedef float Staged[kSide][18];

// sumBlocks sets sums to what the weights of each block of 512 tokens add up to: the even
// ones, rising, plus the odd ones. Two lanes have a block.
__device__ __forceinline__ void sumBlocks(double *sums, const Weights &w, Staged *staged) {
  Staged &mine = staged[threadIdx.x / kWarp];
  const int lane = threadIdx.x % kWarp;
  for (int group = threadIdx.x / kWarp * kSide; group * kSumBlock < w.v; group += kHeadWarps * kSide) {
    double sum = 0;
    for (int step = 0; step < kSumBlock && group * kSumBlock + step < w.v; step += 16) {
#pragma unroll
      for (int i = lane; i < kSide * 16; i += kWarp) {
        const int at = (group + i / 16) * kSumBlock + step + i % 16;
        mine[i / 16][i % 16] = at < w.v ? w.at(at) : -kInfinity;
      }
      __syncwarp();
#pragma unroll 4
      for (int i = 0; i < 16; i += 2) sum = __dadd_rn(sum, w.of(mine[lane / 2][i + lane % 2]));
      __syncwarp();
    }
    const double odd = __shfl_xor_sync(kAll, sum, 1);
    if (lane % 2 == 0 && group + lane / 2 < kMostBlocks) sums[group + lane / 2] = __dadd_rn(sum, odd);
  }
}

// addUp adds up the blocks' sums, rising; for one thread.
__device__ __forceinline__ double addUp(const double *sums, int v) {
  double sum = 0;
  for (int i = 0; i * kSumBlock < v; i++) sum = __dadd_rn(sum, sums[i]);
  return sum;
}
