package adaptivepolicy

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/controllers/status"
	"github.com/transformersquared/operator/controllers/warnings"
	"github.com/transformersquared/operator/runtime/contract"
)

// misses reports whether a pod does not find an expert's artifact in its volume.
// An artifact that it finds and cannot read, or that is another than its name
// says, is not missed: made again it would be the same, beside what is wrong.
func (o *observation) misses(name string, digest v1alpha1.Digest) bool {
	return o.current && slices.ContainsFunc(o.status.Experts, func(e contract.ServedExpert) bool {
		return e.Name == name && e.State == contract.ExpertFailed && e.Error != nil &&
			e.Error.Reason == contract.ReasonExpertMissing && e.Error.Digest == string(digest)
	})
}

// refuses returns why a pod cannot serve an expert whose artifact it has; nil if it can, or
// nothing is known.
func (o *observation) refuses(name string, digest v1alpha1.Digest) *contract.LoadError {
	if o.current {
		for _, e := range o.status.Experts {
			if e.Name == name && e.State == contract.ExpertFailed && e.Error != nil &&
				e.Error.Reason != contract.ReasonExpertMissing && e.Error.Digest == string(digest) {
				return e.Error
			}
		}
	}
	return nil
}

// markLost writes which of the experts that are to be served a pod misses, and which it
// refuses.
func markLost(experts []v1alpha1.PolicyExpertStatus, seen []observation) {
	for i := range experts {
		e := &experts[i]
		missed := slices.ContainsFunc(seen, func(o observation) bool { return o.misses(e.Name, e.Digest) })
		refused := slices.ContainsFunc(seen, func(o observation) bool { return o.refuses(e.Name, e.Digest) != nil })
		switch {
		case missed && e.Digest != "":
			e.State = v1alpha1.ExpertLost
		case refused && e.Digest != "":
			e.State = v1alpha1.ExpertRefused
		case e.State == v1alpha1.ExpertLost || e.State == v1alpha1.ExpertRefused:
			e.State = v1alpha1.ExpertLoading
		}
	}
}

// lost names the experts that a pod misses.
func lost(chosen choice, seen []observation) error {
	for i := range seen {
		o := &seen[i]
		var names []string
		for _, ref := range chosen.set.Refs() {
			if o.misses(ref.Name, v1alpha1.Digest(ref.Digest)) {
				names = append(names, ref.Name)
			}
		}
		if len(names) > 0 {
			return status.Wait(v1alpha1.ReasonExpertLost,
				"Pod %s does not find the artifact of ExpertVector %s in the volume, and serves without it. It is made again if it stays away: %s",
				o.pod.Name, strings.Join(names, ", "), o.trouble).Warn()
		}
	}
	return nil
}

// maxWarned bounds of how many starting pods the events are read: what keeps one
// pod of a Deployment from starting mostly keeps the others too.
const maxWarned = 3

// warned looks for what keeps pods from starting that only events tell.
func (r *Reconciler) warned(ctx context.Context, seen []observation) error {
	asked := 0
	for i := range seen {
		o := &seen[i]
		if !o.starting || time.Since(o.pod.CreationTimestamp.Time) < warnings.Patience {
			continue
		}
		if asked++; asked > maxWarned {
			return nil
		}
		warning, err := warnings.Latest(ctx, r.Live, o.pod)
		if err != nil {
			return err
		}
		if warning != nil {
			o.reason, o.hindrance = warning.Reason, fmt.Sprintf("Pod %s is starting: %s", o.pod.Name, warning.Message)
			o.trouble = o.hindrance
		}
	}
	return nil
}
