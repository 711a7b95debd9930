package desired

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/transformersquared/operator/api/v1alpha1"
)

// publishing is an expert that is there and goes to a registry, as the changes make it.
func publishing(change ...func(*v1alpha1.ExpertVector)) *v1alpha1.ExpertVector {
	e := expertVector()
	e.Spec.Publish = &v1alpha1.ExpertPublish{OCI: v1alpha1.OCIDestination{
		Reference: "registry.example.org/experts/math:v1", PushSecretRef: &v1alpha1.SecretRef{Name: "push"},
	}}
	e.Status.Artifact = &v1alpha1.ExpertArtifact{Digest: v1alpha1.Digest(digest("e"))}
	for _, c := range change {
		c(e)
	}
	return e
}

// A push reads the volume and has the Secret's credentials in its environment alone.
func TestAPushWhole(t *testing.T) {
	run, err := Publish(publishing(), baseModel(), settings)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"push"}, run.Secrets); diff != "" {
		t.Error(diff)
	}
	compareGolden(t, "publish", run.Job)
}

// A push is another when something else is pushed, or elsewhere; not when the expert is
// trained otherwise, nor when other credentials are given, which make another Job.
func TestAPushIsAnotherForWhatIsPushedAndWhere(t *testing.T) {
	first, err := Publish(publishing(), baseModel(), settings)
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		change           func(*v1alpha1.ExpertVector)
		sameRun, sameJob bool
	}{
		"another artifact": {func(e *v1alpha1.ExpertVector) { e.Status.Artifact.Digest = v1alpha1.Digest(digest("f")) }, false, false},
		"another tag":      {func(e *v1alpha1.ExpertVector) { e.Spec.Publish.OCI.Reference = "registry.example.org/experts/math:v2" }, false, false},
		"without TLS":      {func(e *v1alpha1.ExpertVector) { e.Spec.Publish.OCI.Insecure = new(true) }, false, false},
		"another Secret":   {func(e *v1alpha1.ExpertVector) { e.Spec.Publish.OCI.PushSecretRef.Name = "other" }, true, false},
		"another seed":     {func(e *v1alpha1.ExpertVector) { e.Spec.Training.Seed = new(int64(9)) }, true, true},
		"another skill":    {func(e *v1alpha1.ExpertVector) { e.Spec.Skill = "sums" }, true, true},
	} {
		run, err := Publish(publishing(tc.change), baseModel(), settings)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if (run.ID == first.ID) != tc.sameRun || (run.JobName == first.JobName) != tc.sameJob {
			t.Errorf("%s: run %s by Job %s, was %s by %s", name, run.ID, run.JobName, first.ID, first.JobName)
		}
	}
	training := func(e *v1alpha1.ExpertVector) string {
		run, err := Expert(e, baseModel(), nil, settings)
		if err != nil {
			t.Fatal(err)
		}
		return run.JobName
	}
	if with, without := training(publishing()), training(publishing(func(e *v1alpha1.ExpertVector) { e.Spec.Publish = nil })); with != without {
		t.Errorf("an expert that is published is trained by %s, else by %s", with, without)
	}
	for _, change := range []func(*v1alpha1.ExpertVector){
		func(e *v1alpha1.ExpertVector) { e.Spec.Publish = nil }, func(e *v1alpha1.ExpertVector) { e.Status.Artifact = nil },
	} {
		if _, err := Publish(publishing(change), baseModel(), settings); err == nil {
			t.Error("nothing is published")
		}
	}
}
