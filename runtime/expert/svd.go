package expert

import (
	"context"
	"fmt"

	"golang.org/x/sync/semaphore"

	"github.com/transformersquared/operator/runtime/backend"
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

// factory makes the factors of matrices, several at a time.
type factory interface {
	// capacity is what the matrices that are in work may take together.
	capacity() int
	// share is what one [out, in] takes of it, at least 1.
	share(out, in int) int
	// factorise computes the full-rank SVD of w [Out, In], R = min(Out, In), rounded
	// to dtype, with a share of the capacity.
	factorise(ctx context.Context, w *tensor.Tensor, dtype tensor.DType, share int) (factors, error)
}

// processor is the factory of package svd. Its capacity is in threads.
type processor struct{ threads, matrices int }

// rankPerThread is how large a matrix must be to keep another thread busy.
const rankPerThread = 512

func (p processor) capacity() int { return p.threads }

// share returns how many of all threads work on one matrix. Small matrices are best
// factored one by a thread; several threads on a large one need less memory than as
// many large ones at once, and few matrices share all threads.
func (p processor) share(out, in int) int {
	return min(p.threads, max(1, min(out, in)/rankPerThread, p.threads/p.matrices))
}

func (processor) factorise(ctx context.Context, w *tensor.Tensor, dtype tensor.DType, workers int) (factors, error) {
	d, err := svd.Factor(ctx, w.Data, w.Rows(), w.Cols(), workers)
	if err != nil {
		return factors{}, err
	}
	f := newFactors(w, d.U, d.S, d.Vt)
	for _, t := range []*tensor.Tensor{f.u, f.vt} {
		if err := roundTo(t, dtype); err != nil { // In place: d changes, too.
			return factors{}, err
		}
	}
	f.relativeError, err = d.RelativeError(ctx, w.Data, w.Rows(), w.Cols(), workers)
	return f, err
}

// device is the factory of a backend that decomposes. It has one matrix at a time;
// meanwhile the one before is written, or the next is read.
type device struct {
	on   backend.Decomposer
	turn *semaphore.Weighted
}

func newDevice(on backend.Decomposer) device { return device{on, semaphore.NewWeighted(1)} }

func (device) capacity() int { return 2 }

func (device) share(_, _ int) int { return 1 }

func (d device) factorise(ctx context.Context, w *tensor.Tensor, dtype tensor.DType, _ int) (factors, error) {
	stored := backend.F32
	if dtype == tensor.BF16 {
		stored = backend.BF16
	}
	if err := d.turn.Acquire(ctx, 1); err != nil {
		return factors{}, fmt.Errorf("waiting for the device: %w", context.Cause(ctx))
	}
	defer d.turn.Release(1)
	f, err := d.on.Decompose(ctx, w.Data, w.Rows(), w.Cols(), stored)
	if err != nil {
		return factors{}, err
	}
	own := newFactors(w, f.U, f.S, f.Vt)
	own.relativeError = f.RelativeError
	return own, nil
}

func newFactors(w *tensor.Tensor, u, s, vt []float32) factors {
	out, in, r := w.Rows(), w.Cols(), len(s)
	return factors{
		u:  &tensor.Tensor{Shape: []int{out, r}, Data: u},
		s:  &tensor.Tensor{Shape: []int{r}, Data: s},
		vt: &tensor.Tensor{Shape: []int{r, in}, Data: vt},
	}
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
