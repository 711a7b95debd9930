package main

import (
	"bytes"
	stdcontext "context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/transformersquared/operator/runtime/contract"
)

// Trainings that are measured at once: reinforcement with the paper's hyperparameters,
// full rank and all modules, but for batches that end within a minute. An episode is as
// long as one of GSM8K with a short answer, and more than a microbatch may have, so that
// larger batches keep no more activations; their rollouts have a larger cache.
const (
	sharedBatch      = 4
	sharedAnswer     = 16
	sharedPrompt     = 150 // Tokens, of a byte each.
	sharedIterations = 1
)

// together is what some trainings took at once, in each round.
type together struct {
	Shape, DType string
	Trainings    int
	Shared       bool
	Memory       []footprint
	Seconds      []float64
}

// trainings runs up to o.trainings processes of t2 train at once that share their base, and
// one alone that does not, in rounds.
func trainings(ctx stdcontext.Context, o options, s shape, r *report) error {
	data := filepath.Join(o.dir, s.Name+"-volume")
	base, decomposition, err := prepareVolume(ctx, o, s, data)
	if err != nil {
		return err
	}
	for _, dtype := range o.dtypes {
		runs := make([]*together, o.trainings+1)
		for n := range runs {
			runs[n] = &together{Shape: s.Name, DType: dtype, Trainings: max(n, 1), Shared: n > 0}
		}
		for round := range o.rounds {
			for _, run := range runs {
				fmt.Fprintf(os.Stderr, "%s %s, round %d of %d: %d trainings, shared %t\n", s.Name, dtype, round+1, o.rounds, run.Trainings, run.Shared)
				if err := run.measure(ctx, o, data, base, decomposition); err != nil {
					return err
				}
				const mib = 1 << 20
				memory := run.Memory[round]
				fmt.Fprintf(os.Stderr, "  %.0f MiB at once, %.0f MiB at most, in %.0f s\n", memory.Peak/mib, memory.Bound/mib, run.Seconds[round])
			}
		}
		r.Together = append(r.Together, runs...)
	}
	return nil
}

// prepareVolume makes a data volume with the model of a shape and its decomposition, and
// returns their digests.
func prepareVolume(ctx stdcontext.Context, o options, s shape, data string) (base, decomposition string, err error) {
	dir := s.folder(o.dir)
	if err := s.write(dir); err != nil {
		return "", "", err
	}
	if err := writeTokenizer(dir, s.Vocab); err != nil {
		return "", "", err
	}
	var fetched, decomposed contract.Termination
	if err := t2(ctx, o, &fetched, "fetch", dir, "--data-dir", data); err != nil {
		return "", "", err
	}
	base = fetched.Model.Digest
	if err := t2(ctx, o, &decomposed, "decompose", "--base-digest", base, "--data-dir", data, "--dtype", "BF16"); err != nil {
		return "", "", err
	}
	decomposition = decomposed.Decomposition.Digest
	var lines bytes.Buffer
	for i := range sharedBatch {
		question := strings.Repeat(fmt.Sprintf("%d ", 100+i), sharedPrompt)[:sharedPrompt]
		if err := json.NewEncoder(&lines).Encode(map[string]string{"prompt": question, "answer": "a"}); err != nil {
			return "", "", err
		}
	}
	return base, decomposition, os.WriteFile(filepath.Join(data, "pairs.jsonl"), lines.Bytes(), 0o600)
}

// t2 runs a subcommand and decodes its result.
func t2(ctx stdcontext.Context, o options, result any, arguments ...string) error {
	cmd := exec.CommandContext(ctx, o.t2, append(arguments, "--json")...) //nolint:gosec // The caller says which.
	out, err := cmd.Output()
	if err != nil {
		if exit, ok := errors.AsType[*exec.ExitError](err); ok {
			return fmt.Errorf("%s %s: %w: %s", o.t2, arguments[0], err, tail(exit.Stderr))
		}
		return err
	}
	return json.Unmarshal(out, result)
}

// measure trains as if nobody had trained before, so that shared weights are made, too, and
// looks at the processes' memory until all have ended.
func (run *together) measure(ctx stdcontext.Context, o options, data, base, decomposition string) error {
	for _, made := range []string{contract.DirRuns, contract.DirShared, contract.DirExperts} {
		if err := os.RemoveAll(filepath.Join(data, made)); err != nil {
			return err
		}
	}
	all, ctx := errgroup.WithContext(ctx)
	processes := make([]*exec.Cmd, run.Trainings)
	began := time.Now()
	for i := range processes {
		spec, err := writeTrainSpec(data, base, decomposition, run.DType, i)
		if err != nil {
			return err
		}
		arguments := []string{"train", "--spec", spec, "--threads", strconv.Itoa(o.threads)}
		if run.Shared {
			arguments = append(arguments, "--"+contract.FlagSharedBase, filepath.Join(data, contract.DirShared))
		}
		cmd := exec.CommandContext(ctx, o.t2, arguments...) //nolint:gosec // The caller says which.
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		if err := cmd.Start(); err != nil {
			return errors.Join(err, all.Wait())
		}
		processes[i] = cmd
		all.Go(func() error {
			if err := cmd.Wait(); err != nil {
				return fmt.Errorf("training %d: %w: %s", i, err, tail(stderr.Bytes()))
			}
			return nil
		})
	}
	ended := make(chan error, 1)
	go func() { ended <- all.Wait() }()
	memory, err := watch(processes, ended)
	run.Memory = append(run.Memory, memory)
	run.Seconds = append(run.Seconds, time.Since(began).Seconds())
	return err
}

// writeTrainSpec writes the specification of the i-th training: all differ in their seed.
func writeTrainSpec(data, base, decomposition, dtype string, i int) (path string, err error) {
	set := contract.DatasetSpec{Path: filepath.Join(data, "pairs.jsonl"), Format: contract.FormatPairs}
	h := contract.DefaultHyper()
	h.BatchSize, h.MaxNewTokens, h.Iterations, h.ValidationInterval = sharedBatch, sharedAnswer, sharedIterations, sharedIterations
	h.Seed, h.DType = uint64(i), strings.ToUpper(dtype)
	spec, err := json.Marshal(contract.TrainSpec{
		Name: fmt.Sprintf("expert-%d", i), Skill: "none", RunID: fmt.Sprintf("run-%d", i), DataDir: data, BaseDigest: base, DecompositionDigest: decomposition,
		Objective: contract.ObjectiveReinforce, Train: set, Validation: set, Reward: contract.RewardExactMatch, Hyperparameters: h,
	})
	if err != nil {
		return "", err
	}
	path = filepath.Join(data, fmt.Sprintf("spec-%d.json", i))
	return path, os.WriteFile(path, spec, 0o600)
}

// peak and bound are the figures of all rounds.
func (run *together) peak() []float64 {
	return each(run.Memory, func(f footprint) float64 { return f.Peak })
}
func (run *together) bound() []float64 {
	return each(run.Memory, func(f footprint) float64 { return f.Bound })
}

func each(all []footprint, of func(footprint) float64) []float64 {
	var figures []float64
	for _, f := range all {
		figures = append(figures, of(f))
	}
	return figures
}

// togetherTable is the table of trainings at once: medians of the rounds, and of the bound
// its least and its most. The ratios are of bounds to what one alone had at once, which is
// no more than its bound.
func togetherTable(all []*together) string {
	var b strings.Builder
	b.WriteString("| shape | dtype | trainings | base | at once | at most | in all rounds | of one alone | wanted |\n|---|---|---|---|---|---|---|---|---|\n")
	const mib = 1 << 20
	for _, t := range all {
		alone := all[slices.IndexFunc(all, func(one *together) bool { return one.Shape == t.Shape && one.DType == t.DType && !one.Shared })]
		base, need, wanted := "its own", median(t.peak()), "1"
		if t.Shared {
			base, need, wanted = "shared", median(t.bound()), fmt.Sprintf("≤ %.1f", 0.4*float64(t.Trainings)+0.6)
		}
		bounds := t.bound()
		fmt.Fprintf(&b, "| %s | %s | %d | %s | %.0f MiB | %.0f MiB | %.0f to %.0f MiB | %.2f | %s |\n", t.Shape, t.DType, t.Trainings, base,
			median(t.peak())/mib, median(bounds)/mib, slices.Min(bounds)/mib, slices.Max(bounds)/mib, need/median(alone.peak()), wanted)
	}
	return b.String()
}
