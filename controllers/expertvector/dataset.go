package expertvector

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/controllers/desired"
	"github.com/transformersquared/operator/controllers/status"
	"github.com/transformersquared/operator/runtime/contract"
)

// maxRemembered bounds how many digests are remembered.
const maxRemembered = 4096

// Datasets finds the digests of data sets that ConfigMaps hold. The cache has
// the ConfigMaps' metadata only; the data is read once for each version.
type Datasets struct {
	// Cache has the metadata of ConfigMaps.
	Cache client.Reader
	// Live reads from the API server.
	Live client.Reader

	mu    sync.Mutex
	known map[version]map[string]string // version → key → digest
}

// version is one version of a ConfigMap's content.
type version struct {
	uid             types.UID
	resourceVersion string
}

// Digests returns the SHA-256 of an expert's data sets that lie in ConfigMaps,
// by role. A ConfigMap or key that is not there is a *status.Waiting: a watch
// tells when it comes.
func (d *Datasets) Digests(ctx context.Context, expert *v1alpha1.ExpertVector) (map[string]string, error) {
	digests := map[string]string{}
	if expert.Spec.Training == nil {
		return digests, nil
	}
	for _, part := range desired.Parts(&expert.Spec.Training.Dataset) {
		digest, err := d.Digest(ctx, expert.Namespace, "spec.training.dataset."+part.Field, *part.Dataset)
		if err != nil {
			return nil, err
		}
		if digest != "" {
			digests[part.Role] = digest
		}
	}
	return digests, nil
}

// Digest returns the SHA-256 of a data set if a ConfigMap holds it, and nothing else. What
// is wrong with it is told by the field that names it.
func (d *Datasets) Digest(ctx context.Context, namespace, field string, set v1alpha1.Dataset) (string, error) {
	ref := set.ConfigMap
	if ref == nil {
		return "", nil
	}
	digest, err := d.digest(ctx, namespace, field, ref)
	if err != nil {
		return "", err
	}
	if asked := string(set.Digest); asked != "" && asked != digest {
		return "", status.Stall(contract.ReasonDigestMismatch,
			"%s: key %s of ConfigMap %s has digest %s, not %s; correct the digest or the data",
			field, ref.Key, ref.Name, digest, asked)
	}
	return digest, nil
}

func (d *Datasets) digest(ctx context.Context, namespace, field string, ref *v1alpha1.ConfigMapKeyRef) (string, error) {
	key := client.ObjectKey{Namespace: namespace, Name: ref.Name}
	meta := &metav1.PartialObjectMetadata{}
	meta.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("ConfigMap"))
	err := d.Cache.Get(ctx, key, meta)
	if apierrors.IsNotFound(err) {
		return "", status.Wait(v1alpha1.ReasonDatasetNotFound, "%s: ConfigMap %s is not there; make it", field, ref.Name)
	}
	if err != nil {
		return "", fmt.Errorf("reading ConfigMap %s: %w", ref.Name, err)
	}
	digests, ok := d.remembered(version{meta.UID, meta.ResourceVersion})
	if !ok {
		digests, err = d.read(ctx, key)
		if apierrors.IsNotFound(err) {
			return "", status.Wait(v1alpha1.ReasonDatasetNotFound, "%s: ConfigMap %s is not there; make it", field, ref.Name)
		}
		if err != nil {
			return "", fmt.Errorf("reading ConfigMap %s: %w", ref.Name, err)
		}
	}
	digest, ok := digests[ref.Key]
	if !ok {
		return "", status.Wait(v1alpha1.ReasonDatasetNotFound, "%s: ConfigMap %s has no key %s; add it", field, ref.Name, ref.Key).Warn()
	}
	return digest, nil
}

// read hashes every key of a ConfigMap and remembers the digests.
func (d *Datasets) read(ctx context.Context, key client.ObjectKey) (map[string]string, error) {
	var configMap corev1.ConfigMap
	if err := d.Live.Get(ctx, key, &configMap); err != nil {
		return nil, err
	}
	digests := map[string]string{}
	for name, text := range configMap.Data {
		digests[name] = hash([]byte(text))
	}
	for name, data := range configMap.BinaryData {
		digests[name] = hash(data)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.known == nil || len(d.known) >= maxRemembered {
		d.known = map[version]map[string]string{}
	}
	d.known[version{configMap.UID, configMap.ResourceVersion}] = digests
	return digests, nil
}

func (d *Datasets) remembered(v version) (map[string]string, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	digests, ok := d.known[v]
	return digests, ok
}

func hash(data []byte) string {
	sum := sha256.Sum256(data)
	return contract.DigestPrefix + hex.EncodeToString(sum[:])
}
