package checkpoint_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/transformersquared/operator/runtime/checkpoint"
	"github.com/transformersquared/operator/runtime/checkpoint/checkpointtest"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/failure"
)

func TestShardsReadAsOneModel(t *testing.T) {
	shape := checkpointtest.Tiny()
	whole, sharded := t.TempDir(), t.TempDir()
	checkpointtest.Write(t, whole, shape)
	shape.Shards = 3
	checkpointtest.Write(t, sharded, shape)

	a, b := openDir(t, whole), openDir(t, sharded)
	if diff := cmp.Diff(a.Names(), b.Names()); diff != "" {
		t.Fatalf("names differ: %s", diff)
	}
	for _, name := range a.Names() {
		x, err := a.Tensor(name)
		if err != nil {
			t.Fatal(err)
		}
		y, err := b.Tensor(name)
		if err != nil {
			t.Fatal(err)
		}
		if !cmp.Equal(x, y) {
			t.Errorf("%s differs", name)
		}
	}
	if a.Parameters() != b.Parameters() || a.Parameters() != 260*16+2*(2*16+2*16*16+2*8*16+3*16*24)+16 {
		t.Errorf("%d and %d parameters", a.Parameters(), b.Parameters())
	}
}

func openDir(t *testing.T, dir string) *checkpoint.Checkpoint {
	t.Helper()
	c, err := checkpoint.OpenDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func TestIncompleteFoldersSayWhatIsMissing(t *testing.T) {
	shape := checkpointtest.Tiny()
	shape.Shards = 2
	first, second := "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
	for _, c := range []struct {
		name   string
		damage func(dir string) error
		want   string
	}{
		{"no config", remove("config.json"), "no config.json"},
		{"a missing shard", remove(second), second},
		{"no index and no weights", remove(checkpoint.IndexFile), "neither model.safetensors nor"},
		{"an index of another model", replace(checkpoint.IndexFile, `"model.norm.weight"`, `"model.abnorm.weight"`), "different models"},
		{"a shard outside of the folder", replace(checkpoint.IndexFile, first, "../"+first), "no name of a safetensors file"},
		{"an empty index", overwrite(checkpoint.IndexFile, `{"weight_map":{}}`), "weight_map is empty"},
		{"an index that is no JSON", overwrite(checkpoint.IndexFile, `{`), checkpoint.IndexFile},
		{"one shard under both names", func(dir string) error {
			b, err := os.ReadFile(filepath.Join(dir, first))
			if err != nil {
				return err
			}
			return os.WriteFile(filepath.Join(dir, second), b, 0o600)
		}, "both"},
		{"a generation config that is no JSON", overwrite("generation_config.json", `{`), "generation_config.json"},
		{"a generation config whose end is no token", overwrite("generation_config.json", `{"eos_token_id":"</s>"}`), "eos_token_id"},
		{"weights that are a Git LFS pointer", overwrite(first, lfsPointer), "Git LFS pointer, not the file itself"},
		{"an index that is one", overwrite(checkpoint.IndexFile, lfsPointer), "git lfs pull"},
		{"a config that is one", overwrite("config.json", lfsPointer), "git lfs pull"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			checkpointtest.Write(t, dir, shape)
			if err := c.damage(dir); err != nil {
				t.Fatal(err)
			}
			ck, err := checkpoint.OpenDir(dir)
			if err == nil {
				_ = ck.Close()
				t.Fatal("the folder was accepted")
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %q does not say %q", err, c.want)
			}
			if reason, permanent := failure.Of(err); reason != contract.ReasonInvalidModel || !permanent {
				t.Errorf("classified as %s, permanent %v", reason, permanent)
			}
		})
	}
}

// lfsPointer is what a clone without Git LFS has in place of weights.
const lfsPointer = "version https://git-lfs.github.com/spec/v1\n" +
	"oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 123456789\n"

func remove(name string) func(string) error {
	return func(dir string) error { return os.Remove(filepath.Join(dir, name)) }
}

func overwrite(name, content string) func(string) error {
	return func(dir string) error { return os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600) }
}

func replace(name, before, after string) func(string) error {
	return func(dir string) error {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		return overwrite(name, strings.ReplaceAll(string(b), before, after))(dir)
	}
}

func TestEndsOfTurnsInTheGenerationConfigCount(t *testing.T) {
	dir := t.TempDir()
	checkpointtest.Write(t, dir, checkpointtest.Tiny())
	for _, c := range []struct {
		name, config, generation string
		want                     []int
	}{
		{"beside those of the config", `"eos_token_id":256`, `{"eos_token_id":[256,3]}`, []int{256, 3}},
		{"in place of the family's default", `"x":0`, `{"eos_token_id":[256,3]}`, []int{256, 3}},
		{"which holds where nothing is said", `"x":0`, `{}`, []int{2}},
		{"outside of the vocabulary they end nothing", `"eos_token_id":256`, `{"eos_token_id":[99999]}`, []int{256}},
	} {
		if err := replace("config.json", `"eos_token_id": 256`, c.config)(dir); err != nil {
			t.Fatal(err)
		}
		if err := overwrite("generation_config.json", c.generation)(dir); err != nil {
			t.Fatal(err)
		}
		got, err := checkpoint.ReadConfig(dir)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(c.want, got.EOS); diff != "" {
			t.Errorf("%s: -want +got\n%s", c.name, diff)
		}
		checkpointtest.Write(t, dir, checkpointtest.Tiny())
	}
}

func TestAModelHasOneDigestWhereverItLies(t *testing.T) {
	a, b := t.TempDir(), t.TempDir()
	checkpointtest.Write(t, a, checkpointtest.Tiny())
	checkpointtest.Write(t, b, checkpointtest.Tiny())
	// A card, another format of the weights and a second vocabulary are no part
	// of the model.
	for name, content := range map[string]string{"README.md": "card", "pytorch_model.bin": "weights", "tokenizer.model": "vocabulary"} {
		if err := overwrite(name, content)(b); err != nil {
			t.Fatal(err)
		}
	}
	ma, err := checkpoint.BuildManifest(a)
	if err != nil {
		t.Fatal(err)
	}
	mb, err := checkpoint.BuildManifest(b)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(ma, mb); diff != "" {
		t.Errorf("manifests differ: %s", diff)
	}
	want := contract.Architecture{Family: "llama", Layers: 2, HiddenSize: 16, Parameters: 8080, VocabularySize: 260, ContextLength: 128}
	if diff := cmp.Diff(want, ma.Architecture); diff != "" {
		t.Errorf("architecture -want +got\n%s", diff)
	}
	if err := overwrite("tokenizer_config.json", `{}`)(b); err != nil {
		t.Fatal(err)
	}
	if mb, err = checkpoint.BuildManifest(b); err != nil || mb.Digest == ma.Digest {
		t.Errorf("another tokenizer config gives the same digest (%v)", err)
	}
	if err := os.Remove(filepath.Join(b, "tokenizer.json")); err != nil {
		t.Fatal(err)
	}
	files, err := checkpoint.ModelFiles(b)
	if err != nil || !slices.Contains(files, "tokenizer.model") || slices.Contains(files, "tokenizer.json") {
		t.Errorf("with a SentencePiece model alone the files are %v (%v)", files, err)
	}
}
