// Package amxtest carries out the processor's instructions on tiles (Intel's AMX) where
// the processor has none, so that tests execute the assembly that ships. It is for tests
// alone, and is nothing without cgo: what the emulation catches is a signal, in the midst
// of assembly.
//
// It computes as Intel's manual says in what order. Whether a processor does, down to the
// last bit, is not known here: tests on one compare within bounds.
package amxtest
