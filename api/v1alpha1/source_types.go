package v1alpha1

// ModelSource is where a model comes from: exactly one of http, huggingFace, s3, oci and
// persistentVolumeClaim.
// +kubebuilder:validation:ExactlyOneOf=http;huggingFace;s3;oci;persistentVolumeClaim
// +kubebuilder:validation:XValidation:rule="!has(self.verify) || !has(self.verify.cosign) || has(self.oci)",message="verify.cosign is of oci sources: use verify.modelSigning",fieldPath=".verify"
// +kubebuilder:validation:XValidation:rule="!has(self.delivery) || self.delivery != 'ImageVolume' || has(self.oci) && self.oci.reference.contains('@sha256:')",message="delivery ImageVolume is of oci sources whose reference has a digest: registry/repository@sha256:…",fieldPath=".delivery"
type ModelSource struct {
	// http is the address of a .tar, .tar.gz or .tgz archive of the model's
	// folder, or of that folder itself. Exactly one of http, huggingFace, s3, oci and
	// persistentVolumeClaim is given.
	// +optional
	HTTP *HTTPSource `json:"http,omitempty"`
	// huggingFace is a repository of models of a Hugging Face hub. Which commit its
	// revision meant is in status.artifact.revision.
	// +optional
	HuggingFace *HuggingFaceSource `json:"huggingFace,omitempty"`
	// s3 is the model's folder in a bucket, or an archive of it as with http.
	// +optional
	S3 *S3Source `json:"s3,omitempty"`
	// oci is an artifact in a registry whose layers are the model's files, as ORAS and
	// ModelPack make them, or tars of them, as in images. Its manifest's digest is in
	// status.artifact.revision.
	// +optional
	OCI *OCISource `json:"oci,omitempty"`
	// persistentVolumeClaim holds the model's folder.
	// +optional
	PersistentVolumeClaim *ClaimSource `json:"persistentVolumeClaim,omitempty"`
	// digest is what the model must have; without it, what is fetched is trusted
	// and its digest is reported in the status.
	// +optional
	Digest Digest `json:"digest,omitempty"`
	// verify says whose signature the model must have. A change fetches again.
	// +optional
	Verify *SourceVerification `json:"verify,omitempty"`
	// delivery says how the model's files come to pods: Copy, which is the default, or
	// ImageVolume. A change fetches again, and replaces pods.
	// +optional
	Delivery ModelDelivery `json:"delivery,omitempty"`
}

// ModelDelivery is how a model's files come to pods.
// Copy: they are copied to the BaseModel's volume once.
// ImageVolume: nodes pull the artifact of an oci source as they pull images, and pods that read
// the model mount it (Kubernetes 1.35 or newer, containerd 2.1 or CRI-O 1.33 on their nodes).
// The volume holds factors and experts, and no copy of the weights but one that was there
// before. The artifact must have the form of an image: layers that are tars, and an image's
// configuration, which oras push does not make by default; its digest must be in the reference.
// Pods also ask the registry for its manifest. pullSecretRef is among their imagePullSecrets;
// insecure is for pods alone, as nodes have a configuration of their own. What is mounted is
// compared with what was fetched, file by file, before a pod loads it.
// +kubebuilder:validation:Enum=Copy;ImageVolume
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=16
type ModelDelivery string

// Ways in which a model's files come to pods.
const (
	// DeliveryCopy copies them to the volume.
	DeliveryCopy ModelDelivery = "Copy"
	// DeliveryImageVolume has the kubelet mount them.
	DeliveryImageVolume ModelDelivery = "ImageVolume"
)

// ExpertSource is where a finished expert comes from: exactly one of http, huggingFace, s3,
// oci and persistentVolumeClaim. It is an expert's folder, its .safetensors file, a .pt file
// that the paper's reference implementation saved, or the folder of an adapter in PEFT's
// format.
// +kubebuilder:validation:ExactlyOneOf=http;huggingFace;s3;oci;persistentVolumeClaim
// +kubebuilder:validation:XValidation:rule="!has(self.verify) || !has(self.verify.cosign) || has(self.oci)",message="verify.cosign is of oci sources: use verify.modelSigning",fieldPath=".verify"
type ExpertSource struct {
	// http is the address of the expert's .safetensors file, of a .tar, .tar.gz or
	// .tgz archive of its folder, or of a .pt file that the paper's reference
	// implementation saved. Exactly one of http, huggingFace, s3, oci and
	// persistentVolumeClaim is given.
	// +optional
	HTTP *HTTPSource `json:"http,omitempty"`
	// huggingFace is a repository of a Hugging Face hub, such as one of an adapter; path
	// may name a folder or a file in it.
	// +optional
	HuggingFace *HuggingFaceSource `json:"huggingFace,omitempty"`
	// s3 is the expert's folder in a bucket, an archive of it, or its file.
	// +optional
	S3 *S3Source `json:"s3,omitempty"`
	// oci is an artifact in a registry whose layers are the expert's files.
	// +optional
	OCI *OCISource `json:"oci,omitempty"`
	// persistentVolumeClaim holds the expert's file or folder.
	// +optional
	PersistentVolumeClaim *ClaimSource `json:"persistentVolumeClaim,omitempty"`
	// digest is what the expert, or its one file, must have; it is verified before
	// anything is served.
	// +required
	Digest Digest `json:"digest,omitempty"`
	// verify says whose signature the expert must have. A change imports again.
	// +optional
	Verify *SourceVerification `json:"verify,omitempty"`
}

// HTTPSource is an address to download from.
type HTTPSource struct {
	// url is an http or https address.
	// +required
	// +kubebuilder:validation:MinLength=8
	// +kubebuilder:validation:MaxLength=2048
	// +kubebuilder:validation:Pattern=`^https?://[^\s]+$`
	URL string `json:"url,omitempty"`
	// tokenSecretRef names the Secret whose value is sent as bearer token.
	// +optional
	TokenSecretRef *SecretKeyRef `json:"tokenSecretRef,omitempty"`
}

// HuggingFaceSource is a repository of a Hugging Face hub. Only the files that are needed
// are fetched, all of one commit, and each is compared with the hash that the hub has of it.
type HuggingFaceSource struct {
	// repo is the repository's name, such as org/name.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=193
	// +kubebuilder:validation:Pattern=`^[A-Za-z0-9][A-Za-z0-9._-]{0,95}(/[A-Za-z0-9][A-Za-z0-9._-]{0,95})?$`
	Repo string `json:"repo,omitempty"`
	// revision is a branch, a tag, a pull request such as refs/pr/1, or a commit, which
	// alone never means something else later; main without it.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=255
	// +kubebuilder:validation:Pattern=`^[A-Za-z0-9][A-Za-z0-9._/-]*$`
	Revision string `json:"revision,omitempty"`
	// path of a folder or file in the repository, without ".."; its root without it.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=512
	// +kubebuilder:validation:XValidation:rule="!self.startsWith('/') && !self.split('/').exists(p, p == '..')",message="path must be relative to the repository's root and must not contain '..'"
	Path string `json:"path,omitempty"`
	// endpoint is the http or https address of the hub, such as that of a mirror within a
	// network without the internet; https://huggingface.co without it.
	// +optional
	// +kubebuilder:validation:MinLength=8
	// +kubebuilder:validation:MaxLength=2048
	// +kubebuilder:validation:Pattern=`^https?://[^\s]+$`
	Endpoint string `json:"endpoint,omitempty"`
	// tokenSecretRef names the Secret with a token of the hub, which repositories need that
	// are private or gated.
	// +optional
	TokenSecretRef *SecretKeyRef `json:"tokenSecretRef,omitempty"`
}

// S3Source is a folder or file in an S3 bucket. Without secretRef and ambient requests are
// not signed, as of a public bucket.
// +kubebuilder:validation:AtMostOneOf=secretRef;ambient
type S3Source struct {
	// endpoint is the http or https address of the service, without a path; AWS without it.
	// With it the bucket is asked for in the path, not as a host.
	// +optional
	// +kubebuilder:validation:MinLength=8
	// +kubebuilder:validation:MaxLength=2048
	// +kubebuilder:validation:Pattern=`^https?://[^/\s@]+/?$`
	Endpoint string `json:"endpoint,omitempty"`
	// region of the bucket; the service is asked for it without it.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Region string `json:"region,omitempty"`
	// bucket is its name.
	// +required
	// +kubebuilder:validation:MinLength=3
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[a-z0-9][a-z0-9.-]*[a-z0-9]$`
	Bucket string `json:"bucket,omitempty"`
	// prefix is the folder in the bucket, or the key of a file; the whole bucket without
	// it.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=1024
	Prefix string `json:"prefix,omitempty"`
	// secretRef names the Secret with the keys AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY
	// and, if there is one, AWS_SESSION_TOKEN. At most one of secretRef and ambient is
	// given.
	// +optional
	SecretRef *SecretRef `json:"secretRef,omitempty"`
	// ambient takes keys from where the pod runs: the role of its node, or of its
	// service account, which runtime.podTemplate can set.
	// +optional
	Ambient *bool `json:"ambient,omitempty"`
}

// OCISource is an artifact in an OCI registry.
type OCISource struct {
	// reference is registry/repository with a tag, or a digest, which alone never means
	// something else later.
	// +required
	// +kubebuilder:validation:MinLength=3
	// +kubebuilder:validation:MaxLength=512
	// +kubebuilder:validation:Pattern=`^[A-Za-z0-9.-]+(:[0-9]+)?(/[a-z0-9]+([._-]+[a-z0-9]+)*)+(:[A-Za-z0-9_][A-Za-z0-9._-]{0,127}(@sha256:[0-9a-f]{64})?|@sha256:[0-9a-f]{64})$`
	Reference string `json:"reference,omitempty"` //nolint:kubeapilinter // What registries call it; it refers to no object.
	// pullSecretRef names a Secret of type kubernetes.io/dockerconfigjson with the
	// registry's credentials.
	// +optional
	PullSecretRef *SecretRef `json:"pullSecretRef,omitempty"`
	// insecure speaks http with the registry, not https.
	// +optional
	Insecure *bool `json:"insecure,omitempty"`
}

// SecretRef names a Secret in the same namespace.
type SecretRef struct {
	// name of the Secret.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name,omitempty"`
}

// ClaimSource is a file or folder in a PersistentVolumeClaim of the same
// namespace. It is mounted read-only.
type ClaimSource struct {
	// claimName is the name of the PersistentVolumeClaim.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	ClaimName string `json:"claimName,omitempty"`
	// path within the volume, relative to its root, without "..".
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=1024
	// +kubebuilder:validation:XValidation:rule="!self.startsWith('/') && !self.split('/').exists(p, p == '..')",message="path must be relative to the volume's root and must not contain '..'"
	Path string `json:"path,omitempty"`
}
