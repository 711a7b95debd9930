// Integer arithmetic.
#include <algorithm>
#include <limits>
#include <type_traits>

#include "float_ops.h"

namespace softcuda {

using ptx::Operand;
using ptx::Type;
using ptx::bytes_of;
using ptx::is_signed;

namespace {

template <class T>
using Wide = std::conditional_t<sizeof(T) == 2, std::conditional_t<std::is_signed_v<T>, int32_t, uint32_t>,
                                std::conditional_t<sizeof(T) == 4, std::conditional_t<std::is_signed_v<T>, int64_t, uint64_t>,
                                                   std::conditional_t<std::is_signed_v<T>, __int128, unsigned __int128>>>;
template <class T>
using Unsigned = std::make_unsigned_t<T>;

// In each, arithmetic wraps: it is done without sign, in a type that does not promote.
template <class T>
using Calc = std::conditional_t<sizeof(T) == 8, uint64_t, uint32_t>;

struct Add {
  template <class T>
  static T f(T a, T b) { return static_cast<T>(static_cast<Calc<T>>(a) + static_cast<Calc<T>>(b)); }
};
struct Sub {
  template <class T>
  static T f(T a, T b) { return static_cast<T>(static_cast<Calc<T>>(a) - static_cast<Calc<T>>(b)); }
};
struct MulLo {
  template <class T>
  static T f(T a, T b) { return static_cast<T>(static_cast<Calc<T>>(a) * static_cast<Calc<T>>(b)); }
};
struct MulHi {
  template <class T>
  static T f(T a, T b) { return static_cast<T>((static_cast<Wide<T>>(a) * static_cast<Wide<T>>(b)) >> (8 * sizeof(T))); }
};
struct Mul24Lo {
  template <class T>
  static T f(T a, T b) { return static_cast<T>(static_cast<Wide<T>>(cut(a)) * cut(b)); }
  template <class T>
  static T cut(T a) { return static_cast<T>(static_cast<T>(static_cast<uint32_t>(a) << 8) >> 8); }
};
struct Mul24Hi {
  template <class T>
  static T f(T a, T b) { return static_cast<T>((static_cast<Wide<T>>(Mul24Lo::cut(a)) * Mul24Lo::cut(b)) >> 16); }
};
// Division by zero has no defined result; all ones is what devices give.
struct Div {
  template <class T>
  static T f(T a, T b) {
    if (b == 0) return static_cast<T>(~T{0});
    if (std::is_signed_v<T> && b == static_cast<T>(-1)) return static_cast<T>(0 - static_cast<Calc<T>>(a));
    return static_cast<T>(a / b);
  }
};
struct Rem {
  template <class T>
  static T f(T a, T b) {
    if (b == 0) return a;
    if (std::is_signed_v<T> && b == static_cast<T>(-1)) return 0;
    return static_cast<T>(a % b);
  }
};
struct Min {
  template <class T>
  static T f(T a, T b) { return a < b ? a : b; }
};
struct Max {
  template <class T>
  static T f(T a, T b) { return a < b ? b : a; }
};
struct AddSat {
  static int32_t f(int32_t a, int32_t b) { return clamp(int64_t{a} + b); }
  static int32_t clamp(int64_t v) { return static_cast<int32_t>(std::clamp<int64_t>(v, INT32_MIN, INT32_MAX)); }
};
struct SubSat {
  static int32_t f(int32_t a, int32_t b) { return AddSat::clamp(int64_t{a} - b); }
};

template <class T, class Op>
int binary(Warp& w, const Inst& i) {
  const T *a = src<T>(w, i.a), *b = src<T>(w, i.b);
  lanes(dst<T>(w, i.d), w.mask, [=](int l) { return Op::f(a[l], b[l]); });
  return kNext;
}

template <class Op>
Handler binary_of(Type t, bool by_sign) {
  bool s = by_sign && is_signed(t);
  switch (bytes_of(t)) {
    case 2: return s ? binary<int16_t, Op> : binary<uint16_t, Op>;
    case 4: return s ? binary<int32_t, Op> : binary<uint32_t, Op>;
    default: return s ? binary<int64_t, Op> : binary<uint64_t, Op>;
  }
}

// d = a * b + c, Op being the half of the product that counts.
template <class T, class Op>
int multiply_add(Warp& w, const Inst& i) {
  const T *a = src<T>(w, i.a), *b = src<T>(w, i.b), *c = src<T>(w, i.c);
  lanes(dst<T>(w, i.d), w.mask, [=](int l) { return Add::f(Op::f(a[l], b[l]), c[l]); });
  return kNext;
}

template <class Op>
Handler multiply_add_of(Type t, bool by_sign) {
  bool s = by_sign && is_signed(t);
  switch (bytes_of(t)) {
    case 2: return s ? multiply_add<int16_t, Op> : multiply_add<uint16_t, Op>;
    case 4: return s ? multiply_add<int32_t, Op> : multiply_add<uint32_t, Op>;
    default: return s ? multiply_add<int64_t, Op> : multiply_add<uint64_t, Op>;
  }
}

template <class T, bool kAdd>
int wide(Warp& w, const Inst& i) {
  using W = Wide<T>;
  const T *a = src<T>(w, i.a), *b = src<T>(w, i.b);
  const W* c = src<W>(w, i.c);
  lanes(dst<W>(w, i.d), w.mask, [=](int l) {
    W p = static_cast<W>(a[l]) * static_cast<W>(b[l]);
    return kAdd ? Add::f(p, c[l]) : p;
  });
  return kNext;
}

template <bool kAdd>
Handler wide_of(Type t) {
  if (bytes_of(t) == 2) return is_signed(t) ? wide<int16_t, kAdd> : wide<uint16_t, kAdd>;
  return is_signed(t) ? wide<int32_t, kAdd> : wide<uint32_t, kAdd>;
}

Type doubled(Type t) {
  switch (t) {
    case Type::u16: return Type::u32;
    case Type::s16: return Type::s32;
    case Type::u32: return Type::u64;
    default: return Type::s64;
  }
}

void integer_type(Decoder& d, Type t, bool bits = false) {
  if (!ptx::is_integer(t) || bytes_of(t) < 2 || (!bits && ptx::is_bits(t)))
    d.fail("\"" + std::string(d.ins().opcode) + "\" has no form for ." + std::string(name_of(t)));
}

void put3(Decoder& d, Handler fn, Type t) {
  d.want(3);
  Ref a = d.in(1, t), b = d.in(2, t);
  d.put(fn, d.out(0, t), a, b);
}

void put4(Decoder& d, Handler fn, Type t) {
  d.want(4);
  Ref a = d.in(1, t), b = d.in(2, t), c = d.in(3, t);
  d.put(fn, d.out(0, t), a, b, c);
}

// ---- carry chains ----

// What a + b + carry gives, and the next carry. Subtraction keeps borrow in the same
// flag.
template <class T, bool kSub>
int carry_add(Warp& w, const Inst& i) {
  const T *a = src<T>(w, i.a), *b = src<T>(w, i.b);
  T* d = dst<T>(w, i.d);
  bool in = i.x & 1, out = i.x & 2;
  each_lane(w.mask, [&](int l) {
    T c = in ? (w.carry >> l) & 1 : 0, r;
    bool over;
    if (kSub) {
      T t;
      bool o1 = __builtin_sub_overflow(a[l], b[l], &t);
      bool o2 = __builtin_sub_overflow(t, c, &r);
      over = o1 | o2;
    } else {
      T t;
      bool o1 = __builtin_add_overflow(a[l], b[l], &t);
      bool o2 = __builtin_add_overflow(t, c, &r);
      over = o1 | o2;
    }
    d[l] = r;
    if (out) w.carry = (w.carry & ~(1u << l)) | (over ? 1u << l : 0);
  });
  return kNext;
}

void carry_instruction(Decoder& d, bool sub, bool with_in) {
  bool out = d.has("cc");
  Type t = d.type();
  integer_type(d, t);
  if (bytes_of(t) < 4) d.fail("carry chains have 32 or 64 bits");
  uint32_t x = (with_in ? 1u : 0) | (out ? 2u : 0);
  d.want(3);
  Ref a = d.in(1, t), b = d.in(2, t);
  Handler fn = bytes_of(t) == 4 ? (sub ? carry_add<uint32_t, true> : carry_add<uint32_t, false>) : (sub ? carry_add<uint64_t, true> : carry_add<uint64_t, false>);
  d.put(fn, d.out(0, t), a, b, 0, 0, x);
}

void mad_carry(Decoder& d, bool with_in, bool hi, Type t) {
  bool out = d.has("cc");
  d.want(4);
  if (bytes_of(t) < 4) d.fail("carry chains have 32 or 64 bits");
  Ref a = d.in(1, t), b = d.in(2, t), c = d.in(3, t), product = d.temporary(bytes_of(t));
  d.put(hi ? binary_of<MulHi>(t, true) : binary_of<MulLo>(t, false), product, a, b);
  uint32_t x = (with_in ? 1u : 0) | (out ? 2u : 0);
  d.put(bytes_of(t) == 4 ? carry_add<uint32_t, false> : carry_add<uint64_t, false>, d.out(0, t), product, c, 0, 0, x);
}

void addc(Decoder& d) { carry_instruction(d, false, true); }
void subc(Decoder& d) { carry_instruction(d, true, true); }

// ---- instructions ----

struct AddPair {
  static uint32_t f(uint32_t a, uint32_t b) { return ((a + b) & 0xffff) | (((a >> 16) + (b >> 16)) << 16); }
};

void add_or_sub(Decoder& d, bool sub) {
  for (auto m : d.ins().modifiers)
    if (m == "cc") return carry_instruction(d, sub, false);
  Type t = d.type();
  if (!ptx::is_integer(t) && t != Type::u16x2 && t != Type::s16x2) return decode_float_add(d, t, sub);
  if (ptx::is_packed(t)) {
    if (sub) d.fail("sub has no packed integer form");
    return put3(d, binary<uint32_t, AddPair>, Type::b32);
  }
  integer_type(d, t);
  if (d.has("sat")) {
    if (t != Type::s32) d.fail(".sat is for .s32");
    return put3(d, sub ? binary<int32_t, SubSat> : binary<int32_t, AddSat>, t);
  }
  put3(d, sub ? binary_of<Sub>(t, false) : binary_of<Add>(t, false), t);
}
void add(Decoder& d) { add_or_sub(d, false); }
void sub(Decoder& d) { add_or_sub(d, true); }

void mul(Decoder& d) {
  int half = d.one_of({"lo", "hi", "wide"});
  Type t = d.type();
  if (half < 0) return decode_float_mul(d, t);
  integer_type(d, t);
  if (half == 2) {
    if (bytes_of(t) == 8) d.fail("mul.wide takes 16 or 32 bits");
    d.want(3);
    Ref a = d.in(1, t), b = d.in(2, t);
    d.put(wide_of<false>(t), d.out(0, doubled(t)), a, b);
    return;
  }
  put3(d, half ? binary_of<MulHi>(t, true) : binary_of<MulLo>(t, false), t);
}

struct MadHiSat {
  static int32_t f(int32_t a, int32_t b) { return MulHi::f(a, b); }
};
int mad_hi_sat(Warp& w, const Inst& i) {
  const int32_t *a = src<int32_t>(w, i.a), *b = src<int32_t>(w, i.b), *c = src<int32_t>(w, i.c);
  lanes(dst<int32_t>(w, i.d), w.mask, [=](int l) { return AddSat::f(MulHi::f(a[l], b[l]), c[l]); });
  return kNext;
}

void mad_any(Decoder& d, bool carry_in) {
  int half = d.one_of({"lo", "hi", "wide"});
  bool sat = d.has("sat");
  bool chain = carry_in;
  for (auto m : d.ins().modifiers) chain |= m == "cc";
  Type t = d.type();
  if (half < 0) return decode_float_fma(d, t);
  integer_type(d, t);
  if (sat) {
    if (half != 1 || t != Type::s32) d.fail("mad.sat is for .hi.s32");
    return put4(d, mad_hi_sat, t);
  }
  if (chain) return mad_carry(d, carry_in, half == 1, t);
  if (half == 2) {
    if (bytes_of(t) == 8) d.fail("mad.wide takes 16 or 32 bits");
    d.want(4);
    Ref a = d.in(1, t), b = d.in(2, t), c = d.in(3, doubled(t));
    d.put(wide_of<true>(t), d.out(0, doubled(t)), a, b, c);
    return;
  }
  put4(d, half ? multiply_add_of<MulHi>(t, true) : multiply_add_of<MulLo>(t, false), t);
}
void mad(Decoder& d) { mad_any(d, false); }
void madc(Decoder& d) { mad_any(d, true); }

void mul24(Decoder& d) {
  int half = d.one_of({"lo", "hi"});
  Type t = d.type();
  if (half < 0 || (t != Type::u32 && t != Type::s32)) d.fail("mul24 wants .lo or .hi and .u32 or .s32");
  bool s = t == Type::s32;
  put3(d, half ? (s ? binary<int32_t, Mul24Hi> : binary<uint32_t, Mul24Hi>) : (s ? binary<int32_t, Mul24Lo> : binary<uint32_t, Mul24Lo>), t);
}

void div(Decoder& d) {
  Type t = d.type();
  if (!ptx::is_integer(t)) return decode_float_div(d, t);
  integer_type(d, t);
  put3(d, binary_of<Div>(t, true), t);
}

void rem(Decoder& d) {
  Type t = d.type();
  integer_type(d, t);
  put3(d, binary_of<Rem>(t, true), t);
}

template <class T, bool kMax>
struct PairExtreme {
  static uint32_t f(uint32_t a, uint32_t b) {
    auto one = [](T x, T y) { return static_cast<uint16_t>(kMax ? std::max(x, y) : std::min(x, y)); };
    return one(static_cast<T>(a), static_cast<T>(b)) | static_cast<uint32_t>(one(static_cast<T>(a >> 16), static_cast<T>(b >> 16))) << 16;
  }
};

void extreme(Decoder& d, bool most) {
  Type t = d.type();
  if (t == Type::u16x2) return put3(d, most ? binary<uint32_t, PairExtreme<uint16_t, true>> : binary<uint32_t, PairExtreme<uint16_t, false>>, Type::b32);
  if (t == Type::s16x2) return put3(d, most ? binary<uint32_t, PairExtreme<int16_t, true>> : binary<uint32_t, PairExtreme<int16_t, false>>, Type::b32);
  if (!ptx::is_integer(t)) return decode_float_extreme(d, t, most);
  integer_type(d, t);
  put3(d, most ? binary_of<Max>(t, true) : binary_of<Min>(t, true), t);
}
void min(Decoder& d) { extreme(d, false); }
void max(Decoder& d) { extreme(d, true); }

struct Negate {
  template <class T>
  static T f(T a) { return static_cast<T>(0 - static_cast<Calc<T>>(a)); }
};
struct Absolute {
  template <class T>
  static T f(T a) { return a < 0 ? Negate::f(a) : a; }
};

template <class T, class Op>
int unary(Warp& w, const Inst& i) {
  const T* a = src<T>(w, i.a);
  lanes(dst<T>(w, i.d), w.mask, [=](int l) { return Op::f(a[l]); });
  return kNext;
}

template <class Op>
void unary_instruction(Decoder& d, Type t) {
  integer_type(d, t);
  if (!is_signed(t)) d.fail("\"" + std::string(d.ins().opcode) + "\" is for signed types");
  d.want(2);
  Ref a = d.in(1, t);
  d.put(bytes_of(t) == 2 ? unary<int16_t, Op> : bytes_of(t) == 4 ? unary<int32_t, Op> : unary<int64_t, Op>, d.out(0, t), a);
}

void neg(Decoder& d) {
  Type t = d.type();
  if (!ptx::is_integer(t)) return decode_float_sign(d, t, false);
  unary_instruction<Negate>(d, t);
}

void abs(Decoder& d) {
  Type t = d.type();
  if (!ptx::is_integer(t)) return decode_float_sign(d, t, true);
  unary_instruction<Absolute>(d, t);
}

struct SumOfDifference {
  template <class T>
  static T f(T a, T b, T c) { return Add::f(c, a < b ? Sub::f(b, a) : Sub::f(a, b)); }
};

template <class T>
int sad_lanes(Warp& w, const Inst& i) {
  const T *a = src<T>(w, i.a), *b = src<T>(w, i.b), *c = src<T>(w, i.c);
  lanes(dst<T>(w, i.d), w.mask, [=](int l) { return SumOfDifference::f(a[l], b[l], c[l]); });
  return kNext;
}

void sad(Decoder& d) {
  Type t = d.type();
  integer_type(d, t);
  bool s = is_signed(t);
  unsigned n = bytes_of(t);
  put4(d, n == 2 ? (s ? sad_lanes<int16_t> : sad_lanes<uint16_t>) : n == 4 ? (s ? sad_lanes<int32_t> : sad_lanes<uint32_t>) : (s ? sad_lanes<int64_t> : sad_lanes<uint64_t>), t);
}

// dp4a and dp2a: dot products of bytes (and halves), each side signed or not.
template <class A, class B>
int dot4(Warp& w, const Inst& i) {
  const uint32_t *a = src<uint32_t>(w, i.a), *b = src<uint32_t>(w, i.b), *c = src<uint32_t>(w, i.c);
  lanes(dst<uint32_t>(w, i.d), w.mask, [=](int l) {
    uint32_t sum = c[l];
    for (int k = 0; k < 4; k++) sum += static_cast<uint32_t>(static_cast<int32_t>(static_cast<A>(a[l] >> (8 * k))) * static_cast<int32_t>(static_cast<B>(b[l] >> (8 * k))));
    return sum;
  });
  return kNext;
}

template <class A, class B>
int dot2(Warp& w, const Inst& i) {
  const uint32_t *a = src<uint32_t>(w, i.a), *b = src<uint32_t>(w, i.b), *c = src<uint32_t>(w, i.c);
  int from = static_cast<int>(i.x) * 16;
  lanes(dst<uint32_t>(w, i.d), w.mask, [=](int l) {
    uint32_t sum = c[l];
    for (int k = 0; k < 2; k++) sum += static_cast<uint32_t>(static_cast<int32_t>(static_cast<A>(a[l] >> (16 * k))) * static_cast<int32_t>(static_cast<B>(b[l] >> (from + 8 * k))));
    return sum;
  });
  return kNext;
}

void dot(Decoder& d, bool four) {
  int half = four ? 0 : d.one_of({"lo", "hi"});
  Type a = d.type(), b = d.type();
  if (half < 0 || bytes_of(a) != 4 || bytes_of(b) != 4 || ptx::is_bits(a) || ptx::is_bits(b)) d.fail("dp4a and dp2a take .u32 or .s32 twice");
  bool x = is_signed(a), y = is_signed(b);
  Handler fn = four ? (x ? (y ? dot4<int8_t, int8_t> : dot4<int8_t, uint8_t>) : (y ? dot4<uint8_t, int8_t> : dot4<uint8_t, uint8_t>))
                    : (x ? (y ? dot2<int16_t, int8_t> : dot2<int16_t, uint8_t>) : (y ? dot2<uint16_t, int8_t> : dot2<uint16_t, uint8_t>));
  d.want(4);
  Ref p = d.in(1, Type::b32), q = d.in(2, Type::b32), r = d.in(3, Type::b32);
  d.put(fn, d.out(0, Type::b32), p, q, r, 0, static_cast<uint32_t>(half));
}
void dp4a(Decoder& d) { dot(d, true); }
void dp2a(Decoder& d) { dot(d, false); }

}  // namespace

const OpEntry kIntegerOps[] = {
    {"add", add}, {"sub", sub}, {"addc", addc}, {"subc", subc}, {"mul", mul}, {"mad", mad}, {"madc", madc}, {"mul24", mul24},
    {"div", div}, {"rem", rem}, {"min", min}, {"max", max}, {"neg", neg}, {"abs", abs}, {"sad", sad}, {"dp4a", dp4a}, {"dp2a", dp2a}, {"", nullptr},
};

}  // namespace softcuda
