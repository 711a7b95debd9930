// Contexts: the primary one of each device with its references, created ones, the stack
// of each thread, and what can be set on one.
#include "context.h"

#include "../report.h"
#include "capture.h"
#include "host_memory.h"

namespace softcuda {
namespace {

// Says what memory a context left behind: how much, and the first few pieces.
class Leaks {
 public:
  void add(const std::string& what, const std::string& entry, size_t bytes) {
    pieces_++;
    bytes_ += bytes;
    if (pieces_ <= 5) text_ += "; " + what + " of " + std::to_string(bytes) + " bytes from " + entry;
  }
  bool any() const { return pieces_ > 0; }
  std::string text() const {
    return "the context ended with " + std::to_string(pieces_) + " allocations, " + std::to_string(bytes_) +
           " bytes, that nothing had freed" + text_ + (pieces_ > 5 ? "; …" : "");
  }

 private:
  size_t pieces_ = 0, bytes_ = 0;
  std::string text_;
};

}  // namespace

std::shared_ptr<Context> make_context(Device& device, unsigned flags, bool primary) {
  auto context = std::make_shared<Context>();
  context->device = &device;
  context->flags = flags;
  context->primary = primary;
  context->id = driver().next_id++;
  context->limits = {{CU_LIMIT_STACK_SIZE, 1024},
                     {CU_LIMIT_PRINTF_FIFO_SIZE, 1 << 20},
                     {CU_LIMIT_MALLOC_HEAP_SIZE, 8 << 20},
                     {CU_LIMIT_DEV_RUNTIME_PENDING_LAUNCH_COUNT, 2048},
                     {CU_LIMIT_MAX_L2_FETCH_GRANULARITY, 64},
                     {CU_LIMIT_PERSISTING_L2_CACHE_SIZE, 0}};
  context->legacy = std::make_shared<Stream>();
  context->legacy->role = Stream::Role::legacy;
  context->legacy->context = context;
  context->legacy->id = driver().next_id++;
  driver().handles.add(context);
  std::erase_if(driver().contexts, [](const std::weak_ptr<Context>& weak) { return weak.expired(); });
  driver().contexts.push_back(context);
  return context;
}

CUresult end_context(Call& call, const std::shared_ptr<Context>& context) {
  Driver& d = driver();
  context->destroyed = true;
  end_captures(*context);
  for (void* handle : context->handles) {
    if (auto module = d.handles.get<LoadedModule>(handle)) {
      for (auto& [name, function] : module->functions) {
        function->unloaded = true;
        d.handles.remove(function->handle);
      }
    }
    d.handles.remove(handle);
  }
  d.handles.remove(context->handle);
  context->handles.clear();

  Leaks leaks;
  std::map<uint64_t, Owned> allocations;
  allocations.swap(context->allocations);
  for (auto& [address, owned] : allocations) {
    leaks.add("device memory " + hex(address), owned.entry, owned.bytes);
    if (owned.pool) owned.pool->used -= owned.bytes;
  }
  std::map<uintptr_t, HostBlock> host = take_host_blocks(context);
  for (auto& [address, block] : host) leaks.add("host memory " + hex(address), block.entry, block.bytes);

  call.lock.unlock();
  {
    std::lock_guard<std::mutex> work(context->device->execution);
    for (auto& [address, owned] : allocations) context->device->memory->free(address);
  }
  for (auto& [address, block] : host) free_host_block(address, block);
  if (!leaks.any()) return CUDA_SUCCESS;
  report(kind::leak, 0, std::string(call.entry) + ": " + leaks.text());
  return config().strict ? call.fail(CUDA_ERROR_UNKNOWN, "memory leaked, and SOFTCUDA_STRICT is 1") : CUDA_SUCCESS;
}

}  // namespace softcuda

using namespace softcuda;

namespace {

CUresult check_flags(Call& call, unsigned flags) {
  unsigned schedule = flags & CU_CTX_SCHED_MASK;
  bool one = schedule == CU_CTX_SCHED_AUTO || schedule == CU_CTX_SCHED_SPIN || schedule == CU_CTX_SCHED_YIELD ||
             schedule == CU_CTX_SCHED_BLOCKING_SYNC;
  if (one && !(flags & ~unsigned(CU_CTX_FLAGS_MASK))) return CUDA_SUCCESS;
  return call.fail(CUDA_ERROR_INVALID_VALUE, "context flags " + hex(flags) + " are not valid");
}

CUresult create(Call& call, CUcontext* out, unsigned flags, CUdevice dev) {
  SOFTCUDA_TRY(need(call, out, "pctx"));
  SOFTCUDA_TRY(check_flags(call, flags));
  Device* device = find_device(call, dev);
  if (!device) return CUDA_ERROR_INVALID_DEVICE;
  std::shared_ptr<Context> context = make_context(*device, flags, false);
  this_thread().contexts.push_back(context);
  *out = static_cast<CUcontext>(context->handle);
  return CUDA_SUCCESS;
}

CUcontext handle_of(const std::shared_ptr<Context>& context) { return static_cast<CUcontext>(context->handle); }

// Ends the primary context of a device.
CUresult end_primary(Call& call, Device& device) {
  std::shared_ptr<Context> context = std::move(device.primary);
  device.primary = nullptr;
  device.primary_references = 0;
  return end_context(call, context);
}

// For entries about the current context that work with a sticky error too.
CUresult about_current(Entry& entry, const std::function<CUresult(Call&, Context&)>& body) {
  return entry.call(Needs::driver, [&](Call& call) {
    Thread& thread = this_thread();
    if (thread.contexts.empty()) {
      return call.fail(CUDA_ERROR_INVALID_CONTEXT, "no context is current on this thread; cuCtxSetCurrent it first");
    }
    call.context = thread.contexts.back();
    if (call.context->destroyed) {
      return call.fail(CUDA_ERROR_CONTEXT_IS_DESTROYED, "the context that is current on this thread was destroyed");
    }
    return body(call, *call.context);
  });
}

std::shared_ptr<Context> find_context(Call& call, CUcontext handle) { return find<Context>(call, handle); }

}  // namespace

// --- Primary contexts.

SOFTCUDA_API CUresult cuDevicePrimaryCtxRetain(CUcontext* out, CUdevice dev) {
  return THIS_ENTRY(cuDevicePrimaryCtxRetain).call(Needs::driver, [&](Call& call) {
    SOFTCUDA_TRY(need(call, out, "pctx"));
    Device* device = find_device(call, dev);
    if (!device) return CUDA_ERROR_INVALID_DEVICE;
    if (!device->primary) device->primary = make_context(*device, device->primary_flags, true);
    device->primary_references++;
    *out = handle_of(device->primary);
    return CUDA_SUCCESS;
  });
}

SOFTCUDA_API CUresult cuDevicePrimaryCtxRelease_v2(CUdevice dev) {
  return THIS_ENTRY(cuDevicePrimaryCtxRelease_v2).releasing(Needs::driver, [&](Call& call) {
    Device* device = find_device(call, dev);
    if (!device) return CUDA_ERROR_INVALID_DEVICE;
    if (!device->primary_references) {
      return call.fail(CUDA_ERROR_INVALID_CONTEXT, "the primary context is not retained");
    }
    if (--device->primary_references) return CUDA_SUCCESS;
    return end_primary(call, *device);
  });
}

SOFTCUDA_API CUresult cuDevicePrimaryCtxReset_v2(CUdevice dev) {
  return THIS_ENTRY(cuDevicePrimaryCtxReset_v2).releasing(Needs::driver, [&](Call& call) {
    Device* device = find_device(call, dev);
    if (!device) return CUDA_ERROR_INVALID_DEVICE;
    return device->primary ? end_primary(call, *device) : CUDA_SUCCESS;
  });
}

SOFTCUDA_API CUresult cuDevicePrimaryCtxSetFlags_v2(CUdevice dev, unsigned int flags) {
  return THIS_ENTRY(cuDevicePrimaryCtxSetFlags_v2).call(Needs::driver, [&](Call& call) {
    Device* device = find_device(call, dev);
    if (!device) return CUDA_ERROR_INVALID_DEVICE;
    SOFTCUDA_TRY(check_flags(call, flags));
    device->primary_flags = flags;
    if (device->primary) device->primary->flags = flags;
    return CUDA_SUCCESS;
  });
}

SOFTCUDA_API CUresult cuDevicePrimaryCtxGetState(CUdevice dev, unsigned int* flags, int* active) {
  return THIS_ENTRY(cuDevicePrimaryCtxGetState).call(Needs::driver, [&](Call& call) {
    Device* device = find_device(call, dev);
    if (!device) return CUDA_ERROR_INVALID_DEVICE;
    SOFTCUDA_TRY(need(call, flags, "flags"));
    SOFTCUDA_TRY(need(call, active, "active"));
    *flags = device->primary_flags;
    *active = device->primary ? 1 : 0;
    return CUDA_SUCCESS;
  });
}

// --- Created contexts.

SOFTCUDA_API CUresult cuCtxCreate_v2(CUcontext* out, unsigned int flags, CUdevice dev) {
  return THIS_ENTRY(cuCtxCreate_v2).call(Needs::driver, [&](Call& call) { return create(call, out, flags, dev); });
}

SOFTCUDA_API CUresult cuCtxCreate_v3(CUcontext* out, CUexecAffinityParam*, int count, unsigned int flags,
                                     CUdevice dev) {
  return THIS_ENTRY(cuCtxCreate_v3).call(Needs::driver, [&](Call& call) {
    if (count) return call.fail(CUDA_ERROR_UNSUPPORTED_EXEC_AFFINITY, "the software device has no affinities");
    return create(call, out, flags, dev);
  });
}

SOFTCUDA_API CUresult cuCtxDestroy_v2(CUcontext handle) {
  return THIS_ENTRY(cuCtxDestroy_v2).releasing(Needs::driver, [&](Call& call) {
    std::shared_ptr<Context> context = find_context(call, handle);
    if (!context) return CUDA_ERROR_INVALID_CONTEXT;
    if (context->primary) {
      return call.fail(CUDA_ERROR_INVALID_CONTEXT,
                       "this is a device's primary context; cuDevicePrimaryCtxRelease ends it");
    }
    std::vector<std::shared_ptr<Context>>& stack = this_thread().contexts;
    if (!stack.empty() && stack.back() == context) stack.pop_back();
    return end_context(call, context);
  });
}

// --- The thread's stack.

SOFTCUDA_API CUresult cuCtxPushCurrent_v2(CUcontext handle) {
  return THIS_ENTRY(cuCtxPushCurrent_v2).call(Needs::driver, [&](Call& call) {
    std::shared_ptr<Context> context = find_context(call, handle);
    if (!context) return CUDA_ERROR_INVALID_CONTEXT;
    this_thread().contexts.push_back(context);
    return CUDA_SUCCESS;
  });
}

SOFTCUDA_API CUresult cuCtxPopCurrent_v2(CUcontext* out) {
  return THIS_ENTRY(cuCtxPopCurrent_v2).call(Needs::driver, [&](Call& call) {
    std::vector<std::shared_ptr<Context>>& stack = this_thread().contexts;
    if (stack.empty()) return call.fail(CUDA_ERROR_INVALID_CONTEXT, "no context is current on this thread");
    if (out) *out = handle_of(stack.back());
    stack.pop_back();
    return CUDA_SUCCESS;
  });
}

SOFTCUDA_API CUresult cuCtxSetCurrent(CUcontext handle) {
  return THIS_ENTRY(cuCtxSetCurrent).call(Needs::driver, [&](Call& call) {
    std::vector<std::shared_ptr<Context>>& stack = this_thread().contexts;
    std::shared_ptr<Context> context;
    if (handle && !(context = find_context(call, handle))) return CUDA_ERROR_INVALID_CONTEXT;
    if (!stack.empty()) stack.pop_back();
    if (context) stack.push_back(context);
    return CUDA_SUCCESS;
  });
}

SOFTCUDA_API CUresult cuCtxGetCurrent(CUcontext* out) {
  return THIS_ENTRY(cuCtxGetCurrent).call(Needs::driver, [&](Call& call) {
    SOFTCUDA_TRY(need(call, out, "pctx"));
    std::vector<std::shared_ptr<Context>>& stack = this_thread().contexts;
    *out = stack.empty() ? nullptr : handle_of(stack.back());
    return CUDA_SUCCESS;
  });
}

SOFTCUDA_API CUresult cuCtxGetDevice(CUdevice* device) {
  return about_current(THIS_ENTRY(cuCtxGetDevice), [&](Call& call, Context& context) {
    SOFTCUDA_TRY(need(call, device, "device"));
    *device = context.device->ordinal;
    return CUDA_SUCCESS;
  });
}

// --- What a context is and how it is set.

SOFTCUDA_API CUresult cuCtxGetFlags(unsigned int* flags) {
  return about_current(THIS_ENTRY(cuCtxGetFlags), [&](Call& call, Context& context) {
    SOFTCUDA_TRY(need(call, flags, "flags"));
    *flags = context.flags;
    return CUDA_SUCCESS;
  });
}

SOFTCUDA_API CUresult cuCtxSetFlags(unsigned int flags) {
  return about_current(THIS_ENTRY(cuCtxSetFlags), [&](Call& call, Context& context) {
    SOFTCUDA_TRY(check_flags(call, flags));
    context.flags = flags;
    return CUDA_SUCCESS;
  });
}

SOFTCUDA_API CUresult cuCtxGetId(CUcontext handle, unsigned long long* id) {
  return THIS_ENTRY(cuCtxGetId).call(Needs::driver, [&](Call& call) {
    SOFTCUDA_TRY(need(call, id, "ctxId"));
    std::vector<std::shared_ptr<Context>>& stack = this_thread().contexts;
    std::shared_ptr<Context> context = handle ? find_context(call, handle) : stack.empty() ? nullptr : stack.back();
    if (!context) return CUDA_ERROR_INVALID_CONTEXT;
    *id = context->id;
    return CUDA_SUCCESS;
  });
}

SOFTCUDA_API CUresult cuCtxGetApiVersion(CUcontext handle, unsigned int* version) {
  return THIS_ENTRY(cuCtxGetApiVersion).call(Needs::driver, [&](Call& call) {
    SOFTCUDA_TRY(need(call, version, "version"));
    if (handle && !find_context(call, handle)) return CUDA_ERROR_INVALID_CONTEXT;
    *version = 3020;  // the version of the context interface, not of CUDA
    return CUDA_SUCCESS;
  });
}

SOFTCUDA_API CUresult cuCtxSynchronize(void) {
  return THIS_ENTRY(cuCtxSynchronize).call(Needs::context, [&](Call& call) {
    SOFTCUDA_TRY(refuse_captures_of_context(call));
    Device& device = *call.context->device;
    std::shared_ptr<Context> context = call.context;
    call.lock.unlock();
    std::lock_guard<std::mutex> work(device.execution);
    if (context->error) return call.fail(CUresult(context->error.load()), "a kernel faulted");
    return CUDA_SUCCESS;
  });
}

SOFTCUDA_API CUresult cuCtxSetLimit(CUlimit limit, size_t value) {
  return THIS_ENTRY(cuCtxSetLimit).call(Needs::context, [&](Call& call) {
    auto found = call.context->limits.find(limit);
    if (found == call.context->limits.end()) {
      return call.fail(CUDA_ERROR_UNSUPPORTED_LIMIT, "the device has no limit " + std::to_string(int(limit)));
    }
    found->second = value;
    return CUDA_SUCCESS;
  });
}

SOFTCUDA_API CUresult cuCtxGetLimit(size_t* value, CUlimit limit) {
  return THIS_ENTRY(cuCtxGetLimit).call(Needs::context, [&](Call& call) {
    SOFTCUDA_TRY(need(call, value, "pvalue"));
    auto found = call.context->limits.find(limit);
    if (found == call.context->limits.end()) {
      return call.fail(CUDA_ERROR_UNSUPPORTED_LIMIT, "the device has no limit " + std::to_string(int(limit)));
    }
    *value = found->second;
    return CUDA_SUCCESS;
  });
}

SOFTCUDA_API CUresult cuCtxGetCacheConfig(CUfunc_cache* out) {
  return THIS_ENTRY(cuCtxGetCacheConfig).call(Needs::context, [&](Call& call) {
    SOFTCUDA_TRY(need(call, out, "pconfig"));
    *out = call.context->cache;
    return CUDA_SUCCESS;
  });
}

SOFTCUDA_API CUresult cuCtxSetCacheConfig(CUfunc_cache value) {
  return THIS_ENTRY(cuCtxSetCacheConfig).call(Needs::context, [&](Call& call) {
    if (value < CU_FUNC_CACHE_PREFER_NONE || value > CU_FUNC_CACHE_PREFER_EQUAL) {
      return call.fail(CUDA_ERROR_INVALID_VALUE, "there is no cache preference " + std::to_string(int(value)));
    }
    call.context->cache = value;
    return CUDA_SUCCESS;
  });
}

SOFTCUDA_API CUresult cuCtxGetSharedMemConfig(CUsharedconfig* out) {
  return THIS_ENTRY(cuCtxGetSharedMemConfig).call(Needs::context, [&](Call& call) {
    SOFTCUDA_TRY(need(call, out, "pConfig"));
    *out = CU_SHARED_MEM_CONFIG_FOUR_BYTE_BANK_SIZE;  // what every device of today has
    return CUDA_SUCCESS;
  });
}

SOFTCUDA_API CUresult cuCtxSetSharedMemConfig(CUsharedconfig value) {
  return THIS_ENTRY(cuCtxSetSharedMemConfig).call(Needs::context, [&](Call& call) {
    if (value < CU_SHARED_MEM_CONFIG_DEFAULT_BANK_SIZE || value > CU_SHARED_MEM_CONFIG_EIGHT_BYTE_BANK_SIZE) {
      return call.fail(CUDA_ERROR_INVALID_VALUE, "there is no bank size " + std::to_string(int(value)));
    }
    call.context->shared_config = value;  // accepted and without effect, as on a device
    return CUDA_SUCCESS;
  });
}

SOFTCUDA_API CUresult cuCtxGetStreamPriorityRange(int* least, int* greatest) {
  return THIS_ENTRY(cuCtxGetStreamPriorityRange).call(Needs::context, [&](Call&) {
    if (least) *least = kLeastPriority;
    if (greatest) *greatest = kGreatestPriority;
    return CUDA_SUCCESS;
  });
}

SOFTCUDA_API CUresult cuCtxResetPersistingL2Cache(void) {
  return THIS_ENTRY(cuCtxResetPersistingL2Cache).call(Needs::context, [](Call&) { return CUDA_SUCCESS; });
}
