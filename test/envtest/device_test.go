package envtest

import (
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/controllers/desired"
	"github.com/transformersquared/operator/runtime/contract"
)

const h100 = "cuda (NVIDIA H100 80GB HBM3, 79 GiB)"

// asked is what the three kinds say of what computes: fields of the same names,
// with the same rules.
type asked struct {
	backend   v1alpha1.Backend
	gpu       *v1alpha1.GPU
	resources *corev1.ResourceRequirements
}

func gpus(quantity string) *corev1.ResourceRequirements {
	return &corev1.ResourceRequirements{Limits: corev1.ResourceList{desired.DefaultGPUResource: resource.MustParse(quantity)}}
}

var _ = DescribeTable("The schema of what computes", func(a asked, want string) {
	checked(func(w world) *v1alpha1.BaseModel { return w.base("tiny") }, func(b *v1alpha1.BaseModel) {
		b.Spec.Runtime.Backend, b.Spec.Runtime.GPU, b.Spec.Runtime.Resources = a.backend, a.gpu, a.resources
	}, want)
	checked(func(w world) *v1alpha1.ExpertVector { return w.expert("math") }, func(e *v1alpha1.ExpertVector) {
		e.Spec.Training.Backend, e.Spec.Training.GPU, e.Spec.Training.Resources = a.backend, a.gpu, a.resources
	}, want)
	checked(func(w world) *v1alpha1.AdaptivePolicy { return w.policy("assistant", "math") }, func(p *v1alpha1.AdaptivePolicy) {
		p.Spec.Serving.Backend, p.Spec.Serving.GPU, p.Spec.Serving.Resources = a.backend, a.gpu, a.resources
	}, want)
},
	Entry("takes nothing", asked{}, accepted),
	Entry("takes Auto", asked{backend: v1alpha1.BackendAuto}, accepted),
	Entry("takes CPU", asked{backend: v1alpha1.BackendCPU, resources: memory("1Gi")}, accepted),
	Entry("takes CUDA", asked{backend: v1alpha1.BackendCUDA}, accepted),
	Entry("knows backends", asked{backend: "ROCm"}, "Unsupported value"),
	Entry("knows them in capitals", asked{backend: "cuda"}, "Unsupported value"),
	Entry("takes resources with a GPU", asked{resources: gpus("1")}, accepted),
	Entry("takes resources with no GPU for CUDA", asked{backend: v1alpha1.BackendCUDA, resources: gpus("0")}, accepted),
	Entry("takes a part of a GPU", asked{gpu: &v1alpha1.GPU{ResourceName: "nvidia.com/mig-3g.40gb"}, resources: memory("1Gi")}, accepted),
	Entry("takes a GPU of one's own", asked{gpu: &v1alpha1.GPU{ResourceName: "example.org/gpu_2.x"}}, accepted),
	Entry("takes a claim's template", asked{backend: v1alpha1.BackendAuto, gpu: &v1alpha1.GPU{ResourceClaimTemplateName: "h100"}}, accepted),
	Entry("wants a GPU that is named", asked{gpu: &v1alpha1.GPU{}}, "exactly one of"),
	Entry("wants a GPU that is named once", asked{gpu: &v1alpha1.GPU{ResourceName: "nvidia.com/gpu", ResourceClaimTemplateName: "h100"}}, "exactly one of"),
	Entry("wants the resource's domain", asked{gpu: &v1alpha1.GPU{ResourceName: "gpu"}}, "gpu.resourceName"),
	Entry("takes no resource of Kubernetes'", asked{gpu: &v1alpha1.GPU{ResourceName: "requests.kubernetes.io/memory"}}, "must be that of a device"),
	Entry("takes no GPU for CPU", asked{backend: v1alpha1.BackendCPU, gpu: &v1alpha1.GPU{ResourceClaimTemplateName: "h100"}}, "gpu is for the backends CUDA and Auto"),
	Entry("takes no resources with a GPU for CPU", asked{backend: v1alpha1.BackendCPU, resources: gpus("1")}, "which the backend CPU does not use"),
	Entry("takes a GPU in one place", asked{gpu: &v1alpha1.GPU{ResourceName: "nvidia.com/gpu"}, resources: gpus("1")}, "by gpu or by resources, not by both"),
	Entry("says where claims go", asked{resources: &corev1.ResourceRequirements{Claims: []corev1.ResourceClaim{{Name: "gpu"}}}}, "gpu.resourceClaimTemplateName"),
)

// computesOn checks what a pod has that computes by CUDA.
func computesOn(pod corev1.PodSpec, container corev1.Container) {
	GinkgoHelper()
	Expect(container.Image).To(Equal(settings.CUDARuntimeImage))
	Expect(container.Env).To(ContainElement(HaveField("Value", ContainSubstring(`"backend":"cuda"`))))
	Expect(pod.Tolerations).To(ContainElement(settings.GPUTolerations[0]))
}

var _ = Describe("What computes", func() {
	It("is a GPU where one is asked for; the run and its conditions say which, and what it lacks", func(ctx SpecContext) {
		w := newWorld(ctx)
		base := w.base("tiny")
		base.Spec.Runtime.Resources = gpus("1")
		Expect(k8s.Create(ctx, base)).To(Succeed())
		job := w.job(ctx, v1alpha1.LabelBaseModel, "tiny")
		first := w.pod(ctx, job, "one")
		computesOn(first.Spec, first.Spec.Containers[0])
		Expect(first.Spec.Containers[0].Resources.Limits).To(HaveKey(corev1.ResourceName(desired.DefaultGPUResource)))
		Expect(first.Spec.InitContainers[0].Image).To(Equal(settings.RuntimeImage))
		Expect(first.Spec.InitContainers[0].Resources.Limits).To(BeEmpty())

		By("showing the device while it runs")
		pods.listen(first, progressing(contract.Progress{Phase: "Decomposing", Done: 3, Total: 42, EstimatedRemainingSeconds: -1, Device: h100}))
		w.setPod(ctx, first, corev1.PodRunning, ended("fetch", 0, "Completed", &contract.Termination{}), works("decompose"))
		Eventually(func(g Gomega) {
			w.get(ctx, "tiny", base)
			g.Expect(base.Status.Runs).NotTo(BeEmpty())
			g.Expect(base.Status.Runs[0].Device).To(Equal(h100))
		}).Should(Succeed())

		By("saying what is to be done where it has too little memory")
		w.setPod(ctx, first, corev1.PodFailed, ended("decompose", contract.ExitPermanent, "Error", &contract.Termination{
			Reason: contract.ReasonDeviceMemory, Message: "the largest matrix takes 90 GiB, and the device has 79", Permanent: true, Device: h100,
		}))
		w.setJob(ctx, job, batchv1.JobFailed, batchv1.JobReasonPodFailurePolicy, 1)
		c := w.becomes(ctx, base, metav1.ConditionFalse, contract.ReasonDeviceMemory)
		Expect(c.Message).To(And(ContainSubstring("takes 90 GiB"), ContainSubstring("spec.runtime.gpu"), ContainSubstring("spec.runtime.podTemplate.spec.nodeSelector")))
		Expect(stalled(base)).To(BeTrue())
		Expect(base.Status.Runs[0].Result).To(Equal(contract.ReasonDeviceMemory))
		Expect(base.Status.Runs[0].Device).To(Equal(h100))

		By("continuing on CPUs with what is there")
		change(ctx, w, base, func() { base.Spec.Runtime.Backend, base.Spec.Runtime.Resources = v1alpha1.BackendCPU, nil })
		Eventually(func(g Gomega) {
			w.get(ctx, job.Name, job)
			g.Expect(job.DeletionTimestamp).NotTo(BeNil())
		}).Should(Succeed())
		w.collect(ctx)
		next := w.openJob(ctx, v1alpha1.LabelBaseModel, "tiny")
		Expect(next.Spec.Template.Spec.Containers[0].Image).To(Equal(settings.RuntimeImage))
		Expect(next.Labels[v1alpha1.LabelRun]).To(Equal(job.Labels[v1alpha1.LabelRun]))
		result := decomposed("a", "b")
		result.Device = "cpu (avx512, 2 threads)"
		w.finishDecompose(ctx, "tiny", result)
		w.becomes(ctx, base, metav1.ConditionTrue, v1alpha1.ReasonSucceeded)
		Expect(base.Status.Runs).To(HaveLen(1))
		Expect(base.Status.Runs[0].Device).To(Equal(result.Device))
	})

	It("is a claimed GPU for a training, which is tried again where a node has none", func(ctx SpecContext) {
		w := newWorld(ctx)
		w.dataset(ctx, "{}")
		w.decompose(ctx, "tiny")
		math := w.expert("math")
		math.Spec.Training.GPU = &v1alpha1.GPU{ResourceClaimTemplateName: "h100"}
		Expect(k8s.Create(ctx, math)).To(Succeed())
		job := w.job(ctx, v1alpha1.LabelExpert, "math")
		pod := w.pod(ctx, job, "one")
		computesOn(pod.Spec, pod.Spec.Containers[0])
		Expect(pod.Spec.ResourceClaims).To(ConsistOf(HaveField("ResourceClaimTemplateName", HaveValue(Equal("h100")))))
		Expect(pod.Spec.Containers[0].Resources.Claims).To(ConsistOf(corev1.ResourceClaim{Name: pod.Spec.ResourceClaims[0].Name}))

		By("showing the device as soon as the pod tells it, before there is an iteration")
		pods.listen(pod, progressing(contract.Progress{Phase: "Baseline", EstimatedRemainingSeconds: -1, Device: h100}))
		w.setPod(ctx, pod, corev1.PodRunning, works("train"))
		Eventually(func(g Gomega) {
			w.get(ctx, "math", math)
			g.Expect(math.Status.Runs).NotTo(BeEmpty())
			g.Expect(math.Status.Runs[0].Device).To(Equal(h100))
		}).Should(Succeed())

		By("going to a node that has none")
		w.setPod(ctx, pod, corev1.PodFailed, ended("train", contract.ExitFailed, "Error", &contract.Termination{
			Reason: contract.ReasonNoDevice, Message: "no NVIDIA driver is there: libcuda.so.1 is nowhere",
		}))
		w.setJob(ctx, job, batchv1.JobFailed, batchv1.JobReasonBackoffLimitExceeded, 4)
		Eventually(func(g Gomega) {
			c := w.becomes(ctx, math, metav1.ConditionFalse, contract.ReasonNoDevice)
			g.Expect(c.Message).To(And(ContainSubstring("libcuda.so.1"), ContainSubstring("set spec.training.backend to CPU"), ContainSubstring("It is tried again at")))
		}).Should(Succeed())
		Expect(stalled(math)).To(BeFalse())
		Expect(math.Status.Runs[0].Device).To(Equal(h100)) // The last that computed.
	})

	It("is counted for the pods of a policy, which say why they do not start", func(ctx SpecContext) {
		w := newWorld(ctx)
		w.dataset(ctx, "{}")
		w.decompose(ctx, "tiny")
		w.train(ctx, w.expert("math"), "1")
		policy := w.policy("assistant", "math")
		policy.Spec.Serving.Replicas, policy.Spec.Serving.Backend = new(int32(2)), v1alpha1.BackendCUDA
		Expect(k8s.Create(ctx, policy)).To(Succeed())
		w.deployed(ctx, "assistant")
		for _, s := range w.roll(ctx, "assistant") {
			s.change(func(s *server) { s.status.Device = h100 })
		}
		w.becomes(ctx, policy, metav1.ConditionTrue, v1alpha1.ReasonServing)
		Eventually(func(g Gomega) {
			w.get(ctx, "assistant", policy)
			g.Expect(policy.Status.Devices).To(Equal([]v1alpha1.PolicyDevice{{Name: h100, Pods: 2}}))
		}).Should(Succeed())
		list := w.podsOf(ctx, "assistant")
		computesOn(list[0].Spec, list[0].Spec.Containers[0])

		By("one of them coming back on a node whose device is too old")
		crashed := waits("serve", "CrashLoopBackOff", "back-off")
		crashed.LastTerminationState = ended("serve", contract.ExitFailed, "Error", &contract.Termination{
			Reason: contract.ReasonDeviceUnsupported, Message: "device 0 has compute capability 7.0, and 8.0 is needed", Permanent: true,
		}).State
		w.setPod(ctx, &list[0], corev1.PodRunning, crashed)
		c := w.becomes(ctx, policy, metav1.ConditionFalse, contract.ReasonDeviceUnsupported)
		Expect(c.Message).To(And(ContainSubstring("capability 7.0"), ContainSubstring("spec.serving.podTemplate.spec.nodeSelector")))
		Eventually(func(g Gomega) { // The other may not have been asked in time.
			w.get(ctx, "assistant", policy)
			g.Expect(policy.Status.Devices).To(Equal([]v1alpha1.PolicyDevice{{Name: h100, Pods: 1}}))
		}).Should(Succeed())
	})
})

func stalled(o object) bool {
	return meta.IsStatusConditionTrue(*o.StatusConditions(), v1alpha1.ConditionStalled)
}
