//go:build cuda

package cuda

import (
	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/backend/cpu"
)

// INTERIM: on the host until heads.cu is there.

// Decide implements backend.HeadOps.
func (b *Backend) Decide(logits backend.Buffer, n int, asks []backend.Ask) ([]backend.Answer, error) {
	data := make([]float32, length(logits))
	if err := b.Download(data, logits); err != nil {
		return nil, err
	}
	c, err := cpu.New(1)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	buf, _ := c.Give(data)
	return c.Decide(buf, n, asks)
}

// PolicyGradient implements backend.HeadOps.
func (b *Backend) PolicyGradient(logits, base backend.Buffer, positions []backend.Position, klWeight, scale float64) ([]backend.Loss, error) {
	data := make([]float32, length(logits))
	if err := b.Download(data, logits); err != nil {
		return nil, err
	}
	c, err := cpu.New(1)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	buf, _ := c.Give(data)
	var other backend.Buffer
	if base != nil {
		pi := make([]float32, base.Len())
		if err := b.Download(pi, base); err != nil {
			return nil, err
		}
		other, _ = c.Give(pi)
	}
	losses, err := c.PolicyGradient(buf, other, positions, klWeight, scale)
	if err != nil {
		return nil, err
	}
	return losses, b.Upload(logits, data)
}
