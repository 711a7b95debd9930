//go:build cuda

package cuda

import (
	"errors"
	"fmt"

	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/backend/check"
)

// MatMul implements backend.LinearOps.
func (b *Backend) MatMul(n int, products ...backend.Product) error {
	return b.multiply("matmul", n, products, false)
}

// MatMulBackward implements backend.LinearOps.
func (b *Backend) MatMulBackward(n int, products ...backend.Product) error {
	return b.multiply("matmul backward", n, products, true)
}

// multiply checks all products before it begins one.
func (b *Backend) multiply(op string, n int, products []backend.Product, back bool) error {
	var few [together]multiplication
	all := append(few[:0], make([]multiplication, len(products))...) // Not allocated where they are few.
	for i, p := range products {
		own, err := b.weight(op, p.W)
		if err != nil {
			return err
		}
		m := &all[i]
		if m.w, m.library = &own.matrix, b.byLibrary(n, own.matrix.kind, back); m.library {
			m.plain = back
		} else if back {
			if m.w, err = own.backward(); err != nil {
				return fmt.Errorf("%s: %w", op, err)
			}
		}
		if m.y, err = owned("y", p.Y, n*m.outputs()); err != nil {
			return fmt.Errorf("%s: %w", op, err)
		}
		if m.x, err = owned("x", p.X, n*m.inputs()); err != nil {
			return fmt.Errorf("%s: %w", op, err)
		}
		m.add = p.Add
		if m.bank, m.index, err = scalesOf(op, p.Scales, n, m.inputs()); err != nil {
			return err
		}
		if m.y.kind != m.x.kind && p.Scales != nil {
			return fmt.Errorf("%s: x is stored as %s and y as %s, and with scales both must be stored alike: %w",
				op, m.x.kind, m.y.kind, backend.ErrUnsupported)
		}
	}
	return b.multiplyAll(op, n, all)
}

// multiplyAll computes products that were checked.
func (b *Backend) multiplyAll(op string, n int, all []multiplication) error {
	for i := range all {
		copied, err := b.prepare(op, &all[i])
		if err != nil {
			return err
		}
		if copied != nil {
			defer b.Free(copied)
		}
	}
	left := all
	if b.blas != nil {
		var err error
		if left, err = b.multiplyByLibrary(n, all); err != nil {
			return fmt.Errorf("%s: %w", op, err)
		}
	}
	for len(left) > 0 {
		done, err := b.some(n, left)
		if err != nil {
			return err
		}
		left = left[done:]
	}
	for i := range all {
		if all[i].rounded == nil {
			continue
		}
		if err := b.convert(all[i].rounded, all[i].y); err != nil {
			return err
		}
	}
	return nil
}

// some computes the first of the products, as many as go together, and says how many.
func (b *Backend) some(n int, all []multiplication) (done int, err error) {
	most := 1
	if b.byGroups(n, all[0].w) {
		for most < len(all) && b.byGroups(n, all[most].w) && all[most].firstThatReads(all[:1]) == 0 {
			most++
		}
		if err := b.productsByGroups(n, all[:most]); !errors.Is(err, backend.ErrDeviceMemory) {
			return most, err
		}
		most = 1 // The twin has the same bits, and needs no memory.
	}
	// Of few rows as many as one launch takes.
	for n <= skinnyRows && most < min(together, len(all)) && all[most].sameKernel(&all[0]) {
		most++
	}
	return most, b.products(n, all[:most])
}

// multiplication is one product y [n, rows] (+)= x [n, columns]·wᵀ, with the rows of x
// scaled where there is a bank; or, plain, y [n, columns] (+)= x [n, rows]·w.
type multiplication struct {
	y, x        *buffer // Stored alike, once alike has seen to it.
	w           *matrix
	bank, index address
	add         bool
	// Plain products are the library's; it computes those that say so.
	plain, library bool
	rounded        *buffer // Where y goes afterwards, if anywhere.
}

// prepare gives a product the copy of x or y that whoever computes it needs, if any.
func (b *Backend) prepare(op string, p *multiplication) (*buffer, error) {
	switch {
	case p.library:
		return b.widenForLibrary(op, p)
	case p.x.kind != p.y.kind:
		return b.alike(op, p)
	default:
		return nil, nil
	}
}

// sameKernel reports whether one kernel computes both.
func (p *multiplication) sameKernel(o *multiplication) bool {
	return p.w.kind == o.w.kind && p.x.kind == o.x.kind
}

// inputs is the length of x's rows.
func (p *multiplication) inputs() int {
	if p.plain {
		return p.w.rows
	}
	return p.w.columns
}

// outputs is the length of y's rows.
func (p *multiplication) outputs() int {
	if p.plain {
		return p.w.columns
	}
	return p.w.rows
}

func scalesOf(op string, s *backend.Scales, n, columns int) (bank, index address, err error) {
	if s == nil {
		return 0, 0, nil
	}
	args, err := operands(op, operand{"the bank of scales", s.Bank, -1})
	if err != nil {
		return 0, 0, err
	}
	if err := check.Bank(op, args[0].n, columns); err != nil {
		return 0, 0, err
	}
	if s.Index == nil {
		return args[0].start, 0, nil
	}
	own, err := indices(op, "the index of scales", s.Index, n)
	if err != nil {
		return 0, 0, err
	}
	if err := check.Rows("the index of scales", own.values, 0, args[0].n, columns); err != nil {
		return 0, 0, fmt.Errorf("%s: %w", op, err)
	}
	return args[0].start, own.at, nil
}

// Products of so many rows take the kernel that reads the weight once, and of so many
// the ones with large tiles; of the former, so many may be one launch.
const (
	skinnyRows = 16
	mediumRows = 64
	largeRows  = 512
	together   = 3
)

// products computes products with weights of one type: one, or so few rows of several
// that they are one launch.
func (b *Backend) products(n int, all []multiplication) error {
	if n == 0 {
		return nil
	}
	inputs := make([]input, 0, together)
	for i := range all {
		p := &all[i]
		if p.w.kind != backend.Int8 {
			inputs = append(inputs, input{p.x.start, p.w.columns, p.bank, p.index})
			continue
		}
		if same := p.firstThatReads(all[:i]); same < i {
			inputs = append(inputs, inputs[same])
			continue
		}
		quantised, err := b.quantise(n, p)
		if err != nil {
			return err
		}
		defer quantised.giver.give() // All that reads it is queued before whoever gets it next.
		at := quantised.at()
		inputs = append(inputs, input{at, p.w.pitch, at + address(n*p.w.pitch), 0})
	}
	if len(all) == 1 {
		return b.single(n, &all[0], inputs[0])
	}
	const perBlock, perBlockF32 = 16, 32 // Outputs.
	const each = 12                      // Arguments of a product; of one that is not there all are 0.
	arguments, blocks := [1 + together*each]argument{whole(n)}, 0
	for i := range all {
		p, in := &all[i], inputs[i]
		copy(arguments[1+i*each:], []argument{
			p.y.start, in.x, p.w.at(), p.w.scales(), in.scales, in.index,
			whole(p.w.rows), whole(p.w.columns), whole(p.w.pitch), whole(in.pitch), whole(p.w.rows), p.flags(),
		})
		outputs := perBlock
		if p.w.kind == backend.F32 {
			outputs = perBlockF32
		}
		blocks += (p.w.rows + outputs - 1) / outputs
	}
	return b.launch(b.kernelFor(opProduct, all[0].x.kind, all[0].w.kind, skinny3), [3]int{blocks, 1, 1}, 0, arguments[:]...)
}

// input is what a product reads beside the weight.
type input struct {
	x             address
	pitch         int
	scales, index address
}

// firstThatReads returns the first of the products that has the same input, scaled alike;
// how many they are where none has.
func (p *multiplication) firstThatReads(all []multiplication) int {
	for i := range all {
		if p.readsAs(&all[i]) {
			return i
		}
	}
	return len(all)
}

// readsAs reports whether another product has the same input, scaled alike.
func (p *multiplication) readsAs(o *multiplication) bool {
	return p.x.start == o.x.start && p.x.kind == o.x.kind && p.bank == o.bank && p.index == o.index && p.inputs() == o.inputs()
}

func (p *multiplication) flags() argument {
	if p.add {
		return 1
	}
	return 0
}

// single computes one product.
func (b *Backend) single(n int, p *multiplication, in input) error {
	w := p.w
	m, shared := w.rows, 0
	tiles := func(rows, outputs int) [3]int { return [3]int{(n + rows - 1) / rows, (m + outputs - 1) / outputs, 1} }
	var grid [3]int
	var v variant
	switch {
	case n <= skinnyRows && w.kind == backend.F32:
		v, grid = skinny, [3]int{(m + 31) / 32, 1, 1}
	case n <= skinnyRows:
		v, grid = skinny, [3]int{(m + 15) / 16, 1, 1}
	case n <= mediumRows && w.kind == backend.BF16:
		v, grid, shared = medium, tiles(64, 64), 128<<10
	case n >= largeRows && w.kind == backend.BF16:
		v, grid = large, tiles(128, 128)
	default:
		v, grid = tiled, tiles(64, 64)
	}
	return b.launch(b.kernelFor(opProduct, p.x.kind, w.kind, v), grid, shared, p.y.start, in.x, w.at(), w.scales(), in.scales, in.index,
		whole(n), whole(m), whole(w.columns), whole(w.pitch), whole(in.pitch), whole(m), p.flags())
}

// quantise makes rows of int8 blocks of a product's input, scaled first: elements
// [n, pitch], and float32 scales [n, pitch/32] behind them.
func (b *Backend) quantise(n int, p *multiplication) (*held, error) {
	const scale = 4
	pitch := p.w.pitch
	block, err := b.holdStep(int64(n) * (int64(pitch) + int64(pitch/backend.Int8Block)*scale))
	if err != nil {
		return nil, fmt.Errorf("quantise: %w", err)
	}
	err = b.launch(b.kernelOf(opQuantise, p.x.kind), b.blocksOf(n*pitch/8, 256), 0,
		block.at(), block.at()+address(n*pitch), p.x.start, p.bank, p.index, whole(n), whole(p.w.columns), whole(p.w.columns), whole(pitch))
	return block, err
}

// MatMulBuffers implements backend.LinearOps.
func (b *Backend) MatMulBuffers(y, x, z backend.Buffer, n, m, k int, add bool) error {
	const op = "matmul of buffers"
	if n < 0 || m <= 0 || k <= 0 {
		return fmt.Errorf("%s: [%d, %d] by [%d, %d]", op, n, k, m, k)
	}
	var args [3]*buffer
	for i, a := range [...]operand{{"y", y, n * m}, {"a", x, n * k}, {"b", z, m * k}} {
		var err error
		if args[i], err = owned(a.name, a.buf, a.want); err != nil {
			return fmt.Errorf("%s: %w", op, err)
		}
	}
	if n == 0 {
		return nil
	}
	w, err := b.newMatrix(backend.F32, m, k)
	if err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	defer w.block.giver.give()
	rows := args[2]
	if rows.kind != backend.F32 { // A weight is packed of float32, which costs little beside the product.
		if rows, err = b.widened(op, rows); err != nil {
			return err
		}
		defer b.Free(rows)
	}
	if err := b.pack(&w, 0, m, rows.start); err != nil {
		return err
	}
	return b.multiplyAll(op, n, []multiplication{{y: args[0], x: args[1], w: &w, add: add, library: b.byLibrary(n, backend.F32, false)}})
}

// OuterSums implements backend.RowOps: it is the product of both turned.
func (b *Backend) OuterSums(d, x, y backend.Buffer, n int) error {
	const op = "outer sums"
	sums, err := operands(op, operand{"d", d, -1})
	if err != nil {
		return err
	}
	args, err := activations(op, operand{"a", x, -1}, operand{"b", y, -1})
	if err != nil {
		return err
	}
	if n == 0 {
		return b.Zero(d)
	}
	var turned [2]matrix
	for i, arg := range args[:2] {
		if turned[i], err = b.turned(op, arg, n); err != nil {
			return err
		}
		defer turned[i].block.giver.give()
	}
	left, right := &turned[0], &turned[1]
	if sums[0].n != left.rows*right.rows {
		return fmt.Errorf("%s: d has %d elements, and a and b make [%d, %d]", op, sums[0].n, left.rows, right.rows)
	}
	x32 := &buffer{kind: backend.F32, n: left.rows * left.pitch, start: left.at()}
	return b.single(left.rows, &multiplication{y: sums[0], x: x32, w: right}, input{x: left.at(), pitch: left.pitch})
}

// turned returns rows [n, c] as a float32 matrix [c, n].
func (b *Backend) turned(op string, of *buffer, n int) (m matrix, err error) {
	c, err := check.Columns(op, of.n, n)
	if err != nil {
		return m, err
	}
	if of.kind != backend.F32 { // A weight is packed of float32.
		if of, err = b.widened(op, of); err != nil {
			return m, err
		}
		defer b.Free(of)
	}
	rows, err := b.newMatrix(backend.F32, n, c)
	if err != nil {
		return m, fmt.Errorf("%s: %w", op, err)
	}
	defer rows.block.giver.give()
	if err := b.pack(&rows, 0, n, of.start); err != nil {
		return m, err
	}
	if m, err = b.transpose(&rows, backend.F32); err != nil {
		return m, fmt.Errorf("%s: %w", op, err)
	}
	return m, nil
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
	args, err := activations(op, operand{"y", y, len(list.values) * in})
	if err != nil {
		return err
	}
	if err := check.Rows(op, list.values, 0, w.Out()*in, in); err != nil {
		return err
	}
	return b.gather(args[0], &own.matrix, list)
}
