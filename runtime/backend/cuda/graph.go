//go:build cuda

package cuda

import (
	"cmp"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"unsafe"

	"github.com/transformersquared/operator/runtime/backend"
)

var (
	_ backend.Capturer = (*Backend)(nil)

	errRecording = fmt.Errorf("a step that is recorded must not wait for the device, or copy from or to the host: %w", backend.ErrUnsupported)
	errRecorded  = errors.New("the step that was recorded has ended")
)

// recording are the commands of a step, for the driver to capture: all at once, so that
// nothing that others queue is among them.
type recording struct {
	memory *recorderMemory

	mu       sync.Mutex
	commands []command
	ended    bool
}

func (r *recording) add(c command) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ended {
		return errRecorded
	}
	r.commands = append(r.commands, c)
	return nil
}

// end returns the commands. There will be no more.
func (r *recording) end() []command {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ended = true
	return r.commands
}

// send queues, or records, a command that nobody waits for.
func (b *Backend) send(c command) error {
	if b.recording != nil {
		return b.recording.add(c)
	}
	return b.owner.send(c)
}

// later is send of calls of the driver.
func (b *Backend) later(run func() error) error { return b.send(command{run: run}) }

// fromHost is later of calls that read memory of the host, which cannot be recorded, and
// now runs calls behind all that was queued, and waits for them.
func (b *Backend) fromHost(run func() error) error {
	if b.recording != nil {
		return errRecording
	}
	return b.owner.later(run)
}

func (b *Backend) now(run func() error) error {
	if b.recording != nil {
		return errRecording
	}
	return b.owner.now(run)
}

// recorder is a backend.Recorder.
type recorder struct {
	device *device
	memory *recorderMemory
}

// NewRecorder implements backend.Capturer.
func (b *Backend) NewRecorder() backend.Recorder {
	r := &recorder{device: b.device, memory: &recorderMemory{from: b.device}}
	runtime.AddCleanup(r, (*recorderMemory).free, r.memory)
	return r
}

// Free implements backend.Recorder.
func (r *recorder) Free() { r.memory.free() }

// Record implements backend.Recorder.
func (r *recorder) Record(record func(backend.Backend) error) (backend.Graph, error) {
	recording := &recording{memory: r.memory}
	err := record(&Backend{device: r.device, recording: recording})
	commands := recording.end()
	if err != nil {
		return nil, err
	}
	g := &graph{device: r.device, recorder: r, once: &sync.Once{}}
	owner := r.device.owner
	err = owner.now(func() (err error) {
		g.executable, err = owner.capture(commands)
		return err
	})
	if err != nil {
		g.Free()
		return nil, fmt.Errorf("capture %d operations: %w", len(commands), err)
	}
	runtime.AddCleanup(g, func(free func()) { free() }, g.freeing())
	return g, nil
}

// capture makes an executable graph of commands. It runs on the owner.
func (o *owner) capture(commands []command) (executable unsafe.Pointer, err error) {
	if err := beginCapture(o.queue); err != nil {
		return nil, err
	}
	for _, c := range commands {
		if err = o.run(c); err != nil {
			break
		}
	}
	executable, ended := endCapture(o.queue)
	return executable, errors.Join(err, ended)
}

// graph is a backend.Graph: an executable graph of the driver.
type graph struct {
	device     *device
	recorder   *recorder // Has the memory.
	executable unsafe.Pointer
	once       *sync.Once
}

// Replay implements backend.Graph.
func (g *graph) Replay() error {
	g.device.replays.Add(1)
	return g.device.owner.send(command{graph: g.executable})
}

// Free implements backend.Graph.
func (g *graph) Free() { g.freeing()() }

// freeing gives the executable back once. It does not hold the graph.
func (g *graph) freeing() func() {
	owner, executable, once := g.device.owner, g.executable, g.once
	return func() {
		once.Do(func() {
			if executable != nil {
				// A closed backend has given all back with its context.
				_ = owner.later(func() error { return freeGraph(executable) })
			}
		})
	}
}

// recorderMemory is the memory of recorded steps. It goes back when the recorder does,
// and not when the steps free it: they will use it again. A step may be given a larger
// block than it asks for, so that small steps take nothing more if a large one was
// recorded before.
type recorderMemory struct {
	from pool

	mu    sync.Mutex
	idle  []block // By size.
	freed bool
}

func (m *recorderMemory) hold(bytes int64) (*held, error) { return hold(m, m, bytes) }

func (m *recorderMemory) take(bytes int64) (block, error) {
	m.mu.Lock()
	if i, _ := slices.BinarySearchFunc(m.idle, bytes, func(b block, bytes int64) int { return cmp.Compare(b.size, bytes) }); i < len(m.idle) {
		b := m.idle[i]
		m.idle = slices.Delete(m.idle, i, i+1)
		m.mu.Unlock()
		return b, nil
	}
	m.mu.Unlock()
	return m.from.take(bytes)
}

func (m *recorderMemory) give(b block) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.freed {
		b.home.give(b)
		return
	}
	i, _ := slices.BinarySearchFunc(m.idle, b.size, func(b block, size int64) int { return cmp.Compare(b.size, size) })
	m.idle = slices.Insert(m.idle, i, b)
}

// free gives back what no step holds, and what one does as soon as it does not.
func (m *recorderMemory) free() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, b := range m.idle {
		b.home.give(b)
	}
	m.idle, m.freed = nil, true
}
