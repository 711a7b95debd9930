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
	sampleEach       = 500 * time.Millisecond
)

// together is what some trainings took at once.
type together struct {
	Shape, DType string
	Trainings    int
	Shared       bool
	// PeakBytes and SteadyBytes are sums of the processes' proportional set sizes: at most,
	// and the median of the second half of the time in which all of them ran.
	PeakBytes, SteadyBytes int64
	Seconds                float64
}

// trainings runs up to o.trainings processes of t2 train at once that share their base, and
// one alone that does not.
func trainings(ctx stdcontext.Context, o options, s shape, r *report) error {
	data := filepath.Join(o.dir, s.Name+"-volume")
	base, decomposition, err := prepareVolume(ctx, o, s, data)
	if err != nil {
		return err
	}
	for _, dtype := range o.dtypes {
		for n := 0; n <= o.trainings; n++ {
			run := &together{Shape: s.Name, DType: dtype, Trainings: max(n, 1), Shared: n > 0}
			fmt.Fprintf(os.Stderr, "%s %s: %d trainings, shared %t\n", s.Name, dtype, run.Trainings, run.Shared)
			err := errors.Join(os.RemoveAll(filepath.Join(data, contract.DirRuns)), os.RemoveAll(filepath.Join(data, contract.DirShared)),
				os.RemoveAll(filepath.Join(data, contract.DirExperts)))
			if err == nil {
				err = run.measure(ctx, o, data, base, decomposition)
			}
			if err != nil {
				return err
			}
			const mib = 1 << 20
			fmt.Fprintf(os.Stderr, "  %d MiB, at most %d MiB, in %.0f s\n", run.SteadyBytes/mib, run.PeakBytes/mib, run.Seconds)
			r.Together = append(r.Together, run)
		}
	}
	return nil
}

// prepareVolume makes a data volume with the model of a shape and its decomposition, and
// returns their digests.
func prepareVolume(ctx stdcontext.Context, o options, s shape, data string) (base, decomposition string, err error) {
	dir := filepath.Join(o.dir, s.Name)
	if err := s.write(dir); err != nil {
		return "", "", err
	}
	if err := writeBytesTokenizer(dir); err != nil {
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

// measure trains, and looks at the processes' memory until all have ended.
func (run *together) measure(ctx stdcontext.Context, o options, data, base, decomposition string) error {
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
	var whole []float64 // While all run.
	for {
		sum, running := int64(0), 0
		for _, p := range processes {
			if pss, err := proportionalSetSize(p.Process.Pid); err == nil && pss > 0 {
				sum += pss
				running++
			}
		}
		run.PeakBytes = max(run.PeakBytes, sum)
		if running == len(processes) {
			whole = append(whole, float64(sum))
		}
		select {
		case err := <-ended:
			run.Seconds = time.Since(began).Seconds()
			if err == nil && len(whole) == 0 {
				err = errors.New("the trainings never ran all at once")
			}
			if err == nil {
				run.SteadyBytes = int64(median(whole[len(whole)/2:]))
			}
			return err
		case <-time.After(sampleEach):
		}
	}
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

// proportionalSetSize is what a process has in memory, in bytes, where of a page that
// several processes have each counts its share.
func proportionalSetSize(pid int) (int64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if fields := strings.Fields(line); len(fields) == 3 && fields[0] == "Pss:" {
			kib, err := strconv.ParseInt(fields[1], 10, 64)
			return kib << 10, err
		}
	}
	return 0, fmt.Errorf("process %d has no Pss", pid)
}

// writeBytesTokenizer writes a tokenizer without merges: a token a byte, by the alphabet
// that byte-level tokenizers write bytes in.
func writeBytesTokenizer(dir string) error {
	vocabulary := map[string]int{}
	beyond := rune(256)
	for b := range 256 {
		r := rune(b)
		if b <= ' ' || b >= 0x7f && b <= 0xa0 || b == 0xad {
			r = beyond
			beyond++
		}
		vocabulary[string(r)] = b
	}
	bytesOnly := map[string]any{"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}
	b, err := json.Marshal(map[string]any{
		"version": "1.0", "added_tokens": []any{}, "normalizer": nil, "pre_tokenizer": bytesOnly,
		"post_processor": nil, "decoder": bytesOnly,
		"model": map[string]any{"type": "BPE", "vocab": vocabulary, "merges": []string{}},
	})
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "tokenizer.json"), b, 0o600)
}

// togetherTable is the table of trainings at once.
func togetherTable(all []*together) string {
	var b strings.Builder
	b.WriteString("| shape | dtype | trainings | base | peak | steady | steady, of one alone | at most | of one that shares |\n|---|---|---|---|---|---|---|---|---|\n")
	const mib = 1 << 20
	for _, t := range all {
		of := func(shared bool) float64 {
			i := slices.IndexFunc(all, func(one *together) bool {
				return one.Shape == t.Shape && one.DType == t.DType && one.Trainings == 1 && one.Shared == shared
			})
			return float64(t.SteadyBytes) / float64(all[i].SteadyBytes)
		}
		base, last := "its own", ""
		if t.Shared {
			base, last = "shared", fmt.Sprintf("%.2f", of(true))
		}
		fmt.Fprintf(&b, "| %s | %s | %d | %s | %d MiB | %d MiB | %.2f | %.1f | %s |\n", t.Shape, t.DType, t.Trainings, base,
			t.PeakBytes/mib, t.SteadyBytes/mib, of(false), 0.4*float64(t.Trainings)+0.6, last)
	}
	return b.String()
}
