// Package evaluate finds out what an expert set is worth before clients see it: the same
// questions are put to the base, to the set that serves, to the new one, and to each of its
// experts alone. A server answers them (package server), as it answers clients, by both
// passes and in the form and the number format that it serves with; answers are greedy, so
// that nothing but the weights differs.
//
// What has been answered is kept in the run's folder, so that an evaluation that was
// interrupted goes on; what it found is published as an artifact, and found again.
package evaluate

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/transformersquared/operator/runtime/artifact"
	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/failure"
	"github.com/transformersquared/operator/runtime/jobs"
	"github.com/transformersquared/operator/runtime/judge"
	"github.com/transformersquared/operator/runtime/server"
	"github.com/transformersquared/operator/runtime/train"
	"github.com/transformersquared/operator/runtime/train/dataset"
	"github.com/transformersquared/operator/runtime/train/reward"
)

// Options are what an evaluation needs besides its specification.
type Options struct {
	// Backend, Threads and CuBLAS are as in server.Config; an empty backend is that of the
	// specification.
	Backend  string
	Threads  int
	CuBLAS   backend.LibraryUse
	Progress *jobs.Progress
	Log      *slog.Logger
	// Programs runs what the reward UnitTests judges (see reward.New).
	Programs judge.Runner
}

// Run evaluates what spec describes, or goes on with it.
func Run(ctx context.Context, spec contract.EvaluateSpec, o Options) (_ contract.Termination, err error) {
	spec.MaxNewTokens = cmp.Or(spec.MaxNewTokens, contract.DefaultEvaluationMaxTokens)
	if err := Validate(spec); err != nil {
		return contract.Termination{}, failure.Permanent(contract.ReasonUsage, err)
	}
	judges, err := newJudges(spec, o.Programs)
	if err != nil {
		return contract.Termination{}, err
	}
	defer func() { err = errors.Join(err, judges.close()) }()
	o.Progress.Phase("Fetching", 0, 0)
	sets, err := load(ctx, spec, judges)
	if err != nil {
		return contract.Termination{}, err
	}
	digest, err := runDigest(spec, sets)
	if err != nil {
		return contract.Termination{}, err
	}
	stage, err := train.Occupy(ctx, filepath.Join(spec.DataDir, contract.DirRuns), spec.RunID, o.Log)
	if err != nil {
		return contract.Termination{}, err
	}
	defer func() { err = errors.Join(err, stage.Release()) }()
	if done, ok := finished(spec, stage.Dir(), digest); ok {
		o.Log.Info("Evaluation was finished before", "digest", done.Evaluation.Digest)
		return done, nil
	}
	for _, j := range judges {
		if err := train.Confine(ctx, j, o.Log); err != nil {
			return contract.Termination{}, err
		}
	}
	s, err := serving(ctx, spec, o)
	if err != nil {
		return contract.Termination{}, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	o.Progress.Device(s.Status().Device)
	e := &evaluation{spec: spec, server: s, judges: judges, sets: sets, dir: stage.Dir(), digest: digest, options: o}
	if err := e.ask(ctx); err != nil {
		return contract.Termination{}, err
	}
	return e.publish()
}

// load reads the data sets: of each the first records that the reward can judge.
func load(ctx context.Context, spec contract.EvaluateSpec, judges judges) ([]*dataset.Set, error) {
	sets := make([]*dataset.Set, len(spec.Sets))
	for i, set := range spec.Sets {
		read := set.Dataset
		if spec.Samples > 0 && (read.Limit == 0 || read.Limit > spec.Samples) {
			read.Limit = spec.Samples
		}
		var err error
		if sets[i], err = dataset.Load(ctx, read, judges[set.Reward]); err != nil {
			return nil, fmt.Errorf("%s: %w", field(spec, i), err)
		}
	}
	return sets, nil
}

// field is where a data set is named.
func field(spec contract.EvaluateSpec, i int) string {
	return cmp.Or(spec.Sets[i].Field, fmt.Sprintf("sets[%d]", i))
}

// judges are by their rewards.
type judges map[string]reward.Judge

func newJudges(spec contract.EvaluateSpec, programs judge.Runner) (judges, error) {
	all := judges{}
	for _, set := range spec.Sets {
		if all[set.Reward] != nil {
			continue
		}
		j, err := reward.New(set.Reward, programs)
		if err != nil {
			return nil, errors.Join(failure.Permanent(contract.ReasonUsage, err), all.close())
		}
		all[set.Reward] = j
	}
	return all, nil
}

func (j judges) close() error {
	var errs []error
	for _, one := range j {
		errs = append(errs, one.Close())
	}
	return errors.Join(errs...)
}

// serving starts a server without listeners, with the base alone.
func serving(ctx context.Context, spec contract.EvaluateSpec, o Options) (*server.Server, error) {
	config, err := server.FromSpec(contract.ServeSpec{
		Name: spec.Name, DataDir: spec.DataDir, BaseDigest: spec.BaseDigest, DecompositionDigest: spec.DecompositionDigest,
		TransferDir: spec.TransferDir, ContextLength: spec.ContextLength, MaxBatch: spec.MaxBatch,
		KVCacheBytes: spec.KVCacheBytes, KVCacheType: spec.KVCacheType, DType: spec.DType, Form: spec.Form,
		Backend: cmp.Or(o.Backend, spec.Backend),
	})
	if err != nil {
		return nil, err
	}
	config.Threads, config.CuBLAS, config.Log, config.SetFile = o.Threads, o.CuBLAS, o.Log, ""
	s := server.New(config)
	if err := s.Load(ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// resultFile is what an evaluation that ended leaves in its run's folder.
const (
	resultFile = "result.json"
	maxResult  = 1 << 20
)

type result struct {
	Spec        string               `json:"spec"`
	Termination contract.Termination `json:"termination"`
}

// finished returns the result of an evaluation that ended before, whose artifact is there.
func finished(spec contract.EvaluateSpec, dir, digest string) (contract.Termination, bool) {
	r, err := readJSON[result](filepath.Join(dir, resultFile), maxResult)
	if err != nil || r.Spec != digest || r.Termination.Evaluation == nil || len(r.Termination.Evaluation.Sets) != len(spec.Sets) {
		return contract.Termination{}, false
	}
	folder, err := contract.ArtifactDir(spec.DataDir, contract.DirEvaluations, r.Termination.Evaluation.Digest)
	return r.Termination, err == nil && artifact.Complete(folder)
}

// seconds is how long something took.
func seconds(begun time.Time) float64 { return time.Since(begun).Seconds() }
