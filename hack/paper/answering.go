package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/transformersquared/operator/runtime/adapt"
	"github.com/transformersquared/operator/runtime/adapt/encode"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/engine"
	"github.com/transformersquared/operator/runtime/expert"
	"github.com/transformersquared/operator/runtime/train"
	"github.com/transformersquared/operator/runtime/train/dataset"
	"github.com/transformersquared/operator/runtime/train/reward"
	"github.com/transformersquared/operator/runtime/train/rollout"
)

// answered is what a set of experts made of a test set.
type answered struct {
	score
	// Chosen counts the requests by what answered them.
	Chosen map[string]int `json:"chosen"`
}

// exam is a test set and who takes it.
type exam struct {
	Base          string               `json:"base"`
	Decomposition string               `json:"decomposition"`
	Set           contract.ExpertSet   `json:"set"`
	Data          contract.DatasetSpec `json:"data"`
	// Foreign says that the experts were made for another base of the same shape, and
	// Shuffled that each of their vectors is put out of order first, by this seed.
	Foreign  bool   `json:"foreign,omitempty"`
	Shuffled uint64 `json:"shuffled,omitempty"`
	// Acting, if not empty, is the activation that the experts are served with, whatever
	// they were trained for.
	Acting string `json:"acting,omitempty"`
	// Certain says that the probe sends no request to the base, however unsure it is.
	Certain bool `json:"certain,omitempty"`
}

// expertSet makes a set of these experts, one for each skill, in the order of skills; nil
// leaves them out.
func (*lab) expertSet(strategy string, digests []string) contract.ExpertSet {
	set := contract.ExpertSet{Strategy: strategy, Experts: []contract.ExpertRef{}}
	for i, k := range skills {
		ref := contract.ExpertRef{Name: k.name, Skill: k.name, Description: k.description}
		if i < len(digests) {
			ref.Digest = digests[i]
		}
		set.Experts = append(set.Experts, ref)
	}
	return set
}

// alone is the set of one expert; an empty digest is the base.
func alone(digest string) contract.ExpertSet {
	set := contract.ExpertSet{Strategy: contract.StrategyFixed, Experts: []contract.ExpertRef{}}
	if digest != "" {
		set.Experts = append(set.Experts, contract.ExpertRef{Name: "expert", Skill: "expert", Digest: digest})
	}
	return set
}

// answering is the cell of an exam.
func (l *lab) answering(name, base string, set contract.ExpertSet, data contract.DatasetSpec, change func(*exam)) cell[answered] {
	b := l.bases[base]
	e := exam{Base: b.digest, Decomposition: b.decomposition, Set: set, Data: identity(data)}
	if change != nil {
		change(&e)
	}
	return cell[answered]{Name: "score-" + base + "-" + name, Spec: e, Fill: func(ctx context.Context) (answered, error) {
		taken := e
		taken.Data = data
		return l.answer(ctx, taken)
	}}
}

// room is an open exam: a model with its experts on an engine.
type room struct {
	engine   *engine.Engine
	strategy adapt.Strategy
	task     *train.Task
	set      *dataset.Set
	experts  map[string]expert.Adapter
	close    func() error
	// salt keeps what is asked from finding what was asked before.
	salt string
}

// batch bounds how many questions are answered at a time.
const batch = 64

// enter opens an exam. threads is as in open.
func (l *lab) enter(ctx context.Context, e exam, threads, batch int) (r *room, err error) {
	be, err := open(threads)
	if err != nil {
		return nil, err
	}
	opened := &room{close: be.Close, experts: map[string]expert.Adapter{}}
	r = opened
	defer func() {
		if err != nil { // And then r is nil.
			err = errors.Join(err, opened.close())
		}
	}()
	in, err := train.LoadInputs(ctx, be, train.Artifacts{DataDir: l.volume, BaseDigest: e.Base, DecompositionDigest: e.Decomposition})
	if err != nil {
		return nil, err
	}
	runner, err := programs()
	if err != nil {
		return nil, err
	}
	judge, err := reward.New(rewardOf(e.Data.Format), runner)
	if err != nil {
		return nil, errors.Join(err, runner.Close())
	}
	r.close = func() error { return errors.Join(judge.Close(), be.Close()) }
	if _, err := reward.Prepare(ctx, judge); err != nil {
		return nil, err
	}
	if r.set, err = dataset.Load(ctx, e.Data, judge); err != nil {
		return nil, err
	}
	if r.task, err = train.NewTask(r.set, in.Tokenizer, judge, in.Base.Config().MaxPositions); err != nil {
		return nil, err
	}
	if len(r.task.Skipped()) > 0 {
		return nil, fmt.Errorf("%d records of %s cannot be used: %s", len(r.task.Skipped()), r.set.Name, r.task.Skipped()[0].Why)
	}
	for _, ref := range e.Set.Refs() {
		if r.experts[ref.Name], err = l.seat(ref, e, in); err != nil {
			return nil, fmt.Errorf("expert %s: %w", ref.Name, err)
		}
	}
	if r.engine, err = engine.New(ctx, engine.Options{
		Base: in.Base, Compose: engine.Composer(in.Base, in.Decomposition), Factors: engine.NewFactors(in.Decomposition),
		StopTokens: r.task.Stop(), MaxBatch: batch, MaxWaiting: 2*r.task.Len() + batch, StepTokens: rollout.DefaultStepTokens,
	}); err != nil {
		return nil, err
	}
	inner := r.close
	r.close = func() error {
		r.engine.Close()
		return inner()
	}
	prober, err := l.prober(ctx, e)
	if err != nil {
		return nil, err
	}
	r.strategy, err = adapt.New(e.Set, adapt.Tools{
		Encoder: encode.New(in.Tokenizer), Scorer: r, Reader: r, Prober: prober, Fatal: func(error) bool { return true },
	})
	if err != nil {
		return nil, err
	}
	set, err := r.needed()
	if err != nil {
		return nil, err
	}
	if err := r.engine.Prepare(ctx, set); err != nil {
		return nil, err
	}
	r.engine.Retain(set)
	return r, nil
}

// seat reads an expert and fits it to the base.
func (l *lab) seat(ref contract.ExpertRef, e exam, in train.Inputs) (expert.Adapter, error) {
	v, err := l.expert(ref.Digest)
	if err != nil {
		return v, err
	}
	if e.Foreign {
		v.Manifest.BaseDigest, v.Manifest.DecompositionDigest = e.Base, e.Decomposition
	}
	if e.Acting != "" {
		v.Manifest.Activation = e.Acting
	}
	if e.Shuffled != 0 {
		v = shuffled(v, e.Shuffled)
	}
	return v, errors.Join(v.Fits(in.Decomposition), v.FitsModel(in.Base.Linears()))
}

// shuffled puts the numbers of each vector out of order: the paper's control, which keeps
// their distribution and leaves nothing of which number belongs to which singular value.
func shuffled(v expert.Adapter, seed uint64) expert.Adapter {
	rng := rand.New(rand.NewPCG(seed, 0)) //nolint:gosec // It must be the same each time.
	z := make(map[string][]float32, len(v.Z))
	for _, name := range slices.Sorted(maps.Keys(v.Z)) {
		z[name] = slices.Clone(v.Z[name])
		rng.Shuffle(len(z[name]), func(i, j int) { z[name][i], z[name][j] = z[name][j], z[name][i] })
	}
	v.Z = z
	return v
}

// Score implements adapt.Scorer.
func (r *room) Score(ctx context.Context, q adapt.Scoring) ([]float64, error) {
	m, err := r.mixture(q.With, nil)
	if err != nil {
		return nil, err
	}
	return r.engine.Score(ctx, engine.ScoreRequest{Mixture: m, Prompt: q.Prompt, Labels: q.Labels, Salt: q.Salt})
}

// mixture is what a decision's weights mean, as a server reads them.
func (r *room) mixture(weights map[string]float64, layers map[string][]float64) (engine.Mixture, error) {
	var parts []expert.Weighted
	for _, name := range slices.Sorted(maps.Keys(weights)) {
		if name == contract.BaseName {
			continue
		}
		v, ok := r.experts[name]
		if !ok {
			return engine.Mixture{}, fmt.Errorf("the decision names expert %q, which is not in the set", name)
		}
		parts = append(parts, expert.Weighted{Adapter: v, Alpha: weights[name], Layers: layers[name]})
	}
	if share := weights[contract.BaseName]; share != 0 && len(parts) > 0 {
		parts = append(parts, expert.Weighted{Adapter: expert.Identity(), Alpha: share, Layers: layers[contract.BaseName]})
	}
	return engine.NewMixture(parts...)
}

// needed is what the engine is told of the mixtures to come.
func (r *room) needed() (engine.Set, error) {
	needs := r.strategy.Needs()
	set := engine.Set{Fixed: needs.Passes == 1, Blends: needs.Blends}
	for i, weights := range needs.Mixtures {
		var layers map[string][]float64
		if i == 0 {
			layers = needs.Layers
		}
		m, err := r.mixture(weights, layers)
		if err != nil {
			return set, err
		}
		if !m.IsBase() {
			set.Mixtures = append(set.Mixtures, m)
		}
	}
	return set, nil
}

// request is what strategies are given of a record.
func (r *room) request(i int) adapt.Request {
	messages := r.set.Records[i].Messages
	return adapt.Request{Turns: []string{messages[len(messages)-1].Content}, Prompt: r.task.Prompts()[i], Salt: r.salt}
}

// answer lets the experts answer a test set greedily, each question as its strategy decides.
func (l *lab) answer(ctx context.Context, e exam) (out answered, err error) {
	r, err := l.enter(ctx, e, 1, batch)
	if err != nil {
		return out, err
	}
	defer func() { err = errors.Join(err, r.close()) }()
	n := r.task.Len()
	answers, of := make([]rollout.Answer, n), make([]int, n)
	out.Chosen = map[string]int{}
	var mu sync.Mutex
	group, within := errgroup.WithContext(ctx)
	group.SetLimit(batch)
	for i := range n {
		of[i] = i
		group.Go(func() error {
			d, err := r.strategy.Decide(within, r.request(i))
			if err == nil {
				answers[i], err = r.write(within, i, d, answerTokens, false)
			}
			if err != nil {
				return fmt.Errorf("question %d: %w", i, err)
			}
			mu.Lock()
			defer mu.Unlock()
			out.Chosen[d.Expert]++
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return out, err
	}
	right, err := r.task.Right(ctx, of, answers)
	if err != nil {
		return out, err
	}
	out.Of = n
	for _, ok := range right {
		if ok {
			out.Right++
		}
	}
	return out, nil
}

// write is pass 2 of a question. whole lets the answer go on to its last token.
func (r *room) write(ctx context.Context, i int, d adapt.Decision, tokens int, whole bool) (rollout.Answer, error) {
	var a rollout.Answer
	m, err := r.mixture(d.Weights, d.Layers)
	if err != nil {
		return a, err
	}
	result, err := r.engine.Generate(ctx, engine.Request{
		Mixture: m, Prompt: r.task.Prompts()[i], Salt: r.salt, MaxTokens: tokens, Sampler: train.Greedy(), Logprobs: -1, IgnoreStopTokens: whole,
	}, func(delta engine.Delta) error {
		if delta.Token >= 0 {
			a.Tokens = append(a.Tokens, delta.Token)
		}
		return nil
	})
	if err == nil && result.StopToken >= 0 {
		a.Tokens, a.Stopped = append(a.Tokens, result.StopToken), true
	}
	return a, err
}
