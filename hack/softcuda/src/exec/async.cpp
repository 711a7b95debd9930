// cp.async: bytes reach shared memory when the thread waits for them, not before, so
// that a kernel that forgets to wait reads what was there.
#include "access.h"
#include "hopper.h"
#include "shared.h"

namespace softcuda {

using ptx::Operand;
using ptx::Space;
using ptx::Type;

namespace {

// more: destination base (32 or 64 bits), source base, source size; imm: offset of the
// source; target: -2 - offset of the destination; x: bytes, flags.
constexpr uint32_t kNarrowTo = 1 << 8, kPredicate = 1 << 9, kWindow = 1 << 10;

// within says that an aligned source lies in the allocation of the lane before, and is
// written.
bool within(const Allocation* owner, const Warp& w, uint64_t address, unsigned bytes) {
  if (!owner || address - owner->base >= owner->bytes || bytes > owner->bytes - (address - owner->base)) return false;
  const uint8_t* bits = w.block->memory->bits(address);
  if (bytes == 16) return bits[0] == 0xff && bits[1] == 0xff;
  return bytes == 8 && bits[0] == 0xff;
}

int copy(Warp& w, const Inst& i) {
  unsigned bytes = i.x & 0xff;
  uint32_t offset = static_cast<uint32_t>(-2 - i.target), ignored = 0;
  if (i.x & kPredicate) ignored = w.preds[unraw(i.a)] ^ static_cast<uint32_t>(unraw(i.b) ? ~0u : 0);
  AsyncCopy& c = w.new_copy();
  c.pending = w.mask;
  c.bytes = bytes;
  c.inst = w.pc - 1;
  const uint64_t* from = src<uint64_t>(w, i.more[1]);
  const uint32_t* size = src<uint32_t>(w, i.more[2]);
  uint64_t at[32];
  uint32_t sources = 0;
  const Allocation* owner = nullptr;
  for (uint32_t left = w.mask; left; left &= left - 1) {
    int l = __builtin_ctz(left);
    uint64_t to = i.x & kNarrowTo ? src<uint32_t>(w, i.more[0])[l] : src<uint64_t>(w, i.more[0])[l];
    if (i.x & kWindow && to - kSharedWindow < kSharedWindowBytes) to -= kSharedWindow;
    to += offset;
    c.dst[l] = to > UINT32_MAX ? UINT32_MAX - 15 : static_cast<uint32_t>(to);
    c.src[l] = from[l] + static_cast<uint64_t>(i.imm);
    c.size[l] = ignored >> l & 1 ? 0 : size[l];
    c.group[l] = w.copy_group[l];
    if (c.size[l] > bytes)
      return fault(w, i, l, c.src[l], "launch", kErrorIllegalInstruction, "cp.async of " + std::to_string(bytes) + " bytes with a source of " + std::to_string(c.size[l]));
    if (c.src[l] % bytes)
      return fault(w, i, l, c.src[l], "misaligned", kErrorMisalignedAddress, "the source of cp.async of " + std::to_string(bytes) + " bytes");
    int status = shared_will_write(w, i, l, c.dst[l], bytes);
    if (status == kNext && c.size[l] && !(c.size[l] == bytes && within(owner, w, c.src[l], bytes))) {
      status = global_source(w, i, l, c.src[l], c.size[l]);
      owner = w.block->memory->find(c.src[l]);
    }
    if (status != kNext) return status;
    at[l] = c.src[l];
    if (c.size[l]) sources |= 1u << l;
  }
  if (sources) count_global(w, at, sources, bytes, false);
  return kNext;
}

}  // namespace

int copies_of(Warp& w, uint32_t m, const uint32_t* until) {
  size_t kept = 0;
  for (AsyncCopy* c : w.copies) {
    uint32_t now = 0;
    for (int l = 0; l < 32; l++) now |= c->group[l] < until[l] ? 1u << l : 0;
    now &= c->pending & m;
    if (now) {
      // The sources were checked when the copy began.
      alignas(16) uint8_t values[32 * 16];
      each_lane(now, [&](int l) {
        uint8_t* v = values + static_cast<size_t>(l) * c->bytes;
        if (c->size[l] == 16) {
          memcpy(v, reinterpret_cast<const void*>(c->src[l]), 16);
          return;
        }
        memset(v, 0, c->bytes);
        memcpy(v, reinterpret_cast<const void*>(c->src[l]), c->size[l]);
      });
      int status = shared_write(w, w.code[c->inst], c->dst, now, c->bytes, values);
      if (status != kNext) return status;
      each_lane(now, [&](int l) {
        uint8_t* to = w.block->shared + c->dst[l];
        if (c->bytes == 16) memcpy(to, values + static_cast<size_t>(l) * 16, 16);
        else memcpy(to, values + static_cast<size_t>(l) * c->bytes, c->bytes);
      });
      c->pending &= ~now;
    }
    if (c->pending) w.copies[kept++] = c;
    else w.spare_copies.push_back(c);
  }
  w.copies.resize(kept);
  return kNext;
}

namespace {

int commit(Warp& w, const Inst&) {
  each_lane(w.mask, [&](int l) { w.copy_group[l]++; });
  return kNext;
}

int wait_group(Warp& w, const Inst& i) {
  uint32_t until[32];
  auto rest = static_cast<uint32_t>(i.imm);
  for (int l = 0; l < 32; l++) until[l] = w.copy_group[l] > rest ? w.copy_group[l] - rest : 0;
  return copies_of(w, w.mask, until);
}

int wait_all(Warp& w, const Inst&) {
  uint32_t until[32];
  for (int l = 0; l < 32; l++) until[l] = ++w.copy_group[l];
  return copies_of(w, w.mask, until);
}

void cp(Decoder& d) {
  if (d.has("reduce")) d.fail("bulk reductions are not supported");
  if (!d.has("async")) d.fail("cp without .async");
  if (d.has("bulk")) return bulk_copy(d);
  if (d.has("mbarrier")) return copies_arrive(d);
  if (d.has("commit_group")) {
    d.want(0);
    d.put(commit, 0);
    return;
  }
  if (d.has("wait_group")) {
    d.want(1);
    d.put(wait_group, 0, 0, 0, 0, d.immediate(0, 0, 1 << 20, "the number of groups"));
    return;
  }
  if (d.has("wait_all")) {
    d.want(0);
    d.put(wait_all, 0);
    return;
  }
  int cache = d.one_of({"ca", "cg"});
  if (cache < 0 || !(d.has("shared") || d.has("shared::cta")) || !d.has("global")) d.fail("cp.async wants .ca or .cg and .shared.global");
  bool hinted = false;
  for (auto m : d.ins().modifiers) hinted |= m == "L2::cache_hint";
  while (d.has_prefix("L2::")) {
  }
  d.want(3, 5);
  int64_t bytes = d.immediate(2, 4, 16, "the size of cp.async");
  if (bytes != 4 && bytes != 8 && bytes != 16) d.fail("cp.async copies 4, 8 or 16 bytes");
  if (cache == 1 && bytes != 16) d.fail("cp.async.cg copies 16 bytes");
  Address to = d.address(d.operand(0), Space::shared), from = d.address(d.operand(1), Space::global);
  auto b = static_cast<unsigned>(bytes);
  uint32_t x = b | (to.narrow ? kNarrowTo : 0);
  Ref size = d.constant(b, 4);
  PredRef ignore;
  size_t extra = d.operands() - (hinted ? 1 : 0);
  if (hinted && d.operands() < 4) d.fail(".L2::cache_hint wants its policy");
  if (hinted) d.in(d.operands() - 1, Type::b64);
  if (extra > 4) d.fail("too many operands");
  if (extra == 4) {
    if (d.is_predicate(d.operand(3))) {
      ignore = d.pred_in(d.operand(3));
      x |= kPredicate;
    } else {
      size = d.in(3, Type::u32);
    }
  }
  if (to.offset < 0 || to.offset > (1 << 30)) {
    // Negative offsets wrap in 32 bits, as the address does.
    if (!to.narrow) d.fail("the offset of the destination is out of range");
  }
  Inst& i = d.put_more(copy, {}, {to.base, from.base, size}, from.offset, x);
  i.a = raw(ignore.index);
  i.b = raw(ignore.flip ? 1 : 0);
  i.target = -2 - static_cast<int32_t>(to.offset);
}

}  // namespace

const OpEntry kAsyncOps[] = {{"cp", cp}, {"", nullptr}};

}  // namespace softcuda
