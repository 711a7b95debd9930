package envtest

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/controllers"
)

// annotationStep is what a witness writes to know that it has seen all before.
const annotationStep = "witness/step"

// witness sees every status that is written of one object, and what it says of
// each generation.
type witness struct {
	mu sync.Mutex
	// realised is the latest generation of which all is there: by the test, which
	// plays the kubelet and Kubernetes' own controllers.
	realised int64
	// generation and step are the last that were seen, statuses all.
	generation int64
	step       string
	statuses   []string
	lies       []string
	object     object
}

// watching begins to watch an object whose present generation is realised.
func (w world) watching(ctx context.Context, obj object) *witness {
	GinkgoHelper()
	scheme, err := controllers.Scheme()
	Expect(err).NotTo(HaveOccurred())
	watcher, err := client.NewWithWatch(config, client.Options{Scheme: scheme})
	Expect(err).NotTo(HaveOccurred())
	w.get(ctx, obj.GetName(), obj)
	s := &witness{realised: obj.GetGeneration(), object: obj}
	var list client.ObjectList
	switch obj.(type) {
	case *v1alpha1.BaseModel:
		list = &v1alpha1.BaseModelList{}
	case *v1alpha1.ExpertVector:
		list = &v1alpha1.ExpertVectorList{}
	case *v1alpha1.AdaptivePolicy:
		list = &v1alpha1.AdaptivePolicyList{}
	}
	events, err := watcher.Watch(ctx, list, client.InNamespace(w.namespace), client.MatchingFields{"metadata.name": obj.GetName()})
	Expect(err).NotTo(HaveOccurred())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for event := range events.ResultChan() {
			s.see(event)
		}
	}()
	DeferCleanup(func() {
		events.Stop()
		<-done
	})
	return s
}

func (s *witness) see(event watch.Event) {
	o, ok := event.Object.(object)
	if !ok {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.generation, s.step = o.GetGeneration(), o.GetAnnotations()[annotationStep]
	c := meta.FindStatusCondition(*o.StatusConditions(), v1alpha1.ConditionReady)
	if c == nil {
		return
	}
	said := fmt.Sprintf("generation %d: Ready=%s for generation %d (%s: %s)", o.GetGeneration(), c.Status, c.ObservedGeneration, c.Reason, c.Message)
	if len(s.statuses) == 0 || s.statuses[len(s.statuses)-1] != said {
		s.statuses = append(s.statuses, said)
	}
	if c.Status == metav1.ConditionTrue && c.ObservedGeneration > s.realised {
		s.lies = append(s.lies, said)
	}
}

// realise says that all that a generation asks for is there from now on.
func (s *witness) realise(generation int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.realised = generation
}

// truthful makes sure that no status said Ready of a generation before all of it
// was there: of all that were written until now.
func (w world) truthful(ctx context.Context, s *witness, when string) {
	GinkgoHelper()
	step := fmt.Sprint(time.Now().UnixNano())
	patch := client.RawPatch("application/merge-patch+json", fmt.Appendf(nil, `{"metadata":{"annotations":{%q:%q}}}`, annotationStep, step))
	fresh := s.object.DeepCopyObject().(object)
	Expect(k8s.Patch(ctx, fresh, patch)).To(Succeed())
	Eventually(func() string {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.step
	}).WithPolling(5 * time.Millisecond).Should(Equal(step))
	s.mu.Lock()
	defer s.mu.Unlock()
	Expect(s.lies).To(BeEmpty(), "%s, Ready was said of a generation before it was realised; all that was said:\n%s", when, strings.Join(s.statuses, "\n"))
}

// stays makes sure that an object which waits for the test is not Ready for its
// present generation, neither at once nor when it is looked at again and again.
func (w world) stays(ctx context.Context, s *witness, when string) {
	GinkgoHelper()
	ready := func(g Gomega) {
		g.Expect(k8s.Get(ctx, client.ObjectKeyFromObject(s.object), s.object)).To(Succeed())
		c := meta.FindStatusCondition(*s.object.StatusConditions(), v1alpha1.ConditionReady)
		g.Expect(c.ObservedGeneration).To(Equal(s.object.GetGeneration()))
		g.Expect(c.Status).NotTo(Equal(metav1.ConditionTrue), "%s: %s", when, c.Message)
	}
	// Nothing is written by the test at first: the operator's first status of the
	// generation would be refused for it, and a lie in it would go unseen.
	Eventually(ready).Should(Succeed())
	Consistently(ready).WithTimeout(150 * time.Millisecond).WithPolling(10 * time.Millisecond).Should(Succeed())
	for range 3 {
		w.truthful(ctx, s, when) // What it writes has the operator look again.
	}
	Eventually(ready).Should(Succeed())
	w.truthful(ctx, s, when)
}
