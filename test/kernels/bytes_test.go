//go:build cuda

package kernels

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/transformersquared/operator/kernels"
)

var update = flag.Bool("update", false, "write the table of bytes into kernels/README.md")

const (
	bytesBegin = "<!-- bytes: written by make kernels-bytes -->\n"
	bytesEnd   = "<!-- bytes: end -->\n"
	// mostBytes is how much more a kernel may move than its cost model says.
	mostBytes = 1.1
	sector    = 32
	warp      = 32
)

// traffic is a launch whose bytes are counted.
type traffic struct {
	entry string
	what  string
	grid  [3]int
	args  []any
	model int // Bytes.
}

// TestBytes holds that no kernel moves more than its cost model says: global memory's
// sectors by the count of the driver in software, in which each warp's access counts
// every sector once, as if there were no cache.
func TestBytes(t *testing.T) {
	var table strings.Builder
	table.WriteString("| kernel | shape | model, KiB | moved / model | bank conflicts / access |\n|---|---|---|---|---|\n")
	for _, c := range trafficOf(t) {
		before, _ := counted(t, c.entry)
		launch(t, c.entry, c.grid, c.args...)
		after, ok := counted(t, c.entry)
		if !ok {
			t.Skip("this driver counts no bytes: the one in software does, in make test-cuda")
		}
		moved := sector * int(after.Loads+after.Stores-before.Loads-before.Stores)
		ratio := float64(moved) / float64(c.model)
		conflicts := float64(after.Conflicts-before.Conflicts) / float64(max(1, after.Shared-before.Shared))
		fmt.Fprintf(&table, "| `%s` | %s | %d | %.2f | %.2f |\n", c.entry, c.what, c.model>>10, ratio, conflicts)
		if ratio > mostBytes {
			t.Errorf("%s, %s: moves %d bytes, %.2f times the %d of its cost model", c.entry, c.what, moved, ratio, c.model)
		}
	}
	if (gpu.capability != kernels.Capability{Major: 9}) {
		return // The table has what only Hopper runs, too.
	}
	readme := filepath.Join("..", "..", "kernels", "README.md")
	old, err := os.ReadFile(readme)
	if err != nil {
		t.Fatal(err)
	}
	head, rest, found := bytes.Cut(old, []byte(bytesBegin))
	_, tail, ended := bytes.Cut(rest, []byte(bytesEnd))
	if !found || !ended {
		t.Fatalf("%s has no lines %q and %q", readme, bytesBegin, bytesEnd)
	}
	text := bytes.Join([][]byte{head, []byte(bytesBegin + table.String() + bytesEnd), tail}, nil)
	switch {
	case bytes.Equal(text, old):
	case *update:
		if err := os.WriteFile(readme, text, 0o644); err != nil {
			t.Fatal(err)
		}
	default:
		t.Errorf("the table of bytes in %s is not current: run make kernels-bytes and commit it", readme)
	}
}

// zeros is written memory.
func zeros(t *testing.T, n int) address { t.Helper(); return upload(t, make([]byte, n)) }

func trafficOf(t *testing.T) []traffic {
	var all []traffic
	add := func(entry, what string, grid [3]int, model int, args ...any) {
		all = append(all, traffic{entry, what, grid, args, model})
	}
	s := storages[1] // What a GPU is for.
	products(t, s, add)
	const n, c, few = 64, 2048, 16
	size := n * c * 2
	a, b, y, z, dy := zeros(t, size), zeros(t, size), zeros(t, size), zeros(t, size), zeros(t, size)
	floats, row, ids := zeros(t, n*c*4), zeros(t, c*4), zeros(t, n*4)
	what := fmt.Sprintf("%d × %d", n, c)
	rows := func(name string, model int, args ...any) { add(s.of(name), what, blocks(few), model, args...) }
	rows("rmsnorm", 2*size+few*c*4, y, a, row, n, c, 1e-5)
	rows("rmsnormback", 4*size+n*c*4, y, a, b, row, n, c, 1e-5)
	rows("logsoftmax", 2*size+n*c*4, floats, a, n, c)
	rows("swiglu", 3*size, y, a, b, n*c)
	rows("swigluback", 5*size, y, z, dy, a, b, n*c)
	rows("select", 2*size, y, a, ids, n, c)
	rows("scatter", 2*size, y, a, ids, n, c)
	rows("add", 3*size, y, a, n*c)
	rows("addrows", 2*size+n*c*4, y, row, address(0), n, c)
	rows("scalecols", 2*size+n*c*4, y, a, row, address(0), n, c)
	rows("fill", size, y, 1.0, n*c)
	add(s.of("columndots"), what, blocks(c/32), 2*size+c*4, row, a, b, n, c)
	add("convert_f32_bf16", what, blocks(few), size+n*c*4, y, floats, n*c)
	add("convert_bf16_f32", what, blocks(few), size+n*c*4, floats, a, n*c)
	for _, kind := range []string{"f32", "bf16", "i8"} {
		w, scales := zeros(t, n*c*bytesOf(kind)), zeros(t, n*c/int8Block*2)
		model := n * c * bytesOf(kind)
		if kind == "i8" {
			model += n * c / int8Block * 2
		}
		add("pack_f32_"+kind, what, blocks(few), model+n*c*4, w, scales, floats, n, c, c)
		add(s.of("gather_w"+kind), what, blocks(few), model+size+n*c/(4*warp)*sector, y, w, // The id once a warp.
			scales, ids, n, c, c)
	}
	q, steps := zeros(t, n*c), zeros(t, n*c/int8Block*4)
	rows("quantise", size+n*c+n*c/int8Block*4, q, steps, a, address(0), address(0), n, c, c, c)
	add("transpose_bf16_bf16", what, [3]int{n / 32, c / 32, 1}, 2*size, y, a, address(0), n, c, c, n)
	for _, f := range []string{"f32", "bf16"} {
		const m, r, k = 256, 2048, 256
		tile := map[string]int{"f32": 64, "bf16": 128}[f]
		u, vt, w := zeros(t, m*r*bytesOf(f)), zeros(t, r*k*bytesOf(f)), zeros(t, m*k*2)
		add(s.of("compose_"+f), fmt.Sprintf("%d × %d × %d", m, r, k), [3]int{k / tile, m / tile, 1},
			m*r*bytesOf(f)*k/tile+r*k*bytesOf(f)*m/tile+m*k*2, w, u, vt, zeros(t, r*4), m, r, k, k, r, k)
	}
	attentions(t, s, add)
	decompositions(t, add)
	groups(t, s, add)
	return all
}

func products(t *testing.T, s storage, add func(entry, what string, grid [3]int, model int, args ...any)) {
	t.Helper()
	for _, c := range []struct {
		kind, variant string
		n, m, k       int
		outputs, rows int // Of a block.
	}{
		{"f32", "skinny", 1, 1024, 2048, 32, 16},
		{"f32", "tiled", 64, 512, 512, 64, 64},
		{"bf16", "skinny", 1, 1024, 2048, 16, 16},
		{"bf16", "skinny", 8, 1024, 2048, 16, 16},
		{"bf16", "medium", 32, 1024, 2048, 64, 64},
		{"bf16", "tiled", 128, 1024, 1024, 64, 64},
		{"bf16", "large", 256, 1024, 1024, 128, 128},
		{"i8", "skinny", 1, 1024, 2048, 16, 16},
		{"i8", "skinny", 8, 1024, 2048, 16, 16},
		{"i8", "tiled", 128, 1024, 1024, 64, 64},
	} {
		w, x := c.m*c.k*bytesOf(c.kind), c.n*c.k*s.bytes()
		if c.kind == "i8" {
			w += c.m * c.k / int8Block * 2
			x = c.n*c.k + c.n*c.k/int8Block*4
		}
		grid := [3]int{parts(c.n, c.rows), parts(c.m, c.outputs), 1}
		if c.variant == "skinny" {
			grid = blocks(parts(c.m, c.outputs))
		}
		scales := address(0)
		if c.kind == "i8" {
			scales = zeros(t, c.n*c.k/int8Block*4)
		}
		add(fmt.Sprintf("product_%s_%s_%s", c.kind, s, c.variant), fmt.Sprintf("%d rows, %d × %d", c.n, c.m, c.k), grid,
			w*parts(c.n, c.rows)+x*parts(c.m, c.outputs)+c.n*c.m*s.bytes(),
			zeros(t, c.n*c.m*s.bytes()), zeros(t, c.n*c.k*s.bytes()), zeros(t, c.m*c.k*bytesOf(c.kind)), zeros(t, c.m*c.k/int8Block*2),
			scales, address(0), c.n, c.m, c.k, c.k, c.k, c.m, 0)
	}
}

func attentions(t *testing.T, s storage, add func(entry, what string, grid [3]int, model int, args ...any)) {
	t.Helper()
	h := shape{16, 4, 128}
	const n, keys, scale = 32, 1024, 0.1
	width, kvWidth := h.heads*h.d*s.bytes(), h.kv*h.d*s.bytes()
	table, ids := zeros(t, n*h.d*4), zeros(t, n*4)
	q, k, v, out := zeros(t, n*width), zeros(t, keys*kvWidth), zeros(t, keys*kvWidth), zeros(t, n*width)
	add(s.of("rope"), fmt.Sprintf("%d rows, %d heads of %d", n, h.heads, h.d), blocks(8), n*(2*width+h.heads*h.d*4),
		out, ids, table, n, h.heads, h.d, h.heads*h.d, 0)
	add(s.of("ropestore"), fmt.Sprintf("%d rows, %d on %d heads of %d", n, h.heads, h.kv, h.d), blocks(8),
		n*(2*width+4*kvWidth+(h.heads+2*h.kv)*h.d*4), out, k, v, zeros(t, keys*kvWidth), zeros(t, keys*kvWidth), ids, ids, table, n, h.heads, h.kv, h.d)

	// In blocks that lie behind each other.
	const size = 16
	list := make([]int32, keys/size)
	for i := range list {
		list[i] = int32(i)
	}
	spans := make([]int32, n)
	for i := range spans {
		spans[i] = keys - n + int32(i) + 1
	}
	chunks := keys / 256
	sums := h.heads * chunks * (h.d + 2) * 4
	blocksOf, one, many := upload(t, list), upload(t, []int32{0}), upload(t, []int32{keys})
	work, states := zeros(t, sums), zeros(t, h.heads*chunks*8)
	first, count := zeros(t, n*4), upload(t, spans)
	all := make([]int32, 2*keys) // Rows that may attend to a key.
	for i := range keys {
		all[2*i+1] = n
	}
	dq, dk, dv, delta, bounds := zeros(t, n*width), zeros(t, keys*kvWidth), zeros(t, keys*kvWidth), zeros(t, n*h.heads*4), upload(t, all)
	for _, variant := range variantsOf(s, h) {
		// One row with many keys.
		what := fmt.Sprintf("1 row, %d keys, %d on %d heads of %d", keys, h.heads, h.kv, h.d)
		add(s.of("pagedattention")+"_split"+variant, what, [3]int{1, h.kv, chunks}, 2*keys*kvWidth+width*chunks+sums,
			work, states, q, k, v, blocksOf, one, many, 1, size, h.heads, h.kv, h.d, scale)

		// A prompt: rows of a block share their keys.
		a := attention{storage: s, shape: h, variant: variant}
		grid := h.grid(n, h.pairs(variant))
		model := grid[0]*2*keys*kvWidth + 2*n*width
		what = fmt.Sprintf("%d rows, %d keys, %d on %d heads of %d", n, keys, h.heads, h.kv, h.d)
		add(a.entry("attention"), what, grid, model, out, address(0), q, k, v, first, count, n, h.heads, h.kv, h.d, scale)
		add(a.entry("pagedattention"), what, grid, model, out, q, k, v, blocksOf, first, count, n, size, h.heads, h.kv, h.d, scale)

		// Its gradient. Rows attend to all keys but for the last few.
		ofQueries, ofKeys := [3]int{n, parts(h.heads, 4), 1}, [3]int{parts(keys, 16), h.kv, 1}
		queriesModel, keysModel := 4*n*width+n*h.heads*2*keys*h.d*s.bytes(), keys/4*2*n*width+4*keys*kvWidth
		if variant != h.ending("") {
			ofQueries, ofKeys = grid, [3]int{parts(keys, 64), h.kv, 1}
			queriesModel, keysModel = 5*n*width+grid[0]*2*keys*kvWidth, keys/64*2*n*width+4*keys*kvWidth
		}
		add(s.of("attentionback")+"_queries"+variant, what, ofQueries, queriesModel, dq, delta, q, out, delta, q, k, v, first, count, n, h.heads, h.kv, h.d, scale)
		add(s.of("attentionback")+"_keys"+variant, what, ofKeys, keysModel, dk, dv, q, delta, delta, q, k, v, first, count, bounds, keys, h.heads, h.kv, h.d, scale)
	}
	add(s.of("attention")+"_combine", fmt.Sprintf("1 row, %d keys, %d heads of %d", keys, h.heads, h.d), [3]int{1, h.heads, 1},
		sums+width+h.heads*chunks*3*sector, out, work, states, many, 1, h.heads, h.d, chunks) // Each of four warps reads the states.
}
