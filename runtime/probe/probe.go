// Package probe chooses experts by what the base makes of a prompt: a linear map from the
// state behind its last layer, after the prompt's last token, to a probability for each
// label (strategy Probe). Where the base reads the prompt in any case, as it does for
// experts that act on answers alone, choosing costs a product of a matrix of a few rows and
// a vector.
//
// A probe is fitted in closed form, by ridge regression on the labels of a few hundred
// prompts; how strongly it is regularised, and how sure it may call itself, is what
// leaving out each prompt in turn says is best. Where an evaluation has found out who answers
// which question right, it learns from that, too (Learn). Given the same states it is the same
// probe.
package probe

import (
	"fmt"
	"math"

	"github.com/transformersquared/operator/runtime/adapt"
	"github.com/transformersquared/operator/runtime/contract"
)

// Probe is a fitted map. It is immutable.
type Probe struct {
	Manifest contract.ProbeManifest
	// weights [K, H] and bias [K] make logits of a state [H].
	weights [][]float32
	bias    []float32
}

// Labels are what it chooses from: skills, and contract.OthersLabel if that was taught.
func (p *Probe) Labels() []string { return p.Manifest.Labels }

// Least is how likely the most likely label has to be: what is less likely is none of them.
func (p *Probe) Least() float64 { return p.Manifest.Least }

// Width is H, how many numbers a state has.
func (p *Probe) Width() int { return len(p.weights[0]) }

// Logits returns what Probabilities are the softmax of, one for each label.
func (p *Probe) Logits(state []float32) ([]float64, error) {
	if len(state) != p.Width() {
		return nil, fmt.Errorf("a state of %d numbers, the probe was fitted to %d: it is of another base", len(state), p.Width())
	}
	logits := make([]float64, len(p.weights))
	for k, row := range p.weights {
		sum := float64(p.bias[k])
		for i, w := range row {
			sum += float64(w) * float64(state[i])
		}
		if math.IsNaN(sum) || math.IsInf(sum, 0) {
			return nil, fmt.Errorf("the logit of label %q is %v", p.Manifest.Labels[k], sum)
		}
		logits[k] = sum
	}
	return logits, nil
}

// Probabilities returns those of the labels, which sum to 1.
func (p *Probe) Probabilities(state []float32) ([]float64, error) {
	logits, err := p.Logits(state)
	if err != nil {
		return nil, err
	}
	return adapt.Softmax(logits), nil
}

// Example is the state behind a prompt, and the place of its label among all.
type Example struct {
	State []float32
	Label int
}

// Evaluate says how well the probe does on prompts that it was not fitted to.
func (p *Probe) Evaluate(held []Example) (contract.ProbeEvaluation, error) {
	e := contract.ProbeEvaluation{Prompts: len(held)}
	if len(held) == 0 {
		return e, nil
	}
	var c calibration
	for _, x := range held {
		q, err := p.Probabilities(x.State)
		if err != nil {
			return e, err
		}
		best := argmax(q)
		c.add(q[best], best == x.Label)
		if best == x.Label {
			e.Accuracy++
		}
		if q[best] < p.Manifest.Least {
			e.Unsure++
		}
		e.LogLoss -= math.Log(math.Max(q[x.Label], math.SmallestNonzeroFloat64))
	}
	n := float64(len(held))
	e.Accuracy, e.Unsure, e.LogLoss = e.Accuracy/n, e.Unsure/n, e.LogLoss/n
	e.CalibrationError = c.err()
	return e, nil
}

// calibration is the expected calibration error (Guo et al. 2017, arXiv 1706.04599), in bins
// of probabilities.
type calibration [10]struct{ n, sure, right float64 }

func (c *calibration) add(sure float64, right bool) {
	bin := &c[min(int(sure*float64(len(c))), len(c)-1)]
	bin.n++
	bin.sure += sure
	if right {
		bin.right++
	}
}

// err is the mean difference between how sure decisions were and how often right.
func (c *calibration) err() float64 {
	off, n := 0.0, 0.0
	for _, b := range c {
		off += math.Abs(b.sure - b.right)
		n += b.n
	}
	return off / n
}

func argmax(values []float64) int {
	best := 0
	for i, v := range values {
		if v > values[best] {
			best = i
		}
	}
	return best
}
