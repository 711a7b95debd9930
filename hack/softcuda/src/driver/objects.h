// The driver's state: devices, contexts, modules, functions, streams, events, and what
// a thread knows. All of it is guarded by driver().lock, unless a comment says otherwise.
#pragma once

#include <atomic>
#include <chrono>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <unordered_set>
#include <vector>

#include "../../include/cuda.h"
#include "../exec/exec.h"
#include "config.h"
#include "entry.h"
#include "handles.h"

namespace softcuda {

struct Capture;
struct Context;
struct Graph;
struct GraphMemory;
struct Node;

// Pool is a device's memory pool. Memory goes back to the device at once, so that its
// reserved bytes are those in use.
struct Pool : Object {
  static constexpr Kind kKind = Kind::pool;
  int device = 0;
  uint64_t release_threshold = 0;
  int follow_events = 1, opportunistic = 1, internal_dependencies = 1;
  uint64_t used = 0, high = 0;
};

struct Device {
  int ordinal = 0;
  std::unique_ptr<Memory> memory;       // thread safe
  std::mutex execution;                 // held while a kernel, a copy or a free works; driver().lock is not taken before it
  std::shared_ptr<Context> primary;     // null when it is not active
  unsigned primary_references = 0;
  unsigned primary_flags = 0;
  std::shared_ptr<Pool> pool, current_pool;
};

struct Function : Object {
  static constexpr Kind kKind = Kind::function;
  std::shared_ptr<Program> program;     // outlives its module while a graph holds the function
  const KernelInfo* info = nullptr;     // of program
  void* module = nullptr;
  std::weak_ptr<Context> context;
  int dynamic_shared_limit = 0;         // cuFuncSetAttribute
  int carveout = CU_SHAREDMEM_CARVEOUT_DEFAULT;
  std::atomic<bool> unloaded{false};
};

struct LoadedModule : Object {
  static constexpr Kind kKind = Kind::module;
  std::shared_ptr<Program> program;
  std::weak_ptr<Context> context;
  std::map<std::string, std::shared_ptr<Function>> functions;  // those asked for
};

// Lower numbers go first.
inline constexpr int kLeastPriority = 0, kGreatestPriority = -5;

struct Stream : Object {
  static constexpr Kind kKind = Kind::stream;
  enum class Role { created, legacy, per_thread };
  Role role = Role::created;
  std::weak_ptr<Context> context;
  unsigned flags = CU_STREAM_DEFAULT;
  int priority = 0;
  uint64_t id = 0;
  std::shared_ptr<Capture> capture;             // null when the stream is not captured
  std::vector<std::shared_ptr<Node>> tail;      // what the next captured node depends on
  std::vector<CUgraphNode> tail_handles;        // what cuStreamGetCaptureInfo gave out

  bool blocking() const { return !(flags & CU_STREAM_NON_BLOCKING); }
};

struct Event : Object {
  static constexpr Kind kKind = Kind::event;
  std::weak_ptr<Context> context;
  unsigned flags = CU_EVENT_DEFAULT;
  bool recorded = false;
  std::chrono::steady_clock::time_point time;
  std::shared_ptr<Capture> capture;             // the capture that it was last recorded in
  std::vector<std::shared_ptr<Node>> position;  // in that capture
};

// Allocation of device memory by a context, for leaks and for ends of contexts.
struct Owned {
  size_t bytes = 0;
  std::string entry;                 // which call made it
  std::shared_ptr<Pool> pool;        // of cuMemAllocAsync
};

struct Context : Object {
  static constexpr Kind kKind = Kind::context;
  Device* device = nullptr;
  bool primary = false;
  bool destroyed = false;
  unsigned flags = 0;
  uint64_t id = 0;
  std::atomic<int> error{0};         // sticky; set without the lock
  std::map<uint64_t, Owned> allocations;
  std::map<uint64_t, std::weak_ptr<GraphMemory>> graph_memory;
  std::map<CUlimit, size_t> limits;
  CUfunc_cache cache = CU_FUNC_CACHE_PREFER_NONE;
  CUsharedconfig shared_config = CU_SHARED_MEM_CONFIG_DEFAULT_BANK_SIZE;
  std::shared_ptr<Stream> legacy;
  std::map<std::thread::id, std::shared_ptr<Stream>> per_thread;
  std::unordered_set<void*> handles;  // its modules, streams and events
};

// HostBlock is host memory that the driver knows of: allocated by it, or registered.
struct HostBlock {
  size_t bytes = 0;
  size_t mapped = 0;                 // 0 when registered
  unsigned flags = 0;
  std::weak_ptr<Context> context;
  std::string entry;
};

struct Driver {
  std::mutex lock;
  bool initialised = false;
  std::vector<std::unique_ptr<Device>> devices;
  Handles handles;
  std::vector<std::weak_ptr<Context>> contexts;
  std::list<std::shared_ptr<Capture>> captures;  // in progress, invalidated ones too
  std::map<uintptr_t, HostBlock> host;
  std::atomic<int> lost{0};          // an injected error that sticks to all contexts
  uint64_t next_id = 1;
};

// driver gives the process's one driver; it is never destroyed.
Driver& driver();

// Thread is what the driver knows of the calling thread.
struct Thread {
  std::vector<std::shared_ptr<Context>> contexts;  // the last is current
  CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_GLOBAL;
  bool in_callback = false;
};
Thread& this_thread();

// --- Finding what a handle means. Each gives null and fills call.why.

template <class T>
std::shared_ptr<T> find(Call& call, const void* handle) {
  std::shared_ptr<T> object = driver().handles.get<T>(handle);
  if (!object) call.why = driver().handles.explain(T::kKind, handle);
  return object;
}

Device* find_device(Call&, CUdevice);

// find_stream knows the default streams too, and refuses a stream of another context.
std::shared_ptr<Stream> find_stream(Call&, CUstream);

// hex writes an address as messages have it.
std::string hex(uint64_t);

inline CUresult need(Call& call, const void* pointer, const char* name) {
  if (pointer) return CUDA_SUCCESS;
  return call.fail(CUDA_ERROR_INVALID_VALUE, std::string(name) + " is null");
}

}  // namespace softcuda

// Gives the error of an expression from the enclosing function, if it is one.
#define SOFTCUDA_TRY(expression)                             \
  do {                                                       \
    CUresult result_of_try = (expression);                   \
    if (result_of_try != CUDA_SUCCESS) return result_of_try; \
  } while (false)
