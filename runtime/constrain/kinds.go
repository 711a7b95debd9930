package constrain

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"
)

// Properties are the kinds of values that an object's properties may have, as far as a schema
// says so without a look at a value. A property of which nothing is said is a string.
type Properties struct {
	named map[string]Kinds
	other Kinds
}

// Of returns the kinds of a property.
func (p Properties) Of(name string) Kinds {
	if k, ok := p.named[name]; ok {
		return k
	}
	return p.other
}

// maxReferences bounds how many schemas are seen on the way to the kinds of one: schemas may
// refer to themselves.
const maxReferences = 64

// PropertiesOf reads a schema of an object. What it cannot read says nothing.
func PropertiesOf(schema []byte) Properties {
	p := Properties{named: map[string]Kinds{}, other: kindString}
	root, err := parseValue(schema)
	if err != nil {
		return p
	}
	left := maxReferences
	p.read(root, root, &left)
	return p
}

// read adds what a schema says, and those that it is made of. left bounds how many are read.
func (p *Properties) read(root, schema *value, left *int) {
	if *left--; *left <= 0 {
		return
	}
	if list := schema.get("properties"); list != nil {
		for _, m := range list.members {
			kinds := kindsOf(root, m.value)
			if had, twice := p.named[m.name]; twice {
				kinds |= had
			}
			p.named[m.name] = kinds
		}
	}
	if additional := schema.get("additionalProperties"); additional != nil {
		p.other = kindsOf(root, additional)
	}
	for _, name := range []string{"allOf", "anyOf", "oneOf"} {
		if list := schema.get(name); list != nil {
			for _, part := range list.items {
				p.read(root, part, left)
			}
		}
	}
	if to := referent(root, schema); to != nil {
		p.read(root, to, left)
	}
}

// kindsOf returns the kinds that a schema's values may have.
func kindsOf(root, schema *value) Kinds {
	left := maxReferences
	if kinds, said := kindsSaid(root, schema, &left); said {
		return kinds
	}
	return kindString
}

// kindsSaid returns the kinds that a schema's values may have, and whether it says so.
func kindsSaid(root, schema *value, left *int) (kinds Kinds, said bool) {
	kinds = allKinds
	if *left--; *left <= 0 {
		return kinds, false
	}
	narrow := func(to Kinds) { kinds, said = kinds&to, true }
	if v := schema.get("type"); v != nil {
		if of, err := readKinds(v, ""); err == nil {
			narrow(of)
		}
	}
	if v := schema.get("const"); v != nil {
		narrow(v.kind)
	}
	if list := schema.get("enum"); list != nil {
		var of Kinds
		for _, v := range list.items {
			of |= v.kind
		}
		narrow(of)
	}
	for _, name := range []string{"anyOf", "oneOf"} {
		if list := schema.get(name); list != nil {
			var of Kinds
			saysSo := false
			for _, part := range list.items {
				k, ok := kindsSaid(root, part, left)
				of, saysSo = of|k, saysSo || ok
			}
			if saysSo {
				narrow(of)
			}
		}
	}
	parts := []*value{}
	if list := schema.get("allOf"); list != nil {
		parts = append(parts, list.items...)
	}
	if to := referent(root, schema); to != nil {
		parts = append(parts, to)
	}
	for _, part := range parts {
		if k, ok := kindsSaid(root, part, left); ok {
			narrow(k)
		}
	}
	return kinds, said
}

// referent is the schema within root that a schema refers to, nil for none.
func referent(root, schema *value) *value {
	ref := schema.get("$ref")
	if ref == nil {
		return nil
	}
	path, local := strings.CutPrefix(ref.text, "#")
	if !local {
		return nil
	}
	to, _ := root.at(path)
	return to
}

// at follows a JSON pointer as URIs spell it; nil is nowhere.
func (v *value) at(path string) (to *value, place string) {
	if path == "" {
		return v, ""
	}
	if path[0] != '/' {
		return nil, ""
	}
	for _, part := range strings.Split(path, "/")[1:] {
		name := fromPointer.Replace(unescapePercent(part))
		next := v.get(name)
		if i, err := strconv.Atoi(name); err == nil && v.kind == kindArray && i >= 0 && i < len(v.items) {
			next = v.items[i]
		}
		if next == nil {
			return nil, ""
		}
		v, place = next, place+"/"+part
	}
	return v, place
}

// The spellings of words that Kinds.Read knows: those of JSON, and of Python, as chat templates
// write values.
var (
	wordsOfNull  = []string{"null", "None"}
	wordsOfTrue  = []string{"true", "True"}
	wordsOfFalse = []string{"false", "False"}
)

const beginsNumber = "-0123456789"

// Read returns the JSON of a value of these kinds that was written as text: a string as it is,
// and all else as JSON. A text that is both, where the kinds have both, is the latter, and one
// that is nothing else is a string, whatever the kinds are.
func (k Kinds) Read(text string) string {
	if value := k.other(strings.Trim(text, whiteSpace)); value != "" && (k&kindString == 0 || strings.Trim(text, whiteSpace) == text) {
		return value
	}
	return Quote(text)
}

// IsString reports whether the kinds are strings alone, so that a text is one whatever it is.
func (k Kinds) IsString() bool { return k == kindString }

// other returns the JSON of a value that is no string, "" if the text is none of these kinds.
func (k Kinds) other(text string) string {
	switch {
	case text == "":
		return ""
	case slices.Contains(wordsOfNull, text) && (k&kindNull != 0 || k&kindString == 0):
		return "null" // Without a string it can be nothing else.
	case slices.Contains(wordsOfTrue, text) && k&kindBool != 0:
		return "true"
	case slices.Contains(wordsOfFalse, text) && k&kindBool != 0:
		return "false"
	case strings.IndexByte(beginsNumber, text[0]) >= 0 && k&kindNumber == 0, text[0] == '[' && k&kindArray == 0, text[0] == '{' && k&kindObject == 0:
		return ""
	case strings.IndexByte(beginsNumber+"[{", text[0]) < 0:
		return ""
	case !json.Valid([]byte(text)):
		if k&kindString == 0 && k.Begins(text[0]) {
			return pythonJSON(text)
		}
		return ""
	case k&kindNumber == kindInteger && strings.IndexByte(beginsNumber, text[0]) >= 0:
		if n, err := parseDecimal(text); err != nil || !n.isInteger() {
			return ""
		}
	}
	return text
}

// Begins reports whether this byte begins an array or object that is one of the kinds.
func (k Kinds) Begins(c byte) bool {
	return c == '[' && k&kindArray != 0 || c == '{' && k&kindObject != 0
}

// Quote returns a text as a JSON string, with as few escapes as may be.
func Quote(text string) string { return `"` + escaped(text) + `"` }
