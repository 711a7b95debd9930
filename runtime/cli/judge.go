package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/train/dataset"
	"github.com/transformersquared/operator/runtime/train/reward"
)

// judged is the JSON of `t2 judge`.
type judged struct {
	Correct int `json:"correct"`
	N       int `json:"n"`
	// Confinement says what programs were confined by, where any ran.
	Confinement string `json:"confinement,omitempty"`
	// Verdicts are in the order of the data set.
	Verdicts []reward.Verdict `json:"verdicts"`
}

type judgeFlags struct {
	dataset contract.DatasetSpec
	reward  string
	python  string
	answers string
}

func newJudgeCommand(env *Env) *cobra.Command {
	var f judgeFlags
	cmd := &cobra.Command{
		Use:   "judge --dataset FILE --format FORMAT --answers FILE",
		Short: "Judge given answers by a reward, without a model",
		Long: `Says of given answers to a data set what a reward makes of them: what it took for
the answer in what was written, whether that is right, and why.

The answers are objects {"answer": "…"}, one a line, as many as the data set has
records and in its order. A record that the reward cannot judge makes its
answer wrong, and says why.`,
		Example: `  t2 judge --dataset test.jsonl --format GSM8K --answers answers.jsonl
  t2 judge --dataset math500.jsonl --format MATH --reward Math --answers answers.jsonl --json

  answers.jsonl: {"answer": "So it is \\boxed{\\frac{1}{2}}."}
                 {"answer": "The answer is 42."}`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return f.run(cmd.Context(), env)
		},
	}
	flags := cmd.Flags()
	registerDataset(flags, &f.dataset, &f.reward, &f.python)
	flags.StringVar(&f.answers, "answers", "", `file of objects {"answer": "…"}, one a line or in one array, gzip or not (required)`)
	return cmd
}

func (f *judgeFlags) run(ctx context.Context, env *Env) (err error) {
	if f.answers == "" {
		return usagef("--answers is missing: it names the file with the answers to judge (see t2 judge --help)")
	}
	set, judge, err := loadDataset(ctx, env, f.python, &f.dataset, &f.reward)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, judge.Close()) }()
	answers, err := dataset.LoadAnswers(ctx, f.answers)
	if err != nil {
		return err
	}
	n := len(set.Records) + len(set.Skipped)
	if len(answers) != n {
		return fmt.Errorf("%s has %d answers, and %s has %d records: give one answer to each record, in the same order",
			f.answers, len(answers), set.Name, n)
	}
	confinement, err := reward.Prepare(ctx, judge)
	if err != nil {
		return err
	}
	verdicts, err := judgeAll(ctx, judge, set, answers)
	if err != nil {
		return err
	}
	out := judged{N: n, Confinement: confinement, Verdicts: verdicts}
	for _, v := range verdicts {
		if v.Right {
			out.Correct++
		}
	}
	if env.JSON {
		return env.PrintJSON(out)
	}
	return out.print(env.Stdout, f.reward)
}

// judgeAll judges the answers to all records of a set, and fills in those that
// cannot be judged.
func judgeAll(ctx context.Context, judge reward.Judge, set *dataset.Set, answers []string) ([]reward.Verdict, error) {
	texts, refs := make([]string, len(set.Records)), make([]reward.Reference, len(set.Records))
	for i, r := range set.Records {
		texts[i], refs[i] = answers[r.Index], r.Reference
	}
	judged, err := reward.All(ctx, judge, texts, refs)
	if err != nil {
		return nil, err
	}
	verdicts := make([]reward.Verdict, len(answers))
	for i, r := range set.Records {
		verdicts[r.Index] = judged[i]
	}
	for _, s := range set.Skipped {
		verdicts[s.Index].Why = "the record cannot be judged: " + s.Why
	}
	return verdicts, nil
}

// print shows the verdicts as a table for people.
func (j judged) print(w io.Writer, kind string) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(table, "NR\tVERDICT\tTAKEN FOR THE ANSWER\tWHY")
	for i, v := range j.Verdicts {
		_, _ = fmt.Fprintf(table, "%d\t%s\t%s\t%s\n", i+1, verdictWord(v.Right), oneLine(v.Extracted), oneLine(v.Why))
	}
	_, _ = fmt.Fprintf(table, "\n%d of %d right, reward %s\n", j.Correct, j.N, kind)
	return table.Flush() // reports what went wrong before
}

// verdictWord is what people read for a verdict.
func verdictWord(right bool) string {
	if right {
		return "right"
	}
	return "wrong"
}

// oneLine fits a text into a table's cell.
func oneLine(s string) string {
	const most = 48
	r := []rune(strings.Join(strings.Fields(s), " "))
	for i, c := range r {
		if c < ' ' || c == 0x7f {
			r[i] = '�'
		}
	}
	if len(r) > most {
		return string(r[:most]) + "…"
	}
	return string(r)
}
