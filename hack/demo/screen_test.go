package main

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/charmbracelet/x/ansi"
	"github.com/charmbracelet/x/vt"
	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/transformersquared/operator/api/v1alpha1"
)

// terminal is an emulated terminal with a screen of the demo on it.
type terminal struct {
	*screen
	emulator *vt.Emulator
	// mu lets the screen be read while the demo draws.
	mu *sync.Mutex
}

func newTerminal(t *testing.T, width, height int) terminal {
	t.Helper()
	e := vt.NewEmulator(width, height)
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	mu := &sync.Mutex{}
	return terminal{emulator: e, mu: mu, screen: &screen{
		out:  newlines{e, mu},
		size: func() (int, int) { return e.Width(), e.Height() },
	}}
}

// newlines does what a terminal's line discipline does to output.
type newlines struct {
	out *vt.Emulator
	mu  *sync.Mutex
}

func (n newlines) Write(b []byte) (int, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if _, err := n.out.Write(bytes.ReplaceAll(b, []byte("\n"), []byte("\r\n"))); err != nil {
		return 0, err
	}
	return len(b), nil
}

// text is what the screen shows now.
func (t terminal) text() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.emulator.String()
}

// rows is what somebody sees: the rows that are not empty.
func (t terminal) rows() []string {
	var rows []string
	for row := range strings.SplitSeq(t.text(), "\n") {
		if row = strings.TrimRight(row, " "); row != "" {
			rows = append(rows, row)
		}
	}
	return rows
}

// training is the demo's objects at iteration i of the trainings.
func training(i int) []line {
	var lines []line
	add := func(name, reason, detail string, ready bool) {
		lines = append(lines, line{name: name, reason: reason, detail: detail, ready: ready})
	}
	add("basemodel/tiny", "Ready", baseDetail(v1alpha1.BaseModelStatus{
		Decomposition: &v1alpha1.DecompositionStatus{Matrices: 35, SingularValues: 4480, MaxRelativeError: "0.00000092"},
	}), true)
	for _, name := range []string{"code", "math", "reasoning"} {
		add("expert/"+name, "Training", expertDetail(v1alpha1.ExpertVectorStatus{Progress: &v1alpha1.TrainingProgress{
			Iteration: new(int32(i)), Iterations: 40, Summary: fmt.Sprintf("%d/40", i), Reward: "0.5312",
			ValidationScore: "0.8906", BestScore: "0.9844", EstimatedRemainingSeconds: new(int64(40 - i)),
		}}), false)
	}
	add("policy/demo", "ExpertsNotReady", policyDetail(v1alpha1.AdaptivePolicyStatus{
		Experts: make([]v1alpha1.PolicyExpertStatus, 3),
	}), false)
	return lines
}

// TestTheLiveViewIsRightAtAnyWidth replays a whole training into an emulated
// terminal and looks at what is on it.
func TestTheLiveViewIsRightAtAnyWidth(t *testing.T) {
	for _, width := range []int{20, 40, 79, 80, 81, 100, 130, 200} {
		t.Run(fmt.Sprint(width), func(t *testing.T) {
			term := newTerminal(t, width, 24)
			term.headline("Waiting")
			for i := range 41 {
				term.draw(texts(training(i)), fmt.Sprintf("1 of 5 Ready after %d s", i), 0)
				if got, want := len(term.rows()), 1+5+1; got != want {
					t.Fatalf("after iteration %d the screen has %d rows, want %d:\n%s", i, got, want, term.emulator)
				}
			}
			want := []string{"==> Waiting"}
			for _, text := range append(texts(training(40)), "1 of 5 Ready after 40 s") {
				want = append(want, strings.TrimRight(ansi.Truncate(text, width-1, "…"), " "))
			}
			if diff := cmp.Diff(want, term.rows()); diff != "" {
				t.Errorf("the screen (-want +got):\n%s", diff)
			}
		})
	}
}

// TestAt80ColumnsTheBarMovesAndTheTimeLeftIsSeen: what matters most is not what
// is cut off.
func TestAt80ColumnsTheBarMovesAndTheTimeLeftIsSeen(t *testing.T) {
	term := newTerminal(t, 80, 24)
	for i, want := range map[int]string{
		0:  "expert/math      Training          [....................]  0/40  40s left",
		20: "expert/math      Training          [##########..........]  20/40  20s left",
		38: "expert/math      Training          [###################.]  38/40  2s left",
	} {
		term.draw(texts(training(i)), "", 0)
		if !strings.Contains(term.text(), want) {
			t.Errorf("iteration %d: the screen lacks %q:\n%s", i, want, term.emulator)
		}
	}
}

func TestWideRunesAndColoursAreCutByTheirCells(t *testing.T) {
	lines := []string{
		"\033[1m" + strings.Repeat("特", 30) + "\033[0m",
		strings.Repeat("e\u0301", 60),
		"ab" + strings.Repeat("🙂", 30),
	}
	term := newTerminal(t, 20, 10)
	for range 5 {
		term.draw(lines, "status", 0)
	}
	rows := term.rows()
	if len(rows) != 4 {
		t.Fatalf("%d rows on the screen, want 4:\n%s", len(rows), term.emulator)
	}
	for i, row := range rows[:3] {
		if w := ansi.StringWidth(row); w < 17 || w > 19 || !strings.HasSuffix(row, "…") {
			t.Errorf("row %d takes %d of 20 cells: %q", i, w, row)
		}
	}
}

// TestAResizeIsNoticed: a wider terminal is filled, on a narrower one the block
// begins anew and is whole.
func TestAResizeIsNoticed(t *testing.T) {
	term := newTerminal(t, 80, 40)
	show := func(i, width int) {
		t.Helper()
		term.emulator.Resize(width, 40)
		for range 3 {
			term.draw(texts(training(i)), "status", 0)
		}
		rows := term.rows()
		var want []string
		for _, text := range append(texts(training(i)), "status") {
			want = append(want, strings.TrimRight(ansi.Truncate(text, width-1, "…"), " "))
		}
		if diff := cmp.Diff(want, rows[max(0, len(rows)-len(want)):]); diff != "" {
			t.Errorf("at width %d the end of the screen (-want +got):\n%s", width, diff)
		}
	}
	show(1, 80)
	show(2, 132)
	if n := len(term.rows()); n != 6 {
		t.Errorf("a wider terminal shows %d rows, want 6:\n%s", n, term.emulator)
	}
	show(3, 60)
}

func TestABlockHigherThanTheTerminalKeepsItsStatus(t *testing.T) {
	term := newTerminal(t, 80, 4)
	for i := range 10 {
		term.draw(texts(training(i)), "status", 0)
	}
	rows := term.rows()
	if len(rows) != 3 || rows[2] != "status (3 lines more)" || !strings.Contains(rows[0], "basemodel/tiny") {
		t.Errorf("the screen shows\n%s", strings.Join(rows, "\n"))
	}
}

// TestALongStepIsSeenToGoOn: while it lasts it says what it is, and then leaves
// room for what comes next.
func TestALongStepIsSeenToGoOn(t *testing.T) {
	term := newTerminal(t, 80, 24)
	seen := ""
	err := term.during(t.Context(), "Installing", "5 s", func() string { return "7 of 9" }, func(context.Context) error {
		for !strings.Contains(seen, "Installing") {
			time.Sleep(time.Millisecond)
			seen = term.text()
		}
		return nil
	})
	if err != nil || !strings.Contains(seen, "Installing: 0 s (usually 5 s), 7 of 9") {
		t.Errorf("saw %q (%v)", seen, err)
	}
	term.printf("next\n")
	if diff := cmp.Diff([]string{"next"}, term.rows()); diff != "" {
		t.Errorf("the screen afterwards (-want +got):\n%s", diff)
	}
}

// TestWithoutATerminalNothingIsSilent: lines are printed when they change, and
// the status when nothing did for a while.
func TestWithoutATerminalNothingIsSilent(t *testing.T) {
	var out bytes.Buffer
	s := &screen{out: &out}
	s.draw([]string{"a 1", "b 1"}, "waiting", 0)
	s.draw([]string{"a 1", "b 2"}, "waiting", time.Second)
	s.draw([]string{"a 1", "b 2"}, "waiting", 2*time.Second)
	s.spoke = s.spoke.Add(-silence)
	s.draw([]string{"a 1", "b 2"}, "waiting", 12*time.Second)
	want := "     0s a 1\n     0s b 1\n     1s b 2\n    12s waiting\n"
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("output (-want +got):\n%s", diff)
	}
	if silence >= 20*time.Second {
		t.Errorf("nothing is printed for %s, at most 20 s may be silent", silence)
	}
}

// TestTheTableFits80Columns with the demo's skills.
func TestTheTableFits80Columns(t *testing.T) {
	var skills skillSet
	for _, d := range demoSkills {
		skills = append(skills, skill{name: d.name})
	}
	table := tableHead(skills) + tableRow("reasoning expert", skills, make([]marks, len(skills)))
	for line := range strings.Lines(table) {
		if w := ansi.StringWidth(strings.TrimRight(line, "\n")); w > 80 {
			t.Errorf("%d columns: %q", w, line)
		}
	}
	t.Log("\n" + table)
}

// TestALineSaysWhatIsWrong: a stalled object shows why.
func TestALineSaysWhatIsWrong(t *testing.T) {
	got := newLine("expert/math", []metav1.Condition{
		{Type: v1alpha1.ConditionReady, Status: metav1.ConditionFalse, Reason: "Training"},
		{Type: v1alpha1.ConditionStalled, Status: metav1.ConditionTrue, Reason: "BadDataset", Message: "line 3"},
	}, "")
	if !got.stalled || got.reason != "BadDataset" || got.message != "line 3" {
		t.Errorf("got %+v", got)
	}
}
