package engine_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/transformersquared/operator/runtime/engine"
	"github.com/transformersquared/operator/runtime/model"
)

// sizes are what one of the experts of this file takes merged, and the factors of all.
func sizes(t *testing.T) (merged, factors int64) {
	t.Helper()
	h := start(t, nil)
	mixtures := h.experts(t, 2)
	if err := h.Prepare(t.Context(), engine.Set{Mixtures: mixtures[:1]}); err != nil {
		t.Fatal(err)
	}
	merged = h.Stats().Merged.Bytes
	if err := h.Prepare(t.Context(), engine.Set{Mixtures: mixtures}); err != nil {
		t.Fatal(err)
	}
	h.Retain(engine.Set{Mixtures: mixtures})
	factors = h.Stats().Unmerged.Bytes
	if merged == 0 || factors <= merged {
		t.Fatalf("a merged mixture takes %d bytes, factors take %d", merged, factors)
	}
	return merged, factors
}

// TestMergedModelsStayWithinTheirBudget asks for more mixtures at a time than the budget
// holds merged: those in use count, too, and each gets the answer that it gets alone.
func TestMergedModelsStayWithinTheirBudget(t *testing.T) {
	merged, _ := sizes(t)
	for _, holds := range []int64{1, 2} {
		t.Run(fmt.Sprint(holds), func(t *testing.T) {
			var most atomic.Int64
			var h *house
			h = start(t, func(o *engine.Options) {
				o.Form, o.ExpertBytes, o.StopTokens = engine.FormMerged, holds*merged+merged/2, nil
				compose := o.Compose
				o.Compose = func(ctx context.Context, m engine.Mixture) (*model.Model, error) {
					// What is alive, and what is being made.
					if n := h.Stats().Merged.Bytes + merged; n > most.Load() {
						most.Store(n)
					}
					return compose(ctx, m)
				}
			})
			mixtures := h.experts(t, 5)
			h.use(t, engine.Set{Mixtures: mixtures})
			if n := h.Stats().Merged.Mixtures; n != int(holds) {
				t.Errorf("%d were merged ahead, want %d", n, holds)
			}
			request := func(i int) engine.Request {
				return engine.Request{Mixture: mixtures[i%len(mixtures)], Prompt: []int32{1, 2, int32(i)}, MaxTokens: 20}
			}
			want := make([]answer, 10)
			for i := range want {
				var err error
				if want[i], err = h.ask(t.Context(), request(i)); err != nil {
					t.Fatal(err)
				}
			}
			var all sync.WaitGroup
			for round := range 3 {
				for i := range want {
					all.Go(func() {
						got, err := h.ask(t.Context(), request(i))
						if err != nil || got.text != want[i].text {
							t.Errorf("round %d, request %d: %q (%v), alone %q", round, i, got.text, err, want[i].text)
						}
					})
				}
			}
			all.Wait()
			if most.Load() > holds*merged {
				t.Errorf("%d bytes were in use at a time, of %d", most.Load(), holds*merged)
			}
			waitFor(t, func() bool { return h.Stats().Merged.Bytes <= holds*merged })
		})
	}
}

// TestWhoWaitsForRoomCanLeave waits with one mixture for the room of another that is used:
// it goes when its request does, and the next one gets what is free then.
func TestWhoWaitsForRoomCanLeave(t *testing.T) {
	merged, _ := sizes(t)
	h := start(t, func(o *engine.Options) { o.Form, o.ExpertBytes, o.StopTokens = engine.FormMerged, merged, nil })
	mixtures := h.experts(t, 2)
	h.use(t, engine.Set{Mixtures: mixtures})
	using, stop := context.WithCancel(t.Context())
	var all sync.WaitGroup
	all.Go(func() {
		if _, err := h.ask(using, engine.Request{Mixture: mixtures[0], Prompt: []int32{1}, MaxTokens: 500}); !errors.Is(err, context.Canceled) {
			t.Errorf("the one that was ended: %v", err)
		}
	})
	waitFor(t, func() bool { return h.Stats().Running == 1 })
	waiting, leave := context.WithCancel(t.Context())
	told := make(chan error)
	go func() {
		_, err := h.ask(waiting, engine.Request{Mixture: mixtures[1], Prompt: []int32{1}, MaxTokens: 1})
		told <- err
	}()
	waitFor(t, func() bool { return h.Stats().Merged.Mixtures == 0 }) // The first is not held any more, but used.
	leave()
	if err := <-told; !errors.Is(err, context.Canceled) {
		t.Errorf("the one that waited and left: %v", err)
	}
	stop()
	all.Wait()
	if _, err := h.ask(t.Context(), engine.Request{Mixture: mixtures[1], Prompt: []int32{1}, MaxTokens: 1}); err != nil {
		t.Error(err)
	}
	waitFor(t, func() bool { return h.Stats().Merged.Bytes == merged })
}

// TestTheBudgetDecidesTheForm wants mixtures unmerged where they would not be kept merged,
// and the other way round where there is no room for factors.
func TestTheBudgetDecidesTheForm(t *testing.T) {
	merged, factors := sizes(t)
	tight := factors - factors/10 // Scales are a fiftieth of it.
	for name, c := range map[string]struct {
		budget  int64
		experts int
		fixed   bool
		want    engine.Form
		ready   int // Mixtures beside the base.
	}{
		"room for everything":                   {2 * factors, 2, false, engine.FormUnmerged, 2},
		"no room for factors":                   {tight, 4, false, engine.FormMerged, int(tight / merged)},
		"one at a time":                         {merged, 4, false, engine.FormMerged, 1},
		"a fixed mixture":                       {10 * factors, 4, true, engine.FormMerged, 1},
		"a fixed mixture, and little beside it": {merged, 4, true, engine.FormMerged, 1},
	} {
		t.Run(name, func(t *testing.T) {
			h := start(t, func(o *engine.Options) { o.ExpertBytes = c.budget })
			s := engine.Set{Mixtures: h.experts(t, c.experts), Fixed: c.fixed}
			h.use(t, s)
			st := h.Stats()
			held := map[engine.Form]int{engine.FormMerged: st.Merged.Mixtures, engine.FormUnmerged: st.Unmerged.Mixtures}
			if h.Form() != c.want || held[c.want] != c.ready || st.Merged.Bytes+st.Unmerged.Bytes > c.budget {
				t.Errorf("%s with %d mixtures in %d bytes, want %s with %d in %d", h.Form(), held[c.want],
					st.Merged.Bytes+st.Unmerged.Bytes, c.want, c.ready, c.budget)
			}
			for _, m := range append(s.Mixtures, engine.Mixture{}) { // On demand.
				if _, err := h.ask(t.Context(), engine.Request{Mixture: m, Prompt: []int32{1}, MaxTokens: 2}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	// Factors are not as large as a merged mixture where their ranks are low.
	h := start(t, func(o *engine.Options) {
		o.Factors.Rank = func(string) int { return 1 }
		o.ExpertBytes = merged - 1
	})
	h.Retain(engine.Set{Mixtures: h.experts(t, 1), Fixed: true})
	if h.Form() != engine.FormUnmerged {
		t.Errorf("no merged mixture fits, and the form is %s", h.Form())
	}
}

// TestSetsChangeWithinTheBudget takes sets of both forms into use one after the other, under
// requests: none fails but for want of room, which it is told as if the queue were full.
func TestSetsChangeWithinTheBudget(t *testing.T) {
	merged, factors := sizes(t)
	h := start(t, func(o *engine.Options) { o.ExpertBytes, o.StopTokens = factors+merged, nil })
	mixtures := h.experts(t, 3)
	sets := []engine.Set{{Mixtures: mixtures[:1]}, {Mixtures: mixtures}, {Mixtures: mixtures[1:2], Fixed: true}}
	h.use(t, sets[0])
	ctx, stop := context.WithCancel(t.Context())
	var asking sync.WaitGroup
	var answered atomic.Int64
	for i := range 4 {
		asking.Go(func() {
			for ctx.Err() == nil {
				_, err := h.ask(ctx, engine.Request{Mixture: mixtures[i%len(mixtures)], Prompt: []int32{1, int32(i)}, MaxTokens: 5})
				if err != nil && ctx.Err() == nil && !errors.Is(err, engine.ErrBusy) {
					t.Error(err)
				}
				if err == nil {
					answered.Add(1)
				}
			}
		})
	}
	for i := range 12 {
		before := answered.Load()
		h.use(t, sets[i%len(sets)])
		if st := h.Stats(); st.Merged.Bytes+st.Unmerged.Bytes > factors+merged+factors/8 { // Scales are little, and not in the budget.
			t.Errorf("%d and %d bytes are in use, of %d", st.Merged.Bytes, st.Unmerged.Bytes, factors+merged)
		}
		waitFor(t, func() bool { return answered.Load() > before+4 })
	}
	stop()
	asking.Wait()
}
