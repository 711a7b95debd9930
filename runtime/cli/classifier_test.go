package cli_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/engine/enginetest"
)

// TestClassifierHereAndThere: a server and t2 explain read a prompt with the same
// classifier, and otherwise than the base does.
func TestClassifierHereAndThere(t *testing.T) {
	v := enginetest.New(t)
	set := []string{
		"--model", v.ModelDir, "--expert", "m=" + v.ExpertDir(t, v.Expert(t, "math", 1).Digest),
		"--expert", "c=" + v.ExpertDir(t, v.Expert(t, "code", 2).Digest), "--name", "mine",
	}
	classifier := v.ExpertDir(t, v.Expert(t, "dispatching", 3).Digest)
	api, _, stop := serving(t, nil, append([]string{"--strategy", contract.StrategyClassifier, "--classifier", classifier}, set...)...)
	defer stop()
	there := explanation(t, "", "--url", api+"/v1/", "--prompt", "What is 2+3?")
	for _, flag := range []string{classifier, "dispatching=" + classifier} {
		here := explanation(t, "", append([]string{"--strategy", contract.StrategyClassifier, "--classifier", flag, "--prompt", "What is 2+3?"}, set...)...)
		// A server of 16 requests at a time may compute experts in another form than one
		// of a single request, and the two differ in rounding.
		if diff := cmp.Diff(there, here, cmpopts.IgnoreFields(contract.Explanation{}, "Pass1Seconds", "Why"), cmpopts.EquateApprox(1e-4, 1e-9)); diff != "" {
			t.Errorf("--classifier %s (-server +here):\n%s", flag, diff)
		}
	}
	if there.Strategy != contract.StrategyClassifier || there.Classifier != "dispatching" || len(there.Labels) != 3 {
		t.Errorf("explanation %+v", there)
	}
	base := explanation(t, "", append([]string{"--prompt", "What is 2+3?"}, set...)...)
	if base.Classifier != "" || base.Labels[0].Probability == there.Labels[0].Probability {
		t.Errorf("the base finds %+v, the classifier %+v", base.Labels, there.Labels)
	}
	people := t2(t, nil, "", append([]string{"explain", "--strategy", contract.StrategyClassifier, "--classifier", classifier, "--prompt", "x"}, set...)...)
	for _, want := range []string{"Strategy       Classifier\n", "Classifier     dispatching\n", "Why            with its classifier, pass 1 finds"} {
		if !strings.Contains(people.stdout, want) {
			t.Errorf("people read\n%s%s\nwithout %q", people.stdout, people.stderr, want)
		}
	}
}

func TestClassifierUsage(t *testing.T) {
	v := enginetest.New(t)
	set := []string{"explain", "--model", v.ModelDir, "--expert", "m=" + v.ExpertDir(t, v.Expert(t, "math", 1).Digest), "--prompt", "x"}
	classifier := v.ExpertDir(t, v.Expert(t, "dispatching", 3).Digest)
	for name, c := range map[string]struct {
		more []string
		want string
	}{
		"none":                {[]string{"--strategy", "Classifier"}, "strategy Classifier has no classifier"},
		"of another strategy": {[]string{"--classifier", classifier}, "of no use to strategy Prompt"},
		"a weight":            {[]string{"--strategy", "Classifier", "--classifier", classifier + ":2"}, "has a weight"},
		"an expert's name":    {[]string{"--strategy", "Classifier", "--classifier", "m=" + classifier}, `expert "m" is listed twice`},
	} {
		t.Run(name, func(t *testing.T) {
			got := t2(t, nil, "", append(set, c.more...)...)
			if got.code != contract.ExitUsage || !strings.Contains(got.stderr, c.want) {
				t.Errorf("exit status %d, %q; want usage and %q", got.code, got.stderr, c.want)
			}
		})
	}
	if got := t2(t, nil, "", "explain", "--url", "http://localhost:1", "--classifier", "x", "--prompt", "x"); !strings.Contains(got.stderr, "--classifier goes with --model") {
		t.Errorf("of a server: %q", got.stderr)
	}
}
