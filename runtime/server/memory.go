package server

import (
	"fmt"
	"math"
	"runtime/debug"

	"github.com/transformersquared/operator/runtime/checkpoint"
	"github.com/transformersquared/operator/runtime/engine"
	"github.com/transformersquared/operator/runtime/host"
	"github.com/transformersquared/operator/runtime/model"
)

// Wish is what memory is planned for where a model of this configuration is served.
func Wish(config checkpoint.Config, contextLength int) engine.Wish {
	if contextLength == 0 {
		contextLength = config.MaxPositions
	}
	return engine.Wish{ContextLength: contextLength, Body: largestBody(contextLength)}
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
	if c.dec != nil {
		w.Experts, w.Matrices = true, c.dec.Shapes()
	}
	w.Memory = engine.Memory{Host: MemoryLimit(s.config.Memory), Device: c.backend.Memory().Free}
	plan := engine.PlanOf(config, w)
	if err := plan.Err(); err != nil {
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
	limit, source := plan.Limit()
	s.log.Info("Planned memory", "limit", host.SizeText(limit), "source", source,
		"weights", plan.Weights, "kvCache", plan.Cache, "activations", plan.Activations, "experts", plan.Experts,
		"swap", plan.Swap, "bodies", plan.Bodies, "process", plan.Process, "heap", plan.Heap())
	if before := debug.SetMemoryLimit(-1); before == math.MaxInt64 && plan.Heap() > 0 {
		debug.SetMemoryLimit(plan.Heap())
		s.unlimit = func() { debug.SetMemoryLimit(before) }
	}
}
