package tokenizer

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/transformersquared/operator/runtime/artifact"
)

// Files beside the vocabulary that may name tokens.
//
//nolint:gosec // The tokens are a vocabulary's.
const (
	tokenizerConfigFile  = "tokenizer_config.json"
	specialTokensMapFile = "special_tokens_map.json"
	addedTokensFile      = "added_tokens.json"
)

// tokenizerConfig mirrors what is used of tokenizer_config.json.
type tokenizerConfig struct {
	specialTokens
	Class          string                `json:"tokenizer_class"`
	Added          map[string]namedToken `json:"added_tokens_decoder"`
	AddBOS         *bool                 `json:"add_bos_token"`
	AddEOS         *bool                 `json:"add_eos_token"`
	AddPrefixSpace bool                  `json:"add_prefix_space"`
	Legacy         *bool                 `json:"legacy"`
	ChatTemplate   json.RawMessage       `json:"chat_template"`
}

// specialTokens are the tokens that have a name, as tokenizer_config.json and
// special_tokens_map.json give them.
type specialTokens struct {
	BOS        namedToken   `json:"bos_token"`
	EOS        namedToken   `json:"eos_token"`
	Unk        namedToken   `json:"unk_token"`
	Sep        namedToken   `json:"sep_token"`
	Pad        namedToken   `json:"pad_token"`
	Cls        namedToken   `json:"cls_token"`
	Mask       namedToken   `json:"mask_token"`
	Additional []namedToken `json:"additional_special_tokens"`
	Extra      extraTokens  `json:"extra_special_tokens"`
}

// named lists the tokens by name, in the reference's order.
func (s *specialTokens) named() []struct {
	name  string
	token *namedToken
} {
	return []struct {
		name  string
		token *namedToken
	}{
		{"bos_token", &s.BOS}, {"eos_token", &s.EOS}, {"unk_token", &s.Unk}, {"sep_token", &s.Sep},
		{"pad_token", &s.Pad}, {"cls_token", &s.Cls}, {"mask_token", &s.Mask},
	}
}

// namedToken is a token given as a string, as an object, or as null.
type namedToken struct {
	given bool // Null is given too.
	token addedToken
}

// UnmarshalJSON reads any of these forms.
func (n *namedToken) UnmarshalJSON(b []byte) error {
	*n = namedToken{given: true}
	if absent(b) {
		return nil
	}
	if json.Unmarshal(b, &n.token.Content) == nil {
		n.token.Special = true
		return nil
	}
	var object struct {
		addedToken
		Normalized *bool `json:"normalized"`
	}
	if err := json.Unmarshal(b, &object); err != nil {
		return fmt.Errorf("a token is neither a string nor an object: %w", err)
	}
	n.token = object.addedToken
	n.token.Normalized = !n.token.Special
	if object.Normalized != nil {
		n.token.Normalized = *object.Normalized
	}
	return nil
}

// extraTokens are further special tokens: a list, or an object of names and tokens.
type extraTokens []namedToken

// UnmarshalJSON reads either form.
func (e *extraTokens) UnmarshalJSON(b []byte) error {
	var list []namedToken
	if json.Unmarshal(b, &list) == nil {
		*e = list
		return nil
	}
	var object map[string]namedToken
	if err := json.Unmarshal(b, &object); err != nil {
		return fmt.Errorf("extra_special_tokens are neither a list nor an object of tokens: %w", err)
	}
	for _, name := range slices.Sorted(maps.Keys(object)) {
		*e = append(*e, object[name])
	}
	return nil
}

// readConfig reads the files of dir that say what tokenizer.json or the SentencePiece
// model does not. As in the reference (transformers 4.57, _from_pretrained),
// special_tokens_map.json and added_tokens.json are of older versions: they count
// only where tokenizer_config.json has no added_tokens_decoder, and then the former
// goes before tokenizer_config.json.
func readConfig(dir string) (tokenizerConfig, error) {
	var c tokenizerConfig
	if err := readJSON(dir, tokenizerConfigFile, &c); err != nil {
		return c, err
	}
	if c.Added != nil {
		return c, nil
	}
	var names specialTokens
	if err := readJSON(dir, specialTokensMapFile, &names); err != nil {
		return c, err
	}
	c.override(names)
	var ids map[string]int32
	if err := readJSON(dir, addedTokensFile, &ids); err != nil {
		return c, err
	}
	c.Added = make(map[string]namedToken, len(ids))
	for content, id := range ids {
		special := c.names(content)
		c.Added[strconv.Itoa(int(id))] = namedToken{given: true, token: addedToken{Content: content, Special: special, Normalized: !special}}
	}
	return c, nil
}

// readJSON decodes a file of dir, if it is there.
func readJSON(dir, name string, into any) error {
	b, err := artifact.ReadBounded(filepath.Join(dir, name), maxConfigFile)
	if missing(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, into); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// override takes over what special_tokens_map.json gives; all of it is special.
func (c *tokenizerConfig) override(names specialTokens) {
	into := c.named()
	for i, n := range names.named() {
		if n.token.given {
			n.token.token.Special = true
			*into[i].token = *n.token
		}
	}
	for _, a := range names.Additional {
		a.token.Special = true
		c.Additional = append(c.Additional, a)
	}
}

// names reports whether a token with this content has a name.
func (c *tokenizerConfig) names(content string) bool {
	is := func(n namedToken) bool { return n.token.Content == content }
	return slices.ContainsFunc(c.named(), func(n struct {
		name  string
		token *namedToken
	}) bool {
		return is(*n.token)
	}) || slices.ContainsFunc(c.Additional, is) || slices.ContainsFunc(c.Extra, is)
}

// tokenizerClass is what the reference's class of a name does by itself.
type tokenizerClass struct {
	// names are the special tokens that it has unless the config gives others.
	names map[string]string
	// addsBOS says that it makes the post-processor anew, from add_bos_token (true
	// unless given) and add_eos_token, whatever tokenizer.json says. Others leave
	// that to tokenizer.json, and the two flags have no effect.
	addsBOS bool
}

var (
	llamaNames = map[string]string{"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
	gemmaNames = map[string]string{"unk_token": "<unk>", "bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"}
	qwenNames  = map[string]string{"unk_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}

	// tokenizerClasses by tokenizer_class, without "Fast"; of transformers 4.57.
	//nolint:gosec // These tokens are no credentials.
	tokenizerClasses = map[string]tokenizerClass{
		"LlamaTokenizer":     {llamaNames, true},
		"CodeLlamaTokenizer": {llamaNames, true},
		"GemmaTokenizer":     {gemmaNames, true},
		"CohereTokenizer":    {map[string]string{"bos_token": "<BOS_TOKEN>", "eos_token": "<|END_OF_TURN_TOKEN|>"}, true},
		"Qwen2Tokenizer":     {qwenNames, false},
	}
)

// configure takes over what the config says, and builds what depends on it.
func (t *Tokenizer) configure(c tokenizerConfig) error {
	if err := t.addConfigured(c.Added); err != nil {
		return fmt.Errorf("%s: added_tokens_decoder: %w", tokenizerConfigFile, err)
	}
	class := tokenizerClasses[strings.TrimSuffix(c.Class, "Fast")]
	if err := t.nameTokens(c, class); err != nil {
		return fmt.Errorf("%s: %w", tokenizerConfigFile, err)
	}
	for _, n := range slices.Concat(c.Additional, c.Extra) {
		n.token.Special = true
		if err := t.addToken(n.token); err != nil {
			return fmt.Errorf("%s: additional special token: %w", tokenizerConfigFile, err)
		}
	}
	t.surround(c, class)
	if t.sentencePiece != nil {
		t.sentencePiece.everyPiece = t.sentencePiece.everyPiece && (c.Legacy == nil || *c.Legacy)
	}
	if t.byteLevel != nil { // The reference sets it from the config alone.
		t.byteLevel.prefix = c.AddPrefixSpace
	}
	return t.finish()
}

// addConfigured adds the tokens of added_tokens_decoder in the order of their ids.
// What tokenizer.json has already is told otherwise here where the two differ.
func (t *Tokenizer) addConfigured(added map[string]namedToken) error {
	list := make([]addedToken, 0, len(added))
	for key, n := range added {
		id, err := strconv.ParseInt(key, 10, 32)
		if err != nil || id < 0 || id > maxTokenID {
			return fmt.Errorf("id %q: must be 0 to %d", key, maxTokenID)
		}
		n.token.ID = int32(id)
		list = append(list, n.token)
	}
	slices.SortFunc(list, func(a, b addedToken) int { return int(a.ID - b.ID) })
	for _, a := range list {
		if err := t.addToken(a); err != nil {
			return fmt.Errorf("token %d: %w", a.ID, err)
		}
	}
	return nil
}

// addToken adds a token as the reference does: one that the vocabulary has keeps
// its id, another gets the one that it asks for, or the next.
func (t *Tokenizer) addToken(a addedToken) error {
	if a.Content == "" {
		return errors.New("has no content")
	}
	id, known := t.TokenID(a.Content)
	switch {
	case known:
		a.ID = id
	case int(a.ID) < len(t.tokens):
		a.ID = int32(len(t.tokens))
	}
	if a.ID > maxTokenID {
		return fmt.Errorf("%q would have the id %d, at most %d are supported", a.Content, a.ID, maxTokenID)
	}
	if grow := int(a.ID) + 1 - len(t.tokens); grow > 0 {
		t.tokens = append(t.tokens, make([]string, grow)...)
	}
	t.tokens[a.ID] = a.Content
	t.added[a.Content] = a
	return nil
}

// nameTokens gives the special tokens their names. A token that is named, but is in
// no vocabulary, is added, as the reference does: many configs name a pad token that
// nobody uses. A class's own names count where the vocabulary has them.
func (t *Tokenizer) nameTokens(c tokenizerConfig, class tokenizerClass) error {
	for _, n := range c.named() {
		a := n.token.token
		if !n.token.given {
			a.Content = class.names[n.name]
			if _, there := t.TokenID(a.Content); !there || t.specialNames[n.name] != "" {
				continue
			}
		}
		if a.Content == "" {
			continue
		}
		if known, ok := t.added[a.Content]; ok {
			a = known
		}
		// Users must not inject it, whatever the list of added tokens says.
		a.Special = true
		if err := t.addToken(a); err != nil {
			return fmt.Errorf("%s: %w", n.name, err)
		}
		t.specialNames[n.name] = a.Content
		id := t.added[a.Content].ID
		switch n.name {
		case "bos_token":
			t.bos = id
		case "eos_token":
			t.eos = []int32{id}
		}
	}
	return nil
}

// surround sets the tokens that begin and end a sequence. A SentencePiece model has
// no post-processor, so that there the flags always count; so they do where no class
// is named.
func (t *Tokenizer) surround(c tokenizerConfig, class tokenizerClass) {
	addBOS, addEOS := c.AddBOS, c.AddEOS
	switch {
	case class.addsBOS || t.sentencePiece != nil:
		addBOS, addEOS = cmpOr(addBOS, t.sentencePiece == nil || len(t.template.before) > 0), cmpOr(addEOS, false)
	case c.Class != "":
		return
	}
	set := func(into *[]int32, want *bool, ids ...int32) {
		if want == nil {
			return
		}
		*into = nil
		if *want {
			*into = slices.DeleteFunc(ids, func(id int32) bool { return id < 0 })
		}
	}
	set(&t.template.before, addBOS, t.bos)
	end := int32(-1)
	if len(t.eos) > 0 {
		end = t.eos[0]
	}
	set(&t.template.after, addEOS, end)
}

// cmpOr returns p, or a pointer to otherwise.
func cmpOr(p *bool, otherwise bool) *bool {
	if p != nil {
		return p
	}
	return &otherwise
}

// addModelEOS adds the tokens that generation_config.json or, where it names none,
// config.json says end a sequence: instruct models list the end of a turn only there.
func (t *Tokenizer) addModelEOS(dir string) error {
	for _, name := range []string{"generation_config.json", "config.json"} {
		var raw struct {
			EOS json.RawMessage `json:"eos_token_id"`
		}
		if err := readJSON(dir, name, &raw); err != nil {
			return err
		}
		if absent(raw.EOS) {
			continue
		}
		var many []int32
		var one int32
		if json.Unmarshal(raw.EOS, &one) == nil {
			many = []int32{one}
		} else if err := json.Unmarshal(raw.EOS, &many); err != nil {
			return fmt.Errorf("%s: eos_token_id is neither an id nor a list of ids: %w", name, err)
		}
		for _, id := range many {
			t.addEOS(id)
		}
		return nil
	}
	return nil
}

func (t *Tokenizer) addEOS(id int32) {
	if id >= 0 && !slices.Contains(t.eos, id) {
		t.eos = append(t.eos, id)
	}
}
