package main

import (
	"syscall"
	"time"
)

// spent is what something took, in seconds of the clock and of all processors together. On a
// machine that is shared the second says what the first does not.
type spent struct {
	clock, processor float64
}

// timed returns what f costs.
func timed(f func() error) (spent, error) {
	begun, before := time.Now(), processorSeconds()
	err := f()
	return spent{time.Since(begun).Seconds(), processorSeconds() - before}, err
}

// processorSeconds is how long all processors have worked for this process, 0 if the system
// does not say.
func processorSeconds() float64 {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		return 0
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano()).Seconds()
}
