package constrain_test

import (
	"encoding/json"
	"testing"

	"github.com/transformersquared/operator/runtime/constrain"
)

func TestTextsAreReadByTheirKinds(t *testing.T) {
	p := constrain.PropertiesOf([]byte(`{"properties":{
		"string":{"type":"string"},"nothing said":{"description":"x"},"nullable":{"type":["string","null"]},"either":{"anyOf":[{"type":"string"},{"type":"integer"}]},
		"integer":{"type":"integer"},"number":{"type":"number"},"boolean":{"type":"boolean"},"array":{"type":"array"},"object":{"$ref":"#/$defs/o"},
		"listed":{"enum":[1,null]},"texts":{"enum":["a","b"]},"constant":{"const":true},"all":{"allOf":[{"type":["integer","string"]},{"type":["string","null"]}]},
		"itself":{"$ref":"#/properties/itself"},"any":{"type":["string","boolean","number","null","array","object"]},"wrong":{"type":"text"}},
		"additionalProperties":{"type":"integer"},"$defs":{"o":{"type":"object"}}}`))
	for _, c := range []struct{ name, text, want string }{
		{"string", "null", `"null"`}, {"string", "a\n\"b\" <é>", `"a\n\"b\" <é>"`}, {"nothing said", "5", `"5"`}, {"itself", "5", `"5"`}, {"wrong", "5", `"5"`}, {"texts", "5", `"5"`},
		{"nullable", "null", "null"}, {"nullable", "None", "null"}, {"nullable", "nil", `"nil"`}, {"nullable", " null", `" null"`}, {"nullable", "true", `"true"`}, {"all", "5", `"5"`},
		{"either", "5", "5"}, {"either", "5.5", `"5.5"`}, {"either", "05", `"05"`}, {"either", "", `""`}, {"either", "null", `"null"`},
		{"integer", " 5 ", "5"}, {"integer", "5.0", "5.0"}, {"integer", "5.5", `"5.5"`}, {"integer", "five", `"five"`}, {"integer", "null", "null"}, {"integer", "true", `"true"`},
		{"integer", "1e999999999", `"1e999999999"`}, {"number", "-1.5e3", "-1.5e3"}, {"number", "nan", `"nan"`}, {"boolean", "True", "true"}, {"boolean", "false", "false"}, {"boolean", "yes", `"yes"`},
		{"array", `["a", 1]`, `["a", 1]`}, {"array", `{"a":1}`, `"{\"a\":1}"`}, {"array", "[1", `"[1"`}, {"array", "['a\\'b', None, (1)]", `"['a\\'b', None, (1)]"`},
		{"array", `['a', "b'c", 1.5, True, None, {'k': [],}, 'x\'y\n']`, `["a", "b'c", 1.5, true, null, {"k": []}, "x'y\n"]`},
		{"array", `['a' 'b']`, `"['a' 'b']"`}, {"array", `['a`, `"['a"`}, {"object", `{'a': 1}`, `{"a": 1}`}, {"object", `{1: 2}`, `"{1: 2}"`}, {"object", `{'a': 1} x`, `"{'a': 1} x"`},
		{"object", `{"a": {"b": []}}`, `{"a": {"b": []}}`}, {"listed", "1", "1"}, {"listed", "null", "null"}, {"constant", "true", "true"}, {"unlisted", "7", "7"},
		{"any", "[1]", "[1]"}, {"any", "['a']", `"['a']"`}, {"any", "x", `"x"`}, {"any", "1", "1"},
	} {
		if got := p.Of(c.name).Read(c.text); got != c.want {
			t.Errorf("%s: %q is read as %s, want %s", c.name, c.text, got, c.want)
		}
	}
	for _, bad := range []string{"", "[", `{"properties":[1]}`, `{"properties":{"a":5}}`, `{"$ref":"#"}`, `{"$ref":"x","allOf":[{"$ref":"#"},{"$ref":"#"}]}`, `{"properties":{"a":{"anyOf":5,"enum":1,"allOf":{}}}}`} {
		if got := constrain.PropertiesOf([]byte(bad)).Of("a").Read("5"); got != `"5"` && got != "5" {
			t.Errorf("of %s it is %s", bad, got)
		}
	}
}

// FuzzKinds has texts of all kinds read, which always gives JSON.
func FuzzKinds(f *testing.F) {
	p := constrain.PropertiesOf([]byte(`{"properties":{"a":{"type":"array"},"b":{"type":["object","number","boolean","null"]},"c":{"type":["string","integer"]},"d":{"type":"string"}}}`))
	for _, seed := range []string{"['a', {'b': None}]", "-1.5", "{'\\x41': \"\\u00e9\"}", "[[[[", "\xff", "{'a':1,}", "['\\N{x}']", "[1,,2]", "True"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		for _, name := range []string{"a", "b", "c", "d"} {
			if got := p.Of(name).Read(text); !json.Valid([]byte(got)) {
				t.Errorf("%s: %q is read as %s", name, text, got)
			}
		}
	})
}
