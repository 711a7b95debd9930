package desired

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	coreac "k8s.io/client-go/applyconfigurations/core/v1"

	"github.com/transformersquared/operator/api/v1alpha1"
)

// defaultSize of a volume (the API's documentation names it).
var defaultSize = resource.MustParse("10Gi")

// Claim is the PersistentVolumeClaim of a BaseModel that has no existingClaim.
// It is deleted with the BaseModel.
func Claim(base *v1alpha1.BaseModel) *coreac.PersistentVolumeClaimApplyConfiguration {
	storage := base.Spec.Storage
	modes := make([]corev1.PersistentVolumeAccessMode, 0, 1)
	for _, mode := range storage.AccessModes {
		modes = append(modes, corev1.PersistentVolumeAccessMode(mode))
	}
	if len(modes) == 0 {
		modes = append(modes, corev1.ReadWriteOnce)
	}
	size := defaultSize
	if storage.Size != nil {
		size = *storage.Size
	}
	spec := coreac.PersistentVolumeClaimSpec().
		WithAccessModes(modes...).
		WithResources(coreac.VolumeResourceRequirements().
			WithRequests(corev1.ResourceList{corev1.ResourceStorage: size}))
	if storage.StorageClassName != "" {
		spec.WithStorageClassName(storage.StorageClassName)
	}
	return coreac.PersistentVolumeClaim(ClaimName(base), base.Namespace).
		WithLabels(labels(v1alpha1.ComponentDecompose, base.Name, nil)).
		WithOwnerReferences(controlledBy("BaseModel", base)).
		WithSpec(spec)
}
