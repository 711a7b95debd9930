package cli_test

import (
	"encoding/json"
	"testing"

	"github.com/transformersquared/operator/runtime/checkpoint/checkpointtest"
)

func TestGenerateGoesOnBehindThePrompt(t *testing.T) {
	script := checkpointtest.Says(t, []string{"a", "▁time", "<0xE2>", "▁there"}, "▁", "O", "n", "c", "e", "u", "p", "o", ":")
	script.Follows[":"] = map[string]float64{"▁time": 1}
	script.Follows["e"] = map[string]float64{"▁time": 1, "o": 1.1}
	script.Follows["o"] = map[string]float64{checkpointtest.ScriptEnd: 1}
	dir := t.TempDir()
	script.Write(t, dir)
	for _, c := range []struct {
		name, prompt string
		flags        []string
		want         string
	}{
		{"a text", "Once upon a", nil, " time\uFFFD there"},
		{"a chat begins a text of its own", "Once upon a", []string{"--chat"}, "time\uFFFD there"},
		{"without a penalty", "one", nil, "o"},
		{"a penalty for what the prompt has", "one", []string{"--repetition-penalty", "2"}, " time\uFFFD there"},
		{"but not for what it has not", "ne", []string{"--repetition-penalty", "2"}, "o"},
		{"only the most likely", "ne", []string{"--temperature", "5", "--min-p", "1"}, "o"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := t2(t, nil, "", append([]string{"generate", "--model", dir, "--prompt", c.prompt, "--json"}, c.flags...)...)
			var out struct{ Text string }
			if err := json.Unmarshal([]byte(got.stdout), &out); err != nil {
				t.Fatalf("%v: %q, %q", err, got.stdout, got.stderr)
			}
			if out.Text != c.want {
				t.Errorf("generated %q, want %q", out.Text, c.want)
			}
		})
	}
	got := t2(t, nil, "", "generate", "--model", dir, "--prompt", "Once upon a")
	if got.stdout != " time\uFFFD there\n" {
		t.Errorf("printed %q", got.stdout)
	}
	if got := t2(t, nil, "", "generate", "--model", dir, "--prompt", "x", "--min-p", "2"); got.code != 2 {
		t.Errorf("min-p 2 gives status %d: %s", got.code, got.stderr)
	}
}
