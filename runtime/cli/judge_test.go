package cli_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/transformersquared/operator/runtime/contract"
)

func writeFile(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file.jsonl")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// verdicts is the JSON of t2 judge.
type verdicts struct {
	Correct  int `json:"correct"`
	N        int `json:"n"`
	Verdicts []struct {
		Right     bool   `json:"right"`
		Extracted string `json:"extracted"`
		Why       string `json:"why"`
	} `json:"verdicts"`
}

func TestJudgeSaysWhatARewardMakesOfAnswers(t *testing.T) {
	set := writeFile(t, `{"question": "2+3?", "answer": "#### 5"}`+"\n"+`{"question": "?", "answer": "none"}`+"\n"+
		`{"question": "2+4?", "answer": "#### 6"}`+"\n")
	answers := writeFile(t, `{"answer": "#### 5"}`+"\n"+`{"answer": "#### 0"}`+"\n"+`{"answer": "It is 5, so the answer is 7."}`+"\n")
	args := []string{"judge", "--dataset", set, "--format", "GSM8K", "--answers", answers}

	got := t2(t, nil, "", append(args, "--json")...)
	var out verdicts
	decoder := json.NewDecoder(strings.NewReader(got.stdout))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&out); err != nil || got.code != 0 {
		t.Fatalf("%v: %q, %q", err, got.stdout, got.stderr)
	}
	want := verdicts{Correct: 1, N: 3}
	want.Verdicts = append(want.Verdicts, []struct {
		Right     bool   `json:"right"`
		Extracted string `json:"extracted"`
		Why       string `json:"why"`
	}{
		{true, "5", `after "####": equal to "5"`},
		{false, "", `the record cannot be judged: line 2, field "answer": "none" has no number, which the reward Numeric compares`},
		{false, "7", `after "answer is": not equal to "6"`},
	}...)
	if diff := cmp.Diff(want, out); diff != "" {
		t.Errorf("verdicts differ (-want +got):\n%s", diff)
	}

	text := t2(t, nil, "", args...)
	for _, want := range []string{
		"NR  VERDICT  TAKEN FOR THE ANSWER  WHY\n", "1   right    5 ", "3   wrong    7 ", "\n1 of 3 right, reward Numeric\n",
	} {
		if text.code != 0 || !strings.Contains(text.stdout, want) {
			t.Errorf("status %d, output %q, want %q in it", text.code, text.stdout, want)
		}
	}
}

func TestJudgeRunsProgramsAndSaysWhatConfinesThem(t *testing.T) {
	set := writeFile(t, strings.Repeat(`{"text": "Double.", "test_list": ["assert f(2) == 4"]}`+"\n", 2))
	answers := writeFile(t, "{\"answer\": \"```python\\ndef f(x: int): return f'{x}' and 2 * x\\n```\"}"+"\n"+`{"answer": "def f(x): return x"}`+"\n")
	args := []string{"judge", "--dataset", set, "--format", "MBPP", "--answers", answers, "--json"}
	var out struct {
		verdicts
		Confinement string `json:"confinement"`
	}
	got := t2(t, nil, "", args...)
	if err := json.Unmarshal([]byte(got.stdout), &out); err != nil || got.code != 0 {
		t.Fatalf("%v: %q, %q", err, got.stdout, got.stderr)
	}
	if out.Correct != 1 || out.N != 2 || out.Verdicts[1].Why != "f(2) is 2, not 4" || !strings.Contains(out.Confinement, "seccomp: true") {
		t.Errorf("t2 judge printed %s", got.stdout)
	}
	for name, want := range map[string]struct {
		vars  map[string]string
		extra []string
		error string
	}{
		"an interpreter that is not there": {extra: []string{"--python", "/nonexistent/python3"}, error: "apt-get install python3-minimal"},
		"the same by its variable":         {vars: map[string]string{"T2_PYTHON": "/nonexistent/python3"}, error: "/nonexistent/python3"},
	} {
		got := t2(t, want.vars, "", append(args, want.extra...)...)
		if got.code != contract.ExitFailed || !strings.Contains(got.stderr, want.error) {
			t.Errorf("%s: status %d, %q, want %q", name, got.code, got.stderr, want.error)
		}
	}
}

func TestJudgeRefusesAnswersThatDoNotFitTheSet(t *testing.T) {
	set := writeFile(t, `{"problem": "?", "answer": "5"}`+"\n"+`{"problem": "?", "answer": "6"}`+"\n")
	for name, test := range map[string]struct{ answers, want string }{
		"one too few":  {`{"answer": "5"}`, "has 1 answers, and"},
		"one too many": {strings.Repeat(`{"answer": "5"}`+"\n", 3), "has 3 answers, and"},
		"no object":    {`"5"` + "\n" + `{"answer": "6"}`, "line 1: this is a JSON string, not an object"},
		"another name": {`{"answer": "5"}` + "\n" + `{"text": "6"}`, `line 2: field "answer" is missing`},
	} {
		t.Run(name, func(t *testing.T) {
			path := writeFile(t, test.answers)
			got := t2(t, nil, "", "judge", "--dataset", set, "--format", "MATH", "--answers", path, "--json")
			if got.code != 1 || got.stdout != "" || !strings.Contains(got.stderr, test.want) || !strings.Contains(got.stderr, path) {
				t.Errorf("status %d, output %q, error %q, want %q", got.code, got.stdout, got.stderr, test.want)
			}
		})
	}
}
