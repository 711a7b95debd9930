package contract

// Verification says who must have signed what comes from a source. Public keys are PEM, one
// or more after each other: Keys, or what EnvVerifyKeys has.
type Verification struct {
	// Method is VerifyCosign or VerifyModelSigning.
	Method string `json:"method"`
	Keys   string `json:"keys,omitempty"`
	// From is what messages call the keys that come by EnvVerifyKeys, such as "ConfigMap
	// signers, key team.pub".
	From string `json:"from,omitempty"`
}

// EnvVerifyKeys names the environment variable with public keys that come from a ConfigMap or
// a Secret.
const EnvVerifyKeys = "T2_VERIFY_KEYS"

// What a signature is and where it lies.
const (
	// VerifyCosign: cosign signed the artifact of a registry, and its signature is there.
	VerifyCosign = "cosign"
	// VerifyModelSigning: the source's folder has OpenSSF's model signature, SignatureFile,
	// which lists the files.
	VerifyModelSigning = "modelSigning"
	SignatureFile      = "model.sig"
)

// Verified is what was found of a signature.
type Verified struct {
	Method string `json:"method"`
	// KeyID is the SHA-256 of the key's DER (SubjectPublicKeyInfo), "sha256:…".
	KeyID string `json:"keyID"`
}
