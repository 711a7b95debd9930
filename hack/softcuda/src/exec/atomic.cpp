// atom and red. Lanes go in order; between blocks the host's own atomics order them.
#include <algorithm>

#include "access.h"
#include "numeric.h"

namespace softcuda {

using ptx::Space;
using ptx::Type;
using ptx::bytes_of;

namespace {

enum class Op : uint8_t { add, min, max, inc, dec, cas, exch, and_, or_, xor_ };

template <class T>
T integer(Op op, T old, T b, T c) {
  using U = std::make_unsigned_t<T>;
  switch (op) {
    case Op::add: return static_cast<T>(static_cast<U>(old) + static_cast<U>(b));
    case Op::min: return std::min(old, b);
    case Op::max: return std::max(old, b);
    case Op::inc: return old >= b ? T{0} : static_cast<T>(old + 1);
    case Op::dec: return old == 0 || old > b ? b : static_cast<T>(old - 1);
    case Op::cas: return old == b ? c : old;
    case Op::exch: return b;
    case Op::and_: return old & b;
    case Op::or_: return old | b;
    default: return old ^ b;
  }
}

struct Integer {
  template <class U, class T>
  static U next(Op op, U old, U b, U c) {
    return static_cast<U>(integer<T>(op, static_cast<T>(old), static_cast<T>(b), static_cast<T>(c)));
  }
};

// The floating-point operation is add; f32 flushes subnormals in global memory, as
// the ISA says, and not in shared.
uint32_t add_f32(uint32_t old, uint32_t b, bool ftz) {
  float x = as_float(old), y = as_float(b);
  if (ftz) x = flush(x), y = flush(y);
  float r = x + y;
  return bits(canonical(ftz ? flush(r) : r));
}

uint64_t add_f64(uint64_t old, uint64_t b) { return bits(as_double(old) + as_double(b)); }

template <int kExp, int kMan>
uint16_t add_half(uint16_t a, uint16_t b) {
  auto value = [](uint16_t h) { return static_cast<double>(kExp == 8 ? bf16_to_f32(h) : f16_to_f32(h)); };
  return static_cast<uint16_t>(pack_float<kExp, kMan>(odd_sum(value(a), value(b)), Round::nearest));
}

template <class U>
U next_value(Type t, Op op, U old, U b, U c, bool shared) {
  switch (t) {
    case Type::s32: return static_cast<U>(static_cast<uint32_t>(integer<int32_t>(op, static_cast<int32_t>(old), static_cast<int32_t>(b), static_cast<int32_t>(c))));
    case Type::s64: return static_cast<U>(integer<int64_t>(op, static_cast<int64_t>(old), static_cast<int64_t>(b), static_cast<int64_t>(c)));
    case Type::f32: return static_cast<U>(add_f32(static_cast<uint32_t>(old), static_cast<uint32_t>(b), !shared));
    case Type::f64: return static_cast<U>(add_f64(old, b));
    case Type::f16: return static_cast<U>(add_half<5, 10>(static_cast<uint16_t>(old), static_cast<uint16_t>(b)));
    case Type::bf16: return static_cast<U>(add_half<8, 7>(static_cast<uint16_t>(old), static_cast<uint16_t>(b)));
    case Type::f16x2:
    case Type::bf16x2: {
      bool brain = t == Type::bf16x2;
      auto lo = [&](uint16_t x, uint16_t y) { return brain ? add_half<8, 7>(x, y) : add_half<5, 10>(x, y); };
      uint32_t r = lo(static_cast<uint16_t>(old), static_cast<uint16_t>(b));
      r |= static_cast<uint32_t>(lo(static_cast<uint16_t>(static_cast<uint64_t>(old) >> 16), static_cast<uint16_t>(static_cast<uint64_t>(b) >> 16))) << 16;
      return static_cast<U>(r);
    }
    default: return integer<U>(op, old, b, c);
  }
}

// imm of the address is in Inst::imm; Inst::target holds the operation and the type.
template <class U, bool kResult>
int atomic(Warp& w, const Inst& i) {
  Access access;
  const Slot* in = i.more + (kResult ? 1 : 0);
  int status = resolve(w, i, in[0], Kind::atomic, nullptr, access);
  if (status != kNext) return status;
  uint32_t code = static_cast<uint32_t>(-2 - i.target);
  auto op = static_cast<Op>(code & 0xff);
  auto t = static_cast<Type>(code >> 8);
  const U *b = src<U>(w, in[1]), *c = src<U>(w, in[2]);
  alignas(64) U olds[32];
  w.block->counters.atomics += static_cast<uint64_t>(__builtin_popcount(w.mask));
  each_lane(w.mask, [&](int l) {
    auto* p = reinterpret_cast<U*>(access.host[l]);
    bool shared = access.shared >> l & 1;
    U old = __atomic_load_n(p, __ATOMIC_SEQ_CST);
    if (shared) *p = next_value<U>(t, op, old, b[l], c[l], true);
    else
      while (!__atomic_compare_exchange_n(p, &old, next_value<U>(t, op, old, b[l], c[l], false), false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {
      }
    olds[l] = old;
  });
  if (kResult) {
    U* d = dst<U>(w, i.more[0]);
    each_lane(w.mask, [&](int l) { d[l] = olds[l]; });
  }
  return kNext;
}

bool known(Op op, Type t) {
  switch (op) {
    case Op::add: return t == Type::u32 || t == Type::s32 || t == Type::u64 || t == Type::f32 || t == Type::f64 || t == Type::f16 || t == Type::bf16 || t == Type::f16x2 || t == Type::bf16x2;
    case Op::min:
    case Op::max: return t == Type::u32 || t == Type::s32 || t == Type::u64 || t == Type::s64;
    case Op::inc:
    case Op::dec: return t == Type::u32;
    case Op::cas: return t == Type::b16 || t == Type::b32 || t == Type::b64;
    default: return t == Type::b32 || t == Type::b64;
  }
}

void instruction(Decoder& d, bool result) {
  int order = d.one_of({"relaxed", "acquire", "release", "acq_rel"});
  (void)order;
  d.one_of({"cta", "gpu", "sys", "cluster"});
  Space space = space_modifier(d);
  int which = d.one_of({"add", "min", "max", "inc", "dec", "cas", "exch", "and", "or", "xor"});
  if (which < 0) d.fail("\"" + std::string(d.ins().opcode) + "\" lacks its operation");
  d.one_of({"cta", "gpu", "sys", "cluster"});
  bool noftz = d.has("noftz");
  cache_modifiers(d);
  Type t = d.type();
  auto op = static_cast<Op>(which);
  if (!known(op, t)) d.fail("no atomic operation of this kind on ." + std::string(name_of(t)));
  if (space != Space::global && space != Space::shared && space != Space::generic) d.fail("atomic operations are for global and shared memory");
  (void)noftz;
  size_t first = result ? 1 : 0;
  d.want(first + (op == Op::cas ? 3 : 2), first + (op == Op::cas ? 3 : 2));
  unsigned bytes = bytes_of(t);
  Type cell = bytes == 8 ? Type::b64 : bytes == 4 ? Type::b32 : Type::b16;
  Placed p = place_access(d, d.operand(first), space, bytes);
  if (space != Space::global) d.code().shared_atomics = true;
  auto value = [&](size_t at) { return d.in(at, ptx::is_float(t) && bytes >= 4 ? t : cell); };
  Ref b = value(first + 1), c = op == Op::cas ? value(first + 2) : b;
  std::vector<Ref> outs;
  if (result) outs.push_back(d.out(0, cell));
  Handler fn = bytes == 8 ? (result ? atomic<uint64_t, true> : atomic<uint64_t, false>)
               : bytes == 4 ? (result ? atomic<uint32_t, true> : atomic<uint32_t, false>)
                            : (result ? atomic<uint16_t, true> : atomic<uint16_t, false>);
  Inst& i = d.put_more(fn, outs, {p.base, b, c}, p.offset, p.form.packed());
  i.target = -2 - static_cast<int32_t>(static_cast<uint32_t>(op) | static_cast<uint32_t>(t) << 8);
}

void atom(Decoder& d) { instruction(d, true); }
void red(Decoder& d) { instruction(d, false); }

}  // namespace

const OpEntry kAtomicOps[] = {{"atom", atom}, {"red", red}, {"", nullptr}};

}  // namespace softcuda
