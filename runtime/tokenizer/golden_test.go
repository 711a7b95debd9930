package tokenizer

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/transformersquared/operator/runtime/tokenizer/jinja"
)

// The files of testdata are made by a straightforward implementation and by
// Jinja2:
//
//	python3 hack/golden/tokenizer.py runtime/tokenizer/testdata

func readGolden(t *testing.T, path string, into any) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var version struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(b, &version); err != nil {
		t.Fatal(err)
	}
	if version.Version != 1 {
		t.Fatalf("%s has version %d", path, version.Version)
	}
	if err := json.Unmarshal(b, into); err != nil {
		t.Fatal(err)
	}
}

// encoding is a text and its tokens.
type encoding struct {
	Text string  `json:"text"`
	IDs  []int32 `json:"ids"`
}

// encodings are those of the reference for the vocabulary in dir.
func encodings(t *testing.T, dir string) []encoding {
	t.Helper()
	var golden struct {
		Cases []encoding `json:"cases"`
	}
	readGolden(t, filepath.Join(dir, "golden.json"), &golden)
	if len(golden.Cases) < 40 {
		t.Fatalf("%d cases only", len(golden.Cases))
	}
	return golden.Cases
}

func TestEncodingIsTheReferences(t *testing.T) {
	for _, name := range []string{"bytelevel", "sentencepiece"} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join("testdata", name)
			tok, err := Load(dir)
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range encodings(t, dir) {
				got, err := tok.Encode(c.Text, false)
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(c.IDs, append([]int32{}, got...)); diff != "" {
					t.Errorf("%q: -want +got\n%s", c.Text, diff)
				}
				if back := tok.Decode(got, true); back != c.Text {
					t.Errorf("%q decodes as %q", c.Text, back)
				}
				stream, text := tok.NewStream(), ""
				for _, id := range got {
					text += stream.Push(id)
				}
				if text += stream.Flush(); text != c.Text {
					t.Errorf("%q streams as %q", c.Text, text)
				}
				plain, err := tok.EncodePlain(c.Text)
				if err != nil || !cmp.Equal(plain, got) {
					t.Errorf("%q as plain text gives %v (%v)", c.Text, plain, err)
				}
			}
		})
	}
}

func TestChatTemplatesRenderAsJinjaDoes(t *testing.T) {
	var golden struct {
		Cases []struct {
			Name       string    `json:"name"`
			Template   string    `json:"template"`
			Generation bool      `json:"generation"`
			Messages   []Message `json:"messages"`
			Text       string    `json:"text"`
		} `json:"cases"`
	}
	readGolden(t, "testdata/chat.json", &golden)
	if len(golden.Cases) < 30 {
		t.Fatalf("%d cases only", len(golden.Cases))
	}
	names := map[string]string{"bos_token": "<s>", "eos_token": "</s>"}
	for _, c := range golden.Cases {
		template, err := jinja.Parse(c.Template)
		if err != nil {
			t.Errorf("%s: %v", c.Name, err)
			continue
		}
		got, err := (&Tokenizer{chat: template, specialNames: names}).ApplyChatTemplate(c.Messages, c.Generation)
		if err != nil {
			t.Errorf("%s: %v", c.Name, err)
			continue
		}
		if got != c.Text {
			t.Errorf("%s of %v:\n got %q\nwant %q", c.Name, c.Messages, got, c.Text)
		}
	}
}
