// Package check refuses operands of an operation that do not fit, the same for every
// backend: shapes, and lists of rows that name what is not there. Errors begin with
// the operation's name.
package check

import (
	"fmt"
	"math"
	"slices"

	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/sample"
)

// Columns returns the length of a row of a buffer of so many elements with n rows.
func Columns(op string, elements, n int) (int, error) {
	if n < 0 || (n == 0 && elements != 0) || (n > 0 && elements%n != 0) {
		return 0, fmt.Errorf("%s: %d elements do not make %d equal rows", op, elements, n)
	}
	if n == 0 {
		return 0, nil
	}
	return elements / n, nil
}

// Rows refuses rows below the lowest, or that a buffer of so many elements, in rows of
// c, does not have.
func Rows(op string, rows []int32, lowest int32, elements, c int) error {
	have := elements / c
	for _, r := range rows {
		if r < lowest || int(r) >= have {
			return fmt.Errorf("%s: row %d of a buffer with %d", op, r, have)
		}
	}
	return nil
}

// Part refuses a part of a buffer, in rows of c, that is not in it.
func Part(elements, c, from, to int) error {
	if c <= 0 || from < 0 || to < from || to > elements/c {
		return fmt.Errorf("rows: from %d to %d, of %d elements in rows of %d", from, to, elements, c)
	}
	return nil
}

// Bank refuses scales that do not make rows of so many columns.
func Bank(op string, elements, columns int) error {
	if elements == 0 || elements%columns != 0 {
		return fmt.Errorf("%s: the bank of scales has %d elements, in rows of %d", op, elements, columns)
	}
	return nil
}

// Compose refuses factors that do not make a matrix of dst's shape.
func Compose(op string, dst, u, vt backend.Weight) error {
	if dst.Out() != u.Out() || dst.In() != vt.In() || vt.Out() != u.In() {
		return fmt.Errorf("%s: [%d, %d] by [%d, %d] into [%d, %d]", op, u.Out(), u.In(), vt.Out(), vt.In(), dst.Out(), dst.In())
	}
	return nil
}

// Heads refuses heads that cannot be rotated.
func Heads(op string, heads, headDim int) error {
	if heads <= 0 || headDim <= 0 || headDim%2 != 0 {
		return fmt.Errorf("%s: %d heads of %d elements", op, heads, headDim)
	}
	return nil
}

// Shape validates the geometry of k and v, of so many elements, and returns their
// number of rows.
func Shape(op string, k, v int, s backend.AttentionShape) (rows int, err error) {
	if s.Heads <= 0 || s.KVHeads <= 0 || s.HeadDim <= 0 || s.Heads%s.KVHeads != 0 {
		return 0, fmt.Errorf("%s: %d heads on %d key-value heads of %d elements", op, s.Heads, s.KVHeads, s.HeadDim)
	}
	width := s.KVHeads * s.HeadDim
	if k != v || k%width != 0 {
		return 0, fmt.Errorf("%s: k has %d and v %d elements, in rows of %d", op, k, v, width)
	}
	return k / width, nil
}

// Spans validates what rows attend to, among so many rows of keys, and returns the
// longest run. There are as many first keys as counts.
func Spans(op string, firsts, counts []int32, rows int) (longest int, err error) {
	for n, count := range counts {
		first := firsts[n]
		if first < 0 || count <= 0 || int(first)+int(count) > rows {
			return 0, fmt.Errorf("%s: row %d attends to rows %d to %d of %d", op, n, first, first+count-1, rows)
		}
		longest = max(longest, int(count))
	}
	return longest, nil
}

// Interval is what is from one to before another.
type Interval struct{ From, To int }

// Groups splits rows into runs with the same first key, one a sequence, and checks that
// the keys of different runs are disjoint, since runs are computed in parallel.
func Groups(op string, firsts, counts []int32) ([]Interval, error) {
	var groups []Interval
	end := int32(0) // Where the keys of the groups so far end.
	for n := 0; n < len(firsts); {
		first, last := firsts[n], int32(0)
		from := n
		for ; n < len(firsts) && firsts[n] == first; n++ {
			last = max(last, first+counts[n])
		}
		if first < end {
			return nil, fmt.Errorf("%s: row %d attends to row %d, which belongs to an earlier sequence", op, from, first)
		}
		end = last
		groups = append(groups, Interval{from, n})
	}
	return groups, nil
}

// Paged is Spans for blocks.
func Paged(op string, blocks, firsts, counts []int32, blockSize, rows int) (longest int, err error) {
	if blockSize <= 0 || blockSize%backend.BlockMultiple != 0 {
		return 0, fmt.Errorf("%s: blocks of %d rows, which is no multiple of %d", op, blockSize, backend.BlockMultiple)
	}
	for n, count := range counts {
		if firsts[n] < 0 || int(firsts[n]) > len(blocks) {
			return 0, fmt.Errorf("%s: the table of row %d begins at %d of %d blocks", op, n, firsts[n], len(blocks))
		}
		table := blocks[firsts[n]:]
		if count <= 0 || int(count) > len(table)*blockSize {
			return 0, fmt.Errorf("%s: row %d attends to %d rows in %d blocks of %d", op, n, count, len(table), blockSize)
		}
		for left, i := int(count), 0; left > 0; left, i = left-blockSize, i+1 {
			if block := table[i]; block < 0 || int(block)*blockSize+min(left, blockSize) > rows {
				return 0, fmt.Errorf("%s: row %d attends to block %d, of %d rows in blocks of %d", op, n, block, rows, blockSize)
			}
		}
		longest = max(longest, int(count))
	}
	return longest, nil
}

// Most returns the bound of the longest run of keys: most, which no row may exceed, or the
// run itself where most is 0.
func Most(op string, longest, most int) (int, error) {
	if most == 0 {
		return longest, nil
	}
	if longest > most {
		return 0, fmt.Errorf("%s: a row attends to %d rows, and %d is the most", op, longest, most)
	}
	return most, nil
}

// Asks refuses questions about a row or a token that is not there.
func Asks(op string, asks []backend.Ask, n, vocabulary int) error {
	for i, a := range asks {
		if err := ask(a, n, vocabulary); err != nil {
			return fmt.Errorf("%s: ask %d: %w", op, i, err)
		}
	}
	return nil
}

func ask(a backend.Ask, n, vocabulary int) error {
	if a.Row < 0 || a.Row >= n {
		return fmt.Errorf("row %d of %d", a.Row, n)
	}
	if err := tokens(a.Scores, vocabulary); err != nil || a.Draw == nil {
		return err
	}
	if err := tokens(a.Draw.Repeated, vocabulary); err != nil {
		return err
	}
	for _, list := range [...][]sample.Adjustment{a.Draw.Bias, a.Draw.Penalties} {
		for i := range list {
			if err := token(list[i].Token, vocabulary); err != nil {
				return err
			}
		}
	}
	return nil
}

func tokens(list []int32, vocabulary int) error {
	for _, t := range list {
		if err := token(t, vocabulary); err != nil {
			return err
		}
	}
	return nil
}

func token(t int32, vocabulary int) error {
	if t < 0 || int(t) >= vocabulary {
		return fmt.Errorf("token %d of %d", t, vocabulary)
	}
	return nil
}

// Positions refuses tokens that are not there, and a divergence from nothing.
func Positions(op string, positions []backend.Position, vocabulary int, based bool, klWeight float64) error {
	if !based && klWeight != 0 {
		return fmt.Errorf("%s: a weight of the divergence, and nothing to diverge from", op)
	}
	for i, p := range positions {
		if err := token(p.Token, vocabulary); err != nil {
			return fmt.Errorf("%s: %w at position %d", op, err, i)
		}
	}
	return nil
}

// Fits returns the index of the first element of a matrix that a type cannot hold, or
// −1: what is not finite, or is not any more as bfloat16, and for blocks of int8
// magnitudes from 2¹²⁷ on.
func Fits(t backend.DType, data []float32) int {
	const magnitude = 1<<31 - 1
	var limit uint32
	switch t {
	case backend.BF16:
		limit = 0x7f7f8000 // Half-way from the last number to infinity.
	case backend.Int8:
		limit = 0x7f000000 // 2¹²⁷, whose scale is below it, times 127, even if rounded up.
	default:
		return -1
	}
	return slices.IndexFunc(data, func(v float32) bool { return math.Float32bits(v)&magnitude >= limit })
}

// Unfit says which element it was, of a matrix [out, in].
func Unfit(op string, t backend.DType, out, in, row, column int, v float32) error {
	return fmt.Errorf("%s [%d, %d] of type %s: element [%d, %d] is %v, which the type cannot hold", op, out, in, t, row, column, v)
}
