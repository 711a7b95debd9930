package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/charmbracelet/x/ansi"
	"golang.org/x/term"
)

const (
	// narrow is the width of a terminal that does not say.
	narrow = 80
	// lowest is the height of one that does not say.
	lowest = 24
	// silence is how long nothing may be printed while something goes on.
	silence = 10 * time.Second
)

// screen is where the demo prints. On a terminal it has one block of lines that
// is drawn over and over in place; elsewhere only what is new is printed.
type screen struct {
	out io.Writer
	// size returns the terminal's width and height in cells; nil where there is
	// no terminal. It is asked at each drawing, so a resize is noticed.
	size func() (width, height int)
	// rows and width are those of the block as it was drawn last.
	rows, width int
	// before are the lines as shown last, where there is no terminal.
	before []string
	spoke  time.Time
}

// newScreen returns the screen of a file, such as standard output.
func newScreen(f *os.File) *screen {
	s := &screen{out: f}
	if term.IsTerminal(int(f.Fd())) {
		s.size = func() (int, int) {
			width, height, err := term.GetSize(int(f.Fd()))
			if err != nil || width < 1 || height < 1 {
				return narrow, lowest
			}
			return width, height
		}
	}
	return s
}

// headline prints what comes next.
func (s *screen) headline(format string, args ...any) {
	text := fmt.Sprintf("==> "+format, args...)
	if s.size != nil {
		text = "\033[1m" + text + "\033[0m"
	}
	s.printf("\n%s\n", text)
}

// printf prints below the block, which stays as it is from then on.
func (s *screen) printf(format string, args ...any) {
	s.rows, s.before, s.spoke = 0, nil, time.Now()
	fmt.Fprintf(s.out, format, args...)
}

// draw shows lines after since, over those drawn before. status is about all of
// them and says that something still goes on.
func (s *screen) draw(lines []string, status string, since time.Duration) {
	if s.size == nil {
		s.log(lines, status, since)
		return
	}
	width, height := s.size()
	lines = fit(append(slices.Clip(lines), status), width, height)
	up := ""
	switch {
	case s.rows == 0 || width < s.width || s.rows >= height:
		// Nothing to draw over, or it cannot be told where it is: a terminal that got
		// narrower may have broken its lines. The block begins anew below.
	default:
		up = fmt.Sprintf("\033[%dA", s.rows)
	}
	var frame strings.Builder
	frame.WriteString(up)
	for _, line := range lines {
		frame.WriteString("\r" + line + "\033[K\n")
	}
	// What a taller block left below is erased.
	fmt.Fprint(s.out, frame.String()+"\033[J")
	s.rows, s.width, s.spoke = len(lines), width, time.Now()
}

// fit cuts lines to a terminal of this size: what is wider than a line would be
// broken into two, and a block that is higher would scroll. The last cell of a
// line stays free, since some terminals break there already. The last line,
// the status, is kept.
func fit(lines []string, width, height int) []string {
	if most := max(1, height-1); len(lines) > most {
		hidden := len(lines) - most
		lines = append(lines[:most-1:most-1], lines[len(lines)-1]+fmt.Sprintf(" (%d lines more)", hidden))
	}
	fitted := make([]string, len(lines))
	for i, line := range lines {
		fitted[i] = ansi.Truncate(line, max(0, width-1), "…")
	}
	return fitted
}

// log prints the lines that have changed, and the status when nothing was
// printed for a while.
func (s *screen) log(lines []string, status string, since time.Duration) {
	var changed []string
	for i, line := range lines {
		if i >= len(s.before) || s.before[i] != line {
			changed = append(changed, line)
		}
	}
	if len(changed) == 0 && time.Since(s.spoke) >= silence {
		changed = []string{status}
	}
	for _, line := range changed {
		fmt.Fprintf(s.out, "  %4.0fs %s\n", since.Seconds(), line)
		s.spoke = time.Now()
	}
	s.before = lines
}

// during runs do and shows, while it lasts, what it is and how long it usually
// takes. progress, if there is one, says how far it is.
func (s *screen) during(ctx context.Context, what, usual string, progress func() string, do func(context.Context) error) error {
	began := time.Now()
	done := make(chan error, 1)
	go func() { done <- do(ctx) }() // Ends with do, which ctx bounds.
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	s.spoke = began
	for {
		since := time.Since(began)
		text := fmt.Sprintf("  %s: %.0f s (usually %s)", what, since.Seconds(), usual)
		if progress != nil {
			text += ", " + progress()
		}
		s.draw(nil, text, since)
		select {
		case err := <-done:
			s.erase()
			return err
		case <-ticker.C:
		}
	}
}

// erase takes the block away again.
func (s *screen) erase() {
	if s.size != nil && s.rows > 0 {
		fmt.Fprintf(s.out, "\033[%dA\r\033[J", s.rows)
	}
	s.rows, s.before = 0, nil
}
