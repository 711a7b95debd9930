package envtest

import (
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/transformersquared/operator/api/v1alpha1"
)

// shaped are the templates of the three kinds with a change: the same type, and
// so the same rules.
func shaped(change func(*v1alpha1.PodTemplate)) *v1alpha1.PodTemplate {
	template := &v1alpha1.PodTemplate{Metadata: &v1alpha1.PodMetadata{}, Spec: &v1alpha1.PodShape{}}
	change(template)
	if template.Metadata.Labels == nil && template.Metadata.Annotations == nil {
		template.Metadata = nil
	}
	return template
}

var _ = DescribeTable("A pod template's schema", func(change func(*v1alpha1.PodTemplate), want string) {
	checked(func(w world) *v1alpha1.BaseModel { return w.base("tiny") }, func(b *v1alpha1.BaseModel) {
		b.Spec.Runtime.PodTemplate = shaped(change)
	}, want)
	checked(func(w world) *v1alpha1.ExpertVector { return w.expert("math") }, func(e *v1alpha1.ExpertVector) {
		e.Spec.Training.PodTemplate = shaped(change)
	}, want)
	checked(func(w world) *v1alpha1.AdaptivePolicy { return w.policy("assistant", "math") }, func(p *v1alpha1.AdaptivePolicy) {
		p.Spec.Serving.PodTemplate = shaped(change)
	}, want)
},
	Entry("takes the name of a queue", label("kueue.x-k8s.io/queue-name", "batch"), accepted),
	Entry("takes recommended labels that are not the operator's", label("app.kubernetes.io/part-of", "chat"), accepted),
	Entry("keeps the operator's labels", label(v1alpha1.LabelRun, "mine"), "labels under transformersquared.dev/"),
	Entry("keeps its name", label(v1alpha1.LabelName, "mine"), "are the operator's"),
	Entry("keeps its component", label(v1alpha1.LabelComponent, "mine"), "are the operator's"),
	Entry("keeps who manages", label(v1alpha1.LabelManagedBy, "me"), "are the operator's"),
	Entry("keeps the Job controller's labels", label("batch.kubernetes.io/job-name", "mine"), "Kubernetes' own"),
	Entry("keeps its older ones", label("controller-uid", "mine"), "Kubernetes' own"),
	Entry("keeps the Deployment controller's label", label("pod-template-hash", "mine"), "Kubernetes' own"),
	Entry("wants values of labels", label("team", "a b"), "metadata.labels"),
	Entry("takes annotations", func(t *v1alpha1.PodTemplate) {
		t.Metadata.Annotations = map[string]string{"sidecar.istio.io/inject": "false"}
	}, accepted),
	Entry("keeps the operator's annotations", func(t *v1alpha1.PodTemplate) {
		t.Metadata.Annotations = map[string]string{v1alpha1.AnnotationApplied: "x"}
	}, "annotations under transformersquared.dev/"),
	Entry("takes variables", variable("HTTPS_PROXY"), accepted),
	Entry("keeps the operator's variables", variable("T2_SPEC"), "names begin with T2_"),
	Entry("takes each variable once", func(t *v1alpha1.PodTemplate) {
		t.Spec.Env = []corev1.EnvVar{{Name: "A", Value: "1"}, {Name: "A", Value: "2"}}
	}, "Duplicate value"),
	Entry("takes a security context that leaves all to the platform", func(t *v1alpha1.PodTemplate) {
		t.Spec.SecurityContext = &corev1.PodSecurityContext{}
	}, accepted),
	Entry("takes where pods run", func(t *v1alpha1.PodTemplate) {
		t.Spec.NodeSelector = map[string]string{"disk": "fast"}
		t.Spec.Tolerations = []corev1.Toleration{{Key: "gpu", Operator: corev1.TolerationOpExists}}
		t.Spec.RuntimeClassName, t.Spec.PriorityClassName, t.Spec.SchedulerName = "nvidia", "low", "volcano"
		t.Spec.ServiceAccountName = "runner"
		t.Spec.ImagePullSecrets = []corev1.LocalObjectReference{{Name: "registry"}}
		t.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{
			MaxSkew: 1, TopologyKey: "zone", WhenUnsatisfiable: corev1.DoNotSchedule,
		}}
		t.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{}}
	}, accepted),
	Entry("takes a volume and where it is mounted", mounted("ca", "/etc/ssl/certs"), accepted),
	Entry("takes paths that only begin like the operator's", mounted("ca", "/data2"), accepted),
	Entry("wants a kind of volume", func(t *v1alpha1.PodTemplate) { t.Spec.Volumes = []v1alpha1.PodVolume{{Name: "ca"}} }, "exactly one of"),
	Entry("wants one kind of volume", func(t *v1alpha1.PodTemplate) {
		t.Spec.Volumes = []v1alpha1.PodVolume{{
			Name: "ca", EmptyDir: &corev1.EmptyDirVolumeSource{}, Secret: &corev1.SecretVolumeSource{SecretName: "ca"},
		}}
	}, "exactly one of"),
	Entry("keeps the operator's volumes", volume("data"), "are the operator's"),
	Entry("keeps the names of volumes that it makes up", volume("claim-1"), "are the operator's"),
	Entry("keeps the names of volumes to come", volume("t2-judge"), "are the operator's"),
	Entry("mounts no volume of the operator", mounted("data", "/other"), "mounted by the operator only"),
	Entry("keeps the operator's paths", mounted("ca", "/data"), "the operator's or the system's"),
	Entry("keeps what is below them", mounted("ca", "/etc/t2/experts"), "below one of the operator's"),
	Entry("keeps what is above them", mounted("ca", "/etc"), "the operator's or the system's"),
	Entry("keeps the system's paths", mounted("ca", "/proc/self"), "below one of the operator's"),
	Entry("keeps the program", mounted("ca", "/t2"), "the operator's or the system's"),
	Entry("keeps the root", mounted("ca", "/"), "mountPath"),
	Entry("wants absolute paths", mounted("ca", "cache"), "mountPath"),
	Entry("wants paths that go one way", mounted("ca", "/cache/../data"), "mountPath"),
	Entry("wants no dots", mounted("ca", "/./data"), "mountPath"),
	Entry("wants no slash at the end", mounted("ca", "/cache/"), "mountPath"),
	Entry("stays in the volume", func(t *v1alpha1.PodTemplate) {
		mounted("ca", "/cache")(t)
		t.Spec.VolumeMounts[0].SubPath = "a/../../b"
	}, "must not contain '..'"),
	Entry("takes a part of a volume", func(t *v1alpha1.PodTemplate) {
		mounted("ca", "/cache")(t)
		t.Spec.VolumeMounts[0].SubPath = "a..b/c"
	}, accepted),
	Entry("takes several sources in a folder", projected(corev1.VolumeProjection{
		ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "roots"}},
	}), accepted),
	Entry("gives no credentials of the API", projected(corev1.VolumeProjection{
		ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token"},
	}), "tokens of service accounts are not mounted"),
)

func label(key string, value v1alpha1.LabelValue) func(*v1alpha1.PodTemplate) {
	return func(t *v1alpha1.PodTemplate) { t.Metadata.Labels = map[string]v1alpha1.LabelValue{key: value} }
}

func variable(name string) func(*v1alpha1.PodTemplate) {
	return func(t *v1alpha1.PodTemplate) { t.Spec.Env = []corev1.EnvVar{{Name: name, Value: "x"}} }
}

func volume(name string) func(*v1alpha1.PodTemplate) {
	return func(t *v1alpha1.PodTemplate) {
		t.Spec.Volumes = []v1alpha1.PodVolume{{Name: name, EmptyDir: &corev1.EmptyDirVolumeSource{}}}
	}
}

func mounted(name, path string) func(*v1alpha1.PodTemplate) {
	return func(t *v1alpha1.PodTemplate) {
		volume("ca")(t)
		t.Spec.VolumeMounts = []v1alpha1.PodVolumeMount{{Name: name, MountPath: path}}
	}
}

func projected(source corev1.VolumeProjection) func(*v1alpha1.PodTemplate) {
	return func(t *v1alpha1.PodTemplate) {
		t.Spec.Volumes = []v1alpha1.PodVolume{{Name: "ca", Projected: &v1alpha1.PodProjection{Sources: []corev1.VolumeProjection{source}}}}
	}
}

var _ = Describe("A pod template", func() {
	It("gives Jobs the name of their queue, and trains nothing again", func(ctx SpecContext) {
		w := newWorld(ctx)
		w.dataset(ctx, "{}")
		base := w.base("tiny")
		base.Spec.Runtime.PodTemplate = shaped(label("kueue.x-k8s.io/queue-name", "shared"))
		Expect(k8s.Create(ctx, base)).To(Succeed())
		Expect(w.job(ctx, v1alpha1.LabelBaseModel, "tiny").Labels).To(HaveKeyWithValue("kueue.x-k8s.io/queue-name", "shared"))
		w.finishDecompose(ctx, "tiny", decomposed("a", "b"))
		w.becomes(ctx, base, metav1.ConditionTrue, v1alpha1.ReasonSucceeded)

		math := w.expert("math")
		math.Spec.Training.PodTemplate = shaped(func(t *v1alpha1.PodTemplate) {
			label("kueue.x-k8s.io/queue-name", "training")(t)
			mounted("ca", "/etc/ssl/certs")(t)
			variable("HTTPS_PROXY")(t)
			t.Spec.SecurityContext = &corev1.PodSecurityContext{}
		})
		Expect(k8s.Create(ctx, math)).To(Succeed())
		job := w.job(ctx, v1alpha1.LabelExpert, "math")
		for _, labels := range []map[string]string{job.Labels, job.Spec.Template.Labels} {
			Expect(labels).To(HaveKeyWithValue("kueue.x-k8s.io/queue-name", "training"))
			Expect(labels).To(HaveKeyWithValue(v1alpha1.LabelManagedBy, v1alpha1.ManagedBy))
		}
		pod := w.pod(ctx, job, "one") // Under the restricted Pod Security standard.
		Expect(pod.Spec.SecurityContext.RunAsUser).To(BeNil())
		Expect(pod.Spec.SecurityContext.FSGroup).To(BeNil())
		Expect(pod.Spec.Containers[0].VolumeMounts).To(ContainElement(HaveField("MountPath", "/etc/ssl/certs")))
		Expect(pod.Spec.Containers[0].Env).To(ContainElement(HaveField("Name", "HTTPS_PROXY")))
		Expect(pod.Spec.AutomountServiceAccountToken).To(HaveValue(BeFalse()))
		w.removePod(ctx, pod)

		By("going on in another pod when it changes")
		change(ctx, w, math, func() { label("kueue.x-k8s.io/queue-name", "urgent")(math.Spec.Training.PodTemplate) })
		Eventually(func(g Gomega) {
			w.collect(ctx)
			next := w.job(ctx, v1alpha1.LabelExpert, "math")
			g.Expect(next.Labels).To(HaveKeyWithValue("kueue.x-k8s.io/queue-name", "urgent"))
			g.Expect(next.Labels[v1alpha1.LabelRun]).To(Equal(job.Labels[v1alpha1.LabelRun]))
		}).Should(Succeed())
		w.finishTraining(ctx, "math", trained("e", "a", "b"))
		w.becomes(ctx, math, metav1.ConditionTrue, v1alpha1.ReasonSucceeded)

		By("changing nothing of what is done")
		change(ctx, w, math, func() { math.Spec.Training.PodTemplate = nil })
		w.becomes(ctx, math, metav1.ConditionTrue, v1alpha1.ReasonSucceeded)
		Expect(math.Status.Runs).To(HaveLen(1))
	})

	It("replaces a policy's pods", func(ctx SpecContext) {
		w := newWorld(ctx)
		w.dataset(ctx, "{}")
		w.decompose(ctx, "tiny")
		w.train(ctx, w.expert("math"), "1")
		policy := w.policy("assistant", "math")
		Expect(k8s.Create(ctx, policy)).To(Succeed())
		w.roll(ctx, "assistant")
		w.becomes(ctx, policy, metav1.ConditionTrue, v1alpha1.ReasonServing)
		before := w.deployed(ctx, "assistant").Generation
		change(ctx, w, policy, func() { policy.Spec.Serving.PodTemplate = shaped(label("team", "chat")) })
		Eventually(func(g Gomega) {
			d := w.deployed(ctx, "assistant")
			g.Expect(d.Generation).To(BeNumerically(">", before))
			g.Expect(d.Labels).To(HaveKeyWithValue("team", "chat"))
			g.Expect(d.Spec.Template.Labels).To(HaveKeyWithValue("team", "chat"))
			g.Expect(d.Spec.Selector.MatchLabels).NotTo(HaveKey("team"))
		}).Should(Succeed())
	})
})

// change writes an object as it is now with a change.
func change(ctx SpecContext, w world, obj client.Object, apply func()) {
	GinkgoHelper()
	Eventually(func(g Gomega) {
		w.get(ctx, obj.GetName(), obj)
		apply()
		g.Expect(k8s.Update(ctx, obj)).To(Succeed())
	}).Should(Succeed())
}
