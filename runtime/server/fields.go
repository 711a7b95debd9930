package server

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"reflect"
	"slices"
	"strings"
)

// fields reads the parameters of a request by name, so that an error can say
// which one is wrong. It keeps the first error; what is asked for after it is
// zero. Absent and null are the same, as in OpenAI's API.
type fields struct {
	raw    map[string]json.RawMessage
	prefix string // Path to this object, such as "messages[2].".
	err    *apiError
	known  map[string]bool // What was asked for.
}

// parseFields reads a JSON object. Fields that nobody asks for are for
// refuseOthers.
func parseFields(body []byte) (*fields, error) {
	d := json.NewDecoder(bytes.NewReader(body))
	f := &fields{}
	if err := d.Decode(&f.raw); err != nil {
		return nil, jsonError(err)
	}
	if f.raw == nil {
		return nil, invalid("", "invalid_json", "the request is null: it must be a JSON object")
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, invalid("", "invalid_json", "something follows the JSON object of the request")
	}
	return f, nil
}

func jsonError(err error) *apiError {
	var kind *json.UnmarshalTypeError
	var syntax *json.SyntaxError
	switch {
	case errors.As(err, &kind):
		return invalid("", "invalid_json", "the request is a JSON %s: it must be an object", kind.Value)
	case errors.As(err, &syntax):
		return invalid("", "invalid_json", "the request is no JSON: %s at byte %d", syntax.Error(), syntax.Offset)
	default:
		return invalid("", "invalid_json", "the request is no JSON: it ends too early or is empty")
	}
}

// fail records the first error.
func (f *fields) fail(e *apiError) {
	if f.err == nil {
		f.err = e
	}
}

func (f *fields) wrongType(name, want string) {
	f.fail(invalid(f.prefix+name, "invalid_type", "%s%s must be %s, not %s", f.prefix, name, want, kindOf(f.raw[name])))
}

// has reports whether a field is there and is not null.
func (f *fields) has(name string) bool {
	if f.known == nil {
		f.known = map[string]bool{}
	}
	f.known[name] = true
	raw, ok := f.raw[name]
	return ok && f.err == nil && !bytes.Equal(bytes.TrimSpace(raw), []byte("null"))
}

func (f *fields) text(name string) (value string) {
	if f.has(name) && json.Unmarshal(f.raw[name], &value) != nil {
		f.wrongType(name, "a string")
	}
	return value
}

func (f *fields) flag(name string) (value bool) {
	if f.has(name) && json.Unmarshal(f.raw[name], &value) != nil {
		f.wrongType(name, "true or false")
	}
	return value
}

// number returns a number between low and high, otherwise if it is absent.
func (f *fields) number(name string, low, high, otherwise float64) float64 {
	if !f.has(name) {
		return otherwise
	}
	var value float64
	if json.Unmarshal(f.raw[name], &value) != nil {
		f.wrongType(name, "a number")
		return otherwise
	}
	if math.IsNaN(value) || value < low || value > high {
		f.fail(invalid(f.prefix+name, "invalid_value", "%s%s is %v: it must be between %v and %v", f.prefix, name, value, low, high))
	}
	return value
}

// integer returns a whole number between low and high; ok says that it is
// there.
func (f *fields) integer(name string, low, high int64) (value int64, ok bool) {
	if !f.has(name) {
		return 0, false
	}
	if json.Unmarshal(f.raw[name], &value) != nil {
		// 1e3 and 5.0 are whole numbers too, in JSON.
		var number float64
		if json.Unmarshal(f.raw[name], &number) != nil || number != math.Trunc(number) || math.Abs(number) > 1<<53 {
			f.wrongType(name, "a whole number")
			return 0, false
		}
		value = int64(number)
	}
	if value < low || value > high {
		f.fail(invalid(f.prefix+name, "invalid_value", "%s%s is %d: it must be between %d and %d", f.prefix, name, value, low, high))
		return 0, false
	}
	return value, true
}

// list returns the elements of an array.
func (f *fields) list(name string) (values []json.RawMessage) {
	if f.has(name) && json.Unmarshal(f.raw[name], &values) != nil {
		f.wrongType(name, "an array")
	}
	return values
}

// object returns a nested object, nil if it is absent. Errors in it must be
// taken over by the caller (see adopt).
func (f *fields) object(name string) *fields {
	if !f.has(name) {
		return nil
	}
	o := &fields{prefix: f.prefix + name + "."}
	if json.Unmarshal(f.raw[name], &o.raw) != nil {
		f.wrongType(name, "an object")
		return nil
	}
	return o
}

// element reads the i-th element of an array of objects.
func (f *fields) element(name string, i int, raw json.RawMessage) *fields {
	o := &fields{prefix: fmt.Sprintf("%s%s[%d].", f.prefix, name, i)}
	if kindOf(raw) != "an object" || json.Unmarshal(raw, &o.raw) != nil {
		path := strings.TrimSuffix(o.prefix, ".")
		f.fail(invalid(path, "invalid_type", "%s must be an object, not %s", path, kindOf(raw)))
		return nil
	}
	return o
}

// adopt takes the error of a nested object over.
func (f *fields) adopt(o *fields) {
	if o != nil && o.err != nil {
		f.fail(o.err)
	}
}

// refuseOthers refuses, by name, every field that has not been asked for: what
// this server does not know may change the answer. It takes those that ask for
// nothing, which are null or have one of the harmless values.
func (f *fields) refuseOthers(harmless map[string][]any) {
	if f.err != nil {
		return
	}
	// In order, so that of several the same one is always told.
	for _, name := range slices.Sorted(maps.Keys(f.raw)) {
		if f.known[name] {
			continue
		}
		if !f.has(name) {
			continue // It is null.
		}
		var value any
		values, listed := harmless[name]
		if json.Unmarshal(f.raw[name], &value) == nil && slices.ContainsFunc(values, func(v any) bool {
			return v == anything || reflect.DeepEqual(v, value)
		}) {
			continue
		}
		advice := "leave it out"
		if listed {
			advice = "leave it out, or send " + spellValues(values)
		}
		f.fail(invalid(f.prefix+clip(name), "unsupported_parameter", "%s%s is not supported by this server: %s", f.prefix, clip(name), advice))
	}
}

// anything is the harmless value of a field that asks for nothing, whatever it
// says.
const anything = anyValue("anything")

type anyValue string

func spellValues(values []any) string {
	spelled := make([]string, len(values))
	for i, v := range values {
		b, err := json.Marshal(v)
		if err != nil {
			return "null" // Never: the values are constants.
		}
		spelled[i] = string(b)
	}
	return strings.Join(spelled, " or ")
}

// kindOf names the kind of a JSON value.
func kindOf(raw json.RawMessage) string {
	switch trimmed := bytes.TrimSpace(raw); {
	case len(trimmed) == 0:
		return "nothing"
	case trimmed[0] == '"':
		return "a string"
	case trimmed[0] == '{':
		return "an object"
	case trimmed[0] == '[':
		return "an array"
	case trimmed[0] == 't' || trimmed[0] == 'f':
		return "true or false"
	case trimmed[0] == 'n':
		return "null"
	case bytes.ContainsAny(trimmed, ".eE"):
		return "a number with a fraction"
	default:
		return "a number"
	}
}
