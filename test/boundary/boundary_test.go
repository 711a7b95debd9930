// Package boundary tests the walls of the house: which packages may reach
// which, and what lies at the top of the repository. It asks the go command,
// so it sees what is really linked.
package boundary

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/transformersquared/operator"

// pkg is what `go list` says of a package.
type pkg struct {
	ImportPath string
	Standard   bool
	Imports    []string
	CgoFiles   []string
}

// list runs `go list` on patterns in the repository's root; with deps it lists
// everything that they reach, too. cgo is on, so that files that need it count.
func list(t *testing.T, deps bool, patterns ...string) []pkg {
	t.Helper()
	args := []string{"list", "-json=ImportPath,Standard,Imports,CgoFiles"}
	if deps {
		args = append(args, "-deps")
	}
	cmd := exec.CommandContext(t.Context(), "go", append(args, patterns...)...)
	cmd.Dir = root(t)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=1")
	out, err := cmd.Output()
	if err != nil {
		if exit, ok := errors.AsType[*exec.ExitError](err); ok {
			t.Fatalf("%v: %v\n%s", cmd, err, exit.Stderr)
		}
		t.Fatalf("%v: %v", cmd, err)
	}
	var packages []pkg
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		packages = append(packages, p)
	}
	if len(packages) == 0 {
		t.Fatalf("%v lists nothing: the test would show nothing", cmd)
	}
	return packages
}

func root(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "go.mod")); err != nil {
		t.Fatalf("%s is not the repository's root: %v", dir, err)
	}
	return dir
}

// within reports whether path is one of these packages or below one.
func within(path string, prefixes ...string) bool {
	return slices.ContainsFunc(prefixes, func(p string) bool { return path == p || strings.HasPrefix(path, p+"/") })
}

func TestManagerReachesNothingOfTheRuntimeButTheContract(t *testing.T) {
	packages := list(t, true, ".")
	reached := map[string]bool{}
	for _, p := range packages {
		reached[p.ImportPath] = true
		if within(p.ImportPath, "gorgonia.org/cu") {
			t.Errorf("the manager reaches %s, which ends the process where there is no GPU", p.ImportPath)
		}
		if within(p.ImportPath, module+"/runtime") && p.ImportPath != module+"/runtime/contract" {
			t.Errorf("the manager reaches %s; all that it may know of the runtime is runtime/contract", p.ImportPath)
		}
	}
	for _, must := range []string{module, module + "/controllers", module + "/runtime/contract"} {
		if !reached[must] {
			t.Errorf("the manager does not reach %s: is this its entry?", must)
		}
	}
}

func TestRuntimeReachesNothingOfKubernetesAndNoCgo(t *testing.T) {
	for _, p := range list(t, true, "./runtime/...") {
		if within(p.ImportPath, "k8s.io", "sigs.k8s.io", module+"/api", module+"/controllers") {
			t.Errorf("the runtime reaches %s; it knows nothing of Kubernetes", p.ImportPath)
		}
		if within(p.ImportPath, "gorgonia.org/cu") {
			t.Errorf("the untagged runtime reaches %s", p.ImportPath)
		}
		if !p.Standard && len(p.CgoFiles) > 0 {
			t.Errorf("the untagged runtime reaches %s, which needs cgo for %v", p.ImportPath, p.CgoFiles)
		}
	}
}

// TestRoomsImportOnlyWhatTheyMay checks direct imports, as DESIGN lists them.
// Tests may import more.
func TestRoomsImportOnlyWhatTheyMay(t *testing.T) {
	const own = module + "/"
	for _, room := range []struct {
		pattern string
		// may are the packages, with those below them, that may be imported beside
		// the standard library. Of what is not ours, outside says whether anything
		// goes.
		may     []string
		outside bool
		except  []string // Packages of the pattern with rules of their own.
	}{
		{pattern: "./runtime/contract"},
		{pattern: "./kernels/..."},
		{
			pattern: "./api/...", may: []string{"k8s.io/api", "k8s.io/apimachinery", own + "api"},
			except: []string{own + "api/v1alpha1/applyconfiguration"},
		},
		{ // Generated: typed patches build on those of metav1 and on the patch format.
			pattern: "./api/v1alpha1/applyconfiguration/...", may: []string{
				"k8s.io/api", "k8s.io/apimachinery", "k8s.io/client-go/applyconfigurations", "sigs.k8s.io/structured-merge-diff/v6", own + "api",
			},
		},
		{pattern: "./controllers/...", may: []string{own + "api", own + "controllers", own + "runtime/contract"}, outside: true},
		{pattern: "./controllers/desired/...", may: []string{own + "api", own + "controllers/desired", own + "runtime/contract"}, outside: true},
		{pattern: "./controllers/status/...", may: []string{own + "api", own + "controllers/status"}, outside: true},
		{pattern: "./runtime/tensor/...", may: []string{own + "runtime/tensor"}},
		{pattern: "./runtime/sample/..."},
		{pattern: "./runtime/checkpoint/...", may: []string{
			own + "runtime/checkpoint", own + "runtime/tensor", own + "runtime/artifact", own + "runtime/failure", own + "runtime/contract",
		}},
		{pattern: "./runtime/backend/...", may: []string{own + "runtime/tensor", own + "runtime/sample", own + "runtime/svd", own + "runtime/backend", own + "kernels"}, outside: true},
		{pattern: "./runtime/svd/...", outside: true},
		{pattern: "./runtime/host"},
		{pattern: "./runtime/adapt", may: []string{own + "runtime/contract", own + "runtime/model", own + "runtime/expert"}},
		{pattern: "./runtime/adapt/fewshot", may: []string{
			own + "runtime/contract", own + "runtime/expert", own + "runtime/adapt", own + "runtime/engine", own + "runtime/search", own + "runtime/train",
			own + "runtime/backend", own + "runtime/artifact", own + "runtime/failure", own + "runtime/jobs", own + "runtime/judge",
		}},
		{pattern: "./runtime/evaluate", may: []string{
			own + "runtime/contract", own + "runtime/adapt", own + "runtime/server", own + "runtime/train", own + "runtime/tokenizer", own + "runtime/backend",
			own + "runtime/artifact", own + "runtime/failure", own + "runtime/jobs", own + "runtime/judge",
		}, outside: true},
		{pattern: "./runtime/model", may: []string{
			own + "runtime/tensor", own + "runtime/checkpoint", own + "runtime/backend", own + "runtime/failure", own + "runtime/contract",
		}, outside: true},
	} {
		t.Run(room.pattern, func(t *testing.T) {
			standard := map[string]bool{}
			for _, p := range list(t, true, room.pattern) {
				standard[p.ImportPath] = p.Standard
			}
			for _, p := range list(t, false, room.pattern) {
				if within(p.ImportPath, room.except...) {
					continue
				}
				for _, path := range p.Imports {
					ours := within(path, module)
					if standard[path] || within(path, room.may...) || room.outside && !ours || path == "C" {
						continue
					}
					t.Errorf("%s imports %s", p.ImportPath, path)
				}
			}
		})
	}
}

// TestTopOfTheRepository keeps the folders and files that DESIGN fixes. What
// git does not know (builds, editors' files) does not count.
func TestTopOfTheRepository(t *testing.T) {
	allowed := []string{
		"api", "controllers", "config", "runtime", "kernels", "hack", "test", "findings",
		"go.mod", "go.sum", "Makefile", "PROJECT", "README.md", "main.go", "LICENSE", "SECURITY.md",
	}
	cmd := exec.CommandContext(t.Context(), "git", "ls-tree", "--name-only", "HEAD")
	cmd.Dir = root(t)
	var names []string
	if out, err := cmd.Output(); err == nil {
		names = strings.Fields(string(out))
	} else {
		// An exported tree has no history and nothing but the repository's files.
		entries, err := os.ReadDir(root(t))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			names = append(names, e.Name())
		}
	}
	for _, name := range names {
		if strings.HasPrefix(name, ".") || strings.HasPrefix(name, "Dockerfile") || slices.Contains(allowed, name) {
			continue
		}
		t.Errorf("%s is at the top of the repository; its place is in one of %v", name, allowed)
	}
	for _, must := range []string{"api", "controllers", "config", "runtime", "hack", "test", "go.mod", "README.md", "main.go", "LICENSE", "Makefile", "PROJECT"} {
		if _, err := os.Stat(filepath.Join(root(t), must)); err != nil {
			t.Errorf("%s is missing: %v", must, err)
		}
	}
}

// TestManagersEntryIsSmall: what is worth reading is in controllers.
func TestManagersEntryIsSmall(t *testing.T) {
	b, err := os.ReadFile(filepath.Join(root(t), "main.go"))
	if err != nil {
		t.Fatal(err)
	}
	if lines := strings.Count(string(b), "\n"); lines >= 80 {
		t.Errorf("main.go has %d lines, it must stay under 80", lines)
	}
}
