package cli_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/engine/enginetest"
)

// explanation runs `t2 explain --json`.
func explanation(t *testing.T, stdin string, args ...string) contract.Explanation {
	t.Helper()
	got := t2(t, nil, stdin, append([]string{"explain", "--json"}, args...)...)
	var e contract.Explanation
	if err := json.Unmarshal([]byte(got.stdout), &e); err != nil || got.code != contract.ExitOK {
		t.Fatalf("exit status %d, output %q, %q (%v)", got.code, got.stdout, got.stderr, err)
	}
	return e
}

// TestExplainHereAndThere asks a server and, of the same files, the command itself:
// both say the same.
func TestExplainHereAndThere(t *testing.T) {
	v := enginetest.New(t)
	math, code := v.ExpertDir(t, v.Expert(t, "math", 1).Digest), v.ExpertDir(t, v.Expert(t, "code", 2).Digest)
	set := []string{
		"--model", v.ModelDir, "--expert", "m=" + math, "--expert", "c=" + code, "--describe", "m=word problems",
		"--min-probability", "0.25", "--top-k", "2", "--prompt-template", "{skills}\n{prompt}", "--request-tokens", "20",
	}
	api, _, stop := serving(t, nil, append([]string{"--name", "mine"}, set...)...)
	defer stop()
	for name, prompt := range map[string][]string{
		"a chat":           {"--chat", "--system", "Be brief.", "--prompt", "What is 2+3?"},
		"a text":           {"--prompt", "Once upon a time there was a little girl"},
		"standard input":   {"--prompt", "-"},
		"a pinned expert":  {"--name", "mine:c", "--prompt", "x"},
		"the base weights": {"--name", "mine:base", "--prompt", "x"},
	} {
		t.Run(name, func(t *testing.T) {
			there := explanation(t, "from a pipe", append([]string{"--url", api + "/v1/"}, prompt...)...)
			here := append([]string{"--name", "mine"}, set...) // A name in prompt comes later, and wins.
			if diff := cmp.Diff(there, explanation(t, "from a pipe", append(here, prompt...)...),
				cmpopts.IgnoreFields(contract.Explanation{}, "Pass1Seconds"), cmpopts.EquateApprox(0, 1e-9)); diff != "" {
				t.Errorf("-server +here:\n%s", diff)
			}
			if pinned := there.Strategy == contract.StrategyPinned; pinned != (len(there.Labels) == 0) || pinned == (there.MinProbability == 0.25) {
				t.Errorf("explanation %+v", there)
			}
		})
	}
}

func TestExplainForPeople(t *testing.T) {
	v := enginetest.New(t)
	math, code := v.ExpertDir(t, v.Expert(t, "math", 1).Digest), v.ExpertDir(t, v.Expert(t, "code", 2).Digest)
	// As t2 generate takes them: a folder, and its weight.
	experts := []string{"--model", v.ModelDir, "--expert", math + ":3", "--expert", code + ":1", "--prompt", "x"}
	for name, c := range map[string]struct {
		more, want []string
	}{
		"by pass 1": {nil, []string{
			"Model          demo\n", "Strategy       Prompt\n", "Why            pass 1 finds the label ",
			"Pass 1         label   probability  log-likelihood  expert\n", "               others ", "  base\n", " tokens in 0.", "Prompt         1 tokens\n",
			"Experts        sha256:",
		}},
		"fixed": {[]string{"--strategy", "Fixed"}, []string{
			"Strategy       Fixed\n", "Answers        math+code\n", "Weights          0.7500  math\n                 0.2500  code\n",
		}},
		"the fallback": {[]string{"--min-probability", "1", "--fallback", "code", "--describe", "code=Python"}, []string{
			"Answers        code\n", "but minProbability is 1: the fallback answers\n", "Fallback       BelowMinProbability\n", "At least       1\n",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			got := t2(t, nil, "", append(append([]string{"explain"}, experts...), c.more...)...)
			if got.code != contract.ExitOK {
				t.Fatalf("exit status %d: %s", got.code, got.stderr)
			}
			for _, want := range c.want {
				if !strings.Contains(got.stdout, want) {
					t.Errorf("no %q in\n%s", want, got.stdout)
				}
			}
		})
	}
}

func TestExplainUsage(t *testing.T) {
	v := enginetest.New(t)
	model := []string{"--model", v.ModelDir, "--prompt", "x"}
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"nobody to ask":           {[]string{"--prompt", "x"}, "a server by --url, or a model on disk by --model"},
		"two to ask":              {[]string{"--url", "http://x", "--model", "y", "--prompt", "x"}, "exclude each other"},
		"no prompt":               {[]string{"--url", "http://x"}, "--prompt is missing"},
		"no address":              {[]string{"--url", "localhost:8000", "--prompt", "x"}, "is no address of a server"},
		"experts of a server":     {[]string{"--url", "http://x", "--expert", "y", "--prompt", "x"}, "--expert goes with --model"},
		"a strategy of a server":  {[]string{"--url", "http://x", "--strategy", "Fixed", "--prompt", "x"}, "--strategy goes with --model"},
		"an unknown strategy":     {append(model, "--strategy", "Magic"), `strategy "Magic" is unknown: use `},
		"an unknown fallback":     {append(model, "--fallback", "law"), `fallback "law" is none of the experts`},
		"no probability":          {append(model, "--min-probability", "2"), "minProbability is 2"},
		"nothing to mix":          {append(model, "--top-k", "0"), "mix at least 1"},
		"more than are mixed":     {append(model, "--top-k", "9"), "topK is 9"},
		"a template that is deaf": {append(model, "--prompt-template", "x"), "would not see the request"},
		"describing nobody":       {append(model, "--describe", "x=y"), `names "x"`},
	} {
		t.Run(name, func(t *testing.T) {
			got := t2(t, nil, "", append([]string{"explain"}, c.args...)...)
			if got.code != contract.ExitUsage || !strings.Contains(got.stderr, c.want) {
				t.Errorf("exit status %d, %q; want %d and %q", got.code, got.stderr, contract.ExitUsage, c.want)
			}
		})
	}
}

func TestExplainSaysWhatIsWrongWithAServer(t *testing.T) {
	v := enginetest.New(t)
	api, _, stop := serving(t, nil, "--model", v.ModelDir)
	defer stop()
	odd := func(answer string) string {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(answer)) }))
		t.Cleanup(s.Close)
		return s.URL
	}
	missing := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(missing.Close)
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"an unknown model":       {[]string{"--url", api, "--name", "law"}, `404 Not Found: the model "law" does not exist; there are demo, demo:base`},
		"nobody there":           {[]string{"--url", "http://127.0.0.1:1"}, "connection refused"},
		"another kind of server": {[]string{"--url", missing.URL}, "/v1/models answers 404 Not Found"},
		"a web page":             {[]string{"--url", odd("<html>")}, "does not answer as t2 serve does"},
		"no models":              {[]string{"--url", odd("{}")}, "name one by --name"},
		"without end":            {[]string{"--url", odd(`{"x":"` + strings.Repeat("x", 2<<20) + `"}`)}, "more than 1048576 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			got := t2(t, nil, "", append([]string{"explain", "--prompt", "x"}, c.args...)...)
			if got.code != contract.ExitFailed || !strings.Contains(got.stderr, c.want) {
				t.Errorf("exit status %d, %q; want %d and %q", got.code, got.stderr, contract.ExitFailed, c.want)
			}
		})
	}
	// A request that the model cannot take is refused here as there.
	long := []string{"--prompt", strings.Repeat("x", enginetest.ContextLength)}
	there, here := t2(t, nil, "", append([]string{"explain", "--url", api}, long...)...), t2(t, nil, "", append([]string{"explain", "--model", v.ModelDir}, long...)...)
	for _, got := range []outcome{there, here} {
		if got.code != contract.ExitFailed || !strings.Contains(got.stderr, "the context length is 512 tokens, but the request needs 513") {
			t.Errorf("exit status %d, %q", got.code, got.stderr)
		}
	}
}
