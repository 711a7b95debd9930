package adapt

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/transformersquared/operator/runtime/contract"
)

// Reader is what strategy Probe needs of an engine.
type Reader interface {
	// Read returns what the base makes of a prompt: the state behind its last layer.
	Read(ctx context.Context, prompt []int32, salt string) ([]float32, error)
}

// Prober tells from that state which skill a prompt wants; package probe fits one.
type Prober interface {
	// Labels are what it chooses from: skills, and contract.OthersLabel if that was taught.
	Labels() []string
	// Logits are those of the labels.
	Logits(state []float32) ([]float64, error)
	// Least is how likely the most likely label has to be: what is less likely is none of
	// them.
	Least() float64
}

// probing chooses the expert of the skill that a linear map of the base's state finds most
// likely. What it reads is the request itself, so that it need not be read again where the
// base reads for the expert. An expert whose skill the probe does not know, since it came
// after that was fitted or nobody has prompts of it, is chosen for no request.
type probing struct {
	choosing
	read   Reader
	prober Prober
	labels []int // Of names: their places among the prober's labels, −1 for none.
}

// validateProbe checks what Prompt needs, skills that differ among it, and that there is a
// probe.
func validateProbe(set contract.ExpertSet) []error {
	problems := problems(validatePrompt(set))
	problems.add(set.Probe == nil, "strategy %s has no probe: fit one (t2 probe), or use strategy %s", set.Strategy, contract.StrategyPrompt)
	problems.add(set.Probe != nil && !contract.ValidDigest(set.Probe.Digest), "the probe's digest is %q, which is none", digestOf(set.Probe))
	return problems
}

func digestOf(p *contract.ProbeRef) string {
	if p == nil {
		return ""
	}
	return p.Digest
}

func newProbe(set contract.ExpertSet, r reader) (Strategy, error) {
	if r.prober == nil {
		return nil, fmt.Errorf("strategy %s without a probe", set.Strategy)
	}
	p := &probing{choosing: newChoosing(set, r.fatal), read: r.reader, prober: r.prober}
	for _, e := range set.Experts {
		p.labels = append(p.labels, slices.Index(r.prober.Labels(), e.Skill))
	}
	p.labels = append(p.labels, slices.Index(r.prober.Labels(), contract.OthersLabel))
	return p, nil
}

// Name implements Strategy.
func (*probing) Name() string { return contract.StrategyProbe }

// Needs implements Strategy.
func (p *probing) Needs() Needs { return p.needs(nil) }

// Decide implements Strategy.
func (p *probing) Decide(ctx context.Context, r Request) (Decision, error) {
	if len(p.names) == 1 {
		return p.fallBack(contract.FallbackNoExperts), nil
	}
	logits, err := p.logits(ctx, r)
	if err != nil {
		return p.failed(ctx, err)
	}
	d := p.decide(logits)
	d.Reading.Tokens = len(r.Prompt)
	d.Turn = max(1, len(r.Turns))
	return d, nil
}

// logits are those of the names, −Inf of those that the probe does not know. A label of the
// probe that no expert has any more counts as "others"; where "others" was not taught, it is
// the likelier the less sure the probe is.
func (p *probing) logits(ctx context.Context, r Request) ([]float64, error) {
	if len(r.Prompt) == 0 {
		return nil, errors.New("the request has no prompt")
	}
	state, err := p.read.Read(ctx, r.Prompt, r.Salt)
	if err != nil {
		return nil, err
	}
	all, err := p.prober.Logits(state)
	if err != nil {
		return nil, err
	}
	own := make([]float64, len(p.names))
	for i := range own {
		own[i] = math.Inf(-1)
	}
	var others []float64
	for label, logit := range all {
		if i := slices.Index(p.labels[:len(p.labels)-1], label); i >= 0 {
			own[i] = logit
		} else {
			others = append(others, logit)
		}
	}
	last := len(own) - 1
	if len(others) > 0 {
		own[last] = logSum(others)
		return own, nil
	}
	// The odds that it is none are those of the least probability against those of the best
	// label's: it wins if its probability among all but "others" is above that.
	best := slices.Max(own[:last])
	own[last] = best + logOdds(math.Log(p.prober.Least())) - logOdds(best-logSum(own[:last]))
	return own, nil
}
