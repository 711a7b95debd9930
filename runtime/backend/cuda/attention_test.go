//go:build cuda

package cuda

import (
	"errors"
	"strings"
	"testing"

	"github.com/transformersquared/operator/runtime/backend"
)

// TestAttentionIsChosenByStorageAndHeads wants the tensor cores where all operands are
// bfloat16 and heads suit them, for prefill, decode and gradients alike.
func TestAttentionIsChosenByStorageAndHeads(t *testing.T) {
	wide32, narrow := &buffer{kind: backend.F32, start: 256}, &buffer{kind: backend.BF16, start: 256}
	for _, c := range []struct {
		d        int
		operands []*buffer
		want     attentionVariants
	}{
		{64, []*buffer{narrow, narrow}, attentionVariants{tensor64, splitTensor64, ofQueriesTensor64, ofKeysTensor64, 64, true}},
		{8, []*buffer{narrow}, attentionVariants{tensor64, splitTensor64, ofQueriesTensor64, ofKeysTensor64, 64, true}},
		{72, []*buffer{narrow}, attentionVariants{tensor128, splitTensor128, ofQueriesTensor128, ofKeysTensor128, 64, true}},
		{128, []*buffer{narrow}, attentionVariants{tensor128, splitTensor128, ofQueriesTensor128, ofKeysTensor128, 64, true}},
		{128, []*buffer{wide32, narrow}, attentionVariants{plain, split, ofQueries, ofKeys, 32, false}},
		{100, []*buffer{narrow}, attentionVariants{plain, split, ofQueries, ofKeys, 32, false}},
		{136, []*buffer{narrow}, attentionVariants{wide, splitWide, ofQueriesWide, ofKeysWide, 8, false}},
	} {
		got, err := attentionFor("attention", backend.AttentionShape{Heads: 2, KVHeads: 1, HeadDim: c.d}, c.operands...)
		if err != nil || got != c.want {
			t.Errorf("heads of %d: %+v, %v; want %+v", c.d, got, err, c.want)
		}
	}
	for _, c := range []struct {
		d        int
		operand  *buffer
		complain string
	}{
		{257, narrow, "257"},
		{64, &buffer{kind: backend.BF16, start: 264}, "0x108"},
	} {
		_, err := attentionFor("attention", backend.AttentionShape{Heads: 2, KVHeads: 1, HeadDim: c.d}, c.operand)
		if !errors.Is(err, backend.ErrUnsupported) || !strings.Contains(err.Error(), c.complain) {
			t.Errorf("heads of %d at %#x: %v, want an error that names %s", c.d, uint64(c.operand.start), err, c.complain)
		}
	}
}

func TestRowsThatShareNoKeysAreAlone(t *testing.T) {
	for _, c := range []struct {
		first []int32
		want  bool
	}{
		{nil, true}, {[]int32{4}, true}, {[]int32{0, 4, 8}, true}, {[]int32{0, 4, 4}, false}, {[]int32{0, 0}, false},
	} {
		if got := alone(c.first); got != c.want {
			t.Errorf("%v: %v, want %v", c.first, got, c.want)
		}
	}
}
