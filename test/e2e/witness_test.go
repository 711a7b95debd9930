package e2e

import (
	"context"
	"fmt"
	"sync"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/transformersquared/operator/api/v1alpha1"
)

// truth watches every status that is written of a policy, and asks the cluster at
// once whether one that says Ready is true. It returns what makes sure that none
// was untrue, and how many said Ready of a later generation than the present one.
func truth(ctx context.Context, policy *v1alpha1.AdaptivePolicy) (lies func() []string, ready func() int) {
	GinkgoHelper()
	Expect(cluster.Get(ctx, client.ObjectKeyFromObject(policy), policy)).To(Succeed())
	first := policy.Generation
	events, err := cluster.Watch(ctx, &v1alpha1.AdaptivePolicyList{},
		client.InNamespace(policy.Namespace), client.MatchingFields{"metadata.name": policy.Name})
	Expect(err).NotTo(HaveOccurred())

	var mu sync.Mutex
	var told []string
	said := 0
	done := make(chan struct{})
	go func() {
		defer close(done)
		for event := range events.ResultChan() {
			generation, isReady := readyGeneration(event)
			if !isReady || generation <= first {
				continue
			}
			lie := untrue(ctx, policy, generation)
			mu.Lock()
			said++
			if lie != "" {
				told = append(told, fmt.Sprintf("Ready of generation %d: %s", generation, lie))
			}
			mu.Unlock()
		}
	}()
	DeferCleanup(func() {
		events.Stop()
		<-done
	})
	lies = func() []string {
		mu.Lock()
		defer mu.Unlock()
		return append([]string(nil), told...)
	}
	ready = func() int {
		mu.Lock()
		defer mu.Unlock()
		return said
	}
	return lies, ready
}

func readyGeneration(event watch.Event) (int64, bool) {
	policy, ok := event.Object.(*v1alpha1.AdaptivePolicy)
	if !ok {
		return 0, false
	}
	c := meta.FindStatusCondition(policy.Status.Conditions, v1alpha1.ConditionReady)
	if c == nil || c.Status != metav1.ConditionTrue {
		return 0, false
	}
	return c.ObservedGeneration, true
}

// untrue says what is missing of a policy that says it is Ready. What the cluster
// answers is later than the status, so that nothing is blamed that came after; a
// policy that was changed again meanwhile is not judged.
func untrue(ctx context.Context, policy *v1alpha1.AdaptivePolicy, generation int64) string {
	var d appsv1.Deployment
	if err := cluster.Get(ctx, client.ObjectKeyFromObject(policy), &d); err != nil {
		return err.Error()
	}
	var pods corev1.PodList
	if err := cluster.List(ctx, &pods, client.InNamespace(policy.Namespace), client.MatchingLabels{v1alpha1.LabelPolicy: policy.Name}); err != nil {
		return err.Error()
	}
	var now v1alpha1.AdaptivePolicy
	if err := cluster.Get(ctx, client.ObjectKeyFromObject(policy), &now); err != nil {
		return err.Error()
	}
	if now.Generation != generation {
		return ""
	}
	want := ptr.Deref(now.Spec.Serving.Replicas, 1)
	s := d.Status
	if s.ObservedGeneration < d.Generation || s.UpdatedReplicas != want || s.AvailableReplicas != want || s.Replicas != want {
		return fmt.Sprintf("%d pods are asked for; Deployment of generation %d: %+v", want, d.Generation, s)
	}
	present := int32(0)
	for i := range pods.Items {
		pod := &pods.Items[i]
		if pod.DeletionTimestamp.IsZero() && pod.Annotations[v1alpha1.AnnotationTemplate] == d.Spec.Template.Annotations[v1alpha1.AnnotationTemplate] {
			present++
		}
	}
	if present != want {
		return fmt.Sprintf("%d pods are asked for, %d are of the version that is", want, present)
	}
	return ""
}
