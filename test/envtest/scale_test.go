package envtest

import (
	"context"
	"fmt"
	"io"
	"maps"
	"math"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	dto "github.com/prometheus/client_model/go"
	"golang.org/x/sync/errgroup"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"
	operatormetrics "sigs.k8s.io/controller-runtime/pkg/metrics"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/controllers"
	"github.com/transformersquared/operator/runtime/contract"
)

// Numbers of objects, unless T2_SCALE says how many experts: `make scale` takes 1,000, and
// a policy for every twenty.
const (
	fewExperts       = 60
	expertsPerPolicy = 20
	// trainingAtOnce is how many of them run at a time.
	trainingAtOnce = 100
)

// calls counts the requests of an operator to the API server, by verb and resource; watches
// are not counted.
type calls struct {
	mu    sync.Mutex
	total int
	by    map[string]int
}

func (c *calls) wrap(next http.RoundTripper) http.RoundTripper {
	return roundTripper(func(r *http.Request) (*http.Response, error) {
		if r.URL.Query().Get("watch") == "" {
			parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
			resource := parts[len(parts)-1]
			for i, p := range parts {
				if p == "namespaces" && len(parts) > i+2 {
					resource = strings.Join(append([]string{parts[i+2]}, parts[min(i+4, len(parts)):]...), "/")
				}
			}
			c.mu.Lock()
			c.total++
			c.by[r.Method+" "+resource]++
			c.mu.Unlock()
		}
		return next.RoundTrip(r)
	})
}

// take returns how many calls there were since the last time, and of which kinds.
func (c *calls) take() (int, string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n, text := c.total, fmt.Sprint(c.by)
	c.total, c.by = 0, map[string]int{}
	return n, text
}

// writes is how many of the calls since the last time were no reads.
func (c *calls) writes() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := 0
	for kind, times := range c.by {
		if !strings.HasPrefix(kind, http.MethodGet) {
			n += times
		}
	}
	return n
}

// ofController hands over each of the operator's metrics of a name that is a controller's.
func ofController(metric, controller string, each func(*dto.Metric)) {
	GinkgoHelper()
	families, err := operatormetrics.Registry.Gather()
	Expect(err).NotTo(HaveOccurred())
	for _, family := range families {
		if family.GetName() != metric {
			continue
		}
		for _, m := range family.GetMetric() {
			for _, label := range m.GetLabel() {
				if label.GetName() == "controller" && label.GetValue() == controller {
					each(m)
				}
			}
		}
	}
}

// reconciliations is how many of a controller there were.
func reconciliations(controller string) (n float64) {
	GinkgoHelper()
	ofController("controller_runtime_reconcile_total", controller, func(m *dto.Metric) { n += m.GetCounter().GetValue() })
	return n
}

// reconcilers are the controllers that work on our objects.
var reconcilers = []string{"basemodel", "expertvector", "adaptivepolicy"}

// process is the key of working for what this process has used.
const process = ""

// working is what the controllers have done since it was made, and the processor time of
// this process: that of the operator, and of what this test plays.
type working map[string]work

// work is how many times something was done, in how many seconds, and how many of these
// times took at most as long as each bound.
type work struct {
	times, seconds float64
	within         map[float64]float64
}

func startWorking() working {
	GinkgoHelper()
	w := working{}
	for _, kind := range reconcilers {
		at := work{within: map[float64]float64{}}
		ofController("controller_runtime_reconcile_time_seconds", kind, func(m *dto.Metric) {
			at.times += float64(m.GetHistogram().GetSampleCount())
			at.seconds += m.GetHistogram().GetSampleSum()
			for _, b := range m.GetHistogram().GetBucket() {
				at.within[b.GetUpperBound()] += float64(b.GetCumulativeCount())
			}
		})
		w[kind] = at
	}
	w[process] = work{seconds: processorTime().Seconds()}
	return w
}

// bound is the least of the bounds within which a part of what was done since lies.
func (w work) bound(since work, part float64) time.Duration {
	for _, bound := range slices.Sorted(maps.Keys(w.within)) {
		if w.within[bound]-since.within[bound] >= part*(w.times-since.times) {
			return time.Duration(bound * float64(time.Second))
		}
	}
	return math.MaxInt64
}

// String says how many reconciliations there were since, and how long they took.
func (w working) String() string {
	var text []string
	now := startWorking()
	for _, kind := range reconcilers {
		is, was := now[kind], w[kind]
		times, seconds := is.times-was.times, is.seconds-was.seconds
		line := fmt.Sprintf("%s %.0f", kind, times)
		if times > 0 {
			line += fmt.Sprintf(", %.1f ms each, half within %s, 99 %% within %s", 1000*seconds/times, is.bound(was, 0.5), is.bound(was, 0.99))
		}
		text = append(text, line)
	}
	text = append(text, fmt.Sprintf("%.3f s of processor time", now[process].seconds-w[process].seconds))
	return strings.Join(text, "; ")
}

// processorTime is what this process has used: the operator, and what this test plays.
func processorTime() time.Duration {
	GinkgoHelper()
	var u syscall.Rusage
	Expect(syscall.Getrusage(syscall.RUSAGE_SELF, &u)).To(Succeed())
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// heap is what is in use, in MiB: the operator's caches and what it works with, and what
// this test holds.
func heap() float64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapInuse) / (1 << 20)
}

// In groups of as many as the API server takes side by side.
func each(n int, do func(i int) error) {
	GinkgoHelper()
	var group errgroup.Group
	group.SetLimit(16)
	for i := range n {
		group.Go(func() error { return do(i) })
	}
	Expect(group.Wait()).To(Succeed())
}

var _ = Describe("Many experts", Serial, func() {
	It("cost the same each, and no write while nothing happens", func(ctx SpecContext) {
		n := fewExperts
		if asked := os.Getenv("T2_SCALE"); asked != "" {
			var err error
			n, err = strconv.Atoi(asked)
			Expect(err).NotTo(HaveOccurred())
		}
		w := newWorld(ctx)
		counted := alone(w)
		policies := n / expertsPerPolicy
		many := begin(ctx, w, policies)

		By("living one life after the other")
		counted.take()
		worked := startWorking()
		many.live(0, n/4)
		first, kinds := counted.take()
		AddReportEntry("calls of the first quarter", fmt.Sprintf("%.1f each: %s", float64(first)/float64(n/4), kinds))
		many.live(n/4, n)
		rest, kinds := counted.take()
		AddReportEntry("calls of the rest", fmt.Sprintf("%.1f each: %s", float64(rest)/float64(n-n/4), kinds))
		Expect(float64(rest)/float64(n-n/4)).To(BeNumerically("<", 1.3*float64(first)/float64(n/4)+1), "a life costs more the more there are")
		AddReportEntry("reconciliations", worked.String())

		By("serving")
		worked = startWorking()
		for i := range policies {
			w.roll(ctx, fmt.Sprintf("p-%d", i))
		}
		Eventually(func(g Gomega) {
			var list v1alpha1.AdaptivePolicyList
			g.Expect(k8s.List(ctx, &list, client.InNamespace(w.namespace))).To(Succeed())
			g.Expect(list.Items).To(HaveLen(policies))
			for _, p := range list.Items {
				g.Expect(meta.IsStatusConditionTrue(p.Status.Conditions, v1alpha1.ConditionReady)).To(BeTrue(), "%s: %+v", p.Name, p.Status.Conditions)
			}
		}).WithTimeout(2 * time.Minute).WithPolling(time.Second).Should(Succeed())
		AddReportEntry("reconciliations of policies that begin to serve", worked.String())
		AddReportEntry("heap, MiB", heap())
		Expect(heap()).To(BeNumerically("<", 300))

		By("doing nothing")
		Eventually(func(g Gomega) { // Once what was under way has ended.
			counted.take()
			worked := startWorking()
			time.Sleep(5 * time.Second)
			AddReportEntry("5 idle seconds", worked.String())
			writes := counted.writes()
			idle, kinds := counted.take()
			g.Expect(writes).To(BeZero(), kinds)
			AddReportEntry("calls of 5 idle seconds", fmt.Sprintf("%d: %s", idle, kinds))
		}).WithTimeout(time.Minute).Should(Succeed())

		By("saying how far they are")
		running := min(trainingAtOnce, n)
		many.train(n, n+running)
		woke := func() [2]float64 { return [2]float64{reconciliations("adaptivepolicy"), reconciliations("basemodel")} }
		settled := [2]float64{}
		Eventually(func() bool { // Until nobody has to do with their beginning any more.
			was := settled
			settled = woke()
			return was == settled
		}).WithPolling(2 * time.Second).WithTimeout(2 * time.Minute).Should(BeTrue())
		expertsWoke := reconciliations("expertvector")
		counted.take()
		const watched = 10 * time.Second
		worked = startWorking()
		time.Sleep(watched)
		AddReportEntry("reconciliations in 10 s", worked.String())
		told, kinds := counted.take()
		AddReportEntry("calls of so many trainings in 10 s", fmt.Sprintf("%d trainings, %d calls: %s", running, told, kinds))
		after := woke()
		// Each asks its pods what they serve every 30 s.
		Expect(after[0]-settled[0]).To(BeNumerically("<=", policies), "progress wakes policies")
		Expect(after[1]-settled[1]).To(BeNumerically("<=", 1), "progress wakes the base")
		AddReportEntry("reconciliations of experts in 10 s", reconciliations("expertvector")-expertsWoke)
		AddReportEntry("heap, MiB", heap())
	}, SpecTimeout(20*time.Minute))

	It("wake neither policies nor the base nor themselves by how far they are", func(ctx SpecContext) {
		w := newWorld(ctx)
		alone(w)
		few := begin(ctx, w, 1)
		few.live(0, 1)
		w.roll(ctx, "p-0")
		const training, seconds = 5, 3
		few.train(1, 1+training)
		Eventually(func(g Gomega) { // A policy's pods are asked what they serve every 30 s.
			told := few.iterations(g)
			policies, bases, experts := reconciliations("adaptivepolicy"), reconciliations("basemodel"), reconciliations("expertvector")
			time.Sleep(seconds * time.Second)
			g.Expect(few.iterations(g)).To(HaveEach(Not(BeElementOf(told))))
			g.Expect(reconciliations("adaptivepolicy")-policies).To(BeZero(), "reconciliations of the policy")
			g.Expect(reconciliations("basemodel")-bases).To(BeZero(), "reconciliations of the base")
			// Each pod is asked every second, and is further each time.
			g.Expect(reconciliations("expertvector")-experts).To(BeNumerically("<=", training*(seconds+1)), "reconciliations of experts")
		}).WithTimeout(50 * time.Second).WithPolling(time.Millisecond).Should(Succeed())
	}, SpecTimeout(2*time.Minute))
})

// alone starts the operator anew, for one namespace, and counts its calls: what other tests
// have left would be counted, too, and so would what is logged, which Ginkgo keeps.
func alone(w world) *calls {
	GinkgoHelper()
	counted := &calls{by: map[string]int{}}
	operator.stop()
	before := config
	config = rest.CopyConfig(before)
	config.Wrap(counted.wrap)
	config.QPS, config.Burst = 1000, 2000
	operator = startWith(config, ctrl.Options{Cache: controllers.CacheOptions(w.namespace), Logger: zap.New(zap.WriteTo(io.Discard))})
	DeferCleanup(func() {
		operator.stop()
		config = before
		operator = start()
	})
	return counted
}

// begin makes a base and policies, each of which takes a part of the experts.
func begin(ctx context.Context, w world, policies int) lives {
	GinkgoHelper()
	w.decompose(ctx, "tiny")
	for i := range policies {
		policy := w.policy(fmt.Sprintf("p-%d", i))
		policy.Spec.Experts = nil
		policy.Spec.ExpertSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"group": strconv.Itoa(i)}}
		Expect(k8s.Create(ctx, policy)).To(Succeed())
	}
	return lives{w: w, ctx: ctx, policies: policies}
}

// lives are those of many experts.
type lives struct {
	w        world
	ctx      context.Context
	policies int
}

func (l lives) name(i int) string { return fmt.Sprintf("e-%d", i) }

func (l lives) create(i int) error {
	expert := l.w.expert(l.name(i))
	source := v1alpha1.Dataset{HTTP: &v1alpha1.HTTPSource{URL: "https://example.org/d.jsonl"}, Format: v1alpha1.FormatGSM8K}
	expert.Spec.Skill = l.name(i)
	expert.Spec.Training.Dataset = v1alpha1.TrainingDataset{Train: source, Validation: source}
	if l.policies > 0 {
		expert.Labels = map[string]string{"group": strconv.Itoa(i % l.policies)}
	}
	return k8s.Create(l.ctx, expert)
}

// jobs waits for the open Jobs of the experts from first to before last.
func (l lives) jobs(first, last int) map[string]*batchv1.Job {
	GinkgoHelper()
	found := map[string]*batchv1.Job{}
	Eventually(func(g Gomega) {
		var list batchv1.JobList
		g.Expect(k8s.List(l.ctx, &list, client.InNamespace(l.w.namespace), client.MatchingLabels{v1alpha1.LabelComponent: v1alpha1.ComponentTrain})).To(Succeed())
		clear(found)
		for i := range list.Items {
			found[list.Items[i].Labels[v1alpha1.LabelExpert]] = &list.Items[i]
		}
		for i := first; i < last; i++ {
			g.Expect(found).To(HaveKey(l.name(i)))
		}
	}).WithTimeout(10 * time.Minute).WithPolling(time.Second).Should(Succeed())
	return found
}

// live makes experts and has them trained.
func (l lives) live(first, last int) {
	GinkgoHelper()
	each(last-first, func(i int) error { return l.create(first + i) })
	jobs := l.jobs(first, last)
	each(last-first, func(i int) error {
		defer GinkgoRecover()
		name := l.name(first + i)
		job := jobs[name]
		pod := l.w.pod(l.ctx, job, "done")
		result := trained("c", "a", "b")
		result.Expert.Digest = fmt.Sprintf("%s%064x", contract.DigestPrefix, first+i)
		l.w.setPod(l.ctx, pod, corev1.PodSucceeded, ended("train", 0, "Completed", result))
		l.w.setJob(l.ctx, job, batchv1.JobComplete, "", 0)
		return nil
	})
	Eventually(func(g Gomega) {
		var list v1alpha1.ExpertVectorList
		g.Expect(k8s.List(l.ctx, &list, client.InNamespace(l.w.namespace))).To(Succeed())
		made := 0
		for i := range list.Items {
			if list.Items[i].Status.Artifact != nil {
				made++
			}
		}
		g.Expect(made).To(Equal(last))
	}).WithTimeout(10 * time.Minute).WithPolling(time.Second).Should(Succeed())
}

// train makes experts whose pods run, and are further each time that they are asked.
func (l lives) train(first, last int) {
	GinkgoHelper()
	each(last-first, func(i int) error { return l.create(first + i) })
	jobs := l.jobs(first, last)
	var asked atomic.Int64
	for i := first; i < last; i++ {
		pod := l.w.pod(l.ctx, jobs[l.name(i)], "one")
		pods.listen(pod, http.HandlerFunc(func(out http.ResponseWriter, r *http.Request) {
			progressing(contract.Progress{Phase: "Training", Training: &contract.TrainProgress{
				Iteration: int(asked.Add(1)), Iterations: 1 << 20, ValidationScore: -1, BestScore: -1, BaselineScore: -1, KL: -1,
			}}).ServeHTTP(out, r)
		}))
		l.w.setPod(l.ctx, pod, corev1.PodRunning, works("train"))
	}
}

// iterations are how far the experts in training are, as their status says.
func (l lives) iterations(g Gomega) []int32 {
	GinkgoHelper()
	var list v1alpha1.ExpertVectorList
	g.Expect(k8s.List(l.ctx, &list, client.InNamespace(l.w.namespace))).To(Succeed())
	var all []int32
	for i := range list.Items {
		if status := &list.Items[i].Status; status.Artifact == nil {
			g.Expect(status.Progress).NotTo(BeNil(), list.Items[i].Name)
			all = append(all, *status.Progress.Iteration)
		}
	}
	return all
}
