package enginetest

import (
	"strings"
	"testing"

	"github.com/transformersquared/operator/runtime/checkpoint"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/expert"
)

// Decomposed opens a model's folder until the test ends, and decomposes all of it.
func Decomposed(t testing.TB, dir string) (*checkpoint.Checkpoint, *expert.Decomposition) {
	t.Helper()
	base, err := checkpoint.OpenDir(dir)
	check(t, err)
	t.Cleanup(func() { check(t, base.Close()) })
	root := t.TempDir()
	m, err := expert.Decompose(t.Context(), base, root, contract.DecomposeSpec{
		BaseDigest: contract.DigestPrefix + strings.Repeat("1", 64), Modules: expert.Modules(), DType: contract.DTypeF32,
	}, nil, nil)
	check(t, err)
	path, err := contract.ArtifactDir(root, contract.DirDecompositions, m.Digest)
	check(t, err)
	d, err := expert.OpenDecomposition(path)
	check(t, err)
	return base, d
}
