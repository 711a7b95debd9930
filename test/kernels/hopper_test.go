//go:build cuda

package kernels

import (
	"fmt"
	"testing"

	"github.com/transformersquared/operator/kernels"
)

// onlyHopper leaves a test on other devices, which do not load the unit.
func onlyHopper(t *testing.T) {
	t.Helper()
	if (gpu.capability != kernels.Capability{Major: 9}) {
		t.Skipf("kernels/hopper.cu is for compute capability 9.0; this device has %s", gpu.capability)
	}
}

// sameAsTwin compares bits with the kernel that other devices run. The driver in software
// adds products one by one in both kinds of instruction; what a device does is for it to
// say, and backend/cuda asks.
func sameAsTwin(t *testing.T, twin string, got, want []float32) {
	t.Helper()
	if sameBits(got, want) {
		return
	}
	if _, software := counted(t, twin); software {
		t.Errorf("other bits than %s", twin)
	} else {
		t.Logf("other bits than %s: this device's sums depend on the instruction", twin)
	}
}

const groupRows, groupOutputs = 256, 128

// arranged returns the rows of a product as the kernel takes them that has groups of warps.
func (p *product) arranged(t *testing.T) (x address, rows int) {
	t.Helper()
	rows = parts(p.n, groupRows) * groupRows
	x = alloc(t, rows*p.ldw*2)
	launch(t, p.of("arrange"), blocks(7), x, p.x, p.bank, p.index, p.n, p.k, p.ldx, rows)
	return x, rows
}

func (p *product) group(t *testing.T) []float32 {
	t.Helper()
	x, rows := p.arranged(t)
	bank, index := address(0), address(0)
	if p.flags&2 != 0 { // The scales are those of the outputs.
		bank, index = p.bank, p.index
	}
	y := p.upload(t, p.before)
	launch(t, fmt.Sprintf("product_bf16_%s_group", p.storage), [3]int{parts(p.n, groupRows), parts(p.m, groupOutputs), 1},
		y, x, p.at, address(0), bank, index, p.n, p.m, p.k, p.ldw, rows, p.ldy, p.flags)
	return p.result(t, y)
}

func TestProductsByGroups(t *testing.T) {
	onlyHopper(t)
	for _, c := range []struct {
		n, m, k          int
		scaled, add, odd bool
	}{
		{n: 1, m: 5, k: 40},
		{n: 257, m: 130, k: 64, add: true},
		{n: 70, m: 150, k: 330, scaled: true, add: true, odd: true},
		{n: 140, m: 96, k: 1100, scaled: true},
	} {
		for _, s := range storages {
			t.Run(fmt.Sprintf("%s, [%d, %d] by [%d, %d]", s, c.n, c.k, c.m, c.k), func(t *testing.T) {
				p := newProduct(t, s, "bf16", c.n, c.m, c.k, c.scaled, c.add, c.odd)
				got := p.group(t)
				near(t, "y", got, p.want, s.bound(boundSum))
				sameAsTwin(t, p.of("product_bf16")+"_large", got, p.variant(t, "large"))
			})
		}
	}
}

// TestProductsByGroupsScaleOutputs compares with the twin, whose own test is
// TestProductsScaleOutputs.
func TestProductsByGroupsScaleOutputs(t *testing.T) {
	onlyHopper(t)
	const n, m, k = 7, 70, 200
	for _, s := range storages {
		t.Run(string(s), func(t *testing.T) {
			p := newProduct(t, s, "bf16", n, m, k, false, false, false)
			x, rows := p.arranged(t)
			const addAndScale = 3
			p.bank, p.index, p.flags = upload(t, random(scaleRows*m, 6)), upload(t, indices(n, scaleRows, 7)), addAndScale
			want := p.variant(t, "large")
			y := p.upload(t, p.before)
			launch(t, fmt.Sprintf("product_bf16_%s_group", s), [3]int{1, 1, 1}, y, x, p.at, address(0), p.bank, p.index, n, m, k, p.ldw, rows, p.ldy, p.flags)
			sameAsTwin(t, p.of("product_bf16")+"_large", p.result(t, y), want)
		})
	}
}

func TestComposeByGroups(t *testing.T) {
	onlyHopper(t)
	for _, c := range []struct{ m, r, k int }{{100, 70, 130}, {200, 700, 300}} {
		for _, s := range storages {
			t.Run(fmt.Sprintf("%s, %v", s, c), func(t *testing.T) {
				u, vt, scales := newWeight(t, "bf16", c.m, c.r, 1), newWeight(t, "bf16", c.r, c.k, 2), upload(t, random(c.r, 3))
				pitch := pitchOf(c.k)
				compose := func(entry string, tile int, third address, fourth int) []float32 {
					w := alloc(t, c.m*pitch*s.bytes())
					launch(t, s.of(entry), [3]int{parts(pitch, tile), parts(c.m, 128), 1}, w, u.at, third, scales, c.m, c.r, c.k, pitch, u.ldw, fourth)
					return s.download(t, w, c.m*pitch)
				}
				want := compose("compose_bf16", 128, vt.at, vt.ldw)
				rows := parts(pitch, groupRows) * groupRows
				turned := alloc(t, rows*u.ldw*2)
				launch(t, "turn_bf16", [3]int{parts(c.r, 64), rows / 64, 1}, turned, vt.at, c.r, c.k, vt.ldw, rows)
				got := compose("composegroup_bf16", groupRows, turned, rows)
				near(t, "w", got, widen(want), s.bound(boundSum))
				sameAsTwin(t, s.of("compose_bf16"), got, want)
			})
		}
	}
}

// groups adds launches of the kernels that only Hopper has.
func groups(t *testing.T, s storage, add func(entry, what string, grid [3]int, model int, args ...any)) {
	t.Helper()
	if (gpu.capability != kernels.Capability{Major: 9}) {
		return
	}
	const n, m, k, r = 256, 512, 1024, 1024
	x, arranged, none := zeros(t, n*k*s.bytes()), zeros(t, n*k*2), address(0)
	add(s.of("arrange"), fmt.Sprintf("%d × %d", n, k), blocks(16), n*k*(s.bytes()+2), arranged, x, none, none, n, k, k, n)
	add(fmt.Sprintf("product_bf16_%s_group", s), fmt.Sprintf("%d rows, %d × %d", n, m, k), [3]int{n / groupRows, m / groupOutputs, 1},
		m*k*2*n/groupRows+n*k*2*m/groupOutputs+n*m*s.bytes(),
		zeros(t, n*m*s.bytes()), arranged, zeros(t, m*k*2), none, none, none, n, m, k, k, n, m, 0)
	const columns = 256
	turned := zeros(t, r*columns*2)
	add("turn_bf16", fmt.Sprintf("%d × %d", r, columns), [3]int{r / 64, columns / 64, 1}, 2*r*columns*2, turned, zeros(t, r*columns*2), r, columns, columns, columns)
	add(s.of("composegroup_bf16"), fmt.Sprintf("%d × %d × %d", m, r, columns), [3]int{columns / groupRows, m / groupOutputs, 1},
		m*r*2*columns/groupRows+r*columns*2*m/groupOutputs+m*columns*2,
		zeros(t, m*columns*2), zeros(t, m*r*2), turned, zeros(t, r*4), m, r, columns, columns, r, columns)
}
