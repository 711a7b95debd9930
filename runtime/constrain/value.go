package constrain

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"math/big"
	"slices"
	"strconv"
	"strings"
)

// value is a JSON value whose objects keep their order.
type value struct {
	kind    Kinds // One bit.
	flag    bool
	number  decimal
	text    string
	items   []*value
	members []member
}

type member struct {
	name  string
	value *value
}

// parseValue reads one JSON value.
func parseValue(text []byte) (*value, error) {
	if len(text) > MaxBytes {
		return nil, refuse("", "it has %d bytes, at most %d are allowed", len(text), MaxBytes)
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	v, err := readValue(d, "", 0)
	if err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, refuse("", "something follows it")
	}
	return v, nil
}

func readValue(d *json.Decoder, place string, depth int) (*value, error) {
	if depth > MaxDepth {
		return nil, refuse(place, "it is nested deeper than %d levels", MaxDepth)
	}
	token, err := d.Token()
	if err != nil {
		return nil, refuse(place, "it is no JSON: %v", err)
	}
	switch t := token.(type) {
	case nil:
		return &value{kind: kindNull}, nil
	case bool:
		return &value{kind: kindBool, flag: t}, nil
	case string:
		return &value{kind: kindString, text: t}, nil
	case json.Number:
		n, err := parseDecimal(t.String())
		if err != nil {
			return nil, refuse(place, "%v", err)
		}
		if n.isInteger() {
			return &value{kind: kindInteger, number: n}, nil
		}
		return &value{kind: kindFraction, number: n}, nil
	case json.Delim:
		if t == '[' {
			return readArray(d, place, depth)
		}
		return readObject(d, place, depth)
	default:
		return nil, refuse(place, "it is no JSON")
	}
}

func readArray(d *json.Decoder, place string, depth int) (*value, error) {
	v := &value{kind: kindArray}
	for d.More() {
		item, err := readValue(d, place+"/"+strconv.Itoa(len(v.items)), depth+1)
		if err != nil {
			return nil, err
		}
		v.items = append(v.items, item)
	}
	return v, endOf(d, place)
}

func readObject(d *json.Decoder, place string, depth int) (*value, error) {
	v := &value{kind: kindObject}
	names := map[string]bool{}
	for d.More() {
		token, err := d.Token()
		if err != nil {
			return nil, refuse(place, "it is no JSON: %v", err)
		}
		name, _ := token.(string)
		if names[name] {
			return nil, refuse(place, "it has %q twice", short(name))
		}
		names[name] = true
		m, err := readValue(d, place+"/"+pointer(name), depth+1)
		if err != nil {
			return nil, err
		}
		v.members = append(v.members, member{name, m})
	}
	return v, endOf(d, place)
}

// endOf reads the bracket that ends an array or object.
func endOf(d *json.Decoder, place string) error {
	if _, err := d.Token(); err != nil {
		return refuse(place, "it is no JSON: %v", err)
	}
	return nil
}

// pointer spells a name as part of a JSON pointer.
func pointer(name string) string { return toPointer.Replace(name) }

var toPointer, fromPointer = strings.NewReplacer("~", "~0", "/", "~1"), strings.NewReplacer("~1", "/", "~0", "~")

// get returns the member of this name, nil if there is none.
func (v *value) get(name string) *value {
	for _, m := range v.members {
		if m.name == name {
			return m.value
		}
	}
	return nil
}

// key is the same for equal values, and only for these.
func (v *value) key() string {
	var b strings.Builder
	v.writeKey(&b)
	return b.String()
}

func (v *value) writeKey(b *strings.Builder) {
	switch v.kind {
	case kindNull:
		b.WriteString("null")
	case kindBool:
		b.WriteString(strconv.FormatBool(v.flag))
	case kindInteger, kindFraction:
		b.WriteString(v.number.String())
	case kindString:
		b.WriteString(strconv.Quote(v.text))
	case kindArray:
		for _, item := range v.items {
			b.WriteByte('[')
			item.writeKey(b)
		}
		b.WriteByte(']')
	case kindObject:
		members := slices.SortedFunc(slices.Values(v.members), func(a, b member) int { return strings.Compare(a.name, b.name) })
		for _, m := range members {
			b.WriteString("{" + strconv.Quote(m.name))
			m.value.writeKey(b)
		}
		b.WriteByte('}')
	}
}

// decimal is a number as digits before and behind the point, without needless zeros.
type decimal struct {
	negative bool
	whole    string // At least one digit.
	fraction string
}

// maxDigits bounds a schema's numbers on either side of the point.
const maxDigits = 320

func parseDecimal(text string) (decimal, error) {
	tooLong := errors.New("the number " + short(text) + " is too large or too exact")
	rest, negative := strings.CutPrefix(text, "-")
	mantissa, exponent := rest, 0
	if i := strings.IndexAny(rest, "eE"); i >= 0 {
		var err error
		mantissa = rest[:i]
		if exponent, err = strconv.Atoi(rest[i+1:]); err != nil || exponent < -maxDigits || exponent > maxDigits {
			return decimal{}, tooLong
		}
	}
	whole, fraction, _ := strings.Cut(mantissa, ".")
	if len(whole)+len(fraction) > maxDigits {
		return decimal{}, tooLong
	}
	if exponent > 0 {
		fraction += strings.Repeat("0", max(exponent-len(fraction), 0))
		whole, fraction = whole+fraction[:exponent], fraction[exponent:]
	} else if exponent < 0 {
		whole = strings.Repeat("0", max(-exponent-len(whole), 0)) + whole
		at := len(whole) + exponent
		whole, fraction = whole[:at], whole[at:]+fraction
	}
	d := decimal{negative: negative, whole: strings.TrimLeft(whole, "0"), fraction: strings.TrimRight(fraction, "0")}
	if d.whole == "" {
		d.whole = "0"
	}
	if d.isZero() {
		d.negative = false
	}
	return d, nil
}

func (d decimal) isInteger() bool { return d.fraction == "" }

func (d decimal) isZero() bool { return d.whole == "0" && d.fraction == "" }

func (d decimal) negated() decimal {
	d.negative = !d.negative && !d.isZero()
	return d
}

// String is the number without an exponent.
func (d decimal) String() string {
	s := d.whole
	if d.fraction != "" {
		s += "." + d.fraction
	}
	if d.negative {
		s = "-" + s
	}
	return s
}

func (d decimal) rat() *big.Rat {
	r, ok := new(big.Rat).SetString(d.String())
	if !ok {
		return new(big.Rat) // Never: it is a number.
	}
	return r
}

func (d decimal) compare(other decimal) int { return d.rat().Cmp(other.rat()) }
