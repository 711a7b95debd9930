// What the software device says of itself: the figures of the real device of the same
// compute capability, so that launch limits and occupancy are those of the device.
#pragma once

#include "../../include/cuda.h"
#include "config.h"

namespace softcuda {

// Limits are those figures of a device that the driver itself needs.
struct Limits {
  int multiprocessors = 0;
  int threads_per_multiprocessor = 0;
  int blocks_per_multiprocessor = 0;
  int shared_per_multiprocessor = 0;  // bytes
  int shared_optin = 0;               // bytes a block may have after cuFuncSetAttribute
  int shared_default = 48 << 10;      // bytes a block may have without
  int shared_reserved = 1 << 10;      // bytes of a block that the system takes
  int registers = 65536;              // of a multiprocessor and of a block
  int threads_per_block = 1024;
  int warp = 32;
};

Limits limits(const Config&);

// attribute gives a device's attribute; false for one that no device of CUDA 12.4 has.
bool attribute(const Config&, int ordinal, CUdevice_attribute, int* value);

}  // namespace softcuda
