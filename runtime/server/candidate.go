package server

import (
	"errors"
	"fmt"
	"time"

	"github.com/transformersquared/operator/runtime/adapt"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/engine"
	"github.com/transformersquared/operator/runtime/failure"
)

// proposal is the candidate of the desired set, and what became of it: an offer that takes
// nothing else's place.
type proposal struct {
	*offer
	mode string
	// The loader's mutex protects the rest, too.
	percent int
	salt    string
	set     *servedSet // In use; nil before.
	counts  *comparison
}

// validCandidate says what is wrong with the candidate of a set of this digest; nil is none.
func validCandidate(c *contract.CandidateSet, of string) error {
	if c == nil {
		return nil
	}
	least := 0
	switch c.Mode {
	case contract.CandidateCanary:
	case contract.CandidateObserve:
		least = 1
	default:
		return fmt.Errorf("candidate: mode %q is unknown: use %s or %s", clip(c.Mode), contract.CandidateCanary, contract.CandidateObserve)
	}
	digest, err := c.Set.Digest()
	switch {
	case err != nil:
		return fmt.Errorf("candidate: %w", err)
	case c.Set.Candidate != nil:
		return errors.New("candidate: it has a candidate itself: there is one beside a set")
	case digest == of:
		return errors.New("candidate: it is the set that it is to be compared with")
	case c.Percent < least || c.Percent > 100:
		return fmt.Errorf("candidate: percent is %d, must be from %d to 100 with mode %s", c.Percent, least, c.Mode)
	case len(c.Salt) > contract.MaxCandidateSalt:
		return fmt.Errorf("candidate: salt has %d bytes, at most %d are allowed", len(c.Salt), contract.MaxCandidateSalt)
	}
	if err := adapt.Validate(c.Set); err != nil {
		return fmt.Errorf("candidate: %w", err)
	}
	return nil
}

// propose records the candidate of the desired set, nil for none. One that is there already
// stays, and answers another share from now on if that has changed. l.mu is held.
func (l *loader) propose(c *contract.CandidateSet) {
	before := l.candidate
	var digest string
	if c != nil {
		digest, _ = c.Set.Digest() // validCandidate has found no error.
	}
	if before != nil && c != nil && before.digest == digest && before.mode == c.Mode {
		if before.err != nil {
			before.due = time.Now()
		}
		if before.percent != c.Percent || before.salt != c.Salt {
			before.percent, before.salt = c.Percent, c.Salt
			if before.whole {
				l.divide(before)
			}
		}
		return
	}
	known := l.withdraw()
	if c == nil {
		return
	}
	p := &proposal{offer: l.newOffer(c.Set, digest), mode: c.Mode, percent: c.Percent, salt: c.Salt}
	p.known = known
	l.candidate = p
}

// withdraw ends the candidate: its conversations are the set's from now on. It returns what
// was loaded of it, nil for nothing. l.mu is held.
func (l *loader) withdraw() *servedSet {
	p := l.candidate
	if p == nil {
		return nil
	}
	p.cancel(errSuperseded)
	l.candidate = nil
	if p.set != nil {
		l.divide(nil)
		l.log.Info("Withdrew candidate", "digest", p.digest)
	}
	return p.set
}

// succeed lets an offer take over from the one before and its candidate. Where it is this
// candidate and answers already, it takes the set's place at once, and no conversation that
// it has answered is answered by another one. l.mu is held.
func (l *loader) succeed(o *offer) {
	p := l.candidate
	if p == nil || p.set == nil || p.digest != o.digest || p.mode != contract.CandidateCanary {
		o.known = l.withdraw()
		return
	}
	o.whole = true
	form := l.promote(p.set)
	p.cancel(errSuperseded)
	l.candidate = nil
	l.count(o, resultTaken)
	l.log.Info("Took expert set into use", "digest", o.digest, "strategy", o.spec.Strategy,
		"experts", len(o.spec.Experts), "form", form, "was", "candidate")
}

// attemptBeside loads a candidate once, unless it has been withdrawn meanwhile.
func (l *loader) attemptBeside(p *proposal) {
	begun := time.Now()
	p.done.Store(0)
	got := l.loadBeside(p)
	problem := p.problem(got)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.candidate != p || p.ctx.Err() != nil {
		return
	}
	defer l.notify()
	p.attempts++
	if problem == nil {
		p.whole, p.err, p.set = true, nil, got.set
		p.counts = newComparison(time.Now())
		l.divide(p)
		l.log.Info("Took candidate into use", "digest", p.digest, "mode", p.mode, "percent", p.percent,
			"experts", len(p.spec.Experts), "seconds", time.Since(begun).Seconds())
		return
	}
	p.due = time.Now().Add(pauseAfter(p.attempts, problem.Permanent))
	if !problem.Permanent && p.attempts < patience {
		return
	}
	if p.err == nil || *p.err != *problem {
		l.log.Error("Could not load a candidate", "digest", p.digest, "reason", problem.Reason,
			"permanent", problem.Permanent, "error", problem.Message)
	}
	p.err = problem
}

// status says how the candidate stands; nil where there is none. l.mu is held.
func (l *loader) candidateStatus() *contract.ServingCandidate {
	p := l.candidate
	if p == nil {
		return nil
	}
	st := &contract.ServingCandidate{
		Digest: p.digest, Mode: p.mode, Percent: p.percent, Salt: p.salt, Served: p.whole, Loading: p.loading(nil),
	}
	if p.err != nil {
		e := *p.err
		st.Error = &e
	}
	if p.counts != nil {
		p.counts.fill(st)
	}
	return st
}

// loadBeside makes a candidate ready to be used beside the set in use, which keeps what it
// has. All of it is there, or nothing of it is used.
func (s *Server) loadBeside(p *proposal) attempted {
	c, set := s.core.Load(), s.set.Load()
	if set == nil {
		return attempted{err: failure.Transientf(contract.ReasonInternal, "there is no set in use that it could be compared with")}
	}
	experts, failures := map[string]*servedExpert{}, map[string]error{}
	for _, ref := range p.spec.Refs() {
		e, err := s.loadExpert(p.ctx, c, ref, set, p.known)
		if p.ctx.Err() != nil {
			return attempted{err: p.ctx.Err()}
		}
		if experts[ref.Name] = e; err != nil {
			failures[ref.Name] = err
		}
		p.done.Add(1)
	}
	chooser, err := s.loadProbe(p.ctx, p.spec.Probe, set, p.known)
	if err != nil || len(failures) > 0 {
		return attempted{failures: failures, unprobed: err}
	}
	next, err := newSet(c, p.offer, experts, chooser)
	if err == nil && !s.config.Lazy {
		d := division{candidate: next, mode: p.mode}
		err = c.engine.PrepareBeside(p.ctx, set.mixtures(), d.mixtures())
	}
	if full, ok := errors.AsType[*engine.RoomError](err); ok {
		reason := contract.ReasonHostMemory
		if c.backend.Memory().Free > 0 {
			reason = contract.ReasonDeviceMemory
		}
		err = failure.Permanent(reason, fmt.Errorf("there is no memory for a candidate beside the set: %w; give the pods more, or take fewer experts", full))
	}
	return attempted{set: next, err: err}
}

// divide takes the division between the set in use and a candidate into use, or ends it.
func (s *Server) divide(p *proposal) {
	if p == nil {
		s.division.Store(nil)
	} else {
		s.division.Store(&division{candidate: p.set, mode: p.mode, percent: p.percent, salt: p.salt, counts: p.counts})
	}
	s.retain()
}

// promote takes a candidate into use as the set. Requests look at the division first, and so
// find the candidate there, or as the set, or both.
func (s *Server) promote(candidate *servedSet) engine.Form {
	s.set.Store(candidate)
	s.division.Store(nil)
	s.retain()
	return s.core.Load().engine.Form()
}
