// Package desired computes the objects that the operator wants in the cluster:
// pure functions from the API's kinds to apply configurations of Jobs,
// Deployments, Services, ConfigMaps and PersistentVolumeClaims, and to the
// specifications that the runtime's subcommands read. It calls nothing.
package desired

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metaac "k8s.io/client-go/applyconfigurations/meta/v1"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/runtime/contract"
)

// Settings are what the operator was started with.
type Settings struct {
	// RuntimeImage is used where a BaseModel names no image, and CUDARuntimeImage
	// where besides CUDA computes.
	RuntimeImage, CUDARuntimeImage string
	// JudgeImage runs the programs that the reward UnitTests judges.
	JudgeImage string
	// GPUResource is the extended resource of a GPU, of which a pod that computes by
	// CUDA asks for one where its object says nothing else; empty means
	// DefaultGPUResource.
	GPUResource string
	// GPURuntimeClass and GPUTolerations are those of pods that compute by CUDA, in
	// addition to what podTemplates say; a podTemplate's runtime class wins.
	GPURuntimeClass string
	GPUTolerations  []corev1.Toleration
	// AdminTLS lets serving pods answer the operator by HTTPS.
	AdminTLS bool
}

// ClaimName is the PersistentVolumeClaim of a BaseModel.
func ClaimName(base *v1alpha1.BaseModel) string {
	if base.Spec.Storage.ExistingClaim != "" {
		return base.Spec.Storage.ExistingClaim
	}
	return base.Name
}

// JobName is the name of the Job of an object with this name whose pods are as
// the hash says: at most 52 + 9 characters, so that it is a label too.
func JobName(name, hash string) string { return name + "-" + hash[:8] }

// ExpertSetName is the ConfigMap of a policy's expert set.
func ExpertSetName(policy *v1alpha1.AdaptivePolicy) string { return policy.Name + "-experts" }

// AdminSecretName is the Secret with the token that the operator shows a
// policy's pods.
func AdminSecretName(policy *v1alpha1.AdaptivePolicy) string { return policy.Name + "-admin" }

// AdminTokenKey is the key of that token.
const AdminTokenKey = contract.AdminTokenKey

// AdminTrustKey is the key of the certificates that they may show, where they do.
const AdminTrustKey = contract.AdminTrustKey

// URL of a policy's OpenAI-compatible API within the cluster.
func URL(policy *v1alpha1.AdaptivePolicy) string {
	return fmt.Sprintf("http://%s.%s.svc/v1", policy.Name, policy.Namespace)
}

// PolicySelector selects the pods of a policy.
func PolicySelector(policy *v1alpha1.AdaptivePolicy) map[string]string {
	return map[string]string{
		v1alpha1.LabelManagedBy: v1alpha1.ManagedBy,
		v1alpha1.LabelPolicy:    policy.Name,
	}
}

// Hash is the short name of some values: 16 hex digits of the SHA-256 of their
// JSON.
func Hash(values ...any) (string, error) {
	h := sha256.New()
	encoder := json.NewEncoder(h)
	for _, v := range values {
		if err := encoder.Encode(v); err != nil {
			return "", fmt.Errorf("hashing %T: %w", v, err)
		}
	}
	return hex.EncodeToString(h.Sum(nil))[:16], nil
}

// labels of an object or pod of the given component that belongs to a base.
func labels(component, base string, more map[string]string) map[string]string {
	all := map[string]string{
		v1alpha1.LabelManagedBy: v1alpha1.ManagedBy,
		v1alpha1.LabelName:      v1alpha1.AppName,
		v1alpha1.LabelComponent: component,
		v1alpha1.LabelBaseModel: base,
	}
	maps.Copy(all, more)
	return all
}

// controlledBy is the owner reference by which the garbage collector deletes an
// object with its owner.
func controlledBy(kind string, owner metav1.Object) *metaac.OwnerReferenceApplyConfiguration {
	return metaac.OwnerReference().
		WithAPIVersion(v1alpha1.SchemeGroupVersion.String()).
		WithKind(kind).
		WithName(owner.GetName()).
		WithUID(owner.GetUID()).
		WithController(true).
		WithBlockOwnerDeletion(true)
}

// moduleNames are the modules as the runtime takes them.
func moduleNames(modules []v1alpha1.Module) []string {
	names := make([]string, 0, len(modules))
	for _, m := range modules {
		names = append(names, string(m))
	}
	return names
}

// specJSON encodes a runtime specification as the value of an environment
// variable. Kubernetes expands $(NAME) and $$ in such values; a prompt template
// may have both, so that every dollar is doubled here.
func specJSON(spec any) (string, error) {
	b, err := json.Marshal(spec)
	if err != nil {
		return "", fmt.Errorf("encoding %s: %w", contract.EnvSpec, err)
	}
	return strings.ReplaceAll(string(b), "$", "$$"), nil
}
