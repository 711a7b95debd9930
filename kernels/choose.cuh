// Choosing a token from a row of logits: what sample.Chooser does, by a block.
#pragma once
#include "exponential.cuh"

constexpr int kMostBest = 2048;  // Tokens that are sorted at a time.
constexpr int kBins = 2048;
constexpr double kNear = 12;     // Tokens that are e¹² times less likely than the first are rarely kept.

// keyOf orders tokens by falling logit, and among equals by rising id.
__device__ __forceinline__ u64 keyOf(float logit, int id) {
  u32 bits = logit == 0 ? 0 : __float_as_uint(logit);  // −0 equals 0.
  if (bits >> 31 == 0) bits = ~bits & 0x7fffffff;
  return (u64)bits << 32 | (u32)id;
}

// ChooseMemory is the shared memory of a block.
struct ChooseMemory {
  union {
    Staged staged[kHeadWarps];
    u64 best[kMostBest];         // Keys.
    double block[kSumBlock];     // Weights of the tokens of a block.
  };
  union {
    double sums[kMostBlocks];
    double weights[kMostBest];   // Of best.
  };
  u32 bins[kBins];
  Powers powers;
  // What one thread, or one warp, tells the others.
  u64 keys[kHeadWarps];
  u32 counts[kHeadWarps];
  double number;
  int token, bin, taken;
  u32 room;
  bool found;
};

// Most is the result of a look at a whole row: the key of its largest logit, and whether
// there is a NaN.
struct Most {
  u64 key;
  bool nan;

  __device__ __forceinline__ int token() const { return (int)(u32)key; }
};

// mostOf is for all threads of a block.
__device__ __forceinline__ Most mostOf(const float *logits, int v, ChooseMemory &m) {
  u64 key = ~0ull;
  int nan = 0;
  for (int i = threadIdx.x; i < v; i += kHeadThreads) {
    const float l = logits[i];
    nan |= l != l;
    const u64 its = keyOf(l, i);
    key = its < key ? its : key;
  }
#pragma unroll
  for (int d = kWarp / 2; d > 0; d /= 2) {
    const u64 other = __shfl_xor_sync(kAll, key, d);
    key = other < key ? other : key;
  }
  if (threadIdx.x % kWarp == 0) m.keys[threadIdx.x / kWarp] = key;
  nan = __syncthreads_or(nan);
  for (int w = 0; w < kHeadWarps; w++) key = m.keys[w] < key ? m.keys[w] : key;
  __syncthreads();
  return {key, nan != 0};
}

// Best walks over the tokens of a row in the order of their keys: those whose keys are
// from `begin` on are sorted, at most 2048 at a time.
struct Best {
  const Weights &w;
  ChooseMemory &m;
  u64 begin = 0, end = 0;
  u64 near;       // Where tokens begin that are too unlikely to be looked at first.
  int count = 0;  // How many are in m.best, with their weights.

  __device__ __forceinline__ Best(const Weights &w, ChooseMemory &m) : w(w), m(m), near(keyOf((float)(w.peak - kNear / w.inverse), 0)) {}

  // load takes the next from `from` on, unless they are there.
  __device__ __forceinline__ void load(u64 from) {
    if (end != 0 && begin == from) return;
    begin = from;
    __syncthreads();  // Others may still read what was there.
    select();
    if (threadIdx.x == 0) m.room = 0;
    __syncthreads();
    for (int i = threadIdx.x; i < w.v; i += kHeadThreads) {
      const u64 key = keyOf(w.at(i), i);
      if (key >= begin && key < end) m.best[atomicAdd(&m.room, 1u)] = key;
    }
    __syncthreads();
    count = m.room;
    sort();
    for (int i = threadIdx.x; i < count; i += kHeadThreads) m.weights[i] = w.of(w.at((int)(u32)m.best[i]));
    __syncthreads();
  }

 private:
  // select finds an end so that from begin to before it there are at most 2048 keys, and
  // at least one if there is any: by counting keys by their leading bits, and where the
  // first that are equal in these are too many, among them by the next.
  __device__ __forceinline__ void select() {
    // Most tokens are unlikely, and nearly equal: not to count them spares the time that
    // counters in shared memory take where many threads want the same.
    for (u64 limit = begin < near ? near : ~0ull; !selectBefore(limit) && limit != ~0ull;) near = 0, limit = ~0ull;
  }

  // selectBefore is select among the keys before `limit`, and reports whether there are
  // any.
  __device__ __forceinline__ bool selectBefore(u64 limit) {
    u64 prefix = 0;
    int shift = 64;
    for (int level = 0; level < 6; level++) {
      const int width = level % 3 == 2 ? 10 : 11;  // 32 bits of logit, and 32 of id.
      shift -= width;
      for (int i = threadIdx.x; i < kBins; i += kHeadThreads) m.bins[i] = 0;
      __syncthreads();
      for (int i = threadIdx.x; i < w.v; i += kHeadThreads) {
        const u64 key = keyOf(w.at(i), i);
        if (key >= begin && key < limit && (level == 0 || key >> (shift + width) == prefix)) atomicAdd(&m.bins[key >> shift & ((1 << width) - 1)], 1u);
      }
      __syncthreads();
      const int last = fit((1 << width) - 1);
      if (m.taken > 0 || last + 1 == 1 << width) {
        // Behind the last bin of all there is no key: those begin with the bits of −∞.
        end = level == 0 && last + 1 == kBins ? ~0ull : ((prefix << width) + last + 1) << shift;
        if (end > limit) end = limit;
        return m.taken > 0;
      }
      prefix = prefix << width | (last + 1);
    }
    return true;  // Keys differ: it has returned before.
  }

  // fit returns the last bin, up to `most`, so that those up to it have no more than 2048
  // keys, which m.taken is set to; −1 if the first has more.
  __device__ __forceinline__ int fit(int most) {
    constexpr int kEach = kBins / kHeadThreads;
    const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
    u32 mine[kEach], sum = 0;
#pragma unroll
    for (int i = 0; i < kEach; i++) mine[i] = m.bins[threadIdx.x * kEach + i], sum += mine[i];
    u32 before = sum;  // Of the threads before, by an inclusive scan.
#pragma unroll
    for (int d = 1; d < kWarp; d *= 2) {
      const u32 other = __shfl_up_sync(kAll, before, d);
      if (lane >= d) before += other;
    }
    if (lane == kWarp - 1) m.counts[warp] = before;
    if (threadIdx.x == 0) m.bin = -1, m.taken = 0;
    __syncthreads();
    before -= sum;
    for (int i = 0; i < warp; i++) before += m.counts[i];
#pragma unroll
    for (int i = 0; i < kEach; i++) {
      const int bin = threadIdx.x * kEach + i;
      const u32 here = before + mine[i], next = i + 1 < kEach ? here + mine[i + 1] : here + firstOf(threadIdx.x + 1);
      if (here <= kMostBest && (bin == most || (bin < most && next > kMostBest))) m.bin = bin, m.taken = here;
      before = here;
    }
    __syncthreads();
    return m.bin;
  }
  __device__ __forceinline__ u32 firstOf(int thread) const { return thread < kHeadThreads ? m.bins[thread * (kBins / kHeadThreads)] : 0; }

  // sort sorts m.best: a bitonic network, filled up to a power of two.
  __device__ __forceinline__ void sort() {
    int size = 1;
    while (size < count) size *= 2;
    for (int i = count + threadIdx.x; i < size; i += kHeadThreads) m.best[i] = ~0ull;
    __syncthreads();
    for (int run = 2; run <= size; run *= 2) {
      for (int apart = run / 2; apart > 0; apart /= 2) {
        for (int i = threadIdx.x; i < size / 2; i += kHeadThreads) {
          const int low = i / apart * 2 * apart + i % apart, high = low + apart;
          const u64 a = m.best[low], b = m.best[high];
          if ((a > b) == ((low & run) == 0)) m.best[low] = b, m.best[high] = a;
        }
        __syncthreads();
      }
    }
  }
};

// walk calls f(i, key, weight) of one thread for the best tokens one after the other,
// up to `limit` of them, until it returns true; so does walk then.
template <class F> __device__ __forceinline__ bool walk(Best &best, int limit, F f) {
  ChooseMemory &m = best.m;
  for (u64 from = 0; limit > 0; from = best.end) {
    best.load(from);
    if (best.count == 0) return false;
    if (threadIdx.x == 0) {
      bool found = false;
      for (int i = 0; i < min(best.count, limit) && !found; i++) found = f(m.best[i], m.weights[i]);
      m.found = found;
    }
    __syncthreads();
    const bool found = m.found;
    __syncthreads();
    if (found) return true;
    limit -= best.count;
  }
  return false;
}

// drawTruncated applies top-k and top-p, and draws; it returns the token to thread 0.
// k and p are in range, and one of them leaves something out.
__device__ __forceinline__ int drawTruncated(const Weights &w, int k, double p, double uniform, ChooseMemory &m) {
  // Numbers are those of thread 0, as all that the function below writes.
  double reach = 0, sum = 0, x = 0;
  int kept = k;
  u64 last = 0;
  if (k == w.v) {
    sumBlocks(m.sums, w, m.staged);
    __syncthreads();
    if (threadIdx.x == 0) reach = __dmul_rn(p, addUp(m.sums, w.v));
  }
  Best best(w, m);
  enum { kAddUp, kCut, kDraw };
#pragma unroll 1
  for (int phase = k < w.v ? kAddUp : kCut; phase <= kDraw; phase++) {
    if (phase == kCut && p >= 1) continue;
    if (phase == kCut) {
      if (k < w.v) reach = __dmul_rn(p, sum);  // Top-p is of what top-k left.
      sum = 0, kept = 0;
    }
    if (phase == kDraw) x = __dmul_rn(uniform, sum), last = ~0ull;
    walk(best, k, [&](u64 key, double weight) {
      if (phase == kDraw) {
        x = __dsub_rn(x, weight);
        const bool drawn = x < 0;
        // Rounding may leave x above all weights; then it is the last token with any.
        if (drawn || weight != 0 || last == ~0ull) last = key;
        return drawn || --kept == 0;
      }
      sum = __dadd_rn(sum, weight);
      if (phase == kCut) kept++;
      return phase == kCut && sum >= reach;
    });
  }
  return (int)(u32)last;
}

// draw draws from all tokens; it returns the token to thread 0. Rounding may leave the
// number above all weights; then it is the last token with any.
__device__ __forceinline__ int draw(const Weights &w, double uniform, ChooseMemory &m) {
  sumBlocks(m.sums, w, m.staged);
  __syncthreads();
  if (threadIdx.x == 0) {
    double x = __dmul_rn(uniform, addUp(m.sums, w.v));
    int at = 0;
    while ((at + 1) * kSumBlock < w.v && !(x < m.sums[at])) x = __dsub_rn(x, m.sums[at]), at++;
    m.number = x, m.bin = at, m.token = 0, m.found = false;
  }
  __syncthreads();
  double x = m.number;
  for (int first = m.bin * kSumBlock; first < w.v; first += kSumBlock) {
    const int i = first + threadIdx.x;
    if (i < w.v) m.block[threadIdx.x] = w.of(w.at(i));
    __syncthreads();
    if (threadIdx.x == 0) {
      for (int j = 0; j < kSumBlock && first + j < w.v; j++) {
        x = __dsub_rn(x, m.block[j]);
        if (x < 0) {
          m.token = first + j, m.found = true;
          break;
        }
      }
    }
    __syncthreads();
    if (m.found) return m.token;
  }
  for (int i = threadIdx.x; i < w.v; i += kHeadThreads)
    if (w.of(w.at(i)) != 0) atomicMax(&m.token, i);
  __syncthreads();
  return m.token;
}
