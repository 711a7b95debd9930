package engine_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/transformersquared/operator/runtime/engine"
	"github.com/transformersquared/operator/runtime/engine/enginetest"
	"github.com/transformersquared/operator/runtime/model"
	"github.com/transformersquared/operator/runtime/sample"
)

// TestRepeatedStepsAnswerTheSameOnTheDevice asks many requests at once, of prompts and
// answers of different lengths, so that some join and leave at each step, and takes another
// set of experts into use meanwhile. An engine whose model records its steps must answer
// each as one that computes all of them answers it alone, to the last bit of its
// log-probabilities.
func TestRepeatedStepsAnswerTheSameOnTheDevice(t *testing.T) {
	for _, form := range []engine.Form{engine.FormMerged, engine.FormUnmerged} {
		t.Run(string(form), func(t *testing.T) {
			volume := enginetest.New(t)
			options := func(o *engine.Options) { o.Form, o.MaxBatch, o.StepTokens, o.StopTokens = form, 5, 24, nil }
			recording, computing := startOn(t, volume, options), startOn(t, volume, options, model.Unrecorded())
			mixtures := append(recording.experts(t, 3), engine.Mixture{})
			request := func(h *house, i int) engine.Request {
				return engine.Request{
					Mixture: mixtures[i%len(mixtures)], Prompt: h.tokens(t, strings.Repeat("abc def ", i%4)+fmt.Sprint(i)),
					MaxTokens: 2 + 5*(i%3), Seed: uint64(i), Sampling: sample.Params{Temperature: float64(i % 2)}, Logprobs: 2,
				}
			}
			const n = 12
			var alone, together [n]answer
			for i := range n {
				var err error
				if alone[i], err = computing.ask(t.Context(), request(computing, i)); err != nil {
					t.Fatal(err)
				}
			}
			recording.use(t, engine.Set{Mixtures: mixtures[:2]})
			var wg sync.WaitGroup
			for i := range n {
				wg.Go(func() {
					var err error
					if together[i], err = recording.ask(t.Context(), request(recording, i)); err != nil {
						t.Errorf("request %d: %v", i, err)
					}
				})
			}
			wg.Go(func() {
				if _, err := recording.Score(t.Context(), engine.ScoreRequest{Prompt: []int32{1, 2, 3}, Labels: [][]int32{{4, 5}, {6, 7, 8}, {9}}}); err != nil {
					t.Error(err)
				}
			})
			recording.use(t, engine.Set{Mixtures: mixtures[1:3]})
			wg.Wait()
			for i := range n {
				if diff := cmp.Diff(alone[i].tokens, together[i].tokens); diff != "" {
					t.Errorf("request %d (-computed +repeated):\n%s", i, diff)
				}
				if diff := cmp.Diff(alone[i].probs, together[i].probs); diff != "" {
					t.Errorf("request %d (-computed +repeated):\n%s", i, diff)
				}
			}
		})
	}
}
