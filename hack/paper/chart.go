package main

import (
	"fmt"
	"html"
	"io"
	"math"
	"strings"
)

// chart is a picture of scores: lines over numbers, or bars by name.
type chart struct {
	title, x string
	// ticks are the names of the places on the horizontal axis, at equal distances.
	ticks  []string
	series []series
	bars   bool
}

// series are the values of a line, or of one bar in each group, one for each tick.
type series struct {
	name   string
	values []estimate
	dashed bool
}

// Geometry of a chart, in pixels.
const (
	chartWidth, chartHeight = 720, 396
	plotLeft, plotRight     = 52, 704
	plotTop, plotBottom     = 44, 292
	gridLines               = 5
)

// colours tell series apart, also for those who do not see red and green (after Okabe and Ito).
var colours = []string{"#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#666666", "#000000", "#f0e442", "#882255"}

// write draws the chart as SVG. Unknown values leave a gap.
func (c chart) write(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %[1]d %[2]d" font-family="sans-serif" font-size="12">`+"\n", chartWidth, chartHeight)
	fmt.Fprintf(&b, "<title>%s</title>\n", html.EscapeString(c.title))
	b.WriteString(`<rect width="100%" height="100%" fill="#ffffff"/>` + "\n")
	fmt.Fprintf(&b, `<text x="%d" y="24" font-size="15" fill="#222222">%s</text>`+"\n", plotLeft, html.EscapeString(c.title))
	for i := range gridLines + 1 {
		share := float64(i) / gridLines
		fmt.Fprintf(&b, `<path d="M%d %.1fH%d" stroke="#e3e7eb"/><text x="%d" y="%.1f" text-anchor="end" fill="#555555">%.0f %%</text>`+"\n",
			plotLeft, height(share), plotRight, plotLeft-6, height(share)+4, 100*share)
	}
	for i, tick := range c.ticks {
		fmt.Fprintf(&b, `<text x="%.1f" y="%d" text-anchor="middle" fill="#555555">%s</text>`+"\n", c.place(i), plotBottom+18, html.EscapeString(tick))
	}
	fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="end" fill="#555555">%s</text>`+"\n", plotRight, plotBottom+36, html.EscapeString(c.x))
	for i, s := range c.series {
		if c.bars {
			c.drawBars(&b, i, s)
		} else {
			c.drawLine(&b, i, s)
		}
	}
	c.legend(&b)
	b.WriteString("</svg>\n")
	_, err := io.WriteString(w, b.String())
	return err
}

// height is where a share of right answers lies.
func height(share float64) float64 {
	return plotBottom - min(max(share, 0), 1)*(plotBottom-plotTop)
}

// place is where a tick lies.
func (c chart) place(i int) float64 {
	step := float64(plotRight-plotLeft) / float64(max(len(c.ticks), 1))
	return plotLeft + (float64(i)+0.5)*step
}

func colour(i int) string { return colours[i%len(colours)] }

// whisker draws a standard error around a value.
func whisker(b *strings.Builder, x float64, e estimate, colour string) {
	if e.err > 0 && !math.IsNaN(e.err) {
		fmt.Fprintf(b, `<path d="M%.1f %.1fV%.1f" stroke="%s" stroke-width="1.2"/>`+"\n", x, height(e.mean-e.err), height(e.mean+e.err), colour)
	}
}

func (c chart) drawLine(b *strings.Builder, at int, s series) {
	var points []string
	dash := ""
	if s.dashed {
		dash = ` stroke-dasharray="5 4"`
	}
	flush := func() {
		if len(points) > 1 {
			fmt.Fprintf(b, `<polyline fill="none" stroke="%s" stroke-width="2"%s points="%s"/>`+"\n", colour(at), dash, strings.Join(points, " "))
		}
		points = nil
	}
	for i, e := range s.values {
		if !e.known {
			flush()
			continue
		}
		points = append(points, fmt.Sprintf("%.1f,%.1f", c.place(i), height(e.mean)))
		whisker(b, c.place(i), e, colour(at))
		fmt.Fprintf(b, `<circle cx="%.1f" cy="%.1f" r="3.2" fill="%s"/>`+"\n", c.place(i), height(e.mean), colour(at))
	}
	flush()
}

func (c chart) drawBars(b *strings.Builder, at int, s series) {
	group := 0.8 * float64(plotRight-plotLeft) / float64(max(len(c.ticks), 1))
	width := group / float64(len(c.series))
	for i, e := range s.values {
		if !e.known {
			continue
		}
		x := c.place(i) - group/2 + float64(at)*width
		fmt.Fprintf(b, `<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" fill="%s"/>`+"\n", x, height(e.mean), 0.9*width, plotBottom-height(e.mean), colour(at))
		whisker(b, x+0.45*width, e, "#222222")
	}
}

// legend names the series, four in a row.
func (c chart) legend(b *strings.Builder) {
	const inRow, rowHeight = 4, 18
	width := (plotRight - plotLeft) / inRow
	for i, s := range c.series {
		x, y := plotLeft+i%inRow*width, plotBottom+56+i/inRow*rowHeight
		fmt.Fprintf(b, `<rect x="%d" y="%d" width="14" height="5" fill="%s"/><text x="%d" y="%d" fill="#333333">%s</text>`+"\n",
			x, y-6, colour(i), x+20, y, html.EscapeString(s.name))
	}
}
