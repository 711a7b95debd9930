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

// File is the file of an expert's folder that holds z.
const File = "expert.safetensors"

// Versions of File. A runtime that does not know that experts may act on answers alone
// must not serve one as if it did not: such a file has a version of its own.
const (
	formatPrefix  = "t2-expert/"
	format        = formatPrefix + "1"
	formatAnswers = formatPrefix + "2"
)

// Keys of File's metadata, besides format. The scores are optional; the question of
// pass 1 is a classifier's alone.
const (
	metaBase          = "baseDigest"
	metaDecomposition = "decompositionDigest"
	metaSkill         = "skill"
	metaMethod        = "method"
	metaBaseline      = "baselineScore"
	metaScore         = "score"
	metaPass1         = "pass1Digest"
	metaActivation    = "activation" // Of formatAnswers.
)

// maxBytes bounds File. Llama-3.1-405B has 4 M singular values.
const maxBytes = 1 << 30

// maxSkill bounds the name of a skill.
const maxSkill = 256

// Read reads an expert from its folder, verifying every file against its
// manifest, or from an expert.safetensors file alone. What is damaged is
// refused with contract.ReasonDigestMismatch, what is malformed with
// contract.ReasonInvalidExpert.
func Read(path string) (Adapter, error) { return ReadContext(context.Background(), path) }

// ReadContext is Read, which ends with an error when ctx does.
func ReadContext(ctx context.Context, path string) (Adapter, error) {
	stat, err := os.Stat(path)
	if err != nil {
		return Adapter{}, fmt.Errorf("reading expert: %w", err)
	}
	if !stat.IsDir() {
		return readBare(path)
	}
	m, err := artifact.ReadManifest[contract.ExpertManifest](path)
	if errors.Is(err, fs.ErrNotExist) {
		return Adapter{}, failure.Permanentf(contract.ReasonInvalidExpert, "%s has no %s: it is no expert", path, contract.ManifestFile)
	}
	if err != nil {
		return Adapter{}, failure.Content(contract.ReasonInvalidExpert, err)
	}
	if got := contract.DigestFiles(m.Files); got != m.Digest {
		return Adapter{}, failure.Permanentf(contract.ReasonDigestMismatch, "manifest of %s says its digest is %s, but its files give %s", path, m.Digest, got)
	}
	if !slices.ContainsFunc(m.Files, func(f contract.FileEntry) bool { return f.Path == File }) {
		return Adapter{}, failure.Permanentf(contract.ReasonInvalidExpert, "manifest of %s lists no %s", path, File)
	}
	if err := artifact.VerifyContext(ctx, path, m.Files); err != nil {
		return Adapter{}, failure.Content(contract.ReasonDigestMismatch, fmt.Errorf("expert: %w", err))
	}
	v, err := parse(filepath.Join(path, File))
	if err != nil {
		return Adapter{}, err
	}
	if v.Manifest.BaseDigest != m.BaseDigest || v.Manifest.DecompositionDigest != m.DecompositionDigest || v.Manifest.Skill != m.Skill || v.Manifest.Pass1Digest != m.Pass1Digest || v.Manifest.Activation != m.Activation {
		return Adapter{}, failure.Permanentf(contract.ReasonInvalidExpert, "manifest of %s and its %s disagree about base, decomposition, skill or activation", path, File)
	}
	v.Manifest = m
	return v, nil
}

// readBare reads an expert.safetensors file without a manifest: its manifest
// then consists of what its metadata say and of itself.
func readBare(path string) (Adapter, error) {
	v, err := parse(path)
	if err != nil {
		return Adapter{}, err
	}
	entry, err := artifact.HashFile(filepath.Dir(path), filepath.Base(path))
	if err != nil {
		return Adapter{}, fmt.Errorf("hashing expert: %w", err)
	}
	entry.Path = File // Its name outside of a folder means nothing.
	v.Manifest.Files = []contract.FileEntry{entry}
	v.Manifest.Digest = contract.DigestFiles(v.Manifest.Files)
	v.Manifest.SizeBytes = entry.SizeBytes
	return v, nil
}

func parse(path string) (Adapter, error) {
	stat, err := os.Stat(path)
	if err != nil {
		return Adapter{}, fmt.Errorf("reading expert: %w", err)
	}
	if stat.Size() > maxBytes {
		return Adapter{}, failure.Permanentf(contract.ReasonInvalidExpert, "%s has %d bytes, an expert vector has at most %d", path, stat.Size(), int64(maxBytes))
	}
	f, err := checkpoint.Open(path)
	if err != nil {
		return Adapter{}, asExpert(err)
	}
	defer func() { _ = f.Close() }() // Nothing was written.
	v, err := from(f)
	if err != nil {
		return Adapter{}, asExpert(fmt.Errorf("%s: %w", path, err))
	}
	return v, nil
}

// IsAdapter reports whether an open safetensors file says it is an expert.
func IsAdapter(f *checkpoint.File) bool {
	return strings.HasPrefix(f.Metadata()[metaFormat], formatPrefix)
}

// asExpert turns "invalid model" of the safetensors reader into "invalid
// expert".
func asExpert(err error) error {
	if failure.System(err) {
		return err
	}
	return failure.Permanent(contract.ReasonInvalidExpert, err)
}

func from(f *checkpoint.File) (Adapter, error) {
	meta := f.Metadata()
	activation := ""
	switch got := meta[metaFormat]; got {
	case format:
	case formatAnswers:
		if activation = meta[metaActivation]; activation != contract.ActivationAnswer {
			return Adapter{}, fmt.Errorf("has format %q and acts on %q; this runtime knows %s", got, activation, contract.ActivationAnswer)
		}
	default:
		return Adapter{}, fmt.Errorf("has format %q, an expert vector has %q or %q: it is no expert or of another version", got, format, formatAnswers)
	}
	method := Method(meta[metaMethod])
	if !slices.Contains(Methods(), method) {
		return Adapter{}, fmt.Errorf("is made by method %q; this runtime knows %s", method, methodNames())
	}
	m := contract.ExpertManifest{
		BaseDigest: meta[metaBase], DecompositionDigest: meta[metaDecomposition], Skill: meta[metaSkill], Pass1Digest: meta[metaPass1],
		Activation: activation,
	}
	if m.Pass1Digest != "" && !contract.ValidDigest(m.Pass1Digest) {
		return Adapter{}, fmt.Errorf("metadata %s is %q, which is no digest", metaPass1, m.Pass1Digest)
	}
	for key, digest := range map[string]string{metaBase: m.BaseDigest, metaDecomposition: m.DecompositionDigest} {
		if !contract.ValidDigest(digest) {
			return Adapter{}, fmt.Errorf("metadata %s is %q, which is no digest", key, digest)
		}
	}
	if len(m.Skill) > maxSkill {
		return Adapter{}, fmt.Errorf("name of the skill has %d bytes, at most %d are allowed", len(m.Skill), maxSkill)
	}
	for key, score := range map[string]*float64{metaBaseline: &m.BaselineScore, metaScore: &m.Score} {
		text, ok := meta[key]
		if !ok {
			continue
		}
		value, err := strconv.ParseFloat(text, 64)
		if err != nil || !(value >= 0 && value <= 1) {
			return Adapter{}, fmt.Errorf("metadata %s is %q, a score is 0 to 1", key, text)
		}
		*score = value
	}
	v := Adapter{Manifest: m, Method: method}
	if method == SVF {
		return v, v.readScales(f)
	}
	return v, v.readBranches(f)
}

// Write publishes an expert under root/contract.DirExperts: its z, the
// extra files (by name; each is written by its function) and a manifest, which
// is returned. Of v.Manifest, BaseDigest, DecompositionDigest, Skill, Pass1Digest,
// Activation and the scores are used.
func Write(root string, v Adapter, extraFiles map[string]func(io.Writer) error) (contract.ExpertManifest, error) {
	m, err := write(root, v, extraFiles)
	if err != nil {
		return m, fmt.Errorf("publishing expert: %w", err)
	}
	return m, nil
}

func write(root string, v Adapter, extraFiles map[string]func(io.Writer) error) (_ contract.ExpertManifest, err error) {
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
	if err := WriteFile(filepath.Join(stage.Dir(), File), v); err != nil {
		return m, err
	}
	names := []string{File}
	for _, name := range slices.Sorted(maps.Keys(extraFiles)) {
		if name != filepath.Base(name) || strings.HasPrefix(name, ".") || name == File || name == contract.ManifestFile {
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
	return m, stage.PublishDigest(m.Digest, m)
}

// WriteFile writes an expert.safetensors file alone.
func WriteFile(path string, v Adapter) error {
	m := v.Manifest
	if !contract.ValidDigest(m.BaseDigest) || !contract.ValidDigest(m.DecompositionDigest) {
		return fmt.Errorf("expert of base %q and decomposition %q: both must be digests", m.BaseDigest, m.DecompositionDigest)
	}
	method := v.Method
	if method == "" {
		method = SVF
	}
	meta := map[string]string{
		metaFormat: format, metaMethod: string(method), metaSkill: m.Skill,
		metaBase: m.BaseDigest, metaDecomposition: m.DecompositionDigest,
		metaBaseline: strconv.FormatFloat(m.BaselineScore, 'g', -1, 64),
		metaScore:    strconv.FormatFloat(m.Score, 'g', -1, 64),
	}
	if m.Pass1Digest != "" {
		meta[metaPass1] = m.Pass1Digest
	}
	switch m.Activation {
	case "":
	case contract.ActivationAnswer:
		meta[metaFormat], meta[metaActivation] = formatAnswers, m.Activation
	default:
		return fmt.Errorf("expert with the activation %q: it is %s, or empty", m.Activation, contract.ActivationAnswer)
	}
	return checkpoint.WriteSafetensors(path, v.tensors(), tensor.F32, meta)
}
