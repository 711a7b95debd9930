package desired

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"k8s.io/utils/ptr"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/runtime/contract"
)

// identity is what an identity test keeps of a run.
type identity struct {
	ID     string `json:"id"`
	Recipe string `json:"recipe,omitempty"`
}

// TestIdentitiesNeverChange: an object that says what it said before is the run that it
// was, whatever the operator has learnt since. Otherwise an upgrade trains every expert
// once more.
//
// The golden file is only ever added to. A new field comes with a row that sets it, whose
// identity `go test ./controllers/desired -run Identities -update` appends; what is there
// already stays as it is, so that a difference cannot be updated away. A row that fails
// says that the change at hand would train experts again: mend the change.
func TestIdentitiesNeverChange(t *testing.T) {
	file := filepath.Join("testdata", "identities-v1.json")
	known := map[string]identity{}
	text, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(text, &known)
	}
	if err != nil && !*update {
		t.Fatal(err)
	}
	rows := identities(t)
	for name, got := range rows {
		want, there := known[name]
		switch {
		case there && got != want:
			t.Errorf("%s is run %+v, and was %+v: objects like it would be made again", name, got, want)
		case !there && *update:
			known[name] = got
		case !there:
			t.Errorf("%s has no identity in %s: append it with -update", name, file)
		}
	}
	for name := range known {
		if _, there := rows[name]; !there {
			t.Errorf("%s has a row for %s, which is not tested any more", file, name)
		}
	}
	if *update {
		text, err := json.MarshalIndent(known, "", "  ")
		if err == nil {
			err = os.WriteFile(file, append(text, '\n'), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// identities are the rows: between them they set every field that is part of an identity.
func identities(t *testing.T) map[string]identity {
	t.Helper()
	rows := map[string]identity{}
	add := func(name string, run Run, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		rows[name] = identity{run.ID, run.Recipe}
	}
	for name, change := range identifiedModels() {
		run, err := Decompose(baseModel(change), settings)
		add("decompose "+name, run, err)
	}
	for name, change := range identifiedTrainings() {
		run, err := Expert(expertVector(change), baseModel(), map[string]string{RoleTrain: digest("9"), "skill-0": digest("8")}, settings)
		add("train "+name, run, err)
	}
	for name, source := range identifiedImports() {
		run, err := Expert(expertVector(func(e *v1alpha1.ExpertVector) {
			e.Spec.Training, e.Spec.Source = nil, &source
		}), baseModel(), nil, settings)
		add("import "+name, run, err)
	}
	for name, s := range identifiedSearches() {
		p := policy(func(p *v1alpha1.AdaptivePolicy) {
			p.Spec.Strategy = v1alpha1.Strategy{Type: v1alpha1.StrategyFewShot, FewShot: s.few}
		})
		run, err := Search(p, baseModel(), s.donors, s.experts, digest("7"), settings)
		add("search "+name, run, err)
	}
	digests := map[string]string{"skill-0": digest("9"), RoleOthers: digest("6")}
	for name, p := range map[string]*v1alpha1.AdaptivePolicy{
		"others in a claim": probing(),
		"others in a ConfigMap": probing(func(p *v1alpha1.AdaptivePolicy) {
			p.Spec.Strategy.Probe = &v1alpha1.ProbeStrategy{Others: &v1alpha1.Dataset{
				ConfigMap: &v1alpha1.ConfigMapKeyRef{Name: "others", Key: "o.jsonl"}, Format: v1alpha1.FormatPairs,
			}}
		}),
	} {
		run, err := Probe(p, baseModel(), PromptSets(p, skilled()), nil, digests, settings)
		add("probe "+name, run, err)
	}
	taught := probing()
	run, err := Probe(taught, baseModel(), PromptSets(taught, skilled()), evaluatedAnswers(), digests, settings)
	add("probe taught by answers", run, err)
	for name, e := range identifiedEvaluations() {
		run, err := Evaluation(e.policy, baseModel(), e.donors, e.stable, e.candidate, map[string]string{"gate": digest("9"), "guard-0": digest("8")}, settings)
		add("evaluate "+name, run, err)
		add("answers "+name, Run{ID: run.Answers}, err)
	}
	serving, err := ServingRun(ServeSpec(policy(), baseModel()))
	add("serve", Run{ID: serving}, err)
	return rows
}

// identifiedEvaluation is an evaluation.
type identifiedEvaluation struct {
	policy    *v1alpha1.AdaptivePolicy
	donors    []*v1alpha1.BaseModel
	stable    *contract.ExpertSet
	candidate contract.ExpertSet
}

func identifiedEvaluations() map[string]identifiedEvaluation {
	candidate := contract.ExpertSet{Strategy: contract.StrategyPrompt, MinProbability: 0.4, Experts: []contract.ExpertRef{
		{Name: "math", Skill: "math", Description: "sums", Digest: digest("1")}, {Name: "law", Skill: "law", Digest: digest("2"), TransferFrom: "other"},
	}}
	stable := contract.ExpertSet{Strategy: contract.StrategyFixed, Experts: []contract.ExpertRef{{Name: "math", Skill: "math", Digest: digest("3"), Weight: 1}}}
	questions := &v1alpha1.Dataset{ConfigMap: &v1alpha1.ConfigMapKeyRef{Name: "questions", Key: "q.jsonl"}, Format: v1alpha1.FormatGSM8K}
	first := policy(func(p *v1alpha1.AdaptivePolicy) {
		p.Spec.Rollout = &v1alpha1.RolloutSpec{Gate: &v1alpha1.RolloutGate{Dataset: questions, Reward: v1alpha1.RewardNumeric}}
	})
	next := policy(func(p *v1alpha1.AdaptivePolicy) {
		p.Spec.Serving.ContextLength, p.Spec.Serving.DType, p.Spec.Serving.Form = new(int32(256)), v1alpha1.ServingInt8, v1alpha1.FormMerged
		p.Spec.Serving.KVCache = &v1alpha1.KVCache{Type: v1alpha1.KVCacheBF16}
		p.Spec.Rollout = &v1alpha1.RolloutSpec{Gate: &v1alpha1.RolloutGate{
			Dataset: questions, Reward: v1alpha1.RewardNumeric, Samples: 100, MaxNewTokens: 24, MinGain: "0.1",
			Guards: []v1alpha1.RolloutGuard{{Name: "general", Reward: v1alpha1.RewardMath, Dataset: v1alpha1.Dataset{
				PersistentVolumeClaim: &v1alpha1.ClaimSource{ClaimName: "sets", Path: "g.jsonl"}, Format: v1alpha1.FormatMATH,
			}}},
		}}
	})
	other := baseModel(func(b *v1alpha1.BaseModel) { b.Name = "other" })
	return map[string]identifiedEvaluation{
		"of the first set": {policy: first, candidate: stable},
		"of the next set":  {policy: next, donors: []*v1alpha1.BaseModel{other}, stable: &stable, candidate: candidate},
	}
}

func identifiedModels() map[string]func(*v1alpha1.BaseModel) {
	from := func(s v1alpha1.ModelSource) func(*v1alpha1.BaseModel) {
		return func(b *v1alpha1.BaseModel) { b.Spec.Source = s }
	}
	return map[string]func(*v1alpha1.BaseModel){
		"claim": func(*v1alpha1.BaseModel) {},
		"http, two modules, bf16": func(b *v1alpha1.BaseModel) {
			b.Spec.Source = v1alpha1.ModelSource{HTTP: &v1alpha1.HTTPSource{URL: "https://example.org/m.tgz?a=<b>&c"}, Digest: v1alpha1.Digest(digest("c"))}
			b.Spec.Decomposition = v1alpha1.DecompositionSpec{
				Modules: []v1alpha1.Module{v1alpha1.ModuleUp, v1alpha1.ModuleDown}, DType: v1alpha1.DTypeBF16,
			}
		},
		"hub":      from(v1alpha1.ModelSource{HuggingFace: identifiedHub()}),
		"hub main": from(v1alpha1.ModelSource{HuggingFace: &v1alpha1.HuggingFaceSource{Repo: "o/m"}}),
		"s3":       from(v1alpha1.ModelSource{S3: identifiedBucket()}),
		"oci":      from(v1alpha1.ModelSource{OCI: &v1alpha1.OCISource{Reference: "example.org/m:1"}}),
		"oci http": from(v1alpha1.ModelSource{OCI: &v1alpha1.OCISource{Reference: "example.org/m:1", Insecure: new(true)}}),
		"oci mounted": from(v1alpha1.ModelSource{
			OCI: &v1alpha1.OCISource{Reference: "example.org/m@" + digest("7")}, Delivery: v1alpha1.DeliveryImageVolume,
		}),
	}
}

func identifiedHub() *v1alpha1.HuggingFaceSource {
	return &v1alpha1.HuggingFaceSource{Repo: "o/m", Revision: "v1", Path: "sub", Endpoint: "https://hub.example.org"}
}

func identifiedBucket() *v1alpha1.S3Source {
	return &v1alpha1.S3Source{Endpoint: "https://s3.example.org", Region: "eu-west-1", Bucket: "models", Prefix: "a/b"}
}

func identifiedTrainings() map[string]func(*v1alpha1.ExpertVector) {
	training := func(change func(*v1alpha1.TrainingSpec)) func(*v1alpha1.ExpertVector) {
		return func(e *v1alpha1.ExpertVector) { change(e.Spec.Training) }
	}
	from := func(d v1alpha1.Dataset) func(*v1alpha1.ExpertVector) {
		d.Format = v1alpha1.FormatMATH
		return training(func(s *v1alpha1.TrainingSpec) { s.Dataset.Validation = d })
	}
	method := func(m v1alpha1.Method) func(*v1alpha1.ExpertVector) {
		return training(func(s *v1alpha1.TrainingSpec) { s.Method = m })
	}
	return map[string]func(*v1alpha1.ExpertVector){
		"defaults":   func(*v1alpha1.ExpertVector) {},
		"dispatcher": dispatching,
		"from a claim": from(v1alpha1.Dataset{
			PersistentVolumeClaim: &v1alpha1.ClaimSource{ClaimName: "sets", Path: "v.jsonl"}, Digest: v1alpha1.Digest(digest("f")),
			PromptTemplate: "Earn $$: {question}", Limit: 8,
		}),
		"from a hub":      from(v1alpha1.Dataset{HuggingFace: identifiedHub()}),
		"from a bucket":   from(v1alpha1.Dataset{S3: identifiedBucket()}),
		"from a registry": from(v1alpha1.Dataset{OCI: &v1alpha1.OCISource{Reference: "example.org/d:1", Insecure: new(true)}}),
		"every hyperparameter of Reinforce": training(func(s *v1alpha1.TrainingSpec) {
			s.Modules = []v1alpha1.Module{v1alpha1.ModuleGate}
			s.Method = v1alpha1.Method{SVF: &v1alpha1.SVFMethod{Parameterization: v1alpha1.ParameterizationDirect}, Activation: v1alpha1.ActivationAnswer}
			r := s.Objective.Reinforce
			r.Rollout = &v1alpha1.Rollout{Type: v1alpha1.RolloutSample, Temperature: "0.7", MaxNewTokens: 99}
			r.Baseline, r.GroupSize, r.KLWeight = v1alpha1.BaselineGroup, 4, "0.2"
			s.Optimizer = &v1alpha1.Optimizer{LearningRate: "1e-2", MaxGradNorm: "1"}
			s.Schedule = &v1alpha1.Schedule{Iterations: 40, BatchSize: 8, ValidationInterval: 5, CheckpointInterval: 2, Patience: ptr.To[int32](3)}
			s.Seed, s.DType = ptr.To[int64](7), v1alpha1.TrainingBF16
		}),
		"Evolution": training(func(s *v1alpha1.TrainingSpec) {
			s.Objective = v1alpha1.Objective{Type: v1alpha1.ObjectiveEvolution, Evolution: &v1alpha1.EvolutionObjective{
				Reward: v1alpha1.RewardMath, Population: 6, Sigma: "0.3", Rank: 5,
			}}
		}),
		"NextToken": training(func(s *v1alpha1.TrainingSpec) {
			s.Objective = v1alpha1.Objective{Type: v1alpha1.ObjectiveNextToken, NextToken: &v1alpha1.NextTokenObjective{
				Reward: v1alpha1.RewardExactMatch, MaxNewTokens: 5,
			}}
		}),
		"LoRA": method(v1alpha1.Method{Type: v1alpha1.MethodLoRA, LoRA: &v1alpha1.LowRankMethod{Rank: 4, Alpha: "32"}}),
		"DoRA": method(v1alpha1.Method{Type: v1alpha1.MethodDoRA}),
		"IA3":  method(v1alpha1.Method{Type: v1alpha1.MethodIA3}),
	}
}

func identifiedImports() map[string]v1alpha1.ExpertSource {
	d := v1alpha1.Digest(digest("d"))
	return map[string]v1alpha1.ExpertSource{
		"claim":    {PersistentVolumeClaim: &v1alpha1.ClaimSource{ClaimName: "experts", Path: "m/e.safetensors"}, Digest: d},
		"http":     {HTTP: &v1alpha1.HTTPSource{URL: "https://example.org/e.tgz"}, Digest: d},
		"hub":      {HuggingFace: identifiedHub(), Digest: d},
		"bucket":   {S3: identifiedBucket(), Digest: d},
		"registry": {OCI: &v1alpha1.OCISource{Reference: "example.org/e:1"}, Digest: d},
	}
}

// identifiedSearch is a search whose identity is kept.
type identifiedSearch struct {
	few     *v1alpha1.FewShotStrategy
	donors  []*v1alpha1.BaseModel
	experts []contract.AdaptExpert
}

func identifiedSearches() map[string]identifiedSearch {
	experts := []contract.AdaptExpert{{Name: "math", Digest: digest("e")}}
	inConfigMap := v1alpha1.Dataset{ConfigMap: &v1alpha1.ConfigMapKeyRef{Name: "few", Key: "e.jsonl"}, Format: v1alpha1.FormatGSM8K}
	inClaim := v1alpha1.Dataset{PersistentVolumeClaim: &v1alpha1.ClaimSource{ClaimName: "sets", Path: "e.jsonl"}, Format: v1alpha1.FormatGSM8K}
	other := baseModel(func(b *v1alpha1.BaseModel) { b.Name = "other" })
	return map[string]identifiedSearch{
		"defaults": {few: &v1alpha1.FewShotStrategy{Dataset: inConfigMap, Reward: v1alpha1.RewardNumeric}, experts: experts},
		"all, with one that is transferred": {
			few: &v1alpha1.FewShotStrategy{
				Dataset: inClaim, Reward: v1alpha1.RewardNumeric, Generations: 3, Population: 6, EliteFraction: "0.5", MaxNewTokens: 32,
				Weights: v1alpha1.WeightsPerLayer, Seed: new(int64(5)),
			},
			donors: []*v1alpha1.BaseModel{other}, experts: append(experts, contract.AdaptExpert{Name: "x", Digest: digest("f"), TransferFrom: "other"}),
		},
	}
}
