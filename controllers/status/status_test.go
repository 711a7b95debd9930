package status

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	"github.com/transformersquared/operator/api/v1alpha1"
)

var resource = schema.GroupResource{Group: "batch", Resource: "jobs"}

func TestJudge(t *testing.T) {
	unknown := errors.New("connection refused")
	forbidden := apierrors.NewForbidden(resource, "math-1", errors.New("exceeded quota"))
	for _, tc := range []struct {
		name string
		err  error
		want Verdict
	}{
		{name: "realised", want: Verdict{Ready: true, Reason: "Serving", Message: "fine", After: time.Minute}},
		{
			name: "somebody must act", err: fmt.Errorf("step: %w", Stall("DigestMismatch", "correct %s", "it")),
			want: Verdict{Stalled: true, Reason: "DigestMismatch", Message: "correct it", Warning: true},
		},
		{
			name: "waiting for something", err: Wait("Training", "12/40").Again(5 * time.Second),
			want: Verdict{Reason: "Training", Message: "12/40", After: 5 * time.Second},
		},
		{
			name: "waiting after something went wrong", err: Wait("OOMKilled", "again").Warn(),
			want: Verdict{Reason: "OOMKilled", Message: "again", Warning: true},
		},
		{
			name: "refused by the API server", err: fmt.Errorf("applying: %w", forbidden),
			want: Verdict{
				Reason: v1alpha1.ReasonRejected, After: rejectedRetry, Warning: true,
				Message: fmt.Sprintf("The API server refuses what this needs, and is asked again each minute: %v", forbidden),
			},
		},
		{
			name: "anything else", err: unknown,
			want: Verdict{Reason: v1alpha1.ReasonError, Message: "A step failed and is repeated: connection refused", Warning: true, Retry: unknown},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := Judge(Ready{Reason: "Serving", Message: "fine", After: time.Minute}, tc.err)
			if diff := cmp.Diff(tc.want, got, cmpopts.EquateErrors()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestFirst(t *testing.T) {
	wait, stall, other := Wait("A", "a"), Stall("B", "b"), errors.New("c")
	for _, tc := range []struct {
		name string
		errs []error
		want error
	}{
		{name: "nothing"},
		{name: "only nils", errs: []error{nil, nil}},
		{name: "stalled before waiting", errs: []error{wait, nil, stall}, want: stall},
		{name: "unknown before stalled", errs: []error{wait, stall, other}, want: other},
		{name: "the earlier of two", errs: []error{wait, Wait("Z", "z")}, want: wait},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := First(tc.errs...); !errors.Is(got, tc.want) {
				t.Errorf("got %v, want %v", got, tc.want)
			}
		})
	}
}

// What waits for several things is looked at again when the first of them asks
// for it, whichever is told.
func TestFirstLooksAgainAtTheSoonest(t *testing.T) {
	stall := func(after time.Duration) error {
		e := Stall("B", "b")
		e.After = after
		return e
	}
	for _, tc := range []struct {
		name string
		errs []error
		want time.Duration
	}{
		{"a watch tells", []error{Wait("A", "a"), stall(0)}, 0},
		{"one asks for it", []error{Wait("A", "a"), stall(time.Minute)}, time.Minute},
		{"one that is not told asks for it", []error{Wait("A", "a").Again(time.Second), stall(0)}, time.Second},
		{"one that is not told asks for it sooner", []error{Wait("A", "a").Again(time.Second), stall(time.Minute)}, time.Second},
		{"one that is not told asks for it later", []error{stall(time.Second), Wait("A", "a").Again(time.Minute)}, time.Second},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var stalled *Stalled
			if err := First(tc.errs...); !errors.As(err, &stalled) || stalled.After != tc.want {
				t.Errorf("got %#v, want it again after %v", err, tc.want)
			}
		})
	}
}

func types(conditions []metav1.Condition) map[string]string {
	all := map[string]string{}
	for _, c := range conditions {
		all[c.Type] = string(c.Status) + " " + c.Reason
	}
	return all
}

func TestConditionsExcludeEachOther(t *testing.T) {
	expert := &v1alpha1.ExpertVector{ObjectMeta: metav1.ObjectMeta{Generation: 3}}
	for _, step := range []struct {
		name    string
		verdict Verdict
		want    map[string]string
	}{
		{"work", Verdict{Reason: "Training"}, map[string]string{"Ready": "False Training", "Reconciling": "True Training"}},
		{"stall", Verdict{Stalled: true, Reason: "Bad"}, map[string]string{"Ready": "False Bad", "Stalled": "True Bad"}},
		{"realise", Verdict{Ready: true, Reason: "Succeeded"}, map[string]string{"Ready": "True Succeeded"}},
		{"work again", Verdict{Reason: "Training"}, map[string]string{"Ready": "False Training", "Reconciling": "True Training"}},
	} {
		SetConditions(expert, step.verdict)
		if diff := cmp.Diff(step.want, types(expert.Status.Conditions)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", step.name, diff)
		}
		if expert.Status.ObservedGeneration != 3 {
			t.Errorf("%s: observedGeneration is %d", step.name, expert.Status.ObservedGeneration)
		}
	}
}

// A failed call of the operator's says nothing about the object: what was known of
// this generation stays, and of another nothing is known.
func TestAFailedCallTakesNothingAway(t *testing.T) {
	failed := Judge(Ready{}, errors.New("no connection"))
	for _, tc := range []struct {
		name       string
		known      []Verdict
		generation int64
		want       map[string]string
		observed   int64
	}{
		{
			name: "ready stays ready", known: []Verdict{{Ready: true, Reason: "Serving"}}, generation: 1,
			want: map[string]string{"Ready": "True Serving"}, observed: 1,
		},
		{
			name: "ready is not ready once it was changed", known: []Verdict{{Ready: true, Reason: "Serving"}}, generation: 2,
			want: map[string]string{"Ready": "False ReconcileError", "Reconciling": "True ReconcileError"}, observed: 2,
		},
		{
			name: "work that goes on says why it stands", known: []Verdict{{Reason: "Training"}}, generation: 1,
			want: map[string]string{"Ready": "False Training", "Reconciling": "True ReconcileError"}, observed: 1,
		},
		{
			name: "who must act must act still", known: []Verdict{{Stalled: true, Reason: "Bad"}}, generation: 1,
			want: map[string]string{"Ready": "False Bad", "Stalled": "True Bad"}, observed: 1,
		},
		{
			name: "nothing is known at first", generation: 1,
			want: map[string]string{"Ready": "False ReconcileError", "Reconciling": "True ReconcileError"}, observed: 1,
		},
		{
			name: "it failed before, too", known: []Verdict{failed}, generation: 1,
			want: map[string]string{"Ready": "False ReconcileError", "Reconciling": "True ReconcileError"}, observed: 1,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			policy := &v1alpha1.AdaptivePolicy{ObjectMeta: metav1.ObjectMeta{Generation: 1}}
			for _, v := range tc.known {
				SetConditions(policy, v)
			}
			policy.Generation = tc.generation
			SetConditions(policy, failed)
			if diff := cmp.Diff(tc.want, types(policy.Status.Conditions)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if policy.Status.ObservedGeneration != tc.observed {
				t.Errorf("observedGeneration is %d, want %d", policy.Status.ObservedGeneration, tc.observed)
			}
		})
	}
}

func TestTidyEndsAMessageProperly(t *testing.T) {
	for _, tc := range []struct{ in, want string }{
		{"", ""},
		{"Waiting", "Waiting"},
		{"Waiting. ", "Waiting"},
		{"two\nlines\tand  blanks;", "two lines and blanks"},
		{"set it to 0.5", "set it to 0.5"},
		{"why:", "why"},
	} {
		if got := Tidy(tc.in); got != tc.want {
			t.Errorf("Tidy(%q) is %q, want %q", tc.in, got, tc.want)
		}
	}
}

func TestConclusive(t *testing.T) {
	for _, tc := range []struct {
		name string
		err  error
		want bool
	}{
		{"nothing", nil, false},
		{"stalled", Stall("A", "a"), true},
		{"waiting, wrapped", fmt.Errorf("step: %w", Wait("A", "a")), true},
		{"a failed call", errors.New("no connection"), false},
	} {
		if got := Conclusive(tc.err); got != tc.want {
			t.Errorf("%s: %v, want %v", tc.name, got, tc.want)
		}
	}
}

func TestReadyOfAnOldGenerationIsNotReady(t *testing.T) {
	expert := &v1alpha1.ExpertVector{ObjectMeta: metav1.ObjectMeta{Generation: 1}}
	if IsReady(expert) || Explain(expert) == "" {
		t.Error("an object without conditions is ready, or nothing explains it")
	}
	SetConditions(expert, Verdict{Ready: true, Reason: "Succeeded", Message: "there"})
	if !IsReady(expert) {
		t.Error("a ready object is not ready")
	}
	expert.Generation = 2
	if IsReady(expert) {
		t.Error("an object that was changed since is ready")
	}
	if got := Explain(expert); !strings.Contains(got, "changed") {
		t.Errorf("it is explained by %q", got)
	}
}

func TestClipKeepsRunesWhole(t *testing.T) {
	for _, s := range []string{"", "short", strings.Repeat("ä", 40), strings.Repeat("😀", 20)} {
		for limit := 8; limit < 30; limit++ {
			got := Clip(s, limit)
			if len(got) > limit || !utf8.ValidString(got) {
				t.Errorf("Clip(%q, %d) is %q", s, limit, got)
			}
			if len(s) <= limit && got != s {
				t.Errorf("Clip(%q, %d) shortened it to %q", s, limit, got)
			}
		}
	}
}

// reporter counts the status writes of a Reporter and keeps its events.
func reporter(t *testing.T, objects ...client.Object) (Reporter, *int, chan string) {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	writes := new(int)
	c := fake.NewClientBuilder().WithScheme(scheme).WithObjects(objects...).WithStatusSubresource(objects...).
		WithInterceptorFuncs(interceptor.Funcs{
			SubResourceUpdate: func(ctx context.Context, c client.Client, name string, o client.Object, opts ...client.SubResourceUpdateOption) error {
				*writes++
				return c.SubResource(name).Update(ctx, o, opts...)
			},
			// A real API server says so of a patch one of whose tests fails.
			SubResourcePatch: func(ctx context.Context, c client.Client, name string, o client.Object, p client.Patch, opts ...client.SubResourcePatchOption) error {
				*writes++
				err := c.SubResource(name).Patch(ctx, o, p, opts...)
				if err != nil && strings.Contains(err.Error(), "test failed") {
					return apierrors.NewInvalid(schema.GroupKind{}, o.GetName(), nil)
				}
				return err
			},
		}).Build()
	recorder := events.NewFakeRecorder(10)
	return Reporter{Client: c, Events: recorder}, writes, recorder.Events
}

func TestReportWritesAndTellsOnlyWhatChanged(t *testing.T) {
	expert := &v1alpha1.ExpertVector{ObjectMeta: metav1.ObjectMeta{Name: "math", Namespace: "demo", Generation: 1}}
	r, writes, told := reporter(t, expert.DeepCopy())
	ctx := t.Context()
	report := func(err error) {
		t.Helper()
		var now v1alpha1.ExpertVector
		if err := r.Client.Get(ctx, client.ObjectKeyFromObject(expert), &now); err != nil {
			t.Fatal(err)
		}
		if _, err := r.Report(ctx, now.DeepCopy(), &now, Ready{Reason: "Succeeded"}, err); err != nil {
			t.Fatal(err)
		}
	}
	report(Wait("Training", "1/40"))
	report(Wait("Training", "1/40"))
	report(Wait("Training", "2/40"))
	report(nil)
	report(nil)
	report(Wait("OOMKilled", "raise the limit").Warn())
	report(Stall("OOMKilled", "raise the limit"))
	report(Stall("OOMKilled", "raise the limit"))
	if *writes != 5 {
		t.Errorf("%d status writes, want 5: one for each change", *writes)
	}
	if len(told) != 4 {
		t.Errorf("%d events, want 4: Training, Succeeded, OOMKilled, and OOMKilled for good", len(told))
	}
}

// counted is how many failed calls of all kinds the operator's metrics have.
func counted(t *testing.T) float64 {
	t.Helper()
	families, err := metrics.Registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var n float64
	for _, family := range families {
		if family.GetName() == "transformersquared_reconcile_failures_total" {
			for _, m := range family.GetMetric() {
				n += m.GetCounter().GetValue()
			}
		}
	}
	return n
}

func TestReportTellsTheQueue(t *testing.T) {
	expert := &v1alpha1.ExpertVector{ObjectMeta: metav1.ObjectMeta{Name: "math", Namespace: "demo", Generation: 1}}
	r, _, told := reporter(t, expert.DeepCopy())
	ctx := t.Context()
	if err := r.Client.Get(ctx, client.ObjectKeyFromObject(expert), expert); err != nil {
		t.Fatal(err)
	}
	conflict := apierrors.NewConflict(resource, "math", errors.New("changed"))
	result, err := r.Report(ctx, expert.DeepCopy(), expert, Ready{}, fmt.Errorf("applying: %w", conflict))
	if err != nil || result.RequeueAfter != conflictRetry || meta.FindStatusCondition(expert.Status.Conditions, "Ready") != nil {
		t.Errorf("a conflict gave %v, %v and conditions %v", result, err, expert.Status.Conditions)
	}
	failure := apierrors.NewServiceUnavailable("no connection")
	before := counted(t)
	if _, err := r.Report(ctx, expert.DeepCopy(), expert, Ready{}, failure); !errors.Is(err, failure) {
		t.Errorf("got %v, want the error for the backoff", err)
	}
	if got := counted(t); got != before+1 {
		t.Errorf("%v failures are counted, want %v", got, before+1)
	}
	over, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := r.Report(over, expert.DeepCopy(), expert, Ready{}, Wait("Training", "Iteration 3/9")); err != nil || len(told) != 1 {
		t.Errorf("what waits while the operator ends is %v, and %v is told", err, told)
	}
	if _, err := r.Report(over, expert.DeepCopy(), expert, Ready{}, context.Canceled); !errors.Is(err, context.Canceled) || len(told) != 1 {
		t.Errorf("an operator that ends gives %v and %d events, want none beside that of the failed call", err, len(told))
	}
	gone := expert.DeepCopy()
	gone.Name = "gone"
	if _, err := r.Report(ctx, gone.DeepCopy(), gone, Ready{}, Wait("A", "a")); err != nil {
		t.Errorf("an object that was deleted meanwhile gave %v", err)
	}
}

// A failed call tells an event and changes no status of an object that is ready.
func TestAFailedCallIsAnEventAndNoWrite(t *testing.T) {
	expert := &v1alpha1.ExpertVector{ObjectMeta: metav1.ObjectMeta{Name: "math", Namespace: "demo", Generation: 1}}
	SetConditions(expert, Verdict{Ready: true, Reason: "Succeeded"})
	r, writes, told := reporter(t, expert.DeepCopy())
	ctx := t.Context()
	if err := r.Client.Get(ctx, client.ObjectKeyFromObject(expert), expert); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Report(ctx, expert.DeepCopy(), expert, Ready{}, errors.New("no connection")); err == nil {
		t.Error("the queue is not told")
	}
	if *writes != 0 || len(told) != 1 || !IsReady(expert) {
		t.Errorf("%d writes, %d events, ready %v; want 0, 1, true", *writes, len(told), IsReady(expert))
	}
	if got := <-told; !strings.HasPrefix(got, "Warning ReconcileError") {
		t.Errorf("the event is %q", got)
	}
}

func TestEventsOfWhatElseTurned(t *testing.T) {
	for _, tc := range []struct {
		name   string
		before func(*v1alpha1.AdaptivePolicy)
		after  func(*v1alpha1.AdaptivePolicy)
		want   []string
	}{
		{name: "nothing", before: func(*v1alpha1.AdaptivePolicy) {}, after: func(*v1alpha1.AdaptivePolicy) {}},
		{
			name: "a policy that never answered does not answer", before: func(*v1alpha1.AdaptivePolicy) {},
			after: func(p *v1alpha1.AdaptivePolicy) { Set(p, v1alpha1.ConditionAvailable, false, "NoPodAnswers", "") },
		},
		{
			name:   "a policy stops answering",
			before: func(p *v1alpha1.AdaptivePolicy) { Set(p, v1alpha1.ConditionAvailable, true, "Answering", "") },
			after:  func(p *v1alpha1.AdaptivePolicy) { Set(p, v1alpha1.ConditionAvailable, false, "NoPodAnswers", "") },
			want:   []string{"NoPodAnswers"},
		},
		{
			name:   "a policy goes on answering",
			before: func(p *v1alpha1.AdaptivePolicy) { Set(p, v1alpha1.ConditionAvailable, true, "Answering", "one") },
			after:  func(p *v1alpha1.AdaptivePolicy) { Set(p, v1alpha1.ConditionAvailable, true, "Answering", "two") },
		},
		{
			name: "an expert came out worse than its base", before: func(*v1alpha1.AdaptivePolicy) {},
			after: func(p *v1alpha1.AdaptivePolicy) {
				Set(p, v1alpha1.ConditionImproved, false, v1alpha1.ReasonBelowBaseline, "")
			},
			want: []string{v1alpha1.ReasonBelowBaseline},
		},
		{
			name: "an expert came out better", before: func(*v1alpha1.AdaptivePolicy) {},
			after: func(p *v1alpha1.AdaptivePolicy) {
				Set(p, v1alpha1.ConditionImproved, true, v1alpha1.ReasonAboveBaseline, "")
			},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			before := &v1alpha1.AdaptivePolicy{}
			tc.before(before)
			after := before.DeepCopy()
			tc.after(after)
			var got []string
			for _, c := range alsoTurned(before, after) {
				got = append(got, c.Reason)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestAStatusIsWrittenBesideSomebodysLabel wants what a reconciliation decided to be
// written although the object has another label by now, and not where its status or
// specification is another.
func TestAStatusIsWrittenBesideSomebodysLabel(t *testing.T) {
	for name, c := range map[string]struct {
		meanwhile func(*v1alpha1.ExpertVector)
		status    bool // It writes the status.
		written   bool
	}{
		"a label":         {func(e *v1alpha1.ExpertVector) { e.Labels = map[string]string{"a": "b"} }, false, true},
		"a status":        {func(e *v1alpha1.ExpertVector) { e.Status.BaseDigest = "other" }, true, false},
		"a specification": {func(e *v1alpha1.ExpertVector) { e.Generation = 2 }, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			stored := &v1alpha1.ExpertVector{ObjectMeta: metav1.ObjectMeta{Name: "math", Namespace: "demo", Generation: 1}}
			SetConditions(stored, Verdict{Reason: "Waits", Message: "m"})
			r, _, _ := reporter(t, stored.DeepCopy())
			ctx, key := t.Context(), client.ObjectKeyFromObject(stored)
			expert, other := &v1alpha1.ExpertVector{}, &v1alpha1.ExpertVector{}
			if err := errors.Join(r.Client.Get(ctx, key, expert), r.Client.Get(ctx, key, other)); err != nil {
				t.Fatal(err)
			}
			c.meanwhile(other)
			var err error
			if c.status {
				err = r.Client.Status().Update(ctx, other)
			} else {
				err = r.Client.Update(ctx, other)
			}
			if err != nil {
				t.Fatal(err)
			}
			before := expert.DeepCopy()
			expert.Status.Runs = []v1alpha1.RunStatus{{ID: "1", Retries: new(int32(1))}}
			result, err := r.Report(ctx, before, expert, Ready{}, Wait("Waits", "m"))
			if err != nil {
				t.Fatal(err)
			}
			after := &v1alpha1.ExpertVector{}
			if err := r.Client.Get(ctx, key, after); err != nil {
				t.Fatal(err)
			}
			if got := len(after.Status.Runs) == 1; got != c.written {
				t.Errorf("written: %v, want %v: %+v", got, c.written, after.Status)
			}
			if again := result.RequeueAfter == conflictRetry; again == c.written {
				t.Errorf("looks again in %v", result.RequeueAfter)
			}
			if after.Labels["a"] != other.Labels["a"] {
				t.Error("somebody's label is lost")
			}
		})
	}
}
