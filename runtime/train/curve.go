package train

import (
	"fmt"
	"html"
	"io"
	"strings"
)

// Geometry of the learning curve, in pixels.
const (
	curveWidth, curveHeight             = 720, 360
	plotLeft, plotRight                 = 56, 700
	plotTop, plotBottom                 = 44, 310
	gridLines                           = 4
	colourReward, colourScore, colourBL = "#9aa7b5", "#1f6feb", "#d1495b"
)

// writeCurve draws a run's learning curve as SVG: the share of right answers in
// each batch, and the validation score beside the base model's.
func writeCurve(w io.Writer, skill string, h header) error {
	last := max(1, len(h.History))
	x := func(iteration int) float64 {
		return plotLeft + float64(iteration)/float64(last)*(plotRight-plotLeft)
	}
	y := func(score float64) float64 { return plotBottom - score*(plotBottom-plotTop) }

	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %[1]d %[2]d" font-family="sans-serif" font-size="12">`+"\n", curveWidth, curveHeight)
	fmt.Fprintf(&b, `<title>Learning curve of the expert for %s</title>`+"\n", html.EscapeString(skill))
	b.WriteString(`<rect width="100%" height="100%" fill="#ffffff"/>` + "\n")
	fmt.Fprintf(&b, `<text x="%d" y="22" font-size="15" fill="#222222">Expert for %s: base %.1f %%, best %.1f %% after iteration %d</text>`+"\n",
		plotLeft, html.EscapeString(skill), 100*h.BaselineScore, 100*h.BestScore, h.BestIteration)
	for i := range gridLines + 1 {
		score := float64(i) / gridLines
		fmt.Fprintf(&b, `<path d="M%d %.1fH%d" stroke="#e3e7eb"/><text x="%d" y="%.1f" text-anchor="end" fill="#555555">%.0f %%</text>`+"\n",
			plotLeft, y(score), plotRight, plotLeft-8, y(score)+4, 100*score)
		iteration := last * i / gridLines
		fmt.Fprintf(&b, `<text x="%.1f" y="%d" text-anchor="middle" fill="#555555">%d</text>`+"\n", x(iteration), plotBottom+18, iteration)
	}
	rewards := make([][2]float64, 0, len(h.History))
	scores := [][2]float64{{x(0), y(max(0, h.BaselineScore))}}
	for _, p := range h.History {
		rewards = append(rewards, [2]float64{x(p.Iteration), y((p.Reward + 1) / 2)})
		if p.Score != nil {
			scores = append(scores, [2]float64{x(p.Iteration), y(*p.Score)})
		}
	}
	fmt.Fprintf(&b, `<path d="M%d %.1fH%d" stroke="%s" stroke-dasharray="5 4" fill="none"/>`+"\n", plotLeft, y(max(0, h.BaselineScore)), plotRight, colourBL)
	polyline(&b, rewards, colourReward, 1.2)
	polyline(&b, scores, colourScore, 2.4)
	for _, s := range scores {
		fmt.Fprintf(&b, `<circle cx="%.1f" cy="%.1f" r="3.2" fill="%s"/>`+"\n", s[0], s[1], colourScore)
	}
	at := plotLeft
	for _, entry := range []struct{ name, colour string }{
		{"validation score", colourScore}, {"right answers in the batch", colourReward}, {"base model", colourBL},
	} {
		fmt.Fprintf(&b, `<rect x="%d" y="%d" width="14" height="4" fill="%s"/><text x="%d" y="%d" fill="#333333">%s</text>`+"\n",
			at, curveHeight-20, entry.colour, at+20, curveHeight-14, entry.name)
		at += 190
	}
	fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="end" fill="#555555">iteration</text>`+"\n</svg>\n", plotRight, curveHeight-14)
	_, err := io.WriteString(w, b.String())
	return err
}

func polyline(b *strings.Builder, points [][2]float64, colour string, width float64) {
	if len(points) < 2 {
		return
	}
	fmt.Fprintf(b, `<polyline fill="none" stroke="%s" stroke-width="%.1f" stroke-linejoin="round" points="`, colour, width)
	for _, p := range points {
		fmt.Fprintf(b, "%.1f,%.1f ", p[0], p[1])
	}
	b.WriteString(`"/>` + "\n")
}
