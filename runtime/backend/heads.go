package backend

import "github.com/transformersquared/operator/runtime/sample"

// HeadOps end a step where the logits are. Each waits for all that was asked for
// before.
type HeadOps interface {
	// Decide answers what is asked about rows of logits [N, V].
	Decide(logits Buffer, n int, asks []Ask) ([]Answer, error)
	// PolicyGradient replaces logits [N, V] by the gradient of
	//
	//	scale · Σₙ [ −advantage·log π'(token) + klWeight·KL(π'‖π) ]
	//
	// with respect to them, where π' is their softmax and π that of base [N, V], which
	// is the objective of section 3.2 of the paper for the positions of the answers.
	// The divergence is summed over the whole vocabulary. Without base it is not
	// computed, and klWeight must be 0. It computes in float64.
	PolicyGradient(logits, base Buffer, positions []Position, klWeight, scale float64) ([]Loss, error)
}

// Ask is what is asked about one row of logits. The zero value asks for nothing.
type Ask struct {
	// Row is the row.
	Row int
	// Draw asks for a token to be chosen.
	Draw *sample.Draw
	// Scores asks for the log-probabilities of these tokens.
	Scores []int32
	// Logits asks for the row itself.
	Logits bool
	// Hidden asks for what the row was made of; a model answers it (model.Decide), not a
	// backend.
	Hidden bool
}

// Answer is the answer to one Ask.
type Answer struct {
	// Token was chosen.
	Token int32
	// Scores are log-probabilities, one for each token asked about.
	Scores []float64
	// Logits [V] is the row. It belongs to whoever asked.
	Logits []float32
	// Hidden [H] is the state behind the last layer, normalised, which the head turned
	// into the row.
	Hidden []float32
	// Err says why there is no answer: sample.ErrNotFinite.
	Err error
}

// Position is one token of an answer in training.
type Position struct {
	// Token is what was chosen there.
	Token int32
	// Advantage is the answer's reward, less the baseline.
	Advantage float64
}

// Loss is what one position adds to the objective.
type Loss struct {
	// LogProb is log π'(token), and KL the divergence KL(π'‖π) there.
	LogProb, KL float64
}
