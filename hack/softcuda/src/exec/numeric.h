// Conversions between floating-point formats, to the bit, and what PTX asks of every
// floating-point result.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

namespace softcuda {

enum class Round : uint8_t { nearest, zero, down, up, away };  // .rn .rz .rm .rp .rna

inline uint32_t bits(float f) { return std::bit_cast<uint32_t>(f); }
inline uint64_t bits(double d) { return std::bit_cast<uint64_t>(d); }
inline float as_float(uint32_t b) { return std::bit_cast<float>(b); }
inline double as_double(uint64_t b) { return std::bit_cast<double>(b); }

// The NaN that an operation gives, whatever NaN it was given.
constexpr uint32_t kNaN32 = 0x7fffffff;
constexpr uint16_t kNaN16 = 0x7fff;  // .f16 and .bf16

// pack_float rounds a double to a format of kExp exponent and kMan mantissa bits. One
// rounding, subnormals included.
template <int kExp, int kMan>
uint32_t pack_float(double x, Round mode) {
  uint64_t b = bits(x);
  uint32_t sign = static_cast<uint32_t>(b >> 63) << (kExp + kMan);
  uint64_t m = b & ((uint64_t{1} << 52) - 1);
  int e = static_cast<int>((b >> 52) & 0x7ff);
  constexpr uint32_t kInf = ((1u << kExp) - 1) << kMan;
  if (e == 0x7ff) return m ? (kInf | ((1u << kMan) - 1)) : sign | kInf;
  if (e == 0 && m == 0) return sign;
  if (e == 0) e = 1;
  else m |= uint64_t{1} << 52;
  e -= 1023;
  constexpr int kBias = (1 << (kExp - 1)) - 1, kLeast = 1 - kBias;
  int shift = 52 - kMan + (e < kLeast ? kLeast - e : 0);
  if (shift > 62) shift = 62;
  uint64_t q = m >> shift, rest = m & ((uint64_t{1} << shift) - 1), half = uint64_t{1} << (shift - 1);
  bool up = false;
  switch (mode) {
    case Round::nearest: up = rest > half || (rest == half && (q & 1)); break;
    case Round::zero: break;
    case Round::down: up = sign && rest; break;
    case Round::up: up = !sign && rest; break;
    case Round::away: up = rest >= half; break;
  }
  q += up;
  uint64_t r = q;
  if (e >= kLeast) r = (static_cast<uint64_t>(e + kBias) << kMan) + q - (uint64_t{1} << kMan);
  if (r >= kInf) {
    bool stay = mode == Round::zero || (mode == Round::down && !sign) || (mode == Round::up && sign);
    r = stay ? kInf - 1 : kInf;
  }
  return sign | static_cast<uint32_t>(r);
}

inline float bf16_to_f32(uint16_t h) { return as_float(static_cast<uint32_t>(h) << 16); }

inline float f16_to_f32(uint16_t h) {
  uint32_t sign = static_cast<uint32_t>(h & 0x8000) << 16, rest = h & 0x7fff;
  // Exponent and mantissa moved into place are off by a power of two, subnormals too.
  float scaled = as_float(rest << 13) * 0x1p112f;
  uint32_t b = rest >= 0x7c00 ? 0x7f800000 | (rest << 13) : bits(scaled);
  return as_float(sign | b);
}

inline uint16_t f32_to_bf16(float f) {  // to nearest even
  uint32_t b = bits(f);
  uint32_t r = (b + 0x7fff + ((b >> 16) & 1)) >> 16;
  return static_cast<uint16_t>((b & 0x7fffffff) > 0x7f800000 ? kNaN16 : r);
}

inline uint16_t f32_to_f16(float f) { return static_cast<uint16_t>(pack_float<5, 10>(f, Round::nearest)); }

inline float flush(float f) {  // subnormals to zero of their sign
  uint32_t b = bits(f);
  return as_float((b & 0x7f800000) == 0 ? b & 0x80000000 : b);
}

inline float canonical(float f) { return f != f ? as_float(kNaN32) : f; }
inline double canonical(double d) { return d; }  // .f64 keeps payloads

inline float saturate(float f) { return f != f ? 0.0f : f < 0.0f ? 0.0f : f > 1.0f ? 1.0f : f == 0.0f ? 0.0f : f; }
inline double saturate(double f) { return f != f ? 0.0 : f <= 0.0 ? 0.0 : f > 1.0 ? 1.0 : f; }

// odd_sum gives a + b in double, rounded to odd: rounding that to a format of at most
// 51 bits is rounding the exact sum.
inline double odd_sum(double a, double b) {
  double s = a + b;
  if (!std::isfinite(s)) return s;
  double t = s - a, error = (a - (s - t)) + (b - t);
  if (error != 0 && !(bits(s) & 1)) {
    // The exact sum lies between s and its neighbour in the error's direction.
    bool away = (error > 0) == (s > 0);
    s = as_double(away ? bits(s) + 1 : bits(s) - 1);
  }
  return s;
}

}  // namespace softcuda
