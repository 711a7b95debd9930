package cpu

import (
	"fmt"
	"math"

	"github.com/transformersquared/operator/runtime/backend"
)

// RoPE implements backend.SequenceOps.
func (b *Backend) RoPE(x backend.Buffer, positions []int32, heads int, table backend.Buffer, headDim int, inverse bool) error {
	const op = "rope"
	if heads <= 0 || headDim <= 0 || headDim%2 != 0 {
		return fmt.Errorf("%s: %d heads of %d elements", op, heads, headDim)
	}
	n, half := len(positions), headDim/2
	args, err := operands(op, operand{"x", x, n * heads * headDim}, operand{"table", table, -1})
	if err != nil {
		return err
	}
	if err := checkRows(op, positions, len(args[1]), headDim); err != nil {
		return err
	}
	b.pool.rows(n, 2*heads*headDim, func(from, to int) {
		for r := from; r < to; r++ {
			angles := args[1][int(positions[r])*headDim:][:headDim]
			row := args[0][r*heads*headDim:][:heads*headDim]
			for h := range heads {
				head := row[h*headDim:][:headDim]
				// Turning (b, a) by an angle is turning (a, b) back by it.
				first, second := head[:half], head[half:]
				if inverse {
					first, second = second, first
				}
				b.kernels.rotate(first, second, angles[:half], angles[half:])
			}
		}
	})
	return nil
}

// checkAttention validates what Attention and AttentionBackward share and
// returns the number of key rows and the longest span.
func checkAttention(op string, k, v backend.Buffer, keys []backend.Span, s backend.AttentionShape) (rows, longest int, err error) {
	if s.Heads <= 0 || s.KVHeads <= 0 || s.HeadDim <= 0 || s.Heads%s.KVHeads != 0 {
		return 0, 0, fmt.Errorf("%s: %d heads on %d key-value heads of %d elements", op, s.Heads, s.KVHeads, s.HeadDim)
	}
	width := s.KVHeads * s.HeadDim
	if length(k) != length(v) || length(k)%width != 0 {
		return 0, 0, fmt.Errorf("%s: k has %d and v %d elements, in rows of %d", op, length(k), length(v), width)
	}
	rows = length(k) / width
	for n, span := range keys {
		if span.First < 0 || span.Count <= 0 || int(span.First)+int(span.Count) > rows {
			return 0, 0, fmt.Errorf("%s: row %d attends to rows %d to %d of %d", op, n, span.First, span.First+span.Count-1, rows)
		}
		longest = max(longest, int(span.Count))
	}
	return rows, longest, nil
}

// Attention implements backend.SequenceOps.
func (b *Backend) Attention(out, lse, q, k, v backend.Buffer, keys []backend.Span, s backend.AttentionShape) error {
	const op = "attention"
	_, longest, err := checkAttention(op, k, v, keys, s)
	if err != nil {
		return err
	}
	n, width := len(keys), s.Heads*s.HeadDim
	args, err := operands(op, operand{"out", out, n * width}, operand{"q", q, n * width},
		operand{"k", k, -1}, operand{"v", v, -1})
	if err != nil {
		return err
	}
	var lseData []float32
	if lse != nil {
		if lseData, err = floats("lse", lse, n*s.Heads); err != nil {
			return fmt.Errorf("%s: %w", op, err)
		}
	}
	b.pool.rows(n, 2*longest*width, func(from, to int) {
		scores := make([]float32, roundUp(longest, 4))
		for r := from; r < to; r++ {
			for h := range s.Heads {
				at := r*width + h*s.HeadDim
				l := b.attendHead(args[0][at:][:s.HeadDim], args[1][at:][:s.HeadDim], args[2], args[3], keys[r], h, s, scores)
				if lseData != nil {
					lseData[r*s.Heads+h] = l
				}
			}
		}
	})
	return nil
}

// attendHead computes one head of one row: out = softmax(scale·q·Kᵀ)·V. It
// returns log Σ e^score.
func (b *Backend) attendHead(out, q, k, v []float32, keys backend.Span, head int, s backend.AttentionShape, scores []float32) float32 {
	stride := s.KVHeads * s.HeadDim
	offset := int(keys.First)*stride + head/(s.Heads/s.KVHeads)*s.HeadDim
	count := int(keys.Count)
	b.kernels.dots(scores, q, k[offset:], count, stride, s.Scale)
	scores = scores[:count]
	top := b.kernels.maximum(scores)
	sum := b.kernels.expShifted(scores, scores, top)
	b.kernels.combine(out, scores, v[offset:], count, stride)
	inverse := 1 / sum
	for i := range out {
		out[i] *= inverse
	}
	return top + float32(math.Log(float64(sum)))
}
