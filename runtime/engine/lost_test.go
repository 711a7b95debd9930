package engine_test

import (
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/backend/registry/registrytest"
	"github.com/transformersquared/operator/runtime/checkpoint"
	"github.com/transformersquared/operator/runtime/engine"
	"github.com/transformersquared/operator/runtime/engine/enginetest"
	"github.com/transformersquared/operator/runtime/model"
)

// losing is a backend whose device is lost after some decisions.
type losing struct {
	backend.Backend
	left atomic.Int64
}

func (l *losing) Decide(logits backend.Buffer, n int, asks []backend.Ask) ([]backend.Answer, error) {
	if l.left.Add(-1) < 0 {
		return nil, fmt.Errorf("decide: %w", backend.ErrDeviceLost)
	}
	return l.Backend.Decide(logits, n, asks)
}

// TestALostDeviceEndsTheEngine wants every request to be told, at once, and whoever runs
// the engine.
func TestALostDeviceEndsTheEngine(t *testing.T) {
	v := enginetest.New(t)
	be := &losing{Backend: registrytest.Open(t, 2)}
	be.left.Store(3)
	ck, err := checkpoint.OpenDir(v.ModelDir)
	if err != nil {
		t.Fatal(err)
	}
	base, err := model.Load(t.Context(), be, ck)
	if err != nil {
		t.Fatal(err)
	}
	if err := ck.Close(); err != nil {
		t.Fatal(err)
	}
	e, err := engine.New(t.Context(), engine.Options{Base: base, MaxBatch: 2})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	const requests = 4 // Two wait.
	failures := make(chan error, requests)
	for range requests {
		go func() {
			_, err := e.Generate(t.Context(), engine.Request{Prompt: []int32{5, 6, 7}, MaxTokens: 20, Logprobs: -1}, func(engine.Delta) error { return nil })
			failures <- err
		}()
	}
	for range requests {
		select {
		case err := <-failures:
			if !errors.Is(err, backend.ErrDeviceLost) && !errors.Is(err, engine.ErrClosed) {
				t.Errorf("a request got %v", err)
			}
		case <-time.After(time.Minute):
			t.Fatal("a request was not told")
		}
	}
	select {
	case err := <-e.Lost():
		if !errors.Is(err, backend.ErrDeviceLost) {
			t.Errorf("the engine says %v", err)
		}
	case <-time.After(time.Minute):
		t.Fatal("nobody was told that the device is lost")
	}
	if _, err := e.Generate(t.Context(), engine.Request{Prompt: []int32{5}, MaxTokens: 1, Logprobs: -1}, nil); !errors.Is(err, engine.ErrClosed) {
		t.Errorf("a request after it got %v", err)
	}
}
