package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
)

// vocabulary is a made-up one of n tokens without merges: a text has a token a byte, by the
// alphabet that byte-level tokenizers write bytes in, and what a model makes of the tokens
// beyond them is words.
func vocabulary(n int) []string {
	list := make([]string, 0, n)
	beyond := rune(256)
	for b := range min(n, 256) {
		r := rune(b)
		if b <= ' ' || b >= 0x7f && b <= 0xa0 || b == 0xad {
			r = beyond
			beyond++
		}
		list = append(list, string(r))
	}
	for len(list) < n {
		list = append(list, fmt.Sprintf("Ġw%d", len(list)))
	}
	return list
}

// writeTokenizer writes that of n tokens into a model's folder. Token 0 ends an answer.
func writeTokenizer(dir string, n int) error {
	ids := map[string]int{}
	for id, token := range vocabulary(n) {
		ids[token] = id
	}
	bytesOnly := map[string]any{"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}
	b, err := json.Marshal(map[string]any{
		"version": "1.0", "added_tokens": []any{}, "normalizer": nil, "pre_tokenizer": bytesOnly,
		"post_processor": nil, "decoder": bytesOnly,
		"model": map[string]any{"type": "BPE", "vocab": ids, "merges": []string{}},
	})
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "tokenizer.json"), b, 0o600); err != nil {
		return err
	}
	if b, err = json.Marshal(map[string]any{"eos_token": vocabulary(1)[0], "chat_template": chatTemplate}); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "tokenizer_config.json"), b, 0o600)
}

// chatTemplate shows messages as they are: what chats has labels that begin where the
// question ends.
const chatTemplate = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
