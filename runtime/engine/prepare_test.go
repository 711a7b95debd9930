package engine_test

import (
	"context"
	"errors"
	"testing"

	"github.com/transformersquared/operator/runtime/engine"
	"github.com/transformersquared/operator/runtime/expert"
	"github.com/transformersquared/operator/runtime/failure"
	"github.com/transformersquared/operator/runtime/model"
)

// composing is one composition that has begun; it ends when its context does, or
// by the real composer once it is let go.
type composing struct {
	ctx   context.Context //nolint:containedctx // It is what the test looks at.
	key   string
	letGo chan struct{}
}

// slowly makes an engine whose compositions the test sees and lets go.
func slowly(t *testing.T) (*house, chan *composing) {
	t.Helper()
	begun := make(chan *composing, 16)
	return start(t, func(o *engine.Options) {
		compose := o.Compose
		o.Form = engine.FormMerged
		o.Compose = func(ctx context.Context, m engine.Mixture) (*model.Model, error) {
			c := &composing{ctx: ctx, key: m.Key(), letGo: make(chan struct{})}
			begun <- c
			select {
			case <-c.letGo:
				return compose(ctx, m)
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
	}), begun
}

// TestPreparingIsGivenUpWithItsCaller cancels the preparing of a set in the
// middle of a composition: that ends too, and the next set need not wait for it.
func TestPreparingIsGivenUpWithItsCaller(t *testing.T) {
	h, begun := slowly(t)
	mixtures := h.experts(t, 3)
	ctx, cancel := context.WithCancel(t.Context())
	prepared := make(chan error, 1)
	go func() { prepared <- h.Prepare(ctx, engine.Set{Mixtures: mixtures[:2]}) }()
	first := <-begun
	cancel()
	if err := <-prepared; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	<-first.ctx.Done() // Or the test hangs.

	go func() { prepared <- h.Prepare(t.Context(), engine.Set{Mixtures: mixtures[2:]}) }()
	next := <-begun
	if next.key != mixtures[2].Key() {
		t.Errorf("%s is composed, want that of the next set", next.key)
	}
	close(next.letGo)
	if err := <-prepared; err != nil {
		t.Error(err)
	}
	if n := h.Stats().Merged.Mixtures; n != 1 {
		t.Errorf("%d mixtures are held, want the next set's", n)
	}
}

// TestARequestKeepsWhatItAskedFor cancels the preparing of a mixture that a
// request waits for, too: it is composed to its end, once.
func TestARequestKeepsWhatItAskedFor(t *testing.T) {
	h, begun := slowly(t)
	m := h.experts(t, 1)[0]
	ctx, cancel := context.WithCancel(t.Context())
	prepared := make(chan error, 1)
	go func() { prepared <- h.Prepare(ctx, engine.Set{Mixtures: []engine.Mixture{m}}) }()
	first := <-begun
	answered := make(chan error, 1)
	request, giveUp := context.WithCancel(t.Context())
	go func() {
		_, err := h.ask(request, engine.Request{Mixture: m, Prompt: []int32{1}, MaxTokens: 1})
		answered <- err
	}()
	// Nobody can see a request that waits for its weights; one that has given up
	// has asked.
	giveUp()
	if err := <-answered; !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
	cancel()
	if err := <-prepared; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	close(first.letGo)
	if _, err := h.ask(t.Context(), engine.Request{Mixture: m, Prompt: []int32{1}, MaxTokens: 1}); err != nil {
		t.Errorf("the request: %v", err)
	}
	if len(begun) != 0 || first.ctx.Err() == nil && h.Stats().Merged.Mixtures != 1 {
		t.Errorf("%d more were composed, %d are held", len(begun), h.Stats().Merged.Mixtures)
	}
}

// TestAMixtureThatCannotBePreparedIsNamed makes one of three fail.
func TestAMixtureThatCannotBePreparedIsNamed(t *testing.T) {
	cause := failure.Permanentf("Broken", "its file is broken")
	for _, form := range []engine.Form{engine.FormMerged, engine.FormUnmerged} {
		var bad string
		h := start(t, func(o *engine.Options) {
			compose, attach := o.Compose, o.Factors.Attach
			o.Form = form
			o.Compose = func(ctx context.Context, m engine.Mixture) (*model.Model, error) {
				if m.Key() == bad {
					return nil, cause
				}
				return compose(ctx, m)
			}
			o.Factors.Attach = func(ctx context.Context, m *model.Model, matrices []string) (*model.Model, error) {
				if bad == "" {
					return nil, cause
				}
				return attach(ctx, m, matrices)
			}
		})
		mixtures := h.experts(t, 3)
		if form == engine.FormMerged {
			bad = mixtures[1].Key()
		}
		err := h.Prepare(t.Context(), engine.Set{Mixtures: mixtures})
		got, ok := errors.AsType[*engine.MixtureError](err)
		if reason, permanent := failure.Of(err); !ok || got.Mixture.Key() != bad || reason != "Broken" || !permanent {
			t.Errorf("%s: got %v, want the mixture %q", form, err, bad)
		}
	}
}

// TestComposingNoticesCancellation ends the context at each of its checks in
// turn; composing must end there with its error, and before the end of one
// matrix.
func TestComposingNoticesCancellation(t *testing.T) {
	h := start(t, nil)
	v, err := expert.Read(h.volume.ExpertDir(t, h.volume.Expert(t, "skill", 1).Digest))
	if err != nil {
		t.Fatal(err)
	}
	mixed, err := expert.Mix([]expert.Weighted{{Adapter: v, Alpha: 1}})
	if err != nil {
		t.Fatal(err)
	}
	checks := &counted{Context: t.Context(), left: 1 << 30}
	if _, err := expert.Compose(checks, h.base, h.dec, mixed); err != nil {
		t.Fatal(err)
	}
	total := 1<<30 - checks.left
	if perMatrix := 4; total < perMatrix*len(v.Z) {
		t.Errorf("the context was looked at %d times for %d matrices", total, len(v.Z))
	}
	for n := range total {
		_, err := expert.Compose(&counted{Context: t.Context(), left: n}, h.base, h.dec, mixed)
		if !errors.Is(err, context.Canceled) {
			t.Fatalf("cancelled at check %d: %v", n, err)
		}
		if reason, permanent := failure.Of(err); permanent {
			t.Fatalf("cancelled at check %d: it is called %s", n, reason)
		}
	}
}

// counted is cancelled at the check after so many.
type counted struct {
	context.Context //nolint:containedctx // It is one.
	left            int
}

func (c *counted) Err() error {
	if c.left <= 0 {
		return context.Canceled
	}
	c.left--
	return c.Context.Err()
}
