package v1alpha1

// SourceVerification says whose signature a source must have, before anything of it is
// loaded: exactly one of cosign and modelSigning.
// +kubebuilder:validation:ExactlyOneOf=cosign;modelSigning
type SourceVerification struct {
	// cosign wants the artifact of an oci source to be signed by cosign: in the registry,
	// by one of these keys.
	// +optional
	Cosign *TrustedKeys `json:"cosign,omitempty"`
	// modelSigning wants the source's folder to have model.sig, OpenSSF's model signature,
	// by one of these keys: each file that is loaded must be as it was signed, and none of
	// them may be missing.
	// +optional
	ModelSigning *TrustedKeys `json:"modelSigning,omitempty"`
}

// TrustedKeys are public keys in PEM, of which one must have signed: exactly one of
// publicKeys, configMap and secretRef. ConfigMaps and Secrets are read when a run begins.
// +kubebuilder:validation:ExactlyOneOf=publicKeys;configMap;secretRef
type TrustedKeys struct {
	// publicKeys are the keys themselves, each as a PEM block of type PUBLIC KEY: ECDSA,
	// RSA or Ed25519.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=8
	PublicKeys []PublicKey `json:"publicKeys,omitempty"`
	// configMap has the keys, one PEM block after the other.
	// +optional
	ConfigMap *ConfigMapKeyRef `json:"configMap,omitempty"`
	// secretRef is a Secret that has them, such as the one that cosign generate-key-pair
	// makes in a cluster.
	// +optional
	SecretRef *PublicKeySecretRef `json:"secretRef,omitempty"`
}

// PublicKey is a public key in PEM.
// +kubebuilder:validation:MinLength=64
// +kubebuilder:validation:MaxLength=4096
// +kubebuilder:validation:Pattern=`^\s*-----BEGIN (RSA )?PUBLIC KEY-----`
type PublicKey string

// PublicKeySecretRef names a Secret of the same namespace with public keys.
type PublicKeySecretRef struct {
	// name of the Secret.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name,omitempty"`
	// key within the Secret.
	// +optional
	// +kubebuilder:default=cosign.pub
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^[-._a-zA-Z0-9]+$`
	Key string `json:"key,omitempty"`
}

// VerifiedSignature is a signature that was found to be valid.
type VerifiedSignature struct {
	// method is the member of spec.source.verify that was asked for: cosign or modelSigning.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=32
	Method string `json:"method,omitempty"`
	// keyID is the SHA-256 of the key that signed, in DER.
	// +required
	KeyID Digest `json:"keyID,omitempty"`
}
