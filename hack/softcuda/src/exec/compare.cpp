// setp and set.
#include "decode.h"
#include "numeric.h"

namespace softcuda {

using ptx::Type;
using ptx::bytes_of;

namespace {

enum Cmp { eq, ne, lt, le, gt, ge, equ, neu, ltu, leu, gtu, geu, num, nan };

template <class T>
struct Plain {
  using Raw = T;
  static T value(T v) { return v; }
};
struct F16 {
  using Raw = uint16_t;
  static float value(uint16_t v) { return f16_to_f32(v); }
};
struct BF16 {
  using Raw = uint16_t;
  static float value(uint16_t v) { return bf16_to_f32(v); }
};
struct Flushed {
  using Raw = float;
  static float value(float v) { return flush(v); }
};

template <int kCmp, class T>
inline bool holds(T a, T b) {
  bool unordered = a != a || b != b;
  switch (kCmp) {
    case eq: return a == b;
    case ne: return !unordered && a != b;
    case lt: return a < b;
    case le: return a <= b;
    case gt: return a > b;
    case ge: return a >= b;
    case equ: return unordered || a == b;
    case neu: return a != b;
    case ltu: return !(a >= b);
    case leu: return !(a > b);
    case gtu: return !(a <= b);
    case geu: return !(a < b);
    case num: return !unordered;
    default: return unordered;
  }
}

template <class F, int kCmp>
uint32_t compare_lanes(const Warp& w, const Inst& i) {
  const auto *a = src<typename F::Raw>(w, i.a), *b = src<typename F::Raw>(w, i.b);
  return compare([=](int l) { return holds<kCmp>(F::value(a[l]), F::value(b[l])); });
}

// d is the operation that joins the comparison with a predicate: 1 and, 2 or, 3 xor.
template <class F, int kCmp>
int set_predicate(Warp& w, const Inst& i) {
  uint32_t r = compare_lanes<F, kCmp>(w, i), m = w.mask;
  w.preds[i.x] = (w.preds[i.x] & ~m) | (r & m);
  return kNext;
}

template <class F, int kCmp>
int set_predicates(Warp& w, const Inst& i) {
  uint32_t r = compare_lanes<F, kCmp>(w, i), n = ~r, m = w.mask;
  uint32_t c = w.preds[static_cast<uint32_t>(i.imm)] ^ static_cast<uint32_t>(i.imm >> 32);
  switch (i.target) {
    case -2: r &= c, n &= c; break;
    case -3: r |= c, n |= c; break;
    case -4: r ^= c, n ^= c; break;
    default: break;
  }
  uint32_t q = unraw(i.c);
  w.preds[i.x] = (w.preds[i.x] & ~m) | (r & m);
  if (q) w.preds[q] = (w.preds[q] & ~m) | (n & m);
  return kNext;
}

// set gives all ones or 1.0 for true.
template <class F, int kCmp>
int set_value(Warp& w, const Inst& i) {
  uint32_t r = compare_lanes<F, kCmp>(w, i);
  uint32_t c = w.preds[static_cast<uint32_t>(i.imm)] ^ static_cast<uint32_t>(i.imm >> 32);
  if (i.target == -2) r &= c;
  if (i.target == -3) r |= c;
  if (i.target == -4) r ^= c;
  if (bytes_of(static_cast<Type>(i.x)) == 2) {
    uint16_t one = i.x == static_cast<uint32_t>(Type::f16) ? 0x3c00 : i.x == static_cast<uint32_t>(Type::bf16) ? 0x3f80 : 0xffff;
    lanes(dst<uint16_t>(w, i.d), w.mask, [=](int l) { return (r >> l) & 1 ? one : uint16_t{0}; });
    return kNext;
  }
  uint32_t one = i.x == static_cast<uint32_t>(Type::f32) ? 0x3f800000 : ~0u;
  lanes(dst<uint32_t>(w, i.d), w.mask, [=](int l) { return (r >> l) & 1 ? one : 0; });
  return kNext;
}

// ---- pairs of halves: the form is in a slot's place, as numbers ----

bool holds_now(int cmp, float a, float b) {
  switch (cmp) {
    case eq: return holds<eq>(a, b);
    case ne: return holds<ne>(a, b);
    case lt: return holds<lt>(a, b);
    case le: return holds<le>(a, b);
    case gt: return holds<gt>(a, b);
    case ge: return holds<ge>(a, b);
    case equ: return holds<equ>(a, b);
    case neu: return holds<neu>(a, b);
    case ltu: return holds<ltu>(a, b);
    case leu: return holds<leu>(a, b);
    case gtu: return holds<gtu>(a, b);
    case geu: return holds<geu>(a, b);
    case num: return holds<num>(a, b);
    default: return holds<nan>(a, b);
  }
}

// The low byte of a form is the comparison.
constexpr uint32_t kBrain = 0x100, kFlush = 0x200, kOnes = 0x400;

uint32_t compare_part(const Warp& w, const Inst& i, uint32_t form, int part) {
  const uint32_t *a = src<uint32_t>(w, i.a), *b = src<uint32_t>(w, i.b);
  auto value = [&](uint32_t v) {
    auto h = static_cast<uint16_t>(v >> (16 * part));
    if (form & kBrain) return bf16_to_f32(h);
    if ((form & kFlush) && (h & 0x7c00) == 0) h &= 0x8000;
    return f16_to_f32(h);
  };
  uint32_t r = compare([&](int l) { return holds_now(static_cast<int>(form & 0xff), value(a[l]), value(b[l])); });
  uint32_t c = w.preds[static_cast<uint32_t>(i.imm)] ^ static_cast<uint32_t>(i.imm >> 32);
  if (i.target == -2) r &= c;
  if (i.target == -3) r |= c;
  if (i.target == -4) r ^= c;
  return r;
}

int set_pair_predicates(Warp& w, const Inst& i) {
  uint32_t form = unraw(i.d), low = compare_part(w, i, form, 0), high = compare_part(w, i, form, 1), q = unraw(i.c), m = w.mask;
  w.preds[i.x] = (w.preds[i.x] & ~m) | (low & m);
  if (q) w.preds[q] = (w.preds[q] & ~m) | (high & m);
  return kNext;
}

int set_pair_values(Warp& w, const Inst& i) {
  uint32_t low = compare_part(w, i, i.x, 0), high = compare_part(w, i, i.x, 1);
  uint32_t one = i.x & kOnes ? 0xffff : i.x & kBrain ? 0x3f80 : 0x3c00;
  lanes(dst<uint32_t>(w, i.d), w.mask, [=](int l) { return ((low >> l) & 1 ? one : 0) | ((high >> l) & 1 ? one << 16 : 0); });
  return kNext;
}

bool is_pair(Type t) { return t == Type::f16x2 || t == Type::bf16x2; }

template <class F, int kCmp>
Handler form(int kind) {
  return kind == 0 ? set_predicate<F, kCmp> : kind == 1 ? set_predicates<F, kCmp> : set_value<F, kCmp>;
}

template <class F>
Handler ordered(int cmp, int kind) {
  switch (cmp) {
    case eq: return form<F, eq>(kind);
    case ne: return form<F, ne>(kind);
    case lt: return form<F, lt>(kind);
    case le: return form<F, le>(kind);
    case gt: return form<F, gt>(kind);
    default: return form<F, ge>(kind);
  }
}

template <class F>
Handler any(int cmp, int kind) {
  switch (cmp) {
    case equ: return form<F, equ>(kind);
    case neu: return form<F, neu>(kind);
    case ltu: return form<F, ltu>(kind);
    case leu: return form<F, leu>(kind);
    case gtu: return form<F, gtu>(kind);
    case geu: return form<F, geu>(kind);
    case num: return form<F, num>(kind);
    case nan: return form<F, nan>(kind);
    default: return ordered<F>(cmp, kind);
  }
}

Handler handler_of(Decoder& d, Type t, int cmp, bool ftz, int kind) {
  if (ptx::is_integer(t) && bytes_of(t) >= 2) {
    if (cmp > ge) d.fail("unordered comparison of integers");
    if (ptx::is_bits(t) && cmp > ne) d.fail(".b types compare with eq and ne only");
    bool s = ptx::is_signed(t);
    switch (bytes_of(t)) {
      case 2: return s ? ordered<Plain<int16_t>>(cmp, kind) : ordered<Plain<uint16_t>>(cmp, kind);
      case 4: return s ? ordered<Plain<int32_t>>(cmp, kind) : ordered<Plain<uint32_t>>(cmp, kind);
      default: return s ? ordered<Plain<int64_t>>(cmp, kind) : ordered<Plain<uint64_t>>(cmp, kind);
    }
  }
  switch (t) {
    case Type::f32: return ftz ? any<Flushed>(cmp, kind) : any<Plain<float>>(cmp, kind);
    case Type::f64: return any<Plain<double>>(cmp, kind);
    case Type::f16: return any<F16>(cmp, kind);
    case Type::bf16: return any<BF16>(cmp, kind);
    default: d.fail("no comparison of ." + std::string(name_of(t)));
  }
}

int comparison(Decoder& d) {
  static constexpr std::string_view names[] = {"eq", "ne", "lt", "le", "gt", "ge", "equ", "neu", "ltu", "leu", "gtu", "geu", "num", "nan"};
  for (int k = 0; k < 14; k++)
    if (d.has(names[k])) return k;
  if (d.has("lo")) return lt;  // unsigned names of the same
  if (d.has("ls")) return le;
  if (d.has("hi")) return gt;
  if (d.has("hs")) return ge;
  d.fail("comparison lacks its relation");
}

int64_t packed(PredRef p) { return static_cast<int64_t>(p.index | uint64_t{p.flip} << 32); }

void setp(Decoder& d) {
  int cmp = comparison(d), join = d.one_of({"and", "or", "xor"});
  bool ftz = d.has("ftz");
  Type t = d.type();
  d.want(join < 0 ? 3 : 4);
  Ref a = d.in(1, is_pair(t) ? Type::b32 : t), b = d.in(2, is_pair(t) ? Type::b32 : t);
  auto& out = d.operand(0);
  bool two = out.second != nullptr;
  PredRef c = join < 0 ? PredRef{} : d.pred_in(d.operand(3));
  uint32_t p = d.pred_out(out), q = two ? d.pred_out(*out.second) : 0;
  if (is_pair(t)) {
    Inst& i = d.put(set_pair_predicates, raw(static_cast<uint32_t>(cmp) | (t == Type::bf16x2 ? kBrain : 0) | (ftz ? kFlush : 0)), a, b, raw(q), packed(c), p);
    i.target = join < 0 ? -1 : -2 - join;
    return;
  }
  int kind = two || join >= 0 ? 1 : 0;
  Inst& i = d.put(handler_of(d, t, cmp, ftz, kind), 0, a, b, raw(q), packed(c), p);
  i.target = join < 0 ? -1 : -2 - join;
}

void set(Decoder& d) {
  int cmp = comparison(d), join = d.one_of({"and", "or", "xor"});
  bool ftz = d.has("ftz");
  Type result = d.type(), t = d.type();
  d.want(join < 0 ? 3 : 4);
  if (is_pair(t)) {
    if (result != t && result != Type::u32) d.fail("set of pairs gives the same pair or .u32");
    Ref a = d.in(1, Type::b32), b = d.in(2, Type::b32);
    PredRef c = join < 0 ? PredRef{} : d.pred_in(d.operand(3));
    uint32_t x = static_cast<uint32_t>(cmp) | (t == Type::bf16x2 ? kBrain : 0) | (ftz ? kFlush : 0) | (result == t ? 0 : kOnes);
    Inst& i = d.put(set_pair_values, d.out(0, Type::b32), a, b, 0, packed(c), x);
    i.target = join < 0 ? -1 : -2 - join;
    return;
  }
  if (result != Type::u32 && result != Type::s32 && result != Type::f32 && bytes_of(result) != 2) d.fail("set gives .u32, .s32, .f32 or 16 bits");
  Ref a = d.in(1, t), b = d.in(2, t);
  PredRef c = join < 0 ? PredRef{} : d.pred_in(d.operand(3));
  Inst& i = d.put(handler_of(d, t, cmp, ftz, 2), d.out(0, result), a, b, 0, packed(c), static_cast<uint32_t>(result));
  i.target = join < 0 ? -1 : -2 - join;
}

}  // namespace

const OpEntry kCompareOps[] = {{"setp", setp}, {"set", set}, {"", nullptr}};

}  // namespace softcuda
