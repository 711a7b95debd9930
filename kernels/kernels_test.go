package kernels

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"
)

// entry is what PTX says of an entry point.
type entry struct {
	params  []string // Their types: "u64".
	threads int
}

var (
	entryPattern   = regexp.MustCompile(`(?s)\.visible \.entry (\w+)\((.*?)\)\n(.*?)\{`)
	paramPattern   = regexp.MustCompile(`\.param \.(\w+) \w+_param_\d+(\[\d+\])?`)
	threadsPattern = regexp.MustCompile(`\.maxntid (\d+), 1, 1`)
)

func entries(t *testing.T, ptx string) map[string]entry {
	t.Helper()
	found := map[string]entry{}
	for _, m := range entryPattern.FindAllStringSubmatch(ptx, -1) {
		var e entry
		for _, p := range paramPattern.FindAllStringSubmatch(m[2], -1) {
			e.params = append(e.params, p[1]+p[2])
		}
		if limit := threadsPattern.FindStringSubmatch(m[3]); limit != nil {
			var err error
			if e.threads, err = strconv.Atoi(limit[1]); err != nil {
				t.Fatal(err)
			}
		}
		found[m[1]] = e
	}
	return found
}

// TestPTXHasTheEntryPointsOfTheTable compares names, parameters and launch limits,
// both ways.
func TestPTXHasTheEntryPointsOfTheTable(t *testing.T) {
	here := os.DirFS(".")
	for _, unit := range Units() {
		targets, err := SourceTargets(here, unit)
		if err != nil {
			t.Fatal(err)
		}
		for _, target := range targets {
			t.Run(FileName(unit, target), func(t *testing.T) {
				text, err := fs.ReadFile(files, path.Join(Folder, FileName(unit, target)))
				if err != nil {
					t.Fatal(err)
				}
				got := entries(t, string(text))
				for _, k := range table {
					if k.Unit != unit || !k.In(target) {
						continue
					}
					for _, name := range k.Entries() {
						e, ok := got[name]
						if !ok {
							t.Errorf("no entry point %s", name)
							continue
						}
						delete(got, name)
						if len(e.params) != len(k.Params) {
							t.Errorf("%s takes %d parameters, the table says %v", name, len(e.params), k.Params)
						}
						for i, typ := range e.params {
							if !strings.HasSuffix(typ, "64") {
								t.Errorf("%s: parameter %d is %s; launches copy 8 bytes each", name, i, typ)
							}
						}
						if e.threads != k.Threads {
							t.Errorf("%s is compiled for %d threads, the table says %d", name, e.threads, k.Threads)
						}
					}
				}
				for _, name := range slices.Sorted(maps.Keys(got)) {
					t.Errorf("entry point %s is not in the table", name)
				}
			})
		}
	}
}

// TestPTXIsOfTheseSources is what `make verify` does without the toolkit, too.
func TestPTXIsOfTheseSources(t *testing.T) {
	here := os.DirFS(".")
	units, err := fs.Glob(here, "*.cu")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, file := range units {
		unit := strings.TrimSuffix(file, ".cu")
		if !slices.Contains(Units(), unit) {
			t.Errorf("the table has no kernel of %s", file)
		}
		targets, err := SourceTargets(here, unit)
		if err != nil {
			t.Fatal(err)
		}
		for _, target := range targets {
			name := FileName(unit, target)
			seen[name] = true
			text, err := fs.ReadFile(files, path.Join(Folder, name))
			if err != nil {
				t.Fatal(err)
			}
			h, err := ParseHeader(string(text))
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			want, err := Digest(here, unit, target)
			if err != nil {
				t.Fatal(err)
			}
			if h.Sources != want {
				t.Errorf("%s is of sources %s, those here are %s: run make kernels", name, h.Sources, want)
			}
			if strings.Contains(string(text), "/") && regexp.MustCompile(`(?m)^\s*\.file`).Match(text) {
				t.Errorf("%s names files of the machine that made it", name)
			}
		}
	}
	ptx, err := fs.ReadDir(files, Folder)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range ptx {
		if !seen[f.Name()] {
			t.Errorf("%s has no source", f.Name())
		}
	}
}

func TestLoadChoosesTheTargetByCapability(t *testing.T) {
	ptx := func(text string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(WithHeader("sha256:0", text))} }
	fsys := fstest.MapFS{
		"ptx/both.sm80.ptx":  ptx("old"),
		"ptx/both.sm90a.ptx": ptx("hopper"),
		"ptx/one.sm80.ptx":   ptx("one"),
		"ptx/bad.sm80.ptx":   {Data: []byte(WithHeader("sha256:0", "good") + "evil")},
		"ptx/cut.sm80.ptx":   {Data: []byte("// Made by")},
	}
	for _, c := range []struct {
		unit       string
		capability Capability
		want       Target
		wantError  string
		is         error
	}{
		{unit: "both", capability: Capability{8, 0}, want: SM80},
		{unit: "both", capability: Capability{8, 9}, want: SM80},
		{unit: "both", capability: Capability{9, 0}, want: SM90a},
		{unit: "both", capability: Capability{10, 0}, want: SM80},
		{unit: "one", capability: Capability{9, 0}, want: SM80},
		{unit: "one", capability: Capability{7, 5}, wantError: "its compute capability is 7.5, and the kernels need 8.0", is: ErrUnsupportedDevice},
		{unit: "none", capability: Capability{9, 0}, wantError: "no PTX of this name for any of [sm90a sm80]", is: fs.ErrNotExist},
		{unit: "bad", capability: Capability{8, 0}, wantError: "bad.sm80.ptx: the text was changed after make kernels wrote it"},
		{unit: "cut", capability: Capability{8, 0}, wantError: "cut.sm80.ptx: the header that make kernels writes is damaged"},
	} {
		t.Run(c.unit+" on "+c.capability.String(), func(t *testing.T) {
			got, err := load(fsys, c.unit, c.capability)
			if c.wantError != "" {
				if err == nil || !strings.Contains(err.Error(), c.wantError) || (c.is != nil && !errors.Is(err, c.is)) {
					t.Fatalf("error %v, want one with %q", err, c.wantError)
				}
				return
			}
			if err != nil || got.Target != c.want {
				t.Fatalf("target %q, error %v; want %q", got.Target, err, c.want)
			}
		})
	}
}

func TestSourcesFollowIncludes(t *testing.T) {
	fsys := fstest.MapFS{
		"a.cu":  {Data: []byte("// Targets: sm80, sm90a.\n#include \"b.cuh\"\n  #  include \"c.cuh\"\n#include <mma.h>\n")},
		"b.cuh": {Data: []byte("#include \"c.cuh\"\n")},
		"c.cuh": {Data: []byte("x\n")},
		"d.cu":  {Data: []byte("// Targets: sm70.\n")},
		"e.cu":  {Data: []byte("#include \"f.cuh\"\n")},
	}
	got, err := Sources(fsys, "a")
	if want := []string{"a.cu", "b.cuh", "c.cuh"}; err != nil || !slices.Equal(got, want) {
		t.Fatalf("sources %v, error %v; want %v", got, err, want)
	}
	if targets, err := SourceTargets(fsys, "a"); err != nil || !slices.Equal(targets, []Target{SM80, SM90a}) {
		t.Errorf("targets %v, error %v", targets, err)
	}
	if _, err := SourceTargets(fsys, "d"); err == nil || !strings.Contains(err.Error(), `the target "sm70" is none of`) {
		t.Errorf("error %v of an unknown target", err)
	}
	if _, err := SourceTargets(fsys, "e"); err == nil || !strings.Contains(err.Error(), `no line "// Targets: sm80."`) {
		t.Errorf("error %v of a source without targets", err)
	}
	if _, err := Digest(fsys, "e", SM80); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error %v of a missing include", err)
	}
	before, err := Digest(fsys, "a", SM80)
	if err != nil {
		t.Fatal(err)
	}
	if other, _ := Digest(fsys, "a", SM90a); other == before {
		t.Error("the flags are not in the digest")
	}
	fsys["c.cuh"].Data = []byte("y\n")
	if after, _ := Digest(fsys, "a", SM80); after == before {
		t.Error("an included file is not in the digest")
	}
}

func TestLoadOfEveryUnit(t *testing.T) {
	for _, c := range []Capability{{8, 0}, {9, 0}, {12, 0}} {
		if slices.Contains(c.Units(), "hopper") != (c == Capability{9, 0}) {
			t.Errorf("units of %s: %v", c, c.Units())
		}
		for _, unit := range c.Units() {
			if m, err := Load(unit, c); err != nil || !strings.Contains(m.Text, ".version") {
				t.Errorf("%s for %s: %v", unit, c, err)
			}
		}
	}
}

func TestFind(t *testing.T) {
	for entry, want := range map[string]Kernel{
		"rmsnorm_bf16":             {Unit: "norm", Name: "rmsnorm"},
		"product_bf16_f32_skinny":  {Unit: "product", Name: "product_bf16", Variant: "skinny"},
		"product_bf16_bf16_skinny": {Unit: "product", Name: "product_bf16", Variant: "skinny"},
	} {
		k, err := Find(entry)
		if err != nil || k.Unit != want.Unit || k.Name != want.Name || k.Variant != want.Variant {
			t.Errorf("%s is of %+v, error %v", entry, k, err)
		}
	}
	if _, err := Find("rmsnorm"); err == nil {
		t.Error("no error for an entry point that is not there")
	}
	names := map[string]bool{}
	for _, k := range All() {
		for _, e := range k.Entries() {
			if names[e] {
				t.Errorf("two kernels have the entry point %s", e)
			}
			names[e] = true
		}
	}
}
