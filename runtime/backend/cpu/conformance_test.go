package cpu

import (
	"math"
	"slices"
	"sync"
	"testing"

	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/backend/backendtest"
)

// guarded puts sentinels before and behind every buffer and checks them when the
// buffer is freed and at the end of the test.
type guarded struct {
	*Backend
	tb   testing.TB
	mu   sync.Mutex
	live map[*buffer][]float32
}

const guard = 64

var sentinel = float32(-1.2345e33)

func (g *guarded) NewArena() backend.Arena { return backend.NewArena(g) }

func (g *guarded) Alloc(t backend.DType, n int) (backend.Buffer, error) {
	inner, err := g.Backend.Alloc(t, n)
	if err != nil {
		return nil, err
	}
	g.Backend.Free(inner)
	words := wordsOf(t, n)
	whole := make([]float32, words+2*guard)
	for i := range whole {
		whole[i] = sentinel
	}
	b := newBuffer(t, n, whole[guard:guard+words:guard+words], span{})
	g.mu.Lock()
	defer g.mu.Unlock()
	g.live[b] = whole
	return b, nil
}

func (g *guarded) Free(b backend.Buffer) {
	own, ok := b.(*buffer)
	if !ok {
		return
	}
	g.check(own)
	own.free()
}

func (g *guarded) check(b *buffer) {
	g.mu.Lock()
	defer g.mu.Unlock()
	whole := g.live[b]
	delete(g.live, b)
	for i, v := range whole {
		if (i < guard || i >= len(whole)-guard) && v != sentinel {
			g.tb.Errorf("element %d of a buffer of %d was overwritten", i-guard, len(whole)-2*guard)
			return
		}
	}
}

// testedPaths are all paths, also those that are emulated, or the best alone with -short:
// what threads share is the same on each, so that the race detector, which slows plain Go
// down by twenty, has one.
func testedPaths() []string {
	paths := Paths()
	if testing.Short() {
		return paths[:1]
	}
	for _, k := range emulated {
		paths = append(paths, k.name)
	}
	return paths
}

// TestEveryPathConforms runs the conformance suite on each instruction path with
// several numbers of threads.
func TestEveryPathConforms(t *testing.T) {
	for _, path := range testedPaths() {
		t.Run(path, func(t *testing.T) {
			open := func(threads int) func(testing.TB) backend.Backend {
				return func(tb testing.TB) backend.Backend {
					g := &guarded{Backend: newTest(tb, threads, path), tb: tb, live: map[*buffer][]float32{}}
					tb.Cleanup(func() {
						for b := range g.live {
							g.check(b)
						}
					})
					return g
				}
			}
			switch {
			case !isEmulated(path):
				backendtest.Run(t, open(1), open(2), open(5))
			case path == "amxwide": // Has products of its own.
				backendtest.RunProducts(t, open(3))
			default: // Is slow; that threads change nothing, the test of products' rows shows.
				backendtest.Run(t, open(3))
			}
		})
	}
}

func isEmulated(path string) bool {
	return slices.ContainsFunc(emulated, func(k *kernels) bool { return k.name == path })
}

func TestUnknownPathIsRefusedByName(t *testing.T) {
	t.Setenv(EnvPath, "mmx")
	if b, err := New(1); err == nil {
		t.Errorf("New returned %s, want an error that names %s", b.Name(), EnvPath)
	}
}

func TestClosedBackendRefusesMemory(t *testing.T) {
	b, err := New(2)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := b.Alloc(backend.F32, 1); err == nil {
		t.Error("Alloc after Close: no error")
	}
}

func TestFreedMemoryIsUsedAgain(t *testing.T) {
	b := newTest(t, 1, "")
	for range 100 {
		for _, n := range []int{1000, 1010, 1020} {
			buf, err := b.Alloc(backend.F32, n)
			if err != nil {
				t.Fatal(err)
			}
			b.Free(buf)
		}
	}
	if b.held > 2*sizeClass(1020) {
		t.Errorf("%d elements are held for buffers of about 1000", b.held)
	}
	if got := testing.AllocsPerRun(20, func() {
		buf, _ := b.Alloc(backend.F32, 1<<20)
		b.Free(buf)
	}); got > 3 {
		t.Errorf("%v allocations for a buffer that was free", math.Round(got))
	}
}

// What is held never exceeds what was in use at once by more than an eighth, whatever
// sizes come and go; and what was in use at once is used again without new memory.
func TestMemoryIsBoundedByWhatWasInUse(t *testing.T) {
	b := newTest(t, 1, "")
	round := func(n int) {
		var buffers []backend.Buffer
		for range 4 {
			buf, err := b.Alloc(backend.F32, n)
			if err != nil {
				t.Fatal(err)
			}
			buffers = append(buffers, buf)
		}
		for _, buf := range buffers {
			b.Free(buf)
		}
	}
	const large = freelyHeld / 2
	for _, n := range []int{large, large + large/4, large / 2, large} {
		round(n)
		if b.used != 0 || b.held > max(b.most+b.most/8, freelyHeld) {
			t.Fatalf("%d elements are in use, %d are held; %d were in use at once", b.used, b.held, b.most)
		}
	}
	if got := testing.AllocsPerRun(3, func() { round(large) }); got > 20 {
		t.Errorf("%v allocations for buffers that were free", got)
	}
}

// A step whose phases need buffers of different sizes, beside much that stays in
// use, finds them all again in the next step.
func TestPhasesDoNotTakeEachOthersMemory(t *testing.T) {
	b := newTest(t, 1, "")
	if _, err := b.Alloc(backend.F32, freelyHeld); err != nil {
		t.Fatal(err)
	}
	known := map[*float32]bool{}
	step := func() (fresh int) {
		for _, n := range []int{1 << 20, 1 << 21} {
			var buffers []backend.Buffer
			for range 2 {
				buf, err := b.Alloc(backend.F32, n)
				if err != nil {
					t.Fatal(err)
				}
				buffers = append(buffers, buf)
			}
			for _, buf := range buffers {
				at := &buf.(*buffer).wide[0]
				if !known[at] {
					known[at] = true
					fresh++
				}
				b.Free(buf)
			}
		}
		return fresh
	}
	if fresh := step(); fresh != 4 {
		t.Fatalf("%d new buffers in the first step, want 4", fresh)
	}
	if fresh := step(); fresh != 0 {
		t.Errorf("%d new buffers in the second step", fresh)
	}
}

// Memory that was given comes back as it came: no buffer is made of it.
func TestGivenMemoryIsNotKept(t *testing.T) {
	b := newTest(t, 1, "")
	buf, err := b.Give(make([]float32, sizeClass(1000)-1))
	if err != nil {
		t.Fatal(err)
	}
	b.Free(buf)
	if b.used != 0 || b.held != 0 {
		t.Errorf("%d elements in use, %d held", b.used, b.held)
	}
}
