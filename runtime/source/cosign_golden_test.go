package source_test

import (
	"bytes"
	"crypto"
	"crypto/elliptic"
	"encoding/base64"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/transformersquared/operator/runtime/checkpoint/checkpointtest"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/source"
)

// cosignProgram has testdata/signed written anew: a model as cosign itself has signed it, so
// that what is read is what it writes, and not what other tests here take that to be.
// hack/golden/signatures.sh does it.
var cosignProgram = flag.String("cosign", "", "`program`: write testdata/signed anew with this cosign")

const (
	signedModel    = "testdata/signed/model"
	signedRegistry = "testdata/signed/registry"
)

// pushed is a manifest that a registry was given: in a repository, under a tag or its
// digest. Manifests, and blobs that are no files of the model, are files beside the list.
type pushed struct {
	Repository string        `json:"repository"`
	Reference  string        `json:"reference"`
	MediaType  string        `json:"mediaType"`
	Digest     digest.Digest `json:"digest"`
}

// cosignWays are how the artifacts of the recording are signed, each in a repository of
// this name, and cosignKeys the names of the keys.
var (
	cosignWays = map[string][]string{
		"bundle":   {"sign"},
		"tag":      {"sign", "--new-bundle-format=false"},
		"referrer": {"sign", "--new-bundle-format=false", "--registry-referrers-mode=oci-1-1"},
		"attested": {"attest", "--type", "https://example.com/reviewed/v1", "--predicate", "predicate.json"},
	}
	cosignKeys = []string{"p256", "p384", "rsa", "ed25519"}
)

// recordCosign lets cosign sign a model in each way with each key, in a registry here, and
// keeps what the registry was given.
func recordCosign(t *testing.T, program string) {
	t.Helper()
	home := t.TempDir()
	run := func(name string, args ...string) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), name, args...)
		cmd.Dir = home
		cmd.Env = append(os.Environ(), "COSIGN_PASSWORD=", "COSIGN_EXPERIMENTAL=1", "HOME="+home, "DOCKER_CONFIG="+home)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
		}
	}
	for _, folder := range []string{signedModel, signedRegistry} {
		if err := os.RemoveAll(folder); err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(folder, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	checkpointtest.Write(t, signedModel, checkpointtest.Tiny())
	save(t, filepath.Join(home, "predicate.json"), []byte(`{"by":"somebody"}`))
	for name, args := range map[string][]string{
		"p256": {"-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"}, "p384": {"-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"},
		"rsa": {"-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:3072"}, "ed25519": {"-algorithm", "ED25519"},
	} {
		run("openssl", append([]string{"genpkey", "-out", name + ".pem"}, args...)...)
		run(program, "import-key-pair", "--key", name+".pem", "--output-key-prefix", name)
		save(t, filepath.Join(signedRegistry, name+".pub"), load(t, filepath.Join(home, name+".pub")))
	}

	var all []pushed
	host := registryWith(t, func(r *http.Request) {
		repository, reference, ok := strings.Cut(strings.TrimPrefix(r.URL.Path, "/v2/"), "/manifests/")
		if r.Method != http.MethodPut || !ok {
			return
		}
		b, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		r.Body = io.NopCloser(bytes.NewReader(b))
		p := pushed{Repository: repository, Reference: reference, MediaType: r.Header.Get("Content-Type"), Digest: digest.FromBytes(b)}
		save(t, filepath.Join(signedRegistry, p.Digest.Encoded()), b)
		all = append(all, p)
	})
	for _, way := range slices.Sorted(maps.Keys(cosignWays)) {
		for _, key := range cosignKeys {
			repository := host + "/" + way + "/" + key
			d := push(t, repository+":v1", "application/vnd.example.model", modelLayers(t))
			// Neither a transparency log nor the Sigstore project's keys have a part in it.
			run(program, append(slices.Clone(cosignWays[way]), "--key", key+".key", "--use-signing-config=false", "--tlog-upload=false", "--yes", "--allow-http-registry", repository+"@"+d)...)
		}
	}
	local := modelBlobs(t)
	for _, p := range all {
		for _, d := range blobsOf(t, load(t, filepath.Join(signedRegistry, p.Digest.Encoded()))) {
			if local[d] == nil {
				save(t, filepath.Join(signedRegistry, d.Encoded()), ask(t, http.MethodGet, "http://"+host+"/v2/"+p.Repository+"/blobs/"+d.String(), "", nil))
			}
		}
	}
	b, err := json.MarshalIndent(all, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	save(t, filepath.Join(signedRegistry, "manifests.json"), append(b, '\n'))
}

// recorded are the manifests that the registry was given, in that order.
func recorded(t *testing.T) []pushed {
	t.Helper()
	var all []pushed
	if err := json.Unmarshal(load(t, filepath.Join(signedRegistry, "manifests.json")), &all); err != nil {
		t.Fatal(err)
	}
	return all
}

// replay gives a registry what the recorded one was given.
func replay(t *testing.T, host string) {
	t.Helper()
	local := modelBlobs(t)
	for _, p := range recorded(t) {
		manifest := load(t, filepath.Join(signedRegistry, p.Digest.Encoded()))
		for _, d := range blobsOf(t, manifest) {
			b := local[d]
			if b == nil {
				b = load(t, filepath.Join(signedRegistry, d.Encoded()))
			}
			putBlob(t, host, p.Repository, b)
		}
		ask(t, http.MethodPut, "http://"+host+"/v2/"+p.Repository+"/manifests/"+p.Reference, p.MediaType, manifest)
	}
}

func putBlob(t *testing.T, host, repository string, b []byte) {
	t.Helper()
	ask(t, http.MethodPost, "http://"+host+"/v2/"+repository+"/blobs/uploads/?digest="+digest.FromBytes(b).String(), "application/octet-stream", b)
}

// ask sends a request that must succeed, and returns the answer.
func ask(t *testing.T, method, url, media string, body []byte) []byte {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if media != "" {
		r.Header.Set("Content-Type", media)
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = answer.Body.Close() }()
	b, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode >= 300 {
		t.Fatalf("%s %s: %s: %v: %s", method, url, answer.Status, err, b)
	}
	return b
}

// blobsOf are the blobs that a manifest names; an index names none.
func blobsOf(t *testing.T, manifest []byte) []digest.Digest {
	t.Helper()
	var m ocispec.Manifest
	if err := json.Unmarshal(manifest, &m); err != nil {
		t.Fatal(err)
	}
	var all []digest.Digest
	for _, d := range append(m.Layers, m.Config) {
		if d.Digest != "" {
			all = append(all, d.Digest)
		}
	}
	return all
}

// modelLayers are the files of the signed model as an artifact has them, and modelBlobs by
// their digests.
func modelLayers(t *testing.T) []layer {
	t.Helper()
	var all []layer
	for _, name := range slices.Sorted(maps.Keys(files(t, signedModel, ""))) {
		all = append(all, layer{"application/octet-stream", ocispec.AnnotationTitle, name, load(t, filepath.Join(signedModel, name))})
	}
	return all
}

func modelBlobs(t *testing.T) map[digest.Digest][]byte {
	t.Helper()
	all := map[digest.Digest][]byte{}
	for _, b := range files(t, signedModel, "") {
		all[digest.FromBytes(b)] = b
	}
	return all
}

func load(t *testing.T, file string) []byte {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func save(t *testing.T, file string, b []byte) {
	t.Helper()
	if err := os.WriteFile(file, b, 0o644); err != nil {
		t.Fatal(err)
	}
}

// fetchSigned takes the artifact v1 of a repository, if it is signed by one of these keys.
func fetchSigned(t *testing.T, repository, keys string) (source.Fetched, error) {
	t.Helper()
	from := contract.Source{OCI: &contract.OCISource{Reference: repository + ":v1", Insecure: true}}
	return source.FetchModel(t.Context(), verifying(from, t.TempDir(), contract.VerifyCosign, keys), source.Options{DockerConfig: []byte(`{"auths":{}}`)})
}

func TestWhatCosignWrites(t *testing.T) {
	if *cosignProgram != "" {
		recordCosign(t, *cosignProgram)
	}
	stranger := elliptical(t, elliptic.P256(), crypto.SHA256)
	for _, referrers := range []bool{true, false} {
		host := registryWith(t, func(*http.Request) {}, registry.WithReferrersSupport(referrers))
		replay(t, host)
		for way := range cosignWays {
			for _, key := range cosignKeys {
				public := string(load(t, filepath.Join(signedRegistry, key+".pub")))
				t.Run(fmt.Sprintf("%s by %s, referrers %v", way, key, referrers), func(t *testing.T) {
					repository := host + "/" + way + "/" + key
					if way == "attested" { // What somebody says of it is no signature.
						_, err := fetchSigned(t, repository, public)
						refused(t, err, contract.ReasonSignatureMissing, repository)
						return
					}
					for _, keys := range []string{public, stranger.public + public} {
						got, err := fetchSigned(t, repository, keys)
						if err != nil {
							t.Fatal(err)
						}
						if got.Verified.Method != contract.VerifyCosign || got.Verified.KeyID == stranger.id {
							t.Errorf("it was verified: %+v", got.Verified)
						}
					}
					_, err := fetchSigned(t, repository, stranger.public)
					refused(t, err, contract.ReasonSignatureInvalid, repository, stranger.id)
				})
			}
		}
	}
}

// What cosign signed stays what it signed: its signature is of no other artifact, neither
// as it is nor with that one's digest written into it.
func TestWhatCosignWroteOfAnotherArtifact(t *testing.T) {
	host := registryWith(t, func(*http.Request) {}, registry.WithReferrersSupport(true))
	replay(t, host)
	for way := range cosignWays {
		if way == "attested" {
			continue
		}
		for _, key := range cosignKeys {
			for _, forge := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s by %s, forged %v", way, key, forge), func(t *testing.T) {
					repository := way + "/" + key
					of := manifestOf(t, host+"/"+repository, recordedDigest(t, repository))
					to := manifestOf(t, host+"/"+repository, push(t, host+"/"+repository+":v1", fmt.Sprintf("application/vnd.example.other.%v", forge), modelLayers(t)))
					if moved := move(t, host, repository, of, to, forge); moved != 1 {
						t.Fatalf("%d signatures were moved", moved)
					}
					want := "what is signed is "
					if forge {
						want = "not by a key that is trusted"
					}
					_, err := fetchSigned(t, host+"/"+repository, string(load(t, filepath.Join(signedRegistry, key+".pub"))))
					refused(t, err, contract.ReasonSignatureInvalid, want)
				})
			}
		}
	}
}

// recordedDigest is that of the artifact that was signed in a repository.
func recordedDigest(t *testing.T, repository string) string {
	t.Helper()
	for _, p := range recorded(t) {
		if p.Repository == repository && p.Reference == "v1" {
			return p.Digest.String()
		}
	}
	t.Fatalf("nothing was signed in %s", repository)
	return ""
}

// move gives the signatures of one artifact to another, and counts them. Forged ones name
// it, too.
func move(t *testing.T, host, repository string, of, to ocispec.Descriptor, forge bool) (moved int) {
	t.Helper()
	for _, p := range recorded(t) {
		var m ocispec.Manifest
		if err := json.Unmarshal(load(t, filepath.Join(signedRegistry, p.Digest.Encoded())), &m); err != nil {
			t.Fatal(err)
		}
		if p.Repository != repository || p.Digest == of.Digest || len(m.Layers) == 0 {
			continue
		}
		if forge {
			b := forged(t, load(t, filepath.Join(signedRegistry, m.Layers[0].Digest.Encoded())), of.Digest, to.Digest)
			putBlob(t, host, repository, b)
			m.Layers[0].Digest, m.Layers[0].Size = digest.FromBytes(b), int64(len(b))
		}
		reference := strings.Replace(p.Reference, of.Digest.Encoded(), to.Digest.Encoded(), 1)
		if m.Subject != nil {
			m.Subject = &to
		}
		b, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		if reference == p.Digest.String() {
			reference = digest.FromBytes(b).String()
		}
		ask(t, http.MethodPut, "http://"+host+"/v2/"+repository+"/manifests/"+reference, p.MediaType, b)
		moved++
	}
	return moved
}

// forged is a payload, or a bundle of one, with another digest in it.
func forged(t *testing.T, b []byte, of, to digest.Digest) []byte {
	t.Helper()
	var bundle object
	if err := json.Unmarshal(b, &bundle); err != nil {
		t.Fatal(err)
	}
	change := func(b []byte) []byte {
		if !bytes.Contains(b, []byte(of.Encoded())) {
			t.Fatalf("%s is not of %s", b, of)
		}
		return bytes.ReplaceAll(b, []byte(of.Encoded()), []byte(to.Encoded()))
	}
	envelope, ok := bundle["dsseEnvelope"].(object)
	if !ok {
		return change(b)
	}
	payload, err := base64.StdEncoding.DecodeString(envelope["payload"].(string))
	if err != nil {
		t.Fatal(err)
	}
	envelope["payload"] = base64.StdEncoding.EncodeToString(change(payload))
	b, err = json.Marshal(bundle)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
