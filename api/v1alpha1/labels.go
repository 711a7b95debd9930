package v1alpha1

// Labels of the objects that the operator makes. Every one of them carries
// LabelManagedBy, by which the operator's caches are bounded.
const (
	// LabelManagedBy is the recommended Kubernetes label, with ManagedBy as value.
	LabelManagedBy = "app.kubernetes.io/managed-by"
	// LabelName is the recommended Kubernetes label, with AppName as value.
	LabelName = "app.kubernetes.io/name"
	// LabelComponent is the recommended Kubernetes label, with one of the
	// Component values.
	LabelComponent = "app.kubernetes.io/component"
	// LabelBaseModel names the BaseModel that an object belongs to.
	LabelBaseModel = GroupName + "/base-model"
	// LabelExpert names the ExpertVector that a Job or pod works for.
	LabelExpert = GroupName + "/expert"
	// LabelPolicy names the AdaptivePolicy that an object serves.
	LabelPolicy = GroupName + "/policy"
	// LabelSearch names the AdaptivePolicy for which a Job or pod searches weights: not
	// LabelPolicy, by which its Service finds the pods that serve.
	LabelSearch = GroupName + "/search"
	// LabelProbe names the AdaptivePolicy for which a Job or pod fits a probe.
	LabelProbe = GroupName + "/probe"
	// LabelEvaluation names the AdaptivePolicy for which a Job or pod evaluates an expert
	// set.
	LabelEvaluation = GroupName + "/evaluation"
	// LabelRun is the identity of the run that a Job or pod works on.
	LabelRun = GroupName + "/run"
)

// Values of those labels.
const (
	ManagedBy = "transformersquared-operator"
	AppName   = "transformersquared"
	// ComponentDecompose fetches and decomposes a model.
	ComponentDecompose = "decompose"
	// ComponentTrain trains or imports an expert.
	ComponentTrain = "train"
	// ComponentPublish pushes an expert to a registry.
	ComponentPublish = "publish"
	// ComponentAdapt searches the weights of a policy's experts.
	ComponentAdapt = "adapt"
	// ComponentProbe fits the probe of a policy.
	ComponentProbe = "probe"
	// ComponentCollect removes from a volume what nothing refers to.
	ComponentCollect = "collect"
	// ComponentEvaluate evaluates an expert set before a policy serves it.
	ComponentEvaluate = "evaluate"
	// ComponentServe serves a policy.
	ComponentServe = "serve"
)

// AnnotationApplied holds the hash of the configuration that the operator last
// applied to an object: an object with the right hash, whose fields are still
// as applied, needs no write.
const AnnotationApplied = GroupName + "/applied"

// AnnotationOwner holds the UID of the BaseModel that a PersistentVolumeClaim
// belongs to. The claim has no owner reference: a foreground deletion of the
// BaseModel would take it, and with it the experts that are served, while
// FinalizerInUse still holds the BaseModel.
const AnnotationOwner = GroupName + "/owner-uid"

// AnnotationSuspended is on a Job that the operator suspended because its user
// asked for it: only that suspension is the operator's to take back.
const AnnotationSuspended = GroupName + "/suspended"

// AnnotationSecretVersion is on a Job whose pods show credentials to sources: names and
// resource versions of their Secrets when the Job was made, such as hub/7,keys/12.
const AnnotationSecretVersion = GroupName + "/secret-version"

// LabelQueue is on Jobs that Kueue admits; it comes from the user's podTemplate.
const LabelQueue = "kueue.x-k8s.io/queue-name"

// AnnotationTemplate of a serving pod is the hash of the template that it was made
// from: a pod with another is of another version of its policy's Deployment.
const AnnotationTemplate = GroupName + "/template"

// AnnotationAdminScheme of a serving pod says by what its admin port is asked:
// AdminSchemeHTTPS, or HTTP without it.
const AnnotationAdminScheme = GroupName + "/admin-scheme"

// AdminSchemeHTTPS is its only value.
const AdminSchemeHTTPS = "https"

// FinalizerInUse holds a deleted BaseModel while objects refer to it.
const FinalizerInUse = GroupName + "/in-use"

// FieldOwner is the operator's field manager in server-side apply.
const FieldOwner = ManagedBy
