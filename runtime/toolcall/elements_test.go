package toolcall_test

import (
	"encoding/json"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/transformersquared/operator/runtime/constrain"
	"github.com/transformersquared/operator/runtime/toolcall"
)

// walk writes what a layout allows, at random; "" if it comes to no end.
func walk(t *testing.T, g *constrain.Grammar, random *rand.Rand) string {
	t.Helper()
	const stop = 256
	m := g.NewMatcher([]int32{stop})
	var text []byte
	for len(text) < 2000 {
		allowed, err := m.Allowed()
		if err != nil {
			t.Fatal(err)
		}
		var tokens []int32
		for id := range int32(stop + 1) {
			if !allowed.Allows(id) {
				continue
			}
			tokens = append(tokens, id)
			if id != stop && strings.IndexByte("\n</>\"[]{}", byte(id)) >= 0 { // Or it would hardly ever end.
				tokens = append(tokens, id, id, id, id, id, id, id, id, id, id)
			}
		}
		token := tokens[random.IntN(len(tokens))]
		if err := m.Accept(token); err != nil {
			t.Fatal(err)
		}
		if m.Ended() || token == stop {
			return string(text) + map[bool]string{true: "", false: string([]byte{byte(token)})}[token == stop]
		}
		text = append(text, byte(token))
	}
	return ""
}

// TestElementsHaveArgumentsThatValidate has calls of Qwen3-Coder written at random, as the
// schemas of the arguments allow. In what ways an argument's text could be read otherwise, the
// layout must not write it.
func TestElementsHaveArgumentsThatValidate(t *testing.T) {
	f := formatOf(t, "qwen-coder")
	v := constrain.NewVocabulary(257, func(token int32) []byte {
		if token > 255 {
			return nil
		}
		return []byte{byte(token)}
	})
	compiler := constrain.NewCompiler(v, constrain.Options{})
	random := rand.New(rand.NewPCG(1, 2))
	ended := 0
	for _, schema := range []string{
		`{"type":"object","properties":{"a":{"type":"string"},"b":{"type":"integer"},"c":{"type":"boolean"}},"required":["a","b"]}`,
		`{"type":"object","properties":{"a":{"type":["string","null"],"maxLength":4},"b":{"type":["integer","string"],"maximum":3,"maxLength":3}},"required":["a","b"]}`,
		`{"type":"object","properties":{"a":{"enum":["x","1",1,null,true,"true","</parameter>"]},"b":{"const":"null"}},"required":["a"]}`,
		`{"type":"object","properties":{"a":{"anyOf":[{"type":"string","pattern":"^[a-z<{]+$"},{"type":"object","properties":{"k":{"type":"string","maxLength":3}},"required":["k"]}]}},"required":["a"]}`,
		`{"type":"object","properties":{"a":{"type":"array","items":{"type":"string","maxLength":15},"maxItems":2},"b":{"$ref":"#/$defs/n"}},"required":["a","b"],"$defs":{"n":{"type":"number","minimum":-2,"maximum":2}}}`,
		`{"type":"object","properties":{"a":{"minLength":2,"maxLength":20}},"required":["a"]}`,
		`{"type":"object","properties":{"a":{"type":"boolean"}},"additionalProperties":{"type":"integer","minimum":7}}`,
		`{"type":"object","properties":{"a":{"type":"string","format":"date"},"b":{"oneOf":[{"type":"null"},{"type":"string","maxLength":5}]}},"required":["a","b"]}`,
		`{"anyOf":[{"type":"object","properties":{"a":{"type":"string","maxLength":2}},"required":["a"]},{"type":"object","properties":{"a":{"type":"integer"},"b":{"type":"null"}},"required":["a","b"]}]}`,
		`{"type":"object","additionalProperties":false}`,
	} {
		parsed, err := jsonschema.UnmarshalJSON(strings.NewReader(schema))
		if err != nil {
			t.Fatal(err)
		}
		c := jsonschema.NewCompiler()
		c.AssertFormat()
		if err := c.AddResource("schema.json", parsed); err != nil {
			t.Fatal(err)
		}
		validator, err := c.Compile("schema.json")
		if err != nil {
			t.Fatal(err)
		}
		o := toolcall.Offer{Only: "f", Functions: []toolcall.Function{{Name: "f", Strict: true, Parameters: json.RawMessage(schema)}}}
		g, err := compiler.Layout(t.Context(), f.Layout(o, nil))
		if err != nil {
			t.Fatalf("%s: %v", schema, err)
		}
		for range 60 {
			answer := walk(t, g, random)
			if answer == "" {
				continue
			}
			ended++
			_, calls, _ := parse(t, f.NewParser(o, false), answer, 1+random.IntN(9))
			if len(calls) != 1 {
				t.Fatalf("%s: %q is read as %v", schema, answer, calls)
			}
			value, err := jsonschema.UnmarshalJSON(strings.NewReader(calls[0].Arguments))
			if err == nil {
				err = validator.Validate(value)
			}
			if err != nil {
				t.Errorf("%s: %q becomes %s: %v", schema, answer, calls[0].Arguments, err)
			}
			// Nothing but that it is handed on sooner follows from the constraint.
			free := toolcall.Offer{Functions: o.Functions}
			free.Functions[0].Strict = false
			if _, whole, _ := parse(t, f.NewParser(free, false), answer, len(answer)); len(whole) != 1 || !sameJSON(t, whole[0].Arguments, calls[0].Arguments) {
				t.Errorf("%q is read as %v when it is complete, %s as it comes", answer, whole, calls[0].Arguments)
			}
		}
	}
	if ended < 300 {
		t.Errorf("%d answers have ended", ended)
	}
}

func sameJSON(t *testing.T, a, b string) bool {
	t.Helper()
	var x, y any
	if err := json.Unmarshal([]byte(a), &x); err != nil {
		t.Error(err)
	}
	if err := json.Unmarshal([]byte(b), &y); err != nil {
		t.Error(err)
	}
	p, errP := json.Marshal(x)
	q, errQ := json.Marshal(y)
	return errP == nil && errQ == nil && string(p) == string(q)
}
