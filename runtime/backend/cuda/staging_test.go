//go:build cuda

package cuda

import (
	"testing"

	"github.com/transformersquared/operator/runtime/backend"
)

// TestCopiesOfAnySizeArrive sends numbers to the device and back by way of pinned memory:
// few, as many as a slot has, one more, and several slots of the larger ring; and many
// small ones without waiting, more than the smaller ring has slots.
func TestCopiesOfAnySizeArrive(t *testing.T) {
	b := newTest(t)
	for _, n := range []int{0, 1, smallSlot / 4, smallSlot/4 + 1, largeSlot / 4, largeSlot/4 + 3, 5 * largeSlot / 8} {
		data := make([]float32, n)
		for i := range data {
			data[i] = float32(i%8191) - 7
		}
		buf, err := b.Alloc(backend.F32, n)
		if err != nil {
			t.Fatal(err)
		}
		if err := b.Upload(buf, data); err != nil {
			t.Fatal(err)
		}
		got := make([]float32, n)
		if err := b.Download(got, buf); err != nil {
			t.Fatal(err)
		}
		for i := range got {
			if got[i] != data[i] {
				t.Fatalf("of %d numbers number %d is %v, want %v", n, i, got[i], data[i])
			}
		}
		b.Free(buf)
	}
	tables, err := b.NewTables()
	if err != nil {
		t.Fatal(err)
	}
	const lists, c = 3 * smallSlots, 4
	x, err := b.Give(make([]float32, lists*c))
	if err != nil {
		t.Fatal(err)
	}
	one, err := b.Give([]float32{1, 2, 3, 4})
	if err != nil {
		t.Fatal(err)
	}
	for i := range lists {
		if err := tables.Set([]int32{int32(i)}); err != nil {
			t.Fatal(err)
		}
		if err := b.ScatterRows(x, one, tables.At(0), c); err != nil {
			t.Fatal(err)
		}
	}
	got := make([]float32, lists*c)
	if err := b.Download(got, x); err != nil {
		t.Fatal(err)
	}
	for i, v := range got {
		if want := float32(i%c) + 1; v != want {
			t.Fatalf("number %d is %v, want %v: a list was overwritten before it was copied", i, v, want)
		}
	}
}
