package search

import (
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
)

func TestCEMOptionsNameWhatIsWrong(t *testing.T) {
	tests := []struct {
		name   string
		change func(*CEMOptions)
		want   string
	}{
		{"no experts", func(o *CEMOptions) { o.Experts = 0 }, "0 experts"},
		{"no layers", func(o *CEMOptions) { o.Layers = 0 }, "in 0 layers"},
		{"more weights than there can be", func(o *CEMOptions) { o.Experts, o.Layers = 1<<15, 1<<15 }, "at most 1048576"},
		{"one expert, normalized", func(o *CEMOptions) { o.Experts = 1 }, "always 1"},
		{"a population of one", func(o *CEMOptions) { o.Population = 1 }, "population 1"},
		{"no elite fraction", func(o *CEMOptions) { o.EliteFraction = 0 }, "elite fraction 0"},
		{"an elite fraction that is no number", func(o *CEMOptions) { o.EliteFraction = math.NaN() }, "elite fraction NaN"},
		{"one elite", func(o *CEMOptions) { o.Population = 9 }, "is 1: there must be 2"},
		{"no generations", func(o *CEMOptions) { o.Generations = 0 }, "0 generations"},
		{"a floor above the first distribution", func(o *CEMOptions) { o.MinStd = 0.5 }, "0.5"},
		{"a floor that is no number", func(o *CEMOptions) { o.MinStd = math.NaN() }, "NaN"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			o := DefaultCEM(3)
			test.change(&o)
			if _, err := NewCEM(o); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want one with %q", err, test.want)
			}
		})
	}
	o := DefaultCEM(3)
	if err := o.Validate(); err != nil || o.elites() != 6 {
		t.Errorf("the paper's search has %d elites, error %v", o.elites(), err)
	}
}

func TestCEMBeginsWithUniformWeights(t *testing.T) {
	for _, normalize := range []bool{true, false} {
		o := DefaultCEM(4)
		o.Layers, o.Normalize = 3, normalize
		s, err := NewCEM(o)
		if err != nil {
			t.Fatal(err)
		}
		population := s.Ask()
		if want := repeat(0.25, 12); !slices.Equal(population[0], want) {
			t.Errorf("the first vector is %v, want %v", population[0], want)
		}
		if len(population) != 32 {
			t.Errorf("%d vectors", len(population))
		}
		edges := 0
		for _, alpha := range population {
			for l := range o.Layers {
				sum := 0.
				for k := range o.Experts {
					a := alpha[k*o.Layers+l]
					if !(a >= 0 && a <= 1) {
						t.Fatalf("weight %v", a)
					}
					if a == 0 || a == 1 {
						edges++
					}
					sum += a
				}
				if normalize && math.Abs(sum-1) > 1e-12 {
					t.Fatalf("the weights of a layer sum to %v", sum)
				}
			}
		}
		if edges == 0 {
			t.Error("nothing was clipped: the first distribution is too narrow")
		}
	}
}

func TestCEMNormalizesEachLayerOnItsOwn(t *testing.T) {
	o := DefaultCEM(2)
	o.Layers = 3
	raw := []float64{0.125, 0, 1 /* expert 0 */, 0.375, 0, 1 /* expert 1 */}
	if got, want := o.present(raw), []float64{0.25, 0.5, 0.5, 0.75, 0.5, 0.5}; !reflect.DeepEqual(got, want) {
		t.Errorf("weights %v, want %v", got, want)
	}
	o.Normalize = false
	if got := o.present(raw); !slices.Equal(got, raw) {
		t.Errorf("weights %v, want %v", got, raw)
	}
}

// TestCEMDoesNotCareHowElitesRankAmongThemselves, nor how the rest do: to the bit.
func TestCEMDoesNotCareHowElitesRankAmongThemselves(t *testing.T) {
	o := DefaultCEM(3)
	a, _ := NewCEM(o)
	b, _ := NewCEM(o)
	rng := rand.New(rand.NewPCG(3, 4))
	for a.Progress().End == "" {
		fitness, err := settle(quadratic(a.Ask()), o.Population)
		if err != nil {
			t.Fatal(err)
		}
		order := rank(fitness)
		tell(t, a, fitness)
		// The winner stays; the other elites change places, and so do the rest.
		for _, group := range [][]int{order[1:6], order[6:]} {
			values := make([]Fitness, len(group))
			for i, from := range rng.Perm(len(group)) {
				values[i] = fitness[group[from]]
			}
			for i, to := range group {
				fitness[to] = values[i]
			}
		}
		tell(t, b, fitness)
		if !reflect.DeepEqual(a.State().CEM, b.State().CEM) {
			t.Fatalf("the distribution is %+v, want %+v", b.State().CEM, a.State().CEM)
		}
	}
}

func TestCEMLearnsNothingFromEqualScores(t *testing.T) {
	s, _ := NewCEM(DefaultCEM(3))
	before := s.State().CEM
	tell(t, s, repeat(Fitness{0.5, -1}, 32))
	if got := s.State().CEM; !reflect.DeepEqual(got, before) {
		t.Errorf("the distribution is %+v, want %+v", got, before)
	}
	// Uniform weights come first among equals.
	if best, ok := s.Best(); !ok || !slices.Equal(best.Vector, []float64{1. / 3, 1. / 3, 1. / 3}) {
		t.Errorf("best %+v", best)
	}
	// The tie-break alone is enough to learn from.
	fitness := repeat(Fitness{0.5, -1}, 32)
	for i := range fitness {
		fitness[i].TieBreak = -float64(i)
	}
	tell(t, s, fitness)
	if got := s.State().CEM; reflect.DeepEqual(got.Mean, before.Mean) {
		t.Error("nothing was learnt from the tie-break")
	}
}

func TestCEMElitesHaveScores(t *testing.T) {
	s, _ := NewCEM(DefaultCEM(3))
	population := s.weights()
	fitness := repeat(Fitness{Score: math.NaN()}, 32)
	fitness[4].Score, fitness[9].Score = 1, 2
	tell(t, s, fitness)
	state := s.State().CEM
	for j := range state.Mean {
		if want := (population[4][j] + population[9][j]) / 2; state.Mean[j] != want {
			t.Errorf("mean %v, want %v of the two that had a score", state.Mean[j], want)
		}
	}
	// One alone has no standard deviation.
	fitness = repeat(Fitness{Score: math.NaN()}, 32)
	fitness[7].Score = 3
	tell(t, s, fitness)
	if got := s.State().CEM; !reflect.DeepEqual(got, state) {
		t.Errorf("the distribution is %+v, want %+v", got, state)
	}
	if best, _ := s.Best(); best.Fitness.Score != 3 || best.Generation != 1 {
		t.Errorf("best %+v", best)
	}
}

func TestCEMEvaluatesTheBestAgain(t *testing.T) {
	s, _ := NewCEM(DefaultCEM(3))
	fitness := quadratic(s.Ask())
	fitness[5].Score = 100 // By luck.
	lucky := s.Ask()[5]
	tell(t, s, fitness)
	if best, _ := s.Best(); !slices.Equal(best.Vector, lucky) {
		t.Fatalf("best %v, want %v", best.Vector, lucky)
	}
	population := s.Ask()
	if !slices.Equal(population[0], lucky) {
		t.Fatalf("the first vector is %v, want the best, %v", population[0], lucky)
	}
	tell(t, s, quadratic(population))
	if best, _ := s.Best(); best.Fitness.Score > 0 || best.Generation != 1 {
		t.Errorf("best %+v stayed by a score that it no longer has", best)
	}
}

func TestCEMRemembersUniformWeights(t *testing.T) {
	s, _ := NewCEM(DefaultCEM(3))
	if f, ok := s.Uniform(); ok {
		t.Errorf("uniform weights have %+v before they are tried", f)
	}
	want := quadratic(s.Ask())[0]
	for range 3 {
		tell(t, s, quadratic(s.Ask()))
		resumed, ok := resume(t, s).(*CEM)
		if !ok {
			t.Fatal("the search is another one")
		}
		if got, ok := resumed.Uniform(); !ok || got != want {
			t.Errorf("uniform weights have %+v, want %+v", got, want)
		}
		s = resumed
	}
}

// TestCEMNeverLosesTheBest: where scores do not vary, no generation ends with less.
func TestCEMNeverLosesTheBest(t *testing.T) {
	for seed := range uint64(20) {
		o := DefaultCEM(3)
		o.Seed, o.Generations, o.MinStd = seed, 30, 0
		s, _ := NewCEM(o)
		last := math.Inf(-1)
		for s.Progress().End == "" {
			tell(t, s, quadratic(s.Ask()))
			best, _ := s.Best()
			if best.Fitness.Score < last {
				t.Fatalf("seed %d: the best fell from %v to %v", seed, last, best.Fitness.Score)
			}
			last = best.Fitness.Score
		}
	}
}

// TestCEMFindsWeights: in a light search, within 0.1 of the best of three weights,
// from scores that only tell ten steps apart.
func TestCEMFindsWeights(t *testing.T) {
	want := []float64{0.7, 0.2, 0.1}
	for seed := range uint64(10) {
		o := DefaultCEM(3)
		o.Seed = seed
		s, _ := NewCEM(o)
		for s.Progress().End == "" {
			var fitness []Fitness
			for _, alpha := range s.Ask() {
				distance := 0.
				for k, a := range alpha {
					distance += (a - want[k]) * (a - want[k])
				}
				distance = math.Sqrt(distance)
				fitness = append(fitness, Fitness{math.Round(10*(1-distance)) / 10, -distance})
			}
			tell(t, s, fitness)
		}
		best, _ := s.Best()
		for k, a := range best.Vector {
			if math.Abs(a-want[k]) > 0.1 {
				t.Errorf("seed %d: weights %v, want %v", seed, best.Vector, want)
				break
			}
		}
	}
}

func TestCEMEndsOnceItHasConverged(t *testing.T) {
	o := DefaultCEM(3)
	o.Generations, o.MinStd, o.Normalize = MostGenerations, 0.01, false
	s, _ := NewCEM(o)
	for s.Progress().End == "" {
		tell(t, s, quadratic(s.Ask()))
	}
	p := s.Progress()
	if p.End != EndConverged || p.Generation < 5 || p.Generation > 40 {
		t.Errorf("ended by %q after %d generations", p.End, p.Generation)
	}
	// All elites are equal where every weight is clipped.
	o.MinStd = 0
	s, _ = NewCEM(o)
	for s.Progress().End == "" {
		var fitness []Fitness
		for _, alpha := range s.Ask() {
			fitness = append(fitness, Fitness{Score: alpha[0] + alpha[1] + alpha[2]})
		}
		tell(t, s, fitness)
	}
	if p := s.Progress(); p.End != EndConverged {
		t.Errorf("ended by %q after %d generations", p.End, p.Generation)
	}
	if best, _ := s.Best(); !slices.Equal(best.Vector, []float64{1, 1, 1}) {
		t.Errorf("best %v", best.Vector)
	}
}

func TestCEMRecordsGenerations(t *testing.T) {
	o := DefaultCEM(2)
	o.Population, o.EliteFraction = 4, 0.5
	s, _ := NewCEM(o)
	tell(t, s, []Fitness{{1, 0}, {2, 0}, {math.NaN(), 0}, {6, 0}})
	want := Record{Generation: 0, Scored: 3, Best: 6, Mean: 3, Std: math.Sqrt(14. / 3), Spread: 0.5}
	if got := s.Progress().History[0]; got != want {
		t.Errorf("record %+v, want %+v", got, want)
	}
}
