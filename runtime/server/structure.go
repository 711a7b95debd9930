package server

import (
	"context"
	"encoding/json"
	"errors"

	"github.com/transformersquared/operator/runtime/constrain"
	"github.com/transformersquared/operator/runtime/tokenizer"
)

// structure is what an answer has to look like.
type structure struct {
	kind   string // One of the kinds below; "" for text.
	schema json.RawMessage
	// place is where the request has the schema, if elsewhere than in response_format.
	place string
}

// param is the parameter that asks for a structure.
func (s structure) param() string {
	if s.place != "" {
		return paramTextFormat
	}
	return "response_format"
}

// named names the parameter where a model cannot follow a structure, which shows while it
// answers.
func (s structure) named(err error) error {
	if errors.Is(err, constrain.ErrTooComplex) || errors.Is(err, constrain.ErrStuck) {
		return invalid(s.param(), "invalid_json_schema", "what %s or tools ask for cannot be followed by this model: %s", s.param(), err.Error())
	}
	return err
}

// Kinds of structure.
const (
	kindObject = "json_object"
	kindSchema = "json_schema"
)

// parseStructure reads response_format. Whether the schema is right is known later
// (structures.constraint).
func parseStructure(f *fields) (s structure) {
	o := f.object("response_format")
	if o == nil {
		return s
	}
	switch kind := o.text("type"); kind {
	case "text":
	case kindObject:
		s.kind = kindObject
	case kindSchema:
		s.kind = kindSchema
		s.schema = parseSchema(o)
	default:
		o.fail(invalid("response_format", "invalid_value", "response_format.type is %q: it must be text, json_object or json_schema", clip(kind)))
	}
	o.refuseOthers(nil)
	f.adopt(o)
	return s
}

// parseSchema reads the schema and its name, which is for whoever reads it.
func parseSchema(o *fields) json.RawMessage {
	j := o.object("json_schema")
	if j == nil {
		o.fail(invalid("response_format", "missing_required_parameter", "response_format.json_schema is missing: it must have a name and a schema"))
		return nil
	}
	schema := parseNamedSchema(j, "response_format")
	j.refuseOthers(harmlessOfStructures)
	o.adopt(j)
	return schema
}

// parseNamedSchema reads name and schema of an object that a parameter has.
func parseNamedSchema(j *fields, param string) json.RawMessage {
	if j.text("name") == "" {
		j.fail(invalid(param, "missing_required_parameter", "%sname is missing", j.prefix))
	}
	if !j.has("schema") {
		j.fail(invalid(param, "missing_required_parameter", "%sschema is missing: it must be a JSON Schema", j.prefix))
	}
	return j.raw["schema"]
}

// structures compiles structures for one model.
type structures struct {
	compiler *constrain.Compiler
}

// newStructures returns those of a model with so many tokens.
func newStructures(tok *tokenizer.Tokenizer, vocabulary int, calls calling) structures {
	v := constrain.NewVocabulary(vocabulary, calls.format.Spelling(tok))
	return structures{constrain.NewCompiler(v, constrain.Options{})}
}

// layout is what an answer looks like, nil if it is text.
func (s structure) layout() constrain.Layout {
	switch s.kind {
	case kindObject:
		return constrain.Value{Object: true}
	case kindSchema:
		return constrain.Value{Name: s.place, Schema: s.schema}
	default:
		return nil
	}
}

// constraint returns what an answer must follow, nil if it is text. layout is what tools ask
// for, with the structure in it; nil if nothing.
func (s structures) constraint(ctx context.Context, of structure, layout constrain.Layout, stops []int32) (*constrain.Matcher, error) {
	var grammar *constrain.Grammar
	var err error
	switch {
	case layout != nil:
		grammar, err = s.compiler.Layout(ctx, layout)
	case of.kind == kindObject:
		grammar, err = s.compiler.Object(ctx)
	case of.kind == kindSchema && of.place != "":
		grammar, err = s.compiler.Layout(ctx, of.layout())
	case of.kind == kindSchema:
		grammar, err = s.compiler.Schema(ctx, of.schema)
	default:
		return nil, nil //nolint:nilnil // Text has no constraint.
	}
	if err != nil {
		return nil, err
	}
	return grammar.NewMatcher(stops), nil
}
