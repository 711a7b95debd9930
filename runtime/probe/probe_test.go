package probe

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/transformersquared/operator/runtime/contract"
)

// clouds draws states around a centre for each label, n of each, so far apart.
func clouds(seed uint64, labels, width, n int, apart float64) []Example {
	r := rand.New(rand.NewPCG(1, 2)) // The centres are the same for all seeds.
	centres := make([][]float64, labels)
	for k := range centres {
		for range width {
			centres[k] = append(centres[k], apart*r.NormFloat64())
		}
	}
	r = rand.New(rand.NewPCG(seed, 3))
	var out []Example
	for k := range labels {
		for range n {
			x := Example{Label: k}
			for j := range width {
				x.State = append(x.State, float32(5+centres[k][j]+r.NormFloat64()))
			}
			out = append(out, x)
		}
	}
	return out
}

var skills = []string{"math", "code", "reasoning"}

func fit(t *testing.T, examples []Example) *Probe {
	t.Helper()
	p, err := Fit(t.Context(), skills, examples)
	if err != nil {
		t.Fatal(err)
	}
	p.Manifest.BaseDigest = contract.DigestPrefix + strings.Repeat("a", 64)
	return p
}

// TestProbesLearnAndKnowHowSureTheyAre fits clouds that overlap more and less, with more
// numbers than examples and fewer.
func TestProbesLearnAndKnowHowSureTheyAre(t *testing.T) {
	for name, c := range map[string]struct {
		width, n  int
		apart     float64
		accuracy  float64
		calibrate float64
	}{
		"far apart":                     {16, 60, 1, 0.99, 0.06},
		"more numbers than examples":    {256, 25, 0.3, 0.97, 0.08},
		"overlapping":                   {12, 200, 0.35, 0.65, 0.07},
		"nothing to tell them apart by": {12, 200, 0, 0.25, 0.1},
	} {
		t.Run(name, func(t *testing.T) {
			p := fit(t, clouds(1, 3, c.width, c.n, c.apart))
			e, err := p.Evaluate(clouds(2, 3, c.width, 300, c.apart))
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%+v, least %.3f", e, p.Manifest.Least)
			if e.Accuracy < c.accuracy || e.CalibrationError > c.calibrate || e.Prompts != 900 {
				t.Errorf("want an accuracy of %v and a calibration error of at most %v", c.accuracy, c.calibrate)
			}
			if e.Unsure > 0.15 {
				t.Errorf("of the labels' own prompts %.2f are not sure enough, about 0.05 should be", e.Unsure)
			}
		})
	}
}

// TestStrangersAreUnsure asks about states that are of no label: in the middle of all.
func TestStrangersAreUnsure(t *testing.T) {
	p := fit(t, clouds(1, 3, 32, 100, 1))
	middle := make([]float32, 32)
	for _, e := range clouds(1, 3, 32, 100, 1) {
		for j, v := range e.State {
			middle[j] += v / 300
		}
	}
	q, err := p.Probabilities(middle)
	if err != nil || slices.Max(q) >= p.Manifest.Least {
		t.Errorf("probabilities %v of what is in the middle of all, want none as likely as %v (%v)", q, p.Manifest.Least, err)
	}
}

func TestTheSameExamplesGiveTheSameProbe(t *testing.T) {
	root := t.TempDir()
	var digests []string
	for range 2 {
		m, err := Write(root, fit(t, clouds(1, 3, 8, 20, 1)))
		if err != nil {
			t.Fatal(err)
		}
		digests = append(digests, m.Digest)
	}
	if digests[0] != digests[1] {
		t.Errorf("digests %v", digests)
	}
	other, err := Write(root, fit(t, clouds(9, 3, 8, 20, 1)))
	if err != nil || other.Digest == digests[0] {
		t.Errorf("other examples give %s, %v", other.Digest, err)
	}
}

func TestProbesAreReadAsTheyWereWritten(t *testing.T) {
	root := t.TempDir()
	p := fit(t, clouds(1, 3, 8, 20, 1))
	m, err := Write(root, p)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := contract.ArtifactDir(root, contract.DirProbes, m.Digest)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Read(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	state := clouds(3, 3, 8, 1, 1)[0].State
	a, _ := p.Probabilities(state)
	if b, err := got.Probabilities(state); err != nil || !slices.Equal(a, b) {
		t.Errorf("%v, and %v before (%v)", b, a, err)
	}
	if _, err := got.Probabilities(state[1:]); err == nil || !strings.Contains(err.Error(), "another base") {
		t.Errorf("a state of another width: %v", err)
	}
	raw, err := os.ReadFile(filepath.Join(dir, File))
	if err != nil {
		t.Fatal(err)
	}
	raw[len(raw)-1] ^= 1
	if err := os.Chmod(filepath.Join(dir, File), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, File), raw, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(t.Context(), dir); err == nil {
		t.Error("a damaged file: no error")
	}
	if _, err := Read(t.Context(), t.TempDir()); err == nil || !strings.Contains(err.Error(), "it is no probe") {
		t.Errorf("an empty folder: %v", err)
	}
}

func TestWhatCannotBeFittedIsRefused(t *testing.T) {
	good := clouds(1, 3, 4, 5, 1)
	bad := func(change func(x []Example) []Example) []Example { return change(slices.Clone(good)) }
	nan := slices.Clone(good[0].State)
	nan[2] = float32(math.NaN())
	for want, c := range map[string]struct {
		labels   []string
		examples []Example
	}{
		"two labels at least":       {skills[:1], nil},
		"has 0 examples":            {skills, good[:10]},
		"label 3 of 3":              {skills, bad(func(x []Example) []Example { x[1].Label = 3; return x })},
		"a state of 3 numbers":      {skills, bad(func(x []Example) []Example { x[1].State = x[1].State[:3]; return x })},
		"numbers that are none":     {skills, bad(func(x []Example) []Example { x[0].State = nan; return x })},
		"at most 1024 are possible": {skills, clouds(1, 3, 2, 400, 1)},
	} {
		if _, err := Fit(t.Context(), c.labels, c.examples); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Fit(ctx, skills, good); !errors.Is(err, context.Canceled) {
		t.Errorf("given up: %v", err)
	}
	// States that never differ tell nothing, and are no error.
	same := make([]Example, 9)
	for i := range same {
		same[i] = Example{State: []float32{1, 2}, Label: i % 3}
	}
	p, err := Fit(t.Context(), skills, same)
	if err != nil {
		t.Fatal(err)
	}
	if q, err := p.Probabilities([]float32{1, 2}); err != nil || math.Abs(q[0]-1./3) > 1e-6 {
		t.Errorf("probabilities %v, %v", q, err)
	}
}

// TestPromptsAreBounded: each label has the same share, and what a fit needs in any case.
func TestPromptsAreBounded(t *testing.T) {
	var all []prompt
	for range 10 {
		for label := range 3 {
			all = append(all, prompt{label: label})
		}
	}
	for most, want := range map[int]int{1024: 30, 30: 30, 16: 15, 3: 6} {
		if got := len(limited(all, 3, most)); got != want {
			t.Errorf("of %d prompts at most, %d are kept, want %d", most, got, want)
		}
	}
}

func TestSpecificationsThatMakeNoSense(t *testing.T) {
	valid := contract.ProbeSpec{
		DataDir: "/data", BaseDigest: contract.DigestPrefix + strings.Repeat("a", 64), Sets: make([]contract.SkillSet, 2),
	}
	for want, change := range map[string]func(*contract.ProbeSpec){
		"dataDir is missing":     func(s *contract.ProbeSpec) { s.DataDir = "" },
		"no digest":              func(s *contract.ProbeSpec) { s.BaseDigest = "x" },
		"sets has 1 skills":      func(s *contract.ProbeSpec) { s.Sets = s.Sets[:1] },
		"at most 65":             func(s *contract.ProbeSpec) { s.Sets = make([]contract.SkillSet, 66) },
		"maxPrompts is 15, must": func(s *contract.ProbeSpec) { s.MaxPrompts = 15 },
		"maxPrompts is 1025":     func(s *contract.ProbeSpec) { s.MaxPrompts = 1025 },
		"dtype":                  func(s *contract.ProbeSpec) { s.DType = "F8" },
	} {
		spec := valid
		change(&spec)
		if err := Validate(spec); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	if err := Validate(valid); err != nil {
		t.Error(err)
	}
}
