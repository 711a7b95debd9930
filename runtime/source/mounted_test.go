package source_test

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	ggcr "github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	craneremote "github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content/memory"
	"oras.land/oras-go/v2/registry/remote"

	"github.com/transformersquared/operator/runtime/checkpoint"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/source"
)

// pushImage makes an artifact of one layer in the form of an image: with a configuration that
// names what is in so many layers. It returns the manifest's digest.
func pushImage(t *testing.T, reference, layerType string, tar []byte, diffs int) string {
	t.Helper()
	store := memory.New()
	layer, err := oras.PushBytes(t.Context(), store, layerType, tar)
	if err != nil {
		t.Fatal(err)
	}
	image := ocispec.Image{Platform: ocispec.Platform{Architecture: "amd64", OS: "linux"}, RootFS: ocispec.RootFS{Type: "layers"}}
	for range diffs {
		image.RootFS.DiffIDs = append(image.RootFS.DiffIDs, digest.FromBytes(tar))
	}
	b, err := json.Marshal(image)
	if err != nil {
		t.Fatal(err)
	}
	config, err := oras.PushBytes(t.Context(), store, ocispec.MediaTypeImageConfig, b)
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := oras.PackManifest(t.Context(), store, oras.PackManifestVersion1_1, "application/vnd.example.model",
		oras.PackManifestOptions{Layers: []ocispec.Descriptor{layer}, ConfigDescriptor: &config})
	if err != nil {
		t.Fatal(err)
	}
	repo, err := remote.NewRepository(reference)
	if err != nil {
		t.Fatal(err)
	}
	repo.PlainHTTP = true
	if err := store.Tag(t.Context(), manifest, "v1"); err != nil {
		t.Fatal(err)
	}
	if _, err := oras.Copy(t.Context(), store, "v1", repo, "v1", oras.CopyOptions{}); err != nil {
		t.Fatal(err)
	}
	return manifest.Digest.String()
}

// mounting is a specification of an artifact that is mounted.
func mounting(reference, at, data string) contract.FetchSpec {
	return contract.FetchSpec{
		Source: contract.Source{OCI: &contract.OCISource{Reference: reference, Insecure: true}}, DataDir: data, Mounted: at,
	}
}

func TestAMountedModelIsNotCopied(t *testing.T) {
	dir, want := modelDir(t, 3)
	host := registryHost(t, nil)
	repository := host + "/models/tiny"
	reference := repository + "@" + pushImage(t, repository, ocispec.MediaTypeImageLayer, archive(t, dir, "tiny/", false), 1)
	// What a container runtime makes of it.
	mount := filepath.Join(t.TempDir(), "mount")
	if err := os.CopyFS(filepath.Join(mount, "tiny"), os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	data := t.TempDir()
	got, err := source.FetchModel(t.Context(), mounting(reference, mount, data), source.Options{})
	if err != nil {
		t.Fatal(err)
	}
	at := filepath.Join(mount, "tiny")
	if got.Digest != want.Digest || got.At != at || !strings.HasSuffix(reference, got.Revision) {
		t.Errorf("model %s at %q, revision %s; want %s at %q", got.Digest, got.At, got.Revision, want.Digest, at)
	}
	place, err := contract.ArtifactDir(data, contract.DirModels, want.Digest)
	if err != nil {
		t.Fatal(err)
	}
	if has := files(t, place, ""); len(has) != 1 || has[contract.ManifestFile] == nil {
		t.Errorf("the volume has %d files, not the manifest alone", len(has))
	}
	if found, err := checkpoint.Locate(t.Context(), place); err != nil || found != at {
		t.Errorf("its files are at %q, %v", found, err)
	}

	// Elsewhere next time, and then a copy: nobody is sent where nothing is.
	moved := filepath.Join(t.TempDir(), "moved")
	if err := os.Rename(mount, moved); err != nil {
		t.Fatal(err)
	}
	if _, err := checkpoint.Locate(t.Context(), place); err == nil || !strings.Contains(err.Error(), at) {
		t.Errorf("without its mount: %v", err)
	}
	if _, err := source.FetchModel(t.Context(), mounting(reference, moved, data), source.Options{}); err != nil {
		t.Fatal(err)
	}
	if found, err := checkpoint.Locate(t.Context(), place); err != nil || found != filepath.Join(moved, "tiny") {
		t.Errorf("its files are at %q, %v", found, err)
	}
	copied, err := source.FetchModel(t.Context(), mounting(reference, "", data), source.Options{})
	if err != nil || copied.At != "" {
		t.Fatalf("a copy at %q: %v", copied.At, err)
	}
	if found, err := checkpoint.Locate(t.Context(), place); err != nil || found != place {
		t.Errorf("its files are at %q, %v", found, err)
	}
	if _, err := checkpoint.OpenDir(place); err != nil {
		t.Error(err)
	}
}

func TestWhatIsMountedMustBeWhatWasFetched(t *testing.T) {
	dir, want := modelDir(t, 1)
	host := registryHost(t, nil)
	repository := host + "/models/tiny"
	reference := repository + "@" + pushImage(t, repository, ocispec.MediaTypeImageLayer, archive(t, dir, "", false), 1)
	data := t.TempDir()
	if _, err := source.FetchModel(t.Context(), mounting(reference, dir, data), source.Options{}); err != nil {
		t.Fatal(err)
	}
	weights := filepath.Join(dir, checkpoint.WeightsFile)
	b, err := os.ReadFile(weights)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)-1] ^= 1
	if err := os.WriteFile(weights, b, 0o600); err != nil {
		t.Fatal(err)
	}
	place, err := contract.ArtifactDir(data, contract.DirModels, want.Digest)
	if err != nil {
		t.Fatal(err)
	}
	_, err = checkpoint.Locate(t.Context(), place)
	refused(t, err, contract.ReasonDigestMismatch, checkpoint.WeightsFile, want.Digest)
	if strings.Contains(err.Error(), "remove the folder") {
		t.Errorf("what is mounted is to be removed: %v", err)
	}
	spec := mounting(reference, dir, data)
	spec.Digest = want.Digest
	_, err = source.FetchModel(t.Context(), spec, source.Options{})
	refused(t, err, contract.ReasonDigestMismatch, want.Digest)

	if err := os.Remove(weights); err != nil {
		t.Fatal(err)
	}
	_, err = checkpoint.Locate(t.Context(), place)
	refused(t, err, contract.ReasonDigestMismatch, checkpoint.WeightsFile, want.Digest)
	other := filepath.Join(filepath.Dir(place), "sha256-"+strings.Repeat("0", 64))
	if err := os.Rename(place, other); err != nil {
		t.Fatal(err)
	}
	_, err = checkpoint.Locate(t.Context(), other)
	refused(t, err, contract.ReasonDigestMismatch, other)
}

// crane append makes images of Docker's types, or of OCI's, of a compressed tar.
func TestWhatCraneMakesCanBeMounted(t *testing.T) {
	dir, want := modelDir(t, 1)
	tar := archive(t, dir, "", false)
	for name, of := range map[string]struct {
		manifest, config, layer types.MediaType
	}{
		"Docker": {types.DockerManifestSchema2, types.DockerConfigJSON, types.DockerLayer},
		"OCI":    {types.OCIManifestSchema1, types.OCIConfigJSON, types.OCILayer},
	} {
		t.Run(name, func(t *testing.T) {
			layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(tar)), nil }, tarball.WithMediaType(of.layer))
			if err != nil {
				t.Fatal(err)
			}
			image, err := mutate.AppendLayers(mutate.ConfigMediaType(mutate.MediaType(empty.Image, of.manifest), of.config), layer)
			if err != nil {
				t.Fatal(err)
			}
			repository, err := ggcr.NewRepository(registryHost(t, nil) + "/models/tiny")
			if err != nil {
				t.Fatal(err)
			}
			sum, err := image.Digest()
			if err != nil {
				t.Fatal(err)
			}
			if err := craneremote.Write(repository.Digest(sum.String()), image); err != nil {
				t.Fatal(err)
			}
			got, err := source.FetchModel(t.Context(), mounting(repository.Digest(sum.String()).String(), dir, t.TempDir()), source.Options{})
			if err != nil || got.Digest != want.Digest || got.At != dir {
				t.Errorf("model %s at %q, %v", got.Digest, got.At, err)
			}
		})
	}
}

func TestAnArtifactThatWouldBeMountedEmptyIsRefused(t *testing.T) {
	dir, _ := modelDir(t, 1)
	host := registryHost(t, nil)
	tar := archive(t, dir, "", false)
	var titled []layer
	for name, b := range files(t, dir, "") {
		titled = append(titled, layer{"application/octet-stream", ocispec.AnnotationTitle, name, b})
	}
	at := func(repository, digest string) string { return host + "/" + repository + "@" + digest }
	for name, c := range map[string]struct {
		reference, reason, want string
	}{
		"files as oras push makes them": {at("a/oras", push(t, host+"/a/oras:v1", "application/vnd.example", titled)), contract.ReasonNotMountable, "application/vnd.oci.empty.v1+json"},
		"layers of another type":        {at("a/other", pushImage(t, host+"/a/other", "application/vnd.example.tar", tar, 1)), contract.ReasonNotMountable, "application/vnd.example.tar"},
		"a configuration of nothing":    {at("a/none", pushImage(t, host+"/a/none", ocispec.MediaTypeImageLayer, tar, 0)), contract.ReasonNotMountable, "rootfs.diff_ids"},
		"a tag":                         {host + "/a/none:v1", contract.ReasonUsage, "by its digest"},
	} {
		t.Run(name, func(t *testing.T) {
			data := t.TempDir()
			// The folder has a model, so that nothing but the form is why it is refused.
			_, err := source.FetchModel(t.Context(), mounting(c.reference, dir, data), source.Options{})
			refused(t, err, c.reason, c.want)
			if n := published(t, data); n != 0 {
				t.Errorf("%d models are in the volume", n)
			}
		})
	}
	data := t.TempDir()
	reference := at("a/good", pushImage(t, host+"/a/good", ocispec.MediaTypeImageLayer, tar, 1))
	_, err := source.FetchModel(t.Context(), mounting(reference, t.TempDir(), data), source.Options{})
	refused(t, err, contract.ReasonNotMountable, "empty folder", "rootfs.diff_ids")
	other := t.TempDir()
	if err := os.WriteFile(filepath.Join(other, "README"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = source.FetchModel(t.Context(), mounting(reference, other, data), source.Options{})
	refused(t, err, contract.ReasonInvalidModel, checkpoint.ConfigFile)
	spec := mounting("", dir, data)
	spec.Source = contract.Source{Path: dir}
	_, err = source.FetchModel(t.Context(), spec, source.Options{})
	refused(t, err, contract.ReasonUsage, "oci")
}
