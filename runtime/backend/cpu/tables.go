package cpu

import (
	"fmt"

	"github.com/transformersquared/operator/runtime/backend"
)

// tables are the caller's own lists: there is nothing to upload.
type tables struct {
	lists []list
}

// list is a backend.Index.
type list struct {
	values []int32
}

// Len implements backend.Index.
func (l *list) Len() int { return len(l.values) }

// NewTables implements backend.Device.
func (b *Backend) NewTables() (backend.Tables, error) {
	if err := b.Sync(); err != nil {
		return nil, err
	}
	return &tables{}, nil
}

// Set implements backend.Tables.
func (t *tables) Set(lists ...[]int32) error {
	t.lists = make([]list, len(lists))
	for i, values := range lists {
		t.lists[i].values = values
	}
	return nil
}

// At implements backend.Tables.
func (t *tables) At(i int) backend.Index {
	if i < 0 || i >= len(t.lists) {
		return nil
	}
	return &t.lists[i]
}

// Free implements backend.Tables.
func (t *tables) Free() { t.lists = nil }

// indices returns a list's numbers, or an error when it is not this backend's or
// does not have so many (any number if want is negative).
func indices(op, name string, i backend.Index, want int) ([]int32, error) {
	own, ok := i.(*list)
	if !ok || own == nil {
		return nil, fmt.Errorf("%s: %s is no list of the cpu backend", op, name)
	}
	if want >= 0 && len(own.values) != want {
		return nil, fmt.Errorf("%s: %s has %d numbers, want %d", op, name, len(own.values), want)
	}
	return own.values, nil
}

// stepArena is backend.Arena: it remembers what is allocated.
type stepArena struct {
	memory memory
	live   map[backend.Buffer]struct{}
}

// memory is what an arena's buffers come from: the backend.
type memory interface {
	Alloc(t backend.DType, n int) (backend.Buffer, error)
	Free(b backend.Buffer)
}

// NewArena implements backend.Device.
func (b *Backend) NewArena() backend.Arena { return newArena(b) }

func newArena(m memory) *stepArena {
	return &stepArena{memory: m, live: map[backend.Buffer]struct{}{}}
}

// Alloc implements backend.Arena.
func (a *stepArena) Alloc(t backend.DType, n int) (backend.Buffer, error) {
	b, err := a.memory.Alloc(t, n)
	if err == nil {
		a.Adopt(b)
	}
	return b, err
}

// Free implements backend.Arena.
func (a *stepArena) Free(b backend.Buffer) {
	delete(a.live, b)
	a.memory.Free(b)
}

// Adopt implements backend.Arena.
func (a *stepArena) Adopt(b backend.Buffer) { a.live[b] = struct{}{} }

// Release implements backend.Arena.
func (a *stepArena) Release(b backend.Buffer) { delete(a.live, b) }

// Reset implements backend.Arena.
func (a *stepArena) Reset() {
	for b := range a.live {
		a.memory.Free(b)
	}
	clear(a.live)
}
