package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/backend/registry"
	"github.com/transformersquared/operator/runtime/checkpoint"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/expert"
	"github.com/transformersquared/operator/runtime/judge"
	"github.com/transformersquared/operator/runtime/source"
)

// judgeWorker is the argument that makes this program a worker of the judge.
const judgeWorker = "judge-worker"

// skill is a task with its data sets.
type skill struct {
	name        string
	description string // What pass 1 shows.
	format      string // Of all sets but those of the transfer set's shape.
	transfer    string // Of these.
}

// skills are the three of the base model, in the order of every table.
var skills = []skill{
	{name: "math", description: "word problems and arithmetic", format: contract.FormatGSM8K, transfer: contract.FormatMATH},
	{name: "code", description: "writing Python functions", format: contract.FormatMBPP, transfer: contract.FormatMBPP},
	{name: "reasoning", description: "multiple choice questions", format: contract.FormatARC, transfer: contract.FormatARC},
}

// Splits of a skill's data. The examples of a few-shot search are of the transfer set's
// shape and in no other set.
const (
	splitTrain      = "train"
	splitValidation = "validation"
	splitTest       = "test"
	splitTransfer   = "transfer"
	splitFewShot    = "fewshot"
)

// answerTokens bounds an answer: the longest right one has about 35.
const answerTokens = 48

// lab is where cells are measured: a volume with models, their decompositions, and the
// experts that are made.
type lab struct {
	store  *store
	volume string // Its folder.
	data   string // The folder of the data sets.
	// long are the files of splitLong, by skill.
	long map[string]string
	// digests are those of the data sets, by path.
	digests map[string]string
	// counts are the records of each split, of the first skill.
	counts map[string]int
	bases  map[string]base
	log    *slog.Logger
}

// base is a model in the volume.
type base struct {
	name                  string
	digest, decomposition string
}

// baseNames are those of the models: experts are made for the first; the second has the
// same architecture and data, and another seed; the third is the first, trained on with
// long prompts.
var baseNames = []string{expertBase, "b", longBase}

const longBase = "long"

// openLab brings the models to the volume and decomposes them.
func openLab(ctx context.Context, work, data, models string, log *slog.Logger) (*lab, error) {
	s, err := newStore(filepath.Join(work, "cells"))
	if err != nil {
		return nil, err
	}
	l := &lab{store: s, volume: filepath.Join(work, "volume"), data: data, long: map[string]string{}, digests: map[string]string{}, counts: map[string]int{}, bases: map[string]base{}, log: log}
	for _, name := range baseNames {
		if _, err := os.Stat(filepath.Join(models, name)); name != expertBase && errors.Is(err, fs.ErrNotExist) {
			continue // What needs it stays open.
		}
		if l.bases[name], err = l.openBase(ctx, name, filepath.Join(models, name)); err != nil {
			return nil, fmt.Errorf("base model %s: %w", name, err)
		}
	}
	for _, k := range skills {
		for _, split := range []string{splitTrain, splitValidation, splitTest, splitTransfer, splitFewShot} {
			path := l.path(k, split)
			b, err := os.ReadFile(path)
			if err != nil {
				return nil, fmt.Errorf("data sets (make.py data writes them): %w", err)
			}
			if k.name == skills[0].name {
				l.counts[split] = bytes.Count(b, []byte("\n"))
			}
			sum := sha256.Sum256(b)
			l.digests[path] = contract.DigestPrefix + hex.EncodeToString(sum[:])
		}
	}
	return l, l.makeLong(work)
}

func (l *lab) openBase(ctx context.Context, name, dir string) (base, error) {
	b := base{name: name}
	absolute, err := filepath.Abs(dir)
	if err != nil {
		return b, fmt.Errorf("finding the model: %w", err)
	}
	m, err := source.FetchModel(ctx, contract.FetchSpec{Source: contract.Source{Path: absolute}, DataDir: l.volume}, source.Options{})
	if err != nil {
		return b, err
	}
	b.digest = m.Digest
	at, err := contract.ArtifactDir(l.volume, contract.DirModels, m.Digest)
	if err != nil {
		return b, err
	}
	ck, err := checkpoint.OpenDir(at)
	if err != nil {
		return b, err
	}
	d, err := expert.Decompose(ctx, ck, l.volume, contract.DecomposeSpec{
		BaseDigest: m.Digest, Modules: expert.Modules(), DType: contract.DTypeF32, DataDir: l.volume,
	}, nil, nil)
	b.decomposition = d.Digest
	return b, errors.Join(err, ck.Close())
}

// path is that of a data set.
func (l *lab) path(k skill, split string) string {
	if split == splitLong {
		return l.long[k.name]
	}
	return filepath.Join(l.data, k.name, split+".jsonl")
}

// set is the specification of a data set. What it is called is no part of what it is.
func (l *lab) set(k skill, split string) contract.DatasetSpec {
	format := k.format
	if split == splitTransfer || split == splitFewShot || split == splitLong {
		format = k.transfer
	}
	path := l.path(k, split)
	d := contract.DatasetSpec{Name: k.name + "/" + split, Path: path, Digest: l.digests[path], Format: format}
	if format == contract.FormatMBPP {
		d.PromptTemplate = "{question}" // The base has never seen a prompt with tests.
	}
	return d
}

// rewardOf is the reward of a format.
func rewardOf(format string) string {
	switch format {
	case contract.FormatMATH:
		return contract.RewardMath
	case contract.FormatMBPP:
		return contract.RewardUnitTests
	case contract.FormatARC:
		return contract.RewardMultipleChoice
	default:
		return contract.RewardNumeric
	}
}

// identity is a data set without the folder that it lies in, for the specification of cells.
func identity(d contract.DatasetSpec) contract.DatasetSpec {
	d.Path = ""
	return d
}

// open opens a backend of so many threads; 0 is one for each processor.
func open(threads int) (backend.Backend, error) {
	return registry.Open(contract.BackendCPU, registry.Options{Threads: threads})
}

// programs returns what runs the programs that UnitTests judges: this program, confined.
func programs() (judge.Runner, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("finding this program, to start it for unit tests: %w", err)
	}
	return judge.New(judge.Options{Command: []string{exe, judgeWorker}, Python: os.Getenv(judge.EnvPython)})
}

// running does what a Job does, on one thread.
func running(run func(be backend.Backend, programs judge.Runner) (contract.Termination, error)) (done contract.Termination, err error) {
	be, err := open(1)
	if err != nil {
		return done, err
	}
	defer func() { err = errors.Join(err, be.Close()) }()
	runner, err := programs()
	if err != nil {
		return done, err
	}
	return run(be, runner)
}

// short is the beginning of the digest of anything, for names of runs.
func short(of any) (string, error) {
	b, err := json.Marshal(of)
	if err != nil {
		return "", fmt.Errorf("naming a run: %w", err)
	}
	sum := sha256.Sum256(b)
	const digits = 16
	return hex.EncodeToString(sum[:])[:digits], nil
}
