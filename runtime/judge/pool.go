package judge

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"sync"
)

// Options say how a Pool runs programs.
type Options struct {
	// Command is the argument vector that starts a process which calls Confine
	// with its last argument, such as ["/t2", "judge-worker"].
	Command []string
	// Python names the interpreter; "" finds one (see FindPython).
	Python string
	// Limits of each program; the zero value means DefaultLimits.
	Limits Limits
	// Workers is how many jobs run side by side; 0 means one a processor.
	Workers int
	// Without leaves out layers that the node would have, by the names of
	// LayerNamespaces and LayerLandlock: tests prove each layer by itself.
	Without []string
}

// Layers that a node may lack.
const (
	LayerNamespaces = "namespaces"
	LayerLandlock   = "landlock"
)

// Pool runs jobs in workers of its own. They start when they are first needed.
type Pool struct {
	options Options
	// idle holds a token for each worker that may exist: a running worker or nil.
	idle chan *worker

	// ready guards what the first worker's start has found out.
	ready       sync.Mutex
	order       *order
	confinement Confinement
}

// New returns a pool. It starts nothing yet, so that a data set can be read
// where there is no interpreter.
func New(o Options) (*Pool, error) {
	if len(o.Command) == 0 {
		return nil, errors.New("the judge needs a command that starts its workers")
	}
	if o.Limits == (Limits{}) {
		o.Limits = DefaultLimits()
	}
	if o.Workers == 0 {
		o.Workers = max(1, runtime.GOMAXPROCS(0))
	}
	p := &Pool{options: o, idle: make(chan *worker, o.Workers)}
	for range o.Workers {
		p.idle <- nil
	}
	return p, nil
}

// Run runs one job.
func (p *Pool) Run(ctx context.Context, job Job) (result Result, err error) {
	encoded, err := encodeJob(job)
	if errors.Is(err, ErrTooLarge) {
		return Result{Why: err.Error()}, nil
	}
	if err != nil {
		return Result{}, err
	}
	// No program can end its worker: the machine did, and nothing follows about the
	// program.
	for range tries {
		if result, err = p.attempt(ctx, encoded); !errors.Is(err, errWorkerEnded) {
			return result, err
		}
	}
	return Result{}, fmt.Errorf("a program could not be judged, %d times (is this machine short of memory?): %w", tries, err)
}

// errWorkerEnded wraps that a worker ended, or lost a process, without a verdict.
var errWorkerEnded = errors.New("no verdict came")

// attempt has one worker run a job.
func (p *Pool) attempt(ctx context.Context, job []byte) (Result, error) {
	w, err := p.take(ctx)
	if err != nil {
		return Result{}, err
	}
	defer func() { p.idle <- w }()
	bounded, cancel := context.WithTimeout(ctx, p.options.Limits.Wall)
	defer cancel()
	result, err := w.run(bounded, job)
	if err == nil {
		return result, nil
	}
	late := bounded.Err() != nil
	w.stop()
	w = nil
	switch {
	case ctx.Err() != nil:
		return Result{}, ctx.Err()
	case late:
		return Result{Why: fmt.Sprintf("the program took longer than %v", p.options.Limits.Wall)}, nil
	default:
		return Result{}, fmt.Errorf("%w: %w", errWorkerEnded, err)
	}
}

// Confinement says what the programs are confined by. It waits for no job once
// that is known.
func (p *Pool) Confinement(ctx context.Context) (Confinement, error) {
	p.ready.Lock()
	known, c := p.order != nil, p.confinement
	p.ready.Unlock()
	if known {
		return c, nil
	}
	w, err := p.take(ctx)
	if err != nil {
		return Confinement{}, err
	}
	p.idle <- w
	p.ready.Lock()
	defer p.ready.Unlock()
	return p.confinement, nil
}

// Close ends all workers.
func (p *Pool) Close() error {
	for range p.options.Workers {
		if w := <-p.idle; w != nil {
			w.stop()
		}
	}
	return nil
}

// take takes a worker out of the pool and starts it if need be.
func (p *Pool) take(ctx context.Context) (w *worker, err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	select {
	case w = <-p.idle:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if w == nil {
		if w, err = p.start(ctx); err != nil {
			p.idle <- nil
			return nil, err
		}
	}
	return w, nil
}

// start starts a worker. The first one finds out what the node offers, and the
// others wait for it.
func (p *Pool) start(ctx context.Context) (*worker, error) {
	p.ready.Lock()
	if p.order != nil {
		o := *p.order
		p.ready.Unlock()
		return startWorker(ctx, p.options.Command, o)
	}
	defer p.ready.Unlock()
	return p.explore(ctx)
}

// explore starts the first worker with as many layers as the node lets us have.
func (p *Pool) explore(ctx context.Context) (*worker, error) {
	python, err := FindPython(ctx, p.options.Python)
	if err != nil {
		return nil, err
	}
	o := order{Python: python, Limits: p.options.Limits, Landlock: landlockVersion()}
	if o.Forbidden, err = os.Executable(); err != nil {
		return nil, fmt.Errorf("finding this program, which no answer may read: %w", err)
	}
	c := Confinement{Seccomp: true, Limits: p.options.Limits, Python: python.Executable, Namespaces: []string{}}
	switch {
	case slices.Contains(p.options.Without, LayerLandlock):
		o.Landlock = 0
		c.Lacking = append(c.Lacking, "Landlock is left out")
	case o.Landlock == 0:
		c.Lacking = append(c.Lacking, "the kernel has no Landlock (Linux 5.13 with \"landlock\" in the boot parameter lsm=)")
	}
	w, err := p.exploreNamespaces(ctx, o, &c)
	if err != nil {
		return nil, err
	}
	o.Namespaces = len(c.Namespaces) > 0
	c.Landlock, c.Version = o.Landlock, w.version
	p.order, p.confinement = &o, c
	return w, nil
}

func (p *Pool) exploreNamespaces(ctx context.Context, o order, c *Confinement) (*worker, error) {
	if slices.Contains(p.options.Without, LayerNamespaces) {
		c.Lacking = append(c.Lacking, "namespaces are left out")
	} else {
		o.Namespaces = true
		w, err := startWorker(ctx, p.options.Command, o)
		if err == nil {
			c.Namespaces = namespaceNames
			return w, nil
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		c.Lacking = append(c.Lacking, fmt.Sprintf("the node refuses namespaces of our own: %v", err))
	}
	if o.Landlock == 0 {
		return nil, fmt.Errorf("programs cannot be kept from the files of this node, so none is run: %v", c.Lacking)
	}
	o.Namespaces = false
	return startWorker(ctx, p.options.Command, o)
}
