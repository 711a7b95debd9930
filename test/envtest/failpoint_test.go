package envtest

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	batchv1 "k8s.io/api/batch/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/controllers"
)

var errFailpoint = errors.New("the operator was killed here")

// failpoint lets so many writes of an operator into a namespace through, and none after
// them, as if the operator had been killed then. Events are not counted: they are written
// by the side.
type failpoint struct {
	namespace string
	allowed   int

	mu     sync.Mutex
	writes []string
	hit    chan struct{}
}

func (f *failpoint) wrap(next http.RoundTripper) http.RoundTripper {
	return roundTripper(func(r *http.Request) (*http.Response, error) {
		if r.Method != http.MethodGet && strings.Contains(r.URL.Path, "/namespaces/"+f.namespace+"/") && !strings.HasSuffix(r.URL.Path, "/events") {
			f.mu.Lock()
			over := len(f.writes) >= f.allowed
			if !over {
				f.writes = append(f.writes, r.Method+" "+r.URL.Path)
			} else if f.hit != nil {
				close(f.hit)
				f.hit = nil
			}
			f.mu.Unlock()
			if over {
				return nil, errFailpoint
			}
		}
		return next.RoundTrip(r)
	})
}

func (f *failpoint) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.writes)
}

// last is the write after which the operator died.
func (f *failpoint) last() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.writes) == 0 {
		return "before the first write"
	}
	return "after " + strings.ReplaceAll(f.writes[len(f.writes)-1], f.namespace, "…")
}

// life is what a base, an expert and a policy go through.
func (w world) life(ctx context.Context) {
	GinkgoHelper()
	w.dataset(ctx, `{"question":"1+1?","answer":"#### 2"}`)
	w.decompose(ctx, "tiny")
	w.train(ctx, w.expert("math"), "1")
	policy := w.policy("assistant", "math")
	Expect(k8s.Create(ctx, policy)).To(Succeed())
	w.roll(ctx, "assistant")
	w.becomes(ctx, policy, metav1.ConditionTrue, v1alpha1.ReasonServing)
	var expert v1alpha1.ExpertVector
	w.get(ctx, "math", &expert)
	expert.Spec.Training.Seed = new(int64(7))
	Expect(k8s.Update(ctx, &expert)).To(Succeed())
	w.finishTraining(ctx, "math", trained("2", "a", "b"))
	Eventually(func(g Gomega) {
		w.get(ctx, "math", &expert)
		g.Expect(expert.Status.Artifact).To(HaveValue(HaveField("Digest", v1alpha1.Digest(digest("2")))))
	}).Should(Succeed())
	w.becomes(ctx, &expert, metav1.ConditionTrue, v1alpha1.ReasonSucceeded)
	Eventually(func(g Gomega) {
		w.get(ctx, "assistant", policy)
		c := meta.FindStatusCondition(policy.Status.Conditions, v1alpha1.ConditionReady)
		g.Expect(c).To(HaveValue(HaveField("Status", metav1.ConditionTrue)))
		g.Expect(policy.Status.Experts).To(ConsistOf(HaveField("Digest", v1alpha1.Digest(digest("2")))))
	}).Should(Succeed())
	Expect(k8s.Delete(ctx, policy)).To(Succeed())
	Expect(k8s.Delete(ctx, &expert)).To(Succeed())
	var base v1alpha1.BaseModel
	w.get(ctx, "tiny", &base)
	Expect(base.Status.Runs).To(HaveLen(1))
	Expect(k8s.Delete(ctx, &base)).To(Succeed())
	Eventually(func() bool { return apierrors.IsNotFound(k8s.Get(ctx, client.ObjectKeyFromObject(&base), &base)) }).Should(BeTrue())
}

var _ = Describe("An operator that is killed", Serial, func() {
	It("between any two writes of a life goes on where it was", func(ctx SpecContext) {
		before := config
		DeferCleanup(func() {
			operator.stop()
			operator = start()
		})
		for n := 0; ; n++ {
			w := newWorld(ctx)
			killed := make(chan struct{})
			f := &failpoint{namespace: w.namespace, allowed: n, hit: killed}
			operator.stop()
			mortal := rest.CopyConfig(before)
			mortal.Wrap(f.wrap)
			own := ctrl.Options{Cache: controllers.CacheOptions(w.namespace)}
			operator = startWith(mortal, own)

			// Whoever runs the operator starts it again.
			again, end := make(chan struct{}), make(chan struct{})
			go func() {
				defer GinkgoRecover()
				defer close(again)
				select {
				case <-killed:
					operator.stop()
					operator = startWith(before, own)
				case <-end:
				}
			}()
			made := w.jobsEver(ctx)
			w.life(ctx)
			close(end)
			<-again

			// Three runs, a Job each, however often it was begun.
			Expect(made()).To(HaveLen(3), "Jobs made, the operator killed %s", f.last())
			var events eventsv1.EventList
			Expect(k8s.List(ctx, &events, client.InNamespace(w.namespace))).To(Succeed())
			Expect(len(events.Items)).To(BeNumerically("<", 40), "events, the operator killed %s", f.last())
			if f.count() < n {
				AddReportEntry("writes of a life", fmt.Sprint(f.count()))
				return
			}
		}
	}, SpecTimeout(15*time.Minute))
})

// jobsEver watches which Jobs are made in a namespace from now on; the function that is
// returned ends that and names them.
func (w world) jobsEver(ctx context.Context) func() []string {
	GinkgoHelper()
	watching, err := client.NewWithWatch(config, client.Options{Scheme: k8s.Scheme()})
	Expect(err).NotTo(HaveOccurred())
	watcher, err := watching.Watch(ctx, &batchv1.JobList{}, client.InNamespace(w.namespace))
	Expect(err).NotTo(HaveOccurred())
	seen := map[string]bool{}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for event := range watcher.ResultChan() {
			if job, ok := event.Object.(*batchv1.Job); ok {
				seen[string(job.UID)] = true
			}
		}
	}()
	return func() []string {
		watcher.Stop()
		<-done
		var names []string
		for uid := range seen {
			names = append(names, uid)
		}
		return names
	}
}
