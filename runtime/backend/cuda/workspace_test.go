//go:build cuda

package cuda

import (
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/transformersquared/operator/runtime/backend"
)

// TestAWorkspaceIsDividedAndBecomesOneAgain takes and frees buffers of many sizes of what
// was reserved: none may overlap, the device may be asked for nothing, and in the end all
// must be one piece.
func TestAWorkspaceIsDividedAndBecomesOneAgain(t *testing.T) {
	b := newTest(t)
	before := b.Memory().Used
	const bytes = 1 << 20
	release, err := b.Reserve(bytes)
	if err != nil {
		t.Fatal(err)
	}
	reserved := b.Memory().Used
	if reserved < before+bytes {
		t.Errorf("%d bytes are in use after %d were reserved, and %d before", reserved, bytes, before)
	}
	taken := b.memory.allocations.Load()
	arena, r := b.NewArena(), rand.New(rand.NewPCG(1, 2))
	var live []*buffer
	for range 2000 {
		if len(live) > 0 && (len(live) > 12 || r.IntN(2) == 0) {
			i := r.IntN(len(live))
			arena.Free(live[i])
			live = slices.Delete(live, i, i+1)
			continue
		}
		buf, err := arena.Alloc(backend.F32, r.IntN(12000))
		if err != nil {
			t.Fatal(err)
		}
		own, err := owned("a new buffer", buf, -1)
		if err != nil {
			t.Fatal(err)
		}
		for _, other := range live {
			if own.start < other.start+address(other.bytes()) && other.start < own.start+address(own.bytes()) {
				t.Fatalf("two buffers overlap: %d bytes at %d and %d at %d", own.bytes(), own.start, other.bytes(), other.start)
			}
		}
		live = append(live, own)
	}
	if n := b.memory.allocations.Load() - taken; n > 0 {
		t.Errorf("%d allocations beside what was reserved", n)
	}
	arena.Reset()
	w := b.reserved.all[0]
	if len(w.free) != 1 || w.free[0].size < bytes || w.taken != 0 {
		t.Errorf("all was freed, and %v are free with %d taken", w.free, w.taken)
	}
	// What does not fit comes from the device, and what is in use outlives the release.
	large, err := arena.Alloc(backend.F32, 2*bytes)
	if err != nil {
		t.Fatal(err)
	}
	small, err := arena.Alloc(backend.F32, 5)
	if err != nil {
		t.Fatal(err)
	}
	release()
	release()
	if got := b.Memory().Used; got < reserved {
		t.Errorf("%d bytes are in use while a part of what was reserved is, which were %d", got, reserved)
	}
	arena.Free(small)
	arena.Free(large)
	if got := b.Memory().Used; got != before {
		t.Errorf("%d bytes are in use in the end, and %d in the beginning", got, before)
	}
	if _, err := b.Reserve(1 << 41); !errors.Is(err, backend.ErrDeviceMemory) {
		t.Errorf("more than the device has: error %v", err)
	}
	if _, err := b.Reserve(0); err == nil {
		t.Error("nothing was reserved without an error")
	}
}
