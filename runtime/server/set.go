package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"github.com/transformersquared/operator/runtime/adapt"
	"github.com/transformersquared/operator/runtime/artifact"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/engine"
	"github.com/transformersquared/operator/runtime/expert"
	"github.com/transformersquared/operator/runtime/failure"
)

// maxSetBytes bounds an expert set; adapt.MaxExperts with long descriptions
// need less.
const maxSetBytes = 1 << 20

// servedSet is an expert set in use. It never changes, but for its counters, so
// a request that holds it is not disturbed by the next one.
type servedSet struct {
	spec     contract.ExpertSet
	digest   string
	strategy adapt.Strategy
	experts  map[string]*servedExpert // By name.
}

type servedExpert struct {
	ref      contract.ExpertRef
	vector   expert.Vector
	mixture  engine.Mixture // Of this expert alone.
	requests *atomic.Int64
}

// errNotLoaded says that the model is still being loaded.
var errNotLoaded = errors.New("the model is still being loaded")

// Swap verifies and loads an expert set and makes it the one in use: all of it
// or nothing. Requests in flight finish on the set they began with. The set in
// use is not loaded again.
func (s *Server) Swap(ctx context.Context, spec contract.ExpertSet) error {
	s.swapping.Lock()
	defer s.swapping.Unlock()
	begun := time.Now()
	next, err := s.load(ctx, spec)
	refused := ""
	if err != nil {
		refused = err.Error()
	}
	s.mu.Lock()
	before := s.refused
	s.refused = refused
	s.mu.Unlock()
	s.metrics.swapped(err)
	if err != nil {
		if refused != before { // The same set is offered again and again.
			s.log.Error("Refused expert set", "error", err)
		}
		return err
	}
	if old := s.set.Load(); old != nil && old.digest == next.digest {
		return nil
	}
	s.set.Store(next)
	e := s.core.Load().engine
	e.Retain(next.mixtures())
	s.log.Info("Took expert set into use", "digest", next.digest, "strategy", spec.Strategy,
		"experts", len(spec.Experts), "form", e.Form(), "seconds", time.Since(begun).Seconds())
	return nil
}

// load makes a set ready to serve without touching the one in use.
func (s *Server) load(ctx context.Context, spec contract.ExpertSet) (*servedSet, error) {
	c := s.core.Load()
	if c == nil {
		return nil, errNotLoaded
	}
	old := s.set.Load()
	digest, err := spec.Digest()
	if err != nil {
		return nil, err
	}
	if old != nil && old.digest == digest {
		return old, nil
	}
	if err := adapt.Validate(spec); err != nil {
		return nil, failure.Permanent(contract.ReasonUsage, fmt.Errorf("the expert set is invalid: %w", err))
	}
	next := &servedSet{spec: spec, digest: digest, experts: map[string]*servedExpert{}}
	for _, ref := range spec.Experts {
		if next.experts[ref.Name], err = s.loadExpert(c, old, ref); err != nil {
			return nil, fmt.Errorf("expert %q: %w", ref.Name, err)
		}
	}
	next.strategy, err = adapt.New(spec, encoder{c.tok}, baseScorer{c.engine}, func(err error) bool {
		return errors.Is(err, engine.ErrBusy) || errors.Is(err, engine.ErrClosed)
	})
	if err != nil {
		return nil, failure.Permanent(contract.ReasonUsage, err)
	}
	if err := c.engine.Prepare(ctx, next.mixtures()); err != nil {
		return nil, err
	}
	return next, nil
}

// loadExpert reads an expert and verifies that it is the one that was meant and
// fits the decomposition. One that is in use already is not read again.
func (s *Server) loadExpert(c *core, old *servedSet, ref contract.ExpertRef) (*servedExpert, error) {
	e := &servedExpert{ref: ref, requests: &atomic.Int64{}}
	if old != nil {
		for _, o := range old.experts {
			if o.ref.Digest == ref.Digest {
				e.vector, e.mixture = o.vector, o.mixture
				if o.ref.Name == ref.Name {
					e.requests = o.requests
				}
				return e, nil
			}
		}
	}
	if c.dec == nil || s.config.ExpertDir == nil {
		return nil, failure.Permanentf(contract.ReasonDecompositionMismatch, "there is no decomposition that it could scale")
	}
	dir, err := s.config.ExpertDir(ref)
	if err != nil {
		return nil, err
	}
	if e.vector, err = expert.ReadVector(dir); err != nil {
		return nil, err
	}
	if got := e.vector.Manifest.Digest; got != ref.Digest {
		return nil, failure.Permanentf(contract.ReasonDigestMismatch, "the expert in %s has digest %s, the set asks for %s", dir, got, ref.Digest)
	}
	if err := e.vector.Fits(c.dec); err != nil {
		return nil, err
	}
	e.mixture, err = engine.NewMixture(expert.Weighted{Vector: e.vector, Alpha: 1})
	return e, err
}

// mixtures lists the weights that requests of the set may need: each expert's,
// in the set's order, and before them the fixed mixture.
func (s *servedSet) mixtures() engine.Set {
	var list engine.Set
	if s.spec.Strategy == contract.StrategyFixed {
		// The strategy needs neither context nor request, and cannot fail.
		if d, err := s.strategy.Decide(context.Background(), ""); err == nil {
			if m, err := s.mixture(d.Weights); err == nil {
				list.Mixtures, list.Fixed = append(list.Mixtures, m), true
			}
		}
	}
	for _, ref := range s.spec.Experts {
		list.Mixtures = append(list.Mixtures, s.experts[ref.Name].mixture)
	}
	return list
}

// mixture returns the weights Σα·z of a decision.
func (s *servedSet) mixture(weights map[string]float64) (engine.Mixture, error) {
	parts := make([]expert.Weighted, 0, len(weights))
	for _, name := range slices.Sorted(maps.Keys(weights)) {
		e, ok := s.experts[name]
		if !ok {
			return engine.Mixture{}, fmt.Errorf("the decision names expert %q, which is not in the set", name)
		}
		if weights[name] == 1 && len(weights) == 1 {
			return e.mixture, nil
		}
		parts = append(parts, expert.Weighted{Vector: e.vector, Alpha: weights[name]})
	}
	return engine.NewMixture(parts...)
}

// Status is what contract.PathExpertSet answers.
func (s *Server) Status() contract.ServingStatus {
	st := contract.ServingStatus{
		Experts: []contract.ServedExpert{}, Requests: s.requests.Load(), Fallbacks: s.fallbacks.Load(),
	}
	s.mu.Lock()
	st.Error = s.refused
	if s.lastSeen != nil {
		seen := *s.lastSeen
		st.LastAdaptation, st.LastAdaptationTime = &seen, s.lastTime
	}
	s.mu.Unlock()
	if set := s.set.Load(); set != nil {
		st.ExpertSetDigest = set.digest
		for _, ref := range set.spec.Experts {
			st.Experts = append(st.Experts, contract.ServedExpert{
				Name: ref.Name, Digest: ref.Digest, Requests: set.experts[ref.Name].requests.Load(),
			})
		}
	}
	return st
}

// setInterval is how often SetFile is looked at while no set is in use.
const setInterval = 2 * time.Second

// firstSet brings the first set into use: the configured one, which must load,
// or that of SetFile as soon as it is there and can be loaded. It returns when
// a set is in use, wherever it came from, or ctx is done.
func (s *Server) firstSet(ctx context.Context) error {
	if s.config.Set != nil {
		return s.Swap(ctx, *s.config.Set)
	}
	if s.config.SetFile == "" {
		return nil
	}
	tick := time.NewTicker(setInterval)
	defer tick.Stop()
	told := ""
	for s.set.Load() == nil {
		spec, err := readSet(s.config.SetFile)
		switch {
		case err == nil:
			if s.Swap(ctx, spec) == nil { // A refusal is in the log and in Status.
				return nil
			}
		case err.Error() != told:
			told = err.Error()
			s.log.Warn("No expert set yet", "error", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
	return nil
}

// readSet reads the expert set in a file, for example a mounted ConfigMap.
func readSet(path string) (contract.ExpertSet, error) {
	b, err := artifact.ReadBounded(path, maxSetBytes)
	if errors.Is(err, fs.ErrNotExist) {
		return contract.ExpertSet{}, fmt.Errorf("%s is not there yet", path)
	}
	if err != nil {
		return contract.ExpertSet{}, fmt.Errorf("reading the expert set: %w", err)
	}
	return parseSet(b)
}

// parseSet decodes an expert set. Unknown fields are ignored: the operator may
// be newer than the pod, and the digest tells whether they agree.
func parseSet(b []byte) (contract.ExpertSet, error) {
	var set contract.ExpertSet
	if err := json.Unmarshal(b, &set); err != nil {
		return set, fmt.Errorf("the expert set is no JSON of an expert set: %w", err)
	}
	return set, nil
}
