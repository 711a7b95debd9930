package status

import (
	"context"
	"errors"
	"maps"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	"github.com/transformersquared/operator/api/v1alpha1"
)

// samples are the values of one metric by their labels in order; of a histogram, how many it has
// and, behind "sum", what they come to.
func samples(t *testing.T, from prometheus.Gatherer, name string) map[string]float64 {
	t.Helper()
	families, err := from.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, family := range families {
		if family.GetName() != name {
			continue
		}
		for _, m := range family.GetMetric() {
			key := ""
			for _, l := range m.GetLabel() {
				key += l.GetValue() + " "
			}
			switch {
			case m.GetHistogram() != nil:
				got[key], got[key+"sum"] = float64(m.GetHistogram().GetSampleCount()), m.GetHistogram().GetSampleSum()
			case m.GetCounter() != nil:
				got[key] = m.GetCounter().GetValue()
			default:
				got[key] = m.GetGauge().GetValue()
			}
		}
	}
	return got
}

// grown is what is more in b than in a.
func grown(a, b map[string]float64) map[string]float64 {
	got := map[string]float64{}
	for key, value := range b {
		if value != a[key] {
			got[key] = value - a[key]
		}
	}
	return got
}

func TestEachReconciliationIsCountedByWhatItCameTo(t *testing.T) {
	before := samples(t, metrics.Registry, "t2_operator_reconciliations_total")
	for _, err := range []error{
		nil, Wait("Training", "1/40"), Stall("A", "a"), Stall("B", "b"),
		apierrors.NewForbidden(resource, "math-1", errors.New("exceeded quota")), errors.New("connection refused"),
	} {
		expert := &v1alpha1.ExpertVector{ObjectMeta: metav1.ObjectMeta{Name: "math", Namespace: "demo", Generation: 1}}
		r, _, _ := reporter(t, expert.DeepCopy())
		if err := r.Client.Get(t.Context(), client.ObjectKeyFromObject(expert), expert); err != nil {
			t.Fatal(err)
		}
		if _, reported := r.Report(t.Context(), expert.DeepCopy(), expert, Ready{Reason: "Succeeded"}, err); reported != nil && !errors.Is(reported, err) {
			t.Fatal(reported)
		}
	}
	want := map[string]float64{
		"ExpertVector ready ": 1, "ExpertVector waiting ": 1, "ExpertVector stalled ": 2, "ExpertVector rejected ": 1, "ExpertVector failed ": 1,
	}
	if diff := cmp.Diff(want, grown(before, samples(t, metrics.Registry, "t2_operator_reconciliations_total"))); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestHowLongObjectsTookToBeReady goes through what conditions say before and after a status is
// written.
func TestHowLongObjectsTookToBeReady(t *testing.T) {
	now := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	ago := func(seconds int) metav1.Time { return metav1.NewTime(now.Add(-time.Duration(seconds) * time.Second)) }
	object := func(generation int64, conditions ...metav1.Condition) *v1alpha1.BaseModel {
		return &v1alpha1.BaseModel{
			ObjectMeta: metav1.ObjectMeta{Generation: generation, CreationTimestamp: ago(1000)},
			Status:     v1alpha1.BaseModelStatus{Conditions: conditions},
		}
	}
	is := func(kind string, status metav1.ConditionStatus, generation int64, seconds int) metav1.Condition {
		return metav1.Condition{Type: kind, Status: status, ObservedGeneration: generation, LastTransitionTime: ago(seconds)}
	}
	ready := object(2, is("Ready", "True", 2, 0))
	waiting := is("Ready", "False", 2, 300)
	for name, c := range map[string]struct {
		before, after *v1alpha1.BaseModel
		want          map[string]float64
	}{
		"at once, of a new one":      {object(2), ready, map[string]float64{"BaseModel ": 1, "BaseModel sum": 1000}},
		"after work":                 {object(2, waiting, is("Reconciling", "True", 2, 300)), ready, map[string]float64{"BaseModel ": 1, "BaseModel sum": 300}},
		"after a default status":     {object(2, waiting, is("Reconciling", "True", 0, 1<<30)), ready, map[string]float64{"BaseModel ": 1, "BaseModel sum": 1000}},
		"not yet":                    {object(2), object(2, waiting, is("Reconciling", "True", 2, 0)), nil},
		"it was before":              {ready, ready, nil},
		"of a change without work":   {object(2, is("Ready", "True", 1, 300)), ready, nil},
		"when somebody corrected it": {object(2, waiting, is("Stalled", "True", 2, 300)), ready, nil},
	} {
		t.Run(name, func(t *testing.T) {
			before := samples(t, metrics.Registry, "t2_operator_ready_seconds")
			countChange(c.before, c.after, now)
			got := grown(before, samples(t, metrics.Registry, "t2_operator_ready_seconds"))
			if c.want == nil {
				c.want = map[string]float64{}
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestHowLongRunsTook(t *testing.T) {
	begun := metav1.NewTime(time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC))
	run := func(id, result string, seconds int) v1alpha1.RunStatus {
		r := v1alpha1.RunStatus{ID: id, Result: result, StartTime: begun}
		if seconds > 0 {
			r.CompletionTime = new(metav1.NewTime(begun.Add(time.Duration(seconds) * time.Second)))
		}
		return r
	}
	expert := func(source bool, runs ...v1alpha1.RunStatus) *v1alpha1.ExpertVector {
		e := &v1alpha1.ExpertVector{Status: v1alpha1.ExpertVectorStatus{Runs: runs}}
		if source {
			e.Spec.Source = &v1alpha1.ExpertSource{}
		}
		return e
	}
	policy := func(search, probe []v1alpha1.RunStatus) *v1alpha1.AdaptivePolicy {
		return &v1alpha1.AdaptivePolicy{Status: v1alpha1.AdaptivePolicyStatus{
			FewShot: &v1alpha1.FewShotStatus{Runs: search}, Probe: &v1alpha1.ProbeStatus{Runs: probe},
		}}
	}
	one := func(run, result string, seconds float64) map[string]float64 {
		return map[string]float64{result + " " + run + " ": 1, result + " " + run + " sum": seconds}
	}
	for name, c := range map[string]struct {
		before, after Object
		want          map[string]float64
	}{
		"a training":        {expert(false, run("a", "", 0)), expert(false, run("a", "Succeeded", 90)), one("train", "succeeded", 90)},
		"seen at its end":   {expert(false), expert(false, run("a", "Succeeded", 90)), one("train", "succeeded", 90)},
		"an import":         {expert(true, run("a", "", 0)), expert(true, run("a", "DigestMismatch", 3)), one("import", "failed", 3)},
		"told before":       {expert(false, run("a", "Succeeded", 90)), expert(false, run("a", "Succeeded", 90)), nil},
		"going on":          {expert(false), expert(false, run("a", "", 0)), nil},
		"superseded":        {expert(false, run("a", "", 0)), expert(false, run("b", "", 0), run("a", "Superseded", 0)), nil},
		"a decomposition":   {&v1alpha1.BaseModel{}, &v1alpha1.BaseModel{Status: v1alpha1.BaseModelStatus{Runs: []v1alpha1.RunStatus{run("a", "Succeeded", 7)}}}, one("decompose", "succeeded", 7)},
		"a search":          {policy(nil, nil), policy([]v1alpha1.RunStatus{run("a", "Succeeded", 8)}, nil), one("search", "succeeded", 8)},
		"a probe's fitting": {&v1alpha1.AdaptivePolicy{}, policy(nil, []v1alpha1.RunStatus{run("a", "Succeeded", 9)}), one("probe", "succeeded", 9)},
	} {
		t.Run(name, func(t *testing.T) {
			before := samples(t, metrics.Registry, "t2_operator_run_seconds")
			countChange(c.before, c.after, begun.Time)
			got := grown(before, samples(t, metrics.Registry, "t2_operator_run_seconds"))
			if c.want == nil {
				c.want = map[string]float64{}
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestObjectsAreCountedWhileTheManagerLeads counts objects of every kind, before, while and after
// the runnable runs, and says so where they cannot be listed.
func TestObjectsAreCountedWhileTheManagerLeads(t *testing.T) {
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	meta := func(name string) metav1.ObjectMeta {
		return metav1.ObjectMeta{Name: name, Namespace: "demo", Generation: 2}
	}
	ready := &v1alpha1.ExpertVector{ObjectMeta: meta("ready")}
	SetConditions(ready, Verdict{Ready: true, Reason: "Succeeded"})
	stalled := &v1alpha1.ExpertVector{ObjectMeta: meta("stalled")}
	SetConditions(stalled, Verdict{Stalled: true, Reason: "OOMKilled"})
	changed := &v1alpha1.ExpertVector{ObjectMeta: meta("changed")}
	SetConditions(changed, Verdict{Ready: true, Reason: "Succeeded"})
	changed.Generation++
	policy := &v1alpha1.AdaptivePolicy{ObjectMeta: meta("policy")}
	SetConditions(policy, Verdict{Reason: "RollingOut"})
	Set(policy, v1alpha1.ConditionAvailable, true, "Answering", "")
	broken := false
	c := fake.NewClientBuilder().WithScheme(scheme).WithObjects(ready, stalled, changed, policy, &v1alpha1.ExpertVector{ObjectMeta: meta("new")}).
		WithInterceptorFuncs(interceptor.Funcs{List: func(ctx context.Context, c client.WithWatch, list client.ObjectList, opts ...client.ListOption) error {
			if broken {
				return errors.New("the cache is not there")
			}
			return c.List(ctx, list, opts...)
		}}).Build()
	registry := prometheus.NewPedanticRegistry()
	o := &Objects{Client: c, Registry: registry}
	if got := samples(t, registry, "t2_operator_objects"); len(got) != 0 || !o.NeedLeaderElection() {
		t.Errorf("before it leads: %v", got)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 2)
	go func() { ended <- o.Start(ctx) }()
	var got map[string]float64
	for deadline := time.Now().Add(10 * time.Second); len(got) == 0 && time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		got = samples(t, registry, "t2_operator_objects")
	}
	if len(got) != 3*3+3*3+4*3 {
		t.Errorf("%d samples: %v", len(got), got)
	}
	maps.DeleteFunc(got, func(_ string, n float64) bool { return n == 0 })
	want := map[string]float64{
		"Ready ExpertVector True ": 1, "Ready ExpertVector False ": 1, "Ready ExpertVector Unknown ": 2,
		"Stalled ExpertVector True ": 1, "Stalled ExpertVector False ": 3, "Reconciling ExpertVector False ": 4,
		"Ready AdaptivePolicy False ": 1, "Reconciling AdaptivePolicy True ": 1, "Stalled AdaptivePolicy False ": 1, "Available AdaptivePolicy True ": 1,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	// A second manager in the process leaves it to the first.
	second := &Objects{Client: c, Registry: registry}
	go func() { ended <- second.Start(ctx) }()
	broken = true
	if _, err := registry.Gather(); err == nil {
		t.Error("what cannot be listed is told as if it could")
	}
	broken = false
	stop()
	for range 2 {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	if got := samples(t, registry, "t2_operator_objects"); len(got) != 0 {
		t.Errorf("after it led: %v", got)
	}
}
