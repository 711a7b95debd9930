package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// ExpertPublish says where the expert's artifact goes.
type ExpertPublish struct {
	// oci is the place in an OCI registry.
	// +required
	OCI OCIDestination `json:"oci,omitzero"`
}

// OCIDestination is a place in an OCI registry that artifacts are pushed to.
type OCIDestination struct {
	// reference is registry/repository:tag. A new artifact moves the tag; what it named
	// before stays in the registry under its digest.
	// +required
	// +kubebuilder:validation:MinLength=5
	// +kubebuilder:validation:MaxLength=512
	// +kubebuilder:validation:Pattern=`^[A-Za-z0-9.-]+(:[0-9]+)?(/[a-z0-9]+([._-]+[a-z0-9]+)*)+:[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$`
	Reference string `json:"reference,omitempty"` //nolint:kubeapilinter // What registries call it; it refers to no object.
	// pushSecretRef names a Secret of type kubernetes.io/dockerconfigjson with credentials
	// that may pull from the repository and push to it.
	// +optional
	PushSecretRef *SecretRef `json:"pushSecretRef,omitempty"`
	// insecure speaks http with the registry, not https.
	// +optional
	Insecure *bool `json:"insecure,omitempty"`
}

// PublishedArtifact is an expert in a registry.
type PublishedArtifact struct {
	// reference is registry/repository:tag, as it was asked for.
	// +required
	// +kubebuilder:validation:MinLength=5
	// +kubebuilder:validation:MaxLength=512
	Reference string `json:"reference,omitempty"` //nolint:kubeapilinter // As in OCIDestination.
	// digest of the artifact in the registry: registry/repository@digest never means
	// another.
	// +required
	Digest Digest `json:"digest,omitempty"`
	// artifactDigest is that of the expert, as in status.artifact: what spec.source.digest
	// of an ExpertVector takes that imports it.
	// +required
	ArtifactDigest Digest `json:"artifactDigest,omitempty"`
	// evaluationDigest is that of the manifest in the registry that refers to the artifact
	// and has the expert's scores. It is not there where no scores are known.
	// +optional
	EvaluationDigest Digest `json:"evaluationDigest,omitempty"`
	// time at which it was pushed.
	// +required
	Time metav1.Time `json:"time,omitempty,omitzero"`
}
