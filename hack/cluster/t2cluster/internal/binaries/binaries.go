// Package binaries builds what a cluster runs from the pinned modules beside this tool, and knows where it is. Go's build
// cache decides what has to be compiled, so that building again costs seconds.
package binaries

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// KubeRoles are the names under which the kube executable is called.
var KubeRoles = []string{
	"etcd", "kube-apiserver", "kube-controller-manager", "kube-proxy", "kube-scheduler", "kubectl", "kubelet",
}

// AssetRoles are those of them that controller-runtime's envtest wants in KUBEBUILDER_ASSETS.
var AssetRoles = []string{"etcd", "kube-apiserver", "kubectl"}

// kube is the one executable behind KubeRoles.
const kube = "kube"

const (
	shim       = "containerd-shim-runc-v2"
	heartbeat  = 15 * time.Second
	containerd = "github.com/containerd/containerd/v2/cmd/"
)

// Pause is the file name of the first process of each pod.
const Pause = "pause"

// All are the file names that a cluster needs in its folder of executables.
func All() []string {
	return append([]string{kube, "containerd", shim, "ctr", Pause}, KubeRoles...)
}

// Source finds hack/cluster by going up from each of the starting points: the repository's root, or hack/cluster itself.
func Source(from ...string) (string, error) {
	for _, start := range from {
		for dir := start; ; dir = filepath.Dir(dir) {
			for _, candidate := range []string{dir, filepath.Join(dir, "hack", "cluster")} {
				if _, err := os.Stat(filepath.Join(candidate, kube, "go.mod")); err == nil {
					return candidate, nil
				}
			}
			if dir == filepath.Dir(dir) {
				break
			}
		}
	}
	return "", fmt.Errorf("found no hack/cluster at or above %s: call this from within the repository, or say --source DIR", strings.Join(from, " or "))
}

// DefaultBin is the folder of executables that belongs to a source folder: bin/cluster of the repository, which git
// ignores.
func DefaultBin(source string) string {
	return filepath.Join(source, "..", "..", "bin", "cluster")
}

// Missing returns the names of All that dir lacks.
func Missing(dir string) []string {
	var missing []string
	for _, name := range All() {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode()&0o111 == 0 {
			missing = append(missing, name)
		}
	}
	return missing
}

// step is one call of the Go compiler.
type step struct {
	what string
	// cold is how long it takes with an empty build cache, in words.
	cold   string
	dir    string
	args   []string
	result string
}

// Build builds everything into bin and says on out what it does and how long it takes.
func Build(ctx context.Context, source, bin string, out io.Writer) error {
	if err := os.MkdirAll(bin, 0o755); err != nil {
		return fmt.Errorf("making the folder of executables: %w", err)
	}
	steps, err := plan(source, bin)
	if err != nil {
		return err
	}
	for _, s := range steps {
		if err := run(ctx, s, out); err != nil {
			return err
		}
	}
	return LinkRoles(bin, bin, KubeRoles)
}

func plan(source, bin string) ([]step, error) {
	gomod, err := os.ReadFile(filepath.Join(source, kube, "go.mod"))
	if err != nil {
		return nil, fmt.Errorf("reading which Kubernetes is wanted: %w", err)
	}
	version, err := kubernetesVersion(string(gomod))
	if err != nil {
		return nil, fmt.Errorf("reading which Kubernetes is wanted from %s: %w", filepath.Join(source, kube, "go.mod"), err)
	}
	small := "-s -w" // without symbols: nobody debugs these, and they halve in size
	return []step{
		{
			what: "pause", cold: "seconds", dir: source, result: filepath.Join(bin, Pause),
			args: []string{"-ldflags", small, "-o", filepath.Join(bin, Pause), "./pause"},
		},
		{
			what: "containerd", cold: "about 1 minute on 2 cores", dir: filepath.Join(source, "containerd"), result: filepath.Join(bin, "containerd"),
			args: []string{
				"-tags", "no_btrfs,no_zfs,no_devmapper,no_aufs", "-ldflags", small, "-o", bin + string(filepath.Separator),
				containerd + "containerd", containerd + shim, containerd + "ctr",
			},
		},
		{
			what: "Kubernetes " + version.text, cold: "about 7 minutes on 2 cores", dir: filepath.Join(source, kube), result: filepath.Join(bin, kube),
			args: []string{"-ldflags", small + version.flags(), "-o", filepath.Join(bin, kube), "."},
		},
	}, nil
}

type version struct{ text, major, minor string }

var requiredKubernetes = regexp.MustCompile(`(?m)^\s*k8s\.io/kubernetes (v(\d+)\.(\d+)\.\d+\S*)\s*$`)

func kubernetesVersion(gomod string) (version, error) {
	found := requiredKubernetes.FindStringSubmatch(gomod)
	if found == nil {
		return version{}, errors.New("it requires no k8s.io/kubernetes")
	}
	return version{text: found[1], major: found[2], minor: found[3]}, nil
}

// flags stamps the version in, as a release build does; unstamped, kubectl cannot read the server's version. The date is
// fixed, so that building twice gives the same file.
func (v version) flags() string {
	var flags strings.Builder
	for _, setting := range [][2]string{
		{"gitVersion", v.text}, {"gitMajor", v.major}, {"gitMinor", v.minor}, {"gitCommit", v.text},
		{"gitTreeState", "clean"}, {"buildDate", "1970-01-01T00:00:00Z"},
	} {
		fmt.Fprintf(&flags, " -X k8s.io/component-base/version.%s=%s", setting[0], setting[1])
	}
	return flags.String()
}

func run(ctx context.Context, s step, out io.Writer) error {
	if _, err := os.Stat(s.result); errors.Is(err, fs.ErrNotExist) {
		fmt.Fprintf(out, "Building %s: %s, unless Go has it cached\n", s.what, s.cold)
	} else {
		fmt.Fprintf(out, "Building %s again: seconds, unless something has changed\n", s.what)
	}
	began := time.Now()
	// No C compiler needed, and the same objects as a static build of the product gives: each is compiled once.
	cmd := exec.CommandContext(ctx, "go", append([]string{"build", "-buildvcs=false"}, s.args...)...)
	cmd.Dir = s.dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off", "GOFLAGS=")
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("building %s: %w", s.what, err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }() // ends with the compiler, which ctx bounds
	ticker := time.NewTicker(heartbeat)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			fmt.Fprintf(out, "  still building %s (%s)\n", s.what, time.Since(began).Round(time.Second))
		case err := <-done:
			if err != nil {
				return fmt.Errorf("building %s: %w", s.what, errors.Join(ctx.Err(), err))
			}
			fmt.Fprintf(out, "  built in %s\n", time.Since(began).Round(100*time.Millisecond))
			return nil
		}
	}
}

// LinkRoles makes a link to the kube executable in bin for each role in dir. Links are replaced, never files: what is
// no link was not made here.
func LinkRoles(bin, dir string, roles []string) error {
	target, err := filepath.Abs(filepath.Join(bin, kube))
	if err != nil {
		return fmt.Errorf("linking Kubernetes: %w", err)
	}
	if _, err := os.Stat(target); err != nil {
		return fmt.Errorf("linking Kubernetes: %w; build it first: t2cluster build --bin %s", err, bin)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("linking Kubernetes: %w", err)
	}
	same, err := sameDir(bin, dir)
	if err != nil {
		return err
	}
	if same {
		target = kube // the folder can then be moved
	}
	for _, role := range roles {
		link := filepath.Join(dir, role)
		if info, err := os.Lstat(link); err == nil && info.Mode()&fs.ModeSymlink == 0 {
			return fmt.Errorf("%s is in the way: it is not a link made by this tool", link)
		}
		// By way of another name, so that the link is there at every moment for whoever is using it.
		fresh := fmt.Sprintf("%s.%d", link, os.Getpid())
		if err := os.Symlink(target, fresh); err != nil {
			return fmt.Errorf("linking %s: %w", role, err)
		}
		if err := os.Rename(fresh, link); err != nil {
			return errors.Join(fmt.Errorf("linking %s: %w", role, err), os.Remove(fresh))
		}
	}
	return nil
}

func sameDir(a, b string) (bool, error) {
	first, err := os.Stat(a)
	if err != nil {
		return false, fmt.Errorf("linking Kubernetes: %w", err)
	}
	second, err := os.Stat(b)
	if err != nil {
		return false, fmt.Errorf("linking Kubernetes: %w", err)
	}
	return os.SameFile(first, second), nil
}
