package expertvector

import (
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/controllers/desired"
	"github.com/transformersquared/operator/runtime/contract"
)

func TestJudgeStored(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	const patience = time.Minute
	missed, found := report{missedBy: "assistant"}, report{found: true}
	for _, tc := range []struct {
		name    string
		was     string
		since   time.Duration // How long the condition has had its status.
		said    report
		jobGone bool
		want    string
		after   time.Duration
	}{
		{name: "nobody speaks of it"},
		{name: "pods serve it", said: found},
		{name: "pods miss it", said: missed, want: v1alpha1.ReasonMissed, after: patience},
		{name: "they have missed it for a moment", was: v1alpha1.ReasonMissed, since: 59 * time.Second, said: missed, want: v1alpha1.ReasonMissed, after: time.Second},
		{name: "they have missed it long enough", was: v1alpha1.ReasonMissed, since: patience, said: missed, want: v1alpha1.ReasonRenewing},
		{name: "it came late", was: v1alpha1.ReasonMissed, since: 30 * time.Second, said: found, want: v1alpha1.ReasonFound},
		{name: "the pods that missed it are gone", was: v1alpha1.ReasonMissed, since: time.Hour},
		{name: "its run goes on, and they miss it", was: v1alpha1.ReasonRenewing, since: time.Hour, said: missed, want: v1alpha1.ReasonRenewing},
		{name: "its run goes on, and nobody speaks of it", was: v1alpha1.ReasonRenewing, want: v1alpha1.ReasonRenewing},
		{name: "made again, they have yet to look", was: v1alpha1.ReasonRenewed, since: time.Minute, said: missed, want: v1alpha1.ReasonRenewed, after: 2 * time.Minute},
		{name: "made again and found", was: v1alpha1.ReasonRenewed, since: time.Minute, said: found, want: v1alpha1.ReasonFound},
		{name: "made again, nobody looks", was: v1alpha1.ReasonRenewed, since: time.Hour, want: v1alpha1.ReasonRenewed},
		{name: "made again in vain", was: v1alpha1.ReasonRenewed, since: 3 * patience, said: missed, want: v1alpha1.ReasonExpertLost},
		{name: "in vain, and days later", was: v1alpha1.ReasonExpertLost, since: 72 * time.Hour, said: missed, want: v1alpha1.ReasonExpertLost},
		{name: "in vain, and nobody looks any more", was: v1alpha1.ReasonExpertLost, want: v1alpha1.ReasonExpertLost},
		{name: "the volume was mended", was: v1alpha1.ReasonExpertLost, said: found, want: v1alpha1.ReasonFound},
		{name: "its user deletes the Job", was: v1alpha1.ReasonExpertLost, said: missed, jobGone: true, want: v1alpha1.ReasonRenewing},
		{name: "a Job that is gone says nothing of what is found", was: v1alpha1.ReasonFound, said: found, jobGone: true, want: v1alpha1.ReasonFound},
		{name: "lost again soon", was: v1alpha1.ReasonFound, since: 4 * time.Minute, said: missed, want: v1alpha1.ReasonFound, after: 6 * time.Minute},
		{name: "lost again later", was: v1alpha1.ReasonFound, since: 10 * time.Minute, said: missed, want: v1alpha1.ReasonMissed, after: patience},
	} {
		t.Run(tc.name, func(t *testing.T) {
			was := metav1.Condition{Reason: tc.was, LastTransitionTime: metav1.NewTime(now.Add(-tc.since))}
			reason, after := judgeStored(was, tc.said, tc.jobGone, patience, now)
			if reason != tc.want || after != tc.after {
				t.Errorf("%q after %v, want %q after %v", reason, after, tc.want, tc.after)
			}
		})
	}
}

// However the volume behaves, two renewals are never closer than some minutes,
// and one that helps nobody is the last.
func TestRenewalsAreFewOnABrokenVolume(t *testing.T) {
	const patience = time.Minute
	for name, says := range map[string]struct {
		said func(second int) report
		most int
	}{
		"it is never found": {func(int) report { return report{missedBy: "assistant"} }, 1},
		"it comes and goes": {func(second int) report {
			if second/90%2 == 0 {
				return report{missedBy: "assistant"}
			}
			return report{found: true}
		}, 6},
		"it is found a moment after each time": {func(second int) report {
			if second%300 < 10 {
				return report{found: true}
			}
			return report{missedBy: "assistant"}
		}, 6},
	} {
		e, start := trained(), time.Date(2026, 1, 2, 3, 0, 0, 0, time.UTC)
		var was metav1.Condition
		renewals := 0
		last := start.Add(-time.Hour)
		for second := range 3600 {
			now := start.Add(time.Duration(second) * time.Second)
			reason, _ := judgeStored(was, says.said(second), false, patience, now)
			if reason == v1alpha1.ReasonRenewing { // It is made at once.
				if now.Sub(last) < apart*patience && renewals > 0 {
					t.Errorf("%s: made again after %v", name, now.Sub(last))
				}
				renewals, last, reason = renewals+1, now, v1alpha1.ReasonRenewed
			}
			if reason != was.Reason {
				setStored(e, reason, "assistant")
				next := storedCondition(e)
				if next.Status == was.Status {
					next.LastTransitionTime = was.LastTransitionTime
				} else {
					next.LastTransitionTime = metav1.NewTime(now)
				}
				was = next
			}
		}
		if renewals == 0 || renewals > says.most {
			t.Errorf("%s: made again %d times in an hour", name, renewals)
		}
	}
}

func TestReports(t *testing.T) {
	says := func(name string, state v1alpha1.ExpertState, of v1alpha1.Digest, current, total int32) v1alpha1.AdaptivePolicy {
		return v1alpha1.AdaptivePolicy{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: v1alpha1.AdaptivePolicyStatus{
			Experts:   []v1alpha1.PolicyExpertStatus{{Name: "code", State: v1alpha1.ExpertLost, Digest: of}, {Name: "math", State: state, Digest: of}},
			PodCounts: &v1alpha1.PodCounts{Current: &current, Total: &total},
		}}
	}
	ending := says("a", v1alpha1.ExpertLost, digest("e"), 0, 1)
	ending.DeletionTimestamp = new(metav1.Now())
	for _, tc := range []struct {
		name     string
		policies []v1alpha1.AdaptivePolicy
		want     report
	}{
		{"there is no policy", nil, report{}},
		{"one misses it", []v1alpha1.AdaptivePolicy{says("a", v1alpha1.ExpertLost, digest("e"), 1, 2)}, report{missedBy: "a"}},
		{"one misses the artifact before", []v1alpha1.AdaptivePolicy{says("a", v1alpha1.ExpertLost, digest("7"), 0, 1)}, report{}},
		{"one that is being deleted misses it", []v1alpha1.AdaptivePolicy{ending}, report{}},
		{"all pods of one serve it", []v1alpha1.AdaptivePolicy{says("a", v1alpha1.ExpertServed, digest("e"), 2, 2)}, report{found: true}},
		{"the run before ended in nothing, and all pods serve it", []v1alpha1.AdaptivePolicy{says("a", v1alpha1.ExpertUpdating, digest("e"), 2, 2)}, report{found: true}},
		{"not all of them do", []v1alpha1.AdaptivePolicy{says("a", v1alpha1.ExpertLoading, digest("e"), 1, 2)}, report{}},
		{"there is no pod", []v1alpha1.AdaptivePolicy{says("a", v1alpha1.ExpertLoading, digest("e"), 0, 0)}, report{}},
		{
			"one finds it, two do not",
			[]v1alpha1.AdaptivePolicy{
				says("c", v1alpha1.ExpertLost, digest("e"), 0, 1), says("a", v1alpha1.ExpertServed, digest("e"), 1, 1),
				says("b", v1alpha1.ExpertLost, digest("e"), 0, 1),
			},
			report{missedBy: "b"},
		},
	} {
		if got := reports(tc.policies, "math", digest("e")); got != tc.want {
			t.Errorf("%s: %+v, want %+v", tc.name, got, tc.want)
		}
	}
}

func TestAnAcceptedArtifactIsStored(t *testing.T) {
	result := &contract.ExpertResult{
		Digest: string(digest("e")), BaseDigest: string(digest("a")), DecompositionDigest: string(digest("b")),
	}
	for _, tc := range []struct{ name, was, run, want string }{
		{"it was made again", v1alpha1.ReasonRenewing, "run-1", v1alpha1.ReasonRenewed},
		{"it is another run's", v1alpha1.ReasonRenewing, "run-2", ""},
		{"it was missed, and its user asked for another", v1alpha1.ReasonMissed, "run-2", ""},
		{"it is the first", "", "run-1", ""},
	} {
		e := trained()
		if tc.was != "" {
			setStored(e, tc.was, "assistant")
		}
		if err := accept(e, readyBase(), desired.Run{ID: tc.run}, result); err != nil {
			t.Fatal(err)
		}
		if got := storedCondition(e).Reason; got != tc.want {
			t.Errorf("%s: %q, want %q", tc.name, got, tc.want)
		}
	}
}
