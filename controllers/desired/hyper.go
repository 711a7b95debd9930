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
	if svf := training.Method.SVF; svf != nil {
		setString(&h.Parameterization, svf.Parameterization)
	}
	decimals := setReinforce(&h, training.Objective.Reinforce)
	if optimizer := training.Optimizer; optimizer != nil {
		decimals = append(decimals,
			decimal{"optimizer.learningRate", optimizer.LearningRate, &h.LearningRate},
			decimal{"optimizer.maxGradNorm", optimizer.MaxGradNorm, &h.MaxGradNorm})
	}
	setSchedule(&h, training.Schedule)
	for _, d := range decimals {
		if err := d.set(); err != nil {
			return contract.Hyper{}, err
		}
	}
	return h, nil
}

// setReinforce sets what is no decimal, and returns what is.
func setReinforce(h *contract.Hyper, reinforce *v1alpha1.ReinforceObjective) []decimal {
	if reinforce == nil {
		return nil
	}
	setString(&h.Baseline, reinforce.Baseline)
	decimals := []decimal{{"objective.reinforce.klWeight", reinforce.KLWeight, &h.KLWeight}}
	if rollout := reinforce.Rollout; rollout != nil {
		setString(&h.Rollout, rollout.Type)
		setInt(&h.MaxNewTokens, rollout.MaxNewTokens)
		decimals = append(decimals, decimal{"objective.reinforce.rollout.temperature", rollout.Temperature, &h.Temperature})
	}
	return decimals
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
		return fmt.Errorf("spec.training.%s: %w", d.field, err)
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
