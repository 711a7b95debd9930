package constrain_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/transformersquared/operator/runtime/constrain"
	"github.com/transformersquared/operator/runtime/sample"
)

// FuzzSchema compiles what comes. It is refused, or a random model can write by it and never
// gets stuck.
func FuzzSchema(f *testing.F) {
	for i := range uint64(20) {
		f.Add(mustMarshal(f, (&schemas{rng: sample.Stream(1, i)}).root()), i)
	}
	for _, seed := range []string{
		`{"anyOf":[{"$ref":"#"},true]}`, `{"pattern":"^(a*)*$"}`, `{"multipleOf":1e-9,"minimum":-1e15}`, `{"enum":[{"a":[1,{"b":null}]},1e10]}`,
		`{"allOf":[{"items":{"$ref":"#"}},{"items":{"allOf":[{"$ref":"#"}]}}]}`, `{"oneOf":[{"const":1},{"const":2},{"type":"array","items":{"$ref":"#"}}]}`,
	} {
		f.Add([]byte(seed), uint64(1))
	}
	v := byteVocabulary()
	f.Fuzz(func(t *testing.T, schema []byte, seed uint64) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		g, err := constrain.NewCompiler(v, constrain.Options{Open: seed%2 == 0}).Schema(ctx, schema)
		if err != nil {
			var refused *constrain.SchemaError
			if !errors.As(err, &refused) && ctx.Err() == nil {
				t.Errorf("an error of another kind: %v", err)
			}
			return
		}
		m := g.NewMatcher(nil)
		rng := sample.Stream(seed)
		for range 50 {
			allowed, err := m.Allowed()
			if m.Ended() || errors.Is(err, constrain.ErrTooComplex) {
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			token := allowed.First
			for skip := rng.IntN(allowed.Count); skip > 0; {
				if token++; allowed.Allows(token) {
					skip--
				}
			}
			if err := m.Accept(token); err != nil {
				t.Fatal(err)
			}
		}
	})
}
