package model_test

import (
	"strings"
	"testing"

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
	_, err := load(t.Context(), newCPU(t, 1), write(t, tiny(), tensors, tensor.F32))
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
	m, err := load(t.Context(), newCPU(t, 1), write(t, s, tensors, tensor.F32))
	if err != nil {
		t.Fatal(err)
	}
	want := step(t, m, newCache(t, m, 1), prompt)
	tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
	delete(tensors, "model.embed_tokens.weight")
	if m, err = load(t.Context(), newCPU(t, 1), write(t, s, tensors, tensor.F32)); err != nil {
		t.Fatal(err)
	}
	got := step(t, m, newCache(t, m, 1), prompt)
	wantNear(t, "logits", got.Data, wide(want.Data), 0)
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
			m, err := load(t.Context(), newCPU(t, 1), write(t, tiny(), tensors, stored))
			if err != nil {
				t.Fatal(err)
			}
			logits = append(logits, step(t, m, newCache(t, m, 1), prompt))
		}
		wantNear(t, string(d), logits[1].Data, wide(logits[0].Data), 0)
	}
}

func TestLinearsAreListedInOrderWithTheirShapes(t *testing.T) {
	infos := newModel(t, newCPU(t, 1), tiny()).Linears()
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
