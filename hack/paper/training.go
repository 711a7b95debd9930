package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/expert"
	"github.com/transformersquared/operator/runtime/jobs"
	"github.com/transformersquared/operator/runtime/judge"
	"github.com/transformersquared/operator/runtime/train"
)

// recipe says how an expert is made; its zero values are the common ones.
type recipe struct {
	base      string
	skill     skill
	method    string
	objective string
	modules   []string
	seed      uint64
	rate      float64 // The learning rate, of all objectives that have one.
	// Changes of what the method and the objective have otherwise.
	baseline         string
	activation       string
	parameterization string
	rank             int // Of LoRA and DoRA, or truncated in an evolution.
	iterations       int
	// shots, where it is not 0, makes the first so many examples of the few-shot set all
	// that is learnt and all that it is judged by.
	shots int
	// dispatch makes a classifier of pass 1 instead, which learns from the training prompts
	// of all skills.
	dispatch bool
}

// trained is what came of a recipe.
type trained struct {
	Digest     string  `json:"digest"`
	Parameters int     `json:"parameters"`
	Baseline   float64 `json:"baseline"` // Validation scores, 0 to 1.
	Best       float64 `json:"best"`
	Iterations int     `json:"iterations"`
}

// Modules by the part of a block that they belong to.
var (
	attention = []string{"q_proj", "k_proj", "v_proj", "o_proj"}
	mlp       = []string{"gate_proj", "up_proj", "down_proj"}
)

// Schedules: what fits into the time that the measurement has.
const (
	iterations = 30
	batchSize  = 48
	interval   = 5 // Iterations between validations.

	lowRank  = 8
	lowAlpha = 16

	group = 8 // Answers to a question of baseline Group.

	// An evolution asks each candidate of a generation a batch of questions.
	population  = 16
	sigma       = 0.15
	generations = 24
	fitnessOf   = 16 // Questions.

	fewIterations = 100 // Of IA3 on a few examples.
)

// rates are the learning rates that are tried of each method. Those of DoRA are LoRA's.
// SVF's bound on the gradient's norm is the paper's; the others have 1, since their
// gradients are larger by far.
var rates = map[string][]float64{
	contract.MethodSVF:  {1e-2, 3e-2, 1e-1},
	contract.MethodLoRA: {1e-3, 3e-3, 1e-2},
	contract.MethodIA3:  {1e-2, 3e-2, 1e-1},
}

// hyper are a recipe's hyperparameters.
func (r recipe) hyper() contract.Hyper {
	h := contract.DefaultHyper()
	h.Parameterization = contract.ParameterizationSigmoid
	if r.parameterization != "" {
		h.Parameterization = r.parameterization
	}
	h.Iterations, h.BatchSize, h.ValidationInterval, h.CheckpointInterval = iterations, batchSize, interval, interval
	if r.iterations != 0 {
		h.Iterations = r.iterations
	}
	h.MaxNewTokens, h.Seed, h.KLWeight = answerTokens, r.seed, 0
	h.Rollout, h.Baseline = contract.RolloutSample, contract.BaselineMean
	if r.baseline != "" {
		h.Baseline = r.baseline
	}
	if h.Baseline == contract.BaselineGroup {
		h.GroupSize, h.BatchSize = group, batchSize/group // As many answers in an iteration.
	}
	h.LearningRate, h.Activation = r.rate, r.activation
	if r.method != contract.MethodSVF {
		h.Method, h.MaxGradNorm = r.method, 1
	}
	if r.method == contract.MethodLoRA || r.method == contract.MethodDoRA {
		h.Rank, h.Alpha = lowRank, lowAlpha
		if r.rank != 0 {
			h.Rank, h.Alpha = r.rank, 2*float64(r.rank)
		}
	}
	if r.objective == contract.ObjectiveEvolution {
		h.LearningRate, h.Baseline = contract.DefaultHyper().LearningRate, contract.BaselineNone // Not used.
		h.Population, h.Sigma, h.TruncatedRank = population, sigma, r.rank
		h.Rollout, h.Iterations, h.BatchSize = contract.RolloutGreedy, generations, fitnessOf
	}
	if r.shots != 0 {
		h.BatchSize = r.shots
	}
	return h
}

// spec is the specification of the run that follows a recipe, without its RunID.
func (l *lab) spec(r recipe) contract.TrainSpec {
	b := l.bases[r.base]
	s := contract.TrainSpec{
		Skill: r.skill.name, DataDir: l.volume, BaseDigest: b.digest, DecompositionDigest: b.decomposition,
		Modules: r.modules, Objective: r.objective, Hyperparameters: r.hyper(),
	}
	switch {
	case r.dispatch:
		s.Skill = "dispatch"
		s.Train, s.Validation = l.requests(contract.PartTrain), l.requests(contract.PartValidation)
		s.Reward = contract.RewardExactMatch
	case r.shots != 0:
		s.Train = l.set(r.skill, splitFewShot)
		s.Train.Limit = r.shots
		s.Validation = s.Train
		s.Reward = rewardOf(s.Train.Format)
	default:
		s.Train, s.Validation = l.set(r.skill, splitTrain), l.set(r.skill, splitValidation)
		s.Reward = rewardOf(s.Train.Format)
	}
	return s
}

// requests are the training prompts of all skills, as pass 1 shows them.
func (l *lab) requests(part string) contract.DatasetSpec {
	of := &contract.SkillsSpec{Pass1: l.expertSet(contract.StrategyPrompt, nil).Pass1(), Part: part}
	for _, k := range skills {
		of.Sets = append(of.Sets, contract.SkillSet{Skill: k.name, Dataset: l.set(k, splitTrain)})
	}
	return contract.DatasetSpec{Format: contract.FormatSkills, Skills: of}
}

// name is what a recipe's cell is called.
func (r recipe) name() string {
	parts := []string{"train", r.base, r.skill.name, r.method, r.objective}
	if r.dispatch {
		parts = []string{"train", r.base, "dispatch", r.method, r.objective}
	}
	if len(r.modules) > 0 {
		parts = append(parts, fmt.Sprint("modules", len(r.modules)))
	}
	if r.rank != 0 {
		parts = append(parts, fmt.Sprint("rank", r.rank))
	}
	if r.shots != 0 {
		parts = append(parts, fmt.Sprint("shots", r.shots))
	}
	parts = append(parts, r.baseline, r.parameterization, r.activation, fmt.Sprint("seed", r.seed))
	parts = slices.DeleteFunc(parts, func(part string) bool { return part == "" })
	return strings.ToLower(strings.Join(parts, "-"))
}

// training is the cell of a recipe.
func (l *lab) training(r recipe) cell[trained] {
	s := l.spec(r)
	// What is what it is wherever it lies.
	known := s
	known.DataDir, known.Train, known.Validation = "", identity(s.Train), identity(s.Validation)
	if r.dispatch {
		known.Train, known.Validation = l.anonymous(s.Train), l.anonymous(s.Validation)
	}
	return cell[trained]{Name: r.name(), Spec: known, Fill: func(ctx context.Context) (trained, error) {
		return l.train(ctx, s)
	}}
}

// anonymous is a set of prompts without the folders that they lie in.
func (*lab) anonymous(d contract.DatasetSpec) contract.DatasetSpec {
	of := *d.Skills
	of.Sets = nil
	for _, s := range d.Skills.Sets {
		of.Sets = append(of.Sets, contract.SkillSet{Skill: s.Skill, Dataset: identity(s.Dataset)})
	}
	d.Skills = &of
	return d
}

// train makes an expert, as `t2 train` does. What was interrupted goes on where it was.
func (l *lab) train(ctx context.Context, s contract.TrainSpec) (t trained, err error) {
	if s.RunID, err = short(s); err != nil {
		return t, err
	}
	done, err := running(func(be backend.Backend, programs judge.Runner) (contract.Termination, error) {
		return train.Run(ctx, s, train.Options{Backend: be, Progress: jobs.NewProgress(), Log: l.log, Programs: programs})
	})
	if err != nil {
		return t, err
	}
	v, err := l.expert(done.Expert.Digest)
	if err != nil {
		return t, err
	}
	t = trained{Digest: done.Expert.Digest, Parameters: v.Parameters(), Best: v.Manifest.Score, Baseline: v.Manifest.BaselineScore}
	if p := done.Expert.Training; p != nil {
		t.Iterations = p.Iteration
	}
	return t, nil
}

// expert reads an expert of the volume.
func (l *lab) expert(digest string) (expert.Adapter, error) {
	dir, err := contract.ArtifactDir(l.volume, contract.DirExperts, digest)
	if err != nil {
		return expert.Adapter{}, err
	}
	return expert.Read(dir)
}
