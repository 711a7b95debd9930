package engine

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/transformersquared/operator/runtime/model"
)

// weights keeps composed models, the least recently used of which goes when
// there are too many. A model that a request uses lives on with the request.
// Composing happens once for all who ask at the same time, outside of the
// engine's loop.
type weights struct {
	ctx     context.Context //nolint:containedctx // The engine's life; composing outlives the request that asked first.
	base    *model.Model
	compose func(context.Context, Mixture) (*model.Model, error)
	limit   int
	running sync.WaitGroup
	turn    sync.Mutex // Held while composing: one at a time bounds memory.

	mu      sync.Mutex
	entries map[string]*composed
	clock   uint64
	closed  bool
}

// composed is a model that is there when ready is closed.
type composed struct {
	ready chan struct{}
	model *model.Model
	err   error
	used  uint64
}

func newWeights(ctx context.Context, base *model.Model, compose func(context.Context, Mixture) (*model.Model, error), limit int) *weights {
	return &weights{ctx: ctx, base: base, compose: compose, limit: limit, entries: map[string]*composed{}}
}

// get returns the model of a mixture, composing it if need be.
func (w *weights) get(ctx context.Context, m Mixture) (*model.Model, error) {
	if m.IsBase() {
		return w.base, nil
	}
	entry, err := w.entry(m)
	if err != nil {
		return nil, err
	}
	select {
	case <-entry.ready:
		return entry.model, entry.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (w *weights) entry(m Mixture) (*composed, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.clock++
	if entry, ok := w.entries[m.key]; ok {
		entry.used = w.clock
		return entry, nil
	}
	if w.closed {
		return nil, ErrClosed
	}
	if w.compose == nil {
		return nil, errors.New("this engine has no decomposition to compose experts with")
	}
	entry := &composed{ready: make(chan struct{}), used: w.clock}
	w.entries[m.key] = entry
	w.evict()
	w.running.Go(func() {
		w.fill(entry, m)
	})
	return entry, nil
}

// fill composes. A failure is told to all who wait and not kept: the next
// request tries again.
func (w *weights) fill(entry *composed, m Mixture) {
	defer close(entry.ready)
	w.turn.Lock()
	defer w.turn.Unlock()
	if w.ctx.Err() != nil {
		entry.err = ErrClosed
	} else if entry.model, entry.err = w.compose(w.ctx, m); entry.err != nil {
		entry.err = fmt.Errorf("composing the weights of %s: %w", m.key, entry.err)
	}
	if entry.err == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.entries[m.key] == entry {
		delete(w.entries, m.key)
	}
}

// evict removes the least recently used until the limit holds. The one just
// asked for is the most recently used.
func (w *weights) evict() {
	for len(w.entries) > w.limit {
		oldest := ""
		for key, entry := range w.entries {
			if oldest == "" || entry.used < w.entries[oldest].used {
				oldest = key
			}
		}
		delete(w.entries, oldest)
	}
}

// retain forgets all but the given mixtures.
func (w *weights) retain(mixtures []Mixture) {
	keep := map[string]bool{}
	for _, m := range mixtures {
		keep[m.key] = true
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for key := range w.entries {
		if !keep[key] {
			delete(w.entries, key)
		}
	}
}

func (w *weights) len() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.entries)
}

// wait returns when nothing is being composed any more, and refuses new
// mixtures from now on. The context must be done, or it may take long.
func (w *weights) wait() {
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	w.running.Wait()
}
