package train

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/transformersquared/operator/runtime/artifact"
	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/checkpoint"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/expert"
	"github.com/transformersquared/operator/runtime/failure"
	"github.com/transformersquared/operator/runtime/model"
	"github.com/transformersquared/operator/runtime/tokenizer"
)

// inputs are the artifacts that a run starts from.
type inputs struct {
	base      *model.Model
	tokenizer *tokenizer.Tokenizer
	dec       *expert.Decomposition
}

// loadInputs opens the model and the decomposition that a specification names,
// after verifying the model's files by their digests; the decomposition
// verifies its own as they are read.
func loadInputs(ctx context.Context, be backend.Backend, s contract.TrainSpec) (inputs, error) {
	var in inputs
	var err error
	in.base, in.tokenizer, err = LoadBase(ctx, be, Artifacts{DataDir: s.DataDir, BaseDigest: s.BaseDigest, DType: s.Hyperparameters.DType})
	if err != nil {
		return in, err
	}
	decDir, err := contract.ArtifactDir(s.DataDir, contract.DirDecompositions, s.DecompositionDigest)
	if err != nil {
		return in, failure.Permanent(contract.ReasonUsage, err)
	}
	in.dec, err = expert.OpenDecomposition(decDir)
	if errors.Is(err, fs.ErrNotExist) {
		return in, failure.Transient(contract.ReasonSourceNotFound, err)
	}
	if err != nil {
		return in, err
	}
	switch m := in.dec.Manifest(); {
	case m.Digest != s.DecompositionDigest:
		return in, failure.Permanentf(contract.ReasonDigestMismatch, "the decomposition in %s has digest %s: decompose the model anew", decDir, m.Digest)
	case m.BaseDigest != s.BaseDigest:
		return in, failure.Permanentf(contract.ReasonDecompositionMismatch, "decomposition %s is of model %s, not of %s: decompose this model", m.Digest, m.BaseDigest, s.BaseDigest)
	}
	return in, nil
}

// LoadBase opens the model that is named, and verifies that it is that one. The
// decomposition has no part in it.
func LoadBase(ctx context.Context, be backend.Backend, a Artifacts) (*model.Model, *tokenizer.Tokenizer, error) {
	dir, err := contract.ArtifactDir(a.DataDir, contract.DirModels, a.BaseDigest)
	if err != nil {
		return nil, nil, failure.Permanent(contract.ReasonUsage, err)
	}
	if dir, err = verifyModel(ctx, dir, a.BaseDigest); err != nil {
		return nil, nil, err
	}
	dtype, err := backend.ParseDType(a.DType)
	if err != nil {
		return nil, nil, failure.Permanent(contract.ReasonUsage, err)
	}
	return LoadModel(ctx, be, dir, model.WeightsAs(dtype), model.Of(a.BaseDigest))
}

// verifyModel returns the folder of the model's files, of which each is what the manifest says.
func verifyModel(ctx context.Context, dir, digest string) (string, error) {
	m, err := artifact.ReadManifest[contract.ModelManifest](dir)
	if errors.Is(err, fs.ErrNotExist) {
		return "", failure.Transient(contract.ReasonSourceNotFound, fmt.Errorf("model %s is not in %s (t2 fetch brings it): %w", digest, dir, err))
	}
	if err != nil {
		return "", failure.Content(contract.ReasonInvalidModel, err)
	}
	if got := contract.DigestFiles(m.Files); got != digest {
		return "", failure.Permanentf(contract.ReasonDigestMismatch, "the files listed in %s have digest %s, not %s: fetch the model anew", dir, got, digest)
	}
	if m.At != "" {
		return checkpoint.Locate(ctx, dir)
	}
	if err := artifact.VerifyContext(ctx, dir, m.Files); err != nil {
		return "", failure.Content(contract.ReasonDigestMismatch, fmt.Errorf("model: %w", err))
	}
	return dir, nil
}

// LoadModel loads the model and the tokenizer in a folder in Hugging Face
// layout.
func LoadModel(ctx context.Context, be backend.Backend, dir string, options ...model.Option) (m *model.Model, t *tokenizer.Tokenizer, err error) {
	ck, err := checkpoint.OpenDir(dir)
	if err != nil {
		return nil, nil, err
	}
	defer func() { err = errors.Join(err, ck.Close()) }()
	if m, err = model.Load(ctx, be, ck, options...); err != nil {
		return nil, nil, fmt.Errorf("loading model %s: %w", dir, err)
	}
	if t, err = tokenizer.Load(dir); err != nil {
		return nil, nil, err
	}
	if err := t.FitsVocabulary(m.Config().VocabSize); err != nil {
		return nil, nil, failure.Permanent(contract.ReasonInvalidModel, fmt.Errorf("model %s: %w", dir, err))
	}
	return m, t, nil
}
