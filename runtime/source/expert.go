package source

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/transformersquared/operator/runtime/artifact"
	"github.com/transformersquared/operator/runtime/checkpoint"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/expert"
	"github.com/transformersquared/operator/runtime/failure"
	"github.com/transformersquared/operator/runtime/peft"
	"github.com/transformersquared/operator/runtime/tensor"
)

// maxExpertFiles bounds the files of an expert's folder; training makes four.
const maxExpertFiles = 64

// ImportExpert brings an expert vector to spec.DataDir, where the decomposition
// that it scales must be already, and returns its manifest. The source is an
// expert's folder, an archive of one, or an expert.safetensors file alone; for
// the latter spec.Digest may also be the file's own SHA-256. A file that the paper's
// reference implementation saved (expert.ReadReference) becomes an expert; spec.Digest
// is then the file's SHA-256 or the digest of what it becomes. With spec.Verify the source is
// read also where the expert is there already, and its signature is returned.
func ImportExpert(ctx context.Context, spec contract.ImportSpec, o Options) (contract.ExpertManifest, *contract.Verified, error) {
	v, err := newVerification(spec.Verify, o)
	if err != nil {
		return contract.ExpertManifest{}, nil, err
	}
	m, err := bringExpert(ctx, spec, v, o)
	return m, v.result(), err
}

func bringExpert(ctx context.Context, spec contract.ImportSpec, v *verification, o Options) (contract.ExpertManifest, error) {
	if spec.DataDir == "" {
		return contract.ExpertManifest{}, failure.Permanentf(contract.ReasonUsage, "no data directory is given")
	}
	dir, err := contract.ArtifactDir(spec.DataDir, contract.DirExperts, spec.Digest)
	if err != nil {
		return contract.ExpertManifest{}, failure.Permanent(contract.ReasonUsage, fmt.Errorf("digest of the expert: %w", err))
	}
	decomposition, err := openDecomposition(spec)
	if err != nil {
		return contract.ExpertManifest{}, err
	}
	if _, ok, err := present[contract.ExpertManifest](dir, func(m contract.ExpertManifest) (string, []contract.FileEntry) {
		return m.Digest, m.Files
	}); err != nil {
		return contract.ExpertManifest{}, err
	} else if ok && v == nil {
		return checkExpert(dir, decomposition)
	}
	m, err := importExpert(ctx, spec, v, decomposition, o)
	return m, failure.Content(contract.ReasonInvalidExpert, err)
}

func openDecomposition(spec contract.ImportSpec) (*expert.Decomposition, error) {
	dir, err := contract.ArtifactDir(spec.DataDir, contract.DirDecompositions, spec.DecompositionDigest)
	if err != nil {
		return nil, failure.Permanent(contract.ReasonUsage, fmt.Errorf("digest of the decomposition: %w", err))
	}
	d, err := expert.OpenDecomposition(dir)
	if err != nil {
		return nil, err
	}
	if got := d.Manifest().BaseDigest; spec.BaseDigest != "" && got != spec.BaseDigest {
		return nil, failure.Permanentf(contract.ReasonDecompositionMismatch,
			"decomposition %s is of base model %s, the specification says %s", spec.DecompositionDigest, got, spec.BaseDigest)
	}
	return d, nil
}

// checkExpert reads an expert's folder and checks that it fits.
func checkExpert(dir string, d *expert.Decomposition) (contract.ExpertManifest, error) {
	v, err := expert.Read(dir)
	if err != nil {
		return contract.ExpertManifest{}, err
	}
	return v.Manifest, v.Fits(d)
}

func importExpert(ctx context.Context, spec contract.ImportSpec, v *verification, d *expert.Decomposition, o Options) (_ contract.ExpertManifest, err error) {
	experts := filepath.Join(spec.DataDir, contract.DirExperts)
	stage, err := artifact.Stage(experts)
	if err != nil {
		return contract.ExpertManifest{}, err
	}
	published := false
	defer func() {
		if !published {
			err = errors.Join(err, stage.Discard())
		}
	}()
	from, err := openVerified(ctx, spec.Source, v, experts, o, &meter{report: o.Progress})
	if err != nil {
		return contract.ExpertManifest{}, err
	}
	taken := &taking{dir: stage.Dir(), data: spec.DataDir, decomposition: d, skill: spec.Skill}
	m, err := taken.expert(ctx, from)
	if err = errors.Join(err, from.close()); err != nil {
		return m, err
	}
	if m.Digest != spec.Digest && taken.file != spec.Digest {
		return m, failure.Permanentf(contract.ReasonDigestMismatch, "expert from %s has digest %s, the specification asks for %s", from, m.Digest, spec.Digest)
	}
	if m, err = checkExpert(stage.Dir(), d); err != nil {
		return m, fmt.Errorf("expert from %s: %w", from, err)
	}
	final, err := contract.ArtifactDir(spec.DataDir, contract.DirExperts, m.Digest)
	if err != nil {
		return m, err
	}
	if err := stage.Publish(final); err != nil {
		return m, err
	}
	published = true
	return m, nil
}

// taking is the arrival of an expert in a folder.
type taking struct {
	dir, data     string
	decomposition *expert.Decomposition
	skill         string
	// file is the SHA-256 of a source that is one file, or of an adapter's weights.
	file string
}

// expert copies an expert's files to the folder and leaves a manifest there.
func (t *taking) expert(ctx context.Context, from tree) (contract.ExpertManifest, error) {
	if one, ok := from.(single); ok {
		if err := one.takeOnly(ctx, filepath.Join(t.dir, expert.File), maxExpertFile); err != nil {
			return contract.ExpertManifest{}, noExpert(from, err)
		}
		return t.describe(from)
	}
	err := from.take(ctx, contract.ManifestFile, filepath.Join(t.dir, contract.ManifestFile), maxSmallFile)
	if errors.Is(err, fs.ErrNotExist) {
		err := from.take(ctx, expert.File, filepath.Join(t.dir, expert.File), maxExpertFile)
		if errors.Is(err, fs.ErrNotExist) {
			return t.adapter(ctx, from)
		}
		if err != nil {
			return contract.ExpertManifest{}, err
		}
		return t.describe(from)
	}
	if err != nil {
		return contract.ExpertManifest{}, err
	}
	m, err := artifact.ReadManifest[contract.ExpertManifest](t.dir)
	if err != nil {
		return m, fmt.Errorf("expert from %s: %w", from, err)
	}
	if len(m.Files) > maxExpertFiles {
		return m, fmt.Errorf("expert from %s: manifest lists %d files, at most %d are allowed", from, len(m.Files), maxExpertFiles)
	}
	for _, f := range m.Files {
		if f.Path != filepath.Base(f.Path) || strings.HasPrefix(f.Path, ".") || f.Path == contract.ManifestFile {
			return m, fmt.Errorf("expert from %s: manifest lists %q, which cannot be a file of an expert", from, f.Path)
		}
		if err := from.take(ctx, f.Path, filepath.Join(t.dir, f.Path), maxExpertFile); err != nil {
			return m, noExpert(from, err)
		}
	}
	if len(m.Files) == 1 {
		t.file = m.Files[0].SHA256
	}
	return m, nil
}

// adapter makes the expert of an adapter in PEFT's format.
func (t *taking) adapter(ctx context.Context, from tree) (_ contract.ExpertManifest, err error) {
	dir, err := os.MkdirTemp(filepath.Dir(t.dir), ".peft-")
	if err != nil {
		return contract.ExpertManifest{}, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := from.take(ctx, peft.ConfigFile, filepath.Join(dir, peft.ConfigFile), maxSmallFile); err != nil {
		return contract.ExpertManifest{}, noExpert(from, err)
	}
	weights := peft.WeightsFile
	err = from.take(ctx, weights, filepath.Join(dir, weights), maxExpertFile)
	if errors.Is(err, fs.ErrNotExist) {
		weights = peft.PickleFile
		err = from.take(ctx, weights, filepath.Join(dir, weights), maxExpertFile)
	}
	if err != nil {
		return contract.ExpertManifest{}, noExpert(from, err)
	}
	entry, err := artifact.HashFile(dir, weights)
	if err != nil {
		return contract.ExpertManifest{}, fmt.Errorf("hashing adapter: %w", err)
	}
	t.file = entry.SHA256
	v, err := t.fromPEFT(ctx, dir)
	if err != nil {
		return contract.ExpertManifest{}, fmt.Errorf("adapter from %s: %w", from, err)
	}
	path := filepath.Join(t.dir, expert.File)
	if err := expert.WriteFile(path, v); err != nil {
		return contract.ExpertManifest{}, err
	}
	if v, err = expert.Read(path); err != nil {
		return contract.ExpertManifest{}, err
	}
	return v.Manifest, artifact.WriteManifest(t.dir, v.Manifest)
}

func (t *taking) fromPEFT(ctx context.Context, dir string) (v expert.Adapter, err error) {
	a, err := peft.Read(ctx, dir)
	if err != nil {
		return v, err
	}
	dm := t.decomposition.Manifest()
	place, err := contract.ArtifactDir(t.data, contract.DirModels, dm.BaseDigest)
	if err != nil {
		return v, err
	}
	if place, err = checkpoint.Locate(ctx, place); err != nil {
		return v, err
	}
	base, err := checkpoint.OpenDir(place)
	if err != nil {
		return v, fmt.Errorf("the base model: %w", err)
	}
	defer func() { err = errors.Join(err, base.Close()) }()
	const suffix = ".weight"
	shape := func(name string) (out, in int, ok bool) {
		info, ok := base.Info(name + suffix)
		if !ok || len(info.Shape) != 2 || !slices.Contains(expert.Modules(), expert.ModuleOf(name)) {
			return 0, 0, false
		}
		return info.Shape[0], info.Shape[1], true
	}
	if err := a.Fits(shape); err != nil {
		return v, err
	}
	v, err = expert.FromPEFT(ctx, a, func(name string) (*tensor.Tensor, error) { return base.Tensor(name + suffix) })
	v.Manifest = contract.ExpertManifest{BaseDigest: dm.BaseDigest, DecompositionDigest: dm.Digest, Skill: t.skill}
	return v, err
}

// describe writes the manifest of a folder that has an expert's file alone, which
// becomes an expert.safetensors first if it is none.
func (t *taking) describe(from tree) (contract.ExpertManifest, error) {
	entry, err := artifact.HashFile(t.dir, expert.File)
	if err != nil {
		return contract.ExpertManifest{}, fmt.Errorf("hashing expert: %w", err)
	}
	t.file = entry.SHA256
	path := filepath.Join(t.dir, expert.File)
	if err := t.convert(path, from.String()); err != nil {
		return contract.ExpertManifest{}, fmt.Errorf("expert from %w", err)
	}
	v, err := expert.Read(path)
	if err != nil {
		return contract.ExpertManifest{}, err
	}
	return v.Manifest, artifact.WriteManifest(t.dir, v.Manifest)
}

// convert replaces a file of the paper's reference implementation by the expert that
// it holds; others it leaves alone. The source is what errors name: the file lies
// where nobody will find it.
func (t *taking) convert(path, source string) error {
	saved, err := expert.IsReference(path)
	if err != nil || !saved {
		return err
	}
	v, err := t.parse(path, source)
	if err != nil {
		return err
	}
	v.Manifest.Skill = t.skill
	return expert.WriteFile(path, v)
}

func (t *taking) parse(path, source string) (_ expert.Adapter, err error) {
	f, err := os.Open(path)
	if err != nil {
		return expert.Adapter{}, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	stat, err := f.Stat()
	if err != nil {
		return expert.Adapter{}, err
	}
	return expert.ParseReference(f, stat.Size(), source, t.decomposition)
}

// noExpert classifies that a source has no expert.
func noExpert(from tree, err error) error {
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return failure.Transientf(contract.ReasonSourceNotFound, "%s has no expert (%s), nor an adapter (%s): %w", from, expert.File, peft.ConfigFile, err)
}
