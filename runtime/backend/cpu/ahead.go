package cpu

import (
	"runtime"
	"sync"
	"sync/atomic"
	"weak"
)

// While one token goes through a layer, the memory rests wherever an operation is
// too small to be divided, and so do the workers. So they read ahead: a worker that
// waits brings what it will want of the next product to its cache. Nobody has to
// say which one is next, as all tokens take the same way through a model: it is the
// one that came after this one the last time. Where that is wrong, something was
// read in vain.

const (
	// aheadFloats is what a worker reads ahead at most: half of the second cache of
	// today's processors.
	aheadFloats = 512 << 10 / 4
	// aheadStep is what it reads between two looks for a job.
	aheadStep = 4 << 10 / 4
)

// successor is what came after the products of which a matrix was the first, the
// last time. It does not belong to the matrix, so that to know it holds no weights.
type successor struct{ atomic.Pointer[reading] }

// reading is what some products will read of their matrices.
type reading struct {
	of       *successor // Of the first of them.
	matrices []weak.Pointer[packed]
	split    split
}

// follow notes that products came after the ones before them, and lets workers read
// ahead what is likely to come after these.
func (b *Backend) follow(all []multiplication, by split) {
	this := all[0].after
	if last := b.last.Swap(this); last != nil {
		if r := last.Load(); r == nil || r.of != this || r.split != by {
			r = &reading{of: this, split: by}
			for _, m := range all {
				r.matrices = append(r.matrices, weak.Make(m.packed))
			}
			last.Store(r)
		}
	}
	b.pool.ahead.Store(this.Load())
}

// start returns the memory that a worker is likely to begin with, and the matrices whose
// it is. The caller of the products is thread 0.
func (r *reading) start(thread int) (memory [][]float32, matrices []*packed) {
	if thread >= r.split.large {
		return nil, nil
	}
	matrices = make([]*packed, len(r.matrices))
	for i, m := range r.matrices {
		if matrices[i] = m.Value(); matrices[i] == nil {
			return nil, nil
		}
	}
	left := aheadFloats
	for i, p := range parts(matrices, r.split.task(thread)) {
		m := matrices[i]
		size := m.steps * m.stepWords
		panels := m.panels[p.from*size : p.to*size]
		panels = panels[:min(left, len(panels))]
		memory, left = append(memory, panels), left-len(panels)
	}
	return memory, matrices
}

// reader reads ahead for one worker.
type reader struct {
	reading *reading
	memory  [][]float32 // What is left of it,
	of      []*packed   // of these, which stay while it is read.
	sum     float32     // Of what was read, without which the compiler may drop the loads.
	// Held while something is read: weights may be composed anew where they are.
	still *sync.RWMutex
}

// read reads a little of what is likely to be next.
func (r *reader) read(next *reading, thread int) {
	if next != r.reading {
		r.reading, r.memory, r.of = next, nil, nil
		if next != nil {
			r.memory, r.of = next.start(thread)
		}
	}
	if len(r.memory) == 0 || !r.still.TryRLock() {
		return
	}
	defer r.still.RUnlock()
	rest, of := r.memory[0], r.of
	step := rest[:min(aheadStep, len(rest))]
	for i := 0; i < len(step); i += alignment { // A cache line at a time.
		r.sum += step[i]
	}
	if r.memory[0] = rest[len(step):]; len(step) == len(rest) {
		if r.memory = r.memory[1:]; len(r.memory) == 0 {
			r.of = nil
		}
	}
	runtime.KeepAlive(of)
}
