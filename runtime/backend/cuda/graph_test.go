//go:build cuda

package cuda

import (
	"testing"

	"github.com/transformersquared/operator/runtime/backend"
)

// TestACapturedStepIsRepeatedWithWhatItsBuffersHold captures a few operations, and wants
// of each replay what the operations themselves give, for new contents of buffers and
// tables that have the same places.
func TestACapturedStepIsRepeatedWithWhatItsBuffersHold(t *testing.T) {
	b := newTest(t)
	const n, size = 3, 64
	values := func(seed int) []float32 {
		out := make([]float32, n*size)
		for i := range out {
			out[i] = float32((i*7+seed*13)%11) - 5
		}
		return out
	}
	alloc := func(count int) backend.Buffer {
		buf, err := b.Alloc(backend.F32, count)
		if err != nil {
			t.Fatal(err)
		}
		return buf
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	w, err := b.NewWeight(backend.BF16, size, size, append(values(1), make([]float32, size*size-n*size)...))
	must(err)
	x, picked, y := alloc(n*size), alloc(n*size), alloc(n*size)
	tables, err := b.NewTables()
	must(err)
	must(tables.Set([]int32{0, 0, 0}))
	on := func(b backend.Backend) error {
		if err := b.SelectRows(picked, x, tables.At(0), size); err != nil {
			return err
		}
		return b.MatMul(n, backend.Product{Y: y, X: picked, W: w})
	}
	step := func() error { return on(b) }
	read := func() []float32 {
		out := make([]float32, n*size)
		must(b.Download(out, y))
		return out
	}
	must(b.Upload(x, values(2)))
	must(b.Upload(y, make([]float32, n*size)))
	recorder := b.NewRecorder()
	defer recorder.Free()
	g, err := recorder.Record(on)
	must(err)
	for _, v := range read() {
		if v != 0 {
			t.Fatal("capturing computed something")
		}
	}
	for round, rows := range [][]int32{{2, 1, 0}, {0, 0, 1}, {1, 2, 2}} {
		must(b.Upload(x, values(3+round)))
		must(tables.Set(rows))
		must(g.Replay())
		got := read()
		must(step())
		want := read()
		for i := range want {
			if got[i] != want[i] {
				t.Fatalf("round %d: element %d is %v replayed and %v computed", round, i, got[i], want[i])
			}
		}
	}
	g.Free()
	g.Free()
	if _, err := recorder.Record(func(b backend.Backend) error { return b.MatMul(n+1, backend.Product{Y: y, X: x, W: w}) }); err == nil {
		t.Error("capturing an operation that is refused: no error")
	}
	must(step()) // The device is as it was.
	must(b.Sync())
}
