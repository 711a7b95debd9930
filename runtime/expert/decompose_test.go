package expert_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/checkpoint"
	"github.com/transformersquared/operator/runtime/checkpoint/checkpointtest"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/expert"
	"github.com/transformersquared/operator/runtime/failure"
	"github.com/transformersquared/operator/runtime/svd"
)

// tiny writes a random model and opens it.
func tiny(t testing.TB, seed uint64) (*checkpoint.Checkpoint, string) {
	t.Helper()
	dir := t.TempDir()
	shape := checkpointtest.Tiny()
	shape.Seed = seed
	checkpointtest.Write(t, dir, shape)
	m, err := checkpoint.BuildManifest(dir)
	if err != nil {
		t.Fatal(err)
	}
	ck, err := checkpoint.OpenDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := ck.Close(); err != nil {
			t.Error(err)
		}
	})
	return ck, m.Digest
}

func spec(digest string) contract.DecomposeSpec {
	return contract.DecomposeSpec{BaseDigest: digest, Modules: expert.Modules(), DType: "F32"}
}

// decomposed decomposes a model into a fresh root.
func decomposed(t testing.TB, ck *checkpoint.Checkpoint, s contract.DecomposeSpec) (*expert.Decomposition, string) {
	t.Helper()
	root := t.TempDir()
	m, err := expert.Decompose(t.Context(), ck, root, s, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	d, err := expert.OpenDecomposition(artifactDir(t, root, contract.DirDecompositions, m.Digest))
	if err != nil {
		t.Fatal(err)
	}
	return d, root
}

func artifactDir(t testing.TB, root, kind, digest string) string {
	t.Helper()
	dir, err := contract.ArtifactDir(root, kind, digest)
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestADecompositionDescribesItself(t *testing.T) {
	ck, digest := tiny(t, 1)
	s := spec(digest)
	s.Modules = []string{"up_proj", "q_proj", "up_proj"} // Order and repetition do not matter.
	d, root := decomposed(t, ck, s)
	m := d.Manifest()
	if m.Matrices != 4 || m.SingularValues != 4*16 || m.BaseDigest != digest || m.MaxRelativeError > 1e-6 || m.MaxRelativeError <= 0 {
		t.Errorf("manifest %+v", m)
	}
	want := []string{"model.layers.0.self_attn.q_proj", "model.layers.0.mlp.up_proj", "model.layers.1.self_attn.q_proj", "model.layers.1.mlp.up_proj"}
	if diff := cmp.Diff(want, d.Matrices()); diff != "" {
		t.Errorf("matrices -want +got\n%s", diff)
	}
	if diff := cmp.Diff([]string{filepath.Base(artifactDir(t, root, "x", m.Digest))}, list(t, filepath.Join(root, contract.DirDecompositions))); diff != "" {
		t.Errorf("folders -want +got\n%s", diff)
	}
	f, err := d.Factors(t.Context(), want[1])
	if err != nil {
		t.Fatal(err)
	}
	if !f.U.HasShape(24, 16) || !f.Vt.HasShape(16, 16) || !slices.IsSortedFunc(f.S, func(a, b float32) int { return int(b*1e6 - a*1e6) }) {
		t.Errorf("factors of shapes %v, %v with σ %v", f.U.Shape, f.Vt.Shape, f.S)
	}
	mlp, err := d.Select([]string{"up_proj"})
	if err != nil || len(mlp) != 2 {
		t.Errorf("selected %v (%v)", mlp, err)
	}
	if _, err := d.Select([]string{"down_proj"}); err == nil {
		t.Error("a module that is not there was selected")
	}
	if _, err := d.Factors(t.Context(), "model.layers.0.mlp.down_proj"); err == nil {
		t.Error("factors that are not there were read")
	}
}

func list(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestAnInterruptedDecompositionGoesOn(t *testing.T) {
	ck, digest := tiny(t, 1)
	whole, _ := decomposed(t, ck, spec(digest))

	root := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	_, err := expert.Decompose(ctx, ck, root, spec(digest), nil, func(done, _ int) {
		if done == 5 {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
	if reason, permanent := failure.Of(err); reason != contract.ReasonInterrupted || permanent {
		t.Errorf("classified as %s, %v", reason, permanent)
	}
	work, err := filepath.Glob(filepath.Join(root, contract.DirDecompositions, ".work-*"))
	if err != nil || len(work) != 1 {
		t.Fatalf("work folders %v (%v)", work, err)
	}
	// Whatever was finished must be used, not made again: mark it.
	finished := list(t, work[0])
	if len(finished) < 5 || len(finished) > 13 {
		t.Fatalf("%d matrices were finished", len(finished))
	}
	inodes := map[string]os.FileInfo{}
	for _, name := range finished {
		info, err := os.Stat(filepath.Join(work[0], name))
		if err != nil {
			t.Fatal(err)
		}
		inodes[name] = info
	}
	m, err := expert.Decompose(t.Context(), ck, root, spec(digest), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(whole.Manifest(), m); diff != "" {
		t.Errorf("an interruption changed the result: -want +got\n%s", diff)
	}
	for name, before := range inodes {
		after, err := os.Stat(filepath.Join(artifactDir(t, root, contract.DirDecompositions, m.Digest), name))
		if err != nil {
			t.Fatal(err)
		}
		if !os.SameFile(before, after) {
			t.Errorf("%s was made again", name)
		}
	}
}

func TestAFinishedDecompositionIsVerifiedAndUsed(t *testing.T) {
	ck, digest := tiny(t, 1)
	d, root := decomposed(t, ck, spec(digest))
	calls := 0
	again, err := expert.Decompose(t.Context(), ck, root, spec(digest), nil, func(_, _ int) { calls++ })
	if err != nil || calls > 0 {
		t.Fatalf("%d matrices were made again (%v)", calls, err)
	}
	if diff := cmp.Diff(d.Manifest(), again); diff != "" {
		t.Error(diff)
	}
	// A damaged one is made again.
	path := filepath.Join(artifactDir(t, root, contract.DirDecompositions, again.Digest), again.Files[0].Path)
	flip(t, path)
	if _, err := d.Factors(t.Context(), d.Matrices()[0]); err == nil {
		// The first file by name need not be the first matrix; find it.
		for _, name := range d.Matrices() {
			if _, err = d.Factors(t.Context(), name); err != nil {
				break
			}
		}
		if err == nil {
			t.Error("damage was not noticed")
		}
	}
	repaired, err := expert.Decompose(t.Context(), ck, root, spec(digest), nil, func(_, _ int) { calls++ })
	if err != nil || calls == 0 {
		t.Fatalf("%d matrices were made (%v)", calls, err)
	}
	if diff := cmp.Diff(again, repaired); diff != "" {
		t.Error(diff)
	}
}

// flip changes the last byte of a file.
func flip(t *testing.T, path string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)-1] ^= 1
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestDifferentInputsGiveDifferentDecompositions(t *testing.T) {
	one, digestOne := tiny(t, 1)
	two, digestTwo := tiny(t, 2)
	seen := map[string]string{}
	for name, c := range map[string]struct {
		ck   *checkpoint.Checkpoint
		spec contract.DecomposeSpec
	}{
		"all modules":      {one, spec(digestOne)},
		"some modules":     {one, contract.DecomposeSpec{BaseDigest: digestOne, Modules: []string{"up_proj"}, DType: "F32"}},
		"another dtype":    {one, contract.DecomposeSpec{BaseDigest: digestOne, Modules: expert.Modules(), DType: "BF16"}},
		"another model":    {two, spec(digestTwo)},
		"another's digest": {one, spec(digestTwo)},
	} {
		d, _ := decomposed(t, c.ck, c.spec)
		if other, ok := seen[d.Manifest().Digest]; ok {
			t.Errorf("%q and %q have the same digest", name, other)
		}
		seen[d.Manifest().Digest] = name
	}
}

func TestWrongSpecificationsAreRefused(t *testing.T) {
	ck, digest := tiny(t, 1)
	for _, c := range []struct {
		name   string
		change func(*contract.DecomposeSpec)
		want   string
	}{
		{"no digest", func(s *contract.DecomposeSpec) { s.BaseDigest = "latest" }, "no digest"},
		{"no modules", func(s *contract.DecomposeSpec) { s.Modules = nil }, "no modules"},
		{"an unknown module", func(s *contract.DecomposeSpec) { s.Modules = []string{"up_proj", "x_proj"} }, `"x_proj"`},
		{"another dtype", func(s *contract.DecomposeSpec) { s.DType = "INT4" }, "INT4"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := spec(digest)
			c.change(&s)
			_, err := expert.Decompose(t.Context(), ck, t.TempDir(), s, nil, nil)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
			if reason, permanent := failure.Of(err); reason != contract.ReasonUsage || !permanent {
				t.Errorf("classified as %s, %v", reason, permanent)
			}
		})
	}
}

func TestAModelWithMissingMatricesIsRefusedAtOnce(t *testing.T) {
	dir := t.TempDir()
	shape := checkpointtest.Tiny()
	checkpointtest.Write(t, dir, shape)
	weights := checkpointtest.Weights(shape)
	delete(weights, "model.layers.0.mlp.up_proj.weight")
	weights["model.layers.1.self_attn.q_proj.weight"].Shape = []int{8, 32}
	if err := checkpoint.WriteSafetensors(filepath.Join(dir, checkpoint.WeightsFile), weights, "F32", nil); err != nil {
		t.Fatal(err)
	}
	ck, err := checkpoint.OpenDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ck.Close() }()
	_, err = expert.Decompose(t.Context(), ck, t.TempDir(), spec("sha256:"+strings.Repeat("0", 64)), nil, nil)
	for _, want := range []string{"layers.0.mlp.up_proj.weight is missing", "layers.1.self_attn.q_proj.weight has shape [8 32]"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

func TestAChangedManifestIsRefused(t *testing.T) {
	ck, digest := tiny(t, 1)
	d, root := decomposed(t, ck, spec(digest))
	dir := artifactDir(t, root, contract.DirDecompositions, d.Manifest().Digest)
	path := filepath.Join(dir, contract.ManifestFile)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	other := strings.Replace(string(b), digest, "sha256:"+strings.Repeat("0", 64), 1)
	if err := os.WriteFile(path, []byte(other), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := expert.OpenDecomposition(dir); err == nil || !strings.Contains(err.Error(), "changed") {
		t.Errorf("got %v", err)
	}
	if _, err := expert.OpenDecomposition(t.TempDir()); err == nil || !strings.Contains(err.Error(), "no decomposition") {
		t.Errorf("an empty folder: %v", err)
	}
}

// others is a device of another maker: it decomposes as package svd does, one matrix
// at a time, or fails.
type others struct {
	t    *testing.T
	busy atomic.Bool
	made int
	fail error
}

func (o *others) Decompose(ctx context.Context, w []float32, out, in int, kind backend.DType) (*backend.Factors, error) {
	if !o.busy.CompareAndSwap(false, true) {
		o.t.Error("two matrices at once")
	}
	defer o.busy.Store(false)
	if kind != backend.F32 {
		o.t.Errorf("factors of type %s were asked for", kind)
	}
	if o.made++; o.fail != nil && o.made > 2 {
		return nil, o.fail
	}
	f, err := svd.Factor(ctx, w, out, in, 1)
	if err != nil {
		return nil, err
	}
	e, err := f.RelativeError(ctx, w, out, in, 1)
	return &backend.Factors{U: f.U, S: f.S, Vt: f.Vt, RelativeError: e}, err
}

func TestADeviceDecomposes(t *testing.T) {
	ck, digest := tiny(t, 1)
	whole, _ := decomposed(t, ck, spec(digest))
	root := t.TempDir()
	broken := &others{t: t, fail: backend.ErrDeviceMemory}
	if _, err := expert.Decompose(t.Context(), ck, root, spec(digest), broken, nil); !errors.Is(err, backend.ErrDeviceMemory) {
		t.Fatalf("a device that fails: error %v", err)
	}
	sound := &others{t: t}
	m, err := expert.Decompose(t.Context(), ck, root, spec(digest), sound, nil)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(whole.Manifest(), m); diff != "" {
		t.Errorf("-processor +device\n%s", diff)
	}
	if want := m.Matrices - 2; sound.made != want {
		t.Errorf("%d matrices were made after two had been, of %d", sound.made, m.Matrices)
	}
}
