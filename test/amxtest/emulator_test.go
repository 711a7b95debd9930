//go:build linux && amd64 && cgo

package amxtest

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/big"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"
	"unsafe"
)

// The instructions of the tests, as binutils 2.40 assembles them; DI is the
// configuration, SI a, DX b and CX c, whose rows are 64 bytes apart, in R8.
var (
	ldtilecfg    = []byte{0xc4, 0xe2, 0x78, 0x49, 0x07}       // ldtilecfg [rdi]
	sttilecfg    = []byte{0xc4, 0xe2, 0x79, 0x49, 0x07}       // sttilecfg [rdi]
	tilerelease  = []byte{0xc4, 0xe2, 0x78, 0x49, 0xc0}       // tilerelease
	tilezeroC    = []byte{0xc4, 0xe2, 0x7b, 0x49, 0xc0}       // tilezero tmm0
	tileloadC    = []byte{0xc4, 0xa2, 0x7b, 0x4b, 0x04, 0x01} // tileloadd tmm0, [rcx+r8*1]
	tileloadA    = []byte{0xc4, 0xa2, 0x7b, 0x4b, 0x0c, 0x06} // tileloadd tmm1, [rsi+r8*1]
	tileloadB    = []byte{0xc4, 0xa2, 0x79, 0x4b, 0x14, 0x02} // tileloaddt1 tmm2, [rdx+r8*1]
	tilestoreC   = []byte{0xc4, 0xa2, 0x7a, 0x4b, 0x04, 0x01} // tilestored [rcx+r8*1], tmm0
	tileload9    = []byte{0xc4, 0x22, 0x7b, 0x4b, 0x0c, 0x06} // The same as A, with VEX.R.
	tileloadFlat = []byte{0xc4, 0xe2, 0x7b, 0x4b, 0x0c, 0x26} // tileloadd tmm1, [rsi]
	tdpbf16ps    = []byte{0xc4, 0xe2, 0x6a, 0x5c, 0xc1}       // tdpbf16ps tmm0, tmm1, tmm2
	tdpbf16Same  = []byte{0xc4, 0xe2, 0x72, 0x5c, 0xc1}       // tdpbf16ps tmm0, tmm1, tmm1
	integers     = map[string][]byte{                         // tdpb…d tmm0, tmm1, tmm2
		"TDPBSSD": {0xc4, 0xe2, 0x6b, 0x5e, 0xc1}, "TDPBSUD": {0xc4, 0xe2, 0x6a, 0x5e, 0xc1},
		"TDPBUSD": {0xc4, 0xe2, 0x69, 0x5e, 0xc1}, "TDPBUUD": {0xc4, 0xe2, 0x68, 0x5e, 0xc1},
	}
	ret = []byte{0xc3}
)

// tile is the memory of one.
type tile [16][64]byte

// machine is the memory of a test's instructions.
type machine struct {
	config  [64]byte
	a, b, c tile
}

// shape configures c [m, n], a [m, k] and b [k, n], of words.
func (m *machine) shape(rows, k, columns int) {
	m.config = [64]byte{0: 1}
	for i, s := range [][2]int{{rows, columns}, {rows, k}, {k, columns}} {
		m.config[48+i], m.config[16+2*i] = byte(s[0]), byte(4*s[1])
	}
}

// run executes instructions and returns what was wrong with them.
func (m *machine) run(t *testing.T, code ...[]byte) []string {
	t.Helper()
	if err := Install(); err != nil {
		t.Skip(err)
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	at := func(p *[64]byte) uintptr { return uintptr(unsafe.Pointer(p)) }
	pinned := runtime.Pinner{}
	pinned.Pin(m)
	defer pinned.Unpin()
	arguments := [6]uintptr{at(&m.config), at(&m.a[0]), at(&m.b[0]), at(&m.c[0]), 64, 64}
	if err := Call(slices.Concat(append(code, ret)...), arguments); err != nil {
		t.Fatal(err)
	}
	return Faults()
}

func (m *machine) fill(r *rand.Rand, word func() uint32) {
	for _, of := range []*tile{&m.a, &m.b} {
		for i := range of {
			for j := 0; j < 64; j += 4 {
				binary.LittleEndian.PutUint32(of[i][j:], word())
			}
		}
	}
	for i := range m.c {
		for j := 0; j < 64; j += 4 {
			binary.LittleEndian.PutUint32(m.c[i][j:], r.Uint32())
		}
	}
}

func (t *tile) word(row, i int) uint32 { return binary.LittleEndian.Uint32(t[row][4*i:]) }

// rounded is v, exact, as the manual rounds: to nearest, ties to even, with subnormal
// results zero. negative is its sign where it is zero.
func rounded(v *big.Float, negative bool) float32 {
	v.SetPrec(24)
	if v.Sign() == 0 || v.MantExp(nil) < -125 { // Below 2⁻¹²⁶.
		if v.Sign() < 0 || v.Sign() == 0 && negative {
			return math.Float32frombits(1 << 31)
		}
		return 0
	}
	f, _ := v.Float32() // Infinity where it is too large.
	return f
}

// daz is x, or zero where that is subnormal.
func daz(x float32) float32 {
	if bits := math.Float32bits(x); bits&0x7f800000 == 0 {
		return math.Float32frombits(bits & (1 << 31))
	}
	return x
}

// fma is x·y + z as the manual's pseudo code has it, for numbers.
func fma(x, y, z float32) float32 {
	x, y, z = daz(x), daz(y), daz(z)
	product := new(big.Float).SetPrec(1000).Mul(big.NewFloat(float64(x)), big.NewFloat(float64(y)))
	negative := math.Signbit(float64(x)) != math.Signbit(float64(y)) && math.Signbit(float64(z))
	if z != z || math.IsInf(float64(z), 0) {
		return z
	}
	return rounded(product.Add(product, big.NewFloat(float64(z))), negative)
}

// modelBF16 is the manual's pseudo code of TDPBF16PS, for numbers.
func (m *machine) modelBF16(rows, k, columns int) (c [16][16]float32) {
	low, high := func(w uint32) float32 { return math.Float32frombits(w << 16) }, func(w uint32) float32 { return math.Float32frombits(w &^ 0xffff) }
	for r := range rows {
		var temp [32]float32
		for i := range k {
			for n := range columns {
				a, b := m.a.word(r, i), m.b.word(i, n)
				temp[2*n] = fma(low(a), low(b), temp[2*n])
				temp[2*n+1] = fma(high(a), high(b), temp[2*n+1])
			}
		}
		for n := range columns {
			c[r][n] = fma(1, math.Float32frombits(m.c.word(r, n)), fma(1, temp[2*n], temp[2*n+1]))
		}
	}
	return c
}

// bf16Words draws pairs of bfloat16 whose exponents are between two.
func bf16Words(r *rand.Rand, from, to int) func() uint32 {
	half := func() uint32 {
		return uint32(r.IntN(2))<<15 | uint32(from+r.IntN(to-from+1))<<7 | uint32(r.IntN(128))
	}
	return func() uint32 { return half() | half()<<16 }
}

// TestBF16ProductsAreThoseOfTheManual compares with a model that rounds exact numbers: of
// all shapes, of usual magnitudes, and of such that inputs, products and sums are
// subnormal or too large.
func TestBF16ProductsAreThoseOfTheManual(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, exponents := range [][2]int{{110, 140}, {0, 60}, {40, 75}, {60, 68}} {
		for range 12 {
			rows, k, columns := 1+r.IntN(16), 1+r.IntN(16), 1+r.IntN(16)
			var m machine
			m.shape(rows, k, columns)
			m.fill(r, bf16Words(r, exponents[0], exponents[1]))
			for i := range m.c { // Sums of the products' size.
				for j := range 16 {
					w := uint32(r.IntN(2))<<31 | uint32(max(0, exponents[0]+exponents[1]-127+r.IntN(8)-4))<<23 | r.Uint32N(1<<23)
					binary.LittleEndian.PutUint32(m.c[i][4*j:], w)
				}
			}
			want := m.modelBF16(rows, k, columns)
			before := m.c
			if faults := m.run(t, ldtilecfg, tileloadC, tileloadA, tileloadB, tdpbf16ps, tilestoreC, tilerelease); faults != nil {
				t.Fatal(faults)
			}
			for i := range 16 {
				for j := range 16 {
					expected := before.word(i, j)
					if i < rows && j < columns {
						expected = math.Float32bits(want[i][j])
					}
					if got := m.c.word(i, j); got != expected {
						t.Fatalf("[%d, %d]·[%d, %d]: element %d, %d is %#08x, want %#08x", rows, k, k, columns, i, j, got, expected)
					}
				}
			}
		}
	}
}

// TestNumbersThatAreNone spreads as IEEE 754 has it.
func TestNumbersThatAreNone(t *testing.T) {
	var m machine
	m.shape(3, 2, 1)
	one, infinite, nan := uint32(0x3f80), uint32(0x7f80), uint32(0x7fc1)
	for i, w := range []uint32{infinite, infinite | infinite<<16 | 1<<31, nan} {
		binary.LittleEndian.PutUint32(m.a[i][:], w)
	}
	binary.LittleEndian.PutUint32(m.b[0][:], one|one<<16)
	if faults := m.run(t, ldtilecfg, tilezeroC, tileloadA, tileloadB, tdpbf16ps, tilestoreC, tilerelease); faults != nil {
		t.Fatal(faults)
	}
	for i, want := range []string{"+Inf", "NaN", "NaN"} {
		if got := fmt.Sprint(math.Float32frombits(m.c.word(i, 0))); got != want {
			t.Errorf("element %d is %s, want %s", i, got, want)
		}
	}
}

func TestIntegerProductsAreThoseOfTheManual(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for name, code := range integers {
		for range 20 {
			rows, k, columns := 1+r.IntN(16), 1+r.IntN(16), 1+r.IntN(16)
			var m machine
			m.shape(rows, k, columns)
			m.fill(r, r.Uint32)
			want := m.c
			for i := range rows {
				for j := range columns {
					sum := m.c.word(i, j) // Goes round.
					for l := range 4 * k {
						x, y := int32(m.a[i][l]), int32(m.b[l/4][4*j+l%4])
						if strings.HasPrefix(name, "TDPBS") {
							x = int32(int8(x))
						}
						if strings.HasSuffix(name, "SD") {
							y = int32(int8(y))
						}
						sum += uint32(x * y)
					}
					binary.LittleEndian.PutUint32(want[i][4*j:], sum)
				}
			}
			if faults := m.run(t, ldtilecfg, tileloadC, tileloadA, tileloadB, code, tilestoreC, tilerelease); faults != nil {
				t.Fatal(faults)
			}
			if m.c != want {
				t.Fatalf("%s [%d, %d]·[%d, %d] differs", name, rows, k, k, columns)
			}
		}
	}
}

// TestTilesHaveTheirShape wants what is behind rows and columns to be left alone by stores
// and to be zero in a tile; and the configuration back.
func TestTilesHaveTheirShape(t *testing.T) {
	var m machine
	m.shape(3, 2, 5)
	r := rand.New(rand.NewPCG(5, 6))
	m.fill(r, r.Uint32)
	before, config := m, m.config
	if faults := m.run(t, ldtilecfg, tilezeroC, tilestoreC, sttilecfg, tilerelease); faults != nil {
		t.Fatal(faults)
	}
	if m.config != config {
		t.Errorf("the configuration is % x, want % x", m.config, config)
	}
	for i := range 16 {
		for j := range 64 {
			want := before.c[i][j]
			if i < 3 && j < 20 {
				want = 0
			}
			if m.c[i][j] != want {
				t.Fatalf("byte %d of row %d is %d, want %d", j, i, m.c[i][j], want)
			}
		}
	}
	if faults := m.run(t, sttilecfg); faults != nil || m.config != [64]byte{} {
		t.Errorf("released, the configuration is % x (%v)", m.config, faults)
	}
}

// TestWhatTheManualForbidsIsSaid tries what a processor answers with a fault.
func TestWhatTheManualForbidsIsSaid(t *testing.T) {
	load := [][]byte{ldtilecfg, tilezeroC, tileloadA, tileloadB}
	for name, c := range map[string]struct {
		change func(*machine)
		code   [][]byte
		want   string
	}{
		"no configuration":       {code: [][]byte{tilezeroC}, want: "no tile is configured"},
		"another palette":        {change: func(m *machine) { m.config[0] = 2 }, code: [][]byte{ldtilecfg}, want: "palette 2"},
		"a first row":            {change: func(m *machine) { m.config[1] = 1 }, code: [][]byte{ldtilecfg}, want: "first row 1"},
		"a reserved byte":        {change: func(m *machine) { m.config[40] = 1 }, code: [][]byte{ldtilecfg}, want: "byte 40"},
		"too many rows":          {change: func(m *machine) { m.config[48] = 17 }, code: [][]byte{ldtilecfg}, want: "17 rows"},
		"rows too long":          {change: func(m *machine) { m.config[16] = 68 }, code: [][]byte{ldtilecfg}, want: "68 bytes"},
		"rows of nothing":        {change: func(m *machine) { m.config[16] = 0 }, code: [][]byte{ldtilecfg}, want: "of 0 bytes"},
		"a tile without rows":    {change: func(m *machine) { m.config[49], m.config[18] = 0, 0 }, code: [][]byte{ldtilecfg, tileloadA}, want: "tile 1 is not configured"},
		"shapes that do not fit": {change: func(m *machine) { m.config[50] = 3 }, code: append(slices.Clone(load), tdpbf16ps), want: "3 rows of 16 bytes"},
		"one tile twice":         {code: append(slices.Clone(load), tdpbf16Same), want: "are not three"},
		"a ninth tile":           {code: [][]byte{ldtilecfg, tileload9}, want: "VEX.R"},
		"no distance of rows":    {code: [][]byte{ldtilecfg, tileloadFlat}, want: "how far rows are apart"},
		"no release":             {code: [][]byte{ldtilecfg, ldtilecfg}, want: "TILERELEASE is missing"},
	} {
		t.Run(name, func(t *testing.T) {
			var m machine
			m.shape(4, 4, 4)
			if c.change != nil {
				c.change(&m)
			}
			faults := m.run(t, append(c.code, tilerelease)...)
			if len(faults) != 1 || !strings.Contains(faults[0], c.want) {
				t.Errorf("faults %q, want one of %q", faults, c.want)
			}
		})
	}
}

// TestTilesAreOfAThread looks at them from two.
func TestTilesAreOfAThread(t *testing.T) {
	var m machine
	m.shape(1, 1, 1)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if faults := m.run(t, ldtilecfg); faults != nil {
		t.Fatal(faults)
	}
	if !Live() {
		t.Error("this thread has no tiles")
	}
	other := make(chan bool)
	go func() {
		runtime.LockOSThread() // For good: not this test's.
		other <- Live()
	}()
	if <-other {
		t.Error("another thread has tiles")
	}
	if faults := m.run(t, tilerelease); faults != nil || Live() {
		t.Errorf("the tiles are not released (%v)", faults)
	}
}

// TestOtherInstructionsAreLeftToGo executes one that no processor has, in a process of its
// own, and wants Go's runtime to say so.
func TestOtherInstructionsAreLeftToGo(t *testing.T) {
	const asked = "AMXTEST_ILLEGAL"
	if os.Getenv(asked) != "" {
		var m machine
		m.run(t, []byte{0x0f, 0x0b}) // UD2.
		return
	}
	if err := Install(); err != nil {
		t.Skip(err)
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run", "^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), asked+"=1")
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "SIGILL: illegal instruction") {
		t.Errorf("error %v, output:\n%s", err, out)
	}
}
