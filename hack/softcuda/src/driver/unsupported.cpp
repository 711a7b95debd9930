// Entries that a program may link against and the software device does not have: each
// answers CUDA_ERROR_NOT_SUPPORTED and says why. None of them crashes.
#include "objects.h"

using namespace softcuda;

namespace {

CUresult unsupported(Entry& entry, const char* why) {
  return entry.call(Needs::driver, [&](Call& call) {
    return call.fail(CUDA_ERROR_NOT_SUPPORTED, std::string("the software device has no ") + why);
  });
}

constexpr const char* arrays = "CUDA arrays";
constexpr const char* textures = "textures and surfaces";
constexpr const char* managed = "managed memory; allocate device memory and copy";
constexpr const char* peers = "peers; copy through the host";
constexpr const char* processes = "memory and events shared between processes";
constexpr const char* linker = "linker; load each module's PTX by cuModuleLoadData";
constexpr const char* attaching = "attaching of contexts, which CUDA has deprecated; use primary contexts";
constexpr const char* values = "waiting on and writing of values in memory by streams; use events";

}  // namespace

#define UNSUPPORTED(symbol, why, ...) \
  SOFTCUDA_API CUresult symbol(__VA_ARGS__) { return unsupported(THIS_ENTRY(symbol), why); }

UNSUPPORTED(cuCtxAttach, attaching, CUcontext*, unsigned int)
UNSUPPORTED(cuCtxDetach, attaching, CUcontext)
UNSUPPORTED(cuCtxEnablePeerAccess, peers, CUcontext, unsigned int)
UNSUPPORTED(cuCtxDisablePeerAccess, peers, CUcontext)

UNSUPPORTED(cuModuleGetTexRef, textures, CUtexref*, CUmodule, const char*)
UNSUPPORTED(cuModuleGetSurfRef, textures, CUsurfref*, CUmodule, const char*)
UNSUPPORTED(cuLinkCreate_v2, linker, unsigned int, CUjit_option*, void**, CUlinkState*)
UNSUPPORTED(cuLinkAddData_v2, linker, CUlinkState, CUjitInputType, void*, size_t, const char*, unsigned int,
            CUjit_option*, void**)
UNSUPPORTED(cuLinkAddFile_v2, linker, CUlinkState, CUjitInputType, const char*, unsigned int, CUjit_option*, void**)
UNSUPPORTED(cuLinkComplete, linker, CUlinkState, void**, size_t*)
UNSUPPORTED(cuLinkDestroy, linker, CUlinkState)

UNSUPPORTED(cuMemAllocManaged, managed, CUdeviceptr*, size_t, unsigned int)
UNSUPPORTED(cuMemAdvise, managed, CUdeviceptr, size_t, CUmem_advise, CUdevice)
UNSUPPORTED(cuMemPrefetchAsync, managed, CUdeviceptr, size_t, CUdevice, CUstream)
UNSUPPORTED(cuMemRangeGetAttribute, managed, void*, size_t, CUmem_range_attribute, CUdeviceptr, size_t)
UNSUPPORTED(cuStreamAttachMemAsync, managed, CUstream, CUdeviceptr, size_t, unsigned int)
UNSUPPORTED(cuStreamWaitValue32_v2, values, CUstream, CUdeviceptr, cuuint32_t, unsigned int)
UNSUPPORTED(cuStreamWriteValue32_v2, values, CUstream, CUdeviceptr, cuuint32_t, unsigned int)

UNSUPPORTED(cuMemcpyPeer, peers, CUdeviceptr, CUcontext, CUdeviceptr, CUcontext, size_t)
UNSUPPORTED(cuMemcpyPeerAsync, peers, CUdeviceptr, CUcontext, CUdeviceptr, CUcontext, size_t, CUstream)
UNSUPPORTED(cuMemcpy3DPeer, peers, const CUDA_MEMCPY3D_PEER*)
UNSUPPORTED(cuMemcpy3DPeerAsync, peers, const CUDA_MEMCPY3D_PEER*, CUstream)

UNSUPPORTED(cuMemcpyDtoA_v2, arrays, CUarray, size_t, CUdeviceptr, size_t)
UNSUPPORTED(cuMemcpyAtoD_v2, arrays, CUdeviceptr, CUarray, size_t, size_t)
UNSUPPORTED(cuMemcpyHtoA_v2, arrays, CUarray, size_t, const void*, size_t)
UNSUPPORTED(cuMemcpyAtoH_v2, arrays, void*, CUarray, size_t, size_t)
UNSUPPORTED(cuMemcpyAtoA_v2, arrays, CUarray, size_t, CUarray, size_t, size_t)
UNSUPPORTED(cuMemcpyHtoAAsync_v2, arrays, CUarray, size_t, const void*, size_t, CUstream)
UNSUPPORTED(cuMemcpyAtoHAsync_v2, arrays, void*, CUarray, size_t, size_t, CUstream)
UNSUPPORTED(cuArrayCreate_v2, arrays, CUarray*, const CUDA_ARRAY_DESCRIPTOR*)
UNSUPPORTED(cuArrayGetDescriptor_v2, arrays, CUDA_ARRAY_DESCRIPTOR*, CUarray)
UNSUPPORTED(cuArray3DCreate_v2, arrays, CUarray*, const CUDA_ARRAY3D_DESCRIPTOR*)
UNSUPPORTED(cuArray3DGetDescriptor_v2, arrays, CUDA_ARRAY3D_DESCRIPTOR*, CUarray)
UNSUPPORTED(cuArrayDestroy, arrays, CUarray)

UNSUPPORTED(cuTexRefCreate, textures, CUtexref*)
UNSUPPORTED(cuTexRefDestroy, textures, CUtexref)
UNSUPPORTED(cuTexRefSetArray, textures, CUtexref, CUarray, unsigned int)
UNSUPPORTED(cuTexRefSetAddress_v2, textures, size_t*, CUtexref, CUdeviceptr, size_t)
UNSUPPORTED(cuTexRefSetAddress2D_v3, textures, CUtexref, const CUDA_ARRAY_DESCRIPTOR*, CUdeviceptr, size_t)
UNSUPPORTED(cuTexRefSetFormat, textures, CUtexref, CUarray_format, int)
UNSUPPORTED(cuTexRefSetAddressMode, textures, CUtexref, int, CUaddress_mode)
UNSUPPORTED(cuTexRefSetFilterMode, textures, CUtexref, CUfilter_mode)
UNSUPPORTED(cuTexRefSetMipmapFilterMode, textures, CUtexref, CUfilter_mode)
UNSUPPORTED(cuTexRefSetMipmapLevelBias, textures, CUtexref, float)
UNSUPPORTED(cuTexRefSetMipmapLevelClamp, textures, CUtexref, float, float)
UNSUPPORTED(cuTexRefSetMaxAnisotropy, textures, CUtexref, unsigned int)
UNSUPPORTED(cuTexRefSetBorderColor, textures, CUtexref, float*)
UNSUPPORTED(cuTexRefSetFlags, textures, CUtexref, unsigned int)
UNSUPPORTED(cuTexRefGetAddress_v2, textures, CUdeviceptr*, CUtexref)
UNSUPPORTED(cuTexRefGetArray, textures, CUarray*, CUtexref)
UNSUPPORTED(cuTexRefGetAddressMode, textures, CUaddress_mode*, CUtexref, int)
UNSUPPORTED(cuTexRefGetFilterMode, textures, CUfilter_mode*, CUtexref)
UNSUPPORTED(cuTexRefGetFormat, textures, CUarray_format*, int*, CUtexref)
UNSUPPORTED(cuTexRefGetMaxAnisotropy, textures, int*, CUtexref)
UNSUPPORTED(cuTexRefGetBorderColor, textures, float*, CUtexref)
UNSUPPORTED(cuTexRefGetFlags, textures, unsigned int*, CUtexref)
UNSUPPORTED(cuSurfRefSetArray, textures, CUsurfref, CUarray, unsigned int)
UNSUPPORTED(cuSurfRefGetArray, textures, CUarray*, CUsurfref)

UNSUPPORTED(cuIpcGetEventHandle, processes, CUipcEventHandle*, CUevent)
UNSUPPORTED(cuIpcOpenEventHandle, processes, CUevent*, CUipcEventHandle)
UNSUPPORTED(cuIpcGetMemHandle, processes, CUipcMemHandle*, CUdeviceptr)
UNSUPPORTED(cuIpcOpenMemHandle_v2, processes, CUdeviceptr*, CUipcMemHandle, unsigned int)
UNSUPPORTED(cuIpcCloseMemHandle, processes, CUdeviceptr)
