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
		{"a generation config of another vocabulary", overwrite("generation_config.json", `{"eos_token_id":[99999]}`), "99999"},
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
	if err := overwrite("generation_config.json", `{"eos_token_id":[256,3]}`)(dir); err != nil {
		t.Fatal(err)
	}
	c, err := checkpoint.ReadConfig(dir)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]int{256, 3}, c.EOS); diff != "" {
		t.Errorf("-want +got\n%s", diff)
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
