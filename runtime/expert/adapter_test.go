package expert_test

import (
	"io"
	"maps"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/transformersquared/operator/runtime/checkpoint"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/expert"
	"github.com/transformersquared/operator/runtime/failure"
	"github.com/transformersquared/operator/runtime/model"
	"github.com/transformersquared/operator/runtime/tensor"
)

// vectorFor returns an expert that scales every matrix of d.
func vectorFor(d *expert.Decomposition, by float32) expert.Adapter {
	v := expert.Adapter{
		Method: expert.SVF,
		Manifest: contract.ExpertManifest{
			BaseDigest: d.Manifest().BaseDigest, DecompositionDigest: d.Manifest().Digest, Skill: "math", BaselineScore: 0.25, Score: 0.5,
		},
		Z: map[string][]float32{},
	}
	for _, name := range d.Matrices() {
		z := make([]float32, d.Rank(name))
		for i := range z {
			z[i] = 1 + by*float32(i%3-1)
		}
		v.Z[name] = z
	}
	return v
}

func TestExpertsSurvivePublishing(t *testing.T) {
	ck, digest := tiny(t, 1)
	d, root := decomposed(t, ck, spec(digest))
	v := vectorFor(d, 0.1)
	m, err := expert.Write(root, v, map[string]func(io.Writer) error{
		"metrics.jsonl": func(w io.Writer) error { _, err := io.WriteString(w, "{}\n"); return err },
	})
	if err != nil {
		t.Fatal(err)
	}
	dir := artifactDir(t, root, contract.DirExperts, m.Digest)
	if diff := cmp.Diff([]string{"expert.safetensors", "metrics.jsonl", contract.ManifestFile}, list(t, dir)); diff != "" {
		t.Errorf("files -want +got\n%s", diff)
	}
	got, err := expert.Read(dir)
	if err != nil {
		t.Fatal(err)
	}
	v.Manifest = m
	if diff := cmp.Diff(v, got); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	if err := got.Fits(d); err != nil {
		t.Error(err)
	}
	// The file alone says what it is, too.
	bare, err := expert.Read(filepath.Join(dir, expert.File))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(v.Z, bare.Z); diff != "" {
		t.Errorf("z -want +got\n%s", diff)
	}
	if b := bare.Manifest; b.Skill != "math" || b.BaselineScore != 0.25 || b.Score != 0.5 || len(b.Files) != 1 || b.Digest == m.Digest {
		t.Errorf("manifest of the file alone: %+v", b)
	}
	// The same expert again is the same artifact.
	again, err := expert.Write(root, v, map[string]func(io.Writer) error{
		"metrics.jsonl": func(w io.Writer) error { _, err := io.WriteString(w, "{}\n"); return err },
	})
	if err != nil || again.Digest != m.Digest {
		t.Errorf("digest %s, then %s (%v)", m.Digest, again.Digest, err)
	}
	if names := list(t, filepath.Join(root, contract.DirExperts)); len(names) != 1 {
		t.Errorf("folders %v", names)
	}
}

func TestAFailedPublishLeavesNothing(t *testing.T) {
	ck, digest := tiny(t, 1)
	d, root := decomposed(t, ck, spec(digest))
	v := vectorFor(d, 0.1)
	for name, extra := range map[string]map[string]func(io.Writer) error{
		"a file that cannot be written": {"a": func(io.Writer) error { return io.ErrClosedPipe }},
		"a name that leads out":         {"../a": func(io.Writer) error { return nil }},
		"the manifest's name":           {contract.ManifestFile: func(io.Writer) error { return nil }},
	} {
		if _, err := expert.Write(root, v, extra); err == nil {
			t.Errorf("%s: published", name)
		}
		if names := list(t, filepath.Join(root, contract.DirExperts)); len(names) != 0 {
			t.Errorf("%s: left %v", name, names)
		}
	}
}

func TestDamagedAndForeignFilesAreNoExperts(t *testing.T) {
	ck, digest := tiny(t, 1)
	d, root := decomposed(t, ck, spec(digest))
	m, err := expert.Write(root, vectorFor(d, 0.1), nil)
	if err != nil {
		t.Fatal(err)
	}
	dir := artifactDir(t, root, contract.DirExperts, m.Digest)
	flip(t, filepath.Join(dir, expert.File))
	_, err = expert.Read(dir)
	if reason, permanent := failure.Of(err); reason != contract.ReasonDigestMismatch || !permanent {
		t.Errorf("a flipped bit is %s, %v: %v", reason, permanent, err)
	}

	good := map[string]string{
		"format": "t2-expert/1", "method": "SVF", "skill": "math", "baseDigest": digest, "decompositionDigest": digest,
	}
	vector := map[string]*tensor.Tensor{"model.layers.0.mlp.up_proj": {Shape: []int{2}, Data: []float32{1, 1}}}
	for _, c := range []struct {
		name    string
		meta    map[string]string
		tensors map[string]*tensor.Tensor
		dtype   tensor.DType
		want    string
	}{
		{"weights of a model", map[string]string{"format": "pt"}, vector, tensor.F32, `format "pt"`},
		{"a later version", map[string]string{"format": "t2-expert/3"}, vector, tensor.F32, "another version"},
		{"another method", map[string]string{"method": "VeRA"}, vector, tensor.F32, "VeRA"},
		{"scales of another method", map[string]string{"method": "LoRA"}, vector, tensor.F32, "no part of an expert of method LoRA"},
		{"no base", map[string]string{"baseDigest": ""}, vector, tensor.F32, "baseDigest"},
		{"a decomposition that is a path", map[string]string{"decompositionDigest": "../.."}, vector, tensor.F32, "decompositionDigest"},
		{"an endless skill", map[string]string{"skill": strings.Repeat("x", 1000)}, vector, tensor.F32, "skill"},
		{"a score beyond one", map[string]string{"score": "2"}, vector, tensor.F32, "score"},
		{"a score that is no number", map[string]string{"score": "NaN"}, vector, tensor.F32, "score"},
		{"no matrices", nil, map[string]*tensor.Tensor{}, tensor.F32, "no matrix"},
		{"matrices", nil, map[string]*tensor.Tensor{"x": tensor.New(2, 2)}, tensor.F32, "one dimension"},
		{"half precision", nil, vector, tensor.F16, "F16"},
	} {
		t.Run(c.name, func(t *testing.T) {
			meta := map[string]string{}
			maps.Copy(meta, good)
			maps.Copy(meta, c.meta)
			path := filepath.Join(t.TempDir(), "e.safetensors")
			if err := checkpoint.WriteSafetensors(path, c.tensors, c.dtype, meta); err != nil {
				t.Fatal(err)
			}
			_, err := expert.Read(path)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
			if reason, permanent := failure.Of(err); reason != contract.ReasonInvalidExpert || !permanent {
				t.Errorf("classified as %s, %v", reason, permanent)
			}
		})
	}
}

func TestAnExpertOfAnotherDecompositionSaysWhichTwoDiffer(t *testing.T) {
	ck, digest := tiny(t, 1)
	d, _ := decomposed(t, ck, spec(digest))
	some := spec(digest)
	some.Modules = []string{"up_proj"}
	mlp, _ := decomposed(t, ck, some)
	other, otherDigest := tiny(t, 2)
	foreign, _ := decomposed(t, other, spec(otherDigest))

	short := vectorFor(d, 0)
	short.Z[d.Matrices()[0]] = []float32{1}
	extra := vectorFor(mlp, 0)
	extra.Z["model.layers.0.self_attn.q_proj"] = []float32{1}
	for _, c := range []struct {
		name   string
		vector expert.Adapter
		onto   *expert.Decomposition
		want   []string
	}{
		{"of another base", vectorFor(foreign, 0), d, []string{"base model", digest, otherDigest}},
		{"of other modules", vectorFor(mlp, 0), d, []string{"decomposition", d.Manifest().Digest, mlp.Manifest().Digest}},
		{"too short", short, d, []string{d.Matrices()[0], "by 1 numbers"}},
		{"with a matrix that is not decomposed", extra, mlp, []string{"self_attn.q_proj", "has not"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := c.vector.Fits(c.onto)
			for _, want := range c.want {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("got %v, want %q", err, want)
				}
			}
			if reason, permanent := failure.Of(err); reason != contract.ReasonDecompositionMismatch || !permanent {
				t.Errorf("classified as %s, %v", reason, permanent)
			}
		})
	}
}

func TestMixing(t *testing.T) {
	of := func(decomposition string, z map[string][]float32) expert.Adapter {
		return expert.Adapter{Manifest: contract.ExpertManifest{DecompositionDigest: decomposition}, Z: z}
	}
	a := of("d", map[string][]float32{"x": {1.5, 0.5}, "y": {2}})
	b := of("d", map[string][]float32{"x": {0.5, 1}})
	for _, c := range []struct {
		name string
		mix  []expert.Weighted
		want map[string][]float32
	}{
		{"nothing", nil, map[string][]float32{}},
		{"one expert alone is itself", []expert.Weighted{{Adapter: a, Alpha: 1}}, a.Z},
		{"halves; what one does not scale it leaves at one", []expert.Weighted{{Adapter: a, Alpha: 0.5}, {Adapter: b, Alpha: 0.5}}, map[string][]float32{"x": {1, 0.75}, "y": {1.5}}},
		{"the base's share", []expert.Weighted{{Adapter: a, Alpha: 0.25}, {Adapter: expert.Identity(), Alpha: 0.75}}, map[string][]float32{"x": {1.125, 0.875}, "y": {1.25}}},
		{"a share of nothing changes nothing", []expert.Weighted{{Adapter: a, Alpha: 0}, {Adapter: b, Alpha: 1}}, map[string][]float32{"x": {0.5, 1}, "y": {1}}},
	} {
		got, err := expert.Mix(c.mix)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(scaled(c.want), got); diff != "" {
			t.Errorf("%s: -want +got\n%s", c.name, diff)
		}
	}
	for name, mix := range map[string][]expert.Weighted{
		"of two decompositions": {{Adapter: a, Alpha: 0.5}, {Adapter: of("e", a.Z), Alpha: 0.5}},
		"of two lengths":        {{Adapter: a, Alpha: 0.5}, {Adapter: of("d", map[string][]float32{"x": {1}}), Alpha: 0.5}},
	} {
		if _, err := expert.Mix(mix); err == nil {
			t.Errorf("%s: mixed", name)
		}
	}
}

// lowRank is an adapter of one matrix [2, 3].
func lowRank(method expert.Method, digest string, scale float32) expert.Adapter {
	a := expert.Adapter{
		Method: method, Manifest: contract.ExpertManifest{Digest: digest},
		Low: map[string]expert.LowRank{"x": {LowRank: model.LowRank{
			A: &tensor.Tensor{Shape: []int{1, 3}, Data: []float32{1, 2, 3}}, B: &tensor.Tensor{Shape: []int{2, 1}, Data: []float32{1, -1}}, Scale: scale,
		}}},
	}
	if method == expert.DoRA {
		low := a.Low["x"]
		low.Magnitude = []float32{5, 6}
		a.Low["x"], a.Out = low, map[string][]float32{"x": {2, 3}}
	}
	return a
}

func TestEveryMethodMixes(t *testing.T) {
	gains := expert.Adapter{Method: expert.IA3, Manifest: contract.ExpertManifest{Digest: "g"}, In: map[string][]float32{"y": {3}}, Out: map[string][]float32{"x": {2, 1}}}
	svf := expert.Adapter{Method: expert.SVF, Manifest: contract.ExpertManifest{Digest: "s"}, Z: map[string][]float32{"x": {3, 1}, "z": {2}}}
	lora, dora := lowRank(expert.LoRA, "l", 0.5), lowRank(expert.DoRA, "d", 0.5)
	mix := func(parts ...expert.Weighted) (map[string]expert.Mixed, error) { return expert.Mix(parts) }
	got, err := mix(expert.Weighted{Adapter: lora, Alpha: 0.5}, expert.Weighted{Adapter: dora, Alpha: 0.25}, expert.Weighted{Adapter: gains, Alpha: 2})
	if err != nil {
		t.Fatal(err)
	}
	// 1 + 0.25·(2 − 1) + 2·(2 − 1), and 1 + 0.25·(3 − 1).
	if diff := cmp.Diff([]float32{3.25, 1.5}, got["x"].Out); diff != "" {
		t.Errorf("outputs: -want +got\n%s", diff)
	}
	if diff := cmp.Diff([]float32{5}, got["y"].In); diff != "" {
		t.Errorf("inputs: -want +got\n%s", diff)
	}
	branch, err := got["x"].Branch([]string{"d", "other", "l"})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]float32{0.25, 0, 0.5}, branch.Low); diff != "" {
		t.Errorf("shares in low-rank pairs: -want +got\n%s", diff)
	}
	// The scale, and of DoRA the gains, are in B.
	if diff := cmp.Diff([]float32{1, -1.5}, dora.Pair("x").B.Data); diff != "" {
		t.Errorf("the pair of DoRA: -want +got\n%s", diff)
	}
	if _, err := got["x"].Branch([]string{"d"}); err == nil {
		t.Error("a share of a pair that is not loaded was left out")
	}
	if _, err := mix(expert.Weighted{Adapter: svf, Alpha: 0.75}, expert.Weighted{Adapter: lora, Alpha: 0.25}); err != nil {
		t.Errorf("SVF beside LoRA, with weights of 1: %v", err)
	}
	for what, parts := range map[string][]expert.Weighted{
		"add up to":     {{Adapter: svf, Alpha: 1}, {Adapter: lora, Alpha: 1}},
		"more than one": {{Adapter: svf, Alpha: 0.5}, {Adapter: gains, Alpha: 0.5}},
		"base model":    {{Adapter: svf, Alpha: 1}, {Adapter: expert.Adapter{Z: svf.Z, Manifest: contract.ExpertManifest{BaseDigest: "b"}}, Alpha: 0}},
	} {
		if _, err := expert.Mix(parts); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("got %v, want %q", err, what)
		}
	}
}

func TestEveryMethodSurvivesItsFile(t *testing.T) {
	digest := contract.DigestPrefix + strings.Repeat("0", 64)
	gains := expert.Adapter{Method: expert.IA3, Low: map[string]expert.LowRank{}, In: map[string][]float32{"y": {3}}, Out: map[string][]float32{"x": {2, 1}}}
	for _, want := range []expert.Adapter{lowRank(expert.LoRA, "", 0.5), lowRank(expert.DoRA, "", 2), gains} {
		t.Run(string(want.Method), func(t *testing.T) {
			want.Manifest = contract.ExpertManifest{BaseDigest: digest, DecompositionDigest: digest, Skill: "s"}
			path := filepath.Join(t.TempDir(), expert.File)
			if err := expert.WriteFile(path, want); err != nil {
				t.Fatal(err)
			}
			got, err := expert.Read(path)
			if err != nil {
				t.Fatal(err)
			}
			got.Manifest = want.Manifest
			if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		})
	}
}

func TestWhatIsNoLowRankExpertIsRefused(t *testing.T) {
	digest := contract.DigestPrefix + strings.Repeat("0", 64)
	matrix := func(rows, columns int) *tensor.Tensor { return tensor.New(rows, columns) }
	row := func(values ...float32) *tensor.Tensor { return &tensor.Tensor{Shape: []int{len(values)}, Data: values} }
	for want, tensors := range map[string]map[string]*tensor.Tensor{
		"missing":        {"x.lora_A": matrix(1, 2), "x.scale": row(1)},
		"no product":     {"x.lora_A": matrix(1, 2), "x.lora_B": matrix(2, 3), "x.scale": row(1)},
		"two dimensions": {"x.lora_A": row(1)},
		"a scale is one": {"x.lora_A": matrix(1, 2), "x.lora_B": matrix(2, 1), "x.scale": row(1, 2)},
		"no part":        {"x.magnitude": row(1)},
		"adapts no":      {},
	} {
		path := filepath.Join(t.TempDir(), expert.File)
		meta := map[string]string{"format": "t2-expert/1", "method": "LoRA", "baseDigest": digest, "decompositionDigest": digest}
		if err := checkpoint.WriteSafetensors(path, tensors, tensor.F32, meta); err != nil {
			t.Fatal(err)
		}
		if _, err := expert.Read(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

func TestStatisticsTellHowFarAnExpertIsFromTheBase(t *testing.T) {
	v := expert.Adapter{Z: map[string][]float32{
		"model.layers.0.mlp.up_proj": {1, 2}, "model.layers.1.mlp.up_proj": {0, 1}, "model.layers.0.self_attn.q_proj": {1},
	}}
	want := []expert.ModuleStatistics{
		{Module: "q_proj", Matrices: 1, Values: 1, Min: 1, Mean: 1, Max: 1},
		{Module: "up_proj", Matrices: 2, Values: 4, Min: 0, Mean: 1, Max: 2, Deviation: 0.7071067811865476},
	}
	if diff := cmp.Diff(want, v.Statistics()); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}
