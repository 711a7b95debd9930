package desired

import (
	"fmt"
	"strconv"

	"k8s.io/utils/ptr"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/runtime/contract"
)

// Hyper gathers a training's hyperparameters from its unions. What is not given
// has the value of contract.DefaultHyper, which the documentation of the API
// names and, within a block that is given, the schema fills in.
func Hyper(training *v1alpha1.TrainingSpec) (contract.Hyper, error) {
	h := contract.DefaultHyper()
	setString(&h.DType, training.DType)
	if training.Seed != nil {
		h.Seed = uint64(*training.Seed)
	}
	decimals := setMethod(&h, training.Method)
	decimals = append(decimals, setReinforce(&h, training.Objective.Reinforce)...)
	decimals = append(decimals, setEvolution(&h, training)...)
	if next := training.Objective.NextToken; next != nil {
		h.KLWeight = 0
		setInt(&h.MaxNewTokens, next.MaxNewTokens)
	}
	if optimizer := training.Optimizer; optimizer != nil {
		decimals = append(decimals,
			decimal{"optimizer.learningRate", optimizer.LearningRate, &h.LearningRate},
			decimal{"optimizer.maxGradNorm", optimizer.MaxGradNorm, &h.MaxGradNorm})
	}
	setSchedule(&h, training.Schedule)
	for _, d := range decimals {
		if err := d.set(); err != nil {
			return contract.Hyper{}, fmt.Errorf("spec.training: %w", err)
		}
	}
	return h, nil
}

// Defaults of the methods LoRA and DoRA, which the documentation of the API names.
const (
	defaultRank  = 8
	defaultAlpha = 16
)

// setMethod sets what is no decimal, and returns what is. SVF is what a run without a
// method is: so it has the identity that it had before there were others.
func setMethod(h *contract.Hyper, method v1alpha1.Method) []decimal {
	if method.Activation == v1alpha1.ActivationAnswer { // Prompt is what a run without it is.
		h.Activation = contract.ActivationAnswer
	}
	if method.SVF != nil {
		setString(&h.Parameterization, method.SVF.Parameterization)
	}
	if method.Type == "" || method.Type == v1alpha1.MethodSVF {
		return nil
	}
	h.Method = string(method.Type)
	field, low := "method.lora.alpha", method.LoRA
	switch method.Type {
	case v1alpha1.MethodDoRA:
		field, low = "method.dora.alpha", method.DoRA
	case v1alpha1.MethodIA3:
		return nil
	}
	h.Rank, h.Alpha = defaultRank, defaultAlpha
	if low == nil {
		return nil
	}
	setInt(&h.Rank, low.Rank)
	return []decimal{{field, low.Alpha, &h.Alpha}}
}

// defaultGroup is the default of reinforce.groupSize.
const defaultGroup = 8

// setReinforce sets what is no decimal, and returns what is.
func setReinforce(h *contract.Hyper, reinforce *v1alpha1.ReinforceObjective) []decimal {
	if reinforce == nil {
		return nil
	}
	setString(&h.Baseline, reinforce.Baseline)
	if reinforce.Baseline == v1alpha1.BaselineGroup {
		h.GroupSize = defaultGroup
		setInt(&h.GroupSize, reinforce.GroupSize)
	}
	decimals := setRollout(h, "objective.reinforce.rollout", reinforce.Rollout)
	return append(decimals, decimal{"objective.reinforce.klWeight", reinforce.KLWeight, &h.KLWeight})
}

// setRollout sets what is no decimal, and returns what is, of a field.
func setRollout(h *contract.Hyper, field string, rollout *v1alpha1.Rollout) []decimal {
	if rollout == nil {
		return nil
	}
	setString(&h.Rollout, rollout.Type)
	setInt(&h.MaxNewTokens, rollout.MaxNewTokens)
	return []decimal{{field + ".temperature", rollout.Temperature, &h.Temperature}}
}

// Defaults of objective Evolution, which the documentation of the API names.
const (
	defaultPopulation    = 16
	defaultSigma         = 0.15
	defaultTruncatedRank = 16
	defaultQuestions     = 8
)

// setEvolution sets what is no decimal, and returns what is. What follows a gradient, or
// penalises what it leads to, has no part in it.
func setEvolution(h *contract.Hyper, training *v1alpha1.TrainingSpec) []decimal {
	evolution := training.Objective.Evolution
	if evolution == nil {
		return nil
	}
	h.KLWeight, h.BatchSize = 0, defaultQuestions
	if training.Method.SVF == nil || training.Method.SVF.Parameterization == "" {
		h.Parameterization = contract.ParameterizationDirect
	}
	h.Population, h.Sigma, h.TruncatedRank = defaultPopulation, defaultSigma, defaultTruncatedRank
	setInt(&h.Population, evolution.Population)
	setInt(&h.TruncatedRank, evolution.Rank)
	decimals := setRollout(h, "objective.evolution.rollout", evolution.Rollout)
	return append(decimals, decimal{"objective.evolution.sigma", evolution.Sigma, &h.Sigma})
}

func setSchedule(h *contract.Hyper, schedule *v1alpha1.Schedule) {
	if schedule == nil {
		return
	}
	setInt(&h.Iterations, schedule.Iterations)
	setInt(&h.BatchSize, schedule.BatchSize)
	setInt(&h.ValidationInterval, schedule.ValidationInterval)
	setInt(&h.CheckpointInterval, schedule.CheckpointInterval)
	h.Patience = int(ptr.Deref(schedule.Patience, int32(h.Patience)))
}

// decimal is a number that the API has as text.
type decimal struct {
	field string
	text  v1alpha1.Decimal
	into  *float64
}

func (d decimal) set() error {
	if d.text == "" {
		return nil
	}
	value, err := strconv.ParseFloat(string(d.text), 64)
	if err != nil {
		return fmt.Errorf("%s: %w", d.field, err)
	}
	*d.into = value
	return nil
}

func setString[T ~string](into *string, value T) {
	if value != "" {
		*into = string(value)
	}
}

func setInt(into *int, value int32) {
	if value != 0 {
		*into = int(value)
	}
}
