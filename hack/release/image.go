package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// referenceAnnotation names an image within an OCI layout.
const referenceAnnotation = "org.opencontainers.image.ref.name"

func indexCommand(flags *flag.FlagSet) func([]string) error {
	out := flags.String("out", "", "tarball `file` to write")
	name := flags.String("name", "", "`reference` of the image")
	return func(args []string) error {
		all, err := platforms(args)
		if err != nil {
			return err
		}
		if *out == "" || *name == "" {
			return fmt.Errorf("%w: --out and --name are needed", errUsage)
		}
		digest, err := index(*out, *name, all)
		if err != nil {
			return err
		}
		fmt.Println(digest)
		return nil
	}
}

// index writes an OCI layout, as a tarball, that holds one index of an image a
// platform, and returns the index's digest.
func index(out, name string, all []platform) (v1.Hash, error) {
	joined := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, p := range all {
		image, err := tarball.ImageFromPath(p.file, nil)
		if err != nil {
			return v1.Hash{}, fmt.Errorf("reading the image %s: %w", p.file, err)
		}
		config, err := image.ConfigFile()
		if err != nil {
			return v1.Hash{}, fmt.Errorf("reading the image %s: %w", p.file, err)
		}
		if config.OS != p.os || config.Architecture != p.arch {
			return v1.Hash{}, fmt.Errorf("%s is an image for %s/%s, not %s/%s", p.file, config.OS, config.Architecture, p.os, p.arch)
		}
		joined = mutate.AppendManifests(joined, mutate.IndexAddendum{
			Add: image, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: p.os, Architecture: p.arch}},
		})
	}
	folder, err := os.MkdirTemp(filepath.Dir(out), ".layout-")
	if err != nil {
		return v1.Hash{}, fmt.Errorf("writing %s: %w", out, err)
	}
	defer func() { _ = os.RemoveAll(folder) }()
	to, err := layout.Write(folder, empty.Index)
	if err != nil {
		return v1.Hash{}, fmt.Errorf("writing %s: %w", out, err)
	}
	if err := to.AppendIndex(joined, layout.WithAnnotations(map[string]string{referenceAnnotation: name})); err != nil {
		return v1.Hash{}, fmt.Errorf("writing %s: %w", out, err)
	}
	members, err := folderMembers(folder)
	if err != nil {
		return v1.Hash{}, err
	}
	if err := writeFile(out, func(w *os.File) error { return writeTar(w, members) }); err != nil {
		return v1.Hash{}, err
	}
	digest, err := joined.Digest()
	if err != nil {
		return v1.Hash{}, fmt.Errorf("computing the digest of %s: %w", name, err)
	}
	return digest, nil
}
