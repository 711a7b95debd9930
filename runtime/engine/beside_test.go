package engine_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/transformersquared/operator/runtime/engine"
	"github.com/transformersquared/operator/runtime/model"
)

// TestTwoSetsAreUsedBesideEachOther uses a set of a fixed mixture, which is merged, and one of
// several beside it, which are not: each mixture is computed in its own set's form, one that
// both have in the first one's, and answers what it does alone. When the second is used
// alone, nothing is made anew for it.
func TestTwoSetsAreUsedBesideEachOther(t *testing.T) {
	var composed atomic.Int64
	h := start(t, func(o *engine.Options) {
		o.StopTokens = nil
		compose := o.Compose
		o.Compose = func(ctx context.Context, m engine.Mixture) (*model.Model, error) {
			composed.Add(1)
			return compose(ctx, m)
		}
	})
	mixtures := h.experts(t, 4)
	first := engine.Set{Mixtures: mixtures[:1], Fixed: true}
	second := engine.Set{Mixtures: mixtures, Blends: true}
	ask := func(m engine.Mixture) (text string, merged bool) {
		t.Helper()
		before := h.Stats()
		a, err := h.ask(t.Context(), engine.Request{Mixture: m, Prompt: []int32{1, 2, 3}, MaxTokens: 12})
		if err != nil {
			t.Fatal(err)
		}
		return a.text, h.Stats().Merged.Batches > before.Merged.Batches
	}
	alone := map[int]string{}
	h.use(t, first)
	if h.Form() != engine.FormMerged {
		t.Fatalf("the first set has the form %s", h.Form())
	}
	alone[0], _ = ask(mixtures[0])
	h.use(t, second)
	if h.Form() != engine.FormUnmerged {
		t.Fatalf("the second set has the form %s", h.Form())
	}
	for i := 1; i < len(mixtures); i++ {
		alone[i], _ = ask(mixtures[i])
	}
	h.use(t, first)

	if err := h.PrepareBeside(t.Context(), first, second); err != nil {
		t.Fatal(err)
	}
	h.Retain(first, second)
	for i, m := range mixtures {
		if text, merged := ask(m); text != alone[i] || merged != (i == 0) {
			t.Errorf("mixture %d answers %q, merged %v; alone %q", i, text, merged, alone[i])
		}
	}
	before, held := composed.Load(), h.Stats().Unmerged
	h.Retain(second)
	for i, m := range mixtures {
		if text, merged := ask(m); merged || i > 0 && text != alone[i] {
			t.Errorf("when the second is used alone, mixture %d answers %q, merged %v", i, text, merged)
		}
	}
	if now := h.Stats().Unmerged; composed.Load() != before || now.Mixtures != held.Mixtures || now.Bytes != held.Bytes {
		t.Errorf("%d models were composed, factors %+v, before %+v", composed.Load()-before, now, held)
	}
	if n := h.Stats().Merged.Mixtures; n != 0 {
		t.Errorf("%d merged models are still held", n)
	}
}

// TestASetThatHasNoRoomBesideAnotherIsRefused has room for two merged models.
func TestASetThatHasNoRoomBesideAnotherIsRefused(t *testing.T) {
	merged, _ := sizes(t)
	h := start(t, func(o *engine.Options) {
		o.Form, o.ExpertBytes, o.MaxComposed = engine.FormMerged, 2*merged+merged/2, 1
	})
	mixtures := h.experts(t, 3)
	first := engine.Set{Mixtures: mixtures[:1]}
	h.use(t, first)
	// Beside it there is room for one more, though only one is kept of each set.
	second := engine.Set{Mixtures: mixtures[1:2]}
	if err := h.PrepareBeside(t.Context(), first, second); err != nil {
		t.Fatal(err)
	}
	h.Retain(first, second)
	if n := h.Stats().Merged.Mixtures; n != 2 {
		t.Errorf("%d mixtures are held, want 2", n)
	}
	h.Retain(first)
	if n := h.Stats().Merged.Mixtures; n != 1 {
		t.Errorf("%d mixtures are held, want 1", n)
	}
}

// TestTheNumbersOfWhatHasNoRoom wants what is needed and what there is.
func TestTheNumbersOfWhatHasNoRoom(t *testing.T) {
	merged, _ := sizes(t)
	h := start(t, func(o *engine.Options) { o.Form, o.ExpertBytes = engine.FormMerged, 2*merged+merged/2 })
	mixtures := h.experts(t, 4)
	first := engine.Set{Mixtures: mixtures[:2]}
	h.use(t, first)
	err := h.PrepareBeside(t.Context(), first, engine.Set{Mixtures: mixtures[1:]})
	full, ok := errors.AsType[*engine.RoomError](err)
	if !ok || full.Needed != 4*merged || full.Alone != 2*merged || full.Budget != 2*merged+merged/2 || !strings.Contains(err.Error(), "both sets need") {
		t.Fatalf("got %v", err)
	}
	if n := h.Stats().Merged.Mixtures; n != 2 {
		t.Errorf("%d mixtures are held, want 2", n)
	}
	// A part of the first set takes nothing more, though that is larger than its room.
	all := engine.Set{Mixtures: mixtures}
	h.use(t, all)
	if err := h.PrepareBeside(t.Context(), all, engine.Set{Mixtures: mixtures[3:]}); err != nil {
		t.Error(err)
	}
}

// TestWhatIsAsideTakesNoPlace fills every place, and asks aside.
func TestWhatIsAsideTakesNoPlace(t *testing.T) {
	h := start(t, func(o *engine.Options) { o.MaxBatch, o.MaxWaiting, o.StopTokens = 1, 1, nil })
	using, stop := context.WithCancel(t.Context())
	defer stop()
	ended := make(chan error, 2)
	for range 2 {
		go func() {
			_, err := h.ask(using, engine.Request{Prompt: []int32{1}, MaxTokens: 400})
			ended <- err
		}()
	}
	waitFor(t, func() bool { st := h.Stats(); return st.Running+st.Waiting == 2 })
	score := engine.ScoreRequest{Prompt: []int32{1, 2}, Labels: [][]int32{{3}, {4}}}
	if _, err := h.Score(t.Context(), score); !errors.Is(err, engine.ErrBusy) {
		t.Fatalf("a request beside those that fill all places: %v", err)
	}
	aside, leave := h.Aside(t.Context())
	scores, err := h.Score(aside, score)
	leave()
	if err != nil || len(scores) != 2 {
		t.Errorf("aside: %v, %v", scores, err)
	}
	stop()
	for range 2 {
		<-ended
	}
	if n := h.Stats().Cancelled; n > 2 {
		t.Errorf("%d were cancelled", n)
	}
}
