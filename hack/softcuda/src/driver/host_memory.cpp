// Pinned host memory, registered host memory, and what a pointer is.
#include "host_memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstring>

#include "../report.h"
#include "capture.h"

namespace softcuda {
namespace {

constexpr unsigned char kGuard = 0xa5;  // behind a pinned buffer, to the end of its page

size_t page() { return size_t(sysconf(_SC_PAGESIZE)); }

}  // namespace

std::map<uintptr_t, HostBlock> take_host_blocks(const std::shared_ptr<Context>& context) {
  std::map<uintptr_t, HostBlock> taken;
  auto& all = driver().host;
  for (auto at = all.begin(); at != all.end();) {
    if (at->second.context.lock() == context) {
      taken.insert(*at);
      at = all.erase(at);
    } else {
      ++at;
    }
  }
  return taken;
}

void free_host_block(uintptr_t address, const HostBlock& block) {
  if (!block.mapped) return;  // registered: not ours
  const auto* bytes = reinterpret_cast<const unsigned char*>(address);
  for (size_t i = block.bytes; i < block.mapped; i++) {
    if (bytes[i] == kGuard) continue;
    report(kind::overrun, 0, "byte " + std::to_string(i) + " of pinned memory " + hex(address) + ", which has " +
                                 std::to_string(block.bytes) + " bytes (" + block.entry + "), was written");
    break;
  }
  munmap(reinterpret_cast<void*>(address), block.mapped);
}

}  // namespace softcuda

using namespace softcuda;

namespace {

CUresult allocate(Call& call, void** out, size_t bytes, unsigned flags) {
  SOFTCUDA_TRY(need(call, out, "pp"));
  constexpr unsigned known = CU_MEMHOSTALLOC_PORTABLE | CU_MEMHOSTALLOC_DEVICEMAP | CU_MEMHOSTALLOC_WRITECOMBINED;
  if (flags & ~known) return call.fail(CUDA_ERROR_INVALID_VALUE, "flags " + hex(flags) + " are not valid");
  if (!bytes) return call.fail(CUDA_ERROR_INVALID_VALUE, "0 bytes");
  SOFTCUDA_TRY(refuse_unsafe(call));
  if (bytes > SIZE_MAX / 2) return call.fail(CUDA_ERROR_OUT_OF_MEMORY, std::to_string(bytes) + " bytes do not fit");
  size_t mapped = (bytes + page() - 1) / page() * page();
  void* memory = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return call.fail(CUDA_ERROR_OUT_OF_MEMORY, std::to_string(bytes) + " bytes do not fit");
  std::memset(static_cast<char*>(memory) + bytes, kGuard, mapped - bytes);
  driver().host[reinterpret_cast<uintptr_t>(memory)] = {bytes, mapped, flags, call.context, call.entry};
  *out = memory;
  return CUDA_SUCCESS;
}

// The block that holds an address; end() if none does.
std::map<uintptr_t, HostBlock>::iterator block_of(uintptr_t address) {
  auto& all = driver().host;
  auto at = all.upper_bound(address);
  if (at == all.begin()) return all.end();
  --at;
  return address - at->first < at->second.bytes ? at : all.end();
}

// An entry about a block that p is the start of, or in.
CUresult block_call(Entry& entry, void* p, const std::function<CUresult(Call&, HostBlock&)>& body) {
  return entry.call(Needs::context, [&](Call& call) {
    auto found = block_of(reinterpret_cast<uintptr_t>(p));
    if (found != driver().host.end()) return body(call, found->second);
    return call.fail(CUDA_ERROR_INVALID_VALUE, hex(reinterpret_cast<uintptr_t>(p)) + " is in no pinned or registered memory");
  });
}

// What a pointer is: device memory, or host memory that the driver knows.
struct Pointer {
  uint64_t address = 0, base = 0;
  size_t bytes = 0;
  bool device = false;
  int ordinal = 0;
  std::shared_ptr<Context> context;
};

bool find_pointer(uint64_t address, Pointer* out) {
  out->address = address;
  for (const auto& device : driver().devices) {
    if (!device->memory->lookup(address, &out->base, &out->bytes)) continue;
    out->device = true;
    out->ordinal = device->ordinal;
    for (const auto& weak : driver().contexts) {
      std::shared_ptr<Context> context = weak.lock();
      if (context && context->device == device.get() && context->allocations.count(out->base)) out->context = context;
    }
    return true;
  }
  auto found = block_of(address);
  if (found == driver().host.end()) return false;
  out->base = found->first;
  out->bytes = found->second.bytes;
  out->context = found->second.context.lock();
  if (out->context) out->ordinal = out->context->device->ordinal;
  return true;
}

CUresult pointer_attribute(Call& call, const Pointer& p, CUpointer_attribute which, void* data) {
  SOFTCUDA_TRY(need(call, data, "data"));
  switch (which) {
    case CU_POINTER_ATTRIBUTE_CONTEXT:
      *static_cast<CUcontext*>(data) = p.context ? static_cast<CUcontext>(p.context->handle) : nullptr;
      return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_MEMORY_TYPE:
      *static_cast<unsigned*>(data) = p.device ? CU_MEMORYTYPE_DEVICE : CU_MEMORYTYPE_HOST;
      return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_DEVICE_POINTER:
      if (!p.device) break;
      *static_cast<CUdeviceptr*>(data) = p.address;
      return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_HOST_POINTER:
      if (p.device) break;
      *static_cast<void**>(data) = reinterpret_cast<void*>(p.address);
      return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_IS_MANAGED:
    case CU_POINTER_ATTRIBUTE_SYNC_MEMOPS:
    case CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE:
    case CU_POINTER_ATTRIBUTE_IS_GPU_DIRECT_RDMA_CAPABLE:
      *static_cast<unsigned*>(data) = 0;
      return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_MAPPED:
      *static_cast<unsigned*>(data) = 1;
      return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL:
      *static_cast<int*>(data) = p.ordinal;
      return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_RANGE_START_ADDR:
      *static_cast<CUdeviceptr*>(data) = p.base;
      return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_RANGE_SIZE:
      *static_cast<size_t*>(data) = p.bytes;
      return CUDA_SUCCESS;
    default: break;
  }
  return call.fail(CUDA_ERROR_INVALID_VALUE, "pointer attribute " + std::to_string(int(which)) + " does not apply to " +
                                                 hex(p.address));
}

}  // namespace

SOFTCUDA_API CUresult cuMemAllocHost_v2(void** out, size_t bytes) {
  return THIS_ENTRY(cuMemAllocHost_v2).call(Needs::context, [&](Call& call) {
    return allocate(call, out, bytes, CU_MEMHOSTALLOC_PORTABLE | CU_MEMHOSTALLOC_DEVICEMAP);
  });
}

SOFTCUDA_API CUresult cuMemHostAlloc(void** out, size_t bytes, unsigned int flags) {
  return THIS_ENTRY(cuMemHostAlloc).call(Needs::context, [&](Call& call) { return allocate(call, out, bytes, flags); });
}

SOFTCUDA_API CUresult cuMemFreeHost(void* p) {
  return THIS_ENTRY(cuMemFreeHost).releasing(Needs::context, [&](Call& call) {
    if (!p) return CUDA_SUCCESS;
    SOFTCUDA_TRY(refuse_unsafe(call));
    uintptr_t address = reinterpret_cast<uintptr_t>(p);
    auto found = driver().host.find(address);
    if (found == driver().host.end() || !found->second.mapped) {
      return call.fail(CUDA_ERROR_INVALID_VALUE, hex(address) + " is not the start of memory from cuMemAllocHost or "
                                                                "cuMemHostAlloc that is still allocated");
    }
    HostBlock block = found->second;
    driver().host.erase(found);
    Device& device = *call.context->device;
    call.lock.unlock();
    std::lock_guard<std::mutex> work(device.execution);  // a copy may use it
    free_host_block(address, block);
    return CUDA_SUCCESS;
  });
}

SOFTCUDA_API CUresult cuMemHostGetFlags(unsigned int* flags, void* p) {
  return block_call(THIS_ENTRY(cuMemHostGetFlags), p, [&](Call& call, HostBlock& block) {
    SOFTCUDA_TRY(need(call, flags, "pFlags"));
    *flags = block.flags;
    return CUDA_SUCCESS;
  });
}

SOFTCUDA_API CUresult cuMemHostGetDevicePointer_v2(CUdeviceptr*, void* p, unsigned int) {
  return block_call(THIS_ENTRY(cuMemHostGetDevicePointer_v2), p, [](Call& call, HostBlock&) {
    return call.fail(CUDA_ERROR_NOT_SUPPORTED,
                     "kernels of the software device cannot reach host memory (CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY "
                     "is 0); copy it");
  });
}

SOFTCUDA_API CUresult cuMemHostRegister_v2(void* p, size_t bytes, unsigned int flags) {
  return THIS_ENTRY(cuMemHostRegister_v2).call(Needs::context, [&](Call& call) {
    SOFTCUDA_TRY(need(call, p, "p"));
    constexpr unsigned known = CU_MEMHOSTREGISTER_PORTABLE | CU_MEMHOSTREGISTER_DEVICEMAP;
    if (!bytes || (flags & ~known)) {
      return call.fail(CUDA_ERROR_INVALID_VALUE, "0 bytes, or flags that the device does not have");
    }
    SOFTCUDA_TRY(refuse_unsafe(call));
    uintptr_t address = reinterpret_cast<uintptr_t>(p);
    auto next = driver().host.lower_bound(address);
    bool overlaps = block_of(address) != driver().host.end() || (next != driver().host.end() && next->first - address < bytes);
    if (overlaps) {
      return call.fail(CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED, "a part of the memory is pinned already");
    }
    driver().host[address] = {bytes, 0, flags, call.context, call.entry};
    return CUDA_SUCCESS;
  });
}

SOFTCUDA_API CUresult cuMemHostUnregister(void* p) {
  return THIS_ENTRY(cuMemHostUnregister).releasing(Needs::context, [&](Call& call) {
    SOFTCUDA_TRY(refuse_unsafe(call));
    auto found = driver().host.find(reinterpret_cast<uintptr_t>(p));
    if (found == driver().host.end() || found->second.mapped) {
      return call.fail(CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED,
                       hex(reinterpret_cast<uintptr_t>(p)) + " is not the start of registered memory");
    }
    driver().host.erase(found);
    return CUDA_SUCCESS;
  });
}

SOFTCUDA_API CUresult cuPointerGetAttribute(void* data, CUpointer_attribute which, CUdeviceptr address) {
  return THIS_ENTRY(cuPointerGetAttribute).call(Needs::context, [&](Call& call) {
    Pointer p;
    if (!find_pointer(address, &p)) {
      return call.fail(CUDA_ERROR_INVALID_VALUE, hex(address) + " is no memory that the driver knows");
    }
    return pointer_attribute(call, p, which, data);
  });
}

// Attributes that do not apply are zero, and it is no error to ask for them.
SOFTCUDA_API CUresult cuPointerGetAttributes(unsigned int count, CUpointer_attribute* which, void** data,
                                             CUdeviceptr address) {
  return THIS_ENTRY(cuPointerGetAttributes).call(Needs::context, [&](Call& call) {
    SOFTCUDA_TRY(need(call, which, "attributes"));
    SOFTCUDA_TRY(need(call, data, "data"));
    Pointer p;
    bool known = find_pointer(address, &p);
    for (unsigned i = 0; i < count; i++) {
      SOFTCUDA_TRY(need(call, data[i], "data[i]"));
      if (known && pointer_attribute(call, p, which[i], data[i]) == CUDA_SUCCESS) continue;
      bool wide = which[i] == CU_POINTER_ATTRIBUTE_CONTEXT || which[i] == CU_POINTER_ATTRIBUTE_DEVICE_POINTER ||
                  which[i] == CU_POINTER_ATTRIBUTE_HOST_POINTER || which[i] == CU_POINTER_ATTRIBUTE_RANGE_START_ADDR ||
                  which[i] == CU_POINTER_ATTRIBUTE_RANGE_SIZE;
      std::memset(data[i], 0, wide ? 8 : 4);
      if (which[i] == CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL) *static_cast<int*>(data[i]) = CU_DEVICE_INVALID;
    }
    return CUDA_SUCCESS;
  });
}

SOFTCUDA_API CUresult cuPointerSetAttribute(const void*, CUpointer_attribute which, CUdeviceptr address) {
  return THIS_ENTRY(cuPointerSetAttribute).call(Needs::context, [&](Call& call) {
    Pointer p;
    if (which == CU_POINTER_ATTRIBUTE_SYNC_MEMOPS && find_pointer(address, &p)) return CUDA_SUCCESS;
    return call.fail(CUDA_ERROR_INVALID_VALUE, "only SYNC_MEMOPS can be set, on allocated memory");
  });
}
