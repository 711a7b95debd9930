package dataset

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/train/reward"
)

// parser turns a JSON object into a record.
type parser func(line []byte) (Record, error)

// template makes the user's message. Its placeholders are {question},
// {choices} and {tests}.
type template string

const (
	holdQuestion = "{question}"
	holdChoices  = "{choices}"
	holdTests    = "{tests}"
)

// The default templates.
const (
	plainTemplate = template(holdQuestion)
	arcTemplate   = template(holdQuestion + "\n" + holdChoices)
	mbppTemplate  = template(holdQuestion + "\nYour code should pass these tests:\n" + holdTests)
)

// newTemplate returns the format's default where text is empty.
func newTemplate(format, text string) (template, error) {
	if text != "" {
		if format == contract.FormatChat {
			return "", errors.New("a prompt template has no meaning in the format Chat, whose records are whole conversations: remove it")
		}
		if !strings.Contains(text, holdQuestion) {
			return "", fmt.Errorf("the prompt template has no %s", holdQuestion)
		}
		return template(text), nil
	}
	switch format {
	case contract.FormatARC:
		return arcTemplate, nil
	case contract.FormatMBPP:
		return mbppTemplate, nil
	default:
		return plainTemplate, nil
	}
}

// record renders the template. The three values are inserted in one go, so
// that braces in a question stay what they are.
func (t template) record(question, choices, tests string, ref reward.Reference) Record {
	content := strings.NewReplacer(holdQuestion, question, holdChoices, choices, holdTests, tests).Replace(string(t))
	return Record{Messages: []Message{{Role: "user", Content: content}}, Reference: ref}
}

// missing names the first of the fields that is empty.
func missing(fields ...[2]string) error {
	for _, f := range fields {
		if strings.TrimSpace(f[1]) == "" {
			return fmt.Errorf("field %q is missing or empty", f[0])
		}
	}
	return nil
}

// parseGSM8K reads {question, answer}; the answer ends in "#### number".
func (t template) parseGSM8K(line []byte) (Record, error) {
	var r struct {
		Question string `json:"question"`
		Answer   string `json:"answer"`
	}
	if err := unmarshal(line, &r); err != nil {
		return Record{}, err
	}
	if err := missing([2]string{"question", r.Question}, [2]string{"answer", r.Answer}); err != nil {
		return Record{}, err
	}
	return t.record(r.Question, "", "", reward.Reference{Answer: r.Answer}), nil
}

// parseMBPP reads {text or prompt, test_list, test_setup_code, code}. In the
// sanitized edition the task is called prompt, and imports for the tests come
// as a list.
func (t template) parseMBPP(line []byte) (Record, error) {
	var r struct {
		Text        string   `json:"text"`
		Prompt      string   `json:"prompt"`
		Code        string   `json:"code"`
		Tests       []string `json:"test_list"`
		Setup       string   `json:"test_setup_code"`
		TestImports []string `json:"test_imports"`
	}
	if err := unmarshal(line, &r); err != nil {
		return Record{}, err
	}
	if r.Text == "" {
		r.Text = r.Prompt
	}
	if err := missing([2]string{"text", r.Text}); err != nil {
		return Record{}, err
	}
	if len(r.Tests) == 0 {
		return Record{}, errors.New(`field "test_list" is missing or empty`)
	}
	setup := strings.Join(append(r.TestImports, r.Setup), "\n")
	return t.record(r.Text, "", strings.Join(r.Tests, "\n"), reward.Reference{
		Answer: r.Code, Setup: strings.TrimSpace(setup), Tests: r.Tests,
	}), nil
}

// parseHumanEval reads {prompt, entry_point, canonical_solution, test}: prompt
// is the beginning of a program, up to where the function's body starts.
func (t template) parseHumanEval(line []byte) (Record, error) {
	var r struct {
		Prompt     string `json:"prompt"`
		EntryPoint string `json:"entry_point"`
		Solution   string `json:"canonical_solution"`
		Test       string `json:"test"`
	}
	if err := unmarshal(line, &r); err != nil {
		return Record{}, err
	}
	if err := missing([2]string{"prompt", r.Prompt}, [2]string{"entry_point", r.EntryPoint}, [2]string{"test", r.Test}); err != nil {
		return Record{}, err
	}
	return t.record(r.Prompt, "", r.Test, reward.Reference{
		Answer: r.Solution, Tests: []string{r.Test}, EntryPoint: r.EntryPoint, Prompt: r.Prompt,
	}), nil
}

// parseARC reads {question, choices{text[], label[]}, answerKey} or the
// original nesting {question{stem, choices[{text, label}]}, answerKey}. Labels
// may be letters or numbers; the prompt and the reference have letters.
func (t template) parseARC(line []byte) (Record, error) {
	var r struct {
		Question  json.RawMessage `json:"question"`
		Choices   arcChoices      `json:"choices"`
		AnswerKey string          `json:"answerKey"`
	}
	if err := unmarshal(line, &r); err != nil {
		return Record{}, err
	}
	var question string
	if len(r.Question) > 0 && r.Question[0] == '{' {
		var nested struct {
			Stem    string     `json:"stem"`
			Choices arcChoices `json:"choices"`
		}
		if err := unmarshal(r.Question, &nested); err != nil {
			return Record{}, err
		}
		question, r.Choices = nested.Stem, nested.Choices
	} else if len(r.Question) > 0 {
		if err := unmarshal(r.Question, &question); err != nil {
			return Record{}, fmt.Errorf("field %q: %w", "question", err)
		}
	}
	if err := missing([2]string{"question", question}, [2]string{"answerKey", r.AnswerKey}); err != nil {
		return Record{}, err
	}
	n := len(r.Choices.Text)
	if n < 2 || n > reward.MaxChoices || len(r.Choices.Label) != n {
		return Record{}, fmt.Errorf(`field "choices" has %d texts and %d labels: it needs as many of both, 2 to %d`,
			n, len(r.Choices.Label), reward.MaxChoices)
	}
	key := ""
	choices := make([]string, n)
	for i, text := range r.Choices.Text {
		letter := string(rune('A' + i))
		choices[i] = letter + ". " + text
		if r.Choices.Label[i] == strings.TrimSpace(r.AnswerKey) {
			key = letter
		}
	}
	if key == "" {
		return Record{}, fmt.Errorf(`field "answerKey" is %q, which is not among the labels %s`,
			r.AnswerKey, strings.Join(r.Choices.Label, ", "))
	}
	return t.record(question, strings.Join(choices, "\n"), "", reward.Reference{Answer: key, Choices: n}), nil
}

// arcChoices reads both {text[], label[]} and [{text, label}].
type arcChoices struct{ Text, Label []string }

func (c *arcChoices) UnmarshalJSON(b []byte) error {
	if len(b) == 0 || b[0] != '[' {
		var columns struct{ Text, Label []string }
		err := json.Unmarshal(b, &columns)
		c.Text, c.Label = columns.Text, columns.Label
		return err
	}
	var rows []struct{ Text, Label string }
	if err := json.Unmarshal(b, &rows); err != nil {
		return err
	}
	for _, row := range rows {
		c.Text, c.Label = append(c.Text, row.Text), append(c.Label, row.Label)
	}
	return nil
}

// parseMATH reads {problem, answer and/or solution}; without an answer it is
// what the solution puts in its last box.
func (t template) parseMATH(line []byte) (Record, error) {
	var r struct {
		Problem  string `json:"problem"`
		Answer   string `json:"answer"`
		Solution string `json:"solution"`
	}
	if err := unmarshal(line, &r); err != nil {
		return Record{}, err
	}
	if err := missing([2]string{"problem", r.Problem}); err != nil {
		return Record{}, err
	}
	if strings.TrimSpace(r.Answer) == "" {
		boxed, ok := reward.Boxed(r.Solution)
		if !ok {
			return Record{}, errors.New(`there is neither a field "answer" nor a \boxed{answer} in the field "solution"`)
		}
		r.Answer = boxed
	}
	record := t.record(r.Problem, "", "", reward.Reference{Answer: r.Answer})
	record.Solution = r.Solution
	return record, nil
}

// parsePairs reads {prompt, answer}.
func (t template) parsePairs(line []byte) (Record, error) {
	var r struct {
		Prompt string `json:"prompt"`
		Answer string `json:"answer"`
	}
	if err := unmarshal(line, &r); err != nil {
		return Record{}, err
	}
	if err := missing([2]string{"prompt", r.Prompt}, [2]string{"answer", r.Answer}); err != nil {
		return Record{}, err
	}
	return t.record(r.Prompt, "", "", reward.Reference{Answer: r.Answer}), nil
}

// parseChat reads {messages[{role, content}]}; the last message is the
// assistant's and is the reference.
func parseChat(line []byte) (Record, error) {
	var r struct {
		Messages []Message `json:"messages"`
	}
	if err := unmarshal(line, &r); err != nil {
		return Record{}, err
	}
	n := len(r.Messages)
	if n < 2 || r.Messages[n-1].Role != "assistant" || r.Messages[n-2].Role != "user" {
		return Record{}, errors.New(`field "messages" must end with a message of the user and one of the assistant`)
	}
	for i, m := range r.Messages {
		if m.Role != "system" && m.Role != "user" && m.Role != "assistant" {
			return Record{}, fmt.Errorf("message %d has the role %q: it must be system, user or assistant", i, m.Role)
		}
	}
	return Record{
		Messages:  r.Messages[:n-1],
		Reference: reward.Reference{Answer: r.Messages[n-1].Content},
	}, nil
}
