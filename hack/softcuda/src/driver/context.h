// Making and ending contexts.
#pragma once

#include "objects.h"

namespace softcuda {

// make_context gives a new context of the device; it is current nowhere.
std::shared_ptr<Context> make_context(Device&, unsigned flags, bool primary);

// end_context frees all that the context has, makes its handles invalid, and tells what
// it still held. It gives up call.lock. With SOFTCUDA_STRICT memory that was left is an
// error.
CUresult end_context(Call&, const std::shared_ptr<Context>&);

}  // namespace softcuda
