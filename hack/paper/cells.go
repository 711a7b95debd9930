package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/transformersquared/operator/runtime/artifact"
)

// cell is one measurement: what a table's entry is computed from. Its result is a file,
// named by what made it, so that it is measured once, whatever else changes.
type cell[T any] struct {
	// Name begins the file's name, for people who look into the folder.
	Name string
	// Spec is all that the result depends on; it becomes JSON.
	Spec any
	// Fill measures.
	Fill func(ctx context.Context) (T, error)
	// Alone says that it measures time, so that nothing else may run.
	Alone bool
}

// record is the file of a cell.
type record struct {
	Cell    string          `json:"cell"`
	Spec    json.RawMessage `json:"spec"`
	Seconds float64         `json:"seconds"`
	Value   json.RawMessage `json:"value"`
}

// store keeps the cells' results in a folder.
type store struct {
	dir string

	mu sync.Mutex
	// outdated are files that count as missing, and stay until they are made anew.
	outdated map[string]bool
	turns    map[string]*sync.Mutex // By file: it is made once for all who want it.
}

func newStore(dir string) (*store, error) {
	if err := artifact.MkdirAll(dir); err != nil {
		return nil, err
	}
	return &store{dir: dir, outdated: map[string]bool{}, turns: map[string]*sync.Mutex{}}, nil
}

// outdate has files made anew, though they are there.
func (s *store) outdate(paths ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, path := range paths {
		s.outdated[path] = true
	}
}

// renew takes files as they are.
func (s *store) renew(paths ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, path := range paths {
		delete(s.outdated, path)
	}
}

func (s *store) isOutdated(path string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.outdated[path]
}

// turn is held while a file is made.
func (s *store) turn(path string) *sync.Mutex {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.turns[path] == nil {
		s.turns[path] = &sync.Mutex{}
	}
	return s.turns[path]
}

// place returns a cell's file and its specification in JSON.
func (c cell[T]) place(s *store) (path string, spec []byte, err error) {
	spec, err = json.Marshal(c.Spec)
	if err != nil {
		return "", nil, fmt.Errorf("cell %s: encoding what it depends on: %w", c.Name, err)
	}
	sum := sha256.Sum256(append([]byte(c.Name+"\x00"), spec...))
	const digits = 12
	return filepath.Join(s.dir, c.Name+"-"+hex.EncodeToString(sum[:])[:digits]+".json"), spec, nil
}

// maxRecord bounds the file of a cell.
const maxRecord = 8 << 20

// read returns a cell's result and how long it took, if it was measured; a file that is
// damaged counts as none.
func read[T any](s *store, c cell[T]) (value T, seconds float64, ok bool, err error) {
	path, _, err := c.place(s)
	if err != nil || s.isOutdated(path) {
		return value, 0, false, err
	}
	b, err := artifact.ReadBounded(path, maxRecord)
	if errors.Is(err, fs.ErrNotExist) {
		return value, 0, false, nil
	}
	if err != nil {
		return value, 0, false, fmt.Errorf("cell %s: %w", c.Name, err)
	}
	var r record
	if json.Unmarshal(b, &r) != nil || r.Cell != c.Name || json.Unmarshal(r.Value, &value) != nil {
		var none T
		if err := os.Remove(path); err != nil {
			return none, 0, false, fmt.Errorf("cell %s: removing its damaged file: %w", c.Name, err)
		}
		return none, 0, false, nil
	}
	return value, r.Seconds, true, nil
}

// measure returns a cell's result, measuring it unless that was done before. A cell that is
// interrupted leaves nothing.
func measure[T any](ctx context.Context, s *store, c cell[T]) (T, error) {
	path, spec, err := c.place(s)
	if err != nil {
		var none T
		return none, err
	}
	turn := s.turn(path)
	turn.Lock()
	defer turn.Unlock()
	value, _, ok, err := read(s, c)
	if ok || err != nil {
		return value, err
	}
	begun := time.Now()
	if value, err = c.Fill(ctx); err != nil {
		return value, fmt.Errorf("cell %s: %w", c.Name, err)
	}
	encoded, err := json.Marshal(value)
	if err != nil {
		return value, fmt.Errorf("cell %s: encoding its result: %w", c.Name, err)
	}
	if err := artifact.WriteJSONAtomic(path, record{Cell: c.Name, Spec: spec, Seconds: time.Since(begun).Seconds(), Value: encoded}); err != nil {
		return value, err
	}
	s.renew(path)
	return value, nil
}
