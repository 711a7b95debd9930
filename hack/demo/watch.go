package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/transformersquared/operator/api/v1alpha1"
)

// watcher shows what the operator says of the demo's objects.
type watcher struct {
	objects   client.Client
	namespace string
	screen    *screen
}

// usualWait is how long it usually takes until all objects are Ready.
const usualWait = "1 to 4 minutes"

// line is one object as the demo shows it.
type line struct {
	name, reason, detail string
	ready, stalled       bool
	message              string
}

// untilReady shows every object until all are Ready. It fails as soon as one
// is Stalled, with what the operator says about it.
func (w watcher) untilReady(ctx context.Context, timeout time.Duration) error {
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("not everything was Ready after %s", timeout))
	defer cancel()
	began := time.Now()
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for {
		lines, err := w.look(ctx)
		if err != nil {
			return err
		}
		ready := 0
		for _, l := range lines {
			if l.ready {
				ready++
			}
		}
		since := time.Since(began)
		status := fmt.Sprintf("%d of %d Ready after %.0f s (usually %s)", ready, len(lines), since.Seconds(), usualWait)
		w.screen.draw(texts(lines), status, since)
		for _, l := range lines {
			if l.stalled {
				return fmt.Errorf("%s is stalled: %s: %s", l.name, l.reason, l.message)
			}
		}
		if len(lines) > 0 && ready == len(lines) {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-ticker.C:
		}
	}
}

// look reads all objects once.
func (w watcher) look(ctx context.Context) ([]line, error) {
	var bases v1alpha1.BaseModelList
	var experts v1alpha1.ExpertVectorList
	var policies v1alpha1.AdaptivePolicyList
	for _, list := range []client.ObjectList{&bases, &experts, &policies} {
		if err := w.objects.List(ctx, list, client.InNamespace(w.namespace)); err != nil {
			return nil, fmt.Errorf("listing %T: %w", list, err)
		}
	}
	var lines []line
	for _, b := range bases.Items {
		lines = append(lines, newLine("basemodel/"+b.Name, b.Status.Conditions, baseDetail(b.Status)))
	}
	for _, e := range experts.Items {
		lines = append(lines, newLine("expert/"+e.Name, e.Status.Conditions, expertDetail(e.Status)))
	}
	for _, p := range policies.Items {
		lines = append(lines, newLine("policy/"+p.Name, p.Status.Conditions, policyDetail(p.Status)))
	}
	return lines, nil
}

func newLine(name string, conditions []metav1.Condition, detail string) line {
	l := line{name: name, detail: detail, reason: "-"}
	if c := meta.FindStatusCondition(conditions, v1alpha1.ConditionReady); c != nil {
		l.reason, l.message = c.Reason, c.Message
		l.ready = c.Status == metav1.ConditionTrue
	}
	if c := meta.FindStatusCondition(conditions, v1alpha1.ConditionStalled); c != nil && c.Status == metav1.ConditionTrue {
		l.stalled, l.reason, l.message = true, c.Reason, c.Message
	}
	return l
}

func baseDetail(s v1alpha1.BaseModelStatus) string {
	if p := s.Progress; p != nil && p.Done != nil && p.Total != nil {
		return fmt.Sprintf("%s %s", bar(*p.Done, *p.Total), p.Step)
	}
	if d := s.Decomposition; d != nil {
		return fmt.Sprintf("%d matrices, %d singular values, largest error %s", d.Matrices, d.SingularValues, d.MaxRelativeError)
	}
	return ""
}

func expertDetail(s v1alpha1.ExpertVectorStatus) string {
	var parts []string
	p := s.Progress
	if p != nil && p.Iteration != nil && s.Score == "" {
		// What matters most comes first: a narrow terminal shows that much.
		parts = append(parts, bar(int64(*p.Iteration), int64(p.Iterations)), p.Summary)
		if p.EstimatedRemainingSeconds != nil {
			parts = append(parts, fmt.Sprintf("%ds left", *p.EstimatedRemainingSeconds))
		}
		if p.BestScore != "" {
			parts = append(parts, "best "+string(p.BestScore))
		}
		if p.Reward != "" {
			parts = append(parts, "reward "+p.Reward)
		}
		if p.ValidationScore != "" {
			parts = append(parts, "validation "+string(p.ValidationScore))
		}
	}
	if s.Score != "" {
		text := fmt.Sprintf("validation %s, base %s", s.Score, s.BaselineScore)
		if p != nil {
			text += fmt.Sprintf(", after %s iterations", p.Summary)
		}
		parts = append(parts, text)
	}
	return strings.Join(parts, "  ")
}

func policyDetail(s v1alpha1.AdaptivePolicyStatus) string {
	var parts []string
	if s.ExpertSummary != "" {
		parts = append(parts, fmt.Sprintf("%s experts served by %s pods", s.ExpertSummary, s.ReplicaSummary))
	}
	switch p := s.Probe; {
	case p == nil:
	case p.Progress != nil:
		parts = append(parts, "probe: "+p.Progress.Summary)
	case p.Accuracy != "":
		parts = append(parts, fmt.Sprintf("probe right %s of the time, calibration error %s", p.Accuracy, p.CalibrationError))
	}
	return strings.Join(parts, "  ")
}

// bar draws done of total in 20 cells.
func bar(done, total int64) string {
	const cells = 20
	filled := 0
	if total > 0 {
		filled = int(min(done, total) * cells / total)
	}
	return "[" + strings.Repeat("#", filled) + strings.Repeat(".", cells-filled) + "]"
}

// texts are the lines as they are shown.
func texts(lines []line) []string {
	shown := make([]string, len(lines))
	wide := 0
	for _, l := range lines {
		wide = max(wide, len(l.name))
	}
	for i, l := range lines {
		mark := " "
		if l.ready {
			mark = "✓"
		}
		shown[i] = strings.TrimRight(fmt.Sprintf("  %s %-*s %-17s %s", mark, wide, l.name, l.reason, l.detail), " ")
	}
	return shown
}

// explainTrainings prints what each training brought.
func explainTrainings(ctx context.Context, objects client.Client, out *screen) error {
	var experts v1alpha1.ExpertVectorList
	if err := objects.List(ctx, &experts, client.InNamespace(namespace)); err != nil {
		return fmt.Errorf("listing ExpertVectors: %w", err)
	}
	for _, e := range experts.Items {
		if e.Status.Artifact == nil {
			return fmt.Errorf("ExpertVector %s is Ready without an artifact", e.Name)
		}
		out.printf("  %-16s validation %s → %s, %d bytes, %.19s…\n",
			e.Name, e.Status.BaselineScore, e.Status.Score, e.Status.Artifact.SizeBytes, e.Status.Artifact.Digest)
	}
	return nil
}
