// Package sourcetest has servers for tests of what fetches: a hub that answers as the
// published API of Hugging Face's does, and connections that break.
package sourcetest

import (
	"crypto/sha1" //nolint:gosec // What Git names files by.
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// Hub is a Hugging Face hub as far as reading goes: commits by revision, listings of
// folders in pages, files of a commit, those in LFS by a redirect to another host.
type Hub struct {
	// Mutex is held while it answers. Who changes something and then has another process
	// ask holds it, too.
	sync.Mutex
	// URL is the hub's endpoint.
	URL string
	// Repos are the repositories of models by name, Datasets those of data sets.
	Repos, Datasets map[string]*Repo
	// Page is how many entries an answer lists at most.
	Page int
	// Elsewhere is asked for files in LFS, as a content delivery network is.
	Elsewhere *httptest.Server
	// Leaked counts requests that brought Elsewhere the hub's token.
	Leaked int
	// Next replaces the address of a following page, where it is set.
	Next string
}

// Repo is a repository of a hub.
type Repo struct {
	// Token is needed to see it, if there is one.
	Token string
	// Gated says that its conditions were not accepted.
	Gated bool
	// Revisions are commits by branch, tag or ref.
	Revisions map[string]string
	// Commits are files by their paths, by commit.
	Commits map[string]map[string][]byte
	// Damage is what Elsewhere has in place of files, by path.
	Damage map[string][]byte
}

// Commit is the name of the n-th commit in tests.
func Commit(n int) string { return fmt.Sprintf("%040x", n) }

// NewHub starts a hub without repositories, for this machine alone.
func NewHub(t testing.TB) *Hub { return NewHubOn(t, "127.0.0.1") }

// NewHubOn is NewHub on another address of this machine, for clients that are elsewhere.
// Elsewhere is another port there and no other host, so that it is sent the token, too.
func NewHubOn(t testing.TB, address string) *Hub {
	h := &Hub{Repos: map[string]*Repo{}, Datasets: map[string]*Repo{}, Page: 2}
	h.Elsewhere = Serve(t, address, http.HandlerFunc(h.serveLFS))
	h.URL = Serve(t, address, http.HandlerFunc(h.serve)).URL
	return h
}

// Serve starts a server on a free port of an address of this machine, until the test ends.
func Serve(t testing.TB, address string, handler http.Handler) *httptest.Server {
	t.Helper()
	return ServeOn(t, address, "0", handler)
}

// ServeOn is Serve on a port, for clients that are told of none.
func ServeOn(t testing.TB, address, port string, handler http.Handler) *httptest.Server {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", net.JoinHostPort(address, port))
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(handler)
	if err := s.Listener.Close(); err != nil {
		t.Fatal(err)
	}
	s.Listener = listener
	s.Start()
	t.Cleanup(s.Close)
	return s
}

// refuse answers as the hub does: with the reason in a header, too.
func refuse(w http.ResponseWriter, status int, code, text string) {
	w.Header().Set("X-Error-Code", code)
	w.Header().Set("X-Error-Message", text)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]string{"error": text})
}

func (h *Hub) serve(w http.ResponseWriter, r *http.Request) {
	h.Lock()
	defer h.Unlock()
	segments := strings.Split(strings.TrimPrefix(r.URL.EscapedPath(), "/"), "/")
	asksAPI := segments[0] == "api"
	if asksAPI {
		segments = segments[1:]
	}
	repos := h.Repos
	if len(segments) > 0 && (asksAPI || segments[0] == "datasets") {
		if segments[0] == "datasets" {
			repos = h.Datasets
		}
		segments = segments[1:]
	}
	if len(segments) < 4 {
		http.NotFound(w, r)
		return
	}
	name, verb, revision := segments[0]+"/"+segments[1], segments[2], segments[3]
	repo := repos[name]
	if repo == nil || repo.Token != "" && r.Header.Get("Authorization") != "Bearer "+repo.Token {
		refuse(w, http.StatusUnauthorized, "RepoNotFound", "Invalid username or password.")
		return
	}
	revision = unescape(revision)
	commit, ok := repo.Revisions[revision]
	if !ok {
		commit = revision
	}
	files, ok := repo.Commits[commit]
	if !ok {
		refuse(w, http.StatusNotFound, "RevisionNotFound", "Invalid rev id: "+revision)
		return
	}
	inside := make([]string, 0, len(segments))
	for _, s := range segments[4:] {
		inside = append(inside, unescape(s))
	}
	w.Header().Set("X-Repo-Commit", commit)
	switch {
	case asksAPI && verb == "revision":
		_ = json.NewEncoder(w).Encode(map[string]any{"id": name, "sha": commit, "private": repo.Token != ""})
	case asksAPI && verb == "tree":
		h.list(w, r, files, path.Join(inside...))
	case !asksAPI && verb == "resolve" && repo.Gated:
		refuse(w, http.StatusForbidden, "GatedRepo", "Access to model "+name+" is restricted.")
	case !asksAPI && verb == "resolve":
		h.resolve(w, r, name, files, path.Join(inside...))
	default:
		http.NotFound(w, r)
	}
}

func unescape(s string) string {
	return strings.NewReplacer("%2F", "/", "%2f", "/", "%20", " ", "%25", "%").Replace(s)
}

// InLFS reports whether a hub keeps a file of this name in LFS.
func InLFS(name string) bool {
	return slices.Contains([]string{".safetensors", ".pt", ".gz", ".bin"}, path.Ext(name))
}

// list answers with the entries of a folder, a page at a time.
func (h *Hub) list(w http.ResponseWriter, r *http.Request, files map[string][]byte, folder string) {
	type lfs struct {
		OID         string `json:"oid"`
		Size        int    `json:"size"`
		PointerSize int    `json:"pointerSize"`
	}
	type entry struct {
		Type string `json:"type"`
		OID  string `json:"oid"`
		Size int    `json:"size"`
		Path string `json:"path"`
		LFS  *lfs   `json:"lfs,omitempty"`
	}
	entries := map[string]entry{}
	for name, content := range files {
		within, ok := name, true
		if folder != "" {
			within, ok = strings.CutPrefix(name, folder+"/")
		}
		if !ok {
			continue
		}
		if first, _, deeper := strings.Cut(within, "/"); deeper {
			entries[first] = entry{Type: "directory", OID: strings.Repeat("0", 40), Path: path.Join(folder, first)}
			continue
		}
		e := entry{Type: "file", OID: gitBlob(content), Size: len(content), Path: name}
		if InLFS(name) {
			sum := sha256.Sum256(content)
			e.OID = strings.Repeat("1", 40) // Of the pointer.
			e.LFS = &lfs{hex.EncodeToString(sum[:]), len(content), 134}
		}
		entries[within] = e
	}
	if len(entries) == 0 {
		refuse(w, http.StatusNotFound, "EntryNotFound", folder+" does not exist")
		return
	}
	names := make([]string, 0, len(entries))
	for n := range entries {
		names = append(names, n)
	}
	slices.Sort(names)
	from, _ := strconv.Atoi(r.URL.Query().Get("cursor"))
	to := min(from+h.Page, len(names))
	if to < len(names) {
		next := fmt.Sprintf("%s%s?cursor=%d", h.URL, r.URL.EscapedPath(), to)
		if h.Next != "" {
			next = h.Next
		}
		w.Header().Set("Link", fmt.Sprintf(`<%s>; rel="next"`, next))
	}
	page := make([]entry, 0, h.Page)
	for _, n := range names[from:to] {
		page = append(page, entries[n])
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(page)
}

func gitBlob(content []byte) string {
	sum := sha1.New() //nolint:gosec // What Git names files by.
	_, _ = fmt.Fprintf(sum, "blob %d\x00", len(content))
	_, _ = sum.Write(content)
	return hex.EncodeToString(sum.Sum(nil))
}

func (h *Hub) resolve(w http.ResponseWriter, r *http.Request, repo string, files map[string][]byte, name string) {
	content, ok := files[name]
	if !ok {
		refuse(w, http.StatusNotFound, "EntryNotFound", name+" does not exist")
		return
	}
	if !InLFS(name) {
		w.Header().Set("ETag", `"`+gitBlob(content)+`"`)
		http.ServeContent(w, r, path.Base(name), time.Time{}, strings.NewReader(string(content)))
		return
	}
	sum := sha256.Sum256(content)
	w.Header().Set("X-Linked-Etag", `"`+hex.EncodeToString(sum[:])+`"`)
	w.Header().Set("X-Linked-Size", strconv.Itoa(len(content)))
	// Another name of the same machine: another host to clients.
	elsewhere := strings.Replace(h.Elsewhere.URL, "127.0.0.1", "localhost", 1)
	http.Redirect(w, r, fmt.Sprintf("%s/%s/%x/%s", elsewhere, repo, sum, name), http.StatusFound) //nolint:gosec // To a server of the test.
}

func (h *Hub) serveLFS(w http.ResponseWriter, r *http.Request) {
	h.Lock()
	defer h.Unlock()
	if r.Header.Get("Authorization") != "" {
		h.Leaked++
	}
	segments := strings.SplitN(strings.TrimPrefix(r.URL.Path, "/"), "/", 4)
	if len(segments) < 4 || h.Repos[segments[0]+"/"+segments[1]] == nil {
		http.NotFound(w, r)
		return
	}
	repo, want, name := h.Repos[segments[0]+"/"+segments[1]], segments[2], segments[3]
	for _, files := range repo.Commits {
		content := files[name]
		if sum := sha256.Sum256(content); hex.EncodeToString(sum[:]) != want {
			continue
		}
		if damaged, ok := repo.Damage[name]; ok {
			content = damaged
		}
		w.Header().Set("ETag", `"`+want+`"`)
		http.ServeContent(w, r, path.Base(name), time.Time{}, strings.NewReader(string(content)))
		return
	}
	http.NotFound(w, r)
}
