package server

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/transformersquared/operator/runtime/adapt"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/engine"
	"github.com/transformersquared/operator/runtime/sample"
)

// target is what a model name means at the moment a request comes in.
type target struct {
	set *servedSet // nil for the base before the first set.
	// pinned is an expert's name or contract.BaseName; empty means two passes.
	pinned string
	// division is that of requests between the set and its candidate, nil for none. Then side
	// is one of contract's Side constants, whose set is set, and watched says that the
	// candidate is to choose for the request, too.
	division *division
	side     string
	watched  bool
}

// resolve finds the target of a model name.
func (s *Server) resolve(name string) (target, error) {
	t := target{set: s.set.Load()}
	pinned, isPinned := strings.CutPrefix(name, s.config.Name+":")
	switch {
	case isPinned && pinned == contract.BaseName:
		t.pinned = pinned
		return t, nil
	case t.set == nil && (isPinned || name == s.config.Name):
		return t, newError(http.StatusServiceUnavailable, typeServer, "not_ready", "",
			"no experts have been loaded yet: try again in a moment, or use model %q", s.config.Name+":"+contract.BaseName)
	case name == s.config.Name:
		return t, nil
	case isPinned && t.set.experts[pinned] != nil:
		t.pinned = pinned
		return t, nil
	}
	if isPinned {
		if err := s.loader.hindrance(pinned); err != nil {
			return t, err
		}
	}
	return t, newError(http.StatusNotFound, typeInvalid, "model_not_found", "model",
		"the model %q does not exist; there are %s", clip(name), strings.Join(s.modelNames(), ", "))
}

// modelNames lists the model names that requests can use now.
func (s *Server) modelNames() []string {
	names := []string{}
	set := s.set.Load()
	if set != nil {
		names = append(names, s.config.Name)
		for _, ref := range set.spec.Experts {
			names = append(names, s.config.Name+":"+ref.Name)
		}
	}
	return append(names, s.config.Name+":"+contract.BaseName)
}

// outcome is how a request was answered.
type outcome struct {
	// result sums up the choices: tokens of all, the earliest first token, the
	// latest end. Its Finish is the first choice's.
	result engine.Result
	// finishes says why each choice ended.
	finishes []string
	// cut says of each choice that its last call's arguments end too early: nobody can make
	// that call.
	cut        []bool
	adaptation contract.Adaptation
	chosen     chosen
}

// answer runs the passes of a request: pass 1 unless its model name pins the
// weights, then pass 2 for each choice, whose chunks go to emit, one at a time.
func (s *Server) answer(ctx context.Context, q query, emit func(choice int, p piece) error) (out outcome, err error) {
	c := s.core.Load()
	if c == nil {
		return out, errNotLoaded
	}
	t, r, err := s.admit(ctx, c, q)
	if err != nil {
		return out, err
	}
	recordIn(ctx).came(t)
	if t.division != nil {
		defer func() { t.division.counts.ended(t.side, out, err) }()
	}
	ctx, leave, err := c.engine.Admit(ctx, q.choices)
	if err != nil {
		return out, err
	}
	defer leave()
	subject := q.subject(c, r)
	chosenAt := time.Now()
	decision, pass1, err := s.decide(ctx, t, subject)
	if err != nil {
		return out, err
	}
	if r.Mixture, err = t.mixture(decision); err != nil {
		return out, err
	}
	s.count(t, decision)
	out.chosen = s.choose(t, decision, len(subject.Turns))
	written := s.keepText(c, q)
	begun := time.Now()
	take, end := c.calls.divide(q, written.of(emit))
	results, err := generate(ctx, c, q, r, take)
	err = q.structure.named(err)
	out.sum(results)
	for i := range results {
		if err != nil {
			break
		}
		var e ending
		if e, err = end(i, out.finishes[i]); e.called && !e.cut && out.finishes[i] == engine.FinishStop {
			out.finishes[i] = finishToolCalls
		}
		out.cut = append(out.cut, e.cut)
	}
	out.adaptation = t.adaptation(decision, pass1, time.Since(begun))
	s.tracePasses(ctx, chosenAt, begun, out)
	s.remember(ctx, q, out, written, err)
	if err != nil {
		return out, err
	}
	s.metrics.answered(out, pass1)
	s.turnstile.answered(out.result.Total - out.result.Waited)
	if t.pinned == "" {
		s.mu.Lock()
		s.lastSeen, s.lastTime = &out.adaptation, time.Now()
		s.mu.Unlock()
	}
	if t.watched {
		s.see(t, subject, decision)
	}
	return out, nil
}

// admit finds what a request's model name means and makes its prompt. What pass 2
// could not answer is refused before pass 1 reads it.
func (s *Server) admit(ctx context.Context, c *core, q query) (target, engine.Request, error) {
	r := q.request
	divided := s.division.Load() // Before the set: see promote.
	t, err := s.resolve(q.model)
	if err != nil {
		return t, r, err
	}
	t = t.among(divided, q)
	if err := c.calls.prepare(&q); err != nil {
		return t, r, err
	}
	if r.Prompt, err = encodePrompt(c, q); err != nil {
		return t, r, err
	}
	if err := checkBias(c, r.Sampling.Bias); err != nil {
		return t, r, err
	}
	if r.Constraint, err = c.structures.constraint(ctx, q.structure, c.calls.layout(q), c.tok.EOS()); err != nil {
		return t, r, err
	}
	longest := c.engine.LongestAnswer(len(r.Prompt))
	if q.messages == nil && q.longest == "" { // What nobody asked for is no reason to refuse.
		r.MaxTokens = max(min(defaultCompletion, longest), 1)
	}
	if err := c.engine.Fits(len(r.Prompt), max(r.MaxTokens, 1)); err != nil {
		return t, r, tooLong(err, q, longest)
	}
	return t, r, nil
}

// encodePrompt returns the tokens that pass 2 continues.
func encodePrompt(c *core, q query) ([]int32, error) {
	var ids []int32
	var err error
	param := q.param()
	switch {
	case q.messages != nil:
		if err := c.tok.CheckVariables(q.chat.Variables); err != nil {
			return nil, invalid("chat_template_kwargs", "invalid_value", "chat_template_kwargs: %s", err.Error())
		}
		ids, err = c.tok.EncodeChatWith(q.messages, q.chat)
	case q.tokens != nil:
		for i, id := range q.tokens {
			if id < 0 || int(id) >= c.tok.VocabSize() {
				return nil, invalid(param, "invalid_value", "prompt[%d] is %d: the model has the tokens 0 to %d", i, id, c.tok.VocabSize()-1)
			}
		}
		ids = q.tokens
	default:
		ids, err = c.tok.Encode(q.text, q.addSpecial)
	}
	if err != nil {
		return nil, invalid(param, "invalid_value", "%s cannot be encoded: %s", param, err.Error())
	}
	if len(ids) == 0 {
		return nil, invalid(param, "invalid_value", "%s has no tokens", param)
	}
	return ids, nil
}

// tooLong names the parameter that makes a request too long: that of the answer,
// and the largest value that fits, if there is room for one at all.
func tooLong(err error, q query, largest int) error {
	const code = "context_length_exceeded"
	if q.longest == "" || largest < 1 {
		return invalid(q.param(), code, "%s", err.Error())
	}
	return invalid(q.longest, code, "%s; %s can be at most %d with this prompt", err.Error(), q.longest, largest)
}

// generate answers a request as often as it has choices, at once. The first choice is
// what the request alone would get; each of the others draws from a seed of its own.
// An error of one ends all.
func generate(ctx context.Context, c *core, q query, r engine.Request, emit func(int, engine.Delta) error) ([]engine.Result, error) {
	results := make([]engine.Result, q.choices)
	group, ctx := errgroup.WithContext(ctx)
	var turn sync.Mutex
	for i := range q.choices {
		r := r
		if q.goesOn() {
			r.Text = c.tok.NewStreamAfter(r.Prompt)
		}
		if len(q.offer.Functions) > 0 {
			r.Text = c.tok.NewStream().Showing(c.calls.format.Shown())
		}
		if r.Constraint != nil {
			r.Constraint = r.Constraint.Again()
		}
		if i > 0 {
			r.Seed = sample.Stream(r.Seed, uint64(i)).Uint64()
		}
		group.Go(func() (err error) {
			results[i], err = c.engine.Generate(ctx, r, func(d engine.Delta) error {
				turn.Lock()
				defer turn.Unlock()
				return emit(i, d)
			})
			return err
		})
	}
	return results, group.Wait()
}

// sum fills in what the results of all choices say together.
func (o *outcome) sum(results []engine.Result) {
	o.result = results[0]
	for i, r := range results {
		o.finishes = append(o.finishes, r.Finish)
		if i == 0 {
			continue
		}
		o.result.Tokens += r.Tokens
		o.result.CachedTokens = min(o.result.CachedTokens, r.CachedTokens) // Choices share their prompt.
		o.result.Waited = max(o.result.Waited, r.Waited)
		o.result.FirstToken = min(o.result.FirstToken, r.FirstToken)
		o.result.Total = max(o.result.Total, r.Total)
	}
}

// checkBias refuses a bias of tokens that the model does not have.
func checkBias(c *core, bias map[int32]float64) error {
	for _, id := range slices.Sorted(maps.Keys(bias)) {
		if id < 0 || int(id) >= c.tok.VocabSize() {
			return invalid("logit_bias", "invalid_value", "logit_bias has the token %d: the model has the tokens 0 to %d", id, c.tok.VocabSize()-1)
		}
	}
	return nil
}

// subject is what pass 1 judges: what the user has said, or the text to be completed, of a
// request for pass 2.
func (q query) subject(c *core, request engine.Request) adapt.Request {
	r := adapt.Request{Prompt: request.Prompt, Salt: request.Salt}
	for _, m := range q.messages {
		if m.Role == "user" {
			r.Turns = append(r.Turns, m.Content)
		}
	}
	switch {
	case len(r.Turns) > 0:
	case len(q.messages) > 0:
		r.Turns = []string{q.messages[len(q.messages)-1].Content}
	case q.tokens != nil:
		r.Turns = []string{c.tok.Decode(q.tokens, true)}
	default:
		r.Turns = []string{q.text}
	}
	return r
}

// decide runs pass 1, or takes the decision from the model's name. The time is 0
// where there is no pass 1.
func (s *Server) decide(ctx context.Context, t target, r adapt.Request) (adapt.Decision, time.Duration, error) {
	switch t.pinned {
	case contract.BaseName:
		return adapt.Decision{Expert: contract.BaseName}, 0, nil
	case "":
		begun := time.Now()
		d, err := t.set.strategy.Decide(ctx, r)
		if err != nil {
			return d, 0, err
		}
		took := time.Since(begun)
		if t.set.strategy.Needs().Passes == 1 || d.Remembered {
			took = 0
		}
		if d.Cause != nil {
			s.log.Warn("Pass 1 failed, used the fallback", "request", requestID(ctx), "expert", d.Expert, "error", d.Cause)
		}
		return d, took, nil
	default:
		return adapt.Decision{Expert: t.pinned, Weights: map[string]float64{t.pinned: 1}}, 0, nil
	}
}

func (t target) mixture(d adapt.Decision) (engine.Mixture, error) {
	if len(d.Weights) == 0 {
		return engine.Mixture{}, nil
	}
	if t.set == nil {
		return engine.Mixture{}, errors.New("weights without an expert set")
	}
	m, err := t.set.mixture(d.Weights, d.Layers)
	if err != nil {
		return m, fmt.Errorf("mixing %s: %w", d.Expert, err)
	}
	return m, nil
}

// adaptation describes the passes for the client.
func (t target) adaptation(d adapt.Decision, pass1, pass2 time.Duration) contract.Adaptation {
	a := contract.Adaptation{
		Strategy: contract.StrategyPinned, Expert: d.Expert, Weights: d.Weights, Probabilities: d.Probabilities, Fallback: d.Fallback, Turn: d.Turn,
		Pass1Seconds: pass1.Seconds(), Pass2Seconds: pass2.Seconds(), Side: t.shown(),
	}
	if t.set != nil {
		a.ExpertSetDigest = t.set.digest
		if t.pinned == "" {
			a.Strategy = t.set.strategy.Name()
		}
	}
	return a
}

// count keeps the numbers of Status.
func (s *Server) count(t target, d adapt.Decision) {
	s.requests.Add(1)
	if t.pinned == "" && d.Fallback != "" {
		s.fallbacks.Add(1)
	}
	if t.set == nil {
		return
	}
	for name := range d.Weights {
		if e := t.set.experts[name]; e != nil {
			e.requests.Add(1)
		}
	}
}
