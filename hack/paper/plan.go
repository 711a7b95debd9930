package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"

	"golang.org/x/sync/errgroup"
)

// plan is one look at a table: it takes what was measured, and lists what was not. A table
// is drawn from it by asking for cells; one that needs another first, such as the score of
// an expert that is not trained yet, is asked for in the next look.
type plan struct {
	store *store
	// missing are the cells to measure, by file.
	missing map[string]job
	order   []string
	// seconds are those that the cells took that were there, by file.
	seconds map[string]float64
	// timed are the files of those that were there and measure time, in which whatever else
	// the machine did may show.
	timed []string
	err   error // Of asking.
}

// job measures a missing cell.
type job struct {
	name  string
	alone bool
	run   func(ctx context.Context) error
}

func newPlan(s *store) *plan {
	return &plan{store: s, missing: map[string]job{}, seconds: map[string]float64{}}
}

// add takes in what another look has seen.
func (p *plan) add(other *plan) {
	maps.Copy(p.seconds, other.seconds)
	for _, path := range other.order {
		if _, listed := p.missing[path]; !listed {
			p.order = append(p.order, path)
			p.missing[path] = other.missing[path]
		}
	}
}

// ask returns a cell's result, if it was measured, and else puts it on the list.
func ask[T any](p *plan, c cell[T]) (value T, ok bool) {
	path, _, err := c.place(p.store)
	if err != nil {
		p.err = errors.Join(p.err, err)
		return value, false
	}
	value, seconds, ok, err := read(p.store, c)
	if err != nil {
		p.err = errors.Join(p.err, err)
		return value, false
	}
	if ok {
		p.seconds[path] = seconds
		if c.Alone {
			p.timed = append(p.timed, path)
		}
		return value, true
	}
	if _, listed := p.missing[path]; !listed {
		p.order = append(p.order, path)
		p.missing[path] = job{name: c.Name, alone: c.Alone, run: func(ctx context.Context) error {
			_, err := measure(ctx, p.store, c)
			return err
		}}
	}
	return value, false
}

// complete measures until nothing is missing of what draw asks for: so many cells at a
// time, and those that measure time one by one when the others are done. What was measured
// when ctx ends stays.
func complete(ctx context.Context, s *store, workers int, say io.Writer, draw func(*plan)) error {
	for {
		p := newPlan(s)
		draw(p)
		if p.err != nil || len(p.order) == 0 {
			return p.err
		}
		var together, alone []job
		for _, path := range p.order {
			if j := p.missing[path]; j.alone {
				alone = append(alone, j)
			} else {
				together = append(together, j)
			}
		}
		if len(together) > 0 {
			alone = nil // They come when nothing else is left.
		}
		group, within := errgroup.WithContext(ctx)
		group.SetLimit(workers)
		for i, j := range together {
			group.Go(func() error {
				if within.Err() != nil {
					return context.Cause(within)
				}
				fmt.Fprintf(say, "%d of %d: %s\n", i+1, len(together), j.name)
				return j.run(within)
			})
		}
		if err := group.Wait(); err != nil {
			return err
		}
		for i, j := range alone {
			fmt.Fprintf(say, "%d of %d, alone: %s\n", i+1, len(alone), j.name)
			if err := j.run(ctx); err != nil {
				return err
			}
		}
	}
}
