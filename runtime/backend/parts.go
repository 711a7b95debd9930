package backend

import "slices"

// Parts computes the parts of a transformer's layer: by a backend's own fused
// operation where it has one, and composed of small ones where it has not. Buffers
// between small ones come from the arena.
type Parts struct {
	Backend
	// Arena has the buffers of the step.
	Arena Arena
	// Storage is how activations are stored.
	Storage DType
}

// Linear is a projection and what adapters do to it:
//
//	y = Out ⊙ (W·(In ⊙ x)) + Σ Low.B·(Low.Scales ⊙ (Low.A·x))
//
// for a dense W, or with U·(Scales ⊙ (Vᵀ·(In ⊙ x))) for one that is factored
// (Transformer², section 3.1). Either W is set, or U, Vt and Scales are. All scales are
// those of each row, so that a batch may mix adapters of every kind.
type Linear struct {
	W      Weight // [Out, In]
	U, Vt  Weight // [Out, R] and [R, In]
	Scales *Scales
	// In [In] and Out [Out] multiply what goes in and what the matrix makes of it, and Low
	// adds to that; each may be nil.
	In, Out *Scales
	Low     []LowRank
}

// LowRank are pairs of low-rank matrices, behind each other: A [R, In] and B [Out, R].
// A row has scales [R], zero for the pairs that are not its.
type LowRank struct {
	A, B   Weight
	Scales *Scales
	// From and To, one behind the last, are the rows that have a part in it, so that others
	// need not be multiplied by zero; their scales are indexed from the first of them on.
	// Zeros mean all.
	From, To int
}

// whole reports that all rows have a part in it.
func (l *LowRank) whole() bool { return l.To == 0 }

// plain reports that no adapter has a part in it but by the scales of a factored matrix.
func (l *Linear) plain() bool { return l.In == nil && l.Out == nil && l.Low == nil }

// Projection is one output of Project.
type Projection struct {
	Linear
	// Y [N, Out] is written, or with Add added to: the residual stream. With a group of
	// devices this is where their parts are added up.
	Y   Buffer
	Add bool
	// Bias [Out] is what is added to each row, which In and Out do not multiply; it may be
	// nil.
	Bias *Scales
}

// Kept is what the gradient of a projection's parameters needs; what it has not is nil.
type Kept struct {
	Inner Buffer // Vᵀ·(In ⊙ x) [N, R], of a factored one.
	Low   Buffer // A·x [N, R] of low-rank pairs that all rows have.
	Plain Buffer // What Out multiplies [N, Out].
}

// Norm is what a projection's input goes through first.
type Norm struct {
	// Gain [H], and what is added to the mean square.
	Gain Buffer
	Eps  float32
}

// NormProjector is a backend that computes norm and projections at once, if the
// caller needs neither the normalised input nor Vᵀ·x.
type NormProjector interface {
	// NormProject computes projections of RMSNorm(x), or of x where the norm is nil.
	NormProject(arena Arena, x Buffer, norm *Norm, n int, all ...Projection) error
}

// RotaryStorer is a backend that rotates queries and keys and writes the cache at
// once.
type RotaryStorer interface {
	// RotateStore is what Parts.RotateStore is.
	RotateStore(r Rotary, q, k, v Buffer, cache CacheRows) error
}

// Rotary is how queries and keys are rotated by their position; see RoPE.
type Rotary struct {
	Positions Index
	Table     Buffer
	Shape     AttentionShape
}

// CacheRows is where a layer's keys and values go: row n of both to row Slots[n].
type CacheRows struct {
	K, V  Buffer
	Slots Index
}

// Project computes independent projections of RMSNorm(x) [N, H], or of x where norm
// is nil: queries, keys and values; gate and up; or the one that ends a half of a
// layer.
func (p *Parts) Project(x Buffer, norm *Norm, n int, all ...Projection) error {
	fused, ok := p.Backend.(NormProjector)
	if ok && !slices.ContainsFunc(all, func(l Projection) bool { return !l.plain() }) {
		return fused.NormProject(p.Arena, x, norm, n, all...)
	}
	in := x
	if norm != nil {
		normed, err := p.Arena.Alloc(p.Storage, x.Len())
		if err != nil {
			return err
		}
		defer p.Arena.Free(normed)
		if err := p.RMSNorm(normed, x, norm.Gain, n, norm.Eps); err != nil {
			return err
		}
		in = normed
	}
	kept, err := p.ProjectKeep(in, n, all...)
	for _, k := range kept {
		p.Arena.Free(k.Inner)
		p.Arena.Free(k.Low)
		p.Arena.Free(k.Plain)
	}
	return err
}

// ProjectKeep computes projections of x and returns what their gradients need. On an
// error the arena has what was allocated.
func (p *Parts) ProjectKeep(x Buffer, n int, all ...Projection) ([]Kept, error) {
	kept := make([]Kept, len(all))
	first, second := make([]Product, 0, len(all)), make([]Product, 0, len(all))
	var third []Product // Of low-rank pairs alone.
	alloc := func(b *Buffer, width int) error {
		var err error
		*b, err = p.Arena.Alloc(p.Storage, n*width)
		return err
	}
	for i := range all {
		l, k := &all[i], &kept[i]
		y, add := l.Y, l.Add
		if l.Out != nil {
			if err := alloc(&k.Plain, l.out()); err != nil {
				return nil, err
			}
			y, add = k.Plain, false
		}
		if l.W != nil {
			second = append(second, Product{Y: y, X: x, W: l.W, Scales: l.In, Add: add})
		} else {
			if err := alloc(&k.Inner, l.Vt.Out()); err != nil {
				return nil, err
			}
			first = append(first, Product{Y: k.Inner, X: x, W: l.Vt, Scales: l.In})
			second = append(second, Product{Y: y, X: k.Inner, W: l.U, Scales: l.Scales, Add: add})
		}
		for _, low := range l.Low {
			if !low.whole() {
				continue
			}
			if err := alloc(&k.Low, low.A.Out()); err != nil {
				return nil, err
			}
			first = append(first, Product{Y: k.Low, X: x, W: low.A})
			third = append(third, Product{Y: l.Y, X: k.Low, W: low.B, Scales: low.Scales, Add: true})
		}
	}
	if err := p.products(n, first); err != nil {
		return nil, err
	}
	if err := p.products(n, second); err != nil {
		return nil, err
	}
	for i := range all {
		if err := p.scaleOutput(&all[i], kept[i].Plain, n); err != nil {
			return nil, err
		}
	}
	if err := p.products(n, third); err != nil {
		return nil, err
	}
	if err := p.projectSome(x, all); err != nil {
		return nil, err
	}
	for _, l := range all {
		if l.Bias != nil {
			if err := p.AddToRows(l.Y, *l.Bias, n); err != nil {
				return nil, err
			}
		}
	}
	return kept, nil
}

// someRows are the products of low-rank pairs with a run of rows.
type someRows struct {
	from, to int
	first    []Product
	// second has for each projection its first pair, then the second pairs: those of one
	// projection add to the same.
	second [][]Product
}

// projectSome adds what low-rank pairs make of some of the rows of x.
func (p *Parts) projectSome(x Buffer, all []Projection) error {
	var runs []*someRows
	for i := range all {
		l := &all[i]
		nth := map[*someRows]int{}
		for _, low := range l.Low {
			if low.whole() {
				continue
			}
			at := slices.IndexFunc(runs, func(r *someRows) bool { return r.from == low.From && r.to == low.To })
			if at < 0 {
				at = len(runs)
				runs = append(runs, &someRows{from: low.From, to: low.To})
			}
			r := runs[at]
			h, err := p.Arena.Alloc(p.Storage, (r.to-r.from)*low.A.Out())
			if err != nil {
				return err
			}
			defer p.Arena.Free(h)
			if err := p.add(r, low, x, l.Y, h, nth[r]); err != nil {
				return err
			}
			nth[r]++
		}
	}
	for _, r := range runs {
		for _, products := range append([][]Product{r.first}, r.second...) {
			if err := p.products(r.to-r.from, products); err != nil {
				return err
			}
		}
	}
	return nil
}

// add adds the products of a projection's nth pair to those of a run.
func (p *Parts) add(r *someRows, low LowRank, x, y, h Buffer, nth int) error {
	in, err := p.Rows(x, low.A.In(), r.from, r.to)
	if err != nil {
		return err
	}
	out, err := p.Rows(y, low.B.Out(), r.from, r.to)
	if err != nil {
		return err
	}
	r.first = append(r.first, Product{Y: h, X: in, W: low.A})
	if nth == len(r.second) {
		r.second = append(r.second, nil)
	}
	r.second[nth] = append(r.second[nth], Product{Y: out, X: h, W: low.B, Scales: low.Scales, Add: true})
	return nil
}

// products computes products, if there are any.
func (p *Parts) products(n int, all []Product) error {
	if len(all) == 0 {
		return nil
	}
	return p.MatMul(n, all...)
}

// scaleOutput writes or adds Out ⊙ plain, where a projection has it.
func (p *Parts) scaleOutput(l *Projection, plain Buffer, n int) error {
	if l.Out == nil {
		return nil
	}
	if !l.Add {
		return p.ScaleColumns(l.Y, plain, *l.Out, n)
	}
	scaled, err := p.Arena.Alloc(p.Storage, plain.Len())
	if err != nil {
		return err
	}
	defer p.Arena.Free(scaled)
	if err := p.ScaleColumns(scaled, plain, *l.Out, n); err != nil {
		return err
	}
	return p.Add(l.Y, scaled)
}

// out is the width of the output.
func (l *Linear) out() int {
	if l.W != nil {
		return l.W.Out()
	}
	return l.U.Out()
}

// RotateStore rotates queries [N, Heads·D] in place, unless they are nil, and writes
// rotated keys [N, KVHeads·D] and values to where they go in the cache. What k holds
// afterwards is undefined.
func (p *Parts) RotateStore(r Rotary, q, k, v Buffer, cache CacheRows) error {
	if fused, ok := p.Backend.(RotaryStorer); ok {
		return fused.RotateStore(r, q, k, v, cache)
	}
	s, width := r.Shape, r.Shape.KVHeads*r.Shape.HeadDim
	if q != nil {
		if err := p.RoPE(q, r.Positions, s.Heads, r.Table, s.HeadDim, false); err != nil {
			return err
		}
	}
	if err := p.RoPE(k, r.Positions, s.KVHeads, r.Table, s.HeadDim, false); err != nil {
		return err
	}
	if err := p.ScatterRows(cache.K, k, cache.Slots, width); err != nil {
		return err
	}
	return p.ScatterRows(cache.V, v, cache.Slots, width)
}

// Activation is the kind of nonlinearity between gate and up.
type Activation uint8

const (
	// SiLU is x / (1 + e⁻ˣ), of Llama, Qwen and Mistral.
	SiLU Activation = iota
)

// Activate computes y = f(gate) ⊙ up; y may be one of its operands.
func (p *Parts) Activate(kind Activation, y, gate, up Buffer) error {
	if kind != SiLU {
		return ErrUnsupported
	}
	return p.SwiGLU(y, gate, up)
}
