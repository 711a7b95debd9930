package envtest

import (
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/runtime/contract"
)

var _ = Describe("An ExpertVector", func() {
	var w world
	var math *v1alpha1.ExpertVector
	BeforeEach(func(ctx SpecContext) {
		w = newWorld(ctx)
		math = w.expert("math")
	})

	It("waits for whatever it refers to, in any order", func(ctx SpecContext) {
		Expect(k8s.Create(ctx, math)).To(Succeed())
		ready := w.becomes(ctx, math, metav1.ConditionFalse, v1alpha1.ReasonBaseNotFound)
		Expect(ready.Message).To(ContainSubstring("BaseModel tiny"))

		Expect(k8s.Create(ctx, w.base("tiny"))).To(Succeed())
		w.becomes(ctx, math, metav1.ConditionFalse, v1alpha1.ReasonBaseNotReady)

		w.finishDecompose(ctx, "tiny", decomposed("a", "b"))
		ready = w.becomes(ctx, math, metav1.ConditionFalse, v1alpha1.ReasonDatasetNotFound)
		Expect(ready.Message).To(ContainSubstring("ConfigMap sums"))

		Expect(k8s.Create(ctx, &corev1.ConfigMap{ObjectMeta: w.meta("sums"), Data: map[string]string{"other.jsonl": "{}"}})).To(Succeed())
		Eventually(func() string {
			return w.becomes(ctx, math, metav1.ConditionFalse, v1alpha1.ReasonDatasetNotFound).Message
		}).Should(ContainSubstring("no key train.jsonl"))

		Expect(k8s.Update(ctx, &corev1.ConfigMap{ObjectMeta: w.meta("sums"), Data: map[string]string{"train.jsonl": "{}"}})).To(Succeed())
		w.finishTraining(ctx, "math", trained("e", "a", "b"))
		w.becomes(ctx, math, metav1.ConditionTrue, v1alpha1.ReasonSucceeded)
	})

	It("is trained, and tells of it like a story", func(ctx SpecContext) {
		w.dataset(ctx, "{}")
		w.decompose(ctx, "tiny")
		Expect(k8s.Create(ctx, math)).To(Succeed())
		job := w.job(ctx, v1alpha1.LabelExpert, "math")
		Expect(job.Spec.Template.Spec.Containers[0].Args).To(Equal([]string{"train", "--shared-base", "/data/shared"}))
		pod := w.pod(ctx, job, "one")
		pods.listen(pod, progressing(contract.Progress{Phase: "Training", EstimatedRemainingSeconds: 80, Training: &contract.TrainProgress{
			Iteration: 12, Iterations: 40, Reward: -0.125, KL: 0.003, ValidationScore: 0.5, BestScore: 0.5625, BaselineScore: 0.4688,
		}}))
		w.setPod(ctx, pod, corev1.PodRunning, works("train"))
		ready := w.becomes(ctx, math, metav1.ConditionFalse, v1alpha1.ReasonTraining)
		Expect(ready.Message).To(And(ContainSubstring("12/40"), ContainSubstring("0.5625"), ContainSubstring("80 s")))
		Expect(math.Status.Progress).To(HaveValue(Equal(v1alpha1.TrainingProgress{
			Summary: "12/40", Step: "Training", Iteration: ptr.To[int32](12), Iterations: 40, Reward: "-0.1250", KL: "0.003000",
			ValidationScore: "0.5000", BestScore: "0.5625", EstimatedRemainingSeconds: ptr.To[int64](80),
		})))
		Expect(math.Status.BaselineScore).To(Equal(v1alpha1.Score("0.4688")))
		Expect(math.Status.Score).To(BeEmpty())
		Expect(math.Status.Artifact).To(BeNil())

		By("believing the container: the kubelet and the Job say so seconds later")
		w.setPod(ctx, pod, corev1.PodRunning, ended("train", 0, "Completed", trained("e", "a", "b")))
		ready = w.becomes(ctx, math, metav1.ConditionTrue, v1alpha1.ReasonSucceeded)
		w.setPod(ctx, pod, corev1.PodSucceeded, ended("train", 0, "Completed", trained("e", "a", "b")))
		w.setJob(ctx, job, batchv1.JobComplete, "", 0)
		Consistently(func() int { return w.jobs(ctx, v1alpha1.LabelExpert, "math") }).Should(Equal(1))
		Expect(w.becomes(ctx, math, metav1.ConditionTrue, v1alpha1.ReasonSucceeded)).To(Equal(ready))
		Expect(ready.Message).To(ContainSubstring("after 40/40 iterations"))
		Expect(math.Status.Score).To(Equal(v1alpha1.Score("0.7031")))
		Expect(math.Status.BaseDigest).To(Equal(v1alpha1.Digest(digest("a"))))
		Expect(math.Status.DecompositionDigest).To(Equal(v1alpha1.Digest(digest("b"))))
		Expect(math.Status.Artifact.URI).To(Equal("pvc://tiny/experts/sha256-" + digest("e")[len(contract.DigestPrefix):]))
		Expect(math.Status.Runs).To(ConsistOf(And(HaveField("Result", "Succeeded"), HaveField("JobName", job.Name))))
		for _, reason := range []string{v1alpha1.ReasonTraining, v1alpha1.ReasonSucceeded} {
			w.told(ctx, math, corev1.EventTypeNormal, reason)
		}
	})

	It("does not mind a pod that does not answer", func(ctx SpecContext) {
		w.dataset(ctx, "{}")
		w.decompose(ctx, "tiny")
		Expect(k8s.Create(ctx, math)).To(Succeed())
		pod := w.pod(ctx, w.job(ctx, v1alpha1.LabelExpert, "math"), "one")
		w.setPod(ctx, pod, corev1.PodRunning, works("train"))
		w.becomes(ctx, math, metav1.ConditionFalse, v1alpha1.ReasonTraining)
	})

	It("names the memory limit that killed it, tries again, and then stalls", func(ctx SpecContext) {
		w.dataset(ctx, "{}")
		w.decompose(ctx, "tiny")
		math.Spec.Training.Resources = memory("512Mi")
		math.Spec.Training.BackoffLimit = ptr.To[int32](1)
		Expect(k8s.Create(ctx, math)).To(Succeed())
		job := w.job(ctx, v1alpha1.LabelExpert, "math")
		first := w.pod(ctx, job, "one")
		w.setPod(ctx, first, corev1.PodFailed, ended("train", 137, "OOMKilled", nil))
		w.setJob(ctx, job, "", "", 1)
		ready := w.becomes(ctx, math, metav1.ConditionFalse, v1alpha1.ReasonOOMKilled)
		Expect(ready.Message).To(And(ContainSubstring("512Mi"), ContainSubstring("raise spec.training.resources.limits.memory")))
		Expect(meta.IsStatusConditionTrue(math.Status.Conditions, v1alpha1.ConditionReconciling)).To(BeTrue())
		w.told(ctx, math, corev1.EventTypeWarning, v1alpha1.ReasonOOMKilled)

		second := w.pod(ctx, job, "two")
		w.setPod(ctx, second, corev1.PodFailed, ended("train", 137, "OOMKilled", nil))
		w.setJob(ctx, job, batchv1.JobFailed, batchv1.JobReasonBackoffLimitExceeded, 2)
		Eventually(func(g Gomega) {
			w.get(ctx, "math", math)
			g.Expect(meta.IsStatusConditionTrue(math.Status.Conditions, v1alpha1.ConditionStalled)).To(BeTrue())
		}).Should(Succeed())
		ready = w.becomes(ctx, math, metav1.ConditionFalse, v1alpha1.ReasonOOMKilled)
		Expect(ready.Message).To(ContainSubstring("Given up after 2 failed pods"))
		run := math.Status.Runs[0]
		Expect(run.Failures).To(HaveValue(Equal(int32(2))))

		By("going on with the same run when it has more memory")
		math.Spec.Training.Resources = memory("1Gi")
		Expect(k8s.Update(ctx, math)).To(Succeed())
		w.finishTraining(ctx, "math", trained("e", "a", "b"))
		w.becomes(ctx, math, metav1.ConditionTrue, v1alpha1.ReasonSucceeded)
		Expect(math.Status.Runs).To(HaveLen(1))
		Expect(math.Status.Runs[0].ID).To(Equal(run.ID))
		Expect(math.Status.Runs[0].JobName).NotTo(Equal(run.JobName))
	})

	It("keeps the old artifact until a changed training is done", func(ctx SpecContext) {
		w.dataset(ctx, "{}")
		w.decompose(ctx, "tiny")
		w.train(ctx, math, "e")
		w.get(ctx, "math", math)
		old := math.Status.Runs[0]

		By("not training again for a description")
		math.Spec.Description = "arithmetic"
		math.Labels = map[string]string{"team": "demo"}
		Expect(k8s.Update(ctx, math)).To(Succeed())
		w.becomes(ctx, math, metav1.ConditionTrue, v1alpha1.ReasonSucceeded)
		Expect(w.job(ctx, v1alpha1.LabelExpert, "math").Name).To(Equal(old.JobName))

		By("training again for another seed")
		math.Spec.Training.Seed = ptr.To[int64](8)
		Expect(k8s.Update(ctx, math)).To(Succeed())
		ready := w.becomes(ctx, math, metav1.ConditionFalse, v1alpha1.ReasonPending)
		Expect(ready.Message).To(ContainSubstring("the artifact of before stays"))
		job := w.openJob(ctx, v1alpha1.LabelExpert, "math")
		Expect(job.Name).NotTo(Equal(old.JobName))
		pod := w.pod(ctx, job, "one")
		w.setPod(ctx, pod, corev1.PodRunning, works("train"))
		w.becomes(ctx, math, metav1.ConditionFalse, v1alpha1.ReasonTraining)
		Expect(math.Status.Artifact.Digest).To(Equal(v1alpha1.Digest(digest("e"))))
		Expect(math.Status.Score).To(Equal(v1alpha1.Score("0.7031")))

		By("serving the old artifact still when the new run fails")
		w.setPod(ctx, pod, corev1.PodFailed, ended("train", contract.ExitPermanent, "Error", &contract.Termination{
			Reason: contract.ReasonDiverged, Message: "the loss became NaN; lower the learning rate", Permanent: true,
		}))
		w.setJob(ctx, job, batchv1.JobFailed, batchv1.JobReasonPodFailurePolicy, 1)
		w.becomes(ctx, math, metav1.ConditionFalse, contract.ReasonDiverged)
		Expect(math.Status.Artifact.Digest).To(Equal(v1alpha1.Digest(digest("e"))))

		By("replacing it when a run succeeds")
		math.Spec.Training.Optimizer = &v1alpha1.Optimizer{LearningRate: "0.001"}
		Expect(k8s.Update(ctx, math)).To(Succeed())
		w.finishTraining(ctx, "math", trained("f", "a", "b"))
		w.becomes(ctx, math, metav1.ConditionTrue, v1alpha1.ReasonSucceeded)
		Expect(math.Status.Artifact.Digest).To(Equal(v1alpha1.Digest(digest("f"))))
		Expect(math.Status.Runs).To(HaveExactElements(
			HaveField("Result", "Succeeded"), HaveField("Result", contract.ReasonDiverged), HaveField("Result", "Succeeded")))
	})

	It("trains again when the content of its data set changes", func(ctx SpecContext) {
		w.dataset(ctx, "{}")
		w.decompose(ctx, "tiny")
		w.train(ctx, math, "e")
		old := w.job(ctx, v1alpha1.LabelExpert, "math").Name

		set := &corev1.ConfigMap{}
		w.get(ctx, "sums", set)
		set.Labels = map[string]string{"touched": "yes"}
		Expect(k8s.Update(ctx, set)).To(Succeed())
		Consistently(func() string { return w.job(ctx, v1alpha1.LabelExpert, "math").Name }).Should(Equal(old))

		set.Data["train.jsonl"] = `{"question":"1+1?","answer":"#### 2"}`
		Expect(k8s.Update(ctx, set)).To(Succeed())
		w.finishTraining(ctx, "math", trained("f", "a", "b"))
		w.becomes(ctx, math, metav1.ConditionTrue, v1alpha1.ReasonSucceeded)
	})

	It("trains again when its base has another decomposition", func(ctx SpecContext) {
		w.dataset(ctx, "{}")
		w.decompose(ctx, "tiny")
		w.train(ctx, math, "e")
		base := &v1alpha1.BaseModel{}
		w.get(ctx, "tiny", base)
		base.Spec.Decomposition.DType = v1alpha1.DTypeBF16
		Expect(k8s.Update(ctx, base)).To(Succeed())
		w.becomes(ctx, base, metav1.ConditionFalse, v1alpha1.ReasonPending)
		w.becomes(ctx, math, metav1.ConditionTrue, v1alpha1.ReasonSucceeded) // It fits what the base still has.
		w.finishDecompose(ctx, "tiny", decomposed("a", "c"))
		w.finishTraining(ctx, "math", trained("f", "a", "c"))
		Eventually(func() v1alpha1.Digest { // It was ready before, with the artifact of the base's decomposition of before.
			w.get(ctx, "math", math)
			return math.Status.DecompositionDigest
		}).Should(Equal(v1alpha1.Digest(digest("c"))))
		w.becomes(ctx, math, metav1.ConditionTrue, v1alpha1.ReasonSucceeded)
	})

	It("ends the training that nobody waits for any more", func(ctx SpecContext) {
		w.dataset(ctx, "{}")
		w.decompose(ctx, "tiny")
		w.train(ctx, math, "e")
		change(ctx, w, math, func() { math.Spec.Training.Seed = new(int64(7)) })
		Eventually(func(g Gomega) {
			w.collect(ctx)
			w.get(ctx, "math", math)
			g.Expect(math.Status.Runs).To(HaveLen(2))
		}).Should(Succeed())
		change(ctx, w, math, func() { math.Spec.Training.Seed = nil })
		Eventually(func(g Gomega) {
			w.collect(ctx)
			var jobs batchv1.JobList
			g.Expect(k8s.List(ctx, &jobs, client.InNamespace(w.namespace), client.MatchingLabels{v1alpha1.LabelExpert: "math"})).To(Succeed())
			g.Expect(jobs.Items).To(BeEmpty())
		}).Should(Succeed())
		w.becomes(ctx, math, metav1.ConditionTrue, v1alpha1.ReasonSucceeded)
		Expect(math.Status.Artifact.Digest).To(Equal(v1alpha1.Digest(digest("e"))))
		Expect(math.Status.Runs).To(HaveExactElements(HaveField("Result", "Superseded"), HaveField("Result", "Succeeded")))
	})

	It("is suspended and goes on", func(ctx SpecContext) {
		w.dataset(ctx, "{}")
		w.decompose(ctx, "tiny")
		math.Spec.Training.Suspend = new(true)
		Expect(k8s.Create(ctx, math)).To(Succeed())
		w.becomes(ctx, math, metav1.ConditionFalse, v1alpha1.ReasonSuspended)
		job := w.job(ctx, v1alpha1.LabelExpert, "math")
		Expect(job.Spec.Suspend).To(HaveValue(BeTrue()))

		math.Spec.Training.Suspend = nil
		Expect(k8s.Update(ctx, math)).To(Succeed())
		Eventually(func(g Gomega) {
			w.get(ctx, job.Name, job)
			g.Expect(job.Spec.Suspend).To(HaveValue(BeFalse()))
		}).Should(Succeed())
		w.finishTraining(ctx, "math", trained("e", "a", "b"))
		w.becomes(ctx, math, metav1.ConditionTrue, v1alpha1.ReasonSucceeded)
	})

	It("stalls where somebody must act", func(ctx SpecContext) {
		w.dataset(ctx, "{}")
		base := w.base("tiny")
		base.Spec.Decomposition.Modules = []v1alpha1.Module{v1alpha1.ModuleUp}
		Expect(k8s.Create(ctx, base)).To(Succeed())
		w.finishDecompose(ctx, "tiny", decomposed("a", "b"))

		By("asking for modules that are not decomposed")
		math.Spec.Training.Modules = []v1alpha1.Module{v1alpha1.ModuleUp, v1alpha1.ModuleQ}
		Expect(k8s.Create(ctx, math)).To(Succeed())
		ready := w.becomes(ctx, math, metav1.ConditionFalse, v1alpha1.ReasonModulesNotDecomposed)
		Expect(ready.Message).To(And(ContainSubstring("q_proj"), Not(ContainSubstring("up_proj,"))))

		By("giving a data set another digest")
		math.Spec.Training.Modules = nil
		math.Spec.Training.Dataset.Train.Digest = v1alpha1.Digest(digest("0"))
		Expect(k8s.Update(ctx, math)).To(Succeed())
		ready = w.becomes(ctx, math, metav1.ConditionFalse, contract.ReasonDigestMismatch)
		Expect(ready.Message).To(And(ContainSubstring("spec.training.dataset.train"), ContainSubstring(digest("0"))))

		By("getting the expert of another decomposition")
		math.Spec.Training.Dataset.Train.Digest = ""
		Expect(k8s.Update(ctx, math)).To(Succeed())
		w.finishTraining(ctx, "math", trained("e", "a", "9"))
		ready = w.becomes(ctx, math, metav1.ConditionFalse, v1alpha1.ReasonDecompositionMismatch)
		Expect(ready.Message).To(And(ContainSubstring(digest("9")), ContainSubstring(digest("b"))))
		Expect(math.Status.Artifact).To(BeNil())
	})

	It("stalls on a runtime that does not say what it made", func(ctx SpecContext) {
		w.dataset(ctx, "{}")
		w.decompose(ctx, "tiny")
		Expect(k8s.Create(ctx, math)).To(Succeed())
		w.finishTraining(ctx, "math", &contract.Termination{})
		ready := w.becomes(ctx, math, metav1.ConditionFalse, contract.ReasonInternal)
		Expect(ready.Message).To(ContainSubstring("another version"))
		w.told(ctx, math, corev1.EventTypeWarning, contract.ReasonInternal)
	})

	It("is imported", func(ctx SpecContext) {
		w.decompose(ctx, "tiny")
		math.Spec.Training = nil
		math.Spec.Source = &v1alpha1.ExpertSource{
			HTTP: &v1alpha1.HTTPSource{URL: "https://example.org/math.safetensors"}, Digest: v1alpha1.Digest(digest("e")),
		}
		Expect(k8s.Create(ctx, math)).To(Succeed())
		job := w.job(ctx, v1alpha1.LabelExpert, "math")
		pod := w.pod(ctx, job, "one")
		w.setPod(ctx, pod, corev1.PodRunning, works("import"))
		w.becomes(ctx, math, metav1.ConditionFalse, v1alpha1.ReasonImporting)
		w.setPod(ctx, pod, corev1.PodSucceeded, ended("import", 0, "Completed", &contract.Termination{Expert: &contract.ExpertResult{
			Digest: digest("e"), SizeBytes: 100, BaseDigest: digest("a"), DecompositionDigest: digest("b"),
		}}))
		w.setJob(ctx, job, batchv1.JobComplete, "", 0)
		w.becomes(ctx, math, metav1.ConditionTrue, v1alpha1.ReasonSucceeded)
		Expect(math.Status.Score).To(BeEmpty())
	})

	It("never has two runs at a time", func(ctx SpecContext) {
		w.dataset(ctx, "{}")
		w.decompose(ctx, "tiny")
		Expect(k8s.Create(ctx, math)).To(Succeed())
		job := w.job(ctx, v1alpha1.LabelExpert, "math")
		pod := w.pod(ctx, job, "one")
		w.setPod(ctx, pod, corev1.PodRunning, works("train"))
		w.becomes(ctx, math, metav1.ConditionFalse, v1alpha1.ReasonTraining)

		By("superseding a run that goes on")
		math.Spec.Training.Seed = ptr.To[int64](2)
		Expect(k8s.Update(ctx, math)).To(Succeed())
		w.becomes(ctx, math, metav1.ConditionFalse, v1alpha1.ReasonPreviousRun)
		Eventually(func() bool {
			w.get(ctx, job.Name, job)
			return job.DeletionTimestamp.IsZero()
		}).Should(BeFalse())

		By("losing the Job before its pod")
		job.Finalizers = nil
		Expect(k8s.Update(ctx, job)).To(Succeed())
		Eventually(func() string {
			return w.becomes(ctx, math, metav1.ConditionFalse, v1alpha1.ReasonPreviousRun).Message
		}).Should(ContainSubstring(pod.Name))

		w.setPod(ctx, pod, corev1.PodFailed, ended("train", contract.ExitInterrupted, "Error", nil))
		w.finishTraining(ctx, "math", trained("e", "a", "b"))
		w.becomes(ctx, math, metav1.ConditionTrue, v1alpha1.ReasonSucceeded)
	})
})
