package constrain_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/transformersquared/operator/runtime/constrain"
)

func TestWhatIsNotSupportedIsRefusedByItsPlace(t *testing.T) {
	deep := func(n int) string {
		return strings.Repeat(`{"items":`, n) + `true` + strings.Repeat(`}`, n)
	}
	for _, c := range []struct{ name, schema, place, reason string }{
		{"no JSON", `{"type":`, "/type", "no JSON"},
		{"nothing", ``, "", "no JSON"},
		{"two schemas", `{} {}`, "", "follows"},
		{"a number", `3`, "", "an object, true or false"},
		{"a keyword twice", `{"type":"string","type":"null"}`, "", "twice"},
		{"a type that is none", `{"properties":{"a":{"type":"float"}}}`, "/properties/a/type", "no type"},
		{"no types", `{"type":[]}`, "/type", "list of types"},
		{"not", `{"not":{"type":"null"}}`, "/not", "not supported"},
		{"if", `{"anyOf":[{"if":{}}]}`, "/anyOf/0/if", "not supported"},
		{"a pattern of names", `{"patternProperties":{}}`, "/patternProperties", "not supported"},
		{"contains", `{"contains":{}}`, "/contains", "not supported"},
		{"items that differ", `{"uniqueItems":true}`, "/uniqueItems", "not supported"},
		{"a count of properties", `{"minProperties":1}`, "/minProperties", "not supported"},
		{"items as a list", `{"items":[{}]}`, "/items", "prefixItems"},
		{"a format", `{"format":"email"}`, "/format", "date-time"},
		{"a word boundary", `{"pattern":"\\bx"}`, "/pattern", "boundary"},
		{"looking ahead", `{"pattern":"(?=x)"}`, "/pattern", "not supported"},
		{"a back reference", `{"pattern":"(a)\\1"}`, "/pattern", "not supported"},
		{"a pattern of many states", `{"pattern":"^(a|b)*a(a|b){30}$"}`, "/pattern", "states"},
		{"a long text", `{"maxLength":1000000}`, "/maxLength", "16384"},
		{"a length that is no count", `{"minLength":-1}`, "/minLength", "whole number"},
		{"a long number", `{"minimum":1e400}`, "/minimum", "too large"},
		{"a very long number", `{"minimum":1e999999999999}`, "/minimum", "too large"},
		{"an exact bound", `{"minimum":0.123456789012345678901234}`, "/minimum", "digits"},
		{"multiples of nothing", `{"multipleOf":0}`, "/multipleOf", "above 0"},
		{"multiples of much", `{"multipleOf":123457}`, "/multipleOf", "4096"},
		{"a reference to elsewhere", `{"$ref":"https://example.com/a"}`, "/$ref", "not supported"},
		{"a reference to an anchor", `{"$ref":"#a"}`, "/$ref", "not supported"},
		{"a reference to nothing", `{"properties":{"a":{"$ref":"#/$defs/b"}}}`, "/properties/a/$ref", "not there"},
		{"a reference to itself", `{"$ref":"#"}`, "", "refers to itself"},
		{"references in a ring", `{"$defs":{"a":{"$ref":"#/$defs/b"},"b":{"anyOf":[{"type":"null"},{"$ref":"#/$defs/a"}]}},"$ref":"#/$defs/a"}`, "/$defs/a", "refers to itself"},
		{"one of what may both be", `{"oneOf":[{"type":"integer"},{"type":"number"}]}`, "/oneOf", "both"},
		{"one of objects that may both be", `{"properties":{"a":{"oneOf":[{"type":"object","properties":{"a":{}}},{"type":"object","properties":{"b":{}}}]}}}`, "/properties/a/oneOf", "both"},
		{"an identifier below the root", `{"items":{"$id":"x"}}`, "/items/$id", "not supported"},
		{"a deep schema", deep(200), "", "nested deeper"},
		{"false", `false`, "", "no value"},
		{"a contradiction", `{"type":"string","allOf":[{"type":"null"}]}`, "", "no value"},
		{"an object that never ends", `{"type":"object","properties":{"a":{"$ref":"#"}},"required":["a"]}`, "", "no value"},
		{"a list that is too short", `{"type":"array","minItems":3,"maxItems":2}`, "", "no value"},
		{"a number between none", `{"type":"integer","exclusiveMinimum":1,"exclusiveMaximum":2}`, "", "no value"},
		{"too many alternatives", `{"allOf":[` + strings.Repeat(`{"anyOf":[{"maxLength":1},{"maxLength":2},{"maxLength":3},{"maxLength":4}]},`, 9) + `true]}`, "", "combinations"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := constrain.NewCompiler(byteVocabulary(), constrain.Options{}).Schema(t.Context(), []byte(c.schema))
			var refused *constrain.SchemaError
			if !errors.As(err, &refused) {
				t.Fatalf("got %v", err)
			}
			if c.name != "a deep schema" && refused.Place != c.place || !strings.Contains(refused.Error(), c.reason) {
				t.Errorf("refused at %q: %v; want it at %q, for %q", refused.Place, refused, c.place, c.reason)
			}
		})
	}
}

// TestAmbiguityCostsNoMore has a text that can be read in 2ⁿ ways: stacks with a common top
// are one.
func TestAmbiguityCostsNoMore(t *testing.T) {
	g, err := constrain.NewCompiler(byteVocabulary(), constrain.Options{}).Schema(t.Context(),
		[]byte(`{"anyOf":[{"type":"array","items":{"$ref":"#"}},{"type":"array","items":{"$ref":"#"},"maxItems":2}]}`))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		text string
		want bool
	}{
		{strings.Repeat("[", 2000) + strings.Repeat("]", 2000), true},
		{strings.Repeat("[", 2000) + "1" + strings.Repeat("]", 2000), false},
	} {
		if got, err := g.Matches([]byte(c.text)); got != c.want || err != nil {
			t.Errorf("%d bytes match: %v, %v", len(c.text), got, err)
		}
	}
}

// TestObjectsAreClosedUnlessAsked is what Options.Open is for.
func TestObjectsAreClosedUnlessAsked(t *testing.T) {
	const listed, unlisted = `{"type":"object","properties":{"a":{"type":"null"}}}`, `{"type":"object"}`
	for _, c := range []struct {
		schema, text string
		open, want   bool
	}{
		{listed, `{"b":1}`, true, true},
		{listed, `{"b":1}`, false, false},
		{listed, `{"a":null}`, false, true},
		{unlisted, `{"b":1}`, false, true},
	} {
		g, err := constrain.NewCompiler(byteVocabulary(), constrain.Options{Open: c.open}).Schema(t.Context(), []byte(c.schema))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := g.Matches([]byte(c.text)); got != c.want || err != nil {
			t.Errorf("%s, open %v: %s matches: %v, %v", c.schema, c.open, c.text, got, err)
		}
	}
}

func TestAnswersHaveAtMostOneBlank(t *testing.T) {
	g, err := constrain.NewCompiler(byteVocabulary(), constrain.Options{}).Object(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]bool{
		`{"a": 1, "b": [1, 2], "c":{"d":"  "}}`: true, `{"a":  1}`: false, ` {}`: false, `{} `: false, `{ }`: false, "{\"a\":\n1}": false,
		`[]`: false, `{"a":1,}`: false, `{"a":01}`: false, `{"a":1e5}`: true, `{"a":"\ud83d"}`: false, `{"a":"\ud83d\ude00"}`: true, "{\"a\":\"\xff\"}": false,
		"{\"a\":\"\xed\xa0\x80\"}": false, "{\"a\":\"\n\"}": false, `{"a":-0}`: false, `{"a":-0.5}`: true, `{"a":.5}`: false, `{"a":1.}`: false,
	} {
		if got, err := g.Matches([]byte(text)); got != want || err != nil {
			t.Errorf("%q matches: %v, %v", text, got, err)
		}
	}
}

func TestPatternsMatchPlainTexts(t *testing.T) {
	g, err := constrain.NewCompiler(byteVocabulary(), constrain.Options{}).Pattern(t.Context(), `^(yes|no), "é"$`)
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]bool{`yes, "é"`: true, `no, "é"`: true, `maybe`: false, `yes, \"é\"`: false} {
		if got, err := g.Matches([]byte(text)); got != want || err != nil {
			t.Errorf("%q matches: %v, %v", text, got, err)
		}
	}
}

// TestManyAskForTheSameSchema has some who give up, one of whom may be the one who compiles.
func TestManyAskForTheSameSchema(t *testing.T) {
	compiler := constrain.NewCompiler(byteVocabulary(), constrain.Options{})
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	grammars := make([]*constrain.Grammar, 16)
	var wg sync.WaitGroup
	for i := range grammars {
		wg.Go(func() {
			ctx, mayFail := t.Context(), i%4 == 0
			if mayFail {
				ctx = gone
			}
			g, err := compiler.Schema(ctx, []byte(`{"type":"array","items":{"type":"number"},"maxItems":40}`))
			if err != nil && !mayFail {
				t.Error(err)
			}
			grammars[i] = g
		})
	}
	wg.Wait()
	for i, g := range grammars {
		if i%4 != 0 && g != grammars[1] {
			t.Error("it was compiled twice")
		}
	}
	for i := range 200 { // More than are kept.
		if _, err := compiler.Schema(t.Context(), fmt.Appendf(nil, `{"const":%d}`, i)); err != nil {
			t.Fatal(err)
		}
	}
	again, err := compiler.Schema(t.Context(), []byte(`{"type":"array","items":{"type":"number"},"maxItems":40}`))
	if err != nil || again == grammars[1] {
		t.Errorf("what was used least was kept: %v", err)
	}
}

// TestLongAnswersKeepTheirPlace has more states than are memoised, and several answers.
func TestLongAnswersKeepTheirPlace(t *testing.T) {
	v := byteVocabulary()
	g, err := constrain.NewCompiler(v, constrain.Options{}).Schema(t.Context(), []byte(`{"type":"array","items":{"type":"string","maxLength":5000}}`))
	if err != nil {
		t.Fatal(err)
	}
	matchers := []*constrain.Matcher{g.NewMatcher(nil), g.NewMatcher(nil)}
	text := `["` + strings.Repeat("a", 5000) + `","` + strings.Repeat("b", 4000) + `"]`
	for i := range len(text) {
		for _, m := range matchers {
			if i%100 == 0 {
				mask, err := m.Allowed()
				if err != nil || !mask.Allows(int32(text[i])) {
					t.Fatalf("byte %d is not allowed: %v", i, err)
				}
			}
			if err := m.Accept(int32(text[i])); err != nil {
				t.Fatalf("byte %d: %v", i, err)
			}
		}
	}
	for _, m := range matchers {
		if !m.Ended() {
			t.Error("the answer has not ended")
		}
		if err := m.Accept('x'); err == nil {
			t.Error("something is taken behind the end")
		}
	}
}
