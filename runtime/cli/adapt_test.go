package cli_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/engine/enginetest"
)

func TestAdaptAsAJobLeavesATerminationMessage(t *testing.T) {
	v := enginetest.New(t)
	path := filepath.Join(t.TempDir(), "examples.jsonl")
	if err := os.WriteFile(path, []byte(strings.Repeat(`{"prompt": "a", "answer": "b"}`+"\n", 3)), 0o600); err != nil {
		t.Fatal(err)
	}
	run := func(limit int) (outcome, contract.Termination) {
		t.Helper()
		spec, err := json.Marshal(map[string]any{
			"name": "x", "runID": "x", "dataDir": v.Root, "baseDigest": v.ModelDigest, "decompositionDigest": v.DecompositionDigest,
			"experts": []contract.AdaptExpert{
				{Name: "math", Digest: v.Expert(t, "math", 1).Digest}, {Name: "code", Digest: v.Expert(t, "code", 2).Digest},
			},
			"examples": map[string]any{"path": path, "format": "Pairs", "limit": limit}, "reward": "ExactMatch",
			"search": map[string]any{"generations": 2, "maxNewTokens": 2},
		})
		if err != nil {
			t.Fatal(err)
		}
		log := filepath.Join(t.TempDir(), "termination-log")
		got := t2(t, map[string]string{contract.EnvSpec: string(spec), contract.EnvTerminationLog: log}, "", "adapt")
		raw, err := os.ReadFile(log)
		if err != nil {
			t.Fatal(err)
		}
		var told contract.Termination
		if err := json.Unmarshal(raw, &told); err != nil {
			t.Fatal(err)
		}
		return got, told
	}
	got, told := run(0)
	found := told.FewShot
	if got.code != 0 || found == nil || len(found.Weights) != 2 || found.Examples != 3 || !strings.HasPrefix(told.Device, "cpu (") {
		t.Errorf("status %d, %+v, %s", got.code, told, got.stderr)
	}
	if want := "on 3 examples, after "; !strings.Contains(got.stdout, want) {
		t.Errorf("output is %q, want %q in it", got.stdout, want)
	}
	got, told = run(2)
	if got.code != contract.ExitPermanent || told.Reason != contract.ReasonInvalidDataset || !strings.Contains(told.Message, "a search takes 3 to 20") {
		t.Errorf("status %d, %+v", got.code, told)
	}
}
