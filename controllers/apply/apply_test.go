package apply

import (
	"context"
	"errors"
	"reflect"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	coreac "k8s.io/client-go/applyconfigurations/core/v1"
	metaac "k8s.io/client-go/applyconfigurations/meta/v1"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/controllers/status"
)

func TestContains(t *testing.T) {
	m := func(pairs ...any) map[string]any {
		all := map[string]any{}
		for i := 0; i < len(pairs); i += 2 {
			all[pairs[i].(string)] = pairs[i+1]
		}
		return all
	}
	l := func(items ...any) []any { return items }
	for _, tc := range []struct {
		name       string
		have, want any
		contains   bool
	}{
		{"equal", m("a", int64(1)), m("a", int64(1)), true},
		{"the server's defaults are no difference", m("a", "x", "b", "default"), m("a", "x"), true},
		{"another value", m("a", "x"), m("a", "y"), false},
		{"a field is gone", m(), m("a", "y"), false},
		{"an empty map that the server leaves out", nil, m(), true},
		{"an empty list that the server leaves out", nil, l(), true},
		{"a map where something else is", "x", m("a", "x"), false},
		{"a list where something else is", m(), l("a"), false},
		{"more named items", l(m("name", "a", "v", "1"), m("name", "b")), l(m("name", "b")), true},
		{"a named item is gone", l(m("name", "a")), l(m("name", "b")), false},
		{"a named item in another order", l(m("name", "b"), m("name", "a")), l(m("name", "a"), m("name", "b")), true},
		{"items without names keep their order", l("a", "b"), l("b", "a"), false},
		{"fewer items", l("a"), l("a", "b"), false},
		{"nested", m("spec", m("c", l(m("name", "x", "env", l(m("name", "E", "value", "1")))))),
			m("spec", m("c", l(m("name", "x", "env", l(m("name", "E", "value", "2")))))), false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := Contains(tc.have, tc.want); got != tc.contains {
				t.Errorf("got %v", got)
			}
		})
	}
}

var owner = &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "owner", Namespace: "demo", UID: "owner-uid"}}

func wanted(ports ...int32) *coreac.ServiceApplyConfiguration {
	spec := coreac.ServiceSpec().WithSelector(map[string]string{"app": "t2"})
	for _, port := range ports {
		spec.WithPorts(coreac.ServicePort().WithName("http").WithPort(port))
	}
	return coreac.Service("s", "demo").WithSpec(spec).WithOwnerReferences(metaac.OwnerReference().
		WithAPIVersion("v1").WithKind("ConfigMap").WithName("owner").WithUID("owner-uid").WithController(true))
}

// cluster is an API server with a cache before it that can be held back.
type cluster struct {
	client.WithWatch
	writes int
	lives  int
	// held, where it is set, is what the cache has of every object that is asked for.
	held client.Object
}

func (c *cluster) live() client.Reader {
	return interceptor.NewClient(c.WithWatch, interceptor.Funcs{
		Get: func(ctx context.Context, w client.WithWatch, key client.ObjectKey, o client.Object, opts ...client.GetOption) error {
			c.lives++
			return w.Get(ctx, key, o, opts...)
		},
	})
}

func (c *cluster) cached() client.Client {
	return interceptor.NewClient(c.WithWatch, interceptor.Funcs{
		Get: func(ctx context.Context, w client.WithWatch, key client.ObjectKey, o client.Object, opts ...client.GetOption) error {
			if c.held != nil {
				reflect.ValueOf(o).Elem().Set(reflect.ValueOf(c.held.DeepCopyObject()).Elem())
				return nil
			}
			return w.Get(ctx, key, o, opts...)
		},
		Apply: func(ctx context.Context, w client.WithWatch, config runtime.ApplyConfiguration, opts ...client.ApplyOption) error {
			c.writes++
			return w.Apply(ctx, config, opts...)
		},
	})
}

func applier(t *testing.T, objects ...client.Object) (Applier, *cluster) {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := clientgoscheme.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	c := &cluster{WithWatch: fake.NewClientBuilder().WithScheme(scheme).WithObjects(objects...).Build()}
	return New(c.cached(), c.live()), c
}

var key = client.ObjectKey{Namespace: "demo", Name: "s"}

func TestApplyWritesOnlyWhatWouldChange(t *testing.T) {
	a, c := applier(t)
	ctx := t.Context()
	apply := func(config *coreac.ServiceApplyConfiguration, writes int, when string) {
		t.Helper()
		if err := a.Apply(ctx, owner, &corev1.Service{}, config); err != nil {
			t.Fatal(err)
		}
		if c.writes != writes {
			t.Errorf("%d writes %s, want %d", c.writes, when, writes)
		}
	}
	apply(wanted(80), 1, "for a new object")
	apply(wanted(80), 1, "when nothing changed")

	var live corev1.Service
	if err := c.Get(ctx, key, &live); err != nil {
		t.Fatal(err)
	}
	live.Spec.Selector["app"] = "somebody else's"
	if err := c.Update(ctx, &live); err != nil {
		t.Fatal(err)
	}
	apply(wanted(80), 2, "after somebody changed a field")
	if err := c.Get(ctx, key, &live); err != nil {
		t.Fatal(err)
	}
	if live.Spec.Selector["app"] != "t2" {
		t.Errorf("the selector is %v", live.Spec.Selector)
	}
	apply(wanted(8080), 3, "after the wish changed")
}

func TestApplyReturnsWhatTheServerAnswered(t *testing.T) {
	a, c := applier(t)
	ctx := t.Context()
	live := &corev1.Service{}
	apply := func(port int32, when string) {
		t.Helper()
		live = &corev1.Service{}
		if err := a.Apply(ctx, owner, live, wanted(port)); err != nil {
			t.Fatal(err)
		}
		if live.Spec.Ports[0].Port != port {
			t.Errorf("%s: port %d, want %d", when, live.Spec.Ports[0].Port, port)
		}
		var server corev1.Service
		if err := c.Get(ctx, key, &server); err != nil {
			t.Fatal(err)
		}
		if live.ResourceVersion != server.ResourceVersion {
			t.Errorf("%s: version %s, the server has %s", when, live.ResourceVersion, server.ResourceVersion)
		}
	}
	apply(80, "made")
	first := live.DeepCopy()
	apply(8080, "changed")

	c.held = first // The cache has not seen the change.
	apply(8080, "changed, with a cache from before")
	writes := c.writes
	apply(80, "changed back: what the cache has is what is wanted, and not what is there")
	if c.writes != writes+1 {
		t.Error("the change back was not written, because the cache was from before both changes")
	}
	apply(80, "changed back, with a cache from before")

	c.held = nil // The cache catches up.
	apply(80, "with a cache that caught up")
	lives := c.lives
	apply(80, "with a cache that caught up")
	if c.lives != lives {
		t.Error("the server is asked though the cache has caught up")
	}
}

func TestLookFindsWhatTheCacheMayNotHold(t *testing.T) {
	a, c := applier(t, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "s", Namespace: "demo"}})
	for _, tc := range []struct {
		name    string
		applier Applier
		key     client.ObjectKey
		want    bool
		lives   int
	}{
		{name: "from the cache", applier: a, key: key, want: true},
		{name: "not there, by the server's word", applier: a, key: client.ObjectKey{Namespace: "demo", Name: "none"}, lives: 1},
		{name: "past the cache", applier: a.Uncached(), key: key, want: true, lives: 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c.lives = 0
			got, err := tc.applier.Look(t.Context(), tc.key, &corev1.Service{})
			if err != nil || got != tc.want || c.lives != tc.lives {
				t.Errorf("found %v, %v, asked the server %d times; want %v and %d", got, err, c.lives, tc.want, tc.lives)
			}
		})
	}
}

func TestAnswersAreForgotten(t *testing.T) {
	service := func(version string) *corev1.Service {
		return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "s", Namespace: "demo", ResourceVersion: version}}
	}
	for _, tc := range []struct {
		name             string
		answered, cached string
		want             bool
		left             int
	}{
		{name: "nothing was written", cached: "7", want: true},
		{name: "the cache is behind", answered: "10", cached: "9", left: 1},
		{name: "the cache has it", answered: "10", cached: "10", want: true},
		{name: "the cache is further", answered: "9", cached: "10", want: true},
		{name: "versions that are no numbers differ", answered: "a", cached: "b", left: 1},
		{name: "versions that are no numbers are equal", answered: "a", cached: "a", want: true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			a := &answers{}
			if tc.answered != "" {
				a.written(service(tc.answered))
			}
			if got := a.upToDate(service(tc.cached)); got != tc.want {
				t.Errorf("up to date: %v, want %v", got, tc.want)
			}
			if len(a.known) != tc.left {
				t.Errorf("%d answers are remembered, want %d", len(a.known), tc.left)
			}
			a.forget(identify(service("")))
			if len(a.known) != 0 {
				t.Error("the answer about an object that is gone is remembered")
			}
		})
	}
}

// A cache may show an object for a while as it was before it was deleted.
func TestWhatWasDeletedIsNotFoundAsItWas(t *testing.T) {
	service := func(uid types.UID, version string, deleted *metav1.Time) *corev1.Service {
		return &corev1.Service{ObjectMeta: metav1.ObjectMeta{
			Name: "s", Namespace: "demo", UID: uid, ResourceVersion: version, DeletionTimestamp: deleted,
		}}
	}
	now := metav1.Now()
	for _, tc := range []struct {
		name   string
		cached *corev1.Service
		want   bool
		left   int
	}{
		{"as it was when it was deleted", service("b", "10", nil), false, 1},
		{"as it was, changed by somebody before it was deleted", service("b", "11", nil), false, 1},
		{"on its way out", service("b", "12", &now), true, 0},
		{"made again", service("c", "13", nil), true, 0},
		{"one that had its name before", service("a", "8", nil), false, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			a := &answers{}
			a.deleted(service("b", "10", nil))
			if got := a.upToDate(tc.cached); got != tc.want {
				t.Errorf("up to date: %v, want %v", got, tc.want)
			}
			if len(a.known) != tc.left {
				t.Errorf("%d answers are remembered, want %d", len(a.known), tc.left)
			}
		})
	}
}

func TestDeleteDeletesWhatWasRead(t *testing.T) {
	read := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "s", Namespace: "demo", UID: "read"}}
	a, c := applier(t, read)
	var asked client.DeleteOptions
	a.Client = interceptor.NewClient(a.Client.(client.WithWatch), interceptor.Funcs{
		Delete: func(ctx context.Context, w client.WithWatch, o client.Object, options ...client.DeleteOption) error {
			asked.ApplyOptions(options)
			return w.Delete(ctx, o, options...)
		},
	})
	c.held = read.DeepCopy() // The cache sees nothing of it.
	for range 2 {            // What is gone is deleted.
		if err := a.Delete(t.Context(), read, client.PropagationPolicy(metav1.DeletePropagationForeground)); err != nil {
			t.Fatal(err)
		}
	}
	if asked.Preconditions == nil || *asked.Preconditions.UID != "read" {
		t.Errorf("the API server may delete another of its name: %+v", asked.Preconditions)
	}
	if *asked.PropagationPolicy != metav1.DeletePropagationForeground {
		t.Errorf("its dependents are deleted %v", *asked.PropagationPolicy)
	}
	for range 2 {
		if found, err := a.Look(t.Context(), client.ObjectKeyFromObject(read), &corev1.Service{}); found || err != nil {
			t.Errorf("it is found: %v, %v", found, err)
		}
	}
	c.held = nil // The cache catches up.
	if found, err := a.Look(t.Context(), client.ObjectKeyFromObject(read), &corev1.Service{}); found || err != nil {
		t.Errorf("it is found: %v, %v", found, err)
	}
	if len(a.answers.known) != 0 {
		t.Error("it is remembered though the cache has none")
	}
}

func TestApplyLeavesAloneWhatBelongsToSomebodyElse(t *testing.T) {
	theirs := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "s", Namespace: "demo"}}
	a, c := applier(t, theirs)
	err := a.Apply(t.Context(), owner, &corev1.Service{}, wanted(80))
	var stalled *status.Stalled
	if !errors.As(err, &stalled) || stalled.Reason != ReasonNameTaken {
		t.Errorf("got %v, want %s", err, ReasonNameTaken)
	}
	if c.writes != 0 {
		t.Errorf("%d writes", c.writes)
	}
}

// Kubernetes deletes what belonged to an object that is deleted, but not at once: whoever
// makes one of the same name anew waits for that, and is not told that somebody else has it.
func TestWhatADeletedObjectLeftIsWaitedFor(t *testing.T) {
	policy := &v1alpha1.AdaptivePolicy{ObjectMeta: metav1.ObjectMeta{Name: "assistant", Namespace: "demo", UID: "new"}}
	by := func(kind, version, name string) []metav1.OwnerReference {
		return []metav1.OwnerReference{{APIVersion: version, Kind: kind, Name: name, UID: "old", Controller: new(true)}}
	}
	ours := v1alpha1.GroupVersion.String()
	for _, tc := range []struct {
		name   string
		owners []metav1.OwnerReference
		waits  bool
	}{
		{"one of the same kind and name, which was deleted", by("AdaptivePolicy", ours, "assistant"), true},
		{"nobody", nil, false},
		{"one of another name", by("AdaptivePolicy", ours, "other"), false},
		{"one of another kind", by("BaseModel", ours, "assistant"), false},
		{"a kind of somebody else's", by("AdaptivePolicy", "example.com/v1", "assistant"), false},
	} {
		theirs := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "s", Namespace: "demo", OwnerReferences: tc.owners}}
		a, c := applier(t, theirs)
		err := a.Apply(t.Context(), policy, &corev1.Service{}, wanted(80))
		if c.writes != 0 {
			t.Errorf("%s: %d writes", tc.name, c.writes)
		}
		stalled, stalls := errors.AsType[*status.Stalled](err)
		waiting, waits := errors.AsType[*status.Waiting](err)
		if waits != tc.waits || stalls == tc.waits {
			t.Errorf("%s: %v", tc.name, err)
			continue
		}
		if waits && (waiting.Reason != ReasonPreviousOwner || waiting.After == 0 || !strings.Contains(waiting.Message, "uid old")) {
			t.Errorf("%s: %+v", tc.name, waiting)
		}
		if stalls && (stalled.Reason != ReasonNameTaken || stalled.After == 0) {
			t.Errorf("%s: %+v", tc.name, stalled)
		}
	}
}
