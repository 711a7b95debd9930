package engine

import (
	"context"
	"fmt"
	"slices"

	"github.com/transformersquared/operator/runtime/host"
)

// inUse is a set that was taken into use, with the plan that was made for it.
type inUse struct {
	plan plan
	// listed are the keys of the set's mixtures.
	listed map[string]bool
}

// use decides about a set.
func (p policy) use(s Set) inUse {
	u := inUse{plan: p.decide(s), listed: make(map[string]bool, len(s.Mixtures))}
	for _, m := range s.Mixtures {
		u.listed[m.key] = true
	}
	return u
}

// planOf is the plan that a mixture is computed by: that of the first set which lists it.
// One that none lists is a blend of a set's: such a set has an unmerged model that covers it,
// if any has. w.mu is held.
func (w *weights) planOf(m Mixture) *plan {
	if len(w.used) == 1 || m.IsBase() {
		return &w.used[0].plan
	}
	for i := range w.used {
		if w.used[i].listed[m.key] {
			return &w.used[i].plan
		}
	}
	for i := range w.used {
		if p := &w.used[i].plan; p.form == FormUnmerged && p.covers(m) {
			return p
		}
	}
	return &w.used[0].plan
}

// kept are the mixtures of a set that are held merged, if they are not held unmerged: as many
// as are kept. Where one is fixed the others are made when somebody asks for them.
func (p *policy) kept(s Set) []Mixture {
	mixtures := s.Mixtures[:min(len(s.Mixtures), p.composed)]
	if s.Fixed {
		mixtures = mixtures[:min(len(mixtures), 1)]
	}
	return mixtures
}

// together is what several sets need at a time.
type together struct {
	merged   map[string]Mixture // By key.
	matrices []string           // Those that are factored.
}

func (w *weights) together(sets []Set) together {
	all := together{merged: map[string]Mixture{}}
	for _, s := range sets {
		p := w.policy.decide(s)
		if p.form == FormUnmerged {
			all.matrices = append(all.matrices, p.matrices...)
			continue
		}
		for _, m := range w.policy.kept(s) {
			if !m.IsBase() {
				all.merged[m.key] = m
			}
		}
	}
	slices.Sort(all.matrices)
	all.matrices = slices.Compact(all.matrices)
	return all
}

// bytes is what it takes.
func (p *policy) bytes(t together) int64 {
	sum := p.factorBytes(t.matrices)
	for _, m := range t.merged {
		sum += p.mergedBytes(m)
	}
	return sum
}

// RoomError says that there is no room for a set beside another.
type RoomError struct {
	// Needed is what both need together, Alone what the first one needs, and Budget what
	// there is, in bytes.
	Needed, Alone, Budget int64
}

// Error has the numbers.
func (e *RoomError) Error() string {
	return fmt.Sprintf("both sets need %s for experts, of which the one that is served needs %s, and there are %s",
		host.SizeText(e.Needed), host.SizeText(e.Alone), host.SizeText(e.Budget))
}

// PrepareBeside makes what a set needs that will be used beside one that is in use, which
// keeps what it has. Where both have no room at a time nothing is made: a *RoomError. Other
// errors are as those of Prepare.
func (e *Engine) PrepareBeside(ctx context.Context, used, beside Set) error {
	w := e.weights
	all := w.together([]Set{used, beside})
	if budget := w.policy.budget; budget > 0 {
		needed, alone := w.policy.bytes(all), w.policy.bytes(w.together([]Set{used}))
		if needed > budget && needed > alone { // One that adds nothing takes nothing away.
			return &RoomError{Needed: needed, Alone: alone, Budget: budget}
		}
	}
	w.mu.Lock()
	w.composed = max(w.composed, len(all.merged))
	w.scales = max(w.scales, w.policy.composed+len(used.Mixtures)+len(beside.Mixtures))
	w.mu.Unlock()
	// What is in use was used last, then: what goes, where something has to, is neither's.
	if err := w.prepare(ctx, used); err != nil {
		return err
	}
	return w.prepare(ctx, beside)
}
