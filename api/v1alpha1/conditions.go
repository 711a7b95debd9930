package v1alpha1

// Condition types. Ready, Reconciling and Stalled have the meaning that
// kstatus gives them: Ready is True exactly when the object as it is now
// written has been realised; Reconciling is there (True) while the operator
// works on it or waits for something that may still come; Stalled is there
// (True) when nothing more happens until somebody acts. Reconciling and Stalled
// are never there together, and neither is there when Ready is True.
//
// A failed call of the operator to the API server says nothing about an object
// and does not take Ready away from the generation that has it: it is an event
// and counted in the operator's metrics.
//
// An object that is replaced by a changed specification is not Ready until the
// new one is realised, while what it had before goes on being served: so
// `kubectl wait --for=condition=Ready` after a change waits for the change.
const (
	// ConditionReady is on every kind.
	ConditionReady = "Ready"
	// ConditionReconciling is on every kind while work goes on.
	ConditionReconciling = "Reconciling"
	// ConditionStalled is on every kind when somebody must act.
	ConditionStalled = "Stalled"
	// ConditionFetched of a BaseModel: its files are in the volume and verified.
	ConditionFetched = "Fetched"
	// ConditionDecomposed of a BaseModel: its matrices are factored.
	ConditionDecomposed = "Decomposed"
	// ConditionImproved of a trained ExpertVector: it answers its validation set
	// better than the base model. It is not there for an expert that was imported,
	// of which no scores are known, and before the first training ended.
	ConditionImproved = "Improved"
	// ConditionStored of an ExpertVector: its artifact is in the volume, as far as
	// the pods say that serve it. It is not there before a pod missed the artifact.
	ConditionStored = "Stored"
	// ConditionPublished of an ExpertVector: its artifact is in the registry that
	// spec.publish names, under that tag. It is not there without spec.publish.
	ConditionPublished = "Published"
	// ConditionAvailable of an AdaptivePolicy: requests are answered now, by at
	// least one ready pod that has loaded an expert set: the one that is expected,
	// or one that was expected before. It says nothing about the specification,
	// which is Ready's to say: a policy whose expert is trained anew is Available
	// and not Ready.
	ConditionAvailable = "Available"
	// ConditionClassifierCurrent of an AdaptivePolicy: what its pass 1 runs with was
	// trained for the skills that it has now. It is not there where pass 1 has no
	// classifier.
	ConditionClassifierCurrent = "ClassifierCurrent"
	// ConditionProbeCurrent of an AdaptivePolicy: the probe that it serves was fitted to
	// the experts that it has now, with their training data. It is not there where the
	// strategy is another than Probe.
	ConditionProbeCurrent = "ProbeCurrent"
	// ConditionExpertsTransferred of an AdaptivePolicy: experts that were made for another
	// BaseModel are served with this one (spec.transfer). It is not there where there
	// are none of them.
	ConditionExpertsTransferred = "ExpertsTransferred"
	// ConditionRolledOut of an AdaptivePolicy whose spec.rollout evaluates expert sets: the
	// set that it asks for is the one that serves. While it does not hold, the stable set
	// serves, or the base before there is one.
	ConditionRolledOut = "RolledOut"
	// ConditionEvaluationFailed of an AdaptivePolicy: the set that it asks for was
	// evaluated, and the gate does not let it serve. It is there only while that holds.
	ConditionEvaluationFailed = "EvaluationFailed"
)

// Condition reasons that every kind uses.
const (
	// ReasonSucceeded says that the object is realised.
	ReasonSucceeded = "Succeeded"
	// ReasonProgressing says that work has been started.
	ReasonProgressing = "Progressing"
	// ReasonError says that a call to the API failed before it was known whether
	// this generation is realised; it is repeated. It is the reason of an event too.
	ReasonError = "ReconcileError"
	// ReasonRejected says that the API server refused an object that the
	// operator needs, such as a Job that a quota or a policy forbids.
	ReasonRejected = "Rejected"
	// ReasonPending says that a pod has not started yet.
	ReasonPending = "PodPending"
	// ReasonFinishing says that the pod has done its work and the Job is about to
	// end.
	ReasonFinishing = "Finishing"
	// ReasonUnschedulable says that no node takes the pod.
	ReasonUnschedulable = "Unschedulable"
	// ReasonImagePull says that the runtime's image cannot be pulled.
	ReasonImagePull = "ImagePullFailed"
	// ReasonContainerConfig says that a Secret or ConfigMap which the pod refers
	// to is missing or lacks a key.
	ReasonContainerConfig = "ContainerConfigError"
	// ReasonVolume says that a volume of the pod cannot be mounted.
	ReasonVolume = "VolumeMountFailed"
	// ReasonOOMKilled says that the kernel killed a container at its memory limit.
	ReasonOOMKilled = "OOMKilled"
	// ReasonNodeLost says that the pod's node does not report, so that nothing is known of
	// the pod.
	ReasonNodeLost = "NodeLost"
	// ReasonEvicted says that the node evicted the pod.
	ReasonEvicted = "Evicted"
	// ReasonCrashed says that a container ended without saying why.
	ReasonCrashed = "Crashed"
	// ReasonPreviousRun says that the Job before, or a pod of it, must end before
	// the next begins, because both would write to the same volume.
	ReasonPreviousRun = "WaitingForPreviousRun"
	// ReasonClaimNotFound says that a PersistentVolumeClaim is not there.
	ReasonClaimNotFound = "VolumeClaimNotFound"
	// ReasonClaimPending says that a PersistentVolumeClaim has no volume yet.
	ReasonClaimPending = "VolumeClaimPending"
	// ReasonClaimSize says that a PersistentVolumeClaim cannot have the size that
	// is asked for.
	ReasonClaimSize = "VolumeClaimNotResized"
	// ReasonClaimLost says that a PersistentVolumeClaim lost its volume.
	ReasonClaimLost = "VolumeClaimLost"
	// ReasonClaimResizing says that a PersistentVolumeClaim has not grown yet to
	// the size that is asked for.
	ReasonClaimResizing = "VolumeClaimResizing"
)

// Condition reasons of a BaseModel. Those that the
// runtime reports (package contract) appear too.
const (
	// ReasonFetching and ReasonDecomposing say what its Job does now.
	ReasonFetching    = "Fetching"
	ReasonDecomposing = "Decomposing"
	// ReasonInUse says that it is being deleted but objects still refer to it.
	ReasonInUse = "InUse"
	// ReasonTerminating says that it is being deleted.
	ReasonTerminating = "Terminating"
	// ReasonCollected and ReasonCollectionFailed are of events alone: what nothing refers
	// to was removed from the volume, or could not be.
	ReasonCollected        = "Collected"
	ReasonCollectionFailed = "CollectionFailed"
)

// Condition reasons of an ExpertVector. Those that the
// runtime reports (package contract) appear too.
const (
	// ReasonTraining and ReasonImporting say what its Job does now.
	ReasonTraining  = "Training"
	ReasonImporting = "Importing"
	// ReasonSuspended says that the run is held: by spec.training.suspend, by a
	// queue, or by whoever else suspended its Job.
	ReasonSuspended = "Suspended"
	// ReasonBaseNotFound says that the BaseModel is not there.
	ReasonBaseNotFound = "BaseModelNotFound"
	// ReasonBaseNotReady says that the BaseModel is not decomposed yet.
	ReasonBaseNotReady = "BaseModelNotReady"
	// ReasonBaseTerminating says that the BaseModel is being deleted.
	ReasonBaseTerminating = "BaseModelTerminating"
	// ReasonDatasetNotFound says that a ConfigMap with a data set, or its key, is
	// not there.
	ReasonDatasetNotFound = "DatasetNotFound"
	// ReasonModulesNotDecomposed says that spec.training.modules asks for modules
	// that the BaseModel does not decompose.
	ReasonModulesNotDecomposed = "ModulesNotDecomposed"
)

// Reasons of an ExpertVector's condition Improved.
const (
	// ReasonAboveBaseline says that the expert's score is above the base model's.
	ReasonAboveBaseline = "AboveBaseline"
	// ReasonAtBaseline says that it is the same.
	ReasonAtBaseline = "AtBaseline"
	// ReasonBelowBaseline says that it is below. A policy that names an expert whose
	// score its spec.rollout.gate.minGain does not take is not Ready for this reason.
	ReasonBelowBaseline = "BelowBaseline"
)

// Reasons of an ExpertVector's condition Published, which has those of runs, too.
const (
	// ReasonPublished says that the artifact has been pushed.
	ReasonPublished = "Published"
	// ReasonPublishing says that it is being pushed.
	ReasonPublishing = "Publishing"
	// ReasonNoArtifact says that there is none yet.
	ReasonNoArtifact = "NoArtifact"
)

// Reasons of an ExpertVector's condition Stored.
const (
	// ReasonMissed says that pods do not find the artifact, but not for long yet.
	ReasonMissed = "Missed"
	// ReasonRenewing says that its run goes on again for that.
	ReasonRenewing = "Renewing"
	// ReasonRenewed says that it has been made again, and that no pod has found it yet.
	ReasonRenewed = "Renewed"
	// ReasonFound says that pods find it.
	ReasonFound = "Found"
	// ReasonExpertLost says that pods do not find it though it has been made again. A
	// policy whose pods do not find an expert is not Ready for this reason.
	ReasonExpertLost = "ExpertLost"
)

// Condition reasons of an AdaptivePolicy.
const (
	// ReasonAnswering says that a pod answers requests: of the condition Available.
	ReasonAnswering = "Answering"
	// ReasonNoPodAnswers says that none does.
	ReasonNoPodAnswers = "NoPodAnswers"
	// ReasonContextTooLong says that spec.serving.contextLength is above what the
	// model was made for.
	ReasonContextTooLong = "ContextTooLong"
	// ReasonSearching says that weights of the experts are being searched. Those of before
	// are served, or the base.
	ReasonSearching = "Searching"
	// ReasonServing says that every replica serves the expected expert set.
	ReasonServing = "Serving"
	// ReasonScaledToZero says that no replica is asked for.
	ReasonScaledToZero = "ScaledToZero"
	// ReasonExpertNotFound says that a named ExpertVector is not there.
	ReasonExpertNotFound = "ExpertNotFound"
	// ReasonExpertsNotReady says that an ExpertVector is not Ready.
	ReasonExpertsNotReady = "ExpertsNotReady"
	// ReasonExpertOfAnotherBase says that a named ExpertVector belongs to another
	// BaseModel.
	ReasonExpertOfAnotherBase = "ExpertOfAnotherBaseModel"
	// ReasonDuplicateSkill says that two experts have the same skill, so that
	// pass 1 could not tell them apart.
	ReasonDuplicateSkill = "DuplicateSkill"
	// ReasonMixedActivations says that experts act on prompts and answers, and another
	// one on answers alone.
	ReasonMixedActivations = "MixedActivations"
	// ReasonFallbackNotFound says that spec.strategy.fallback names no expert of the policy.
	ReasonFallbackNotFound = "FallbackNotFound"
	// ReasonBaseChanged says that the BaseModel has new digests: the previous
	// ones are served until every expert fits the new ones.
	ReasonBaseChanged = "BaseModelChanged"
	// ReasonRollingOut says that pods are starting or being replaced.
	ReasonRollingOut = "RollingOut"
	// ReasonLoadingExperts says that a pod does not report the expected expert
	// set yet.
	ReasonLoadingExperts = "LoadingExperts"
	// ReasonExpertSetRefused says that a pod refused the expert set.
	ReasonExpertSetRefused = "ExpertSetRefused"
)

// Condition reasons of a policy whose spec.rollout evaluates expert sets: of RolledOut, and,
// but for ReasonPromoted, of Ready.
const (
	// ReasonEvaluating says that the set is evaluated. The stable one serves.
	ReasonEvaluating = "Evaluating"
	// ReasonEvaluated says that it was, and that it begins to serve.
	ReasonEvaluated = "Evaluated"
	// ReasonPromoted says that it serves: it passed the gate, or served before there was one.
	ReasonPromoted = "Promoted"
	// ReasonEvaluationFailed says that the gate does not let it serve. The stable one
	// serves on.
	ReasonEvaluationFailed = "EvaluationFailed"
	// ReasonAwaitingExperts says that the set is not evaluated yet, since experts are not
	// as they are to be: Ready says what is awaited.
	ReasonAwaitingExperts = "AwaitingExperts"
)

// Condition reasons of a policy whose spec.rollout tries expert sets beside the one that
// serves: of RolledOut and of Ready.
const (
	// ReasonObserving says that the set chooses beside the stable one, which answers.
	ReasonObserving = "Observing"
	// ReasonCanary says that the set answers a share of the conversations.
	ReasonCanary = "Canary"
	// ReasonCanaryAborted says that it was withdrawn, as too many of its requests have
	// failed. The stable one serves on.
	ReasonCanaryAborted = "CanaryAborted"
	// ReasonCandidateRefused says that a pod could not load the set beside the stable one,
	// which serves on.
	ReasonCandidateRefused = "CandidateRefused"
)

// ReasonEqualShape says that experts of another base are served since their matrices have
// the shapes of this one's: of the condition ExpertsTransferred, which else has
// ReasonLoadingExperts or ReasonExpertSetRefused.
const ReasonEqualShape = "EqualShape"

// Reasons of an AdaptivePolicy's condition ClassifierCurrent.
const (
	// ReasonCurrent says that the classifier was trained for the policy's skills.
	ReasonCurrent = "Current"
	// ReasonClassifierStale says that it was trained for others. A policy that trains
	// its classifier itself is not Ready for this reason until that is done.
	ReasonClassifierStale = "ClassifierStale"
	// ReasonClassifierUnknown says that it is not known what it was trained for.
	ReasonClassifierUnknown = "ClassifierUnknown"
	// ReasonClassifierNotReady says that it is not there yet, or cannot be served:
	// pass 1 runs with the base weights. A policy is not Ready for this reason.
	ReasonClassifierNotReady = "ClassifierNotReady"
)

// Condition reasons of a policy about its probe: of the condition ProbeCurrent, which else
// has ReasonCurrent, and of Ready.
const (
	// ReasonFitting says that a probe is being fitted. The one before is served, or the
	// base is asked.
	ReasonFitting = "Fitting"
	// ReasonProbeStale says that the probe that is served was fitted to other experts,
	// or other data, than the policy has.
	ReasonProbeStale = "ProbeStale"
	// ReasonProbeNotReady says that there is none that can be served: the base is asked.
	ReasonProbeNotReady = "ProbeNotReady"
	// ReasonProbeLost says that a pod does not find the probe in the volume.
	ReasonProbeLost = "ProbeLost"
	// ReasonProbeUnfittable says that less than two of the policy's skills have training
	// prompts, so that there is nothing to tell apart.
	ReasonProbeUnfittable = "ProbeUnfittable"
)

// Condition reasons of a policy about its classifier, and of one that serves a
// dispatcher as if it were an expert.
const (
	// ReasonNoDispatcher says that spec.strategy.classifier.expertRef names an
	// ExpertVector that is none.
	ReasonNoDispatcher = "NoDispatcher"
	// ReasonDispatcher says that spec.experts names one that is.
	ReasonDispatcher = "Dispatcher"
	// ReasonClassifierUntrainable says that less than two of the policy's skills have
	// training prompts, so that there is nothing to learn.
	ReasonClassifierUntrainable = "ClassifierUntrainable"
)

// ReasonDecompositionMismatch says that an expert scales another decomposition
// than the BaseModel has. The runtime uses the same word.
const ReasonDecompositionMismatch = "DecompositionMismatch"
