package server

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/failure"
)

// Status is what contract.PathExpertSet answers.
func (s *Server) Status() contract.ServingStatus {
	st := contract.ServingStatus{Requests: s.requests.Load(), Fallbacks: s.fallbacks.Load(), BaseOutcomes: s.base.Count()}
	s.mu.Lock()
	if s.lastSeen != nil {
		seen := *s.lastSeen
		st.LastAdaptation, st.LastAdaptationTime = &seen, s.lastTime.UTC()
	}
	s.mu.Unlock()
	if c := s.core.Load(); c != nil {
		st.Device = c.backend.Name()
	}
	// Under the loader's mutex, so that what is desired and what is in use belong
	// together.
	s.loader.mu.Lock()
	defer s.loader.mu.Unlock()
	set := s.set.Load()
	if set != nil {
		st.ExpertSetDigest = set.digest
	}
	st.Error = s.loader.refused
	if o := s.loader.desired; o != nil {
		st.DesiredDigest, st.Loading = o.digest, o.loading(set)
		if o.err != nil {
			e := *o.err
			st.Error = &e
		}
	}
	st.Experts = s.loader.experts(set)
	st.Probe = s.loader.probe(set)
	st.Candidate = s.loader.candidateStatus()
	return st
}

// loading says how far the loading of an offer is; nil if it is in use or could
// not be loaded. The loader's mutex is held.
func (o *offer) loading(inUse *servedSet) *contract.LoadingSet {
	if o.whole || o.err != nil || inUse != nil && inUse.digest == o.digest {
		return nil
	}
	return &contract.LoadingSet{
		Digest: o.digest, Since: o.since.UTC(), Done: int(o.done.Load()), Total: len(o.spec.Refs()),
	}
}

// experts lists those of the desired set, the classifier too, and those in use. l.mu is held.
func (l *loader) experts(inUse *servedSet) []contract.ServedExpert {
	list := []contract.ServedExpert{}
	named := map[string]bool{}
	if l.desired != nil {
		for _, ref := range l.desired.spec.Refs() {
			named[ref.Name] = true
			list = append(list, l.desired.expert(ref, inUse))
		}
	}
	if inUse == nil {
		return list
	}
	for _, ref := range inUse.spec.Refs() {
		if !named[ref.Name] {
			served := inUse.named(ref.Name)
			list = append(list, contract.ServedExpert{
				Name: ref.Name, Digest: ref.Digest, State: contract.ExpertServed, Requests: served.requests.Load(), Outcomes: served.outcomes.Count(),
			})
		}
	}
	return list
}

// probe says how the probe of the desired set stands; nil where that has none. l.mu is held.
func (l *loader) probe(inUse *servedSet) *contract.ServedProbe {
	o := l.desired
	if o == nil || o.spec.Probe == nil {
		return nil
	}
	p := &contract.ServedProbe{Digest: o.spec.Probe.Digest, State: contract.ExpertLoading}
	switch {
	case inUse != nil && inUse.probe != nil && inUse.probe.Manifest.Digest == p.Digest:
		p.State = contract.ExpertServed
	case o.err == nil: // Not told yet, or not known.
	case o.unprobed != nil:
		p.State, p.Error = contract.ExpertFailed, loadError(p.Digest, o.unprobed)
	default: // Of something that is wrong with the set as a whole.
		whole := *o.err
		p.State, p.Error = contract.ExpertFailed, &whole
	}
	return p
}

// expert says how an expert of the offer stands. The loader's mutex is held.
func (o *offer) expert(ref contract.ExpertRef, inUse *servedSet) contract.ServedExpert {
	e := contract.ServedExpert{Name: ref.Name, State: contract.ExpertLoading}
	if inUse != nil {
		if served := inUse.named(ref.Name); served != nil {
			e.Digest, e.Requests, e.Outcomes = served.ref.Digest, served.requests.Load(), served.outcomes.Count()
		}
	}
	why := o.failures[ref.Name]
	switch {
	case e.Digest == ref.Digest:
		e.State = contract.ExpertServed
	case o.err == nil: // Not told yet, or not known.
	case why != nil:
		e.State, e.Error = contract.ExpertFailed, loadError(ref.Digest, why)
	default: // Of something that is wrong with the set as a whole.
		whole := *o.err
		e.State, e.Error = contract.ExpertFailed, &whole
	}
	return e
}

// absence says why no expert set is in use.
func (l *loader) absence() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.refused != nil:
		return fmt.Errorf("no expert set is in use; the last was refused: %s", l.refused.Message)
	case l.desired == nil:
		return errors.New("no expert set is in use yet")
	case l.desired.err != nil:
		return fmt.Errorf("no expert set is in use; the last could not be loaded: %s", l.desired.err.Message)
	default:
		return fmt.Errorf("no expert set is in use yet; one is being loaded since %s", l.desired.since.UTC().Format(time.RFC3339))
	}
}

// hindrance says why an expert of the desired set is not served; nil if it is
// no expert of that set.
func (l *loader) hindrance(name string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	named := func(ref contract.ExpertRef) bool { return ref.Name == name }
	if l.desired == nil || !slices.ContainsFunc(l.desired.spec.Experts, named) {
		return nil
	}
	why := "is still being loaded: try again in a moment"
	if l.desired.err != nil {
		// What is wrong with which file is for the status, not for the clients.
		reason := l.desired.err.Reason
		if err := l.desired.failures[name]; err != nil {
			reason, _ = failure.Of(err)
		}
		why = fmt.Sprintf("could not be loaded (%s): use another model until it is", reason)
	}
	return newError(http.StatusServiceUnavailable, typeServer, "expert_not_loaded", "model",
		"the expert %q %s", clip(strings.TrimSpace(name)), why)
}
