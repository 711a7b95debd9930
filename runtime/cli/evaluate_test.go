package cli_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/engine/enginetest"
	"github.com/transformersquared/operator/runtime/jobs"
)

func TestEvaluateAsAJobLeavesATerminationMessage(t *testing.T) {
	v := enginetest.New(t)
	path := filepath.Join(t.TempDir(), "questions.jsonl")
	run := func(content string) (outcome, contract.Termination) {
		t.Helper()
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		spec, err := json.Marshal(map[string]any{
			"name": "x", "runID": "x", "dataDir": v.Root, "baseDigest": v.ModelDigest, "decompositionDigest": v.DecompositionDigest,
			"candidate": contract.ExpertSet{Strategy: contract.StrategyPrompt, Experts: []contract.ExpertRef{
				{Name: "math", Skill: "math", Digest: v.Expert(t, "math", 1).Digest},
			}},
			"sets": []map[string]any{{
				"field": "spec.rollout.gate.dataset", "dataset": map[string]any{"path": path, "format": "Pairs"}, "reward": "ExactMatch",
			}},
			"maxNewTokens": 2,
		})
		if err != nil {
			t.Fatal(err)
		}
		log := filepath.Join(t.TempDir(), "termination-log")
		got := t2(t, map[string]string{contract.EnvSpec: string(spec), contract.EnvTerminationLog: log}, "", "evaluate")
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
	got, told := run(strings.Repeat(`{"prompt": "a", "answer": "b"}`+"\n", 3))
	found := told.Evaluation
	if got.code != 0 || found == nil || len(found.Sets) != 1 || found.Sets[0].Questions != 3 || len(found.Experts) != 1 || !strings.HasPrefix(told.Device, "cpu (") {
		t.Errorf("status %d, %+v, %s", got.code, told, got.stderr)
	}
	if want := "3 questions: base "; !strings.Contains(got.stdout, want) {
		t.Errorf("output is %q, want %q in it", got.stdout, want)
	}
	got, told = run("")
	if got.code != contract.ExitPermanent || told.Reason != contract.ReasonInvalidDataset || !strings.HasPrefix(told.Message, "spec.rollout.gate.dataset: ") {
		t.Errorf("status %d, %+v", got.code, told)
	}
}

// What the largest evaluation found fits into a termination message.
func TestTheLargestEvaluationIsTold(t *testing.T) {
	digest := contract.DigestPrefix + strings.Repeat("a", 64)
	found := &contract.EvaluationResult{Digest: digest, StableDigest: digest, CandidateDigest: digest, Seconds: 123456.789012345}
	for range 1 + contract.MaxGuards {
		found.Sets = append(found.Sets, contract.SetScores{
			Questions: 10000, Base: 10000, Stable: 10000, Candidate: 10000, Won: 10000, Lost: 10000, DatasetDigest: digest,
		})
	}
	for range contract.MaxExperts {
		found.Experts = append(found.Experts, 10000)
	}
	if _, err := jobs.EncodeTermination(contract.Termination{Evaluation: found, Device: strings.Repeat("d", 128)}); err != nil {
		t.Error(err)
	}
}
