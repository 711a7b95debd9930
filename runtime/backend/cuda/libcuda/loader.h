#ifndef T2_LOADER_H
#define T2_LOADER_H

// T2_NO_LIBRARY says that no library of a driver was found; why says what the system
// answered.
#define T2_NO_LIBRARY (-1)

// t2_driver_init returns what cuInit returned when the program started, or
// T2_NO_LIBRARY.
int t2_driver_init(const char **why);

#endif
