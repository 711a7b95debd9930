package source

import (
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"

	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/failure"
)

// mountTree is an artifact of a registry that a container runtime has mounted: what is taken
// of it is a link to the file.
type mountTree struct {
	*ociTree
	// where is the folder of the mount that has the model.
	where string
}

// openMounted opens an artifact that is mounted at a path. Of the registry it asks the manifest
// and the configuration, and the signatures if they are to be there, and refuses what container
// runtimes cannot mount: one of these is mounted as an empty folder, without a complaint.
func openMounted(ctx context.Context, s contract.OCISource, at string, o Options, m *meter) (tree, error) {
	t, err := openRegistry(s, o, m)
	if err != nil {
		return nil, err
	}
	if t.repo.Reference.ValidateReferenceAsDigest() != nil {
		return nil, failure.Permanentf(contract.ReasonUsage,
			"%s is to be mounted, and its tag may mean something else to who mounts it: name it by its digest, registry/repository@sha256:…", t)
	}
	manifest, err := t.resolveVerified(ctx, o.verify)
	if err != nil {
		return nil, err
	}
	if err := t.checkMountable(ctx, manifest); err != nil {
		return nil, err
	}
	at, err = filepath.EvalSymlinks(at)
	var names []string
	if err == nil {
		names, err = filesBelow(at)
	}
	if err != nil {
		return nil, failure.Transientf(contract.ReasonSourceNotFound, "%s is to be mounted at %s: %w", t, at, err)
	}
	if len(names) == 0 {
		return nil, failure.Permanentf(contract.ReasonNotMountable,
			"%s is mounted at %s as an empty folder: its layers have no files, or the node's container runtime does not unpack them: %s", t, at, mountRemedy)
	}
	root, err := rootOf(names)
	if err != nil {
		return nil, fmt.Errorf("%s, mounted at %s, %w", t, at, err)
	}
	return &mountTree{ociTree: t, where: filepath.Join(at, filepath.FromSlash(root))}, nil
}

// mountRemedy is what to do about an artifact that cannot be mounted.
const mountRemedy = "push it as an image, layers of type " + ocispec.MediaTypeImageLayer + " (or +gzip, +zstd) with a configuration of type " +
	ocispec.MediaTypeImageConfig + " whose rootfs.diff_ids name them, as docker build and crane append do, or have it copied (spec.source.delivery: Copy)"

// checkMountable makes sure that an artifact has the form of an image (OCI image specification,
// 1.1): layers that are tars, and a configuration that names what is in each. Its artifact type
// may be any. With the empty configuration, or layers of other types, containerd 2 pulls it and
// mounts an empty folder.
func (t *ociTree) checkMountable(ctx context.Context, m ocispec.Manifest) error {
	switch m.Config.MediaType {
	case ocispec.MediaTypeImageConfig, "application/vnd.docker.container.image.v1+json":
	default:
		return failure.Permanentf(contract.ReasonNotMountable,
			"%s has a configuration of type %s, which oras push gives it by default, and container runtimes mount such an artifact as an empty folder: %s", t, m.Config.MediaType, mountRemedy)
	}
	for _, layer := range m.Layers {
		if archiveSuffix(layer.MediaType) == "" || !strings.Contains(layer.MediaType, "image") {
			return failure.Permanentf(contract.ReasonNotMountable,
				"%s has a layer of type %s, which container runtimes do not unpack: %s", t, layer.MediaType, mountRemedy)
		}
	}
	if m.Config.Size > maxSmallFile {
		return failure.Permanentf(contract.ReasonNotMountable, "%s: the configuration has %d bytes", t, m.Config.Size)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, t.stall, errStalled)
	defer cancel()
	b, err := content.FetchAll(ctx, t.repo.Blobs(), m.Config)
	if err != nil {
		return t.explain(ctx, err)
	}
	var image ocispec.Image
	if err := json.Unmarshal(b, &image); err != nil {
		return failure.Permanentf(contract.ReasonNotMountable, "%s: the configuration is no JSON: %w", t, err)
	}
	if got, want := len(image.RootFS.DiffIDs), len(m.Layers); got != want || want == 0 {
		return failure.Permanentf(contract.ReasonNotMountable,
			"%s has %d layers, and its configuration names the content of %d (rootfs.diff_ids): %s", t, want, got, mountRemedy)
	}
	return nil
}

// take makes dst a link to the file.
func (t *mountTree) take(_ context.Context, name, dst string, limit int64) error {
	file, err := filepath.EvalSymlinks(filepath.Join(t.where, filepath.FromSlash(name)))
	if err != nil {
		return fmt.Errorf("%s has no %s where it is mounted: %w", t, name, err)
	}
	if !strings.HasPrefix(file, t.where+string(filepath.Separator)) {
		return fmt.Errorf("%s in %s is a link out of it", name, t)
	}
	stat, err := os.Stat(file)
	if err != nil {
		return fmt.Errorf("looking at what is mounted: %w", err)
	}
	switch {
	case !stat.Mode().IsRegular():
		return fmt.Errorf("%s in %s is no regular file", name, t)
	case stat.Size() > limit:
		return fmt.Errorf("%s in %s has %d bytes, at most %d are allowed", name, t, stat.Size(), limit)
	}
	t.meter.add(stat.Size(), stat.Size())
	return os.Symlink(file, dst)
}

// unlink removes the links of a folder, which then has the manifest alone.
func unlink(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("fetching: %w", err)
	}
	entries = slices.DeleteFunc(entries, func(e fs.DirEntry) bool { return e.Type()&fs.ModeSymlink == 0 })
	for _, e := range entries {
		if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
			return fmt.Errorf("fetching: %w", err)
		}
	}
	return nil
}
