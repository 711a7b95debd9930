package cli

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/train"
	"github.com/transformersquared/operator/runtime/train/reward"
)

// evaluated is the JSON of `t2 eval`.
type evaluated struct {
	Score   float64 `json:"score"`
	Correct int     `json:"correct"`
	N       int     `json:"n"`
	Reward  string  `json:"reward"`
	// Dataset is the digest of the file.
	Dataset string `json:"dataset"`
	// Skipped counts records that the reward cannot judge or the model not hold.
	Skipped int             `json:"skipped,omitempty"`
	Records []train.Verdict `json:"records,omitempty"`
}

type evalFlags struct {
	modelFlags
	dataset      contract.DatasetSpec
	reward       string
	python       string
	maxNewTokens int
	records      bool
}

func newEvalCommand(env *Env) *cobra.Command {
	var f evalFlags
	cmd := &cobra.Command{
		Use:   "eval --model DIR --dataset FILE --format FORMAT",
		Short: "Score a base or an adapted model on a data set",
		Long: `Lets the model answer every prompt of a data set greedily, and prints the share
of right answers.

The reward UnitTests runs programs with this machine's python3, confined: no
files but its library, no network, no processes, bounded memory and time.`,
		Example: `  t2 eval --model ./model --dataset test.jsonl --format GSM8K
  t2 eval --model ./model --decomposition ./dec --expert ./expert --dataset test.jsonl --format ARC --records --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return f.run(cmd.Context(), env)
		},
	}
	flags := cmd.Flags()
	f.register(flags)
	registerDataset(flags, &f.dataset, &f.reward, &f.python)
	flags.StringVar(&f.dataset.PromptTemplate, "prompt-template", "", "the user's message, with {question}, {choices} and {tests}")
	flags.IntVar(&f.dataset.Limit, "limit", 0, "use only the first so many records; 0 means all")
	flags.IntVar(&f.maxNewTokens, "max-new-tokens", 512, "how long an answer may be")
	flags.BoolVar(&f.records, "records", false, "print every answer")
	return cmd
}

func (f *evalFlags) run(ctx context.Context, env *Env) (err error) {
	if f.maxNewTokens < 1 {
		return usagef("--max-new-tokens %d: allow at least 1", f.maxNewTokens)
	}
	set, judge, err := loadDataset(ctx, env, f.python, &f.dataset, &f.reward)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, judge.Close()) }()
	if _, err := reward.Prepare(ctx, judge); err != nil {
		return err
	}
	l, err := f.load(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.backend.Close()) }()
	task, err := train.NewTask(set, l.tokenizer, judge, l.model.Config().MaxPositions)
	if err != nil {
		return err
	}
	result, err := task.Evaluate(ctx, train.Answerer{Model: l.model, Reader: l.reader}, f.maxNewTokens)
	if err != nil {
		return err
	}
	return f.print(env, set.Digest, len(task.Skipped()), result)
}

func (f *evalFlags) print(env *Env, digest string, skipped int, result train.Result) error {
	out := evaluated{
		Score: result.Score, N: len(result.Verdicts), Reward: f.reward, Dataset: digest, Skipped: skipped,
	}
	for _, v := range result.Verdicts {
		if v.Correct {
			out.Correct++
		}
	}
	if f.records {
		out.Records = result.Verdicts
	}
	if env.JSON {
		return env.PrintJSON(out)
	}
	for _, r := range out.Records {
		if _, err := fmt.Fprintf(env.Stdout, "%s line %d: %q → %q\n", verdictWord(r.Correct), r.Line, r.Prompt, r.Answer); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(env.Stdout, "score %.4f (%d of %d right, reward %s)\n", out.Score, out.Correct, out.N, out.Reward)
	return err
}
