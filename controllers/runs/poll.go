package runs

import (
	"slices"
	"time"

	"github.com/transformersquared/operator/controllers/outcome"
)

// A running pod is asked for its progress often while it is young, so that a
// short run is seen to move, and less often later, when steps are long and runs
// may be many.
const (
	young         = time.Minute
	youngInterval = time.Second
)

// pollAfter is when a run is to be looked at again.
func pollAfter(out outcome.Outcome, now time.Time) time.Duration {
	if out.Pod == nil {
		return PollInterval
	}
	for _, c := range slices.Concat(out.Pod.Status.InitContainerStatuses, out.Pod.Status.ContainerStatuses) {
		if c.Name == out.Container && c.State.Running != nil && now.Sub(c.State.Running.StartedAt.Time) >= young {
			return PollInterval
		}
	}
	return youngInterval
}
