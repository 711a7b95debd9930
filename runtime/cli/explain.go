package cli

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/failure"
	"github.com/transformersquared/operator/runtime/server"
)

type explainFlags struct {
	setFlags
	promptFlags
	url     string
	request string
}

// newExplainCommand returns `t2 explain`.
func newExplainCommand(env *Env) *cobra.Command {
	f := explainFlags{setFlags: setFlags{unnamed: true}}
	cmd := &cobra.Command{
		Use:   "explain ((--url URL | --model DIR) --prompt TEXT | --url URL --request ID)",
		Short: "Say which experts a prompt would get, and why, without answering it",
		Long: `Explain runs the first of the two passes and nothing else: it prints which
experts would answer a prompt and with which weights, what the model thought of
each label, and how long that took.

With --url it asks a server (POST /v1/adaptation:explain); what is served, and
how it adapts, is the server's. With --model it does the same here, with experts
on disk; nothing is composed for that.

With --url and --request it prints instead how a request was answered, and why so
(GET /v1/adaptation/requests/ID), which a server remembers of its last answers.`,
		Example: `  t2 explain --url http://localhost:8000 --chat --prompt "What is 2+3?"
  t2 explain --url http://localhost:8000 --request chatcmpl-1f0c0e7d9b3a5c6e8f2a4b6d
  t2 explain --model ./model --expert math=./math --expert code=./code \
    --describe "math=word problems and arithmetic" --top-k 2 --chat --prompt "What is 2+3?" --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return f.run(cmd, env)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&f.url, "url", "", "ask the server at this `URL`, such as http://localhost:8000")
	flags.StringVar(&f.request, "request", "", "`ID` of an answer, or of a request (header X-Request-Id), that the server at --url has answered")
	flags.StringVar(&f.name, "name", "", "model `NAME` of the request, as /v1/models lists it; without it, the first that the server lists")
	f.registerPrompt(flags)
	f.registerSet(flags)
	flags.StringArrayVar(&f.experts, "expert", nil,
		"folder or file of an expert that pass 1 may choose, `[NAME=]DIR[:WEIGHT]`; its name is its skill without one, and the weight is for the strategy Fixed; may be repeated")
	return cmd
}

func (f *explainFlags) run(cmd *cobra.Command, env *Env) error {
	if cmd.Flags().Changed("request") {
		return f.recall(cmd, env)
	}
	switch {
	case f.url == "" && f.model == "":
		return usagef("say what to ask: a server by --url, or a model on disk by --model")
	case f.url != "" && f.model != "":
		return usagef("--url and --model exclude each other: a server has its own model")
	}
	if f.url != "" {
		// What a server serves is not for its clients to say.
		for _, name := range []string{
			"decomposition", "expert", "classifier", "describe", "strategy", "fallback", "prompt-template", "request-tokens",
			"min-probability", "top-k", "context", "allow-transfer", "backend", "threads", "dtype",
		} {
			if cmd.Flags().Changed(name) {
				return usagef("--%s goes with --model: a server has its own", name)
			}
		}
	}
	if err := f.read(env); err != nil {
		return err
	}
	ask := f.here
	if f.url != "" {
		ask = f.there
	}
	e, err := ask(cmd.Context())
	if err != nil {
		return err
	}
	if env.JSON {
		return env.PrintJSON(e)
	}
	return printExplanation(env.Stdout, e)
}

// body is the request, for a model of this name.
func (f *explainFlags) body(model string) ([]byte, error) {
	request := map[string]any{"model": model}
	if f.chat {
		var messages []map[string]string
		for _, m := range f.messages() {
			messages = append(messages, map[string]string{"role": m.Role, "content": m.Content})
		}
		request["messages"] = messages
	} else {
		request["prompt"] = f.prompt
	}
	b, err := json.Marshal(request)
	if err != nil {
		return nil, fmt.Errorf("encoding the request: %w", err)
	}
	return b, nil
}

// here explains with a model and experts on disk.
func (f *explainFlags) here(ctx context.Context) (e contract.Explanation, err error) {
	model := f.name
	f.name, _, _ = strings.Cut(f.name, ":") // Which pins an expert, or the base.
	if f.name == "" {
		f.name = defaultName
		model = defaultName + model
	}
	c, err := f.server()
	if err != nil {
		return e, err
	}
	c.Lazy, c.MaxBatch = true, 1
	s := server.New(c)
	defer func() { err = errors.Join(err, s.Close()) }()
	if err = s.Load(ctx); err == nil {
		err = s.Swap(ctx, *c.Set)
	}
	if reason, _ := failure.Of(err); err != nil && reason == contract.ReasonUsage {
		return e, &UsageError{Err: err}
	}
	if err != nil {
		return e, err
	}
	body, err := f.body(model)
	if err != nil {
		return e, err
	}
	return s.Explain(ctx, body)
}

const (
	// explainTimeout bounds a request, with its time in a queue.
	explainTimeout = 5 * time.Minute
	// maxAnswer bounds what a server may send.
	maxAnswer = 1 << 20
)

// there asks a server.
func (f *explainFlags) there(ctx context.Context) (contract.Explanation, error) {
	var e contract.Explanation
	root, err := f.root()
	if err != nil {
		return e, err
	}
	ctx, cancel := context.WithTimeout(ctx, explainTimeout)
	defer cancel()
	model := f.name
	if model == "" {
		var list struct {
			Data []struct {
				ID string `json:"id"`
			} `json:"data"`
		}
		if err := call(ctx, http.MethodGet, root+contract.PathModels, nil, &list); err != nil {
			return e, err
		}
		if len(list.Data) == 0 {
			return e, fmt.Errorf("%s lists no models: name one by --name", root+contract.PathModels)
		}
		model = list.Data[0].ID
	}
	body, err := f.body(model)
	if err != nil {
		return e, err
	}
	return e, call(ctx, http.MethodPost, root+contract.PathExplain, body, &e)
}

// root is the address of the server, without a path.
func (f *explainFlags) root() (string, error) {
	base, err := url.Parse(f.url)
	if err != nil || base.Scheme != "http" && base.Scheme != "https" || base.Host == "" {
		return "", usagef("--url %q is no address of a server, such as http://localhost:8000", f.url)
	}
	// OpenAI's clients are given addresses with the version.
	return strings.TrimSuffix(strings.TrimSuffix(base.String(), "/"), "/v1"), nil
}

// call asks a server and decodes what it answers.
func call(ctx context.Context, method, address string, body []byte, answer any) error {
	r, err := http.NewRequestWithContext(ctx, method, address, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("asking the server: %w", err)
	}
	r.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return fmt.Errorf("asking the server: %w", err)
	}
	defer func() { _ = resp.Body.Close() }() // Nothing was written.
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return fmt.Errorf("reading the answer of %s: %w", address, err)
	}
	if resp.StatusCode != http.StatusOK {
		var refusal struct{ Error struct{ Message string } }
		if json.Unmarshal(b, &refusal) == nil && refusal.Error.Message != "" {
			return fmt.Errorf("%s answers %s: %s", address, resp.Status, refusal.Error.Message)
		}
		return fmt.Errorf("%s answers %s", address, resp.Status)
	}
	if len(b) > maxAnswer {
		return fmt.Errorf("%s answers with more than %d bytes: it is no server of this kind", address, maxAnswer)
	}
	if err := json.Unmarshal(b, answer); err != nil {
		return fmt.Errorf("%s does not answer as t2 serve does: %w", address, err)
	}
	return nil
}

// printExplanation describes the explanation for people.
func printExplanation(w io.Writer, e contract.Explanation) error {
	var b strings.Builder
	line := func(label, format string, args ...any) {
		fmt.Fprintf(&b, "%-14s %s\n", label, fmt.Sprintf(format, args...))
	}
	line("Model", "%s", e.Model)
	line("Strategy", "%s", e.Strategy)
	line("Answers", "%s", e.Expert)
	line("Why", "%s", e.Why)
	if e.Classifier != "" {
		line("Classifier", "%s", e.Classifier)
	}
	if e.Fallback != "" {
		line("Fallback", "%s", e.Fallback)
	}
	label := "Weights"
	largestFirst := func(a, b string) int {
		return cmp.Or(cmp.Compare(e.Weights[b], e.Weights[a]), cmp.Compare(a, b))
	}
	for _, name := range slices.SortedFunc(maps.Keys(e.Weights), largestFirst) {
		line(label, "%8.4f  %s", e.Weights[name], name)
		label = ""
	}
	if len(e.Labels) > 0 {
		wide := len("label")
		for _, l := range e.Labels {
			wide = max(wide, len(l.Label))
		}
		line("Pass 1", "%-*s %12s %15s  %s", wide, "label", "probability", "log-likelihood", "expert")
		for _, l := range e.Labels {
			likelihood := "impossible"
			if l.LogLikelihood != nil {
				likelihood = fmt.Sprintf("%.4f", *l.LogLikelihood)
			}
			line("", "%-*s %12.4f %15s  %s", wide, l.Label, l.Probability, likelihood, l.Expert)
		}
		line("", "%d tokens in %.3f s", e.Pass1Tokens, e.Pass1Seconds)
	}
	if e.MinProbability > 0 {
		line("At least", "%v", e.MinProbability)
	}
	line("Prompt", "%d tokens", e.PromptTokens)
	if e.ExpertSetDigest != "" {
		line("Experts", "%s", e.ExpertSetDigest)
	}
	_, err := io.WriteString(w, b.String())
	return err
}
