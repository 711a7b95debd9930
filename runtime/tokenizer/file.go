package tokenizer

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// tokenizerFile mirrors tokenizer.json.
type tokenizerFile struct {
	AddedTokens   []addedToken    `json:"added_tokens"`
	Normalizer    json.RawMessage `json:"normalizer"`
	PreTokenizer  json.RawMessage `json:"pre_tokenizer"`
	PostProcessor json.RawMessage `json:"post_processor"`
	Decoder       json.RawMessage `json:"decoder"`
	Model         modelFile       `json:"model"`
}

// addedToken is a token that is matched before anything else happens to a text.
type addedToken struct {
	ID         int32  `json:"id"`
	Content    string `json:"content"`
	SingleWord bool   `json:"single_word"`
	LStrip     bool   `json:"lstrip"`
	RStrip     bool   `json:"rstrip"`
	Normalized bool   `json:"normalized"`
	Special    bool   `json:"special"`
}

type modelFile struct {
	Type                    string           `json:"type"`
	Dropout                 *float64         `json:"dropout"`
	UnkToken                *string          `json:"unk_token"`
	ContinuingSubwordPrefix *string          `json:"continuing_subword_prefix"`
	EndOfWordSuffix         *string          `json:"end_of_word_suffix"`
	FuseUnk                 bool             `json:"fuse_unk"`
	ByteFallback            bool             `json:"byte_fallback"`
	IgnoreMerges            bool             `json:"ignore_merges"`
	Vocab                   map[string]int32 `json:"vocab"`
	Merges                  mergeList        `json:"merges"`
}

// mergeList is a list of merges, each spelled "a b" (older files) or ["a", "b"].
type mergeList [][2]string

// UnmarshalJSON reads either spelling.
func (l *mergeList) UnmarshalJSON(b []byte) error {
	var joined []string
	if err := json.Unmarshal(b, &joined); err == nil {
		*l = make(mergeList, len(joined))
		for i, s := range joined {
			left, right, ok := strings.Cut(s, " ")
			if !ok || strings.Contains(right, " ") {
				return fmt.Errorf("merge %d is %q, want two tokens with a space between", i, s)
			}
			(*l)[i] = [2]string{left, right}
		}
		return nil
	}
	var pairs [][]string
	if err := json.Unmarshal(b, &pairs); err != nil {
		return errors.New("merges are neither strings nor pairs of strings")
	}
	*l = make(mergeList, len(pairs))
	for i, p := range pairs {
		if len(p) != 2 {
			return fmt.Errorf("merge %d has %d tokens, want two", i, len(p))
		}
		(*l)[i] = [2]string{p[0], p[1]}
	}
	return nil
}

// pattern is a string or a regular expression.
type pattern struct {
	String *string `json:"String"`
	Regex  *string `json:"Regex"`
}

// component is any normaliser, pre-tokeniser, post-processor or decoder; each
// type uses some of the fields.
type component struct {
	Type string `json:"type"`

	Normalizers   []json.RawMessage `json:"normalizers"`
	PreTokenizers []json.RawMessage `json:"pretokenizers"`
	Processors    []json.RawMessage `json:"processors"`
	Decoders      []json.RawMessage `json:"decoders"`

	Prepend          string   `json:"prepend"`
	Pattern          *pattern `json:"pattern"`
	Content          string   `json:"content"`
	Behavior         string   `json:"behavior"`
	Invert           bool     `json:"invert"`
	AddPrefixSpace   *bool    `json:"add_prefix_space"`
	UseRegex         *bool    `json:"use_regex"`
	IndividualDigits bool     `json:"individual_digits"`
	Replacement      string   `json:"replacement"`
	PrependScheme    string   `json:"prepend_scheme"`
	Split            *bool    `json:"split"`
	Start            int      `json:"start"`
	Stop             int      `json:"stop"`
	StripLeft        bool     `json:"strip_left"`
	StripRight       bool     `json:"strip_right"`

	Single        []templatePiece            `json:"single"`
	SpecialTokens map[string]templateSpecial `json:"special_tokens"`
}

type templatePiece struct {
	SpecialToken *struct {
		ID string `json:"id"`
	} `json:"SpecialToken"`
	Sequence *struct {
		ID string `json:"id"`
	} `json:"Sequence"`
}

type templateSpecial struct {
	IDs []int32 `json:"ids"`
}

// maxDepth bounds the nesting of Sequence components.
const maxDepth = 8

// absent reports whether a component is null or not there.
func absent(raw json.RawMessage) bool {
	return len(raw) == 0 || bytes.Equal(bytes.TrimSpace(raw), []byte("null"))
}

// flatten decodes a component and the members of Sequences, in order.
func flatten(raw json.RawMessage, members func(component) []json.RawMessage) ([]component, error) {
	var list []component
	var walk func(raw json.RawMessage, depth int) error
	walk = func(raw json.RawMessage, depth int) error {
		if absent(raw) {
			return nil
		}
		if depth > maxDepth {
			return fmt.Errorf("components are nested deeper than %d", maxDepth)
		}
		var c component
		if err := json.Unmarshal(raw, &c); err != nil {
			return err
		}
		if c.Type != "Sequence" {
			list = append(list, c)
			return nil
		}
		for _, m := range members(c) {
			if err := walk(m, depth+1); err != nil {
				return err
			}
		}
		return nil
	}
	return list, walk(raw, 0)
}
