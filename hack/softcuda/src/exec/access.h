// Where the lanes of an access find their bytes on the host, after every check.
#pragma once

#include "decode.h"

namespace softcuda {

enum class Where : uint8_t { generic, global, shared, local, param };

// What resolve needs to know besides the base register; kept in Inst::x.
struct AccessForm {
  Where where;
  uint8_t bytes;  // a lane's: 1 to 16
  bool narrow;    // the base register has 32 bits
  uint32_t packed() const { return static_cast<uint32_t>(where) | static_cast<uint32_t>(bytes) << 8 | (narrow ? 1u << 16 : 0); }
  static AccessForm of(uint32_t x) { return {static_cast<Where>(x & 0xff), static_cast<uint8_t>(x >> 8 & 0xff), (x & 1u << 16) != 0}; }
};

enum class Kind : uint8_t { load, store, atomic };

struct Access {
  bool run = false;     // all 32 lanes, side by side from host[0]
  bool same = false;    // all 32 lanes load from host[0]
  uint32_t shared = 0;  // lanes in shared memory
  uint8_t* host[32];
};

// resolve checks an access of the warp's masked lanes: inside a live allocation,
// aligned, written before a load, no race. values, for a store, are 32 rows of bytes.
int resolve(Warp&, const Inst&, Slot base, Kind, const uint8_t* values, Access&);

// global_source checks what one lane will read of global memory (cp.async).
int global_source(Warp&, const Inst&, int lane, uint64_t address, unsigned bytes);
// count_global adds an access to the counters.
void count_global(Warp&, const uint64_t* address, uint32_t m, unsigned bytes, bool store);

// place_access reads the state space of ld, st, atom and red, and the address operand.
struct Placed {
  AccessForm form;
  Ref base;
  int64_t offset;
};
Placed place_access(Decoder&, const ptx::Operand&, ptx::Space, unsigned bytes);
// space_modifier takes .global, .shared and so on; generic when there is none.
ptx::Space space_modifier(Decoder&);
// cache_modifiers takes what only steers caches.
void cache_modifiers(Decoder&);

}  // namespace softcuda
