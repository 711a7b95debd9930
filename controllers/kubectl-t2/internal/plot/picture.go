package plot

import (
	"fmt"
	"html"
	"image"
	"image/color"
	"image/png"
	"io"
	"math"
	"strings"

	"golang.org/x/image/font"
	"golang.org/x/image/font/basicfont"
	"golang.org/x/image/math/fixed"
	"golang.org/x/image/vector"
)

// Geometry of a picture, in pixels.
const (
	pictureWidth, pictureHeight = 760, 380
	frameLeft, frameRight       = 60, 740
	frameTop, frameBottom       = 48, 322
	columns                     = 4
)

var (
	ink       = color.NRGBA{0x33, 0x33, 0x33, 0xff}
	grid      = color.NRGBA{0xe3, 0xe7, 0xeb, 0xff}
	ofBatch   = color.NRGBA{0x9a, 0xa7, 0xb5, 0xff}
	ofScore   = color.NRGBA{0x1f, 0x6f, 0xeb, 0xff}
	ofBase    = color.NRGBA{0xd1, 0x49, 0x5b, 0xff}
	dashes    = [2]float64{6, 4}
	lineWidth = map[color.NRGBA]float64{ofBatch: 1.2, ofScore: 2.4, ofBase: 1.4, grid: 1}
)

// canvas is what a picture is drawn on. Coordinates are pixels from the top left.
type canvas interface {
	line(points [][2]float64, c color.NRGBA, dashed bool)
	dot(x, y, radius float64, c color.NRGBA)
	// text stands with its baseline on y; align is 0 where it begins at x, 1 where its
	// middle is there, 2 where it ends.
	text(x, y float64, align int, text string)
}

// draw draws the curve on a canvas.
func (c Curve) draw(on canvas) {
	low, top := c.span()
	x := func(iteration int) float64 {
		return frameLeft + float64(iteration)/float64(c.Last)*(frameRight-frameLeft)
	}
	y := func(share float64) float64 { return frameBottom - (share-low)/(top-low)*(frameBottom-frameTop) }
	on.text(frameLeft, 26, 0, c.Title)
	for i := 0; low+float64(i)*step <= top+step/2; i++ {
		share := low + float64(i)*step
		on.line([][2]float64{{frameLeft, y(share)}, {frameRight, y(share)}}, grid, false)
		on.text(frameLeft-8, y(share)+4, 2, fmt.Sprintf("%.0f %%", 100*share))
	}
	for i := range columns + 1 {
		at := c.Last * i / columns
		on.text(x(at), frameBottom+18, 1, fmt.Sprint(at))
	}
	on.text(frameRight, pictureHeight-14, 2, "iteration")
	if c.Baseline >= 0 {
		on.line([][2]float64{{frameLeft, y(clamp(c.Baseline))}, {frameRight, y(clamp(c.Baseline))}}, ofBase, true)
	}
	for _, s := range []struct {
		points []Point
		color  color.NRGBA
	}{{c.Batches, ofBatch}, {c.Scores, ofScore}} {
		line := make([][2]float64, len(s.points))
		for i, p := range s.points {
			line[i] = [2]float64{x(p.Iteration), y(p.Share)}
		}
		on.line(line, s.color, false)
	}
	for _, p := range c.Scores {
		on.dot(x(p.Iteration), y(p.Share), 3.4, ofScore)
	}
	at := float64(frameLeft)
	for _, entry := range []struct {
		name  string
		color color.NRGBA
	}{{"validation", ofScore}, {"right answers of a batch", ofBatch}, {"base model", ofBase}} {
		on.line([][2]float64{{at, pictureHeight - 18}, {at + 16, pictureHeight - 18}}, entry.color, false)
		on.text(at+22, pictureHeight-14, 0, entry.name)
		at += 52 + 7*float64(len(entry.name))
	}
}

// SVG writes the curve as a picture in SVG.
func (c Curve) SVG(w io.Writer) error {
	s := &svg{}
	fmt.Fprintf(s, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %[1]d %[2]d" font-family="monospace" font-size="12">`+"\n", pictureWidth, pictureHeight)
	fmt.Fprintf(s, "<title>%s</title>\n"+`<rect width="100%%" height="100%%" fill="#ffffff"/>`+"\n", escape(c.Title))
	c.draw(s)
	fmt.Fprintln(s, "</svg>")
	_, err := io.WriteString(w, s.String())
	return err
}

// svg is a canvas of markup.
type svg struct{ strings.Builder }

// escape makes text of markup, without what XML has no place for.
func escape(text string) string {
	return html.EscapeString(strings.Map(func(r rune) rune {
		if r < ' ' || r == 0xfffe || r == 0xffff {
			return -1
		}
		return r
	}, strings.ToValidUTF8(text, "?")))
}

func hex(c color.NRGBA) string { return fmt.Sprintf("#%02x%02x%02x", c.R, c.G, c.B) }

func (s *svg) line(points [][2]float64, c color.NRGBA, dashed bool) {
	if len(points) < 2 {
		return
	}
	dash := ""
	if dashed {
		dash = fmt.Sprintf(` stroke-dasharray="%g %g"`, dashes[0], dashes[1])
	}
	fmt.Fprintf(s, `<polyline fill="none" stroke="%s" stroke-width="%g"%s points="`, hex(c), lineWidth[c], dash)
	for _, p := range points {
		fmt.Fprintf(s, "%.1f,%.1f ", p[0], p[1])
	}
	fmt.Fprintln(s, `"/>`)
}

func (s *svg) dot(x, y, radius float64, c color.NRGBA) {
	fmt.Fprintf(s, `<circle cx="%.1f" cy="%.1f" r="%g" fill="%s"/>`+"\n", x, y, radius, hex(c))
}

func (s *svg) text(x, y float64, align int, text string) {
	fmt.Fprintf(s, `<text x="%.1f" y="%.1f" text-anchor="%s" fill="%s">%s</text>`+"\n",
		x, y, [...]string{"start", "middle", "end"}[align], hex(ink), escape(text))
}

// PNG writes the curve as a picture in PNG.
func (c Curve) PNG(w io.Writer) error {
	p := &pixels{image.NewNRGBA(image.Rect(0, 0, pictureWidth, pictureHeight))}
	for i := range p.Pix {
		p.Pix[i] = 0xff
	}
	c.draw(p)
	return png.Encode(w, p.NRGBA)
}

// pixels is a canvas of them.
type pixels struct{ *image.NRGBA }

// fill fills a polygon. No more than its surroundings are looked at: a curve has thousands.
func (p *pixels) fill(points [][2]float64, c color.NRGBA) {
	low, high := points[0], points[0]
	for _, at := range points {
		for i := range at {
			low[i], high[i] = math.Floor(min(low[i], at[i])), math.Ceil(max(high[i], at[i]))
		}
	}
	r := vector.NewRasterizer(int(high[0]-low[0])+1, int(high[1]-low[1])+1)
	for i, at := range points {
		x, y := float32(at[0]-low[0]), float32(at[1]-low[1])
		if i == 0 {
			r.MoveTo(x, y)
		} else {
			r.LineTo(x, y)
		}
	}
	r.ClosePath()
	r.Draw(p.NRGBA, r.Bounds().Add(image.Pt(int(low[0]), int(low[1]))), image.NewUniform(c), image.Point{})
}

func (p *pixels) line(points [][2]float64, c color.NRGBA, dashed bool) {
	for i := 1; i < len(points); i++ {
		a, b := points[i-1], points[i]
		if !dashed {
			p.stroke(a, b, c)
			continue
		}
		length := math.Hypot(b[0]-a[0], b[1]-a[1])
		along := func(d float64) [2]float64 {
			t := min(d, length) / length
			return [2]float64{a[0] + t*(b[0]-a[0]), a[1] + t*(b[1]-a[1])}
		}
		for at := 0.0; at < length; at += dashes[0] + dashes[1] {
			p.stroke(along(at), along(at+dashes[0]), c)
		}
	}
}

// stroke draws a straight line.
func (p *pixels) stroke(a, b [2]float64, c color.NRGBA) {
	length := math.Hypot(b[0]-a[0], b[1]-a[1])
	if length == 0 {
		return
	}
	half := lineWidth[c] / 2
	nx, ny := -(b[1]-a[1])/length*half, (b[0]-a[0])/length*half
	p.fill([][2]float64{{a[0] + nx, a[1] + ny}, {b[0] + nx, b[1] + ny}, {b[0] - nx, b[1] - ny}, {a[0] - nx, a[1] - ny}}, c)
}

func (p *pixels) dot(x, y, radius float64, c color.NRGBA) {
	const corners = 24
	circle := make([][2]float64, corners)
	for i := range circle {
		angle := 2 * math.Pi * float64(i) / corners
		circle[i] = [2]float64{x + radius*math.Cos(angle), y + radius*math.Sin(angle)}
	}
	p.fill(circle, c)
}

func (p *pixels) text(x, y float64, align int, text string) {
	d := font.Drawer{Dst: p.NRGBA, Src: image.NewUniform(ink), Face: basicfont.Face7x13}
	x -= float64(align) * float64(d.MeasureString(text)) / 64 / 2
	d.Dot = fixed.P(int(x), int(y))
	d.DrawString(text)
}
