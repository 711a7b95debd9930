package train

import (
	"context"
	"errors"
	"fmt"

	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/failure"
	"github.com/transformersquared/operator/runtime/model"
	"github.com/transformersquared/operator/runtime/sample"
	"github.com/transformersquared/operator/runtime/tokenizer"
	"github.com/transformersquared/operator/runtime/train/dataset"
	"github.com/transformersquared/operator/runtime/train/reward"
	"github.com/transformersquared/operator/runtime/train/rollout"
)

// Task is a data set made ready for a model: its prompts in tokens, and the
// judge of its answers.
type Task struct {
	set       *dataset.Set
	prompts   [][]int32
	targets   [][]int32 // The right answers, of those that fit; see learn.
	tokenizer *tokenizer.Tokenizer
	judge     reward.Judge
	choice    *choice // nil where answers are free text.
}

// NewTask encodes the prompts of a data set. Records whose prompt leaves no room
// for an answer within positions are left out; if most do, it is
// contract.ReasonInvalidDataset. The judge stays the caller's to close.
func NewTask(set *dataset.Set, t *tokenizer.Tokenizer, judge reward.Judge, positions int) (*Task, error) {
	task := &Task{tokenizer: t, judge: judge}
	var err error
	if task.choice, err = newChoice(set, t); err != nil {
		return nil, failure.Permanent(contract.ReasonUsage, err)
	}
	task.set, err = set.Fit(func(r dataset.Record) error {
		ids, err := task.encode(r, positions)
		switch {
		case err != nil:
			return err
		case len(ids) == 0:
			return errors.New("the prompt has no tokens")
		case len(ids) >= positions:
			return fmt.Errorf("the prompt has %d tokens, which leaves no room for an answer in the model's %d positions", len(ids), positions)
		}
		task.prompts = append(task.prompts, ids)
		return nil
	}, "shorten or remove what is too long")
	if err != nil {
		return nil, err
	}
	return task, nil
}

// encode returns the tokens of what a record asks.
func (t *Task) encode(r dataset.Record, positions int) ([]int32, error) {
	if t.choice != nil {
		return t.choice.prompt(r, positions)
	}
	return EncodePrompt(t.tokenizer, r.Messages)
}

// target returns the tokens of a record's right answer, as the model would write it,
// with the token that ends it.
func (t *Task) target(r dataset.Record) ([]int32, error) {
	if t.choice != nil {
		return t.choice.target(r)
	}
	ids, err := t.tokenizer.EncodePlain(r.Target())
	if err != nil {
		return nil, err
	}
	if eos := t.tokenizer.EOS(); len(eos) > 0 {
		ids = append(ids, eos[0])
	}
	return ids, nil
}

// learn encodes the right answers, for an objective that learns them. A record whose
// answer does not fit behind its prompt, or that has none, is left out of the task.
func (t *Task) learn(positions int) error {
	prompts := t.prompts
	t.prompts = nil
	at := 0
	set, err := t.set.Fit(func(r dataset.Record) error {
		prompt := prompts[at]
		at++
		if r.Target() == "" {
			return errors.New("it has no answer to learn")
		}
		ids, err := t.target(r)
		if err != nil {
			return err
		}
		if len(prompt)+len(ids) > positions {
			return fmt.Errorf("its prompt and answer have %d tokens, and the model has %d positions", len(prompt)+len(ids), positions)
		}
		t.prompts, t.targets = append(t.prompts, prompt), append(t.targets, ids)
		return nil
	}, "shorten or remove what is too long")
	if err != nil {
		return err
	}
	t.set = set
	return nil
}

// Skipped are the records that are not asked: those that the reward cannot
// judge and those that the model cannot hold.
func (t *Task) Skipped() []dataset.Skip { return t.set.Skipped }

// EncodePrompt returns the tokens of a conversation that the model is to
// answer. A model without a chat template is given the last message as text to
// continue.
func EncodePrompt(t *tokenizer.Tokenizer, messages []dataset.Message) ([]int32, error) {
	if !t.HasChatTemplate() {
		return t.Encode(messages[len(messages)-1].Content, true)
	}
	converted := make([]tokenizer.Message, len(messages))
	for i, m := range messages {
		converted[i] = tokenizer.Message{Role: m.Role, Content: m.Content}
	}
	return t.EncodeChat(converted)
}

// Len is the number of records.
func (t *Task) Len() int { return len(t.prompts) }

// text returns what an answer says, without special tokens.
func (t *Task) text(a rollout.Answer) string { return t.tokenizer.Decode(a.Text(), true) }

// Answerer is who answers questions: a model, and the one that reads prompts for it where
// it acts on answers alone (nil otherwise).
type Answerer struct {
	Model, Reader *model.Model
}

// answer lets who answer the prompts of these records, the i-th with the i-th
// sampler.
func (t *Task) answer(ctx context.Context, who Answerer, records []int, maxNewTokens int, sampler func(i int) *sample.Sampler) ([]rollout.Answer, error) {
	prompts := make([][]int32, len(records))
	for i, r := range records {
		prompts[i] = t.prompts[r]
	}
	if t.choice != nil {
		return t.choice.answer(ctx, who, prompts, t.tokenizer.EOS(), sampler)
	}
	return rollout.Generate(ctx, who.Model, prompts, sampler, rollout.Options{
		Reader: who.Reader, Stop: t.tokenizer.EOS(), MaxNewTokens: maxNewTokens,
	})
}

// verdicts judges the answers to these records. A judge that does not answer
// makes none of them wrong: the run is tried again.
func (t *Task) verdicts(ctx context.Context, records []int, answers []rollout.Answer) ([]reward.Verdict, error) {
	texts, refs := make([]string, len(answers)), make([]reward.Reference, len(answers))
	for i, a := range answers {
		texts[i], refs[i] = t.text(a), t.set.Records[records[i]].Reference
	}
	verdicts, err := reward.All(ctx, t.judge, texts, refs)
	return verdicts, failure.Transient(contract.ReasonJudgeUnavailable, err)
}

// Verdict is one judged answer of an evaluation.
type Verdict struct {
	// Line is the record's line in the data set.
	Line    int    `json:"line"`
	Prompt  string `json:"prompt"`
	Answer  string `json:"answer"`
	Correct bool   `json:"correct"`
	// Extracted and Why are the judge's (see reward.Verdict).
	Extracted string `json:"extracted"`
	Why       string `json:"why"`
}

// Result is the outcome of an evaluation.
type Result struct {
	// Score is the share of right answers, 0 to 1.
	Score    float64
	Verdicts []Verdict
	// Tokens counts what was generated.
	Tokens int
}

// Evaluate lets who answer every record greedily, and judges the answers.
func (t *Task) Evaluate(ctx context.Context, who Answerer, maxNewTokens int) (Result, error) {
	records := make([]int, t.Len())
	for i := range records {
		records[i] = i
	}
	answers, err := t.answer(ctx, who, records, maxNewTokens, greedy)
	if err != nil {
		return Result{}, fmt.Errorf("answering %s: %w", t.set.Name, err)
	}
	verdicts, err := t.verdicts(ctx, records, answers)
	if err != nil {
		return Result{}, err
	}
	result := Result{Verdicts: make([]Verdict, len(records))}
	correct := 0
	for i, r := range t.set.Records {
		messages := r.Messages
		result.Verdicts[i] = Verdict{
			Line: r.Line, Prompt: messages[len(messages)-1].Content, Answer: t.text(answers[i]),
			Correct: verdicts[i].Right, Extracted: verdicts[i].Extracted, Why: verdicts[i].Why,
		}
		if verdicts[i].Right {
			correct++
		}
		result.Tokens += len(answers[i].Tokens)
	}
	result.Score = float64(correct) / float64(len(records))
	return result, nil
}

// greedy is the sampler of every sequence in an evaluation.
func greedy(int) *sample.Sampler { return sample.New(sample.Params{}, nil) }
