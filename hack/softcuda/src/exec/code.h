// The decoded program and the state that executes it.
//
// A kernel is a flat array of instructions, device functions inlined. Each has a
// handler specialised for its types. A warp keeps register r of its 32 lanes side by
// side, so a handler is a loop over lanes that the compiler turns into vectors.
// Predicates are 32-bit masks, one bit a lane.
#pragma once

#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "../ptx/ast.h"
#include "exec.h"

namespace softcuda {

struct Warp;
struct Inst;

// What a handler tells the loop that called it.
enum Status : int {
  kNext = 0,   // go on at warp.pc
  kBlocked,    // the warp waits at a barrier
  kYield,      // let other warps run
  kDone,       // all lanes have exited
  kFaulted,    // warp.block->fault is filled in
};

using Handler = int (*)(Warp&, const Inst&);

// A slot is where an operand lies: a byte offset into the warp's registers, or, with
// bit 0 set, into the kernel's constants.
using Slot = uint32_t;

// A number may stand where a slot does, marked as if it were a constant.
constexpr Slot raw(uint32_t v) { return v << 1 | 1; }
constexpr uint32_t unraw(Slot s) { return s >> 1; }

struct Inst {
  Handler fn = nullptr;
  Slot d = 0, a = 0, b = 0, c = 0;
  uint32_t guard = 0;   // predicate; 0 is always true
  uint32_t flip = 0;    // ~0: the guard is negated
  int64_t imm = 0;      // offset of an address, and what a handler likes
  const Slot* more = nullptr;  // further operands
  int32_t target = -1;  // of a branch
  int32_t join = -1;    // where its two ways meet again, or kNever
  uint32_t x = 0;       // flags or a predicate, as the handler likes
  int32_t line = 0;
};
static_assert(sizeof(Inst) == 64);

constexpr int32_t kNever = -1;

// Windows of the generic address space. Global memory lies at host addresses, far
// above; nothing is ever dereferenced in these.
constexpr uint64_t kSharedWindow = 0x1000000000, kSharedWindowBytes = 1 << 24;
constexpr uint64_t kLocalWindow = 0x2000000000, kLocalWindowBytes = 1 << 28;
constexpr uint64_t kParamWindow = 0x3000000000, kParamWindowBytes = 1 << 16;

enum class Special : uint8_t {
  tid_x, tid_y, tid_z, ntid_x, ntid_y, ntid_z, ctaid_x, ctaid_y, ctaid_z, nctaid_x, nctaid_y, nctaid_z,
  laneid, warpid, nwarpid, smid, nsmid, gridid, lanemask_eq, lanemask_le, lanemask_lt, lanemask_ge, lanemask_gt,
  dynamic_smem_size, total_smem_size, zero,
};

struct SpecialUse {
  Special special;
  Slot slot;
  bool wide;  // 64 bits
};

// Code is one kernel.
struct Code {
  KernelInfo info;
  std::vector<Inst> insts;
  std::vector<std::unique_ptr<Slot[]>> more;
  std::vector<std::vector<int32_t>> tables;  // targets of brx.idx; Inst.x is the index
  std::vector<uint64_t> constants;           // bytes, in 64-byte lines
  std::vector<SpecialUse> specials;
  uint32_t register_bytes = 0;
  uint32_t predicates = 2;  // 0 is true, 1 is false
  int granule_shift = 2;    // race check: log2 of the bytes a record stands for
  bool named_barriers = false;
  bool shared_atomics = false;
  bool async_proxy = false;  // bulk copies or wgmma: see hopper.h
};

struct Module {
  std::unique_ptr<ptx::Ast> ast;
  Memory* memory = nullptr;
  std::map<std::string, std::unique_ptr<Code>> kernels;
  struct Global {
    uint64_t address;
    size_t bytes;
  };
  std::map<std::string, Global> globals;
  std::vector<uint64_t> owned;  // allocations
  ~Module();
};

struct Frame {
  int32_t join;
  int32_t pc;
  uint32_t mask;
};

// Copies begun by one cp.async of a warp.
struct AsyncCopy {
  uint32_t pending;      // lanes whose copy is yet to happen
  int32_t inst;          // for messages
  uint32_t bytes;
  uint32_t group[32];
  uint32_t dst[32];      // offset in shared memory
  uint32_t size[32];     // bytes from the source; the rest is zero
  uint64_t src[32];
};

// Reads of shared memory by products (wgmma) that are not waited for yet.
struct AsyncRead {
  uint32_t group;
  int32_t inst;   // for messages
  uint32_t at;    // 16 bytes
};

struct Block;

struct Warp {
  const uint8_t* bank[2] = {nullptr, nullptr};  // registers, constants
  uint8_t* regs = nullptr;
  uint32_t* preds = nullptr;
  const Inst* code = nullptr;
  uint32_t active = 0;  // lanes of the running frame
  uint32_t mask = 0;    // of these, lanes whose guard holds
  uint32_t live = 0;    // lanes that have not exited
  uint32_t born = 0;    // lanes that exist
  int32_t pc = 0;
  int32_t id = 0;
  uint32_t carry = 0;   // CC.CF, a bit a lane
  uint32_t budget = 0;  // backward branches until the warp lets others run
  uint64_t count = 0;   // instructions
  uint32_t floor = 0;   // race check: all accesses before this tick are ordered before ours
  Block* block = nullptr;
  std::vector<Frame> stack;
  std::vector<AsyncCopy*> copies, spare_copies;  // begun, and to be used again
  std::vector<std::unique_ptr<AsyncCopy>> all_copies;
  uint32_t copy_group[32] = {};
  std::vector<AsyncRead> reads;
  uint32_t read_group = 0;
  enum State : uint8_t { ready, waiting, done } state = ready;
  int barrier = -1;          // the one it waits at
  uint8_t red_kind = 0;      // of bar.red: what the barrier gives it,
  uint32_t red_to = 0;       // and where

  AsyncCopy& new_copy() {
    if (spare_copies.empty()) {
      all_copies.push_back(std::make_unique<AsyncCopy>());
      spare_copies.push_back(all_copies.back().get());
    }
    copies.push_back(spare_copies.back());
    spare_copies.pop_back();
    memset(copies.back(), 0, sizeof(AsyncCopy));
    return *copies.back();
  }
  // resume runs the topmost frame that still has lanes; active is 0 when none has.
  void resume();
};

struct Barrier {
  uint32_t expected = 0;  // threads; 0: nobody waits
  uint32_t arrived = 0;
  uint32_t warps = 0;     // mask of warps that take part
  uint32_t waiting = 0;   // mask of warps to wake
  uint32_t value = 0;     // of bar.red: count of true predicates
  int line = 0;
};

constexpr int kBarriers = 16;
constexpr int kClocks = 33;  // of 32 warps, and of bulk copies

// MemoryBarrier is an mbarrier object, which lies in shared memory for the kernel.
struct MemoryBarrier {
  uint32_t expected = 0;       // arrivals of each phase
  uint32_t pending = 0;        // of the current one
  int64_t bytes = 0;           // that it still waits for
  uint32_t phase = 0;
  uint32_t now[kClocks] = {};  // what is ordered before the end of the current phase,
  uint32_t past[kClocks] = {}; // and before that of the one before
};

// BulkCopy is a cp.async.bulk that was begun, or an arrival that follows copies of a
// lane (cp.async.mbarrier.arrive). It happens when somebody asks its barrier.
struct BulkCopy {
  uint32_t barrier;
  uint32_t to = 0, bytes = 0;  // bytes 0: an arrival
  uint64_t from = 0;
  int warp = 0, lane = 0;
  int32_t inst = 0;
  uint32_t tick = 0;           // when it was begun; of an arrival, the group of copies
};

// Backward branches that a warp takes before the others of its block have a turn.
constexpr uint32_t kTurn = 1 << 14;

struct Block {
  const Code* code = nullptr;
  Memory* memory = nullptr;
  const uint8_t* params = nullptr;
  Dim3 grid, dim;
  unsigned index[3] = {0, 0, 0};
  unsigned threads = 0;
  int warp_count = 0;
  uint8_t* shared = nullptr;
  uint32_t shared_bytes = 0, dynamic_shared = 0;
  uint8_t* local = nullptr;       // threads × info.local_bytes
  uint32_t local_bytes = 0;
  // Race check: last writer and last readers of each granule; see shared.h.
  std::vector<uint32_t> writer, reader, atomic;  // atomic: the writer, where it was an atomic operation
  uint32_t tick = 1;
  uint32_t seen[32][kClocks] = {};  // seen[w][v]: v's accesses before this tick are ordered before w's next
  uint32_t fenced[32][32] = {};     // fenced[w][v]: v's accesses before this tick are visible to w's asynchronous ones
  std::map<uint32_t, MemoryBarrier> memory_barriers;  // by offset in shared memory
  std::vector<BulkCopy> bulk_copies;
  Barrier barriers[kBarriers];
  std::vector<Warp> warps;
  Counters counters;
  Fault* fault = nullptr;
  uint64_t steps_left = 0;        // backward branches before the block is taken to hang
};

// ---- lanes ----

template <class T>
inline const T* src(const Warp& w, Slot s) {
  return reinterpret_cast<const T*>(w.bank[s & 1] + (s & ~1u));
}
template <class T>
inline T* dst(Warp& w, Slot s) {
  return reinterpret_cast<T*>(w.regs + s);
}

// lanes sets d[l] = f(l) for the lanes of mask m; f must be harmless for any lane.
template <class T, class F>
inline __attribute__((always_inline)) void lanes(T* d, uint32_t m, F f) {
  if (__builtin_expect(m == ~0u, 1)) {
#pragma GCC ivdep
    for (int l = 0; l < 32; l++) d[l] = f(l);
  } else {
#pragma GCC ivdep
    for (int l = 0; l < 32; l++) {
      T r = f(l);
      d[l] = (m >> l) & 1 ? r : d[l];
    }
  }
}

// each_lane calls f(l) for the lanes of m only.
template <class F>
inline void each_lane(uint32_t m, F f) {
  for (; m; m &= m - 1) f(__builtin_ctz(m));
}

// pack makes a mask of 32 bytes that are 0 or 0xff.
inline uint32_t pack(const uint8_t* bytes) {
  uint32_t bits = 0;
  for (int i = 0; i < 4; i++) {
    uint64_t v;
    memcpy(&v, bytes + 8 * i, 8);
    bits |= static_cast<uint32_t>(((v & 0x0101010101010101u) * 0x0102040810204080u) >> 56) << (8 * i);
  }
  return bits;
}

template <class F>
inline __attribute__((always_inline)) uint32_t compare(F f) {
  alignas(32) uint8_t r[32];
  for (int l = 0; l < 32; l++) r[l] = f(l) ? 0xff : 0;
  return pack(r);
}

// fault fills in the block's fault for a lane and gives kFaulted.
int fault(Warp&, const Inst&, int lane, uint64_t address, const char* kind, int error, std::string text);

}  // namespace softcuda
