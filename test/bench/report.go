package main

import (
	"fmt"
	"slices"
	"strings"
)

// report collects all figures of a run.
type report struct {
	Backend string
	Threads int
	Rows    []*row   `json:",omitempty"`
	Passes  []*share `json:",omitempty"`
	// Served are ways to choose experts under load, in pairs.
	Served []*served `json:",omitempty"`
	// Together are trainings at once.
	Together []*together `json:",omitempty"`
	// Beside are searches beside Reinforce.
	Beside []*beside `json:",omitempty"`
	probe  *probe
}

// row is one line of the table.
type row struct {
	Shape, DType, What string
	// Ours and Peer are tokens a second, one a round; Peer may have none.
	Ours, Peer []float64
	PeerName   string `json:",omitempty"`
	// BytesPerToken is what decoding a token of one sequence reads, 0 where memory is
	// not the limit. Each round has parts, in tokens a second, and probes before and
	// after each, in bytes a second.
	BytesPerToken float64     `json:",omitempty"`
	Parts, Probes [][]float64 `json:",omitempty"`
}

// ofBandwidth is what decoding read of what the probes beside it did, for each part.
func (l *row) ofBandwidth() []float64 {
	var shares []float64
	for round, parts := range l.Parts {
		for i, part := range parts {
			before, after := l.Probes[round][i], l.Probes[round][i+1]
			shares = append(shares, part*l.BytesPerToken/((before+after)/2))
		}
	}
	return shares
}

func (r *report) add(shape, dtype, what string) *row {
	l := &row{Shape: shape, DType: dtype, What: what}
	r.Rows = append(r.Rows, l)
	return l
}

// table is for people, and for runtime/README.md.
func (r *report) table() string {
	var b strings.Builder
	switch {
	case len(r.Together) > 0:
		return togetherTable(r.Together)
	case len(r.Beside) > 0:
		return besideTable(r.Beside)
	}
	fmt.Fprintf(&b, "%s, %d threads, medians\n\n", r.Backend, r.Threads)
	if len(r.Served) > 0 {
		b.WriteString(servedTable(r.Served))
	}
	if len(r.Passes) > 0 {
		b.WriteString("| shape | dtype | what | beside | time | processor time |\n|---|---|---|---|---|---|\n")
		for _, p := range r.Passes {
			fmt.Fprintf(&b, "| %s | %s | %s | %s | %.3f | %.3f |\n", p.Shape, p.DType, p.What, p.Beside, median(p.Shares), median(p.Processor))
		}
	}
	if len(r.Rows) == 0 {
		return b.String()
	}
	b.WriteString("\n")
	b.WriteString("| shape | dtype | what | tokens/s | peer | ratio | of bandwidth |\n|---|---|---|---|---|---|---|\n")
	for _, l := range r.Rows {
		peer, ratio, share := "", "", ""
		if len(l.Peer) > 0 {
			peer = fmt.Sprintf("%s %s", l.PeerName, figure(median(l.Peer)))
			ratio = fmt.Sprintf("%.2f", median(l.Ours)/median(l.Peer))
		}
		if shares := l.ofBandwidth(); len(shares) > 0 {
			share = fmt.Sprintf("%.2f", median(shares))
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s | %s |\n", l.Shape, l.DType, l.What, figure(median(l.Ours)), peer, ratio, share)
	}
	return b.String()
}

func figure(v float64) string {
	if v < 100 {
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.0f", v)
}

// median of at least one figure.
func median(v []float64) float64 {
	sorted := slices.Sorted(slices.Values(v))
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}
