//go:build cuda

package cuda

import (
	"fmt"

	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/backend/check"
)

// Threads of a block, and elements that a thread takes at a time, in the kernels that
// go over elements.
const (
	threads = 256
	vector  = 8
)

func (b *Backend) elementGrid(count int) [3]int { return b.blocksOf(count, threads*vector) }

// rowsOfVectors is a grid for n rows of c elements, each of which begins a vector.
func (b *Backend) rowsOfVectors(n, c int) [3]int {
	return b.blocksOf(n*((c+vector-1)/vector), threads)
}

// Add implements backend.RowOps.
func (b *Backend) Add(y, x backend.Buffer) error {
	args, err := activations("add", operand{"y", y, -1}, operand{"x", x, length(y)})
	if err != nil {
		return err
	}
	return b.launch(b.kernelOf(opAdd, args[0].kind), b.elementGrid(args[0].n), 0, args[0].start, args[1].start, whole(args[0].n))
}

// AddToRows implements backend.RowOps.
func (b *Backend) AddToRows(y backend.Buffer, x backend.Scales, n int) error {
	const op = "add to rows"
	args, err := activations(op, operand{"y", y, -1})
	if err != nil {
		return err
	}
	c, err := check.Columns(op, args[0].n, n)
	if err != nil || n == 0 {
		return err
	}
	bank, index, err := scalesOf(op, &x, n, c)
	if err != nil {
		return err
	}
	return b.launch(b.kernelOf(opAddRows, args[0].kind), b.rowsOfVectors(n, c), 0, args[0].start, bank, index, whole(n), whole(c))
}

// ScaleColumns implements backend.RowOps.
func (b *Backend) ScaleColumns(y, x backend.Buffer, s backend.Scales, n int) error {
	const op = "scale columns"
	args, err := activations(op, operand{"y", y, -1}, operand{"x", x, length(y)})
	if err != nil {
		return err
	}
	c, err := check.Columns(op, args[0].n, n)
	if err != nil || n == 0 {
		return err
	}
	bank, index, err := scalesOf(op, &s, n, c)
	if err != nil {
		return err
	}
	return b.launch(b.kernelOf(opScaleColumns, args[0].kind), b.rowsOfVectors(n, c), 0, args[0].start, args[1].start, bank, index, whole(n), whole(c))
}

// ColumnDots implements backend.RowOps.
func (b *Backend) ColumnDots(d, x, y backend.Buffer, n int) error {
	const op = "column dots"
	c := length(d)
	sums, err := operands(op, operand{"d", d, c})
	if err != nil {
		return err
	}
	args, err := activations(op, operand{"a", x, n * c}, operand{"b", y, n * c})
	if err != nil {
		return err
	}
	const columns = 32 // Of a block.
	return b.launch(b.kernelOf(opColumnDots, args[0].kind), [3]int{(c + columns - 1) / columns, 1, 1}, 0, sums[0].start, args[0].start, args[1].start, whole(n), whole(c))
}

// SelectRows implements backend.RowOps.
func (b *Backend) SelectRows(y, x backend.Buffer, rows backend.Index, c int) error {
	return b.copyRows("select rows", opSelect, y, x, y, x, rows, c, 0)
}

// ScatterRows implements backend.RowOps.
func (b *Backend) ScatterRows(y, x backend.Buffer, rows backend.Index, c int) error {
	const nowhere = -1
	return b.copyRows("scatter rows", opScatter, y, x, x, y, rows, c, nowhere)
}

// copyRows copies rows between a packed and an indexed side, of which y is written.
func (b *Backend) copyRows(op string, kernel operation, y, x, dense, indexed backend.Buffer, rows backend.Index, c int, lowest int32) error {
	if c <= 0 {
		return fmt.Errorf("%s: rows of %d elements", op, c)
	}
	list, err := indices(op, "rows", rows, -1)
	if err != nil {
		return err
	}
	n := len(list.values)
	if _, err := activations(op, operand{"the packed side", dense, n * c}, operand{"the indexed side", indexed, -1}); err != nil {
		return err
	}
	if err := check.Rows(op, list.values, lowest, indexed.Len(), c); err != nil {
		return err
	}
	args, err := activations(op, operand{"y", y, -1}, operand{"x", x, -1})
	if err != nil {
		return err
	}
	return b.launch(b.kernelOf(kernel, args[0].kind), b.rowsOfVectors(n, c), 0, args[0].start, args[1].start, list.at, whole(n), whole(c))
}

// RMSNorm implements backend.RowOps.
func (b *Backend) RMSNorm(y, x, gain backend.Buffer, n int, eps float32) error {
	const op = "rmsnorm"
	c := length(gain)
	args, err := activations(op, operand{"y", y, n * c}, operand{"x", x, n * c})
	if err != nil {
		return err
	}
	gains, err := operands(op, operand{"gain", gain, c})
	if err != nil {
		return err
	}
	return b.launch(b.kernelOf(opNorm, args[0].kind), b.blocksOf(n, 1), 0, args[0].start, args[1].start, gains[0].start, whole(n), whole(c), double(float64(eps)))
}

// RMSNormBackward implements backend.RowOps.
func (b *Backend) RMSNormBackward(dx, dy, x, gain backend.Buffer, n int, eps float32) error {
	const op = "rmsnorm backward"
	c := length(gain)
	args, err := activations(op, operand{"dx", dx, n * c}, operand{"dy", dy, n * c}, operand{"x", x, n * c})
	if err != nil {
		return err
	}
	gains, err := operands(op, operand{"gain", gain, c})
	if err != nil {
		return err
	}
	return b.launch(b.kernelOf(opNormBack, args[0].kind), b.blocksOf(n, 1), 0, args[0].start, args[1].start, args[2].start, gains[0].start, whole(n), whole(c), double(float64(eps)))
}

// SwiGLU implements backend.RowOps.
func (b *Backend) SwiGLU(y, gate, up backend.Buffer) error {
	n := length(y)
	args, err := activations("swiglu", operand{"y", y, n}, operand{"gate", gate, n}, operand{"up", up, n})
	if err != nil {
		return err
	}
	return b.launch(b.kernelOf(opSwiGLU, args[0].kind), b.elementGrid(n), 0, args[0].start, args[1].start, args[2].start, whole(n))
}

// SwiGLUBackward implements backend.RowOps.
func (b *Backend) SwiGLUBackward(dGate, dUp, dy, gate, up backend.Buffer) error {
	n := length(dy)
	args, err := activations("swiglu backward", operand{"dGate", dGate, n}, operand{"dUp", dUp, n},
		operand{"dy", dy, n}, operand{"gate", gate, n}, operand{"up", up, n})
	if err != nil {
		return err
	}
	return b.launch(b.kernelOf(opSwiGLUBack, args[0].kind), b.elementGrid(n), 0, args[0].start, args[1].start, args[2].start, args[3].start, args[4].start, whole(n))
}

// LogSoftmax implements backend.RowOps.
func (b *Backend) LogSoftmax(y, x backend.Buffer, n int) error {
	const op = "log softmax"
	c, err := check.Columns(op, length(x), n)
	if err != nil {
		return err
	}
	logs, err := operands(op, operand{"y", y, n * c})
	if err != nil {
		return err
	}
	args, err := activations(op, operand{"x", x, n * c})
	if err != nil {
		return err
	}
	return b.launch(b.kernelOf(opLogSoftmax, args[0].kind), b.blocksOf(n, 1), 0, logs[0].start, args[0].start, whole(n), whole(c))
}
