package cpu

import "testing"

func TestWeightsLieApartAndBeginClean(t *testing.T) {
	var a arena
	var all [][]float32
	for i := range 200 {
		n := 1 + i*i*7%50_000
		if i == 100 {
			n = 3 << 20 // Larger than a chunk.
		}
		f := a.floats(n)
		if len(f) != n || cap(f) != n {
			t.Fatalf("asked for %d floats, got %d of %d", n, len(f), cap(f))
		}
		for k := range f {
			if f[k] != 0 {
				t.Fatalf("float %d of piece %d is %v", k, i, f[k])
			}
			f[k] = float32(i + 1)
		}
		all = append(all, f)
	}
	for i, f := range all {
		if f[0] != float32(i+1) || f[len(f)-1] != float32(i+1) {
			t.Fatalf("piece %d was written over", i)
		}
	}
}
