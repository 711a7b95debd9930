package backend

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

// Linear is a projection: y = W·x for a dense W, or y = U·(s ⊙ (Vᵀ·x)) for one that
// is factored (Transformer², section 3.1). Either W is set, or the others are.
type Linear struct {
	W      Weight // [Out, In]
	U, Vt  Weight // [Out, R] and [R, In]
	Scales *Scales
}

// Projection is one output of Project.
type Projection struct {
	Linear
	// Y [N, Out] is written, or with Add added to: the residual stream. With a group of
	// devices this is where their parts are added up.
	Y   Buffer
	Add bool
	// Bias [Out] is added to each row; it may be nil.
	Bias Buffer
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
	if fused, ok := p.Backend.(NormProjector); ok {
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
	inner, err := p.ProjectKeep(in, n, all...)
	for _, b := range inner {
		p.Arena.Free(b)
	}
	return err
}

// ProjectKeep computes projections of x and returns h = Vᵀ·x [N, R] of those that are
// factored, which their gradient needs; nil for the others. On an error the arena has
// what was allocated.
func (p *Parts) ProjectKeep(x Buffer, n int, all ...Projection) ([]Buffer, error) {
	inner := make([]Buffer, len(all))
	first, second := make([]Product, 0, len(all)), make([]Product, 0, len(all))
	for i, l := range all {
		if l.W != nil {
			second = append(second, Product{Y: l.Y, X: x, W: l.W, Add: l.Add})
			continue
		}
		h, err := p.Arena.Alloc(p.Storage, n*l.Vt.Out())
		if err != nil {
			return nil, err
		}
		inner[i] = h
		first = append(first, Product{Y: h, X: x, W: l.Vt})
		second = append(second, Product{Y: l.Y, X: h, W: l.U, Scales: l.Scales, Add: l.Add})
	}
	if len(first) > 0 {
		if err := p.MatMul(n, first...); err != nil {
			return nil, err
		}
	}
	if err := p.MatMul(n, second...); err != nil {
		return nil, err
	}
	for _, l := range all {
		if l.Bias != nil {
			if err := p.AddToRows(l.Y, l.Bias, n); err != nil {
				return nil, err
			}
		}
	}
	return inner, nil
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
