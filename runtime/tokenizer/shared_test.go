package tokenizer

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// shared returns a folder of the test data that is not part of the repository.
func shared(t *testing.T, parts ...string) string {
	t.Helper()
	root := os.Getenv("T2_SHARED_DATA")
	if root == "" {
		t.Skip("T2_SHARED_DATA is not set: the vocabularies of published models are not part of the repository")
	}
	return filepath.Join(append([]string{root}, parts...)...)
}

// TestPublishedVocabulariesEncodeAsTheirReference compares with the transcripts
// that llama.cpp made with the reference implementations.
func TestPublishedVocabulariesEncodeAsTheirReference(t *testing.T) {
	for _, c := range []struct{ name, dir, golden string }{
		{"Llama 3.1, whose merges may be skipped and digits come in threes", "llama3_1", "ggml-vocab-llama-bpe.gguf"},
		{"Qwen, which normalises and splits digits", "qwen3", "ggml-vocab-qwen2.gguf"},
	} {
		t.Run(c.name, func(t *testing.T) {
			tok, err := Load(shared(t, "tokenizers", c.dir))
			if err != nil {
				t.Fatal(err)
			}
			in, err := os.ReadFile(shared(t, "tokenizers", "golden", c.golden+".inp"))
			if err != nil {
				t.Fatal(err)
			}
			out, err := os.ReadFile(shared(t, "tokenizers", "golden", c.golden+".out"))
			if err != nil {
				t.Fatal(err)
			}
			texts := strings.Split(string(in), "\n__ggml_vocab_test__\n")
			lines := strings.Split(strings.TrimSuffix(string(out), "\n"), "\n")
			compared := 0
			for i, line := range lines {
				want := parseIDs(t, line)
				got, err := tok.Encode(texts[i], false)
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(want, append([]int32{}, got...)); diff != "" {
					t.Errorf("%q: -want +got\n%s", texts[i], diff)
				}
				if back := tok.Decode(got, false); back != texts[i] && c.dir == "llama3_1" {
					t.Errorf("%q decodes as %q", texts[i], back)
				}
				compared++
			}
			if compared < 40 {
				t.Errorf("compared %d texts only", compared)
			}
		})
	}
}

func parseIDs(t *testing.T, line string) []int32 {
	t.Helper()
	ids := []int32{}
	for f := range strings.FieldsSeq(line) {
		id, err := strconv.ParseInt(f, 10, 32)
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, int32(id))
	}
	return ids
}

func TestSentencePieceStyleModelMatchesItsTranscript(t *testing.T) {
	dir := shared(t, "models", "tinystories-656k")
	tok, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(dir, "greedy.json"))
	if err != nil {
		t.Fatal(err)
	}
	var golden struct {
		Prompt string  `json:"prompt"`
		BOS    int32   `json:"bos"`
		IDs    []int32 `json:"ids_after_bos"`
		Text   string  `json:"text"`
	}
	if err := json.Unmarshal(b, &golden); err != nil {
		t.Fatal(err)
	}
	got, err := tok.Encode(golden.Prompt, true)
	if err != nil {
		t.Fatal(err)
	}
	if want := append([]int32{golden.BOS}, golden.IDs[:len(got)-1]...); !cmp.Equal(want, got) {
		t.Errorf("prompt: %s", cmp.Diff(want, got))
	}
	golden.Text = strings.TrimSuffix(golden.Text, "\n") // The program that made it ends its output with a line.
	if diff := cmp.Diff(golden.Text, tok.Decode(golden.IDs, true)); diff != "" {
		t.Errorf("text: -want +got\n%s", diff)
	}
	stream, streamed := tok.NewStream(), ""
	for _, id := range golden.IDs {
		streamed += stream.Push(id)
	}
	if streamed += stream.Flush(); streamed != golden.Text {
		t.Errorf("streamed text: %s", cmp.Diff(golden.Text, streamed))
	}
}
