package cpu

import (
	"errors"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"testing"
	"time"
	"unsafe"

	"github.com/transformersquared/operator/runtime/backend"
)

// Pieces lie apart, begin at a page and with zeros, also in memory that was used before,
// and all of it goes back to the system with the last of them.
func TestWeightsLieApartAndBeginClean(t *testing.T) {
	var m memory
	type piece struct {
		words []float32
		at    span
		mark  float32
	}
	var all []piece
	random := rand.New(rand.NewPCG(1, 2))
	check := func(p piece) {
		t.Helper()
		if p.words[0] != p.mark || p.words[len(p.words)-1] != p.mark {
			t.Fatalf("piece %v was written over", p.mark)
		}
	}
	for i := range 400 {
		n := 1 + i*i*7%50_000
		if i == 100 {
			n = 20 << 20 // Larger than a chunk.
		}
		words, at := m.take(n)
		if len(words) != n || cap(words) != n || at.chunk == nil {
			t.Fatalf("asked for %d floats, got %d of %d", n, len(words), cap(words))
		}
		if uintptr(unsafe.Pointer(&words[0]))%uintptr(os.Getpagesize()) != 0 {
			t.Fatalf("piece %d does not begin at a page", i)
		}
		p := piece{words, at, float32(i + 1)}
		for k := range words {
			if words[k] != 0 {
				t.Fatalf("float %d of piece %d is %v", k, i, words[k])
			}
			words[k] = p.mark
		}
		all = append(all, p)
		if i%3 == 2 {
			gone := random.IntN(len(all))
			check(all[gone])
			m.give(all[gone].at)
			all = slices.Delete(all, gone, gone+1)
		}
	}
	random.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	for _, p := range all {
		check(p)
		m.give(p.at)
	}
	if m.inUse() != 0 || len(m.chunks) != 0 {
		t.Errorf("%d bytes in %d chunks are left", m.inUse(), len(m.chunks))
	}
}

// A weight's memory is given back when nobody refers to the weight, and only then.
func TestMemoryGoesWithItsWeight(t *testing.T) {
	b := newTest(t, 1, "plain")
	const out, in = 64, 512
	weight := func() backend.Weight {
		w, err := b.NewWeight(backend.F32, out, in, make([]float32, out*in))
		if err != nil {
			t.Fatal(err)
		}
		return w
	}
	stays := weight()
	before := b.Memory().Used
	for range 10 {
		weight()
	}
	for deadline := time.Now().Add(10 * time.Second); b.Memory().Used != before; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d bytes are in use, want %d", b.Memory().Used, before)
		}
		runtime.GC()
	}
	if data, err := b.WeightData(stays); err != nil || len(data) != out*in {
		t.Errorf("the weight that stays is gone: %v", err)
	}
}

// A buffer that lasts is not in Go's heap, is zero at first, and goes back to the system
// with its owner's word, also after the backend was closed.
func TestLastingBuffersAreTheirOwners(t *testing.T) {
	b := newTest(t, 1, "plain")
	const n = 8 << 20
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	used := b.Memory().Used
	var all [3]backend.Buffer
	for i := range all {
		var err error
		if all[i], err = b.AllocLasting(backend.F32, n); err != nil {
			t.Fatal(err)
		}
	}
	runtime.ReadMemStats(&after)
	if grown := after.HeapSys - before.HeapSys; int64(grown) > n {
		t.Errorf("Go's heap has grown by %d bytes", grown)
	}
	if now := b.Memory().Used; now != used+3*4*n {
		t.Errorf("%d bytes are in use, want %d", now, used+3*4*n)
	}
	data := make([]float32, n)
	for i, buf := range all {
		if err := b.Download(data, buf); err != nil || slices.Max(data) != 0 || slices.Min(data) != 0 {
			t.Fatalf("buffer %d is not clean: %v", i, err)
		}
		data[n-1] = float32(i + 1)
		if err := b.Upload(buf, data); err != nil {
			t.Fatal(err)
		}
	}
	part, err := b.Rows(all[1], 1, n-1, n)
	if err != nil {
		t.Fatal(err)
	}
	b.Free(part) // Is not its owner.
	if got, err := b.Take(all[1]); err != nil || len(got) != n || got[n-1] != 2 {
		t.Errorf("taken: %d elements, %v", len(got), err)
	}
	b.Free(all[0])
	b.Free(all[0])
	if err := b.Download(data, all[0]); err == nil {
		t.Error("a buffer was read that was freed")
	}
	if now := b.Memory().Used; now != used+4*n {
		t.Errorf("%d bytes are in use, want %d", now, used+4*n)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if err := b.Download(data, all[2]); err != nil || data[n-1] != 3 {
		t.Errorf("what its owner has not freed is gone: %v", err)
	}
	b.Free(all[2])
	if left := b.lasting.inUse(); left != 0 || len(b.lasting.chunks) != 0 {
		t.Errorf("%d bytes in %d chunks are left", left, len(b.lasting.chunks))
	}
	if _, err := b.AllocLasting(backend.F32, 1); err == nil {
		t.Error("a closed backend allocates")
	}
	if _, err := newTest(t, 1, "plain").AllocLasting(backend.Int8, 1); !errors.Is(err, backend.ErrUnsupported) {
		t.Errorf("of a type that there is not: %v", err)
	}
}

// Weights that are dropped are collected without Go's heap growing.
func TestMemoryIsBoundedWhereWeightsAreReplaced(t *testing.T) {
	b := newTest(t, 1, "plain")
	const out, in = 1024, 1024
	data := make([]float32, out*in)
	for range 100 {
		if _, err := b.NewWeight(backend.F32, out, in, data); err != nil {
			t.Fatal(err)
		}
		if used := b.Memory().Used; used > 4*collectEach {
			t.Fatalf("%d bytes are in use of weights that nobody has", used)
		}
	}
}

// What is done with weights of a closed backend is an error.
func TestWeightsOfAClosedBackend(t *testing.T) {
	b := newTest(t, 1, "plain")
	w, err := b.NewWeight(backend.F32, 8, 8, make([]float32, 64))
	if err != nil {
		t.Fatal(err)
	}
	x, err := b.Alloc(backend.F32, 8)
	if err != nil {
		t.Fatal(err)
	}
	y, err := b.Alloc(backend.F32, 8)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if err := b.MatMul(1, backend.Product{Y: y, X: x, W: w}); err == nil {
		t.Error("a product with it was computed")
	}
	if err := b.MatMulBackward(1, backend.Product{Y: y, X: x, W: w}); err == nil {
		t.Error("a product with its transpose was computed")
	}
	if _, err := b.WeightData(w); err == nil {
		t.Error("it was read")
	}
	if _, err := b.NewWeight(backend.F32, 8, 8, nil); err == nil {
		t.Error("one was made")
	}
	if err := b.Compose(t.Context(), w, w, w, x); err == nil {
		t.Error("one was composed")
	}
	if err := b.Close(); err != nil {
		t.Errorf("closed again: %v", err)
	}
}
