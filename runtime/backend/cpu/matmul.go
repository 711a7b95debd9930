package cpu

import (
	"fmt"
	"iter"
	"math"
	"runtime"

	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/backend/check"
)

// Blocking of the matrix product. A kernel tile is product.mr rows by one panel
// of kernels.width outputs; a sum over k is cut into blocks (format.blockSteps) only by
// storing and reloading the float32 accumulator, which rounds nothing, so blocking
// never changes a result.
const (
	blockPanel = 32 << 10  // Words of panels used by a block of rows: they and the next ones stay in L2.
	blockRows  = 192       // Rows of a task at most.
	inlineWork = 128 << 10 // Multiply-adds below which waking a worker costs more than it gives.
	// aliasing is a distance of rows, in elements, at which all of a tile fall on the
	// same few places of the first cache and drive each other out of it.
	aliasing = 1 << 10
)

// MatMul implements backend.LinearOps.
func (b *Backend) MatMul(n int, products ...backend.Product) error {
	return b.multiply("matmul", n, products, func(w *weight) *packed { return w.forward })
}

// MatMulBackward implements backend.LinearOps.
func (b *Backend) MatMulBackward(n int, products ...backend.Product) error {
	return b.multiply("matmul backward", n, products, func(w *weight) *packed { return w.backward(b.pool, b.weights, b.kernels) })
}

// multiply computes products with one of the layouts of their weights.
func (b *Backend) multiply(op string, n int, products []backend.Product, layout func(*weight) *packed) error {
	leave, err := b.enter()
	if err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	defer leave()
	all := make([]multiplication, len(products))
	for i, p := range products {
		own, err := b.weight(op, p.W)
		if err != nil {
			return err
		}
		w := layout(own)
		args, err := operands(op, operand{"y", p.Y, n * w.out}, operand{"x", p.X, n * w.k})
		if err != nil {
			return err
		}
		by, err := scalesOf(op, p.Scales, n, w.k)
		if err != nil {
			return err
		}
		all[i] = multiplication{kernels: b.kernels, product: &b.kernels.products[w.kind], packed: w, c: args[0], a: args[1], ldc: w.out, lda: w.k, by: by, add: p.Add}
	}
	if n > 0 {
		b.compute(n, all)
	}
	runtime.KeepAlive(all)
	return nil
}

// scales are backend.Scales with their memory; there may be none.
type scales struct {
	bank    []float32 // [·, columns]
	index   []int32
	columns int
}

func scalesOf(op string, s *backend.Scales, n, columns int) (scales, error) {
	if s == nil {
		return scales{}, nil
	}
	args, err := operands(op, operand{"the bank of scales", s.Bank, -1})
	if err != nil {
		return scales{}, err
	}
	bank := args[0]
	if err := check.Bank(op, len(bank), columns); err != nil {
		return scales{}, err
	}
	if s.Index == nil {
		return scales{bank: bank, columns: columns}, nil
	}
	index, err := indices(op, "the index of scales", s.Index, n)
	if err != nil {
		return scales{}, err
	}
	return scales{bank: bank, index: index, columns: columns}, check.Rows(op+" with scales", index, 0, len(bank), columns)
}

// row returns the scale of a row.
func (s *scales) row(r int) []float32 {
	if s.index == nil {
		return s.bank[:s.columns]
	}
	return s.bank[int(s.index[r])*s.columns:][:s.columns]
}

// none reports that rows are taken as they are.
func (s *scales) none() bool { return s.bank == nil }

// MatMulBuffers implements backend.LinearOps. b is laid out as a weight first.
func (b *Backend) MatMulBuffers(y, x, z backend.Buffer, n, m, k int, add bool) error {
	const op = "matmul of buffers"
	if n < 0 || m <= 0 || k <= 0 {
		return fmt.Errorf("%s: [%d, %d] by [%d, %d]", op, n, k, m, k)
	}
	args, err := operands(op, operand{"y", y, n * m}, operand{"a", x, n * k}, operand{"b", z, m * k})
	if err != nil || n == 0 {
		return err
	}
	w := pack(b.pool, nil, backend.F32, args[2], m, k, b.kernels.nr)
	b.compute(n, []multiplication{{
		kernels: b.kernels, product: &b.kernels.products[backend.F32], packed: w, c: args[0], a: args[1], ldc: m, lda: k, add: add,
	}})
	return nil
}

// Gather implements backend.LinearOps.
func (b *Backend) Gather(y backend.Buffer, w backend.Weight, ids backend.Index) error {
	const op = "gather"
	own, err := b.weight(op, w)
	if err != nil {
		return err
	}
	list, err := indices(op, "ids", ids, -1)
	if err != nil {
		return err
	}
	in := w.In()
	args, err := operands(op, operand{"y", y, len(list) * in})
	if err != nil {
		return err
	}
	if err := check.Rows(op, list, 0, w.Out()*in, in); err != nil {
		return err
	}
	leave, err := b.enter()
	if err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	defer leave()
	b.pool.rows(len(list), 4*in, func(from, to int) {
		for i := from; i < to; i++ {
			own.forward.copyRow(args[0][i*in:(i+1)*in], int(list[i]))
		}
	})
	return nil
}

// compute divides products of n rows into tasks, where the panels of all products are
// counted as if they lay behind each other.
func (b *Backend) compute(n int, all []multiplication) {
	var panels, work, mr, columns int
	var rowCost float64
	for _, m := range all {
		panels += m.count()
		columns += m.count() * m.packed.nr
		work += n * m.out * m.k
		mr = max(mr, m.mr)
		rowCost = max(rowCost, formats[m.kind].rowCost)
	}
	g := grid{tiles: (n + mr - 1) / mr, rows: 1, columns: split{panels: panels, each: panels}}
	if b.pool.threads > 1 && work >= inlineWork {
		g = newGrid(n, g.tiles, panels, columns/panels, b.pool.threads, rowCost)
	}
	if g.rows == 1 {
		b.follow(all, g.columns)
	}
	b.pool.run(g.tasks(), func(task int) {
		tiles, columns := g.task(task)
		for i, p := range parts(all, columns) {
			b.block(all[i], tiles.from*mr, min(n, tiles.to*mr), p.from, p.to)
		}
	})
}

// grid divides products into tasks: rows by panels.
type grid struct {
	tiles   int   // Of rows.
	rows    int   // Blocks of them.
	whole   int   // The first blocks are one task each;
	columns split // the others are divided so.
}

// newGrid weighs what tasks do again and again: each block of rows reads all panels, and
// each part of the columns makes all rows ready, at rowCost times what it takes to read
// as much of a panel. Of the blocks only the last ones, one a thread, are divided by
// columns: they even out what the others leave.
func newGrid(n, tiles, panels, nr, threads int, rowCost float64) grid {
	want, columns := threads*tasksPerThread, float64(panels*nr)
	// Of b blocks and want/b parts this b takes least, if there are panels for it.
	cheapest := int(math.Sqrt(float64(want*n) * rowCost / columns))
	fewest := (want + panels - 1) / panels
	g := grid{tiles: tiles, rows: max(min(want, max(cheapest, fewest)), (n+blockRows-1)/blockRows)}
	if g.rows > threads {
		g.rows = roundUp(g.rows, threads)
	}
	g.rows = min(g.rows, tiles)
	if g.rows == 1 {
		g.columns = splitPanels(panels, threads)
		return g
	}
	g.whole = max(0, g.rows-threads)
	parts := (want + g.rows - g.whole - 1) / (g.rows - g.whole)
	if g.whole > 0 {
		worth := columns / (rowCost * float64(n) / float64(g.rows))
		parts = max(1, min(parts, int(worth)))
	}
	g.columns = split{panels: panels, each: (panels + parts - 1) / parts}
	return g
}

func (g grid) tasks() int { return g.whole + (g.rows-g.whole)*g.columns.tasks() }

// task returns the tiles of rows and the panels of a task.
func (g grid) task(i int) (tiles, panels interval) {
	block, panels := i, interval{0, g.columns.panels}
	if i >= g.whole { // Threads that keep step stay at their rows.
		rest := g.rows - g.whole
		block, panels = g.whole+(i-g.whole)%rest, g.columns.task((i-g.whole)/rest)
	}
	// Blocks have at most one tile more or less than others.
	return interval{block * g.tiles / g.rows, (block + 1) * g.tiles / g.rows}, panels
}

// split divides the panels of products into tasks: first large ones, one a
// thread, then small ones that even out what the large ones leave. A thread that
// reads on is faster than one that begins elsewhere: the processor fetches ahead.
type split struct {
	panels, large int // The large tasks are the first ones,
	each          int // of so many panels;
	small         int // the others have so many, if there are large ones.
}

// splitPanels makes about tasksPerThread tasks a thread.
func splitPanels(panels, threads int) split {
	const shareOfLarge = 7. / 8
	large := int(shareOfLarge*float64(panels)) / threads
	tasks := threads * tasksPerThread
	if large < 2 {
		return split{panels: panels, each: (panels + tasks - 1) / tasks}
	}
	rest := panels - large*threads
	return split{panels: panels, large: threads, each: large, small: max(1, (rest+tasks-1)/tasks)}
}

func (s split) tasks() int {
	if s.large == 0 {
		return (s.panels + s.each - 1) / s.each
	}
	return s.large + (s.panels-s.large*s.each+s.small-1)/s.small
}

// interval is what is from one to before another.
type interval struct{ from, to int }

// task returns the panels of a task.
func (s split) task(i int) interval {
	if s.large == 0 || i < s.large {
		return interval{i * s.each, min(s.panels, (i+1)*s.each)}
	}
	from := s.large*s.each + (i-s.large)*s.small
	return interval{from, min(s.panels, from+s.small)}
}

// parts yields what some panels are of each matrix, if anything, where the panels of
// all matrices are counted as if they lay behind each other.
func parts[M interface{ count() int }](all []M, of interval) iter.Seq2[int, interval] {
	return func(yield func(int, interval) bool) {
		before := 0
		for i, m := range all {
			count := m.count()
			p := interval{max(0, of.from-before), min(count, of.to-before)}
			if p.from < p.to && !yield(i, p) {
				return
			}
			before += count
		}
	}
}

// multiplication is one product: c (+)= a·packedᵀ, with the rows of a scaled. The
// rows of c and a are so many elements apart.
type multiplication struct {
	*kernels
	*product
	*packed
	c, a     []float32
	ldc, lda int
	by       scales
	add      bool
}

func roundUp(n, multiple int) int {
	return (n + multiple - 1) / multiple * multiple
}
