package backendtest

import (
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/transformersquared/operator/runtime/backend"
)

// bfloat16 has eight significant bits: what is rounded to nearest is within 2⁻⁸ of
// itself.
const roundoff = 1.0 / 256

// roundoff bounds the relative error of an element that is stored.
func (s *suite) roundoff() float64 {
	if s.storage == backend.BF16 {
		return roundoff
	}
	return 0 // That of float32 is part of every bound.
}

// bound is that of the normalised mean square error of results that are computed in
// float32 within the bound computed, and then stored. Each element is off by at most
// roundoff times itself, and so is their norm; the norms of both errors add up.
//
// There are two roundings in attention, which may round the softmax's weights, and in
// the gradient those of scores, before it multiplies with values: terms of random signs,
// each off by a part of itself, of which the norm of the sum is off by the same part.
func (s *suite) bound(computed float64, roundings int) float64 {
	norm := math.Sqrt(computed) + float64(roundings)*s.roundoff()
	return norm * norm
}

// round returns numbers as activations are stored.
func (s *suite) round(v []float32) []float32 {
	if s.storage != backend.BF16 {
		return v
	}
	out := make([]float32, len(v))
	for i, x := range v {
		out[i] = float32(refBF16(x))
	}
	return out
}

// random returns random activations.
func (s *suite) random(n int, seed uint64) []float32 { return s.round(random(n, seed)) }

// newBuffer uploads activations.
func (s *suite) newBuffer(t *testing.T, be backend.Backend, v []float32) backend.Buffer {
	t.Helper()
	return newBufferAs(t, be, s.storage, v)
}

// mixedStorage tests what may have activations of both types, or keys and values narrower
// than activations, and wants everything else to be refused by the operand's name.
func (s *suite) mixedStorage(t *testing.T) {
	for _, be := range s.variants {
		has := be.Capabilities()
		if len(has.Cache) == 1 {
			t.Skipf("%s stores float32 alone", be.Name())
		}
		t.Run("Copies", func(t *testing.T) { copiesRound(t, be) })
		t.Run("Cache", func(t *testing.T) { narrowCache(t, be) })
		t.Run("RowsOfACache", (&suite{variants: []backend.Backend{be}, storage: backend.BF16}).rows)
		if len(has.Storage) == 1 {
			t.Run("Refusals", func(t *testing.T) { narrowRefusals(t, be) })
			continue
		}
		t.Run("Products", func(t *testing.T) { productsOfBoth(t, be) })
		t.Run("Refusals", func(t *testing.T) { mixedRefusals(t, be) })
	}
}

// copiesRound copies between types, by the host's way and by the device's.
func copiesRound(t *testing.T, be backend.Backend) {
	narrow := &suite{storage: backend.BF16}
	for _, n := range []int{0, 1, 7, 64, 1001} {
		exact := random(n, uint64(n))
		if n > 4 { // Ties, both ways, and beyond the largest.
			copy(exact, []float32{1 + 1.0/256, 1 + 3.0/256, math.MaxFloat32, float32(math.Inf(-1))})
		}
		wide, half, back := newBuffer(t, be, exact), newBufferAs(t, be, backend.BF16, garbage(n)), newBuffer(t, be, garbage(n))
		for _, copied := range [][2]backend.Buffer{{half, wide}, {back, half}} {
			if err := be.Copy(copied[0], copied[1]); err != nil {
				t.Fatal(err)
			}
		}
		for what, b := range map[string]backend.Buffer{"copied": half, "copied back": back, "uploaded": newBufferAs(t, be, backend.BF16, exact)} {
			got := make([]float32, n)
			if err := be.Download(got, b); err != nil {
				t.Fatal(err)
			}
			if !sameBits(got, narrow.round(exact)) {
				t.Errorf("%d elements %s are not the nearest bfloat16", n, what)
			}
		}
	}
}

// productsOfBoth wants of products that read one type and write the other, forward (the
// head) and backward (its gradient), what the product of float32 is, rounded where y is
// narrower.
func productsOfBoth(t *testing.T, be backend.Backend) {
	narrow := &suite{storage: backend.BF16}
	types := []backend.DType{backend.F32, backend.BF16}
	for _, kind := range backend.DTypes() {
		for _, n := range []int{1, 5, 30, 70} {
			const out, in = 130, 70
			w := newWeight(t, be, kind, out, in, random(out*in, 1))
			for _, back := range []bool{false, true} {
				columns, rows, multiply := in, out, be.MatMul
				if back {
					columns, rows, multiply = out, in, be.MatMulBackward
				}
				x, y := narrow.random(n*columns, 2), narrow.random(n*rows, 3)
				for _, add := range []bool{false, true} {
					product := func(xType, yType backend.DType) []float32 {
						xs, ys := newBufferAs(t, be, xType, x), newBufferAs(t, be, yType, y)
						if err := multiply(n, backend.Product{Y: ys, X: xs, W: w, Add: add}); err != nil {
							t.Fatal(err)
						}
						got := make([]float32, len(y))
						if err := be.Download(got, ys); err != nil {
							t.Fatal(err)
						}
						be.Free(xs)
						be.Free(ys)
						return got
					}
					exact := product(backend.F32, backend.F32)
					for i, xType := range types {
						want := exact
						if yType := types[1-i]; yType == backend.BF16 {
							want = narrow.round(exact)
						}
						if !sameBits(product(xType, types[1-i]), want) {
							t.Errorf("%s, %d rows, back %v, add %v: the product of %s into %s is another than that of float32", kind, n, back, add, xType, types[1-i])
						}
					}
				}
			}
		}
	}
}

// narrowCache wants of activations in float32 beside a cache in bfloat16 that what is
// written is rounded, and that attention is that to the cache's numbers as float32.
func narrowCache(t *testing.T, be backend.Backend) {
	for _, shape := range []backend.AttentionShape{
		{Heads: 4, KVHeads: 2, HeadDim: 16}, {Heads: 4, KVHeads: 2, HeadDim: 6}, {Heads: 6, KVHeads: 2, HeadDim: 64}, {Heads: 7, KVHeads: 1, HeadDim: 112},
	} {
		t.Run(name(shape.Heads, " on ", shape.KVHeads, " heads of ", shape.HeadDim), func(t *testing.T) { narrowCacheOf(t, be, shape) })
	}
}

func narrowCacheOf(t *testing.T, be backend.Backend, shape backend.AttentionShape) {
	const n, rows, size, positions = 5, 640, backend.BlockMultiple, 50
	narrow := &suite{storage: backend.BF16}
	shape.Scale = float32(1 / math.Sqrt(float64(shape.HeadDim)))
	width, kvWidth := shape.Heads*shape.HeadDim, shape.KVHeads*shape.HeadDim
	at, slots := []int32{3, 49, 0, 7, 7}, []int32{600, -1, 3, 4, 5}
	blocks := make([]int32, rows/size)
	for i := range blocks {
		blocks[i] = int32(len(blocks) - 1 - i)
	}
	counts := []int32{rows, 1, 17, 300, 256}
	download := func(b backend.Buffer) []float32 {
		out := make([]float32, b.Len())
		if err := be.Download(out, b); err != nil {
			t.Fatal(err)
		}
		return out
	}
	attend := func(from, to int, cache func(seed uint64) backend.Buffer) []float32 {
		attended := newBuffer(t, be, garbage((to-from)*width))
		keys := paged(t, be, size, blocks, make([]int32, to-from), counts[from:to])
		if err := be.PagedAttention(attended, newBuffer(t, be, random(n*width, 6)[from*width:to*width]), cache(7), cache(8), keys, shape); err != nil {
			t.Fatal(err)
		}
		return download(attended)
	}
	// step writes a cache of this type and attends to another, of the same numbers.
	step := func(as backend.DType) (q, k, v, out []float32) {
		queries, keys, values := newBuffer(t, be, random(n*width, 1)), newBuffer(t, be, random(n*kvWidth, 2)), newBuffer(t, be, random(n*kvWidth, 3))
		cache := func(seed uint64) backend.Buffer { return newBufferAs(t, be, as, narrow.random(rows*kvWidth, seed)) }
		written := backend.CacheRows{K: cache(4), V: cache(5)}
		tables := lists(t, be, at, slots)
		written.Slots = tables.At(1)
		p := &backend.Parts{Backend: be, Arena: be.NewArena()}
		defer p.Arena.Reset()
		if err := p.RotateStore(backend.Rotary{Positions: tables.At(0), Table: newBuffer(t, be, random(positions*shape.HeadDim, 6)), Shape: shape}, queries, keys, values, written); err != nil {
			t.Fatal(err)
		}
		out = attend(0, n, cache)
		if be.Capabilities().RowInvariant && !sameBits(out[width:2*width], attend(1, 2, cache)) {
			t.Errorf("%s: a row differs from the row computed alone", as)
		}
		return download(queries), download(written.K), download(written.V), out
	}
	q, k, v, out := step(backend.BF16)
	wantQ, wantK, wantV, want := step(backend.F32)
	if !sameBits(q, wantQ) || !sameBits(k, narrow.round(wantK)) || !sameBits(v, narrow.round(wantV)) {
		t.Error("what is written is not the nearest bfloat16 of what is written in float32")
	}
	if !sameBits(out, want) {
		t.Error("attention to it is another than that to its numbers as float32")
	}
}

// narrowRefusals wants an error that names the operand of each operation of a backend that
// stores keys and values alone in bfloat16.
func narrowRefusals(t *testing.T, be backend.Backend) {
	one := func(as backend.DType, n int) backend.Buffer { return newBufferAs(t, be, as, make([]float32, n)) }
	wide, half, two := one(backend.F32, 4), one(backend.BF16, 4), one(backend.F32, 2)
	w := newWeight(t, be, backend.F32, 4, 4, make([]float32, 16))
	shape := backend.AttentionShape{Heads: 2, KVHeads: 2, HeadDim: 2, Scale: 1}
	at, key := list(t, be, 0), spans(t, be, span{0, 1})
	cache, rest := one(backend.BF16, 4*backend.BlockMultiple), one(backend.F32, 4*backend.BlockMultiple)
	pages := paged(t, be, backend.BlockMultiple, []int32{0}, []int32{0}, []int32{1})
	p := &backend.Parts{Backend: be, Arena: be.NewArena()}
	defer p.Arena.Reset()
	rotary := backend.Rotary{Positions: at, Table: two, Shape: shape}
	for what, c := range map[string]struct {
		err  error
		name string
	}{
		"sum":                   {be.Add(wide, half), "x"},
		"bias":                  {be.AddToRows(wide, backend.Scales{Bank: half}, 1), "bank"},
		"scale":                 {be.ScaleColumns(wide, half, backend.Scales{Bank: wide}, 1), "x"},
		"gradient of scales":    {be.ColumnDots(wide, half, wide, 1), "a"},
		"selected rows":         {be.SelectRows(wide, half, at, 4), "indexed side"},
		"scattered rows":        {be.ScatterRows(wide, half, at, 4), "indexed side"},
		"norm":                  {be.RMSNorm(half, wide, wide, 1, 1e-5), "y"},
		"norm's gradient":       {be.RMSNormBackward(wide, half, wide, wide, 1, 1e-5), "dy"},
		"activation":            {be.SwiGLU(wide, wide, half), "up"},
		"activation's gradient": {be.SwiGLUBackward(wide, wide, wide, half, wide), "gate"},
		"log softmax":           {be.LogSoftmax(wide, half, 1), "x"},
		"rotation":              {be.RoPE(half, at, 2, two, 2, false), "x"},
		"packed keys":           {be.Attention(wide, nil, wide, half, half, key, shape), "k is"},
		"queries":               {be.PagedAttention(wide, half, cache, cache, pages, shape), "q is"},
		"values of two types":   {be.PagedAttention(wide, wide, cache, rest, pages, shape), "v is"},
		"attention's gradient":  {be.AttentionBackward(wide, wide, wide, wide, wide, two, wide, half, wide, key, shape), "k is"},
		"product":               {be.MatMul(1, backend.Product{Y: wide, X: half, W: w}), "x"},
		"product's result":      {be.MatMul(1, backend.Product{Y: half, X: wide, W: w}), "y"},
		"keys that are written": {p.RotateStore(rotary, nil, half, wide, backend.CacheRows{K: cache, V: cache, Slots: at}), "k is"},
		"caches of two types":   {p.RotateStore(rotary, nil, wide, wide, backend.CacheRows{K: cache, V: rest, Slots: at}), "values"},
	} {
		if !errors.Is(c.err, backend.ErrUnsupported) || !strings.Contains(c.err.Error(), c.name) {
			t.Errorf("%s, in bfloat16: error %v, want ErrUnsupported that names %s", what, c.err, c.name)
		}
	}
	if _, err := be.Alloc(backend.Int8, 1); !errors.Is(err, backend.ErrUnsupported) {
		t.Errorf("a buffer in int8: error %v, want ErrUnsupported", err)
	}
}

// mixedRefusals wants an error that names the operand of each operation that is stored
// otherwise than the operation can take it.
func mixedRefusals(t *testing.T, be backend.Backend) {
	one := func(as backend.DType, n int) backend.Buffer { return newBufferAs(t, be, as, make([]float32, n)) }
	wide, half, half2, logs := one(backend.F32, 4), one(backend.BF16, 4), one(backend.BF16, 4), one(backend.BF16, 2)
	w, cache := newWeight(t, be, backend.F32, 4, 4, make([]float32, 16)), one(backend.F32, 4*backend.BlockMultiple)
	shape := backend.AttentionShape{Heads: 2, KVHeads: 2, HeadDim: 2, Scale: 1}
	at, key := list(t, be, 0), spans(t, be, span{0, 1})
	rotate := &backend.Parts{Backend: be, Arena: be.NewArena(), Storage: backend.BF16}
	defer rotate.Arena.Reset()
	decided := func(logits backend.Buffer) error {
		_, err := be.Decide(logits, 1, []backend.Ask{{Scores: []int32{0}}})
		return err
	}
	turned := func(logits, base backend.Buffer) error {
		_, err := be.PolicyGradient(logits, base, make([]backend.Position, 1), 0, 1)
		return err
	}
	for what, c := range map[string]struct {
		err  error
		name string
	}{
		"sum":                       {be.Add(half, wide), "x"},
		"bias":                      {be.AddToRows(half, backend.Scales{Bank: half2}, 1), "bank"},
		"scale":                     {be.ScaleColumns(half, half, backend.Scales{Bank: half2}, 1), "s"},
		"scaled":                    {be.ScaleColumns(wide, half, backend.Scales{Bank: wide}, 1), "x"},
		"gradient of scales":        {be.ColumnDots(half, half2, half2, 1), "d"},
		"factors of it":             {be.ColumnDots(wide, half, wide, 1), "b"},
		"selected rows":             {be.SelectRows(wide, half, at, 4), "indexed side"},
		"scattered rows":            {be.ScatterRows(wide, half, at, 4), "indexed side"},
		"gain":                      {be.RMSNorm(half, half, half2, 1, 1e-5), "gain"},
		"norm":                      {be.RMSNorm(wide, half, wide, 1, 1e-5), "x"},
		"norm's gradient":           {be.RMSNormBackward(half, wide, half, wide, 1, 1e-5), "dy"},
		"activation":                {be.SwiGLU(half, half, wide), "up"},
		"activation's gradient":     {be.SwiGLUBackward(half, half, half, wide, half), "gate"},
		"log softmax":               {be.LogSoftmax(half, half, 1), "y"},
		"angles":                    {be.RoPE(half, at, 1, half2, 4, false), "table"},
		"queries":                   {be.Attention(half, nil, wide, half, half, key, shape), "q"},
		"log of the denominator":    {be.Attention(half, logs, half, half, half, key, shape), "lse"},
		"attention's gradient":      {be.AttentionBackward(half, half, wide, half, half, wide, half, half, half, key, shape), "dv"},
		"scaled product":            {be.MatMul(1, backend.Product{Y: half, X: wide, W: w, Scales: &backend.Scales{Bank: wide}}), "x"},
		"bank of scales":            {be.MatMul(1, backend.Product{Y: half, X: half2, W: w, Scales: &backend.Scales{Bank: half}}), "bank"},
		"scale of a composed":       {be.Compose(t.Context(), w, w, w, half), "s"},
		"logits":                    {decided(half), "logits"},
		"logits of training":        {turned(half, nil), "logits"},
		"logits of the first model": {turned(wide, half), "base"},
		"angles of a cache": {rotate.RotateStore(backend.Rotary{Positions: at, Table: half2, Shape: shape}, nil, half, half,
			backend.CacheRows{K: half, V: half, Slots: at}), "table"},
		"values of a cache": {rotate.RotateStore(backend.Rotary{Positions: at, Table: wide, Shape: shape}, nil, half, half,
			backend.CacheRows{K: half, V: wide, Slots: at}), "values"},
		"a cache that is written wider": {rotate.RotateStore(backend.Rotary{Positions: at, Table: wide, Shape: shape}, nil, half, half,
			backend.CacheRows{K: wide, V: wide, Slots: at}), "keys"},
		"a cache that is read wider": {be.PagedAttention(half, half, cache, cache, paged(t, be, backend.BlockMultiple, []int32{0}, []int32{0}, []int32{1}), shape), "k is"},
	} {
		if !errors.Is(c.err, backend.ErrUnsupported) || !strings.Contains(c.err.Error(), c.name) {
			t.Errorf("%s, stored otherwise: error %v, want ErrUnsupported that names %s", what, c.err, c.name)
		}
	}
}
