package plugin

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/charmbracelet/x/ansi"
	"github.com/spf13/cobra"
	batchv1 "k8s.io/api/batch/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/runtime/contract"
)

type diffFlags struct {
	all, curves bool
	output      string
}

func newDiffCommand(s *session) *cobra.Command {
	var f diffFlags
	cmd := &cobra.Command{
		Use:   "diff A B | diff EXPERT RUN-A RUN-B",
		Short: "Show in what two experts, or two runs of one, differ",
		Long: `Compares two ExpertVectors: what they are asked to be (spec), and what came of it: scores,
digests, sizes, the last run. With --curves also how the trainings went.

With three arguments, compares two runs of one ExpertVector, by the beginning of their ids
in its status: when, where and how they ended, and what their Jobs were told, as long as
these Jobs are there.

The vectors themselves are not compared: they lie in the volume.`,
		Example: `  kubectl t2 diff math math-long
  kubectl t2 diff math 3f2a 91bc`,
		Args: cobra.RangeArgs(2, 3),
		RunE: func(cmd *cobra.Command, args []string) error { return f.run(cmd.Context(), s, args) },
	}
	flags := cmd.Flags()
	flags.BoolVar(&f.all, "all", false, "what is alike, too")
	flags.BoolVar(&f.curves, "curves", false, "ask pods for the learning curves, as kubectl t2 curve does")
	flags.StringVarP(&f.output, "output", "o", "", "json")
	return cmd
}

// difference is a field and what two have in it.
type difference struct {
	Field string `json:"field"`
	A     string `json:"a"`
	B     string `json:"b"`
}

func (f *diffFlags) run(ctx context.Context, s *session, args []string) error {
	if f.output != "" && f.output != formJSON {
		return usagef("-o %q is not json", f.output)
	}
	if len(args) == 3 && f.curves {
		return usagef("--curves is for two experts: of a run that is over, its artifact has the curve")
	}
	c, err := s.connect(ctx)
	if err != nil {
		return err
	}
	var a, b map[string]string
	titles := args
	if len(args) == 3 {
		titles = args[1:]
		e, err := c.expert(ctx, args[0])
		if err != nil {
			return err
		}
		if a, err = c.runFields(ctx, e, args[1]); err != nil {
			return err
		}
		if b, err = c.runFields(ctx, e, args[2]); err != nil {
			return err
		}
	} else {
		if a, err = f.expertFields(ctx, c, args[0]); err != nil {
			return err
		}
		if b, err = f.expertFields(ctx, c, args[1]); err != nil {
			return err
		}
	}
	rows := differences(a, b, f.all)
	if f.output == formJSON {
		return printJSON(s.env.Stdout, map[string]any{"a": titles[0], "b": titles[1], "fields": rows})
	}
	if len(rows) == 0 {
		_, err := fmt.Fprintf(s.env.Stdout, "%s and %s differ in nothing that their status and spec say.\n", titles[0], titles[1])
		return err
	}
	_, err = io.WriteString(s.env.Stdout, table([3]string{"", titles[0], titles[1]}, rows, s.width()))
	return err
}

func (c *Cluster) expert(ctx context.Context, name string) (*v1alpha1.ExpertVector, error) {
	var e v1alpha1.ExpertVector
	if err := c.Get(ctx, client.ObjectKey{Namespace: c.Namespace, Name: name}, &e); err != nil {
		if apierrors.IsNotFound(err) {
			return nil, fmt.Errorf("there is no ExpertVector %s in namespace %s", name, c.Namespace)
		}
		return nil, fmt.Errorf("reading ExpertVector %s: %w", name, err)
	}
	return &e, nil
}

// expertFields are what an ExpertVector is asked to be and what came of it.
func (f *diffFlags) expertFields(ctx context.Context, c *Cluster, name string) (map[string]string, error) {
	e, err := c.expert(ctx, name)
	if err != nil {
		return nil, err
	}
	fields := map[string]string{}
	if err := flatten(fields, "spec", e.Spec); err != nil {
		return nil, err
	}
	h := healthOfExpert(e)
	fields["status.ready"] = fmt.Sprintf("%t (%s)", h.Ready, h.Reason)
	fields["status.score"] = scores(e.Status.Score, e.Status.BaselineScore)
	if p := e.Status.Progress; p != nil {
		fields["status.iterations"] = p.Summary
		fields["status.kl"] = p.KL
	}
	if a := e.Status.Artifact; a != nil {
		fields["status.artifact.digest"] = short(string(a.Digest))
		fields["status.artifact.size"] = size(a.SizeBytes)
		fields["status.artifact.run"] = a.RunID
	}
	fields["status.baseDigest"] = short(string(e.Status.BaseDigest))
	fields["status.decompositionDigest"] = short(string(e.Status.DecompositionDigest))
	if len(e.Status.Runs) > 0 {
		runStatus(fields, "lastRun", &e.Status.Runs[0])
	}
	if f.curves {
		curve, _, err := c.curve(ctx, name)
		if err != nil {
			return nil, err
		}
		curveFields(fields, curve)
	}
	return fields, nil
}

func runStatus(fields map[string]string, prefix string, r *v1alpha1.RunStatus) {
	fields[prefix+".id"] = r.ID
	fields[prefix+".started"] = r.StartTime.UTC().Format(time.DateTime)
	if r.CompletionTime != nil {
		fields[prefix+".took"] = r.CompletionTime.Sub(r.StartTime.Time).Round(time.Second).String()
	}
	fields[prefix+".result"] = r.Result
	fields[prefix+".device"] = r.Device
	if r.Failures != nil && *r.Failures > 0 {
		fields[prefix+".failures"] = fmt.Sprint(*r.Failures)
	}
	if r.Retries != nil && *r.Retries > 0 {
		fields[prefix+".retries"] = fmt.Sprint(*r.Retries)
	}
}

// curveFields sum a learning curve up.
func curveFields(fields map[string]string, c contract.Curve) {
	best, at := -1.0, 0
	tokens := 0
	for _, p := range c.Points {
		tokens += p.AnswerTokens
		if p.Score != nil && *p.Score > best {
			best, at = *p.Score, p.Iteration
		}
	}
	if best >= 0 {
		fields["curve.best"] = fmt.Sprintf("%.4f after iteration %d", best, at)
	}
	if n := len(c.Points); n > 0 {
		last := c.Points[n-1]
		fields["curve.last"] = fmt.Sprintf("reward %+.4f at iteration %d", last.Reward, last.Iteration)
		fields["curve.answerTokens"] = fmt.Sprint(tokens)
	}
}

// runFields are what is known of a run, by the beginning of its id.
func (c *Cluster) runFields(ctx context.Context, e *v1alpha1.ExpertVector, id string) (map[string]string, error) {
	var found []*v1alpha1.RunStatus
	var ids []string
	for i := range e.Status.Runs {
		r := &e.Status.Runs[i]
		ids = append(ids, r.ID)
		if strings.HasPrefix(r.ID, id) {
			found = append(found, r)
		}
	}
	if len(found) != 1 {
		return nil, fmt.Errorf("%q is the beginning of %d of the runs of ExpertVector %s, not of one: it has %s", id, len(found), e.Name, strings.Join(ids, ", "))
	}
	r := found[0]
	fields := map[string]string{}
	runStatus(fields, "run", r)
	if a := e.Status.Artifact; a != nil && a.RunID == r.ID {
		fields["artifact.digest"] = short(string(a.Digest))
		fields["artifact.score"] = scores(e.Status.Score, e.Status.BaselineScore)
	}
	var job batchv1.Job
	switch err := c.Get(ctx, client.ObjectKey{Namespace: e.Namespace, Name: r.JobName}, &job); {
	case apierrors.IsNotFound(err):
		fields["job"] = "gone: what it was told is not known any more"
		return fields, nil
	case err != nil:
		return nil, fmt.Errorf("reading Job %s: %w", r.JobName, err)
	}
	fields["job"] = "there"
	for _, container := range job.Spec.Template.Spec.Containers {
		for _, v := range container.Env {
			if v.Name != contract.EnvSpec {
				continue
			}
			var spec any
			if err := json.Unmarshal([]byte(v.Value), &spec); err != nil {
				return nil, fmt.Errorf("reading %s of Job %s: %w", contract.EnvSpec, r.JobName, err)
			}
			flattenAny(fields, container.Name, spec)
		}
	}
	return fields, nil
}

// flatten writes a value's fields by their paths.
func flatten(into map[string]string, path string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("reading %s: %w", path, err)
	}
	var tree any
	if err := json.Unmarshal(b, &tree); err != nil {
		return fmt.Errorf("reading %s: %w", path, err)
	}
	flattenAny(into, path, tree)
	return nil
}

func flattenAny(into map[string]string, path string, v any) {
	switch v := v.(type) {
	case map[string]any:
		for name, below := range v {
			flattenAny(into, path+"."+name, below)
		}
	case []any:
		plain := make([]string, 0, len(v))
		for _, below := range v {
			if _, nested := below.(map[string]any); nested {
				for i, below := range v {
					flattenAny(into, fmt.Sprintf("%s[%d]", path, i), below)
				}
				return
			}
			plain = append(plain, fmt.Sprint(below))
		}
		into[path] = strings.Join(plain, ",")
	case nil:
	default:
		into[path] = fmt.Sprint(v)
	}
}

// differences are the fields in which two differ, by name; with all, those in which they
// are alike, too.
func differences(a, b map[string]string, all bool) []difference {
	names := map[string]bool{}
	for name := range a {
		names[name] = true
	}
	for name := range b {
		names[name] = true
	}
	rows := []difference{}
	for name := range names {
		if a[name] != b[name] || all && a[name] != "" {
			rows = append(rows, difference{name, a[name], b[name]})
		}
	}
	slices.SortFunc(rows, func(x, y difference) int { return strings.Compare(x.Field, y.Field) })
	return rows
}

// table aligns rows; the two columns share what the terminal has beside the names.
func table(head [3]string, rows []difference, width int) string {
	lines := [][3]string{head}
	for _, r := range rows {
		lines = append(lines, [3]string{r.Field, orDash(r.A), orDash(r.B)})
	}
	var wide [3]int
	for _, l := range lines {
		for i, text := range l {
			wide[i] = max(wide[i], ansi.StringWidth(text))
		}
	}
	if width > 0 {
		wide[0] = min(wide[0], max(12, width/2))
		room := max(20, width-1-wide[0]-4)
		wide[1] = min(wide[1], max(room/2, room-wide[2]))
	}
	var b strings.Builder
	for _, l := range lines {
		text := fit(l[0], wide[0]) + "  " + fit(l[1], wide[1]) + "  " + l[2]
		b.WriteString(strings.TrimRight(cut(text, width), " ") + "\n")
	}
	return b.String()
}

func orDash(text string) string {
	if text == "" {
		return "-"
	}
	return oneLine(text)
}

// fit cuts or pads a text to so many cells.
func fit(text string, width int) string {
	text = ansi.Truncate(text, width, "…")
	return text + strings.Repeat(" ", max(0, width-ansi.StringWidth(text)))
}
