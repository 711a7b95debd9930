package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// report collects all figures of a run.
type report struct {
	Backend string
	Threads int
	// Day and Commit are the runtime's.
	Day, Commit string   `json:",omitempty"`
	Peers       []*peer  `json:",omitempty"`
	Rows        []*row   `json:",omitempty"`
	Passes      []*share `json:",omitempty"`
	// Picked are ways to choose experts under load, in pairs.
	Picked []*picked `json:",omitempty"`
	// Together are trainings at once.
	Together []*together `json:",omitempty"`
	// Beside are searches beside Reinforce.
	Beside []*beside `json:",omitempty"`
	// Served are servers under load.
	Served []*served `json:",omitempty"`
	probe  *probe
}

// row is one line of the table.
type row struct {
	Shape, DType, What string
	// Ours are tokens a second, one a round, and Peers those of others by their names.
	Ours  []float64
	Peers map[string][]float64 `json:",omitempty"`
	// BytesPerToken is what decoding a token of one sequence reads, 0 where memory is
	// not the limit. Each round has parts, in tokens a second, and probes before and
	// after each, in bytes a second.
	BytesPerToken float64     `json:",omitempty"`
	Parts, Probes [][]float64 `json:",omitempty"`
}

// beside adds a peer's figure.
func (l *row) beside(name string, speed float64) {
	if l.Peers == nil {
		l.Peers = map[string][]float64{}
	}
	l.Peers[name] = append(l.Peers[name], speed)
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
	case len(r.Served) > 0:
		return fmt.Sprintf("%d threads, medians%s\n\n%s", r.Threads, r.versions(), servedTable(r.Served))
	}
	fmt.Fprintf(&b, "%s, %d threads, medians%s\n\n", r.Backend, r.Threads, r.versions())
	if len(r.Picked) > 0 {
		b.WriteString(pickedTable(r.Picked))
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
	names := map[string]bool{}
	for _, l := range r.Rows {
		for name := range l.Peers {
			names[name] = true
		}
	}
	peers := slices.Sorted(maps.Keys(names))
	if len(r.Passes) > 0 {
		b.WriteString("\n")
	}
	b.WriteString("| shape | dtype | what | tokens/s |")
	for _, name := range peers {
		fmt.Fprintf(&b, " %s | ratio |", name)
	}
	b.WriteString(" of bandwidth |\n" + strings.Repeat("|---", 5+2*len(peers)) + "|\n")
	for _, l := range r.Rows {
		fmt.Fprintf(&b, "| %s | %s | %s | %s |", l.Shape, l.DType, l.What, figure(median(l.Ours)))
		for _, name := range peers {
			if speeds := l.Peers[name]; len(speeds) > 0 {
				fmt.Fprintf(&b, " %s | %.2f |", figure(median(speeds)), median(l.Ours)/median(speeds))
			} else {
				b.WriteString(" | |")
			}
		}
		if shares := l.ofBandwidth(); len(shares) > 0 {
			fmt.Fprintf(&b, " %.2f", median(shares))
		}
		b.WriteString(" |\n")
	}
	return b.String()
}

// versions says when this was, and what was compared.
func (r *report) versions() string {
	if r.Day == "" {
		return ""
	}
	all := []string{r.Day, "runtime " + r.Commit}
	for _, p := range r.Peers {
		all = append(all, p.String())
	}
	return "; " + strings.Join(all, ", ")
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
