#include "shared.h"

#include <algorithm>

namespace softcuda {

namespace {

uint32_t who_is(const Warp& w, int lane) { return static_cast<uint32_t>(w.id * 32 + lane) + 1; }

uint32_t warp_of(uint32_t who) { return who >= kManyLanes ? who - kManyLanes : (who - 1) >> 5; }

bool ordered(const Warp& w, uint32_t record, uint32_t me) {
  uint32_t tick = record >> kWhoBits, who = record & kWhoMask;
  if (tick < w.floor || who == me) return true;
  if (who == kManyWarps) return w.block->code->named_barriers;
  return tick < w.block->seen[w.id][warp_of(who)];
}

std::string name(const Block& b, uint32_t who) {
  if (who == kManyWarps) return "threads of several warps";
  if (who == kBulk) return "a bulk copy that nobody has waited for";
  if (who >= kManyLanes) return "several threads of warp " + std::to_string(who - kManyLanes);
  unsigned t = who - 1;
  return "thread (" + std::to_string(t % b.dim.x) + "," + std::to_string(t / b.dim.x % b.dim.y) + "," + std::to_string(t / b.dim.x / b.dim.y) + ")";
}

int race(Warp& w, const Inst& i, int lane, uint32_t at, const char* ours, uint32_t record, const char* theirs) {
  return fault(w, i, lane, at, "race", kErrorLaunchFailed,
               std::string(ours) + " of shared memory at byte " + std::to_string(at) + " races with a " + theirs + " by " + name(*w.block, record & kWhoMask) +
                   ": no barrier between");
}

int unwritten(Warp& w, const Inst& i, int lane, uint32_t at) {
  return fault(w, i, lane, at, "uninitialised", kErrorLaunchFailed, "read of shared memory at byte " + std::to_string(at) + ", which nothing wrote");
}

int bounds(Warp& w, const Inst& i, int lane, uint64_t at, unsigned bytes) {
  if (at % bytes)
    return fault(w, i, lane, at, "misaligned", kErrorMisalignedAddress, std::to_string(bytes) + " bytes of shared memory at byte " + std::to_string(at));
  return fault(w, i, lane, at, "out-of-bounds", kErrorIllegalAddress,
               std::to_string(bytes) + " bytes of shared memory at byte " + std::to_string(at) + " of " + std::to_string(w.block->shared_bytes));
}

bool outside(const Block& b, uint32_t at, unsigned bytes) {
  return (at & (bytes - 1)) || at > b.shared_bytes || bytes > b.shared_bytes - at;
}

bool contiguous(const uint32_t* at, uint32_t m, unsigned bytes) {
  if (m != ~0u) return false;
  uint32_t off = 0;
  for (uint32_t l = 0; l < 32; l++) off |= at[l] ^ (at[0] + l * bytes);
  return off == 0;
}

// What a granule's readers become when `me` reads as well, without a branch. stuck says
// that the reader before was another lane of this warp, for which order matters more
// closely than this can tell.
inline uint32_t add_reader(uint32_t old, uint32_t cut, uint32_t me, uint32_t first_lane, uint32_t many, uint32_t now, uint32_t* stuck) {
  uint32_t who = old & kWhoMask;
  bool late = old >= cut && who != me;
  bool ours = who - first_lane < 32 || who == many;
  *stuck |= late & ours;
  return now | (late ? kManyWarps : me);
}

// read_run is the read of all lanes side by side: granules first, first+1, …, 1 << kPer
// of them a lane. False: something needs a closer look and nothing was recorded.
template <int kPer>
bool read_run(Warp& w, uint32_t first) {
  Block& b = *w.block;
  uint32_t cut = w.floor << kWhoBits, me = who_is(w, 0), many = kManyLanes + static_cast<uint32_t>(w.id), now = b.tick << kWhoBits;
  const uint32_t* written = b.writer.data() + first;
  uint32_t* read = b.reader.data() + first;
  uint32_t bad = 0;
  for (uint32_t k = 0; k < 32u << kPer; k++) {
    uint32_t lane = me + (k >> kPer);
    bad |= written[k] == 0;
    bad |= (written[k] >= cut) & ((written[k] & kWhoMask) != lane);
    add_reader(read[k], cut, lane, me, many, now, &bad);
  }
  if (bad) return false;
  for (uint32_t k = 0; k < 32u << kPer; k++) read[k] = add_reader(read[k], cut, me + (k >> kPer), me, many, now, &bad);
  return true;
}

// read_together is a read of n granules by the warp as a whole.
inline bool read_together(Warp& w, uint32_t first, uint32_t n) {
  Block& b = *w.block;
  uint32_t cut = w.floor << kWhoBits, lane0 = who_is(w, 0), me = kManyLanes + static_cast<uint32_t>(w.id), now = b.tick << kWhoBits;
  const uint32_t* written = b.writer.data() + first;
  uint32_t* read = b.reader.data() + first;
  uint32_t bad = 0;
  for (uint32_t k = 0; k < n; k++) {
    bad |= (written[k] == 0) | (written[k] >= cut);
    add_reader(read[k], cut, me, lane0, me, now, &bad);
  }
  if (bad) return false;
  for (uint32_t k = 0; k < n; k++) read[k] = add_reader(read[k], cut, me, lane0, me, now, &bad);
  return true;
}

template <int kPer>
bool write_run(Warp& w, uint32_t first) {
  Block& b = *w.block;
  uint32_t cut = w.floor << kWhoBits, me = who_is(w, 0), now = b.tick << kWhoBits;
  uint32_t* written = b.writer.data() + first;
  const uint32_t* read = b.reader.data() + first;
  uint32_t bad = 0;
  for (uint32_t k = 0; k < 32u << kPer; k++) {
    uint32_t lane = me + (k >> kPer);
    bad |= (written[k] >= cut) & ((written[k] & kWhoMask) != lane);
    bad |= (read[k] >= cut) & ((read[k] & kWhoMask) != lane);
  }
  if (bad) return false;
  for (uint32_t k = 0; k < 32u << kPer; k++) written[k] = now | (me + (k >> kPer));
  return true;
}

template <bool kWrite>
bool run(Warp& w, const uint32_t* at, uint32_t m, unsigned bytes) {
  if (!contiguous(at, m, bytes)) return false;
  Block& b = *w.block;
  if ((at[0] & (bytes - 1)) || at[0] > b.shared_bytes || 32 * bytes > b.shared_bytes - at[0]) return false;
  uint32_t first = at[0] >> b.code->granule_shift;
  switch (bytes >> b.code->granule_shift) {
    case 1: return kWrite ? write_run<0>(w, first) : read_run<0>(w, first);
    case 2: return kWrite ? write_run<1>(w, first) : read_run<1>(w, first);
    case 4: return kWrite ? write_run<2>(w, first) : read_run<2>(w, first);
    case 8: return kWrite ? write_run<3>(w, first) : read_run<3>(w, first);
    default: return kWrite ? write_run<4>(w, first) : read_run<4>(w, first);
  }
}

using Four = uint32_t __attribute__((vector_size(16)));

bool any(Four v) { return (v[0] | v[1] | v[2] | v[3]) != 0; }

// rows_together is read_together for many aligned runs of 16 bytes, kFours vectors of
// records each; what needs a closer look is looked for in all before it is told.
template <int kFours>
bool rows_together(Warp& w, const uint32_t* at, int rows) {
  Block& b = *w.block;
  uint32_t cut = w.floor << kWhoBits, lane0 = who_is(w, 0), me = kManyLanes + static_cast<uint32_t>(w.id), now = b.tick << kWhoBits;
  auto* written = reinterpret_cast<const Four*>(b.writer.data());
  auto* read = reinterpret_cast<Four*>(b.reader.data());
  Four bad = {};
  for (int r = 0; r < rows; r++) {
    uint32_t first = (at[r] >> 4) * kFours;
    for (uint32_t k = first; k < first + kFours; k++) {
      Four who = read[k] & kWhoMask;
      bad |= reinterpret_cast<Four>((written[k] == 0) | (written[k] >= cut));
      bad |= reinterpret_cast<Four>((read[k] >= cut) & (who - lane0 < 32));
    }
  }
  if (any(bad)) return false;
  for (int r = 0; r < rows; r++) {
    uint32_t first = (at[r] >> 4) * kFours;
    for (uint32_t k = first; k < first + kFours; k++) {
      auto others = reinterpret_cast<Four>((read[k] >= cut) & ((read[k] & kWhoMask) != me));
      read[k] = now | (others & kManyWarps) | (~others & me);
    }
  }
  return true;
}

// write_rows is the write of 16 bytes a lane where nobody has been since the last
// barrier.
template <int kFours>
bool write_rows(Warp& w, const uint32_t* at, uint32_t m) {
  Block& b = *w.block;
  uint32_t cut = w.floor << kWhoBits, now = b.tick << kWhoBits;
  auto* written = reinterpret_cast<Four*>(b.writer.data());
  auto* read = reinterpret_cast<const Four*>(b.reader.data());
  Four late = {};
  uint32_t outside_any = 0;
  each_lane(m, [&](int l) { outside_any |= outside(b, at[l], 16); });
  if (outside_any) return false;
  each_lane(m, [&](int l) {
    uint32_t first = (at[l] >> 4) * kFours;
    for (uint32_t k = first; k < first + kFours; k++) late |= reinterpret_cast<Four>((written[k] >= cut) | (read[k] >= cut));
  });
  if (any(late)) return false;
  each_lane(m, [&](int l) {
    uint32_t first = (at[l] >> 4) * kFours;
    for (uint32_t k = first; k < first + kFours; k++) written[k] = Four{} + (now | who_is(w, l));
  });
  // Two lanes at one place: the later one's record stands.
  uint32_t lost = 0;
  each_lane(m, [&](int l) { lost |= written[(at[l] >> 4) * kFours][0] ^ (now | who_is(w, l)); });
  return lost == 0;
}

uint32_t with_reader(const Warp& w, uint32_t old, uint32_t me) {
  uint32_t now = w.block->tick << kWhoBits;
  if (ordered(w, old, me)) return now | me;
  uint32_t who = old & kWhoMask;
  return now | (who != kManyWarps && warp_of(who) == static_cast<uint32_t>(w.id) ? kManyLanes + static_cast<uint32_t>(w.id) : kManyWarps);
}

int read_granules(Warp& w, const Inst& i, int lane, uint32_t me, uint32_t at, unsigned bytes) {
  Block& b = *w.block;
  int shift = b.code->granule_shift;
  for (uint32_t g = at >> shift, end = (at + bytes) >> shift; g < end; g++) {
    uint32_t written = b.writer[g];
    if (written == 0) return unwritten(w, i, lane, g << shift);
    if (!ordered(w, written, me)) return race(w, i, lane, g << shift, "read", written, "write");
    b.reader[g] = with_reader(w, b.reader[g], me);
  }
  return kNext;
}

}  // namespace

int shared_read(Warp& w, const Inst& i, const uint32_t* at, uint32_t m, unsigned bytes) {
  Block& b = *w.block;
  b.counters.shared_accesses++;
  if (run<false>(w, at, m, bytes)) return kNext;
  if (m == ~0u && !outside(b, at[0], bytes)) {
    uint32_t off = 0;
    for (int l = 1; l < 32; l++) off |= at[l] ^ at[0];
    if (!off && read_together(w, at[0] >> b.code->granule_shift, bytes >> b.code->granule_shift)) return kNext;
  }
  int status = kNext;
  for (uint32_t left = m; left && status == kNext; left &= left - 1) {
    int l = __builtin_ctz(left);
    if (outside(b, at[l], bytes)) return bounds(w, i, l, at[l], bytes);
    status = read_granules(w, i, l, who_is(w, l), at[l], bytes);
  }
  if (status == kNext) count_conflicts(w, at, m, bytes);
  return status;
}

int shared_write(Warp& w, const Inst& i, const uint32_t* at, uint32_t m, unsigned bytes, const uint8_t* values) {
  Block& b = *w.block;
  b.counters.shared_accesses++;
  if (run<true>(w, at, m, bytes)) return kNext;
  int shift = b.code->granule_shift;
  if (bytes == 16 && (shift == 2 ? write_rows<1>(w, at, m) : shift == 1 ? write_rows<2>(w, at, m) : write_rows<4>(w, at, m))) {
    count_conflicts(w, at, m, bytes);
    return kNext;
  }
  uint32_t now = b.tick << kWhoBits, cut = w.floor << kWhoBits;
  for (uint32_t left = m; left; left &= left - 1) {
    int l = __builtin_ctz(left);
    uint32_t me = who_is(w, l);
    if (outside(b, at[l], bytes)) return bounds(w, i, l, at[l], bytes);
    uint32_t first = at[l] >> shift, end = (at[l] + bytes) >> shift, late = 0;
    for (uint32_t g = first; g < end; g++) late |= (b.writer[g] >= cut) | (b.reader[g] >= cut);
    if (!late) {
      for (uint32_t g = first; g < end; g++) b.writer[g] = now | me;
      continue;
    }
    for (uint32_t g = first; g < end; g++) {
      uint32_t written = b.writer[g], read = b.reader[g];
      if (!ordered(w, written, me)) {
        // Another lane may have written the same value in this very instruction.
        bool same = false;
        for (uint32_t others = m & ~(1u << l); others && !same; others &= others - 1) {
          int o = __builtin_ctz(others);
          same = at[o] == at[l] && (written & kWhoMask) == who_is(w, o) &&
                 memcmp(values + static_cast<size_t>(o) * bytes, values + static_cast<size_t>(l) * bytes, bytes) == 0;
        }
        if (!same) return race(w, i, l, g << shift, "write", written, "write");
      }
      if (!ordered(w, read, me)) return race(w, i, l, g << shift, "write", read, "read");
      b.writer[g] = now | me;
    }
  }
  count_conflicts(w, at, m, bytes);
  return kNext;
}

// An atomic access is recorded as a write, and beside that as atomic, so that another
// one does not take it for a race.
int shared_atomic(Warp& w, const Inst& i, const uint32_t* at, uint32_t m, unsigned bytes) {
  Block& b = *w.block;
  b.counters.shared_accesses++;
  int shift = b.code->granule_shift;
  for (uint32_t left = m; left; left &= left - 1) {
    int l = __builtin_ctz(left);
    uint32_t me = who_is(w, l);
    if (outside(b, at[l], bytes)) return bounds(w, i, l, at[l], bytes);
    for (uint32_t g = at[l] >> shift, end = (at[l] + bytes) >> shift; g < end; g++) {
      if (b.writer[g] == 0) return unwritten(w, i, l, g << shift);
      bool atomic = b.atomic[g] != 0 && b.writer[g] == b.atomic[g];
      if (!atomic && !ordered(w, b.writer[g], me)) return race(w, i, l, g << shift, "atomic access", b.writer[g], "write");
      if (!ordered(w, b.reader[g], me)) return race(w, i, l, g << shift, "atomic access", b.reader[g], "read");
      // Unordered atomic accesses of several threads stay concurrent for who comes later.
      uint32_t who = me;
      if (atomic && !ordered(w, b.writer[g], me))
        who = (b.writer[g] & kWhoMask) != kManyWarps && warp_of(b.writer[g] & kWhoMask) == static_cast<uint32_t>(w.id) ? kManyLanes + static_cast<uint32_t>(w.id) : kManyWarps;
      b.writer[g] = b.atomic[g] = b.tick << kWhoBits | who;
    }
  }
  return kNext;
}

int shared_will_write(Warp& w, const Inst& i, int lane, uint32_t at, uint32_t bytes) {
  Block& b = *w.block;
  int shift = b.code->granule_shift;
  uint32_t me = who_is(w, lane);
  if (outside(b, at, bytes)) return bounds(w, i, lane, at, bytes);
  uint32_t cut = w.floor << kWhoBits, late = 0;
  for (uint32_t g = at >> shift, end = (at + bytes) >> shift; g < end; g++) late |= (b.writer[g] >= cut) | (b.reader[g] >= cut);
  if (!late) return kNext;
  for (uint32_t g = at >> shift, end = (at + bytes) >> shift; g < end; g++) {
    if (!ordered(w, b.writer[g], me)) return race(w, i, lane, g << shift, "asynchronous write", b.writer[g], "write");
    if (!ordered(w, b.reader[g], me)) return race(w, i, lane, g << shift, "asynchronous write", b.reader[g], "read");
  }
  return kNext;
}

int shared_rows(Warp& w, const Inst& i, const uint32_t* at, int rows) {
  Block& b = *w.block;
  b.counters.shared_accesses++;
  int shift = b.code->granule_shift;
  uint32_t me = kManyLanes + static_cast<uint32_t>(w.id);
  for (int r = 0; r < rows; r++)
    if (outside(b, at[r], 16)) return bounds(w, i, r, at[r], 16);
  bool done = shift == 2 ? rows_together<1>(w, at, rows) : shift == 1 ? rows_together<2>(w, at, rows) : rows_together<4>(w, at, rows);
  for (int r = 0; r < rows && !done; r++) {
    uint32_t first = at[r] >> shift;
    if (shift == 2 ? read_together(w, first, 4) : shift == 1 ? read_together(w, first, 8) : read_together(w, first, 16)) continue;
    int status = read_granules(w, i, r, me, at[r], 16);
    if (status != kNext) return status;
  }
  for (int r = 0; r < rows; r += 8) {
    uint32_t groups = 0;
    for (int k = 0; k < 8; k++) groups |= 1u << (at[r + k] >> 4 & 7);
    if (groups == 0xff) continue;
    uint32_t eight[32];
    for (int k = 0; k < 8; k++) eight[k] = at[r + k];
    count_conflicts(w, eight, 0xff, 16);
  }
  return kNext;
}

void count_conflicts(Warp& w, const uint32_t* at, uint32_t m, unsigned bytes) {
  unsigned words = bytes < 4 ? 1 : bytes / 4, lanes_a_pass = 32 / words;
  for (unsigned from = 0; from < 32; from += lanes_a_pass) {
    uint32_t part = m >> from;
    if (lanes_a_pass < 32) part &= (1u << lanes_a_pass) - 1;
    if (!(part & (part - 1))) continue;
    // Lanes in different groups of banks cannot be in each other's way.
    unsigned width = words * 4, groups_mask = lanes_a_pass - 1;
    uint32_t groups = 0;
    each_lane(part, [&](int l) { groups |= 1u << (at[from + static_cast<unsigned>(l)] / width & groups_mask); });
    if (__builtin_popcount(groups) == __builtin_popcount(part)) continue;
    uint32_t bucket[32][32];
    uint8_t count[32] = {};
    uint8_t most = 0;
    for (; part; part &= part - 1) {
      uint32_t word = at[from + static_cast<unsigned>(__builtin_ctz(part))] >> 2;
      for (unsigned k = 0; k < words; k++, word++) {
        uint32_t bank = word & 31;
        uint8_t n = 0;
        while (n < count[bank] && bucket[bank][n] != word) n++;
        if (n < count[bank]) continue;
        bucket[bank][count[bank]++] = word;
        most = std::max(most, count[bank]);
      }
    }
    w.block->counters.bank_conflicts += most > 1 ? most - 1u : 0;
  }
}

int shared_fresh(Warp& w, const Inst& i, uint32_t at, bool record) {
  Block& b = *w.block;
  int shift = b.code->granule_shift, lane = __builtin_ctz(w.active);
  uint32_t me = kManyLanes + static_cast<uint32_t>(w.id);
  if (outside(b, at, 16)) return bounds(w, i, lane, at, 16);
  for (uint32_t g = at >> shift, end = (at + 16) >> shift; g < end; g++) {
    uint32_t written = b.writer[g], who = written & kWhoMask;
    if (written == 0) return unwritten(w, i, lane, g << shift);
    // A lane of this warp is ordered by what made the warp one: wgmma is for all of it.
    bool ours = who < kManyLanes && (who - 1) >> 5 == static_cast<uint32_t>(w.id);
    if (!ours && !ordered(w, written, me)) return race(w, i, lane, g << shift, "asynchronous read", written, "write");
    if (who < kManyLanes) {
      uint32_t v = (who - 1) >> 5, tick = written >> kWhoBits;
      if (tick >= b.fenced[v][v] && tick >= b.fenced[w.id][v])
        return fault(w, i, lane, g << shift, "proxy", kErrorLaunchFailed,
                     "asynchronous read of shared memory at byte " + std::to_string(g << shift) + ", which " + name(b, who) +
                         " wrote as threads do: no fence.proxy.async between");
    }
    if (record) b.reader[g] = with_reader(w, b.reader[g], me);
  }
  return kNext;
}

int shared_free(Warp& w, const Inst& i, int lane, uint32_t at, uint32_t bytes) {
  Block& b = *w.block;
  int shift = b.code->granule_shift;
  uint32_t me = who_is(w, lane), cut = w.floor << kWhoBits;
  if (at % 16 || at > b.shared_bytes || bytes > b.shared_bytes - at) return at % 16 ? bounds(w, i, lane, at, 16) : bounds(w, i, lane, at, bytes);
  for (uint32_t g = at >> shift, end = (at + bytes) >> shift; g < end; g++) {
    if (b.writer[g] < cut && b.reader[g] < cut) continue;
    if (!ordered(w, b.writer[g], me)) return race(w, i, lane, g << shift, "asynchronous write", b.writer[g], "write");
    if (!ordered(w, b.reader[g], me)) return race(w, i, lane, g << shift, "asynchronous write", b.reader[g], "read");
  }
  return kNext;
}

int shared_arrives(Warp& w, const Inst& i, int lane, uint32_t at, uint32_t bytes, uint32_t tick) {
  Block& b = *w.block;
  int shift = b.code->granule_shift;
  uint32_t since = tick << kWhoBits, record = b.tick << kWhoBits | kBulk;
  for (uint32_t g = at >> shift, end = (at + bytes) >> shift; g < end; g++) {
    if (b.writer[g] >= since) return race(w, i, lane, g << shift, "asynchronous write", b.writer[g], "write");
    if (b.reader[g] >= since) return race(w, i, lane, g << shift, "asynchronous write", b.reader[g], "read");
    b.writer[g] = record;
  }
  return kNext;
}

void next_tick(Block& b) {
  if (++b.tick < kLastTick) return;
  // The counter is full: forget who, keep what was written.
  for (auto& r : b.writer) r = r ? 1u << kWhoBits | 1 : 0;
  std::fill(b.reader.begin(), b.reader.end(), 0);
  std::fill(b.atomic.begin(), b.atomic.end(), 0);
  b.tick = 2;
  for (int v = 0; v < b.warp_count; v++) {
    std::fill(b.seen[v], b.seen[v] + kClocks, 2);
    std::fill(b.fenced[v], b.fenced[v] + 32, 2);
    b.warps[static_cast<size_t>(v)].floor = 2;
  }
  for (auto& [at, m] : b.memory_barriers)
    for (int k = 0; k < kClocks; k++) m.now[k] = std::min(m.now[k], 2u), m.past[k] = std::min(m.past[k], 2u);
  for (auto& c : b.bulk_copies)
    if (c.bytes) c.tick = 2;
}

namespace {

void set_floor(Block& b, int warp) {
  uint32_t floor = *std::min_element(b.seen[warp], b.seen[warp] + b.warp_count);
  if (b.code->async_proxy) floor = std::min(floor, b.seen[warp][kClocks - 1]);
  b.warps[static_cast<size_t>(warp)].floor = floor;
}

}  // namespace

void order_warp(Warp& w) {
  next_tick(*w.block);
  w.block->seen[w.id][w.id] = w.block->tick;
  set_floor(*w.block, w.id);
}

void order_warps(Block& b, uint32_t warps) {
  next_tick(b);
  // What any of them has seen, all have seen now.
  uint32_t all[kClocks];
  std::fill(all, all + kClocks, 0);
  each_lane(warps, [&](int v) {
    for (int k = 0; k < kClocks; k++) all[k] = std::max(all[k], b.seen[v][k]);
  });
  each_lane(warps, [&](int v) { all[v] = b.tick; });
  each_lane(warps, [&](int v) {
    std::copy(all, all + kClocks, b.seen[v]);
    set_floor(b, v);
  });
}

void release(Warp& w, uint32_t* clocks) {
  Block& b = *w.block;
  next_tick(b);
  for (int k = 0; k < kClocks; k++) clocks[k] = std::max(clocks[k], b.seen[w.id][k]);
  clocks[w.id] = b.tick;
}

void acquire(Warp& w, const uint32_t* clocks) {
  Block& b = *w.block;
  for (int k = 0; k < kClocks; k++) b.seen[w.id][k] = std::max(b.seen[w.id][k], clocks[k]);
  set_floor(b, w.id);
}

}  // namespace softcuda
