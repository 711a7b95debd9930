package rollout

import (
	"context"
	"fmt"

	"golang.org/x/sync/errgroup"

	"github.com/transformersquared/operator/runtime/engine"
	"github.com/transformersquared/operator/runtime/model"
)

// Score returns for each prompt the log-likelihood that m continues it by exactly each
// of the labels, as pass 1 of what serves has it: [prompt][label]. Of Options the
// reader and the bounds of what is computed together count.
func Score(ctx context.Context, m *model.Model, prompts, labels [][]int32, o Options) ([][]float64, error) {
	if len(prompts) == 0 || len(labels) == 0 {
		return make([][]float64, len(prompts)), nil
	}
	o.MaxNewTokens = 0
	for _, label := range labels {
		o.MaxNewTokens = max(o.MaxNewTokens, len(label))
	}
	longest, err := o.check(m, prompts)
	if err != nil {
		return nil, err
	}
	batch := min(o.Sequences, len(prompts))
	// A prompt, and what forks of it have of their own.
	perPrompt := (model.Blocks(longest) + len(labels)*(model.Blocks(o.MaxNewTokens)+1)) * model.BlockSize
	room := min(int64(batch*perPrompt), o.CacheBytes/m.CacheTokenBytes())
	e, err := engine.New(ctx, engine.Options{
		Base: m, Reader: o.Reader, ContextLength: longest, MaxBatch: batch, MaxWaiting: len(prompts), StepTokens: o.StepTokens,
		CacheTokens: max(int(room), perPrompt),
	})
	if err != nil {
		return nil, err
	}
	defer e.Close()
	scores := make([][]float64, len(prompts))
	all, ctx := errgroup.WithContext(ctx)
	for i, prompt := range prompts {
		all.Go(func() (err error) {
			if scores[i], err = e.Score(ctx, engine.ScoreRequest{Prompt: prompt, Labels: labels}); err != nil {
				return fmt.Errorf("scores of prompt %d: %w", i, err)
			}
			return nil
		})
	}
	return scores, all.Wait()
}
