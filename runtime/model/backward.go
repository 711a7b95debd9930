package model

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/transformersquared/operator/runtime/backend"
)

// Backward takes the gradient of a loss with respect to the logits of Forward, which
// the tape has by PolicyGradient or Gradient, back through the model and returns its
// gradient with respect to the parameters of every adapted projection. That of the scale
// is ds[i] = Σ over tokens of (uᵢᵀg)(vᵢᵀx), with g the gradient of the projection's
// output and x its input. It consumes the tape, also on an error.
func (m *Model) Backward(ctx context.Context, t *Tape) (map[string]Parameters, error) {
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
	lowest := m.lowestAdapted()
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

// gradients are those of all parameters, in one buffer: they come to the host together.
type gradients struct {
	all   backend.Buffer
	parts map[*linear]*gradient
	order []*linear
}

// gradient is that of one projection's parameters; what it has not is nil. That of B is
// turned, [r, Out].
type gradient struct {
	s, in, out, bias, a, bt backend.Buffer
}

// share is what one kind of a projection's parameters has of the gradients.
type share struct {
	n      int
	buffer *backend.Buffer // On the device,
	values *[]float32      // and on the host.
}

// shares lists those of a projection, in the order in which they lie.
func (l *linear) shares(g *gradient, d *Parameters) []share {
	var all []share
	if l.factored() {
		all = append(all, share{l.rank(), &g.s, &d.S})
	}
	if l.in != nil {
		all = append(all, share{l.info.In, &g.in, &d.In})
	}
	if l.out != nil {
		all = append(all, share{l.info.Out, &g.out, &d.Out})
	}
	if l.gainsBias() {
		all = append(all, share{l.info.Out, &g.bias, &d.Bias})
	}
	if l.low != nil {
		r := l.low.a.Out()
		all = append(all, share{r * l.info.In, &g.a, &d.A}, share{r * l.info.Out, &g.bt, &d.B})
	}
	return all
}

func newGradients(p *pass, m *Model) *gradients {
	g := &gradients{order: m.adapted(), parts: map[*linear]*gradient{}}
	n := 0
	for _, l := range g.order {
		for _, s := range l.shares(&gradient{}, &Parameters{}) {
			n += s.n
		}
	}
	g.all = p.allocAs(backend.F32, n)
	p.do(func() error { return p.Zero(g.all) })
	n = 0
	for _, l := range g.order {
		own := &gradient{}
		g.parts[l] = own
		for _, s := range l.shares(own, &Parameters{}) {
			p.do(func() (err error) {
				*s.buffer, err = p.Rows(g.all, 1, n, n+s.n)
				return err
			})
			n += s.n
		}
	}
	return g
}

// host returns the gradients by the names of the projections.
func (g *gradients) host(p *pass) map[string]Parameters {
	if p.err != nil {
		return nil
	}
	data := make([]float32, g.all.Len())
	p.do(func() error { return p.Download(data, g.all) })
	out := make(map[string]Parameters, len(g.order))
	for _, l := range g.order {
		var d Parameters
		for _, s := range l.shares(&gradient{}, &d) {
			*s.values, data = data[:s.n:s.n], data[s.n:]
		}
		if l.low != nil {
			d.B = transposed(d.B, l.low.a.Out(), l.info.Out)
		}
		out[l.info.Name] = d
	}
	return out
}

// lowestAdapted returns the first layer with an adapted projection, or the number of
// layers: below it no gradient is wanted.
func (m *Model) lowestAdapted() int {
	for i := range m.layers {
		for _, l := range m.layers[i].linears {
			if l.adapted() {
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
		attention = attention || l.linears[i].adapted()
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
func (l *layer) back(p *pass, projection int, dx, dy, x backend.Buffer, n int, add bool, lt *layerTape, g *gradients) {
	linear := l.linears[projection]
	linear.backward(p, g.parts[linear], dx, dy, x, lt.kept[projection], n, add)
}

// inputOf returns again what went into projections after a norm, if the gradients of one
// of them need it.
func (l *layer) inputOf(p *pass, m *Model, x, gain backend.Buffer, n int, which ...int) backend.Buffer {
	if !slices.ContainsFunc(which, func(i int) bool { return l.linears[i].needsInput() }) {
		return nil
	}
	normed := p.alloc(n * m.hidden)
	p.do(func() error { return p.RMSNorm(normed, x, gain, n, m.eps) })
	return normed
}

func (l *layer) mlpBackward(p *pass, m *Model, dx backend.Buffer, n int, lt *layerTape, deeper bool, g *gradients) {
	dActivated := p.alloc(n * m.inner)
	var activated backend.Buffer
	if l.linears[downProj].needsInput() {
		activated = p.alloc(n * m.inner)
		p.do(func() error { return p.Activate(backend.SiLU, activated, lt.gate, lt.up) })
	}
	l.back(p, downProj, dActivated, dx, activated, n, false, lt, g)
	p.free(activated)
	dGate, dUp := p.alloc(n*m.inner), p.alloc(n*m.inner)
	p.do(func() error { return p.SwiGLUBackward(dGate, dUp, dActivated, lt.gate, lt.up) })
	var dNormed backend.Buffer
	if deeper {
		dNormed = p.alloc(n * m.hidden)
	}
	normed := l.inputOf(p, m, lt.middle, l.mlpNorm, n, gateProj, upProj)
	l.back(p, gateProj, dNormed, dGate, normed, n, false, lt, g)
	l.back(p, upProj, dNormed, dUp, normed, n, true, lt, g)
	p.free(normed)
	if deeper {
		p.do(func() error { return p.RMSNormBackward(dx, dNormed, lt.middle, l.mlpNorm, n, m.eps) })
	}
	p.free(dActivated, dGate, dUp, dNormed)
}

func (l *layer) attentionBackward(p *pass, m *Model, dx backend.Buffer, t *Tape, lt *layerTape, deeper bool, g *gradients) backend.Buffer {
	rows, n, all := t.out(lt), t.out(lt).n, t.rows.n
	dAttended := p.alloc(n * m.width())
	l.back(p, oProj, dAttended, dx, lt.attended, n, false, lt, g)
	dq, dk, dv := p.alloc(n*m.width()), p.alloc(t.keys*m.keys), p.alloc(t.keys*m.keys)
	p.do(func() error {
		return p.AttentionBackward(dq, dk, dv, dAttended, lt.attended, lt.lse, lt.q, lt.k, lt.v, rows.spans, m.attention)
	})
	p.free(dAttended)
	if t.own != nil { // Those of another model are constants.
		dk, dv = p.replace(dk, t.own, m.keys), p.replace(dv, t.own, m.keys)
	}
	dq = l.turnBack(p, m, qProj, dq, rows, t.table, lt)
	dk = l.turnBack(p, m, kProj, dk, &t.rows, t.table, lt)
	var dNormed backend.Buffer
	if deeper {
		dNormed = p.alloc(n * m.hidden)
	}
	normed := l.inputOf(p, m, lt.x, l.attentionNorm, all, qProj, kProj, vProj)
	ofQueries := normed
	if normed != nil && lt.picked != nil {
		ofQueries = p.pick(normed, lt.picked, m.hidden)
	}
	l.back(p, qProj, dNormed, dq, ofQueries, n, false, lt, g)
	if deeper && lt.picked != nil {
		picked, dPicked := dNormed, dx
		dNormed, dx = p.spread(picked, lt.picked, all, m.hidden), p.spread(dPicked, lt.picked, all, m.hidden)
		p.free(picked, dPicked)
	}
	l.back(p, kProj, dNormed, dk, normed, all, true, lt, g)
	l.back(p, vProj, dNormed, dv, normed, all, true, lt, g)
	if lt.picked != nil {
		p.free(ofQueries)
	}
	p.free(normed)
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
