//go:build !linux

package cpu

import "runtime"

// yield lets other goroutines run.
func yield() { runtime.Gosched() }

// processor is known on Linux alone.
func processor() int32 { return nowhere }

// moveAway is for systems that tell where a thread runs.
func moveAway([]int32) {}
