package server

import (
	"errors"
	"fmt"
	"math"
	"runtime/debug"

	"github.com/transformersquared/operator/runtime/checkpoint"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/engine"
	"github.com/transformersquared/operator/runtime/failure"
	"github.com/transformersquared/operator/runtime/host"
	"github.com/transformersquared/operator/runtime/model"
)

// Wish is what memory is planned for where a model of this configuration is served.
func Wish(config checkpoint.Config, contextLength int) engine.Wish {
	if contextLength == 0 {
		contextLength = config.MaxPositions
	}
	return engine.Wish{
		ContextLength: contextLength, Body: largestBody(contextLength), Request: min(contextLength, contract.DefaultRequestTokens),
	}
}

// MemoryLimit is what a process may have: as much as somebody says, or what there is.
func MemoryLimit(asked int64) host.Limit {
	if asked > 0 {
		return host.Limit{Bytes: asked, Source: "what --memory allows", Own: true}
	}
	return host.MemoryLimit()
}

// plan plans memory before anything is loaded. What does not fit is refused, with the
// numbers, and with what would.
func (s *Server) plan(c *core, config checkpoint.Config, storage model.Storage) (engine.Plan, error) {
	w := Wish(config, s.config.ContextLength)
	w.DType, w.Storage, w.Form = s.config.DType, storage, s.config.Form
	w.MaxBatch, w.CacheTokens, w.CacheBytes = s.config.MaxBatch, s.config.CacheTokens, s.config.CacheBytes
	if s.config.KeepText {
		w.Kept = s.kept.Limits().Most()
	}
	if c.dec != nil {
		w.Experts, w.Matrices = true, c.dec.Shapes()
	}
	w.Memory = engine.Memory{Host: MemoryLimit(s.config.Memory), Device: c.backend.Memory().Free}
	plan := engine.PlanOf(config, w)
	err := plan.Err()
	switch {
	case errors.Is(err, engine.ErrCache): // More memory would not help.
		return plan, failure.Permanent(contract.ReasonUsage, fmt.Errorf("planning memory: %w", err))
	case err != nil:
		return plan, fmt.Errorf("planning memory: %w", err)
	}
	return plan, nil
}

// take takes a plan into use: as budget of bodies, and of Go's heap, whose collector runs
// the more often the less is left; unless whoever started the process has told it
// (GOMEMLIMIT).
func (s *Server) take(plan engine.Plan) {
	s.planned.Store(&plan)
	s.bodies.setLimit(plan.Bodies)
	s.limitHeap(plan.Heap())
	limit, source := plan.Limit()
	s.log.Info("Planned memory", "limit", host.SizeText(limit), "source", source,
		"weights", plan.Weights, "kvCache", plan.Cache, "activations", plan.Activations, "experts", plan.Experts,
		"swap", plan.Swap, "bodies", plan.Bodies, "process", plan.Process, "loading", plan.Loading, "heap", heapLimit())
}

// limitHeap limits Go's heap to so many bytes, 0 where that is not known, unless whoever
// started the process has.
func (s *Server) limitHeap(bytes int64) {
	if bytes == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.unlimit == nil {
		before := debug.SetMemoryLimit(-1)
		if before != math.MaxInt64 {
			return
		}
		s.unlimit = func() { debug.SetMemoryLimit(before) }
	}
	debug.SetMemoryLimit(bytes)
}

// unlimitHeap takes it back.
func (s *Server) unlimitHeap() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.unlimit != nil {
		s.unlimit()
	}
	s.unlimit = nil
}

// heapLimit is the limit of Go's heap that is in force, whoever set it; 0 where there is
// none.
func heapLimit() int64 {
	if limit := debug.SetMemoryLimit(-1); limit != math.MaxInt64 {
		return limit
	}
	return 0
}
