// Names and meanings of the driver's results.
#pragma once

#include "../../include/cuda.h"

namespace softcuda {

// error_name gives "CUDA_ERROR_…", or "an unknown error" for a number that is none.
const char* error_name(CUresult);

}  // namespace softcuda
