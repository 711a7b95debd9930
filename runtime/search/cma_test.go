package search

import (
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// The functions that evolution strategies are compared on, to be minimised, 0 at best.
func sphere(x []float64) float64 {
	sum := 0.
	for _, v := range x {
		sum += (v - 1) * (v - 1)
	}
	return sum
}

// ellipsoid has condition 1e6, along the axes.
func ellipsoid(x []float64) float64 {
	sum := 0.
	for i, v := range x {
		sum += math.Pow(1e6, float64(i)/float64(len(x)-1)) * (v - 1) * (v - 1)
	}
	return sum
}

func rosenbrock(x []float64) float64 {
	sum := 0.
	for i := range len(x) - 1 {
		a, b := x[i+1]-x[i]*x[i], 1-x[i]
		sum += 100*a*a + b*b
	}
	return sum
}

// rastrigin has a local optimum at each point of whole numbers.
func rastrigin(x []float64) float64 {
	sum := 0.
	for _, v := range x {
		v -= 0.5
		sum += 10 + v*v - 10*math.Cos(2*math.Pi*v)
	}
	return sum
}

// minimize tells a search of f until f is below target, and returns the least value
// and the number of evaluations.
func minimize(t *testing.T, s *CMA, f func([]float64) float64, target float64) (least float64, evaluations int) {
	t.Helper()
	least = math.Inf(1)
	for s.Progress().End == "" && least > target {
		var fitness []Fitness
		for _, x := range s.Ask() {
			value := f(x)
			least = min(least, value)
			fitness = append(fitness, Fitness{Score: -value})
		}
		evaluations += len(fitness)
		tell(t, s, fitness)
	}
	return least, evaluations
}

// TestCMAOnBenchmarks bounds the evaluations to reach 1e-10, about a fifth above what
// was measured, which is what pycma (8d16505) needs from the same starts: 1,690 to 1,760
// for the sphere of 10, 12,600 to 13,300 for that of 100; 4,170 to 4,560 and 13,700 to
// 14,000 for the ellipsoids; 3,650 to 4,280 for Rosenbrock's function. From some starts
// that one leads to its local minimum (3.98), and Rastrigin's to one of many; the seeds
// are of searches that find the best.
func TestCMAOnBenchmarks(t *testing.T) {
	tests := []struct {
		name       string
		f          func([]float64) float64
		n          int
		covariance Covariance
		population int
		sigma      float64
		seeds      []uint64
		want       int // evaluations, at most
	}{
		{"sphere of 1", sphere, 1, Full, 0, 0.5, []uint64{0, 1, 2}, 250},
		{"sphere of 10", sphere, 10, Full, 0, 0.5, []uint64{0, 1, 2}, 2300},
		{"sphere of 100, diagonal", sphere, 100, Diagonal, 0, 0.5, []uint64{0}, 14000},
		{"ellipsoid of 10", ellipsoid, 10, Full, 0, 0.5, []uint64{0, 1, 2}, 5500},
		{"ellipsoid of 50, diagonal", ellipsoid, 50, Diagonal, 0, 0.5, []uint64{0, 1}, 16000},
		{"Rosenbrock's of 8", rosenbrock, 8, Full, 0, 0.5, []uint64{1, 3, 4}, 6000},
		{"Rastrigin's of 5, many vectors", rastrigin, 5, Full, 100, 3, []uint64{0, 3}, 7500},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			for _, seed := range test.seeds {
				s, err := NewCMA(CMAOptions{
					Start: repeat(-1., test.n), Sigma: test.sigma, Population: test.population,
					Covariance: test.covariance, Generations: maxGenerations, Seed: seed,
				})
				if err != nil {
					t.Fatal(err)
				}
				least, evaluations := minimize(t, s, test.f, 1e-10)
				t.Logf("seed %d: %.1e after %d evaluations", seed, least, evaluations)
				if least > 1e-10 || evaluations > test.want {
					t.Errorf("seed %d: %v after %d evaluations (%q), want 1e-10 within %d", seed, least, evaluations, s.Progress().End, test.want)
				}
			}
		})
	}
}

// TestCMALearnsTheShape: on an ellipsoid the covariance becomes its inverse Hessian.
func TestCMALearnsTheShape(t *testing.T) {
	for _, covariance := range []Covariance{Full, Diagonal} {
		s, err := NewCMA(CMAOptions{Start: repeat(-1., 5), Sigma: 0.5, Covariance: covariance, Generations: maxGenerations})
		if err != nil {
			t.Fatal(err)
		}
		minimize(t, s, ellipsoid, 1e-12)
		if condition := s.shape.condition(); condition < 1e5 || condition > 1e8 {
			t.Errorf("%s: condition %.1e, want about 1e6", covariance, condition)
		}
	}
}

func TestCMAOptionsNameWhatIsWrong(t *testing.T) {
	tests := []struct {
		name   string
		change func(*CMAOptions)
		want   string
	}{
		{"no start", func(o *CMAOptions) { o.Start = nil }, "0 numbers"},
		{"a start that is no number", func(o *CMAOptions) { o.Start[1] = math.NaN() }, "NaN at 1"},
		{"a start outside the bounds", func(o *CMAOptions) { o.Bounds = &Bounds{2, 3} }, "outside the bounds from 2 to 3"},
		{"bounds the wrong way round", func(o *CMAOptions) { o.Bounds = &Bounds{2, 0} }, "no interval"},
		{"infinite bounds", func(o *CMAOptions) { o.Bounds = &Bounds{0, math.Inf(1)} }, "no interval"},
		{"no step", func(o *CMAOptions) { o.Sigma = 0 }, "standard deviation 0"},
		{"a step that is no number", func(o *CMAOptions) { o.Sigma = math.NaN() }, "standard deviation NaN"},
		{"three vectors", func(o *CMAOptions) { o.Population = 3 }, "population 3"},
		{"an unknown covariance", func(o *CMAOptions) { o.Covariance = "Round" }, `"Round"`},
		{"a full covariance of thousands", func(o *CMAOptions) { o.Start, o.Covariance = make([]float64, 5000), Full }, "use Diagonal"},
		{"no generations", func(o *CMAOptions) { o.Generations = -1 }, "-1 generations"},
		{"a floor above the first step", func(o *CMAOptions) { o.MinStd = 2 }, "deviation 2"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			o := CMAOptions{Start: []float64{1, 1}, Sigma: 0.1, Generations: 5}
			test.change(&o)
			if _, err := NewCMA(o); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want one with %q", err, test.want)
			}
		})
	}
}

func TestCMADerivesWhatIsLeftOpen(t *testing.T) {
	tests := []struct {
		n          int
		population int
		covariance Covariance
	}{
		{1, 4, Full}, {10, 10, Full}, {100, 17, Full}, {101, 17, Diagonal}, {20000, 33, Diagonal},
	}
	for _, test := range tests {
		o := CMAOptions{Start: make([]float64, test.n), Sigma: 0.1, Generations: 5}.resolved()
		if o.Population != test.population || o.Covariance != test.covariance || o.MinStd != 1e-12*o.Sigma {
			t.Errorf("%d numbers: population %d, covariance %s, floor %v, want %d and %s", test.n, o.Population, o.Covariance, o.MinStd, test.population, test.covariance)
		}
	}
}

// TestCMARatesKeepTheCovariancePositive for all dimensions and populations: what a
// generation can take away in one direction is less than what it leaves.
func TestCMARatesKeepTheCovariancePositive(t *testing.T) {
	for _, covariance := range []Covariance{Full, Diagonal} {
		for _, n := range []int{1, 2, 3, 10, 100, 1000, 100_000} {
			for _, lambda := range []int{4, 5, 6, 17, 32, 333, 4096} {
				r := newRates(n, lambda, covariance)
				positive, negative := 0., 0.
				for i, w := range r.weights {
					if i > 0 && w > r.weights[i-1] {
						t.Fatalf("%d of %d: weights grow", n, lambda)
					}
					positive += max(w, 0)
					negative += max(-w, 0)
				}
				if math.Abs(positive-1) > 1e-12 {
					t.Errorf("%s, %d of %d: positive weights sum to %v", covariance, n, lambda, positive)
				}
				left := 1 - r.c1 - r.cMu*(positive-negative)
				taken := r.cMu * negative * float64(n)
				if !(r.c1 >= 0 && r.cMu > 0 && r.c1+r.cMu <= 1+1e-12 && left >= -1e-12 && taken <= left+1e-12) {
					t.Errorf("%s, %d of %d: c1 %v, cμ %v, %v taken of %v", covariance, n, lambda, r.c1, r.cMu, taken, left)
				}
			}
		}
	}
}

func TestCMAWidensItsStepWhereScoresAreEqual(t *testing.T) {
	s, _ := NewCMA(CMAOptions{Start: repeat(0., 4), Sigma: 0.1, Generations: 1000})
	before := s.State().CMA
	tell(t, s, repeat(Fitness{Score: 1}, s.options.Population))
	after := s.State().CMA
	if !(after.Sigma > 1.2*before.Sigma) {
		t.Errorf("the step is %v after %v", after.Sigma, before.Sigma)
	}
	after.Sigma = before.Sigma
	if !reflect.DeepEqual(after, before) {
		t.Errorf("the distribution is\n%+v, want\n%+v", after, before)
	}
	for s.Progress().End == "" {
		tell(t, s, repeat(Fitness{Score: 1}, s.options.Population))
	}
	if p := s.Progress(); p.End != EndDiverged || p.Generation > 100 {
		t.Errorf("ended by %q after %d generations", p.End, p.Generation)
	}
	if got := resume(t, s).Progress().End; got != EndDiverged {
		t.Errorf("continued, it ended by %q", got)
	}
}

func TestCMAConverges(t *testing.T) {
	s, _ := NewCMA(CMAOptions{Start: repeat(0., 3), Sigma: 0.1, Generations: 1000, MinStd: 1e-4})
	minimize(t, s, sphere, -1)
	if end := s.Progress().End; end != EndConverged {
		t.Errorf("ended by %q", end)
	}
	for i, x := range s.Center() {
		if math.Abs(x-1) > 1e-3 {
			t.Errorf("center has %v at %d, want 1", x, i)
		}
	}
}

func TestCMAEndsWhereFloat64Does(t *testing.T) {
	for _, covariance := range []Covariance{Full, Diagonal} {
		s, _ := NewCMA(CMAOptions{Start: repeat(0., 2), Sigma: 1, Covariance: covariance, Generations: maxGenerations, MinStd: 1e-30})
		minimize(t, s, func(x []float64) float64 { return x[0]*x[0] + 1e18*x[1]*x[1] }, -1)
		if end := s.Progress().End; end != EndIllConditioned {
			t.Errorf("%s ended by %q", covariance, end)
		}
		if got := resume(t, s).Progress().End; got != EndIllConditioned {
			t.Errorf("%s, continued, ended by %q", covariance, got)
		}
	}
}

// TestCMAKeepsTheBestEver, although the distribution moves on.
func TestCMAKeepsTheBestEver(t *testing.T) {
	s, _ := NewCMA(CMAOptions{Start: repeat(0., 3), Sigma: 0.1, Generations: 5})
	fitness := quadratic(s.Ask())
	fitness[2].Score = 100
	lucky := s.Ask()[2]
	tell(t, s, fitness)
	tell(t, s, quadratic(s.Ask()))
	if best, ok := s.Best(); !ok || best.Generation != 0 || !slices.Equal(best.Vector, lucky) {
		t.Errorf("best %+v, want %v", best, lucky)
	}
}

func TestBoundsReflect(t *testing.T) {
	b := &Bounds{-1, 3}
	tests := []struct{ x, want float64 }{
		{-1, -1}, {3, 3}, {0.5, 0.5}, {3.5, 2.5}, {-1.5, -0.5}, {7, -1}, {7.5, -0.5}, {-5, 3}, {-9, -1}, {11, 3},
	}
	for _, test := range tests {
		if got := b.fold(test.x); got != test.want {
			t.Errorf("%v folds to %v, want %v", test.x, got, test.want)
		}
	}
	for _, x := range []float64{1e300, -1e300, math.Nextafter(3, 4), math.Nextafter(-1, -2)} {
		if got := b.fold(x); !(got >= -1 && got <= 3) {
			t.Errorf("%v folds to %v", x, got)
		}
	}
}

// TestCMAFindsTheBestWithinBounds, in a corner.
func TestCMAFindsTheBestWithinBounds(t *testing.T) {
	s, _ := NewCMA(CMAOptions{Start: repeat(0.5, 4), Sigma: 0.3, Bounds: &Bounds{0, 1}, Generations: 300})
	least, _ := minimize(t, s, func(x []float64) float64 {
		sum := 0.
		for i, v := range x {
			if !(v >= 0 && v <= 1) {
				t.Fatalf("%v is out of bounds", v)
			}
			sum += math.Abs(v - float64(i%2))
		}
		return sum
	}, 1e-6)
	if least > 1e-6 {
		t.Errorf("best %v", least)
	}
}
