package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// servedTable is the table of servers: medians of the rounds, and ratios to the first row of
// a shape and type, which is the first peer's where there is one.
func servedTable(all []*served) string {
	var b strings.Builder
	b.WriteString("| shape | dtype | server | asked for | failed | requests/s | ratio | first token p50, p99 | ratio | between tokens p50, p99 | tokens/s | chosen |\n" +
		"|---|---|---|---|---|---|---|---|---|---|---|---|\n")
	for _, row := range all {
		first := all[slices.IndexFunc(all, func(other *served) bool { return other.Shape == row.Shape && other.DType == row.DType })]
		speed, late := row.of((*tally).perSecond), row.of(firstP99)
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %d | %.2f | %.2f | %.2f, %.2f s | %.2f | %.0f, %.0f ms | %s | %s |\n",
			row.Shape, row.DType, row.Server, row.Way, row.failed(), speed, speed/first.of((*tally).perSecond),
			row.of(firstP50), late, late/first.of(firstP99),
			1000*row.of(func(t *tally) float64 { return t.BetweenTokens.P50 }), 1000*row.of(func(t *tally) float64 { return t.BetweenTokens.P99 }),
			figure(row.of(func(t *tally) float64 { return float64(t.Tokens) / t.Seconds })), row.chosen())
	}
	return b.String()
}

func firstP50(t *tally) float64 { return t.FirstToken.P50 }
func firstP99(t *tally) float64 { return t.FirstToken.P99 }

// of is the median of a figure of the rounds.
func (s *served) of(f func(*tally) float64) float64 {
	figures := make([]float64, len(s.Rounds))
	for i, t := range s.Rounds {
		figures[i] = f(t)
	}
	return median(figures)
}

// failed counts the requests of all rounds.
func (s *served) failed() (n int) {
	for _, t := range s.Rounds {
		n += t.Failed
	}
	return n
}

// chosen says of the last round how many answers each expert gave.
func (s *served) chosen() string {
	chosen := s.Rounds[len(s.Rounds)-1].Chosen
	var each []string
	for _, name := range slices.Sorted(maps.Keys(chosen)) {
		each = append(each, fmt.Sprintf("%s %d", name, chosen[name]))
	}
	return strings.Join(each, ", ")
}
