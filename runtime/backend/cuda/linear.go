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
	all := make([]multiplication, len(products))
	for i, p := range products {
		own, err := b.weight(op, p.W)
		if err != nil {
			return err
		}
		if all[i].w, err = layout(own); err != nil {
			return fmt.Errorf("%s: %w", op, err)
		}
		args, err := operands(op, operand{"y", p.Y, n * all[i].w.rows}, operand{"x", p.X, n * all[i].w.columns})
		if err != nil {
			return err
		}
		all[i].y, all[i].x, all[i].add = args[0].start, args[1].start, p.Add
		if all[i].bank, all[i].index, err = scalesOf(op, p.Scales, n, all[i].w.columns); err != nil {
			return err
		}
	}
	for i := range all {
		if err := b.product(n, &all[i]); err != nil {
			return err
		}
	}
	return nil
}

// multiplication is one product y [n, rows] (+)= x [n, columns]·wᵀ, with the rows of x
// scaled where there is a bank.
type multiplication struct {
	y, x        address
	w           *matrix
	bank, index address
	add         bool
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
	return args[0].start, own.at, check.Rows(op+" with scales", own.values, 0, args[0].n, columns)
}

// Products of so many rows take the kernel that reads the weight once; of so many the
// one with large tiles.
const (
	skinnyRows = 16
	largeRows  = 512
)

func (b *Backend) product(n int, p *multiplication) error {
	if n == 0 {
		return nil
	}
	const addFlag = 1
	w, flags := p.w, 0
	if p.add {
		flags = addFlag
	}
	x, pitch, scales, index := p.x, w.columns, p.bank, p.index
	if w.kind == backend.Int8 {
		quantised, err := b.quantise(n, p)
		if err != nil {
			return err
		}
		defer quantised.giver.give() // All that reads it is queued before whoever gets it next.
		x, pitch, index = quantised.at(), w.pitch, 0
		scales = x + address(n*pitch)
	}
	name, m := "product_"+kernelName(w.kind)+"_f32", w.rows
	tile := func(size int) int { return (m + size - 1) / size }
	var grid [3]int
	switch {
	case n <= skinnyRows:
		name += "_skinny"
		grid = [3]int{tile(16), 1, 1}
		if w.kind == backend.F32 {
			grid[0] = tile(32)
		}
	case n >= largeRows && w.kind == backend.BF16:
		name += "_large"
		grid = [3]int{(n + 127) / 128, tile(128), 1}
	default:
		name += "_tiled"
		grid = [3]int{(n + 63) / 64, tile(64), 1}
	}
	return b.launch(name, grid, 0, p.y, x, w.at(), w.scales(), scales, index, n, m, w.columns, w.pitch, pitch, m, flags)
}

// quantise makes rows of int8 blocks of a product's input, scaled first: elements
// [n, pitch], and float32 scales [n, pitch/32] behind them.
func (b *Backend) quantise(n int, p *multiplication) (*held, error) {
	const scale = 4
	pitch := p.w.pitch
	block, err := b.memory.hold(int64(n) * (int64(pitch) + int64(pitch/backend.Int8Block)*scale))
	if err != nil {
		return nil, fmt.Errorf("quantise: %w", err)
	}
	err = b.launch("quantise_f32", b.blocksOf(n*pitch/8, 256), 0,
		block.at(), block.at()+address(n*pitch), p.x, p.bank, p.index, n, p.w.columns, p.w.columns, pitch)
	return block, err
}

// MatMulBuffers implements backend.LinearOps.
func (b *Backend) MatMulBuffers(y, x, z backend.Buffer, n, m, k int, add bool) error {
	const op = "matmul of buffers"
	if n < 0 || m <= 0 || k <= 0 {
		return fmt.Errorf("%s: [%d, %d] by [%d, %d]", op, n, k, m, k)
	}
	args, err := operands(op, operand{"y", y, n * m}, operand{"a", x, n * k}, operand{"b", z, m * k})
	if err != nil || n == 0 {
		return err
	}
	w, err := b.newMatrix(backend.F32, m, k)
	if err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	defer w.block.giver.give()
	if err := b.pack(&w, 0, m, args[2].start); err != nil {
		return err
	}
	return b.product(n, &multiplication{y: args[0].start, x: args[1].start, w: &w, add: add})
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
	args, err := operands(op, operand{"y", y, len(list.values) * in})
	if err != nil {
		return err
	}
	if err := check.Rows(op, list.values, 0, w.Out()*in, in); err != nil {
		return err
	}
	return b.gather(args[0], &own.matrix, list)
}
