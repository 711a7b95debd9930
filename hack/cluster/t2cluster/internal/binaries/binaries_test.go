package binaries

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestVersionComesFromThePinnedModule(t *testing.T) {
	gomod := "module x\n\nrequire (\n\tk8s.io/kubectl v0.37.2\n\tk8s.io/kubernetes v1.37.2\n)\n"
	got, err := kubernetesVersion(gomod)
	if err != nil {
		t.Fatal(err)
	}
	if want := (version{text: "v1.37.2", major: "1", minor: "37"}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	for _, want := range []string{".gitVersion=v1.37.2", ".gitMajor=1", ".gitMinor=37", ".gitTreeState=clean"} {
		if !strings.Contains(got.flags(), want) {
			t.Errorf("flags %q lack %q", got.flags(), want)
		}
	}
	for _, other := range []string{"", "require k8s.io/api v0.37.2\n", "// k8s.io/kubernetes v1.37.2 would be nice\n"} {
		if v, err := kubernetesVersion(other); err == nil {
			t.Errorf("kubernetesVersion(%q) = %+v, want an error", other, v)
		}
	}
}

func TestThisRepositorysModulesCanBePlanned(t *testing.T) {
	wd, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	source, err := Source(wd)
	if err != nil {
		t.Fatal(err)
	}
	steps, err := plan(source, "/bin/cluster")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range steps {
		if _, err := os.Stat(filepath.Join(s.dir, "go.mod")); err != nil {
			t.Errorf("%s: %v", s.what, err)
		}
		if filepath.Dir(s.result) != "/bin/cluster" {
			t.Errorf("%s goes to %s", s.what, s.result)
		}
	}
}

func TestSourceIsFoundFromWithinTheRepository(t *testing.T) {
	root := t.TempDir()
	source := filepath.Join(root, "hack", "cluster")
	for _, dir := range []string{filepath.Join(source, "kube"), filepath.Join(root, "runtime", "model"), filepath.Join(root, "bin")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(source, "kube", "go.mod"), []byte("module x\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, start := range []string{root, source, filepath.Join(source, "kube"), filepath.Join(root, "runtime", "model"), filepath.Join(root, "bin")} {
		if got, err := Source("/no/such/start", start); err != nil || got != source {
			t.Errorf("from %s: got %s, %v, want %s", start, got, err, source)
		}
	}
	if got, err := Source(t.TempDir()); err == nil {
		t.Errorf("from elsewhere: got %s, want an error", got)
	}
}

func TestLinkRoles(t *testing.T) {
	bin := t.TempDir()
	if err := LinkRoles(bin, bin, AssetRoles); err == nil || !strings.Contains(err.Error(), "t2cluster build") {
		t.Fatalf("before the build: got %v, want an error that says to build", err)
	}
	for _, name := range All() {
		if slices.Contains(KubeRoles, name) {
			continue
		}
		if err := os.WriteFile(filepath.Join(bin, name), nil, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(KubeRoles, Missing(bin)); diff != "" {
		t.Errorf("missing before linking (-want +got):\n%s", diff)
	}
	for range 2 { // the second time replaces
		if err := LinkRoles(bin, bin, KubeRoles); err != nil {
			t.Fatal(err)
		}
	}
	if missing := Missing(bin); len(missing) != 0 {
		t.Errorf("missing after linking: %v", missing)
	}

	assets := filepath.Join(t.TempDir(), "assets")
	if err := LinkRoles(bin, assets, AssetRoles); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(assets)
	if err != nil || len(entries) != len(AssetRoles) {
		t.Fatalf("assets: %v, %v, want %v", entries, err, AssetRoles)
	}
	for _, role := range AssetRoles {
		if to, err := os.Readlink(filepath.Join(assets, role)); err != nil || to != filepath.Join(bin, kube) {
			t.Errorf("%s leads to %s, %v, want %s", role, to, err, filepath.Join(bin, kube))
		}
	}
}

func TestLinkRolesReplacesNoFile(t *testing.T) {
	bin, assets := t.TempDir(), t.TempDir()
	own := filepath.Join(assets, "kubectl")
	for _, file := range []string{filepath.Join(bin, kube), own} {
		if err := os.WriteFile(file, []byte("own"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := LinkRoles(bin, assets, AssetRoles); err == nil || !strings.Contains(err.Error(), "in the way") {
		t.Errorf("LinkRoles() = %v, want an error", err)
	}
	if text, err := os.ReadFile(own); err != nil || string(text) != "own" {
		t.Errorf("the file was changed: %q, %v", text, err)
	}
}
