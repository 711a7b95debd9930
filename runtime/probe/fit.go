package probe

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"

	"gonum.org/v1/gonum/mat"
	"gonum.org/v1/gonum/stat"

	"github.com/transformersquared/operator/runtime/adapt"
	"github.com/transformersquared/operator/runtime/contract"
)

// passing is the share of the prompts that are left out in turn whose most likely label is
// likely enough: what is less likely than for all but a twentieth of them is none of the
// labels.
const passing = 0.95

// drift is by how much less the odds of a request's most likely label may be than those that
// passing asks of what was left out. Requests differ more from the prompts that experts are
// trained with than these do from each other: where skills are easily told apart, what is
// left out is likely by 0.996, and requests of the same skill in another form (the transfer
// sets of hack/paper) by 0.99, of which half and more would be none of the labels. Of 3
// nearly all of them pass, with three models, and of small talk, which is none, 4 to 28 %.
const drift = 3

// Fit returns the probe that tells labels apart by examples, which must have two labels at
// least.
//
// Of centred and scaled states x and one-hot labels y the ridge regression is W = Xᵀ(XXᵀ +
// λ)⁻¹(Y − ȳ): with the eigenvectors of XXᵀ, once, its error for an example that is left out
// follows for any λ, (y − ŷ)/(1 − h). λ is the one for which these are least. They also
// say by which factor the outputs become logits: the one under which the labels of
// what was left out are likeliest, by Newton's method.
func Fit(ctx context.Context, labels []string, examples []Example) (*Probe, error) {
	counts := make([]int, len(labels))
	for i, x := range examples {
		if len(x.State) == 0 || len(x.State) != len(examples[0].State) {
			return nil, fmt.Errorf("example %d has a state of %d numbers, the first one has %d", i, len(x.State), len(examples[0].State))
		}
		if slices.ContainsFunc(x.State, func(v float32) bool { return math.IsNaN(float64(v)) || math.IsInf(float64(v), 0) }) {
			return nil, fmt.Errorf("example %d has a state with numbers that are none", i)
		}
		if x.Label < 0 || x.Label >= len(labels) {
			return nil, fmt.Errorf("example %d has label %d of %d", i, x.Label, len(labels))
		}
		counts[x.Label]++
	}
	if len(labels) < 2 {
		return nil, errors.New("there is nothing to choose from: a probe needs two labels at least")
	}
	for k, n := range counts {
		if n < 2 {
			return nil, fmt.Errorf("label %q has %d examples: two at least are needed", labels[k], n)
		}
	}
	if len(examples) > contract.MaxProbePrompts {
		return nil, fmt.Errorf("%d examples, at most %d are possible", len(examples), contract.MaxProbePrompts)
	}
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	points := make([]point, len(examples))
	for i, e := range examples {
		points[i] = e.point(len(labels))
	}
	r, err := newRidge(points, len(labels))
	if err != nil {
		return nil, err
	}
	left, _ := r.choose(0)
	p, _ := r.probe(labels, points, left)
	p.Manifest.Examples = len(examples)
	return p, nil
}

// point is what a regression is fitted to: a state, the shares [K] of the labels, which sum
// to 1, and how many examples it counts as.
type point struct {
	state  []float32
	shares []float64
	weight float64
}

func (e Example) point(labels int) point {
	p := point{state: e.State, shares: make([]float64, labels), weight: 1}
	p.shares[e.Label] = 1
	return p
}

// ridge is a regression whose strength is to be chosen. A point that counts as w examples is
// a row that is √w times as long.
type ridge struct {
	x             *mat.Dense // [N, H], centred, scaled and weighed.
	y             *mat.Dense // [N, K], centred and weighed.
	root, own     []float64  // √w of the points, and their shares of the means.
	shift, scale  []float64  // Of states: (state − shift)·scale.
	share         []float64  // Of labels.
	values        []float64  // Eigenvalues of x·xᵀ,
	vectors, turn *mat.Dense // eigenvectors [N, N], and y in their terms [N, K].
	lambda        float64
}

func newRidge(points []point, labels int) (*ridge, error) {
	n, width := len(points), len(points[0].state)
	r := &ridge{
		x: mat.NewDense(n, width, nil), y: mat.NewDense(n, labels, nil), root: make([]float64, n), own: make([]float64, n),
		shift: make([]float64, width), scale: make([]float64, width), share: make([]float64, labels),
	}
	weights, total := make([]float64, n), 0.0
	for i, p := range points {
		weights[i], r.root[i] = p.weight, math.Sqrt(p.weight)
		total += p.weight
	}
	for i, p := range points {
		for j, v := range p.state {
			r.x.Set(i, j, float64(v))
		}
		r.own[i] = p.weight / total
		for k, v := range p.shares {
			r.y.Set(i, k, v)
			r.share[k] += v * r.own[i]
		}
	}
	column := make([]float64, n)
	for j := range width {
		mat.Col(column, j, r.x)
		mean, deviation := stat.MeanStdDev(column, weights)
		r.shift[j] = mean
		if deviation > 0 { // What never differs tells nothing.
			r.scale[j] = 1 / deviation
		}
		for i := range n {
			r.x.Set(i, j, (r.x.At(i, j)-mean)*r.scale[j]*r.root[i])
		}
	}
	r.y.Apply(func(i, k int, v float64) float64 { return (v - r.share[k]) * r.root[i] }, r.y)
	var gram mat.SymDense
	gram.SymOuterK(1, r.x)
	var eigen mat.EigenSym
	if !eigen.Factorize(&gram, true) {
		return nil, errors.New("the states of the examples have no eigenvectors")
	}
	r.values, r.vectors, r.turn = eigen.Values(nil), &mat.Dense{}, &mat.Dense{}
	eigen.VectorsTo(r.vectors)
	for i, v := range r.values {
		r.values[i] = math.Max(v, 0) // Rounding.
	}
	r.turn.Mul(r.vectors.T(), r.y)
	return r, nil
}

// choose takes the strength for which points that are left out are predicted best, and returns
// these predictions [N, K] and how far off they are. Those from a place on are of another kind
// than those before, and both kinds have the same part in it.
func (r *ridge) choose(from int) (best *mat.Dense, lowest float64) {
	mean := 0.0
	for _, v := range r.values {
		mean += v / float64(len(r.values))
	}
	mean = math.Max(mean, 1e-12)
	lowest = math.Inf(1)
	for exponent := -4.0; exponent <= 2; exponent += 0.5 {
		lambda := mean * math.Pow(10, exponent)
		left, loss := r.leftOut(lambda, from)
		if loss < lowest {
			lowest, best, r.lambda = loss, left, lambda
		}
	}
	return best, lowest
}

// leftOut predicts each point by the others, and returns the sum of the mean squared errors of
// both kinds. The mean and the scale of states are of all.
func (r *ridge) leftOut(lambda float64, from int) (*mat.Dense, float64) {
	n, labels := r.y.Dims()
	shrunk := mat.NewDense(n, labels, nil)
	shrunk.Apply(func(i, _ int, v float64) float64 { return v * r.values[i] / (r.values[i] + lambda) }, r.turn)
	fitted := mat.NewDense(n, labels, nil)
	fitted.Mul(r.vectors, shrunk)
	loss := 0.0
	for i := range n {
		kind := from
		if i >= from {
			kind = n - from
		}
		own := r.own[i] // The mean's share.
		for j := range n {
			v := r.vectors.At(i, j)
			own += v * v * r.values[j] / (r.values[j] + lambda)
		}
		for k := range labels {
			residual := (r.y.At(i, k) - fitted.At(i, k)) / (math.Max(1-own, 1e-6) * r.root[i])
			loss += residual * residual / float64(kind)
			fitted.Set(i, k, r.y.At(i, k)/r.root[i]-residual+r.share[k])
		}
	}
	return fitted, loss
}

// probe is what the chosen strength comes to, by what it predicts of points that are left out,
// and the factor that makes these predictions logits.
func (r *ridge) probe(labels []string, points []point, left *mat.Dense) (p *Probe, factor float64) {
	factor = sharpness(left, points)
	p = &Probe{Manifest: contract.ProbeManifest{Labels: slices.Clone(labels), Least: least(left, factor)}}
	p.weights, p.bias = r.weights(factor)
	return p, factor
}

// weights are those of the chosen strength, times a factor, for states as they are.
func (r *ridge) weights(factor float64) (weights [][]float32, bias []float32) {
	n, labels := r.y.Dims()
	_, width := r.x.Dims()
	dual := mat.NewDense(n, labels, nil)
	dual.Apply(func(i, _ int, v float64) float64 { return v / (r.values[i] + r.lambda) }, r.turn)
	var back, w mat.Dense
	back.Mul(r.vectors, dual)
	w.Mul(back.T(), r.x) // [K, H]
	for k := range labels {
		row, constant := make([]float32, width), r.share[k]
		for j := range width {
			v := w.At(k, j) * r.scale[j]
			row[j] = float32(factor * v)
			constant -= v * r.shift[j]
		}
		weights, bias = append(weights, row), append(bias, float32(factor*constant))
	}
	return weights, bias
}

// sharpness is the factor that makes predictions logits under which the right labels are
// likeliest: the minimum of a convex function. That a label is right is as likely as its
// number of examples can say, (n+1)/(n+2) (Platt 1999, section 2.2): so the factor stays
// finite where all are told apart.
func sharpness(predicted *mat.Dense, points []point) float64 {
	const steps = 100
	_, labels := predicted.Dims()
	counts := make([]float64, labels)
	for _, p := range points {
		for k, v := range p.shares {
			counts[k] += v * p.weight
		}
	}
	wanted := make([]float64, len(points)) // Of each, what its labels' shares predict.
	for i, p := range points {
		for k, share := range p.shares {
			if share == 0 {
				continue
			}
			sure := (counts[k] + 1) / (counts[k] + 2)
			for j, v := range predicted.RawRowView(i) {
				if j == k {
					wanted[i] += share * sure * v
				} else {
					wanted[i] += share * (1 - sure) / float64(labels-1) * v
				}
			}
		}
	}
	factor := 1.0
	for range steps {
		var slope, curvature float64
		for i, p := range points {
			row := predicted.RawRowView(i)
			var mean, square float64
			for k, q := range adapt.Softmax(scaled(row, factor)) {
				mean += q * row[k]
				square += q * row[k] * row[k]
			}
			slope += p.weight * (mean - wanted[i])
			curvature += p.weight * (square - mean*mean)
		}
		if curvature < 1e-12 {
			break
		}
		step := slope / curvature
		// Far from the minimum Newton's step may be too long.
		step = math.Max(math.Min(step, factor/2), -2*factor)
		factor -= step
		if math.Abs(step) < 1e-9*factor {
			break
		}
	}
	return factor
}

// scaled are the logits of predictions.
func scaled(predicted []float64, factor float64) []float64 {
	logits := slices.Clone(predicted)
	for k := range logits {
		logits[k] *= factor
	}
	return logits
}

// least is how likely a request's most likely label has to be: a drift less than that of what
// was left out is in all but a few cases.
func least(predicted *mat.Dense, factor float64) float64 {
	n, _ := predicted.Dims()
	sure := make([]float64, n)
	for i := range n {
		sure[i] = slices.Max(adapt.Softmax(scaled(predicted.RawRowView(i), factor)))
	}
	slices.Sort(sure)
	p := stat.Quantile(1-passing, stat.Empirical, sure, nil)
	return p / (p + drift*(1-p))
}
