package main

import (
	stdcontext "context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/backend/registry"
	"github.com/transformersquared/operator/runtime/checkpoint"
	"github.com/transformersquared/operator/runtime/model"
)

// Lengths of what is measured, in tokens.
const (
	promptTokens  = 512
	decodeTokens  = 64
	probedTokens  = 8 // Decoded between two probes of the memory.
	batch         = 32
	batchedTokens = 16
)

// eachDType measures one shape with every dtype.
func eachDType(ctx stdcontext.Context, o options, s shape, r *report, measure func(subject *subject, dtype string) error) error {
	dir := s.folder(o.dir)
	if err := s.write(dir); err != nil {
		return err
	}
	for _, dtype := range o.dtypes {
		subject, err := load(ctx, o, dir, dtype)
		if err == nil {
			r.Backend = subject.be.Name()
			err = errors.Join(measure(subject, dtype), subject.close())
		}
		if err != nil {
			return fmt.Errorf("%s weights: %w", dtype, err)
		}
	}
	return nil
}

// inference measures prefill and decode.
func inference(ctx stdcontext.Context, o options, s shape, r *report) error {
	return eachDType(ctx, o, s, r, func(subject *subject, dtype string) error {
		return inferenceOf(ctx, o, s, subject, dtype, r)
	})
}

func inferenceOf(ctx stdcontext.Context, o options, s shape, subject *subject, dtype string, r *report) error {
	var peers []*llama
	for _, p := range o.llamaBench {
		peers = append(peers, &llama{peer: p, threads: o.threads, model: s.ggufPath(o.dir, dtype)})
	}
	if len(peers) > 0 {
		if err := s.writeGGUF(peers[0].model, dtype); err != nil {
			return err
		}
	}
	prefill := r.add(s.Name, dtype, fmt.Sprintf("prefill %d", promptTokens))
	decode := r.add(s.Name, dtype, "decode")
	decode.BytesPerToken = float64(s.weightBytes(subject.model.DType()))
	batched := r.add(s.Name, dtype, fmt.Sprintf("decode, batch %d", batch))
	for round := range o.rounds {
		fmt.Fprintf(os.Stderr, "%s %s: round %d of %d\n", s.Name, dtype, round+1, o.rounds)
		if err := subject.prefill(ctx, prefill); err != nil {
			return err
		}
		if err := subject.decode(ctx, 1, decodeTokens, r.probe, decode); err != nil {
			return err
		}
		if err := subject.decode(ctx, batch, batchedTokens, nil, batched); err != nil {
			return err
		}
		for _, peer := range peers {
			if err := peer.measure(ctx, prefill, decode, batched); err != nil {
				return err
			}
		}
		if o.python != "" && !o.onCPU() {
			if err := torchInference(ctx, o, s, dtype, prefill, decode, batched); err != nil {
				return err
			}
		}
	}
	return nil
}

// subject is a model of ours, ready to be measured.
type subject struct {
	be    backend.Backend
	model *model.Model
	cache *model.Cache
}

func load(ctx stdcontext.Context, o options, dir, dtype string) (_ *subject, err error) {
	as, err := backend.ParseDType(dtype)
	if err != nil {
		return nil, err
	}
	be, err := registry.Open(o.backend, registry.Options{Threads: o.threads})
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, be.Close())
		}
	}()
	ck, err := checkpoint.OpenDir(dir)
	if err != nil {
		return nil, err
	}
	using := []model.Option{model.WeightsAs(as)}
	if !o.train {
		using = append(using, model.StoredAs(model.ServingStorage(be, as)))
	}
	m, err := model.Load(ctx, be, ck, using...)
	if err = errors.Join(err, ck.Close()); err != nil {
		return nil, err
	}
	cache, err := m.NewCache(batch, promptTokens)
	if err != nil {
		return nil, err
	}
	return &subject{be: be, model: m, cache: cache}, nil
}

func (s *subject) close() error {
	s.cache.Close()
	return s.be.Close()
}

func (s *subject) empty(ctx stdcontext.Context) error {
	for i := range s.cache.Seqs() {
		if err := s.cache.Truncate(i, 0); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// prefill reads a prompt in one step.
func (s *subject) prefill(ctx stdcontext.Context, into *row) error {
	tokens := make([]int32, promptTokens)
	for i := range tokens {
		tokens[i] = int32(i % s.model.Config().VocabSize)
	}
	for warm := range 2 {
		if err := s.empty(ctx); err != nil {
			return err
		}
		begun := time.Now()
		if _, err := s.model.Step(ctx, s.cache, []model.Segment{{Tokens: tokens}}); err != nil {
			return err
		}
		if warm > 0 {
			into.Ours = append(into.Ours, promptTokens/time.Since(begun).Seconds())
		}
	}
	return s.empty(ctx)
}

// decode continues empty sequences by single tokens. With a probe it says how fast
// memory was before and after every few of them.
func (s *subject) decode(ctx stdcontext.Context, sequences, tokens int, probe *probe, into *row) error {
	if err := s.empty(ctx); err != nil {
		return err
	}
	next := make([]model.Segment, sequences)
	steps := func(n int) (time.Duration, error) {
		begun := time.Now()
		for range n {
			for i := range next {
				next[i] = model.Segment{Seq: i, Tokens: []int32{int32(i + s.cache.Len(i))}}
			}
			if _, err := s.model.Step(ctx, s.cache, next); err != nil {
				return 0, err
			}
		}
		return time.Since(begun), nil
	}
	part := tokens
	if probe != nil {
		part = probedTokens
		into.Probes = append(into.Probes, []float64{probe.run()})
		into.Parts = append(into.Parts, nil)
	}
	var took time.Duration
	for done := 0; done < tokens; done += part {
		if _, err := steps(1); err != nil { // Warms up: a probe leaves nothing of ours in the cache.
			return err
		}
		d, err := steps(part)
		if err != nil {
			return err
		}
		took += d
		if probe != nil {
			round := len(into.Probes) - 1
			into.Parts[round] = append(into.Parts[round], float64(sequences*part)/d.Seconds())
			into.Probes[round] = append(into.Probes[round], probe.run())
		}
	}
	into.Ours = append(into.Ours, float64(sequences*tokens)/took.Seconds())
	return s.empty(ctx)
}
