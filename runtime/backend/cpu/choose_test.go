package cpu

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/transformersquared/operator/runtime/backend"
)

// alike are the times of a path that is so many times as fast as one that takes a
// millisecond with many rows and a microsecond with one.
func alike(name string, f32, bf16, q8 float64) pathTimes {
	p := pathTimes{Path: name}
	for t, speed := range []float64{f32, bf16, q8} {
		p.Turns[t] = turns{Many: 1e-3 / speed, One: 1e-6 / speed}
	}
	return p
}

func TestThePathIsTheFirstUnlessAnotherIsClearlyFaster(t *testing.T) {
	manyOnly := alike("many rows", 1, 1, 1)
	manyOnly.Turns[backend.BF16].Many /= 1.9
	for name, c := range map[string]struct {
		paths []pathTimes
		want  string
	}{
		"one path":                                  {[]pathTimes{alike("a", 1, 1, 1)}, "a"},
		"bf16 dots at half the speed":               {[]pathTimes{alike("avx512bf16", 1, 0.53, 1), alike("avx512", 1, 1, 1), alike("avx2", 0.6, 0.6, 0.5)}, "avx512"},
		"bf16 dots at twice the speed":              {[]pathTimes{alike("avx512bf16", 1, 2, 1), alike("avx512", 1, 1, 1), alike("avx2", 0.6, 0.6, 0.5)}, "avx512bf16"},
		"tiles beside the same":                     {[]pathTimes{alike("amx", 1, 9, 4), alike("avx512bf16", 1, 0.5, 1), alike("avx512", 1, 1, 1)}, "amx"},
		"512 bits that slow all down":               {[]pathTimes{alike("avx512", 1, 1, 1), alike("avx2", 1.3, 1.2, 1)}, "avx2"},
		"faster by less than the margin":            {[]pathTimes{alike("a", 1, 1, 1), alike("b", 1.09, 1.09, 1.09)}, "a"},
		"faster by the margin":                      {[]pathTimes{alike("a", 1, 1, 1), alike("b", 1, 1.11, 1)}, "b"},
		"faster with one type, slower with another": {[]pathTimes{alike("a", 1, 1, 1), alike("b", 1, 3, 0.8)}, "a"},
		"slower by noise with another":              {[]pathTimes{alike("a", 1, 1, 1), alike("b", 1, 1.5, 0.95)}, "b"},
		"faster with many rows alone":               {[]pathTimes{alike("a", 1, 1, 1), manyOnly}, "many rows"},
		"several faster ones":                       {[]pathTimes{alike("a", 1, 1, 1), alike("b", 1, 1.5, 1), alike("c", 1, 1.6, 1)}, "b"},
		"several faster ones, the last by far":      {[]pathTimes{alike("a", 1, 1, 1), alike("b", 1, 1.5, 1), alike("c", 1, 3, 1)}, "c"},
	} {
		if got := c.paths[fastest(c.paths)].Path; got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}

// named are paths that differ in name alone.
func named(names ...string) (out []*kernels) {
	for _, name := range names {
		k := plainKernels()
		k.name = name
		out = append(out, k)
	}
	return out
}

// counted measures nothing, and counts how often it was asked.
type counted struct {
	times []pathTimes
	err   error
	asked int
}

func (c *counted) measure([]*kernels) ([]pathTimes, error) {
	c.asked++
	return c.times, c.err
}

func TestWhatWasMeasuredIsKept(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "cache", "t2")
	m := &counted{times: []pathTimes{alike("a", 1, 1, 1), alike("b", 2, 2, 2)}}
	c := chooser{paths: named("a", "b"), processor: "Made-up 1", folder: dir, measure: m.measure}
	if got := c.choose(); got.name != "b" || !strings.HasPrefix(got.how, "measured: "+dir) || m.asked != 1 {
		t.Fatalf("first %s (%s), measured %d times", got.name, got.how, m.asked)
	}
	// Another measurement would choose another path.
	m.times = []pathTimes{alike("a", 1, 1, 1), alike("b", 1, 1, 1)}
	if got := c.choose(); got.name != "b" || !strings.HasPrefix(got.how, "measured before: "+dir) || m.asked != 1 || len(got.measured) != 2 {
		t.Errorf("again %s (%s), measured %d times", got.name, got.how, m.asked)
	}
	other := c
	other.processor = "Made-up 2"
	if got := other.choose(); got.name != "a" || m.asked != 2 {
		t.Errorf("on another processor %s (%s), measured %d times", got.name, got.how, m.asked)
	}
	m.times = append(m.times, alike("c", 1, 1, 1))
	other = c
	other.paths = named("a", "b", "c")
	if got := other.choose(); got.name != "a" || m.asked != 3 {
		t.Errorf("with another path %s (%s), measured %d times", got.name, got.how, m.asked)
	}
	if got := c.choose(); got.name != "b" || m.asked != 3 {
		t.Errorf("at last %s (%s), measured %d times", got.name, got.how, m.asked)
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 3 {
		t.Errorf("%v: %v", left, err)
	}
}

func TestOfTwoMeasurementsAtOnceTheFirstIsKept(t *testing.T) {
	k := kept{folder: t.TempDir(), key: newKeptKey("Made-up 1", named("a", "b"))}
	first, second := []pathTimes{alike("a", 1, 1, 1), alike("b", 2, 2, 2)}, []pathTimes{alike("a", 1, 1, 1), alike("b", 1, 1, 1)}
	for _, times := range [][]pathTimes{first, second} {
		got, err := k.write(times, false)
		if err != nil || !slices.Equal(got, first) {
			t.Errorf("%v, %v", got, err)
		}
	}
	if got, err := k.write(second, true); err != nil || !slices.Equal(got, second) {
		t.Errorf("in place of a damaged file: %v, %v", got, err)
	}
}

func TestADamagedFileIsMeasuredAnew(t *testing.T) {
	right := []pathTimes{alike("a", 1, 1, 1), alike("b", 2, 2, 2)}
	for name, damage := range map[string]func(string) string{
		"empty":           func(string) string { return "" },
		"cut off":         func(s string) string { return s[:len(s)/2] },
		"no JSON":         func(string) string { return "b\n" },
		"nothing in it":   func(string) string { return "{}" },
		"another choice":  func(s string) string { return strings.Replace(s, `"chosen": "b"`, `"chosen": "a"`, 1) },
		"unknown choice":  func(s string) string { return strings.Replace(s, `"chosen": "b"`, `"chosen": "c"`, 1) },
		"other kernels":   func(s string) string { return strings.Replace(s, `"kernels": "`, `"kernels": "0.`, 1) },
		"other processor": func(s string) string { return strings.Replace(s, "Made-up 1", "Made-up 2", 1) },
		"other path":      func(s string) string { return strings.Replace(s, `"path": "a"`, `"path": "c"`, 1) },
		"no time":         func(s string) string { return strings.Replace(s, `"many": 0.001`, `"many": 0`, 1) },
		"other times":     func(s string) string { return strings.ReplaceAll(s, `"many": 0.001`, `"many": 0.00001`) },
		"much too long":   func(s string) string { return strings.Repeat(" ", maxKept) + s },
	} {
		m := &counted{times: right}
		c := chooser{paths: named("a", "b"), processor: "Made-up 1", folder: t.TempDir(), measure: m.measure}
		c.choose()
		file := kept{folder: c.folder, key: newKeptKey(c.processor, c.paths)}.path()
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		damaged := damage(string(b))
		if damaged == string(b) {
			t.Fatalf("%s: nothing was damaged in %s", name, b)
		}
		if err := os.WriteFile(file, []byte(damaged), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := c.choose(); got.name != "b" || m.asked != 2 {
			t.Errorf("%s: %s (%s), measured %d times", name, got.name, got.how, m.asked)
		}
		if got := c.choose(); got.name != "b" || m.asked != 2 {
			t.Errorf("%s, mended: %s (%s), measured %d times", name, got.name, got.how, m.asked)
		}
	}
}

func TestWithoutAPlaceToKeepItIsMeasuredEachTime(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	times := []pathTimes{alike("a", 1, 1, 1), alike("b", 2, 2, 2)}
	for name, c := range map[string]chooser{
		"no cache folder":           {processor: "Made-up 1"},
		"a file in place of it":     {processor: "Made-up 1", folder: filepath.Join(file, "t2")},
		"an unknown processor":      {folder: t.TempDir()},
		"a folder that is not ours": {processor: "Made-up 1", folder: "/proc/self/t2"},
	} {
		m := &counted{times: times}
		c.paths, c.measure = named("a", "b"), m.measure
		for range 2 {
			if got := c.choose(); got.name != "b" || got.how != "measured" {
				t.Errorf("%s: %s (%s)", name, got.name, got.how)
			}
		}
		if m.asked != 2 {
			t.Errorf("%s: measured %d times", name, m.asked)
		}
	}
	m := &counted{err: errNoTime}
	dir := t.TempDir()
	if got := (chooser{paths: named("a", "b"), processor: "Made-up 1", folder: dir, measure: m.measure}).choose(); got.name != "a" || !strings.Contains(got.how, errNoTime.Error()) {
		t.Errorf("on a busy machine: %s (%s)", got.name, got.how)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("a busy machine left %v, %v", left, err)
	}
	for n, want := range []string{"plain", "a"} {
		if got := (chooser{paths: named("a")[:n], measure: m.measure}).choose(); got.name != want || m.asked != 1 {
			t.Errorf("of %d paths: %s (%s)", n, got.name, got.how)
		}
	}
}

// TestTheMeasurementEndsInTime has a clock that goes on by so much whenever it is looked at.
func TestTheMeasurementEndsInTime(t *testing.T) {
	paths := []*kernels{plainKernels(), plainKernels()}
	paths[1].name, paths[1].nr = "wide", 2*plainColumns // Which no kernel of this width takes alike.
	paths[1].products[backend.BF16].tile = func(*tileArgs) {}
	paths[1].products[backend.F32].tile = func(*tileArgs) {}
	paths[1].products[backend.Int8].tile = func(*tileArgs) {}
	for _, c := range []struct {
		each time.Duration
		want error
	}{{time.Microsecond, nil}, {600 * time.Microsecond, nil}, {5 * time.Millisecond, errNoTime}, {time.Second, errNoTime}} {
		now, looks := time.Unix(0, 0), 0
		m := measurement{budget: measureBudget, now: func() time.Time {
			looks++
			now = now.Add(c.each)
			return now
		}}
		times, err := m.of(paths)
		if !errors.Is(err, c.want) {
			t.Errorf("%v a look: %v, want %v", c.each, err, c.want)
		}
		if over := now.Sub(time.Unix(0, 0)) - measureBudget; over > 4*c.each {
			t.Errorf("%v a look: %v past the end", c.each, over)
		}
		if most := 1 + 6*3*(measureRounds+1); looks > most {
			t.Errorf("%d looks, want %d at most", looks, most)
		}
		for _, p := range times {
			for kind, s := range p.Turns {
				if s.Many < c.each.Seconds() || s.One <= 0 {
					t.Errorf("%v a look, path %s, %s: %+v", c.each, p.Path, backend.DType(kind), s)
				}
			}
		}
	}
}

// TestThisProcessorIsMeasured measures the paths that it has, plain Go among them: with many
// rows a product takes longer than with one, and what two paths share is as fast on both.
func TestThisProcessorIsMeasured(t *testing.T) {
	paths := append(accelerated(), plainKernels())
	twin := plainKernels()
	twin.name = "twin"
	paths = append(paths, twin)
	times, err := measurement{budget: time.Minute, now: time.Now}.of(paths)
	if err != nil {
		t.Fatal(err)
	}
	for i, p := range times {
		t.Logf("%+v", p)
		for kind, s := range p.Turns {
			if p.Path != paths[i].name || s.One <= 0 || s.Many < s.One {
				t.Errorf("path %d is %s, %s: %+v", i, p.Path, backend.DType(kind), s)
			}
		}
	}
	if n := len(times); times[n-1].Turns != times[n-2].Turns {
		t.Errorf("a twin took %+v, not %+v", times[n-1].Turns, times[n-2].Turns)
	}
	// Also where the list has it first, which is what it says of an instruction that is slow.
	for range 2 {
		if won := times[fastest(times)].Path; len(paths) > 2 && (won == "plain" || won == "twin") {
			t.Errorf("plain Go won of %v", times)
		}
		slices.Reverse(times)
	}
}

func TestAPathIsTakenBeforeAnythingIsMade(t *testing.T) {
	t.Setenv(EnvPath, "")
	b, err := New(1)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	}()
	if err := b.TakePath("mmx"); !errors.Is(err, backend.ErrUnsupported) || !strings.Contains(err.Error(), "plain") {
		t.Errorf("a path that is not there: %v", err)
	}
	why := "to continue"
	if Paths()[0] == "plain" {
		why = "no other" // It is taken already.
	}
	if err := b.TakePath("plain"); err != nil || b.Path() != "plain" || !strings.Contains(b.Name(), "plain") || !strings.Contains(b.Describe()[0].Value, why) {
		t.Errorf("%v: %s, %v", err, b.Name(), b.Describe())
	}
	y, x := make([]float32, 5), make([]float32, 7)
	multiply(t, b, backend.BF16, y, x, random(35, 1), 1, 5, 7, false)
	buf, err := b.Alloc(backend.F32, 1)
	if err != nil {
		t.Fatal(err)
	}
	if other := Paths()[0]; other != "plain" {
		if err := b.TakePath(other); err == nil || b.Path() != "plain" {
			t.Errorf("with a buffer in use: %v, %s", err, b.Path())
		}
	}
	b.Free(buf)
	t.Setenv(EnvPath, "plain")
	forced, err := New(1)
	if err != nil {
		t.Fatal(err)
	}
	if err := forced.TakePath("plain"); err != nil {
		t.Error(err)
	}
	if other := Paths()[0]; other != "plain" {
		if err := forced.TakePath(other); err == nil || !strings.Contains(err.Error(), EnvPath) {
			t.Errorf("where another is forced: %v", err)
		}
	}
	if err := forced.Close(); err != nil {
		t.Error(err)
	}
	if err := forced.TakePath("plain"); err == nil {
		t.Error("a closed backend took a path")
	}
}

func TestTheFirstPathCanBeAskedForWithoutMeasuring(t *testing.T) {
	c, err := choosePath(PathByFlags)
	if err != nil || c.name != Paths()[0] || len(c.measured) != 0 {
		t.Errorf("%v: %+v", err, c.how)
	}
}

// TestTheChoiceIsTheSameInOneProcess: of a model that is read by one backend and by another.
func TestTheChoiceIsTheSameInOneProcess(t *testing.T) {
	a, b := automatic(), automatic()
	if a.kernels != b.kernels || !slices.Contains(Paths(), a.name) {
		t.Errorf("%s and %s", a.name, b.name)
	}
	if _, err := os.Stat(strings.TrimPrefix(a.how, "measured: ")); strings.HasPrefix(a.how, "measured: ") && errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s: nothing is kept there", a.how)
	}
}

func TestABackendSaysHowItsPathWasChosen(t *testing.T) {
	b := newWithKernels(1, named("b")[0])
	b.choice = choice{kernels: b.kernels, how: "measured", measured: []pathTimes{alike("a", 1, 1, 1), alike("b", 1, 2, 1)}}
	defer func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	}()
	var text strings.Builder
	for _, f := range b.Describe() {
		text.WriteString(f.Name + ": " + f.Value + "\n")
	}
	// A millisecond for 2·96·256·512 operations, and a microsecond for 2·256·512.
	for _, want := range []string{"Path: b (measured)\n", "a: ", "b: ", "f32 25 with 96 rows, 262 with one", "bf16 50 with 96 rows, 524 with one"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("no %q in:\n%s", want, &text)
		}
	}
}
