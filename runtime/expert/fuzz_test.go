package expert

import (
	"bytes"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/transformersquared/operator/runtime/checkpoint"
	"github.com/transformersquared/operator/runtime/checkpoint/torch"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/tensor"
)

// FuzzVector: a file is no expert, or one whose every z is finite, not empty,
// and of valid digests.
func FuzzVector(f *testing.F) {
	zero := "sha256:" + strings.Repeat("0", 64)
	path := filepath.Join(f.TempDir(), "e.safetensors")
	if err := WriteFile(path, Adapter{
		Manifest: contract.ExpertManifest{BaseDigest: zero, DecompositionDigest: zero, Skill: "math"}, Z: map[string][]float32{"w": {1, 2}},
	}); err != nil {
		f.Fatal(err)
	}
	seed, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	f.Add(seed[:len(seed)-1])
	f.Fuzz(func(t *testing.T, b []byte) {
		file, err := checkpoint.Read(bytes.NewReader(b), int64(len(b)), "fuzz")
		if err != nil {
			return
		}
		v, err := from(file)
		if err != nil {
			return
		}
		if !contract.ValidDigest(v.Manifest.BaseDigest) || !contract.ValidDigest(v.Manifest.DecompositionDigest) || len(v.Z) == 0 {
			t.Fatalf("accepted %+v", v.Manifest)
		}
		for name, z := range v.Z {
			for _, x := range z {
				if x-x != 0 {
					t.Fatalf("z of %s has %v", name, x)
				}
			}
			if len(z) == 0 {
				t.Fatalf("z of %s is empty", name)
			}
		}
	})
}

// FuzzReference: tensors of any names, lengths and values are no expert of the
// reference implementation, or one that fits the decomposition and is finite. Of each
// tensor, a byte says its length, or the columns of the weights of a combination, and
// another its values.
func FuzzReference(f *testing.F) {
	d := goldenDecomposition(f)
	const up = "model.layers.0.mlp.up_proj.weight"
	f.Add(up, []byte{20, 3})
	f.Add(strings.ReplaceAll("L0\nL1\nL2\nL3\nL4\nL5", "L", referenceList), bytes.Repeat([]byte{20, 200}, 6))
	f.Add("adaptive_weights\nweights_0_k_model_layers_0_mlp_up_proj_weight\nweights_1_k_model_layers_0_mlp_up_proj_weight", []byte{1, 70, 20, 90, 20, 30})
	f.Fuzz(func(t *testing.T, names string, bytes []byte) {
		var saved []torch.Named
		for i, name := range strings.Split(names, "\n") {
			if 2*i+1 >= len(bytes) {
				break
			}
			n := torch.Named{Name: name, DType: tensor.F32, Tensor: tensor.New(int(bytes[2*i] % 64))}
			if name == referenceWeights {
				n.Tensor = tensor.New(strings.Count(names, "up_proj"), int(bytes[2*i]%64))
			}
			for j := range n.Tensor.Data {
				// 200 is about zero, 255 infinite.
				n.Tensor.Data[j] = float32(math.Tan(float64(int(bytes[2*i+1])-200)/110*math.Pi)) + float32(j)/8
			}
			saved = append(saved, n)
		}
		v, err := referenceVector(saved, d)
		if err != nil {
			return
		}
		if err := v.Fits(d); err != nil {
			t.Fatal(err)
		}
		for name, z := range v.Z {
			for _, x := range z {
				if x-x != 0 {
					t.Fatalf("z of %s has %v", name, x)
				}
			}
		}
	})
}

// goldenDecomposition decomposes a golden model of runtime/model.
func goldenDecomposition(tb testing.TB) *Decomposition {
	tb.Helper()
	ck, err := checkpoint.OpenDir("../model/testdata/llama")
	if err != nil {
		tb.Fatal(err)
	}
	defer func() { _ = ck.Close() }()
	root := tb.TempDir()
	m, err := Decompose(tb.Context(), ck, root, contract.DecomposeSpec{
		BaseDigest: contract.DigestPrefix + strings.Repeat("1", 64), Modules: Modules(), DType: contract.DTypeF32,
	}, nil, nil)
	if err != nil {
		tb.Fatal(err)
	}
	dir, err := contract.ArtifactDir(root, contract.DirDecompositions, m.Digest)
	if err != nil {
		tb.Fatal(err)
	}
	d, err := OpenDecomposition(dir)
	if err != nil {
		tb.Fatal(err)
	}
	d.Keep()
	return d
}
