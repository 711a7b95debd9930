package search

import (
	"encoding/json"
	"errors"
	"math"
	"strings"
	"testing"
)

func TestDecodeStateNamesWhatIsWrong(t *testing.T) {
	for _, test := range []struct{ name, text, want string }{
		{"nothing", "", "EOF"},
		{"half a state", `{"format":"t2-search-state/1","history":[`, "unexpected EOF"},
		{"a field of another version", `{"format":"t2-search-state/1","colour":1}`, "colour"},
		{"two states", `{"format":"t2-search-state/1"} {}`, "after its end, at byte 30"},
		{"a number that float64 cannot hold", `{"cma":{"sigma":1e999}}`, "1e999"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if _, err := DecodeState([]byte(test.text)); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want one with %q", err, test.want)
			}
		})
	}
}

// started returns the State of a search of each kind after a generation.
func started(t testing.TB) (cem, cma State) {
	t.Helper()
	a, err := NewCEM(DefaultCEM(3))
	if err != nil {
		t.Fatal(err)
	}
	b, err := NewCMA(CMAOptions{Start: []float64{0, 0.5, 1}, Sigma: 0.1, Generations: 5})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []Search{a, b} {
		if err := s.Tell(quadratic(s.Ask())); err != nil {
			t.Fatal(err)
		}
	}
	return a.State(), b.State()
}

func TestResumeNamesWhatDoesNotFit(t *testing.T) {
	o := DefaultCEM(3)
	evolution := CMAOptions{Start: []float64{0, 0.5, 1}, Sigma: 0.1, Generations: 5}
	tests := []struct {
		name   string
		change func(cem, cma *State)
		want   [2]string // of CEM and of CMA
	}{
		{"another format", func(a, b *State) { a.Format, b.Format = "x/1", "x/1" }, [2]string{`"x/1"`, `"x/1"`}},
		{"the other kind", func(a, b *State) { *a, *b = *b, *a }, [2]string{"another kind", "another kind"}},
		{"both kinds", func(a, b *State) { a.CMA, b.CEM = b.CMA, a.CEM }, [2]string{"another kind", "another kind"}},
		{"another seed", func(a, b *State) { a.CEM.Options.Seed, b.CMA.Options.Seed = 1, 1 }, [2]string{"another seed", "another seed"}},
		{
			"another population", func(a, b *State) { a.CEM.Options.Population, b.CMA.Options.Population = 9, 9 },
			[2]string{"another population", "another population"},
		},
		{"another start", func(a, b *State) { a.CEM.Options.Layers, b.CMA.Options.Start = 2, []float64{0} }, [2]string{"another layers", "another start"}},
		{"a generation missing", func(a, b *State) { a.History[0].Generation, b.History[0].Generation = 1, 1 }, [2]string{"generation 1 in the place", "generation 1 in the place"}},
		{"a best that is yet to come", func(a, b *State) { a.Best.Generation, b.Best.Generation = 1, 1 }, [2]string{"of generation 1", "of generation 1"}},
		{"a best of another length", func(a, b *State) { a.Best.Vector, b.Best.Vector = nil, nil }, [2]string{"0 numbers, want 3", "0 numbers, want 3"}},
		{
			"a best without a score", func(a, b *State) { a.Best.Fitness.Score, b.Best.Fitness.Score = math.NaN(), worst },
			[2]string{"score NaN", "the score -1.79"},
		},
		{"a short mean", func(a, b *State) { a.CEM.Mean, b.CMA.Mean = nil, nil }, [2]string{"the mean has 0", "the mean has 0"}},
		{"a weight above 1", func(a, b *State) { a.CEM.Mean[1], b.CMA.Mean[1] = 1.5, 1e31 }, [2]string{"1.5 at 1", "1e+31 at 1"}},
		{"a negative spread", func(a, b *State) { a.CEM.Std[2], b.CMA.Sigma = -1, -1 }, [2]string{"-1 at 2", "the step has -1"}},
		{"a spread that is no number", func(a, b *State) { a.CEM.Std[2], b.CMA.PathC[2] = math.NaN(), math.NaN() }, [2]string{"NaN at 2", "NaN at 2"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			cem, cma := started(t)
			test.change(&cem, &cma)
			_, errA := ResumeCEM(o, cem)
			_, errB := ResumeCMA(evolution, cma)
			for i, err := range []error{errA, errB} {
				if !errors.Is(err, ErrState) || !strings.Contains(err.Error(), test.want[i]) {
					t.Errorf("error %v, want one with %q", err, test.want[i])
				}
			}
		})
	}
	for name, change := range map[string]func(*CMAState){
		"not symmetric":         func(s *CMAState) { s.Covariance[1] += 0.01 },
		"not positive definite": func(s *CMAState) { s.Covariance[0] = -1 },
		"has 2 numbers, want 9": func(s *CMAState) { s.Covariance = s.Covariance[:2] },
	} {
		_, cma := started(t)
		change(cma.CMA)
		if _, err := ResumeCMA(evolution, cma); !errors.Is(err, ErrState) || !strings.Contains(err.Error(), name) {
			t.Errorf("error %v, want one with %q", err, name)
		}
	}
	cem, cma := started(t)
	cem.Uniform.Score = math.Inf(1)
	if _, err := ResumeCEM(o, cem); !errors.Is(err, ErrState) || !strings.Contains(err.Error(), "uniform weights have the score +Inf") {
		t.Errorf("uniform weights without a score gave %v", err)
	}
	if _, err := ResumeCEM(CEMOptions{}, cem); err == nil || errors.Is(err, ErrState) {
		t.Errorf("options that are wrong gave %v", err)
	}
	if _, err := ResumeCMA(CMAOptions{}, cma); err == nil || errors.Is(err, ErrState) {
		t.Errorf("options that are wrong gave %v", err)
	}
}

// FuzzState: bytes are refused, or they are a state of a search that goes on.
func FuzzState(f *testing.F) {
	for _, s := range seeds(f) {
		b, err := json.Marshal(s)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
		f.Add(b[:len(b)-2])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if state, err := DecodeState(b); err == nil {
			goesOn(t, state, 1, 0)
		}
	})
}

// FuzzNumbers: a state with two of its numbers changed is refused, or it is of a
// search that goes on.
func FuzzNumbers(f *testing.F) {
	for kind := range seeds(f) {
		for i := range uint8(20) {
			f.Add(uint8(kind), i, 0.5, i+1, 1e-9, 1., 0.)
			f.Add(uint8(kind), i, 1e29, i+3, 1e-30, -1., 1e200)
		}
	}
	f.Fuzz(func(t *testing.T, kind, i uint8, x float64, j uint8, y, score, tie float64) {
		states := seeds(t)
		s := states[int(kind)%len(states)]
		numbers := [][]float64{s.Best.Vector}
		if s.CEM != nil {
			numbers = append(numbers, s.CEM.Mean, s.CEM.Std)
		} else {
			numbers = append(numbers, s.CMA.Mean, s.CMA.Covariance, s.CMA.PathSigma, s.CMA.PathC, []float64{s.CMA.Sigma})
		}
		for at, value := range map[uint8]float64{i: x, j: y} {
			v := numbers[int(at)%len(numbers)]
			k := int(at) / len(numbers) % len(v)
			v[k] = value
			if n := len(s.Best.Vector); len(v) == n*n { // A covariance is symmetric.
				v[k%n*n+k/n] = value
			}
		}
		if s.CMA != nil {
			s.CMA.Sigma = numbers[len(numbers)-1][0]
		}
		goesOn(t, s, score, tie)
	})
}

// seeds are states of searches of each kind after a generation.
func seeds(t testing.TB) []State {
	t.Helper()
	cem, cma := started(t)
	diagonal, err := NewCMA(CMAOptions{Start: []float64{0.5, 0.5}, Sigma: 0.1, Generations: 5, Covariance: Diagonal, Bounds: &Bounds{0, 1}})
	if err != nil {
		t.Fatal(err)
	}
	if err := diagonal.Tell(quadratic(diagonal.Ask())); err != nil {
		t.Fatal(err)
	}
	return []State{cem, cma, diagonal.State()}
}

// goesOn: a state that is accepted is of a search whose vectors are numbers, that
// takes any scores, and whose next state can be kept.
func goesOn(t *testing.T, state State, score, tie float64) {
	t.Helper()
	var s Search
	var err error
	// The options are the user's: what they ask for is theirs to pay.
	switch {
	case state.CEM != nil:
		if o := state.CEM.Options; o.Population > 64 || o.Experts > 64 || o.Layers > 64 {
			return
		}
		s, err = ResumeCEM(state.CEM.Options, state)
	case state.CMA != nil:
		if o := state.CMA.Options; o.Population > 64 || len(o.Start) > 64 {
			return
		}
		s, err = ResumeCMA(state.CMA.Options, state)
	default:
		return
	}
	if err != nil {
		return
	}
	for range 5 {
		vectors := s.Ask()
		if (vectors == nil) != (s.Progress().End != "") {
			t.Fatalf("%d vectors, and the end is %q", len(vectors), s.Progress().End)
		}
		if vectors == nil {
			return
		}
		fitness := make([]Fitness, len(vectors))
		for i, v := range vectors {
			for _, x := range v {
				if x-x != 0 {
					t.Fatalf("vector %d has %v", i, x)
				}
			}
			fitness[i] = Fitness{score * v[0], tie}
		}
		if err := s.Tell(fitness); err != nil {
			t.Fatal(err)
		}
		if _, err := json.Marshal(s.State()); err != nil {
			t.Fatal(err)
		}
	}
}
