package envtest

import (
	"slices"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/runtime/contract"
)

// somePublicKey has the form of one.
func somePublicKey(letter string) v1alpha1.PublicKey {
	return v1alpha1.PublicKey("-----BEGIN PUBLIC KEY-----\n" + strings.Repeat(letter, 64) + "\n-----END PUBLIC KEY-----\n")
}

// verifyRows are those of whose signature a source must have, an OCI one at first. What they
// leave is one that any source may have.
func verifyRows[T client.Object](at string, of func(T) **v1alpha1.SourceVerification) []row[T] {
	keys := func(method string, field func(*v1alpha1.SourceVerification) **v1alpha1.TrustedKeys) []row[T] {
		set := func(name string, change func(*v1alpha1.TrustedKeys)) row[T] {
			return row[T]{at + "." + method + "." + name, newRun, func(o T) {
				v := &v1alpha1.SourceVerification{}
				k := &v1alpha1.TrustedKeys{}
				if was := *of(o); was != nil && *field(was) != nil {
					k = *field(was)
				}
				change(k)
				*field(v) = k
				*of(o) = v
			}}
		}
		return []row[T]{
			set("publicKeys", func(k *v1alpha1.TrustedKeys) { k.PublicKeys = []v1alpha1.PublicKey{somePublicKey("a")} }),
			set("publicKeys", func(k *v1alpha1.TrustedKeys) { k.PublicKeys = append(k.PublicKeys, somePublicKey("b")) }),
			set("configMap.name", func(k *v1alpha1.TrustedKeys) {
				*k = v1alpha1.TrustedKeys{ConfigMap: &v1alpha1.ConfigMapKeyRef{Name: "signers", Key: "team.pub"}}
			}),
			set("configMap.key", func(k *v1alpha1.TrustedKeys) { k.ConfigMap.Key = "other.pub" }),
			set("secretRef.name", func(k *v1alpha1.TrustedKeys) {
				*k = v1alpha1.TrustedKeys{SecretRef: &v1alpha1.PublicKeySecretRef{Name: "cosign"}}
			}),
			set("secretRef.key", func(k *v1alpha1.TrustedKeys) { k.SecretRef.Key = "team.pub" }),
		}
	}
	return slices.Concat(
		keys("cosign", func(v *v1alpha1.SourceVerification) **v1alpha1.TrustedKeys { return &v.Cosign }),
		keys("modelSigning", func(v *v1alpha1.SourceVerification) **v1alpha1.TrustedKeys { return &v.ModelSigning }),
	)
}

var _ = DescribeTable("The schema of whose signature a source must have", func(change func(*v1alpha1.ModelSource), want string) {
	checked(func(w world) *v1alpha1.BaseModel { return w.base("tiny") }, func(b *v1alpha1.BaseModel) {
		b.Spec.Source = v1alpha1.ModelSource{OCI: &v1alpha1.OCISource{Reference: "registry.example.org/tiny:v1"}}
		change(&b.Spec.Source)
	}, want)
},
	Entry("takes keys", func(s *v1alpha1.ModelSource) {
		s.Verify = &v1alpha1.SourceVerification{Cosign: &v1alpha1.TrustedKeys{PublicKeys: []v1alpha1.PublicKey{somePublicKey("a")}}}
	}, accepted),
	Entry("takes the model's own signature of any source", func(s *v1alpha1.ModelSource) {
		s.OCI, s.HuggingFace = nil, &v1alpha1.HuggingFaceSource{Repo: "org/tiny"}
		s.Verify = &v1alpha1.SourceVerification{ModelSigning: &v1alpha1.TrustedKeys{ConfigMap: &v1alpha1.ConfigMapKeyRef{Name: "signers", Key: "k"}}}
	}, accepted),
	Entry("knows where cosign signs", func(s *v1alpha1.ModelSource) {
		s.OCI, s.HuggingFace = nil, &v1alpha1.HuggingFaceSource{Repo: "org/tiny"}
		s.Verify = &v1alpha1.SourceVerification{Cosign: &v1alpha1.TrustedKeys{SecretRef: &v1alpha1.PublicKeySecretRef{Name: "cosign"}}}
	}, "use verify.modelSigning"),
	Entry("wants a method", func(s *v1alpha1.ModelSource) { s.Verify = &v1alpha1.SourceVerification{} }, "exactly one of"),
	Entry("wants keys", func(s *v1alpha1.ModelSource) {
		s.Verify = &v1alpha1.SourceVerification{Cosign: &v1alpha1.TrustedKeys{}}
	}, "exactly one of"),
	Entry("wants public keys", func(s *v1alpha1.ModelSource) {
		private := strings.ReplaceAll(string(somePublicKey("a")), "PUBLIC", "PRIVATE")
		s.Verify = &v1alpha1.SourceVerification{Cosign: &v1alpha1.TrustedKeys{PublicKeys: []v1alpha1.PublicKey{v1alpha1.PublicKey(private)}}}
	}, "spec.source.verify.cosign.publicKeys"),
)

var _ = Describe("A BaseModel that must be signed", func() {
	It("says whose signature it has, or why it is refused", func(ctx SpecContext) {
		w := newWorld(ctx)
		base := w.base("tiny")
		base.Spec.Source.Verify = &v1alpha1.SourceVerification{
			ModelSigning: &v1alpha1.TrustedKeys{SecretRef: &v1alpha1.PublicKeySecretRef{Name: "signers"}},
		}
		Expect(k8s.Create(ctx, base)).To(Succeed())
		job := w.openJob(ctx, v1alpha1.LabelBaseModel, "tiny")
		fetch := job.Spec.Template.Spec.InitContainers[0]
		Expect(fetch.Env).To(ContainElement(And(HaveField("Name", contract.EnvVerifyKeys),
			HaveField("ValueFrom.SecretKeyRef.Name", "signers"), HaveField("ValueFrom.SecretKeyRef.Key", "cosign.pub"))))
		pod := w.pod(ctx, job, "one")
		w.setPod(ctx, pod, corev1.PodFailed, ended("fetch", contract.ExitPermanent, "Error", &contract.Termination{
			Reason: contract.ReasonSignatureInvalid, Message: "config.json of the model is not as it was signed: bring the file back", Permanent: true,
		}))
		w.setJob(ctx, job, batchv1.JobFailed, batchv1.JobReasonPodFailurePolicy, 1)
		Expect(w.becomes(ctx, base, metav1.ConditionFalse, contract.ReasonSignatureInvalid).Message).To(ContainSubstring("config.json"))
		w.told(ctx, base, corev1.EventTypeWarning, contract.ReasonSignatureInvalid)

		base.Spec.Source.Verify.ModelSigning.SecretRef.Key = "team.pub"
		Expect(k8s.Update(ctx, base)).To(Succeed())
		made := decomposed("a", "b")
		made.Model.Verified = &contract.Verified{Method: contract.VerifyModelSigning, KeyID: digest("4")}
		w.finishDecompose(ctx, "tiny", made)
		w.becomes(ctx, base, metav1.ConditionTrue, v1alpha1.ReasonSucceeded)
		Expect(base.Status.Artifact.Verified).To(HaveValue(Equal(v1alpha1.VerifiedSignature{Method: "modelSigning", KeyID: v1alpha1.Digest(digest("4"))})))
	})
})
