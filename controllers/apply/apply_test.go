package apply

import (
	"context"
	"errors"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	coreac "k8s.io/client-go/applyconfigurations/core/v1"
	metaac "k8s.io/client-go/applyconfigurations/meta/v1"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

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

func applier(t *testing.T, objects ...client.Object) (Applier, *int) {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := clientgoscheme.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	writes := new(int)
	c := fake.NewClientBuilder().WithScheme(scheme).WithObjects(objects...).WithInterceptorFuncs(interceptor.Funcs{
		Apply: func(ctx context.Context, c client.WithWatch, config runtime.ApplyConfiguration, opts ...client.ApplyOption) error {
			*writes++
			return c.Apply(ctx, config, opts...)
		},
	}).Build()
	return Applier{Client: c, Live: c}, writes
}

func TestApplyWritesOnlyWhatWouldChange(t *testing.T) {
	a, writes := applier(t)
	ctx := t.Context()
	apply := func(config *coreac.ServiceApplyConfiguration, wantFound bool) {
		t.Helper()
		found, err := a.Apply(ctx, owner, &corev1.Service{}, config)
		if err != nil {
			t.Fatal(err)
		}
		if found != wantFound {
			t.Errorf("found: %v", found)
		}
	}
	wantWrites := func(n int, when string) {
		t.Helper()
		if *writes != n {
			t.Errorf("%d writes %s, want %d", *writes, when, n)
		}
	}
	apply(wanted(80), false)
	wantWrites(1, "for a new object")
	apply(wanted(80), true)
	apply(wanted(80), true)
	wantWrites(1, "when nothing changed")

	var live corev1.Service
	key := client.ObjectKey{Namespace: "demo", Name: "s"}
	if err := a.Client.Get(ctx, key, &live); err != nil {
		t.Fatal(err)
	}
	live.Spec.Selector["app"] = "somebody else's"
	if err := a.Client.Update(ctx, &live); err != nil {
		t.Fatal(err)
	}
	apply(wanted(80), true)
	wantWrites(2, "after somebody changed a field")
	if err := a.Client.Get(ctx, key, &live); err != nil {
		t.Fatal(err)
	}
	if live.Spec.Selector["app"] != "t2" {
		t.Errorf("the selector is %v", live.Spec.Selector)
	}
	apply(wanted(8080), true)
	wantWrites(3, "after the wish changed")
}

func TestApplyLeavesAloneWhatBelongsToSomebodyElse(t *testing.T) {
	theirs := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "s", Namespace: "demo"}}
	a, writes := applier(t, theirs)
	_, err := a.Apply(t.Context(), owner, &corev1.Service{}, wanted(80))
	var stalled *status.Stalled
	if !errors.As(err, &stalled) || stalled.Reason != ReasonNameTaken {
		t.Errorf("got %v, want %s", err, ReasonNameTaken)
	}
	if *writes != 0 {
		t.Errorf("%d writes", *writes)
	}
}
