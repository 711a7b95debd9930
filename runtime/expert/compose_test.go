package expert_test

import (
	"context"
	"errors"
	"math"
	"testing"

	"github.com/transformersquared/operator/runtime/backend/registry/registrytest"
	"github.com/transformersquared/operator/runtime/expert"
	"github.com/transformersquared/operator/runtime/model"
)

func load(t *testing.T, seed uint64) (*model.Model, *expert.Decomposition) {
	t.Helper()
	ck, digest := tiny(t, seed)
	d, _ := decomposed(t, ck, spec(digest))
	be := registrytest.Open(t, 1)
	m, err := model.Load(t.Context(), be, ck)
	if err != nil {
		t.Fatal(err)
	}
	return m, d
}

func TestComposedWeightsAreTheFormula(t *testing.T) {
	m, d := load(t, 1)
	z := vectorFor(d, 0.2).Z
	untouched := "model.layers.1.self_attn.o_proj"
	delete(z, untouched)
	composed, err := expert.Compose(t.Context(), m, d, scaled(z))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range d.Matrices() {
		got, err := composed.Weight(name)
		if err != nil {
			t.Fatal(err)
		}
		if name == untouched {
			base, err := m.Weight(name)
			if err != nil {
				t.Fatal(err)
			}
			for i := range base.Data {
				if base.Data[i] != got.Data[i] {
					t.Fatalf("%s changed", name)
				}
			}
			continue
		}
		f, err := d.Factors(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		for o := range got.Rows() {
			for i := range got.Cols() {
				want := 0.0
				for r, s := range f.S {
					want += float64(f.U.Row(o)[r]) * float64(s) * float64(z[name][r]) * float64(f.Vt.Row(r)[i])
				}
				if x := float64(got.Row(o)[i]); math.Abs(x-want) > 1e-6*(1+math.Abs(want)) {
					t.Fatalf("%s[%d,%d] is %v, want %v", name, o, i, x, want)
				}
			}
		}
	}
}

// TestBaseFactoredAndComposedAgree runs one prompt through the base, through its
// factors, and through weights composed with z = 1.
func TestBaseFactoredAndComposedAgree(t *testing.T) {
	m, d := load(t, 3)
	d.Keep()
	attached, err := expert.Attach(m, d, nil)
	if err != nil {
		t.Fatal(err)
	}
	ones := vectorFor(d, 0).Z
	composed, err := expert.Compose(t.Context(), m, d, scaled(ones))
	if err != nil {
		t.Fatal(err)
	}
	want := logits(t, m)
	for name, other := range map[string]*model.Model{"factored": attached, "composed": composed} {
		for i, x := range logits(t, other) {
			if math.Abs(float64(x-want[i])) > 1e-4 {
				t.Fatalf("%s: logit %d is %v, base has %v", name, i, x, want[i])
			}
		}
	}
	other, err := expert.Compose(t.Context(), m, d, scaled(vectorFor(d, 0.3).Z))
	if err != nil {
		t.Fatal(err)
	}
	difference := 0.0
	for i, x := range logits(t, other) {
		difference = max(difference, math.Abs(float64(x-want[i])))
	}
	if difference < 1e-2 {
		t.Errorf("an expert changes logits by %v at most", difference)
	}
}

func logits(t *testing.T, m *model.Model) []float32 {
	t.Helper()
	cache, err := m.NewCache(1, 16)
	if err != nil {
		t.Fatal(err)
	}
	defer cache.Close()
	out, err := m.Step(t.Context(), cache, []model.Segment{{Seq: 0, Tokens: []int32{257, 72, 105, 256, 258}}})
	if err != nil {
		t.Fatal(err)
	}
	return out.Data
}

func TestComposingFailsCleanly(t *testing.T) {
	m, d := load(t, 1)
	name := d.Matrices()[0]
	if _, err := expert.Compose(t.Context(), m, d, scaled(map[string][]float32{name: {1}})); err == nil {
		t.Error("a z of the wrong length was used")
	}
	if _, err := expert.Compose(t.Context(), m, d, scaled(map[string][]float32{"nothing": {1}})); err == nil {
		t.Error("a z of no matrix was used")
	}
	if _, err := expert.Attach(m, d, []string{"nothing"}); err == nil {
		t.Error("no matrix was attached")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := expert.Compose(ctx, m, d, scaled(vectorFor(d, 0.1).Z)); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// scaled are matrices whose singular values are multiplied by z.
func scaled(z map[string][]float32) map[string]expert.Mixed {
	all := map[string]expert.Mixed{}
	for name, values := range z {
		all[name] = expert.Mixed{Z: values}
	}
	return all
}
