package plugin

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/charmbracelet/x/ansi"
	"github.com/spf13/cobra"

	"github.com/transformersquared/operator/runtime/contract"
)

type explainFlags struct {
	podFlags
	output, system, request string
}

func newExplainCommand(s *session) *cobra.Command {
	var f explainFlags
	cmd := &cobra.Command{
		Use:   "explain POLICY (PROMPT | --request ID)",
		Short: "Say which experts a prompt would get, or a request got, and why",
		Long: `Has a pod of the policy run the first of the two passes and nothing else, and prints
which experts would answer, and what the model thought of each label.

With --request, says how a request was answered. ID is the header X-Request-Id of an answer,
or the answer's own id. Pods remember the latest requests for a while, without their text,
and know nothing of each other: all of them are asked.`,
		Example: `  kubectl t2 explain demo "What is 3 plus 4?"
  kubectl t2 explain demo --request chatcmpl-5e1c`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case f.output != "" && f.output != formJSON:
				return usagef("-o %q is not json", f.output)
			case (len(args) == 2) == (f.request != ""):
				return usagef("say what to explain: a PROMPT, or a request by --request ID")
			case f.request != "":
				return f.byRequest(cmd.Context(), s, args[0])
			default:
				return f.run(cmd.Context(), s, args[0], args[1])
			}
		},
	}
	flags := cmd.Flags()
	f.register(flags)
	flags.StringVar(&f.system, "system", "", "a system message before the prompt")
	flags.StringVar(&f.request, "request", "", "explain the answer to the request of this `ID` instead")
	flags.StringVarP(&f.output, "output", "o", "", "json")
	return cmd
}

func (f *explainFlags) run(ctx context.Context, s *session, policy, prompt string) error {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	api, err := f.api(ctx, s, policy)
	if err != nil {
		return err
	}
	var messages []message
	if f.system != "" {
		messages = append(messages, message{"system", f.system})
	}
	body, err := json.Marshal(map[string]any{"model": policy, "messages": append(messages, message{"user", prompt})})
	if err != nil {
		return fmt.Errorf("encoding the request: %w", err)
	}
	var e contract.Explanation
	if err := api.call(ctx, http.MethodPost, contract.PathExplain, body, &e); err != nil {
		return err
	}
	if f.output == formJSON {
		return printJSON(s.env.Stdout, e)
	}
	_, err = io.WriteString(s.env.Stdout, explanation(e))
	return err
}

// facts are lines of a name and what it is.
type facts struct{ strings.Builder }

func (f *facts) add(name, format string, args ...any) {
	fmt.Fprintf(f, "%-11s %s\n", name, harmless(strings.ReplaceAll(fmt.Sprintf(format, args...), "\n", " ")))
}

// explanation words what pass 1 would choose.
func explanation(e contract.Explanation) string {
	var f facts
	f.add("Answers", "%s", e.Expert)
	f.add("Why", "%s", e.Why)
	f.add("Strategy", "%s", e.Strategy)
	if e.Classifier != "" {
		f.add("Classifier", "%s", e.Classifier)
	}
	if e.Fallback != "" {
		f.add("Fallback", "%s", e.Fallback)
	}
	f.weights(e.Weights)
	wide := 0
	for _, l := range e.Labels {
		wide = max(wide, ansi.StringWidth(l.Label))
	}
	name := "Pass 1"
	for _, l := range e.Labels {
		pad := strings.Repeat(" ", wide-ansi.StringWidth(l.Label))
		f.add(name, "%s%s %s %.4f  %s", l.Label, pad, share(l.Probability), l.Probability, l.Expert)
		name = ""
	}
	if e.MinProbability > 0 {
		f.add("At least", "%v", e.MinProbability)
	}
	if e.Pass1Tokens > 0 {
		f.add("Took", "%d tokens in %.3f s; the prompt has %d", e.Pass1Tokens, e.Pass1Seconds, e.PromptTokens)
	}
	if e.ExpertSetDigest != "" {
		f.add("Expert set", "%s", e.ExpertSetDigest)
	}
	return f.String()
}

// weights adds those of a mixture, the largest first.
func (f *facts) weights(weights map[string]float64) {
	name := "Weights"
	for _, expert := range byValue(weights) {
		f.add(name, "%.4f  %s", weights[expert], expert)
		name = ""
	}
}

// byValue are the names of values, the largest first.
func byValue(values map[string]float64) []string {
	return slices.SortedFunc(maps.Keys(values), func(a, b string) int { return cmp.Or(cmp.Compare(values[b], values[a]), cmp.Compare(a, b)) })
}

// share draws a probability.
func share(p float64) string {
	full := int(cells*min(max(p, 0), 1) + 0.5)
	return strings.Repeat("█", full) + strings.Repeat("░", cells-full)
}
