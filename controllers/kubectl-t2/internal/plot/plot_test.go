package plot

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"image/png"
	"io"
	"math"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/transformersquared/operator/runtime/contract"
)

// learning is a curve that rises from the base's score.
func learning() contract.Curve {
	c := contract.Curve{Skill: "sums & <more>", Iterations: 40, BaselineScore: 0.25}
	for i := range 40 {
		p := contract.CurvePoint{Iteration: i + 1, Reward: float64(i)/20 - 1}
		if (i+1)%5 == 0 {
			p.Score = new(0.25 + float64(i+1)/80)
		}
		c.Points = append(c.Points, p)
	}
	return c
}

func TestTextIsAsWideAndHighAsAsked(t *testing.T) {
	for _, size := range [][2]int{{79, 18}, {129, 30}, {40, 10}, {0, 0}} {
		text := Of("math", learning()).Text(size[0], size[1])
		for l := range strings.Lines(text) {
			if n := utf8.RuneCountInString(strings.TrimRight(l, "\n")); n > max(size[0], axis+10) {
				t.Errorf("a line of %d columns, %d were asked for: %s", n, size[0], l)
			}
		}
		if n := strings.Count(text, "\n"); n != max(size[1], 8) {
			t.Errorf("%d rows, %d were asked for", n, size[1])
		}
		if strings.Count(text, string(markScore)) < 3 {
			t.Errorf("validations are missing in\n%s", text)
		}
	}
}

func TestTheTitleSaysWhatCameOfIt(t *testing.T) {
	for _, test := range []struct {
		name  string
		curve contract.Curve
		want  string
	}{
		{"of another skill", learning(), "Expert math for sums & <more>: base 25.0 %, best 75.0 % after iteration 40"},
		{"before anything", contract.Curve{BaselineScore: -1}, "Expert math"},
		{"before a validation", contract.Curve{Skill: "math", BaselineScore: 0.5, Points: []contract.CurvePoint{{Iteration: 1}}}, "Expert math: base 50.0 %"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := Of("math", test.curve).Title; got != test.want {
				t.Errorf("%q, want %q", got, test.want)
			}
		})
	}
}

// odd are curves that a pod should not send.
func odd() []contract.Curve {
	nan, far := math.NaN(), 1e300
	return []contract.Curve{
		{}, {BaselineScore: -1}, {BaselineScore: 7, Iterations: -3}, {BaselineScore: nan},
		{Points: []contract.CurvePoint{{Iteration: -5, Reward: far, Score: &far}, {Iteration: 1 << 40, Reward: nan}, {Reward: math.Inf(-1), Score: &nan}}},
		{Skill: "\x00\x1b[2J\xff", BaselineScore: 0.5, Points: []contract.CurvePoint{{Iteration: 1, Reward: 0}}},
	}
}

func TestPicturesAreWellFormed(t *testing.T) {
	for i, c := range append(odd(), learning()) {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			p := Of("math", c)
			if text := p.Text(80, 20); strings.ContainsAny(text, "\x00\x1b") {
				t.Errorf("control characters in %q", text)
			}
			var b bytes.Buffer
			if err := p.SVG(&b); err != nil {
				t.Fatal(err)
			}
			for d := xml.NewDecoder(&b); ; {
				if _, err := d.Token(); errors.Is(err, io.EOF) {
					break
				} else if err != nil {
					t.Fatalf("the SVG is no XML: %v", err)
				}
			}
			b.Reset()
			if err := p.PNG(&b); err != nil {
				t.Fatal(err)
			}
			picture, err := png.Decode(&b)
			if err != nil {
				t.Fatal(err)
			}
			if size := picture.Bounds().Size(); size.X != pictureWidth || size.Y != pictureHeight {
				t.Errorf("the picture is %v", size)
			}
		})
	}
}

// TestThePNGHasWhatTheCurveHas: pixels of each colour where its line is.
func TestThePNGHasWhatTheCurveHas(t *testing.T) {
	var b bytes.Buffer
	if err := Of("math", learning()).PNG(&b); err != nil {
		t.Fatal(err)
	}
	picture, err := png.Decode(&b)
	if err != nil {
		t.Fatal(err)
	}
	count := map[string]int{}
	for y := frameTop; y <= frameBottom; y++ {
		for x := frameLeft; x <= frameRight; x++ {
			r, g, b, _ := picture.At(x, y).RGBA()
			count[fmt.Sprintf("#%02x%02x%02x", r>>8, g>>8, b>>8)]++
		}
	}
	for name, want := range map[string]string{"validation": hex(ofScore), "base": hex(ofBase)} {
		if count[want] < 100 {
			t.Errorf("%d pixels of the %s's %s", count[want], name, want)
		}
	}
}
