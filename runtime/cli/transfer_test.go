package cli_test

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/transformersquared/operator/runtime/checkpoint"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/engine/enginetest"
)

// strangers are two bases of one shape, with an expert of the same z each.
func strangers(t *testing.T) (home, other *enginetest.Volume, homeExpert, otherExpert string) {
	t.Helper()
	kind := enginetest.Usual
	kind.Seed = 2
	home, other = enginetest.New(t), enginetest.NewOf(t, kind)
	return home, other, home.ExpertDir(t, home.Expert(t, "math", 1).Digest), other.ExpertDir(t, other.Expert(t, "math", 1).Digest)
}

func TestExpertsOfAnotherBaseNeedToBeAllowed(t *testing.T) {
	home, other, foreign, native := strangers(t)
	generate := func(flags ...string) outcome {
		return t2(t, nil, "", append([]string{"generate", "--model", other.ModelDir, "--prompt", "hello", "--max-tokens", "16", "--json"}, flags...)...)
	}
	want := generate("--expert", native)
	if want.code != contract.ExitOK {
		t.Fatalf("status %d: %s", want.code, want.stderr)
	}
	// Neither its own decomposition nor the model's lets it in unasked.
	for name, flags := range map[string][]string{
		"unasked":                        {"--expert", foreign},
		"with the decomposition at home": {"--expert", foreign, "--decomposition", home.DecompositionDir},
		"with the model's decomposition": {"--expert", foreign, "--decomposition", other.DecompositionDir},
		"as a part of a mixture":         {"--expert", native, "--expert", foreign},
	} {
		got := generate(flags...)
		for _, part := range []string{"--allow-transfer", home.ModelDigest, other.ModelDigest} {
			if got.code == contract.ExitOK || !strings.Contains(got.stderr, part) {
				t.Errorf("%s: status %d, %q; want a refusal with %q", name, got.code, got.stderr, part)
			}
		}
	}
	for name, flags := range map[string][]string{
		"alone, and the decomposition is found": {"--expert", foreign, "--allow-transfer"},
		"alone":                                 {"--expert", foreign, "--allow-transfer", "--decomposition", other.DecompositionDir},
		"mixed with one of this base":           {"--expert", foreign, "--expert", native, "--allow-transfer"},
		"an expert of this base":                {"--expert", native, "--allow-transfer"},
	} {
		got := generate(flags...)
		if diff := cmp.Diff(want.stdout, got.stdout); got.code != contract.ExitOK || diff != "" {
			t.Errorf("%s: status %d, %s%s", name, got.code, got.stderr, diff)
		}
	}
	got := generate("--expert", foreign, "--allow-transfer", "--decomposition", home.DecompositionDir)
	if got.code == contract.ExitOK || !strings.Contains(got.stderr, "is of model "+home.ModelDigest) {
		t.Errorf("with the decomposition at home: status %d, %q", got.code, got.stderr)
	}
	if err := os.RemoveAll(other.DecompositionDir); err != nil {
		t.Fatal(err)
	}
	if got := generate("--expert", foreign, "--allow-transfer"); got.code != contract.ExitUsage || !strings.Contains(got.stderr, "--decomposition") {
		t.Errorf("without a decomposition: status %d, %q", got.code, got.stderr)
	}
}

func TestEvalAndExportTransferExperts(t *testing.T) {
	_, other, foreign, native := strangers(t)
	set := filepath.Join(t.TempDir(), "set.jsonl")
	if err := os.WriteFile(set, []byte(`{"prompt":"hello","answer":"x"}`+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	eval := func(path string, flags ...string) outcome {
		return t2(t, nil, "", append([]string{"eval", "--model", other.ModelDir, "--dataset", set, "--format", contract.FormatPairs,
			"--reward", contract.RewardExactMatch, "--max-new-tokens", "8", "--records", "--json", "--expert", path}, flags...)...)
	}
	if got := eval(foreign); got.code == contract.ExitOK || !strings.Contains(got.stderr, "--allow-transfer") {
		t.Errorf("eval: status %d, %q", got.code, got.stderr)
	}
	if diff := cmp.Diff(eval(native).stdout, eval(foreign, "--allow-transfer").stdout); diff != "" {
		t.Errorf("eval: %s", diff)
	}
	exported := func(path string, flags ...string) []float32 {
		out := filepath.Join(t.TempDir(), "exported")
		got := t2(t, nil, "", append([]string{"export", "--model", other.ModelDir, "--out", out, "--expert", path}, flags...)...)
		if got.code != contract.ExitOK {
			t.Fatalf("export: status %d, %s", got.code, got.stderr)
		}
		ck, err := checkpoint.OpenDir(out)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = ck.Close() }()
		w, err := ck.Tensor("model.layers.1.mlp.up_proj.weight")
		if err != nil {
			t.Fatal(err)
		}
		return w.Data
	}
	if diff := cmp.Diff(exported(native), exported(foreign, "--allow-transfer")); diff != "" {
		t.Errorf("export: %s", diff)
	}
}

func TestServeAndExplainTransferExperts(t *testing.T) {
	_, other, foreign, native := strangers(t)
	args := func(path string) []string {
		return []string{"--model", other.ModelDir, "--strategy", contract.StrategyFixed, "--expert", "math=" + path}
	}
	explain := func(path string, flags ...string) outcome {
		return t2(t, nil, "", append(append([]string{"explain", "--prompt", "hello", "--json"}, args(path)...), flags...)...)
	}
	if got := explain(foreign); got.code == contract.ExitOK || !strings.Contains(got.stderr, "--allow-transfer") {
		t.Errorf("explain: status %d, %q", got.code, got.stderr)
	}
	if got := explain(foreign, "--allow-transfer"); got.code != contract.ExitOK || !strings.Contains(got.stdout, `"math": 1`) {
		t.Errorf("explain: status %d, %s%s", got.code, got.stdout, got.stderr)
	}
	says := func(flags ...string) string {
		api, _, stop := serving(t, nil, flags...)
		defer stop()
		return complete(t, api)
	}
	if own, transferred := says(args(native)...), says(append(args(foreign), "--allow-transfer")...); own != transferred || own == "" {
		t.Errorf("it says %q, one that was made for the base %q", transferred, own)
	}
}

// complete lets a server complete a prompt.
func complete(t *testing.T, api string) string {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, api+contract.PathCompletions,
		strings.NewReader(`{"model":"demo","prompt":"hello","max_tokens":16,"temperature":0}`))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	var answer struct{ Choices []struct{ Text string } }
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil || len(answer.Choices) != 1 {
		t.Fatalf("status %s, %+v, %v", resp.Status, answer, err)
	}
	return answer.Choices[0].Text
}
