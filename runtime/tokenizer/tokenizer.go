// Package tokenizer turns text into token ids and back, as Hugging Face's
// tokenizer.json or a SentencePiece model says: byte-pair encoding, byte-level
// (GPT-2, Llama 3, Qwen) or in the manner of SentencePiece (Llama 2, Mistral),
// with added tokens and chat templates.
//
// Two kinds of text are kept apart. Text of the model's own making (a chat
// template) may contain special tokens; text of users may not, whatever it
// spells: see EncodeChat.
package tokenizer

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/transformersquared/operator/runtime/artifact"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/failure"
	"github.com/transformersquared/operator/runtime/tokenizer/jinja"
)

// Bounds of the files read.
const (
	maxTokenizerFile = 64 << 20
	maxConfigFile    = 4 << 20
)

// Tokenizer encodes and decodes text. It may be used concurrently.
type Tokenizer struct {
	model        *bpe
	normalize    normalizer
	preTokenize  preTokenizer
	decode       decoder
	template     template
	tokens       []string // by id; "" where there is none
	special      map[int32]bool
	added        map[string]addedToken
	trained      int       // One more than the highest id of a token that was not added.
	raw          *addedSet // matched before normalisation
	normalized   *addedSet // matched after it
	rendered     *addedSet // matched in chat templates: all special tokens, and raw
	bos          int32     // -1 if there is none
	eos          []int32
	specialText  []string // spellings that users must not inject
	specialNames map[string]string
	chat         *jinja.Template // nil if there is none
	// chatWithTools is for conversations with tools; nil if chat is.
	chatWithTools *jinja.Template
	chatError     error // Why the one that there is cannot be used.

	// What a config may still change; nil where there is no such thing.
	sentencePiece *spModel
	byteLevel     *byteLevelStep // The pre-tokenizer, if it is one step of this kind.
}

// Load reads the tokenizer of a model folder: the first of
// contract.TokenizerFiles that is there and, where they are, tokenizer_config.json,
// special_tokens_map.json and added_tokens.json (see readConfig),
// chat_template.jinja, and generation_config.json or config.json for the tokens that
// end a sequence. What cannot be read is contract.ReasonInvalidModel or, where this package has not what the
// file asks for, contract.ReasonUnsupported.
func Load(dir string) (*Tokenizer, error) {
	t, err := load(dir)
	if err != nil {
		return nil, failure.Content(contract.ReasonInvalidModel, fmt.Errorf("tokenizer of %s: %w", dir, err))
	}
	return t, nil
}

func load(dir string) (*Tokenizer, error) {
	t, err := loadVocabulary(dir)
	if err != nil {
		return nil, err
	}
	config, err := readConfig(dir)
	if err != nil {
		return nil, err
	}
	if err := t.configure(config); err != nil {
		return nil, err
	}
	if err := t.addModelEOS(dir); err != nil {
		return nil, err
	}
	source, withTools, err := chatTemplateSource(dir, config)
	if err != nil {
		return nil, err
	}
	// Text can be completed without any.
	if source != "" {
		t.chat, err = jinja.Parse(source)
	}
	if err == nil && withTools != "" {
		t.chatWithTools, err = jinja.Parse(withTools)
	}
	if err != nil {
		t.chatError = failure.Permanent(contract.ReasonUnsupported, fmt.Errorf("the model's chat template cannot be used: %w", err))
	}
	return t, nil
}

// loadVocabulary reads the first of contract.TokenizerFiles that is there.
func loadVocabulary(dir string) (*Tokenizer, error) {
	for _, name := range contract.TokenizerFiles {
		b, err := artifact.ReadBounded(filepath.Join(dir, name), maxTokenizerFile)
		if missing(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		parse := ParseSentencePiece
		if strings.HasSuffix(name, ".json") {
			parse = Parse
		}
		t, err := parse(b)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		if t.sentencePiece != nil {
			t.sentencePiece.everyPiece = name == "tokenizer.model"
		}
		return t, nil
	}
	return nil, fmt.Errorf("none of %s is there: %w", strings.Join(contract.TokenizerFiles, ", "), fs.ErrNotExist)
}

// Parse reads a tokenizer.json.
func Parse(b []byte) (*Tokenizer, error) {
	var f tokenizerFile
	if err := json.Unmarshal(b, &f); err != nil {
		return nil, err
	}
	t := newTokenizer()
	if err := t.build(f); err != nil {
		return nil, err
	}
	return t, t.finish()
}

func newTokenizer() *Tokenizer {
	return &Tokenizer{added: map[string]addedToken{}, bos: -1, specialNames: map[string]string{}}
}

func (t *Tokenizer) build(f tokenizerFile) error {
	var err error
	if t.model, err = newBPE(f.Model); err != nil {
		return failure.Permanent(contract.ReasonUnsupported, err)
	}
	if err := t.addVocab(f); err != nil {
		return err
	}
	unsupported := func(err error) error { return failure.Permanent(contract.ReasonUnsupported, err) }
	if t.normalize, err = parseNormalizer(f.Normalizer); err != nil {
		return unsupported(err)
	}
	if t.preTokenize, t.byteLevel, err = parsePreTokenizer(f.PreTokenizer); err != nil {
		return unsupported(err)
	}
	if t.decode, err = parseDecoder(f.Decoder); err != nil {
		return unsupported(err)
	}
	if t.template, _, err = parsePostProcessor(f.PostProcessor); err != nil {
		return unsupported(err)
	}
	return nil
}

// finish builds what depends on which tokens were added; it can be done again.
func (t *Tokenizer) finish() error {
	for _, id := range append(slices.Clone(t.template.before), t.template.after...) {
		if t.TokenText(id) == "" {
			return fmt.Errorf("post-processor adds token %d, which is not in the vocabulary", id)
		}
	}
	t.special, t.specialText = map[int32]bool{}, nil
	list := slices.SortedFunc(maps.Values(t.added), func(a, b addedToken) int { return cmp.Compare(a.ID, b.ID) })
	for _, a := range list {
		if a.Special {
			t.special[a.ID] = true
			t.specialText = append(t.specialText, a.Content)
		}
	}
	return t.buildAdded(list)
}

// addVocab numbers the tokens of the vocabulary and the added ones.
func (t *Tokenizer) addVocab(f tokenizerFile) error {
	added := make(map[string]bool, len(f.AddedTokens))
	for _, a := range f.AddedTokens {
		added[a.Content] = true
	}
	highest := int32(-1)
	for token, id := range f.Model.Vocab {
		if id < 0 || id > maxTokenID {
			return fmt.Errorf("token %q has id %d, must be 0 to %d", token, id, maxTokenID)
		}
		if !added[token] {
			highest = max(highest, id)
		}
	}
	t.trained = int(highest) + 1
	for _, id := range f.Model.Vocab {
		highest = max(highest, id)
	}
	for _, a := range f.AddedTokens {
		if a.ID < 0 || a.ID > maxTokenID || a.Content == "" {
			return fmt.Errorf("added token %q has id %d, must have a content and an id of 0 to %d", a.Content, a.ID, maxTokenID)
		}
		highest = max(highest, a.ID)
	}
	t.tokens = make([]string, highest+1)
	for token, id := range f.Model.Vocab {
		if other := t.tokens[id]; other != "" {
			return fmt.Errorf("tokens %q and %q have the same id %d", min(token, other), max(token, other), id)
		}
		t.tokens[id] = token
	}
	for _, a := range f.AddedTokens {
		if other := t.tokens[a.ID]; other != "" && other != a.Content {
			return fmt.Errorf("added token %q has the id %d of token %q", a.Content, a.ID, other)
		}
		t.tokens[a.ID] = a.Content
		t.added[a.Content] = a
	}
	return nil
}

func (t *Tokenizer) buildAdded(list []addedToken) error {
	var raw, normalized, rendered []matchToken
	for _, a := range list {
		if a.Special || !a.Normalized {
			rendered = append(rendered, matchToken{a, a.Content})
		}
		if !a.Normalized {
			raw = append(raw, matchToken{a, a.Content})
			continue
		}
		text, err := t.normalize(a.Content)
		if err != nil {
			return fmt.Errorf("added token %q: %w", a.Content, err)
		}
		normalized = append(normalized, matchToken{a, text})
	}
	t.raw, t.normalized, t.rendered = newAddedSet(raw), newAddedSet(normalized), newAddedSet(rendered)
	return nil
}

// Encode returns the tokens of a text. Special tokens that the text spells are
// recognised, so text must not come from users of a chat (see EncodePlain and
// EncodeChat). With addSpecial the tokens that begin and end a sequence are
// added as the tokenizer's post-processor says.
func (t *Tokenizer) Encode(text string, addSpecial bool) ([]int32, error) {
	return t.encode(text, addSpecial, true)
}

// EncodePlain is Encode without special tokens, neither added nor recognised:
// "<|end|>" is encoded as the seven characters that it is.
func (t *Tokenizer) EncodePlain(text string) ([]int32, error) {
	return t.encode(text, false, false)
}

func (t *Tokenizer) encode(text string, addSpecial, wantSpecial bool) ([]int32, error) {
	var ids []int32
	if addSpecial {
		ids = append(ids, t.template.before...)
	}
	ids, err := t.appendFragments(ids, t.raw.split(strings.ToValidUTF8(text, "\uFFFD"), wantSpecial), wantSpecial)
	if err != nil {
		return nil, fmt.Errorf("encoding text: %w", err)
	}
	if addSpecial {
		ids = append(ids, t.template.after...)
	}
	return ids, nil
}

// appendFragments encodes what was cut at added tokens, cutting again at those
// that are looked for in the normalised text.
func (t *Tokenizer) appendFragments(ids []int32, fragments []fragment, wantSpecial bool) ([]int32, error) {
	first := true
	for _, outer := range fragments {
		if outer.id >= 0 {
			ids, first = append(ids, outer.id), false
			continue
		}
		normalized, err := t.normalize(outer.text)
		if err != nil {
			return nil, err
		}
		for _, inner := range t.normalized.split(normalized, wantSpecial) {
			if inner.id >= 0 {
				ids, first = append(ids, inner.id), false
				continue
			}
			if ids, err = t.appendPieces(ids, inner.text, first); err != nil {
				return nil, err
			}
			first = false
		}
	}
	return ids, nil
}

func (t *Tokenizer) appendPieces(ids []int32, text string, first bool) ([]int32, error) {
	pieces, err := t.preTokenize([]piece{{text: text, first: first}})
	if err != nil {
		return nil, err
	}
	for _, p := range pieces {
		if ids, err = t.model.encode(ids, p.text); err != nil {
			return nil, err
		}
	}
	return ids, nil
}

// TokenText returns the spelling of a token in the vocabulary, "" if there is
// no such token.
func (t *Tokenizer) TokenText(id int32) string {
	if id < 0 || int(id) >= len(t.tokens) {
		return ""
	}
	return t.tokens[id]
}

// TokenID returns the id of the token with this spelling.
func (t *Tokenizer) TokenID(token string) (int32, bool) {
	if a, ok := t.added[token]; ok {
		return a.ID, true
	}
	id, ok := t.model.vocab[token]
	return id, ok
}

// VocabSize is one more than the highest id.
func (t *Tokenizer) VocabSize() int { return len(t.tokens) }

// BOS returns the token that begins a sequence.
func (t *Tokenizer) BOS() (id int32, ok bool) { return t.bos, t.bos >= 0 }

// EOS returns the tokens that end a sequence or a turn.
func (t *Tokenizer) EOS() []int32 { return slices.Clone(t.eos) }

// IsSpecial reports whether a token is special.
func (t *Tokenizer) IsSpecial(id int32) bool { return t.special[id] }

// FitsVocabulary checks that every token of the trained vocabulary has a row in the
// embedding of a model with vocabSize rows. Added tokens may lie behind it: the pad
// token of many models does, and nobody uses it. What a prompt may hold is the
// model's to say.
func (t *Tokenizer) FitsVocabulary(vocabSize int) error {
	if t.trained > vocabSize {
		last := int32(t.trained - 1)
		return failure.Permanentf(contract.ReasonInvalidModel,
			"tokenizer has tokens up to %d (%q), the model's vocabulary has %d: tokenizer and weights are of different models", last, t.TokenText(last), vocabSize)
	}
	return nil
}

// missing reports whether err says that an optional file is not there.
func missing(err error) bool { return errors.Is(err, fs.ErrNotExist) }
