package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/transformersquared/operator/runtime/contract"
)

// recall prints how a server has answered a request.
func (f *explainFlags) recall(cmd *cobra.Command, env *Env) error {
	var beside string
	cmd.LocalFlags().VisitAll(func(flag *pflag.Flag) {
		if flag.Changed && flag.Name != "url" && flag.Name != "request" && beside == "" {
			beside = flag.Name
		}
	})
	switch {
	case f.request == "":
		return usagef("--request is empty: give the id of an answer, or of a request (header %s)", contract.HeaderRequestID)
	case f.url == "":
		return usagef("--request goes with --url: what was answered is known to the server that did it")
	case beside != "":
		return usagef("--%s does not go with --request, which was answered already", beside)
	}
	root, err := f.root()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), explainTimeout)
	defer cancel()
	var r contract.RequestRecord
	if err := call(ctx, http.MethodGet, root+contract.PathRequests+"/"+url.PathEscape(f.request), nil, &r); err != nil {
		return err
	}
	if env.JSON {
		return env.PrintJSON(r)
	}
	return printRecord(env.Stdout, r)
}

// printRecord describes what a server remembers of a request for people.
func printRecord(w io.Writer, r contract.RequestRecord) error {
	var b strings.Builder
	line := func(label, format string, args ...any) {
		fmt.Fprintf(&b, "%-14s %s\n", label, fmt.Sprintf(format, args...))
	}
	a := r.Adaptation
	line("Request", "%s", r.ID)
	line("Answer", "%s", r.AnswerID)
	line("Came", "%s", r.Time.Format("2006-01-02T15:04:05.000Z07:00"))
	if r.Pod != "" {
		line("Pod", "%s", r.Pod)
	}
	if r.TraceID != "" {
		line("Trace", "%s", r.TraceID)
	}
	line("Model", "%s", r.Model)
	line("Strategy", "%s", a.Strategy)
	line("Answered", "%s", a.Expert)
	line("Why", "%s", r.Why)
	if a.Fallback != "" {
		line("Fallback", "%s", a.Fallback)
	}
	shares := func(label string, of map[string]float64) {
		largestFirst := func(a, b string) int { return cmp.Or(cmp.Compare(of[b], of[a]), cmp.Compare(a, b)) }
		for _, name := range slices.SortedFunc(maps.Keys(of), largestFirst) {
			line(label, "%8.4f  %s", of[name], name)
			label = ""
		}
	}
	shares("Weights", a.Weights)
	shares("Probabilities", a.Probabilities)
	line("Pass 1", "%d tokens in %.3f s", r.Pass1Tokens, a.Pass1Seconds)
	line("Pass 2", "%d tokens (%d known) and %d written in %.3f s, of which it waited %.3f s; its first token came after %.3f s",
		r.PromptTokens, r.CachedTokens, r.Tokens, a.Pass2Seconds, r.QueuedSeconds, r.FirstTokenSeconds)
	if len(r.Finish) > 0 {
		line("Ended", "%s", strings.Join(r.Finish, ", "))
	}
	if r.Error != "" {
		line("Failed", "%s", r.Error)
	}
	if a.ExpertSetDigest != "" {
		line("Experts", "%s", a.ExpertSetDigest)
	}
	if o := r.Outcome; o != nil {
		said := "wrong"
		if o.Right {
			said = "right"
		}
		line("Marked", "%s", strings.TrimSuffix(said+": "+o.Comment, ": "))
	}
	_, err := io.WriteString(w, b.String())
	return err
}
