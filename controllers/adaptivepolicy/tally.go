package adaptivepolicy

import (
	"cmp"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/controllers/status"
	"github.com/transformersquared/operator/runtime/contract"
)

// How many numbers a pod counts in each kind of trial: of a canary, as many for each side, and
// behind those of both how many answers were marked right and wrong.
const (
	sideCounts    = 4
	outcomeCounts = 2
	canaryCounts  = 2 * (sideCounts + outcomeCounts)
	observeCounts = 4
)

// maxTrialPods and maxPairs bound what is listed, and gonePods is the name of those together
// that have gone.
const (
	maxTrialPods = 64
	maxPairs     = 8
	gonePods     = "gone"
)

// tally adds up what the pods of a trial have counted. A pod counts from 0 when it starts again:
// what it had counted before, as far as it is known, goes to those that have gone. numbers
// returns what a pod says, false where it says nothing of this trial. known is what was there
// before, sum the totals.
func tally(known []v1alpha1.TrialPod, seen []observation, numbers func(contract.ServingStatus) ([]int64, bool), counts int) (pods []v1alpha1.TrialPod, sum []int64) {
	gone := v1alpha1.TrialPod{Name: gonePods, Counts: make([]int64, counts)}
	before := map[string]v1alpha1.TrialPod{}
	for _, p := range known {
		if len(p.Counts) <= counts { // An operator of before has counted less.
			p.Counts = append(slices.Clone(p.Counts), make([]int64, counts-len(p.Counts))...)
			before[p.Name] = p
		}
	}
	leave := func(p v1alpha1.TrialPod) { add(gone.Counts, p.Counts) }
	for i := range seen {
		o := &seen[i]
		was, has := before[o.pod.Name]
		delete(before, o.pod.Name)
		says, ok := numbers(o.status)
		if !ok {
			if has {
				pods = append(pods, was)
			}
			continue
		}
		is := v1alpha1.TrialPod{Name: o.pod.Name, Since: metav1.NewTime(o.status.Candidate.Since).Rfc3339Copy(), Counts: says}
		if has && !was.Since.Time.Equal(is.Since.Time) {
			leave(was)
		}
		pods = append(pods, is)
	}
	for _, p := range before { // Those that have gone before, too.
		leave(p)
	}
	sum = slices.Clone(gone.Counts)
	for _, p := range pods {
		add(sum, p.Counts)
	}
	slices.SortFunc(pods, func(a, b v1alpha1.TrialPod) int { return cmp.Compare(a.Name, b.Name) })
	if slices.Max(gone.Counts) > 0 {
		pods = slices.Insert(pods, 0, gone)
	}
	return pods[:min(len(pods), maxTrialPods)], sum
}

func add(to, counts []int64) {
	for i, n := range counts {
		to[i] += n
	}
}

// compared are the numbers of a canary.
func compared(c *contract.CandidateSet) func(contract.ServingStatus) ([]int64, bool) {
	return func(s contract.ServingStatus) ([]int64, bool) {
		if !counts(s, c) {
			return nil, false
		}
		var all []int64
		for _, n := range []contract.SideCounts{s.Candidate.Stable, s.Candidate.Candidate} {
			all = append(all, n.Requests, n.Errors, n.Fallbacks, int64(1000*n.FirstTokenSeconds))
		}
		for _, n := range []contract.SideCounts{s.Candidate.Stable, s.Candidate.Candidate} {
			o := cmp.Or(n.Outcomes, &contract.Outcomes{})
			all = append(all, o.Right, o.Wrong)
		}
		return all, true
	}
}

// observed are the numbers of an observation.
func observed(c *contract.CandidateSet) func(contract.ServingStatus) ([]int64, bool) {
	return func(s contract.ServingStatus) ([]int64, bool) {
		if !counts(s, c) || s.Candidate.Observed == nil {
			return nil, false
		}
		o := s.Candidate.Observed
		return []int64{o.Compared, o.Different, o.Failed, o.Dropped}, true
	}
}

// counts reports whether a pod counts for this candidate, whatever its share is.
func counts(s contract.ServingStatus, c *contract.CandidateSet) bool {
	return s.Candidate != nil && s.Candidate.Digest == setDigest(c.Set) && s.Candidate.Mode == c.Mode && !s.Candidate.Since.IsZero()
}

// sideStatuses are what both sides have counted; nil is nothing.
func sideStatuses(n []int64) (stable, candidate v1alpha1.SideStatus) {
	if n == nil {
		n = make([]int64, canaryCounts)
	}
	outcomes := n[2*sideCounts:]
	return sideStatus(n[:sideCounts], outcomes[:outcomeCounts]), sideStatus(n[sideCounts:2*sideCounts], outcomes[outcomeCounts:])
}

func sideStatus(n, outcomes []int64) v1alpha1.SideStatus {
	s := v1alpha1.SideStatus{Requests: new(n[0]), Errors: new(n[1]), Fallbacks: new(n[2])}
	if answered := n[0] - n[1]; answered > 0 {
		s.FirstTokenMilliseconds = new(n[3] / answered)
	}
	if slices.Max(outcomes) > 0 {
		s.Right, s.Wrong = new(outcomes[0]), new(outcomes[1])
	}
	return s
}

// decisionPairs are the most frequent choices that differed, of the pods that are there.
func decisionPairs(c *contract.CandidateSet, seen []observation) []v1alpha1.DecisionPair {
	type names struct{ stable, candidate string }
	sum := map[names]int64{}
	for i := range seen {
		s := seen[i].status
		if !counts(s, c) || s.Candidate.Observed == nil {
			continue
		}
		for _, p := range s.Candidate.Observed.Pairs {
			sum[names{status.Clip(p.Stable, maxChoice), status.Clip(p.Candidate, maxChoice)}] += p.Requests
		}
	}
	var pairs []v1alpha1.DecisionPair
	for n, requests := range sum {
		if n.stable != "" && n.candidate != "" && requests > 0 {
			pairs = append(pairs, v1alpha1.DecisionPair{Stable: n.stable, Candidate: n.candidate, Requests: requests})
		}
	}
	slices.SortFunc(pairs, func(a, b v1alpha1.DecisionPair) int {
		return cmp.Or(cmp.Compare(b.Requests, a.Requests), cmp.Compare(a.Stable, b.Stable), cmp.Compare(a.Candidate, b.Candidate))
	})
	return pairs[:min(len(pairs), maxPairs)]
}
