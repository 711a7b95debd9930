package doctor

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	resourcev1 "k8s.io/api/resource/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/transformersquared/operator/api/v1alpha1"
)

// defaultGPU is what NVIDIA's device plugin calls a GPU, and the operator unless a flag
// says otherwise.
const defaultGPU = "nvidia.com/gpu"

// annotationDefaultClass marks the storage class of claims that name none.
const annotationDefaultClass = "storageclass.kubernetes.io/is-default-class"

// objects looks at what the objects of the namespace ask for: storage and GPUs.
func (e *examination) objects(ctx context.Context) error {
	var bases v1alpha1.BaseModelList
	var experts v1alpha1.ExpertVectorList
	var policies v1alpha1.AdaptivePolicyList
	for _, l := range []client.ObjectList{&bases, &experts, &policies} {
		if err := e.List(ctx, l, client.InNamespace(e.Namespace)); err != nil {
			if meta.IsNoMatchError(err) || apierrors.IsNotFound(err) || apierrors.IsForbidden(err) {
				return nil // Which has been said.
			}
			return fmt.Errorf("listing objects: %w", err)
		}
	}
	var nodes corev1.NodeList
	var seen []corev1.Node
	if err := e.List(ctx, &nodes); err != nil {
		if err := e.unknown(err, "Nodes", "listing nodes"); err != nil {
			return err
		}
	} else {
		seen = slices.DeleteFunc(nodes.Items, func(n corev1.Node) bool { return n.Spec.Unschedulable })
		if len(seen) == 0 {
			e.add(Failed, "Nodes", "kubectl get nodes", "no node takes pods")
		}
	}
	if err := e.storage(ctx, bases.Items, policies.Items, seen); err != nil {
		return err
	}
	return e.gpus(ctx, bases.Items, experts.Items, policies.Items, seen)
}

func (e *examination) storage(ctx context.Context, bases []v1alpha1.BaseModel, policies []v1alpha1.AdaptivePolicy, nodes []corev1.Node) error {
	const area = "Storage"
	var classes storagev1.StorageClassList
	known := true
	if err := e.List(ctx, &classes); err != nil {
		known = false
		if err := e.unknown(err, area, "listing storage classes"); err != nil {
			return err
		}
	}
	var byDefault []string
	for _, c := range classes.Items {
		if c.Annotations[annotationDefaultClass] == "true" {
			byDefault = append(byDefault, c.Name)
		}
	}
	needsDefault := len(bases) == 0
	for i := range bases {
		b := &bases[i]
		s := b.Spec.Storage
		switch {
		case s.ExistingClaim != "":
		case s.StorageClassName == "":
			needsDefault = true
		case known && !slices.ContainsFunc(classes.Items, func(c storagev1.StorageClass) bool { return c.Name == s.StorageClassName }):
			e.add(Failed, area, "name one that is there (kubectl get storageclass), in a new BaseModel", "BaseModel %s asks for the storage class %s, which is not there", b.Name, s.StorageClassName)
		}
		if err := e.claim(ctx, b, classes.Items); err != nil {
			return err
		}
		e.spread(b, policies, nodes)
	}
	switch {
	case !known || !needsDefault:
	case len(byDefault) == 0:
		e.add(Failed, area, "mark one as default, or name it in spec.storage.storageClassName", "no storage class is the default: the volume of a BaseModel that names none waits for ever")
	default:
		name := byDefault[0]
		for _, c := range classes.Items {
			if c.Name == name {
				e.add(OK, area, "", "%s is the default class (%s, binds %s)", name, c.Provisioner, ptr.Deref(c.VolumeBindingMode, storagev1.VolumeBindingImmediate))
			}
		}
	}
	return nil
}

// claim looks at a BaseModel's volume.
func (e *examination) claim(ctx context.Context, b *v1alpha1.BaseModel, classes []storagev1.StorageClass) error {
	const area = "Storage"
	name := b.Spec.Storage.ExistingClaim
	if name == "" {
		var err error
		if name, err = e.claimOf(ctx, b); err != nil {
			return e.unknown(err, area, "listing claims")
		}
		if name == "" {
			return nil // The operator has not made it yet.
		}
	}
	var claim corev1.PersistentVolumeClaim
	switch err := e.Get(ctx, client.ObjectKey{Namespace: b.Namespace, Name: name}, &claim); {
	case apierrors.IsNotFound(err):
		e.add(Failed, area, "make it, or name another in a new BaseModel", "BaseModel %s uses the claim %s, which is not there", b.Name, name)
		return nil
	case err != nil:
		return e.unknown(err, area, "reading claim "+name)
	}
	switch claim.Status.Phase {
	case corev1.ClaimLost:
		e.add(Failed, area, "bring its volume back; without it everything is made anew in a new BaseModel", "claim %s of BaseModel %s has lost its volume", name, b.Name)
	case corev1.ClaimPending:
		waits := slices.ContainsFunc(classes, func(c storagev1.StorageClass) bool {
			return c.Name == ptr.Deref(claim.Spec.StorageClassName, "") && ptr.Deref(c.VolumeBindingMode, "") == storagev1.VolumeBindingWaitForFirstConsumer
		})
		if waits {
			e.add(Note, area, "", "claim %s of BaseModel %s has no volume before its first pod starts", name, b.Name)
		} else {
			e.add(Warning, area, fmt.Sprintf("kubectl -n %s describe pvc %s", b.Namespace, name), "claim %s of BaseModel %s has no volume yet", name, b.Name)
		}
	default:
		e.add(OK, area, "", "claim %s of BaseModel %s has %s", name, b.Name, claim.Status.Capacity.Storage())
	}
	return nil
}

// claimOf is the name of the claim that the operator made for a BaseModel.
func (e *examination) claimOf(ctx context.Context, b *v1alpha1.BaseModel) (string, error) {
	var claims corev1.PersistentVolumeClaimList
	if err := e.List(ctx, &claims, client.InNamespace(b.Namespace), client.MatchingLabels{v1alpha1.LabelBaseModel: b.Name}); err != nil {
		return "", err
	}
	for _, c := range claims.Items {
		if c.Annotations[v1alpha1.AnnotationOwner] == string(b.UID) {
			return c.Name, nil
		}
	}
	return "", nil
}

// spread warns of a volume for one node whose model is to work on several.
func (e *examination) spread(b *v1alpha1.BaseModel, policies []v1alpha1.AdaptivePolicy, nodes []corev1.Node) {
	if len(nodes) < 2 || b.Spec.Storage.ExistingClaim != "" || slices.Contains(b.Spec.Storage.AccessModes, v1alpha1.AccessReadWriteMany) {
		return
	}
	once := slices.Contains(b.Spec.Storage.AccessModes, v1alpha1.AccessReadWriteOncePod)
	for _, p := range policies {
		replicas := ptr.Deref(p.Spec.Serving.Replicas, 1)
		if p.Spec.BaseModelRef.Name != b.Name || replicas == 0 {
			continue
		}
		if once {
			e.add(Failed, "Storage", "take ReadWriteOnce or ReadWriteMany, in a new BaseModel",
				"the volume of BaseModel %s is for one pod at a time (ReadWriteOncePod): policy %s and a training cannot work at once", b.Name, p.Name)
			return
		}
		if replicas > 1 {
			e.add(Warning, "Storage", "take ReadWriteMany, in a new BaseModel, or keep all on one node by a podTemplate",
				"the volume of BaseModel %s is for one node (ReadWriteOnce), so the %d pods of policy %s must all fit on that one of %d nodes", b.Name, replicas, p.Name, len(nodes))
			return
		}
	}
}

// asked is a GPU that an object asks for.
type asked struct{ object, resource, template string }

func (e *examination) gpus(ctx context.Context, bases []v1alpha1.BaseModel, experts []v1alpha1.ExpertVector, policies []v1alpha1.AdaptivePolicy, nodes []corev1.Node) error {
	const area = "GPU"
	usual := defaultGPU
	class := ""
	if e.operator != nil {
		usual = cmp.Or(e.operator.flags["gpu-resource"], defaultGPU)
		class = e.operator.flags["gpu-runtime-class"]
	}
	var wanted []asked
	ask := func(object string, backend v1alpha1.Backend, gpu *v1alpha1.GPU, r *corev1.ResourceRequirements) {
		switch {
		case gpu != nil && gpu.ResourceClaimTemplateName != "":
			wanted = append(wanted, asked{object, "", gpu.ResourceClaimTemplateName})
		case gpu != nil && gpu.ResourceName != "":
			wanted = append(wanted, asked{object, gpu.ResourceName, ""})
		case r != nil && limited(r, usual) || backend == v1alpha1.BackendCUDA:
			wanted = append(wanted, asked{object, usual, ""})
		}
	}
	for _, b := range bases {
		ask("BaseModel "+b.Name, b.Spec.Runtime.Backend, b.Spec.Runtime.GPU, b.Spec.Runtime.Resources)
	}
	for _, x := range experts {
		if t := x.Spec.Training; t != nil {
			ask("ExpertVector "+x.Name, t.Backend, t.GPU, t.Resources)
		}
	}
	for _, p := range policies {
		ask("AdaptivePolicy "+p.Name, p.Spec.Serving.Backend, p.Spec.Serving.GPU, p.Spec.Serving.Resources)
	}
	if len(wanted) == 0 {
		e.add(OK, area, "", "no object of namespace %s asks for a GPU; %d of %d nodes have %s", e.Namespace, having(nodes, usual), len(nodes), usual)
		return nil
	}
	for _, w := range wanted {
		if w.template != "" {
			if err := e.claimTemplate(ctx, w); err != nil {
				return err
			}
			continue
		}
		switch n := having(nodes, w.resource); {
		case nodes == nil: // Which has been said.
		case n == 0:
			e.add(Failed, area, "install the device plugin of the GPUs, or take backend CPU", "%s asks for %s, which no node offers", w.object, w.resource)
		default:
			e.add(OK, area, "", "%s asks for %s, which %d of %d nodes offer", w.object, w.resource, n, len(nodes))
		}
	}
	if class == "" {
		return nil
	}
	var rc nodev1.RuntimeClass
	switch err := e.Get(ctx, client.ObjectKey{Name: class}, &rc); {
	case apierrors.IsNotFound(err):
		e.add(Failed, area, "make it, or change the operator's flag", "the operator gives pods with a GPU the runtime class %s (--gpu-runtime-class), which is not there", class)
		return nil
	case err != nil:
		return e.unknown(err, area, "reading the runtime class")
	}
	e.add(OK, area, "", "the runtime class %s is there", class)
	return nil
}

// having counts the nodes that offer a resource.
func having(nodes []corev1.Node, resource string) int {
	n := 0
	for _, node := range nodes {
		if q := node.Status.Allocatable[corev1.ResourceName(resource)]; !q.IsZero() {
			n++
		}
	}
	return n
}

func (e *examination) claimTemplate(ctx context.Context, w asked) error {
	const area = "GPU"
	var template resourcev1.ResourceClaimTemplate
	switch err := e.Get(ctx, client.ObjectKey{Namespace: e.Namespace, Name: w.template}, &template); {
	case meta.IsNoMatchError(err):
		e.add(Failed, area, "ask for a GPU by gpu.resourceName", "%s asks for the ResourceClaimTemplate %s, and the cluster has no dynamic resource allocation", w.object, w.template)
	case apierrors.IsNotFound(err):
		e.add(Failed, area, "make it in namespace "+e.Namespace, "%s asks for the ResourceClaimTemplate %s, which is not there", w.object, w.template)
	case err != nil:
		return e.unknown(err, area, "reading the ResourceClaimTemplate")
	default:
		e.add(OK, area, "", "%s has the ResourceClaimTemplate %s", w.object, w.template)
	}
	return nil
}

// limited reports whether resources ask for some of one.
func limited(r *corev1.ResourceRequirements, resource string) bool {
	q := r.Limits[corev1.ResourceName(resource)]
	return !q.IsZero()
}
