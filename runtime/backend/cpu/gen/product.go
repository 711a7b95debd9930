package main

import (
	"bytes"
	"fmt"
)

// product is a family of matrix-product kernels, one for each number of rows up to
// mr.
type product struct {
	isa
	name   string // Of the kernels, behind "tile".
	mr     int
	unroll int // Steps of k in the main loop.
	// rowWords is what a step takes of a row of a, and panelWords of a panel, for
	// each of its columns; a word has four bytes.
	rowWords, panelWords int
	// setup fills registers before the loop.
	setup func(k *kernel)
	// step is the i-th step of an iteration.
	step func(k *kernel, i int)
}

// kernel is one kernel while it is written.
type kernel struct {
	*product
	w    *bytes.Buffer
	rows int
	// fetched counts the calls of fetch.
	fetched int
}

func (p *product) write(f *files) {
	k := &kernel{product: p, w: &bytes.Buffer{}, rows: p.mr}
	p.step(k, 0)
	fmt.Fprintf(&f.decl, "\nconst fetches%s = %d\n", p.name, k.fetched)
	for rows := 1; rows <= p.mr; rows++ {
		fmt.Fprintf(&f.decl, "\n//go:noescape\nfunc tile%s_%d(t *tileArgs)\n", p.name, rows)
		p.kernel(&f.asm, rows, fmt.Sprintf("tile%s_%d", p.name, rows))
	}
	fmt.Fprintf(&f.decl, "\nfunc tile%s(t *tileArgs) {\n\tswitch t.rows {\n", p.name)
	for rows := 1; rows <= p.mr; rows++ {
		fmt.Fprintf(&f.decl, "\tcase %d:\n\t\ttile%s_%d(t)\n", rows, p.name, rows)
	}
	fmt.Fprintf(&f.decl, "\t}\n}\n")
}

// rowBase are the registers that point to rows 0, 3, 6 and 9 of a; with the
// row stride in R12 as an index, scaled by 0, 1 or 2, they reach all twelve.
var rowBase = []string{"R8", "R9", "R10", "R11"}

// panelBase is the register that points to the panel. A single row of several
// panels at once would hide the latency of its chain of additions, and was slower:
// the processor fetches one run of memory ahead better than four.
const panelBase = "BX"

// fetchBase is the register that points to what is fetched ahead, and fetchStride
// how far it moves each time.
const fetchBase, fetchStride = "R13", "DX"

func (k *kernel) p(format string, args ...any) { fmt.Fprintf(k.w, "\t"+format+"\n", args...) }

func (k *kernel) label(l string) { fmt.Fprintf(k.w, "%s:\n", l) }

// r names a register.
func (k *kernel) r(i int) string { return fmt.Sprintf("%s%d", k.reg, i) }

// accumulators is the number of registers that hold c.
func (k *kernel) accumulators() int { return k.rows * k.vectors }

// acc is the number of the accumulator of vector j of a row.
func (k *kernel) acc(row, j int) int { return row*k.vectors + j }

// spare is the i-th register behind used ones; it takes them in turn.
func (k *kernel) spare(used, i int) int { return used + i%(k.registers-used) }

// row is the address of a word of step i of a row of a.
func (k *kernel) row(row, i, word int) string {
	displacement := 4 * (i*k.rowWords + word)
	base := rowBase[row/3]
	switch row % 3 {
	case 0:
		return fmt.Sprintf("%d(%s)", displacement, base)
	case 1:
		return fmt.Sprintf("%d(%s)(R12*1)", displacement, base)
	default:
		return fmt.Sprintf("%d(%s)(R12*2)", displacement, base)
	}
}

// panel is the address of vector j of a line of those that a step has.
func (k *kernel) panel(j, i, line int) string {
	vector := (i*k.panelWords+line)*k.vectors + j
	return fmt.Sprintf("%d(%s)", vector*4*k.lanes, panelBase)
}

// kernel writes one kernel for this many rows.
func (p *product) kernel(w *bytes.Buffer, rows int, name string) {
	k := &kernel{product: p, w: w, rows: rows}
	fmt.Fprintf(w, "\n// func %s(t *tileArgs)\nTEXT ·%s(SB), NOSPLIT, $0-8\n", name, name)
	k.load()
	k.start()
	if p.setup != nil {
		p.setup(k)
	}
	if p.unroll > 1 {
		k.p("SUBQ $%d, CX", p.unroll)
		k.p("JLT rest")
		k.label("loop")
		for i := range p.unroll {
			p.step(k, i)
		}
		k.advance(p.unroll)
		k.p("SUBQ $%d, CX", p.unroll)
		k.p("JGE loop")
		k.label("rest")
		k.p("ADDQ $%d, CX", p.unroll)
	} else {
		k.p("TESTQ CX, CX")
	}
	k.p("JEQ store")
	k.label("one")
	p.step(k, 0)
	k.advance(1)
	k.p("DECQ CX")
	k.p("JNE one")
	k.label("store")
	k.each(func(row, j int, acc string) {
		if j == 0 && row > 0 {
			k.p("ADDQ SI, DI")
		}
		k.p("VMOVUPS %s, %d(DI)", acc, j*4*k.lanes)
	})
	k.p("VZEROUPPER")
	k.p("RET")
}

// load reads the arguments and sets the pointers up.
func (k *kernel) load() {
	k.p("MOVQ t+0(FP), AX")
	k.p("MOVQ tileArgs_c(AX), DI")
	k.p("MOVQ tileArgs_ldc(AX), SI")
	k.p("SHLQ $2, SI")
	k.p("MOVQ tileArgs_a(AX), R8")
	k.p("MOVQ tileArgs_lda(AX), R12")
	k.p("SHLQ $2, R12")
	k.p("MOVQ tileArgs_panel(AX), %s", panelBase)
	k.p("MOVQ tileArgs_steps(AX), CX")
	if k.fetches() {
		k.p("MOVQ tileArgs_ahead(AX), %s", fetchBase)
		k.p("MOVQ tileArgs_stride(AX), %s", fetchStride)
	}
	for base := 1; base*3 < k.rows; base++ {
		k.p("LEAQ (%s)(R12*2), %s", rowBase[base-1], rowBase[base])
		k.p("ADDQ R12, %s", rowBase[base])
	}
}

// fetches says whether the kernel fetches ahead. One of a single row is bound by memory,
// which the processor reads ahead by itself.
func (k *kernel) fetches() bool { return k.rows > 1 }

// fetch brings a line of memory that a later tile wants to the second cache. Steps
// call it evenly, so that it does not fill the queues of the memory.
func (k *kernel) fetch() {
	if k.fetches() {
		k.fetched++
		k.p("PREFETCHT1 (%s)", fetchBase)
		k.p("ADDQ %s, %s", fetchStride, fetchBase)
	}
}

// start fills the accumulators from c, or with zero.
func (k *kernel) start() {
	k.p("CMPB tileArgs_add(AX), $0")
	k.p("JEQ zero")
	k.p("MOVQ DI, AX")
	k.each(func(row, j int, acc string) {
		if j == 0 && row > 0 {
			k.p("ADDQ SI, AX")
		}
		k.p("VMOVUPS %d(AX), %s", j*4*k.lanes, acc)
	})
	k.p("JMP start")
	k.label("zero")
	k.each(func(_, _ int, acc string) { k.p("%s %s, %s, %s", k.zero, acc, acc, acc) })
	k.label("start")
}

// each visits the accumulators.
func (k *kernel) each(f func(row, j int, acc string)) {
	for row := range k.rows {
		for j := range k.vectors {
			f(row, j, k.r(k.acc(row, j)))
		}
	}
}

// advance moves the pointers on.
func (k *kernel) advance(steps int) {
	k.p("ADDQ $%d, %s", steps*k.panelWords*k.vectors*4*k.lanes, panelBase)
	for base := 0; base*3 < k.rows; base++ {
		k.p("ADDQ $%d, %s", 4*steps*k.rowWords, rowBase[base])
	}
}

// mask fills the last register with a word.
func (k *kernel) mask(word uint32) {
	k.p("MOVL $0x%08x, AX", word)
	source := "AX"
	if k.reg != "Z" { // Has no broadcast from there.
		source = fmt.Sprintf("X%d", k.registers-1)
		k.p("VMOVD AX, %s", source)
	}
	k.p("VPBROADCASTD %s, %s", source, k.r(k.registers-1))
}

// float32Product multiplies with float32 panels.
func float32Product(s isa) product {
	return product{
		isa: s, name: s.name, mr: s.mr, unroll: 4, rowWords: 1, panelWords: 1,
		step: func(k *kernel, i int) {
			used := k.accumulators()
			line := make([]string, k.vectors)
			for j := range line {
				line[j] = k.panel(j, i, 0)
				k.fetch()
				if k.rows > 1 { // Used more than once: worth a register.
					k.p("VMOVUPS %s, %s", line[j], k.r(used))
					line[j] = k.r(used)
					used++
				}
			}
			for r := range k.rows {
				broadcast := k.r(k.spare(used, r))
				k.p("VBROADCASTSS %s, %s", k.row(r, i, 0), broadcast)
				for j, b := range line {
					k.p("VFMADD231PS %s, %s, %s", b, broadcast, k.r(k.acc(r, j)))
				}
			}
		},
	}
}
