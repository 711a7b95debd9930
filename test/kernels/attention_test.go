//go:build cuda

package kernels

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/transformersquared/operator/kernels"
)

// shape is that of attention.
type shape struct{ heads, kv, d int }

func (h shape) group() int { return h.heads / h.kv }

// ending is that of the kernels for wide heads.
func (h shape) ending(separator string) string {
	if h.d > 128 {
		return separator + "wide"
	}
	return ""
}

// tensor is the ending of the kernels for the tensor cores; empty if none has such heads.
func (s storage) tensor(h shape) string {
	switch {
	case s != storage(kernels.BF16) || h.d%8 != 0 || h.d > 128:
		return ""
	case h.d > 64:
		return "tensor128"
	default:
		return "tensor64"
	}
}

// pairs is how many pairs of a row and a head a block has.
func (h shape) pairs(ending string) int {
	switch {
	case strings.HasPrefix(ending, "tensor"):
		return 64
	case h.d > 128:
		return 8
	default:
		return 32
	}
}

func (h shape) grid(n, pairs int) [3]int {
	heads := min(h.group(), pairs)
	return [3]int{parts(n, pairs/heads), h.kv, parts(h.group(), heads)}
}

// span is what a row attends to.
type span struct{ first, count int32 }

// packed lists the spans of causal sequences of these lengths.
func packed(lengths ...int) []span {
	var out []span
	for _, n := range lengths {
		first := int32(len(out))
		for i := range n {
			out = append(out, span{first, int32(i + 1)})
		}
	}
	return out
}

func firsts(keys []span) []int32 {
	out := make([]int32, len(keys))
	for i, k := range keys {
		out[i] = k.first
	}
	return out
}

func counts(keys []span) []int32 {
	out := make([]int32, len(keys))
	for i, k := range keys {
		out[i] = k.count
	}
	return out
}

// attention is one case.
type attention struct {
	storage
	shape
	variant string // The end of the kernels' names.
	keys    []span
	q, k, v []float32
	scale   float64
}

func newAttention(s storage, h shape, keys []span, rows int, magnitude float32) *attention {
	a := &attention{storage: s, shape: h, variant: h.ending(""), keys: keys, scale: float64(float32(1 / math.Sqrt(float64(h.d))))}
	a.q = random(len(keys)*h.heads*h.d, 1)
	for i := range a.q {
		a.q[i] *= magnitude
	}
	a.q, a.k, a.v = s.round(a.q), s.round(random(rows*h.kv*h.d, 2)), s.round(random(rows*h.kv*h.d, 3))
	return a
}

func (a *attention) query(row, head int) []float32 { return a.q[(row*a.heads+head)*a.d:][:a.d] }

// key returns where a row's key is in k and v.
func (a *attention) key(row, key, head int) int {
	return ((int(a.keys[row].first)+key)*a.kv + head/a.group()) * a.d
}

func dot(x, y []float32) float64 {
	var sum float64
	for i, v := range x {
		sum += float64(v) * float64(y[i])
	}
	return sum
}

// reference computes the output and the logarithms of the denominators.
func (a *attention) reference() (out, lse []float64) {
	out, lse = make([]float64, len(a.q)), make([]float64, len(a.keys)*a.heads)
	for row, keys := range a.keys {
		for head := range a.heads {
			at := row*a.heads + head
			var sum float64
			acc := out[at*a.d:][:a.d]
			for key := range int(keys.count) {
				from := a.key(row, key, head)
				p := math.Exp(dot(a.query(row, head), a.k[from:from+a.d]) * a.scale)
				sum += p
				for i := range acc {
					acc[i] += p * float64(a.v[from+i])
				}
			}
			if keys.count > 0 {
				lse[at] = math.Log(sum)
				for i := range acc {
					acc[i] /= sum
				}
			}
		}
	}
	return out, lse
}

func (a *attention) entry(name string) string {
	if a.variant == "" {
		return a.of(name)
	}
	return a.of(name) + "_" + a.variant
}

// run computes rows of the case with keys that lie behind each other.
func (a *attention) run(t *testing.T, from, to int, lse address) []float32 {
	t.Helper()
	width := a.heads * a.d
	out := alloc(t, (to-from)*width*a.bytes())
	launch(t, a.entry("attention"), a.grid(to-from, a.pairs(a.variant)), out, lse, a.upload(t, a.q[from*width:to*width]), a.upload(t, a.k), a.upload(t, a.v),
		upload(t, firsts(a.keys[from:to])), upload(t, counts(a.keys[from:to])), to-from, a.heads, a.kv, a.d, a.scale)
	return a.download(t, out, (to-from)*width)
}

// paged lays the keys of all spans with the same first key into blocks in no order,
// with what is no number around them.
type paged struct {
	size          int
	k, v          []float32
	blocks, first []int32
}

func (a *attention) paged(size int) *paged {
	longest, total := map[int32]int32{}, 0
	for _, s := range a.keys {
		longest[s.first] = max(longest[s.first], s.count)
	}
	var order []int32
	for _, n := range longest {
		total += parts(int(n), size)
	}
	const spare = 3
	for _, i := range rand.New(rand.NewPCG(1, uint64(total))).Perm(total + spare) {
		order = append(order, int32(i))
	}
	width := a.kv * a.d
	p := &paged{size: size, k: make([]float32, len(order)*size*width)}
	for i := range p.k {
		p.k[i] = float32(math.NaN())
	}
	p.v = slices.Clone(p.k)
	tables := map[int32]int32{}
	for _, s := range a.keys {
		if _, done := tables[s.first]; !done {
			tables[s.first] = int32(len(p.blocks))
			for key := range int(longest[s.first]) {
				if key%size == 0 {
					p.blocks, order = append(p.blocks, order[0]), order[1:]
				}
				from, to := (int(s.first)+key)*width, (int(p.blocks[len(p.blocks)-1])*size+key%size)*width
				copy(p.k[to:to+width], a.k[from:from+width])
				copy(p.v[to:to+width], a.v[from:from+width])
			}
			p.blocks = append(p.blocks, -1)
		}
		p.first = append(p.first, tables[s.first])
	}
	return p
}

// runPaged computes all rows, in one step or, with chunks, in two; one chunk is one step.
func (a *attention) runPaged(t *testing.T, p *paged, chunks int) []float32 {
	t.Helper()
	n, width := len(a.keys), a.heads*a.d
	out := alloc(t, n*width*a.bytes())
	rest := []any{
		a.upload(t, a.q), a.upload(t, p.k), a.upload(t, p.v), upload(t, p.blocks), upload(t, p.first), upload(t, counts(a.keys)),
		n, p.size, a.heads, a.kv, a.d, a.scale,
	}
	split := a.of("pagedattention") + "_split" + a.variant
	switch chunks {
	case 0:
		launch(t, a.entry("pagedattention"), a.grid(n, a.pairs(a.variant)), slices.Concat([]any{out}, rest)...)
	case 1:
		launch(t, split, [3]int{n, a.kv, 1}, slices.Concat([]any{out, address(0)}, rest)...)
	default:
		sums, states := alloc(t, n*width*chunks*4), alloc(t, n*a.heads*chunks*8)
		launch(t, split, [3]int{n, a.kv, chunks}, slices.Concat([]any{sums, states}, rest)...)
		launch(t, a.of("attention")+"_combine", [3]int{n, a.heads, 1}, out, sums, states, rest[5], n, a.heads, a.d, chunks)
	}
	return a.download(t, out, n*width)
}

// TestAttention compares with float64, and to the bit rows alone, keys in blocks, and
// keys divided among blocks of threads.
func TestAttention(t *testing.T) {
	for _, c := range []struct {
		name      string
		shape     shape
		keys      []span
		rows      int
		magnitude float32
	}{
		{"one token", shape{1, 1, 2}, packed(1), 1, 1},
		{"packed sequences", shape{4, 2, 6}, packed(5, 1, 9, 70), 85, 1},
		{"a ragged cache, and a row without keys", shape{6, 2, 16}, []span{{40, 33}, {0, 7}, {0, 8}, {0, 0}}, 80, 1},
		{"around the end of a chunk", shape{2, 1, 128}, []span{{3, 517}, {0, 1}, {3, 255}, {3, 256}, {3, 257}}, 520, 1},
		{"seven heads on one", shape{7, 1, 48}, packed(90, 7), 97, 1},
		{"four heads on one, around the end of a tile", shape{8, 2, 64}, packed(150, 66), 216, 1},
		{"wide heads on one, over two chunks", shape{4, 1, 128}, packed(300)[240:], 300, 1},
		{"more heads on one than a block has", shape{40, 2, 112}, []span{{5, 300}, {5, 301}}, 320, 1},
		{"more heads on one than a block of the tensor cores has", shape{70, 1, 16}, packed(3, 66)[1:], 69, 1},
		{"wide heads", shape{2, 2, 138}, packed(40), 40, 1},
		{"the widest heads", shape{8, 2, 256}, []span{{0, 290}, {0, 291}}, 300, 1},
		{"odd heads", shape{3, 3, 5}, packed(9, 33), 50, 1},
		{"saturated", shape{2, 1, 32}, packed(20), 20, 12},
		{"a long row", shape{8, 2, 64}, []span{{0, 1000}}, 1000, 1},
	} {
		for _, s := range storages {
			for _, variant := range variantsOf(s, c.shape) {
				t.Run(fmt.Sprintf("%s in %s %s", c.name, s, variant), func(t *testing.T) {
					a := newAttention(s, c.shape, c.keys, c.rows, c.magnitude)
					a.variant = variant
					a.check(t)
				})
			}
		}
	}
}

// variantsOf are the endings of the kernels for such heads.
func variantsOf(s storage, h shape) []string {
	all := []string{h.ending("")}
	if tensor := s.tensor(h); tensor != "" {
		all = append(all, tensor)
	}
	return all
}

func (a *attention) check(t *testing.T) {
	t.Helper()
	n, width := len(a.keys), a.heads*a.d
	out, logs := a.reference()
	lse := alloc(t, n*a.heads*4)
	got := a.run(t, 0, n, lse)
	near(t, "output", got, out, a.bound(boundExp))
	near(t, "log of the denominator", download[float32](t, lse, n*a.heads), logs, boundExp)
	for row := 0; row < n; row += 1 + n/9 {
		if !sameBits(a.run(t, row, row+1, 0), got[row*width:][:width]) {
			t.Errorf("row %d alone has other bits", row)
		}
	}
	longest := parts(int(slices.Max(counts(a.keys))), 256)
	for _, size := range []int{16, 48} {
		p := a.paged(size)
		for _, chunks := range []int{0, longest, longest + 1} {
			if !sameBits(a.runPaged(t, p, chunks), got) {
				t.Errorf("keys in blocks of %d, in %d chunks, give other bits", size, chunks)
			}
		}
	}
}

// TestAttentionIgnoresLaterKeys wants of rows before one that is no number, or infinite,
// what they give without it, whichever rows are computed together.
func TestAttentionIgnoresLaterKeys(t *testing.T) {
	const length, bad = 90, 70
	for _, h := range []shape{{4, 2, 64}, {2, 2, 128}, {2, 1, 6}} {
		for _, s := range storages {
			for _, variant := range variantsOf(s, h) {
				t.Run(fmt.Sprint(h, " in ", s, " ", variant), func(t *testing.T) {
					a := newAttention(s, h, packed(length), length, 1)
					a.variant = variant
					width, kvWidth := h.heads*h.d, h.kv*h.d
					want := a.run(t, 0, length, 0)
					a.v[bad*kvWidth], a.v[bad*kvWidth+1] = float32(math.Inf(1)), float32(math.NaN())
					a.k[(bad+1)*kvWidth] = float32(math.NaN())
					got := a.run(t, 0, length, 0)
					if !sameBits(got[:bad*width], want[:bad*width]) {
						t.Error("rows before it are others")
					}
					if first := got[bad*width:]; !math.IsInf(float64(first[0]), 1) || !math.IsNaN(float64(first[1])) {
						t.Errorf("the row that attends to it begins with %v", first[:2])
					}
					p := a.paged(16)
					for _, chunks := range []int{0, 1, 2} {
						if !sameBits(a.runPaged(t, p, chunks), got) {
							t.Errorf("in %d chunks it has other bits", chunks)
						}
					}
				})
			}
		}
	}
}

func TestAttentionBackward(t *testing.T) {
	for _, c := range []struct {
		shape shape
		keys  []span
		spare int // Rows of k and v that nobody attends to.
	}{
		{shape{4, 2, 3}, packed(3, 1, 6), 2},
		{shape{4, 2, 16}, packed(3, 1, 6), 2},
		{shape{4, 2, 128}, packed(3, 1, 6), 2},
		{shape{4, 2, 5}, packed(35, 20), 2},
		{shape{6, 2, 138}, packed(35, 20), 0},
		{shape{2, 1, 256}, packed(37), 1},
		{shape{4, 2, 8}, packed(40)[30:], 1},
		{shape{4, 2, 64}, packed(70, 9, 50), 1},
		{shape{3, 1, 128}, packed(66), 3},
		{shape{70, 1, 16}, packed(5), 0},
	} {
		for _, s := range storages {
			for _, variant := range variantsOf(s, c.shape) {
				t.Run(fmt.Sprint(c.shape, " in ", s, " ", variant), func(t *testing.T) {
					last := c.keys[len(c.keys)-1]
					a := newAttention(s, c.shape, c.keys, int(last.first+last.count)+c.spare, 1)
					a.variant = variant
					g := a.gradient()
					dq, dk, dv := a.runBackward(t, g, g.bounds)
					bound := s.bound(boundExp)
					if strings.HasPrefix(variant, "tensor") {
						bound *= 2 // Probabilities and their gradients are rounded, too.
					}
					near(t, "dq", dq, g.dq, bound)
					near(t, "dk", dk, g.dk, bound)
					near(t, "dv", dv, g.dv, bound)
					// Wider bounds change nothing where they end with the same sequence.
					if q, k, v := a.runBackward(t, g, g.wider); !sameBits(q, dq) || variant == a.ending("") && (!sameBits(k, dk) || !sameBits(v, dv)) {
						t.Error("bounds that are wider than needed give other bits")
					}
				})
			}
		}
	}
}

// TestAttentionBackwardDependsOnTheSequenceAlone wants the same bits of a sequence by
// itself and behind another.
func TestAttentionBackwardDependsOnTheSequenceAlone(t *testing.T) {
	const before, length = 13, 70
	h := shape{6, 2, 64}
	for _, s := range storages {
		for _, variant := range variantsOf(s, h) {
			t.Run(fmt.Sprint(s, " ", variant), func(t *testing.T) {
				both := newAttention(s, h, packed(before, length), before+length, 1)
				both.variant = variant
				g := both.gradient()
				dq, dk, dv := both.runBackward(t, g, g.wider)
				width, kvWidth := h.heads*h.d, h.kv*h.d
				one := *both
				one.keys, one.q, one.k, one.v = packed(length), both.q[before*width:], both.k[before*kvWidth:], both.v[before*kvWidth:]
				own := one.gradient()
				own.out, own.dout, own.lse = g.out[before*width:], g.dout[before*width:], g.lse[before*h.heads:]
				q, k, v := one.runBackward(t, own, own.wider)
				if !sameBits(q, dq[before*width:]) || !sameBits(k, dk[before*kvWidth:]) || !sameBits(v, dv[before*kvWidth:]) {
					t.Error("behind another sequence its gradients have other bits")
				}
			})
		}
	}
}

// gradient is what a backward pass is given, and what it is to give.
type gradient struct {
	dout, out     []float32
	lse           []float64
	bounds, wider []int32 // The rows that attend to each key, and those of its sequence.
	dq, dk, dv    []float64
}

func (a *attention) gradient() *gradient {
	n, width := len(a.keys), a.heads*a.d
	rows := len(a.k) / (a.kv * a.d)
	out, lse := a.reference()
	g := &gradient{
		out: a.round(narrow(out)), dout: a.round(random(n*width, 4)), lse: lse, bounds: make([]int32, 2*rows), wider: make([]int32, 2*rows),
		dq: make([]float64, n*width), dk: make([]float64, len(a.k)), dv: make([]float64, len(a.k)),
	}
	begins, ends := map[int32]int32{}, map[int32]int32{} // Of the rows with the same first key.
	for row, keys := range a.keys {
		if _, known := begins[keys.first]; !known {
			begins[keys.first] = int32(row)
		}
		ends[keys.first] = int32(row + 1)
	}
	for row, keys := range a.keys {
		for key := keys.first; key < keys.first+keys.count; key++ {
			if g.bounds[2*key+1] == 0 {
				g.bounds[2*key] = int32(row)
			}
			g.bounds[2*key+1] = int32(row + 1)
			g.wider[2*key], g.wider[2*key+1] = begins[keys.first], ends[keys.first]
		}
		for head := range a.heads {
			at := row*a.heads + head
			d, o := g.dout[at*a.d:][:a.d], g.out[at*a.d:][:a.d]
			for key := range int(keys.count) {
				from := a.key(row, key, head)
				p := math.Exp(dot(a.query(row, head), a.k[from:from+a.d])*a.scale - lse[at])
				ds := p * (dot(d, a.v[from:from+a.d]) - dot(d, o)) * a.scale
				for i := range a.d {
					g.dq[at*a.d+i] += ds * float64(a.k[from+i])
					g.dk[from+i] += ds * float64(a.q[at*a.d+i])
					g.dv[from+i] += p * float64(d[i])
				}
			}
		}
	}
	return g
}

func (a *attention) runBackward(t *testing.T, g *gradient, bounds []int32) (dq, dk, dv []float32) {
	t.Helper()
	n, rows := len(a.keys), len(bounds)/2
	douts, logs, delta := a.upload(t, g.dout), upload(t, narrow(g.lse)), alloc(t, n*a.heads*4)
	q, k, v := a.upload(t, a.q), a.upload(t, a.k), a.upload(t, a.v)
	first, count := upload(t, firsts(a.keys)), upload(t, counts(a.keys))
	dqs, dks, dvs := alloc(t, len(a.q)*a.bytes()), alloc(t, len(a.k)*a.bytes()), alloc(t, len(a.k)*a.bytes())
	ofQueries, ofKeys := [3]int{n, parts(a.heads, 4), 1}, [3]int{parts(rows, 16), a.kv, 1}
	if strings.HasPrefix(a.variant, "tensor") {
		ofQueries, ofKeys = a.grid(n, a.pairs(a.variant)), [3]int{parts(rows, 64), a.kv, 1}
	}
	launch(t, a.of("attentionback")+"_queries"+a.variant, ofQueries, dqs, delta, douts, a.upload(t, g.out), logs, q, k, v, first, count, n, a.heads, a.kv, a.d, a.scale)
	launch(t, a.of("attentionback")+"_keys"+a.variant, ofKeys, dks, dvs, douts, logs, delta, q, k, v, first, count, upload(t, bounds), rows, a.heads, a.kv, a.d, a.scale)
	return a.download(t, dqs, len(a.q)), a.download(t, dks, len(a.k)), a.download(t, dvs, len(a.k))
}

func narrow(x []float64) []float32 {
	out := make([]float32, len(x))
	for i, v := range x {
		out[i] = float32(v)
	}
	return out
}

func TestRotations(t *testing.T) {
	const n, positions = 7, 20
	for _, h := range []shape{{4, 2, 10}, {8, 2, 64}} {
		for _, s := range storages {
			t.Run(fmt.Sprint(h, " in ", s), func(t *testing.T) {
				table := make([]float32, positions*h.d)
				for i := range table {
					angle := float64(i/h.d) / float64(1+i%(h.d/2))
					table[i] = float32(math.Cos(angle))
					if i%h.d >= h.d/2 {
						table[i] = float32(math.Sin(angle))
					}
				}
				at := indices(n, positions, 1)
				rotated := func(x []float32, heads int) []float64 {
					out := widen(x)
					for i := range out {
						head, column := i/h.d*h.d, i%h.d
						if column >= h.d/2 {
							continue
						}
						angles := table[int(at[i/(heads*h.d)])*h.d:]
						cos, sin := float64(angles[column]), float64(angles[column+h.d/2])
						a, b := float64(x[head+column]), float64(x[head+column+h.d/2])
						out[head+column], out[head+column+h.d/2] = a*cos-b*sin, b*cos+a*sin
					}
					return out
				}
				q, k, v := s.round(random(n*h.heads*h.d, 2)), s.round(random(n*h.kv*h.d, 3)), s.round(random(n*h.kv*h.d, 4))
				slots := []int32{8, -1, 6, 5, 4, 3, 2}
				const rows = 9
				width := h.kv * h.d
				old := s.round(random(rows*width, 5))
				qs, cacheK, cacheV, tables, places := s.upload(t, q), s.upload(t, old), s.upload(t, old), upload(t, table), upload(t, at)
				launch(t, s.of("ropestore"), blocks(2), qs, s.upload(t, k), s.upload(t, v), cacheK, cacheV, places, upload(t, slots), tables, n, h.heads, h.kv, h.d)
				wantK, wantV, turned := widen(old), widen(old), rotated(k, h.kv)
				for row, slot := range slots {
					if slot >= 0 {
						copy(wantK[int(slot)*width:], turned[row*width:(row+1)*width])
						copy(wantV[int(slot)*width:], widen(v[row*width:(row+1)*width]))
					}
				}
				got := s.download(t, qs, len(q))
				near(t, "queries", got, rotated(q, h.heads), s.bound(boundSum))
				near(t, "keys", s.download(t, cacheK, rows*width), wantK, s.bound(boundSum))
				near(t, "values", s.download(t, cacheV, rows*width), wantV, 0)
				x := s.upload(t, q)
				launch(t, s.of("rope"), blocks(2), x, places, tables, n, h.heads, h.d, h.heads*h.d, 0)
				if !sameBits(s.download(t, x, len(q)), got) {
					t.Error("rope and ropestore rotate differently")
				}
				launch(t, s.of("rope"), blocks(2), x, places, tables, n, h.heads, h.d, h.heads*h.d, 1)
				near(t, "rotated back", s.download(t, x, len(q)), widen(q), 2*s.bound(boundSum))
			})
		}
	}
}
