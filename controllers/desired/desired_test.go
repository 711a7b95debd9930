package desired

import (
	"encoding/json"
	"flag"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/yaml"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/runtime/contract"
)

// update rewrites the golden files: go test ./controllers/desired -update, then
// read the difference.
var update = flag.Bool("update", false, "rewrite testdata")

var settings = Settings{
	RuntimeImage: "transformersquared.dev/t2:dev", CUDARuntimeImage: "transformersquared.dev/t2-cuda:dev", JudgeImage: "transformersquared.dev/judge:dev",
	GPURuntimeClass: "nvidia", GPUTolerations: []corev1.Toleration{{Key: DefaultGPUResource, Operator: corev1.TolerationOpExists}},
}

func digest(digit string) string { return contract.DigestPrefix + strings.Repeat(digit, 64) }

func baseModel(change ...func(*v1alpha1.BaseModel)) *v1alpha1.BaseModel {
	base := &v1alpha1.BaseModel{
		ObjectMeta: metav1.ObjectMeta{Name: "tiny", Namespace: "demo", UID: "base-uid"},
		Spec: v1alpha1.BaseModelSpec{
			Source: v1alpha1.ModelSource{PersistentVolumeClaim: &v1alpha1.ClaimSource{ClaimName: "assets", Path: "model"}},
		},
		Status: v1alpha1.BaseModelStatus{
			Artifact:      &v1alpha1.ModelArtifact{Digest: v1alpha1.Digest(digest("a"))},
			Decomposition: &v1alpha1.DecompositionStatus{Digest: v1alpha1.Digest(digest("b"))},
		},
	}
	for _, c := range change {
		c(base)
	}
	return base
}

func expertVector(change ...func(*v1alpha1.ExpertVector)) *v1alpha1.ExpertVector {
	expert := &v1alpha1.ExpertVector{
		ObjectMeta: metav1.ObjectMeta{Name: "math", Namespace: "demo", UID: "expert-uid"},
		Spec: v1alpha1.ExpertVectorSpec{
			BaseModelRef: v1alpha1.LocalRef{Name: "tiny"}, Skill: "math", Description: "sums",
			Training: &v1alpha1.TrainingSpec{
				Dataset: v1alpha1.TrainingDataset{
					Train:      v1alpha1.Dataset{ConfigMap: &v1alpha1.ConfigMapKeyRef{Name: "sums", Key: "train.jsonl"}, Format: v1alpha1.FormatGSM8K},
					Validation: v1alpha1.Dataset{HTTP: &v1alpha1.HTTPSource{URL: "https://example.org/v.jsonl"}, Format: v1alpha1.FormatGSM8K, Limit: 64},
				},
				Objective: v1alpha1.Objective{Reinforce: &v1alpha1.ReinforceObjective{Reward: v1alpha1.RewardNumeric}},
			},
		},
	}
	for _, c := range change {
		c(expert)
	}
	return expert
}

func policy(change ...func(*v1alpha1.AdaptivePolicy)) *v1alpha1.AdaptivePolicy {
	p := &v1alpha1.AdaptivePolicy{
		ObjectMeta: metav1.ObjectMeta{Name: "assistant", Namespace: "demo", UID: "policy-uid"},
		Spec: v1alpha1.AdaptivePolicySpec{
			BaseModelRef: v1alpha1.LocalRef{Name: "tiny"},
			Experts:      []v1alpha1.PolicyExpert{{Name: "math"}},
			Serving:      v1alpha1.ServingSpec{Replicas: ptr.To[int32](2), DType: v1alpha1.ServingBF16, Form: v1alpha1.FormAuto},
		},
	}
	for _, c := range change {
		c(p)
	}
	return p
}

func everywhere(base *v1alpha1.BaseModel) {
	base.Spec.Runtime = v1alpha1.RuntimeSpec{
		Image: "example.org/t2:1", ImagePullPolicy: corev1.PullAlways,
		Resources: &corev1.ResourceRequirements{
			Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("500m")},
			Limits:   corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("1Gi")},
		},
		PodTemplate: &v1alpha1.PodTemplate{Spec: &v1alpha1.PodShape{
			RuntimeClassName: "nvidia",
			NodeSelector:     map[string]string{"disk": "fast"},
			Tolerations: []corev1.Toleration{{
				Key: "gpu", Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule, TolerationSeconds: ptr.To[int64](60),
			}},
		}},
	}
}

// TestWholeConfigurations compares everything that the operator applies with
// golden files, field by field.
func TestWholeConfigurations(t *testing.T) {
	httpBase := func(base *v1alpha1.BaseModel) {
		base.Spec.Source = v1alpha1.ModelSource{
			HTTP: &v1alpha1.HTTPSource{
				URL:            "https://example.org/model.tar.gz",
				TokenSecretRef: &v1alpha1.SecretKeyRef{Name: "hub"},
			},
			Digest: v1alpha1.Digest(digest("c")),
		}
		base.Spec.Decomposition = v1alpha1.DecompositionSpec{Modules: []v1alpha1.Module{v1alpha1.ModuleUp}, DType: v1alpha1.DTypeBF16}
	}
	imported := func(e *v1alpha1.ExpertVector) {
		e.Spec.Training = nil
		e.Spec.Source = &v1alpha1.ExpertSource{
			PersistentVolumeClaim: &v1alpha1.ClaimSource{ClaimName: "experts", Path: "math/expert.safetensors"},
			Digest:                v1alpha1.Digest(digest("d")),
		}
	}
	sameClaim := func(e *v1alpha1.ExpertVector) {
		set := func(file string) v1alpha1.Dataset {
			return v1alpha1.Dataset{
				PersistentVolumeClaim: &v1alpha1.ClaimSource{ClaimName: "sets", Path: file},
				Format:                v1alpha1.FormatARC, PromptTemplate: "Earn $$ or $(HOME): {question}", Digest: v1alpha1.Digest(digest("f")),
			}
		}
		e.Spec.Training.Dataset = v1alpha1.TrainingDataset{Train: set("train.jsonl"), Validation: set("validation.jsonl")}
		e.Spec.Training.Objective.Reinforce.Reward = v1alpha1.RewardMultipleChoice
		e.Spec.Training.Suspend = new(true)
		e.Spec.Training.BackoffLimit = ptr.To[int32](0)
		e.Spec.Training.Modules = []v1alpha1.Module{v1alpha1.ModuleGate}
		e.Spec.Training.Resources = &corev1.ResourceRequirements{
			Limits: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("2Gi")},
		}
		e.Spec.Training.Method = v1alpha1.Method{SVF: &v1alpha1.SVFMethod{Parameterization: v1alpha1.ParameterizationDirect}}
		e.Spec.Training.Objective.Reinforce.Rollout = &v1alpha1.Rollout{Type: v1alpha1.RolloutSample, Temperature: "0.7"}
		e.Spec.Training.Objective.Reinforce.Baseline = v1alpha1.BaselineMean
		e.Spec.Training.Optimizer = &v1alpha1.Optimizer{LearningRate: "1e-2"}
		e.Spec.Training.Schedule = &v1alpha1.Schedule{Iterations: 40, Patience: ptr.To[int32](3)}
		e.Spec.Training.Seed, e.Spec.Training.DType = ptr.To[int64](7), v1alpha1.TrainingBF16
	}
	set := contract.ExpertSet{
		Strategy: contract.StrategyPrompt,
		Experts:  []contract.ExpertRef{{Name: "math", Skill: "math", Description: "sums", Digest: digest("e")}},
	}
	job := func(run Run, err error) any {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return run.Job
	}
	config := func(config any, err error) any {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return config
	}
	other := baseModel(func(b *v1alpha1.BaseModel) { b.Name = "other" })
	programs := func(e *v1alpha1.ExpertVector) { e.Spec.Training.Objective.Reinforce.Reward = v1alpha1.RewardUnitTests }
	for name, got := range map[string]any{
		"claim-default": Claim(baseModel()),
		"claim-full": Claim(baseModel(func(b *v1alpha1.BaseModel) {
			b.Spec.Storage = v1alpha1.StorageSpec{
				Size: new(resource.MustParse("2Gi")), StorageClassName: "fast", AccessModes: []v1alpha1.AccessMode{"ReadWriteMany"},
			}
		})),
		"decompose-claim":    job(Decompose(baseModel(), settings)),
		"decompose-http":     job(Decompose(baseModel(httpBase, everywhere), settings)),
		"train-configmap":    job(Expert(expertVector(), baseModel(), map[string]string{RoleTrain: digest("9")}, settings)),
		"train-claim":        job(Expert(expertVector(sameClaim), baseModel(everywhere), nil, settings)),
		"train-judge":        job(Expert(expertVector(programs), baseModel(), nil, settings)),
		"train-skills":       job(Expert(expertVector(dispatching), baseModel(), map[string]string{"skill-0": digest("9")}, settings)),
		"classifier":         classifierConfig(t),
		"probe":              job(Probe(probing(), baseModel(), PromptSets(probing(), skilled()), nil, map[string]string{"skill-0": digest("9")}, settings)),
		"import-claim":       job(Expert(expertVector(imported), baseModel(), nil, settings)),
		"serve-deployment":   config(Deployment(policy(), baseModel(), nil, []byte("token"), settings)),
		"serve-transfer":     config(Deployment(policy(), baseModel(), []*v1alpha1.BaseModel{other}, []byte("token"), settings)),
		"serve-service":      Service(policy()),
		"serve-budget":       Budget(policy()),
		"serve-expert-set":   config(ExpertSet(policy(), set)),
		"serve-admin-secret": AdminSecret(policy(), map[string][]byte{AdminTokenKey: []byte("0123456789abcdef")}),
	} {
		t.Run(name, func(t *testing.T) { compareGolden(t, name, got) })
	}
}

func compareGolden(t *testing.T, name string, got any) {
	t.Helper()
	text, err := yaml.Marshal(got)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join("testdata", name+".yaml")
	if *update {
		if err := os.WriteFile(file, text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(text)); diff != "" {
		t.Errorf("%s is not as its golden file says (-want +got):\n%s", name, diff)
	}
}

func TestRunIsAnotherWhenAndOnlyWhenTheResultWouldBe(t *testing.T) {
	digests := map[string]string{RoleTrain: digest("9")}
	first, err := Expert(expertVector(), baseModel(), digests, settings)
	if err != nil {
		t.Fatal(err)
	}
	moreMemory := func(e *v1alpha1.ExpertVector) {
		e.Spec.Training.Resources = &corev1.ResourceRequirements{
			Limits: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("4Gi")},
		}
	}
	for _, tc := range []struct {
		name             string
		expert           *v1alpha1.ExpertVector
		base             *v1alpha1.BaseModel
		digests          map[string]string
		settings         func(*Settings)
		sameRun, sameJob bool
		sameRecipe       *bool // where it is not as sameRun
	}{
		{name: "nothing changed", sameRun: true, sameJob: true},
		{name: "description and labels", sameRun: true, sameJob: true, expert: expertVector(func(e *v1alpha1.ExpertVector) {
			e.Spec.Description, e.Labels, e.Annotations = "arithmetic", map[string]string{"a": "b"}, map[string]string{"c": "d"}
		})},
		{name: "another word for the skill goes on with the run in another pod", sameRun: true, expert: expertVector(func(e *v1alpha1.ExpertVector) {
			e.Spec.Skill = "arithmetic"
		})},
		{name: "suspended", sameRun: true, sameJob: true, expert: expertVector(func(e *v1alpha1.ExpertVector) {
			e.Spec.Training.Suspend = new(true)
		})},
		{name: "defaults written out", sameRun: true, sameJob: true, expert: expertVector(func(e *v1alpha1.ExpertVector) {
			training := e.Spec.Training
			training.Method = v1alpha1.Method{
				Type: v1alpha1.MethodSVF, SVF: &v1alpha1.SVFMethod{Parameterization: v1alpha1.ParameterizationSigmoid},
			}
			training.Objective.Type, training.DType = v1alpha1.ObjectiveReinforce, v1alpha1.TrainingF32
			training.Objective.Reinforce.Rollout = &v1alpha1.Rollout{Type: v1alpha1.RolloutGreedy, MaxNewTokens: 512}
			training.Optimizer = &v1alpha1.Optimizer{LearningRate: "2e-3"}
			training.Schedule = &v1alpha1.Schedule{Iterations: 200}
		})},
		{name: "more memory goes on with the run in another pod", sameRun: true, expert: expertVector(moreMemory)},
		{name: "another backoff limit", sameRun: true, expert: expertVector(func(e *v1alpha1.ExpertVector) {
			e.Spec.Training.BackoffLimit = ptr.To[int32](9)
		})},
		{name: "the same data in another ConfigMap", sameRun: true, sameRecipe: new(false), expert: expertVector(func(e *v1alpha1.ExpertVector) {
			e.Spec.Training.Dataset.Train.ConfigMap = &v1alpha1.ConfigMapKeyRef{Name: "copy", Key: "copy.jsonl"}
		})},
		{name: "another image", sameRun: true, settings: func(s *Settings) { s.RuntimeImage = "example.org/t2:2" }},
		{name: "another image for CUDA, and other nodes for it, where CPUs compute", sameRun: true, sameJob: true, settings: func(s *Settings) {
			s.CUDARuntimeImage, s.GPURuntimeClass, s.GPUTolerations, s.GPUResource = "example.org/t2-cuda:2", "", nil, "example.org/gpu"
		}},
		{name: "a GPU goes on with the run in another pod", sameRun: true, expert: expertVector(func(e *v1alpha1.ExpertVector) {
			e.Spec.Training.Backend = v1alpha1.BackendCUDA
		})},
		{name: "a GPU for the base goes on with the run in another pod", sameRun: true, base: baseModel(func(b *v1alpha1.BaseModel) {
			b.Spec.Runtime.GPU = &v1alpha1.GPU{ResourceClaimTemplateName: "gpus"}
		})},
		{name: "the backend that it is anyway", sameRun: true, sameJob: true, expert: expertVector(func(e *v1alpha1.ExpertVector) {
			e.Spec.Training.Backend = v1alpha1.BackendCPU
		})},
		{name: "another judge, where there is none", sameRun: true, sameJob: true, settings: func(s *Settings) { s.JudgeImage = "example.org/judge:2" }},
		{name: "another seed", expert: expertVector(func(e *v1alpha1.ExpertVector) {
			e.Spec.Training.Seed = ptr.To[int64](1)
		})},
		{name: "a data set of another name, of which the content counts", sameRun: true, sameRecipe: new(false), expert: expertVector(func(e *v1alpha1.ExpertVector) {
			e.Spec.Training.Dataset.Train.ConfigMap.Name = "renamed"
		})},
		{name: "another object of the same name", expert: expertVector(func(e *v1alpha1.ExpertVector) { e.UID = "other" })},
		{name: "other content of the ConfigMap", digests: map[string]string{RoleTrain: digest("8")}},
		{name: "another decomposition", base: baseModel(func(b *v1alpha1.BaseModel) {
			b.Status.Decomposition.Digest = v1alpha1.Digest(digest("1"))
		})},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if tc.expert == nil {
				tc.expert = expertVector()
			}
			if tc.base == nil {
				tc.base = baseModel()
			}
			if tc.digests == nil {
				tc.digests = digests
			}
			with := settings
			if tc.settings != nil {
				tc.settings(&with)
			}
			run, err := Expert(tc.expert, tc.base, tc.digests, with)
			if err != nil {
				t.Fatal(err)
			}
			if same := run.ID == first.ID; same != tc.sameRun {
				t.Errorf("same run: %v, want %v", same, tc.sameRun)
			}
			if same := run.JobName == first.JobName; same != tc.sameJob {
				t.Errorf("same Job: %v, want %v", same, tc.sameJob)
			}
			unread, err := Expert(tc.expert, tc.base, nil, with)
			if err != nil {
				t.Fatal(err)
			}
			if unread.Recipe != run.Recipe {
				t.Error("the recipe is another where the data sets cannot be read")
			}
			contentOnly := tc.digests[RoleTrain] != digests[RoleTrain]
			if same := run.Recipe == first.Recipe; same != ptr.Deref(tc.sameRecipe, tc.sameRun || contentOnly) {
				t.Errorf("same recipe: %v, in a run that is the same: %v", same, tc.sameRun)
			}
		})
	}
}

func TestLongestNamesAreValidLabels(t *testing.T) {
	expert := expertVector(func(e *v1alpha1.ExpertVector) { e.Name = strings.Repeat("e", 52) })
	run, err := Expert(expert, baseModel(), nil, settings)
	if err != nil {
		t.Fatal(err)
	}
	if len(run.JobName) > 63 {
		t.Errorf("Job name %q has %d characters; the label of its pods takes 63", run.JobName, len(run.JobName))
	}
}

func TestWhatCannotBeRunIsAnError(t *testing.T) {
	undecomposed := baseModel(func(b *v1alpha1.BaseModel) { b.Status = v1alpha1.BaseModelStatus{} })
	if _, err := Expert(expertVector(), undecomposed, nil, settings); err == nil {
		t.Error("an expert of a base that is not decomposed has a run")
	}
	neither := expertVector(func(e *v1alpha1.ExpertVector) { e.Spec.Training = nil })
	if _, err := Expert(neither, baseModel(), nil, settings); err == nil {
		t.Error("an expert without training and source has a run")
	}
	bad := expertVector(func(e *v1alpha1.ExpertVector) { e.Spec.Training.Objective.Reinforce.KLWeight = "much" })
	if _, err := Expert(bad, baseModel(), nil, settings); err == nil || !strings.Contains(err.Error(), "klWeight") {
		t.Errorf("got error %v, want one that names klWeight", err)
	}
}

// TestSchemaDefaultsAreThePaper keeps three things equal: what the schema fills
// in where the blocks of a training are given, what the operator fills in where
// they are not, and contract.DefaultHyper.
func TestSchemaDefaultsAreThePaper(t *testing.T) {
	schema := dig(t, specSchema(t, "expertvectors"), "properties", "training").(map[string]any)
	training := &v1alpha1.TrainingSpec{}
	given := map[string]any{
		"method": map[string]any{"svf": map[string]any{}}, "optimizer": map[string]any{}, "schedule": map[string]any{},
		"objective": map[string]any{"reinforce": map[string]any{"rollout": map[string]any{}}},
	}
	fill(given, schema)
	encoded, err := json.Marshal(given)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(encoded, training); err != nil {
		t.Fatal(err)
	}
	if training.Schedule.Iterations == 0 || training.Objective.Reinforce.Rollout.Type == "" {
		t.Fatalf("the schema's defaults were not found: %s", encoded)
	}
	got, err := Hyper(training)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(contract.DefaultHyper(), got); diff != "" {
		t.Errorf("defaults of the schema differ from contract.DefaultHyper (-contract +schema):\n%s", diff)
	}
}

// fill does what the API server does: it sets the schema's defaults in the blocks
// that are given, and makes no block.
func fill(object, schema map[string]any) {
	properties, _ := schema["properties"].(map[string]any)
	for name, property := range properties {
		p := property.(map[string]any)
		if _, ok := object[name]; !ok && p["default"] != nil {
			object[name] = p["default"]
		}
		if block, ok := object[name].(map[string]any); ok {
			fill(block, p)
		}
	}
}

func TestHyperWithoutValuesIsThePaper(t *testing.T) {
	for name, training := range map[string]*v1alpha1.TrainingSpec{
		"nothing given": {},
		"empty blocks": {
			Method: v1alpha1.Method{SVF: &v1alpha1.SVFMethod{}}, Optimizer: &v1alpha1.Optimizer{}, Schedule: &v1alpha1.Schedule{},
			Objective: v1alpha1.Objective{Reinforce: &v1alpha1.ReinforceObjective{Rollout: &v1alpha1.Rollout{}}},
		},
	} {
		got, err := Hyper(training)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(contract.DefaultHyper(), got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestHyperTakesEveryValue(t *testing.T) {
	got, err := Hyper(&v1alpha1.TrainingSpec{
		Method: v1alpha1.Method{SVF: &v1alpha1.SVFMethod{Parameterization: v1alpha1.ParameterizationDirect}},
		Objective: v1alpha1.Objective{Reinforce: &v1alpha1.ReinforceObjective{
			Rollout:  &v1alpha1.Rollout{Type: v1alpha1.RolloutSample, Temperature: "0.7", MaxNewTokens: 24},
			KLWeight: "0", Baseline: v1alpha1.BaselineMean,
		}},
		Optimizer: &v1alpha1.Optimizer{LearningRate: "1e-2", MaxGradNorm: "3"},
		Schedule: &v1alpha1.Schedule{
			Iterations: 40, BatchSize: 64, ValidationInterval: 5, CheckpointInterval: 6, Patience: ptr.To[int32](7),
		},
		DType: v1alpha1.TrainingBF16, Seed: ptr.To[int64](8),
	})
	if err != nil {
		t.Fatal(err)
	}
	want := contract.Hyper{
		Parameterization: "Direct", Rollout: "Sample", Temperature: 0.7, MaxNewTokens: 24, KLWeight: 0, Baseline: "Mean",
		LearningRate: 0.01, MaxGradNorm: 3, Iterations: 40, BatchSize: 64, ValidationInterval: 5, CheckpointInterval: 6,
		Patience: 7, DType: "BF16", Seed: 8,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestHyperTakesEveryMethodAndObjective(t *testing.T) {
	group := &v1alpha1.ReinforceObjective{Baseline: v1alpha1.BaselineGroup, Rollout: &v1alpha1.Rollout{Type: v1alpha1.RolloutSample}}
	for name, c := range map[string]struct {
		training v1alpha1.TrainingSpec
		want     func(h *contract.Hyper)
	}{
		"SVF is what there was": {v1alpha1.TrainingSpec{Method: v1alpha1.Method{Type: v1alpha1.MethodSVF}}, func(*contract.Hyper) {}},
		"LoRA by default": {v1alpha1.TrainingSpec{Method: v1alpha1.Method{Type: v1alpha1.MethodLoRA}}, func(h *contract.Hyper) {
			h.Method, h.Rank, h.Alpha = "LoRA", 8, 16
		}},
		"DoRA": {v1alpha1.TrainingSpec{Method: v1alpha1.Method{Type: v1alpha1.MethodDoRA, DoRA: &v1alpha1.LowRankMethod{Rank: 4, Alpha: "2.5"}}}, func(h *contract.Hyper) {
			h.Method, h.Rank, h.Alpha = "DoRA", 4, 2.5
		}},
		"IA3": {v1alpha1.TrainingSpec{Method: v1alpha1.Method{Type: v1alpha1.MethodIA3}}, func(h *contract.Hyper) { h.Method = "IA3" }},
		"an expert on answers": {v1alpha1.TrainingSpec{Method: v1alpha1.Method{Type: v1alpha1.MethodSVF, Activation: v1alpha1.ActivationAnswer}}, func(h *contract.Hyper) {
			h.Activation = "Answer"
		}},
		"an expert on prompts is what there was": {v1alpha1.TrainingSpec{Method: v1alpha1.Method{Activation: v1alpha1.ActivationPrompt}}, func(*contract.Hyper) {}},
		"groups": {v1alpha1.TrainingSpec{Objective: v1alpha1.Objective{Reinforce: group}}, func(h *contract.Hyper) {
			h.Baseline, h.Rollout, h.GroupSize = "Group", "Sample", 8
		}},
		"given answers": {v1alpha1.TrainingSpec{Objective: v1alpha1.Objective{
			Type: v1alpha1.ObjectiveNextToken, NextToken: &v1alpha1.NextTokenObjective{MaxNewTokens: 9},
		}}, func(h *contract.Hyper) { h.KLWeight, h.MaxNewTokens = 0, 9 }},
		"a search by default": {v1alpha1.TrainingSpec{Objective: v1alpha1.Objective{
			Type: v1alpha1.ObjectiveEvolution, Evolution: &v1alpha1.EvolutionObjective{},
		}}, func(h *contract.Hyper) {
			h.KLWeight, h.Population, h.Sigma, h.TruncatedRank = 0, 16, 0.15, 16
			h.Parameterization, h.BatchSize = "Direct", 8
		}},
		"a search": {v1alpha1.TrainingSpec{DType: v1alpha1.TrainingInt8, Method: v1alpha1.Method{SVF: &v1alpha1.SVFMethod{Parameterization: "Sigmoid"}}, Schedule: &v1alpha1.Schedule{BatchSize: 5}, Objective: v1alpha1.Objective{
			Type: v1alpha1.ObjectiveEvolution, Evolution: &v1alpha1.EvolutionObjective{
				Population: 8, Sigma: "0.5", Rank: 16, Rollout: &v1alpha1.Rollout{Type: "Sample", Temperature: "2", MaxNewTokens: 7},
			},
		}}, func(h *contract.Hyper) {
			h.KLWeight, h.Population, h.Sigma, h.TruncatedRank, h.DType, h.BatchSize = 0, 8, 0.5, 16, "Int8", 5
			h.Rollout, h.Temperature, h.MaxNewTokens = "Sample", 2, 7
		}},
	} {
		want := contract.DefaultHyper()
		c.want(&want)
		got, err := Hyper(&c.training)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestContextLength(t *testing.T) {
	for _, tc := range []struct {
		name         string
		asked        *int32
		architecture *v1alpha1.Architecture
		want         int
	}{
		{"as asked, also beyond the model", ptr.To[int32](4096), &v1alpha1.Architecture{ContextLength: 512}, 4096},
		{"a short model's own", nil, &v1alpha1.Architecture{ContextLength: 512}, 512},
		{"no more than 2048 of a long one", nil, &v1alpha1.Architecture{ContextLength: 131072}, 2048},
		{"2048 where the model does not say", nil, &v1alpha1.Architecture{}, 2048},
		{"2048 where nothing is known", nil, nil, 2048},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := policy(func(p *v1alpha1.AdaptivePolicy) { p.Spec.Serving.ContextLength = tc.asked })
			b := baseModel(func(b *v1alpha1.BaseModel) { b.Status.Architecture = tc.architecture })
			if got := ServeSpec(p, b).ContextLength; got != tc.want {
				t.Errorf("got %d, want %d", got, tc.want)
			}
		})
	}
}

// What a policy says of queue, cache and metrics reaches its pods in whole numbers and in
// the runtime's words, and what it does not say, or says as it is anyhow, leaves them to it.
func TestTheQueueTheCacheAndTheMetricsOfAPod(t *testing.T) {
	p := policy(func(p *v1alpha1.AdaptivePolicy) {
		p.Spec.Serving.MaxWaiting = ptr.To[int32](40)
		p.Spec.Serving.KVCache = &v1alpha1.KVCache{Size: new(resource.MustParse("1.5Gi")), Type: v1alpha1.KVCacheBF16}
		p.Spec.Serving.Metrics = &v1alpha1.ServingMetrics{APIPort: v1alpha1.APIPortDisabled}
	})
	if got := ServeSpec(p, baseModel()); got.MaxWaiting != 40 || got.KVCacheBytes != 3<<29 || got.KVCacheType != contract.DTypeBF16 || !got.NoAPIMetrics {
		t.Errorf("%+v", got)
	}
	p.Spec.Serving.Metrics = &v1alpha1.ServingMetrics{APIPort: v1alpha1.APIPortEnabled, InferencePool: &v1alpha1.InferencePoolMetrics{
		QueuedRequests: "a:queued", RunningRequests: "a:running", KVUsage: "a:usage", LoRA: "a:lora", CacheInfo: "vllm:cache_config_info",
	}}
	want := map[string]string{contract.GaugeQueued: "a:queued", contract.GaugeRunning: "a:running", contract.GaugeCache: "a:usage", contract.GaugeExperts: "a:lora"}
	if got := ServeSpec(p, baseModel()); got.NoAPIMetrics || !maps.Equal(got.MetricNames, want) {
		t.Errorf("metrics %v, off the API's port %v, want %v", got.MetricNames, got.NoAPIMetrics, want)
	}
	p.Spec.Serving.Metrics.InferencePool = &v1alpha1.InferencePoolMetrics{QueuedRequests: "vllm:num_requests_waiting"}
	for _, p := range []*v1alpha1.AdaptivePolicy{p, policy()} {
		if got := ServeSpec(p, baseModel()); got.NoAPIMetrics || got.MetricNames != nil {
			t.Errorf("%+v", got)
		}
	}
	if got := ServeSpec(policy(), baseModel()); got.MaxWaiting != 0 || got.KVCacheBytes != 0 || got.KVCacheType != "" {
		t.Errorf("%+v", got)
	}
}

// Text is kept where a policy says so, and only there: what it is by default leaves the pods
// as they were.
func TestTextIsKeptWhereAPolicySaysSo(t *testing.T) {
	for text, want := range map[v1alpha1.RequestText]bool{"": false, v1alpha1.RequestTextDrop: false, v1alpha1.RequestTextKeep: true} {
		p := policy(func(p *v1alpha1.AdaptivePolicy) { p.Spec.Serving.RequestText = text })
		if got := ServeSpec(p, baseModel()).KeepText; got != want {
			t.Errorf("%q keeps text: %v", text, got)
		}
	}
}

// The schema's defaults are the names that the runtime has without any.
func TestDefaultNamesOfGaugesAreTheRuntimes(t *testing.T) {
	schema := dig(t, specSchema(t, "adaptivepolicies"), "properties", "serving", "properties", "metrics", "properties", "inferencePool", "properties")
	for field, gauge := range map[string]string{
		"queuedRequests": contract.GaugeQueued, "runningRequests": contract.GaugeRunning, "kvUsage": contract.GaugeCache,
		"lora": contract.GaugeExperts, "cacheInfo": contract.GaugeBlocks,
	} {
		got := dig(t, schema.(map[string]any), field, "default")
		if want := contract.DefaultGaugeNames()[gauge]; got != want {
			t.Errorf("%s is %v without a name, and the runtime calls it %s", field, got, want)
		}
	}
}

// specSchema is the schema of the specification of a kind, as the API server has it.
func specSchema(t *testing.T, plural string) map[string]any {
	t.Helper()
	text, err := os.ReadFile("../../config/crd/bases/transformersquared.dev_" + plural + ".yaml")
	if err != nil {
		t.Fatal(err)
	}
	var crd map[string]any
	if err := yaml.Unmarshal(text, &crd); err != nil {
		t.Fatal(err)
	}
	version := dig(t, crd, "spec", "versions").([]any)[0].(map[string]any)
	return dig(t, version, "schema", "openAPIV3Schema", "properties", "spec").(map[string]any)
}

func dig(t *testing.T, m map[string]any, keys ...string) any {
	t.Helper()
	var at any = m
	for _, key := range keys {
		object, ok := at.(map[string]any)
		if !ok || object[key] == nil {
			t.Fatalf("the CRD has no %s of %v", key, keys)
		}
		at = object[key]
	}
	return at
}

// A Job that is over makes nothing again: another one does, of the same run.
func TestARunAgainIsAnotherJob(t *testing.T) {
	first, err := Expert(expertVector(), baseModel(), nil, settings)
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{first.JobName: true}
	for _, cause := range []string{"lost at noon", "lost at one"} {
		again, err := first.Again(cause)
		if err != nil {
			t.Fatal(err)
		}
		if names[again.JobName] || again.ID != first.ID || *again.Job.Name != again.JobName || len(again.JobName) != len(first.JobName) {
			t.Errorf("%s: Job %s (%s) of run %s after %s of run %s", cause, again.JobName, *again.Job.Name, again.ID, first.JobName, first.ID)
		}
		names[again.JobName] = true
	}
	same, err := first.Again("lost at noon")
	if err != nil || !names[same.JobName] {
		t.Errorf("Job %s, %v", same.JobName, err)
	}
}
