package adapt_test

import (
	"context"
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/transformersquared/operator/runtime/adapt"
	"github.com/transformersquared/operator/runtime/contract"
)

// prober says what a test gives it.
type prober struct {
	labels []string
	logits []float64
	least  float64
}

func (p prober) Labels() []string { return p.labels }

func (p prober) Logits([]float32) ([]float64, error) { return p.logits, nil }

func (p prober) Least() float64 { return p.least }

// base reads prompts.
type base struct {
	err    error
	prompt []int32
	salt   string
}

func (b *base) Read(_ context.Context, prompt []int32, salt string) ([]float32, error) {
	b.prompt, b.salt = prompt, salt
	return []float32{1}, b.err
}

func probeSet() contract.ExpertSet {
	set := demoSet()
	set.Strategy, set.Probe = contract.StrategyProbe, &contract.ProbeRef{Digest: digest("c")}
	return set
}

func logs(probabilities ...float64) []float64 {
	out := make([]float64, len(probabilities))
	for i, p := range probabilities {
		out[i] = 3 + math.Log(p) // Logits are known but for a constant.
	}
	return out
}

func TestProbeDecides(t *testing.T) {
	for name, c := range map[string]struct {
		prober   prober
		change   func(*contract.ExpertSet)
		err      error
		expert   string
		fallback string
		others   float64
	}{
		"the likelier skill": {
			prober: prober{[]string{"code", "math"}, logs(0.2, 0.8), 0.5}, expert: "demo-math", others: 0.8 * 0.25 / (1 + 0.8*0.25),
		},
		"not sure enough to be any": {
			prober: prober{[]string{"code", "math"}, logs(0.55, 0.45), 0.9}, expert: "base", fallback: contract.FallbackOthers, others: 4.05 / 5.05,
		},
		"others, where they were taught": {
			prober: prober{[]string{"code", "math", "others"}, logs(0.1, 0.2, 0.7), 0.99}, expert: "base", fallback: contract.FallbackOthers, others: 0.7,
		},
		"sure enough for others that were taught, whatever is least": {
			prober: prober{[]string{"code", "math", "others"}, logs(0.3, 0.4, 0.3), 0.99}, expert: "demo-math", others: 0.3,
		},
		"a skill of which no expert is served counts as others": {
			prober: prober{[]string{"code", "law", "math"}, logs(0.3, 0.6, 0.1), 0}, expert: "base", fallback: contract.FallbackOthers, others: 0.6,
		},
		"a skill that the probe does not know is chosen for nothing": {
			prober: prober{[]string{"math", "law"}, logs(0.9, 0.1), 0}, expert: "demo-math", others: 0.1,
		},
		"nor is it taken for others": {
			prober: prober{[]string{"math", "others"}, logs(0.6, 0.4), 0}, expert: "demo-math", others: 0.4,
		},
		"a probe that knows none of the skills finds others": {
			prober: prober{[]string{"law", "art"}, logs(0.9, 0.1), 0}, expert: "base", fallback: contract.FallbackOthers, others: 1,
		},
		"too unlikely for the policy": {
			prober: prober{[]string{"code", "math"}, logs(0.2, 0.8), 0.1}, change: func(s *contract.ExpertSet) { s.MinProbability, s.Fallback = 0.95, "demo-code" },
			expert: "demo-code", fallback: contract.FallbackUnlikely, others: 0.8 / 36 / (1 + 0.8/36),
		},
		"two that are mixed": {
			prober: prober{[]string{"code", "math"}, logs(0.25, 0.75), 1e-9}, change: func(s *contract.ExpertSet) { s.TopK = 2 },
			expert: "demo-math+demo-code", others: 0,
		},
		"reading fails": {
			prober: prober{[]string{"code", "math"}, logs(0.5, 0.5), 0.1}, err: errors.New("odd"), expert: "base", fallback: contract.FallbackFailed, others: -1,
		},
	} {
		t.Run(name, func(t *testing.T) {
			set, b := probeSet(), &base{err: c.err}
			if c.change != nil {
				c.change(&set)
			}
			s, err := adapt.New(set, adapt.Tools{Reader: b, Prober: c.prober})
			if err != nil {
				t.Fatal(err)
			}
			d, err := s.Decide(t.Context(), adapt.Request{Turns: []string{"a", "b"}, Prompt: []int32{1, 2, 3}, Salt: "s"})
			if err != nil {
				t.Fatal(err)
			}
			if d.Expert != c.expert || d.Fallback != c.fallback || b.salt != "s" || len(b.prompt) != 3 {
				t.Errorf("%+v, want %s (%s)", d, c.expert, c.fallback)
			}
			if (c.others < 0) != (d.Probabilities == nil) || c.others >= 0 && math.Abs(d.Probabilities["others"]-c.others) > 1e-6 {
				t.Errorf("probabilities %v, want %v of others", d.Probabilities, c.others)
			}
			if c.err == nil && (d.Turn != 2 || d.Reading.Tokens != 3) {
				t.Errorf("turn %d, reading %+v", d.Turn, d.Reading)
			}
		})
	}
}

func TestProbesThatDoNotFit(t *testing.T) {
	knows := prober{labels: []string{"math", "law"}}
	for want, c := range map[string]struct {
		change func(*contract.ExpertSet)
		prober adapt.Prober
	}{
		"strategy Probe without a probe":              {func(*contract.ExpertSet) {}, nil},
		"strategy Probe has no probe":                 {func(s *contract.ExpertSet) { s.Probe = nil }, knows},
		"which is none":                               {func(s *contract.ExpertSet) { s.Probe.Digest = "x" }, knows},
		"a probe is of no use to strategy Prompt":     {func(s *contract.ExpertSet) { s.Strategy = contract.StrategyPrompt }, knows},
		"conversation is of no use to strategy Probe": {func(s *contract.ExpertSet) { s.Conversation = &contract.Conversation{} }, knows},
		"minProbability is 2":                         {func(s *contract.ExpertSet) { s.MinProbability = 2 }, knows},
	} {
		set := probeSet()
		c.change(&set)
		if _, err := adapt.New(set, adapt.Tools{Reader: &base{}, Prober: c.prober}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}
