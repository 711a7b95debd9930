package cpu

import (
	"fmt"

	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/backend/check"
)

// RotateStore implements backend.RotaryStorer: rotation, and writing to a cache that may
// be narrower than keys and values are.
func (b *Backend) RotateStore(r backend.Rotary, q, k, v backend.Buffer, cache backend.CacheRows) error {
	const op = "rotate and store"
	s := r.Shape
	width := s.KVHeads * s.HeadDim
	if err := check.Heads(op, s.KVHeads, s.HeadDim); err != nil {
		return err
	}
	slots, err := indices(op, "slots", cache.Slots, -1)
	if err != nil {
		return err
	}
	n := len(slots)
	args, err := operands(op, operand{"k", k, n * width}, operand{"v", v, n * width})
	if err != nil {
		return err
	}
	cached, err := sameStorage(op, operand{"the cache's keys", cache.K, -1}, operand{"the cache's values", cache.V, length(cache.K)})
	if err != nil {
		return err
	}
	const nowhere = -1
	if err := check.Rows(op, slots, nowhere, length(cache.K), width); err != nil {
		return err
	}
	if q != nil {
		if err := b.RoPE(q, r.Positions, s.Heads, r.Table, s.HeadDim, false); err != nil {
			return fmt.Errorf("%s: %w", op, err)
		}
	}
	if err := b.RoPE(k, r.Positions, s.KVHeads, r.Table, s.HeadDim, false); err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	b.pool.rows(n, 2*width, func(from, to int) {
		for i := from; i < to; i++ {
			if slots[i] == nowhere {
				continue
			}
			for j, rows := range args {
				b.copy(cached[j].row(int(slots[i]), width), elements{wide: rows[i*width:][:width]})
			}
		}
	})
	return nil
}

// row is one of c elements.
func (e elements) row(row, c int) elements {
	if e.half != nil {
		return elements{half: e.half[row*c:][:c]}
	}
	return elements{wide: e.wide[row*c:][:c]}
}
