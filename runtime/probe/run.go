package probe

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/engine"
	"github.com/transformersquared/operator/runtime/failure"
	"github.com/transformersquared/operator/runtime/jobs"
	"github.com/transformersquared/operator/runtime/model"
	"github.com/transformersquared/operator/runtime/tokenizer"
	"github.com/transformersquared/operator/runtime/train"
	"github.com/transformersquared/operator/runtime/train/dataset"
)

// Options are what fitting a probe needs besides its specification.
type Options struct {
	Backend  backend.Backend
	Progress *jobs.Progress
	Log      *slog.Logger
}

// Validate names every field of a specification that makes no sense.
func Validate(s contract.ProbeSpec) error {
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	check(s.DataDir != "", "dataDir is missing: it is the volume's root, such as %s", contract.MountData)
	check(contract.ValidDigest(s.BaseDigest), "baseDigest %q is no digest (sha256: and 64 lower-case hex digits)", s.BaseDigest)
	check(len(s.Sets) >= 2, "sets has %d skills: there is nothing to choose from", len(s.Sets))
	check(len(s.Sets) <= contract.MaxExperts+1, "sets has %d skills, at most %d are possible", len(s.Sets), contract.MaxExperts+1)
	if a := s.Answers; a != nil {
		check(contract.ValidDigest(a.Digest), "answers.digest %q is no digest (sha256: and 64 lower-case hex digits)", a.Digest)
		check(len(a.Experts) > 0, "answers.experts is empty: nobody's answers would count")
	}
	check(s.MaxPrompts == 0 || s.MaxPrompts >= contract.MinProbePrompts && s.MaxPrompts <= contract.MaxProbePrompts,
		"maxPrompts is %d, must be from %d to %d", s.MaxPrompts, contract.MinProbePrompts, contract.MaxProbePrompts)
	_, err := backend.ParseDType(s.DType)
	check(err == nil, "dtype %q is unknown: use one of %s, %s, %s", s.DType, contract.DTypeF32, contract.DTypeBF16, contract.DTypeInt8)
	return errors.Join(errs...)
}

// Run fits the probe that spec describes to the base's states behind the training prompts
// of its skills, and by who answered an evaluation's questions right, and evaluates it on the
// prompts that are held out. It takes seconds to minutes, and begins anew where it was
// interrupted. Answers that are not there any more are done without.
func Run(ctx context.Context, spec contract.ProbeSpec, o Options) (contract.Termination, error) {
	if err := Validate(spec); err != nil {
		return contract.Termination{}, failure.Permanent(contract.ReasonUsage, err)
	}
	begun := time.Now()
	o.Progress.Phase("Fetching", 0, 0)
	labels := make([]string, len(spec.Sets))
	for i, s := range spec.Sets {
		labels[i] = s.Skill
	}
	var sets [2]*dataset.Set
	for i, part := range []string{contract.PartTrain, contract.PartValidation} {
		var err error
		sets[i], err = dataset.Load(ctx, contract.DatasetSpec{Format: contract.FormatSkills, Skills: &contract.SkillsSpec{
			Pass1: question(labels), Sets: spec.Sets, Part: part,
		}}, nil)
		if err != nil {
			return contract.Termination{}, err
		}
	}
	o.Progress.Device(o.Backend.Name())
	base, tok, err := train.LoadBase(ctx, o.Backend, train.Artifacts{DataDir: spec.DataDir, BaseDigest: spec.BaseDigest, DType: spec.DType})
	if err != nil {
		return contract.Termination{}, err
	}
	longest := base.Config().MaxPositions - 1
	var prompts [2][]prompt
	for i, set := range sets {
		if prompts[i], err = encode(set, tok, labels, longest); err != nil {
			return contract.Termination{}, err
		}
	}
	most := cmp.Or(spec.MaxPrompts, contract.MaxProbePrompts)
	prompts[0], prompts[1] = limited(prompts[0], len(labels), most), limited(prompts[1], len(labels), most/heldShare)
	var questions []asked
	learns := spec.Answers != nil
	if learns {
		if questions, err = answers(ctx, spec, labels, tok, longest, min(contract.MaxProbeQuestions, most/2)); err != nil {
			if mayPass(ctx, err) {
				return contract.Termination{}, err
			}
			o.Log.Warn("Who answered right is not known, and the probe is fitted to prompts alone", "error", err)
			learns = false
		}
	}
	examples, known, err := read(ctx, base, prompts, questions, o.Progress)
	if err != nil {
		return contract.Termination{}, err
	}
	o.Progress.Phase("Fitting", 0, 0)
	p, lesson, err := Learn(ctx, labels, examples[0], known)
	if err != nil {
		if ctx.Err() != nil {
			return contract.Termination{}, err
		}
		return contract.Termination{}, failure.Permanent(contract.ReasonInvalidDataset, err)
	}
	p.Manifest.BaseDigest = spec.BaseDigest
	if p.Manifest.Evaluation, err = p.Evaluate(examples[1]); err != nil {
		return contract.Termination{}, err
	}
	m, err := Write(spec.DataDir, p)
	if err != nil {
		return contract.Termination{}, err
	}
	o.Log.Info("Probe was fitted", "digest", m.Digest, "prompts", m.Examples, "heldOut", m.Evaluation.Prompts, "accuracy", m.Evaluation.Accuracy)
	result := &contract.ProbeResult{
		Digest: m.Digest, SizeBytes: m.SizeBytes, BaseDigest: m.BaseDigest, Labels: m.Labels, Examples: m.Examples,
		Least: m.Least, Evaluation: m.Evaluation, Seconds: time.Since(begun).Seconds(),
	}
	if learns {
		result.Lesson = &lesson
		o.Log.Info("Probe learnt from who answered right", "questions", lesson.Questions, "weight", lesson.Weight,
			"rightBefore", lesson.Before.Right, "right", lesson.After.Right)
	}
	return contract.Termination{Probe: result}, nil
}

// question lists the skills, as data sets of them want it; nobody is asked it.
func question(labels []string) contract.Pass1 {
	var q contract.Pass1
	for _, label := range labels {
		if label != contract.OthersLabel {
			q.Skills = append(q.Skills, contract.SkillLine{Skill: label})
		}
	}
	return q
}

// prompt is what the base is to read, and the place of its label.
type prompt struct {
	tokens []int32
	label  int
}

// encode returns the prompts of a set, each once, as they are served: those of more than so
// many tokens are left out.
func encode(set *dataset.Set, tok *tokenizer.Tokenizer, labels []string, most int) ([]prompt, error) {
	places := map[string]int{}
	for i, label := range labels {
		places[label] = i
	}
	var list []prompt
	seen := map[string]bool{}
	for _, r := range set.Records {
		text := r.Messages[len(r.Messages)-1].Content
		if seen[text] {
			continue
		}
		seen[text] = true
		label, ok := places[r.Target()]
		if !ok {
			return nil, fmt.Errorf("%q is none of the skills %q", r.Target(), labels)
		}
		ids, err := train.EncodePrompt(tok, r.Messages)
		if err != nil {
			return nil, failure.Permanent(contract.ReasonInvalidDataset, fmt.Errorf("encoding a prompt of skill %s: %w", labels[label], err))
		}
		if len(ids) > 0 && len(ids) <= most {
			list = append(list, prompt{tokens: ids, label: label})
		}
	}
	return list, nil
}

// heldShare is how many prompts a probe is fitted to for one that it is evaluated by.
const heldShare = 4

// limited keeps of each label the first of its prompts, so that there are so many at most:
// the same number of each label, and two of each in any case, which a fit needs.
func limited(prompts []prompt, labels, most int) []prompt {
	of, share := make([]int, labels), max(most/labels, 2)
	var kept []prompt
	for _, p := range prompts {
		if of[p.label]++; of[p.label] <= share {
			kept = append(kept, p)
		}
	}
	return kept
}

// read lets the base read all prompts and questions, side by side.
func read(ctx context.Context, base *model.Model, prompts [2][]prompt, questions []asked, progress *jobs.Progress) ([2][]Example, []Question, error) {
	var examples [2][]Example
	known := make([]Question, len(questions))
	type reading struct {
		tokens []int32
		state  *[]float32
	}
	var readings []reading
	for i, list := range prompts {
		examples[i] = make([]Example, len(list))
		for j, p := range list {
			examples[i][j].Label = p.label
			readings = append(readings, reading{p.tokens, &examples[i][j].State})
		}
	}
	for i, q := range questions {
		known[i] = q.Question
		readings = append(readings, reading{q.tokens, &known[i].State})
	}
	longest := 1
	for _, r := range readings {
		longest = max(longest, len(r.tokens)+1)
	}
	e, err := engine.New(ctx, engine.Options{
		Base: base, ContextLength: longest, MaxWaiting: len(readings), StepTokens: stepTokens,
	})
	if err != nil {
		return examples, nil, err
	}
	defer e.Close()
	total := int64(len(readings))
	progress.Phase("Reading", 0, total)
	var done atomic.Int64
	all, ctx := errgroup.WithContext(ctx)
	for _, r := range readings {
		all.Go(func() error {
			state, err := e.Read(ctx, engine.ReadRequest{Prompt: r.tokens})
			if err != nil {
				return fmt.Errorf("reading a prompt: %w", err)
			}
			*r.state = state
			progress.Phase("Reading", done.Add(1), total)
			return nil
		})
	}
	return examples, known, all.Wait()
}

// stepTokens bounds a step of reading: nobody waits for an answer beside it.
const stepTokens = 4096
