// Package expert holds what Transformer² adds to a model: the decomposition of
// its weight matrices, W = U·diag(σ)·Vᵀ, and expert vectors z, which scale the
// singular values (SVF, section 3.1 of the paper).
//
// Everywhere in this package z means the *effective* vector, with which
// W' = U·diag(σ⊙z)·Vᵀ holds as it stands: the normaliser of the reference
// implementation, Σσ/Σ(σ⊙z), is folded in when a parameterisation makes z (see
// Parameterization). So vectors of different origin can be mixed.
package expert

import (
	"fmt"
	"slices"
	"strings"

	"github.com/transformersquared/operator/runtime/checkpoint"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/failure"
)

// Modules are the projections that can be decomposed, in canonical order.
func Modules() []string {
	return []string{"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
}

// canonicalModules returns modules in canonical order, without repetition.
func canonicalModules(modules []string) ([]string, error) {
	known := Modules()
	for _, m := range modules {
		if !slices.Contains(known, m) {
			return nil, failure.Permanentf(contract.ReasonUsage, "module %q is unknown: choose from %s", m, strings.Join(known, ", "))
		}
	}
	canonical := slices.DeleteFunc(known, func(m string) bool { return !slices.Contains(modules, m) })
	if len(canonical) == 0 {
		return nil, failure.Permanentf(contract.ReasonUsage, "no modules to decompose: choose from %s", strings.Join(Modules(), ", "))
	}
	return canonical, nil
}

// matrixName names the linear of a module in a layer, as the model names it.
func matrixName(layer int, module string) string {
	block := "self_attn"
	if strings.HasPrefix(module, "gate") || strings.HasPrefix(module, "up") || strings.HasPrefix(module, "down") {
		block = "mlp"
	}
	return fmt.Sprintf("model.layers.%d.%s.%s", layer, block, module)
}

// matrixNames lists the linears of these modules, layer by layer.
func matrixNames(c checkpoint.Config, modules []string) []string {
	names := make([]string, 0, c.Layers*len(modules))
	for layer := range c.Layers {
		for _, m := range modules {
			names = append(names, matrixName(layer, m))
		}
	}
	return names
}

// ModuleOf returns the last part of a matrix' name: "up_proj".
func ModuleOf(name string) string { return name[strings.LastIndexByte(name, '.')+1:] }

// matrixShape returns the shape [out, in] that a module has in a model.
func matrixShape(c checkpoint.Config, module string) (out, in int) {
	q, kv := c.Heads*c.HeadDim, c.KVHeads*c.HeadDim
	switch module {
	case "q_proj":
		return q, c.HiddenSize
	case "k_proj", "v_proj":
		return kv, c.HiddenSize
	case "o_proj":
		return c.HiddenSize, q
	case "gate_proj", "up_proj":
		return c.IntermediateSize, c.HiddenSize
	default: // down_proj
		return c.HiddenSize, c.IntermediateSize
	}
}
