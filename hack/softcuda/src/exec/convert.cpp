// cvt: every pair of types.
#include <algorithm>
#include <cfenv>
#include <cmath>
#include <limits>
#include <type_traits>

#include "decode.h"
#include "numeric.h"

namespace softcuda {

using ptx::Type;
using ptx::bytes_of;
using ptx::is_signed;

namespace {

// How a value of each type lies in a register, and what it means.
template <class T>
struct Int {
  using Value = T;
  using Cell = std::conditional_t<sizeof(T) == 1, std::conditional_t<std::is_signed_v<T>, int16_t, uint16_t>, T>;
  static T value(Cell c) { return static_cast<T>(c); }
};
struct Half {
  using Value = double;
  using Cell = uint16_t;
  static double value(uint16_t c) { return f16_to_f32(c); }
};
struct Brain {
  using Value = double;
  using Cell = uint16_t;
  static double value(uint16_t c) { return bf16_to_f32(c); }
};
struct Single {
  using Value = double;
  using Cell = float;
  static double value(float c) { return c; }
};
struct Double {
  using Value = double;
  using Cell = double;
  static double value(double c) { return c; }
};

constexpr uint32_t kFtz = 1, kSat = 2, kRelu = 4, kFinite = 8;
constexpr uint32_t kRoundShift = 8, kIntegralShift = 12;

// ---- integer to integer ----

template <class D, class S, bool kSaturate>
int int_to_int(Warp& w, const Inst& i) {
  const auto* a = src<typename Int<S>::Cell>(w, i.a);
  using DC = typename Int<D>::Cell;
  lanes(dst<DC>(w, i.d), w.mask, [=](int l) {
    S v = Int<S>::value(a[l]);
    if (kSaturate) {
      if (std::is_signed_v<S> && !std::is_signed_v<D> && v < 0) return static_cast<DC>(0);
      auto wide = static_cast<__int128>(v);
      wide = std::clamp<__int128>(wide, std::numeric_limits<D>::min(), std::numeric_limits<D>::max());
      return static_cast<DC>(static_cast<D>(wide));
    }
    return static_cast<DC>(static_cast<D>(v));
  });
  return kNext;
}

// ---- float to integer ----

double integral(double v, Round mode) {
  switch (mode) {
    case Round::nearest: return std::nearbyint(v);  // the host rounds to nearest even
    case Round::zero: return std::trunc(v);
    case Round::down: return std::floor(v);
    case Round::up: return std::ceil(v);
    default: return v;
  }
}

template <class D, class S>
int float_to_int(Warp& w, const Inst& i) {
  const auto* a = src<typename S::Cell>(w, i.a);
  using DC = typename Int<D>::Cell;
  DC* d = dst<DC>(w, i.d);
  auto mode = static_cast<Round>(i.x >> kIntegralShift & 7);
  bool ftz = i.x & kFtz;
  each_lane(w.mask, [&](int l) {
    double v = S::value(a[l]);
    if (ftz && std::fabs(v) < 0x1p-126) v = 0;
    if (v != v) {
      bool zero = !std::is_same_v<S, Double> && sizeof(D) < 8;
      d[l] = zero ? DC{0} : static_cast<DC>(static_cast<D>(uint64_t{1} << (8 * sizeof(D) - 1)));
      return;
    }
    v = integral(v, mode);
    // The limits are powers of two or one less; in double compare with the power.
    constexpr double kTop = 0x1p63;
    double top = sizeof(D) == 8 ? (std::is_signed_v<D> ? kTop : 2 * kTop) : static_cast<double>(std::numeric_limits<D>::max()) + 1;
    double bottom = static_cast<double>(std::numeric_limits<D>::min());
    D r = v >= top ? std::numeric_limits<D>::max() : v <= bottom ? std::numeric_limits<D>::min() : static_cast<D>(v);
    d[l] = static_cast<DC>(r);
  });
  return kNext;
}

// cvt.rzi.s32.f32 is in every kernel.
int single_to_s32(Warp& w, const Inst& i) {
  const float* a = src<float>(w, i.a);
  lanes(dst<int32_t>(w, i.d), w.mask, [=](int l) {
    float v = a[l];
    float inside = v >= 2147483648.0f || v < -2147483648.0f || v != v ? 0.0f : v;
    int32_t r = static_cast<int32_t>(inside);
    r = v >= 2147483648.0f ? INT32_MAX : r;
    return v < -2147483648.0f ? INT32_MIN : r;
  });
  return kNext;
}

// ---- integer to float ----

// rounded gives v in T under the host's rounding mode of the moment.
template <class T, class V>
T under_mode(V v, Round mode) {
  int m = mode == Round::zero ? FE_TOWARDZERO : mode == Round::down ? FE_DOWNWARD : mode == Round::up ? FE_UPWARD : FE_TONEAREST;
  volatile V x = v;
  if (m != FE_TONEAREST) fesetround(m);
  volatile T r = static_cast<T>(x);
  if (m != FE_TONEAREST) fesetround(FE_TONEAREST);
  return r;
}

// to_odd gives an integer in double, rounded to odd where 53 bits do not hold it.
template <class V>
double to_odd(V v) {
  auto d = static_cast<double>(v);
  if constexpr (sizeof(V) == 8) {
    auto back = static_cast<__int128>(d), exact = static_cast<__int128>(v);
    if (back != exact && !(bits(d) & 1)) {
      bool away = (exact > back) == (d > 0);
      d = as_double(away ? bits(d) + 1 : bits(d) - 1);
    }
  }
  return d;
}

template <class D>
typename D::Cell narrow_float(double v, uint32_t x);

template <class S>
int int_to_single(Warp& w, const Inst& i) {
  const auto* a = src<typename Int<S>::Cell>(w, i.a);
  auto mode = static_cast<Round>(i.x >> kRoundShift & 7);
  bool sat = i.x & kSat;
  if (mode == Round::nearest && !sat) {
    lanes(dst<float>(w, i.d), w.mask, [=](int l) { return static_cast<float>(Int<S>::value(a[l])); });
    return kNext;
  }
  float* d = dst<float>(w, i.d);
  each_lane(w.mask, [&](int l) {
    float r = under_mode<float>(Int<S>::value(a[l]), mode);
    d[l] = sat ? saturate(r) : r;
  });
  return kNext;
}

template <class S>
int int_to_double(Warp& w, const Inst& i) {
  const auto* a = src<typename Int<S>::Cell>(w, i.a);
  double* d = dst<double>(w, i.d);
  auto mode = static_cast<Round>(i.x >> kRoundShift & 7);
  bool sat = i.x & kSat;
  each_lane(w.mask, [&](int l) {
    double r = under_mode<double>(Int<S>::value(a[l]), mode);
    d[l] = sat ? saturate(r) : r;
  });
  return kNext;
}

template <class D, class S>
int int_to_half(Warp& w, const Inst& i) {
  const auto* a = src<typename Int<S>::Cell>(w, i.a);
  uint16_t* d = dst<uint16_t>(w, i.d);
  each_lane(w.mask, [&](int l) { d[l] = narrow_float<D>(to_odd(Int<S>::value(a[l])), i.x); });
  return kNext;
}

// ---- float to float ----

template <int kExp, int kMan>
uint32_t narrow_bits(double v, uint32_t x) {
  auto mode = static_cast<Round>(x >> kRoundShift & 7);
  if ((x & kRelu) && v < 0) v = 0;
  if (x & kSat) v = saturate(v);
  uint32_t r = pack_float<kExp, kMan>(v, mode);
  if (x & kRelu && v == 0 && std::signbit(v)) r = 0;
  constexpr uint32_t kInf = ((1u << kExp) - 1) << kMan, kSign = 1u << (kExp + kMan);
  if ((x & kFinite) && (r & ~kSign) == kInf) r -= 1;
  return r;
}

template <>
uint16_t narrow_float<Half>(double v, uint32_t x) { return static_cast<uint16_t>(narrow_bits<5, 10>(v, x)); }
template <>
uint16_t narrow_float<Brain>(double v, uint32_t x) { return static_cast<uint16_t>(narrow_bits<8, 7>(v, x)); }
template <>
float narrow_float<Single>(double v, uint32_t x) {
  float r = as_float(narrow_bits<8, 23>(v, x));
  return x & kFtz ? flush(r) : r;
}
template <>
double narrow_float<Double>(double v, uint32_t x) { return x & kSat ? saturate(v) : v; }

template <class D, class S>
int float_to_float(Warp& w, const Inst& i) {
  const auto* a = src<typename S::Cell>(w, i.a);
  auto* d = dst<typename D::Cell>(w, i.d);
  auto to_integral = i.x >> kIntegralShift & 7;
  each_lane(w.mask, [&](int l) {
    double v = S::value(a[l]);
    if (std::is_same_v<S, Single> && (i.x & kFtz) && std::fabs(v) < 0x1p-126) v = std::copysign(0.0, v);
    if (to_integral != 7) v = integral(v, static_cast<Round>(to_integral));
    d[l] = narrow_float<D>(v, i.x);
  });
  return kNext;
}

int single_to_brain(Warp& w, const Inst& i) {
  const float* a = src<float>(w, i.a);
  lanes(dst<uint16_t>(w, i.d), w.mask, [=](int l) { return f32_to_bf16(a[l]); });
  return kNext;
}

int brain_to_single(Warp& w, const Inst& i) {
  const uint16_t* a = src<uint16_t>(w, i.a);
  lanes(dst<float>(w, i.d), w.mask, [=](int l) { return canonical(bf16_to_f32(a[l])); });
  return kNext;
}

int half_to_single(Warp& w, const Inst& i) {
  const uint16_t* a = src<uint16_t>(w, i.a);
  lanes(dst<float>(w, i.d), w.mask, [=](int l) { return canonical(f16_to_f32(a[l])); });
  return kNext;
}

// Two floats to a pair: a goes to the upper half, b to the lower.
int singles_to_brains(Warp& w, const Inst& i) {
  const float *a = src<float>(w, i.a), *b = src<float>(w, i.b);
  lanes(dst<uint32_t>(w, i.d), w.mask, [=](int l) { return static_cast<uint32_t>(f32_to_bf16(a[l])) << 16 | f32_to_bf16(b[l]); });
  return kNext;
}

template <class D>
int singles_to_pair(Warp& w, const Inst& i) {
  const float *a = src<float>(w, i.a), *b = src<float>(w, i.b);
  uint32_t* d = dst<uint32_t>(w, i.d);
  each_lane(w.mask, [&](int l) { d[l] = static_cast<uint32_t>(narrow_float<D>(a[l], i.x)) << 16 | narrow_float<D>(b[l], i.x); });
  return kNext;
}

int single_to_tf32(Warp& w, const Inst& i) {
  const float* a = src<float>(w, i.a);
  uint32_t* d = dst<uint32_t>(w, i.d);
  each_lane(w.mask, [&](int l) {
    uint32_t r = narrow_bits<8, 10>(a[l], i.x) << 13;
    d[l] = a[l] != a[l] ? kNaN32 : r;
  });
  return kNext;
}

// ---- choosing ----

template <class D, class S>
Handler int_pair(bool sat) { return sat ? int_to_int<D, S, true> : int_to_int<D, S, false>; }

template <class D>
Handler int_from_int(Type s, bool sat) {
  switch (s) {
    case Type::u8: case Type::b8: return int_pair<D, uint8_t>(sat);
    case Type::s8: return int_pair<D, int8_t>(sat);
    case Type::u16: return int_pair<D, uint16_t>(sat);
    case Type::s16: return int_pair<D, int16_t>(sat);
    case Type::u32: return int_pair<D, uint32_t>(sat);
    case Type::s32: return int_pair<D, int32_t>(sat);
    case Type::u64: return int_pair<D, uint64_t>(sat);
    default: return int_pair<D, int64_t>(sat);
  }
}

template <class D>
Handler int_from_float(Type s) {
  switch (s) {
    case Type::f16: return float_to_int<D, Half>;
    case Type::bf16: return float_to_int<D, Brain>;
    case Type::f32: return float_to_int<D, Single>;
    default: return float_to_int<D, Double>;
  }
}

template <class D>
Handler int_from(Type s, bool sat) { return ptx::is_float(s) ? int_from_float<D>(s) : int_from_int<D>(s, sat); }

template <class S>
Handler float_from_int(Type d) {
  switch (d) {
    case Type::f16: return int_to_half<Half, S>;
    case Type::bf16: return int_to_half<Brain, S>;
    case Type::f32: return int_to_single<S>;
    default: return int_to_double<S>;
  }
}

template <class D>
Handler float_from_float(Type s) {
  switch (s) {
    case Type::f16: return float_to_float<D, Half>;
    case Type::bf16: return float_to_float<D, Brain>;
    case Type::f32: return float_to_float<D, Single>;
    default: return float_to_float<D, Double>;
  }
}

Handler pick(Type d, Type s, bool sat) {
  switch (d) {
    case Type::u8: return int_from<uint8_t>(s, sat);
    case Type::s8: return int_from<int8_t>(s, sat);
    case Type::u16: return int_from<uint16_t>(s, sat);
    case Type::s16: return int_from<int16_t>(s, sat);
    case Type::u32: return int_from<uint32_t>(s, sat);
    case Type::s32: return int_from<int32_t>(s, sat);
    case Type::u64: return int_from<uint64_t>(s, sat);
    case Type::s64: return int_from<int64_t>(s, sat);
    default: break;
  }
  switch (s) {
    case Type::u8: return float_from_int<uint8_t>(d);
    case Type::s8: return float_from_int<int8_t>(d);
    case Type::u16: return float_from_int<uint16_t>(d);
    case Type::s16: return float_from_int<int16_t>(d);
    case Type::u32: return float_from_int<uint32_t>(d);
    case Type::s32: return float_from_int<int32_t>(d);
    case Type::u64: return float_from_int<uint64_t>(d);
    case Type::s64: return float_from_int<int64_t>(d);
    default: break;
  }
  switch (d) {
    case Type::f16: return float_from_float<Half>(s);
    case Type::bf16: return float_from_float<Brain>(s);
    case Type::f32: return float_from_float<Single>(s);
    default: return float_from_float<Double>(s);
  }
}

struct Modes {
  int round = -1;     // Round, or -1: none given
  int integral = -1;  // of .rni and so on
  uint32_t flags = 0;
  uint32_t x() const {
    return flags | static_cast<uint32_t>(round < 0 ? 0 : round) << kRoundShift | static_cast<uint32_t>(integral < 0 ? 7 : integral) << kIntegralShift;
  }
};

Modes modes(Decoder& d) {
  Modes m;
  m.integral = d.one_of({"rni", "rzi", "rmi", "rpi"});
  m.round = d.one_of({"rn", "rz", "rm", "rp", "rna"});
  if (d.has("ftz")) m.flags |= kFtz;
  if (d.has("sat")) m.flags |= kSat;
  if (d.has("relu")) m.flags |= kRelu;
  if (d.has("satfinite")) m.flags |= kFinite;
  return m;
}

void to_pair(Decoder& d, Type to, Type from, const Modes& m) {
  if (from != Type::f32 || m.round < 0 || m.round > 1) d.fail("cvt to a pair wants .rn or .rz and .f32");
  d.want(3);
  Ref a = d.in(1, Type::f32), b = d.in(2, Type::f32);
  bool plain = m.round == 0 && m.flags == 0;
  Handler fn = to == Type::f16x2 ? singles_to_pair<Half> : plain ? singles_to_brains : singles_to_pair<Brain>;
  d.put(fn, d.out(0, Type::b32), a, b, 0, 0, m.x());
}

void cvt(Decoder& d) {
  Modes m = modes(d);
  Type to = d.type(), from = d.type();
  if (to == Type::f16x2 || to == Type::bf16x2) return to_pair(d, to, from, m);
  d.want(2);
  if (to == Type::tf32) {
    if (from != Type::f32 || (m.round != 4 && m.round != 0 && m.round != 1)) d.fail("cvt to .tf32 wants .rna, .rn or .rz and .f32");
    Ref a = d.in(1, Type::f32);
    d.put(single_to_tf32, d.out(0, Type::b32), a, 0, 0, 0, m.x());
    return;
  }
  auto fits = [](Type t) { return (ptx::is_integer(t) && !ptx::is_bits(t)) || (ptx::is_float(t) && t != Type::tf32); };
  if (!fits(to) || !fits(from)) d.fail("no cvt from ." + std::string(name_of(from)) + " to ." + std::string(name_of(to)));
  bool f = ptx::is_float(from), g = ptx::is_float(to);
  if (m.round == 4) d.fail(".rna is for .tf32");
  if (f && !g && m.integral < 0) d.fail("cvt from floating point to integer wants .rni, .rzi, .rmi or .rpi");
  if (!f && g && m.round < 0) d.fail("cvt from integer to floating point wants .rn, .rz, .rm or .rp");
  if (f && g && bytes_of(to) < bytes_of(from) && m.round < 0) d.fail("cvt to a narrower floating-point type wants its rounding");
  if (!f && !g && (m.round >= 0 || m.integral >= 0)) d.fail("rounding of an integer");
  if (f && !g) m.flags &= ~kSat;  // these always clamp
  Ref a = d.in_relaxed(d.operand(1), from);
  Ref out = d.out_relaxed(d.operand(0), to);
  Handler fn = pick(to, from, m.flags & kSat);
  bool plain = m.flags == 0 && m.integral < 0 && m.round <= 0;
  if (from == Type::f32 && to == Type::s32 && m.integral == 1 && m.flags == 0) fn = single_to_s32;
  if (from == Type::f32 && to == Type::bf16 && plain) fn = single_to_brain;
  if (from == Type::bf16 && to == Type::f32 && plain) fn = brain_to_single;
  if (from == Type::f16 && to == Type::f32 && plain) fn = half_to_single;
  d.put(fn, out, a, 0, 0, 0, m.x());
}

}  // namespace

const OpEntry kConvertOps[] = {{"cvt", cvt}, {"", nullptr}};

}  // namespace softcuda
