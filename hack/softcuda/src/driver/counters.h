// The files of SOFTCUDA_CALLS and SOFTCUDA_COUNTERS. Both are JSON of lines of fixed
// width, and a count is written in place as soon as it changes: a Go program ends by
// exit_group, without the C library's exit, so nothing may wait for the end.
#pragma once

#include <string>

#include "../exec/exec.h"
#include "entry.h"

namespace softcuda {

// note_call puts an entry's new count into the file of SOFTCUDA_CALLS.
void note_call(const Entry&, uint64_t calls);

// note_launch adds a launch's counters to its kernel's line of SOFTCUDA_COUNTERS.
void note_launch(const std::string& kernel, const Counters&);

}  // namespace softcuda
