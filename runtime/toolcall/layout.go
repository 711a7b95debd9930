package toolcall

import (
	"fmt"

	"github.com/transformersquared/operator/runtime/constrain"
)

// word is the literal of a marker.
func (f *Format) word(marker string) constrain.Literal {
	if m, ok := f.special[marker]; ok {
		return constrain.Literal(m.bytes)
	}
	return constrain.Literal(marker)
}

// Layout is what an answer has to look like: one or more calls where they are demanded, else
// calls behind text, or answer instead of both where it is not nil. It is nil where the model
// may write what it likes, or answer alone if nothing is offered.
func (f *Format) Layout(o Offer, answer constrain.Layout) constrain.Layout {
	if len(o.Functions) == 0 {
		return answer
	}
	if !o.constrained() && answer == nil {
		return nil
	}
	calls := f.calls(o)
	switch {
	case o.demands():
		return calls
	case answer != nil:
		return constrain.Choice{answer, calls}
	case f.begin == "":
		return constrain.Choice{constrain.Free{NotFirst: "{"}, calls}
	}
	text := constrain.Free{Without: f.markers}
	return constrain.Choice{text, constrain.Sequence{text, calls}}
}

// calls is one call, or several where that is allowed.
func (f *Format) calls(o Offer) constrain.Layout {
	var alternatives constrain.Choice
	for _, function := range o.Functions {
		if o.offers(function.Name) {
			alternatives = append(alternatives, f.callOf(function))
		}
	}
	var call constrain.Layout = alternatives
	between := constrain.Literal("\n")
	switch {
	case f.begin == "":
		return call
	case f.list:
		between = ", "
	case f.form == formNamed:
		call, between = constrain.Sequence{f.word(f.begin), call}, ""
	default:
		call = constrain.Sequence{f.word(f.begin), constrain.Literal("\n"), call, constrain.Literal("\n"), f.word(f.end)}
	}
	if !o.Single && o.Only == "" {
		call = constrain.Repeat{Item: call, Between: between}
	}
	if !f.list {
		return call
	}
	blank := constrain.Choice{constrain.Literal(""), constrain.Literal(" ")}
	return constrain.Sequence{f.word(f.begin), blank, constrain.Literal("["), call, constrain.Literal("]")}
}

// callOf is a call of one function, without what is around all calls.
func (f *Format) callOf(function Function) constrain.Layout {
	switch f.form {
	case formNamed:
		call := constrain.Sequence{constrain.Literal(function.Name)}
		for _, mark := range f.inner {
			call = append(call, f.word(mark))
			if mark == markID {
				call = append(call, constrain.Matching(fmt.Sprintf("^[A-Za-z0-9]{%d}$", f.idLength)))
			}
		}
		return append(call, function.arguments())
	case formElements:
		return constrain.Sequence{
			constrain.Literal(beginFunction + function.Name + endName + "\n"),
			constrain.Elements{
				Value: function.arguments(), Begin: beginParameter, Named: endName + "\n", End: "\n" + endParameter + "\n",
				Barrier: endParameter, Reserved: "<>\n",
			},
			constrain.Literal(endFunction),
		}
	default:
		return constrain.Sequence{constrain.Literal(f.beginning(function)), function.arguments(), constrain.Literal("}")}
	}
}

// beginning is what a call that is a JSON object has before its arguments.
func (f *Format) beginning(function Function) string {
	return `{"name": ` + quote(function.Name) + `, ` + quote(f.arguments) + `: `
}

// beginnings are what the calls of an answer that has a structure begin with.
func (f *Format) beginnings(o Offer) []string {
	if f.begin != "" {
		return []string{f.begin}
	}
	var list []string
	for _, function := range o.Functions {
		if o.offers(function.Name) {
			list = append(list, f.beginning(function))
		}
	}
	return list
}
