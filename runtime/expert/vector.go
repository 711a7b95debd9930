package expert

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/transformersquared/operator/runtime/artifact"
	"github.com/transformersquared/operator/runtime/checkpoint"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/failure"
	"github.com/transformersquared/operator/runtime/tensor"
)

// VectorFile is the file of an expert's folder that holds z.
const VectorFile = "expert.safetensors"

// vectorFormat is the version of VectorFile.
const vectorFormat = "t2-expert/1"

// MethodSVF names the method in VectorFile's metadata.
const MethodSVF = "SVF"

// Keys of VectorFile's metadata, besides format. The scores are optional.
const (
	metaBase          = "baseDigest"
	metaDecomposition = "decompositionDigest"
	metaSkill         = "skill"
	metaMethod        = "method"
	metaBaseline      = "baselineScore"
	metaScore         = "score"
)

// maxVectorBytes bounds VectorFile. Llama-3.1-405B has 4 M singular values.
const maxVectorBytes = 1 << 30

// maxSkill bounds the name of a skill.
const maxSkill = 256

// Vector is an expert vector.
type Vector struct {
	Manifest contract.ExpertManifest
	// Z has the effective z of each matrix the expert scales, by the matrix'
	// name. Matrices that are absent stay as they are.
	Z map[string][]float32
}

// ReadVector reads an expert from its folder, verifying every file against its
// manifest, or from an expert.safetensors file alone. What is damaged is
// refused with contract.ReasonDigestMismatch, what is malformed with
// contract.ReasonInvalidExpert.
func ReadVector(path string) (Vector, error) { return ReadVectorContext(context.Background(), path) }

// ReadVectorContext is ReadVector, which ends with an error when ctx does.
func ReadVectorContext(ctx context.Context, path string) (Vector, error) {
	stat, err := os.Stat(path)
	if err != nil {
		return Vector{}, fmt.Errorf("reading expert: %w", err)
	}
	if !stat.IsDir() {
		return readBare(path)
	}
	m, err := artifact.ReadManifest[contract.ExpertManifest](path)
	if errors.Is(err, fs.ErrNotExist) {
		return Vector{}, failure.Permanentf(contract.ReasonInvalidExpert, "%s has no %s: it is no expert", path, contract.ManifestFile)
	}
	if err != nil {
		return Vector{}, failure.Content(contract.ReasonInvalidExpert, err)
	}
	if got := contract.DigestFiles(m.Files); got != m.Digest {
		return Vector{}, failure.Permanentf(contract.ReasonDigestMismatch, "manifest of %s says its digest is %s, but its files give %s", path, m.Digest, got)
	}
	if !slices.ContainsFunc(m.Files, func(f contract.FileEntry) bool { return f.Path == VectorFile }) {
		return Vector{}, failure.Permanentf(contract.ReasonInvalidExpert, "manifest of %s lists no %s", path, VectorFile)
	}
	if err := artifact.VerifyContext(ctx, path, m.Files); err != nil {
		return Vector{}, failure.Content(contract.ReasonDigestMismatch, fmt.Errorf("expert: %w", err))
	}
	v, err := parseVector(filepath.Join(path, VectorFile))
	if err != nil {
		return Vector{}, err
	}
	if v.Manifest.BaseDigest != m.BaseDigest || v.Manifest.DecompositionDigest != m.DecompositionDigest || v.Manifest.Skill != m.Skill {
		return Vector{}, failure.Permanentf(contract.ReasonInvalidExpert, "manifest of %s and its %s disagree about base, decomposition or skill", path, VectorFile)
	}
	v.Manifest = m
	return v, nil
}

// readBare reads an expert.safetensors file without a manifest: its manifest
// then consists of what its metadata say and of itself.
func readBare(path string) (Vector, error) {
	v, err := parseVector(path)
	if err != nil {
		return Vector{}, err
	}
	entry, err := artifact.HashFile(filepath.Dir(path), filepath.Base(path))
	if err != nil {
		return Vector{}, fmt.Errorf("hashing expert: %w", err)
	}
	entry.Path = VectorFile // Its name outside of a folder means nothing.
	v.Manifest.Files = []contract.FileEntry{entry}
	v.Manifest.Digest = contract.DigestFiles(v.Manifest.Files)
	v.Manifest.SizeBytes = entry.SizeBytes
	return v, nil
}

func parseVector(path string) (Vector, error) {
	stat, err := os.Stat(path)
	if err != nil {
		return Vector{}, fmt.Errorf("reading expert: %w", err)
	}
	if stat.Size() > maxVectorBytes {
		return Vector{}, failure.Permanentf(contract.ReasonInvalidExpert, "%s has %d bytes, an expert vector has at most %d", path, stat.Size(), int64(maxVectorBytes))
	}
	f, err := checkpoint.Open(path)
	if err != nil {
		return Vector{}, asExpert(err)
	}
	defer func() { _ = f.Close() }() // Nothing was written.
	v, err := vectorFrom(f)
	if err != nil {
		return Vector{}, asExpert(fmt.Errorf("%s: %w", path, err))
	}
	return v, nil
}

// IsVector reports whether an open safetensors file says it is an expert.
func IsVector(f *checkpoint.File) bool {
	return strings.HasPrefix(f.Metadata()[metaFormat], "t2-expert/")
}

// asExpert turns "invalid model" of the safetensors reader into "invalid
// expert".
func asExpert(err error) error {
	if failure.System(err) {
		return err
	}
	return failure.Permanent(contract.ReasonInvalidExpert, err)
}

func vectorFrom(f *checkpoint.File) (Vector, error) {
	meta := f.Metadata()
	if got := meta[metaFormat]; got != vectorFormat {
		return Vector{}, fmt.Errorf("has format %q, an expert vector has %q: it is no expert or of another version", got, vectorFormat)
	}
	if got := meta[metaMethod]; got != MethodSVF {
		return Vector{}, fmt.Errorf("is made by method %q; this runtime knows %s", got, MethodSVF)
	}
	m := contract.ExpertManifest{BaseDigest: meta[metaBase], DecompositionDigest: meta[metaDecomposition], Skill: meta[metaSkill]}
	for key, digest := range map[string]string{metaBase: m.BaseDigest, metaDecomposition: m.DecompositionDigest} {
		if !contract.ValidDigest(digest) {
			return Vector{}, fmt.Errorf("metadata %s is %q, which is no digest", key, digest)
		}
	}
	if len(m.Skill) > maxSkill {
		return Vector{}, fmt.Errorf("name of the skill has %d bytes, at most %d are allowed", len(m.Skill), maxSkill)
	}
	for key, score := range map[string]*float64{metaBaseline: &m.BaselineScore, metaScore: &m.Score} {
		text, ok := meta[key]
		if !ok {
			continue
		}
		value, err := strconv.ParseFloat(text, 64)
		if err != nil || !(value >= 0 && value <= 1) {
			return Vector{}, fmt.Errorf("metadata %s is %q, a score is 0 to 1", key, text)
		}
		*score = value
	}
	v := Vector{Manifest: m, Z: map[string][]float32{}}
	for _, name := range f.Names() {
		info, _ := f.Info(name)
		if info.DType != string(tensor.F32) || len(info.Shape) != 1 || info.Shape[0] == 0 {
			return Vector{}, fmt.Errorf("tensor %q is %s %v, z is F32 and has one dimension", name, info.DType, info.Shape)
		}
		t, err := f.Tensor(name)
		if err != nil {
			return Vector{}, err
		}
		v.Z[name] = t.Data
	}
	if len(v.Z) == 0 {
		return Vector{}, errors.New("scales no matrix")
	}
	return v, nil
}

// WriteVector publishes an expert under root/contract.DirExperts: its z, the
// extra files (by name; each is written by its function) and a manifest, which
// is returned. Of v.Manifest, BaseDigest, DecompositionDigest, Skill and the
// scores are used.
func WriteVector(root string, v Vector, extraFiles map[string]func(io.Writer) error) (contract.ExpertManifest, error) {
	m, err := writeVector(root, v, extraFiles)
	if err != nil {
		return m, fmt.Errorf("publishing expert: %w", err)
	}
	return m, nil
}

func writeVector(root string, v Vector, extraFiles map[string]func(io.Writer) error) (_ contract.ExpertManifest, err error) {
	m := v.Manifest
	stage, err := artifact.Stage(filepath.Join(root, contract.DirExperts))
	if err != nil {
		return m, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, stage.Discard())
		}
	}()
	if err := WriteVectorFile(filepath.Join(stage.Dir(), VectorFile), v); err != nil {
		return m, err
	}
	names := []string{VectorFile}
	for _, name := range slices.Sorted(maps.Keys(extraFiles)) {
		if name != filepath.Base(name) || strings.HasPrefix(name, ".") || name == VectorFile || name == contract.ManifestFile {
			return m, fmt.Errorf("an expert can have no extra file named %q", name)
		}
		if err := artifact.WriteFileAtomic(filepath.Join(stage.Dir(), name), extraFiles[name]); err != nil {
			return m, err
		}
		names = append(names, name)
	}
	if m.Files, err = artifact.HashFiles(stage.Dir(), names); err != nil {
		return m, err
	}
	m.Digest, m.SizeBytes = contract.DigestFiles(m.Files), artifact.TotalBytes(m.Files)
	if err := artifact.WriteManifest(stage.Dir(), m); err != nil {
		return m, err
	}
	final, err := contract.ArtifactDir(root, contract.DirExperts, m.Digest)
	if err != nil {
		return m, err
	}
	return m, stage.Publish(final)
}

// WriteVectorFile writes an expert.safetensors file alone.
func WriteVectorFile(path string, v Vector) error {
	m := v.Manifest
	if !contract.ValidDigest(m.BaseDigest) || !contract.ValidDigest(m.DecompositionDigest) {
		return fmt.Errorf("expert of base %q and decomposition %q: both must be digests", m.BaseDigest, m.DecompositionDigest)
	}
	tensors := make(map[string]*tensor.Tensor, len(v.Z))
	for name, z := range v.Z {
		tensors[name] = &tensor.Tensor{Shape: []int{len(z)}, Data: z}
	}
	return checkpoint.WriteSafetensors(path, tensors, tensor.F32, map[string]string{
		metaFormat: vectorFormat, metaMethod: MethodSVF, metaSkill: m.Skill,
		metaBase: m.BaseDigest, metaDecomposition: m.DecompositionDigest,
		metaBaseline: strconv.FormatFloat(m.BaselineScore, 'g', -1, 64),
		metaScore:    strconv.FormatFloat(m.Score, 'g', -1, 64),
	})
}

// Fits checks that the expert scales exactly this decomposition; the error,
// contract.ReasonDecompositionMismatch, says what differs.
func (v Vector) Fits(d *Decomposition) error {
	mismatch := func(format string, args ...any) error {
		return failure.Permanentf(contract.ReasonDecompositionMismatch, "expert does not fit: "+format, args...)
	}
	m, dm := v.Manifest, d.Manifest()
	if m.BaseDigest != dm.BaseDigest {
		return mismatch("it was made for base model %s, this decomposition is of %s; train or import it for this base", m.BaseDigest, dm.BaseDigest)
	}
	if m.DecompositionDigest != dm.Digest {
		return mismatch("it was made for decomposition %s, this one is %s; both are of base model %s, but modules or dtype differ", m.DecompositionDigest, dm.Digest, dm.BaseDigest)
	}
	for _, name := range slices.SortedFunc(maps.Keys(v.Z), compareMatrices) {
		switch rank := d.Rank(name); {
		case rank == 0:
			return mismatch("it scales %s, which the decomposition has not", name)
		case rank != len(v.Z[name]):
			return mismatch("it scales %s by %d numbers, which has %d singular values", name, len(v.Z[name]), rank)
		}
	}
	return nil
}
