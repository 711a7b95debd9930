package search

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"reflect"
	"slices"
	"strings"
)

// stateFormat is the version of State.
const stateFormat = "t2-search-state/1"

// State is all that a search has to remember between two generations, as JSON or
// to be continued with ResumeCEM or ResumeCMA, which check it as what may have come
// from anywhere.
type State struct {
	Format  string   `json:"format"`
	History []Record `json:"history"` // one of each generation done
	// Best is the best vector so far, nil before any had a score; CEM's is before
	// normalising.
	Best *Best `json:"best,omitempty"`
	// Uniform is the fitness of CEM's uniform weights, nil where they have no score yet.
	Uniform *Fitness `json:"uniform,omitempty"`
	// One of these says which search it is.
	CEM *CEMState `json:"cem,omitempty"`
	CMA *CMAState `json:"cma,omitempty"`
}

// CEMState is the distribution of a CEM: a mean and a standard deviation for each
// of the K × Layers weights.
type CEMState struct {
	Options CEMOptions `json:"options"`
	Mean    []float64  `json:"mean"`
	Std     []float64  `json:"std"`
}

// CMAState is the distribution of a CMA, in Hansen's letters m, σ, C, p_σ and p_c.
type CMAState struct {
	Options CMAOptions `json:"options"`
	Mean    []float64  `json:"mean"` // [N], before folding into the bounds
	Sigma   float64    `json:"sigma"`
	// Covariance is C: [N × N] row by row, or its diagonal [N].
	Covariance []float64 `json:"covariance"`
	PathSigma  []float64 `json:"pathSigma"` // [N]
	PathC      []float64 `json:"pathC"`     // [N]
}

// DecodeState reads a State from JSON. Whether it fits a search is for ResumeCEM
// or ResumeCMA to say.
func DecodeState(b []byte) (State, error) {
	var s State
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&s); err != nil {
		return State{}, fmt.Errorf("decoding the state of a search: %w", err)
	}
	end := d.InputOffset()
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return State{}, fmt.Errorf("decoding the state of a search: there is more after its end, at byte %d", end)
	}
	return s, nil
}

// State returns all that the search has to remember.
func (c *CEM) State() State {
	s := c.state()
	s.CEM = &CEMState{Options: c.options, Mean: slices.Clone(c.mean), Std: slices.Clone(c.std)}
	if c.uniform != nil {
		s.Uniform = new(*c.uniform)
	}
	return s
}

// ResumeCEM continues a search from a State of one with the same options, but for
// Generations and MinStd.
func ResumeCEM(o CEMOptions, s State) (*CEM, error) {
	c, err := NewCEM(o)
	if err != nil {
		return nil, err
	}
	if s.CEM == nil || s.CMA != nil {
		return nil, unusable("it is of another kind of search than the cross-entropy method")
	}
	was := s.CEM.Options
	was.Generations, was.MinStd = o.Generations, o.MinStd
	if name := difference(was, o); name != "" {
		return nil, unusable("it belongs to a search with another %s", name)
	}
	if err := c.resume(s, o.dimension()); err != nil {
		return nil, err
	}
	if c.best != nil {
		if err := within("the best vector", c.best.Vector, o.dimension(), 0, 1); err != nil {
			return nil, err
		}
	}
	if err := errors.Join(
		within("the mean", s.CEM.Mean, o.dimension(), 0, 1),
		within("the standard deviation", s.CEM.Std, o.dimension(), 0, 1),
	); err != nil {
		return nil, err
	}
	c.mean, c.std = slices.Clone(s.CEM.Mean), slices.Clone(s.CEM.Std)
	if uniform := s.Uniform; uniform != nil {
		if err := checkFitness("uniform weights have", *uniform); err != nil {
			return nil, err
		}
		c.uniform = new(*uniform)
	}
	return c, nil
}

// State returns all that the search has to remember.
func (c *CMA) State() State {
	s := c.state()
	s.CMA = &CMAState{
		Options: c.options.resolved(), Mean: slices.Clone(c.mean), Sigma: c.sigma, Covariance: slices.Clone(c.shape.values()),
		PathSigma: slices.Clone(c.pathSigma), PathC: slices.Clone(c.pathC),
	}
	return s
}

// ResumeCMA continues a search from a State of one with the same options, but for
// Generations and MinStd.
func ResumeCMA(o CMAOptions, s State) (*CMA, error) {
	c, err := NewCMA(o)
	if err != nil {
		return nil, err
	}
	if s.CMA == nil || s.CEM != nil {
		return nil, unusable("it is of another kind of search than evolution")
	}
	was := s.CMA.Options
	was.Generations, was.MinStd = c.options.Generations, c.options.MinStd
	if name := difference(was, c.options); name != "" {
		return nil, unusable("it belongs to a search with another %s", name)
	}
	n := len(o.Start)
	if err := c.resume(s, n); err != nil {
		return nil, err
	}
	saved := s.CMA
	if err := errors.Join(
		within("the mean", saved.Mean, n, -maxMagnitude, maxMagnitude),
		within("the covariance", saved.Covariance, len(c.shape.values()), -maxMagnitude, maxMagnitude),
		within("the path of the step", saved.PathSigma, n, -maxMagnitude, maxMagnitude),
		within("the path of the covariance", saved.PathC, n, -maxMagnitude, maxMagnitude),
		within("the step", []float64{saved.Sigma}, 1, 0, maxMagnitude),
	); err != nil {
		return nil, err
	}
	c.mean, c.sigma = slices.Clone(saved.Mean), saved.Sigma
	c.pathSigma, c.pathC = slices.Clone(saved.PathSigma), slices.Clone(saved.PathC)
	copy(c.shape.values(), saved.Covariance)
	if err := c.shape.decompose(); err != nil {
		return nil, unusable("%w", err)
	}
	return c, nil
}

// maxMagnitude is far beyond any number in the state of a search that has not
// diverged, and leaves room to compute the next one.
const maxMagnitude = 1e30

// resume takes what all searches remember from a State with vectors of n numbers.
func (c *course) resume(s State, n int) error {
	if s.Format != stateFormat {
		return unusable("its format is %q, this version continues %q", s.Format, stateFormat)
	}
	if len(s.History) > maxGenerations {
		return unusable("its history has %d generations, at most %d are possible", len(s.History), maxGenerations)
	}
	for i, r := range s.History {
		if r.Generation != i {
			return unusable("its history has generation %d in the place of generation %d", r.Generation, i)
		}
	}
	if best := s.Best; best != nil {
		if best.Generation < 0 || best.Generation >= len(s.History) {
			return unusable("its best vector is of generation %d, and %d are done", best.Generation, len(s.History))
		}
		if err := within("the best vector", best.Vector, n, -math.MaxFloat64, math.MaxFloat64); err != nil {
			return err
		}
		if err := checkFitness("its best vector has", best.Fitness); err != nil {
			return err
		}
	}
	c.history, c.best = slices.Clone(s.History), s.Best.clone()
	return nil
}

// checkFitness refuses what is no score, or not as a search keeps it.
func checkFitness(what string, f Fitness) error {
	if f != f.settled() || !f.scored() {
		return unusable("%s the score %v and the tie-break %v", what, f.Score, f.TieBreak)
	}
	return nil
}

// ErrState says that a State cannot be continued with the given options.
var ErrState = errors.New("the state of the search cannot be continued")

func unusable(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrState, fmt.Errorf(format, args...))
}

// within checks n numbers of a State.
func within(what string, values []float64, n int, low, high float64) error {
	if len(values) != n {
		return unusable("%s has %d numbers, want %d", what, len(values), n)
	}
	for i, x := range values {
		if !(x >= low && x <= high) {
			return unusable("%s has %v at %d: it must be from %v to %v", what, x, i, low, high)
		}
	}
	return nil
}

// difference returns the name of the first field that differs, as in JSON.
func difference[T any](a, b T) string {
	va, vb := reflect.ValueOf(a), reflect.ValueOf(b)
	for i := range va.NumField() {
		if !reflect.DeepEqual(va.Field(i).Interface(), vb.Field(i).Interface()) {
			name, _, _ := strings.Cut(va.Type().Field(i).Tag.Get("json"), ",")
			return name
		}
	}
	return ""
}
