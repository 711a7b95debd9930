package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/transformersquared/operator/runtime/expert"
	"github.com/transformersquared/operator/runtime/model"
)

// weights keeps what mixtures are computed with: composed models, factors, and
// scales of the factors. Of composed models and of scales the least recently
// used go when there are too many; what a request uses lives on with the
// request. Each is made once for all who ask at the same time, outside of the
// engine's loop.
type weights struct {
	ctx     context.Context //nolint:containedctx // The engine's life; composing outlives the request that asked first.
	policy  policy
	compose func(context.Context, Mixture) (*model.Model, error)
	running sync.WaitGroup
	turn    sync.Mutex // Held while composing or reading factors: one at a time bounds memory.

	mu      sync.Mutex
	plan    plan
	scales  int // How many scales are kept.
	entries map[key]*held
	clock   uint64
	closed  bool
}

// held is a variant that is there when ready is closed.
type held struct {
	ready   chan struct{}
	variant variant
	err     error
	used    uint64
}

func newWeights(ctx context.Context, p policy, compose func(context.Context, Mixture) (*model.Model, error)) *weights {
	return &weights{
		ctx: ctx, policy: p, compose: compose, plan: p.decide(Set{}), scales: p.composed, entries: map[key]*held{},
	}
}

// get returns what a mixture is computed with, making it if need be. scored
// says that the request is one of pass 1.
func (w *weights) get(ctx context.Context, m Mixture, scored bool) (variant, error) {
	return w.under(ctx, nil, m, scored)
}

// under does so by a plan that may not be in use yet; nil means the one in use.
func (w *weights) under(ctx context.Context, p *plan, m Mixture, scored bool) (variant, error) {
	w.mu.Lock()
	if p == nil {
		p = &w.plan
	}
	k := p.key(m, scored)
	if k.form == FormMerged && m.IsBase() {
		w.mu.Unlock()
		return variant{model: w.policy.base, form: FormMerged}, nil
	}
	entry, err := w.entry(k, m)
	w.mu.Unlock()
	if err != nil {
		return variant{}, err
	}
	return entry.wait(ctx)
}

// wait returns what is held as soon as it is there.
func (h *held) wait(ctx context.Context) (variant, error) {
	select {
	case <-h.ready:
		return h.variant, h.err
	case <-ctx.Done():
		return variant{}, context.Cause(ctx)
	}
}

// entry returns what is held under a key, and begins to make it if nothing is.
// w.mu is held.
func (w *weights) entry(k key, m Mixture) (*held, error) {
	w.clock++
	if entry, ok := w.entries[k]; ok {
		entry.used = w.clock
		return entry, nil
	}
	if w.closed {
		return nil, ErrClosed
	}
	entry := &held{ready: make(chan struct{}), used: w.clock}
	var fill func() error
	switch {
	case k.form == FormMerged && w.compose == nil:
		return nil, errors.New("this engine has no decomposition to compose experts with")
	case k.form == FormMerged:
		fill = func() error { return w.fillMerged(entry, m) }
	case m.IsBase():
		fill = func() error { return w.fillFactors(entry, k) }
	default:
		factors, err := w.entry(k.base(), Mixture{})
		if err != nil {
			return nil, err
		}
		fill = func() error { return w.fillScales(entry, factors, m) }
	}
	w.entries[k] = entry
	w.evict(k.form)
	w.running.Go(func() {
		w.fill(entry, k, fill)
	})
	return entry, nil
}

// fill makes an entry. A failure is told to all who wait and not kept: the next
// request tries again.
func (w *weights) fill(entry *held, k key, fill func() error) {
	defer close(entry.ready)
	if entry.err = fill(); entry.err == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.entries[k] == entry {
		delete(w.entries, k)
	}
}

func (w *weights) fillMerged(entry *held, m Mixture) error {
	w.turn.Lock()
	defer w.turn.Unlock()
	if w.ctx.Err() != nil {
		return ErrClosed
	}
	composed, err := w.compose(w.ctx, m)
	if err != nil {
		return fmt.Errorf("composing the weights of %s: %w", m.key, err)
	}
	entry.variant = variant{model: composed, form: FormMerged}
	return nil
}

// fillFactors makes the factored base model of a plan's matrices. Those that
// another one has already, of the set before, are shared with it.
func (w *weights) fillFactors(entry *held, k key) error {
	w.turn.Lock()
	defer w.turn.Unlock()
	if w.ctx.Err() != nil {
		return ErrClosed
	}
	m := w.policy.base
	missing := k.matrices()
	for _, other := range w.factored() {
		has := other.key.matrices()
		shared := slices.DeleteFunc(slices.Clone(missing), func(name string) bool { return !slices.Contains(has, name) })
		var err error
		if m, err = m.WithProjectionsOf(other.model, shared); err != nil {
			return fmt.Errorf("sharing factors: %w", err)
		}
		missing = slices.DeleteFunc(missing, func(name string) bool { return slices.Contains(shared, name) })
	}
	m, err := w.policy.factors.Attach(w.ctx, m, missing)
	if err != nil {
		return fmt.Errorf("loading the factors of %d matrices: %w", len(missing), err)
	}
	entry.variant = variant{model: m, form: FormFactored}
	return nil
}

// loaded is a factored model and its key.
type loaded struct {
	key   key
	model *model.Model
}

// factored lists the factored models that are there.
func (w *weights) factored() []loaded {
	w.mu.Lock()
	defer w.mu.Unlock()
	var list []loaded
	for k, entry := range w.entries {
		if k.form == FormFactored && k.mixture == "" && entry.isReady() {
			list = append(list, loaded{key: k, model: entry.variant.model})
		}
	}
	return list
}

// fillScales makes the scales of a mixture, which takes some thousand products.
func (w *weights) fillScales(entry, factors *held, m Mixture) error {
	made, err := factors.wait(w.ctx)
	if w.ctx.Err() != nil {
		return ErrClosed
	}
	if err != nil {
		return err
	}
	z, err := expert.Mix(m.parts)
	if err == nil {
		made.scales, err = made.model.NewScales(z)
	}
	if err != nil {
		return fmt.Errorf("scaling by %s: %w", m.key, err)
	}
	entry.variant = made
	return nil
}

// isReady reports whether the entry is there and no failure.
func (h *held) isReady() bool {
	select {
	case <-h.ready:
		return h.err == nil
	default:
		return false
	}
}

// evict removes the least recently used mixtures of a form until its limit
// holds. The one just asked for is the most recently used. Factors stay: retain
// removes them.
func (w *weights) evict(form Form) {
	limit := w.policy.composed
	if form == FormFactored {
		limit = w.scales
	}
	for {
		n := 0
		var oldest key
		for k, entry := range w.entries {
			if k.form != form || k.mixture == "" {
				continue
			}
			if n++; n == 1 || entry.used < w.entries[oldest].used {
				oldest = k
			}
		}
		if n <= limit {
			return
		}
		delete(w.entries, oldest)
	}
}

// prepare makes what a set needs, without taking it into use.
func (w *weights) prepare(ctx context.Context, s Set) error {
	p := w.policy.decide(s)
	mixtures := s.Mixtures
	if p.form == FormFactored {
		w.mu.Lock()
		w.scales = max(w.scales, w.policy.composed+len(mixtures))
		w.mu.Unlock()
		mixtures = append([]Mixture{{}}, mixtures...)
	} else {
		mixtures = mixtures[:min(len(mixtures), w.policy.composed)]
	}
	for _, m := range mixtures {
		if _, err := w.under(ctx, &p, m, false); err != nil {
			return err
		}
	}
	return nil
}

// retain takes the plan of a set into use and forgets what it has no use for.
func (w *weights) retain(s Set) {
	p := w.policy.decide(s)
	keep := map[key]bool{p.key(Mixture{}, false): true}
	for _, m := range s.Mixtures {
		keep[p.key(m, false)] = true
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.plan, w.scales = p, w.policy.composed+len(s.Mixtures)
	for k := range w.entries {
		if !keep[k] {
			delete(w.entries, k)
		}
	}
}

// form is the form of the plan in use.
func (w *weights) form() Form {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.plan.form
}

// count adds what is held in each form.
func (w *weights) count(merged, factored *FormStats) {
	var composed, factors []*model.Model
	w.mu.Lock()
	for k, entry := range w.entries {
		if !entry.isReady() {
			continue
		}
		switch {
		case k.form == FormMerged:
			merged.Mixtures++
			composed = append(composed, entry.variant.model)
		case k.mixture == "":
			factors = append(factors, entry.variant.model)
		default:
			factored.Mixtures++
			factored.Bytes += entry.variant.scales.Bytes()
		}
	}
	w.mu.Unlock()
	merged.Bytes += w.policy.base.ProjectionBytes(composed...)
	factored.Bytes += w.policy.base.ProjectionBytes(factors...)
}

// wait returns when nothing is being composed any more, and refuses new
// mixtures from now on. The context must be done, or it may take long.
func (w *weights) wait() {
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	w.running.Wait()
}
