package upgrade

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/test/e2e/kube"
)

// witness watches every status that is written, and writes down what must not be:
// something that was Ready and is not, a policy that does not answer, a Job that
// makes again what there is.
type witness struct {
	mu   sync.Mutex
	told []string
	// stand are the bases and experts that have been Ready and the policies that have
	// been Available, jobs those that were there when the witness began.
	stand map[types.UID]bool
	jobs  map[types.UID]bool
	// underWay are experts and policies that Jobs may work for.
	underWay map[string]bool
	seen     map[string]int
	// end ends it.
	end func()
}

// witnessing starts a witness.
func witnessing(ctx context.Context) *witness {
	GinkgoHelper()
	w := &witness{stand: map[types.UID]bool{}, jobs: map[types.UID]bool{}, underWay: map[string]bool{}, seen: map[string]int{}}
	var jobs batchv1.JobList
	Expect(cluster.List(ctx, &jobs, client.InNamespace(namespace))).To(Succeed())
	for _, job := range jobs.Items {
		w.jobs[job.UID] = true
	}
	watching, stop := context.WithCancel(context.WithoutCancel(ctx))
	var all sync.WaitGroup
	for _, list := range []client.ObjectList{
		&v1alpha1.BaseModelList{}, &v1alpha1.ExpertVectorList{}, &v1alpha1.AdaptivePolicyList{}, &batchv1.JobList{}, &corev1.PodList{},
	} {
		all.Go(func() { w.watch(watching, list) })
	}
	w.end = func() {
		stop()
		all.Wait()
	}
	return w
}

// watch sees what is written until ctx is done. A watch ends where the kind's
// definition is exchanged; the next one begins with what is there then.
func (w *witness) watch(ctx context.Context, list client.ObjectList) {
	for ctx.Err() == nil {
		events, err := cluster.Watch(ctx, list, client.InNamespace(namespace))
		if err != nil {
			// The kind's definition is being exchanged: how often that is asked for is
			// bounded by the client.
			if ctx.Err() == nil && !apierrors.IsNotFound(err) && !meta.IsNoMatchError(err) {
				w.tell("watching %T: %v", list, err)
				return
			}
			continue
		}
		for event := range events.ResultChan() {
			object, isObject := event.Object.(client.Object)
			if !isObject || event.Type == watch.Bookmark {
				continue // The reason why it ends.
			}
			w.look(event.Type, object)
		}
		events.Stop()
	}
}

func (w *witness) look(event watch.EventType, object client.Object) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seen[fmt.Sprintf("%T", object)]++
	if event == watch.Deleted {
		switch object.(type) {
		case *corev1.Pod, *batchv1.Job: // The record has those Jobs that stay.
		default:
			w.note("%T %s was deleted", object, object.GetName())
		}
		return
	}
	switch o := object.(type) {
	case *v1alpha1.AdaptivePolicy:
		// Ready is not asked for: while pods are replaced, not every one is as it is to be.
		w.stands(o, v1alpha1.ConditionAvailable)
		w.mustHold(o, v1alpha1.ConditionStalled, false)
	case kube.Conditioned:
		if w.stands(o, v1alpha1.ConditionReady) {
			w.mustHold(o, v1alpha1.ConditionReconciling, false)
		}
		w.mustHold(o, v1alpha1.ConditionStalled, false)
	case *batchv1.Job:
		seen := w.jobs[o.UID]
		w.jobs[o.UID] = true
		if !seen && works(o) && !w.underWay[o.Labels[v1alpha1.LabelExpert]] && !w.underWay[o.Labels[v1alpha1.LabelEvaluation]] {
			w.note("Job %s was made, to %s", o.Name, o.Labels[v1alpha1.LabelComponent])
		}
	case *corev1.Pod:
		for _, c := range o.Status.ContainerStatuses {
			if c.RestartCount > 0 {
				w.note("container %s of pod %s was started again: %+v", c.Name, o.Name, c.LastTerminationState)
			}
		}
	}
}

// stands reports whether a condition has held, and notes it where it does no more.
func (w *witness) stands(o kube.Conditioned, condition string) bool {
	if holds(o, condition) {
		w.stand[o.GetUID()] = true
	}
	if w.stand[o.GetUID()] {
		w.mustHold(o, condition, true)
	}
	return w.stand[o.GetUID()]
}

func (w *witness) mustHold(o kube.Conditioned, condition string, wanted bool) {
	if holds(o, condition) == wanted {
		return
	}
	w.note("%T %s: %s is not %t: %+v", o, o.GetName(), condition, wanted, meta.FindStatusCondition(*o.StatusConditions(), condition))
}

// expect lets Jobs work for an expert or a policy, or not any more.
func (w *witness) expect(name string, work bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.underWay[name] = work
}

func (w *witness) tell(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.note(format, args...)
}

func (w *witness) note(format string, args ...any) {
	w.told = append(w.told, time.Now().Format(time.TimeOnly)+" "+fmt.Sprintf(format, args...))
}

// wrongs are what must not have been, so far.
func (w *witness) wrongs() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.told)
}

// kinds counts what was seen.
func (w *witness) kinds() map[string]int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return maps.Clone(w.seen)
}
