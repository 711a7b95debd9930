package train

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/transformersquared/operator/runtime/checkpoint"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/failure"
	"github.com/transformersquared/operator/runtime/model"
	"github.com/transformersquared/operator/runtime/sample"
	"github.com/transformersquared/operator/runtime/train/reward"
)

// trainer is a run under way.
type trainer struct {
	spec    contract.TrainSpec
	hyper   contract.Hyper
	options Options
	dir     string // of the run
	metrics *metrics

	base      *model.Model
	onAnswers bool // The expert acts on answers alone: the base reads prompts.
	method    method
	objective objective
	train     *Task
	validate  *Task
	order     *order
	budget    int // tokens of a microbatch

	state *state
}

func newTrainer(ctx context.Context, spec contract.TrainSpec, digest string, data sets, judge reward.Judge, dir string, o Options) (*trainer, error) {
	if o.Grace == 0 {
		o.Grace = DefaultGrace
	}
	in, err := loadInputs(ctx, o.Backend, spec)
	if err != nil {
		return nil, err
	}
	t := &trainer{
		spec: spec, hyper: spec.Hyperparameters, options: o, dir: dir,
		base: in.base, onAnswers: spec.Hyperparameters.Activation == contract.ActivationAnswer, metrics: newMetrics(o.Progress.Registry()),
	}
	positions := in.base.Config().MaxPositions
	if t.train, err = NewTask(data.train, in.tokenizer, judge, positions); err != nil {
		return nil, err
	}
	if spec.Objective == contract.ObjectiveNextToken {
		if err := t.train.learn(positions); err != nil {
			return nil, err
		}
	}
	if t.validate, err = NewTask(data.validation, in.tokenizer, judge, positions); err != nil {
		return nil, err
	}
	warnSkipped(o.Log, "training", t.train.Skipped())
	warnSkipped(o.Log, "validation", t.validate.Skipped())
	t.order = newOrder(t.hyper.Seed, t.train.Len())
	if t.method, err = newMethod(in, spec); err != nil {
		return nil, err
	}
	p, err := t.method.initial()
	if err != nil {
		return nil, err
	}
	t.budget = microbatchTokens(in.base.Config(), t.method.kept())
	if t.objective, err = newObjective(spec, t.method, p); err != nil {
		return nil, err
	}
	fresh := newState(digest, p)
	if err := t.objective.begin(fresh); err != nil {
		return nil, err
	}
	switch t.state, err = loadState(dir, fresh, t.objective.resume); {
	case errors.Is(err, errUnusable):
		o.Log.Warn("Training started anew", "error", err)
	case err != nil:
		return nil, err
	case t.state != nil:
		o.Log.Info("Training was continued", "iteration", t.state.Iteration)
	}
	if t.state == nil {
		t.state = fresh
	}
	return t, nil
}

// activationBytes bounds the activations that one microbatch keeps for its
// backward pass.
const activationBytes = 128 << 20

// microbatchTokens returns how many tokens fit into activationBytes, of which each
// keeps so many numbers more than the base's own.
func microbatchTokens(c checkpoint.Config, kept int) int {
	const float = 4
	perToken := c.Layers*(4*c.HiddenSize+3*c.IntermediateSize+2*c.Heads*c.HeadDim+2*c.KVHeads*c.HeadDim) + kept + 3*c.VocabSize
	return max(1, activationBytes/(float*perToken))
}

// run trains until the last iteration, or until patience or ctx ends.
func (t *trainer) run(ctx context.Context) error {
	// An iteration that has begun when ctx ends may finish within the grace; if
	// it takes longer it is dropped, and done again after the restart.
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(t.options.Grace, cancel) })()
	if t.state.BaselineScore != unknownScore {
		t.options.Progress.Phase("Training", int64(t.state.Iteration), int64(t.hyper.Iterations))
	}
	for {
		t.report()
		if t.finished() {
			if s := t.state; s.Iteration < t.hyper.Iterations {
				t.options.Log.Info("Training ended early: no better expert is to be expected", "iteration", s.Iteration,
					"iterations", t.hyper.Iterations, "best", s.BestScore, "validationsSinceBest", s.SinceBest, "search", s.Ended)
			}
			return nil
		}
		if ctx.Err() != nil {
			return t.interrupted(ctx)
		}
		err := t.advance(work)
		if err != nil && ctx.Err() != nil && errors.Is(err, context.Canceled) {
			return t.interrupted(ctx)
		}
		if err != nil {
			return err
		}
	}
}

// perfectScore is the validation score that none is better than.
const perfectScore = 1

// finished says whether training ends with the present state. After a perfect
// validation it does, since no iteration can change what is published: the
// earliest of equal experts is kept.
func (t *trainer) finished() bool {
	s := t.state
	return s.BaselineScore != unknownScore &&
		(s.Iteration >= t.hyper.Iterations || s.Ended != "" || s.BestScore >= perfectScore ||
			t.hyper.Patience > 0 && s.SinceBest >= t.hyper.Patience)
}

// validationDue says whether the expert is scored after that iteration.
func (t *trainer) validationDue(iteration int) bool {
	return iteration%t.hyper.ValidationInterval == 0 || iteration == t.hyper.Iterations
}

// interrupted saves what is done and says so.
func (t *trainer) interrupted(ctx context.Context) error {
	if err := t.state.save(t.dir); err != nil {
		return err
	}
	t.options.Log.Info("Training was interrupted", "iteration", t.state.Iteration)
	return failure.Transient(contract.ReasonInterrupted,
		fmt.Errorf("interrupted after iteration %d of %d, which is saved: run it again to continue: %w", t.state.Iteration, t.hyper.Iterations, context.Cause(ctx)))
}

// advance does the next piece of work that is done whole or not at all: the
// baseline's score, or an iteration with the validation and the checkpoint that
// are due after it.
func (t *trainer) advance(ctx context.Context) error {
	p := t.options.Progress
	if t.state.BaselineScore == unknownScore {
		p.Phase("Baseline", 0, int64(t.validate.Len()))
		r, err := t.validate.Evaluate(ctx, Answerer{Model: t.base}, t.hyper.MaxNewTokens)
		if err != nil {
			return t.diverged(err)
		}
		t.state.BaselineScore = r.Score
		p.Phase("Training", 0, int64(t.hyper.Iterations))
		// It may have taken long: it is computed once, whatever happens next.
		return t.state.save(t.dir)
	}
	began := time.Now()
	next, err := t.objective.iterate(ctx, t)
	if err != nil {
		return t.diverged(err)
	}
	tokens := next.History[len(next.History)-1].AnswerTokens
	t.metrics.iteration(tokens, time.Since(began))
	if t.validationDue(next.Iteration) || next.Ended != "" {
		if err := t.validation(ctx, next); err != nil {
			return t.diverged(err)
		}
	}
	t.state = next
	if next.Iteration%t.hyper.CheckpointInterval == 0 && next.Iteration < t.hyper.Iterations {
		return t.state.save(t.dir)
	}
	return nil
}

// diverged classifies numbers that are none; other errors pass.
func (t *trainer) diverged(err error) error {
	if !errors.Is(err, sample.ErrNotFinite) && !errors.Is(err, errNotFinite) {
		return err
	}
	return failure.Permanent(contract.ReasonDiverged, fmt.Errorf(
		"training diverged in iteration %d: %w: %s", t.state.Iteration+1, err, remedy(t.spec.Objective)))
}

// remedy says what to do about numbers that are none.
func remedy(objective string) string {
	if objective == contract.ObjectiveEvolution {
		return "lower sigma"
	}
	return "lower learningRate or maxGradNorm, or raise klWeight"
}

var errNotFinite = errors.New("loss or gradient is not finite")

// update computes the gradient of a batch and takes one step of Adam. It returns the
// next state.
func (t *trainer) update(ctx context.Context, b batch) (*state, error) {
	next := t.state.clone()
	next.Iteration++
	// Without a penalty the step does not depend on the divergence, and the base
	// model's pass over the batch costs about a fifth of it. So it is measured
	// where somebody looks: at the iterations that are validated.
	base := t.base
	if b.loss.klWeight == 0 && !t.validationDue(next.Iteration) {
		base = nil
	}
	d, s, err := b.loss.gradients(ctx, t.method.model(), base, b.episodes, t.budget)
	if err != nil {
		return nil, err
	}
	names := t.state.names()
	g := t.method.gradient(d, t.state.p)
	norm := globalNorm(names, g)
	loss := s.loss / float64(b.loss.over)
	if !finite(norm) || !finite(loss) || !finite(s.kl) {
		return nil, fmt.Errorf("%w: loss %v, gradient norm %v, KL %v", errNotFinite, loss, norm, s.kl)
	}
	clip(g, norm, t.hyper.MaxGradNorm)
	for _, name := range names {
		adamStep(next.p[name], g[name], next.moments[name], next.Iteration, t.hyper.LearningRate)
	}
	reward := b.reward
	if math.IsNaN(reward) {
		// Of given answers: how likely a token of theirs is, as a geometric mean.
		reward = math.Exp(-loss)
	}
	p := point{Iteration: next.Iteration, Reward: reward, Loss: loss, GradNorm: norm, AnswerTokens: s.tokens}
	if base != nil {
		p.KL = new(s.kl / math.Max(1, float64(s.tokens)))
	}
	next.History = append(next.History, p)
	return next, nil
}

// reader is what reads prompts for the expert; nil where that does so itself.
func (t *trainer) reader() *model.Model {
	if t.onAnswers {
		return t.base
	}
	return nil
}

// answerer is who answers with what is trained.
func (t *trainer) answerer(m *model.Model) Answerer { return Answerer{Model: m, Reader: t.reader()} }

// validation scores the expert of a state and keeps it if it is the best yet.
func (t *trainer) validation(ctx context.Context, s *state) error {
	t.options.Progress.Label("Validating")
	defer t.options.Progress.Label("Training")
	if err := t.method.apply(s.p); err != nil {
		return err
	}
	answers, err := t.method.answers(ctx)
	if err != nil {
		return err
	}
	r, err := t.validate.Evaluate(ctx, t.answerer(answers), t.hyper.MaxNewTokens)
	if err != nil {
		return err
	}
	s.History[len(s.History)-1].Score = &r.Score
	s.keepBest(r.Score)
	return nil
}
