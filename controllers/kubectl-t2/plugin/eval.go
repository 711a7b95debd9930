package plugin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/transformersquared/operator/controllers/kubectl-t2/internal/scoring"
	"github.com/transformersquared/operator/runtime/contract"
)

type evalFlags struct {
	podFlags
	dataset, format, reward, against, expert, output string
	samples, parallel, maxTokens                     int
	records                                          bool
}

func newEvalCommand(s *session) *cobra.Command {
	var f evalFlags
	cmd := &cobra.Command{
		Use:   "eval POLICY --dataset FILE",
		Short: "Ask a policy and its base the same questions, and compare the scores",
		Long: `Sends each question of a file to the policy and to its base model, greedily, and prints
both shares of right answers and the gain, with 95 % confidence intervals of paired shares.

FILE has a JSON object a line, as the runtime's data sets: Pairs (prompt, answer), GSM8K
(question, answer) or Chat (messages). ExactMatch compares the text, blanks aside, Numeric
the last number, or the one behind "####". What trainings look for beside, such as an
answer in a box, is for t2 eval, which has all rewards and formats.`,
		Example: `  kubectl t2 eval demo --dataset test.jsonl --samples 100
  kubectl t2 eval demo --dataset test.jsonl --expert math --reward Numeric -o json`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return f.run(cmd.Context(), s, args[0]) },
	}
	flags := cmd.Flags()
	f.register(flags)
	flags.StringVar(&f.dataset, "dataset", "", "`FILE` of questions, - for the standard input")
	flags.StringVar(&f.format, "format", "", "Pairs, GSM8K or Chat; told by the first line's fields without it")
	flags.StringVar(&f.reward, "reward", "", "ExactMatch or Numeric; Numeric for the format GSM8K, ExactMatch for others without it")
	flags.StringVar(&f.expert, "expert", "", "ask this expert instead of letting pass 1 choose")
	flags.StringVar(&f.against, "against", contract.BaseName, "compare with this expert, or base")
	flags.IntVar(&f.samples, "samples", 0, "ask so many questions, from the first; 0 asks all")
	flags.IntVar(&f.parallel, "parallel", 8, "questions at a time, 1 to 64")
	flags.IntVar(&f.maxTokens, "max-tokens", 256, "how long an answer may be")
	flags.BoolVar(&f.records, "records", false, "with -o json, every answer")
	flags.StringVarP(&f.output, "output", "o", "", "json")
	return cmd
}

// evaluation is the result of eval.
type evaluation struct {
	Questions int              `json:"questions"`
	Reward    string           `json:"reward"`
	Base      evaluated        `json:"base"`
	Policy    evaluated        `json:"policy"`
	Gain      float64          `json:"gain"`
	Interval  scoring.Interval `json:"interval"`
	Pairs     scoring.Pairs    `json:"pairs"`
	// Chosen counts by whom the policy answered.
	Chosen  map[string]int `json:"chosen"`
	Records []asked        `json:"records,omitempty"`
}

// evaluated is one side of it.
type evaluated struct {
	Model    string           `json:"model"`
	Right    int              `json:"right"`
	Score    float64          `json:"score"`
	Interval scoring.Interval `json:"interval"`
}

// asked is a question and what became of it.
type asked struct {
	Line   int    `json:"line"`
	Want   string `json:"want"`
	Base   reply  `json:"base"`
	Policy reply  `json:"policy"`
}

// reply is an answer and who gave it.
type reply struct {
	Answer string `json:"answer"`
	Right  bool   `json:"right"`
	Expert string `json:"expert"`
}

func (f *evalFlags) check() error {
	switch {
	case f.dataset == "":
		return usagef("--dataset FILE says what to ask")
	case f.samples < 0, f.maxTokens < 1:
		return usagef("--samples %d must not be negative, and --max-tokens %d must be at least 1", f.samples, f.maxTokens)
	case f.parallel < 1 || f.parallel > 64:
		return usagef("--parallel %d is not 1 to 64", f.parallel)
	case f.output != "" && f.output != formJSON:
		return usagef("-o %q is not json", f.output)
	case f.records && f.output != formJSON:
		return usagef("--records goes with -o json")
	case f.format != "" && !slices.Contains(scoring.Formats, f.format):
		return usagef("--format %q is none of %s", f.format, strings.Join(scoring.Formats, ", "))
	}
	return nil
}

// read reads the questions, all of which can be answered rightly.
func (f *evalFlags) read(stdin io.Reader) ([]scoring.Question, error) {
	file, name := stdin, "the standard input"
	if f.dataset != "-" {
		opened, err := os.Open(f.dataset)
		if err != nil {
			return nil, fmt.Errorf("opening the data set: %w", err)
		}
		defer func() { _ = opened.Close() }() // Nothing was written.
		file, name = opened, f.dataset
	}
	questions, format, err := scoring.Read(file, f.format, f.samples)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if f.reward == "" {
		f.reward = contract.RewardExactMatch
		if format == contract.FormatGSM8K {
			f.reward = contract.RewardNumeric
		}
	}
	for _, q := range questions {
		if err := scoring.Check(f.reward, q.Answer); err != nil {
			return nil, fmt.Errorf("%s, line %d: %w", name, q.Line, err)
		}
	}
	return questions, nil
}

func (f *evalFlags) run(ctx context.Context, s *session, policy string) error {
	if err := f.check(); err != nil {
		return err
	}
	questions, err := f.read(s.env.Stdin)
	if err != nil {
		return err
	}
	judge, err := scoring.Judge(f.reward)
	if err != nil {
		return &usageError{err: err}
	}
	api, err := f.api(ctx, s, policy)
	if err != nil {
		return err
	}
	e := evaluation{
		Questions: len(questions), Reward: f.reward, Chosen: map[string]int{},
		Base: evaluated{Model: modelOf(policy, f.against)}, Policy: evaluated{Model: modelOf(policy, f.expert)},
	}
	records, err := f.askAll(ctx, s, api, &e, questions)
	if err != nil {
		return err
	}
	for i := range records {
		r := &records[i]
		r.Base.Right, r.Policy.Right = judge(r.Base.Answer, r.Want), judge(r.Policy.Answer, r.Want)
		e.count(r)
	}
	e.conclude()
	if f.records {
		e.Records = records
	}
	if f.output == formJSON {
		return printJSON(s.env.Stdout, e)
	}
	_, err = io.WriteString(s.env.Stdout, e.text())
	return err
}

func (e *evaluation) count(r *asked) {
	switch {
	case r.Base.Right && r.Policy.Right:
		e.Pairs.Both++
	case r.Policy.Right:
		e.Pairs.Better++
	case r.Base.Right:
		e.Pairs.Worse++
	default:
		e.Pairs.Neither++
	}
	e.Chosen[r.Policy.Expert]++
}

func (e *evaluation) conclude() {
	for side, right := range map[*evaluated]int{&e.Base: e.Pairs.Both + e.Pairs.Worse, &e.Policy: e.Pairs.Both + e.Pairs.Better} {
		side.Right, side.Interval = right, scoring.Wilson(right, e.Questions)
		side.Score = float64(right) / float64(e.Questions)
	}
	e.Gain, e.Interval = e.Pairs.Gain()
}

func (e *evaluation) text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d questions, reward %s, greedy answers\n", e.Questions, e.Reward)
	wide := max(len(e.Base.Model), len(e.Policy.Model), len("gain"))
	for _, side := range []evaluated{e.Base, e.Policy} {
		fmt.Fprintf(&b, "%-*s  %6.1f %%  [%5.1f, %5.1f]  %d right\n", wide, side.Model, 100*side.Score, 100*side.Interval.Low, 100*side.Interval.High, side.Right)
	}
	fmt.Fprintf(&b, "%-*s  %+6.1f    [%+5.1f, %+5.1f]  %d better, %d worse\n", wide, "gain", 100*e.Gain, 100*e.Interval.Low, 100*e.Interval.High, e.Pairs.Better, e.Pairs.Worse)
	switch {
	case e.Interval.Low > 0:
		b.WriteString("It is better: the interval (95 %) is above 0.\n")
	case e.Interval.High < 0:
		b.WriteString("It is worse: the interval (95 %) is below 0.\n")
	default:
		b.WriteString("It is not told apart: the interval (95 %) has 0 in it. More questions narrow it.\n")
	}
	var chosen []string
	for _, name := range slices.Sorted(maps.Keys(e.Chosen)) {
		chosen = append(chosen, fmt.Sprintf("%s %d", name, e.Chosen[name]))
	}
	fmt.Fprintf(&b, "answered by: %s\n", strings.Join(chosen, ", "))
	return b.String()
}

// askAll asks both sides every question.
func (f *evalFlags) askAll(ctx context.Context, s *session, api *endpoint, e *evaluation, questions []scoring.Question) ([]asked, error) {
	records := make([]asked, len(questions))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(f.parallel)
	var mu sync.Mutex
	done := 0
	for i, q := range questions {
		records[i] = asked{Line: q.Line, Want: q.Answer}
		for side, model := range map[*reply]string{&records[i].Base: e.Base.Model, &records[i].Policy: e.Policy.Model} {
			group.Go(func() error {
				if err := f.ask(ctx, api, model, q, side); err != nil {
					return fmt.Errorf("line %d, model %s: %w", q.Line, model, err)
				}
				mu.Lock()
				defer mu.Unlock()
				if done++; s.env.Size != nil {
					fmt.Fprintf(s.env.Stderr, "\r%s %d of %d answers\x1b[K", bar(int64(done), int64(2*len(questions))), done, 2*len(questions))
				}
				return nil
			})
		}
	}
	err := group.Wait()
	if s.env.Size != nil {
		fmt.Fprint(s.env.Stderr, "\r\x1b[K")
	}
	return records, err
}

// attempts that are made where a server has too much to do.
const attempts = 6

// ask asks one question, greedily.
func (f *evalFlags) ask(ctx context.Context, api *endpoint, model string, q scoring.Question, into *reply) error {
	body, err := json.Marshal(map[string]any{"model": model, "messages": q.Messages, "temperature": 0, "max_tokens": f.maxTokens})
	if err != nil {
		return fmt.Errorf("encoding the request: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	var answer struct {
		Choices    []struct{ Message scoring.Message } `json:"choices"`
		Adaptation contract.Adaptation                 `json:"t2"`
	}
	wait := 500 * time.Millisecond
	for attempt := 1; ; attempt++ {
		err := api.call(ctx, http.MethodPost, contract.PathChatCompletions, body, &answer)
		if err == nil {
			break
		}
		refused, ok := errors.AsType[*statusError](err)
		busy := ok && (refused.code == http.StatusTooManyRequests || refused.code == http.StatusServiceUnavailable)
		if !busy || attempt == attempts {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(wait):
			wait *= 2
		}
	}
	if len(answer.Choices) != 1 {
		return fmt.Errorf("%s answers with %d choices, not 1", api.name, len(answer.Choices))
	}
	into.Answer, into.Expert = answer.Choices[0].Message.Content, answer.Adaptation.Expert
	return nil
}
