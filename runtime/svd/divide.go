package svd

import (
	"errors"
	"math"
	"slices"

	"gonum.org/v1/gonum/lapack"
	lapackgonum "gonum.org/v1/gonum/lapack/gonum"
)

const (
	// leaf is the size up to which QR iteration is as fast as dividing.
	leaf = 32
	// precision is the distance from 1 to the next number.
	precision = 0x1p-52
)

// solved is the eigensystem of a piece: values ascending, vectors as rows.
type solved struct {
	values, vectors []float64
}

// divide solves the symmetric tridiagonal eigenproblem, overwriting d and e.
func (t *team) divide(d, e []float64) (values, vectors []float64, err error) {
	bounds := []int{0, len(d)}
	for bounds[1]-bounds[0] > leaf {
		var halves []int
		for i, b := range bounds[:len(bounds)-1] {
			halves = append(halves, b, (b+bounds[i+1])/2)
		}
		bounds = append(halves, len(d))
	}
	// Each cut takes |off| from both neighbours and leaves |off|·u·uᵀ, with
	// u = (…0, 1, ±1, 0…).
	for _, cut := range bounds[1 : len(bounds)-1] {
		d[cut-1] -= math.Abs(e[cut-1])
		d[cut] -= math.Abs(e[cut-1])
	}
	pieces := make([]solved, len(bounds)-1)
	failed := make([]bool, len(pieces))
	t.each(len(pieces), func(i int) {
		from, to := bounds[i], bounds[i+1]
		var ok bool
		pieces[i], ok = iterate(d[from:to], e[from:max(to-1, from)])
		failed[i] = !ok
	})
	if slices.Contains(failed, true) {
		return nil, nil, errors.New("QR iteration did not converge")
	}
	for len(pieces) > 1 {
		for i := range len(pieces) / 2 {
			if err := t.ctx.Err(); err != nil {
				return nil, nil, err
			}
			pieces[i] = t.merge(pieces[2*i], pieces[2*i+1], e[bounds[2*i+1]-1])
			bounds[i] = bounds[2*i]
		}
		pieces = pieces[:len(pieces)/2]
		bounds[len(pieces)] = len(d)
	}
	return pieces[0].values, pieces[0].vectors, t.ctx.Err()
}

// iterate solves a small piece by QR iteration.
func iterate(d, e []float64) (solved, bool) {
	n := len(d)
	var impl lapackgonum.Implementation
	columns := make([]float64, n*n)
	values, off := slices.Clone(d), slices.Clone(e)
	if !impl.Dsteqr(lapack.EVTridiag, n, values, off, columns, n, make([]float64, max(1, 2*n-2))) {
		return solved{}, false
	}
	rows := make([]float64, n*n)
	for i := range n {
		for j := range n {
			rows[i*n+j] = columns[j*n+i]
		}
	}
	return solved{values, rows}, true
}

// entry is one eigenpair of two pieces that are being merged.
type entry struct {
	value, z float64
	// vector has the elements of both pieces; top and bottom say which of them
	// can be other than zero.
	vector      []float64
	top, bottom bool
}

// merge joins the eigensystems of two neighbours that off connects.
func (t *team) merge(a, b solved, off float64) solved {
	na, nb := len(a.values), len(b.values)
	n := na + nb
	entries := make([]entry, n)
	joined := make([]float64, n*n)
	for i, v := range a.values {
		vector := joined[i*n:][:n]
		copy(vector, a.vectors[i*na:][:na])
		entries[i] = entry{v, vector[na-1] / math.Sqrt2, vector, true, false}
	}
	for i, v := range b.values {
		vector := joined[(na+i)*n:][:n]
		copy(vector[na:], b.vectors[i*nb:][:nb])
		entries[na+i] = entry{v, math.Copysign(1, off) * vector[na] / math.Sqrt2, vector, false, true}
	}
	// Stable, so that equal values keep one order.
	slices.SortStableFunc(entries, func(x, y entry) int { return compare(x.value, y.value) })
	rho := 2 * math.Abs(off)
	live, settled := deflate(entries, rho)
	k := len(live)
	vectors := make([]float64, k*n)
	values := t.secular(live, rho, na, vectors)
	result := make([]entry, 0, n)
	for i, v := range values {
		result = append(result, entry{value: v, vector: vectors[i*n:][:n]})
	}
	result = append(result, settled...)
	slices.SortStableFunc(result, func(x, y entry) int { return compare(x.value, y.value) })
	merged := solved{make([]float64, n), make([]float64, n*n)}
	for i, e := range result {
		merged.values[i] = e.value
		copy(merged.vectors[i*n:], e.vector)
	}
	return merged
}

func compare(a, b float64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// deflate separates the entries, which are in ascending order, into those that
// the rank-one change moves and those that it leaves alone to working accuracy:
// with a negligible z, or made so by turning two whose values are the same.
func deflate(entries []entry, rho float64) (live, settled []entry) {
	var largest, largestZ float64
	for _, e := range entries {
		largest, largestZ = max(largest, math.Abs(e.value)), max(largestZ, math.Abs(e.z))
	}
	tolerance := 8 * precision * max(largest, rho*largestZ)
	var pending *entry
	for i := range entries {
		e := &entries[i]
		if rho*math.Abs(e.z) <= tolerance {
			settled = append(settled, *e)
			continue
		}
		if pending != nil {
			length := math.Hypot(e.z, pending.z)
			c, s := e.z/length, -pending.z/length
			if math.Abs((e.value-pending.value)*c*s) <= tolerance {
				level1.Drot(len(e.vector), pending.vector, 1, e.vector, 1, c, s)
				lower, upper := pending.value, e.value
				pending.value, e.value = lower*c*c+upper*s*s, lower*s*s+upper*c*c
				e.z, pending.z = length, 0
				either, other := e.top || pending.top, e.bottom || pending.bottom
				e.top, e.bottom, pending.top, pending.bottom = either, other, either, other
				settled = append(settled, *pending)
			} else {
				live = append(live, *pending)
			}
		}
		pending = e
	}
	if pending != nil {
		live = append(live, *pending)
	}
	return live, settled
}

// secular solves diag(values) + rho·z·zᵀ for the live entries and writes the
// eigenvectors, combined with those of the entries, to the rows of vectors
// [len(live), n]. The first na of n elements are the top ones.
func (t *team) secular(live []entry, rho float64, na int, vectors []float64) []float64 {
	k := len(live)
	if k == 0 {
		return nil
	}
	n := len(live[0].vector)
	d, z := make([]float64, k), make([]float64, k)
	for j, e := range live {
		d[j], z[j] = e.value, e.z
	}
	values := make([]float64, k)
	// Row i of gaps is d − λᵢ, to full relative accuracy.
	gaps := make([]float64, k*k)
	t.each(k, func(i int) { values[i] = root(d, z, rho, i, gaps[i*k:][:k]) })
	// The values are exact for a slightly different z; with that z the vectors
	// are orthogonal to working accuracy (Gu and Eisenstat).
	t.chunks(k, func(from, to int) { exactZ(z, d, gaps, from, to) })
	t.each(k, func(i int) {
		row := gaps[i*k:][:k]
		for j := range row {
			row[j] = z[j] / row[j]
		}
		level1.Dscal(k, 1/level1.Dnrm2(k, row, 1), row, 1)
	})
	part := func(from, to int, in func(entry) bool) {
		var used []int
		for j, e := range live {
			if in(e) {
				used = append(used, j)
			}
		}
		u, width := len(used), to-from
		weights, rows := make([]float64, k*u), make([]float64, u*width)
		for i := range k {
			for q, j := range used {
				weights[i*u+q] = gaps[i*k+j]
			}
		}
		for q, j := range used {
			copy(rows[q*width:][:width], live[j].vector[from:])
		}
		t.product(vectors[from:], n, k, width, u, 1, plain(weights, u), plain(rows, width), false)
	}
	part(0, na, func(e entry) bool { return e.top })
	part(na, n, func(e entry) bool { return e.bottom })
	return values
}

// exactZ replaces z[from:to] by what has the roots exactly, up to a common factor.
func exactZ(z, d, gaps []float64, from, to int) {
	k := len(z)
	squares := make([]float64, to-from)
	last := gaps[(k-1)*k:]
	for j := from; j < to; j++ {
		squares[j-from] = -last[j]
	}
	for i := range k - 1 {
		row := gaps[i*k:][:k]
		for j := from; j < to; j++ {
			pole := d[i]
			if i >= j {
				pole = d[i+1]
			}
			squares[j-from] *= -row[j] / (pole - d[j])
		}
	}
	for j := from; j < to; j++ {
		z[j] = math.Copysign(math.Sqrt(math.Abs(squares[j-from])), z[j])
	}
}
