package cpu

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestWorkersMakeRoom drives a pool of three through times in which the system gives
// this process so many processors and suspends it so often.
func TestWorkersMakeRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(3)
		defer p.close()
		var has usage
		p.share.usage = func() (usage, bool) { return has, true }
		steps := []struct {
			name            string
			processors      float64
			suspended       int64 // In a sample's time.
			time            time.Duration
			crowded, yields bool
			resting         int64
		}{
			{"alone", 2.9, 5, 5 * sampleTime, false, true, 0},
			{"a busy loop came", 2, suspendedOften, sampleTime, true, false, 0},
			{"and we kept apart", 2.3, suspendedOften, 5 * sampleTime, true, true, 0},
			{"a second busy loop", 1.8, suspendedOften - 1, 5 * sampleTime, true, false, 0},
			{"another runtime", 1.8, suspendedOften, sampleTime, true, false, 1},
			{"a third, and the caller is left", 0.9, 2 * suspendedOften, 5 * sampleTime, true, true, 2},
			{"they are gone", 1, 0, restTime / 2, true, true, 2},
			{"for longer", 1, 0, restTime, true, false, 1},
			{"all work", 2.9, 5, restTime, false, true, 0},
		}
		for _, step := range steps {
			for range step.time / sampleTime {
				time.Sleep(sampleTime)
				has.suspended += step.suspended
				has.processors += time.Duration(step.processors * float64(sampleTime))
				for range sampleRuns {
					p.share.sample()
				}
			}
			var done atomic.Int64
			p.run(5, func(int) { done.Add(1) })
			if done.Load() != 5 {
				t.Errorf("%s: %d of 5 tasks were done", step.name, done.Load())
			}
			crowded, yields, resting := p.share.crowded.Load(), p.share.yields.Load(), p.share.resting.Load()
			if crowded != step.crowded || yields != step.yields || resting != step.resting {
				t.Fatalf("%s: crowded %v, yields %v, resting %d; want %v, %v, %d", step.name,
					crowded, yields, resting, step.crowded, step.yields, step.resting)
			}
		}
	})
}
