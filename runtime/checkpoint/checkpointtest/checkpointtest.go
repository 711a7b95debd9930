// Package checkpointtest makes small random models on disk for tests: whole
// folders in Hugging Face layout, tokenizer and chat template included.
package checkpointtest

import (
	"cmp"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/transformersquared/operator/runtime/checkpoint"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/tensor"
)

// Shape is the geometry of a random model.
type Shape struct {
	Layers, Hidden, Intermediate int
	Heads, KVHeads, HeadDim      int
	Vocab                        int
	Tied                         bool
	// Shards is the number of weight files; up to 1 means model.safetensors
	// alone.
	Shards int
	Seed   uint64
	// Context is how many tokens a conversation may have; 128 if it is 0.
	Context int
	// Template is its chat template, where it has another than WriteTokenizer's, and Special
	// are further special tokens, which Vocab must have room for.
	Template string
	Special  []string
}

// Tiny is a model of two layers with grouped-query attention, an MLP that is
// wider than the residual stream, and all bytes in its vocabulary.
func Tiny() Shape {
	return Shape{Layers: 2, Hidden: 16, Intermediate: 24, Heads: 4, KVHeads: 2, HeadDim: 4, Vocab: Vocab, Tied: true, Seed: 1}
}

// Special tokens of the tokenizer, numbered from 256 on, and what its vocabulary
// comes to.
const (
	End       = 256
	User      = 257
	Assistant = 258
	System    = 259
	Vocab     = 260
)

// Write makes a model folder in dir, which must exist.
func Write(tb testing.TB, dir string, s Shape) {
	tb.Helper()
	writeJSON(tb, dir, checkpoint.ConfigFile, map[string]any{
		"model_type": "llama", "hidden_size": s.Hidden, "intermediate_size": s.Intermediate, "num_hidden_layers": s.Layers,
		"num_attention_heads": s.Heads, "num_key_value_heads": s.KVHeads, "head_dim": s.HeadDim, "vocab_size": s.Vocab,
		"max_position_embeddings": cmp.Or(s.Context, 128), "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu",
		"tie_word_embeddings": s.Tied, "bos_token_id": nil, "eos_token_id": End,
	})
	writeTokenizer(tb, dir, cmp.Or(s.Template, usualTemplate), s.Special)
	writeWeights(tb, dir, Weights(s), s.Shards)
}

// Weights are the random tensors of a model.
func Weights(s Shape) map[string]*tensor.Tensor {
	rng := rand.New(rand.NewPCG(s.Seed, 0x7472616e73)) //nolint:gosec // Reproducible on purpose.
	weights := map[string]*tensor.Tensor{}
	// The order of the draws must not depend on that of a map.
	add := func(name string, scale float64, shape ...int) {
		t := tensor.New(shape...)
		for i := range t.Data {
			t.Data[i] = float32(scale * rng.NormFloat64())
			if len(shape) == 1 {
				t.Data[i]++ // Norm gains are around one.
			}
		}
		weights[name] = t
	}
	q, kv := s.Heads*s.HeadDim, s.KVHeads*s.HeadDim
	add("model.embed_tokens.weight", 0.5, s.Vocab, s.Hidden)
	for l := range s.Layers {
		p := fmt.Sprintf("model.layers.%d.", l)
		add(p+"input_layernorm.weight", 0.1, s.Hidden)
		add(p+"self_attn.q_proj.weight", 0.2, q, s.Hidden)
		add(p+"self_attn.k_proj.weight", 0.2, kv, s.Hidden)
		add(p+"self_attn.v_proj.weight", 0.2, kv, s.Hidden)
		add(p+"self_attn.o_proj.weight", 0.2, s.Hidden, q)
		add(p+"post_attention_layernorm.weight", 0.1, s.Hidden)
		add(p+"mlp.gate_proj.weight", 0.2, s.Intermediate, s.Hidden)
		add(p+"mlp.up_proj.weight", 0.2, s.Intermediate, s.Hidden)
		add(p+"mlp.down_proj.weight", 0.2, s.Hidden, s.Intermediate)
	}
	add("model.norm.weight", 0.1, s.Hidden)
	if !s.Tied {
		add("lm_head.weight", 0.5, s.Vocab, s.Hidden)
	}
	return weights
}

func writeWeights(tb testing.TB, dir string, weights map[string]*tensor.Tensor, shards int) {
	tb.Helper()
	if shards <= 1 {
		must(tb, checkpoint.WriteSafetensors(filepath.Join(dir, checkpoint.WeightsFile), weights, tensor.F32, nil))
		return
	}
	names := make([]string, 0, len(weights))
	for name := range weights {
		names = append(names, name)
	}
	slices.Sort(names)
	where := map[string]string{}
	for shard := range shards {
		file := fmt.Sprintf("model-%05d-of-%05d.safetensors", shard+1, shards)
		part := map[string]*tensor.Tensor{}
		for i, name := range names {
			if i%shards == shard {
				part[name], where[name] = weights[name], file
			}
		}
		must(tb, checkpoint.WriteSafetensors(filepath.Join(dir, file), part, tensor.F32, nil))
	}
	writeJSON(tb, dir, checkpoint.IndexFile, map[string]any{"metadata": map[string]any{}, "weight_map": where})
}

// WriteTokenizer writes a byte-level tokenizer without merges and with a chat
// template.
func WriteTokenizer(tb testing.TB, dir string) {
	tb.Helper()
	writeTokenizer(tb, dir, usualTemplate, nil)
}

const usualTemplate = "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}{% endfor %}" +
	"{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"

func writeTokenizer(tb testing.TB, dir, template string, special []string) {
	tb.Helper()
	vocab := map[string]int{}
	next := rune(0x100)
	for b := range 256 {
		// Printable bytes stand for themselves, as in every byte-level vocabulary.
		if strings.ContainsRune(" \u00ad", rune(b)) || b < '!' || b > '~' && b < 0xA1 {
			vocab[string(next)] = b
			next++
		} else {
			vocab[string(rune(b))] = b
		}
	}
	var added []any
	for i, content := range append([]string{"<|end|>", "<|user|>", "<|assistant|>", "<|system|>"}, special...) {
		added = append(added, map[string]any{"id": End + i, "content": content, "special": true})
	}
	writeJSON(tb, dir, contract.TokenizerFiles[0], map[string]any{
		"version": "1.0", "added_tokens": added, "normalizer": nil, "post_processor": nil,
		"pre_tokenizer": map[string]any{"type": "ByteLevel", "add_prefix_space": false, "use_regex": true},
		"decoder":       map[string]any{"type": "ByteLevel"},
		"model":         map[string]any{"type": "BPE", "vocab": vocab, "merges": []string{}},
	})
	writeJSON(tb, dir, "tokenizer_config.json", map[string]any{
		"eos_token": "<|end|>", "chat_template": template,
	})
}

func writeJSON(tb testing.TB, dir, name string, v any) {
	tb.Helper()
	b, err := json.MarshalIndent(v, "", " ")
	must(tb, err)
	must(tb, os.WriteFile(filepath.Join(dir, name), b, 0o600))
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}
