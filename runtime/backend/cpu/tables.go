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

// NewArena implements backend.Device.
func (b *Backend) NewArena() backend.Arena { return backend.NewArena(b) }
