package envtest

import (
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/runtime/contract"
)

var _ = Describe("A BaseModel", func() {
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

	It("is fetched and decomposed, and says at every step how far it is", func(ctx SpecContext) {
		job := begin(ctx)
		w.becomes(ctx, base, metav1.ConditionFalse, v1alpha1.ReasonPending)
		Expect(base.Finalizers).To(ConsistOf(v1alpha1.FinalizerInUse))

		var volume corev1.PersistentVolumeClaim
		w.get(ctx, "tiny", &volume)
		Expect(volume.Annotations).To(HaveKeyWithValue(v1alpha1.AnnotationOwner, string(base.UID)))
		Expect(volume.Spec.Resources.Requests.Storage().Equal(resource.MustParse("10Gi"))).To(BeTrue())

		By("fetching")
		pod := w.pod(ctx, job, "one")
		pods.listen(pod, progressing(contract.Progress{Phase: "Decomposing", Done: 7, Total: 42, EstimatedRemainingSeconds: 9}))
		w.setPod(ctx, pod, corev1.PodRunning, works("fetch"))
		w.becomes(ctx, base, metav1.ConditionFalse, v1alpha1.ReasonFetching)

		By("decomposing")
		result := decomposed("a", "b")
		w.setPod(ctx, pod, corev1.PodRunning, ended("fetch", 0, "Completed", &contract.Termination{Model: result.Model}), works("decompose"))
		ready := w.becomes(ctx, base, metav1.ConditionFalse, v1alpha1.ReasonDecomposing)
		Expect(ready.Message).To(ContainSubstring("7 of 42"))
		Expect(meta.IsStatusConditionTrue(base.Status.Conditions, v1alpha1.ConditionFetched)).To(BeTrue())
		Expect(meta.IsStatusConditionFalse(base.Status.Conditions, v1alpha1.ConditionDecomposed)).To(BeTrue())
		Expect(base.Status.Progress.EstimatedRemainingSeconds).To(HaveValue(Equal(int64(9))))

		By("being done")
		w.setPod(ctx, pod, corev1.PodSucceeded,
			ended("fetch", 0, "Completed", &contract.Termination{Model: result.Model}), ended("decompose", 0, "Completed", result))
		w.setJob(ctx, job, batchv1.JobComplete, "", 0)
		w.becomes(ctx, base, metav1.ConditionTrue, v1alpha1.ReasonSucceeded)
		Expect(base.Status.Progress).To(BeNil())
		Expect(base.Status.Artifact.Digest).To(Equal(v1alpha1.Digest(digest("a"))))
		Expect(base.Status.Architecture.Parameters).To(Equal(int64(1_300_000)))
		Expect(base.Status.Decomposition.SingularValues).To(Equal(int64(5376)))
		Expect(base.Status.Decomposition.MaxRelativeError).To(Equal(v1alpha1.Decimal("1.2e-07")))
		Expect(base.Status.Architecture.ContextLength).To(Equal(int32(512)))
		Expect(base.Status.Runs).To(HaveExactElements(And(HaveField("Result", "Succeeded"), HaveField("JobName", job.Name))))
		Expect(meta.IsStatusConditionTrue(base.Status.Conditions, v1alpha1.ConditionDecomposed)).To(BeTrue())
		w.told(ctx, base, corev1.EventTypeNormal, v1alpha1.ReasonSucceeded)
	})

	It("stalls on a permanent failure, with the runtime's words, until it is mended", func(ctx SpecContext) {
		base.Spec.Source.Digest = v1alpha1.Digest(digest("c"))
		job := begin(ctx)
		pod := w.pod(ctx, job, "one")
		w.setPod(ctx, pod, corev1.PodFailed, ended("fetch", contract.ExitPermanent, "Error", &contract.Termination{
			Reason: contract.ReasonDigestMismatch, Message: "the model has another digest; correct spec.source.digest", Permanent: true,
		}))
		w.setJob(ctx, job, batchv1.JobFailed, batchv1.JobReasonPodFailurePolicy, 1)
		ready := w.becomes(ctx, base, metav1.ConditionFalse, contract.ReasonDigestMismatch)
		Expect(ready.Message).To(And(ContainSubstring("correct spec.source.digest"), ContainSubstring("delete Job "+job.Name)))
		Expect(meta.IsStatusConditionTrue(base.Status.Conditions, v1alpha1.ConditionStalled)).To(BeTrue())
		w.told(ctx, base, corev1.EventTypeWarning, contract.ReasonDigestMismatch)

		By("being mended")
		base.Spec.Source.Digest = ""
		Expect(k8s.Update(ctx, base)).To(Succeed())
		w.finishDecompose(ctx, "tiny", decomposed("a", "b"))
		w.becomes(ctx, base, metav1.ConditionTrue, v1alpha1.ReasonSucceeded)
	})

	It("says what keeps its pod from starting", func(ctx SpecContext) {
		job := begin(ctx)
		pod := w.pod(ctx, job, "one")
		pod.Status.Phase = corev1.PodPending
		pod.Status.Conditions = []corev1.PodCondition{{
			Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: corev1.PodReasonUnschedulable, Message: "0/3 nodes are available",
		}}
		Expect(k8s.Status().Update(ctx, pod)).To(Succeed())
		ready := w.becomes(ctx, base, metav1.ConditionFalse, v1alpha1.ReasonUnschedulable)
		Expect(ready.Message).To(And(ContainSubstring("0/3 nodes"), ContainSubstring("has no volume yet")))

		w.get(ctx, pod.Name, pod)
		pod.Status.Conditions = nil
		Expect(k8s.Status().Update(ctx, pod)).To(Succeed())
		w.setPod(ctx, pod, corev1.PodPending, waits("fetch", "ErrImagePull", "no such image"))
		w.becomes(ctx, base, metav1.ConditionFalse, v1alpha1.ReasonImagePull)
		w.told(ctx, base, corev1.EventTypeWarning, v1alpha1.ReasonImagePull)
	})

	It("waits for the claim that it is to use, and leaves it behind", func(ctx SpecContext) {
		base.Spec.Storage.ExistingClaim = "mine"
		Expect(k8s.Create(ctx, base)).To(Succeed())
		ready := w.becomes(ctx, base, metav1.ConditionFalse, v1alpha1.ReasonClaimNotFound)
		Expect(ready.Message).To(ContainSubstring("mine"))

		mine := &corev1.PersistentVolumeClaim{ObjectMeta: w.meta("mine"), Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteMany},
			Resources:   corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}},
		}}
		Expect(k8s.Create(ctx, mine)).To(Succeed())
		w.finishDecompose(ctx, "tiny", decomposed("a", "b"))
		w.becomes(ctx, base, metav1.ConditionTrue, v1alpha1.ReasonSucceeded)
		w.get(ctx, "mine", mine)
		Expect(mine.OwnerReferences).To(BeEmpty())
		Expect(mine.Labels).To(BeEmpty())
	})

	It("takes nobody else's claim", func(ctx SpecContext) {
		theirs := &corev1.PersistentVolumeClaim{ObjectMeta: w.meta("tiny"), Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteMany},
			Resources:   corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}},
		}}
		Expect(k8s.Create(ctx, theirs)).To(Succeed())
		Expect(k8s.Create(ctx, base)).To(Succeed())
		w.becomes(ctx, base, metav1.ConditionFalse, "NameTaken")
	})

	It("runs again when its Job is deleted, and when its result was lost", func(ctx SpecContext) {
		job := begin(ctx)
		Expect(k8s.Delete(ctx, job, client.PropagationPolicy(metav1.DeletePropagationBackground))).To(Succeed())
		Eventually(func() bool {
			again := &batchv1.Job{}
			return k8s.Get(ctx, client.ObjectKeyFromObject(job), again) == nil && again.UID != job.UID
		}).Should(BeTrue())

		again := w.job(ctx, v1alpha1.LabelBaseModel, "tiny")
		w.setJob(ctx, again, batchv1.JobComplete, "", 0) // Its pod is gone, and with it the result.
		Eventually(func(g Gomega) {
			w.collect(ctx)
			third := &batchv1.Job{}
			g.Expect(k8s.Get(ctx, client.ObjectKeyFromObject(job), third)).To(Succeed())
			g.Expect(third.UID).NotTo(Equal(again.UID))
		}).Should(Succeed())
		w.finishDecompose(ctx, "tiny", decomposed("a", "b"))
		w.becomes(ctx, base, metav1.ConditionTrue, v1alpha1.ReasonSucceeded)
	})

	It("is deleted when nothing uses it any more", func(ctx SpecContext) {
		w.dataset(ctx, "{}")
		w.decompose(ctx, "tiny")
		math := w.expert("math")
		w.train(ctx, math, "e")
		policy := w.policy("assistant", "math")
		Expect(k8s.Create(ctx, policy)).To(Succeed())
		Eventually(func(g Gomega) {
			w.get(ctx, "tiny", base)
			g.Expect(base.Status.ReferencedBy).To(HaveValue(Equal(v1alpha1.ReferencedBy{
				Count: 2, Objects: []string{"AdaptivePolicy/assistant", "ExpertVector/math"},
			})))
		}).Should(Succeed())

		Expect(k8s.Delete(ctx, base)).To(Succeed())
		ready := w.becomes(ctx, base, metav1.ConditionFalse, v1alpha1.ReasonInUse)
		Expect(ready.Message).To(And(ContainSubstring("AdaptivePolicy/assistant"), ContainSubstring("ExpertVector/math")))
		w.told(ctx, base, corev1.EventTypeWarning, v1alpha1.ReasonInUse)

		late := w.expert("late")
		Expect(k8s.Create(ctx, late)).To(Succeed())
		w.becomes(ctx, late, metav1.ConditionFalse, v1alpha1.ReasonBaseTerminating)

		for _, o := range []client.Object{policy, math} {
			Expect(k8s.Delete(ctx, o)).To(Succeed())
			Consistently(func() error { return k8s.Get(ctx, client.ObjectKeyFromObject(base), base) }).Should(Succeed())
		}
		Expect(k8s.Delete(ctx, late)).To(Succeed())
		Eventually(func() bool {
			return apierrors.IsNotFound(k8s.Get(ctx, client.ObjectKeyFromObject(base), base))
		}).Should(BeTrue())
	})
})
