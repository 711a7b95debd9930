package tokenizer

import (
	"encoding/json"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

// Decoders as published models have them, and combinations that none has.
var decoders = map[string]string{
	"none":           `null`,
	"byte level":     `{"type":"ByteLevel"}`,
	"Llama 2":        `{"type":"Sequence","decoders":[{"type":"Replace","pattern":{"String":"▁"},"content":" "},{"type":"ByteFallback"},{"type":"Fuse"},{"type":"Strip","content":" ","start":1,"stop":0}]}`,
	"Gemma":          `{"type":"Sequence","decoders":[{"type":"Replace","pattern":{"String":"▁"},"content":" "},{"type":"ByteFallback"},{"type":"Fuse"}]}`,
	"metaspace":      `{"type":"Metaspace","replacement":"▁","prepend_scheme":"always"}`,
	"metaspace kept": `{"type":"Metaspace","replacement":"▁","prepend_scheme":"never"}`,
	"fused metaspace": `{"type":"Sequence","decoders":[{"type":"ByteFallback"},{"type":"Fuse"},
		{"type":"Metaspace","replacement":"▁","prepend_scheme":"first"}]}`,
	"strip of tokens": `{"type":"Strip","content":"▁","start":1,"stop":1}`,
	"strip of all":    `{"type":"Sequence","decoders":[{"type":"Fuse"},{"type":"Strip","content":"▁","start":2,"stop":2}]}`,
	"fused replace":   `{"type":"Sequence","decoders":[{"type":"Fuse"},{"type":"Replace","pattern":{"String":"aba"},"content":"_"}]}`,
	"fused expression": `{"type":"Sequence","decoders":[{"type":"Fuse"},{"type":"Replace","pattern":{"Regex":"(ab)+$|▁▁+"},"content":"#"},
		{"type":"Strip","content":"▁","start":1,"stop":1}]}`,
	"expression":             `{"type":"Replace","pattern":{"Regex":"a+"},"content":"A"}`,
	"bytes, then expression": `{"type":"Sequence","decoders":[{"type":"ByteFallback"},{"type":"Replace","pattern":{"Regex":"a."},"content":"."},{"type":"Fuse"}]}`,
	"fused, then bytes":      `{"type":"Sequence","decoders":[{"type":"Fuse"},{"type":"ByteLevel"}]}`,
	"everything twice": `{"type":"Sequence","decoders":[{"type":"ByteFallback"},{"type":"Fuse"},{"type":"ByteFallback"},{"type":"ByteLevel"},
		{"type":"Fuse"},{"type":"Strip","content":" ","start":1,"stop":1}]}`,
}

// pieces are a vocabulary that brings every decoder into trouble.
var pieces = []string{
	"▁", "▁▁", "▁a", "a", "b", "ab", "aba", "ba", "▁love", "é", "❤", "\uFFFD", " ", "Ġa", "âĿ", "¤", "â", "ï", "Ã", "<s>",
	"<0xE2>", "<0x9D>", "<0xA4>", "<0xEF>", "<0x20>", "<0x61>", "<0xF0>", "<0x9F>", "<0xA6>", "<0x99>", "<0xC0>", "<0x", "41>",
}

// tokenizerWith has these pieces, of which "<s>" is special, and a decoder.
func tokenizerWith(t testing.TB, decoder string) *Tokenizer {
	t.Helper()
	vocab := map[string]int{}
	for i, p := range pieces {
		vocab[p] = i
	}
	file := map[string]any{
		"model": map[string]any{"type": "BPE", "vocab": vocab, "merges": []string{}}, "decoder": json.RawMessage(decoder),
		"added_tokens": []any{map[string]any{"id": vocab["<s>"], "content": "<s>", "special": true}},
	}
	b, err := json.Marshal(file)
	if err != nil {
		t.Fatal(err)
	}
	tok, err := Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

func idsOf(t testing.TB, tok *Tokenizer, tokens ...string) []int32 {
	t.Helper()
	var ids []int32
	for _, token := range tokens {
		id, ok := tok.TokenID(token)
		if !ok {
			t.Fatalf("no token %q", token)
		}
		ids = append(ids, id)
	}
	return ids
}

func streamed(s *Stream, ids []int32) string {
	text := ""
	for _, id := range ids {
		text += s.Push(id)
	}
	return text + s.Flush()
}

// TestStreamsOfEveryDecoderSayWhatDecodingWholeSays also compares with the
// decoders written down plainly, for a whole text at once (wholeDecoding).
func TestStreamsOfEveryDecoderSayWhatDecodingWholeSays(t *testing.T) {
	for name, decoder := range decoders {
		t.Run(name, func(t *testing.T) {
			tok := tokenizerWith(t, decoder)
			rng := rand.New(rand.NewPCG(1, uint64(len(name))))
			held := 0
			for range 3000 {
				ids := make([]int32, 1+rng.IntN(12))
				var tokens []string
				for i := range ids {
					ids[i] = int32(rng.IntN(len(pieces)))
					if p := pieces[ids[i]]; p != "<s>" {
						tokens = append(tokens, p)
					}
				}
				whole := tok.Decode(ids, true)
				if want := wholeDecoding(t, decoder, tokens); whole != want {
					t.Fatalf("%q decodes as %q, want %q", tokens, whole, want)
				}
				if got := streamed(tok.NewStream(), ids); got != whole {
					t.Fatalf("%q streams as %q, decodes as %q", tokens, got, whole)
				}
				if !utf8.ValidString(whole) {
					t.Fatalf("%q decodes as %q, which is no UTF-8", tokens, whole)
				}
				// What follows a prompt is what it makes of the text.
				at := rng.IntN(len(ids))
				prompt, answer := tok.Decode(ids[:at], true), tok.DecodeAfter(ids[:at], ids[at:])
				if rest, ok := strings.CutPrefix(whole, prompt); ok && answer != rest {
					t.Fatalf("%q after %q gives %q, want %q", tokens, prompt, answer, rest)
				} else if !ok {
					held++
				}
			}
			if held > 1500 {
				t.Errorf("of %d texts of 3000 the beginning cannot be told", held)
			}
		})
	}
}

// wholeDecoding decodes a whole text step by step, as the format is described.
func wholeDecoding(t *testing.T, raw string, tokens []string) string {
	t.Helper()
	components, err := flatten(json.RawMessage(raw), func(c component) []json.RawMessage { return c.Decoders })
	if err != nil {
		t.Fatal(err)
	}
	if len(components) == 0 {
		return strings.Join(tokens, " ")
	}
	for _, c := range components {
		var out []string
		each := func(f func(string) string) {
			for _, token := range tokens {
				out = append(out, f(token))
			}
		}
		switch c.Type {
		case "ByteLevel":
			var b []byte
			for _, token := range tokens {
				b = appendSpelled(b, token)
			}
			out = []string{lossy(b, false)}
		case "ByteFallback":
			out = fallback(tokens)
		case "Fuse":
			out = []string{strings.Join(tokens, "")}
		case "Replace":
			replace, err := replacer(c)
			if err != nil {
				t.Fatal(err)
			}
			each(func(s string) string {
				s, err := replace(s)
				if err != nil {
					t.Fatal(err)
				}
				return s
			})
		case "Strip":
			each(func(s string) string {
				for range c.Start {
					s = strings.TrimPrefix(s, c.Content)
				}
				for range c.Stop {
					s = strings.TrimSuffix(s, c.Content)
				}
				return s
			})
		case "Metaspace":
			if len(tokens) > 0 && c.PrependScheme != "never" {
				tokens = append([]string{strings.TrimPrefix(tokens[0], c.Replacement)}, tokens[1:]...)
			}
			each(func(s string) string { return strings.ReplaceAll(s, c.Replacement, " ") })
		}
		tokens = out
	}
	return strings.Join(tokens, "")
}

// fallback makes one token of each run of bytes.
func fallback(tokens []string) (out []string) {
	var run []byte
	running := false
	for _, token := range tokens {
		if b, ok := byteToken(token); ok {
			run, running = append(run, b), true
			continue
		}
		if running {
			out = append(out, lossy(run, true))
		}
		run, running = nil, false
		out = append(out, token)
	}
	if running {
		out = append(out, lossy(run, true))
	}
	return out
}

// lossy reads UTF-8. A character that breaks off becomes one replacement, or
// with each one for each of its bytes. It knows the well-formed sequences by
// their first bytes, unlike the code that it tests.
func lossy(b []byte, each bool) string {
	text := ""
	for len(b) > 0 {
		n, low, high := 0, byte(0x80), byte(0xBF) // Bytes that follow, and what the first of them may be.
		switch c := b[0]; {
		case c < 0x80:
		case c >= 0xC2 && c <= 0xDF:
			n = 1
		case c >= 0xE0 && c <= 0xEF:
			n = 2
			switch c {
			case 0xE0:
				low = 0xA0
			case 0xED:
				high = 0x9F
			}
		case c >= 0xF0 && c <= 0xF4:
			n = 3
			switch c {
			case 0xF0:
				low = 0x90
			case 0xF4:
				high = 0x8F
			}
		default:
			n = -1
		}
		good := 1
		for i := 1; i <= n && i < len(b) && b[i] >= low && b[i] <= high; i++ {
			good++
			low, high = 0x80, 0xBF
		}
		switch {
		case good == n+1:
			text += string(b[:good])
		case each:
			good = 1
			fallthrough
		default:
			text += "\uFFFD"
		}
		b = b[good:]
	}
	return text
}

func TestBadBytesSpoilNothingElse(t *testing.T) {
	bytesAt := func(names ...string) []string { return names }
	for _, c := range []struct {
		name, decoder string
		tokens        []string
		want          []string // What each token brings, and the end.
	}{
		// SentencePiece's own decoder gives these texts.
		{"a byte too many", "Llama 2", bytesAt("▁", "a", "<0xE2>", "<0x9D>", "<0xA4>", "<0xEF>", "▁love", "▁a"),
			[]string{"", "a", "", "", "❤", "", "\uFFFD love", " a", ""}},
		{"a character that breaks off", "Llama 2", bytesAt("▁a", "<0xE2>", "<0x9D>", "▁love"),
			[]string{"a", "", "", "\uFFFD\uFFFD love", ""}},
		{"one that breaks off for another", "Llama 2", bytesAt("▁a", "<0xE2>", "<0x9D>", "<0xE2>", "<0x9D>", "<0xA4>", "<0xC0>", "<0x61>"),
			[]string{"a", "", "", "\uFFFD\uFFFD", "", "❤", "\uFFFD", "a", ""}},
		{"one that the text ends in", "Llama 2", bytesAt("▁a", "<0xF0>", "<0x9F>", "<0xA6>"), []string{"a", "", "", "", "\uFFFD\uFFFD\uFFFD"}},
		// Byte-level decoders have one replacement for a character that breaks off.
		{"bytes of a byte-level token", "byte level", bytesAt("a", "âĿ", "a", "âĿ", "¤", "âĿ"), []string{"a", "", "\uFFFDa", "", "❤", "", "\uFFFD"}},
		{"a replacement character itself is no doubt", "Gemma", bytesAt("a", "\uFFFD", "b"), []string{"a", "\uFFFD", "b", ""}},
	} {
		t.Run(c.name, func(t *testing.T) {
			tok := tokenizerWith(t, decoders[c.decoder])
			stream, got := tok.NewStream(), []string{}
			for _, id := range idsOf(t, tok, c.tokens...) {
				got = append(got, stream.Push(id))
			}
			if diff := cmp.Diff(c.want, append(got, stream.Flush())); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		})
	}
}

func TestWhatFollowsAPromptKeepsItsBlank(t *testing.T) {
	for name, want := range map[string]string{
		"Llama 2": " love a", "metaspace": " love a", "Gemma": " love a", "none": " ▁love ▁a",
	} {
		tok := tokenizerWith(t, decoders[name])
		got := tok.DecodeAfter(idsOf(t, tok, "<s>", "▁a", "b"), idsOf(t, tok, "▁love", "▁a", "<s>"))
		if got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	tok := tokenizerWith(t, decoders["Llama 2"])
	if got := tok.DecodeAfter(idsOf(t, tok, "a", "<0xE2>", "<0x9D>"), idsOf(t, tok, "<0xA4>", "b")); got != "❤b" {
		t.Errorf("a character that the prompt began: %q", got)
	}
	long := append(idsOf(t, tok, "a"), slices.Repeat(idsOf(t, tok, "<s>"), 2*contextTokens)...)
	if got := tok.DecodeAfter(long, idsOf(t, tok, "▁love")); got != " love" {
		t.Errorf("behind many tokens that are no text: %q", got)
	}
	long = append(slices.Repeat(idsOf(t, tok, "▁a"), 3*contextTokens), idsOf(t, tok, "<0xE2>", "<0x9D>")...)
	if got := tok.DecodeAfter(long, idsOf(t, tok, "<0xA4>", "▁love")); got != "❤ love" {
		t.Errorf("behind a long prompt: %q", got)
	}
	if got := tok.DecodeAfter(idsOf(t, tok, "<s>"), idsOf(t, tok, "▁love")); got != "love" {
		t.Errorf("behind a prompt that is no text: %q", got)
	}
}

func TestTokensAreSpelledAsInTheMidstOfAText(t *testing.T) {
	for _, c := range []struct{ decoder, token, want string }{
		{"Llama 2", "▁love", " love"}, {"Llama 2", "▁▁", "  "}, {"Llama 2", "<0xE2>", "\xe2"}, {"Llama 2", "<0x61>", "a"},
		{"Llama 2", "<s>", "<s>"}, {"Llama 2", "❤", "❤"}, {"metaspace", "▁love", " love"}, {"byte level", "Ġa", " a"},
		{"byte level", "âĿ", "\xe2\x9d"}, {"strip of all", "▁a", "▁a"}, {"fused expression", "▁a", "▁a"},
		{"everything twice", "▁love", "▁love"}, {"fused, then bytes", "âĿ", "\xe2\x9d"}, {"none", "a", " a"},
	} {
		tok := tokenizerWith(t, decoders[c.decoder])
		if got := string(tok.TokenBytes(idsOf(t, tok, c.token)[0])); got != c.want {
			t.Errorf("%s: %q is %q, want %q", c.decoder, c.token, got, c.want)
		}
	}
}

// TestBytesOfTokensMakeTheText: what tokens add, one after the other, is the
// text, for every tokenizer whose tokens do not look at their neighbours.
func TestBytesOfTokensMakeTheText(t *testing.T) {
	for _, dir := range []string{"bytelevel", "sentencepiece"} {
		tok, err := Load(filepath.Join("testdata", dir))
		if err != nil {
			t.Fatal(err)
		}
		const text = " the cat 日本語 sat 🦙🏽 né\n"
		ids, err := tok.EncodePlain(text)
		if err != nil {
			t.Fatal(err)
		}
		var b []byte
		for _, id := range ids {
			b = append(b, tok.TokenBytes(id)...)
		}
		if dir == "sentencepiece" { // Its normaliser puts a blank before every text.
			b = b[1:]
		}
		if string(b) != text {
			t.Errorf("%s: %q", dir, b)
		}
	}
}

// FuzzStreams: any tokens of any decoder stream as they decode.
func FuzzStreams(f *testing.F) {
	f.Add(uint8(2), []byte{0, 3, 20, 21, 22, 23, 8})
	f.Add(uint8(9), []byte{3, 4, 3, 4, 5, 6, 7})
	var toks []*Tokenizer
	for _, name := range slices.Sorted(maps.Keys(decoders)) {
		toks = append(toks, tokenizerWith(f, decoders[name]))
	}
	f.Fuzz(func(t *testing.T, which uint8, tokens []byte) {
		if len(tokens) > 200 {
			return
		}
		tok := toks[int(which)%len(toks)]
		ids := make([]int32, len(tokens))
		for i, b := range tokens {
			ids[i] = int32(b)
		}
		whole := tok.Decode(ids, true)
		if got := streamed(tok.NewStream(), ids); got != whole || !utf8.ValidString(whole) {
			t.Errorf("%v streams as %q, decodes as %q", tokens, got, whole)
		}
		for at := range ids {
			prompt := tok.Decode(ids[:at], true)
			if rest, ok := strings.CutPrefix(whole, prompt); ok {
				if got := tok.DecodeAfter(ids[:at], ids[at:]); got != rest {
					t.Errorf("%v after %d tokens is %q, want %q", tokens, at, got, rest)
				}
			}
		}
	})
}

func BenchmarkStream(b *testing.B) {
	for _, name := range []string{"byte level", "Llama 2"} {
		tok := tokenizerWith(b, decoders[name])
		b.Run(name, func(b *testing.B) {
			s := tok.NewStream()
			for i := 0; b.Loop(); i++ {
				s.Push(int32(i % len(pieces)))
			}
		})
	}
}
