#include "errors.h"

#include "objects.h"

namespace softcuda {
namespace {

struct Meaning {
  CUresult error;
  const char* name;
  const char* text;
};

#define MEANS(error, text) {error, #error, text}
constexpr Meaning meanings[] = {
    MEANS(CUDA_SUCCESS, "no error"),
    MEANS(CUDA_ERROR_INVALID_VALUE, "invalid argument"),
    MEANS(CUDA_ERROR_OUT_OF_MEMORY, "out of memory"),
    MEANS(CUDA_ERROR_NOT_INITIALIZED, "the driver was not initialised"),
    MEANS(CUDA_ERROR_DEINITIALIZED, "the driver is shutting down"),
    MEANS(CUDA_ERROR_PROFILER_DISABLED, "the profiler is disabled"),
    MEANS(CUDA_ERROR_PROFILER_NOT_INITIALIZED, "the profiler was not initialised"),
    MEANS(CUDA_ERROR_PROFILER_ALREADY_STARTED, "the profiler runs already"),
    MEANS(CUDA_ERROR_PROFILER_ALREADY_STOPPED, "the profiler is stopped already"),
    MEANS(CUDA_ERROR_STUB_LIBRARY, "this library is a stub for linking"),
    MEANS(CUDA_ERROR_DEVICE_UNAVAILABLE, "the device is busy or unavailable"),
    MEANS(CUDA_ERROR_NO_DEVICE, "no CUDA-capable device is detected"),
    MEANS(CUDA_ERROR_INVALID_DEVICE, "invalid device ordinal"),
    MEANS(CUDA_ERROR_DEVICE_NOT_LICENSED, "the device has no licence"),
    MEANS(CUDA_ERROR_INVALID_IMAGE, "the image is not a module"),
    MEANS(CUDA_ERROR_INVALID_CONTEXT, "invalid device context"),
    MEANS(CUDA_ERROR_CONTEXT_ALREADY_CURRENT, "the context is current already"),
    MEANS(CUDA_ERROR_MAP_FAILED, "mapping failed"),
    MEANS(CUDA_ERROR_UNMAP_FAILED, "unmapping failed"),
    MEANS(CUDA_ERROR_ARRAY_IS_MAPPED, "the array is mapped"),
    MEANS(CUDA_ERROR_ALREADY_MAPPED, "the resource is mapped already"),
    MEANS(CUDA_ERROR_NO_BINARY_FOR_GPU, "the module has no code for this device"),
    MEANS(CUDA_ERROR_ALREADY_ACQUIRED, "the resource is held already"),
    MEANS(CUDA_ERROR_NOT_MAPPED, "the resource is not mapped"),
    MEANS(CUDA_ERROR_NOT_MAPPED_AS_ARRAY, "the resource is not mapped as an array"),
    MEANS(CUDA_ERROR_NOT_MAPPED_AS_POINTER, "the resource is not mapped as a pointer"),
    MEANS(CUDA_ERROR_ECC_UNCORRECTABLE, "an uncorrectable memory error was found"),
    MEANS(CUDA_ERROR_UNSUPPORTED_LIMIT, "the device does not have this limit"),
    MEANS(CUDA_ERROR_CONTEXT_ALREADY_IN_USE, "another thread uses the context"),
    MEANS(CUDA_ERROR_PEER_ACCESS_UNSUPPORTED, "these devices cannot reach each other's memory"),
    MEANS(CUDA_ERROR_INVALID_PTX, "the PTX could not be compiled"),
    MEANS(CUDA_ERROR_INVALID_GRAPHICS_CONTEXT, "invalid graphics context"),
    MEANS(CUDA_ERROR_NVLINK_UNCORRECTABLE, "an uncorrectable NVLink error was found"),
    MEANS(CUDA_ERROR_JIT_COMPILER_NOT_FOUND, "the PTX compiler was not found"),
    MEANS(CUDA_ERROR_UNSUPPORTED_PTX_VERSION, "the PTX is newer than this driver"),
    MEANS(CUDA_ERROR_JIT_COMPILATION_DISABLED, "compiling PTX is disabled"),
    MEANS(CUDA_ERROR_UNSUPPORTED_EXEC_AFFINITY, "the device does not support this affinity"),
    MEANS(CUDA_ERROR_UNSUPPORTED_DEVSIDE_SYNC, "synchronising on the device is not supported"),
    MEANS(CUDA_ERROR_INVALID_SOURCE, "invalid kernel source"),
    MEANS(CUDA_ERROR_FILE_NOT_FOUND, "file not found"),
    MEANS(CUDA_ERROR_SHARED_OBJECT_SYMBOL_NOT_FOUND, "a symbol of a shared library was not found"),
    MEANS(CUDA_ERROR_SHARED_OBJECT_INIT_FAILED, "a shared library could not be initialised"),
    MEANS(CUDA_ERROR_OPERATING_SYSTEM, "a call of the operating system failed"),
    MEANS(CUDA_ERROR_INVALID_HANDLE, "invalid resource handle"),
    MEANS(CUDA_ERROR_ILLEGAL_STATE, "the object is not in a state for this"),
    MEANS(CUDA_ERROR_LOSSY_QUERY, "the answer would lose information"),
    MEANS(CUDA_ERROR_NOT_FOUND, "the name was not found"),
    MEANS(CUDA_ERROR_NOT_READY, "the device has not finished yet"),
    MEANS(CUDA_ERROR_ILLEGAL_ADDRESS, "a kernel used memory that it may not"),
    MEANS(CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES, "the launch asks for too many resources"),
    MEANS(CUDA_ERROR_LAUNCH_TIMEOUT, "the kernel ran too long and was ended"),
    MEANS(CUDA_ERROR_LAUNCH_INCOMPATIBLE_TEXTURING, "the launch's texturing is incompatible"),
    MEANS(CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED, "access to the peer is enabled already"),
    MEANS(CUDA_ERROR_PEER_ACCESS_NOT_ENABLED, "access to the peer is not enabled"),
    MEANS(CUDA_ERROR_PRIMARY_CONTEXT_ACTIVE, "the primary context is active"),
    MEANS(CUDA_ERROR_CONTEXT_IS_DESTROYED, "the context is destroyed"),
    MEANS(CUDA_ERROR_ASSERT, "an assertion failed in a kernel"),
    MEANS(CUDA_ERROR_TOO_MANY_PEERS, "too many peers"),
    MEANS(CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED, "the host memory is registered already"),
    MEANS(CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED, "the host memory is not registered"),
    MEANS(CUDA_ERROR_HARDWARE_STACK_ERROR, "a kernel's stack is corrupt or too small"),
    MEANS(CUDA_ERROR_ILLEGAL_INSTRUCTION, "a kernel came to an illegal instruction"),
    MEANS(CUDA_ERROR_MISALIGNED_ADDRESS, "a kernel used a misaligned address"),
    MEANS(CUDA_ERROR_INVALID_ADDRESS_SPACE, "a kernel used an address of another space"),
    MEANS(CUDA_ERROR_INVALID_PC, "a kernel's program counter is invalid"),
    MEANS(CUDA_ERROR_LAUNCH_FAILED, "a kernel failed"),
    MEANS(CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE, "the cooperative grid does not fit the device at once"),
    MEANS(CUDA_ERROR_NOT_PERMITTED, "the operation is not permitted here"),
    MEANS(CUDA_ERROR_NOT_SUPPORTED, "the operation is not supported"),
    MEANS(CUDA_ERROR_SYSTEM_NOT_READY, "the system is not ready"),
    MEANS(CUDA_ERROR_SYSTEM_DRIVER_MISMATCH, "the driver's parts have different versions"),
    MEANS(CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE, "the device does not support forward compatibility"),
    MEANS(CUDA_ERROR_MPS_CONNECTION_FAILED, "MPS: no connection to the control daemon"),
    MEANS(CUDA_ERROR_MPS_RPC_FAILURE, "MPS: a call to the server failed"),
    MEANS(CUDA_ERROR_MPS_SERVER_NOT_READY, "MPS: the server is not ready"),
    MEANS(CUDA_ERROR_MPS_MAX_CLIENTS_REACHED, "MPS: too many clients"),
    MEANS(CUDA_ERROR_MPS_MAX_CONNECTIONS_REACHED, "MPS: too many connections"),
    MEANS(CUDA_ERROR_MPS_CLIENT_TERMINATED, "MPS: the server ended this client"),
    MEANS(CUDA_ERROR_CDP_NOT_SUPPORTED, "launches from the device are not supported"),
    MEANS(CUDA_ERROR_CDP_VERSION_MISMATCH, "launches from the device: versions differ"),
    MEANS(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "the operation is not permitted while a stream is captured"),
    MEANS(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, "an earlier error ended the capture"),
    MEANS(CUDA_ERROR_STREAM_CAPTURE_MERGE, "the operation would merge two captures"),
    MEANS(CUDA_ERROR_STREAM_CAPTURE_UNMATCHED, "the capture was not begun on this stream"),
    MEANS(CUDA_ERROR_STREAM_CAPTURE_UNJOINED, "a stream of the capture was not joined to its origin"),
    MEANS(CUDA_ERROR_STREAM_CAPTURE_ISOLATION, "a dependency would cross the border of the capture"),
    MEANS(CUDA_ERROR_STREAM_CAPTURE_IMPLICIT, "the legacy stream would depend on the capture"),
    MEANS(CUDA_ERROR_CAPTURED_EVENT, "the event was last recorded in a capture"),
    MEANS(CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD, "another thread began the capture"),
    MEANS(CUDA_ERROR_TIMEOUT, "the wait took too long"),
    MEANS(CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE, "the graph differs too much to update the executable one"),
    MEANS(CUDA_ERROR_EXTERNAL_DEVICE, "an external device failed"),
    MEANS(CUDA_ERROR_INVALID_CLUSTER_SIZE, "the cluster is misconfigured"),
    MEANS(CUDA_ERROR_FUNCTION_NOT_LOADED, "the function is not loaded"),
    MEANS(CUDA_ERROR_INVALID_RESOURCE_TYPE, "invalid type of resource"),
    MEANS(CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION, "invalid configuration of a resource"),
    MEANS(CUDA_ERROR_UNKNOWN, "unknown error"),
};
#undef MEANS

const Meaning* find_meaning(CUresult error) {
  for (const Meaning& one : meanings) {
    if (one.error == error) return &one;
  }
  return nullptr;
}

CUresult give(CUresult error, const char** out, const char* Meaning::* field) {
  if (!out) return CUDA_ERROR_INVALID_VALUE;
  const Meaning* meaning = find_meaning(error);
  *out = meaning ? meaning->*field : nullptr;
  return meaning ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

}  // namespace

const char* error_name(CUresult error) {
  const Meaning* meaning = find_meaning(error);
  return meaning ? meaning->name : "an unknown error";
}

}  // namespace softcuda

using namespace softcuda;

// These two are asked for what another entry gave: they neither fail by injection
// nor change the last fault.
SOFTCUDA_API CUresult cuGetErrorName(CUresult error, const char** text) {
  ++THIS_ENTRY(cuGetErrorName).calls;
  return give(error, text, &Meaning::name);
}

SOFTCUDA_API CUresult cuGetErrorString(CUresult error, const char** text) {
  ++THIS_ENTRY(cuGetErrorString).calls;
  return give(error, text, &Meaning::text);
}
