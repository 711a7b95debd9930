package cli_test

import (
	"encoding/json"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/engine/enginetest"
)

// TestExplainARequestThatWasAnswered asks a server, marks the answer, and has the command say
// how it came about.
func TestExplainARequestThatWasAnswered(t *testing.T) {
	v := enginetest.New(t)
	api, _, stop := serving(t, nil, "--model", v.ModelDir, "--expert", "math="+v.ExpertDir(t, v.Expert(t, "math", 1).Digest), "--keep-text")
	defer stop()
	send := func(path, body string, answer any) {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, api+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if err := json.NewDecoder(resp.Body).Decode(answer); err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("%s: %s (%v)", path, resp.Status, err)
		}
	}
	var a struct{ ID string }
	send(contract.PathChatCompletions, `{"model":"demo","messages":[{"role":"user","content":"x"}],"max_tokens":3}`, &a)
	var marked contract.RequestRecord
	send(contract.PathOutcome, `{"request":"`+a.ID+`","right":false,"comment":"it is 5"}`, &marked)
	got := t2(t, nil, "", "explain", "--url", api+"/v1", "--request", a.ID)
	if got.code != contract.ExitOK {
		t.Fatalf("exit status %d: %s", got.code, got.stderr)
	}
	for _, want := range []string{
		`Request        [0-9a-f]{24}\n`, `Answer         ` + a.ID + `\n`, `Came           20`, `Model          demo\n`, `Strategy       Prompt\n`, `Why            pass 1 finds`,
		`Probabilities +[01]\.\d{4}  (math|others)\n +[01]\.\d{4}  (math|others)\n`, `Pass 1         \d+ tokens in 0\.`,
		`Pass 2         \d+ tokens \(\d+ known\) and [1-3] written in`, `Ended          (length|stop)\n`, `Experts        sha256:`, `Marked         wrong: it is 5\n`,
	} {
		if !regexp.MustCompile(want).MatchString(got.stdout) {
			t.Errorf("no %q in\n%s", want, got.stdout)
		}
	}
	var record contract.RequestRecord
	asJSON := t2(t, nil, "", "explain", "--json", "--url", api, "--request", marked.ID)
	if err := json.Unmarshal([]byte(asJSON.stdout), &record); err != nil || record.AnswerID != a.ID || record.Outcome == nil {
		t.Errorf("%q (%v)", asJSON.stdout, err)
	}
	if none := t2(t, nil, "", "explain", "--url", api, "--request", "nobody"); none.code == contract.ExitOK || !strings.Contains(none.stderr, `has no request "nobody": it keeps the last 4096 answers that came to 32 MiB`) {
		t.Errorf("exit status %d: %s", none.code, none.stderr)
	}
}

func TestExplainARequestUsage(t *testing.T) {
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"nobody to ask":   {[]string{"--request", "x"}, "--request goes with --url"},
		"no id":           {[]string{"--url", "http://x", "--request", ""}, "--request is empty"},
		"a prompt beside": {[]string{"--url", "http://x", "--request", "x", "--prompt", "y"}, "--prompt does not go with --request"},
		"a name beside":   {[]string{"--url", "http://x", "--request", "x", "--name", "y"}, "--name does not go with --request"},
		"no address":      {[]string{"--url", "x", "--request", "x"}, "is no address of a server"},
	} {
		t.Run(name, func(t *testing.T) {
			got := t2(t, nil, "", append([]string{"explain"}, c.args...)...)
			if got.code != contract.ExitUsage || !strings.Contains(got.stderr, c.want) {
				t.Errorf("exit status %d, %q; want %d and %q", got.code, got.stderr, contract.ExitUsage, c.want)
			}
		})
	}
}
