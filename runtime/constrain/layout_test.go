package constrain_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/transformersquared/operator/runtime/constrain"
	"github.com/transformersquared/operator/runtime/sample"
)

func layoutOf(t testing.TB, l constrain.Layout) *constrain.Grammar {
	t.Helper()
	g, err := constrain.NewCompiler(byteVocabulary(), constrain.Options{}).Layout(t.Context(), l)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func TestLayoutsAllowWhatTheySay(t *testing.T) {
	number := constrain.Value{Name: "a", Schema: []byte(`{"type":"object","properties":{"n":{"type":"integer"}},"required":["n"]}`), Object: true}
	call := constrain.Sequence{constrain.Literal("<c>"), number, constrain.Literal("</c>")}
	text := constrain.Free{Without: []string{"<c>"}}
	for _, c := range []struct {
		name    string
		layout  constrain.Layout
		yes, no []string
	}{
		{"a literal", constrain.Literal("ab"), []string{"ab"}, []string{"", "a", "abc", "b"}},
		{"bytes that are no text", constrain.Literal("\xf8"), []string{"\xf8"}, []string{"", "\xf9"}},
		{"any value", constrain.Value{}, []string{"1", "null", `{"a":[]}`}, []string{"", "x", "{"}},
		{"any object", constrain.Value{Object: true}, []string{"{}", `{"a":[1]}`}, []string{"1", "[]", ""}},
		{"a value that is no object", constrain.Value{Schema: []byte(`{"type":["integer","object"]}`)}, []string{"1", "{}"}, []string{"[]"}},
		{"the same, as an object", constrain.Value{Schema: []byte(`{"type":["integer","object"]}`), Object: true}, []string{"{}"}, []string{"1", "[]"}},
		{"a sequence", call, []string{`<c>{"n":1}</c>`, `<c>{"n": -20}</c>`}, []string{`<c>{}</c>`, `<c>{"n":1}`, ` <c>{"n":1}</c>`, `<c>{"n":"1"}</c>`}},
		{"a choice", constrain.Choice{constrain.Literal("a"), constrain.Literal("ab"), constrain.Literal("")}, []string{"a", "ab", ""}, []string{"b", "aab", "aa"}},
		{"a choice of one", constrain.Choice{constrain.Literal("a")}, []string{"a"}, []string{"", "b"}},
		{"a repetition", constrain.Repeat{Item: constrain.Choice{constrain.Literal("a"), constrain.Literal("b")}, Between: constrain.Literal(", ")},
			[]string{"a", "b, a", "a, b, b"}, []string{"", "a,", "a, ", "ab", ", a"}},
		{"a repetition, and no more than it", constrain.Sequence{constrain.Repeat{Item: constrain.Literal("a"), Between: constrain.Literal("")}, constrain.Literal("b")},
			[]string{"ab", "aaab"}, []string{"b", "aba", "aa"}},
		{"a repetition in a choice", constrain.Choice{constrain.Literal("x"), constrain.Repeat{Item: constrain.Literal("a"), Between: constrain.Literal("-")}},
			[]string{"x", "a", "a-a"}, []string{"a-x", "x-a", "xa"}},
		{"free text", constrain.Free{}, []string{"", "any é 日本 \n text", "\x00"}, []string{"\xf8", "a\xff"}},
		{"free text without some", text, []string{"", "a", "<c", "<<c", "<c <", "c>", "<C>"}, []string{"<c>", "a<c>", "<<c>b", "<c<c>"}},
		{"free text without several", constrain.Free{Without: []string{"aab", "b"}}, []string{"", "aaa", "aac"}, []string{"b", "aab", "aaab"}},
		{"free text with a beginning", constrain.Free{NotFirst: "{["}, []string{"", " ", "a{", "\n x {"}, []string{"{", " {", "\n\t[a"}},
		{"text, and calls behind it", constrain.Choice{text, constrain.Sequence{text, constrain.Repeat{Item: call, Between: constrain.Literal("\n")}}},
			[]string{"", "a <c", `<c>{"n":1}</c>`, "see: <<c>{\"n\":1}</c>\n<c>{\"n\":2}</c>"},
			[]string{`a <c>`, `<c>{"n":1}</c>x`, `<c>{"n":1}</c> <c>{"n":1}</c>`, `<c>x</c>`}},
		{"a schema that cannot be followed, loosely", constrain.Value{Schema: []byte(`{"not":{}}`), Loose: true}, []string{"{}", `{"a":1}`}, []string{"1"}},
		{"one that nothing satisfies, loosely", constrain.Value{Schema: []byte(`{"type":"object","required":["a"],"additionalProperties":false,"properties":{"a":false}}`), Loose: true},
			[]string{"{}", `{"a":1}`}, []string{"1"}},
		{"one that can be followed, loosely", constrain.Value{Schema: number.Schema, Loose: true}, []string{`{"n":1}`}, []string{"{}"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := layoutOf(t, c.layout)
			for _, text := range append(slices.Clone(c.yes), c.no...) {
				got, err := g.Matches([]byte(text))
				if want := slices.Contains(c.yes, text); err != nil || got != want {
					t.Errorf("%q: %v, %v, want %v", text, got, err, want)
				}
			}
		})
	}
}

func TestLayoutsNameTheSchemaThatIsWrong(t *testing.T) {
	compiler := constrain.NewCompiler(byteVocabulary(), constrain.Options{})
	good := constrain.Value{Name: "good", Schema: []byte(`{"type":"object"}`), Object: true}
	for _, c := range []struct{ name, schema, place, reason string }{
		{"no JSON", `{`, "", "JSON"},
		{"what is not supported", `{"properties":{"a":{"not":{}}}}`, "/properties/a/not", ""},
		{"no object", `{"type":"string"}`, "", "no value"},
	} {
		_, err := compiler.Layout(t.Context(), constrain.Choice{good, constrain.Value{Name: "bad", Schema: []byte(c.schema), Object: true}})
		bad, ok := errors.AsType[*constrain.SchemaError](err)
		if !ok || bad.Schema != "bad" || bad.Place != c.place || !strings.Contains(bad.Reason, c.reason) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	if _, err := compiler.Layout(t.Context(), constrain.Choice{}); err == nil {
		t.Error("a layout that allows nothing compiles")
	}
}

// TestLayoutsAreCompiledOnce holds layouts that differ in one thing each against each other.
func TestLayoutsAreCompiledOnce(t *testing.T) {
	compiler := constrain.NewCompiler(byteVocabulary(), constrain.Options{})
	schema := []byte(`{"type":"object"}`)
	list := []constrain.Layout{
		constrain.Literal("a"), constrain.Literal("b"), constrain.Sequence{constrain.Literal("a")}, constrain.Choice{constrain.Literal("a")},
		constrain.Sequence{constrain.Literal("a"), constrain.Literal("b")}, constrain.Sequence{constrain.Literal("ab")},
		constrain.Repeat{Item: constrain.Literal("a"), Between: constrain.Literal("b")}, constrain.Repeat{Item: constrain.Literal("ab"), Between: constrain.Literal("")},
		constrain.Value{}, constrain.Value{Object: true}, constrain.Value{Loose: true}, constrain.Value{Name: "x"}, constrain.Value{Schema: schema},
		constrain.Free{}, constrain.Free{Without: []string{"a"}}, constrain.Free{NotFirst: "a"}, constrain.Free{Without: []string{"a", "b"}}, constrain.Free{Without: []string{"ab"}},
	}
	seen := map[*constrain.Grammar]int{}
	for i, l := range list {
		first, err := compiler.Layout(t.Context(), l)
		if err != nil {
			t.Fatal(err)
		}
		again, err := compiler.Layout(t.Context(), l)
		if err != nil || again != first {
			t.Errorf("layout %d is compiled twice: %v", i, err)
		}
		if other, taken := seen[first]; taken {
			t.Errorf("layouts %d and %d are taken for the same", other, i)
		}
		seen[first] = i
	}
}

// TestRandomTextsFollowLayouts writes by masks, with tokens of several bytes.
func TestRandomTextsFollowLayouts(t *testing.T) {
	text := constrain.Free{Without: []string{`{"`}}
	g := layoutOf(t, constrain.Choice{text, constrain.Sequence{text, constrain.Repeat{
		Item:    constrain.Value{Schema: []byte(`{"type":"object","properties":{"a":{"type":"integer","maximum":9,"minimum":0}},"required":["a"]}`), Object: true},
		Between: constrain.Literal("\n"),
	}}})
	texts := byteTokens()
	calls := 0
	for seed := range uint64(100) {
		m, rng := g.NewMatcher([]int32{-1}), sample.Stream(seed)
		written := ""
		for len(written) < 200 && !m.Ended() {
			allowed, err := m.Allowed()
			if err != nil {
				t.Fatal(err)
			}
			if m.MayEnd() && rng.IntN(20) == 0 {
				break
			}
			token := int32(rng.IntN(len(texts)))
			if rng.IntN(4) == 0 {
				token = int32(slices.Index(texts, `{"`))
			}
			for !allowed.Allows(token) {
				token = (token + 1) % int32(len(texts))
			}
			if err := m.Accept(token); err != nil {
				t.Fatalf("%q, then %q: %v", written, texts[token], err)
			}
			written += texts[token]
		}
		if before, object, called := strings.Cut(written, `{"`); called {
			calls++
			if strings.Contains(before, `{"`) || m.MayEnd() && !strings.HasPrefix(object, `a":`) {
				t.Errorf("it wrote %q", written)
			}
		}
	}
	if calls < 20 {
		t.Errorf("only %d of 100 texts have an object", calls)
	}
}
