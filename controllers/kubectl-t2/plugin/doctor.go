package plugin

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/transformersquared/operator/controllers/kubectl-t2/internal/doctor"
)

// doctorTimeout bounds an examination: some sixty questions to the API server.
const doctorTimeout = 2 * time.Minute

func newDoctorCommand(s *session) *cobra.Command {
	var operator, output string
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Find what would fail before it fails, and say what to do",
		Long: `Looks at the API server's version, the CRDs, the operator and its rights, your rights,
the storage, GPUs and images that the objects of the namespace ask for. It changes nothing.
Status 1 says that something fails.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if output != "" && output != formJSON {
				return usagef("-o %q is not json", output)
			}
			ctx, cancel := context.WithTimeoutCause(cmd.Context(), doctorTimeout, fmt.Errorf("the cluster took more than %s", doctorTimeout))
			defer cancel()
			c, err := s.connect(ctx)
			if err != nil {
				return err
			}
			findings, err := doctor.Examine(ctx, doctor.Patient{Client: c.Client, Namespace: c.Namespace, Operator: operator, Version: c.Version})
			if output == formJSON && err == nil {
				err = printJSON(s.env.Stdout, map[string]any{"findings": findings})
			} else if output == "" {
				fmt.Fprint(s.env.Stdout, report(findings, s.width()))
			}
			if err == nil && doctor.Worst(findings) == doctor.Failed {
				err = errUnwell
			}
			return err
		},
	}
	cmd.Flags().StringVar(&operator, "operator-namespace", "", "namespace of the operator, if you may not look into all; it is searched without it")
	cmd.Flags().StringVarP(&output, "output", "o", "", "json")
	return cmd
}

var marks = map[doctor.Level]string{doctor.OK: "✓", doctor.Note: "·", doctor.Unknown: "?", doctor.Warning: "!", doctor.Failed: "✗"}

// report words findings, an area after the other as they come.
func report(findings []doctor.Finding, width int) string {
	var b strings.Builder
	wide := 0
	for _, f := range findings {
		wide = max(wide, len(f.Area))
	}
	last := ""
	counts := map[doctor.Level]int{}
	for _, f := range findings {
		area := f.Area
		if area == last {
			area = ""
		}
		last = f.Area
		counts[f.Level]++
		head := fmt.Sprintf("%s %-*s  ", marks[f.Level], wide, area)
		blank := strings.Repeat(" ", wide+4)
		for i, l := range wrap(f.What, blank, width) {
			if i == 0 {
				l = head + strings.TrimPrefix(l, blank)
			}
			b.WriteString(strings.TrimRight(l, " ") + "\n")
		}
		if f.Do != "" {
			for i, l := range wrap(f.Do, blank+"  ", width) {
				if i == 0 {
					l = blank + "→ " + strings.TrimPrefix(l, blank+"  ")
				}
				b.WriteString(l + "\n")
			}
		}
	}
	fmt.Fprintf(&b, "%d fine, %d failed, %d may fail, %d not known\n",
		counts[doctor.OK]+counts[doctor.Note], counts[doctor.Failed], counts[doctor.Warning], counts[doctor.Unknown])
	return b.String()
}
