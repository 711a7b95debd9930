package svd

import (
	"math"

	"gonum.org/v1/gonum/blas"
	"gonum.org/v1/gonum/blas/gonum"
)

// reflectorBlock is how many reflections are applied at once.
const reflectorBlock = 32

// level1 has the vector operations, which run from memory anyway.
var level1 gonum.Implementation

// eigen computes all eigenvalues, ascending, and eigenvectors, as the rows of a
// matrix, of the symmetric matrix a [n, n], which it overwrites.
func (t *team) eigen(a []float64, n int) (values, vectors []float64, err error) {
	reduced, err := t.tridiagonalise(a, n)
	if err != nil {
		return nil, nil, err
	}
	values, vectors, err = t.divide(reduced.diagonal, reduced.off)
	if err != nil {
		return nil, nil, err
	}
	return values, vectors, t.reflect(vectors, reduced)
}

// tridiagonal is a symmetric tridiagonal matrix T and the reflections
// Hⱼ = I − tauⱼ·vⱼ·vⱼᵀ with A = H₀·H₁⋯T⋯H₁·H₀. Row j of v is vⱼ, which is zero
// up to its element j and has a one behind it.
type tridiagonal struct {
	n             int
	diagonal, off []float64
	v, tau        []float64
}

// tridiagonalise reduces the symmetric matrix a [n, n], of which both halves are
// used and overwritten.
func (t *team) tridiagonalise(a []float64, n int) (*tridiagonal, error) {
	r := &tridiagonal{
		n: n, diagonal: make([]float64, n), off: make([]float64, max(n-1, 0)),
		v: make([]float64, n*n), tau: make([]float64, n),
	}
	// Row l of w pairs with the l-th reflection of a block: inside a block the
	// matrix is a − Σ (vₗ·wₗᵀ + wₗ·vₗᵀ).
	w := make([]float64, reflectorBlock*n)
	left, right := make([]float64, 2*reflectorBlock*n), make([]float64, 2*reflectorBlock*n)
	for first := 0; first < n-1; first += reflectorBlock {
		if err := t.ctx.Err(); err != nil {
			return nil, err
		}
		count := min(reflectorBlock, n-1-first)
		for l := range count {
			t.reduceColumn(a, w, r, first, l)
		}
		end := first + count
		rest := n - end
		trailing := a[end*n+end:]
		// One product for both terms, since reading the rest is what takes time.
		for l := range count {
			v, w := r.v[(first+l)*n+end:][:rest], w[l*n+end:][:rest]
			copy(left[l*rest:], v)
			copy(left[(count+l)*rest:], w)
			copy(right[l*rest:], w)
			copy(right[(count+l)*rest:], v)
		}
		t.product(trailing, n, rest, rest, 2*count, -1, transposed(left, rest), plain(right, rest), false)
	}
	if n > 0 {
		r.diagonal[n-1] = a[n*n-1]
	}
	return r, nil
}

// reduceColumn makes the reflection of column first+l, the l-th of its block.
func (t *team) reduceColumn(a, w []float64, r *tridiagonal, first, l int) {
	n, j := r.n, first+l
	row := a[j*n+j : (j+1)*n]
	for i := range l {
		vi, wi := r.v[(first+i)*n+j:][:n-j], w[i*n+j:][:n-j]
		level1.Daxpy(n-j, -wi[0], vi, 1, row, 1)
		level1.Daxpy(n-j, -vi[0], wi, 1, row, 1)
	}
	r.diagonal[j] = row[0]
	v := r.v[j*n+j+1 : (j+1)*n]
	copy(v, row[1:])
	var tau float64
	r.off[j], tau = reflector(v)
	r.tau[j] = tau
	p := w[l*n+j+1 : (l+1)*n]
	clear(w[l*n:][:j+1])
	if tau == 0 {
		clear(p)
		return
	}
	t.chunks(len(p), func(from, to int) {
		level1.Dgemv(blas.NoTrans, to-from, len(v), tau, a[(j+1+from)*n+j+1:], n, v, 1, 0, p[from:to], 1)
	})
	for i := range l {
		vi, wi := r.v[(first+i)*n+j+1:][:len(p)], w[i*n+j+1:][:len(p)]
		alongW, alongV := level1.Ddot(len(p), wi, 1, v, 1), level1.Ddot(len(p), vi, 1, v, 1)
		level1.Daxpy(len(p), -tau*alongW, vi, 1, p, 1)
		level1.Daxpy(len(p), -tau*alongV, wi, 1, p, 1)
	}
	level1.Daxpy(len(p), -tau/2*level1.Ddot(len(p), p, 1, v, 1), v, 1, p, 1)
}

// reflector overwrites x by v, with v₀ = 1, such that (I − tau·v·vᵀ)·x is beta in
// its first element and zero elsewhere.
func reflector(x []float64) (beta, tau float64) {
	alpha := x[0]
	tail := level1.Dnrm2(len(x)-1, x[1:], 1)
	x[0] = 1
	if tail == 0 {
		return alpha, 0
	}
	beta = -math.Copysign(math.Hypot(alpha, tail), alpha)
	level1.Dscal(len(x)-1, 1/(alpha-beta), x[1:], 1)
	return beta, (beta - alpha) / beta
}

// reflect turns the rows of e, eigenvectors of r, to those of the matrix it was
// reduced from, a block of reflections I − Y·F·Yᵀ at a time.
func (t *team) reflect(e []float64, r *tridiagonal) error {
	n := r.n
	last := (n - 2) / reflectorBlock * reflectorBlock
	if n < 2 {
		return nil
	}
	for first := last; first >= 0; first -= reflectorBlock {
		if err := t.ctx.Err(); err != nil {
			return err
		}
		count := min(reflectorBlock, n-1-first)
		from := first + 1
		width := n - from
		y := r.v[first*n+from:]
		f := r.blockFactor(first, count)
		along, turned := make([]float64, n*count), make([]float64, n*count)
		t.product(along, count, n, count, width, 1, plain(e[from:], n), transposed(y, n), false)
		t.product(turned, count, n, count, count, 1, plain(along, count), transposed(f, count), false)
		t.product(e[from:], n, n, width, count, -1, plain(turned, count), plain(y, n), false)
	}
	return t.ctx.Err()
}

// blockFactor returns F [count, count], upper triangular, of a block.
func (r *tridiagonal) blockFactor(first, count int) []float64 {
	n := r.n
	f, along := make([]float64, count*count), make([]float64, count)
	for j := range count {
		v := r.v[(first+j)*n:][:n]
		tau := r.tau[first+j]
		f[j*count+j] = tau
		for i := range j {
			along[i] = level1.Ddot(n, r.v[(first+i)*n:][:n], 1, v, 1)
		}
		for i := range j {
			f[i*count+j] = -tau * level1.Ddot(j-i, f[i*count+i:][:j-i], 1, along[i:j], 1)
		}
	}
	return f
}
