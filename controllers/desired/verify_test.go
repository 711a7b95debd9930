package desired

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	coreac "k8s.io/client-go/applyconfigurations/core/v1"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/runtime/contract"
)

// Keys that are in the object go into the specification; others are read by the kubelet.
func TestKeysOfSignatures(t *testing.T) {
	for name, tc := range map[string]struct {
		verify *v1alpha1.SourceVerification
		spec   *contract.Verification
		env    []corev1.EnvVar
	}{
		"nobody's": {},
		"keys of the object": {
			&v1alpha1.SourceVerification{Cosign: &v1alpha1.TrustedKeys{PublicKeys: []v1alpha1.PublicKey{"one\n\n", " two"}}},
			&contract.Verification{Method: "cosign", Keys: "one\ntwo\n"}, nil,
		},
		"keys of a ConfigMap": {
			&v1alpha1.SourceVerification{ModelSigning: &v1alpha1.TrustedKeys{ConfigMap: &v1alpha1.ConfigMapKeyRef{Name: "signers", Key: "team.pub"}}},
			&contract.Verification{Method: "modelSigning", From: "ConfigMap signers, key team.pub"},
			[]corev1.EnvVar{{Name: "T2_VERIFY_KEYS", ValueFrom: &corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{
				LocalObjectReference: corev1.LocalObjectReference{Name: "signers"}, Key: "team.pub",
			}}}},
		},
		"keys of a Secret": {
			&v1alpha1.SourceVerification{Cosign: &v1alpha1.TrustedKeys{SecretRef: &v1alpha1.PublicKeySecretRef{Name: "cosign"}}},
			&contract.Verification{Method: "cosign", From: "Secret cosign, key cosign.pub"},
			[]corev1.EnvVar{{Name: "T2_VERIFY_KEYS", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{
				LocalObjectReference: corev1.LocalObjectReference{Name: "cosign"}, Key: "cosign.pub",
			}}}},
		},
	} {
		c := coreac.Container()
		verifyKeys(c, tc.verify)
		b, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		var got corev1.Container
		if err := json.Unmarshal(b, &got); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(tc.env, got.Env); diff != "" {
			t.Errorf("%s: -want +got\n%s", name, diff)
		}
		if diff := cmp.Diff(tc.spec, verification(tc.verify)); diff != "" {
			t.Errorf("%s: -want +got\n%s", name, diff)
		}
	}
}
