// Arithmetic of .f16, .bf16 and their pairs.
//
// Every operation is done exactly, or rounded to odd, in double and then rounded once.
#include <cmath>

#include "float_ops.h"
#include "numeric.h"

namespace softcuda {

using ptx::Type;

namespace {

struct F16 {
  static double value(uint16_t h) { return f16_to_f32(h); }
  static uint16_t round(double v) { return static_cast<uint16_t>(pack_float<5, 10>(v, Round::nearest)); }
  static constexpr uint16_t kOne = 0x3c00, kExponent = 0x7c00;
};

struct BF16 {
  static double value(uint16_t h) { return bf16_to_f32(h); }
  static uint16_t round(double v) { return static_cast<uint16_t>(pack_float<8, 7>(v, Round::nearest)); }
  static constexpr uint16_t kOne = 0x3f80, kExponent = 0x7f80;
};

constexpr uint32_t kFtz = 1, kSat = 2, kRelu = 4, kNaN = 8, kXorSign = 16;

template <class F>
bool is_nan(uint16_t h) { return (h & 0x7fff) > F::kExponent; }

template <class F>
uint16_t flush16(uint16_t h) { return (h & F::kExponent) == 0 ? h & 0x8000 : h; }

template <class F>
uint16_t finish(uint16_t r, uint32_t flags) {
  if (flags & kRelu) {
    if (is_nan<F>(r)) return kNaN16;
    if (r & 0x8000) r = 0;
  }
  if (flags & kSat) {
    if (is_nan<F>(r) || (r & 0x8000)) r = 0;
    else if (r > F::kOne) r = F::kOne;
  }
  if (flags & kFtz) r = flush16<F>(r);
  return r;
}

template <class F, HalfOp kOp>
uint16_t one(uint16_t a, uint16_t b, uint16_t c, uint32_t flags) {
  if (flags & kFtz) a = flush16<F>(a), b = flush16<F>(b), c = flush16<F>(c);
  uint16_t r;
  switch (kOp) {
    case HalfOp::add: r = F::round(odd_sum(F::value(a), F::value(b))); break;
    case HalfOp::sub: r = F::round(odd_sum(F::value(a), -F::value(b))); break;
    case HalfOp::mul: r = F::round(F::value(a) * F::value(b)); break;
    case HalfOp::fma: r = F::round(odd_sum(F::value(a) * F::value(b), F::value(c))); break;
    case HalfOp::neg: return a ^ 0x8000;
    case HalfOp::abs: return a & 0x7fff;
    case HalfOp::ex2: r = F::round(std::exp2(F::value(a))); break;
    case HalfOp::tanh: r = F::round(std::tanh(F::value(a))); break;
    case HalfOp::min:
    case HalfOp::max: {
      uint16_t sign = (a ^ b) & 0x8000;
      if (flags & kXorSign) a &= 0x7fff, b &= 0x7fff;
      if (is_nan<F>(a) || is_nan<F>(b)) {
        bool both = is_nan<F>(a) && is_nan<F>(b);
        if (both || (flags & kNaN)) return kNaN16;
        r = is_nan<F>(a) ? b : a;
      } else {
        double x = F::value(a), y = F::value(b);
        if (x == y) r = kOp == HalfOp::max ? a & b : a | b;
        else r = (x < y) == (kOp == HalfOp::min) ? a : b;
      }
      if (flags & kXorSign) r |= sign;
      return r;
    }
  }
  return finish<F>(r, flags);
}

template <class F, HalfOp kOp, bool kPair>
int half(Warp& w, const Inst& i) {
  using T = std::conditional_t<kPair, uint32_t, uint16_t>;
  const T *a = src<T>(w, i.a), *b = src<T>(w, i.b), *c = src<T>(w, i.c);
  T* d = dst<T>(w, i.d);
  bool two = kOp != HalfOp::neg && kOp != HalfOp::abs && kOp != HalfOp::ex2 && kOp != HalfOp::tanh, three = kOp == HalfOp::fma;
  each_lane(w.mask, [&](int l) {
    uint32_t r = 0;
    for (int k = 0; k < (kPair ? 2 : 1); k++) {
      auto part = [&](const T* p) { return static_cast<uint16_t>(static_cast<uint32_t>(p[l]) >> (16 * k)); };
      r |= static_cast<uint32_t>(one<F, kOp>(part(a), two ? part(b) : 0, three ? part(c) : 0, i.x)) << (16 * k);
    }
    d[l] = static_cast<T>(r);
  });
  return kNext;
}

template <HalfOp kOp>
Handler of(Type t) {
  switch (t) {
    case Type::f16: return half<F16, kOp, false>;
    case Type::bf16: return half<BF16, kOp, false>;
    case Type::f16x2: return half<F16, kOp, true>;
    default: return half<BF16, kOp, true>;
  }
}

Handler handler_of(HalfOp op, Type t) {
  switch (op) {
    case HalfOp::add: return of<HalfOp::add>(t);
    case HalfOp::sub: return of<HalfOp::sub>(t);
    case HalfOp::mul: return of<HalfOp::mul>(t);
    case HalfOp::fma: return of<HalfOp::fma>(t);
    case HalfOp::min: return of<HalfOp::min>(t);
    case HalfOp::max: return of<HalfOp::max>(t);
    case HalfOp::neg: return of<HalfOp::neg>(t);
    case HalfOp::abs: return of<HalfOp::abs>(t);
    case HalfOp::ex2: return of<HalfOp::ex2>(t);
    case HalfOp::tanh: return of<HalfOp::tanh>(t);
  }
  return nullptr;
}

}  // namespace

void decode_half(Decoder& d, Type t, HalfOp op) {
  uint32_t flags = 0;
  bool arithmetic = op == HalfOp::add || op == HalfOp::sub || op == HalfOp::mul || op == HalfOp::fma;
  bool extreme = op == HalfOp::min || op == HalfOp::max;
  if (arithmetic) {
    d.has("rn");
    if (d.has("sat")) flags |= kSat;
    if (op == HalfOp::fma && d.has("relu")) flags |= kRelu;
  }
  if (op == HalfOp::ex2 || op == HalfOp::tanh)
    if (!d.has("approx")) d.fail("\"" + std::string(d.ins().opcode) + "\" wants .approx");
  if (extreme) {
    if (d.has("NaN")) flags |= kNaN;
    if (d.has("xorsign")) {
      if (!d.has("abs")) d.fail(".xorsign wants .abs");
      flags |= kXorSign;
    }
  }
  if (d.has("ftz")) flags |= kFtz;
  bool pair = ptx::is_packed(t);
  Type type = pair ? Type::b32 : Type::b16;
  size_t inputs = op == HalfOp::fma ? 3 : arithmetic || extreme ? 2 : 1;
  d.want(inputs + 1);
  Ref r[3] = {0, 0, 0};
  for (size_t k = 0; k < inputs; k++) r[k] = d.in(k + 1, type);
  d.put(handler_of(op, t), d.out(0, type), r[0], r[1], r[2], 0, flags);
}

const OpEntry kHalfOps[] = {{"", nullptr}};

}  // namespace softcuda
