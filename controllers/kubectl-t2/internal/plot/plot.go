// Package plot draws learning curves: in the cells of a terminal, as SVG and as PNG.
package plot

import (
	"fmt"
	"math"
	"strings"
	"unicode"

	"github.com/transformersquared/operator/runtime/contract"
)

// A Curve is what is drawn: shares of right answers, 0 to 1, by iteration.
type Curve struct {
	Title string
	// Last is the iteration at the right end.
	Last int
	// Baseline is the base model's share of the validation set, negative if not known.
	Baseline float64
	// Batches are the shares of each batch, Scores those of the validation set.
	Batches, Scores []Point
}

// Point is a share at an iteration.
type Point struct {
	Iteration int
	Share     float64
}

// Of is the curve of a training.
func Of(name string, c contract.Curve) Curve {
	p := Curve{Baseline: c.BaselineScore, Last: max(1, c.Iterations)}
	if !finite(p.Baseline) {
		p.Baseline = -1
	}
	best, at := -1.0, 0
	for _, point := range c.Points {
		if !finite(point.Reward) || point.Iteration < 0 {
			continue
		}
		p.Last = max(p.Last, point.Iteration)
		p.Batches = append(p.Batches, Point{point.Iteration, clamp((point.Reward + 1) / 2)})
		if point.Score == nil || !finite(*point.Score) {
			continue
		}
		p.Scores = append(p.Scores, Point{point.Iteration, clamp(*point.Score)})
		if *point.Score > best {
			best, at = *point.Score, point.Iteration
		}
	}
	p.Title = "Expert " + name
	if c.Skill != "" && c.Skill != name {
		p.Title += " for " + printable(c.Skill)
	}
	if p.Baseline >= 0 {
		p.Title += fmt.Sprintf(": base %.1f %%", 100*p.Baseline)
	}
	if best >= 0 {
		p.Title += fmt.Sprintf(", best %.1f %% after iteration %d", 100*best, at)
	}
	return p
}

// printable takes control characters out, which a terminal would obey.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return -1
	}, strings.ToValidUTF8(text, "?"))
}

func finite(x float64) bool { return !math.IsNaN(x) && !math.IsInf(x, 0) }

func clamp(x float64) float64 { return min(max(x, 0), 1) }

// step is what the axis of shares is divided by.
const step = 0.1

// span is the part of 0 to 1 that has all that is drawn, in whole steps.
func (c Curve) span() (low, high float64) {
	low, high = 1, 0
	see := func(share float64) { low, high = min(low, share), max(high, share) }
	for _, list := range [][]Point{c.Batches, c.Scores} {
		for _, p := range list {
			see(p.Share)
		}
	}
	if c.Baseline >= 0 {
		see(clamp(c.Baseline))
	}
	if low > high {
		return 0, 1
	}
	low, high = math.Floor(low/step+1e-9)*step, math.Ceil(high/step-1e-9)*step
	if high-low < step/2 {
		low, high = max(0, low-step), min(1, high+step)
	}
	return low, high
}
