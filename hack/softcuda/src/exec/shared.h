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
constexpr uint32_t kBulk = kManyLanes + 32;  // a bulk copy
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
// shared_fresh checks that 16 bytes are written, and ordered before the warp's
// asynchronous read; with record, it records the read.
int shared_fresh(Warp&, const Inst&, uint32_t at, bool record);
// shared_arrives checks a bulk copy's write of bytes and records it: nobody may have
// come there since `tick` who is not ordered before the copy.
int shared_arrives(Warp&, const Inst&, int lane, uint32_t at, uint32_t bytes, uint32_t tick);
// shared_free checks that a warp may have a run of bytes written asynchronously.
int shared_free(Warp&, const Inst&, int lane, uint32_t at, uint32_t bytes);
// count_conflicts adds the extra passes of an access to the counters.
void count_conflicts(Warp&, const uint32_t* at, uint32_t m, unsigned bytes);

// order_warp: the lanes of a warp have synchronised among themselves; order_warps: the
// warps of the mask have, and each warp's lanes.
void order_warp(Warp&);
void order_warps(Block&, uint32_t warps);
// release makes what a warp has done and seen part of a barrier's clocks, and acquire
// makes a warp see what is in them.
void release(Warp&, uint32_t* clocks);
void acquire(Warp&, const uint32_t* clocks);
// next_tick begins a new tick; at the last one it forgets who came when.
void next_tick(Block&);

}  // namespace softcuda
