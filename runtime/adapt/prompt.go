package adapt

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"strings"

	"github.com/transformersquared/operator/runtime/contract"
)

// Places in a prompt template.
const (
	placeSkills = "{skills}"
	placePrompt = "{prompt}"
)

// prompt shows the model the skills' descriptions and the request, and chooses
// the label that the model finds most likely, or mixes the few most likely.
type prompt struct {
	reader
	template string
	skills   string  // Replaces placeSkills.
	tokens   int     // Of a request, at most.
	least    float64 // Probability of the most likely label.
	mixed    int     // Labels, at most.
	fallback string

	names  []string  // By label: expert names, then contract.OthersLabel.
	texts  []string  // Skill names, then contract.OthersLabel.
	labels [][]int32 // The tokens of texts.
}

// validatePrompt checks what pass 1 needs: that it sees the request, and can tell
// the experts apart.
func validatePrompt(set contract.ExpertSet) []error {
	var problems problems
	skills := map[string]string{}
	for _, e := range set.Experts {
		skill := oneLine(e.Skill)
		problems.add(skill == "", "expert %q has no skill, by which pass 1 would choose it", e.Name)
		problems.add(strings.EqualFold(skill, contract.OthersLabel), "expert %q: skill %q is reserved for the base weights", e.Name, skill)
		other, taken := skills[skill]
		problems.add(taken && skill != "", "experts %q and %q have the same skill %q: pass 1 could not tell them apart", other, e.Name, skill)
		skills[skill] = e.Name
	}
	problems.add(set.PromptTemplate != "" && !strings.Contains(set.PromptTemplate, placePrompt),
		"promptTemplate has no %s: pass 1 would not see the request", placePrompt)
	problems.add(set.RequestTokens < 0, "requestTokens is %d, must be 0 or more", set.RequestTokens)
	problems.add(!(set.MinProbability >= 0 && set.MinProbability <= 1), // NaN is neither.
		"minProbability is %v, must be from 0 to 1", set.MinProbability)
	problems.add(set.TopK < 0 || set.TopK > contract.MaxTopK, "topK is %d, must be from 1 to %d", set.TopK, contract.MaxTopK)
	return problems
}

func newPrompt(set contract.ExpertSet, r reader) (Strategy, error) {
	p := &prompt{
		reader: r, template: cmp.Or(set.PromptTemplate, contract.DefaultPromptTemplate),
		tokens: cmp.Or(set.RequestTokens, contract.DefaultRequestTokens),
		least:  set.MinProbability, mixed: cmp.Or(set.TopK, 1), fallback: set.Fallback,
	}
	var lines []string
	label := func(name, text string) error {
		tokens, err := r.encoder.Answer(text)
		if err != nil {
			return fmt.Errorf("label %q of pass 1: %w", text, err)
		}
		if len(tokens) == 0 {
			return fmt.Errorf("label %q of pass 1 has no tokens", text)
		}
		p.names, p.texts, p.labels = append(p.names, name), append(p.texts, text), append(p.labels, tokens)
		return nil
	}
	for _, e := range set.Experts {
		skill := oneLine(e.Skill)
		line := "- " + skill
		if d := oneLine(e.Description); d != "" {
			line += ": " + d
		}
		lines = append(lines, line)
		if err := label(e.Name, skill); err != nil {
			return nil, err
		}
	}
	if err := label(contract.OthersLabel, contract.OthersLabel); err != nil {
		return nil, err
	}
	p.skills = strings.Join(append(lines, contract.OthersLine), "\n")
	return p, nil
}

// Name implements Strategy.
func (*prompt) Name() string { return contract.StrategyPrompt }

// Needs implements Strategy.
func (p *prompt) Needs() Needs {
	n := Needs{Passes: 2, Blends: p.mixed > 1}
	for _, name := range p.names[:len(p.names)-1] {
		n.Mixtures = append(n.Mixtures, single(name).Weights)
	}
	return n
}

// message renders the template. Placeholders in the request stay text, because
// the replacer never looks at what it has replaced.
func (p *prompt) message(request string) string {
	return strings.NewReplacer(placeSkills, p.skills, placePrompt, request).Replace(p.template)
}

// Decide implements Strategy: one prefill, then the likelihood of each label.
func (p *prompt) Decide(ctx context.Context, request string) (Decision, error) {
	if len(p.names) == 1 {
		// Without experts there is nothing to choose, so nothing is computed.
		return p.fallBack(contract.FallbackNoExperts), nil
	}
	scores, tokens, err := p.score(ctx, request)
	if err != nil {
		if ctx.Err() != nil || errors.Is(err, context.Canceled) || p.fatal != nil && p.fatal(err) {
			return Decision{}, fmt.Errorf("pass 1: %w", err)
		}
		d := p.fallBack(contract.FallbackFailed)
		d.Cause = err
		return d, nil
	}
	probabilities := softmax(scores)
	d := p.choose(scores, probabilities)
	d.Reading = &Reading{Tokens: tokens, Threshold: p.least}
	d.Probabilities = make(map[string]float64, len(scores))
	for i, q := range probabilities {
		d.Probabilities[p.names[i]] = q
		d.Reading.Labels = append(d.Reading.Labels, Label{
			Name: p.names[i], Text: p.texts[i], LogLikelihood: scores[i], Probability: q,
		})
	}
	return d, nil
}

// fallBack is the decision where pass 1 chose nothing.
func (p *prompt) fallBack(why string) Decision {
	d := single(p.fallback)
	d.Fallback = why
	return d
}

// choose makes the decision of the labels' log-likelihoods and probabilities. Where
// the most likely label, be it "others", is too unlikely, or cannot be told
// from the next one, the fallback answers. Of several labels that are
// mixed, "others" has a share as any: the base weights'.
func (p *prompt) choose(scores, probabilities []float64) Decision {
	best := leading(scores, p.mixed)
	switch {
	case len(best) == 0:
		return p.fallBack(contract.FallbackTie)
	case probabilities[best[0]] < p.least:
		return p.fallBack(contract.FallbackUnlikely)
	}
	likely := make([]float64, len(best))
	for i, label := range best {
		likely[i] = probabilities[label]
	}
	d := Decision{Weights: map[string]float64{}}
	var names []string
	for i, share := range shares(likely) {
		if share == 0 {
			continue
		}
		name := p.names[best[i]]
		if name == contract.OthersLabel {
			name = contract.BaseName
		}
		names = append(names, name)
		d.Weights[name] = share
	}
	if len(names) > 1 {
		d.Expert = strings.Join(names, "+")
		return d
	}
	d = single(names[0])
	if names[0] == contract.BaseName {
		d.Fallback = contract.FallbackOthers
	}
	return d
}

// score returns the log-likelihood of each label, and how many tokens the prompt
// had.
func (p *prompt) score(ctx context.Context, request string) (scores []float64, tokens int, err error) {
	excerpt, err := p.encoder.Excerpt(request, p.tokens)
	if err != nil {
		return nil, 0, fmt.Errorf("encoding the request for pass 1: %w", err)
	}
	ids, err := p.encoder.Prompt(p.message(excerpt))
	if err != nil {
		return nil, 0, fmt.Errorf("encoding the prompt of pass 1: %w", err)
	}
	if scores, err = p.scorer.Score(ctx, nil, ids, p.labels); err != nil {
		return nil, 0, err
	}
	if len(scores) != len(p.labels) {
		return nil, 0, fmt.Errorf("%d scores for %d labels", len(scores), len(p.labels))
	}
	possible := false
	for i, s := range scores {
		if math.IsNaN(s) || math.IsInf(s, 1) {
			return nil, 0, fmt.Errorf("the log-likelihood of label %q is %v", p.texts[i], s)
		}
		possible = possible || !math.IsInf(s, -1)
	}
	if !possible {
		return nil, 0, errors.New("the model finds every label impossible")
	}
	return scores, len(ids), nil
}
