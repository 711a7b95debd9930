package model_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/checkpoint"
	"github.com/transformersquared/operator/runtime/model"
	"github.com/transformersquared/operator/runtime/tensor"
)

// shape is a config.json in the form the tests write it.
type shape struct {
	ModelType    string         `json:"model_type"`
	Hidden       int            `json:"hidden_size"`
	Inner        int            `json:"intermediate_size"`
	Layers       int            `json:"num_hidden_layers"`
	Heads        int            `json:"num_attention_heads"`
	KVHeads      int            `json:"num_key_value_heads"`
	HeadDim      int            `json:"head_dim"`
	Vocab        int            `json:"vocab_size"`
	MaxPositions int            `json:"max_position_embeddings"`
	Eps          float64        `json:"rms_norm_eps"`
	Theta        float64        `json:"rope_theta"`
	Scaling      map[string]any `json:"rope_scaling,omitempty"`
	Tied         bool           `json:"tie_word_embeddings"`
	Activation   string         `json:"hidden_act"`
}

// tiny has every irregularity of the family: grouped queries, a head dimension
// that does not divide the hidden size, untied embeddings.
func tiny() shape {
	return shape{
		ModelType: "llama", Hidden: 20, Inner: 36, Layers: 2, Heads: 4, KVHeads: 2, HeadDim: 6,
		Vocab: 37, MaxPositions: 64, Eps: 1e-5, Theta: 10000, Activation: "silu",
	}
}

// biased is tiny with biases of queries, keys and values.
func biased() shape {
	s := tiny()
	s.ModelType = "qwen2"
	return s
}

// demo is the shape of the demo model.
func demo() shape {
	return shape{
		ModelType: "llama", Hidden: 128, Inner: 384, Layers: 6, Heads: 4, KVHeads: 2, HeadDim: 32,
		Vocab: 512, MaxPositions: 512, Eps: 1e-5, Theta: 10000, Activation: "silu", Tied: true,
	}
}

// larger is a shape of 125 million parameters.
func larger() shape {
	return shape{
		ModelType: "llama", Hidden: 768, Inner: 2560, Layers: 12, Heads: 12, KVHeads: 4, HeadDim: 64,
		Vocab: 32000, MaxPositions: 512, Eps: 1e-5, Theta: 10000, Activation: "silu", Tied: true,
	}
}

// tensors makes random weights of a scale that keeps activations near one.
func (s shape) tensors() map[string]*tensor.Tensor {
	r := rand.New(rand.NewPCG(11, 7))
	out := map[string]*tensor.Tensor{}
	add := func(name string, mean, deviation float64, dims ...int) {
		t := tensor.New(dims...)
		for i := range t.Data {
			t.Data[i] = float32(mean + deviation*r.NormFloat64())
		}
		out[name] = t
	}
	width, keys := s.Heads*s.HeadDim, s.KVHeads*s.HeadDim
	matrix := func(name string, rows, cols int) {
		add(name+".weight", 0, 1/math.Sqrt(float64(cols)), rows, cols)
	}
	add("model.embed_tokens.weight", 0, 1, s.Vocab, s.Hidden)
	if !s.Tied {
		matrix("lm_head", s.Vocab, s.Hidden)
	}
	add("model.norm.weight", 1, 0.1, s.Hidden)
	for i := range s.Layers {
		p := fmt.Sprintf("model.layers.%d.", i)
		add(p+"input_layernorm.weight", 1, 0.1, s.Hidden)
		add(p+"post_attention_layernorm.weight", 1, 0.1, s.Hidden)
		matrix(p+"self_attn.q_proj", width, s.Hidden)
		matrix(p+"self_attn.k_proj", keys, s.Hidden)
		matrix(p+"self_attn.v_proj", keys, s.Hidden)
		if s.ModelType == "qwen2" {
			add(p+"self_attn.q_proj.bias", 0, 0.5, width)
			add(p+"self_attn.k_proj.bias", 0, 0.5, keys)
			add(p+"self_attn.v_proj.bias", 0, 0.5, keys)
		}
		matrix(p+"self_attn.o_proj", s.Hidden, width)
		matrix(p+"mlp.gate_proj", s.Inner, s.Hidden)
		matrix(p+"mlp.up_proj", s.Inner, s.Hidden)
		matrix(p+"mlp.down_proj", s.Hidden, s.Inner)
	}
	return out
}

// write makes a model folder of this shape and these tensors.
func write(tb testing.TB, s shape, tensors map[string]*tensor.Tensor, d tensor.DType) string {
	tb.Helper()
	dir := tb.TempDir()
	config, err := json.Marshal(s)
	if err != nil {
		tb.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, checkpoint.ConfigFile), config, 0o600); err != nil {
		tb.Fatal(err)
	}
	if err := checkpoint.WriteSafetensors(filepath.Join(dir, checkpoint.WeightsFile), tensors, d, nil); err != nil {
		tb.Fatal(err)
	}
	return dir
}

// load opens a model folder on a backend.
func load(ctx context.Context, be backend.Backend, dir string, options ...model.Option) (*model.Model, error) {
	ck, err := checkpoint.OpenDir(dir)
	if err != nil {
		return nil, err
	}
	m, err := model.Load(ctx, be, ck, options...)
	if closeErr := ck.Close(); err == nil {
		err = closeErr
	}
	return m, err
}

func newModel(tb testing.TB, be backend.Backend, s shape, options ...model.Option) *model.Model {
	tb.Helper()
	m, err := load(tb.Context(), be, write(tb, s, s.tensors(), tensor.F32), options...)
	if err != nil {
		tb.Fatal(err)
	}
	return m
}

// randomFactors makes factors of full rank for the projections of these modules
// (all if none): not the decomposition of the model's matrices, but of its size.
func randomFactors(m *model.Model, names ...string) map[string]model.Factors {
	r := rand.New(rand.NewPCG(5, 6))
	out := map[string]model.Factors{}
	wanted := map[string]bool{}
	for _, n := range names {
		wanted[n] = true
	}
	for _, info := range m.Linears() {
		if len(names) > 0 && !wanted[info.Module] {
			continue
		}
		rank := min(info.Out, info.In)
		f := model.Factors{U: tensor.New(info.Out, rank), Vt: tensor.New(rank, info.In), S: make([]float32, rank)}
		for i := range f.U.Data {
			f.U.Data[i] = float32(r.NormFloat64() / math.Sqrt(float64(info.Out)))
		}
		for i := range f.Vt.Data {
			f.Vt.Data[i] = float32(r.NormFloat64() / math.Sqrt(float64(info.In)))
		}
		for i := range f.S {
			f.S[i] = float32(0.2 + r.Float64())
		}
		out[info.Name] = f
	}
	return out
}

func randomTokens(n, vocab int, seed uint64) []int32 {
	r := rand.New(rand.NewPCG(seed, 2))
	out := make([]int32, n)
	for i := range out {
		out[i] = int32(r.IntN(vocab))
	}
	return out
}
