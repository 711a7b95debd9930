package expert

import (
	"errors"
	"math"

	"gonum.org/v1/gonum/mat"

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

// svd computes the full-rank SVD of w [Out, In], R = min(Out, In), in float64.
func svd(w *tensor.Tensor, dtype tensor.DType) (factors, error) {
	out, in := w.Rows(), w.Cols()
	r := min(out, in)
	a := mat.NewDense(out, in, nil)
	for i, v := range w.Data {
		a.RawMatrix().Data[i] = float64(v)
	}
	var d mat.SVD
	if !d.Factorize(a, mat.SVDThin) {
		return factors{}, errors.New("singular value decomposition did not converge")
	}
	var u, v mat.Dense
	d.UTo(&u)
	d.VTo(&v)
	f := factors{u: tensor.New(out, r), s: tensor.New(r), vt: tensor.New(r, in)}
	for i := range out {
		for j := range r {
			f.u.Data[i*r+j] = float32(u.At(i, j))
		}
	}
	for i, s := range d.Values(nil) {
		f.s.Data[i] = float32(s)
	}
	for i := range r {
		for j := range in {
			f.vt.Data[i*in+j] = float32(v.At(j, i))
		}
	}
	for _, t := range []*tensor.Tensor{f.u, f.vt} {
		if err := roundTo(t, dtype); err != nil {
			return factors{}, err
		}
	}
	f.relativeError = f.reconstructionError(a)
	return f, nil
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

// reconstructionError compares the stored factors with the matrix.
func (f factors) reconstructionError(a *mat.Dense) float64 {
	out, in := a.Dims()
	r := len(f.s.Data)
	us, vt := mat.NewDense(out, r, nil), mat.NewDense(r, in, nil)
	for i := range out {
		for j, u := range f.u.Row(i) {
			us.Set(i, j, float64(u)*float64(f.s.Data[j]))
		}
	}
	for i, v := range f.vt.Data {
		vt.RawMatrix().Data[i] = float64(v)
	}
	var product mat.Dense
	product.Mul(us, vt)
	product.Sub(a, &product)
	norm := mat.Norm(a, 2)
	if norm == 0 {
		return 0 // A zero matrix is its own reconstruction.
	}
	if e := mat.Norm(&product, 2) / norm; !math.IsNaN(e) {
		return e
	}
	return math.Inf(1)
}
