package cpu

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestWorkersRestWhileTheProcessIsSuspended drives the pool through a time in which
// the system suspends the process 10 times in 10 milliseconds, and out of it.
func TestWorkersRestWhileTheProcessIsSuspended(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(3)
		defer p.close()
		var suspended, each int64
		p.switches = func() (int64, bool) { return suspended, true }
		pass := func(d time.Duration) {
			for range d / sampleTime {
				time.Sleep(sampleTime)
				suspended += each
				for range sampleRuns {
					p.sample()
				}
			}
		}
		steps := []struct {
			each int64
			time time.Duration
			want int64
		}{
			{0, 5 * sampleTime, 0},
			{2 * suspendedOften, sampleTime, 1},
			{2 * suspendedOften, 5 * sampleTime, 2}, // The caller is left.
			{suspendedOften - 1, restTime / 2, 2},
			{suspendedOften - 1, restTime, 1},
			{suspendedOften - 1, restTime, 0},
		}
		for i, step := range steps {
			each = step.each
			pass(step.time)
			var done atomic.Int64
			p.run(5, func(int) { done.Add(1) })
			if done.Load() != 5 {
				t.Errorf("after step %d %d of 5 tasks were done", i, done.Load())
			}
			if got := p.resting.Load(); got != step.want {
				t.Fatalf("after step %d %d workers rest, want %d", i, got, step.want)
			}
		}
	})
}
