// mov, cvta, isspacep and selp: values that go from one place to another.
#include <chrono>

#include "decode.h"

namespace softcuda {

using ptx::Operand;
using ptx::Space;
using ptx::Type;
using ptx::bytes_of;

namespace {

template <class T>
int move(Warp& w, const Inst& i) {
  const T* a = src<T>(w, i.a);
  lanes(dst<T>(w, i.d), w.mask, [=](int l) { return a[l]; });
  return kNext;
}

Handler move_of(unsigned bytes) { return bytes == 8 ? move<uint64_t> : bytes == 4 ? move<uint32_t> : move<uint16_t>; }

int move_predicate(Warp& w, const Inst& i) {
  uint32_t v = w.preds[unraw(i.a)] ^ static_cast<uint32_t>(i.imm);
  w.preds[i.x] = (w.preds[i.x] & ~w.mask) | (v & w.mask);
  return kNext;
}

// unpack splits a: imm elements of P each.
template <class W, class P>
int unpack(Warp& w, const Inst& i) {
  alignas(64) W a[32];
  memcpy(a, src<W>(w, i.more[i.imm]), sizeof a);
  for (int e = 0; e < i.imm; e++)
    lanes(dst<P>(w, i.more[e]), w.mask, [&](int l) { return static_cast<P>(a[l] >> (8 * sizeof(P) * static_cast<size_t>(e))); });
  return kNext;
}

template <class W, class P>
int assemble(Warp& w, const Inst& i) {
  alignas(64) W r[32] = {};
  for (int e = 0; e < i.imm; e++) {
    const P* p = src<P>(w, i.more[1 + e]);
    for (int l = 0; l < 32; l++) r[l] |= static_cast<W>(p[l]) << (8 * sizeof(P) * static_cast<size_t>(e));
  }
  lanes(dst<W>(w, i.more[0]), w.mask, [&](int l) { return r[l]; });
  return kNext;
}

uint64_t now() {
  return static_cast<uint64_t>(std::chrono::steady_clock::now().time_since_epoch().count());
}

template <class T>
int clock_value(Warp& w, const Inst& i) {
  T v = static_cast<T>(now());
  lanes(dst<T>(w, i.d), w.mask, [=](int) { return v; });
  return kNext;
}

int active_mask(Warp& w, const Inst& i) {
  uint32_t v = w.mask;
  lanes(dst<uint32_t>(w, i.d), w.mask, [=](int) { return v; });
  return kNext;
}

bool move_vector(Decoder& d, Type t) {
  bool from = d.operand(1).kind == Operand::vector, to = d.operand(0).kind == Operand::vector;
  if (!from && !to) return false;
  if (from && to) d.fail("mov from {} to {}");
  auto parts = d.elements(from ? 1 : 0);
  unsigned whole = bytes_of(t), n = static_cast<unsigned>(parts.size());
  if ((n != 2 && n != 4) || whole < 4 || whole / n < 2) d.fail("mov packs two or four registers of 16 or 32 bits");
  Type part = whole / n == 4 ? Type::b32 : Type::b16;
  std::vector<Ref> list;
  for (auto* p : parts) list.push_back(from ? d.in(*p, part) : d.out(*p, part));
  bool wide = whole == 8, half = part == Type::b16;
  if (from) {
    Handler fn = wide ? (half ? assemble<uint64_t, uint16_t> : assemble<uint64_t, uint32_t>) : assemble<uint32_t, uint16_t>;
    d.put_more(fn, {d.out(0, t)}, list, n);
  } else {
    Handler fn = wide ? (half ? unpack<uint64_t, uint16_t> : unpack<uint64_t, uint32_t>) : unpack<uint32_t, uint16_t>;
    d.put_more(fn, list, {d.in(1, t)}, n);
  }
  return true;
}

void mov(Decoder& d) {
  Type t = d.type();
  d.want(2);
  if (t == Type::pred) {
    PredRef a = d.pred_in(d.operand(1));
    d.put(move_predicate, 0, raw(a.index), 0, 0, a.flip, d.pred_out(d.operand(0)));
    return;
  }
  if (move_vector(d, t)) return;
  auto& from = d.operand(1);
  if (from.kind == Operand::special) {
    if (from.name == "%clock" || from.name == "%clock_hi") return void(d.put(clock_value<uint32_t>, d.out(0, Type::u32)));
    if (from.name == "%clock64" || from.name == "%globaltimer") return void(d.put(clock_value<uint64_t>, d.out(0, Type::u64)));
    if (from.name == "%globaltimer_lo") return void(d.put(clock_value<uint32_t>, d.out(0, Type::u32)));
  }
  if (from.kind == Operand::reg || from.kind == Operand::special || from.kind == Operand::address || from.kind == Operand::integer ||
      from.kind == Operand::f32 || from.kind == Operand::f64) {
    Ref a = d.in(1, t);
    d.put(move_of(bytes_of(t)), d.out(0, t), a);
    return;
  }
  d.in(1, t);  // names what is wrong
}

template <class D, class S>
int offset_window(Warp& w, const Inst& i) {
  const S* a = src<S>(w, i.a);
  D by = static_cast<D>(i.imm);
  lanes(dst<D>(w, i.d), w.mask, [=](int l) { return static_cast<D>(a[l]) + by; });
  return kNext;
}

Space space_of(Decoder& d) {
  if (d.has("global")) return Space::global;
  if (d.has("shared") || d.has("shared::cta")) return Space::shared;
  if (d.has("local")) return Space::local;
  if (d.has("const")) return Space::constant;
  if (d.has("param")) return Space::param;
  d.fail("a state space is wanted");
}

uint64_t window_of(Space s) {
  return s == Space::shared ? kSharedWindow : s == Space::local ? kLocalWindow : s == Space::param ? kParamWindow : 0;
}

void cvta(Decoder& d) {
  bool to = d.has("to");
  Space s = space_of(d);
  Type t = d.type();
  d.want(2);
  int64_t by = static_cast<int64_t>(window_of(s));
  if (bytes_of(t) == 4) d.fail("cvta of 32-bit addresses is not supported");
  Ref a = d.in(1, t);
  d.put(offset_window<uint64_t, uint64_t>, d.out(0, t), a, 0, 0, to ? -by : by);
}

int is_space(Warp& w, const Inst& i) {
  const uint64_t* a = src<uint64_t>(w, i.a);
  uint32_t bits = 0;
  auto inside = [](uint64_t v, uint64_t from, uint64_t n) { return v - from < n; };
  each_lane(w.mask, [&](int l) {
    bool shared = inside(a[l], kSharedWindow, kSharedWindowBytes), local = inside(a[l], kLocalWindow, kLocalWindowBytes), param = inside(a[l], kParamWindow, kParamWindowBytes);
    auto* owner = w.block->memory->find(a[l]);
    bool constant = owner && owner->use == Use::constant;
    bool r = false;
    switch (static_cast<Space>(i.imm)) {
      case Space::shared: r = shared; break;
      case Space::local: r = local; break;
      case Space::param: r = param; break;
      case Space::constant: r = constant; break;
      default: r = !shared && !local && !param && !constant;
    }
    bits |= r ? 1u << l : 0;
  });
  w.preds[i.x] = (w.preds[i.x] & ~w.mask) | bits;
  return kNext;
}

void isspacep(Decoder& d) {
  Space s = space_of(d);
  d.want(2);
  Ref a = d.in(1, Type::u64);
  d.put(is_space, 0, a, 0, 0, static_cast<int64_t>(s), d.pred_out(d.operand(0)));
}

template <class T>
int select(Warp& w, const Inst& i) {
  const T *a = src<T>(w, i.a), *b = src<T>(w, i.b);
  uint32_t p = w.preds[i.x] ^ static_cast<uint32_t>(i.imm);
  lanes(dst<T>(w, i.d), w.mask, [=](int l) { return (p >> l) & 1 ? a[l] : b[l]; });
  return kNext;
}

void selp(Decoder& d) {
  Type t = d.type();
  d.want(4);
  Ref a = d.in(1, t), b = d.in(2, t);
  PredRef p = d.pred_in(d.operand(3));
  Handler fn = bytes_of(t) == 8 ? select<uint64_t> : bytes_of(t) == 4 ? select<uint32_t> : select<uint16_t>;
  d.put(fn, d.out(0, t), a, b, 0, p.flip, p.index);
}

template <class T, class C>
int select_sign(Warp& w, const Inst& i) {
  const T *a = src<T>(w, i.a), *b = src<T>(w, i.b);
  const C* c = src<C>(w, i.c);
  lanes(dst<T>(w, i.d), w.mask, [=](int l) { return c[l] >= 0 ? a[l] : b[l]; });
  return kNext;
}

void slct(Decoder& d) {
  d.has("ftz");
  Type t = d.type(), c = d.type();
  d.want(4);
  if (c != Type::s32 && c != Type::f32) d.fail("slct tests .s32 or .f32");
  Ref x = d.in(1, t), y = d.in(2, t), z = d.in(3, c);
  bool f = c == Type::f32;
  Handler fn = bytes_of(t) == 8   ? (f ? select_sign<uint64_t, float> : select_sign<uint64_t, int32_t>)
               : bytes_of(t) == 4 ? (f ? select_sign<uint32_t, float> : select_sign<uint32_t, int32_t>)
                                  : (f ? select_sign<uint16_t, float> : select_sign<uint16_t, int32_t>);
  d.put(fn, d.out(0, t), x, y, z);
}

void activemask(Decoder& d) {
  d.type();
  d.want(1);
  d.put(active_mask, d.out(0, Type::b32));
}

}  // namespace

const OpEntry kMoveOps[] = {
    {"mov", mov}, {"cvta", cvta}, {"isspacep", isspacep}, {"selp", selp}, {"slct", slct}, {"activemask", activemask}, {"", nullptr},
};

}  // namespace softcuda
