// Shared memory: bounds, initialisation and the race check.
//
// Each granule (the narrowest access the kernel makes: 1, 2 or 4 bytes) has a record
// of its last writer and of its last readers: tick << 11 | who. Ticks count the
// synchronisations of the block. Warp w has seen[w][v]: what v did before that tick is
// ordered before what w does next. An access races with a record that is by another
// thread and not ordered before it, when one of the two is a write. A granule without
// a writer was never written.
#pragma once

#include "code.h"

namespace softcuda {

constexpr uint32_t kWhoBits = 11, kWhoMask = (1u << kWhoBits) - 1;
constexpr uint32_t kManyLanes = 1025;   // + warp: several lanes of it
constexpr uint32_t kManyWarps = kWhoMask;
constexpr uint32_t kLastTick = ~0u >> kWhoBits;

// The lanes of m read (write) `bytes` at offsets at[l] of shared memory. Both check
// bounds, alignment and races; values, for a write, are 32 rows of `bytes`.
int shared_read(Warp&, const Inst&, const uint32_t* at, uint32_t m, unsigned bytes);
int shared_write(Warp&, const Inst&, const uint32_t* at, uint32_t m, unsigned bytes, const uint8_t* values);
// An atomic operation reads and writes, and does not race with other atomic ones.
int shared_atomic(Warp&, const Inst&, const uint32_t* at, uint32_t m, unsigned bytes);
// shared_will_write checks a write that happens later (cp.async) without recording it.
int shared_will_write(Warp&, const Inst&, int lane, uint32_t at, uint32_t bytes);
// shared_rows is a warp's common read of rows of 16 bytes (ldmatrix).
int shared_rows(Warp&, const Inst&, const uint32_t* at, int rows);
// count_conflicts adds the extra passes of an access to the counters.
void count_conflicts(Warp&, const uint32_t* at, uint32_t m, unsigned bytes);

// order_warp: the lanes of a warp have synchronised among themselves; order_warps: the
// warps of the mask have, and each warp's lanes.
void order_warp(Warp&);
void order_warps(Block&, uint32_t warps);

}  // namespace softcuda
