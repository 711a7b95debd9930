package fewshot

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/transformersquared/operator/runtime/artifact"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/failure"
	"github.com/transformersquared/operator/runtime/search"
)

// Files in a run's folder.
const (
	stateFile  = "state.json"
	resultFile = "result.json"
)

// stateFormat is the version of stateFile, and maxFile bounds what is read: a search of
// 64 experts in 128 layers has half a megabyte.
const (
	stateFormat = "t2-fewshot-state/1"
	maxFile     = 8 << 20
)

// state is all that a search has to remember between two generations.
type state struct {
	Format string `json:"format"`
	// Spec is the digest of what determines the search; a state of another one is never
	// continued.
	Spec string `json:"spec"`
	// References are the fitness of the base, and then of each expert alone.
	References []search.Fitness `json:"references"`
	// Evaluations of mixtures were made, in so many seconds.
	Evaluations int     `json:"evaluations"`
	Seconds     float64 `json:"seconds"`
	// Search is nil before the first generation.
	Search *search.State `json:"search,omitempty"`
}

func (s *state) save(dir string) error {
	if err := artifact.WriteSealed(filepath.Join(dir, stateFile), s); err != nil {
		return fmt.Errorf("saving the state of the search: %w", err)
	}
	return nil
}

// errUnusable marks a state that cannot be continued although the machine works: damaged,
// or of another version. As a search always comes to the same result, it is then begun
// anew.
var errUnusable = errors.New("the state of the search cannot be continued")

// loadState continues a search from dir; nil where there is nothing yet.
func loadState(dir, spec string, experts int) (*state, error) {
	path := filepath.Join(dir, stateFile)
	b, err := artifact.ReadSealed(path, maxFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil //nolint:nilnil // Nothing has been saved yet.
	}
	s := &state{}
	if err == nil {
		err = strictJSON(b, s)
	}
	switch {
	case err != nil && failure.System(err):
		return nil, err
	case err != nil:
		return nil, fmt.Errorf("%w: %s: %w", errUnusable, path, err)
	case s.Format != stateFormat:
		return nil, fmt.Errorf("%w: %s: its format is %q, this version continues %q", errUnusable, path, s.Format, stateFormat)
	case s.Spec != spec:
		return nil, failure.Permanentf(contract.ReasonUsage,
			"%s belongs to a search with another specification or other examples (%s, this one is %s): use another runID, or remove the folder to begin anew",
			path, s.Spec, spec)
	case len(s.References) != experts+1:
		return nil, fmt.Errorf("%w: %s: it has %d references for %d experts and the base", errUnusable, path, len(s.References), experts)
	}
	return s, nil
}

// result is resultFile: what a finished search has found.
type result struct {
	Spec        string               `json:"spec"`
	Termination contract.Termination `json:"termination"`
}

// finished returns the result of a search that was finished before.
func finished(dir, spec string, experts int) (contract.Termination, bool) {
	var r result
	b, err := artifact.ReadSealed(filepath.Join(dir, resultFile), maxFile)
	if err != nil || strictJSON(b, &r) != nil || r.Spec != spec {
		return contract.Termination{}, false
	}
	found := r.Termination.FewShot
	return r.Termination, found != nil && len(found.Weights) == experts
}

func strictJSON(b []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	return d.Decode(into)
}
