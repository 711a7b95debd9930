package envtest

import (
	"fmt"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/runtime/contract"
)

// warn tells of an object what Kubernetes' own components would.
func (w world) warn(ctx SpecContext, about client.Object, kind, reason, message string) {
	GinkgoHelper()
	now := metav1.Now()
	Expect(k8s.Create(ctx, &corev1.Event{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "told-", Namespace: w.namespace},
		InvolvedObject: corev1.ObjectReference{
			Kind: kind, Namespace: w.namespace, Name: about.GetName(), UID: about.GetUID(),
		},
		Type: corev1.EventTypeWarning, Reason: reason, Message: message,
		FirstTimestamp: now, LastTimestamp: now, Count: 1,
	})).To(Succeed())
}

var _ = Describe("What stands still", func() {
	var w world
	var base *v1alpha1.BaseModel
	BeforeEach(func(ctx SpecContext) {
		w = newWorld(ctx)
		base = w.base("tiny")
	})
	begin := func(ctx SpecContext) *batchv1.Job {
		GinkgoHelper()
		Expect(k8s.Create(ctx, base)).To(Succeed())
		return w.job(ctx, v1alpha1.LabelBaseModel, "tiny")
	}

	It("is a Job whose pod a quota forbids, with the quota's words", func(ctx SpecContext) {
		job := begin(ctx)
		w.warn(ctx, job, "Job", "FailedCreate", `pods "tiny-x" is forbidden: exceeded quota: none`)
		message := w.becomes(ctx, base, metav1.ConditionFalse, v1alpha1.ReasonRejected).Message
		Expect(message).To(HavePrefix(`Waiting for the Job's pod: pods "tiny-x" is forbidden: exceeded quota: none`))
		w.finishDecompose(ctx, "tiny", decomposed("a", "b"))
		w.becomes(ctx, base, metav1.ConditionTrue, v1alpha1.ReasonSucceeded)
	})

	It("is a pod whose volume cannot be mounted, with the kubelet's words", func(ctx SpecContext) {
		job := begin(ctx)
		pod := w.pod(ctx, job, "one")
		w.warn(ctx, pod, "Pod", "FailedMount", "rpc error: no such share")
		message := w.becomes(ctx, base, metav1.ConditionFalse, v1alpha1.ReasonVolume).Message
		Expect(message).To(ContainSubstring("rpc error: no such share"))
		w.told(ctx, base, corev1.EventTypeWarning, v1alpha1.ReasonVolume)
	})

	It("is a source that is away: it is waited for, and asked again", func(ctx SpecContext) {
		job := begin(ctx)
		pod := w.pod(ctx, job, "one")
		w.setPod(ctx, pod, corev1.PodFailed, ended("fetch", 1, "Error", &contract.Termination{
			Reason: contract.ReasonSourceUnreachable, Message: "models.example.com does not answer",
		}))
		w.setJob(ctx, job, batchv1.JobFailed, batchv1.JobReasonBackoffLimitExceeded, 4)
		Eventually(func() string {
			return w.becomes(ctx, base, metav1.ConditionFalse, contract.ReasonSourceUnreachable).Message
		}).Should(ContainSubstring("tried again at"))
		Expect(meta.IsStatusConditionTrue(base.Status.Conditions, v1alpha1.ConditionReconciling)).To(BeTrue())
		Expect(meta.FindStatusCondition(base.Status.Conditions, v1alpha1.ConditionStalled)).To(BeNil())
	})

	It("is a refused token, until its Secret is changed", func(ctx SpecContext) {
		secret := &corev1.Secret{ObjectMeta: w.meta("hub"), StringData: map[string]string{"token": "wrong"}}
		Expect(k8s.Create(ctx, secret)).To(Succeed())
		base.Spec.Source = v1alpha1.ModelSource{HTTP: &v1alpha1.HTTPSource{
			URL: "https://models.example.com/tiny", TokenSecretRef: &v1alpha1.SecretKeyRef{Name: "hub"},
		}}
		job := begin(ctx)
		Expect(job.Annotations).To(HaveKeyWithValue(v1alpha1.AnnotationSecretVersion, "hub/"+secret.ResourceVersion))
		pod := w.pod(ctx, job, "one")
		w.setPod(ctx, pod, corev1.PodFailed, ended("fetch", contract.ExitPermanent, "Error", &contract.Termination{
			Reason: contract.ReasonUnauthorized, Message: "models.example.com refuses the token", Permanent: true,
		}))
		w.setJob(ctx, job, batchv1.JobFailed, batchv1.JobReasonPodFailurePolicy, 1)
		message := w.becomes(ctx, base, metav1.ConditionFalse, contract.ReasonUnauthorized).Message
		Expect(message).To(ContainSubstring("Correct the Secret"))
		Expect(meta.IsStatusConditionTrue(base.Status.Conditions, v1alpha1.ConditionStalled)).To(BeTrue())

		secret.StringData = map[string]string{"token": "right"}
		Expect(k8s.Update(ctx, secret)).To(Succeed())
		touch(ctx, w, base)
		Eventually(func(g Gomega) {
			w.collect(ctx)
			again := &batchv1.Job{}
			g.Expect(k8s.Get(ctx, client.ObjectKeyFromObject(job), again)).To(Succeed())
			g.Expect(again.UID).NotTo(Equal(job.UID))
		}).Should(Succeed())
		w.finishDecompose(ctx, "tiny", decomposed("a", "b"))
		w.becomes(ctx, base, metav1.ConditionTrue, v1alpha1.ReasonSucceeded)
		Expect(base.Status.Runs[0].Retries).To(HaveValue(Equal(int32(1))))
	})
})

var _ = Describe("A model's volume", func() {
	var w world
	BeforeEach(func(ctx SpecContext) { w = newWorld(ctx) })

	It("may be asked for more than it can have, and the model stays usable", func(ctx SpecContext) {
		base := w.base("tiny")
		base.Spec.Storage.Size = new(resource.MustParse("1Gi"))
		Expect(k8s.Create(ctx, base)).To(Succeed())
		w.finishDecompose(ctx, "tiny", decomposed("a", "b"))
		w.becomes(ctx, base, metav1.ConditionTrue, v1alpha1.ReasonSucceeded)
		claim := &corev1.PersistentVolumeClaim{}
		w.get(ctx, "tiny", claim)
		claim.Status.Phase = corev1.ClaimBound
		claim.Status.Capacity = corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}
		Expect(k8s.Status().Update(ctx, claim)).To(Succeed())

		for _, size := range []string{"2Gi", "512Mi"} {
			w.get(ctx, "tiny", base)
			base.Spec.Storage.Size = new(resource.MustParse(size))
			Expect(k8s.Update(ctx, base)).To(Succeed())
			Eventually(func() string {
				return w.becomes(ctx, base, metav1.ConditionFalse, v1alpha1.ReasonClaimSize).Message
			}).Should(And(ContainSubstring("has 1Gi"), ContainSubstring("to "+size), ContainSubstring("to 1Gi"), ContainSubstring("usable")))
			Expect(meta.IsStatusConditionTrue(base.Status.Conditions, v1alpha1.ConditionDecomposed)).To(BeTrue())
		}
		w.dataset(ctx, "{}")
		w.train(ctx, w.expert("math"), "1") // It is made all the same.

		w.get(ctx, "tiny", base)
		base.Spec.Storage.Size = new(resource.MustParse("1Gi"))
		Expect(k8s.Update(ctx, base)).To(Succeed())
		w.becomes(ctx, base, metav1.ConditionTrue, v1alpha1.ReasonSucceeded)
	})

	It("is nobody's dependent, so that a deletion in the foreground leaves it to who uses it", func(ctx SpecContext) {
		w.dataset(ctx, "{}")
		w.decompose(ctx, "tiny")
		math := w.expert("math")
		w.train(ctx, math, "1")
		base := &v1alpha1.BaseModel{}
		w.get(ctx, "tiny", base)
		claim := &corev1.PersistentVolumeClaim{}
		w.get(ctx, "tiny", claim)
		Expect(claim.OwnerReferences).To(BeEmpty())
		Expect(claim.Annotations).To(HaveKeyWithValue(v1alpha1.AnnotationOwner, string(base.UID)))

		Expect(k8s.Delete(ctx, base, client.PropagationPolicy(metav1.DeletePropagationForeground))).To(Succeed())
		w.becomes(ctx, base, metav1.ConditionFalse, v1alpha1.ReasonInUse)
		Consistently(func(g Gomega) {
			w.get(ctx, "tiny", claim)
			g.Expect(claim.DeletionTimestamp).To(BeNil())
		}).Should(Succeed())

		Expect(k8s.Delete(ctx, math)).To(Succeed())
		Eventually(func(g Gomega) { // What protects a claim in use lets it go when no pod has it.
			err := k8s.Get(ctx, client.ObjectKeyFromObject(claim), claim)
			g.Expect(apierrors.IsNotFound(err) || !claim.DeletionTimestamp.IsZero()).To(BeTrue())
		}).Should(Succeed())
		Eventually(func(g Gomega) {
			w.get(ctx, "tiny", base)
			g.Expect(base.Finalizers).NotTo(ContainElement(v1alpha1.FinalizerInUse))
		}).Should(Succeed())
	})
})

var _ = Describe("A policy's token", func() {
	It("is another in its pods when it is another in its Secret", func(ctx SpecContext) {
		w := newWorld(ctx)
		w.decompose(ctx, "tiny")
		policy := w.policy("assistant")
		policy.Spec.ExpertSelector = &metav1.LabelSelector{}
		Expect(k8s.Create(ctx, policy)).To(Succeed())
		w.roll(ctx, "assistant")
		w.becomes(ctx, policy, metav1.ConditionTrue, v1alpha1.ReasonServing)

		secret := &corev1.Secret{}
		w.get(ctx, "assistant-admin", secret)
		Expect(secret.Immutable).To(BeNil(), "kubelets keep the content of an immutable Secret by its name")
		for _, step := range []struct {
			name   string
			change func()
		}{
			{"deleted", func() { Expect(k8s.Delete(ctx, secret)).To(Succeed()) }},
			{"edited", func() {
				secret.Data["token"] = []byte("by hand")
				Expect(k8s.Update(ctx, secret)).To(Succeed())
			}},
			{"emptied", func() {
				secret.Data = nil
				Expect(k8s.Update(ctx, secret)).To(Succeed())
			}},
		} {
			By("being " + step.name)
			was := w.deployed(ctx, "assistant").Spec.Template.Annotations
			step.change()
			touch(ctx, w, policy)
			Eventually(func() map[string]string {
				return w.deployed(ctx, "assistant").Spec.Template.Annotations
			}).ShouldNot(Equal(was))
			w.get(ctx, "assistant-admin", secret)
			Expect(secret.Data["token"]).NotTo(BeEmpty())
		}
	})
})

var _ = Describe("A run's Job", func() {
	var w world
	var math *v1alpha1.ExpertVector
	BeforeEach(func(ctx SpecContext) {
		w = newWorld(ctx)
		w.dataset(ctx, "{}")
		w.decompose(ctx, "tiny")
		math = w.expert("math")
	})

	It("is left as a mutating policy made it", func(ctx SpecContext) {
		const image = "mirror.example.org/t2:dev"
		mutate(ctx, w, fmt.Sprintf(`JSONPatch{op: "replace", path: "/spec/template/spec/containers/0/image", value: %q}`, image),
			func(job *batchv1.Job) bool { return job.Spec.Template.Spec.Containers[0].Image == image })
		Expect(k8s.Create(ctx, math)).To(Succeed())
		job := w.job(ctx, v1alpha1.LabelExpert, "math")
		Expect(job.Spec.Template.Spec.Containers[0].Image).To(Equal(image))
		w.finishTraining(ctx, "math", trained("e", "a", "b"))
		w.becomes(ctx, math, metav1.ConditionTrue, v1alpha1.ReasonSucceeded)
	})

	It("stays suspended when somebody else suspends it, and goes on when they let it", func(ctx SpecContext) {
		Expect(k8s.Create(ctx, math)).To(Succeed())
		job := w.job(ctx, v1alpha1.LabelExpert, "math")
		setSuspend := func(value bool) {
			GinkgoHelper()
			w.get(ctx, job.Name, job)
			patch := client.MergeFrom(job.DeepCopy())
			job.Spec.Suspend = new(value)
			Expect(k8s.Patch(ctx, job, patch, client.FieldOwner("kueue"))).To(Succeed())
		}
		setSuspend(true)
		message := w.becomes(ctx, math, metav1.ConditionFalse, v1alpha1.ReasonSuspended).Message
		Expect(message).To(ContainSubstring("Somebody else suspended Job " + job.Name))
		touch(ctx, w, math)
		Consistently(func(g Gomega) {
			again := &batchv1.Job{}
			w.get(ctx, job.Name, again)
			g.Expect(again.Spec.Suspend).To(HaveValue(BeTrue()))
			g.Expect(again.UID).To(Equal(job.UID))
		}).WithTimeout(2 * time.Second).Should(Succeed())

		setSuspend(false)
		w.finishTraining(ctx, "math", trained("e", "a", "b"))
		w.becomes(ctx, math, metav1.ConditionTrue, v1alpha1.ReasonSucceeded)
	})

	It("leaves its queue while its user holds it, and enters it anew", func(ctx SpecContext) {
		mutate(ctx, w, `JSONPatch{op: "add", path: "/spec/suspend", value: true}`,
			func(job *batchv1.Job) bool { return ptr.Deref(job.Spec.Suspend, false) })
		admit := func(job *batchv1.Job) {
			GinkgoHelper()
			message := w.becomes(ctx, math, metav1.ConditionFalse, v1alpha1.ReasonSuspended).Message
			Expect(message).To(HavePrefix("Queue gpus holds Job " + job.Name))
			patch := client.MergeFrom(job.DeepCopy())
			job.Spec.Suspend = new(false)
			Expect(k8s.Patch(ctx, job, patch, client.FieldOwner("kueue"))).To(Succeed())
			w.becomes(ctx, math, metav1.ConditionFalse, v1alpha1.ReasonPending)
		}
		math.Spec.Training.PodTemplate = shaped(label(v1alpha1.LabelQueue, "gpus"))
		Expect(k8s.Create(ctx, math)).To(Succeed())
		job := w.job(ctx, v1alpha1.LabelExpert, "math")
		Expect(job.Labels).To(HaveKeyWithValue(v1alpha1.LabelQueue, "gpus"))
		admit(job)

		By("being held by its user")
		change(ctx, w, math, func() { math.Spec.Training.Suspend = new(true) })
		Eventually(func() string {
			return w.becomes(ctx, math, metav1.ConditionFalse, v1alpha1.ReasonSuspended).Message
		}).Should(Equal("Suspended; set spec.training.suspend to false to go on"))
		ending := &batchv1.Job{}
		w.get(ctx, job.Name, ending)
		Expect(ending.DeletionTimestamp).NotTo(BeNil())
		touch(ctx, w, math)
		Consistently(func(g Gomega) { // It is deleted once.
			again := &batchv1.Job{}
			w.get(ctx, job.Name, again)
			g.Expect(again.ResourceVersion).To(Equal(ending.ResourceVersion))
		}).WithTimeout(time.Second).Should(Succeed())
		w.collect(ctx)
		touch(ctx, w, math)
		Consistently(func(g Gomega) { // It takes no quota, and asks for none.
			var list batchv1.JobList
			g.Expect(k8s.List(ctx, &list, client.InNamespace(w.namespace), client.MatchingLabels{v1alpha1.LabelExpert: "math"})).To(Succeed())
			g.Expect(list.Items).To(BeEmpty())
		}).WithTimeout(time.Second).Should(Succeed())

		By("being let go on")
		change(ctx, w, math, func() { math.Spec.Training.Suspend = nil })
		again := w.job(ctx, v1alpha1.LabelExpert, "math")
		Expect(again.Name).To(Equal(job.Name), "it is the same run")
		Expect(again.UID).NotTo(Equal(job.UID))
		admit(again)
		w.finishTraining(ctx, "math", trained("e", "a", "b"))
		w.becomes(ctx, math, metav1.ConditionTrue, v1alpha1.ReasonSucceeded)
		Expect(math.Status.Runs).To(HaveLen(1))
	})
})

// mutate has every Job of the world's namespace patched when it is made, as those
// have it who mirror registries or queue Jobs, and waits until that is so.
func mutate(ctx SpecContext, w world, patch string, done func(*batchv1.Job) bool) {
	GinkgoHelper()
	policy := &admissionv1.MutatingAdmissionPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: w.namespace},
		Spec: admissionv1.MutatingAdmissionPolicySpec{
			FailurePolicy:      new(admissionv1.Fail),
			ReinvocationPolicy: admissionv1.NeverReinvocationPolicy,
			MatchConstraints: &admissionv1.MatchResources{
				NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"kubernetes.io/metadata.name": w.namespace}},
				ResourceRules: []admissionv1.NamedRuleWithOperations{{RuleWithOperations: admissionv1.RuleWithOperations{
					Operations: []admissionv1.OperationType{admissionv1.Create},
					Rule:       admissionv1.Rule{APIGroups: []string{"batch"}, APIVersions: []string{"v1"}, Resources: []string{"jobs"}},
				}}},
			},
			Mutations: []admissionv1.Mutation{{PatchType: admissionv1.PatchTypeJSONPatch, JSONPatch: &admissionv1.JSONPatch{
				Expression: "[" + patch + "]",
			}}},
		},
	}
	binding := &admissionv1.MutatingAdmissionPolicyBinding{
		ObjectMeta: metav1.ObjectMeta{Name: w.namespace},
		Spec:       admissionv1.MutatingAdmissionPolicyBindingSpec{PolicyName: w.namespace},
	}
	for _, o := range []client.Object{policy, binding} {
		Expect(k8s.Create(ctx, o)).To(Succeed())
		DeferCleanup(func(ctx SpecContext) { Expect(k8s.Delete(ctx, o)).To(Succeed()) })
	}
	// The API server takes a moment to know a policy.
	Eventually(func(g Gomega) {
		probe := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{GenerateName: "probe-", Namespace: w.namespace}}
		probe.Spec.Template.Spec = corev1.PodSpec{
			RestartPolicy: corev1.RestartPolicyNever, Containers: []corev1.Container{{Name: "c", Image: "original"}},
		}
		g.Expect(k8s.Create(ctx, probe, client.DryRunAll)).To(Succeed())
		g.Expect(done(probe)).To(BeTrue())
	}).Should(Succeed())
}
