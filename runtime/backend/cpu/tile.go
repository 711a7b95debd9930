package cpu

// block computes rows [row, rowEnd) by panels [panel, panelEnd) of a product.
func (b *Backend) block(m multiplication, row, rowEnd, panel, panelEnd int) {
	t, _ := b.tilers.Get().(*tiler)
	if t == nil {
		t = &tiler{}
	}
	t.multiplication = m
	t.row, t.tiles, t.panelEnd = row, (rowEnd-row+m.mr-1)/m.mr, panelEnd
	each := m.packed.blockSteps(m.product)
	if rowEnd-row == 1 { // Nothing is used twice: read the panels front to back.
		each = m.steps
	}
	for first := 0; first < m.steps; first += each {
		t.first, t.args.steps = first, min(each, m.steps-first)
		t.args.add = m.add || first > 0
		t.take(rowEnd)
		group := max(1, blockPanel/(t.args.steps*m.stepWords))
		for g := panel; g < panelEnd; g += group {
			for tile := range t.tiles {
				t.args.rows = min(m.mr, rowEnd-row-tile*m.mr)
				t.across(tile, g, group)
			}
		}
	}
	t.release()
	b.tilers.Put(t)
}

// blockSteps is the number of steps of a block; all blocks have about as many.
func (p *packed) blockSteps(by *product) int {
	most, unit := by.blockSteps, by.unit
	if most == 0 {
		most = formats[p.kind].blockSteps
	}
	if unit == 0 {
		unit = 4 // Steps that most kernels take together.
	}
	blocks := max(1, (p.steps+most-1)/most)
	return roundUp((p.steps+blocks-1)/blocks, unit)
}

// tiler computes the tiles of one block of steps. It is kept for the next one, since
// what a kernel is given lives on the heap.
type tiler struct {
	multiplication
	args    tileArgs
	scratch [maxTile]float32

	row, tiles int // The first row, and how many tiles of rows there are.
	panelEnd   int // Behind the last panel.
	first      int // Step.

	// The rows as the kernels take them, from the block's first step on.
	rows   []float32
	made   []float32 // Their memory, where they are not a's.
	scaled []float32 // Of one row.
}

// release drops the references to memory that belongs to others.
func (t *tiler) release() {
	t.multiplication, t.args, t.rows = multiplication{}, tileArgs{sums: t.args.sums, wide: t.args.wide}, nil
}

// take sets rows to the steps of a block of a's rows before to. What several
// blocks of one product need is made for each: it stays in the cache so, and
// nobody waits for it.
func (t *tiler) take(to int) {
	direct := t.prepare == nil && t.by.none()
	if direct && (t.lda%aliasing != 0 || to-t.row == 1) {
		t.rows, t.args.lda = t.a[t.row*t.lda+t.first:], t.lda
		return
	}
	perStep := formats[t.kind].columns
	column := t.first * perStep
	columns := min(t.args.steps*perStep, t.k-column)
	width := t.args.steps * t.rowWords
	apart := width
	if t.spread {
		apart = roundUp(width, lineWords) | lineWords
	}
	t.made = resized(t.made, (to-t.row)*apart)
	for r := t.row; r < to; r++ {
		source, made := t.a[r*t.lda+column:][:columns], t.made[(r-t.row)*apart:][:width]
		if direct {
			copy(made, source)
			continue
		}
		if !t.by.none() {
			scaled := made
			if t.prepare != nil {
				t.scaled = resized(t.scaled, columns)
				scaled = t.scaled
			}
			t.mul(scaled, source, t.by.row(r)[column:][:columns])
			source = scaled
		}
		if t.prepare != nil {
			clear(made[width-t.rowWords:])
			t.prepare(made, source)
		}
	}
	t.rows, t.args.lda = t.made, apart
}

// resized returns a slice of n elements, s itself where it has room.
func resized(s []float32, n int) []float32 {
	if cap(s) < n {
		return make([]float32, n)
	}
	return s[:n]
}

// across computes one tile of rows by a group of panels.
func (t *tiler) across(tile, panel, group int) {
	nr, row := t.packed.nr, t.row+tile*t.mr
	t.args.a = t.rows[tile*t.mr*t.args.lda:]
	t.args.ldc = t.ldc
	for q := panel; q < min(t.panelEnd, panel+group); q++ {
		t.args.panel = t.stepsOf(q)
		t.fetch(tile, q+group)
		if (q+1)*nr > t.out {
			t.edge(row, q*nr)
			return
		}
		t.args.c = t.c[row*t.ldc+q*nr:]
		t.tile(&t.args)
	}
}

// stepsOf returns the block's steps of a panel.
func (t *tiler) stepsOf(panel int) []float32 {
	return t.panels[(panel*t.steps+t.first)*t.stepWords:][:t.args.steps*t.stepWords]
}

// fetch lets a tile fetch its share of a panel of the next group, if there is one: the
// tiles of all rows fetch it together.
func (t *tiler) fetch(tile, panel int) {
	t.args.ahead, t.args.stride = t.args.panel, 0
	if panel < t.panelEnd && t.fetches > 0 {
		next := t.stepsOf(panel)
		t.args.ahead = next[len(next)*tile/t.tiles:]
		times := t.fetches * t.tiles
		t.args.stride = min(cacheLine, (4*t.stepWords+times-1)/times)
	}
}

// edge computes a tile that sticks out of the matrix, on scratch memory, so that
// the same kernel serves it.
func (t *tiler) edge(row, column int) {
	out, nr := t.out, t.packed.nr
	columns := out - column
	if t.args.add {
		for r := range t.args.rows {
			copy(t.scratch[r*nr:][:columns], t.c[(row+r)*t.ldc+column:])
		}
	}
	t.args.c, t.args.ldc = t.scratch[:], nr
	t.tile(&t.args)
	for r := range t.args.rows {
		copy(t.c[(row+r)*t.ldc+column:][:columns], t.scratch[r*nr:])
	}
}
