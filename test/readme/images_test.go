package readme_test

import (
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/transformersquared/operator/test/readme"
)

// TestEveryImageComesFromOnesOwnRegistry does to the manager's Deployment what
// README does for a cluster of one's own: no image keeps a name that only the local
// cluster knows.
func TestEveryImageComesFromOnesOwnRegistry(t *testing.T) {
	printed := regexp.MustCompile(`\| sed '([^']+)' \| kubectl apply`)
	ours := regexp.MustCompile(`transformersquared\.dev/[a-z0-9-]+:\S+`)
	manager := read(t, "config", "manager", "manager.yaml")
	if found := ours.FindAllString(manager, -1); len(found) < 3 {
		t.Fatalf("the manager's Deployment names the images %v: are they still read?", found)
	}
	var scripts []string
	for _, b := range readme.Blocks(read(t, "README.md")) {
		for _, m := range printed.FindAllStringSubmatch(b.Text, -1) {
			scripts = append(scripts, m[1])
		}
	}
	if len(scripts) != 1 {
		t.Fatalf("README renames images by %q, want one sed", scripts)
	}
	cmd := exec.CommandContext(t.Context(), "sed", scripts[0])
	cmd.Stdin = strings.NewReader(manager)
	renamed, err := cmd.Output()
	if err != nil {
		t.Fatalf("sed %s: %v", scripts[0], err)
	}
	if left := ours.FindAllString(string(renamed), -1); len(left) > 0 {
		t.Errorf("README's command leaves %v as they are", left)
	}
}
