// Instructions of a whole warp or block: shuffles, votes, reductions, barriers.
#include <algorithm>

#include "access.h"
#include "shared.h"

namespace softcuda {

using ptx::Operand;
using ptx::Type;

namespace {

std::string hex(uint32_t v) {
  char text[16];
  snprintf(text, sizeof text, "0x%x", v);
  return text;
}

// check_members: every lane that executes must be in its mask, all must give the same
// mask, and every lane in it must be here.
int check_members(Warp& w, const Inst& i, const uint32_t* members, const char* what) {
  uint32_t bad = 0, uniform = members[__builtin_ctz(w.mask)];
  if (uniform == ~0u && w.mask == ~0u) {
    for (int l = 0; l < 32; l++) bad |= members[l] ^ uniform;
    if (!bad) return kNext;
  } else if (uniform == w.mask) {
    for (int l = 0; l < 32; l++) bad |= (w.mask >> l & 1) ? members[l] ^ uniform : 0;
    if (!bad) return kNext;
  }
  for (uint32_t left = w.mask; left; left &= left - 1) {
    int l = __builtin_ctz(left);
    if (!(members[l] >> l & 1)) return fault(w, i, l, 0, "warp-sync", kErrorLaunchFailed, std::string(what) + " by a lane that its mask " + hex(members[l]) + " does not name");
    uint32_t missing = members[l] & ~w.mask;
    if (!missing) continue;
    std::string who = missing & ~w.born ? "do not exist" : missing & ~w.live ? "have exited" : "are elsewhere (diverged)";
    return fault(w, i, l, 0, "warp-sync", kErrorLaunchFailed, std::string(what) + " with mask " + hex(members[l]) + ": lanes " + hex(missing) + " " + who);
  }
  // What is left: groups of lanes, each with its own mask of exactly its lanes.
  for (uint32_t left = w.mask; left; left &= left - 1) {
    int l = __builtin_ctz(left);
    for (uint32_t g = members[l]; g; g &= g - 1)
      if (members[__builtin_ctz(g)] != members[l])
        return fault(w, i, l, 0, "warp-sync", kErrorLaunchFailed, std::string(what) + ": lanes of one mask give different masks");
  }
  return kNext;
}

// ---- shfl ----

enum Shuffle { up, down, bfly, idx };

// more: d, a, b, c, members; x: the predicate, 0 for none.
template <int kMode>
int shuffle(Warp& w, const Inst& i) {
  const uint32_t* members = src<uint32_t>(w, i.more[4]);
  int status = check_members(w, i, members, "shfl.sync");
  if (status != kNext) return status;
  alignas(64) uint32_t a[32], r[32];
  memcpy(a, src<uint32_t>(w, i.more[1]), sizeof a);
  const uint32_t *b = src<uint32_t>(w, i.more[2]), *c = src<uint32_t>(w, i.more[3]);
  uint32_t inside = 0, from = 0;
  for (int l = 0; l < 32; l++) {
    int by = static_cast<int>(b[l] & 31), clamp = static_cast<int>(c[l] & 31), segment = static_cast<int>(c[l] >> 8 & 31);
    int most = (l & segment) | (clamp & ~segment), least = l & segment, j = 0;
    bool p = false;
    switch (kMode) {
      case up: j = l - by, p = j >= most; break;
      case down: j = l + by, p = j <= most; break;
      case bfly: j = l ^ by, p = j <= most; break;
      default: j = least | (by & ~segment), p = j <= most; break;
    }
    if (!p) j = l;
    r[l] = a[j & 31];
    inside |= p ? 1u << l : 0;
    from |= (w.mask >> l & 1) && !(w.mask >> (j & 31) & 1) ? 1u << l : 0;
  }
  if (from)
    return fault(w, i, __builtin_ctz(from), 0, "warp-sync", kErrorLaunchFailed, "shfl.sync reads a lane that does not take part");
  lanes(dst<uint32_t>(w, i.more[0]), w.mask, [&](int l) { return r[l]; });
  if (i.x) w.preds[i.x] = (w.preds[i.x] & ~w.mask) | (inside & w.mask);
  return kNext;
}

void shfl(Decoder& d) {
  if (!d.has("sync")) d.fail("shfl without .sync is not for this target");
  int mode = d.one_of({"up", "down", "bfly", "idx"});
  if (mode < 0 || d.type() != Type::b32) d.fail("shfl wants its mode and .b32");
  d.want(5);
  std::vector<Ref> ins = {d.in(1, Type::b32), d.in(2, Type::b32), d.in(3, Type::b32), d.in(4, Type::b32)};
  auto& out = d.operand(0);
  uint32_t p = out.second ? d.pred_out(*out.second) : 0;
  Handler fn = mode == 0 ? shuffle<up> : mode == 1 ? shuffle<down> : mode == 2 ? shuffle<bfly> : shuffle<idx>;
  d.put_more(fn, {d.out(out, Type::b32)}, ins, 0, p);
}

// ---- vote, match, redux ----

int vote(Warp& w, const Inst& i) {
  const uint32_t* members = src<uint32_t>(w, i.c);
  int status = check_members(w, i, members, "vote.sync");
  if (status != kNext) return status;
  uint32_t p = w.preds[unraw(i.a)] ^ static_cast<uint32_t>(i.imm);
  uint32_t* d = i.x == 3 ? dst<uint32_t>(w, i.d) : nullptr;
  uint32_t bits = 0;
  alignas(64) uint32_t m[32];
  memcpy(m, members, sizeof m);
  each_lane(w.mask, [&](int l) {
    uint32_t yes = p & m[l];
    bool r = i.x == 0 ? yes == m[l] : i.x == 1 ? yes != 0 : yes == 0 || yes == m[l];
    bits |= r ? 1u << l : 0;
    if (d) d[l] = yes;
  });
  if (!d) w.preds[unraw(i.b)] = (w.preds[unraw(i.b)] & ~w.mask) | bits;
  return kNext;
}

void vote_instruction(Decoder& d) {
  if (!d.has("sync")) d.fail("vote without .sync is not for this target");
  int mode = d.one_of({"all", "any", "uni", "ballot"});
  Type t = d.type();
  d.want(3);
  if (mode < 0 || t != (mode == 3 ? Type::b32 : Type::pred)) d.fail("vote wants .all, .any or .uni and .pred, or .ballot and .b32");
  PredRef p = d.pred_in(d.operand(1));
  Ref members = d.in(2, Type::b32);
  if (mode == 3) d.put(vote, d.out(0, Type::b32), raw(p.index), 0, members, p.flip, 3);
  else d.put(vote, 0, raw(p.index), raw(d.pred_out(d.operand(0))), members, p.flip, static_cast<uint32_t>(mode));
}

template <class T>
int match(Warp& w, const Inst& i) {
  const uint32_t* members = src<uint32_t>(w, i.more[2]);
  int status = check_members(w, i, members, "match.sync");
  if (status != kNext) return status;
  alignas(64) T a[32];
  uint32_t m[32];
  memcpy(a, src<T>(w, i.more[1]), sizeof a);
  memcpy(m, members, sizeof m);
  uint32_t* d = dst<uint32_t>(w, i.more[0]);
  uint32_t all = 0;
  bool any = i.imm != 0;
  each_lane(w.mask, [&](int l) {
    uint32_t same = 0;
    each_lane(m[l], [&](int o) { same |= a[o] == a[l] ? 1u << o : 0; });
    bool whole = same == m[l];
    d[l] = any ? same : whole ? m[l] : 0;
    all |= whole ? 1u << l : 0;
  });
  if (i.x) w.preds[i.x] = (w.preds[i.x] & ~w.mask) | all;
  return kNext;
}

void match_instruction(Decoder& d) {
  int mode = d.one_of({"all", "any"});
  if (mode < 0 || !d.has("sync")) d.fail("match wants .any or .all and .sync");
  Type t = d.type();
  if (t != Type::b32 && t != Type::b64) d.fail("match takes .b32 or .b64");
  d.want(3);
  std::vector<Ref> ins = {d.in(1, t), d.in(2, Type::b32)};
  auto& out = d.operand(0);
  uint32_t p = out.second ? d.pred_out(*out.second) : 0;
  d.put_more(t == Type::b32 ? match<uint32_t> : match<uint64_t>, {d.out(out, Type::b32)}, ins, mode, p);
}

template <class T>
int reduce(Warp& w, const Inst& i) {
  const uint32_t* members = src<uint32_t>(w, i.b);
  int status = check_members(w, i, members, "redux.sync");
  if (status != kNext) return status;
  alignas(64) T a[32];
  uint32_t m[32];
  memcpy(a, src<T>(w, i.a), sizeof a);
  memcpy(m, members, sizeof m);
  T* d = dst<T>(w, i.d);
  each_lane(w.mask, [&](int l) {
    bool first = true;
    T r = 0;
    each_lane(m[l], [&](int o) {
      if (first) r = a[o];
      else
        switch (i.imm) {
          case 0: r = static_cast<T>(static_cast<uint32_t>(r) + static_cast<uint32_t>(a[o])); break;
          case 1: r = std::min(r, a[o]); break;
          case 2: r = std::max(r, a[o]); break;
          case 3: r &= a[o]; break;
          case 4: r |= a[o]; break;
          default: r ^= a[o]; break;
        }
      first = false;
    });
    d[l] = r;
  });
  return kNext;
}

void redux(Decoder& d) {
  if (!d.has("sync")) d.fail("redux without .sync");
  int op = d.one_of({"add", "min", "max", "and", "or", "xor"});
  Type t = d.type();
  bool arithmetic = op >= 0 && op < 3;
  if (op < 0 || (arithmetic ? t != Type::u32 && t != Type::s32 : t != Type::b32)) d.fail("redux.sync wants an operation and .u32, .s32 or .b32");
  d.want(3);
  Ref a = d.in(1, t), m = d.in(2, Type::b32);
  d.put(t == Type::s32 ? reduce<int32_t> : reduce<uint32_t>, d.out(0, t), a, m, 0, op);
}

// ---- barriers ----

int warp_barrier(Warp& w, const Inst& i) {
  const uint32_t* members = src<uint32_t>(w, i.a);
  int status = check_members(w, i, members, "bar.warp.sync");
  if (status != kNext) return status;
  // A barrier of some lanes orders these only; the race check takes it for all.
  order_warp(w);
  return kNext;
}

enum BarrierKind { sync, arrive, red_popc, red_and, red_or };

void release(Block& b, int id) {
  Barrier& bar = b.barriers[id];
  each_lane(bar.waiting, [&](int v) {
    Warp& other = b.warps[static_cast<size_t>(v)];
    other.state = Warp::ready;
    if (other.red_kind >= red_popc) {
      uint32_t value = bar.value;
      bool whole = value == bar.arrived;
      if (other.red_kind == red_popc)
        lanes(dst<uint32_t>(other, other.red_to), other.active, [=](int) { return value; });
      else {
        bool r = other.red_kind == red_and ? whole : value != 0;
        other.preds[other.red_to] = (other.preds[other.red_to] & ~other.active) | (r ? other.active : 0);
      }
    }
  });
  order_warps(b, bar.warps);
  bar = Barrier{};
}

// a: the barrier, b: threads (when x bit 8 is set); x: kind; c: of bar.red, the
// predicate; imm: its flip and the result.
int barrier(Warp& w, const Inst& i) {
  Block& b = *w.block;
  auto kind = static_cast<BarrierKind>(i.x & 0xff);
  bool counted = i.x & 0x100;
  int first = __builtin_ctz(w.mask);
  uint32_t id = src<uint32_t>(w, i.a)[first], expected = counted ? src<uint32_t>(w, i.b)[first] : b.threads;
  uint32_t lanes_here = w.mask;
  auto wrong = [&](std::string text) { return fault(w, i, -1, 0, "barrier", kErrorLaunchFailed, std::move(text)); };
  if (id >= kBarriers) return wrong("barrier " + std::to_string(id) + " of 16");
  if (lanes_here != w.live)
    return wrong("barrier in diverged code: of the warp's lanes " + hex(w.live) + " only " + hex(lanes_here) + " are here");
  if (!counted && w.live != w.born) return wrong("barrier after some lanes of the warp have exited");
  if (!counted)
    for (int v = 0; v < b.warp_count; v++)
      if (b.warps[static_cast<size_t>(v)].live != b.warps[static_cast<size_t>(v)].born)
        return wrong("barrier that " + std::to_string(b.threads) + " threads must reach, but threads of warp " + std::to_string(v) + " have exited");
  if (expected == 0 || (counted && expected % 32)) return wrong("a barrier's number of threads is a multiple of 32");
  Barrier& bar = b.barriers[id];
  if (bar.expected && bar.expected != expected)
    return wrong("barrier " + std::to_string(id) + " is waited at with " + std::to_string(bar.expected) + " threads and with " + std::to_string(expected));
  if (bar.warps >> w.id & 1) return wrong("the warp arrives twice at barrier " + std::to_string(id));
  b.counters.barriers++;
  bar.expected = expected;
  // Barriers count whole warps where they are given a number.
  bar.arrived += counted ? 32 : static_cast<uint32_t>(__builtin_popcount(w.live));
  bar.warps |= 1u << w.id;
  bar.line = i.line;
  w.red_kind = static_cast<uint8_t>(kind);
  if (kind >= red_popc) {
    uint32_t p = w.preds[unraw(i.c)] ^ static_cast<uint32_t>(i.imm);
    bar.value += static_cast<uint32_t>(__builtin_popcount(p & w.live));
    w.red_to = kind == red_popc ? i.d : static_cast<uint32_t>(i.imm >> 32);
  }
  if (kind != arrive) bar.waiting |= 1u << w.id;
  if (bar.arrived > expected) return wrong("more threads than " + std::to_string(expected) + " arrive at barrier " + std::to_string(id));
  if (bar.arrived == expected) {
    release(b, static_cast<int>(id));
    return kNext;
  }
  if (kind == arrive) return kNext;
  w.state = Warp::waiting;
  w.barrier = static_cast<int>(id);
  return kBlocked;
}

void barrier_instruction(Decoder& d, bool bar) {
  d.one_of({"cta"});
  if (bar && d.has("warp")) {
    if (!d.has("sync")) d.fail("bar.warp wants .sync");
    d.want(1);
    d.put(warp_barrier, 0, d.in(0, Type::b32));
    return;
  }
  if (d.one_of({"cluster"}) >= 0) d.fail("barriers of clusters are not supported");
  int what = d.one_of({"sync", "arrive", "red"});
  d.has("aligned");
  if (what < 0) d.fail("a barrier wants .sync, .arrive or .red");
  auto threads = [&](size_t at) {
    d.code().named_barriers = true;
    return d.in(at, Type::u32);
  };
  if (what < 2) {
    d.want(what == 1 ? 2 : 1, 2);
    Ref id = d.in(0, Type::u32);
    Ref count = d.operands() > 1 ? threads(1) : 0;
    d.put(barrier, 0, id, count, 0, 0, static_cast<uint32_t>(what == 0 ? sync : arrive) | (d.operands() > 1 ? 0x100u : 0));
    return;
  }
  int op = d.one_of({"popc", "and", "or"});
  Type t = d.type();
  if (op < 0 || t != (op == 0 ? Type::u32 : Type::pred)) d.fail("bar.red wants .popc.u32, .and.pred or .or.pred");
  d.want(3, 4);
  Ref id = d.in(1, Type::u32);
  bool counted = d.operands() == 4;
  Ref count = counted ? threads(2) : 0;
  PredRef p = d.pred_in(d.operand(counted ? 3 : 2));
  uint32_t x = static_cast<uint32_t>(op == 0 ? red_popc : op == 1 ? red_and : red_or) | (counted ? 0x100u : 0);
  if (op == 0) d.put(barrier, d.out(0, Type::u32), id, count, raw(p.index), p.flip, x);
  else d.put(barrier, 0, id, count, raw(p.index), static_cast<int64_t>(p.flip | static_cast<uint64_t>(d.pred_out(d.operand(0))) << 32), x);
}
void bar(Decoder& d) { barrier_instruction(d, true); }
void barrier_long(Decoder& d) { barrier_instruction(d, false); }

}  // namespace

const OpEntry kWarpOps[] = {
    {"shfl", shfl}, {"vote", vote_instruction}, {"match", match_instruction}, {"redux", redux}, {"bar", bar}, {"barrier", barrier_long}, {"", nullptr},
};

}  // namespace softcuda
