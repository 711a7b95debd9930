package model

import (
	"fmt"
	"sync"

	"github.com/transformersquared/operator/runtime/backend"
)

// bank holds scales of one projection, its σ⊙z, gains or scales of low-rank pairs, in
// rows of one buffer: its own in the first, and those of mixtures behind it. So a batch
// of many mixtures says of each row which row of the bank is its, for all projections
// alike.
type bank struct {
	columns int

	mu   sync.Mutex
	rows backend.Buffer // [·, columns]
	n    int
}

func newBank(be backend.Backend, own []float32) (*bank, error) {
	rows, err := upload(be, own)
	if err != nil {
		return nil, err
	}
	return &bank{columns: len(own), rows: rows, n: 1}, nil
}

// of returns the scales of rows with this index into the bank; nil means all the own.
func (b *bank) of(index backend.Index) *backend.Scales {
	b.mu.Lock()
	defer b.mu.Unlock()
	return &backend.Scales{Bank: b.rows, Index: index}
}

// part returns some columns of one row, for rows that all have these scales.
func (b *bank) part(p *pass, row, at, n int) *backend.Scales {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := &backend.Scales{}
	p.do(func() (err error) {
		s.Bank, err = p.Rows(b.rows, 1, row*b.columns+at, row*b.columns+at+n)
		return err
	})
	return s
}

// rowBytes is the device memory of a row.
func (b *bank) rowBytes() int64 { return backend.F32.Bytes(1, b.columns) }

// own returns the first row.
func (b *bank) own(be backend.Backend) (backend.Buffer, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return be.Rows(b.rows, b.columns, 0, 1)
}

// host returns a copy of the first row; nil of no bank.
func (b *bank) host(be backend.Backend) ([]float32, error) {
	if b == nil {
		return nil, nil
	}
	own, err := b.own(be)
	if err != nil {
		return nil, err
	}
	out := make([]float32, b.columns)
	return out, be.Download(out, own)
}

// clone returns a bank whose first row is a copy of this one's.
func (b *bank) clone(be backend.Backend) (*bank, error) {
	own, err := b.host(be)
	if err != nil {
		return nil, err
	}
	return newBank(be, own)
}

// scaled returns a bank whose first row is this one's, multiplied by these gains; b itself
// where there is none, or no gains are.
func (b *bank) scaled(be backend.Backend, gains []float32) (*bank, error) {
	if b == nil || gains == nil {
		return b, nil
	}
	own, err := b.host(be)
	if err != nil {
		return nil, err
	}
	if len(gains) != len(own) {
		return nil, fmt.Errorf("%d gains of %d elements", len(gains), len(own))
	}
	for i := range own {
		own[i] *= gains[i]
	}
	return newBank(be, own)
}

// set replaces a row by these values, by the own one times them, or by the own one if
// there are none. The row is nobody's yet.
func (b *bank) set(be backend.Backend, row int, values []float32, times bool) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.grow(be, row+1); err != nil {
		return err
	}
	own, err := be.Rows(b.rows, b.columns, 0, 1)
	if err != nil {
		return err
	}
	dst, err := be.Rows(b.rows, b.columns, row, row+1)
	if err != nil {
		return err
	}
	if values == nil {
		return be.Copy(dst, own)
	}
	if err := be.Upload(dst, values); err != nil || !times {
		return err
	}
	return be.ScaleColumns(dst, dst, backend.Scales{Bank: own}, 1)
}

// replaceOwn replaces the first row.
func (b *bank) replaceOwn(be backend.Backend, s []float32) error {
	own, err := b.own(be)
	if err != nil {
		return err
	}
	return be.Upload(own, s)
}

// grow makes room for n rows. The old buffer is left to the collector: a step may
// still read it.
func (b *bank) grow(be backend.Backend, n int) error {
	const fewest = 8
	if n <= b.n {
		return nil
	}
	n = max(n, 2*b.n, fewest)
	rows, err := be.Alloc(backend.F32, n*b.columns)
	if err != nil {
		return err
	}
	if err := be.Zero(rows); err != nil {
		return err
	}
	begin, err := be.Rows(rows, b.columns, 0, b.n)
	if err != nil {
		return err
	}
	if err := be.Copy(begin, b.rows); err != nil {
		return err
	}
	b.rows, b.n = rows, n
	return nil
}

// bankRows says which rows of the banks of a model and its siblings are taken. The
// first is never.
type bankRows struct {
	mu   sync.Mutex
	free []int
	n    int // Rows that were ever taken, and the first.
}

func newBankRows() *bankRows { return &bankRows{n: 1} }

// take returns a row that is nobody's.
func (r *bankRows) take() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	if last := len(r.free) - 1; last >= 0 {
		row := r.free[last]
		r.free = r.free[:last]
		return row
	}
	r.n++
	return r.n - 1
}

// put gives a row back.
func (r *bankRows) put(row int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.free = append(r.free, row)
}
