package plugin

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/transformersquared/operator/runtime/contract"
)

type chatFlags struct {
	podFlags
	system, expert string
	maxTokens      int
	temperature    float64
}

func newChatCommand(s *session) *cobra.Command {
	var f chatFlags
	cmd := &cobra.Command{
		Use:   "chat POLICY",
		Short: "Talk with a policy, and see which experts answer each turn",
		Long: `Sends what is typed to the policy, a line a turn, with all that was said before, and
prints the answer as it comes, and who gave it.

/reset begins a new conversation, /expert NAME asks one expert (or base) from then on,
/expert alone lets pass 1 choose again, and /quit or Ctrl-D ends. Ctrl-C breaks an answer
off, and ends where none is being given. Lines may come from a pipe.`,
		Example: `  kubectl t2 chat demo
  echo "What is 3 plus 4?" | kubectl t2 chat demo`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return f.run(cmd.Context(), s, args[0]) },
	}
	flags := cmd.Flags()
	f.register(flags)
	flags.StringVar(&f.system, "system", "", "a system message before the conversation")
	flags.StringVar(&f.expert, "expert", "", "ask this expert, or base, instead of letting pass 1 choose")
	flags.IntVar(&f.maxTokens, "max-tokens", 0, "how long an answer may be; 0 leaves it to the server")
	flags.Float64Var(&f.temperature, "temperature", 0, "0 takes the most likely token")
	return cmd
}

func (f *chatFlags) run(ctx context.Context, s *session, policy string) error {
	if f.maxTokens < 0 || f.temperature < 0 {
		return usagef("--max-tokens %d and --temperature %v must not be negative", f.maxTokens, f.temperature)
	}
	api, err := f.api(ctx, s, policy)
	if err != nil {
		return err
	}
	t := &talk{flags: f, session: s, api: api, policy: policy, expert: f.expert}
	t.reset()
	if s.env.Asks {
		t.say("%s answers. /reset, /expert NAME and /quit; Ctrl-C breaks an answer off.\n", api.name)
	}
	return t.run(ctx)
}

// talk is a conversation.
type talk struct {
	flags   *chatFlags
	session *session
	api     *endpoint
	policy  string
	// expert is asked alone; empty lets pass 1 choose.
	expert   string
	messages []message
}

func (t *talk) say(format string, args ...any) { fmt.Fprintf(t.session.env.Stdout, format, args...) }

func (t *talk) reset() {
	t.messages = nil
	if t.flags.system != "" {
		t.messages = append(t.messages, message{"system", t.flags.system})
	}
}

// maxLine bounds what is typed in one line.
const maxLine = 1 << 20

// run reads lines and answers them until they end.
func (t *talk) run(ctx context.Context) error {
	var pressed <-chan os.Signal
	if t.session.env.Interrupts != nil {
		var stop func()
		pressed, stop = t.session.env.Interrupts()
		defer stop()
	}
	lines := make(chan string)
	failed := make(chan error, 1)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { // Ends with the input, or with the process, as reading it cannot be broken off.
		in := bufio.NewScanner(t.session.env.Stdin)
		in.Buffer(nil, maxLine)
		for in.Scan() {
			select {
			case lines <- in.Text():
			case <-ctx.Done():
				return
			}
		}
		failed <- in.Err()
	}()
	for {
		if t.session.env.Asks {
			t.say("> ")
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-pressed:
			t.say("\n")
			return nil
		case err := <-failed:
			if t.session.env.Asks {
				t.say("\n")
			}
			if err != nil {
				return fmt.Errorf("reading what is typed: %w", err)
			}
			return nil
		case line := <-lines:
			end, err := t.turn(ctx, strings.TrimSpace(line), pressed)
			if err != nil && !t.session.env.Asks {
				return err // Nobody is there to ask again.
			}
			if err != nil {
				t.say("! %v\n", err)
			}
			if end {
				return nil
			}
		}
	}
}

// turn answers a line, or does what a command says.
func (t *talk) turn(ctx context.Context, line string, pressed <-chan os.Signal) (end bool, err error) {
	command, rest, _ := strings.Cut(line, " ")
	switch {
	case line == "":
		return false, nil
	case command == "/quit" || command == "/exit":
		return true, nil
	case command == "/reset":
		t.reset()
		return false, nil
	case command == "/expert":
		t.expert = strings.TrimSpace(rest)
		return false, nil
	case strings.HasPrefix(line, "/"):
		return false, fmt.Errorf("%s is no command: there are /reset, /expert NAME and /quit", command)
	}
	return false, t.answer(ctx, line, pressed)
}

var errInterrupted = errors.New("broken off")

// answer asks for an answer and prints it. What is broken off stays in the conversation
// as far as it came; a question that got no answer does not.
func (t *talk) answer(ctx context.Context, question string, pressed <-chan os.Signal) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	timed, stop := context.WithTimeoutCause(ctx, answerTimeout, fmt.Errorf("no answer within %s", answerTimeout))
	defer stop()
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		select {
		case <-pressed:
			cancel(errInterrupted)
		case <-timed.Done():
		}
	}()
	request := map[string]any{
		"model": modelOf(t.policy, t.expert), "messages": append(slices.Clone(t.messages), message{"user", question}), "temperature": t.flags.temperature,
	}
	if t.flags.maxTokens > 0 {
		request["max_tokens"] = t.flags.maxTokens
	}
	c, err := t.api.stream(timed, request, func(text string) { t.say("%s", harmless(text)) })
	broken := errors.Is(context.Cause(timed), errInterrupted)
	stop()
	<-watched
	if c.text != "" {
		t.messages = append(t.messages, message{"user", question}, message{"assistant", c.text})
		t.say("\n")
	}
	switch {
	case broken:
		t.say("  (broken off)\n")
		return nil
	case err != nil:
		return err
	case c.finish == "length":
		t.say("  (the answer is as long as it may be)\n")
	}
	if c.adaptation != nil {
		t.say("  %s\n", who(*c.adaptation))
	}
	return nil
}

// who says which experts answered, and what pass 1 thought of them.
func who(a contract.Adaptation) string {
	text := "[" + a.Expert
	if a.Fallback != "" {
		text += ", fallback: " + a.Fallback
	}
	if a.Strategy == contract.StrategyPinned {
		text += ", asked for"
	}
	var likely []string
	for _, name := range byValue(a.Probabilities) {
		if len(likely) == 3 {
			likely = append(likely, "…")
			break
		}
		likely = append(likely, fmt.Sprintf("%s %.2f", name, a.Probabilities[name]))
	}
	if len(likely) > 0 {
		text += "; " + strings.Join(likely, " ")
	}
	return text + fmt.Sprintf("]  pass 1 %.0f ms, pass 2 %.0f ms", 1000*a.Pass1Seconds, 1000*a.Pass2Seconds)
}

// harmless takes the control characters out of what a model wrote, but for lines and
// tabs: a terminal would obey them.
func harmless(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' && r != '\n' && r != '\t' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return '\uFFFD'
		}
		return r
	}, text)
}
