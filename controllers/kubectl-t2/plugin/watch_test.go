package plugin

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/charmbracelet/x/ansi"
	"github.com/charmbracelet/x/vt"

	"github.com/transformersquared/operator/api/v1alpha1"
)

func TestWatchEndsWhenAllIsDone(t *testing.T) {
	r := newRig(t, base("tiny"), training("code", "tiny"))
	r.finishOnceSeen(t, "code")
	out, _, code := r.run(t, "watch", "--interval", "100ms")
	if code != exitOK {
		t.Errorf("status %d", code)
	}
	golden(t, "watch.txt", out)
	if _, err, code := newRig(t).run(t, "watch"); code != exitFailed || !strings.Contains(err, "nothing to watch") {
		t.Errorf("of nothing: status %d, %s", code, err)
	}
	broken := base("broken")
	broken.Status.Conditions = held(v1alpha1.ConditionStalled, "DigestMismatch", "it is another")
	if out, _, code := newRig(t, broken).run(t, "watch"); code != exitFailed || !strings.Contains(out, "✗ base broken DigestMismatch it is another") {
		t.Errorf("of what is stalled: status %d\n%s", code, out)
	}
}

// TestWatchIsDrawnInPlace at any width: what a terminal shows are the lines of the last
// frame, each in one row.
func TestWatchIsDrawnInPlace(t *testing.T) {
	for _, width := range []int{30, 80, 130} {
		t.Run(fmt.Sprint(width), func(t *testing.T) {
			const height = 12
			w := &world{
				bases:   []v1alpha1.BaseModel{*team()[2].(*v1alpha1.BaseModel)},
				experts: []v1alpha1.ExpertVector{*training("code", "large"), *training("ein sehr langer Name 漢字漢字", "large")},
			}
			var out bytes.Buffer
			s := &screen{env: &Env{Stdout: &out, Size: func() (int, int) { return width, height }}}
			for range 5 {
				s.draw(watchedLines(w.watched(nil), false, width), "0 of 3 Ready")
			}
			emulator := vt.NewEmulator(width, height)
			if _, err := emulator.WriteString(strings.ReplaceAll(out.String(), "\n", "\r\n")); err != nil {
				t.Fatal(err)
			}
			var rows []string
			for row := range strings.Lines(emulator.String()) {
				if row = strings.TrimRight(ansi.Strip(row), " \r\n"); row != "" {
					rows = append(rows, row)
				}
			}
			golden(t, fmt.Sprintf("watch-%d.txt", width), strings.Join(rows, "\n")+"\n")
			if len(rows) != 4 {
				t.Errorf("%d rows are shown, not 4", len(rows))
			}
		})
	}
}

func TestWatchFitsALowTerminal(t *testing.T) {
	var out bytes.Buffer
	s := &screen{env: &Env{Stdout: &out, Size: func() (int, int) { return 40, 5 }}}
	s.draw([]string{"a", "b", "c", "d", "e"}, "status")
	if got := strings.Count(out.String(), "\n"); got != 4 || !strings.Contains(out.String(), "(2 lines more)") {
		t.Errorf("%d lines: %q", got, out.String())
	}
}

func TestSummariesShowABar(t *testing.T) {
	for summary, want := range map[string]string{
		"Reading 200/800": "[####............] Reading 200/800 3s left", "Fitting": "Fitting 3s left", "Odd a/b": "Odd a/b 3s left",
	} {
		if got := summaryBar(summary, new(int64(3))); got != want {
			t.Errorf("%q is shown as %q", summary, got)
		}
	}
}
