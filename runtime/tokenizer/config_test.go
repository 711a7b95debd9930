package tokenizer

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// vocabulary is a tokenizer.json of letters: a is 0, b is 1, <s> is 2, </s> is 3 and
// <pad> is 4, of which none is an added token.
func vocabulary(with map[string]any) map[string]any {
	f := map[string]any{
		"model":   map[string]any{"type": "BPE", "vocab": map[string]int{"a": 0, "b": 1, "<s>": 2, "</s>": 3, "<pad>": 4}, "merges": []string{}},
		"decoder": map[string]any{"type": "Fuse"},
	}
	maps.Copy(f, with)
	return f
}

func token(content string, special bool) map[string]any {
	return map[string]any{"content": content, "special": special, "normalized": !special, "lstrip": false, "rstrip": false, "single_word": false}
}

// TestEveryFileMayNameTokens has which file is heard where several name a token, as
// PreTrainedTokenizerBase._from_pretrained of transformers 4.57 has it, and which ids
// those get that no vocabulary has, as AddedVocabulary of tokenizers 0.22.
func TestEveryFileMayNameTokens(t *testing.T) {
	type named map[string]string
	for _, c := range []struct {
		name    string
		files   map[string]any
		text    string
		want    []int32
		special []int32 // Of those in want.
		names   named
		eos     []int32
	}{
		{name: "tokenizer.json alone", files: map[string]any{
			"tokenizer.json": vocabulary(map[string]any{"added_tokens": []any{map[string]any{"id": 5, "content": "<x>", "special": true}}}),
		}, text: "a<x>", want: []int32{0, 5}, special: []int32{5}},
		{name: "tokenizer_config.json names a token of the vocabulary", files: map[string]any{
			"tokenizer.json":        vocabulary(nil),
			"tokenizer_config.json": map[string]any{"eos_token": "</s>", "bos_token": map[string]any{"__type": "AddedToken", "content": "<s>", "normalized": false}},
		}, text: "<s>a</s>", want: []int32{2, 0, 3}, special: []int32{2, 3}, names: named{"eos_token": "</s>", "bos_token": "<s>"}, eos: []int32{3}},
		{name: "and one that no vocabulary has", files: map[string]any{
			"tokenizer.json":        vocabulary(nil),
			"tokenizer_config.json": map[string]any{"pad_token": "[PAD]"},
		}, text: "a[PAD]", want: []int32{0, 5}, special: []int32{5}, names: named{"pad_token": "[PAD]"}},
		{name: "null is no token", files: map[string]any{
			"tokenizer.json":        vocabulary(nil),
			"tokenizer_config.json": map[string]any{"pad_token": nil, "bos_token": nil},
		}, text: "a", want: []int32{0}},
		{name: "further special tokens, as a list and by name", files: map[string]any{
			"tokenizer.json": vocabulary(nil),
			"tokenizer_config.json": map[string]any{
				"additional_special_tokens": []any{"<pad>", token("<y>", true)}, "extra_special_tokens": map[string]any{"image_token": "<z>"}},
		}, text: "<pad><y><z>", want: []int32{4, 5, 6}, special: []int32{4, 5, 6}},
		{name: "extra tokens as a list", files: map[string]any{
			"tokenizer.json": vocabulary(nil), "tokenizer_config.json": map[string]any{"extra_special_tokens": []any{"<z>"}},
		}, text: "<z>", want: []int32{5}, special: []int32{5}},
		{name: "added_tokens_decoder adds, in the order of ids", files: map[string]any{
			"tokenizer.json": vocabulary(nil),
			"tokenizer_config.json": map[string]any{"added_tokens_decoder": map[string]any{
				"6": token("<y>", false), "5": token("<x>", true), "10": token("<z>", true)}},
		}, text: "<x><y><z>", want: []int32{5, 6, 10}, special: []int32{5, 10}},
		{name: "and says otherwise of what tokenizer.json has", files: map[string]any{
			"tokenizer.json": vocabulary(map[string]any{"added_tokens": []any{map[string]any{"id": 5, "content": "<x>", "special": false, "rstrip": false}}}),
			"tokenizer_config.json": map[string]any{"added_tokens_decoder": map[string]any{
				"5": map[string]any{"content": "<x>", "special": true, "rstrip": true}}},
		}, text: "<x>  a", want: []int32{5, 0}, special: []int32{5}},
		{name: "where it is, special_tokens_map.json and added_tokens.json do not count", files: map[string]any{
			"tokenizer.json":          vocabulary(nil),
			"tokenizer_config.json":   map[string]any{"eos_token": "</s>", "added_tokens_decoder": map[string]any{}},
			"special_tokens_map.json": map[string]any{"eos_token": "<pad>"},
			"added_tokens.json":       map[string]any{"ab": 9},
		}, text: "</s>ab", want: []int32{3, 0, 1}, special: []int32{3}, names: named{"eos_token": "</s>"}, eos: []int32{3}},
		{name: "where it is not, the map goes before tokenizer_config.json", files: map[string]any{
			"tokenizer.json":          vocabulary(nil),
			"tokenizer_config.json":   map[string]any{"eos_token": "</s>", "bos_token": "<s>"},
			"special_tokens_map.json": map[string]any{"eos_token": map[string]any{"content": "<pad>"}, "additional_special_tokens": []any{"<q>"}},
		}, text: "<pad><q>", want: []int32{4, 5}, special: []int32{4, 5}, names: named{"eos_token": "<pad>", "bos_token": "<s>"}, eos: []int32{4}},
		{name: "a map alone", files: map[string]any{
			"tokenizer.json": vocabulary(nil), "special_tokens_map.json": map[string]any{"eos_token": "</s>"},
		}, text: "a</s>", want: []int32{0, 3}, special: []int32{3}, names: named{"eos_token": "</s>"}, eos: []int32{3}},
		{name: "added_tokens.json, special where they have a name", files: map[string]any{
			"tokenizer.json":        vocabulary(nil),
			"tokenizer_config.json": map[string]any{"eos_token": "<e>"},
			"added_tokens.json":     map[string]any{"<e>": 5, "<f>": 6},
		}, text: "<e><f>", want: []int32{5, 6}, special: []int32{5}, names: named{"eos_token": "<e>"}, eos: []int32{5}},
		{name: "a class has names of its own, where the vocabulary has them", files: map[string]any{
			"tokenizer.json": vocabulary(nil), "tokenizer_config.json": map[string]any{"tokenizer_class": "LlamaTokenizerFast", "add_bos_token": false},
		}, text: "</s>", want: []int32{3}, special: []int32{3}, names: named{"eos_token": "</s>", "bos_token": "<s>"}, eos: []int32{3}},
		{name: "which null takes away", files: map[string]any{
			"tokenizer.json":        vocabulary(nil),
			"tokenizer_config.json": map[string]any{"tokenizer_class": "LlamaTokenizer", "add_bos_token": false, "eos_token": nil, "bos_token": nil},
		}, text: "a", want: []int32{0}},
		{name: "generation_config.json goes before config.json, beside the tokenizer's", files: map[string]any{
			"tokenizer.json":         vocabulary(nil),
			"tokenizer_config.json":  map[string]any{"eos_token": "</s>"},
			"config.json":            map[string]any{"eos_token_id": 0},
			"generation_config.json": map[string]any{"eos_token_id": []int{4, 1}},
		}, text: "a", want: []int32{0}, names: named{"eos_token": "</s>"}, eos: []int32{3, 4, 1}},
		{name: "config.json counts where generation_config.json names none", files: map[string]any{
			"tokenizer.json":         vocabulary(nil),
			"config.json":            map[string]any{"eos_token_id": 0},
			"generation_config.json": map[string]any{"eos_token_id": nil},
		}, text: "a", want: []int32{0}, eos: []int32{0}},
	} {
		t.Run(c.name, func(t *testing.T) {
			tok, err := Load(write(t, c.files))
			if err != nil {
				t.Fatal(err)
			}
			got, err := tok.Encode(c.text, true)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("ids of %q: -want +got\n%s", c.text, diff)
			}
			var special []int32
			for _, id := range got {
				if tok.IsSpecial(id) {
					special = append(special, id)
				}
			}
			if diff := cmp.Diff(c.special, special); diff != "" {
				t.Errorf("special ones: -want +got\n%s", diff)
			}
			if c.names == nil {
				c.names = named{}
			}
			if diff := cmp.Diff(map[string]string(c.names), tok.specialNames); diff != "" {
				t.Errorf("names: -want +got\n%s", diff)
			}
			if diff := cmp.Diff(c.eos, tok.EOS()); diff != "" {
				t.Errorf("ends: -want +got\n%s", diff)
			}
			plain, err := tok.EncodePlain(c.text)
			if err == nil && len(c.special) > 0 && cmp.Equal(plain, got) {
				t.Errorf("users can spell them: %v", plain)
			}
		})
	}
}

// TestTokensAroundASequenceAreTheClassesMatter has what transformers 4.57 does: its
// class of Llama makes the post-processor anew from the flags, the general class
// takes tokenizer.json at its word.
func TestTokensAroundASequenceAreTheClassesMatter(t *testing.T) {
	special := func(id string) any { return map[string]any{"SpecialToken": map[string]any{"id": id}} }
	sequence := map[string]any{"Sequence": map[string]any{"id": "A"}}
	begins := map[string]any{"type": "TemplateProcessing", "single": []any{special("<s>"), sequence},
		"special_tokens": map[string]any{"<s>": map[string]any{"ids": []int{2}}}}
	for _, c := range []struct {
		name   string
		post   any
		config map[string]any
		want   []int32
	}{
		{"tokenizer.json alone", begins, map[string]any{}, []int32{2, 0}},
		{"Llama begins unless told otherwise", nil, map[string]any{"tokenizer_class": "LlamaTokenizer"}, []int32{2, 0}},
		{"Llama told otherwise", begins, map[string]any{"tokenizer_class": "LlamaTokenizerFast", "add_bos_token": false}, []int32{0}},
		{"Llama that ends too", begins, map[string]any{"tokenizer_class": "LlamaTokenizerFast", "add_eos_token": true}, []int32{2, 0, 3}},
		{"Llama that only ends", begins, map[string]any{"tokenizer_class": "LlamaTokenizer", "add_bos_token": false, "add_eos_token": true}, []int32{0, 3}},
		{"Llama with a beginning of its own", begins, map[string]any{"tokenizer_class": "LlamaTokenizer", "bos_token": "<pad>"}, []int32{4, 0}},
		{"the general class, told to begin", nil, map[string]any{"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "add_bos_token": true}, []int32{0}},
		{"the general class, told not to", begins, map[string]any{"tokenizer_class": "PreTrainedTokenizerFast", "add_bos_token": false}, []int32{2, 0}},
		{"Qwen does not begin", nil, map[string]any{"tokenizer_class": "Qwen2Tokenizer", "bos_token": "<s>", "add_bos_token": true}, []int32{0}},
		{"no class, told not to", begins, map[string]any{"add_bos_token": false}, []int32{0}},
		{"no class, told to begin", nil, map[string]any{"bos_token": "<s>", "add_bos_token": true}, []int32{2, 0}},
		{"no class, told to end", begins, map[string]any{"eos_token": "</s>", "add_eos_token": true}, []int32{2, 0, 3}},
		{"told to begin with nothing", nil, map[string]any{"add_bos_token": true}, []int32{0}},
	} {
		tok, err := Load(write(t, map[string]any{"tokenizer.json": vocabulary(map[string]any{"post_processor": c.post}), "tokenizer_config.json": c.config}))
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		got, err := tok.Encode("a", true)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s: -want +got\n%s", c.name, diff)
		}
	}
}

// TestAddedTokensMayLieBehindTheModel: Llama-2-13b's 32001 with 32000 rows
// (transformers' issue 24899) loads; a vocabulary that was trained must fit.
func TestAddedTokensMayLieBehindTheModel(t *testing.T) {
	tok, err := Load(write(t, map[string]any{
		"tokenizer.json":        vocabulary(map[string]any{"added_tokens": []any{map[string]any{"id": 5, "content": "<x>"}, map[string]any{"id": 4, "content": "<pad>"}}}),
		"tokenizer_config.json": map[string]any{"pad_token": "[PAD]", "eos_token": "<e>"},
	}))
	if err != nil {
		t.Fatal(err)
	}
	if n := tok.VocabSize(); n != 8 {
		t.Errorf("%d tokens", n)
	}
	if err := tok.FitsVocabulary(4); err != nil {
		t.Errorf("a model without rows for the added tokens: %v", err)
	}
	if err := tok.FitsVocabulary(3); err == nil || !strings.Contains(err.Error(), `up to 3 ("</s>")`) {
		t.Errorf("a model without rows for trained tokens: %v", err)
	}
}

func TestTheSpaceBeforeATextIsTheConfigs(t *testing.T) {
	step := map[string]any{"type": "ByteLevel", "add_prefix_space": true, "use_regex": true}
	vocab := map[string]any{"type": "BPE", "vocab": map[string]int{"a": 0, "Ġ": 1}, "merges": []string{}}
	for _, c := range []struct {
		name          string
		pre, config   any
		first, second int32
	}{
		{"alone, the config says yes", step, map[string]any{"add_prefix_space": true}, 1, 0},
		{"alone, the config says nothing", step, map[string]any{}, 0, 0},
		{"in a sequence", map[string]any{"type": "Sequence", "pretokenizers": []any{step}}, map[string]any{"add_prefix_space": false}, 1, 0},
	} {
		tok, err := Load(write(t, map[string]any{"tokenizer.json": map[string]any{"model": vocab, "pre_tokenizer": c.pre}, "tokenizer_config.json": c.config}))
		if err != nil {
			t.Fatal(err)
		}
		got, err := tok.Encode("aa", false)
		if err != nil || len(got) < 2 || got[0] != c.first || got[1] != c.second {
			t.Errorf("%s: %v, %v", c.name, got, err)
		}
	}
}

// llama2 is a SentencePiece model whose pieces have the ids that they have in Llama
// 2's, with nothing but filling between them.
func llama2() []byte {
	pieces := make([]spPiece, 32000)
	for i := range pieces {
		pieces[i] = spPiece{fmt.Sprintf("{%d}", i), -1e6, pieceNormal}
	}
	pieces[0], pieces[1], pieces[2] = spPiece{"<unk>", 0, pieceUnknown}, spPiece{"<s>", 0, pieceControl}, spPiece{"</s>", 0, pieceControl}
	for id, text := range map[int]string{
		518: "▁[", 25580: "INST", 29962: "]", 15043: "▁Hello", 29914: "/", 29961: "[", 29871: "▁", 29902: "I", 29940: "N", 29903: "S", 29911: "T",
		29950: "H", 29872: "e", 29880: "l", 29877: "o", 3868: "He", 645: "ll", 1177: "IN", 1254: "ST", 29892: "ello", 29889: ".", 869: "▁.",
		379: "▁H", 4547: "ell",
	} {
		pieces[id] = spPiece{text, -float32(id), pieceNormal}
	}
	pieces[29892].score, pieces[4547].score, pieces[15043].score = -100, -90, -200
	return encodeSP(pieces, bpeTrainer, keepsSpaces)
}

func TestLlama2sSpacesComeAfterItsTokensToo(t *testing.T) {
	const template = "{% for m in messages %}{{ bos_token + '[INST] ' + m['content'].strip() + ' [/INST]' }}{% endfor %}"
	for _, c := range []struct {
		name   string
		file   string
		config map[string]any
		chat   []int32
		text   []int32 // Of "Hello <s>.", whose ids the reference's own documentation has.
	}{
		{"by default", "tokenizer.model", map[string]any{},
			[]int32{1, 518, 25580, 29962, 15043, 518, 29914, 25580, 29962}, []int32{1, 15043, 29871, 1, 869}},
		{"where legacy is null", "tokenizer.model", map[string]any{"tokenizer_class": "LlamaTokenizer", "legacy": nil},
			[]int32{1, 518, 25580, 29962, 15043, 518, 29914, 25580, 29962}, []int32{1, 15043, 29871, 1, 869}},
		{"not where it is false", "tokenizer.model", map[string]any{"tokenizer_class": "LlamaTokenizer", "legacy": false},
			[]int32{1, 29961, 25580, 29962, 15043, 518, 29914, 25580, 29962}, []int32{1, 15043, 29871, 1, 29889}},
		{"nor in Mistral's own file", "tokenizer.model.v3", map[string]any{},
			[]int32{1, 29961, 25580, 29962, 15043, 518, 29914, 25580, 29962}, []int32{1, 15043, 29871, 1, 29889}},
		{"without a beginning", "tokenizer.model", map[string]any{"add_bos_token": false, "add_eos_token": true},
			[]int32{1, 518, 25580, 29962, 15043, 518, 29914, 25580, 29962}, []int32{15043, 29871, 1, 869, 2}},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.config["chat_template"] = template
			tok, err := Load(write(t, map[string]any{c.file: string(llama2()), "tokenizer_config.json": c.config}))
			if err != nil {
				t.Fatal(err)
			}
			chat, err := tok.EncodeChat([]Message{{Role: "user", Content: "Hello"}})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.chat, chat); diff != "" {
				t.Errorf("chat: -want +got\n%s", diff)
			}
			text, err := tok.Encode("Hello <s>.", true)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.text, text); diff != "" {
				t.Errorf("text: -want +got\n%s", diff)
			}
		})
	}
}

// FuzzTokenizerConfig: whatever the files beside a vocabulary say, the tokenizer is
// refused or encodes texts to tokens that there are.
func FuzzTokenizerConfig(f *testing.F) {
	vocab, err := json.Marshal(vocabulary(nil))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(`{"tokenizer_class":"LlamaTokenizer","bos_token":"<s>","pad_token":{"content":"<p>"},"add_eos_token":true}`, `{"eos_token":"</s>"}`, `{"<q>":9}`)
	f.Add(`{"added_tokens_decoder":{"7":{"content":"ab","special":true,"lstrip":true}},"additional_special_tokens":["a",null]}`, `{}`, `{}`)
	f.Add(`{"extra_special_tokens":{"x":"<x>"},"legacy":false,"add_prefix_space":true}`, `{"additional_special_tokens":["b"]}`, `{"a":0}`)
	f.Fuzz(func(t *testing.T, config, names, added string) {
		dir := t.TempDir()
		for name, text := range map[string]string{
			"tokenizer.json": string(vocab), tokenizerConfigFile: config, specialTokensMapFile: names, addedTokensFile: added,
		} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		tok, err := Load(dir)
		if err != nil {
			return
		}
		wantTokens(t, tok, "", "ab <s>ab</s> aaa", "<p><x>")
	})
}
