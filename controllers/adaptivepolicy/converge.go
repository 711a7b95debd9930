package adaptivepolicy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/controllers/desired"
	"github.com/transformersquared/operator/controllers/outcome"
	"github.com/transformersquared/operator/controllers/podclient"
	"github.com/transformersquared/operator/runtime/contract"
)

// fields are those that remedies name.
var fields = outcome.Fields{
	At:   "spec.serving",
	Need: "need less by spec.serving.kvCache, contextLength, maxBatch or dtype",
}

// parallelPods is how many pods of one policy are asked at a time.
const parallelPods = 16

// observation is what a pod serves.
type observation struct {
	pod *corev1.Pod
	// current says that the pod serves the base as it is now, and reaches the volumes
	// of other bases whose experts it is to serve.
	current bool
	status  contract.ServingStatus
	// desired is the digest of the set that the pod was told to serve last, loaded
	// that of what it serves; loaded is the expected one only if all of it is served.
	desired, loaded string
	// loading says that the pod is loading the expected set, and that nothing is
	// wrong so far.
	loading bool
	// failure is why the pod does not serve the expected set, or not all of it.
	failure *contract.LoadError
	// missing are the experts of the expected set of which the pod could not load
	// what is asked for. It serves the others.
	missing []string
	// trouble says why the pod could not be asked, or what it could not load.
	trouble string
	// refused says that it is the latter, or that the pod does not take the set.
	refused bool
	// silent says that the pod runs and could not be asked, for that trouble.
	silent bool
	// beside says why the pod does not have the candidate of the expected set.
	beside string
	// starting says that the pod has yet to run.
	starting bool
	// reason and hindrance say what keeps the pod from starting.
	reason, hindrance string
}

// converge asks every pod what it serves, and offers the expected set to each
// that serves another one. Trouble with a pod is an observation, not an error.
func (r *Reconciler) converge(ctx context.Context, policy *v1alpha1.AdaptivePolicy, d deployment, chosen choice) ([]observation, error) {
	var pods corev1.PodList
	if err := r.Client.List(ctx, &pods, client.InNamespace(policy.Namespace),
		client.MatchingLabels(desired.PolicySelector(policy))); err != nil {
		return nil, fmt.Errorf("listing pods: %w", err)
	}
	var seen []observation
	for i := range pods.Items {
		pod := &pods.Items[i]
		over := pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
		if pod.DeletionTimestamp.IsZero() && !over {
			seen = append(seen, observation{pod: pod, current: d.run != "" && pod.Labels[v1alpha1.LabelRun] == d.run && reaches(pod, d.donors)})
		}
	}
	slices.SortFunc(seen, func(a, b observation) int { return cmp.Compare(a.pod.Name, b.pod.Name) })

	var group errgroup.Group
	group.SetLimit(parallelPods)
	for i := range seen {
		group.Go(func() error {
			r.converse(ctx, &seen[i], d.token, chosen)
			return nil
		})
	}
	_ = group.Wait() // converse returns no errors: it writes them down.
	return seen, r.warned(ctx, seen)
}

// converse asks one pod, and offers it the set if it was told to serve another.
// The pod answers at once and loads afterwards.
func (r *Reconciler) converse(ctx context.Context, o *observation, token string, chosen choice) {
	if o.reason, o.hindrance = outcome.Hindrance(o.pod, fields); o.hindrance != "" {
		o.trouble = o.hindrance
		return
	}
	if o.pod.Status.Phase != corev1.PodRunning {
		o.starting, o.trouble = true, "the pod is starting"
		return
	}
	var err error
	if o.status, err = r.Pods.ServingStatus(ctx, o.pod); err != nil {
		o.silent, o.trouble = !errors.Is(err, podclient.ErrNoAddress), unreachable(err)
		return
	}
	if o.current && (unaware(o.status, chosen.digest) || !has(o.status, chosen.set.Candidate)) {
		answer, err := r.Pods.PutExpertSet(ctx, o.pod, token, chosen.set)
		if err != nil {
			o.desired, o.loaded = o.status.DesiredDigest, o.status.ExpertSetDigest
			o.trouble, o.refused = err.Error(), podclient.Refused(err)
			return
		}
		o.status = answer
	}
	o.judge(chosen.digest)
	o.beside = besideTrouble(o.status, chosen.set.Candidate)
}

// unaware reports whether a pod has yet to be told to serve the expected set. A
// runtime that does not say what it was told serves it at once or not at all.
func unaware(s contract.ServingStatus, expected string) bool {
	return cmp.Or(s.DesiredDigest, s.ExpertSetDigest) != expected
}

// judge says how the pod stands to the expected set, by its own status.
func (o *observation) judge(expected string) {
	s := o.status
	o.desired, o.loaded = s.DesiredDigest, s.ExpertSetDigest
	switch {
	case !o.current:
		// It is on its way out, and only its troubles are of interest.
		if s.Error != nil {
			o.trouble = s.Error.Message
		}
	case o.loaded == expected:
	case unaware(s, expected):
		o.refused = true
		o.trouble = fmt.Sprintf("it was given expert set %s and reports that it was told to serve %q", expected, o.desired)
	case s.Error != nil:
		o.failure, o.refused, o.trouble = s.Error, true, s.Error.Message
		for _, e := range s.Experts {
			if e.State == contract.ExpertFailed {
				o.missing = append(o.missing, e.Name)
			}
		}
	default:
		o.loading = true
	}
}

func unreachable(err error) string {
	if errors.Is(err, podclient.ErrNoAddress) {
		return "the pod is starting"
	}
	return err.Error()
}
