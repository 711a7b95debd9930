// Package enginetest makes a data volume for tests of serving: a tiny Llama
// model with random weights and a byte-level tokenizer, its decomposition, and
// experts. Everything is made by the code that makes it in production, so what
// the tests load is real; only what the model says makes no sense.
package enginetest

import (
	"cmp"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/transformersquared/operator/runtime/artifact"
	"github.com/transformersquared/operator/runtime/backend/registry/registrytest"
	"github.com/transformersquared/operator/runtime/checkpoint"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/expert"
	"github.com/transformersquared/operator/runtime/model"
	"github.com/transformersquared/operator/runtime/tensor"
	"github.com/transformersquared/operator/runtime/tokenizer"
)

// ContextLength is what the model was made for, in tokens: about as many bytes.
const ContextLength = 512

// Shape of the model.
const (
	hidden          = 32
	heads, keyHeads = 4, 2
	headDim         = hidden / heads
)

// Special tokens follow the 256 bytes.
var specials = []string{"<|system|>", "<|user|>", "<|assistant|>", "<|end|>"}

const chatTemplate = "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}{% endfor %}" +
	"{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"

// Volume is a data root with one model and its decomposition.
type Volume struct {
	// Root is the folder that contract.DirModels and its like are in.
	Root                string
	ModelDigest         string
	DecompositionDigest string
	// ModelDir and DecompositionDir are their folders.
	ModelDir, DecompositionDir string
}

// Kind is what models of several volumes differ in.
type Kind struct {
	// Seed of the weights.
	Seed uint64
	// Inner is the width of the MLP, Layers their number.
	Inner, Layers int
	// Template is its chat template, where it has another than messages between special
	// tokens, and Context what it was made for, where that is not ContextLength.
	Template string
	Context  int
}

// Usual is the kind of New.
var Usual = Kind{Seed: 1, Inner: 64, Layers: 2}

// New makes a volume in a temporary folder.
func New(t testing.TB) *Volume {
	t.Helper()
	return NewOf(t, Usual)
}

// NewOf makes a volume with a model of this kind.
func NewOf(t testing.TB, kind Kind) *Volume {
	t.Helper()
	v := &Volume{Root: t.TempDir()}
	v.makeModel(t, kind)
	ck, err := checkpoint.OpenDir(v.ModelDir)
	check(t, err)
	defer func() { check(t, ck.Close()) }()
	m, err := expert.Decompose(t.Context(), ck, v.Root, contract.DecomposeSpec{
		BaseDigest: v.ModelDigest, Modules: []string{"up_proj", "down_proj", "o_proj"}, DType: "F32",
	}, nil, nil)
	check(t, err)
	v.DecompositionDigest = m.Digest
	v.DecompositionDir, err = contract.ArtifactDir(v.Root, contract.DirDecompositions, m.Digest)
	check(t, err)
	return v
}

// Mount moves the model's files to a folder, as if they were mounted there and had never been
// copied, and returns the folder.
func (v *Volume) Mount(t testing.TB) string {
	t.Helper()
	m, err := artifact.ReadManifest[contract.ModelManifest](v.ModelDir)
	check(t, err)
	m.At = t.TempDir()
	for _, f := range m.Files {
		check(t, os.Rename(filepath.Join(v.ModelDir, f.Path), filepath.Join(m.At, f.Path)))
	}
	check(t, artifact.WriteManifest(v.ModelDir, m))
	return m.At
}

func (v *Volume) makeModel(t testing.TB, kind Kind) {
	dir := filepath.Join(v.Root, contract.DirModels, "new")
	check(t, artifact.MkdirAll(dir))
	vocabulary := writeTokenizer(t, dir, cmp.Or(kind.Template, chatTemplate))
	writeJSON(t, dir, "config.json", map[string]any{
		"model_type": "llama", "hidden_size": hidden, "intermediate_size": kind.Inner, "num_hidden_layers": kind.Layers,
		"num_attention_heads": heads, "num_key_value_heads": keyHeads, "vocab_size": vocabulary,
		"max_position_embeddings": cmp.Or(kind.Context, ContextLength), "rms_norm_eps": 1e-5, "tie_word_embeddings": true,
		"eos_token_id": vocabulary - 1, "bos_token_id": nil, "hidden_act": "silu",
	})
	rng := rand.New(rand.NewPCG(kind.Seed, 2))
	random := func(scale float64, shape ...int) *tensor.Tensor {
		w := tensor.New(shape...)
		for i := range w.Data {
			w.Data[i] = float32(rng.NormFloat64() * scale)
		}
		return w
	}
	ones := func(n int) *tensor.Tensor {
		w := tensor.New(n)
		for i := range w.Data {
			w.Data[i] = 1
		}
		return w
	}
	tensors := map[string]*tensor.Tensor{
		"model.embed_tokens.weight": random(1, vocabulary, hidden), "model.norm.weight": ones(hidden),
	}
	for i := range kind.Layers {
		layer := func(name string) string { return fmt.Sprintf("model.layers.%d.%s.weight", i, name) }
		tensors[layer("input_layernorm")] = ones(hidden)
		tensors[layer("post_attention_layernorm")] = ones(hidden)
		tensors[layer("self_attn.q_proj")] = random(0.3, heads*headDim, hidden)
		tensors[layer("self_attn.k_proj")] = random(0.3, keyHeads*headDim, hidden)
		tensors[layer("self_attn.v_proj")] = random(0.3, keyHeads*headDim, hidden)
		tensors[layer("self_attn.o_proj")] = random(0.3, hidden, heads*headDim)
		tensors[layer("mlp.gate_proj")] = random(0.3, kind.Inner, hidden)
		tensors[layer("mlp.up_proj")] = random(0.3, kind.Inner, hidden)
		tensors[layer("mlp.down_proj")] = random(0.3, hidden, kind.Inner)
	}
	check(t, checkpoint.WriteSafetensors(filepath.Join(dir, "model.safetensors"), tensors, tensor.F32, nil))
	m, err := checkpoint.BuildManifest(dir)
	check(t, err)
	check(t, artifact.WriteManifest(dir, m))
	v.ModelDigest = m.Digest
	v.ModelDir, err = contract.ArtifactDir(v.Root, contract.DirModels, m.Digest)
	check(t, err)
	check(t, os.Rename(dir, v.ModelDir))
}

// writeTokenizer writes a byte-level tokenizer without merges: a token a byte.
func writeTokenizer(t testing.TB, dir, template string) (vocabulary int) {
	vocab, added := map[string]int{}, []map[string]any{}
	for b := range 256 {
		vocab[string(byteRune(b))] = b
	}
	for i, s := range specials {
		added = append(added, map[string]any{
			"id": 256 + i, "content": s, "special": true, "single_word": false,
			"lstrip": false, "rstrip": false, "normalized": false,
		})
	}
	byteLevel := map[string]any{"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true}
	writeJSON(t, dir, "tokenizer.json", map[string]any{
		"version": "1.0", "added_tokens": added, "normalizer": nil, "pre_tokenizer": byteLevel,
		"post_processor": nil, "decoder": byteLevel,
		"model": map[string]any{"type": "BPE", "vocab": vocab, "merges": []string{}},
	})
	writeJSON(t, dir, "tokenizer_config.json", map[string]any{
		"eos_token": "<|end|>", "chat_template": template,
	})
	return 256 + len(specials)
}

// byteRune is GPT-2's printable character for a byte.
func byteRune(b int) rune {
	printable := func(b int) bool { return b >= '!' && b <= '~' || b >= 0xa1 && b <= 0xac || b >= 0xae }
	if printable(b) {
		return rune(b)
	}
	n := 0
	for c := range b {
		if !printable(c) {
			n++
		}
	}
	return rune(256 + n)
}

// Expert publishes an expert of this skill, whose z is random around 1 and
// depends on the seed, and returns its manifest.
func (v *Volume) Expert(t testing.TB, skill string, seed uint64) contract.ExpertManifest {
	t.Helper()
	return v.ExpertOn(t, "", skill, seed)
}

// ExpertOn is Expert of an activation.
func (v *Volume) ExpertOn(t testing.TB, activation, skill string, seed uint64) contract.ExpertManifest {
	t.Helper()
	d, err := expert.OpenDecomposition(v.DecompositionDir)
	check(t, err)
	rng := rand.New(rand.NewPCG(seed, 3))
	vector := expert.Adapter{
		Manifest: contract.ExpertManifest{BaseDigest: v.ModelDigest, DecompositionDigest: v.DecompositionDigest, Skill: skill, Activation: activation},
		Z:        map[string][]float32{},
	}
	for _, name := range d.Matrices() {
		z := make([]float32, d.Rank(name))
		for i := range z {
			z[i] = float32(1 + 0.5*rng.NormFloat64())
		}
		vector.Z[name] = z
	}
	m, err := expert.Write(v.Root, vector, nil)
	check(t, err)
	return m
}

// ExpertDir is the folder of an expert.
func (v *Volume) ExpertDir(t testing.TB, digest string) string {
	t.Helper()
	dir, err := contract.ArtifactDir(v.Root, contract.DirExperts, digest)
	check(t, err)
	return dir
}

// Load opens the model on a backend of its own, which ends with the test.
func (v *Volume) Load(t testing.TB, options ...model.Option) (*model.Model, *expert.Decomposition, *tokenizer.Tokenizer) {
	t.Helper()
	be := registrytest.Open(t, 2)
	ck, err := checkpoint.OpenDir(v.ModelDir)
	check(t, err)
	defer func() { check(t, ck.Close()) }()
	m, err := model.Load(t.Context(), be, ck, options...)
	check(t, err)
	d, err := expert.OpenDecomposition(v.DecompositionDir)
	check(t, err)
	tok, err := tokenizer.Load(v.ModelDir)
	check(t, err)
	return m, d, tok
}

func writeJSON(t testing.TB, dir, name string, v any) {
	b, err := json.Marshal(v)
	check(t, err)
	check(t, os.WriteFile(filepath.Join(dir, name), b, 0o600))
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
