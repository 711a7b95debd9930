package engine_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/engine"
	"github.com/transformersquared/operator/runtime/expert"
	"github.com/transformersquared/operator/runtime/model"
	"github.com/transformersquared/operator/runtime/sample"
	"github.com/transformersquared/operator/runtime/tensor"
)

// experts returns n experts that scale every decomposed matrix.
func (h *house) experts(t *testing.T, n int) []engine.Mixture {
	t.Helper()
	list := make([]engine.Mixture, n)
	for i := range list {
		list[i] = h.expert(t, uint64(i+1))
	}
	return list
}

// partial returns an expert that scales the matrices of one module only.
func (h *house) partial(t *testing.T, seed uint64, module string) engine.Mixture {
	t.Helper()
	names, err := h.dec.Select([]string{module})
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(seed, 8))
	v := expert.Adapter{Z: map[string][]float32{}, Manifest: contract.ExpertManifest{
		Digest: fmt.Sprintf("sha256:%s-%d", module, seed), DecompositionDigest: h.volume.DecompositionDigest,
	}}
	for _, name := range names {
		for range h.dec.Rank(name) {
			v.Z[name] = append(v.Z[name], float32(1+0.5*r.NormFloat64()))
		}
	}
	m, err := engine.NewMixture(expert.Weighted{Adapter: v, Alpha: 1})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// lowRank returns an expert with low-rank pairs of one module, and gains is one that
// scales outputs of k_proj and inputs of down_proj.
func (h *house) lowRank(t *testing.T, seed uint64, module string) engine.Mixture {
	t.Helper()
	r := rand.New(rand.NewPCG(seed, 9))
	random := func(rows, columns int) *tensor.Tensor {
		m := tensor.New(rows, columns)
		for i := range m.Data {
			m.Data[i] = float32(0.2 * r.NormFloat64())
		}
		return m
	}
	v := expert.Adapter{Method: expert.LoRA, Low: map[string]expert.LowRank{}, Manifest: contract.ExpertManifest{Digest: fmt.Sprintf("sha256:low-%s-%d", module, seed)}}
	for _, l := range h.base.Linears() {
		if l.Module == module {
			v.Low[l.Name] = expert.LowRank{LowRank: model.LowRank{A: random(3, l.In), B: random(l.Out, 3), Scale: 2}}
		}
	}
	return mixtureOf(t, v)
}

func (h *house) gains(t *testing.T, seed uint64) engine.Mixture {
	t.Helper()
	r := rand.New(rand.NewPCG(seed, 10))
	random := func(n int) []float32 {
		g := make([]float32, n)
		for i := range g {
			g[i] = float32(1 + 0.5*r.NormFloat64())
		}
		return g
	}
	v := expert.Adapter{
		Method: expert.IA3, In: map[string][]float32{}, Out: map[string][]float32{}, Manifest: contract.ExpertManifest{Digest: fmt.Sprintf("sha256:gains-%d", seed)},
	}
	for _, l := range h.base.Linears() {
		switch l.Module {
		case "k_proj":
			v.Out[l.Name] = random(l.Out)
		case "down_proj":
			v.In[l.Name] = random(l.In)
		}
	}
	return mixtureOf(t, v)
}

func mixtureOf(t *testing.T, v expert.Adapter) engine.Mixture {
	t.Helper()
	m, err := engine.NewMixture(expert.Weighted{Adapter: v, Alpha: 1})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// TestExpertsOfEveryMethodShareABatch wants of a batch of SVF, LoRA and IA3 experts what
// each gets alone, in one batch a step, and what its merged weights answer.
func TestExpertsOfEveryMethodShareABatch(t *testing.T) {
	h, next := gated(t, func(*engine.Options) {})
	merged := start(t, func(o *engine.Options) { o.Form = engine.FormMerged })
	mixtures := []engine.Mixture{{}, h.partial(t, 1, "up_proj"), h.lowRank(t, 1, "q_proj"), h.lowRank(t, 2, "q_proj"), h.lowRank(t, 3, "up_proj"), h.gains(t, 1)}
	h.use(t, engine.Set{Mixtures: mixtures[1:]})
	if h.Form() != engine.FormUnmerged {
		t.Fatalf("the form is %s", h.Form())
	}
	request := func(i int) engine.Request {
		return engine.Request{Prompt: []int32{5, 6, 7, int32(8 + i)}, MaxTokens: 12, Mixture: mixtures[i]}
	}
	answers, before := h.together(t, next, len(mixtures), request)
	after := h.Stats()
	if batches, steps := after.Unmerged.Batches-before.Unmerged.Batches, int64(12); batches > steps+1 {
		t.Errorf("%d batches for %d steps: the experts do not share them", batches, steps)
	}
	seen := map[string]bool{}
	for i := range mixtures {
		alone, err := h.ask(t.Context(), request(i))
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(alone.tokens, answers[i].tokens) {
			t.Errorf("expert %d answers %v in company, and %v alone", i, answers[i].tokens, alone.tokens)
		}
		other, err := merged.ask(t.Context(), request(i))
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(other.tokens, alone.tokens) {
			t.Errorf("expert %d answers %v unmerged, and %v merged", i, alone.tokens, other.tokens)
		}
		seen[fmt.Sprint(alone.tokens)] = true
	}
	if len(seen) < 4 {
		t.Errorf("%d experts give %d answers: the comparison shows little", len(mixtures), len(seen))
	}
	// One that the set does not have is merged, and one of no decomposed matrix needs none.
	if _, err := h.ask(t.Context(), engine.Request{Prompt: []int32{1}, MaxTokens: 1, Mixture: h.lowRank(t, 9, "o_proj")}); err != nil {
		t.Errorf("an expert that the set does not have: %v", err)
	}
}

// use prepares a set and takes it into use.
func (h *house) use(t *testing.T, s engine.Set) {
	t.Helper()
	if err := h.Prepare(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	h.Retain(s)
}

// gate is the text of an answer that holds up the engine's loop at its first
// token until it is opened.
type gate struct {
	engine.TextStream
	once          sync.Once
	reached, open chan struct{}
}

func (g *gate) Push(id int32) string {
	g.once.Do(func() {
		close(g.reached)
		<-g.open
	})
	return g.TextStream.Push(id)
}

// gated makes an engine whose answers can be held up: the next one's text is
// that of the gate in the pointer.
func gated(t *testing.T, change func(*engine.Options)) (*house, *atomic.Pointer[gate]) {
	t.Helper()
	var next atomic.Pointer[gate]
	return start(t, func(o *engine.Options) {
		text := o.Text
		o.Text = func() engine.TextStream {
			if g := next.Swap(nil); g != nil {
				g.TextStream = text()
				return g
			}
			return text()
		}
		change(o)
	}), &next
}

// together asks n requests that begin in the same step. before are the numbers
// of the step before, which is still to be counted.
func (h *house) together(t *testing.T, next *atomic.Pointer[gate], n int, request func(i int) engine.Request) (answers []answer, before engine.Stats) {
	t.Helper()
	var wg sync.WaitGroup
	g := &gate{reached: make(chan struct{}), open: make(chan struct{})}
	next.Store(g)
	wg.Go(func() {
		if _, err := h.ask(t.Context(), engine.Request{Prompt: []int32{1}, MaxTokens: 1}); err != nil {
			t.Errorf("the request before: %v", err)
		}
	})
	<-g.reached
	answers = make([]answer, n)
	for i := range n {
		wg.Go(func() {
			var err error
			if answers[i], err = h.ask(t.Context(), request(i)); err != nil {
				t.Errorf("request %d: %v", i, err)
			}
		})
	}
	waitFor(t, func() bool { return h.Stats().Waiting == n })
	before = h.Stats()
	close(g.open)
	wg.Wait()
	return answers, before
}

// TestEightExpertsAndTheBaseShareEachBatch wants one batch a step, the answers
// that each gets alone with all their probabilities, and nearly those
// probabilities of merged weights.
func TestEightExpertsAndTheBaseShareEachBatch(t *testing.T) {
	const tokens = 60
	firsts := map[engine.Form][]float64{}
	for _, form := range []engine.Form{engine.FormUnmerged, engine.FormMerged} {
		h, next := gated(t, func(o *engine.Options) { o.Form = form; o.StopTokens = nil })
		mixtures := append([]engine.Mixture{{}}, h.experts(t, 8)...)
		h.use(t, engine.Set{Mixtures: mixtures[1:]})
		request := func(i int) engine.Request {
			return engine.Request{
				Mixture: mixtures[i], Prompt: h.tokens(t, strings.Repeat("abc ", 1+i%3)+fmt.Sprint(i)), MaxTokens: tokens,
				Seed: uint64(i), Sampling: sample.Params{Temperature: 1}, Logprobs: 3,
			}
		}
		alone := make([]answer, len(mixtures))
		for i := range mixtures {
			var err error
			if alone[i], err = h.ask(t.Context(), request(i)); err != nil {
				t.Fatal(err)
			}
			firsts[form] = append(firsts[form], alone[i].probs[0].Value)
		}
		together, before := h.together(t, next, len(mixtures), request)
		for i, got := range together {
			if diff := cmp.Diff(alone[i].probs, got.probs); diff != "" {
				t.Errorf("%s, request %d (-alone +together):\n%s", form, i, diff)
			}
		}
		waitFor(t, func() bool { return h.Stats().Steps >= before.Steps+1+tokens })
		after := h.Stats()
		batches := map[engine.Form]int64{
			engine.FormMerged:   after.Merged.Batches - before.Merged.Batches,
			engine.FormUnmerged: after.Unmerged.Batches - before.Unmerged.Batches,
		}
		want := map[engine.Form]int64{engine.FormMerged: 0, engine.FormUnmerged: tokens}
		if form == engine.FormMerged { // Each model computes a batch of its own.
			want = map[engine.Form]int64{engine.FormMerged: tokens * int64(len(mixtures)), engine.FormUnmerged: 0}
		}
		if steps := after.Steps - before.Steps - 1; steps != tokens || !cmp.Equal(batches, want) {
			t.Errorf("%s: %v batches in %d steps, want %v in %d", form, batches, steps, want, tokens)
		}
	}
	for i, want := range firsts[engine.FormMerged] {
		if got := firsts[engine.FormUnmerged][i]; math.Abs(got-want) > 1e-3 {
			t.Errorf("request %d: the first token has log-probability %v unmerged and %v merged", i, got, want)
		}
	}
}

func TestTheSetAloneDecidesTheForm(t *testing.T) {
	everything := func(*engine.Options) {}
	// Factors as large as if the ranks were three times as high cost 2.45 times
	// what merged weights do, so that nine mixtures pay and eight do not.
	large := func(o *engine.Options) {
		rank := o.Factors.Rank
		o.Factors.Rank = func(name string) int { return 3 * rank(name) }
	}
	for name, c := range map[string]struct {
		change  func(*engine.Options)
		experts int
		set     engine.Set // Without its mixtures.
		want    engine.Form
	}{
		"no experts":                   {everything, 0, engine.Set{}, engine.FormMerged},
		"an expert beside the base":    {everything, 1, engine.Set{}, engine.FormMerged},
		"two experts":                  {everything, 2, engine.Set{}, engine.FormUnmerged},
		"several experts":              {everything, 4, engine.Set{}, engine.FormUnmerged},
		"a fixed mixture":              {everything, 4, engine.Set{Fixed: true}, engine.FormMerged},
		"seven, and costly factors":    {large, 7, engine.Set{}, engine.FormMerged},
		"eight, and costly factors":    {large, 8, engine.Set{}, engine.FormUnmerged},
		"one request a step":           {func(o *engine.Options) { o.MaxBatch = 1 }, 4, engine.Set{}, engine.FormMerged},
		"more than are kept merged":    {func(o *engine.Options) { o.MaxBatch, o.MaxComposed = 1, 3 }, 4, engine.Set{}, engine.FormUnmerged},
		"no decomposition":             {func(o *engine.Options) { o.Factors = engine.Factors{} }, 4, engine.Set{}, engine.FormMerged},
		"merged, as asked":             {func(o *engine.Options) { o.Form = engine.FormMerged }, 8, engine.Set{}, engine.FormMerged},
		"unmerged, as asked":           {func(o *engine.Options) { o.Form = engine.FormUnmerged }, 0, engine.Set{}, engine.FormUnmerged},
		"unmerged, as asked, if fixed": {func(o *engine.Options) { o.Form = engine.FormUnmerged }, 1, engine.Set{Fixed: true}, engine.FormUnmerged},
		"an expert in any blend":       {everything, 1, engine.Set{Blends: true}, engine.FormUnmerged},
		"a blend of nothing":           {everything, 0, engine.Set{Blends: true}, engine.FormMerged},
		"blends, merged as asked":      {func(o *engine.Options) { o.Form = engine.FormMerged }, 2, engine.Set{Blends: true}, engine.FormMerged},
	} {
		t.Run(name, func(t *testing.T) {
			h := start(t, c.change)
			s := c.set
			s.Mixtures = h.experts(t, c.experts)
			before := h.Form()
			if err := h.Prepare(t.Context(), s); err != nil {
				t.Fatal(err)
			}
			if h.Form() != before {
				t.Errorf("the form became %s before the set was taken into use", h.Form())
			}
			if h.Retain(s); h.Form() != c.want {
				t.Errorf("the form is %s, want %s", h.Form(), c.want)
			}
			for _, m := range append([]engine.Mixture{{}}, s.Mixtures...) {
				if _, err := h.ask(t.Context(), engine.Request{Mixture: m, Prompt: []int32{1}, MaxTokens: 1}); err != nil {
					t.Fatal(err)
				}
			}
			st := h.Stats()
			computed := map[engine.Form]int64{engine.FormMerged: st.Merged.Tokens, engine.FormUnmerged: st.Unmerged.Tokens}
			if computed[c.want] != int64(c.experts+1) || st.Merged.Tokens+st.Unmerged.Tokens != int64(c.experts+1) {
				t.Errorf("computed by form: %v, want %d tokens %s", computed, c.experts+1, c.want)
			}
		})
	}
	if _, err := engine.ParseForm("dense"); err == nil {
		t.Error("a form that does not exist was parsed")
	}
	h := start(t, nil)
	for what, o := range map[string]engine.Options{
		"an unknown form":             {Form: "dense"},
		"unmerged, without factors":   {Form: engine.FormUnmerged},
		"a negative number of models": {MaxComposed: -1},
	} {
		o.Base, o.Text = h.base, func() engine.TextStream { return h.tok.NewStream() }
		if e, err := engine.New(t.Context(), o); err == nil {
			e.Close()
			t.Errorf("%s: no error", what)
		}
	}
}

// TestAutoKeepsPass1Dense wants the very scores of merged weights from an engine
// that answers in the unmerged form, and its beginnings come from the cache.
func TestAutoKeepsPass1Dense(t *testing.T) {
	prompts := []string{"Request: what is 2+2?\nCategory:", "Request: what is 3+2?\nCategory:"}
	var scores [2][][]float64
	for i, form := range []engine.Form{engine.FormMerged, engine.FormAuto} {
		h := start(t, func(o *engine.Options) { o.Form = form; o.StopTokens = nil })
		h.use(t, engine.Set{Mixtures: h.experts(t, 3)})
		for _, text := range prompts {
			if _, err := h.ask(t.Context(), engine.Request{Prompt: h.tokens(t, text), MaxTokens: 3}); err != nil {
				t.Fatal(err)
			}
			got, err := h.Score(t.Context(), engine.ScoreRequest{Prompt: h.tokens(t, text), Labels: [][]int32{{65, 66}, {67}, {68, 69, 70}}})
			if err != nil {
				t.Fatal(err)
			}
			scores[i] = append(scores[i], got)
		}
		if st := h.Stats(); st.CachedTokens == 0 || (st.Unmerged.Tokens > 0) != (form == engine.FormAuto) || st.Merged.Tokens == 0 {
			t.Errorf("%s: %+v", form, st)
		}
	}
	if diff := cmp.Diff(scores[0], scores[1]); diff != "" {
		t.Errorf("scores (-merged +auto):\n%s", diff)
	}
}

// TestKeptPromptsBelongToTheirScales scores one prompt with changing mixtures of
// one unmerged model: the cache's keys and values of one are no other's.
func TestKeptPromptsBelongToTheirScales(t *testing.T) {
	h := start(t, func(o *engine.Options) { o.Form = engine.FormUnmerged })
	mixtures := append([]engine.Mixture{{}}, h.experts(t, 2)...)
	score := func(h *house, m engine.Mixture) []float64 {
		t.Helper()
		got, err := h.Score(t.Context(), engine.ScoreRequest{
			Mixture: m, Prompt: h.tokens(t, "Request: hello\nCategory:"), Labels: [][]int32{{65, 66}, {67, 68}},
		})
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	want := make([][]float64, len(mixtures))
	for i, m := range mixtures {
		want[i] = score(h, m)
	}
	if n := h.Stats().CachedTokens; n != 0 {
		t.Errorf("%d tokens of one mixture were taken for another", n)
	}
	for i, m := range mixtures {
		for range 2 { // The second time, the first one's beginning is cached.
			if diff := cmp.Diff(want[i], score(h, m)); diff != "" {
				t.Errorf("mixture %d (-first +again):\n%s", i, diff)
			}
		}
		for k := range i {
			if cmp.Equal(want[i], want[k]) {
				t.Errorf("mixtures %d and %d score alike: the comparison shows nothing", i, k)
			}
		}
	}
	if h.Stats().CachedTokens == 0 {
		t.Error("nothing was cached at all")
	}
}

// TestExpertsComeAndGoDuringRequests exchanges sets under load. Each answer is
// the one that its mixture has in a quiet engine.
func TestExpertsComeAndGoDuringRequests(t *testing.T) {
	h := start(t, func(o *engine.Options) {
		o.StopTokens, o.MaxBatch = nil, 8
		o.Compose = func(context.Context, engine.Mixture) (*model.Model, error) {
			return nil, errors.New("nothing needs composing in the unmerged form")
		}
	})
	experts := h.experts(t, 6)
	asked := append([]engine.Mixture{{}}, experts[:3]...)
	sets := []engine.Set{{Mixtures: experts[:3]}, {Mixtures: experts[2:5]}, {Mixtures: experts[3:]}}
	request := func(i int) engine.Request {
		return engine.Request{Mixture: asked[i], Prompt: h.tokens(t, "go on"), MaxTokens: 80, Logprobs: 1, Seed: 3, Sampling: sample.Params{Temperature: 1}}
	}
	h.use(t, sets[0])
	var want []answer
	for i := range asked {
		got, err := h.ask(t.Context(), request(i))
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, got)
	}
	done := make(chan struct{})
	var wg sync.WaitGroup
	for i := range asked {
		wg.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-done:
					if n >= 3 {
						return
					}
				default:
				}
				got, err := h.ask(t.Context(), request(i))
				if err != nil {
					t.Errorf("request of mixture %d: %v", i, err)
					return
				}
				if !cmp.Equal(want[i].probs, got.probs) {
					t.Errorf("mixture %d: another answer while sets were exchanged", i)
					return
				}
			}
		})
	}
	for i := range 30 {
		h.use(t, sets[i%len(sets)])
		added := sets[i%len(sets)].Mixtures[2]
		if _, err := h.ask(t.Context(), engine.Request{Mixture: added, Prompt: []int32{1}, MaxTokens: 2}); err != nil {
			t.Errorf("an expert that was just added: %v", err)
		}
	}
	close(done)
	wg.Wait()
	if st := h.Stats(); st.Merged.Batches != 0 || st.Unmerged.Mixtures > 3+8 {
		t.Errorf("%+v: want unmerged batches only, and few scales held", st)
	}
}

// TestFactorsAreReadOnceAndDropped follows what is in memory from set to set.
func TestFactorsAreReadOnceAndDropped(t *testing.T) {
	var mu sync.Mutex
	var read []string
	fail := true
	h := start(t, func(o *engine.Options) {
		attach := o.Factors.Attach
		o.Factors.Attach = func(ctx context.Context, m *model.Model, names []string) (*model.Model, error) {
			mu.Lock()
			defer mu.Unlock()
			if fail {
				fail = false
				return nil, errors.New("disk on fire")
			}
			read = append(read, names...)
			return attach(ctx, m, names)
		}
	})
	up := engine.Set{Mixtures: []engine.Mixture{h.partial(t, 1, "up_proj"), h.partial(t, 2, "up_proj"), h.partial(t, 3, "up_proj")}}
	all := engine.Set{Mixtures: append(h.experts(t, 2), up.Mixtures...)}
	if err := h.Prepare(t.Context(), up); err == nil || !strings.Contains(err.Error(), "disk on fire") {
		t.Errorf("got %v, want the cause", err)
	}
	if st := h.Stats(); st.Unmerged.Bytes != 0 || st.Unmerged.Mixtures != 0 {
		t.Errorf("after a failure %+v is held", st.Unmerged)
	}
	// Of an up_proj [64, 32] U, Vᵀ and σ, and of each mixture a σ⊙z; two layers.
	const factors, scales = 2 * (64 + 32 + 1) * 32 * 4, 2 * 32 * 4
	h.use(t, up)
	first := h.Stats().Unmerged
	if first.Mixtures != 3 || first.Bytes != factors+3*scales {
		t.Errorf("%+v is held, want 3 mixtures in %d bytes", first, factors+3*scales)
	}
	h.use(t, all)
	if st := h.Stats().Unmerged; st.Mixtures != 5 || st.Bytes <= first.Bytes {
		t.Errorf("of a larger set %+v is held, after %+v", st, first)
	}
	slices.Sort(read)
	if matrices := h.dec.Matrices(); len(read) != len(matrices) || len(slices.Compact(read)) != len(matrices) {
		t.Errorf("read %v, want each of %d matrices once", read, len(matrices))
	}
	h.use(t, up)
	if st := h.Stats().Unmerged; st != (engine.FormStats{Mixtures: first.Mixtures, Bytes: first.Bytes, Tokens: st.Tokens, Batches: st.Batches}) {
		t.Errorf("back in the small set %+v is held, want %+v", st, first)
	}
	if len(read) != len(h.dec.Matrices()) {
		t.Errorf("read %v: the small set's factors were there already", read)
	}
	h.use(t, engine.Set{})
	if st := h.Stats().Unmerged; st.Mixtures != 0 || st.Bytes != 0 {
		t.Errorf("%+v is held for no experts", st)
	}
}

// TestMixturesTheSetDoesNotName need not be composed, unless they scale what the
// set does not.
func TestMixturesTheSetDoesNotName(t *testing.T) {
	var mu sync.Mutex
	var composed []string
	h := start(t, func(o *engine.Options) {
		compose := o.Compose
		o.Compose = func(ctx context.Context, m engine.Mixture) (*model.Model, error) {
			mu.Lock()
			defer mu.Unlock()
			composed = append(composed, m.Key())
			return compose(ctx, m)
		}
	})
	h.use(t, engine.Set{Mixtures: []engine.Mixture{h.partial(t, 1, "up_proj"), h.partial(t, 2, "up_proj")}})
	inside, outside := h.partial(t, 9, "up_proj"), h.partial(t, 9, "down_proj")
	for _, m := range []engine.Mixture{inside, outside} {
		if _, err := h.ask(t.Context(), engine.Request{Mixture: m, Prompt: []int32{1, 2}, MaxTokens: 2}); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff([]string{outside.Key()}, composed); diff != "" {
		t.Errorf("composed (-want +got):\n%s", diff)
	}
	if st := h.Stats(); st.Merged.Mixtures != 1 || st.Unmerged.Mixtures != 3 || st.Merged.Bytes != 2*64*32*4 {
		t.Errorf("%+v", st)
	}
}
