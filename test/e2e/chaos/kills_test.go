package chaos

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/controllers/desired"
	"github.com/transformersquared/operator/test/e2e/kube"
)

const (
	// killsEach is how often one training is killed: a Job waits twice as long after each.
	killsEach = 3
	// atOnce is how many trainings are killed side by side: they wait most of the time.
	atOnce = 6
)

// Phases in which a training is killed.
const (
	starting = "starting" // Up to its first iterations.
	between  = "between"  // Two iterations.
	ending   = "ending"   // In its last ones, or while the expert is written.
)

// kills is how often trainings are killed in all, CHAOS_KILLS (4).
func kills() int {
	GinkgoHelper()
	text := os.Getenv("CHAOS_KILLS")
	if text == "" {
		return 4
	}
	n, err := strconv.Atoi(text)
	Expect(err).NotTo(HaveOccurred(), "CHAOS_KILLS")
	return n
}

// tally counts the kills that are to be done, and those that were, by phase and kind.
type tally struct {
	mu      sync.Mutex
	random  *rand.Rand
	left    int
	done    map[string]int
	longest time.Duration
}

// next draws a kill, unless there are enough: its phase, its kind, and a number below 1 for its
// moment.
func (t *tally) next() (phase, kind string, moment float64, more bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.left == 0 {
		return "", "", 0, false
	}
	t.left--
	return []string{starting, between, between, ending}[t.random.IntN(4)], []string{"SIGKILL", "SIGTERM", "deleted"}[t.random.IntN(3)], t.random.Float64(), true
}

// missed gives one back that came too late.
func (t *tally) missed() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.left++
}

func (t *tally) hit(phase, kind string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.done[phase+" "+kind]++
}

// signal sends the process of a pod's trainer a signal, as the kernel would, and reports whether
// there was one.
func signal(ctx context.Context, pod *corev1.Pod, name string) bool {
	GinkgoHelper()
	for _, s := range pod.Status.ContainerStatuses {
		if s.Name != desired.ContainerTrain || s.ContainerID == "" {
			continue
		}
		id := strings.TrimPrefix(s.ContainerID, "containerd://")
		socket := filepath.Join(filepath.Dir(os.Getenv("KUBECONFIG")), part(nodeNumber(pod)), "containerd.sock")
		out, err := kube.TryProgram(ctx, os.Getenv("T2CLUSTER"), "", "exec", "--name", os.Getenv("CHAOS_CLUSTER"),
			filepath.Join(os.Getenv("CLUSTER_BIN"), "ctr"), "--address="+socket, "--namespace=k8s.io", "tasks", "kill", "--signal="+name, id)
		if err != nil {
			Expect(out).To(Or(ContainSubstring("not found"), ContainSubstring("already finished"), ContainSubstring("not running")))
		}
		return err == nil
	}
	return false
}

// hears reports whether a pod's trainer runs for so long that it heeds signals.
func hears(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.Status.ContainerStatuses, func(s corev1.ContainerStatus) bool {
		return s.Name == desired.ContainerTrain && s.State.Running != nil && time.Since(s.State.Running.StartedAt.Time) > 3*time.Second
	})
}

// anew waits for a pod that trains and was not seen before; nil if the training is over.
func anew(ctx context.Context, e *v1alpha1.ExpertVector, seen map[string]bool) (found *corev1.Pod) {
	GinkgoHelper()
	Eventually(func(g Gomega) {
		g.Expect(cluster.Get(ctx, client.ObjectKeyFromObject(e), e)).To(Succeed())
		pods := podsOf(ctx, g, e)
		g.Expect(len(pods)).To(BeNumerically("<=", 1), "two would write to one volume")
		if len(pods) == 1 && pods[0].DeletionTimestamp.IsZero() && !seen[string(pods[0].UID)] {
			found = &pods[0]
		}
		g.Expect(found != nil || e.Status.Artifact != nil).To(BeTrue())
	}).WithContext(ctx).WithTimeout(5 * time.Minute).WithPolling(100 * time.Millisecond).Should(Succeed())
	return found
}

// due waits until it is time to kill a training in a phase, or until it is over.
func due(ctx context.Context, e *v1alpha1.ExpertVector, phase string, moment float64) {
	GinkgoHelper()
	reached := func(g Gomega, least int32) {
		g.Expect(cluster.Get(ctx, client.ObjectKeyFromObject(e), e)).To(Succeed())
		if e.Status.Artifact == nil {
			g.Expect(e.Status.Progress).To(HaveValue(HaveField("Iteration", HaveValue(BeNumerically(">=", least)))))
		}
	}
	wait, least := time.Duration(moment*float64(3*time.Second)), int32(0)
	switch phase {
	case starting:
	case between:
		least, wait = 1+int32(moment*(iterations-10)), 0
	case ending:
		least = iterations - 5
	}
	if least > 0 {
		Eventually(func(g Gomega) { reached(g, least) }).WithContext(ctx).WithTimeout(5 * time.Minute).WithPolling(50 * time.Millisecond).Should(Succeed())
	}
	select { // The moment itself.
	case <-time.After(wait):
	case <-ctx.Done():
	}
}

// shake makes a training, kills it up to killsEach times, and checks what becomes of it.
func (t *tally) shake(ctx context.Context, name string) {
	GinkgoHelper()
	e := training(name)
	e.Spec.Training.BackoffLimit = new(int32(2 * killsEach))
	begin(ctx, e)
	begun := time.Now()
	// A pod that is deleted before its trainer can say that it was interrupted has failed, says
	// Kubernetes, if it had got so far.
	failures, doubtful, seen := int32(0), int32(0), map[string]bool{}
	for range killsEach {
		phase, kind, moment, more := t.next()
		if !more {
			break
		}
		pod := anew(ctx, e, seen)
		if pod == nil {
			t.missed()
			break
		}
		due(ctx, e, phase, moment)
		err := cluster.Get(ctx, client.ObjectKeyFromObject(pod), pod)
		Expect(client.IgnoreNotFound(err)).NotTo(HaveOccurred())
		heard := hears(pod)
		hit := err == nil && pod.Status.Phase != corev1.PodSucceeded && pod.Status.Phase != corev1.PodFailed
		if hit && kind != "deleted" {
			hit = signal(ctx, pod, kind)
		} else if hit {
			kubectl(ctx, "", "-n", namespace, "delete", "pod", pod.Name, "--wait=false")
		}
		if !hit {
			t.missed()
			continue
		}
		seen[string(pod.UID)] = true
		GinkgoWriter.Printf("%s: %s while %s (%.2f)\n", name, kind, phase, moment)
		// A signal that comes too early for its process is not heard, and the training ends.
		Eventually(func(g Gomega) {
			g.Expect(podsOf(ctx, g, e)).NotTo(ContainElement(HaveField("UID", pod.UID)))
		}).WithContext(ctx).Should(Succeed())
		Expect(client.IgnoreNotFound(cluster.Get(ctx, client.ObjectKeyFromObject(pod), pod))).To(Succeed())
		if pod.Status.Phase == corev1.PodSucceeded {
			t.missed()
			continue
		}
		t.hit(phase, kind)
		if kind == "deleted" && !heard {
			doubtful++
		}
		for _, s := range pod.Status.ContainerStatuses {
			if end := s.State.Terminated; end != nil && end.ExitCode == 137 && kind == "SIGKILL" {
				failures++
			}
		}
	}
	ofOneRun(ctx, e)
	Expect(ptr.Deref(e.Status.Runs[0].Failures, 0)).To(And(BeNumerically(">=", failures), BeNumerically("<=", failures+doubtful)),
		"what is interrupted is no failure")
	t.mu.Lock()
	defer t.mu.Unlock()
	t.longest = max(t.longest, time.Since(begun))
}

func killed() {
	It("goes on from the checkpoint when trainings are killed at random moments", Label(short), func(ctx SpecContext) {
		seed := uint64(GinkgoRandomSeed())
		many := kills()
		t := &tally{random: rand.New(rand.NewPCG(seed, 0)), left: many, done: map[string]int{}}
		By(fmt.Sprintf("killing trainings %d times, by seed %d", many, seed))
		var group sync.WaitGroup
		var mu sync.Mutex
		trainings := 0
		another := func() (name string, more bool) {
			mu.Lock()
			defer mu.Unlock()
			t.mu.Lock()
			defer t.mu.Unlock()
			if t.left > 0 {
				trainings++
			}
			return fmt.Sprintf("shaken-%d", trainings), t.left > 0
		}
		for range min(atOnce, (many+killsEach-1)/killsEach) {
			group.Go(func() {
				defer GinkgoRecover()
				for name, more := another(); more; name, more = another() {
					t.shake(ctx, name)
				}
			})
		}
		group.Wait()
		GinkgoWriter.Printf("%d trainings, the longest %s; killed: %v\n", trainings, t.longest.Round(time.Second), t.done)
		done := 0
		for _, n := range t.done {
			done += n
		}
		Expect(done).To(Equal(many))
	}, SpecTimeout(40*time.Minute))
}
