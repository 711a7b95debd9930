package envtest

import (
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/runtime/contract"
)

// images are the artifacts that a pod mounts.
func images(pod corev1.PodSpec) (references []string) {
	for _, v := range pod.Volumes {
		if v.Image != nil {
			references = append(references, v.Image.Reference)
		}
	}
	return references
}

var _ = Describe("A BaseModel whose model nodes mount", func() {
	It("says why they cannot, and has its pods mount it until it is copied", func(ctx SpecContext) {
		w := newWorld(ctx)
		base := w.base("tiny")
		reference := "registry.example.org/models/tiny@" + digest("7")
		base.Spec.Source = v1alpha1.ModelSource{
			OCI:      &v1alpha1.OCISource{Reference: reference, PullSecretRef: &v1alpha1.SecretRef{Name: "pull"}},
			Delivery: v1alpha1.DeliveryImageVolume,
		}
		Expect(k8s.Create(ctx, &corev1.Secret{ObjectMeta: w.meta("pull"), Data: map[string][]byte{corev1.DockerConfigJsonKey: []byte("{}")}, Type: corev1.SecretTypeDockerConfigJson})).To(Succeed())
		Expect(k8s.Create(ctx, base)).To(Succeed())
		job := w.job(ctx, v1alpha1.LabelBaseModel, "tiny")
		Expect(images(job.Spec.Template.Spec)).To(ConsistOf(reference))
		Expect(job.Spec.Template.Spec.ImagePullSecrets).To(ConsistOf(corev1.LocalObjectReference{Name: "pull"}))

		By("being somewhere where the node cannot pull it")
		pod := w.pod(ctx, job, "one")
		w.setPod(ctx, pod, corev1.PodPending, waits("fetch", "ErrImagePull", "failed to pull and unpack image \""+reference+"\": 401 Unauthorized"))
		ready := w.becomes(ctx, base, metav1.ConditionFalse, v1alpha1.ReasonImagePull)
		Expect(ready.Message).To(And(ContainSubstring("artifact "+reference), ContainSubstring("pullSecretRef"), ContainSubstring("401 Unauthorized")))

		By("being somewhere where the node mounts no images")
		w.setPod(ctx, pod, corev1.PodPending, waits("fetch", "CreateContainerError", "failed to generate container spec"))
		ready = w.becomes(ctx, base, metav1.ConditionFalse, v1alpha1.ReasonContainerConfig)
		Expect(ready.Message).To(ContainSubstring("image volume"))

		By("being pulled")
		w.setPod(ctx, pod, corev1.PodRunning, works("fetch"))
		w.becomes(ctx, base, metav1.ConditionFalse, v1alpha1.ReasonFetching)
		Expect(k8s.Delete(ctx, pod, client.GracePeriodSeconds(0))).To(Succeed())
		w.finishDecompose(ctx, "tiny", decomposed("a", "b"))
		w.becomes(ctx, base, metav1.ConditionTrue, v1alpha1.ReasonSucceeded)

		By("being served, and then copied")
		w.dataset(ctx, "{}")
		w.train(ctx, w.expert("math"), "e")
		Expect(k8s.Create(ctx, w.policy("assistant", "math"))).To(Succeed())
		Expect(images(w.deployed(ctx, "assistant").Spec.Template.Spec)).To(ConsistOf(reference))
		base.Spec.Source.Delivery = v1alpha1.DeliveryCopy
		Expect(k8s.Update(ctx, base)).To(Succeed())
		w.finishDecompose(ctx, "tiny", decomposed("a", "b"))
		w.becomes(ctx, base, metav1.ConditionTrue, v1alpha1.ReasonSucceeded)
		Eventually(func() []string { return images(w.deployed(ctx, "assistant").Spec.Template.Spec) }).Should(BeEmpty())
	})

	It("stalls on an artifact that would be mounted as an empty folder", func(ctx SpecContext) {
		w := newWorld(ctx)
		base := w.base("tiny")
		base.Spec.Source = v1alpha1.ModelSource{
			OCI: &v1alpha1.OCISource{Reference: "registry.example.org/models/tiny@" + digest("7")}, Delivery: v1alpha1.DeliveryImageVolume,
		}
		Expect(k8s.Create(ctx, base)).To(Succeed())
		job := w.openJob(ctx, v1alpha1.LabelBaseModel, "tiny")
		w.setPod(ctx, w.pod(ctx, job, "one"), corev1.PodFailed, ended("fetch", contract.ExitPermanent, "Error", &contract.Termination{
			Reason: contract.ReasonNotMountable, Message: "it has a configuration of type application/vnd.oci.empty.v1+json: push it as an image", Permanent: true,
		}))
		w.setJob(ctx, job, batchv1.JobFailed, batchv1.JobReasonPodFailurePolicy, 1)
		ready := w.becomes(ctx, base, metav1.ConditionFalse, contract.ReasonNotMountable)
		Expect(ready.Message).To(ContainSubstring("push it as an image"))
		w.told(ctx, base, corev1.EventTypeWarning, contract.ReasonNotMountable)
	})
})
