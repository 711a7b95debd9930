package cli_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/registry"

	"github.com/transformersquared/operator/runtime/artifact"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/engine/enginetest"
)

// envOwnMounts says that the process has mounts that nobody else sees.
const envOwnMounts = "T2_TEST_OWN_MOUNTS"

// withOwnMounts runs the test in a process of its own with mounts of its own, where it reports
// true. Making them takes root.
func withOwnMounts(t *testing.T) bool {
	t.Helper()
	if os.Getenv(envOwnMounts) != "" {
		return true
	}
	if os.Geteuid() != 0 {
		t.Skip("only root may mount a small disk")
	}
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	args := []string{"-test.run=^" + t.Name() + "$", "-test.v"}
	if testing.Short() {
		args = append(args, "-test.short")
	}
	cmd := exec.CommandContext(t.Context(), program, args...)
	cmd.Env = append(os.Environ(), envOwnMounts+"=yes")
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Errorf("%v:\n%s", err, out)
	} else {
		t.Logf("%s", out)
	}
	return false
}

// disk is a file system of its own, in memory.
type disk struct {
	t   *testing.T
	dir string
}

const diskBytes = 64 << 20

func newDisk(t *testing.T) *disk {
	t.Helper()
	d := &disk{t, t.TempDir()}
	if err := syscall.Mount("tmpfs", d.dir, "tmpfs", 0, fmt.Sprintf("size=%d,huge=never", diskBytes)); err != nil {
		t.Fatalf("mounting a small disk: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(d.dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return d
}

// data is the volume's root on it.
func (d *disk) data() string { return filepath.Join(d.dir, "data") }

func (d *disk) free() int64 {
	d.t.Helper()
	var s syscall.Statfs_t
	if err := syscall.Statfs(d.dir, &s); err != nil {
		d.t.Fatal(err)
	}
	return int64(s.Bavail) * s.Bsize
}

// fill leaves so much room; what it returns makes the rest free again.
func (d *disk) fill(room int64) (drop func()) {
	d.t.Helper()
	path := filepath.Join(d.dir, "ballast")
	f, err := os.Create(path)
	if err != nil {
		d.t.Fatal(err)
	}
	if take := d.free() - room; take > 0 {
		err = syscall.Fallocate(int(f.Fd()), 0, 0, take)
	}
	if err := errors.Join(err, f.Close()); err != nil {
		d.t.Fatal(err)
	}
	return func() {
		if err := os.Remove(path); err != nil {
			d.t.Error(err)
		}
	}
}

// protect makes it read-only, or writable again.
func (d *disk) protect(readOnly bool) {
	d.t.Helper()
	flags := uintptr(syscall.MS_REMOUNT)
	if readOnly {
		flags |= syscall.MS_RDONLY
	}
	if err := syscall.Mount("tmpfs", d.dir, "tmpfs", flags, ""); err != nil {
		d.t.Fatal(err)
	}
}

// whole checks that what bears a final name is an artifact with all that its manifest says.
func (d *disk) whole(when string) {
	d.t.Helper()
	for _, kind := range []string{contract.DirModels, contract.DirDecompositions, contract.DirExperts, contract.DirEvaluations} {
		found, err := filepath.Glob(filepath.Join(d.data(), kind, "sha256-*"))
		if err != nil {
			d.t.Fatal(err)
		}
		for _, dir := range found {
			m, err := artifact.ReadManifest[struct {
				Digest string
				Files  []contract.FileEntry
			}](dir)
			if err != nil {
				d.t.Errorf("%s, %s is there: %v", when, dir, err)
				continue
			}
			if err := artifact.Verify(dir, m.Files); err != nil || len(m.Files) == 0 {
				d.t.Errorf("%s, %s is there: %v", when, dir, err)
			}
		}
	}
}

// chain are Jobs, each of which goes on from what those before it have left on a volume.
type chain struct {
	origin, sets, scratch, place string
	model, decomposition, expert string // Digests, as far as they are known.
}

// step is a Job of the chain.
type step struct {
	name string
	run  func(t *testing.T, data string) podOutcome
	// digest is that of what it has made.
	digest func(contract.Termination) string
	// writes says that it needs room on the volume, or else on the disk of temporary files.
	writes, temporary bool
}

func newChain(t *testing.T) *chain {
	t.Helper()
	c := &chain{origin: enginetest.New(t).ModelDir, sets: filepath.Join(t.TempDir(), "set.jsonl"), scratch: filepath.Join(t.TempDir(), contract.FetchedFile)}
	if err := os.WriteFile(c.sets, []byte(`{"prompt": "a", "answer": "b"}`+"\n"+`{"prompt": "c", "answer": "d"}`+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c.place = runRegistry(t, nil, registry.WithReferrersSupport(true)) + "/experts/math"
	return c
}

func (c *chain) steps() []step {
	pairs := contract.DatasetSpec{Path: c.sets, Format: contract.FormatPairs}
	hyper := contract.DefaultHyper()
	hyper.Iterations, hyper.BatchSize, hyper.MaxNewTokens, hyper.CheckpointInterval = 3, 2, 2, 1
	return []step{
		{
			name: "fetch", writes: true, digest: func(t contract.Termination) string { return t.Model.Digest },
			run: func(t *testing.T, data string) podOutcome {
				return pod(t, contract.FetchSpec{Source: contract.Source{Path: c.origin}, DataDir: data}, nil, "fetch", "--fetched", c.scratch)
			},
		},
		{
			name: "decompose", writes: true, digest: func(t contract.Termination) string { return t.Decomposition.Digest },
			run: func(t *testing.T, data string) podOutcome {
				return pod(t, contract.DecomposeSpec{Modules: []string{"up_proj", "down_proj", "o_proj"}, DType: contract.DTypeF32, DataDir: data}, nil, "decompose", "--fetched", c.scratch)
			},
		},
		{
			name: "train", writes: true, digest: func(t contract.Termination) string { return t.Expert.Digest },
			run: func(t *testing.T, data string) podOutcome {
				return pod(t, contract.TrainSpec{
					Name: "math", Skill: "math", RunID: "run", DataDir: data, BaseDigest: c.model, DecompositionDigest: c.decomposition,
					Objective: contract.ObjectiveReinforce, Train: pairs, Validation: pairs, Reward: contract.RewardExactMatch, Hyperparameters: hyper,
				}, nil, "train")
			},
		},
		{
			name: "evaluate", writes: true, digest: func(t contract.Termination) string { return t.Evaluation.Digest },
			run: func(t *testing.T, data string) podOutcome {
				return pod(t, contract.EvaluateSpec{
					Name: "assistant", RunID: "gate", DataDir: data, BaseDigest: c.model, DecompositionDigest: c.decomposition, MaxNewTokens: 2, Form: "merged",
					Candidate: contract.ExpertSet{Strategy: contract.StrategyPrompt, Experts: []contract.ExpertRef{{Name: "math", Skill: "math", Digest: c.expert}}},
					Sets:      []contract.EvaluationSet{{Field: "spec.rollout.gate.dataset", Dataset: pairs, Reward: contract.RewardExactMatch}},
				}, nil, "evaluate")
			},
		},
		{
			name: "publish", temporary: true, digest: func(t contract.Termination) string { return t.Expert.Artifact },
			run: func(t *testing.T, data string) podOutcome {
				return pod(t, contract.PublishSpec{Digest: c.expert, DataDir: data, To: contract.OCISource{Reference: c.place + ":v1", Insecure: true}}, noDocker, "publish")
			},
		},
		{ // Frees room, and must do so on a full disk above all.
			name: "collect", digest: func(t contract.Termination) string { return fmt.Sprint(t.Collect.Removed) },
			run: func(t *testing.T, data string) podOutcome {
				return pod(t, contract.CollectSpec{DataDir: data, Keep: []string{}, Time: time.Now().Add(24 * time.Hour), GraceSeconds: 60}, nil, "collect")
			},
		},
	}
}

// learn remembers what later Jobs are told.
func (c *chain) learn(name, digest string) {
	switch name {
	case "fetch":
		c.model = digest
	case "decompose":
		c.decomposition = digest
	case "train":
		c.expert = digest
	}
}

// TestJobsOnADiskThatIsFullOrReadOnly runs each Job on a disk that becomes full at one moment
// after the other, and on one that cannot be written to: it fails for that reason, with the path
// and what to do; what bears a final name is whole; and once there is room, it goes on and comes
// to the same.
func TestJobsOnADiskThatIsFullOrReadOnly(t *testing.T) {
	if !withOwnMounts(t) {
		return
	}
	c := newChain(t)
	before := t.TempDir() // What the volume has before the step.
	for _, s := range c.steps() {
		after := t.TempDir()
		t.Run(s.name, func(t *testing.T) { c.try(t, s, before, after) })
		if t.Failed() {
			return
		}
		before = after
	}
}

const page = 4 << 10

// try runs one step at all moments; the volume as it has left it undisturbed is copied to after.
func (c *chain) try(t *testing.T, s step, before, after string) {
	volume := func(t *testing.T) *disk {
		t.Helper()
		d := newDisk(t)
		if err := os.CopyFS(d.data(), os.DirFS(before)); err != nil && !errors.Is(err, fs.ErrExist) {
			t.Fatal(err)
		}
		if s.temporary {
			t.Setenv("TMPDIR", d.dir)
		}
		return d
	}
	// Undisturbed.
	d := volume(t)
	free := d.free()
	o := s.run(t, d.data())
	if o.code != contract.ExitOK {
		t.Fatalf("undisturbed: status %d, %s", o.code, o.stderr)
	}
	want, needs := s.digest(o.termination), max(free-d.free(), 8*page)
	c.learn(s.name, want)
	if err := os.CopyFS(after, os.DirFS(d.data())); err != nil {
		t.Fatal(err)
	}
	again := func(t *testing.T, d *disk) {
		t.Helper()
		o := s.run(t, d.data())
		if o.code != contract.ExitOK {
			t.Fatalf("when it has room: status %d, %s", o.code, o.stderr)
		}
		if diff := cmp.Diff(want, s.digest(o.termination)); diff != "" {
			t.Errorf("when it has room (-undisturbed +got):\n%s", diff)
		}
		d.whole("in the end")
	}
	refused := func(t *testing.T, d *disk, o podOutcome, reason string, remedies ...string) {
		t.Helper()
		told := o.termination
		if o.code == contract.ExitOK || told.Reason != reason || told.Permanent {
			t.Errorf("status %d, reason %s, permanent %v: %s", o.code, told.Reason, told.Permanent, o.stderr)
		}
		for _, phrase := range append(remedies, d.dir) {
			if !strings.Contains(told.Message, phrase) {
				t.Errorf("the message does not say %q: %s", phrase, told.Message)
			}
		}
		d.whole("when it had failed")
	}

	moments := int64(12)
	if testing.Short() {
		moments = 4
	}
	failures := 0
	for i := range moments {
		room := needs * i / moments / page * page
		t.Run(fmt.Sprintf("room for %d of %d KiB", room>>10, needs>>10), func(t *testing.T) {
			d := volume(t)
			drop := d.fill(room)
			if o := s.run(t, d.data()); o.code != contract.ExitOK {
				failures++
				refused(t, d, o, contract.ReasonDiskFull, "no space left on device", "enlarge the volume")
			} else if got := s.digest(o.termination); got != want {
				t.Errorf("it came to %s, undisturbed to %s", got, want)
			}
			drop()
			if s.writes || s.temporary { // Else it is done, and what it has removed is gone.
				again(t, d)
			}
		})
	}
	if needing := s.writes || s.temporary; (failures > 0) != needing {
		t.Errorf("%d of %d full disks were noticed", failures, moments)
	}
	t.Run("read-only", func(t *testing.T) {
		d := volume(t)
		if s.temporary { // A volume that is not written to may be read-only.
			t.Setenv("TMPDIR", t.TempDir())
		}
		d.protect(true)
		o := s.run(t, d.data())
		d.protect(false)
		if s.temporary {
			if o.code != contract.ExitOK {
				t.Errorf("status %d, %s", o.code, o.stderr)
			}
			return
		}
		refused(t, d, o, contract.ReasonDiskReadOnly, "read-only file system", "mount the volume writable")
		again(t, d)
	})
}
