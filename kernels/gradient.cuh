// The gradient of attention. Lanes are columns; four keys are taken at a time, of
// which a warp needs eight sums over the columns.
#pragma once
#include "keys.cuh"

constexpr int kGradientThreads = 128;
constexpr int kFour = 4;

template <int Pairs> struct Columns {
  float2 at[Pairs];
  template <class T> __device__ __forceinline__ void load(const T *from, i64 d) {
#pragma unroll
    for (int c = 0; c < Pairs; c++) at[c] = load2(from, columnOf(c), d);
  }
  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int c = 0; c < Pairs; c++) at[c] = make_float2(0, 0);
  }
  template <class T> __device__ __forceinline__ void store(T *to, i64 d) const {
#pragma unroll
    for (int c = 0; c < Pairs; c++) store2(to, columnOf(c), d, at[c]);
  }
  __device__ __forceinline__ float dot(const Columns &o) const {
    float s = 0;
#pragma unroll
    for (int c = 0; c < Pairs; c++) s = fmaf(at[c].x, o.at[c].x, s), s = fmaf(at[c].y, o.at[c].y, s);
    return s;
  }
  __device__ __forceinline__ void add(float w, const Columns &o) {
#pragma unroll
    for (int c = 0; c < Pairs; c++) at[c].x = fmaf(w, o.at[c].x, at[c].x), at[c].y = fmaf(w, o.at[c].y, at[c].y);
  }
};

// sumEight adds each of eight numbers up over a warp, in 9 shuffles: lane i returns
// the sum of number i/4.
__device__ __forceinline__ float sumEight(const float (&v)[8]) {
  const int lane = threadIdx.x % kWarp;
  float four[4], two[2], one;
#pragma unroll
  for (int i = 0; i < 4; i++) {
    const bool high = lane & 16;
    four[i] = (high ? v[i + 4] : v[i]) + __shfl_xor_sync(kAll, high ? v[i] : v[i + 4], 16);
  }
#pragma unroll
  for (int i = 0; i < 2; i++) {
    const bool high = lane & 8;
    two[i] = (high ? four[i + 2] : four[i]) + __shfl_xor_sync(kAll, high ? four[i] : four[i + 2], 8);
  }
  const bool high = lane & 4;
  one = (high ? two[1] : two[0]) + __shfl_xor_sync(kAll, high ? two[0] : two[1], 4);
  one += __shfl_xor_sync(kAll, one, 2);
  one += __shfl_xor_sync(kAll, one, 1);
  return one;
}

// Weights of four keys: their probabilities, and the gradients of their scores.
struct Weights {
  float p[kFour], ds[kFour];
};

template <int Pairs>
__device__ __forceinline__ Weights weigh(const Columns<Pairs> &q, const Columns<Pairs> &dout, const Columns<Pairs> (&k)[kFour],
                                         const Columns<Pairs> (&v)[kFour], float lse, float delta, float scale) {
  float dots[2 * kFour];
#pragma unroll
  for (int i = 0; i < kFour; i++) dots[i] = q.dot(k[i]), dots[kFour + i] = dout.dot(v[i]);
  const float mine = sumEight(dots), other = __shfl_xor_sync(kAll, mine, 16);  // Lanes 4i: the score of key i; 16+4i: ⟨dout, v⟩.
  const float p = expf(fmaf(mine, scale, -lse)), ds = __fmul_rn(p, other - delta) * scale;
  Weights w;
#pragma unroll
  for (int i = 0; i < kFour; i++) w.p[i] = __shfl_sync(kAll, p, 4 * i), w.ds[i] = __shfl_sync(kAll, ds, 4 * i);
  return w;
}

// One row and head a warp: dq, and delta = ⟨dout, out⟩ for what follows.
template <int Pairs, class T>
__device__ __forceinline__ void gradientOfQueries(T *dq, float *delta, const T *dout, const T *out, const float *lse, const T *q, const T *k,
                                                  const T *v, const Spans &keys, i64 n, const Heads &h) {
  constexpr int kWarps = kGradientThreads / kWarp;
  const i64 head = (i64)blockIdx.y * kWarps + threadIdx.x / kWarp, row = blockIdx.x;
  if (row >= n || head >= h.heads) return;
  const i64 at = row * h.heads + head, kvhead = head / h.group(), count = keys.count(row);
  Columns<Pairs> mine, d, o, sum;
  mine.load(q + at * h.d, h.d);
  d.load(dout + at * h.d, h.d);
  o.load(out + at * h.d, h.d);
  sum.clear();
  const float along = warpSum(d.dot(o)), l = lse[at];
  if (threadIdx.x % kWarp == 0) delta[at] = along;
  const Spans::Place place = keys.of(row);
  for (i64 key = 0; key < count; key += kFour) {
    Columns<Pairs> ks[kFour], vs[kFour];
#pragma unroll
    for (int i = 0; i < kFour; i++) {
      const i64 from = place.row(min(key + i, count - 1)) * h.stride() + kvhead * h.d;
      ks[i].load(k + from, h.d);
      vs[i].load(v + from, h.d);
    }
    const Weights w = weigh(mine, d, ks, vs, l, along, h.scale);
#pragma unroll
    for (int i = 0; i < kFour; i++)
      if (key + i < count) sum.add(w.ds[i], ks[i]);
  }
  sum.store(dq + at * h.d, h.d);
}

// Four keys of one key-value head a warp: dk and dv, over the rows that attend to
// them, rising, and the heads of each, rising.
template <int Pairs, class T>
__device__ __forceinline__ void gradientOfKeys(T *dk, T *dv, const T *dout, const float *lse, const float *delta, const T *q, const T *k,
                                               const T *v, const Spans &keys, const int *rowsOf, i64 rows, const Heads &h) {
  constexpr int kWarps = kGradientThreads / kWarp;
  const i64 first = ((i64)blockIdx.x * kWarps + threadIdx.x / kWarp) * kFour, kvhead = blockIdx.y;
  if (first >= rows) return;
  Columns<Pairs> ks[kFour], vs[kFour], dks[kFour], dvs[kFour];
  int from = 0x7fffffff, to = 0;
#pragma unroll
  for (int i = 0; i < kFour; i++) {
    const i64 key = min(first + i, rows - 1), at = key * h.stride() + kvhead * h.d;
    ks[i].load(k + at, h.d);
    vs[i].load(v + at, h.d);
    dks[i].clear();
    dvs[i].clear();
    if (rowsOf[2 * key] < rowsOf[2 * key + 1]) from = min(from, rowsOf[2 * key]), to = max(to, rowsOf[2 * key + 1]);
  }
  for (i64 row = from; row < to; row++) {
    const i64 begin = keys.first[row], end = begin + keys.count(row);
    if (first + kFour <= begin || first >= end) continue;
    float logs, deltas;  // Of 32 heads, a lane each.
    for (int member = 0; member < h.group(); member++) {
      const i64 at = row * h.heads + kvhead * h.group() + member;
      if (member % kWarp == 0) {
        const int lane = threadIdx.x % kWarp;
        logs = member + lane < h.group() ? lse[at + lane] : 0;
        deltas = member + lane < h.group() ? delta[at + lane] : 0;
      }
      Columns<Pairs> mine, d;
      mine.load(q + at * h.d, h.d);
      d.load(dout + at * h.d, h.d);
      const Weights w = weigh(mine, d, ks, vs, __shfl_sync(kAll, logs, member % kWarp), __shfl_sync(kAll, deltas, member % kWarp), h.scale);
#pragma unroll
      for (int i = 0; i < kFour; i++) {
        if (first + i >= begin && first + i < end) {
          dvs[i].add(w.p[i], d);
          dks[i].add(w.ds[i], mine);
        }
      }
    }
  }
#pragma unroll
  for (int i = 0; i < kFour; i++) {
    if (first + i >= rows) continue;
    dks[i].store(dk + (first + i) * h.stride() + kvhead * h.d, h.d);
    dvs[i].store(dv + (first + i) * h.stride() + kvhead * h.d, h.d);
  }
}
