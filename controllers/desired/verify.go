package desired

import (
	"cmp"
	"fmt"
	"strings"

	coreac "k8s.io/client-go/applyconfigurations/core/v1"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/runtime/contract"
)

// defaultPublicKey is what the API's default says, too.
const defaultPublicKey = "cosign.pub"

// trusted are the keys of a verification, and the method by which they sign.
func trusted(v *v1alpha1.SourceVerification) (*v1alpha1.TrustedKeys, string) {
	switch {
	case v == nil:
		return nil, ""
	case v.Cosign != nil:
		return v.Cosign, contract.VerifyCosign
	default:
		return v.ModelSigning, contract.VerifyModelSigning
	}
}

// verification tells the runtime whose signature a source must have; nil for nobody's. It has
// a part in what a run is: other keys are to be asked again.
func verification(v *v1alpha1.SourceVerification) *contract.Verification {
	keys, method := trusted(v)
	if keys == nil {
		return nil
	}
	spec := &contract.Verification{Method: method}
	switch {
	case keys.ConfigMap != nil:
		spec.From = fmt.Sprintf("ConfigMap %s, key %s", keys.ConfigMap.Name, keys.ConfigMap.Key)
	case keys.SecretRef != nil:
		spec.From = fmt.Sprintf("Secret %s, key %s", keys.SecretRef.Name, cmp.Or(keys.SecretRef.Key, defaultPublicKey))
	default:
		var all strings.Builder
		for _, key := range keys.PublicKeys {
			all.WriteString(strings.TrimSpace(string(key)) + "\n")
		}
		spec.Keys = all.String()
	}
	return spec
}

// verifyKeys puts keys that lie in a ConfigMap or a Secret into the environment of a
// container that fetches.
func verifyKeys(c *coreac.ContainerApplyConfiguration, v *v1alpha1.SourceVerification) {
	keys, _ := trusted(v)
	if keys == nil {
		return
	}
	from := coreac.EnvVarSource()
	switch {
	case keys.ConfigMap != nil:
		from.WithConfigMapKeyRef(coreac.ConfigMapKeySelector().WithName(keys.ConfigMap.Name).WithKey(keys.ConfigMap.Key))
	case keys.SecretRef != nil:
		from.WithSecretKeyRef(coreac.SecretKeySelector().WithName(keys.SecretRef.Name).WithKey(cmp.Or(keys.SecretRef.Key, defaultPublicKey)))
	default:
		return
	}
	c.WithEnv(coreac.EnvVar().WithName(contract.EnvVerifyKeys).WithValueFrom(from))
}
