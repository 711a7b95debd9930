package envtest

import (
	"reflect"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/controllers/desired"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/test/fields"
)

// needs is what must come before an object is Ready after a change of its
// specification.
type needs int

const (
	// nothing has to be done: Ready is true at once.
	nothing needs = iota
	// newRun needs another Job to succeed.
	newRun
	// newSet needs the pods that run to load another expert set.
	newSet
	// newPods needs other pods.
	newPods
	// scale needs another number of pods.
	scale
	// growth needs a larger volume.
	growth
	// refused is not taken by the API server.
	refused
	// single has one value only, which cannot be changed.
	single
)

// row is a change of one field.
type row[T client.Object] struct {
	field  string
	needs  needs
	change func(T)
}

type (
	baseRow   = row[*v1alpha1.BaseModel]
	expertRow = row[*v1alpha1.ExpertVector]
	policyRow = row[*v1alpha1.AdaptivePolicy]
)

func limits(memory string) *corev1.ResourceRequirements {
	return &corev1.ResourceRequirements{Limits: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse(memory)}}
}

// baseRows are made one after the other of one BaseModel, which begins as
// world.base makes it, with a volume of 1Gi that can grow.
var baseRows = slices.Concat([]baseRow{
	{"source.persistentVolumeClaim.claimName", newRun, func(b *v1alpha1.BaseModel) { b.Spec.Source.PersistentVolumeClaim.ClaimName = "others" }},
	{"source.persistentVolumeClaim.path", newRun, func(b *v1alpha1.BaseModel) { b.Spec.Source.PersistentVolumeClaim.Path = "another" }},
	{"source.digest", newRun, func(b *v1alpha1.BaseModel) { b.Spec.Source.Digest = v1alpha1.Digest(digest("a")) }},
	{"source.http.url", newRun, func(b *v1alpha1.BaseModel) {
		b.Spec.Source = v1alpha1.ModelSource{HTTP: &v1alpha1.HTTPSource{URL: "https://example.org/model.tgz"}}
	}},
}, remoteRows("source", func(b *v1alpha1.BaseModel) remote {
	s := &b.Spec.Source
	return remote{&s.HTTP, &s.HuggingFace, &s.S3, &s.OCI}
}), verifyRows("source.verify", func(b *v1alpha1.BaseModel) **v1alpha1.SourceVerification { return &b.Spec.Source.Verify }), []baseRow{
	{"source.delivery", newRun, func(b *v1alpha1.BaseModel) {
		b.Spec.Source = v1alpha1.ModelSource{
			OCI:      &v1alpha1.OCISource{Reference: "registry.example.org/tiny@" + digest("c")},
			Delivery: v1alpha1.DeliveryImageVolume,
		}
	}},
	{"decomposition.modules", newRun, func(b *v1alpha1.BaseModel) { b.Spec.Decomposition.Modules = []v1alpha1.Module{"up_proj", "down_proj"} }},
	{"decomposition.dtype", newRun, func(b *v1alpha1.BaseModel) { b.Spec.Decomposition.DType = v1alpha1.DTypeBF16 }},
	{"storage.size", growth, func(b *v1alpha1.BaseModel) { b.Spec.Storage.Size = new(resource.MustParse("2Gi")) }},
	{"storage.storageClassName", refused, func(b *v1alpha1.BaseModel) { b.Spec.Storage.StorageClassName = "other" }},
	{"storage.accessModes", refused, func(b *v1alpha1.BaseModel) {
		b.Spec.Storage.AccessModes = []v1alpha1.AccessMode{v1alpha1.AccessReadWriteMany}
	}},
	{"storage.collect", nothing, func(b *v1alpha1.BaseModel) { b.Spec.Storage.Collect = v1alpha1.CollectNever }},
	{"storage.existingClaim", refused, func(b *v1alpha1.BaseModel) { b.Spec.Storage = v1alpha1.StorageSpec{ExistingClaim: "mine"} }},
	{"runtime.image", nothing, func(b *v1alpha1.BaseModel) { b.Spec.Runtime.Image = "example.org/t2:2" }},
	{"runtime.imagePullPolicy", nothing, func(b *v1alpha1.BaseModel) { b.Spec.Runtime.ImagePullPolicy = corev1.PullAlways }},
	{"runtime.resources", nothing, func(b *v1alpha1.BaseModel) { b.Spec.Runtime.Resources = limits("1Gi") }},
	{"runtime.backend", nothing, func(b *v1alpha1.BaseModel) { b.Spec.Runtime.Backend = v1alpha1.BackendCUDA }},
	{"runtime.gpu.resourceName", nothing, func(b *v1alpha1.BaseModel) {
		b.Spec.Runtime.GPU = &v1alpha1.GPU{ResourceName: "nvidia.com/mig-3g.40gb"}
	}},
	{"runtime.gpu.resourceClaimTemplateName", nothing, func(b *v1alpha1.BaseModel) {
		b.Spec.Runtime.GPU = &v1alpha1.GPU{ResourceClaimTemplateName: "gpu"}
	}},
}, podTemplateRows("runtime", nothing, func(b *v1alpha1.BaseModel) **v1alpha1.PodTemplate { return &b.Spec.Runtime.PodTemplate }))

// podTemplateRows are the changes of a pod template, which begins as none.
func podTemplateRows[T client.Object](of string, needs needs, at func(T) **v1alpha1.PodTemplate) []row[T] {
	set := func(field string, change func(*v1alpha1.PodTemplate)) row[T] {
		return row[T]{of + ".podTemplate." + field, needs, func(o T) {
			if template := at(o); *template == nil {
				*template = &v1alpha1.PodTemplate{Metadata: &v1alpha1.PodMetadata{}, Spec: &v1alpha1.PodShape{}}
			}
			change(*at(o))
		}}
	}
	return []row[T]{
		set("metadata.labels", func(t *v1alpha1.PodTemplate) { t.Metadata.Labels = map[string]v1alpha1.LabelValue{"team": "demo"} }),
		set("metadata.annotations", func(t *v1alpha1.PodTemplate) { t.Metadata.Annotations = map[string]string{"note": "x"} }),
		set("spec.imagePullSecrets", func(t *v1alpha1.PodTemplate) {
			t.Spec.ImagePullSecrets = []corev1.LocalObjectReference{{Name: "registry"}}
		}),
		set("spec.serviceAccountName", func(t *v1alpha1.PodTemplate) { t.Spec.ServiceAccountName = "default" }),
		set("spec.affinity", func(t *v1alpha1.PodTemplate) {
			t.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{}}
		}),
		set("spec.topologySpreadConstraints", func(t *v1alpha1.PodTemplate) {
			t.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{
				MaxSkew: 1, TopologyKey: "zone", WhenUnsatisfiable: corev1.ScheduleAnyway, LabelSelector: &metav1.LabelSelector{},
			}}
		}),
		set("spec.priorityClassName", func(t *v1alpha1.PodTemplate) { t.Spec.PriorityClassName = "ordinary" }),
		set("spec.schedulerName", func(t *v1alpha1.PodTemplate) { t.Spec.SchedulerName = "batch" }),
		set("spec.nodeSelector", func(t *v1alpha1.PodTemplate) { t.Spec.NodeSelector = map[string]string{"disk": "fast"} }),
		set("spec.tolerations", func(t *v1alpha1.PodTemplate) {
			t.Spec.Tolerations = []corev1.Toleration{{Key: "gpu", Operator: corev1.TolerationOpExists}}
		}),
		set("spec.runtimeClassName", func(t *v1alpha1.PodTemplate) { t.Spec.RuntimeClassName = "sandboxed" }),
		set("spec.securityContext", func(t *v1alpha1.PodTemplate) {
			t.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsUser: new(int64(1234))}
		}),
		set("spec.env", func(t *v1alpha1.PodTemplate) { t.Spec.Env = []corev1.EnvVar{{Name: "NO_PROXY", Value: "*"}} }),
		set("spec.volumes[]", func(t *v1alpha1.PodTemplate) {
			t.Spec.Volumes = []v1alpha1.PodVolume{{Name: "roots", EmptyDir: &corev1.EmptyDirVolumeSource{}}}
		}),
		set("spec.volumeMounts[]", func(t *v1alpha1.PodTemplate) {
			t.Spec.VolumeMounts = []v1alpha1.PodVolumeMount{{Name: "roots", MountPath: "/roots"}}
		}),
	}
}

// remote are the services that a source may be at.
type remote struct {
	http *(*v1alpha1.HTTPSource)
	hub  *(*v1alpha1.HuggingFaceSource)
	s3   *(*v1alpha1.S3Source)
	oci  *(*v1alpha1.OCISource)
}

// remoteRows are the changes of a source that is an address before. Which credentials show
// who fetches makes nothing else of it.
func remoteRows[T client.Object](at string, of func(T) remote) []row[T] {
	set := func(field string, needs needs, change func(remote)) row[T] {
		return row[T]{at + "." + field, needs, func(o T) { change(of(o)) }}
	}
	return []row[T]{
		set("http.tokenSecretRef.name", nothing, func(r remote) { (*r.http).TokenSecretRef = &v1alpha1.SecretKeyRef{Name: "hub"} }),
		set("http.tokenSecretRef.key", nothing, func(r remote) { (*r.http).TokenSecretRef.Key = "other" }),
		set("huggingFace.repo", newRun, func(r remote) {
			*r.http, *r.hub = nil, &v1alpha1.HuggingFaceSource{Repo: "org/name", Path: "train.jsonl"}
		}),
		set("huggingFace.revision", newRun, func(r remote) { (*r.hub).Revision = "v1" }),
		set("huggingFace.path", newRun, func(r remote) { (*r.hub).Path = "other.jsonl" }),
		set("huggingFace.endpoint", newRun, func(r remote) { (*r.hub).Endpoint = "https://hub.example.org" }),
		set("huggingFace.tokenSecretRef.name", nothing, func(r remote) { (*r.hub).TokenSecretRef = &v1alpha1.SecretKeyRef{Name: "hub"} }),
		set("huggingFace.tokenSecretRef.key", nothing, func(r remote) { (*r.hub).TokenSecretRef.Key = "other" }),
		set("s3.bucket", newRun, func(r remote) { *r.hub, *r.s3 = nil, &v1alpha1.S3Source{Bucket: "sums", Prefix: "train.jsonl"} }),
		set("s3.prefix", newRun, func(r remote) { (*r.s3).Prefix = "other.jsonl" }),
		set("s3.region", newRun, func(r remote) { (*r.s3).Region = "eu-central-1" }),
		set("s3.endpoint", newRun, func(r remote) { (*r.s3).Endpoint = "https://s3.example.org" }),
		set("s3.secretRef.name", nothing, func(r remote) { (*r.s3).SecretRef = &v1alpha1.SecretRef{Name: "keys"} }),
		set("s3.ambient", nothing, func(r remote) { (*r.s3).SecretRef, (*r.s3).Ambient = nil, new(true) }),
		set("oci.reference", newRun, func(r remote) { *r.s3, *r.oci = nil, &v1alpha1.OCISource{Reference: "registry.example.org/sums:v1"} }),
		set("oci.insecure", newRun, func(r remote) { (*r.oci).Insecure = new(true) }),
		set("oci.pullSecretRef.name", nothing, func(r remote) { (*r.oci).PullSecretRef = &v1alpha1.SecretRef{Name: "pull"} }),
	}
}

// dataset are the changes of a data set, which begins as world.expert makes it.
func datasetRows[T client.Object](at string, of func(T) *v1alpha1.Dataset) []row[T] {
	set := func(field string, needs needs, change func(*v1alpha1.Dataset)) row[T] {
		return row[T]{at + "." + field, needs, func(o T) { change(of(o)) }}
	}
	return slices.Concat([]row[T]{
		set("configMap.name", newRun, func(d *v1alpha1.Dataset) { d.ConfigMap.Name = "more-sums" }),
		set("configMap.key", newRun, func(d *v1alpha1.Dataset) { d.ConfigMap.Key = "other.jsonl" }),
		set("format", newRun, func(d *v1alpha1.Dataset) { d.Format = v1alpha1.FormatPairs }),
		set("promptTemplate", newRun, func(d *v1alpha1.Dataset) { d.PromptTemplate = "Answer: {question}" }),
		set("limit", newRun, func(d *v1alpha1.Dataset) { d.Limit = 8 }),
		set("persistentVolumeClaim.claimName", newRun, func(d *v1alpha1.Dataset) {
			d.ConfigMap, d.PersistentVolumeClaim = nil, &v1alpha1.ClaimSource{ClaimName: "sums", Path: "train.jsonl"}
		}),
		set("persistentVolumeClaim.path", newRun, func(d *v1alpha1.Dataset) { d.PersistentVolumeClaim.Path = "other.jsonl" }),
		set("http.url", newRun, func(d *v1alpha1.Dataset) {
			d.PersistentVolumeClaim, d.HTTP = nil, &v1alpha1.HTTPSource{URL: "https://example.org/sums.jsonl"}
		}),
		set("digest", newRun, func(d *v1alpha1.Dataset) { d.Digest = v1alpha1.Digest(digest("5")) }),
	}, remoteRows(at, func(o T) remote { d := of(o); return remote{&d.HTTP, &d.HuggingFace, &d.S3, &d.OCI} }))
}

func inReinforce(change func(*v1alpha1.ReinforceObjective)) func(*v1alpha1.ExpertVector) {
	return func(e *v1alpha1.ExpertVector) {
		r := e.Spec.Training.Objective.Reinforce
		if r.Rollout == nil {
			r.Rollout = &v1alpha1.Rollout{}
		}
		change(r)
	}
}

func objective(o v1alpha1.Objective) func(*v1alpha1.ExpertVector) {
	return func(e *v1alpha1.ExpertVector) { e.Spec.Training.Objective = o }
}

func inEvolution(change func(*v1alpha1.EvolutionObjective)) func(*v1alpha1.ExpertVector) {
	return func(e *v1alpha1.ExpertVector) { change(e.Spec.Training.Objective.Evolution) }
}

func inOptimizer(change func(*v1alpha1.Optimizer)) func(*v1alpha1.ExpertVector) {
	return func(e *v1alpha1.ExpertVector) {
		if e.Spec.Training.Optimizer == nil {
			e.Spec.Training.Optimizer = &v1alpha1.Optimizer{}
		}
		change(e.Spec.Training.Optimizer)
	}
}

func inSchedule(change func(*v1alpha1.Schedule)) func(*v1alpha1.ExpertVector) {
	return func(e *v1alpha1.ExpertVector) {
		if e.Spec.Training.Schedule == nil {
			e.Spec.Training.Schedule = &v1alpha1.Schedule{}
		}
		change(e.Spec.Training.Schedule)
	}
}

// trainingRows are made one after the other of one ExpertVector, which begins as
// world.expert makes it.
var trainingRows = slices.Concat([]expertRow{
	{"baseModelRef.name", refused, func(e *v1alpha1.ExpertVector) { e.Spec.BaseModelRef.Name = "other" }},
	{"skill", nothing, func(e *v1alpha1.ExpertVector) { e.Spec.Skill = "arithmetic" }},
	{"description", nothing, func(e *v1alpha1.ExpertVector) { e.Spec.Description = "sums" }},
	{"training.method.svf.parameterization", newRun, func(e *v1alpha1.ExpertVector) {
		e.Spec.Training.Method.SVF = &v1alpha1.SVFMethod{Parameterization: v1alpha1.ParameterizationDirect}
	}},
	{"training.method.activation", newRun, func(e *v1alpha1.ExpertVector) { e.Spec.Training.Method.Activation = v1alpha1.ActivationAnswer }},
	{"training.objective.reinforce.reward", newRun, inReinforce(func(r *v1alpha1.ReinforceObjective) { r.Reward = v1alpha1.RewardExactMatch })},
	{"training.objective.reinforce.klWeight", newRun, inReinforce(func(r *v1alpha1.ReinforceObjective) { r.KLWeight = "0.2" })},
	{"training.objective.reinforce.baseline", newRun, inReinforce(func(r *v1alpha1.ReinforceObjective) { r.Baseline = "Mean" })},
	{"training.objective.reinforce.rollout.type", newRun, inReinforce(func(r *v1alpha1.ReinforceObjective) { r.Rollout.Type = "Sample" })},
	{"training.objective.reinforce.rollout.temperature", newRun, inReinforce(func(r *v1alpha1.ReinforceObjective) { r.Rollout.Temperature = "0.5" })},
	{"training.objective.reinforce.rollout.maxNewTokens", newRun, inReinforce(func(r *v1alpha1.ReinforceObjective) { r.Rollout.MaxNewTokens = 64 })},
	{"training.objective.reinforce.groupSize", newRun, inReinforce(func(r *v1alpha1.ReinforceObjective) { r.Baseline, r.GroupSize = v1alpha1.BaselineGroup, 4 })},
	{"training.optimizer.learningRate", newRun, inOptimizer(func(o *v1alpha1.Optimizer) { o.LearningRate = "0.01" })},
	{"training.optimizer.maxGradNorm", newRun, inOptimizer(func(o *v1alpha1.Optimizer) { o.MaxGradNorm = "1" })},
	{"training.schedule.iterations", newRun, inSchedule(func(s *v1alpha1.Schedule) { s.Iterations = 20 })},
	{"training.schedule.batchSize", newRun, inSchedule(func(s *v1alpha1.Schedule) { s.BatchSize = 8 })},
	{"training.schedule.validationInterval", newRun, inSchedule(func(s *v1alpha1.Schedule) { s.ValidationInterval = 5 })},
	{"training.schedule.checkpointInterval", newRun, inSchedule(func(s *v1alpha1.Schedule) { s.CheckpointInterval = 5 })},
	{"training.schedule.patience", newRun, inSchedule(func(s *v1alpha1.Schedule) { s.Patience = new(int32(2)) })},
	{"training.dtype", newRun, func(e *v1alpha1.ExpertVector) { e.Spec.Training.DType = v1alpha1.TrainingBF16 }},
	{"training.seed", newRun, func(e *v1alpha1.ExpertVector) { e.Spec.Training.Seed = new(int64(7)) }},
	{"training.modules", newRun, func(e *v1alpha1.ExpertVector) { e.Spec.Training.Modules = []v1alpha1.Module{"up_proj"} }},
	{"training.method.type", newRun, method(v1alpha1.Method{Type: v1alpha1.MethodLoRA})},
	{"training.method.lora.rank", newRun, method(v1alpha1.Method{Type: v1alpha1.MethodLoRA, LoRA: &v1alpha1.LowRankMethod{Rank: 4}})},
	{"training.method.lora.alpha", newRun, method(v1alpha1.Method{Type: v1alpha1.MethodLoRA, LoRA: &v1alpha1.LowRankMethod{Rank: 4, Alpha: "8"}})},
	{"training.method.dora.rank", newRun, method(v1alpha1.Method{Type: v1alpha1.MethodDoRA, DoRA: &v1alpha1.LowRankMethod{Rank: 4}})},
	{"training.method.dora.alpha", newRun, method(v1alpha1.Method{Type: v1alpha1.MethodDoRA, DoRA: &v1alpha1.LowRankMethod{Rank: 4, Alpha: "8"}})},
	{"training.objective.type", newRun, objective(v1alpha1.Objective{
		Type: v1alpha1.ObjectiveNextToken, NextToken: &v1alpha1.NextTokenObjective{Reward: v1alpha1.RewardNumeric},
	})},
	{"training.objective.nextToken.reward", newRun, objective(v1alpha1.Objective{
		Type: v1alpha1.ObjectiveNextToken, NextToken: &v1alpha1.NextTokenObjective{Reward: v1alpha1.RewardExactMatch},
	})},
	{"training.objective.nextToken.maxNewTokens", newRun, objective(v1alpha1.Objective{
		Type: v1alpha1.ObjectiveNextToken, NextToken: &v1alpha1.NextTokenObjective{Reward: v1alpha1.RewardExactMatch, MaxNewTokens: 64},
	})},
	{"training.objective.type", newRun, evolution(func(t *v1alpha1.TrainingSpec) { t.Method, t.Optimizer = v1alpha1.Method{}, nil })},
	{"training.objective.evolution.reward", newRun, inEvolution(func(o *v1alpha1.EvolutionObjective) { o.Reward = v1alpha1.RewardExactMatch })},
	{"training.objective.evolution.rollout.type", newRun, inEvolution(func(o *v1alpha1.EvolutionObjective) { o.Rollout = &v1alpha1.Rollout{Type: v1alpha1.RolloutSample} })},
	{"training.objective.evolution.rollout.temperature", newRun, inEvolution(func(o *v1alpha1.EvolutionObjective) { o.Rollout.Temperature = "0.5" })},
	{"training.objective.evolution.rollout.maxNewTokens", newRun, inEvolution(func(o *v1alpha1.EvolutionObjective) { o.Rollout.MaxNewTokens = 64 })},
	{"training.objective.evolution.population", newRun, inEvolution(func(o *v1alpha1.EvolutionObjective) { o.Population = 8 })},
	{"training.objective.evolution.sigma", newRun, inEvolution(func(o *v1alpha1.EvolutionObjective) { o.Sigma = "0.3" })},
	{"training.objective.evolution.rank", newRun, inEvolution(func(o *v1alpha1.EvolutionObjective) { o.Rank = 32 })},
	{"training.suspend", nothing, func(e *v1alpha1.ExpertVector) { e.Spec.Training.Suspend = new(true) }},
	{"training.suspend", nothing, func(e *v1alpha1.ExpertVector) { e.Spec.Training.Suspend = nil }},
	{"training.backoffLimit", nothing, func(e *v1alpha1.ExpertVector) { e.Spec.Training.BackoffLimit = new(int32(1)) }},
	{"training.resources", nothing, func(e *v1alpha1.ExpertVector) { e.Spec.Training.Resources = limits("1Gi") }},
	{"training.backend", nothing, func(e *v1alpha1.ExpertVector) { e.Spec.Training.Backend = v1alpha1.BackendCUDA }},
	{"training.gpu.resourceName", nothing, func(e *v1alpha1.ExpertVector) {
		e.Spec.Training.GPU = &v1alpha1.GPU{ResourceName: "nvidia.com/mig-3g.40gb"}
	}},
	{"training.gpu.resourceClaimTemplateName", nothing, func(e *v1alpha1.ExpertVector) {
		e.Spec.Training.GPU = &v1alpha1.GPU{ResourceClaimTemplateName: "gpu"}
	}},
},
	datasetRows("training.dataset.train", func(e *v1alpha1.ExpertVector) *v1alpha1.Dataset { return &e.Spec.Training.Dataset.Train }),
	datasetRows("training.dataset.validation", func(e *v1alpha1.ExpertVector) *v1alpha1.Dataset { return &e.Spec.Training.Dataset.Validation }),
	podTemplateRows("training", nothing, func(e *v1alpha1.ExpertVector) **v1alpha1.PodTemplate { return &e.Spec.Training.PodTemplate }),
)

// importRows are made one after the other of one ExpertVector, which begins as
// world.imported makes it.
var importRows = slices.Concat([]expertRow{
	{"source.http.url", newRun, func(e *v1alpha1.ExpertVector) { e.Spec.Source.HTTP.URL = "https://example.org/other.safetensors" }},
}, remoteRows("source", func(e *v1alpha1.ExpertVector) remote {
	s := e.Spec.Source
	return remote{&s.HTTP, &s.HuggingFace, &s.S3, &s.OCI}
}), verifyRows("source.verify", func(e *v1alpha1.ExpertVector) **v1alpha1.SourceVerification { return &e.Spec.Source.Verify }), []expertRow{
	{"source.persistentVolumeClaim.claimName", newRun, func(e *v1alpha1.ExpertVector) {
		e.Spec.Source.OCI, e.Spec.Source.PersistentVolumeClaim = nil, &v1alpha1.ClaimSource{ClaimName: "experts", Path: "math"}
	}},
	{"source.persistentVolumeClaim.path", newRun, func(e *v1alpha1.ExpertVector) { e.Spec.Source.PersistentVolumeClaim.Path = "other" }},
	{"source.digest", newRun, func(e *v1alpha1.ExpertVector) { e.Spec.Source.Digest = v1alpha1.Digest(digest("7")) }},
	{"publish.oci.reference", nothing, func(e *v1alpha1.ExpertVector) {
		e.Spec.Publish = &v1alpha1.ExpertPublish{OCI: v1alpha1.OCIDestination{Reference: "registry.example.org/experts/math:v1"}}
	}},
	{"publish.oci.pushSecretRef.name", nothing, func(e *v1alpha1.ExpertVector) { e.Spec.Publish.OCI.PushSecretRef = &v1alpha1.SecretRef{Name: "push"} }},
	{"publish.oci.insecure", nothing, func(e *v1alpha1.ExpertVector) { e.Spec.Publish.OCI.Insecure = new(true) }},
})

// policyRows are made one after the other of one policy of the experts math and
// code. The expert law is better than the base and bad is worse; both have the
// label team=demo.
var policyRows = slices.Concat([]policyRow{
	{"baseModelRef.name", refused, func(p *v1alpha1.AdaptivePolicy) { p.Spec.BaseModelRef.Name = "other" }},
	{"experts[].name", newSet, func(p *v1alpha1.AdaptivePolicy) { p.Spec.Experts = p.Spec.Experts[:1] }},
	{"expertSelector", newSet, func(p *v1alpha1.AdaptivePolicy) {
		p.Spec.ExpertSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"team": "demo"}}
	}},
	{"transfer", nothing, func(p *v1alpha1.AdaptivePolicy) { p.Spec.Transfer = v1alpha1.TransferEqualShape }}, // None is of another base.
	{"rollout.gate.minGain", newSet, func(p *v1alpha1.AdaptivePolicy) {
		p.Spec.Rollout = &v1alpha1.RolloutSpec{Gate: &v1alpha1.RolloutGate{MinGain: "-1"}}
	}},
	{"strategy.prompt.template", newSet, func(p *v1alpha1.AdaptivePolicy) {
		p.Spec.Strategy.Prompt = &v1alpha1.PromptStrategy{Template: "{skills} {prompt}"}
	}},
	{"strategy.prompt.requestTokens", newSet, func(p *v1alpha1.AdaptivePolicy) { p.Spec.Strategy.Prompt.RequestTokens = new(int32(64)) }},
	{"strategy.prompt.minProbability", newSet, func(p *v1alpha1.AdaptivePolicy) { p.Spec.Strategy.Prompt.MinProbability = "0.4" }},
	{"strategy.prompt.topK", newSet, func(p *v1alpha1.AdaptivePolicy) { p.Spec.Strategy.Prompt.TopK = 2 }},
	{"strategy.conversation.type", newSet, func(p *v1alpha1.AdaptivePolicy) {
		p.Spec.Strategy.Conversation = &v1alpha1.Conversation{Type: v1alpha1.ConversationSwitch}
	}},
	{"strategy.conversation.switch.margin", newSet, func(p *v1alpha1.AdaptivePolicy) {
		p.Spec.Strategy.Conversation.Switch = &v1alpha1.SwitchConversation{Margin: "0.4"}
	}},
	{"strategy.fallback.type", nothing, func(p *v1alpha1.AdaptivePolicy) {
		p.Spec.Strategy.Fallback = &v1alpha1.Fallback{Type: v1alpha1.FallbackBase}
	}},
	{"strategy.fallback.type", newSet, func(p *v1alpha1.AdaptivePolicy) {
		p.Spec.Strategy.Fallback = &v1alpha1.Fallback{Type: v1alpha1.FallbackExpert, Name: "math"}
	}},
	{"strategy.fallback.name", newSet, func(p *v1alpha1.AdaptivePolicy) { p.Spec.Strategy.Fallback.Name = "law" }},
	{"strategy.classifier.expertRef.name", newSet, func(p *v1alpha1.AdaptivePolicy) { p.Spec.Strategy = classifiedBy("dispatch") }},
	{"strategy.type", newSet, func(p *v1alpha1.AdaptivePolicy) { p.Spec.Strategy = v1alpha1.Strategy{Type: v1alpha1.StrategyFixed} }},
	{"experts[].weight", newSet, func(p *v1alpha1.AdaptivePolicy) { p.Spec.Experts[0].Weight = "0.5" }},
	{"serving.contextLength", newPods, func(p *v1alpha1.AdaptivePolicy) { p.Spec.Serving.ContextLength = new(int32(384)) }},
	{"serving.resources", newPods, func(p *v1alpha1.AdaptivePolicy) { p.Spec.Serving.Resources = limits("1Gi") }},
	{"serving.backend", newPods, func(p *v1alpha1.AdaptivePolicy) { p.Spec.Serving.Backend = v1alpha1.BackendCUDA }},
	{"serving.gpu.resourceName", newPods, func(p *v1alpha1.AdaptivePolicy) {
		p.Spec.Serving.GPU = &v1alpha1.GPU{ResourceName: "nvidia.com/mig-3g.40gb"}
	}},
	{"serving.gpu.resourceClaimTemplateName", newPods, func(p *v1alpha1.AdaptivePolicy) {
		p.Spec.Serving.GPU = &v1alpha1.GPU{ResourceClaimTemplateName: "gpu"}
	}},
	{"serving.maxBatch", newPods, func(p *v1alpha1.AdaptivePolicy) { p.Spec.Serving.MaxBatch = 4 }},
	{"serving.maxWaiting", newPods, func(p *v1alpha1.AdaptivePolicy) { p.Spec.Serving.MaxWaiting = new(int32(32)) }},
	{"serving.kvCache.size", newPods, func(p *v1alpha1.AdaptivePolicy) {
		p.Spec.Serving.KVCache = &v1alpha1.KVCache{Size: new(resource.MustParse("64Mi"))}
	}},
	{"serving.kvCache.type", newPods, func(p *v1alpha1.AdaptivePolicy) { p.Spec.Serving.KVCache.Type = v1alpha1.KVCacheBF16 }},
	{"serving.metrics.apiPort", newPods, func(p *v1alpha1.AdaptivePolicy) {
		p.Spec.Serving.Metrics = &v1alpha1.ServingMetrics{APIPort: v1alpha1.APIPortDisabled}
	}},
	{"serving.metrics.inferencePool.queuedRequests", newPods, func(p *v1alpha1.AdaptivePolicy) {
		p.Spec.Serving.Metrics = &v1alpha1.ServingMetrics{InferencePool: &v1alpha1.InferencePoolMetrics{QueuedRequests: "demo:queued"}}
	}},
	{"serving.metrics.inferencePool.runningRequests", newPods, func(p *v1alpha1.AdaptivePolicy) {
		p.Spec.Serving.Metrics.InferencePool.RunningRequests = "demo:running"
	}},
	{"serving.metrics.inferencePool.kvUsage", newPods, func(p *v1alpha1.AdaptivePolicy) { p.Spec.Serving.Metrics.InferencePool.KVUsage = "demo:cache" }},
	{"serving.metrics.inferencePool.lora", newPods, func(p *v1alpha1.AdaptivePolicy) { p.Spec.Serving.Metrics.InferencePool.LoRA = "demo:experts" }},
	{"serving.metrics.inferencePool.cacheInfo", newPods, func(p *v1alpha1.AdaptivePolicy) {
		p.Spec.Serving.Metrics.InferencePool.CacheInfo = "demo:blocks"
	}},
	{"serving.drainSeconds", newPods, func(p *v1alpha1.AdaptivePolicy) { p.Spec.Serving.DrainSeconds = new(int32(600)) }},
	{"serving.disruption.maxUnavailable", nothing, func(p *v1alpha1.AdaptivePolicy) {
		p.Spec.Serving.Disruption = &v1alpha1.Disruption{MaxUnavailable: new(int32(2))}
	}},
	{"serving.disruption.budget", nothing, func(p *v1alpha1.AdaptivePolicy) {
		p.Spec.Serving.Disruption = &v1alpha1.Disruption{Budget: v1alpha1.BudgetNone}
	}},
	{"serving.requestText", newPods, func(p *v1alpha1.AdaptivePolicy) { p.Spec.Serving.RequestText = v1alpha1.RequestTextKeep }},
	{"serving.dtype", newPods, func(p *v1alpha1.AdaptivePolicy) { p.Spec.Serving.DType = v1alpha1.ServingInt8 }},
	{"serving.form", newPods, func(p *v1alpha1.AdaptivePolicy) { p.Spec.Serving.Form = v1alpha1.FormUnmerged }},
	{"serving.replicas", scale, func(p *v1alpha1.AdaptivePolicy) { p.Spec.Serving.Replicas = new(int32(0)) }},
	{"serving.replicas", scale, func(p *v1alpha1.AdaptivePolicy) { p.Spec.Serving.Replicas = new(int32(1)) }},
	{"serving.replicas", scale, func(p *v1alpha1.AdaptivePolicy) { p.Spec.Serving.Replicas = new(int32(3)) }},
}, podTemplateRows("serving", newPods, func(p *v1alpha1.AdaptivePolicy) **v1alpha1.PodTemplate { return &p.Spec.Serving.PodTemplate }), trialRows)

// searchRows are made one after the other of one policy of strategy FewShot: a new run is
// a new search.
var searchRows = slices.Concat([]policyRow{
	{"strategy.fewShot.reward", newRun, func(p *v1alpha1.AdaptivePolicy) { p.Spec.Strategy.FewShot.Reward = v1alpha1.RewardExactMatch }},
	{"strategy.fewShot.generations", newRun, func(p *v1alpha1.AdaptivePolicy) { p.Spec.Strategy.FewShot.Generations = 20 }},
	{"strategy.fewShot.population", newRun, func(p *v1alpha1.AdaptivePolicy) { p.Spec.Strategy.FewShot.Population = 16 }},
	{"strategy.fewShot.eliteFraction", newRun, func(p *v1alpha1.AdaptivePolicy) { p.Spec.Strategy.FewShot.EliteFraction = "0.25" }},
	{"strategy.fewShot.weights", newRun, func(p *v1alpha1.AdaptivePolicy) { p.Spec.Strategy.FewShot.Weights = v1alpha1.WeightsPerLayer }},
	{"strategy.fewShot.seed", newRun, func(p *v1alpha1.AdaptivePolicy) { p.Spec.Strategy.FewShot.Seed = new(int64(7)) }},
	{"strategy.fewShot.maxNewTokens", newRun, func(p *v1alpha1.AdaptivePolicy) { p.Spec.Strategy.FewShot.MaxNewTokens = 64 }},
	{"serving.dtype", nothing, func(p *v1alpha1.AdaptivePolicy) { p.Spec.Serving.DType = v1alpha1.ServingInt8 }},
	{"serving.resources", nothing, func(p *v1alpha1.AdaptivePolicy) { p.Spec.Serving.Resources = limits("1Gi") }},
}, datasetRows("strategy.fewShot.dataset", func(p *v1alpha1.AdaptivePolicy) *v1alpha1.Dataset { return &p.Spec.Strategy.FewShot.Dataset }))

// probeRows are made one after the other of one policy of strategy Probe of the experts math
// and code: a new run is another probe.
var probeRows = slices.Concat([]policyRow{
	{"strategy.probe.maxPrompts", newRun, func(p *v1alpha1.AdaptivePolicy) { p.Spec.Strategy.Probe.MaxPrompts = 64 }},
	{"strategy.probe.minProbability", nothing, func(p *v1alpha1.AdaptivePolicy) { p.Spec.Strategy.Probe.MinProbability = "0.4" }},
	{"strategy.probe.topK", nothing, func(p *v1alpha1.AdaptivePolicy) { p.Spec.Strategy.Probe.TopK = 2 }},
	{"serving.dtype", nothing, func(p *v1alpha1.AdaptivePolicy) { p.Spec.Serving.DType = v1alpha1.ServingInt8 }},
	{"serving.resources", nothing, func(p *v1alpha1.AdaptivePolicy) { p.Spec.Serving.Resources = limits("1Gi") }},
	{"strategy.probe.others.format", newRun, func(p *v1alpha1.AdaptivePolicy) { p.Spec.Strategy.Probe.Others = sums() }},
}, datasetRows("strategy.probe.others", func(p *v1alpha1.AdaptivePolicy) *v1alpha1.Dataset { return p.Spec.Strategy.Probe.Others }))

// imported is an ExpertVector that comes from somewhere.
func (w world) imported(name string) *v1alpha1.ExpertVector {
	e := w.expert(name)
	e.Spec.Training = nil
	e.Spec.Source = &v1alpha1.ExpertSource{
		HTTP: &v1alpha1.HTTPSource{URL: "https://example.org/math.safetensors"}, Digest: v1alpha1.Digest(digest("e")),
	}
	return e
}

// A field without a row is a field of which nobody knows whether Ready is true
// after a change of it.
func TestEveryFieldOfEverySpecHasARow(t *testing.T) {
	for _, tc := range []struct {
		kind string
		spec reflect.Type
		rows []string
	}{
		{"BaseModel", reflect.TypeFor[v1alpha1.BaseModelSpec](), names(baseRows)},
		{"ExpertVector", reflect.TypeFor[v1alpha1.ExpertVectorSpec](), slices.Concat(names(trainingRows), names(importRows), names(methodRows), names(dispatcherRows))},
		{"AdaptivePolicy", reflect.TypeFor[v1alpha1.AdaptivePolicySpec](), slices.Concat(names(policyRows), names(searchRows), names(probeRows), names(classifierRows), names(gateRows))},
	} {
		want := fields.Of(tc.spec, reflect.TypeFor[v1alpha1.PodVolume](), reflect.TypeFor[v1alpha1.PodVolumeMount]())
		slices.Sort(want)
		slices.Sort(tc.rows)
		if diff := cmp.Diff(want, slices.Compact(tc.rows)); diff != "" {
			t.Errorf("%s (-fields +rows):\n%s", tc.kind, diff)
		}
	}
}

func names[T client.Object](rows []row[T]) []string {
	var names []string
	for _, r := range rows {
		names = append(names, r.field)
	}
	return names
}

// The identity of a run is a pure function of the specification: the same table
// says of which fields it depends.
func TestARunIsAnotherForTheFieldsThatNeedOne(t *testing.T) {
	w := world{namespace: "default"}
	base := w.base("tiny")
	base.Status.Artifact = &v1alpha1.ModelArtifact{Digest: v1alpha1.Digest(digest("a"))}
	base.Status.Decomposition = &v1alpha1.DecompositionStatus{Digest: v1alpha1.Digest(digest("b"))}
	// The content of a data set is told by where it lies.
	content := func(e *v1alpha1.ExpertVector) map[string]string {
		digests := map[string]string{}
		if e.Spec.Training == nil {
			return digests
		}
		for _, part := range desired.Parts(&e.Spec.Training.Dataset) {
			if ref := part.Dataset.ConfigMap; ref != nil {
				digests[part.Role] = ref.Name + "/" + ref.Key
			}
		}
		return digests
	}
	check := func(field string, needed needs, was, is desired.Run, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		if another := was.ID != is.ID; another != (needed == newRun) {
			t.Errorf("%s: another run: %v", field, another)
		}
	}
	for _, begin := range []struct {
		expert *v1alpha1.ExpertVector
		rows   []expertRow
	}{{w.expert("math"), trainingRows}, {w.imported("math"), importRows}, {w.expert("math"), methodRows}, {w.dispatcher("dispatch"), dispatcherRows}} {
		e := begin.expert
		for _, r := range begin.rows {
			if r.needs != nothing && r.needs != newRun {
				continue
			}
			was, err := desired.Expert(e, base, content(e), settings)
			if err != nil {
				t.Fatal(err)
			}
			r.change(e)
			is, err := desired.Expert(e, base, content(e), settings)
			check(r.field, r.needs, was, is, err)
		}
	}
	p := w.policy("assistant", "math")
	p.Spec.Strategy = fewShot()
	search := func() (desired.Run, error) {
		examples := ""
		if d := p.Spec.Strategy.FewShot.Dataset; d.ConfigMap != nil {
			examples = d.ConfigMap.Name + "/" + d.ConfigMap.Key
		}
		return desired.Search(p, base, nil, []contract.AdaptExpert{{Name: "math", Digest: digest("1")}}, examples, settings)
	}
	for _, r := range searchRows {
		was, err := search()
		if err != nil {
			t.Fatal(err)
		}
		r.change(p)
		is, err := search()
		check(r.field, r.needs, was, is, err)
	}
	p = w.policy("assistant", "math", "code")
	probing(func(*v1alpha1.ProbeStrategy) {})(p)
	fit := func() (desired.Run, error) {
		sets, digests := desired.PromptSets(p, []*v1alpha1.ExpertVector{w.expert("math"), w.expert("code")}), map[string]string{}
		for _, set := range sets {
			if ref := set.Dataset.ConfigMap; ref != nil {
				digests[set.Role] = ref.Name + "/" + ref.Key
			}
		}
		return desired.Probe(p, base, sets, nil, digests, settings)
	}
	for _, r := range probeRows {
		was, err := fit()
		if err != nil {
			t.Fatal(err)
		}
		r.change(p)
		is, err := fit()
		check(r.field, r.needs, was, is, err)
	}
	p = w.policy("assistant", "math", "code")
	p.Spec.Rollout = &v1alpha1.RolloutSpec{Gate: gate()}
	for _, r := range gateRows {
		was, err := evaluationOf(p, base)
		if err != nil {
			t.Fatal(err)
		}
		r.change(p)
		is, err := evaluationOf(p, base)
		check(r.field, r.needs, was, is, err)
	}
	p = w.policy("assistant", "math", "code")
	p.Spec.Strategy = training()
	classifier := func() (desired.Run, error) {
		e, err := w.classifierOf(p)
		if err != nil {
			return desired.Run{}, err
		}
		return desired.Expert(e, base, content(e), settings)
	}
	for _, r := range classifierRows {
		was, err := classifier()
		if err != nil {
			t.Fatal(err)
		}
		r.change(p)
		is, err := classifier()
		check(r.field, r.needs, was, is, err)
	}
	for _, r := range baseRows {
		if r.needs != nothing && r.needs != newRun {
			continue
		}
		was, err := desired.Decompose(base, settings)
		if err != nil {
			t.Fatal(err)
		}
		r.change(base)
		is, err := desired.Decompose(base, settings)
		check(r.field, r.needs, was, is, err)
	}
}
