// Package source brings models, experts and data sets from where users keep them: models
// and experts to a data volume, from an http(s) address, a Hugging Face hub, an S3 bucket,
// an OCI registry or a mounted path, as a folder or an archive.
//
// A transfer that breaks off goes on where it was, if what its server has is still the
// same. What a server knows the hash of is compared with it: files of a hub, blobs of a
// registry.
//
// What arrives is untrusted. It is staged out of sight, bounded in size, opened
// and checked, compared with the digest that was asked for, and only then
// published; whatever goes wrong, nothing partial is left or visible.
package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/transformersquared/operator/runtime/artifact"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/failure"
)

// Options are what a fetch may use besides its specification.
type Options struct {
	// Token is sent as a bearer token with every request to the source's host, which is
	// one of http or a hub.
	Token string
	// S3 are the keys for a bucket.
	S3 S3Keys
	// DockerConfig is the content of a config.json of Docker with credentials for
	// registries; nil means that of this machine's user.
	DockerConfig []byte
	// VerifyKeys are public keys in PEM, for a verification that has none itself.
	VerifyKeys []byte
	// Client replaces the HTTP client; nil means NewClient().
	Client *http.Client
	// Progress is called with the bytes that have arrived and the bytes
	// expected in all, as far as known. It may be nil.
	Progress func(done, total int64)
	// StallTimeout ends a download that delivers nothing for so long; 0 means
	// DefaultStallTimeout.
	StallTimeout time.Duration
	// RetryPause is how long the first pause is before a transfer that broke off goes on;
	// each that follows is twice as long. 0 means a second.
	RetryPause time.Duration
	// file says that the source is one file, whatever its name.
	file bool
	// mounted is where the source is mounted already, empty where it is not.
	mounted string
	// verify is whose signature the source must have; nil means none.
	verify *verification
}

// FromEnvironment are the credentials that variables of the environment have. A hub's
// token may have the name that a hub's other clients know.
func FromEnvironment(getenv func(string) string) Options {
	o := Options{
		Token: getenv(contract.EnvSourceToken),
		S3: S3Keys{
			ID: getenv(contract.EnvS3AccessKey), Secret: getenv(contract.EnvS3SecretKey), SessionToken: getenv(contract.EnvS3SessionToken),
			Ambient: getenv(contract.EnvS3Ambient) != "",
		},
	}
	if keys := getenv(contract.EnvVerifyKeys); keys != "" {
		o.VerifyKeys = []byte(keys)
	}
	if config := getenv(contract.EnvDockerConfig); config != "" {
		o.DockerConfig = []byte(config)
	}
	return o
}

// DefaultStallTimeout is Options.StallTimeout's default.
const DefaultStallTimeout = 60 * time.Second

// Bounds of what is fetched.
const (
	maxSmallFile  = 64 << 20 // config, tokenizer, index, manifest
	maxWeightFile = 1 << 40
	maxExpertFile = 1 << 30
)

// tree is a source folder of files that can be had by name.
type tree interface {
	// take writes the named file to dst, which must not exist. If the source has
	// no such file the error satisfies errors.Is(err, fs.ErrNotExist); with
	// more than limit bytes it is refused.
	take(ctx context.Context, name, dst string, limit int64) error
	// String describes the source in messages, without secrets.
	String() string
	// revision names what the source had when it was opened, empty where it has no
	// names for that.
	revision() string
	// close removes what was only needed to read the source.
	close() error
}

// meter counts bytes for Options.Progress.
type meter struct {
	mu          sync.Mutex
	report      func(done, total int64)
	done, total int64
	// promised are bytes of total whose sizes are yet to be announced one by one.
	promised int64
}

// expect adds bytes to the total that later announcements will account for.
func (m *meter) expect(total int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.promised += total
	m.total += total
}

func (m *meter) add(done, total int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	kept := min(total, m.promised)
	m.promised -= kept
	m.done += done
	m.total = max(m.total+total-kept, m.done)
	if m.report != nil {
		m.report(m.done, m.total)
	}
}

// Write counts what passes.
func (m *meter) Write(p []byte) (int, error) {
	m.add(int64(len(p)), 0)
	return len(p), nil
}

// openVerified is open for a source whose files must be as somebody signed them, if v says so:
// nothing of what it then gives has not been compared.
func openVerified(ctx context.Context, s contract.Source, v *verification, scratch string, o Options, m *meter) (tree, error) {
	if v != nil && v.method == contract.VerifyCosign && s.OCI == nil {
		return nil, failure.Permanentf(contract.ReasonUsage, "verify.cosign is of artifacts in a registry (oci), and %s is none: use verify.modelSigning", Describe(s))
	}
	o.verify = v
	from, err := open(ctx, s, scratch, o, m)
	if err != nil || v == nil || v.method != contract.VerifyModelSigning {
		return from, err
	}
	signed, err := openSigned(ctx, from, v)
	if err != nil {
		return nil, errors.Join(err, from.close())
	}
	return signed, nil
}

// open returns the tree of a source. scratch is where an archive may be unpacked.
func open(ctx context.Context, s contract.Source, scratch string, o Options, m *meter) (tree, error) {
	type kind struct {
		name  string
		given bool
		open  func() (tree, error)
	}
	kinds := []kind{
		{"http", s.HTTP != nil, func() (tree, error) { return openHTTP(ctx, *s.HTTP, scratch, o, m) }},
		{"huggingFace", s.HuggingFace != nil, func() (tree, error) { return openHub(ctx, *s.HuggingFace, scratch, o, m) }},
		{"s3", s.S3 != nil, func() (tree, error) { return openS3(ctx, *s.S3, scratch, o, m) }},
		{"oci", s.OCI != nil, func() (tree, error) {
			if o.mounted != "" {
				return openMounted(ctx, *s.OCI, o.mounted, o, m)
			}
			return openOCI(ctx, *s.OCI, scratch, o, m)
		}},
		{"path", s.Path != "", func() (tree, error) { return openPath(ctx, s.Path, scratch, m) }},
	}
	var names []string
	var found []kind
	for _, k := range kinds {
		names = append(names, k.name)
		if k.given {
			found = append(found, k)
		}
	}
	switch len(found) {
	case 0:
		return nil, failure.Permanentf(contract.ReasonUsage, "the source has none of %s: give exactly one", strings.Join(names, ", "))
	case 1:
		return found[0].open()
	default:
		return nil, failure.Permanentf(contract.ReasonUsage, "the source has both %s and %s: give exactly one", found[0].name, found[1].name)
	}
}

// Describe is what messages call a source, without secrets.
func Describe(s contract.Source) string {
	switch {
	case s.HTTP != nil:
		u, err := url.Parse(s.HTTP.URL)
		if err != nil {
			return "an address that is no valid URL"
		}
		return shown(u)
	case s.HuggingFace != nil:
		return "hf://" + path.Join(s.HuggingFace.Repo, s.HuggingFace.Path)
	case s.S3 != nil:
		return "s3://" + path.Join(s.S3.Bucket, s.S3.Prefix)
	case s.OCI != nil:
		return "oci://" + s.OCI.Reference
	default:
		return s.Path
	}
}

// Parse reads how a command line names a source: a path, an http(s) address,
// hf://ORG/NAME[@REVISION][/PATH], s3://BUCKET/PREFIX or oci://REGISTRY/REPOSITORY:TAG,
// which oci+http:// asks for without TLS.
// What such an address does not say, variables of the environment do that other clients
// know: HF_ENDPOINT, AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL and AWS_REGION.
func Parse(text string, getenv func(string) string) (contract.Source, error) {
	scheme, rest, ok := strings.Cut(text, "://")
	if !ok {
		return contract.Source{Path: text}, nil
	}
	switch scheme {
	case "http", "https":
		return contract.Source{HTTP: &contract.HTTPSource{URL: text}}, nil
	case "hf":
		return parseHub(rest, getenv("HF_ENDPOINT"))
	case "s3":
		bucket, prefix, _ := strings.Cut(rest, "/")
		if bucket == "" {
			return contract.Source{}, failure.Permanentf(contract.ReasonUsage, "%s names no bucket: it must be s3://BUCKET/PREFIX", text)
		}
		s := contract.S3Source{Bucket: bucket, Prefix: prefix, Region: getenv("AWS_REGION"), Endpoint: getenv("AWS_ENDPOINT_URL_S3")}
		if s.Endpoint == "" {
			s.Endpoint = getenv("AWS_ENDPOINT_URL")
		}
		return contract.Source{S3: &s}, nil
	case "oci", "oci+http":
		return contract.Source{OCI: &contract.OCISource{Reference: rest, Insecure: scheme == "oci+http"}}, nil
	default:
		return contract.Source{}, failure.Permanentf(contract.ReasonUsage, "a source cannot begin with %s://: use a path, http, https, hf, s3 or oci", scheme)
	}
}

// parseHub reads ORG/NAME[@REVISION][/PATH]. A revision with slashes is written with %2F.
func parseHub(rest, endpoint string) (contract.Source, error) {
	parts := strings.SplitN(rest, "/", 3)
	if len(parts) < 2 {
		return contract.Source{}, failure.Permanentf(contract.ReasonUsage, "hf://%s names no repository: it must be hf://ORG/NAME[@REVISION][/PATH]", rest)
	}
	name, revision, _ := strings.Cut(parts[1], "@")
	revision, err := url.PathUnescape(revision)
	if err != nil {
		return contract.Source{}, failure.Permanentf(contract.ReasonUsage, "hf://%s: the revision is not escaped as it should be", rest)
	}
	h := contract.HubSource{Repo: parts[0] + "/" + name, Revision: revision, Endpoint: endpoint}
	if len(parts) == 3 {
		h.Path = parts[2]
	}
	return contract.Source{HuggingFace: &h}, nil
}

func openPath(ctx context.Context, place, scratch string, m *meter) (tree, error) {
	stat, err := os.Stat(place)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, failure.Transientf(contract.ReasonSourceNotFound, "source %s does not exist: check the path within the volume: %w", place, err)
	}
	if err != nil {
		return nil, fmt.Errorf("opening source: %w", err)
	}
	if stat.IsDir() {
		return newDirTree(place, m), nil
	}
	if !isArchive(place) {
		return &localFile{dirTree: newDirTree(filepath.Dir(place), m), name: filepath.Base(place)}, nil
	}
	f, err := os.Open(place)
	if err != nil {
		return nil, fmt.Errorf("opening source: %w", err)
	}
	m.add(0, stat.Size())
	t, err := unpack(ctx, io.TeeReader(f, m), place, place, scratch)
	return t, errors.Join(err, f.Close())
}

// isExpertFile reports whether an address is that of one file, not of a folder. What
// the file holds, its content says.
func isExpertFile(path string) bool {
	switch strings.ToLower(filepath.Ext(path)) {
	case ".safetensors", ".pt", ".pth":
		return true
	default:
		return false
	}
}

func isArchive(path string) bool {
	lower := strings.ToLower(path)
	return strings.HasSuffix(lower, ".tar") || strings.HasSuffix(lower, ".tar.gz") || strings.HasSuffix(lower, ".tgz")
}

// write copies r to a new file, at most limit bytes.
func write(ctx context.Context, dst string, r io.Reader, limit int64) (err error) {
	f, err := os.OpenFile(dst, os.O_WRONLY|os.O_CREATE|os.O_EXCL, artifact.FileMode)
	if err != nil {
		return fmt.Errorf("fetching: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	n, err := io.Copy(f, io.LimitReader(&contextReader{ctx, r}, limit+1))
	if err != nil {
		return fmt.Errorf("fetching %s: %w", filepath.Base(dst), err)
	}
	if n > limit {
		return fmt.Errorf("%s has more than %d bytes: too big for what it should be", filepath.Base(dst), limit)
	}
	return nil
}

// contextReader ends a copy when the context ends.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

// Read implements io.Reader.
func (r *contextReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, context.Cause(r.ctx)
	}
	return r.r.Read(p)
}

// dirTree is a folder of the file system.
type dirTree struct {
	dir   string
	meter *meter
	// within, when set, is where links must not lead out of: a mounted volume is
	// the user's, the rest of the pod's file system is not.
	within string
}

func newDirTree(dir string, m *meter) *dirTree {
	t := &dirTree{dir: dir, meter: m}
	if clean := filepath.Clean(dir); clean == contract.MountSource || strings.HasPrefix(clean, contract.MountSource+"/") {
		t.within = contract.MountSource
	}
	return t
}

func (t *dirTree) take(ctx context.Context, name, dst string, limit int64) (err error) {
	path, err := filepath.EvalSymlinks(filepath.Join(t.dir, name))
	if err != nil {
		return fmt.Errorf("fetching %s from %s: %w", name, t.dir, err)
	}
	if t.within != "" && !strings.HasPrefix(path, t.within+"/") {
		return fmt.Errorf("%s in %s is a link out of the volume", name, t.dir)
	}
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("fetching: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	stat, err := f.Stat()
	if err != nil {
		return fmt.Errorf("fetching: %w", err)
	}
	if !stat.Mode().IsRegular() {
		return fmt.Errorf("%s in %s is no regular file", name, t.dir)
	}
	t.meter.add(0, stat.Size())
	return write(ctx, dst, io.TeeReader(f, t.meter), limit)
}

func (t *dirTree) String() string { return t.dir }

func (t *dirTree) revision() string { return "" }

func (t *dirTree) close() error { return nil }

// single is a source that is one file, whatever its name.
type single interface {
	takeOnly(ctx context.Context, dst string, limit int64) error
}

// localFile is a single file of the file system.
type localFile struct {
	*dirTree
	name string
}

func (f *localFile) takeOnly(ctx context.Context, dst string, limit int64) error {
	return f.take(ctx, f.name, dst, limit)
}

func (f *localFile) String() string { return filepath.Join(f.dir, f.name) }
