package cpu

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"time"

	"github.com/transformersquared/operator/runtime/backend"
)

// The measurement: products of one thread with a matrix that the second cache holds, all
// paths by turns. Decoding from memory is as fast as memory is, on each path; the row
// alone shows one that could not keep up with it.
const (
	measuredRows = 96 // A multiple of all tiles'.
	measuredOut  = 256
	measuredIn   = 512
	oneRowTimes  = 8 // As one product with one row is too short to be timed.

	measureRounds = 9 // That count, at most,
	fewestRounds  = 3 // and at least.
	// measureBudget bounds the measurement as a whole; after it no turn is begun. Eighteen
	// turns, of four paths, take a round of three milliseconds.
	measureBudget = 60 * time.Millisecond
)

var errNoTime = errors.New("this machine was too busy to measure paths")

// perSecond is 10⁹ operations a second, of a product with so many rows.
func perSecond(rows int, seconds float64) float64 {
	return 2 * float64(rows) * measuredOut * measuredIn / seconds / 1e9
}

// contestant is a path's product with a type of weights, ready to be timed.
type contestant struct {
	path, kind int
	times      func(rows int) error // Computes products of so many rows.
	many, one  []float64
}

// measurement times paths.
type measurement struct {
	budget time.Duration
	now    func() time.Time
}

// measurePaths returns the median of what turns took, for each path, or an error where
// there was not time for enough of them.
func measurePaths(paths []*kernels) ([]pathTimes, error) {
	return measurement{budget: measureBudget, now: time.Now}.of(paths)
}

func (m measurement) of(paths []*kernels) (_ []pathTimes, err error) {
	deadline := m.now().Add(m.budget)
	r := rand.New(rand.NewPCG(1, 1)) //nolint:gosec // Any numbers do.
	values := func(n int) []float32 {
		v := make([]float32, n)
		for i := range v {
			v[i] = r.Float32() - 0.5
		}
		return v
	}
	w, x, y := values(measuredOut*measuredIn), values(measuredRows*measuredIn), values(measuredRows*measuredOut)
	var all []*contestant
	for i, k := range paths {
		b := newWithKernels(1, k)
		defer func() { err = errors.Join(err, b.Close()) }()
		for t := range formats {
			if sameAs(paths, i, t) < i {
				continue
			}
			weight, err := b.NewWeight(backend.DType(t), measuredOut, measuredIn, w)
			if err != nil {
				return nil, fmt.Errorf("measuring path %s: %w", k.name, err)
			}
			all = append(all, &contestant{path: i, kind: t, times: func(rows int) error {
				return b.MatMul(rows, backend.Product{
					Y: bufferOf(y[:rows*measuredOut]), X: bufferOf(x[:rows*measuredIn]), W: weight,
				})
			}})
		}
	}
	if err := m.rounds(all, deadline); err != nil {
		return nil, err
	}
	out := make([]pathTimes, len(paths))
	for _, c := range all {
		out[c.path].Turns[c.kind] = turns{Many: middle(c.many), One: middle(c.one)}
	}
	for i, k := range paths {
		out[i].Path = k.name
		for t := range formats {
			out[i].Turns[t] = out[sameAs(paths, i, t)].Turns[t]
		}
	}
	return out, nil
}

// sameAs returns the first path that multiplies with a type of weights as path i does: what
// is the same is not measured twice, so that it never differs.
func sameAs(paths []*kernels, i, kind int) int {
	code := func(k *kernels) [2]uintptr {
		p := &k.products[kind]
		return [2]uintptr{reflect.ValueOf(p.tile).Pointer(), reflect.ValueOf(p.prepare).Pointer()}
	}
	return slices.IndexFunc(paths, func(k *kernels) bool {
		return k.width(backend.DType(kind)) == paths[i].width(backend.DType(kind)) && k.products[kind].mr == paths[i].products[kind].mr && code(k) == code(paths[i])
	})
}

// rounds lets all have turns until there were enough, or the time is over.
func (m measurement) rounds(all []*contestant, deadline time.Time) error {
	for round := -1; round < measureRounds; round++ { // The first one warms up.
		for _, c := range all {
			begun := m.now()
			if begun.After(deadline) {
				return late(all, round)
			}
			if err := c.times(measuredRows); err != nil {
				return err
			}
			between := m.now()
			for range oneRowTimes {
				if err := c.times(1); err != nil {
					return err
				}
			}
			if round >= 0 {
				c.many = append(c.many, between.Sub(begun).Seconds())
				c.one = append(c.one, m.now().Sub(between).Seconds()/oneRowTimes)
			}
		}
	}
	return nil
}

// late is what becomes of a measurement in a round that it cannot finish.
func late(all []*contestant, round int) error {
	if round < fewestRounds {
		return errNoTime
	}
	for _, c := range all {
		c.many, c.one = c.many[:round], c.one[:round]
	}
	return nil
}

// middle is the median of at least one figure.
func middle(v []float64) float64 {
	sorted := slices.Sorted(slices.Values(v))
	return (sorted[(len(v)-1)/2] + sorted[len(v)/2]) / 2
}
