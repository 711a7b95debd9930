// Functions that both nvcc and the host's compiler compile: the kernels of both.cu run
// them on the software device, interp_compiled.cpp on the host, and the results must
// agree, to the bit where no library function is called.
#pragma once

#include <math.h>
#include <stdint.h>
#include <string.h>

#ifdef __CUDACC__
#define BOTH __host__ __device__
#define APART __host__ __device__ __noinline__
#else
#define BOTH inline
#define APART __attribute__((noinline)) inline
#endif

BOTH uint32_t float_bits(float f) {
  uint32_t b;
  memcpy(&b, &f, 4);
  return b;
}

// Integers of every width, division by constants and by values, shifts, branches.
BOTH uint64_t integers(uint32_t a, uint32_t b, uint32_t c) {
  uint64_t h = 1469598103934665603ull;
  int32_t sa = (int32_t)a, sb = (int32_t)b;
  uint32_t d = b | 1;
  h = h * 31 + a / d + a % d;
  h = h * 31 + (uint32_t)((sb | 1) == -1 ? 0 : sa / (sb | 1)) + (uint32_t)((sb | 1) == -1 ? 0 : sa % (sb | 1));
  h = h * 31 + a / 7 + (uint32_t)(sa / 7) + (uint32_t)(sa % 1000) + a % 10;
  h = h * 31 + ((uint64_t)a * b >> 32) + (uint64_t)((int64_t)sa * sb);
  uint64_t la = (uint64_t)a << 32 | b, lb = ((uint64_t)c << 16) | 5;
  h = h * 31 + la / lb + la % lb + (uint64_t)((int64_t)la / (int64_t)lb) + la / 1000003;
  h = h * 31 + (a << (c & 31)) + (a >> (c & 31)) + (uint32_t)(sa >> (c & 31)) + (la >> (c & 63)) + (la << (c & 63));
  uint16_t s = (uint16_t)a, t = (uint16_t)(b >> 3);
  int16_t u = (int16_t)(a >> 8);
  h = h * 31 + (uint16_t)(s * t) + (uint16_t)(s - t) + (uint32_t)(u / 3) + (uint32_t)(u >> 2);
  uint8_t p = (uint8_t)a, q = (uint8_t)(c >> 5);
  int8_t r = (int8_t)(b >> 4);
  h = h * 31 + (uint8_t)(p + q) + (uint32_t)(r * 3) + (p > q ? p : q) + (uint32_t)(r < 0 ? -r : r);
  if (a & 1) h ^= (uint64_t)b << 7;
  else if (a & 2) h += c;
  else h -= a;
  switch (c % 9) {
    case 0: h += 11; break;
    case 1: h *= 3; break;
    case 2: h ^= h >> 13; break;
    case 3: h += a;  // falls through
    case 4: h += b; break;
    case 5: h = h << 3 | h >> 61; break;
    case 7: h -= 99; break;
    default: h += 1;
  }
  for (uint32_t i = a % 13; i < 20; i++) {
    if (i == b % 17) continue;
    h = h * 6364136223846793005ull + i;
    if ((h & 0x3f) == 7) break;
  }
  return h;
}

APART uint32_t gcd(uint32_t a, uint32_t b) {
  while (b) {
    uint32_t t = a % b;
    a = b;
    b = t;
  }
  return a;
}

// An array in local memory, indexed by values; a function that is called.
BOTH uint64_t arrays(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t v[16];
  for (int i = 0; i < 16; i++) v[i] = a * (uint32_t)(i + 1) + b;
  for (uint32_t i = 0; i < 40; i++) {
    uint32_t x = (c + i * 7) & 15, y = (v[x] >> 3) & 15;
    uint32_t t = v[x];
    v[x] = v[y] ^ i;
    v[y] = t + c;
  }
  uint64_t h = gcd(a | 1, b | 1);
  for (int i = 0; i < 16; i++) h = h * 1099511628211ull + v[(c + (uint32_t)i) & 15];
  return h + gcd(c, a);
}

// Floating point without library functions: to the bit. nvcc is told not to contract.
BOTH uint64_t floats(float a, float b, float c) {
  uint64_t h = 7;
  h = h * 31 + float_bits(a + b) + float_bits(a * c) + float_bits(a - b * c);
  h = h * 31 + float_bits(fmaf(a, b, c)) + float_bits(a / (b == 0 ? 1.0f : b)) + float_bits(sqrtf(fabsf(c)));
  h = h * 31 + (uint32_t)(int32_t)(fabsf(a) < 1e9f ? a : 0) + (uint64_t)(int64_t)(fabsf(b) < 1e15f ? b : 0);
  h = h * 31 + float_bits(floorf(a)) + float_bits(ceilf(b)) + float_bits(truncf(c)) + float_bits(rintf(a));
  h = h * 31 + float_bits(fminf(a, b)) + float_bits(fmaxf(b, c)) + (a < b) + 2 * (b >= c) + 4 * (a == c) + 8 * (a != b);
  h = h * 31 + float_bits((float)(int32_t)float_bits(a)) + float_bits((float)float_bits(b)) + float_bits((float)((uint64_t)float_bits(c) << 20));
  double x = a, y = b, z = c;
  double s = x * y + z, t = x / (y == 0 ? 1.0 : y), u = sqrt(fabs(z)) + fma(x, y, z);
  uint64_t bs, bt, bu;
  memcpy(&bs, &s, 8);
  memcpy(&bt, &t, 8);
  memcpy(&bu, &u, 8);
  h = h * 31 + bs + bt * 3 + bu * 5 + float_bits((float)s);
  return h;
}

// Library functions: compared with a tolerance. kMath of them.
constexpr int kMath = 18;
BOTH void library(float a, float b, float* out) {
  float p = fabsf(a) + 1e-3f;
  out[0] = expf(a);
  out[1] = logf(p);
  out[2] = sinf(a * 10);
  out[3] = cosf(a * 10);
  out[4] = powf(p, b);
  out[5] = tanhf(a);
  out[6] = erff(a);
  out[7] = exp2f(a);
  out[8] = log2f(p);
  out[9] = fmodf(a * 100, p + fabsf(b));
  out[10] = 1.0f / sqrtf(p);
  out[11] = atan2f(a, b);
  out[12] = log1pf(p);
  out[13] = expm1f(a);
  out[14] = (float)exp((double)a);
  out[15] = (float)sin((double)b * 1e5);
  out[16] = (float)log((double)p);
  out[17] = cbrtf(a);
}
