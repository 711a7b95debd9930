package source_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content/memory"
	"oras.land/oras-go/v2/registry/remote"

	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/failure"
	"github.com/transformersquared/operator/runtime/source"
	"github.com/transformersquared/operator/runtime/source/sourcetest"
)

// bucketWith starts an S3 server with one bucket.
func bucketWith(t testing.TB, name string, objects map[string][]byte) string {
	t.Helper()
	backend := s3mem.New()
	if err := backend.CreateBucket(name); err != nil {
		t.Fatal(err)
	}
	for key, content := range objects {
		if _, err := backend.PutObject(name, key, map[string]string{"Last-Modified": "Mon, 02 Nov 2026 15:04:05 GMT"}, bytes.NewReader(content), int64(len(content)), nil); err != nil {
			t.Fatal(err)
		}
	}
	s := httptest.NewServer(gofakes3.New(backend, gofakes3.WithLogger(gofakes3.DiscardLog())).Server())
	t.Cleanup(s.Close)
	return s.URL
}

// registryHost starts a registry without TLS.
func registryHost(t testing.TB, around func(http.Handler) http.Handler) string {
	t.Helper()
	handler := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	if around != nil {
		handler = around(handler)
	}
	s := httptest.NewServer(handler)
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

// layer is one of an artifact to be pushed.
type layer struct {
	media, annotation, name string
	content                 []byte
}

// push makes an artifact with ORAS and returns its manifest's digest.
func push(t testing.TB, reference, artifactType string, layers []layer) string {
	t.Helper()
	store := memory.New()
	var all []ocispec.Descriptor
	for _, l := range layers {
		d, err := oras.PushBytes(t.Context(), store, l.media, l.content)
		if err != nil {
			t.Fatal(err)
		}
		if l.name != "" {
			d.Annotations = map[string]string{l.annotation: l.name}
		}
		all = append(all, d)
	}
	manifest, err := oras.PackManifest(t.Context(), store, oras.PackManifestVersion1_1, artifactType, oras.PackManifestOptions{Layers: all})
	if err != nil {
		t.Fatal(err)
	}
	repo, err := remote.NewRepository(reference)
	if err != nil {
		t.Fatal(err)
	}
	repo.PlainHTTP = true
	if err := store.Tag(t.Context(), manifest, reference); err != nil {
		t.Fatal(err)
	}
	if _, err := oras.Copy(t.Context(), store, reference, repo, repo.Reference.Reference, oras.CopyOptions{}); err != nil {
		t.Fatal(err)
	}
	return manifest.Digest.String()
}

func zstdOf(t testing.TB, b []byte) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return w.EncodeAll(b, nil)
}

func TestAModelArrivesTheSameFromEveryService(t *testing.T) {
	dir, want := modelDir(t, 3)
	content := files(t, dir, "")

	hub := sourcetest.NewHub(t)
	inFolder := map[string][]byte{"README.md": []byte("card")}
	for name, b := range content {
		inFolder["small models/tiny/"+name] = b
	}
	inFolder["tiny.tar.gz"] = archive(t, dir, "tiny/", true)
	hub.Repos["org/tiny"] = &sourcetest.Repo{
		Token:     "s3cret",
		Revisions: map[string]string{"main": sourcetest.Commit(2), "v1": sourcetest.Commit(1), "refs/pr/1": sourcetest.Commit(1)},
		Commits:   map[string]map[string][]byte{sourcetest.Commit(1): content, sourcetest.Commit(2): inFolder},
	}

	objects := map[string][]byte{"models/tiny.tgz": archive(t, dir, "", true)}
	for name, b := range content {
		objects["models/tiny/"+name] = b
	}
	s3 := bucketWith(t, "weights", objects)

	host := registryHost(t, nil)
	var titled, modelpack []layer
	for name, b := range content {
		titled = append(titled, layer{"application/octet-stream", ocispec.AnnotationTitle, "tiny/" + name, b})
		media := "application/vnd.cncf.model.weight.config.v1.raw"
		if sourcetest.InLFS(name) {
			media = "application/vnd.cncf.model.weight.v1.raw"
		}
		modelpack = append(modelpack, layer{media, "org.cncf.model.filepath", name, b})
	}
	whole := archive(t, dir, "tiny/", false)
	weights := t.TempDir()
	rest := []layer{}
	for name, b := range content {
		if sourcetest.InLFS(name) {
			if err := os.WriteFile(filepath.Join(weights, name), b, 0o600); err != nil {
				t.Fatal(err)
			}
			continue
		}
		rest = append(rest, layer{"application/vnd.cncf.model.weight.config.v1.raw", "org.cncf.model.filepath", name, b})
	}
	revisions := map[string]string{
		"ORAS":               push(t, host+"/a/titled:v1", "application/vnd.example", titled),
		"ModelPack":          push(t, host+"/a/pack:v1", "application/vnd.cncf.model.manifest.v1+json", modelpack),
		"image layers":       push(t, host+"/a/image:v1", "application/vnd.example", []layer{{"application/vnd.oci.image.layer.v1.tar+gzip", "", "", archive(t, dir, "m/tiny/", true)}}),
		"a zstd layer":       push(t, host+"/a/zstd:v1", "application/vnd.example", []layer{{"application/vnd.oci.image.layer.v1.tar+zstd", "", "", zstdOf(t, whole)}}),
		"archives and files": push(t, host+"/a/mixed:v1", "application/vnd.example", append(rest, layer{"application/vnd.cncf.model.weight.v1.tar", "", "", archive(t, weights, "", false)})),
		"a branch":           sourcetest.Commit(2), "an archive of a branch": sourcetest.Commit(2),
		"a tag": sourcetest.Commit(1), "a pull request": sourcetest.Commit(1), "a commit": sourcetest.Commit(1),
	}
	revisions["by digest"] = revisions["ORAS"]
	of := func(revision, path string) contract.Source {
		return contract.Source{HuggingFace: &contract.HubSource{Repo: "org/tiny", Revision: revision, Path: path, Endpoint: hub.URL}}
	}
	oci := func(reference string) contract.Source {
		return contract.Source{OCI: &contract.OCISource{Reference: host + reference, Insecure: true}}
	}
	for name, from := range map[string]contract.Source{
		"a branch":               of("", "small models/tiny"),
		"an archive of a branch": of("", "tiny.tar.gz"),
		"a tag":                  of("v1", ""),
		"a pull request":         of("refs/pr/1", ""),
		"a commit":               of(sourcetest.Commit(1), ""),
		"a bucket":               {S3: &contract.S3Source{Endpoint: s3, Bucket: "weights", Prefix: "models/tiny/", Region: "eu-central-1"}},
		"an archive in a bucket": {S3: &contract.S3Source{Endpoint: s3, Bucket: "weights", Prefix: "models/tiny.tgz"}},
		"ORAS":                   oci("/a/titled:v1"),
		"by digest":              oci("/a/titled@" + revisions["ORAS"]),
		"ModelPack":              oci("/a/pack:v1"),
		"image layers":           oci("/a/image:v1"),
		"a zstd layer":           oci("/a/zstd:v1"),
		"archives and files":     oci("/a/mixed:v1"),
	} {
		t.Run(name, func(t *testing.T) {
			// Every answer of more than some bytes breaks off.
			breaks := &sourcetest.Breaking{After: 20_000}
			last, total := int64(0), int64(0)
			spec := contract.FetchSpec{Source: from, DataDir: t.TempDir(), Digest: want.Digest}
			got, err := source.FetchModel(t.Context(), spec, source.Options{
				Token: "s3cret", S3: source.S3Keys{ID: "key", Secret: "secret"}, DockerConfig: []byte(`{"auths":{}}`),
				Client: &http.Client{Transport: breaks}, RetryPause: time.Millisecond,
				Progress: func(d, n int64) { last, total = d, n },
			})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got.ModelManifest); diff != "" {
				t.Errorf("manifest -want +got\n%s", diff)
			}
			if got.Revision != revisions[name] {
				t.Errorf("revision %q, want %q", got.Revision, revisions[name])
			}
			if breaks.Broken.Load() == 0 {
				t.Error("nothing broke off")
			}
			if last == 0 || last != total {
				t.Errorf("progress ends at %d of %d", last, total)
			}
		})
	}
	if hub.Leaked > 0 {
		t.Errorf("the hub's token went elsewhere %d times", hub.Leaked)
	}
}

func TestServicesThatRefuse(t *testing.T) {
	dir, _ := modelDir(t, 1)
	content := files(t, dir, "")
	hub := sourcetest.NewHub(t)
	hub.Page = 1000
	repo := func(change func(*sourcetest.Repo)) *sourcetest.Repo {
		r := &sourcetest.Repo{
			Revisions: map[string]string{"main": sourcetest.Commit(1)},
			Commits:   map[string]map[string][]byte{sourcetest.Commit(1): content},
		}
		change(r)
		return r
	}
	hub.Repos["org/open"] = repo(func(*sourcetest.Repo) {})
	hub.Repos["org/private"] = repo(func(r *sourcetest.Repo) { r.Token = "other" })
	hub.Repos["org/gated"] = repo(func(r *sourcetest.Repo) { r.Gated = true })
	hub.Repos["org/damaged"] = repo(func(r *sourcetest.Repo) {
		bad := bytes.Clone(content["model.safetensors"])
		bad[len(bad)-1] ^= 1
		r.Damage = map[string][]byte{"model.safetensors": bad}
	})
	pages := sourcetest.NewHub(t)
	pages.Repos["org/open"], pages.Next = hub.Repos["org/open"], "http://127.0.0.2/api/models/org/open/tree/main?cursor=1"
	s3 := bucketWith(t, "weights", map[string][]byte{"tiny/config.json": []byte("{}")})
	forbids := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusForbidden)
		_, _ = io.WriteString(w, `<?xml version="1.0"?><Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>`)
	}))
	defer forbids.Close()
	host := registryHost(t, nil)
	closed := registryHost(t, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if _, password, ok := r.BasicAuth(); !ok || password != "right" {
				w.Header().Set("WWW-Authenticate", `Basic realm="r"`)
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			h.ServeHTTP(w, r)
		})
	})
	push(t, host+"/a/nameless:v1", "application/vnd.example", []layer{{"application/vnd.example.weights", "", "", []byte("x")}})
	push(t, host+"/a/leads-out:v1", "application/vnd.example", []layer{{"application/octet-stream", ocispec.AnnotationTitle, "../config.json", []byte("{}")}})
	index(t, host, "a/index", "v1", 2)

	of := func(h *sourcetest.Hub, repo, revision, path string) contract.Source {
		return contract.Source{HuggingFace: &contract.HubSource{Repo: repo, Revision: revision, Path: path, Endpoint: h.URL}}
	}
	s := func(endpoint, bucket, prefix string) contract.Source {
		return contract.Source{S3: &contract.S3Source{Endpoint: endpoint, Bucket: bucket, Prefix: prefix}}
	}
	oci := func(reference string) contract.Source {
		return contract.Source{OCI: &contract.OCISource{Reference: reference, Insecure: true}}
	}
	for name, c := range map[string]struct {
		from      contract.Source
		reason    string
		permanent bool
		want      string
	}{
		"no such repository":       {of(hub, "org/none", "", ""), contract.ReasonUnauthorized, true, "no such repository, or it is private"},
		"a private one":            {of(hub, "org/private", "", ""), contract.ReasonUnauthorized, true, "tokenSecretRef"},
		"a gated one":              {of(hub, "org/gated", "", ""), contract.ReasonUnauthorized, true, "accept its conditions"},
		"no such revision":         {of(hub, "org/open", "v9", ""), contract.ReasonSourceNotFound, false, "at revision v9"},
		"no such folder":           {of(hub, "org/open", "", "small"), contract.ReasonSourceNotFound, false, "org/open/small at revision main"},
		"no such archive":          {of(hub, "org/open", "", "m.tar"), contract.ReasonSourceNotFound, false, "has no m.tar"},
		"a damaged file":           {of(hub, "org/damaged", "", ""), contract.ReasonSourceUnreachable, false, "arrived with hash"},
		"pages elsewhere":          {of(pages, "org/open", "", ""), contract.ReasonSourceUnreachable, false, "next page is elsewhere"},
		"no name":                  {of(hub, "../etc", "", ""), contract.ReasonUsage, true, "org/name"},
		"no hub":                   {contract.Source{HuggingFace: &contract.HubSource{Repo: "a/b", Endpoint: serve(t, map[string][]byte{"/api/models/a/b/revision/main": []byte("hello")})}}, contract.ReasonSourceUnreachable, false, "as a Hugging Face hub does"},
		"no endpoint":              {contract.Source{HuggingFace: &contract.HubSource{Repo: "a/b", Endpoint: "hub.example.com"}}, contract.ReasonUsage, true, "huggingFace"},
		"no such bucket":           {s(s3, "none", "tiny"), contract.ReasonSourceNotFound, false, "no bucket none"},
		"no such key":              {s(s3, "weights", "other"), contract.ReasonSourceNotFound, false, "config.json"},
		"no right":                 {s(forbids.URL, "weights", "tiny"), contract.ReasonUnauthorized, true, "secretRef"},
		"no S3":                    {s(serve(t, nil), "weights", "tiny"), contract.ReasonSourceNotFound, false, "check endpoint"},
		"a path in S3's endpoint":  {s(s3+"/weights", "weights", "tiny"), contract.ReasonUsage, true, "more than scheme, host and port"},
		"no tag":                   {oci(host + "/a/nameless"), contract.ReasonUsage, true, "repository:tag"},
		"no such tag":              {oci(host + "/a/nameless:v2"), contract.ReasonSourceNotFound, false, "check registry"},
		"no such artifact":         {oci(host + "/a/none:v1"), contract.ReasonSourceNotFound, false, "check registry"},
		"layers without names":     {oci(host + "/a/nameless:v1"), contract.ReasonInvalidModel, true, "application/vnd.example.weights"},
		"a name that leads out":    {oci(host + "/a/leads-out:v1"), contract.ReasonInvalidModel, true, "leads out"},
		"several manifests":        {oci(host + "/a/index:v1"), contract.ReasonUsage, true, "index of 2 manifests"},
		"a registry that asks who": {oci(closed + "/a/x:v1"), contract.ReasonUnauthorized, true, "pullSecretRef"},
	} {
		t.Run(name, func(t *testing.T) {
			spec := contract.FetchSpec{Source: c.from, DataDir: t.TempDir()}
			_, err := source.FetchModel(t.Context(), spec, source.Options{
				RetryPause: time.Millisecond, DockerConfig: []byte(`{"auths":{}}`), StallTimeout: 5 * time.Second,
			})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %v, want %q", err, c.want)
			}
			if reason, permanent := failure.Of(err); reason != c.reason || permanent != c.permanent {
				t.Errorf("classified as %s, permanent %v: %v", reason, permanent, err)
			}
			nothingVisible(t, spec.DataDir)
		})
	}

	// With the right password the same registry says only that there is nothing.
	config := fmt.Sprintf(`{"auths":{%q:{"username":"u","password":"right"}}}`, closed)
	_, err := source.FetchModel(t.Context(), contract.FetchSpec{Source: oci(closed + "/a/x:v1"), DataDir: t.TempDir()}, source.Options{DockerConfig: []byte(config)})
	if reason, _ := failure.Of(err); reason != contract.ReasonSourceNotFound {
		t.Errorf("with a password: %v", err)
	}
}

// index pushes an index of so many manifests.
func index(t testing.TB, host, repository, tag string, manifests int) {
	t.Helper()
	all := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex}
	all.SchemaVersion = 2
	for i := range manifests {
		made := push(t, fmt.Sprintf("%s/%s:part%d", host, repository, i), fmt.Sprintf("application/vnd.example.%d", i), nil)
		all.Manifests = append(all.Manifests, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Size: 1, Digest: digest.Digest(made)})
	}
	b, err := json.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPut, fmt.Sprintf("http://%s/v2/%s/manifests/%s", host, repository, tag), bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", ocispec.MediaTypeImageIndex)
	response, err := http.DefaultClient.Do(r)
	if err != nil || response.StatusCode != http.StatusCreated {
		t.Fatalf("pushing an index: %v, %+v", err, response)
	}
	_ = response.Body.Close()
}

// A file that is another when its transfer goes on is not put together from both.
func TestAFileThatChangesMeanwhileIsNotMixed(t *testing.T) {
	dir, _ := modelDir(t, 1)
	content := files(t, dir, "/m/")
	changed := false
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, ok := content[r.URL.Path]
		if !ok {
			http.NotFound(w, r)
			return
		}
		tag := `"first"`
		if changed {
			tag = `"second"`
		}
		w.Header().Set("ETag", tag)
		http.ServeContent(w, r, "x", time.Time{}, bytes.NewReader(b))
	}))
	defer s.Close()
	breaks := &sourcetest.Breaking{After: 20_000, Between: func() { changed = true }}
	spec := contract.FetchSpec{Source: contract.Source{HTTP: &contract.HTTPSource{URL: s.URL + "/m"}}, DataDir: t.TempDir()}
	_, err := source.FetchModel(t.Context(), spec, source.Options{Client: &http.Client{Transport: breaks}, RetryPause: time.Millisecond})
	if err == nil || !strings.Contains(err.Error(), "changed while it was fetched") {
		t.Fatalf("got %v", err)
	}
	if reason, permanent := failure.Of(err); reason != contract.ReasonSourceUnreachable || permanent {
		t.Errorf("classified as %s, permanent %v: %v", reason, permanent, err)
	}
	if breaks.Broken.Load() != 1 {
		t.Errorf("%d transfers broke off", breaks.Broken.Load())
	}
	nothingVisible(t, spec.DataDir)
}

// A server that breaks off whatever it is asked for is given up in the end.
func TestATransferThatBringsNothingEnds(t *testing.T) {
	asked := 0
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked++
		w.Header().Set("ETag", `"x"`)
		if r.Header.Get("Range") != "" {
			w.Header().Set("Content-Range", "bytes 5-999999/1000000")
			w.Header().Set("Content-Length", "999995")
			w.WriteHeader(http.StatusPartialContent)
		} else {
			w.Header().Set("Content-Length", "1000000")
			_, _ = io.WriteString(w, "{    ")
		}
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}))
	defer s.Close()
	spec := contract.FetchSpec{Source: contract.Source{HTTP: &contract.HTTPSource{URL: s.URL + "/m"}}, DataDir: t.TempDir()}
	_, err := source.FetchModel(t.Context(), spec, source.Options{RetryPause: time.Millisecond})
	if !errors.Is(err, io.ErrUnexpectedEOF) || asked != 6 {
		t.Errorf("asked %d times: %v", asked, err)
	}
}

func TestCredentialsComeFromTheEnvironment(t *testing.T) {
	env := map[string]string{
		contract.EnvSourceToken: "t", contract.EnvS3AccessKey: "a", contract.EnvS3SecretKey: "b", contract.EnvS3SessionToken: "c", contract.EnvDockerConfig: "{}",
	}
	got := source.FromEnvironment(func(name string) string { return env[name] })
	if got.Token != "t" || got.S3 != (source.S3Keys{ID: "a", Secret: "b", SessionToken: "c"}) || string(got.DockerConfig) != "{}" {
		t.Errorf("%+v", got)
	}
	if got := source.FromEnvironment(func(string) string { return "" }); got.DockerConfig != nil {
		t.Error("no configuration is one")
	}
}

func TestSourcesOfACommandLine(t *testing.T) {
	env := map[string]string{"HF_ENDPOINT": "https://hub.example.com", "AWS_REGION": "eu-west-1", "AWS_ENDPOINT_URL": "http://s3.example.com"}
	for text, want := range map[string]contract.Source{
		"./model":                            {Path: "./model"},
		"https://a.b/c?d=e":                  {HTTP: &contract.HTTPSource{URL: "https://a.b/c?d=e"}},
		"hf://org/name":                      {HuggingFace: &contract.HubSource{Repo: "org/name", Endpoint: "https://hub.example.com"}},
		"hf://org/name@refs%2Fpr%2F1/a/b.pt": {HuggingFace: &contract.HubSource{Repo: "org/name", Revision: "refs/pr/1", Path: "a/b.pt", Endpoint: "https://hub.example.com"}},
		"s3://bucket/a/b":                    {S3: &contract.S3Source{Bucket: "bucket", Prefix: "a/b", Region: "eu-west-1", Endpoint: "http://s3.example.com"}},
		"oci://ghcr.io/a/b:v1":               {OCI: &contract.OCISource{Reference: "ghcr.io/a/b:v1"}},
	} {
		got, err := source.Parse(text, func(name string) string { return env[name] })
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("%s: %v\n%s", text, err, diff)
		}
	}
	for _, text := range []string{"ftp://a/b", "hf://name", "s3://", "hf://a/b@%zz"} {
		if got, err := source.Parse(text, func(string) string { return "" }); err == nil {
			t.Errorf("%s is %+v", text, got)
		}
	}
}

// A data set is one file of a repository of data sets, of a bucket or of an artifact.
func TestAFileComesFromEveryService(t *testing.T) {
	want := []byte(`{"question": "1 + 1?", "answer": "#### 2"}` + "\n")
	hub := sourcetest.NewHub(t)
	hub.Datasets["org/sums"] = &sourcetest.Repo{
		Revisions: map[string]string{"main": sourcetest.Commit(1)},
		Commits:   map[string]map[string][]byte{sourcetest.Commit(1): {"data/train.jsonl": want, "README.md": {}}},
	}
	s3 := bucketWith(t, "sets", map[string][]byte{"train.jsonl": want})
	host := registryHost(t, nil)
	push(t, host+"/sets/sums:v1", "application/vnd.example", []layer{{"application/jsonl", ocispec.AnnotationTitle, "train.jsonl", want}})
	at := serve(t, map[string][]byte{"/train.jsonl": want})
	for name, from := range map[string]contract.Source{
		"http": {HTTP: &contract.HTTPSource{URL: at + "/train.jsonl"}},
		"hub":  {HuggingFace: &contract.HubSource{Repo: "org/sums", Path: "data/train.jsonl", Endpoint: hub.URL}},
		"s3":   {S3: &contract.S3Source{Endpoint: s3, Bucket: "sets", Prefix: "train.jsonl"}},
		"oci":  {OCI: &contract.OCISource{Reference: host + "/sets/sums:v1", Insecure: true}},
	} {
		got, err := source.ReadFile(t.Context(), from, 1000, source.Options{DockerConfig: []byte(`{"auths":{}}`)})
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %q, %v", name, got, err)
		}
		if _, err := source.ReadFile(t.Context(), from, 10, source.Options{DockerConfig: []byte(`{"auths":{}}`)}); err == nil {
			t.Errorf("%s: more than 10 bytes", name)
		}
	}
	_, err := source.ReadFile(t.Context(), contract.Source{HuggingFace: &contract.HubSource{Repo: "org/sums", Path: "data/none.jsonl", Endpoint: hub.URL}}, 1000, source.Options{})
	if reason, _ := failure.Of(err); reason != contract.ReasonSourceNotFound {
		t.Errorf("a file that is not there: %v", err)
	}
}

// Hugging Face's own client understands the stand-in that our source is tested with.
func TestTheHubIsOneToItsOwnClient(t *testing.T) {
	dir := os.Getenv("T2_NODE_CLIENT")
	if dir == "" {
		t.Skip("T2_NODE_CLIENT is not set: it names test/clients/node with its packages installed, as make unit does")
	}
	model, _ := modelDir(t, 3)
	content := files(t, model, "")
	hub := sourcetest.NewHub(t)
	hub.Lock()
	hub.Repos["org/tiny"] = &sourcetest.Repo{
		Token: "hf_s3cret", Revisions: map[string]string{"v1": sourcetest.Commit(7)},
		Commits: map[string]map[string][]byte{sourcetest.Commit(7): content},
	}
	hub.Unlock()
	type file struct {
		Size   int    `json:"size"`
		SHA256 string `json:"sha256"`
		LFS    bool   `json:"lfs"`
	}
	about := map[string]file{}
	for name, b := range content {
		sum := sha256.Sum256(b)
		about[name] = file{len(b), hex.EncodeToString(sum[:]), sourcetest.InLFS(name)}
	}
	listed, err := json.Marshal(about)
	if err != nil {
		t.Fatal(err)
	}
	node := exec.CommandContext(t.Context(), "node", "--test", filepath.Join(dir, "hub.test.mjs"))
	node.Env = append(os.Environ(), "HUB_URL="+hub.URL, "HUB_REPO=org/tiny", "HUB_REVISION=v1", "HUB_TOKEN=hf_s3cret",
		"HUB_COMMIT="+sourcetest.Commit(7), "HUB_FILES="+string(listed))
	out, err := node.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "# fail 0") {
		t.Fatalf("%v\n%s", err, out)
	}
}
