//go:build cuda

package kernels

import (
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"unsafe"

	"github.com/transformersquared/operator/kernels"
	"github.com/transformersquared/operator/runtime/tensor"
)

// gpu is the device of all tests.
var gpu *device

// countersFile is what the driver in software writes its counters to.
var countersFile string

func TestMain(m *testing.M) {
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "the kernels' tests:", err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (code int, err error) {
	folder, err := os.MkdirTemp("", "kernels-*")
	if err != nil {
		return 1, err
	}
	defer func() { _ = os.RemoveAll(folder) }()
	countersFile = filepath.Join(folder, "counters.json")
	if err := os.Setenv("SOFTCUDA_COUNTERS", countersFile); err != nil {
		return 1, err
	}
	if gpu, err = openDevice(); err != nil {
		return 1, err
	}
	return m.Run(), nil
}

// counters are what the driver in software counts of one entry point.
type counters struct {
	Launches  int64 `json:"launches"`
	Loads     int64 `json:"global_load_sectors"`
	Stores    int64 `json:"global_store_sectors"`
	Shared    int64 `json:"shared_accesses"`
	Conflicts int64 `json:"bank_conflicts"`
}

// counted returns the counters of an entry point; ok is false on a driver that counts
// nothing.
func counted(t *testing.T, entry string) (c counters, ok bool) {
	t.Helper()
	text, err := os.ReadFile(countersFile)
	if os.IsNotExist(err) {
		return counters{}, false
	}
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]counters{}
	if err := json.Unmarshal(text, &all); err != nil && len(text) > 0 {
		t.Fatal(err)
	}
	return all[entry], true
}

// alloc returns memory that goes with the test, with nothing in it.
func alloc(t *testing.T, bytes int) address {
	t.Helper()
	a, err := gpu.alloc(bytes)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := gpu.free(a); err != nil {
			t.Error(err)
		}
	})
	return a
}

func upload[E any](t *testing.T, data []E) address {
	t.Helper()
	var e E
	bytes := len(data) * int(unsafe.Sizeof(e))
	a := alloc(t, bytes)
	if bytes > 0 {
		if err := gpu.write(a, unsafe.Pointer(&data[0]), bytes); err != nil {
			t.Fatal(err)
		}
	}
	return a
}

func download[E any](t *testing.T, a address, n int) []E {
	t.Helper()
	data := make([]E, n)
	if n > 0 {
		if err := gpu.read(unsafe.Pointer(&data[0]), a, n*int(unsafe.Sizeof(data[0]))); err != nil {
			t.Fatal(err)
		}
	}
	return data
}

func launch(t *testing.T, entry string, grid [3]int, arguments ...any) {
	t.Helper()
	if err := gpu.launch(entry, grid, arguments...); err != nil {
		t.Fatal(err)
	}
}

// blocks is a grid of one dimension.
func blocks(n int) [3]int { return [3]int{n, 1, 1} }

func parts(n, size int) int { return (n + size - 1) / size }

// storage is how activations are stored.
type storage kernels.DType

var storages = []storage{storage(kernels.F32), storage(kernels.BF16)}

func (s storage) of(name string) string { return name + "_" + string(s) }

func (s storage) bytes() int {
	if s == storage(kernels.BF16) {
		return 2
	}
	return 4
}

// round rounds as the type stores.
func (s storage) round(x []float32) []float32 {
	out := make([]float32, len(x))
	for i, v := range x {
		out[i] = v
		if s == storage(kernels.BF16) {
			out[i] = bfloat(v)
		}
	}
	return out
}

func bfloat(v float32) float32 { return tensor.BF16ToF32(tensor.F32ToBF16(v)) }

func (s storage) upload(t *testing.T, x []float32) address {
	t.Helper()
	if s == storage(kernels.F32) {
		return upload(t, x)
	}
	halves := make([]uint16, len(x))
	for i, v := range x {
		halves[i] = tensor.F32ToBF16(v)
	}
	return upload(t, halves)
}

func (s storage) download(t *testing.T, a address, n int) []float32 {
	t.Helper()
	if s == storage(kernels.F32) {
		return download[float32](t, a, n)
	}
	out := make([]float32, n)
	for i, v := range download[uint16](t, a, n) {
		out[i] = tensor.BF16ToF32(v)
	}
	return out
}

// bound is the largest normalised mean square error: of float32 arithmetic, or of one
// rounding to bfloat16 in the end, whose square averages (2⁻⁹)²/3 at most.
func (s storage) bound(f32 float64) float64 {
	if s == storage(kernels.BF16) {
		return 6e-6
	}
	return f32
}

const (
	boundSum = 1e-12
	boundExp = 1e-11
)

func near(t *testing.T, what string, got []float32, want []float64, bound float64) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s: %d elements, want %d", what, len(got), len(want))
	}
	var sum, off float64
	for i, w := range want {
		d := float64(got[i]) - w
		off += d * d
		sum += w * w
	}
	if !(off <= bound*sum) {
		t.Errorf("%s: normalised mean square error %.2g, want at most %.2g", what, off/sum, bound)
	}
}

func sameBits(a, b []float32) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if math.Float32bits(a[i]) != math.Float32bits(b[i]) {
			return false
		}
	}
	return true
}

// random returns normal numbers, the same for the same seed.
func random(n int, seed uint64) []float32 {
	rng := rand.New(rand.NewPCG(seed, uint64(n)))
	out := make([]float32, n)
	for i := range out {
		out[i] = float32(rng.NormFloat64())
	}
	return out
}

func indices(n, below int, seed uint64) []int32 {
	rng := rand.New(rand.NewPCG(seed, uint64(n)))
	out := make([]int32, n)
	for i := range out {
		out[i] = int32(rng.IntN(below))
	}
	return out
}

func widen(x []float32) []float64 {
	out := make([]float64, len(x))
	for i, v := range x {
		out[i] = float64(v)
	}
	return out
}
