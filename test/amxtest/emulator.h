// What amxtest.go calls of the emulator; see emulator_linux_amd64.c.

#ifndef AMXTEST_EMULATOR_H
#define AMXTEST_EMULATOR_H

#include <stddef.h>
#include <stdint.h>

// amxtest_install catches SIGILL. It returns 0, or errno.
int amxtest_install(void);

// amxtest_executed is how many instructions were carried out.
uint64_t amxtest_executed(void);

// amxtest_live says whether the calling thread has configured tiles.
int amxtest_live(void);

// amxtest_faults copies what was wrong, a line each, and forgets it.
size_t amxtest_faults(char *to, size_t size);

// amxtest_call calls code, which is no function of the compiler's, with six arguments.
// It returns errno.
int amxtest_call(const void *code, size_t size, const uintptr_t *arguments);

#endif
