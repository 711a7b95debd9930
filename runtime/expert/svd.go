package expert

import (
	"context"

	"github.com/transformersquared/operator/runtime/svd"
	"github.com/transformersquared/operator/runtime/tensor"
)

// factors are the thin SVD of one matrix, as they are stored: rounded to the
// decomposition's dtype, except σ, which is always float32.
type factors struct {
	u  *tensor.Tensor // [Out, R]
	s  *tensor.Tensor // [R], descending
	vt *tensor.Tensor // [R, In]
	// relativeError is ‖W − U·diag(σ)·Vᵀ‖ / ‖W‖ (Frobenius) of the stored
	// factors.
	relativeError float64
}

// factorise computes the full-rank SVD of w [Out, In], R = min(Out, In), on up
// to workers threads.
func factorise(ctx context.Context, w *tensor.Tensor, dtype tensor.DType, workers int) (factors, error) {
	out, in := w.Rows(), w.Cols()
	r := min(out, in)
	d, err := svd.Factor(ctx, w.Data, out, in, workers)
	if err != nil {
		return factors{}, err
	}
	f := factors{
		u:  &tensor.Tensor{Shape: []int{out, r}, Data: d.U},
		s:  &tensor.Tensor{Shape: []int{r}, Data: d.S},
		vt: &tensor.Tensor{Shape: []int{r, in}, Data: d.Vt},
	}
	for _, t := range []*tensor.Tensor{f.u, f.vt} {
		if err := roundTo(t, dtype); err != nil { // In place: d changes, too.
			return factors{}, err
		}
	}
	f.relativeError, err = d.RelativeError(ctx, w.Data, out, in, workers)
	return f, err
}

// roundTo rounds the elements of t to what dtype can hold.
func roundTo(t *tensor.Tensor, dtype tensor.DType) error {
	if dtype == tensor.F32 {
		return nil
	}
	b := make([]byte, len(t.Data)*dtype.Size())
	if err := tensor.Encode(b, t.Data, dtype); err != nil {
		return err
	}
	return tensor.Decode(t.Data, b, dtype)
}
