//go:build unix

package constrain_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/transformersquared/operator/runtime/constrain"
	"github.com/transformersquared/operator/runtime/tokenizer"
)

// published returns a published vocabulary of 128,256 tokens.
func published(tb testing.TB) *constrain.Vocabulary {
	tb.Helper()
	root := os.Getenv("T2_SHARED_DATA")
	if root == "" {
		tb.Skip("T2_SHARED_DATA is not set: the vocabularies of published models are not part of the repository")
	}
	tok, err := tokenizer.Load(filepath.Join(root, "tokenizers", "llama3_1"))
	if err != nil {
		tb.Fatal(err)
	}
	begun := time.Now()
	v := constrain.NewVocabulary(tok.VocabSize(), func(id int32) []byte {
		if tok.IsSpecial(id) {
			return nil
		}
		return tok.TokenBytes(id)
	})
	tb.Logf("the trie of %d tokens took %v", v.Size(), time.Since(begun))
	return v
}

// largeSchema has 10 KiB: objects of objects, as tools and forms have them.
func largeSchema() []byte {
	var b strings.Builder
	b.WriteString(`{"type":"object","additionalProperties":false,"$defs":{"money":{"type":"object","properties":{"amount":{"type":"number","minimum":0},"currency":{"enum":["EUR","USD","JPY"]}},"required":["amount","currency"]}},"properties":{`)
	i := 0
	for ; b.Len() < 10<<10-300; i++ {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `"field_%d":{"type":"object","description":"What the %d-th field of the form is for.","properties":{"name":{"type":"string","maxLength":64},"count":{"type":"integer","minimum":0,"maximum":%d},"when":{"type":["string","null"],"format":"date-time"},"price":{"$ref":"#/$defs/money"},"tags":{"type":"array","items":{"type":"string","pattern":"^[a-z_]{1,16}$"},"maxItems":5}},"required":["name","count"]}`, i, i, 100+i)
	}
	b.WriteString(`},"required":["field_0"]}`)
	return []byte(b.String())
}

// BenchmarkFirstMask compiles a schema of 10 KiB and finds the first mask of 128,256 tokens,
// and then the first within a text.
func BenchmarkFirstMask(b *testing.B) {
	v, schema := published(b), largeSchema()
	b.Run("first", func(b *testing.B) {
		report := reportCPU(b)
		for b.Loop() {
			firstMask(b, v, schema, "")
		}
		report()
	})
	b.Run("in a text", func(b *testing.B) {
		report := reportCPU(b)
		for b.Loop() {
			firstMask(b, v, schema, `{"field_0":{"name":"a`)
		}
		report()
	})
	// Of a grammar that is there: each letter of a text of bounded length is a new state.
	b.Run("another letter", func(b *testing.B) {
		g, err := constrain.NewCompiler(v, constrain.Options{}).Schema(b.Context(), []byte(`{"type":"string","maxLength":16384}`))
		if err != nil {
			b.Fatal(err)
		}
		m := g.NewMatcher(nil)
		advance(b, m, v, `"`)
		report := reportCPU(b)
		for b.Loop() {
			if _, err := m.Allowed(); err != nil {
				b.Fatal(err)
			}
			advance(b, m, v, "a")
		}
		report()
	})
}

// reportCPU reports the processor time of an iteration, which says more than wall time on a
// busy machine. Call it before the loop, and what it returns after.
func reportCPU(b *testing.B) func() {
	start := processorTime(b)
	return func() {
		b.ReportMetric(float64((processorTime(b)-start).Microseconds())/1e3/float64(b.N), "cpu-ms/op")
	}
}

func processorTime(b *testing.B) time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

func firstMask(b *testing.B, v *constrain.Vocabulary, schema []byte, behind string) {
	b.Helper()
	g, err := constrain.NewCompiler(v, constrain.Options{}).Schema(b.Context(), schema)
	if err != nil {
		b.Fatal(err)
	}
	m := g.NewMatcher(nil)
	advance(b, m, v, behind)
	if mask, err := m.Allowed(); err != nil || mask.Count == 0 {
		b.Fatal(err)
	}
}

// advance takes a text byte by byte.
func advance(b *testing.B, m *constrain.Matcher, v *constrain.Vocabulary, text string) {
	b.Helper()
	for _, c := range []byte(text) {
		if err := m.Accept(v.Byte(c)); err != nil {
			b.Fatal(err)
		}
	}
}
