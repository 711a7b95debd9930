// Package peft reads and writes adapters in the file format of Hugging Face's PEFT:
// a folder with adapter_config.json and adapter_model.safetensors.
//
// The names, the shapes and the rules are those of PEFT's code (0.20), quirks
// included; a file that PEFT wrote and that is read here is written again byte for
// byte. What this runtime cannot compute is refused with the field that asks for it:
// an adapter that loads and computes something else is worse than one that does not
// load.
package peft

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/failure"
	"github.com/transformersquared/operator/runtime/tensor"
)

// Names of an adapter's files. The third is what PEFT wrote before it had safetensors.
const (
	ConfigFile  = "adapter_config.json"
	WeightsFile = "adapter_model.safetensors"
	PickleFile  = "adapter_model.bin"
)

// Types of adapters that are read, as PEFT spells them. DoRA is LoRA with a magnitude.
const (
	LoRA = "LORA"
	IA3  = "IA3"
)

// Adapter is what changes the projections of a base model.
type Adapter struct {
	Config *Config
	// Matrices has what changes each projection, by its name in the base model, such
	// as model.layers.0.self_attn.q_proj.
	Matrices map[string]Matrix

	metadata map[string]string
	// forms has how tensors were stored, by their names in the file. What is not in
	// it is written as PEFT writes it by default.
	forms map[string]form
}

// form is how a tensor was stored.
type form struct {
	dtype tensor.DType
	shape []int
}

// Matrix changes a projection y = W·x + b with W [Out, In].
//
//	LoRA:  W' = W + Scale·B·A
//	DoRA:  W' = diag(Magnitude / ‖W + Scale·B·A‖) · (W + Scale·B·A), norms of rows
//	IA3:   y' = Vector ⊙ y, b included, or, of a feed-forward one, W·(Vector ⊙ x) + b
type Matrix struct {
	// A [R, In] and B [Out, R] are nil for IA3.
	A, B *tensor.Tensor
	// Scale is alpha/R, or alpha/√R if the adapter is rank-stabilised.
	Scale float64
	// Magnitude [Out] is nil unless the adapter is DoRA.
	Magnitude []float32
	// Vector [Out], or [In] if Feedforward, is nil unless the adapter is IA3.
	Vector      []float32
	Feedforward bool
}

// Names lists the matrices, sorted.
func (a *Adapter) Names() []string { return slices.Sorted(maps.Keys(a.Matrices)) }

// Parameters counts the trained numbers.
func (a *Adapter) Parameters() int64 {
	n := int64(0)
	for _, m := range a.Matrices {
		n += int64(len(m.Magnitude) + len(m.Vector))
		if m.A != nil {
			n += int64(len(m.A.Data) + len(m.B.Data))
		}
	}
	return n
}

// Fits checks that the adapter changes projections of this model only, and that they
// have the right shapes; shape returns that of a projection [out, in]. The error names
// the first that does not fit.
func (a *Adapter) Fits(shape func(name string) (out, in int, ok bool)) error {
	for _, name := range a.Names() {
		out, in, ok := shape(name)
		if !ok {
			return failure.Permanentf(contract.ReasonInvalidExpert,
				"the adapter changes %s, which is none of the model's projections: it is of another architecture, or changes what cannot be adapted", name)
		}
		if err := a.Matrices[name].fits(out, in); err != nil {
			return failure.Permanentf(contract.ReasonInvalidExpert, "the adapter is of another model: %s: %w", name, err)
		}
	}
	return nil
}

func (m Matrix) fits(out, in int) error {
	switch {
	case m.A != nil && (m.A.Cols() != in || m.B.Rows() != out):
		return fmt.Errorf("its matrix is [%d %d], the adapter's A %v and B %v", out, in, m.A.Shape, m.B.Shape)
	case m.Magnitude != nil && len(m.Magnitude) != out:
		return fmt.Errorf("it has %d outputs, the adapter's magnitude %d", out, len(m.Magnitude))
	case m.Vector != nil && m.Feedforward && len(m.Vector) != in:
		return fmt.Errorf("it has %d inputs, the adapter's vector %d", in, len(m.Vector))
	case m.Vector != nil && !m.Feedforward && len(m.Vector) != out:
		return fmt.Errorf("it has %d outputs, the adapter's vector %d", out, len(m.Vector))
	}
	return nil
}

// Merge changes W [Out, In] into what computes the same as the projection with the
// adapter; see MergeBias for its bias. It is the plain definition, in float64, and
// takes Out·In·R multiplications.
func (m Matrix) Merge(w *tensor.Tensor) error {
	if len(w.Shape) != 2 {
		return fmt.Errorf("merging an adapter into a tensor %v, which is no matrix", w.Shape)
	}
	if err := m.fits(w.Rows(), w.Cols()); err != nil {
		return fmt.Errorf("merging an adapter: %w", err)
	}
	sum := make([]float64, w.Cols())
	for o := range w.Rows() {
		row := w.Row(o)
		norm := m.sum(sum, row, o)
		factor := 1.0
		switch {
		case m.Magnitude != nil:
			factor = float64(m.Magnitude[o]) / norm
		case m.ScalesBias():
			factor = float64(m.Vector[o])
		}
		for i := range row {
			x := sum[i] * factor
			if m.Feedforward {
				x *= float64(m.Vector[i])
			}
			if math.IsNaN(x) || math.IsInf(x, 0) {
				return fmt.Errorf("merging an adapter: element [%d %d] becomes %v", o, i, x)
			}
			row[i] = float32(x)
		}
	}
	return nil
}

// sum writes a row of W + Scale·B·A, of which row is W's, and returns its norm.
func (m Matrix) sum(to []float64, row []float32, o int) (norm float64) {
	clear(to)
	if m.A != nil {
		for r, b := range m.B.Row(o) {
			for i, a := range m.A.Row(r) {
				to[i] += float64(b) * float64(a)
			}
		}
	}
	for i, x := range row {
		to[i] = float64(x) + m.Scale*to[i]
		norm += to[i] * to[i]
	}
	return math.Sqrt(norm)
}

// Gains returns what the rows of W + Scale·B·A [Out, In] are multiplied by in the end,
// Magnitude / ‖W + Scale·B·A‖ [Out], for the W of the base model.
func (m Matrix) Gains(w *tensor.Tensor) []float32 {
	gains, sum := make([]float32, w.Rows()), make([]float64, w.Cols())
	for o := range gains {
		gains[o] = float32(float64(m.Magnitude[o]) / max(m.sum(sum, w.Row(o), o), math.SmallestNonzeroFloat32))
	}
	return gains
}

// ScalesBias reports whether the adapter scales outputs, and so the projection's bias.
func (m Matrix) ScalesBias() bool { return m.Vector != nil && !m.Feedforward }

// MergeBias is Merge for the bias [Out] of the projection, which only IA3 changes.
func (m Matrix) MergeBias(bias []float32) error {
	if !m.ScalesBias() {
		return nil
	}
	if len(bias) != len(m.Vector) {
		return fmt.Errorf("merging an adapter of %d outputs into a bias of %d", len(m.Vector), len(bias))
	}
	for o, v := range m.Vector {
		bias[o] *= v
	}
	return nil
}

// prefix begins the name of every tensor: two wrappers around the base model.
const prefix = "base_model.model."

// Ends of the names of tensors.
const (
	endA         = ".lora_A.weight"
	endB         = ".lora_B.weight"
	endMagnitude = ".lora_magnitude_vector"
	// endMagnitudeWeight is how the module is called in memory; some tools save that.
	endMagnitudeWeight = ".lora_magnitude_vector.weight"
	endVector          = ".ia3_l"
)

// ends lists them so that none is the end of another that comes later.
var ends = []string{endA, endB, endMagnitudeWeight, endMagnitude, endVector}

// split takes a tensor's name apart, into the matrix' and one of ends.
func split(name string) (matrix, end string, err error) {
	rest, ok := strings.CutPrefix(name, prefix)
	if !ok {
		return "", "", fmt.Errorf("does not begin with %q, as PEFT's names do", prefix)
	}
	for _, end := range ends {
		if matrix, ok := strings.CutSuffix(rest, end); ok && matrix != "" {
			return matrix, end, nil
		}
	}
	switch {
	case strings.Contains(rest, "lora_embedding_"):
		return "", "", fmt.Errorf("adapts an embedding; projections can be adapted")
	case strings.HasSuffix(rest, ".bias"):
		return "", "", fmt.Errorf("is a bias; adapters of matrices are computed")
	case strings.Contains(rest, ".lora_") || strings.Contains(rest, ".ia3_"):
		return "", "", fmt.Errorf("is no tensor that PEFT saves of LoRA, DoRA or IA3: it is of another kind of adapter, or has an adapter's name in it (save it by save_pretrained)")
	default:
		return "", "", fmt.Errorf("is a weight of the model itself (modules_to_save or a resized embedding); adapters of matrices are computed")
	}
}
