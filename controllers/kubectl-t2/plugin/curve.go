package plugin

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/controllers/kubectl-t2/internal/plot"
	"github.com/transformersquared/operator/runtime/contract"
)

type curveFlags struct {
	file   string
	height int
}

func newCurveCommand(s *session) *cobra.Command {
	var f curveFlags
	cmd := &cobra.Command{
		Use:   "curve EXPERT",
		Short: "Plot how the training of an expert goes, or went",
		Long: `Plots the share of right answers by iteration: of each batch, of each validation, and of
the base model.

The curve is asked from where it is: while the expert is trained, from the pod that trains
it; afterwards, from a pod that serves a policy of the same base model, which finds the
expert in the volume. Without such a pod there is nobody who could read it, which is said.`,
		Example: `  kubectl t2 curve math
  kubectl t2 curve math --output math.png`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return f.run(cmd.Context(), s, args[0]) },
	}
	flags := cmd.Flags()
	flags.StringVar(&f.file, "output", "", "write a picture to this `FILE`, .png or .svg, or the numbers, .json")
	flags.IntVar(&f.height, "height", 18, "rows of a plot in the terminal")
	return cmd
}

// Endings of the files that curve writes.
const (
	endingPNG  = ".png"
	endingSVG  = ".svg"
	endingJSON = ".json"
)

func (f *curveFlags) run(ctx context.Context, s *session, name string) error {
	ending := strings.ToLower(filepath.Ext(f.file))
	switch {
	case f.file == "", ending == endingPNG, ending == endingSVG, ending == endingJSON:
	default:
		return usagef("--output %q must end in .png, .svg or .json", f.file)
	}
	c, err := s.connect(ctx)
	if err != nil {
		return err
	}
	curve, source, err := c.curve(ctx, name)
	if err != nil {
		return err
	}
	p := plot.Of(name, curve)
	if f.file == "" {
		width := s.width()
		if width == 0 {
			width = narrow
		}
		text := p.Text(width-1, f.height) + fmt.Sprintf("       from %s\n", source)
		_, err := io.WriteString(s.env.Stdout, text)
		return err
	}
	var b bytes.Buffer
	switch ending {
	case endingPNG:
		err = p.PNG(&b)
	case endingSVG:
		err = p.SVG(&b)
	default:
		err = printJSON(&b, curve)
	}
	if err != nil {
		return fmt.Errorf("drawing %s: %w", f.file, err)
	}
	if err := os.WriteFile(f.file, b.Bytes(), 0o644); err != nil {
		return fmt.Errorf("writing the picture: %w", err)
	}
	fmt.Fprintf(s.env.Stderr, "%s: %d points, from %s\n", f.file, len(curve.Points), source)
	return nil
}

// curve finds the learning curve of an expert, and says where.
func (c *Cluster) curve(ctx context.Context, name string) (curve contract.Curve, source string, err error) {
	e, err := c.expert(ctx, name)
	if err != nil {
		return curve, "", err
	}
	if e.Spec.Source != nil {
		return curve, "", fmt.Errorf("ExpertVector %s was imported: nothing was trained here, so there is no curve", name)
	}
	trainers, err := podsOf(ctx, c, v1alpha1.LabelExpert, name, v1alpha1.ComponentTrain)
	if err != nil {
		return curve, "", err
	}
	var failed []error
	for _, pod := range trainers {
		if pod.Status.Phase != corev1.PodRunning {
			continue
		}
		err := c.admin(ctx, &pod, contract.PathCurve, &curve)
		if err == nil {
			return curve, "pod " + pod.Name + ", which trains it", nil
		}
		failed = append(failed, err)
	}
	if e.Status.Artifact == nil {
		if len(failed) > 0 {
			return curve, "", fmt.Errorf("ExpertVector %s has no artifact yet, and the pod that trains it has no curve: %w", name, errors.Join(failed...))
		}
		h := healthOfExpert(e)
		return curve, "", fmt.Errorf("ExpertVector %s has no artifact and no pod that trains it (%s: %s)", name, h.Reason, h.Message)
	}
	servers, err := podsOf(ctx, c, v1alpha1.LabelBaseModel, e.Spec.BaseModelRef.Name, v1alpha1.ComponentServe)
	if err != nil {
		return curve, "", err
	}
	path := contract.PathCurve + "?digest=" + url.QueryEscape(string(e.Status.Artifact.Digest))
	for _, pod := range servers {
		if pod.Status.Phase != corev1.PodRunning {
			continue
		}
		err := c.admin(ctx, &pod, path, &curve)
		if err == nil {
			return curve, fmt.Sprintf("pod %s, which has %s in its volume", pod.Name, short(string(e.Status.Artifact.Digest))), nil
		}
		if refused, ok := errors.AsType[*statusError](err); ok && refused.code == http.StatusNotFound && strings.Contains(refused.message, "page not found") {
			err = fmt.Errorf("pod %s runs a runtime that tells no curves yet: it is older than this plugin", pod.Name)
		}
		failed = append(failed, err)
	}
	if len(failed) > 0 {
		return curve, "", errors.Join(failed...)
	}
	return curve, "", fmt.Errorf("the curve of ExpertVector %s lies in the volume of BaseModel %s (%s), and no pod runs that could read it there: serve the model by a policy, then ask again",
		name, e.Spec.BaseModelRef.Name, e.Status.Artifact.URI)
}
