package envtest

import (
	"context"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/runtime/contract"
)

// misses makes a server answer that it serves all of the set but one expert.
func (s *server) misses(name, reason string) {
	set := s.offered[len(s.offered)-1]
	desired, err := set.Digest()
	Expect(err).NotTo(HaveOccurred())
	s.status = contract.ServingStatus{DesiredDigest: desired, ExpertSetDigest: digest("9")}
	for _, e := range set.Experts {
		served := contract.ServedExpert{Name: e.Name, Digest: e.Digest, State: contract.ExpertServed}
		if e.Name == name {
			wrong := contract.LoadError{Digest: e.Digest, Reason: reason, Message: "it is not as it should be"}
			served = contract.ServedExpert{Name: name, State: contract.ExpertFailed, Error: &wrong}
			s.status.Error = &contract.LoadError{Digest: desired, Reason: reason, Message: wrong.Message}
		}
		s.status.Experts = append(s.status.Experts, served)
	}
}

// finds makes a server find all of the set again.
func (s *server) finds() {
	s.status = contract.ServingStatus{}
	s.load(s.offered[len(s.offered)-1])
}

var _ = Describe("An artifact that pods do not find", func() {
	var w world
	var math *v1alpha1.ExpertVector
	var policy *v1alpha1.AdaptivePolicy
	var pod *server
	BeforeEach(func(ctx SpecContext) {
		w = newWorld(ctx)
		w.dataset(ctx, "{}")
		w.decompose(ctx, "tiny")
		w.train(ctx, w.expert("math"), "1")
		w.train(ctx, w.expert("code"), "2")
		math, policy = &v1alpha1.ExpertVector{ObjectMeta: w.meta("math")}, w.policy("assistant", "math", "code")
		Expect(k8s.Create(ctx, policy)).To(Succeed())
		pod = w.roll(ctx, "assistant")[0]
		w.becomes(ctx, policy, metav1.ConditionTrue, v1alpha1.ReasonServing)
	})
	lose := func(ctx SpecContext) {
		GinkgoHelper()
		pod.change(func(s *server) { s.misses("math", contract.ReasonExpertMissing) })
		touch(ctx, w, policy)
	}
	// again waits for another Job of math than this one, whose run is the same.
	again := func(ctx SpecContext, was *batchv1.Job) *batchv1.Job {
		GinkgoHelper()
		Eventually(func() bool {
			w.collect(ctx)
			return apierrors.IsNotFound(k8s.Get(ctx, client.ObjectKeyFromObject(was), &batchv1.Job{}))
		}).Should(BeTrue())
		job := w.openJob(ctx, v1alpha1.LabelExpert, "math")
		Expect(job.Name).NotTo(Equal(was.Name))
		Expect(job.Labels).To(HaveKeyWithValue(v1alpha1.LabelRun, was.Labels[v1alpha1.LabelRun]))
		return job
	}

	It("is made again, and the policy serves the others meanwhile", func(ctx SpecContext) {
		job := w.job(ctx, v1alpha1.LabelExpert, "math")
		lose(ctx)
		message := w.becomes(ctx, policy, metav1.ConditionFalse, v1alpha1.ReasonExpertLost).Message
		Expect(message).To(ContainSubstring("ExpertVector math"))
		Expect(policy.Status.Experts).To(HaveExactElements(
			And(HaveField("Name", "math"), HaveField("State", v1alpha1.ExpertLost)),
			And(HaveField("Name", "code"), HaveField("State", v1alpha1.ExpertLoading))))
		w.has(ctx, policy, v1alpha1.ConditionAvailable, metav1.ConditionTrue, v1alpha1.ReasonAnswering)
		w.told(ctx, policy, corev1.EventTypeWarning, v1alpha1.ReasonExpertLost)

		w.has(ctx, math, v1alpha1.ConditionStored, metav1.ConditionFalse, v1alpha1.ReasonRenewing)
		w.told(ctx, math, corev1.EventTypeWarning, v1alpha1.ReasonExpertLost)
		again(ctx, job)
		Expect(w.becomes(ctx, math, metav1.ConditionFalse, v1alpha1.ReasonPending).Message).To(ContainSubstring("AdaptivePolicy assistant"))
		w.becomes(ctx, policy, metav1.ConditionFalse, v1alpha1.ReasonExpertLost)
		w.finishTraining(ctx, "math", trained("1", "a", "b"))
		w.becomes(ctx, math, metav1.ConditionTrue, v1alpha1.ReasonSucceeded)
		w.has(ctx, math, v1alpha1.ConditionStored, metav1.ConditionTrue, v1alpha1.ReasonRenewed)

		pod.change((*server).finds)
		w.becomes(ctx, policy, metav1.ConditionTrue, v1alpha1.ReasonServing)
		w.has(ctx, math, v1alpha1.ConditionStored, metav1.ConditionTrue, v1alpha1.ReasonFound)
		w.has(ctx, policy, v1alpha1.ConditionAvailable, metav1.ConditionTrue, v1alpha1.ReasonAnswering)
	})

	It("is made again once, where that does not help, and then when its user wants it", func(ctx SpecContext) {
		job := w.job(ctx, v1alpha1.LabelExpert, "math")
		lose(ctx)
		job = again(ctx, job)
		w.finishTraining(ctx, "math", trained("1", "a", "b"))
		// The run that began once more had the same reason, in other words.
		Eventually(func(ctx context.Context) string {
			return w.becomes(ctx, math, metav1.ConditionFalse, v1alpha1.ReasonExpertLost).Message
		}).WithArguments(ctx).Should(And(ContainSubstring("pvc://tiny/experts/"), ContainSubstring("delete Job "+job.Name)))
		Expect(meta.IsStatusConditionTrue(math.Status.Conditions, v1alpha1.ConditionStalled)).To(BeTrue())
		Consistently(func() string {
			touch(ctx, w, math)
			return w.job(ctx, v1alpha1.LabelExpert, "math").Name
		}).WithTimeout(patience).WithPolling(time.Second).Should(Equal(job.Name))

		Expect(k8s.Delete(ctx, job, client.PropagationPolicy(metav1.DeletePropagationForeground))).To(Succeed())
		again(ctx, job)
		w.finishTraining(ctx, "math", trained("1", "a", "b"))
		pod.change((*server).finds)
		w.becomes(ctx, math, metav1.ConditionTrue, v1alpha1.ReasonSucceeded)
		w.becomes(ctx, policy, metav1.ConditionTrue, v1alpha1.ReasonServing)
	})

	It("is left alone where it is not missing but another, or missing for a moment only", func(ctx SpecContext) {
		job := w.job(ctx, v1alpha1.LabelExpert, "math")
		pod.change(func(s *server) { s.misses("math", contract.ReasonDigestMismatch) })
		touch(ctx, w, policy)
		w.becomes(ctx, policy, metav1.ConditionFalse, v1alpha1.ReasonExpertSetRefused)
		Consistently(func() string {
			w.becomes(ctx, math, metav1.ConditionTrue, v1alpha1.ReasonSucceeded)
			return string(w.job(ctx, v1alpha1.LabelExpert, "math").UID)
		}).WithTimeout(patience + 2*time.Second).Should(Equal(string(job.UID)))
		Expect(meta.FindStatusCondition(math.Status.Conditions, v1alpha1.ConditionStored)).To(BeNil())

		lose(ctx)
		w.has(ctx, math, v1alpha1.ConditionStored, metav1.ConditionFalse, v1alpha1.ReasonMissed)
		w.becomes(ctx, math, metav1.ConditionTrue, v1alpha1.ReasonSucceeded)
		pod.change((*server).finds)
		touch(ctx, w, policy)
		w.becomes(ctx, policy, metav1.ConditionTrue, v1alpha1.ReasonServing)
		w.has(ctx, math, v1alpha1.ConditionStored, metav1.ConditionTrue, v1alpha1.ReasonFound)
		Expect(w.job(ctx, v1alpha1.LabelExpert, "math").UID).To(Equal(job.UID))
	})
})

var _ = Describe("A serving pod", func() {
	It("that does not start because a volume cannot be mounted says so, with the kubelet's words", func(ctx SpecContext) {
		w := newWorld(ctx)
		w.decompose(ctx, "tiny")
		policy := w.policy("assistant")
		policy.Spec.ExpertSelector = &metav1.LabelSelector{}
		Expect(k8s.Create(ctx, policy)).To(Succeed())
		d := w.deployed(ctx, "assistant")
		pod := &corev1.Pod{ObjectMeta: w.meta("assistant-x"), Spec: d.Spec.Template.Spec}
		pod.Labels, pod.Annotations = d.Spec.Template.Labels, d.Spec.Template.Annotations
		Expect(k8s.Create(ctx, pod)).To(Succeed())
		w.warn(ctx, pod, "Pod", "FailedMount", "rpc error: no such share")
		message := w.becomes(ctx, policy, metav1.ConditionFalse, v1alpha1.ReasonVolume).Message
		Expect(message).To(Equal("Pod assistant-x is starting: rpc error: no such share"))
		w.told(ctx, policy, corev1.EventTypeWarning, v1alpha1.ReasonVolume)
		Expect(policy.Status.PodCounts.Failed).To(HaveValue(Equal(int32(1))))
	})
})
