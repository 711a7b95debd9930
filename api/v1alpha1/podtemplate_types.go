package v1alpha1

import corev1 "k8s.io/api/core/v1"

// PodTemplate shapes the pods that the operator makes: where they run, as whom,
// and with what beside the operator's own. A BaseModel's applies to every pod of
// its own, of its experts and of its policies; that of a training or of a serving
// is merged into it: maps by key, lists by name or, where their items have none,
// one after the other; anything else the later one replaces.
//
// It decides where a run happens, not what comes of it: a change trains nothing
// again. A run that goes on does so in another pod, from its checkpoint; the pods
// of policies are replaced one by one.
type PodTemplate struct {
	// metadata that the pods carry beside the operator's.
	// +optional
	Metadata *PodMetadata `json:"metadata,omitempty"`
	// spec is what the pods have beside the operator's own.
	// +optional
	Spec *PodShape `json:"spec,omitempty"`
}

// PodMetadata are labels and annotations of pods.
// +kubebuilder:validation:MinProperties=1
type PodMetadata struct {
	// labels of the pods and of their Job or Deployment: a queue's name, such as
	// kueue.x-k8s.io/queue-name, works. Merged by key. Labels under
	// transformersquared.dev/, app.kubernetes.io/name, managed-by and component, and
	// those that Kubernetes gives pods by itself, are refused.
	// +optional
	// +kubebuilder:validation:MinProperties=1
	// +kubebuilder:validation:MaxProperties=32
	// +kubebuilder:validation:XValidation:rule="self.all(k, !k.startsWith('transformersquared.dev/'))",message="labels under transformersquared.dev/ are the operator's"
	// +kubebuilder:validation:XValidation:rule="self.all(k, !(k in ['app.kubernetes.io/name', 'app.kubernetes.io/managed-by', 'app.kubernetes.io/component']))",message="the labels app.kubernetes.io/name, app.kubernetes.io/managed-by and app.kubernetes.io/component are the operator's"
	// +kubebuilder:validation:XValidation:rule="self.all(k, !k.startsWith('batch.kubernetes.io/') && !(k in ['job-name', 'controller-uid', 'pod-template-hash']))",message="the labels job-name, controller-uid, pod-template-hash and those under batch.kubernetes.io/ are Kubernetes' own"
	Labels map[string]LabelValue `json:"labels,omitempty"`
	// annotations of the pods. Merged by key. Those under transformersquared.dev/ are
	// refused.
	// +optional
	// +kubebuilder:validation:MinProperties=1
	// +kubebuilder:validation:MaxProperties=32
	// +kubebuilder:validation:XValidation:rule="self.all(k, !k.startsWith('transformersquared.dev/'))",message="annotations under transformersquared.dev/ are the operator's"
	Annotations map[string]string `json:"annotations,omitempty"`
}

// LabelValue is the value of a label.
// +kubebuilder:validation:MaxLength=63
// +kubebuilder:validation:Pattern=`^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$`
type LabelValue string

// PodShape is what pods have beside the operator's own. The operator owns their
// containers, and that they have no credentials of the API.
type PodShape struct {
	// imagePullSecrets name Secrets of the namespace with credentials of the
	// registry. Merged by name.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	ImagePullSecrets []corev1.LocalObjectReference `json:"imagePullSecrets,omitempty"`
	// serviceAccountName is whom the pods run as, for what the platform grants to
	// service accounts. Its token is not mounted.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	ServiceAccountName string `json:"serviceAccountName,omitempty"`
	// affinity of the pods. A later nodeAffinity, podAffinity or podAntiAffinity
	// replaces the earlier one.
	// +optional
	Affinity *corev1.Affinity `json:"affinity,omitempty"`
	// topologySpreadConstraints of the pods. Later ones are added.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	TopologySpreadConstraints []corev1.TopologySpreadConstraint `json:"topologySpreadConstraints,omitempty"`
	// priorityClassName of the pods.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	PriorityClassName string `json:"priorityClassName,omitempty"`
	// schedulerName is the scheduler that places the pods; the cluster's default
	// without it.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	SchedulerName string `json:"schedulerName,omitempty"`
	// nodeSelector restricts the nodes to those with these labels. Merged by key.
	// +optional
	// +kubebuilder:validation:MinProperties=1
	// +kubebuilder:validation:MaxProperties=32
	NodeSelector map[string]string `json:"nodeSelector,omitempty"`
	// tolerations of the pods. Later ones are added.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=32
	Tolerations []corev1.Toleration `json:"tolerations,omitempty"`
	// runtimeClassName of the pods, such as nvidia.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	RuntimeClassName string `json:"runtimeClassName,omitempty"`
	// securityContext of the pods. Without it they run as user and group 65532,
	// which own the volume. One that is given replaces these numbers, also by none:
	// {} leaves them to the platform, as OpenShift wants it. runAsNonRoot and the
	// seccomp profile RuntimeDefault stay unless it says otherwise. A later one
	// replaces an earlier one.
	// +optional
	SecurityContext *corev1.PodSecurityContext `json:"securityContext,omitempty"`
	// env are variables of every container but the judge's, such as HTTPS_PROXY, NO_PROXY or
	// SSL_CERT_FILE. Merged by name. Names that begin with T2_ are refused.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:XValidation:rule="self.all(e, !e.name.startsWith('T2_'))",message="variables whose names begin with T2_ are the operator's"
	Env []corev1.EnvVar `json:"env,omitempty"`
	// volumes beside the operator's, which volumeMounts mount. Merged by name. The
	// names of the operator's volumes, and those that begin with t2- or claim-, are
	// refused.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	Volumes []PodVolume `json:"volumes,omitempty"`
	// volumeMounts of every container but the judge's. Merged by mountPath. Each names one of
	// volumes, its own or those of the BaseModel's podTemplate. Paths at, above and
	// below those of the operator and the system (/data, /source, /dataset, /scratch,
	// /tmp, /run/judge, /etc/t2, /t2, /dev, /proc, /sys) are refused.
	// +optional
	// +listType=map
	// +listMapKey=mountPath
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	VolumeMounts []PodVolumeMount `json:"volumeMounts,omitempty"`
}

// PodVolumeMount is where every container finds a volume.
type PodVolumeMount struct {
	// name of the volume.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
	// +kubebuilder:validation:XValidation:rule="!(self in ['data', 'tmp', 'scratch', 'experts', 'admin', 'judge', 'train', 'validation']) && !self.startsWith('t2-') && !self.startsWith('claim-')",message="volumes of the operator are mounted by the operator only"
	Name string `json:"name,omitempty"`
	// mountPath is the absolute path of the folder, or with subPath of the file.
	// +required
	// +kubebuilder:validation:MinLength=2
	// +kubebuilder:validation:MaxLength=512
	// +kubebuilder:validation:Pattern=`^(/[A-Za-z0-9_][-A-Za-z0-9_.@]*)+$`
	// +kubebuilder:validation:XValidation:rule="!(self in ['/data', '/source', '/dataset', '/scratch', '/tmp', '/run/judge', '/etc', '/etc/t2', '/t2', '/dev', '/proc', '/sys'])",message="mountPath is the operator's or the system's"
	// +kubebuilder:validation:XValidation:rule="!['/data/', '/source/', '/dataset/', '/scratch/', '/tmp/', '/run/judge/', '/etc/t2/', '/t2/', '/dev/', '/proc/', '/sys/'].exists(p, self.startsWith(p))",message="mountPath is below one of the operator's or the system's"
	MountPath string `json:"mountPath,omitempty"`
	// subPath is the folder or file within the volume; all of it without it.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=512
	// +kubebuilder:validation:XValidation:rule="!self.startsWith('/') && !self.split('/').exists(p, p == '..')",message="subPath must be relative to the volume's root and must not contain '..'"
	SubPath string `json:"subPath,omitempty"`
	// readOnly forbids to write there.
	// +optional
	ReadOnly *bool `json:"readOnly,omitempty"`
}

// PodVolume is a volume of a kind that the restricted Pod Security standard
// allows: exactly one of configMap, secret, emptyDir, persistentVolumeClaim,
// projected, downwardAPI, ephemeral and csi.
// +kubebuilder:validation:ExactlyOneOf=configMap;secret;emptyDir;persistentVolumeClaim;projected;downwardAPI;ephemeral;csi
type PodVolume struct {
	// name by which volumeMounts name it.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
	// +kubebuilder:validation:XValidation:rule="!(self in ['data', 'tmp', 'scratch', 'experts', 'admin', 'judge', 'train', 'validation']) && !self.startsWith('t2-') && !self.startsWith('claim-')",message="the volumes data, tmp, scratch, experts, admin, judge, train and validation, and those whose names begin with t2- or claim-, are the operator's"
	Name string `json:"name,omitempty"`
	// configMap whose keys are the files, such as certificates.
	// +optional
	ConfigMap *corev1.ConfigMapVolumeSource `json:"configMap,omitempty"`
	// secret whose keys are the files.
	// +optional
	Secret *corev1.SecretVolumeSource `json:"secret,omitempty"`
	// emptyDir is a folder that begins empty with each pod.
	// +optional
	EmptyDir *corev1.EmptyDirVolumeSource `json:"emptyDir,omitempty"`
	// persistentVolumeClaim of the namespace.
	// +optional
	PersistentVolumeClaim *corev1.PersistentVolumeClaimVolumeSource `json:"persistentVolumeClaim,omitempty"`
	// projected are several of these in one folder, but for tokens of service
	// accounts.
	// +optional
	Projected *PodProjection `json:"projected,omitempty"`
	// downwardAPI are fields of the pod as files.
	// +optional
	DownwardAPI *corev1.DownwardAPIVolumeSource `json:"downwardAPI,omitempty"`
	// ephemeral is a claim that is made and deleted with each pod.
	// +optional
	Ephemeral *corev1.EphemeralVolumeSource `json:"ephemeral,omitempty"`
	// csi is a volume that a driver makes with each pod.
	// +optional
	CSI *corev1.CSIVolumeSource `json:"csi,omitempty"`
}

// PodProjection is several sources in one folder.
type PodProjection struct {
	// sources of the folder, of which none is a service account's token.
	// +required
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:XValidation:rule="self.all(s, !has(s.serviceAccountToken))",message="tokens of service accounts are not mounted"
	Sources []corev1.VolumeProjection `json:"sources,omitempty"`
	// defaultMode is the files' mode bits, 0644 without it.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=511
	DefaultMode *int32 `json:"defaultMode,omitempty"`
}
