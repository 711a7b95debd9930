package cpu

import (
	"fmt"

	"github.com/transformersquared/operator/runtime/backend"
)

// AttentionBackward implements backend.SequenceOps. A task is one sequence and
// one key-value head, because the rows of a sequence add to the same dk and dv.
func (b *Backend) AttentionBackward(dq, dk, dv, dOut, out, lse, q, k, v backend.Buffer, keys []backend.Span, s backend.AttentionShape) error {
	const op = "attention backward"
	rows, longest, err := checkSpans(op, k, v, keys, s)
	if err != nil {
		return err
	}
	groups, err := groupRows(keys)
	if err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	n, width, kvWidth := len(keys), s.Heads*s.HeadDim, s.KVHeads*s.HeadDim
	args, err := operands(op, operand{"dq", dq, n * width}, operand{"dk", dk, rows * kvWidth}, operand{"dv", dv, rows * kvWidth},
		operand{"dOut", dOut, n * width}, operand{"out", out, n * width}, operand{"lse", lse, n * s.Heads},
		operand{"q", q, n * width}, operand{"k", k, -1}, operand{"v", v, -1})
	if err != nil {
		return err
	}
	clear(args[0])
	clear(args[1])
	clear(args[2])
	g := attentionGradient{
		kernels: b.kernels, shape: s, keys: keys,
		dq: args[0], dk: args[1], dv: args[2], dOut: args[3], out: args[4], lse: args[5],
		q: args[6], k: args[7], v: args[8],
	}
	scratch := roundUp(longest, 4)
	b.pool.run(len(groups)*s.KVHeads, func(task int) {
		group := groups[task/s.KVHeads]
		g.sequence(group, task%s.KVHeads, make([]float32, scratch), make([]float32, scratch))
	})
	return nil
}

// rowRange is the half-open range of rows of one sequence.
type rowRange struct{ from, to int }

// groupRows splits rows into runs with the same First and checks that the key
// rows of different runs are disjoint, since runs are computed in parallel.
func groupRows(keys []backend.Span) ([]rowRange, error) {
	var groups []rowRange
	end := int32(0) // Where the keys of the groups so far end.
	for n := 0; n < len(keys); {
		first, last := keys[n].First, int32(0)
		from := n
		for ; n < len(keys) && keys[n].First == first; n++ {
			last = max(last, first+keys[n].Count)
		}
		if first < end {
			return nil, fmt.Errorf("row %d attends to row %d, which belongs to an earlier sequence", from, first)
		}
		end = last
		groups = append(groups, rowRange{from, n})
	}
	return groups, nil
}

type attentionGradient struct {
	kernels                             *kernels
	shape                               backend.AttentionShape
	keys                                []backend.Span
	dq, dk, dv, dOut, out, lse, q, k, v []float32
}

// sequence adds the gradients of one sequence's rows in one key-value head.
// With p the attention probabilities and D = ⟨dOut, out⟩: dvⱼ += pⱼ·dOut,
// dSⱼ = pⱼ·(⟨dOut, vⱼ⟩ − D)·scale, dq += dSⱼ·kⱼ, dkⱼ += dSⱼ·q.
func (g *attentionGradient) sequence(rows rowRange, kvHead int, p, dp []float32) {
	s := g.shape
	share, stride := s.Heads/s.KVHeads, s.KVHeads*s.HeadDim
	for n := rows.from; n < rows.to; n++ {
		count := int(g.keys[n].Count)
		offset := int(g.keys[n].First)*stride + kvHead*s.HeadDim
		for h := kvHead * share; h < (kvHead+1)*share; h++ {
			at := (n*s.Heads + h) * s.HeadDim
			q, dq := g.q[at:][:s.HeadDim], g.dq[at:][:s.HeadDim]
			dOut := g.dOut[at:][:s.HeadDim]
			along := g.kernels.dot(dOut, g.out[at:][:s.HeadDim])
			g.kernels.dots(p, q, g.k[offset:], count, stride, s.Scale)
			g.kernels.dots(dp, dOut, g.v[offset:], count, stride, 1)
			g.kernels.expShifted(p[:count], p[:count], g.lse[n*s.Heads+h])
			for j, probability := range p[:count] {
				dp[j] = probability * (dp[j] - along) * s.Scale
			}
			g.kernels.combine(dq, dp, g.k[offset:], count, stride, onePage, count)
			g.kernels.outer(g.dk[offset:], dp, q, count, stride)
			g.kernels.outer(g.dv[offset:], p, dOut, count, stride)
		}
	}
}
