package cpu

import (
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/test/amxtest"
)

// onTiles returns path amx, whose instructions are emulated where the processor has none.
func onTiles(t *testing.T) (k *kernels, isEmulated bool) {
	t.Helper()
	k, err := chooseKernels("amx")
	if err != nil {
		t.Skipf("path amx is neither there nor emulated: %v", amxtest.Install())
	}
	return k, slices.Contains(emulated, k)
}

// TestPathAMXIsOfferedWhereThereAreTiles says in which way this run has tested it.
func TestPathAMXIsOfferedWhereThereAreTiles(t *testing.T) {
	if offered := slices.Contains(Paths(), "amx"); offered != tilesUsable() {
		t.Errorf("path amx is offered: %t; tiles are usable: %t", offered, tilesUsable())
	}
	k, isEmulated := onTiles(t)
	if isEmulated {
		t.Skipf("%s is emulated: this processor has no tiles, or this process may not use them", k.name)
	}
	if Paths()[0] != "amx" {
		t.Errorf("the paths are %v, want amx first", Paths())
	}
}

// tiledShapes have parts of tiles in every dimension, and several blocks of columns.
var tiledShapes = []struct{ n, out, in int }{
	{1, 32, 32}, {1, 70, 1100}, {7, 33, 64}, {16, 31, 31}, {17, 64, 33}, {33, 100, 97}, {50, 5, 1}, {101, 40, 600},
}

// TestTiledInt8ProductsAreThoseOfOtherPaths is what lets few rows be computed otherwise.
func TestTiledInt8ProductsAreThoseOfOtherPaths(t *testing.T) {
	k, _ := onTiles(t)
	with, without := newWithKernels(2, k), newTest(t, 2, "avx2")
	for _, s := range tiledShapes {
		x, w, y0 := random(s.n*s.in, 1), random(s.out*s.in, 2), random(s.n*s.out, 3)
		for _, add := range []bool{false, true} {
			got, want := slices.Clone(y0), slices.Clone(y0)
			multiply(t, with, backend.Int8, got, x, w, s.n, s.out, s.in, add)
			multiply(t, without, backend.Int8, want, x, w, s.n, s.out, s.in, add)
			if !slices.Equal(got, want) {
				t.Errorf("%v, add %v: the results differ", s, add)
			}
		}
	}
	if err := with.Close(); err != nil {
		t.Error(err)
	}
}

// TestTiledBF16ProductsHaveTheManualsOrder computes elements in the order in which Intel's
// manual has the sums of a tile, of numbers whose sums float64 holds. The emulation must
// give their bits; what order a processor has is not known, so one must give them but for
// some roundings.
func TestTiledBF16ProductsHaveTheManualsOrder(t *testing.T) {
	k, isEmulated := onTiles(t)
	b := newWithKernels(1, k)
	r := rand.New(rand.NewPCG(7, 8))
	draw := func(n int) []float32 {
		out := make([]float32, n)
		for i := range out { // Of eight bits.
			out[i] = float32(r.IntN(255)-127) / 64
		}
		return out
	}
	for _, s := range tiledShapes {
		for _, add := range []bool{false, true} {
			x, w, y0 := draw(s.n*s.in), draw(s.out*s.in), random(s.n*s.out, 3)
			got := slices.Clone(y0)
			multiply(t, b, backend.BF16, got, x, w, s.n, s.out, s.in, add)
			for i, v := range got {
				var start float32
				if add {
					start = y0[i]
				}
				want, size := tiledDot(start, x[i/s.out*s.in:][:s.in], w[i%s.out*s.in:][:s.in])
				off := math.Abs(float64(v) - float64(want))
				if isEmulated && off != 0 || !(off <= 1e-6*size) {
					t.Fatalf("%v, add %v: element %d is %v, want %v", s, add, i, v, want)
				}
			}
		}
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
}

// TestWidenedInt8ProductsAreNoWorse measures what the ways to multiply with int8 weights
// cost: to round rows to int8 as well, which costs as much as that of weights, or to round
// rows and the stored weights to bfloat16.
func TestWidenedInt8ProductsAreNoWorse(t *testing.T) {
	onTiles(t)
	const n, out, in = 40, 64, 1024
	x, w := random(n*in, 1), random(out*in, 2)
	off := map[string]float64{}
	for _, path := range []string{"plain", "amx", "amxwide"} {
		y := make([]float32, n*out)
		multiply(t, newTest(t, 1, path), backend.Int8, y, x, w, n, out, in, false)
		var wrong, power float64
		for i, v := range y {
			want := exact(x, w, nil, i, out, in, false)
			wrong += (float64(v) - want) * (float64(v) - want)
			power += want * want
		}
		off[path] = wrong / power
		t.Logf("path %s: normalised mean square error %.3g, of float32 weights and rows", path, off[path])
	}
	if off["amxwide"] > off["plain"] || off["amx"] > 1.001*off["plain"] {
		t.Errorf("errors %v, want none larger than plain's", off)
	}
}

// tiledDot adds the products of 32 elements, those of even and of odd ones apart, to a
// sum; size is the sum of their magnitudes.
func tiledDot(sum float32, x, w []float32) (dot float32, size float64) {
	const block = 2 * amxDepth
	size = math.Abs(float64(sum))
	for ; len(x) > 0; x, w = x[min(block, len(x)):], w[min(block, len(w)):] {
		var parts [2]float32
		for i := range min(block, len(x)) {
			p := float64(x[i]) * float64(w[i])
			size += math.Abs(p)
			parts[i%2] = float32(float64(parts[i%2]) + p)
		}
		sum += parts[0] + parts[1]
	}
	return sum, size
}

// TestTilesAreNeverLeftToOthers multiplies on several goroutines while Go collects garbage
// and every thread is asked again and again to give its goroutine up. A thread that is
// taken away between two instructions on tiles would compute with another's, or with none,
// which the emulation says; and no thread has tiles after a product.
func TestTilesAreNeverLeftToOthers(t *testing.T) {
	k, _ := onTiles(t)
	duration := 750 * time.Millisecond
	if testing.Short() {
		duration /= 5
	}
	stop := make(chan struct{})
	var disturbers, workers sync.WaitGroup
	disturbers.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				runtime.GC()
			}
		}
	})
	disturbers.Go(func() {
		for pid := syscall.Getpid(); ; time.Sleep(50 * time.Microsecond) {
			select {
			case <-stop:
				return
			default:
				_ = syscall.Kill(pid, syscall.SIGURG) // Go's own signal to preempt.
			}
		}
	})
	const n, out, in = 40, 64, 200
	b := newWithKernels(1, k)
	for worker := range 6 {
		kind := []backend.DType{backend.BF16, backend.Int8}[worker%2]
		x := random(n*in, uint64(worker))
		w, err := b.NewWeight(kind, out, in, random(out*in, 9))
		if err != nil {
			t.Fatal(err)
		}
		workers.Go(func() {
			y, first := bufferOf(make([]float32, n*out)), []float32(nil)
			for end := time.Now().Add(duration); time.Now().Before(end); {
				if err := b.MatMul(n, backend.Product{Y: y, X: bufferOf(x), W: w}); err != nil {
					t.Error(err)
					return
				}
				if amxtest.Live() {
					t.Error("a thread has tiles after a product")
					return
				}
				if first == nil {
					first = slices.Clone(y.wide)
				} else if !slices.Equal(y.wide, first) {
					t.Errorf("goroutine %d: a product in %s is another than before", worker, kind)
					return
				}
			}
		})
	}
	workers.Wait()
	close(stop)
	disturbers.Wait()
	if err := b.Close(); err != nil {
		t.Error(err)
	}
}

// TestTiledProductsUseTiles counts.
func TestTiledProductsUseTiles(t *testing.T) {
	k, isEmulated := onTiles(t)
	if !isEmulated {
		t.Skip("a processor's own instructions are not counted")
	}
	b := newWithKernels(1, k)
	for kind, want := range map[backend.DType]uint64{
		// Configure and release; c: 4 zeros and stores; a step: 4 loads and 4 products.
		backend.BF16: 2 + 8 + 2*8,
		backend.Int8: 2 + 2*(4+8+4),
		backend.F32:  0,
	} {
		before := amxtest.Executed()
		multiply(t, b, kind, make([]float32, 32*32), random(32*64, 1), random(32*64, 2), 32, 32, 64, false)
		if got := amxtest.Executed() - before; got != want {
			t.Errorf("%s: %d instructions on tiles, want %d", kind, got, want)
		}
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
}
