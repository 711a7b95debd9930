package engine

import (
	"context"

	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/model"
)

// ReadRequest asks what the base makes of a prompt.
type ReadRequest struct {
	Prompt []int32
	// Salt is as in Request.
	Salt string
}

// Read lets the base read a prompt, as it reads those of pass 1, and returns the state
// behind its last layer after the prompt's last token, normalised, [H]. What it has read is
// in the prefix cache then: for the same request, if the base or an expert that acts on
// answers alone answers it, and for others.
func (e *Engine) Read(ctx context.Context, r ReadRequest) ([]float32, error) {
	return e.read(ctx, Mixture{}, r)
}

// read is Read with a mixture.
func (e *Engine) read(ctx context.Context, m Mixture, r ReadRequest) ([]float32, error) {
	const nothing = 1 // A prompt that only just fits is followed by nothing, and read all the same.
	if err := e.checkPrompt(r.Prompt, nothing, demand{blocks: model.Blocks(len(r.Prompt))}); err != nil {
		return nil, err
	}
	j, err := e.weights.job(ctx, m, r.Salt, true, r.Prompt)
	if err != nil {
		return nil, err
	}
	w := &reading{done: make(chan error, 1)}
	if err := e.await(ctx, j, w, w.done); err != nil {
		return nil, err
	}
	return w.state, nil
}

// reading is the work of a ReadRequest. The state belongs to the loop until done has a
// value.
type reading struct {
	silent
	state []float32
	done  chan error
}

func (*reading) lane() lane { return previewing }

func (*reading) demand(prompt int) demand { return demand{blocks: model.Blocks(prompt)} }

func (*reading) restart() {}

func (*reading) forks(*job, *loop) []model.Fork { return nil }

func (*reading) segments(*job, *loop) ([]model.Segment, error) { return nil, nil }

func (*reading) asks() []backend.Ask { return []backend.Ask{{Hidden: true}} }

func (r *reading) take(answers []backend.Answer) (done bool, err error) {
	r.state = answers[0].Hidden
	return true, answers[0].Err
}

func (r *reading) end(err error) { r.done <- err }
