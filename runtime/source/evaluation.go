package source

import (
	"bytes"
	"context"
	"encoding/json"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/failure"
)

// EvaluationArtifactType is that of a manifest whose subject is an expert's index, and whose
// one layer is JSON that says how good the expert is.
const EvaluationArtifactType = "application/vnd.transformersquared.evaluation.v1"

const (
	evaluationMediaType = EvaluationArtifactType + "+json"
	evaluationFile      = "evaluation.json"
)

// maxEvaluation bounds an evaluation, in bytes.
const maxEvaluation = maxSmallFile

// validation is the evaluation that a training leaves in its expert's manifest. Scores are
// 0 to 1.
type validation struct {
	Expert        string  `json:"expert"`
	Base          string  `json:"base"`
	Decomposition string  `json:"decomposition"`
	Skill         string  `json:"skill"`
	Dataset       string  `json:"dataset"`
	BaselineScore float64 `json:"baselineScore"`
	Score         float64 `json:"score"`
}

// validated is what a manifest says of its expert's validation; nil where it says nothing,
// as that of an adapter that was trained elsewhere.
func validated(m contract.ExpertManifest) ([]byte, error) {
	if m.Score == 0 && m.BaselineScore == 0 {
		return nil, nil
	}
	return json.Marshal(validation{
		Expert: m.Digest, Base: m.BaseDigest, Decomposition: m.DecompositionDigest, Skill: m.Skill,
		Dataset: "validation", BaselineScore: m.BaselineScore, Score: m.Score,
	})
}

// pushEvaluation pushes an evaluation that refers to an artifact, and returns the digest of
// its manifest; empty without one. Registries without the referrers API of OCI 1.1 get the
// tag that stands in for it (the specification's referrers tag schema).
func (t *ociTree) pushEvaluation(ctx context.Context, of ocispec.Descriptor, evaluation []byte) (string, error) {
	if evaluation == nil {
		return "", nil
	}
	if len(evaluation) > maxEvaluation || !json.Valid(evaluation) {
		return "", failure.Permanentf(contract.ReasonUsage, "the evaluation to push beside the expert is no JSON of at most %d MiB", maxEvaluation>>20)
	}
	layer := ocispec.Descriptor{
		MediaType: evaluationMediaType, Digest: digest.FromBytes(evaluation), Size: int64(len(evaluation)),
		Annotations: map[string]string{ocispec.AnnotationTitle: evaluationFile},
	}
	empty := ocispec.DescriptorEmptyJSON
	blobs := t.repo.Blobs()
	if err := t.push(ctx, blobs, empty, bytes.NewReader(empty.Data)); err != nil {
		return "", err
	}
	if err := t.push(ctx, blobs, layer, bytes.NewReader(evaluation)); err != nil {
		return "", err
	}
	empty.Data = nil
	b, err := json.Marshal(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, ArtifactType: EvaluationArtifactType,
		Config: empty, Layers: []ocispec.Descriptor{layer}, Subject: &of,
	})
	if err != nil {
		return "", err
	}
	desc := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromBytes(b), Size: int64(len(b))}
	// Also where it is there already: whoever pushed it may have been ended before a registry
	// without the API got to know whom it refers to.
	if err := t.repo.Manifests().Push(ctx, desc, bytes.NewReader(b)); err != nil {
		return "", t.explain(ctx, err)
	}
	return desc.Digest.String(), nil
}
