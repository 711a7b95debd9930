package source_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/transformersquared/operator/runtime/checkpoint"
	"github.com/transformersquared/operator/runtime/checkpoint/checkpointtest"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/failure"
	"github.com/transformersquared/operator/runtime/source"
)

// modelDir writes a random model with a card beside it.
func modelDir(t testing.TB, shards int) (dir string, manifest contract.ModelManifest) {
	t.Helper()
	dir = t.TempDir()
	shape := checkpointtest.Tiny()
	shape.Shards = shards
	checkpointtest.Write(t, dir, shape)
	if err := os.WriteFile(filepath.Join(dir, "README.md"), []byte("card"), 0o600); err != nil {
		t.Fatal(err)
	}
	manifest, err := checkpoint.BuildManifest(dir)
	if err != nil {
		t.Fatal(err)
	}
	return dir, manifest
}

// archive packs a folder as a tar, its entries below prefix.
func archive(t testing.TB, dir, prefix string, compressed bool) []byte {
	t.Helper()
	var b bytes.Buffer
	var w io.Writer = &b
	if compressed {
		z := gzip.NewWriter(&b)
		defer func() { _ = z.Close() }()
		w = z
	}
	a := tar.NewWriter(w)
	if prefix != "" {
		if err := a.WriteHeader(&tar.Header{Name: prefix, Typeflag: tar.TypeDir, Mode: 0o755}); err != nil {
			t.Fatal(err)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		content, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		if err := a.WriteHeader(&tar.Header{Name: prefix + e.Name(), Size: int64(len(content)), Mode: 0o644}); err != nil {
			t.Fatal(err)
		}
		if _, err := a.Write(content); err != nil {
			t.Fatal(err)
		}
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if z, ok := w.(*gzip.Writer); ok {
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return b.Bytes()
}

// serve answers with files by path; a missing one is 404.
func serve(t testing.TB, files map[string][]byte) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		content, ok := files[r.URL.Path]
		if !ok {
			http.NotFound(w, r)
			return
		}
		_, _ = w.Write(content)
	}))
	t.Cleanup(s.Close)
	return s.URL
}

// files reads a folder under an URL prefix.
func files(t testing.TB, dir, prefix string) map[string][]byte {
	t.Helper()
	m := map[string][]byte{}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if m[prefix+e.Name()], err = os.ReadFile(filepath.Join(dir, e.Name())); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

// nothingVisible checks that a data folder has no artifact and no leftovers.
func nothingVisible(t *testing.T, root string) {
	t.Helper()
	for _, kind := range []string{contract.DirModels, contract.DirExperts} {
		entries, err := os.ReadDir(filepath.Join(root, kind))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		for _, e := range entries {
			t.Errorf("%s/%s was left", kind, e.Name())
		}
	}
}

func TestAModelArrivesTheSameFromWherever(t *testing.T) {
	for _, shards := range []int{1, 3} {
		dir, want := modelDir(t, shards)
		linked := t.TempDir() // As a Hugging Face cache is laid out.
		for _, f := range want.Files {
			if err := os.Symlink(filepath.Join(dir, f.Path), filepath.Join(linked, f.Path)); err != nil {
				t.Fatal(err)
			}
		}
		tarPath := filepath.Join(t.TempDir(), "model.tar")
		if err := os.WriteFile(tarPath, archive(t, dir, "", false), 0o600); err != nil {
			t.Fatal(err)
		}
		site := files(t, dir, "/models/tiny/resolve/main/")
		site["/tiny.tar.gz"] = archive(t, dir, "tiny/", true)
		site["/tiny.tgz"] = archive(t, dir, "a/b/tiny/", true)
		url := serve(t, site)
		for name, from := range map[string]contract.Source{
			"a folder":                {Path: dir},
			"a folder of links":       {Path: linked},
			"an archive":              {Path: tarPath},
			"a folder on a server":    {HTTP: &contract.HTTPSource{URL: url + "/models/tiny/resolve/main"}},
			"with a slash at the end": {HTTP: &contract.HTTPSource{URL: url + "/models/tiny/resolve/main/"}},
			"an archive on a server":  {HTTP: &contract.HTTPSource{URL: url + "/tiny.tar.gz"}},
			"with folders around":     {HTTP: &contract.HTTPSource{URL: url + "/tiny.tgz?signature=x"}},
		} {
			spec := contract.FetchSpec{Source: from, DataDir: t.TempDir(), Digest: want.Digest}
			last, total := int64(0), int64(0)
			got, err := source.FetchModel(t.Context(), spec, source.Options{Progress: func(d, n int64) { last, total = d, n }})
			if err != nil {
				t.Errorf("%s, %d shards: %v", name, shards, err)
				continue
			}
			if diff := cmp.Diff(want, got.ModelManifest); diff != "" {
				t.Errorf("%s: manifest -want +got\n%s", name, diff)
			}
			if last == 0 || last > total {
				t.Errorf("%s: progress ended at %d of %d", name, last, total)
			}
			entries, err := os.ReadDir(filepath.Join(spec.DataDir, contract.DirModels))
			if err != nil || len(entries) != 1 {
				t.Errorf("%s: folders %v (%v)", name, entries, err)
			}
		}
	}
}

// lfsPointer is what a clone without Git LFS has in place of a large file.
const lfsPointer = "version https://git-lfs.github.com/spec/v1\n" +
	"oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 123456789\n"

// sentencePiece is a SentencePiece model of an unknown token and two letters.
func sentencePiece() []byte {
	field := func(b []byte, number protowire.Number, v []byte) []byte {
		return protowire.AppendBytes(protowire.AppendTag(b, number, protowire.BytesType), v)
	}
	var b []byte
	for i, text := range []string{"<unk>", "a", "b"} {
		kind := uint64(1)
		if i == 0 {
			kind = 2
		}
		piece := field(nil, 1, []byte(text))
		piece = protowire.AppendVarint(protowire.AppendTag(piece, 3, protowire.VarintType), kind)
		b = field(b, 1, piece)
	}
	var trainer []byte
	for number, v := range map[protowire.Number]uint64{3: 2, 40: 0, 41: 1, 42: 2} {
		trainer = protowire.AppendVarint(protowire.AppendTag(trainer, number, protowire.VarintType), v)
	}
	return field(b, 2, trainer)
}

func TestEveryTokenizerFileArrives(t *testing.T) {
	for _, name := range contract.TokenizerFiles {
		dir, _ := modelDir(t, 1)
		if name != "tokenizer.json" {
			if err := errors.Join(os.Remove(filepath.Join(dir, "tokenizer.json")), os.WriteFile(filepath.Join(dir, name), sentencePiece(), 0o600)); err != nil {
				t.Fatal(err)
			}
		}
		for _, optional := range checkpoint.OptionalFiles {
			if _, err := os.Stat(filepath.Join(dir, optional)); err == nil || optional == "chat_template.jinja" {
				continue
			}
			if err := os.WriteFile(filepath.Join(dir, optional), []byte("{}"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		want, err := checkpoint.BuildManifest(dir)
		if err != nil {
			t.Fatal(err)
		}
		if len(want.Files) < 7 || !slices.ContainsFunc(want.Files, func(f contract.FileEntry) bool { return f.Path == name }) {
			t.Errorf("%s: the model's files are %v", name, want.Files)
		}
		url := serve(t, map[string][]byte{"/m.tgz": archive(t, dir, "m/", true)})
		for from, of := range map[string]contract.Source{"a folder": {Path: dir}, "an archive": {HTTP: &contract.HTTPSource{URL: url + "/m.tgz"}}} {
			spec := contract.FetchSpec{Source: of, DataDir: t.TempDir()}
			got, err := source.FetchModel(t.Context(), spec, source.Options{})
			if err != nil {
				t.Errorf("%s from %s: %v", name, from, err)
				continue
			}
			if diff := cmp.Diff(want, got.ModelManifest); diff != "" {
				t.Errorf("%s from %s: manifest -want +got\n%s", name, from, diff)
			}
		}
	}
}

func TestAModelThatIsThereIsNotFetchedAgain(t *testing.T) {
	dir, want := modelDir(t, 1)
	spec := contract.FetchSpec{Source: contract.Source{Path: dir}, DataDir: t.TempDir(), Digest: want.Digest}
	if _, err := source.FetchModel(t.Context(), spec, source.Options{}); err != nil {
		t.Fatal(err)
	}
	spec.Path = "/nowhere"
	if _, err := source.FetchModel(t.Context(), spec, source.Options{}); err != nil {
		t.Errorf("a model that is there was looked for at its source: %v", err)
	}
	// A damaged one is.
	final, err := contract.ArtifactDir(spec.DataDir, contract.DirModels, want.Digest)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(final, "model.safetensors"), 100); err != nil {
		t.Fatal(err)
	}
	if _, err := source.FetchModel(t.Context(), spec, source.Options{}); err == nil {
		t.Error("a damaged model was accepted")
	}
	spec.Path = dir
	if got, err := source.FetchModel(t.Context(), spec, source.Options{}); err != nil || got.Digest != want.Digest {
		t.Errorf("fetching a damaged model again: %v", err)
	}
}

func TestBadSourcesLeaveNothing(t *testing.T) {
	good, want := modelDir(t, 1)
	damaged := func(damage func(dir string) error) string {
		dir, _ := modelDir(t, 1)
		if err := damage(dir); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	overwrite := func(name, content string) func(string) error {
		return func(dir string) error { return os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600) }
	}
	smaller := func(dir string) error {
		b, err := os.ReadFile(filepath.Join(dir, "config.json"))
		if err != nil {
			return err
		}
		return overwrite("config.json", strings.Replace(string(b), `"vocab_size": 260`, `"vocab_size": 200`, 1))(dir)
	}
	whole := archive(t, good, "", true)
	url := serve(t, map[string][]byte{"/half.tar.gz": whole[:len(whole)/2], "/text.tar.gz": []byte("hello"), "/model.safetensors": {1}})
	for _, c := range []struct {
		name          string
		spec          contract.FetchSpec
		wantReason    string
		wantPermanent bool
		want          string
	}{
		{"another digest", contract.FetchSpec{Source: contract.Source{Path: good}, Digest: "sha256:" + strings.Repeat("0", 64)}, contract.ReasonDigestMismatch, true, want.Digest},
		{"no source", contract.FetchSpec{}, contract.ReasonUsage, true, "none of http, huggingFace, s3, oci, path"},
		{"two sources", contract.FetchSpec{Source: contract.Source{Path: good, HTTP: &contract.HTTPSource{URL: url}}}, contract.ReasonUsage, true, "both"},
		{"no digest of ours", contract.FetchSpec{Source: contract.Source{Path: good}, Digest: "v1"}, contract.ReasonUsage, true, "no digest"},
		{"another scheme", contract.FetchSpec{Source: contract.Source{HTTP: &contract.HTTPSource{URL: "file:///etc/passwd"}}}, contract.ReasonUsage, true, "http"},
		{"a path that is not there", contract.FetchSpec{Source: contract.Source{Path: filepath.Join(good, "nothing")}}, contract.ReasonSourceNotFound, false, "does not exist"},
		{"a folder without a model", contract.FetchSpec{Source: contract.Source{Path: t.TempDir()}}, contract.ReasonSourceNotFound, false, "config.json"},
		{"a single file", contract.FetchSpec{Source: contract.Source{Path: filepath.Join(good, "model.safetensors")}}, contract.ReasonInvalidModel, true, "single file"},
		{"a server without the folder", contract.FetchSpec{Source: contract.Source{HTTP: &contract.HTTPSource{URL: url + "/nothing"}}}, contract.ReasonSourceNotFound, false, "404"},
		{"a server without the archive", contract.FetchSpec{Source: contract.Source{HTTP: &contract.HTTPSource{URL: url + "/nothing.tar"}}}, contract.ReasonSourceNotFound, false, "404"},
		{"half an archive", contract.FetchSpec{Source: contract.Source{HTTP: &contract.HTTPSource{URL: url + "/half.tar.gz"}}}, contract.ReasonInvalidModel, true, "truncated"},
		{"no archive", contract.FetchSpec{Source: contract.Source{HTTP: &contract.HTTPSource{URL: url + "/text.tar.gz"}}}, contract.ReasonInvalidModel, true, "archive"},
		{"truncated weights", contract.FetchSpec{Source: contract.Source{Path: damaged(func(dir string) error { return os.Truncate(filepath.Join(dir, "model.safetensors"), 5000) })}},
			contract.ReasonInvalidModel, true, "truncated"},
		{"a config that is no JSON", contract.FetchSpec{Source: contract.Source{Path: damaged(overwrite("config.json", "{"))}}, contract.ReasonInvalidModel, true, "config.json"},
		{"another architecture", contract.FetchSpec{Source: contract.Source{Path: damaged(overwrite("config.json", `{"model_type":"gpt2"}`))}}, contract.ReasonUnsupported, true, "gpt2"},
		{"a tokenizer that is no JSON", contract.FetchSpec{Source: contract.Source{Path: damaged(overwrite("tokenizer.json", "{"))}}, contract.ReasonInvalidModel, true, "tokenizer"},
		{"a tokenizer of another kind", contract.FetchSpec{Source: contract.Source{Path: damaged(overwrite("tokenizer.json", `{"model":{"type":"Unigram"}}`))}}, contract.ReasonUnsupported, true, "Unigram"},
		{"no tokenizer", contract.FetchSpec{Source: contract.Source{Path: damaged(func(dir string) error { return os.Remove(filepath.Join(dir, "tokenizer.json")) })}},
			contract.ReasonSourceNotFound, false, "tokenizer.model"},
		{"a SentencePiece model that is none", contract.FetchSpec{Source: contract.Source{Path: damaged(func(dir string) error {
			return os.Rename(filepath.Join(dir, "tokenizer.json"), filepath.Join(dir, "tokenizer.model"))
		})}}, contract.ReasonInvalidModel, true, "tokenizer.model"},
		{"weights that are a Git LFS pointer", contract.FetchSpec{Source: contract.Source{Path: damaged(overwrite("model.safetensors", lfsPointer))}},
			contract.ReasonInvalidModel, true, "model.safetensors: this is a Git LFS pointer, not the file itself: fetch the file of 123456789 bytes (git lfs pull"},
		{"a tokenizer that is one", contract.FetchSpec{Source: contract.Source{Path: damaged(overwrite("tokenizer.json", lfsPointer))}}, contract.ReasonInvalidModel, true, "git lfs pull"},
		{"a tokenizer of another model", contract.FetchSpec{Source: contract.Source{Path: damaged(smaller)}}, contract.ReasonInvalidModel, true, "different models"},
		{"a folder in place of a file", contract.FetchSpec{Source: contract.Source{Path: damaged(func(dir string) error {
			return errors.Join(os.Remove(filepath.Join(dir, "config.json")), os.Mkdir(filepath.Join(dir, "config.json"), 0o700))
		})}}, contract.ReasonInvalidModel, true, "no regular file"},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.spec.DataDir = t.TempDir()
			got, err := source.FetchModel(t.Context(), c.spec, source.Options{})
			if err == nil {
				t.Fatalf("accepted as %+v", got)
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %q does not say %q", err, c.want)
			}
			if reason, permanent := failure.Of(err); reason != c.wantReason || permanent != c.wantPermanent {
				t.Errorf("classified as %s, permanent %v: %v", reason, permanent, err)
			}
			nothingVisible(t, c.spec.DataDir)
		})
	}
}

func TestServersThatMisbehave(t *testing.T) {
	for _, c := range []struct {
		name          string
		handle        http.HandlerFunc
		wantReason    string
		wantPermanent bool
		want          string
	}{
		{"ask for a token", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUnauthorized) }, contract.ReasonUnauthorized, true, "tokenSecretRef"},
		{"forbid", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) }, contract.ReasonUnauthorized, true, "403"},
		{"are overloaded", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) }, contract.ReasonSourceUnreachable, false, "503"},
		{"hang up", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000000")
			_, _ = w.Write([]byte("{"))
			panic(http.ErrAbortHandler)
		}, contract.ReasonSourceUnreachable, false, "check the address"},
		{"stand still", func(w http.ResponseWriter, r *http.Request) {
			_, _ = w.Write([]byte("{"))
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		}, contract.ReasonSourceUnreachable, false, "stopped sending"},
		{"redirect for ever", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, r.URL.Path, http.StatusFound) }, contract.ReasonSourceUnreachable, false, "redirects"},
		{"promise too much", func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Content-Length", "1000000000000") }, contract.ReasonInvalidModel, true, "at most"},
		{"send without end", func(w http.ResponseWriter, _ *http.Request) {
			b := make([]byte, 1<<20)
			for range 100 {
				if _, err := w.Write(b); err != nil {
					return
				}
			}
		}, contract.ReasonInvalidModel, true, "too big"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := httptest.NewServer(c.handle)
			defer s.Close()
			spec := contract.FetchSpec{Source: contract.Source{HTTP: &contract.HTTPSource{URL: strings.Replace(s.URL, "http://", "http://user:secret@", 1) + "/m"}}, DataDir: t.TempDir()}
			_, err := source.FetchModel(t.Context(), spec, source.Options{StallTimeout: 300 * time.Millisecond, RetryPause: time.Millisecond})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %v, want %q", err, c.want)
			}
			if strings.Contains(err.Error(), "secret") {
				t.Errorf("the password is in %q", err)
			}
			if reason, permanent := failure.Of(err); reason != c.wantReason || permanent != c.wantPermanent {
				t.Errorf("classified as %s, permanent %v: %v", reason, permanent, err)
			}
			nothingVisible(t, spec.DataDir)
		})
	}
}

func TestAnUnreachableServerIsTriedAgain(t *testing.T) {
	s := httptest.NewServer(http.NotFoundHandler())
	url := s.URL
	s.Close()
	_, err := source.FetchModel(t.Context(), contract.FetchSpec{Source: contract.Source{HTTP: &contract.HTTPSource{URL: url}}, DataDir: t.TempDir()}, source.Options{})
	if reason, permanent := failure.Of(err); reason != contract.ReasonSourceUnreachable || permanent {
		t.Errorf("classified as %s, permanent %v: %v", reason, permanent, err)
	}
}

func TestTheTokenGoesToTheSourceAlone(t *testing.T) {
	dir, want := modelDir(t, 1)
	content := files(t, dir, "/")
	leaked := make(chan string, 100)
	elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			leaked <- r.URL.Path
		}
		if b, ok := content[r.URL.Path]; ok {
			_, _ = w.Write(b)
			return
		}
		http.NotFound(w, r)
	}))
	defer elsewhere.Close()
	// Another host name, or net/http would call it the same host.
	other := strings.Replace(elsewhere.URL, "127.0.0.1", "localhost", 1)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer s3cret" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		http.Redirect(w, r, other+r.URL.Path, http.StatusFound)
	}))
	defer s.Close()
	spec := contract.FetchSpec{Source: contract.Source{HTTP: &contract.HTTPSource{URL: s.URL}}, DataDir: t.TempDir(), Digest: want.Digest}
	if _, err := source.FetchModel(t.Context(), spec, source.Options{Token: "s3cret"}); err != nil {
		t.Fatal(err)
	}
	if len(leaked) > 0 {
		t.Errorf("the token was sent on for %s", <-leaked)
	}
}

func TestAnInterruptionLeavesNothing(t *testing.T) {
	dir, _ := modelDir(t, 1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	spec := contract.FetchSpec{Source: contract.Source{Path: dir}, DataDir: t.TempDir()}
	_, err := source.FetchModel(ctx, spec, source.Options{Progress: func(done, _ int64) {
		if done > 1000 {
			cancel()
		}
	}})
	if reason, permanent := failure.Of(err); reason != contract.ReasonInterrupted || permanent {
		t.Errorf("classified as %s, permanent %v: %v", reason, permanent, err)
	}
	nothingVisible(t, spec.DataDir)
}

// TestAFullDiskLeavesNothing needs a small file system of its own.
func TestAFullDiskLeavesNothing(t *testing.T) {
	dir, _ := modelDir(t, 1)
	root := t.TempDir()
	if err := syscall.Mount("t2-test", root, "tmpfs", 0, "size=16k"); err != nil {
		t.Skipf("mounting a small file system needs privileges: %v", err)
	}
	defer func() {
		if err := syscall.Unmount(root, 0); err != nil {
			t.Error(err)
		}
	}()
	_, err := source.FetchModel(t.Context(), contract.FetchSpec{Source: contract.Source{Path: dir}, DataDir: root}, source.Options{})
	if reason, permanent := failure.Of(err); reason != contract.ReasonDiskFull || permanent {
		t.Errorf("classified as %s, permanent %v: %v", reason, permanent, err)
	}
	nothingVisible(t, root)
}
