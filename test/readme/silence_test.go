package readme_test

import (
	"bufio"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// mostSilent is how long a step of make demo may print nothing.
const mostSilent = 20 * time.Second

// alive runs hack/alive.sh with a sign of life each second, and tells each line that it prints.
func alive(t *testing.T, told func(line string), args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), filepath.Join(root, "hack", "alive.sh"), args...)
	cmd.Env = append(cmd.Environ(), "ALIVE_SECONDS=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = cmd.Stdout
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for lines := bufio.NewScanner(out); lines.Scan(); {
		all.WriteString(lines.Text() + "\n")
		told(lines.Text())
	}
	return all.String(), cmd.Wait()
}

// The command lasts until two signs of life were seen, however slow the machine is.
func TestALongCommandShowsThatItStillRuns(t *testing.T) {
	seen := filepath.Join(t.TempDir(), "seen")
	sign := regexp.MustCompile(`^    still the thing: building \((\d+) s\)$`)
	var after []int
	out, err := alive(t, func(line string) {
		if m := sign.FindStringSubmatch(line); m != nil {
			s, err := strconv.Atoi(m[1])
			if after = append(after, s); len(after) == 2 {
				err = errors.Join(err, os.WriteFile(seen, nil, 0o600))
			}
			if err != nil {
				t.Error(err)
			}
		}
	}, "the thing: building", "2 s", "bash", "-c", `until [ -e "$0" ]; do sleep 0.1; done; echo "got $1 and $2"`, seen, "a b", "c")
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if !strings.HasPrefix(out, "==> the thing: building (usually 2 s)\n") || !strings.Contains(out, "got a b and c\n") {
		t.Errorf("the output is\n%s", out)
	}
	if len(after) < 2 || after[0] < 1 || after[1] <= after[0] {
		t.Errorf("it shows signs of life after %v seconds:\n%s", after, out)
	}
	var exit *exec.ExitError
	if _, err := alive(t, func(string) {}, "failing", "no time", "bash", "-c", "exit 7"); !errors.As(err, &exit) || exit.ExitCode() != 7 {
		t.Errorf("a command that exits with 7 gives %v", err)
	}
}

// TestNoStepOfTheDemoIsSilent: what make demo runs and may take long goes
// through hack/alive.sh, or prints by itself (the cluster's tool, and the demo,
// whose own tests see to it).
func TestNoStepOfTheDemoIsSilent(t *testing.T) {
	interval := regexp.MustCompile(`ALIVE_SECONDS:-(\d+)`).FindStringSubmatch(read(t, "hack", "alive.sh"))
	if interval == nil {
		t.Fatal("hack/alive.sh has no interval")
	}
	if s, err := strconv.Atoi(interval[1]); err != nil || time.Duration(s)*time.Second >= mostSilent {
		t.Errorf("hack/alive.sh shows a sign of life every %s s", interval[1])
	}
	long := regexp.MustCompile(`\bgo (-C \S+ )?(build|run|test)\b|\bcrane push\b|\bapt-get\b`)
	demo := []string{"demo", "demo-down", "setup", "cluster-bin", "cluster-up", "build", "images", "load-images"}
	seen := 0
	for name, recipe := range recipes(read(t, "Makefile")) {
		if !slices.Contains(demo, name) {
			continue
		}
		for line := range strings.Lines(recipe) {
			if long.MatchString(line) {
				seen++
				if !strings.Contains(line, "$(ALIVE)") {
					t.Errorf("target %s may be silent for long: %s", name, strings.TrimSpace(line))
				}
			}
		}
	}
	if seen < 4 {
		t.Errorf("found %d long commands in the Makefile: is it still read?", seen)
	}
	for line := range strings.Lines(read(t, "hack", "setup.sh")) {
		if strings.Contains(line, "apt-get") && !strings.Contains(line, "alive") && !strings.HasPrefix(line, "  bash -c") && !strings.Contains(line, "echo") {
			t.Errorf("hack/setup.sh may be silent for long: %s", line)
		}
	}
}

// recipes are a Makefile's, by target.
func recipes(makefile string) map[string]string {
	found, name := map[string]string{}, ""
	for line := range strings.Lines(makefile) {
		if m := target.FindStringSubmatch(line); m != nil {
			name = m[1]
		} else if strings.HasPrefix(line, "\t") {
			found[name] += line
		}
	}
	return found
}
