package svd

import "golang.org/x/sys/cpu"

func checkedAVX512(c []float64, stride int, alpha float64, a, b []float64, depth int) {
	_, _, _ = c[(tileRows-1)*stride+tileColumns-1], a[depth*tileRows-1], b[depth*tileColumns-1]
	tileAVX512(&c[0], stride, alpha, &a[0], &b[0], depth)
}

func checkedAVX2(c []float64, stride int, alpha float64, a, b []float64, depth int) {
	_, _, _ = c[(tileRows-1)*stride+tileColumns-1], a[depth*tileRows-1], b[depth*tileColumns-1]
	tileAVX2(&c[0], stride, alpha, &a[0], &b[0], depth)
}

// tiles returns what this processor can run, the fastest first.
func tiles() []tileFunc {
	var all []tileFunc
	if cpu.X86.HasAVX512F {
		all = append(all, checkedAVX512)
	}
	if cpu.X86.HasAVX2 && cpu.X86.HasFMA {
		all = append(all, checkedAVX2)
	}
	return append(all, plainTile)
}
