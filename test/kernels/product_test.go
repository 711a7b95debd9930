//go:build cuda

package kernels

import (
	"fmt"
	"math"
	"slices"
	"testing"
)

// weight is a matrix [m, k] on the device, and what its elements are.
type weight struct {
	kind      string
	at        address
	scales    address // Of int8; nowhere otherwise.
	m, k, ldw int
	value     []float32
}

const int8Block = 32

func pitchOf(k int) int { return parts(k, 64) * 64 }

func bytesOf(kind string) int { return map[string]int{"f32": 4, "bf16": 2, "i8": 1}[kind] }

// newWeight packs random numbers by the kernel for that.
func newWeight(t *testing.T, kind string, m, k int, seed uint64) weight {
	t.Helper()
	source := random(m*k, seed)
	w := weight{kind: kind, m: m, k: k, ldw: pitchOf(k)}
	w.at = alloc(t, m*w.ldw*bytesOf(kind))
	w.scales = alloc(t, m*w.ldw/int8Block*2)
	launch(t, "pack_f32_"+kind, blocks(5), w.at, w.scales, upload(t, source), m, k, w.ldw)
	w.value = make([]float32, m*k)
	for i, v := range source {
		w.value[i] = v
		if kind == "bf16" {
			w.value[i] = bfloat(v)
		}
	}
	if kind == "i8" {
		q, scales := download[int8](t, w.at, m*w.ldw), storages[1].download(t, w.scales, m*w.ldw/int8Block)
		for row := range m {
			for first := 0; first < k; first += int8Block {
				block := source[row*k+first : row*k+min(first+int8Block, k)]
				want := bfloat(largest(block) / 127)
				if got := scales[(row*w.ldw+first)/int8Block]; got != want {
					t.Fatalf("row %d, column %d: scale %v, want %v", row, first, got, want)
				}
				for i, v := range block {
					got := q[row*w.ldw+first+i]
					if float64(got) != math.RoundToEven(float64(v*(1/want))) {
						t.Fatalf("row %d, column %d: %d of %v with scale %v", row, first+i, got, v, want)
					}
					w.value[row*k+first+i] = float32(got) * want
				}
			}
		}
	}
	return w
}

func largest(x []float32) float32 {
	var top float32
	for _, v := range x {
		top = max(top, v, -v)
	}
	return top
}

// product is one case, with what every variant is given.
type product struct {
	storage
	weight
	n, ldx, ldy, flags int
	x, bank, index     address // Of int8, x and bank are quantised rows and their scales.
	before             []float32
	want               []float64
}

// variant runs one kernel and returns y [n, m]. What lies behind each row must stay.
func (p *product) variant(t *testing.T, name string) []float32 {
	t.Helper()
	y := p.upload(t, p.before)
	launch(t, fmt.Sprintf("product_%s_%s_%s", p.kind, p.storage, name), p.grid(name), p.arguments(name, y)...)
	return p.result(t, y)
}

func (p *product) arguments(name string, y address) []any {
	one := []any{y, p.x, p.at, p.scales, p.bank, p.index}
	shape := []any{p.m, p.k, p.ldw, p.ldx, p.ldy, p.flags}
	if name != "skinny3" {
		return slices.Concat(one, []any{p.n}, shape)
	}
	none := slices.Concat([]any{address(0)}, one[1:], []any{0}, shape[1:])
	return slices.Concat([]any{p.n}, none, one, shape, none)
}

func (p *product) grid(name string) [3]int {
	switch name {
	case "skinny", "skinny3":
		if p.kind == "f32" {
			return blocks(parts(p.m, 32))
		}
		return blocks(parts(p.m, 16))
	case "large":
		return [3]int{parts(p.n, 128), parts(p.m, 128), 1}
	default:
		return [3]int{parts(p.n, 64), parts(p.m, 64), 1}
	}
}

func (p *product) result(t *testing.T, y address) []float32 {
	t.Helper()
	all := p.download(t, y, p.n*p.ldy)
	var out []float32
	for row := range p.n {
		out = append(out, all[row*p.ldy:][:p.m]...)
		if !sameBits(all[row*p.ldy+p.m:(row+1)*p.ldy], p.round(p.before[row*p.ldy+p.m:(row+1)*p.ldy])) {
			t.Errorf("row %d is written behind its end", row)
		}
	}
	return out
}

func (p *product) variants() []string {
	names := []string{"tiled"}
	if p.n <= 16 {
		names = []string{"skinny", "skinny3", "tiled"}
	}
	if p.kind == "bf16" {
		names = append(names, "medium", "large")
	}
	return names
}

const scaleRows = 3

// newProduct makes a case. With odd pitches, rows begin where no vector does.
func newProduct(t *testing.T, s storage, kind string, n, m, k int, scaled, add, odd bool) *product {
	t.Helper()
	p := &product{storage: s, weight: newWeight(t, kind, m, k, 1), n: n, ldx: k, ldy: m}
	if odd {
		p.ldx, p.ldy = k+3, m+5
	}
	if add {
		p.flags = 1
	}
	x, bank, index := s.round(random(n*p.ldx, 2)), random(scaleRows*k, 3), indices(n, scaleRows, 4)
	p.before = s.round(random(n*p.ldy, 5))
	p.x = s.upload(t, x)
	if scaled {
		p.bank, p.index = upload(t, bank), upload(t, index)
	}
	rows := make([]float32, 0, n*k)
	for row := range n {
		for i, v := range x[row*p.ldx:][:k] {
			if scaled {
				v = s.round([]float32{v * bank[int(index[row])*k+i]})[0]
			}
			if kind == "bf16" {
				v = bfloat(v)
			}
			rows = append(rows, v)
		}
	}
	if kind == "i8" {
		rows = p.quantise(t, rows)
	}
	p.want = make([]float64, n*m)
	for row := range n {
		for out := range m {
			var sum float64
			for i := range k {
				sum += float64(rows[row*k+i]) * float64(p.value[out*k+i])
			}
			if add {
				sum += float64(p.before[row*p.ldy+out])
			}
			p.want[row*m+out] = sum
		}
	}
	return p
}

// quantise does so on the device, checks it, and returns what the integers stand for.
func (p *product) quantise(t *testing.T, rows []float32) []float32 {
	t.Helper()
	q, scales := alloc(t, p.n*p.ldw), alloc(t, p.n*p.ldw/int8Block*4)
	launch(t, p.of("quantise"), blocks(3), q, scales, p.x, p.bank, p.index, p.n, p.k, p.ldx, p.ldw)
	p.x, p.ldx, p.bank, p.index = q, p.ldw, scales, 0
	integers, steps := download[int8](t, q, p.n*p.ldw), download[float32](t, scales, p.n*p.ldw/int8Block)
	out := make([]float32, len(rows))
	for row := range p.n {
		for first := 0; first < p.k; first += int8Block {
			block := rows[row*p.k+first : row*p.k+min(first+int8Block, p.k)]
			top := largest(block)
			step := steps[(row*p.ldw+first)/int8Block]
			if step != top/127 {
				t.Fatalf("row %d, column %d: scale %v, want %v", row, first, step, top/127)
			}
			for i, v := range block {
				got := integers[row*p.ldw+first+i]
				if float64(got) != math.RoundToEven(float64(v*(127/top))) {
					t.Fatalf("row %d, column %d: %d of %v", row, first+i, got, v)
				}
				out[row*p.k+first+i] = float32(got) * step
			}
		}
	}
	return out
}

// TestProducts compares all variants with float64, with each other to the bit, and
// rows alone with rows beside others.
func TestProducts(t *testing.T) {
	for _, c := range []struct {
		n, m, k          int
		scaled, add, odd bool
	}{
		{n: 1, m: 64, k: 64},
		{n: 5, m: 70, k: 200, scaled: true, add: true, odd: true},
		{n: 16, m: 130, k: 576, scaled: true},
		{n: 16, m: 48, k: 1024},
		{n: 33, m: 100, k: 330, scaled: true, add: true},
		{n: 140, m: 150, k: 96, odd: true},
	} {
		for _, kind := range []string{"f32", "bf16", "i8"} {
			for _, s := range storages {
				t.Run(fmt.Sprintf("%s of %s, [%d, %d] by [%d, %d]", kind, s, c.n, c.k, c.m, c.k), func(t *testing.T) {
					p := newProduct(t, s, kind, c.n, c.m, c.k, c.scaled, c.add, c.odd)
					var first []float32
					for _, name := range p.variants() {
						got := p.variant(t, name)
						near(t, name, got, p.want, s.bound(boundSum))
						if first == nil {
							first = got
						} else if !sameBits(first, got) {
							t.Errorf("%s gives other bits than %s", name, p.variants()[0])
						}
					}
					for _, row := range []int{0, c.n / 2, c.n - 1} {
						p.alone(t, row, first)
					}
				})
			}
		}
	}
}

// alone computes one row by itself.
func (p *product) alone(t *testing.T, row int, all []float32) {
	t.Helper()
	one := *p
	one.n, one.before = 1, p.before[row*p.ldy:][:p.ldy]
	bytes := p.bytes()
	if p.kind == "i8" {
		bytes = 1
		one.bank += address(row * p.ldx / int8Block * 4)
	}
	one.x += address(row * p.ldx * bytes)
	if p.index != 0 {
		one.index += address(row * 4)
	}
	if got := one.variant(t, "skinny"); !sameBits(got, all[row*p.m:][:p.m]) {
		t.Errorf("row %d alone has other bits", row)
	}
}

// TestProductsScaleOutputs compares with a product, scalecols, and add.
func TestProductsScaleOutputs(t *testing.T) {
	const n, m, k = 7, 70, 200
	for _, kind := range []string{"f32", "bf16"} {
		for _, s := range storages {
			t.Run(kind+" of "+string(s), func(t *testing.T) {
				p := newProduct(t, s, kind, n, m, k, false, false, false)
				plain := p.variant(t, "skinny")
				bank, index, old := random(scaleRows*m, 6), indices(n, scaleRows, 7), s.round(random(n*m, 8))
				want := make([]float32, n*m)
				for i, v := range plain {
					scaled := s.round([]float32{v * bank[int(index[i/m])*m+i%m]})[0]
					want[i] = s.round([]float32{scaled + old[i]})[0]
				}
				const addAndScale = 3
				p.bank, p.index, p.flags, p.before = upload(t, bank), upload(t, index), addAndScale, old
				for _, name := range p.variants() {
					if got := p.variant(t, name); !sameBits(got, want) {
						t.Errorf("%s differs", name)
					}
				}
			})
		}
	}
}

// TestProductsOfWhatIsNotFinite: such an element spoils its row and no other.
func TestProductsOfWhatIsNotFinite(t *testing.T) {
	const n, m, k = 5, 40, 130
	for _, kind := range []string{"f32", "bf16", "i8"} {
		for _, v := range []float32{float32(math.NaN()), float32(math.Inf(1))} {
			t.Run(fmt.Sprintf("%s, %v", kind, v), func(t *testing.T) {
				s := storages[0]
				x := random(n*k, 1)
				clean := slices.Clone(x)
				x[2*k+k-1] = v
				run := func(x []float32) [][]float32 {
					p := &product{storage: s, weight: newWeight(t, kind, m, k, 2), n: n, ldx: k, ldy: m, x: upload(t, x), before: make([]float32, n*m)}
					if kind == "i8" {
						q, scales := alloc(t, n*p.ldw), alloc(t, n*p.ldw/int8Block*4)
						launch(t, "quantise_f32", blocks(1), q, scales, p.x, address(0), address(0), n, k, k, p.ldw)
						p.x, p.bank, p.ldx = q, scales, p.ldw
					}
					var all [][]float32
					for _, name := range p.variants() {
						all = append(all, p.variant(t, name))
					}
					return all
				}
				spoilt, good := run(x), run(clean)
				for i := range spoilt {
					for row := range n {
						got, want := spoilt[i][row*m:][:m], good[i][row*m:][:m]
						if row != 2 && !sameBits(got, want) {
							t.Errorf("variant %d: row %d is changed", i, row)
						}
						for _, y := range got {
							if row == 2 && y-y == 0 {
								t.Fatalf("variant %d: row 2 has %v", i, y)
							}
						}
					}
				}
			})
		}
	}
}
