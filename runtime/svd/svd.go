// Package svd computes the thin singular value decomposition
// W = U·diag(S)·Vᵀ of a dense matrix, all of it, on the processor.
//
// # Method
//
// With A the matrix or its transpose, whichever is wide, [m, n] with m ≤ n:
//
//  1. G = A·Aᵀ in float64, reduced to tridiagonal form by blocked Householder
//     reflections (Dongarra, Sorensen and Hammarling, 1989; compact WY form:
//     Schreiber and Van Loan, 1989).
//  2. Its eigenvectors Q by divide and conquer (Cuppen, 1981), with roots of the
//     secular equation after Bunch, Nielsen and Sorensen (1978) and vectors made
//     orthogonal after Gu and Eisenstat (1995).
//  3. B = Qᵀ·A, whose rows are orthogonal: their lengths are the singular values
//     and their directions the right singular vectors.
//  4. G has lost the digits of what is small: its rounding errors are relative to
//     the largest value squared. Rows of B below 10⁻³ of the largest are
//     therefore cleaned of the directions found so far and decomposed again in
//     the same way, now relative to their own largest, until none are left.
//
// # Accuracy
//
// Everything runs in float64 and is rounded to float32 in the end. Singular
// values are accurate to about 10⁻⁷ relative to themselves as long as they are above
// 10⁻⁸ of the largest, and to max(m, n)·2⁻⁵² of the largest below; those within
// that bound are returned as zero, with vectors that complete the basis. UᵀU and
// VᵀV differ from the identity (largest element), and U·diag(S)·Vᵀ from W relative to ‖W‖
// (Frobenius), by about 10⁻⁷, which is the rounding to float32.
//
// Neither the number of threads nor the processor's instruction set changes a bit
// of the result; another architecture may change the last ones.
//
// # Cost
//
// 3·m²·n floating-point operations for G and B and about 7·m³ for the
// eigenproblem, nearly all in matrix products, except that the reduction reads
// G's rest once a column (8·m³/3 bytes). Memory is about 16·m·n + 40·m² bytes.
package svd

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
)

// small is where rows are decomposed again: errors grow with its inverse square.
const small = 1e-3

// Factors are a thin SVD, R = min(Out, In), row-major.
type Factors struct {
	// U is [Out, R], with orthonormal columns.
	U []float32
	// S is [R], not negative, in descending order.
	S []float32
	// Vt is [R, In], with orthonormal rows.
	Vt []float32
}

// Factor decomposes w [out, in] on up to workers goroutines. The result does not
// depend on their number. It fails when the arguments do not fit each other, when
// an element of w is not finite, when the largest singular value is beyond
// float32, and when ctx ends.
func Factor(ctx context.Context, w []float32, out, in, workers int) (*Factors, error) {
	if err := Check(w, out, in); err != nil {
		return nil, err
	}
	t := &team{ctx, max(1, workers)}
	m, n := min(out, in), max(out, in)
	a := make([]float64, m*n)
	t.chunks(out, func(from, to int) {
		for i := from; i < to; i++ {
			for j, v := range w[i*in:][:in] {
				if out <= in {
					a[i*n+j] = float64(v)
				} else {
					a[j*n+i] = float64(v)
				}
			}
		}
	})
	d := &decomposition{team: t, m: m, n: n}
	if err := d.run(a); err != nil {
		return nil, fmt.Errorf("singular value decomposition of [%d, %d]: %w", out, in, err)
	}
	if err := CheckLargest(slices.Max(d.sigma), out, in); err != nil {
		return nil, err
	}
	return d.factors(out, in), nil
}

// Check refuses what cannot be decomposed: elements that do not make a matrix
// [out, in], or that are not finite.
func Check(w []float32, out, in int) error {
	if out <= 0 || in <= 0 || len(w)/out != in || len(w)%out != 0 {
		return fmt.Errorf("singular value decomposition of [%d, %d]: %d elements given", out, in, len(w))
	}
	for i, v := range w {
		if f := float64(v); math.IsNaN(f) || math.IsInf(f, 0) {
			return fmt.Errorf("singular value decomposition of [%d, %d]: the element in row %d, column %d is %v; the matrix must be finite", out, in, i/in, i%in, v)
		}
	}
	return nil
}

// CheckLargest refuses a largest singular value that float32 does not hold.
func CheckLargest(s float64, out, in int) error {
	if s > math.MaxFloat32 {
		return fmt.Errorf("singular value decomposition of [%d, %d]: the largest singular value, %.3g, is no float32; scale the matrix down", out, in, s)
	}
	return nil
}

// Floor is what a singular value of a matrix [out, in] is above, relative to the
// largest, if it is not returned as zero.
func Floor(out, in int) float64 { return float64(max(out, in)) * precision }

// decomposition is that of a wide matrix [m, n], found from large to small.
type decomposition struct {
	*team
	m, n int
	// Row i of left [found, m] and right [found, n] are the vectors of the value
	// sigma[i].
	left, right, sigma []float64
}

func (d *decomposition) run(x []float64) error {
	m, n := d.m, d.n
	d.left, d.right = make([]float64, 0, m*m), make([]float64, 0, m*n)
	basis := make([]float64, m*m) // x = basis·A, on what is not yet found.
	for i := range m {
		basis[i*m+i] = 1
	}
	var floor float64
	for k := m; k > 0; k = m - len(d.sigma) {
		top := largestRow(x, n)
		if top <= floor {
			return d.complete(basis, k)
		}
		vectors, err := d.gramVectors(x, k)
		if err != nil {
			return err
		}
		x, basis = d.times(vectors, x, k, n), d.times(vectors, basis, k, m)
		if err := d.ctx.Err(); err != nil {
			return err
		}
		top = largestRow(x, n)
		floor = max(floor, Floor(m, n)*top)
		kept := 0
		for i := range k {
			row, side := x[i*n:][:n], basis[i*m:][:m]
			s := level1.Dnrm2(n, row, 1)
			if s <= floor || s < small*top {
				copy(x[kept*n:], row)
				copy(basis[kept*m:], side)
				kept++
				continue
			}
			level1.Dscal(n, 1/s, row, 1)
			d.left, d.right, d.sigma = append(d.left, side...), append(d.right, row...), append(d.sigma, s)
		}
		x, basis = x[:kept*n], basis[:kept*m]
		if kept == k {
			return d.complete(basis, k) // Rounding took the largest to the floor.
		}
		d.clean(x, kept)
	}
	return d.ctx.Err()
}

// gramVectors returns the eigenvectors of x·xᵀ for x [k, n], as rows.
func (d *decomposition) gramVectors(x []float64, k int) ([]float64, error) {
	g := make([]float64, k*k)
	d.product(g, k, k, k, d.n, 1, plain(x, d.n), transposed(x, d.n), true)
	for i := range k {
		for j := range i {
			g[j*k+i] = g[i*k+j]
		}
	}
	_, vectors, err := d.eigen(g, k)
	return vectors, err
}

// times returns q [k, k]·x [k, n].
func (d *decomposition) times(q, x []float64, k, n int) []float64 {
	y := make([]float64, k*n)
	d.product(y, n, k, n, k, 1, plain(q, k), plain(x, n), false)
	return y
}

// clean removes from the rows of x [k, n] what lies along the vectors found.
func (d *decomposition) clean(x []float64, k int) {
	found := len(d.sigma)
	if k == 0 || found == 0 {
		return
	}
	along := make([]float64, k*found)
	d.product(along, found, k, found, d.n, 1, plain(x, d.n), transposed(d.right, d.n), false)
	d.product(x, d.n, k, d.n, found, -1, plain(along, found), plain(d.right, d.n), false)
}

// complete adds k zeros, whose left vectors are the rows of basis and whose right
// vectors are any that are orthogonal to those found.
func (d *decomposition) complete(basis []float64, k int) error {
	x := make([]float64, k*d.n)
	if len(d.sigma) == 0 {
		for i := range k {
			x[i*d.n+i] = 1
		}
	} else {
		random := rand.New(rand.NewPCG(uint64(d.m), uint64(d.n))) //nolint:gosec // Any directions will do, the same ones every time.
		for i := range x {
			x[i] = random.NormFloat64()
		}
		// Each round takes the directions' condition to its square times the
		// precision; the first starts with that of a random matrix.
		for range 3 {
			d.clean(x, k)
			vectors, err := d.gramVectors(x, k)
			if err != nil {
				return err
			}
			x = d.times(vectors, x, k, d.n)
			for i := range k {
				row := x[i*d.n:][:d.n]
				level1.Dscal(d.n, 1/level1.Dnrm2(d.n, row, 1), row, 1)
			}
		}
	}
	d.left, d.right = append(d.left, basis...), append(d.right, x...)
	d.sigma = append(d.sigma, make([]float64, k)...)
	return d.ctx.Err()
}

// factors rounds the result and puts it in order.
func (d *decomposition) factors(out, in int) *Factors {
	r := d.m
	order := make([]int, r)
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(i, j int) int { return compare(d.sigma[j], d.sigma[i]) })
	f := &Factors{U: make([]float32, out*r), S: make([]float32, r), Vt: make([]float32, r*in)}
	u, v := d.left, d.right
	if out > in {
		u, v = v, u
	}
	for i, from := range order {
		f.S[i] = float32(d.sigma[from])
		for j, x := range v[from*in:][:in] {
			f.Vt[i*in+j] = float32(x)
		}
	}
	d.chunks(out, func(first, last int) {
		for j := first; j < last; j++ {
			for i, from := range order {
				f.U[j*r+i] = float32(u[from*out+j])
			}
		}
	})
	return f
}

// largestRow returns the length of the longest of rows of n elements.
func largestRow(x []float64, n int) float64 {
	var top float64
	for i := 0; i < len(x); i += n {
		top = max(top, level1.Dnrm2(n, x[i:], 1))
	}
	return top
}

// RelativeError returns ‖w − U·diag(S)·Vᵀ‖ / ‖w‖ (Frobenius), computed in
// float64 on up to workers goroutines, for w [out, in]; 0 for a zero matrix that
// is reproduced, and +Inf where the factors are not finite.
func (f *Factors) RelativeError(ctx context.Context, w []float32, out, in, workers int) (float64, error) {
	r := min(out, in)
	if out <= 0 || in <= 0 || len(w) != out*in || len(f.U) != out*r || len(f.S) != r || len(f.Vt) != r*in {
		return 0, errors.New("reconstruction error: the factors are not those of a matrix of this shape")
	}
	t := &team{ctx, max(1, workers)}
	us, vt, rest := make([]float64, out*r), make([]float64, r*in), make([]float64, out*in)
	for i, v := range f.U {
		us[i] = float64(v) * float64(f.S[i%r])
	}
	for i, v := range f.Vt {
		vt[i] = float64(v)
	}
	for i, v := range w {
		rest[i] = float64(v)
	}
	norm := level1.Dnrm2(len(rest), rest, 1)
	t.product(rest, in, out, in, r, -1, plain(us, r), plain(vt, in), false)
	if err := ctx.Err(); err != nil {
		return 0, fmt.Errorf("reconstruction error: %w", err)
	}
	return Relative(level1.Dnrm2(len(rest), rest, 1), norm), nil
}

// Relative is e / norm, a relative error: 0 where there is none, and +Inf where the
// error is not finite or that of a zero matrix.
func Relative(e, norm float64) float64 {
	switch {
	case e == 0:
		return 0
	case norm == 0, math.IsNaN(e):
		return math.Inf(1)
	}
	return e / norm
}
