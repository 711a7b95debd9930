package cli_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/transformersquared/operator/runtime/contract"
)

// TestCollectReportsWhatItRemoved, as its Job's termination message does.
func TestCollectReportsWhatItRemoved(t *testing.T) {
	root := t.TempDir()
	gone := filepath.Join(root, contract.DirExperts, "sha256-"+strings.Repeat("1", 64))
	old := time.Now().Add(-time.Hour)
	if err := os.MkdirAll(gone, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(gone, old, old); err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(contract.CollectSpec{DataDir: root, Keep: []string{}, Time: time.Now(), GraceSeconds: 60})
	if err != nil {
		t.Fatal(err)
	}
	spec := filepath.Join(root, "keep.json")
	if err := os.WriteFile(spec, text, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		args []string
		left bool
	}{{[]string{"--dry-run"}, true}, {nil, false}} {
		got := t2(t, nil, "", append([]string{"collect", "--spec", spec, "--json"}, step.args...)...)
		if got.code != contract.ExitOK {
			t.Fatalf("status %d: %s", got.code, got.stderr)
		}
		var said contract.Termination
		if err := json.Unmarshal([]byte(got.stdout), &said); err != nil || said.Collect == nil || said.Collect.Removed != 1 {
			t.Errorf("said %s (%v)", got.stdout, err)
		}
		if _, err := os.Stat(gone); (err == nil) != step.left {
			t.Errorf("%v: %v", step.args, err)
		}
	}
}
