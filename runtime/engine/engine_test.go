package engine_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/backend/registry/registrytest"
	"github.com/transformersquared/operator/runtime/engine"
	"github.com/transformersquared/operator/runtime/engine/enginetest"
	"github.com/transformersquared/operator/runtime/expert"
	"github.com/transformersquared/operator/runtime/model"
	"github.com/transformersquared/operator/runtime/sample"
	"github.com/transformersquared/operator/runtime/tokenizer"
)

// house is a running engine and what it was made of.
type house struct {
	*engine.Engine
	volume *enginetest.Volume
	base   *model.Model
	dec    *expert.Decomposition
	tok    *tokenizer.Tokenizer
}

func start(t *testing.T, change func(*engine.Options), options ...model.Option) *house {
	t.Helper()
	return startOn(t, enginetest.New(t), change, options...)
}

func startOn(t *testing.T, volume *enginetest.Volume, change func(*engine.Options), options ...model.Option) *house {
	t.Helper()
	h := &house{volume: volume}
	h.base, h.dec, h.tok = h.volume.Load(t, options...)
	o := engine.Options{
		Base: h.base, Compose: engine.Composer(h.base, h.dec), Factors: engine.NewFactors(h.dec), StopTokens: h.tok.EOS(),
		Text: func() engine.TextStream { return h.tok.NewStream() },
	}
	if change != nil {
		change(&o)
	}
	var err error
	if h.Engine, err = engine.New(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Close)
	return h
}

func (h *house) expert(t *testing.T, seed uint64) engine.Mixture {
	t.Helper()
	manifest := h.volume.Expert(t, "skill", seed)
	v, err := expert.Read(h.volume.ExpertDir(t, manifest.Digest))
	if err != nil {
		t.Fatal(err)
	}
	m, err := engine.NewMixture(expert.Weighted{Adapter: v, Alpha: 1})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func (h *house) tokens(t *testing.T, text string) []int32 {
	t.Helper()
	ids, err := h.tok.EncodePlain(text)
	if err != nil {
		t.Fatal(err)
	}
	return ids
}

type answer struct {
	tokens []int32
	text   string
	result engine.Result
	probs  []engine.Logprob
}

func (h *house) ask(ctx context.Context, r engine.Request) (answer, error) {
	var a answer
	if r.Logprobs == 0 {
		r.Logprobs = -1
	}
	result, err := h.Generate(ctx, r, func(d engine.Delta) error {
		if d.Token >= 0 {
			a.tokens = append(a.tokens, d.Token)
		}
		if d.Logprob != nil {
			a.probs = append(a.probs, *d.Logprob)
		}
		a.text += d.Text
		return nil
	})
	a.result = result
	return a, err
}

// TestGreedyEqualsStepByStep compares the engine with a plain loop over Step, whatever
// activations and keys and values are stored as.
func TestGreedyEqualsStepByStep(t *testing.T) {
	for _, s := range []model.Storage{{}, {Activations: backend.BF16, Cache: backend.BF16}, {Cache: backend.BF16}} {
		has := registrytest.Open(t, 1).Capabilities()
		if !slices.Contains(has.Storage, s.Activations) || !slices.Contains(has.Cache, s.Cache) {
			continue
		}
		t.Run("stored as "+s.String(), func(t *testing.T) { greedyEqualsStepByStep(t, s) })
	}
}

func greedyEqualsStepByStep(t *testing.T, s model.Storage) {
	t.Helper()
	h := start(t, func(o *engine.Options) { o.StepTokens = 3; o.StopTokens = nil }, model.StoredAs(s))
	prompt := h.tokens(t, "Once upon a time")
	got, err := h.ask(t.Context(), engine.Request{Prompt: prompt, MaxTokens: 20})
	if err != nil {
		t.Fatal(err)
	}
	cache, err := h.base.NewCache(1, 64)
	if err != nil {
		t.Fatal(err)
	}
	defer cache.Close()
	var want []int32
	for next := prompt; len(want) < 20; next = want[len(want)-1:] {
		logits, err := h.base.Step(t.Context(), cache, []model.Segment{{Tokens: next}})
		if err != nil {
			t.Fatal(err)
		}
		id, err := sample.Argmax(logits.Row(0))
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, id)
	}
	if diff := cmp.Diff(want, got.tokens); diff != "" {
		t.Errorf("tokens (-want +got):\n%s", diff)
	}
	if got.result.Finish != engine.FinishLength || got.result.PromptTokens != len(prompt) || got.result.Tokens != 20 {
		t.Errorf("result %+v", got.result)
	}
	if want := h.tok.Decode(want, true); got.text != want {
		t.Errorf("text %q, want %q", got.text, want)
	}
}

// TestNeighboursDoNotMatter asks the same seeded requests alone and in a busy
// batch with other experts, prompts and lengths.
func TestNeighboursDoNotMatter(t *testing.T) {
	for _, form := range []engine.Form{engine.FormAuto, engine.FormMerged, engine.FormUnmerged} {
		t.Run(string(form), func(t *testing.T) { neighboursDoNotMatter(t, form) })
	}
}

func neighboursDoNotMatter(t *testing.T, form engine.Form) {
	h := start(t, func(o *engine.Options) { o.Form, o.MaxBatch, o.StepTokens, o.StopTokens = form, 6, 16, nil })
	mixtures := []engine.Mixture{{}, h.expert(t, 1), h.expert(t, 2)}
	h.use(t, engine.Set{Mixtures: mixtures[1:]})
	request := func(i int) engine.Request {
		return engine.Request{
			Mixture: mixtures[i%3], Prompt: h.tokens(t, strings.Repeat("abc def ", 1+i%4)+fmt.Sprint(i)),
			MaxTokens: 8 + 3*(i%5), Seed: uint64(i / 2), Sampling: sample.Params{Temperature: 1, TopP: 0.95, TopK: 50 * (i % 2)},
		}
	}
	const n = 24
	var alone, busy [n]answer
	for i := range n {
		var err error
		if alone[i], err = h.ask(t.Context(), request(i)); err != nil {
			t.Fatal(err)
		}
	}
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			var err error
			if busy[i], err = h.ask(t.Context(), request(i)); err != nil {
				t.Errorf("request %d: %v", i, err)
			}
		})
		wg.Go(func() {
			// Pass 1 of others shares the batches.
			_, err := h.Score(t.Context(), engine.ScoreRequest{Prompt: h.tokens(t, fmt.Sprintf("classify %d", i)), Labels: [][]int32{{1, 2}, {3}, {4, 5, 6}}})
			if err != nil {
				t.Errorf("score %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	for i := range n {
		if diff := cmp.Diff(alone[i].tokens, busy[i].tokens); diff != "" {
			t.Errorf("request %d (-alone +busy):\n%s", i, diff)
		}
	}
	if cmp.Equal(alone[0].tokens[:8], alone[1].tokens[:8]) && cmp.Equal(alone[1].tokens[:8], alone[2].tokens[:8]) {
		t.Error("base and two experts answer alike: the comparison shows nothing")
	}
}

// TestScoreEqualsChainRule compares scores with log-softmax over whole
// sequences, with more labels than there are forks.
func TestScoreEqualsChainRule(t *testing.T) {
	h := start(t, func(o *engine.Options) { o.MaxBatch = 1; o.StepTokens = 5 })
	var labels [][]int32
	for i := range int32(20) {
		labels = append(labels, []int32{65 + i, 97, i}[:1+i%3])
	}
	for _, text := range []string{"Request: what is 2+2?\nCategory:", "Request: what is 3+2?\nCategory:", "x"} {
		prompt := h.tokens(t, text)
		got, err := h.Score(t.Context(), engine.ScoreRequest{Prompt: prompt, Labels: labels})
		if err != nil {
			t.Fatal(err)
		}
		for i, label := range labels {
			cache, err := h.base.NewCache(1, 128)
			if err != nil {
				t.Fatal(err)
			}
			all := append(append([]int32(nil), prompt...), label...)
			logits, err := h.base.Step(t.Context(), cache, []model.Segment{{Tokens: all, AllLogits: true}})
			cache.Close()
			if err != nil {
				t.Fatal(err)
			}
			want := 0.0
			for k, id := range label {
				row, sum := logits.Row(len(prompt)-1+k), 0.0
				for _, l := range row {
					sum += math.Exp(float64(l))
				}
				want += float64(row[id]) - math.Log(sum)
			}
			if math.Abs(got[i]-want) > 1e-9 {
				t.Errorf("%q, label %d: %v, want %v", text, i, got[i], want)
			}
		}
	}
	if s := h.Stats(); s.CachedTokens == 0 {
		t.Error("the second prompt did not find the first one's beginning in the cache")
	}
}

func TestExpertsChangeAnswersAndAreComposedOnce(t *testing.T) {
	var mu sync.Mutex
	composed := map[string]int{}
	h := start(t, func(o *engine.Options) {
		compose := o.Compose
		o.Form, o.MaxComposed = engine.FormMerged, 2
		o.Compose = func(ctx context.Context, m engine.Mixture) (*model.Model, error) {
			mu.Lock()
			composed[m.Key()]++
			mu.Unlock()
			return compose(ctx, m)
		}
	})
	a, b, c := h.expert(t, 1), h.expert(t, 2), h.expert(t, 3)
	if err := h.Prepare(t.Context(), engine.Set{Mixtures: []engine.Mixture{a, b}}); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range 12 {
		wg.Go(func() {
			_, err := h.ask(t.Context(), engine.Request{Mixture: []engine.Mixture{a, b}[i%2], Prompt: []int32{1}, MaxTokens: 2})
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if _, err := h.ask(t.Context(), engine.Request{Mixture: a, Prompt: []int32{1}, MaxTokens: 1}); err != nil {
		t.Fatal(err)
	}
	// The third pushes the least recently used out, which is b.
	for _, m := range []engine.Mixture{c, a, b} {
		if _, err := h.ask(t.Context(), engine.Request{Mixture: m, Prompt: []int32{1}, MaxTokens: 1}); err != nil {
			t.Fatal(err)
		}
	}
	if composed[a.Key()] != 1 || composed[b.Key()] != 2 || composed[c.Key()] != 1 {
		t.Errorf("composed %v, want a once, b twice, c once", composed)
	}
	if n := h.Stats().Merged.Mixtures; n != 2 {
		t.Errorf("%d models kept, want 2", n)
	}
	h.Retain(engine.Set{Mixtures: []engine.Mixture{b}})
	if n := h.Stats().Merged.Mixtures; n != 1 {
		t.Errorf("%d models kept after Retain, want 1", n)
	}
}

func TestComposeFailureIsToldAndRetried(t *testing.T) {
	fail := true
	h := start(t, func(o *engine.Options) {
		compose := o.Compose
		o.Compose = func(ctx context.Context, m engine.Mixture) (*model.Model, error) {
			if fail {
				fail = false
				return nil, errors.New("disk on fire")
			}
			return compose(ctx, m)
		}
	})
	r := engine.Request{Mixture: h.expert(t, 1), Prompt: []int32{1}, MaxTokens: 1}
	if _, err := h.ask(t.Context(), r); err == nil || !strings.Contains(err.Error(), "disk on fire") {
		t.Errorf("got %v, want the cause", err)
	}
	if _, err := h.ask(t.Context(), r); err != nil {
		t.Errorf("second attempt: %v", err)
	}
}

func TestStopTokensAndTextsEndAnAnswer(t *testing.T) {
	h := start(t, func(o *engine.Options) { o.StopTokens = nil })
	prompt := h.tokens(t, "Tell me")
	whole, err := h.ask(t.Context(), engine.Request{Prompt: prompt, MaxTokens: 40, Sampling: sample.Params{Temperature: 1}, Seed: 7})
	if err != nil {
		t.Fatal(err)
	}
	// A stop text from the middle of the answer.
	runes := []rune(whole.text)
	stop := string(runes[10:13])
	want, _, _ := strings.Cut(whole.text, stop)
	got, err := h.ask(t.Context(), engine.Request{Prompt: prompt, MaxTokens: 40, Sampling: sample.Params{Temperature: 1}, Seed: 7, Stop: []string{"never said", stop}})
	if err != nil {
		t.Fatal(err)
	}
	if got.text != want || got.result.Finish != engine.FinishStop || got.result.Tokens >= whole.result.Tokens {
		t.Errorf("stopped at %q by %s after %d tokens, want %q", got.text, got.result.Finish, got.result.Tokens, want)
	}
	// A stop token.
	h2 := start(t, func(o *engine.Options) { o.StopTokens = []int32{whole.tokens[5]} })
	first := 0
	for whole.tokens[first] != whole.tokens[5] {
		first++
	}
	got, err = h2.ask(t.Context(), engine.Request{Prompt: prompt, MaxTokens: 40, Sampling: sample.Params{Temperature: 1}, Seed: 7})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(whole.tokens[:first], got.tokens); diff != "" || got.result.Finish != engine.FinishStop || got.result.Tokens != first+1 {
		t.Errorf("%+v (-want +got):\n%s", got.result, diff)
	}
}

func TestLogprobs(t *testing.T) {
	h := start(t, nil)
	got, err := h.ask(t.Context(), engine.Request{Prompt: []int32{65, 66}, MaxTokens: 3, Logprobs: 5})
	if err != nil {
		t.Fatal(err)
	}
	for i, p := range got.probs {
		if p.Token != got.tokens[i] || len(p.Top) != 5 || p.Top[0].Token != p.Token || p.Top[0].Value != p.Value {
			t.Errorf("token %d: %+v; a greedy token is the most likely", i, p)
		}
		for k := 1; k < len(p.Top); k++ {
			if p.Top[k].Value > p.Top[k-1].Value || p.Top[k].Value > 0 {
				t.Errorf("token %d: %+v is not sorted", i, p.Top)
			}
		}
	}
	if len(got.probs) != len(got.tokens) {
		t.Errorf("%d log-probabilities for %d tokens", len(got.probs), len(got.tokens))
	}
}

func TestRequestsThatDoNotFit(t *testing.T) {
	h := start(t, func(o *engine.Options) { o.ContextLength = 10 })
	_, err := h.ask(t.Context(), engine.Request{Prompt: make([]int32, 8), MaxTokens: 3})
	var tooLong *engine.ContextError
	if !errors.As(err, &tooLong) || *tooLong != (engine.ContextError{Prompt: 8, Answer: 3, Limit: 10}) {
		t.Errorf("got %v", err)
	}
	if _, err := h.Score(t.Context(), engine.ScoreRequest{Prompt: make([]int32, 10), Labels: [][]int32{{1}}}); !errors.As(err, &tooLong) {
		t.Errorf("got %v", err)
	}
	got, err := h.ask(t.Context(), engine.Request{Prompt: make([]int32, 8)})
	if err != nil || got.result.Tokens > 2 {
		t.Errorf("without a limit: %+v, %v; want at most the 2 tokens that fit", got.result, err)
	}
	for name, r := range map[string]engine.Request{
		"no prompt":          {MaxTokens: 1},
		"unknown token":      {Prompt: []int32{99999}, MaxTokens: 1},
		"negative token":     {Prompt: []int32{-1}, MaxTokens: 1},
		"a bias of no token": {Prompt: []int32{1}, Sampling: sample.Params{Bias: map[int32]float64{1 << 30: 1}}},
		"bad temperature":    {Prompt: []int32{1}, Sampling: sample.Params{Temperature: -1}},
		"empty stop text":    {Prompt: []int32{1}, Stop: []string{""}},
		"too many choices":   {Prompt: []int32{1}, Logprobs: 1000},
	} {
		if _, err := h.ask(t.Context(), r); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestCancelledRequestsFreeTheirPlaces(t *testing.T) {
	h := start(t, func(o *engine.Options) { o.MaxBatch = 2; o.StopTokens = nil })
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	started := make(chan struct{}, 2)
	for range 4 { // Two in the batch, two waiting.
		wg.Go(func() {
			once := false
			_, err := h.Generate(ctx, engine.Request{Prompt: []int32{1}, MaxTokens: 500, Logprobs: -1}, func(engine.Delta) error {
				if !once {
					once = true
					started <- struct{}{}
				}
				return nil
			})
			if !errors.Is(err, context.Canceled) {
				t.Errorf("got %v, want cancelled", err)
			}
		})
	}
	<-started
	<-started
	cancel()
	wg.Wait()
	got, err := h.ask(t.Context(), engine.Request{Prompt: []int32{1}, MaxTokens: 2})
	if err != nil || got.result.Tokens != 2 {
		t.Errorf("after cancellation: %+v, %v", got.result, err)
	}
	waitFor(t, func() bool { s := h.Stats(); return s.Running == 0 && s.Waiting == 0 && s.Cancelled == 4 })
}

func TestReaderThatGivesUpEndsItsRequest(t *testing.T) {
	h := start(t, func(o *engine.Options) { o.StopTokens = nil })
	gone := errors.New("connection reset")
	_, err := h.Generate(t.Context(), engine.Request{Prompt: []int32{1}, MaxTokens: 500, Logprobs: -1}, func(engine.Delta) error { return gone })
	if !errors.Is(err, gone) {
		t.Errorf("got %v", err)
	}
	waitFor(t, func() bool { s := h.Stats(); return s.Running == 0 && s.Cancelled == 1 })
}

// A request counts as often as it has choices, from when it is admitted until the last of
// them has ended, and what it asks for in between needs no further place.
func TestAFullQueueIsBusyButKeepsWhatItAdmitted(t *testing.T) {
	h := start(t, func(o *engine.Options) { o.MaxBatch, o.MaxWaiting, o.StopTokens = 1, 2, nil })
	ctx, cancel := context.WithCancel(t.Context())
	idle, leave, err := h.Admit(t.Context(), 4) // Of an idle engine.
	if err != nil {
		t.Fatalf("an idle engine has no room: %v", err)
	}
	if _, _, err := h.Admit(t.Context(), 1); !errors.Is(err, engine.ErrBusy) {
		t.Errorf("beside four choices: %v, want ErrBusy", err)
	}
	if _, err := h.Score(idle, engine.ScoreRequest{Prompt: []int32{1}, Labels: [][]int32{{1}}}); err != nil {
		t.Errorf("pass 1 of four choices: %v", err)
	}
	leave()

	two, leave, err := h.Admit(ctx, 2)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := h.Admit(ctx, 2); !errors.Is(err, engine.ErrBusy) {
		t.Errorf("two choices more than there are places for: %v, want ErrBusy", err)
	}
	// Nothing waits yet, and still there is one place only.
	var wg sync.WaitGroup
	for _, ctx := range []context.Context{two, two, ctx} {
		wg.Go(func() {
			if _, err := h.ask(ctx, engine.Request{Prompt: []int32{1}, MaxTokens: 500}); !errors.Is(err, context.Canceled) {
				t.Errorf("got %v", err)
			}
		})
	}
	waitFor(t, func() bool { s := h.Stats(); return s.Running == 1 && s.Waiting == 2 })
	if _, err := h.ask(t.Context(), engine.Request{Prompt: []int32{1}, MaxTokens: 1}); !errors.Is(err, engine.ErrBusy) {
		t.Errorf("got %v, want ErrBusy", err)
	}
	if _, err := h.Score(t.Context(), engine.ScoreRequest{Prompt: []int32{1}, Labels: [][]int32{{1}}}); !errors.Is(err, engine.ErrBusy) {
		t.Errorf("got %v, want ErrBusy", err)
	}
	if _, err := h.Score(two, engine.ScoreRequest{Prompt: []int32{1}, Labels: [][]int32{{1}}}); err != nil {
		t.Errorf("pass 1 of a request that was admitted, beside a full batch: %v", err)
	}
	continued := make(chan error, 1)
	go func() {
		_, err := h.ask(context.WithoutCancel(two), engine.Request{Prompt: []int32{1}, MaxTokens: 1})
		continued <- err
	}()
	waitFor(t, func() bool { return h.Stats().Waiting == 3 })
	cancel()
	wg.Wait()
	leave()
	if err := <-continued; err != nil {
		t.Errorf("the continued request: %v", err)
	}
	// All places are free again.
	for range 2 {
		waitFor(t, func() bool {
			_, leave, err := h.Admit(t.Context(), 3)
			leave()
			return err == nil
		})
	}
}

func TestCloseEndsEverything(t *testing.T) {
	h := start(t, func(o *engine.Options) { o.MaxBatch = 1; o.StopTokens = nil })
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			if _, err := h.ask(t.Context(), engine.Request{Prompt: []int32{1}, MaxTokens: 500}); !errors.Is(err, engine.ErrClosed) {
				t.Errorf("got %v, want ErrClosed", err)
			}
		})
	}
	waitFor(t, func() bool { return h.Stats().Waiting == 2 })
	h.Close()
	wg.Wait()
	if _, err := h.ask(t.Context(), engine.Request{Prompt: []int32{1}, MaxTokens: 1}); !errors.Is(err, engine.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

func waitFor(t *testing.T, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !condition(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("waited too long")
		}
	}
}
