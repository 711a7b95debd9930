package main

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/transformersquared/operator/runtime/contract"
)

func TestATableInMarkdown(t *testing.T) {
	a := table{title: "Title", before: "Before. ", head: []string{"name", "score"}, after: "\nAfter.", pictures: []picture{{"p.svg", chart{title: "Picture"}}}}
	a.row("a | b", "1.0 ± 0.1")
	a.row("two\nlines") // And a cell too few.
	var b bytes.Buffer
	if err := a.write(&b); err != nil {
		t.Fatal(err)
	}
	want := "## Title\n\nBefore.\n\n| name | score |\n|---|---|\n| a \\| b | 1.0 ± 0.1 |\n| two lines |  |\n\n![Picture](p.svg)\n\nAfter.\n\n"
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Errorf("the table differs (-want +got):\n%s", diff)
	}
}

func TestAChartIsWellFormed(t *testing.T) {
	known := func(v float64) estimate { return estimate{mean: v, err: 0.05, known: true} }
	for _, bars := range []bool{false, true} {
		c := chart{title: "a < b & c", ticks: []string{"1", "2", "3"}, bars: bars, series: []series{
			{name: "one", values: []estimate{known(0), {}, known(1)}}, {name: "<two>", values: []estimate{known(0.2), known(0.4), known(0.6)}, dashed: true},
		}}
		var b bytes.Buffer
		if err := c.write(&b); err != nil {
			t.Fatal(err)
		}
		marks := 0
		for d := xml.NewDecoder(&b); ; {
			token, err := d.Token()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("bars %v: %v", bars, err)
			}
			if e, ok := token.(xml.StartElement); ok && (e.Name.Local == "circle" || e.Name.Local == "rect") {
				marks++
			}
		}
		// Five known values, two names in the legend and the ground.
		if want := 5 + 2 + 1; marks != want {
			t.Errorf("bars %v: %d marks, want %d", bars, marks, want)
		}
	}
}

func TestEstimates(t *testing.T) {
	for _, test := range []struct {
		name   string
		scores []score
		seeds  int
		want   string
	}{
		{"one seed has the binomial error", []score{{64, 256}}, 1, "25.0 ± 2.7"},
		{"several have theirs", []score{{10, 100}, {20, 100}, {30, 100}}, 3, "20.0 ± 5.8"},
		{"a missing seed leaves it open", []score{{10, 100}}, 3, "–"},
		{"nothing is nothing", nil, 1, "–"},
	} {
		if got := estimated(test.scores, test.seeds).String(); got != test.want {
			t.Errorf("%s: %s, want %s", test.name, got, test.want)
		}
	}
	mean := average(estimate{mean: 0.2, err: 0.03, known: true}, estimate{mean: 0.4, err: 0.04, known: true})
	if math.Abs(mean.mean-0.3) > 1e-12 || math.Abs(mean.err-0.025) > 1e-12 || !mean.known {
		t.Errorf("the average is %+v", mean)
	}
	if average(mean, estimate{}).known {
		t.Error("an average of something unknown is known")
	}
}

func TestWhereSVFLosesIsSaid(t *testing.T) {
	of := func(v float64) estimate { return estimate{mean: v, err: 0.02, known: true} }
	svf := named{contract.MethodSVF, []estimate{of(0.5), of(0.5), of(0.5)}}
	if got := compared("Here", []named{svf, {"LoRA", []estimate{of(0.5), of(0.52), of(0.3)}}}); !strings.Contains(got, "loses nowhere") {
		t.Errorf("within the error: %s", got)
	}
	got := compared("Here", []named{svf, {"LoRA", []estimate{of(0.6), {}, of(0.3)}}})
	if want := "Here, SVF loses to LoRA on math by 10.0 points (± 2.8): 1 of 2 comparisons."; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := compared("Here", []named{svf, {"LoRA", make([]estimate, 3)}}); got != "" {
		t.Errorf("of nothing measured it says %q", got)
	}
}

func TestWrongUsageIsNamed(t *testing.T) {
	for args, want := range map[string]string{
		"--only trained,nothing": "nothing", "--again never": "--again", "--seeds 0": "--seeds", "--budget -1": "--budget", "extra": "extra", "--workers 0": "--workers",
	} {
		if _, err := parse(strings.Fields(args), io.Discard); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s gives %v", args, err)
		}
	}
	o, err := parse([]string{"--only", "trained,passes", "--again", "passes", "--budget", "0.5"}, io.Discard)
	if err != nil || len(o.tables()) != 2 || o.budget.Seconds() != 30 {
		t.Errorf("parsed %+v, %v", o, err)
	}
}

func TestDifferencesAreThoseOfEachSeed(t *testing.T) {
	a, b := []score{{12, 100}, {24, 100}, {36, 100}}, []score{{10, 100}, {20, 100}, {30, 100}}
	if got, want := signed([]estimate{difference(a, b, 3)})[0], "+4.0 ± 1.2"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got, want := signed([]estimate{difference(b, a, 3)})[0], "-4.0 ± 1.2"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if difference(a[:2], b, 3).known || difference(a[:1], b[:1], 1).known {
		t.Error("a difference of too few seeds is known")
	}
}

func TestWhereAnswerLosesIsSaid(t *testing.T) {
	of := func(v float64) estimate { return estimate{mean: v, err: 0.01, known: true} }
	got := verdict("Here", []estimate{of(-0.03), of(-0.01), of(0.2)})
	if want := "Here, Answer is no worse than one standard error on 2 of 3 skills; it loses on math by 3.0 points (± 1.0)."; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := verdict("Here", make([]estimate, 3)); got != "" {
		t.Errorf("of nothing measured it says %q", got)
	}
}

func TestASectionIsDrawnWithTheSeedsThatItHas(t *testing.T) {
	s := newTestStore(t)
	m := &measurement{lab: &lab{store: s}, seeds: []uint64{1, 2, 3}}
	of := func(seed uint64) cell[int] {
		return cell[int]{Name: "seed", Spec: seed, Fill: func(context.Context) (int, error) { return 1, nil }}
	}
	drawn := section{draw: func(m *measurement, p *plan) []table {
		for _, seed := range m.seeds {
			ask(p, of(seed))
		}
		return []table{{}}
	}}
	for _, test := range []struct {
		measured      []uint64
		want, missing int
	}{{nil, 1, 1}, {[]uint64{1}, 1, 0}, {[]uint64{2}, 2, 0}, {[]uint64{3}, 3, 0}} {
		for _, seed := range test.measured {
			if _, err := measure(t.Context(), s, of(seed)); err != nil {
				t.Fatal(err)
			}
		}
		tables, p := m.most(drawn)
		if got := tables[0].before; got != " "+errorsOf(test.want) || len(p.order) != test.missing {
			t.Errorf("measured seed %v, too: %q, %d missing; want %d seeds, %d missing", test.measured, got, len(p.order), test.want, test.missing)
		}
	}
}

func TestTheREADMEShowsWhatWasMeasured(t *testing.T) {
	readme, err := os.ReadFile(filepath.Join("..", "..", "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	results, err := os.ReadFile("RESULTS.md")
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(readme), "\n## Measured like the paper\n")
	section, _, _ := strings.Cut(after, "\n## ")
	rows := 0
	for line := range strings.Lines(section) {
		if !strings.HasPrefix(line, "| ") {
			continue
		}
		if rows++; !strings.Contains(string(results), line) {
			t.Errorf("RESULTS.md has no such row: %s", line)
		}
	}
	if rows < 10 {
		t.Errorf("the README shows %d rows of what was measured", rows)
	}
}
