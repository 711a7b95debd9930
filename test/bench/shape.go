package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"

	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/checkpoint"
	"github.com/transformersquared/operator/runtime/tensor"
)

// shape is the geometry of a Llama model.
type shape struct {
	Name                    string
	Hidden, Inner, Layers   int
	Heads, KVHeads, HeadDim int
	Vocab                   int
}

// shapes are those of models that people run: stories15M, SmolLM2-135M, Llama-3.2-1B
// and Llama-3-8B, with tied embeddings all.
var shapes = []shape{
	{Name: "15M", Hidden: 288, Inner: 768, Layers: 6, Heads: 6, KVHeads: 6, HeadDim: 48, Vocab: 32000},
	{Name: "135M", Hidden: 576, Inner: 1536, Layers: 30, Heads: 9, KVHeads: 3, HeadDim: 64, Vocab: 49152},
	{Name: "1B", Hidden: 2048, Inner: 8192, Layers: 16, Heads: 32, KVHeads: 8, HeadDim: 64, Vocab: 128256},
	{Name: "8B", Hidden: 4096, Inner: 14336, Layers: 32, Heads: 32, KVHeads: 8, HeadDim: 128, Vocab: 128256},
}

// context is the number of positions that the models are made for.
const context = 2048

// matrices lists the tensors of a model with their shapes: vectors have one
// row. Each has its names in safetensors and in GGUF files.
func (s shape) matrices() []matrix {
	width, keys := s.Heads*s.HeadDim, s.KVHeads*s.HeadDim
	list := []matrix{
		{"model.embed_tokens.weight", "token_embd.weight", s.Vocab, s.Hidden},
		{"model.norm.weight", "output_norm.weight", 1, s.Hidden},
	}
	for i := range s.Layers {
		hf, gguf := fmt.Sprintf("model.layers.%d.", i), fmt.Sprintf("blk.%d.", i)
		for _, m := range []matrix{
			{"input_layernorm", "attn_norm", 1, s.Hidden},
			{"post_attention_layernorm", "ffn_norm", 1, s.Hidden},
			{"self_attn.q_proj", "attn_q", width, s.Hidden},
			{"self_attn.k_proj", "attn_k", keys, s.Hidden},
			{"self_attn.v_proj", "attn_v", keys, s.Hidden},
			{"self_attn.o_proj", "attn_output", s.Hidden, width},
			{"mlp.gate_proj", "ffn_gate", s.Inner, s.Hidden},
			{"mlp.up_proj", "ffn_up", s.Inner, s.Hidden},
			{"mlp.down_proj", "ffn_down", s.Hidden, s.Inner},
		} {
			m.hf, m.gguf = hf+m.hf+".weight", gguf+m.gguf+".weight"
			list = append(list, m)
		}
	}
	return list
}

type matrix struct {
	hf, gguf   string
	rows, cols int
}

// vector reports whether it is a norm's gain.
func (m matrix) vector() bool { return m.rows == 1 }

// values makes a matrix up: the same numbers each time.
func (m matrix) values() []float32 {
	v := make([]float32, m.rows*m.cols)
	if m.vector() {
		for i := range v {
			v[i] = 1
		}
		return v
	}
	r := rand.New(rand.NewPCG(uint64(m.rows), uint64(m.cols))) //nolint:gosec // The same numbers each time.
	scale := float32(0.04)
	if strings.HasSuffix(m.hf, ".o_proj.weight") || strings.HasSuffix(m.hf, ".down_proj.weight") {
		// What layers add to a token leaves it the largest part, so that a model of random
		// weights still knows what it has read last (see nameOf).
		scale /= 64
	}
	for i := range v {
		v[i] = (r.Float32() - 0.5) * scale
	}
	return v
}

// weightBytes is what one token of a single sequence reads: all matrices but the
// embedding, of which it looks a row up, and which as the head it reads whole.
func (s shape) weightBytes(t backend.DType) int64 {
	n := int64(0)
	for _, m := range s.matrices() {
		if !m.vector() {
			n += t.Bytes(m.rows, m.cols)
		}
	}
	return n
}

// folder is the model's in the bench's. Models of other numbers had other names.
func (s shape) folder(dir string) string { return filepath.Join(dir, s.Name+"-2") }

// write makes a model folder with bf16 weights, unless it is there.
func (s shape) write(dir string) error {
	weights := filepath.Join(dir, checkpoint.WeightsFile)
	if _, err := os.Stat(weights); err == nil {
		return nil
	}
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	config, err := json.Marshal(map[string]any{
		"model_type": "llama", "hidden_size": s.Hidden, "intermediate_size": s.Inner, "num_hidden_layers": s.Layers,
		"num_attention_heads": s.Heads, "num_key_value_heads": s.KVHeads, "head_dim": s.HeadDim, "vocab_size": s.Vocab,
		"max_position_embeddings": context, "rms_norm_eps": 1e-5, "rope_theta": 10000, "tie_word_embeddings": true,
		"hidden_act": "silu", "eos_token_id": 0, "torch_dtype": "bfloat16",
	})
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, checkpoint.ConfigFile), config, 0o600); err != nil {
		return err
	}
	var all []checkpoint.Stored
	for _, m := range s.matrices() {
		entry := func() checkpoint.Entry {
			t := &tensor.Tensor{Shape: m.shape(), Data: m.values()}
			return checkpoint.Entry{Name: m.hf, DType: tensor.BF16, Tensor: t}
		}
		all = append(all, checkpoint.Stored{
			Name: m.hf, DType: string(tensor.BF16), Shape: m.shape(), Size: int64(m.rows) * int64(m.cols) * int64(tensor.BF16.Size()),
			// Made when it is written: a large model's matrices need not be there together.
			Write: func(w io.Writer) error { return entry().Stored().Write(w) },
		})
	}
	return checkpoint.WriteShards(dir, all, nil, math.MaxInt64)
}

func (m matrix) shape() []int {
	if m.vector() {
		return []int{m.cols}
	}
	return []int{m.rows, m.cols}
}
