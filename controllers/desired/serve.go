package desired

import (
	"encoding/json"
	"fmt"
	"maps"
	"path"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	appsac "k8s.io/client-go/applyconfigurations/apps/v1"
	coreac "k8s.io/client-go/applyconfigurations/core/v1"
	metaac "k8s.io/client-go/applyconfigurations/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/runtime/contract"
)

const (
	// servicePort is the port of a policy's Service.
	servicePort = 80
	// portAPI is the name of contract.PortAPI.
	portAPI = "api"
	// pauseSeconds is the pause in which a pod that ends disappears from the Service.
	pauseSeconds = 5
	// startSeconds is how long loading a model may take.
	startSeconds, startPeriod = 1800, 2
	// annotationAdmin makes pods start anew when the token is another.
	annotationAdmin = v1alpha1.GroupName + "/admin-token"
)

// ServeSpec is what a policy's pods serve.
func ServeSpec(policy *v1alpha1.AdaptivePolicy, base *v1alpha1.BaseModel) contract.ServeSpec {
	serving := policy.Spec.Serving
	spec := contract.ServeSpec{
		Name: policy.Name, DataDir: contract.MountData,
		ContextLength: contextLength(policy, base), MaxBatch: int(serving.MaxBatch),
		DType: unlessDefault(serving.DType, v1alpha1.ServingF32),
		Form:  strings.ToLower(unlessDefault(serving.Form, v1alpha1.FormAuto)),
	}
	if spec.MaxBatch == 0 {
		spec.MaxBatch = 16
	}
	spec.MaxWaiting = int(ptr.Deref(serving.MaxWaiting, 0))
	if cache := serving.KVCache; cache != nil {
		spec.KVCacheType = string(cache.Type)
		if cache.Size != nil {
			spec.KVCacheBytes = cache.Size.Value()
		}
	}
	spec.DrainSeconds = int(ptr.Deref(serving.DrainSeconds, 0))
	spec.KeepText = serving.RequestText == v1alpha1.RequestTextKeep
	if m := serving.Metrics; m != nil {
		spec.NoAPIMetrics, spec.MetricNames = m.APIPort == v1alpha1.APIPortDisabled, metricNames(m.InferencePool)
	}
	if base.Status.Artifact != nil {
		spec.BaseDigest = string(base.Status.Artifact.Digest)
	}
	if base.Status.Decomposition != nil {
		spec.DecompositionDigest = string(base.Status.Decomposition.Digest)
	}
	return spec
}

// metricNames are those of a policy that are not the defaults; nil where there are none.
func metricNames(m *v1alpha1.InferencePoolMetrics) map[string]string {
	if m == nil {
		return nil
	}
	names := map[string]string{
		contract.GaugeQueued: string(m.QueuedRequests), contract.GaugeRunning: string(m.RunningRequests),
		contract.GaugeCache: string(m.KVUsage), contract.GaugeExperts: string(m.LoRA), contract.GaugeBlocks: string(m.CacheInfo),
	}
	defaults := contract.DefaultGaugeNames()
	maps.DeleteFunc(names, func(gauge, name string) bool { return name == "" || name == defaults[gauge] })
	if len(names) == 0 {
		return nil
	}
	return names
}

// defaultContextLength bounds the context of a policy that does not say, so that
// a model made for very long ones does not take the memory for them.
const defaultContextLength = 2048

// contextLength is what the policy asks for, or what its model was made for, up
// to defaultContextLength.
func contextLength(policy *v1alpha1.AdaptivePolicy, base *v1alpha1.BaseModel) int {
	if asked := policy.Spec.Serving.ContextLength; asked != nil {
		return int(*asked)
	}
	if a := base.Status.Architecture; a != nil && a.ContextLength > 0 {
		return int(min(a.ContextLength, defaultContextLength))
	}
	return defaultContextLength
}

// unlessDefault returns a value as text, and nothing for the default, so that
// what a default is called changes nobody's specification.
func unlessDefault[T ~string](value, otherwise T) string {
	if value == otherwise {
		return ""
	}
	return string(value)
}

// ServingRun is the identity of what pods serve: pods with another one cannot
// take this policy's expert set.
func ServingRun(spec contract.ServeSpec) (string, error) {
	return Hash(spec.BaseDigest, spec.DecompositionDigest)
}

// transferDir is ServeSpec's: nothing where no expert is transferred.
func transferDir(donors []*v1alpha1.BaseModel) string {
	if len(donors) == 0 {
		return ""
	}
	return contract.MountTransfer
}

// TransferPath is where a pod mounts the volume of another base whose experts are
// transferred.
func TransferPath(donor *v1alpha1.BaseModel) string {
	return path.Join(contract.MountTransfer, donor.Name)
}

// Deployment serves a policy. donors are the other bases, by name, whose experts are
// transferred. adminToken is what its pods are to ask for; of it
// the Deployment shows a hash, so that another token makes other pods.
func Deployment(policy *v1alpha1.AdaptivePolicy, base *v1alpha1.BaseModel, donors []*v1alpha1.BaseModel, adminToken []byte, settings Settings,
) (*appsac.DeploymentApplyConfiguration, error) {
	tokenHash, err := Hash(adminToken)
	if err != nil {
		return nil, err
	}
	spec := ServeSpec(policy, base)
	run, err := ServingRun(spec)
	if err != nil {
		return nil, err
	}
	on := compute(base, wishOfServing(&policy.Spec.Serving), settings)
	spec.Backend, spec.TransferDir = on.name(), transferDir(donors)
	spec.AdminTLS = settings.AdminTLS
	pod := newModelPod(base, on, policy.Spec.Serving.PodTemplate, settings)
	container, err := pod.container(ContainerServe, []string{"serve"}, spec, false)
	if err != nil {
		return nil, err
	}
	container.
		WithPorts(
			coreac.ContainerPort().WithName(portAPI).WithContainerPort(contract.PortAPI).WithProtocol(corev1.ProtocolTCP),
			adminPort()).
		WithVolumeMounts(pod.configMapKey(volumeExperts, ExpertSetName(policy), contract.ExpertSetKey,
			contract.MountExperts, contract.ExpertSetKey),
			pod.secret(volumeAdmin, AdminSecretName(policy), contract.MountAdmin)).
		WithStartupProbe(probe(contract.PathHealth, startPeriod, startSeconds/startPeriod)).
		WithLivenessProbe(probe(contract.PathHealth, 10, 6)).
		WithReadinessProbe(probe(contract.PathReady, 2, 2)).
		WithLifecycle(coreac.Lifecycle().WithPreStop(coreac.LifecycleHandler().
			WithSleep(coreac.SleepAction().WithSeconds(pauseSeconds))))
	annotations := map[string]string{annotationAdmin: tokenHash}
	if settings.AdminTLS {
		secure(container, annotations)
	}
	pod.mountDonors(container, donors)
	pod.spread(policy)

	podSpec, err := pod.spec(container)
	if err != nil {
		return nil, err
	}
	podLabels := userLabels(pod.template)
	maps.Copy(podLabels, labels(v1alpha1.ComponentServe, base.Name, map[string]string{
		v1alpha1.LabelPolicy: policy.Name, v1alpha1.LabelRun: run,
	}))
	template := coreac.PodTemplateSpec().
		WithLabels(podLabels).
		WithAnnotations(mergeMaps(pod.template.Metadata.Annotations, annotations)).
		WithSpec(podSpec.WithTerminationGracePeriodSeconds(endSeconds(policy)))
	hash, err := Hash(template)
	if err != nil {
		return nil, err
	}
	template.WithAnnotations(map[string]string{v1alpha1.AnnotationTemplate: hash})
	return appsac.Deployment(policy.Name, policy.Namespace).
		WithLabels(podLabels).
		WithOwnerReferences(controlledBy("AdaptivePolicy", policy)).
		WithSpec(appsac.DeploymentSpec().
			WithReplicas(ptr.Deref(policy.Spec.Serving.Replicas, 1)).
			WithRevisionHistoryLimit(2).
			WithSelector(metaac.LabelSelector().WithMatchLabels(PolicySelector(policy))).
			WithStrategy(appsac.DeploymentStrategy().
				WithType(appsv1.RollingUpdateDeploymentStrategyType).
				WithRollingUpdate(appsac.RollingUpdateDeployment().
					WithMaxUnavailable(intstr.FromInt32(0)).
					WithMaxSurge(intstr.FromInt32(1)))).
			WithTemplate(template)), nil
}

// Service is where clients find a policy.
func Service(policy *v1alpha1.AdaptivePolicy) *coreac.ServiceApplyConfiguration {
	return coreac.Service(policy.Name, policy.Namespace).
		WithLabels(policyLabels(policy)).
		WithOwnerReferences(controlledBy("AdaptivePolicy", policy)).
		WithSpec(coreac.ServiceSpec().
			WithType(corev1.ServiceTypeClusterIP).
			WithSelector(PolicySelector(policy)).
			WithPorts(coreac.ServicePort().WithName("http").WithProtocol(corev1.ProtocolTCP).
				WithPort(servicePort).WithTargetPort(intstr.FromString(portAPI))))
}

// ExpertSet is the ConfigMap from which a pod that starts takes its experts.
func ExpertSet(policy *v1alpha1.AdaptivePolicy, set contract.ExpertSet) (*coreac.ConfigMapApplyConfiguration, error) {
	set, err := set.Named()
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(set)
	if err != nil {
		return nil, fmt.Errorf("encoding the expert set: %w", err)
	}
	return coreac.ConfigMap(ExpertSetName(policy), policy.Namespace).
		WithLabels(policyLabels(policy)).
		WithOwnerReferences(controlledBy("AdaptivePolicy", policy)).
		WithData(map[string]string{contract.ExpertSetKey: string(text)}), nil
}

// secure lets a container answer on its admin port by HTTPS, where the operator asks so. The
// kubelet, which asks too, trusts any certificate.
func secure(c *coreac.ContainerApplyConfiguration, annotations map[string]string) {
	annotations[v1alpha1.AnnotationAdminScheme] = v1alpha1.AdminSchemeHTTPS
	for _, p := range []*coreac.ProbeApplyConfiguration{c.StartupProbe, c.LivenessProbe, c.ReadinessProbe} {
		p.HTTPGet.WithScheme(corev1.URISchemeHTTPS)
	}
}

// AdminSecret holds the token by which the operator may change a pod's experts.
// It is mutable: kubelets keep the content of an immutable Secret by its name,
// also when it was deleted and made again with another token (kubernetes#131589).
// Where pods are asked by HTTPS, it has their certificate too.
func AdminSecret(policy *v1alpha1.AdaptivePolicy, data map[string][]byte) *coreac.SecretApplyConfiguration {
	return coreac.Secret(AdminSecretName(policy), policy.Namespace).
		WithLabels(policyLabels(policy)).
		WithOwnerReferences(controlledBy("AdaptivePolicy", policy)).
		WithType(corev1.SecretTypeOpaque).
		WithData(data)
}

func policyLabels(policy *v1alpha1.AdaptivePolicy) map[string]string {
	return labels(v1alpha1.ComponentServe, policy.Spec.BaseModelRef.Name,
		map[string]string{v1alpha1.LabelPolicy: policy.Name})
}
