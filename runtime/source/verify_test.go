package source_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content/memory"
	"oras.land/oras-go/v2/registry/remote"

	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/failure"
	"github.com/transformersquared/operator/runtime/source"
)

// signer signs as the tools do whose signatures are read here.
type signer struct {
	public string // PEM.
	id     string
	sign   func(message []byte) []byte
}

func newSigner(t testing.TB, key crypto.Signer, hash crypto.Hash) signer {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(der)
	return signer{
		public: string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})),
		id:     contract.DigestPrefix + hex.EncodeToString(sum[:]),
		sign: func(message []byte) []byte {
			if hash != 0 {
				h := hash.New()
				h.Write(message)
				message = h.Sum(nil)
			}
			sig, err := key.Sign(rand.Reader, message, hash)
			if err != nil {
				t.Fatal(err)
			}
			return sig
		},
	}
}

func elliptical(t testing.TB, curve elliptic.Curve, hash crypto.Hash) signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return newSigner(t, key, hash)
}

// bundle is a Sigstore bundle of a statement, as cosign 3 and model_signing 1 write it.
func (s signer) bundle(statement any) []byte {
	payload, _ := json.Marshal(statement)
	const kind = "application/vnd.in-toto+json"
	sig := s.sign(fmt.Appendf(nil, "DSSEv1 %d %s %d %s", len(kind), kind, len(payload), payload))
	b, _ := json.Marshal(map[string]any{
		"mediaType":            "application/vnd.dev.sigstore.bundle.v0.3+json",
		"verificationMaterial": map[string]any{"publicKey": map[string]any{"hint": "any"}, "tlogEntries": []any{}},
		"dsseEnvelope": map[string]any{
			"payload": base64.StdEncoding.EncodeToString(payload), "payloadType": kind,
			"signatures": []any{map[string]any{"sig": base64.StdEncoding.EncodeToString(sig), "keyid": ""}},
		},
	})
	return b
}

type object = map[string]any

// howField of a model's statement says how files were hashed.
const howField = "serialization" //nolint:misspell // The format's word.

// modelStatement is what model_signing signs of these files.
func modelStatement(files map[string][]byte) object {
	var names []string
	for name := range files {
		names = append(names, name)
	}
	slices.Sort(names)
	root := sha256.New()
	var resources []any
	for _, name := range names {
		sum := sha256.Sum256(files[name])
		root.Write(sum[:])
		resources = append(resources, object{"name": name, "algorithm": "sha256", "digest": hex.EncodeToString(sum[:])})
	}
	return object{
		"_type": "https://in-toto.io/Statement/v1", "predicateType": "https://model_signing/signature/v1.0",
		"subject": []any{object{"name": "tiny", "digest": object{"sha256": hex.EncodeToString(root.Sum(nil))}}},
		"predicate": object{
			howField:    object{"method": "files", "hash_type": "sha256", "allow_symlinks": false, "ignore_paths": []any{"model.sig", ".git"}},
			"resources": resources,
		},
	}
}

// verifying is a specification that wants a signature.
func verifying(from contract.Source, data, method, keys string) contract.FetchSpec {
	return contract.FetchSpec{Source: from, DataDir: data, Verify: &contract.Verification{Method: method, Keys: keys}}
}

// refused checks an error's reason, that nothing can make it pass by itself, and its text.
func refused(t *testing.T, err error, reason string, texts ...string) {
	t.Helper()
	e, ok := errors.AsType[*failure.Error](err)
	if !ok || e.Reason != reason || !e.Permanent {
		t.Fatalf("%v is not %s", err, reason)
	}
	for _, text := range texts {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("%q does not say %q", err, text)
		}
	}
}

func published(t *testing.T, data string) int {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(data, contract.DirModels, "sha256-*"))
	if err != nil {
		t.Fatal(err)
	}
	return len(found)
}

func TestAModelMustBeAsItWasSigned(t *testing.T) {
	dir, want := modelDir(t, 3)
	content := files(t, dir, "")
	team := elliptical(t, elliptic.P384(), crypto.SHA384)
	other := elliptical(t, elliptic.P256(), crypto.SHA256)
	var shard string
	for name := range content {
		if strings.HasSuffix(name, ".safetensors") {
			shard = max(shard, name)
		}
	}
	flip := func(name string) func(map[string][]byte) {
		return func(files map[string][]byte) {
			files[name] = bytes.Clone(files[name])
			files[name][len(files[name])-1] ^= 1
		}
	}
	statement := func(change func(object)) func(map[string][]byte) {
		return func(files map[string][]byte) {
			s := modelStatement(content)
			change(s)
			files[contract.SignatureFile] = team.bundle(s)
		}
	}
	for _, tc := range []struct {
		name   string
		keys   string
		change func(files map[string][]byte)
		reason string
		texts  []string
	}{
		{name: "as it was signed", keys: team.public, change: func(map[string][]byte) {}},
		{name: "by one key of several", keys: other.public + team.public, change: func(map[string][]byte) {}},
		{name: "what nobody reads is another", keys: team.public, change: func(f map[string][]byte) { f["README.md"] = []byte("# New") }},
		{
			name: "without a signature", keys: team.public, change: func(f map[string][]byte) { delete(f, contract.SignatureFile) },
			reason: contract.ReasonSignatureMissing, texts: []string{contract.SignatureFile},
		},
		{name: "by another key", keys: other.public, change: func(map[string][]byte) {}, reason: contract.ReasonSignatureInvalid, texts: []string{other.id}},
		{name: "a bit of a weight", keys: team.public, change: flip(shard), reason: contract.ReasonSignatureInvalid, texts: []string{shard}},
		{name: "a bit of the configuration", keys: team.public, change: flip("config.json"), reason: contract.ReasonSignatureInvalid, texts: []string{"config.json"}},
		{
			name: "a file too many", keys: team.public, change: func(f map[string][]byte) { f["chat_template.jinja"] = []byte("{{ x }}") },
			reason: contract.ReasonSignatureInvalid, texts: []string{"chat_template.jinja", "not signed"},
		},
		{
			name: "a file too few", keys: team.public, change: func(f map[string][]byte) {
				more := maps.Clone(content)
				more["generation_config.json"] = []byte("{}")
				f[contract.SignatureFile] = team.bundle(modelStatement(more))
			},
			reason: contract.ReasonSignatureInvalid, texts: []string{"generation_config.json", "does not have it"},
		},
		{
			name: "a file of another's signature", keys: team.public, change: func(f map[string][]byte) { f[contract.SignatureFile] = other.bundle(modelStatement(content)) },
			reason: contract.ReasonSignatureInvalid, texts: []string{team.id},
		},
		{
			name: "no bundle", keys: team.public, change: func(f map[string][]byte) { f[contract.SignatureFile] = []byte("signed") },
			reason: contract.ReasonSignatureInvalid, texts: []string{"no Sigstore bundle"},
		},
		{
			name: "another statement", keys: team.public, change: statement(func(s object) { s["predicateType"] = "https://slsa.dev/provenance/v1" }),
			reason: contract.ReasonSignatureInvalid, texts: []string{"https://slsa.dev/provenance/v1"},
		},
		{
			name: "by parts of files", keys: team.public,
			change: statement(func(s object) { s["predicate"].(object)[howField].(object)["method"] = "shards" }),
			reason: contract.ReasonSignatureInvalid, texts: []string{`"shards"`},
		},
		{
			name: "a subject that is not its list", keys: team.public,
			change: statement(func(s object) {
				s["predicate"].(object)["resources"] = s["predicate"].(object)["resources"].([]any)[1:]
			}),
			reason: contract.ReasonSignatureInvalid, texts: []string{"subject"},
		},
		{name: "no keys", keys: "none", change: func(map[string][]byte) {}, reason: contract.ReasonUsage, texts: []string{"verify.modelSigning.publicKeys"}},
		{
			name: "a private key", keys: strings.ReplaceAll(team.public, "PUBLIC", "PRIVATE"), change: func(map[string][]byte) {},
			reason: contract.ReasonUsage, texts: []string{"key 1"},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			signed := maps.Clone(content)
			signed[contract.SignatureFile] = team.bundle(modelStatement(signed))
			tc.change(signed)
			from, data := t.TempDir(), t.TempDir()
			for name, b := range signed {
				if err := os.WriteFile(filepath.Join(from, name), b, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			got, err := source.FetchModel(t.Context(), verifying(contract.Source{Path: from}, data, contract.VerifyModelSigning, tc.keys), source.Options{})
			if tc.reason != "" {
				refused(t, err, tc.reason, tc.texts...)
				if n := published(t, data); n != 0 {
					t.Errorf("%d models are in the volume", n)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got.Digest != want.Digest || got.Verified == nil || *got.Verified != (contract.Verified{Method: contract.VerifyModelSigning, KeyID: team.id}) {
				t.Errorf("model %s, %+v", got.Digest, got.Verified)
			}
			// What is there already was not signed by that.
			spec := verifying(contract.Source{Path: from}, data, contract.VerifyModelSigning, other.public)
			spec.Digest = want.Digest
			if _, err := source.FetchModel(t.Context(), spec, source.Options{}); err == nil {
				t.Error("a model that is there is taken for signed")
			}
		})
	}
}

// attach pushes a manifest with one layer, which refers to a subject or has a tag.
func attach(t testing.TB, repository, artifactType, tag string, subject *ocispec.Descriptor, media string, b []byte, annotations map[string]string) {
	t.Helper()
	store := memory.New()
	layer, err := oras.PushBytes(t.Context(), store, media, b)
	if err != nil {
		t.Fatal(err)
	}
	layer.Annotations = annotations
	desc, err := oras.PackManifest(t.Context(), store, oras.PackManifestVersion1_1, artifactType, oras.PackManifestOptions{Layers: []ocispec.Descriptor{layer}, Subject: subject})
	if err != nil {
		t.Fatal(err)
	}
	repo, err := remote.NewRepository(repository)
	if err != nil {
		t.Fatal(err)
	}
	repo.PlainHTTP = true
	for _, d := range []ocispec.Descriptor{layer, ocispec.DescriptorEmptyJSON} {
		r, err := store.Fetch(t.Context(), d)
		if err != nil {
			t.Fatal(err)
		}
		if err := repo.Blobs().Push(t.Context(), d, r); err != nil {
			t.Fatal(err)
		}
	}
	r, err := store.Fetch(t.Context(), desc)
	if err != nil {
		t.Fatal(err)
	}
	if err := repo.Manifests().Push(t.Context(), desc, r); err != nil {
		t.Fatal(err)
	}
	if tag != "" {
		if err := repo.Tag(t.Context(), desc, tag); err != nil {
			t.Fatal(err)
		}
	}
}

// registryWith starts a registry with options; seen is called with each request.
func registryWith(t testing.TB, seen func(*http.Request), o ...registry.Option) string {
	t.Helper()
	handler := registry.New(append(o, registry.Logger(log.New(io.Discard, "", 0)))...)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen(r)
		handler.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

// manifestOf is the descriptor of what a repository has.
func manifestOf(t testing.TB, repository, digest string) ocispec.Descriptor {
	t.Helper()
	repo, err := remote.NewRepository(repository)
	if err != nil {
		t.Fatal(err)
	}
	repo.PlainHTTP = true
	desc, err := repo.Resolve(t.Context(), digest)
	if err != nil {
		t.Fatal(err)
	}
	return desc
}

// The three places in which cosign keeps a signature.
type attaching func(t testing.TB, repository string, subject ocispec.Descriptor, by signer, of string)

func simple(by signer, of string) (payload []byte, annotations map[string]string) {
	payload, _ = json.Marshal(object{
		"critical": object{
			"identity": object{"docker-reference": "registry.example.com/models/tiny"},
			"image":    object{"docker-manifest-digest": of}, "type": "cosign container image signature",
		}, "optional": nil,
	})
	return payload, map[string]string{"dev.cosignproject.cosign/signature": base64.StdEncoding.EncodeToString(by.sign(payload))}
}

var cosigns = map[string]attaching{
	"a tag": func(t testing.TB, repository string, _ ocispec.Descriptor, by signer, of string) {
		b, annotations := simple(by, of)
		attach(t, repository, "application/vnd.oci.image.config.v1+json", strings.Replace(of, ":", "-", 1)+".sig", nil, "application/vnd.dev.cosign.simplesigning.v1+json", b, annotations)
	},
	"a payload that refers to it": func(t testing.TB, repository string, subject ocispec.Descriptor, by signer, of string) {
		b, annotations := simple(by, of)
		attach(t, repository, "application/vnd.dev.cosign.artifact.sig.v1+json", "", &subject, "application/vnd.dev.cosign.simplesigning.v1+json", b, annotations)
	},
	"a bundle that refers to it": func(t testing.TB, repository string, subject ocispec.Descriptor, by signer, of string) {
		const kind = "application/vnd.dev.sigstore.bundle.v0.3+json"
		statement := object{
			"_type": "https://in-toto.io/Statement/v1", "predicateType": "https://sigstore.dev/cosign/sign/v1", "predicate": object{},
			"subject": []any{object{"digest": object{"sha256": strings.TrimPrefix(of, "sha256:")}}},
		}
		attach(t, repository, kind, "", &subject, kind, by.bundle(statement), nil)
	},
}

func TestAnArtifactMustBeSignedByCosign(t *testing.T) {
	dir, want := modelDir(t, 3)
	content := files(t, dir, "")
	var layers []layer
	for name, b := range content {
		layers = append(layers, layer{"application/octet-stream", ocispec.AnnotationTitle, name, b})
	}
	slices.SortFunc(layers, func(a, b layer) int { return strings.Compare(a.name, b.name) })
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	team := elliptical(t, elliptic.P256(), crypto.SHA256)
	other := elliptical(t, elliptic.P256(), crypto.SHA256)
	for where, sign := range cosigns {
		for _, referrers := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, referrers %v", where, referrers), func(t *testing.T) {
				blobs := 0
				host := registryWith(t, func(r *http.Request) {
					if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") {
						blobs++
					}
				}, registry.WithReferrersSupport(referrers))
				fetch := func(repository, keys string) (source.Fetched, error) {
					from := contract.Source{OCI: &contract.OCISource{Reference: repository + ":v1", Insecure: true}}
					return source.FetchModel(t.Context(), verifying(from, t.TempDir(), contract.VerifyCosign, keys), source.Options{DockerConfig: []byte(`{"auths":{}}`)})
				}
				artifact := func(name string) (repository string, subject ocispec.Descriptor) {
					repository = host + "/" + name
					d := push(t, repository+":v1", "application/vnd.example.model", layers)
					return repository, manifestOf(t, repository, d)
				}
				for name, by := range map[string]signer{
					"p256": team, "p384-sha256": elliptical(t, elliptic.P384(), crypto.SHA256), "p521": elliptical(t, elliptic.P521(), crypto.SHA512),
					"rsa": newSigner(t, rsaKey, crypto.SHA256), "ed25519": newSigner(t, edKey, 0),
				} {
					repository, subject := artifact(name)
					sign(t, repository, subject, other, subject.Digest.String()) // There may be more than one.
					sign(t, repository, subject, by, subject.Digest.String())
					got, err := fetch(repository, by.public)
					if err != nil {
						t.Fatalf("%s: %v", name, err)
					}
					if got.Digest != want.Digest || got.Verified.KeyID != by.id || got.Verified.Method != contract.VerifyCosign {
						t.Errorf("%s: model %s, %+v", name, got.Digest, got.Verified)
					}
				}
				repository, subject := artifact("wrong-key")
				sign(t, repository, subject, other, subject.Digest.String())
				before := blobs
				_, err := fetch(repository, team.public)
				refused(t, err, contract.ReasonSignatureInvalid, repository, team.id)
				if blobs-before > 1 {
					t.Errorf("%d blobs were fetched of an artifact that is not trusted", blobs-before)
				}
				repository, subject = artifact("other-artifact")
				if where != "a tag" {
					sign(t, repository, subject, team, string(digest.FromString("other")))
					_, err = fetch(repository, team.public)
					refused(t, err, contract.ReasonSignatureInvalid, "what is signed is")
				}
				repository, _ = artifact("unsigned")
				_, err = fetch(repository, team.public)
				refused(t, err, contract.ReasonSignatureMissing, repository)
			})
		}
	}
	_, err = source.FetchModel(t.Context(), verifying(contract.Source{Path: dir}, t.TempDir(), contract.VerifyCosign, team.public), source.Options{})
	refused(t, err, contract.ReasonUsage, "verify.cosign", dir)
}
