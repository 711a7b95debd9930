package encode

import (
	"strings"
	"testing"

	"github.com/transformersquared/operator/runtime/tokenizer"
)

func TestExcerptHasBothEnds(t *testing.T) {
	tok, err := tokenizer.Load("../../tokenizer/testdata/bytelevel")
	if err != nil {
		t.Fatal(err)
	}
	e := encoder{tok}
	for name, c := range map[string]struct {
		text   string
		tokens int
		whole  bool
	}{
		"short":             {"Name a prime.", 64, true},
		"as long as may be": {strings.Repeat("word ", 20), 100, true},
		"long":              {"Begin here. " + strings.Repeat("a word and ", 400) + "End there.", 64, false},
		"odd":               {"Begin here. " + strings.Repeat("a word and ", 400) + "End there.", 17, false},
		"many bytes a rune": {strings.Repeat("日本語", 300), 31, false},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := e.Excerpt(c.text, c.tokens)
			if err != nil {
				t.Fatal(err)
			}
			if c.whole {
				if got != c.text {
					t.Errorf("a text that fits became %q", got)
				}
				return
			}
			begin, end, cut := strings.Cut(got, excerptGap)
			if !cut || begin == "" || end == "" || !strings.HasPrefix(c.text, begin) || !strings.HasSuffix(c.text, end) {
				t.Fatalf("%q is no beginning and end of the text", got)
			}
			ids, err := tok.EncodePlain(begin)
			if err != nil {
				t.Fatal(err)
			}
			more, err := tok.EncodePlain(end)
			if err != nil {
				t.Fatal(err)
			}
			if n := len(ids) + len(more); n > c.tokens {
				t.Errorf("an excerpt of %d tokens, %d were asked for", n, c.tokens)
			}
		})
	}
}
