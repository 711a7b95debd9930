package readme_test

import (
	"os/exec"
	"regexp"
	"strings"
	"testing"
)

// TestCasesAreHeldByTestsThatAreThere looks up every test that the table of cases
// names: one that was renamed holds nothing any more.
func TestCasesAreHeldByTestsThatAreThere(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), "git", "grep", "-hoE", `^func Test\w+`, "--", "*_test.go")
	cmd.Dir = root
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	there := map[string]bool{}
	for line := range strings.Lines(string(out)) {
		there[strings.TrimPrefix(strings.TrimSpace(line), "func ")] = true
	}
	named := regexp.MustCompile(`\bTest[A-Z]\w+`).FindAllString(read(t, "test", "CASES.md"), -1)
	if len(named) < 100 {
		t.Errorf("the table names %d tests only", len(named))
	}
	for _, name := range named {
		if !there[name] {
			t.Errorf("the table of cases names %s, which is not there", name)
		}
	}
}
