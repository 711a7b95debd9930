// Package fewshot searches the weights of experts in a mixture by a handful of examples:
// strategy FewShot of Transformer² (section 3.2), the cross-entropy method. All mixtures
// of a generation answer all examples in one batch, in the unmerged form, so that no
// weights are composed for mixtures that are never served.
//
// A search is a function of its specification, the experts and the examples: it can be
// interrupted after any generation and continued elsewhere, and finds the same (on
// processors that take the same instruction path).
package fewshot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/transformersquared/operator/runtime/artifact"
	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/expert"
	"github.com/transformersquared/operator/runtime/failure"
	"github.com/transformersquared/operator/runtime/jobs"
	"github.com/transformersquared/operator/runtime/judge"
	"github.com/transformersquared/operator/runtime/train"
	"github.com/transformersquared/operator/runtime/train/dataset"
	"github.com/transformersquared/operator/runtime/train/reward"
)

// Options are what a search needs besides its specification.
type Options struct {
	Backend  backend.Backend
	Progress *jobs.Progress
	Log      *slog.Logger
	// Programs runs what the reward UnitTests judges (see reward.New).
	Programs judge.Runner
}

// Run searches what spec describes, or continues the search. When ctx ends, it returns an
// error that wraps context.Canceled, and the next Run goes on with the generation that was
// under way.
func Run(ctx context.Context, spec contract.AdaptSpec, o Options) (_ contract.Termination, err error) {
	if err := Validate(spec); err != nil {
		return contract.Termination{}, failure.Permanent(contract.ReasonUsage, err)
	}
	judge, err := reward.New(spec.Reward, o.Programs)
	if err != nil {
		return contract.Termination{}, failure.Permanent(contract.ReasonUsage, err)
	}
	defer func() { err = errors.Join(err, judge.Close()) }()
	o.Progress.Phase("Fetching", 0, 0)
	examples, err := loadExamples(ctx, spec, judge)
	if err != nil {
		return contract.Termination{}, err
	}
	digest, err := runDigest(spec, examples.Digest)
	if err != nil {
		return contract.Termination{}, err
	}
	stage, err := train.Occupy(ctx, filepath.Join(spec.DataDir, contract.DirRuns), spec.RunID, o.Log)
	if err != nil {
		return contract.Termination{}, err
	}
	defer func() { err = errors.Join(err, stage.Release()) }()
	if done, ok := finished(stage.Dir(), digest, len(spec.Experts)); ok {
		o.Log.Info("Search was finished before", "score", done.FewShot.Score)
		return done, nil
	}
	if err := train.Confine(ctx, judge, o.Log); err != nil {
		return contract.Termination{}, err
	}
	if err := train.TakePath(stage.Dir(), o.Backend, o.Log); err != nil {
		return contract.Termination{}, err
	}
	o.Progress.Device(o.Backend.Name())
	begun := time.Now()
	s, err := newSearcher(ctx, spec, digest, examples, judge, stage.Dir(), o)
	if err != nil {
		return contract.Termination{}, err
	}
	defer s.population.close()
	s.begun = begun
	if err := s.run(ctx); err != nil {
		return contract.Termination{}, err
	}
	return s.publish(digest)
}

// loadExamples reads the examples, of which there must be a handful: with fewer, mixtures
// cannot be told apart, and with more a skill can be trained.
func loadExamples(ctx context.Context, spec contract.AdaptSpec, judge reward.Judge) (*dataset.Set, error) {
	set, err := dataset.Load(ctx, spec.Examples, judge)
	if err != nil {
		return nil, fmt.Errorf("examples: %w", err)
	}
	return set, handful(set.Name, len(set.Records))
}

func handful(name string, n int) error {
	if n >= contract.MinExamples && n <= contract.MaxExamples {
		return nil
	}
	return failure.Permanentf(contract.ReasonInvalidDataset,
		"examples: %s has %d that can be used: a search takes %d to %d; give more, or name by limit how many of the first are used",
		name, n, contract.MinExamples, contract.MaxExamples)
}

// loadExperts reads the experts and makes sure that they fit the base and each other.
func loadExperts(ctx context.Context, spec contract.AdaptSpec, in train.Inputs) ([]expert.Adapter, error) {
	mixture := make([]expert.Weighted, len(spec.Experts))
	experts := make([]expert.Adapter, len(spec.Experts))
	for k, e := range spec.Experts {
		v, err := loadExpert(ctx, spec, in.Decomposition, e)
		if err == nil {
			err = errors.Join(v.Fits(in.Decomposition), v.FitsModel(in.Base.Linears()))
		}
		if err != nil {
			return nil, fmt.Errorf("expert %s: %w", e.Name, err)
		}
		experts[k], mixture[k] = v, expert.Weighted{Adapter: v, Alpha: 1 / float64(len(experts))}
	}
	if _, err := expert.Mix(mixture); err != nil {
		return nil, failure.Permanent(contract.ReasonInvalidExpert, fmt.Errorf("these experts cannot be mixed: %w", err))
	}
	return experts, nil
}

// loadExpert reads an expert and verifies that it is the one that was meant. One of another
// base becomes one of this, if that is asked for.
func loadExpert(ctx context.Context, spec contract.AdaptSpec, onto *expert.Decomposition, e contract.AdaptExpert) (expert.Adapter, error) {
	root, err := contract.VolumeOf(spec.DataDir, spec.TransferDir, e.TransferFrom)
	if err != nil {
		return expert.Adapter{}, failure.Permanent(contract.ReasonUsage, err)
	}
	dir, err := contract.ArtifactDir(root, contract.DirExperts, e.Digest)
	if err != nil {
		return expert.Adapter{}, failure.Permanent(contract.ReasonUsage, err)
	}
	v, err := expert.ReadContext(ctx, dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return v, failure.Transient(contract.ReasonSourceNotFound, fmt.Errorf("it is not in %s: train or import it again, unless it is on its way: %w", dir, err))
	case err != nil:
		return v, err
	case v.Manifest.Digest != e.Digest:
		return v, failure.Permanentf(contract.ReasonDigestMismatch, "the one in %s has digest %s, not %s", dir, v.Manifest.Digest, e.Digest)
	case e.TransferFrom == "":
		return v, nil
	}
	model, err := contract.ArtifactDir(spec.DataDir, contract.DirModels, spec.BaseDigest)
	if err != nil {
		return v, failure.Permanent(contract.ReasonUsage, err)
	}
	return v.Transfer(ctx, onto, model, dir)
}

// publish records the search's result in its folder.
func (s *searcher) publish(digest string) (contract.Termination, error) {
	s.options.Progress.Phase("Saving", 0, 0)
	found, err := s.found()
	if err != nil {
		return contract.Termination{}, err
	}
	done := contract.Termination{FewShot: &found}
	if err := artifact.WriteSealed(filepath.Join(s.dir, resultFile), result{Spec: digest, Termination: done}); err != nil {
		return contract.Termination{}, err
	}
	// The state has served.
	if err := os.Remove(filepath.Join(s.dir, stateFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return contract.Termination{}, fmt.Errorf("removing the state of a finished search: %w", err)
	}
	s.options.Log.Info("Weights were found", "score", found.Score, "baseline", found.BaselineScore, "uniform", found.UniformScore,
		"generations", found.Generations, "evaluations", found.Evaluations)
	return done, nil
}
