package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/transformersquared/operator/runtime/model"
)

// weights keeps what mixtures are computed with: composed models, factors, and
// scales of the factors. Of composed models and of scales the least recently
// used go when there are too many; what a request uses lives on with the
// request. Each is made once for all who ask at the same time, outside of the
// engine's loop. What a request asked for is made to its end; what only a
// prepare asked for is given up with it.
type weights struct {
	ctx     context.Context //nolint:containedctx // The engine's life; composing outlives the request that asked first.
	policy  policy
	compose func(context.Context, Mixture) (*model.Model, error)
	running sync.WaitGroup
	turn    chan struct{} // One place: composing or reading factors, one at a time, bounds memory.

	mu sync.Mutex
	// used are the sets in use, of which there is one at least, and the first is the one that
	// answers.
	used []inUse
	// scales and composed are how many scales and merged models are kept.
	scales, composed int
	entries          map[key]*held
	room             room
	clock            uint64
	closed           bool
}

// held is a variant that is there when ready is closed.
type held struct {
	plan    plan // By which it is made.
	ready   chan struct{}
	variant variant
	err     error

	// weights.mu protects the rest.
	used uint64
	// ctx ends when nobody wants the variant any more: no request has asked for it,
	// and the prepares that did, so many, have given up.
	ctx       context.Context //nolint:containedctx // It is the life of what makes the variant.
	cancel    context.CancelFunc
	asked     bool
	preparing int
	users     int  // Requests that use it, or wait for it.
	dropped   bool // It is not held any more.
}

func newWeights(ctx context.Context, p policy, compose func(context.Context, Mixture) (*model.Model, error)) *weights {
	return &weights{
		ctx: ctx, policy: p, compose: compose, used: []inUse{p.use(Set{})}, scales: p.composed, composed: p.composed, entries: map[key]*held{},
		turn: make(chan struct{}, 1), room: newRoom(p.budget),
	}
}

// job returns a job of a prompt: with what computes its mixture, and what reads the prompt
// for it where that is the base. The last token of the prompt, behind which the answer
// begins, is the mixture's. The engine's finish releases what the job uses.
func (w *weights) job(ctx context.Context, m Mixture, salt string, scored bool, prompt []int32) (*job, error) {
	j := &job{ctx: ctx, prompt: prompt}
	var err error
	if j.variant, err = w.get(j, m, salt, scored); err != nil || len(prompt) < 2 {
		return j, err
	}
	switch {
	case m.OnAnswers():
		j.byReader = len(prompt) - 1
		if j.reader, err = w.get(j, Mixture{}, salt, true); err != nil {
			w.release(j.uses)
		}
	case m.IsBase() && w.policy.reader != nil:
		j.byReader = len(prompt) - 1
		j.reader = variant{key: key{form: FormMerged, mixture: readerName, salt: salt}, model: w.policy.reader, form: FormMerged}
	}
	return j, err
}

// readerName is that of Options.Reader, where mixtures have their keys.
const readerName = "reader"

// get returns what a job's mixture is computed with, making it if need be, and has the job
// use it. scored says that the request is one of pass 1. salt becomes part of the variant's
// key.
func (w *weights) get(j *job, m Mixture, salt string, scored bool) (variant, error) {
	w.mu.Lock()
	p := w.planOf(m)
	k := p.key(m, scored)
	entry, err := w.find(p, k, m, true)
	if entry != nil {
		entry.users++
	}
	w.mu.Unlock()
	if err != nil {
		return variant{}, err
	}
	v := variant{model: w.policy.base, form: FormMerged} // The base's own weights.
	if entry != nil {
		if v, err = entry.wait(j.ctx); err != nil {
			w.release([]*held{entry})
			return variant{}, err
		}
		j.uses = append(j.uses, entry)
	}
	v.key = k
	v.key.salt = salt
	return v, nil
}

// ensure makes what a mixture is computed with by a plan that is not in use yet.
func (w *weights) ensure(ctx context.Context, p plan, m Mixture) error {
	w.mu.Lock()
	k := p.key(m, false)
	entry, err := w.find(&p, k, m, false)
	if entry != nil {
		entry.preparing++
	}
	w.mu.Unlock()
	if entry == nil {
		return err
	}
	_, err = entry.wait(ctx)
	w.mu.Lock()
	defer w.mu.Unlock()
	if entry.preparing--; entry.preparing == 0 && !entry.asked && !entry.isDone() {
		entry.cancel()
		if w.entries[k] == entry {
			w.drop(k) // Who asks from now on begins anew.
		}
	}
	return err
}

// find returns what is held under a key; nil for the base's own weights. w.mu is
// held.
func (w *weights) find(p *plan, k key, m Mixture, asked bool) (*held, error) {
	if k.form == FormMerged && m.IsBase() {
		return nil, nil //nolint:nilnil // Nothing is held, and nothing needs to be.
	}
	return w.entry(p, k, m, asked)
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
func (w *weights) entry(p *plan, k key, m Mixture, asked bool) (*held, error) {
	w.clock++
	if entry, ok := w.entries[k]; ok {
		entry.used = w.clock
		entry.asked = entry.asked || asked
		return entry, nil
	}
	if w.closed {
		return nil, ErrClosed
	}
	entry := &held{ready: make(chan struct{}), used: w.clock, asked: asked, plan: *p}
	var fill func() error
	switch {
	case k.form == FormMerged && w.compose == nil:
		return nil, errors.New("this engine has no decomposition to compose experts with")
	case k.form == FormMerged:
		fill = func() error { return w.fillMerged(entry, m) }
	case m.IsBase():
		fill = func() error { return w.fillFactors(entry) }
	default:
		factors, err := w.entry(p, k.base(), Mixture{}, asked)
		if err != nil {
			return nil, err
		}
		fill = func() error { return w.fillScales(entry, factors, m) }
	}
	entry.ctx, entry.cancel = context.WithCancel(w.ctx)
	w.entries[k] = entry
	w.evict(k.form)
	w.running.Go(func() {
		defer entry.cancel()
		w.fill(entry, k, fill)
	})
	return entry, nil
}

// fill makes an entry. A failure is told to all who wait and not kept: the next
// request tries again.
func (w *weights) fill(entry *held, k key, fill func() error) {
	defer close(entry.ready)
	entry.err = fill()
	if entry.err == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.entries[k] == entry {
		w.drop(k)
	}
}

// made records what was made for an entry; the next one may be made then.
func (w *weights) made(entry *held, v variant) {
	w.mu.Lock()
	defer w.mu.Unlock()
	entry.variant = v
	w.room.alive[entry] = true
	w.room.settle(entry)
}

// take waits for the turn of an entry to be made; done gives it to the next one.
func (w *weights) take(entry *held) (done func(), err error) {
	select {
	case w.turn <- struct{}{}:
		if entry.ctx.Err() == nil {
			return func() { <-w.turn }, nil
		}
		<-w.turn
	case <-entry.ctx.Done():
	}
	if w.ctx.Err() != nil {
		return nil, ErrClosed
	}
	return nil, context.Cause(entry.ctx)
}

func (w *weights) fillMerged(entry *held, m Mixture) error {
	done, err := w.take(entry)
	if err != nil {
		return err
	}
	defer done()
	if err := w.makeRoom(entry, w.policy.mergedBytes(m)); err != nil {
		return fmt.Errorf("composing the weights of %s: %w", m.key, err)
	}
	composed, err := w.compose(entry.ctx, m)
	if err != nil {
		return fmt.Errorf("composing the weights of %s: %w", m.key, err)
	}
	w.made(entry, variant{model: composed, form: FormMerged})
	return nil
}

// fillFactors makes the unmerged base model of a plan. Factors that another one has
// already, of the set before, are shared with it.
func (w *weights) fillFactors(entry *held) error {
	done, err := w.take(entry)
	if err != nil {
		return err
	}
	defer done()
	m := w.policy.base
	missing := entry.plan.matrices
	for _, other := range w.unmerged() {
		has := other.matrices
		shared := slices.DeleteFunc(slices.Clone(missing), func(name string) bool { return !slices.Contains(has, name) })
		if m, err = m.WithFactorsOf(other.model, shared); err != nil {
			return fmt.Errorf("sharing factors: %w", err)
		}
		missing = slices.DeleteFunc(slices.Clone(missing), func(name string) bool { return slices.Contains(shared, name) })
	}
	if len(missing) > 0 {
		if err := w.makeRoom(entry, w.policy.factorBytes(missing)); err != nil {
			return fmt.Errorf("loading the factors of %d matrices: %w", len(missing), err)
		}
		if m, err = w.policy.factors.Attach(entry.ctx, m, missing); err != nil {
			return fmt.Errorf("loading the factors of %d matrices: %w", len(missing), err)
		}
	}
	if m, err = entry.plan.beside(m); err != nil {
		return fmt.Errorf("loading low-rank matrices and gains: %w", err)
	}
	w.made(entry, variant{model: m, form: FormUnmerged})
	return nil
}

// loaded is an unmerged model and what is factored in it.
type loaded struct {
	matrices []string
	model    *model.Model
}

// unmerged lists the unmerged models that are there.
func (w *weights) unmerged() []loaded {
	w.mu.Lock()
	defer w.mu.Unlock()
	var list []loaded
	for k, entry := range w.entries {
		if k.form == FormUnmerged && k.mixture == "" && entry.isReady() {
			list = append(list, loaded{matrices: entry.plan.matrices, model: entry.variant.model})
		}
	}
	return list
}

// fillScales makes the scales of a mixture, which takes some thousand products.
func (w *weights) fillScales(entry, factors *held, m Mixture) error {
	made, err := factors.wait(entry.ctx)
	if w.ctx.Err() != nil {
		return ErrClosed
	}
	if err != nil {
		return err
	}
	branches, err := entry.plan.branches(m)
	if err == nil {
		made.scales, err = made.model.NewScales(branches)
	}
	if err != nil {
		return fmt.Errorf("scaling by %s: %w", m.key, err)
	}
	w.made(entry, made)
	return nil
}

// isReady reports whether the entry is there and no failure.
func (h *held) isReady() bool { return h.isDone() && h.err == nil }

// isDone reports whether the entry is there or has failed.
func (h *held) isDone() bool {
	select {
	case <-h.ready:
		return true
	default:
		return false
	}
}

// evict removes the least recently used mixtures of a form until its limit
// holds. The one just asked for is the most recently used. Factors stay: retain
// removes them.
func (w *weights) evict(form Form) {
	limit := w.composed
	if form == FormUnmerged {
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
		w.drop(oldest)
	}
}

// prepare makes what a set needs, without taking it into use. What is not made
// when ctx ends is given up, unless a request has asked for it, too.
func (w *weights) prepare(ctx context.Context, s Set) error {
	p := w.policy.decide(s)
	mixtures := s.Mixtures
	if p.form == FormUnmerged {
		w.mu.Lock()
		w.scales = max(w.scales, w.policy.composed+len(mixtures))
		w.mu.Unlock()
		mixtures = append([]Mixture{{}}, mixtures...)
	} else {
		mixtures = w.ahead(s)
	}
	for _, m := range mixtures {
		err := w.ensure(ctx, p, m)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			return &MixtureError{Mixture: m, Err: err}
		}
	}
	return nil
}

// retain takes the plans of sets into use and forgets what they have no use for.
func (w *weights) retain(sets ...Set) {
	used, keep := make([]inUse, len(sets)), map[key]bool{}
	mixtures := 0
	for i, s := range sets {
		used[i] = w.policy.use(s)
		keep[used[i].plan.key(Mixture{}, false)] = true
		for _, m := range s.Mixtures {
			keep[used[i].plan.key(m, false)] = true
		}
		mixtures += len(s.Mixtures)
	}
	composed := w.policy.composed
	if len(sets) > 1 {
		composed = max(composed, len(w.together(sets).merged))
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.used, w.scales, w.composed = used, w.policy.composed+mixtures, composed
	for k := range w.entries {
		if !keep[k] {
			w.drop(k)
		}
	}
}

// scoring is the key of what a mixture reads pass 1's prompts with.
func (w *weights) scoring(m Mixture) key {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.planOf(m).key(m, true)
}

// form is the form of the set that answers.
func (w *weights) form() Form {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.used[0].plan.form
}

// count adds what is held in each form, and what that and what is still in use takes.
func (w *weights) count(merged, unmerged *FormStats) {
	w.mu.Lock()
	for k, entry := range w.entries {
		switch {
		case !w.room.alive[entry]:
		case k.form == FormMerged:
			merged.Mixtures++
		case k.mixture != "":
			unmerged.Mixtures++
		}
	}
	for entry := range w.room.alive {
		if s := entry.variant.scales; s != nil {
			unmerged.Bytes += s.Bytes()
		}
	}
	composed, factors := w.room.models(FormMerged), w.room.models(FormUnmerged)
	w.mu.Unlock()
	merged.Bytes += w.policy.base.ProjectionBytes(composed...)
	unmerged.Bytes += w.policy.base.ProjectionBytes(factors...)
}

// wait returns when nothing is being composed any more, and refuses new
// mixtures from now on. The context must be done, or it may take long.
func (w *weights) wait() {
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	w.running.Wait()
}
