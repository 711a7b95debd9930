package source

import (
	"context"
	"crypto/sha1" //nolint:gosec // What Git names files by.
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/failure"
)

// Bounds of what a hub says of a repository.
const (
	maxHubAnswer = 16 << 20
	maxHubFiles  = 100_000
)

// repoName is how a hub names a repository: an organisation and a name, or, of old ones, a
// name alone.
var repoName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,95}(/[A-Za-z0-9][A-Za-z0-9._-]{0,95})?$`)

// hubTree is a folder of a repository of a Hugging Face hub at one commit: what its
// revision meant when the tree was opened, so that all files are of the same one.
type hubTree struct {
	*web
	endpoint *url.URL
	kind     string // As the API's addresses have it: models or datasets.
	repo     string
	commit   string
	folder   string
	files    map[string]hubFile // Of the folder, by name.
}

// hubFile is a file as the hub's listing has it.
type hubFile struct {
	Type string `json:"type"`
	Path string `json:"path"`
	Size int64  `json:"size"`
	// OID is the SHA-1 of the Git blob: the file, or the pointer to it of one in LFS.
	OID string `json:"oid"`
	LFS *struct {
		// OID is the SHA-256 of the file.
		OID string `json:"oid"`
	} `json:"lfs"`
}

func openHub(ctx context.Context, h contract.HubSource, scratch string, o Options, m *meter) (tree, error) {
	address := h.Endpoint
	if address == "" {
		address = contract.DefaultHubEndpoint
	}
	endpoint, err := parseAddress(address, "the endpoint of huggingFace")
	if err != nil {
		return nil, err
	}
	if !repoName.MatchString(h.Repo) {
		return nil, failure.Permanentf(contract.ReasonUsage, "huggingFace.repo %q is no name of a repository, such as org/name", h.Repo)
	}
	inside := path.Clean("/" + h.Path)[1:]
	revision := h.Revision
	if revision == "" {
		revision = contract.DefaultHubRevision
	}
	t := &hubTree{web: newWeb(o, m), endpoint: endpoint, kind: "models", repo: h.Repo, folder: inside, files: map[string]hubFile{}}
	t.explain = explainHub
	if o.file {
		t.kind = "datasets"
	}
	single := o.file || isArchive(inside) || isExpertFile(inside)
	if single {
		t.folder = strings.TrimPrefix(path.Dir("/"+inside), "/")
	}
	if err := t.resolve(ctx, revision); err != nil {
		return nil, t.absent(revision, err)
	}
	if err := t.list(ctx); err != nil {
		return nil, t.absent(revision, err)
	}
	if !single {
		return t, nil
	}
	name := path.Base(inside)
	if o.file || isExpertFile(inside) {
		return &hubSingle{hubTree: t, name: name}, nil
	}
	file, ok := t.files[name]
	if !ok {
		return nil, absentFrom(t, name, fs.ErrNotExist)
	}
	u := t.address(file)
	unpacked, err := receiveArchive(ctx, t.receiver, t.opening(u), inside, shown(u), scratch)
	if err != nil {
		return nil, err
	}
	return &revised{tree: unpacked, at: t.commit}, nil
}

// absent classifies that a hub does not know a repository, a revision or a folder.
func (t *hubTree) absent(revision string, err error) error {
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return failure.Transientf(contract.ReasonSourceNotFound, "%s has no %s at revision %s: check repo, revision and path: %w",
		shown(t.endpoint), path.Join(t.repo, t.folder), revision, err)
}

// explainHub says what a hub means by a refusal: it hides what is private by a 401, and
// tells by a header what it would not by the status.
func explainHub(r *http.Response, where string) error {
	switch code := r.Header.Get("X-Error-Code"); {
	case code == "GatedRepo":
		return failure.Permanentf(contract.ReasonUnauthorized,
			"fetching %s: the repository is gated: accept its conditions on the hub, and give the token of who did in tokenSecretRef", where)
	case r.StatusCode == http.StatusUnauthorized || r.StatusCode == http.StatusForbidden:
		return failure.Permanentf(contract.ReasonUnauthorized,
			"fetching %s: the hub answers %s: there is no such repository, or it is private: check repo, or give a token that may read it in tokenSecretRef", where, r.Status)
	case r.StatusCode == http.StatusTooManyRequests:
		return failure.Transientf(contract.ReasonSourceUnreachable, "fetching %s: the hub answers %s: it is asked again later; a token in tokenSecretRef has a larger allowance", where, r.Status)
	default:
		return nil
	}
}

// api is the address of one of the hub's questions about the repository. What follows is
// one segment each, escaped.
func (t *hubTree) api(segments ...string) *url.URL {
	return t.join(append([]string{"api", t.kind, t.repo}, segments...))
}

// join appends to the endpoint's path; a slash within a revision is escaped, so that it
// stays one segment.
func (t *hubTree) join(parts []string) *url.URL {
	escaped := make([]string, len(parts))
	for i, p := range parts {
		escaped[i] = p
		if p != t.repo {
			escaped[i] = url.PathEscape(p)
		}
	}
	u := *t.endpoint
	base := strings.TrimSuffix(u.EscapedPath(), "/")
	u.RawPath = base + "/" + strings.Join(escaped, "/")
	u.Path = strings.TrimSuffix(t.endpoint.Path, "/") + "/" + strings.Join(parts, "/")
	u.RawQuery, u.Fragment = "", ""
	return &u
}

// resolve asks which commit a revision is.
func (t *hubTree) resolve(ctx context.Context, revision string) error {
	var answer struct {
		SHA string `json:"sha"`
	}
	u := t.api("revision", revision)
	if _, err := t.ask(ctx, u, &answer); err != nil {
		return err
	}
	if !gitName.MatchString(answer.SHA) {
		return failure.Transientf(contract.ReasonSourceUnreachable, "%s answers without a commit: is it a Hugging Face hub?", shown(u))
	}
	t.commit = answer.SHA
	return nil
}

var gitName = regexp.MustCompile(`^[0-9a-f]{40}([0-9a-f]{24})?$`)

// list asks what is in the folder; a long answer comes in pages.
func (t *hubTree) list(ctx context.Context) error {
	segments := []string{"tree", t.commit}
	if t.folder != "" {
		segments = append(segments, strings.Split(t.folder, "/")...)
	}
	for u := t.api(segments...); u != nil; {
		var page []hubFile
		next, err := t.ask(ctx, u, &page)
		if err != nil {
			return err
		}
		for _, f := range page {
			if name := path.Base(f.Path); f.Type == "file" && path.Join(t.folder, name) == f.Path {
				t.files[name] = f
			}
		}
		if len(t.files) > maxHubFiles {
			return failure.Permanentf(contract.ReasonInvalidModel, "%s has more than %d files in one folder", t, maxHubFiles)
		}
		if next != nil && len(page) == 0 {
			return failure.Transientf(contract.ReasonSourceUnreachable, "%s answers with a page of nothing and says that more follows", shown(u))
		}
		u = next
	}
	return nil
}

// ask decodes a JSON answer, and returns the address of the page that follows, if there
// is one.
func (t *hubTree) ask(ctx context.Context, u *url.URL, into any) (next *url.URL, err error) {
	var link string
	body, _, err := t.receive(ctx, func(ctx context.Context, _ int64, _ string) (transfer, error) {
		response, err := t.do(ctx, u, http.Header{}) //nolint:bodyclose // The download closes it.
		if err != nil {
			return transfer{}, err
		}
		link = response.Header.Get("Link")
		return transfer{body: response.Body, size: -1}, nil
	}, shown(u))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, body.Close()) }()
	b, err := io.ReadAll(io.LimitReader(body, maxHubAnswer+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxHubAnswer || json.Unmarshal(b, into) != nil {
		return nil, failure.Transientf(contract.ReasonSourceUnreachable, "%s does not answer as a Hugging Face hub does: check endpoint", shown(u))
	}
	return t.following(u, link)
}

// following reads a Link header (RFC 8288) as far as hubs use it. The next page must be of
// the same hub, as the token goes there.
func (t *hubTree) following(u *url.URL, link string) (*url.URL, error) {
	for one := range strings.SplitSeq(link, ",") {
		target, parameters, ok := strings.Cut(strings.TrimSpace(one), ";")
		if !ok || !strings.Contains(strings.ReplaceAll(parameters, " ", ""), `rel="next"`) {
			continue
		}
		next, err := u.Parse(strings.Trim(target, "<>"))
		if err != nil || next.Host != t.endpoint.Host || next.Scheme != t.endpoint.Scheme {
			return nil, failure.Transientf(contract.ReasonSourceUnreachable, "%s says that its next page is elsewhere: it is not asked for", shown(u))
		}
		return next, nil
	}
	return nil, nil
}

// address is where the hub has a file of the commit.
func (t *hubTree) address(f hubFile) *url.URL {
	parts := []string{t.repo, "resolve", t.commit}
	if t.kind != "models" {
		parts = slices.Insert(parts, 0, t.kind)
	}
	return t.join(append(parts, strings.Split(f.Path, "/")...))
}

func (t *hubTree) take(ctx context.Context, name, dst string, limit int64) error {
	f, ok := t.files[name]
	if !ok {
		return fmt.Errorf("%s has no %s: %w", t, name, fs.ErrNotExist)
	}
	u := t.address(f)
	return t.receiver.take(ctx, t.opening(u), shown(u), dst, limit, func(r io.Reader) io.Reader {
		c := &checked{r: r, where: shown(u)}
		if f.LFS != nil {
			c.sum, c.want = sha256.New(), f.LFS.OID
		} else {
			c.sum, c.want = sha1.New(), f.OID //nolint:gosec // What Git names files by.
			_, _ = fmt.Fprintf(c.sum, "blob %d\x00", f.Size)
		}
		return c
	})
}

func (t *hubTree) String() string {
	return fmt.Sprintf("%s/%s at %.12s", strings.TrimSuffix(shown(t.endpoint), "/"), path.Join(t.repo, t.folder), t.commit)
}

func (t *hubTree) revision() string { return t.commit }

func (t *hubTree) close() error { return nil }

// hubSingle is one file of a repository.
type hubSingle struct {
	*hubTree
	name string
}

func (s *hubSingle) takeOnly(ctx context.Context, dst string, limit int64) error {
	return s.take(ctx, s.name, dst, limit)
}

func (s *hubSingle) String() string { return path.Join(s.hubTree.String(), s.name) }

// revised is a tree whose source knew which revision it was.
type revised struct {
	tree
	at string
}

func (r *revised) revision() string { return r.at }
