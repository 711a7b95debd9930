// Package contract is all that the operator and the runtime share: environment
// names, ports, HTTP paths and bodies, the layout of a volume, and the JSON
// that Jobs read and write.
//
// The operator compiles against this package and nothing else of the runtime;
// the runtime compiles against this package and nothing of Kubernetes. A field
// added here is added for both sides in one commit. It needs the standard
// library only.
package contract

import "strings"

// EnvSpec names the environment variable that carries a subcommand's JSON
// specification (FetchSpec, DecomposeSpec, TrainSpec, AdaptSpec, ServeSpec) into a pod. On
// a command line the same JSON is read from the file given by --spec.
const EnvSpec = "T2_SPEC"

// EnvAdminToken names the environment variable that carries the bearer token
// that must be presented to change a server's expert set. A pod has it in a file
// instead, MountAdmin/AdminTokenKey, so that it can be exchanged.
const EnvAdminToken = "T2_ADMIN_TOKEN" //nolint:gosec // The name of a variable, not a credential.

// EnvSourceToken names the environment variable that carries a bearer token
// for the HTTP source of a fetch; it is set from the user's Secret.
const EnvSourceToken = "T2_SOURCE_TOKEN" //nolint:gosec // The name of a variable, not a credential.

// Environment variables with the other credentials of sources: S3's keys under the names
// that every client of it knows, and the content of a Docker config.json.
const (
	EnvS3AccessKey    = "AWS_ACCESS_KEY_ID"
	EnvS3SecretKey    = "AWS_SECRET_ACCESS_KEY" //nolint:gosec // The name of a variable, not a credential.
	EnvS3SessionToken = "AWS_SESSION_TOKEN"     //nolint:gosec // So is this.
	// EnvS3Ambient, where it is set, takes keys from where the process runs: a web identity
	// token, or the metadata service of a machine or a container.
	EnvS3Ambient    = "T2_SOURCE_S3_AMBIENT"
	EnvDockerConfig = "T2_SOURCE_DOCKERCONFIG"
)

// CredentialsEnv is the name of a variable with a credential, where there are several of
// its kind: that of a DatasetSpec's Credentials.
func CredentialsEnv(variable, credentials string) string {
	if credentials == "" {
		return variable
	}
	return variable + "_" + strings.ToUpper(strings.ReplaceAll(credentials, "-", "_"))
}

// EnvJudge names the environment variable with the unix socket of a judge that
// runs programs for the reward UnitTests. Without it, they run in confined
// processes of the runtime's own.
const EnvJudge = "T2_JUDGE"

// EnvTerminationLog overrides where a Job writes its Termination.
const EnvTerminationLog = "T2_TERMINATION_LOG"

// DefaultTerminationLog is Kubernetes' default terminationMessagePath.
const DefaultTerminationLog = "/dev/termination-log"

// MaxTerminationBytes is the size to which the kubelet truncates a termination
// message; a Termination is kept below it so that it always parses.
const MaxTerminationBytes = 4096

// Ports of a runtime pod.
const (
	// PortAPI serves the OpenAI-compatible API of `t2 serve`.
	PortAPI = 8000
	// PortAdmin serves health, readiness, metrics, progress and the expert set,
	// in serving pods as well as in Jobs.
	PortAdmin = 8081
)

// HTTP paths on PortAdmin.
const (
	// PathHealth answers 200 while the process works.
	PathHealth = "/healthz"
	// PathReady answers 200 when the pod may receive requests.
	PathReady = "/readyz"
	// PathMetrics serves Prometheus metrics.
	PathMetrics = "/metrics"
	// PathProgress serves a Progress (Jobs only). See PathCurve, too.
	PathProgress = "/progress"
	// PathExpertSet takes an ExpertSet by PUT (bearer token) and answers at once
	// with a ServingStatus: 200 if the set is served, 202 if it is recorded and will
	// be loaded, 422 if it makes no sense. GET answers with the ServingStatus alone.
	PathExpertSet = "/experts"
)

// HTTP paths on PortAPI, as OpenAI names them.
const (
	PathChatCompletions = "/v1/chat/completions"
	PathCompletions     = "/v1/completions"
	// PathResponses keeps nothing: its stateless part.
	PathResponses = "/v1/responses"
	PathModels    = "/v1/models"
	// PathExplain, ours, takes the body of one of the three that answer, and answers with
	// an Explanation.
	PathExplain = "/v1/adaptation:explain"
)

// Layout of the volume that belongs to one BaseModel, and of a pod.
const (
	// MountData is where a pod mounts the BaseModel's volume.
	MountData = "/data"
	// MountSource is where a fetch pod mounts a source PersistentVolumeClaim
	// (read-only).
	MountSource = "/source"
	// MountModel is where pods that read a model mount its artifact where that is not copied
	// to the volume (read-only; FetchSpec.Mounted).
	MountModel = "/etc/t2/model"
	// MountDataset is where a train pod mounts its data sets (read-only), one
	// folder each: train, validation.
	MountDataset = "/dataset"
	// MountExperts is where a serving pod mounts the ConfigMap whose key
	// ExpertSetKey holds its ExpertSet.
	MountExperts = "/etc/t2/experts"
	// MountJudge is the folder that a train pod and its judge share, JudgeSocket
	// the socket in it.
	MountJudge  = "/run/judge"
	JudgeSocket = MountJudge + "/judge.sock"
	// MountTransfer is where pods that serve or search mount the volumes of other base
	// models whose experts are transferred (read-only), a folder each by their names.
	MountTransfer = "/etc/t2/transfer"
	// ExpertSetKey is that key.
	ExpertSetKey = "set.json"
	// MountAdmin is where a serving pod mounts the Secret whose key AdminTokenKey
	// holds the token of PathExpertSet. It is read at each request.
	MountAdmin = "/etc/t2/admin"
	// AdminTokenKey is that key.
	AdminTokenKey = "token"
	// AdminCertKey and AdminPrivateKey are the keys of the certificate and the private key
	// that PortAdmin is served with (PEM), AdminTrustKey that of the certificates that who
	// asks may trust. They are there where ServeSpec.AdminTLS is, and read at each handshake.
	AdminCertKey    = "tls.crt"
	AdminPrivateKey = "tls.key"
	AdminTrustKey   = "ca.crt"

	// DirModels, DirDecompositions, DirExperts, DirProbes and DirEvaluations hold content-addressed
	// artifacts, one folder each, named by DigestDir. DirRuns holds the
	// checkpoints of training runs, one folder per run, and DirShared the weights that
	// trainings on one machine map together: a cache, which may be removed at any time.
	DirModels         = "models"
	DirDecompositions = "decompositions"
	DirExperts        = "experts"
	DirProbes         = "probes"
	DirEvaluations    = "evaluations"
	DirRuns           = "runs"
	DirShared         = "shared"
	// SharedUsedFile, in each set of DirShared, is locked by those who use the set.
	SharedUsedFile = ".used"
	// DirCollecting holds what a collection is about to remove.
	DirCollecting = ".collecting"

	// FlagSharedBase names the folder of shared weights to the runtime.
	FlagSharedBase = "shared-base"
)
