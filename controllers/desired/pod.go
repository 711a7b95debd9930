package desired

import (
	"fmt"
	"path"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	coreac "k8s.io/client-go/applyconfigurations/core/v1"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/runtime/contract"
)

// userID is the user and group of every runtime process, and the group of the
// volumes: "nonroot" of common base images.
const userID = 65532

// Containers of runtime pods.
const (
	ContainerFetch     = "fetch"
	ContainerDecompose = "decompose"
	ContainerTrain     = "train"
	ContainerImport    = "import"
	ContainerPublish   = "publish"
	ContainerServe     = "serve"
)

// Volume names.
const (
	volumeData    = "data"
	volumeModel   = "t2-model"
	volumeTmp     = "tmp"
	volumeScratch = "scratch"
	volumeExperts = "experts"
	volumeAdmin   = "admin"
)

// portAdmin is the name of contract.PortAdmin.
const portAdmin = "admin"

// graceSeconds is the time that a runtime process has for its checkpoint.
const graceSeconds = 30

// podBuilder collects what the containers of one pod need and makes its spec.
type podBuilder struct {
	base      *v1alpha1.BaseModel
	settings  Settings
	computing computing
	template  v1alpha1.PodTemplate
	volumes   []*coreac.VolumeApplyConfiguration
	claims    map[string]string // claim name → volume name
	// mounts says that every container mounts the model's artifact.
	mounts bool
}

// newPod begins a pod for a base that computes so. The template is that of its
// training or serving, nil without one.
func newPod(base *v1alpha1.BaseModel, on computing, template *v1alpha1.PodTemplate, settings Settings) *podBuilder {
	p := &podBuilder{
		base: base, settings: settings, computing: on,
		template: mergeTemplates(on.template, base.Spec.Runtime.PodTemplate, template),
		claims:   map[string]string{},
	}
	p.claims[ClaimName(base)] = volumeData
	p.volumes = append(p.volumes,
		coreac.Volume().WithName(volumeData).WithPersistentVolumeClaim(
			coreac.PersistentVolumeClaimVolumeSource().WithClaimName(ClaimName(base))),
		coreac.Volume().WithName(volumeTmp).WithEmptyDir(coreac.EmptyDirVolumeSource()),
	)
	p.shareClaims()
	return p
}

// newModelPod is newPod for one that reads the base's model: where that is not copied to the
// volume, its containers mount the artifact. A pod that does not read it has no need of a node
// that can pull it.
func newModelPod(base *v1alpha1.BaseModel, on computing, template *v1alpha1.PodTemplate, settings Settings) *podBuilder {
	p := newPod(base, on, template, settings)
	if mountsModel(base) {
		p.mountModel(base.Spec.Source.OCI)
	}
	return p
}

// mountsModel reports whether pods mount a base's model as an image volume.
func mountsModel(base *v1alpha1.BaseModel) bool {
	return base.Spec.Source.Delivery == v1alpha1.DeliveryImageVolume && base.Spec.Source.OCI != nil
}

// mountModel adds the image volume of a model. The reference has a digest, so that what a node
// has once need not be asked for again.
func (p *podBuilder) mountModel(oci *v1alpha1.OCISource) {
	p.mounts = true
	p.volumes = append(p.volumes, coreac.Volume().WithName(volumeModel).WithImage(
		coreac.ImageVolumeSource().WithReference(oci.Reference).WithPullPolicy(corev1.PullIfNotPresent)))
	if secret := oci.PullSecretRef; secret != nil {
		p.template.Spec.ImagePullSecrets = mergeNamed(p.template.Spec.ImagePullSecrets, []corev1.LocalObjectReference{{Name: secret.Name}},
			func(r corev1.LocalObjectReference) string { return r.Name })
	}
}

// shareClaims makes one volume of those that name the same claim: the kubelet
// handles no second one. Mounts of the others mount the first.
func (p *podBuilder) shareClaims() {
	shape := p.template.Spec
	instead := map[string]string{} // volume name → that of the first with its claim
	shape.Volumes = slices.DeleteFunc(shape.Volumes, func(v v1alpha1.PodVolume) bool {
		if v.PersistentVolumeClaim == nil {
			return false
		}
		claim := v.PersistentVolumeClaim.ClaimName
		first, taken := p.claims[claim]
		if !taken {
			p.claims[claim] = v.Name
			return false
		}
		instead[v.Name] = first
		return true
	})
	for i := range shape.VolumeMounts {
		if first, ok := instead[shape.VolumeMounts[i].Name]; ok {
			shape.VolumeMounts[i].Name = first
		}
	}
}

// claim mounts a PersistentVolumeClaim read-only. A pod has one volume per
// claim, however often it is mounted: the kubelet handles no second one.
func (p *podBuilder) claim(name, mountPath string) *coreac.VolumeMountApplyConfiguration {
	volume, ok := p.claims[name]
	if !ok {
		volume = fmt.Sprintf("claim-%d", len(p.claims))
		p.claims[name] = volume
		p.volumes = append(p.volumes, coreac.Volume().WithName(volume).WithPersistentVolumeClaim(
			coreac.PersistentVolumeClaimVolumeSource().WithClaimName(name)))
	}
	return coreac.VolumeMount().WithName(volume).WithMountPath(mountPath).WithReadOnly(true)
}

// mountDonors mounts the volumes of other bases whose experts are transferred.
func (p *podBuilder) mountDonors(c *coreac.ContainerApplyConfiguration, donors []*v1alpha1.BaseModel) {
	for _, donor := range donors {
		c.WithVolumeMounts(p.claim(ClaimName(donor), TransferPath(donor)))
	}
}

// configMapKey mounts one key of a ConfigMap as the file mountPath/file.
func (p *podBuilder) configMapKey(volume, name, key, mountPath, file string) *coreac.VolumeMountApplyConfiguration {
	p.volumes = append(p.volumes, coreac.Volume().WithName(volume).WithConfigMap(
		coreac.ConfigMapVolumeSource().WithName(name).
			WithItems(coreac.KeyToPath().WithKey(key).WithPath(file))))
	return coreac.VolumeMount().WithName(volume).WithMountPath(mountPath).WithReadOnly(true)
}

// secret mounts a Secret, a file a key; the kubelet brings the files up to date.
func (p *podBuilder) secret(volume, name, mountPath string) *coreac.VolumeMountApplyConfiguration {
	p.volumes = append(p.volumes, coreac.Volume().WithName(volume).WithSecret(
		coreac.SecretVolumeSource().WithSecretName(name)))
	return coreac.VolumeMount().WithName(volume).WithMountPath(mountPath).WithReadOnly(true)
}

// emptyDir mounts a folder that the containers of the pod share.
func (p *podBuilder) emptyDir(volume, mountPath string) *coreac.VolumeMountApplyConfiguration {
	if !slices.ContainsFunc(p.volumes, func(v *coreac.VolumeApplyConfiguration) bool { return *v.Name == volume }) {
		p.volumes = append(p.volumes, coreac.Volume().WithName(volume).WithEmptyDir(coreac.EmptyDirVolumeSource()))
	}
	return coreac.VolumeMount().WithName(volume).WithMountPath(mountPath)
}

// container runs the runtime with arguments, spec in the environment, and the
// model's volume (read-only unless it writes). It computes as the pod does.
func (p *podBuilder) container(name string, args []string, spec any, writes bool) (*coreac.ContainerApplyConfiguration, error) {
	return p.containerOn(p.computing, name, args, spec, writes)
}

// containerOn is container for one that computes in another way than the pod.
func (p *podBuilder) containerOn(on computing, name string, args []string, spec any, writes bool,
) (*coreac.ContainerApplyConfiguration, error) {
	text, err := specJSON(spec)
	if err != nil {
		return nil, err
	}
	pull := p.base.Spec.Runtime.ImagePullPolicy
	if pull == "" {
		pull = corev1.PullIfNotPresent
	}
	data := coreac.VolumeMount().WithName(volumeData).WithMountPath(contract.MountData)
	if !writes {
		data.WithReadOnly(true)
	}
	c := coreac.Container().
		WithName(name).
		WithImagePullPolicy(pull).
		WithArgs(args...).
		WithEnv(coreac.EnvVar().WithName(contract.EnvSpec).WithValue(text)).
		WithVolumeMounts(data, coreac.VolumeMount().WithName(volumeTmp).WithMountPath("/tmp")).
		WithTerminationMessagePolicy(corev1.TerminationMessageFallbackToLogsOnError).
		WithSecurityContext(coreac.SecurityContext().
			WithAllowPrivilegeEscalation(false).
			WithReadOnlyRootFilesystem(true).
			WithCapabilities(coreac.Capabilities().WithDrop("ALL")))
	if p.mounts {
		c.WithVolumeMounts(coreac.VolumeMount().WithName(volumeModel).WithMountPath(contract.MountModel).WithReadOnly(true))
	}
	on.apply(c)
	return c, shapeContainer(c, p.template.Spec)
}

// spec makes the pod's specification under the restricted Pod Security standard
// and without API credentials.
func (p *podBuilder) spec(containers ...*coreac.ContainerApplyConfiguration) (*coreac.PodSpecApplyConfiguration, error) {
	spec := coreac.PodSpec().
		WithAutomountServiceAccountToken(false).
		WithEnableServiceLinks(false).
		WithTerminationGracePeriodSeconds(graceSeconds).
		WithVolumes(p.volumes...).
		WithContainers(containers...)
	if template := p.computing.claimTemplate; template != "" {
		spec.WithResourceClaims(coreac.PodResourceClaim().WithName(claimGPU).WithResourceClaimTemplateName(template))
	}
	return spec, shapePod(spec, p.template.Spec)
}

// adminPort names the port of health, metrics and progress.
func adminPort() *coreac.ContainerPortApplyConfiguration {
	return coreac.ContainerPort().WithName(portAdmin).WithContainerPort(contract.PortAdmin).WithProtocol(corev1.ProtocolTCP)
}

// probe asks the admin port.
func probe(urlPath string, period, failures int32) *coreac.ProbeApplyConfiguration {
	return coreac.Probe().
		WithHTTPGet(coreac.HTTPGetAction().WithPath(urlPath).WithPort(intstr.FromString(portAdmin)).
			WithScheme(corev1.URISchemeHTTP)).
		WithPeriodSeconds(period).
		WithTimeoutSeconds(2).
		WithFailureThreshold(failures)
}

// inClaim is the path of a source within the place where its claim is mounted.
func inClaim(mountPath string, source *v1alpha1.ClaimSource) string {
	return path.Join(mountPath, source.Path)
}

func resourcesConfig(r *corev1.ResourceRequirements) *coreac.ResourceRequirementsApplyConfiguration {
	c := coreac.ResourceRequirements()
	if len(r.Limits) > 0 {
		c.WithLimits(r.Limits)
	}
	if len(r.Requests) > 0 {
		c.WithRequests(r.Requests)
	}
	return c
}
