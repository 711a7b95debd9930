package index

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/transformersquared/operator/api/v1alpha1"
)

func named(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Name: name, Namespace: "demo"} }

func configMap(name string) v1alpha1.Dataset {
	return v1alpha1.Dataset{ConfigMap: &v1alpha1.ConfigMapKeyRef{Name: name, Key: "data"}}
}

func expert(name, base string, change ...func(*v1alpha1.ExpertVector)) *v1alpha1.ExpertVector {
	e := &v1alpha1.ExpertVector{ObjectMeta: named(name), Spec: v1alpha1.ExpertVectorSpec{BaseModelRef: v1alpha1.LocalRef{Name: base}}}
	for _, c := range change {
		c(e)
	}
	return e
}

func trainedOn(train, validation v1alpha1.Dataset) func(*v1alpha1.ExpertVector) {
	return func(e *v1alpha1.ExpertVector) {
		e.Spec.Training = &v1alpha1.TrainingSpec{Dataset: v1alpha1.TrainingDataset{Train: train, Validation: validation}}
	}
}

func labelled(key, value string) func(*v1alpha1.ExpertVector) {
	return func(e *v1alpha1.ExpertVector) { e.Labels = map[string]string{key: value} }
}

func policy(name, base string, change ...func(*v1alpha1.AdaptivePolicy)) *v1alpha1.AdaptivePolicy {
	p := &v1alpha1.AdaptivePolicy{ObjectMeta: named(name), Spec: v1alpha1.AdaptivePolicySpec{BaseModelRef: v1alpha1.LocalRef{Name: base}}}
	for _, c := range change {
		c(p)
	}
	return p
}

func selecting(selector metav1.LabelSelector) func(*v1alpha1.AdaptivePolicy) {
	return func(p *v1alpha1.AdaptivePolicy) { p.Spec.ExpertSelector = &selector }
}

func onClaim(name, claim string) *v1alpha1.BaseModel {
	return &v1alpha1.BaseModel{ObjectMeta: named(name), Spec: v1alpha1.BaseModelSpec{Storage: v1alpha1.StorageSpec{ExistingClaim: claim}}}
}

// builder is a field indexer that a fake client is built from.
type builder struct{ *fake.ClientBuilder }

func (b builder) IndexField(_ context.Context, o client.Object, field string, values client.IndexerFunc) error {
	b.WithIndex(o, field, values)
	return nil
}

func indexed(t *testing.T, objects ...client.Object) client.Client {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	b := builder{fake.NewClientBuilder().WithScheme(scheme).WithObjects(objects...)}
	if err := Register(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	return b.Build()
}

// woken are the names of the objects that an event about an object concerns.
func woken(t *testing.T, h handler.EventHandler, about client.Object) []string {
	t.Helper()
	queue := workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[reconcile.Request]())
	defer queue.ShutDown()
	h.Create(t.Context(), event.CreateEvent{Object: about}, queue)
	var names []string
	for queue.Len() > 0 {
		request, _ := queue.Get()
		queue.Done(request)
		if request.Namespace != about.GetNamespace() {
			t.Errorf("%v is of another namespace than %s", request, about.GetName())
		}
		names = append(names, request.Name)
	}
	slices.Sort(names)
	return names
}

func TestReferrers(t *testing.T) {
	elsewhere := expert("far", "tiny")
	elsewhere.Namespace = "other"
	c := indexed(t,
		expert("math", "tiny", trainedOn(configMap("sums"), configMap("sums"))),
		expert("code", "large", trainedOn(configMap("programs"), configMap("sums"))),
		expert("imported", "tiny"), elsewhere,
		policy("assistant", "tiny"), policy("other", "large"),
		onClaim("tiny", "shared"), onClaim("large", ""),
	)
	for _, tc := range []struct {
		name    string
		handler handler.EventHandler
		about   client.Object
		want    []string
	}{
		{"experts of a model", Referrers(c, NewExpertVectors, ByBaseModel), &v1alpha1.BaseModel{ObjectMeta: named("tiny")}, []string{"imported", "math"}},
		{"policies of a model", Referrers(c, NewAdaptivePolicies, ByBaseModel), &v1alpha1.BaseModel{ObjectMeta: named("tiny")}, []string{"assistant"}},
		{"nobody's model", Referrers(c, NewExpertVectors, ByBaseModel), &v1alpha1.BaseModel{ObjectMeta: named("new")}, nil},
		{"experts of a data set, once each", Referrers(c, NewExpertVectors, ByDataset), &corev1.ConfigMap{ObjectMeta: named("sums")}, []string{"code", "math"}},
		{"experts of a data set to train on", Referrers(c, NewExpertVectors, ByDataset), &corev1.ConfigMap{ObjectMeta: named("programs")}, []string{"code"}},
		{"models on a claim", Referrers(c, NewBaseModels, ByClaim), &corev1.PersistentVolumeClaim{ObjectMeta: named("shared")}, []string{"tiny"}},
		{"a claim that no model names", Referrers(c, NewBaseModels, ByClaim), &corev1.PersistentVolumeClaim{ObjectMeta: named("large")}, nil},
		{"an index that is not there", Referrers(c, NewExpertVectors, ByClaim), &corev1.ConfigMap{ObjectMeta: named("sums")}, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, woken(t, tc.handler, tc.about)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestPoliciesOf(t *testing.T) {
	experts := func(names ...string) func(*v1alpha1.AdaptivePolicy) {
		return func(p *v1alpha1.AdaptivePolicy) {
			for _, name := range names {
				p.Spec.Experts = append(p.Spec.Experts, v1alpha1.PolicyExpert{Name: name})
			}
		}
	}
	had := func(name string) func(*v1alpha1.AdaptivePolicy) {
		return func(p *v1alpha1.AdaptivePolicy) { p.Status.Experts = []v1alpha1.PolicyExpertStatus{{Name: name}} }
	}
	good := selecting(metav1.LabelSelector{MatchLabels: map[string]string{"tier": "good"}})
	c := indexed(t,
		policy("names", "tiny", experts("code", "math")),
		policy("names-of-another-base", "large", experts("math")),
		policy("selects", "tiny", good),
		policy("selects-all", "tiny", selecting(metav1.LabelSelector{})),
		policy("selects-of-another-base", "large", selecting(metav1.LabelSelector{})),
		policy("served-it", "tiny", had("math")),
		policy("knows-it-not", "tiny", experts("code")),
		policy("selects-nothing", "tiny", selecting(metav1.LabelSelector{
			MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "tier", Operator: "Near"}},
		})),
	)
	for _, tc := range []struct {
		name  string
		about client.Object
		want  []string
	}{
		{"one with the label", expert("math", "tiny", labelled("tier", "good")), []string{"names", "names-of-another-base", "selects", "selects-all", "served-it"}},
		{"one that lost the label", expert("math", "tiny"), []string{"names", "names-of-another-base", "selects-all", "served-it"}},
		{"one that nobody names", expert("new", "tiny"), []string{"selects-all"}},
		{"one of another base", expert("new", "large"), []string{"selects-of-another-base"}},
		{"what is no expert", &v1alpha1.BaseModel{ObjectMeta: named("math")}, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, woken(t, PoliciesOf(c), tc.about)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestOneObjectIsWokenByAnother(t *testing.T) {
	pod := func(labels map[string]string) *corev1.Pod {
		p := &corev1.Pod{ObjectMeta: named("pod")}
		p.Labels = labels
		return p
	}
	ofTraining := Labelled(v1alpha1.LabelExpert, v1alpha1.ComponentTrain)
	for _, tc := range []struct {
		name    string
		handler handler.EventHandler
		about   client.Object
		want    []string
	}{
		{"a model by its expert", BaseModelOf(), expert("math", "tiny"), []string{"tiny"}},
		{"a model by its policy", BaseModelOf(), policy("assistant", "tiny"), []string{"tiny"}},
		{"no model by what refers to none", BaseModelOf(), &corev1.Pod{ObjectMeta: named("pod")}, nil},
		{"an expert by its pod", ofTraining, pod(map[string]string{v1alpha1.LabelComponent: v1alpha1.ComponentTrain, v1alpha1.LabelExpert: "math"}), []string{"math"}},
		{"no expert by a pod of another kind", ofTraining, pod(map[string]string{v1alpha1.LabelComponent: v1alpha1.ComponentServe, v1alpha1.LabelExpert: "math"}), nil},
		{"no expert by a pod that names none", ofTraining, pod(map[string]string{v1alpha1.LabelComponent: v1alpha1.ComponentTrain}), nil},
		{"no expert by a pod without labels", ofTraining, pod(nil), nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, woken(t, tc.handler, tc.about)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// refuses is an indexer that takes nothing.
type refuses struct{}

var errTaken = errors.New("indexer conflict")

func (refuses) IndexField(context.Context, client.Object, string, client.IndexerFunc) error {
	return errTaken
}

func TestAnIndexThatCannotBeRegisteredIsAnError(t *testing.T) {
	if err := Register(t.Context(), refuses{}); !errors.Is(err, errTaken) {
		t.Errorf("got %v, want %v", err, errTaken)
	}
}
