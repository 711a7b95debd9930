package tokenizer

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/failure"
)

// Kinds of pieces, and of models, in sentencepiece_model.proto.
const (
	pieceNormal      = 1
	pieceUnknown     = 2
	pieceControl     = 3
	pieceUserDefined = 4
	pieceUnused      = 5
	pieceByte        = 6

	modelBPE = 2
)

// maxMergedPiece bounds the pieces that merging makes, in bytes: each is cut at
// every place where it could have been joined.
const maxMergedPiece = 1024

// spPiece is an entry of a SentencePiece vocabulary; its place is its id.
type spPiece struct {
	text  string
	score float32
	kind  uint64
}

// spModel is what is used of a SentencePiece ModelProto.
type spModel struct {
	pieces       []spPiece
	kind         uint64
	byteFallback bool
	spaceSuffix  bool
	unk          int32
	bos, eos     int32 // -1 if there is none.
	charsMap     bool
	dummyPrefix  bool
	trimSpaces   bool
	escapeSpaces bool
	// everyPiece says that the space goes before the text after a token of its own
	// too, as Hugging Face's tokenizers of Llama 2 do ("legacy", their default).
	everyPiece bool
}

// ParseSentencePiece reads a SentencePiece model file (tokenizer.model): a
// serialised sentencepiece_model.proto of type BPE, as Llama 2 and Mistral come
// with. Of two neighbouring pieces those are joined first whose union has the
// highest score, the leftmost first among equals.
func ParseSentencePiece(b []byte) (*Tokenizer, error) {
	m, err := parseSPModel(b)
	if err != nil {
		return nil, err
	}
	if err := m.check(); err != nil {
		return nil, failure.Permanent(contract.ReasonUnsupported, err)
	}
	return m.tokenizer()
}

// check names what this package has not.
func (m *spModel) check() error {
	switch {
	case m.kind != modelBPE:
		return fmt.Errorf("SentencePiece model of type %d is not supported; BPE (%d) is", m.kind, modelBPE)
	case m.charsMap:
		return errors.New("SentencePiece normalisation by a map of characters is not supported; identity is")
	case m.spaceSuffix:
		return errors.New("SentencePiece's treat_whitespace_as_suffix is not supported")
	case !m.escapeSpaces:
		return errors.New("SentencePiece models that do not escape spaces are not supported")
	case len(m.pieces) == 0:
		return errors.New("vocabulary is empty")
	case len(m.pieces) > maxTokenID:
		return fmt.Errorf("vocabulary has %d pieces, at most %d are supported", len(m.pieces), maxTokenID)
	}
	for id, p := range m.pieces {
		switch {
		case p.kind == pieceUnused:
			return fmt.Errorf("piece %d (%q) is of type UNUSED, which is not supported", id, p.text)
		case p.kind < pieceNormal || p.kind > pieceByte:
			return fmt.Errorf("piece %d (%q) is of type %d, which is not supported", id, p.text, p.kind)
		case p.kind == pieceUserDefined && strings.Contains(p.text, sentencePieceSpace):
			return fmt.Errorf("piece %d (%q) is user-defined with a space, which is not supported", id, p.text)
		case p.kind == pieceNormal && len(p.text) > maxMergedPiece:
			return fmt.Errorf("piece %d has %d bytes, at most %d are supported", id, len(p.text), maxMergedPiece)
		}
	}
	return nil
}

// tokenizer says the same as a tokenizer.json would, except for the merges,
// which are ranked by score, and for how spaces are treated.
func (m *spModel) tokenizer() (*Tokenizer, error) {
	f := tokenizerFile{Model: modelFile{
		Type: "BPE", FuseUnk: true, ByteFallback: m.byteFallback, Vocab: make(map[string]int32, len(m.pieces)),
	}}
	for i, p := range m.pieces {
		id := int32(i)
		if p.text == "" || !utf8.ValidString(p.text) {
			return nil, fmt.Errorf("piece %d is %q: a piece is text", id, p.text)
		}
		if other, ok := f.Model.Vocab[p.text]; ok {
			return nil, fmt.Errorf("pieces %d and %d are both %q", other, id, p.text)
		}
		f.Model.Vocab[p.text] = id
		switch p.kind {
		case pieceControl, pieceUnknown:
			f.AddedTokens = append(f.AddedTokens, addedToken{ID: id, Content: p.text, Special: true})
		case pieceUserDefined:
			f.AddedTokens = append(f.AddedTokens, addedToken{ID: id, Content: p.text})
		}
	}
	for name, id := range map[string]int32{"unk_id": m.unk, "bos_id": m.bos, "eos_id": m.eos} {
		if id >= int32(len(m.pieces)) {
			return nil, fmt.Errorf("%s is %d, the vocabulary has %d pieces", name, id, len(m.pieces))
		}
	}
	if m.unk >= 0 {
		f.Model.UnkToken = &m.pieces[m.unk].text
	}
	var err error
	if f.Decoder, err = json.Marshal(m.decoder()); err != nil {
		return nil, err
	}
	t := newTokenizer()
	if err := t.build(f); err != nil {
		return nil, err
	}
	t.preTokenize, t.sentencePiece = m.escape, m
	m.rankMerges(t.model)
	m.nameSpecials(t)
	return t, t.finish()
}

// spDecoder is the decoder that gives back what escape took.
type spDecoder struct {
	Type     string           `json:"type"`
	Decoders []map[string]any `json:"decoders"`
}

func (m *spModel) decoder() spDecoder {
	d := spDecoder{Type: "Sequence", Decoders: []map[string]any{
		{"type": "Replace", "pattern": map[string]string{"String": sentencePieceSpace}, "content": " "},
		{"type": "ByteFallback"}, {"type": "Fuse"},
	}}
	if m.dummyPrefix {
		d.Decoders = append(d.Decoders, map[string]any{"type": "Strip", "content": " ", "start": 1, "stop": 0})
	}
	return d
}

// rankMerges fills in which neighbours can be joined: those whose union is a
// piece.
func (m *spModel) rankMerges(model *bpe) {
	scores := make([]float32, 0, len(m.pieces))
	for _, p := range m.pieces {
		if p.kind == pieceNormal {
			scores = append(scores, p.score)
		}
	}
	slices.Sort(scores)
	scores = slices.Compact(scores)
	for i, p := range m.pieces {
		if p.kind != pieceNormal {
			continue
		}
		place, _ := slices.BinarySearch(scores, p.score)
		made := merge{rank: int32(len(scores) - 1 - place), id: int32(i)}
		for at := range p.text {
			left, okLeft := model.vocab[p.text[:at]]
			right, okRight := model.vocab[p.text[at:]]
			if okLeft && okRight && m.joins(left) && m.joins(right) {
				model.merges[[2]int32{left, right}] = made
			}
		}
	}
}

// joins reports whether a piece can be part of another.
func (m *spModel) joins(id int32) bool { return m.pieces[id].kind == pieceNormal }

func (m *spModel) nameSpecials(t *Tokenizer) {
	for name, id := range map[string]int32{"unk_token": m.unk, "bos_token": m.bos, "eos_token": m.eos} {
		if id >= 0 {
			t.specialNames[name] = m.pieces[id].text
		}
	}
	if m.bos >= 0 {
		t.bos = m.bos
		t.template.before = []int32{m.bos}
	}
	t.addEOS(m.eos)
}

// escape is SentencePiece's treatment of spaces: they become visible, and the
// text begins with one more, so that a word is the same there as anywhere else.
func (m *spModel) escape(pieces []piece) ([]piece, error) {
	for i, p := range pieces {
		text := p.text
		if m.trimSpaces {
			text = strings.Join(strings.FieldsFunc(text, func(r rune) bool { return r == ' ' }), " ")
		}
		if m.dummyPrefix && text != "" && (p.first || m.trimSpaces || m.everyPiece) {
			text = " " + text
		}
		pieces[i].text = strings.ReplaceAll(text, " ", sentencePieceSpace)
	}
	return pieces, nil
}

// parseSPModel decodes the fields that are used, with the defaults of the
// schema for those that are not there.
func parseSPModel(b []byte) (*spModel, error) {
	m := &spModel{kind: 1, bos: 1, eos: 2, dummyPrefix: true, trimSpaces: true, escapeSpaces: true}
	err := eachField(b, func(number protowire.Number, v spValue) error {
		switch number {
		case 1:
			p, err := parseSPPiece(v.bytes)
			if err != nil {
				return fmt.Errorf("piece %d: %w", len(m.pieces), err)
			}
			m.pieces = append(m.pieces, p)
			return nil
		case 2:
			return m.parseTrainer(v.bytes)
		case 3:
			return m.parseNormalizer(v.bytes)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("SentencePiece model: %w", err)
	}
	return m, nil
}

func parseSPPiece(b []byte) (spPiece, error) {
	p := spPiece{kind: pieceNormal}
	err := eachField(b, func(number protowire.Number, v spValue) error {
		switch number {
		case 1:
			p.text = string(v.bytes)
		case 2:
			p.score = math.Float32frombits(uint32(v.number))
		case 3:
			p.kind = v.number
		}
		return nil
	})
	if err == nil && p.score != p.score {
		err = errors.New("the score is not a number")
	}
	return p, err
}

func (m *spModel) parseTrainer(b []byte) error {
	return eachField(b, func(number protowire.Number, v spValue) error {
		switch number {
		case 3:
			m.kind = v.number
		case 24:
			m.spaceSuffix = v.number != 0
		case 35:
			m.byteFallback = v.number != 0
		case 40:
			m.unk = v.id()
		case 41:
			m.bos = v.id()
		case 42:
			m.eos = v.id()
		}
		return nil
	})
}

func (m *spModel) parseNormalizer(b []byte) error {
	return eachField(b, func(number protowire.Number, v spValue) error {
		switch number {
		case 2:
			m.charsMap = len(v.bytes) > 0
		case 3:
			m.dummyPrefix = v.number != 0
		case 4:
			m.trimSpaces = v.number != 0
		case 5:
			m.escapeSpaces = v.number != 0
		}
		return nil
	})
}

// spValue is the value of a field: bytes of a length-delimited one, the number
// of any other.
type spValue struct {
	bytes  []byte
	number uint64
}

// id is a token's id, -1 for none; one that no vocabulary has stays too large.
func (v spValue) id() int32 {
	id := int64(v.number)
	return int32(min(max(id, -1), maxTokenID+1))
}

// eachField calls f for every field of a protocol buffer message.
func eachField(b []byte, f func(protowire.Number, spValue) error) error {
	for at := 0; len(b) > 0; {
		number, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return fmt.Errorf("no protocol buffer at byte %d: %w", at, protowire.ParseError(n))
		}
		b, at = b[n:], at+n
		var v spValue
		switch kind {
		case protowire.BytesType:
			v.bytes, n = protowire.ConsumeBytes(b)
		case protowire.VarintType:
			v.number, n = protowire.ConsumeVarint(b)
		case protowire.Fixed32Type:
			var x uint32
			x, n = protowire.ConsumeFixed32(b)
			v.number = uint64(x)
		default:
			n = protowire.ConsumeFieldValue(number, kind, b)
		}
		if n < 0 {
			return fmt.Errorf("field %d at byte %d: %w", number, at, protowire.ParseError(n))
		}
		b, at = b[n:], at+n
		if err := f(number, v); err != nil {
			return err
		}
	}
	return nil
}
