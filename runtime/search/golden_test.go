package search

import (
	"encoding/json"
	"flag"
	"math"
	"os"
	"path/filepath"
	"testing"
)

// The goldens are trajectories of reference implementations that were given this
// package's random numbers. To make all of them:
//
//	go test ./runtime/search -run TestDraws -write-draws
//	/usr/bin/python3 hack/golden/cem.py
//	/usr/bin/python3 hack/golden/cma.py

var writeDraws = flag.Bool("write-draws", false, "write testdata/draws.json, which the goldens are made from")

const (
	drawsFile = "testdata/draws.json"
	drawsSeed = 22
)

// drawsShape is [vectors][numbers] of each generation in drawsFile: ten for CEM, the
// rest for the smaller populations of CMA.
var drawsShape = append(repeat([2]int{32, 6}, 10), repeat([2]int{9, 6}, 20)...)

func repeat[T any](x T, n int) []T {
	repeated := make([]T, n)
	for i := range repeated {
		repeated[i] = x
	}
	return repeated
}

type drawsGolden struct {
	Seed  uint64        `json:"seed"`
	Draws [][][]float64 `json:"draws"` // by generation, vector and number
}

// TestDraws: the streams that populations are drawn from stay the same, or searches
// that are resumed after an update would not.
func TestDraws(t *testing.T) {
	var now drawsGolden
	now.Seed = drawsSeed
	for g, shape := range drawsShape {
		var vectors [][]float64
		for i := range shape[0] {
			vectors = append(vectors, draw(drawsSeed, g, i, shape[1]))
		}
		now.Draws = append(now.Draws, vectors)
	}
	if *writeDraws {
		b, err := json.Marshal(now)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(filepath.Dir(drawsFile), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(drawsFile, append(b, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var golden drawsGolden
	read(t, drawsFile, &golden)
	if golden.Seed != drawsSeed || len(golden.Draws) != len(now.Draws) {
		t.Fatalf("%s has %d generations of seed %d", drawsFile, len(golden.Draws), golden.Seed)
	}
	for g, vectors := range now.Draws {
		for i, numbers := range vectors {
			near(t, numbers, golden.Draws[g][i], "generation %d, vector %d", g, i)
		}
	}
}

func read(t *testing.T, path string, into any) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, into); err != nil {
		t.Fatal(err)
	}
}

// near compares with tolerance 1e-10 + 1e-10·|want|: both sides compute in float64,
// in other orders, and errors add up over the generations.
func near(t *testing.T, got, want []float64, format string, args ...any) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf(format+": %d numbers, want %d", append(args, len(got), len(want))...)
	}
	for i := range want {
		if !(math.Abs(got[i]-want[i]) <= 1e-10+1e-10*math.Abs(want[i])) {
			t.Fatalf(format+": number %d is %v, want %v", append(args, i, got[i], want[i])...)
		}
	}
}

// numbers decode null as NaN, which JSON cannot hold.
type numbers []float64

func (n *numbers) UnmarshalJSON(b []byte) error {
	var values []*float64
	if err := json.Unmarshal(b, &values); err != nil {
		return err
	}
	*n = nil
	for _, v := range values {
		if v == nil {
			*n = append(*n, math.NaN())
		} else {
			*n = append(*n, *v)
		}
	}
	return nil
}

func fitnesses(scores, ties numbers) []Fitness {
	fitness := make([]Fitness, len(scores))
	for i := range scores {
		fitness[i].Score = scores[i]
		if ties != nil {
			fitness[i].TieBreak = ties[i]
		}
	}
	return fitness
}

// TestCEMFollowsTheReference compares with hack/golden/cem.py (PyTorch, float64), which
// is the released code's algorithm but for equal scores at the edge of the elite.
func TestCEMFollowsTheReference(t *testing.T) {
	var golden struct {
		Version int `json:"version"`
		Cases   []struct {
			Name        string     `json:"name"`
			Options     CEMOptions `json:"options"`
			Generations []struct {
				Population [][]float64 `json:"population"` // as evaluated
				Scores     numbers     `json:"scores"`
				Ties       numbers     `json:"ties"`
				Mean       []float64   `json:"mean"` // after it
				Std        []float64   `json:"std"`
				Best       []float64   `json:"best"` // before normalising
			} `json:"generations"`
		} `json:"cases"`
	}
	read(t, "testdata/cem.json", &golden)
	if golden.Version != 1 || len(golden.Cases) == 0 {
		t.Fatalf("golden file of version %d with %d cases", golden.Version, len(golden.Cases))
	}
	for _, c := range golden.Cases {
		t.Run(c.Name, func(t *testing.T) {
			s, err := NewCEM(c.Options)
			if err != nil {
				t.Fatal(err)
			}
			for g, want := range c.Generations {
				for i, vector := range s.Ask() {
					near(t, vector, want.Population[i], "generation %d, vector %d", g, i)
				}
				if err := s.Tell(fitnesses(want.Scores, want.Ties)); err != nil {
					t.Fatal(err)
				}
				near(t, s.State().CEM.Mean, want.Mean, "generation %d, mean", g)
				near(t, s.State().CEM.Std, want.Std, "generation %d, standard deviation", g)
				near(t, s.State().Best.Vector, want.Best, "generation %d, best", g)
			}
		})
	}
}

// TestCMAFollowsTheReference compares with hack/golden/cma.py (NumPy), which follows
// Hansen's tutorial.
func TestCMAFollowsTheReference(t *testing.T) {
	var golden struct {
		Version int `json:"version"`
		Cases   []struct {
			Name        string     `json:"name"`
			Options     CMAOptions `json:"options"`
			Weights     []float64  `json:"weights"`
			Generations []struct {
				Population [][]float64 `json:"population"`
				Scores     numbers     `json:"scores"`
				Mean       []float64   `json:"mean"` // after it
				Sigma      float64     `json:"sigma"`
				Covariance []float64   `json:"covariance"`
				PathSigma  []float64   `json:"pathSigma"`
				PathC      []float64   `json:"pathC"`
			} `json:"generations"`
		} `json:"cases"`
	}
	read(t, "testdata/cma.json", &golden)
	if golden.Version != 1 || len(golden.Cases) == 0 {
		t.Fatalf("golden file of version %d with %d cases", golden.Version, len(golden.Cases))
	}
	for _, c := range golden.Cases {
		t.Run(c.Name, func(t *testing.T) {
			s, err := NewCMA(c.Options)
			if err != nil {
				t.Fatal(err)
			}
			near(t, s.rates.weights, c.Weights, "weights")
			for g, want := range c.Generations {
				for i, vector := range s.Ask() {
					near(t, vector, want.Population[i], "generation %d, vector %d", g, i)
				}
				if err := s.Tell(fitnesses(want.Scores, nil)); err != nil {
					t.Fatal(err)
				}
				state := s.State().CMA
				near(t, state.Mean, want.Mean, "generation %d, mean", g)
				near(t, []float64{state.Sigma}, []float64{want.Sigma}, "generation %d, step", g)
				near(t, state.Covariance, want.Covariance, "generation %d, covariance", g)
				near(t, state.PathSigma, want.PathSigma, "generation %d, path of the step", g)
				near(t, state.PathC, want.PathC, "generation %d, path of the covariance", g)
			}
		})
	}
}
