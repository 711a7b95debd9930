package contract

import (
	"cmp"
	"fmt"
	"slices"
)

// Pass1 is the question of the first pass: all that it shows beside the request.
// A classifier is trained to answer one, and knows no other.
type Pass1 struct {
	// Skills are shown in this order; OthersLabel, which comes last always, is not
	// among them.
	Skills []SkillLine `json:"skills"`
	// PromptTemplate and RequestTokens are as in ExpertSet.
	PromptTemplate string `json:"promptTemplate,omitempty"`
	RequestTokens  int    `json:"requestTokens,omitempty"`
}

// SkillLine is what pass 1 shows of one expert.
type SkillLine struct {
	Skill       string `json:"skill"`
	Description string `json:"description,omitempty"`
}

// Digest identifies the question: it is the same for all sets whose pass 1 asks
// alike, whatever their experts are called and weigh.
func (p Pass1) Digest() (string, error) {
	p.PromptTemplate = cmp.Or(p.PromptTemplate, DefaultPromptTemplate)
	p.RequestTokens = cmp.Or(p.RequestTokens, DefaultRequestTokens)
	digest, err := p.identity().Digest()
	if err != nil {
		return "", fmt.Errorf("encoding the question of pass 1: %w", err)
	}
	return digest, nil
}

// Pass1 is the question that pass 1 of this set asks.
func (s ExpertSet) Pass1() Pass1 {
	p := Pass1{Skills: make([]SkillLine, len(s.Experts)), PromptTemplate: s.PromptTemplate, RequestTokens: s.RequestTokens}
	for i, e := range s.Experts {
		p.Skills[i] = SkillLine{Skill: e.Skill, Description: e.Description}
	}
	return p
}

// Refs are all experts that the set needs: those that answer, and the classifier.
func (s ExpertSet) Refs() []ExpertRef {
	if s.Classifier == nil {
		return s.Experts
	}
	return append(slices.Clip(s.Experts), *s.Classifier)
}

// WithoutClassifier is what is served of a set while its classifier is not there:
// pass 1 asks the same of the base weights. A set that needs none stays as it is.
func (s ExpertSet) WithoutClassifier() ExpertSet {
	s.Classifier = nil
	if s.Strategy == StrategyClassifier {
		s.Strategy = StrategyPrompt
	}
	return s
}

// WithoutProbe is what is served of a set while its probe is not there: pass 1 asks the
// base which skill a request wants.
func (s ExpertSet) WithoutProbe() ExpertSet {
	s.Probe = nil
	if s.Strategy == StrategyProbe {
		s.Strategy = StrategyPrompt
	}
	return s
}

// SkillsSpec makes one data set (FormatSkills) of several: of prompts and the skill
// that each belongs to. What the model reads of a prompt is what pass 1 shows it, and
// the right answer is the label.
type SkillsSpec struct {
	Pass1 Pass1 `json:"pass1"`
	// Sets have prompts of one skill each, or of OthersLabel; their answers mean
	// nothing here. Skills without a set are shown, and never the right answer.
	Sets []SkillSet `json:"sets"`
	// Part is PartTrain or PartValidation. Which prompts are held out for the latter
	// depends on nothing but their text.
	Part string `json:"part"`
}

// SkillSet are prompts of one skill.
type SkillSet struct {
	Skill   string      `json:"skill"`
	Dataset DatasetSpec `json:"dataset"`
}

// Parts of a data set of FormatSkills.
const (
	PartTrain      = "Train"
	PartValidation = "Validation"
)
