//go:build cuda

package cuda

import (
	"fmt"

	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/backend/check"
)

// MatMul implements backend.LinearOps.
func (b *Backend) MatMul(n int, products ...backend.Product) error {
	return b.multiply("matmul", n, products, func(w *weight) (*matrix, error) { return &w.matrix, nil })
}

// MatMulBackward implements backend.LinearOps.
func (b *Backend) MatMulBackward(n int, products ...backend.Product) error {
	return b.multiply("matmul backward", n, products, (*weight).backward)
}

// multiply checks all products before it begins one.
func (b *Backend) multiply(op string, n int, products []backend.Product, layout func(*weight) (*matrix, error)) error {
	var few [together]multiplication
	all := append(few[:0], make([]multiplication, len(products))...) // Not allocated where they are few.
	for i, p := range products {
		own, err := b.weight(op, p.W)
		if err != nil {
			return err
		}
		m := &all[i]
		if m.w, err = layout(own); err != nil {
			return fmt.Errorf("%s: %w", op, err)
		}
		if m.y, err = owned("y", p.Y, n*m.w.rows); err != nil {
			return fmt.Errorf("%s: %w", op, err)
		}
		if m.x, err = owned("x", p.X, n*m.w.columns); err != nil {
			return fmt.Errorf("%s: %w", op, err)
		}
		m.add = p.Add
		if m.bank, m.index, err = scalesOf(op, p.Scales, n, m.w.columns); err != nil {
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
		if all[i].x.kind == all[i].y.kind {
			continue
		}
		copied, err := b.alike(op, &all[i])
		if err != nil {
			return err
		}
		defer b.Free(copied)
	}
	for left := all; len(left) > 0; {
		// As many together as one launch takes.
		most := 1
		for n <= skinnyRows && most < min(together, len(left)) && left[most].sameKernel(&left[0]) {
			most++
		}
		if err := b.products(n, left[:most]); err != nil {
			return err
		}
		left = left[most:]
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

// multiplication is one product y [n, rows] (+)= x [n, columns]·wᵀ, with the rows of x
// scaled where there is a bank.
type multiplication struct {
	y, x        *buffer // Stored alike, once alike has seen to it.
	w           *matrix
	bank, index address
	add         bool
	rounded     *buffer // Where y goes afterwards, if anywhere.
}

// sameKernel reports whether one kernel computes both.
func (p *multiplication) sameKernel(o *multiplication) bool {
	return p.w.kind == o.w.kind && p.x.kind == o.x.kind
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
		o := &all[i]
		if p.x.start == o.x.start && p.bank == o.bank && p.index == o.index && p.w.columns == o.w.columns {
			return i
		}
	}
	return len(all)
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
	block, err := b.hold(int64(n) * (int64(pitch) + int64(pitch/backend.Int8Block)*scale))
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
	return b.multiplyAll(op, n, []multiplication{{y: args[0], x: args[1], w: &w, add: add}})
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
