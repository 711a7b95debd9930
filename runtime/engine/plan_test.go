package engine_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/checkpoint"
	"github.com/transformersquared/operator/runtime/engine"
	"github.com/transformersquared/operator/runtime/host"
	"github.com/transformersquared/operator/runtime/model"
)

// TestPlansSayWhatWouldFit plans Llama 3 8B, whose matrices have 7.5 thousand million
// elements beside an embedding and a head of half that each.
func TestPlansSayWhatWouldFit(t *testing.T) {
	const gigabyte = 1 << 30
	llama := checkpoint.Config{
		Layers: 32, HiddenSize: 4096, IntermediateSize: 14336, Heads: 32, KVHeads: 8, HeadDim: 128, VocabSize: 128256, MaxPositions: 8192,
	}
	const process = 142 << 20 // Of its vocabulary.
	for _, c := range []struct {
		name   string
		dtype  backend.DType
		memory engine.Memory
		change func(*engine.Wish)
		phrase []string // Of an error; none where it fits.
	}{
		{"a large device", backend.BF16, engine.Memory{Device: 80 * gigabyte}, nil, nil},
		{"not known", backend.F32, engine.Memory{}, nil, nil},
		{"float32 on 24 GiB", backend.F32, engine.Memory{Device: 24 * gigabyte}, nil, []string{"dtype bf16", "are missing"}},
		{"bfloat16 on 12 GiB", backend.BF16, engine.Memory{Device: 12 * gigabyte}, nil, []string{"dtype int8"}},
		{"nothing fits", backend.Int8, engine.Memory{Device: gigabyte}, nil, []string{"no smaller setting fits"}},
		{"a shorter context", backend.BF16, engine.Memory{Device: 17 * gigabyte}, nil, []string{"a context length of"}},
		{"a container of 18 GiB", backend.BF16, engine.Memory{Host: host.Limit{Bytes: 18 * gigabyte, Source: "the limit", Own: true}}, nil, nil},
		{"a machine of 18 GiB", backend.BF16, engine.Memory{Host: host.Limit{Bytes: 18 * gigabyte, Source: "the machine's memory"}}, nil,
			[]string{"three quarters of the machine's memory is 13.5 GiB", "dtype int8", "the process 1"}},
		{"experts, too", backend.BF16, engine.Memory{Host: host.Limit{Bytes: 18 * gigabyte, Source: "the limit", Own: true}},
			func(w *engine.Wish) { w.Experts = true }, []string{"one mixture merged 13.0 GiB, all unmerged 18.1 GiB", "the limit is 18.0 GiB", "dtype int8"}},
		{"all unmerged", backend.BF16, engine.Memory{Host: host.Limit{Bytes: 34 * gigabyte, Source: "the limit", Own: true}},
			func(w *engine.Wish) { w.Experts, w.Form = true, engine.FormUnmerged }, []string{"experts at least 18.1 GiB"}},
		{"one merged", backend.BF16, engine.Memory{Host: host.Limit{Bytes: 34 * gigabyte, Source: "the limit", Own: true}},
			func(w *engine.Wish) { w.Experts = true }, nil},
		{"a large cache", backend.BF16, engine.Memory{Host: host.Limit{Bytes: 34 * gigabyte, Source: "the limit", Own: true}},
			func(w *engine.Wish) { w.CacheBytes = 40 * gigabyte }, []string{"as f32 40.0 GiB", "GiB would fit"}},
		{"a device, and a small container", backend.BF16, engine.Memory{Device: 80 * gigabyte, Host: host.Limit{Bytes: process / 2, Source: "the limit", Own: true}},
			nil, []string{"beside the device's memory", "the limit has 71.0 MiB"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := engine.Wish{DType: c.dtype, Memory: c.memory}
			if c.change != nil {
				c.change(&w)
			}
			p := engine.PlanOf(llama, w)
			err := p.Err()
			if fits := c.phrase == nil; p.Fits() != fits || (err == nil) != fits {
				t.Fatalf("fits %v, error %v", p.Fits(), err)
			}
			kind := backend.ErrDeviceMemory
			if c.memory.Host.Bytes > 0 {
				kind = host.ErrMemory
			}
			if err != nil && !errors.Is(err, kind) {
				t.Errorf("%q is not %q", err, kind)
			}
			for _, phrase := range c.phrase {
				if !strings.Contains(err.Error(), phrase) {
					t.Errorf("%q does not say %q", err, phrase)
				}
			}
		})
	}
	p := engine.PlanOf(llama, engine.Wish{DType: backend.BF16})
	if got := float64(p.Weights) / gigabyte; got < 14.9 || got > 15 {
		t.Errorf("8B weights as bfloat16 take %.2f GiB, want 14.96", got)
	}
	// Reading the model: its head as float32, less what is read after it; or two of its
	// largest matrices.
	if got, want := engine.PlanOf(checkpoint.Config{
		Layers: 2, HiddenSize: 2048, IntermediateSize: 8192, Heads: 32, KVHeads: 8, HeadDim: 64, VocabSize: 128256, MaxPositions: 2048, TieEmbeddings: true,
	}, engine.Wish{DType: backend.BF16}).Loading, int64(4*128256*2048-2*2*(2*2048*2048+2*512*2048+3*8192*2048)); got != want {
		t.Errorf("reading a wide vocabulary takes %d bytes, want %d", got, want)
	}
	if got := p.Loading; got != 2*4*4096*14336 {
		t.Errorf("reading 8B takes %d bytes", got)
	}
	// A cache of as many tokens in half the memory, and steps but for what is float32 in any case.
	half := model.Storage{Activations: backend.BF16, Cache: backend.BF16}
	wide := engine.PlanOf(llama, engine.Wish{DType: backend.BF16, ContextLength: 4096, CacheTokens: 20000})
	narrow := engine.PlanOf(llama, engine.Wish{DType: backend.BF16, ContextLength: 4096, CacheTokens: 20000, Storage: half})
	if narrow.CacheTokens != wide.CacheTokens || 2*narrow.Cache != wide.Cache || narrow.Activations >= wide.Activations || 2*narrow.Activations <= wide.Activations {
		t.Errorf("stored as bfloat16 %d tokens and a step take %d and %d bytes; as float32 %d tokens, %d and %d",
			narrow.CacheTokens, narrow.Cache, narrow.Activations, wide.CacheTokens, wide.Cache, wide.Activations)
	}
	// Where nobody says how many tokens, more of them.
	wide, narrow = engine.PlanOf(llama, engine.Wish{DType: backend.BF16}), engine.PlanOf(llama, engine.Wish{DType: backend.BF16, Storage: model.Storage{Cache: backend.BF16}})
	if narrow.CacheTokens <= wide.CacheTokens {
		t.Errorf("a cache in bfloat16 has %d tokens, and one in float32 %d", narrow.CacheTokens, wide.CacheTokens)
	}
}

// Whatever the limit, a plan that fits takes no more than it, and what is left over goes to
// the cache, until a full batch has all it can use, and to experts.
func TestPlansDivideALimit(t *testing.T) {
	small := checkpoint.Config{
		Layers: 30, HiddenSize: 576, IntermediateSize: 1536, Heads: 9, KVHeads: 3, HeadDim: 64, VocabSize: 49152, MaxPositions: 2048, TieEmbeddings: true,
	}
	const body = 196608
	fitted, before := 0, engine.Plan{}
	for limit := int64(64 << 20); limit < 64<<30; limit += limit / 8 {
		for _, form := range []engine.Form{engine.FormAuto, engine.FormMerged, engine.FormUnmerged} {
			p := engine.PlanOf(small, engine.Wish{
				Experts: true, Form: form, Body: body, Memory: engine.Memory{Host: host.Limit{Bytes: limit, Source: "the limit", Own: true}},
			})
			if p.CacheTokens < small.MaxPositions || p.Bodies < 4*body {
				t.Fatalf("%d bytes: a cache of %d tokens, bodies of %d bytes", limit, p.CacheTokens, p.Bodies)
			}
			if err := p.Err(); err != nil {
				if form == engine.FormAuto && fitted > 0 {
					t.Fatalf("%d bytes do not fit, and fewer did: %v", limit, err)
				}
				continue
			}
			if sum := p.Total() + p.Experts + p.Swap + 3*p.Bodies + p.Process; sum > limit {
				t.Fatalf("%d bytes are divided into %d: %+v", limit, sum, p)
			}
			if p.Heap()+p.Outside() > limit || p.Heap() < p.Process {
				t.Fatalf("%d bytes: a heap of %d beside %d: %+v", limit, p.Heap(), p.Outside(), p)
			}
			if form == engine.FormMerged && p.MergedFit() == 0 || form == engine.FormUnmerged && !p.UnmergedFits() || p.MergedFit() == 0 && !p.UnmergedFits() {
				t.Fatalf("%d bytes, %s: %d merged mixtures fit, unmerged %v", limit, form, p.MergedFit(), p.UnmergedFits())
			}
			if form == engine.FormAuto {
				if fitted > 0 && (p.CacheTokens < before.CacheTokens || p.MergedFit() < before.MergedFit()) {
					t.Errorf("%d bytes: a cache of %d tokens and %d mixtures, of less memory %d and %d",
						limit, p.CacheTokens, p.MergedFit(), before.CacheTokens, before.MergedFit())
				}
				fitted, before = fitted+1, p
			}
		}
	}
	if full := 17*small.MaxPositions + 48*2*32; fitted < 30 || before.CacheTokens != full {
		t.Errorf("%d limits fit; the largest has a cache of %d tokens, want %d", fitted, before.CacheTokens, full)
	}
}

// Reading a model needs its memory beside the weights, whatever is served then.
func TestLoadingCounts(t *testing.T) {
	wide := checkpoint.Config{Layers: 1, HiddenSize: 64, IntermediateSize: 64, Heads: 1, KVHeads: 1, HeadDim: 64, VocabSize: 4 << 20, MaxPositions: 256, TieEmbeddings: true}
	w := engine.Wish{DType: backend.Int8, MaxBatch: 1, Memory: engine.Memory{Host: host.Limit{Bytes: 1 << 40, Own: true}}}
	p := engine.PlanOf(wide, w)
	if p.Loading < 1<<30-1<<20 || p.Needs() < p.Weights+p.Process+p.Loading {
		t.Fatalf("%+v needs %d", p, p.Needs())
	}
	w.Memory.Host.Bytes = p.Weights + p.Process + p.Loading - 1
	if p = engine.PlanOf(wide, w); p.Fits() || !strings.Contains(p.Err().Error(), "reading them 1024.0 MiB") {
		t.Errorf("a byte too little for reading: fits %v, %v", p.Fits(), p.Err())
	}
	if p.LoadingHeap() < p.Process+p.Loading {
		t.Errorf("while it is read the heap may have %d bytes, of %d that reading takes", p.LoadingHeap(), p.Process+p.Loading)
	}
}
