// Bits: logic, shifts, fields, permutations, counts.
#include "decode.h"

namespace softcuda {

using ptx::Operand;
using ptx::Type;
using ptx::bytes_of;

namespace {

enum class Logic { And, Or, Xor };

template <Logic kOp, class T>
T apply(T a, T b) {
  if (kOp == Logic::And) return a & b;
  if (kOp == Logic::Or) return a | b;
  return a ^ b;
}

template <class T, Logic kOp>
int logic(Warp& w, const Inst& i) {
  const T *a = src<T>(w, i.a), *b = src<T>(w, i.b);
  lanes(dst<T>(w, i.d), w.mask, [=](int l) { return apply<kOp>(a[l], b[l]); });
  return kNext;
}

template <Logic kOp>
int logic_predicate(Warp& w, const Inst& i) {
  uint32_t a = w.preds[unraw(i.a)] ^ static_cast<uint32_t>(i.imm), b = w.preds[unraw(i.b)] ^ static_cast<uint32_t>(i.imm >> 32);
  w.preds[i.x] = (w.preds[i.x] & ~w.mask) | (apply<kOp>(a, b) & w.mask);
  return kNext;
}

template <Logic kOp>
void logic_instruction(Decoder& d) {
  Type t = d.type();
  d.want(3);
  if (t == Type::pred) {
    PredRef a = d.pred_in(d.operand(1)), b = d.pred_in(d.operand(2));
    d.put(logic_predicate<kOp>, 0, raw(a.index), raw(b.index), 0, static_cast<int64_t>(a.flip | uint64_t{b.flip} << 32), d.pred_out(d.operand(0)));
    return;
  }
  if (!ptx::is_bits(t) || bytes_of(t) < 2) d.fail("logic takes .pred, .b16, .b32 or .b64");
  Ref a = d.in(1, t), b = d.in(2, t);
  d.put(bytes_of(t) == 8 ? logic<uint64_t, kOp> : bytes_of(t) == 4 ? logic<uint32_t, kOp> : logic<uint16_t, kOp>, d.out(0, t), a, b);
}

template <class T>
int complement(Warp& w, const Inst& i) {
  const T* a = src<T>(w, i.a);
  lanes(dst<T>(w, i.d), w.mask, [=](int l) { return static_cast<T>(~a[l]); });
  return kNext;
}

template <class T>
int is_zero(Warp& w, const Inst& i) {
  const T* a = src<T>(w, i.a);
  lanes(dst<T>(w, i.d), w.mask, [=](int l) { return static_cast<T>(a[l] == 0); });
  return kNext;
}

int not_predicate(Warp& w, const Inst& i) {
  uint32_t v = ~(w.preds[unraw(i.a)] ^ static_cast<uint32_t>(i.imm));
  w.preds[i.x] = (w.preds[i.x] & ~w.mask) | (v & w.mask);
  return kNext;
}

void bits_type(Decoder& d, Type t) {
  if (!ptx::is_bits(t) || bytes_of(t) < 2) d.fail("\"" + std::string(d.ins().opcode) + "\" takes .b16, .b32 or .b64");
}

void not_(Decoder& d) {
  Type t = d.type();
  d.want(2);
  if (t == Type::pred) {
    PredRef a = d.pred_in(d.operand(1));
    d.put(not_predicate, 0, raw(a.index), 0, 0, a.flip, d.pred_out(d.operand(0)));
    return;
  }
  bits_type(d, t);
  Ref a = d.in(1, t);
  d.put(bytes_of(t) == 8 ? complement<uint64_t> : bytes_of(t) == 4 ? complement<uint32_t> : complement<uint16_t>, d.out(0, t), a);
}

void cnot(Decoder& d) {
  Type t = d.type();
  bits_type(d, t);
  d.want(2);
  Ref a = d.in(1, t);
  d.put(bytes_of(t) == 8 ? is_zero<uint64_t> : bytes_of(t) == 4 ? is_zero<uint32_t> : is_zero<uint16_t>, d.out(0, t), a);
}

// Shifts by more than the width give zero, or the sign.
template <class T>
int shift_left(Warp& w, const Inst& i) {
  const T* a = src<T>(w, i.a);
  const uint32_t* n = src<uint32_t>(w, i.b);
  lanes(dst<T>(w, i.d), w.mask, [=](int l) { return n[l] >= 8 * sizeof(T) ? T{0} : static_cast<T>(a[l] << (n[l] & (8 * sizeof(T) - 1))); });
  return kNext;
}

template <class T>
int shift_right(Warp& w, const Inst& i) {
  const T* a = src<T>(w, i.a);
  const uint32_t* n = src<uint32_t>(w, i.b);
  constexpr uint32_t kMost = 8 * sizeof(T) - 1;
  lanes(dst<T>(w, i.d), w.mask, [=](int l) {
    if (static_cast<T>(-1) < 0) return static_cast<T>(a[l] >> (n[l] > kMost ? kMost : n[l]));
    return n[l] > kMost ? T{0} : static_cast<T>(a[l] >> (n[l] & kMost));
  });
  return kNext;
}

void shl(Decoder& d) {
  Type t = d.type();
  bits_type(d, t);
  d.want(3);
  Ref a = d.in(1, t), n = d.in(2, Type::u32);
  d.put(bytes_of(t) == 8 ? shift_left<uint64_t> : bytes_of(t) == 4 ? shift_left<uint32_t> : shift_left<uint16_t>, d.out(0, t), a, n);
}

void shr(Decoder& d) {
  Type t = d.type();
  if (!ptx::is_integer(t) || bytes_of(t) < 2) d.fail("shr takes integers of 16 to 64 bits");
  d.want(3);
  Ref a = d.in(1, t), n = d.in(2, Type::u32);
  bool s = ptx::is_signed(t);
  d.put(bytes_of(t) == 8   ? (s ? shift_right<int64_t> : shift_right<uint64_t>)
        : bytes_of(t) == 4 ? (s ? shift_right<int32_t> : shift_right<uint32_t>)
                           : (s ? shift_right<int16_t> : shift_right<uint16_t>),
        d.out(0, t), a, n);
}

template <bool kLeft, bool kWrap>
int funnel(Warp& w, const Inst& i) {
  const uint32_t *a = src<uint32_t>(w, i.a), *b = src<uint32_t>(w, i.b), *c = src<uint32_t>(w, i.c);
  lanes(dst<uint32_t>(w, i.d), w.mask, [=](int l) {
    uint32_t n = kWrap ? c[l] & 31 : c[l] > 32 ? 32 : c[l];
    uint64_t v = uint64_t{b[l]} << 32 | a[l];
    return kLeft ? static_cast<uint32_t>(n == 32 ? a[l] : (v << n) >> 32) : static_cast<uint32_t>(v >> n);
  });
  return kNext;
}

void shf(Decoder& d) {
  int left = d.one_of({"l", "r"}), wrap = d.one_of({"clamp", "wrap"});
  if (left < 0 || wrap < 0 || d.type() != Type::b32) d.fail("shf wants .l or .r, .clamp or .wrap, and .b32");
  d.want(4);
  Ref a = d.in(1, Type::b32), b = d.in(2, Type::b32), c = d.in(3, Type::u32);
  d.put(left == 0 ? (wrap ? funnel<true, true> : funnel<true, false>) : (wrap ? funnel<false, true> : funnel<false, false>), d.out(0, Type::b32), a, b, c);
}

template <class T>
T extract(T value, uint32_t pos, uint32_t len) {
  using U = std::make_unsigned_t<T>;
  constexpr uint32_t kBits = 8 * sizeof(T);
  pos &= 0xff;
  len &= 0xff;
  if (len == 0) return 0;
  bool is_signed = static_cast<T>(-1) < 0;
  uint32_t top = pos + len - 1 < kBits - 1 ? pos + len - 1 : kBits - 1;
  U sign = is_signed && ((static_cast<U>(value) >> top) & 1) ? ~U{0} : U{0};
  U field = pos >= kBits ? sign : static_cast<U>(value) >> pos;
  if (pos < kBits && pos > 0) field = (field & (~U{0} >> pos)) | (sign << (kBits - pos));
  if (len < kBits) field = (field & ((U{1} << len) - 1)) | (sign << len);
  return static_cast<T>(field);
}

template <class T>
int bit_field(Warp& w, const Inst& i) {
  const T* a = src<T>(w, i.a);
  const uint32_t *b = src<uint32_t>(w, i.b), *c = src<uint32_t>(w, i.c);
  lanes(dst<T>(w, i.d), w.mask, [=](int l) { return extract<T>(a[l], b[l], c[l]); });
  return kNext;
}

void bfe(Decoder& d) {
  Type t = d.type();
  if (!ptx::is_integer(t) || ptx::is_bits(t) || bytes_of(t) < 4) d.fail("bfe takes .u32, .s32, .u64 or .s64");
  d.want(4);
  Ref a = d.in(1, t), b = d.in(2, Type::u32), c = d.in(3, Type::u32);
  bool s = ptx::is_signed(t);
  d.put(bytes_of(t) == 8 ? (s ? bit_field<int64_t> : bit_field<uint64_t>) : (s ? bit_field<int32_t> : bit_field<uint32_t>), d.out(0, t), a, b, c);
}

template <class T>
int insert(Warp& w, const Inst& i) {
  const T *a = src<T>(w, i.more[1]), *b = src<T>(w, i.more[2]);
  const uint32_t *pos = src<uint32_t>(w, i.more[3]), *len = src<uint32_t>(w, i.more[4]);
  constexpr uint32_t kBits = 8 * sizeof(T);
  lanes(dst<T>(w, i.more[0]), w.mask, [=](int l) {
    uint32_t p = pos[l] & 0xff, n = len[l] & 0xff;
    if (p >= kBits || n == 0) return b[l];
    T mask = (n >= kBits ? ~T{0} : (T{1} << n) - 1) << p;
    return (b[l] & ~mask) | ((a[l] << p) & mask);
  });
  return kNext;
}

void bfi(Decoder& d) {
  Type t = d.type();
  bits_type(d, t);
  if (bytes_of(t) < 4) d.fail("bfi takes .b32 or .b64");
  d.want(5);
  std::vector<Ref> in = {d.in(1, t), d.in(2, t), d.in(3, Type::u32), d.in(4, Type::u32)};
  d.put_more(bytes_of(t) == 8 ? insert<uint64_t> : insert<uint32_t>, {d.out(0, t)}, in);
}

// clz, popc: 32-bit results of 32- or 64-bit values; brev keeps the width.
template <class T>
int leading_zeros(Warp& w, const Inst& i) {
  const T* a = src<T>(w, i.a);
  lanes(dst<uint32_t>(w, i.d), w.mask, [=](int l) {
    if (a[l] == 0) return static_cast<uint32_t>(8 * sizeof(T));
    return static_cast<uint32_t>(sizeof(T) == 8 ? __builtin_clzll(a[l]) : __builtin_clz(static_cast<uint32_t>(a[l])));
  });
  return kNext;
}

template <class T>
int population(Warp& w, const Inst& i) {
  const T* a = src<T>(w, i.a);
  lanes(dst<uint32_t>(w, i.d), w.mask, [=](int l) { return static_cast<uint32_t>(__builtin_popcountll(a[l])); });
  return kNext;
}

template <class T>
int reverse(Warp& w, const Inst& i) {
  const T* a = src<T>(w, i.a);
  lanes(dst<T>(w, i.d), w.mask, [=](int l) {
    uint64_t v = a[l];
    v = ((v >> 1) & 0x5555555555555555u) | ((v & 0x5555555555555555u) << 1);
    v = ((v >> 2) & 0x3333333333333333u) | ((v & 0x3333333333333333u) << 2);
    v = ((v >> 4) & 0x0f0f0f0f0f0f0f0fu) | ((v & 0x0f0f0f0f0f0f0f0fu) << 4);
    v = __builtin_bswap64(v);
    return static_cast<T>(v >> (64 - 8 * sizeof(T)));
  });
  return kNext;
}

// The position of the highest bit that is not the sign, or ~0; .shiftamt counts from
// the top.
template <class T>
int find_lead(Warp& w, const Inst& i) {
  const T* a = src<T>(w, i.a);
  using U = std::make_unsigned_t<T>;
  bool shift = i.x != 0;
  lanes(dst<uint32_t>(w, i.d), w.mask, [=](int l) {
    U v = static_cast<U>(static_cast<T>(-1) < 0 && a[l] < 0 ? ~a[l] : a[l]);
    if (v == 0) return ~0u;
    auto top = static_cast<uint32_t>(63 - __builtin_clzll(v));
    return shift ? static_cast<uint32_t>(8 * sizeof(T) - 1) - top : top;
  });
  return kNext;
}

void count_instruction(Decoder& d, Handler narrow, Handler wide) {
  Type t = d.type();
  if (t != Type::b32 && t != Type::b64) d.fail("\"" + std::string(d.ins().opcode) + "\" takes .b32 or .b64");
  d.want(2);
  Ref a = d.in(1, t);
  d.put(t == Type::b64 ? wide : narrow, d.out(0, Type::u32), a);
}
void clz(Decoder& d) { count_instruction(d, leading_zeros<uint32_t>, leading_zeros<uint64_t>); }
void popc(Decoder& d) { count_instruction(d, population<uint32_t>, population<uint64_t>); }
void brev(Decoder& d) {
  Type t = d.type();
  bits_type(d, t);
  d.want(2);
  if (bytes_of(t) < 4) d.fail("brev takes .b32 or .b64");
  Ref a = d.in(1, t);
  d.put(t == Type::b64 ? reverse<uint64_t> : reverse<uint32_t>, d.out(0, t), a);
}
void bfind(Decoder& d) {
  bool shift = d.has("shiftamt");
  Type t = d.type();
  if (!ptx::is_integer(t) || ptx::is_bits(t) || bytes_of(t) < 4) d.fail("bfind takes .u32, .s32, .u64 or .s64");
  d.want(2);
  bool s = ptx::is_signed(t);
  Ref a = d.in(1, t);
  d.put(bytes_of(t) == 8 ? (s ? find_lead<int64_t> : find_lead<uint64_t>) : (s ? find_lead<int32_t> : find_lead<uint32_t>), d.out(0, Type::u32), a, 0, 0, 0, shift);
}

// Bit 3 of a selector replicates the byte's sign.
uint32_t pick(uint64_t bytes, uint32_t selector) {
  auto b = static_cast<uint8_t>(bytes >> (8 * (selector & 7)));
  if (selector & 8) b = b & 0x80 ? 0xff : 0;
  return b;
}

// The selectors of the special modes, for c & 3 (PTX ISA, prmt).
constexpr uint16_t kPermutations[6][4] = {
    {0x3210, 0x4321, 0x5432, 0x6543},  // f4e
    {0x5670, 0x6701, 0x7012, 0x0123},  // b4e
    {0x0000, 0x1111, 0x2222, 0x3333},  // rc8
    {0x3210, 0x3211, 0x3222, 0x3333},  // ecl
    {0x0000, 0x1110, 0x2210, 0x3210},  // ecr
    {0x1010, 0x3232, 0x1010, 0x3232},  // rc16
};

int permute(Warp& w, const Inst& i) {
  const uint32_t *a = src<uint32_t>(w, i.a), *b = src<uint32_t>(w, i.b), *c = src<uint32_t>(w, i.c);
  lanes(dst<uint32_t>(w, i.d), w.mask, [=](int l) {
    uint64_t bytes = uint64_t{b[l]} << 32 | a[l];
    uint32_t s = i.x ? kPermutations[i.x - 1][c[l] & 3] : c[l], r = 0;
    for (int k = 0; k < 4; k++) r |= pick(bytes, s >> (4 * k)) << (8 * k);
    return r;
  });
  return kNext;
}

void prmt(Decoder& d) {
  if (d.type() != Type::b32) d.fail("prmt takes .b32");
  int mode = d.one_of({"f4e", "b4e", "rc8", "ecl", "ecr", "rc16"});
  d.want(4);
  Ref a = d.in(1, Type::b32), b = d.in(2, Type::b32), c = d.in(3, Type::b32);
  d.put(permute, d.out(0, Type::b32), a, b, c, 0, static_cast<uint32_t>(mode + 1));
}

int lookup3(Warp& w, const Inst& i) {
  const uint32_t *a = src<uint32_t>(w, i.a), *b = src<uint32_t>(w, i.b), *c = src<uint32_t>(w, i.c);
  // Each bit of the table is one minterm, spread over a word.
  uint32_t t[8];
  for (int k = 0; k < 8; k++) t[k] = (i.imm >> k) & 1 ? ~0u : 0;
  lanes(dst<uint32_t>(w, i.d), w.mask, [&](int l) {
    uint32_t x = a[l], y = b[l], z = c[l];
    uint32_t low = (~y & ((~z & t[0]) | (z & t[1]))) | (y & ((~z & t[2]) | (z & t[3])));
    uint32_t high = (~y & ((~z & t[4]) | (z & t[5]))) | (y & ((~z & t[6]) | (z & t[7])));
    return (~x & low) | (x & high);
  });
  return kNext;
}

void lop3(Decoder& d) {
  if (d.one_of({"and", "or"}) >= 0) d.fail("lop3 with a predicate is not supported");
  if (d.type() != Type::b32) d.fail("lop3 takes .b32");
  d.want(5);
  Ref a = d.in(1, Type::b32), b = d.in(2, Type::b32), c = d.in(3, Type::b32);
  d.put(lookup3, d.out(0, Type::b32), a, b, c, d.immediate(4, 0, 255, "the table of lop3"));
}

// fns: the position of the n-th set bit at or after (before) base.
int find_nth(Warp& w, const Inst& i) {
  const uint32_t *a = src<uint32_t>(w, i.a), *b = src<uint32_t>(w, i.b);
  const int32_t* c = src<int32_t>(w, i.c);
  lanes(dst<uint32_t>(w, i.d), w.mask, [=](int l) {
    int32_t at = static_cast<int32_t>(b[l] & 31), n = c[l];
    if (n == 0) return (a[l] >> at) & 1 ? static_cast<uint32_t>(at) : ~0u;
    int step = n > 0 ? 1 : -1;
    for (n = n > 0 ? n : -n; at >= 0 && at < 32; at += step)
      if ((a[l] >> at) & 1 && --n == 0) return static_cast<uint32_t>(at);
    return ~0u;
  });
  return kNext;
}

void fns(Decoder& d) {
  if (d.type() != Type::b32) d.fail("fns takes .b32");
  d.want(4);
  Ref a = d.in(1, Type::b32), b = d.in(2, Type::b32), c = d.in(3, Type::s32);
  d.put(find_nth, d.out(0, Type::b32), a, b, c);
}

template <bool kMasked>
int bit_mask(Warp& w, const Inst& i) {
  const uint32_t *a = src<uint32_t>(w, i.a), *b = src<uint32_t>(w, i.b);
  lanes(dst<uint32_t>(w, i.d), w.mask, [=](int l) {
    uint32_t pos = kMasked ? a[l] & 31 : a[l], n = kMasked ? b[l] & 31 : b[l];
    if (pos > 31) return 0u;
    return static_cast<uint32_t>((n > 31 ? 0xffffffffu : (1u << n) - 1) << pos);
  });
  return kNext;
}

void bmsk(Decoder& d) {
  int mode = d.one_of({"clamp", "wrap"});
  if (mode < 0 || d.type() != Type::b32) d.fail("bmsk wants .clamp or .wrap and .b32");
  d.want(3);
  Ref a = d.in(1, Type::b32), b = d.in(2, Type::b32);
  d.put(mode ? bit_mask<true> : bit_mask<false>, d.out(0, Type::b32), a, b);
}

template <class T, bool kWrap>
int sign_extend(Warp& w, const Inst& i) {
  const T* a = src<T>(w, i.a);
  const uint32_t* b = src<uint32_t>(w, i.b);
  lanes(dst<T>(w, i.d), w.mask, [=](int l) {
    uint32_t n = kWrap ? b[l] & 31 : b[l] > 32 ? 32 : b[l];
    return n == 0 ? T{0} : extract<T>(a[l], 0, n);
  });
  return kNext;
}

void szext(Decoder& d) {
  int mode = d.one_of({"clamp", "wrap"});
  Type t = d.type();
  if (mode < 0 || (t != Type::u32 && t != Type::s32)) d.fail("szext wants .clamp or .wrap and .u32 or .s32");
  d.want(3);
  Ref a = d.in(1, t), b = d.in(2, Type::u32);
  bool s = t == Type::s32;
  d.put(mode ? (s ? sign_extend<int32_t, true> : sign_extend<uint32_t, true>) : (s ? sign_extend<int32_t, false> : sign_extend<uint32_t, false>), d.out(0, t), a, b);
}

}  // namespace

const OpEntry kLogicOps[] = {
    {"and", logic_instruction<Logic::And>}, {"or", logic_instruction<Logic::Or>}, {"xor", logic_instruction<Logic::Xor>},
    {"not", not_}, {"cnot", cnot}, {"shl", shl}, {"shr", shr}, {"shf", shf}, {"bfe", bfe}, {"bfi", bfi}, {"clz", clz},
    {"popc", popc}, {"brev", brev}, {"bfind", bfind}, {"prmt", prmt}, {"lop3", lop3}, {"fns", fns}, {"bmsk", bmsk}, {"szext", szext}, {"", nullptr},
};

}  // namespace softcuda
