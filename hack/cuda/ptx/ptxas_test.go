package main

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/transformersquared/operator/kernels"
)

func TestParsePtxas(t *testing.T) {
	const text = `ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'a_f32' for 'sm_80'
ptxas info    : Function properties for a_f32
    16 bytes stack frame, 8 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 255 registers, 1024 bytes smem, 400 bytes cmem[0]
ptxas info    : Compiling entry function 'b' for 'sm_80'
ptxas info    : Function properties for b
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 10 registers, 400 bytes cmem[0]
`
	want := []usage{{entry: "a_f32", registers: 255, spill: 20, shared: 1024, stack: 16}, {entry: "b", registers: 10}}
	if diff := cmp.Diff(want, parsePtxas(text), cmp.AllowUnexported(usage{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestPerformanceLoss(t *testing.T) {
	const loss = "ptxas info    : (C7515) Potential Performance Loss: wgmma.mma_async instructions are serialized due to non wgmma instructions defining accumulator registers"
	if got := performanceLoss("ptxas info    : 0 bytes gmem\n" + loss + "\n"); got != loss {
		t.Errorf("%q", got)
	}
	if got := performanceLoss("ptxas info    : 0 bytes gmem\n"); got != "" {
		t.Errorf("%q", got)
	}
}

// TestWarps compares with NVIDIA's occupancy calculator for these cases.
func TestWarps(t *testing.T) {
	ampere, hopper := machines[0], machines[1]
	for name, c := range map[string]struct {
		machine           machine
		registers, static int
		threads, dynamic  int
		wantWarps         int
	}{
		"all":                       {machine: ampere, registers: 32, threads: 256, wantWarps: 64},
		"blocks, 32 at most":        {machine: ampere, registers: 16, threads: 32, wantWarps: 32},
		"registers":                 {machine: ampere, registers: 128, threads: 256, wantWarps: 16},
		"registers, in units of 8":  {machine: ampere, registers: 129, threads: 128, wantWarps: 12},
		"shared memory, Ampere":     {machine: ampere, registers: 32, threads: 128, static: 48 << 10, wantWarps: 12},
		"shared memory, Hopper":     {machine: hopper, registers: 32, threads: 128, static: 48 << 10, wantWarps: 16},
		"dynamic memory, a block":   {machine: hopper, registers: 168, threads: 384, dynamic: 200 << 10, wantWarps: 12},
		"a block too large for it":  {machine: ampere, registers: 255, threads: 1024, wantWarps: 0},
		"a warp that is not filled": {machine: ampere, registers: 32, threads: 48, wantWarps: 64},
	} {
		t.Run(name, func(t *testing.T) {
			got := c.machine.warps(usage{registers: c.registers, shared: c.static}, kernels.Kernel{Threads: c.threads, Shared: c.dynamic})
			if got != c.wantWarps {
				t.Errorf("%d warps, want %d", got, c.wantWarps)
			}
		})
	}
}
