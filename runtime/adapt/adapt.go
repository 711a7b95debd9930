// Package adapt decides, for each request, which experts answer it: the first
// of the two passes of Transformer² (section 3.2 of the paper). It is pure
// strategy: what it needs of a model it asks through the small interfaces
// Scorer and Encoder, so that every rule here is testable without one.
package adapt

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"

	"github.com/transformersquared/operator/runtime/contract"
)

// Scorer is what pass 1 needs of an engine that runs the base weights.
type Scorer interface {
	// Score returns for each label Σ log p(labelᵢ | prompt, label₍<ᵢ₎), the
	// log-likelihood that the model continues the prompt by exactly the label.
	Score(ctx context.Context, prompt []int32, labels [][]int32) ([]float64, error)
}

// Encoder turns text into the tokens of a conversation.
type Encoder interface {
	// Prompt encodes one message of the user, up to where the assistant's answer
	// begins. The message is data: nothing in it may become a control token.
	Prompt(message string) ([]int32, error)
	// Excerpt returns a text of at most so many tokens as it is, and of a longer one
	// its beginning and its end, with half of the tokens each.
	Excerpt(text string, tokens int) (string, error)
	// Answer encodes a complete answer of the assistant, with the token that ends
	// its turn: "math" and "mathematics" differ in their likelihood only if the
	// end counts.
	Answer(text string) ([]int32, error)
}

// Decision is what a strategy chose for one request.
type Decision struct {
	// Expert is the chosen expert's name, contract.BaseName for the base weights,
	// or several names joined by "+" for a mixture.
	Expert string
	// Weights are α by expert name; empty means the base weights.
	Weights map[string]float64
	// Probabilities are pass 1's, by expert name and contract.OthersLabel; nil
	// where there was no pass 1 or it failed.
	Probabilities map[string]float64
	// Fallback says that pass 1 chose no expert: it chose "others", could not
	// decide, or failed.
	Fallback bool
	// Cause is why pass 1 failed, nil if it did not. The request goes on with the
	// fallback all the same.
	Cause error
}

// Strategy chooses experts for a request.
type Strategy interface {
	// Name is the strategy's name in the contract.
	Name() string
	// Decide chooses for the text of a request. An error means that the request
	// as a whole cannot go on (cancelled, the engine is full or closing).
	Decide(ctx context.Context, request string) (Decision, error)
}

// New returns the strategy that an expert set asks for. fatal tells which of
// the scorer's errors end the request instead of leading to the fallback;
// cancellation always does. The set must be valid (see Validate).
func New(set contract.ExpertSet, encoder Encoder, scorer Scorer, fatal func(error) bool) (Strategy, error) {
	if err := Validate(set); err != nil {
		return nil, err
	}
	if set.Strategy == contract.StrategyFixed {
		return newFixed(set), nil
	}
	return newPrompt(set, encoder, scorer, fatal)
}

// Validate checks that a set makes sense by itself. It reports everything that
// is wrong, each with the expert's name.
func Validate(set contract.ExpertSet) error {
	var problems []error
	add := func(bad bool, format string, args ...any) {
		if bad {
			problems = append(problems, fmt.Errorf(format, args...))
		}
	}
	add(set.Strategy != contract.StrategyPrompt && set.Strategy != contract.StrategyFixed,
		"strategy %q is unknown: use %s or %s", set.Strategy, contract.StrategyPrompt, contract.StrategyFixed)
	add(len(set.Experts) > contract.MaxExperts, "%d experts, at most %d are allowed", len(set.Experts), contract.MaxExperts)
	names, skills := map[string]bool{}, map[string]string{}
	for i, e := range set.Experts {
		add(e.Name == "", "expert %d has no name", i)
		add(e.Name == contract.BaseName || e.Name == contract.OthersLabel,
			"expert %q: the name is reserved, rename the expert", e.Name)
		add(names[e.Name], "expert %q is listed twice", e.Name)
		names[e.Name] = true
		add(!contract.ValidDigest(e.Digest), "expert %q: %q is no digest", e.Name, e.Digest)
		add(math.IsNaN(e.Weight) || math.IsInf(e.Weight, 0) || e.Weight < 0,
			"expert %q: weight %v, must be 0 or more", e.Name, e.Weight)
		if set.Strategy != contract.StrategyPrompt {
			continue
		}
		skill := oneLine(e.Skill)
		add(skill == "", "expert %q has no skill, by which pass 1 would choose it", e.Name)
		add(strings.EqualFold(skill, contract.OthersLabel), "expert %q: skill %q is reserved for the base weights", e.Name, skill)
		other, taken := skills[skill]
		add(taken && skill != "", "experts %q and %q have the same skill %q: pass 1 could not tell them apart", other, e.Name, skill)
		skills[skill] = e.Name
	}
	add(set.Fallback != "" && set.Fallback != contract.BaseName && !names[set.Fallback],
		"fallback %q is none of the experts", set.Fallback)
	add(set.RequestTokens < 0, "requestTokens is %d, must be 0 or more", set.RequestTokens)
	if t := set.PromptTemplate; t != "" && set.Strategy == contract.StrategyPrompt {
		add(!strings.Contains(t, placePrompt), "promptTemplate has no %s: pass 1 would not see the request", placePrompt)
	}
	return errors.Join(problems...)
}

// single is the decision for one expert, or for the base weights.
func single(name string) Decision {
	if name == "" || name == contract.BaseName {
		return Decision{Expert: contract.BaseName}
	}
	return Decision{Expert: name, Weights: map[string]float64{name: 1}}
}

// oneLine joins the words of s, so that a description cannot pretend to be a
// line of the template.
func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }
