package adapt

import (
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
// the label that the model finds most likely.
type prompt struct {
	template string
	skills   string // Replaces placeSkills.
	tokens   int    // Of a request, at most.
	fallback string
	encoder  Encoder
	scorer   Scorer
	fatal    func(error) bool

	names  []string  // By label: expert names, then contract.OthersLabel.
	labels [][]int32 // Tokens of skill names, then of contract.OthersLabel.
}

func newPrompt(set contract.ExpertSet, encoder Encoder, scorer Scorer, fatal func(error) bool) (*prompt, error) {
	p := &prompt{
		template: set.PromptTemplate, fallback: set.Fallback, tokens: set.RequestTokens,
		encoder: encoder, scorer: scorer, fatal: fatal,
	}
	if p.tokens == 0 {
		p.tokens = contract.DefaultRequestTokens
	}
	if p.template == "" {
		p.template = contract.DefaultPromptTemplate
	}
	var lines []string
	label := func(name, text string) error {
		tokens, err := encoder.Answer(text)
		if err != nil {
			return fmt.Errorf("label %q of pass 1: %w", text, err)
		}
		if len(tokens) == 0 {
			return fmt.Errorf("label %q of pass 1 has no tokens", text)
		}
		p.names, p.labels = append(p.names, name), append(p.labels, tokens)
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

// message renders the template. Placeholders in the request stay text, because
// the replacer never looks at what it has replaced.
func (p *prompt) message(request string) string {
	return strings.NewReplacer(placeSkills, p.skills, placePrompt, request).Replace(p.template)
}

// Decide implements Strategy: one prefill, then the likelihood of each label.
func (p *prompt) Decide(ctx context.Context, request string) (Decision, error) {
	if len(p.names) == 1 {
		// Without experts there is nothing to choose, so nothing is computed.
		d := single(p.fallback)
		d.Fallback = true
		return d, nil
	}
	scores, err := p.score(ctx, request)
	if err != nil {
		if ctx.Err() != nil || errors.Is(err, context.Canceled) || p.fatal != nil && p.fatal(err) {
			return Decision{}, fmt.Errorf("pass 1: %w", err)
		}
		d := single(p.fallback)
		d.Fallback, d.Cause = true, err
		return d, nil
	}
	best, tied := argmax(scores)
	probabilities := make(map[string]float64, len(scores))
	for i, q := range softmax(scores) {
		probabilities[p.names[i]] = q
	}
	var d Decision
	switch {
	case tied:
		d = single(p.fallback)
		d.Fallback = true
	case p.names[best] == contract.OthersLabel:
		d = single(contract.BaseName)
		d.Fallback = true
	default:
		d = single(p.names[best])
	}
	d.Probabilities = probabilities
	return d, nil
}

func (p *prompt) score(ctx context.Context, request string) ([]float64, error) {
	excerpt, err := p.encoder.Excerpt(request, p.tokens)
	if err != nil {
		return nil, fmt.Errorf("encoding the request for pass 1: %w", err)
	}
	tokens, err := p.encoder.Prompt(p.message(excerpt))
	if err != nil {
		return nil, fmt.Errorf("encoding the prompt of pass 1: %w", err)
	}
	scores, err := p.scorer.Score(ctx, tokens, p.labels)
	if err != nil {
		return nil, err
	}
	if len(scores) != len(p.labels) {
		return nil, fmt.Errorf("%d scores for %d labels", len(scores), len(p.labels))
	}
	possible := false
	for i, s := range scores {
		if math.IsNaN(s) || math.IsInf(s, 1) {
			return nil, fmt.Errorf("the log-likelihood of label %q is %v", p.names[i], s)
		}
		possible = possible || !math.IsInf(s, -1)
	}
	if !possible {
		return nil, errors.New("the model finds every label impossible")
	}
	return scores, nil
}

// argmax returns the index of the largest score and whether another equals it.
func argmax(scores []float64) (best int, tied bool) {
	for i, s := range scores {
		switch {
		case i == 0:
		case s > scores[best]:
			best, tied = i, false
		case s == scores[best]:
			tied = true
		}
	}
	return best, tied
}

// softmax turns log-likelihoods into probabilities among the labels. At least
// one must be finite.
func softmax(scores []float64) []float64 {
	peak, _ := argmax(scores)
	out, sum := make([]float64, len(scores)), 0.0
	for i, s := range scores {
		out[i] = math.Exp(s - scores[peak])
		sum += out[i]
	}
	for i := range out {
		out[i] /= sum
	}
	return out
}
