package expert

import (
	"math"
	"slices"
)

// ModuleStatistics summarises an expert's z over all layers of one module.
type ModuleStatistics struct {
	Module   string `json:"module"`
	Matrices int    `json:"matrices"`
	// Values is the number of singular values scaled.
	Values int     `json:"values"`
	Min    float64 `json:"min"`
	Mean   float64 `json:"mean"`
	Max    float64 `json:"max"`
	// Deviation is the root mean square of z − 1: how far from the base.
	Deviation float64 `json:"deviation"`
}

// Statistics summarises z by module, in canonical order. Modules of no known
// name come last.
func (v Adapter) Statistics() []ModuleStatistics {
	byModule := map[string]*ModuleStatistics{}
	for name, z := range v.Z {
		module := ModuleOf(name)
		s := byModule[module]
		if s == nil {
			s = &ModuleStatistics{Module: module, Min: math.Inf(1), Max: math.Inf(-1)}
			byModule[module] = s
		}
		s.Matrices++
		s.Values += len(z)
		for _, x := range z {
			f := float64(x)
			s.Min, s.Max = min(s.Min, f), max(s.Max, f)
			s.Mean += f
			s.Deviation += (f - 1) * (f - 1)
		}
	}
	list := make([]ModuleStatistics, 0, len(byModule))
	for _, s := range byModule {
		s.Mean /= float64(s.Values)
		s.Deviation = math.Sqrt(s.Deviation / float64(s.Values))
		list = append(list, *s)
	}
	slices.SortFunc(list, func(a, b ModuleStatistics) int { return compareMatrices("."+a.Module, "."+b.Module) })
	return list
}
