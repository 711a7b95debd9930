package cli_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/transformersquared/operator/runtime/cli"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/engine/enginetest"
)

// TestMain makes this test binary serve as t2 where a subcommand starts itself.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "judge-worker" {
		env := &cli.Env{Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Getenv: os.Getenv}
		os.Exit(cli.Execute(context.Background(), env, os.Args[1:]))
	}
	os.Exit(m.Run())
}

// outcome is what a run of t2 leaves behind.
type outcome struct {
	code           int
	stdout, stderr string
}

// t2 runs the command line with these environment variables.
func t2(t *testing.T, vars map[string]string, stdin string, args ...string) outcome {
	t.Helper()
	var stdout, stderr bytes.Buffer
	env := &cli.Env{
		Stdin: strings.NewReader(stdin), Stdout: &stdout, Stderr: &stderr,
		Getenv: func(name string) string { return vars[name] },
	}
	code := cli.Execute(t.Context(), env, args)
	return outcome{code, stdout.String(), stderr.String()}
}

func TestWrongUsageHasAStatusOfItsOwn(t *testing.T) {
	gsm8k := writeFile(t, `{"question": "2+3?", "answer": "#### 5"}`)
	tests := map[string][]string{
		"an unknown subcommand":     {"tarin"},
		"an unknown flag":           {"generate", "--module", "x"},
		"a bad value":               {"generate", "--max-tokens", "many"},
		"a superfluous argument":    {"eval", "x"},
		"a missing model":           {"generate", "--prompt", "x"},
		"a missing prompt":          {"generate", "--model", "x"},
		"a missing data set":        {"eval", "--model", "x"},
		"a missing specification":   {"train"},
		"nothing to search":         {"adapt"},
		"a specification not there": {"train", "--spec", "/nonexistent.json"},
		"no tokens":                 {"generate", "--model", "x", "--prompt", "x", "--max-tokens", "0"},
		"a temperature below zero":  {"generate", "--model", "x", "--prompt", "x", "--temperature", "-1"},
		"an unknown dtype":          {"generate", "--model", "x", "--prompt", "x", "--dtype", "f16"},
		"an unknown backend":        {"generate", "--model", "x", "--prompt", "x", "--backend", "abacus"},
		"one of another program":    {"eval", "--model", "x", "--dataset", gsm8k, "--format", "GSM8K", "--backend", "cuda"},
		"another, to serve":         {"serve", "--model", "x", "--dtype", "FP8"},
		"a missing set to judge":    {"judge", "--answers", "x"},
		"missing answers":           {"judge", "--dataset", "x", "--format", "GSM8K"},
		"an unknown reward":         {"eval", "--model", "x", "--dataset", "x", "--format", "GSM8K", "--reward", "Guess"},
	}
	for name, args := range tests {
		t.Run(name, func(t *testing.T) {
			got := t2(t, nil, "", args...)
			if got.code != contract.ExitUsage || got.stdout != "" || !strings.HasPrefix(got.stderr, "t2: ") {
				t.Errorf("status %d, output %q, error %q; want status 2 and an error", got.code, got.stdout, got.stderr)
			}
		})
	}
}

func TestFailuresHaveStatusOneAndOneErrorLine(t *testing.T) {
	gsm8k := writeFile(t, `{"question": "2+3?", "answer": "#### 5"}`)
	tests := map[string][]string{
		"a model that is not there":    {"generate", "--model", "/nonexistent", "--prompt", "x"},
		"a data set that is not there": {"eval", "--model", "x", "--dataset", "/nonexistent", "--format", "ARC"},
		"answers that are not there":   {"judge", "--dataset", gsm8k, "--format", "GSM8K", "--answers", "/nonexistent"},
		"an expert that is not there":  {"generate", "--model", "x", "--prompt", "x", "--expert", "/nonexistent"},
	}
	for name, args := range tests {
		t.Run(name, func(t *testing.T) {
			got := t2(t, nil, "", args...)
			if got.code != contract.ExitFailed || strings.Count(got.stderr, "\n") != 1 || !strings.Contains(got.stderr, "/nonexistent") {
				t.Errorf("status %d, error %q; want status 1 and one line with the path", got.code, got.stderr)
			}
		})
	}
}

func TestHelpShowsAnExampleOfEverySubcommand(t *testing.T) {
	root := t2(t, nil, "", "--help")
	if root.code != 0 || strings.Contains(root.stdout, "judge-worker") {
		t.Errorf("help ends with %d:\n%s", root.code, root.stdout)
	}
	_, list, _ := strings.Cut(root.stdout, "Available Commands:\n")
	list, _, _ = strings.Cut(list, "\n\n")
	for line := range strings.Lines(list) {
		name := strings.Fields(line)[0]
		if name == "help" || name == "completion" {
			continue
		}
		got := t2(t, nil, "", name, "--help")
		if got.code != 0 || !strings.Contains(got.stdout, "Examples:\n  t2 "+name) || !strings.Contains(got.stdout, "--json") {
			t.Errorf("help of %s ends with %d and has no example or no --json:\n%s", name, got.code, got.stdout)
		}
	}
}

func TestGreedyTextMatchesTheReferenceTranscript(t *testing.T) {
	shared := os.Getenv("T2_SHARED_DATA")
	if shared == "" {
		t.Skip("T2_SHARED_DATA is not set")
	}
	dir := filepath.Join(shared, "models", "tinystories-656k")
	raw, err := os.ReadFile(filepath.Join(dir, "greedy.json"))
	if err != nil {
		t.Fatal(err)
	}
	var reference struct {
		Prompt string  `json:"prompt"`
		BOS    int32   `json:"bos"`
		IDs    []int32 `json:"ids_after_bos"`
	}
	if err := json.Unmarshal(raw, &reference); err != nil {
		t.Fatal(err)
	}
	got := t2(t, nil, "", "generate", "--model", dir, "--prompt", reference.Prompt, "--max-tokens", "95", "--temperature", "0", "--json")
	var out struct {
		PromptTokens, Tokens []int32
		Text                 string
	}
	if err := json.Unmarshal([]byte(got.stdout), &out); err != nil {
		t.Fatalf("%v: %q, %q", err, got.stdout, got.stderr)
	}
	ids := append(out.PromptTokens, out.Tokens...)
	n := min(len(ids), len(reference.IDs)+1)
	if n < 90 {
		t.Fatalf("%d tokens only", n)
	}
	if diff := cmp.Diff(append([]int32{reference.BOS}, reference.IDs...)[:n], ids[:n]); diff != "" {
		t.Errorf("tokens differ (-reference +got):\n%s", diff)
	}
}

func TestGenerateReadsStandardInputAndDrawsBySeed(t *testing.T) {
	v := enginetest.New(t)
	draw := func(stdin, prompt string, flags ...string) string {
		t.Helper()
		got := t2(t, nil, stdin, append([]string{"generate", "--model", v.ModelDir, "--prompt", prompt, "--json", "--max-tokens", "12"}, flags...)...)
		if got.code != 0 {
			t.Fatalf("status %d: %s", got.code, got.stderr)
		}
		return got.stdout
	}
	if diff := cmp.Diff(draw("", "hello"), draw("hello", "-")); diff != "" {
		t.Errorf("standard input differs (-flag +input):\n%s", diff)
	}
	warm := []string{"--temperature", "1", "--top-k", "40", "--top-p", "0.9"}
	one, again := draw("", "hello", append(warm, "--seed", "1")...), draw("", "hello", append(warm, "--seed", "1")...)
	if diff := cmp.Diff(one, again); diff != "" {
		t.Errorf("the same seed differs (-one +again):\n%s", diff)
	}
	if one == draw("", "hello", append(warm, "--seed", "2")...) {
		t.Error("another seed drew the same")
	}
	if draw("", "hello") == draw("", "hello", "--chat", "--system", "Be brief.") {
		t.Error("the chat template made no difference")
	}
}

func TestExpertsChangeWhatAModelSays(t *testing.T) {
	v := enginetest.New(t)
	a, b := v.ExpertDir(t, v.Expert(t, "a", 1).Digest), v.ExpertDir(t, v.Expert(t, "b", 2).Digest)
	say := func(flags ...string) string {
		t.Helper()
		got := t2(t, nil, "", append([]string{"generate", "--model", v.ModelDir, "--prompt", "hello", "--max-tokens", "16", "--json"}, flags...)...)
		if got.code != 0 {
			t.Fatalf("status %d: %s", got.code, got.stderr)
		}
		return got.stdout
	}
	// The decomposition is found beside the model.
	base, adapted, mixed := say(), say("--expert", a), say("--expert", a, "--expert", b)
	if base == adapted || adapted == mixed || base == mixed {
		t.Errorf("base, expert and mixture should differ:\n%s%s%s", base, adapted, mixed)
	}
	if diff := cmp.Diff(adapted, say("--expert", a+":1", "--expert", b+":0", "--decomposition", v.DecompositionDir)); diff != "" {
		t.Errorf("an expert with all the weight differs from it alone:\n%s", diff)
	}
	// A bare file far from the volume needs to be told where the factors are.
	file := filepath.Join(t.TempDir(), "expert.safetensors")
	content, err := os.ReadFile(filepath.Join(a, "expert.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, content, 0o600); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(adapted, say("--expert", file)); diff != "" {
		t.Errorf("the bare file differs:\n%s", diff)
	}
	other := enginetest.New(t)
	if err := os.RemoveAll(filepath.Join(other.Root, contract.DirDecompositions)); err != nil {
		t.Fatal(err)
	}
	got := t2(t, nil, "", "generate", "--model", other.ModelDir, "--prompt", "x", "--expert", file)
	if got.code != contract.ExitUsage || !strings.Contains(got.stderr, "--decomposition") {
		t.Errorf("without a decomposition: status %d, %q", got.code, got.stderr)
	}
}

// TestDTypesChangeWhatIsComputed runs the base and an expert with each type:
// random weights are so undecided that rounding shows in 64 tokens.
func TestDTypesChangeWhatIsComputed(t *testing.T) {
	v := enginetest.New(t)
	for _, more := range [][]string{nil, {"--expert", v.ExpertDir(t, v.Expert(t, "a", 1).Digest)}} {
		said := map[string]string{}
		for _, kind := range []string{"", "f32", "bf16", "int8"} {
			args := append([]string{"generate", "--model", v.ModelDir, "--prompt", "hello", "--json", "--max-tokens", "64", "--temperature", "1"}, more...)
			if kind != "" {
				args = append(args, "--dtype", kind)
			}
			got := t2(t, nil, "", args...)
			if got.code != 0 {
				t.Fatalf("%s %v: status %d: %s", kind, more, got.code, got.stderr)
			}
			said[kind] = got.stdout
		}
		if said[""] != said["f32"] {
			t.Errorf("%v: the default is not f32", more)
		}
		if said["f32"] == said["bf16"] || said["f32"] == said["int8"] || said["bf16"] == said["int8"] {
			t.Errorf("%v: two types say the same", more)
		}
	}
	got := t2(t, nil, "", "generate", "--model", v.ModelDir, "--prompt", "x", "--dtype", "f16")
	if want := `"f16" is none of f32, bf16, int8`; !strings.Contains(got.stderr, want) {
		t.Errorf("error %q, want %q in it", got.stderr, want)
	}
}

func TestEvalScoresADataSet(t *testing.T) {
	v := enginetest.New(t)
	path := filepath.Join(t.TempDir(), "set.jsonl")
	lines := `{"text": "Double x.", "test_list": ["assert f(1) == 2"]}` + "\n" + `{"text": "Halve x.", "test_list": ["assert f(2) == 1"]}` + "\n"
	if err := os.WriteFile(path, []byte(lines), 0o600); err != nil {
		t.Fatal(err)
	}
	got := t2(t, nil, "", "eval", "--model", v.ModelDir, "--dataset", path, "--format", "MBPP", "--max-new-tokens", "8", "--records", "--json")
	var out struct {
		Score      *float64
		Correct, N int
		Reward     string
		Records    []struct {
			Line   int
			Prompt string
		}
	}
	if err := json.Unmarshal([]byte(got.stdout), &out); err != nil {
		t.Fatalf("%v: %q, %q", err, got.stdout, got.stderr)
	}
	// Random weights write no programs.
	if out.Score == nil || *out.Score != 0 || out.N != 2 || out.Correct != 0 || out.Reward != contract.RewardUnitTests || len(out.Records) != 2 || out.Records[1].Line != 2 {
		t.Errorf("result is %s", got.stdout)
	}
	text := t2(t, nil, "", "eval", "--model", v.ModelDir, "--dataset", path, "--format", "MBPP", "--max-new-tokens", "8", "--limit", "1")
	if want := "score 0.0000 (0 of 1 right, reward UnitTests)\n"; text.stdout != want {
		t.Errorf("output is %q, want %q", text.stdout, want)
	}
}

func TestTrainAsAJobLeavesATerminationMessage(t *testing.T) {
	v := enginetest.New(t)
	path := filepath.Join(t.TempDir(), "set.jsonl")
	if err := os.WriteFile(path, []byte(`{"prompt": "a", "answer": "b"}`+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	set := map[string]any{"path": path, "format": "Pairs"}
	spec := map[string]any{
		"name": "x", "skill": "x", "runID": "x", "dataDir": v.Root, "baseDigest": v.ModelDigest,
		"decompositionDigest": v.DecompositionDigest, "train": set, "validation": set, "reward": "ExactMatch",
		"hyperparameters": map[string]any{"iterations": 2, "batchSize": 2, "maxNewTokens": 4},
	}
	run := func(t *testing.T, change func(map[string]any), flags ...string) (outcome, contract.Termination) {
		t.Helper()
		changed := maps.Clone(spec)
		change(changed)
		encoded, err := json.Marshal(changed)
		if err != nil {
			t.Fatal(err)
		}
		log := filepath.Join(t.TempDir(), "termination-log")
		got := t2(t, map[string]string{contract.EnvSpec: string(encoded), contract.EnvTerminationLog: log}, "", append([]string{"train", "--json"}, flags...)...)
		var told contract.Termination
		raw, err := os.ReadFile(log)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(raw, &told); err != nil {
			t.Fatal(err)
		}
		return got, told
	}
	alone := ""
	t.Run("success", func(t *testing.T) {
		got, told := run(t, func(map[string]any) {})
		if got.code != 0 || told.Expert == nil || told.Expert.Training.Iteration != 2 || !strings.HasPrefix(told.Device, "cpu (") {
			t.Fatalf("status %d, %+v, %s", got.code, told, got.stderr)
		}
		alone = told.Expert.Digest
	})
	t.Run("a base that is shared", func(t *testing.T) {
		for i := range 2 {
			got, told := run(t, func(s map[string]any) { s["runID"] = fmt.Sprintf("shared-%d", i) }, "--shared-base", filepath.Join(v.Root, contract.DirShared))
			if got.code != 0 || told.Expert == nil || told.Expert.Digest != alone || strings.Contains(got.stderr, "not shared") {
				t.Errorf("status %d, %+v, %s; want expert %s", got.code, told, got.stderr, alone)
			}
		}
		if sets, err := os.ReadDir(filepath.Join(v.Root, contract.DirShared)); err != nil || len(sets) != 2 {
			t.Errorf("%d sets of weights, want the base and its factors: %v", len(sets), err)
		}
	})
	t.Run("a permanent failure", func(t *testing.T) {
		got, told := run(t, func(s map[string]any) { s["reward"] = "Numeric" })
		if got.code != contract.ExitPermanent || told.Reason != contract.ReasonInvalidDataset || !told.Permanent || !strings.Contains(told.Message, ", line 1, field \"answer\": ") {
			t.Errorf("status %d, %+v", got.code, told)
		}
	})
	t.Run("a backend of another program", func(t *testing.T) {
		got, told := run(t, func(s map[string]any) { s["backend"] = contract.BackendCUDA })
		if got.code != contract.ExitPermanent || told.Reason != contract.ReasonUsage || !strings.Contains(told.Message, "run t2-cuda") || told.Device != "" {
			t.Errorf("status %d, %+v", got.code, told)
		}
	})
	t.Run("a misspelt field", func(t *testing.T) {
		got, told := run(t, func(s map[string]any) { s["rewrad"] = "Numeric" })
		if got.code != contract.ExitPermanent || told.Reason != contract.ReasonUsage || !strings.Contains(told.Message, "rewrad") {
			t.Errorf("status %d, %+v", got.code, told)
		}
	})
	t.Run("a failure that may pass", func(t *testing.T) {
		got, told := run(t, func(s map[string]any) { s["train"] = map[string]any{"path": "/nonexistent", "format": "Pairs"} })
		if got.code != contract.ExitFailed || told.Reason != contract.ReasonSourceNotFound || told.Permanent {
			t.Errorf("status %d, %+v", got.code, told)
		}
	})
}
