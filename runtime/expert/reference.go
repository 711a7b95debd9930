package expert

import (
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"regexp"
	"strconv"
	"strings"

	"github.com/transformersquared/operator/runtime/checkpoint/torch"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/failure"
)

// What the paper's reference implementation (SakanaAI/self-adaptive-llms) saves of an
// expert, by torch.save:
//
//   - learnable_params.pt: the trained parameters p, by the names of the MLP's weights.
//   - policy_params.pt: the same without names, in the order of the model's modules.
//     Both need the sigmoid applied, which its Policy does where it composes.
//   - The policy_params.pt of a few-shot search: the masks sigmoid(p) of the experts
//     that are combined, and the weights of the combination.
//
// The learnable_params.pt of a few-shot search looks like an expert's, but holds masks
// already; nothing in it tells, so that its policy_params.pt is to be imported.
const (
	referenceList    = "learnable_params_module_list."
	referenceWeights = "adaptive_weights"
)

// referenceMask is the name of an expert's mask in a combination: its number, and the
// matrix with underscores for dots.
var referenceMask = regexp.MustCompile(`^weights_(\d+)_k_model_layers_(\d+)_mlp_(gate|up|down)_proj_weight$`)

// referenceModules are what the reference trains.
var referenceModules = []string{"gate_proj", "up_proj", "down_proj"}

// maxCombined bounds the experts of a combination.
const maxCombined = 1 << 10

// IsReference reports whether a file was written by torch.save, as what the paper's
// reference implementation saves is.
func IsReference(path string) (_ bool, err error) {
	f, err := os.Open(path)
	if err != nil {
		return false, fmt.Errorf("reading expert: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	head := make([]byte, torch.HeadBytes)
	n, err := io.ReadFull(f, head)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return false, fmt.Errorf("reading expert: %w", err)
	}
	return torch.Saved(head[:n]), nil
}

// ReadReference reads an expert that the paper's reference implementation saved, for
// a decomposition of the model that it was trained for. Its z is the effective one:
// Σσ/Σ(σ⊙ẑ)·ẑ of this decomposition's σ, where ẑ = sigmoid(p), or Σₖ αₖ·sigmoid(pₖ)
// of a combination. Of the manifest, the digests are set. What is malformed is
// contract.ReasonInvalidExpert, what is of another model
// contract.ReasonDecompositionMismatch.
func ReadReference(path string, d *Decomposition) (_ Adapter, err error) {
	f, err := os.Open(path)
	if err != nil {
		return Adapter{}, fmt.Errorf("reading expert: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	stat, err := f.Stat()
	if err != nil {
		return Adapter{}, fmt.Errorf("reading expert: %w", err)
	}
	return ParseReference(f, stat.Size(), path, d)
}

// ParseReference is ReadReference of size bytes that name names in errors.
func ParseReference(r io.ReaderAt, size int64, name string, d *Decomposition) (Adapter, error) {
	saved, err := torch.Read(r, size, name)
	if err != nil {
		return Adapter{}, failure.Content(contract.ReasonInvalidExpert, err)
	}
	v, err := referenceVector(saved, d)
	if err != nil {
		// What is classified already keeps its reason within.
		return Adapter{}, failure.Content(contract.ReasonInvalidExpert, fmt.Errorf("%s: %w", name, err))
	}
	return v, nil
}

func referenceVector(saved []torch.Named, d *Decomposition) (Adapter, error) {
	masks, err := referenceMasks(saved, d)
	if err != nil {
		return Adapter{}, err
	}
	v := Adapter{Method: SVF, Z: make(map[string][]float32, len(masks))}
	v.Manifest.BaseDigest, v.Manifest.DecompositionDigest = d.Manifest().BaseDigest, d.Manifest().Digest
	for name, mask := range masks {
		rank := d.Rank(name)
		if rank == 0 {
			return Adapter{}, failure.Permanentf(contract.ReasonDecompositionMismatch,
				"it scales %s, which the decomposition has not: decompose %s of the model that it was trained for", name, strings.Join(referenceModules, ", "))
		}
		if rank != len(mask) {
			return Adapter{}, failure.Permanentf(contract.ReasonDecompositionMismatch,
				"it scales %s by %d numbers, which has %d singular values: it was trained for another model", name, len(mask), rank)
		}
		sigma, err := d.Sigma(name)
		if err != nil {
			return Adapter{}, err
		}
		if v.Z[name], err = keepSum(sigma, mask); err != nil {
			return Adapter{}, fmt.Errorf("%s: %w", name, err)
		}
	}
	return v, nil
}

// referenceMasks returns ẑ of each matrix, whichever of the reference's files this is.
func referenceMasks(saved []torch.Named, d *Decomposition) (map[string][]float64, error) {
	for _, n := range saved {
		for i, x := range n.Tensor.Data {
			if math.IsNaN(float64(x)) || math.IsInf(float64(x), 0) {
				return nil, fmt.Errorf("%q: element %d is %v: the training diverged or the file is damaged", n.Name, i, x)
			}
		}
		if n.Name == referenceWeights {
			return combinedMasks(saved)
		}
		if len(n.Tensor.Shape) != 1 {
			return nil, fmt.Errorf("%q has shape %v; the reference implementation saves a vector for each matrix", n.Name, n.Tensor.Shape)
		}
	}
	switch {
	case len(saved) == 0:
		return nil, errors.New("scales no matrix")
	case strings.HasPrefix(saved[0].Name, referenceList):
		return listedMasks(saved, d)
	}
	masks := make(map[string][]float64, len(saved))
	for _, n := range saved {
		name, ok := strings.CutSuffix(n.Name, ".weight")
		if !ok {
			return nil, fmt.Errorf("has %q: it is neither an expert of the reference implementation nor a combination of some", n.Name)
		}
		masks[name] = sigmoid(n.Tensor.Data)
	}
	return masks, nil
}

// listedMasks names the parameters of a Policy's state_dict, which are in the order of
// the model's modules: layer by layer gate, up and down.
func listedMasks(saved []torch.Named, d *Decomposition) (map[string][]float64, error) {
	matrices, err := d.Select(referenceModules)
	if err != nil || len(matrices) != len(saved) {
		return nil, failure.Permanentf(contract.ReasonDecompositionMismatch,
			"it scales %d matrices without naming them, so that %s of every layer must be decomposed; decomposition %s has %d of these",
			len(saved), strings.Join(referenceModules, ", "), d.Manifest().Digest, len(matrices))
	}
	masks := make(map[string][]float64, len(saved))
	for _, n := range saved {
		i, err := strconv.Atoi(strings.TrimPrefix(n.Name, referenceList))
		if err != nil || i < 0 || i >= len(matrices) || masks[matrices[i]] != nil {
			return nil, fmt.Errorf("has %q among %d parameters", n.Name, len(saved))
		}
		masks[matrices[i]] = sigmoid(n.Tensor.Data)
	}
	return masks, nil
}

// combinedMasks returns Σₖ αₖ·ẑₖ of the state_dict of a WeightedCombination: α has the
// shape [experts, 1], or [experts, matrices] if each matrix has its own, in the order
// of the file. Whether the reference normalised α does not matter, since composing
// keeps the sum of the singular values.
func combinedMasks(saved []torch.Named) (map[string][]float64, error) {
	var alpha torch.Named
	experts := map[int][]torch.Named{}
	var order []string
	for _, n := range saved {
		if n.Name == referenceWeights {
			alpha = n
			continue
		}
		m := referenceMask.FindStringSubmatch(n.Name)
		if m == nil || len(n.Tensor.Shape) != 1 {
			return nil, fmt.Errorf("has %q of shape %v, which no combination of experts has", n.Name, n.Tensor.Shape)
		}
		k, err := strconv.Atoi(m[1])
		if err != nil || k >= maxCombined {
			return nil, fmt.Errorf("has %q: at most %d experts are read", n.Name, maxCombined)
		}
		n.Name = fmt.Sprintf("model.layers.%s.mlp.%s_proj", m[2], m[3])
		experts[k] = append(experts[k], n)
		if k == 0 {
			order = append(order, n.Name)
		}
	}
	shape := alpha.Tensor.Shape
	if len(shape) != 2 || shape[0] != len(experts) || shape[0] == 0 || shape[1] != 1 && shape[1] != len(order) {
		return nil, fmt.Errorf("has weights of shape %v for %d experts of %d matrices", shape, len(experts), len(order))
	}
	masks := make(map[string][]float64, len(order))
	for k := range shape[0] {
		weights := alpha.Tensor.Row(k)
		if len(experts[k]) != len(order) {
			return nil, fmt.Errorf("expert %d scales %d matrices, the first %d", k, len(experts[k]), len(order))
		}
		for i, n := range experts[k] {
			a := float64(weights[min(i, len(weights)-1)])
			if n.Name != order[i] || masks[n.Name] != nil && len(masks[n.Name]) != len(n.Tensor.Data) {
				return nil, fmt.Errorf("expert %d scales %s by %d numbers, unlike the first", k, n.Name, len(n.Tensor.Data))
			}
			if masks[n.Name] == nil {
				masks[n.Name] = make([]float64, len(n.Tensor.Data))
			}
			for j, x := range n.Tensor.Data {
				masks[n.Name][j] += a * float64(x)
			}
		}
	}
	return masks, nil
}

func sigmoid(p []float32) []float64 {
	z := make([]float64, len(p))
	for i, x := range p {
		z[i] = 1 / (1 + math.Exp(-float64(x)))
	}
	return z
}

// keepSum returns c·mask with c = Σσ/Σ(σ⊙mask), which keeps the sum of the singular
// values; that of a zero matrix is kept by any mask.
func keepSum(sigma []float32, mask []float64) ([]float32, error) {
	total, weighted := 0.0, 0.0
	for i, s := range sigma {
		total += float64(s)
		weighted += float64(s) * mask[i]
	}
	c := 1.0
	if total > 0 {
		c = total / weighted
	}
	z := make([]float32, len(mask))
	for i := range z {
		z[i] = float32(c * mask[i])
		if x := float64(z[i]); math.IsNaN(x) || math.IsInf(x, 0) {
			return nil, fmt.Errorf("the sum of its scaled singular values is %v: the weights of the combination cancel each other", weighted)
		}
	}
	return z, nil
}
