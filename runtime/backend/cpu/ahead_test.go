package cpu

import (
	"runtime"
	"sync"
	"testing"
	"weak"

	"github.com/transformersquared/operator/runtime/backend"
)

// aheadProducts makes a backend of two threads, a function that makes matrices, and one
// that computes products of so many rows with some of them.
func aheadProducts(t *testing.T) (b *Backend, matrix func(out int) *weight, multiply func(rows int, of ...*weight)) {
	t.Helper()
	const in = 512
	b, err := newWithPath(2, "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	matrix = func(out int) *weight {
		w, err := b.NewWeight(backend.F32, out, in, make([]float32, out*in))
		if err != nil {
			t.Fatal(err)
		}
		return w.(*weight)
	}
	multiply = func(rows int, of ...*weight) {
		t.Helper()
		products := make([]backend.Product, len(of))
		for i, w := range of {
			x, _ := b.Alloc(backend.F32, rows*in)
			y, _ := b.Alloc(backend.F32, rows*w.Out())
			products[i] = backend.Product{Y: y, X: x, W: w}
		}
		if err := b.MatMul(rows, products...); err != nil {
			t.Fatal(err)
		}
	}
	return b, matrix, multiply
}

// What is read ahead is what the second thread begins with of the products that came
// next the last time.
func TestReadAheadFollowsTheOrderOfProducts(t *testing.T) {
	b, matrix, multiply := aheadProducts(t)
	first, second, third, other := matrix(768), matrix(320), matrix(640), matrix(1024)
	multiply(1, first)
	if b.pool.ahead.Load() != nil {
		t.Error("something is read ahead that nobody can know")
	}
	for range 2 {
		multiply(1, second, third)
		multiply(1, other)
		multiply(1, first)
	}
	ahead := b.pool.ahead.Load()
	if ahead == nil {
		t.Fatal("nothing is read ahead")
	}
	all := []*packed{second.forward, third.forward}
	var want []*float32
	floats := 0
	for i, p := range parts(all, ahead.split.task(1)) {
		size := all[i].steps * all[i].stepWords
		want = append(want, &all[i].panels[p.from*size])
		floats += (p.to - p.from) * size
	}
	memory, _ := ahead.start(1)
	if len(memory) != len(want) || len(want) == 0 {
		t.Fatalf("%d matrices are read ahead, want %d", len(memory), len(want))
	}
	got := 0
	for i, m := range memory {
		got += len(m)
		if len(m) > 0 && &m[0] != want[i] {
			t.Errorf("matrix %d is read from another place", i)
		}
	}
	if got != min(floats, aheadFloats) {
		t.Errorf("%d elements are read ahead, want %d", got, min(floats, aheadFloats))
	}
	if more, _ := ahead.start(2); more != nil {
		t.Error("a third thread of two reads something")
	}

	multiply(1, other) // Another order than before.
	multiply(1, first)
	if next := b.pool.ahead.Load(); next == nil || next.of != other.forward.after {
		t.Error("the order before is still followed")
	}
	at := b.pool.ahead.Load()
	multiply(1024, second)
	if b.pool.ahead.Load() != at {
		t.Error("a product that is bound by computing changed the order")
	}
}

// A reader reads each cache line of what is next once, and begins anew where that
// changes.
func TestReader(t *testing.T) {
	b, matrix, multiply := aheadProducts(t)
	first, second := matrix(512), matrix(640)
	for range 2 {
		multiply(1, first)
		multiply(1, second)
	}
	next := b.pool.ahead.Load()
	want := 0
	memory, _ := next.start(1)
	for _, m := range memory {
		want += (len(m) + aheadStep - 1) / aheadStep
	}
	r := reader{still: &sync.RWMutex{}}
	r.read(nil, 1)
	steps := 0
	for r.read(next, 1); len(r.memory) > 0; r.read(next, 1) {
		steps++
	}
	if steps+1 != want || want < 2 {
		t.Errorf("%d steps, want %d", steps+1, want)
	}
	if r.read(next, 1); len(r.memory) > 0 {
		t.Error("what is in the cache is read again")
	}
	multiply(1, first)
	if r.read(b.pool.ahead.Load(), 1); len(r.memory) == 0 {
		t.Error("what is next now is not read")
	}
}

// To know what came next does not keep its weights.
func TestReadAheadHoldsNoWeights(t *testing.T) {
	b, matrix, multiply := aheadProducts(t)
	stays := matrix(640)
	gone := func() weak.Pointer[packed] {
		w := matrix(1024)
		multiply(1, stays)
		multiply(1, w)
		multiply(1, stays)
		return weak.Make(w.forward)
	}()
	if err := b.Close(); err != nil { // A worker may have been reading it.
		t.Fatal(err)
	}
	runtime.GC()
	if gone.Value() != nil {
		t.Fatal("a matrix that nobody uses is still held")
	}
	ahead := b.pool.ahead.Load()
	if ahead == nil {
		t.Fatal("nothing came next")
	}
	if memory, _ := ahead.start(1); memory != nil {
		t.Error("something is read of a matrix that is gone")
	}
	runtime.KeepAlive(stays)
}
