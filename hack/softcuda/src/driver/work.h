// Work is one thing that a stream does or a node of a graph holds: a launch, a copy, a
// set, a host function, an event, memory that comes or goes.
#pragma once

#include <variant>

#include "objects.h"

namespace softcuda {

struct Launch {
  std::shared_ptr<Function> function;
  Dim3 grid, block;
  unsigned dynamic_shared = 0;
  std::vector<uint8_t> parameters;  // laid out as the kernel wants them
  bool cooperative = false;
};

using Copy = CUDA_MEMCPY3D;
using Set = CUDA_MEMSET_NODE_PARAMS;
using HostCall = CUDA_HOST_NODE_PARAMS;

struct RecordEvent {
  std::shared_ptr<Event> event;
};
struct WaitEvent {
  std::shared_ptr<Event> event;
};

// GraphMemory is memory that a graph allocates. It has its address from the capture on
// and keeps it; `live` says whether a launch has allocated it and nothing has freed it.
struct GraphMemory {
  Device* device = nullptr;
  uint64_t address = 0;
  size_t bytes = 0;
  std::atomic<bool> live{false};
  ~GraphMemory();
};
struct Allocate {
  std::shared_ptr<GraphMemory> memory;
};
struct Free {
  std::shared_ptr<GraphMemory> memory;
};

struct Subgraph {
  std::shared_ptr<Graph> graph;
};

// In the order of kNodeTypes; monostate is a node that only orders others.
using Work = std::variant<std::monostate, Launch, Copy, Set, HostCall, RecordEvent, WaitEvent, Allocate, Free, Subgraph>;

CUgraphNodeType node_type(const Work&);

// enqueue does the work in the stream's order: at once, or as a node when the stream is
// captured. It gives up call.lock when it works.
CUresult enqueue(Call&, const std::shared_ptr<Stream>&, Work);

// perform does the work now. It is called without driver().lock and with
// device.execution, which it gives up around host functions. A kernel's fault sticks to
// the context and is no error of perform, as on a device, unless CUDA_LAUNCH_BLOCKING.
CUresult perform(Call&, Context&, const Work&, std::unique_lock<std::mutex>& execution);

// --- Copies and sets (copy.cpp).

// check_copy refuses what can be told before: arrays, null and unknown addresses.
CUresult check_copy(Call&, const Copy&);
CUresult check_set(Call&, const Set&);
CUresult perform_copy(Call&, Context&, const Copy&);
CUresult perform_set(Call&, Context&, const Set&);
// linear is a copy of bytes in one run.
Copy linear(CUmemorytype dst_type, uint64_t dst, CUmemorytype src_type, uint64_t src, size_t bytes);

// --- Launches (launch.cpp).

// make_launch checks a launch against the kernel and the device and packs its
// parameters.
CUresult make_launch(Call&, const CUDA_KERNEL_NODE_PARAMS&, bool cooperative, Launch* out);
CUresult perform_launch(Call&, Context&, const Launch&);

}  // namespace softcuda
