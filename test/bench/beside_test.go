package main

import (
	"os/exec"
	"strings"
	"testing"
	"time"
)

func TestSearchesAreComparedAtTheSameScore(t *testing.T) {
	began := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	log := `{"time":"2026-01-01T00:00:01Z","level":"INFO","msg":"Training started"}
not JSON
{"time":"2026-01-01T00:00:02Z","msg":"Iteration was finished","iteration":2,"best":0.5}
{"time":"2026-01-01T00:00:04Z","msg":"Iteration was finished","iteration":4,"best":0.75}
`
	slow, err := scores([]byte(log), began)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := scores([]byte("not JSON\n"), began); err == nil {
		t.Error("a log without scores: no error")
	}
	b := &beside{
		Skill: "math", Search: "defaults", Seed: 1,
		Reinforce: cost{Score: 0.75, Seconds: 10, Processor: 8, PeakBytes: 400, Reached: slow},
		Evolution: cost{Score: 1, Seconds: 5, Processor: 4, PeakBytes: 100, Reached: []reached{{1, 0.5}, {2, 0.8}, {5, 1}}},
	}
	if got := b.toSameScore(); got != 0.5 { // 0.75 after 2 seconds and after 4.
		t.Errorf("to the same score: %v", got)
	}
	other := *b
	other.Seed, other.Evolution.PeakBytes, other.Evolution.Reached = 2, 300, nil // Only at its end.
	if got := other.toSameScore(); got != 1.25 {
		t.Errorf("to the same score at the end: %v", got)
	}
	table := besideTable([]*beside{b, &other})
	if !strings.Contains(table, "| math | defaults | median | 0.750 / 1.000 | | | | 0.50 | 0.88 | 0.50 | 0.50 |") {
		t.Errorf("table:\n%s", table)
	}
}

// TestMemoryOfProcessesIsSeen watches two that sleep.
func TestMemoryOfProcessesIsSeen(t *testing.T) {
	var all []*exec.Cmd
	ended := make(chan error, 1)
	for range 2 {
		cmd := exec.CommandContext(t.Context(), "sleep", "1")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		all = append(all, cmd)
	}
	go func() {
		var err error
		for _, cmd := range all {
			if failed := cmd.Wait(); failed != nil {
				err = failed
			}
		}
		ended <- err
	}()
	most, err := watch(all, ended)
	if err != nil {
		t.Fatal(err)
	}
	if most.Peak <= 0 || most.Bound < most.Peak {
		t.Errorf("%v bytes at once, %v at most", most.Peak, most.Bound)
	}
	runs := []*together{
		{Shape: "x", DType: "f32", Trainings: 1, Memory: []footprint{{100 << 20, 110 << 20}}},
		{Shape: "x", DType: "f32", Trainings: 2, Shared: true, Memory: []footprint{{120 << 20, 130 << 20}, {140 << 20, 140 << 20}, {90 << 20, 120 << 20}}},
	}
	if table := togetherTable(runs); !strings.Contains(table, "| x | f32 | 2 | shared | 120 MiB | 130 MiB | 120 to 140 MiB | 1.30 | ≤ 1.4 |") {
		t.Errorf("table:\n%s", table)
	}
}
