package plugin

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/charmbracelet/x/ansi"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/yaml"

	"github.com/transformersquared/operator/api/v1alpha1"
)

func TestStatusShowsTheTree(t *testing.T) {
	for _, width := range []int{0, 80, 130} {
		t.Run(fmt.Sprint(width), func(t *testing.T) {
			r := newRig(t, team()...)
			if width > 0 {
				r.terminal(width, 40)
			}
			out, _, code := r.run(t, "status")
			if code != exitOK {
				t.Errorf("status %d", code)
			}
			for l := range strings.Lines(out) {
				if w := ansi.StringWidth(strings.TrimRight(l, "\n")); width > 0 && w >= width {
					t.Errorf("a line has %d cells: %s", w, l)
				}
			}
			golden(t, fmt.Sprintf("status-%d.txt", width), out)
		})
	}
}

func TestStatusOfOneObject(t *testing.T) {
	r := newRig(t, team()...)
	for _, test := range []struct {
		target    string
		has, lack []string
		code      int
	}{
		{"expert/math", []string{"base tiny", "expert math", "policy demo"}, []string{"expert code", "base large"}, exitOK},
		{"experts/code", []string{"base tiny", "expert code", "policy demo"}, []string{"expert math"}, exitFailed},
		{"expertvector.transformersquared.dev/new", []string{"expert new", "NotSeen"}, []string{"policy demo"}, exitFailed},
		{"apolicy/demo", []string{"base tiny", "expert math", "expert code", "policy demo"}, []string{"expert new"}, exitFailed},
		{"basemodel/tiny", []string{"base tiny", "expert new", "policy demo"}, []string{"base large"}, exitOK},
		{"expert/orphan", []string{"base gone", "NotFound", "expert orphan"}, nil, exitOK},
	} {
		t.Run(test.target, func(t *testing.T) {
			out, err, code := r.run(t, "status", test.target, "--exit-code")
			if code != test.code || err != "" {
				t.Errorf("status %d, %s", code, err)
			}
			for _, text := range test.has {
				if !strings.Contains(out, text) {
					t.Errorf("%q is missing in\n%s", text, out)
				}
			}
			for _, text := range test.lack {
				if strings.Contains(out, text) {
					t.Errorf("%q is in\n%s", text, out)
				}
			}
		})
	}
	if _, err, code := r.run(t, "status", "expert/none"); code != exitFailed || !strings.Contains(err, "there is no ExpertVector none in namespace team") {
		t.Errorf("status %d: %s", code, err)
	}
}

func TestStatusOfAllNamespaces(t *testing.T) {
	other := base("tiny")
	other.Namespace = "other"
	out, _, _ := newRig(t, base("tiny"), other).run(t, "status", "-A")
	if !strings.HasPrefix(out, "Namespace other\nbase tiny") || !strings.Contains(out, "\nNamespace team\nbase tiny") {
		t.Errorf("%s", out)
	}
	out, err, code := newRig(t).run(t, "status")
	if out != "" || code != exitOK || !strings.Contains(err, "There is no BaseModel") {
		t.Errorf("of nothing: status %d, %q, %q", code, out, err)
	}
}

func TestStatusForPrograms(t *testing.T) {
	r := newRig(t, team()...)
	type tree struct {
		Roots []struct {
			Kind, Name, Reason string
			Ready              bool
			Children           []struct{ Kind, Name, Reason, Message string }
		}
	}
	check := func(out string, decode func([]byte, any) error) {
		t.Helper()
		var got tree
		if err := decode([]byte(out), &got); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		if len(got.Roots) != 4 || got.Roots[3].Name != "tiny" || !got.Roots[3].Ready || len(got.Roots[3].Children) != 5 {
			t.Errorf("%+v", got)
		}
	}
	out, _, _ := r.run(t, "status", "-o", "json")
	check(out, json.Unmarshal)
	out, _, _ = r.run(t, "status", "-o", "yaml")
	check(out, func(b []byte, into any) error { return yaml.Unmarshal(b, into) })
}

// TestStatusSurvivesOddObjects: what the schema forbids and a client may meet all the same.
func TestStatusSurvivesOddObjects(t *testing.T) {
	deleted := base("leaving")
	deleted.DeletionTimestamp, deleted.Finalizers = new(at(1)), []string{"x/y"}
	deleted.Status.Conditions = []metav1.Condition{condition(v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonInUse, "ExpertVector math uses it")}
	odd := expert("odd", "")
	odd.Status.Score, odd.Status.BaselineScore = "NaN", "x"
	odd.Status.Progress = &v1alpha1.TrainingProgress{Iteration: new(int32(-3)), Iterations: -1}
	odd.Status.Artifact = &v1alpha1.ExpertArtifact{SizeBytes: -5, Digest: "x"}
	odd.Spec.Training = nil
	strange := policy("strange", "none")
	strange.Status = v1alpha1.AdaptivePolicyStatus{
		Experts: []v1alpha1.PolicyExpertStatus{{}}, FewShot: &v1alpha1.FewShotStatus{Progress: &v1alpha1.FewShotProgress{}},
		Probe: &v1alpha1.ProbeStatus{Progress: &v1alpha1.ProbeProgress{}}, Classifier: &v1alpha1.PolicyClassifier{}, Adaptation: &v1alpha1.AdaptationStatus{},
	}
	half := base("half")
	half.Status.Progress = &v1alpha1.StepProgress{Step: "Decomposing", Done: new(int64(9)), Total: new(int64(3))}
	r := newRig(t, deleted, odd, strange, half, &v1alpha1.BaseModel{ObjectMeta: object("empty")}, &v1alpha1.ExpertVector{ObjectMeta: object("empty")}, &v1alpha1.AdaptivePolicy{ObjectMeta: object("empty")})
	for _, width := range []int{1, 20, 80} {
		r.terminal(width, 2)
		if _, err, code := r.run(t, "status"); code != exitOK || err != "" {
			t.Errorf("status %d, %s", code, err)
		}
	}
	r.env.Size = nil
	out, _, _ := r.run(t, "status")
	for _, text := range []string{"InUse", "ExpertVector math uses it", "NotSeen", "NotFound"} {
		if !strings.Contains(out, text) {
			t.Errorf("%q is missing in\n%s", text, out)
		}
	}
	if _, err, code := r.run(t, "diff", "odd", "empty"); code != exitOK || err != "" {
		t.Errorf("diff: status %d, %s", code, err)
	}
}

func TestStatusWaits(t *testing.T) {
	r := newRig(t, base("tiny"), training("code", "tiny"))
	r.finishOnceSeen(t, "code")
	if out, _, code := r.run(t, "status", "expert/code", "--wait", "1h"); code != exitOK || !strings.Contains(out, "✓ Succeeded   0.9219") {
		t.Errorf("status %d\n%s", code, out)
	}
	r = newRig(t, training("code", "tiny"))
	if _, _, code := r.run(t, "status", "--wait", "1ms"); code != exitFailed {
		t.Errorf("after the wait status %d", code)
	}
	if _, err, code := r.run(t, "status", "expert/later", "--wait", "1ms"); code != exitFailed || !strings.Contains(err, "after 1ms") {
		t.Errorf("of what does not come: status %d, %s", code, err)
	}
	// A wait that went on would end with the command's context, which is told.
	if _, err, code := newRig(t, team()...).run(t, "status", "--wait", "1h"); code != exitFailed || err != "" {
		t.Errorf("of what is stalled: status %d, %s", code, err)
	}
}

func TestFailuresOfTheClusterSayWhatToDo(t *testing.T) {
	r := newRig(t, team()...)
	r.cluster.Client = interceptor.NewClient(r.cluster.Client.(client.WithWatch), interceptor.Funcs{
		List: func(context.Context, client.WithWatch, client.ObjectList, ...client.ListOption) error {
			return apierrors.NewForbidden(schema.GroupResource{Group: v1alpha1.GroupName, Resource: "basemodels"}, "", fmt.Errorf("no"))
		},
	})
	if _, err, code := r.run(t, "status"); code != exitFailed || !strings.Contains(err, "is forbidden") || !strings.HasPrefix(err, "kubectl-t2: listing ") {
		t.Errorf("status %d: %s", code, err)
	}
}
