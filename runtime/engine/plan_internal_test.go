package engine

import (
	"testing"

	"github.com/transformersquared/operator/runtime/checkpoint"
	"github.com/transformersquared/operator/runtime/host"
)

// TestWhatIsMissingIsEnough adds to memory what an error says is missing: then it fits, and
// with a little less it does not.
func TestWhatIsMissingIsEnough(t *testing.T) {
	config := checkpoint.Config{
		Layers: 5, HiddenSize: 128, IntermediateSize: 384, Heads: 4, KVHeads: 2, HeadDim: 32, VocabSize: 768, MaxPositions: 2048,
	}
	plan := func(bytes int64, w Wish, own bool) Plan {
		w.Memory.Host = host.Limit{Bytes: bytes, Source: "the limit", Own: own}
		return PlanOf(config, w)
	}
	tried := 0
	for name, w := range map[string]Wish{
		"bare":         {},
		"experts":      {Experts: true, Body: 192 << 10},
		"large bodies": {Experts: true, Body: 64 << 20},
		"a cache":      {Experts: true, Body: 192 << 10, CacheBytes: 1 << 30},
		"unmerged":     {Experts: true, Form: FormUnmerged},
	} {
		for limit := int64(1 << 20); limit < 1<<30; limit *= 2 {
			for _, own := range []bool{true, false} {
				p := plan(limit, w, own)
				if p.Fits() {
					continue
				}
				tried++
				enough := p.enough()
				if got := plan(enough.Needs(), w, true); !got.Fits() {
					t.Errorf("%s: of %d bytes %d more would do, and do not: %v", name, limit, enough.Needs()-p.limit(), got.Err())
				}
				if less := enough.Needs() - 64<<10; plan(less, w, true).Fits() {
					t.Errorf("%s: of %d bytes %d more are missing, and %d do", name, limit, enough.Needs()-p.limit(), less-p.limit())
				}
			}
		}
	}
	if tried < 30 {
		t.Errorf("%d plans did not fit", tried)
	}
}
