// What went wrong on the device, in a form that a person can act on.
#pragma once

#include <cstdint>
#include <string>

namespace softcuda {

// The CUresult values that the interpreter itself gives. The driver knows the rest.
enum Error : int {
  kErrorInvalidValue = 1,
  kErrorInvalidPtx = 218,
  kErrorIllegalAddress = 700,
  kErrorLaunchOutOfResources = 701,
  kErrorLaunchTimeout = 702,
  kErrorAssert = 710,
  kErrorHardwareStackError = 714,
  kErrorIllegalInstruction = 715,
  kErrorMisalignedAddress = 716,
  kErrorLaunchFailed = 719,
};

// Fault is the first thing a kernel did wrong. Kinds are: "out-of-bounds",
// "use-after-free", "misaligned", "uninitialised", "read-only", "barrier",
// "warp-sync", "race", "proxy", "mbarrier", "wgmma", "trap", "assert", "unsupported",
// "timeout", "launch".
struct Fault {
  std::string kind;
  std::string kernel;  // entry name, empty when no kernel ran
  std::string text;    // one sentence: what, and what the memory is
  int line = 0;        // line of the PTX text, from 1; 0 when there is none
  unsigned block[3] = {0, 0, 0};
  unsigned thread[3] = {0, 0, 0};
  uint64_t address = 0;
  int error = 0;  // the CUresult that the context keeps from then on
};

// describe gives the fault in one line: kind, kernel, line, block, thread, text.
std::string describe(const Fault&);

}  // namespace softcuda
