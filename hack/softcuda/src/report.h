// How faults are told: one line on stderr, the same line appended to the file of
// SOFTCUDA_LOG, and softcudaLastFault() for a test.
#pragma once

#include <cstdint>
#include <string>

#include "fault.h"

namespace softcuda {

// Kinds that the driver adds to the interpreter's (see fault.h): "api" (an entry
// refused its arguments), "injected" (SOFTCUDA_FAIL), "leak" (memory that lived when
// its context ended), "host-overrun" (bytes written behind a pinned buffer).
namespace kind {
inline constexpr const char* api = "api";
inline constexpr const char* injected = "injected";
inline constexpr const char* leak = "leak";
inline constexpr const char* overrun = "host-overrun";
inline constexpr const char* uninitialised = "uninitialised";
}  // namespace kind

// report tells a fault. "api" and "injected" go to the log and to last_fault only:
// programs ask for what they may not have and handle the answer. All others go to
// stderr too, the first 20 of a kind in full.
void report(const Fault&);
void report(const char* kind, int error, std::string text);

// The newest fault in one line; "" when there was none.
std::string last_fault();
// How many faults of a kind were told, of any kind for "".
uint64_t fault_count(const std::string& kind);

// replace_pid puts the process's number where a file name of a knob says %p, so that
// the processes of one test run do not share a file.
std::string replace_pid(std::string path);

}  // namespace softcuda
