package envtest

import (
	"context"
	"errors"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/controllers/adaptivepolicy"
	"github.com/transformersquared/operator/controllers/apply"
	"github.com/transformersquared/operator/controllers/runs"
	"github.com/transformersquared/operator/controllers/status"
)

var _ = Describe("What is said of an object", func() {
	var w world
	var policy *v1alpha1.AdaptivePolicy
	BeforeEach(func(ctx SpecContext) {
		w = newWorld(ctx)
		w.dataset(ctx, "{}")
		w.decompose(ctx, "tiny")
		policy = w.policy("assistant", "math", "code")
	})
	ready := func(ctx SpecContext) []*server {
		GinkgoHelper()
		w.train(ctx, w.expert("math"), "1")
		w.train(ctx, w.expert("code"), "2")
		Expect(k8s.Create(ctx, policy)).To(Succeed())
		w.has(ctx, policy, v1alpha1.ConditionAvailable, metav1.ConditionFalse, v1alpha1.ReasonNoPodAnswers)
		servers := w.roll(ctx, "assistant")
		w.becomes(ctx, policy, metav1.ConditionTrue, v1alpha1.ReasonServing)
		w.has(ctx, policy, v1alpha1.ConditionAvailable, metav1.ConditionTrue, v1alpha1.ReasonAnswering)
		return servers
	}

	It("is Available while an expert is trained anew, and Ready only when all is as written", func(ctx SpecContext) {
		ready(ctx)
		math := &v1alpha1.ExpertVector{}
		w.get(ctx, "math", math)
		math.Spec.Training.Seed = new(int64(9))
		Expect(k8s.Update(ctx, math)).To(Succeed())
		w.becomes(ctx, policy, metav1.ConditionFalse, v1alpha1.ReasonExpertsNotReady)
		w.has(ctx, policy, v1alpha1.ConditionAvailable, metav1.ConditionTrue, v1alpha1.ReasonAnswering)
	})

	It("is not Available when its pods are not ready, also while it stalls", func(ctx SpecContext) {
		ready(ctx)
		w.get(ctx, "assistant", policy)
		policy.Spec.Serving.ContextLength = new(int32(2048))
		Expect(k8s.Update(ctx, policy)).To(Succeed())
		before := w.deployed(ctx, "assistant").Generation
		message := w.becomes(ctx, policy, metav1.ConditionFalse, v1alpha1.ReasonContextTooLong).Message
		Expect(message).To(And(ContainSubstring("2048"), ContainSubstring("512")))
		Expect(meta.IsStatusConditionTrue(policy.Status.Conditions, v1alpha1.ConditionStalled)).To(BeTrue())
		Expect(w.deployed(ctx, "assistant").Generation).To(Equal(before), "no pod is made that cannot start")
		w.has(ctx, policy, v1alpha1.ConditionAvailable, metav1.ConditionTrue, v1alpha1.ReasonAnswering)

		w.setPod(ctx, &w.podsOf(ctx, "assistant")[0], corev1.PodRunning, waits("serve", "CrashLoopBackOff", "x"))
		w.has(ctx, policy, v1alpha1.ConditionAvailable, metav1.ConditionFalse, v1alpha1.ReasonNoPodAnswers)
		w.told(ctx, policy, corev1.EventTypeWarning, v1alpha1.ReasonNoPodAnswers)
	})

	It("has the context of the model, where nobody asks for one", func(ctx SpecContext) {
		Expect(k8s.Create(ctx, policy)).To(Succeed())
		d := w.deployed(ctx, "assistant")
		Expect(d.Spec.Template.Spec.Containers[0].Env).To(ContainElement(HaveField("Value", ContainSubstring(`"contextLength":512`))))
		base := &v1alpha1.BaseModel{}
		w.get(ctx, "tiny", base)
		Expect(base.Status.Architecture.ContextLength).To(Equal(int32(512)))
	})

	It("warns of an expert that is worse than the base, and does not serve it", func(ctx SpecContext) {
		bad := w.expert("math")
		Expect(k8s.Create(ctx, bad)).To(Succeed())
		result := trained("1", "a", "b")
		result.Expert.Training.BestScore, result.Expert.Training.BaselineScore = 0.0625, 0.5156
		w.finishTraining(ctx, "math", result)
		w.becomes(ctx, bad, metav1.ConditionTrue, v1alpha1.ReasonSucceeded)
		w.has(ctx, bad, v1alpha1.ConditionImproved, metav1.ConditionFalse, v1alpha1.ReasonBelowBaseline)
		w.told(ctx, bad, corev1.EventTypeWarning, v1alpha1.ReasonBelowBaseline)
		w.train(ctx, w.expert("code"), "2")
		w.has(ctx, &v1alpha1.ExpertVector{ObjectMeta: w.meta("code")}, v1alpha1.ConditionImproved, metav1.ConditionTrue, v1alpha1.ReasonAboveBaseline)

		Expect(k8s.Create(ctx, policy)).To(Succeed())
		w.roll(ctx, "assistant")
		message := w.becomes(ctx, policy, metav1.ConditionFalse, v1alpha1.ReasonBelowBaseline).Message
		Expect(message).To(And(ContainSubstring("0.0625"), ContainSubstring("0.5156")))
		Expect(policy.Status.Experts[0].State).To(Equal(v1alpha1.ExpertBelowBaseline))
		w.has(ctx, policy, v1alpha1.ConditionAvailable, metav1.ConditionTrue, v1alpha1.ReasonAnswering)

		policy.Spec.Rollout = &v1alpha1.RolloutSpec{Gate: &v1alpha1.RolloutGate{MinGain: "-1"}}
		Expect(k8s.Update(ctx, policy)).To(Succeed())
		w.becomes(ctx, policy, metav1.ConditionTrue, v1alpha1.ReasonServing)
		Expect(policy.Status.ExpertSummary).To(Equal("2/2"))
	})

	It("keeps an expert whose data set is gone, until another run is asked for", func(ctx SpecContext) {
		ready(ctx)
		Expect(k8s.Delete(ctx, &corev1.ConfigMap{ObjectMeta: w.meta("sums")})).To(Succeed())
		math := &v1alpha1.ExpertVector{ObjectMeta: w.meta("math")}
		Eventually(func(g Gomega) {
			w.get(ctx, "math", math)
			c := meta.FindStatusCondition(math.Status.Conditions, v1alpha1.ConditionReady)
			g.Expect(c.Message).To(ContainSubstring("ConfigMap sums is not there"))
			g.Expect(c.Status).To(Equal(metav1.ConditionTrue))
		}).Should(Succeed())
		Consistently(func() metav1.Condition {
			return w.becomes(ctx, policy, metav1.ConditionTrue, v1alpha1.ReasonServing)
		}).Should(HaveField("Reason", v1alpha1.ReasonServing))

		By("asking for another run")
		w.get(ctx, "math", math)
		math.Spec.Training.Seed = new(int64(9))
		Expect(k8s.Update(ctx, math)).To(Succeed())
		w.becomes(ctx, math, metav1.ConditionFalse, v1alpha1.ReasonDatasetNotFound)
		By("taking it back")
		math.Spec.Training.Seed = new(int64(0))
		Expect(k8s.Update(ctx, math)).To(Succeed())
		w.becomes(ctx, math, metav1.ConditionTrue, v1alpha1.ReasonSucceeded)
	})

	It("is written once when a field is changed that nothing depends on", func(ctx SpecContext) {
		w.train(ctx, w.expert("math"), "1")
		math := &v1alpha1.ExpertVector{}
		w.get(ctx, "math", math)
		was := math.DeepCopy()
		w.told(ctx, math, corev1.EventTypeNormal, v1alpha1.ReasonSucceeded) // Behind the status.
		told := w.events(ctx, "math")
		math.Spec.Training.BackoffLimit = new(int32(1))
		Expect(k8s.Update(ctx, math)).To(Succeed())
		w.becomes(ctx, math, metav1.ConditionTrue, v1alpha1.ReasonSucceeded)
		Consistently(func() string {
			var now v1alpha1.ExpertVector
			w.get(ctx, "math", &now)
			return now.ResourceVersion
		}).Should(Equal(math.ResourceVersion))
		Expect(w.events(ctx, "math")).To(Equal(told))
		was.Status.ObservedGeneration = math.Generation
		for i := range was.Status.Conditions {
			if was.Status.Conditions[i].ObservedGeneration < math.Generation {
				was.Status.Conditions[i].ObservedGeneration = math.Generation
			}
		}
		Expect(math.Status).To(Equal(was.Status))
	})

	It("stays Ready when a call of the operator's fails, and not for another generation", func(ctx SpecContext) {
		ready(ctx)
		w.get(ctx, "assistant", policy)
		broken := &failing{Client: operator.mgr.GetClient()}
		recorder := events.NewFakeRecorder(10)
		live := operator.mgr.GetAPIReader()
		applier := apply.New(broken, live)
		reconciler := reconcile.AsReconciler(client.Client(broken), &adaptivepolicy.Reconciler{
			Client: broken, Live: live, Applier: applier, Pods: pods.client(), Settings: settings,
			Status: status.Reporter{Client: broken, Events: recorder}, Runner: runs.Runner{Client: broken, Live: live, Applier: applier},
		})
		request := reconcile.Request{NamespacedName: client.ObjectKeyFromObject(policy)}
		_, err := reconciler.Reconcile(ctx, request)
		Expect(err).To(MatchError(ContainSubstring("etcd is away")))
		Expect(recorder.Events).To(Receive(HavePrefix("Warning ReconcileError")))
		version := policy.ResourceVersion
		w.get(ctx, "assistant", policy)
		Expect(policy.ResourceVersion).To(Equal(version), "nothing was written")
		w.becomes(ctx, policy, metav1.ConditionTrue, v1alpha1.ReasonServing)
	})
})

// failing fails to read Deployments.
type failing struct{ client.Client }

func (f *failing) Get(ctx context.Context, key client.ObjectKey, o client.Object, opts ...client.GetOption) error {
	if _, ok := o.(*appsv1.Deployment); ok {
		return apierrors.NewInternalError(errors.New("etcd is away"))
	}
	return f.Client.Get(ctx, key, o, opts...)
}

// has waits for a condition beside Ready.
func (w world) has(ctx context.Context, obj object, conditionType string, want metav1.ConditionStatus, reason string) {
	GinkgoHelper()
	Eventually(func(g Gomega) {
		w.get(ctx, obj.GetName(), obj)
		c := meta.FindStatusCondition(*obj.StatusConditions(), conditionType)
		g.Expect(c).NotTo(BeNil())
		g.Expect(string(c.Status)+" "+c.Reason).To(Equal(string(want)+" "+reason), c.Message)
	}).Should(Succeed())
}

// events counts what was told about an object.
func (w world) events(ctx context.Context, name string) int {
	GinkgoHelper()
	var list eventsv1.EventList
	Expect(k8s.List(ctx, &list, client.InNamespace(w.namespace))).To(Succeed())
	n := 0
	for i := range list.Items {
		if list.Items[i].Regarding.Name == name && !strings.HasPrefix(list.Items[i].Reason, "Pod") {
			n++
		}
	}
	return n
}
