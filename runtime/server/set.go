package server

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"reflect"
	"slices"
	"sync/atomic"
	"time"

	"github.com/transformersquared/operator/runtime/adapt"
	"github.com/transformersquared/operator/runtime/adapt/encode"
	"github.com/transformersquared/operator/runtime/artifact"
	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/engine"
	"github.com/transformersquared/operator/runtime/expert"
	"github.com/transformersquared/operator/runtime/failure"
	"github.com/transformersquared/operator/runtime/probe"
	"github.com/transformersquared/operator/runtime/server/requestlog"
)

// maxSetBytes bounds an expert set; adapt.MaxExperts with long descriptions
// need less.
const maxSetBytes = 1 << 20

// servedSet is an expert set in use. It never changes, but for its counters, so
// a request that holds it is not disturbed by the next one.
type servedSet struct {
	// spec is what is served: the set that was asked for, without the experts that
	// could not be loaded.
	spec contract.ExpertSet
	// digest is that of the set that was asked for if all of it is here, and one of
	// its own otherwise.
	digest   string
	strategy adapt.Strategy
	experts  map[string]*servedExpert // By name: those that answer.
	// classifier is what pass 1 runs with; nil for the base.
	classifier *servedExpert
	// probe is what StrategyProbe chooses by; nil where the set has none.
	probe *probe.Probe
}

// named returns the expert of a name that the set can compute with, nil if there is
// none.
func (s *servedSet) named(name string) *servedExpert {
	if c := s.classifier; c != nil && c.ref.Name == name {
		return c
	}
	return s.experts[name]
}

type servedExpert struct {
	ref      contract.ExpertRef
	vector   expert.Adapter
	mixture  engine.Mixture // Of this expert alone.
	requests *atomic.Int64
	outcomes *requestlog.Tally
}

// errNotLoaded says that the model is still being loaded.
var errNotLoaded = errors.New("the model is still being loaded")

// Swap offers an expert set and waits until all of it is in use. The error says
// what is not: what could be loaded is in use all the same, and the rest is tried
// again until another set is offered. Requests in flight finish on the set they
// began with.
func (s *Server) Swap(ctx context.Context, spec contract.ExpertSet) error {
	o, err := s.loader.offer(spec, false)
	if err != nil {
		return err
	}
	return s.loader.settle(ctx, o)
}

// use takes a set into use, and says in which form it is computed.
func (s *Server) use(next *servedSet) engine.Form {
	if now := s.set.Load(); now == nil || now.digest != next.digest {
		s.set.Store(next)
	}
	s.retain()
	return s.core.Load().engine.Form()
}

// retain has the engine keep what the sets in use need.
func (s *Server) retain() {
	c, set := s.core.Load(), s.set.Load()
	if c == nil || set == nil {
		return
	}
	if d := s.division.Load(); d != nil {
		c.engine.Retain(set.mixtures(), d.mixtures())
		return
	}
	c.engine.Retain(set.mixtures())
}

// load makes what can be served of an offer ready, without touching the set in
// use. An expert that cannot be loaded is replaced by its version that is in use,
// or left out.
func (s *Server) load(o *offer) attempted {
	c, old := s.core.Load(), s.set.Load()
	if old != nil && old.digest == o.digest {
		return attempted{set: old}
	}
	experts, failures := map[string]*servedExpert{}, map[string]error{}
	lacks := func(ref contract.ExpertRef, err error) {
		if failures[ref.Name] == nil {
			failures[ref.Name] = err
		}
		previous := old.version(ref)
		if now := experts[ref.Name]; now != nil && previous != nil && now.ref.Digest == previous.ref.Digest {
			previous = nil // That is what failed.
		}
		experts[ref.Name] = previous
	}
	for _, ref := range o.spec.Refs() {
		e, err := s.loadExpert(o.ctx, c, ref, old, o.known)
		if o.ctx.Err() != nil {
			return attempted{err: context.Cause(o.ctx)}
		}
		if experts[ref.Name] = e; err != nil {
			lacks(ref, err)
		}
		o.done.Add(1)
	}
	chooser, probeErr := s.loadProbe(o.ctx, o.spec.Probe, old, o.known)
	for {
		set, err := newSet(c, o, experts, chooser)
		if err == nil {
			err = s.prepare(o.ctx, c, set)
		}
		if err == nil {
			return attempted{set: set, failures: failures, unprobed: probeErr}
		}
		ref, one := culprit(o, experts, err)
		switch {
		case o.ctx.Err() != nil:
			return attempted{err: context.Cause(o.ctx)}
		case one:
			lacks(ref, err)
		case old != nil:
			return attempted{failures: failures, unprobed: probeErr, err: err}
		default:
			return s.baseOnly(c, o, err)
		}
	}
}

// prepare makes what a set's requests will be computed with.
func (s *Server) prepare(ctx context.Context, c *core, set *servedSet) error {
	if s.config.Lazy {
		return nil
	}
	return c.engine.Prepare(ctx, set.mixtures())
}

// culprit finds the expert of which alone a set's preparation failed.
func culprit(o *offer, experts map[string]*servedExpert, err error) (contract.ExpertRef, bool) {
	failed, ok := errors.AsType[*engine.MixtureError](err)
	if !ok || failed.Mixture.IsBase() {
		return contract.ExpertRef{}, false
	}
	for _, ref := range o.spec.Refs() {
		if e := experts[ref.Name]; e != nil && e.mixture.Key() == failed.Mixture.Key() {
			return ref, true
		}
	}
	return contract.ExpertRef{}, false
}

// baseOnly is what is served when no set is in use and no expert can be.
func (s *Server) baseOnly(c *core, o *offer, why error) attempted {
	set, err := newSet(c, o, nil, nil)
	if err != nil {
		return attempted{err: errors.Join(why, err)}
	}
	if err := s.prepare(o.ctx, c, set); err != nil {
		return attempted{err: errors.Join(why, err)}
	}
	return attempted{set: set, err: why}
}

// loadProbe returns the probe of a set, which must be of this model; nil where it has none.
// One that another set has already is not read again; these may be nil.
func (s *Server) loadProbe(ctx context.Context, ref *contract.ProbeRef, known ...*servedSet) (*probe.Probe, error) {
	if ref == nil {
		return nil, nil //nolint:nilnil // There is none, and none is wanted.
	}
	for _, set := range known {
		if set != nil && set.probe != nil && set.probe.Manifest.Digest == ref.Digest {
			return set.probe, nil
		}
	}
	if s.config.ProbeDir == nil {
		return nil, failure.Permanentf(contract.ReasonUsage, "the probe %s is nowhere", ref.Digest)
	}
	dir, err := s.config.ProbeDir(*ref)
	if err != nil {
		return nil, fmt.Errorf("probe: %w", err)
	}
	p, err := onVolume(ctx, s, func() (*probe.Probe, error) { return probe.Read(ctx, dir) })
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, failure.Transient(contract.ReasonExpertMissing,
			fmt.Errorf("the probe is not in %s: fit it again, unless it is on its way (%w)", dir, err))
	case err != nil:
		return nil, err
	case p.Manifest.Digest != ref.Digest:
		return nil, failure.Permanentf(contract.ReasonDigestMismatch, "the probe in %s has digest %s, the set asks for %s", dir, p.Manifest.Digest, ref.Digest)
	}
	if width := s.core.Load().width; p.Width() != width {
		return nil, failure.Permanentf(contract.ReasonUsage, "the probe in %s is for states of %d numbers, this model has %d: it is of another base", dir, p.Width(), width)
	}
	return p, nil
}

// newSet makes the set that is served with these experts of an offer; those that
// are nil or absent are not, and without the probe that it asks for pass 1 asks the base.
func newSet(c *core, o *offer, experts map[string]*servedExpert, chooser *probe.Probe) (*servedSet, error) {
	set := &servedSet{spec: o.spec, digest: o.digest, experts: map[string]*servedExpert{}, probe: chooser}
	set.spec.Experts = []contract.ExpertRef{}
	whole, asked, weight := len(o.spec.Unknown) == 0, 0.0, 0.0
	for _, ref := range o.spec.Experts {
		asked += ref.Weight
		e := experts[ref.Name]
		whole = whole && e != nil && e.ref.Digest == ref.Digest
		if e == nil {
			continue
		}
		weight += ref.Weight
		set.experts[ref.Name] = e
		set.spec.Experts = append(set.spec.Experts, e.ref)
	}
	if ref := o.spec.Classifier; ref != nil {
		set.classifier = experts[ref.Name]
		whole = whole && set.classifier != nil && set.classifier.ref.Digest == ref.Digest
		if set.classifier == nil {
			set.spec = set.spec.WithoutClassifier()
		} else {
			set.spec.Classifier = &set.classifier.ref
		}
	}
	if o.spec.Probe != nil && chooser == nil {
		set.spec, whole = set.spec.WithoutProbe(), false
	}
	if !whole {
		set.digest = partialDigest(o.digest, set.spec)
	}
	if set.experts[set.spec.Fallback] == nil {
		set.spec.Fallback = ""
	}
	choosing := set.spec
	if asked > 0 && weight == 0 {
		// Nothing of the fixed mixture is here: the base answers, not those experts to
		// which the mixture gives no weight.
		choosing.Experts = nil
	}
	var err error
	tools := adapt.Tools{
		Encoder: encode.New(c.tok), Scorer: scorer{c.engine, set}, Reader: reader{c.engine},
		Fatal: func(err error) bool {
			return errors.Is(err, engine.ErrBusy) || errors.Is(err, engine.ErrClosed) || errors.Is(err, backend.ErrDeviceLost)
		},
	}
	if chooser != nil { // And no interface with a nil pointer in it.
		tools.Prober = chooser
	}
	set.strategy, err = adapt.New(choosing, tools)
	return set, failure.Permanent(contract.ReasonUsage, err)
}

// scorer scores labels on the weights of a set.
type scorer struct {
	engine *engine.Engine
	set    *servedSet
}

// Score implements adapt.Scorer.
func (s scorer) Score(ctx context.Context, q adapt.Scoring) ([]float64, error) {
	m, err := s.set.mixture(q.With, nil)
	if err != nil {
		return nil, err
	}
	return s.engine.Score(ctx, engine.ScoreRequest{Mixture: m, Prompt: q.Prompt, Labels: q.Labels, Salt: q.Salt})
}

// reader lets strategy Probe see what the base makes of a request.
type reader struct{ engine *engine.Engine }

// Read implements adapt.Reader.
func (r reader) Read(ctx context.Context, prompt []int32, salt string) ([]float32, error) {
	return r.engine.Read(ctx, engine.ReadRequest{Prompt: prompt, Salt: salt})
}

// partialDigest names what is served of a set of which something is missing.
func partialDigest(asked string, served contract.ExpertSet) string {
	h := sha256.New()
	_, _ = fmt.Fprintln(h, asked, served.Strategy)
	for _, ref := range served.Refs() {
		_, _ = fmt.Fprintln(h, ref.Name, ref.Digest)
	}
	return contract.DigestPrefix + hex.EncodeToString(h.Sum(nil))
}

// version returns the version of an expert that is in use, as what is served
// for ref; nil if there is none.
func (s *servedSet) version(ref contract.ExpertRef) *servedExpert {
	if s == nil {
		return nil
	}
	e := s.named(ref.Name)
	if e == nil || e.ref.Skill != ref.Skill || e.ref.TransferFrom != ref.TransferFrom {
		return nil
	}
	previous := *e
	previous.ref = ref
	previous.ref.Digest = e.ref.Digest
	return &previous
}

// alike returns the expert of a set that has the same content, whatever it is called; nil if
// there is none.
func (s *servedSet) alike(ref contract.ExpertRef) *servedExpert {
	if s == nil {
		return nil
	}
	for _, known := range s.spec.Refs() {
		if e := s.named(known.Name); e.ref.Digest == ref.Digest && e.ref.TransferFrom == ref.TransferFrom {
			return e
		}
	}
	return nil
}

// loadExpert returns an expert that was verified and fits the decomposition. One that another
// set has already is not read again; these may be nil.
func (s *Server) loadExpert(ctx context.Context, c *core, ref contract.ExpertRef, known ...*servedSet) (*servedExpert, error) {
	e := &servedExpert{ref: ref, requests: &atomic.Int64{}, outcomes: &requestlog.Tally{}}
	for _, set := range known {
		if o := set.alike(ref); o != nil {
			e.vector, e.mixture = o.vector, o.mixture
			if o.ref.Name == ref.Name {
				e.requests, e.outcomes = o.requests, o.outcomes
			}
			return e, nil
		}
	}
	if c.dec == nil || s.config.ExpertDir == nil {
		return nil, failure.Permanentf(contract.ReasonDecompositionMismatch, "there is no decomposition that it could scale")
	}
	var err error
	if e.vector, err = onVolume(ctx, s, func() (expert.Adapter, error) { return s.readVerified(ctx, c, ref) }); err != nil {
		return nil, err
	}
	if err := errors.Join(e.vector.Fits(c.dec), e.vector.FitsModel(c.linears)); err != nil {
		return nil, err
	}
	if e.mixture, err = engine.NewMixture(expert.Weighted{Adapter: e.vector, Alpha: 1}); err != nil {
		return nil, err
	}
	return e, nil
}

// onVolume reads something from its place. A read that hangs, since its volume's
// server is gone, cannot be cancelled: it is left behind when ctx ends, so that
// a set that needs nothing of the volume can be served. There is one at a time,
// so at most one hangs; Close does not wait for it.
func onVolume[T any](ctx context.Context, s *Server, read func() (T, error)) (T, error) {
	var nothing T
	select {
	case s.reading <- struct{}{}:
	case <-ctx.Done():
		return nothing, context.Cause(ctx)
	}
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1)
	go func() {
		defer func() { <-s.reading }()
		v, err := read()
		done <- result{v, err}
	}()
	select {
	case r := <-done:
		return r.value, r.err
	case <-ctx.Done():
		return nothing, context.Cause(ctx)
	}
}

// readVerified reads an expert and verifies that it is the one that was meant. One of
// another base becomes one of this, if that is asked for.
func (s *Server) readVerified(ctx context.Context, c *core, ref contract.ExpertRef) (expert.Adapter, error) {
	dir, err := s.config.ExpertDir(ref)
	if err != nil {
		return expert.Adapter{}, err
	}
	v, err := expert.ReadContext(ctx, dir)
	if errors.Is(err, fs.ErrNotExist) {
		return v, failure.Transient(contract.ReasonExpertMissing,
			fmt.Errorf("it is not in %s: train or import it again, unless it is on its way (%w)", dir, err))
	}
	if err != nil {
		return v, err
	}
	if got := v.Manifest.Digest; got != ref.Digest {
		return v, failure.Permanentf(contract.ReasonDigestMismatch,
			"the expert in %s has digest %s, the set asks for %s", dir, got, ref.Digest)
	}
	if ref.TransferFrom != "" {
		return v.Transfer(ctx, c.dec, c.files, dir)
	}
	return v, nil
}

// mixtures lists the weights that requests of the set may need: those that the
// strategy may choose, and each expert's, which a model name can pin, in the set's
// order.
func (s *servedSet) mixtures() engine.Set {
	needs := s.strategy.Needs()
	list := engine.Set{Fixed: needs.Passes == 1, Blends: needs.Blends}
	listed := map[string]bool{}
	add := func(m engine.Mixture) {
		if !listed[m.Key()] {
			listed[m.Key()] = true
			list.Mixtures = append(list.Mixtures, m)
		}
	}
	for i, weights := range needs.Mixtures {
		var layers map[string][]float64
		if i == 0 {
			layers = needs.Layers
		}
		if m, err := s.mixture(weights, layers); err == nil { // Else the request that asks for it is told.
			add(m)
		}
	}
	for _, ref := range s.spec.Experts {
		add(s.experts[ref.Name].mixture)
	}
	if len(needs.Beginning) > 0 && len(s.spec.Experts) > 0 { // Without experts there is no pass 1.
		if m, err := s.mixture(needs.With, nil); err == nil { // Else as above.
			list.Beginnings = []engine.Beginning{{Mixture: m, Tokens: needs.Beginning}}
		}
	}
	return list
}

// mixture returns the weights Σα·z of a decision. In a mixture, contract.BaseName
// is the share of the base weights, z = 1. Where layers are not nil they are α by layer.
func (s *servedSet) mixture(weights map[string]float64, layers map[string][]float64) (engine.Mixture, error) {
	parts := make([]expert.Weighted, 0, len(weights))
	for _, name := range slices.Sorted(maps.Keys(weights)) {
		if name == contract.BaseName {
			continue
		}
		e := s.named(name)
		if e == nil {
			return engine.Mixture{}, fmt.Errorf("the decision names expert %q, which is not in the set", name)
		}
		if weights[name] == 1 && len(weights) == 1 {
			return e.mixture, nil
		}
		parts = append(parts, expert.Weighted{Adapter: e.vector, Alpha: weights[name], Layers: layers[name]})
	}
	if share := weights[contract.BaseName]; len(parts) > 0 {
		parts = append(parts, expert.Weighted{Adapter: expert.Identity(), Alpha: share, Layers: layers[contract.BaseName]})
	}
	return engine.NewMixture(parts...)
}

// setInterval is how often SetFile is looked at while no set was offered.
const setInterval = 2 * time.Second

// firstSet brings the first set into use: the configured one, which must load
// as a whole, or offers that of SetFile as soon as it is there and makes sense. It
// returns when a set was offered, by whomever, or ctx is done.
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
	for !s.loader.hasOffer() {
		spec, err := readSet(s.config.SetFile)
		if err == nil {
			if _, err = s.loader.offer(spec, true); err == nil {
				return nil
			}
			s.loader.refuse(err)
		} else if err.Error() != told {
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

// parseSet decodes an expert set. The operator may be newer than the pod: what the pod
// knows of the set is served, and the status says what it does not know.
func parseSet(b []byte) (contract.ExpertSet, error) {
	var set contract.ExpertSet
	if err := json.Unmarshal(b, &set); err != nil {
		return set, fmt.Errorf("the expert set is no JSON of an expert set: %w", err)
	}
	set.Unknown = unknownMembers(b, reflect.TypeFor[contract.ExpertSet]())
	ascribe(&set)
	return set, nil
}
