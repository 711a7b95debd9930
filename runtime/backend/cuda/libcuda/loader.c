// The driver's entry points, found when the program starts instead of when it is
// linked: t2-cuda starts on a machine without a driver, and says what is missing.
//
// Each entry of entries.inc is a function that jumps to the driver's own. What
// this driver lacks, or every entry where there is no driver, returns an error.
// cuInit is ours: gorgonia.org/cu calls it before main and ends the process on an
// error, so it always succeeds here, and t2_driver_init says what it came to.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

#include "loader.h"

enum { notInitialized = 3, notFound = 500 };

static int result = notInitialized;
static char text[512] = "the driver was not looked for";

// What entries without a driver, or that the driver lacks, come to.
static int absent(void) { return notInitialized; }
static int missing(void) { return notFound; }

#define ENTRY(name) \
  void *t2_entry_##name __attribute__((visibility("hidden"))) = (void *)absent;
#include "entries.inc"
#undef ENTRY

#if defined(__x86_64__)
#define ENTRY(name) \
  __asm__(".text\n.globl " #name "\n.type " #name ", @function\n" #name ":\n\tjmp *t2_entry_" #name "(%rip)\n.size " #name ", .-" #name "\n");
#elif defined(__aarch64__)
#define ENTRY(name)                                                                                             \
  __asm__(".text\n.globl " #name "\n.type " #name ", %function\n" #name ":\n\tadrp x16, t2_entry_" #name        \
          "\n\tldr x16, [x16, :lo12:t2_entry_" #name "]\n\tbr x16\n.size " #name ", .-" #name "\n");
#else
#error "no trampolines for this processor"
#endif
#include "entries.inc"
#undef ENTRY

// The names under which drivers are installed.
static const char *const names[] = {"libcuda.so.1", "libcuda.so"};

static void *open_driver(void) {
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    void *library = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
    if (library != NULL) return library;
    if (i == 0) snprintf(text, sizeof text, "%s", dlerror());
  }
  return NULL;
}

__attribute__((constructor)) static void load(void) {
  result = T2_NO_LIBRARY;
  void *library = open_driver();
  if (library == NULL) return;
#define ENTRY(name)                                                 \
  t2_entry_##name = dlsym(library, #name);                          \
  if (t2_entry_##name == NULL) t2_entry_##name = (void *)missing;
#include "entries.inc"
#undef ENTRY
  int (*init)(unsigned int) = (int (*)(unsigned int))dlsym(library, "cuInit");
  if (init == NULL) {
    snprintf(text, sizeof text, "%s has no cuInit", names[0]);
    return;
  }
  text[0] = 0;
  result = init(0);
}

int cuInit(unsigned int flags) {
  (void)flags;
  return 0;
}

int t2_driver_init(const char **why) {
  *why = text;
  return result;
}
