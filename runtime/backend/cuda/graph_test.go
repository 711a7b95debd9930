//go:build cuda

package cuda

import (
	"errors"
	"slices"
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

// TestNothingButTheStepIsRecorded queues work beside a step that is recorded, which must be
// done at once and once; and asks the recording for what cannot be repeated.
func TestNothingButTheStepIsRecorded(t *testing.T) {
	b := newTest(t)
	const n = 64
	x, err := b.Give(slices.Repeat([]float32{1}, n))
	if err != nil {
		t.Fatal(err)
	}
	y, err := b.Give(slices.Repeat([]float32{2}, n))
	if err != nil {
		t.Fatal(err)
	}
	tables, err := b.NewTables()
	if err != nil {
		t.Fatal(err)
	}
	recorder := b.NewRecorder()
	var kept backend.Backend
	g, err := recorder.Record(func(recording backend.Backend) error {
		kept = recording
		if err := recording.Add(x, y); err != nil {
			return err
		}
		for name, err := range map[string]error{
			"Upload": recording.Upload(x, make([]float32, n)), "Download": recording.Download(make([]float32, n), x), "Sync": recording.Sync(),
		} {
			if !errors.Is(err, backend.ErrUnsupported) {
				t.Errorf("%s in a recording: error %v", name, err)
			}
		}
		return errors.Join(b.Add(y, y), b.Sync(), tables.Set([]int32{1, 2, 3}))
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := kept.Add(x, y); err == nil {
		t.Error("an operation was recorded after the end")
	}
	first := func(buf backend.Buffer) float32 {
		out := make([]float32, n)
		if err := b.Download(out, buf); err != nil {
			t.Fatal(err)
		}
		return out[0]
	}
	if got, other := first(x), first(y); got != 1 || other != 4 {
		t.Errorf("before a replay x is %v and y %v, want 1 and 4", got, other)
	}
	for range 2 {
		if err := g.Replay(); err != nil {
			t.Fatal(err)
		}
	}
	if got, other := first(x), first(y); got != 9 || other != 4 {
		t.Errorf("after two replays x is %v and y %v, want 9 and 4", got, other)
	}
	// Memory of recorded steps is nobody else's until they are given up.
	var inside backend.Buffer
	h, err := recorder.Record(func(recording backend.Backend) error {
		var err error
		if inside, err = recording.Alloc(backend.F32, n); err != nil {
			return err
		}
		defer recording.Free(inside)
		return recording.Copy(inside, x)
	})
	if err != nil {
		t.Fatal(err)
	}
	used := b.Memory().Used
	other, err := b.Alloc(backend.F32, n)
	if err != nil {
		t.Fatal(err)
	}
	if got := b.Memory().Used; got <= used {
		t.Errorf("%d bytes are in use after a buffer was made, and %d before: it has the memory of a recorded step", got, used)
	}
	b.Free(other)
	g.Free()
	h.Free()
	recorder.Free()
	if got := b.Memory().Used; got >= used {
		t.Errorf("%d bytes are in use after a recorder was freed, and %d before", got, used)
	}
}
