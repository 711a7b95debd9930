package plugin

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/charmbracelet/x/ansi"
	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"
)

// Forms of output.
const (
	formWide = "wide"
	formJSON = "json"
	formYAML = "yaml"
)

type statusFlags struct {
	all      bool
	output   string
	exitCode bool
	wait     time.Duration
}

func newStatusCommand(s *session) *cobra.Command {
	var f statusFlags
	cmd := &cobra.Command{
		Use:   "status [KIND/NAME]",
		Short: "Show bases, their experts and policies, and what holds each of them up",
		Long: `Shows the tree of each BaseModel: its experts, and its policies with the experts that
they serve. ✓ is Ready, ✗ is stalled until somebody acts, … is under way; the line below
says what holds it up.

KIND is basemodel, expert or policy. Of one object, the tree has what it belongs to and
what uses it.`,
		Example: `  kubectl t2 status
  kubectl t2 status expert/math
  kubectl t2 status -A --exit-code
  kubectl t2 status policy/demo --wait 10m`,
		Args: cobra.MaximumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error { return f.run(cmd.Context(), s, args) },
	}
	flags := cmd.Flags()
	flags.BoolVarP(&f.all, "all-namespaces", "A", false, "all namespaces")
	flags.StringVarP(&f.output, "output", "o", "", "json, yaml, or wide, which cuts nothing")
	flags.BoolVar(&f.exitCode, "exit-code", false, "end with status 1 if something shown is not Ready")
	flags.DurationVar(&f.wait, "wait", 0, "wait so long until all that is shown is Ready; end with status 1 if it is not, or as soon as something is stalled")
	return cmd
}

// pause is how long is waited between two looks.
const pause = time.Second

func (f *statusFlags) run(ctx context.Context, s *session, args []string) error {
	switch f.output {
	case "", formWide, formJSON, formYAML:
	default:
		return usagef("-o %q is none of json, yaml and wide", f.output)
	}
	if f.wait < 0 {
		return usagef("--wait %s must not be negative", f.wait)
	}
	only, err := parseTarget(args)
	if err != nil {
		return err
	}
	if only != nil && f.all {
		return usagef("an object is of one namespace: give -n instead of -A")
	}
	c, err := s.connect(ctx)
	if err != nil {
		return err
	}
	namespace := c.Namespace
	if f.all {
		namespace = ""
	}
	roots, err := f.look(ctx, c, namespace, only)
	if err != nil {
		return err
	}
	if err := f.print(s, roots, namespace); err != nil {
		return err
	}
	if not, _ := unwell(roots, only); not > 0 && (f.exitCode || f.wait > 0) {
		return errUnwell
	}
	return nil
}

// look reads the tree; with --wait until all of it is Ready, something is stalled, or the
// time is over.
func (f *statusFlags) look(ctx context.Context, c *Cluster, namespace string, only *target) ([]node, error) {
	over := time.After(f.wait)
	for {
		w, err := look(ctx, c, namespace)
		if err != nil {
			return nil, err
		}
		if only != nil && !w.has(only) && f.wait == 0 {
			return nil, fmt.Errorf("there is no %s %s in namespace %s", only.kind, only.name, namespace)
		}
		roots := w.tree(only)
		not, all := unwell(roots, only)
		if f.wait == 0 || not == 0 && all > 0 || stalled(roots, only) {
			return roots, nil
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-over:
			if only != nil && !w.has(only) {
				return nil, fmt.Errorf("there is no %s %s in namespace %s, after %s", only.kind, only.name, namespace, f.wait)
			}
			return roots, nil
		case <-time.After(pause):
		}
	}
}

func stalled(roots []node, only *target) bool {
	for _, n := range roots {
		if n.Stalled && (only == nil || n.Kind == only.kind && n.Name == only.name) || stalled(n.Children, only) {
			return true
		}
	}
	return false
}

func (f *statusFlags) print(s *session, roots []node, namespace string) error {
	switch f.output {
	case formJSON:
		return printJSON(s.env.Stdout, map[string]any{"roots": roots})
	case formYAML:
		b, err := yaml.Marshal(map[string]any{"roots": roots})
		if err != nil {
			return fmt.Errorf("printing the tree: %w", err)
		}
		_, err = s.env.Stdout.Write(b)
		return err
	}
	if len(roots) == 0 {
		_, err := fmt.Fprintf(s.env.Stderr, "There is no BaseModel, ExpertVector or AdaptivePolicy in %s.\n", where(namespace))
		return err
	}
	width := s.width()
	if f.output == formWide {
		width = 0
	}
	var b strings.Builder
	last := ""
	for i, root := range roots {
		if namespace == "" && (i == 0 || root.Namespace != last) {
			fmt.Fprintf(&b, "Namespace %s\n", root.Namespace)
			last = root.Namespace
		}
		root.write(&b, "", "", nameWidth(roots), width)
	}
	_, err := io.WriteString(s.env.Stdout, b.String())
	return err
}

// where words a namespace; "" are all.
func where(namespace string) string {
	if namespace == "" {
		return "any namespace"
	}
	return "namespace " + namespace
}

// labels are how kinds are called in the tree.
var labels = map[string]string{kindBase: "base", kindExpert: "expert", kindPolicy: "policy", kindClassifier: "pass 1"}

func (n *node) label() string {
	if l := labels[n.Kind]; l != "" {
		return l + " " + n.Name
	}
	return n.Name
}

// indent is what a level takes.
const indent = 3

// nameWidth is how wide the names of a tree are, with what stands before them.
func nameWidth(roots []node) int {
	wide := 0
	for _, n := range roots {
		wide = max(wide, ansi.StringWidth(n.label()), indent+nameWidth(n.Children))
	}
	if len(roots) == 0 {
		return -indent
	}
	return wide
}

// maxNote is how many lines a message may take in a terminal.
const maxNote = 3

// write prints a node and what is below it. first stands before its own line, rest before
// all that follow; names have so many cells. A width of 0 cuts nothing.
func (n *node) write(b *strings.Builder, first, rest string, names, width int) {
	mark := "…"
	switch {
	case n.Ready:
		mark = "✓"
	case n.Stalled || n.Reason == reasonNotFound:
		mark = "✗"
	case !isObject(n.Kind):
		mark = "·"
	}
	name := first + n.label()
	text := fmt.Sprintf("%s%s %s %-11s %s", name, strings.Repeat(" ", max(0, names-ansi.StringWidth(name))), mark, n.Reason, strings.Join(n.Detail, "  "))
	b.WriteString(cut(strings.TrimRight(text, " "), width) + "\n")
	below := rest + "   "
	if len(n.Children) > 0 {
		below = rest + "│  "
	}
	notes := n.notes
	if !n.Ready && n.Message != "" {
		notes = append([]string{n.Message}, notes...)
	}
	for _, note := range notes {
		for _, l := range wrap(note, below+"  ", width) {
			b.WriteString(l + "\n")
		}
	}
	for i := range n.Children {
		if i == len(n.Children)-1 {
			n.Children[i].write(b, rest+"└─ ", rest+"   ", names, width)
		} else {
			n.Children[i].write(b, rest+"├─ ", rest+"│  ", names, width)
		}
	}
}

// cut shortens a line to a terminal's width, of which the last cell stays free: some
// terminals break a full line.
func cut(text string, width int) string {
	if width <= 0 {
		return text
	}
	return ansi.Truncate(text, max(1, width-1), "…")
}

// oneLine makes one line of a text, without what a terminal would obey.
func oneLine(text string) string { return harmless(strings.Join(strings.Fields(text), " ")) }

// wrap breaks a message into lines that begin with indent, three at most.
func wrap(text, indent string, width int) []string {
	text = oneLine(text)
	if width <= 0 {
		return []string{indent + text}
	}
	lines := strings.Split(ansi.Wrap(text, max(20, width-1-ansi.StringWidth(indent)), ""), "\n")
	if len(lines) > maxNote {
		lines = append(lines[:maxNote-1], lines[maxNote-1]+" …")
	}
	for i := range lines {
		lines[i] = cut(indent+lines[i], width)
	}
	return lines
}

func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return fmt.Errorf("printing the result: %w", err)
	}
	return nil
}
