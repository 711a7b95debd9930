package train

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/transformersquared/operator/runtime/artifact"
	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/expert"
	"github.com/transformersquared/operator/runtime/model"
	"github.com/transformersquared/operator/runtime/sample"
	"github.com/transformersquared/operator/runtime/tokenizer"
	"github.com/transformersquared/operator/runtime/train/rollout"
)

// Inputs are the artifacts that a run starts from.
type Inputs struct {
	Base          *model.Model
	Tokenizer     *tokenizer.Tokenizer
	Decomposition *expert.Decomposition
}

// Artifacts name the model and the decomposition of Inputs.
type Artifacts struct {
	// DataDir is the root of the volume that has them.
	DataDir                         string
	BaseDigest, DecompositionDigest string
	// DType is what matrices are kept as; empty means contract.DTypeF32.
	DType string
}

// LoadInputs opens the model and the decomposition, and verifies that they are those that
// are named.
func LoadInputs(ctx context.Context, be backend.Backend, a Artifacts) (Inputs, error) {
	in, err := loadInputs(ctx, be, contract.TrainSpec{
		DataDir: a.DataDir, BaseDigest: a.BaseDigest, DecompositionDigest: a.DecompositionDigest,
		Hyperparameters: contract.Hyper{DType: a.DType},
	})
	return Inputs{Base: in.base, Tokenizer: in.tokenizer, Decomposition: in.dec}, err
}

// Occupy takes a run's folder for this process alone. It waits a while for another
// process that has it.
func Occupy(ctx context.Context, root, runID string, log *slog.Logger) (*artifact.Staging, error) {
	return occupy(ctx, root, runID, log)
}

// Prompts are the tokens of the records' prompts. They are not the caller's to change.
func (t *Task) Prompts() [][]int32 { return t.prompts }

// Stop are the tokens that end an answer.
func (t *Task) Stop() []int32 { return t.tokenizer.EOS() }

// Right says which of the answers are right, the i-th to the record that of[i] names.
func (t *Task) Right(ctx context.Context, of []int, answers []rollout.Answer) ([]bool, error) {
	if len(of) != len(answers) {
		return nil, fmt.Errorf("%d answers to %d questions", len(answers), len(of))
	}
	verdicts, err := t.verdicts(ctx, of, answers)
	if err != nil {
		return nil, err
	}
	right := make([]bool, len(verdicts))
	for i, v := range verdicts {
		right[i] = v.Right
	}
	return right, nil
}

// Greedy is the sampler of a sequence in an evaluation.
func Greedy() *sample.Sampler { return greedy(0) }
