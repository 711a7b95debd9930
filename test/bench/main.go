// Command bench measures the runtime on models of well-known shapes with
// made-up weights: prefill, decode and batched decode, beside llama.cpp where
// its llama-bench is given, and the SVF training step, beside the reference
// algorithm in PyTorch where a Python with torch is given. Likewise servers under load,
// beside llama-server.
//
// Peers take turns with the runtime (A B A B) in one run, and all figures are
// medians. The memory bandwidth drifts within seconds on shared machines, so it is
// probed before and after every few tokens that are decoded. So ratios mean
// something and lone figures little.
//
//	go run ./test/bench --shapes 135M --dtype bf16 --llama-bench ~/llama.cpp/build/bin/llama-bench
package main

import (
	stdcontext "context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"slices"
	"strings"
	"time"

	"github.com/transformersquared/operator/runtime/artifact"
	"github.com/transformersquared/operator/runtime/backend/registry"
	"github.com/transformersquared/operator/runtime/engine"
)

// options are the command's flags.
type options struct {
	shapes, dtypes   []string
	rounds, threads  int
	dir, out         string
	llamaBench       []*peer
	python           string
	train, passes    bool
	choosing         bool
	maxBatch         int // Of choosing.
	trainings        int
	evolution        bool
	skills, searches []string // Of evolution.
	t2               string
	profile          string
	backend          string
	servingOptions
}

func main() {
	ctx, stop := signal.NotifyContext(stdcontext.Background(), os.Interrupt)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func parseOptions() (options, error) {
	var o options
	shapeNames := flag.String("shapes", "15M,135M", "shapes to measure, of 15M, 135M, 1B and 8B")
	dtypes := flag.String("dtype", "f32,bf16,int8", "number formats of the weights to measure, of f32, bf16 and int8")
	flag.IntVar(&o.rounds, "rounds", 3, "rounds in which runtime and peer take turns")
	flag.IntVar(&o.threads, "threads", runtime.NumCPU(), "threads of each")
	flag.StringVar(&o.dir, "dir", filepath.Join(os.TempDir(), "t2-bench"), "folder for the models; they are kept")
	flag.StringVar(&o.out, "json", "", "file for all figures as JSON")
	benches := flag.String("llama-bench", "", "llama.cpp's llama-bench, to compare with, or several such programs as NAME=PATH,NAME=PATH; llama-batched-bench beside each is used too")
	servers := o.registerServing()
	flag.BoolVar(&o.train, "train", false, "measure the training step instead")
	flag.BoolVar(&o.passes, "passes", false, "measure what pass 1 costs beside pass 2 instead")
	flag.BoolVar(&o.choosing, "choosing", false, "measure experts that pass 1 chooses beside pinned ones, with many clients at a time, instead")
	flag.IntVar(&o.maxBatch, "max-batch", engine.DefaultMaxBatch, "answers that are written together, for --choosing")
	flag.IntVar(&o.trainings, "shared-trainings", 0, "measure the memory of up to so many trainings at once that share their base instead")
	flag.BoolVar(&o.evolution, "evolution", false, "measure searches beside Reinforce on the demo's skills instead, from as many seeds as there are rounds, each training alone on one thread")
	skills := flag.String("skills", strings.Join(skillNames(), ","), "skills, for --evolution")
	ways := flag.String("searches", searchNames()[0], "searches, for --evolution, of "+strings.Join(searchNames(), ", "))
	flag.StringVar(&o.t2, "t2", "bin/t2", "the program that trains, for --shared-trainings and --evolution")
	flag.StringVar(&o.python, "python", "", "a Python with torch, to compare the training step with, or on a GPU prefill and decoding")
	flag.StringVar(&o.backend, "backend", "cpu", "what computes: "+strings.Join(registry.Names(), " or "))
	flag.StringVar(&o.profile, "cpuprofile", "", "file for a CPU profile, for go tool pprof; peers are not in it")
	flag.Parse()
	o.shapes, o.dtypes = strings.Split(*shapeNames, ","), strings.Split(*dtypes, ",")
	o.skills, o.searches = strings.Split(*skills, ","), strings.Split(*ways, ",")
	var err error
	if o.llamaBench, err = parsePeers(*benches); err != nil {
		return o, fmt.Errorf("--llama-bench: %w", err)
	}
	if err := o.checkServing(*servers); err != nil {
		return o, err
	}
	switch {
	case flag.NArg() > 0:
		return o, fmt.Errorf("unexpected argument %q", flag.Arg(0))
	case o.maxBatch < 1:
		return o, fmt.Errorf("%d answers together: there is no such number", o.maxBatch)
	case o.trainings < 0:
		return o, fmt.Errorf("%d trainings at once: there is no such number", o.trainings)
	case o.rounds < 1 || o.threads < 1:
		return o, fmt.Errorf("%d rounds with %d threads: both must be positive", o.rounds, o.threads)
	}
	for _, list := range []struct {
		what         string
		asked, there []string
	}{{"dtype", o.dtypes, []string{"f32", "bf16", "int8"}}, {"skill", o.skills, skillNames()}, {"search", o.searches, searchNames()}} {
		for _, name := range list.asked {
			if !slices.Contains(list.there, name) {
				return o, fmt.Errorf("%s %q: there are %s", list.what, name, strings.Join(list.there, ", "))
			}
		}
	}
	return o, nil
}

// onCPU reports that the processor computes, whose memory the probe measures.
func (o options) onCPU() bool { return o.backend == "cpu" }

func run(ctx stdcontext.Context) error {
	o, err := parseOptions()
	if err != nil {
		return err
	}
	if o.profile != "" {
		f, err := artifact.Create(o.profile)
		if err != nil {
			return err
		}
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	r := &report{Threads: o.threads, Day: time.Now().UTC().Format(time.DateOnly), Commit: ourCommit(ctx), Peers: slices.Concat(o.llamaBench, o.llamaServer)}
	if o.onCPU() && o.trainings == 0 && !o.evolution && !o.serve {
		r.probe = newProbe(o.threads)
	}
	if o.evolution {
		o.shapes = nil // The model is the demo's.
		if err := evolution(ctx, o, r); err != nil {
			return err
		}
	}
	for _, name := range o.shapes {
		i := slices.IndexFunc(shapes, func(s shape) bool { return s.Name == name })
		if i < 0 {
			return fmt.Errorf("shape %q: there are 15M, 135M, 1B and 8B", name)
		}
		measure := inference
		switch {
		case o.train:
			measure = training
		case o.passes:
			measure = passes
		case o.choosing:
			measure = choosing
		case o.trainings > 0:
			measure = trainings
		case o.serve:
			measure = serving
		}
		if err := measure(ctx, o, shapes[i], r); err != nil {
			return fmt.Errorf("shape %s: %w", name, err)
		}
	}
	fmt.Print(r.table())
	if o.out == "" {
		return nil
	}
	return artifact.WriteJSONAtomic(o.out, r)
}
