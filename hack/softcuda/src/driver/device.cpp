// Initialisation, versions and what devices say of themselves.
#include <cstdio>
#include <cstring>
#include <stdexcept>

#include "attributes.h"
#include "objects.h"

using namespace softcuda;

namespace {

CUresult initialise(Call& call, unsigned flags) {
  Driver& d = driver();
  if (flags) return call.fail(CUDA_ERROR_INVALID_VALUE, "flags must be 0");
  if (d.initialised) return CUDA_SUCCESS;
  if (config().devices == 0) return call.fail(CUDA_ERROR_NO_DEVICE, "SOFTCUDA_DEVICES is 0");
  std::vector<std::unique_ptr<Device>> devices;
  for (int i = 0; i < config().devices; i++) {
    auto device = std::make_unique<Device>();
    device->ordinal = i;
    try {
      device->memory = std::make_unique<Memory>(config().memory);
    } catch (const std::runtime_error& error) {
      return call.fail(CUDA_ERROR_OUT_OF_MEMORY, error.what());
    }
    device->pool = std::make_shared<Pool>();
    device->pool->device = i;
    device->current_pool = device->pool;
    devices.push_back(std::move(device));
  }
  for (auto& device : devices) d.handles.add(device->pool);
  d.devices = std::move(devices);
  d.initialised = true;
  return CUDA_SUCCESS;
}

std::string device_name() {
  return "Software CUDA device " + std::to_string(config().major) + "." + std::to_string(config().minor);
}

// Writes text and its end into a buffer of len bytes.
CUresult give_text(Call& call, const std::string& text, char* out, int len) {
  SOFTCUDA_TRY(need(call, out, "the buffer"));
  if (len <= 0) return call.fail(CUDA_ERROR_INVALID_VALUE, "the buffer has " + std::to_string(len) + " bytes");
  std::snprintf(out, size_t(len), "%s", text.c_str());
  return CUDA_SUCCESS;
}

std::string bus_id(int ordinal) {
  char text[16];
  std::snprintf(text, sizeof text, "0000:%02X:00.0", ordinal + 1);
  return text;
}

CUresult device_call(Entry& entry, CUdevice dev, const std::function<CUresult(Call&, Device&)>& body) {
  return entry.call(Needs::driver, [&](Call& call) {
    Device* device = find_device(call, dev);
    return device ? body(call, *device) : CUDA_ERROR_INVALID_DEVICE;
  });
}

CUresult uuid(Entry& entry, CUuuid* out, CUdevice dev) {
  return device_call(entry, dev, [&](Call& call, Device& device) {
    SOFTCUDA_TRY(need(call, out, "uuid"));
    // A version 8 UUID (RFC 9562, 5.8: free content): "softcuda" and the ordinal.
    const unsigned char bytes[16] = {'s', 'o', 'f', 't', 'c', 'u', 0x8d, 'a', 0x80, 0, 0, 0, 0, 0, 0,
                                     static_cast<unsigned char>(device.ordinal)};
    std::memcpy(out->bytes, bytes, sizeof bytes);
    return CUDA_SUCCESS;
  });
}

CUresult peer(Entry& entry, CUdevice one, CUdevice other, int* out) {
  return device_call(entry, one, [&](Call& call, Device&) {
    if (!find_device(call, other)) return CUDA_ERROR_INVALID_DEVICE;
    SOFTCUDA_TRY(need(call, out, "the result"));
    if (one == other) return call.fail(CUDA_ERROR_INVALID_DEVICE, "a device is not its own peer");
    *out = 0;
    return CUDA_SUCCESS;
  });
}

}  // namespace

SOFTCUDA_API CUresult cuInit(unsigned int flags) {
  return THIS_ENTRY(cuInit).call(Needs::nothing, [&](Call& call) { return initialise(call, flags); });
}

SOFTCUDA_API CUresult cuDriverGetVersion(int* version) {
  return THIS_ENTRY(cuDriverGetVersion).call(Needs::nothing, [&](Call& call) {
    SOFTCUDA_TRY(need(call, version, "driverVersion"));
    *version = config().driver_version;
    return CUDA_SUCCESS;
  });
}

SOFTCUDA_API CUresult cuDeviceGet(CUdevice* device, int ordinal) {
  return THIS_ENTRY(cuDeviceGet).call(Needs::driver, [&](Call& call) {
    SOFTCUDA_TRY(need(call, device, "device"));
    if (!find_device(call, ordinal)) return CUDA_ERROR_INVALID_DEVICE;
    *device = ordinal;
    return CUDA_SUCCESS;
  });
}

SOFTCUDA_API CUresult cuDeviceGetCount(int* count) {
  return THIS_ENTRY(cuDeviceGetCount).call(Needs::driver, [&](Call& call) {
    SOFTCUDA_TRY(need(call, count, "count"));
    *count = int(driver().devices.size());
    return CUDA_SUCCESS;
  });
}

SOFTCUDA_API CUresult cuDeviceGetName(char* name, int len, CUdevice dev) {
  return device_call(THIS_ENTRY(cuDeviceGetName), dev,
                     [&](Call& call, Device&) { return give_text(call, device_name(), name, len); });
}

SOFTCUDA_API CUresult cuDeviceGetUuid(CUuuid* out, CUdevice dev) {
  return uuid(THIS_ENTRY(cuDeviceGetUuid), out, dev);
}

SOFTCUDA_API CUresult cuDeviceGetUuid_v2(CUuuid* out, CUdevice dev) {
  return uuid(THIS_ENTRY(cuDeviceGetUuid_v2), out, dev);
}

SOFTCUDA_API CUresult cuDeviceTotalMem_v2(size_t* bytes, CUdevice dev) {
  return device_call(THIS_ENTRY(cuDeviceTotalMem_v2), dev, [&](Call& call, Device& device) {
    SOFTCUDA_TRY(need(call, bytes, "bytes"));
    *bytes = device.memory->capacity();
    return CUDA_SUCCESS;
  });
}

SOFTCUDA_API CUresult cuDeviceGetAttribute(int* value, CUdevice_attribute which, CUdevice dev) {
  return device_call(THIS_ENTRY(cuDeviceGetAttribute), dev, [&](Call& call, Device& device) {
    SOFTCUDA_TRY(need(call, value, "pi"));
    if (attribute(config(), device.ordinal, which, value)) return CUDA_SUCCESS;
    return call.fail(CUDA_ERROR_INVALID_VALUE, "there is no device attribute " + std::to_string(int(which)));
  });
}

SOFTCUDA_API CUresult cuDeviceGetProperties(CUdevprop* prop, CUdevice dev) {
  return device_call(THIS_ENTRY(cuDeviceGetProperties), dev, [&](Call& call, Device& device) {
    SOFTCUDA_TRY(need(call, prop, "prop"));
    auto get = [&](CUdevice_attribute which) {
      int value = 0;
      attribute(config(), device.ordinal, which, &value);
      return value;
    };
    prop->maxThreadsPerBlock = get(CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK);
    prop->maxThreadsDim[0] = get(CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X);
    prop->maxThreadsDim[1] = get(CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Y);
    prop->maxThreadsDim[2] = get(CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z);
    prop->maxGridSize[0] = get(CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X);
    prop->maxGridSize[1] = get(CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y);
    prop->maxGridSize[2] = get(CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z);
    prop->sharedMemPerBlock = get(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK);
    prop->totalConstantMemory = get(CU_DEVICE_ATTRIBUTE_TOTAL_CONSTANT_MEMORY);
    prop->SIMDWidth = get(CU_DEVICE_ATTRIBUTE_WARP_SIZE);
    prop->memPitch = get(CU_DEVICE_ATTRIBUTE_MAX_PITCH);
    prop->regsPerBlock = get(CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK);
    prop->clockRate = get(CU_DEVICE_ATTRIBUTE_CLOCK_RATE);
    prop->textureAlign = get(CU_DEVICE_ATTRIBUTE_TEXTURE_ALIGNMENT);
    return CUDA_SUCCESS;
  });
}

SOFTCUDA_API CUresult cuDeviceComputeCapability(int* major, int* minor, CUdevice dev) {
  return device_call(THIS_ENTRY(cuDeviceComputeCapability), dev, [&](Call& call, Device&) {
    SOFTCUDA_TRY(need(call, major, "major"));
    SOFTCUDA_TRY(need(call, minor, "minor"));
    *major = config().major;
    *minor = config().minor;
    return CUDA_SUCCESS;
  });
}

SOFTCUDA_API CUresult cuDeviceGetByPCIBusId(CUdevice* dev, const char* id) {
  return THIS_ENTRY(cuDeviceGetByPCIBusId).call(Needs::driver, [&](Call& call) {
    SOFTCUDA_TRY(need(call, dev, "dev"));
    SOFTCUDA_TRY(need(call, id, "pciBusId"));
    for (const auto& device : driver().devices) {
      if (bus_id(device->ordinal) != id) continue;
      *dev = device->ordinal;
      return CUDA_SUCCESS;
    }
    return call.fail(CUDA_ERROR_INVALID_DEVICE, "no device has the PCI bus id " + std::string(id));
  });
}

SOFTCUDA_API CUresult cuDeviceGetPCIBusId(char* id, int len, CUdevice dev) {
  return device_call(THIS_ENTRY(cuDeviceGetPCIBusId), dev,
                     [&](Call& call, Device& device) { return give_text(call, bus_id(device.ordinal), id, len); });
}

SOFTCUDA_API CUresult cuDeviceCanAccessPeer(int* can, CUdevice dev, CUdevice other) {
  return peer(THIS_ENTRY(cuDeviceCanAccessPeer), dev, other, can);
}

SOFTCUDA_API CUresult cuDeviceGetP2PAttribute(int* value, CUdevice_P2PAttribute which, CUdevice dev, CUdevice other) {
  if (which < CU_DEVICE_P2P_ATTRIBUTE_PERFORMANCE_RANK || which > CU_DEVICE_P2P_ATTRIBUTE_ACCESS_ACCESS_SUPPORTED) {
    return THIS_ENTRY(cuDeviceGetP2PAttribute).call(Needs::driver, [&](Call& call) {
      return call.fail(CUDA_ERROR_INVALID_VALUE, "there is no peer attribute " + std::to_string(int(which)));
    });
  }
  return peer(THIS_ENTRY(cuDeviceGetP2PAttribute), dev, other, value);
}
