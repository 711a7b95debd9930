package e2e

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/source/sourcetest"
)

// Two teams, which know each other by a registry alone.
const (
	makersNamespace = "t2-e2e-makers"
	takersNamespace = "t2-e2e-takers"
)

// sources is where things come from, and go to: a hub, a bucket and a registry, each of which
// wants credentials.
func sources() {
	const hubToken, hubSecret, bucketSecret, registrySecret = "hf_e2e", "hub", "bucket", "registry"
	var hub *sourcetest.Hub
	var bucket *store
	var shelf *library
	var model, image ocispec.Descriptor
	var trusted, signer v1alpha1.PublicKey

	in := func(namespace, name string) metav1.ObjectMeta {
		return metav1.ObjectMeta{Namespace: namespace, Name: name}
	}
	wait := func(ctx SpecContext, namespace string, objects ...string) {
		GinkgoHelper()
		kubectl(ctx, "", append([]string{"-n", namespace, "wait", "--for=condition=Ready", "--timeout=480s"}, objects...)...)
	}
	onShelf := func(name, artifact string, keys ...v1alpha1.PublicKey) *v1alpha1.BaseModel {
		return &v1alpha1.BaseModel{ObjectMeta: in(takersNamespace, name), Spec: v1alpha1.BaseModelSpec{
			Source: v1alpha1.ModelSource{
				OCI:    shelf.source(artifact, registrySecret),
				Verify: &v1alpha1.SourceVerification{Cosign: &v1alpha1.TrustedKeys{PublicKeys: keys}},
			},
		}}
	}

	BeforeAll(func(ctx SpecContext) {
		address := thisMachine(ctx)
		files := filesOf(filepath.Join(root, "config", "samples", "demo", "model"))
		sums := filesOf(filepath.Join(root, "config", "samples", "demo", "data", "math"))

		hub = sourcetest.NewHubOn(GinkgoTB(), address)
		hub.Repos["team/tiny"] = &sourcetest.Repo{
			Token: hubToken, Revisions: map[string]string{"main": sourcetest.Commit(1)},
			Commits: map[string]map[string][]byte{sourcetest.Commit(1): files},
		}
		hub.Datasets["team/sums"] = &sourcetest.Repo{
			Token: hubToken, Revisions: map[string]string{"main": sourcetest.Commit(2)},
			Commits: map[string]map[string][]byte{sourcetest.Commit(2): {"data/train.jsonl": sums["train.jsonl"]}},
		}
		bucket = newStore(address)
		bucket.put("sums", "math/validation.jsonl", sums["validation.jsonl"])
		shelf = newLibrary(address)
		var layers []layer
		for name, content := range files {
			layers = append(layers, layer{"application/octet-stream", map[string]string{ocispec.AnnotationTitle: name}, content})
		}
		image = shelf.pushImage(ctx, "models/mounted", "v1", "application/vnd.example.model", files)
		signer = shelf.sign(ctx, "models/mounted", image)
		model = shelf.push(ctx, "models/tiny", "v1", "application/vnd.example.model", layers...)
		trusted = shelf.sign(ctx, "models/tiny", model)

		for _, namespace := range []string{makersNamespace, takersNamespace} {
			Expect(cluster.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
				Name: namespace, Labels: map[string]string{"pod-security.kubernetes.io/enforce": "restricted"},
			}})).To(Succeed())
			Expect(cluster.Create(ctx, shelf.secret(namespace, registrySecret))).To(Succeed())
		}
		Expect(cluster.Create(ctx, &corev1.ConfigMap{ObjectMeta: in(takersNamespace, "demo-math"), BinaryData: sums})).To(Succeed())
		Expect(cluster.Create(ctx, &corev1.Secret{ObjectMeta: in(makersNamespace, hubSecret), StringData: map[string]string{"token": hubToken}})).To(Succeed())
		Expect(cluster.Create(ctx, &corev1.Secret{ObjectMeta: in(makersNamespace, bucketSecret), StringData: bucket.keys})).To(Succeed())
	})
	AfterAll(func(ctx SpecContext) {
		for _, namespace := range []string{makersNamespace, takersNamespace} {
			kubectl(ctx, "", "-n", namespace, "delete", "adaptivepolicies,expertvectors,basemodels", "--all", "--timeout=120s")
		}
		kubectl(ctx, "", "delete", "namespace", makersNamespace, takersNamespace, "--timeout=120s")
	}, NodeTimeout(5*time.Minute))

	It("fetches from a hub, trains on data of a hub and a bucket, and publishes to a registry", func(ctx SpecContext) {
		// The takers' model is on its way meanwhile.
		Expect(cluster.Create(ctx, onShelf("tiny", "models/tiny:v1", trusted))).To(Succeed())
		token := &v1alpha1.SecretKeyRef{Name: hubSecret}
		base := &v1alpha1.BaseModel{ObjectMeta: in(makersNamespace, "tiny"), Spec: v1alpha1.BaseModelSpec{
			Source: v1alpha1.ModelSource{HuggingFace: &v1alpha1.HuggingFaceSource{Repo: "team/tiny", Endpoint: hub.URL, TokenSecretRef: token}},
		}}
		sums := shortTraining("sums", "sums", 2)
		sums.Namespace = makersNamespace
		sums.Spec.Training.Dataset = v1alpha1.TrainingDataset{
			Train: v1alpha1.Dataset{Format: v1alpha1.FormatGSM8K, HuggingFace: &v1alpha1.HuggingFaceSource{
				Repo: "team/sums", Path: "data/train.jsonl", Endpoint: hub.URL, TokenSecretRef: token,
			}},
			Validation: v1alpha1.Dataset{Format: v1alpha1.FormatGSM8K, S3: &v1alpha1.S3Source{
				Endpoint: bucket.url, Region: "us-east-1", Bucket: "sums", Prefix: "math/validation.jsonl", SecretRef: &v1alpha1.SecretRef{Name: bucketSecret},
			}},
		}
		sums.Spec.Publish = &v1alpha1.ExpertPublish{OCI: v1alpha1.OCIDestination{
			Reference: shelf.host + "/experts/sums:v1", PushSecretRef: &v1alpha1.SecretRef{Name: registrySecret}, Insecure: new(true),
		}}
		Expect(cluster.Create(ctx, sums)).To(Succeed())
		Expect(cluster.Create(ctx, base)).To(Succeed())

		wait(ctx, makersNamespace, "basemodel/tiny", "expertvector/sums")
		Expect(condition(ctx, base, v1alpha1.ConditionReady).Status).To(Equal(metav1.ConditionTrue))
		Expect(base.Status.Artifact.Revision).To(Equal(sourcetest.Commit(1)), "what main meant")
		Eventually(func(g Gomega) {
			c := condition(ctx, sums, v1alpha1.ConditionPublished)
			g.Expect(c).To(haveCondition(metav1.ConditionTrue, v1alpha1.ReasonPublished), c.Message)
		}).Should(Succeed())
		GinkgoWriter.Println(kubectl(ctx, "", "-n", makersNamespace, "describe", "expertvector", "sums"))
		published := sums.Status.Published
		Expect(published.ArtifactDigest).To(Equal(sums.Status.Artifact.Digest))
		there, err := shelf.repository("experts/sums").Resolve(ctx, "v1")
		Expect(err).NotTo(HaveOccurred())
		Expect(there.Digest.String()).To(Equal(string(published.Digest)))
	}, SpecTimeout(6*time.Minute))

	It("serves what another team has published, by its digest, on a model that somebody signed", func(ctx SpecContext) {
		var sums v1alpha1.ExpertVector
		Expect(cluster.Get(ctx, client.ObjectKey{Namespace: makersNamespace, Name: "sums"}, &sums)).To(Succeed())
		taken := &v1alpha1.ExpertVector{ObjectMeta: in(takersNamespace, "sums"), Spec: v1alpha1.ExpertVectorSpec{
			BaseModelRef: v1alpha1.LocalRef{Name: "tiny"}, Skill: "sums", Description: "sums of two numbers",
			Source: &v1alpha1.ExpertSource{
				OCI: shelf.source("experts/sums@"+string(sums.Status.Published.Digest), registrySecret), Digest: sums.Status.Published.ArtifactDigest,
			},
		}}
		policy := &v1alpha1.AdaptivePolicy{ObjectMeta: in(takersNamespace, "assistant"), Spec: v1alpha1.AdaptivePolicySpec{
			BaseModelRef: v1alpha1.LocalRef{Name: "tiny"}, Experts: []v1alpha1.PolicyExpert{{Name: "sums"}},
			Strategy: v1alpha1.Strategy{Type: v1alpha1.StrategyPrompt}, Serving: v1alpha1.ServingSpec{ContextLength: new(int32(384))},
		}}
		for _, o := range []client.Object{policy, taken} {
			Expect(cluster.Create(ctx, o)).To(Succeed())
		}
		wait(ctx, takersNamespace, "basemodel/tiny", "expertvector/sums", "adaptivepolicy/assistant")

		base := &v1alpha1.BaseModel{ObjectMeta: in(takersNamespace, "tiny")}
		Expect(condition(ctx, base, v1alpha1.ConditionReady).Status).To(Equal(metav1.ConditionTrue))
		Expect(base.Status.Artifact.Revision).To(Equal(model.Digest.String()))
		Expect(base.Status.Artifact.Verified).To(HaveValue(HaveField("Method", contract.VerifyCosign)))
		Expect(cluster.Get(ctx, client.ObjectKeyFromObject(taken), taken)).To(Succeed())
		Expect(taken.Status.Artifact.Digest).To(Equal(sums.Status.Artifact.Digest))
		GinkgoWriter.Println(kubectl(ctx, "", "-n", takersNamespace, "get", "t2"))
		_, adaptation, err := askPolicy(ctx, takersNamespace, "assistant", "assistant:sums", question)
		Expect(err).NotTo(HaveOccurred())
		Expect(adaptation.Expert).To(Equal("sums"))
	}, SpecTimeout(5*time.Minute))

	It("refuses a model that somebody else signed, and says whose signature is wanted", func(ctx SpecContext) {
		_, other := keyPair()
		base := onShelf("stranger", "models/tiny@"+model.Digest.String(), other)
		Expect(cluster.Create(ctx, base)).To(Succeed())
		Eventually(func(g Gomega) {
			c := condition(ctx, base, v1alpha1.ConditionStalled)
			g.Expect(c).To(haveCondition(metav1.ConditionTrue, contract.ReasonSignatureInvalid))
			g.Expect(c.Message).To(And(ContainSubstring("models/tiny@"+model.Digest.String()), ContainSubstring("none of its signatures (1) is valid")))
		}).Should(Succeed())
		Expect(condition(ctx, base, v1alpha1.ConditionReady)).To(haveCondition(metav1.ConditionFalse, contract.ReasonSignatureInvalid))
		Expect(base.Status.Artifact).To(BeNil(), "nothing of it is in the volume")
		GinkgoWriter.Println(kubectl(ctx, "", "-n", takersNamespace, "describe", "basemodel", "stranger"))
	}, SpecTimeout(4*time.Minute))

	mounted := func(name, artifact string, keys ...v1alpha1.PublicKey) *v1alpha1.BaseModel {
		base := onShelf(name, artifact, keys...)
		base.Spec.Source.Delivery = v1alpha1.DeliveryImageVolume
		if len(keys) == 0 {
			base.Spec.Source.Verify = nil
		}
		return base
	}

	It("trains and serves on a model that nodes mount, of which the volume has nothing", func(ctx SpecContext) {
		base := mounted("mounted", "models/mounted@"+image.Digest.String(), signer)
		expert := shortTraining("mounted-sums", "sums", 2)
		expert.Namespace, expert.Spec.BaseModelRef.Name = takersNamespace, "mounted"
		policy := &v1alpha1.AdaptivePolicy{ObjectMeta: in(takersNamespace, "mounted"), Spec: v1alpha1.AdaptivePolicySpec{
			BaseModelRef: v1alpha1.LocalRef{Name: "mounted"}, Experts: []v1alpha1.PolicyExpert{{Name: "mounted-sums"}},
			Strategy: v1alpha1.Strategy{Type: v1alpha1.StrategyPrompt}, Serving: v1alpha1.ServingSpec{ContextLength: new(int32(384))},
		}}
		for _, o := range []client.Object{policy, expert, base} {
			Expect(cluster.Create(ctx, o)).To(Succeed())
		}
		wait(ctx, takersNamespace, "basemodel/mounted", "expertvector/mounted-sums", "adaptivepolicy/mounted")

		Expect(condition(ctx, base, v1alpha1.ConditionReady).Status).To(Equal(metav1.ConditionTrue))
		Expect(base.Status.Artifact.Revision).To(Equal(image.Digest.String()))
		Expect(base.Status.Artifact.Verified).To(HaveValue(HaveField("Method", contract.VerifyCosign)))
		_, adaptation, err := askPolicy(ctx, takersNamespace, "mounted", "mounted:mounted-sums", question)
		Expect(err).NotTo(HaveOccurred())
		Expect(adaptation.Expert).To(Equal("mounted-sums"))

		var pods corev1.PodList
		Expect(cluster.List(ctx, &pods, client.InNamespace(takersNamespace), client.MatchingLabels{v1alpha1.LabelPolicy: "mounted"})).To(Succeed())
		Expect(pods.Items).To(HaveLen(1))
		Expect(pods.Items[0].Spec.Volumes).To(ContainElement(HaveField("Image", HaveValue(HaveField("Reference", base.Spec.Source.OCI.Reference)))))
		GinkgoWriter.Println(kubectl(ctx, "", "-n", takersNamespace, "describe", "basemodel", "mounted"))

		By("looking at the volume, a folder beside the cluster's kubeconfig")
		var claim corev1.PersistentVolumeClaim
		Expect(cluster.Get(ctx, client.ObjectKeyFromObject(base), &claim)).To(Succeed())
		var volume corev1.PersistentVolume
		Expect(cluster.Get(ctx, client.ObjectKey{Name: claim.Spec.VolumeName}, &volume)).To(Succeed())
		Expect(volume.Spec.HostPath).NotTo(BeNil())
		folder := filepath.Join(filepath.Dir(os.Getenv("KUBECONFIG")), "volumes", filepath.Base(volume.Spec.HostPath.Path))
		var models []string
		experts := 0
		Expect(filepath.WalkDir(folder, func(path string, entry fs.DirEntry, err error) error {
			Expect(err).NotTo(HaveOccurred())
			if entry.IsDir() {
				return nil
			}
			name, err := filepath.Rel(folder, path)
			Expect(err).NotTo(HaveOccurred())
			switch kind, _, _ := strings.Cut(name, "/"); kind {
			case contract.DirExperts:
				experts++
			case contract.DirModels:
				models = append(models, filepath.Base(name))
			case contract.DirShared:
				Fail("weights are shared by the volume: " + name)
			}
			return nil
		})).To(Succeed())
		Expect(experts).To(BeNumerically(">", 0), "the folder is the volume")
		Expect(models).To(ConsistOf(contract.ManifestFile))
	}, SpecTimeout(6*time.Minute))

	It("says which form an artifact must have that would be mounted as an empty folder", func(ctx SpecContext) {
		base := mounted("pushed", "models/tiny@"+model.Digest.String())
		Expect(cluster.Create(ctx, base)).To(Succeed())
		Eventually(func(g Gomega) {
			c := condition(ctx, base, v1alpha1.ConditionStalled)
			g.Expect(c).To(haveCondition(metav1.ConditionTrue, contract.ReasonNotMountable))
			g.Expect(c.Message).To(And(ContainSubstring(ocispec.MediaTypeEmptyJSON), ContainSubstring("rootfs.diff_ids"), ContainSubstring("delivery: Copy")))
		}).Should(Succeed())
		Expect(condition(ctx, base, v1alpha1.ConditionReady)).To(haveCondition(metav1.ConditionFalse, contract.ReasonNotMountable))
		GinkgoWriter.Println(kubectl(ctx, "", "-n", takersNamespace, "describe", "basemodel", "pushed"))
	}, SpecTimeout(4*time.Minute))

	It("says that a node cannot pull what is to be mounted", func(ctx SpecContext) {
		base := mounted("missing", "models/mounted@sha256:"+strings.Repeat("7", 64))
		Expect(cluster.Create(ctx, base)).To(Succeed())
		Eventually(func(g Gomega) {
			c := condition(ctx, base, v1alpha1.ConditionReady)
			g.Expect(c).To(haveCondition(metav1.ConditionFalse, v1alpha1.ReasonImagePull))
			g.Expect(c.Message).To(And(ContainSubstring("cannot mount the model's artifact "+base.Spec.Source.OCI.Reference), ContainSubstring("Copy")))
		}).Should(Succeed())
		GinkgoWriter.Println(kubectl(ctx, "", "-n", takersNamespace, "describe", "basemodel", "missing"))
	}, SpecTimeout(4*time.Minute))
}
