package expert

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/transformersquared/operator/runtime/checkpoint"
	"github.com/transformersquared/operator/runtime/contract"
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
