package envtest

import (
	"context"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/runtime/contract"
)

// pushJobs are the Jobs that push an expert and are not over.
func (w world) pushJobs(ctx context.Context, expert string) []batchv1.Job {
	GinkgoHelper()
	var list batchv1.JobList
	Expect(k8s.List(ctx, &list, client.InNamespace(w.namespace),
		client.MatchingLabels{v1alpha1.LabelComponent: v1alpha1.ComponentPublish, v1alpha1.LabelExpert: expert})).To(Succeed())
	var open []batchv1.Job
	for _, job := range list.Items {
		if job.DeletionTimestamp.IsZero() && len(job.Status.Conditions) == 0 {
			open = append(open, job)
		}
	}
	return open
}

// endPush ends the open Job that pushes an expert.
func (w world) endPush(ctx context.Context, expert string, code int32, result *contract.Termination) {
	GinkgoHelper()
	var jobs []batchv1.Job
	Eventually(func() []batchv1.Job {
		jobs = w.pushJobs(ctx, expert)
		return jobs
	}).Should(HaveLen(1))
	pod := w.pod(ctx, &jobs[0], "push")
	if code != 0 {
		w.setPod(ctx, pod, corev1.PodFailed, ended("publish", code, "Error", result))
		w.setJob(ctx, &jobs[0], batchv1.JobFailed, batchv1.JobReasonPodFailurePolicy, 1)
		return
	}
	w.setPod(ctx, pod, corev1.PodSucceeded, ended("publish", 0, "Completed", result))
	w.setJob(ctx, &jobs[0], batchv1.JobComplete, "", 0)
}

var _ = Describe("An ExpertVector that is published", func() {
	var w world
	var math *v1alpha1.ExpertVector
	const place = "registry.example.org/experts/math:v1"
	publishes := func(ctx context.Context, want metav1.ConditionStatus, reason string) metav1.Condition {
		GinkgoHelper()
		var is metav1.Condition
		Eventually(func(g Gomega) {
			g.Expect(k8s.Get(ctx, client.ObjectKeyFromObject(math), math)).To(Succeed())
			c := meta.FindStatusCondition(math.Status.Conditions, v1alpha1.ConditionPublished)
			g.Expect(c).NotTo(BeNil())
			g.Expect([]string{string(c.Status), c.Reason}).To(Equal([]string{string(want), reason}), c.Message)
			is = *c
		}).Should(Succeed())
		return is
	}
	pushed := func(artifact string) *contract.Termination {
		return &contract.Termination{Expert: &contract.ExpertResult{Digest: digest("e"), Artifact: digest(artifact), Evaluation: digest("8")}}
	}
	BeforeEach(func(ctx SpecContext) {
		w = newWorld(ctx)
		math = w.expert("math")
		math.Spec.Publish = &v1alpha1.ExpertPublish{OCI: v1alpha1.OCIDestination{Reference: place}}
		w.dataset(ctx, "{}")
		w.decompose(ctx, "tiny")
	})

	It("is Ready before it is pushed, and tells of it", func(ctx SpecContext) {
		Expect(k8s.Create(ctx, math)).To(Succeed())
		publishes(ctx, metav1.ConditionFalse, v1alpha1.ReasonNoArtifact)
		w.finishTraining(ctx, "math", trained("e", "a", "b"))
		w.becomes(ctx, math, metav1.ConditionTrue, v1alpha1.ReasonSucceeded)
		publishes(ctx, metav1.ConditionFalse, v1alpha1.ReasonPending)
		w.endPush(ctx, "math", 0, pushed("c"))
		Expect(publishes(ctx, metav1.ConditionTrue, v1alpha1.ReasonPublished).Message).To(And(ContainSubstring(place), ContainSubstring(digest("c"))))
		w.told(ctx, math, corev1.EventTypeNormal, v1alpha1.ReasonPublished)
		Expect(math.Status.Published).To(HaveValue(And(
			HaveField("Reference", place), HaveField("Digest", v1alpha1.Digest(digest("c"))),
			HaveField("ArtifactDigest", v1alpha1.Digest(digest("e"))), HaveField("EvaluationDigest", v1alpha1.Digest(digest("8"))),
		)))
		run := math.Status.Artifact.RunID

		By("training it anew, which pushes what comes of it")
		math.Spec.Training.Seed = new(int64(7))
		Expect(k8s.Update(ctx, math)).To(Succeed())
		w.finishTraining(ctx, "math", trained("f", "a", "b"))
		w.endPush(ctx, "math", 0, pushed("d"))
		Eventually(func(g Gomega) {
			w.get(ctx, "math", math)
			g.Expect(math.Status.Published).To(HaveValue(HaveField("ArtifactDigest", v1alpha1.Digest(digest("f")))))
		}).Should(Succeed())
		Expect(math.Status.Artifact.RunID).NotTo(Equal(run))

		By("no longer asking for it")
		math.Spec.Publish = nil
		Expect(k8s.Update(ctx, math)).To(Succeed())
		Eventually(func(g Gomega) {
			w.get(ctx, "math", math)
			g.Expect(meta.FindStatusCondition(math.Status.Conditions, v1alpha1.ConditionPublished)).To(BeNil())
		}).Should(Succeed())
		Expect(math.Status.Published).NotTo(BeNil())
		Expect(math.Status.PublishRun).To(BeNil())
		w.becomes(ctx, math, metav1.ConditionTrue, v1alpha1.ReasonSucceeded)
	})

	It("says why it cannot be pushed, and stays Ready", func(ctx SpecContext) {
		Expect(k8s.Create(ctx, math)).To(Succeed())
		w.finishTraining(ctx, "math", trained("e", "a", "b"))
		w.endPush(ctx, "math", contract.ExitPermanent, &contract.Termination{
			Reason: contract.ReasonTagImmutable, Message: "the registry does not move the tag: name another tag", Permanent: true,
		})
		Expect(publishes(ctx, metav1.ConditionFalse, contract.ReasonTagImmutable).Message).To(ContainSubstring("name another tag"))
		w.told(ctx, math, corev1.EventTypeWarning, contract.ReasonTagImmutable)
		w.becomes(ctx, math, metav1.ConditionTrue, v1alpha1.ReasonSucceeded)

		By("naming another tag")
		math.Spec.Publish.OCI.Reference = "registry.example.org/experts/math:v2"
		Expect(k8s.Update(ctx, math)).To(Succeed())
		w.endPush(ctx, "math", contract.ExitFailed, &contract.Termination{
			Reason: contract.ReasonSourceUnreachable, Message: "fetching registry.example.org: no such host",
		})
		Eventually(func() string {
			return publishes(ctx, metav1.ConditionFalse, contract.ReasonSourceUnreachable).Message
		}).Should(ContainSubstring("tried again at"))
		w.becomes(ctx, math, metav1.ConditionTrue, v1alpha1.ReasonSucceeded)
	})
})

var _ = DescribeTable("The schema of where an expert is pushed", func(reference, want string) {
	checked(func(w world) *v1alpha1.ExpertVector { return w.expert("math") }, func(e *v1alpha1.ExpertVector) {
		e.Spec.Publish = &v1alpha1.ExpertPublish{OCI: v1alpha1.OCIDestination{Reference: reference}}
	}, want)
},
	Entry("takes a tag", "registry.example.org:5000/a/b_c/d:v1", accepted),
	Entry("wants a tag", "registry.example.org/math", "spec.publish.oci.reference"),
	Entry("takes no digest, which is not known before", "registry.example.org/math@"+digest("a"), "spec.publish.oci.reference"),
	Entry("wants a repository", "registry.example.org:v1", "spec.publish.oci.reference"),
	Entry("takes no address", "oci://registry.example.org/math:v1", "spec.publish.oci.reference"),
)
