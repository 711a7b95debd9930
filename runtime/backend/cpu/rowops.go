package cpu

import (
	"fmt"
	"math"

	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/backend/check"
)

// Add implements backend.RowOps.
func (b *Backend) Add(y, x backend.Buffer) error {
	args, err := operands("add", operand{"y", y, -1}, operand{"x", x, length(y)})
	if err != nil {
		return err
	}
	b.pool.rows(len(args[0]), 1, func(from, to int) {
		b.kernels.axpy(args[0][from:to], 1, args[1][from:to])
	})
	return nil
}

// AddToRows implements backend.RowOps.
func (b *Backend) AddToRows(y backend.Buffer, x backend.Scales, n int) error {
	const op = "add to rows"
	args, err := operands(op, operand{"y", y, -1})
	if err != nil {
		return err
	}
	c, err := check.Columns(op, len(args[0]), n)
	if err != nil || n == 0 {
		return err
	}
	by, err := scalesOf(op, &x, n, c)
	if err != nil {
		return err
	}
	b.pool.rows(n, c, func(from, to int) {
		for r := from; r < to; r++ {
			b.kernels.axpy(args[0][r*c:][:c], 1, by.row(r))
		}
	})
	return nil
}

// ScaleColumns implements backend.RowOps.
func (b *Backend) ScaleColumns(y, x backend.Buffer, s backend.Scales, n int) error {
	const op = "scale columns"
	args, err := operands(op, operand{"y", y, -1}, operand{"x", x, length(y)})
	if err != nil {
		return err
	}
	c, err := check.Columns(op, len(args[0]), n)
	if err != nil || n == 0 {
		return err
	}
	by, err := scalesOf(op, &s, n, c)
	if err != nil {
		return err
	}
	b.pool.rows(n, c, func(from, to int) {
		for r := from; r < to; r++ {
			b.kernels.mul(args[0][r*c:][:c], args[1][r*c:][:c], by.row(r))
		}
	})
	return nil
}

// ColumnDots implements backend.RowOps. It is parallel over columns, so that
// each column's sum runs over the rows in order.
func (b *Backend) ColumnDots(d, x, y backend.Buffer, n int) error {
	const op = "column dots"
	c := length(d)
	args, err := operands(op, operand{"d", d, c}, operand{"a", x, n * c}, operand{"b", y, n * c})
	if err != nil {
		return err
	}
	b.pool.rows((c+vectorStep-1)/vectorStep, n*vectorStep, func(from, to int) {
		for strip := from; strip < to; strip++ {
			at, end := strip*vectorStep, min(c, (strip+1)*vectorStep)
			if n > 0 {
				b.kernels.columnDots(args[0][at:end], args[1][at:], args[2][at:], n, c)
			} else {
				clear(args[0][at:end])
			}
		}
	})
	return nil
}

// outerColumns is how many columns of OuterSums are computed together: so few that the
// sums of a small matrix stay in the nearest cache.
const outerColumns = 256

// OuterSums implements backend.RowOps. It is parallel over columns: each sum runs over
// the rows in order.
func (b *Backend) OuterSums(d, x, y backend.Buffer, n int) error {
	const op = "outer sums"
	args, err := operands(op, operand{"d", d, -1}, operand{"a", x, -1}, operand{"b", y, -1})
	if err != nil {
		return err
	}
	if n == 0 {
		clear(args[0])
		return nil
	}
	rows, err := check.Columns(op, len(args[1]), n)
	if err != nil {
		return err
	}
	c, err := check.Columns(op, len(args[2]), n)
	if err != nil {
		return err
	}
	if len(args[0]) != rows*c {
		return fmt.Errorf("%s: d has %d elements, and a and b make [%d, %d]", op, len(args[0]), rows, c)
	}
	b.pool.rows((c+outerColumns-1)/outerColumns, n*rows*outerColumns, func(from, to int) {
		for strip := from; strip < to; strip++ {
			at, end := strip*outerColumns, min(c, (strip+1)*outerColumns)
			for i := range rows {
				clear(args[0][i*c+at : i*c+end])
			}
			for r := range n {
				part := args[2][r*c+at : r*c+end]
				for i, v := range args[1][r*rows:][:rows] {
					b.kernels.axpy(args[0][i*c+at:i*c+end], v, part)
				}
			}
		}
	})
	return nil
}

// SelectRows implements backend.RowOps.
func (b *Backend) SelectRows(y, x backend.Buffer, rows backend.Index, c int) error {
	const op = "select rows"
	args, list, err := rowCopy(op, y, x, rows, c, 0)
	if err != nil {
		return err
	}
	for i, r := range list {
		b.copy(args[0].row(i, c), args[1].row(int(r), c))
	}
	return nil
}

// ScatterRows implements backend.RowOps.
func (b *Backend) ScatterRows(y, x backend.Buffer, rows backend.Index, c int) error {
	const op, nowhere = "scatter rows", -1
	args, list, err := rowCopy(op, x, y, rows, c, nowhere)
	if err != nil {
		return err
	}
	for i, r := range list {
		if r != nowhere {
			b.copy(args[1].row(int(r), c), args[0].row(i, c))
		}
	}
	return nil
}

// rowCopy resolves the packed and the indexed side of a copy of rows, and which rows
// those are, from the lowest that there may be on.
func rowCopy(op string, dense, indexed backend.Buffer, rows backend.Index, c int, lowest int32) ([]elements, []int32, error) {
	if c <= 0 {
		return nil, nil, fmt.Errorf("%s: rows of %d elements", op, c)
	}
	list, err := indices(op, "rows", rows, -1)
	if err != nil {
		return nil, nil, err
	}
	args, err := sameStorage(op, operand{"the packed side", dense, len(list) * c}, operand{"the indexed side", indexed, -1})
	if err != nil {
		return nil, nil, err
	}
	return args, list, check.Rows(op, list, lowest, length(indexed), c)
}

// RMSNorm implements backend.RowOps.
func (b *Backend) RMSNorm(y, x, gain backend.Buffer, n int, eps float32) error {
	c := length(gain)
	args, err := operands("rmsnorm", operand{"y", y, n * c}, operand{"x", x, n * c}, operand{"gain", gain, c})
	if err != nil {
		return err
	}
	b.pool.rows(n, 3*c, func(from, to int) {
		for r := from; r < to; r++ {
			row := args[1][r*c:][:c]
			b.kernels.mulScaled(args[0][r*c:][:c], row, args[2], b.inverseRMS(row, eps))
		}
	})
	return nil
}

// inverseRMS returns 1/√(mean(x²) + eps).
func (b *Backend) inverseRMS(x []float32, eps float32) float32 {
	return 1 / float32(math.Sqrt(float64(b.kernels.dot(x, x)/float32(len(x))+eps)))
}

// RMSNormBackward implements backend.RowOps. With i = inverseRMS(x) and
// y = x·i ⊙ g, dx = i·(g ⊙ dy) − x·i³·⟨g ⊙ dy, x⟩/C.
func (b *Backend) RMSNormBackward(dx, dy, x, gain backend.Buffer, n int, eps float32) error {
	c := length(gain)
	args, err := operands("rmsnorm backward", operand{"dx", dx, n * c}, operand{"dy", dy, n * c},
		operand{"x", x, n * c}, operand{"gain", gain, c})
	if err != nil {
		return err
	}
	b.pool.rows(n, 6*c, func(from, to int) {
		scaled := make([]float32, c) // g ⊙ dy·i
		for r := from; r < to; r++ {
			row := args[2][r*c:][:c]
			inverse := b.inverseRMS(row, eps)
			b.kernels.mulScaled(scaled, args[1][r*c:][:c], args[3], inverse)
			along := b.kernels.dot(scaled, row) * inverse * inverse / float32(c)
			out := args[0][r*c:][:c]
			b.kernels.axpy(out, 1, scaled)
			b.kernels.axpy(out, -along, row)
		}
	})
	return nil
}

// SwiGLU implements backend.RowOps.
func (b *Backend) SwiGLU(y, gate, up backend.Buffer) error {
	n := length(y)
	args, err := operands("swiglu", operand{"y", y, n}, operand{"gate", gate, n}, operand{"up", up, n})
	if err != nil {
		return err
	}
	b.pool.rows(n, costExp, func(from, to int) {
		b.kernels.swiglu(args[0][from:to], args[1][from:to], args[2][from:to])
	})
	return nil
}

// costExp is what an exponential weighs in pool.rows' estimate of work.
const costExp = 8

// SwiGLUBackward implements backend.RowOps.
func (b *Backend) SwiGLUBackward(dGate, dUp, dy, gate, up backend.Buffer) error {
	n := length(dy)
	args, err := operands("swiglu backward", operand{"dGate", dGate, n}, operand{"dUp", dUp, n},
		operand{"dy", dy, n}, operand{"gate", gate, n}, operand{"up", up, n})
	if err != nil {
		return err
	}
	b.pool.rows(n, costExp, func(from, to int) {
		b.kernels.swigluBackward(args[0][from:to], args[1][from:to], args[2][from:to], args[3][from:to], args[4][from:to])
	})
	return nil
}

// LogSoftmax implements backend.RowOps.
func (b *Backend) LogSoftmax(y, x backend.Buffer, n int) error {
	const op = "log softmax"
	c, err := check.Columns(op, length(x), n)
	if err != nil {
		return err
	}
	args, err := operands(op, operand{"y", y, n * c}, operand{"x", x, n * c})
	if err != nil {
		return err
	}
	b.pool.rows(n, costExp*c, func(from, to int) {
		scratch := make([]float32, c)
		for r := from; r < to; r++ {
			row := args[1][r*c:][:c]
			top := b.kernels.maximum(row)
			sum := b.kernels.expShifted(scratch, row, top)
			shift := top + float32(math.Log(float64(sum)))
			for i, v := range row {
				args[0][r*c+i] = v - shift
			}
		}
	})
	return nil
}
