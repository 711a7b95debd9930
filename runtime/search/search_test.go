package search

import (
	"encoding/json"
	"errors"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
)

// kinds are a small search of each kind, as JSON of their options would ask for.
func kinds() map[string]func() (Search, error) {
	cem := DefaultCEM(3)
	cem.Population, cem.Generations, cem.Seed = 12, 8, 5
	layered := cem
	layered.Layers, layered.Normalize = 2, false
	cma := CMAOptions{Start: []float64{0.5, 0.1, 0.9, 0.4}, Sigma: 0.3, Generations: 8, Seed: 6}
	diagonal := cma
	diagonal.Covariance = Diagonal
	bounded := cma
	bounded.Bounds = &Bounds{0, 1}
	return map[string]func() (Search, error){
		"CEM":           func() (Search, error) { return NewCEM(cem) },
		"CEM by layer":  func() (Search, error) { return NewCEM(layered) },
		"CMA":           func() (Search, error) { return NewCMA(cma) },
		"CMA, diagonal": func() (Search, error) { return NewCMA(diagonal) },
		"CMA, bounded":  func() (Search, error) { return NewCMA(bounded) },
	}
}

func begin(t *testing.T, kind func() (Search, error)) Search {
	t.Helper()
	s, err := kind()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// resume continues a search from its state, through JSON.
func resume(t *testing.T, s Search) Search {
	t.Helper()
	b, err := json.Marshal(s.State())
	if err != nil {
		t.Fatal(err)
	}
	state, err := DecodeState(b)
	if err != nil {
		t.Fatal(err)
	}
	var resumed Search
	if state.CEM != nil {
		resumed, err = ResumeCEM(state.CEM.Options, state)
	} else {
		resumed, err = ResumeCMA(state.CMA.Options, state)
	}
	if err != nil {
		t.Fatal(err)
	}
	return resumed
}

// quadratic is best at 0.3, 0.4, 0.5 …, and has no score (NaN) in a corner.
func quadratic(vectors [][]float64) []Fitness {
	fitness := make([]Fitness, len(vectors))
	for i, x := range vectors {
		for j, v := range x {
			d := v - (0.3 + 0.1*float64(j))
			fitness[i].Score -= d * d
		}
		if x[0] > 0.9 {
			fitness[i].Score = math.NaN()
		}
	}
	return fitness
}

func tell(t *testing.T, s Search, fitness []Fitness) {
	t.Helper()
	if err := s.Tell(fitness); err != nil {
		t.Fatal(err)
	}
}

func TestASearchContinuesFromItsStateToTheSameBits(t *testing.T) {
	for name, kind := range kinds() {
		t.Run(name, func(t *testing.T) {
			straight, interrupted := begin(t, kind), begin(t, kind)
			for straight.Progress().End == "" {
				interrupted = resume(t, interrupted)
				population := straight.Ask()
				if got := interrupted.Ask(); !reflect.DeepEqual(got, population) {
					t.Fatalf("generation %d is\n%v, want\n%v", straight.Progress().Generation, got, population)
				}
				// One of them was asked, the other was not.
				interrupted = resume(t, interrupted)
				tell(t, straight, quadratic(population))
				tell(t, interrupted, quadratic(population))
				if got, want := interrupted.State(), straight.State(); !reflect.DeepEqual(got, want) {
					t.Fatalf("the state is\n%+v, want\n%+v", got, want)
				}
			}
			interrupted = resume(t, interrupted)
			if got, want := interrupted.Progress(), straight.Progress(); !reflect.DeepEqual(got, want) {
				t.Errorf("progress %+v, want %+v", got, want)
			}
			got, ok := interrupted.Best()
			if want, _ := straight.Best(); !ok || !reflect.DeepEqual(got, want) {
				t.Errorf("best %+v, want %+v", got, want)
			}
			if !reflect.DeepEqual(interrupted.Center(), straight.Center()) {
				t.Errorf("center %v, want %v", interrupted.Center(), straight.Center())
			}
		})
	}
}

func TestASearchMayBeMadeLonger(t *testing.T) {
	o := DefaultCEM(2)
	o.Generations = 1
	s, err := NewCEM(o)
	if err != nil {
		t.Fatal(err)
	}
	tell(t, s, quadratic(s.Ask()))
	if end := s.Progress().End; end != EndGenerations {
		t.Fatalf("end %q after the only generation", end)
	}
	o.Generations = MostGenerations
	longer, err := ResumeCEM(o, s.State())
	if err != nil {
		t.Fatal(err)
	}
	if p := longer.Progress(); p.End != "" || p.Generation != 1 {
		t.Errorf("progress %+v of a search with generations left", p)
	}
}

func TestWhatIsHandedOutIsTheCallers(t *testing.T) {
	for name, kind := range kinds() {
		t.Run(name, func(t *testing.T) {
			s, untouched := begin(t, kind), begin(t, kind)
			for range 3 {
				fitness := quadratic(untouched.Ask())
				spoil := [][]float64{s.Center()}
				spoil = append(spoil, s.Ask()...)
				if best, ok := s.Best(); ok {
					spoil = append(spoil, best.Vector)
				}
				state := s.State()
				if state.CEM != nil {
					spoil = append(spoil, state.CEM.Mean, state.CEM.Std)
				} else {
					spoil = append(spoil, state.CMA.Mean, state.CMA.Covariance, state.CMA.PathC, state.CMA.PathSigma, state.CMA.Options.Start)
				}
				for _, v := range spoil {
					for i := range v {
						v[i] = -1
					}
				}
				for i := range state.History {
					state.History[i] = Record{}
				}
				tell(t, s, fitness)
				tell(t, untouched, fitness)
				if got, want := s.State(), untouched.State(); !reflect.DeepEqual(got, want) {
					t.Fatalf("the state is\n%+v, want\n%+v", got, want)
				}
			}
		})
	}
}

func TestTellRefusesWhatIsNoGeneration(t *testing.T) {
	for name, kind := range kinds() {
		t.Run(name, func(t *testing.T) {
			s := begin(t, kind)
			before := s.State()
			if err := s.Tell(make([]Fitness, len(s.Ask())-1)); err == nil {
				t.Error("one score too few was taken")
			}
			if !reflect.DeepEqual(s.State(), before) {
				t.Error("a refused generation changed the state")
			}
			var last []Fitness
			for s.Progress().End == "" {
				last = quadratic(s.Ask())
				tell(t, s, last)
			}
			if err := s.Tell(last); !errors.Is(err, ErrEnded) {
				t.Errorf("after the end Tell returned %v", err)
			}
			if vectors := s.Ask(); vectors != nil {
				t.Errorf("after the end Ask returned %v", vectors)
			}
		})
	}
}

func TestOnlyTheOrderOfScoresCounts(t *testing.T) {
	for name, kind := range kinds() {
		t.Run(name, func(t *testing.T) {
			s, other := begin(t, kind), begin(t, kind)
			for s.Progress().End == "" {
				fitness := quadratic(s.Ask())
				tell(t, s, fitness)
				for i := range fitness {
					fitness[i].Score = 1000 + math.Cbrt(fitness[i].Score)
				}
				tell(t, other, fitness)
				a, b := s.State(), other.State()
				a.History, a.Best, a.Uniform = nil, nil, nil
				b.History, b.Best, b.Uniform = nil, nil, nil
				if !reflect.DeepEqual(a, b) {
					t.Fatalf("the state is\n%+v, want\n%+v", b, a)
				}
			}
		})
	}
}

// TestNoScoreIsTheWorst: NaN, infinities and numbers that no sum would hold rank
// below every score, and none of them reaches a state.
func TestNoScoreIsTheWorst(t *testing.T) {
	none := []float64{math.NaN(), math.Inf(1), math.Inf(-1), math.MaxFloat64, -1e101}
	for name, kind := range kinds() {
		t.Run(name, func(t *testing.T) {
			s, low := begin(t, kind), begin(t, kind)
			for s.Progress().End == "" {
				fitness := quadratic(s.Ask())
				for i := range fitness {
					if i%4 == 1 {
						fitness[i] = Fitness{Score: none[i/4%len(none)], TieBreak: none[i%len(none)]}
					}
				}
				tell(t, s, fitness)
				for i := range fitness {
					fitness[i] = fitness[i].settled()
				}
				tell(t, low, fitness)
				if !reflect.DeepEqual(s.State(), low.State()) {
					t.Fatal("what is no score is not the same as the worst one")
				}
				resume(t, s) // Which encodes as JSON.
				if best, ok := s.Best(); !ok || best.Fitness.Score < -10 {
					t.Fatalf("best %+v", best)
				}
			}
			for _, r := range s.Progress().History {
				if r.Scored == len(s.State().History) || r.Best < r.Mean || r.Std < 0 || !(r.Std < 10) {
					t.Errorf("record %+v", r)
				}
			}
		})
	}
}

func TestAGenerationWithoutAScoreChangesNothing(t *testing.T) {
	for name, kind := range kinds() {
		t.Run(name, func(t *testing.T) {
			s := begin(t, kind)
			before := s.State()
			fitness := make([]Fitness, len(s.Ask()))
			for i := range fitness {
				fitness[i] = Fitness{Score: math.NaN(), TieBreak: float64(i)}
			}
			tell(t, s, fitness)
			after := s.State()
			if want := []Record{{Spread: after.History[0].Spread}}; !slices.Equal(after.History, want) {
				t.Errorf("history %+v, want %+v", after.History, want)
			}
			if _, ok := s.Best(); ok {
				t.Error("something without a score is the best")
			}
			after.History = before.History
			if !reflect.DeepEqual(after, before) {
				t.Errorf("the state is\n%+v, want\n%+v", after, before)
			}
			tell(t, resume(t, s), quadratic(s.Ask()))
		})
	}
}

func TestRankBreaksTiesAndThenKeepsTheOrder(t *testing.T) {
	no := worst
	tests := []struct {
		name    string
		fitness []Fitness
		want    []int
	}{
		{"by score", []Fitness{{1, 0}, {3, 0}, {2, 0}}, []int{1, 2, 0}},
		{"equal scores by tie-break", []Fitness{{1, -3}, {1, -1}, {2, -9}, {1, -2}}, []int{2, 1, 3, 0}},
		{"no likelihood is the least", []Fitness{{0, no}, {0, -50}, {0, no}}, []int{1, 0, 2}},
		{"all equal", []Fitness{{1, 1}, {1, 1}, {1, 1}}, []int{0, 1, 2}},
		{"no score is the last, in its order", []Fitness{{no, no}, {-1e99, -5}, {no, no}, {0, 0}}, []int{3, 1, 0, 2}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if got := rank(test.fitness); !slices.Equal(got, test.want) {
				t.Errorf("order %v, want %v", got, test.want)
			}
		})
	}
	if got := (Fitness{math.NaN(), 5}).settled(); got != (Fitness{no, no}) {
		t.Errorf("a tie-break without a score settled to %+v", got)
	}
}

// TestPermutingEqualScores: whichever of equal vectors are which, the ranking of the
// unequal ones stays, and so does all that depends on it.
func TestPermutingEqualScores(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		fitness := make([]Fitness, 16)
		for i := range fitness {
			fitness[i] = Fitness{float64(rng.IntN(4)), float64(rng.IntN(2))}
		}
		permuted := slices.Clone(fitness)
		perm := rng.Perm(len(fitness))
		for i, from := range perm {
			permuted[i] = fitness[from]
		}
		a, b := rank(fitness), rank(permuted)
		for i := range a {
			if fitness[a[i]] != permuted[b[i]] {
				t.Fatalf("place %d has %+v, and %+v after a permutation", i, fitness[a[i]], permuted[b[i]])
			}
			if i > 0 && permuted[b[i-1]] == permuted[b[i]] && b[i-1] > b[i] {
				t.Fatalf("equal vectors %d and %d changed places", b[i], b[i-1])
			}
		}
	}
}

func TestSeedsAndGenerationsGiveOtherVectors(t *testing.T) {
	seen := map[float64]bool{}
	for seed := range uint64(3) {
		for g := range 3 {
			for i := range 3 {
				x := draw(seed, g, i, 2)
				if seen[x[0]] || seen[x[1]] {
					t.Fatalf("seed %d, generation %d, vector %d repeats a number", seed, g, i)
				}
				seen[x[0]], seen[x[1]] = true, true
			}
		}
	}
}
