//go:build cuda

package cuda

import (
	"context"
	"fmt"
	"math"
	"slices"

	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/backend/cuda/cumath"
	"github.com/transformersquared/operator/runtime/svd"
)

// solved is how far U·diag(S)·Vᵀ of cuSOLVER's factors, rounded to float32, may be from
// the matrix: several times what that rounding makes of it, as of package svd's.
const solved = 1e-6

// bySolver decomposes by cuSOLVER, and checks what it returns: its vectors, for being
// orthonormal, as svdgram and svdlengths measure them, and the product of the factors, as
// svderror does. The result is nil, and said once, where those are not as precise as our
// own; then the rows are as they were.
func (d *decomposition) bySolver(ctx context.Context, t backend.DType) (*backend.Factors, error) {
	own, space := d.rows, scratch{backend: d.Backend}
	defer func() {
		d.rows = own
		space.give()
	}()
	f, doubt, err := d.solve(ctx, &space, t)
	if err != nil || doubt == "" {
		return f, err
	}
	d.doubted.Do(func() {
		d.log().Warn("Decomposed by our own kernels, since cuSOLVER's factors were not good enough; said once",
			"library", d.solver.String(), "out", d.out, "in", d.in, "reason", doubt)
	})
	return nil, d.loadRows(own)
}

// solve returns factors, or what is wrong with them. The rows become cuSOLVER's, each a
// right vector and the left one.
func (d *decomposition) solve(ctx context.Context, space *scratch, t backend.DType) (f *backend.Factors, doubt string, err error) {
	values, converged, err := d.callSolver(ctx, space)
	if err != nil {
		return nil, "", err
	}
	if !converged {
		return nil, "it did not converge", nil
	}
	if !decreasing(values) {
		return nil, "its values are no decreasing numbers", nil
	}
	if err := svd.CheckLargest(values[0], d.out, d.in); err != nil {
		return nil, "", err
	}
	if doubt, err = d.orthonormal(ctx); err != nil || doubt != "" {
		return nil, doubt, err
	}
	order, inverse, s := make([]int32, d.m), make([]float64, d.m), make([]float32, d.m)
	for i, v := range values {
		order[i], inverse[i] = int32(i), 1
		if v > svd.Floor(d.out, d.in)*values[0] {
			s[i] = float32(v)
		}
	}
	if err := context.Cause(ctx); err != nil {
		return nil, "", err
	}
	// Unrounded first: bfloat16 would hide what is wrong.
	if f, err = d.write(order, inverse, s, backend.F32); err != nil {
		return nil, "", err
	}
	if !(f.RelativeError <= solved) {
		return nil, fmt.Sprintf("the product of its factors is off by %.3g", f.RelativeError), nil
	}
	if t != backend.F32 {
		f, err = d.write(order, inverse, s, t)
	}
	return f, "", err
}

// callSolver lets cuSOLVER decompose the rows' first n columns, and returns the values.
func (d *decomposition) callSolver(ctx context.Context, space *scratch) (values []float64, converged bool, err error) {
	if err := context.Cause(ctx); err != nil {
		return nil, false, err
	}
	const float64Bytes, int32Bytes = 8, 4
	both, err := d.Backend.hold(int64(d.padded) * int64(d.pitch) * float64Bytes)
	if err != nil {
		return nil, false, err
	}
	space.held = append(space.held, both)
	if err := d.clear(both.at(), int64(d.padded)*int64(d.pitch)*float64Bytes); err != nil {
		return nil, false, err
	}
	problem := cumath.Decomposition{
		M: d.m, N: d.n, A: uint64(d.rows.at()), Pitch: d.pitch, Right: uint64(both.at()), RightPitch: d.pitch,
		Left: uint64(both.at()) + uint64(d.n)*float64Bytes, LeftPitch: d.pitch,
	}
	var at [2]address
	for i, bytes := range []int{d.m * float64Bytes, int32Bytes} {
		if at[i], err = space.take(int64(bytes)); err != nil {
			return nil, false, err
		}
	}
	problem.Values, problem.Outcome = uint64(at[0]), uint64(at[1])
	err = d.owner.now(func() (err error) {
		problem.Length, err = d.solver.WorkLength(problem)
		return err
	})
	if err != nil {
		return nil, false, err
	}
	work, err := space.take(max(1, int64(problem.Length)) * float64Bytes)
	if err != nil {
		return nil, false, err
	}
	problem.Work = uint64(work)
	if err := d.owner.now(func() error { return d.solver.Decompose(problem) }); err != nil {
		return nil, false, err
	}
	outcome := make([]int32, 1)
	if err := download(d.Backend, outcome, at[1]); err != nil {
		return nil, false, err
	}
	if converged, err = d.solver.Converged(problem, outcome[0]); err != nil || !converged {
		return nil, false, err
	}
	values = make([]float64, d.m)
	d.rows = both
	return values, true, download(d.Backend, values, at[0])
}

// decreasing reports whether values are finite, not negative, and in order.
func decreasing(values []float64) bool {
	last := math.MaxFloat64
	for _, v := range values {
		if !(v >= 0 && v <= last) {
			return false
		}
		last = v
	}
	return true
}

// orthonormal measures the rows' vectors, and says what is wrong.
func (d *decomposition) orthonormal(ctx context.Context) (doubt string, err error) {
	found, err := d.lengths()
	if err != nil {
		return "", err
	}
	for i := range d.m {
		for _, length := range []float64{found.right[i], found.left[i]} {
			if !(math.Abs(length-1) <= orthogonal) {
				return fmt.Sprintf("a vector of value %d has the length %.9g", i, length), nil
			}
		}
	}
	for _, side := range []struct {
		name    string
		at      address
		columns int
	}{{"right", d.rows.at(), d.n}, {"left", d.rows.at() + address(8*d.n), d.m}} {
		worst, err := d.worstCosine(ctx, side.at, side.columns)
		if err != nil {
			return "", err
		}
		if !(worst <= orthogonal) {
			return fmt.Sprintf("two %s vectors have a cosine of %.3g", side.name, worst), nil
		}
	}
	return "", nil
}

// worstCosine is the largest between any two rows, of so many columns, that are not zero.
func (d *decomposition) worstCosine(ctx context.Context, rows address, columns int) (float64, error) {
	if err := context.Cause(ctx); err != nil {
		return 0, err
	}
	const turnNone, anyLength = 2.0, 0.0
	pairs, chunks := d.blocks/2, tiles(columns, svdChunkColumns)
	for round := range d.blocks - 1 {
		err := d.launch(d.kernelOf(opSVDGram, backend.F32), [3]int{chunks, pairs, 1}, 0,
			d.gram.at(), rows, whole(columns), whole(d.pitch), whole(d.blocks), whole(round))
		if err == nil {
			err = d.launch(d.kernelOf(opSVDSolve, backend.F32), [3]int{pairs, 1, 1}, 0,
				d.rotations.at(), d.cosines.at()+address(8*round*pairs), d.gram.at(), whole(chunks), double(anyLength), double(turnNone))
		}
		if err != nil {
			return 0, err
		}
	}
	met := make([]float64, (d.blocks-1)*pairs)
	err := download(d.Backend, met, d.cosines.at())
	return slices.Max(met), err
}
