package cpu

import (
	"fmt"
	"testing"
	"unsafe"

	"github.com/transformersquared/operator/runtime/backend"
)

// TestTilesFetchThePanelsAhead checks that the tiles of a block fetch the panels behind
// the first group before they compute with them, whole where two tiles share it, and
// nothing else.
func TestTilesFetchThePanelsAhead(t *testing.T) {
	for _, path := range testedPaths() {
		for _, kind := range backend.DTypes() {
			for _, n := range []int{2, 12, 13, 100} {
				t.Run(fmt.Sprintf("%s/%s/%d rows", path, kind, n), func(t *testing.T) {
					testFetches(t, path, kind, n)
				})
			}
		}
	}
}

func testFetches(t *testing.T, path string, kind backend.DType, n int) {
	b := newTest(t, 1, path)
	kernels := *b.kernels
	p := &kernels.products[kind]
	if p.fetches == 0 {
		if path != "plain" {
			t.Error("its tiles do not fetch")
		}
		return // Go has no instruction for it.
	}
	const out, in = 500, 1800
	w, err := b.NewWeight(kind, out, in, random(out*in, 1))
	if err != nil {
		t.Fatal(err)
	}
	panels := w.(*weight).forward.panels
	base, size := uintptr(unsafe.Pointer(&panels[0])), 4*len(panels)
	at := func(s []float32) uintptr { return uintptr(unsafe.Pointer(unsafe.SliceData(s))) - base }
	fetched, cold, lines := map[uintptr]bool{}, 0, 0
	packed := w.(*weight).forward
	tile := p.tile
	p.tile = func(a *tileArgs) {
		first := at(a.panel)
		group := max(1, blockPanel/len(a.panel))
		if int(first)/(4*packed.steps*packed.stepWords) >= group {
			for line := first &^ (cacheLine - 1); line < first+uintptr(4*len(a.panel)); line += cacheLine {
				lines++
				if !fetched[line] {
					cold++
				}
			}
		}
		share := a.steps * p.fetches * a.stride
		if beyond := int(at(a.ahead)) + share - size; beyond > a.steps*p.fetches { // A byte each, of rounding.
			t.Fatalf("fetches up to %d bytes behind the panels", beyond)
		}
		for i := 0; i < share; i += a.stride {
			fetched[(at(a.ahead)+uintptr(i))&^(cacheLine-1)] = true
		}
		tile(a)
	}
	m := multiplication{
		kernels: &kernels, product: p, packed: packed,
		c: make([]float32, n*out), a: random(n*in, 2), ldc: out, lda: in,
	}
	b.block(m, 0, n, 0, m.count())
	most := 0
	if n <= p.mr { // One tile fetches as much as it can.
		most = lines * 6 / 10
	}
	if lines == 0 || cold > most {
		t.Errorf("%d of the %d lines that tiles read had not been fetched", cold, lines)
	}
}

func TestBlocksAreOfOneSize(t *testing.T) {
	for _, c := range []struct {
		kind        backend.DType
		steps, want int
		by          product
	}{
		{kind: backend.F32, steps: 576, want: 576}, {kind: backend.F32, steps: 1536, want: 768},
		{kind: backend.F32, steps: 2048, want: 684}, {kind: backend.F32, steps: 1, want: 4},
		{kind: backend.BF16, steps: 768, want: 768}, {kind: backend.BF16, steps: 1024, want: 512},
		{kind: backend.Int8, steps: 24, want: 24}, {kind: backend.Int8, steps: 128, want: 32},
		{kind: backend.BF16, steps: 1025, want: 208, by: product{unit: 16, blockSteps: 256}},
	} {
		p := packed{kind: c.kind, steps: c.steps}
		if got := p.blockSteps(&c.by); got != c.want {
			t.Errorf("%s: %d steps in blocks of %d, want %d", c.kind, c.steps, got, c.want)
		}
	}
}

// TestGridsCoverAProduct checks that the tasks of a product compute every tile by every
// panel exactly once, in blocks of rows that fit the cache.
func TestGridsCoverAProduct(t *testing.T) {
	const mr, nr = 12, 32
	for _, threads := range []int{2, 3, 8, 16} {
		for _, n := range []int{1, 12, 13, 32, 150, 193, 512, 1000, 5000} {
			for _, panels := range []int{1, 2, 6, 18, 48, 256} {
				for _, rowCost := range []float64{0.25, 1.5, 15} {
					tiles := (n + mr - 1) / mr
					g := newGrid(n, tiles, panels, nr, threads, rowCost)
					times := make([]int, tiles*panels)
					for task := range g.tasks() {
						rows, columns := g.task(task)
						if most := blockRows/mr + 1; rows.to-rows.from > most {
							t.Fatalf("%+v: task %d has %d tiles of rows, at most %d fit", g, task, rows.to-rows.from, most)
						}
						for tile := rows.from; tile < rows.to; tile++ {
							for panel := columns.from; panel < columns.to; panel++ {
								times[tile*panels+panel]++
							}
						}
					}
					for i, n := range times {
						if n != 1 {
							t.Fatalf("%+v: tile %d by panel %d is computed %d times", g, i/panels, i%panels, n)
						}
					}
				}
			}
		}
	}
}
