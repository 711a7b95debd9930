package engine

import (
	"testing"

	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/constrain"
	"github.com/transformersquared/operator/runtime/sample"
)

// TestUnderAConstraintTheDeviceChooses asks for a token among those allowed, and never for a
// row of logits that nobody wants; where one is allowed nothing is asked.
func TestUnderAConstraintTheDeviceChooses(t *testing.T) {
	const one, two, end = 1, 2, 3
	v := constrain.NewVocabulary(4, func(token int32) []byte { return []byte([]string{"x", "1", "2", ""}[token]) })
	g, err := constrain.NewCompiler(v, constrain.Options{}).Schema(t.Context(), []byte(`{"enum":[11,21]}`))
	if err != nil {
		t.Fatal(err)
	}
	a := &answer{request: Request{Constraint: g.NewMatcher([]int32{end}), Logprobs: -1}, sampler: sample.New(sample.Params{Temperature: 1}, sample.Stream(1))}
	ask := a.asks()[0]
	if ask.Logits || ask.Draw == nil || len(ask.Draw.Allowed) != 1 || ask.Draw.Allowed[0] != 1<<one|1<<two {
		t.Fatalf("it asks %+v", ask)
	}
	if token, err := a.chosen(backend.Answer{Token: two}); token != two || err != nil {
		t.Errorf("token %d, %v", token, err)
	}
	if ask = a.asks()[0]; ask.Logits || ask.Draw != nil {
		t.Errorf("where one token is allowed it asks %+v", ask)
	}
	if token, err := a.chosen(backend.Answer{}); token != one || err != nil {
		t.Errorf("token %d, %v", token, err)
	}
	a.request.Constraint, a.request.Logprobs = nil, 2
	if ask = a.asks()[0]; !ask.Logits || ask.Draw == nil || ask.Draw.Allowed != nil {
		t.Errorf("without a constraint it asks %+v", ask)
	}
}
