package source

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"
	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/credentials"
	"oras.land/oras-go/v2/registry/remote/errcode"

	"github.com/transformersquared/operator/runtime/artifact"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/failure"
)

// maxLayers bounds what an artifact consists of.
const maxLayers = 10_000

// Where the layers of an artifact say which file they are: as ORAS does, and as ModelPack
// does, now and before it was one of the CNCF.
var nameAnnotations = []string{ocispec.AnnotationTitle, "org.cncf.model.filepath", "org.cnai.model.filepath"}

// ociTree is an artifact of a registry: layers that are files, and layers that are
// archives of files, which are unpacked when it is opened.
type ociTree struct {
	*receiver
	repo     *remote.Repository
	name     string // As the user gave it.
	manifest ocispec.Descriptor
	layers   map[string]ocispec.Descriptor // By the file's name.
	unpacked *artifact.Staging             // Nil where no layer is an archive.
	root     string
}

func openOCI(ctx context.Context, s contract.OCISource, scratch string, o Options, m *meter) (_ tree, err error) {
	t, err := openRegistry(s, o, m)
	if err != nil {
		return nil, err
	}
	manifest, err := t.resolveVerified(ctx, o.verify)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, t.close())
		}
	}()
	if err := t.open(ctx, manifest, scratch); err != nil {
		return nil, err
	}
	return t.folder(manifest, o.file)
}

// openRegistry returns what speaks with the registry of an artifact, of which nothing is
// known yet.
func openRegistry(s contract.OCISource, o Options, m *meter) (*ociTree, error) {
	repo, err := remote.NewRepository(s.Reference)
	if err != nil || repo.Reference.Reference == "" {
		return nil, failure.Permanentf(contract.ReasonUsage,
			"oci.reference %q is none of an artifact: it must be registry/repository:tag or registry/repository@sha256:…", s.Reference)
	}
	store, err := pullCredentials(o)
	if err != nil {
		return nil, err
	}
	client := o.Client
	if client == nil {
		client = NewClient()
	}
	asks := &auth.Client{Client: client, Cache: auth.NewCache(), Credential: credentials.Credential(store)}
	asks.SetUserAgent("t2")
	repo.Client, repo.PlainHTTP = asks, s.Insecure
	return &ociTree{receiver: newReceiver(o, m), repo: repo, name: s.Reference, layers: map[string]ocispec.Descriptor{}}, nil
}

// pullCredentials are those that the user gave, or else those of Docker on this machine.
func pullCredentials(o Options) (credentials.Store, error) {
	if len(o.DockerConfig) > 0 {
		store, err := credentials.NewMemoryStoreFromDockerConfig(o.DockerConfig)
		if err != nil {
			return nil, failure.Permanentf(contract.ReasonUsage, "the pull secret is no Docker configuration: make it with kubectl create secret docker-registry")
		}
		return store, nil
	}
	store, err := credentials.NewStoreFromDocker(credentials.StoreOptions{})
	if err != nil {
		return nil, failure.Permanentf(contract.ReasonUsage, "the Docker configuration of this machine: %w", err)
	}
	return store, nil
}

// resolveVerified is resolve, for an artifact that cosign must have signed where v says so.
func (t *ociTree) resolveVerified(ctx context.Context, v *verification) (ocispec.Manifest, error) {
	manifest, err := t.resolve(ctx)
	if err == nil && v != nil && v.method == contract.VerifyCosign {
		err = t.checkCosign(ctx, v)
	}
	return manifest, err
}

// resolve fetches the manifest that the reference means.
func (t *ociTree) resolve(ctx context.Context) (ocispec.Manifest, error) {
	desc, b, err := t.fetchManifest(ctx, t.repo.Reference.Reference)
	if err != nil {
		return ocispec.Manifest{}, err
	}
	t.manifest = desc
	var index ocispec.Index
	if desc.MediaType == ocispec.MediaTypeImageIndex || desc.MediaType == "application/vnd.docker.distribution.manifest.list.v2+json" {
		if err := json.Unmarshal(b, &index); err != nil {
			return ocispec.Manifest{}, fmt.Errorf("%s: the index is no JSON: %w", t, err)
		}
		one, err := ofPlatform(index.Manifests)
		if err != nil {
			return ocispec.Manifest{}, failure.Permanentf(contract.ReasonUsage, "%s %w: name one of them by its digest", t, err)
		}
		if _, b, err = t.fetchManifest(ctx, one.Digest.String()); err != nil {
			return ocispec.Manifest{}, err
		}
	}
	var manifest ocispec.Manifest
	if err := json.Unmarshal(b, &manifest); err != nil {
		return manifest, fmt.Errorf("%s: the manifest is no JSON: %w", t, err)
	}
	if len(manifest.Layers) > maxLayers {
		return manifest, fmt.Errorf("%s has %d layers, at most %d are allowed", t, len(manifest.Layers), maxLayers)
	}
	return manifest, nil
}

// ofPlatform chooses among the manifests of an index: the only one, or that for the platform
// of this program.
func ofPlatform(manifests []ocispec.Descriptor) (ocispec.Descriptor, error) {
	if len(manifests) == 1 {
		return manifests[0], nil
	}
	for _, m := range manifests {
		if m.Platform != nil && m.Platform.OS == runtime.GOOS && m.Platform.Architecture == runtime.GOARCH {
			return m, nil
		}
	}
	return ocispec.Descriptor{}, fmt.Errorf("is an index of %d manifests, none of which is for %s/%s", len(manifests), runtime.GOOS, runtime.GOARCH)
}

// fetchManifest returns what a tag or digest names, checked.
func (t *ociTree) fetchManifest(ctx context.Context, reference string) (_ ocispec.Descriptor, b []byte, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, t.stall, errStalled)
	defer cancel()
	desc, body, err := t.repo.FetchReference(ctx, reference)
	if err != nil {
		return desc, nil, t.explain(ctx, err)
	}
	defer func() { err = errors.Join(err, body.Close()) }()
	if desc.Size > maxSmallFile {
		return desc, nil, fmt.Errorf("%s: the manifest has %d bytes", t, desc.Size)
	}
	b, err = content.ReadAll(body, desc)
	if err != nil {
		return desc, nil, t.explain(ctx, err)
	}
	return desc, b, nil
}

// explain says what a registry means by an error.
func (t *ociTree) explain(ctx context.Context, err error) error {
	if errors.Is(err, errdef.ErrNotFound) {
		return failure.Transientf(contract.ReasonSourceNotFound, "there is no %s: check registry, repository, and tag or digest: %w", t.name, err)
	}
	private := errors.Is(err, auth.ErrBasicCredentialNotFound)
	answer, ok := errors.AsType[*errcode.ErrorResponse](err)
	if !ok && !private {
		return unreachable(ctx, t.name, err)
	}
	if private || answer.StatusCode == http.StatusUnauthorized || answer.StatusCode == http.StatusForbidden {
		return failure.Permanentf(contract.ReasonUnauthorized,
			"fetching %s: there is no such repository, or it is private: give credentials that may pull it, or push to it (pullSecretRef, pushSecretRef, or Docker's configuration): %w", t.name, err)
	}
	return failure.Transientf(contract.ReasonSourceUnreachable, "fetching %s: the registry answers %d (%w)", t.name, answer.StatusCode, answer.Errors)
}

// open looks at the layers, and unpacks those that are archives.
func (t *ociTree) open(ctx context.Context, manifest ocispec.Manifest, scratch string) error {
	for i, layer := range manifest.Layers {
		if err := layer.Digest.Validate(); err != nil || layer.Size < 0 {
			return fmt.Errorf("%s: layer %d has no valid digest and size", t, i)
		}
		if archiveSuffix(layer.MediaType) != "" {
			if err := t.unpack(ctx, layer, scratch); err != nil {
				return err
			}
			continue
		}
		name, err := t.fileName(layer)
		if err != nil {
			return err
		}
		if name == "" {
			continue // A config of somebody else's, or documentation.
		}
		if _, twice := t.layers[name]; twice {
			return fmt.Errorf("%s has %q twice", t, name)
		}
		t.layers[name] = layer
	}
	return nil
}

// archiveSuffix is that of the file which a layer of this media type would be, empty
// where it is no archive.
func archiveSuffix(mediaType string) string {
	for _, known := range []struct{ media, file string }{
		{".tar+gzip", ".tar.gz"}, {".tar.gzip", ".tar.gz"}, {".tar+zstd", ".tar.zst"}, {".tar.zstd", ".tar.zst"}, {".tar", ".tar"},
	} {
		if strings.HasSuffix(mediaType, known.media) {
			return known.file
		}
	}
	return ""
}

// fileName is the cleaned path that a layer says that it has.
func (t *ociTree) fileName(layer ocispec.Descriptor) (string, error) {
	for _, annotation := range nameAnnotations {
		given := layer.Annotations[annotation]
		if given == "" {
			continue
		}
		name := path.Clean(strings.ReplaceAll(given, `\`, "/"))
		if !filepath.IsLocal(filepath.FromSlash(name)) {
			return "", fmt.Errorf("%s: the layer %q leads out of the artifact", t, given)
		}
		return name, nil
	}
	return "", nil
}

// unpack extracts a layer into the folder of those that are archives.
func (t *ociTree) unpack(ctx context.Context, layer ocispec.Descriptor, scratch string) (err error) {
	if t.unpacked == nil {
		if t.unpacked, err = artifact.Stage(scratch); err != nil {
			return err
		}
	}
	where := t.blob(layer)
	body, _, err := t.receive(ctx, t.opening(layer), where)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, body.Close()) }()
	verified := t.verified(layer, body)
	if err := extractAll(ctx, verified, archiveSuffix(layer.MediaType), where, t.unpacked.Dir()); err != nil {
		return err
	}
	// What follows the archive's end has a part in the digest.
	_, err = io.Copy(io.Discard, verified)
	return err
}

// folder finds the folder of the artifact that holds the model or the expert.
func (t *ociTree) folder(manifest ocispec.Manifest, file bool) (tree, error) {
	var names []string
	for name := range t.layers {
		names = append(names, name)
	}
	if t.unpacked != nil {
		within, err := filesBelow(t.unpacked.Dir())
		if err != nil {
			return nil, err
		}
		names = append(names, within...)
	}
	slices.Sort(names)
	root, err := rootOf(names)
	if err == nil && !file {
		t.root = root
		return t, nil
	}
	if len(names) == 1 && (file || isExpertFile(names[0])) {
		return &ociFile{ociTree: t, name: names[0]}, nil
	}
	var kinds []string
	for _, layer := range manifest.Layers {
		if !slices.Contains(kinds, layer.MediaType) && len(kinds) < 5 {
			kinds = append(kinds, layer.MediaType)
		}
	}
	if file {
		err = fmt.Errorf("holds %d files where one is needed", len(names))
	}
	return nil, fmt.Errorf("%s %w: it has %d layers (%s); a layer is read that is a tar, or whose annotation %s says which file it is",
		t, err, len(manifest.Layers), strings.Join(kinds, ", "), strings.Join(nameAnnotations[:2], " or "))
}

func (t *ociTree) blob(layer ocispec.Descriptor) string {
	return fmt.Sprintf("%s, blob %s", t.name, layer.Digest)
}

// opening returns how a blob is asked for. Its digest names its bytes, so that any answer
// can go on with it.
func (t *ociTree) opening(layer ocispec.Descriptor) opening {
	return func(ctx context.Context, from int64, _ string) (transfer, error) {
		var body io.ReadCloser
		var err error
		if from == 0 {
			body, err = t.repo.Blobs().Fetch(ctx, layer)
		} else {
			body, err = t.rest(ctx, layer, from)
		}
		if err != nil {
			return transfer{}, t.explain(ctx, err)
		}
		return transfer{body: body, size: layer.Size, tag: layer.Digest.String()}, nil
	}
}

// rest asks for a blob from an offset on. Registries need not know ranges, and those that
// do need not say so: who answers with all of it is read from its beginning.
func (t *ociTree) rest(ctx context.Context, layer ocispec.Descriptor, from int64) (io.ReadCloser, error) {
	ref := t.repo.Reference
	ctx = auth.AppendRepositoryScope(ctx, ref, auth.ActionPull)
	scheme := "https"
	if t.repo.PlainHTTP {
		scheme = "http"
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("%s://%s/v2/%s/blobs/%s", scheme, ref.Host(), ref.Repository, layer.Digest), nil)
	if err != nil {
		return nil, err
	}
	// To an end that is known: go-containerregistry's registry (v0.22.1) refuses a range
	// without one; see findings/registry-ranges.sh.
	request.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", from, layer.Size-1))
	response, err := t.repo.Client.Do(request)
	if err != nil {
		return nil, err
	}
	switch begins, _ := contentRange(response.Header.Get("Content-Range")); {
	case response.StatusCode == http.StatusPartialContent && begins == from:
		return response.Body, nil
	case response.StatusCode == http.StatusOK:
		if _, err := io.CopyN(io.Discard, response.Body, from); err != nil {
			return nil, errors.Join(err, response.Body.Close())
		}
		return response.Body, nil
	default:
		return nil, errors.Join(fmt.Errorf("the registry answers %s", response.Status), response.Body.Close())
	}
}

func (t *ociTree) verified(layer ocispec.Descriptor, r io.Reader) io.Reader {
	return &checked{r: r, sum: layer.Digest.Algorithm().Hash(), want: layer.Digest.Encoded(), where: t.blob(layer)}
}

func (t *ociTree) take(ctx context.Context, name, dst string, limit int64) error {
	full := path.Join(t.root, name)
	if layer, ok := t.layers[full]; ok {
		return t.receiver.take(ctx, t.opening(layer), t.blob(layer), dst, limit, func(r io.Reader) io.Reader { return t.verified(layer, r) })
	}
	if t.unpacked == nil {
		return fmt.Errorf("%s has no %s: %w", t, name, fs.ErrNotExist)
	}
	return moveOut(t.unpacked.Dir(), full, t.String(), dst, limit)
}

func (t *ociTree) String() string { return t.name }

func (t *ociTree) revision() string { return t.manifest.Digest.String() }

func (t *ociTree) close() error {
	if t.unpacked == nil {
		return nil
	}
	return t.unpacked.Discard()
}

// ociFile is an artifact that is one file.
type ociFile struct {
	*ociTree
	name string
}

func (f *ociFile) takeOnly(ctx context.Context, dst string, limit int64) error {
	return f.take(ctx, f.name, dst, limit)
}
