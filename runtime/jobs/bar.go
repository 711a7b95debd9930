package jobs

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"

	"golang.org/x/term"

	"github.com/transformersquared/operator/runtime/contract"
)

// IsTerminal reports whether w is a terminal, that is: whether a person looks.
func IsTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// NewLogger returns a logger to w: structured lines for machines, or, on a
// terminal, only what a person should know beside the progress bar.
func NewLogger(w io.Writer) *slog.Logger {
	if IsTerminal(w) {
		return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelWarn}))
	}
	return slog.New(slog.NewJSONHandler(w, nil))
}

// showBar draws p on w, once a quarter second, if w is a terminal.
func showBar(w io.Writer, p *Progress) (stop func()) {
	if !IsTerminal(w) {
		return func() {}
	}
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(250 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				_, _ = fmt.Fprintf(w, "\r\x1b[K%s", barLine(p.Snapshot()))
			case <-quit:
				_, _ = fmt.Fprint(w, "\r\x1b[K")
				return
			}
		}
	}()
	return func() {
		close(quit)
		<-done
	}
}

const barWidth = 24

// barLine draws one state in under 100 columns.
func barLine(s contract.Progress) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%-12s", s.Phase)
	if s.Total > 0 {
		full := int(barWidth * min(max(s.Done, 0), s.Total) / s.Total)
		fmt.Fprintf(&b, " [%s%s] %d/%d", strings.Repeat("=", full), strings.Repeat(" ", barWidth-full), s.Done, s.Total)
	}
	if t := s.Training; t != nil {
		fmt.Fprintf(&b, "  reward %+.2f  best %.3f  base %.3f", t.Reward, max(t.BestScore, 0), max(t.BaselineScore, 0))
	}
	if f := s.Search; f != nil {
		fmt.Fprintf(&b, "  best %.3f  base %.3f  uniform %.3f", max(f.BestScore, 0), max(f.BaselineScore, 0), max(f.UniformScore, 0))
	}
	if s.EstimatedRemainingSeconds >= 0 {
		fmt.Fprintf(&b, "  %s left", time.Duration(s.EstimatedRemainingSeconds)*time.Second)
	}
	return b.String()
}
