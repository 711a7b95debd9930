package constrain_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/transformersquared/operator/runtime/constrain"
	"github.com/transformersquared/operator/runtime/sample"
	"github.com/transformersquared/operator/runtime/tokenizer"
)

// schemas makes random schemas of the supported subset.
type schemas struct {
	rng  *rand.Rand
	defs int // That can be referred to.
}

type object map[string]any

func (s *schemas) root() object {
	s.defs = s.rng.IntN(3)
	defs := object{}
	for i := range s.defs {
		// They may refer to each other within arrays and objects, and end without.
		defs[fmt.Sprint("d", i)] = object{"anyOf": []any{s.leaf(), s.container(2)}}
	}
	root := s.container(3)
	if s.rng.IntN(5) == 0 {
		root = s.schema(3)
	}
	root["$defs"] = defs
	return root
}

func (s *schemas) schema(depth int) object {
	switch {
	case depth <= 0 || s.rng.IntN(3) == 0:
		return s.leaf()
	case s.defs > 0 && s.rng.IntN(5) == 0:
		return object{"$ref": fmt.Sprint("#/$defs/d", s.rng.IntN(s.defs))}
	case s.rng.IntN(6) == 0:
		return object{"anyOf": []any{s.schema(depth - 1), s.schema(depth - 1)}}
	case s.rng.IntN(8) == 0:
		return object{"oneOf": []any{
			object{"type": "object", "properties": object{"kind": object{"const": "x"}, "a": s.schema(depth - 1)}, "required": []string{"kind"}},
			object{"type": "object", "properties": object{"kind": object{"enum": []any{"y", 1}}, "b": s.schema(depth - 1)}, "required": []string{"kind"}},
			object{"type": []string{"integer", "null"}},
		}}
	case s.rng.IntN(8) == 0:
		return object{"type": "object", "allOf": []any{
			object{"properties": object{"p": s.leaf(), "q": object{"type": "string"}}, "required": []string{"q"}},
			object{"properties": object{"q": object{"maxLength": s.rng.IntN(5)}, "r": s.leaf()}},
		}}
	default:
		return s.container(depth)
	}
}

func (s *schemas) container(depth int) object {
	if s.rng.IntN(3) == 0 {
		a := object{"type": "array", "items": s.schema(depth - 1)}
		least := s.rng.IntN(3)
		if s.rng.IntN(2) == 0 {
			a["minItems"] = least
		}
		if s.rng.IntN(2) == 0 {
			a["maxItems"] = least + s.rng.IntN(4)
		}
		if s.rng.IntN(3) == 0 {
			a["prefixItems"] = []any{s.schema(depth - 1), s.leaf()}
		}
		return a
	}
	properties := object{}
	required := []string{}
	for range 1 + s.rng.IntN(4) {
		name := []string{"a", "ab", "name", "é", "x\"y", "id", "日本", "a/b~c", ""}[s.rng.IntN(9)]
		if properties[name] == nil && s.rng.IntN(2) == 0 {
			required = append(required, name)
		}
		properties[name] = s.schema(depth - 1)
	}
	o := object{"type": "object", "properties": properties, "required": required}
	switch s.rng.IntN(5) {
	case 0, 1:
		o["additionalProperties"] = false
	case 2:
		o["additionalProperties"] = s.leaf()
	}
	return o
}

func (s *schemas) leaf() object {
	n := s.rng.IntN(40) - 20
	switch s.rng.IntN(14) {
	case 0:
		return object{"type": "string"}
	case 1:
		return object{"type": "string", "minLength": s.rng.IntN(4), "maxLength": 3 + s.rng.IntN(8)}
	case 2:
		return object{"type": "string", "pattern": []string{`^[a-c]{1,4}$`, `x.y`, `^(on|off)$`, `^\d+(\.\d{2})?$`, `é|日`, `^[^"\\]{0,3}$`, `[\n"]$`}[s.rng.IntN(7)], "maxLength": 12}
	case 3:
		return object{"type": "string", "format": []string{"date", "time", "date-time", "uuid", "ipv4"}[s.rng.IntN(5)]}
	case 4:
		return object{"type": "integer"}
	case 5:
		return object{"type": "integer", "minimum": n, "maximum": n + s.rng.IntN(300)}
	case 6:
		return object{"type": "number", "exclusiveMinimum": float64(n) / 4, "maximum": float64(n)/4 + 1 + s.rng.Float64()*100}
	case 7:
		return object{"type": "number"}
	case 8:
		return object{"type": []string{"integer", "number"}[s.rng.IntN(2)], "multipleOf": []float64{1, 2, 7, 12, 100}[s.rng.IntN(5)], "minimum": n}
	case 9:
		return object{"type": "number", "multipleOf": []float64{0.01, 0.5, 0.25, 2.5}[s.rng.IntN(4)], "maximum": n}
	case 10:
		return object{"type": []string{"boolean", "null"}}
	case 11:
		return object{"enum": []any{"a", 1, 2.5, nil, true, object{"k": []any{1, "é\n"}}, []any{}, "\u2028<>&"}[s.rng.IntN(4):]}
	case 12:
		return object{"const": []any{"yes", -3, object{"a": nil}}[s.rng.IntN(3)]}
	default:
		return object{"type": []string{"string", "integer", "null"}, "minLength": 1, "minimum": 0}
	}
}

// write lets a random model write an answer of at most so many tokens. It reports whether
// the answer has ended.
func write(t *testing.T, g *constrain.Grammar, v *constrain.Vocabulary, decode func([]int32) string, rng *rand.Rand, most int) (text string, ended bool) {
	t.Helper()
	stop := int32(v.Size() - 1)
	closing := []int32{v.Byte('"'), v.Byte('}'), v.Byte(']')}
	m := g.NewMatcher([]int32{stop})
	var chooser sample.Chooser
	logits := make([]float32, v.Size())
	draw := sample.Draw{Temperature: 1}
	if rng.IntN(2) == 0 {
		draw.TopP = 0.9
	}
	var tokens []int32
	for range most {
		allowed, err := m.Allowed()
		if err != nil {
			t.Fatalf("behind %q: %v", decode(tokens), err)
		}
		if got := allowed.Allows(stop); got != m.MayEnd() {
			t.Fatalf("behind %q the stop token is allowed: %v, but the text may end: %v", decode(tokens), got, m.MayEnd())
		}
		for i := range logits {
			logits[i] = float32(2 * rng.NormFloat64())
		}
		for _, id := range closing { // Random texts are long else.
			logits[id] += 5
		}
		draw.Uniform, draw.Allowed = rng.Float64(), allowed.Bits
		token, err := chooser.Choose(logits, &draw)
		if err != nil || !allowed.Allows(token) {
			t.Fatalf("behind %q: token %d, %v", decode(tokens), token, err)
		}
		if err := m.Accept(token); err != nil {
			t.Fatalf("behind %q: %v", decode(tokens), err)
		}
		if token != stop {
			tokens = append(tokens, token)
		}
		if m.Ended() {
			return decode(tokens), true
		}
	}
	return decode(tokens), false
}

// testRandomAnswers has a random model answer by random schemas: what ends validates.
func testRandomAnswers(t *testing.T, v *constrain.Vocabulary, decode func([]int32) string, count int) {
	t.Helper()
	if testing.Short() { // The race detector makes twenty times as much of it.
		count = max(count/20, 2)
	}
	compiler := constrain.NewCompiler(v, constrain.Options{})
	ends, cut, impossible := 0, 0, 0
	for i := range count {
		rng := sample.Stream(23, uint64(i))
		schema, err := json.Marshal((&schemas{rng: rng}).root())
		if err != nil {
			t.Fatal(err)
		}
		g, err := compiler.Schema(t.Context(), schema)
		if err != nil {
			if strings.Contains(err.Error(), "no value satisfies") {
				impossible++
				continue
			}
			t.Fatalf("%s: %v", schema, err)
		}
		validate := validator(t, string(schema))
		for range 2 {
			text, ended := write(t, g, v, decode, rng, 400)
			if !ended {
				cut++
				continue
			}
			ends++
			if !valid(t, validate, text) {
				t.Errorf("%s: the answer %s does not validate", schema, text)
			}
			if ok, err := g.Matches([]byte(text)); !ok || err != nil {
				t.Errorf("%s: the answer %s is not in the grammar: %v", schema, text, err)
			}
		}
	}
	t.Logf("%d answers ended, %d were cut, %d of %d schemas allow nothing", ends, cut, impossible, count)
	if ends < count || impossible > max(count/20, 1) {
		t.Errorf("of %d answers %d ended, %d schemas allow nothing", 2*count, ends, impossible)
	}
}

func TestRandomAnswersValidate(t *testing.T) {
	texts := append(byteTokens(), "") // The last one is the stop token.
	v := constrain.NewVocabulary(len(texts), func(id int32) []byte { return []byte(texts[id]) })
	testRandomAnswers(t, v, func(tokens []int32) string {
		var b strings.Builder
		for _, id := range tokens {
			b.WriteString(texts[id])
		}
		return b.String()
	}, 1000)
}

func TestRandomAnswersValidateWithPublishedVocabularies(t *testing.T) {
	root := os.Getenv("T2_SHARED_DATA")
	if root == "" {
		t.Skip("T2_SHARED_DATA is not set: the vocabularies of published models are not part of the repository")
	}
	byteLevel, err := tokenizer.Load(filepath.Join(root, "tokenizers", "smollm2"))
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(root, "tokenizers", "mistral-v3", "mistral_instruct_tokenizer_240323.model.v3"))
	if err != nil {
		t.Fatal(err)
	}
	sentencePiece, err := tokenizer.ParseSentencePiece(b)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		tok  *tokenizer.Tokenizer
	}{{"of bytes", byteLevel}, {"of SentencePiece", sentencePiece}} {
		t.Run(c.name, func(t *testing.T) {
			// One more: the stop token of the random model.
			v := constrain.NewVocabulary(c.tok.VocabSize()+1, func(id int32) []byte {
				if c.tok.IsSpecial(id) {
					return nil
				}
				return c.tok.TokenBytes(id)
			})
			testRandomAnswers(t, v, func(tokens []int32) string { return c.tok.Decode(tokens, true) }, 20)
		})
	}
}

func mustMarshal(t testing.TB, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
