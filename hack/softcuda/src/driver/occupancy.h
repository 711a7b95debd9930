// How many blocks of a kernel a multiprocessor holds at once.
#pragma once

#include "objects.h"

namespace softcuda {

// blocks_per_multiprocessor counts by threads, blocks, shared memory and registers. The
// registers are an estimate from the PTX (KernelInfo::regs), capped where a device's
// compiler would spill; ptxas tells the real number.
int blocks_per_multiprocessor(const Function&, int threads, size_t dynamic_shared);

// registers gives a thread's registers as the driver reports them.
int registers(const KernelInfo&);

}  // namespace softcuda
