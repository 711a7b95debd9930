package contract

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"path"
	"sort"
	"strings"
)

// DigestPrefix begins every digest: "sha256:" and 64 lower-case hex digits.
const DigestPrefix = "sha256:"

// ManifestFile is the name of the JSON file in each artifact's folder that
// describes it. It is written last, so a folder without one is no artifact.
const ManifestFile = "t2-manifest.json"

// FileEntry is one file of an artifact.
type FileEntry struct {
	// Path is relative to the artifact's folder, with forward slashes.
	Path string `json:"path"`
	// SizeBytes is the file's size.
	SizeBytes int64 `json:"sizeBytes"`
	// SHA256 is the file's digest, "sha256:…".
	SHA256 string `json:"sha256"`
}

// DigestFiles returns the digest of a set of files: the SHA-256 of one line per
// file, "<sha256> <size> <path>\n", sorted by path. It depends on contents and
// names only, so the same model has the same digest wherever it came from.
func DigestFiles(files []FileEntry) string {
	sorted := append([]FileEntry(nil), files...)
	sort.Slice(sorted, func(i, j int) bool { return sorted[i].Path < sorted[j].Path })
	h := sha256.New()
	for _, f := range sorted {
		fmt.Fprintf(h, "%s %d %s\n", f.SHA256, f.SizeBytes, f.Path)
	}
	return DigestPrefix + hex.EncodeToString(h.Sum(nil))
}

// ValidDigest reports whether s has the form that DigestPrefix describes.
func ValidDigest(s string) bool {
	digits, ok := strings.CutPrefix(s, DigestPrefix)
	if !ok || len(digits) != 2*sha256.Size {
		return false
	}
	return strings.Trim(digits, "0123456789abcdef") == ""
}

// DigestDir returns the folder name of the artifact with this digest:
// "sha256-…". It refuses what is no digest, because the name becomes a path.
func DigestDir(digest string) (string, error) {
	if !ValidDigest(digest) {
		return "", fmt.Errorf("%q is no digest (sha256: and 64 lower-case hex digits)", digest)
	}
	return "sha256-" + strings.TrimPrefix(digest, DigestPrefix), nil
}

// ArtifactDir returns the folder of an artifact under a data root: kind is one
// of DirModels, DirDecompositions, DirExperts, DirProbes, DirEvaluations.
func ArtifactDir(root, kind, digest string) (string, error) {
	dir, err := DigestDir(digest)
	if err != nil {
		return "", err
	}
	return path.Join(root, kind, dir), nil
}

// VolumeOf returns the data root that has an expert's artifact: own, or for one that is
// transferred the folder of its base's name, from, in transfer, which is where the volumes
// of other bases are; empty if there are none. The name becomes a path, so it is refused
// unless it is one folder's.
func VolumeOf(own, transfer, from string) (string, error) {
	switch {
	case from == "":
		return own, nil
	case transfer == "":
		return "", fmt.Errorf("it is to be transferred from base model %s, and the specification has no transferDir, where that one's volume would be", from)
	case from == "." || from == ".." || strings.ContainsAny(from, `/\`):
		return "", fmt.Errorf("transferFrom %q is no name of a base model", from)
	default:
		return path.Join(transfer, from), nil
	}
}

// TokenizerFiles are the files that a model's vocabulary is read from, the
// preferred one first: Hugging Face's, a SentencePiece model, and Mistral's own
// name for one. Only the first that is there belongs to the model.
var TokenizerFiles = []string{"tokenizer.json", "tokenizer.model", "tokenizer.model.v3"}

// ModelManifest describes a fetched model. Digest is DigestFiles(Files).
type ModelManifest struct {
	Digest string      `json:"digest"`
	Files  []FileEntry `json:"files"`
	// At is the folder that has the files where they were not copied beside the manifest:
	// MountModel, or one below it. They are not ours, so that who opens them compares them
	// with Files first.
	At           string       `json:"at,omitempty"`
	SizeBytes    int64        `json:"sizeBytes"`
	Architecture Architecture `json:"architecture"`
}

// Architecture is what a model's config.json and weights say it is.
type Architecture struct {
	Family         string `json:"family"`
	Layers         int    `json:"layers"`
	HiddenSize     int    `json:"hiddenSize"`
	Parameters     int64  `json:"parameters"`
	VocabularySize int    `json:"vocabularySize"`
	// ContextLength is the longest sequence that the model was made for, in tokens;
	// 0 in the manifest of a model that was fetched before manifests said so.
	ContextLength int `json:"contextLength,omitempty"`
}

// DecompositionManifest describes the factors of a model's matrices. Digest
// is the digest of BaseDigest, Modules, DType and the factor files.
type DecompositionManifest struct {
	Digest     string      `json:"digest"`
	BaseDigest string      `json:"baseDigest"`
	Modules    []string    `json:"modules"`
	DType      string      `json:"dtype"`
	Files      []FileEntry `json:"files"`
	// Matrices is the number of matrices decomposed and SingularValues the
	// sum of their ranks: the length of an expert vector.
	Matrices       int `json:"matrices"`
	SingularValues int `json:"singularValues"`
	// MaxRelativeError is the largest ‖W − U·diag(σ)·Vᵀ‖ / ‖W‖ (Frobenius).
	MaxRelativeError float64 `json:"maxRelativeError"`
}

// ExpertManifest describes an expert vector. Digest is DigestFiles(Files).
type ExpertManifest struct {
	Digest              string      `json:"digest"`
	Files               []FileEntry `json:"files"`
	SizeBytes           int64       `json:"sizeBytes"`
	BaseDigest          string      `json:"baseDigest"`
	DecompositionDigest string      `json:"decompositionDigest"`
	Skill               string      `json:"skill"`
	// BaselineScore and Score are the validation scores (0 to 1) of the base
	// model and of this expert.
	BaselineScore float64 `json:"baselineScore"`
	Score         float64 `json:"score"`
	// Pass1Digest is that of the question which a classifier was trained to answer
	// (Pass1.Digest); empty for an expert that is none, or of which it is not known.
	Pass1Digest string `json:"pass1Digest,omitempty"`
	// Activation is ActivationAnswer, or empty, which means ActivationPrompt.
	Activation string `json:"activation,omitempty"`
}

// What an expert acts on.
const (
	// ActivationPrompt: all of a request is computed with the expert, as in the paper.
	ActivationPrompt = "Prompt"
	// ActivationAnswer: the base reads the prompt, and the expert acts from the prompt's
	// last token on (as activated LoRA does: arXiv 2504.12397). So all such experts share
	// the base's keys and values.
	ActivationAnswer = "Answer"
)
