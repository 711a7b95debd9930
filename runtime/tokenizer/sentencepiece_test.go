package tokenizer

import (
	"encoding/json"
	"errors"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/failure"
)

// encodeSP writes a model file. trainer and normalizer hold further fields of
// the respective messages.
func encodeSP(pieces []spPiece, trainer, normalizer map[protowire.Number]uint64) []byte {
	var b []byte
	message := func(number protowire.Number, body []byte) {
		b = protowire.AppendTag(b, number, protowire.BytesType)
		b = protowire.AppendBytes(b, body)
	}
	varints := func(fields map[protowire.Number]uint64) []byte {
		var body []byte
		for number, v := range fields {
			body = protowire.AppendTag(body, number, protowire.VarintType)
			body = protowire.AppendVarint(body, v)
		}
		return body
	}
	for _, p := range pieces {
		body := protowire.AppendTag(nil, 1, protowire.BytesType)
		body = protowire.AppendString(body, p.text)
		body = protowire.AppendTag(body, 2, protowire.Fixed32Type)
		body = protowire.AppendFixed32(body, math.Float32bits(p.score))
		body = protowire.AppendTag(body, 3, protowire.VarintType)
		body = protowire.AppendVarint(body, p.kind)
		message(1, body)
	}
	message(2, varints(trainer))
	message(3, varints(normalizer))
	return b
}

// Fields of the trainer's and the normaliser's messages.
var (
	bpeTrainer   = map[protowire.Number]uint64{3: modelBPE, 35: 1, 40: 0, 41: 1, 42: 2}
	keepsSpaces  = map[protowire.Number]uint64{3: 1, 4: 0}
	trimsSpaces  = map[protowire.Number]uint64{3: 1, 4: 1}
	noAddedSpace = map[protowire.Number]uint64{3: 0, 4: 0}
)

// asSentencePiece says what a tokenizer.json says as a model file.
func asSentencePiece(tb testing.TB, dir string) []byte {
	tb.Helper()
	b, err := os.ReadFile(filepath.Join(dir, "tokenizer.json"))
	if err != nil {
		tb.Fatal(err)
	}
	var f tokenizerFile
	if err := json.Unmarshal(b, &f); err != nil {
		tb.Fatal(err)
	}
	pieces := make([]spPiece, len(f.Model.Vocab))
	for text, id := range f.Model.Vocab {
		kind := uint64(pieceNormal)
		if _, ok := byteToken(text); ok {
			kind = pieceByte
		}
		pieces[id] = spPiece{text: text, score: -1e9, kind: kind}
	}
	for i, m := range f.Model.Merges {
		made := &pieces[f.Model.Vocab[m[0]+m[1]]]
		made.score = max(made.score, -float32(i))
	}
	for _, a := range f.AddedTokens {
		pieces[a.ID].kind = pieceControl
	}
	pieces[0].kind = pieceUnknown
	return encodeSP(pieces, bpeTrainer, keepsSpaces)
}

func TestSentencePieceModelIsTheSameAsItsTokenizerJSON(t *testing.T) {
	dir := filepath.Join("testdata", "sentencepiece")
	tok, err := ParseSentencePiece(asSentencePiece(t, dir))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range encodings(t, dir) {
		got, err := tok.EncodePlain(c.Text)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(c.IDs, append([]int32{}, got...)); diff != "" {
			t.Errorf("%q: -want +got\n%s", c.Text, diff)
		}
		if back := tok.Decode(got, true); back != c.Text {
			t.Errorf("%q decodes as %q", c.Text, back)
		}
	}
	if got, err := tok.Encode("a", true); err != nil || len(got) == 0 || got[0] != 1 {
		t.Errorf("with special tokens: %v, %v; want <s> first", got, err)
	}
	if eos := tok.EOS(); !cmp.Equal(eos, []int32{2}) {
		t.Errorf("ends with %v", eos)
	}
}

// TestMistralsModelEncodesAsItsTranscripts compares with what mistral-common
// makes of whole conversations.
func TestMistralsModelEncodesAsItsTranscripts(t *testing.T) {
	dir := shared(t, "tokenizers", "mistral-v3")
	b, err := os.ReadFile(filepath.Join(dir, "mistral_instruct_tokenizer_240323.model.v3"))
	if err != nil {
		t.Fatal(err)
	}
	folder := t.TempDir()
	if err := os.WriteFile(filepath.Join(folder, "tokenizer.model.v3"), b, 0o600); err != nil {
		t.Fatal(err)
	}
	tok, err := Load(folder)
	if err != nil {
		t.Fatal(err)
	}
	if n := tok.VocabSize(); n != 32768 {
		t.Errorf("%d tokens, want 32768", n)
	}
	samples, err := filepath.Glob(filepath.Join(dir, "samples", "*"))
	if err != nil || len(samples) < 6 {
		t.Fatalf("samples %v, %v", samples, err)
	}
	for _, sample := range samples {
		text, err := os.ReadFile(filepath.Join(sample, "text_v3.txt"))
		if err != nil {
			t.Fatal(err)
		}
		ids, err := os.ReadFile(filepath.Join(sample, "tokens_v3.json"))
		if err != nil {
			t.Fatal(err)
		}
		var golden struct {
			Tokens []int32 `json:"tokens"`
		}
		if err := json.Unmarshal(ids, &golden); err != nil {
			t.Fatal(err)
		}
		// The transcript spells spaces and line ends as the vocabulary does.
		spelled := strings.NewReplacer(sentencePieceSpace, " ", "<0x0A>", "\n").Replace(string(text))
		got, err := tok.Encode(spelled, false)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(golden.Tokens, got); diff != "" {
			t.Errorf("%s: -want +got\n%s", filepath.Base(sample), diff)
		}
	}
}

func TestSentencePieceTreatsSpacesAsTheModelSays(t *testing.T) {
	pieces := []spPiece{
		{"<unk>", 0, pieceUnknown}, {"<s>", 0, pieceControl}, {"</s>", 0, pieceControl},
		{"▁", -9, pieceNormal}, {"a", -9, pieceNormal}, {"b", -9, pieceNormal},
		{"▁a", -1, pieceNormal}, {"ab", -2, pieceNormal}, {"bb", -2, pieceNormal}, {"[x]", 0, pieceUserDefined},
	}
	for _, c := range []struct {
		name       string
		normalizer map[protowire.Number]uint64
		text, want string
	}{
		{"a space is put before the text", keepsSpaces, "a b", "▁a ▁ b"},
		{"also before a space", keepsSpaces, " a", "▁ ▁a"},
		{"not after a token of its own", keepsSpaces, "[x]a [x] a", "[x] a ▁ [x] ▁a"},
		{"nor where there is no text", keepsSpaces, "", ""},
		{"spaces are trimmed", trimsSpaces, "  a   b ", "▁a ▁ b"},
		{"no space is added", noAddedSpace, "a b", "a ▁ b"},
		{"the highest score goes first, then the left one", noAddedSpace, "abb bbb", "ab b ▁ bb b"},
		{"unknown characters are one token", noAddedSpace, "aëëa", "a <unk> a"},
	} {
		tok, err := ParseSentencePiece(encodeSP(pieces, bpeTrainer, c.normalizer))
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		ids, err := tok.EncodePlain(c.text)
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		var got []string
		for _, id := range ids {
			got = append(got, tok.TokenText(id))
		}
		if joined := strings.Join(got, " "); joined != c.want {
			t.Errorf("%s: %q is %q, want %q", c.name, c.text, joined, c.want)
		}
	}
}

func TestSentencePieceModelsThatCannotBeUsed(t *testing.T) {
	pieces := []spPiece{{"<unk>", 0, pieceUnknown}, {"a", 0, pieceNormal}}
	trainer := func(number protowire.Number, v uint64) map[protowire.Number]uint64 {
		return map[protowire.Number]uint64{3: modelBPE, 41: 0, 42: 0, number: v}
	}
	with := func(p spPiece) []byte { return encodeSP(append(pieces[:2:2], p), trainer(40, 0), keepsSpaces) }
	for _, c := range []struct {
		name, says string
		file       []byte
		reason     string
	}{
		{"no protocol buffer", "byte 0", []byte{0xff}, contract.ReasonInvalidModel},
		{"a cut one", "field 1", encodeSP(pieces, bpeTrainer, nil)[:5], contract.ReasonInvalidModel},
		{"nothing", "type 1", nil, contract.ReasonUnsupported},
		{"another kind", "type 1", encodeSP(pieces, map[protowire.Number]uint64{3: 1}, keepsSpaces), contract.ReasonUnsupported},
		{"no pieces", "empty", encodeSP(nil, bpeTrainer, keepsSpaces), contract.ReasonUnsupported},
		{"spaces as suffixes", "whitespace_as_suffix", encodeSP(pieces, trainer(24, 1), keepsSpaces), contract.ReasonUnsupported},
		{"spaces that stay", "escape", encodeSP(pieces, trainer(40, 0), map[protowire.Number]uint64{5: 0}), contract.ReasonUnsupported},
		{"an unused piece", `"u"`, with(spPiece{"u", 0, pieceUnused}), contract.ReasonUnsupported},
		{"an unheard-of piece", "type 9", with(spPiece{"u", 0, 9}), contract.ReasonUnsupported},
		{"a user's space", "user-defined", with(spPiece{"▁▁", 0, pieceUserDefined}), contract.ReasonUnsupported},
		{"an endless piece", "bytes", with(spPiece{strings.Repeat("a", maxMergedPiece+1), 0, pieceNormal}), contract.ReasonUnsupported},
		{"a piece twice", `both "a"`, with(spPiece{"a", 0, pieceNormal}), contract.ReasonInvalidModel},
		{"a piece that is no text", "is text", with(spPiece{"\xff", 0, pieceNormal}), contract.ReasonInvalidModel},
		{"a score that is none", "not a number", with(spPiece{"b", float32(math.NaN()), pieceNormal}), contract.ReasonInvalidModel},
		{"an end that is not there", "eos_id is 7", encodeSP(pieces, trainer(42, 7), keepsSpaces), contract.ReasonInvalidModel},
		{"an absurd end", "eos_id is", encodeSP(pieces, trainer(42, 1<<40), keepsSpaces), contract.ReasonInvalidModel},
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "tokenizer.model"), c.file, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := Load(dir)
		if err == nil || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), "tokenizer.model") {
			t.Errorf("%s: %v, want one that says %q", c.name, err, c.says)
			continue
		}
		var f *failure.Error
		if !errors.As(err, &f) || f.Reason != c.reason {
			t.Errorf("%s: %v, want reason %s", c.name, err, c.reason)
		}
	}
}

// FuzzSentencePiece: a model file is refused, or encodes any text to its
// tokens.
func FuzzSentencePiece(f *testing.F) {
	f.Add(asSentencePiece(f, filepath.Join("testdata", "sentencepiece")))
	f.Add(encodeSP([]spPiece{{"<unk>", 0, pieceUnknown}, {"a", 0, pieceNormal}, {"aa", 1, pieceNormal}}, bpeTrainer, trimsSpaces))
	f.Fuzz(func(t *testing.T, b []byte) {
		tok, err := ParseSentencePiece(b)
		if err != nil {
			return
		}
		wantTokens(t, tok, "", "ab <s> aaa", "héllo\n 12")
	})
}

// FuzzOffsets: streamed token by token, a text comes back whole, and each
// token's text begins where that of those before it has ended.
func FuzzOffsets(f *testing.F) {
	var toks []*Tokenizer
	for _, name := range []string{"bytelevel", "sentencepiece"} {
		tok, err := Load(filepath.Join("testdata", name))
		if err != nil {
			f.Fatal(err)
		}
		toks = append(toks, tok)
	}
	for _, text := range []string{"hello  world", " ▁ ", "né\u0301e 日本語 🦙🏽", "<s> [INST]\n\n\t12.5", "\uFFFD\uFDD0"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if !utf8.ValidString(text) {
			return
		}
		for _, tok := range toks {
			ids, err := tok.EncodePlain(text)
			if err != nil {
				t.Fatal(err)
			}
			whole := tok.Decode(ids, true)
			stream, offset := tok.NewStream(), 0
			push := func(piece string) {
				if !strings.HasPrefix(whole[offset:], piece) {
					t.Fatalf("%q: %q comes at byte %d of %q", text, piece, offset, whole)
				}
				offset += len(piece)
			}
			for _, id := range ids {
				push(stream.Push(id))
			}
			push(stream.Flush())
			if offset != len(whole) {
				t.Fatalf("%q: streamed %d bytes of %q", text, offset, whole)
			}
		}
	})
}
