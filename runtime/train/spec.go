package train

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"github.com/transformersquared/operator/runtime/adapt"
	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/expert"
	"github.com/transformersquared/operator/runtime/train/dataset"
	"github.com/transformersquared/operator/runtime/train/reward"
)

// maxIterations bounds the history that a checkpoint carries along.
const maxIterations = 1_000_000

// Validate names every field of a specification that makes no sense.
func Validate(s contract.TrainSpec) error {
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	oneOf := func(field, value string, allowed ...string) {
		check(slices.Contains(allowed, value), "%s %q is unknown: use one of %s", field, value, strings.Join(allowed, ", "))
	}
	check(s.DataDir != "", "dataDir is missing: it is the volume's root, such as %s", contract.MountData)
	check(s.RunID != "" && s.RunID == filepath.Base(s.RunID) && !strings.HasPrefix(s.RunID, "."),
		"runID %q must be a plain name, without slashes and not beginning with a dot", s.RunID)
	check(s.Skill != "", "skill is missing: it is what the dispatcher calls this expert")
	check(contract.ValidDigest(s.BaseDigest), "baseDigest %q is no digest (sha256: and 64 lower-case hex digits)", s.BaseDigest)
	check(contract.ValidDigest(s.DecompositionDigest), "decompositionDigest %q is no digest (sha256: and 64 lower-case hex digits)", s.DecompositionDigest)
	oneOf("objective", s.Objective, contract.ObjectiveReinforce, contract.ObjectiveNextToken, contract.ObjectiveEvolution)
	formats := append(dataset.Formats(), contract.FormatSkills)
	oneOf("train.format", s.Train.Format, formats...)
	oneOf("validation.format", s.Validation.Format, formats...)
	checkSkills(s, &errs, check)
	oneOf("reward", s.Reward, reward.Kinds()...)
	h := s.Hyperparameters
	checkMethod(h, &errs, check, oneOf)
	checkObjective(s.Objective, h, check)
	oneOf("activation", cmp.Or(h.Activation, contract.ActivationPrompt), contract.ActivationPrompt, contract.ActivationAnswer)
	dtype, err := backend.ParseDType(h.DType)
	check(err == nil, "dtype %q is unknown: use one of %s, %s, %s", h.DType, contract.DTypeF32, contract.DTypeBF16, contract.DTypeInt8)
	check(dtype != backend.Int8 || s.Objective == contract.ObjectiveEvolution, "dtype %s has no gradients: it is for objective %s", contract.DTypeInt8, contract.ObjectiveEvolution)
	oneOf("rollout", h.Rollout, contract.RolloutGreedy, contract.RolloutSample)
	oneOf("baseline", h.Baseline, contract.BaselineNone, contract.BaselineMean, contract.BaselineGroup)
	if h.Baseline == contract.BaselineGroup {
		check(h.GroupSize >= 2 && h.GroupSize <= maxGroup, "groupSize %d must be from 2 to %d where baseline is %s", h.GroupSize, maxGroup, contract.BaselineGroup)
		check(h.Rollout == contract.RolloutSample, "rollout %q gives a group of equal answers: use %s where baseline is %s", h.Rollout, contract.RolloutSample, contract.BaselineGroup)
	}
	check(h.Iterations >= 1 && h.Iterations <= maxIterations, "iterations %d must be from 1 to %d", h.Iterations, maxIterations)
	check(h.BatchSize >= 1, "batchSize %d must be at least 1", h.BatchSize)
	check(h.LearningRate > 0 && finite(h.LearningRate), "learningRate %v must be above 0", h.LearningRate)
	check(h.MaxGradNorm >= 0 && finite(h.MaxGradNorm), "maxGradNorm %v must be 0 (no bound) or more", h.MaxGradNorm)
	check(h.KLWeight >= 0 && finite(h.KLWeight), "klWeight %v must be 0 or more", h.KLWeight)
	check(h.Rollout != contract.RolloutSample || (h.Temperature > 0 && h.Temperature <= 100), "temperature %v must be above 0 where rollout is %s", h.Temperature, contract.RolloutSample)
	check(h.MaxNewTokens >= 1, "maxNewTokens %d must be at least 1", h.MaxNewTokens)
	check(h.ValidationInterval >= 1, "validationInterval %d must be at least 1", h.ValidationInterval)
	check(h.CheckpointInterval >= 1, "checkpointInterval %d must be at least 1", h.CheckpointInterval)
	check(h.Patience >= 0, "patience %d must be 0 (never) or more", h.Patience)
	return errors.Join(errs...)
}

// checkObjective validates what only some objectives have.
func checkObjective(objective string, h contract.Hyper, check func(bool, string, ...any)) {
	if objective != contract.ObjectiveEvolution {
		return
	}
	check(h.Method == "" || h.Method == contract.MethodSVF, "method %s cannot be searched: objective %s is for method %s", h.Method, objective, contract.MethodSVF)
	check(h.Population == 0 || h.Population >= leastPopulation && h.Population <= mostPopulation,
		"population %d must be from %d to %d, or 0 to follow from how much is searched", h.Population, leastPopulation, mostPopulation)
	check(h.Sigma > 0 && h.Sigma <= mostSigma, "sigma %v must be above 0 and at most %v", h.Sigma, mostSigma)
	check(h.TruncatedRank >= 0, "truncatedRank %d must be 0 (all) or more", h.TruncatedRank)
	check(h.Baseline != contract.BaselineGroup, "baseline %s is for objective %s", h.Baseline, contract.ObjectiveReinforce)
}

// Bounds of a search.
const (
	leastPopulation = 4
	mostPopulation  = 1024
	mostSigma       = 10.0
)

// checkSkills validates what trains a classifier.
func checkSkills(s contract.TrainSpec, errs *[]error, check func(bool, string, ...any)) {
	trained, validated := s.Train.Skills, s.Validation.Skills
	if trained == nil && validated == nil {
		return // What the format says without them is an error of the data set.
	}
	if trained == nil || validated == nil {
		check(false, "train and validation must both have skills, or none of them")
		return
	}
	if err := adapt.ValidatePass1(trained.Pass1); err != nil {
		*errs = append(*errs, fmt.Errorf("train.skills.pass1: %w", err))
	}
	check(reflect.DeepEqual(trained.Pass1, validated.Pass1), "train.skills and validation.skills differ in pass1: what is validated must be what is trained")
	check(trained.Part == contract.PartTrain, "train.skills.part is %q, must be %s", trained.Part, contract.PartTrain)
	check(validated.Part == contract.PartValidation, "validation.skills.part is %q, must be %s", validated.Part, contract.PartValidation)
	check(s.Reward == contract.RewardExactMatch, "reward %q cannot judge a skill: use %s", s.Reward, contract.RewardExactMatch)
}

// Bounds of ranks and groups.
const (
	maxRank  = 1024
	maxGroup = 1024
)

// checkMethod validates what is trained.
func checkMethod(h contract.Hyper, errs *[]error, check func(bool, string, ...any), oneOf func(string, string, ...string)) {
	switch h.Method {
	case "", contract.MethodSVF:
		if _, err := expert.NewParameterization(h.Parameterization); err != nil {
			*errs = append(*errs, err)
		}
	case contract.MethodLoRA, contract.MethodDoRA:
		check(h.Rank >= 1 && h.Rank <= maxRank, "rank %d must be from 1 to %d", h.Rank, maxRank)
		check(h.Alpha > 0 && finite(h.Alpha), "alpha %v must be above 0", h.Alpha)
	default:
		oneOf("method", h.Method, contract.MethodSVF, contract.MethodLoRA, contract.MethodDoRA, contract.MethodIA3)
	}
}

func finite(v float64) bool { return !math.IsNaN(v) && !math.IsInf(v, 0) }

// runDigest identifies what determines a run's result: the specification
// without what only says where things are, what computes and what the expert is
// called, and the content of its data.
func runDigest(s contract.TrainSpec, trainDigest, validationDigest string) (string, error) {
	s.DataDir = "" // Identity has none of the others.
	for i, d := range []*contract.DatasetSpec{&s.Train, &s.Validation} {
		*d = d.Placeless()
		d.Skills = nil // The digest is of all of them.
		d.Digest = []string{trainDigest, validationDigest}[i]
	}
	s.Hyperparameters.CheckpointInterval = 0
	digest, err := s.Identity().Digest()
	if err != nil {
		return "", fmt.Errorf("encoding the specification: %w", err)
	}
	return digest, nil
}
