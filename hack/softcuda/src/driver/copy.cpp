// Copies and sets: one engine for rows of bytes in host and device memory, and the
// entries that describe one.
#include <cstring>

#include "../report.h"
#include "capture.h"
#include "work.h"

namespace softcuda {
namespace {

bool is_device_address(uint64_t address) {
  for (const auto& device : driver().devices) {  // fixed after cuInit
    if (device->memory->find(address)) return true;
  }
  return false;
}

// One side of a copy: where its rows are, and whether on the device.
struct Side {
  const char* name;
  bool on_device = false;
  uint64_t base = 0;
  size_t pitch = 0, height = 0;

  uint64_t row(size_t y, size_t z) const { return base + (y + z * height) * pitch; }
};

CUresult refuse(Call& call, const Side& side, const std::string& why) {
  return call.fail(CUDA_ERROR_INVALID_VALUE, std::string(side.name) + ": " + why);
}

Side side(const char* name, CUmemorytype type, const void* host, CUdeviceptr device, size_t x, size_t y, size_t z,
          size_t pitch, size_t height) {
  Side s;
  s.name = name;
  s.base = type == CU_MEMORYTYPE_HOST ? reinterpret_cast<uintptr_t>(host) : device;
  s.on_device = type == CU_MEMORYTYPE_DEVICE || (type == CU_MEMORYTYPE_UNIFIED && is_device_address(s.base));
  s.pitch = pitch;
  s.height = height;
  s.base += x + (y + z * height) * pitch;
  return s;
}

Side source(const Copy& c) {
  return side("source", c.srcMemoryType, c.srcHost, c.srcDevice, c.srcXInBytes, c.srcY, c.srcZ,
              c.srcPitch ? c.srcPitch : c.srcXInBytes + c.WidthInBytes, c.srcHeight ? c.srcHeight : c.srcY + c.Height);
}

Side destination(const Copy& c) {
  return side("destination", c.dstMemoryType, c.dstHost, c.dstDevice, c.dstXInBytes, c.dstY, c.dstZ,
              c.dstPitch ? c.dstPitch : c.dstXInBytes + c.WidthInBytes, c.dstHeight ? c.dstHeight : c.dstY + c.Height);
}

CUresult check_side(Call& call, const Side& s, CUmemorytype type, size_t x, const Copy& c) {
  if (type == CU_MEMORYTYPE_ARRAY) {
    return call.fail(CUDA_ERROR_NOT_SUPPORTED, std::string(s.name) + ": CUDA arrays are not supported");
  }
  if (type < CU_MEMORYTYPE_HOST || type > CU_MEMORYTYPE_UNIFIED) {
    return refuse(call, s, "there is no memory type " + std::to_string(int(type)));
  }
  if (!s.base) return refuse(call, s, "the address is null");
  if (c.Height > 1 && s.pitch < x + c.WidthInBytes) return refuse(call, s, "rows are longer than the pitch");
  if (c.Depth > 1 && s.height < c.Height) return refuse(call, s, "planes are higher than the height");
  if (type == CU_MEMORYTYPE_HOST && is_device_address(s.base)) {
    return refuse(call, s, hex(s.base) + " is a device address, given as one of the host");
  }
  if (type == CU_MEMORYTYPE_DEVICE && !is_device_address(s.base)) {
    return refuse(call, s, hex(s.base) + " is no address of device memory");
  }
  return CUDA_SUCCESS;
}

// A device's memory that has the address; the context's own device is the usual one.
CUresult find_memory(Call& call, Context& context, const Side& s, uint64_t address, Memory** out) {
  *out = context.device->memory.get();
  if ((*out)->find(address)) return CUDA_SUCCESS;
  if (is_device_address(address)) {
    return call.fail(CUDA_ERROR_NOT_SUPPORTED,
                     std::string(s.name) + ": " + hex(address) + " is memory of another device; peers are not supported");
  }
  return refuse(call, s, hex(address) + " is no address of device memory");
}

// Says that the host got bytes that nothing had written; an error when strict.
CUresult tell_unwritten(Call& call, const std::string& why) {
  report(kind::uninitialised, CUDA_ERROR_LAUNCH_FAILED, std::string(call.entry) + ": " + why);
  if (!config().strict) return CUDA_SUCCESS;
  return call.fail(CUDA_ERROR_LAUNCH_FAILED, why + " (SOFTCUDA_STRICT is 1)");
}

CUresult copy_row(Call& call, Context& context, const Side& to, uint64_t dst, const Side& from, uint64_t src,
                  size_t bytes) {
  Memory *there = nullptr, *here = nullptr;
  if (to.on_device) SOFTCUDA_TRY(find_memory(call, context, to, dst, &there));
  if (from.on_device) SOFTCUDA_TRY(find_memory(call, context, from, src, &here));
  std::string why;
  if (there && here) {
    if (!there->copy(dst, src, bytes, &why)) return call.fail(CUDA_ERROR_INVALID_VALUE, why);
  } else if (there) {
    if (!there->write(dst, reinterpret_cast<const void*>(src), bytes, &why)) return refuse(call, to, why);
  } else if (here) {
    if (!here->read(reinterpret_cast<void*>(dst), src, bytes, &why)) return refuse(call, from, why);
    if (!why.empty()) return tell_unwritten(call, why);
  } else {
    std::memmove(reinterpret_cast<void*>(dst), reinterpret_cast<const void*>(src), bytes);
  }
  return CUDA_SUCCESS;
}

}  // namespace

Copy linear(CUmemorytype dst_type, uint64_t dst, CUmemorytype src_type, uint64_t src, size_t bytes) {
  Copy c = {};
  c.dstMemoryType = dst_type;
  c.srcMemoryType = src_type;
  if (dst_type == CU_MEMORYTYPE_HOST) {
    c.dstHost = reinterpret_cast<void*>(dst);
  } else {
    c.dstDevice = dst;
  }
  if (src_type == CU_MEMORYTYPE_HOST) {
    c.srcHost = reinterpret_cast<const void*>(src);
  } else {
    c.srcDevice = src;
  }
  c.WidthInBytes = bytes;
  c.Height = c.Depth = 1;
  return c;
}

CUresult check_copy(Call& call, const Copy& c) {
  if (!c.WidthInBytes || !c.Height || !c.Depth) return CUDA_SUCCESS;
  SOFTCUDA_TRY(check_side(call, source(c), c.srcMemoryType, c.srcXInBytes, c));
  return check_side(call, destination(c), c.dstMemoryType, c.dstXInBytes, c);
}

CUresult perform_copy(Call& call, Context& context, const Copy& c) {
  SOFTCUDA_TRY(check_copy(call, c));
  Side from = source(c), to = destination(c);
  size_t bytes = c.WidthInBytes, rows = c.Height, planes = c.Depth;
  if (!bytes || !rows || !planes) return CUDA_SUCCESS;
  if (from.pitch == bytes && to.pitch == bytes && (planes == 1 || (from.height == rows && to.height == rows))) {
    bytes *= rows * planes;  // one run of bytes on both sides
    rows = planes = 1;
  }
  for (size_t z = 0; z < planes; z++) {
    for (size_t y = 0; y < rows; y++) {
      SOFTCUDA_TRY(copy_row(call, context, to, to.row(y, z), from, from.row(y, z), bytes));
    }
  }
  return CUDA_SUCCESS;
}

CUresult check_set(Call& call, const Set& s) {
  if (s.elementSize != 1 && s.elementSize != 2 && s.elementSize != 4) {
    return call.fail(CUDA_ERROR_INVALID_VALUE, "elements have 1, 2 or 4 bytes, not " + std::to_string(s.elementSize));
  }
  if (s.dst % s.elementSize || (s.height > 1 && s.pitch % s.elementSize)) {
    return call.fail(CUDA_ERROR_INVALID_VALUE, hex(s.dst) + " or the pitch is not aligned to the element");
  }
  if (s.height > 1 && s.pitch < s.width * s.elementSize) {
    return call.fail(CUDA_ERROR_INVALID_VALUE, "rows are longer than the pitch");
  }
  if (s.width && s.height && !is_device_address(s.dst)) {
    return call.fail(CUDA_ERROR_INVALID_VALUE, hex(s.dst) + " is no address of device memory");
  }
  return CUDA_SUCCESS;
}

CUresult perform_set(Call& call, Context& context, const Set& s) {
  SOFTCUDA_TRY(check_set(call, s));
  Side to;
  to.name = "destination";
  for (size_t y = 0; y < s.height && s.width; y++) {
    uint64_t row = s.dst + y * s.pitch;
    Memory* memory = nullptr;
    SOFTCUDA_TRY(find_memory(call, context, to, row, &memory));
    uint8_t one = uint8_t(s.value);
    uint16_t two = uint16_t(s.value);
    uint32_t four = s.value;
    const void* pattern = s.elementSize == 1 ? static_cast<const void*>(&one)
                          : s.elementSize == 2 ? static_cast<const void*>(&two)
                                               : static_cast<const void*>(&four);
    std::string why;
    if (!memory->fill(row, pattern, s.elementSize, s.width, &why)) return refuse(call, to, why);
  }
  return CUDA_SUCCESS;
}

}  // namespace softcuda

using namespace softcuda;

namespace {

// Work that the host waits for: on the legacy stream.
CUresult now(Entry& entry, const std::function<CUresult(Call&, Work*)>& make) {
  return entry.call(Needs::context, [&](Call& call) {
    Work work;
    SOFTCUDA_TRY(make(call, &work));
    SOFTCUDA_TRY(refuse_synchronous(call));
    return enqueue(call, call.context->legacy, std::move(work));
  });
}

CUresult later(Entry& entry, CUstream handle, const std::function<CUresult(Call&, Work*)>& make) {
  return entry.call(Needs::context, [&](Call& call) {
    std::shared_ptr<Stream> stream = find_stream(call, handle);
    if (!stream) return CUDA_ERROR_INVALID_HANDLE;
    Work work;
    SOFTCUDA_TRY(make(call, &work));
    return enqueue(call, stream, std::move(work));
  });
}

std::function<CUresult(Call&, Work*)> copying(const Copy& copy) {
  return [copy](Call& call, Work* work) {
    SOFTCUDA_TRY(check_copy(call, copy));
    *work = copy;
    return CUDA_SUCCESS;
  };
}

std::function<CUresult(Call&, Work*)> copying(const CUDA_MEMCPY3D* copy) {
  return [copy](Call& call, Work* work) {
    SOFTCUDA_TRY(need(call, copy, "pCopy"));
    return copying(*copy)(call, work);
  };
}

std::function<CUresult(Call&, Work*)> copying(const CUDA_MEMCPY2D* p) {
  return [p](Call& call, Work* work) {
    SOFTCUDA_TRY(need(call, p, "pCopy"));
    Copy c = {};
    c.srcXInBytes = p->srcXInBytes;
    c.srcY = p->srcY;
    c.srcMemoryType = p->srcMemoryType;
    c.srcHost = p->srcHost;
    c.srcDevice = p->srcDevice;
    c.srcArray = p->srcArray;
    c.srcPitch = p->srcPitch;
    c.dstXInBytes = p->dstXInBytes;
    c.dstY = p->dstY;
    c.dstMemoryType = p->dstMemoryType;
    c.dstHost = p->dstHost;
    c.dstDevice = p->dstDevice;
    c.dstArray = p->dstArray;
    c.dstPitch = p->dstPitch;
    c.WidthInBytes = p->WidthInBytes;
    c.Height = p->Height;
    c.Depth = 1;
    return copying(c)(call, work);
  };
}

std::function<CUresult(Call&, Work*)> setting(CUdeviceptr dst, size_t pitch, unsigned value, unsigned element,
                                              size_t width, size_t height) {
  return [=](Call& call, Work* work) {
    Set set = {dst, pitch, value, element, width, height};
    SOFTCUDA_TRY(check_set(call, set));
    *work = set;
    return CUDA_SUCCESS;
  };
}

uint64_t address(const void* host) { return reinterpret_cast<uintptr_t>(host); }

Copy to_device(CUdeviceptr dst, const void* src, size_t n) {
  return linear(CU_MEMORYTYPE_DEVICE, dst, CU_MEMORYTYPE_HOST, address(src), n);
}
Copy to_host(void* dst, CUdeviceptr src, size_t n) {
  return linear(CU_MEMORYTYPE_HOST, address(dst), CU_MEMORYTYPE_DEVICE, src, n);
}
Copy on_device(CUdeviceptr dst, CUdeviceptr src, size_t n) {
  return linear(CU_MEMORYTYPE_DEVICE, dst, CU_MEMORYTYPE_DEVICE, src, n);
}
Copy anywhere(CUdeviceptr dst, CUdeviceptr src, size_t n) {
  return linear(CU_MEMORYTYPE_UNIFIED, dst, CU_MEMORYTYPE_UNIFIED, src, n);
}

}  // namespace

SOFTCUDA_API CUresult cuMemcpy(CUdeviceptr dst, CUdeviceptr src, size_t n) {
  return now(THIS_ENTRY(cuMemcpy), copying(anywhere(dst, src, n)));
}
SOFTCUDA_API CUresult cuMemcpyAsync(CUdeviceptr dst, CUdeviceptr src, size_t n, CUstream stream) {
  return later(THIS_ENTRY(cuMemcpyAsync), stream, copying(anywhere(dst, src, n)));
}
SOFTCUDA_API CUresult cuMemcpyHtoD_v2(CUdeviceptr dst, const void* src, size_t n) {
  return now(THIS_ENTRY(cuMemcpyHtoD_v2), copying(to_device(dst, src, n)));
}
SOFTCUDA_API CUresult cuMemcpyDtoH_v2(void* dst, CUdeviceptr src, size_t n) {
  return now(THIS_ENTRY(cuMemcpyDtoH_v2), copying(to_host(dst, src, n)));
}
SOFTCUDA_API CUresult cuMemcpyDtoD_v2(CUdeviceptr dst, CUdeviceptr src, size_t n) {
  return now(THIS_ENTRY(cuMemcpyDtoD_v2), copying(on_device(dst, src, n)));
}
SOFTCUDA_API CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr dst, const void* src, size_t n, CUstream stream) {
  return later(THIS_ENTRY(cuMemcpyHtoDAsync_v2), stream, copying(to_device(dst, src, n)));
}
SOFTCUDA_API CUresult cuMemcpyDtoHAsync_v2(void* dst, CUdeviceptr src, size_t n, CUstream stream) {
  return later(THIS_ENTRY(cuMemcpyDtoHAsync_v2), stream, copying(to_host(dst, src, n)));
}
SOFTCUDA_API CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr dst, CUdeviceptr src, size_t n, CUstream stream) {
  return later(THIS_ENTRY(cuMemcpyDtoDAsync_v2), stream, copying(on_device(dst, src, n)));
}
SOFTCUDA_API CUresult cuMemcpy2D_v2(const CUDA_MEMCPY2D* copy) {
  return now(THIS_ENTRY(cuMemcpy2D_v2), copying(copy));
}
SOFTCUDA_API CUresult cuMemcpy2DUnaligned_v2(const CUDA_MEMCPY2D* copy) {
  return now(THIS_ENTRY(cuMemcpy2DUnaligned_v2), copying(copy));
}
SOFTCUDA_API CUresult cuMemcpy2DAsync_v2(const CUDA_MEMCPY2D* copy, CUstream stream) {
  return later(THIS_ENTRY(cuMemcpy2DAsync_v2), stream, copying(copy));
}
SOFTCUDA_API CUresult cuMemcpy3D_v2(const CUDA_MEMCPY3D* copy) {
  return now(THIS_ENTRY(cuMemcpy3D_v2), copying(copy));
}
SOFTCUDA_API CUresult cuMemcpy3DAsync_v2(const CUDA_MEMCPY3D* copy, CUstream stream) {
  return later(THIS_ENTRY(cuMemcpy3DAsync_v2), stream, copying(copy));
}

SOFTCUDA_API CUresult cuMemsetD8_v2(CUdeviceptr dst, unsigned char value, size_t n) {
  return now(THIS_ENTRY(cuMemsetD8_v2), setting(dst, 0, value, 1, n, 1));
}
SOFTCUDA_API CUresult cuMemsetD16_v2(CUdeviceptr dst, unsigned short value, size_t n) {
  return now(THIS_ENTRY(cuMemsetD16_v2), setting(dst, 0, value, 2, n, 1));
}
SOFTCUDA_API CUresult cuMemsetD32_v2(CUdeviceptr dst, unsigned int value, size_t n) {
  return now(THIS_ENTRY(cuMemsetD32_v2), setting(dst, 0, value, 4, n, 1));
}
SOFTCUDA_API CUresult cuMemsetD2D8_v2(CUdeviceptr dst, size_t pitch, unsigned char value, size_t width, size_t height) {
  return now(THIS_ENTRY(cuMemsetD2D8_v2), setting(dst, pitch, value, 1, width, height));
}
SOFTCUDA_API CUresult cuMemsetD2D16_v2(CUdeviceptr dst, size_t pitch, unsigned short value, size_t width,
                                       size_t height) {
  return now(THIS_ENTRY(cuMemsetD2D16_v2), setting(dst, pitch, value, 2, width, height));
}
SOFTCUDA_API CUresult cuMemsetD2D32_v2(CUdeviceptr dst, size_t pitch, unsigned int value, size_t width,
                                       size_t height) {
  return now(THIS_ENTRY(cuMemsetD2D32_v2), setting(dst, pitch, value, 4, width, height));
}
SOFTCUDA_API CUresult cuMemsetD8Async(CUdeviceptr dst, unsigned char value, size_t n, CUstream stream) {
  return later(THIS_ENTRY(cuMemsetD8Async), stream, setting(dst, 0, value, 1, n, 1));
}
SOFTCUDA_API CUresult cuMemsetD16Async(CUdeviceptr dst, unsigned short value, size_t n, CUstream stream) {
  return later(THIS_ENTRY(cuMemsetD16Async), stream, setting(dst, 0, value, 2, n, 1));
}
SOFTCUDA_API CUresult cuMemsetD32Async(CUdeviceptr dst, unsigned int value, size_t n, CUstream stream) {
  return later(THIS_ENTRY(cuMemsetD32Async), stream, setting(dst, 0, value, 4, n, 1));
}
SOFTCUDA_API CUresult cuMemsetD2D8Async(CUdeviceptr dst, size_t pitch, unsigned char value, size_t width,
                                        size_t height, CUstream stream) {
  return later(THIS_ENTRY(cuMemsetD2D8Async), stream, setting(dst, pitch, value, 1, width, height));
}
SOFTCUDA_API CUresult cuMemsetD2D16Async(CUdeviceptr dst, size_t pitch, unsigned short value, size_t width,
                                         size_t height, CUstream stream) {
  return later(THIS_ENTRY(cuMemsetD2D16Async), stream, setting(dst, pitch, value, 2, width, height));
}
SOFTCUDA_API CUresult cuMemsetD2D32Async(CUdeviceptr dst, size_t pitch, unsigned int value, size_t width,
                                         size_t height, CUstream stream) {
  return later(THIS_ENTRY(cuMemsetD2D32Async), stream, setting(dst, pitch, value, 4, width, height));
}
