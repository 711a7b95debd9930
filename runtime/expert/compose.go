package expert

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/failure"
	"github.com/transformersquared/operator/runtime/model"
	"github.com/transformersquared/operator/runtime/tensor"
)

// Compose returns a model in which every matrix that z scales is the dense
// W' = U·diag(σ⊙z)·Vᵀ; everything else is shared with m. It holds the factors
// of one matrix at a time, so that it needs little more memory than the result.
func Compose(ctx context.Context, m *model.Model, d *Decomposition, z map[string][]float32) (*model.Model, error) {
	composed := m
	for _, name := range slices.SortedFunc(maps.Keys(z), compareMatrices) {
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("composing: %w", context.Cause(ctx))
		}
		f, err := d.Factors(ctx, name)
		if err != nil {
			return nil, fmt.Errorf("composing: %w", err)
		}
		if f.S, err = ScaledSigma(f.S, z[name]); err != nil {
			return nil, fmt.Errorf("composing %s: %w", name, err)
		}
		if composed, err = composed.Composed(ctx, map[string]model.Factors{name: f}); err != nil {
			return nil, fmt.Errorf("composing: %w", err)
		}
	}
	return composed, nil
}

// ComposeMatrix returns the dense matrix W' = U·diag(σ⊙z)·Vᵀ [Out, In] on the host, in
// float32: bit for bit what Compose puts into a model of the same backend that keeps
// its matrices as float32.
func ComposeMatrix(ctx context.Context, be backend.Backend, d *Decomposition, name string, z []float32) (*tensor.Tensor, error) {
	f, err := d.Factors(ctx, name)
	if err == nil {
		f.S, err = ScaledSigma(f.S, z)
	}
	if err != nil {
		return nil, fmt.Errorf("composing %s: %w", name, err)
	}
	w, err := composeOn(ctx, be, f)
	if err != nil {
		return nil, fmt.Errorf("composing %s: %w", name, err)
	}
	return w, nil
}

func composeOn(ctx context.Context, be backend.Backend, f model.Factors) (*tensor.Tensor, error) {
	out, in, rank := f.U.Rows(), f.Vt.Cols(), len(f.S)
	u, err := be.NewWeight(backend.F32, out, rank, f.U.Data)
	if err != nil {
		return nil, err
	}
	vt, err := be.NewWeight(backend.F32, rank, in, f.Vt.Data)
	if err != nil {
		return nil, err
	}
	dst, err := be.NewWeight(backend.F32, out, in, nil)
	if err != nil {
		return nil, err
	}
	s, err := be.Alloc(backend.F32, rank)
	if err != nil {
		return nil, err
	}
	defer be.Free(s)
	if err := be.Upload(s, f.S); err != nil {
		return nil, err
	}
	if err := be.Compose(ctx, dst, u, vt, s); err != nil {
		return nil, err
	}
	data, err := be.WeightData(dst)
	if err != nil {
		return nil, err
	}
	return tensor.FromSlice(data, out, in)
}

// Attach returns a model that computes the named matrices factored, with z = 1,
// so that their scales can be set and differentiated by; everything else is
// shared with m. No names mean all matrices of the decomposition.
func Attach(m *model.Model, d *Decomposition, matrices []string) (*model.Model, error) {
	if len(matrices) == 0 {
		matrices = d.Matrices()
	}
	factors := make(map[string]model.Factors, len(matrices))
	for _, name := range matrices {
		f, err := d.Factors(context.Background(), name)
		if err != nil {
			return nil, fmt.Errorf("attaching factors: %w", err)
		}
		factors[name] = f
	}
	attached, err := m.WithFactors(factors)
	if err != nil {
		return nil, fmt.Errorf("attaching factors: %w", err)
	}
	return attached, nil
}

// Select lists the matrices of these modules, all of them if there are no
// modules. A module that was not decomposed is an error.
func (d *Decomposition) Select(modules []string) ([]string, error) {
	if len(modules) == 0 {
		return d.Matrices(), nil
	}
	canonical, err := canonicalModules(modules)
	if err != nil {
		return nil, err
	}
	for _, m := range canonical {
		if !slices.Contains(d.manifest.Modules, m) {
			return nil, failure.Permanentf(contract.ReasonUsage, "module %s is not decomposed: decomposition %s has %v", m, d.manifest.Digest, d.manifest.Modules)
		}
	}
	return slices.DeleteFunc(d.Matrices(), func(name string) bool {
		return !slices.Contains(canonical, ModuleOf(name))
	}), nil
}
