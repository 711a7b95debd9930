// Rows of products of matrices, for mma.sync and wgmma.
#pragma once

#ifdef __FMA__
#include <immintrin.h>
#endif

namespace softcuda {

// Eight floats are a row of the product. Products of these types are exact in float, so
// that fused or not makes no difference but where they leave its range; sums are
// rounded one after another, in the order of k.
using Row = float __attribute__((vector_size(32)));

inline Row multiply_add(float a, Row b, Row c) {
#ifdef __FMA__
  return _mm256_fmadd_ps(_mm256_set1_ps(a), b, c);
#else
  for (int n = 0; n < 8; n++) c[n] = __builtin_fmaf(a, b[n], c[n]);
  return c;
#endif
}

}  // namespace softcuda
