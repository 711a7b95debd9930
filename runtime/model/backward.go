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
		m.layers[i].backward(p, m, dx, t, &t.layers[i], i > lowest, gradients)
	}
	if p.err != nil {
		return nil, fmt.Errorf("backward pass of %d tokens: %w", t.n, p.err)
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

// headBackward returns the gradient [n, H] of the residual stream after the last
// layer.
func (m *Model) headBackward(p *pass, t *Tape, dLogits *tensor.Tensor) backend.Buffer {
	wanted := len(t.wanted)
	dOut, dNormed := p.device(dLogits.Data), p.alloc(wanted*m.hidden)
	dLogits.Data = nil
	p.do(func() error { return p.be.MatMulBackward(dNormed, dOut, wanted, m.head, false) })
	x, dSelected := p.alloc(wanted*m.hidden), p.zeros(wanted*m.hidden)
	p.do(func() error { return p.be.SelectRows(x, t.final, t.wanted, m.hidden) })
	p.do(func() error { return p.be.RMSNormBackward(dSelected, dNormed, x, m.norm, wanted, m.eps) })
	dx := p.zeros(t.n * m.hidden)
	p.do(func() error { return p.be.ScatterRows(dx, dSelected, t.wanted, m.hidden) })
	p.free(dOut, dNormed, x, dSelected, t.final)
	return dx
}

// backward takes dx [n, H], the gradient of the layer's output, back to its
// input, in place. Unless deeper it stops where no gradient is wanted below.
func (l *layer) backward(p *pass, m *Model, dx backend.Buffer, t *Tape, lt *layerTape, deeper bool, gradients map[string][]float32) {
	attention := deeper
	for _, i := range []int{qProj, kProj, vProj, oProj} {
		attention = attention || l.linears[i].factored()
	}
	l.mlpBackward(p, m, dx, t.n, lt, attention, gradients)
	if attention {
		l.attentionBackward(p, m, dx, t, lt, deeper, gradients)
	}
	lt.free(p)
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

func (l *layer) attentionBackward(p *pass, m *Model, dx backend.Buffer, t *Tape, lt *layerTape, deeper bool, gradients map[string][]float32) {
	n, c := t.n, m.config
	dAttended := p.alloc(n * m.width())
	l.back(p, oProj, dAttended, dx, n, false, lt, gradients)
	dq, dk, dv := p.alloc(n*m.width()), p.alloc(n*m.keys), p.alloc(n*m.keys)
	p.do(func() error {
		return p.be.AttentionBackward(dq, dk, dv, dAttended, lt.attended, lt.lse, lt.q, lt.k, lt.v, t.spans, m.attention)
	})
	p.do(func() error { return p.be.RoPE(dq, t.positions, c.Heads, t.table, c.HeadDim, true) })
	p.do(func() error { return p.be.RoPE(dk, t.positions, c.KVHeads, t.table, c.HeadDim, true) })
	if l.headNorms[0] != nil {
		dRotatedQ, dRotatedK := dq, dk
		dq, dk = p.zeros(n*m.width()), p.zeros(n*m.keys)
		p.do(func() error { return p.be.RMSNormBackward(dq, dRotatedQ, lt.plainQ, l.headNorms[0], n*c.Heads, m.eps) })
		p.do(func() error {
			return p.be.RMSNormBackward(dk, dRotatedK, lt.plainK, l.headNorms[1], n*c.KVHeads, m.eps)
		})
		p.free(dRotatedQ, dRotatedK)
	}
	var dNormed backend.Buffer
	if deeper {
		dNormed = p.alloc(n * m.hidden)
	}
	l.back(p, qProj, dNormed, dq, n, false, lt, gradients)
	l.back(p, kProj, dNormed, dk, n, true, lt, gradients)
	l.back(p, vProj, dNormed, dv, n, true, lt, gradients)
	if deeper {
		p.do(func() error { return p.be.RMSNormBackward(dx, dNormed, lt.x, l.attentionNorm, n, m.eps) })
	}
	p.free(dAttended, dq, dk, dv, dNormed)
}
