package fewshot

import (
	"context"
	"fmt"
	"math"

	"github.com/transformersquared/operator/runtime/adapt"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/engine"
	"github.com/transformersquared/operator/runtime/expert"
	"github.com/transformersquared/operator/runtime/search"
	"github.com/transformersquared/operator/runtime/train"
	"github.com/transformersquared/operator/runtime/train/rollout"
)

// population evaluates mixtures of experts on examples, all of them in one batch.
type population struct {
	task    *train.Task
	session *rollout.Session
	experts []expert.Adapter
	layers  int // With weights of their own; 1 where an expert has one weight.
}

// Bounds of what is computed together. A step hands a row of logits to the host for each
// sequence, of which there may be so many bytes.
const (
	mostSequences  = 256
	leastSequences = 16
	logitBytes     = 256 << 20
)

// newPopulation prepares to evaluate so many mixtures at a time.
func newPopulation(ctx context.Context, task *train.Task, in train.Inputs, experts []expert.Adapter, layers int, s contract.FewShot) (*population, error) {
	p := &population{task: task, experts: experts, layers: layers}
	fit := min(max(logitBytes/(4*in.Base.Config().VocabSize), leastSequences), mostSequences)
	var err error
	p.session, err = rollout.Start(ctx, in.Base, task.Prompts(), rollout.Options{
		Stop: task.Stop(), MaxNewTokens: s.MaxNewTokens, Sequences: min(s.Population*task.Len(), fit),
		Compose: engine.Composer(in.Base, in.Decomposition), Factors: engine.NewFactors(in.Decomposition),
		Mixtures: s.Population + len(experts),
	})
	if err != nil {
		return nil, err
	}
	// More mixtures of these experts than can be listed: the unmerged form, in which
	// sequences of different mixtures share a batch.
	set := engine.Set{Blends: true}
	for k := range experts {
		alone, err := p.mixture(p.alone(k))
		if err != nil {
			p.session.Close()
			return nil, err
		}
		set.Mixtures = append(set.Mixtures, alone)
	}
	if err := p.session.Prepare(ctx, set); err != nil {
		p.session.Close()
		return nil, err
	}
	return p, nil
}

func (p *population) close() { p.session.Close() }

// alone is the vector of one expert.
func (p *population) alone(k int) []float64 {
	vector := make([]float64, len(p.experts)*p.layers)
	for l := range p.layers {
		vector[k*p.layers+l] = 1
	}
	return vector
}

// weights are those of a vector by expert and layer, with the decimals that are told.
func (p *population) weights(vector []float64) [][]float64 {
	all := make([][]float64, len(p.experts))
	for k := range all {
		all[k] = make([]float64, p.layers)
		for l := range all[k] {
			all[k][l] = round(vector[k*p.layers+l])
		}
	}
	return all
}

// mixture is what is served for the weights of a vector (see package adapt): so what has
// been evaluated is what answers.
func (p *population) mixture(vector []float64) (engine.Mixture, error) {
	portions, _ := adapt.Portions(p.weights(vector))
	parts := make([]expert.Weighted, len(portions))
	for k, portion := range portions {
		parts[k] = expert.Weighted{Adapter: p.experts[k], Alpha: portion[0]}
		if p.layers > 1 {
			parts[k].Layers = portion
		}
	}
	return engine.NewMixture(parts...)
}

// nothingRight is the tie-break of a mixture without a right answer: below any
// log-likelihood, and JSON has it.
const nothingRight = -math.MaxFloat64

// evaluate lets each mixture answer each example. The score of a mixture is its share of
// right answers; the tie-break is the mean log-likelihood of a token of those, the one
// that ends an answer not counted.
func (p *population) evaluate(ctx context.Context, mixtures []engine.Mixture) ([]search.Fitness, error) {
	examples := p.task.Prompts()
	questions := make([]rollout.Question, 0, len(mixtures)*len(examples))
	of := make([]int, 0, cap(questions))
	for _, m := range mixtures {
		for i, prompt := range examples {
			questions = append(questions, rollout.Question{Prompt: prompt, Sampler: train.Greedy(), Mixture: m, LogLikelihood: true})
			of = append(of, i)
		}
	}
	answers, err := p.session.Answer(ctx, questions)
	if err != nil {
		return nil, fmt.Errorf("answering the examples: %w", err)
	}
	right, err := p.task.Right(ctx, of, answers)
	if err != nil {
		return nil, err
	}
	fitness := make([]search.Fitness, len(mixtures))
	for i := range fitness {
		at := i * len(examples)
		fitness[i] = fitnessOf(answers[at:at+len(examples)], right[at:at+len(examples)])
	}
	return fitness, nil
}

func fitnessOf(answers []rollout.Answer, right []bool) search.Fitness {
	count, tokens, likelihood := 0, 0, 0.0
	for i, a := range answers {
		if right[i] {
			count++
			tokens += len(a.Text())
			likelihood += a.LogLikelihood
		}
	}
	f := search.Fitness{Score: float64(count) / float64(len(answers)), TieBreak: nothingRight}
	if count > 0 {
		f.TieBreak = likelihood / float64(max(tokens, 1))
	}
	return f
}
