// Pinned host memory that the driver gave out, and host memory registered with it.
#pragma once

#include "objects.h"

namespace softcuda {

// take_host_blocks takes the blocks of a context out of the driver's table.
std::map<uintptr_t, HostBlock> take_host_blocks(const std::shared_ptr<Context>&);

// free_host_block gives the memory back, and tells if bytes behind it were written.
void free_host_block(uintptr_t address, const HostBlock&);

}  // namespace softcuda
