// Package cumath calls cuBLAS and cuSOLVER where they are: libraries of NVIDIA's toolkit
// that are no part of the driver, and that nothing of this project needs. They are found
// by dlopen when a backend asks for them, of whichever major version is there, so that
// building needs neither their headers nor themselves (calls.h declares what is called).
// Like the rest of package cuda it is built with the tag cuda.
//
// Where the dynamic loader looks is its own affair: LD_LIBRARY_PATH, the cache of
// ldconfig, and the system's folders.
package cumath
