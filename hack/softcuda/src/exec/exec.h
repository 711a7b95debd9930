// The interface between the driver's entry points and the interpreter: a module's
// program, and running a grid of one of its kernels.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "../fault.h"
#include "../memory.h"

namespace softcuda {

// The newest .version that parse takes: that of CUDA 12.4.
inline constexpr int kPtxVersion = 84;

struct Dim3 {
  unsigned x = 1, y = 1, z = 1;
  uint64_t count() const { return uint64_t{x} * y * z; }
};

// Counters add up over launches. A sector is 32 aligned bytes of global memory; a
// warp's access counts each sector that it touches once, as no cache did.
struct Counters {
  uint64_t launches = 0;
  uint64_t instructions = 0;          // warp instructions
  uint64_t global_load_sectors = 0;
  uint64_t global_store_sectors = 0;
  uint64_t global_load_bytes = 0;     // asked for by lanes
  uint64_t global_store_bytes = 0;
  uint64_t shared_accesses = 0;       // warp instructions on shared memory
  uint64_t bank_conflicts = 0;        // extra passes that banks of 4 bytes cost
  uint64_t uncoalesced = 0;           // sectors beyond the fewest that the bytes need
  uint64_t barriers = 0;              // arrivals of warps at block barriers
  uint64_t atomics = 0;               // lanes' atomic operations
  void add(const Counters&);
};

// KernelInfo is what a launch must know of an entry.
struct KernelInfo {
  std::string name;
  std::vector<uint32_t> param_offsets, param_sizes;  // bytes, in the order declared
  size_t param_bytes = 0;     // of all parameters with padding
  size_t static_shared = 0;   // bytes
  size_t local_bytes = 0;     // a thread's
  size_t const_bytes = 0;     // the module's
  unsigned max_threads = 1024;            // .maxntid / .reqntid, else 1024
  unsigned required_block[3] = {0, 0, 0};  // .reqntid; zeros when not given
  unsigned regs = 0;          // 32-bit registers live at most at once, an estimate
  int required_sm = 0;        // of .target: 80 for sm_80
  int ptx_version = 0;        // 84 for 8.4
};

struct Module;  // the decoded program

// Program is one module: its kernels and its variables in device memory, which are
// released with it. The Memory must outlive it.
class Program {
 public:
  // parse gives null and an error that names the line and what is wrong with it for
  // text that is not PTX, for an instruction or modifier that the interpreter does not
  // know, for a .target newer than device_sm and for a .version newer than
  // kPtxVersion. When memory for variables runs out the error says so.
  static std::unique_ptr<Program> parse(std::string_view ptx, int device_sm, Memory&, std::string* error);
  ~Program();
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;

  const KernelInfo* kernel(const std::string& name) const;
  std::vector<std::string> kernels() const;
  // global finds a .global or .const variable that the module defines.
  bool global(const std::string& name, uint64_t* address, size_t* bytes) const;

  const Module& module() const { return *module_; }

 private:
  explicit Program(std::unique_ptr<Module>);
  std::unique_ptr<Module> module_;
};

// run executes a grid to its end on at most `threads` host threads, blocks in
// parallel; the result does not depend on how many. params holds info.param_bytes
// bytes laid out by param_offsets. False: *fault tells the first fault of the block
// that comes first among those that faulted; memory keeps what was written until then.
// Counters are added to *counters, which may be null.
bool run(const Program&, const KernelInfo& info, Dim3 grid, Dim3 block, size_t dynamic_shared,
         const void* params, Memory&, unsigned threads, Counters*, Fault*);

// step_limit sets how many backward branches a block's warps may take together before
// the block is taken to hang (a "timeout" fault); 0 sets the default, 2^33.
void step_limit(uint64_t);

}  // namespace softcuda
