package backend

import "context"

// Decomposer is a backend that factors matrices on its device. It is optional: the
// processor's way is package svd.
type Decomposer interface {
	// Decompose computes the thin singular value decomposition w = U·diag(S)·Vᵀ of w
	// [out, in], R = min(out, in), and rounds U and Vᵀ to a type, F32 or BF16. The
	// result is a function of the matrix and the type alone, and as accurate as package
	// svd says of its own; vectors may have the other sign. w is copied to the device
	// once, and the factors back once.
	//
	// It fails when the arguments do not fit each other, when an element of w is not
	// finite, when the largest singular value is beyond float32, when the device has
	// too little memory (ErrDeviceMemory), and when ctx ends.
	Decompose(ctx context.Context, w []float32, out, in int, t DType) (*Factors, error)
}

// Factors are a thin singular value decomposition, row-major, rounded to a type.
type Factors struct {
	// U is [Out, R], with orthonormal columns.
	U []float32
	// S is [R], float32, not negative, in descending order.
	S []float32
	// Vt is [R, In], with orthonormal rows.
	Vt []float32
	// RelativeError is ‖w − U·diag(S)·Vᵀ‖ / ‖w‖ (Frobenius) of the rounded factors: 0
	// for a zero matrix that is reproduced, +Inf for one that is not.
	RelativeError float64
}
