package model

import (
	"context"
	"errors"
	"fmt"

	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/tensor"
)

// Backward takes the gradient of a loss with respect to the logits of Forward
// back through the model and returns its gradient with respect to the scale s
// of every factored projection: ds[i] = Σ over tokens of (uᵢᵀg)(vᵢᵀx), with g
// the gradient of the projection's output and x its input. It consumes the
// tape, also on an error, and the gradient's data unless it is of a wrong shape.
func (m *Model) Backward(ctx context.Context, t *Tape, dLogits *tensor.Tensor) (map[string][]float32, error) {
	if t.model != m {
		return nil, errors.New("the tape is of another model")
	}
	if t.layers == nil {
		return nil, errors.New("the tape was used or released already")
	}
	defer t.Release()
	if !dLogits.HasShape(len(t.wanted), m.config.VocabSize) {
		return nil, fmt.Errorf("the gradient has shape %v, the logits were [%d %d]", dLogits.Shape, len(t.wanted), m.config.VocabSize)
	}
	p := t.pass
	gradients := map[string][]float32{}
	dx := m.headBackward(p, t, dLogits)
	lowest := m.lowestFactored()
	for i := len(m.layers) - 1; i >= lowest; i-- {
		p.check(ctx)
		dx = m.layers[i].backward(p, m, dx, t, &t.layers[i], i > lowest, gradients)
	}
	if p.err != nil {
		return nil, fmt.Errorf("backward pass of %d tokens: %w", t.rows.n(), p.err)
	}
	return gradients, nil
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
func (m *Model) headBackward(p *pass, t *Tape, dLogits *tensor.Tensor) backend.Buffer {
	wanted := len(t.wanted)
	dOut, dNormed := p.device(dLogits.Data), p.alloc(wanted*m.hidden)
	dLogits.Data = nil
	p.do(func() error { return p.be.MatMulBackward(wanted, backend.Product{Y: dNormed, X: dOut, W: m.head}) })
	dx := p.zeros(wanted * m.hidden)
	p.do(func() error { return p.be.RMSNormBackward(dx, dNormed, t.final, m.norm, wanted, m.eps) })
	p.free(dOut, dNormed, t.final)
	return dx
}

// backward takes dx, the gradient of the layer's output, back to its input, in
// place or, where the layer picked rows, in a new buffer. Unless deeper it stops
// where no gradient is wanted below.
func (l *layer) backward(p *pass, m *Model, dx backend.Buffer, t *Tape, lt *layerTape, deeper bool, gradients map[string][]float32) backend.Buffer {
	attention := deeper
	for _, i := range []int{qProj, kProj, vProj, oProj} {
		attention = attention || l.linears[i].factored()
	}
	l.mlpBackward(p, m, dx, t.out(lt).n(), lt, attention, gradients)
	if attention {
		dx = l.attentionBackward(p, m, dx, t, lt, deeper, gradients)
	}
	lt.free(p)
	return dx
}

// back takes dy back through one projection, to dx or added to it, and files its
// gradient.
func (l *layer) back(p *pass, projection int, dx, dy backend.Buffer, n int, add bool, lt *layerTape, gradients map[string][]float32) {
	linear := l.linears[projection]
	if ds := linear.backward(p, dx, dy, lt.inner[projection], n, add); ds != nil {
		gradients[linear.info.Name] = ds
	}
}

func (l *layer) mlpBackward(p *pass, m *Model, dx backend.Buffer, n int, lt *layerTape, deeper bool, gradients map[string][]float32) {
	dActivated := p.alloc(n * m.inner)
	l.back(p, downProj, dActivated, dx, n, false, lt, gradients)
	dGate, dUp := p.alloc(n*m.inner), p.alloc(n*m.inner)
	p.do(func() error { return p.be.SwiGLUBackward(dGate, dUp, dActivated, lt.gate, lt.up) })
	var dNormed backend.Buffer
	if deeper {
		dNormed = p.alloc(n * m.hidden)
	}
	l.back(p, gateProj, dNormed, dGate, n, false, lt, gradients)
	l.back(p, upProj, dNormed, dUp, n, true, lt, gradients)
	if deeper {
		p.do(func() error { return p.be.RMSNormBackward(dx, dNormed, lt.middle, l.mlpNorm, n, m.eps) })
	}
	p.free(dActivated, dGate, dUp, dNormed)
}

func (l *layer) attentionBackward(p *pass, m *Model, dx backend.Buffer, t *Tape, lt *layerTape, deeper bool, gradients map[string][]float32) backend.Buffer {
	rows, n, all := t.out(lt), t.out(lt).n(), t.rows.n()
	dAttended := p.alloc(n * m.width())
	l.back(p, oProj, dAttended, dx, n, false, lt, gradients)
	dq, dk, dv := p.alloc(n*m.width()), p.alloc(all*m.keys), p.alloc(all*m.keys)
	p.do(func() error {
		return p.be.AttentionBackward(dq, dk, dv, dAttended, lt.attended, lt.lse, lt.q, lt.k, lt.v, rows.spans, m.attention)
	})
	p.free(dAttended)
	dq = l.turnBack(p, m, qProj, dq, rows.positions, t.table, lt)
	dk = l.turnBack(p, m, kProj, dk, t.rows.positions, t.table, lt)
	var dNormed backend.Buffer
	if deeper {
		dNormed = p.alloc(n * m.hidden)
	}
	l.back(p, qProj, dNormed, dq, n, false, lt, gradients)
	if deeper && lt.picked != nil {
		picked, dPicked := dNormed, dx
		dNormed, dx = p.spread(picked, lt.picked, all, m.hidden), p.spread(dPicked, lt.picked, all, m.hidden)
		p.free(picked, dPicked)
	}
	l.back(p, kProj, dNormed, dk, all, true, lt, gradients)
	l.back(p, vProj, dNormed, dv, all, true, lt, gradients)
	if deeper {
		p.do(func() error { return p.be.RMSNormBackward(dx, dNormed, lt.x, l.attentionNorm, all, m.eps) })
	}
	p.free(dq, dk, dv, dNormed)
	return dx
}

// turnBack takes the gradient of queries or keys back through their rotation and,
// where the family has one, their norm. It frees dy unless it returns it.
func (l *layer) turnBack(p *pass, m *Model, projection int, dy backend.Buffer, positions []int32, table backend.Buffer, lt *layerTape) backend.Buffer {
	i := projection - qProj
	n, heads := len(positions), m.heads(projection)
	p.do(func() error { return p.be.RoPE(dy, positions, heads, table, m.config.HeadDim, true) })
	gain := l.headNorms[i]
	if gain == nil {
		return dy
	}
	dPlain := p.zeros(n * heads * m.config.HeadDim)
	p.do(func() error { return p.be.RMSNormBackward(dPlain, dy, lt.plain[i], gain, n*heads, m.eps) })
	p.free(dy)
	return dPlain
}
