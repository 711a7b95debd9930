//go:build cuda

package cuda

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/backend/check"
)

// pitchMultiple is what the rows of a weight are a multiple of, in elements.
const pitchMultiple = 64

// weight is a matrix in device memory.
type weight struct {
	backend *Backend
	matrix  matrix

	mu         sync.Mutex
	transposed *matrix
}

// matrix is [rows, columns] with rows of a pitch, zero behind the columns; int8 has
// scales [rows, pitch/32] behind the elements.
type matrix struct {
	kind                 backend.DType
	rows, columns, pitch int
	block                *held
}

// Type implements backend.Weight.
func (w *weight) Type() backend.DType { return w.matrix.kind }

// Out implements backend.Weight.
func (w *weight) Out() int { return w.matrix.rows }

// In implements backend.Weight.
func (w *weight) In() int { return w.matrix.columns }

func (m *matrix) at() address { return m.block.at() }

// elementBytes is the memory of an element without its scale.
func elementBytes(t backend.DType) int64 {
	switch t {
	case backend.Int8:
		return 1
	case backend.BF16:
		return 2
	default:
		return 4
	}
}

// elements is the memory of the elements.
func (m *matrix) elements() int64 { return int64(m.rows) * int64(m.pitch) * elementBytes(m.kind) }

// scales is where the scales of an int8 matrix are.
func (m *matrix) scales() address {
	if m.kind != backend.Int8 {
		return 0
	}
	return m.at() + address(m.elements())
}

func (m *matrix) bytes() int64 { return m.kind.Bytes(m.rows, m.pitch) }

func (b *Backend) newMatrix(kind backend.DType, rows, columns int) (matrix, error) {
	m := matrix{kind: kind, rows: rows, columns: columns, pitch: (columns + pitchMultiple - 1) / pitchMultiple * pitchMultiple}
	var err error
	m.block, err = b.hold(m.bytes())
	return m, err
}

// NewWeight implements backend.Device.
func (b *Backend) NewWeight(t backend.DType, out, in int, data []float32) (backend.Weight, error) {
	const op = "new weight"
	if out <= 0 || in <= 0 || data != nil && (len(data)/out != in || len(data)%out != 0) {
		return nil, fmt.Errorf("%s [%d, %d]: %d elements given", op, out, in, len(data))
	}
	if int(t) >= len(backend.DTypes()) {
		return nil, fmt.Errorf("%s of type %s: %w", op, t, backend.ErrUnsupported)
	}
	if i := check.Fits(t, data); i >= 0 {
		return nil, check.Unfit(op, t, out, in, i/in, i%in, data[i])
	}
	m, err := b.newMatrix(t, out, in)
	if err != nil {
		return nil, fmt.Errorf("%s [%d, %d]: %w", op, out, in, err)
	}
	w := &weight{backend: b, matrix: m}
	if data == nil {
		return w, b.clear(m.at(), m.bytes())
	}
	// Some rows at a time: the host's copy is float32.
	const most = 64 << 20
	rows := max(1, most/in)
	staged, err := b.alloc(backend.F32, min(rows, out)*in)
	if err != nil {
		return nil, fmt.Errorf("%s [%d, %d]: %w", op, out, in, err)
	}
	defer b.Free(staged)
	for first := 0; first < out; first += rows {
		n := min(rows, out-first)
		part := data[first*in : (first+n)*in]
		if err := upload(b, staged.start, part); err != nil {
			return nil, fmt.Errorf("%s [%d, %d]: %w", op, out, in, err)
		}
		if err := b.pack(&m, first, n, staged.start); err != nil {
			return nil, err
		}
	}
	return w, nil
}

// pack writes n rows of a matrix, from the first on, of float32 ones.
func (b *Backend) pack(m *matrix, first, n int, rows address) error {
	at, scales := m.at()+address(int64(first)*int64(m.pitch)*elementBytes(m.kind)), m.scales()
	if scales != 0 {
		const scale = 2
		scales += address(first * (m.pitch / backend.Int8Block) * scale)
	}
	return b.launch(b.kernelFor(opPack, backend.F32, m.kind, plain), b.blocksOf(n*m.pitch/8, 256), 0, at, scales, rows, whole(n), whole(m.columns), whole(m.pitch))
}

// weight returns an operation's weight, or an error when it is another backend's.
func (b *Backend) weight(op string, w backend.Weight) (*weight, error) {
	own, ok := w.(*weight)
	if !ok || own == nil || own.backend.device != b.device {
		return nil, fmt.Errorf("%s: the weight belongs to another backend", op)
	}
	return own, nil
}

// WeightData implements backend.Device.
func (b *Backend) WeightData(w backend.Weight) ([]float32, error) {
	const op = "weight data"
	own, err := b.weight(op, w)
	if err != nil {
		return nil, err
	}
	return b.matrixData(&own.matrix)
}

// matrixData returns the elements [rows, columns] of a matrix.
func (b *Backend) matrixData(m *matrix) ([]float32, error) {
	rows, err := b.firstRows(m.rows)
	if err != nil {
		return nil, err
	}
	defer rows.Free()
	data, err := b.alloc(backend.F32, m.rows*m.columns)
	if err != nil {
		return nil, fmt.Errorf("weight data: %w", err)
	}
	if err := b.gather(data, m, &rows.lists[0]); err != nil {
		return nil, err
	}
	return b.Take(data)
}

func (b *Backend) gather(y *buffer, m *matrix, ids *list) error {
	return b.launch(b.kernelFor(opGather, y.kind, m.kind, plain), b.blocksOf(len(ids.values)*((m.columns+7)/8), 256), 0,
		y.start, m.at(), m.scales(), ids.at, whole(len(ids.values)), whole(m.columns), whole(m.pitch))
}

// backward returns Wᵀ, for products that multiply with W: bfloat16 for bfloat16, else
// float32.
func (w *weight) backward() (*matrix, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.transposed != nil {
		return w.transposed, nil
	}
	b, m, kind := w.backend, &w.matrix, backend.F32
	if m.kind == backend.BF16 {
		kind = backend.BF16
	}
	t, err := b.transpose(m, kind)
	if err != nil {
		return nil, err
	}
	w.transposed = &t
	return w.transposed, nil
}

// transpose returns the transposed matrix, stored as kind.
func (b *Backend) transpose(m *matrix, kind backend.DType) (matrix, error) {
	t, err := b.newMatrix(kind, m.columns, m.rows)
	if err != nil {
		return matrix{}, fmt.Errorf("transpose a weight [%d, %d]: %w", m.rows, m.columns, err)
	}
	const tile = 32
	grid := [3]int{(t.pitch + tile - 1) / tile, (m.columns + tile - 1) / tile, 1}
	return t, b.launch(b.kernelFor(opTranspose, kind, m.kind, plain), grid, 0,
		t.at(), m.at(), m.scales(), whole(m.rows), whole(m.columns), whole(m.pitch), whole(t.pitch))
}

// Compose implements backend.LinearOps.
func (b *Backend) Compose(ctx context.Context, dst, u, vt backend.Weight, s backend.Buffer) error {
	const op = "compose"
	var own [3]*weight
	for i, w := range []backend.Weight{dst, u, vt} {
		var err error
		if own[i], err = b.weight(op, w); err != nil {
			return err
		}
	}
	if err := check.Compose(op, dst, u, vt); err != nil {
		return err
	}
	scale, err := operands(op, operand{"s", s, u.In()})
	if err != nil {
		return err
	}
	own[0].mu.Lock()
	own[0].transposed = nil
	own[0].mu.Unlock()
	if b.blas != nil || dst.Type() == backend.Int8 || u.Type() == backend.Int8 || u.Type() != vt.Type() {
		return b.composeByRows(ctx, own[0], own[1], own[2], s)
	}
	if err := context.Cause(ctx); err != nil {
		return err
	}
	to, left, right := &own[0].matrix, &own[1].matrix, &own[2].matrix
	if b.twins.composing >= whereAlone && left.kind == backend.BF16 {
		if err := b.composeByGroups(to, left, right, scale[0].start); !errors.Is(err, backend.ErrDeviceMemory) {
			return err
		}
	}
	return b.composeByWarps(to, left, right, scale[0].start)
}

// composeByWarps writes to = U·diag(s)·Vᵀ of factors of one type.
func (b *Backend) composeByWarps(to, u, vt *matrix, s address) error {
	tile := 64
	if u.kind == backend.BF16 {
		tile = 128
	}
	return b.launch(b.kernelFor(opCompose, to.kind, u.kind, plain), [3]int{(to.pitch + tile - 1) / tile, (to.rows + tile - 1) / tile, 1}, 0,
		to.at(), u.at(), vt.at(), s, whole(to.rows), whole(u.columns), whole(to.columns), whole(to.pitch), whole(u.pitch), whole(vt.pitch))
}

// composeByRows composes by products: U's rows, scaled, are multiplied with V as the
// backward product with Vᵀ does it, and packed; or cuBLAS writes the product in place.
func (b *Backend) composeByRows(ctx context.Context, dst, u, vt *weight, s backend.Buffer) error {
	const op = "compose"
	// So many rows at a time that what is computed in float32 stays small.
	const most = 16 << 20
	out, rank, in := dst.Out(), u.In(), dst.In()
	rows := min(out, max(1, most/max(rank, in)))
	left, err := b.alloc(backend.F32, rows*rank)
	if err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	defer b.Free(left)
	w, inPlace := &buffer{}, b.composesInto(dst, u, vt)
	if !inPlace {
		if w, err = b.alloc(backend.F32, rows*in); err != nil {
			return fmt.Errorf("%s: %w", op, err)
		}
		defer b.Free(w)
	}
	scales, err := operands(op, operand{"s", s, rank})
	if err != nil {
		return err
	}
	scale := scales[0].start
	lists, err := b.firstRows(out)
	if err != nil {
		return err
	}
	defer lists.Free()
	for first := 0; first < out; first += rows {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		n := min(rows, out-first)
		ids := &list{at: lists.lists[0].at + address(4*first), values: lists.lists[0].values[first : first+n]}
		us, ws := *left, *w
		us.n, ws.n = n*rank, n*in
		if err := b.gather(&us, &u.matrix, ids); err != nil {
			return err
		}
		if inPlace {
			if err := b.composeRows(&dst.matrix, first, n, &us, vt, scale); err != nil {
				return fmt.Errorf("%s: %w", op, err)
			}
			continue
		}
		if err := b.MatMulBackward(n, backend.Product{Y: &ws, X: &us, W: vt, Scales: &backend.Scales{Bank: s}}); err != nil {
			return err
		}
		if err := b.pack(&dst.matrix, first, n, ws.start); err != nil {
			return err
		}
	}
	return nil
}
