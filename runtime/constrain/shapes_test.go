package constrain_test

import (
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/transformersquared/operator/runtime/constrain"
)

// byteVocabulary has a token for each byte and some longer ones, as byte-pair encoding makes
// them: of parts of JSON and of letters.
func byteVocabulary() *constrain.Vocabulary {
	texts := byteTokens()
	return constrain.NewVocabulary(len(texts), func(id int32) []byte { return []byte(texts[id]) })
}

func byteTokens() []string {
	var texts []string
	for b := range 256 {
		texts = append(texts, string([]byte{byte(b)}))
	}
	return append(texts, `{"`, `":`, `": `, `": "`, `","`, `", "`, `"}`, `}}`, `]}`, `[[`, `[{"`, `}, {"`, `true`, `false`, `null`,
		`\"`, `\\`, `\u`, `\ud83d\ude00`, `10`, `00`, `12`, `1.`, `.5`, `e+`, `-1`, `an`, `the`, ` a`, `  `, "é", "\xc3", "\x9f\x98", "😀", "日本", `b":`, `a":1`, `"a`, `"b"`)
}

// validator compiles a schema with the validator that answers are held against.
func validator(t testing.TB, schema string) *jsonschema.Schema {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(strings.NewReader(schema))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft2020)
	c.AssertFormat()
	if err := c.AddResource("schema.json", doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("schema.json")
	if err != nil {
		t.Fatalf("%s: %v", schema, err)
	}
	return s
}

// valid reports what the validator says of a text.
func valid(t testing.TB, s *jsonschema.Schema, text string) bool {
	t.Helper()
	v, err := jsonschema.UnmarshalJSON(strings.NewReader(text))
	if err != nil {
		return false
	}
	return s.Validate(v) == nil
}

// TestGrammarsAgreeWithAValidator has the shapes of JSON-Schema-Test-Suite, draft 2020-12,
// for the keywords that are supported. Every instance is in the form that this package writes.
func TestGrammarsAgreeWithAValidator(t *testing.T) {
	every := []string{`null`, `true`, `false`, `0`, `-1`, `3`, `1.5`, `"a"`, `""`, `[]`, `[1]`, `{}`, `{"a":1}`, `{"b":{"c":[null]}}`}
	for _, c := range []struct {
		name, schema string
		instances    []string
	}{
		{"anything", `true`, every},
		{"anything, by an empty schema", `{}`, every},
		{"a type", `{"type":"integer"}`, every},
		{"numbers, whole ones, too", `{"type":"number"}`, every},
		{"texts", `{"type":"string"}`, every},
		{"objects", `{"type":"object"}`, every},
		{"arrays", `{"type":"array"}`, every},
		{"booleans", `{"type":"boolean"}`, every},
		{"null", `{"type":"null"}`, every},
		{"several types", `{"type":["integer","null","string"]}`, every},
		{"properties of any value", `{"properties":{"foo":{"type":"integer"},"bar":{"type":"string"}}}`,
			append([]string{`{"foo":1,"bar":"baz"}`, `{"foo":1,"bar":{}}`, `{"foo":[],"bar":{}}`, `{"quux":[]}`, `{"foo":1}`}, every...)},
		{"properties and others", `{"properties":{"foo":{},"bar":{}},"additionalProperties":{"type":"boolean"}}`,
			[]string{`{"foo":1}`, `{"foo":1,"bar":2,"quux":true}`, `{"foo":1,"bar":2,"quux":12}`, `{"fo":true}`, `{"fooo":1}`, `{"fooo":false}`, `{"":true}`, `{"é":true}`, `{"é":1}`}},
		{"no other properties", `{"type":"object","properties":{"foo":{},"bar":{}},"additionalProperties":false}`,
			[]string{`{}`, `{"foo":1}`, `{"bar":1}`, `{"foo":1,"bar":2}`, `{"foo":1,"bar":2,"quux":"boom"}`, `{"x":1}`}},
		{"required properties", `{"properties":{"foo":{},"bar":{}},"required":["foo"]}`, []string{`{"foo":1}`, `{"bar":1}`, `{}`, `{"foo":1,"bar":1}`, `1`}},
		{"required and not listed", `{"type":"object","properties":{"a":{}},"required":["z"]}`, []string{`{"a":1,"z":2}`, `{"z":1}`, `{"a":1}`, `{"z":2,"q":1}`}},
		{"names that need escapes", `{"type":"object","properties":{"foo\nbar":{"type":"number"},"foo\"bar":{"type":"number"},"foo\\bar":{},"a/b":{"type":"number"}},"required":["foo\nbar"],"additionalProperties":false}`,
			[]string{`{"foo\nbar":1,"foo\"bar":1,"foo\\bar":1,"a/b":2}`, `{"foo\nbar":"1"}`, `{"foo\"bar":1}`}},
		{"a property that cannot be", `{"type":"object","properties":{"a":false,"b":true}}`, []string{`{}`, `{"b":1}`, `{"a":1}`, `{"a":1,"b":2}`}},
		{"items", `{"items":{"type":"integer"}}`, append([]string{`[1,2,3]`, `[1,"x"]`, `{"foo":"bar"}`}, every...)},
		{"items that cannot be", `{"items":false}`, []string{`[]`, `[1]`}},
		{"prefixItems", `{"prefixItems":[{"type":"integer"},{"type":"string"}]}`, []string{`[1,"foo"]`, `["foo",1]`, `[1]`, `[1,"foo",true]`, `[]`}},
		{"prefixItems and no more", `{"type":"array","prefixItems":[{"type":"integer"},{"type":"string"}],"items":false}`, []string{`[1,"foo"]`, `[1]`, `[1,"foo",true]`, `[]`}},
		{"nested items", `{"type":"array","items":{"type":"array","items":{"type":"array","items":{"type":"number"}}}}`, []string{`[[[1]],[[2,3]]]`, `[[["1"]]]`, `[[1]]`, `[[],[[]]]`}},
		{"minItems and maxItems", `{"type":"array","minItems":1,"maxItems":3}`, []string{`[]`, `[1]`, `[1,2]`, `[1,2,3]`, `[1,2,3,4]`}},
		{"no item at all", `{"type":"array","maxItems":0}`, []string{`[]`, `[1]`}},
		{"at least two items, the first of a type", `{"type":"array","minItems":2,"prefixItems":[{"type":"null"}]}`, []string{`[]`, `[null]`, `[null,1]`, `[1,1]`, `[null,1,2,3]`}},
		{"a list of values", `{"enum":[6,"foo",[],true,{"foo":12}]}`, append([]string{`6`, `"foo"`, `{"foo":12}`, `{"foo":13}`, `[0]`}, every...)},
		{"values of the right type", `{"enum":[1,"a",null,2.5],"type":["integer","null"]}`, []string{`1`, `"a"`, `null`, `2.5`}},
		{"values within bounds", `{"enum":[1,5,10,"abc"],"minimum":3,"maxLength":2}`, []string{`1`, `5`, `10`, `"abc"`}},
		{"values of objects by their parts", `{"enum":[{"a":1},{"a":"x"},{"b":2}],"properties":{"a":{"type":"integer"}},"required":["a"]}`, []string{`{"a":1}`, `{"a":"x"}`, `{"b":2}`}},
		{"a constant", `{"const":{"foo":"bar","baz":[1,null]}}`, []string{`{"foo":"bar","baz":[1,null]}`, `{"foo":"bar"}`, `5`, `[1]`}},
		{"a constant and a list", `{"const":2,"enum":[1,2]}`, []string{`1`, `2`}},
		{"a constant text with escapes", `{"const":"hello\tthere \"x\" \\ é 😀"}`, []string{`"hello\tthere \"x\" \\ é 😀"`, `"hello"`}},
		{"any of", `{"anyOf":[{"type":"integer"},{"minimum":2}]}`, []string{`1`, `2.5`, `3`, `1.5`, `"a"`}},
		{"any of with a base", `{"type":"string","anyOf":[{"maxLength":2},{"minLength":4}]}`, []string{`3`, `"foobar"`, `"foo"`, `"fo"`}},
		{"any of booleans", `{"anyOf":[true,false]}`, []string{`"foo"`}},
		{"any of two objects", `{"anyOf":[{"properties":{"bar":{"type":"integer"}},"required":["bar"]},{"properties":{"foo":{"type":"string"}},"required":["foo"]}]}`,
			[]string{`{"bar":2}`, `{"foo":"baz"}`, `{"bar":"quux"}`, `{"foo":2}`, `{"foo":"x","bar":1}`}},
		{"nested any of", `{"anyOf":[{"anyOf":[{"type":"null"}]}]}`, []string{`null`, `123`}},
		{"one of types", `{"oneOf":[{"type":"integer"},{"type":"string"},{"type":"object","properties":{"a":{"type":"integer"}},"required":["a"]}]}`, []string{`1`, `"a"`, `1.5`, `{"a":1}`, `{"a":"b"}`, `{}`}},
		{"one of objects told apart by a constant", `{"oneOf":[{"type":"object","properties":{"kind":{"const":"a"},"x":{"type":"integer"}},"required":["kind","x"]},{"type":"object","properties":{"kind":{"const":"b"},"y":{"type":"string"}},"required":["kind"]}]}`,
			[]string{`{"kind":"a","x":1}`, `{"kind":"a"}`, `{"kind":"b"}`, `{"kind":"b","y":"z"}`, `{"kind":"c"}`, `{"kind":"b","y":3}`}},
		{"one of numbers told apart by bounds", `{"type":"integer","oneOf":[{"maximum":3},{"minimum":10}]}`, []string{`3`, `4`, `9`, `10`, `-5`}},
		{"all of", `{"allOf":[{"properties":{"bar":{"type":"integer"}},"required":["bar"]},{"properties":{"foo":{"type":"string"}},"required":["foo"]}]}`,
			[]string{`{"bar":2,"foo":"baz"}`, `{"foo":"baz"}`, `{"bar":2}`, `{"bar":"quux","foo":"baz"}`}},
		{"all of with a base", `{"properties":{"bar":{"type":"integer"}},"required":["bar"],"allOf":[{"properties":{"foo":{"type":"string"}},"required":["foo"]},{"properties":{"baz":{"type":"null"}},"required":["baz"]}]}`,
			[]string{`{"bar":2,"foo":"quux","baz":null}`, `{"foo":"quux","baz":null}`, `{"bar":2,"baz":null}`, `{"bar":2}`}},
		{"all of bounds", `{"type":"integer","allOf":[{"maximum":30},{"minimum":20}]}`, []string{`25`, `35`, `19`, `20`, `30`}},
		{"all of, for the same property", `{"type":"object","properties":{"a":{"type":"string"}},"allOf":[{"properties":{"a":{"maxLength":2}}},{"properties":{"a":{"minLength":1}}}]}`, []string{`{"a":""}`, `{"a":"x"}`, `{"a":"xyz"}`, `{}`}},
		{"all of, any of, one of together", `{"allOf":[{"multipleOf":2}],"anyOf":[{"multipleOf":3}],"oneOf":[{"type":"integer"}]}`, []string{`1`, `2`, `3`, `6`, `12`, `"a"`}},
		{"a property that another part rules out", `{"type":"object","properties":{"a":{}},"allOf":[{"properties":{"b":{}},"additionalProperties":{"type":"null"}}]}`, []string{`{"a":1}`, `{"a":null}`, `{"b":1}`, `{"a":null,"b":1,"c":null}`}},
		{"minLength and maxLength, in characters", `{"type":"string","minLength":2,"maxLength":3}`, []string{`"a"`, `"ab"`, `"abc"`, `"abcd"`, `"😀"`, `"😀😀"`, `"\ud83d\ude00é"`, `"\n\n"`, `"\u00e9\u00E9\u00e9"`}},
		{"no character", `{"type":"string","maxLength":0}`, []string{`""`, `"a"`}},
		{"a pattern that is not anchored", `{"type":"string","pattern":"a+b"}`, []string{`"xaab!"`, `"ab"`, `"b"`, `""`, `"a b"`}},
		{"a pattern that is anchored", `{"type":"string","pattern":"^a*$"}`, []string{`"aaa"`, `""`, `"abc"`, `"ba"`}},
		{"a pattern of alternatives", `{"type":"string","pattern":"^(foo|ba[rz])[0-9]{2,3}$"}`, []string{`"foo12"`, `"bar123"`, `"baz1"`, `"foo1234"`, `"xfoo12"`}},
		{"anchors in alternatives", `{"type":"string","pattern":"^a|b$"}`, []string{`"ax"`, `"xb"`, `"xax"`, `"bx"`, `"a"`, `"b"`}},
		{"a pattern with what must be escaped", `{"type":"string","pattern":"^[\\\\\"\\n]+$"}`, []string{`"\\\"\n"`, `"n"`, `""`}},
		{"a pattern of characters beyond ASCII", `{"type":"string","pattern":"^\\p{L}\\x{1F600}?$"}`, []string{`"é"`, `"日😀"`, `"1"`, `"é1"`}},
		{"a pattern without case", `{"type":"string","pattern":"^(?i)ok$"}`, []string{`"OK"`, `"oK"`, `"o"`, "\"o\u212a\""}},
		{"a pattern and a length", `{"type":"string","pattern":"^[ab]*$","minLength":2,"maxLength":4}`, []string{`"a"`, `"ab"`, `"abab"`, `"ababa"`, `"abc"`}},
		{"two patterns", `{"type":"string","allOf":[{"pattern":"a"},{"pattern":"^.{3}$"}]}`, []string{`"xax"`, `"a"`, `"xxx"`, `"aaa"`, `"aaaa"`}},
		{"dates", `{"type":"string","format":"date"}`, []string{`"1963-06-19"`, `"2020-02-29"`, `"2021-02-29"`, `"1900-02-29"`, `"2000-02-29"`, `"2020-04-31"`, `"2020-13-01"`, `"2020-1-1"`, `"2020-12-31"`, `""`}},
		{"times", `{"type":"string","format":"time"}`, []string{`"08:30:06Z"`, `"08:30:06.283185Z"`, `"08:30:06+00:20"`, `"24:00:00Z"`, `"08:60:06Z"`, `"08:30:06"`, `"08:30:06+24:00"`, `"8:30:06Z"`}},
		{"dates and times", `{"type":"string","format":"date-time"}`, []string{`"1963-06-19T08:30:06.283185Z"`, `"1990-12-31T15:59:50.123-08:00"`, `"1990-02-31T15:59:59.123-08:00"`, `"2013-350T01:01:01"`, `"1963-06-19"`}},
		{"uuids", `{"type":"string","format":"uuid"}`, []string{`"2eb8aa08-aa98-11ea-b4aa-73b441d16380"`, `"2eb8aa08-aa98-11ea-b4aa-73b441d1638"`, `"2eb8aa08aa9811eab4aa73b441d16380"`}},
		{"addresses", `{"type":"string","format":"ipv4"}`, []string{`"192.168.0.1"`, `"127.0.0.0.1"`, `"256.256.256.256"`, `"087.10.0.1"`, `"0.0.0.0"`, `"255.255.255.255"`}},
		{"minimum", `{"type":"number","minimum":1.1}`, []string{`2.6`, `1.1`, `0.6`, `1.09`, `1.10`, `1.11`, `-2`, `2`, `1`, `1000000`}},
		{"a minimum below zero", `{"type":"number","minimum":-2.5}`, []string{`-1`, `0`, `-2`, `-2.5`, `-2.50`, `-2.51`, `-3`, `-0.0001`, `4.25`}},
		{"exclusive bounds", `{"type":"number","exclusiveMinimum":1.1,"exclusiveMaximum":3}`, []string{`1.1`, `1.10001`, `2`, `3`, `2.999999`, `3.0`, `1.100`}},
		{"a maximum below zero", `{"type":"number","maximum":-10}`, []string{`-10`, `-10.0`, `-9.99`, `-11`, `-100`, `0`, `5`}},
		{"whole numbers between", `{"type":"integer","minimum":-12,"maximum":130}`, []string{`-13`, `-12`, `-1`, `0`, `9`, `99`, `130`, `131`, `200`, `1000`}},
		{"whole numbers within exclusive bounds that are not whole", `{"type":"integer","exclusiveMinimum":0.5,"exclusiveMaximum":10.5}`, []string{`0`, `1`, `10`, `11`}},
		{"one number", `{"type":"integer","minimum":7,"maximum":7}`, []string{`7`, `6`, `8`, `77`}},
		{"bounds beyond what is written", `{"type":"integer","minimum":-9223372036854775808,"maximum":9223372036854775807}`, []string{`0`, `-5`, `123456789012345`}},
		{"multiples of a whole number", `{"type":"integer","multipleOf":7}`, []string{`0`, `7`, `8`, `49`, `-14`, `-15`, `700000007`, `1000000000`}},
		{"multiples of a fraction", `{"type":"number","multipleOf":0.25}`, []string{`0.25`, `0.5`, `0.3`, `1`, `1.75`, `1.76`, `-0.75`, `0.50`, `0`}},
		{"multiples within bounds", `{"type":"integer","multipleOf":12,"minimum":100,"maximum":150}`, []string{`96`, `108`, `120`, `132`, `144`, `156`, `121`}},
		{"bounds say nothing of texts", `{"minimum":3,"maxLength":2}`, []string{`"ab"`, `"abc"`, `2`, `3`, `null`, `[1]`}},
		{"a reference to the schema itself", `{"properties":{"foo":{"$ref":"#"}},"additionalProperties":false}`, []string{`{"foo":false}`, `{"foo":{"foo":false}}`, `{"bar":false}`, `{"foo":{"bar":false}}`}},
		{"a reference to a property", `{"properties":{"foo":{"type":"integer"},"bar":{"$ref":"#/properties/foo"}}}`, []string{`{"bar":3}`, `{"bar":true}`, `{"foo":1,"bar":2}`}},
		{"a reference into a list", `{"prefixItems":[{"type":"integer"},{"$ref":"#/prefixItems/0"}]}`, []string{`[1,2]`, `[1,"foo"]`}},
		{"references with escapes", `{"$defs":{"tilde~field":{"type":"integer"},"slash/field":{"type":"integer"},"percent%field":{"type":"integer"}},"properties":{"tilde":{"$ref":"#/$defs/tilde~0field"},"slash":{"$ref":"#/$defs/slash~1field"},"percent":{"$ref":"#/$defs/percent%25field"}}}`,
			[]string{`{"slash":"aoeu"}`, `{"tilde":"aoeu"}`, `{"percent":"aoeu"}`, `{"slash":123}`, `{"tilde":123}`, `{"percent":123}`}},
		{"a reference beside other keywords", `{"$defs":{"r":{"type":"array"}},"properties":{"foo":{"$ref":"#/$defs/r","maxItems":2}}}`, []string{`{"foo":[]}`, `{"foo":[1,2,3]}`, `{"foo":"string"}`}},
		{"a tree", `{"type":"object","properties":{"value":{"type":"integer"},"children":{"type":"array","items":{"$ref":"#"}}},"required":["value"],"additionalProperties":false}`,
			[]string{`{"value":1}`, `{"value":1,"children":[{"value":2,"children":[]},{"value":3}]}`, `{"value":1,"children":[{"children":[]}]}`, `{"value":1,"children":[{"value":2,"children":[{"value":"x"}]}]}`}},
		{"a list of linked nodes", `{"$defs":{"node":{"anyOf":[{"type":"null"},{"type":"object","properties":{"next":{"$ref":"#/$defs/node"}},"required":["next"],"additionalProperties":false}]}},"$ref":"#/$defs/node"}`,
			[]string{`null`, `{"next":null}`, `{"next":{"next":{"next":null}}}`, `{"next":{}}`, `{"next":1}`}},
		{"expressions that call each other", `{"$defs":{"e":{"anyOf":[{"type":"integer"},{"$ref":"#/$defs/sum"}]},"sum":{"type":"object","properties":{"op":{"enum":["+","-"]},"of":{"type":"array","items":{"$ref":"#/$defs/e"},"minItems":2}},"required":["op","of"],"additionalProperties":false}},"$ref":"#/$defs/e"}`,
			[]string{`1`, `{"op":"+","of":[1,2]}`, `{"op":"-","of":[{"op":"+","of":[1,2]},3]}`, `{"op":"*","of":[1,2]}`, `{"op":"+","of":[1]}`, `{"op":"+","of":[{"op":"+","of":[1]},2]}`}},
		{"an ambiguous schema", `{"anyOf":[{"type":"array","items":{"$ref":"#"}},{"type":"array","items":{"$ref":"#"},"maxItems":2}]}`,
			[]string{`[[[[[[]]]]]]`, `[[],[],[[]]]`, `[[[[[1]]]]]`}},
		{"notes that say nothing", `{"title":"x","description":"y","default":3,"examples":[1],"$comment":"z","deprecated":true,"readOnly":true,"type":"integer"}`, []string{`1`, `"a"`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := validator(t, c.schema)
			g, err := constrain.NewCompiler(byteVocabulary(), constrain.Options{Open: true}).Schema(t.Context(), []byte(c.schema))
			if err != nil {
				t.Fatal(err)
			}
			for _, instance := range c.instances {
				got, err := g.Matches([]byte(instance))
				if err != nil {
					t.Fatal(err)
				}
				if want := valid(t, s, instance); got != want {
					t.Errorf("%s: %s matches: %v, the validator says %v", c.schema, instance, got, want)
				}
			}
		})
	}
}
