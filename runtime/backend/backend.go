// Package backend is the seam between the model and whatever computes: a
// device that owns memory, and the operations of a Llama-family transformer on
// it, forward and backward.
//
// The seam is small on purpose. Buffers and weights are opaque, so that they
// may live on another device; copies to and from the host are explicit; an
// operation a backend does not have fails with ErrUnsupported, and the caller
// decides what to do. Package backendtest proves an implementation against
// straightforward float64 loops.
//
// The same letters mean the same everywhere: N rows (tokens of all sequences,
// packed without padding), H hidden size, D head dimension, R rank, V
// vocabulary, C columns in general. All matrices are row-major.
//
// Determinism is part of the contract: a row of a result depends on that row's
// inputs only, never on the number of rows, on which other rows are in the
// batch, or on the number of threads. Sums over rows (ColumnDots,
// AttentionBackward) run in row order.
package backend

import "errors"

// ErrUnsupported is wrapped by operations that a backend does not implement.
var ErrUnsupported = errors.New("not supported by this backend")

// Buffer is device memory for float32 elements. It belongs to the backend that
// allocated it and is meaningless to any other.
type Buffer interface {
	// Len returns the number of elements.
	Len() int
}

// Weight is a constant matrix [Out, In] in whatever layout suits the device.
type Weight interface {
	// Type returns what NewWeight was asked for.
	Type() WeightType
	// Out returns the number of rows: the outputs of y = x·Wᵀ.
	Out() int
	// In returns the number of columns: the inputs of y = x·Wᵀ.
	In() int
}

// Backend is a device with the operations of a transformer. Methods may be
// called from several goroutines at once as long as no two of them write the
// same buffer.
type Backend interface {
	Device
	LinearOps
	RowOps
	SequenceOps
}

// Device owns memory.
type Device interface {
	// Name says what computes, for logs: "cpu (avx512, 2 threads)".
	Name() string
	// Capabilities says what the backend can do beyond inference.
	Capabilities() Capabilities
	// Alloc returns a buffer of n elements with undefined contents.
	Alloc(n int) (Buffer, error)
	// Free returns a buffer's memory for reuse; it must not be used after. A nil
	// buffer is ignored. A buffer that is never freed is collected in the end.
	Free(b Buffer)
	// Upload copies from the host; the lengths must be equal.
	Upload(dst Buffer, src []float32) error
	// Download copies to the host; the lengths must be equal.
	Download(dst []float32, src Buffer) error
	// Take ends a buffer, as Free does, and returns its elements as memory of the
	// host: what Download does, without a copy where that is where they are.
	Take(b Buffer) ([]float32, error)
	// Give is the opposite: it makes a buffer of memory that the caller must not
	// use after.
	Give(data []float32) (Buffer, error)
	// Copy copies from buffer to buffer; the lengths must be equal.
	Copy(dst, src Buffer) error
	// Zero clears a buffer.
	Zero(b Buffer) error
	// NewWeight copies a matrix [out, in] to the device, rounded as its type says.
	// It fails with ErrUnsupported when the backend has no such type. An element
	// that is not finite, or is not any more as bfloat16, is an error for BF16 and
	// Int8.
	NewWeight(t WeightType, out, in int, data []float32) (Weight, error)
	// WeightData copies a weight back to the host, [Out, In]: what is stored,
	// rounded to float32.
	WeightData(w Weight) ([]float32, error)
	// Close ends the backend's workers and frees its memory. Buffers and weights
	// must not be used after.
	Close() error
}

// Capabilities tells callers what to expect before they start.
type Capabilities struct {
	// Backward: the operations whose names end in Backward, and MatMulBackward,
	// ColumnDots and ScatterRows, are implemented.
	Backward bool
}

// LinearOps are the products with a weight. N is the number of rows.
type LinearOps interface {
	// MatMul computes products of n rows each. They are independent: none reads or
	// writes what another writes, and their order is the device's.
	MatMul(n int, products ...Product) error
	// MatMulBackward is MatMul with W for Wᵀ, so X is [N, Out] and Y [N, In]. It
	// rounds X as MatMul does where W is BF16; with the stored elements of the other
	// types it multiplies in float32.
	MatMulBackward(n int, products ...Product) error
	// Gather copies rows of w as they are stored: y [len(ids), In], y[i] = w[ids[i]].
	Gather(y Buffer, w Weight, ids []int32) error
}

// RowOps work on each row, or each element, by itself.
type RowOps interface {
	// Add computes y += x, element by element.
	Add(y, x Buffer) error
	// AddToRows computes y [N, C] += x, where x [C] is added to every row.
	AddToRows(y, x Buffer, n int) error
	// ScaleColumns computes y [N, C] = x ⊙ s, where s [C] multiplies every row.
	// y and x may be the same buffer.
	ScaleColumns(y, x, s Buffer, n int) error
	// ColumnDots computes d [C], d[c] = Σₙ a[n,c]·b[n,c], summed in row order.
	ColumnDots(d, a, b Buffer, n int) error
	// SelectRows copies rows of x [·, c]: y [len(rows), c], y[i] = x[rows[i]].
	SelectRows(y, x Buffer, rows []int32, c int) error
	// ScatterRows is its opposite: y[rows[i]] = x[i], with distinct rows. Other
	// rows of y [·, c] keep their contents. It also writes keys and values into a
	// cache.
	ScatterRows(y, x Buffer, rows []int32, c int) error
	// RMSNorm computes y [N, C] = x / √(mean(x²) + eps) ⊙ gain [C].
	RMSNorm(y, x, gain Buffer, n int, eps float32) error
	// RMSNormBackward adds the gradient with respect to x to dx.
	RMSNormBackward(dx, dy, x, gain Buffer, n int, eps float32) error
	// SwiGLU computes y = silu(gate) ⊙ up, with silu(a) = a / (1 + e⁻ᵃ). y may be
	// one of its operands.
	SwiGLU(y, gate, up Buffer) error
	// SwiGLUBackward writes the gradients with respect to gate and up.
	SwiGLUBackward(dGate, dUp, dy, gate, up Buffer) error
	// LogSoftmax computes y [N, C] = x − log Σ eˣ along each row. y and x may be
	// the same buffer.
	LogSoftmax(y, x Buffer, n int) error
}

// SequenceOps are those in which tokens see each other or their positions.
type SequenceOps interface {
	// RoPE rotates x [N, heads·D] in place by each row's position. table [P, D]
	// holds, for each position, D/2 cosines and then D/2 sines; element i of a
	// head is paired with element i+D/2, the Hugging Face layout. inverse rotates
	// the other way: the gradient.
	RoPE(x Buffer, positions []int32, heads int, table Buffer, headDim int, inverse bool) error
	// Attention computes out [N, Heads·D] from q [N, Heads·D]: row n attends to
	// the rows keys[n] of k and v [·, KVHeads·D]. When lse [N, Heads] is not nil
	// it receives the logarithm of each softmax's denominator, which
	// AttentionBackward needs.
	Attention(out, lse, q, k, v Buffer, keys []Span, shape AttentionShape) error
	// PagedAttention is Attention to rows that lie in pages of pageSize rows each:
	// page i of k and v is their rows i·pageSize to (i+1)·pageSize − 1. pageSize is
	// a multiple of PageMultiple. Row n attends to the first keys[n].Count rows of
	// its pages, in their order; the result is that of Attention to the same rows
	// behind each other, bit for bit, wherever the pages are.
	PagedAttention(out, q, k, v Buffer, keys []Pages, pageSize int, shape AttentionShape) error
	// AttentionBackward writes dq, dk and dv. Rows of k and v that no row attends
	// to get zero gradients. Rows with the same Span.First must be adjacent, and
	// spans with different First must not overlap (packed causal sequences).
	AttentionBackward(dq, dk, dv, dOut, out, lse, q, k, v Buffer, keys []Span, shape AttentionShape) error
}

// Product is Y [N, Out] = X [N, In]·Wᵀ, or with Add that added to Y. X is rounded as
// W's type says.
type Product struct {
	Y, X Buffer
	W    Weight
	// Scales scale the rows of X before, bit for bit as ScaleColumns does it; nil
	// means that they are taken as they are.
	Scales *Scales
	Add    bool
}

// Scales are what the rows [N, C] of a product's input are multiplied by, element
// by element: row n becomes x[n] ⊙ Of[Index[n]].
type Scales struct {
	// Of are the scales [C], at least one.
	Of []Buffer
	// Index has one number a row; nil means that all rows have Of[0].
	Index []int32
}

// Span is a run of rows.
type Span struct {
	// First is the first row and Count how many there are.
	First, Count int32
}

// Pages is a run of rows in pages, which lie anywhere and may be shared.
type Pages struct {
	// Table lists the pages; those behind the last row are ignored.
	Table []int32
	// Count is how many rows there are.
	Count int32
}

// PageMultiple is what the rows of a page are a multiple of, so that a device may
// add up so many rows side by side in the same order in every page.
const PageMultiple = 16

// AttentionShape is the geometry of grouped-query attention: query head h
// reads key-value head h / (Heads / KVHeads).
type AttentionShape struct {
	Heads, KVHeads, HeadDim int
	// Scale multiplies the scores before the softmax: usually 1/√HeadDim.
	Scale float32
}
