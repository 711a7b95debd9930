// Rotary positions and attention.
//
// Targets: sm80.
//
// T is f32 or bf16, the storage of activations and, but where a kernel is named T_C, of the
// cache. T_C is f32_bf16: activations in f32 beside a cache in bf16. d is the width of a head, at
// most 128, and at most 256 in the variants "wide"; rotations need an even one. heads is a multiple of kvheads; head i
// reads key-value head i / (heads/kvheads). Rows of keys and values have kvheads·d
// elements.
//
//   rope_T(x, positions, table, n, heads, d, ldx, inverse)
//     rotates x [n, ldx] in place: element i of a head with element i + d/2. table f32
//     [·, d] has d/2 cosines and then d/2 sines for each position. inverse ≠ 0 rotates back.
//   ropestore_T(q, k, v, cachek, cachev, positions, slots, table, n, heads, kvheads, d)
//     rotates q [n, heads·d] in place, and writes k, rotated, and v [n, kvheads·d] to the
//     rows slots[i] of the caches, unless slots[i] < 0.
//   ropestore_T_C likewise. Keys and values are rounded as they are written.
//   attention_T[_wide](out, lse, q, k, v, first, count, n, heads, kvheads, d, scale)
//     row i attends to the rows first[i] … first[i] + count[i] − 1. lse f32 [n, heads] gets
//     the logarithm of the softmax's denominator; 0 for none.
//   pagedattention_T[_wide], pagedattention_T_C[_wide](out, q, cachek, cachev, blocks, first, count, n, blocksize, heads,
//       kvheads, d, scale)
//     row i attends to the first count[i] rows of the blocks blocks[first[i]], blocks[first[i] +
//     1] …, of blocksize rows each. What stands behind those it needs is not read. Rows of one
//     sequence share their reads of keys if they are adjacent and have the same first.
//   pagedattention_T_split[wide], pagedattention_T_C_split[wide](sums, states, q, …, scale), then
//   attention_T_combine(out, sums, states, count, n, heads, d, chunks)
//     the same in two steps, for few rows with many keys. sums f32 [n, heads, chunks, d] and
//     states f32 [n, heads, chunks, 2] are workspace; chunks ≥ ⌈count/256⌉ of every row. With
//     chunks = 1 there is nothing to combine: sums is out, of T, and states is not used.
//   attentionback_T_queries[wide](dq, delta, dout, out, lse, q, k, v, first, count, n, heads,
//       kvheads, d, scale), then
//   attentionback_T_keys[wide](dk, dv, dout, lse, delta, q, k, v, first, count, rowsof, rows,
//       heads, kvheads, d, scale)
//     delta f32 [n, heads] is workspace that the first writes and the second reads. rowsof
//     int32 [rows, 2] names, for each row of k, the first row that may attend to it and the
//     one behind the last; both equal if none does, and then its gradients are zero.
//
// positions, slots, first, count, blocks and rowsof are int32. A row with count 0
// gets zeros.
//
// The result is the same to the bit, whichever of them computes it, wherever keys lie:
//   score   Σ of products by fma in four parts, part i has the columns 8i … 8i+7 (mod 32),
//           rising; ((p0 + p1) + (p2 + p3))·scale;
//   chunk   of 256 keys: m is its largest score, l = Σ e^(s−m), by a butterfly over each tile
//           of 32 keys and then tile by tile, and Σ e^(s−m)·v by fma, key by key in a tile and
//           then tile by tile;
//   row     chunks are merged, rising: with M the larger m, both sums times e^(m−M).
// The gradient adds over keys (dq), or rows and then heads (dk, dv), rising.
//
// Launch:
//   rope, ropestore  256 threads, any grid
//   attention, pagedattention  256 threads (wide: 128). With P = 32 (wide: 8), G =
//       heads/kvheads, H = min(G, P), R = P/H rounded down: grid ⌈n/R⌉ × kvheads × ⌈G/H⌉
//   split    256 threads, grid n × kvheads × chunks
//   combine  128 threads, grid n × heads
//   queries  128 threads, grid n × ⌈heads/4⌉
//   keys     128 threads, grid ⌈rows/16⌉ × kvheads
//
// Cost: split reads each key and value once a key-value head (of at most 8 heads) and row.
// attention reads them once every R rows. 4·d operations a row, head and key; 10·d in the
// gradient, which reads q and dout once every 4 keys.
#include "attention.cuh"
#include "decode.cuh"
#include "gradient.cuh"

constexpr int kRopeThreads = 256;

// rotate turns (a, b) by the angle whose cosine and sine are c and s.
__device__ __forceinline__ float2 rotate(float a, float b, float c, float s) {
  return make_float2(fmaf(a, c, -__fmul_rn(b, s)), fmaf(b, c, __fmul_rn(a, s)));
}

// eachPair calls f(row, head, i) for i in the first half of each head of each row.
template <class F> __device__ __forceinline__ void eachPair(i64 n, i64 heads, i64 half, F f) {
  const i64 count = n * heads * half, stride = (i64)gridDim.x * kRopeThreads;
  for (i64 at = (i64)blockIdx.x * kRopeThreads + threadIdx.x; at < count; at += stride) {
    const bool small = count >> 32 == 0;
    const i64 unit = small ? (i64)((u32)at / (u32)half) : at / half, row = small ? (i64)((u32)unit / (u32)heads) : unit / heads;
    f(row, unit - row * heads, at - unit * half);
  }
}

template <class T>
__device__ __forceinline__ void rope(T *x, const int *positions, const float *table, i64 n, i64 heads, i64 d, i64 ldx, i64 inverse) {
  eachPair(n, heads, d / 2, [&](i64 row, i64 head, i64 i) {
    const float *angles = table + positions[row] * d + i;
    T *a = x + row * ldx + head * d + i, *b = a + d / 2;
    const float2 r = rotate(widen(*a), widen(*b), angles[0], inverse ? -angles[d / 2] : angles[d / 2]);
    *a = narrow<T>(r.x), *b = narrow<T>(r.y);
  });
}
KERNEL(kRopeThreads) rope_f32(float *x, const int *positions, const float *table, i64 n, i64 heads, i64 d, i64 ldx, i64 inverse) {
  rope(x, positions, table, n, heads, d, ldx, inverse);
}
KERNEL(kRopeThreads) rope_bf16(bf16 *x, const int *positions, const float *table, i64 n, i64 heads, i64 d, i64 ldx, i64 inverse) {
  rope(x, positions, table, n, heads, d, ldx, inverse);
}

template <class T, class C>
__device__ __forceinline__ void ropestore(T *q, const T *k, const T *v, C *cachek, C *cachev, const int *positions, const int *slots,
                                          const float *table, i64 n, i64 heads, i64 kvheads, i64 d) {
  const i64 half = d / 2;
  eachPair(n, heads + 2 * kvheads, half, [&](i64 row, i64 head, i64 i) {
    const float *angles = table + positions[row] * d + i;
    if (head < heads) {
      T *a = q + (row * heads + head) * d + i, *b = a + half;
      const float2 r = rotate(widen(*a), widen(*b), angles[0], angles[half]);
      *a = narrow<T>(r.x), *b = narrow<T>(r.y);
      return;
    }
    const i64 slot = slots[row];
    if (slot < 0) return;
    head -= heads;
    if (head < kvheads) {
      const T *a = k + (row * kvheads + head) * d + i;
      C *to = cachek + (slot * kvheads + head) * d + i;
      const float2 r = rotate(widen(a[0]), widen(a[half]), angles[0], angles[half]);
      to[0] = narrow<C>(r.x), to[half] = narrow<C>(r.y);
      return;
    }
    head -= kvheads;
    const T *a = v + (row * kvheads + head) * d + i;
    C *to = cachev + (slot * kvheads + head) * d + i;
    to[0] = narrow<C>(widen(a[0])), to[half] = narrow<C>(widen(a[half]));
  });
}
#define ROPESTORE(name, T, C) \
  KERNEL(kRopeThreads) name(T *q, const T *k, const T *v, C *cachek, C *cachev, const int *positions, const int *slots, const float *table, i64 n, i64 heads, i64 kvheads, i64 d) { \
    ropestore(q, k, v, cachek, cachev, positions, slots, table, n, heads, kvheads, d); \
  }
ROPESTORE(ropestore_f32, float, float)
ROPESTORE(ropestore_bf16, bf16, bf16)
ROPESTORE(ropestore_f32_bf16, float, bf16)

using Narrow = Block<2, 4, 8>;
using Wide = Block<4, 2, 4>;

#define ATTENTION(name, B, T) \
  KERNEL(B::kThreads) name(T *out, float *lse, const T *q, const T *k, const T *v, const int *first, const int *count, i64 n, i64 heads, i64 kvheads, i64 d, double scale) { \
    attend<B>(out, lse, q, k, v, Spans{first, count}, n, {heads, kvheads, d, (float)scale}); \
  }
ATTENTION(attention_f32, Narrow, float)
ATTENTION(attention_bf16, Narrow, bf16)
ATTENTION(attention_f32_wide, Wide, float)
ATTENTION(attention_bf16_wide, Wide, bf16)

#define PAGED(name, B, T, C) \
  KERNEL(B::kThreads) name(T *out, const T *q, const C *cachek, const C *cachev, const int *blocks, const int *first, const int *count, i64 n, i64 blocksize, i64 heads, i64 kvheads, i64 d, double scale) { \
    attend<B>(out, (float *)nullptr, q, cachek, cachev, Paged{blocks, first, count, blocksize}, n, {heads, kvheads, d, (float)scale}); \
  }
PAGED(pagedattention_f32, Narrow, float, float)
PAGED(pagedattention_bf16, Narrow, bf16, bf16)
PAGED(pagedattention_f32_wide, Wide, float, float)
PAGED(pagedattention_bf16_wide, Wide, bf16, bf16)
PAGED(pagedattention_f32_bf16, Narrow, float, bf16)
PAGED(pagedattention_f32_bf16_wide, Wide, float, bf16)

#define SPLIT(name, pairs, T, C) \
  KERNEL_OF(kDecodeThreads, 2) name(float *sums, float2 *states, const T *q, const C *cachek, const C *cachev, const int *blocks, const int *first, const int *count, i64 n, i64 blocksize, i64 heads, i64 kvheads, i64 d, double scale) { \
    attendChunk<pairs>(sums, states, q, cachek, cachev, Paged{blocks, first, count, blocksize}, n, {heads, kvheads, d, (float)scale}); \
  }
SPLIT(pagedattention_f32_split, 2, float, float)
SPLIT(pagedattention_bf16_split, 2, bf16, bf16)
SPLIT(pagedattention_f32_splitwide, 4, float, float)
SPLIT(pagedattention_bf16_splitwide, 4, bf16, bf16)
SPLIT(pagedattention_f32_bf16_split, 2, float, bf16)
SPLIT(pagedattention_f32_bf16_splitwide, 4, float, bf16)

#define COMBINE(name, T) \
  KERNEL(kCombineThreads) name(T *out, const float *sums, const float2 *states, const int *count, i64 n, i64 heads, i64 d, i64 chunks) { \
    combine(out, sums, states, count, n, heads, d, chunks); \
  }
COMBINE(attention_f32_combine, float)
COMBINE(attention_bf16_combine, bf16)

#define QUERIES(name, pairs, T) \
  KERNEL(kGradientThreads) name(T *dq, float *delta, const T *dout, const T *out, const float *lse, const T *q, const T *k, const T *v, const int *first, const int *count, i64 n, i64 heads, i64 kvheads, i64 d, double scale) { \
    gradientOfQueries<pairs>(dq, delta, dout, out, lse, q, k, v, Spans{first, count}, n, {heads, kvheads, d, (float)scale}); \
  }
QUERIES(attentionback_f32_queries, 2, float)
QUERIES(attentionback_bf16_queries, 2, bf16)
QUERIES(attentionback_f32_querieswide, 4, float)
QUERIES(attentionback_bf16_querieswide, 4, bf16)

#define KEYS(name, pairs, T) \
  KERNEL(kGradientThreads) name(T *dk, T *dv, const T *dout, const float *lse, const float *delta, const T *q, const T *k, const T *v, const int *first, const int *count, const int *rowsof, i64 rows, i64 heads, i64 kvheads, i64 d, double scale) { \
    gradientOfKeys<pairs>(dk, dv, dout, lse, delta, q, k, v, Spans{first, count}, rowsof, rows, {heads, kvheads, d, (float)scale}); \
  }
KEYS(attentionback_f32_keys, 2, float)
KEYS(attentionback_bf16_keys, 2, bf16)
KEYS(attentionback_f32_keyswide, 4, float)
KEYS(attentionback_bf16_keyswide, 4, bf16)
