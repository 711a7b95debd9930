package server_test

import (
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/transformersquared/operator/runtime/backend/registry/registrytest"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/jobs"
	"github.com/transformersquared/operator/runtime/probe"
)

// TestProbeDispatches fits a probe to the training prompts of the demo's experts, whose
// skills are called by letters that say nothing, and serves it with experts that act on
// answers alone: choosing leaves them the prompt but for its last token.
func TestProbeDispatches(t *testing.T) {
	root, model, dm := demoVolume(t)
	sets := classifierSpec(root, model, dm).Train.Skills.Sets
	run := func() *contract.ProbeResult {
		done, err := probe.Run(t.Context(), contract.ProbeSpec{Name: "demo", DataDir: root, BaseDigest: model, Sets: sets}, probe.Options{
			Backend: registrytest.Open(t, 2), Progress: jobs.NewProgress(), Log: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			t.Fatal(err)
		}
		return done.Probe
	}
	fitted := run()
	t.Logf("%+v", *fitted)
	if e := fitted.Evaluation; e.Accuracy < 0.95 || e.CalibrationError > 0.1 || e.Prompts < 100 || fitted.Examples < 300 {
		t.Errorf("%d prompts, evaluated %+v", fitted.Examples, e)
	}
	if again := run(); again.Digest != fitted.Digest {
		t.Errorf("fitted again it is %s, before it was %s", again.Digest, fitted.Digest)
	}
	set := contract.ExpertSet{Strategy: contract.StrategyProbe, Probe: &contract.ProbeRef{Digest: fitted.Digest}}
	for _, s := range sets {
		set.Experts = append(set.Experts, idleOn(t, contract.ActivationAnswer, root, model, dm, s.Skill))
	}
	s := fromVolume(t, root, model, dm)
	if err := s.Swap(t.Context(), set); err != nil {
		t.Fatal(err)
	}
	if p := s.Status().Probe; p == nil || *p != (contract.ServedProbe{Digest: fitted.Digest, State: contract.ExpertServed}) {
		t.Errorf("the status says %+v of the probe", p)
	}
	right, all := 0, 0
	for _, one := range dispatchCases(t) {
		if one.Skill == contract.OthersLabel {
			continue // Nobody has told the probe what they are.
		}
		a := postTo(t, s.API(), contract.PathChatCompletions, chat("demo", one.Prompt, fields{"max_tokens": 1}))
		if all++; a.Adaptation.Expert == "demo-"+letters[one.Skill] {
			right++
		}
		if cached := a.Usage.Details.Cached; a.Adaptation.Strategy != contract.StrategyProbe || cached != a.Usage.Prompt-1 && a.Adaptation.Expert != contract.BaseName {
			t.Fatalf("%+v: %d of %d tokens were read for the choice", *a.Adaptation, cached, a.Usage.Prompt)
		}
	}
	if accuracy := float64(right) / float64(all); accuracy < 0.85 {
		t.Errorf("of %d held-out requests %.3f were dispatched rightly", all, accuracy)
	} else {
		t.Logf("of %d held-out requests %.3f were dispatched rightly", all, accuracy)
	}
	e, err := s.Explain(t.Context(), []byte(`{"model": "demo", "messages": [{"role": "user", "content": "What is 2 + 3?"}]}`))
	if err != nil || len(e.Labels) != len(set.Experts)+1 || !strings.HasPrefix(e.Why, "the probe finds") || e.Pass1Tokens != e.PromptTokens {
		t.Errorf("explained as %+v, %v", e, err)
	}

	// An expert that came after the probe was fitted can be named, and is chosen for nothing.
	more := set
	more.Experts = append(slices.Clone(set.Experts), idleOn(t, contract.ActivationAnswer, root, model, dm, "new"))
	if err := s.Swap(t.Context(), more); err != nil {
		t.Fatal(err)
	}
	sums := func(model string) contract.Adaptation {
		return *postTo(t, s.API(), contract.PathChatCompletions, chat(model, "What is 2 + 3?", fields{"max_tokens": 1})).Adaptation
	}
	if a := sums("demo"); a.Expert != "demo-"+letters["math"] || a.Probabilities["demo-new"] != 0 {
		t.Errorf("with an expert that the probe does not know: %+v", a)
	}
	if a := sums("demo:demo-new"); a.Expert != "demo-new" {
		t.Errorf("the expert that it does not know is pinned: %+v", a)
	}
	if e, err := s.Explain(t.Context(), []byte(`{"model": "demo", "messages": [{"role": "user", "content": "What is 2 + 3?"}]}`)); err != nil ||
		e.Labels[len(set.Experts)].LogLikelihood != nil {
		t.Errorf("explained as %+v, %v", e.Labels, err)
	}

	// Without its probe a set is served as Prompt would, and says what is missing.
	missing := set
	missing.Probe = &contract.ProbeRef{Digest: contract.DigestPrefix + strings.Repeat("0", 64)}
	if err := s.Swap(t.Context(), missing); err == nil || !strings.Contains(err.Error(), "the probe is not in") {
		t.Errorf("a set without its probe: %v", err)
	}
	waitFor(t, "what is left of the set", func() bool {
		st := s.Status()
		return st.Error != nil && st.ExpertSetDigest != st.DesiredDigest
	})
	if p := s.Status().Probe; p == nil || p.State != contract.ExpertFailed || p.Digest != missing.Probe.Digest ||
		p.Error == nil || p.Error.Reason != contract.ReasonExpertMissing || p.Error.Digest != p.Digest {
		t.Errorf("the status says %+v of the probe", p)
	}
	a := postTo(t, s.API(), contract.PathChatCompletions, chat("demo", "What is 2 + 3?", fields{"max_tokens": 1}))
	if a.Adaptation.Strategy != contract.StrategyPrompt {
		t.Errorf("without its probe the set is served by %s", a.Adaptation.Strategy)
	}
}
