package engine

import (
	"context"
	"fmt"
	"runtime"

	"github.com/transformersquared/operator/runtime/host"
	"github.com/transformersquared/operator/runtime/model"
)

// room accounts for the memory of what mixtures are computed with: of what is held for
// requests to come, and of what requests still use that is not held any more.
type room struct {
	budget int64          // 0 means none.
	alive  map[*held]bool // What was made and not given up by all.
	freed  chan struct{}  // Closed, and replaced, when something went.
}

func newRoom(budget int64) room {
	return room{budget: budget, alive: map[*held]bool{}, freed: make(chan struct{})}
}

// models lists the models that are alive. weights.mu is held.
func (r *room) models(form Form) []*model.Model {
	var all []*model.Model
	for entry := range r.alive {
		if form == "" || entry.variant.form == form {
			all = append(all, entry.variant.model)
		}
	}
	return all
}

// settle forgets an entry that is neither held nor used. weights.mu is held.
func (r *room) settle(entry *held) {
	if entry.dropped && entry.users == 0 && r.alive[entry] {
		delete(r.alive, entry)
		close(r.freed)
		r.freed = make(chan struct{})
	}
}

// drop stops to hold what is under a key; requests that use it go on with it. w.mu is held.
func (w *weights) drop(k key) {
	entry := w.entries[k]
	delete(w.entries, k)
	entry.dropped = true
	w.room.settle(entry)
}

// release ends the use of entries by a request.
func (w *weights) release(used []*held) {
	if len(used) == 0 {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, entry := range used {
		entry.users--
		w.room.settle(entry)
	}
}

// makeRoom waits until there are so many bytes for an entry, which has the turn: merged
// models that were used longest ago are not held any longer, and those that requests use
// leave with these. The error wraps ErrBusy where nothing can leave: factors stay as long as
// their set.
func (w *weights) makeRoom(entry *held, bytes int64) error {
	if w.room.budget == 0 {
		return nil
	}
	for gone := false; ; {
		w.mu.Lock()
		used := w.policy.base.ProjectionBytes(w.room.models("")...)
		if used+bytes <= w.room.budget {
			w.mu.Unlock()
			if gone {
				// A backend may not know what nobody refers to before that was collected.
				runtime.GC()
			}
			return nil
		}
		gone = true
		evicted, leaving, freed := w.evictMerged(), w.leaving(), w.room.freed
		w.mu.Unlock()
		if evicted {
			continue
		}
		if !leaving {
			return fmt.Errorf("%s more for experts, of which %s are in use and may be %s: %w",
				host.SizeText(bytes), host.SizeText(used), host.SizeText(w.room.budget), ErrBusy)
		}
		select {
		case <-freed:
		case <-entry.ctx.Done():
			if w.ctx.Err() != nil {
				return ErrClosed
			}
			return context.Cause(entry.ctx)
		}
	}
}

// evictMerged drops the merged model that was used longest ago, and reports whether there
// was one. w.mu is held.
func (w *weights) evictMerged() bool {
	var oldest key
	found := false
	for k, entry := range w.entries {
		if k.form == FormMerged && w.room.alive[entry] && (!found || entry.used < w.entries[oldest].used) {
			oldest, found = k, true
		}
	}
	if found {
		w.drop(oldest)
	}
	return found
}

// leaving reports whether something is in use that is not held. w.mu is held.
func (w *weights) leaving() bool {
	for entry := range w.room.alive {
		if entry.dropped {
			return true
		}
	}
	return false
}

// ahead lists the mixtures of a set that are merged before the first request: those that
// there is room for beside factors that are in use, in their order. Where one is fixed the
// others are made when somebody asks for them.
func (w *weights) ahead(s Set) []Mixture {
	mixtures := w.policy.kept(s)
	if w.room.budget == 0 {
		return mixtures
	}
	w.mu.Lock()
	left := w.room.budget - w.policy.base.ProjectionBytes(w.room.models(FormUnmerged)...)
	w.mu.Unlock()
	for i, m := range mixtures {
		if left -= w.policy.mergedBytes(m); left < 0 {
			return mixtures[:i]
		}
	}
	return mixtures
}

// mergedBytes is what the dense matrices of a mixture take.
func (p *policy) mergedBytes(m Mixture) int64 {
	needs := needsOf([]Mixture{m})
	adapted := needs.scaled
	for _, more := range []map[string]bool{needs.in, needs.out} {
		for name := range more {
			adapted[name] = true
		}
	}
	for _, e := range needs.experts {
		addAll(adapted, e.Low)
	}
	var sum int64
	for _, l := range p.base.Linears() {
		if adapted[l.Name] {
			sum += p.base.DType().Bytes(l.Out, l.In)
		}
	}
	return sum
}

// factorBytes is what the factors of these matrices take.
func (p *policy) factorBytes(matrices []string) int64 {
	wanted := map[string]bool{}
	for _, name := range matrices {
		wanted[name] = true
	}
	var sum int64
	for _, l := range p.base.Linears() {
		if wanted[l.Name] {
			sum += unmergedBytes(p.base.DType(), l.Out, l.In, p.factors.Rank(l.Name))
		}
	}
	return sum
}

// holdsFactors reports whether there is room for the factors of all matrices, and so for
// those of any two sets at a time.
func (p *policy) holdsFactors() bool {
	return p.budget == 0 || p.factorBytes(p.factors.Matrices) <= p.budget
}

// keeps is how many merged models of these mixtures are kept.
func (p *policy) keeps(mixtures []Mixture) int {
	largest := int64(1)
	for _, m := range mixtures {
		largest = max(largest, p.mergedBytes(m))
	}
	if p.budget == 0 {
		return p.composed
	}
	return int(min(p.budget/largest, int64(p.composed)))
}
