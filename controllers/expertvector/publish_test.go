package expertvector

import (
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/controllers/desired"
	"github.com/transformersquared/operator/controllers/outcome"
	"github.com/transformersquared/operator/controllers/runs"
	"github.com/transformersquared/operator/controllers/status"
	"github.com/transformersquared/operator/controllers/status/statustest"
	"github.com/transformersquared/operator/runtime/contract"
)

const registryPlace = "registry.example.org/experts/math:v1"

// publishing is a trained expert that goes to a registry, as the changes make it.
func publishing(change ...func(*v1alpha1.ExpertVector)) *v1alpha1.ExpertVector {
	e := trained(change...)
	e.Spec.Publish = &v1alpha1.ExpertPublish{OCI: v1alpha1.OCIDestination{Reference: registryPlace}}
	return e
}

func published(e *v1alpha1.ExpertVector) {
	e.Status.Published = &v1alpha1.PublishedArtifact{
		Reference: registryPlace, Digest: digest("c"), ArtifactDigest: e.Status.Artifact.Digest, Time: metav1.Now(),
	}
}

func pushResult(artifact string) outcome.Outcome {
	return outcome.Outcome{State: outcome.Succeeded, Seen: true, Results: map[string]contract.Termination{
		desired.ContainerPublish: {Expert: &contract.ExpertResult{Artifact: artifact, Evaluation: string(digest("d"))}},
	}}
}

// pushMessages are those of the condition Published.
func pushMessages(t *testing.T) []statustest.Message {
	t.Helper()
	r := &Reconciler{Client: clientOf(t)}
	condition := func(name string, e *v1alpha1.ExpertVector) statustest.Message {
		if _, err := r.publish(t.Context(), e); err != nil {
			t.Fatal(err)
		}
		c := meta.FindStatusCondition(e.Status.Conditions, v1alpha1.ConditionPublished)
		return statustest.Message{Case: name + " (Published)", Ready: c.Status == metav1.ConditionTrue, Reason: c.Reason, Text: c.Message}
	}
	job := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: "math-2"}}
	mute := r.pushed(t.Context(), publishing(), desired.Run{}, job, pushResult(""))
	running := r.pushed(t.Context(), publishing(), desired.Run{}, job, outcome.Outcome{State: outcome.Running})
	return []statustest.Message{
		condition("there is nothing to push yet", publishing(func(e *v1alpha1.ExpertVector) { e.Status.Artifact = nil })),
		condition("what is to be pushed is missed", publishing(func(e *v1alpha1.ExpertVector) { setStored(e, v1alpha1.ReasonMissed, "assistant") })),
		condition("the base is not there", publishing()),
		condition("it has been pushed", publishing(published)),
		statustest.Of("the runtime does not say what it pushed (Published)", status.Ready{}, mute),
		statustest.Of("it is pushed (Published)", status.Ready{}, running),
	}
}

// What has been pushed is pushed again when the artifact is another, or the place.
func TestAPushIsDoneForOneArtifactAndPlace(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(*v1alpha1.ExpertVector)
		want   string
	}{
		{"it has been pushed", func(*v1alpha1.ExpertVector) {}, v1alpha1.ReasonPublished},
		{"a new artifact", func(e *v1alpha1.ExpertVector) { e.Status.Artifact.Digest = digest("f") }, v1alpha1.ReasonBaseNotFound},
		{"another tag", func(e *v1alpha1.ExpertVector) { e.Status.Published.Reference = "registry.example.org/experts/math:v0" }, v1alpha1.ReasonBaseNotFound},
		{"other credentials", func(e *v1alpha1.ExpertVector) { e.Spec.Publish.OCI.PushSecretRef = &v1alpha1.SecretRef{Name: "push"} }, v1alpha1.ReasonPublished},
		{"a new run goes on", func(e *v1alpha1.ExpertVector) { e.Generation++ }, v1alpha1.ReasonPublished},
	} {
		t.Run(tc.name, func(t *testing.T) {
			e := publishing(published)
			tc.change(e)
			if _, err := (&Reconciler{Client: clientOf(t)}).publish(t.Context(), e); err != nil {
				t.Fatal(err)
			}
			if c := meta.FindStatusCondition(e.Status.Conditions, v1alpha1.ConditionPublished); c.Reason != tc.want {
				t.Errorf("%s, want %s: %s", c.Reason, tc.want, c.Message)
			}
		})
	}
}

func TestAPushIsRecorded(t *testing.T) {
	e := publishing()
	job := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: "math-2"}}
	if err := (&Reconciler{}).pushed(t.Context(), e, desired.Run{ID: "push-1"}, job, pushResult(string(digest("c")))); err != nil {
		t.Fatal(err)
	}
	p := e.Status.Published
	if p == nil || p.Digest != digest("c") || p.ArtifactDigest != digest("e") || p.EvaluationDigest != digest("d") || p.Reference != registryPlace || p.Time.IsZero() {
		t.Errorf("published: %+v", p)
	}
	if run := e.Status.PublishRun; run == nil || run.ID != "push-1" || run.Result != runs.ResultSucceeded {
		t.Errorf("run: %+v", run)
	}
	if e.Status.Artifact.RunID != "run-1" || len(e.Status.Runs) != 0 {
		t.Errorf("the expert's own run is %s, of %d", e.Status.Artifact.RunID, len(e.Status.Runs))
	}
}

// What a reconciliation came to stays; it is looked at again as soon as any part asks for.
func TestSooner(t *testing.T) {
	waits := status.Wait("A", "x").Again(time.Minute)
	for _, tc := range []struct {
		name  string
		ready status.Ready
		err   error
		after time.Duration
		want  time.Duration
	}{
		{"a push that asks for nothing", status.Ready{After: time.Minute}, nil, 0, time.Minute},
		{"it is Ready", status.Ready{}, nil, time.Second, time.Second},
		{"it is Ready and asks for more", status.Ready{After: time.Millisecond}, nil, time.Second, time.Millisecond},
		{"it waits", status.Ready{}, waits, time.Second, time.Second},
		{"it stalls", status.Ready{}, status.Stall("B", "y"), time.Second, time.Second},
	} {
		t.Run(tc.name, func(t *testing.T) {
			before := statustest.Verdict(tc.err)
			ready, err := sooner(tc.ready, tc.err, tc.after)
			if got := statustest.Verdict(err); got != before {
				t.Errorf("%q, was %q", got, before)
			}
			if got := status.Judge(ready, err).After; got != tc.want {
				t.Errorf("after %v, want %v", got, tc.want)
			}
		})
	}
}
