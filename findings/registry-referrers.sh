#!/usr/bin/env bash
# The registry of go-containerregistry (what `crane registry serve` runs), with its referrers
# API, names the artifact type of a referrer by the media type of its configuration, also
# where the manifest has an artifactType, which OCI's specifications 1.1 put first. What is
# made as they recommend has an empty configuration: so whoever asks ORAS for referrers of a
# type, such as cosign's bundles, finds none of them. A client must list all referrers and read their
# manifests.
set -euo pipefail

dir=$(mktemp -d)
trap 'chmod -R u+w "$dir" && rm -rf "$dir"' EXIT
cd "$dir"
cat >main.go <<'GO'
package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/http/httptest"
	"strings"

	"github.com/google/go-containerregistry/pkg/registry"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/registry/remote"
)

func main() {
	ctx := context.Background()
	s := httptest.NewServer(registry.New(registry.WithReferrersSupport(true), registry.Logger(log.New(io.Discard, "", 0))))
	defer s.Close()
	client := func() *remote.Repository {
		repo, err := remote.NewRepository(strings.TrimPrefix(s.URL, "http://") + "/a/b")
		if err != nil {
			panic(err)
		}
		repo.PlainHTTP = true
		return repo
	}
	repo := client()
	subject, err := oras.PackManifest(ctx, repo, oras.PackManifestVersion1_1, "application/vnd.example.thing", oras.PackManifestOptions{})
	if err != nil {
		panic(err)
	}
	_, err = oras.PackManifest(ctx, repo, oras.PackManifestVersion1_1, "application/vnd.example.note", oras.PackManifestOptions{Subject: &subject})
	if err != nil {
		panic(err)
	}
	count := func(kind string) (n int) {
		// By a client that has not pushed: one that has keeps an index of its own.
		err := client().Referrers(ctx, subject, kind, func(all []ocispec.Descriptor) error {
			for _, d := range all {
				fmt.Printf("asked for %q: one of type %q\n", kind, d.ArtifactType)
			}
			n += len(all)
			return nil
		})
		if err != nil {
			panic(err)
		}
		return n
	}
	all, notes := count(""), count("application/vnd.example.note")
	fmt.Println("referrers:", all, "- of the type that was pushed:", notes)
}
GO
export GOFLAGS=-mod=mod
go mod init example.com/finding >/dev/null 2>&1
go get github.com/google/go-containerregistry@v0.22.1 oras.land/oras-go/v2@v2.7.0 >/dev/null 2>&1
go list -m github.com/google/go-containerregistry oras.land/oras-go/v2
go run . | tee seen
cat >expected <<'TEXT'
asked for "": one of type "application/vnd.oci.empty.v1+json"
referrers: 1 - of the type that was pushed: 0
TEXT
diff expected seen
