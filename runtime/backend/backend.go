// Package backend is the seam between the model and whatever computes: a
// device that owns memory, and the operations of a Llama-family transformer on
// it, forward and backward.
//
// It is made for a device that is far away. Buffers and weights are opaque, and
// copies to and from the host are explicit. What a step has to know of its rows
// (which tokens, where their keys go, whom they attend to) is uploaded once, as
// Tables, and every operation reads it there. What a step ends with (a chosen
// token, the likelihood of a label, a loss and its gradient) is computed where the
// logits are: a step synchronises once, in HeadOps, and moves a few numbers.
//
// The operations come in two grains. The small ones below are what a backend must
// have, and what package backendtest proves against straightforward float64 loops.
// Parts computes the parts of a layer (norm and projections, rotation and cache,
// activation) by a backend's fused operation where it has one, and composes it of
// small ones where it has not.
//
// The same letters mean the same everywhere: N rows (tokens of all sequences,
// packed without padding), H hidden size, D head dimension, R rank, V
// vocabulary, C columns in general. All matrices are row-major.
//
// Activations and the cache are stored as float32 or, where a backend lists it
// (Capabilities.Storage and Capabilities.Cache), as bfloat16. Operations compute in float32 whatever they read,
// and round each element that they write once, to nearest; attention may round the
// weights of its softmax too before it multiplies with values, and its gradient those of
// the scores. An operation's activations are of one type, but that a product without
// scales may read one and write the other, as the head does, and that RotateStore and
// PagedAttention take a cache in bfloat16 beside activations in float32. Always float32 are logits
// and their logarithms, gains, biases, tables of angles, banks of scales and their
// gradients, and the logarithms of attention's denominators. A buffer of a type that an
// operation cannot take is ErrUnsupported, by the operand's name.
//
// Determinism is part of the contract. On a backend that says so
// (Capabilities.RowInvariant) a row of a result depends on that row's
// inputs only, never on the number of rows, on which other rows are in the
// batch, or on the number of threads. Sums over rows (ColumnDots,
// AttentionBackward) run in row order.
package backend

import (
	"context"
	"errors"
)

// Errors that say what a caller, or whoever runs it, can do about them. Backends
// wrap them.
var (
	// ErrUnsupported: the backend does not implement the operation, or not for this
	// type of storage.
	ErrUnsupported = errors.New("not supported by this backend")
	// ErrUnknown: this binary has no backend of that name.
	ErrUnknown = errors.New("unknown backend")
	// ErrNoDevice: there is no device, or no driver for it.
	ErrNoDevice = errors.New("no device")
	// ErrDeviceMemory: the device has too little memory.
	ErrDeviceMemory = errors.New("too little device memory")
	// ErrDeviceLost: the device failed, or a kernel did, and nothing can be computed by
	// this process any more.
	ErrDeviceLost = errors.New("the device is lost to this process")
	// ErrDeviceUnsupported: the device, or its driver, is too old.
	ErrDeviceUnsupported = errors.New("the device is not supported")
	// ErrLibrary: a library that was asked for cannot be used (see LibraryUse).
	ErrLibrary = errors.New("a library cannot be used as asked")
)

// Buffer is device memory for numbers. It belongs to the backend that
// allocated it and is meaningless to any other.
type Buffer interface {
	// Len returns the number of elements.
	Len() int
	// Type returns how they are stored: F32 or BF16.
	Type() DType
}

// Weight is a matrix [Out, In] in whatever layout suits the device. Only Compose
// changes it.
type Weight interface {
	// Type returns what NewWeight was asked for.
	Type() DType
	// Out returns the number of rows: the outputs of y = x·Wᵀ.
	Out() int
	// In returns the number of columns: the inputs of y = x·Wᵀ.
	In() int
}

// Index is a list of whole numbers on the device: rows, tokens, positions.
type Index interface {
	// Len returns how many there are.
	Len() int
}

// Tables are the lists of whole numbers that a step reads, uploaded together.
type Tables interface {
	// Set replaces all lists, by one transfer. Lists that are as long as those before
	// them have the same addresses, so that a captured step finds them. The lists must
	// not be changed until the next Set; Indices of the one before are dead.
	Set(lists ...[]int32) error
	// At returns the i-th list of the last Set.
	At(i int) Index
	// Free gives the memory back. It may be called again.
	Free()
}

// Backend is a device with the operations of a transformer. Methods may be
// called from several goroutines at once as long as no two of them write the
// same buffer.
type Backend interface {
	Device
	LinearOps
	RowOps
	SequenceOps
	HeadOps
}

// Device owns memory.
type Device interface {
	// Name says what computes, for logs: "cpu (avx512, 2 threads)".
	Name() string
	// Capabilities says what the backend can do.
	Capabilities() Capabilities
	// Memory says how much of the device's memory is in use.
	Memory() MemoryInfo
	// Alloc returns a buffer of n elements with undefined contents. A type that is
	// among neither Capabilities.Storage nor Cache is ErrUnsupported.
	Alloc(t DType, n int) (Buffer, error)
	// Free returns a buffer's memory for reuse; it must not be used after. A nil
	// buffer is ignored. A buffer that is never freed is collected in the end.
	Free(b Buffer)
	// NewArena returns memory for the buffers of one step.
	NewArena() Arena
	// NewTables returns memory for the lists of one step. It grows as they do.
	NewTables() (Tables, error)
	// Upload copies from the host, rounding as the buffer's type says; the lengths
	// must be equal.
	Upload(dst Buffer, src []float32) error
	// Download copies to the host; the lengths must be equal. It waits for what
	// computes the buffer.
	Download(dst []float32, src Buffer) error
	// Take ends a buffer, as Free does, and returns its elements as memory of the
	// host: what Download does, without a copy where that is where they are.
	Take(b Buffer) ([]float32, error)
	// Give is the opposite: it makes a buffer of type F32 of memory that the caller
	// must not use after.
	Give(data []float32) (Buffer, error)
	// Copy copies from buffer to buffer, rounding where the types differ; the lengths
	// must be equal.
	Copy(dst, src Buffer) error
	// Zero clears a buffer.
	Zero(b Buffer) error
	// Rows returns a part of a buffer whose rows have c elements: its rows from one to
	// before another. It shares the memory, and Free of it does nothing.
	Rows(b Buffer, c, from, to int) (Buffer, error)
	// NewWeight copies a matrix [out, in] to the device, rounded as its type says;
	// without data it makes one of zeros, for Compose. It fails with ErrUnsupported
	// when the backend has no such type. An element that is not finite, or is not any
	// more as bfloat16, is an error for BF16 and Int8.
	NewWeight(t DType, out, in int, data []float32) (Weight, error)
	// WeightData copies a weight back to the host, [Out, In]: what is stored,
	// rounded to float32.
	WeightData(w Weight) ([]float32, error)
	// Sync waits for all that was asked for, and returns what went wrong with it.
	Sync() error
	// Close ends the backend's workers and frees its memory. Buffers and weights
	// must not be used after.
	Close() error
}

// Arena is memory for the buffers of one step. It belongs to one goroutine at a
// time.
type Arena interface {
	// Alloc and Free are those of Device.
	Alloc(t DType, n int) (Buffer, error)
	Free(b Buffer)
	// Adopt makes a buffer of the device one of the arena's, and Release the opposite:
	// the buffer outlives the next Reset.
	Adopt(b Buffer)
	Release(b Buffer)
	// Reset frees whatever is still allocated.
	Reset()
}

// MemoryInfo is in bytes.
type MemoryInfo struct {
	// Used is what buffers, tables and weights of this backend take.
	Used int64
	// Free is what more of them could take, and Total what the device has; 0 where
	// that is not known.
	Free, Total int64
}

// Capabilities tells callers what to expect before they start.
type Capabilities struct {
	// Backward: the operations whose names end in Backward, MatMulBackward,
	// ColumnDots, OuterSums and PolicyGradient are implemented.
	Backward bool
	// RowInvariant: a row of a result has the same bits whatever rows are beside it; those
	// of MatMulBackward where RowInvariantBackward says so, too. Forward rows decide
	// answers, and backward ones a step of training.
	RowInvariant, RowInvariantBackward bool
	// OrderedSums: MatMul adds the terms of a sum in an order, two and two, with Add to what
	// is there, so that two terms of zero may be left out, and sums divided at an even one,
	// without changing a bit.
	OrderedSums bool
	// WidenedInt8: MatMul multiplies with weights of type Int8 as if they were BF16 and had
	// been rounded from what they store.
	WidenedInt8 bool
	// Storage lists the types that activations may have; F32 is always one.
	Storage []DType
	// Cache lists those that keys and values may have beside activations in F32, which are
	// those of Storage and maybe more. Of a type that is in Cache alone PagedAttention and
	// RotateStore take keys and values, SelectRows and ScatterRows take both sides, and
	// Device's methods copy; everything else is ErrUnsupported.
	Cache []DType
}

// Capturer is a backend that can record the operations of a step and repeat them at
// the cost of one call. It is optional.
type Capturer interface {
	// NewRecorder returns a recorder without any memory yet.
	NewRecorder() Recorder
}

// Recorder records steps of which one at a time is repeated. They share the memory of
// the buffers that they allocate and free.
type Recorder interface {
	// Record records what the function asks of the backend that it is given, without
	// computing it; others may use the device meanwhile. The function must not wait for
	// the device, or copy from or to the host: the error wraps ErrUnsupported. Operations
	// check what their tables hold then; whoever repeats the step answers for what they
	// hold later.
	Record(record func(Backend) error) (Graph, error)
	// Free gives the memory back. The graphs must not be repeated after.
	Free()
}

// Graph is a recorded step.
type Graph interface {
	// Replay computes the step with what its buffers and tables hold now.
	Replay() error
	// Free gives it back.
	Free()
}

// Reserver is a backend that can set memory of the device aside for steps, so that none
// has to be asked for while they are computed. It is optional.
type Reserver interface {
	// Reserve takes so many bytes for the buffers of arenas and recorders, for tables, and
	// for what operations need by themselves; what does not fit is taken as if nothing
	// were reserved. release gives them back once they are not in use; it may be called
	// again. The error wraps ErrDeviceMemory.
	Reserve(bytes int64) (release func(), err error)
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
	// MatMulBuffers computes y [N, M] = a [N, K]·bᵀ for a buffer b [M, K], or with add
	// that added to y, in float32.
	MatMulBuffers(y, a, b Buffer, n, m, k int, add bool) error
	// Gather copies rows of w as they are stored: y [len(ids), In], y[i] = w[ids[i]].
	Gather(y Buffer, w Weight, ids Index) error
	// Compose writes U·diag(s)·Vᵀ into dst [Out, In], for u [Out, R], s [R] and vt
	// [R, In]: the rows of U scaled as ScaleColumns does it, multiplied as
	// MatMulBackward does it, and rounded once to what dst stores. Where that is
	// refused by dst's type, or the context ends, dst holds neither what it held nor
	// what was asked for. dst must not be in use.
	Compose(ctx context.Context, dst, u, vt Weight, s Buffer) error
}

// RowOps work on each row, or each element, by itself.
type RowOps interface {
	// Add computes y += x, element by element.
	Add(y, x Buffer) error
	// AddToRows computes y [N, C] += x.Bank[x.Index[n]]: a bias of every row.
	AddToRows(y Buffer, x Scales, n int) error
	// ScaleColumns computes y [N, C] = x, each row multiplied by its scales. y and x may
	// be the same buffer.
	ScaleColumns(y, x Buffer, s Scales, n int) error
	// ColumnDots computes d [C], d[c] = Σₙ a[n,c]·b[n,c], summed in row order.
	ColumnDots(d, a, b Buffer, n int) error
	// OuterSums computes d [A, C], d[i,c] = Σₙ a[n,i]·b[n,c], of a [N, A] and b [N, C], in
	// float32: the gradient of a matrix that is small in one direction. The order of a sum
	// depends on N alone.
	OuterSums(d, a, b Buffer, n int) error
	// SelectRows copies rows of x [·, c]: y [rows.Len(), c], y[i] = x[rows[i]].
	SelectRows(y, x Buffer, rows Index, c int) error
	// ScatterRows is its opposite: y[rows[i]] = x[i], with distinct rows; a row −1
	// goes nowhere. Other rows of y [·, c] keep their contents. It also writes keys and
	// values into a cache.
	ScatterRows(y, x Buffer, rows Index, c int) error
	// RMSNorm computes y [N, C] = x / √(mean(x²) + eps) ⊙ gain [C].
	RMSNorm(y, x, gain Buffer, n int, eps float32) error
	// RMSNormBackward adds the gradient with respect to x to dx.
	RMSNormBackward(dx, dy, x, gain Buffer, n int, eps float32) error
	// SwiGLU computes y = silu(gate) ⊙ up, with silu(a) = a / (1 + e⁻ᵃ). y may be
	// one of its operands.
	SwiGLU(y, gate, up Buffer) error
	// SwiGLUBackward writes the gradients with respect to gate and up.
	SwiGLUBackward(dGate, dUp, dy, gate, up Buffer) error
	// LogSoftmax computes y [N, C], of type F32, = x − log Σ eˣ along each row. y and x
	// may be the same buffer.
	LogSoftmax(y, x Buffer, n int) error
}

// SequenceOps are those in which tokens see each other or their positions.
type SequenceOps interface {
	// RoPE rotates x [N, heads·D] in place by each row's position. table [P, D]
	// holds, for each position, D/2 cosines and then D/2 sines; element i of a
	// head is paired with element i+D/2, the Hugging Face layout. inverse rotates
	// the other way: the gradient.
	RoPE(x Buffer, positions Index, heads int, table Buffer, headDim int, inverse bool) error
	// Attention computes out [N, Heads·D] from q [N, Heads·D]: row n attends to
	// a span of the rows of k and v [·, KVHeads·D]. When lse [N, Heads] is not nil
	// it receives the logarithm of each softmax's denominator, which
	// AttentionBackward needs.
	Attention(out, lse, q, k, v Buffer, keys Spans, shape AttentionShape) error
	// PagedAttention is Attention to rows that lie in blocks of keys.BlockSize rows
	// each: block i of k and v is their rows i·BlockSize to (i+1)·BlockSize − 1. The
	// result is that of Attention to the same rows behind each other, bit for bit,
	// wherever the blocks are.
	PagedAttention(out, q, k, v Buffer, keys Paged, shape AttentionShape) error
	// AttentionBackward writes dq, dk and dv. Rows of k and v that no row attends
	// to get zero gradients. Rows with the same first key must be adjacent, and
	// spans with different first keys must not overlap (packed causal sequences).
	AttentionBackward(dq, dk, dv, dOut, out, lse, q, k, v Buffer, keys Spans, shape AttentionShape) error
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

// Scales are what rows [N, C] are multiplied by, element by element: row n becomes
// x[n] ⊙ Bank[Index[n]]; or, of AddToRows, what is added to them.
type Scales struct {
	// Bank are scales [S, C], at least one.
	Bank Buffer
	// Index has one number a row; nil means that all rows have the first.
	Index Index
}

// Spans are what rows attend to: each a run of keys.
type Spans struct {
	// First is each row's first key, and Count how many there are, at least one.
	First, Count Index
}

// Paged are what rows attend to where keys lie in blocks.
type Paged struct {
	// Blocks are the block tables, one behind the other: they list the blocks of
	// sequences in their order. What stands behind those that a row needs is ignored.
	Blocks Index
	// First is where each row's table begins in Blocks, and Count how many keys the row
	// attends to, at least one.
	First, Count Index
	// BlockSize is the number of rows of a block, a multiple of BlockMultiple.
	BlockSize int
	// Most bounds Count where a recorded step is repeated with others; 0 means that
	// Count is as it is.
	Most int
}

// BlockMultiple is what the rows of a block are a multiple of, so that a device may
// add up so many rows side by side in the same order in every block.
const BlockMultiple = 16

// AttentionShape is the geometry of grouped-query attention: query head h
// reads key-value head h / (Heads / KVHeads).
type AttentionShape struct {
	Heads, KVHeads, HeadDim int
	// Scale multiplies the scores before the softmax: usually 1/√HeadDim.
	Scale float32
}
