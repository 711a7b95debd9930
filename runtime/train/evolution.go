package train

import (
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"

	"golang.org/x/sync/errgroup"

	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/engine"
	"github.com/transformersquared/operator/runtime/expert"
	"github.com/transformersquared/operator/runtime/failure"
	"github.com/transformersquared/operator/runtime/model"
	"github.com/transformersquared/operator/runtime/sample"
	"github.com/transformersquared/operator/runtime/search"
	"github.com/transformersquared/operator/runtime/train/rollout"
)

// evolution searches the parameters of SVF for what earns most, by covariance matrix
// adaptation: after ESSA (arXiv 2507.04453), whose way it is to search the leading
// singular values of each matrix alone. An iteration is a generation: all its candidates
// answer the same questions, in one batch of the unmerged model, each by its own scales,
// and the mean reward of a candidate's answers is its fitness. There is no backward pass,
// and so nothing of one in memory, nor the base's own matrices once it has been scored;
// and matrices may be of a type that gradients do not pass.
//
// Among candidates that earn the same, the better is the one to whom the right answers
// are likelier, in the mean, as in the paper's search of mixtures.
type evolution struct {
	method  *svf
	acts    string // Of the expert's manifest.
	layout  search.Layout
	start   map[string][]float32 // What the search begins with, and what it leaves as it is.
	options search.CMAOptions
}

// mostSearched bounds the numbers that are searched: six of them for each are in a
// checkpoint's header as text, which a safetensors file allows 100 MB.
const mostSearched = 1 << 19

func newEvolution(m *svf, start map[string][]float32, h contract.Hyper) (*evolution, error) {
	ranks := make(map[string]int, len(start))
	for name, p := range start {
		ranks[name] = len(p)
	}
	layout, err := search.NewLayout(ranks, h.TruncatedRank)
	if err != nil {
		return nil, failure.Permanent(contract.ReasonUsage, err)
	}
	if n := layout.Dimension(); n > mostSearched {
		return nil, failure.Permanentf(contract.ReasonUsage,
			"truncated rank %d makes %d numbers to search, at most %d are possible: choose a lower one, or fewer modules", h.TruncatedRank, n, mostSearched)
	}
	e := &evolution{method: m, acts: manifestActivation(h), layout: layout, start: start, options: search.CMAOptions{
		Sigma: h.Sigma, Population: h.Population, Generations: h.Iterations, Seed: h.Seed,
	}}
	if e.options.Start, err = layout.Gather(start); err != nil {
		return nil, err
	}
	if err := e.options.Validate(); err != nil {
		return nil, failure.Permanent(contract.ReasonUsage, err)
	}
	return e, nil
}

// begin makes the state that a run starts with.
func (e *evolution) begin(s *state) error {
	s.moments = nil // It follows no gradient.
	c, err := search.NewCMA(e.options)
	if err != nil {
		return err
	}
	s.search = new(c.State())
	return nil
}

// resume says why a state cannot be gone on from.
func (e *evolution) resume(s *state) error {
	if s.search == nil {
		return errors.New("it has no search")
	}
	if n := len(s.search.History); n != s.Iteration {
		return fmt.Errorf("iteration %d with %d generations", s.Iteration, n)
	}
	_, err := search.ResumeCMA(e.options, *s.search)
	return err
}

func (e *evolution) iterate(ctx context.Context, t *trainer) (*state, error) {
	if !t.onAnswers {
		// It has been scored, and nothing else is asked of it.
		t.base = nil
	}
	if err := e.method.reset(); err != nil {
		return nil, err
	}
	s, err := search.ResumeCMA(e.options, *t.state.search)
	if err != nil {
		return nil, err
	}
	fitness, tokens, err := e.evaluate(ctx, t, s.Ask())
	if err != nil {
		return nil, err
	}
	if err := s.Tell(fitness); err != nil {
		return nil, err
	}
	next := t.state.clone()
	next.Iteration++
	next.search = new(s.State())
	if next.p, err = e.layout.Scatter(s.Center(), e.start); err != nil {
		return nil, err
	}
	progress := s.Progress()
	generation := progress.History[len(progress.History)-1]
	if generation.Scored == 0 {
		t.options.Log.Warn("No candidate of the generation had numbers for logits", "iteration", next.Iteration)
	}
	next.Ended = string(progress.End)
	next.History = append(next.History, point{
		Iteration: next.Iteration, Reward: generation.Mean, AnswerTokens: tokens,
		BestReward: &generation.Best, Spread: &generation.Spread,
	})
	return next, nil
}

// evaluate returns the fitness of each candidate, by the questions of the iteration under
// way, and the number of tokens that they generated.
func (e *evolution) evaluate(ctx context.Context, t *trainer, candidates [][]float64) ([]search.Fitness, int, error) {
	records := t.questions()
	mixtures := make([]engine.Mixture, len(candidates))
	for i, x := range candidates {
		var err error
		if mixtures[i], err = e.mixture(i, x); err != nil {
			return nil, 0, err
		}
	}
	answers, err := e.answers(ctx, t, records, mixtures)
	if err != nil {
		return nil, 0, err
	}
	right, err := t.judged(ctx, records, answers)
	if err != nil {
		return nil, 0, err
	}
	fitness, tokens := make([]search.Fitness, len(candidates)), 0
	for i := range candidates {
		fitness[i] = earned(answers[i], right[i])
		for _, a := range answers[i] {
			if a != nil {
				tokens += len(a.Tokens)
			}
		}
	}
	return fitness, tokens, nil
}

// mixture is that of a candidate alone.
func (e *evolution) mixture(index int, x []float64) (engine.Mixture, error) {
	p, err := e.layout.Scatter(x, e.start)
	if err != nil {
		return engine.Mixture{}, err
	}
	a, err := e.method.adapter(p)
	if err != nil {
		return engine.Mixture{}, err
	}
	a.Manifest.Activation = e.acts
	a.Manifest.Digest = fmt.Sprintf("candidate %d", index) // It has none: it is in no file.
	return engine.NewMixture(expert.Weighted{Adapter: a, Alpha: 1})
}

// factors are those of the model, which has them.
func (e *evolution) factors() engine.Factors {
	return engine.Factors{
		Matrices: e.method.matrices,
		Rank:     func(matrix string) int { return len(e.method.sigma[matrix]) },
		Attach:   func(_ context.Context, m *model.Model, _ []string) (*model.Model, error) { return m, nil },
	}
}

// answers lets each candidate answer these records: [candidate][record]. There is no
// answer where the candidate's logits were no numbers. Where answers are drawn, those of
// all candidates to a question are drawn by the same random numbers, so that candidates
// are told apart by what they are and not by their luck.
func (e *evolution) answers(ctx context.Context, t *trainer, records []int, candidates []engine.Mixture) ([][]*rollout.Answer, error) {
	prompts := make([][]int32, len(records))
	for i, r := range records {
		prompts[i] = t.train.prompts[r]
	}
	// What the last generation was computed with takes the room of a cache and of the
	// scales of all candidates, which goes back when the collector finds it.
	runtime.GC()
	sequences := min(rollout.DefaultSequences, len(records)*len(candidates))
	session, err := rollout.Start(ctx, e.method.model(), prompts, rollout.Options{
		Stop: t.train.tokenizer.EOS(), MaxNewTokens: t.hyper.MaxNewTokens, Sequences: sequences, Factors: e.factors(),
	})
	if err != nil {
		return nil, err
	}
	defer session.Close()
	if err := session.Prepare(ctx, engine.Set{Mixtures: candidates, Blends: true}); err != nil {
		return nil, err
	}
	answers := make([][]*rollout.Answer, len(candidates))
	all, ctx := errgroup.WithContext(ctx)
	for c, candidate := range candidates {
		answers[c] = make([]*rollout.Answer, len(records))
		for i := range records {
			all.Go(func() error {
				got, err := session.Answer(ctx, []rollout.Question{{
					Prompt: prompts[i], Sampler: t.sampler(i), Mixture: candidate, LogLikelihood: true,
				}})
				if errors.Is(err, sample.ErrNotFinite) {
					return nil
				}
				if err != nil {
					return fmt.Errorf("candidate %d: %w", c, err)
				}
				answers[c][i] = &got[0]
				return nil
			})
		}
	}
	return answers, all.Wait()
}

// judged says which answers, [candidate][record], are right. The same answer to the same
// question is judged once: candidates hardly differ, and programs take long to run.
func (t *trainer) judged(ctx context.Context, records []int, answers [][]*rollout.Answer) ([][]bool, error) {
	type given struct {
		record int
		text   string
	}
	var (
		at     = map[given]int{}
		asked  []int
		unique []rollout.Answer
	)
	for _, own := range answers {
		for i, a := range own {
			if a == nil {
				continue
			}
			g := given{records[i], t.train.text(*a)}
			if _, ok := at[g]; !ok {
				at[g] = len(unique)
				asked, unique = append(asked, records[i]), append(unique, *a)
			}
		}
	}
	verdicts, err := t.train.verdicts(ctx, asked, unique)
	if err != nil {
		return nil, err
	}
	right := make([][]bool, len(answers))
	for c, own := range answers {
		right[c] = make([]bool, len(own))
		for i, a := range own {
			if a != nil {
				right[c][i] = verdicts[at[given{records[i], t.train.text(*a)}]].Right
			}
		}
	}
	return right, nil
}

// earned is the fitness of who gave these answers: the mean reward, −1 to 1, and the mean
// log-likelihood of the right ones. It is no score where an answer is missing.
func earned(answers []*rollout.Answer, right []bool) search.Fitness {
	sum, likelihood, n := 0., 0., 0
	for i, a := range answers {
		switch {
		case a == nil:
			return search.Fitness{Score: math.NaN(), TieBreak: math.NaN()}
		case right[i]:
			sum++
			likelihood += a.LogLikelihood
			n++
		default:
			sum--
		}
	}
	return search.Fitness{Score: sum / float64(len(answers)), TieBreak: likelihood / float64(n)}
}
