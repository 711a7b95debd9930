package main

import (
	stdcontext "context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"time"

	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/model"
	"github.com/transformersquared/operator/runtime/tensor"
)

// A training batch: the sequences' lengths, of which the answers are the
// second halves.
const (
	trainSequences = 8
	trainTokens    = 128
)

//go:embed reference.py
var reference string

// torchAlgorithms are the ways that reference.py can go.
var torchAlgorithms = []string{"reference", "batched"}

// training measures forward and backward pass of all projections' z. Nobody
// trains on int8.
func training(ctx stdcontext.Context, o options, s shape, r *report) error {
	o.dtypes = slices.DeleteFunc(slices.Clone(o.dtypes), func(w string) bool { return w == backend.Int8.String() })
	return eachDType(ctx, o, s, r, func(subject *subject, dtype string) error {
		return trainingOf(ctx, o, s, subject, dtype, r)
	})
}

func trainingOf(ctx stdcontext.Context, o options, s shape, subject *subject, dtype string, r *report) error {
	m, err := withFactors(subject.model)
	if err != nil {
		return err
	}
	var peers []string
	if o.python != "" {
		peers = torchAlgorithms
	}
	rows := make([]*row, max(1, len(peers)))
	for i := range rows {
		rows[i] = r.add(s.Name, dtype, fmt.Sprintf("training step, %d×%d", trainSequences, trainTokens))
	}
	for round := range o.rounds {
		fmt.Fprintf(os.Stderr, "%s %s training: round %d of %d\n", s.Name, dtype, round+1, o.rounds)
		if err := trainStep(ctx, m, rows...); err != nil {
			return err
		}
		for i, algorithm := range peers {
			speed, err := torchStep(ctx, o, s, dtype, algorithm)
			if err != nil {
				return err
			}
			rows[i].beside("PyTorch, "+algorithm, speed)
		}
	}
	return nil
}

// withFactors makes factors up that have the shapes of a full decomposition, one matrix'
// at a time. What they are does not matter to the time.
func withFactors(m *model.Model) (*model.Model, error) {
	for _, l := range m.Linears() {
		rank := min(l.Out, l.In)
		s := make([]float32, rank)
		for i := range s {
			s[i] = 1
		}
		var err error
		m, err = m.WithFactors(map[string]model.Factors{l.Name: {
			U:  &tensor.Tensor{Shape: []int{l.Out, rank}, Data: matrix{rows: l.Out, cols: rank}.values()},
			S:  s,
			Vt: &tensor.Tensor{Shape: []int{rank, l.In}, Data: matrix{rows: rank, cols: l.In}.values()},
		}})
		if err != nil {
			return nil, err
		}
	}
	return m, nil
}

// trainStep is one batch forward and backward, after one that is not measured, as
// reference.py does. Its figure goes into all rows.
func trainStep(ctx stdcontext.Context, m *model.Model, into ...*row) error {
	var sequences []model.Sequence
	for i := range trainSequences {
		tokens := make([]int32, trainTokens+1)
		for k := range tokens {
			tokens[k] = int32((i*trainTokens + 7*k) % m.Config().VocabSize)
		}
		sequences = append(sequences, model.Sequence{Tokens: tokens, From: trainTokens / 2})
	}
	var gradient *tensor.Tensor
	step := func() error {
		tape, err := m.Forward(ctx, sequences)
		if err != nil {
			return err
		}
		if gradient == nil {
			gradient = tensor.New(tape.Rows(), m.Config().VocabSize)
			for i := range gradient.Data {
				gradient.Data[i] = 1e-3
			}
		}
		if err := tape.Gradient(gradient); err != nil {
			tape.Release()
			return err
		}
		_, err = m.Backward(ctx, tape)
		return err
	}
	if err := step(); err != nil {
		return err
	}
	begun := time.Now()
	if err := step(); err != nil {
		return err
	}
	speed := trainSequences * trainTokens / time.Since(begun).Seconds()
	for _, row := range into {
		row.Ours = append(row.Ours, speed)
	}
	return nil
}

// torchStep runs reference.py, which measures the same in PyTorch.
func torchStep(ctx stdcontext.Context, o options, s shape, dtype, algorithm string) (float64, error) {
	speeds, err := torch(ctx, o, s, dtype, trainSequences, trainTokens, algorithm)
	return speeds["tokens_per_second"], err
}

// torchInference lets reference.py read a prompt and decode as inferenceOf does.
func torchInference(ctx stdcontext.Context, o options, s shape, dtype string, prefill, decode, batched *row) error {
	if dtype == backend.Int8.String() {
		return nil // Which PyTorch has not by itself.
	}
	for _, each := range []struct {
		into              *row
		sequences, tokens int
		algorithm         string
	}{{prefill, 1, promptTokens, "prefill"}, {decode, 1, decodeTokens, "decode"}, {batched, batch, batchedTokens, "decode"}} {
		speeds, err := torch(ctx, o, s, dtype, each.sequences, each.tokens, each.algorithm)
		if err != nil {
			return err
		}
		each.into.beside("PyTorch", speeds["tokens_per_second"])
	}
	return nil
}

// torch runs reference.py and returns the speeds that it prints.
func torch(ctx stdcontext.Context, o options, s shape, dtype string, sequences, tokens int, algorithm string) (map[string]float64, error) {
	spec, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	arguments := []string{"-c", reference, string(spec), strconv.Itoa(sequences), strconv.Itoa(tokens), strconv.Itoa(o.threads), dtype, algorithm, o.backend}
	cmd := exec.CommandContext(ctx, o.python, arguments...) //nolint:gosec // The caller says which Python.
	// Spinning threads halve PyTorch's speed where cores are shared.
	cmd.Env = append(os.Environ(), "OMP_WAIT_POLICY=PASSIVE")
	out, err := cmd.Output()
	if err != nil {
		if exit, ok := errors.AsType[*exec.ExitError](err); ok {
			return nil, fmt.Errorf("%s: %w: %s", o.python, err, tail(exit.Stderr))
		}
		return nil, err
	}
	var speeds map[string]float64
	if err := json.Unmarshal(out, &speeds); err != nil {
		return nil, fmt.Errorf("what reference.py prints: %w", err)
	}
	return speeds, nil
}
