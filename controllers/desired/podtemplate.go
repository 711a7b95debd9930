package desired

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"

	corev1 "k8s.io/api/core/v1"
	coreac "k8s.io/client-go/applyconfigurations/core/v1"

	"github.com/transformersquared/operator/api/v1alpha1"
)

// mergeTemplates merges pod templates, the later ones into the earlier ones: maps
// by key, lists by what names their items or, where nothing does, one after the
// other; the later one replaces anything else. Templates may be nil, and none of
// them is changed.
func mergeTemplates(templates ...*v1alpha1.PodTemplate) v1alpha1.PodTemplate {
	merged := v1alpha1.PodTemplate{Metadata: &v1alpha1.PodMetadata{}, Spec: &v1alpha1.PodShape{}}
	for _, t := range templates {
		if t == nil {
			continue
		}
		if t.Metadata != nil {
			merged.Metadata.Labels = mergeMaps(merged.Metadata.Labels, t.Metadata.Labels)
			merged.Metadata.Annotations = mergeMaps(merged.Metadata.Annotations, t.Metadata.Annotations)
		}
		if t.Spec != nil {
			mergeShape(merged.Spec, t.Spec.DeepCopy())
		}
	}
	return merged
}

func mergeShape(into, from *v1alpha1.PodShape) {
	into.ImagePullSecrets = mergeNamed(into.ImagePullSecrets, from.ImagePullSecrets,
		func(s corev1.LocalObjectReference) string { return s.Name })
	into.Affinity = mergeAffinity(into.Affinity, from.Affinity)
	into.TopologySpreadConstraints = appendNew(into.TopologySpreadConstraints, from.TopologySpreadConstraints)
	into.NodeSelector = mergeMaps(into.NodeSelector, from.NodeSelector)
	into.Tolerations = appendNew(into.Tolerations, from.Tolerations)
	for _, s := range []struct{ into, from *string }{
		{&into.ServiceAccountName, &from.ServiceAccountName},
		{&into.PriorityClassName, &from.PriorityClassName},
		{&into.SchedulerName, &from.SchedulerName},
		{&into.RuntimeClassName, &from.RuntimeClassName},
	} {
		if *s.from != "" {
			*s.into = *s.from
		}
	}
	if from.SecurityContext != nil {
		into.SecurityContext = from.SecurityContext
	}
	into.Env = mergeNamed(into.Env, from.Env, func(e corev1.EnvVar) string { return e.Name })
	into.Volumes = mergeNamed(into.Volumes, from.Volumes, func(v v1alpha1.PodVolume) string { return v.Name })
	into.VolumeMounts = mergeNamed(into.VolumeMounts, from.VolumeMounts,
		func(m v1alpha1.PodVolumeMount) string { return m.MountPath })
}

func mergeAffinity(into, from *corev1.Affinity) *corev1.Affinity {
	if into == nil || from == nil {
		if from != nil {
			return from
		}
		return into
	}
	if from.NodeAffinity != nil {
		into.NodeAffinity = from.NodeAffinity
	}
	if from.PodAffinity != nil {
		into.PodAffinity = from.PodAffinity
	}
	if from.PodAntiAffinity != nil {
		into.PodAntiAffinity = from.PodAntiAffinity
	}
	return into
}

func mergeMaps[V any](into, from map[string]V) map[string]V {
	if len(from) == 0 {
		return into
	}
	merged := maps.Clone(into)
	if merged == nil {
		merged = make(map[string]V, len(from))
	}
	maps.Copy(merged, from)
	return merged
}

// mergeNamed replaces items of the same name where they stand, and adds the
// others.
func mergeNamed[T any](into, from []T, name func(T) string) []T {
	for _, item := range from {
		if i := slices.IndexFunc(into, func(had T) bool { return name(had) == name(item) }); i >= 0 {
			into[i] = item
		} else {
			into = append(into, item)
		}
	}
	return into
}

// appendNew adds the items that are not there already.
func appendNew[T any](into, from []T) []T {
	for _, item := range from {
		if !slices.ContainsFunc(into, func(had T) bool { return reflect.DeepEqual(had, item) }) {
			into = append(into, item)
		}
	}
	return into
}

// userLabels are the labels of a template as strings.
func userLabels(template v1alpha1.PodTemplate) map[string]string {
	all := make(map[string]string, len(template.Metadata.Labels))
	for key, value := range template.Metadata.Labels {
		all[key] = string(value)
	}
	return all
}

// convert turns a type of the API's into the apply configuration that has the
// same JSON.
func convert[C any](from any) (*C, error) {
	text, err := json.Marshal(from)
	if err != nil {
		return nil, fmt.Errorf("encoding %T: %w", from, err)
	}
	config := new(C)
	if err := json.Unmarshal(text, config); err != nil {
		return nil, fmt.Errorf("decoding %T: %w", config, err)
	}
	return config, nil
}

// convertAll is convert for every item of a list.
func convertAll[C, T any](from []T) ([]*C, error) {
	configs := make([]*C, 0, len(from))
	for i := range from {
		config, err := convert[C](&from[i])
		if err != nil {
			return nil, err
		}
		configs = append(configs, config)
	}
	return configs, nil
}

// shapePod writes what the template says of a pod as a whole.
func shapePod(pod *coreac.PodSpecApplyConfiguration, shape *v1alpha1.PodShape) error {
	for _, secret := range shape.ImagePullSecrets {
		pod.WithImagePullSecrets(coreac.LocalObjectReference().WithName(secret.Name))
	}
	for value, set := range map[*string]func(string) *coreac.PodSpecApplyConfiguration{
		&shape.ServiceAccountName: pod.WithServiceAccountName,
		&shape.PriorityClassName:  pod.WithPriorityClassName,
		&shape.SchedulerName:      pod.WithSchedulerName,
		&shape.RuntimeClassName:   pod.WithRuntimeClassName,
	} {
		if *value != "" {
			set(*value)
		}
	}
	if len(shape.NodeSelector) > 0 {
		pod.WithNodeSelector(shape.NodeSelector)
	}
	if shape.Affinity != nil {
		affinity, err := convert[coreac.AffinityApplyConfiguration](shape.Affinity)
		if err != nil {
			return err
		}
		pod.WithAffinity(affinity)
	}
	spread, err := convertAll[coreac.TopologySpreadConstraintApplyConfiguration](shape.TopologySpreadConstraints)
	if err != nil {
		return err
	}
	tolerations, err := convertAll[coreac.TolerationApplyConfiguration](shape.Tolerations)
	if err != nil {
		return err
	}
	volumes, err := convertAll[coreac.VolumeApplyConfiguration](shape.Volumes)
	if err != nil {
		return err
	}
	security, err := securityContext(shape.SecurityContext)
	if err != nil {
		return err
	}
	pod.WithTopologySpreadConstraints(spread...).WithTolerations(tolerations...).WithVolumes(volumes...).
		WithSecurityContext(security)
	return nil
}

// securityContext is that of a pod under the restricted Pod Security standard:
// as user and group userID, or as the one given says. What the standard asks for
// and the one given does not say is filled in.
func securityContext(given *corev1.PodSecurityContext) (*coreac.PodSecurityContextApplyConfiguration, error) {
	context := coreac.PodSecurityContext().
		WithRunAsUser(userID).
		WithRunAsGroup(userID).
		WithFSGroup(userID).
		WithFSGroupChangePolicy(corev1.FSGroupChangeOnRootMismatch)
	if given != nil {
		var err error
		if context, err = convert[coreac.PodSecurityContextApplyConfiguration](given); err != nil {
			return nil, err
		}
	}
	if context.RunAsNonRoot == nil {
		context.WithRunAsNonRoot(true)
	}
	if context.SeccompProfile == nil {
		context.WithSeccompProfile(coreac.SeccompProfile().WithType(corev1.SeccompProfileTypeRuntimeDefault))
	}
	return context, nil
}

// shapeContainer writes what the template says of every container.
func shapeContainer(container *coreac.ContainerApplyConfiguration, shape *v1alpha1.PodShape) error {
	env, err := convertAll[coreac.EnvVarApplyConfiguration](shape.Env)
	if err != nil {
		return err
	}
	mounts, err := convertAll[coreac.VolumeMountApplyConfiguration](shape.VolumeMounts)
	if err != nil {
		return err
	}
	container.WithEnv(env...).WithVolumeMounts(mounts...)
	return nil
}
