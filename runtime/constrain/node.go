package constrain

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Kinds is a set of kinds of JSON values. A number is a whole one or has a fraction.
type Kinds uint8

const (
	kindNull Kinds = 1 << iota
	kindBool
	kindInteger
	kindFraction
	kindString
	kindArray
	kindObject

	kindNumber = kindInteger | kindFraction
	allKinds   = kindObject<<1 - 1
)

var kindNames = map[string]Kinds{
	"null": kindNull, "boolean": kindBool, "integer": kindInteger, "number": kindNumber,
	"string": kindString, "array": kindArray, "object": kindObject,
}

// node is a schema as it was written: each keyword by itself. What a keyword does not say
// has no effect.
type node struct {
	place string
	never bool // The schema false.
	kinds Kinds
	enum  []*value // nil for none; listed has their keys.

	listed map[string]bool

	low, high []bound
	multiples []decimal

	minLength, maxLength int // maxLength is -1 for none.
	patterns             []pattern

	properties []property
	required   []string
	additional *node // nil for none.

	prefix             []*node
	items              *node // nil for none.
	minItems, maxItems int   // maxItems is -1 for none.

	allOf, anyOf, oneOf []*node
	ref                 string // "" for none.
	target              *node
}

type property struct {
	name string
	node *node
}

type bound struct {
	decimal
	exclusive bool
}

// String is the bound, and whether it is exclusive.
func (b *bound) String() string {
	if b == nil {
		return "none"
	}
	return fmt.Sprint(b.decimal, " ", b.exclusive)
}

// pattern is a regular expression that a string must have a match of.
type pattern struct {
	place, expression string
}

// reader turns values into nodes.
type reader struct {
	root  *value
	nodes map[*value]*node
	refs  []*node
}

// read reads a whole schema, with all that it refers to.
func read(root *value) (*node, error) {
	r := &reader{root: root, nodes: map[*value]*node{}}
	n, err := r.schema(root, "")
	if err != nil {
		return nil, err
	}
	for len(r.refs) > 0 { // What is referred to may refer to more.
		from := r.refs[0]
		r.refs = r.refs[1:]
		if err := r.resolve(from); err != nil {
			return nil, err
		}
	}
	return n, nil
}

// resolve finds the target of a node's $ref: "#" or a JSON pointer.
func (r *reader) resolve(from *node) error {
	path, local := strings.CutPrefix(from.ref, "#")
	if !local || path != "" && path[0] != '/' {
		return refuse(from.place+"/$ref", "%q is not supported: refer to the schema itself, by #/$defs/… or another JSON pointer", short(from.ref))
	}
	v, place := r.root.at(path)
	if v == nil {
		return refuse(from.place+"/$ref", "%q is not there", short(from.ref))
	}
	var err error
	from.target, err = r.schema(v, place)
	return err
}

// unescapePercent undoes the escapes of a URI's fragment, where there are any.
func unescapePercent(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+3], 16, 8); err == nil {
				b.WriteByte(byte(n))
				i += 2
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// schema reads a schema, once.
func (r *reader) schema(v *value, place string) (*node, error) {
	if n := r.nodes[v]; n != nil {
		return n, nil
	}
	n := &node{place: place, kinds: allKinds, maxLength: -1, maxItems: -1}
	r.nodes[v] = n
	switch v.kind {
	case kindBool:
		n.never = !v.flag
		return n, nil
	case kindObject:
	default:
		return nil, refuse(place, "a schema is an object, true or false")
	}
	for _, m := range v.members {
		if err := r.keyword(n, m.name, m.value, place+"/"+pointer(m.name)); err != nil {
			return nil, err
		}
	}
	return n, nil
}

// harmless keywords have no effect on validity.
var harmless = []string{
	"title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly", "$comment", "$schema",
	"contentMediaType", "contentEncoding", "contentSchema",
}

func (r *reader) keyword(n *node, name string, v *value, place string) (err error) {
	switch name {
	case "type":
		n.kinds, err = readKinds(v, place)
	case "enum":
		if v.kind != kindArray || len(v.items) == 0 {
			return refuse(place, "it must be a list of at least one value")
		}
		n.list(v.items)
	case "const":
		n.list([]*value{v})
	case "minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum", "multipleOf":
		return readNumeric(n, name, v, place)
	case "minLength", "maxLength", "minItems", "maxItems":
		return readCount(n, name, v, place)
	case "pattern", "format":
		return readPattern(n, name, v, place)
	case "$ref":
		if v.kind != kindString {
			return refuse(place, "it must be a text")
		}
		n.ref = v.text
		r.refs = append(r.refs, n)
	case "properties":
		if v.kind != kindObject {
			return refuse(place, "it must be an object of schemas")
		}
		for _, m := range v.members {
			p, err := r.schema(m.value, place+"/"+pointer(m.name))
			if err != nil {
				return err
			}
			n.properties = append(n.properties, property{m.name, p})
		}
	case "required":
		n.required, err = readNames(v, place)
	case "additionalProperties":
		n.additional, err = r.schema(v, place)
	case "items":
		if v.kind == kindArray {
			return refuse(place, "a list of schemas is not supported: use prefixItems")
		}
		n.items, err = r.schema(v, place)
	case "prefixItems":
		n.prefix, err = r.schemas(v, place)
	case "allOf":
		n.allOf, err = r.schemas(v, place)
	case "anyOf":
		n.anyOf, err = r.schemas(v, place)
	case "oneOf":
		n.oneOf, err = r.schemas(v, place)
	case "$defs", "definitions":
		if v.kind != kindObject {
			return refuse(place, "it must be an object of schemas")
		}
		for _, m := range v.members { // Those that nobody refers to must be right, too.
			if _, err := r.schema(m.value, place+"/"+pointer(m.name)); err != nil {
				return err
			}
		}
	default:
		return r.otherKeyword(n, name, v, place)
	}
	return err
}

// otherKeyword takes the keywords that have no effect, and refuses all others.
func (r *reader) otherKeyword(n *node, name string, v *value, place string) error {
	switch {
	case slices.Contains(harmless, name), strings.HasPrefix(name, "x-"):
		return nil
	case name == "uniqueItems" && v.kind == kindBool && !v.flag,
		(name == "minProperties" || name == "minContains") && v.kind == kindInteger && v.number.isZero():
		return nil
	case name == "$id" && n.place == "":
		return nil
	}
	return refuse(place, "%s is not supported: leave it out", short(name))
}

func (r *reader) schemas(v *value, place string) ([]*node, error) {
	if v.kind != kindArray || len(v.items) == 0 {
		return nil, refuse(place, "it must be a list of at least one schema")
	}
	list := make([]*node, len(v.items))
	for i, item := range v.items {
		var err error
		if list[i], err = r.schema(item, place+"/"+strconv.Itoa(i)); err != nil {
			return nil, err
		}
	}
	return list, nil
}

func readKinds(v *value, place string) (Kinds, error) {
	names := []string{v.text}
	if v.kind != kindString {
		var err error
		if names, err = readNames(v, place); err != nil || len(names) == 0 {
			return 0, refuse(place, "it must be a type, or a list of types")
		}
	}
	var kinds Kinds
	for _, name := range names {
		kind, known := kindNames[name]
		if !known {
			return 0, refuse(place, "%q is no type: there are null, boolean, integer, number, string, array and object", short(name))
		}
		kinds |= kind
	}
	return kinds, nil
}

func readNames(v *value, place string) ([]string, error) {
	if v.kind != kindArray {
		return nil, refuse(place, "it must be a list of texts")
	}
	names := make([]string, 0, len(v.items))
	for _, item := range v.items {
		if item.kind != kindString {
			return nil, refuse(place, "it must be a list of texts")
		}
		if !slices.Contains(names, item.text) {
			names = append(names, item.text)
		}
	}
	return names, nil
}

func readNumeric(n *node, name string, v *value, place string) error {
	if v.kind&kindNumber == 0 {
		return refuse(place, "it must be a number")
	}
	switch name {
	case "minimum", "exclusiveMinimum":
		n.low = append(n.low, bound{v.number, name == "exclusiveMinimum"})
	case "maximum", "exclusiveMaximum":
		n.high = append(n.high, bound{v.number, name == "exclusiveMaximum"})
	case "multipleOf":
		if v.number.negative || v.number.isZero() {
			return refuse(place, "it must be above 0")
		}
		n.multiples = append(n.multiples, v.number)
	}
	if len(v.number.fraction) > maxFraction {
		return refuse(place, "it has more than %d digits behind the point", maxFraction)
	}
	return nil
}

func readCount(n *node, name string, v *value, place string) error {
	count, err := strconv.Atoi(v.number.String())
	switch {
	case v.kind != kindInteger || v.number.negative:
		return refuse(place, "it must be a whole number of at least 0")
	case err != nil || count > MaxCount:
		return refuse(place, "it is more than %d: leave it out, or make it smaller", MaxCount)
	}
	switch name {
	case "minLength":
		n.minLength = count
	case "maxLength":
		n.maxLength = count
	case "minItems":
		n.minItems = count
	case "maxItems":
		n.maxItems = count
	}
	return nil
}

func readPattern(n *node, name string, v *value, place string) error {
	if v.kind != kindString {
		return refuse(place, "it must be a text")
	}
	expression := v.text
	if name == "format" {
		var known bool
		if expression, known = formats[v.text]; !known {
			return refuse(place, "the format %q is not supported: leave it out, use a pattern, or one of date, time, date-time, uuid and ipv4", short(v.text))
		}
	}
	n.patterns = append(n.patterns, pattern{place, expression})
	return nil
}

// list makes values the only ones, or those of the ones that are already.
func (n *node) list(values []*value) {
	before := n.listed
	n.enum, n.listed = []*value{}, map[string]bool{}
	for _, v := range values {
		if k := v.key(); !n.listed[k] && (before == nil || before[k]) {
			n.listed[k] = true
			n.enum = append(n.enum, v)
		}
	}
}
