// What the software driver exports beyond the CUDA driver API. A test finds
// these with dlsym; a program that runs on a device as well must not need them.
#ifndef SOFTCUDA_H
#define SOFTCUDA_H

#ifdef __cplusplus
extern "C" {
#endif

// softcudaLastFault gives the newest fault in one line: what went wrong, and for
// a kernel its name, the line of the PTX, block, thread and address; or which
// entry refused what, and why. "" when there was none. The text is the calling
// thread's copy and lives until its next call of this function.
const char *softcudaLastFault(void);

// softcudaFaultCount gives how many faults of `kind` were told so far, of any
// kind when it is NULL. Kinds are listed in README.md.
unsigned long long softcudaFaultCount(const char *kind);

// softcudaFlush writes the files of SOFTCUDA_CALLS and SOFTCUDA_COUNTERS. They
// are also kept up to date while the program runs, since a Go program ends
// without the C library's exit.
void softcudaFlush(void);

#ifdef __cplusplus
}
#endif

#endif  // SOFTCUDA_H
