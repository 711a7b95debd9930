package train

import (
	"context"
	"fmt"
	"math"
	"slices"

	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/failure"
	"github.com/transformersquared/operator/runtime/sample"
)

// objective says what training maximises, and how an iteration follows it.
type objective interface {
	// begin makes the state that a run starts with of one that has its parameters.
	begin(s *state) error
	// resume says why a state from a checkpoint cannot be gone on from.
	resume(s *state) error
	// iterate does one iteration. It returns the next state and leaves the present one as
	// it is.
	iterate(ctx context.Context, t *trainer) (*state, error)
}

func newObjective(spec contract.TrainSpec, m method, start map[string][]float32) (objective, error) {
	switch scaled, _ := m.(*svf); {
	case spec.Objective == contract.ObjectiveEvolution && scaled == nil:
		return nil, failure.Permanentf(contract.ReasonUsage, "objective %s searches what method %s trains, not %s", spec.Objective, contract.MethodSVF, spec.Hyperparameters.Method)
	case spec.Objective == contract.ObjectiveEvolution:
		return newEvolution(scaled, start, spec.Hyperparameters)
	case spec.Objective == contract.ObjectiveNextToken:
		return descent{nextToken{}}, nil
	default:
		return descent{reinforce{}}, nil
	}
}

// descent takes a step against the gradient of a loss in each iteration.
type descent struct{ batches batches }

// batches make what a loss is a sum over.
type batches interface {
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

func (descent) begin(*state) error { return nil }

func (descent) resume(*state) error { return nil }

// iterate makes a batch, and takes the step of its gradient.
func (d descent) iterate(ctx context.Context, t *trainer) (*state, error) {
	if err := t.method.apply(t.state.p); err != nil {
		return nil, err
	}
	b, err := d.batches.batch(ctx, t, t.state.Iteration) // Of the steps done, so from 0.
	if err != nil {
		return nil, err
	}
	return t.update(ctx, b)
}

// questions are the records that the iteration under way asks. Where answers are greedy,
// none is asked twice.
func (t *trainer) questions() []int {
	size := t.hyper.BatchSize
	if t.hyper.Rollout == contract.RolloutGreedy {
		size = min(size, t.train.Len())
	}
	return t.order.batch(t.state.Iteration, size)
}

// sampler is that of the i-th question of the iteration under way.
func (t *trainer) sampler(i int) *sample.Sampler {
	if t.hyper.Rollout == contract.RolloutGreedy {
		return greedy(i)
	}
	return sample.New(sample.Params{Temperature: t.hyper.Temperature},
		sample.Stream(t.hyper.Seed, streamRollout, uint64(t.state.Iteration), uint64(i)))
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
	answers, err := t.train.answer(ctx, t.answerer(model), records, t.hyper.MaxNewTokens, t.sampler)
	if err != nil {
		return batch{}, err
	}
	verdicts, err := t.train.verdicts(ctx, records, answers)
	if err != nil {
		return batch{}, err
	}
	b := batch{episodes: make([]episode, len(records)), loss: loss{reader: t.reader(), klWeight: t.hyper.KLWeight, over: len(records)}}
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
	b := batch{reward: math.NaN(), loss: loss{reader: t.reader(), klWeight: t.hyper.KLWeight}}
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
