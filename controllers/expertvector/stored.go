package expertvector

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/controllers/desired"
	"github.com/transformersquared/operator/controllers/index"
	"github.com/transformersquared/operator/controllers/status"
)

// DefaultPatience is how long pods may miss an artifact before it is made again.
// A node may see late what another one wrote to a shared volume.
const DefaultPatience = time.Minute

// What a pod misses it looks for again within half a minute, and the operator
// asks pods each few seconds.
const (
	// graceful times the patience is how long pods may take to find an artifact
	// that has been made again.
	graceful = 3
	// apart times the patience is the least time between two renewals.
	apart = 10
)

// report is what the policies say of an expert's artifact.
type report struct {
	// missedBy is a policy with a pod that does not find it; empty without one.
	missedBy string
	// found says that there is none, and that every pod of some policy serves it.
	found bool
}

// reports sums up what the policies say of an artifact.
func reports(policies []v1alpha1.AdaptivePolicy, name string, digest v1alpha1.Digest) report {
	var r report
	for i := range policies {
		p := &policies[i]
		if !p.DeletionTimestamp.IsZero() {
			continue
		}
		for _, e := range served(p) {
			if e.Name != name || e.Digest != digest {
				continue
			}
			counts := p.Status.PodCounts
			switch {
			case e.State == v1alpha1.ExpertLost:
				if r.missedBy == "" || p.Name < r.missedBy {
					r.missedBy = p.Name
				}
			case counts != nil && ptr.Deref(counts.Total, 0) > 0:
				r.found = r.found || *counts.Total == ptr.Deref(counts.Current, 0)
			}
		}
	}
	r.found = r.found && r.missedBy == ""
	return r
}

// served are a policy's experts, and its classifier as one of them.
func served(p *v1alpha1.AdaptivePolicy) []v1alpha1.PolicyExpertStatus {
	c := p.Status.Classifier
	if c == nil {
		return p.Status.Experts
	}
	return append(slices.Clone(p.Status.Experts), v1alpha1.PolicyExpertStatus{Name: c.Expert, State: c.State, Digest: c.Digest})
}

// judgeStored decides about an artifact by its condition Stored (an empty one
// where there is none) and by what policies say: it returns the condition's next
// reason, empty for none, and when to look again if that is known.
//
// An artifact is made again once pods have missed it for a while. If they then
// still miss it, the volume is broken, and nothing more happens by itself; a
// user has it made again by deleting its Job (jobGone). Between two renewals is
// always some time, however often it is lost.
func judgeStored(was metav1.Condition, said report, jobGone bool,
	patience time.Duration, now time.Time,
) (reason string, after time.Duration) {
	left := func(times time.Duration) time.Duration {
		return was.LastTransitionTime.Add(times * patience).Sub(now)
	}
	switch missed := said.missedBy != ""; was.Reason {
	case v1alpha1.ReasonRenewing:
		return v1alpha1.ReasonRenewing, 0
	case v1alpha1.ReasonMissed:
		switch {
		case said.found:
			return v1alpha1.ReasonFound, 0
		case !missed:
			return "", 0
		case left(1) > 0:
			return v1alpha1.ReasonMissed, left(1)
		}
		return v1alpha1.ReasonRenewing, 0
	case v1alpha1.ReasonRenewed:
		switch {
		case said.found:
			return v1alpha1.ReasonFound, 0
		case !missed:
			return v1alpha1.ReasonRenewed, 0
		case left(graceful) > 0:
			return v1alpha1.ReasonRenewed, left(graceful)
		}
		return v1alpha1.ReasonExpertLost, 0
	case v1alpha1.ReasonExpertLost:
		switch {
		case said.found:
			return v1alpha1.ReasonFound, 0
		case jobGone:
			return v1alpha1.ReasonRenewing, 0
		}
		return v1alpha1.ReasonExpertLost, 0
	default: // Found, or there is no condition.
		switch {
		case !missed:
			return was.Reason, 0
		case was.Reason != "" && left(apart) > 0:
			return was.Reason, left(apart)
		}
		return v1alpha1.ReasonMissed, patience
	}
}

// stored makes sure that pods find the artifact that the status has: renewing
// says that its run is to be made once more. after is when to look again.
func (r *Reconciler) stored(ctx context.Context, expert *v1alpha1.ExpertVector) (renewing bool, after time.Duration, err error) {
	var policies v1alpha1.AdaptivePolicyList
	if err := r.Client.List(ctx, &policies, client.InNamespace(expert.Namespace),
		client.MatchingFields{index.ByExpert: expert.Name}); err != nil {
		return false, 0, fmt.Errorf("listing AdaptivePolicies: %w", err)
	}
	was := storedCondition(expert)
	job := jobOf(expert)
	gone := false
	if was.Reason == v1alpha1.ReasonExpertLost {
		if gone, err = r.jobGone(ctx, client.ObjectKey{Namespace: expert.Namespace, Name: job}); err != nil {
			return false, 0, err
		}
	}
	said := reports(policies.Items, expert.Name, expert.Status.Artifact.Digest)
	reason, after := judgeStored(was, said, gone, cmp.Or(r.Patience, DefaultPatience), time.Now())
	if reason != was.Reason {
		setStored(expert, reason, said.missedBy)
	}
	if reason == v1alpha1.ReasonRenewing && was.Reason != reason {
		expert.Status.Progress = nil
		return false, 0, begins() // The Job's name depends on the condition, which is written first.
	}
	if reason == v1alpha1.ReasonExpertLost {
		return false, 0, broken(expert, job)
	}
	return reason == v1alpha1.ReasonRenewing, after, nil
}

// begins says that a run begins once more; why is in the condition Stored.
func begins() error {
	return status.Wait(v1alpha1.ReasonExpertLost, "The run begins once more").Warn()
}

// broken says that making an artifact again does not help.
func broken(expert *v1alpha1.ExpertVector, job string) error {
	return status.Stall(v1alpha1.ReasonExpertLost,
		"%s. It should be at %s; look whether those pods mount that volume, and what removes files from it, then delete Job %s to make it once more",
		storedCondition(expert).Message, expert.Status.Artifact.URI, job)
}

// setStored writes the condition Stored with a reason, or removes it.
func setStored(expert *v1alpha1.ExpertVector, reason, policy string) {
	digest := expert.Status.Artifact.Digest
	missed := fmt.Sprintf("Pods of AdaptivePolicy %s do not find artifact %s in the volume", policy, digest)
	switch reason {
	case v1alpha1.ReasonMissed:
		status.Set(expert, v1alpha1.ConditionStored, false, reason, missed+"; it is made again if it stays away")
	case v1alpha1.ReasonRenewing:
		if policy == "" {
			missed = fmt.Sprintf("Pods did not find artifact %s in the volume", digest)
		}
		status.Set(expert, v1alpha1.ConditionStored, false, reason, missed+", so that it is made again")
	case v1alpha1.ReasonExpertLost:
		status.Set(expert, v1alpha1.ConditionStored, false, reason, missed+", though it was made again")
	case v1alpha1.ReasonRenewed:
		status.Set(expert, v1alpha1.ConditionStored, true, reason, fmt.Sprintf("Artifact %s has been made again", digest))
	case v1alpha1.ReasonFound:
		status.Set(expert, v1alpha1.ConditionStored, true, reason, fmt.Sprintf("Pods find artifact %s", digest))
	default:
		meta.RemoveStatusCondition(&expert.Status.Conditions, v1alpha1.ConditionStored)
	}
}

// acceptStored writes of an artifact that is about to be accepted that it has been
// made again, if it has: what was said of another run's is over.
func acceptStored(expert *v1alpha1.ExpertVector, run desired.Run) {
	was := expert.Status.Artifact
	if was != nil && was.RunID == run.ID && storedCondition(expert).Reason == v1alpha1.ReasonRenewing {
		setStored(expert, v1alpha1.ReasonRenewed, "")
		return
	}
	meta.RemoveStatusCondition(&expert.Status.Conditions, v1alpha1.ConditionStored)
}

// storedCondition is the condition Stored, or an empty one.
func storedCondition(expert *v1alpha1.ExpertVector) metav1.Condition {
	if c := meta.FindStatusCondition(expert.Status.Conditions, v1alpha1.ConditionStored); c != nil {
		return *c
	}
	return metav1.Condition{}
}

// renewed is the run by a Job of its own for each time that the artifact is lost.
func renewed(expert *v1alpha1.ExpertVector, run desired.Run) (desired.Run, error) {
	return run.Again(storedCondition(expert).LastTransitionTime.UTC().Format(time.RFC3339))
}

// jobOf is the Job that made the artifact, as far as it is remembered.
func jobOf(expert *v1alpha1.ExpertVector) string {
	for _, run := range expert.Status.Runs {
		if run.ID == expert.Status.Artifact.RunID {
			return run.JobName
		}
	}
	return ""
}

func (r *Reconciler) jobGone(ctx context.Context, key client.ObjectKey) (bool, error) {
	if key.Name == "" {
		return false, nil
	}
	err := r.Client.Get(ctx, key, &batchv1.Job{})
	if apierrors.IsNotFound(err) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("reading Job %s: %w", key.Name, err)
	}
	return false, nil
}
