#include "access.h"

#include <algorithm>

#include "shared.h"

namespace softcuda {

using ptx::Operand;
using ptx::Space;

namespace {

std::string hex(uint64_t v) {
  char text[32];
  snprintf(text, sizeof text, "0x%llx", static_cast<unsigned long long>(v));
  return text;
}

int wild(Warp& w, const Inst& i, int lane, uint64_t address, unsigned bytes, const char* verb) {
  std::string kind;
  std::string why = w.block->memory->explain(address, bytes, &kind);
  return fault(w, i, lane, address, kind.c_str(), kErrorIllegalAddress, std::string(verb) + ": " + why);
}

int bad_global(Warp& w, const Inst& i, int lane, uint64_t address, unsigned bytes, const char* verb) {
  if (address % bytes)
    return fault(w, i, lane, address, "misaligned", kErrorMisalignedAddress, std::string(verb) + " of " + std::to_string(bytes) + " bytes at " + hex(address));
  return wild(w, i, lane, address, bytes, verb);
}

int read_only(Warp& w, const Inst& i, int lane, uint64_t address) {
  return fault(w, i, lane, address, "read-only", kErrorIllegalAddress, "store to constant memory at " + hex(address));
}

int unwritten(Warp& w, const Inst& i, int lane, uint64_t address, unsigned bytes) {
  Memory& m = *w.block->memory;
  uint64_t first = m.first_unwritten(address, bytes);
  const Allocation* a = m.find(address);
  return fault(w, i, lane, first, "uninitialised", kErrorLaunchFailed,
               "load of " + std::to_string(bytes) + " bytes at " + hex(address) + ": nothing wrote byte " + std::to_string(first - a->base) + " of allocation " +
                   std::to_string(a->serial) + " of " + std::to_string(a->bytes) + " bytes");
}

const char* verb(Kind k) { return k == Kind::load ? "load" : k == Kind::store ? "store" : "atomic access"; }

// Lanes that hold whole bytes of bits, or a part of one, are marked without a call.
void mark_lane(const Memory& m, uint64_t address, unsigned bytes) {
  if (bytes >= 8) {
    memset(m.bits(address), 0xff, bytes / 8);
    return;
  }
  auto mask = static_cast<uint8_t>(((1u << bytes) - 1) << (address & 7));
  uint8_t* b = m.bits(address);
  if ((__atomic_load_n(b, __ATOMIC_RELAXED) & mask) != mask) __atomic_fetch_or(b, mask, __ATOMIC_RELAXED);
}

bool lane_written(const Memory& m, uint64_t address, unsigned bytes) {
  if (bytes == 16) return m.bits(address)[0] == 0xff && m.bits(address)[1] == 0xff;
  auto mask = static_cast<uint8_t>(((1u << bytes) - 1) << (address & 7));
  return (*m.bits(address) & mask) == mask;
}

bool side_by_side(const uint64_t* at, uint32_t m, unsigned bytes) {
  if (m != ~0u) return false;
  uint64_t off = 0;
  for (uint64_t l = 0; l < 32; l++) off |= at[l] ^ (at[0] + l * bytes);
  return off == 0;
}

bool all_same(const uint64_t* at) {
  uint64_t off = 0;
  for (int l = 1; l < 32; l++) off |= at[l] ^ at[0];
  return off == 0;
}

int global(Warp& w, const Inst& i, const uint64_t* at, uint32_t m, unsigned bytes, Kind kind, Access& access) {
  Memory& memory = *w.block->memory;
  if (side_by_side(at, m, bytes) && at[0] % bytes == 0) {
    const Allocation* a = memory.holds(at[0], 32 * bytes);
    if (a && (kind == Kind::load || a->use != Use::constant) && (kind == Kind::store || memory.written(at[0], 32 * bytes))) {
      if (kind == Kind::store) memory.mark(at[0], 32 * bytes);
      access.run = true;
      access.host[0] = reinterpret_cast<uint8_t*>(at[0]);
      if (kind == Kind::atomic)
        for (uint32_t l = 1; l < 32; l++) access.host[l] = access.host[0] + l * bytes;
      auto& c = w.block->counters;
      uint64_t sectors = ((at[0] + 32 * bytes + 31) >> 5) - (at[0] >> 5);
      (kind == Kind::load ? c.global_load_sectors : c.global_store_sectors) += sectors;
      (kind == Kind::load ? c.global_load_bytes : c.global_store_bytes) += 32 * bytes;
      c.uncoalesced += sectors - bytes;
      return kNext;
    }
  }
  if (kind == Kind::load && m == ~0u && at[0] % bytes == 0 && all_same(at) && memory.holds(at[0], bytes) && lane_written(memory, at[0], bytes)) {
    access.same = true;
    access.host[0] = reinterpret_cast<uint8_t*>(at[0]);
    auto& c = w.block->counters;
    c.global_load_sectors++;
    c.global_load_bytes += 32 * bytes;
    return kNext;
  }
  const Allocation* last = nullptr;
  for (uint32_t left = m; left; left &= left - 1) {
    int l = __builtin_ctz(left);
    uint64_t address = at[l];
    if (!last || address - last->base >= last->bytes || bytes > last->bytes - (address - last->base)) {
      last = memory.holds(address, bytes);
      if (!last) return bad_global(w, i, l, address, bytes, verb(kind));
    }
    if (address & (bytes - 1)) return bad_global(w, i, l, address, bytes, verb(kind));
    if (kind != Kind::load && last->use == Use::constant) return read_only(w, i, l, address);
    if (kind == Kind::store) mark_lane(memory, address, bytes);
    else if (!lane_written(memory, address, bytes)) return unwritten(w, i, l, address, bytes);
    access.host[l] = reinterpret_cast<uint8_t*>(address);
  }
  count_global(w, at, m, bytes, kind != Kind::load);
  if (kind == Kind::atomic) count_global(w, at, m, bytes, false);
  return kNext;
}

int shared(Warp& w, const Inst& i, const uint32_t* at, uint32_t m, unsigned bytes, Kind kind, const uint8_t* values, Access& access) {
  int status = kind == Kind::load    ? shared_read(w, i, at, m, bytes)
               : kind == Kind::store ? shared_write(w, i, at, m, bytes, values)
                                     : shared_atomic(w, i, at, m, bytes);
  if (status != kNext) return status;
  uint8_t* base = w.block->shared;
  access.shared |= m;
  uint32_t off = m != ~0u;
  for (uint32_t l = 0; l < 32; l++) off |= at[l] ^ (at[0] + l * bytes);
  access.run = off == 0;
  if (access.run && kind != Kind::atomic)
    access.host[0] = base + at[0];
  else
    for (int l = 0; l < 32; l++) access.host[l] = (m >> l & 1) ? base + at[l] : access.host[l];
  return kNext;
}

int shared(Warp& w, const Inst& i, const uint64_t* wide, uint32_t m, unsigned bytes, Kind kind, const uint8_t* values, Access& access) {
  alignas(64) uint32_t at[32];
  uint64_t high = 0;
  for (int l = 0; l < 32; l++) {
    at[l] = static_cast<uint32_t>(wide[l]);
    high |= (m >> l & 1) ? wide[l] >> 32 : 0;
  }
  if (high)
    each_lane(m, [&](int l) {
      if (wide[l] >> 32) at[l] = ~0u - 15;  // outside, and it says so
    });
  return shared(w, i, at, m, bytes, kind, values, access);
}

int local(Warp& w, const Inst& i, const uint64_t* at, uint32_t m, unsigned bytes, Access& access) {
  Block& b = *w.block;
  uint64_t most = b.code->info.local_bytes;
  for (uint32_t left = m; left; left &= left - 1) {
    int l = __builtin_ctz(left);
    if (at[l] & (bytes - 1))
      return fault(w, i, l, at[l], "misaligned", kErrorMisalignedAddress, std::to_string(bytes) + " bytes of local memory at byte " + std::to_string(at[l]));
    if (at[l] > most || bytes > most - at[l])
      return fault(w, i, l, at[l], "out-of-bounds", kErrorIllegalAddress,
                   std::to_string(bytes) + " bytes of local memory at byte " + std::to_string(at[l]) + " of " + std::to_string(most));
    access.host[l] = b.local + static_cast<size_t>(w.id * 32 + l) * b.local_bytes + at[l];
  }
  return kNext;
}

int param(Warp& w, const Inst& i, const uint64_t* at, uint32_t m, unsigned bytes, Kind kind, Access& access) {
  uint64_t most = w.block->code->info.param_bytes;
  for (uint32_t left = m; left; left &= left - 1) {
    int l = __builtin_ctz(left);
    if (kind != Kind::load) return fault(w, i, l, at[l], "read-only", kErrorIllegalAddress, "store to a kernel's parameters");
    if (at[l] & (bytes - 1)) return fault(w, i, l, at[l], "misaligned", kErrorMisalignedAddress, std::to_string(bytes) + " bytes of parameters at byte " + std::to_string(at[l]));
    if (at[l] > most || bytes > most - at[l])
      return fault(w, i, l, at[l], "out-of-bounds", kErrorIllegalAddress, std::to_string(bytes) + " bytes of parameters at byte " + std::to_string(at[l]) + " of " + std::to_string(most));
    access.host[l] = const_cast<uint8_t*>(w.block->params) + at[l];
  }
  return kNext;
}

int generic(Warp& w, const Inst& i, const uint64_t* at, uint32_t m, unsigned bytes, Kind kind, const uint8_t* values, Access& access) {
  uint32_t in_shared = 0, in_local = 0, in_param = 0;
  alignas(64) uint64_t moved[32];
  for (int l = 0; l < 32; l++) {
    bool s = at[l] - kSharedWindow < kSharedWindowBytes, c = at[l] - kLocalWindow < kLocalWindowBytes, p = at[l] - kParamWindow < kParamWindowBytes;
    in_shared |= s ? 1u << l : 0;
    in_local |= c ? 1u << l : 0;
    in_param |= p ? 1u << l : 0;
    moved[l] = at[l] - (s ? kSharedWindow : c ? kLocalWindow : p ? kParamWindow : 0);
  }
  in_shared &= m, in_local &= m, in_param &= m;
  uint32_t in_global = m & ~(in_shared | in_local | in_param);
  int status = kNext;
  if (in_global) status = global(w, i, at, in_global, bytes, kind, access);
  if (status == kNext && in_shared) status = shared(w, i, moved, in_shared, bytes, kind, values, access);
  if (status == kNext && in_local) status = local(w, i, moved, in_local, bytes, access);
  if (status == kNext && in_param) status = param(w, i, moved, in_param, bytes, kind, access);
  if (in_global != m && in_shared != m) access.run = false;
  return status;
}

}  // namespace

void count_global(Warp& w, const uint64_t* at, uint32_t m, unsigned bytes, bool store) {
  uint64_t ids[32], last = ~uint64_t{0};
  int n = 0;
  bool rising = true;
  unsigned active = static_cast<unsigned>(__builtin_popcount(m));
  each_lane(m, [&](int l) {
    uint64_t s = at[l] >> 5;
    if (s == last) return;
    if (n && s < last) rising = false;
    ids[n++] = last = s;
  });
  if (!rising) {
    std::sort(ids, ids + n);
    n = static_cast<int>(std::unique(ids, ids + n) - ids);
  }
  auto& c = w.block->counters;
  (store ? c.global_store_sectors : c.global_load_sectors) += static_cast<uint64_t>(n);
  (store ? c.global_store_bytes : c.global_load_bytes) += active * bytes;
  uint64_t least = (active * bytes + 31) / 32;
  if (static_cast<uint64_t>(n) > least) c.uncoalesced += static_cast<uint64_t>(n) - least;
}

int global_source(Warp& w, const Inst& i, int lane, uint64_t address, unsigned bytes) {
  Memory& memory = *w.block->memory;
  if (!memory.holds(address, bytes)) return wild(w, i, lane, address, bytes, "asynchronous load");
  if (!memory.written(address, bytes)) return unwritten(w, i, lane, address, bytes);
  return kNext;
}

int resolve(Warp& w, const Inst& i, Slot base, Kind kind, const uint8_t* values, Access& access) {
  alignas(64) uint64_t at[32];
  AccessForm form = AccessForm::of(i.x);
  auto offset = static_cast<uint64_t>(i.imm);
  if (form.narrow && form.where == Where::shared) {
    alignas(64) uint32_t small[32];
    const uint32_t* a = src<uint32_t>(w, base);
    for (int l = 0; l < 32; l++) small[l] = a[l] + static_cast<uint32_t>(offset);
    return shared(w, i, small, w.mask, form.bytes, kind, values, access);
  }
  if (form.narrow) {
    const uint32_t* a = src<uint32_t>(w, base);
    auto small = static_cast<uint32_t>(offset);
    for (int l = 0; l < 32; l++) at[l] = static_cast<uint32_t>(a[l] + small);
  } else {
    const uint64_t* a = src<uint64_t>(w, base);
    for (int l = 0; l < 32; l++) at[l] = a[l] + offset;
  }
  switch (form.where) {
    case Where::global: return global(w, i, at, w.mask, form.bytes, kind, access);
    case Where::shared: return shared(w, i, at, w.mask, form.bytes, kind, values, access);
    case Where::local: return local(w, i, at, w.mask, form.bytes, access);
    case Where::param: return param(w, i, at, w.mask, form.bytes, kind, access);
    default: return generic(w, i, at, w.mask, form.bytes, kind, values, access);
  }
}

Space space_modifier(Decoder& d) {
  if (d.has("global")) return Space::global;
  if (d.has("shared") || d.has("shared::cta")) return Space::shared;
  if (d.has("local")) return Space::local;
  if (d.has("const")) return Space::constant;
  if (d.has("param") || d.has("param::entry") || d.has("param::func")) return Space::param;
  return Space::generic;
}

void cache_modifiers(Decoder& d) {
  d.one_of({"ca", "cg", "cs", "lu", "cv", "wb", "wt"});
  d.has_prefix("L1::");
  while (d.has_prefix("L2::")) {
  }
}

Placed place_access(Decoder& d, const Operand& o, Space space, unsigned bytes) {
  Address a = d.address(o, space);
  Where where;
  switch (space) {
    case Space::global:
    case Space::constant: where = Where::global; break;
    case Space::shared: where = Where::shared; break;
    case Space::local: where = Where::local; break;
    case Space::param: where = o.var && d.is_local(*o.var) ? Where::local : Where::param; break;
    default: where = Where::generic; break;
  }
  if (where == Where::shared || where == Where::generic) {
    int shift = bytes >= 4 ? 2 : bytes == 2 ? 1 : 0;
    d.code().granule_shift = std::min(d.code().granule_shift, shift);
  }
  return {{where, static_cast<uint8_t>(bytes), a.narrow}, a.base, a.offset};
}

}  // namespace softcuda
