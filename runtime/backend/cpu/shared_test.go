package cpu

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/transformersquared/operator/runtime/backend"
)

const sharedOut, sharedIn = 70, 130 // Not whole panels, nor whole blocks.

// sharer is a backend that shares weights in a folder, and what it has logged.
type sharer struct {
	*Backend
	t   *testing.T
	log bytes.Buffer
}

func newSharer(t *testing.T, dir, path string) *sharer {
	t.Helper()
	s := &sharer{Backend: newTest(t, 2, path), t: t}
	s.ShareWeights(dir, slog.New(slog.NewTextHandler(&s.log, nil)))
	return s
}

func sharedOrigin() backend.Origin { return backend.Origin{Digest: "sha256:1", Name: "layers.0.w"} }

// weight shares a matrix, and says whether its data were asked for.
func (s *sharer) weight(of backend.Origin, kind backend.DType) (w backend.Weight, asked bool) {
	s.t.Helper()
	w, err := s.SharedWeight(of, kind, sharedOut, sharedIn, func() ([]float32, error) {
		asked = true
		return sharedValues(), nil
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return w, asked
}

func sharedValues() []float32 {
	v := make([]float32, sharedOut*sharedIn)
	for i := range v {
		v[i] = float32(i%251)/97 - 1.1
	}
	return v
}

// products are those with a weight and with its transpose.
func (s *sharer) products(w backend.Weight) []float32 {
	s.t.Helper()
	var all []float32
	for _, p := range []struct {
		in, out  int
		multiply func(int, ...backend.Product) error
	}{{w.In(), w.Out(), s.MatMul}, {w.Out(), w.In(), s.MatMulBackward}} {
		x, err := s.Give(sharedValues()[:3*p.in])
		if err != nil {
			s.t.Fatal(err)
		}
		y, err := s.Alloc(backend.F32, 3*p.out)
		if err != nil {
			s.t.Fatal(err)
		}
		if err := p.multiply(3, backend.Product{Y: y, X: x, W: w}); err != nil {
			s.t.Fatal(err)
		}
		got, err := s.Take(y)
		if err != nil {
			s.t.Fatal(err)
		}
		all = append(all, got...)
	}
	return all
}

// files lists the matrices in a folder of shared weights.
func files(t *testing.T, dir string) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, "*", "[a-z]*.[wt]"))
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// mappings counts those of this process that map a file.
func mappings(t *testing.T, path string) int {
	t.Helper()
	b, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Skipf("this system does not say what is mapped: %v", err)
	}
	return strings.Count(string(b), " "+path+"\n")
}

// A shared weight computes what one of the process' own does, bit for bit, of every type
// and on every path; its data are asked for once, and both backends map the same file.
func TestSharedWeightsEqualOwnOnes(t *testing.T) {
	for _, path := range testedPaths() {
		for _, kind := range backend.DTypes() {
			t.Run(path+" "+kind.String(), func(t *testing.T) {
				dir := t.TempDir()
				first, second := newSharer(t, dir, path), newSharer(t, dir, path)
				own, err := first.NewWeight(kind, sharedOut, sharedIn, sharedValues())
				if err != nil {
					t.Fatal(err)
				}
				want := first.products(own)
				for i, s := range []*sharer{first, second} {
					w, asked := s.weight(sharedOrigin(), kind)
					if asked != (i == 0) {
						t.Errorf("backend %d asked for the data: %t", i, asked)
					}
					if got := s.products(w); !slices.Equal(got, want) {
						t.Errorf("backend %d computes something else", i)
					}
					if s.log.Len() > 0 {
						t.Errorf("backend %d logs %s", i, &s.log)
					}
					defer func() {
						if data, err := s.WeightData(w); err != nil || len(data) != sharedOut*sharedIn {
							t.Errorf("backend %d has no data: %v", i, err)
						}
					}()
				}
				made := files(t, dir)
				if len(made) != 2 {
					t.Fatalf("there are files %v, want a matrix and its transpose", made)
				}
				for _, f := range made {
					if n := mappings(t, f); n != 2 {
						t.Errorf("%s is mapped %d times, want 2", f, n)
					}
				}
			})
		}
	}
}

// Who makes a shared weight has nothing but what all map, at once and not when Go collects.
func TestWhoMakesASharedWeightKeepsNoCopy(t *testing.T) {
	for _, kind := range backend.DTypes() {
		t.Run(kind.String(), func(t *testing.T) {
			dir := t.TempDir()
			s := newSharer(t, dir, "")
			w, _ := s.weight(sharedOrigin(), kind)
			s.products(w)
			var mapped int64
			for _, f := range files(t, dir) {
				info, err := os.Stat(f)
				if err != nil {
					t.Fatal(err)
				}
				mapped += info.Size()
			}
			if used := s.weights.inUse(); mapped == 0 || used != mapped {
				t.Errorf("weights take %d bytes, the files have %d", used, mapped)
			}
			runtime.KeepAlive(w)
		})
	}
}

// What differs in its digest, name, type or path is another matrix.
func TestSharedWeightsAreToldApart(t *testing.T) {
	dir := t.TempDir()
	s := newSharer(t, dir, "plain")
	for _, of := range []backend.Origin{sharedOrigin(), {Digest: "sha256:2", Name: "layers.0.w"}, {Digest: "sha256:1", Name: "layers.1.w"}} {
		for _, kind := range backend.DTypes() {
			if _, asked := s.weight(of, kind); !asked {
				t.Errorf("%v as %s is taken for another", of, kind)
			}
		}
	}
	for _, path := range testedPaths() {
		if _, asked := newSharer(t, dir, path).weight(sharedOrigin(), backend.F32); asked == (path == "plain") {
			t.Errorf("on path %s the data were asked for: %t", path, asked)
		}
	}
	wide, err := s.SharedWeight(sharedOrigin(), backend.F32, sharedIn, sharedOut, func() ([]float32, error) { return sharedValues(), nil })
	if err != nil || wide.Out() != sharedIn {
		t.Errorf("another shape of one origin: %v", err)
	}
}

// Whatever lies where a matrix should be, the weight is right, and so is the next one.
func TestDamagedSharedWeightsAreMadeAnew(t *testing.T) {
	change := func(at int) func(*testing.T, string) {
		return func(t *testing.T, path string) {
			t.Helper()
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			b[(at+len(b))%len(b)] ^= 1
			replace(t, path, b)
		}
	}
	for name, damage := range map[string]func(*testing.T, string){
		"empty":     func(t *testing.T, path string) { replace(t, path, nil) },
		"magic":     change(0),
		"signature": change(panelMagic + 3),
		"words":     change(panelMagic + 32),
		"sum":       change(panelMagic + 32 + 8),
		"padding":   change(panelHeader - 1),
		"first":     change(panelHeader),
		"last":      change(-1),
		"short": func(t *testing.T, path string) {
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			replace(t, path, b[:len(b)-4])
		},
		"long": func(t *testing.T, path string) {
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			replace(t, path, append(b, 0, 0, 0, 0))
		},
		"link": func(t *testing.T, path string) {
			if err := errors.Join(os.Rename(path, path+".old"), os.Symlink(path+".old", path)); err != nil {
				t.Fatal(err)
			}
		},
		"pipe": func(t *testing.T, path string) {
			if err := errors.Join(os.Remove(path), syscall.Mkfifo(path, 0o600)); err != nil {
				t.Fatal(err)
			}
		},
		"folder": func(t *testing.T, path string) {
			if err := errors.Join(os.Remove(path), os.Mkdir(path, 0o700)); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			first := newSharer(t, dir, "plain")
			before, _ := first.weight(sharedOrigin(), backend.F32)
			want := first.products(before)
			for _, f := range files(t, dir) {
				damage(t, f)
			}
			if got := first.products(before); !slices.Equal(got, want) {
				t.Error("what was mapped before is another now")
			}
			second := newSharer(t, dir, "plain")
			w, asked := second.weight(sharedOrigin(), backend.F32)
			if !asked {
				t.Error("the damaged file was taken")
			}
			if got := second.products(w); !slices.Equal(got, want) {
				t.Error("the weight is wrong")
			}
			if log := second.log.String(); !strings.Contains(log, "was damaged") {
				t.Errorf("the log does not say so: %s", log)
			}
			third := newSharer(t, dir, "plain")
			if w, asked = third.weight(sharedOrigin(), backend.F32); asked || !slices.Equal(third.products(w), want) {
				t.Error("it was not made anew")
			}
		})
	}
}

// replace puts another file in the place of one, which may be mapped.
func replace(t *testing.T, path string, b []byte) {
	t.Helper()
	if err := errors.Join(os.WriteFile(path+".new", b, 0o600), os.Rename(path+".new", path)); err != nil {
		t.Fatal(err)
	}
}

// Where nothing can be written, weights are the process' own, and the log says it once.
func TestSharedWeightsWithoutADisk(t *testing.T) {
	for name, breakIt := range map[string]func(t *testing.T, dir string) string{
		"a file": func(t *testing.T, dir string) string {
			path := filepath.Join(dir, "file")
			if err := os.WriteFile(path, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			return path
		},
		"the folder of a process": func(*testing.T, string) string { return "/proc/self/shared" },
	} {
		t.Run(name, func(t *testing.T) {
			s := newSharer(t, breakIt(t, t.TempDir()), "plain")
			own, err := s.NewWeight(backend.F32, sharedOut, sharedIn, sharedValues())
			if err != nil {
				t.Fatal(err)
			}
			for i := range 3 {
				of := sharedOrigin()
				of.Digest += string(rune('a' + i))
				w, asked := s.weight(of, backend.F32)
				if !asked || !slices.Equal(s.products(w), s.products(own)) {
					t.Error("the weight is wrong")
				}
			}
			if n := strings.Count(s.log.String(), "\n"); n != 1 {
				t.Errorf("%d lines are logged, want 1: %s", n, &s.log)
			}
		})
	}
}

// A volume that would be too full keeps its room, and sets that nobody uses make way.
func TestSharedWeightsLeaveRoom(t *testing.T) {
	dir := t.TempDir()
	unused := newSharer(t, dir, "plain")
	unused.weight(sharedOrigin(), backend.F32)
	if err := unused.Close(); err != nil {
		t.Fatal(err)
	}
	s := newSharer(t, dir, "plain")
	s.weight(backend.Origin{Digest: "sha256:2", Name: "w"}, backend.F32)
	if n := len(files(t, dir)); n != 2 {
		t.Fatalf("%d files, want 2", n)
	}
	const tooMuch = 1 << 60
	if err := s.shared.Load().makeRoom(tooMuch); err == nil || !strings.Contains(err.Error(), "do not fit") {
		t.Errorf("error %v, want one that says what does not fit", err)
	}
	left := files(t, dir)
	if len(left) != 1 || filepath.Base(left[0]) != "w.w" {
		t.Errorf("files %v are left, want that which is in use", left)
	}
}

// Of sets that nobody uses the latest are kept, and what was left half made goes.
func TestOldSetsAreCollected(t *testing.T) {
	dir := t.TempDir()
	began := time.Now().Add(-24 * time.Hour)
	for i := range keptSets + 3 {
		s := newSharer(t, dir, "plain")
		s.weight(backend.Origin{Digest: string(rune('a' + i)), Name: "w"}, backend.F32)
		set := filepath.Dir(s.shared.Load().matrix(backend.Origin{Digest: string(rune('a' + i)), Name: "w"}, backend.F32).path())
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		used := began.Add(time.Duration(i) * time.Minute)
		if err := errors.Join(
			os.WriteFile(filepath.Join(set, tempPrefix+"1"), nil, 0o600), os.Chtimes(filepath.Join(set, tempPrefix+"1"), used, used),
			os.Chtimes(filepath.Join(set, usedFile), used, used)); err != nil {
			t.Fatal(err)
		}
	}
	s := newSharer(t, dir, "plain")
	if _, asked := s.weight(backend.Origin{Digest: string(rune('a' + keptSets + 2)), Name: "w"}, backend.F32); asked {
		t.Error("the latest set is gone")
	}
	if n := len(files(t, dir)); n != keptSets {
		t.Errorf("%d sets are left, want %d", n, keptSets)
	}
	if half, _ := filepath.Glob(filepath.Join(dir, "*", tempPrefix+"*")); len(half) > 0 {
		t.Errorf("%v are left", half)
	}
	if _, asked := s.weight(backend.Origin{Digest: "a", Name: "w"}, backend.F32); !asked {
		t.Error("the oldest set is still there")
	}
}

// Backends that want the same weights at once make each of them once.
func TestSharedWeightsAreMadeOnce(t *testing.T) {
	dir := t.TempDir()
	const backends, matrices = 4, 8
	var mu sync.Mutex
	asked := map[string]int{}
	var all sync.WaitGroup
	var sharers [backends]*sharer
	for i := range sharers {
		sharers[i] = newSharer(t, dir, "plain")
	}
	for _, s := range sharers {
		all.Go(func() {
			for m := range matrices {
				name := "w" + string(rune('0'+m))
				_, err := s.SharedWeight(backend.Origin{Digest: "1", Name: name}, backend.BF16, sharedOut, sharedIn, func() ([]float32, error) {
					mu.Lock()
					defer mu.Unlock()
					asked[name]++
					return sharedValues(), nil
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	for name, n := range asked {
		if n != 1 {
			t.Errorf("%s was made %d times", name, n)
		}
	}
	if len(asked) != matrices || len(files(t, dir)) != matrices {
		t.Errorf("%d matrices, %d files, want %d", len(asked), len(files(t, dir)), matrices)
	}
}

// What another process has made meanwhile stays, and is what is used.
func TestSharedWeightOfTwoMakers(t *testing.T) {
	dir := t.TempDir()
	s, other := newSharer(t, dir, "plain"), newSharer(t, dir, "plain")
	own, err := s.NewWeight(backend.F32, sharedOut, sharedIn, sharedValues())
	if err != nil {
		t.Fatal(err)
	}
	w, _ := other.weight(sharedOrigin(), backend.F32)
	made := files(t, dir)[0]
	before, err := os.Stat(made)
	if err != nil {
		t.Fatal(err)
	}
	// As one does that did not wait.
	if err := s.shared.Load().matrix(sharedOrigin(), backend.F32).write(own.(*weight).forward); err != nil {
		t.Fatal(err)
	}
	if after, err := os.Stat(made); err != nil || !os.SameFile(before, after) {
		t.Errorf("the file was replaced: %v", err)
	}
	if entries, _ := filepath.Glob(filepath.Join(dir, "*", tempPrefix+"*")); len(entries) > 0 {
		t.Errorf("%v are left", entries)
	}
	if !slices.Equal(other.products(w), s.products(own)) {
		t.Error("the weight is wrong")
	}
}

// An error of who makes the matrix is the caller's, and nothing is written.
func TestSharedWeightThatCannotBeMade(t *testing.T) {
	dir := t.TempDir()
	s := newSharer(t, dir, "plain")
	broken := errors.New("broken")
	for name, data := range map[string]func() ([]float32, error){
		"error":   func() ([]float32, error) { return nil, broken },
		"nothing": func() ([]float32, error) { return nil, nil },
		"short":   func() ([]float32, error) { return make([]float32, 3), nil },
	} {
		if _, err := s.SharedWeight(sharedOrigin(), backend.F32, sharedOut, sharedIn, data); err == nil || name == "error" && !errors.Is(err, broken) {
			t.Errorf("%s: error %v", name, err)
		}
	}
	if made := files(t, dir); len(made) > 0 {
		t.Errorf("files %v were made", made)
	}
	w, asked := s.weight(backend.Origin{Digest: "1", Name: "../up"}, backend.F32)
	if !asked || w.Out() != sharedOut {
		t.Error("a weight whose name is none of a file's was not made")
	}
	shared, _ := s.weight(sharedOrigin(), backend.F32)
	scale, err := s.Alloc(backend.F32, sharedOut)
	if err != nil {
		t.Fatal(err)
	}
	u, err := s.NewWeight(backend.F32, sharedOut, sharedOut, nil)
	if err != nil {
		t.Fatal(err)
	}
	vt, err := s.NewWeight(backend.F32, sharedOut, sharedIn, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Compose(t.Context(), shared, u, vt, scale); !errors.Is(err, backend.ErrUnsupported) {
		t.Errorf("composed into a shared weight: %v", err)
	}
}
