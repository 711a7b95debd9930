package plugin

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/controllers/kubectl-t2/internal/tunnel/tunneltest"
	"github.com/transformersquared/operator/runtime/contract"
)

var update = flag.Bool("update", false, "write the golden files anew")

const namespace = "team"

// rig runs commands against objects and pods that answer.
type rig struct {
	cluster *Cluster
	env     *Env
	// ports are the addresses of pods' ports.
	ports    map[string]string
	api      *tunneltest.Server // Once a pod is reached through a tunnel.
	out, err bytes.Buffer
}

func newRig(t *testing.T, objects ...client.Object) *rig {
	t.Helper()
	scheme, err := Scheme()
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{ports: map[string]string{}}
	r.cluster = &Cluster{
		Client:    fake.NewClientBuilder().WithScheme(scheme).WithObjects(objects...).Build(),
		Namespace: namespace,
		Dial: func(ctx context.Context, pod types.NamespacedName, port int) (net.Conn, error) {
			address, ok := r.ports[pod.Name+":"+strconv.Itoa(port)]
			if !ok {
				return nil, fmt.Errorf("port %d of pod %s: connection refused", port, pod)
			}
			return (&net.Dialer{}).DialContext(ctx, "tcp", address)
		},
	}
	now := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	r.env = &Env{
		Stdin: strings.NewReader(""), Stdout: &r.out, Stderr: &r.err, Now: func() time.Time { return now },
		Connect: func(context.Context, *Flags) (*Cluster, error) { return r.cluster, nil },
	}
	return r
}

// run runs a command line and returns what it prints and how it ends.
func (r *rig) run(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	r.out.Reset()
	r.err.Reset()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	code = Run(ctx, r.env, args)
	return r.out.String(), r.err.String(), code
}

// finishOnceSeen ends a training when the command has listed experts for the first time.
func (r *rig) finishOnceSeen(t *testing.T, name string) {
	seen, direct := false, r.cluster.Client.(client.WithWatch)
	r.cluster.Client = interceptor.NewClient(direct, interceptor.Funcs{
		List: func(ctx context.Context, c client.WithWatch, list client.ObjectList, options ...client.ListOption) error {
			if err := c.List(ctx, list, options...); err != nil {
				return err
			}
			if _, ok := list.(*v1alpha1.ExpertVectorList); ok && !seen {
				seen = true
				r.finish(t, name)
			}
			return nil
		},
	})
}

// finish ends a training.
func (r *rig) finish(t *testing.T, name string) {
	ctx := context.WithoutCancel(t.Context())
	var e v1alpha1.ExpertVector
	if err := r.cluster.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, &e); err != nil {
		t.Error(err)
	}
	e.Status = expert(name, "tiny").Status
	if err := r.cluster.Update(ctx, &e); err != nil {
		t.Error(err)
	}
}

// terminal makes the output one of this size.
func (r *rig) terminal(width, height int) { r.env.Size = func() (int, int) { return width, height } }

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v: go test -update writes it", err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s is another (go test -update writes it anew):\n%s", path, diff)
	}
}

func digest(digit string) v1alpha1.Digest {
	return v1alpha1.Digest(contract.DigestPrefix + strings.Repeat(digit, 64))
}

func object(name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Name: name, Namespace: namespace, Generation: 2}
}

// condition is one of the generation that object has.
func condition(kind string, status metav1.ConditionStatus, reason, message string) metav1.Condition {
	return metav1.Condition{Type: kind, Status: status, Reason: reason, Message: message, ObservedGeneration: 2}
}

func ready(reason string) []metav1.Condition {
	return []metav1.Condition{condition(v1alpha1.ConditionReady, metav1.ConditionTrue, reason, "All is well")}
}

func held(kind, reason, message string) []metav1.Condition {
	return []metav1.Condition{
		condition(v1alpha1.ConditionReady, metav1.ConditionFalse, reason, message), condition(kind, metav1.ConditionTrue, reason, message),
	}
}

// base is a BaseModel that is Ready.
func base(name string) *v1alpha1.BaseModel {
	return &v1alpha1.BaseModel{ObjectMeta: object(name), Status: v1alpha1.BaseModelStatus{
		ObservedGeneration: 2, Conditions: ready(v1alpha1.ReasonSucceeded),
		Artifact:      &v1alpha1.ModelArtifact{Digest: digest("a"), SizeBytes: 5_000_000, Files: 4},
		Architecture:  &v1alpha1.Architecture{Family: "llama", Parameters: 1_300_000},
		Decomposition: &v1alpha1.DecompositionStatus{Digest: digest("b"), Matrices: 42, SingularValues: 5376},
	}}
}

// expert is one that was trained.
func expert(name, of string) *v1alpha1.ExpertVector {
	return &v1alpha1.ExpertVector{
		ObjectMeta: object(name),
		Spec:       v1alpha1.ExpertVectorSpec{BaseModelRef: v1alpha1.LocalRef{Name: of}, Skill: name, Training: &v1alpha1.TrainingSpec{}},
		Status: v1alpha1.ExpertVectorStatus{
			ObservedGeneration: 2, Conditions: ready(v1alpha1.ReasonSucceeded), Score: "0.9219", BaselineScore: "0.0156",
			Progress: &v1alpha1.TrainingProgress{Summary: "40/40", Iteration: new(int32(40)), Iterations: 40, BestScore: "0.9219", KL: "0.010000"},
			Artifact: &v1alpha1.ExpertArtifact{Digest: digest("c"), SizeBytes: 23_000, URI: "pvc://tiny/experts/sha256-c", RunID: "r2"},
			Runs: []v1alpha1.RunStatus{
				{ID: "r2aa", JobName: "math-r2aa", StartTime: at(10), CompletionTime: new(at(12)), Device: "cpu (avx2, 2 threads)", Result: "Succeeded"},
				{ID: "r1bb", JobName: "math-r1bb", StartTime: at(1), CompletionTime: new(at(4)), Device: "cpu (avx2, 2 threads)", Result: "DiskFull", Failures: new(int32(2))},
			},
		},
	}
}

func at(minute int) metav1.Time {
	return metav1.Time{Time: time.Date(2026, 11, 30, 11, minute, 0, 0, time.UTC)}
}

// training is an expert under way.
func training(name, of string) *v1alpha1.ExpertVector {
	e := expert(name, of)
	e.Status = v1alpha1.ExpertVectorStatus{
		ObservedGeneration: 2, BaselineScore: "0.1250",
		Conditions: held(v1alpha1.ConditionReconciling, v1alpha1.ReasonTraining, "Iteration 12/40, best validation score 0.5000, about 34 s left"),
		Progress: &v1alpha1.TrainingProgress{
			Summary: "12/40", Step: "Training", Iteration: new(int32(12)), Iterations: 40, Reward: "0.2500", BestScore: "0.5000", EstimatedRemainingSeconds: new(int64(34)),
		},
	}
	return e
}

// policy is one that waits for an expert.
func policy(name, of string) *v1alpha1.AdaptivePolicy {
	return &v1alpha1.AdaptivePolicy{
		ObjectMeta: object(name),
		Spec: v1alpha1.AdaptivePolicySpec{
			BaseModelRef: v1alpha1.LocalRef{Name: of}, Strategy: v1alpha1.Strategy{Type: v1alpha1.StrategyPrompt},
			Experts: []v1alpha1.PolicyExpert{{Name: "math"}, {Name: "code"}},
		},
		Status: v1alpha1.AdaptivePolicyStatus{
			ObservedGeneration: 2, ReplicaSummary: "1/1", ExpertSummary: "1/2", ExpertSetDigest: digest("e"),
			Conditions: held(v1alpha1.ConditionReconciling, v1alpha1.ReasonExpertsNotReady,
				"ExpertVector code is not Ready (Training): it is served as soon as it is, without a restart of the pods; until then the others answer, and what pass 1 would give it the base weights do"),
			Experts: []v1alpha1.PolicyExpertStatus{
				{Name: "math", State: v1alpha1.ExpertServed, Digest: digest("c"), Score: "0.9219", BaselineScore: "0.0156"},
				{Name: "code", State: v1alpha1.ExpertNotReady},
			},
			Adaptation: &v1alpha1.AdaptationStatus{Strategy: v1alpha1.StrategyPrompt, Expert: "math", Time: at(30)},
			Pods:       []v1alpha1.PolicyPod{{Name: name + "-1", Error: "the volume is slow"}},
		},
	}
}

// serving is a ready pod of a policy, training of an expert.
func serving(name, policy, of string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace, Labels: map[string]string{
			v1alpha1.LabelPolicy: policy, v1alpha1.LabelComponent: v1alpha1.ComponentServe, v1alpha1.LabelBaseModel: of,
		}},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}},
	}
}

func trainer(name, expert string) *corev1.Pod {
	p := serving(name, "", "")
	p.Labels = map[string]string{v1alpha1.LabelExpert: expert, v1alpha1.LabelComponent: v1alpha1.ComponentTrain}
	return p
}

// team is a namespace with something of each.
func team() []client.Object {
	stalled := base("broken")
	stalled.Status = v1alpha1.BaseModelStatus{ObservedGeneration: 2, Conditions: held(v1alpha1.ConditionStalled, "DigestMismatch", "the model is sha256:1111, not sha256:2222: correct spec.source.digest")}
	fetching := base("large")
	fetching.Status = v1alpha1.BaseModelStatus{
		ObservedGeneration: 2, Conditions: held(v1alpha1.ConditionReconciling, v1alpha1.ReasonFetching, "Fetching"),
		Progress: &v1alpha1.StepProgress{Step: "Fetching", Done: new(int64(300 << 20)), Total: new(int64(1 << 30)), EstimatedRemainingSeconds: new(int64(75))},
	}
	unseen := expert("new", "tiny")
	unseen.Status = v1alpha1.ExpertVectorStatus{ObservedGeneration: -1}
	changed := expert("changed", "tiny")
	changed.Generation = 3
	return []client.Object{
		base("tiny"), stalled, fetching, expert("math", "tiny"), training("code", "tiny"), unseen, changed, expert("orphan", "gone"), policy("demo", "tiny"),
	}
}

func TestUsage(t *testing.T) {
	for _, test := range []struct {
		args []string
		says string
	}{
		{[]string{"nonsense"}, "unknown command"},
		{[]string{"status", "--nonsense"}, "unknown flag"},
		{[]string{"status", "tiny"}, "say KIND/NAME"},
		{[]string{"status", "pod/x"}, "with KIND one of"},
		{[]string{"status", "expert/"}, "with KIND one of"},
		{[]string{"status", "expert/a", "b"}, "names no object"},
		{[]string{"status", "-o", "xml"}, "none of json, yaml and wide"},
		{[]string{"status", "expert/a", "-A"}, "of one namespace"},
		{[]string{"watch", "--interval", "1ms"}, "below 100ms"},
		{[]string{"curve"}, "accepts 1 arg"},
		{[]string{"curve", "math", "--output", "a.gif"}, "must end in .png, .svg or .json"},
		{[]string{"explain"}, "accepts between 1 and 2 arg"},
		{[]string{"explain", "demo"}, "a PROMPT, or a request by --request ID"},
		{[]string{"explain", "demo", "x", "--request", "y"}, "a PROMPT, or a request by --request ID"},
		{[]string{"explain", "demo", "x", "--url", "ftp://x"}, "is no address"},
		{[]string{"chat", "demo", "--temperature", "-1"}, "must not be negative"},
		{[]string{"eval", "demo"}, "--dataset FILE"},
		{[]string{"eval", "demo", "--dataset", "-", "--parallel", "0"}, "is not 1 to 64"},
		{[]string{"diff", "a"}, "accepts between 2 and 3"},
		{[]string{"doctor", "x"}, "unknown command"},
	} {
		t.Run(strings.Join(test.args, " "), func(t *testing.T) {
			out, err, code := newRig(t).run(t, test.args...)
			if code != exitUsage || out != "" || !strings.Contains(err, test.says) {
				t.Errorf("status %d, %q, %q", code, out, err)
			}
		})
	}
	out, _, code := newRig(t).run(t)
	if code != 0 || !strings.Contains(out, "kubectl t2 [command]") {
		t.Errorf("without a command: status %d, %s", code, out)
	}
}
