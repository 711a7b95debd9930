// cvt against bit patterns: exhaustively from 16 bits, densely from 32.
#include <cmath>
#include <set>

#include "interp_test.h"

using namespace softtest;

namespace {

// convert runs one cvt over many values, 1024 threads at a time.
std::vector<uint64_t> convert(const std::string& body, int result, const std::vector<uint64_t>& values) {
  std::vector<uint64_t> all;
  for (size_t from = 0; from < values.size(); from += 1024) {
    std::vector<Inputs> in;
    for (size_t i = from; i < values.size() && i < from + 1024; i++) in.push_back({values[i], 0, 0});
    auto out = lanes(body, result, in);
    all.insert(all.end(), out.begin(), out.end());
  }
  return all;
}

void compare(const std::string& body, int result, const std::vector<uint64_t>& values, uint64_t (*want)(uint64_t)) {
  auto got = convert(body, result, values);
  int bad = 0;
  for (size_t i = 0; i < values.size(); i++)
    if (got[i] != want(values[i]) && bad++ < 3)
      CHECK(false, body + " of " + hex(values[i]) + " gives " + hex(got[i]) + ", not " + hex(want(values[i])));
}

std::vector<uint64_t> every16() {
  std::vector<uint64_t> v;
  for (uint64_t i = 0; i < 65536; i++) v.push_back(i);
  return v;
}

// The value of a small float by its definition.
double value_of(uint32_t bits, int exponent_bits, int mantissa_bits) {
  int bias = (1 << (exponent_bits - 1)) - 1;
  uint32_t e = bits >> mantissa_bits & ((1u << exponent_bits) - 1), m = bits & ((1u << mantissa_bits) - 1);
  double sign = bits >> (exponent_bits + mantissa_bits) & 1 ? -1 : 1;
  if (e == (1u << exponent_bits) - 1) return m ? std::nan("") : sign * INFINITY;
  if (e == 0) return sign * std::ldexp(m, 1 - bias - mantissa_bits);
  return sign * std::ldexp(m + std::ldexp(1.0, mantissa_bits), static_cast<int>(e) - bias - mantissa_bits);
}

// nearest finds the 16-bit float nearest to a value by searching them all in order:
// slow, and nothing like what it checks.
template <int kExp, int kMan>
struct Table {
  std::vector<double> values;  // of the patterns 0…, not negative, finite
  Table() {
    for (uint32_t b = 0; b < static_cast<uint32_t>((1 << kExp) - 1) << kMan; b++) values.push_back(value_of(b, kExp, kMan));
  }
  // mode: n nearest even, z zero, d down, u up
  uint32_t round(double v, char mode) const {
    uint32_t sign = std::signbit(v) ? 1u << (kExp + kMan) : 0, inf = ((1u << kExp) - 1) << kMan;
    if (std::isnan(v)) return inf | ((1u << kMan) - 1);
    double a = std::fabs(v);
    if (std::isinf(v)) return sign | inf;
    auto it = std::upper_bound(values.begin(), values.end(), a);
    auto low = static_cast<uint32_t>(it - values.begin()) - 1;  // values[low] <= a
    if (values[low] == a) return sign | low;
    bool up;
    double above = low + 1 < values.size() ? values[low + 1] : std::ldexp(1.0, 1 << (kExp - 1));
    switch (mode) {
      case 'z': up = false; break;
      case 'd': up = sign != 0; break;
      case 'u': up = sign == 0; break;
      default: {
        double d = (a - values[low]) - (above - a);
        up = d > 0 || (d == 0 && (low & 1));
      }
    }
    return sign | (low + up);
  }
};

const Table<8, 7>& bf16() {
  static const Table<8, 7> t;
  return t;
}
const Table<5, 10>& f16() {
  static const Table<5, 10> t;
  return t;
}

// dense gives floats around every rounding boundary of a 16-bit format: each value,
// each midpoint, their neighbours, and random patterns.
std::vector<uint64_t> dense(bool half) {
  std::set<uint32_t> all;
  for (uint32_t h = 0; h < 65536; h += half ? 3 : 5) {
    float v = static_cast<float>(value_of(h, half ? 5 : 8, half ? 10 : 7));
    float next = static_cast<float>(value_of((h + 1) & 0xffff, half ? 5 : 8, half ? 10 : 7));
    float middle = v + (next - v) / 2;
    for (float f : {v, middle})
      for (int d = -1; d <= 1; d++) all.insert(f32(f) + static_cast<uint32_t>(d));
  }
  for (uint32_t b : {0u, 0x80000000u, 1u, 0x80000001u, 0x007fffffu, 0x00800000u, 0x7f7fffffu, 0x7f800000u, 0xff800000u, 0x7f800001u, 0x7fc00000u, 0xffffffffu, 0x477fefffu, 0x477ff000u, 0x33000000u, 0x33000001u, 0x7f7f7fffu, 0x7f7f8000u}) all.insert(b);
  uint64_t x = 88172645463325252u;
  for (int i = 0; i < 20000; i++) {
    x ^= x << 13, x ^= x >> 7, x ^= x << 17;
    all.insert(static_cast<uint32_t>(x));
  }
  return {all.begin(), all.end()};
}

double of_f32(uint64_t b) { return as_f32(static_cast<uint32_t>(b)); }

}  // namespace

TEST(every_bf16_and_f16_to_f32) {
  auto want_bf = [](uint64_t b) -> uint64_t { return (b & 0x7fff) > 0x7f80 ? 0x7fffffff : f32(static_cast<float>(value_of(static_cast<uint32_t>(b), 8, 7))); };
  auto want_f = [](uint64_t b) -> uint64_t { return (b & 0x7fff) > 0x7c00 ? 0x7fffffff : f32(static_cast<float>(value_of(static_cast<uint32_t>(b), 5, 10))); };
  compare("cvt.f32.bf16 %r, %ha;", 32, every16(), want_bf);
  compare("cvt.f32.f16 %r, %ha;", 32, every16(), want_f);
  // The idiom of nvcc: bits moved to the upper half.
  auto shifted = [](uint64_t b) -> uint64_t { return b << 16; };
  compare("mov.b32 %r, {0, %ha};", 32, every16(), shifted);
}

TEST(f32_to_bf16_in_each_rounding) {
  auto values = dense(false);
  compare("cvt.rn.bf16.f32 %h, %a;", 16, values, [](uint64_t b) -> uint64_t { return bf16().round(of_f32(b), 'n'); });
  compare("cvt.rz.bf16.f32 %h, %a;", 16, values, [](uint64_t b) -> uint64_t { return bf16().round(of_f32(b), 'z'); });
  compare("cvt.rn.relu.bf16.f32 %h, %a;", 16, values, [](uint64_t b) -> uint64_t {
    double v = of_f32(b);
    return v <= 0 ? 0 : bf16().round(v, 'n');
  });
  compare("cvt.rn.bf16x2.f32 %r, %a, 0f3F800000;", 32, values, [](uint64_t b) -> uint64_t { return uint64_t{bf16().round(of_f32(b), 'n')} << 16 | 0x3f80; });
  compare("cvt.rz.bf16x2.f32 %r, 0f3F800000, %a;", 32, values, [](uint64_t b) -> uint64_t { return bf16().round(of_f32(b), 'z') | 0x3f800000u; });
}

TEST(f32_to_f16_in_each_rounding) {
  auto values = dense(true);
  compare("cvt.rn.f16.f32 %h, %a;", 16, values, [](uint64_t b) -> uint64_t { return f16().round(of_f32(b), 'n'); });
  compare("cvt.rz.f16.f32 %h, %a;", 16, values, [](uint64_t b) -> uint64_t { return f16().round(of_f32(b), 'z'); });
  compare("cvt.rm.f16.f32 %h, %a;", 16, values, [](uint64_t b) -> uint64_t { return f16().round(of_f32(b), 'd'); });
  compare("cvt.rp.f16.f32 %h, %a;", 16, values, [](uint64_t b) -> uint64_t { return f16().round(of_f32(b), 'u'); });
  compare("cvt.rn.f16x2.f32 %r, 0f3F800000, %a;", 32, values, [](uint64_t b) -> uint64_t { return f16().round(of_f32(b), 'n') | 0x3c000000u; });
}

TEST(integers_to_16_bit_floats) {
  std::vector<uint64_t> values;
  for (int64_t v : {0l, 1l, -1l, 255l, 256l, 257l, 258l, 259l, 513l, 514l, 515l, 2047l, 2048l, 2049l, 2050l, 2051l, 65503l, 65504l, 65519l, 65520l, 65536l, -65520l, 16777217l, 2147483647l, -2147483648l})
    values.push_back(static_cast<uint64_t>(v));
  compare("cvt.rn.bf16.s32 %h, %a;", 16, values, [](uint64_t v) -> uint64_t { return bf16().round(static_cast<int32_t>(v), 'n'); });
  compare("cvt.rn.f16.s32 %h, %a;", 16, values, [](uint64_t v) -> uint64_t { return f16().round(static_cast<int32_t>(v), 'n'); });
  compare("cvt.rn.f16.s64 %h, %A;", 16, values, [](uint64_t v) -> uint64_t { return f16().round(static_cast<double>(static_cast<int64_t>(v)), 'n'); });
}

TEST(conversions_of_integers) {
  struct Case {
    const char* body;
    int result;
    uint64_t in, want;
  } cases[] = {
      {"cvt.u32.u8 %r, %ha;", 32, 0x1ff, 0xff},
      {"cvt.s32.s8 %r, %ha;", 32, 0x180, 0xffffff80},
      {"cvt.s32.s8 %r, %a;", 32, 0x180, 0xffffff80},
      {"cvt.u16.u8 %h, %ha;", 16, 0x1ff, 0xff},
      {"cvt.s16.s8 %h, %ha;", 16, 0x80, 0xff80},
      {"cvt.s64.s32 %R, %a;", 64, 0xffffffff, ~uint64_t{0}},
      {"cvt.u64.u32 %R, %a;", 64, 0xffffffff, 0xffffffff},
      {"cvt.u32.u64 %r, %A;", 32, 0x123456789abcdef0, 0x9abcdef0},
      {"cvt.u16.u32 %h, %a;", 16, 0x12345678, 0x5678},
      {"cvt.s64.s16 %R, %ha;", 64, 0x8000, 0xffffffffffff8000},
      {"cvt.u8.u32 %r, %a;", 32, 0x12345678, 0x78},
      {"cvt.s8.s32 %r, %a;", 32, 0x123456f8, 0xfffffff8},
      {"cvt.sat.u8.s32 %r, %a;", 32, 0xffffffff, 0},
      {"cvt.sat.u8.s32 %r, %a;", 32, 300, 255},
      {"cvt.sat.s8.s32 %r, %a;", 32, 300, 127},
      {"cvt.sat.s8.s32 %r, %a;", 32, static_cast<uint32_t>(-300), static_cast<uint32_t>(-128)},
      {"cvt.sat.s32.s64 %r, %A;", 32, 0x7fffffffffffffff, 0x7fffffff},
      {"cvt.sat.s16.u32 %h, %a;", 16, 0xffffffff, 0x7fff},
      {"cvt.rn.f32.s32 %r, %a;", 32, 16777217, 0x4b800000},
      {"cvt.rp.f32.s32 %r, %a;", 32, 16777217, 0x4b800001},
      {"cvt.rz.f32.u32 %r, %a;", 32, 0xffffffff, 0x4f7fffff},
      {"cvt.rn.f32.u32 %r, %a;", 32, 0xffffffff, 0x4f800000},
      {"cvt.rn.f32.u64 %r, %A;", 32, ~uint64_t{0}, 0x5f800000},
      {"cvt.rm.f32.s64 %r, %A;", 32, ~uint64_t{0}, 0xbf800000},
      {"cvt.rn.f32.u8 %r, %ha;", 32, 0x1ff, 0x437f0000},
      {"cvt.rn.f32.s8 %r, %ha;", 32, 0xff, 0xbf800000},
      {"cvt.rn.f32.s16 %r, %ha;", 32, 0xffff, 0xbf800000},
      {"cvt.rn.f64.s32 %R, %a;", 64, 0xffffffff, 0xbff0000000000000},
      {"cvt.rn.f64.u64 %R, %A;", 64, ~uint64_t{0}, 0x43f0000000000000},
      {"cvt.rz.f64.u64 %R, %A;", 64, ~uint64_t{0}, 0x43efffffffffffff},
  };
  for (auto& c : cases) {
    uint64_t got = one(c.body, c.result, {c.in, 0, 0});
    CHECK(got == c.want, std::string(c.body) + " of " + hex(c.in) + " gives " + hex(got) + ", not " + hex(c.want));
  }
}

TEST(conversions_of_floats) {
  struct Case {
    const char* body;
    int result;
    uint64_t in, want;
  } cases[] = {
      {"cvt.rzi.s32.f32 %r, %a;", 32, f32(-1.75f), static_cast<uint32_t>(-1)},
      {"cvt.rni.s32.f32 %r, %a;", 32, f32(2.5f), 2},
      {"cvt.rni.s32.f32 %r, %a;", 32, f32(3.5f), 4},
      {"cvt.rmi.s32.f32 %r, %a;", 32, f32(-1.25f), static_cast<uint32_t>(-2)},
      {"cvt.rpi.s32.f32 %r, %a;", 32, f32(1.25f), 2},
      {"cvt.rzi.s32.f32 %r, %a;", 32, f32(3e9f), 0x7fffffff},
      {"cvt.rzi.s32.f32 %r, %a;", 32, f32(-3e9f), 0x80000000},
      {"cvt.rzi.s32.f32 %r, %a;", 32, 0x7fc00000, 0},
      {"cvt.rzi.u32.f32 %r, %a;", 32, f32(-5.f), 0},
      {"cvt.rzi.u32.f32 %r, %a;", 32, f32(4e9f), 4000000000u},
      {"cvt.rzi.u32.f32 %r, %a;", 32, 0x7f800000, 0xffffffff},
      {"cvt.rzi.s64.f32 %R, %a;", 64, 0x7fc00000, uint64_t{1} << 63},
      {"cvt.rzi.u64.f32 %R, %a;", 64, f32(1e19f), 9999999980506447872u},
      {"cvt.rzi.u64.f32 %R, %a;", 64, f32(1e20f), ~uint64_t{0}},
      {"cvt.rzi.s32.f64 %r, %A;", 32, 0x7ff8000000000000, 0x80000000},
      {"cvt.rzi.s8.f32 %r, %a;", 32, f32(-200.f), static_cast<uint32_t>(-128)},
      {"cvt.rzi.u8.f32 %r, %a;", 32, f32(300.f), 255},
      {"cvt.rni.s16.f32 %h, %a;", 16, f32(-2.5f), 0xfffe},
      {"cvt.rni.s8.f32 %h, %a;", 16, f32(-2.5f), 0xfffe},
      {"cvt.rzi.s32.f16 %r, %ha;", 32, 0xc500, static_cast<uint32_t>(-5)},
      {"cvt.rzi.ftz.s32.f32 %r, %a;", 32, 1, 0},
      {"cvt.rpi.ftz.s32.f32 %r, %a;", 32, 1, 0},
      {"cvt.rpi.s32.f32 %r, %a;", 32, 1, 1},
      {"cvt.rni.f32.f32 %r, %a;", 32, f32(2.5f), f32(2.f)},
      {"cvt.rmi.f32.f32 %r, %a;", 32, f32(-2.5f), f32(-3.f)},
      {"cvt.rpi.f32.f32 %r, %a;", 32, f32(-0.5f), 0x80000000},
      {"cvt.rzi.f32.f32 %r, %a;", 32, f32(-2.5f), f32(-2.f)},
      {"cvt.rzi.f64.f64 %R, %A;", 64, f64(-2.5), f64(-2.0)},
      {"cvt.sat.f32.f32 %r, %a;", 32, f32(2.5f), f32(1.f)},
      {"cvt.sat.f32.f32 %r, %a;", 32, f32(-2.5f), 0},
      {"cvt.sat.f32.f32 %r, %a;", 32, 0x7fc00000, 0},
      {"cvt.ftz.f32.f32 %r, %a;", 32, 0x80000001, 0x80000000},
      {"cvt.f64.f32 %R, %a;", 64, 1, f64(0x1p-149)},
      {"cvt.rn.f32.f64 %r, %A;", 32, f64(1.0 + 0x1p-24), f32(1.f)},
      {"cvt.rp.f32.f64 %r, %A;", 32, f64(1.0 + 0x1p-24), 0x3f800001},
      {"cvt.rn.f32.f64 %r, %A;", 32, f64(1.0 + 0x1p-24 + 0x1p-50), 0x3f800001},
      {"cvt.rz.f32.f64 %r, %A;", 32, f64(1e300), 0x7f7fffff},
      {"cvt.rn.f32.f64 %r, %A;", 32, f64(1e300), 0x7f800000},
      {"cvt.rm.f32.f64 %r, %A;", 32, f64(-1e300), 0xff800000},
      {"cvt.rn.f32.f64 %r, %A;", 32, f64(0x1p-150), 0},
      {"cvt.rn.f32.f64 %r, %A;", 32, f64(0x1.8p-150), 1},
      {"cvt.rp.f32.f64 %r, %A;", 32, f64(1e-300), 1},
      {"cvt.f32.f16 %r, %ha;", 32, 0x0001, f32(0x1p-24f)},
      {"cvt.f64.f16 %R, %ha;", 64, 0x3c00, f64(1.0)},
      {"cvt.rn.f16.f64 %h, %A;", 16, f64(1.0 + 0x1p-11 + 0x1p-40), 0x3c01},
      {"cvt.rna.tf32.f32 %r, %a;", 32, 0x3f801000, 0x3f802000},
      {"cvt.rna.tf32.f32 %r, %a;", 32, 0x3f800fff, 0x3f800000},
      {"cvt.rna.tf32.f32 %r, %a;", 32, 0xbf801000, 0xbf802000},
  };
  for (auto& c : cases) {
    uint64_t got = one(c.body, c.result, {c.in, 0, 0});
    CHECK(got == c.want, std::string(c.body) + " of " + hex(c.in) + " gives " + hex(got) + ", not " + hex(c.want));
  }
}
