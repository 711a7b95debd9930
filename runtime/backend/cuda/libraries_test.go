//go:build cuda

package cuda

import (
	"errors"
	"log/slog"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/backend/backendtest"
	"github.com/transformersquared/operator/runtime/backend/cuda/cumath"
)

// openWith opens the device with a library, and closes it with the test. On a device
// without the library the test ends; the software driver has stand-ins for them.
func openWith(tb testing.TB, o Options) *Backend {
	tb.Helper()
	b, err := Open(o)
	if errors.Is(err, backend.ErrLibrary) && !onSoftware(tb) {
		tb.Skip(err)
	}
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := b.Close(); err != nil {
			tb.Error(err)
		}
	})
	return b
}

// onSoftware reports whether the driver is the one in software.
func onSoftware(tb testing.TB) bool {
	tb.Helper()
	return strings.Contains(newTest(tb).info.name, "oftware")
}

// TestConformsWithCuBLAS runs the suite's products by cuBLAS: those of training, and all
// that it can compute.
func TestConformsWithCuBLAS(t *testing.T) {
	for _, use := range []backend.LibraryUse{backend.LibraryTraining, backend.LibraryAlways} {
		t.Run(string(use), func(t *testing.T) {
			b := openWith(t, Options{CuBLAS: use})
			if c := b.Capabilities(); c.RowInvariantBackward || c.RowInvariant == (use == backend.LibraryAlways) {
				t.Errorf("with cuBLAS for %q the backend claims %+v", use, c)
			}
			backendtest.RunProducts(t, func(testing.TB) backend.Backend { return b })
		})
	}
}

// TestConformsWithCuSOLVER runs the suite's decompositions by cuSOLVER. Those that it, or
// its stand-in, leaves without a basis are our own.
func TestConformsWithCuSOLVER(t *testing.T) {
	var said strings.Builder
	b := openWith(t, Options{CuSOLVER: backend.LibraryAlways, Log: slog.New(slog.NewTextHandler(&said, nil))})
	backendtest.RunDecompose(t, func(testing.TB) backend.Backend { return b })
	if n := strings.Count(said.String(), "said once"); n > 1 || n == 0 && onSoftware(t) {
		t.Errorf("it was said %d times that cuSOLVER is not good enough: %s", n, said.String())
	}
}

// TestADoubtfulDecompositionIsOurOwn wants our own factors, to the bit, and a word in the
// log, where cuSOLVER's are wrong.
func TestADoubtfulDecompositionIsOurOwn(t *testing.T) {
	needsStandIns(t)
	const out, in = 24, 40
	w := make([]float32, out*in)
	for i := range w {
		w[i] = float32((i*i*7+i*3)%101) - 50
	}
	own, err := newTest(t).Decompose(t.Context(), w, out, in, backend.F32)
	if err != nil {
		t.Fatal(err)
	}
	for wish, reason := range map[string]string{
		"wrong": "the product of its factors is off by", "values": "the product of its factors is off by", "unconverged": "it did not converge", "": "",
	} {
		t.Setenv("SOFTCUDA_GESVDJ", wish)
		var said strings.Builder
		b := openWith(t, Options{CuSOLVER: backend.LibraryAlways, Log: slog.New(slog.NewTextHandler(&said, nil))})
		for range 2 {
			f, err := b.Decompose(t.Context(), w, out, in, backend.F32)
			if err != nil {
				t.Fatal(err)
			}
			if same := slices.Equal(f.U, own.U) && slices.Equal(f.S, own.S) && slices.Equal(f.Vt, own.Vt); same != (wish != "") {
				t.Errorf("%q: the factors are our own: %v", wish, same)
			}
		}
		if n := strings.Count(said.String(), "level=WARN"); wish == "" && n != 0 || wish != "" && n != 1 || !strings.Contains(said.String(), reason) {
			t.Errorf("%q: want one word in the log, with %q: %s", wish, reason, said.String())
		}
	}
}

// TestWhatCuBLASComputes tells by the bits, which the stand-in's order of summation makes
// others than ours, what each use leaves to our own kernels.
func TestWhatCuBLASComputes(t *testing.T) {
	needsStandIns(t)
	const size, few, many = 96, skinnyRows, 20
	data := make([]float32, size*size)
	for i := range data {
		data[i] = float32((i*i*13+i*5)%97)/97 - 0.5
	}
	compute := func(b *Backend, kind backend.DType, n int, back bool) []float32 {
		w, err := b.NewWeight(kind, size, size, data)
		if err != nil {
			t.Fatal(err)
		}
		x, err := b.Give(slices.Clone(data[:n*size]))
		if err != nil {
			t.Fatal(err)
		}
		y, err := b.Alloc(backend.F32, n*size)
		if err != nil {
			t.Fatal(err)
		}
		multiply := b.MatMul
		if back {
			multiply = b.MatMulBackward
		}
		if err := multiply(n, backend.Product{Y: y, X: x, W: w}); err != nil {
			t.Fatal(err)
		}
		out, err := b.Take(y)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	own := newTest(t)
	for _, use := range backend.LibraryUses() {
		b := openWith(t, Options{CuBLAS: use})
		for _, kind := range backend.DTypes() {
			for _, n := range []int{few, many} {
				for _, back := range []bool{false, true} {
					want := n == many && kind != backend.Int8 && (use == backend.LibraryAlways || back && use != backend.LibraryNever)
					if got := !slices.Equal(compute(b, kind, n, back), compute(own, kind, n, back)); got != want {
						t.Errorf("cuBLAS for %q, weights of %s, %d rows, backward %v: computed by it: %v, want %v", use, kind, n, back, got, want)
					}
				}
			}
		}
	}
}

// TestCuBLASIsCaptured replays a product of many rows for other contents of its input.
func TestCuBLASIsCaptured(t *testing.T) {
	b := openWith(t, Options{CuBLAS: backend.LibraryAlways})
	const n, size = 20, 64
	values := func(seed int) []float32 {
		out := make([]float32, n*size)
		for i := range out {
			out[i] = float32((i*i*7+i+seed*13)%23)/23 - 0.5
		}
		return out
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	w, err := b.NewWeight(backend.BF16, n, size, values(1))
	must(err)
	x, err := b.Give(values(2))
	must(err)
	y, err := b.Give(make([]float32, n*n))
	must(err)
	s, err := b.Give(values(3)[:size])
	must(err)
	step := func(b backend.Backend) error {
		return b.MatMul(n, backend.Product{Y: y, X: x, W: w, Scales: &backend.Scales{Bank: s}})
	}
	read := func() []float32 {
		out := make([]float32, n*n)
		must(b.Download(out, y))
		return out
	}
	recorder := b.NewRecorder()
	defer recorder.Free()
	g, err := recorder.Record(step)
	must(err)
	defer g.Free()
	for seed := range 3 {
		must(b.Upload(x, values(4+seed)))
		must(g.Replay())
		got := read()
		must(step(b))
		if !slices.Equal(got, read()) {
			t.Fatalf("round %d: the product replayed has other bits than computed", seed)
		}
	}
}

// TestTheStandInsRefuseWhatTheLibrariesRefuse passes what our code never does, and wants it
// told: arguments at once, and accesses of memory that is none by whoever waits next.
func TestTheStandInsRefuseWhatTheLibrariesRefuse(t *testing.T) {
	needsStandIns(t)
	b, err := Open(Options{CuBLAS: backend.LibraryAlways, CuSOLVER: backend.LibraryAlways})
	if err != nil {
		t.Fatal(err)
	}
	block, err := b.hold(1 << 16)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.clear(block.at(), 1<<16); err != nil {
		t.Fatal(err)
	}
	good := cumath.Matrix{At: uint64(block.at()), Pitch: 20, Type: cumath.Float32}
	narrow, half, nowhere, past := good, good, good, good
	narrow.Pitch, half.Type, nowhere.At, past.At = 9, cumath.BFloat16, 0, good.At+1<<16-20*20*4+4
	multiply := func(y, x, w cumath.Matrix) error {
		return b.owner.now(func() error { return b.blas.Multiply(cumath.Product{N: 20, M: 20, K: 20, Y: y, X: x, W: w}) })
	}
	for _, c := range []struct {
		y, x, w cumath.Matrix
		want    string
	}{
		{narrow, good, good, "INVALID_VALUE"}, {good, narrow, good, "INVALID_VALUE"}, {good, good, narrow, "INVALID_VALUE"},
		{nowhere, good, good, "INVALID_VALUE"}, {good, half, half, ""}, {half, good, good, "NOT_SUPPORTED"},
		{cumath.Matrix{At: good.At, Pitch: math.MaxInt32 + 1}, good, good, "it counts up to"},
	} {
		if err := multiply(c.y, c.x, c.w); (err != nil) != (c.want != "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("y %+v, x %+v, w %+v: error %v, want %q", c.y, c.x, c.w, err, c.want)
		}
	}
	at := good.At
	problem := cumath.Decomposition{M: 4, N: 8, A: at, Pitch: 8, Right: at, RightPitch: 8, Left: at, LeftPitch: 4, Values: at, Work: at, Outcome: at, Length: 1}
	if err := b.owner.now(func() error { return b.solver.Decompose(problem) }); err == nil || !strings.Contains(err.Error(), "INVALID_VALUE") {
		t.Errorf("too little to work in: error %v", err)
	}
	if err := errors.Join(multiply(good, past, good), b.Sync()); !errors.Is(err, backend.ErrDeviceLost) {
		t.Errorf("an input that ends behind its memory: error %v", err)
	}
	if err := b.Close(); err == nil {
		t.Error("a device that was lost is closed without an error")
	}
}
