package adapt_test

import (
	"context"
	"errors"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/transformersquared/operator/runtime/adapt"
	"github.com/transformersquared/operator/runtime/contract"
)

// bytesEncoder has a token a byte, and token 1000 ends a turn.
type bytesEncoder struct{}

func (bytesEncoder) Prompt(message string) ([]int32, error) { return tokens(message), nil }

func (bytesEncoder) Excerpt(text string, tokens int) (string, error) {
	if len(text) <= tokens {
		return text, nil
	}
	return text[:tokens/2] + "…" + text[len(text)-tokens/2:], nil
}

func (bytesEncoder) Answer(text string) ([]int32, error) { return append(tokens(text), 1000), nil }

func tokens(s string) []int32 {
	out := make([]int32, 0, len(s))
	for _, b := range []byte(s) {
		out = append(out, int32(b))
	}
	return out
}

// text is what tokens spell.
func text(ids []int32) string {
	var b strings.Builder
	for _, id := range ids {
		if id == 1000 {
			b.WriteString("<end>")
			continue
		}
		b.WriteByte(byte(id))
	}
	return b.String()
}

// scorer answers given scores and remembers what it was asked.
type scorer struct {
	scores []float64
	err    error
	with   map[string]float64
	prompt string
	labels []string
	salt   string
	calls  int
}

func (s *scorer) Score(_ context.Context, q adapt.Scoring) ([]float64, error) {
	s.calls++
	s.with, s.prompt, s.salt, s.labels = q.With, text(q.Prompt), q.Salt, nil
	for _, l := range q.Labels {
		s.labels = append(s.labels, text(l))
	}
	return s.scores, s.err
}

func digest(c string) string { return contract.DigestPrefix + strings.Repeat(c, 64) }

func demoSet() contract.ExpertSet {
	return contract.ExpertSet{
		Strategy: contract.StrategyPrompt,
		Experts: []contract.ExpertRef{
			{Name: "demo-math", Skill: "math", Description: "word problems\nand arithmetic", Digest: digest("a")},
			{Name: "demo-code", Skill: "code", Digest: digest("b")},
		},
	}
}

var errBusy = errors.New("engine is full")

func decide(t *testing.T, set contract.ExpertSet, s *scorer, request string) (adapt.Decision, error) {
	t.Helper()
	strategy, err := adapt.New(set, adapt.Tools{Encoder: bytesEncoder{}, Scorer: s, Fatal: func(err error) bool { return errors.Is(err, errBusy) }})
	if err != nil {
		t.Fatalf("New: %v", err)
	}
	return strategy.Decide(t.Context(), adapt.Request{Turns: []string{request}})
}

func TestPromptShowsSkillsAndRequest(t *testing.T) {
	s := &scorer{scores: []float64{-1, -2, -3}}
	if _, err := decide(t, demoSet(), s, "What is {skills} {prompt}?"); err != nil {
		t.Fatal(err)
	}
	want := "Classify the request into one category.\n" +
		"- math: word problems and arithmetic\n- code\n- others: none of the above\n" +
		"Request: What is {skills} {prompt}?\nCategory:"
	if diff := cmp.Diff(want, s.prompt); diff != "" {
		t.Errorf("prompt of pass 1 (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"math<end>", "code<end>", "others<end>"}, s.labels); diff != "" {
		t.Errorf("labels (-want +got):\n%s", diff)
	}
}

func TestPromptLooksAtBothEndsOfALongRequest(t *testing.T) {
	long := "Add the numbers. " + strings.Repeat("1 ", 500) + "Answer with one word."
	for tokens, want := range map[int]string{
		0:    long[:contract.DefaultRequestTokens/2] + "…" + long[len(long)-contract.DefaultRequestTokens/2:],
		40:   "Add the numbers. 1 1…Answer with one word"[:20] + "…" + long[len(long)-20:],
		2000: long,
	} {
		set := demoSet()
		set.PromptTemplate, set.RequestTokens = "{prompt}", tokens
		s := &scorer{scores: []float64{-1, -2, -3}}
		if _, err := decide(t, set, s, long); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, s.prompt); diff != "" {
			t.Errorf("pass 1 looking at %d tokens (-want +got):\n%s", tokens, diff)
		}
	}
}

func TestPromptDecides(t *testing.T) {
	inf := math.Inf(-1)
	for name, c := range map[string]struct {
		scores   []float64
		err      error
		fallback string
		least    float64
		topK     int
		want     adapt.Decision
		wantErr  error
		failed   bool
	}{
		"the most likely label wins": {
			scores: []float64{math.Log(0.2), math.Log(0.6), math.Log(0.2)},
			want: adapt.Decision{
				Expert: "demo-code", Weights: map[string]float64{"demo-code": 1},
				Probabilities: map[string]float64{"demo-math": 0.2, "demo-code": 0.6, "others": 0.2},
			},
		},
		"probabilities are among the labels alone and survive tiny likelihoods": {
			scores: []float64{-2000, -2000 - math.Log(3), inf},
			want: adapt.Decision{
				Expert: "demo-math", Weights: map[string]float64{"demo-math": 1},
				Probabilities: map[string]float64{"demo-math": 0.75, "demo-code": 0.25, "others": 0},
			},
		},
		"others means the base weights, whatever the fallback": {
			scores: []float64{inf, inf, -1}, fallback: "demo-math",
			want: adapt.Decision{
				Expert: "base", Fallback: contract.FallbackOthers,
				Probabilities: map[string]float64{"demo-math": 0, "demo-code": 0, "others": 1},
			},
		},
		"a tie goes to the fallback": {
			scores: []float64{-1, -1, inf}, fallback: "demo-code",
			want: adapt.Decision{
				Expert: "demo-code", Weights: map[string]float64{"demo-code": 1}, Fallback: contract.FallbackTie,
				Probabilities: map[string]float64{"demo-math": 0.5, "demo-code": 0.5, "others": 0},
			},
		},
		"a tie below the best is none": {
			scores: []float64{inf, inf, -1},
			want: adapt.Decision{
				Expert: "base", Fallback: contract.FallbackOthers,
				Probabilities: map[string]float64{"demo-math": 0, "demo-code": 0, "others": 1},
			},
		},
		"a failed pass 1 goes to the fallback": {
			err: errors.New("prompt too long"), fallback: "demo-math",
			want:   adapt.Decision{Expert: "demo-math", Weights: map[string]float64{"demo-math": 1}, Fallback: contract.FallbackFailed},
			failed: true,
		},
		"not a number counts as failed": {
			scores: []float64{math.NaN(), -1, -1},
			want:   adapt.Decision{Expert: "base", Fallback: contract.FallbackFailed}, failed: true,
		},
		"impossible labels count as failed": {
			scores: []float64{inf, inf, inf},
			want:   adapt.Decision{Expert: "base", Fallback: contract.FallbackFailed}, failed: true,
		},
		"above the threshold the label wins": {
			scores: []float64{math.Log(0.2), math.Log(0.6), math.Log(0.2)}, least: 0.59, fallback: "demo-math",
			want: adapt.Decision{
				Expert: "demo-code", Weights: map[string]float64{"demo-code": 1},
				Probabilities: map[string]float64{"demo-math": 0.2, "demo-code": 0.6, "others": 0.2},
			},
		},
		"below the threshold the fallback answers": {
			scores: []float64{math.Log(0.2), math.Log(0.6), math.Log(0.2)}, least: 0.61, fallback: "demo-math",
			want: adapt.Decision{
				Expert: "demo-math", Weights: map[string]float64{"demo-math": 1}, Fallback: contract.FallbackUnlikely,
				Probabilities: map[string]float64{"demo-math": 0.2, "demo-code": 0.6, "others": 0.2},
			},
		},
		"others may be too unlikely, too": {
			scores: []float64{math.Log(0.3), math.Log(0.2), math.Log(0.5)}, least: 0.9, fallback: "demo-math",
			want: adapt.Decision{
				Expert: "demo-math", Weights: map[string]float64{"demo-math": 1}, Fallback: contract.FallbackUnlikely,
				Probabilities: map[string]float64{"demo-math": 0.3, "demo-code": 0.2, "others": 0.5},
			},
		},
		"experts are mixed by their probabilities": {
			scores: []float64{math.Log(0.3), math.Log(0.6), math.Log(0.1)}, topK: 2,
			want: adapt.Decision{
				Expert: "demo-code+demo-math", Weights: map[string]float64{"demo-code": 11. / 16, "demo-math": 5. / 16},
				Probabilities: map[string]float64{"demo-math": 0.3, "demo-code": 0.6, "others": 0.1},
			},
		},
		"others' share is the base's": {
			scores: []float64{math.Log(0.125), math.Log(0.25), math.Log(0.625)}, topK: 3,
			want: adapt.Decision{
				Expert: "base+demo-code+demo-math", Weights: map[string]float64{"base": 10. / 16, "demo-code": 4. / 16, "demo-math": 2. / 16},
				Probabilities: map[string]float64{"demo-math": 0.125, "demo-code": 0.25, "others": 0.625},
			},
		},
		"more are mixed than there are": {
			scores: []float64{math.Log(0.5), math.Log(0.5), inf}, topK: 8,
			want: adapt.Decision{
				Expert: "demo-math+demo-code", Weights: map[string]float64{"demo-code": 0.5, "demo-math": 0.5},
				Probabilities: map[string]float64{"demo-math": 0.5, "demo-code": 0.5, "others": 0},
			},
		},
		"what has less than a part takes none": {
			scores: []float64{math.Log(0.02), math.Log(0.98), inf}, topK: 2,
			want: adapt.Decision{
				Expert: "demo-code", Weights: map[string]float64{"demo-code": 1},
				Probabilities: map[string]float64{"demo-math": 0.02, "demo-code": 0.98, "others": 0},
			},
		},
		"others alone is the base though experts could be mixed": {
			scores: []float64{math.Log(0.02), inf, math.Log(0.98)}, topK: 2,
			want: adapt.Decision{
				Expert: "base", Fallback: contract.FallbackOthers,
				Probabilities: map[string]float64{"demo-math": 0.02, "demo-code": 0, "others": 0.98},
			},
		},
		"a tie for the last place leaves both out": {
			scores: []float64{math.Log(0.25), math.Log(0.5), math.Log(0.25)}, topK: 2,
			want: adapt.Decision{
				Expert: "demo-code", Weights: map[string]float64{"demo-code": 1},
				Probabilities: map[string]float64{"demo-math": 0.25, "demo-code": 0.5, "others": 0.25},
			},
		},
		"a tie of more than are mixed goes to the fallback": {
			scores: []float64{-1, -1, -1}, topK: 2, fallback: "demo-code",
			want: adapt.Decision{
				Expert: "demo-code", Weights: map[string]float64{"demo-code": 1}, Fallback: contract.FallbackTie,
				Probabilities: map[string]float64{"demo-math": 1. / 3, "demo-code": 1. / 3, "others": 1. / 3},
			},
		},
		"the threshold is for the most likely of those that are mixed": {
			scores: []float64{math.Log(0.3), math.Log(0.5), math.Log(0.2)}, topK: 2, least: 0.6,
			want: adapt.Decision{
				Expert: "base", Fallback: contract.FallbackUnlikely,
				Probabilities: map[string]float64{"demo-math": 0.3, "demo-code": 0.5, "others": 0.2},
			},
		},
		"a full engine ends the request":    {err: errBusy, wantErr: errBusy},
		"cancellation ends the request":     {err: context.Canceled, wantErr: context.Canceled},
		"missing scores count as failed":    {scores: []float64{-1}, want: adapt.Decision{Expert: "base", Fallback: contract.FallbackFailed}, failed: true},
		"base may be named as fallback too": {err: errors.New("no"), fallback: "base", want: adapt.Decision{Expert: "base", Fallback: contract.FallbackFailed}, failed: true},
	} {
		t.Run(name, func(t *testing.T) {
			set := demoSet()
			set.Fallback, set.MinProbability, set.TopK = c.fallback, c.least, c.topK
			got, err := decide(t, set, &scorer{scores: c.scores, err: c.err}, "x")
			if !errors.Is(err, c.wantErr) {
				t.Fatalf("error %v, want %v", err, c.wantErr)
			}
			if (got.Cause != nil) != c.failed {
				t.Errorf("cause %v, want one: %v", got.Cause, c.failed)
			}
			if got.Turn != 1 && err == nil {
				t.Errorf("turn %d chose, want the first", got.Turn)
			}
			got.Cause, got.Turn = nil, 0
			checkReading(t, got, c.scores, c.least)
			got.Reading = nil
			if diff := cmp.Diff(c.want, got, cmpopts.EquateApprox(0, 1e-12)); diff != "" {
				t.Errorf("decision (-want +got):\n%s", diff)
			}
		})
	}
}

// checkReading holds what a decision says of pass 1 against what the model said.
func checkReading(t *testing.T, d adapt.Decision, scores []float64, least float64) {
	t.Helper()
	if (d.Reading != nil) != (d.Probabilities != nil) {
		t.Fatalf("reading %+v of a decision with probabilities %v", d.Reading, d.Probabilities)
	}
	if d.Reading == nil {
		return
	}
	want := adapt.Reading{Tokens: d.Reading.Tokens, Threshold: least}
	for i, name := range []string{"demo-math", "demo-code", "others"} {
		want.Labels = append(want.Labels, adapt.Label{
			Name: name, Text: strings.TrimPrefix(name, "demo-"), LogLikelihood: scores[i], Probability: d.Probabilities[name],
		})
	}
	if diff := cmp.Diff(want, *d.Reading); diff != "" || d.Reading.Tokens < len("Category:") {
		t.Errorf("%d tokens read; reading (-want +got):\n%s", d.Reading.Tokens, diff)
	}
}

func TestPromptWithoutExpertsComputesNothing(t *testing.T) {
	s := &scorer{}
	got, err := decide(t, contract.ExpertSet{Strategy: contract.StrategyPrompt}, s, "x")
	if err != nil {
		t.Fatal(err)
	}
	if got.Expert != contract.BaseName || got.Fallback != contract.FallbackNoExperts || got.Reading != nil || s.calls != 0 {
		t.Errorf("got %+v after %d calls, want base without a call", got, s.calls)
	}
}

func TestFixed(t *testing.T) {
	for name, c := range map[string]struct {
		weights []float64
		want    adapt.Decision
	}{
		"weights are relative": {
			weights: []float64{3, 1},
			want:    adapt.Decision{Expert: "demo-math+demo-code", Weights: map[string]float64{"demo-math": 0.75, "demo-code": 0.25}},
		},
		"all zero is uniform": {
			weights: []float64{0, 0},
			want:    adapt.Decision{Expert: "demo-math+demo-code", Weights: map[string]float64{"demo-math": 0.5, "demo-code": 0.5}},
		},
		"an expert of no weight takes no part": {
			weights: []float64{0, 2},
			want:    adapt.Decision{Expert: "demo-code", Weights: map[string]float64{"demo-code": 1}},
		},
		"no experts is the base": {
			want: adapt.Decision{Expert: "base", Weights: map[string]float64{}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			set := demoSet()
			set.Strategy, set.Experts = contract.StrategyFixed, set.Experts[:len(c.weights)]
			for i, w := range c.weights {
				set.Experts[i].Weight = w
			}
			s := &scorer{}
			got, err := decide(t, set, s, "x")
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("decision (-want +got):\n%s", diff)
			}
			if s.calls != 0 {
				t.Errorf("%d calls of the model, want none", s.calls)
			}
		})
	}
}

// TestNeeds says what each strategy wants of the engine, which knows none of them.
func TestNeeds(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*contract.ExpertSet)
		want   adapt.Needs
	}{
		"Prompt asks for one expert at a time": {
			func(*contract.ExpertSet) {},
			adapt.Needs{Passes: 2, Mixtures: []map[string]float64{{"demo-math": 1}, {"demo-code": 1}}},
		},
		"Prompt blends": {
			func(s *contract.ExpertSet) { s.TopK = 2 },
			adapt.Needs{Passes: 2, Blends: true, Mixtures: []map[string]float64{{"demo-math": 1}, {"demo-code": 1}}},
		},
		"Prompt has nothing to choose from": {
			func(s *contract.ExpertSet) { s.Experts = nil },
			adapt.Needs{Passes: 2},
		},
		"Fixed is known beforehand": {
			func(s *contract.ExpertSet) { s.Strategy, s.Experts[1].Weight = contract.StrategyFixed, 1 },
			adapt.Needs{Passes: 1, Mixtures: []map[string]float64{{"demo-code": 1}}},
		},
		"Fixed without experts is the base": {
			func(s *contract.ExpertSet) { s.Strategy, s.Experts = contract.StrategyFixed, nil },
			adapt.Needs{Passes: 1, Mixtures: []map[string]float64{{}}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			set := demoSet()
			c.change(&set)
			s, err := adapt.New(set, adapt.Tools{Encoder: bytesEncoder{}, Scorer: &scorer{}})
			if err != nil {
				t.Fatal(err)
			}
			got := s.Needs()
			if asks := got.Passes == 2 && len(set.Experts) > 0; asks != (len(got.Beginning) > 0) {
				t.Errorf("pass 1 begins with %d tokens, and whether there is one is %v", len(got.Beginning), asks)
			}
			got.Beginning = nil // See TestWhatAllQuestionsBeginWith.
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("needs (-want +got):\n%s", diff)
			}
			if s.Name() != set.Strategy {
				t.Errorf("%s calls itself %s", set.Strategy, s.Name())
			}
		})
	}
}

// TestWhatAllQuestionsBeginWith wants it to be what the template has before the request, in
// whatever weights pass 1 runs with.
func TestWhatAllQuestionsBeginWith(t *testing.T) {
	own := demoSet()
	own.PromptTemplate = "Skills:\n{skills}\nAsked: {prompt}\nSkill:"
	last := demoSet()
	last.PromptTemplate = "{prompt} is for which of {skills}?"
	for name, c := range map[string]struct {
		set  contract.ExpertSet
		ends string
	}{
		"the default template": {demoSet(), "Request: "}, "a template of one's own": {own, "Asked: "}, "the request first": {last, ""},
		"a classifier": {classifierSet(), "Request: "},
	} {
		t.Run(name, func(t *testing.T) {
			s := &scorer{scores: []float64{-1, -2, -3}}
			strategy, err := adapt.New(c.set, adapt.Tools{Encoder: bytesEncoder{}, Scorer: s})
			if err != nil {
				t.Fatal(err)
			}
			for _, request := range []string{"axe", "7 and 5", "ΩЖ", "\n\n"} {
				if _, err := strategy.Decide(t.Context(), adapt.Request{Turns: []string{request}}); err != nil {
					t.Fatal(err)
				}
				before, _, found := strings.Cut(s.prompt, request)
				if needs := strategy.Needs(); !found || !slices.Equal(needs.Beginning, tokens(before)) || cmp.Diff(needs.With, s.with) != "" {
					t.Errorf("the question %q is asked with %v; said was %q with %v", s.prompt, s.with, text(needs.Beginning), needs.With)
				}
				if !strings.HasSuffix(before, c.ends) || before == "" != (c.ends == "") {
					t.Errorf("what is before the request is %q, want it to end with %q", before, c.ends)
				}
			}
		})
	}
}

// TestTheContractKnowsWhichStrategiesChooseBySkill holds what the operator is told
// against what this package refuses.
func TestTheContractKnowsWhichStrategiesChooseBySkill(t *testing.T) {
	for _, name := range adapt.Names() {
		set := demoSet()
		set.Strategy, set.Experts[1].Skill = name, "math"
		if err := adapt.Validate(set); (err != nil) != contract.ChoosesBySkill(name) {
			t.Errorf("two experts of one skill with %s: %v, but ChoosesBySkill is %v", name, err, contract.ChoosesBySkill(name))
		}
	}
}

func TestValidateNamesWhatIsWrong(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*contract.ExpertSet)
		want   string
	}{
		"unknown strategy": {func(s *contract.ExpertSet) { s.Strategy = "Magic" }, `strategy "Magic" is unknown`},
		"no name":          {func(s *contract.ExpertSet) { s.Experts[1].Name = "" }, "expert 1 has no name"},
		"reserved name":    {func(s *contract.ExpertSet) { s.Experts[0].Name = "base" }, `expert "base": the name is reserved`},
		"twice":            {func(s *contract.ExpertSet) { s.Experts[1].Name = "demo-math" }, `"demo-math" is listed twice`},
		"no digest":        {func(s *contract.ExpertSet) { s.Experts[0].Digest = "sha256:../../etc" }, "is no digest"},
		"negative weight":  {func(s *contract.ExpertSet) { s.Experts[0].Weight = -1 }, "must be 0 or more"},
		"no skill":         {func(s *contract.ExpertSet) { s.Experts[0].Skill = " " }, "has no skill"},
		"skill others":     {func(s *contract.ExpertSet) { s.Experts[0].Skill = "Others" }, "reserved for the base"},
		"same skill":       {func(s *contract.ExpertSet) { s.Experts[1].Skill = "math" }, "could not tell them apart"},
		"unknown fallback": {func(s *contract.ExpertSet) { s.Fallback = "law" }, `fallback "law" is none`},
		"no probability":   {func(s *contract.ExpertSet) { s.MinProbability = 1.5 }, "minProbability is 1.5, must be from 0 to 1"},
		"no number":        {func(s *contract.ExpertSet) { s.MinProbability = math.NaN() }, "minProbability is NaN"},
		"too many mixed":   {func(s *contract.ExpertSet) { s.TopK = 9 }, "topK is 9, must be from 1 to 8"},
		"less than one":    {func(s *contract.ExpertSet) { s.TopK = -1 }, "topK is -1"},
		"no tokens":        {func(s *contract.ExpertSet) { s.RequestTokens = -1 }, "requestTokens is -1"},
		"blind template":   {func(s *contract.ExpertSet) { s.PromptTemplate = "{skills}?" }, "would not see the request"},
		"too many": {func(s *contract.ExpertSet) {
			s.Experts = make([]contract.ExpertRef, contract.MaxExperts+1)
		}, "at most 64"},
	} {
		t.Run(name, func(t *testing.T) {
			set := demoSet()
			c.change(&set)
			err := adapt.Validate(set)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want it to contain %q", err, c.want)
			}
			if _, newErr := adapt.New(set, adapt.Tools{Encoder: bytesEncoder{}, Scorer: &scorer{}}); newErr == nil {
				t.Error("New took an invalid set")
			}
		})
	}
	if err := adapt.Validate(demoSet()); err != nil {
		t.Errorf("the demo's set: %v", err)
	}
}
