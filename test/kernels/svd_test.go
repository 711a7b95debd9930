//go:build cuda

package kernels

import (
	"fmt"
	"math"
	"testing"
)

// jacobi is the geometry of a decomposition, as kernels/svd.cu has it.
type jacobi struct{ m, n, blocks, padded, ld, chunks int }

func newJacobi(m, n int) jacobi {
	blocks := parts(m, 32) * 2
	return jacobi{m, n, blocks, 16 * blocks, n + m, parts(n, 1024)}
}

func (j jacobi) pairs() int { return j.blocks / 2 }

// meets lists the rows of each pair of a round of the tournament.
func (j jacobi) meets(round int) [][]int {
	var all [][]int
	ring := j.blocks - 1
	for i := range j.pairs() {
		a, b := ring, round
		if i > 0 {
			a, b = (round+i)%ring, (round-i+ring)%ring
		}
		var rows []int
		for _, block := range []int{min(a, b), max(a, b)} {
			for k := range 16 {
				rows = append(rows, block*16+k)
			}
		}
		all = append(all, rows)
	}
	return all
}

// load makes the rows of a matrix on the device, and here.
func (j jacobi) load(t *testing.T, w []float32, turned int) (address, []float64) {
	t.Helper()
	rows, want := alloc(t, j.padded*j.ld*8), make([]float64, j.padded*j.ld)
	for i := range j.m {
		want[i*j.ld+j.n+i] = 1
		for k := range j.n {
			want[i*j.ld+k] = float64(w[i*j.n+k])
			if turned != 0 {
				want[i*j.ld+k] = float64(w[k*j.m+i])
			}
		}
	}
	launch(t, "svdload", [3]int{parts(j.ld, 32), parts(j.padded, 32), 1}, rows, upload(t, w), j.m, j.n, j.padded, j.ld, turned)
	return rows, want
}

// close64 wants numbers within a bound of the largest.
func close64(t *testing.T, what string, got, want []float64, bound float64) {
	t.Helper()
	top := 0.0
	for _, v := range want {
		top = max(top, math.Abs(v))
	}
	for i, v := range want {
		if !(math.Abs(got[i]-v) <= bound*top) {
			t.Fatalf("%s: element %d is %v, want %v, of %v", what, i, got[i], v, top)
		}
	}
}

// TestSVDTurn loads a matrix and takes a round: products, rotations and rotated rows.
func TestSVDTurn(t *testing.T) {
	for turned := range 2 {
		j := newJacobi(40, 1100)
		rows, want := j.load(t, random(j.m*j.n, 1), turned)
		close64(t, "rows", download[float64](t, rows, len(want)), want, 0)
		const round = 1
		gram := alloc(t, j.pairs()*j.chunks*1024*8)
		launch(t, "svdgram", [3]int{j.chunks, j.pairs(), 1}, gram, rows, j.n, j.ld, j.blocks, round)
		rotations, cosines := alloc(t, j.pairs()*1024*8), alloc(t, j.pairs()*8)
		launch(t, "svdsolve", blocks(j.pairs()), rotations, cosines, gram, j.chunks, 0.0, 1e-11)
		products, turns, met := download[float64](t, gram, j.pairs()*j.chunks*1024), download[float64](t, rotations, j.pairs()*1024), download[float64](t, cosines, j.pairs())
		launch(t, "svdrotate", [3]int{parts(j.ld, 128), j.pairs(), 1}, rows, rotations, cosines, 1e-11, j.ld, j.blocks, round)
		got := download[float64](t, rows, len(want))
		for p, pair := range j.meets(round) {
			g := j.gram(want, pair)
			worst := worstCosine(g)
			sum := make([]float64, 1024)
			for c := range j.chunks {
				for e := range sum {
					sum[e] += products[(p*j.chunks+c)*1024+e]
				}
			}
			close64(t, "products", sum, g, 1e-13)
			close64(t, "cosine", met[p:p+1], []float64{worst}, 1e-12)
			j.checkTurn(t, turns[p*1024:][:1024], want, got, pair, worst)
		}
	}
}

// gram returns the products of a pair's rows.
func (j jacobi) gram(rows []float64, pair []int) []float64 {
	g := make([]float64, 1024)
	for i, a := range pair {
		for k, b := range pair {
			for c := range j.n {
				g[i*32+k] += rows[a*j.ld+c] * rows[b*j.ld+c]
			}
		}
	}
	return g
}

// worstCosine is the largest between rows with these products, but for empty ones.
func worstCosine(g []float64) float64 {
	worst := 0.0
	for e, v := range g {
		if i, k := e/32, e%32; i != k && g[33*i] > 0 && g[33*k] > 0 {
			worst = max(worst, math.Abs(v)/math.Sqrt(g[33*i]*g[33*k]))
		}
	}
	return worst
}

// checkTurn wants an orthogonal matrix that was applied to the rows of a pair, which
// are nearer to orthogonal since, and in order.
func (j jacobi) checkTurn(t *testing.T, turn, before, after []float64, pair []int, worst float64) {
	t.Helper()
	for i := range 32 {
		for k := range 32 {
			dot, one := 0.0, 0.0
			for c := range 32 {
				dot += turn[i*32+c] * turn[k*32+c]
			}
			if i == k {
				one = 1
			}
			if math.Abs(dot-one) > 1e-13 {
				t.Fatalf("rows %d and %d of the rotations have a product of %v", i, k, dot)
			}
		}
	}
	want, got := make([]float64, 0, 32*j.ld), make([]float64, 0, 32*j.ld)
	for i, row := range pair {
		for c := range j.ld {
			v := 0.0
			for k, from := range pair {
				v += turn[i*32+k] * before[from*j.ld+c]
			}
			want = append(want, v)
		}
		got = append(got, after[row*j.ld:][:j.ld]...)
	}
	close64(t, "rotated rows", got, want, 1e-14)
	g := j.gram(after, pair)
	for i := range 32 {
		if i > 0 && g[33*i] > g[33*(i-1)]*(1+1e-6) {
			t.Errorf("row %d is longer than that before it: %v, %v", i, g[33*i], g[33*(i-1)])
		}
	}
	if rest := worstCosine(g); rest > worst/3 {
		t.Errorf("the largest cosine was %v and is %v", worst, rest)
	}
}

// TestSVDLeavesOrthogonalRows wants no pair touched that is orthogonal already.
func TestSVDLeavesOrthogonalRows(t *testing.T) {
	j := newJacobi(20, 40)
	w := make([]float32, j.m*j.n)
	for i := range j.m {
		w[i*j.n+i] = float32(i + 1)
	}
	rows, want := j.load(t, w, 0)
	gram, rotations, cosines := alloc(t, 1024*8), alloc(t, 1024*8), alloc(t, 8)
	launch(t, "svdgram", [3]int{1, 1, 1}, gram, rows, j.n, j.ld, j.blocks, 0)
	launch(t, "svdsolve", blocks(1), rotations, cosines, gram, 1, 0.0, 1e-11)
	launch(t, "svdrotate", [3]int{1, 1, 1}, rows, rotations, cosines, 1e-11, j.ld, j.blocks, 0)
	close64(t, "rows", download[float64](t, rows, len(want)), want, 0)
}

// TestSVDRefill measures rows, and replaces those that are short and no padding.
func TestSVDRefill(t *testing.T) {
	j := newJacobi(35, 300)
	w := random(j.m*j.n, 2)
	clear(w[3*j.n : 5*j.n])
	rows, before := j.load(t, w, 0)
	lengths := alloc(t, 2*j.padded*8)
	measure := func() []float64 {
		launch(t, "svdlengths", blocks(j.padded), lengths, rows, j.n, j.ld, j.padded)
		return download[float64](t, lengths, 2*j.padded)
	}
	got, want := measure(), make([]float64, 2*j.padded)
	for i := range j.padded {
		for c, v := range before[i*j.ld:][:j.ld] {
			want[i+c/j.n*j.padded] += v * v // j.m < j.n: the rest is behind column n.
		}
	}
	for i, v := range want {
		want[i] = math.Sqrt(v)
	}
	close64(t, "lengths", got, want, 1e-14)
	const scale = 1e-9
	launch(t, "svdrefill", blocks(j.padded), rows, lengths, 0.0, scale, j.n, j.ld, j.padded)
	after, now := measure(), download[float64](t, rows, len(before))
	for i := range j.padded {
		switch {
		case i != 3 && i != 4:
			close64(t, fmt.Sprint("row ", i), now[i*j.ld:][:j.ld], before[i*j.ld:][:j.ld], 0)
		case math.Abs(after[i]/scale-1) > 0.1 || after[j.padded+i] != 1:
			t.Errorf("row %d has lengths of %v and %v", i, after[i], after[j.padded+i])
		}
	}
	dot := 0.0
	for c := range j.n {
		dot += now[3*j.ld+c] * now[4*j.ld+c] / scale / scale
	}
	if math.Abs(dot) > 0.3 {
		t.Errorf("two random rows have a cosine of %v", dot)
	}
}

// TestSVDFactors rounds rows to factors in an order, and measures what these miss.
func TestSVDFactors(t *testing.T) {
	for turned := range 2 {
		for rounded, s := range storages {
			j := newJacobi(37, 70)
			rows, host := j.load(t, random(j.m*j.n, 3), turned)
			order, inverse, values := make([]int32, j.m), make([]float64, j.m), random(j.m, 4)
			for i := range order {
				order[i], inverse[i] = int32((i*5+2)%j.m), 1/float64(i+2)
			}
			out, in := j.m, j.n
			if turned != 0 {
				out, in = in, out
			}
			u, vt := alloc(t, out*j.m*4), alloc(t, j.m*in*4)
			launch(t, "svdfactors", [3]int{parts(j.ld, 32), parts(j.m, 32), 1}, u, vt, rows, upload(t, order), upload(t, inverse), j.m, j.n, j.ld, turned, rounded)
			wantU, wantVt := make([]float32, out*j.m), make([]float32, j.m*in)
			for i, row := range order {
				for c, v := range host[int(row)*j.ld:][:j.ld] {
					right := c < j.n
					if right {
						v *= inverse[i]
					} else {
						c -= j.n
					}
					if right == (turned == 0) {
						wantVt[i*in+c] = float32(v)
					} else {
						wantU[c*j.m+i] = float32(v)
					}
				}
			}
			wantU, wantVt = s.round(wantU), s.round(wantVt)
			if !sameBits(download[float32](t, u, len(wantU)), wantU) || !sameBits(download[float32](t, vt, len(wantVt)), wantVt) {
				t.Errorf("turned %d, %s: other factors", turned, s)
			}
			w := random(out*in, 5)
			sums := alloc(t, parts(in, 64)*parts(out, 64)*16)
			launch(t, "svderror", [3]int{parts(in, 64), parts(out, 64), 1}, sums, upload(t, w), u, upload(t, values), vt, out, in, j.m)
			var got, want [2]float64
			for i, v := range download[float64](t, sums, parts(in, 64)*parts(out, 64)*2) {
				got[i%2] += v
			}
			for e, v := range w {
				rest := float64(v)
				for i := range j.m {
					rest -= float64(wantU[e/in*j.m+i]) * float64(values[i]) * float64(wantVt[i*in+e%in])
				}
				want[0] += rest * rest
				want[1] += float64(v) * float64(v)
			}
			close64(t, "the rest", got[:1], want[:1], 1e-12)
			close64(t, "the norm", got[1:], want[1:], 1e-12)
		}
	}
}

// decompositions are the launches of a decomposition whose bytes are counted.
func decompositions(t *testing.T, add func(entry, what string, grid [3]int, model int, args ...any)) {
	t.Helper()
	j := newJacobi(128, 1024)
	what := fmt.Sprintf("%d × %d", j.m, j.n)
	whole, square, pairs := j.padded*j.ld*8, 1024*8, j.pairs()
	w, rows, lengths := zeros(t, j.m*j.n*4), zeros(t, whole), zeros(t, 2*j.padded*8)
	gram, rotations, cosines := zeros(t, pairs*square), zeros(t, pairs*square), zeros(t, pairs*8)
	tile := [3]int{parts(j.ld, 32), parts(j.padded, 32), 1}
	add("svdload", what, tile, j.m*j.n*4+whole, rows, w, j.m, j.n, j.padded, j.ld, 0)
	add("svdgram", what, [3]int{1, pairs, 1}, j.padded*j.n*8+pairs*square, gram, rows, j.n, j.ld, j.blocks, 0)
	add("svdsolve", what, blocks(pairs), 2*pairs*square, rotations, cosines, gram, 1, 0.0, -1.0)
	turning, strips := upload(t, []float64{1, 1, 1, 1}), parts(j.ld, 128)
	add("svdrotate", what, [3]int{strips, pairs, 1}, 2*whole+strips*pairs*square, rows, rotations, turning, 0.5, j.ld, j.blocks, 0)
	each := 2 * (256 / warp) * sector // Both lengths of a row, once a warp.
	add("svdlengths", what, blocks(j.padded), whole+2*j.padded*sector, lengths, rows, j.n, j.ld, j.padded)
	lone := make([]float64, 2*j.padded)
	for i := range j.padded {
		lone[j.padded+i] = 1
	}
	add("svdrefill", what, blocks(j.padded), j.padded*(j.n*8+each), rows, upload(t, lone), 0.0, 1e-9, j.n, j.ld, j.padded)
	u, vt, factors := zeros(t, j.m*j.m*4), zeros(t, j.m*j.n*4), zeros(t, j.m*4)
	add("svdfactors", what, tile, whole+whole/2+j.m*(j.ld+j.n)/32*sector, // Where a row is, and for n columns its scale, once a warp.
		u, vt, rows, factors, zeros(t, j.m*8), j.m, j.n, j.ld, 0, 0)
	tiles := parts(j.n, 64) * parts(j.m, 64)
	add("svderror", what, [3]int{parts(j.n, 64), parts(j.m, 64), 1}, j.m*j.n*4+tiles*j.m*(64+64+32)*4, // σ for every two rows of u.
		zeros(t, tiles*16), w, u, factors, vt, j.m, j.n, j.m)
}
