package readme_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"github.com/transformersquared/operator/test/readme"
)

var root = filepath.Join("..", "..")

func TestBlocks(t *testing.T) {
	got := readme.Blocks("# A\ntext\n```sh\nmake x # why\n\n# only this\nls\n```\n## B c\n```\n# no heading\n```\n```yaml\na: 1\n")
	want := []readme.Block{
		{Section: "A", Language: "sh", Line: 4, Text: "make x # why\n\n# only this\nls\n"},
		{Section: "B c", Line: 11, Text: "# no heading\n"},
		{Section: "B c", Language: "yaml", Line: 14, Text: "a: 1\n"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("blocks (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"make x", "# only this", "ls"}, got[0].Commands()); diff != "" {
		t.Errorf("commands (-want +got):\n%s", diff)
	}
}

func read(t *testing.T, path ...string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(append([]string{root}, path...)...))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// readmes are all README.md that git knows, by their path in the repository.
func readmes(t *testing.T) map[string]string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "git", "ls-files", "--cached", "--others", "--exclude-standard", "*README.md")
	cmd.Dir = root
	out, err := cmd.Output()
	if err != nil {
		t.Skipf("this is no checkout of the repository: %v", err)
	}
	texts := map[string]string{}
	for path := range strings.FieldsSeq(string(out)) {
		texts[path] = read(t, path)
	}
	if len(texts) < 5 {
		t.Fatalf("found %d README.md", len(texts))
	}
	return texts
}

var (
	target     = regexp.MustCompile(`(?m)^([a-z0-9-]+):`)
	makeCall   = regexp.MustCompile("(?:^|[`\\s])make ((?:[a-z][a-z0-9-]*(?: |$|`))+)")
	link       = regexp.MustCompile(`\[[^\]]*\]\(([^)\s]+)\)`)
	heading    = regexp.MustCompile(`(?m)^#+ (.*)$`)
	notAnchor  = regexp.MustCompile(`[^\p{L}\p{N} _-]`)
	inlineCode = regexp.MustCompile("`[^`\n]+`")
)

// TestMakeTargetsExist looks at what READMEs say in code, inline or in blocks.
func TestMakeTargetsExist(t *testing.T) {
	targets := map[string]bool{}
	for _, m := range target.FindAllStringSubmatch(read(t, "Makefile"), -1) {
		targets[m[1]] = true
	}
	seen := 0
	for path, text := range readmes(t) {
		code := inlineCode.FindAllString(text, -1)
		for _, b := range readme.Blocks(text) {
			code = append(code, b.Commands()...)
		}
		for _, c := range code {
			for _, m := range makeCall.FindAllStringSubmatch(c, -1) {
				for name := range strings.FieldsSeq(strings.Trim(m[1], "`")) {
					seen++
					if name = strings.Trim(name, "`"); !targets[name] {
						t.Errorf("%s: %s: the Makefile has no target %q", path, strings.TrimSpace(c), name)
					}
				}
			}
		}
	}
	if seen < 8 {
		t.Errorf("the READMEs name %d targets: are they still read?", seen)
	}
}

// TestLinksLeadSomewhere checks those within the repository, and their anchors.
func TestLinksLeadSomewhere(t *testing.T) {
	texts, seen := readmes(t), 0
	for path, text := range texts {
		for _, m := range link.FindAllStringSubmatch(text, -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			seen++
			file, anchor, _ := strings.Cut(m[1], "#")
			to := filepath.Join(filepath.Dir(path), file)
			if file == "" {
				to = path
			}
			if _, err := os.Stat(filepath.Join(root, to)); err != nil {
				t.Errorf("%s links to %s, which is not there", path, m[1])
				continue
			}
			if anchor != "" && !slices.Contains(anchors(read(t, to)), anchor) {
				t.Errorf("%s links to %s: %s has no such heading", path, m[1], to)
			}
		}
	}
	if seen < 10 {
		t.Errorf("the READMEs have %d links: are they still read?", seen)
	}
}

// anchors are a Markdown text's headings as links name them.
func anchors(text string) []string {
	var list []string
	for _, m := range heading.FindAllStringSubmatch(text, -1) {
		plain := notAnchor.ReplaceAllString(strings.ToLower(m[1]), "")
		list = append(list, strings.ReplaceAll(plain, " ", "-"))
	}
	return list
}

// object is what the tests need of a sample.
type object struct {
	Kind     string `json:"kind"`
	Metadata struct {
		Name string `json:"name"`
	} `json:"metadata"`
}

// samples are the objects in a folder's YAML files.
func samples(t *testing.T, dir string) []object {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(root, dir, "*.yaml"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%s has no YAML (%v)", dir, err)
	}
	var objects []object
	for _, file := range files {
		for doc := range strings.SplitSeq(read(t, dir, filepath.Base(file)), "\n---\n") {
			var o object
			if err := yaml.Unmarshal([]byte(doc), &o); err != nil {
				t.Fatalf("%s: %v", file, err)
			}
			objects = append(objects, o)
		}
	}
	return objects
}

// TestCommandsNameWhatTheDemoHas: every namespace and object in README's
// commands for the demo is one of the samples'.
func TestCommandsNameWhatTheDemoHas(t *testing.T) {
	has := map[string]bool{}
	for _, o := range samples(t, "config/samples") {
		has[strings.ToLower(o.Kind)+"/"+o.Metadata.Name] = true
		if o.Kind == "AdaptivePolicy" { // Its Service has its name.
			has["service/"+o.Metadata.Name] = true
		}
	}
	namespace := regexp.MustCompile(`-n (\S+)`)
	named := regexp.MustCompile(`\b(basemodel|expertvector|adaptivepolicy|service)[ /]([a-z][a-z0-9-]*)`)
	seen := 0
	for _, b := range readme.Blocks(read(t, "README.md")) {
		for _, c := range b.Commands() {
			if m := namespace.FindStringSubmatch(c); m != nil {
				seen++
				if !has["namespace/"+m[1]] {
					t.Errorf("%s: the samples have no namespace %s", c, m[1])
				}
				for _, m := range named.FindAllStringSubmatch(c, -1) {
					seen++
					if !has[m[1]+"/"+m[2]] {
						t.Errorf("%s: the samples have no %s %s", c, m[1], m[2])
					}
				}
			}
		}
	}
	if seen < 6 {
		t.Errorf("README's commands name %d things of the demo: are they still read?", seen)
	}
}

// TestFoldersAreListed: README's table has every folder with a README of its
// own, and no other.
func TestFoldersAreListed(t *testing.T) {
	entries, err := os.ReadDir(root)
	if err != nil {
		t.Fatal(err)
	}
	text := read(t, "README.md")
	for _, e := range entries {
		if _, err := os.Stat(filepath.Join(root, e.Name(), "README.md")); err != nil || !e.IsDir() || strings.HasPrefix(e.Name(), ".") {
			continue
		}
		if !strings.Contains(text, "| ["+e.Name()+"]("+e.Name()+") |") {
			t.Errorf("README's table has no row for %s", e.Name())
		}
	}
}

// TestNothingIsClaimedThatIsNotSo holds what was once claimed wrongly.
func TestNothingIsClaimedThatIsNotSo(t *testing.T) {
	text := strings.Join(strings.Fields(read(t, "README.md")), " ")
	if !strings.Contains(text, "has not been timed on a device yet") {
		t.Error("README does not say what the CUDA runtime was proven on: with figures of a device, change this test")
	}
	for sentence := range strings.SplitSeq(text, ". ") {
		if strings.Contains(sentence, "Argo CD") && strings.Contains(sentence, "trust") {
			t.Errorf("Argo CD does not read kstatus: %s", sentence)
		}
	}
	if strings.Contains(text, "Argo CD") && !strings.Contains(text, "Argo CD does not read kstatus") {
		t.Error("README names Argo CD and does not say that it does not read kstatus")
	}
}
