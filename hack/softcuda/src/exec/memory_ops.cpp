// ld, st, and the hints to caches.
#include "access.h"

namespace softcuda {

using ptx::Operand;
using ptx::Space;
using ptx::Type;
using ptx::bytes_of;

namespace {

// Inst::more of a load: kCount results, then the base.
template <class M, class R, int kCount>
int load(Warp& w, const Inst& i) {
  Access access;
  int status = resolve(w, i, i.more[kCount], Kind::load, nullptr, access);
  if (status != kNext) return status;
  if (access.run) {
    auto* p = reinterpret_cast<const M*>(access.host[0]);
    for (int e = 0; e < kCount; e++) {
      R* d = dst<R>(w, i.more[e]);
#pragma GCC ivdep
      for (int l = 0; l < 32; l++) d[l] = static_cast<R>(p[l * kCount + e]);
    }
    return kNext;
  }
  if (access.same) {
    for (int e = 0; e < kCount; e++) {
      M v;
      memcpy(&v, access.host[0] + sizeof(M) * static_cast<size_t>(e), sizeof v);
      R* d = dst<R>(w, i.more[e]);
      for (int l = 0; l < 32; l++) d[l] = static_cast<R>(v);
    }
    return kNext;
  }
  for (int e = 0; e < kCount; e++) {
    R* d = dst<R>(w, i.more[e]);
    each_lane(w.mask, [&](int l) {
      M v;
      memcpy(&v, access.host[l] + sizeof(M) * static_cast<size_t>(e), sizeof v);
      d[l] = static_cast<R>(v);
    });
  }
  return kNext;
}

// Inst::more of a store: the base, then kCount values.
template <class M, class R, int kCount>
int store(Warp& w, const Inst& i) {
  Access access;
  alignas(64) M values[32 * kCount];
  for (int e = 0; e < kCount; e++) {
    const R* a = src<R>(w, i.more[1 + e]);
    for (int l = 0; l < 32; l++) values[l * kCount + e] = static_cast<M>(a[l]);
  }
  int status = resolve(w, i, i.more[0], Kind::store, reinterpret_cast<const uint8_t*>(values), access);
  if (status != kNext) return status;
  if (access.run) memcpy(access.host[0], values, sizeof values);
  else each_lane(w.mask, [&](int l) { memcpy(access.host[l], values + l * kCount, sizeof(M) * kCount); });
  return kNext;
}

// A kernel's parameter is the same for every lane.
template <class M, class R, int kCount>
int load_param(Warp& w, const Inst& i) {
  for (int e = 0; e < kCount; e++) {
    M v;
    memcpy(&v, w.block->params + i.imm + static_cast<int64_t>(sizeof(M)) * e, sizeof v);
    lanes(dst<R>(w, i.more[e]), w.mask, [=](int) { return static_cast<R>(v); });
  }
  return kNext;
}

template <class M, class R>
Handler load_of(int count, bool param) {
  if (param) return count == 4 ? load_param<M, R, 4> : count == 2 ? load_param<M, R, 2> : load_param<M, R, 1>;
  return count == 4 ? load<M, R, 4> : count == 2 ? load<M, R, 2> : load<M, R, 1>;
}

template <class M, class R>
Handler store_of(int count) {
  return count == 4 ? store<M, R, 4> : count == 2 ? store<M, R, 2> : store<M, R, 1>;
}

Handler load_handler(Type t, int count, bool param) {
  switch (bytes_of(t)) {
    case 1: return ptx::is_signed(t) ? load_of<int8_t, int16_t>(count, param) : load_of<uint8_t, uint16_t>(count, param);
    case 2: return load_of<uint16_t, uint16_t>(count, param);
    case 4: return load_of<uint32_t, uint32_t>(count, param);
    default: return load_of<uint64_t, uint64_t>(count, param);
  }
}

Handler store_handler(Type t, int count) {
  switch (bytes_of(t)) {
    case 1: return store_of<uint8_t, uint16_t>(count);
    case 2: return store_of<uint16_t, uint16_t>(count);
    case 4: return store_of<uint32_t, uint32_t>(count);
    default: return store_of<uint64_t, uint64_t>(count);
  }
}

// order_modifiers takes the memory model's words; execution here is sequential.
void order_modifiers(Decoder& d, bool load) {
  int order = d.one_of({"weak", "volatile", "relaxed", load ? "acquire" : "release"});
  if (order >= 2 && d.one_of({"cta", "gpu", "sys", "cluster"}) < 0) d.fail("a memory order lacks its scope");
}

int vector_of(Decoder& d) { return d.has("v4") ? 4 : d.has("v2") ? 2 : 1; }

void check_vector(Decoder& d, Type t, int count, size_t elements) {
  if (bytes_of(t) == 0 || ptx::is_packed(t)) d.fail("no access of ." + std::string(name_of(t)));
  if (elements != static_cast<size_t>(count)) d.fail("the vector has " + std::to_string(elements) + " elements, the instruction " + std::to_string(count));
  if (bytes_of(t) * static_cast<unsigned>(count) > 16) d.fail("an access has at most 16 bytes");
}

// A last operand that is a cache policy has no effect.
void cache_policy(Decoder& d, size_t at) {
  bool hinted = false;
  for (auto m : d.ins().modifiers) hinted |= m == "L2::cache_hint";
  d.want(at, hinted ? at + 1 : at);
  if (d.operands() > at) d.in(at, Type::b64);
}

void ld(Decoder& d) {
  d.has("nc");
  order_modifiers(d, true);
  Space space = space_modifier(d);
  d.has("nc");
  cache_policy(d, 2);
  cache_modifiers(d);
  int count = vector_of(d);
  Type t = d.type();
  auto elements = d.elements(0);
  check_vector(d, t, count, elements.size());
  auto& from = d.operand(1);
  unsigned bytes = bytes_of(t) * static_cast<unsigned>(count);
  Placed p = place_access(d, from, space, bytes);
  std::vector<Ref> outs;
  for (auto* e : elements) outs.push_back(d.out_relaxed(*e, t));
  if (p.form.where == Where::param && from.var && from.var->space == Space::param) {
    if (p.offset < 0 || static_cast<uint64_t>(p.offset) + bytes > d.code().info.param_bytes || p.offset % bytes) d.fail("the access lies outside the parameters, or is misaligned");
    d.put_more(load_handler(t, count, true), outs, {}, p.offset);
    return;
  }
  d.put_more(load_handler(t, count, false), outs, {p.base}, p.offset, p.form.packed());
}

void st(Decoder& d) {
  order_modifiers(d, false);
  Space space = space_modifier(d);
  cache_policy(d, 2);
  cache_modifiers(d);
  int count = vector_of(d);
  Type t = d.type();
  auto elements = d.elements(1);
  check_vector(d, t, count, elements.size());
  unsigned bytes = bytes_of(t) * static_cast<unsigned>(count);
  if (space == Space::constant) d.fail("store to .const");
  Placed p = place_access(d, d.operand(0), space, bytes);
  if (p.form.where == Where::param) d.fail("store to a kernel's parameters");
  std::vector<Ref> ins{p.base};
  for (auto* e : elements) ins.push_back(d.in_relaxed(*e, t));
  d.put_more(store_handler(t, count), {}, ins, p.offset, p.form.packed());
}

int nothing(Warp&, const Inst&) { return kNext; }

void prefetch(Decoder& d) {
  Space space = space_modifier(d);
  d.one_of({"tensormap", "L1", "L2"});
  while (d.has_prefix("L2::") || d.has_prefix("L1::")) {
  }
  d.want(1, 2);
  Address a = d.address(d.operand(0), space);
  d.put(nothing, 0, a.base);
}

void policy(Decoder& d) {
  d.one_of({"fractional", "range"});
  while (d.has_prefix("L2::")) {
  }
  d.type();
  d.want(1, 4);
  d.put(nothing, d.out(0, Type::b64));
}

}  // namespace

const OpEntry kMemoryOps[] = {
    {"ld", ld}, {"ldu", ld}, {"st", st}, {"prefetch", prefetch}, {"prefetchu", prefetch}, {"discard", prefetch}, {"applypriority", prefetch},
    {"createpolicy", policy}, {"", nullptr},
};

}  // namespace softcuda
