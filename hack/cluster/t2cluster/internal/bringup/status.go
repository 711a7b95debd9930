package bringup

import (
	"context"
	"fmt"

	"github.com/transformersquared/operator/hack/cluster/t2cluster/internal/layout"
	"github.com/transformersquared/operator/hack/cluster/t2cluster/internal/process"
)

// State is how one part of a cluster is.
type State struct {
	Name string
	// PID is the process, or 0.
	PID int
	// Problem is empty when all is well.
	Problem string
}

// Status is how a cluster is.
type Status struct {
	Components []State
	API        string
	Nodes      []State
}

// Healthy reports whether every part is well.
func (s Status) Healthy() bool {
	for _, part := range append(append([]State{{Name: "API", Problem: s.API}}, s.Components...), s.Nodes...) {
		if part.Problem != "" {
			return false
		}
	}
	return true
}

// Check finds out how cluster c is. Parts that do not answer are problems within the status, not errors.
func Check(ctx context.Context, c layout.Cluster) (Status, error) {
	remembered, err := process.Recall(c.PidsDir())
	if err != nil {
		return Status{}, err
	}
	var s Status
	for _, name := range expected(c) {
		s.Components = append(s.Components, component(name, remembered))
	}
	api, err := Client(c)
	if err != nil {
		return Status{}, err
	}
	if err := api.Get(ctx, "/readyz", nil); err != nil {
		s.API = err.Error()
	}
	for _, n := range c.AllNodes() {
		state := State{Name: n.Name}
		if err := nodeReady(ctx, api, n.Name); err != nil {
			state.Problem = err.Error()
		}
		s.Nodes = append(s.Nodes, state)
	}
	return s, nil
}

func component(name string, remembered []process.Remembered) State {
	for _, r := range remembered {
		if r.Name != name {
			continue
		}
		if _, running := r.Running(); running {
			return State{Name: name, PID: r.PID}
		}
		return State{Name: name, Problem: fmt.Sprintf("process %d has ended", r.PID)}
	}
	return State{Name: name, Problem: "never started"}
}

// expected lists the processes that a complete cluster has.
func expected(c layout.Cluster) []string {
	names := []string{layout.Switch}
	for _, component := range controlPlane(c) {
		names = append(names, component.Name)
	}
	for _, n := range c.AllNodes() {
		names = append(names, n.Namespace())
		for _, component := range ofNode(c, n) {
			names = append(names, component.Name)
		}
	}
	return names
}
