package expert_test

import (
	"bytes"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/transformersquared/operator/runtime/checkpoint"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/expert"
	"github.com/transformersquared/operator/runtime/failure"
)

// referenceDir has files as the reference implementation writes them, made by
// hack/golden/reference.py.
const referenceDir = "testdata/reference"

// llama decomposes modules of the golden model that the files are of.
func llama(t testing.TB, modules ...string) *expert.Decomposition {
	t.Helper()
	ck, err := checkpoint.OpenDir("../model/testdata/llama")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ck.Close() })
	d, _ := decomposed(t, ck, contract.DecomposeSpec{BaseDigest: "sha256:" + strings.Repeat("1", 64), Modules: modules, DType: contract.DTypeF32})
	return d
}

func TestExpertsOfTheReferenceComposeAsTheReferenceComposes(t *testing.T) {
	d := llama(t, "up_proj", "q_proj", "gate_proj", "down_proj")
	want, err := checkpoint.Open(filepath.Join(referenceDir, "composed.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = want.Close() }()
	for file, key := range map[string]string{"learnable_params.pt": "expert", "policy_params.pt": "expert", "combination.pt": "combination"} {
		v, err := expert.ReadReference(filepath.Join(referenceDir, file), d)
		if err != nil {
			t.Errorf("%s: %v", file, err)
			continue
		}
		if err := v.Fits(d); err != nil {
			t.Errorf("%s: %v", file, err)
		}
		if len(v.Z) != 6 {
			t.Errorf("%s: scales %d matrices", file, len(v.Z))
		}
		for name, z := range v.Z {
			w, err := want.Tensor(key + "/" + name + ".weight")
			if err != nil {
				t.Fatal(err)
			}
			f, err := d.Factors(t.Context(), name)
			if err != nil {
				t.Fatal(err)
			}
			for o := range w.Shape[0] {
				for i, wanted := range w.Row(o) {
					got := 0.0
					for r, u := range f.U.Row(o) {
						got += float64(u) * float64(f.S[r]) * float64(z[r]) * float64(f.Vt.Row(r)[i])
					}
					if math.Abs(got-float64(wanted)) > 2e-6 {
						t.Fatalf("%s: %s[%d][%d] is %v, want %v", file, name, o, i, got, wanted)
					}
				}
			}
		}
	}
}

func TestFilesThatAreNoExpertsOfThisModelAreRefused(t *testing.T) {
	whole, few := llama(t, "gate_proj", "up_proj", "down_proj"), llama(t, "up_proj")
	ck, digest := tiny(t, 1)
	other, _ := decomposed(t, ck, spec(digest))
	expertFile := filepath.Join(referenceDir, "learnable_params.pt")
	damaged := func(replace, with string) string {
		b, err := os.ReadFile(expertFile)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(t.TempDir(), "expert.pt")
		if err := os.WriteFile(path, bytes.ReplaceAll(b, []byte(replace), []byte(with)), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for name, c := range map[string]struct {
		path   string
		d      *expert.Decomposition
		reason string
		want   string
	}{
		"too few matrices, named":   {expertFile, few, contract.ReasonDecompositionMismatch, "decomposition has not"},
		"too few matrices, unnamed": {filepath.Join(referenceDir, "policy_params.pt"), few, contract.ReasonDecompositionMismatch, "6 matrices"},
		"another model":             {expertFile, other, contract.ReasonDecompositionMismatch, "singular values"},
		"no torch.save":             {filepath.Join(referenceDir, "composed.safetensors"), whole, contract.ReasonInvalidExpert, "torch.save"},
		"not an expert":             {"../checkpoint/torch/testdata/module.pt", whole, contract.ReasonInvalidExpert, "linear.weight"},
		"matrices":                  {"../checkpoint/torch/testdata/tensors.pt", whole, contract.ReasonInvalidExpert, "a vector for each matrix"},
		"a damaged storage":         {damaged("BFloat16Storage", "BFloat99Storage"), whole, contract.ReasonInvalidExpert, "checksum"},
	} {
		_, err := expert.ReadReference(c.path, c.d)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want an error that says %q", name, err, c.want)
		}
		if reason, permanent := failure.Of(err); reason != c.reason || !permanent {
			t.Errorf("%s: reason %s, permanent %v", name, reason, permanent)
		}
	}
	if _, err := expert.ReadReference(filepath.Join(t.TempDir(), "missing.pt"), whole); !failure.System(err) {
		t.Errorf("a file that is not there: %v", err)
	}
}
