package cli_test

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/transformersquared/operator/runtime/checkpoint"
	"github.com/transformersquared/operator/runtime/checkpoint/checkpointtest"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/expert"
	"github.com/transformersquared/operator/runtime/peft"
	"github.com/transformersquared/operator/runtime/tensor"
)

// TestAnExportedModelAnswersAsTheMixtureDoes exports a mixture and asks both.
func TestAnExportedModelAnswersAsTheMixtureDoes(t *testing.T) {
	base, data := t.TempDir(), t.TempDir()
	checkpointtest.Write(t, base, checkpointtest.Tiny())
	m, err := checkpoint.BuildManifest(base)
	if err != nil {
		t.Fatal(err)
	}
	ck, err := checkpoint.OpenDir(base)
	if err != nil {
		t.Fatal(err)
	}
	d, err := expert.Decompose(t.Context(), ck, data, contract.DecomposeSpec{BaseDigest: m.Digest, Modules: expert.Modules(), DType: contract.DTypeF32}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := ck.Close(); err != nil {
		t.Fatal(err)
	}
	file, digest := randomExpert(t, data, &d)
	mixture := []string{"--decomposition", filepath.Join(data, contract.DirDecompositions, "sha256-"+strings.TrimPrefix(d.Digest, contract.DigestPrefix)), "--expert", file + ":0.7"}
	out := filepath.Join(t.TempDir(), "out")
	export := append([]string{"export", "--model", base, "--out", out, "--json"}, mixture...)
	o := t2(t, nil, "", export...)
	var result contract.Termination
	if err := json.Unmarshal([]byte(o.stdout), &result); o.code != contract.ExitOK || err != nil || result.Model == nil {
		t.Fatalf("status %d, %s%s", o.code, o.stdout, o.stderr)
	}
	if got, err := checkpoint.BuildManifest(out); err != nil || got.Digest != result.Model.Digest || got.Digest == m.Digest {
		t.Errorf("result %+v, exported %s (%v)", result.Model, got.Digest, err)
	}
	generate := []string{"generate", "--prompt", "2+3=", "--max-tokens", "24", "--json", "--model"}
	served, exported, plain := t2(t, nil, "", append(append(generate, base), mixture...)...), t2(t, nil, "", append(generate, out)...), t2(t, nil, "", append(generate, base)...)
	if served.code != 0 || served.stdout != exported.stdout {
		t.Errorf("the mixture answers %s, the exported model %s", served.stdout, exported.stdout)
	}
	if plain.stdout == exported.stdout {
		t.Error("the expert changes no answer: the test shows nothing")
	}
	f, err := checkpoint.Open(filepath.Join(out, checkpoint.WeightsFile))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"format": "pt", "t2.base": m.Digest, "t2.decomposition": d.Digest,
		"t2.experts": `[{"digest":"` + digest + `","skill":"math","weight":0.7}]`,
	}
	if diff := cmp.Diff(want, f.Metadata()); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}

	if o := t2(t, nil, "", export...); o.code != contract.ExitUsage || !strings.Contains(o.stderr, "there already") {
		t.Errorf("a second time: status %d, %s", o.code, o.stderr)
	}
	other := t.TempDir()
	shape := checkpointtest.Tiny()
	shape.Seed++
	checkpointtest.Write(t, other, shape)
	o = t2(t, nil, "", append([]string{"export", "--model", other, "--out", filepath.Join(t.TempDir(), "out")}, mixture...)...)
	if o.code != contract.ExitFailed || !strings.Contains(o.stderr, m.Digest) {
		t.Errorf("from another base: status %d, %s", o.code, o.stderr)
	}
}

// withTokenizer copies a golden model, which has no tokenizer, and gives it one.
func withTokenizer(t *testing.T, name string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(filepath.Join("..", "model", "testdata", name))); err != nil {
		t.Fatal(err)
	}
	checkpointtest.WriteTokenizer(t, dir)
	return dir
}

// TestAdaptersAreMergedAsPEFTMergesThem exports the adapters of hack/golden/peft.py.
func TestAdaptersAreMergedAsPEFTMergesThem(t *testing.T) {
	base := withTokenizer(t, "llama")
	for _, name := range []string{"lora", "patterns", "dora", "ia3", "pickle"} {
		adapter, out := filepath.Join("..", "peft", "testdata", name), filepath.Join(t.TempDir(), "out")
		if o := t2(t, nil, "", "export", "--model", base, "--adapter", adapter, "--out", out); o.code != contract.ExitOK {
			t.Errorf("%s: status %d, %s", name, o.code, o.stderr)
			continue
		}
		got, before, want := tensors(t, filepath.Join(out, checkpoint.WeightsFile)), tensors(t, filepath.Join(base, checkpoint.WeightsFile)), tensors(t, filepath.Join(adapter, "merged.safetensors"))
		for tensorName, x := range got {
			w, changed := want[tensorName]
			if !changed {
				w = before[tensorName]
			}
			for i := range x.Data {
				if d := math.Abs(float64(x.Data[i] - w.Data[i])); d > 2e-7*max(1, math.Abs(float64(w.Data[i]))) || !changed && d != 0 {
					t.Fatalf("%s: %s[%d] is %v, want %v", name, tensorName, i, x.Data[i], w.Data[i])
				}
			}
		}
	}
	o := t2(t, nil, "", "export", "--model", withTokenizer(t, "mistral"), "--adapter", "../peft/testdata/lora", "--out", filepath.Join(t.TempDir(), "out"))
	if o.code != contract.ExitFailed || !strings.Contains(o.stderr, "of another model") {
		t.Errorf("of another model: status %d, %s", o.code, o.stderr)
	}
}

func tensors(t *testing.T, path string) map[string]*tensor.Tensor {
	t.Helper()
	f, err := checkpoint.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	all := map[string]*tensor.Tensor{}
	for _, name := range f.Names() {
		if all[name], err = f.Tensor(name); err != nil {
			t.Fatal(err)
		}
	}
	return all
}

func TestOtherPeoplesFilesAreInspected(t *testing.T) {
	llama, mistral := withTokenizer(t, "llama"), withTokenizer(t, "mistral")
	for name, c := range map[string]struct {
		args []string
		code int
		want []string
	}{
		"LoRA":             {[]string{"../peft/testdata/patterns"}, 0, []string{"LORA, as", "größe", "1 2 3", "6 matrices (down_proj, o_proj, up_proj)"}},
		"DoRA":             {[]string{"../peft/testdata/dora"}, 0, []string{"LORA (DoRA)", "2 matrices"}},
		"IA3 of this base": {[]string{"../peft/testdata/ia3", "--base", llama}, 0, []string{"IA3", "136 parameters", "yes"}},
		"of another base":  {[]string{"../peft/testdata/ia3", "--base", mistral}, contract.ExitFailed, []string{"no: ", "k_proj"}},
		"as JSON":          {[]string{"../peft/testdata/lora", "--json"}, 0, []string{`"type": "LORA"`, `"ranks": [`}},
		"of PyTorch":       {[]string{"../expert/testdata/reference/policy_params.pt"}, 0, []string{"6 tensors, 120 elements, BF16"}},
		"a whole module":   {[]string{"../checkpoint/torch/testdata/whole.pt"}, contract.ExitFailed, nil},
	} {
		o := t2(t, nil, "", append([]string{"inspect"}, c.args...)...)
		if o.code != c.code {
			t.Errorf("%s: status %d, %s", name, o.code, o.stderr)
		}
		for _, want := range c.want {
			if !strings.Contains(o.stdout, want) {
				t.Errorf("%s: %q is not in %s", name, want, o.stdout)
			}
		}
	}
}

func TestBiasesAreScaledWithTheOutputs(t *testing.T) {
	base := withTokenizer(t, "qwen2")
	const q = "model.layers.1.self_attn.q_proj"
	config, err := peft.NewIA3Config("", []string{"q_proj"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	vector := make([]float32, 16)
	for i := range vector {
		vector[i] = float32(i) / 8
	}
	adapter, out := t.TempDir(), filepath.Join(t.TempDir(), "out")
	if err := peft.Write(adapter, &peft.Adapter{Config: config, Matrices: map[string]peft.Matrix{q: {Vector: vector}}}); err != nil {
		t.Fatal(err)
	}
	if o := t2(t, nil, "", "export", "--model", base, "--adapter", adapter, "--out", out); o.code != contract.ExitOK {
		t.Fatalf("status %d, %s", o.code, o.stderr)
	}
	before, after := tensors(t, filepath.Join(base, checkpoint.WeightsFile)), tensors(t, filepath.Join(out, checkpoint.WeightsFile))
	want := slices.Clone(before[q+".bias"].Data)
	for i := range want {
		want[i] *= vector[i]
	}
	if !slices.Equal(want, after[q+".bias"].Data) || before[q+".weight"].Data[20]*vector[1] != after[q+".weight"].Data[20] {
		t.Errorf("bias %v, want %v", after[q+".bias"].Data, want)
	}
}

func TestExportIsAskedForWhatItNeeds(t *testing.T) {
	for name, args := range map[string][]string{
		"nothing":                {"export"},
		"no place":               {"export", "--model", "x", "--expert", "y"},
		"nothing to export":      {"export", "--model", "x", "--out", "y"},
		"experts and adapter":    {"export", "--model", "x", "--out", "y", "--expert", "a", "--adapter", "b"},
		"files of no bytes":      {"export", "--model", "x", "--out", "y", "--expert", "a", "--shard-bytes", "0"},
		"a backend not built":    {"export", "--model", withTokenizer(t, "llama"), "--out", "y", "--adapter", "../peft/testdata/lora", "--backend", "abacus"},
		"a model not there":      {"export", "--model", "/nonexistent", "--out", "y", "--adapter", "../peft/testdata/lora"},
		"an adapter not there":   {"export", "--model", withTokenizer(t, "llama"), "--out", "y", "--adapter", "/nonexistent"},
		"an expert that is else": {"export", "--model", withTokenizer(t, "llama"), "--out", "y", "--expert", "../peft/testdata/lora"},
	} {
		want := contract.ExitUsage
		if strings.Contains(name, "there") || strings.Contains(name, "else") {
			want = contract.ExitFailed
		}
		if o := t2(t, nil, "", args...); o.code != want || o.stderr == "" {
			t.Errorf("%s: status %d, %s", name, o.code, o.stderr)
		}
	}
	if _, err := os.Stat("y"); err == nil {
		t.Error("something was written")
	}
}
