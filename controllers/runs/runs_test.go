package runs

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/transformersquared/operator/api/v1alpha1"
)

func TestRemember(t *testing.T) {
	run := func(id, result string) v1alpha1.RunStatus { return v1alpha1.RunStatus{ID: id, Result: result} }
	five := []v1alpha1.RunStatus{run("5", "Crashed"), run("4", ""), run("3", ""), run("2", ""), run("1", "")}
	for _, tc := range []struct {
		name      string
		was, want []v1alpha1.RunStatus
		record    v1alpha1.RunStatus
	}{
		{"the first", nil, []v1alpha1.RunStatus{run("1", "")}, run("1", "")},
		{"the same, further on", []v1alpha1.RunStatus{run("1", "")}, []v1alpha1.RunStatus{run("1", "Succeeded")}, run("1", "Succeeded")},
		{
			"another supersedes one that goes on, and keeps what one came to",
			[]v1alpha1.RunStatus{run("2", ""), run("1", "Crashed")},
			[]v1alpha1.RunStatus{run("3", ""), run("2", ResultSuperseded), run("1", "Crashed")}, run("3", ""),
		},
		{"an earlier one again", []v1alpha1.RunStatus{run("2", "Crashed"), run("1", "Superseded")}, []v1alpha1.RunStatus{run("1", ""), run("2", "Crashed")}, run("1", "")},
		{
			"the oldest is forgotten", five,
			[]v1alpha1.RunStatus{run("6", ""), run("5", "Crashed"), run("4", ResultSuperseded), run("3", ResultSuperseded), run("2", ResultSuperseded)}, run("6", ""),
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := Remember(tc.was, tc.record)
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if latest := Latest(got); latest.ID != tc.record.ID {
				t.Errorf("the latest is %s", latest.ID)
			}
		})
	}
	if Latest(nil) != nil {
		t.Error("there is a latest run of none")
	}
}
