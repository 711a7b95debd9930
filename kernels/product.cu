// Products of rows with a weight, and their quantisation.
//
// Targets: sm80.
//
//   product_W_T_skinny, product_W_T_tiled, product_bf16_T_medium, product_bf16_T_large
//     (y, x, w, wscales, scales, index, n, m, k, ldw, ldx, ldy, flags)
//   product_W_T_skinny3(n, [y, x, w, wscales, scales, index, m, k, ldw, ldx, ldy, flags]×3)
//     three independent products of n rows; one with m = 0 is none.
//   quantise_T(q, qscales, x, scales, index, n, k, ldx, ldq)
//
// y[n, m] = Σₖ x[n, k]·w[m, k], added to y where flags has bit 0. W is f32, bf16 or i8,
// the type of w [m, ldw]; T is that of y [n, ldy] and, but for i8, of x [n, ldx]. All
// pitches are in elements.
//
//   w        ldw is k rounded up to a multiple of 64, zero behind k; 256-byte aligned.
//   wscales  i8: bf16 [m, ldw/32], one a block of 32 columns. Otherwise not read.
//   scales   f32, bf16: a bank f32 [·, k] of rows without padding, or 0. Row n of x is
//            multiplied by row index[n] of it, or by row 0 where index is 0, and rounded to
//            T, as scalecols does it. bf16 then rounds it to bfloat16.
//            i8: the f32 [n, ldx/32] that quantise wrote, and x is its q: ldx is a
//            multiple of 64 that is not less than k. index is not read.
//            With flag 1 the bank is [·, m] and scales the outputs: the sum is rounded to T,
//            multiplied, rounded to T, and then added to y. So the first of two factored
//            products scales for the second, which reads fewer bytes. Not for i8, where
//            quantise does it.
//   index    int32 [n], or 0.
//   flags    bit 0: add to y; bit 1: scale the outputs.
//
// The sum is the same to the bit in all variants, for any n: K is cut into 4 parts of
// ⌈k/256⌉·64 columns. Each part is summed from zero, and the sum is
// ((p0 + p1) + p2) + p3, then + y, then rounded to T. Within a part
//   f32   adds column by column, by fma, rising;
//   bf16  takes blocks of 32 columns, rising, in two m16n8k16 products: the first of the
//         columns 8i to 8i+3, the second of 8i+4 to 8i+7, i = 0…3. So 16 bytes of a row
//         are what one lane needs, and no layout is ever changed;
//   i8    adds (d·w's scale)·x's scale for each block of 32 columns, by fma, rising; d is
//         the exact sum of the integers' products.
//
// Launch:
//   skinny  n ≤ 16; 128 threads; gridDim.x = ⌈m/16⌉ (bf16, i8), ⌈m/32⌉ (f32)
//   skinny3 likewise, with the sum of the three
//   medium  any n; 512 threads; grid ⌈n/64⌉ × ⌈m/64⌉; 128 KiB of dynamic shared memory; for 17
//           to 64 rows, where it keeps more of memory busy
//   tiled   any n; 128 threads (bf16, i8), 256 (f32); grid ⌈n/64⌉ × ⌈m/64⌉
//   large   any n; 256 threads; grid ⌈n/128⌉ × ⌈m/128⌉; pays from some 512 rows on
//   quantise  256 threads, any grid; a thread takes 8 columns
// n = 0 writes nothing; a grid may be larger.
//
// Cost: w once a 16, 64 or 128 rows (with its scales), x once an output tile of 16 (32),
// 64 or 128, from L2 but for the first; y once, twice with flag 0. 2·n·m·k operations.
#include "skinny.cuh"
#include "tiled.cuh"

using Tiled = Tile<64, 64, 2, 2, 4>;
using TiledI8 = Tile<64, 64, 2, 2, 3>;
using Large = Tile<128, 128, 2, 4, 3>;

using Medium = Tile<64, 64, 2, 2, 4>;  // In each part.

#define PRODUCT(name, threads, T, X, W) \
  KERNEL(threads) name(T *y, const X *x, const W *w, const bf16 *wscales, const float *scales, const int *index, i64 n, i64 m, i64 k, i64 ldw, i64 ldx, i64 ldy, i64 flags)
// One product, of which scales are those of x or, by a flag, of y.
#define ONE {y, n, m, k, ldw, ldx, ldy, flags, flags & kScaleOutputs ? scales : nullptr, index}
#define X_ROWS {x, flags & kScaleOutputs ? nullptr : scales, index, n, k, ldx}
#define ROWS(call) { if (n > 0) call(ONE, X_ROWS, w); }
#define ROWS_OF(call, block) { if (n > 0) call(block, ONE, X_ROWS, w); }
#define QUANTISED(call) { if (n > 0) call({y, n, m, k, ldw, ldx, ldy, flags, nullptr, nullptr}, x, scales, w, wscales); }
#define QUANTISED_OF(call, block) { if (n > 0) call(block, {y, n, m, k, ldw, ldx, ldy, flags, nullptr, nullptr}, x, scales, w, wscales); }

PRODUCT(product_f32_f32_skinny, kSkinnyThreads, float, float, float) ROWS_OF(skinnyF32<float>, blockIdx.x)
PRODUCT(product_f32_bf16_skinny, kSkinnyThreads, bf16, bf16, float) ROWS_OF(skinnyF32<bf16>, blockIdx.x)
PRODUCT(product_f32_f32_tiled, kTileF32Threads, float, float, float) ROWS(tiledF32<float>)
PRODUCT(product_f32_bf16_tiled, kTileF32Threads, bf16, bf16, float) ROWS(tiledF32<bf16>)

PRODUCT(product_bf16_f32_skinny, kSkinnyThreads, float, float, bf16) ROWS_OF(skinnyBF16<float>, blockIdx.x)
PRODUCT(product_bf16_bf16_skinny, kSkinnyThreads, bf16, bf16, bf16) ROWS_OF(skinnyBF16<bf16>, blockIdx.x)
PRODUCT(product_bf16_f32_medium, kParts *Medium::kThreads, float, float, bf16) ROWS((mediumBF16<Medium, float>))
PRODUCT(product_bf16_bf16_medium, kParts *Medium::kThreads, bf16, bf16, bf16) ROWS((mediumBF16<Medium, bf16>))
PRODUCT(product_bf16_f32_tiled, Tiled::kThreads, float, float, bf16) ROWS((tiledBF16<Tiled, float>))
PRODUCT(product_bf16_bf16_tiled, Tiled::kThreads, bf16, bf16, bf16) ROWS((tiledBF16<Tiled, bf16>))
PRODUCT(product_bf16_f32_large, Large::kThreads, float, float, bf16) ROWS((tiledBF16<Large, float>))
PRODUCT(product_bf16_bf16_large, Large::kThreads, bf16, bf16, bf16) ROWS((tiledBF16<Large, bf16>))

PRODUCT(product_i8_f32_skinny, kSkinnyThreads, float, signed char, signed char) QUANTISED_OF(skinnyI8<float>, blockIdx.x)
PRODUCT(product_i8_bf16_skinny, kSkinnyThreads, bf16, signed char, signed char) QUANTISED_OF(skinnyI8<bf16>, blockIdx.x)
PRODUCT(product_i8_f32_tiled, TiledI8::kThreads, float, signed char, signed char) QUANTISED((tiledI8<TiledI8, float>))
PRODUCT(product_i8_bf16_tiled, TiledI8::kThreads, bf16, signed char, signed char) QUANTISED((tiledI8<TiledI8, bf16>))

// Three skinny products in one launch: what reads the same, or is ready at the same
// time, shares the device.
#define OF_THREE(i, T, X, W) \
  T *y##i, const X *x##i, const W *w##i, const bf16 *wscales##i, const float *scales##i, const int *index##i, i64 m##i, i64 k##i, i64 ldw##i, i64 ldx##i, i64 ldy##i, i64 flags##i
#define CHOOSE(type, name) [[maybe_unused]] type name = which == 0 ? name##0 : which == 1 ? name##1 : name##2
#define SKINNY3(name, T, X, W, outputs, run) \
  KERNEL(kSkinnyThreads) name(i64 n, OF_THREE(0, T, X, W), OF_THREE(1, T, X, W), OF_THREE(2, T, X, W)) { \
    i64 block = blockIdx.x; \
    const i64 blocks0 = (m0 + outputs - 1) / outputs, blocks1 = (m1 + outputs - 1) / outputs; \
    const int which = block < blocks0 ? 0 : block < blocks0 + blocks1 ? 1 : 2; \
    block -= which == 0 ? 0 : which == 1 ? blocks0 : blocks0 + blocks1; \
    CHOOSE(T *, y); \
    CHOOSE(const X *, x); \
    CHOOSE(const W *, w); \
    CHOOSE(const bf16 *, wscales); \
    CHOOSE(const float *, scales); \
    CHOOSE(const int *, index); \
    CHOOSE(const i64, m); \
    CHOOSE(const i64, k); \
    CHOOSE(const i64, ldw); \
    CHOOSE(const i64, ldx); \
    CHOOSE(const i64, ldy); \
    CHOOSE(const i64, flags); \
    if (m > block * outputs) run \
  }
SKINNY3(product_f32_f32_skinny3, float, float, float, kSkinnyOutputsF32, ROWS_OF(skinnyF32<float>, block))
SKINNY3(product_f32_bf16_skinny3, bf16, bf16, float, kSkinnyOutputsF32, ROWS_OF(skinnyF32<bf16>, block))
SKINNY3(product_bf16_f32_skinny3, float, float, bf16, kSkinnyOutputs, ROWS_OF(skinnyBF16<float>, block))
SKINNY3(product_bf16_bf16_skinny3, bf16, bf16, bf16, kSkinnyOutputs, ROWS_OF(skinnyBF16<bf16>, block))
SKINNY3(product_i8_f32_skinny3, float, signed char, signed char, kSkinnyOutputs, QUANTISED_OF(skinnyI8<float>, block))
SKINNY3(product_i8_bf16_skinny3, bf16, signed char, signed char, kSkinnyOutputs, QUANTISED_OF(skinnyI8<bf16>, block))

constexpr int kQuantiseThreads = 256;

// Four lanes have a block. Its scale is m/127 and q = x·(127/m), to the nearest, ties
// to even; m is the largest magnitude, and all are zero where it is below 2⁻¹¹⁹. A block
// with an element that is not finite has the scale NaN.
template <class T>
__device__ __forceinline__ void quantise(signed char *q, float *qscales, const Rows<T> &rows, i64 ldq) {
  const i64 vectors = ldq / kVector, count = rows.n * vectors, stride = (i64)gridDim.x * kQuantiseThreads;
  for (i64 first = (i64)blockIdx.x * kQuantiseThreads + threadIdx.x / kWarp * kWarp; first < count; first += stride) {
    const i64 i = first + threadIdx.x % kWarp, row = i / vectors, at = i % vectors * kVector;
    float v[kVector] = {}, top = 0;
    if (i < count) {
      rows.take(v, row, at);
      rows.apply(v, rows.scale(row), at);
    }
    bool finite = true;
#pragma unroll
    for (int j = 0; j < kVector; j++) {
      finite = finite && v[j] - v[j] == 0;
      top = fmaxf(top, fabsf(v[j]));
    }
#pragma unroll
    for (int d = 1; d < 4; d *= 2) {
      top = fmaxf(top, __shfl_xor_sync(kAll, top, d));
      finite = __shfl_xor_sync(kAll, finite, d) && finite;
    }
    const bool zero = !finite || top < 0x1p-119f;
    const float factor = zero ? 0 : 127 / top;
    u32 words[2] = {};
#pragma unroll
    for (int j = 0; j < kVector; j++)
      if (!zero) words[j / 4] |= (u32)(__float2int_rn(v[j] * factor) & 0xff) << (8 * (j % 4));
    if (i < count) {
      put8(q + row * ldq + at, words[0], words[1]);
      if (at % 32 == 0) qscales[(row * ldq + at) / 32] = !finite ? __uint_as_float(0x7fc00000) : zero ? 0 : top / 127;
    }
  }
}

KERNEL(kQuantiseThreads)
quantise_f32(signed char *q, float *qscales, const float *x, const float *scales, const int *index, i64 n, i64 k, i64 ldx, i64 ldq) {
  quantise<float>(q, qscales, {x, scales, index, n, k, ldx}, ldq);
}
KERNEL(kQuantiseThreads)
quantise_bf16(signed char *q, float *qscales, const bf16 *x, const float *scales, const int *index, i64 n, i64 k, i64 ldx, i64 ldq) {
  quantise<bf16>(q, qscales, {x, scales, index, n, k, ldx}, ldq);
}
