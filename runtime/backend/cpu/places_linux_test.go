package cpu

import (
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// TestWorkersKeepApart puts the caller on each processor in turn that this process may
// use, and asks a worker on the same one to keep apart.
func TestWorkersKeepApart(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var allowed unix.CPUSet
	if err := unix.SchedGetaffinity(0, &allowed); err != nil {
		t.Fatal(err)
	}
	p := newPool(1)
	p.places = newPlaces(2) // The other is this thread's.
	for n := range 1024 {
		if !allowed.IsSet(n) {
			continue
		}
		var one unix.CPUSet
		one.Set(n)
		if err := unix.SchedSetaffinity(0, &one); err != nil {
			t.Fatal(err)
		}
		p.places[0].asked.Store(true)
		p.places[0].answer()
		if got := p.places[0].processor.Load(); got != int32(n) {
			t.Fatalf("the caller is on processor %d, want %d", got, n)
		}

		// With nowhere to go a worker stays.
		(&worker{pool: p, number: 1}).keepApart()
		if got := p.places[1].processor.Load(); got != int32(n) {
			t.Errorf("the worker went from processor %d to %d, where it may not be", n, got)
		}

		// A thread that may use them all and is where it was.
		if err := unix.SchedSetaffinity(0, &allowed); err != nil {
			t.Fatal(err)
		}
		// The system may move it back at once, but not forever.
		var caller, mine int32
		for range 100 {
			p.places[0].processor.Store(processor())
			(&worker{pool: p, number: 1}).keepApart()
			if caller, mine = p.places[0].processor.Load(), p.places[1].processor.Load(); mine != caller {
				break
			}
		}
		if mine == caller && allowed.Count() > 1 {
			t.Errorf("the worker stayed on processor %d beside the caller", mine)
		}
		var after unix.CPUSet
		if err := unix.SchedGetaffinity(0, &after); err != nil {
			t.Fatal(err)
		}
		if after != allowed {
			t.Errorf("the worker may use %d processors after it moved, %d before", after.Count(), allowed.Count())
		}
		if !p.places[0].asked.Load() {
			t.Error("the worker did not ask where the caller is")
		}

		// In no crowd it does not look.
		p.share.crowded.Store(false)
		p.places[1].processor.Store(nowhere)
		(&worker{pool: p, number: 1}).keepApart()
		if got := p.places[1].processor.Load(); got != nowhere {
			t.Errorf("the worker looked where it is, processor %d, without need", got)
		}
		p.share.crowded.Store(true)
	}
}
