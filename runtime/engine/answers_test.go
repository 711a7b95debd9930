package engine_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/engine"
	"github.com/transformersquared/operator/runtime/expert"
	"github.com/transformersquared/operator/runtime/model"
	"github.com/transformersquared/operator/runtime/sample"
)

// answering are experts that act on answers alone.
func (h *house) answering(t *testing.T, n int) []engine.Mixture {
	t.Helper()
	list := make([]engine.Mixture, n)
	for i := range list {
		manifest := h.volume.ExpertOn(t, contract.ActivationAnswer, "skill", uint64(20+i))
		v, err := expert.Read(h.volume.ExpertDir(t, manifest.Digest))
		if err != nil {
			t.Fatal(err)
		}
		if list[i], err = engine.NewMixture(expert.Weighted{Adapter: v, Alpha: 1}); err != nil {
			t.Fatal(err)
		}
		if !list[i].OnAnswers() {
			t.Fatalf("expert %s acts on %q", manifest.Digest, v.Manifest.Activation)
		}
	}
	return list
}

// stepByStep is the greedy answer of a plain loop: base reads the prompt but for its last
// token, and composed goes on.
func stepByStep(t *testing.T, base, composed *model.Model, prompt []int32, n int) []int32 {
	t.Helper()
	c, err := base.NewCache(1, len(prompt)+n)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := base.Step(t.Context(), c, []model.Segment{{Tokens: prompt[:len(prompt)-1]}}); err != nil {
		t.Fatal(err)
	}
	tokens := prompt[len(prompt)-1:]
	var out []int32
	for range n {
		logits, err := composed.Step(t.Context(), c, []model.Segment{{Tokens: tokens}})
		if err != nil {
			t.Fatal(err)
		}
		best := int32(0)
		for i, v := range logits.Data {
			if v > logits.Data[best] {
				best = int32(i)
			}
		}
		out, tokens = append(out, best), []int32{best}
	}
	return out
}

// TestAnswersOfExpertsThatActOnAnswers compares the engine with a plain loop, in both
// forms, alone and side by side, in a cache in which all have room and in one in which they
// give way to each other.
func TestAnswersOfExpertsThatActOnAnswers(t *testing.T) {
	const tokens = 3*block + 2
	for _, blocks := range []int{100, 9} {
		for _, form := range []engine.Form{engine.FormMerged, engine.FormUnmerged, engine.FormAuto} {
			t.Run(fmt.Sprintf("%s, %d blocks", form, blocks), func(t *testing.T) {
				var mu sync.Mutex
				composed := map[string]*model.Model{}
				h, next := gated(t, func(o *engine.Options) {
					o.Form, o.StopTokens, o.CacheTokens, o.StepTokens = form, nil, blocks*block, 16
					compose := o.Compose
					o.Compose = func(ctx context.Context, m engine.Mixture) (*model.Model, error) {
						made, err := compose(ctx, m)
						mu.Lock()
						defer mu.Unlock()
						composed[m.Key()] = made
						return made, err
					}
				})
				mixtures := h.answering(t, 3)
				h.use(t, engine.Set{Mixtures: mixtures})
				prompt := numbered(3, block+9)
				request := func(i int) engine.Request {
					return engine.Request{Mixture: mixtures[i], Prompt: prompt, MaxTokens: tokens, Sampling: sample.Params{Temperature: 0}}
				}
				var alone [3]answer
				for i := range alone {
					var err error
					if alone[i], err = h.ask(t.Context(), request(i)); err != nil {
						t.Fatal(err)
					}
					if m := composed[mixtures[i].Key()]; m != nil {
						if want := stepByStep(t, h.base, m, prompt, tokens); !slices.Equal(alone[i].tokens, want) {
							t.Errorf("expert %d answers %v, step by step it is %v", i, alone[i].tokens, want)
						}
					}
					// The first reads the prompt for all.
					if cached := alone[i].result.CachedTokens; (i == 0) != (cached == 0) || i > 0 && cached != len(prompt)-1 {
						t.Errorf("expert %d found %d of %d tokens in the cache", i, cached, len(prompt))
					}
				}
				if slices.Equal(alone[0].tokens, alone[1].tokens) {
					t.Error("two experts answer alike: the test shows nothing")
				}
				answers, _ := h.together(t, next, len(alone), request)
				for i, a := range answers {
					if !slices.Equal(a.tokens, alone[i].tokens) {
						t.Errorf("beside others expert %d answers %v, alone %v", i, a.tokens, alone[i].tokens)
					}
				}
				waitFor(t, func() bool { return h.Stats().Running == 0 })
				if s := h.Stats(); s.Failed != 0 || (s.Preempted > 0) != (blocks == 9) || s.Blocks.Used != s.Blocks.Cached {
					t.Errorf("%d failed, %d gave way, blocks %+v", s.Failed, s.Preempted, s.Blocks)
				}
			})
		}
	}
}

// TestTheBaseReadsForExpertsThatActOnAnswers goes on with a conversation by other experts:
// each finds what was read before, and the base's answer, but not another expert's.
func TestTheBaseReadsForExpertsThatActOnAnswers(t *testing.T) {
	h := start(t, func(o *engine.Options) { o.StopTokens = nil })
	experts := h.answering(t, 2)
	h.use(t, engine.Set{Mixtures: experts, Fixed: true})
	talk := numbered(7, 2*block+3)
	read := 0 // By the base, and so in the cache for all.
	for turn, m := range []engine.Mixture{experts[0], experts[1], {}, experts[0]} {
		a, err := h.ask(t.Context(), engine.Request{Mixture: m, Prompt: talk, MaxTokens: 10})
		if err != nil {
			t.Fatal(err)
		}
		waitFor(t, func() bool { return h.Stats().Running == 0 })
		if a.result.CachedTokens != read {
			t.Errorf("turn %d found %d of %d tokens in the cache, want %d", turn, a.result.CachedTokens, len(talk), read)
		}
		if read = len(talk) - 1; m.IsBase() {
			read += len(a.tokens)
		}
		talk = slices.Concat(talk, a.tokens, numbered(int32(turn), 5))
	}
}

// TestScoresOfExpertsThatActOnAnswers scores labels with one as greedily generating says.
func TestScoresOfExpertsThatActOnAnswers(t *testing.T) {
	h := start(t, nil)
	m := h.answering(t, 1)[0]
	prompt := numbered(4, block+1)
	a, err := h.ask(t.Context(), engine.Request{Mixture: m, Prompt: prompt, MaxTokens: 3, Logprobs: 1, IgnoreStopTokens: true})
	if err != nil {
		t.Fatal(err)
	}
	scores, err := h.Score(t.Context(), engine.ScoreRequest{Mixture: m, Prompt: prompt, Labels: [][]int32{a.tokens, {1, 2}}})
	if err != nil {
		t.Fatal(err)
	}
	want := 0.0
	for _, p := range a.probs {
		want += p.Value
	}
	if d := scores[0] - want; d > 1e-4 || d < -1e-4 {
		t.Errorf("the answer scores %v, its tokens' likelihoods sum to %v", scores[0], want)
	}
}

func TestActivationsAreNotMixed(t *testing.T) {
	h := start(t, nil)
	weigh := func(activation string, seed uint64) expert.Weighted {
		m := h.volume.ExpertOn(t, activation, "skill", seed)
		v, err := expert.Read(h.volume.ExpertDir(t, m.Digest))
		if err != nil {
			t.Fatal(err)
		}
		return expert.Weighted{Adapter: v, Alpha: 0.5}
	}
	prompts, answers := weigh("", 1), weigh(contract.ActivationAnswer, 1)
	if prompts.Adapter.Manifest.Digest == answers.Adapter.Manifest.Digest {
		t.Error("the same z with another activation has the same digest")
	}
	if _, err := engine.NewMixture(prompts, answers); err == nil {
		t.Error("no error")
	}
	m, err := engine.NewMixture(answers, expert.Weighted{Adapter: expert.Identity(), Alpha: 0.5})
	if err != nil || !m.OnAnswers() {
		t.Errorf("with the base's share: %v", err)
	}
}
