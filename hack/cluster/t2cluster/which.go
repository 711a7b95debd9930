package main

import (
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"

	"github.com/transformersquared/operator/hack/cluster/t2cluster/internal/binaries"
	"github.com/transformersquared/operator/hack/cluster/t2cluster/internal/layout"
)

const defaultName = "t2"

// which says which cluster a command is about.
type which struct {
	name, dir string
}

func (w *which) declare(flags *flag.FlagSet) {
	flags.StringVar(&w.name, "name", defaultName, "`name` of the cluster")
	flags.StringVar(&w.dir, "dir", "", "state `folder` (default $XDG_STATE_HOME/t2cluster/NAME if that is set, else /var/lib/t2cluster/NAME)")
}

func (w *which) folder(e env) (string, error) {
	dir := w.dir
	if dir == "" {
		dir = layout.DefaultDir(w.name, e.getenv)
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("state folder: %w", err)
	}
	return dir, nil
}

// existing returns the cluster that was brought up.
func (w *which) existing(e env) (layout.Cluster, error) {
	dir, err := w.folder(e)
	if err != nil {
		return layout.Cluster{}, err
	}
	c, err := layout.Load(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return layout.Cluster{}, fmt.Errorf("there is no cluster %q in %s: bring it up with `t2cluster up`", w.name, dir)
	}
	return c, err
}

// described returns the cluster to remove: the one that was brought up, or, if its description is lost, one that has
// its name and folder.
func (w *which) described(e env) (layout.Cluster, error) {
	dir, err := w.folder(e)
	if err != nil {
		return layout.Cluster{}, err
	}
	if c, err := layout.Load(dir); err == nil && c.Dir == dir {
		return c, nil
	}
	c, err := layout.New(w.name, dir, "", "", 1)
	if err != nil {
		return layout.Cluster{}, usagef("%v", err)
	}
	return c, nil
}

// lock makes sure that one call at a time changes the cluster in dir. The lock is a name that the kernel forgets with
// the process that holds it, so that nothing is left of it after a crash.
func lock(dir string) (unlock func(), err error) {
	listener, err := net.Listen("unix", "@t2cluster"+dir) //nolint:noctx // A name, not a conversation.
	if err != nil {
		return nil, fmt.Errorf("another t2cluster is bringing the cluster in %s up or down: wait for it or end it (%w)", dir, err)
	}
	return func() { _ = listener.Close() }, nil
}

// place is where the sources and the executables are.
type place struct {
	source, bin string
}

func (p *place) declareBin(flags *flag.FlagSet) {
	flags.StringVar(&p.bin, "bin", "", "`folder` of the executables (default bin/cluster of the repository)")
}

func (p *place) declareSource(flags *flag.FlagSet) {
	flags.StringVar(&p.source, "source", "", "`folder` hack/cluster of the repository (default: found from the working directory)")
}

func (p *place) findSource() (string, error) {
	if p.source != "" {
		return filepath.Abs(p.source)
	}
	var from []string
	if wd, err := os.Getwd(); err == nil {
		from = append(from, wd)
	}
	if exe, err := os.Executable(); err == nil {
		from = append(from, filepath.Dir(exe))
	}
	source, err := binaries.Source(from...)
	if err != nil {
		return "", usagef("%v", err)
	}
	return source, nil
}

func (p *place) findBin() (string, error) {
	if p.bin != "" {
		return filepath.Abs(p.bin)
	}
	source, err := p.findSource()
	if err != nil {
		return "", usagef("no --bin, and %v", err)
	}
	return binaries.DefaultBin(source), nil
}
