// mbarrier, cp.async.bulk, fence.proxy.async, elect and setmaxnreg; see hopper.h.
#include "hopper.h"
#include "access.h"
#include "shared.h"

namespace softcuda {

using ptx::Space;
using ptx::Type;

namespace {

constexpr const char* kKind = "mbarrier";

// How often the warps of the block that this host thread runs have asked since somebody
// last arrived or got through, and how often they may.
thread_local uint32_t asked_in_vain = 0;
constexpr uint32_t kInVain = 1 << 15;

// What a place in shared memory is decoded to: bits of Inst::x.
constexpr uint32_t kNarrow = 1, kGeneric = 2;

struct Place {
  Ref base;
  uint32_t offset, form;
};

Place shared_place(Decoder& d, size_t at, bool generic) {
  Address a = d.address(d.operand(at), generic ? Space::generic : Space::shared);
  // A variable's address in generic space is beyond 32 bits: the window is taken off here.
  bool variable = generic && static_cast<uint64_t>(a.offset) >= kSharedWindow;
  if (variable) a.offset -= static_cast<int64_t>(kSharedWindow);
  if (a.offset < 0 || a.offset > (1 << 30)) d.fail("the offset in shared memory is out of range");
  return {a.base, static_cast<uint32_t>(a.offset), (a.narrow ? kNarrow : 0) | (generic && !variable ? kGeneric : 0)};
}

uint32_t shared_offset(const Warp& w, Slot base, uint32_t offset, uint32_t form, int lane) {
  uint64_t at = form & kNarrow ? src<uint32_t>(w, base)[lane] : src<uint64_t>(w, base)[lane];
  if (form & kGeneric) at -= kSharedWindow;
  at += offset;
  if (form & kNarrow) at = static_cast<uint32_t>(at);
  return at > UINT32_MAX ? UINT32_MAX - 15 : static_cast<uint32_t>(at);
}

int wrong(Warp& w, const Inst& i, int lane, uint32_t at, std::string text) {
  return fault(w, i, lane, at, kKind, kErrorLaunchFailed, "the mbarrier at byte " + std::to_string(at) + " of shared memory: " + std::move(text));
}

// find gives the mbarrier at an offset, or null with the fault filled in.
MemoryBarrier* find(Warp& w, const Inst& i, int lane, uint32_t at) {
  Block& b = *w.block;
  uint32_t places[32];
  places[lane] = at;
  if (shared_read(w, i, places, 1u << lane, 8) != kNext) return nullptr;
  auto it = b.memory_barriers.find(at);
  if (it == b.memory_barriers.end()) {
    wrong(w, i, lane, at, "no mbarrier.init has made one there");
    return nullptr;
  }
  return &it->second;
}

void advance(MemoryBarrier& m) {
  if (m.pending || m.bytes) return;
  m.phase++;
  m.pending = m.expected;
  std::copy(m.now, m.now + kClocks, m.past);
}

int arrive_at(Warp& w, const Inst& i, int lane, uint32_t at, MemoryBarrier& m, uint32_t count) {
  if (count == 0 || count > m.pending)
    return wrong(w, i, lane, at, std::to_string(count) + " arrivals where " + std::to_string(m.pending) + " of " + std::to_string(m.expected) + " are pending");
  asked_in_vain = 0;
  release(w, m.now);
  m.pending -= count;
  advance(m);
  return kNext;
}

// settle lets happen what was begun with a barrier.
int settle(Block& b, uint32_t at, MemoryBarrier& m) {
  std::vector<BulkCopy> mine;
  std::erase_if(b.bulk_copies, [&](const BulkCopy& c) {
    if (c.barrier == at) mine.push_back(c);
    return c.barrier == at;
  });
  for (auto& c : mine) {
    Warp& w = b.warps[static_cast<size_t>(c.warp)];
    const Inst& i = w.code[c.inst];
    if (!c.bytes) {
      uint32_t until[32] = {};
      until[c.lane] = c.tick;
      int status = copies_of(w, 1u << c.lane, until);
      if (status == kNext) status = arrive_at(w, i, c.lane, at, m, 1);
      if (status != kNext) return status;
      continue;
    }
    int status = shared_arrives(w, i, c.lane, c.to, c.bytes, c.tick);
    if (status != kNext) return status;
    memcpy(b.shared + c.to, reinterpret_cast<const void*>(c.from), c.bytes);
    next_tick(b);
    m.now[kClocks - 1] = b.tick;
    m.bytes -= c.bytes;
    advance(m);
  }
  return kNext;
}

// more: base, count; c: the offset.
int init(Warp& w, const Inst& i) {
  for (uint32_t left = w.mask; left; left &= left - 1) {
    int l = __builtin_ctz(left);
    uint32_t at[32];
    at[l] = shared_offset(w, i.more[0], unraw(i.c), i.x, l);
    uint32_t count = src<uint32_t>(w, i.more[1])[l];
    if (count == 0 || count > (1 << 20) - 1) return wrong(w, i, l, at[l], "mbarrier.init for " + std::to_string(count) + " arrivals; 1 to 1048575 are possible");
    uint8_t values[32 * 8] = {};
    int status = shared_write(w, i, at, 1u << l, 8, values);
    if (status != kNext) return status;
    asked_in_vain = 0;
    MemoryBarrier m;
    m.expected = m.pending = count;
    w.block->memory_barriers[at[l]] = m;
  }
  return kNext;
}

int invalidate(Warp& w, const Inst& i) {
  for (uint32_t left = w.mask; left; left &= left - 1) {
    int l = __builtin_ctz(left);
    uint32_t at = shared_offset(w, i.more[0], unraw(i.c), i.x, l);
    if (!find(w, i, l, at)) return kFaulted;
    w.block->memory_barriers.erase(at);
  }
  return kNext;
}

constexpr uint32_t kExpect = 4, kArrive = 8, kState = 16;

// more: (state), base, count or bytes.
int arrive(Warp& w, const Inst& i) {
  int outs = i.x & kState ? 1 : 0;
  for (uint32_t left = w.mask; left; left &= left - 1) {
    int l = __builtin_ctz(left);
    uint32_t at = shared_offset(w, i.more[outs], unraw(i.c), i.x, l), number = src<uint32_t>(w, i.more[outs + 1])[l];
    MemoryBarrier* m = find(w, i, l, at);
    if (!m) return kFaulted;
    uint32_t phase = m->phase;
    if (i.x & kExpect) m->bytes += number;
    if (i.x & kArrive) {
      int status = arrive_at(w, i, l, at, *m, i.x & kExpect ? 1 : number);
      if (status != kNext) return status;
    }
    if (outs) dst<uint64_t>(w, i.more[0])[l] = phase;
  }
  return kNext;
}

constexpr uint32_t kParity = 4;

// more: base, state or parity; a: the predicate.
int wait(Warp& w, const Inst& i) {
  uint32_t done = 0;
  for (uint32_t left = w.mask; left; left &= left - 1) {
    int l = __builtin_ctz(left);
    uint32_t at = shared_offset(w, i.more[0], unraw(i.c), i.x, l);
    MemoryBarrier* m = find(w, i, l, at);
    if (!m) return kFaulted;
    uint64_t phase = i.x & kParity ? src<uint32_t>(w, i.more[1])[l] : src<uint64_t>(w, i.more[1])[l];
    if (i.x & kParity && phase > 1) return wrong(w, i, l, at, "a parity is 0 or 1, not " + std::to_string(phase));
    if (!(i.x & kParity) && phase != m->phase && phase + 1 != m->phase)
      return wrong(w, i, l, at, "the state is neither of the current phase nor of the one before");
    auto over = [&] { return i.x & kParity ? (m->phase & 1) != phase : m->phase != phase; };
    if (!over()) {
      int status = settle(*w.block, at, *m);
      if (status != kNext) return status;
    }
    if (!over()) continue;
    asked_in_vain = 0;
    acquire(w, m->past);
    done |= 1u << l;
  }
  uint32_t p = unraw(i.a);
  w.preds[p] = (w.preds[p] & ~w.mask) | done;
  if (done == w.mask) return kNext;
  // Somebody else must come first; but not for ever.
  if (++asked_in_vain > kInVain) {
    int l = __builtin_ctz(w.mask & ~done);
    uint32_t at = shared_offset(w, i.more[0], unraw(i.c), i.x, l);
    MemoryBarrier& m = w.block->memory_barriers[at];
    return fault(w, i, l, at, "timeout", kErrorLaunchTimeout,
                 "the mbarrier at byte " + std::to_string(at) + " of shared memory was asked too often: its phase " + std::to_string(m.phase) + " lacks " +
                     std::to_string(m.pending) + " arrivals and " + std::to_string(m.bytes) + " bytes");
  }
  return kYield;
}

void scope(Decoder& d, std::initializer_list<std::string_view> orders) {
  d.one_of(orders);
  d.one_of({"cta", "cluster"});
}

// is_generic takes the state space.
bool is_generic(Decoder& d) {
  if (d.has("shared::cluster")) d.fail("barriers of other blocks of a cluster are not supported");
  return !(d.has("shared") || d.has("shared::cta"));
}

void mbarrier(Decoder& d) {
  d.code().named_barriers = d.code().async_proxy = true;
  int what = d.one_of({"init", "inval", "arrive", "arrive_drop", "expect_tx", "complete_tx", "test_wait", "try_wait", "pending_count"});
  if (what < 0 || what == 3 || what == 5 || what == 8) d.fail("of mbarrier only .init, .inval, .arrive, .expect_tx, .test_wait and .try_wait are supported");
  bool expect = what == 2 && d.has("expect_tx"), parity = what >= 6 && d.has("parity");
  if (what >= 2 && what < 6) scope(d, {"release", "relaxed"});
  if (what >= 6) scope(d, {"acquire", "relaxed"});
  bool generic = is_generic(d);
  if (d.type() != Type::b64) d.fail("mbarrier wants .b64");
  std::vector<Ref> outs, ins;
  size_t at = 0;
  uint32_t x = 0;
  Handler fn = nullptr;
  switch (what) {
    case 0: d.want(2), fn = init; break;
    case 1: d.want(1), fn = invalidate; break;
    case 2:
      d.want(expect ? 3 : 2, 3), fn = arrive, at = 1, x = kArrive | (expect ? kExpect : 0);
      if (d.operand(0).kind != ptx::Operand::sink) outs.push_back(d.out(0, Type::b64)), x |= kState;
      break;
    case 4: d.want(2), fn = arrive, x = kExpect; break;
    default: d.want(3, what == 7 ? 4 : 3), fn = wait, at = 1, x = parity ? kParity : 0; break;
  }
  Place p = shared_place(d, at, generic);
  ins.push_back(p.base);
  if (what == 0 || what == 4) ins.push_back(d.in(1, Type::u32));
  if (what == 2) ins.push_back(d.operands() == 3 ? d.in(2, Type::u32) : d.constant(1, 4));
  if (what >= 6) ins.push_back(parity ? d.in(2, Type::b32) : d.in(2, Type::b64));
  if (what == 7 && d.operands() == 4) d.in(3, Type::u32);  // How long it may sleep.
  uint32_t predicate = what >= 6 ? d.pred_out(d.operand(0)) : 0;
  Inst& i = d.put_more(fn, outs, ins, 0, x | p.form);
  i.a = raw(predicate);
  i.c = raw(p.offset);
}

// ---- copies ----

// more: to, from, bytes, barrier; imm: offset of the source; a, b: of the others; x: the
// form of the destination, and two bits higher that of the barrier.
int begin_bulk(Warp& w, const Inst& i) {
  Block& b = *w.block;
  for (uint32_t left = w.mask; left; left &= left - 1) {
    int l = __builtin_ctz(left);
    BulkCopy c;
    c.to = shared_offset(w, i.more[0], unraw(i.a), i.x & 3, l);
    c.from = src<uint64_t>(w, i.more[1])[l] + static_cast<uint64_t>(i.imm);
    c.bytes = src<uint32_t>(w, i.more[2])[l];
    c.barrier = shared_offset(w, i.more[3], unraw(i.b), i.x >> 2, l);
    c.warp = w.id, c.lane = l, c.inst = w.pc - 1;
    if (c.bytes == 0 || c.bytes % 16)
      return fault(w, i, l, c.from, "launch", kErrorIllegalInstruction, "cp.async.bulk of " + std::to_string(c.bytes) + " bytes, which is no multiple of 16");
    if (c.from % 16 || c.to % 16)
      return fault(w, i, l, c.from % 16 ? c.from : c.to, "misaligned", kErrorMisalignedAddress, "cp.async.bulk wants both addresses to be multiples of 16");
    if (!find(w, i, l, c.barrier)) return kFaulted;
    int status = global_source(w, i, l, c.from, c.bytes);
    if (status == kNext) status = shared_free(w, i, l, c.to, c.bytes);
    if (status != kNext) return status;
    // Copies are not ordered among each other.
    for (auto& o : b.bulk_copies)
      if (o.bytes && o.to < c.to + c.bytes && c.to < o.to + o.bytes)
        return fault(w, i, l, c.to, "race", kErrorLaunchFailed, "two bulk copies to shared memory at byte " + std::to_string(std::max(o.to, c.to)) + " at once");
    next_tick(b);
    c.tick = b.tick;
    b.bulk_copies.push_back(c);
    b.counters.global_load_bytes += c.bytes;
    b.counters.global_load_sectors += (c.from + c.bytes - 1) / 32 - c.from / 32 + 1;
  }
  return kNext;
}

// more: base; imm: 1 for .noinc.
int follow_copies(Warp& w, const Inst& i) {
  for (uint32_t left = w.mask; left; left &= left - 1) {
    int l = __builtin_ctz(left);
    BulkCopy c;
    c.barrier = shared_offset(w, i.more[0], unraw(i.c), i.x, l);
    MemoryBarrier* m = find(w, i, l, c.barrier);
    if (!m) return kFaulted;
    if (!i.imm) m->pending++;
    c.warp = w.id, c.lane = l, c.inst = w.pc - 1;
    c.tick = ++w.copy_group[l];
    w.block->bulk_copies.push_back(c);
  }
  return kNext;
}

int fence_proxy(Warp& w, const Inst&) {
  Block& b = *w.block;
  next_tick(b);
  for (int v = 0; v < b.warp_count; v++) b.fenced[w.id][v] = std::max(b.fenced[w.id][v], b.seen[w.id][v]);
  b.fenced[w.id][w.id] = b.tick;
  return kNext;
}

// ---- small ones ----

// a: the members; x: the predicate.
int elect(Warp& w, const Inst& i) {
  uint32_t members = src<uint32_t>(w, i.a)[__builtin_ctz(w.mask)];
  if (members != w.mask)
    return fault(w, i, -1, 0, "warp-sync", kErrorLaunchFailed, "elect.sync must be executed by all lanes of its mask, and by no others");
  auto leader = static_cast<uint32_t>(__builtin_ctz(members));
  lanes(dst<uint32_t>(w, i.d), w.mask, [=](int) { return leader; });
  w.preds[i.x] = (w.preds[i.x] & ~w.mask) | 1u << leader;
  return kNext;
}

void elect_instruction(Decoder& d) {
  if (!d.has("sync")) d.fail("elect wants .sync");
  d.want(2);
  auto& out = d.operand(0);
  if (!out.second) d.fail("elect.sync gives a lane and a predicate: d|p");
  Ref members = d.in(1, Type::b32);
  uint32_t p = d.pred_out(*out.second);
  d.put(elect, d.out(out, Type::b32), members, 0, 0, 0, p);
}

int registers(Warp& w, const Inst& i) {
  if (w.mask == ~0u) return kNext;
  return fault(w, i, -1, 0, "warp-sync", kErrorLaunchFailed, "setmaxnreg must be executed by all lanes of a warp");
}

void setmaxnreg(Decoder& d) {
  if (d.one_of({"inc", "dec"}) < 0 || !d.has("sync") || !d.has("aligned") || d.type() != Type::u32) d.fail("setmaxnreg wants .inc or .dec and .sync.aligned.u32");
  d.want(1);
  if (d.immediate(0, 24, 256, "the number of registers") % 8) d.fail("setmaxnreg wants a multiple of 8");
  d.put(registers, 0);
}

}  // namespace

void bulk_copy(Decoder& d) {
  d.code().named_barriers = d.code().async_proxy = true;
  if (d.one_of({"tensor", "prefetch", "commit_group", "wait_group"}) >= 0 || d.has("bulk_group"))
    d.fail("of bulk copies only cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes is supported");
  if (!(d.has("shared::cluster") || d.has("shared::cta")) || !d.has("global") || !d.has("mbarrier::complete_tx::bytes"))
    d.fail("of bulk copies only cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes is supported");
  bool hinted = d.has("L2::cache_hint");
  d.want(hinted ? 5 : 4);
  Place to = shared_place(d, 0, false), barrier = shared_place(d, 3, false);
  Address from = d.address(d.operand(1), Space::global);
  if (hinted) d.in(4, Type::b64);
  Inst& i = d.put_more(begin_bulk, {}, {to.base, from.base, d.in(2, Type::u32), barrier.base}, from.offset, to.form | barrier.form << 2);
  i.a = raw(to.offset);
  i.b = raw(barrier.offset);
}

void copies_arrive(Decoder& d) {
  d.code().named_barriers = d.code().async_proxy = true;
  if (!d.has("arrive")) d.fail("cp.async.mbarrier wants .arrive");
  bool plain = !d.has("noinc"), generic = is_generic(d);
  if (d.type() != Type::b64) d.fail("cp.async.mbarrier.arrive wants .b64");
  d.want(1);
  Place p = shared_place(d, 0, generic);
  d.put_more(follow_copies, {}, {p.base}, plain ? 0 : 1, p.form).c = raw(p.offset);
}

void proxy_fence(Decoder& d) {
  if (!d.has("async")) d.fail("of fence.proxy only .async is supported");
  d.one_of({"global", "shared::cta", "shared::cluster"});
  d.want(0);
  d.put(fence_proxy, 0);
}

int async_end(Block& b) {
  for (auto& c : b.bulk_copies) {
    if (!c.bytes) continue;
    Warp& w = b.warps[static_cast<size_t>(c.warp)];
    return wrong(w, w.code[c.inst], c.lane, c.barrier, "the block has ended, and nobody has waited for a bulk copy of " + std::to_string(c.bytes) + " bytes");
  }
  for (int k = 0; k < b.warp_count; k++) {
    Warp& w = b.warps[static_cast<size_t>(k)];
    if (w.reads.empty()) continue;
    return fault(w, w.code[w.reads[0].inst], 0, w.reads[0].at, "wgmma", kErrorLaunchFailed, "the block has ended, and nobody has waited for a wgmma.mma_async");
  }
  return kNext;
}

const OpEntry kBarrierOps[] = {{"mbarrier", mbarrier}, {"elect", elect_instruction}, {"setmaxnreg", setmaxnreg}, {"", nullptr}};

}  // namespace softcuda
