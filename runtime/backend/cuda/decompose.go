//go:build cuda

package cuda

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/svd"
)

var _ backend.Decomposer = (*Backend)(nil)

// What kernels/svd.cu is written for.
const (
	svdBlockRows    = 16
	svdChunkColumns = 1024
	svdRotated      = 128
	svdSquare       = 32
	svdErrorTile    = 64
	svdPairBytes    = 4 * svdBlockRows * svdBlockRows * 8
)

const (
	// rotateAbove is the cosine between two rows that are turned.
	rotateAbove = 1e-11
	// orthogonal is the largest cosine that a last sweep may have met: it has removed
	// it, and what is left is far below a rounding to float32.
	orthogonal = 1e-9
	// maxSweeps is several times what any matrix needs.
	maxSweeps = 60
	// refilled is how short rows that complete the basis begin, relative to the
	// shortest that is there; what they are turned by, it is by the square of that.
	refilled = 1e-9
)

// Decompose implements backend.Decomposer: one-sided Jacobi, as kernels/svd.cu has it, or
// cuSOLVER where that is asked for.
// Between sweeps it looks at ctx, and at how far the rows are from orthogonal.
func (b *Backend) Decompose(ctx context.Context, w []float32, out, in int, t backend.DType) (*backend.Factors, error) {
	if t != backend.F32 && t != backend.BF16 {
		return nil, fmt.Errorf("singular value decomposition of [%d, %d]: factors of type %s: %w", out, in, t, backend.ErrUnsupported)
	}
	if err := svd.Check(w, out, in); err != nil {
		return nil, err
	}
	d := newDecomposition(b, out, in)
	defer d.free()
	f, err := d.run(ctx, w, t)
	if err != nil {
		return nil, fmt.Errorf("on %s: singular value decomposition of [%d, %d]: %w", b.Name(), out, in, err)
	}
	return f, nil
}

// decomposition is that of a wide matrix A [m, n], the one given or its transpose.
type decomposition struct {
	*Backend
	out, in int
	m, n    int
	turned  int // 1 where A is the transpose.
	// Rows are padded to an even number of blocks, and have n + m columns.
	blocks, padded, pitch, chunks int
	// w [out, in] is float32. The others are float64: rows [padded, pitch]; gram, and
	// rotations, of each pair of blocks; the cosines of a sweep [blocks−1, blocks/2].
	w                              *buffer
	rows, gram, rotations, cosines *held
	measured                       *held // lengths, [2, padded].
	held                           []*held
}

func newDecomposition(b *Backend, out, in int) *decomposition {
	d := &decomposition{Backend: b, out: out, in: in, m: min(out, in), n: max(out, in)}
	if out > in {
		d.turned = 1
	}
	d.blocks = (d.m + 2*svdBlockRows - 1) / (2 * svdBlockRows) * 2
	d.padded, d.pitch = d.blocks*svdBlockRows, d.n+d.m
	d.chunks = (d.n + svdChunkColumns - 1) / svdChunkColumns
	return d
}

// free gives back what is still held; what reads it is queued before who gets it next.
func (d *decomposition) free() {
	d.Free(d.w)
	for _, h := range d.held {
		h.giver.give()
	}
}

// hold takes memory until the end, and adds what is wrong to err.
func (d *decomposition) hold(err *error, bytes int) *held {
	if *err != nil {
		return nil
	}
	h, failed := d.Backend.hold(int64(bytes))
	if failed != nil {
		*err = failed
		return nil
	}
	d.held = append(d.held, h)
	return h
}

func (d *decomposition) run(ctx context.Context, w []float32, t backend.DType) (*backend.Factors, error) {
	if err := d.load(w); err != nil {
		return nil, err
	}
	if d.solver != nil {
		if f, err := d.bySolver(ctx, t); f != nil || err != nil {
			return f, err
		}
	}
	var largest float64
	for _, v := range w {
		largest = max(largest, math.Abs(float64(v)))
	}
	// Rows this short are no more than what rounding makes of the others.
	floor := svd.Floor(d.out, d.in) * largest
	if err := d.orthogonalise(ctx, floor); err != nil {
		return nil, err
	}
	found, err := d.lengths()
	if err != nil {
		return nil, err
	}
	if err := svd.CheckLargest(found.largest(), d.out, d.in); err != nil {
		return nil, err
	}
	floor = max(floor, svd.Floor(d.out, d.in)*found.largest())
	shortest, missing := found.above(floor)
	if missing > 0 {
		// Too short by far for a row that was there, and too long for one that was not.
		floor, err = d.complete(ctx, floor, shortest)
		if err != nil {
			return nil, err
		}
		if found, err = d.lengths(); err != nil {
			return nil, err
		}
	}
	return d.factors(found, floor, t)
}

// load copies w, and makes its rows.
func (d *decomposition) load(w []float32) (err error) {
	if d.w, err = d.alloc(backend.F32, len(w)); err != nil {
		return err
	}
	pairs := d.blocks / 2
	d.rows = d.hold(&err, d.padded*d.pitch*8)
	d.gram = d.hold(&err, pairs*d.chunks*svdPairBytes)
	d.rotations = d.hold(&err, pairs*svdPairBytes)
	d.cosines = d.hold(&err, (d.blocks-1)*pairs*8)
	d.measured = d.hold(&err, 2*d.padded*8)
	if err != nil {
		return err
	}
	if err := d.Upload(d.w, w); err != nil {
		return err
	}
	return d.loadRows(d.rows)
}

// loadRows makes rows of w.
func (d *decomposition) loadRows(rows *held) error {
	return d.launch(d.kernelOf(opSVDLoad, backend.F32), [3]int{tiles(d.pitch, svdSquare), tiles(d.padded, svdSquare), 1}, 0,
		rows.at(), d.w.start, whole(d.m), whole(d.n), whole(d.padded), whole(d.pitch), whole(d.turned))
}

// orthogonalise turns the rows that are longer than floor until they are orthogonal.
func (d *decomposition) orthogonalise(ctx context.Context, floor float64) error {
	pairs := d.blocks / 2
	met := make([]float64, (d.blocks-1)*pairs)
	for range maxSweeps {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		for round := range d.blocks - 1 {
			cosines := d.cosines.at() + address(8*round*pairs)
			err := d.launch(d.kernelOf(opSVDGram, backend.F32), [3]int{d.chunks, pairs, 1}, 0, d.gram.at(), d.rows.at(), whole(d.n), whole(d.pitch), whole(d.blocks), whole(round))
			if err == nil {
				err = d.launch(d.kernelOf(opSVDSolve, backend.F32), [3]int{pairs, 1, 1}, 0, d.rotations.at(), cosines, d.gram.at(), whole(d.chunks), double(floor), double(rotateAbove))
			}
			if err == nil {
				err = d.launch(d.kernelOf(opSVDRotate, backend.F32), [3]int{tiles(d.pitch, svdRotated), pairs, 1}, 0,
					d.rows.at(), d.rotations.at(), cosines, double(rotateAbove), whole(d.pitch), whole(d.blocks), whole(round))
			}
			if err != nil {
				return err
			}
		}
		if err := download(d.Backend, met, d.cosines.at()); err != nil {
			return err
		}
		if slices.Max(met) <= orthogonal {
			return nil
		}
	}
	return fmt.Errorf("rows have a cosine of %.3g after %d sweeps, more than %.3g", slices.Max(met), maxSweeps, orthogonal)
}

// complete replaces rows that are no longer than floor by such that complete the basis,
// where the shortest of the others has a length of shortest. It returns what separates
// their lengths now.
func (d *decomposition) complete(ctx context.Context, floor, shortest float64) (float64, error) {
	err := d.launch(d.kernelOf(opSVDRefill, backend.F32), rowGrid(d.padded), 0, d.rows.at(), d.measured.at(), double(floor), double(refilled*shortest), whole(d.n), whole(d.pitch), whole(d.padded))
	if err != nil {
		return 0, err
	}
	return math.Sqrt(refilled) * shortest, d.orthogonalise(ctx, 0)
}

// lengths are those of all rows, those of padding among them: of their n columns, and of
// the rest, which is 1, or 0 for padding.
type lengths struct{ right, left []float64 }

func (d *decomposition) lengths() (lengths, error) {
	if err := d.launch(d.kernelOf(opSVDLengths, backend.F32), rowGrid(d.padded), 0, d.measured.at(), d.rows.at(), whole(d.n), whole(d.pitch), whole(d.padded)); err != nil {
		return lengths{}, err
	}
	both := make([]float64, 2*d.padded)
	err := download(d.Backend, both, d.measured.at())
	return lengths{both[:d.padded], both[d.padded:]}, err
}

// real reports whether a row is none of padding.
func (l lengths) real(row int) bool { return l.left[row] > 0.5 }

func (l lengths) largest() float64 { return slices.Max(l.right) }

// above returns the shortest length above floor, 1 where there is none, and how many
// rows are not above it.
func (l lengths) above(floor float64) (shortest float64, others int) {
	shortest = math.Inf(1)
	for i, length := range l.right {
		switch {
		case !l.real(i):
		case length <= floor:
			others++
		default:
			shortest = min(shortest, length)
		}
	}
	if math.IsInf(shortest, 1) {
		shortest = 1
	}
	return shortest, others
}

// factors rounds the result, puts it in order and copies it back. Values up to floor are
// zero.
func (d *decomposition) factors(l lengths, floor float64, t backend.DType) (*backend.Factors, error) {
	order := make([]int32, 0, d.m)
	for i := range l.right {
		if l.real(i) {
			order = append(order, int32(i))
		}
	}
	slices.SortStableFunc(order, func(i, j int32) int { return cmp.Compare(l.right[j], l.right[i]) })
	s, inverse := make([]float32, d.m), make([]float64, d.m)
	for i, row := range order {
		inverse[i] = 1 / l.right[row]
		if l.right[row] > floor {
			s[i] = float32(l.right[row])
		}
	}
	return d.write(order, inverse, s, t)
}

// write makes factors of the rows in this order, whose first n columns are multiplied by
// inverse, and copies them back.
func (d *decomposition) write(order []int32, inverse []float64, values []float32, t backend.DType) (*backend.Factors, error) {
	var err error
	f := &backend.Factors{S: values}
	places, inverses, s := d.hold(&err, d.m*4), d.hold(&err, d.m*8), d.hold(&err, d.m*4)
	u, vt := d.hold(&err, d.out*d.m*4), d.hold(&err, d.m*d.in*4)
	if err == nil {
		err = errors.Join(upload(d.Backend, places.at(), order), upload(d.Backend, inverses.at(), inverse), upload(d.Backend, s.at(), f.S))
	}
	if err != nil {
		return nil, err
	}
	rounded := 0
	if t == backend.BF16 {
		rounded = 1
	}
	err = d.launch(d.kernelOf(opSVDFactors, backend.F32), [3]int{tiles(d.pitch, svdSquare), tiles(d.m, svdSquare), 1}, 0,
		u.at(), vt.at(), d.rows.at(), places.at(), inverses.at(), whole(d.m), whole(d.n), whole(d.pitch), whole(d.turned), whole(rounded))
	if err != nil {
		return nil, err
	}
	if f.RelativeError, err = d.relativeError(u, s, vt); err != nil {
		return nil, err
	}
	f.U, f.Vt = make([]float32, d.out*d.m), make([]float32, d.m*d.in)
	return f, errors.Join(download(d.Backend, f.U, u.at()), download(d.Backend, f.Vt, vt.at()))
}

func (d *decomposition) relativeError(u, s, vt *held) (float64, error) {
	across, down := tiles(d.in, svdErrorTile), tiles(d.out, svdErrorTile)
	sums := make([]float64, 2*across*down)
	var err error
	parts := d.hold(&err, 8*len(sums))
	if err == nil {
		err = d.launch(d.kernelOf(opSVDError, backend.F32), [3]int{across, down, 1}, 0, parts.at(), d.w.start, u.at(), s.at(), vt.at(), whole(d.out), whole(d.in), whole(d.m))
	}
	if err == nil {
		err = download(d.Backend, sums, parts.at())
	}
	if err != nil {
		return 0, err
	}
	var wrong, power float64
	for i := 0; i < len(sums); i += 2 {
		wrong += sums[i]
		power += sums[i+1]
	}
	return svd.Relative(math.Sqrt(wrong), math.Sqrt(power)), nil
}

// tiles is how many tiles of a size cover n.
func tiles(n, size int) int { return (n + size - 1) / size }
