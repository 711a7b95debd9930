// The knobs of the environment, read once at the first call of any entry.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace softcuda {

// Injection makes one call of an entry fail: its `call`th (from 1), or from that one
// on every call when sticky.
struct Injection {
  std::string entry;  // "*" counts the calls of all entries together
  uint64_t call = 0;
  int error = 0;
  bool sticky = false;
};

struct Config {
  int devices = 1;                       // SOFTCUDA_DEVICES
  size_t memory = size_t{4} << 30;       // SOFTCUDA_MEMORY, bytes of each device
  int major = 9, minor = 0;              // SOFTCUDA_CAPABILITY
  int driver_version = 12040;            // SOFTCUDA_DRIVER_VERSION
  unsigned threads = 1;                  // SOFTCUDA_THREADS, default: cores
  std::vector<Injection> injections;     // SOFTCUDA_FAIL
  std::string calls, counters;           // SOFTCUDA_CALLS, SOFTCUDA_COUNTERS
  bool strict = false;                   // SOFTCUDA_STRICT
  bool blocking = false;                 // CUDA_LAUNCH_BLOCKING
  std::string error;                     // which knob is wrong and why; "" when none is

  int sm() const { return major * 10 + minor; }
};

// config gives the knobs of this process.
const Config& config();

// read_config parses the environment; for tests.
Config read_config();

}  // namespace softcuda
