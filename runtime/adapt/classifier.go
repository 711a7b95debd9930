package adapt

import (
	"github.com/transformersquared/operator/runtime/contract"
)

// validateClassifier checks what Prompt needs, and that there is a classifier.
func validateClassifier(set contract.ExpertSet) []error {
	problems := problems(validatePrompt(set))
	problems.add(set.Classifier == nil, "strategy %s has no classifier: name the expert that pass 1 runs with, or use strategy %s",
		contract.StrategyClassifier, contract.StrategyPrompt)
	return problems
}

// newClassifier makes pass 1 of the strategy Prompt run with an expert that was
// trained to answer it (section 3.2 of the paper): what is asked, and how the answer
// is found, is the same.
func newClassifier(set contract.ExpertSet, r reader) (Strategy, error) {
	p, err := readingPrompt(set, r)
	if err != nil {
		return nil, err
	}
	p.strategy, p.with = contract.StrategyClassifier, map[string]float64{set.Classifier.Name: 1}
	return p, nil
}
