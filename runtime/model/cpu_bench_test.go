//go:build unix

package model_test

import (
	"syscall"
	"testing"
	"time"
)

// reportCPU reports the processor time an iteration takes on all threads
// together, which says more than wall time on a busy machine. Call it before the
// loop, and what it returns after.
func reportCPU(b *testing.B) func() {
	start := processorTime(b)
	return func() {
		b.ReportMetric(float64((processorTime(b)-start).Microseconds())/1e3/float64(b.N), "cpu-ms/op")
	}
}

func processorTime(b *testing.B) time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
