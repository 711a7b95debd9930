//go:build cuda

package cuda

import (
	"fmt"

	"github.com/transformersquared/operator/runtime/backend"
)

// attentionVariants are which kernels compute attention. The choice depends on how
// operands are stored and on the width of heads, never on rows: the kernels for the
// tensor cores add up in an order of their own, and a row of a prompt is to have the
// bits that it has alone.
type attentionVariants struct {
	rows, split   variant
	queries, keys variant // Of the gradient.
	pairs         int     // Rows by heads that a block of rows has.
	tensor        bool    // For the tensor cores.
}

// gradientGrids are the grids of the gradients of n rows of queries, and of rows of keys.
func (a *attentionVariants) gradientGrids(n, rows int, s backend.AttentionShape) (queries, keys [3]int) {
	const headsOfBlock, keysOfBlock, keysOfTensorBlock = 4, 16, 64
	if a.tensor {
		return attentionGrid(n, a.pairs, s), [3]int{(rows + keysOfTensorBlock - 1) / keysOfTensorBlock, s.KVHeads, 1}
	}
	return [3]int{n, (s.Heads + headsOfBlock - 1) / headsOfBlock, 1}, [3]int{(rows + keysOfBlock - 1) / keysOfBlock, s.KVHeads, 1}
}

// The widest heads of the kernels, and of their variants for wide ones.
const (
	widest     = 128
	widestWide = 256
)

// attentionFor chooses the variants for operands that are activations, or keys and values.
func attentionFor(op string, s backend.AttentionShape, operands ...*buffer) (attentionVariants, error) {
	const pairs, widePairs, tensorPairs = 32, 8, 64
	const vector, narrowTensor = 8, 64 // Elements that are loaded together; the heads that a smaller tile has place for.
	switch {
	case s.HeadDim > widestWide:
		return attentionVariants{}, fmt.Errorf("%s: heads of %d elements, which may be %d at most: %w", op, s.HeadDim, widestWide, backend.ErrUnsupported)
	case s.HeadDim > widest:
		return attentionVariants{rows: wide, split: splitWide, queries: ofQueriesWide, keys: ofKeysWide, pairs: widePairs}, nil
	}
	tensor := s.HeadDim%vector == 0
	for _, b := range operands {
		tensor = tensor && b.kind == backend.BF16
	}
	if !tensor {
		return attentionVariants{rows: plain, split: split, queries: ofQueries, keys: ofKeys, pairs: pairs}, nil
	}
	for _, b := range operands {
		if b.start%(vector*2) != 0 {
			return attentionVariants{}, fmt.Errorf("%s: an operand begins at %#x, which must be a multiple of %d: take a part of it at whole rows: %w",
				op, uint64(b.start), vector*2, backend.ErrUnsupported)
		}
	}
	if s.HeadDim > narrowTensor {
		return attentionVariants{rows: tensor128, split: splitTensor128, queries: ofQueriesTensor128, keys: ofKeysTensor128, pairs: tensorPairs, tensor: true}, nil
	}
	return attentionVariants{rows: tensor64, split: splitTensor64, queries: ofQueriesTensor64, keys: ofKeysTensor64, pairs: tensorPairs, tensor: true}, nil
}

// alone reports whether no rows that lie behind each other have the same keys, as in a
// decode step: a block of rows would go through the keys of each by themselves.
func alone(first []int32) bool {
	for i := 1; i < len(first); i++ {
		if first[i] == first[i-1] {
			return false
		}
	}
	return true
}
