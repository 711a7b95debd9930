package envtest

import (
	"context"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/controllers/adaptivepolicy"
	"github.com/transformersquared/operator/controllers/apply"
	"github.com/transformersquared/operator/controllers/basemodel"
	"github.com/transformersquared/operator/controllers/expertvector"
	"github.com/transformersquared/operator/controllers/runs"
	"github.com/transformersquared/operator/controllers/status"
	"github.com/transformersquared/operator/runtime/contract"
)

var _ = Describe("The operator", Serial, func() {
	var w world
	BeforeEach(func(ctx SpecContext) {
		w = newWorld(ctx)
		w.dataset(ctx, "{}")
	})

	It("loses nothing when it is away", func(ctx SpecContext) {
		w.decompose(ctx, "tiny")
		math, code := w.expert("math"), w.expert("code")
		Expect(k8s.Create(ctx, math)).To(Succeed())
		job := w.job(ctx, v1alpha1.LabelExpert, "math")
		pod := w.pod(ctx, job, "one")
		w.setPod(ctx, pod, corev1.PodRunning, works("train"))
		w.becomes(ctx, math, metav1.ConditionFalse, v1alpha1.ReasonTraining)

		operator.stop()
		By("finishing a run, making an object, changing another while it is away")
		w.setPod(ctx, pod, corev1.PodSucceeded, ended("train", 0, "Completed", trained("e", "a", "b")))
		w.setJob(ctx, job, batchv1.JobComplete, "", 0)
		Expect(k8s.Create(ctx, code)).To(Succeed())
		w.get(ctx, "math", math)
		math.Spec.Description = "sums"
		Expect(k8s.Update(ctx, math)).To(Succeed())
		operator = start()

		w.becomes(ctx, math, metav1.ConditionTrue, v1alpha1.ReasonSucceeded)
		Expect(math.Status.Artifact.Digest).To(Equal(v1alpha1.Digest(digest("e"))))
		w.finishTraining(ctx, "code", trained("f", "a", "b"))
		w.becomes(ctx, code, metav1.ConditionTrue, v1alpha1.ReasonSucceeded)
		Expect(w.job(ctx, v1alpha1.LabelExpert, "math").UID).To(Equal(job.UID))
	})

	It("writes nothing when nothing happens", func(ctx SpecContext) {
		w.decompose(ctx, "tiny")
		w.train(ctx, w.expert("math"), "1")
		running := w.expert("code")
		Expect(k8s.Create(ctx, running)).To(Succeed())
		pod := w.pod(ctx, w.job(ctx, v1alpha1.LabelExpert, "code"), "one")
		pods.listen(pod, progressing(contract.Progress{Training: &contract.TrainProgress{Iteration: 1, Iterations: 2}}))
		w.setPod(ctx, pod, corev1.PodRunning, works("train"))
		w.becomes(ctx, running, metav1.ConditionFalse, v1alpha1.ReasonTraining)
		policy := w.policy("assistant", "math")
		Expect(k8s.Create(ctx, policy)).To(Succeed())
		w.roll(ctx, "assistant")
		w.becomes(ctx, policy, metav1.ConditionTrue, v1alpha1.ReasonServing)
		Consistently(func() map[string]string { return w.versions(ctx) }).Should(Equal(w.versions(ctx)))

		before := w.versions(ctx)
		counted := &counting{Client: operator.mgr.GetClient()}
		for range 5 {
			reconcileAll(ctx, counted, w)
		}
		Expect(counted.writes).To(BeZero())
		Expect(w.versions(ctx)).To(Equal(before))
	})
})

// versions are the resource versions of everything in a namespace.
func (w world) versions(ctx context.Context) map[string]string {
	GinkgoHelper()
	versions := map[string]string{}
	for _, list := range []client.ObjectList{
		&v1alpha1.BaseModelList{}, &v1alpha1.ExpertVectorList{}, &v1alpha1.AdaptivePolicyList{},
		&batchv1.JobList{}, &appsv1.DeploymentList{}, &corev1.ServiceList{}, &corev1.ConfigMapList{},
		&corev1.SecretList{}, &corev1.PersistentVolumeClaimList{}, &policyv1.PodDisruptionBudgetList{},
	} {
		Expect(k8s.List(ctx, list, client.InNamespace(w.namespace))).To(Succeed())
		Expect(meta.EachListItem(list, func(o runtime.Object) error {
			accessor, err := meta.Accessor(o)
			if err == nil {
				versions[accessor.GetName()+"/"+string(accessor.GetUID())] = accessor.GetResourceVersion()
			}
			return err
		})).To(Succeed())
	}
	return versions
}

// counting counts the writes of a client.
type counting struct {
	client.Client
	writes int
}

func (c *counting) Create(ctx context.Context, o client.Object, opts ...client.CreateOption) error {
	c.writes++
	return c.Client.Create(ctx, o, opts...)
}

func (c *counting) Update(ctx context.Context, o client.Object, opts ...client.UpdateOption) error {
	c.writes++
	return c.Client.Update(ctx, o, opts...)
}

func (c *counting) Patch(ctx context.Context, o client.Object, p client.Patch, opts ...client.PatchOption) error {
	c.writes++
	return c.Client.Patch(ctx, o, p, opts...)
}

func (c *counting) Apply(ctx context.Context, config runtime.ApplyConfiguration, opts ...client.ApplyOption) error {
	c.writes++
	return c.Client.Apply(ctx, config, opts...)
}

func (c *counting) Delete(ctx context.Context, o client.Object, opts ...client.DeleteOption) error {
	c.writes++
	return c.Client.Delete(ctx, o, opts...)
}

func (c *counting) Status() client.SubResourceWriter {
	return countingStatus{c.Client.Status(), c}
}

type countingStatus struct {
	client.SubResourceWriter
	c *counting
}

func (s countingStatus) Update(ctx context.Context, o client.Object, opts ...client.SubResourceUpdateOption) error {
	s.c.writes++
	return s.SubResourceWriter.Update(ctx, o, opts...)
}

// reconcileAll reconciles every object of the test once.
func reconcileAll(ctx context.Context, c *counting, w world) {
	GinkgoHelper()
	live := operator.mgr.GetAPIReader()
	reporter := status.Reporter{Client: c, Events: events.NewFakeRecorder(100)}
	applier := apply.New(c, live)
	runner := runs.Runner{Client: c, Live: live, Applier: applier}
	for name, reconciler := range map[string]reconcile.Reconciler{
		"tiny": reconcile.AsReconciler(client.Client(c), &basemodel.Reconciler{
			Client: c, Status: reporter, Runner: runner, Applier: applier, Pods: pods.client(), Settings: settings,
		}),
		"math": expertReconciler(c, live, reporter, runner),
		"code": expertReconciler(c, live, reporter, runner),
		"assistant": reconcile.AsReconciler(client.Client(c), &adaptivepolicy.Reconciler{
			Client: c, Live: live, Status: reporter, Applier: applier, Runner: runner, Pods: pods.client(), Settings: settings,
			Datasets: &expertvector.Datasets{Cache: c, Live: live},
		}),
	} {
		_, err := reconciler.Reconcile(ctx, reconcile.Request{NamespacedName: client.ObjectKey{Namespace: w.namespace, Name: name}})
		Expect(err).NotTo(HaveOccurred(), name)
	}
}

func expertReconciler(c client.Client, live client.Reader, reporter status.Reporter, runner runs.Runner) reconcile.Reconciler {
	return reconcile.AsReconciler(c, &expertvector.Reconciler{
		Client: c, Status: reporter, Runner: runner, Pods: pods.client(), Settings: settings,
		Datasets: &expertvector.Datasets{Cache: c, Live: live},
	})
}
