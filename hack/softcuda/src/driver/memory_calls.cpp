// Device memory: allocating and freeing it, at once and in a stream's order, and pools.
#include "capture.h"
#include "graph.h"
#include "objects.h"

using namespace softcuda;

namespace {

CUresult allocate(Call& call, CUdeviceptr* out, size_t bytes, std::shared_ptr<Pool> pool) {
  SOFTCUDA_TRY(need(call, out, "dptr"));
  if (!bytes) return call.fail(CUDA_ERROR_INVALID_VALUE, "0 bytes");
  Memory& memory = *call.context->device->memory;
  uint64_t address = memory.allocate(bytes);
  if (!address) {
    return call.fail(CUDA_ERROR_OUT_OF_MEMORY, std::to_string(bytes) + " bytes do not fit: " +
                                                   std::to_string(memory.used()) + " of " +
                                                   std::to_string(memory.capacity()) + " are in use (SOFTCUDA_MEMORY)");
  }
  if (pool) {
    pool->used += bytes;
    pool->high = std::max(pool->high, pool->used);
  }
  call.context->allocations[address] = {bytes, call.entry, std::move(pool)};
  *out = address;
  return CUDA_SUCCESS;
}

// The context of the current one's device that allocated address; the current one first.
std::shared_ptr<Context> owner_of(Call& call, uint64_t address) {
  if (call.context->allocations.count(address)) return call.context;
  for (const auto& other : driver().contexts) {
    std::shared_ptr<Context> context = other.lock();
    if (context && !context->destroyed && context->allocations.count(address)) return context;
  }
  return nullptr;
}

std::shared_ptr<GraphMemory> graph_memory(Call& call, uint64_t address) {
  auto found = call.context->graph_memory.find(address);
  return found == call.context->graph_memory.end() ? nullptr : found->second.lock();
}

// Frees memory at once; gives up call.lock.
CUresult release(Call& call, uint64_t address) {
  if (std::shared_ptr<GraphMemory> memory = graph_memory(call, address); memory && memory->live.exchange(false)) {
    return CUDA_SUCCESS;  // a launch of its graph allocates it again
  }
  std::shared_ptr<Context> owner = owner_of(call, address);
  if (!owner) {
    std::string kind;
    std::string why = call.context->device->memory->explain(address, 1, &kind);
    return call.fail(CUDA_ERROR_INVALID_VALUE,
                     hex(address) + " is not the start of memory that is allocated" + (why.empty() ? "" : ": " + why));
  }
  Owned owned = std::move(owner->allocations[address]);
  owner->allocations.erase(address);
  if (owned.pool) owned.pool->used -= owned.bytes;
  Device& device = *owner->device;
  call.lock.unlock();
  std::lock_guard<std::mutex> work(device.execution);  // kernels that run may use it
  device.memory->free(address);
  return CUDA_SUCCESS;
}

CUresult allocate_in_graph(Call& call, Stream& stream, CUdeviceptr* out, size_t bytes) {
  SOFTCUDA_TRY(need(call, out, "dptr"));
  if (!bytes) return call.fail(CUDA_ERROR_INVALID_VALUE, "0 bytes");
  auto memory = std::make_shared<GraphMemory>();
  memory->device = call.context->device;
  memory->bytes = bytes;
  memory->address = memory->device->memory->allocate(bytes);
  if (!memory->address) return call.fail(CUDA_ERROR_OUT_OF_MEMORY, std::to_string(bytes) + " bytes do not fit");
  SOFTCUDA_TRY(capture_node(call, stream, Allocate{memory}));
  call.context->graph_memory[memory->address] = memory;
  *out = memory->address;
  return CUDA_SUCCESS;
}

CUresult allocate_ordered(Call& call, CUdeviceptr* out, size_t bytes, std::shared_ptr<Pool> pool, CUstream handle) {
  std::shared_ptr<Stream> stream = find_stream(call, handle);
  if (!stream) return CUDA_ERROR_INVALID_HANDLE;
  if (stream->capture) return allocate_in_graph(call, *stream, out, bytes);
  if (stream->role == Stream::Role::legacy) SOFTCUDA_TRY(refuse_legacy(call));
  return allocate(call, out, bytes, std::move(pool));
}

CUresult free_ordered(Call& call, uint64_t address, CUstream handle) {
  std::shared_ptr<Stream> stream = find_stream(call, handle);
  if (!stream) return CUDA_ERROR_INVALID_HANDLE;
  if (stream->capture && !call.doomed) {
    std::shared_ptr<GraphMemory> memory = graph_memory(call, address);
    if (memory) return capture_node(call, *stream, Free{memory});
    stream->capture->invalid = true;
    return call.fail(CUDA_ERROR_INVALID_VALUE,
                     hex(address) + " was not allocated by a graph, so a graph cannot free it; the capture is invalid now");
  }
  if (stream->role == Stream::Role::legacy) SOFTCUDA_TRY(refuse_legacy(call));
  return release(call, address);
}

CUresult pool_call(Entry& entry, CUmemoryPool handle, const std::function<CUresult(Call&, Pool&)>& body) {
  return entry.call(Needs::driver, [&](Call& call) {
    std::shared_ptr<Pool> pool = find<Pool>(call, handle);
    return pool ? body(call, *pool) : CUDA_ERROR_INVALID_VALUE;
  });
}

CUresult device_pool(Entry& entry, CUmemoryPool* out, CUdevice dev, std::shared_ptr<Pool> Device::* which) {
  return entry.call(Needs::driver, [&](Call& call) {
    SOFTCUDA_TRY(need(call, out, "pool"));
    Device* device = find_device(call, dev);
    if (!device) return CUDA_ERROR_INVALID_DEVICE;
    *out = static_cast<CUmemoryPool>((device->*which)->handle);
    return CUDA_SUCCESS;
  });
}

// The attribute's place in a pool: one of the two results is set.
bool pool_attribute(Pool& pool, CUmemPool_attribute which, int** flag, uint64_t** bytes) {
  *flag = nullptr;
  *bytes = nullptr;
  switch (which) {
    case CU_MEMPOOL_ATTR_REUSE_FOLLOW_EVENT_DEPENDENCIES: *flag = &pool.follow_events; break;
    case CU_MEMPOOL_ATTR_REUSE_ALLOW_OPPORTUNISTIC: *flag = &pool.opportunistic; break;
    case CU_MEMPOOL_ATTR_REUSE_ALLOW_INTERNAL_DEPENDENCIES: *flag = &pool.internal_dependencies; break;
    case CU_MEMPOOL_ATTR_RELEASE_THRESHOLD: *bytes = &pool.release_threshold; break;
    case CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT:
    case CU_MEMPOOL_ATTR_USED_MEM_CURRENT: *bytes = &pool.used; break;
    case CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH:
    case CU_MEMPOOL_ATTR_USED_MEM_HIGH: *bytes = &pool.high; break;
    default: return false;
  }
  return true;
}

}  // namespace

SOFTCUDA_API CUresult cuMemGetInfo_v2(size_t* free, size_t* total) {
  return THIS_ENTRY(cuMemGetInfo_v2).call(Needs::context, [&](Call& call) {
    SOFTCUDA_TRY(need(call, free, "free"));
    SOFTCUDA_TRY(need(call, total, "total"));
    const Memory& memory = *call.context->device->memory;
    *total = memory.capacity();
    *free = memory.capacity() - std::min(memory.used(), memory.capacity());
    return CUDA_SUCCESS;
  });
}

SOFTCUDA_API CUresult cuMemAlloc_v2(CUdeviceptr* out, size_t bytes) {
  return THIS_ENTRY(cuMemAlloc_v2).call(Needs::context, [&](Call& call) {
    SOFTCUDA_TRY(refuse_unsafe(call));
    return allocate(call, out, bytes, nullptr);
  });
}

SOFTCUDA_API CUresult cuMemAllocPitch_v2(CUdeviceptr* out, size_t* pitch, size_t width, size_t height,
                                         unsigned int element) {
  return THIS_ENTRY(cuMemAllocPitch_v2).call(Needs::context, [&](Call& call) {
    SOFTCUDA_TRY(need(call, pitch, "pPitch"));
    if (element != 4 && element != 8 && element != 16) {
      return call.fail(CUDA_ERROR_INVALID_VALUE, "elements have 4, 8 or 16 bytes, not " + std::to_string(element));
    }
    SOFTCUDA_TRY(refuse_unsafe(call));
    constexpr size_t unit = 512;  // a row's alignment, as for textures
    if (width > SIZE_MAX - unit || (height && (width + unit) > SIZE_MAX / height)) {
      return call.fail(CUDA_ERROR_OUT_OF_MEMORY, "the rows do not fit the address space");
    }
    size_t row = (width + unit - 1) / unit * unit;
    SOFTCUDA_TRY(allocate(call, out, row * height, nullptr));
    *pitch = row;
    return CUDA_SUCCESS;
  });
}

SOFTCUDA_API CUresult cuMemFree_v2(CUdeviceptr address) {
  return THIS_ENTRY(cuMemFree_v2).releasing(Needs::context, [&](Call& call) {
    if (!address) return CUDA_SUCCESS;  // as the driver does
    SOFTCUDA_TRY(refuse_unsafe(call));
    return release(call, address);
  });
}

SOFTCUDA_API CUresult cuMemGetAddressRange_v2(CUdeviceptr* base, size_t* size, CUdeviceptr address) {
  return THIS_ENTRY(cuMemGetAddressRange_v2).call(Needs::context, [&](Call& call) {
    uint64_t start = 0;
    size_t bytes = 0;
    if (!call.context->device->memory->lookup(address, &start, &bytes)) {
      return call.fail(CUDA_ERROR_NOT_FOUND, hex(address) + " is in no memory that is allocated");
    }
    if (base) *base = start;
    if (size) *size = bytes;
    return CUDA_SUCCESS;
  });
}

SOFTCUDA_API CUresult cuMemAllocAsync(CUdeviceptr* out, size_t bytes, CUstream stream) {
  return THIS_ENTRY(cuMemAllocAsync).call(Needs::context, [&](Call& call) {
    return allocate_ordered(call, out, bytes, call.context->device->current_pool, stream);
  });
}

SOFTCUDA_API CUresult cuMemAllocFromPoolAsync(CUdeviceptr* out, size_t bytes, CUmemoryPool handle, CUstream stream) {
  return THIS_ENTRY(cuMemAllocFromPoolAsync).call(Needs::context, [&](Call& call) {
    std::shared_ptr<Pool> pool = find<Pool>(call, handle);
    if (!pool) return CUDA_ERROR_INVALID_VALUE;
    if (pool->device != call.context->device->ordinal) {
      return call.fail(CUDA_ERROR_INVALID_VALUE, "the pool is of another device");
    }
    return allocate_ordered(call, out, bytes, pool, stream);
  });
}

SOFTCUDA_API CUresult cuMemFreeAsync(CUdeviceptr address, CUstream stream) {
  return THIS_ENTRY(cuMemFreeAsync).releasing(Needs::context, [&](Call& call) {
    return free_ordered(call, address, stream);
  });
}

// --- Pools: each device has the one of its own.

SOFTCUDA_API CUresult cuDeviceGetDefaultMemPool(CUmemoryPool* pool, CUdevice dev) {
  return device_pool(THIS_ENTRY(cuDeviceGetDefaultMemPool), pool, dev, &Device::pool);
}

SOFTCUDA_API CUresult cuDeviceGetMemPool(CUmemoryPool* pool, CUdevice dev) {
  return device_pool(THIS_ENTRY(cuDeviceGetMemPool), pool, dev, &Device::current_pool);
}

SOFTCUDA_API CUresult cuDeviceSetMemPool(CUdevice dev, CUmemoryPool handle) {
  return THIS_ENTRY(cuDeviceSetMemPool).call(Needs::driver, [&](Call& call) {
    Device* device = find_device(call, dev);
    if (!device) return CUDA_ERROR_INVALID_DEVICE;
    std::shared_ptr<Pool> pool = find<Pool>(call, handle);
    if (!pool) return CUDA_ERROR_INVALID_VALUE;
    if (pool->device != dev) return call.fail(CUDA_ERROR_INVALID_VALUE, "the pool is of another device");
    device->current_pool = pool;
    return CUDA_SUCCESS;
  });
}

SOFTCUDA_API CUresult cuMemPoolTrimTo(CUmemoryPool handle, size_t) {
  return pool_call(THIS_ENTRY(cuMemPoolTrimTo), handle, [](Call&, Pool&) { return CUDA_SUCCESS; });
}

SOFTCUDA_API CUresult cuMemPoolGetAttribute(CUmemoryPool handle, CUmemPool_attribute which, void* value) {
  return pool_call(THIS_ENTRY(cuMemPoolGetAttribute), handle, [&](Call& call, Pool& pool) {
    SOFTCUDA_TRY(need(call, value, "value"));
    int* flag;
    uint64_t* bytes;
    if (!pool_attribute(pool, which, &flag, &bytes)) {
      return call.fail(CUDA_ERROR_INVALID_VALUE, "there is no pool attribute " + std::to_string(int(which)));
    }
    if (flag) {
      *static_cast<int*>(value) = *flag;
    } else {
      *static_cast<cuuint64_t*>(value) = *bytes;
    }
    return CUDA_SUCCESS;
  });
}

SOFTCUDA_API CUresult cuMemPoolSetAttribute(CUmemoryPool handle, CUmemPool_attribute which, void* value) {
  return pool_call(THIS_ENTRY(cuMemPoolSetAttribute), handle, [&](Call& call, Pool& pool) {
    SOFTCUDA_TRY(need(call, value, "value"));
    int* flag;
    uint64_t* bytes;
    if (!pool_attribute(pool, which, &flag, &bytes) || bytes == &pool.used) {
      return call.fail(CUDA_ERROR_INVALID_VALUE, "pool attribute " + std::to_string(int(which)) + " cannot be set");
    }
    if (flag) {
      *flag = *static_cast<int*>(value);
    } else if (bytes == &pool.release_threshold) {
      *bytes = *static_cast<cuuint64_t*>(value);
    } else if (*static_cast<cuuint64_t*>(value) == 0) {
      pool.high = pool.used;  // a high mark can be set back, and that is all
    } else {
      return call.fail(CUDA_ERROR_INVALID_VALUE, "a high mark can only be set to 0");
    }
    return CUDA_SUCCESS;
  });
}
