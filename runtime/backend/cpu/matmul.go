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
	own, err := ownWeight(w)
	if err != nil {
		return fmt.Errorf("matmul: %w", err)
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
	own, err := ownWeight(w)
	if err != nil {
		return fmt.Errorf("matmul backward: %w", err)
	}
	args, err := operands("matmul backward", operand{"dx", dx, n * w.In()}, operand{"dy", dy, n * w.Out()})
	if err != nil {
		return err
	}
	b.product(args[0], args[1], n, own.backward(), add)
	return nil
}

// Gather implements backend.LinearOps.
func (b *Backend) Gather(y backend.Buffer, w backend.Weight, ids []int32) error {
	own, err := ownWeight(w)
	if err != nil {
		return fmt.Errorf("gather: %w", err)
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
	f := own.forward
	b.pool.rows(len(ids), 4*in, func(from, to int) {
		for i := from; i < to; i++ {
			row := int(ids[i])
			src := f.panels[row/f.nr*f.nr*f.k+row%f.nr:]
			dst := args[0][i*in : (i+1)*in]
			for c := range dst {
				dst[c] = src[c*f.nr]
			}
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
	for k := 0; k < p.k; k += blockK {
		depth := min(blockK, p.k-k)
		group := max(1, blockPanel/(depth*p.nr))
		for g := panel; g < panelEnd; g += group {
			for r := row; r < rowEnd; r += b.kernels.mr {
				rows := min(b.kernels.mr, rowEnd-r)
				end := min(panelEnd, g+group)
				q := g
				if rows == 1 && b.kernels.wide != nil {
					for ; q+widePanels <= end && (q+widePanels)*p.nr <= p.out; q += widePanels {
						b.kernels.wide(&tileArgs{
							c: c[r*p.out+q*p.nr:][:widePanels*p.nr], a: a[r*p.k+k:][:depth],
							panel: p.panels[(q*p.k+k)*p.nr:], panelStride: p.k * p.nr,
							k: depth, add: add || k > 0,
						})
					}
				}
				for ; q < end; q++ {
					b.tile(c, a, p, add || k > 0, r, rows, q, k, depth)
				}
			}
		}
	}
}

// tile calls the kernel; a panel that sticks out of the matrix goes through a
// scratch tile, so that the same kernel serves it.
func (b *Backend) tile(c, a []float32, p *packed, add bool, row, rows, panel, k, depth int) {
	t := tileArgs{
		a: a[row*p.k+k:], lda: p.k,
		panel: p.panels[(panel*p.k+k)*p.nr:][:depth*p.nr],
		k:     depth, rows: rows, add: add,
	}
	first := panel * p.nr
	if first+p.nr <= p.out {
		t.c, t.ldc = c[row*p.out+first:], p.out
		b.kernels.tile(&t)
		return
	}
	var scratch [maxTile]float32
	columns := p.out - first
	if add {
		for r := range rows {
			copy(scratch[r*p.nr:][:columns], c[(row+r)*p.out+first:])
		}
	}
	t.c, t.ldc = scratch[:], p.nr
	b.kernels.tile(&t)
	for r := range rows {
		copy(c[(row+r)*p.out+first:][:columns], scratch[r*p.nr:])
	}
}

func roundUp(n, multiple int) int {
	return (n + multiple - 1) / multiple * multiple
}
