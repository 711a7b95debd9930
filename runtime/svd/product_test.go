package svd

import (
	"fmt"
	"math"
	"slices"
	"testing"
)

func TestTilesComputeTheSame(t *testing.T) {
	const stride = tileColumns + 3
	for depth := range 20 {
		a, b := random(1, (depth+1)*tileRows), random(2, (depth+1)*tileColumns)
		first := random(3, tileRows*stride)
		plainTile(first, stride, -1.5, a, b, depth+1)
		for which, tile := range tiles() {
			c := random(3, tileRows*stride)
			tile(c, stride, -1.5, a, b, depth+1)
			if !slices.Equal(c, first) {
				t.Fatalf("tile %d, depth %d: other bits than the plain one's", which, depth+1)
			}
			for i, before := range random(3, tileRows*stride) {
				want := before
				for p := range depth + 1 {
					if r, q := i/stride, i%stride; q < tileColumns {
						want -= 1.5 * a[p*tileRows+r] * b[p*tileColumns+q]
					}
				}
				if math.Abs(c[i]-want) > 1e-13 {
					t.Fatalf("tile %d, depth %d: element %d is %v, want %v", which, depth+1, i, c[i], want)
				}
			}
		}
	}
}

// Factors must be right on processors without the fastest kernel, too.
func TestFactorWithEveryTile(t *testing.T) {
	fastest := addTile
	defer func() { addTile = fastest }()
	const out, in = 90, 70
	w := toFloat32(random(1, out*in))
	var first *Factors
	for i, tile := range tiles() {
		addTile = tile
		f, err := Factor(t.Context(), w, out, in, 2)
		if err != nil {
			t.Fatalf("tile %d: %v", i, err)
		}
		check(t, w, out, in, f)
		if i == 0 {
			first = f
		} else if !slices.Equal(f.U, first.U) || !slices.Equal(f.S, first.S) || !slices.Equal(f.Vt, first.Vt) {
			t.Errorf("tile %d gives other bits than the fastest", i)
		}
	}
}

func TestProduct(t *testing.T) {
	team := &team{t.Context(), 2}
	for _, s := range [][3]int{{1, 1, 1}, {8, 16, 256}, {9, 17, 257}, {130, 300, 7}, {65, 520, 513}} {
		m, n, k := s[0], s[1], s[2]
		a, b, start := random(1, m*k), random(2, k*n), random(3, m*n)
		want := func(a, b operand, i, j int) float64 {
			sum := start[i*n+j]
			for p := range k {
				sum += 0.5 * a.data[i*a.row+p*a.column] * b.data[p*b.row+j*b.column]
			}
			return sum
		}
		for x, left := range []operand{plain(a, k), transposed(a, m)} {
			for y, right := range []operand{plain(b, n), transposed(b, k)} {
				t.Run(fmt.Sprint(s, x, y), func(t *testing.T) {
					c := append([]float64(nil), start...)
					team.product(c, n, m, n, k, 0.5, left, right, false)
					half := append([]float64(nil), start...)
					team.product(half, n, m, n, k, 0.5, left, right, true)
					for i := range c {
						if e := want(left, right, i/n, i%n); math.Abs(c[i]-e) > 1e-11 {
							t.Fatalf("element %d, %d is %v, want %v", i/n, i%n, c[i], e)
						}
						if i%n <= i/n && half[i] != c[i] {
							t.Fatalf("element %d, %d below the diagonal is %v, want %v", i/n, i%n, half[i], c[i])
						}
					}
				})
			}
		}
	}
}
