package search

import (
	"errors"
	"math"
	"slices"

	"gonum.org/v1/gonum/blas"
	"gonum.org/v1/gonum/lapack"
	lapackgonum "gonum.org/v1/gonum/lapack/gonum"
)

// Covariance says how the distribution of a CMA may be shaped.
type Covariance string

const (
	// Full learns how all numbers vary together: time and memory grow with N² for each
	// vector, and N³ for each generation.
	Full Covariance = "Full"
	// Diagonal learns how much each number varies, in time and memory that grow
	// with N (sep-CMA-ES).
	Diagonal Covariance = "Diagonal"
)

// FullDimensions is the most numbers whose covariance is full by default: beyond
// that it takes longer to learn it than searches of language models last.
const FullDimensions = 100

// mostFull is the most numbers whose covariance may be full.
const mostFull = 1024

// shape is the covariance C of a distribution of N numbers, and its root.
type shape interface {
	// values returns C as in CMAState: to read, or to write before decompose.
	values() []float64
	// root returns C^½·z. It needs decompose after each change of C.
	root(z []float64) []float64
	// update makes C: decay·C + c1·p·pᵀ + Σ wᵢ·yᵢ·yᵢᵀ.
	update(decay, c1 float64, p []float64, weights []float64, ys [][]float64)
	// decompose computes the root. It fails where C has none, and then the condition
	// is infinite and the root of no use.
	decompose() error
	// largest and spread are the largest and the mean standard deviation of a number,
	// condition the ratio of the largest and the least eigenvalue: infinite where the
	// least is not above zero.
	largest() float64
	spread() float64
	condition() float64
}

var errNotPositive = errors.New("the covariance is not positive definite")

// negligible is how far an eigenvalue may be below zero, relative to the largest,
// and still pass for a rounding error of one that is zero.
const negligible = 1e-10

// newShape returns the unit covariance, decomposed.
func newShape(n int, c Covariance) shape {
	if c == Diagonal {
		d := &diagonal{variance: make([]float64, n), std: make([]float64, n)}
		for i := range n {
			d.variance[i], d.std[i] = 1, 1
		}
		return d
	}
	f := &full{n: n, c: make([]float64, n*n), half: make([]float64, n*n), cond: 1}
	for i := range n {
		f.c[i*n+i], f.half[i*n+i] = 1, 1
	}
	return f
}

// diagonal is a covariance that has no other entries.
type diagonal struct{ variance, std []float64 } // [N]

func (d *diagonal) values() []float64 { return d.variance }

func (d *diagonal) root(z []float64) []float64 {
	y := make([]float64, len(z))
	for i := range z {
		y[i] = d.std[i] * z[i]
	}
	return y
}

func (d *diagonal) update(decay, c1 float64, p []float64, weights []float64, ys [][]float64) {
	for i := range d.variance {
		v := decay*d.variance[i] + c1*p[i]*p[i]
		for k, y := range ys {
			v += weights[k] * y[i] * y[i]
		}
		d.variance[i] = v
	}
}

func (d *diagonal) decompose() error {
	for i, v := range d.variance {
		d.std[i] = math.Sqrt(max(v, 0))
	}
	if !(slices.Min(d.variance) >= -negligible*slices.Max(d.variance)) {
		return errNotPositive
	}
	return nil
}

func (d *diagonal) largest() float64 { return slices.Max(d.std) }

func (d *diagonal) spread() float64 { return mean(d.std) }

func (d *diagonal) condition() float64 { return ratio(slices.Min(d.variance), slices.Max(d.variance)) }

func ratio(least, largest float64) float64 {
	if least > 0 {
		return largest / least
	}
	return math.Inf(1)
}

// full is a covariance with all entries, symmetric to the bit.
type full struct {
	n       int
	c, half []float64 // [N × N], C and C^½
	cond    float64
}

func (f *full) values() []float64 { return f.c }

func (f *full) root(z []float64) []float64 {
	y := make([]float64, f.n)
	for i := range y {
		for j, h := range f.half[i*f.n:][:f.n] {
			y[i] += h * z[j]
		}
	}
	return y
}

func (f *full) update(decay, c1 float64, p []float64, weights []float64, ys [][]float64) {
	for i := range f.n {
		for j := range i + 1 {
			v := decay*f.c[i*f.n+j] + c1*p[i]*p[j]
			for k, y := range ys {
				v += weights[k] * y[i] * y[j]
			}
			f.c[i*f.n+j], f.c[j*f.n+i] = v, v
		}
	}
}

// decompose finds C = B·diag(d)·Bᵀ, and from it C^½ = B·diag(√d)·Bᵀ.
func (f *full) decompose() error {
	n := f.n
	f.cond = math.Inf(1)
	for i := range n {
		for j := range i {
			if f.c[i*n+j] != f.c[j*n+i] {
				return errors.New("the covariance is not symmetric")
			}
		}
	}
	var impl lapackgonum.Implementation
	vectors, values := slices.Clone(f.c), make([]float64, n) // B, and d ascending
	query := make([]float64, 1)
	impl.Dsyev(lapack.EVCompute, blas.Lower, n, vectors, n, values, query, -1)
	work := make([]float64, int(query[0]))
	if !impl.Dsyev(lapack.EVCompute, blas.Lower, n, vectors, n, values, work, len(work)) {
		return errors.New("the eigenvalues of the covariance did not converge")
	}
	least, largest := values[0], values[n-1]
	if !(least >= -negligible*largest) {
		return errNotPositive
	}
	f.cond = ratio(least, largest)
	for k, v := range values {
		values[k] = math.Sqrt(max(v, 0))
	}
	for i := range n {
		for j := range i + 1 {
			h := 0.
			for k, root := range values {
				h += vectors[i*n+k] * root * vectors[j*n+k]
			}
			f.half[i*n+j], f.half[j*n+i] = h, h
		}
	}
	return nil
}

func (f *full) largest() float64 {
	largest := 0.
	for i := range f.n {
		largest = max(largest, f.c[i*f.n+i])
	}
	return math.Sqrt(largest)
}

func (f *full) spread() float64 {
	sum := 0.
	for i := range f.n {
		sum += math.Sqrt(f.c[i*f.n+i])
	}
	return sum / float64(f.n)
}

func (f *full) condition() float64 { return f.cond }
