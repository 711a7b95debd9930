package faults_test

import (
	"context"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/transformersquared/operator/runtime/artifact"
	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/backend/registry/registrytest"
	"github.com/transformersquared/operator/runtime/checkpoint"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/engine/enginetest"
	"github.com/transformersquared/operator/runtime/evaluate"
	"github.com/transformersquared/operator/runtime/expert"
	"github.com/transformersquared/operator/runtime/jobs"
	"github.com/transformersquared/operator/runtime/model"
	"github.com/transformersquared/operator/runtime/probe"
	"github.com/transformersquared/operator/runtime/tokenizer"
	"github.com/transformersquared/operator/runtime/train"
	"github.com/transformersquared/operator/runtime/train/dataset"
	"github.com/transformersquared/operator/test/faults"
)

// again are what errors of artifacts say to do: whoever asks for the artifact has it made anew.
var again = []string{
	"remove the folder", "fetch the model anew", "make the artifact again", "the manifest was changed", "it is no expert", "it is no probe", "t2 decompose makes one", "t2 fetch brings it",
}

func flips() int {
	if testing.Short() {
		return 60
	}
	return 300
}

// TestBitFlipsOfArtifactsAreFound damages every file of every kind of artifact. All have
// digests, and manifests are sealed, so that nothing else than what was written is ever read.
func TestBitFlipsOfArtifactsAreFound(t *testing.T) {
	v := enginetest.New(t)
	be := registrytest.Open(t, 1)
	math := v.Expert(t, "math", 1)
	answering := v.ExpertOn(t, contract.ActivationAnswer, "code", 2)
	ctx := t.Context()

	loadModel := func() (any, error) {
		if _, _, err := train.LoadBase(ctx, be, train.Artifacts{DataDir: v.Root, BaseDigest: v.ModelDigest}); err != nil {
			return nil, err
		}
		return artifact.ReadManifest[contract.ModelManifest](v.ModelDir)
	}
	loadFactors := func() (any, error) {
		d, err := expert.OpenDecomposition(v.DecompositionDir)
		if err != nil {
			return nil, err
		}
		all := map[string]model.Factors{}
		for _, name := range d.Matrices() {
			if all[name], err = d.Factors(ctx, name); err != nil {
				return nil, err
			}
		}
		return []any{d.Manifest(), all}, nil
	}
	loadExpert := func(dir string) func() (any, error) {
		return func() (any, error) { return expert.Read(dir) }
	}
	probed := writeProbe(t, v)
	evaluated := writeEvaluation(t, v, math)
	classifier := writeClassifier(t, v)

	for _, kind := range []struct {
		name, dir string
		read      func() (any, error)
	}{
		{"model", v.ModelDir, loadModel},
		{"decomposition", v.DecompositionDir, loadFactors},
		{"expert", v.ExpertDir(t, math.Digest), loadExpert(v.ExpertDir(t, math.Digest))},
		{"expert that acts on answers", v.ExpertDir(t, answering.Digest), loadExpert(v.ExpertDir(t, answering.Digest))},
		{"classifier", classifier, loadExpert(classifier)},
		{"probe", probed, func() (any, error) { return probe.Read(ctx, probed) }},
		{"evaluation", evaluated, func() (any, error) {
			m, err := artifact.ReadManifest[contract.EvaluationManifest](evaluated)
			if err != nil {
				return nil, err
			}
			return m, artifact.VerifyContext(ctx, evaluated, m.Files)
		}},
	} {
		entries, err := os.ReadDir(kind.dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			t.Run(kind.name+"/"+e.Name(), func(t *testing.T) {
				n := flips()
				if len(entries) > 5 && e.Name() != contract.ManifestFile { // One matrix is like the other.
					n /= 5
				}
				found := faults.Reader{Path: filepath.Join(kind.dir, e.Name()), Read: kind.read, Remedies: again}.Damage(t, n, 1)
				t.Logf("%+v", found)
				if e.Name() != contract.ManifestFile && found.Same > 0 {
					t.Errorf("%d damages of a file with a digest were not found", found.Same)
				}
			})
		}
	}
}

func writeProbe(t *testing.T, v *enginetest.Volume) string {
	t.Helper()
	rng := rand.New(rand.NewPCG(1, 2))
	var examples []probe.Example
	for i := range 24 {
		state := make([]float32, 8)
		for k := range state {
			state[k] = float32(rng.NormFloat64())
		}
		state[i%2] += 4
		examples = append(examples, probe.Example{State: state, Label: i % 2})
	}
	p, err := probe.Fit(t.Context(), []string{"math", "code"}, examples)
	if err != nil {
		t.Fatal(err)
	}
	p.Manifest.BaseDigest = v.ModelDigest
	m, err := probe.Write(v.Root, p)
	if err != nil {
		t.Fatal(err)
	}
	return dirOf(t, v, contract.DirProbes, m.Digest)
}

func dirOf(t *testing.T, v *enginetest.Volume, kind, digest string) string {
	t.Helper()
	dir, err := contract.ArtifactDir(v.Root, kind, digest)
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// writeClassifier writes an expert that was trained to answer a question of pass 1, with the
// files that a training leaves beside it.
func writeClassifier(t *testing.T, v *enginetest.Volume) string {
	t.Helper()
	a, err := expert.Read(v.ExpertDir(t, v.Expert(t, "skills", 3).Digest))
	if err != nil {
		t.Fatal(err)
	}
	a.Manifest.Pass1Digest = contract.DigestPrefix + strings.Repeat("5", 64)
	a.Manifest.Score, a.Manifest.BaselineScore = 0.75, 0.5
	m, err := expert.Write(v.Root, a, map[string]func(io.Writer) error{
		train.MetricsFile: func(w io.Writer) error { _, err := io.WriteString(w, `{"iteration":1,"reward":0.5}`+"\n"); return err },
	})
	if err != nil {
		t.Fatal(err)
	}
	return v.ExpertDir(t, m.Digest)
}

// writeEvaluation evaluates an expert, and returns the artifact's folder.
func writeEvaluation(t *testing.T, v *enginetest.Volume, math contract.ExpertManifest) string {
	t.Helper()
	questions := filepath.Join(t.TempDir(), "questions.jsonl")
	if err := os.WriteFile(questions, []byte(pairs), 0o600); err != nil {
		t.Fatal(err)
	}
	done, err := evaluate.Run(t.Context(), contract.EvaluateSpec{
		Name: "assistant", RunID: "gate", DataDir: v.Root, BaseDigest: v.ModelDigest, DecompositionDigest: v.DecompositionDigest,
		Candidate: contract.ExpertSet{Strategy: contract.StrategyPrompt, Experts: []contract.ExpertRef{{Name: "math", Skill: "math", Digest: math.Digest}}},
		Sets: []contract.EvaluationSet{{
			Field: "spec.rollout.gate.dataset", Reward: contract.RewardExactMatch, Dataset: contract.DatasetSpec{Path: questions, Format: contract.FormatPairs},
		}},
		MaxNewTokens: 2, Form: "merged",
	}, evaluate.Options{Threads: 1, Progress: jobs.NewProgress(), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return dirOf(t, v, contract.DirEvaluations, done.Evaluation.Digest)
}

const pairs = `{"prompt":"What is 2+3?","answer":"5"}
{"prompt":"What is 4+4?","answer":"8"}
{"prompt":"Which word is longer, cat or horse?","answer":"horse"}
`

// TestBitFlipsOfWhatIsGivenAlone damages what users hand over without a digest: nobody knows
// what it should be, so that other numbers and other texts are read as they are. What cannot be
// read is refused by the file's name, and nothing else happens. With a digest all is found.
func TestBitFlipsOfWhatIsGivenAlone(t *testing.T) {
	v := enginetest.New(t)
	be := registrytest.Open(t, 1)
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(v.ModelDir)); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, contract.ManifestFile)); err != nil {
		t.Fatal(err)
	}
	questions := filepath.Join(t.TempDir(), "questions.jsonl")
	if err := os.WriteFile(questions, []byte(pairs), 0o600); err != nil {
		t.Fatal(err)
	}
	bare := filepath.Join(t.TempDir(), "math.safetensors")
	a, err := expert.Read(v.ExpertDir(t, v.Expert(t, "math", 1).Digest))
	if err != nil {
		t.Fatal(err)
	}
	if err := expert.WriteFile(bare, a); err != nil {
		t.Fatal(err)
	}
	set := func(digest string) func() (any, error) {
		return func() (any, error) {
			return dataset.Load(t.Context(), contract.DatasetSpec{Path: questions, Format: contract.FormatPairs, Digest: digest}, nil)
		}
	}
	whole, err := dataset.Load(t.Context(), contract.DatasetSpec{Path: questions, Format: contract.FormatPairs}, nil)
	if err != nil {
		t.Fatal(err)
	}
	load := func() (any, error) { return loadBare(t.Context(), be, dir) }
	for name, r := range map[string]faults.Reader{
		"config.json":         {Path: filepath.Join(dir, checkpoint.ConfigFile), Read: load, Blind: true},
		"tokenizer.json":      {Path: filepath.Join(dir, "tokenizer.json"), Read: load, Blind: true},
		"model.safetensors":   {Path: filepath.Join(dir, checkpoint.WeightsFile), Read: load, Blind: true},
		"an expert's file":    {Path: bare, Read: func() (any, error) { return expert.Read(bare) }, Blind: true},
		"a set":               {Path: questions, Read: set(""), Blind: true},
		"a set with a digest": {Path: questions, Read: set(whole.Digest), Remedies: []string{"correct the digest or the file"}},
	} {
		t.Run(name, func(t *testing.T) {
			if r.Blind {
				r.Remedies = []string{""} // That it is named is all.
			}
			found := r.Damage(t, flips(), 2)
			t.Logf("%+v", found)
			if !r.Blind && found.Same > 0 {
				t.Errorf("%d damages were not found", found.Same)
			}
		})
	}
}

func loadBare(ctx context.Context, be backend.Backend, dir string) (any, error) {
	m, tok, err := train.LoadModel(ctx, be, dir)
	if err != nil {
		return nil, err
	}
	ck, err := checkpoint.OpenDir(dir)
	if err != nil {
		return nil, err
	}
	embedding, err := ck.Tensor("model.embed_tokens.weight")
	if err != nil {
		return nil, err
	}
	return []any{m.Config(), embedding, words(tok)}, ck.Close()
}

func words(tok *tokenizer.Tokenizer) any {
	ids, err := tok.Encode("What is 2+3, and which word is longer?", true)
	return []any{ids, err}
}
