package fewshot

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/engine"
	"github.com/transformersquared/operator/runtime/failure"
	"github.com/transformersquared/operator/runtime/jobs"
	"github.com/transformersquared/operator/runtime/search"
	"github.com/transformersquared/operator/runtime/train"
	"github.com/transformersquared/operator/runtime/train/dataset"
	"github.com/transformersquared/operator/runtime/train/reward"
)

// searcher is a search under way.
type searcher struct {
	spec       contract.AdaptSpec
	options    Options
	dir        string
	examples   *dataset.Set
	task       *train.Task
	population *population
	state      *state
	cem        *search.CEM // Nil where there is one expert, and so nothing to weigh.

	begun time.Time // Of this process' share of the work,
	spent float64   // and the seconds that those before it had.
}

func newSearcher(ctx context.Context, spec contract.AdaptSpec, digest string, examples *dataset.Set, judge reward.Judge,
	dir string, o Options,
) (*searcher, error) {
	in, err := train.LoadInputs(ctx, o.Backend, train.Artifacts{
		DataDir: spec.DataDir, BaseDigest: spec.BaseDigest, DecompositionDigest: spec.DecompositionDigest, DType: spec.DType,
	})
	if err != nil {
		return nil, err
	}
	experts, err := loadExperts(ctx, spec, in)
	if err != nil {
		return nil, err
	}
	s := &searcher{spec: spec, options: o, dir: dir, examples: examples}
	if s.task, err = train.NewTask(examples, in.Tokenizer, judge, in.Base.Config().MaxPositions); err != nil {
		return nil, err
	}
	if err := handful(examples.Name, s.task.Len()); err != nil {
		return nil, err
	}
	if skipped := s.task.Skipped(); len(skipped) > 0 {
		o.Log.Warn("Left out examples that cannot be used", "count", len(skipped), "first", skipped[0].Why)
	}
	layers := 1
	if spec.Search.Layerwise {
		layers = in.Base.Config().Layers
	}
	if err := fits(len(experts), layers); err != nil {
		return nil, err
	}
	if err := s.load(digest, layers); err != nil {
		return nil, err
	}
	s.population, err = newPopulation(ctx, s.task, in, experts, layers, spec.Search)
	return s, err
}

// fits makes sure that the result can be told in a termination message.
func fits(experts, layers int) error {
	digits := math.Pow10(-contract.WeightDigits)
	most := contract.FewShotResult{
		Score: digits, BaselineScore: digits, UniformScore: digits, Generations: search.MostGenerations,
		Evaluations: math.MaxInt32, Seconds: 1e6 + digits, Examples: contract.MaxExamples,
		ExamplesDigest: contract.DigestPrefix + strings.Repeat("0", 64),
	}
	for range experts {
		w := contract.FoundWeight{Weight: digits, Score: digits}
		for l := 0; l < layers && layers > 1; l++ {
			w.Layers = append(w.Layers, 1-digits)
		}
		most.Weights = append(most.Weights, w)
	}
	if _, err := jobs.EncodeTermination(contract.Termination{FewShot: &most, Device: strings.Repeat("x", 128)}); err != nil {
		return failure.Permanentf(contract.ReasonUsage,
			"%d experts with weights of %d layers each have more weights than a Job can report: mix fewer experts, or search one weight for all layers of an expert", experts, layers)
	}
	return nil
}

// load continues the search from its folder, or begins it.
func (s *searcher) load(digest string, layers int) error {
	experts := len(s.spec.Experts)
	was, err := loadState(s.dir, digest, experts)
	var cem *search.CEM
	o := options(s.spec.Search, experts, layers)
	switch {
	case err != nil || experts == 1:
	case was != nil && was.Search != nil:
		cem, err = search.ResumeCEM(o, *was.Search)
	default:
		cem, err = search.NewCEM(o)
	}
	if errors.Is(err, errUnusable) || errors.Is(err, search.ErrState) {
		s.options.Log.Warn("The search is begun anew", "error", err)
		if was, err = nil, nil; experts > 1 {
			cem, err = search.NewCEM(o)
		}
	}
	if err != nil {
		return err
	}
	if was == nil {
		was = &state{Format: stateFormat, Spec: digest}
	} else {
		s.options.Log.Info("The search goes on", "evaluations", was.Evaluations)
	}
	s.state, s.cem, s.spent = was, cem, was.Seconds
	return nil
}

// run makes what is left of the search.
func (s *searcher) run(ctx context.Context) error {
	if len(s.state.References) == 0 {
		s.options.Progress.Phase("Baseline", 0, 0)
		if err := s.references(ctx); err != nil {
			return err
		}
	}
	if s.cem == nil {
		return nil
	}
	p := s.cem.Progress()
	s.options.Progress.Phase("Searching", int64(p.Generation), int64(p.Generations))
	s.tell()
	return search.Run(ctx, s.cem, s.generation, func(now search.State) error {
		s.state.Search = &now
		s.tell()
		last := now.History[len(now.History)-1]
		s.options.Log.Info("Generation was finished", "generation", len(now.History), "best", last.Best, "mean", last.Mean, "spread", last.Spread)
		return s.save()
	})
}

// references evaluates the base and each expert alone.
func (s *searcher) references(ctx context.Context) error {
	mixtures := []engine.Mixture{{}}
	for k := range s.spec.Experts {
		m, err := s.population.mixture(s.population.alone(k))
		if err != nil {
			return err
		}
		mixtures = append(mixtures, m)
	}
	fitness, err := s.population.evaluate(ctx, mixtures)
	if err != nil {
		return err
	}
	s.state.References, s.state.Evaluations = fitness, len(fitness)
	return s.save()
}

// generation evaluates the vectors of a generation: each mixture once, and those not at
// all that are known, the best so far and experts alone. As answers are greedy, a mixture
// always gives the same.
func (s *searcher) generation(ctx context.Context, _ int, vectors [][]float64) ([]search.Fitness, error) {
	known := map[string]search.Fitness{}
	know := func(vector []float64, f search.Fitness) error {
		m, err := s.population.mixture(vector)
		known[m.Key()] = f
		return err
	}
	for k := range s.spec.Experts {
		if err := know(s.population.alone(k), s.state.References[k+1]); err != nil {
			return nil, err
		}
	}
	if best, ok := s.cem.Best(); ok {
		if err := know(best.Vector, best.Fitness); err != nil {
			return nil, err
		}
	}
	keys := make([]string, len(vectors))
	asked := map[string]bool{}
	var mixtures []engine.Mixture
	for i, vector := range vectors {
		m, err := s.population.mixture(vector)
		if err != nil {
			return nil, err
		}
		keys[i] = m.Key()
		if _, ok := known[keys[i]]; !ok && !asked[keys[i]] {
			asked[keys[i]] = true
			mixtures = append(mixtures, m)
		}
	}
	evaluated, err := s.population.evaluate(ctx, mixtures)
	if err != nil {
		return nil, err
	}
	for i, m := range mixtures {
		known[m.Key()] = evaluated[i]
	}
	s.state.Evaluations += len(mixtures)
	fitness := make([]search.Fitness, len(vectors))
	for i, key := range keys {
		fitness[i] = known[key]
	}
	return fitness, nil
}

// save keeps the state, with the time that the search has taken.
func (s *searcher) save() error {
	s.state.Seconds = s.seconds()
	return s.state.save(s.dir)
}

func (s *searcher) seconds() float64 { return s.spent + time.Since(s.begun).Seconds() }

// unknown stands for a score that is not known yet.
const unknown = -1

// tell says how far the search is.
func (s *searcher) tell() {
	p := s.cem.Progress()
	now := contract.SearchProgress{
		Generation: p.Generation, Generations: p.Generations,
		BestScore: unknown, BaselineScore: s.state.References[0].Score, UniformScore: unknown,
	}
	if best, ok := s.cem.Best(); ok {
		now.BestScore = best.Fitness.Score
	}
	if uniform, ok := s.cem.Uniform(); ok {
		now.UniformScore = uniform.Score
	}
	s.options.Progress.Search(now)
	s.options.Progress.Done(int64(p.Generation))
}

// found is the result.
func (s *searcher) found() (contract.FewShotResult, error) {
	r := contract.FewShotResult{
		BaselineScore: round(s.state.References[0].Score), Evaluations: s.state.Evaluations,
		Seconds: math.Round(s.seconds()*1000) / 1000, Examples: s.task.Len(), ExamplesDigest: s.examples.Digest,
	}
	vector := s.population.alone(0)
	r.Score = round(s.state.References[1].Score)
	r.UniformScore = r.Score
	if s.cem != nil {
		best, ok := s.cem.Best()
		uniform, has := s.cem.Uniform()
		if !ok || !has {
			return r, fmt.Errorf("the search of %d generations has no score", s.cem.Progress().Generation)
		}
		vector = best.Vector
		r.Score, r.UniformScore, r.Generations = round(best.Fitness.Score), round(uniform.Score), s.cem.Progress().Generation
	}
	for k, layers := range s.population.weights(vector) {
		w := contract.FoundWeight{Score: round(s.state.References[k+1].Score)}
		for _, alpha := range layers {
			w.Weight += alpha / float64(len(layers))
		}
		if w.Weight = round(w.Weight); len(layers) > 1 {
			w.Layers = layers
		}
		r.Weights = append(r.Weights, w)
	}
	return r, nil
}

// round leaves as many decimals as a result has.
func round(x float64) float64 {
	digits := math.Pow10(contract.WeightDigits)
	return math.Round(x*digits) / digits
}
