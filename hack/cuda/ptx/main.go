// Command ptx makes and checks the PTX of kernels/:
//
//	go run ./hack/cuda/ptx build  -toolkit FOLDER [UNIT...]
//	go run ./hack/cuda/ptx verify [-toolkit FOLDER]
//	go run ./hack/cuda/ptx ptxas  -toolkit FOLDER [-check]
//
// build compiles every unit whose PTX is not current, or the units named in any
// case. verify compares each PTX with the digest of its sources, which needs no
// toolkit; with one it compiles again and compares to the byte. ptxas writes the
// table of registers, spills and occupancy into kernels/README.md, and fails
// where a hot kernel spills; with -check it compares instead of writing.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/transformersquared/operator/kernels"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "ptx:", err)
		os.Exit(1) //nolint:gocritic // Nothing is left to do.
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return errors.New("usage: ptx build|verify|ptxas [flags]")
	}
	flags := flag.NewFlagSet("ptx "+args[0], flag.ContinueOnError)
	folder := flags.String("kernels", "kernels", "the `folder` of the kernels")
	toolkit := flags.String("toolkit", "", "the CUDA toolkit's `folder`, as hack/cuda/toolkit.sh lays it")
	check := flags.Bool("check", false, "compare the table instead of writing it")
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	b := builder{folder: *folder, sources: os.DirFS(*folder)}
	if *toolkit != "" {
		var err error
		if b.bin, err = filepath.Abs(filepath.Join(*toolkit, "bin")); err != nil {
			return err
		}
		if _, err := os.Stat(filepath.Join(b.bin, "nvcc")); err != nil {
			return fmt.Errorf("no CUDA toolkit in %s: run hack/cuda/toolkit.sh: %w", *toolkit, err)
		}
	}
	switch args[0] {
	case "build":
		return b.build(ctx, flags.Args())
	case "verify":
		return b.verify(ctx)
	case "ptxas":
		return b.ptxas(ctx, *check)
	default:
		return fmt.Errorf("%q is none of build, verify, ptxas", args[0])
	}
}

type builder struct {
	folder  string // kernels
	sources fs.FS  // The same.
	bin     string // The toolkit's programs; "" without one.
}

// output is one PTX file.
type output struct {
	unit   string
	target kernels.Target
	digest string // Of its sources as they are now.
}

func (o output) name() string { return kernels.FileName(o.unit, o.target) }

// outputs lists the PTX files that the sources ask for.
func (b builder) outputs() ([]output, error) {
	files, err := fs.Glob(b.sources, "*.cu")
	if err != nil {
		return nil, err
	}
	var outputs []output
	for _, file := range files {
		unit := strings.TrimSuffix(file, ".cu")
		targets, err := kernels.SourceTargets(b.sources, unit)
		if err != nil {
			return nil, err
		}
		for _, target := range targets {
			d, err := kernels.Digest(b.sources, unit, target)
			if err != nil {
				return nil, err
			}
			outputs = append(outputs, output{unit, target, d})
		}
	}
	if len(outputs) == 0 {
		return nil, fmt.Errorf("%s has no .cu", b.folder)
	}
	return outputs, nil
}

func (b builder) path(o output) string { return filepath.Join(b.folder, kernels.Folder, o.name()) }

// stale says why a PTX file is not what its sources ask for, as far as digests
// tell; "" if it is.
func (b builder) stale(o output) string {
	text, err := os.ReadFile(b.path(o))
	if err != nil {
		return "it is not there"
	}
	h, err := kernels.ParseHeader(string(text))
	switch {
	case err != nil:
		return err.Error()
	case h.Sources != o.digest:
		return "its sources or flags have changed since it was made"
	}
	return ""
}

// strays lists PTX files that no source asks for.
func (b builder) strays(outputs []output) ([]string, error) {
	files, err := filepath.Glob(filepath.Join(b.folder, kernels.Folder, "*"))
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(files, func(file string) bool {
		return slices.ContainsFunc(outputs, func(o output) bool { return o.name() == filepath.Base(file) })
	}), nil
}

func (b builder) build(ctx context.Context, units []string) error {
	outputs, err := b.outputs()
	if err != nil {
		return err
	}
	for _, unit := range units {
		if !slices.ContainsFunc(outputs, func(o output) bool { return o.unit == unit }) {
			return fmt.Errorf("%s has no %s.cu", b.folder, unit)
		}
	}
	strays, err := b.strays(outputs)
	if err != nil {
		return err
	}
	for _, file := range strays {
		fmt.Printf("    removing %s, which has no source\n", file)
		if err := os.Remove(file); err != nil {
			return err
		}
	}
	return b.each(ctx, outputs, func(ctx context.Context, o output) error {
		if !slices.Contains(units, o.unit) && (len(units) > 0 || b.stale(o) == "") {
			return nil
		}
		start := time.Now()
		ptx, err := b.compile(ctx, o)
		if err != nil {
			return err
		}
		if err := os.WriteFile(b.path(o), ptx, 0o644); err != nil {
			return err
		}
		fmt.Printf("    %s: %d KiB in %.1f s\n", b.path(o), len(ptx)>>10, time.Since(start).Seconds())
		return nil
	})
}

// each runs do for all outputs, on all processors.
func (b builder) each(ctx context.Context, outputs []output, do func(context.Context, output) error) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for _, o := range outputs {
		g.Go(func() error { return do(ctx, o) })
	}
	return g.Wait()
}

// compile returns the whole text of a PTX file.
func (b builder) compile(ctx context.Context, o output) ([]byte, error) {
	if b.bin == "" {
		return nil, errors.New("compiling needs -toolkit FOLDER")
	}
	temp, err := os.MkdirTemp("", "ptx-*")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(temp) }() // What is left there harms nobody.
	file := filepath.Join(temp, o.name())
	// Inside the folder, by a relative name: none that depends on where it lies can
	// get into the PTX.
	if _, err := b.tool(ctx, "nvcc", append(kernels.Flags(o.target), "-o", file, o.unit+".cu")...); err != nil {
		return nil, err
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	return []byte(kernels.WithHeader(o.digest, string(text))), nil
}

// tool runs a program of the toolkit in the folder of the kernels and returns what
// it printed. A warning is an error: nobody would see it.
func (b builder) tool(ctx context.Context, program string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(b.bin, program), args...) //nolint:gosec // The toolkit that the user named.
	cmd.Dir = b.folder
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	if err == nil && strings.Contains(out.String(), "warning") {
		err = errors.New("warnings")
	}
	if err != nil {
		return "", fmt.Errorf("%s %s: %w\n%s", program, strings.Join(args, " "), err, out.String())
	}
	return out.String(), nil
}

func (b builder) verify(ctx context.Context) error {
	outputs, err := b.outputs()
	if err != nil {
		return err
	}
	strays, err := b.strays(outputs)
	if err != nil {
		return err
	}
	var wrong []string
	for _, file := range strays {
		wrong = append(wrong, file+": no .cu asks for it")
	}
	for _, o := range outputs {
		if why := b.stale(o); why != "" {
			wrong = append(wrong, b.path(o)+": "+why)
		}
	}
	if len(wrong) > 0 {
		return fmt.Errorf("run make kernels and commit what it makes:\n  %s", strings.Join(wrong, "\n  "))
	}
	if b.bin == "" {
		return nil
	}
	return b.each(ctx, outputs, func(ctx context.Context, o output) error {
		want, err := b.compile(ctx, o)
		if err != nil {
			return err
		}
		got, err := os.ReadFile(b.path(o))
		if err != nil {
			return err
		}
		if !bytes.Equal(got, want) {
			return fmt.Errorf("%s is not what the pinned toolkit makes of its sources: run make kernels", b.path(o))
		}
		return nil
	})
}
