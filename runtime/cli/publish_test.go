package cli_test

import (
	"encoding/json"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	ggcr "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/transformersquared/operator/runtime/checkpoint"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/expert"
)

// TestAnExpertGoesThroughARegistry publishes an expert from one volume and imports it into
// another, by the digest of its artifact, which is the same whoever publishes it. What
// containers are made from understands it, too: an image whose file system has the expert.
func TestAnExpertGoesThroughARegistry(t *testing.T) {
	base := contract.DigestPrefix + strings.Repeat("1", 64)
	volume := func() (string, *contract.DecompositionManifest) {
		data := t.TempDir()
		ck, err := checkpoint.OpenDir("../model/testdata/llama")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = ck.Close() }()
		made, err := expert.Decompose(t.Context(), ck, data, contract.DecomposeSpec{BaseDigest: base, Modules: expert.Modules(), DType: contract.DTypeF32}, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		return data, &made
	}
	var uploads int
	handler := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/blobs/") {
			uploads++
		}
		handler.ServeHTTP(w, r)
	}))
	defer server.Close()
	place := strings.TrimPrefix(server.URL, "http://") + "/experts/math"

	data, d := volume()
	digest := importOne(t, data, d)
	publish := func(args ...string) (artifact string) {
		t.Helper()
		o := t2(t, map[string]string{contract.EnvDockerConfig: `{"auths":{}}`}, "", append([]string{"publish", "--json"}, args...)...)
		if o.code != contract.ExitOK {
			t.Fatalf("status %d, %s", o.code, o.stderr)
		}
		var said contract.Termination
		if err := json.Unmarshal([]byte(o.stdout), &said); err != nil {
			t.Fatalf("%v in %s", err, o.stdout)
		}
		return said.Expert.Artifact
	}
	first := publish(digest, "oci+http://"+place+":v1", "--data-dir", data)
	before := uploads
	if again := publish(digest, "oci+http://"+place+":v2", "--data-dir", data); again != first || uploads != before {
		t.Errorf("published again it is %s, not %s, with %d more uploads", again, first, uploads-before)
	}

	other, d2 := volume()
	for _, reference := range []string{place + "@" + first, place + ":v2"} {
		spec := contract.ImportSpec{
			Source: contract.Source{OCI: &contract.OCISource{Reference: reference, Insecure: true}},
			Digest: digest, DataDir: other, BaseDigest: d2.BaseDigest, DecompositionDigest: d2.Digest,
		}
		o := pod(t, spec, nil, "import")
		if o.code != contract.ExitOK || o.termination.Expert.Digest != digest {
			t.Fatalf("import of %s: status %d, %+v, %s", reference, o.code, o.termination, o.stderr)
		}
		dir, err := contract.ArtifactDir(other, contract.DirExperts, digest)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
	}

	// As a container runtime sees it, on either kind of node.
	for _, architecture := range []string{"amd64", "arm64"} {
		ref, err := name.ParseReference(place+":v1", name.Insecure)
		if err != nil {
			t.Fatal(err)
		}
		image, err := remote.Image(ref, remote.WithPlatform(ggcr.Platform{OS: "linux", Architecture: architecture}), remote.WithContext(t.Context()))
		if err != nil {
			t.Fatal(err)
		}
		layers, err := image.Layers()
		if err != nil || len(layers) != 1 {
			t.Fatalf("%d layers, %v", len(layers), err)
		}
		contents := mutate.Extract(image)
		b, err := io.ReadAll(contents)
		if err != nil || !strings.Contains(string(b), expert.File) || !strings.Contains(string(b), contract.ManifestFile) {
			t.Errorf("the file system of %s has %d bytes: %v", architecture, len(b), err)
		}
		_ = contents.Close()
		config, err := image.ConfigFile()
		if err != nil || config.Architecture != architecture || len(config.RootFS.DiffIDs) != 1 {
			t.Errorf("%s: %+v, %v", architecture, config, err)
		}
		if id, err := layers[0].DiffID(); err != nil || id != config.RootFS.DiffIDs[0] {
			t.Errorf("%s: the layer's content is %s: %v", architecture, id, err)
		}
	}

	// What is no whole expert is not published.
	dir, err := contract.ArtifactDir(data, contract.DirExperts, digest)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(dir, expert.File), 100); err != nil {
		t.Fatal(err)
	}
	o := t2(t, nil, "", "publish", dir, "oci+http://"+place+":v3")
	if o.code == contract.ExitOK || !strings.Contains(o.stderr, expert.File) {
		t.Errorf("a damaged expert: status %d, %s", o.code, o.stderr)
	}
	for _, args := range [][]string{{"publish", dir, "https://example.com/x"}, {"publish", digest, "oci://example.com/x:v1"}, {"publish", dir}} {
		if o := t2(t, nil, "", args...); o.code != 2 {
			t.Errorf("%v: status %d, want 2: %s", args, o.code, o.stderr)
		}
	}
}
