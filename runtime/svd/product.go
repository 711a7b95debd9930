package svd

import "math"

const (
	// tileRows × tileColumns is what a kernel computes at once.
	tileRows, tileColumns = 8, 16
	// depthBlock is how much of the inner dimension is packed at once, so that a
	// panel of the right operand (32 KiB) stays in the first cache.
	depthBlock = 256
	// A task is blockRows × blockColumns of the result.
	blockRows, blockColumns = 64, 256
)

// operand is a matrix in float64 with any strides: element (i, j) is
// data[i·row + j·column].
type operand struct {
	data        []float64
	row, column int
}

// plain is a row-major matrix with rows that are stride elements apart.
func plain(data []float64, stride int) operand { return operand{data, stride, 1} }

// transposed is the transpose of such a matrix.
func transposed(data []float64, stride int) operand { return operand{data, 1, stride} }

// product computes c [m, n] += alpha·a [m, k]·b [k, n], where rows of c are
// stride elements apart. Sums run in an order that depends on k only. With lower
// set, blocks that lie wholly above the diagonal of c are left alone.
func (t *team) product(c []float64, stride, m, n, k int, alpha float64, a, b operand, lower bool) {
	depth := min(k, depthBlock)
	left := make([]float64, (m+tileRows-1)/tileRows*tileRows*depth)
	right := make([]float64, (n+tileColumns-1)/tileColumns*tileColumns*depth)
	down, across := (m+blockRows-1)/blockRows, (n+blockColumns-1)/blockColumns
	for p := 0; p < k; p += depthBlock {
		if t.ctx.Err() != nil {
			return // The caller reports it before it uses the result.
		}
		depth := min(depthBlock, k-p)
		shifted := operand{a.data[p*a.column:], a.row, a.column}
		t.chunks(m, func(from, to int) { pack(left, shifted, from, to, depth, tileRows) })
		shiftedB := operand{b.data[p*b.row:], b.column, b.row}
		t.chunks(n, func(from, to int) { pack(right, shiftedB, from, to, depth, tileColumns) })
		t.each(down*across, func(i int) {
			r, q := i/across*blockRows, i%across*blockColumns
			if lower && q >= r+blockRows {
				return
			}
			block(c, stride, r, min(m, r+blockRows), q, min(n, q+blockColumns), depth, alpha, left, right)
		})
	}
}

// pack copies the rows from … to−1 of x to panels of width rows, which hold one
// column after the other and are filled up with zeros.
func pack(panels []float64, x operand, from, to, depth, width int) {
	for r := from; r < to; r += width {
		panel := panels[r*depth:][:width*depth]
		rows := min(width, to-r)
		if rows < width {
			clear(panel)
		}
		if x.row == 1 {
			for j := range depth {
				copy(panel[j*width:][:rows], x.data[r+j*x.column:])
			}
			continue
		}
		for i := range rows {
			source := x.data[(r+i)*x.row:]
			if x.column == 1 {
				for j, v := range source[:depth] {
					panel[j*width+i] = v
				}
				continue
			}
			for j := range depth {
				panel[j*width+i] = source[j*x.column]
			}
		}
	}
}

// block adds one task's share of a product to c.
func block(c []float64, stride, top, bottom, first, last, depth int, alpha float64, left, right []float64) {
	for q := first; q < last; q += tileColumns {
		width := min(tileColumns, last-q)
		b := right[q*depth:][:tileColumns*depth]
		for r := top; r < bottom; r += tileRows {
			rows := min(tileRows, bottom-r)
			a := left[r*depth:][:tileRows*depth]
			if rows == tileRows && width == tileColumns {
				addTile(c[r*stride+q:], stride, alpha, a, b, depth)
				continue
			}
			var edge [tileRows * tileColumns]float64
			addTile(edge[:], tileColumns, alpha, a, b, depth)
			for i := range rows {
				row := c[(r+i)*stride+q:][:width]
				for j := range row {
					row[j] += edge[i*tileColumns+j]
				}
			}
		}
	}
}

// tileFunc adds alpha·Σ over depth of a's column [8] times b's row [16] to a tile
// of c, whose rows are stride elements apart. Each element is one chain of fused
// multiplications and additions, so that all of them compute the same bits: a
// decomposition has one digest, whichever processor made it.
type tileFunc func(c []float64, stride int, alpha float64, a, b []float64, depth int)

// addTile is the fastest that the processor has.
var addTile = tiles()[0]

func plainTile(c []float64, stride int, alpha float64, a, b []float64, depth int) {
	var tile [tileRows * tileColumns]float64
	for p := range depth {
		x, y := a[p*tileRows:][:tileRows], b[p*tileColumns:][:tileColumns]
		for i, v := range x {
			row := tile[i*tileColumns:][:tileColumns]
			for j, w := range y {
				row[j] = math.FMA(v, w, row[j])
			}
		}
	}
	for i := range tileRows {
		row := c[i*stride:][:tileColumns]
		for j := range row {
			row[j] = math.FMA(alpha, tile[i*tileColumns+j], row[j])
		}
	}
}
