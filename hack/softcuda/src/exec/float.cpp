// Floating-point arithmetic of 32 and 64 bits.
//
// .rn is the host's own arithmetic; other roundings switch the host's mode around one
// operation. The approximations of the ISA are computed to within an ulp, which is
// inside every bound it gives.
#include <cfenv>
#include <cmath>

#include "float_ops.h"
#include "numeric.h"

namespace softcuda {

using ptx::Type;

namespace {

struct Add { template <class T> static T f(T a, T b) { return a + b; } };
struct Sub { template <class T> static T f(T a, T b) { return a - b; } };
struct Mul { template <class T> static T f(T a, T b) { return a * b; } };
struct Div { template <class T> static T f(T a, T b) { return a / b; } };
struct Fma {
  static float f(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
  static double f(double a, double b, double c) { return __builtin_fma(a, b, c); }
};
struct Recip { template <class T> static T f(T a) { return T{1} / a; } };
struct Sqrt {
  static float f(float a) { return __builtin_sqrtf(a); }
  static double f(double a) { return __builtin_sqrt(a); }
};
struct RSqrt {
  static float f(float a) { return static_cast<float>(1.0 / std::sqrt(static_cast<double>(a))); }
  static double f(double a) { return 1.0 / std::sqrt(a); }
};
struct Sin { static float f(float a) { return static_cast<float>(std::sin(static_cast<double>(a))); } };
struct Cos { static float f(float a) { return static_cast<float>(std::cos(static_cast<double>(a))); } };
struct Lg2 { static float f(float a) { return std::log2(a); } };
struct Tanh { static float f(float a) { return static_cast<float>(std::tanh(static_cast<double>(a))); } };

// 2^a by a polynomial in double, which the compiler runs on several lanes at once;
// the coefficients are ln2^k / k!, the error is below 1e-9.
struct Ex2 {
  static float f(float a) {
    double x = a < -160.0f ? -160.0 : a > 160.0f ? 160.0 : static_cast<double>(a);
    double shifted = x + 0x1.8p52, n = shifted - 0x1.8p52, r = x - n;
    double p = 1.525273380405984e-5;
    p = p * r + 1.5403530393381606e-4;
    p = p * r + 1.3333558146428443e-3;
    p = p * r + 9.618129107628477e-3;
    p = p * r + 5.550410866482158e-2;
    p = p * r + 2.402265069591007e-1;
    p = p * r + 6.931471805599453e-1;
    p = p * r + 1.0;
    double scale = as_double((bits(shifted) + 1023) << 52);
    return a != a ? a : static_cast<float>(p * scale);
  }
};

template <bool kFtz, bool kSat>
inline float finish(float r) {
  if (kSat) r = saturate(r);
  if (kFtz) r = flush(r);
  return canonical(r);
}
template <bool kFtz, bool kSat>
inline double finish(double r) { return kSat ? saturate(r) : r; }

template <bool kFtz>
inline float given(float a) { return kFtz ? flush(a) : a; }
template <bool kFtz>
inline double given(double a) { return a; }

template <class T, class Op, bool kFtz, bool kSat>
int unary(Warp& w, const Inst& i) {
  const T* a = src<T>(w, i.a);
  lanes(dst<T>(w, i.d), w.mask, [=](int l) { return finish<kFtz, kSat>(Op::f(given<kFtz>(a[l]))); });
  return kNext;
}

template <class T, class Op, bool kFtz, bool kSat>
int binary(Warp& w, const Inst& i) {
  const T *a = src<T>(w, i.a), *b = src<T>(w, i.b);
  lanes(dst<T>(w, i.d), w.mask, [=](int l) { return finish<kFtz, kSat>(Op::f(given<kFtz>(a[l]), given<kFtz>(b[l]))); });
  return kNext;
}

template <class T, class Op, bool kFtz, bool kSat>
int ternary(Warp& w, const Inst& i) {
  const T *a = src<T>(w, i.a), *b = src<T>(w, i.b), *c = src<T>(w, i.c);
  lanes(dst<T>(w, i.d), w.mask, [=](int l) { return finish<kFtz, kSat>(Op::f(given<kFtz>(a[l]), given<kFtz>(b[l]), given<kFtz>(c[l]))); });
  return kNext;
}

// directed does one operation in another rounding mode: x is the fenv mode, and the
// flags of finish are in imm.
int fenv_of(Round r) {
  return r == Round::zero ? FE_TOWARDZERO : r == Round::down ? FE_DOWNWARD : r == Round::up ? FE_UPWARD : FE_TONEAREST;
}

// opaque keeps the compiler from moving a computation across a change of mode.
template <class T>
void opaque(T& v) {
  asm volatile("" : "+m"(v) : : "memory");
}

template <class T>
T flagged(T r, int64_t flags) {
  if (flags & 2) r = saturate(r);
  if constexpr (sizeof(T) == 4)
    if (flags & 1) r = flush(r);
  return canonical(r);
}

template <class T, class Op>
int directed_unary(Warp& w, const Inst& i) {
  const T* a = src<T>(w, i.a);
  T* d = dst<T>(w, i.d);
  each_lane(w.mask, [&](int l) {
    T x = a[l];
    if constexpr (sizeof(T) == 4)
      if (i.imm & 1) x = flush(x);
    fesetround(static_cast<int>(i.x));
    opaque(x);
    T r = Op::f(x);
    opaque(r);
    fesetround(FE_TONEAREST);
    d[l] = flagged<T>(r, i.imm);
  });
  return kNext;
}

template <class T, class Op>
int directed_binary(Warp& w, const Inst& i) {
  const T *a = src<T>(w, i.a), *b = src<T>(w, i.b);
  T* d = dst<T>(w, i.d);
  each_lane(w.mask, [&](int l) {
    T x = a[l], y = b[l];
    if constexpr (sizeof(T) == 4)
      if (i.imm & 1) x = flush(x), y = flush(y);
    fesetround(static_cast<int>(i.x));
    opaque(x), opaque(y);
    T r = Op::f(x, y);
    opaque(r);
    fesetround(FE_TONEAREST);
    d[l] = flagged<T>(r, i.imm);
  });
  return kNext;
}

template <class T, class Op>
int directed_ternary(Warp& w, const Inst& i) {
  const T *a = src<T>(w, i.a), *b = src<T>(w, i.b), *c = src<T>(w, i.c);
  T* d = dst<T>(w, i.d);
  each_lane(w.mask, [&](int l) {
    T x = a[l], y = b[l], z = c[l];
    if constexpr (sizeof(T) == 4)
      if (i.imm & 1) x = flush(x), y = flush(y), z = flush(z);
    fesetround(static_cast<int>(i.x));
    opaque(x), opaque(y), opaque(z);
    T r = Op::f(x, y, z);
    opaque(r);
    fesetround(FE_TONEAREST);
    d[l] = flagged<T>(r, i.imm);
  });
  return kNext;
}

struct Modes {
  Round round = Round::nearest;
  bool rounded = false;  // a rounding was given
  bool ftz = false, sat = false, approx = false, full = false;
};

Modes modes(Decoder& d, Type t) {
  Modes m;
  int r = d.one_of({"rn", "rz", "rm", "rp"});
  m.rounded = r >= 0;
  if (r > 0) m.round = static_cast<Round>(r);
  m.approx = d.has("approx");
  m.full = d.has("full");
  m.ftz = d.has("ftz");
  m.sat = d.has("sat");
  if (t == Type::f64 && (m.sat || (m.ftz && !m.approx))) d.fail(".ftz and .sat are not for .f64");
  if (t != Type::f32 && t != Type::f64) d.fail("\"" + std::string(d.ins().opcode) + "\" has no form for ." + std::string(name_of(t)));
  return m;
}

template <class Op>
Handler unary_of(Type t, const Modes& m) {
  if (t == Type::f64) return m.round == Round::nearest ? unary<double, Op, false, false> : directed_unary<double, Op>;
  if (m.round != Round::nearest) return directed_unary<float, Op>;
  return m.ftz ? unary<float, Op, true, false> : unary<float, Op, false, false>;
}

template <class Op>
Handler binary_of(Type t, const Modes& m) {
  if (t == Type::f64) return m.round == Round::nearest ? binary<double, Op, false, false> : directed_binary<double, Op>;
  if (m.round != Round::nearest) return directed_binary<float, Op>;
  return m.ftz ? (m.sat ? binary<float, Op, true, true> : binary<float, Op, true, false>)
               : (m.sat ? binary<float, Op, false, true> : binary<float, Op, false, false>);
}

Handler fma_of(Type t, const Modes& m) {
  if (t == Type::f64) return m.round == Round::nearest ? ternary<double, Fma, false, false> : directed_ternary<double, Fma>;
  if (m.round != Round::nearest) return directed_ternary<float, Fma>;
  return m.ftz ? (m.sat ? ternary<float, Fma, true, true> : ternary<float, Fma, true, false>)
               : (m.sat ? ternary<float, Fma, false, true> : ternary<float, Fma, false, false>);
}

void put(Decoder& d, Handler fn, Type t, const Modes& m, size_t inputs) {
  d.want(inputs + 1);
  Ref r[3] = {0, 0, 0};
  for (size_t k = 0; k < inputs; k++) r[k] = d.in(k + 1, t);
  d.put(fn, d.out(0, t), r[0], r[1], r[2], (m.ftz ? 1 : 0) | (m.sat ? 2 : 0), static_cast<uint32_t>(fenv_of(m.round)));
}

bool half_type(Type t) { return t == Type::f16 || t == Type::bf16 || t == Type::f16x2 || t == Type::bf16x2; }

// ---- min, max, sign ----

template <class T, bool kMost, bool kFtz, bool kNaN>
int extreme(Warp& w, const Inst& i) {
  const T *a = src<T>(w, i.a), *b = src<T>(w, i.b);
  lanes(dst<T>(w, i.d), w.mask, [=](int l) {
    T x = given<kFtz>(a[l]), y = given<kFtz>(b[l]);
    auto p = bits(x), q = bits(y);
    T equal = std::bit_cast<T>(kMost ? p & q : p | q);  // -0 is less than +0
    T r = x == y ? equal : kMost ? (x > y ? x : y) : (x < y ? x : y);
    if (kNaN) {
      r = x != x ? x : r;
      r = y != y ? y : r;
    } else {
      r = x != x ? y : r;
      r = y != y ? x : r;
    }
    return canonical(r);
  });
  return kNext;
}

int extreme_xorsign(Warp& w, const Inst& i) {
  const float *a = src<float>(w, i.a), *b = src<float>(w, i.b);
  bool most = i.x & 1, ftz = i.x & 2, nan = i.x & 4;
  lanes(dst<float>(w, i.d), w.mask, [=](int l) {
    float x = std::fabs(ftz ? flush(a[l]) : a[l]), y = std::fabs(ftz ? flush(b[l]) : b[l]);
    float r = most ? (x > y ? x : y) : (x < y ? x : y);
    if (x != x) r = nan ? x : y;
    if (y != y) r = nan ? y : x;
    if (r != r) return as_float(kNaN32);
    return as_float(bits(r) | ((bits(a[l]) ^ bits(b[l])) & 0x80000000));
  });
  return kNext;
}

template <bool kFtz>
int sign_f32(Warp& w, const Inst& i) {
  const float* a = src<float>(w, i.a);
  bool absolute = i.x != 0;
  lanes(dst<float>(w, i.d), w.mask, [=](int l) {
    uint32_t b = bits(given<kFtz>(a[l]));
    b = absolute ? b & 0x7fffffff : b ^ 0x80000000;
    return as_float(b);
  });
  return kNext;
}

int sign_f64(Warp& w, const Inst& i) {
  const uint64_t* a = src<uint64_t>(w, i.a);
  bool absolute = i.x != 0;
  constexpr uint64_t kSign = uint64_t{1} << 63;
  lanes(dst<uint64_t>(w, i.d), w.mask, [=](int l) { return absolute ? a[l] & ~kSign : a[l] ^ kSign; });
  return kNext;
}

template <class U>
int copy_sign(Warp& w, const Inst& i) {
  const U *a = src<U>(w, i.a), *b = src<U>(w, i.b);
  constexpr U kSign = U{1} << (8 * sizeof(U) - 1);
  lanes(dst<U>(w, i.d), w.mask, [=](int l) { return (a[l] & kSign) | (b[l] & ~kSign); });
  return kNext;
}

void copysign(Decoder& d) {
  Type t = d.type();
  if (t != Type::f32 && t != Type::f64) d.fail("copysign takes .f32 or .f64");
  put(d, t == Type::f32 ? copy_sign<uint32_t> : copy_sign<uint64_t>, t, {}, 2);
}

template <class T>
int test(Warp& w, const Inst& i) {
  const T* a = src<T>(w, i.a);
  uint32_t r = compare([&](int l) {
    switch (i.imm) {
      case 0: return std::isfinite(a[l]);
      case 1: return std::isinf(a[l]);
      case 2: return !std::isnan(a[l]);
      case 3: return std::isnan(a[l]);
      case 4: return std::isnormal(a[l]) || a[l] == 0;
      default: return std::fpclassify(a[l]) == FP_SUBNORMAL;
    }
  });
  w.preds[i.x] = (w.preds[i.x] & ~w.mask) | (r & w.mask);
  return kNext;
}

void testp(Decoder& d) {
  int what = d.one_of({"finite", "infinite", "number", "notanumber", "normal", "subnormal"});
  Type t = d.type();
  d.want(2);
  if (what < 0 || (t != Type::f32 && t != Type::f64)) d.fail("testp wants a class and .f32 or .f64");
  Ref a = d.in(1, t);
  d.put(t == Type::f32 ? test<float> : test<double>, 0, a, 0, 0, what, d.pred_out(d.operand(0)));
}

// ---- instructions that stand alone ----

void fma(Decoder& d) { decode_float_fma(d, d.type()); }

void rcp(Decoder& d) {
  Type t = d.type();
  Modes m = modes(d, t);
  put(d, unary_of<Recip>(t, m), t, m, 1);
}

void sqrt(Decoder& d) {
  Type t = d.type();
  Modes m = modes(d, t);
  put(d, unary_of<Sqrt>(t, m), t, m, 1);
}

void rsqrt(Decoder& d) {
  Type t = d.type();
  Modes m = modes(d, t);
  if (!m.approx) d.fail("rsqrt has .approx only");
  put(d, unary_of<RSqrt>(t, m), t, m, 1);
}

template <class Op>
void approximation(Decoder& d) {
  Type t = d.type();
  Modes m = modes(d, t);
  if (t != Type::f32 || !m.approx) d.fail("\"" + std::string(d.ins().opcode) + "\" wants .approx and .f32");
  put(d, m.ftz ? unary<float, Op, true, false> : unary<float, Op, false, false>, t, m, 1);
}

void ex2(Decoder& d) {
  Type t = d.type();
  if (half_type(t)) return decode_half(d, t, HalfOp::ex2);
  Modes m = modes(d, t);
  if (t != Type::f32 || !m.approx) d.fail("ex2 wants .approx and .f32");
  put(d, m.ftz ? unary<float, Ex2, true, false> : unary<float, Ex2, false, false>, t, m, 1);
}

void tanh(Decoder& d) {
  Type t = d.type();
  if (half_type(t)) return decode_half(d, t, HalfOp::tanh);
  Modes m = modes(d, t);
  if (t != Type::f32 || !m.approx) d.fail("tanh wants .approx and .f32");
  put(d, unary<float, Tanh, false, false>, t, m, 1);
}

}  // namespace

void decode_float_add(Decoder& d, Type t, bool subtract) {
  if (half_type(t)) return decode_half(d, t, subtract ? HalfOp::sub : HalfOp::add);
  Modes m = modes(d, t);
  put(d, subtract ? binary_of<Sub>(t, m) : binary_of<Add>(t, m), t, m, 2);
}

void decode_float_mul(Decoder& d, Type t) {
  if (half_type(t)) return decode_half(d, t, HalfOp::mul);
  Modes m = modes(d, t);
  put(d, binary_of<Mul>(t, m), t, m, 2);
}

void decode_float_fma(Decoder& d, Type t) {
  if (half_type(t)) return decode_half(d, t, HalfOp::fma);
  Modes m = modes(d, t);
  if (!m.rounded) d.fail("fma lacks its rounding");
  put(d, fma_of(t, m), t, m, 3);
}

void decode_float_div(Decoder& d, Type t) {
  Modes m = modes(d, t);
  if (!m.rounded && !m.approx && !m.full) d.fail("div lacks its rounding");
  put(d, binary_of<Div>(t, m), t, m, 2);
}

void decode_float_extreme(Decoder& d, Type t, bool most) {
  if (half_type(t)) return decode_half(d, t, most ? HalfOp::max : HalfOp::min);
  bool nan = d.has("NaN"), xorsign = d.has("xorsign");
  if (xorsign && !d.has("abs")) d.fail(".xorsign wants .abs");
  Modes m = modes(d, t);
  if (m.rounded || m.sat) d.fail("min and max take no rounding");
  if (xorsign) {
    if (t != Type::f32) d.fail(".xorsign.abs is for .f32");
    d.want(3);
    Ref a = d.in(1, t), b = d.in(2, t);
    d.put(extreme_xorsign, d.out(0, t), a, b, 0, 0, (most ? 1u : 0) | (m.ftz ? 2u : 0) | (nan ? 4u : 0));
    return;
  }
  Handler fn;
  if (t == Type::f64) fn = most ? extreme<double, true, false, false> : extreme<double, false, false, false>;
  else if (nan) fn = m.ftz ? (most ? extreme<float, true, true, true> : extreme<float, false, true, true>) : (most ? extreme<float, true, false, true> : extreme<float, false, false, true>);
  else fn = m.ftz ? (most ? extreme<float, true, true, false> : extreme<float, false, true, false>) : (most ? extreme<float, true, false, false> : extreme<float, false, false, false>);
  put(d, fn, t, m, 2);
}

void decode_float_sign(Decoder& d, Type t, bool absolute) {
  if (half_type(t)) return decode_half(d, t, absolute ? HalfOp::abs : HalfOp::neg);
  Modes m = modes(d, t);
  d.want(2);
  Ref a = d.in(1, t);
  d.put(t == Type::f64 ? sign_f64 : m.ftz ? sign_f32<true> : sign_f32<false>, d.out(0, t), a, 0, 0, 0, absolute);
}

const OpEntry kFloatOps[] = {
    {"fma", fma}, {"rcp", rcp}, {"sqrt", sqrt}, {"rsqrt", rsqrt}, {"sin", approximation<Sin>}, {"cos", approximation<Cos>},
    {"lg2", approximation<Lg2>}, {"ex2", ex2}, {"tanh", tanh}, {"copysign", copysign}, {"testp", testp}, {"", nullptr},
};

}  // namespace softcuda
