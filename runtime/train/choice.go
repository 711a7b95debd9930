package train

import (
	"context"
	"fmt"
	"slices"

	"github.com/transformersquared/operator/runtime/adapt"
	"github.com/transformersquared/operator/runtime/adapt/encode"
	"github.com/transformersquared/operator/runtime/sample"
	"github.com/transformersquared/operator/runtime/tokenizer"
	"github.com/transformersquared/operator/runtime/train/dataset"
	"github.com/transformersquared/operator/runtime/train/rollout"
)

// choice is a task whose answers are the labels of pass 1's question: what trains a
// classifier. The model reads what it will be asked when it serves, and answers as pass
// 1 takes its answer: by the label that it finds most likely, or, where it is sampled,
// by a label drawn in proportion. So the base model's score is that of the strategy
// Prompt.
type choice struct {
	*adapt.Question
	longest int // Tokens of a label.
}

// newChoice returns nil for a set that is none of contract.FormatSkills.
func newChoice(set *dataset.Set, t *tokenizer.Tokenizer) (*choice, error) {
	if set.Skills == nil {
		return nil, nil
	}
	q, err := adapt.NewQuestion(set.Skills.Pass1, encode.New(t))
	if err != nil {
		return nil, err
	}
	c := &choice{Question: q}
	for _, label := range q.Labels() {
		c.longest = max(c.longest, len(label))
	}
	return c, nil
}

// prompt encodes the question about a record, if there is room for the longest label.
func (c *choice) prompt(r dataset.Record, positions int) ([]int32, error) {
	ids, err := c.Prompt(r.Messages[len(r.Messages)-1].Content)
	if err != nil {
		return nil, err
	}
	if len(ids)+c.longest > positions {
		return nil, fmt.Errorf("pass 1's question about it and a label have %d tokens, and the model has %d positions", len(ids)+c.longest, positions)
	}
	return ids, nil
}

// target is the label that is right.
func (c *choice) target(r dataset.Record) ([]int32, error) {
	i := c.Label(r.Target())
	if i < 0 {
		return nil, fmt.Errorf("%q is no label", r.Target())
	}
	return c.Labels()[i], nil
}

// answer lets who choose a label for each prompt, the i-th with the i-th sampler.
func (c *choice) answer(ctx context.Context, who Answerer, prompts [][]int32, stop []int32, sampler func(i int) *sample.Sampler) ([]rollout.Answer, error) {
	scores, err := rollout.Score(ctx, who.Model, prompts, c.Labels(), rollout.Options{Reader: who.Reader})
	if err != nil {
		return nil, err
	}
	answers := make([]rollout.Answer, len(prompts))
	for i := range prompts {
		logits := make([]float32, len(scores[i]))
		for j, s := range scores[i] {
			logits[j] = float32(s)
		}
		chosen, err := sampler(i).Next(logits)
		if err != nil {
			return nil, fmt.Errorf("choosing a label for prompt %d: %w", i, err)
		}
		label := c.Labels()[chosen]
		answers[i] = rollout.Answer{Tokens: label, Stopped: slices.Contains(stop, label[len(label)-1])}
	}
	return answers, nil
}
