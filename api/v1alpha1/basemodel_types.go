package v1alpha1

import (
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// BaseModel is a language model whose weight matrices are decomposed once, so
// that expert vectors can scale their singular values.
//
// +genclient
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:shortName=bmodel,categories=t2
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Singular-Values",type=integer,JSONPath=`.status.decomposition.singularValues`
// +kubebuilder:printcolumn:name="Parameters",type=integer,JSONPath=`.status.architecture.parameters`,priority=1
// +kubebuilder:printcolumn:name="Device",type=string,JSONPath=`.status.runs[0].device`,priority=1
// +kubebuilder:printcolumn:name="Storage",type=string,JSONPath=`.status.storage.summary`,priority=1
// +kubebuilder:printcolumn:name="Digest",type=string,JSONPath=`.status.artifact.digest`,priority=1
// +kubebuilder:printcolumn:name="Message",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].message`,priority=1
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:validation:XValidation:rule="self.metadata.name.size() <= 52 && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",message="the name must be a DNS label that begins with a letter and has at most 52 characters"
type BaseModel struct {
	metav1.TypeMeta `json:",inline"`

	// metadata is the standard object's metadata.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitzero"`

	// spec says which model it is and how it is decomposed.
	// +required
	Spec BaseModelSpec `json:"spec,omitzero"`

	// status says what has been fetched and decomposed. Its observedGeneration is -1
	// until the operator has seen the object.
	// +optional
	// +kubebuilder:default={observedGeneration:-1}
	Status BaseModelStatus `json:"status,omitzero"`
}

// BaseModelList is a list of BaseModels.
//
// +kubebuilder:object:root=true
type BaseModelList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitzero"`

	Items []BaseModel `json:"items"`
}

// BaseModelSpec says which model it is and how it is decomposed.
type BaseModelSpec struct {
	// source is where the model comes from, in Hugging Face layout. A change fetches
	// and decomposes again; experts train again if the model is another.
	// +required
	Source ModelSource `json:"source,omitzero"`
	// decomposition says which matrices are factored and how the factors are kept. A
	// change decomposes again, and every expert trains again.
	// +optional
	// +kubebuilder:default={}
	Decomposition DecompositionSpec `json:"decomposition,omitzero"`
	// storage is the volume for the model, its factors and its experts. It can grow;
	// nothing else of it can change.
	// +optional
	// +kubebuilder:default={}
	Storage StorageSpec `json:"storage,omitzero"`
	// runtime says which image the pods of this model run and where. A change
	// trains nothing again: it applies to the next pod of a run, and replaces the
	// pods of policies one by one.
	// +optional
	// +kubebuilder:default={}
	Runtime RuntimeSpec `json:"runtime,omitzero"`
}

// DecompositionSpec says which matrices are factored.
type DecompositionSpec struct {
	// modules are the projections to factor, all seven of a Llama-family block by
	// default: q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj and down_proj. One
	// that the model does not have fails the run, which says so.
	// +optional
	// +listType=set
	// +kubebuilder:default={q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj}
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	Modules []Module `json:"modules,omitempty"`
	// dtype in which the factors are stored. BF16 takes half of F32's room and costs
	// accuracy (see status.decomposition.maxRelativeError).
	// +optional
	// +kubebuilder:default=F32
	DType DType `json:"dtype,omitempty"`
}

// StorageSpec is the volume of a BaseModel: one that is made (size), or one
// that is there (existingClaim).
// +kubebuilder:validation:AtMostOneOf=size;existingClaim
// +kubebuilder:validation:XValidation:rule="!has(self.existingClaim) || (!has(self.storageClassName) && !has(self.accessModes))",message="storageClassName and accessModes are of a claim that is made; they cannot be given with existingClaim"
// +kubebuilder:validation:XValidation:rule="has(self.existingClaim) == has(oldSelf.existingClaim) && (!has(self.existingClaim) || self.existingClaim == oldSelf.existingClaim)",message="existingClaim cannot change: make a new BaseModel"
// +kubebuilder:validation:XValidation:rule="has(self.storageClassName) == has(oldSelf.storageClassName) && (!has(self.storageClassName) || self.storageClassName == oldSelf.storageClassName)",message="storageClassName cannot change: make a new BaseModel"
// +kubebuilder:validation:XValidation:rule="has(self.accessModes) == has(oldSelf.accessModes) && (!has(self.accessModes) || self.accessModes == oldSelf.accessModes)",message="accessModes cannot change: make a new BaseModel"
type StorageSpec struct {
	// size of the volume that is made, 10Gi without it; at most one of size and
	// existingClaim is given. It holds the model, its factors (about twice the model
	// in F32) and every expert. It can grow where the storage class allows it, and
	// never shrink; a size that the volume cannot have is said in the condition
	// Ready, leaves the model usable, and may be taken back.
	// +optional
	// +kubebuilder:validation:XValidation:rule="isQuantity(string(self)) && quantity(string(self)).isGreaterThan(quantity('0'))",message="size must be a quantity greater than 0, such as 20Gi"
	Size *resource.Quantity `json:"size,omitempty"`
	// storageClassName of the volume; the cluster's default class without it. It
	// cannot change.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	StorageClassName string `json:"storageClassName,omitempty"`
	// accessModes of the volume, ReadWriteOnce without it. Training and serving
	// on several nodes at once needs ReadWriteMany. They cannot change.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=3
	AccessModes []AccessMode `json:"accessModes,omitempty"`
	// existingClaim names a PersistentVolumeClaim that is used instead, and kept
	// when the BaseModel is deleted. It cannot change.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	ExistingClaim string `json:"existingClaim,omitempty"`
	// collect says whether the operator removes from the volume what no object of the
	// namespace refers to any more: artifacts of experts that were deleted or trained
	// again, earlier decompositions and models, checkpoints, an hour after they were
	// written at the earliest. Without it a volume that is made is collected (Automatic),
	// and an existingClaim is not (Never), because others may keep artifacts there.
	// Nothing but what the runtime has put there by its own names is ever removed. A change
	// holds from the next collection on.
	// +optional
	Collect Collect `json:"collect,omitempty"`
}

// Collect says whether a volume is collected.
// +kubebuilder:validation:Enum=Automatic;Never
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=32
type Collect string

// Values of Collect.
const (
	// CollectAutomatic removes what nothing refers to.
	CollectAutomatic Collect = "Automatic"
	// CollectNever removes nothing.
	CollectNever Collect = "Never"
)

// AccessMode of a volume, as Kubernetes names them.
// +kubebuilder:validation:Enum=ReadWriteOnce;ReadWriteMany;ReadWriteOncePod
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=32
type AccessMode string

// Access modes.
const (
	// AccessReadWriteOnce is for pods of one node.
	AccessReadWriteOnce AccessMode = "ReadWriteOnce"
	// AccessReadWriteMany is for pods of several nodes.
	AccessReadWriteMany AccessMode = "ReadWriteMany"
	// AccessReadWriteOncePod is for one pod at a time.
	AccessReadWriteOncePod AccessMode = "ReadWriteOncePod"
)

// BaseModelStatus says what has been fetched and decomposed.
// +kubebuilder:validation:MinProperties=0
type BaseModelStatus struct {
	// conditions are Ready, Fetched, Decomposed and, while they hold, Reconciling
	// or Stalled.
	// +optional
	// +listType=map
	// +listMapKey=type
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	Conditions []metav1.Condition `json:"conditions,omitempty"`
	// observedGeneration is the generation that the conditions are about, -1 until
	// the operator has seen the object.
	// +optional
	// +kubebuilder:validation:Minimum=-1
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// runs are the latest runs that fetched and decomposed, newest first, at most 5.
	// +optional
	// +listType=map
	// +listMapKey=id
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=5
	Runs []RunStatus `json:"runs,omitempty"`
	// progress of the newest run while it goes on.
	// +optional
	Progress *StepProgress `json:"progress,omitempty"`
	// artifact is the fetched model.
	// +optional
	Artifact *ModelArtifact `json:"artifact,omitempty"`
	// architecture is what the model says it is.
	// +optional
	Architecture *Architecture `json:"architecture,omitempty"`
	// decomposition describes the factors.
	// +optional
	Decomposition *DecompositionStatus `json:"decomposition,omitempty"`
	// referencedBy says which objects use this model; it is not deleted while
	// there are any.
	// +optional
	ReferencedBy *ReferencedBy `json:"referencedBy,omitempty"`
	// storage is what the volume held when it was last collected; nothing where it is
	// not (spec.storage.collect).
	// +optional
	Storage *StorageStatus `json:"storage,omitempty"`
}

// StorageStatus is what a volume held when it was last collected: some minutes after
// something that refers to artifacts has changed.
// +kubebuilder:validation:MinProperties=1
type StorageStatus struct {
	// summary is what is used of the file system's size, such as 1.2Gi of 9.8Gi.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	Summary string `json:"summary,omitempty"`
	// usedBytes is what the volume's files took on disk.
	// +optional
	// +kubebuilder:validation:Minimum=0
	UsedBytes *int64 `json:"usedBytes,omitempty"`
	// capacityBytes is the size of the file system, which others may use, too.
	// +optional
	// +kubebuilder:validation:Minimum=0
	CapacityBytes *int64 `json:"capacityBytes,omitempty"`
	// kinds are what takes it: models, decompositions, experts, probes, runs (their
	// checkpoints), shared (weights that trainings map together) and other, which is
	// never removed.
	// +optional
	// +listType=map
	// +listMapKey=kind
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=32
	Kinds []StorageKind `json:"kinds,omitempty"`
	// collectionTime is when that was.
	// +optional
	CollectionTime *metav1.Time `json:"collectionTime,omitempty"`
	// removed is how many artifacts and runs went then, of freedBytes together.
	// +optional
	// +kubebuilder:validation:Minimum=0
	Removed *int32 `json:"removed,omitempty"`
	// freedBytes is what they took.
	// +optional
	// +kubebuilder:validation:Minimum=0
	FreedBytes *int64 `json:"freedBytes,omitempty"`
	// jobName is the Job that collected.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	JobName string `json:"jobName,omitempty"`
	// inUseHash is a hash of what was referred to then: while it is the same, nothing is
	// collected again.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	InUseHash string `json:"inUseHash,omitempty"`
	// message says why the latest collection failed; it is tried again within an hour.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=1024
	Message string `json:"message,omitempty"`
}

// StorageKind is what one kind of thing takes of a volume.
type StorageKind struct {
	// kind of the things.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=32
	Kind string `json:"kind,omitempty"`
	// count of them.
	// +required
	// +kubebuilder:validation:Minimum=0
	Count *int32 `json:"count,omitempty"`
	// sizeBytes on disk.
	// +required
	// +kubebuilder:validation:Minimum=0
	SizeBytes *int64 `json:"sizeBytes,omitempty"`
}

// StepProgress is how far a Job is.
type StepProgress struct {
	// step is what the Job does now, in the runtime's words: Fetching, Decomposing or
	// Saving.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=32
	Step string `json:"step,omitempty"`
	// done of total units: bytes while fetching, matrices while decomposing.
	// +required
	// +kubebuilder:validation:Minimum=0
	Done *int64 `json:"done,omitempty"`
	// total units; 0 while it is not known.
	// +required
	// +kubebuilder:validation:Minimum=0
	Total *int64 `json:"total,omitempty"`
	// estimatedRemainingSeconds of this step, once it is known.
	// +optional
	// +kubebuilder:validation:Minimum=0
	EstimatedRemainingSeconds *int64 `json:"estimatedRemainingSeconds,omitempty"`
}

// ModelArtifact is a fetched model.
type ModelArtifact struct {
	// digest of the model's files.
	// +required
	Digest Digest `json:"digest,omitempty"`
	// sizeBytes of the model's files together.
	// +required
	// +kubebuilder:validation:Minimum=1
	SizeBytes int64 `json:"sizeBytes,omitempty"`
	// files is their number.
	// +required
	// +kubebuilder:validation:Minimum=1
	Files int32 `json:"files,omitempty"`
	// revision of the source that was fetched, in its own words: the commit that a
	// hub's branch or tag meant, the digest of a registry's manifest. Sources by http,
	// S3 and volume have none.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=128
	Revision string `json:"revision,omitempty"`
	// verified is whose signature the source has, where spec.source.verify asks for one.
	// +optional
	Verified *VerifiedSignature `json:"verified,omitempty"`
}

// Architecture is what a model says it is.
type Architecture struct {
	// family of the model, such as llama.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	Family string `json:"family,omitempty"`
	// layers is the number of transformer blocks.
	// +required
	// +kubebuilder:validation:Minimum=1
	Layers int32 `json:"layers,omitempty"`
	// hiddenSize is the width of the residual stream.
	// +required
	// +kubebuilder:validation:Minimum=1
	HiddenSize int32 `json:"hiddenSize,omitempty"`
	// parameters is their number.
	// +required
	// +kubebuilder:validation:Minimum=1
	Parameters int64 `json:"parameters,omitempty"`
	// vocabularySize is the number of tokens.
	// +required
	// +kubebuilder:validation:Minimum=1
	VocabularySize int32 `json:"vocabularySize,omitempty"`
	// contextLength is the longest sequence that the model was made for, in tokens;
	// a policy's serving.contextLength can be no longer. Models fetched by an older
	// runtime do not say.
	// +optional
	// +kubebuilder:validation:Minimum=1
	ContextLength int32 `json:"contextLength,omitempty"`
}

// DecompositionStatus describes the factors of a model's matrices.
type DecompositionStatus struct {
	// digest of the factors; an expert vector fits exactly one.
	// +required
	Digest Digest `json:"digest,omitempty"`
	// matrices is the number of matrices factored.
	// +required
	// +kubebuilder:validation:Minimum=1
	Matrices int32 `json:"matrices,omitempty"`
	// singularValues is the length of an expert vector.
	// +required
	// +kubebuilder:validation:Minimum=1
	SingularValues int64 `json:"singularValues,omitempty"`
	// maxRelativeError is the largest ‖W − U·diag(σ)·Vᵀ‖/‖W‖ of a matrix.
	// +required
	MaxRelativeError Decimal `json:"maxRelativeError,omitempty"`
	// modules that are factored.
	// +required
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	Modules []Module `json:"modules,omitempty"`
}

// ReferencedBy says which objects use a BaseModel.
type ReferencedBy struct {
	// count of the objects.
	// +required
	// +kubebuilder:validation:Minimum=1
	Count int32 `json:"count,omitempty"`
	// objects are the first 20 of them, as Kind/name.
	// +required
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=20
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=128
	Objects []string `json:"objects,omitempty"`
}

// RunStatus is one run: a Job and the pods that tried.
type RunStatus struct {
	// id of the run: the hash of the object and of everything that its result
	// depends on.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	ID string `json:"id,omitempty"`
	// jobName is the Job that works on it.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	JobName string `json:"jobName,omitempty"`
	// startTime is when the first Job of the run was made.
	// +required
	StartTime metav1.Time `json:"startTime,omitempty,omitzero"`
	// completionTime is when it ended.
	// +optional
	CompletionTime *metav1.Time `json:"completionTime,omitempty"`
	// failures counts the pods that failed and were replaced, or were the last.
	// +optional
	// +kubebuilder:validation:Minimum=0
	Failures *int32 `json:"failures,omitempty"`
	// retries counts the Jobs that failed for something that may pass by itself and
	// were made again after a pause.
	// +optional
	// +kubebuilder:validation:Minimum=0
	Retries *int32 `json:"retries,omitempty"`
	// device that computes, or did at last, in the runtime's words, such as cpu
	// (avx512, 2 threads); not known before a pod says so.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=128
	Device string `json:"device,omitempty"`
	// result of the run, once it ended: Succeeded, or the reason of its failure.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	Result string `json:"result,omitempty"`
}
