package backendtest

import (
	"errors"
	"maps"
	"math"
	"slices"
	"testing"

	"github.com/transformersquared/operator/runtime/backend"
)

func (s *suite) memory(t *testing.T) {
	for _, be := range s.variants {
		for _, n := range []int{0, 1, 63, 64, 65, 1000} {
			exact := random(n, uint64(n))
			v := s.round(exact)
			a, b := s.newBuffer(t, be, exact), s.newBuffer(t, be, garbage(n))
			if a.Len() != n || a.Type() != s.storage {
				t.Errorf("a buffer of %d elements of type %s says it has %d of type %s", n, s.storage, a.Len(), a.Type())
			}
			if err := be.Copy(b, a); err != nil {
				t.Fatal(err)
			}
			if err := be.Zero(a); err != nil {
				t.Fatal(err)
			}
			got, cleared := make([]float32, n), garbage(n)
			if err := be.Download(got, b); err != nil {
				t.Fatal(err)
			}
			if err := be.Download(cleared, a); err != nil {
				t.Fatal(err)
			}
			if !sameBits(got, v) {
				t.Errorf("%d elements copied are not those uploaded", n)
			}
			if !sameBits(cleared, make([]float32, n)) {
				t.Errorf("%d elements are not all zero after Zero", n)
			}
			be.Free(a)
			be.Free(nil)
			s.handOver(t, be, b, v)
		}
	}
}

// weights reads back what was uploaded.
func (s *suite) weights(t *testing.T) {
	for _, be := range s.variants {
		for _, kind := range backend.DTypes() {
			const rows, cols = 35, 77
			values := random(rows*cols, 1)
			w := newWeight(t, be, kind, rows, cols, values)
			if w.Type() != kind || w.Out() != rows || w.In() != cols {
				t.Errorf("a weight of type %s [%d, %d] says it is %s [%d, %d]", kind, rows, cols, w.Type(), w.Out(), w.In())
			}
			data, err := be.WeightData(w)
			if err != nil {
				t.Fatal(err)
			}
			if !sameBits(data, narrowed(refStored(kind, values, cols))) {
				t.Errorf("a weight of type %s read back is not what was uploaded, rounded", kind)
			}
		}
	}
}

func (s *suite) matMul(t *testing.T) {
	cases := []struct{ n, out, in int }{
		{1, 1, 1}, {1, 256, 64}, {1, 33, 700}, {1, 300, 1100}, {2, 128, 128}, {7, 40, 33}, {13, 31, 17},
		{33, 130, 95}, {64, 96, 40}, {67, 129, 65}, {200, 65, 600}, {5, 70, 1100},
	}
	for _, kind := range backend.DTypes() {
		for _, c := range cases {
			for _, magnitude := range []float32{1, 1e12} {
				t.Run(name(kind, " ", c, " of ", magnitude), func(t *testing.T) {
					x, dy := s.round(scaled(random(c.n*c.in, 1), magnitude)), s.round(scaled(random(c.n*c.out, 2), magnitude))
					w := random(c.out*c.in, 3)
					for _, add := range []bool{false, true} {
						s.product(t, product{kind, c.n, c.out, c.in, add, x, w, false})
						s.product(t, product{kind, c.n, c.in, c.out, add, dy, w, true})
					}
				})
			}
		}
	}
}

// product is y [n, out] = x [n, in]·Wᵀ, or with back y = x·W for W [in, out].
type product struct {
	kind       backend.DType
	n, out, in int
	add        bool
	x, w       []float32
	back       bool
}

// multiplier returns what multiplies n rows, with p's weight on each variant.
func (s *suite) multiplier(t *testing.T, p product) func(be backend.Backend, y, x backend.Buffer, n int, by *backend.Scales) error {
	t.Helper()
	weights := map[backend.Backend]backend.Weight{}
	for _, be := range s.variants {
		if p.back {
			weights[be] = newWeight(t, be, p.kind, p.in, p.out, p.w)
		} else {
			weights[be] = newWeight(t, be, p.kind, p.out, p.in, p.w)
		}
	}
	return func(be backend.Backend, y, x backend.Buffer, n int, by *backend.Scales) error {
		if p.back {
			return be.MatMulBackward(n, backend.Product{Y: y, X: x, W: weights[be], Scales: by, Add: p.add})
		}
		return be.MatMul(n, backend.Product{Y: y, X: x, W: weights[be], Scales: by, Add: p.add})
	}
}

func (s *suite) product(t *testing.T, p product) {
	t.Helper()
	multiply := s.multiplier(t, p)
	op := func(n int) operation {
		return func(be backend.Backend, b []backend.Buffer) error {
			return multiply(be, b[0], b[1], n, nil)
		}
	}
	y := garbage(p.n * p.out)
	var want []float64
	if p.back {
		w := refTranspose(refStored(p.kind, p.w, p.out), p.in, p.out)
		x := widen(p.x)
		if p.kind == backend.BF16 {
			x = refRounded(p.kind, p.x, p.in)
		}
		want = refMatMul(x, w, p.n, p.out, p.in)
	} else {
		want = refMatMul(s.roundedRows(p.kind, p.x, p.in), s.multipliedRows(p.kind, p.w, p.in), p.n, p.out, p.in)
	}
	if p.add {
		y = s.random(p.n*p.out, 4)
		want = sum(want, widen(y))
	}
	got := s.compute(t, []int{0}, [][]float32{y, p.x}, op(p.n))[0]
	near(t, "product", got, want, s.bound(boundSum, 1))
	if !s.rowInvariant(p.back) {
		return
	}
	for r := 0; r < p.n; r += 1 + p.n/16 {
		alone := s.compute(t, []int{0}, [][]float32{y[r*p.out:][:p.out], p.x[r*p.in:][:p.in]}, op(1))[0]
		if !sameBits(alone, got[r*p.out:][:p.out]) {
			t.Fatalf("row %d differs from the row computed alone", r)
		}
	}
}

// scaledProducts wants of products with scales the bits that ScaleColumns and the
// product give each row, whose scale is the only one or one of several.
func (s *suite) scaledProducts(t *testing.T) {
	cases := []struct{ n, out, in, scales int }{{1, 1, 1, 1}, {3, 70, 5, 2}, {9, 33, 130, 9}, {300, 40, 129, 4}, {64, 65, 1536, 70}, {20, 40, 2100, 1}}
	for _, kind := range backend.DTypes() {
		for _, c := range cases {
			for _, back := range []bool{false, true} {
				t.Run(name(kind, " ", c, " back ", back), func(t *testing.T) {
					s.scaledProduct(t, product{kind: kind, n: c.n, out: c.out, in: c.in, add: c.n%2 == 0, back: back,
						x: s.random(c.n*c.in, 1), w: random(c.out*c.in, 2)}, c.scales)
				})
			}
		}
	}
}

func (s *suite) scaledProduct(t *testing.T, p product, scales int) {
	t.Helper()
	multiply := s.multiplier(t, p)
	values := [][]float32{s.random(p.n*p.out, 3), p.x, random(scales*p.in, 4)}
	s = s.float32s(2)
	var index []int32
	if scales > 1 {
		for r := range p.n {
			index = append(index, int32((r*7+3)%scales))
		}
	}
	got := s.compute(t, []int{0}, values, func(be backend.Backend, b []backend.Buffer) error {
		by := &backend.Scales{Bank: b[2]}
		if index != nil {
			by.Index = list(t, be, index...)
		}
		return multiply(be, b[0], b[1], p.n, by)
	})[0]
	for r := range p.n {
		var own int32
		if index != nil {
			own = index[r]
		}
		want := s.compute(t, []int{0, 1}, [][]float32{values[0][r*p.out:][:p.out], p.x[r*p.in:][:p.in], values[2][int(own)*p.in:][:p.in]}, func(be backend.Backend, b []backend.Buffer) error {
			if err := be.ScaleColumns(b[1], b[1], backend.Scales{Bank: b[2]}, 1); err != nil {
				return err
			}
			return multiply(be, b[0], b[1], 1, nil)
		})[0]
		if row := got[r*p.out:][:p.out]; !s.rowInvariant(p.back) {
			near(t, name("row ", r), row, widen(want), s.bound(boundSum, 2)) // Both are rounded.
		} else if !sameBits(row, want) {
			t.Fatalf("row %d differs from the product of the row that ScaleColumns made", r)
		}
	}
}

// severalProducts wants of products that are computed together the bits of each
// alone. Their sizes and types differ, and one has scales.
func (s *suite) severalProducts(t *testing.T) {
	sizes := []struct {
		kind    backend.DType
		out, in int
	}{
		{backend.BF16, 300, 64}, {backend.F32, 1, 700}, {backend.Int8, 96, 130}, {backend.BF16, 65, 64}, {backend.F32, 512, 33},
	}
	for _, n := range []int{1, 2, 13, 40, 300} {
		for _, back := range []bool{false, true} {
			var values [][]float32
			var outputs, scales []int
			multiply := map[backend.Backend][]backend.Product{}
			for i, size := range sizes {
				in, out := size.in, size.out
				if back {
					in, out = out, in
				}
				outputs = append(outputs, 3*i)
				values = append(values, s.random(n*out, uint64(i)), s.random(n*in, uint64(10+i)), random(in, uint64(20+i)))
				scales = append(scales, 3*i+2)
				for _, be := range s.variants {
					w := newWeight(t, be, size.kind, size.out, size.in, random(size.out*size.in, uint64(30+i)))
					multiply[be] = append(multiply[be], backend.Product{W: w, Add: i%2 == 0})
				}
			}
			// each runs them in calls of at most so many.
			each := func(most int) [][]float32 {
				return s.float32s(scales...).compute(t, outputs, values, func(be backend.Backend, b []backend.Buffer) error {
					products := slices.Clone(multiply[be])
					for i := range products {
						products[i].Y, products[i].X = b[3*i], b[3*i+1]
					}
					products[2].Scales = &backend.Scales{Bank: b[8]}
					for some := range slices.Chunk(products, most) {
						run := be.MatMul
						if back {
							run = be.MatMulBackward
						}
						if err := run(n, some...); err != nil {
							return err
						}
					}
					return nil
				})
			}
			alone, together := each(1), each(len(sizes))
			for _, i := range outputs {
				if !sameBits(alone[i], together[i]) {
					t.Errorf("%d rows, back %v: product %d is another together with others", n, back, i/3)
				}
			}
		}
	}
}

// scaledRefusals are products that must fail for their scales.
func scaledRefusals(t *testing.T, be backend.Backend) map[string]error {
	t.Helper()
	small, large := newBuffer(t, be, make([]float32, 4)), newBuffer(t, be, make([]float32, 8))
	w := newWeight(t, be, backend.F32, 4, 4, make([]float32, 16))
	of := func(bank backend.Buffer) *backend.Scales { return &backend.Scales{Bank: bank} }
	indexed := func(index ...int32) *backend.Scales {
		return &backend.Scales{Bank: small, Index: list(t, be, index...)}
	}
	return map[string]error{
		"scales of another size":           be.MatMul(1, backend.Product{Y: small, X: small, W: w, Scales: of(newBuffer(t, be, make([]float32, 6)))}),
		"an empty bank of scales":          be.MatMul(1, backend.Product{Y: small, X: small, W: w, Scales: of(newBuffer(t, be, nil))}),
		"no scale":                         be.MatMul(1, backend.Product{Y: small, X: small, W: w, Scales: of(nil)}),
		"a scale that is not there":        be.MatMul(2, backend.Product{Y: large, X: large, W: w, Scales: indexed(0, 1)}),
		"a negative scale":                 be.MatMul(1, backend.Product{Y: small, X: small, W: w, Scales: indexed(-1)}),
		"scales of another number of rows": be.MatMul(2, backend.Product{Y: large, X: large, W: w, Scales: indexed(0)}),
		"backward scales of another size":  be.MatMulBackward(1, backend.Product{Y: small, X: small, W: w, Scales: of(newBuffer(t, be, make([]float32, 6)))}),
	}
}

func (s *suite) gather(t *testing.T) {
	const rows, cols = 37, 45
	values := random(rows*cols, 1)
	ids := []int32{36, 0, 5, 5, 17}
	for _, kind := range backend.DTypes() {
		w := narrowed(refStored(kind, values, cols))
		got := s.compute(t, []int{0}, [][]float32{garbage(len(ids) * cols)}, func(be backend.Backend, b []backend.Buffer) error {
			return be.Gather(b[0], newWeight(t, be, kind, rows, cols, values), list(t, be, ids...))
		})[0]
		for i, id := range ids {
			if !sameBits(got[i*cols:][:cols], s.round(w[int(id)*cols:][:cols])) {
				t.Errorf("%s: row %d is not row %d of the matrix", kind, i, id)
			}
		}
	}
}

// rowsOfX multiplies rows by the unit matrix, so that every element shows how it
// was rounded: ties, zeros, blocks of one element and magnitudes of all sizes.
func (s *suite) rowsOfX(t *testing.T) {
	const n, cols = 6, 83
	unit := make([]float32, cols*cols)
	for i := range cols {
		unit[i*(cols+1)] = 1
	}
	x := random(n*cols, 5)
	for i := range cols {
		x[i] = float32(math.Ldexp(1+float64(i)/256, i%60-30)) // Half of them between two bfloat16.
		x[cols+i] = float32(i%16) + 0.5                       // And between two integers,
		x[2*cols+i] *= float32(math.Ldexp(1, -i))
		x[3*cols+i] *= 1e-20
		x[4*cols+i] = 0
	}
	x[cols+3], x[cols+40], x[2*cols-1] = 127, -127, 127 // when the scale is 1.
	x = s.round(x)
	for _, kind := range backend.DTypes() {
		got := s.compute(t, []int{0}, [][]float32{garbage(n * cols), x}, func(be backend.Backend, b []backend.Buffer) error {
			return be.MatMul(n, backend.Product{Y: b[0], X: b[1], W: newWeight(t, be, kind, cols, cols, unit)})
		})[0]
		one := s.multipliedRows(kind, []float32{1}, 1)[0]
		for i, want := range s.roundedRows(kind, x, cols) {
			const ofThree = 4e-7 // Roundings to float32.
			want *= one
			if d := math.Abs(float64(got[i]) - want); !(d <= (ofThree+s.roundoff())*math.Abs(want)) {
				t.Errorf("%s: %v of row %d became %v, want %v", kind, x[i], i/cols, got[i], want)
			}
		}
	}
}

// notFinite wants infinities and NaN in a row of x to spoil that row, and no other.
func (s *suite) notFinite(t *testing.T) {
	const n, out, in = 5, 40, 70
	x, w := s.random(n*in, 6), random(out*in, 7)
	x[in], x[2*in+69], x[4*in+35] = float32(math.Inf(-1)), float32(math.NaN()), math.Float32frombits(0x7fffffff)
	for _, kind := range backend.DTypes() {
		got := s.compute(t, []int{0}, [][]float32{garbage(n * out), x}, func(be backend.Backend, b []backend.Buffer) error {
			return be.MatMul(n, backend.Product{Y: b[0], X: b[1], W: newWeight(t, be, kind, out, in, w)})
		})[0]
		for i, v := range got {
			r := i / out
			finite := !math.IsNaN(float64(v)) && !math.IsInf(float64(v), 0)
			switch {
			case (r == 0 || r == 3) != finite:
				t.Fatalf("%s: element %d of row %d is %v", kind, i%out, r, v)
			case (r == 2 || r == 4 || r == 1 && kind == backend.Int8 && !s.widened(kind)) && v == v:
				t.Fatalf("%s: element %d of row %d is %v, want NaN", kind, i%out, r, v)
			}
		}
	}
}

// handOver takes a buffer with the values v to the host and gives it back.
func (s *suite) handOver(t *testing.T, be backend.Backend, b backend.Buffer, v []float32) {
	data, err := be.Take(b)
	if err != nil {
		t.Fatal(err)
	}
	if !sameBits(data, v) {
		t.Errorf("%d elements taken are not those of the buffer", len(v))
	}
	if err := be.Zero(b); err == nil {
		t.Error("a buffer that was taken is still written to")
	}
	if _, err := be.Take(b); err == nil {
		t.Error("a buffer was taken twice")
	}
	given, err := be.Give(data)
	if err != nil {
		t.Fatal(err)
	}
	got := make([]float32, len(v))
	if err := be.Download(got, given); err != nil {
		t.Fatal(err)
	}
	if !sameBits(got, v) {
		t.Errorf("%d elements given are not those of the buffer", len(v))
	}
	be.Free(given)
}

func (s *suite) refusals(t *testing.T) {
	for _, be := range s.variants {
		small, large := newBuffer(t, be, make([]float32, 4)), newBuffer(t, be, make([]float32, 8))
		w := newWeight(t, be, backend.F32, 4, 4, make([]float32, 16))
		shape := backend.AttentionShape{Heads: 2, KVHeads: 1, HeadDim: 2, Scale: 1}
		cases := map[string]error{
			"upload of another size":     be.Upload(small, make([]float32, 5)),
			"download of another size":   be.Download(make([]float32, 5), small),
			"copy of another size":       be.Copy(small, large),
			"matmul of another size":     be.MatMul(1, backend.Product{Y: large, X: small, W: w}),
			"matmul of no weight":        be.MatMul(1, backend.Product{Y: small, X: small}),
			"matmul of no buffer":        be.MatMul(1, backend.Product{X: small, W: w}),
			"backward of another size":   be.MatMulBackward(1, backend.Product{Y: small, X: large, W: w}),
			"gather of a negative row":   be.Gather(small, w, list(t, be, -1)),
			"gather past the end":        be.Gather(small, w, list(t, be, 4)),
			"add of another size":        be.Add(small, large),
			"add to rows of another n":   be.AddToRows(large, backend.Scales{Bank: small}, 1),
			"add past the bank":          be.AddToRows(small, backend.Scales{Bank: large, Index: list(t, be, 2)}, 1),
			"scale of another size":      be.ScaleColumns(large, large, backend.Scales{Bank: small}, 1),
			"scale past the bank":        be.ScaleColumns(small, small, backend.Scales{Bank: large, Index: list(t, be, 2)}, 1),
			"outer sums of another size": be.OuterSums(small, small, small, 1),
			"dots of another size":       be.ColumnDots(small, small, large, 1),
			"select past the end":        be.SelectRows(small, large, list(t, be, 2), 4),
			"scatter past the end":       be.ScatterRows(large, small, list(t, be, 2), 4),
			"scatter to a negative row":  be.ScatterRows(large, small, list(t, be, -2), 4),
			"rmsnorm of another size":    be.RMSNorm(large, small, small, 1, 1e-5),
			"swiglu of another size":     be.SwiGLU(small, small, large),
			"softmax of unequal rows":    be.LogSoftmax(large, large, 3),
			"rope past the table":        be.RoPE(small, list(t, be, 2), 1, large, 4, false),
			"rope of an odd head":        be.RoPE(small, list(t, be, 0), 1, large, 1, false),
			"attention past the cache":   be.Attention(small, nil, small, small, small, spans(t, be, span{1, 2}), shape),
			"attention to nothing":       be.Attention(small, nil, small, small, small, spans(t, be, span{0, 0}), shape),
			"attention of unequal k, v":  be.Attention(small, nil, small, small, large, spans(t, be, span{0, 1}), shape),
			"heads that do not divide":   be.Attention(small, nil, small, small, small, spans(t, be, span{0, 1}), backend.AttentionShape{Heads: 3, KVHeads: 2, HeadDim: 1}),
			"overlapping spans backward": be.AttentionBackward(large, small, small, large, large, small, large, small, small, spans(t, be, span{0, 2}, span{1, 1}), shape),
		}
		maps.Copy(cases, pagedRefusals(t, be))
		maps.Copy(cases, scaledRefusals(t, be))
		for what, err := range cases {
			if err == nil {
				t.Errorf("%s: no error from %s", what, be.Name())
			}
		}
		if _, err := be.NewWeight(backend.F32, 2, 3, make([]float32, 5)); err == nil {
			t.Error("a weight with an element missing: no error")
		}
		if _, err := be.NewWeight(backend.DType(255), 1, 1, make([]float32, 1)); !errors.Is(err, backend.ErrUnsupported) {
			t.Errorf("a weight of an unknown type: error %v, want ErrUnsupported", err)
		}
		s.unrepresentable(t, be)
		if _, err := be.Alloc(backend.F32, -1); err == nil {
			t.Error("a buffer of −1 elements: no error")
		}
		be.Free(small)
		if err := be.Zero(small); err == nil {
			t.Error("a freed buffer was used without an error")
		}
	}
}

// unrepresentable tries elements at the edge of what each type can hold.
func (s *suite) unrepresentable(t *testing.T, be backend.Backend) {
	t.Helper()
	const last = 0x7f7f7fff // The bits of the largest float32 that rounds to a finite bfloat16.
	cases := []struct {
		bits       uint32
		bf16, int8 bool
	}{
		{last, true, false},
		{last + 1, false, false},
		{math.Float32bits(0x1p127) - 1, true, true},
		{math.Float32bits(0x1p127), true, false},
		{math.Float32bits(math.MaxFloat32), false, false},
		{0x7f800000, false, false}, // Infinity.
		{0x7fc00000, false, false}, // NaN.
		{0x7f800001, false, false}, // And one whose high half is that of infinity.
	}
	for _, c := range cases {
		for sign := range uint32(2) {
			v := math.Float32frombits(c.bits | sign<<31)
			for kind, want := range map[backend.DType]bool{backend.F32: true, backend.BF16: c.bf16, backend.Int8: c.int8} {
				if _, err := be.NewWeight(kind, 1, 3, []float32{1, v, 1}); (err == nil) != want {
					t.Errorf("a weight of type %s with %v: error %v", kind, v, err)
				}
			}
		}
	}
}
