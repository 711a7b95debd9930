//go:build cuda

package cuda

import (
	"fmt"
	"slices"
	"sync"

	"github.com/transformersquared/operator/runtime/backend"
)

var _ backend.Reserver = (*Backend)(nil)

// workspaces are what was reserved for steps.
type workspaces struct {
	mu  sync.Mutex
	all []*workspace
}

// Reserve implements backend.Reserver.
func (b *Backend) Reserve(bytes int64) (release func(), err error) {
	if b.recording != nil {
		return nil, fmt.Errorf("reserve device memory: %w", errRecording)
	}
	if bytes <= 0 {
		return nil, fmt.Errorf("reserve %d bytes of device memory", bytes)
	}
	all, err := b.hold(bytes)
	if err != nil {
		return nil, fmt.Errorf("reserve %d bytes for steps: %w", bytes, err)
	}
	w := &workspace{memory: all, free: []block{all.giver.block}}
	b.reserved.mu.Lock()
	defer b.reserved.mu.Unlock()
	b.reserved.all = append(b.reserved.all, w)
	return func() {
		b.reserved.mu.Lock()
		defer b.reserved.mu.Unlock()
		b.reserved.all = slices.DeleteFunc(b.reserved.all, func(o *workspace) bool { return o == w })
		w.release()
	}, nil
}

// take implements pool: of what was reserved, or else of the device's memory.
func (d *device) take(bytes int64) (block, error) {
	d.reserved.mu.Lock()
	for _, w := range d.reserved.all {
		if b, ok := w.take(bytes); ok {
			d.reserved.mu.Unlock()
			return b, nil
		}
	}
	d.reserved.mu.Unlock()
	return d.memory.take(bytes)
}

// workspace is a piece of memory that is divided among the buffers of steps: the smallest
// part that is free and large enough is cut, and parts that are free beside each other
// become one. All work is in the order of one queue, so that what is given back can be
// given out at once.
type workspace struct {
	memory *held

	mu       sync.Mutex
	free     []block // By address; no two touch.
	released bool
	taken    int // Blocks.
}

// workspaceAlignment is what blocks begin at, as those of the driver do.
const workspaceAlignment = 256

func (w *workspace) take(bytes int64) (block, bool) {
	size := max(bytes+workspaceAlignment-1, workspaceAlignment) / workspaceAlignment * workspaceAlignment
	w.mu.Lock()
	defer w.mu.Unlock()
	best := -1
	for i, f := range w.free {
		if f.size >= size && (best < 0 || f.size < w.free[best].size) {
			best = i
		}
	}
	if best < 0 || bytes < 0 {
		return block{}, false
	}
	f := &w.free[best]
	b := block{at: f.at, size: size, home: w}
	f.at, f.size = f.at+address(size), f.size-size
	if f.size == 0 {
		w.free = slices.Delete(w.free, best, best+1)
	}
	w.taken++
	return b, true
}

// give implements home.
func (w *workspace) give(b block) {
	w.mu.Lock()
	defer w.mu.Unlock()
	i, _ := slices.BinarySearchFunc(w.free, b.at, func(f block, at address) int {
		if f.at < at {
			return -1
		}
		return 1
	})
	w.free = slices.Insert(w.free, i, block{at: b.at, size: b.size})
	if i+1 < len(w.free) && w.free[i].at+address(w.free[i].size) == w.free[i+1].at {
		w.free[i].size += w.free[i+1].size
		w.free = slices.Delete(w.free, i+1, i+2)
	}
	if i > 0 && w.free[i-1].at+address(w.free[i-1].size) == w.free[i].at {
		w.free[i-1].size += w.free[i].size
		w.free = slices.Delete(w.free, i, i+1)
	}
	if w.taken--; w.released && w.taken == 0 {
		w.memory.giver.give()
	}
}

// release gives the memory back as soon as no part of it is in use.
func (w *workspace) release() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.released {
		return
	}
	if w.released = true; w.taken == 0 {
		w.memory.giver.give()
	}
}
