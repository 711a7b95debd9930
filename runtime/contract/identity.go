package contract

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
)

// Inputs are what an identity is made of, by name: what a run, a set or a question
// depends on. An identity is a hash of their JSON, an object in the order of the list.
//
// The lists below are the identities of version 1, and never change: objects of a
// cluster that is upgraded have identities by them, and one that differs trains an expert
// once more. A field that is added to a specification and changes what comes out is added
// to its list by given, at its end, and left out where it has its zero value: so whatever
// does not use it keeps its identity. A field that changes nothing of what comes out (what
// computes, what things are called, credentials) is in no list. Goldens, here and in
// controllers/desired, hold this down.
type Inputs []input

type input struct {
	name  string
	value any
}

// Always adds a value that is written also where it is zero.
func (in Inputs) Always(name string, value any) Inputs {
	return append(in, input{name, value})
}

// Given adds a value unless it is zero, nil or an empty list. Inputs are left out only
// where they are nil. All that is added to a list after version 1 was fixed is added so.
func (in Inputs) Given(name string, value any) Inputs {
	v := reflect.ValueOf(value)
	_, members := value.(Inputs)
	if !v.IsValid() || v.IsZero() || !members && v.Kind() == reflect.Slice && v.Len() == 0 {
		return in
	}
	return append(in, input{name, value})
}

// MarshalJSON implements json.Marshaler; nil is null.
func (in Inputs) MarshalJSON() ([]byte, error) {
	if in == nil {
		return []byte("null"), nil
	}
	var b bytes.Buffer
	b.WriteByte('{')
	for i, one := range in {
		value, err := json.Marshal(one.value)
		if err != nil {
			return nil, fmt.Errorf("encoding %s: %w", one.name, err)
		}
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, "%q:%s", one.name, value)
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

// Digest is the SHA-256 of the JSON.
func (in Inputs) Digest() (string, error) {
	b, err := json.Marshal(in)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(b)
	return DigestPrefix + hex.EncodeToString(sum[:]), nil
}

// each lists the inputs of the members of a list; nil stays nil.
func each[T any](members []T, of func(T) Inputs) []Inputs {
	if members == nil {
		return nil
	}
	all := make([]Inputs, len(members))
	for i, m := range members {
		all[i] = of(m)
	}
	return all
}

// maybe lists the inputs of what may not be there: nil where it is not.
func maybe[T any](value *T, of func(T) Inputs) Inputs {
	if value == nil {
		return nil
	}
	return of(*value)
}

// Identity lists what a fetch is identified by.
func (s FetchSpec) Identity() Inputs {
	return s.Source.identity().Given("digest", s.Digest).Always("dataDir", s.DataDir).
		Given("verify", maybe(s.Verify, Verification.identity)).Given("mounted", s.Mounted)
}

// identity is that of a demand for a signature: another one is made sure of by another run.
func (v Verification) identity() Inputs {
	return Inputs{}.Always("method", v.Method).Given("keys", v.Keys).Given("from", v.From)
}

func (s Source) identity() Inputs {
	return Inputs{}.
		Given("http", maybe(s.HTTP, func(h HTTPSource) Inputs { return Inputs{}.Always("url", h.URL) })).
		Given("path", s.Path).
		Given("huggingFace", maybe(s.HuggingFace, HubSource.identity)).
		Given("s3", maybe(s.S3, S3Source.identity)).
		Given("oci", maybe(s.OCI, OCISource.identity))
}

func (h HubSource) identity() Inputs {
	return Inputs{}.Always("repo", h.Repo).
		Given("revision", h.Revision).Given("path", h.Path).Given("endpoint", h.Endpoint)
}

func (s S3Source) identity() Inputs {
	return Inputs{}.Given("endpoint", s.Endpoint).Given("region", s.Region).
		Always("bucket", s.Bucket).Given("prefix", s.Prefix)
}

func (o OCISource) identity() Inputs {
	return Inputs{}.Always("reference", o.Reference).Given("insecure", o.Insecure)
}

// Identity lists what a decomposition is identified by.
func (s DecomposeSpec) Identity() Inputs {
	return Inputs{}.Given("baseDigest", s.BaseDigest).
		Always("modules", s.Modules).Always("dtype", s.DType).Always("dataDir", s.DataDir)
}

// Identity lists what an import is identified by; what an expert is called, which does not
// say it itself, has no part in it.
func (s ImportSpec) Identity() Inputs {
	return s.Source.identity().Always("digest", s.Digest).Always("dataDir", s.DataDir).
		Always("baseDigest", s.BaseDigest).Always("decompositionDigest", s.DecompositionDigest).
		Given("verify", maybe(s.Verify, Verification.identity))
}

func (d DatasetSpec) identity() Inputs {
	return Inputs{}.Given("path", d.Path).Given("url", d.URL).
		Given("huggingFace", maybe(d.HuggingFace, HubSource.identity)).
		Given("s3", maybe(d.S3, S3Source.identity)).
		Given("oci", maybe(d.OCI, OCISource.identity)).
		Given("skills", maybe(d.Skills, SkillsSpec.identity)).
		Given("digest", d.Digest).Always("format", d.Format).
		Given("promptTemplate", d.PromptTemplate).Given("limit", d.Limit)
}

func (s SkillsSpec) identity() Inputs {
	return Inputs{}.Always("pass1", s.Pass1.identity()).Always("sets", each(s.Sets, SkillSet.identity)).Always("part", s.Part)
}

func (s SkillSet) identity() Inputs {
	return Inputs{}.Always("skill", s.Skill).Always("dataset", s.Dataset.identity())
}

func (p Pass1) identity() Inputs {
	line := func(s SkillLine) Inputs { return Inputs{}.Always("skill", s.Skill).Given("description", s.Description) }
	return Inputs{}.Always("skills", each(p.Skills, line)).
		Given("promptTemplate", p.PromptTemplate).Given("requestTokens", p.RequestTokens)
}

// Identity lists what a training is identified by. Its name, skill and RunID are empty in
// it always: version 1 had them so.
func (s TrainSpec) Identity() Inputs {
	return Inputs{}.Always("name", "").Always("skill", "").Always("runID", "").
		Always("dataDir", s.DataDir).Always("baseDigest", s.BaseDigest).Always("decompositionDigest", s.DecompositionDigest).
		Given("modules", s.Modules).Always("objective", s.Objective).
		Always("train", s.Train.identity()).Always("validation", s.Validation.identity()).
		Always("reward", s.Reward).Always("hyperparameters", s.Hyperparameters.identity())
}

func (h Hyper) identity() Inputs {
	return Inputs{}.
		Always("parameterization", h.Parameterization).Always("iterations", h.Iterations).Always("batchSize", h.BatchSize).
		Always("learningRate", h.LearningRate).Always("maxGradNorm", h.MaxGradNorm).Always("klWeight", h.KLWeight).
		Always("rollout", h.Rollout).Always("temperature", h.Temperature).Always("baseline", h.Baseline).
		Always("maxNewTokens", h.MaxNewTokens).
		Always("validationInterval", h.ValidationInterval).Always("checkpointInterval", h.CheckpointInterval).
		Always("patience", h.Patience).Always("seed", h.Seed).
		Given("dtype", h.DType).Given("method", h.Method).Given("rank", h.Rank).Given("alpha", h.Alpha).
		Given("activation", h.Activation).Given("groupSize", h.GroupSize).
		Given("population", h.Population).Given("sigma", h.Sigma).Given("truncatedRank", h.TruncatedRank)
}

// Identity lists what a search is identified by. Its name and RunID are empty in it
// always: version 1 had them so.
func (s AdaptSpec) Identity() Inputs {
	return Inputs{}.Always("name", "").Always("runID", "").
		Always("dataDir", s.DataDir).Always("baseDigest", s.BaseDigest).Always("decompositionDigest", s.DecompositionDigest).
		Given("transferDir", s.TransferDir).Always("experts", each(s.Experts, AdaptExpert.identity)).
		Always("examples", s.Examples.identity()).Always("reward", s.Reward).Always("search", s.Search.identity())
}

func (e AdaptExpert) identity() Inputs {
	return Inputs{}.Always("name", e.Name).Always("digest", e.Digest).Given("transferFrom", e.TransferFrom)
}

func (f FewShot) identity() Inputs {
	return Inputs{}.Always("generations", f.Generations).Always("population", f.Population).
		Always("eliteFraction", f.EliteFraction).Given("layerwise", f.Layerwise).
		Always("maxNewTokens", f.MaxNewTokens).Always("seed", f.Seed)
}

// Identity lists what a probe is identified by. Its name is empty in it always: version 1
// had it so.
func (s ProbeSpec) Identity() Inputs {
	return Inputs{}.Always("name", "").Always("dataDir", s.DataDir).Always("baseDigest", s.BaseDigest).
		Always("sets", each(s.Sets, SkillSet.identity)).Given("maxPrompts", s.MaxPrompts).
		Given("answers", maybe(s.Answers, EvaluatedAnswers.identity))
}

func (a EvaluatedAnswers) identity() Inputs {
	expert := func(e EvaluatedExpert) Inputs { return Inputs{}.Always("name", e.Name).Always("skill", e.Skill) }
	return Inputs{}.Always("id", a.ID).Always("experts", each(a.Experts, expert))
}

// Identity lists what an evaluation is identified by.
func (s EvaluateSpec) Identity() Inputs {
	return Inputs{}.Always("dataDir", s.DataDir).Always("baseDigest", s.BaseDigest).
		Always("decompositionDigest", s.DecompositionDigest).Given("transferDir", s.TransferDir).
		Always("candidate", s.Candidate.Identity()).Given("stable", maybe(s.Stable, ExpertSet.Identity)).
		Always("sets", each(s.Sets, EvaluationSet.identity)).Given("samples", s.Samples).Given("maxNewTokens", s.MaxNewTokens).
		Given("contextLength", s.ContextLength).Given("dtype", s.DType).Given("form", s.Form).Given("kvCacheType", s.KVCacheType)
}

// Answers lists what the answers of the base, and of each expert alone, to the first data set
// depend on: nothing of how experts are chosen.
func (s EvaluateSpec) Answers() Inputs {
	expert := func(e ExpertRef) Inputs {
		return Inputs{}.Always("name", e.Name).Always("digest", e.Digest).Given("transferFrom", e.TransferFrom)
	}
	experts := slices.SortedFunc(slices.Values(s.Candidate.Experts), func(a, b ExpertRef) int { return cmp.Compare(a.Name, b.Name) })
	var first Inputs
	if len(s.Sets) > 0 {
		first = s.Sets[0].identity()
	}
	return Inputs{}.Always("dataDir", s.DataDir).Always("baseDigest", s.BaseDigest).
		Always("decompositionDigest", s.DecompositionDigest).Given("transferDir", s.TransferDir).
		Always("experts", each(experts, expert)).Always("set", first).
		Given("samples", s.Samples).Given("maxNewTokens", s.MaxNewTokens).
		Given("contextLength", s.ContextLength).Given("dtype", s.DType).Given("form", s.Form).Given("kvCacheType", s.KVCacheType)
}

func (s EvaluationSet) identity() Inputs {
	return Inputs{}.Always("dataset", s.Dataset.identity()).Always("reward", s.Reward)
}

// Identity lists what a push is identified by.
func (s PublishSpec) Identity() Inputs {
	return Inputs{}.Always("digest", s.Digest).Always("dataDir", s.DataDir).Always("to", s.To.identity())
}

// Identity lists what an expert set is identified by.
func (s ExpertSet) Identity() Inputs {
	return Inputs{}.Always("strategy", s.Strategy).Always("experts", each(s.Experts, ExpertRef.identity)).
		Given("classifier", maybe(s.Classifier, ExpertRef.identity)).
		Given("probe", maybe(s.Probe, func(p ProbeRef) Inputs { return Inputs{}.Always("digest", p.Digest) })).
		Given("promptTemplate", s.PromptTemplate).Given("requestTokens", s.RequestTokens).
		Given("minProbability", s.MinProbability).Given("topK", s.TopK).
		Given("conversation", maybe(s.Conversation, Conversation.identity)).Given("fallback", s.Fallback)
}

func (e ExpertRef) identity() Inputs {
	return Inputs{}.Always("name", e.Name).Always("skill", e.Skill).Given("description", e.Description).
		Always("digest", e.Digest).Given("transferFrom", e.TransferFrom).
		Given("weight", e.Weight).Given("layerWeights", e.LayerWeights)
}

// identity is never nil: version 1 told a conversation that says nothing from none.
func (c Conversation) identity() Inputs {
	return Inputs{}.Given("mode", c.Mode).Given("margin", c.Margin)
}
