package train

import (
	"context"
	"fmt"
	"math"
	"runtime"
	"sync"

	"github.com/transformersquared/operator/runtime/model"
	"github.com/transformersquared/operator/runtime/sample"
	"github.com/transformersquared/operator/runtime/tensor"
)

// episode is one answer of a batch and what it earned.
type episode struct {
	tokens []int32 // prompt and answer
	prompt int     // number of the prompt's tokens
	// advantage is r − b: the reward, less the baseline.
	advantage float64
}

// sequence asks for the logits that predict the answer.
func (e episode) sequence() model.Sequence {
	return model.Sequence{Tokens: e.tokens, From: e.prompt - 1}
}

// objective is the loss whose gradient trains an expert (section 3.2 of the
// paper), for a batch of B answers ŷ to prompts x:
//
//	L = 1/B · Σ [ −(r − b)·log π'(ŷ|x) + λ·KL(π'‖π) ]
//
// log π'(ŷ|x) is the sum over the answer's tokens, the one that ended it
// included. KL(π'‖π) is exact: at each position of the answer it is summed over
// the vocabulary, π being the base model's distribution there, and positions
// are summed as in the paper's reference implementation. That implementation
// computes the divergence the other way round, KL(π‖π'); the formula of the
// paper is the one computed here. Both have the same second-order behaviour
// near π' = π.
type objective struct {
	klWeight float64
	batch    int // B
}

// sums are what a batch adds up to; they are divided by the caller.
type sums struct {
	loss   float64 // Σ over answers, before 1/B
	kl     float64 // Σ over answer tokens
	tokens int     // answer tokens
}

// gradient replaces logits [N, V], those of π' for the answers' positions of
// the episodes in order, by dL/dlogits. base [N, V] are π's; where λ is 0 it may
// be nil, and then the sum kl is 0.
func (o objective) gradient(episodes []episode, logits, base *tensor.Tensor) (sums, error) {
	rows := make([]answerRow, 0, logits.Rows())
	for _, e := range episodes {
		for _, token := range e.tokens[e.prompt:] {
			rows = append(rows, answerRow{token: token, advantage: e.advantage})
		}
	}
	if len(rows) != logits.Rows() {
		return sums{}, fmt.Errorf("%d answer tokens, but %d rows of logits", len(rows), logits.Rows())
	}
	if base != nil && len(rows) != base.Rows() {
		return sums{}, fmt.Errorf("%d answer tokens, but %d rows of the base model's logits", len(rows), base.Rows())
	}
	parallel(len(rows), logits.Cols(), func(i int, exps []float64) {
		var pi []float32
		if base != nil {
			pi = base.Row(i)
		}
		o.row(&rows[i], logits.Row(i), pi, exps)
	})
	// Summed in order, so that the result is the same for any number of
	// processors.
	s := sums{tokens: len(rows)}
	for _, r := range rows {
		s.loss += -r.advantage*r.logProb + o.klWeight*r.kl
		s.kl += r.kl
	}
	return s, nil
}

// answerRow is one position of an answer.
type answerRow struct {
	token       int32
	advantage   float64
	logProb, kl float64
}

// row computes log π'(token), KL(π'‖π) and the gradient of one position:
//
//	dL/dlᵥ = 1/B · [ (r−b)·(π'ᵥ − 1[v = token]) + λ·π'ᵥ·(log π'ᵥ/πᵥ − KL) ].
//
// exps [V] is scratch: exponentials cost most of it, so each is taken once. Where
// λ is 0, base may be nil.
func (o objective) row(r *answerRow, logits, base []float32, exps []float64) {
	var baseNorm float64
	if base != nil {
		peak, sum := softmaxSum(base, exps)
		baseNorm = peak + math.Log(sum)
	}
	peak, sum := softmaxSum(logits, exps)
	norm := peak + math.Log(sum)
	shift := baseNorm - norm
	for v := range exps {
		exps[v] /= sum // π'
	}
	for v, b := range base {
		r.kl += exps[v] * (float64(logits[v]) - float64(b) + shift)
	}
	r.logProb = float64(logits[r.token]) - norm
	scale := 1 / float64(o.batch)
	for v, l := range logits {
		p := exps[v]
		g := r.advantage * p
		if o.klWeight != 0 {
			g += o.klWeight * p * (float64(l) - float64(base[v]) + shift - r.kl)
		}
		if int32(v) == r.token {
			g -= r.advantage
		}
		logits[v] = float32(g * scale)
	}
}

// softmaxSum sets exps to e^(l−peak), and returns the largest logit and the sum.
func softmaxSum(logits []float32, exps []float64) (peak, sum float64) {
	peak = math.Inf(-1)
	for _, l := range logits {
		peak = max(peak, float64(l))
	}
	return peak, sample.Exp(exps, logits, peak, 1)
}

// parallel runs body for 0 to n−1 on all processors, each with scratch memory of
// its own.
func parallel(n, scratch int, body func(i int, scratch []float64)) {
	workers := min(n, runtime.GOMAXPROCS(0))
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			own := make([]float64, scratch)
			for i := w; i < n; i += workers {
				body(i, own)
			}
		})
	}
	wg.Wait()
}

// gradients computes the loss of a batch and dL/ds of every factored matrix.
// Where λ is 0, base may be nil, and then the sum kl is 0.
// Episodes are taken through the model a few at a time, as many as budget
// tokens allow, which bounds memory and changes nothing else.
func (o objective) gradients(ctx context.Context, factored, base *model.Model, episodes []episode, budget int) (map[string][]float64, sums, error) {
	total := map[string][]float64{}
	var all sums
	for first := 0; first < len(episodes); {
		last, tokens := first, 0
		for last < len(episodes) && (last == first || tokens+len(episodes[last].tokens) <= budget) {
			tokens += len(episodes[last].tokens)
			last++
		}
		part, s, err := o.microbatch(ctx, factored, base, episodes[first:last])
		if err != nil {
			return nil, sums{}, err
		}
		for name, ds := range part {
			if total[name] == nil {
				total[name] = make([]float64, len(ds))
			}
			for i, d := range ds {
				total[name][i] += float64(d)
			}
		}
		all = sums{loss: all.loss + s.loss, kl: all.kl + s.kl, tokens: all.tokens + s.tokens}
		first = last
	}
	return total, all, nil
}

func (o objective) microbatch(ctx context.Context, factored, base *model.Model, episodes []episode) (map[string][]float32, sums, error) {
	sequences := make([]model.Sequence, len(episodes))
	for i, e := range episodes {
		sequences[i] = e.sequence()
	}
	var baseLogits *tensor.Tensor
	if base != nil {
		l, tape, err := base.Forward(ctx, sequences)
		if err != nil {
			return nil, sums{}, fmt.Errorf("base model: %w", err)
		}
		tape.Release()
		baseLogits = l
	}
	logits, tape, err := factored.Forward(ctx, sequences)
	if err != nil {
		return nil, sums{}, err
	}
	s, err := o.gradient(episodes, logits, baseLogits)
	if err != nil {
		tape.Release()
		return nil, sums{}, err
	}
	ds, err := factored.Backward(ctx, tape, logits)
	return ds, s, err
}
