// Package adapt decides, for each request, which experts answer it: the first
// of the two passes of Transformer² (section 3.2 of the paper). It is pure
// strategy: what it needs of a model it asks through the small interfaces
// Scorer and Encoder, so that every rule here is testable without one.
package adapt

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/transformersquared/operator/runtime/contract"
)

// Scorer is what pass 1 needs of an engine.
type Scorer interface {
	// Score returns for each label Σ log p(labelᵢ | prompt, label₍<ᵢ₎), the
	// log-likelihood that the model continues the prompt by exactly the label.
	Score(ctx context.Context, s Scoring) ([]float64, error)
}

// Scoring is what a Scorer is asked.
type Scoring struct {
	// With are the weights that the model runs with, α by expert name: one of the
	// strategy's Needs.Mixtures, or none for the base.
	With   map[string]float64
	Prompt []int32
	Labels [][]int32
	// Salt is the request's.
	Salt string
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
	// Weights are α by expert name, which sum to 1; empty means the base weights. In
	// a mixture, contract.BaseName is the share of the base weights.
	Weights map[string]float64
	// Layers are α by layer, of the same names, where they differ by layer: then Weights
	// are their means. Nil where they do not.
	Layers map[string][]float64
	// Probabilities are pass 1's, by expert name and contract.OthersLabel; nil
	// where there was no pass 1 or it failed.
	Probabilities map[string]float64
	// Fallback is why pass 1 chose no expert, one of contract's Fallback constants;
	// empty where it chose, and where there is no pass 1.
	Fallback string
	// Cause is why pass 1 failed, nil if it did not. The request goes on with the
	// fallback all the same.
	Cause error
	// Turn is the user's turn, counted from 1, whose pass 1 made the choice; 0 where there
	// is no pass 1.
	Turn int
	// Remembered says that the choice was known: no pass 1 was run for this request.
	Remembered bool
	// Reading is what pass 1 read and found; nil where it read nothing or failed.
	Reading *Reading
}

// Reading is what pass 1 read, and what it made of it.
type Reading struct {
	// Tokens are those of the prompt that the model read.
	Tokens int
	// Labels are what it chose from, in the order of the set, contract.OthersLabel
	// last.
	Labels []Label
	// Threshold is what the probability of the most likely label has to reach; 0
	// means that there is none.
	Threshold float64
	// With are the weights that the model read it with, α by expert name; none for
	// the base.
	With map[string]float64
}

// Label is one of the answers that pass 1 compares.
type Label struct {
	// Name is the expert's, or contract.OthersLabel.
	Name string
	// Text is what the model would have to say for it.
	Text string
	// LogLikelihood is Σ log p of the label's tokens behind the prompt; −Inf where
	// the model finds it impossible.
	LogLikelihood float64
	// Probability is that among the labels.
	Probability float64
}

// Needs are what a strategy wants of whatever computes the answers, so that
// nobody has to know which strategy it is.
type Needs struct {
	// Passes is how often a model reads a request: 1 where the choice is known
	// beforehand, which then is always the first of Mixtures; 2 where Decide lets it
	// be read once more.
	Passes int
	// Mixtures are the α by expert name that Decide may choose, or ask the Scorer
	// for, those that are wanted most first; an empty one is the base, which is
	// possible in any case.
	Mixtures []map[string]float64
	// Layers are the first mixture's α by layer, as in Decision.
	Layers map[string][]float64
	// Blends says that Decide may choose other mixtures of these experts, too, of
	// which there are too many to list.
	Blends bool
	// Beginning is what all prompts begin with that the Scorer is asked about, and With the
	// weights that it is asked to run with; none where nothing is known of them.
	Beginning []int32
	With      map[string]float64
}

// Strategy chooses experts for a request.
type Strategy interface {
	// Name is the strategy's name in the contract.
	Name() string
	// Needs says what the strategy needs; it is always the same.
	Needs() Needs
	// Decide chooses for a request, which has a turn at least. An error means that the
	// request as a whole cannot go on (cancelled, the engine is full or closing).
	Decide(ctx context.Context, r Request) (Decision, error)
}

// reader is what a strategy may use of a model. fatal tells which of the scorer's
// errors end the request instead of leading to the fallback.
type reader struct {
	encoder Encoder
	scorer  Scorer
	reader  Reader
	prober  Prober
	fatal   func(error) bool
}

// kind is how one strategy is checked and made. A strategy is a file with a type
// that implements Strategy, and a line in kinds.
type kind struct {
	// remembers says that the strategy chooses by what the user has said alone, so that a
	// choice may stay in a conversation.
	remembers bool
	// validate reports what is wrong with a set for this strategy; nil asks for
	// nothing.
	validate func(set contract.ExpertSet) []error
	// make is given sets that are valid.
	make func(set contract.ExpertSet, r reader) (Strategy, error)
}

// kinds are all strategies, by their names in the contract.
var kinds = map[string]kind{
	contract.StrategyClassifier: {remembers: true, validate: validateClassifier, make: newClassifier},
	contract.StrategyFewShot:    {validate: validateFewShot, make: newFewShot},
	contract.StrategyFixed:      {make: newFixed},
	contract.StrategyProbe:      {validate: validateProbe, make: newProbe},
	contract.StrategyPrompt:     {remembers: true, validate: validatePrompt, make: newPrompt},
}

// Names lists the strategies that there are.
func Names() []string { return slices.Sorted(maps.Keys(kinds)) }

// Tools are what strategies may use of a model; each needs some of them.
type Tools struct {
	Encoder Encoder
	Scorer  Scorer
	Reader  Reader
	// Prober is the set's; nil where it has none.
	Prober Prober
	// Fatal tells which errors of the model end the request instead of leading to the
	// fallback; cancellation always does.
	Fatal func(error) bool
}

// New returns the strategy that an expert set asks for. The set must be valid (see
// Validate).
func New(set contract.ExpertSet, t Tools) (Strategy, error) {
	if err := Validate(set); err != nil {
		return nil, err
	}
	chosen := kinds[set.Strategy]
	s, err := chosen.make(set, reader{encoder: t.Encoder, scorer: t.Scorer, reader: t.Reader, prober: t.Prober, fatal: t.Fatal})
	if err != nil || !chosen.remembers {
		return s, err
	}
	return converse(s, set.Conversation), nil
}

// Validate checks that a set makes sense by itself. It reports everything that
// is wrong, each with the expert's name.
func Validate(set contract.ExpertSet) error {
	var problems problems
	chosen, known := kinds[set.Strategy]
	problems.add(!known, "strategy %q is unknown: use %s", set.Strategy, strings.Join(Names(), " or "))
	problems.add(len(set.Experts) > contract.MaxExperts, "%d experts, at most %d are allowed", len(set.Experts), contract.MaxExperts)
	names := map[string]bool{}
	problems.add(set.Classifier != nil && set.Strategy != contract.StrategyClassifier,
		"a classifier is of no use to strategy %s: use strategy %s", set.Strategy, contract.StrategyClassifier)
	problems.add(set.Probe != nil && set.Strategy != contract.StrategyProbe,
		"a probe is of no use to strategy %s: use strategy %s", set.Strategy, contract.StrategyProbe)
	for i, e := range set.Refs() {
		problems.add(e.Name == "", "expert %d has no name", i)
		problems.add(e.Name == contract.BaseName || e.Name == contract.OthersLabel,
			"expert %q: the name is reserved, rename the expert", e.Name)
		problems.add(names[e.Name], "expert %q is listed twice", e.Name)
		names[e.Name] = true
		problems.add(!contract.ValidDigest(e.Digest), "expert %q: %q is no digest", e.Name, e.Digest)
		problems.add(math.IsNaN(e.Weight) || math.IsInf(e.Weight, 0) || e.Weight < 0,
			"expert %q: weight %v, must be 0 or more", e.Name, e.Weight)
	}
	if set.Classifier != nil {
		delete(names, set.Classifier.Name) // It answers nothing.
	}
	problems.add(set.Fallback != "" && set.Fallback != contract.BaseName && !names[set.Fallback],
		"fallback %q is none of the experts", set.Fallback)
	problems = append(problems, validateConversation(set, chosen.remembers)...)
	if chosen.validate != nil {
		problems = append(problems, chosen.validate(set)...)
	}
	return joined(problems)
}

// joined is one error of all problems, nil of none.
func joined(p problems) error { return errors.Join(p...) }

// problems are what is wrong with a set.
type problems []error

func (p *problems) add(bad bool, format string, args ...any) {
	if bad {
		*p = append(*p, fmt.Errorf(format, args...))
	}
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
