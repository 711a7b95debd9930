package contract

// FetchSpec tells `t2 fetch` where a model is and where it goes. The source is a folder
// in Hugging Face layout, or an archive of one.
type FetchSpec struct {
	Source
	// Digest, when set, is what the fetched model's digest must be.
	Digest string `json:"digest,omitempty"`
	// DataDir is the root under which DirModels lies.
	DataDir string `json:"dataDir"`
	// Verify, when set, is whose signature the source must have.
	Verify *Verification `json:"verify,omitempty"`
	// Mounted is where the source, an artifact of OCI, is mounted already: MountModel. Its
	// manifest alone is asked for then, and the volume gets nothing but ModelManifest.
	Mounted string `json:"mounted,omitempty"`
}

// Source is where a model or an expert comes from: exactly one member is set. A
// credential is never among them: it comes by the environment.
type Source struct {
	HTTP *HTTPSource `json:"http,omitempty"`
	// Path is a file or folder, such as MountSource/llama.
	Path        string     `json:"path,omitempty"`
	HuggingFace *HubSource `json:"huggingFace,omitempty"`
	S3          *S3Source  `json:"s3,omitempty"`
	OCI         *OCISource `json:"oci,omitempty"`
}

// HTTPSource is an http(s) address: of a .tar, .tar.gz or .tgz archive of a
// folder, of such a folder itself (its files are then asked for by name), or of an
// expert's file. A token comes by EnvSourceToken.
type HTTPSource struct {
	URL string `json:"url"`
}

// HubSource is a folder of a model repository of a Hugging Face hub. A token comes by
// EnvSourceToken.
type HubSource struct {
	Repo string `json:"repo"`
	// Revision is a branch, tag or commit; empty means DefaultHubRevision.
	Revision string `json:"revision,omitempty"`
	// Path is a folder in the repository, or an expert's file; empty means its root.
	Path string `json:"path,omitempty"`
	// Endpoint is the hub's address; empty means DefaultHubEndpoint.
	Endpoint string `json:"endpoint,omitempty"`
}

// What a HubSource means that does not say it.
const (
	DefaultHubRevision = "main"
	DefaultHubEndpoint = "https://huggingface.co"
)

// S3Source is a folder of a bucket, or an archive of one or an expert's file in it. Keys
// come by EnvS3AccessKey, EnvS3SecretKey and EnvS3SessionToken, or as EnvS3Ambient says.
type S3Source struct {
	// Endpoint is an http or https address; empty means AWS.
	Endpoint string `json:"endpoint,omitempty"`
	Region   string `json:"region,omitempty"`
	Bucket   string `json:"bucket"`
	Prefix   string `json:"prefix,omitempty"`
}

// OCISource is an artifact in an OCI registry. A Docker configuration with credentials
// comes by EnvDockerConfig.
type OCISource struct {
	// Reference is registry/repository with a tag, a digest or both.
	Reference string `json:"reference"`
	// Insecure speaks http instead of https.
	Insecure bool `json:"insecure,omitempty"`
}

// DecomposeSpec tells `t2 decompose` which matrices of which model to factor.
type DecomposeSpec struct {
	// BaseDigest is that of the model under DataDir. Empty means the one that the
	// fetch before it recorded in DataDir (see FetchedFile).
	BaseDigest string `json:"baseDigest,omitempty"`
	// Modules are the projections to factor, of those that the model's family has,
	// such as q_proj.
	Modules []string `json:"modules"`
	// DType in which factors are stored: DTypeF32 or DTypeBF16.
	DType   string `json:"dtype"`
	DataDir string `json:"dataDir"`
	// Backend computes: BackendCPU, which empty means, or BackendCUDA.
	Backend string `json:"backend,omitempty"`
}

// Backends, by the names that every specification and --backend use.
const (
	BackendCPU  = "cpu"
	BackendCUDA = "cuda"
)

// FetchedFile is the name of the file in the pod's scratch volume MountScratch
// through which fetch (an init container) hands its Termination to decompose,
// which merges both into the pod's one result.
const FetchedFile = "fetched.json"

// MountScratch is an emptyDir shared by the containers of one pod.
const MountScratch = "/scratch"

// Number formats, as every dtype names them.
const (
	DTypeF32  = "F32"
	DTypeBF16 = "BF16"
	DTypeInt8 = "Int8"
)

// Data set formats.
const (
	FormatGSM8K     = "GSM8K"
	FormatMBPP      = "MBPP"
	FormatHumanEval = "HumanEval"
	FormatARC       = "ARC"
	FormatMATH      = "MATH"
	FormatChat      = "Chat"
	FormatPairs     = "Pairs"
	// FormatSkills is no format of a file: see DatasetSpec.Skills.
	FormatSkills = "Skills"
)

// Rewards.
const (
	RewardExactMatch     = "ExactMatch"
	RewardNumeric        = "Numeric"
	RewardMultipleChoice = "MultipleChoice"
	RewardMath           = "Math"
	RewardUnitTests      = "UnitTests"
)

// DatasetSpec is one file of JSON objects, one a line or in one array, and how
// to read it. It may be compressed by gzip.
type DatasetSpec struct {
	// Name is what messages call the data set, such as "ConfigMap math, key
	// train.jsonl"; empty means its path or address. It has no part in what a run
	// is, nor in its RunID.
	Name string `json:"name,omitempty"`
	// Exactly one of Path, URL, HuggingFace, S3, OCI and Skills is set; Skills with
	// FormatSkills. All but Skills are of one file, of a hub in a repository of data sets.
	Path        string      `json:"path,omitempty"`
	URL         string      `json:"url,omitempty"`
	HuggingFace *HubSource  `json:"huggingFace,omitempty"`
	S3          *S3Source   `json:"s3,omitempty"`
	OCI         *OCISource  `json:"oci,omitempty"`
	Skills      *SkillsSpec `json:"skills,omitempty"`
	// Credentials, when set, says which variables of the environment have those of the
	// source: CredentialsEnv of their usual names. It has no part in what a run is.
	Credentials string `json:"credentials,omitempty"`
	// Digest, when set, is the SHA-256 that the file must have.
	Digest string `json:"digest,omitempty"`
	Format string `json:"format"`
	// PromptTemplate turns a record into the user's message: {question},
	// {choices} and {tests} are replaced. Empty means the format's default.
	PromptTemplate string `json:"promptTemplate,omitempty"`
	// Limit bounds the number of records used; 0 means all.
	Limit int `json:"limit,omitempty"`
}

// Source is where the data set comes from; empty for Skills.
func (d DatasetSpec) Source() Source {
	s := Source{Path: d.Path, HuggingFace: d.HuggingFace, S3: d.S3, OCI: d.OCI}
	if d.URL != "" {
		s.HTTP = &HTTPSource{URL: d.URL}
	}
	return s
}

// Placeless is the data set without where it is and what it is called, which have no part
// in what is made of it.
func (d DatasetSpec) Placeless() DatasetSpec {
	d.Name, d.Path, d.URL, d.HuggingFace, d.S3, d.OCI, d.Credentials = "", "", "", nil, nil, nil, ""
	return d
}

// TrainSpec tells `t2 train` everything about one run.
type TrainSpec struct {
	// Name of the ExpertVector, for logs and the learning-curve picture.
	Name  string `json:"name"`
	Skill string `json:"skill"`
	// RunID names the folder under DirRuns that holds this run's checkpoints;
	// the operator derives it from the object and the digest of the run's spec.
	RunID               string      `json:"runID"`
	DataDir             string      `json:"dataDir"`
	BaseDigest          string      `json:"baseDigest"`
	DecompositionDigest string      `json:"decompositionDigest"`
	Modules             []string    `json:"modules,omitempty"` // subset of the decomposition's; empty means all
	Objective           string      `json:"objective"`         // Reinforce, NextToken or Evolution
	Train               DatasetSpec `json:"train"`
	Validation          DatasetSpec `json:"validation"`
	Reward              string      `json:"reward"`
	Hyperparameters     Hyper       `json:"hyperparameters"`
	// Backend computes: BackendCPU, which empty means, or BackendCUDA. It has no part
	// in what a run is: one that goes on may do so on another.
	Backend string `json:"backend,omitempty"`
}

// Values of Hyper's enumerations.
const (
	ParameterizationSigmoid = "Sigmoid"
	ParameterizationDirect  = "Direct"
	RolloutGreedy           = "Greedy"
	RolloutSample           = "Sample"
	BaselineNone            = "None"
	BaselineMean            = "Mean"
	BaselineGroup           = "Group"
	ObjectiveReinforce      = "Reinforce"
	ObjectiveNextToken      = "NextToken"
	ObjectiveEvolution      = "Evolution"
	MethodSVF               = "SVF"
	MethodLoRA              = "LoRA"
	MethodDoRA              = "DoRA"
	MethodIA3               = "IA3"
)

// Hyper holds a run's hyperparameters; DefaultHyper has the paper's values.
type Hyper struct {
	Parameterization string `json:"parameterization"`
	// Iterations is the number of optimiser steps, or of generations, at most: a
	// validation score of 1 ends the run, since none is better and the earliest of equals
	// is kept.
	Iterations   int     `json:"iterations"`
	BatchSize    int     `json:"batchSize"`
	LearningRate float64 `json:"learningRate"`
	// MaxGradNorm clips the global gradient norm.
	MaxGradNorm float64 `json:"maxGradNorm"`
	// KLWeight is λ of λ·KL(π'‖π). With 0 the base model need not be asked, and
	// the divergence is measured only in iterations that end with a validation.
	KLWeight    float64 `json:"klWeight"`
	Rollout     string  `json:"rollout"`
	Temperature float64 `json:"temperature"` // of Sample rollouts
	Baseline    string  `json:"baseline"`
	// MaxNewTokens bounds an answer.
	MaxNewTokens int `json:"maxNewTokens"`
	// ValidationInterval and CheckpointInterval are in iterations.
	ValidationInterval int `json:"validationInterval"`
	CheckpointInterval int `json:"checkpointInterval"`
	// Patience ends the run after that many validations without a better
	// score; 0 never does.
	Patience int    `json:"patience"`
	Seed     uint64 `json:"seed"`
	// DType is what matrices are kept as while an expert is trained: DTypeF32, which
	// empty means, or DTypeBF16, which trains faster and rounds; of ObjectiveEvolution,
	// which needs no gradients, also DTypeInt8. z and its optimiser are float32 always.
	DType string `json:"dtype,omitempty"`
	// Method is what is trained; empty means MethodSVF. Rank and Alpha are of MethodLoRA
	// and MethodDoRA: W + Alpha/Rank·B·A.
	Method string  `json:"method,omitempty"`
	Rank   int     `json:"rank,omitempty"`
	Alpha  float64 `json:"alpha,omitempty"`
	// Activation is what the expert acts on: ActivationPrompt, which empty means, or
	// ActivationAnswer. Then the base reads prompts, in training and validation, too.
	Activation string `json:"activation,omitempty"`
	// GroupSize is how many answers each question gets, of BaselineGroup.
	GroupSize int `json:"groupSize,omitempty"`
	// Population is the number of candidates in a generation of ObjectiveEvolution,
	// Sigma the standard deviation of each number in the first one, and TruncatedRank how
	// many leading singular values of each matrix are searched; 0 is all.
	Population    int     `json:"population,omitempty"`
	Sigma         float64 `json:"sigma,omitempty"`
	TruncatedRank int     `json:"truncatedRank,omitempty"`
}

// DefaultHyper returns the hyperparameters of the paper (section 4 and
// appendix A) and of its reference implementation.
func DefaultHyper() Hyper {
	return Hyper{
		Parameterization: ParameterizationSigmoid, Iterations: 200, BatchSize: 256,
		LearningRate: 2e-3, MaxGradNorm: 1e-3, KLWeight: 0.1,
		Rollout: RolloutGreedy, Temperature: 1, Baseline: BaselineNone,
		MaxNewTokens: 512, ValidationInterval: 10, CheckpointInterval: 10, Patience: 0, Seed: 0,
		DType: DTypeF32,
	}
}

// Progress is what a Job answers on PathProgress while it runs.
type Progress struct {
	// Phase is a word: Fetching, Verifying, Publishing, Decomposing, Exporting, Baseline,
	// Training, Validating, Searching, Evaluating, Saving.
	Phase string `json:"phase"`
	// Done of Total units (bytes, matrices or iterations, by Phase).
	Done  int64 `json:"done"`
	Total int64 `json:"total"`
	// EstimatedRemainingSeconds is negative while unknown.
	EstimatedRemainingSeconds int64           `json:"estimatedRemainingSeconds"`
	Training                  *TrainProgress  `json:"training,omitempty"`
	Search                    *SearchProgress `json:"search,omitempty"`
	// Device is what computes, in the backend's words; empty before it is opened.
	Device string `json:"device,omitempty"`
}

// TrainProgress is the part of Progress that only training has.
type TrainProgress struct {
	Iteration  int     `json:"iteration"`
	Iterations int     `json:"iterations"`
	Reward     float64 `json:"reward"` // mean of the last batch, −1 to 1
	// KL is the mean per token of the last batch that it was measured of; what is
	// not known yet is negative.
	KL float64 `json:"kl"`
	// Scores are 0 to 1; a score not known yet is negative.
	ValidationScore float64 `json:"validationScore"`
	BestScore       float64 `json:"bestScore"`
	BaselineScore   float64 `json:"baselineScore"`
}

// Termination is the JSON a Job leaves as its termination message. Reason and
// Message are empty on success.
type Termination struct {
	Reason  string `json:"reason,omitempty"`
	Message string `json:"message,omitempty"`
	// Permanent says that trying again cannot help until somebody changes the
	// object or its inputs.
	Permanent     bool                   `json:"permanent,omitempty"`
	Model         *ModelResult           `json:"model,omitempty"`
	Decomposition *DecompositionManifest `json:"decomposition,omitempty"` // without Files
	Expert        *ExpertResult          `json:"expert,omitempty"`
	FewShot       *FewShotResult         `json:"fewShot,omitempty"`
	Probe         *ProbeResult           `json:"probe,omitempty"`
	Collect       *CollectResult         `json:"collect,omitempty"`
	Evaluation    *EvaluationResult      `json:"evaluation,omitempty"`
	// Device is what computed, in the backend's words, such as "cpu (avx512, 2
	// threads)"; empty where nothing did.
	Device string `json:"device,omitempty"`
}

// ModelResult is what a fetch found.
type ModelResult struct {
	Digest       string       `json:"digest"`
	SizeBytes    int64        `json:"sizeBytes"`
	FileCount    int          `json:"fileCount"`
	Architecture Architecture `json:"architecture"`
	// Revision is what the source had at the time, in its own words: a commit of a hub, a
	// manifest's digest in a registry. Empty where a source has none, and where the model
	// was there already.
	Revision string `json:"revision,omitempty"`
	// Verified is whose signature it has, where one was asked for.
	Verified *Verified `json:"verified,omitempty"`
}

// ExpertResult is what a training or import produced.
type ExpertResult struct {
	Digest              string         `json:"digest"`
	SizeBytes           int64          `json:"sizeBytes"`
	BaseDigest          string         `json:"baseDigest"`
	DecompositionDigest string         `json:"decompositionDigest"`
	Training            *TrainProgress `json:"training,omitempty"`
	// Pass1Digest is as in ExpertManifest.
	Pass1Digest string `json:"pass1Digest,omitempty"`
	// Activation is as in ExpertManifest.
	Activation string `json:"activation,omitempty"`
	// Artifact is the digest of what was published of it in a registry, and Evaluation
	// that of the manifest which refers to it and has its evaluation.
	Artifact   string `json:"artifact,omitempty"`
	Evaluation string `json:"evaluation,omitempty"`
	// Verified is whose signature an import has, where one was asked for.
	Verified *Verified `json:"verified,omitempty"`
}

// ImportSpec tells `t2 import` where an expert file is. It must scale the
// decomposition that DecompositionDigest names.
type ImportSpec struct {
	Source
	// Digest is that of the expert, or the SHA-256 of its one file; required.
	Digest              string `json:"digest"`
	DataDir             string `json:"dataDir"`
	BaseDigest          string `json:"baseDigest"`
	DecompositionDigest string `json:"decompositionDigest"`
	// Skill is what an expert is called whose file does not say it: one of the
	// paper's reference implementation, or an adapter in PEFT's format.
	Skill string `json:"skill,omitempty"`
	// Verify, when set, is whose signature the source must have.
	Verify *Verification `json:"verify,omitempty"`
}

// PublishSpec tells `t2 publish` which expert of a volume goes where.
type PublishSpec struct {
	// Digest is that of the expert under DataDir.
	Digest  string `json:"digest"`
	DataDir string `json:"dataDir"`
	// To has registry/repository:tag. Credentials come by EnvDockerConfig.
	To OCISource `json:"to"`
}

// Reasons in a Termination; the operator uses them as condition reasons.
const (
	ReasonUsage                 = "InvalidSpec"             // permanent
	ReasonDigestMismatch        = "DigestMismatch"          // permanent
	ReasonInvalidModel          = "InvalidModel"            // permanent: hostile, truncated or unsupported files
	ReasonUnsupported           = "UnsupportedArchitecture" // permanent
	ReasonInvalidDataset        = "InvalidDataset"          // permanent
	ReasonInvalidExpert         = "InvalidExpert"           // permanent
	ReasonDecompositionMismatch = "DecompositionMismatch"   // permanent
	ReasonSourceUnreachable     = "SourceUnreachable"       // retried
	ReasonSourceNotFound        = "SourceNotFound"          // retried
	ReasonUnauthorized          = "Unauthorized"            // permanent
	ReasonSignatureMissing      = "SignatureMissing"        // permanent: nobody signed what must be signed
	ReasonNotMountable          = "NotMountable"            // permanent: a container runtime would mount an artifact of this form as an empty folder
	ReasonSignatureInvalid      = "SignatureInvalid"        // permanent: it is not what was signed, or by another key
	ReasonTagImmutable          = "TagImmutable"            // permanent: a registry keeps a tag on what it names
	ReasonDiskFull              = "DiskFull"                // retried
	ReasonDiskReadOnly          = "DiskReadOnly"            // retried: nothing can be written there
	ReasonInterrupted           = "Interrupted"             // retried: SIGTERM, after a checkpoint
	ReasonDiverged              = "TrainingDiverged"        // permanent: NaN or infinite loss
	ReasonJudgeUnavailable      = "JudgeUnavailable"        // retried: nothing runs programs
	ReasonNoDevice              = "NoDevice"                // retried: another node may have one
	ReasonDeviceMemory          = "DeviceMemory"            // permanent: it does not fit into the device's memory
	ReasonHostMemory            = "HostMemory"              // permanent: it does not fit into the memory that the pod may have
	ReasonDeviceUnsupported     = "DeviceUnsupported"       // permanent: the device or its driver is too old
	ReasonInternal              = "RuntimeError"            // retried
)

// Exit statuses of `t2`.
const (
	ExitOK     = 0
	ExitFailed = 1
	ExitUsage  = 2
	// ExitPermanent ends a Job whose Termination is Permanent: the pod failure
	// policy fails the Job at once. It is used only where a specification came
	// by EnvSpec; a person at a terminal sees ExitFailed.
	ExitPermanent = 42
	// ExitInterrupted ends a Job that SIGTERM interrupted after a checkpoint;
	// the pod failure policy does not count it.
	ExitInterrupted = 43
)
