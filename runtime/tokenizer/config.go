package tokenizer

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/transformersquared/operator/runtime/artifact"
)

// tokenizerConfig mirrors what is used of tokenizer_config.json.
type tokenizerConfig struct {
	BOS          namedToken      `json:"bos_token"`
	EOS          namedToken      `json:"eos_token"`
	Pad          namedToken      `json:"pad_token"`
	Unk          namedToken      `json:"unk_token"`
	AddBOS       *bool           `json:"add_bos_token"`
	ChatTemplate json.RawMessage `json:"chat_template"`
}

// namedToken is a token's spelling, given as a string or as an object with
// content; "" if it is null.
type namedToken string

// UnmarshalJSON reads either form.
func (n *namedToken) UnmarshalJSON(b []byte) error {
	if absent(b) {
		return nil
	}
	var s string
	if json.Unmarshal(b, &s) == nil {
		*n = namedToken(s)
		return nil
	}
	var object struct {
		Content string `json:"content"`
	}
	if err := json.Unmarshal(b, &object); err != nil {
		return fmt.Errorf("a token is neither a string nor an object: %w", err)
	}
	*n = namedToken(object.Content)
	return nil
}

func readTokenizerConfig(dir string) (tokenizerConfig, error) {
	var c tokenizerConfig
	b, err := artifact.ReadBounded(filepath.Join(dir, "tokenizer_config.json"), maxConfigFile)
	if missing(err) {
		return c, nil
	}
	if err != nil {
		return c, err
	}
	if err := json.Unmarshal(b, &c); err != nil {
		return c, fmt.Errorf("tokenizer_config.json: %w", err)
	}
	return c, nil
}

// applyConfig takes the names of special tokens over.
func (t *Tokenizer) applyConfig(c tokenizerConfig) error {
	for name, token := range map[string]namedToken{"bos_token": c.BOS, "eos_token": c.EOS, "pad_token": c.Pad, "unk_token": c.Unk} {
		if token == "" {
			continue
		}
		t.specialNames[name] = string(token)
		id, ok := t.TokenID(string(token))
		if !ok {
			return fmt.Errorf("%s %q is not in tokenizer.json", name, token)
		}
		switch name {
		case "bos_token":
			t.bos = id
		case "eos_token":
			t.addEOS(id)
		}
	}
	if c.AddBOS != nil && *c.AddBOS && t.bos >= 0 && len(t.template.before) == 0 {
		t.template.before = []int32{t.bos}
	}
	return nil
}

// addModelEOS adds the tokens that config.json and generation_config.json say
// end a sequence: instruct models list the end of a turn only there.
func (t *Tokenizer) addModelEOS(dir string) error {
	for _, name := range []string{"config.json", "generation_config.json"} {
		b, err := artifact.ReadBounded(filepath.Join(dir, name), maxConfigFile)
		if missing(err) {
			continue
		}
		if err != nil {
			return err
		}
		var raw struct {
			EOS json.RawMessage `json:"eos_token_id"`
		}
		if err := json.Unmarshal(b, &raw); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if absent(raw.EOS) {
			continue
		}
		var one int32
		if json.Unmarshal(raw.EOS, &one) == nil {
			t.addEOS(one)
			continue
		}
		var many []int32
		if err := json.Unmarshal(raw.EOS, &many); err != nil {
			return fmt.Errorf("%s: eos_token_id is neither an id nor a list of ids: %w", name, err)
		}
		for _, id := range many {
			t.addEOS(id)
		}
	}
	return nil
}

func (t *Tokenizer) addEOS(id int32) {
	if id >= 0 && !slices.Contains(t.eos, id) {
		t.eos = append(t.eos, id)
	}
}
