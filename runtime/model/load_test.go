package model_test

import (
	"encoding/binary"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/checkpoint"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/failure"
	"github.com/transformersquared/operator/runtime/model"
	"github.com/transformersquared/operator/runtime/tensor"
)

func TestEveryMissingAndMisshapedTensorIsNamed(t *testing.T) {
	tensors := tiny().tensors()
	delete(tensors, "model.norm.weight")
	delete(tensors, "model.layers.1.self_attn.k_proj.weight")
	tensors["model.layers.0.mlp.down_proj.weight"] = tensor.New(36, 20)
	tensors["model.layers.1.input_layernorm.weight"] = tensor.New(20, 1)
	_, err := load(t.Context(), newBackend(t, 1), write(t, tiny(), tensors, tensor.F32))
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{
		"model.norm.weight is missing",
		"model.layers.1.self_attn.k_proj.weight is missing",
		"model.layers.0.mlp.down_proj.weight has shape [36 20], want [20 36]",
		"model.layers.1.input_layernorm.weight has shape [20 1], want [20]",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not say %q:\n%v", want, err)
		}
	}
	if reason, permanent := failure.Of(err); reason != contract.ReasonInvalidModel || !permanent {
		t.Errorf("the failure is %s, permanent %v", reason, permanent)
	}
}

func TestATiedEmbeddingMayBeStoredAsTheHead(t *testing.T) {
	s := tiny()
	s.Tied = true
	tensors := s.tensors()
	prompt := model.Segment{Tokens: randomTokens(5, s.Vocab, 1)}
	m, err := load(t.Context(), newBackend(t, 1), write(t, s, tensors, tensor.F32))
	if err != nil {
		t.Fatal(err)
	}
	want := step(t, m, newCache(t, m, 1), prompt)
	tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
	delete(tensors, "model.embed_tokens.weight")
	if m, err = load(t.Context(), newBackend(t, 1), write(t, s, tensors, tensor.F32)); err != nil {
		t.Fatal(err)
	}
	got := step(t, m, newCache(t, m, 1), prompt)
	wantNear(t, "logits", got.Data, wide(want.Data), 0)
}

// TestAHeadOfItsOwnIsUsed is about configs that say tied of weights that are not
// (transformers' issue 42612): equal matrices are tied, others are both used.
func TestAHeadOfItsOwnIsUsed(t *testing.T) {
	untied, tied := tiny(), tiny()
	tied.Tied = true
	tensors := untied.tensors()
	prompt := model.Segment{Tokens: randomTokens(5, untied.Vocab, 1)}
	logits := func(s shape) []float32 {
		m, err := load(t.Context(), newBackend(t, 1), write(t, s, tensors, tensor.F32))
		if err != nil {
			t.Fatal(err)
		}
		return step(t, m, newCache(t, m, 1), prompt).Data
	}
	wantNear(t, "a head of its own", logits(tied), wide(logits(untied)), 0)
	tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
	both := logits(tied)
	delete(tensors, "lm_head.weight")
	wantNear(t, "an equal head", both, wide(logits(tied)), 0)
}

// TestDamagedRowsOfAnEmbeddingMatterToTheirTokensOnly: vocabularies are padded with
// rows that nobody trained, and some hold a NaN.
func TestDamagedRowsOfAnEmbeddingMatterToTheirTokensOnly(t *testing.T) {
	s := tiny()
	tensors := s.tensors()
	prompt := model.Segment{Tokens: randomTokens(5, s.Vocab-1, 1)}
	m, err := load(t.Context(), newBackend(t, 1), write(t, s, tensors, tensor.F32))
	if err != nil {
		t.Fatal(err)
	}
	want := step(t, m, newCache(t, m, 1), prompt)
	const embedding = "model.embed_tokens.weight"
	last := int32(s.Vocab - 1)
	dir := write(t, s, tensors, tensor.F32)
	spoil(t, dir, embedding, s.Vocab*s.Hidden-1, math.NaN())
	if _, err = load(t.Context(), newBackend(t, 1), dir, model.EmbeddingAs(backend.BF16)); err != nil {
		t.Fatal(err)
	}
	if m, err = load(t.Context(), newBackend(t, 1), dir); err != nil {
		t.Fatal(err)
	}
	wantNear(t, "logits", step(t, m, newCache(t, m, 1), prompt).Data, wide(want.Data), 0)
	if err := m.CheckTokens(prompt.Tokens); err != nil {
		t.Error(err)
	}
	if err := m.CheckTokens([]int32{0, last}); err == nil || !strings.Contains(err.Error(), "not finite") {
		t.Errorf("the damaged token: %v", err)
	}
	if err := m.CheckTokens([]int32{0, last + 1}); err == nil || !strings.Contains(err.Error(), "the model has the tokens 0 to") {
		t.Errorf("a token behind the vocabulary: %v", err)
	}
	for row := range s.Vocab / 5 {
		spoil(t, dir, embedding, row*s.Hidden, math.Inf(1))
	}
	if _, err := load(t.Context(), newBackend(t, 1), dir); err == nil || !strings.Contains(err.Error(), "rows with a NaN") {
		t.Errorf("an embedding that is damaged all over: %v", err)
	}
	s.Tied = true
	delete(tensors, "lm_head.weight")
	dir = write(t, s, tensors, tensor.F32)
	spoil(t, dir, embedding, s.Vocab*s.Hidden-1, math.NaN())
	if _, err := load(t.Context(), newBackend(t, 1), dir); err == nil || !strings.Contains(err.Error(), "NaN") {
		t.Errorf("a head with a NaN: %v", err)
	}
}

// spoil changes one element of a tensor in a model folder.
func spoil(t *testing.T, dir, name string, element int, value float64) {
	t.Helper()
	path := filepath.Join(dir, checkpoint.WeightsFile)
	f, err := checkpoint.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	info, _ := f.Info(name)
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	binary.LittleEndian.PutUint32(b[info.Offset+4*int64(element):], math.Float32bits(float32(value)))
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestHalfPrecisionWeightsComputeTheSame rounds weights to 16 bits first, so
// that a file in either format holds the very same numbers.
func TestHalfPrecisionWeightsComputeTheSame(t *testing.T) {
	for _, d := range []tensor.DType{tensor.BF16, tensor.F16} {
		tensors := tiny().tensors()
		for _, x := range tensors {
			raw := make([]byte, len(x.Data)*d.Size())
			if err := tensor.Encode(raw, x.Data, d); err != nil {
				t.Fatal(err)
			}
			if err := tensor.Decode(x.Data, raw, d); err != nil {
				t.Fatal(err)
			}
		}
		prompt := model.Segment{Tokens: randomTokens(9, tiny().Vocab, 1), AllLogits: true}
		var logits []*tensor.Tensor
		for _, stored := range []tensor.DType{tensor.F32, d} {
			m, err := load(t.Context(), newBackend(t, 1), write(t, tiny(), tensors, stored))
			if err != nil {
				t.Fatal(err)
			}
			logits = append(logits, step(t, m, newCache(t, m, 1), prompt))
		}
		wantNear(t, string(d), logits[1].Data, wide(logits[0].Data), 0)
	}
}

func TestLinearsAreListedInOrderWithTheirShapes(t *testing.T) {
	infos := newModel(t, newBackend(t, 1), tiny()).Linears()
	if len(infos) != 14 {
		t.Fatalf("%d projections, want 14", len(infos))
	}
	want := model.LinearInfo{Name: "model.layers.1.self_attn.o_proj", Layer: 1, Module: "o_proj", Out: 20, In: 24}
	if infos[10] != want {
		t.Errorf("projection 10 is %+v, want %+v", infos[10], want)
	}
}

func wide(x []float32) []float64 {
	out := make([]float64, len(x))
	for i, v := range x {
		out[i] = float64(v)
	}
	return out
}
