package cpu

import "golang.org/x/sys/cpu"

// accelerated returns the paths beyond plain Go that this processor has, best
// first.
func accelerated() []*kernels {
	var out []*kernels
	x := cpu.X86
	if x.HasAVX512F && x.HasAVX512DQ && x.HasAVX512VL && x.HasAVX512BW && x.HasFMA {
		k := plainKernels()
		k.name, k.mr, k.nr = "avx512", 12, 32
		k.tile, k.wide = tileAVX512, wideAVX512
		useAVX512(k)
		out = append(out, k)
	}
	if x.HasAVX2 && x.HasFMA {
		k := plainKernels()
		k.name, k.mr, k.nr = "avx2", 6, 16
		k.tile, k.wide = tileAVX2, wideAVX2
		useAVX2(k)
		out = append(out, k)
	}
	return out
}
