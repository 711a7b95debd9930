package expert

import (
	"context"
	"fmt"
	"slices"

	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/failure"
	"github.com/transformersquared/operator/runtime/model"
)

// Attach returns a model that computes the named matrices factored, with z = 1,
// so that their scales can be set and differentiated by; everything else is
// shared with m. No names mean all matrices of the decomposition.
func Attach(m *model.Model, d *Decomposition, matrices []string) (*model.Model, error) {
	if len(matrices) == 0 {
		matrices = d.Matrices()
	}
	factors := make(map[string]model.StoredFactors, len(matrices))
	for _, name := range matrices {
		sigma, err := d.Sigma(name)
		if err != nil {
			return nil, fmt.Errorf("attaching factors: %w", err)
		}
		factors[name] = model.StoredFactors{
			Digest: d.manifest.Digest, S: sigma,
			Read: func() (model.Factors, error) { return d.Factors(context.Background(), name) },
		}
	}
	attached, err := m.WithStoredFactors(factors)
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
