package collect

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/transformersquared/operator/runtime/artifact"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/failure"
)

var (
	now   = time.Now()
	old   = now.Add(-48 * time.Hour)
	grace = time.Hour
)

// name is that of the artifact whose digest begins with so many digits of a number.
func name(n int) string { return fmt.Sprintf("sha256-%016x", n) + strings.Repeat("0", 48) }

// short is what a specification calls it, and a run of the number.
func short(n int) string { return fmt.Sprintf("%016x", n) }

// volume is a data folder with things of an age.
type volume struct {
	t    testing.TB
	root string
}

func newVolume(t testing.TB) volume { return volume{t, t.TempDir()} }

// put makes a folder with a file, last changed at a time.
func (v volume) put(at time.Time, where ...string) string {
	v.t.Helper()
	dir := filepath.Join(append([]string{v.root}, where...)...)
	file := filepath.Join(dir, "file")
	err := os.MkdirAll(dir, 0o775)
	if err == nil {
		err = os.WriteFile(file, make([]byte, 5000), 0o664)
	}
	if err == nil {
		err = os.Chtimes(dir, at, at)
	}
	if err != nil {
		v.t.Fatal(err)
	}
	return dir
}

// list names all folders with a file, relative to the volume.
func (v volume) list() []string {
	v.t.Helper()
	var all []string
	err := filepath.WalkDir(v.root, func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.Name() == "file" {
			all = append(all, strings.TrimPrefix(filepath.Dir(path), v.root+"/"))
		}
		return err
	})
	if err != nil {
		v.t.Fatal(err)
	}
	return all
}

func (v volume) collect(keep ...string) contract.CollectResult {
	v.t.Helper()
	if keep == nil {
		keep = []string{}
	}
	result, err := Run(v.t.Context(), contract.CollectSpec{
		DataDir: v.root, Keep: keep, Time: now, GraceSeconds: int64(grace.Seconds()),
	})
	if err != nil {
		v.t.Fatal(err)
	}
	return result
}

func TestWhatNothingRefersToGoes(t *testing.T) {
	v := newVolume(t)
	for _, dir := range []string{contract.DirModels, contract.DirDecompositions, contract.DirExperts, contract.DirProbes} {
		v.put(old, dir, name(1))
		v.put(old, dir, name(2))
		v.put(now.Add(-time.Minute), dir, name(3))
	}
	v.put(old, contract.DirRuns, short(1))
	v.put(old, contract.DirRuns, short(2))
	v.put(old, contract.DirShared, short(7)+short(8))
	v.put(now.Add(-2*time.Hour), contract.DirShared, short(7)+short(9)) // Not a day old.
	foreign := []string{
		v.put(old, "notes"), v.put(old, contract.DirModels, "llama"), v.put(old, contract.DirRuns, "mine"),
		v.put(old, contract.DirExperts, "sha256-short"), v.put(old, contract.DirExperts, ".tmp-1"), v.put(old, "reports", name(2)),
	}
	var want []string
	for _, dir := range []string{contract.DirModels, contract.DirDecompositions, contract.DirExperts, contract.DirProbes} {
		want = append(want, dir+"/"+name(1), dir+"/"+name(3))
	}
	want = append(want, contract.DirRuns+"/"+short(1), contract.DirShared+"/"+short(7)+short(9))
	for _, f := range foreign {
		want = append(want, strings.TrimPrefix(f, v.root+"/"))
	}
	slices.Sort(want)
	result := v.collect(short(1))
	got := v.list()
	if slices.Sort(got); !slices.Equal(got, want) {
		t.Errorf("left are %q\nwant %q", got, want)
	}
	if result.Removed != 6 || result.FreedBytes < 6*5000 || result.CapacityBytes <= 0 || result.AvailableBytes <= 0 {
		t.Errorf("result %+v", result)
	}
	counts := map[string]int{}
	for _, u := range result.Usage {
		counts[u.Kind] = u.Count
		if u.Count > 0 && u.SizeBytes < 5000 {
			t.Errorf("%+v", u)
		}
	}
	if counts["models"] != 3 || counts["runs"] != 2 || counts["shared"] != 1 || counts["experts"] != 4 || counts["other"] != 3 {
		t.Errorf("counts %v", counts) // notes, reports, and the folder of what is being removed.
	}
}

func TestADryRunRemovesNothing(t *testing.T) {
	v := newVolume(t)
	v.put(old, contract.DirExperts, name(1))
	result, err := Run(t.Context(), contract.CollectSpec{DataDir: v.root, Keep: []string{}, Time: now, DryRun: true})
	if err != nil || result.Removed != 1 || len(v.list()) != 1 {
		t.Errorf("result %+v (%v), left %q", result, err, v.list())
	}
}

// TestARunInWhichSomebodyWorksStays, however old it looks.
func TestARunInWhichSomebodyWorksStays(t *testing.T) {
	v := newVolume(t)
	root := filepath.Join(v.root, contract.DirRuns)
	stage, err := artifact.StageAt(root, short(1))
	if err != nil {
		t.Fatal(err)
	}
	v.put(old, contract.DirRuns, short(1))
	if v.collect(); len(v.list()) != 1 {
		t.Error("the run was removed below its process")
	}
	if err := stage.Release(); err != nil {
		t.Fatal(err)
	}
	if v.collect(); len(v.list()) != 0 {
		t.Error("the run stays")
	}
}

// TestSharedWeightsInUseStay.
func TestSharedWeightsInUseStay(t *testing.T) {
	v := newVolume(t)
	dir := v.put(old, contract.DirShared, short(1)+short(1))
	f, err := os.Create(filepath.Join(dir, contract.SharedUsedFile))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := errors.Join(syscall.Flock(int(f.Fd()), syscall.LOCK_SH), os.Chtimes(dir, old, old)); err != nil {
		t.Fatal(err)
	}
	if v.collect(); len(v.list()) != 1 {
		t.Error("shared weights were removed below who uses them")
	}
}

// TestLinksLeadNowhere: neither one in the place of a kind, nor one with an artifact's name.
func TestLinksLeadNowhere(t *testing.T) {
	elsewhere := newVolume(t)
	elsewhere.put(old, name(1))
	v := newVolume(t)
	v.put(old, contract.DirExperts, name(9))
	if err := errors.Join(
		os.Symlink(elsewhere.root, filepath.Join(v.root, contract.DirModels)),
		os.Symlink(filepath.Join(elsewhere.root, name(1)), filepath.Join(v.root, contract.DirExperts, name(2))),
	); err != nil {
		t.Fatal(err)
	}
	v.collect()
	if got := elsewhere.list(); len(got) != 1 {
		t.Error("something outside the volume was removed")
	}
	if _, err := os.Lstat(filepath.Join(v.root, contract.DirExperts, name(2))); err != nil {
		t.Errorf("a link is no artifact, and was removed: %v", err)
	}
}

// TestWhatACollectionLeftThatDied is removed, or comes back if it is referred to.
func TestWhatACollectionLeftThatDied(t *testing.T) {
	v := newVolume(t)
	v.put(old, contract.DirCollecting, contract.DirExperts+"+"+name(1))
	v.put(old, contract.DirCollecting, contract.DirExperts+"+"+name(2))
	v.put(now, contract.DirCollecting, contract.DirExperts+"+"+name(3))
	v.put(old, contract.DirCollecting, contract.DirExperts+"+"+name(4))
	v.put(old, contract.DirExperts, name(4)) // Made anew since.
	v.put(old, contract.DirCollecting, "mine")
	v.collect(short(1), short(4))
	want := []string{
		contract.DirCollecting + "/mine", contract.DirExperts + "/" + name(1), contract.DirExperts + "/" + name(3), contract.DirExperts + "/" + name(4),
	}
	if got := v.list(); !slices.Equal(got, want) {
		t.Errorf("left are %q, want %q", got, want)
	}
}

func TestSpecificationsThatMakeNoSense(t *testing.T) {
	for want, change := range map[string]func(*contract.CollectSpec){
		"dataDir":      func(s *contract.CollectSpec) { s.DataDir = "" },
		"time":         func(s *contract.CollectSpec) { s.Time = time.Time{} },
		"graceSeconds": func(s *contract.CollectSpec) { s.GraceSeconds = -1 },
		"keep is":      func(s *contract.CollectSpec) { s.Keep = nil },
		"../../etc":    func(s *contract.CollectSpec) { s.Keep = []string{"../../etc"} },
	} {
		spec := contract.CollectSpec{DataDir: t.TempDir(), Keep: []string{short(1)}, Time: now, GraceSeconds: 1}
		change(&spec)
		_, err := Run(t.Context(), spec)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("a bad %s gives %v", want, err)
		}
		if _, permanent := failure.Of(err); !permanent {
			t.Errorf("%v is tried again", err)
		}
	}
}

// TestNothingThatIsReferredToIsEverRemoved, in random volumes with random ages, and also
// where somebody publishes what is referred to from the moment of the list on.
func TestNothingThatIsReferredToIsEverRemoved(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	all := kinds()
	for range 60 {
		v := newVolume(t)
		var keep, must []string
		for n := range 12 {
			k := all[random.IntN(len(all))]
			at := now.Add(-time.Duration(random.Int64N(int64(4 * grace))))
			folder := name(n)
			switch k.dir {
			case contract.DirRuns:
				folder = short(n)
			case contract.DirShared:
				folder = short(n) + short(n)
			}
			where := []string{k.dir, folder}
			aside := random.IntN(6) == 0 // A collection died when it was about to go.
			if aside {
				where = []string{contract.DirCollecting, k.dir + "+" + folder}
			}
			v.put(at, where...)
			refers := random.IntN(2) == 0 && k.dir != contract.DirShared
			if refers {
				keep = append(keep, short(n))
			}
			if refers || at.After(now.Add(-grace)) {
				must = append(must, k.dir+"/"+folder)
			}
		}
		v.collect(keep...)
		left := v.list()
		for _, m := range must {
			if !slices.Contains(left, m) {
				t.Errorf("%s is gone, kept were %q", m, keep)
			}
		}
	}
}

// TestWhatIsFoundAgainIsYoung: publishing what is there already keeps it.
func TestWhatIsFoundAgainIsYoung(t *testing.T) {
	v := newVolume(t)
	root := filepath.Join(v.root, contract.DirExperts)
	digest := contract.DigestPrefix + strings.Repeat("a", 64)
	for range 2 {
		stage, err := artifact.Stage(root)
		if err != nil {
			t.Fatal(err)
		}
		if err := stage.PublishDigest(digest, map[string]string{"digest": digest}); err != nil {
			t.Fatal(err)
		}
		dir := filepath.Join(root, "sha256-"+strings.Repeat("a", 64))
		info, err := os.Stat(dir)
		if err != nil || time.Since(info.ModTime()) > time.Hour {
			t.Fatalf("published at %v (%v)", info.ModTime(), err)
		}
		if err := os.Chtimes(dir, old, old); err != nil {
			t.Fatal(err)
		}
	}
}
