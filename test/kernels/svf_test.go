//go:build cuda

package kernels

import (
	"fmt"
	"testing"
)

func TestCompose(t *testing.T) {
	for _, c := range []struct{ m, r, k int }{{100, 70, 130}, {64, 576, 192}, {200, 300, 70}} {
		for _, factors := range []string{"f32", "bf16"} {
			for _, s := range storages {
				t.Run(fmt.Sprintf("%s to %s, %v", factors, s, c), func(t *testing.T) {
					u, vt := newWeight(t, factors, c.m, c.r, 1), newWeight(t, factors, c.r, c.k, 2)
					scales := random(c.r, 3)
					pitch, tile := pitchOf(c.k), 64
					if factors == "bf16" {
						tile = 128
					}
					w := alloc(t, c.m*pitch*s.bytes())
					launch(t, "compose_"+factors+"_"+string(s), [3]int{parts(pitch, tile), parts(c.m, tile), 1},
						w, u.at, vt.at, upload(t, scales), c.m, c.r, c.k, pitch, u.ldw, vt.ldw)
					want := make([]float64, c.m*pitch)
					for row := range c.m {
						for i := range c.r {
							us := u.value[row*c.r+i] * scales[i]
							if factors == "bf16" {
								us = bfloat(us)
							}
							for column := range c.k {
								want[row*pitch+column] += float64(us) * float64(vt.value[i*c.k+column])
							}
						}
					}
					got := s.download(t, w, c.m*pitch)
					near(t, "w", got, want, s.bound(boundSum))
					for i, v := range got {
						if i%pitch >= c.k && v != 0 {
							t.Fatalf("%v behind row %d", v, i/pitch)
						}
					}
				})
			}
		}
	}
}

func TestMixScale(t *testing.T) {
	for _, c := range []struct {
		experts, r int
		normalise  bool
	}{{0, 7, false}, {1, 64, true}, {3, 577, false}, {5, 4096, true}} {
		t.Run(fmt.Sprint(c), func(t *testing.T) {
			sigma, z := random(c.r, 1), random(c.experts*c.r, 2)
			alphas := make([]float64, c.experts)
			total := 0.0
			for i := range alphas {
				alphas[i] = 0.1 + float64(i)/7
				total += alphas[i]
			}
			want := make([]float64, c.r)
			var before, after float64
			for i := range want {
				sigma[i] = max(sigma[i], -sigma[i])
				mixed := total
				for e, a := range alphas {
					mixed += a * (float64(z[e*c.r+i]) - 1)
				}
				want[i] = float64(sigma[i]) * mixed
				before, after = before+float64(sigma[i]), after+want[i]
			}
			normalise := 0
			if c.normalise {
				normalise = 1
				for i := range want {
					want[i] *= before / after
				}
			}
			s := alloc(t, c.r*4)
			launch(t, "mixscale", blocks(1), s, upload(t, sigma), upload(t, z), upload(t, alphas), c.experts, c.r, normalise)
			near(t, "scales", download[float32](t, s, c.r), want, boundSum)
		})
	}
}
