// Attention on the tensor cores, for activations and caches in bf16.
//
// Targets: sm80.
//
// Parameters are those of the kernels of the same name in attention.cu. W is 64 or 128,
// and d a multiple of 8, at most W; q, k, v and out begin at multiples of 16 bytes.
//
//   attention_bf16_tensorW(out, lse, q, k, v, first, count, n, heads, kvheads, d, scale)
//   pagedattention_bf16_tensorW(out, q, cachek, cachev, blocks, first, count, n, blocksize,
//       heads, kvheads, d, scale)
//   pagedattention_bf16_splittensorW(sums, states, q, …, scale), then
//   attention_bf16_combine
//
//   attentionback_bf16_queriestensorW(dq, delta, …), then
//   attentionback_bf16_keystensorW(dk, dv, …)
//     Keys behind each other with the same two rows in rowsof share their reads of rows.
//
// The result of attention is the same to the bit, whichever of them computes it, wherever keys lie; it
// is not that of attention.cu:
//   score   Σ of products by mma, 16 columns at a time, rising, from zero; s = score·scale·log₂e;
//   tile    of 64 keys: m is its largest s, and l = Σ 2^(s−m), in float32: a lane of four has
//           the keys 2t and 2t+1 (mod 8), rising, then a butterfly over the four; 2^(s−m) is
//           rounded to bf16 for the product with v, by mma, 16 keys at a time, rising, from
//           zero;
//   chunk   of 256 keys: tiles are merged, rising, from nothing: with M the larger m, both
//           sums times 2^(m−M);
//   row     chunks are merged, rising, as in attention.cu.
// A row without keys gets zeros. What a row does not attend to has no part in its result,
// numbers or not.
//
// The gradient takes probabilities from lse, and rounds them and the gradients of scores to
// bf16 for its products. These add up keys (dq), or the pairs of a row and a head from the
// first row of rowsof on (dk, dv), 16 at a time, rising. What a row does not attend to has
// the weight zero there: it is to be finite.
//
// Launch: 128 threads
//   attention, pagedattention  with G = heads/kvheads, H = min(G, 64), R = 64/H rounded down:
//       grid ⌈n/R⌉ × kvheads × ⌈G/H⌉; W·640 bytes of dynamic shared memory
//   split    grid n × kvheads × chunks; W·544 bytes
//   queries  as attention; W·512 bytes
//   keys     grid ⌈rows/64⌉ × kvheads; W·512 bytes
//
// Cost: split reads each key and value once a key-value head (of at most 16 heads) and row;
// the others once every R rows. 4·d operations a row, head and key. queries reads each key
// and value once every R rows, and keys each q and dout that attends to any of 64 keys once
// for these; 6·d and 8·d operations.
#include "tensordecode.cuh"
#include "tensorgradient.cuh"
#include "tensorprefill.cuh"

#define ATTENTION(name, W) \
  KERNEL_OF(kTensorThreads, 2) name(bf16 *out, float *lse, const bf16 *q, const bf16 *k, const bf16 *v, const int *first, const int *count, i64 n, i64 heads, i64 kvheads, i64 d, double scale) { \
    attendTiles<W>(out, lse, q, k, v, Spans{first, count}, n, {heads, kvheads, d, (float)scale}); \
  }
ATTENTION(attention_bf16_tensor64, 64)
ATTENTION(attention_bf16_tensor128, 128)

#define PAGED(name, W) \
  KERNEL_OF(kTensorThreads, 2) name(bf16 *out, const bf16 *q, const bf16 *cachek, const bf16 *cachev, const int *blocks, const int *first, const int *count, i64 n, i64 blocksize, i64 heads, i64 kvheads, i64 d, double scale) { \
    attendTiles<W>(out, (float *)nullptr, q, cachek, cachev, Paged{blocks, first, count, blocksize}, n, {heads, kvheads, d, (float)scale}); \
  }
PAGED(pagedattention_bf16_tensor64, 64)
PAGED(pagedattention_bf16_tensor128, 128)

#define SPLIT(name, W) \
  KERNEL_OF(kTensorThreads, 3) name(float *sums, float2 *states, const bf16 *q, const bf16 *cachek, const bf16 *cachev, const int *blocks, const int *first, const int *count, i64 n, i64 blocksize, i64 heads, i64 kvheads, i64 d, double scale) { \
    attendChunkTensor<W>(sums, states, q, cachek, cachev, Paged{blocks, first, count, blocksize}, n, {heads, kvheads, d, (float)scale}); \
  }
SPLIT(pagedattention_bf16_splittensor64, 64)
SPLIT(pagedattention_bf16_splittensor128, 128)

#define QUERIES(name, W) \
  KERNEL_OF(kTensorThreads, 2) name(bf16 *dq, float *delta, const bf16 *dout, const bf16 *out, const float *lse, const bf16 *q, const bf16 *k, const bf16 *v, const int *first, const int *count, i64 n, i64 heads, i64 kvheads, i64 d, double scale) { \
    gradientOfQueriesTensor<W>(dq, delta, dout, out, lse, q, k, v, Spans{first, count}, n, {heads, kvheads, d, (float)scale}); \
  }
QUERIES(attentionback_bf16_queriestensor64, 64)
QUERIES(attentionback_bf16_queriestensor128, 128)

#define KEYS(name, W) \
  KERNEL_OF(kTensorThreads, 2) name(bf16 *dk, bf16 *dv, const bf16 *dout, const float *lse, const float *delta, const bf16 *q, const bf16 *k, const bf16 *v, const int *first, const int *count, const int *rowsof, i64 rows, i64 heads, i64 kvheads, i64 d, double scale) { \
    gradientOfKeysTensor<W>(dk, dv, dout, lse, delta, q, k, v, Spans{first, count}, rowsof, rows, {heads, kvheads, d, (float)scale}); \
  }
KEYS(attentionback_bf16_keystensor64, 64)
KEYS(attentionback_bf16_keystensor128, 128)
