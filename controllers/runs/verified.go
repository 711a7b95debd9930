package runs

import (
	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/runtime/contract"
)

// Verified is a signature as the API has it; nil where none was asked for.
func Verified(v *contract.Verified) *v1alpha1.VerifiedSignature {
	if v == nil {
		return nil
	}
	return &v1alpha1.VerifiedSignature{Method: v.Method, KeyID: v1alpha1.Digest(v.KeyID)}
}
