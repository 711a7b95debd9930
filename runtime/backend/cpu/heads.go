package cpu

import (
	"fmt"
	"math"
	"slices"

	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/backend/check"
	"github.com/transformersquared/operator/runtime/sample"
)

// Decide implements backend.HeadOps. Rows are looked at side by side: choosing a token
// reads the whole vocabulary, which for a large batch takes as long as a layer.
func (b *Backend) Decide(logits backend.Buffer, n int, asks []backend.Ask) ([]backend.Answer, error) {
	const op = "decide"
	c, err := check.Columns(op, length(logits), n)
	if err != nil {
		return nil, err
	}
	args, err := operands(op, operand{"logits", logits, n * c})
	if err != nil {
		return nil, err
	}
	if err := check.Asks(op, asks, n, c); err != nil {
		return nil, err
	}
	answers := make([]backend.Answer, len(asks))
	b.pool.run(len(asks), func(i int) {
		answers[i] = b.answer(asks[i], args[0][asks[i].Row*c:][:c])
	})
	return answers, nil
}

// answer answers one question about a row.
func (b *Backend) answer(ask backend.Ask, row []float32) (a backend.Answer) {
	if ask.Logits {
		a.Logits = slices.Clone(row)
	}
	if ask.Draw != nil {
		chooser, _ := b.choosers.Get().(*sample.Chooser)
		if chooser == nil {
			chooser = &sample.Chooser{}
		}
		a.Token, a.Err = chooser.Choose(row, ask.Draw)
		b.choosers.Put(chooser)
	}
	if len(ask.Scores) > 0 && a.Err == nil {
		var normaliser float64
		if normaliser, a.Err = sample.LogSum(row); a.Err != nil {
			return a
		}
		a.Scores = make([]float64, len(ask.Scores))
		for i, token := range ask.Scores {
			a.Scores[i] = float64(row[token]) - normaliser
		}
	}
	return a
}

// PolicyGradient implements backend.HeadOps.
func (b *Backend) PolicyGradient(logits, base backend.Buffer, positions []backend.Position, klWeight, scale float64) ([]backend.Loss, error) {
	const op = "policy gradient"
	n := len(positions)
	c, err := check.Columns(op, length(logits), n)
	if err != nil {
		return nil, err
	}
	args, err := operands(op, operand{"logits", logits, n * c})
	if err != nil {
		return nil, err
	}
	var pi []float32
	if err := check.Positions(op, positions, c, base != nil, klWeight); err != nil {
		return nil, err
	}
	if base != nil {
		if pi, err = floats("base", base, n*c); err != nil {
			return nil, fmt.Errorf("%s: %w", op, err)
		}
	}
	losses := make([]backend.Loss, n)
	b.pool.rows(n, 2*costExp*c, func(from, to int) {
		exps := make([]float64, c)
		for r := from; r < to; r++ {
			var other []float32
			if pi != nil {
				other = pi[r*c:][:c]
			}
			losses[r] = policyRow(positions[r], args[0][r*c:][:c], other, klWeight, scale, exps)
		}
	})
	return losses, nil
}

// policyRow computes log π'(token), KL(π'‖π) and the gradient of one position:
//
//	dL/dlᵥ = scale·[ advantage·(π'ᵥ − 1[v = token]) + λ·π'ᵥ·(log π'ᵥ/πᵥ − KL) ].
//
// exps [V] is scratch: exponentials cost most of it, so each is taken once. base may
// be nil.
func policyRow(p backend.Position, logits, base []float32, klWeight, scale float64, exps []float64) (loss backend.Loss) {
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
		loss.KL += exps[v] * (float64(logits[v]) - float64(b) + shift)
	}
	loss.LogProb = float64(logits[p.Token]) - norm
	for v, l := range logits {
		prob := exps[v]
		g := p.Advantage * prob
		if klWeight != 0 {
			g += klWeight * prob * (float64(l) - float64(base[v]) + shift - loss.KL)
		}
		if int32(v) == p.Token {
			g -= p.Advantage
		}
		logits[v] = float32(g * scale)
	}
	return loss
}

// softmaxSum sets exps to e^(l−peak), and returns the largest logit and the sum.
func softmaxSum(logits []float32, exps []float64) (peak, sum float64) {
	peak = math.Inf(-1)
	for _, l := range logits {
		peak = max(peak, float64(l))
	}
	return peak, sample.Exp(exps, logits, peak, 1)
}
