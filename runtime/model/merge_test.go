package model_test

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/transformersquared/operator/runtime/model"
)

// TestMergingIntoAModelEqualsMergingAnew trains nothing: it changes scales, and wants of
// the merged model that is there the matrices of one that is made.
func TestMergingIntoAModelEqualsMergingAnew(t *testing.T) {
	base := newModel(t, newBackend(t, 2), tiny())
	factors := randomFactors(base, "up_proj", "down_proj", "o_proj")
	m, err := base.WithFactors(factors)
	if err != nil {
		t.Fatal(err)
	}
	merged, err := m.Merged(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	before := weights(t, merged)
	for name, f := range factors {
		s := slices.Clone(f.S)
		for i := range s {
			s[i] *= 1 + float32(i%3)
		}
		if err := m.SetParameters(name, model.Parameters{S: s}); err != nil {
			t.Fatal(err)
		}
	}
	if !slices.Equal(weights(t, merged), before) {
		t.Error("setting a scale changed the merged model")
	}
	if err := m.MergeInto(t.Context(), merged); err != nil {
		t.Fatal(err)
	}
	anew, err := m.Merged(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	got := weights(t, merged)
	if slices.Equal(got, before) || !slices.Equal(got, weights(t, anew)) {
		t.Error("merging into a model makes other matrices than merging anew")
	}
	if err := m.MergeInto(t.Context(), m); err == nil {
		t.Error("merging into a factored model: no error")
	}
	if err := m.MergeInto(t.Context(), newModel(t, newBackend(t, 1), tiny())); err == nil {
		t.Error("merging into a model of another backend: no error")
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	if err := m.MergeInto(cancelled, merged); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// weights are all matrices of the projections, behind each other.
func weights(t *testing.T, m *model.Model) []float32 {
	t.Helper()
	var all []float32
	for _, info := range m.Linears() {
		w, err := m.Weight(info.Name)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, w.Data...)
	}
	return all
}
