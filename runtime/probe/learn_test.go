package probe

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"gonum.org/v1/gonum/mat"

	"github.com/transformersquared/operator/runtime/contract"
)

// solve is the weighted ridge regression of points by its normal equations, without the one at a
// place (−1 for none): the intercept is a column of ones that is not held small. The states are
// shifted and scaled as r has them. It returns [H+1, K], the intercept last.
func solve(t *testing.T, r *ridge, points []point, without int) *mat.Dense {
	t.Helper()
	_, width := r.x.Dims()
	_, labels := r.y.Dims()
	a, b := mat.NewDense(width+1, width+1, nil), mat.NewDense(width+1, labels, nil)
	for j := range width {
		a.Set(j, j, r.lambda)
	}
	for i, p := range points {
		if i == without {
			continue
		}
		row := r.row(p.state)
		for j, v := range row {
			for k, u := range row {
				a.Set(j, k, a.At(j, k)+p.weight*v*u)
			}
			for k, share := range p.shares {
				b.Set(j, k, b.At(j, k)+p.weight*v*share)
			}
		}
	}
	var x mat.Dense
	if err := x.Solve(a, b); err != nil {
		t.Fatal(err)
	}
	return &x
}

// row is a state as the normal equations have it.
func (r *ridge) row(state []float32) []float64 {
	row := make([]float64, len(state)+1)
	for j, v := range state {
		row[j] = (float64(v) - r.shift[j]) * r.scale[j]
	}
	row[len(state)] = 1
	return row
}

// mixed are points of several weights, whose labels share some of them.
func mixed() []point {
	var points []point
	for i, e := range clouds(4, 3, 5, 8, 0.5) {
		p := e.point(3)
		p.weight = []float64{1, 4, 0.25}[i%3]
		if i%4 == 0 {
			p.shares = []float64{0.5, 0, 0.5}
		}
		points = append(points, p)
	}
	return points
}

// TestLeavingOutIsWhatItSays compares the closed form with fitting without each point, the mean
// and the scale of states being those of all.
func TestLeavingOutIsWhatItSays(t *testing.T) {
	points := mixed()
	r, err := newRidge(points, 3)
	if err != nil {
		t.Fatal(err)
	}
	r.lambda = 3
	left, loss := r.leftOut(r.lambda, 6)
	want := 0.0
	for i, p := range points {
		x, row := solve(t, r, points, i), r.row(p.state)
		for k := range 3 {
			predicted := 0.0
			for j, v := range row {
				predicted += v * x.At(j, k)
			}
			if got := left.At(i, k); math.Abs(got-predicted) > 1e-9 {
				t.Fatalf("point %d, label %d: %.10f, fitted without it %.10f", i, k, got, predicted)
			}
			kind := 6
			if i >= 6 {
				kind = len(points) - 6
			}
			want += (p.shares[k] - predicted) * (p.shares[k] - predicted) / float64(kind)
		}
	}
	if math.Abs(loss-want) > 1e-9 {
		t.Errorf("the error is %.10f, want %.10f", loss, want)
	}
}

// TestWeightsAreTheSolution compares what is served with the normal equations, and the factor
// with the one under which shares are likeliest.
func TestWeightsAreTheSolution(t *testing.T) {
	points := mixed()
	r, err := newRidge(points, 3)
	if err != nil {
		t.Fatal(err)
	}
	left, _ := r.choose(0)
	p, factor := r.probe(skills, points, left)
	x := solve(t, r, points, -1)
	for _, e := range points {
		row := r.row(e.state)
		logits, err := p.Logits(e.state)
		if err != nil {
			t.Fatal(err)
		}
		for k, got := range logits {
			want := 0.0
			for j, v := range row {
				want += factor * v * x.At(j, k)
			}
			if math.Abs(got-want) > 1e-4*(1+math.Abs(want)) {
				t.Fatalf("logit %.6f of label %d, the solution's is %.6f", got, k, want)
			}
		}
	}
	// −log likelihood of the smoothed shares, by its definition.
	loss := func(factor float64) float64 {
		counts := make([]float64, 3)
		for _, p := range points {
			for k, v := range p.shares {
				counts[k] += p.weight * v
			}
		}
		sum := 0.0
		for i, p := range points {
			normal := 0.0
			for k := range 3 {
				normal += math.Exp(factor * left.At(i, k))
			}
			for k, share := range p.shares {
				for j := range 3 {
					target := 1 / (counts[k] + 2) / 2
					if j == k {
						target = (counts[k] + 1) / (counts[k] + 2)
					}
					sum -= p.weight * share * target * (factor*left.At(i, j) - math.Log(normal))
				}
			}
		}
		return sum
	}
	if at := loss(factor); loss(0.98*factor) <= at || loss(1.02*factor) <= at {
		t.Errorf("factor %.4f with a loss of %.6f is no minimum: %.6f below, %.6f above", factor, at, loss(0.98*factor), loss(1.02*factor))
	}
}

// misled are questions whose states look like the prompts of math, and lie a little aside: it
// is code that answers them right, and of some reasoning, too.
func misled(seed uint64, n int) []Question {
	r := rand.New(rand.NewPCG(seed, 8))
	var all []Question
	for i, e := range clouds(seed, 3, 16, n, 1)[:n] { // Of math.
		for j := range 4 {
			e.State[j] += float32(2.5 + 0.2*r.NormFloat64())
		}
		all = append(all, Question{State: e.State, Right: []bool{false, true, i%5 == 0}, Base: i%7 == 0})
	}
	return all
}

// routed is the share of questions that go to an expert who is right.
func routed(t *testing.T, p *Probe, questions []Question) float64 {
	t.Helper()
	n := 0.0
	for _, q := range questions {
		probabilities, err := p.Probabilities(q.State)
		if err != nil {
			t.Fatal(err)
		}
		if q.Right[argmax(probabilities)] {
			n++
		}
	}
	return n / float64(len(questions))
}

// TestAnswersCorrectWhatPromptsSay: prompts that look alike mislead, and who answered right does
// not. The probe does well on questions that it has not seen, and hardly worse on prompts.
func TestAnswersCorrectWhatPromptsSay(t *testing.T) {
	prompts, questions := clouds(1, 3, 16, 60, 1), misled(5, 40)
	alone := fit(t, prompts)
	p, lesson, err := Learn(t.Context(), skills, prompts, questions)
	if err != nil {
		t.Fatal(err)
	}
	others := misled(6, 300)
	before, after := routed(t, alone, others), routed(t, p, others)
	e, err := p.Evaluate(clouds(2, 3, 16, 300, 1))
	t.Logf("%+v; of other questions %.3f come to who is right, %.3f by prompts alone; prompts %+v", lesson, after, before, e)
	if err != nil || before > 0.5 || after < 0.9 || e.Accuracy < 0.9 {
		t.Errorf("of other questions %.3f come to who is right, %.3f by prompts alone; accuracy by prompts %.3f (%v)", after, before, e.Accuracy, err)
	}
	if lesson.Questions != 40 || lesson.Weight == 0 || math.Abs(lesson.Before.Right-before) > 0.15 || math.Abs(lesson.After.Right-after) > 0.15 ||
		lesson.After.CalibrationError >= lesson.Before.CalibrationError || p.Manifest.Examples != len(prompts) || p.Manifest.Lesson == nil {
		t.Errorf("the lesson is %+v", lesson)
	}
}

// TestAnswersThatTeachNothingChangeNothing: the probe is the prompts' to the bit.
func TestAnswersThatTeachNothingChangeNothing(t *testing.T) {
	prompts := clouds(1, 3, 16, 60, 1)
	ask := func(right func(label, i int) []bool) []Question {
		var all []Question
		for i, e := range clouds(7, 3, 16, 20, 1) {
			all = append(all, Question{State: e.State, Right: right(e.Label, i), Base: true})
		}
		return all
	}
	only := func(label int) []bool { r := make([]bool, 3); r[label] = true; return r }
	chance := rand.New(rand.NewPCG(3, 4))
	for name, tc := range map[string]struct {
		questions []Question
		telling   int
	}{
		"none":               {nil, 0},
		"all are right":      {ask(func(int, int) []bool { return []bool{true, true, true} }), 0},
		"none is right":      {ask(func(int, int) []bool { return make([]bool, 3) }), 0},
		"as the prompts say": {ask(func(label, _ int) []bool { return only(label) }), 60},
		"chance":             {ask(func(int, int) []bool { return only(chance.IntN(3)) }), 60},
		"too few":            {misled(5, minQuestions-1), minQuestions - 1},
	} {
		p, lesson, err := Learn(t.Context(), skills, prompts, tc.questions)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		want := fit(t, prompts)
		same := p.Manifest.Least == want.Manifest.Least && slices.Equal(p.bias, want.bias) &&
			slices.EqualFunc(p.weights, want.weights, slices.Equal[[]float32])
		if !same || lesson.Weight != 0 || lesson.Questions != tc.telling || lesson.After != lesson.Before || p.Manifest.Lesson != nil {
			t.Errorf("%s: the same probe is %t, with %+v", name, same, lesson)
		}
	}
}

// TestTheBaseAnswersWhatIsNotSure, unless it is a label itself.
func TestTheBaseAnswersWhatIsNotSure(t *testing.T) {
	p := &Probe{Manifest: contract.ProbeManifest{Labels: []string{"code", "math"}, Least: 0.7}}
	q := Question{Right: []bool{true, false}, Base: false}
	for _, tc := range []struct {
		sure            float64
		labels          []string
		right, answered bool
	}{
		{0.9, p.Manifest.Labels, true, true},
		{0.6, p.Manifest.Labels, true, false},
		{0.6, []string{"code", contract.OthersLabel}, true, true},
		{0.2, p.Manifest.Labels, false, false},
	} {
		p.Manifest.Labels = tc.labels
		if d := p.decide(q, []float64{tc.sure, 1 - tc.sure}); d.right != tc.right || d.answered != tc.answered {
			t.Errorf("%v of %q: %+v", tc.sure, tc.labels, d)
		}
	}
}

func TestMoreIsBetterBeyondChance(t *testing.T) {
	of := func(answers string) (d decisions) {
		for _, a := range answers {
			d = append(d, decision{answered: a == '1'})
		}
		return d
	}
	for _, tc := range []struct {
		before, after string
		want          bool
	}{
		{"0000", "0000", false}, {"0000", "1000", false}, {"0000", "1100", true}, {"1000", "0111", false}, {"10000", "01111", true}, {"1111", "1110", false},
	} {
		if got := of(tc.after).better(of(tc.before)); got != tc.want {
			t.Errorf("%s after %s is better: %t", tc.after, tc.before, got)
		}
	}
}
