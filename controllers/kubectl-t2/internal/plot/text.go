package plot

import (
	"fmt"
	"math"
	"strings"
)

// Marks of a plot in a terminal.
const (
	markBatch    = '·'
	markScore    = '●'
	markBaseline = '┄'
)

// axis is what stands before the cells of a plot: "100 % ┤".
const axis = 7

// Text draws the curve in so many columns and rows, title and legend among them.
func (c Curve) Text(columns, rows int) string {
	columns, rows = max(columns, axis+10), max(rows, 8)
	wide, high := columns-axis, rows-4
	low, top := c.span()
	grid := make([][]rune, high)
	for i := range grid {
		grid[i] = []rune(strings.Repeat(" ", wide))
	}
	row := func(share float64) int {
		return min(high-1, max(0, int(math.Round((top-share)/(top-low)*float64(high-1)))))
	}
	column := func(iteration int) int {
		return min(wide-1, max(0, int(math.Round(float64(iteration)/float64(c.Last)*float64(wide-1)))))
	}
	if c.Baseline >= 0 {
		for i := range grid[row(clamp(c.Baseline))] {
			grid[row(clamp(c.Baseline))][i] = markBaseline
		}
	}
	for _, p := range c.Batches {
		grid[row(p.Share)][column(p.Iteration)] = markBatch
	}
	for _, p := range c.Scores { // Over the others.
		grid[row(p.Share)][column(p.Iteration)] = markScore
	}
	var b strings.Builder
	b.WriteString(cells(c.Title, columns) + "\n")
	for i, line := range grid {
		label := "     "
		if i == 0 || i == high-1 || i == high/2 && high > 6 {
			share := top - (top-low)*float64(i)/float64(high-1)
			label = fmt.Sprintf("%3.0f %%", 100*share)
		}
		b.WriteString(strings.TrimRight(label+" ┤"+string(line), " ") + "\n")
	}
	b.WriteString(strings.Repeat(" ", axis-1) + "└" + strings.Repeat("─", wide) + "\n")
	last := fmt.Sprint(c.Last)
	b.WriteString(fmt.Sprintf("%*s0%*s", axis, "", max(1, wide-1), last) + "\n")
	b.WriteString(cells(fmt.Sprintf("%*s%c validation  %c batch  %c base, by iteration", axis, "", markScore, markBatch, markBaseline), columns) + "\n")
	return b.String()
}

// cells cuts a text without wide runes to a width.
func cells(text string, width int) string {
	if r := []rune(text); len(r) > width {
		return string(r[:width-1]) + "…"
	}
	return text
}
