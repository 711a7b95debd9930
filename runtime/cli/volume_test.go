package cli_test

import (
	"encoding/json"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/transformersquared/operator/runtime/artifact"
	"github.com/transformersquared/operator/runtime/checkpoint"
	"github.com/transformersquared/operator/runtime/checkpoint/checkpointtest"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/expert"
)

// podOutcome is what a pod's container leaves behind.
type podOutcome struct {
	outcome
	termination contract.Termination
}

// pod runs t2 as the operator does: specification by environment, result by
// termination message.
func pod(t *testing.T, spec any, env map[string]string, args ...string) podOutcome {
	t.Helper()
	b, err := json.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	log := filepath.Join(t.TempDir(), "termination-log")
	variables := map[string]string{contract.EnvSpec: string(b), contract.EnvTerminationLog: log}
	maps.Copy(variables, env)
	o := podOutcome{outcome: t2(t, variables, "", args...)}
	b, err = os.ReadFile(log)
	if err != nil {
		t.Fatalf("no termination message: %v; %s", err, o.stderr)
	}
	if len(b) > contract.MaxTerminationBytes {
		t.Errorf("termination message has %d bytes", len(b))
	}
	if err := json.Unmarshal(b, &o.termination); err != nil {
		t.Fatalf("termination message %q: %v", b, err)
	}
	return o
}

// TestAVolumeIsFilledAsInACluster runs what the pods of a BaseModel and of an
// imported ExpertVector run, one after the other, on one volume.
func TestAVolumeIsFilledAsInACluster(t *testing.T) {
	origin, data, scratch := t.TempDir(), t.TempDir(), filepath.Join(t.TempDir(), contract.FetchedFile)
	checkpointtest.Write(t, origin, checkpointtest.Tiny())
	want, err := checkpoint.BuildManifest(origin)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer token" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		http.FileServer(http.Dir(origin)).ServeHTTP(w, r)
	}))
	defer server.Close()
	fetch := contract.FetchSpec{Source: contract.Source{HTTP: &contract.HTTPSource{URL: server.URL}}, Digest: want.Digest, DataDir: data}

	o := pod(t, fetch, nil, "fetch", "--fetched", scratch)
	if o.code != contract.ExitPermanent || o.termination.Reason != contract.ReasonUnauthorized || !o.termination.Permanent {
		t.Errorf("without a token: status %d, %+v", o.code, o.termination)
	}
	o = pod(t, fetch, map[string]string{contract.EnvSourceToken: "token"}, "fetch", "--fetched", scratch)
	if o.code != contract.ExitOK || o.termination.Model == nil {
		t.Fatalf("fetch: status %d, %s", o.code, o.stderr)
	}
	model := contract.ModelResult{Digest: want.Digest, SizeBytes: want.SizeBytes, FileCount: len(want.Files), Architecture: want.Architecture}
	if diff := cmp.Diff(model, *o.termination.Model); diff != "" {
		t.Errorf("model -want +got\n%s", diff)
	}

	o = pod(t, contract.DecomposeSpec{Modules: []string{"up_proj", "down_proj"}, DType: "F32", DataDir: data}, nil, "decompose", "--fetched", scratch)
	if o.code != contract.ExitOK || o.termination.Decomposition == nil {
		t.Fatalf("decompose: status %d, %s", o.code, o.stderr)
	}
	if diff := cmp.Diff(&model, o.termination.Model); diff != "" {
		t.Errorf("the result of fetch was not handed on: -want +got\n%s", diff)
	}
	d := o.termination.Decomposition
	if d.Matrices != 4 || d.SingularValues != 64 || d.BaseDigest != want.Digest || len(d.Files) > 0 {
		t.Errorf("decomposition %+v", d)
	}
	if !strings.HasPrefix(o.termination.Device, "cpu (") {
		t.Errorf("it was computed on %q", o.termination.Device)
	}
	elsewhere := contract.DecomposeSpec{Modules: []string{"q_proj"}, DType: "F32", DataDir: data, Backend: contract.BackendCUDA}
	o = pod(t, elsewhere, nil, "decompose", "--fetched", scratch)
	if o.code != contract.ExitPermanent || o.termination.Reason != contract.ReasonUsage || !strings.Contains(o.termination.Message, "t2-cuda") {
		t.Errorf("on a backend that is not there: status %d, %+v", o.code, o.termination)
	}

	digest := importOne(t, data, d)
	inspectAll(t, data, origin, d, digest)
}

// importOne runs what the pod of an imported ExpertVector runs, and what it must
// refuse.
func importOne(t *testing.T, data string, d *contract.DecompositionManifest) (digest string) {
	t.Helper()
	file, digest := randomExpert(t, data, d)
	spec := contract.ImportSpec{Source: contract.Source{Path: file}, Digest: digest, DataDir: data, BaseDigest: d.BaseDigest, DecompositionDigest: d.Digest}
	o := pod(t, spec, nil, "import")
	if o.code != contract.ExitOK || o.termination.Expert == nil || o.termination.Expert.Digest != digest {
		t.Fatalf("import: status %d, %+v, %s", o.code, o.termination, o.stderr)
	}
	again := pod(t, spec, nil, "import")
	if diff := cmp.Diff(o.termination, again.termination); again.code != contract.ExitOK || diff != "" {
		t.Errorf("importing again: status %d, %s", again.code, diff)
	}
	spec.DecompositionDigest = "sha256:" + strings.Repeat("0", 64)
	if o := pod(t, spec, nil, "import"); o.code == contract.ExitOK {
		t.Error("an expert was imported for a decomposition that is not there")
	}
	return digest
}

// TestAnExpertOfTheReferenceImplementationIsImported brings what torch.save wrote to a
// volume, from a path and from a server.
func TestAnExpertOfTheReferenceImplementationIsImported(t *testing.T) {
	const files = "../expert/testdata/reference"
	data := t.TempDir()
	ck, err := checkpoint.OpenDir("../model/testdata/llama") // It has no tokenizer, which a fetch would want.
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ck.Close() }()
	base := contract.DigestPrefix + strings.Repeat("1", 64)
	d, err := expert.Decompose(t.Context(), ck, data, contract.DecomposeSpec{BaseDigest: base, Modules: expert.Modules(), DType: contract.DTypeF32}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(http.FileServer(http.Dir(files)))
	defer server.Close()
	digests := map[string]bool{}
	for _, file := range []string{"learnable_params.pt", "policy_params.pt", "combination.pt"} {
		entry, err := artifact.HashFile(files, file)
		if err != nil {
			t.Fatal(err)
		}
		spec := contract.ImportSpec{Source: contract.Source{Path: filepath.Join(files, file)}, Digest: entry.SHA256, DataDir: data, BaseDigest: base, DecompositionDigest: d.Digest, Skill: "math"}
		o := pod(t, spec, nil, "import")
		if o.code != contract.ExitOK || o.termination.Expert == nil {
			t.Fatalf("%s: status %d, %s", file, o.code, o.stderr)
		}
		spec.Path, spec.HTTP = "", &contract.HTTPSource{URL: server.URL + "/" + file}
		again := pod(t, spec, nil, "import")
		if diff := cmp.Diff(o.termination, again.termination); diff != "" {
			t.Errorf("%s from a server: %s%s", file, diff, again.stderr)
		}
		dir, err := contract.ArtifactDir(data, contract.DirExperts, o.termination.Expert.Digest)
		if err != nil {
			t.Fatal(err)
		}
		v, err := expert.Read(dir)
		if err != nil || v.Manifest.Skill != "math" || len(v.Z) != 6 {
			t.Errorf("%s: became %+v with %d matrices: %v", file, v.Manifest, len(v.Z), err)
		}
		digests[o.termination.Expert.Digest] = true
		spec.Digest = base
		if o := pod(t, spec, nil, "import"); o.code != contract.ExitPermanent || o.termination.Reason != contract.ReasonDigestMismatch {
			t.Errorf("%s with another digest: status %d, %+v", file, o.code, o.termination)
		}
	}
	if len(digests) != 2 {
		t.Errorf("%d experts, want 2: with and without names they are the same", len(digests))
	}
	// Something else that torch.save wrote.
	entry, err := artifact.HashFile("../checkpoint/torch/testdata", "whole.pt")
	if err != nil {
		t.Fatal(err)
	}
	o := pod(t, contract.ImportSpec{Source: contract.Source{Path: "../checkpoint/torch/testdata/whole.pt"}, Digest: entry.SHA256, DataDir: data, DecompositionDigest: d.Digest}, nil, "import")
	if o.code != contract.ExitPermanent || o.termination.Reason != contract.ReasonInvalidExpert || !strings.Contains(o.termination.Message, "expert from ../checkpoint/torch/testdata/whole.pt: ") || !strings.Contains(o.termination.Message, "__main__.Small") {
		t.Errorf("a whole module: status %d, %+v", o.code, o.termination)
	}
}

// randomExpert writes an expert.safetensors for a decomposition.
func randomExpert(t *testing.T, data string, d *contract.DecompositionManifest) (path, digest string) {
	t.Helper()
	dir, err := contract.ArtifactDir(data, contract.DirDecompositions, d.Digest)
	if err != nil {
		t.Fatal(err)
	}
	opened, err := expert.OpenDecomposition(dir)
	if err != nil {
		t.Fatal(err)
	}
	v := expert.Adapter{Manifest: contract.ExpertManifest{BaseDigest: d.BaseDigest, DecompositionDigest: d.Digest, Skill: "math", Score: 0.5}, Z: map[string][]float32{}}
	for i, name := range opened.Matrices() {
		z := make([]float32, opened.Rank(name))
		for k := range z {
			z[k] = 1 + 0.01*float32(i+k)
		}
		v.Z[name] = z
	}
	path = filepath.Join(t.TempDir(), "math.safetensors")
	if err := expert.WriteFile(path, v); err != nil {
		t.Fatal(err)
	}
	read, err := expert.Read(path)
	if err != nil {
		t.Fatal(err)
	}
	return path, read.Manifest.Digest
}

func inspectAll(t *testing.T, data, origin string, d *contract.DecompositionManifest, expertDigest string) {
	t.Helper()
	dir := func(kind, digest string) string {
		path, err := contract.ArtifactDir(data, kind, digest)
		if err != nil {
			t.Fatal(err)
		}
		return path
	}
	decomposition, vector := dir(contract.DirDecompositions, d.Digest), dir(contract.DirExperts, expertDigest)
	other := t.TempDir()
	shape := checkpointtest.Tiny()
	shape.Seed = 9
	checkpointtest.Write(t, other, shape)
	for _, c := range []struct {
		name string
		args []string
		code int
		want []string
	}{
		{"a model", []string{"inspect", dir(contract.DirModels, d.BaseDigest)}, 0, []string{"Model", d.BaseDigest, "llama, 2 layers", "tokenizer.json"}},
		{"a decomposition of this base", []string{"inspect", decomposition, "--base", origin}, 0, []string{d.Digest, "up_proj, down_proj", "4 matrices", "yes"}},
		{"an expert of this decomposition", []string{"inspect", vector, "--decomposition", decomposition}, 0, []string{"math", "64 singular values", "up_proj", "yes"}},
		{"an expert as a file", []string{"inspect", filepath.Join(vector, "expert.safetensors"), "--base", origin, "--json"}, 0, []string{`"kind": "expert"`, `"fits": true`}},
		{"an expert of another base", []string{"inspect", vector, "--base", other}, 1, []string{"no: base model"}},
		{"weights", []string{"inspect", filepath.Join(origin, "model.safetensors")}, 0, []string{"8080 elements", "F32"}},
		{"nothing", []string{"inspect", t.TempDir()}, 1, nil},
		{"no path", []string{"inspect"}, 2, nil},
		{"a comparison that makes no sense", []string{"inspect", origin, "--base", other}, 2, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := t2(t, nil, "", c.args...)
			if o.code != c.code {
				t.Errorf("status %d, want %d: %s", o.code, c.code, o.stderr)
			}
			for _, want := range c.want {
				if !strings.Contains(o.stdout, want) {
					t.Errorf("output does not say %q:\n%s", want, o.stdout)
				}
			}
			if c.code != 0 && o.stderr == "" {
				t.Error("it failed without a word")
			}
		})
	}
}

func TestPeopleUseFlags(t *testing.T) {
	origin, data := t.TempDir(), t.TempDir()
	checkpointtest.Write(t, origin, checkpointtest.Tiny())
	if o := t2(t, nil, "", "fetch", origin, "--data-dir", data); o.code != 0 || !strings.Contains(o.stdout, "sha256:") {
		t.Errorf("fetch: status %d, %s%s", o.code, o.stdout, o.stderr)
	}
	o := t2(t, nil, "", "decompose", "--model", origin, "--data-dir", data, "--modules", "q_proj,k_proj", "--dtype", "BF16", "--json")
	var result contract.Termination
	if err := json.Unmarshal([]byte(o.stdout), &result); o.code != 0 || err != nil || result.Decomposition == nil || result.Decomposition.DType != "BF16" {
		t.Errorf("decompose: status %d, %s%s (%v)", o.code, o.stdout, o.stderr, err)
	}
	for name, args := range map[string][]string{
		"no source":             {"fetch", "--data-dir", data},
		"no data folder":        {"fetch", origin},
		"no model":              {"decompose", "--data-dir", data},
		"two models":            {"decompose", "--data-dir", data, "--model", origin, "--base-digest", "sha256:0"},
		"an unknown module":     {"decompose", "--data-dir", data, "--model", origin, "--modules", "x_proj"},
		"no digest of a vector": {"import", "x.safetensors", "--data-dir", data},
		"an unknown flag":       {"fetch", "--nothing"},
	} {
		if o := t2(t, nil, "", args...); o.code != contract.ExitUsage || o.stderr == "" {
			t.Errorf("%s: status %d, %s", name, o.code, o.stderr)
		}
	}
	for _, command := range []string{"fetch", "decompose", "import", "inspect"} {
		if o := t2(t, nil, "", command, "--help"); o.code != 0 || !strings.Contains(o.stdout, "Examples:") {
			t.Errorf("%s --help: status %d, %s", command, o.code, o.stdout)
		}
	}
}
