package rollout_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/transformersquared/operator/runtime/engine/enginetest"
	"github.com/transformersquared/operator/runtime/model"
	"github.com/transformersquared/operator/runtime/sample"
	"github.com/transformersquared/operator/runtime/train/rollout"
)

func sampled(i int) *sample.Sampler {
	return sample.New(sample.Params{Temperature: 1}, sample.Stream(9, uint64(i)))
}

// prompts are of many lengths, so that sequences start and end at different
// times.
func prompts(n int) [][]int32 {
	var all [][]int32
	for i := range n {
		var p []int32
		for j := range 1 + i*7%23 {
			p = append(p, int32('a'+(i+j)%26))
		}
		all = append(all, p)
	}
	return all
}

// alone answers one prompt in the plainest way: the whole sequence is computed
// anew for each token.
func alone(t *testing.T, m *model.Model, prompt []int32, s *sample.Sampler, stop []int32, most int) rollout.Answer {
	t.Helper()
	var a rollout.Answer
	for len(a.Tokens) < most && !a.Stopped {
		tokens := append(append([]int32(nil), prompt...), a.Tokens...)
		tape, err := m.Forward(t.Context(), []model.Sequence{{Tokens: append(tokens, 0), From: len(tokens) - 1}})
		if err != nil {
			t.Fatal(err)
		}
		logits, err := tape.Logits()
		tape.Release()
		if err != nil {
			t.Fatal(err)
		}
		id, err := s.Next(logits.Row(0))
		if err != nil {
			t.Fatal(err)
		}
		a.Tokens, a.Stopped = append(a.Tokens, id), slices.Contains(stop, id)
	}
	return a
}

func TestAnswersDoNotDependOnWhatElseIsAsked(t *testing.T) {
	m, _, _ := enginetest.New(t).Load(t)
	all := prompts(19)
	const most = 12
	var stop []int32
	for id := range int32(24) {
		stop = append(stop, id)
	}
	var want []rollout.Answer
	stopped := 0
	for i, p := range all {
		want = append(want, alone(t, m, p, sampled(i), stop, most))
		if want[i].Stopped {
			stopped++
		}
	}
	if stopped == 0 || stopped == len(all) {
		t.Fatalf("%d of %d answers stop: the test needs both", stopped, len(all))
	}
	for _, o := range []rollout.Options{
		{}, {Sequences: 1}, {Sequences: 4}, {Sequences: 4, StepTokens: 6}, {StepTokens: 1}, {CacheBytes: 1},
	} {
		t.Run(fmt.Sprintf("%+v", o), func(t *testing.T) {
			o.Stop, o.MaxNewTokens = stop, most
			got, err := rollout.Generate(t.Context(), m, all, sampled, o)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("answers differ (-alone +together):\n%s", diff)
			}
		})
	}
}

func TestAnswersEndWhereTheModelDoes(t *testing.T) {
	m, _, _ := enginetest.New(t).Load(t)
	long := make([]int32, enginetest.ContextLength-3)
	for i := range long {
		long[i] = int32('a' + i%26)
	}
	got, err := rollout.Generate(t.Context(), m, [][]int32{long, {'x'}}, sampled, rollout.Options{MaxNewTokens: 10})
	if err != nil {
		t.Fatal(err)
	}
	if len(got[0].Tokens) != 3 || len(got[1].Tokens) != 10 || got[0].Stopped {
		t.Errorf("answers have %d and %d tokens, want 3 (the positions left) and 10", len(got[0].Tokens), len(got[1].Tokens))
	}
}

func TestTextIsWithoutTheStopToken(t *testing.T) {
	for _, test := range []struct {
		answer rollout.Answer
		want   []int32
	}{
		{rollout.Answer{Tokens: []int32{1, 2, 3}, Stopped: true}, []int32{1, 2}},
		{rollout.Answer{Tokens: []int32{1, 2, 3}}, []int32{1, 2, 3}},
	} {
		if diff := cmp.Diff(test.want, test.answer.Text()); diff != "" {
			t.Errorf("text of %+v (-want +got):\n%s", test.answer, diff)
		}
	}
}

func TestImpossibleRequestsAreRefused(t *testing.T) {
	m, _, _ := enginetest.New(t).Load(t)
	tests := map[string]struct {
		prompts [][]int32
		most    int
	}{
		"an empty prompt":               {[][]int32{{}}, 1},
		"a prompt without room":         {[][]int32{make([]int32, enginetest.ContextLength)}, 1},
		"an answer of no tokens":        {[][]int32{{1}}, 0},
		"a token beyond the vocabulary": {[][]int32{{1 << 20}}, 1},
	}
	for name, test := range tests {
		if _, err := rollout.Generate(t.Context(), m, test.prompts, sampled, rollout.Options{MaxNewTokens: test.most}); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := rollout.Generate(ctx, m, [][]int32{{1}}, sampled, rollout.Options{MaxNewTokens: 1}); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled generation returned %v", err)
	}
}
