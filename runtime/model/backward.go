package model

import (
	"context"
	"errors"
	"fmt"

	"github.com/transformersquared/operator/runtime/backend"
)

// Backward takes the gradient of a loss with respect to the logits of Forward, which
// the tape has by PolicyGradient or Gradient,
// back through the model and returns its gradient with respect to the scale s
// of every factored projection: ds[i] = Σ over tokens of (uᵢᵀg)(vᵢᵀx), with g
// the gradient of the projection's output and x its input. It consumes the
// tape, also on an error.
func (m *Model) Backward(ctx context.Context, t *Tape) (map[string][]float32, error) {
	if t.model != m {
		return nil, errors.New("the tape is of another model")
	}
	if t.layers == nil {
		return nil, errors.New("the tape was used or released already")
	}
	defer t.Release()
	if !t.turned {
		return nil, errors.New("the tape has logits, and no gradient of a loss with respect to them")
	}
	p := t.pass
	g := newGradients(p, m)
	dx := m.headBackward(p, t)
	lowest := m.lowestFactored()
	for i := len(m.layers) - 1; i >= lowest; i-- {
		p.check(ctx)
		dx = m.layers[i].backward(p, m, dx, t, &t.layers[i], i > lowest, g)
	}
	out := g.host(p)
	if p.err != nil {
		return nil, fmt.Errorf("backward pass of %d tokens: %w", t.rows.n, p.err)
	}
	return out, nil
}

// gradients are those of all scales, in one buffer: they come to the host together.
type gradients struct {
	all   backend.Buffer
	parts map[*linear]backend.Buffer // [R] of it.
	order []*linear
}

func newGradients(p *pass, m *Model) *gradients {
	g := &gradients{order: m.factored(), parts: map[*linear]backend.Buffer{}}
	n := 0
	for _, l := range g.order {
		n += l.rank()
	}
	g.all = p.allocAs(backend.F32, n)
	p.do(func() error { return p.Zero(g.all) })
	n = 0
	for _, l := range g.order {
		p.do(func() (err error) {
			g.parts[l], err = p.Rows(g.all, 1, n, n+l.rank())
			return err
		})
		n += l.rank()
	}
	return g
}

// host returns the gradients by the names of the projections.
func (g *gradients) host(p *pass) map[string][]float32 {
	if p.err != nil {
		return nil
	}
	data := make([]float32, g.all.Len())
	p.do(func() error { return p.Download(data, g.all) })
	out := make(map[string][]float32, len(g.order))
	for _, l := range g.order {
		out[l.info.Name] = data[:l.rank():l.rank()]
		data = data[l.rank():]
	}
	return out
}

// lowestFactored returns the first layer with a factored projection, or the
// number of layers: below it no gradient is wanted.
func (m *Model) lowestFactored() int {
	for i := range m.layers {
		for _, l := range m.layers[i].linears {
			if l.factored() {
				return i
			}
		}
	}
	return len(m.layers)
}

// headBackward returns the gradient of the wanted rows after the last layer.
func (m *Model) headBackward(p *pass, t *Tape) backend.Buffer {
	wanted := t.ends.n
	dNormed := p.alloc(wanted * m.hidden)
	p.do(func() error {
		return p.MatMulBackward(wanted, backend.Product{Y: dNormed, X: t.logits, W: m.head})
	})
	dx := p.zeros(wanted * m.hidden)
	p.do(func() error { return p.RMSNormBackward(dx, dNormed, t.final, m.norm, wanted, m.eps) })
	p.free(t.logits, dNormed, t.final)
	t.logits = nil
	return dx
}

// backward takes dx, the gradient of the layer's output, back to its input, in
// place or, where the layer picked rows, in a new buffer. Unless deeper it stops
// where no gradient is wanted below.
func (l *layer) backward(p *pass, m *Model, dx backend.Buffer, t *Tape, lt *layerTape, deeper bool, g *gradients) backend.Buffer {
	attention := deeper
	for _, i := range []int{qProj, kProj, vProj, oProj} {
		attention = attention || l.linears[i].factored()
	}
	l.mlpBackward(p, m, dx, t.out(lt).n, lt, attention, g)
	if attention {
		dx = l.attentionBackward(p, m, dx, t, lt, deeper, g)
	}
	lt.free(p)
	return dx
}

// back takes dy back through one projection, to dx or added to it, and files its
// gradient.
func (l *layer) back(p *pass, projection int, dx, dy backend.Buffer, n int, add bool, lt *layerTape, g *gradients) {
	linear := l.linears[projection]
	linear.backward(p, g.parts[linear], dx, dy, lt.inner[projection], n, add)
}

func (l *layer) mlpBackward(p *pass, m *Model, dx backend.Buffer, n int, lt *layerTape, deeper bool, g *gradients) {
	dActivated := p.alloc(n * m.inner)
	l.back(p, downProj, dActivated, dx, n, false, lt, g)
	dGate, dUp := p.alloc(n*m.inner), p.alloc(n*m.inner)
	p.do(func() error { return p.SwiGLUBackward(dGate, dUp, dActivated, lt.gate, lt.up) })
	var dNormed backend.Buffer
	if deeper {
		dNormed = p.alloc(n * m.hidden)
	}
	l.back(p, gateProj, dNormed, dGate, n, false, lt, g)
	l.back(p, upProj, dNormed, dUp, n, true, lt, g)
	if deeper {
		p.do(func() error { return p.RMSNormBackward(dx, dNormed, lt.middle, l.mlpNorm, n, m.eps) })
	}
	p.free(dActivated, dGate, dUp, dNormed)
}

func (l *layer) attentionBackward(p *pass, m *Model, dx backend.Buffer, t *Tape, lt *layerTape, deeper bool, g *gradients) backend.Buffer {
	rows, n, all := t.out(lt), t.out(lt).n, t.rows.n
	dAttended := p.alloc(n * m.width())
	l.back(p, oProj, dAttended, dx, n, false, lt, g)
	dq, dk, dv := p.alloc(n*m.width()), p.alloc(all*m.keys), p.alloc(all*m.keys)
	p.do(func() error {
		return p.AttentionBackward(dq, dk, dv, dAttended, lt.attended, lt.lse, lt.q, lt.k, lt.v, rows.spans, m.attention)
	})
	p.free(dAttended)
	dq = l.turnBack(p, m, qProj, dq, rows, t.table, lt)
	dk = l.turnBack(p, m, kProj, dk, &t.rows, t.table, lt)
	var dNormed backend.Buffer
	if deeper {
		dNormed = p.alloc(n * m.hidden)
	}
	l.back(p, qProj, dNormed, dq, n, false, lt, g)
	if deeper && lt.picked != nil {
		picked, dPicked := dNormed, dx
		dNormed, dx = p.spread(picked, lt.picked, all, m.hidden), p.spread(dPicked, lt.picked, all, m.hidden)
		p.free(picked, dPicked)
	}
	l.back(p, kProj, dNormed, dk, all, true, lt, g)
	l.back(p, vProj, dNormed, dv, all, true, lt, g)
	if deeper {
		p.do(func() error { return p.RMSNormBackward(dx, dNormed, lt.x, l.attentionNorm, all, m.eps) })
	}
	p.free(dq, dk, dv, dNormed)
	return dx
}

// turnBack takes the gradient of queries or keys back through their rotation and,
// where the family has one, their norm. It frees dy unless it returns it.
func (l *layer) turnBack(p *pass, m *Model, projection int, dy backend.Buffer, rows *trainRows, table backend.Buffer, lt *layerTape) backend.Buffer {
	i := projection - qProj
	n, heads := rows.n, m.heads(projection)
	p.do(func() error { return p.RoPE(dy, rows.positions, heads, table, m.config.HeadDim, true) })
	gain := l.headNorms[i]
	if gain == nil {
		return dy
	}
	dPlain := p.zeros(n * heads * m.config.HeadDim)
	p.do(func() error { return p.RMSNormBackward(dPlain, dy, lt.plain[i], gain, n*heads, m.eps) })
	p.free(dy)
	return dPlain
}
