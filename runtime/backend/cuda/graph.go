//go:build cuda

package cuda

import (
	"errors"
	"runtime"
	"sync"
	"unsafe"

	"github.com/transformersquared/operator/runtime/backend"
)

// graph is a backend.Graph: an executable graph of the driver.
type graph struct {
	backend    *Backend
	executable unsafe.Pointer
	once       *sync.Once
}

var _ backend.Capturer = (*Backend)(nil)

// Capture implements backend.Capturer. Until the function has returned the owner records
// whatever is queued, by whomever.
func (b *Backend) Capture(record func() error) (backend.Graph, error) {
	b.capturing.Lock()
	defer b.capturing.Unlock()
	if err := b.owner.now(func() error { return beginCapture(b.owner.queue) }); err != nil {
		return nil, err
	}
	recorded := record()
	g := &graph{backend: b, once: &sync.Once{}}
	ended := b.owner.now(func() (err error) {
		g.executable, err = endCapture(b.owner.queue)
		return err
	})
	if err := errors.Join(recorded, ended); err != nil {
		g.Free()
		return nil, err
	}
	runtime.AddCleanup(g, func(free func()) { free() }, g.freeing())
	return g, nil
}

// Replay implements backend.Graph.
func (g *graph) Replay() error {
	executable := g.executable
	return g.backend.owner.later(func() error { return replay(executable, g.backend.owner.queue) })
}

// Free implements backend.Graph.
func (g *graph) Free() { g.freeing()() }

// freeing gives the executable back once. It does not hold the graph.
func (g *graph) freeing() func() {
	owner, executable, once := g.backend.owner, g.executable, g.once
	return func() {
		once.Do(func() {
			if executable != nil {
				// A closed backend has given all back with its context.
				_ = owner.later(func() error { return freeGraph(executable) })
			}
		})
	}
}
