package train

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"path/filepath"
	"slices"

	"github.com/transformersquared/operator/runtime/artifact"
	"github.com/transformersquared/operator/runtime/checkpoint"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/failure"
	"github.com/transformersquared/operator/runtime/search"
	"github.com/transformersquared/operator/runtime/tensor"
)

// stateFile is the checkpoint of a run, in its folder. Tensors and the rest
// (as JSON in the metadata) are one file, so that they can never be of different
// iterations.
const stateFile = "state.safetensors"

// stateFormat is the version of stateFile.
const stateFormat = "t2-train-state/1"

// Keys of stateFile's metadata, and the parts of a tensor's name.
const (
	metaFormat  = "format"
	metaState   = "state"
	metaSearch  = "search"
	metaSealed  = "sealed" // The digest of the other two.
	prefixP     = "p/"
	prefixM     = "adam.m/"
	prefixV     = "adam.v/"
	prefixBestP = "best.p/"
)

// state is all that a run has to remember between two iterations. Random
// numbers and the position in the data need no memory: both are functions of
// the seed and the iteration.
type state struct {
	// header is stored as JSON.
	header
	p       map[string][]float32 // by matrix
	moments map[string]moments   // nil where no gradient is followed
	search  *search.State        // of Evolution; never changed in place
	bestP   map[string][]float32 // nil before the first validation
}

type header struct {
	// Spec is the digest of what determines the run; a checkpoint of another
	// run is never continued.
	Spec string `json:"spec"`
	// Iteration counts the optimiser steps done.
	Iteration int `json:"iteration"`
	// BaselineScore is the base model's validation score, negative before it is
	// known; BestScore the best of the expert.
	BaselineScore float64 `json:"baselineScore"`
	BestScore     float64 `json:"bestScore"`
	BestIteration int     `json:"bestIteration"`
	// SinceBest counts the validations since the best one.
	SinceBest int `json:"sinceBest"`
	// Ended says why a search has ended; see search.End.
	Ended   string  `json:"ended,omitempty"`
	History []point `json:"history"`
	// Numbers is the digest of the tensors, in a checkpoint alone.
	Numbers string `json:"numbers,omitempty"`
}

// point is one line of metrics.jsonl.
type point = contract.CurvePoint

// unknownScore and unknownKL stand for what is not known yet.
const (
	unknownScore = -1
	unknownKL    = -1
)

func newState(spec string, p map[string][]float32) *state {
	s := &state{
		header: header{Spec: spec, BaselineScore: unknownScore, BestScore: unknownScore},
		p:      p, moments: map[string]moments{},
	}
	for name, values := range p {
		s.moments[name] = moments{M: make([]float32, len(values)), V: make([]float32, len(values))}
	}
	return s
}

// clone returns a copy that can be advanced while s stays. bestP is never
// changed in place, so it is shared.
func (s *state) clone() *state {
	c := *s
	c.History = slices.Clone(s.History)
	c.p = map[string][]float32{}
	for name, p := range s.p {
		c.p[name] = slices.Clone(p)
	}
	if s.moments == nil {
		return &c
	}
	c.moments = map[string]moments{}
	for name, m := range s.moments {
		c.moments[name] = moments{M: slices.Clone(m.M), V: slices.Clone(m.V)}
	}
	return &c
}

// keepBest records a validation score. Among equals the earlier stays: it is
// nearer to the base model.
func (s *state) keepBest(score float64) {
	if score <= s.BestScore {
		s.SinceBest++
		return
	}
	s.BestScore, s.BestIteration, s.SinceBest = score, s.Iteration, 0
	s.bestP = map[string][]float32{}
	for name, p := range s.p {
		s.bestP[name] = slices.Clone(p)
	}
}

// save writes the state to dir, whole or not at all.
func (s *state) save(dir string) error {
	tensors := s.tensors()
	header := s.header
	header.Numbers = digestOf(tensors)
	encoded, err := json.Marshal(header)
	if err != nil {
		return fmt.Errorf("encoding training state: %w", err)
	}
	metadata := map[string]string{metaFormat: stateFormat, metaState: string(encoded)}
	if s.search != nil {
		if encoded, err = json.Marshal(s.search); err != nil {
			return fmt.Errorf("encoding training state: %w", err)
		}
		metadata[metaSearch] = string(encoded)
	}
	metadata[metaSealed] = sealOf(metadata)
	err = checkpoint.WriteSafetensors(filepath.Join(dir, stateFile), tensors, tensor.F32, metadata)
	if err != nil {
		return fmt.Errorf("saving training state: %w", err)
	}
	return nil
}

// tensors are the numbers of a state, as a checkpoint names them.
func (s *state) tensors() map[string]*tensor.Tensor {
	tensors := map[string]*tensor.Tensor{}
	add := func(name string, values []float32) {
		tensors[name] = &tensor.Tensor{Shape: []int{len(values)}, Data: values}
	}
	for name, p := range s.p {
		add(prefixP+name, p)
	}
	for name, m := range s.moments {
		add(prefixM+name, m.M)
		add(prefixV+name, m.V)
	}
	for name, p := range s.bestP {
		add(prefixBestP+name, p)
	}
	return tensors
}

// digestOf is the digest of tensors by name.
func digestOf(tensors map[string]*tensor.Tensor) string {
	h := sha256.New()
	var number [4]byte
	for _, name := range slices.Sorted(maps.Keys(tensors)) {
		_, _ = fmt.Fprintf(h, "%s %d\n", name, len(tensors[name].Data)) // A hash takes everything.
		for _, v := range tensors[name].Data {
			binary.LittleEndian.PutUint32(number[:], math.Float32bits(v))
			_, _ = h.Write(number[:])
		}
	}
	return contract.DigestPrefix + hex.EncodeToString(h.Sum(nil))
}

// sealOf is the digest of what a checkpoint's metadata say of the state.
func sealOf(metadata map[string]string) string {
	h := sha256.Sum256(fmt.Appendf(nil, "%d %s\n%s", len(metadata[metaState]), metadata[metaState], metadata[metaSearch]))
	return contract.DigestPrefix + hex.EncodeToString(h[:])
}

// loadState continues a run from dir: it returns nil where there is no
// checkpoint. fresh is the state at the start of this run, whose matrices the
// checkpoint must have, and resume says whether the objective can go on.
func loadState(dir string, fresh *state, resume func(*state) error) (*state, error) {
	path := filepath.Join(dir, stateFile)
	f, err := checkpoint.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, unusable(path, err)
	}
	defer func() { _ = f.Close() }()
	s := newState(fresh.Spec, fresh.p)
	if got := f.Metadata()[metaFormat]; got != stateFormat {
		return nil, unusable(path, fmt.Errorf("its format is %q, this version continues %q", got, stateFormat))
	}
	if want, ok := f.Metadata()[metaSealed]; ok && sealOf(f.Metadata()) != want { // Earlier versions' have none.
		return nil, unusable(path, artifact.ErrDamaged)
	}
	s.header = header{}
	if err := json.Unmarshal([]byte(f.Metadata()[metaState]), &s.header); err != nil {
		return nil, unusable(path, err)
	}
	if s.Spec != fresh.Spec {
		return nil, failure.Permanentf(contract.ReasonUsage,
			"%s belongs to a run with another specification or other data (%s, this run is %s): use another runID, or remove the folder to start anew", path, s.Spec, fresh.Spec)
	}
	if s.Iteration < 0 || s.Iteration != len(s.History) {
		return nil, unusable(path, fmt.Errorf("iteration %d with a history of %d", s.Iteration, len(s.History)))
	}
	read := func(prefix string) map[string][]float32 {
		values := map[string][]float32{}
		for name, p := range fresh.p {
			t, e := f.Tensor(prefix + name)
			if e == nil && !t.HasShape(len(p)) {
				e = fmt.Errorf("%s%s has shape %v, want [%d]", prefix, name, t.Shape, len(p))
			}
			if err = errors.Join(err, e); e == nil {
				values[name] = t.Data
			}
		}
		return values
	}
	s.p = read(prefixP)
	if fresh.moments == nil {
		s.moments = nil
	} else {
		m, v := read(prefixM), read(prefixV)
		for name := range s.p {
			s.moments[name] = moments{M: m[name], V: v[name]}
		}
	}
	if text, ok := f.Metadata()[metaSearch]; ok {
		found, e := search.DecodeState([]byte(text))
		s.search, err = &found, errors.Join(err, e)
	}
	if s.BestScore != unknownScore {
		s.bestP = read(prefixBestP)
	}
	if err == nil && s.Numbers != "" && digestOf(s.tensors()) != s.Numbers {
		err = artifact.ErrDamaged
	}
	s.Numbers = ""
	if err == nil {
		err = resume(s)
	}
	if err != nil {
		return nil, unusable(path, err)
	}
	return s, nil
}

// errUnusable marks a checkpoint that cannot be read although the machine works:
// damaged, or of another version. As a run always comes to the same result, it
// is then started anew.
var errUnusable = errors.New("the checkpoint cannot be continued")

func unusable(path string, err error) error {
	if failure.System(err) {
		return err
	}
	return fmt.Errorf("%w: %s: %w", errUnusable, path, err)
}

// names returns the matrices in a fixed order.
func (s *state) names() []string { return slices.Sorted(maps.Keys(s.p)) }
