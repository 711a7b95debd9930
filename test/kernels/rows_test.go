//go:build cuda

package kernels

import (
	"fmt"
	"math"
	"slices"
	"testing"
)

// sizes of rows: of whole vectors, of odd ends, and beyond what a thread keeps.
var sizes = []struct{ n, c, grid int }{{3, 64, 3}, {5, 577, 2}, {2, 4096, 2}, {3, 9003, 3}}

func TestNorms(t *testing.T) {
	for _, s := range storages {
		for _, z := range sizes {
			t.Run(fmt.Sprintf("%s, [%d, %d]", s, z.n, z.c), func(t *testing.T) {
				const eps = 1e-5
				n, c, grid := z.n, z.c, blocks(z.grid)
				x, dy, dx, gain := s.round(random(n*c, 1)), s.round(random(n*c, 2)), s.round(random(n*c, 3)), random(c, 4)
				want, back := make([]float64, n*c), make([]float64, n*c)
				for row := range n {
					var squares, along float64
					for i := range c {
						v := float64(x[row*c+i])
						squares += v * v
						along += v * float64(gain[i]) * float64(dy[row*c+i])
					}
					inverse := 1 / math.Sqrt(squares/float64(c)+eps)
					for i := range c {
						at := row*c + i
						g := float64(gain[i])
						want[at] = float64(x[at]) * inverse * g
						back[at] = float64(dx[at]) + float64(dy[at])*g*inverse - along*inverse*inverse*inverse/float64(c)*float64(x[at])
					}
				}
				xs, gains, y := s.upload(t, x), upload(t, gain), alloc(t, n*c*s.bytes())
				launch(t, s.of("rmsnorm"), grid, y, xs, gains, n, c, float64(eps))
				got := s.download(t, y, n*c)
				near(t, "rmsnorm", got, want, s.bound(boundSum))
				launch(t, s.of("rmsnorm"), blocks(1), y, xs+address((n-1)*c*s.bytes()), gains, 1, c, float64(eps))
				if !sameBits(s.download(t, y, c), got[(n-1)*c:]) {
					t.Error("a row alone has other bits")
				}
				sum := s.upload(t, dx)
				launch(t, s.of("rmsnormback"), grid, sum, s.upload(t, dy), xs, gains, n, c, float64(eps))
				near(t, "rmsnormback", s.download(t, sum, n*c), back, s.bound(boundSum))

				logs := make([]float64, n*c)
				for row := range n {
					var sum float64
					for _, v := range x[row*c:][:c] {
						sum += math.Exp(float64(v))
					}
					for i, v := range x[row*c:][:c] {
						logs[row*c+i] = float64(v) - math.Log(sum)
					}
				}
				out := alloc(t, n*c*4)
				launch(t, s.of("logsoftmax"), grid, out, xs, n, c)
				near(t, "logsoftmax", download[float32](t, out, n*c), logs, boundExp)
			})
		}
	}
}

func TestSwiGLU(t *testing.T) {
	const n = 2999
	for _, s := range storages {
		t.Run(string(s), func(t *testing.T) {
			gate, up, dy := s.round(random(n, 1)), s.round(random(n, 2)), s.round(random(n, 3))
			want, dgate, dup := make([]float64, n), make([]float64, n), make([]float64, n)
			for i := range n {
				g, u, d := float64(gate[i]), float64(up[i]), float64(dy[i])
				sigmoid := 1 / (1 + math.Exp(-g))
				want[i], dup[i], dgate[i] = g*sigmoid*u, d*g*sigmoid, d*u*sigmoid*(1+g*(1-sigmoid))
			}
			gates, ups, y := s.upload(t, gate), s.upload(t, up), alloc(t, n*s.bytes())
			launch(t, s.of("swiglu"), blocks(2), y, gates, ups, n)
			near(t, "y", s.download(t, y, n), want, s.bound(boundExp))
			dg, du := alloc(t, n*s.bytes()), alloc(t, n*s.bytes())
			launch(t, s.of("swigluback"), blocks(2), dg, du, s.upload(t, dy), gates, ups, n)
			near(t, "dgate", s.download(t, dg, n), dgate, s.bound(boundExp))
			near(t, "dup", s.download(t, du, n), dup, s.bound(boundExp))
		})
	}
}

func TestRows(t *testing.T) {
	const n, c, stored = 33, 70, 50
	for _, s := range storages {
		t.Run(string(s), func(t *testing.T) {
			x, y, bias, scale := s.round(random(stored*c, 1)), s.round(random(n*c, 2)), random(c, 3), random(c, 4)
			rows := indices(n, stored, 5)
			rows[0] = -1
			exactly := func(what string, at address, elements int, want func(row, column int) float32) {
				t.Helper()
				for i, got := range s.download(t, at, elements) {
					if w := s.round([]float32{want(i/c, i%c)})[0]; got != w {
						t.Fatalf("%s: row %d, column %d is %v, want %v", what, i/c, i%c, got, w)
					}
				}
			}
			xs, list := s.upload(t, x), upload(t, rows)
			out := alloc(t, n*c*s.bytes())
			launch(t, s.of("select"), blocks(5), out, xs, list, n, c)
			exactly("select", out, n*c, func(row, column int) float32 {
				if rows[row] < 0 {
					return 0
				}
				return x[int(rows[row])*c+column]
			})
			from := make([]int, stored)
			places := make([]int32, n)
			for i := range n {
				places[i] = int32(stored - 1 - i)
				from[stored-1-i] = i + 1
			}
			places[3], from[stored-4] = -1, 0
			launch(t, s.of("scatter"), blocks(3), xs, s.upload(t, y), upload(t, places), n, c)
			exactly("scatter", xs, stored*c, func(row, column int) float32 {
				if from[row] > 0 {
					return y[(from[row]-1)*c+column]
				}
				return x[row*c+column]
			})
			sum := s.upload(t, y)
			launch(t, s.of("add"), blocks(2), sum, s.upload(t, x[:n*c]), n*c)
			exactly("add", sum, n*c, func(row, column int) float32 { return y[row*c+column] + x[row*c+column] })
			sum = s.upload(t, y)
			launch(t, s.of("addrows"), blocks(2), sum, upload(t, bias), address(0), n, c)
			exactly("addrows", sum, n*c, func(row, column int) float32 { return y[row*c+column] + bias[column] })
			scaled := s.upload(t, y)
			launch(t, s.of("scalecols"), blocks(2), scaled, scaled, upload(t, scale), address(0), n, c)
			exactly("scalecols", scaled, n*c, func(row, column int) float32 { return y[row*c+column] * scale[column] })
			chosen := make([]int32, n)
			for i := range chosen {
				chosen[i] = int32(i+1) % 2
			}
			launch(t, s.of("scalecols"), blocks(3), scaled, s.upload(t, y), upload(t, slices.Concat(scale, bias)), upload(t, chosen), n, c)
			exactly("scalecols by an index", scaled, n*c, func(row, column int) float32 {
				if row%2 == 0 {
					return y[row*c+column] * bias[column]
				}
				return y[row*c+column] * scale[column]
			})
			sum = s.upload(t, y)
			launch(t, s.of("addrows"), blocks(3), sum, upload(t, slices.Concat(scale, bias)), upload(t, chosen), n, c)
			exactly("addrows by an index", sum, n*c, func(row, column int) float32 {
				if row%2 == 0 {
					return y[row*c+column] + bias[column]
				}
				return y[row*c+column] + scale[column]
			})
			launch(t, s.of("fill"), blocks(1), out, 2.5, n*c)
			exactly("fill", out, n*c, func(int, int) float32 { return 2.5 })

			dots := make([]float64, c)
			for i := range n * c {
				dots[i%c] += float64(y[i]) * float64(x[i])
			}
			sums := alloc(t, c*4)
			launch(t, s.of("columndots"), blocks(parts(c, 32)), sums, s.upload(t, y), s.upload(t, x[:n*c]), n, c)
			near(t, "columndots", download[float32](t, sums, c), dots, boundSum)

			for _, kind := range []string{"f32", "bf16", "i8"} {
				w := newWeight(t, kind, stored, c, 6)
				launch(t, "gather_w"+kind+"_"+string(s), blocks(2), out, w.at, w.scales, list, n, c, w.ldw)
				exactly("gather of "+kind, out, n*c, func(row, column int) float32 {
					if rows[row] < 0 {
						return 0
					}
					return w.value[int(rows[row])*c+column]
				})
			}
		})
	}
}

func TestConversions(t *testing.T) {
	x := random(1003, 1)
	x[0], x[1], x[2], x[3] = float32(math.Inf(-1)), math.MaxFloat32, 1+1.0/256, 1+3.0/256 // Ties, and beyond the largest.
	halves, back := alloc(t, len(x)*2), alloc(t, len(x)*4)
	launch(t, "convert_f32_bf16", blocks(1), halves, upload(t, x), len(x))
	launch(t, "convert_bf16_f32", blocks(1), back, halves, len(x))
	if want := storages[1].round(x); !sameBits(download[float32](t, back, len(x)), want) {
		t.Error("a number is not the nearest bfloat16")
	}
}

func TestTransposes(t *testing.T) {
	const m, k, pitch = 37, 70, 64
	for _, c := range []struct {
		kind, to string
		storage
	}{{"f32", "f32", storages[0]}, {"bf16", "bf16", storages[1]}, {"i8", "f32", storages[0]}} {
		t.Run(c.kind, func(t *testing.T) {
			w := newWeight(t, c.kind, m, k, 1)
			to := alloc(t, k*pitch*c.bytes())
			launch(t, "transpose_"+c.kind+"_"+c.to, [3]int{parts(pitch, 32), parts(k, 32), 1}, to, w.at, w.scales, m, k, w.ldw, pitch)
			for i, got := range c.download(t, to, k*pitch) {
				var want float32
				if row, column := i/pitch, i%pitch; column < m {
					want = w.value[column*k+row]
				}
				if got != want {
					t.Fatalf("element %d is %v, want %v", i, got, want)
				}
			}
		})
	}
}
