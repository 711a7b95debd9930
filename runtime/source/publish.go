package source

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/errcode"

	"github.com/transformersquared/operator/runtime/artifact"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/expert"
	"github.com/transformersquared/operator/runtime/failure"
)

// ExpertArtifactType is that of an expert's manifests and index in a registry.
const ExpertArtifactType = "application/vnd.transformersquared.expert.v1"

// Annotations of an expert in a registry.
const (
	annotationExpert        = "dev.transformersquared.expert.digest"
	annotationBase          = "dev.transformersquared.base.digest"
	annotationDecomposition = "dev.transformersquared.decomposition.digest"
	annotationSkill         = "dev.transformersquared.expert.skill"
	annotationBaseline      = "dev.transformersquared.expert.baseline-score"
	annotationScore         = "dev.transformersquared.expert.score"
)

// architectures are those of nodes that may mount an artifact as a volume: a container
// runtime takes an image's manifest for its own platform only, though nothing in it differs.
var architectures = []string{"amd64", "arm64"}

// Published is an artifact in a registry.
type Published struct {
	// Digest is that of its index: registry/repository@Digest never means another.
	Digest string
	// Expert is the manifest of what is in it.
	Expert contract.ExpertManifest
	// Evaluation is the digest of the manifest that refers to it and has its evaluation;
	// empty where there is none.
	Evaluation string
}

// PublishExpert pushes an expert's folder to a registry, after checking it, and an evaluation
// of it, JSON, that refers to it; nil means what its manifest says of its validation, if it
// does. What becomes of the same expert has the same digest whoever pushes it, and what is
// there already is not pushed again.
//
// It has the form that both readers of artifacts and container runtimes understand (OCI
// image specification 1.1): one layer of an image's tar media type, an image configuration
// whose rootfs names the layer's content, and an artifact type beside it. A file under a
// media type of its own with an empty configuration, which is what ORAS makes by default,
// would be pulled by a container runtime and mounted as an empty folder.
func PublishExpert(ctx context.Context, dir string, to contract.OCISource, evaluation []byte, o Options) (_ Published, err error) {
	m, err := artifact.ReadManifest[contract.ExpertManifest](dir)
	if err != nil {
		return Published{}, fmt.Errorf("the expert in %s: %w", dir, err)
	}
	if err := errors.Join(artifact.VerifyContext(ctx, dir, m.Files), wholeExpert(m)); err != nil {
		return Published{}, failure.Permanentf(contract.ReasonInvalidExpert, "the expert in %s: %w", dir, err)
	}
	t, err := openRegistry(to, o, &meter{report: o.Progress})
	if err != nil {
		return Published{}, err
	}
	layer, err := os.CreateTemp("", "t2-layer-*.tar")
	if err != nil {
		return Published{}, fmt.Errorf("packing the expert: %w", err)
	}
	defer func() { err = errors.Join(err, layer.Close(), os.Remove(layer.Name())) }()
	desc, err := packFolder(layer, dir, m.Files)
	if err != nil {
		return Published{}, fmt.Errorf("packing the expert: %w", err)
	}
	if err := t.push(ctx, t.repo.Blobs(), desc, layer); err != nil {
		return Published{}, err
	}
	index, err := t.pushIndex(ctx, desc, m)
	if err != nil {
		return Published{}, err
	}
	if evaluation == nil {
		if evaluation, err = validated(m); err != nil {
			return Published{}, err
		}
	}
	// The tag comes last: what it names is complete.
	published := Published{Digest: index.Digest.String(), Expert: m}
	if published.Evaluation, err = t.pushEvaluation(ctx, index, evaluation); err != nil {
		return Published{}, err
	}
	return published, t.tag(ctx, index)
}

// wholeExpert checks that a manifest is that of an expert, whose digest is of its files.
func wholeExpert(m contract.ExpertManifest) error {
	if contract.DigestFiles(m.Files) != m.Digest {
		return errors.New("its manifest's digest is not that of its files")
	}
	for _, f := range m.Files {
		if f.Path == expert.File {
			return nil
		}
	}
	return fmt.Errorf("it has no %s", expert.File)
}

// packFolder writes a folder's manifest and files to a new file, as a tar that says nothing
// of when and by whom it was made, and rewinds it.
func packFolder(f *os.File, dir string, files []contract.FileEntry) (ocispec.Descriptor, error) {
	sum := digest.Canonical.Digester()
	archive := tar.NewWriter(io.MultiWriter(f, sum.Hash()))
	names := []string{contract.ManifestFile}
	for _, f := range files {
		names = append(names, f.Path)
	}
	for _, name := range names {
		if err := packFile(archive, dir, name); err != nil {
			return ocispec.Descriptor{}, err
		}
	}
	if err := archive.Close(); err != nil {
		return ocispec.Descriptor{}, err
	}
	size, err := f.Seek(0, io.SeekCurrent)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	_, err = f.Seek(0, io.SeekStart)
	return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: sum.Digest(), Size: size}, err
}

func packFile(archive *tar.Writer, dir, name string) (err error) {
	f, err := os.Open(filepath.Join(dir, name))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	stat, err := f.Stat()
	if err != nil {
		return err
	}
	if err := archive.WriteHeader(&tar.Header{Name: name, Size: stat.Size(), Mode: 0o444, Typeflag: tar.TypeReg, Format: tar.FormatUSTAR}); err != nil {
		return err
	}
	_, err = io.Copy(archive, f)
	return err
}

// pushIndex pushes what names the layer: a configuration and a manifest for each
// architecture, and the index of them.
func (t *ociTree) pushIndex(ctx context.Context, layer ocispec.Descriptor, m contract.ExpertManifest) (ocispec.Descriptor, error) {
	annotations := map[string]string{
		annotationExpert: m.Digest, annotationBase: m.BaseDigest, annotationDecomposition: m.DecompositionDigest, annotationSkill: m.Skill,
		annotationBaseline: strconv.FormatFloat(m.BaselineScore, 'g', -1, 64), annotationScore: strconv.FormatFloat(m.Score, 'g', -1, 64),
	}
	index := ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, ArtifactType: ExpertArtifactType, Annotations: annotations,
	}
	for _, architecture := range architectures {
		platform := ocispec.Platform{Architecture: architecture, OS: "linux"}
		config, err := t.pushJSON(ctx, t.repo.Blobs(), ocispec.MediaTypeImageConfig, ocispec.Image{
			Platform: platform, RootFS: ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{layer.Digest}},
		})
		if err != nil {
			return config, err
		}
		manifest, err := t.pushJSON(ctx, t.repo.Manifests(), ocispec.MediaTypeImageManifest, ocispec.Manifest{
			Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, ArtifactType: ExpertArtifactType,
			Config: config, Layers: []ocispec.Descriptor{layer}, Annotations: annotations,
		})
		if err != nil {
			return manifest, err
		}
		manifest.ArtifactType, manifest.Platform = ExpertArtifactType, &platform
		index.Manifests = append(index.Manifests, manifest)
	}
	return t.pushJSON(ctx, t.repo.Manifests(), ocispec.MediaTypeImageIndex, index)
}

// tag gives an index the tag that was asked for. Where a digest was, it must be the index's.
func (t *ociTree) tag(ctx context.Context, desc ocispec.Descriptor) error {
	tag := t.repo.Reference.Reference
	if t.repo.Reference.ValidateReferenceAsDigest() == nil {
		if tag != desc.Digest.String() {
			return failure.Permanentf(contract.ReasonDigestMismatch, "%s: the expert's artifact has digest %s: name a tag, or this digest", t, desc.Digest)
		}
		return nil
	}
	was, err := t.repo.Resolve(ctx, tag)
	if err == nil && was.Digest == desc.Digest {
		return nil // A registry that keeps its tags would refuse even this.
	}
	taken := err == nil
	if err := t.repo.Tag(ctx, desc, tag); err != nil {
		if answer, ok := errors.AsType[*errcode.ErrorResponse](err); ok && taken && keepsTag(answer.StatusCode) {
			return failure.Permanentf(contract.ReasonTagImmutable,
				"the registry does not move the tag of %s, which names %s, to %s, which was pushed: name another tag: %w", t, was.Digest, desc.Digest, answer.Errors)
		}
		return t.explain(ctx, err)
	}
	return nil
}

// keepsTag reports whether a registry that answers so to a tag which is there refuses to
// move it. The specification has no status for it: registries take several.
func keepsTag(status int) bool {
	switch status {
	case http.StatusBadRequest, http.StatusMethodNotAllowed, http.StatusConflict, http.StatusPreconditionFailed, http.StatusUnprocessableEntity:
		return true
	}
	return false
}

// pusher is a store of blobs or of manifests.
type pusher interface {
	Exists(ctx context.Context, target ocispec.Descriptor) (bool, error)
	Push(ctx context.Context, expected ocispec.Descriptor, content io.Reader) error
}

var _ pusher = (*remote.Repository)(nil)

func (t *ociTree) pushJSON(ctx context.Context, to pusher, mediaType string, v any) (ocispec.Descriptor, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	desc := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
	return desc, t.push(ctx, to, desc, bytes.NewReader(b))
}

// push pushes what is not there yet.
func (t *ociTree) push(ctx context.Context, to pusher, desc ocispec.Descriptor, content io.Reader) error {
	there, err := to.Exists(ctx, desc)
	if err != nil {
		return t.explain(ctx, err)
	}
	if there {
		return nil
	}
	t.meter.add(0, desc.Size)
	if err := to.Push(ctx, desc, io.TeeReader(content, t.meter)); err != nil {
		return t.explain(ctx, err)
	}
	return nil
}
