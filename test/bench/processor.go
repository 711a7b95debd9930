package main

import (
	"syscall"
	"time"
)

// processorTime is how long all processors have worked for this process. On a machine that
// is shared it says what the clock does not.
func processorTime() time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		return 0
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
