package envtest

import (
	"context"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/runtime/contract"
)

// The invariant of every kind: no status says Ready of a generation before all
// that the generation asks for is there. Each field of each specification is
// changed, and all statuses that are written meanwhile are watched.
var _ = Describe("Ready is never a lie", func() {
	var w world
	BeforeEach(func(ctx SpecContext) {
		w = newWorld(ctx)
		w.dataset(ctx, "{}")
		// What pod templates name, which admission asks for.
		for _, o := range []client.Object{
			&schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: "ordinary"}},
			&nodev1.RuntimeClass{ObjectMeta: metav1.ObjectMeta{Name: "sandboxed"}, Handler: "sandboxed"},
		} {
			Expect(k8s.Create(ctx, o)).To(Succeed())
			DeferCleanup(func(ctx SpecContext) { Expect(k8s.Delete(ctx, o)).To(Succeed()) })
		}
	})

	It("of a BaseModel", func(ctx SpecContext) {
		growing := &storagev1.StorageClass{
			ObjectMeta: metav1.ObjectMeta{Name: w.namespace}, Provisioner: "example.org/none", AllowVolumeExpansion: new(true),
		}
		Expect(k8s.Create(ctx, growing)).To(Succeed())
		DeferCleanup(func(ctx SpecContext) { Expect(k8s.Delete(ctx, growing)).To(Succeed()) })
		base := w.base("tiny")
		base.Spec.Storage = v1alpha1.StorageSpec{Size: new(resource.MustParse("1Gi")), StorageClassName: growing.Name}
		Expect(k8s.Create(ctx, base)).To(Succeed())
		w.setCapacity(ctx, "tiny", "1Gi")
		w.finishDecompose(ctx, "tiny", decomposed("a", "b"))
		w.becomes(ctx, base, metav1.ConditionTrue, v1alpha1.ReasonSucceeded)
		everyRow(ctx, w, base, baseRows, func(s *witness, needed needs) {
			if needed == growth {
				Eventually(func(g Gomega) {
					var claim corev1.PersistentVolumeClaim
					w.get(ctx, "tiny", &claim)
					g.Expect(claim.Spec.Resources.Requests.Storage().String()).To(Equal("2Gi"))
				}).Should(Succeed())
				w.stays(ctx, s, "before the volume has grown")
				s.realise(base.Generation)
				w.setCapacity(ctx, "tiny", "2Gi")
				return
			}
			s.realise(base.Generation)
			w.finishDecompose(ctx, "tiny", decomposed("a", "b"))
		})
	}, SpecTimeout(3*time.Minute))

	It("of an ExpertVector that is trained", func(ctx SpecContext) {
		Expect(k8s.Create(ctx, &corev1.ConfigMap{ObjectMeta: w.meta("more-sums"), Data: map[string]string{
			"train.jsonl": "{}\n", "other.jsonl": "{}\n\n",
		}})).To(Succeed())
		w.decompose(ctx, "tiny")
		math := w.expert("math")
		w.train(ctx, math, "1")
		everyRow(ctx, w, math, trainingRows, func(s *witness, _ needs) {
			s.realise(math.Generation)
			w.finishTraining(ctx, "math", trained("1", "a", "b"))
		})
	}, SpecTimeout(5*time.Minute))

	It("of an ExpertVector that is imported", func(ctx SpecContext) {
		w.decompose(ctx, "tiny")
		math := w.imported("math")
		Expect(k8s.Create(ctx, math)).To(Succeed())
		finish := func(s *witness, _ needs) {
			if s != nil {
				s.realise(math.Generation)
			}
			job := w.openJob(ctx, v1alpha1.LabelExpert, "math")
			pod := w.pod(ctx, job, "done")
			w.setPod(ctx, pod, corev1.PodSucceeded, ended("import", 0, "Completed", &contract.Termination{Expert: &contract.ExpertResult{
				Digest: digest("e"), SizeBytes: 100, BaseDigest: digest("a"), DecompositionDigest: digest("b"),
			}}))
			w.setJob(ctx, job, "Complete", "", 0)
		}
		finish(nil, newRun)
		w.becomes(ctx, math, metav1.ConditionTrue, v1alpha1.ReasonSucceeded)
		everyRow(ctx, w, math, importRows, finish)
	}, SpecTimeout(2*time.Minute))

	It("of an AdaptivePolicy", func(ctx SpecContext) {
		w.decompose(ctx, "tiny")
		for i, name := range []string{"math", "code", "law"} {
			e := w.expert(name)
			if name == "law" {
				e.Labels = map[string]string{"team": "demo"}
			}
			w.train(ctx, e, []string{"1", "2", "3"}[i])
		}
		bad := w.expert("bad")
		bad.Labels = map[string]string{"team": "demo"}
		Expect(k8s.Create(ctx, bad)).To(Succeed())
		worse := trained("4", "a", "b")
		worse.Expert.Training.BestScore = 0.0625
		w.finishTraining(ctx, "bad", worse)
		w.becomes(ctx, bad, metav1.ConditionTrue, v1alpha1.ReasonSucceeded)

		w.train(ctx, w.dispatcher("dispatch"), "5")

		policy := w.policy("assistant", "math", "code")
		Expect(k8s.Create(ctx, policy)).To(Succeed())
		servers := w.roll(ctx, "assistant")
		w.becomes(ctx, policy, metav1.ConditionTrue, v1alpha1.ReasonServing)
		refuse := func(why string) {
			for _, s := range servers {
				s.change(func(s *server) { s.refuse = why })
			}
		}
		for _, r := range policyRows {
			if r.needs == newSet {
				refuse("not yet")
			}
			everyRow(ctx, w, policy, []policyRow{r}, func(s *witness, needed needs) {
				if needed == newSet {
					s.realise(policy.Generation)
					refuse("")
					touch(ctx, w, policy)
					return
				}
				servers = w.exchangePods(ctx, s, policy)
			})
		}
	}, SpecTimeout(12*time.Minute))
})

// everyRow makes one change after the other of an object that is Ready, and has
// finish bring what each needs; finish tells the witness before its last step.
func everyRow[T object](ctx context.Context, w world, obj T, rows []row[T], finish func(*witness, needs)) {
	GinkgoHelper()
	s := w.watching(ctx, obj)
	for _, r := range rows {
		if r.needs == single {
			continue
		}
		By(r.field)
		var err error
		Eventually(func() error {
			w.get(ctx, obj.GetName(), obj)
			r.change(obj)
			if r.needs == nothing {
				s.realise(obj.GetGeneration() + 1)
			}
			err = k8s.Update(ctx, obj)
			if apierrors.IsConflict(err) {
				return err
			}
			return nil
		}).Should(Succeed())
		if r.needs == refused {
			Expect(err).To(MatchError(ContainSubstring("cannot change")), r.field)
			w.get(ctx, obj.GetName(), obj)
			continue
		}
		Expect(err).NotTo(HaveOccurred(), r.field)
		if r.needs != nothing {
			w.stays(ctx, s, "after a change of "+r.field)
			finish(s, r.needs)
		}
		Eventually(func(g Gomega) {
			g.Expect(k8s.Get(ctx, client.ObjectKeyFromObject(obj), obj)).To(Succeed())
			c := meta.FindStatusCondition(*obj.StatusConditions(), v1alpha1.ConditionReady)
			g.Expect(string(c.Status)).To(Equal("True"), "after %s: %s: %s", r.field, c.Reason, c.Message)
			g.Expect(c.ObservedGeneration).To(Equal(obj.GetGeneration()))
		}).Should(Succeed())
		w.truthful(ctx, s, "until "+r.field+" was realised")
	}
}

// exchangePods does, step by step, what the Deployment controller and the kubelet
// do when a Deployment is changed, and returns the new pods' servers: at no step
// but the last may the policy be Ready.
func (w world) exchangePods(ctx context.Context, s *witness, policy *v1alpha1.AdaptivePolicy) []*server {
	GinkgoHelper()
	old := w.podsOf(ctx, policy.Name)
	d := w.deployed(ctx, policy.Name)
	n, before := *d.Spec.Replicas, int32(len(old))
	status := func(status appsv1.DeploymentStatus) {
		Eventually(func() error {
			d = w.deployed(ctx, policy.Name)
			status.ObservedGeneration, status.TerminatingReplicas = d.Generation, ptr.To[int32](0)
			d.Status = status
			return k8s.Status().Update(ctx, d)
		}).Should(Succeed())
	}
	same := len(old) > 0 && old[0].Annotations[v1alpha1.AnnotationTemplate] == d.Spec.Template.Annotations[v1alpha1.AnnotationTemplate]
	updated := int32(0)
	if same {
		updated = before
	}
	status(appsv1.DeploymentStatus{Replicas: before, UpdatedReplicas: updated, ReadyReplicas: before, AvailableReplicas: before})
	w.stays(ctx, s, "when the Deployment's controller has seen the change")

	servers := w.startPods(ctx, d, "it is loading")
	running := int32(len(w.podsOf(ctx, policy.Name)))
	status(appsv1.DeploymentStatus{Replicas: running, UpdatedReplicas: n, ReadyReplicas: running, AvailableReplicas: running})
	if before > 0 || n > 0 {
		w.stays(ctx, s, "when the new pods run beside the old ones")
	}
	for i := range old {
		if i == len(old)-1 && n == 0 {
			s.realise(policy.Generation)
		}
		w.removePod(ctx, &old[i])
	}
	status(appsv1.DeploymentStatus{Replicas: n, UpdatedReplicas: n, ReadyReplicas: n, AvailableReplicas: n})
	if n > 0 {
		w.stays(ctx, s, "when the new pods run alone and have loaded nothing")
	}
	s.realise(policy.Generation)
	for _, one := range servers {
		one.change(func(s *server) { s.refuse = "" })
	}
	touch(ctx, w, policy)
	return servers
}

// setCapacity binds a claim to a volume of this size, as the volume's controller
// would.
func (w world) setCapacity(ctx context.Context, name, size string) {
	GinkgoHelper()
	Eventually(func(g Gomega) {
		var claim corev1.PersistentVolumeClaim
		g.Expect(k8s.Get(ctx, client.ObjectKey{Namespace: w.namespace, Name: name}, &claim)).To(Succeed())
		claim.Status.Phase = corev1.ClaimBound
		claim.Status.Capacity = corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)}
		g.Expect(k8s.Status().Update(ctx, &claim)).To(Succeed())
	}).Should(Succeed())
}
