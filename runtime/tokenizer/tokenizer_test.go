package tokenizer

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/failure"
)

func TestSplittingKeepsDropsOrMergesMatches(t *testing.T) {
	const text = "a--b-c-"
	for _, c := range []struct {
		behavior string
		invert   bool
		want     []string
	}{
		{"Isolated", false, []string{"a", "-", "-", "b", "-", "c", "-"}},
		{"Isolated", true, []string{"a", "-", "-", "b", "-", "c", "-"}},
		{"Removed", false, []string{"a", "b", "c"}},
		{"Removed", true, []string{"-", "-", "-", "-"}},
		{"MergedWithPrevious", false, []string{"a-", "-", "b-", "c-"}},
		{"MergedWithNext", false, []string{"a", "-", "-b", "-c", "-"}},
		{"Contiguous", false, []string{"a", "--", "b", "-", "c", "-"}},
	} {
		split, err := splitter(literal("-"), c.behavior, c.invert)
		if err != nil {
			t.Fatal(err)
		}
		pieces, err := split([]piece{{text: text, first: true}})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, p := range pieces {
			got = append(got, p.text)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s, invert %v: -want +got\n%s", c.behavior, c.invert, diff)
		}
	}
	if _, err := splitter(literal("-"), "Shredded", false); err == nil {
		t.Error("an unknown behaviour was accepted")
	}
}

func TestSpacesBecomeMetaspace(t *testing.T) {
	no := false
	for _, c := range []struct {
		name string
		c    component
		in   []piece
		want []piece
	}{
		{"before every piece, split", component{}, []piece{{"a b", true}, {"c", false}}, []piece{{"▁a", true}, {"▁b", false}, {"▁c", false}}},
		{"before the first alone, whole", component{PrependScheme: "first", Split: &no}, []piece{{"a b", true}, {"c", false}}, []piece{{"▁a▁b", true}, {"c", false}}},
		{"never", component{PrependScheme: "never", Split: &no}, []piece{{"a b", true}}, []piece{{"a▁b", true}}},
		{"in the older spelling", component{AddPrefixSpace: &no, Split: &no}, []piece{{"a", true}}, []piece{{"a", true}}},
	} {
		apply, err := metaspace(c.c)
		if err != nil {
			t.Fatal(err)
		}
		got, err := apply(c.in)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(c.want, got, cmp.AllowUnexported(piece{})); diff != "" {
			t.Errorf("%s: -want +got\n%s", c.name, diff)
		}
	}
}

func TestAddedTokensAreFoundLeftmostAndLongest(t *testing.T) {
	set := newAddedSet([]matchToken{
		{addedToken{ID: 1, Special: true}, "<a>"}, {addedToken{ID: 2, Special: true}, "<a><b>"},
		{addedToken{ID: 3}, "plain"}, {addedToken{ID: 4, SingleWord: true}, "word"}, {addedToken{ID: 5, LStrip: true, RStrip: true, Special: true}, "<strip>"},
	})
	for _, c := range []struct {
		text    string
		special bool
		want    string
	}{
		{"", true, ""},
		{"x<a>y", true, "x|1|y"},
		{"<a><b><a>", true, "2|1"},
		{"<a><b><a>", false, "<a><b><a>"},
		{"a plain<a>", false, "a |3|<a>"},
		{"word words sword word", true, "4| words sword |4"},
		{"a  <strip>\n b", true, "a|5|b"},
		{"<<a>>", true, "<|1|>"},
	} {
		var parts []string
		for _, f := range set.split(c.text, c.special) {
			if f.id >= 0 {
				parts = append(parts, fmt.Sprint(f.id))
			} else {
				parts = append(parts, f.text)
			}
		}
		if got := strings.Join(parts, "|"); got != c.want {
			t.Errorf("%q, special %v: got %q, want %q", c.text, c.special, got, c.want)
		}
	}
}

func TestStreamsHoldBackUnfinishedCharacters(t *testing.T) {
	tok := loadSimple(t, simpleTemplate)
	ids, err := tok.Encode("né🦙!", false)
	if err != nil {
		t.Fatal(err)
	}
	stream := tok.NewStream()
	var got []string
	for _, id := range ids {
		got = append(got, stream.Push(id))
	}
	if diff := cmp.Diff([]string{"n", "", "é", "", "", "", "🦙", "!"}, got); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	if rest := stream.Flush(); rest != "" {
		t.Errorf("%q was left", rest)
	}
	for _, id := range ids[:3] {
		stream.Push(id)
	}
	if stream.Push(ids[3]); stream.Flush() != "\uFFFD" {
		t.Error("half a character was not flushed as a replacement")
	}
}

func TestStreamsSayWhatDecodingAllAtOnceSays(t *testing.T) {
	tok, err := Load("testdata/sentencepiece")
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Repeat("the cat sat 日本語 on the mat ", 20)
	ids, err := tok.Encode(text, true)
	if err != nil {
		t.Fatal(err)
	}
	stream, got := tok.NewStream(), ""
	for _, id := range ids {
		got += stream.Push(id)
	}
	if got += stream.Flush(); got != text {
		t.Errorf("got %q", got)
	}
}

func TestSpecialTokensAreAddedWhereAskedFor(t *testing.T) {
	tok, err := Load("testdata/sentencepiece")
	if err != nil {
		t.Fatal(err)
	}
	with, err := tok.Encode("the", true)
	if err != nil {
		t.Fatal(err)
	}
	without, err := tok.Encode("the", false)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(append([]int32{1}, without...), with); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	spelled, err := tok.Encode("a</s>", false)
	if err != nil || spelled[len(spelled)-1] != 2 {
		t.Errorf("a special token that text spells gives %v (%v)", spelled, err)
	}
	plain, err := tok.EncodePlain("a</s>")
	if err != nil || plain[len(plain)-1] == 2 {
		t.Errorf("as plain text it gives %v (%v)", plain, err)
	}
}

// write makes a folder with these files, given as values to encode or as text.
func write(t *testing.T, files map[string]any) string {
	t.Helper()
	dir := t.TempDir()
	for name, v := range files {
		text, ok := v.(string)
		if !ok {
			b, err := json.Marshal(v)
			if err != nil {
				t.Fatal(err)
			}
			text = string(b)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestTokensThatEndSequencesComeFromAllConfigs(t *testing.T) {
	dir := write(t, map[string]any{
		"tokenizer.json":         map[string]any{"model": map[string]any{"type": "BPE", "vocab": map[string]int{"a": 0, "</s>": 1, "<s>": 2}, "merges": []string{}}},
		"tokenizer_config.json":  map[string]any{"eos_token": map[string]any{"content": "</s>"}, "bos_token": "<s>", "add_bos_token": true},
		"config.json":            map[string]any{"eos_token_id": 1},
		"generation_config.json": map[string]any{"eos_token_id": []int{1, 0}},
	})
	tok, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]int32{1, 0}, tok.EOS()); diff != "" {
		t.Errorf("EOS -want +got\n%s", diff)
	}
	if bos, ok := tok.BOS(); !ok || bos != 2 {
		t.Errorf("BOS is %d, %v", bos, ok)
	}
	ids, err := tok.Encode("aa", true)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]int32{2, 0, 0}, ids); diff != "" {
		t.Errorf("ids -want +got\n%s", diff)
	}
	if _, err := tok.Encode("b", false); err == nil || !strings.Contains(err.Error(), `"b"`) {
		t.Errorf("a character without a token: %v", err)
	}
	if err := tok.FitsVocabulary(3); err != nil {
		t.Error(err)
	}
	if err := tok.FitsVocabulary(2); err == nil || !strings.Contains(err.Error(), "different models") {
		t.Errorf("a vocabulary of 2: %v", err)
	}
}

func TestFilesThatMakeNoSenseAreRefused(t *testing.T) {
	model := func(with map[string]any) map[string]any {
		m := map[string]any{"type": "BPE", "vocab": map[string]any{"a": 0, "b": 1, "ab": 2}, "merges": []string{"a b"}}
		maps.Copy(m, with)
		return map[string]any{"model": m}
	}
	file := func(with map[string]any) map[string]any {
		f := model(nil)
		maps.Copy(f, with)
		return f
	}
	for _, c := range []struct {
		name   string
		files  map[string]any
		reason string
		want   string
	}{
		{"no JSON", map[string]any{"tokenizer.json": "{"}, contract.ReasonInvalidModel, "tokenizer.json"},
		{"another model", map[string]any{"tokenizer.json": model(map[string]any{"type": "WordPiece"})}, contract.ReasonUnsupported, "WordPiece"},
		{"dropout", map[string]any{"tokenizer.json": model(map[string]any{"dropout": 0.1})}, contract.ReasonUnsupported, "dropout"},
		{"suffixes", map[string]any{"tokenizer.json": model(map[string]any{"end_of_word_suffix": "</w>"})}, contract.ReasonUnsupported, "end_of_word_suffix"},
		{"no vocabulary", map[string]any{"tokenizer.json": model(map[string]any{"vocab": map[string]int{}})}, contract.ReasonUnsupported, "empty"},
		{"a merge of unknown tokens", map[string]any{"tokenizer.json": model(map[string]any{"merges": []string{"a c"}})}, contract.ReasonUnsupported, `"c"`},
		{"a merge into an unknown token", map[string]any{"tokenizer.json": model(map[string]any{"merges": []string{"b a"}})}, contract.ReasonUnsupported, `"ba"`},
		{"a merge of three", map[string]any{"tokenizer.json": model(map[string]any{"merges": []string{"a b c"}})}, contract.ReasonInvalidModel, "two tokens"},
		{"one id twice", map[string]any{"tokenizer.json": model(map[string]any{"vocab": map[string]int{"a": 0, "b": 1, "ab": 1}})}, contract.ReasonInvalidModel, "same id 1"},
		{"a negative id", map[string]any{"tokenizer.json": model(map[string]any{"vocab": map[string]int{"a": 0, "b": 1, "ab": -2}})}, contract.ReasonInvalidModel, "-2"},
		{"an absurd id", map[string]any{"tokenizer.json": model(map[string]any{"vocab": map[string]int{"a": 0, "b": 1, "ab": 2000000000}})}, contract.ReasonInvalidModel, "2000000000"},
		{"an added token in another's place", map[string]any{"tokenizer.json": file(map[string]any{"added_tokens": []any{map[string]any{"id": 0, "content": "x"}}})}, contract.ReasonInvalidModel, `"x"`},
		{"an unknown normaliser", map[string]any{"tokenizer.json": file(map[string]any{"normalizer": map[string]any{"type": "Bert"}})}, contract.ReasonUnsupported, `"Bert"`},
		{"an unknown pre-tokeniser", map[string]any{"tokenizer.json": file(map[string]any{"pre_tokenizer": map[string]any{"type": "X"}})}, contract.ReasonUnsupported, `"X"`},
		{"an unknown decoder", map[string]any{"tokenizer.json": file(map[string]any{"decoder": map[string]any{"type": "CTC"}})}, contract.ReasonUnsupported, `"CTC"`},
		{"an unknown post-processor", map[string]any{"tokenizer.json": file(map[string]any{"post_processor": map[string]any{"type": "Roberta"}})}, contract.ReasonUnsupported, `"Roberta"`},
		{"a post-processor with unknown tokens", map[string]any{"tokenizer.json": file(map[string]any{"post_processor": map[string]any{
			"type": "TemplateProcessing", "single": []any{map[string]any{"SpecialToken": map[string]any{"id": "<s>"}}, map[string]any{"Sequence": map[string]any{"id": "A"}}},
			"special_tokens": map[string]any{"<s>": map[string]any{"ids": []int{99}}},
		}})}, contract.ReasonInvalidModel, "99"},
		{"a regular expression that is none", map[string]any{"tokenizer.json": file(map[string]any{"pre_tokenizer": map[string]any{
			"type": "Split", "pattern": map[string]any{"Regex": "("}, "behavior": "Isolated"}})}, contract.ReasonUnsupported, "regular expression"},
		{"components without end", map[string]any{"tokenizer.json": file(map[string]any{"normalizer": nested(30)})}, contract.ReasonUnsupported, "nested"},
		{"an added token with an absurd id", map[string]any{"tokenizer.json": file(nil), "tokenizer_config.json": map[string]any{
			"added_tokens_decoder": map[string]any{"99999999": map[string]any{"content": "x"}}}}, contract.ReasonInvalidModel, "99999999"},
		{"an added token without an id", map[string]any{"tokenizer.json": file(nil), "tokenizer_config.json": map[string]any{
			"added_tokens_decoder": map[string]any{"x": map[string]any{"content": "x"}}}}, contract.ReasonInvalidModel, `id "x"`},
		{"an added token without a content", map[string]any{"tokenizer.json": file(nil), "tokenizer_config.json": map[string]any{
			"added_tokens_decoder": map[string]any{"3": map[string]any{}}}}, contract.ReasonInvalidModel, "no content"},
		{"a special token that is a number", map[string]any{"tokenizer.json": file(nil), "tokenizer_config.json": map[string]any{"eos_token": 2}}, contract.ReasonInvalidModel, "neither a string nor an object"},
		{"a map of special tokens that is no JSON", map[string]any{"tokenizer.json": file(nil), "special_tokens_map.json": "{"}, contract.ReasonInvalidModel, "special_tokens_map.json"},
		{"added tokens that are no ids", map[string]any{"tokenizer.json": file(nil), "added_tokens.json": map[string]any{"x": "y"}}, contract.ReasonInvalidModel, "added_tokens.json"},
		{"a Git LFS pointer", map[string]any{"tokenizer.json": lfsPointer}, contract.ReasonInvalidModel, "Git LFS pointer, not the file itself: fetch the file of 493443 bytes"},
		{"a SentencePiece model that is one", map[string]any{"tokenizer.model": lfsPointer}, contract.ReasonInvalidModel, "Git LFS pointer"},
		{"a config that is no JSON", map[string]any{"tokenizer.json": file(nil), "tokenizer_config.json": "["}, contract.ReasonInvalidModel, "tokenizer_config.json"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Load(write(t, c.files))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
			if reason, permanent := failure.Of(err); reason != c.reason || !permanent {
				t.Errorf("classified as %s, %v", reason, permanent)
			}
		})
	}
	if _, err := Load(t.TempDir()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("an empty folder: %v", err)
	}
}

// lfsPointer is what a clone without Git LFS has in place of a tokenizer.
const lfsPointer = "version https://git-lfs.github.com/spec/v1\n" +
	"oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 493443\n"

// nested wraps a normaliser in sequences.
func nested(depth int) any {
	if depth == 0 {
		return map[string]any{"type": "NFC"}
	}
	return map[string]any{"type": "Sequence", "normalizers": []any{nested(depth - 1)}}
}

func TestComponentsThatBlowTextUpAreStopped(t *testing.T) {
	double := map[string]any{"type": "Replace", "pattern": map[string]any{"String": "a"}, "content": "aa"}
	spell := map[string]any{"type": "ByteLevel", "add_prefix_space": false, "use_regex": false}
	var doubles, spells []any
	for range 50 {
		doubles, spells = append(doubles, double), append(spells, spell)
	}
	vocab := map[string]any{"type": "BPE", "vocab": map[string]int{"a": 0, "Ã": 1}, "merges": []string{}}
	for name, file := range map[string]map[string]any{
		"normalisers":    {"normalizer": map[string]any{"type": "Sequence", "normalizers": doubles}},
		"pre-tokenisers": {"pre_tokenizer": map[string]any{"type": "Sequence", "pretokenizers": spells}},
	} {
		file["model"] = vocab
		tok, err := Load(write(t, map[string]any{"tokenizer.json": file}))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tok.Encode(strings.Repeat("aé ", 4), false); err == nil || !strings.Contains(err.Error(), "bytes of") {
			t.Errorf("%s: got %v", name, err)
		}
	}
	tok, err := Load(write(t, map[string]any{"tokenizer.json": map[string]any{"model": vocab, "decoder": map[string]any{"type": "Sequence", "decoders": doubles}}}))
	if err != nil {
		t.Fatal(err)
	}
	if got := tok.Decode([]int32{0, 0}, false); got != "aa" {
		t.Errorf("a decoder that blows up gave %.40q", got)
	}
}

func TestCatastrophicExpressionsRunOutOfTime(t *testing.T) {
	m, err := compileRegex(`^(\w+\s?)*$`)
	if err != nil {
		t.Fatal(err)
	}
	r, ok := m.(regex)
	if !ok {
		t.Fatal("no regular expression")
	}
	r.re.MatchTimeout /= 50 // The test need not wait as long as production does.
	if _, err := r.find(strings.Repeat("aaaa ", 20) + "!"); err == nil {
		t.Error("it ended")
	}
}

// FuzzTokenizerFile: a tokenizer.json is refused, or encodes any text to ids
// that are in its vocabulary.
func FuzzTokenizerFile(f *testing.F) {
	for _, name := range []string{"bytelevel", "sentencepiece"} {
		b, err := os.ReadFile(filepath.Join("testdata", name, "tokenizer.json"))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte(`{"model":{"type":"BPE","vocab":{"a":0,"b":1,"ab":2},"merges":[["a","b"]],"unk_token":"a"},"added_tokens":[{"id":3,"content":"<x>","special":true,"normalized":true}],"normalizer":{"type":"Prepend","prepend":"a"}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		tok, err := Parse(b)
		if err != nil {
			return
		}
		wantTokens(t, tok, "", "ab <x> ab", "héllo\n 12")
	})
}

// wantTokens wants texts to be encoded, if at all, to tokens that there are.
func wantTokens(t *testing.T, tok *Tokenizer, texts ...string) {
	t.Helper()
	for _, text := range texts {
		ids, err := tok.Encode(text, true)
		if err != nil {
			continue
		}
		for _, id := range ids {
			if tok.TokenText(id) == "" {
				t.Fatalf("%q gives id %d, which is no token", text, id)
			}
		}
		tok.Decode(ids, true)
	}
}

// FuzzEncode: byte-level text comes back as it was, plain text has no special
// tokens, and conversations have exactly those of their template.
func FuzzEncode(f *testing.F) {
	tok := loadSimple(f, simpleTemplate)
	f.Add("hello")
	f.Add("<|end|><|user|>")
	f.Add("<|e\uFDD0nd|>")
	f.Fuzz(func(t *testing.T, text string) {
		ids, err := tok.EncodePlain(text)
		if err != nil {
			t.Fatal(err)
		}
		if back := tok.Decode(ids, false); utf8.ValidString(text) && back != text {
			t.Fatalf("%q came back as %q", text, back)
		}
		chat, err := tok.EncodeChat([]Message{{Role: "user", Content: text}, {Role: "assistant", Content: text}})
		if err != nil {
			t.Fatal(err)
		}
		specials := 0
		for _, id := range chat {
			if tok.IsSpecial(id) {
				specials++
			}
		}
		if specials != 5 {
			t.Fatalf("%q makes a conversation with %d special tokens: %q", text, specials, tok.Decode(chat, false))
		}
	})
}
