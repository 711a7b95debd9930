package e2e

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/clientcmd"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content/memory"
	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/runtime/source/sourcetest"
)

// What models, experts and data sets come from are servers of this process: pods ask them at
// the address by which this machine asks the API server.

// thisMachine is the address of this machine on the way to the cluster.
func thisMachine(ctx context.Context) string {
	GinkgoHelper()
	config, err := clientcmd.BuildConfigFromFlags("", os.Getenv("KUBECONFIG"))
	Expect(err).NotTo(HaveOccurred())
	server, err := url.Parse(config.Host)
	Expect(err).NotTo(HaveOccurred())
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", server.Host)
	Expect(err).NotTo(HaveOccurred())
	defer func() { Expect(conn.Close()).To(Succeed()) }()
	address, _, err := net.SplitHostPort(conn.LocalAddr().String())
	Expect(err).NotTo(HaveOccurred())
	return address
}

// filesOf are the files of a folder by name, but its documentation.
func filesOf(folder string) map[string][]byte {
	GinkgoHelper()
	entries, err := os.ReadDir(folder)
	Expect(err).NotTo(HaveOccurred())
	files := map[string][]byte{}
	for _, e := range entries {
		if filepath.Ext(e.Name()) == ".md" {
			continue
		}
		files[e.Name()], err = os.ReadFile(filepath.Join(folder, e.Name()))
		Expect(err).NotTo(HaveOccurred())
	}
	return files
}

// A store is an S3 server that answers to one access key alone.
type store struct {
	backend gofakes3.Backend
	url     string
	keys    map[string]string // As a Secret has them.
}

func newStore(address string) *store {
	GinkgoHelper()
	s := &store{backend: s3mem.New(), keys: map[string]string{"AWS_ACCESS_KEY_ID": "AKIDE2E", "AWS_SECRET_ACCESS_KEY": "secret"}}
	handler := gofakes3.New(s.backend, gofakes3.WithLogger(gofakes3.DiscardLog())).Server()
	s.url = sourcetest.Serve(GinkgoTB(), address, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.Contains(r.Header.Get("Authorization"), "Credential=AKIDE2E/") {
			w.WriteHeader(http.StatusForbidden)
			_, _ = io.WriteString(w, `<?xml version="1.0"?><Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>`)
			return
		}
		handler.ServeHTTP(w, r)
	})).URL
	return s
}

func (s *store) put(bucket, key string, content []byte) {
	GinkgoHelper()
	Expect(s.backend.CreateBucket(bucket)).To(Succeed())
	_, err := s.backend.PutObject(bucket, key, map[string]string{"Last-Modified": "Mon, 02 Nov 2026 15:04:05 GMT"}, bytes.NewReader(content), int64(len(content)), nil)
	Expect(err).NotTo(HaveOccurred())
}

// A library is a registry without TLS that wants a name and a password for everything.
type library struct{ host string }

const (
	librarian, password = "e2e", "right"
	// libraryPort is where the nodes of the local cluster ask a registry of this machine without
	// TLS (hack/cluster).
	libraryPort = "5000"
)

func newLibrary(address string) *library {
	GinkgoHelper()
	handler := registry.New(registry.Logger(log.New(io.Discard, "", 0)), registry.WithReferrersSupport(true))
	s := sourcetest.ServeOn(GinkgoTB(), address, libraryPort, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if name, given, ok := r.BasicAuth(); !ok || name != librarian || given != password {
			w.Header().Set("WWW-Authenticate", `Basic realm="e2e"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		handler.ServeHTTP(w, r)
	}))
	return &library{host: strings.TrimPrefix(s.URL, "http://")}
}

// secret has what the registry wants, as kubectl create secret docker-registry makes it.
func (l *library) secret(namespace, name string) *corev1.Secret {
	GinkgoHelper()
	config, err := json.Marshal(map[string]any{"auths": map[string]any{l.host: map[string]string{
		"username": librarian, "password": password, "auth": base64.StdEncoding.EncodeToString([]byte(librarian + ":" + password)),
	}}})
	Expect(err).NotTo(HaveOccurred())
	s := &corev1.Secret{Type: corev1.SecretTypeDockerConfigJson, Data: map[string][]byte{corev1.DockerConfigJsonKey: config}}
	s.Namespace, s.Name = namespace, name
	return s
}

// source is an artifact of the registry as objects name it.
func (l *library) source(artifact, secret string) *v1alpha1.OCISource {
	return &v1alpha1.OCISource{Reference: l.host + "/" + artifact, PullSecretRef: &v1alpha1.SecretRef{Name: secret}, Insecure: new(true)}
}

func (l *library) repository(name string) *remote.Repository {
	GinkgoHelper()
	repository, err := remote.NewRepository(l.host + "/" + name)
	Expect(err).NotTo(HaveOccurred())
	repository.PlainHTTP = true
	repository.Client = &auth.Client{Credential: auth.StaticCredential(l.host, auth.Credential{Username: librarian, Password: password})}
	return repository
}

// a layer is one of an artifact to be pushed.
type layer struct {
	media       string
	annotations map[string]string
	content     []byte
}

// push makes an artifact with ORAS, as it does by default, and returns its manifest.
func (l *library) push(ctx context.Context, repository, tag, artifactType string, layers ...layer) ocispec.Descriptor {
	GinkgoHelper()
	return l.pack(ctx, memory.New(), repository, tag, artifactType, nil, layers...)
}

// pushImage makes an artifact of files that nodes can mount: its layer is a tar, and its
// configuration an image's.
func (l *library) pushImage(ctx context.Context, repository, tag, artifactType string, files map[string][]byte) ocispec.Descriptor {
	GinkgoHelper()
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		Expect(w.WriteHeader(&tar.Header{Name: "tiny/" + name, Mode: 0o444, Size: int64(len(files[name])), Typeflag: tar.TypeReg})).To(Succeed())
		_, err := w.Write(files[name])
		Expect(err).NotTo(HaveOccurred())
	}
	Expect(w.Close()).To(Succeed())
	image, err := json.Marshal(ocispec.Image{
		Platform: ocispec.Platform{OS: "linux", Architecture: runtime.GOARCH},
		RootFS:   ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.FromBytes(archive.Bytes())}},
	})
	Expect(err).NotTo(HaveOccurred())
	local := memory.New()
	config, err := oras.PushBytes(ctx, local, ocispec.MediaTypeImageConfig, image)
	Expect(err).NotTo(HaveOccurred())
	return l.pack(ctx, local, repository, tag, artifactType, &config, layer{ocispec.MediaTypeImageLayer, nil, archive.Bytes()})
}

// pack pushes layers and their manifest by way of a store that has the configuration.
func (l *library) pack(ctx context.Context, local *memory.Store, repository, tag, artifactType string, config *ocispec.Descriptor, layers ...layer) ocispec.Descriptor {
	GinkgoHelper()
	var all []ocispec.Descriptor
	for _, layer := range layers {
		desc, err := oras.PushBytes(ctx, local, layer.media, layer.content)
		Expect(err).NotTo(HaveOccurred())
		desc.Annotations = layer.annotations
		all = append(all, desc)
	}
	manifest, err := oras.PackManifest(ctx, local, oras.PackManifestVersion1_1, artifactType, oras.PackManifestOptions{Layers: all, ConfigDescriptor: config})
	Expect(err).NotTo(HaveOccurred())
	Expect(local.Tag(ctx, manifest, tag)).To(Succeed())
	_, err = oras.Copy(ctx, local, tag, l.repository(repository), tag, oras.CopyOptions{})
	Expect(err).NotTo(HaveOccurred())
	return manifest
}

// sign signs a manifest as cosign does by default: under a tag that is made of the digest. It
// returns the public key.
func (l *library) sign(ctx context.Context, repository string, manifest ocispec.Descriptor) v1alpha1.PublicKey {
	GinkgoHelper()
	key, public := keyPair()
	payload, err := json.Marshal(map[string]any{
		"critical": map[string]any{
			"identity": map[string]string{"docker-reference": l.host + "/" + repository},
			"image":    map[string]string{"docker-manifest-digest": manifest.Digest.String()},
			"type":     "cosign container image signature",
		},
		"optional": nil,
	})
	Expect(err).NotTo(HaveOccurred())
	sum := sha256.Sum256(payload)
	signature, err := ecdsa.SignASN1(rand.Reader, key, sum[:])
	Expect(err).NotTo(HaveOccurred())
	l.push(ctx, repository, strings.Replace(manifest.Digest.String(), ":", "-", 1)+".sig", ocispec.MediaTypeImageConfig, layer{
		media:       "application/vnd.dev.cosign.simplesigning.v1+json",
		annotations: map[string]string{"dev.cosignproject.cosign/signature": base64.StdEncoding.EncodeToString(signature)},
		content:     payload,
	})
	return public
}

func keyPair() (*ecdsa.PrivateKey, v1alpha1.PublicKey) {
	GinkgoHelper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	Expect(err).NotTo(HaveOccurred())
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	Expect(err).NotTo(HaveOccurred())
	return key, v1alpha1.PublicKey(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}
