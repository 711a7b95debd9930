//go:build !linux || !amd64 || !cgo

package amxtest

import "errors"

// Install fails: see the package.
func Install() error { return errors.New("tiles are emulated on Linux on amd64, with cgo") }

// Executed is how many instructions were carried out.
func Executed() uint64 { return 0 }

// Live says whether the calling thread has tiles that are configured.
func Live() bool { return false }

// Faults returns what was wrong since it was last called.
func Faults() []string { return nil }
