package main

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/transformersquared/operator/runtime/contract"
)

// tiny has every kind of tensor and takes no time.
var tiny = shape{Name: "tiny", Hidden: 64, Inner: 96, Layers: 2, Heads: 2, KVHeads: 1, HeadDim: 32, Vocab: 600}

func TestARunMeasuresEveryRow(t *testing.T) {
	o := options{rounds: 2, threads: 2, dir: t.TempDir(), dtypes: []string{"f32"}}
	r := &report{Threads: o.threads, probe: &probe{buffer: make([]uint64, 1<<16), threads: 2}}
	if err := inference(t.Context(), o, tiny, r); err != nil {
		t.Fatal(err)
	}
	if err := training(t.Context(), o, tiny, r); err != nil {
		t.Fatal(err)
	}
	if err := passes(t.Context(), o, tiny, r); err != nil {
		t.Fatal(err)
	}
	for _, p := range r.Passes {
		if n := len(p.Shares); n != 2 && n != 2*shortPairs || len(p.Processor) != n || median(p.Shares) <= 0 {
			t.Errorf("%s beside %s: %v, %v", p.What, p.Beside, p.Shares, p.Processor)
		}
	}
	if len(r.Passes) != 2*len(questions)+1 {
		t.Errorf("%d shares of pass 1 and of turns", len(r.Passes))
	}
	if len(r.Rows) != 4 {
		t.Fatalf("%d rows", len(r.Rows))
	}
	for _, l := range r.Rows {
		if len(l.Ours) != 2 || median(l.Ours) <= 0 {
			t.Errorf("%s: %v", l.What, l.Ours)
		}
	}
	if shares := r.Rows[1].ofBandwidth(); len(shares) != 2*decodeTokens/probedTokens || median(shares) <= 0 {
		t.Errorf("decoding beside probes: %v", shares)
	}
	for _, ours := range r.Rows[0].Ours {
		r.Rows[0].beside("peer", ours/2)
	}
	if table := r.table(); !strings.Contains(table, "| 2.00 |") || strings.Count(table, "\n| tiny") != 4+2*len(questions)+1 {
		t.Errorf("table:\n%s", table)
	}
}

// TestChoosingIsMeasuredUnderLoad wants every figure of both ways, and more tokens computed
// with pass 1.
func TestChoosingIsMeasuredUnderLoad(t *testing.T) {
	o := options{rounds: 1, threads: 2, dir: t.TempDir(), dtypes: []string{"f32"}, maxBatch: clients}
	r := &report{Threads: o.threads}
	if err := choosing(t.Context(), o, tiny, r); err != nil {
		t.Fatal(err)
	}
	if len(r.Picked) != 2 {
		t.Fatalf("%d ways to choose", len(r.Picked))
	}
	for _, s := range r.Picked {
		for what, figures := range map[string][]float64{
			"requests": s.Requests, "processor": s.Processor, "p50": s.FirstP50, "p99": s.FirstP99, "work p50": s.WorkP50, "work p99": s.WorkP99,
			"steps p50": s.StepsP50, "steps p99": s.StepsP99, "tokens": s.Tokens, "batches": s.Batches,
		} {
			if len(figures) != 1 || figures[0] <= 0 {
				t.Errorf("%s, %s: %v", s.How, what, figures)
			}
		}
	}
	if pinned, choosing := r.Picked[0].Tokens[0], r.Picked[1].Tokens[0]; choosing < pinned+contract.DefaultRequestTokens/2 {
		t.Errorf("%v tokens a request with pass 1, %v without", choosing, pinned)
	}
	if table := r.table(); strings.Count(table, "\n| tiny") != 2 || !strings.Contains(table, "| ratio |") {
		t.Errorf("table:\n%s", table)
	} else {
		t.Log(table)
	}
}

// TestDecodingIsComparedWithProbesBesideIt: not with those of other rounds.
func TestDecodingIsComparedWithProbesBesideIt(t *testing.T) {
	l := &row{BytesPerToken: 10, Parts: [][]float64{{6, 12}, {1}}, Probes: [][]float64{{100, 140, 100}, {10, 30}}}
	if got, want := l.ofBandwidth(), []float64{0.5, 1, 0.5}; !slices.Equal(got, want) {
		t.Errorf("of bandwidth %v, want %v", got, want)
	}
}

func TestMedian(t *testing.T) {
	for _, c := range []struct {
		in   []float64
		want float64
	}{{[]float64{3}, 3}, {[]float64{3, 1}, 2}, {[]float64{9, 1, 2}, 2}, {[]float64{4, 1, 3, 2}, 2.5}} {
		if got := median(c.in); got != c.want {
			t.Errorf("median of %v is %v, want %v", c.in, got, c.want)
		}
	}
}

// TestGGUFFilesAreWhole walks a file as its readers do.
func TestGGUFFilesAreWhole(t *testing.T) {
	for dtype, projection := range map[string]uint64{"f32": 4 * 64 * 64, "bf16": 2 * 64 * 64, "int8": 34 * 2 * 64} {
		path := filepath.Join(t.TempDir(), dtype)
		if err := tiny.writeGGUF(path, dtype); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		r := bytes.NewReader(b)
		number := func(into any) {
			t.Helper()
			if err := binary.Read(r, binary.LittleEndian, into); err != nil {
				t.Fatal(err)
			}
		}
		text := func() string {
			t.Helper()
			var n uint64
			number(&n)
			s := make([]byte, n)
			number(s)
			return string(s)
		}
		var magic [4]byte
		var version uint32
		var tensors, pairs uint64
		number(&magic)
		number(&version)
		number(&tensors)
		number(&pairs)
		if string(magic[:]) != "GGUF" || version != 3 || tensors != uint64(len(tiny.matrices())) {
			t.Fatalf("%s: header %s %d %d", dtype, magic, version, tensors)
		}
		value := func(kind uint32) (v uint32) {
			switch kind {
			case ggufString:
				text()
			case ggufBool:
				var b bool
				number(&b)
			default:
				number(&v)
			}
			return v
		}
		for range pairs {
			key := text()
			var kind uint32
			number(&kind)
			if kind == ggufArray {
				var n uint64
				number(&kind)
				number(&n)
				if n != 0 && n != uint64(tiny.Vocab) {
					t.Errorf("%s: %s has %d values", dtype, key, n)
				}
				for range n {
					value(kind)
				}
				continue
			}
			if v := value(kind); key == "llama.block_count" && v != 2 {
				t.Errorf("%s: %d blocks", dtype, v)
			}
		}
		sizes, last := map[string]uint64{}, ""
		var before uint64
		for range tensors {
			name := text()
			var dims uint32
			number(&dims)
			number(make([]uint64, dims))
			var kind uint32
			var offset uint64
			number(&kind)
			number(&offset)
			if offset%ggufAlignment != 0 {
				t.Errorf("%s: %s is at %d", dtype, name, offset)
			}
			sizes[last], last, before = offset-before, name, offset
		}
		if got := sizes["blk.0.attn_q.weight"]; got != projection {
			t.Errorf("%s: blk.0.attn_q.weight has %d bytes, want %d", dtype, got, projection)
		}
		data := (len(b) - r.Len() + ggufAlignment - 1) / ggufAlignment * ggufAlignment
		_, size := tiny.matrices()[len(tiny.matrices())-1].ggml(dtype)
		if want := data + int(before+size+ggufAlignment-1)/ggufAlignment*ggufAlignment; len(b) != want {
			t.Errorf("%s: %d bytes, want %d", dtype, len(b), want)
		}
	}
}
