// Package backendtest proves that a backend computes what package backend says.
//
// Every operation is compared with straightforward float64 loops
// (reference.go), for odd sizes and large magnitudes, by the normalised mean
// square error; every gradient with central differences of those loops; and
// every row with the same row computed alone, where the backend claims that it is the
// same. Inputs must come back unchanged, and wrong sizes must be refused. Products with bfloat16 and int8 weights are held
// to the same bound, because the loops round what package backend says is rounded.
//
// What has activations is tested for each type that they may be stored as
// (Capabilities.Storage), with inputs of that type and bounds that leave room for the
// rounding of what is written, and for nothing else (storage.go).
package backendtest

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/transformersquared/operator/runtime/backend"
)

// Bounds of the normalised mean square error, Σ(got−want)²/Σ want². One float32
// rounding is about 1e-15.
const (
	// boundSum is for sums of up to some thousands of float32 products.
	boundSum = 1e-12
	// boundExp is for exponentials on top of it.
	boundExp = 1e-11
)

// Run tests a backend. Each variant opens one configuration of it, such as
// another number of threads, and closes it by tb.Cleanup: all must give the same
// bits. Results are compared with the reference for the first.
func Run(t *testing.T, variants ...func(tb testing.TB) backend.Backend) {
	t.Helper()
	s := newSuite(t, variants)
	t.Run("Weights", s.weights)
	t.Run("Compose", s.compose)
	t.Run("Decompose", s.decompose)
	t.Run("Decide", s.decide)
	t.Run("PolicyGradient", s.policyGradient)
	t.Run("Refusals", s.refusals)
	s.stored(t, (*suite).activations)
	t.Run("MixedStorage", s.mixedStorage)
}

// stored runs tests for each type of storage that the backend lists.
func (s *suite) stored(t *testing.T, test func(*suite, *testing.T)) {
	for _, storage := range s.variants[0].Capabilities().Storage {
		of := &suite{variants: s.variants, storage: storage}
		t.Run("Stored as "+storage.String(), func(t *testing.T) { test(of, t) })
	}
}

// activations runs what is tested for each type of storage.
func (s *suite) activations(t *testing.T) {
	t.Run("Memory", s.memory)
	s.products(t)
	t.Run("Gather", s.gather)
	t.Run("Elementwise", s.elementwise)
	t.Run("ColumnDots", s.columnDots)
	t.Run("OuterSums", s.outerSums)
	t.Run("Rows", s.rows)
	t.Run("RMSNorm", s.rmsNorm)
	t.Run("SwiGLU", s.swiglu)
	t.Run("LogSoftmax", s.logSoftmax)
	t.Run("RoPE", s.rope)
	t.Run("Attention", s.attention)
	t.Run("PagedAttention", s.pagedAttention)
	t.Run("Parts", s.parts)
}

// RunProducts is Run of the products and of composing alone, for a backend that has
// another way to compute those.
func RunProducts(t *testing.T, variants ...func(tb testing.TB) backend.Backend) {
	t.Helper()
	s := newSuite(t, variants)
	t.Run("Compose", s.compose)
	s.stored(t, (*suite).products)
}

// RunDecompose is Run of decomposing alone.
func RunDecompose(t *testing.T, variants ...func(tb testing.TB) backend.Backend) {
	t.Helper()
	t.Run("Decompose", newSuite(t, variants).decompose)
}

type suite struct {
	variants []backend.Backend
	storage  backend.DType // Of activations.
	plain    []int         // The values that compute stores as float32 all the same.
}

// float32s returns the suite with these values of compute's stored as float32, whatever
// activations are.
func (s *suite) float32s(values ...int) *suite {
	return &suite{variants: s.variants, storage: s.storage, plain: values}
}

func newSuite(t *testing.T, variants []func(tb testing.TB) backend.Backend) *suite {
	t.Helper()
	s := &suite{}
	for _, open := range variants {
		s.variants = append(s.variants, open(t))
	}
	return s
}

func (s *suite) products(t *testing.T) {
	t.Run("MatMul", s.matMul)
	t.Run("ScaledProducts", s.scaledProducts)
	t.Run("SeveralProducts", s.severalProducts)
	t.Run("ProductOfBuffers", s.buffers)
	t.Run("RowsOfX", s.rowsOfX)
	t.Run("NotFinite", s.notFinite)
}

// rowInvariant reports whether the backend claims rows whose bits do not depend on those
// beside them.
func (s *suite) rowInvariant(back bool) bool {
	c := s.variants[0].Capabilities()
	if back {
		return c.RowInvariantBackward
	}
	return c.RowInvariant
}

// operation works on the buffers that compute made of its values.
type operation func(be backend.Backend, b []backend.Buffer) error

// compute uploads the values, runs the operation on every variant, and returns
// what the buffers hold afterwards. A nil value makes a nil buffer. Values whose
// index is not in outputs must not change; outputs must be the same bits on
// every variant.
func (s *suite) compute(t *testing.T, outputs []int, values [][]float32, op operation) [][]float32 {
	t.Helper()
	var first [][]float32
	for _, be := range s.variants {
		got := s.runOn(t, be, values, op)
		for i := range got {
			if !slices.Contains(outputs, i) && !same(got[i], values[i]) {
				t.Errorf("%s changed input %d", be.Name(), i)
			}
		}
		if first == nil {
			first = got
			continue
		}
		for _, i := range outputs {
			if !sameBits(got[i], first[i]) {
				t.Errorf("output %d of %s differs from that of %s", i, be.Name(), s.variants[0].Name())
			}
		}
	}
	return first
}

func (s *suite) runOn(t *testing.T, be backend.Backend, values [][]float32, op operation) [][]float32 {
	t.Helper()
	buffers := make([]backend.Buffer, len(values))
	for i, v := range values {
		switch {
		case v == nil:
		case slices.Contains(s.plain, i):
			buffers[i] = newBuffer(t, be, v)
		default:
			buffers[i] = s.newBuffer(t, be, v)
		}
	}
	if err := op(be, buffers); err != nil {
		t.Fatalf("%s: %v", be.Name(), err)
	}
	out := make([][]float32, len(values))
	for i, v := range values {
		if v == nil {
			continue
		}
		out[i] = make([]float32, len(v))
		if err := be.Download(out[i], buffers[i]); err != nil {
			t.Fatal(err)
		}
		be.Free(buffers[i])
	}
	return out
}

// newBuffer uploads numbers that are float32 whatever activations are.
func newBuffer(t *testing.T, be backend.Backend, v []float32) backend.Buffer {
	t.Helper()
	return newBufferAs(t, be, backend.F32, v)
}

func newBufferAs(t *testing.T, be backend.Backend, as backend.DType, v []float32) backend.Buffer {
	t.Helper()
	b, err := be.Alloc(as, len(v))
	if err != nil {
		t.Fatal(err)
	}
	if err := be.Upload(b, v); err != nil {
		t.Fatal(err)
	}
	return b
}

// list uploads whole numbers.
func list(t *testing.T, be backend.Backend, values ...int32) backend.Index {
	t.Helper()
	return lists(t, be, values).At(0)
}

func lists(t *testing.T, be backend.Backend, all ...[]int32) backend.Tables {
	t.Helper()
	tables, err := be.NewTables()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(tables.Free)
	if err := tables.Set(all...); err != nil {
		t.Fatal(err)
	}
	return tables
}

// span is a run of keys that a row attends to.
type span struct{ first, count int32 }

// spans uploads what rows attend to.
func spans(t *testing.T, be backend.Backend, keys ...span) backend.Spans {
	t.Helper()
	first, count := make([]int32, len(keys)), make([]int32, len(keys))
	for i, k := range keys {
		first[i], count[i] = k.first, k.count
	}
	tables := lists(t, be, first, count)
	return backend.Spans{First: tables.At(0), Count: tables.At(1)}
}

func newWeight(t *testing.T, be backend.Backend, kind backend.DType, out, in int, data []float32) backend.Weight {
	t.Helper()
	w, err := be.NewWeight(kind, out, in, data)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func sameBits(a, b []float32) bool {
	return slices.EqualFunc(a, b, func(x, y float32) bool { return math.Float32bits(x) == math.Float32bits(y) })
}

// same is sameBits, but for the bits of NaN.
func same(a, b []float32) bool {
	return slices.EqualFunc(a, b, func(x, y float32) bool {
		return math.Float32bits(x) == math.Float32bits(y) || x != x && y != y
	})
}

// near fails when the normalised mean square error is beyond the bound.
func near(t *testing.T, what string, got []float32, want []float64, bound float64) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s: %d elements, want %d", what, len(got), len(want))
	}
	var wrong, power float64
	for i, w := range want {
		d := float64(got[i]) - w
		wrong += d * d
		power += w * w
	}
	if e := wrong / max(power, math.SmallestNonzeroFloat64); !(e <= bound) && wrong != 0 { // Also true of NaN.
		t.Errorf("%s: normalised mean square error %.3g, want at most %.3g", what, e, bound)
	}
}

// random returns normally distributed numbers, the same for the same seed.
func random(n int, seed uint64) []float32 {
	r := rand.New(rand.NewPCG(seed, 99))
	out := make([]float32, n)
	for i := range out {
		out[i] = float32(r.NormFloat64())
	}
	return out
}

func scaled(v []float32, by float32) []float32 {
	out := slices.Clone(v)
	for i := range out {
		out[i] *= by
	}
	return out
}

// garbage fills output buffers, so that an element left unwritten shows.
func garbage(n int) []float32 {
	out := make([]float32, n)
	for i := range out {
		out[i] = float32(math.NaN())
	}
	return out
}

// numeric returns the gradient of loss by central differences at x.
func numeric(x []float32, loss func(x []float64) float64) []float64 {
	const h = 1e-5
	at := widen(x)
	out := make([]float64, len(x))
	for i := range at {
		v := at[i]
		at[i] = v + h
		up := loss(at)
		at[i] = v - h
		down := loss(at)
		at[i] = v
		out[i] = (up - down) / (2 * h)
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

func narrowed(x []float64) []float32 {
	out := make([]float32, len(x))
	for i, v := range x {
		out[i] = float32(v)
	}
	return out
}

func dot(a, b []float64) float64 {
	var sum float64
	for i := range a {
		sum += a[i] * b[i]
	}
	return sum
}

func sum(a, b []float64) []float64 {
	out := make([]float64, len(a))
	for i := range a {
		out[i] = a[i] + b[i]
	}
	return out
}

func name(parts ...any) string {
	return fmt.Sprint(parts...)
}
