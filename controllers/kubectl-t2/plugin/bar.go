package plugin

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/transformersquared/operator/api/v1alpha1"
)

// cells of a bar.
const cells = 16

// bar draws done of total; nothing where the total is not known.
func bar(done, total int64) string {
	if total <= 0 {
		return ""
	}
	full := int(cells * min(max(done, 0), total) / total)
	return "[" + strings.Repeat("#", full) + strings.Repeat(".", cells-full) + "]"
}

// line joins what is known.
func line(parts ...string) string {
	var known []string
	for _, p := range parts {
		if p != "" {
			known = append(known, p)
		}
	}
	return strings.Join(known, " ")
}

func left(seconds *int64) string {
	if seconds == nil || *seconds < 0 {
		return ""
	}
	return (time.Duration(*seconds) * time.Second).String() + " left"
}

// stepBar is how far a BaseModel's Job is.
func stepBar(p *v1alpha1.StepProgress) string {
	if p == nil || p.Done == nil || p.Total == nil {
		return ""
	}
	far := fmt.Sprintf("%d/%d", *p.Done, *p.Total)
	if p.Step == "Fetching" { // Bytes.
		far = size(*p.Done)
		if *p.Total > 0 {
			far += " of " + size(*p.Total)
		}
	}
	return line(bar(*p.Done, *p.Total), p.Step, far, left(p.EstimatedRemainingSeconds))
}

// trainingBar is how far a training is.
func trainingBar(p *v1alpha1.TrainingProgress) string {
	if p == nil || p.Iteration == nil {
		return ""
	}
	text := line(bar(int64(*p.Iteration), int64(p.Iterations)), p.Step, p.Summary, left(p.EstimatedRemainingSeconds))
	if p.BestScore != "" {
		text += " best " + string(p.BestScore)
	}
	if p.Reward != "" {
		text += " reward " + p.Reward
	}
	return text
}

// searchBar is how far a search of weights is.
func searchBar(p *v1alpha1.FewShotProgress) string {
	if p.Generation == nil {
		return p.Summary
	}
	text := line(bar(int64(*p.Generation), int64(p.Generations)), "Searching", p.Summary, left(p.EstimatedRemainingSeconds))
	if p.BestScore != "" {
		text += " best " + string(p.BestScore)
	}
	return text
}

// summaryBar is how far something is that says it in words, such as Reading 200/900, as a
// bar.
func summaryBar(summary string, remaining *int64) string {
	step, far, _ := strings.Cut(summary, " ")
	d, t, _ := strings.Cut(far, "/")
	done, err := strconv.ParseInt(d, 10, 64)
	total, err2 := strconv.ParseInt(t, 10, 64)
	if err != nil || err2 != nil {
		return line(summary, left(remaining))
	}
	return line(bar(done, total), step, far, left(remaining))
}
