package adapt

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/transformersquared/operator/runtime/contract"
)

// Places in a prompt template.
const (
	placeSkills = "{skills}"
	placePrompt = "{prompt}"
)

// Question is what pass 1 asks a model: the message that shows the skills and a
// request, and the labels that may answer it. Whoever serves and whoever trains a
// classifier make it of the same contract.Pass1, so that what is asked is what was
// learnt.
type Question struct {
	encoder  Encoder
	template string
	skills   string    // Replaces placeSkills.
	tokens   int       // Of a request, at most.
	texts    []string  // Skills in their order, then contract.OthersLabel.
	labels   [][]int32 // The tokens of texts.
	// beginning is what all prompts have in common before the request.
	beginning []int32
}

// NewQuestion makes the question of skills that are valid (see ValidatePass1).
func NewQuestion(p contract.Pass1, e Encoder) (*Question, error) {
	if err := ValidatePass1(p); err != nil {
		return nil, err
	}
	return newQuestion(p, e)
}

func newQuestion(p contract.Pass1, e Encoder) (*Question, error) {
	q := &Question{
		encoder: e, template: cmp.Or(p.PromptTemplate, contract.DefaultPromptTemplate),
		tokens: cmp.Or(p.RequestTokens, contract.DefaultRequestTokens),
	}
	lines := make([]string, 0, len(p.Skills)+1)
	for _, s := range p.Skills {
		skill := oneLine(s.Skill)
		line := "- " + skill
		if d := oneLine(s.Description); d != "" {
			line += ": " + d
		}
		lines, q.texts = append(lines, line), append(q.texts, skill)
	}
	q.texts = append(q.texts, contract.OthersLabel)
	q.skills = strings.Join(append(lines, contract.OthersLine), "\n")
	for _, text := range q.texts {
		tokens, err := e.Answer(text)
		if err != nil {
			return nil, fmt.Errorf("label %q of pass 1: %w", text, err)
		}
		if len(tokens) == 0 {
			return nil, fmt.Errorf("label %q of pass 1 has no tokens", text)
		}
		q.labels = append(q.labels, tokens)
	}
	q.beginning = q.begin()
	return q, nil
}

// begin returns what the prompts of requests that have nothing in common begin with. Tokens
// that a request's first letters become one with are none of it. Nothing is known of them
// where the encoder does not know all of these letters.
func (q *Question) begin() []int32 {
	var common []int32
	for i, request := range []string{"a", "7", "\n", "(", "Ж"} {
		ids, err := q.Prompt(request)
		if err != nil {
			return nil
		}
		if i == 0 {
			common = ids
		}
		n := 0
		for n < min(len(ids), len(common)) && ids[n] == common[n] {
			n++
		}
		common = common[:n]
	}
	return common
}

// Labels are the tokens of the answers to choose from: the skills in their order,
// contract.OthersLabel last.
func (q *Question) Labels() [][]int32 { return q.labels }

// Label returns the place among Labels of the one that a skill, or
// contract.OthersLabel, is chosen by; −1 if there is none.
func (q *Question) Label(skill string) int { return slices.Index(q.texts, oneLine(skill)) }

// Prompt encodes the question about a request: the last of the user's turns, of which there
// must be one, and of those before it the latest that have room.
func (q *Question) Prompt(turns ...string) ([]int32, error) {
	excerpt, err := q.excerpt(turns)
	if err != nil {
		return nil, fmt.Errorf("encoding the request for pass 1: %w", err)
	}
	ids, err := q.encoder.Prompt(q.message(excerpt))
	if err != nil {
		return nil, fmt.Errorf("encoding the prompt of pass 1: %w", err)
	}
	return ids, nil
}

// turnsShown bounds how many turns of a conversation pass 1 is shown.
const turnsShown = 8

// excerpt returns as much of the user's turns as pass 1 is shown: turns are left out whole,
// and the last one alone is shortened.
func (q *Question) excerpt(turns []string) (string, error) {
	last := len(turns) - 1
	shown, err := q.encoder.Excerpt(turns[last], q.tokens)
	if err != nil || shown != turns[last] {
		return shown, err
	}
	for i := last - 1; i >= 0 && last-i < turnsShown; i-- {
		longer := turns[i] + "\n\n" + shown
		fits, err := q.encoder.Excerpt(longer, q.tokens)
		if err != nil {
			return "", err
		}
		if fits != longer {
			break
		}
		shown = longer
	}
	return shown, nil
}

// message renders the template. Placeholders in the request stay text, because
// the replacer never looks at what it has replaced.
func (q *Question) message(request string) string {
	return strings.NewReplacer(placeSkills, q.skills, placePrompt, request).Replace(q.template)
}

// ValidatePass1 checks that pass 1 sees the request, and can tell the skills apart.
// It reports everything that is wrong.
func ValidatePass1(p contract.Pass1) error { return joined(validatePass1(p, nil)) }

// validatePass1 names the i-th skill in what it reports by the i-th of names, which
// may be nil.
func validatePass1(p contract.Pass1, names []string) problems {
	var problems problems
	name := func(i int) string {
		if i < len(names) {
			return fmt.Sprintf("expert %q", names[i])
		}
		return fmt.Sprintf("skill %d", i)
	}
	seen := map[string]int{}
	for i, s := range p.Skills {
		skill := oneLine(s.Skill)
		problems.add(skill == "", "%s has no skill, by which pass 1 would choose it", name(i))
		problems.add(strings.EqualFold(skill, contract.OthersLabel), "%s: skill %q is reserved for the base weights", name(i), skill)
		other, taken := seen[skill]
		problems.add(taken && skill != "", "%s and %s have the same skill %q: pass 1 could not tell them apart", name(other), name(i), skill)
		seen[skill] = i
	}
	problems.add(p.PromptTemplate != "" && !strings.Contains(p.PromptTemplate, placePrompt),
		"promptTemplate has no %s: pass 1 would not see the request", placePrompt)
	problems.add(p.RequestTokens < 0, "requestTokens is %d, must be 0 or more", p.RequestTokens)
	return problems
}
