package source

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/transformersquared/operator/runtime/artifact"
	"github.com/transformersquared/operator/runtime/checkpoint"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/failure"
	"github.com/transformersquared/operator/runtime/tokenizer"
)

// Fetched is a model on the volume.
type Fetched struct {
	contract.ModelManifest
	// Revision is what the source called the state that was fetched: a hub's commit, the
	// digest of a registry's manifest. Empty where it has no name for that, and where
	// nothing was fetched.
	Revision string
	// Verified is whose signature it has; nil where none was asked for.
	Verified *contract.Verified
}

// FetchModel brings a model to spec.DataDir and returns its manifest.
//
// With spec.Digest the result is what was asked for or an error, and a model
// that is on the volume already is verified instead of fetched. Without it, and with
// spec.Verify, the source is always read, since nobody knows whether it has changed, or
// who signed it.
//
// With spec.Mounted the artifact's files stay where they are mounted, and the volume gets the
// manifest of them, with their place.
func FetchModel(ctx context.Context, spec contract.FetchSpec, o Options) (Fetched, error) {
	if spec.DataDir == "" {
		return Fetched{}, failure.Permanentf(contract.ReasonUsage, "no data directory is given")
	}
	v, err := newVerification(spec.Verify, o)
	if err != nil {
		return Fetched{}, err
	}
	if spec.Mounted != "" && spec.OCI == nil {
		return Fetched{}, failure.Permanentf(contract.ReasonUsage, "%s is no artifact in a registry (oci), which alone can be mounted", Describe(spec.Source))
	}
	if spec.Digest != "" && v == nil && spec.Mounted == "" {
		dir, err := contract.ArtifactDir(spec.DataDir, contract.DirModels, spec.Digest)
		if err != nil {
			return Fetched{}, failure.Permanent(contract.ReasonUsage, err)
		}
		if m, ok, err := present[contract.ModelManifest](dir, func(m contract.ModelManifest) (string, []contract.FileEntry) {
			return m.Digest, m.Files
		}); ok || err != nil {
			return Fetched{ModelManifest: m}, err
		}
	}
	m, err := fetchModel(ctx, spec, v, o)
	return m, failure.Content(contract.ReasonInvalidModel, err)
}

// present verifies an artifact that is on the volume. A damaged one is removed,
// so that it is made again; one that cannot be read now is not known to be.
func present[M any](dir string, content func(M) (digest string, files []contract.FileEntry)) (M, bool, error) {
	artifact.Touch(dir)
	m, err := artifact.ReadManifest[M](dir)
	if errors.Is(err, fs.ErrNotExist) {
		return m, false, nil
	}
	if err == nil {
		digest, files := content(m)
		if name, nameErr := contract.DigestDir(digest); nameErr == nil && name == filepath.Base(dir) && contract.DigestFiles(files) == digest {
			if err = artifact.Verify(dir, files); err == nil {
				return m, true, nil
			}
		}
	}
	if err != nil && failure.System(err) && !errors.Is(err, fs.ErrNotExist) {
		return m, false, err
	}
	if err := os.RemoveAll(dir); err != nil {
		return m, false, fmt.Errorf("removing damaged artifact: %w", err)
	}
	return m, false, nil
}

func fetchModel(ctx context.Context, spec contract.FetchSpec, v *verification, o Options) (_ Fetched, err error) {
	models := filepath.Join(spec.DataDir, contract.DirModels)
	stage, err := artifact.Stage(models)
	if err != nil {
		return Fetched{}, err
	}
	published := false
	defer func() {
		if !published {
			err = errors.Join(err, stage.Discard())
		}
	}()
	count := &meter{report: o.Progress}
	o.mounted = spec.Mounted
	from, err := openVerified(ctx, spec.Source, v, models, o, count)
	if err != nil {
		return Fetched{}, err
	}
	err = takeModel(ctx, from, stage.Dir(), count)
	if err = errors.Join(err, from.close()); err != nil {
		return Fetched{}, err
	}
	m := Fetched{Revision: from.revision(), Verified: v.result()}
	m.ModelManifest, err = CheckModel(stage.Dir())
	if err != nil {
		return Fetched{}, fmt.Errorf("model from %s: %w", from, err)
	}
	if spec.Digest != "" && m.Digest != spec.Digest {
		return m, failure.Permanentf(contract.ReasonDigestMismatch,
			"model from %s has digest %s, the specification asks for %s; if the source may change, remove the digest or set the new one", from, m.Digest, spec.Digest)
	}
	if mount, ok := bare(from).(*mountTree); ok {
		m.At = mount.where
		if err := unlink(stage.Dir()); err != nil {
			return m, err
		}
	}
	if err := clearMounted(models, m.ModelManifest); err != nil {
		return m, err
	}
	if err := stage.PublishDigest(m.Digest, m.ModelManifest); err != nil {
		return m, err
	}
	published = true
	return m, nil
}

// clearMounted removes the model's artifact that is on the volume where that says that the files are
// mounted elsewhere than they are now. Who has them open keeps them.
func clearMounted(models string, m contract.ModelManifest) error {
	dir, err := contract.ArtifactDir(models, "", m.Digest)
	if err != nil {
		return err
	}
	was, err := artifact.ReadManifest[contract.ModelManifest](dir)
	if err != nil || was.At == "" || was.At == m.At {
		return nil //nolint:nilerr // There is none, or one that publishing replaces.
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("removing the artifact of a model that was mounted: %w", err)
	}
	return nil
}

// takeModel copies the files that make up a model to dir.
func takeModel(ctx context.Context, from tree, dir string, count *meter) error {
	if _, ok := from.(single); ok {
		return failure.Permanentf(contract.ReasonInvalidModel, "%s is a single file: a model is a folder in Hugging Face layout or a .tar or .tar.gz of one", from)
	}
	take := func(name string, limit int64) error {
		return from.take(ctx, name, filepath.Join(dir, name), limit)
	}
	if err := take(checkpoint.ConfigFile, maxSmallFile); err != nil {
		return absentFrom(from, checkpoint.ConfigFile, err)
	}
	if err := takeVocabulary(from, take); err != nil {
		return err
	}
	if err := takeWeights(from, take, dir, count); err != nil {
		return err
	}
	for _, name := range checkpoint.OptionalFiles {
		if err := take(name, maxSmallFile); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// takeVocabulary takes the first of the tokenizer's files that the source has.
func takeVocabulary(from tree, take func(name string, limit int64) error) error {
	for _, name := range contract.TokenizerFiles {
		if err := take(name, maxSmallFile); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return absentFrom(from, strings.Join(contract.TokenizerFiles, ", "), fs.ErrNotExist)
}

func takeWeights(from tree, take func(name string, limit int64) error, dir string, count *meter) error {
	err := take(checkpoint.WeightsFile, maxWeightFile)
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := take(checkpoint.IndexFile, maxSmallFile); err != nil {
		return absentFrom(from, checkpoint.WeightsFile+" or "+checkpoint.IndexFile, err)
	}
	b, err := artifact.ReadBounded(filepath.Join(dir, checkpoint.IndexFile), checkpoint.MaxIndexBytes)
	if err != nil {
		return fmt.Errorf("reading index: %w", err)
	}
	index, err := checkpoint.ParseIndex(b)
	if err != nil {
		return fmt.Errorf("model from %s: %w", from, err)
	}
	switch bare(from).(type) {
	case *httpTree, *hubTree, *bucket, *ociTree: // What is on this machine is counted as it is opened.
		count.expect(indexTotal(b))
	}
	for _, shard := range checkpoint.IndexShards(index) {
		if err := take(shard, maxWeightFile); err != nil {
			return absentFrom(from, shard, err)
		}
	}
	return nil
}

// absentFrom classifies that a source has not what a model needs. It may be
// uploading still, so it is tried again.
func absentFrom(from tree, name string, err error) error {
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return failure.Transientf(contract.ReasonSourceNotFound,
		"%s has no %s: a model is a folder in Hugging Face layout with safetensors weights: %w", from, name, err)
}

// CheckModel opens everything of a model folder that can be checked without
// reading all weights (config, tensor headers, tokenizer, and that they fit
// together) and returns its manifest.
func CheckModel(dir string) (contract.ModelManifest, error) {
	config, err := checkpoint.ReadConfig(dir)
	if err != nil {
		return contract.ModelManifest{}, err
	}
	t, err := tokenizer.Load(dir)
	if err != nil {
		return contract.ModelManifest{}, err
	}
	if err := t.FitsVocabulary(config.VocabSize); err != nil {
		return contract.ModelManifest{}, err
	}
	return checkpoint.BuildManifest(dir)
}

// indexTotal returns the bytes of weights that an index announces, 0 if it does
// not or makes no sense.
func indexTotal(b []byte) int64 {
	var raw struct {
		Metadata struct {
			TotalSize float64 `json:"total_size"`
		} `json:"metadata"`
	}
	if json.Unmarshal(b, &raw) != nil || !(raw.Metadata.TotalSize > 0) || raw.Metadata.TotalSize > maxWeightFile {
		return 0
	}
	return int64(raw.Metadata.TotalSize)
}
