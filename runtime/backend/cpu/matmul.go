package cpu

import (
	"fmt"

	"github.com/transformersquared/operator/runtime/backend"
)

// Blocking of the matrix product. A kernel tile is kernels.mr rows by one panel
// of kernels.nr outputs; a sum over k is cut into blocks only by storing and
// reloading the float32 accumulator, which rounds nothing, so blocking never
// changes a result.
const (
	blockK     = 512       // Columns of a panel used at once: a tile of rows stays in L1.
	blockPanel = 64 << 10  // Elements of panels used by a block of rows: they stay in L2.
	blockRows  = 192       // Rows of a task at most.
	inlineWork = 512 << 10 // Multiply-adds below which waking a worker costs more than it gives.
)

// MatMul implements backend.LinearOps.
func (b *Backend) MatMul(y, x backend.Buffer, n int, w backend.Weight, add bool) error {
	own, err := b.weight("matmul", w)
	if err != nil {
		return err
	}
	args, err := operands("matmul", operand{"y", y, n * w.Out()}, operand{"x", x, n * w.In()})
	if err != nil {
		return err
	}
	b.product(args[0], args[1], n, own.forward, add)
	return nil
}

// MatMulBackward implements backend.LinearOps.
func (b *Backend) MatMulBackward(dx, dy backend.Buffer, n int, w backend.Weight, add bool) error {
	own, err := b.weight("matmul backward", w)
	if err != nil {
		return err
	}
	args, err := operands("matmul backward", operand{"dx", dx, n * w.In()}, operand{"dy", dy, n * w.Out()})
	if err != nil {
		return err
	}
	b.product(args[0], args[1], n, own.backward(b.pool), add)
	return nil
}

// Gather implements backend.LinearOps.
func (b *Backend) Gather(y backend.Buffer, w backend.Weight, ids []int32) error {
	own, err := b.weight("gather", w)
	if err != nil {
		return err
	}
	in := w.In()
	args, err := operands("gather", operand{"y", y, len(ids) * in})
	if err != nil {
		return err
	}
	for _, id := range ids {
		if id < 0 || int(id) >= w.Out() {
			return fmt.Errorf("gather: row %d of a matrix with %d", id, w.Out())
		}
	}
	b.pool.rows(len(ids), 4*in, func(from, to int) {
		for i := from; i < to; i++ {
			own.forward.copyRow(args[0][i*in:(i+1)*in], int(ids[i]))
		}
	})
	return nil
}

// product computes c [n, p.out] = a [n, p.k]·Wᵀ, or adds it to c.
func (b *Backend) product(c, a []float32, n int, p *packed, add bool) {
	if n == 0 {
		return
	}
	mr := b.kernels.mr
	panels := len(p.panels) / (p.nr * p.k)
	rowsPerTask, panelsPerTask := n, panels
	if b.pool.threads > 1 && n*p.out*p.k >= inlineWork {
		const tasksPerThread = 4
		want := b.pool.threads * tasksPerThread
		rowsPerTask = min(blockRows, roundUp((n+want-1)/want, mr))
		if rowTasks := (n + rowsPerTask - 1) / rowsPerTask; rowTasks < want {
			columnTasks := (want + rowTasks - 1) / rowTasks
			panelsPerTask = (panels + columnTasks - 1) / columnTasks
		}
	}
	rowTasks := (n + rowsPerTask - 1) / rowsPerTask
	columnTasks := (panels + panelsPerTask - 1) / panelsPerTask
	b.pool.run(rowTasks*columnTasks, func(task int) {
		row, panel := task%rowTasks*rowsPerTask, task/rowTasks*panelsPerTask
		b.block(c, a, p, add,
			row, min(n, row+rowsPerTask), panel, min(panels, panel+panelsPerTask))
	})
}

// block computes rows [row, rowEnd) by panels [panel, panelEnd) of a product.
func (b *Backend) block(c, a []float32, p *packed, add bool, row, rowEnd, panel, panelEnd int) {
	t, _ := b.tilers.Get().(*tiler)
	if t == nil {
		t = &tiler{kernels: b.kernels}
	}
	t.c, t.a, t.p = c, a, p
	for k := 0; k < p.k; k += blockK {
		t.args.k = min(blockK, p.k-k)
		t.args.add = add || k > 0
		group := max(1, blockPanel/(t.args.k*p.nr))
		for g := panel; g < panelEnd; g += group {
			end := min(panelEnd, g+group)
			for r := row; r < rowEnd; r += b.kernels.mr {
				t.args.rows = min(b.kernels.mr, rowEnd-r)
				t.row(r, g, end, k)
			}
		}
	}
	t.release()
	b.tilers.Put(t)
}

// tiler computes the tiles of one block. It is kept for the next one, since what
// a kernel is given lives on the heap.
type tiler struct {
	kernels *kernels
	c, a    []float32
	p       *packed
	args    tileArgs
	scratch [maxTile]float32
}

// release drops the references to memory that belongs to others.
func (t *tiler) release() {
	t.c, t.a, t.p, t.args = nil, nil, nil, tileArgs{}
}

// row computes one tile of rows by panels [q, end), from column k.
func (t *tiler) row(row, q, end, k int) {
	p := t.p
	t.args.a, t.args.lda = t.a[row*p.k+k:], p.k
	t.args.ldc, t.args.panelStride = p.out, p.k*p.nr
	if t.args.rows == 1 && t.kernels.wide != nil {
		for ; q+widePanels <= end && (q+widePanels)*p.nr <= p.out; q += widePanels {
			t.args.c = t.c[row*p.out+q*p.nr:][:widePanels*p.nr]
			t.args.panel = p.panels[(q*p.k+k)*p.nr:]
			t.kernels.wide(&t.args)
		}
	}
	for ; q < end; q++ {
		t.args.panel = p.panels[(q*p.k+k)*p.nr:][:t.args.k*p.nr]
		if (q+1)*p.nr > p.out {
			t.edge(row, q*p.nr)
			return
		}
		t.args.c = t.c[row*p.out+q*p.nr:]
		t.kernels.tile(&t.args)
	}
}

// edge computes a tile that sticks out of the matrix, on scratch memory, so that
// the same kernel serves it.
func (t *tiler) edge(row, column int) {
	out, nr := t.p.out, t.p.nr
	columns := out - column
	if t.args.add {
		for r := range t.args.rows {
			copy(t.scratch[r*nr:][:columns], t.c[(row+r)*out+column:])
		}
	}
	t.args.c, t.args.ldc = t.scratch[:], nr
	t.kernels.tile(&t.args)
	for r := range t.args.rows {
		copy(t.c[(row+r)*out+column:][:columns], t.scratch[r*nr:])
	}
}

func roundUp(n, multiple int) int {
	return (n + multiple - 1) / multiple * multiple
}
