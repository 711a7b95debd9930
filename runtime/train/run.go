// Package train trains expert vectors by reinforcement learning, after
// Transformer² (section 3.1 and 3.2): the model answers prompts, a judge rewards
// the answers, and the policy gradient with a KL penalty moves the scales of the
// singular values. Only these have gradients.
//
// A run is a function of its specification, its data and its seed: it can be
// interrupted after any iteration and continued elsewhere, and ends with the
// same bits, on processors that have the instructions that it was begun with (see
// TakePath).
package train

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/transformersquared/operator/runtime/artifact"
	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/expert"
	"github.com/transformersquared/operator/runtime/failure"
	"github.com/transformersquared/operator/runtime/jobs"
	"github.com/transformersquared/operator/runtime/judge"
	"github.com/transformersquared/operator/runtime/train/dataset"
	"github.com/transformersquared/operator/runtime/train/reward"
)

// Options are what a run needs besides its specification.
type Options struct {
	Backend  backend.Backend
	Progress *jobs.Progress
	Log      *slog.Logger
	// Programs runs what the reward UnitTests judges (see reward.New).
	Programs judge.Runner
	// Grace is how long the iteration under way may take to finish after the
	// context has ended; 0 means DefaultGrace.
	Grace time.Duration
}

// DefaultGrace leaves most of a pod's 30 seconds for the checkpoint.
const DefaultGrace = 8 * time.Second

// Files that a run leaves beside its expert, and in its folder.
const (
	MetricsFile = contract.MetricsFile
	CurveFile   = "curve.svg"
	resultFile  = "result.json"
)

// result is resultFile: what a finished run has produced.
type result struct {
	Spec        string               `json:"spec"`
	Termination contract.Termination `json:"termination"`
}

// Run trains the expert that spec describes, or continues its training, and
// publishes it under spec.DataDir. When ctx ends, it writes a checkpoint and
// returns an error that wraps context.Canceled.
func Run(ctx context.Context, spec contract.TrainSpec, o Options) (_ contract.Termination, err error) {
	if err := Validate(spec); err != nil {
		return contract.Termination{}, failure.Permanent(contract.ReasonUsage, err)
	}
	judge, err := reward.New(spec.Reward, o.Programs)
	if err != nil {
		return contract.Termination{}, failure.Permanent(contract.ReasonUsage, err)
	}
	defer func() { err = errors.Join(err, judge.Close()) }()
	o.Progress.Phase("Fetching", 0, 0)
	sets, err := loadSets(ctx, spec, judge)
	if err != nil {
		return contract.Termination{}, err
	}
	digest, err := runDigest(spec, sets.train.Digest, sets.validation.Digest)
	if err != nil {
		return contract.Termination{}, err
	}
	stage, err := occupy(ctx, filepath.Join(spec.DataDir, contract.DirRuns), spec.RunID, o.Log)
	if err != nil {
		return contract.Termination{}, err
	}
	defer func() { err = errors.Join(err, stage.Release()) }()
	if done, ok := finished(spec, stage.Dir(), digest); ok {
		o.Log.Info("Run was finished before", "expert", done.Expert.Digest)
		if done.Expert.Training != nil {
			o.Progress.Training(*done.Expert.Training)
		}
		return done, nil
	}
	if err := Confine(ctx, judge, o.Log); err != nil {
		return contract.Termination{}, err
	}
	if err := TakePath(stage.Dir(), o.Backend, o.Log); err != nil {
		return contract.Termination{}, err
	}
	o.Progress.Device(o.Backend.Name())
	t, err := newTrainer(ctx, spec, digest, sets, judge, stage.Dir(), o)
	if err != nil {
		return contract.Termination{}, err
	}
	if err := t.run(ctx); err != nil {
		return contract.Termination{}, err
	}
	return t.publish(digest)
}

// Confine makes sure that a judge can run what it judges, and says how that is confined.
func Confine(ctx context.Context, judge reward.Judge, log *slog.Logger) error {
	confinement, err := reward.Prepare(ctx, judge)
	if err != nil {
		return failure.Transient(contract.ReasonJudgeUnavailable, err)
	}
	if confinement != "" {
		log.Info("Programs are confined", "by", confinement)
	}
	return nil
}

// patience is how long a run waits for another process that has its folder: a
// pod that is being replaced may still be saving.
const patience = time.Minute

// occupy takes a run's folder for this process alone.
func occupy(ctx context.Context, root, runID string, log *slog.Logger) (*artifact.Staging, error) {
	for deadline := time.Now().Add(patience); ; {
		stage, err := artifact.StageAt(root, runID)
		if !errors.Is(err, syscall.EWOULDBLOCK) || time.Now().After(deadline) {
			return stage, err
		}
		log.Info("Waited for another process that has the same run", "error", err)
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return nil, fmt.Errorf("waiting for the run's folder: %w", context.Cause(ctx))
		}
	}
}

// sets are a run's data.
type sets struct{ train, validation *dataset.Set }

func loadSets(ctx context.Context, spec contract.TrainSpec, judge reward.Judge) (s sets, err error) {
	for _, each := range []struct {
		name string
		spec contract.DatasetSpec
		set  **dataset.Set
	}{{"training", spec.Train, &s.train}, {"validation", spec.Validation, &s.validation}} {
		if *each.set, err = dataset.Load(ctx, each.spec, judge); err != nil {
			return s, fmt.Errorf("%s data: %w", each.name, err)
		}
	}
	return s, nil
}

// warnSkipped says which records take no part.
func warnSkipped(log *slog.Logger, data string, skipped []dataset.Skip) {
	if len(skipped) > 0 {
		log.Warn("Left out records that cannot be used", "data", data, "count", len(skipped), "first", skipped[0].Why)
	}
}

// finished returns the result of a run that was finished before, if its expert
// is still there.
func finished(spec contract.TrainSpec, dir, digest string) (contract.Termination, bool) {
	r, err := readResult(dir)
	if err != nil || r.Spec != digest || r.Termination.Expert == nil {
		return contract.Termination{}, false
	}
	final, err := contract.ArtifactDir(spec.DataDir, contract.DirExperts, r.Termination.Expert.Digest)
	if err != nil {
		return contract.Termination{}, false
	}
	if _, err := expert.Read(final); err != nil {
		return contract.Termination{}, false
	}
	return r.Termination, true
}

// manifestActivation is what an expert of these hyperparameters says it acts on.
func manifestActivation(h contract.Hyper) string {
	if h.Activation == contract.ActivationAnswer {
		return h.Activation
	}
	return ""
}

const maxResult = 1 << 20

func readResult(dir string) (r result, err error) {
	b, err := artifact.ReadSealed(filepath.Join(dir, resultFile), maxResult)
	if err != nil {
		return r, err
	}
	return r, strictJSON(b, &r)
}

// publish writes the best expert, its metrics and its learning curve, and
// records the run's result.
func (t *trainer) publish(digest string) (contract.Termination, error) {
	t.options.Progress.Phase("Saving", 0, 0)
	made, err := t.method.adapter(t.state.bestP)
	if err != nil {
		return contract.Termination{}, err
	}
	made.Manifest = contract.ExpertManifest{
		BaseDigest: t.spec.BaseDigest, DecompositionDigest: t.spec.DecompositionDigest,
		Skill: t.spec.Skill, BaselineScore: t.state.BaselineScore, Score: t.state.BestScore,
		Activation: manifestActivation(t.hyper),
	}
	if skills := t.spec.Train.Skills; skills != nil {
		if made.Manifest.Pass1Digest, err = skills.Pass1.Digest(); err != nil {
			return contract.Termination{}, err
		}
	}
	manifest, err := expert.Write(t.spec.DataDir, made, map[string]func(io.Writer) error{
		MetricsFile: func(w io.Writer) error { return writeMetrics(w, t.state.History) },
		CurveFile:   func(w io.Writer) error { return writeCurve(w, t.spec.Skill, t.state.header) },
	})
	if err != nil {
		return contract.Termination{}, err
	}
	training := t.trainProgress()
	done := contract.Termination{Expert: &contract.ExpertResult{
		Digest: manifest.Digest, SizeBytes: manifest.SizeBytes,
		BaseDigest: manifest.BaseDigest, DecompositionDigest: manifest.DecompositionDigest,
		Training: &training, Pass1Digest: manifest.Pass1Digest, Activation: manifest.Activation,
	}}
	if err := artifact.WriteSealed(filepath.Join(t.dir, resultFile), result{Spec: digest, Termination: done}); err != nil {
		return contract.Termination{}, err
	}
	// The checkpoint has served; without it a finished run takes no room.
	if err := os.Remove(filepath.Join(t.dir, stateFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return contract.Termination{}, fmt.Errorf("removing the checkpoint of a finished run: %w", err)
	}
	t.options.Log.Info("Expert was published", "digest", manifest.Digest,
		"score", manifest.Score, "baseline", manifest.BaselineScore, "iteration", t.state.BestIteration)
	return done, nil
}
