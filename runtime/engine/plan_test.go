package engine_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/checkpoint"
	"github.com/transformersquared/operator/runtime/engine"
	"github.com/transformersquared/operator/runtime/model"
)

// TestPlansSayWhatWouldFit plans Llama 3 8B, whose matrices have 7.5 thousand million
// elements beside an embedding and a head of half that each.
func TestPlansSayWhatWouldFit(t *testing.T) {
	const gigabyte = 1 << 30
	llama := checkpoint.Config{
		Layers: 32, HiddenSize: 4096, IntermediateSize: 14336, Heads: 32, KVHeads: 8, HeadDim: 128, VocabSize: 128256, MaxPositions: 8192,
	}
	for _, c := range []struct {
		name   string
		dtype  backend.DType
		free   int64
		fits   bool
		phrase []string
	}{
		{"a large device", backend.BF16, 80 * gigabyte, true, nil},
		{"not known", backend.F32, 0, true, nil},
		{"float32 on 24 GiB", backend.F32, 24 * gigabyte, false, []string{"dtype bf16", "are missing"}},
		{"bfloat16 on 12 GiB", backend.BF16, 12 * gigabyte, false, []string{"dtype int8"}},
		{"nothing fits", backend.Int8, gigabyte, false, []string{"no smaller setting fits"}},
		{"a shorter context", backend.BF16, 17 * gigabyte, false, []string{"a context length of"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := engine.PlanOf(llama, c.dtype, model.Storage{}, c.free, 0, 0, 0)
			err := p.Err()
			if p.Fits() != c.fits || (err == nil) != c.fits {
				t.Fatalf("fits %v, error %v", p.Fits(), err)
			}
			if err != nil && !errors.Is(err, backend.ErrDeviceMemory) {
				t.Errorf("%v is no ErrDeviceMemory", err)
			}
			for _, phrase := range c.phrase {
				if !strings.Contains(err.Error(), phrase) {
					t.Errorf("%q does not say %q", err, phrase)
				}
			}
		})
	}
	p := engine.PlanOf(llama, backend.BF16, model.Storage{}, 0, 0, 0, 0)
	if got := float64(p.Weights) / gigabyte; got < 14.9 || got > 15 {
		t.Errorf("8B weights as bfloat16 take %.2f GiB, want 14.96", got)
	}
	// A cache of as many tokens in half the memory, and steps but for what is float32 in any case.
	wide := engine.PlanOf(llama, backend.BF16, model.Storage{}, 0, 4096, 0, 20000)
	narrow := engine.PlanOf(llama, backend.BF16, model.Storage{Activations: backend.BF16, Cache: backend.BF16}, 0, 4096, 0, 20000)
	if narrow.CacheTokens != wide.CacheTokens || 2*narrow.Cache != wide.Cache || narrow.Activations >= wide.Activations || 2*narrow.Activations <= wide.Activations {
		t.Errorf("stored as bfloat16 %d tokens and a step take %d and %d bytes; as float32 %d tokens, %d and %d",
			narrow.CacheTokens, narrow.Cache, narrow.Activations, wide.CacheTokens, wide.Cache, wide.Activations)
	}
	// Where nobody says how many tokens, more of them.
	if wide, narrow := engine.PlanOf(llama, backend.BF16, model.Storage{}, 0, 0, 0, 0), engine.PlanOf(llama, backend.BF16, model.Storage{Cache: backend.BF16}, 0, 0, 0, 0); narrow.CacheTokens <= wide.CacheTokens {
		t.Errorf("a cache in bfloat16 has %d tokens, and one in float32 %d", narrow.CacheTokens, wide.CacheTokens)
	}
}
