package train

import (
	"context"
	"fmt"
	"math"
	"slices"

	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/sample"
)

// objective says what the batch of an iteration is to teach.
type objective interface {
	// batch makes the episodes of an iteration, counted from 0. The parameters of the
	// run are applied.
	batch(ctx context.Context, t *trainer, iteration int) (batch, error)
}

// batch is what a step learns from.
type batch struct {
	episodes []episode
	// reward is the mean, −1 to 1; not a number where there is none.
	reward float64
	loss   loss
}

func newObjective(spec contract.TrainSpec) objective {
	if spec.Objective == contract.ObjectiveNextToken {
		return nextToken{}
	}
	return reinforce{}
}

// reinforce is the policy gradient of the model's own answers (section 3.2 of the paper).
type reinforce struct{}

func (reinforce) batch(ctx context.Context, t *trainer, iteration int) (batch, error) {
	model, err := t.method.answers(ctx)
	if err != nil {
		return batch{}, err
	}
	records := t.order.batch(iteration, t.hyper.BatchSize)
	group := 1
	if t.hyper.Baseline == contract.BaselineGroup {
		group = t.hyper.GroupSize
		asked := make([]int, 0, group*len(records))
		for _, r := range records {
			asked = append(asked, slices.Repeat([]int{r}, group)...)
		}
		records = asked
	}
	answers, err := t.train.answer(ctx, model, records, t.hyper.MaxNewTokens, func(i int) *sample.Sampler {
		if t.hyper.Rollout == contract.RolloutGreedy {
			return greedy(i)
		}
		return sample.New(sample.Params{Temperature: t.hyper.Temperature},
			sample.Stream(t.hyper.Seed, streamRollout, uint64(iteration), uint64(i)))
	})
	if err != nil {
		return batch{}, err
	}
	verdicts, err := t.train.verdicts(ctx, records, answers)
	if err != nil {
		return batch{}, err
	}
	b := batch{episodes: make([]episode, len(records)), loss: loss{klWeight: t.hyper.KLWeight, over: len(records)}}
	right := make([]bool, len(records))
	for i, r := range records {
		prompt := t.train.prompts[r]
		b.episodes[i] = episode{
			tokens: slices.Concat(prompt, answers[i].Tokens),
			prompt: len(prompt),
		}
		right[i] = verdicts[i].Right
	}
	b.reward = advantages(b.episodes, right, t.hyper.Baseline, group)
	return b, nil
}

// advantages turns verdicts into r − b, and returns the mean reward: r is +1 or
// −1, and b is 0 or the batch's mean. With groups of answers to one question it is
// (r − b)/s, with the mean and the standard deviation of each group, and 0 where all of a
// group earned the same (GRPO, arXiv 2402.03300, section 4.1.2).
func advantages(episodes []episode, right []bool, baseline string, group int) (mean float64) {
	for i := range episodes {
		episodes[i].advantage = -1
		if right[i] {
			episodes[i].advantage = 1
		}
		mean += episodes[i].advantage
	}
	mean /= float64(len(episodes))
	switch baseline {
	case contract.BaselineMean:
		for i := range episodes {
			episodes[i].advantage -= mean
		}
	case contract.BaselineGroup:
		for one := range slices.Chunk(episodes, group) {
			normalise(one)
		}
	}
	return mean
}

// normalise makes the advantages of a group have the mean 0 and the deviation 1.
func normalise(group []episode) {
	var mean, squares float64
	for _, e := range group {
		mean += e.advantage
	}
	mean /= float64(len(group))
	for i := range group {
		group[i].advantage -= mean
		squares += group[i].advantage * group[i].advantage
	}
	if squares == 0 {
		return
	}
	deviation := math.Sqrt(squares / float64(len(group)))
	for i := range group {
		group[i].advantage /= deviation
	}
}

// nextToken is the likelihood of given answers, a mean over their tokens: supervised
// fine-tuning.
type nextToken struct{}

func (nextToken) batch(_ context.Context, t *trainer, iteration int) (batch, error) {
	records := t.order.batch(iteration, t.hyper.BatchSize)
	b := batch{reward: math.NaN(), loss: loss{klWeight: t.hyper.KLWeight}}
	for _, r := range records {
		prompt, target := t.train.prompts[r], t.train.targets[r]
		if len(target) == 0 {
			return batch{}, fmt.Errorf("record %d has no answer to learn", r)
		}
		b.episodes = append(b.episodes, episode{tokens: slices.Concat(prompt, target), prompt: len(prompt), advantage: 1})
		b.loss.over += len(target)
	}
	return b, nil
}
