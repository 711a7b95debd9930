package status

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/transformersquared/operator/api/v1alpha1"
)

// listTimeout bounds how long the cache may take to list objects for the metrics.
const listTimeout = 5 * time.Second

var descObjects = prometheus.NewDesc("t2_operator_objects",
	"Objects by kind and by the status of their conditions; Unknown is also what says nothing of an object as it is now. Only the manager that leads tells it.",
	[]string{"kind", "condition", "status"}, nil)

// Objects counts objects by their conditions when the metrics are asked for. It is a Runnable of
// a manager's, and tells something while that leads.
type Objects struct {
	// Client lists objects, from a cache.
	Client client.Reader
	// Registry is where it is told.
	Registry prometheus.Registerer
}

// Start implements manager.Runnable.
func (o *Objects) Start(ctx context.Context) error {
	if err := o.Registry.Register(o); err != nil {
		if _, ok := errors.AsType[prometheus.AlreadyRegisteredError](err); !ok {
			return fmt.Errorf("registering the metrics of objects: %w", err)
		}
		<-ctx.Done() // Another manager in this process, as tests have them, tells it.
		return nil
	}
	<-ctx.Done()
	o.Registry.Unregister(o)
	return nil
}

// NeedLeaderElection implements manager.LeaderElectionRunnable.
func (*Objects) NeedLeaderElection() bool { return true }

// Describe implements prometheus.Collector.
func (*Objects) Describe(ch chan<- *prometheus.Desc) { ch <- descObjects }

// Collect implements prometheus.Collector.
func (o *Objects) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), listTimeout)
	defer cancel()
	for kind, list := range map[string]client.ObjectList{
		"BaseModel": &v1alpha1.BaseModelList{}, "ExpertVector": &v1alpha1.ExpertVectorList{}, "AdaptivePolicy": &v1alpha1.AdaptivePolicyList{},
	} {
		// Nothing of them is changed here, and a copy of each would be made for every scrape.
		if err := o.Client.List(ctx, list, client.UnsafeDisableDeepCopy); err != nil {
			ch <- prometheus.NewInvalidMetric(descObjects, fmt.Errorf("listing objects of kind %s: %w", kind, err))
			continue
		}
		counts := count(kind, list)
		for what, n := range counts {
			ch <- prometheus.MustNewConstMetric(descObjects, prometheus.GaugeValue, float64(n), kind, what.condition, string(what.status))
		}
	}
}

// held is a condition and its status.
type held struct {
	condition string
	status    metav1.ConditionStatus
}

// count counts the objects of a list by their conditions, those that no object has with 0.
func count(kind string, list client.ObjectList) map[held]int {
	conditions := []string{v1alpha1.ConditionReady, v1alpha1.ConditionReconciling, v1alpha1.ConditionStalled}
	if kind == "AdaptivePolicy" {
		conditions = append(conditions, v1alpha1.ConditionAvailable)
	}
	counts := map[held]int{}
	for _, condition := range conditions {
		for _, s := range []metav1.ConditionStatus{metav1.ConditionTrue, metav1.ConditionFalse, metav1.ConditionUnknown} {
			counts[held{condition, s}] = 0
		}
	}
	each := func(obj Object) {
		for _, condition := range conditions {
			counts[held{condition, statusOf(obj, condition)}]++
		}
	}
	switch l := list.(type) {
	case *v1alpha1.BaseModelList:
		for i := range l.Items {
			each(&l.Items[i])
		}
	case *v1alpha1.ExpertVectorList:
		for i := range l.Items {
			each(&l.Items[i])
		}
	case *v1alpha1.AdaptivePolicyList:
		for i := range l.Items {
			each(&l.Items[i])
		}
	}
	return counts
}

// statusOf is a condition's status. Reconciling and Stalled are there only while they hold; what
// Ready says of an older generation says nothing of this one.
func statusOf(obj Object, condition string) metav1.ConditionStatus {
	c := meta.FindStatusCondition(*obj.StatusConditions(), condition)
	switch {
	case c == nil && (condition == v1alpha1.ConditionReconciling || condition == v1alpha1.ConditionStalled):
		return metav1.ConditionFalse
	case c == nil, c.Status == metav1.ConditionTrue && c.ObservedGeneration != obj.GetGeneration() && condition == v1alpha1.ConditionReady:
		return metav1.ConditionUnknown
	}
	return c.Status
}
