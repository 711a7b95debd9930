package evaluate

import (
	"path/filepath"
	"testing"

	"github.com/transformersquared/operator/runtime/artifact"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/test/faults"
)

// TestBitFlipsOfAnswersAreFound, in what an evaluation goes on from, which is then asked again,
// and in what it has come to.
func TestBitFlipsOfAnswersAreFound(t *testing.T) {
	dir := t.TempDir()
	answered := filepath.Join(dir, "answers-0-0.json")
	err := artifact.WriteSealed(answered, column{
		Spec: "sha256:1", Answerer: "math", Seconds: 1.5, Samples: []contract.EvaluationSample{{Line: 1, Answer: "5", Right: true}, {Line: 2, Answer: "ü"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	found := faults.Reader{Path: answered, Remedies: []string{""}, Read: func() (any, error) { return readJSON[column](answered, maxColumn) }}.Damage(t, 1000, 1)
	t.Logf("%+v", found)
	ended := filepath.Join(dir, resultFile)
	err = artifact.WriteSealed(ended, result{Spec: "sha256:1", Termination: contract.Termination{Evaluation: &contract.EvaluationResult{
		Digest: "sha256:2", Sets: []contract.SetScores{{Questions: 64, Candidate: 30}},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	found = faults.Reader{Path: ended, Remedies: []string{""}, Read: func() (any, error) { return readJSON[result](ended, maxColumn) }}.Damage(t, 1000, 1)
	t.Logf("%+v", found)
}
