package envtest

import (
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/cli-utils/pkg/kstatus/status"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/transformersquared/operator/api/v1alpha1"
)

// checked is what the API server says to an object: nothing, or an error that
// has this text.
func checked[T client.Object](build func(world) T, change func(T), want string) {
	GinkgoHelper()
	obj := build(world{namespace: "default"})
	change(obj)
	err := k8s.Create(GinkgoT().Context(), obj, client.DryRunAll)
	expectVerdict(err, want)
}

func expectVerdict(err error, want string) {
	GinkgoHelper()
	if want == "" {
		Expect(err).NotTo(HaveOccurred())
		return
	}
	Expect(err).To(MatchError(ContainSubstring(want)))
}

const accepted = ""

var claim = &v1alpha1.ClaimSource{ClaimName: "c", Path: "models/llama"}

var _ = DescribeTable("A BaseModel's schema", func(change func(*v1alpha1.BaseModel), want string) {
	checked(func(w world) *v1alpha1.BaseModel { return w.base("tiny") }, change, want)
},
	Entry("takes the least", func(*v1alpha1.BaseModel) {}, accepted),
	Entry("takes http with a token", func(b *v1alpha1.BaseModel) {
		b.Spec.Source = v1alpha1.ModelSource{HTTP: &v1alpha1.HTTPSource{
			URL: "https://example.org/m.tgz", TokenSecretRef: &v1alpha1.SecretKeyRef{Name: "hub"},
		}, Digest: v1alpha1.Digest(digest("a"))}
	}, accepted),
	Entry("wants a source", func(b *v1alpha1.BaseModel) {
		b.Spec.Source = v1alpha1.ModelSource{Digest: v1alpha1.Digest(digest("a"))}
	}, "exactly one of"),
	Entry("wants one source", func(b *v1alpha1.BaseModel) { b.Spec.Source.HTTP = &v1alpha1.HTTPSource{URL: "https://example.org"} }, "exactly one of"),
	Entry("knows addresses", func(b *v1alpha1.BaseModel) {
		b.Spec.Source = v1alpha1.ModelSource{HTTP: &v1alpha1.HTTPSource{URL: "file:///etc/passwd"}}
	}, "spec.source.http.url"),
	Entry("takes a repository of a hub", func(b *v1alpha1.BaseModel) {
		b.Spec.Source = v1alpha1.ModelSource{HuggingFace: &v1alpha1.HuggingFaceSource{
			Repo: "org/some.model-1B", Revision: "refs/pr/7", Path: "sub folder/model", Endpoint: "http://mirror.example.org/hub",
		}}
	}, accepted),
	Entry("knows repositories", func(b *v1alpha1.BaseModel) {
		b.Spec.Source = v1alpha1.ModelSource{HuggingFace: &v1alpha1.HuggingFaceSource{Repo: "https://huggingface.co/org/model"}}
	}, "spec.source.huggingFace.repo"),
	Entry("stays in the repository", func(b *v1alpha1.BaseModel) {
		b.Spec.Source = v1alpha1.ModelSource{HuggingFace: &v1alpha1.HuggingFaceSource{Repo: "org/model", Path: "../other"}}
	}, "must not contain '..'"),
	Entry("takes a bucket", func(b *v1alpha1.BaseModel) {
		b.Spec.Source = v1alpha1.ModelSource{S3: &v1alpha1.S3Source{
			Endpoint: "https://s3.example.org:9000", Bucket: "weights", Prefix: "models/tiny/", SecretRef: &v1alpha1.SecretRef{Name: "keys"},
		}}
	}, accepted),
	Entry("wants one kind of keys", func(b *v1alpha1.BaseModel) {
		b.Spec.Source = v1alpha1.ModelSource{S3: &v1alpha1.S3Source{Bucket: "weights", Ambient: new(true), SecretRef: &v1alpha1.SecretRef{Name: "keys"}}}
	}, "at most one of"),
	Entry("knows endpoints", func(b *v1alpha1.BaseModel) {
		b.Spec.Source = v1alpha1.ModelSource{S3: &v1alpha1.S3Source{Bucket: "weights", Endpoint: "https://s3.example.org/weights"}}
	}, "spec.source.s3.endpoint"),
	Entry("takes an artifact by tag and digest", func(b *v1alpha1.BaseModel) {
		b.Spec.Source = v1alpha1.ModelSource{OCI: &v1alpha1.OCISource{Reference: "registry.example.org:5000/a/b_c/d:v1@" + digest("a")}}
	}, accepted),
	Entry("wants a tag or a digest", func(b *v1alpha1.BaseModel) {
		b.Spec.Source = v1alpha1.ModelSource{OCI: &v1alpha1.OCISource{Reference: "registry.example.org:5000/model"}}
	}, "spec.source.oci.reference"),
	Entry("takes an artifact that is mounted", func(b *v1alpha1.BaseModel) {
		b.Spec.Source = v1alpha1.ModelSource{
			OCI: &v1alpha1.OCISource{Reference: "registry.example.org/model:v1@" + digest("a")}, Delivery: v1alpha1.DeliveryImageVolume,
		}
	}, accepted),
	Entry("mounts no artifact whose tag may mean another", func(b *v1alpha1.BaseModel) {
		b.Spec.Source = v1alpha1.ModelSource{OCI: &v1alpha1.OCISource{Reference: "registry.example.org/model:v1"}, Delivery: v1alpha1.DeliveryImageVolume}
	}, "whose reference has a digest"),
	Entry("mounts artifacts alone", func(b *v1alpha1.BaseModel) { b.Spec.Source.Delivery = v1alpha1.DeliveryImageVolume }, "is of oci sources"),
	Entry("copies from any source", func(b *v1alpha1.BaseModel) { b.Spec.Source.Delivery = v1alpha1.DeliveryCopy }, accepted),
	Entry("knows ways to deliver", func(b *v1alpha1.BaseModel) { b.Spec.Source.Delivery = "Lazy" }, "spec.source.delivery"),
	Entry("knows digests", func(b *v1alpha1.BaseModel) { b.Spec.Source.Digest = "sha256:abc" }, "spec.source.digest"),
	Entry("knows digests in lower case", func(b *v1alpha1.BaseModel) { b.Spec.Source.Digest = v1alpha1.Digest(digest("A")) }, "spec.source.digest"),
	Entry("takes names of folders with dots", func(b *v1alpha1.BaseModel) { b.Spec.Source.PersistentVolumeClaim.Path = "a..b/.c" }, accepted),
	Entry("stays in the volume", func(b *v1alpha1.BaseModel) { b.Spec.Source.PersistentVolumeClaim.Path = "a/../../etc" }, "must not contain '..'"),
	Entry("stays below the volume's root", func(b *v1alpha1.BaseModel) { b.Spec.Source.PersistentVolumeClaim.Path = "/etc" }, "must be relative"),
	Entry("takes a choice of modules", func(b *v1alpha1.BaseModel) {
		b.Spec.Decomposition.Modules = []v1alpha1.Module{v1alpha1.ModuleUp, v1alpha1.ModuleDown}
	}, accepted),
	Entry("takes modules of any family", func(b *v1alpha1.BaseModel) {
		b.Spec.Decomposition.Modules = []v1alpha1.Module{"c_attn", "mlp.dense_h_to_4h"}
	}, accepted),
	Entry("wants names of modules", func(b *v1alpha1.BaseModel) { b.Spec.Decomposition.Modules = []v1alpha1.Module{"../up_proj"} }, "spec.decomposition.modules"),
	Entry("wants modules of a bounded length", func(b *v1alpha1.BaseModel) {
		b.Spec.Decomposition.Modules = []v1alpha1.Module{v1alpha1.Module(strings.Repeat("a", 65))}
	}, "Too long"),
	Entry("takes each module once", func(b *v1alpha1.BaseModel) {
		b.Spec.Decomposition.Modules = []v1alpha1.Module{v1alpha1.ModuleUp, v1alpha1.ModuleUp}
	}, "Duplicate value"),
	Entry("takes BF16", func(b *v1alpha1.BaseModel) { b.Spec.Decomposition.DType = v1alpha1.DTypeBF16 }, accepted),
	Entry("knows number formats", func(b *v1alpha1.BaseModel) { b.Spec.Decomposition.DType = "F64" }, "Unsupported value"),
	Entry("takes a volume of its own", func(b *v1alpha1.BaseModel) {
		b.Spec.Storage = v1alpha1.StorageSpec{
			Size: new(resource.MustParse("20Gi")), StorageClassName: "fast", AccessModes: []v1alpha1.AccessMode{"ReadWriteMany"},
		}
	}, accepted),
	Entry("takes a claim that is there", func(b *v1alpha1.BaseModel) { b.Spec.Storage.ExistingClaim = "mine" }, accepted),
	Entry("takes one or the other", func(b *v1alpha1.BaseModel) {
		b.Spec.Storage = v1alpha1.StorageSpec{ExistingClaim: "mine", Size: new(resource.MustParse("1Gi"))}
	}, "at most one of"),
	Entry("gives no class to a claim that is there", func(b *v1alpha1.BaseModel) {
		b.Spec.Storage = v1alpha1.StorageSpec{ExistingClaim: "mine", StorageClassName: "fast"}
	}, "cannot be given with existingClaim"),
	Entry("gives no modes to a claim that is there", func(b *v1alpha1.BaseModel) {
		b.Spec.Storage = v1alpha1.StorageSpec{ExistingClaim: "mine", AccessModes: []v1alpha1.AccessMode{"ReadWriteMany"}}
	}, "cannot be given with existingClaim"),
	Entry("wants a size of something", func(b *v1alpha1.BaseModel) { b.Spec.Storage.Size = new(resource.MustParse("0")) }, "greater than 0"),
	Entry("writes only where it can", func(b *v1alpha1.BaseModel) { b.Spec.Storage.AccessModes = []v1alpha1.AccessMode{"ReadOnlyMany"} }, "Unsupported value"),
	Entry("knows pull policies", func(b *v1alpha1.BaseModel) { b.Spec.Runtime.ImagePullPolicy = "Sometimes" }, "Unsupported value"),
	Entry("takes resources", func(b *v1alpha1.BaseModel) { b.Spec.Runtime.Resources = memory("1Gi") }, accepted),
	Entry("takes no claims of resources", func(b *v1alpha1.BaseModel) {
		b.Spec.Runtime.Resources = &corev1.ResourceRequirements{Claims: []corev1.ResourceClaim{{Name: "gpu"}}}
	}, "not supported"),
	Entry("takes the longest name", func(b *v1alpha1.BaseModel) { b.Name = "b" + strings.Repeat("x", 51) }, accepted),
	Entry("leaves room for what it derives from the name", func(b *v1alpha1.BaseModel) { b.Name = "b" + strings.Repeat("x", 52) }, "DNS label"),
	Entry("wants a name that is a label", func(b *v1alpha1.BaseModel) { b.Name = "a.b" }, "DNS label"),
	Entry("wants a name that begins with a letter", func(b *v1alpha1.BaseModel) { b.Name = "1b" }, "DNS label"),
)

func memory(limit string) *corev1.ResourceRequirements {
	return &corev1.ResourceRequirements{Limits: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse(limit)}}
}

func svf(method *v1alpha1.SVFMethod) func(*v1alpha1.ExpertVector) {
	return func(e *v1alpha1.ExpertVector) { e.Spec.Training.Method.SVF = method }
}

func method(m v1alpha1.Method) func(*v1alpha1.ExpertVector) {
	return func(e *v1alpha1.ExpertVector) { e.Spec.Training.Method = m }
}

func reinforce(change func(*v1alpha1.ReinforceObjective)) func(*v1alpha1.ExpertVector) {
	return func(e *v1alpha1.ExpertVector) { change(e.Spec.Training.Objective.Reinforce) }
}

func rollout(r v1alpha1.Rollout) func(*v1alpha1.ExpertVector) {
	return reinforce(func(o *v1alpha1.ReinforceObjective) { o.Rollout = &r })
}

// evolution makes the objective a search, and then the change.
func evolution(change func(*v1alpha1.TrainingSpec)) func(*v1alpha1.ExpertVector) {
	return func(e *v1alpha1.ExpertVector) {
		e.Spec.Training.Objective = v1alpha1.Objective{
			Type: v1alpha1.ObjectiveEvolution, Evolution: &v1alpha1.EvolutionObjective{Reward: v1alpha1.RewardNumeric},
		}
		change(e.Spec.Training)
	}
}

func optimizer(o v1alpha1.Optimizer) func(*v1alpha1.ExpertVector) {
	return func(e *v1alpha1.ExpertVector) { e.Spec.Training.Optimizer = &o }
}

func fallback(kind v1alpha1.FallbackType, name string) func(*v1alpha1.AdaptivePolicy) {
	return func(p *v1alpha1.AdaptivePolicy) {
		p.Spec.Strategy.Fallback = &v1alpha1.Fallback{Type: kind, Name: name}
	}
}

// conversation sets how conversations go on, with a margin if there is one.
func conversation(kind v1alpha1.ConversationType, margin v1alpha1.Decimal) func(*v1alpha1.AdaptivePolicy) {
	return func(p *v1alpha1.AdaptivePolicy) {
		p.Spec.Strategy.Conversation = &v1alpha1.Conversation{Type: kind}
		if margin != "" {
			p.Spec.Strategy.Conversation.Switch = &v1alpha1.SwitchConversation{Margin: margin}
		}
	}
}

// probing is strategy Probe with a change of its settings.
func probing(change func(*v1alpha1.ProbeStrategy)) func(*v1alpha1.AdaptivePolicy) {
	return func(p *v1alpha1.AdaptivePolicy) {
		p.Spec.Strategy = v1alpha1.Strategy{Type: v1alpha1.StrategyProbe, Probe: &v1alpha1.ProbeStrategy{MaxPrompts: 512}}
		change(p.Spec.Strategy.Probe)
	}
}

// gating is a gate that evaluates, with a change of it.
func gating(change func(*v1alpha1.RolloutGate)) func(*v1alpha1.AdaptivePolicy) {
	return func(p *v1alpha1.AdaptivePolicy) {
		p.Spec.Rollout = &v1alpha1.RolloutSpec{Gate: gate()}
		change(p.Spec.Rollout.Gate)
	}
}

// searching is strategy FewShot with a change of its settings.
func searching(change func(*v1alpha1.FewShotStrategy)) func(*v1alpha1.AdaptivePolicy) {
	return func(p *v1alpha1.AdaptivePolicy) {
		p.Spec.Strategy = fewShot()
		change(p.Spec.Strategy.FewShot)
	}
}

// prompting gives the strategy's own block.
func prompting(block v1alpha1.PromptStrategy) func(*v1alpha1.AdaptivePolicy) {
	return func(p *v1alpha1.AdaptivePolicy) { p.Spec.Strategy.Prompt = &block }
}

var _ = DescribeTable("An ExpertVector's schema", func(change func(*v1alpha1.ExpertVector), want string) {
	checked(func(w world) *v1alpha1.ExpertVector { return w.expert("math") }, change, want)
},
	Entry("takes the least", func(*v1alpha1.ExpertVector) {}, accepted),
	Entry("takes an import", func(e *v1alpha1.ExpertVector) {
		e.Spec.Training = nil
		e.Spec.Source = &v1alpha1.ExpertSource{PersistentVolumeClaim: claim, Digest: v1alpha1.Digest(digest("a"))}
	}, accepted),
	Entry("wants training or source", func(e *v1alpha1.ExpertVector) { e.Spec.Training = nil }, "exactly one of"),
	Entry("wants training or source, not both", func(e *v1alpha1.ExpertVector) {
		e.Spec.Source = &v1alpha1.ExpertSource{PersistentVolumeClaim: claim, Digest: v1alpha1.Digest(digest("a"))}
	}, "exactly one of"),
	Entry("wants an import's digest", func(e *v1alpha1.ExpertVector) {
		e.Spec.Training = nil
		e.Spec.Source = &v1alpha1.ExpertSource{PersistentVolumeClaim: claim}
	}, "digest"),
	Entry("wants an import's place", func(e *v1alpha1.ExpertVector) {
		e.Spec.Training = nil
		e.Spec.Source = &v1alpha1.ExpertSource{Digest: v1alpha1.Digest(digest("a"))}
	}, "exactly one of"),
	Entry("wants a base", func(e *v1alpha1.ExpertVector) { e.Spec.BaseModelRef.Name = "" }, "baseModelRef"),
	Entry("takes a skill with dashes", func(e *v1alpha1.ExpertVector) { e.Spec.Skill = "Grade-school_math.2" }, accepted),
	Entry("wants a skill of one word", func(e *v1alpha1.ExpertVector) { e.Spec.Skill = "grade school" }, "spec.skill"),
	Entry("keeps others for the base", func(e *v1alpha1.ExpertVector) { e.Spec.Skill = "others" }, "cannot name a skill"),
	Entry("keeps base for the base", func(e *v1alpha1.ExpertVector) { e.Spec.Skill = "base" }, "cannot name a skill"),
	Entry("keeps base as a name too", func(e *v1alpha1.ExpertVector) { e.Name = "base" }, "cannot name an expert"),
	Entry("wants a description of one line", func(e *v1alpha1.ExpertVector) { e.Spec.Description = "a\n- others: b" }, "spec.description"),
	Entry("wants a name that is a label", func(e *v1alpha1.ExpertVector) { e.Name = strings.Repeat("x", 53) }, "DNS label"),
	Entry("takes a method's member", svf(&v1alpha1.SVFMethod{Parameterization: v1alpha1.ParameterizationDirect}), accepted),
	Entry("knows methods", func(e *v1alpha1.ExpertVector) { e.Spec.Training.Method.Type = "VeRA" }, "Unsupported value"),
	Entry("takes low-rank matrices", method(v1alpha1.Method{Type: v1alpha1.MethodLoRA, LoRA: &v1alpha1.LowRankMethod{Rank: 4, Alpha: "0.5"}}), accepted),
	Entry("takes DoRA without its member", method(v1alpha1.Method{Type: v1alpha1.MethodDoRA}), accepted),
	Entry("takes IA3", method(v1alpha1.Method{Type: v1alpha1.MethodIA3}), accepted),
	Entry("wants the member of the method's type", method(v1alpha1.Method{Type: v1alpha1.MethodIA3, LoRA: &v1alpha1.LowRankMethod{Rank: 4}}), "lora is for method LoRA"),
	Entry("wants svf for SVF", method(v1alpha1.Method{Type: v1alpha1.MethodLoRA, SVF: &v1alpha1.SVFMethod{}}), "svf is for method SVF"),
	Entry("wants a rank within reason", method(v1alpha1.Method{Type: v1alpha1.MethodLoRA, LoRA: &v1alpha1.LowRankMethod{Rank: 1025}}), "rank"),
	Entry("wants an alpha that adapts", method(v1alpha1.Method{Type: v1alpha1.MethodDoRA, DoRA: &v1alpha1.LowRankMethod{Alpha: "0"}}), "alpha must be greater than 0"),
	Entry("knows parameterizations", svf(&v1alpha1.SVFMethod{Parameterization: "Tanh"}), "Unsupported value"),
	Entry("knows objectives", func(e *v1alpha1.ExpertVector) { e.Spec.Training.Objective.Type = "PPO" }, "Unsupported value"),
	Entry("takes given answers", func(e *v1alpha1.ExpertVector) {
		e.Spec.Training.Objective = v1alpha1.Objective{
			Type: v1alpha1.ObjectiveNextToken, NextToken: &v1alpha1.NextTokenObjective{Reward: v1alpha1.RewardNumeric},
		}
	}, accepted),
	Entry("wants the member of the objective's type", func(e *v1alpha1.ExpertVector) {
		e.Spec.Training.Objective.Type = v1alpha1.ObjectiveNextToken
	}, "reinforce is for objective Reinforce"),
	Entry("takes groups of answers", reinforce(func(r *v1alpha1.ReinforceObjective) {
		r.Baseline, r.GroupSize, r.Rollout = v1alpha1.BaselineGroup, 4, &v1alpha1.Rollout{Type: v1alpha1.RolloutSample}
	}), accepted),
	Entry("wants groups that differ", reinforce(func(r *v1alpha1.ReinforceObjective) { r.Baseline = v1alpha1.BaselineGroup }), "needs rollout Sample"),
	Entry("wants a group size for groups", reinforce(func(r *v1alpha1.ReinforceObjective) { r.GroupSize = 4 }), "groupSize is for baseline Group"),
	Entry("wants the objective's member", func(e *v1alpha1.ExpertVector) {
		e.Spec.Training.Objective = v1alpha1.Objective{Type: v1alpha1.ObjectiveReinforce}
	}, "objective Reinforce needs reinforce"),
	Entry("wants an objective", func(e *v1alpha1.ExpertVector) { e.Spec.Training.Objective = v1alpha1.Objective{} }, "spec.training.objective"),
	Entry("wants a reward", reinforce(func(r *v1alpha1.ReinforceObjective) { r.Reward = "" }), "reward"),
	Entry("knows rewards", reinforce(func(r *v1alpha1.ReinforceObjective) { r.Reward = "Applause" }), "Unsupported value"),
	Entry("knows formats", func(e *v1alpha1.ExpertVector) { e.Spec.Training.Dataset.Train.Format = "CSV" }, "Unsupported value"),
	Entry("wants one place for a data set", func(e *v1alpha1.ExpertVector) { e.Spec.Training.Dataset.Train.PersistentVolumeClaim = claim }, "exactly one of"),
	Entry("wants a place for a data set", func(e *v1alpha1.ExpertVector) { e.Spec.Training.Dataset.Validation.ConfigMap = nil }, "exactly one of"),
	Entry("takes a limit", func(e *v1alpha1.ExpertVector) { e.Spec.Training.Dataset.Train.Limit = 1 }, accepted),
	Entry("wants a limit of something", func(e *v1alpha1.ExpertVector) { e.Spec.Training.Dataset.Train.Limit = -1 }, "limit"),
	Entry("takes a template with the question", func(e *v1alpha1.ExpertVector) {
		e.Spec.Training.Dataset.Train.PromptTemplate = "Q: {question}"
	}, accepted),
	Entry("wants the question in a template", func(e *v1alpha1.ExpertVector) {
		e.Spec.Training.Dataset.Train.PromptTemplate = "Q:"
	}, "must contain {question}"),
	Entry("takes conversations as they are", func(e *v1alpha1.ExpertVector) {
		e.Spec.Training.Dataset.Train.Format, e.Spec.Training.Dataset.Train.PromptTemplate = v1alpha1.FormatChat, "Q: {question}"
	}, "takes no promptTemplate"),
	Entry("takes conversations", func(e *v1alpha1.ExpertVector) { e.Spec.Training.Dataset.Train.Format = v1alpha1.FormatChat }, accepted),
	Entry("takes scientific notation", optimizer(v1alpha1.Optimizer{LearningRate: "2e-3"}), accepted),
	Entry("wants numbers", optimizer(v1alpha1.Optimizer{LearningRate: "fast"}), "learningRate"),
	Entry("wants a learning rate that learns", optimizer(v1alpha1.Optimizer{LearningRate: "0.0"}), "greater than 0"),
	Entry("wants a learning rate within reason", optimizer(v1alpha1.Optimizer{LearningRate: "1.5"}), "at most 1"),
	Entry("takes a gradient norm", optimizer(v1alpha1.Optimizer{MaxGradNorm: "1000000"}), accepted),
	Entry("wants a gradient norm", optimizer(v1alpha1.Optimizer{MaxGradNorm: "0"}), "greater than 0"),
	Entry("wants no negative numbers", reinforce(func(r *v1alpha1.ReinforceObjective) { r.KLWeight = "-1" }), "klWeight"),
	Entry("takes no KL penalty", reinforce(func(r *v1alpha1.ReinforceObjective) { r.KLWeight = "0" }), accepted),
	Entry("wants a KL weight within reason", reinforce(func(r *v1alpha1.ReinforceObjective) { r.KLWeight = "1001" }), "at most 1000"),
	Entry("knows baselines", reinforce(func(r *v1alpha1.ReinforceObjective) { r.Baseline = "Critic" }), "Unsupported value"),
	Entry("takes the batch's mean", reinforce(func(r *v1alpha1.ReinforceObjective) { r.Baseline = v1alpha1.BaselineMean }), accepted),
	Entry("takes greedy answers", rollout(v1alpha1.Rollout{MaxNewTokens: 24}), accepted),
	Entry("takes sampled answers", rollout(v1alpha1.Rollout{Type: v1alpha1.RolloutSample, Temperature: "0.7"}), accepted),
	Entry("knows rollouts", rollout(v1alpha1.Rollout{Type: "Beam"}), "Unsupported value"),
	Entry("wants a temperature", rollout(v1alpha1.Rollout{Type: v1alpha1.RolloutSample, Temperature: "0"}), "greater than 0"),
	Entry("wants a temperature within reason", rollout(v1alpha1.Rollout{Type: v1alpha1.RolloutSample, Temperature: "10.5"}), "at most 10"),
	Entry("takes a temperature only to sample", rollout(v1alpha1.Rollout{Temperature: "0.7"}), "temperature is for rollout Sample"),
	Entry("takes BF16", func(e *v1alpha1.ExpertVector) { e.Spec.Training.DType = v1alpha1.TrainingBF16 }, accepted),
	Entry("follows no gradient of integers", func(e *v1alpha1.ExpertVector) { e.Spec.Training.DType = v1alpha1.TrainingInt8 }, "Int8 has no gradients"),
	Entry("knows number formats", func(e *v1alpha1.ExpertVector) { e.Spec.Training.DType = "Int4" }, "Unsupported value"),
	Entry("takes a search, of integers, too", evolution(func(e *v1alpha1.TrainingSpec) {
		e.Objective.Evolution.Rank, e.Objective.Evolution.Population, e.Objective.Evolution.Sigma = 16, 4, "10"
		e.Objective.Evolution.Rollout = &v1alpha1.Rollout{Type: v1alpha1.RolloutSample, Temperature: "0.7"}
		e.DType = v1alpha1.TrainingInt8
	}), accepted),
	Entry("wants the member of a search", evolution(func(e *v1alpha1.TrainingSpec) { e.Objective.Evolution = nil }), "objective Evolution needs evolution"),
	Entry("wants evolution for Evolution", func(e *v1alpha1.ExpertVector) {
		e.Spec.Training.Objective.Evolution = &v1alpha1.EvolutionObjective{Reward: v1alpha1.RewardNumeric}
	}, "evolution is for objective Evolution"),
	Entry("searches what SVF trains", evolution(func(e *v1alpha1.TrainingSpec) { e.Method = v1alpha1.Method{Type: v1alpha1.MethodIA3} }), "objective Evolution searches what method SVF trains"),
	Entry("searches without an optimizer", evolution(func(e *v1alpha1.TrainingSpec) { e.Optimizer = &v1alpha1.Optimizer{} }), "has no optimizer"),
	Entry("wants candidates", evolution(func(e *v1alpha1.TrainingSpec) { e.Objective.Evolution.Population = 3 }), "population"),
	Entry("wants a search that moves", evolution(func(e *v1alpha1.TrainingSpec) { e.Objective.Evolution.Sigma = "0" }), "sigma must be greater than 0"),
	Entry("wants a search within reason", evolution(func(e *v1alpha1.TrainingSpec) { e.Objective.Evolution.Sigma = "11" }), "at most 10"),
	Entry("wants singular values to search", evolution(func(e *v1alpha1.TrainingSpec) { e.Objective.Evolution.Rank = -1 }), "rank"),
	Entry("wants iterations", func(e *v1alpha1.ExpertVector) {
		e.Spec.Training.Schedule = &v1alpha1.Schedule{Iterations: -1}
	}, "iterations"),
	Entry("wants a seed from 0", func(e *v1alpha1.ExpertVector) { e.Spec.Training.Seed = ptr.To[int64](-1) }, "seed"),
	Entry("takes modules of any family", func(e *v1alpha1.ExpertVector) {
		e.Spec.Training.Modules = []v1alpha1.Module{"up_proj", "c_attn", "mlp.dense_h_to_4h"}
	}, accepted),
	Entry("takes no patterns of modules", func(e *v1alpha1.ExpertVector) {
		e.Spec.Training.Modules = []v1alpha1.Module{".*_proj"}
	}, "spec.training.modules"),
	Entry("takes no retries", func(e *v1alpha1.ExpertVector) { e.Spec.Training.BackoffLimit = ptr.To[int32](0) }, accepted),
	Entry("takes no negative retries", func(e *v1alpha1.ExpertVector) { e.Spec.Training.BackoffLimit = ptr.To[int32](-1) }, "backoffLimit"),
	Entry("takes no claims of resources", func(e *v1alpha1.ExpertVector) {
		e.Spec.Training.Resources = &corev1.ResourceRequirements{Claims: []corev1.ResourceClaim{{Name: "gpu"}}}
	}, "not supported"),
)

var _ = DescribeTable("An AdaptivePolicy's schema", func(change func(*v1alpha1.AdaptivePolicy), want string) {
	checked(func(w world) *v1alpha1.AdaptivePolicy { return w.policy("assistant", "math", "code") }, change, want)
},
	Entry("takes the least", func(*v1alpha1.AdaptivePolicy) {}, accepted),
	Entry("takes a selector", func(p *v1alpha1.AdaptivePolicy) {
		p.Spec.Experts, p.Spec.ExpertSelector = nil, &metav1.LabelSelector{MatchLabels: map[string]string{"a": "b"}}
	}, accepted),
	Entry("wants experts", func(p *v1alpha1.AdaptivePolicy) { p.Spec.Experts = nil }, "at least one of"),
	Entry("takes each expert once", func(p *v1alpha1.AdaptivePolicy) { p.Spec.Experts[1].Name = "math" }, "Duplicate value"),
	Entry("takes experts of other bases", func(p *v1alpha1.AdaptivePolicy) { p.Spec.Transfer = v1alpha1.TransferEqualShape }, accepted),
	Entry("refuses experts of other bases", func(p *v1alpha1.AdaptivePolicy) { p.Spec.Transfer = v1alpha1.TransferRefuse }, accepted),
	Entry("knows ways to treat experts of other bases", func(p *v1alpha1.AdaptivePolicy) { p.Spec.Transfer = "AnyShape" }, "Unsupported value"),
	Entry("takes weights of a fixed mixture", func(p *v1alpha1.AdaptivePolicy) {
		p.Spec.Strategy.Type, p.Spec.Experts[0].Weight = v1alpha1.StrategyFixed, "0.7"
	}, accepted),
	Entry("takes weights only of a fixed mixture", func(p *v1alpha1.AdaptivePolicy) { p.Spec.Experts[0].Weight = "0.7" }, "weights are for strategy Fixed"),
	Entry("takes weights up to 1", func(p *v1alpha1.AdaptivePolicy) {
		p.Spec.Strategy.Type, p.Spec.Experts[0].Weight = v1alpha1.StrategyFixed, "1.5"
	}, "at most 1"),
	Entry("knows strategies", func(p *v1alpha1.AdaptivePolicy) { p.Spec.Strategy.Type = "Magic" }, "Unsupported value"),
	Entry("takes a probe", func(p *v1alpha1.AdaptivePolicy) { p.Spec.Strategy = v1alpha1.Strategy{Type: v1alpha1.StrategyProbe} }, accepted),
	Entry("takes a probe with others, bounds and a fallback", func(p *v1alpha1.AdaptivePolicy) {
		p.Spec.Strategy = v1alpha1.Strategy{
			Type:     v1alpha1.StrategyProbe,
			Probe:    &v1alpha1.ProbeStrategy{Others: sums(), MaxPrompts: 64, MinProbability: "0.5", TopK: 2},
			Fallback: &v1alpha1.Fallback{Type: v1alpha1.FallbackExpert, Name: "math"},
		}
	}, accepted),
	Entry("wants enough prompts for a probe", probing(func(s *v1alpha1.ProbeStrategy) { s.MaxPrompts = 15 }), "maxPrompts"),
	Entry("wants no more prompts for a probe than one is fitted to", probing(func(s *v1alpha1.ProbeStrategy) { s.MaxPrompts = 1025 }), "maxPrompts"),
	Entry("wants a probability of a probe", probing(func(s *v1alpha1.ProbeStrategy) { s.MinProbability = "1.5" }), "minProbability must be at most 1"),
	Entry("wants few to be mixed by a probe", probing(func(s *v1alpha1.ProbeStrategy) { s.TopK = 9 }), "topK"),
	Entry("wants one source of others", probing(func(s *v1alpha1.ProbeStrategy) {
		s.Others = sums()
		s.Others.HTTP = &v1alpha1.HTTPSource{URL: "https://example.org/others.jsonl"}
	}), "exactly one"),
	Entry("refuses mixtures by a probe in dense matrices", func(p *v1alpha1.AdaptivePolicy) {
		probing(func(s *v1alpha1.ProbeStrategy) { s.TopK = 2 })(p)
		p.Spec.Serving.Form = v1alpha1.FormMerged
	}, "take form Auto or Unmerged"),
	Entry("refuses a probe of another strategy", func(p *v1alpha1.AdaptivePolicy) {
		probing(func(*v1alpha1.ProbeStrategy) {})(p)
		p.Spec.Strategy.Type = v1alpha1.StrategyPrompt
	}, "probe is for strategy Probe"),
	Entry("refuses a question where a probe asks none", func(p *v1alpha1.AdaptivePolicy) {
		probing(func(*v1alpha1.ProbeStrategy) {})(p)
		p.Spec.Strategy.Prompt = &v1alpha1.PromptStrategy{TopK: 2}
	}, "prompt is for the strategies Prompt and Classifier"),
	Entry("refuses a conversation of a probe", func(p *v1alpha1.AdaptivePolicy) {
		probing(func(*v1alpha1.ProbeStrategy) {})(p)
		p.Spec.Strategy.Conversation = &v1alpha1.Conversation{Type: v1alpha1.ConversationKeep}
	}, "Probe reads what the base reads in any case"),
	Entry("takes a gate that evaluates", gating(func(*v1alpha1.RolloutGate) {}), accepted),
	Entry("takes a gate with no questions of its own", func(p *v1alpha1.AdaptivePolicy) {
		p.Spec.Strategy = fewShot()
		p.Spec.Rollout = &v1alpha1.RolloutSpec{Gate: &v1alpha1.RolloutGate{FewShot: v1alpha1.ExamplesOfStrategy, Samples: 5}}
	}, accepted),
	Entry("has examples of a search alone", gating(func(g *v1alpha1.RolloutGate) {
		g.Dataset, g.Reward, g.FewShot = nil, "", v1alpha1.ExamplesOfStrategy
	}), "examples of strategy FewShot alone"),
	Entry("takes one kind of questions", gating(func(g *v1alpha1.RolloutGate) { g.FewShot = v1alpha1.ExamplesOfStrategy }), "not both"),
	Entry("wants to know which answers are right", gating(func(g *v1alpha1.RolloutGate) { g.Reward = "" }), "reward goes with dataset"),
	Entry("guards nothing without an evaluation", gating(func(g *v1alpha1.RolloutGate) { g.Dataset, g.Reward = nil, "" }), "need an evaluation"),
	Entry("samples nothing without an evaluation", func(p *v1alpha1.AdaptivePolicy) {
		p.Spec.Rollout = &v1alpha1.RolloutSpec{Gate: &v1alpha1.RolloutGate{MinGain: "0.1", Samples: 5}}
	}, "need an evaluation"),
	Entry("wants samples within reason", gating(func(g *v1alpha1.RolloutGate) { g.Samples = 10001 }), "samples"),
	Entry("wants a loss that is a part", gating(func(g *v1alpha1.RolloutGate) { g.Guards[0].MaxLoss = "1.5" }), "at most 1"),
	Entry("wants guards with a name", gating(func(g *v1alpha1.RolloutGate) { g.Guards[0].Name = "All Of It" }), "guards"),
	Entry("wants guards by different names", gating(func(g *v1alpha1.RolloutGate) { g.Guards = append(g.Guards, g.Guards[0]) }), "Duplicate"),
	Entry("takes examples of a search", func(p *v1alpha1.AdaptivePolicy) { p.Spec.Strategy = fewShot() }, accepted),
	Entry("takes a small population", searching(func(f *v1alpha1.FewShotStrategy) { f.Population, f.EliteFraction = 4, "0.5" }), accepted),
	Entry("takes an elite of all", searching(func(f *v1alpha1.FewShotStrategy) { f.Population, f.EliteFraction = 2, "1" }), accepted),
	Entry("wants a population", searching(func(f *v1alpha1.FewShotStrategy) { f.Population = 1 }), "population"),
	Entry("wants a population within reason", searching(func(f *v1alpha1.FewShotStrategy) { f.Population = 1025 }), "population"),
	Entry("wants an elite", searching(func(f *v1alpha1.FewShotStrategy) { f.EliteFraction = "0" }), "2 mixtures at least"),
	Entry("wants an elite of more than one", searching(func(f *v1alpha1.FewShotStrategy) { f.Population = 8 }), "2 mixtures at least"),
	Entry("wants an elite that is a part", searching(func(f *v1alpha1.FewShotStrategy) { f.EliteFraction = "1.5" }), "at most 1"),
	Entry("wants a number for the elite", searching(func(f *v1alpha1.FewShotStrategy) { f.EliteFraction = "a fifth" }), "eliteFraction"),
	Entry("wants examples of a search", func(p *v1alpha1.AdaptivePolicy) { p.Spec.Strategy = v1alpha1.Strategy{Type: v1alpha1.StrategyFewShot} }, "needs fewShot, with examples"),
	Entry("takes examples only of a search", func(p *v1alpha1.AdaptivePolicy) {
		p.Spec.Strategy = fewShot()
		p.Spec.Strategy.Type = v1alpha1.StrategyPrompt
	}, "fewShot is for strategy FewShot"),
	Entry("searches no end", func(p *v1alpha1.AdaptivePolicy) {
		p.Spec.Strategy = fewShot()
		p.Spec.Strategy.FewShot.Generations = 101
	}, "generations"),
	Entry("knows what has a weight", func(p *v1alpha1.AdaptivePolicy) {
		p.Spec.Strategy = fewShot()
		p.Spec.Strategy.FewShot.Weights = "PerMatrix"
	}, "Unsupported value"),
	Entry("takes examples from one place", func(p *v1alpha1.AdaptivePolicy) {
		p.Spec.Strategy = fewShot()
		p.Spec.Strategy.FewShot.Dataset.HTTP = &v1alpha1.HTTPSource{URL: "https://example.org/examples.jsonl"}
	}, "exactly one of"),
	Entry("takes no weights beside those that are searched", func(p *v1alpha1.AdaptivePolicy) {
		p.Spec.Strategy = fewShot()
		p.Spec.Experts[0].Weight = "0.7"
	}, "weights are for strategy Fixed"),
	Entry("has no fallback from weights that were searched", func(p *v1alpha1.AdaptivePolicy) {
		p.Spec.Strategy = fewShot()
		p.Spec.Strategy.Fallback = &v1alpha1.Fallback{Type: v1alpha1.FallbackBase}
	}, "fallback is for the strategies Prompt, Classifier and Probe"),
	Entry("takes a template", func(p *v1alpha1.AdaptivePolicy) {
		p.Spec.Strategy.Prompt = &v1alpha1.PromptStrategy{Template: "{skills} {prompt}"}
	}, accepted),
	Entry("wants a template with both places", func(p *v1alpha1.AdaptivePolicy) {
		p.Spec.Strategy.Prompt = &v1alpha1.PromptStrategy{Template: "{prompt}"}
	}, "must contain {skills}"),
	Entry("takes how much of a request pass 1 looks at", func(p *v1alpha1.AdaptivePolicy) {
		p.Spec.Strategy.Prompt = &v1alpha1.PromptStrategy{RequestTokens: ptr.To[int32](512)}
	}, accepted),
	Entry("wants pass 1 to look at something", func(p *v1alpha1.AdaptivePolicy) {
		p.Spec.Strategy.Prompt = &v1alpha1.PromptStrategy{RequestTokens: ptr.To[int32](1)}
	}, "greater than or equal to 16"),
	Entry("takes what is sure enough, and how many are mixed", prompting(v1alpha1.PromptStrategy{MinProbability: "0.5", TopK: 2}), accepted),
	Entry("takes the most of both", prompting(v1alpha1.PromptStrategy{MinProbability: "1", TopK: 8}), accepted),
	Entry("takes the least of both", prompting(v1alpha1.PromptStrategy{MinProbability: "0", TopK: 1}), accepted),
	Entry("wants a probability to be one", prompting(v1alpha1.PromptStrategy{MinProbability: "1.01"}), "minProbability must be at most 1"),
	Entry("wants a probability to be a number", prompting(v1alpha1.PromptStrategy{MinProbability: "-0.5"}), "minProbability"),
	Entry("mixes eight at most", prompting(v1alpha1.PromptStrategy{TopK: 9}), "less than or equal to 8"),
	Entry("mixes one at least", prompting(v1alpha1.PromptStrategy{TopK: -1}), "greater than or equal to 1"),
	Entry("composes no end of mixtures", func(p *v1alpha1.AdaptivePolicy) {
		prompting(v1alpha1.PromptStrategy{TopK: 2})(p)
		p.Spec.Serving.Form = v1alpha1.FormMerged
	}, "more mixtures than can be composed"),
	Entry("composes what is not mixed", func(p *v1alpha1.AdaptivePolicy) {
		prompting(v1alpha1.PromptStrategy{TopK: 1})(p)
		p.Spec.Serving.Form = v1alpha1.FormMerged
	}, accepted),
	Entry("takes a template only for Prompt", func(p *v1alpha1.AdaptivePolicy) {
		p.Spec.Strategy.Type = v1alpha1.StrategyFixed
		p.Spec.Strategy.Prompt = &v1alpha1.PromptStrategy{Template: "{skills} {prompt}"}
	}, "prompt is for the strategies Prompt and Classifier"),
	Entry("takes how conversations go on", conversation(v1alpha1.ConversationSwitch, "0.5"), accepted),
	Entry("takes that an expert stays", conversation(v1alpha1.ConversationKeep, ""), accepted),
	Entry("wants a margin to be a probability", conversation(v1alpha1.ConversationSwitch, "1.5"), "margin must be at most 1"),
	Entry("takes a margin only for Switch", conversation(v1alpha1.ConversationKeep, "0.5"), "switch is for conversation Switch"),
	Entry("knows how conversations go on", conversation("Always", ""), "Unsupported value"),
	Entry("takes conversations only where there is a pass 1", func(p *v1alpha1.AdaptivePolicy) {
		conversation(v1alpha1.ConversationKeep, "")(p)
		p.Spec.Strategy.Type = v1alpha1.StrategyFixed
	}, "conversation is for the strategies Prompt and Classifier"),
	Entry("falls back on the base", fallback(v1alpha1.FallbackBase, ""), accepted),
	Entry("falls back on an expert", fallback(v1alpha1.FallbackExpert, "code"), accepted),
	Entry("falls back on nobody else", fallback(v1alpha1.FallbackExpert, "law"), "the fallback must be one of the experts"),
	Entry("wants the name of the expert to fall back on", fallback(v1alpha1.FallbackExpert, ""), "needs the name of one"),
	Entry("takes no name of the base", fallback(v1alpha1.FallbackBase, "code"), "name is for fallback Expert"),
	Entry("wants to know what kind of fallback", fallback("", "code"), "strategy.fallback.type"),
	Entry("knows fallbacks", fallback("Error", ""), "Unsupported value"),
	Entry("has no fallback from a fixed mixture", func(p *v1alpha1.AdaptivePolicy) {
		p.Spec.Strategy = v1alpha1.Strategy{Type: v1alpha1.StrategyFixed, Fallback: &v1alpha1.Fallback{Type: v1alpha1.FallbackBase}}
	}, "fallback is for the strategies Prompt, Classifier and Probe"),
	Entry("may fall back on one that the selector finds", func(p *v1alpha1.AdaptivePolicy) {
		fallback(v1alpha1.FallbackExpert, "law")(p)
		p.Spec.ExpertSelector = &metav1.LabelSelector{}
	}, accepted),
	Entry("scales to nothing", func(p *v1alpha1.AdaptivePolicy) { p.Spec.Serving.Replicas = ptr.To[int32](0) }, accepted),
	Entry("scales no further", func(p *v1alpha1.AdaptivePolicy) { p.Spec.Serving.Replicas = ptr.To[int32](-1) }, "replicas"),
	Entry("wants a context", func(p *v1alpha1.AdaptivePolicy) { p.Spec.Serving.ContextLength = ptr.To[int32](1) }, "contextLength"),
	Entry("knows what matrices are kept as", func(p *v1alpha1.AdaptivePolicy) { p.Spec.Serving.DType = "FP8" }, "Unsupported value"),
	Entry("knows the forms", func(p *v1alpha1.AdaptivePolicy) { p.Spec.Serving.Form = "Sparse" }, "Unsupported value"),
	Entry("lets somebody wait", func(p *v1alpha1.AdaptivePolicy) { p.Spec.Serving.MaxWaiting = ptr.To[int32](0) }, "maxWaiting"),
	Entry("wants a cache", func(p *v1alpha1.AdaptivePolicy) {
		p.Spec.Serving.KVCache = &v1alpha1.KVCache{Size: new(resource.MustParse("4k"))}
	}, "a quantity from 1Mi to 16Ti"),
	Entry("wants to know something of its cache", func(p *v1alpha1.AdaptivePolicy) { p.Spec.Serving.KVCache = &v1alpha1.KVCache{} }, "kvCache"),
	Entry("takes a cache of a type alone", func(p *v1alpha1.AdaptivePolicy) {
		p.Spec.Serving.KVCache = &v1alpha1.KVCache{Type: v1alpha1.KVCacheBF16}
	}, accepted),
	Entry("knows what keys and values are kept as", func(p *v1alpha1.AdaptivePolicy) {
		p.Spec.Serving.KVCache = &v1alpha1.KVCache{Type: "Int8"}
	}, "Unsupported value"),
	Entry("takes its metrics from the API's port", metrics(v1alpha1.ServingMetrics{APIPort: v1alpha1.APIPortDisabled}), accepted),
	Entry("wants to know something of its metrics", metrics(v1alpha1.ServingMetrics{}), "metrics"),
	Entry("names gauges as a picker asks for them", metrics(v1alpha1.ServingMetrics{InferencePool: &v1alpha1.InferencePoolMetrics{
		QueuedRequests: "sglang:num_queue_reqs", KVUsage: "sglang:token_usage",
	}}), accepted),
	Entry("names no gauges of a port that has none", metrics(v1alpha1.ServingMetrics{
		APIPort: v1alpha1.APIPortDisabled, InferencePool: &v1alpha1.InferencePoolMetrics{KVUsage: "sglang:token_usage"},
	}), "which apiPort Disabled takes away"),
	Entry("wants names that Prometheus takes", metrics(v1alpha1.ServingMetrics{InferencePool: &v1alpha1.InferencePoolMetrics{KVUsage: "token-usage"}}), "inferencePool.kvUsage"),
	Entry("wants names that are free", metrics(v1alpha1.ServingMetrics{InferencePool: &v1alpha1.InferencePoolMetrics{KVUsage: "go_goroutines"}}), "are taken"),
	Entry("wants a name for each gauge", metrics(v1alpha1.ServingMetrics{InferencePool: &v1alpha1.InferencePoolMetrics{
		QueuedRequests: "vllm:num_requests_running",
	}}), "a name of its own"),
	Entry("takes a large cache", func(p *v1alpha1.AdaptivePolicy) {
		p.Spec.Serving.KVCache = &v1alpha1.KVCache{Size: new(resource.MustParse("1.5Ti"))}
	}, accepted),
	Entry("wants a batch", func(p *v1alpha1.AdaptivePolicy) { p.Spec.Serving.MaxBatch = -1 }, "maxBatch"),
	Entry("wants a name that is a label", func(p *v1alpha1.AdaptivePolicy) { p.Name = "a.b" }, "DNS label"),
	Entry("takes no claims of resources", func(p *v1alpha1.AdaptivePolicy) {
		p.Spec.Serving.Resources = &corev1.ResourceRequirements{Claims: []corev1.ResourceClaim{{Name: "gpu"}}}
	}, "not supported"),
)

// metrics gives a policy's pods these.
func metrics(m v1alpha1.ServingMetrics) func(*v1alpha1.AdaptivePolicy) {
	return func(p *v1alpha1.AdaptivePolicy) { p.Spec.Serving.Metrics = &m }
}

var _ = Describe("What cannot change", func() {
	It("is the place of a model's volume; its size can be taken back", func(ctx SpecContext) {
		w := newWorld(ctx)
		b := w.base("tiny")
		b.Spec.Storage = v1alpha1.StorageSpec{
			Size: new(resource.MustParse("2Gi")), StorageClassName: "fast", AccessModes: []v1alpha1.AccessMode{"ReadWriteMany"},
		}
		Expect(k8s.Create(ctx, b)).To(Succeed())
		for _, tc := range []struct {
			change func(*v1alpha1.StorageSpec)
			want   string
		}{
			{func(s *v1alpha1.StorageSpec) { s.Size = new(resource.MustParse("3Gi")) }, accepted},
			{func(s *v1alpha1.StorageSpec) { s.Size = new(resource.MustParse("2048Mi")) }, accepted},
			{func(s *v1alpha1.StorageSpec) { s.Size = new(resource.MustParse("1Gi")) }, accepted},
			{func(s *v1alpha1.StorageSpec) { s.StorageClassName = "slow" }, "storageClassName cannot change"},
			{func(s *v1alpha1.StorageSpec) { s.StorageClassName = "" }, "storageClassName cannot change"},
			{func(s *v1alpha1.StorageSpec) { s.AccessModes = nil }, "accessModes cannot change"},
			{func(s *v1alpha1.StorageSpec) { *s = v1alpha1.StorageSpec{ExistingClaim: "mine"} }, "existingClaim cannot change"},
		} {
			Eventually(func(g Gomega) {
				w.get(ctx, "tiny", b)
				tc.change(&b.Spec.Storage)
				err := k8s.Update(ctx, b, client.DryRunAll)
				if tc.want == accepted {
					g.Expect(err).NotTo(HaveOccurred())
				} else {
					g.Expect(err).To(MatchError(ContainSubstring(tc.want)))
				}
			}).Should(Succeed())
		}
	})

	It("is the base of an expert and of a policy", func(ctx SpecContext) {
		w := newWorld(ctx)
		e, p := w.expert("math"), w.policy("assistant", "math")
		Expect(k8s.Create(ctx, e)).To(Succeed())
		Expect(k8s.Create(ctx, p)).To(Succeed())
		other := []byte(`{"spec":{"baseModelRef":{"name":"other"}}}`)
		expectVerdict(k8s.Patch(ctx, e, client.RawPatch("application/merge-patch+json", other)), "baseModelRef cannot change")
		expectVerdict(k8s.Patch(ctx, p, client.RawPatch("application/merge-patch+json", other)), "baseModelRef cannot change")
	})
})

var _ = Describe("What the schema fills in", func() {
	It("is the paper's hyperparameters and the least surprising rest", func(ctx SpecContext) {
		w := newWorld(ctx)
		b, e, p := w.base("tiny"), w.expert("math"), w.policy("assistant", "math")
		for _, o := range []client.Object{b, e, p} {
			Expect(k8s.Create(ctx, o, client.DryRunAll)).To(Succeed())
		}
		Expect(b.Spec.Decomposition.Modules).To(HaveLen(7))
		Expect(b.Spec.Decomposition.DType).To(Equal(v1alpha1.DTypeF32))
		Expect(b.Spec.Runtime.ImagePullPolicy).To(Equal(corev1.PullIfNotPresent))
		Expect(b.Spec.Runtime.Backend).To(Equal(v1alpha1.BackendAuto))
		Expect(e.Spec.Training.Method.Type).To(Equal(v1alpha1.MethodSVF))
		Expect(e.Spec.Training.Objective.Type).To(Equal(v1alpha1.ObjectiveReinforce))
		Expect(e.Spec.Training.Objective.Reinforce.KLWeight).To(Equal(v1alpha1.Decimal("0.1")))
		Expect(e.Spec.Training.DType).To(Equal(v1alpha1.TrainingF32))
		Expect(p.Spec.Strategy.Type).To(Equal(v1alpha1.StrategyPrompt))
		Expect(p.Spec.Serving.Replicas).To(HaveValue(Equal(int32(1))))
	})

	It("is nothing in blocks that are not there", func(ctx SpecContext) {
		w := newWorld(ctx)
		e, p := w.expert("math"), w.policy("assistant", "math")
		for _, o := range []client.Object{e, p} {
			Expect(k8s.Create(ctx, o, client.DryRunAll)).To(Succeed())
		}
		Expect(e.Spec.Training.Method.SVF).To(BeNil())
		Expect(e.Spec.Training.Objective.Reinforce.Rollout).To(BeNil())
		Expect(e.Spec.Training.Optimizer).To(BeNil())
		Expect([]v1alpha1.Backend{e.Spec.Training.Backend, p.Spec.Serving.Backend}).To(HaveEach(v1alpha1.Backend(""))) // As the base has it.
		Expect(e.Spec.Training.Schedule).To(BeNil())
		Expect(p.Spec.Strategy.Prompt).To(BeNil())
		Expect(p.Spec.Strategy.Fallback).To(BeNil())
		Expect(p.Spec.Serving.ContextLength).To(BeNil())
	})

	It("is a status that says that nobody has looked yet", func(ctx SpecContext) {
		operator.stop()
		defer func() { operator = start() }()
		w := newWorld(ctx)
		b, e, p := w.base("tiny"), w.expert("math"), w.policy("assistant", "math")
		for _, o := range []object{b, e, p} {
			Expect(k8s.Create(ctx, o)).To(Succeed())
			w.get(ctx, o.GetName(), o)
			Expect(*o.StatusConditions()).To(BeEmpty())
			Expect(kstatusOf(o)).To(Equal(status.InProgressStatus))
		}
		Expect([]int64{b.Status.ObservedGeneration, e.Status.ObservedGeneration, p.Status.ObservedGeneration}).To(HaveEach(int64(-1)))
	})
})
