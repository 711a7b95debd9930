// The product of the stand-in for cuBLAS: C [m, n] = alpha·op(A)·op(B) + beta·C by
// columns, a thread an element, in float32. Types: 0 float32, 14 bfloat16, as
// cudaDataType. Each sum is made in so many parts, as the library splits it differently
// for other shapes. Without beta C is not read.
template <class Type>
__device__ float read(const void *p, long long i);
template <>
__device__ float read<float>(const void *p, long long i) { return static_cast<const float *>(p)[i]; }
template <>
__device__ float read<unsigned short>(const void *p, long long i) {
  return __uint_as_float(static_cast<unsigned>(static_cast<const unsigned short *>(p)[i]) << 16);
}

template <class Type>
__device__ void multiply(const void *a, const void *b, void *c, bool rounds, long long m, long long n, long long k, long long lda, long long ldb,
                         long long ldc, bool turnA, bool turnB, float alpha, float beta, int parts) {
  const long long at = (long long)blockIdx.x * blockDim.x + threadIdx.x;
  if (at >= m * n) return;
  const long long i = at % m, j = at / m;
  const long long stepA = turnA ? 1 : lda, stepB = turnB ? ldb : 1;
  const long long fromA = turnA ? i * lda : i, fromB = turnB ? j : j * ldb;
  float sum = 0;
  for (int part = 0; part < parts; part++) {
    float some = 0;
    const long long to = k * (part + 1) / parts;
    for (long long l = k * part / parts; l < to; l++) some = fmaf(read<Type>(a, fromA + l * stepA), read<Type>(b, fromB + l * stepB), some);
    sum += some;
  }
  float v = alpha * sum;
  const long long to = i + j * ldc;
  if (!rounds) {
    float *f = static_cast<float *>(c) + to;
    if (beta != 0) v += beta * *f;
    *f = v;
    return;
  }
  unsigned short *h = static_cast<unsigned short *>(c) + to;
  if (beta != 0) v += beta * read<unsigned short>(c, to);
  const unsigned bits = __float_as_uint(v);
  *h = v != v ? 0x7fff : (unsigned short)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

extern "C" __global__ void gemm(const void *a, const void *b, void *c, int type, int typeC, long long m, long long n, long long k, long long lda,
                                long long ldb, long long ldc, int turnA, int turnB, float alpha, float beta, int parts) {
  if (type == 0)
    multiply<float>(a, b, c, typeC != 0, m, n, k, lda, ldb, ldc, turnA, turnB, alpha, beta, parts);
  else
    multiply<unsigned short>(a, b, c, typeC != 0, m, n, k, lda, ldb, ldc, turnA, turnB, alpha, beta, parts);
}
