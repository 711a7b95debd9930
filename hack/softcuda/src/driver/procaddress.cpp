// Entry points by name and version, as dlopening programs and the CUDA runtime ask.
#include <cstring>

#include "objects.h"

using namespace softcuda;

namespace {

struct Symbol {
  const char* base;     // the name without a version
  int since;            // the version of CUDA that brought it
  void* address;
};

// The newest entry of a name that a program of a version knows.
CUresult look_up(Call& call, const char* name, int version, void** out, CUdriverProcAddressQueryResult* status) {
  static const Symbol symbols[] = {
#define ENTRY(symbol, base, since) {#base, since, reinterpret_cast<void*>(&symbol)},
#include "entries.inc"
#undef ENTRY
  };
  const Symbol* best = nullptr;
  bool known = false;
  for (const Symbol& one : symbols) {
    if (std::strcmp(one.base, name) != 0) continue;
    known = true;
    if (one.since <= version && (!best || one.since > best->since)) best = &one;
  }
  if (best) {
    *out = best->address;
    if (status) *status = CU_GET_PROC_ADDRESS_SUCCESS;
    return CUDA_SUCCESS;
  }
  *out = nullptr;
  if (status) {
    *status = known ? CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT : CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND;
  }
  return call.fail(CUDA_ERROR_NOT_FOUND, std::string(name) + (known ? " is newer than CUDA " + std::to_string(version)
                                                                    : " is no entry of this driver"));
}

}  // namespace

SOFTCUDA_API CUresult cuGetProcAddress_v2(const char* symbol, void** pfn, int version, cuuint64_t flags,
                                          CUdriverProcAddressQueryResult* status) {
  return THIS_ENTRY(cuGetProcAddress_v2).call(Needs::nothing, [&](Call& call) {
    SOFTCUDA_TRY(need(call, symbol, "symbol"));
    SOFTCUDA_TRY(need(call, pfn, "pfn"));
    if (flags & ~cuuint64_t{CU_GET_PROC_ADDRESS_LEGACY_STREAM}) {
      return call.fail(CUDA_ERROR_NOT_SUPPORTED,
                       "entries that take stream 0 for the thread's own (per-thread default streams) are not there");
    }
    return look_up(call, symbol, version, pfn, status);
  });
}
