//go:build cuda

package cuda

import (
	"fmt"
	"sync"

	"github.com/transformersquared/operator/runtime/backend"
)

// tables are lists behind each other in one block. What was set is kept on the host,
// too: operations check what they are asked for.
type tables struct {
	backend *Backend
	block   *held
	lists   []list
}

// list is a backend.Index.
type list struct {
	at     address
	values []int32
	block  *held // Keeps the memory.

	mu        sync.Mutex
	attending *attending // Where these are counts of keys; see rowsOf.
}

// Len implements backend.Index.
func (l *list) Len() int { return len(l.values) }

// tableAlignment is what lists begin at, in numbers: 16 bytes.
const tableAlignment = 4

// NewTables implements backend.Device.
func (b *Backend) NewTables() (backend.Tables, error) { return &tables{backend: b}, nil }

// Set implements backend.Tables.
func (t *tables) Set(lists ...[]int32) error {
	total := 0
	for _, l := range lists {
		total += (len(l) + tableAlignment - 1) / tableAlignment * tableAlignment
	}
	bytes := backend.F32.Bytes(1, total)
	if t.block == nil || t.block.giver.block.size < bytes {
		room := bytes
		if was := t.block; was != nil {
			// The old lists are dead, and what reads them is queued before who gets it next.
			room, t.block = max(bytes, 2*was.giver.block.size), nil
			was.giver.give()
		}
		block, err := t.backend.holdStep(room)
		if err != nil {
			return fmt.Errorf("tables of a step: %w", err)
		}
		t.block = block
	}
	staged := make([]int32, total)
	t.lists = make([]list, len(lists))
	at := 0
	for i, l := range lists {
		own := staged[at : at+len(l) : at+len(l)]
		copy(own, l)
		t.lists[i].at, t.lists[i].values, t.lists[i].block = t.block.at()+address(backend.F32.Bytes(1, at)), own, t.block
		at += (len(l) + tableAlignment - 1) / tableAlignment * tableAlignment
	}
	if total == 0 {
		return nil
	}
	dst, block := t.block.at(), t.block
	return t.backend.fromHost(func() error {
		_ = block // Not given back before.
		return t.backend.owner.copyUp(dst, elements(staged), bytes)
	})
}

// firstRows are the numbers from 0 to n−1 on the device: all rows of a matrix.
func (b *Backend) firstRows(n int) (*tables, error) {
	all := make([]int32, n)
	for i := range all {
		all[i] = int32(i)
	}
	t := &tables{backend: b}
	return t, t.Set(all)
}

// At implements backend.Tables.
func (t *tables) At(i int) backend.Index {
	if i < 0 || i >= len(t.lists) {
		return nil
	}
	return &t.lists[i]
}

// Free implements backend.Tables.
func (t *tables) Free() {
	if t.block != nil {
		t.block.giver.give()
	}
	t.block, t.lists = nil, nil
}

// indices returns a list, or an error when it is not this backend's or does not have so
// many numbers (any number if want is negative).
func indices(op, name string, i backend.Index, want int) (*list, error) {
	own, ok := i.(*list)
	if !ok || own == nil {
		return nil, fmt.Errorf("%s: %s is no list of the cuda backend", op, name)
	}
	if want >= 0 && len(own.values) != want {
		return nil, fmt.Errorf("%s: %s has %d numbers, want %d", op, name, len(own.values), want)
	}
	return own, nil
}

// NewArena implements backend.Device.
func (b *Backend) NewArena() backend.Arena { return backend.NewArena(ofSteps{b}) }

// ofSteps is the memory of steps.
type ofSteps struct{ *Backend }

// Alloc implements backend.Memory.
func (s ofSteps) Alloc(t backend.DType, n int) (backend.Buffer, error) {
	buf, err := s.allocStep(t, n)
	if err != nil {
		return nil, err
	}
	return buf, nil
}
