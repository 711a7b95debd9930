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
// It is marked as the BaseModel's, which deletes it when nothing uses the model
// any more; it has no owner reference (see v1alpha1.AnnotationOwner).
func Claim(base *v1alpha1.BaseModel) *coreac.PersistentVolumeClaimApplyConfiguration {
	storage := base.Spec.Storage
	modes := make([]corev1.PersistentVolumeAccessMode, 0, 1)
	for _, mode := range storage.AccessModes {
		modes = append(modes, corev1.PersistentVolumeAccessMode(mode))
	}
	if len(modes) == 0 {
		modes = append(modes, corev1.ReadWriteOnce)
	}
	spec := coreac.PersistentVolumeClaimSpec().
		WithAccessModes(modes...).
		WithResources(coreac.VolumeResourceRequirements().
			WithRequests(corev1.ResourceList{corev1.ResourceStorage: ClaimSize(base)}))
	if storage.StorageClassName != "" {
		spec.WithStorageClassName(storage.StorageClassName)
	}
	return coreac.PersistentVolumeClaim(ClaimName(base), base.Namespace).
		WithLabels(labels(v1alpha1.ComponentDecompose, base.Name, nil)).
		WithAnnotations(map[string]string{v1alpha1.AnnotationOwner: string(base.UID)}).
		WithSpec(spec)
}

// ClaimSize is the size that a BaseModel asks for.
func ClaimSize(base *v1alpha1.BaseModel) resource.Quantity {
	if base.Spec.Storage.Size != nil {
		return *base.Spec.Storage.Size
	}
	return defaultSize
}
