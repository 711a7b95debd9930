package cli

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/transformersquared/operator/runtime/sample"
	"github.com/transformersquared/operator/runtime/tokenizer"
	"github.com/transformersquared/operator/runtime/train/rollout"
)

// generated is the JSON of `t2 generate`.
type generated struct {
	Text         string  `json:"text"`
	PromptTokens []int32 `json:"promptTokens"`
	Tokens       []int32 `json:"tokens"`
	// FinishReason is "stop" (a stop token) or "length".
	FinishReason string `json:"finishReason"`
}

// promptFlags are the flags of subcommands that are given one prompt.
type promptFlags struct {
	prompt string
	system string
	chat   bool
}

func (f *promptFlags) registerPrompt(flags *pflag.FlagSet) {
	flags.StringVar(&f.prompt, "prompt", "", "the text to continue, or the user's message with --chat; - reads standard input (required)")
	flags.BoolVar(&f.chat, "chat", false, "put the prompt into the model's chat template")
	flags.StringVar(&f.system, "system", "", "system message for --chat")
}

// maxPrompt bounds a prompt read from standard input.
const maxPrompt = 16 << 20

// read reads a prompt that is on standard input.
func (f *promptFlags) read(env *Env) error {
	if f.prompt == "-" {
		text, err := io.ReadAll(io.LimitReader(env.Stdin, maxPrompt))
		if err != nil {
			return fmt.Errorf("reading the prompt: %w", err)
		}
		f.prompt = string(text)
	}
	if f.prompt == "" {
		return usagef("--prompt is missing or empty")
	}
	return nil
}

// messages are the conversation of a chat.
func (f *promptFlags) messages() []tokenizer.Message {
	messages := []tokenizer.Message{{Role: "user", Content: f.prompt}}
	if f.system != "" {
		messages = append([]tokenizer.Message{{Role: "system", Content: f.system}}, messages...)
	}
	return messages
}

type generateFlags struct {
	modelFlags
	promptFlags
	maxTokens int
	sampling  sample.Params
	seed      uint64
}

func newGenerateCommand(env *Env) *cobra.Command {
	var f generateFlags
	cmd := &cobra.Command{
		Use:   "generate --model DIR --prompt TEXT",
		Short: "Continue a text, or answer as a chat, with a base or an adapted model",
		Example: `  t2 generate --model ./model --prompt "Once upon a time" --max-tokens 100
  t2 generate --model ./model --expert ./expert.safetensors --decomposition ./dec --chat --prompt "What is 2+3?" --json
  echo "Once upon a time" | t2 generate --model ./model --prompt -`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return f.run(cmd.Context(), env)
		},
	}
	flags := cmd.Flags()
	f.register(flags)
	f.registerPrompt(flags)
	flags.IntVar(&f.maxTokens, "max-tokens", 128, "how many tokens to generate at most")
	flags.Float64Var(&f.sampling.Temperature, "temperature", 0, "0 takes the most likely token each time")
	flags.IntVar(&f.sampling.TopK, "top-k", 0, "draw from the k most likely tokens; 0 means all")
	flags.Float64Var(&f.sampling.TopP, "top-p", 1, "draw from the fewest tokens with this probability together")
	flags.Float64Var(&f.sampling.MinP, "min-p", 0, "draw from tokens that are at least this many times as likely as the most likely one; 0 means all")
	flags.Float64Var(&f.sampling.RepetitionPenalty, "repetition-penalty", 1, "make tokens less likely that the prompt or the answer has; 1 does not")
	flags.Uint64Var(&f.seed, "seed", 0, "seed of the draws")
	return cmd
}

func (f *generateFlags) run(ctx context.Context, env *Env) (err error) {
	if f.maxTokens < 1 {
		return usagef("--max-tokens %d: ask for at least 1", f.maxTokens)
	}
	if err := f.sampling.Validate(); err != nil {
		return &UsageError{Err: err}
	}
	if err := f.read(env); err != nil {
		return err
	}
	l, err := f.load(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.backend.Close()) }()
	prompt, err := f.encode(l.tokenizer)
	if err != nil {
		return err
	}
	answers, err := rollout.Generate(ctx, l.model, [][]int32{prompt}, func(int) *sample.Sampler {
		s := sample.New(f.sampling, sample.Stream(f.seed))
		s.Read(prompt)
		return s
	}, rollout.Options{Reader: l.reader, Stop: l.tokenizer.EOS(), MaxNewTokens: f.maxTokens})
	if err != nil {
		return err
	}
	answer := answers[0]
	text := f.decode(l.tokenizer, prompt, answer.Text())
	if !env.JSON {
		_, err := fmt.Fprintln(env.Stdout, text)
		return err
	}
	reason := "length"
	if answer.Stopped {
		reason = "stop"
	}
	return env.PrintJSON(generated{Text: text, PromptTokens: prompt, Tokens: answer.Tokens, FinishReason: reason})
}

// decode returns the text of an answer: what it adds to the prompt or, of a chat, a
// text of its own.
func (f *generateFlags) decode(t *tokenizer.Tokenizer, prompt, answer []int32) string {
	if f.chat {
		return t.Decode(answer, true)
	}
	return t.DecodeAfter(prompt, answer)
}

func (f *generateFlags) encode(t *tokenizer.Tokenizer) ([]int32, error) {
	if !f.chat {
		return t.Encode(f.prompt, true)
	}
	return t.EncodeChat(f.messages())
}
