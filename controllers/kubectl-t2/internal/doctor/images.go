package doctor

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/controllers/outcome"
)

// pullReasons are those of a container whose image cannot be had.
var pullReasons = []string{"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"}

// unpublished begins the names of images that no registry has: they are what `make images`
// builds, to be loaded into a cluster.
const unpublished = "transformersquared.dev/"

// images looks for images that could not be pulled, and for such as nobody can pull.
func (e *examination) images(ctx context.Context) error {
	const area = "Images"
	var pods corev1.PodList
	err := e.List(ctx, &pods, client.InNamespace(e.Namespace), client.MatchingLabels{v1alpha1.LabelManagedBy: v1alpha1.ManagedBy})
	if err != nil {
		return e.unknown(err, area, "listing pods")
	}
	bad := 0
	secrets := map[string]bool{}
	for _, p := range pods.Items {
		for _, s := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses) {
			if w := s.State.Waiting; w != nil && slices.Contains(pullReasons, w.Reason) {
				bad++
				if volume := outcome.VolumeOf(&p, w.Message); volume != nil {
					e.add(Failed, area, "name a pull Secret in the BaseModel's spec.source.oci, or set spec.source.delivery to Copy",
						"pod %s cannot mount %s: %s %s", p.Name, volume.Reference, w.Reason, w.Message)
					continue
				}
				e.add(Failed, area, "name an image that is there, or a pull Secret, in the operator's flags or the BaseModel's spec.runtime",
					"pod %s cannot have %s: %s %s", p.Name, s.Image, w.Reason, w.Message)
			}
		}
		for _, s := range p.Spec.ImagePullSecrets {
			secrets[s.Name] = true
		}
	}
	for _, name := range slices.Sorted(maps.Keys(secrets)) {
		var s corev1.Secret
		if err := e.Get(ctx, client.ObjectKey{Namespace: e.Namespace, Name: name}, &s); apierrors.IsNotFound(err) {
			bad++
			e.add(Failed, area, "make it in namespace "+e.Namespace, "pods name the pull Secret %s, which is not there", name)
		} // Who may not read Secrets need not.
	}
	if e.operator != nil {
		var local []string
		for _, flag := range []string{"runtime-image", "cuda-runtime-image", "judge-image"} {
			if image := e.operator.flags[flag]; image == "" || strings.HasPrefix(image, unpublished) {
				local = append(local, fmt.Sprintf("--%s=%s", flag, image))
			}
		}
		if len(local) > 0 && bad == 0 && len(pods.Items) == 0 {
			e.add(Note, area, "load them into every node, or push them to your registry and name them in the operator's flags",
				"no registry has the images that the operator gives pods (%s)", list(local))
		}
	}
	if bad == 0 {
		e.add(OK, area, "", "none of the %d pods of namespace %s waits for its image", len(pods.Items), e.Namespace)
	}
	return nil
}
